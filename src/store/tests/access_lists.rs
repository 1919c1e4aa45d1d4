//! Access lists of mailboxes: durable, kept by RENAME, copied by CREATE in the same entry, gone
//! with the mailbox; no change of one is lost, and the flags that a copy may not have are left out.

use super::*;
use crate::model::{AccessList, FlagMask, Rights, Subject};

const INBOX: MailboxId = MailboxId::INBOX;

fn subject(text: &str) -> Subject {
    Subject::parse(text).unwrap()
}

fn rights(text: &str) -> Rights {
    Rights::parse(text.as_bytes()).unwrap()
}

async fn set(account: &Account, mailbox: MailboxId, entry: (&str, &str)) {
    let change = |list: &mut AccessList| Ok(list.set(subject(entry.0), rights(entry.1))?);
    account.change_access_list(mailbox, change).await.unwrap();
}

/// The list of the mailbox of this name, e.g. `bob lr, anyone l`.
fn list(account: &Account, name: &str) -> Option<String> {
    let mailbox = account.mailbox_by_name(name).expect(name).id;
    account.with_access_list(mailbox, |octets| {
        let list = AccessList::decode(octets?).unwrap();
        let entries = list.entries().map(|(subject, rights)| format!("{subject} {rights}"));
        Some(entries.collect::<Vec<_>>().join(", "))
    })
}

#[test]
fn lists_last_and_follow_their_mailbox() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let a = account.create_mailbox("A", None).await.unwrap();
        assert_eq!(list(&account, "A"), None);
        set(&account, a, ("bob", "lr")).await;
        set(&account, a, ("-$staff", "r")).await;
        let entries = partition.probe().entries;
        account.create_mailbox("A/b/c", None).await.unwrap();
        assert_eq!(partition.probe().entries, entries + 1, "one entry for all of it");
        account.create_mailbox("Other", None).await.unwrap();
        // The copy is a copy.
        set(&account, a, ("bob", "l")).await;
        account.rename_mailbox("A/b", "Other/new/b").await.unwrap();
        account.create_mailbox("A/late", None).await.unwrap();
        // A level created by RENAME is created like any other.
        account.rename_mailbox("A/late", "A/level/late").await.unwrap();

        let check = |account: &Account| {
            let copied = Some("bob lr, -$staff r".to_owned());
            let later = Some("bob l, -$staff r".to_owned());
            for (name, expected) in [
                ("A", &later),
                ("Other", &None),
                ("Other/new", &None),
                ("Other/new/b", &copied),
                ("Other/new/b/c", &copied),
                ("A/level", &later),
                ("A/level/late", &later),
                ("INBOX", &None),
            ] {
                assert_eq!(list(account, name), *expected, "{name}");
            }
        };
        check(&account);
        // By replay, by a page, and by a page without a replay.
        check(&world.open().await.account(ALICE).await.unwrap());
        partition.checkpoint().await.unwrap();
        check(&world.open().await.account(ALICE).await.unwrap());
        drop(account);
        partition.close().await.unwrap();
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        check(&account);

        // With its last entry the list is gone, and with its mailbox.
        set(&account, a, ("bob", "")).await;
        set(&account, a, ("-$staff", "")).await;
        assert_eq!(list(&account, "A"), None);
        let b = account.mailbox_by_name("Other/new/b").unwrap().id;
        account.delete_mailbox("Other/new/b").await.unwrap();
        account.with_access_list(b, |octets| assert_eq!(octets, None));
        account.create_mailbox("Other/new/b", None).await.unwrap();
        assert_eq!(list(&account, "Other/new/b"), None, "a name used again inherits nothing");
        let gone = account.change_access_list(b, |_| Ok(())).await;
        assert!(matches!(gone, Err(StoreError::NoSuchMailbox)), "{gone:?}");
    });
}

#[test]
fn the_new_mailbox_of_a_renamed_inbox_is_created_like_any_other() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let top = account.create_mailbox("top", None).await.unwrap();
        set(&account, INBOX, ("bob", "lr")).await;
        set(&account, top, ("carol", "l")).await;
        account.rename_mailbox("INBOX", "top/old").await.unwrap();
        account.rename_mailbox("INBOX", "old").await.unwrap();
        assert_eq!(list(&account, "INBOX").as_deref(), Some("bob lr"));
        assert_eq!(list(&account, "top/old").as_deref(), Some("carol l"));
        assert_eq!(list(&account, "old"), None);
    });
}

/// Each change is made on what the changes before it result in, durable or not; a mailbox created
/// meanwhile gets that, too.
#[test]
fn changes_at_once_are_all_made() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let top = account.create_mailbox("top", None).await.unwrap();
        let mut changes: Vec<_> =
            ["bob", "carol", "dave"].map(|name| Box::pin(set(&account, top, (name, "l")))).into();
        for change in &mut changes {
            std::future::poll_fn(|context| {
                assert!(change.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        assert_eq!(list(&account, "top"), None, "it is not durable yet");
        account.create_mailbox("top/sub", None).await.unwrap();
        for change in changes {
            change.await;
        }
        for name in ["top", "top/sub"] {
            assert_eq!(list(&account, name).as_deref(), Some("bob l, carol l, dave l"), "{name}");
        }
    });
}

#[test]
fn what_is_refused_changes_nothing() {
    run(async |world: Rc<World>| {
        let properties = PropertyLimits { number: 2, octets: 100 };
        let partition = world.open_with(StoreOptions { properties, ..options() }).await;
        let account = partition.account(ALICE).await.unwrap();
        let top = account.create_mailbox("top", None).await.unwrap();
        set(&account, top, ("bob", "lr")).await;
        let refused = account
            .change_access_list(top, |list| {
                list.set(subject("carol"), Rights::ALL)?;
                Err(StoreError::NotPermitted("no"))
            })
            .await;
        assert!(matches!(refused, Err(StoreError::NotPermitted("no"))), "{refused:?}");
        assert_eq!(list(&account, "top").as_deref(), Some("bob lr"));
        // There is room for one more list, not for two.
        let refused = account.create_mailbox("top/a/b", None).await;
        assert!(matches!(refused, Err(StoreError::Limit("properties per account"))), "{refused:?}");
        assert_eq!(account.mailbox_by_name("top/a"), None);
        account.create_mailbox("top/a", None).await.unwrap();
        let many = |list: &mut AccessList| {
            for number in 0..1_000 {
                list.set(subject(&format!("user{number}")), Rights::ALL)?;
            }
            Ok(())
        };
        let refused = account.change_access_list(top, many).await;
        let what = "entries of an access list";
        assert!(matches!(refused, Err(StoreError::Limit(it)) if it == what), "{refused:?}");
    });
}

/// It may be of a later version, whose entries a change would drop.
#[test]
fn a_list_that_cannot_be_read_is_not_changed() {
    run(async |world: Rc<World>| {
        let account = world.open().await.account(ALICE).await.unwrap();
        let key: PropertyKey = (PropertyKind::Acl, INBOX, Vec::new());
        account.set_properties([(key.clone(), Some(vec![0xff, 1, 2]))]).await.unwrap();
        let refused = account.change_access_list(INBOX, |_| Ok(())).await;
        assert!(matches!(refused, Err(StoreError::NotPermitted(_))), "{refused:?}");
        assert_eq!(account.property(&key), Some(vec![0xff, 1, 2]));
    });
}

#[test]
fn copies_have_the_flags_that_they_may_have() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let uid = deliver(&partition, ALICE, b"x").await.uid;
        let account = partition.account(ALICE).await.unwrap();
        let all = !Flags::default();
        let change = FlagChange::replace(all, vec!["k".to_owned()]);
        account.store_flags(INBOX, &[uid], change, None).await.unwrap();
        let message =
            *account.select(INBOX, false).await.unwrap().current().unwrap().get(0).unwrap();
        let masks = [
            FlagMask::NONE,
            FlagMask { system: Flags::SEEN | Flags::DRAFT, keywords: false },
            FlagMask { system: Flags::DELETED, keywords: true },
            FlagMask::ALL,
        ];
        for (number, kept) in masks.into_iter().enumerate() {
            let target = account.create_mailbox(&format!("t{number}"), None).await.unwrap();
            account.copy_keeping(INBOX, &[message], target, kept).await.unwrap();
            let snapshot = account.select(target, false).await.unwrap().current().unwrap();
            let flags = snapshot.get(0).unwrap().flags;
            assert_eq!((flags.system, !flags.keywords.is_empty()), (kept.system, kept.keywords));
            assert_eq!(snapshot.keywords().is_empty(), !kept.keywords, "no keyword for nothing");
        }
        // The same for STORE: other flags stay.
        let within = FlagMask { system: Flags::SEEN, keywords: false };
        let change =
            FlagChange { within, ..FlagChange::replace(Flags::FLAGGED, vec!["new".into()]) };
        account.store_flags(INBOX, &[uid], change, None).await.unwrap();
        let snapshot = account.select(INBOX, false).await.unwrap().current().unwrap();
        assert_eq!(snapshot.get(0).unwrap().flags.system, all & !Flags::SEEN);
        assert_eq!(snapshot.keywords(), ["k"]);
        let target = account.mailbox_by_name("t0").unwrap().id;
        account.move_keeping(INBOX, &[message], target, FlagMask::NONE).await.unwrap();
        let snapshot = account.select(target, false).await.unwrap().current().unwrap();
        assert_eq!(snapshot.get(1).unwrap().flags.system, Flags::default());
    });
}
