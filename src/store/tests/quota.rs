//! Quotas: what was set for an account comes before the default and below the most that any may
//! have, at once on all shards and after a restart; and changes that are not yet durable count.

use super::*;
use crate::{
    model::QuotaLimits,
    store::{HoldingLimits, Quotas},
};

fn limits(octets: impl Into<Option<u64>>, messages: impl Into<Option<u64>>) -> QuotaLimits {
    QuotaLimits { octets: octets.into(), messages: messages.into() }
}

/// A world with as many partitions as its number needs.
fn with_quotas(world: &World, default: QuotaLimits) -> StoreOptions {
    let quotas = Quotas::new(1, Some(Box::new(move |_| default)));
    let partition = PartitionId(0);
    StoreOptions { partition, quotas: Arc::new(quotas), ..world.options.clone() }
}

async fn append(partition: &Partition, account: &Account, octets: usize) -> Result<(), StoreError> {
    let body = staged(partition, &bytes(1, octets)).await;
    let appended =
        account.append(MailboxId::INBOX, body, Flags::default(), &[], Timestamp(0)).await;
    appended.map(drop)
}

fn full(outcome: &Result<(), StoreError>) -> bool {
    matches!(outcome, Err(StoreError::OverQuota))
}

#[test]
fn what_was_set_holds_at_once_and_after_a_restart() {
    run(async |world: Rc<World>| {
        let holding = HoldingLimits { messages: 5, octets: 1 << 20 };
        let options = StoreOptions { holding, ..with_quotas(&world, limits(None, Some(1))) };
        let partition = world.open_with(options.clone()).await;
        let account = partition.account(ALICE).await.unwrap();
        append(&partition, &account, 10).await.unwrap();
        assert!(full(&append(&partition, &account, 10).await), "the default");
        partition.set_quota(ALICE, Some(limits(Some(25), None))).await.unwrap();
        assert_eq!(options.quotas.own(ALICE), Some(limits(Some(25), None)));
        append(&partition, &account, 10).await.unwrap();
        assert!(full(&append(&partition, &account, 10).await), "octets");
        assert!(append(&partition, &account, 5).await.is_ok(), "exactly full");
        let bob = partition.account(BOB).await.unwrap();
        append(&partition, &bob, 100).await.unwrap();
        assert!(full(&append(&partition, &bob, 1).await), "others have the default");
        drop((account, bob));
        partition.close().await.unwrap();

        let options = StoreOptions { holding, ..with_quotas(&world, limits(None, Some(1))) };
        let partition = world.open_with(options.clone()).await;
        assert_eq!(options.quotas.own(ALICE), Some(limits(Some(25), None)));
        let account = partition.account(ALICE).await.unwrap();
        assert!(full(&append(&partition, &account, 1).await));
        assert_eq!(account.usage().percent(), 100);
        let index = partition.account(AccountId::SHARES).await.unwrap();
        assert_eq!(index.accounts_with_quota(), [(ALICE, limits(Some(25), None))]);
        // Nothing is above what any account may have.
        partition.set_quota(ALICE, Some(limits(None, Some(1000)))).await.unwrap();
        for more in 0..2 {
            assert!(append(&partition, &account, 1).await.is_ok(), "{more}");
        }
        assert!(full(&append(&partition, &account, 1).await), "the most that any may have");
        partition.set_quota(ALICE, None).await.unwrap();
        assert_eq!(options.quotas.own(ALICE), None);
        assert!(full(&append(&partition, &account, 1).await), "the default again");
    });
}

/// Of messages for the last place one is taken, though none of them is durable when the others are
/// decided on: by APPEND, by delivery and by COPY.
#[test]
fn of_two_at_once_one_is_refused() {
    run(async |world: Rc<World>| {
        let partition = world.open_with(with_quotas(&world, limits(None, Some(2)))).await;
        let account = partition.account(ALICE).await.unwrap();
        let both = futures_lite::future::zip(
            append(&partition, &account, 10),
            append(&partition, &account, 20),
        );
        let (one, other) = both.await;
        assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
        partition.set_quota(ALICE, Some(limits(None, Some(3)))).await.unwrap();
        let both = futures_lite::future::zip(
            append(&partition, &account, 10),
            append(&partition, &account, 20),
        );
        let (one, other) = both.await;
        assert!(one.is_ok() && full(&other), "{one:?} {other:?}");

        // A message and copies.
        partition.set_quota(ALICE, Some(limits(None, Some(6)))).await.unwrap();
        let now = snapshot(&account, MailboxId::INBOX).await;
        let messages: Vec<Message> = now.iter_from(0).copied().collect();
        let target = account.create_mailbox("Copies", None).await.unwrap();
        let copy = async { account.copy(MailboxId::INBOX, &messages, target).await.map(drop) };
        let (one, other) = futures_lite::future::zip(append(&partition, &account, 10), copy).await;
        assert!(one.is_ok() && full(&other), "{one:?} {other:?}");

        // What a MOVE within the account adds, it takes away: a message still fits beside it.
        let moved =
            async { account.move_messages(MailboxId::INBOX, &messages, target).await.map(drop) };
        let both = futures_lite::future::zip(moved, append(&partition, &account, 10));
        let (moved, one) = both.await;
        assert!(moved.is_ok() && one.is_ok(), "{moved:?} {one:?}");
        let usage = account.usage();
        assert_eq!((usage.messages, usage.limits.messages), (5, 6));
    });
}

/// The octets that an EXPUNGE frees, of the messages that it would remove.
#[test]
fn deleted_octets_are_counted() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let (inbox, deleted) = (MailboxId::INBOX, FlagChange::add(Flags::DELETED, Vec::new()));
        for octets in [10, 20, 40] {
            append(&partition, &account, octets).await.unwrap();
        }
        assert_eq!(account.deleted_octets(inbox).await.unwrap(), 0);
        account.store_flags(inbox, &[Uid(1), Uid(3)], deleted, None).await.unwrap();
        assert_eq!(account.deleted_octets(inbox).await.unwrap(), 50);
        account.expunge(inbox, None).await.unwrap();
        assert_eq!(account.deleted_octets(inbox).await.unwrap(), 0);
        assert_eq!(account.usage().octets, 20);
    });
}
