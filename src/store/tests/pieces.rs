//! A checkpoint writes changes in pieces, and other tasks run between two pieces. Whatever they do,
//! and wherever the checkpoint is given up, the message table is correct: in memory, read again and
//! after a start.

use std::{cell::Cell, collections::BTreeMap};

use futures_lite::future::poll_once;

use super::*;

const INBOX: MailboxId = MailboxId::INBOX;

fn small() -> StoreOptions {
    let tombstones = TombstoneLimits { at_least: 3, at_most: 6 };
    StoreOptions { tombstones, run_records_max: 4, run_garbage_min: 2, ..options() }
}

/// UIDs, flags and mod-sequences of the messages, and the UIDs expunged above the floor.
type Table = (BTreeMap<u32, (Flags, ModSeq)>, ModSeq, Vec<u32>);

async fn table(account: &Account) -> Table {
    let snapshot = snapshot(account, INBOX).await;
    let message = |it: &Message| (it.uid.0, (it.flags.system, it.mod_seq));
    let messages = snapshot.iter_from(0).map(message).collect();
    let Expunged { floor, uids } = account.expunged_since(INBOX, ModSeq(0)).await.unwrap();
    (messages, floor, uids.into_iter().map(|uid| uid.0).collect())
}

async fn flag(account: &Account, uid: u32, flags: Flags) {
    let change = FlagChange::add(flags, Vec::new());
    account.store_flags(INBOX, &[Uid(uid)], change, None).await.unwrap();
}

/// Deliveries, then `polls` pieces of a checkpoint with a change after each, the table `loaded` or
/// not; then the checkpoint is given up or completed.
fn check(polls: usize, loaded: bool, give_up: bool) {
    run(async |world: Rc<World>| {
        let partition = world.open_with(small()).await;
        for n in 0..7 {
            deliver(&partition, ALICE, &[n; 20]).await;
        }
        partition.checkpoint().await.unwrap();
        let account = partition.account(ALICE).await.unwrap();
        flag(&account, 2, Flags::FLAGGED).await;
        account.remove(INBOX, &[Uid(5)]).await.unwrap();
        partition.checkpoint().await.unwrap();
        drop(account);
        partition.close().await.unwrap();

        // Messages delivered while the table is not in memory are only in the delta.
        let partition = world.open_with(small()).await;
        for n in 0..15 {
            deliver(&partition, ALICE, &[n; 20]).await;
        }
        let account = partition.account(ALICE).await.unwrap();
        if loaded {
            table(&account).await;
            flag(&account, 3, Flags::SEEN).await;
            flag(&account, 9, Flags::SEEN).await;
            account.remove(INBOX, &[Uid(10), Uid(4)]).await.unwrap();
        }
        let mut checkpoint = Box::pin(partition.checkpoint());
        let mut ended = false;
        for poll in 0..polls as u32 {
            if let Some(outcome) = poll_once(&mut checkpoint).await {
                outcome.unwrap();
                ended = true;
                break;
            }
            match poll % 4 {
                0 => drop(deliver(&partition, ALICE, &[1; 20]).await),
                1 if loaded => flag(&account, 8 + poll, Flags::ANSWERED).await,
                2 if loaded => drop(account.remove(INBOX, &[Uid(11 + poll)]).await.unwrap()),
                // Loads the table during the checkpoint, if it is not loaded yet.
                3 => drop(table(&account).await),
                _ => {}
            }
        }
        if !ended && !give_up {
            checkpoint.await.unwrap();
        } else {
            drop(checkpoint);
        }
        let before = table(&account).await;
        let changes: usize = {
            let state = account.cell.state.borrow();
            state.mailboxes[&INBOX].changes().skip(1).count()
        };
        assert_eq!(changes, 0, "nothing stays captured");
        partition.checkpoint().await.unwrap();
        assert_eq!(table(&account).await, before);
        drop(account);
        partition.close().await.unwrap();
        let (device, executor) = (world.device.clone(), world.simulation.clone());
        let opened = Partition::open(Rc::new(device), Rc::new(executor), small()).await;
        let (partition, report) = opened.unwrap();
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        assert_eq!(table(&partition.account(ALICE).await.unwrap()).await, before);
    });
}

#[test]
fn changes_between_the_pieces_of_a_checkpoint() {
    for polls in 0..40 {
        for (loaded, give_up) in [(false, false), (false, true), (true, false), (true, true)] {
            check(polls, loaded, give_up);
        }
    }
}

/// A large account does not block its shard: other tasks get turns in proportion to the bytes
/// written.
#[test]
fn others_run_between_the_pieces() {
    run(async |world: Rc<World>| {
        let partition = world.open_with(small()).await;
        let mut turns = Vec::new();
        for count in [1, 200] {
            for n in 0..count {
                deliver(&partition, ALICE, &[n; 20]).await;
            }
            let mut checkpoint = Box::pin(partition.checkpoint());
            let mut waited = 0;
            while poll_once(&mut checkpoint).await.is_none() {
                waited += 1;
                world.simulation.yield_now().await;
            }
            turns.push(waited);
        }
        // One turn for each two records encoded, and one for each run of four records.
        assert!(turns[1] - turns[0] >= 140, "{turns:?}");
    });
}

/// A commit that comes during a checkpoint of many accounts waits behind little of it.
#[test]
fn commits_wait_behind_little_of_a_checkpoint() {
    run(async |world: Rc<World>| {
        let options = StoreOptions { segment_size: 64 << 20, write_buffer: 16 << 20, ..options() };
        let partition = world.open_with(options).await;
        let body = staged(&partition, b"x").await;
        let targets = (1..=10_000).map(|id| target(AccountId(id))).collect();
        partition.deliver(body, targets, None).await.unwrap();
        let log = partition.account(ALICE).await.unwrap().commits.log.clone();
        let from = log.next_lsn();
        let (appends, syncs) = world.device.operations();
        world.device.set_clock(Rc::new(world.simulation.clone()));
        let next = (appends + syncs)..(appends + syncs + 1000);
        let slow = next.map(|number| (number, Duration::from_millis(1))).collect();
        world.device.inject(Faults { slow, ..Faults::default() });
        let ended: Rc<Cell<bool>> = Rc::default();
        let (copy, told) = (partition.clone(), ended.clone());
        let checkpoint = async move { told.set(copy.checkpoint().await.is_ok()) };
        world.simulation.spawn(Priority::Background, Box::pin(checkpoint));
        let mut most = 0;
        while !ended.get() {
            world.simulation.sleep(Duration::from_micros(100)).await;
            most = most.max(log.next_lsn().0 - log.durable_lsn().0);
        }
        let all = log.next_lsn().0 - from.0;
        assert!(all > 2 << 20 && most < 512 << 10, "{most} of {all} octets");
    });
}

/// The log fails when a checkpoint is about to wait for the disk. After the log was reopened, the
/// next one must not wait for the entries that were lost.
#[test]
fn a_checkpoint_after_a_failure_begins_anew() {
    /// Polls a checkpoint, at most `most` times: until it appends nothing more without the disk.
    /// Returns at which poll it last did.
    async fn begin(world: &World, partition: &Partition, most: usize) -> usize {
        let body = staged(partition, b"x").await;
        let targets = (1..=3_000).map(|id| target(AccountId(id))).collect();
        partition.deliver(body, targets, None).await.unwrap();
        let log = partition.rooms.log.clone();
        let mut checkpoint = Box::pin(partition.checkpoint());
        let (mut reached, mut last) = (log.next_lsn(), 0);
        for poll in 1..=most {
            assert!(poll_once(&mut checkpoint).await.is_none());
            if log.next_lsn() > reached {
                (reached, last) = (log.next_lsn(), poll);
            }
            if poll > last + 50 {
                break;
            }
        }
        let (appends, _) = world.device.operations();
        world.device.inject(Faults { failed_appends: vec![appends], ..Faults::default() });
        last
    }

    let options = || StoreOptions { segment_size: 64 << 20, write_buffer: 16 << 20, ..options() };
    let mut polls = usize::MAX;
    for _ in 0..2 {
        run(async |world: Rc<World>| {
            let partition = world.open_with(options()).await;
            polls = begin(&world, &partition, polls).await;
            let body = staged(&partition, b"lost").await;
            assert!(partition.deliver(body, vec![target(ALICE)], None).await.is_err());
            while partition.trouble().is_some() {
                world.simulation.sleep(Duration::from_secs(1)).await;
            }
            partition.checkpoint().await.unwrap();
        });
    }
    assert!(polls > 500, "{polls}");
}
