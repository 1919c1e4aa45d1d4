//! Properties of accounts and mailboxes: all or nothing, visible once durable, removed with their
//! mailbox.

use super::*;

fn key(kind: PropertyKind, mailbox: MailboxId, name: &str) -> PropertyKey {
    (kind, mailbox, name.as_bytes().to_vec())
}

fn value(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}

const ACCOUNT: MailboxId = MailboxId(0);
const INBOX: MailboxId = MailboxId::INBOX;

#[test]
fn several_properties_are_set_at_once_and_survive() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let folder = account.create_mailbox("folder", None).await.unwrap();
        let quota = key(PropertyKind::Quota, ACCOUNT, "STORAGE");
        let acl = key(PropertyKind::Acl, folder, "bob");
        let seen = key(PropertyKind::Seen, INBOX, "bob");
        let comment = key(PropertyKind::Metadata, INBOX, "/private/comment");
        let entries = partition.probe().entries;
        let changes = [
            (quota.clone(), value("1000")),
            (acl.clone(), value("lrs")),
            (seen.clone(), value("1:4")),
            (comment.clone(), value("")),
        ];
        account.set_properties(changes.clone()).await.unwrap();
        assert_eq!(partition.probe().entries, entries + 1, "one entry for all");
        // An unchanged value writes nothing.
        account.set_properties(changes).await.unwrap();
        let absent = key(PropertyKind::Acl, INBOX, "nobody");
        account.set_properties([(absent, None)]).await.unwrap();
        assert_eq!(partition.probe().entries, entries + 1);
        account
            .set_properties([(comment.clone(), None), (seen.clone(), value("1:5"))])
            .await
            .unwrap();

        let check = |account: &Account| {
            assert_eq!(account.property(&quota), value("1000"));
            assert_eq!(account.property(&acl), value("lrs"));
            assert_eq!(account.property(&comment), None);
            assert_eq!(account.properties(PropertyKind::Metadata, INBOX), []);
            let seen = (b"bob".to_vec(), b"1:5".to_vec());
            assert_eq!(account.properties(PropertyKind::Seen, INBOX), [seen]);
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
        account.delete_mailbox("folder").await.unwrap();
        assert_eq!((account.property(&acl), account.property(&quota)), (None, value("1000")));
        partition.close().await.unwrap();
        let account = world.open().await.account(ALICE).await.unwrap();
        assert_eq!((account.property(&acl), account.property(&quota)), (None, value("1000")));
    });
}

#[test]
fn a_property_is_seen_when_it_is_durable_and_decides_at_once() {
    run(async |world: Rc<World>| {
        let properties = PropertyLimits { number: 2, octets: 20 };
        let partition = world.open_with(StoreOptions { properties, ..options() }).await;
        let account = partition.account(ALICE).await.unwrap();
        let folder = account.create_mailbox("folder", None).await.unwrap();
        let keys = ["a", "b", "c"].map(|name| key(PropertyKind::Metadata, folder, name));
        let set = |at: usize, value| account.set_properties([(keys[at].clone(), value)]);
        let mut first = Box::pin(set(0, value("1")));
        std::future::poll_fn(|context| {
            assert!(first.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        assert_eq!(account.property(&keys[0]), None, "it is not durable yet");
        // But it counts: with two more there would be three.
        let both = [(keys[1].clone(), value("2")), (keys[2].clone(), value("3"))];
        let refused = account.set_properties(both).await;
        assert!(matches!(refused, Err(StoreError::Limit("properties per account"))), "{refused:?}");
        first.await.unwrap();
        assert_eq!(account.properties(PropertyKind::Metadata, folder).len(), 1, "all or nothing");
        let refused = set(1, Some(vec![b'x'; 18])).await;
        let octets = "octets of properties per account";
        assert!(matches!(refused, Err(StoreError::Limit(what)) if what == octets), "{refused:?}");
        set(1, Some(vec![b'x'; 17])).await.unwrap();
        // One is removed and another is added.
        let swap = [(keys[0].clone(), None), (keys[2].clone(), value("3"))];
        account.set_properties(swap).await.unwrap();

        let mut deletion = Box::pin(account.delete_mailbox("folder"));
        std::future::poll_fn(|context| {
            assert!(deletion.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        assert_eq!(account.property(&keys[2]), value("3"), "the deletion is not durable yet");
        let refused = set(0, value("4")).await;
        assert!(matches!(refused, Err(StoreError::NoSuchMailbox)), "{refused:?}");
        // In pending state there is room again.
        let others = ["x", "y"].map(|name| (key(PropertyKind::Acl, INBOX, name), value("l")));
        account.set_properties(others).await.unwrap();
        deletion.await.unwrap();
        assert_eq!(account.property(&keys[2]), None);
        assert_eq!(account.properties(PropertyKind::Acl, INBOX).len(), 2);
    });
}

/// RFC 7162 3.2: an annotation is a change of its mailbox, and of none of its messages.
#[test]
fn annotations_raise_the_mod_sequence_of_their_mailbox() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        deliver(&partition, ALICE, b"1").await;
        let told = async |account: &Account| {
            let snapshot = snapshot(account, INBOX).await;
            (snapshot.status().told_mod_seq(), snapshot.get(0).unwrap().mod_seq)
        };
        let (before, message) = told(&account).await;
        let set = async |of, text: &str| {
            let change = [("/private/comment".to_owned(), value(text))];
            account.set_annotations(of, &change).await.unwrap();
        };
        set(Annotated::Mailbox(INBOX), "x").await;
        let (after, unchanged) = told(&account).await;
        assert!(before < after && unchanged == message, "{before} {after} {unchanged}");
        set(Annotated::Mailbox(INBOX), "x").await;
        set(Annotated::Server, "x").await;
        assert_eq!(told(&account).await, (after, message));
        // By replay and by a page.
        assert_eq!(told(&world.open().await.account(ALICE).await.unwrap()).await, (after, message));
        partition.checkpoint().await.unwrap();
        assert_eq!(told(&world.open().await.account(ALICE).await.unwrap()).await, (after, message));
    });
}
