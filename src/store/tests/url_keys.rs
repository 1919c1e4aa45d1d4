//! Keys that URLs are signed with: in the account of who signs, for mailboxes of his own and of
//! others.

use super::*;

const FIRST: UrlKey = [1; 32];
const SECOND: UrlKey = [2; 32];

#[test]
fn keys_last_until_they_are_replaced() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let a = account.create_mailbox("A", None).await.unwrap();
        let (own, inbox) = ((ALICE, a), (ALICE, MailboxId::INBOX));
        let bobs = (BOB, MailboxId::INBOX);
        assert_eq!(account.url_key(own), None);
        for of in [own, inbox, bobs] {
            assert_eq!(account.url_key_or(of, FIRST).await.unwrap(), FIRST);
            assert_eq!(account.url_key_or(of, SECOND).await.unwrap(), FIRST);
        }
        account.replace_url_key(inbox, SECOND).await.unwrap();
        account.rename_mailbox("A", "B").await.unwrap();
        let check = async |partition: &Partition| {
            let account = partition.account(ALICE).await.unwrap();
            let keys = [own, inbox, bobs].map(|of| account.url_key(of));
            assert_eq!(keys, [Some(FIRST), Some(SECOND), Some(FIRST)]);
            let bob = partition.account(BOB).await.unwrap();
            assert_eq!(bob.url_key(bobs), None);
        };
        check(&partition).await;
        check(&world.open().await).await;
        partition.checkpoint().await.unwrap();
        check(&world.open().await).await;
    });
}

/// A mailbox that is created anew is another one, and so is that of another account.
#[test]
fn keys_go_with_their_mailbox() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let first = account.create_mailbox("A", None).await.unwrap();
        account.url_key_or((ALICE, first), FIRST).await.unwrap();
        account.url_key_or((BOB, first), SECOND).await.unwrap();
        account.delete_mailbox("A").await.unwrap();
        let second = account.create_mailbox("A", None).await.unwrap();
        for (of, expected) in [
            ((ALICE, first), None),
            ((ALICE, second), None),
            ((BOB, first), Some(SECOND)),
            ((BOB, second), None),
        ] {
            assert_eq!(account.url_key(of), expected, "{of:?}");
        }
        let gone = account.url_key_or((ALICE, first), FIRST).await;
        assert!(matches!(gone, Err(StoreError::NoSuchMailbox)), "{gone:?}");
    });
}

#[test]
fn all_keys_are_removed_at_once() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        account.set_seen_is_personal(MailboxId::INBOX, true).await.unwrap();
        for of in [(ALICE, MailboxId::INBOX), (BOB, MailboxId(7))] {
            account.url_key_or(of, FIRST).await.unwrap();
        }
        account.remove_url_keys().await.unwrap();
        account.remove_url_keys().await.unwrap();
        let account = world.open().await.account(ALICE).await.unwrap();
        assert_eq!(account.url_key((ALICE, MailboxId::INBOX)), None);
        assert_eq!(account.url_key((BOB, MailboxId(7))), None);
        assert!(account.seen_is_personal(MailboxId::INBOX));
    });
}

#[test]
fn there_are_only_so_many() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        for number in 1..=1_000 {
            account.url_key_or((BOB, MailboxId(number)), FIRST).await.unwrap();
        }
        let more = account.url_key_or((BOB, MailboxId(1_001)), FIRST).await;
        assert!(matches!(more, Err(StoreError::Limit(_))), "{more:?}");
        account.replace_url_key((BOB, MailboxId(1)), SECOND).await.unwrap();
        assert_eq!(account.url_key((BOB, MailboxId(1))), Some(SECOND));
    });
}

/// RESETKEY is answered once it is durable, and so is an URL.
#[test]
fn a_failing_disk_sets_no_key() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let inbox = (ALICE, MailboxId::INBOX);
        account.url_key_or(inbox, FIRST).await.unwrap();
        let (_, syncs) = world.device.operations();
        world.device.inject(Faults { failed_syncs: vec![syncs], ..Faults::default() });
        assert!(account.replace_url_key(inbox, SECOND).await.is_err());
        while partition.trouble().is_some() {
            world.simulation.sleep(Duration::from_secs(1)).await;
        }
        let account = partition.account(ALICE).await.unwrap();
        assert_eq!(account.url_key(inbox), Some(FIRST));
        let account = world.open().await.account(ALICE).await.unwrap();
        assert_eq!(account.url_key(inbox), Some(FIRST));
    });
}
