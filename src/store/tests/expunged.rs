//! Expunges since a mod-sequence: exact above the floor, whatever was written, merged and read
//! again in between.

use super::*;

const INBOX: MailboxId = MailboxId::INBOX;

async fn since(account: &Account, mod_seq: ModSeq) -> (ModSeq, Vec<u32>) {
    let Expunged { floor, uids } = account.expunged_since(INBOX, mod_seq).await.unwrap();
    (floor, uids.into_iter().map(|uid| uid.0).collect())
}

async fn highest(account: &Account) -> ModSeq {
    account.status(INBOX).await.unwrap().highest_mod_seq
}

#[test]
fn tombstones_outlive_checkpoints_and_starts() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        for n in 0..10 {
            deliver(&partition, ALICE, &[n; 20]).await;
        }
        let start = highest(&account).await;
        account.remove(INBOX, &[Uid(3), Uid(4)]).await.unwrap();
        // These were never in any run.
        let middle = highest(&account).await;
        partition.checkpoint().await.unwrap();
        account.remove(INBOX, &[Uid(1), Uid(9)]).await.unwrap();
        partition.checkpoint().await.unwrap();
        let late = highest(&account).await;
        account.remove(INBOX, &[Uid(2)]).await.unwrap();
        let check = async |account: &Account| {
            assert_eq!(since(account, ModSeq(0)).await, (ModSeq(0), vec![1, 2, 3, 4, 9]));
            assert_eq!(since(account, start).await.1, [1, 2, 3, 4, 9]);
            assert_eq!(since(account, middle).await.1, [1, 2, 9]);
            assert_eq!(since(account, late).await.1, [2]);
            assert_eq!(since(account, highest(account).await).await.1, [0u32; 0]);
        };
        check(&account).await;
        check(&world.open().await.account(ALICE).await.unwrap()).await;
        drop(account);
        partition.close().await.unwrap();
        let partition = world.open().await;
        check(&partition.account(ALICE).await.unwrap()).await;
        let account = partition.account(ALICE).await.unwrap();
        let missing = account.expunged_since(MailboxId(99), ModSeq(0)).await;
        assert!(matches!(missing, Err(StoreError::NoSuchMailbox)), "{missing:?}");
    });
}

#[test]
fn the_oldest_go_and_the_floor_rises_with_them() {
    run(async |world: Rc<World>| {
        let tombstones = TombstoneLimits { at_least: 3, at_most: 5 };
        let options =
            StoreOptions { tombstones, run_records_max: 4, run_garbage_min: 2, ..options() };
        let mut partition = world.open_with(options.clone()).await;
        for n in 0..12 {
            deliver(&partition, ALICE, &[n; 20]).await;
        }
        let mut floors = vec![(Vec::new(), ModSeq(0))];
        let mut gone = Vec::new();
        for uid in 1..=11 {
            let account = partition.account(ALICE).await.unwrap();
            account.remove(INBOX, &[Uid(uid)]).await.unwrap();
            gone.push((uid, highest(&account).await));
            // As many as there are messages left, within the limits.
            let most = (12 - uid as usize).clamp(3, 5).min(gone.len());
            let kept = &gone[gone.len() - most..];
            let (floor, uids) = since(&account, ModSeq(0)).await;
            assert_eq!(uids, kept.iter().map(|(uid, _)| *uid).collect::<Vec<_>>());
            let before = gone.len().checked_sub(most + 1);
            assert_eq!(floor, before.map_or(ModSeq(0), |at| gone[at].1), "after UID {uid}");
            floors.push((uids, floor));
            drop(account);
            match uid % 3 {
                0 => partition.checkpoint().await.unwrap(),
                1 => {
                    partition.close().await.unwrap();
                    partition = world.open_with(options.clone()).await;
                }
                _ => {}
            }
            let account = partition.account(ALICE).await.unwrap();
            let (uids, floor) = floors.last().unwrap();
            assert_eq!(since(&account, ModSeq(0)).await, (*floor, uids.clone()));
        }
        let account = partition.account(ALICE).await.unwrap();
        account.create_mailbox("other", None).await.unwrap();
        partition.checkpoint().await.unwrap();
        let state = account.cell.state.borrow();
        let records: u32 = state.mailboxes[&INBOX].runs.iter().map(|run| run.records).sum();
        assert!(records <= 2 * (1 + 3) + 2, "{records} records for a message and three tombstones");
    });
}

/// A command that expunges more messages at once than are kept leaves none of them.
#[test]
fn what_went_together_is_forgotten_together() {
    run(async |world: Rc<World>| {
        let tombstones = TombstoneLimits { at_least: 3, at_most: 3 };
        let partition = world.open_with(StoreOptions { tombstones, ..options() }).await;
        for n in 0..6 {
            deliver(&partition, ALICE, &[n; 20]).await;
        }
        let account = partition.account(ALICE).await.unwrap();
        account.remove(INBOX, &[Uid(1), Uid(2), Uid(3), Uid(4)]).await.unwrap();
        assert_eq!(since(&account, ModSeq(0)).await, (highest(&account).await, vec![]));
        account.remove(INBOX, &[Uid(5)]).await.unwrap();
        assert_eq!(since(&account, ModSeq(0)).await.1, [5]);
    });
}
