//! `\Seen` of each user's own: whether a mailbox has it so, and what a user has seen of mailboxes
//! of others, in his own account.

use super::*;
use crate::model::{SEEN_OCTETS_MAX, SeenSet, UidValidity};

const INBOX: MailboxId = MailboxId::INBOX;

fn uids(uids: &[u32]) -> Vec<Uid> {
    uids.iter().copied().map(Uid).collect()
}

/// The set of a mailbox, e.g. `1:3 7:7`.
fn seen(account: &Account, of: &SeenIn) -> String {
    let ranges = account.with_seen(of, |octets| of.decode(octets));
    let ranges = ranges.ranges().map(|(first, last)| format!("{first}:{last}"));
    ranges.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_mailbox_says_whether_seen_is_personal() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let public = partition.account(AccountId::PUBLIC).await.unwrap();
        let a = account.create_mailbox("A", None).await.unwrap();
        let news = public.create_mailbox("News", None).await.unwrap();
        let shared = public.create_mailbox("Shared", None).await.unwrap();
        assert!(!account.seen_is_personal(a) && public.seen_is_personal(news));
        account.set_seen_is_personal(a, true).await.unwrap();
        public.set_seen_is_personal(shared, false).await.unwrap();
        let entries = partition.probe().entries;
        account.create_mailbox("A/b/c", None).await.unwrap();
        assert_eq!(partition.probe().entries, entries + 1, "one entry for all of it");
        public.create_mailbox("Shared/below", None).await.unwrap();
        account.rename_mailbox("A", "B").await.unwrap();
        let check = async |partition: &Partition| {
            let account = partition.account(ALICE).await.unwrap();
            let public = partition.account(AccountId::PUBLIC).await.unwrap();
            for (account, name, expected) in [
                (&account, "B", true),
                (&account, "B/b", true),
                (&account, "B/b/c", true),
                (&account, "INBOX", false),
                (&public, "News", true),
                (&public, "Shared", false),
                (&public, "Shared/below", false),
            ] {
                let mailbox = account.mailbox_by_name(name).expect(name).id;
                assert_eq!(account.seen_is_personal(mailbox), expected, "{name}");
            }
        };
        check(&partition).await;
        check(&world.open().await).await;
        partition.checkpoint().await.unwrap();
        check(&world.open().await).await;
        let missing = account.set_seen_is_personal(MailboxId(99), true).await;
        assert!(matches!(missing, Err(StoreError::NoSuchMailbox)), "{missing:?}");
    });
}

#[test]
fn what_a_user_has_seen_lasts() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let of = SeenIn { owner: BOB, mailbox: INBOX, uid_validity: UidValidity(5) };
        let other = SeenIn { mailbox: MailboxId(2), ..of };
        account.change_seen(&of, |set| set.add(&uids(&[1, 2, 3, 7]))).await.unwrap();
        account.change_seen(&of, |set| set.remove(&uids(&[2]))).await.unwrap();
        account.change_seen(&other, |set| set.add(&uids(&[9]))).await.unwrap();
        // Changes at the same time are made one on the other.
        let adding = |uid: u32| {
            let account = account.clone();
            async move { account.change_seen(&of, |set| set.add(&uids(&[uid]))).await.unwrap() }
        };
        futures_lite::future::zip(adding(20), adding(30)).await;
        let entries = partition.probe().entries;
        adding(30).await;
        assert_eq!(partition.probe().entries, entries, "nothing to do");
        let check = |account: &Account| {
            assert_eq!(seen(account, &of), "1:1 3:3 7:7 20:20 30:30");
            assert_eq!(seen(account, &other), "9:9");
            assert_eq!(seen(account, &SeenIn { owner: AccountId(1), ..of }), "");
        };
        check(&account);
        check(&world.open().await.account(ALICE).await.unwrap());
        partition.checkpoint().await.unwrap();
        check(&world.open().await.account(ALICE).await.unwrap());

        // Another UIDVALIDITY is another mailbox, and its set replaces the old one.
        let again = SeenIn { uid_validity: UidValidity(6), ..of };
        assert_eq!(seen(&account, &again), "");
        account.change_seen(&again, |set| set.add(&uids(&[4]))).await.unwrap();
        assert_eq!((seen(&account, &again), seen(&account, &of)), ("4:4".into(), String::new()));
        account.change_seen(&again, |set| *set = SeenSet::default()).await.unwrap();
        account.with_seen(&again, |octets| assert_eq!(octets, None));
    });
}

#[test]
fn sets_are_bounded() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let of = SeenIn { owner: BOB, mailbox: INBOX, uid_validity: UidValidity(5) };
        let every_other: Vec<Uid> = (1..60_000).step_by(2).map(Uid).collect();
        account.change_seen(&of, |set| set.add(&every_other)).await.unwrap();
        let size = account.with_seen(&of, |octets| octets.map(<[u8]>::len)).unwrap();
        assert!((SEEN_OCTETS_MAX - 8..=SEEN_OCTETS_MAX).contains(&size), "{size}");
        // One of a later version is not overwritten.
        let key = account.properties(PropertyKind::Seen, MailboxId(0)).remove(0).0;
        let key = (PropertyKind::Seen, MailboxId(0), key);
        account.set_properties([(key.clone(), Some(vec![9, 9]))]).await.unwrap();
        assert_eq!(seen(&account, &of), "");
        let changed = account.change_seen(&of, |set| set.add(&uids(&[1]))).await;
        assert!(matches!(changed, Err(StoreError::NotPermitted(_))), "{changed:?}");
        assert_eq!(account.property(&key), Some(vec![9, 9]));
    });
}
