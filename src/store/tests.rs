//! The partition through its public handles, on the simulated device: what services rely on.

use std::{future::Future, rc::Rc, sync::Arc, time::Duration};

use super::*;
use crate::{
    model::{
        AccountId, FlagSet, Flags, Lsn, MailboxId, ModSeq, PartitionId, SpecialUse, Timestamp, Uid,
    },
    runtime::{
        device::memory::{Faults, MemoryDevice},
        executor::{Executor, Priority},
        simulation::Simulation,
    },
};

mod access_lists;
mod annotations;
mod bodies;
mod cards;
mod compaction;
mod copying;
mod damage;
mod expunged;
mod feed;
mod moves;
mod pieces;
mod properties;
mod queue;
mod quota;
mod seen;
mod shares;
mod url_keys;

const ALICE: AccountId = AccountId(11);
const BOB: AccountId = AccountId(12);

fn options() -> StoreOptions {
    StoreOptions {
        partition: PartitionId(3),
        segment_size: 256 * 1024,
        write_buffer: 1 << 20,
        // Tests reopen a device under an existing partition, which must leave files alone.
        garbage_share: 0,
        card_split: cards::thirds,
        ..StoreOptions::default()
    }
}

struct World {
    device: MemoryDevice,
    simulation: Simulation,
    options: StoreOptions,
}

impl World {
    fn new(seed: u64) -> World {
        let simulation = Simulation::new(seed);
        World { device: MemoryDevice::new(), simulation, options: options() }
    }

    async fn open(&self) -> Partition {
        self.open_with(self.options.clone()).await
    }

    async fn open_with(&self, options: StoreOptions) -> Partition {
        let device = Rc::new(self.device.clone());
        let executor = Rc::new(self.simulation.clone());
        Partition::open(device, executor, options).await.expect("opens").0
    }
}

/// Runs `test` in its own world.
fn run<F: Future<Output = ()>>(test: impl FnOnce(Rc<World>) -> F) {
    let world = Rc::new(World::new(1));
    let simulation = world.simulation.clone();
    simulation.run_until(test(world));
}

/// Bytes derived from `seed`.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(seed * 2 + 1) >> 3) as u8).collect()
}

async fn staged(partition: &Partition, body: &[u8]) -> StagedBody {
    let mut writer = partition.stage();
    for piece in body.chunks(10_000) {
        writer.write(piece).await.unwrap();
    }
    writer.finish(format!("summary of {}", body.len()).into_bytes()).await.unwrap()
}

fn target(account: AccountId) -> DeliveryTarget {
    DeliveryTarget {
        account,
        mailbox: None,
        flags: Flags::default(),
        keywords: Vec::new(),
        internal_date: Timestamp::from_unix_seconds(1_600_000_000),
        annotations: Vec::new(),
    }
}

async fn deliver(partition: &Partition, account: AccountId, body: &[u8]) -> Delivered {
    let body = staged(partition, body).await;
    partition.deliver(body, vec![target(account)], None).await.unwrap()[0]
}

async fn snapshot(account: &Account, mailbox: MailboxId) -> Snapshot {
    account.select(mailbox, false).await.unwrap().current().unwrap()
}

async fn uids(account: &Account, mailbox: MailboxId) -> Vec<u32> {
    snapshot(account, mailbox).await.iter_from(0).map(|message| message.uid.0).collect()
}

fn names(account: &Account) -> Vec<String> {
    account.mailboxes().into_iter().map(|mailbox| mailbox.name).collect()
}

async fn whole_body(account: &Account, message: &Message) -> Vec<u8> {
    account.read_body(&message.body, 0, usize::MAX).await.unwrap().to_vec()
}

#[test]
fn bodies_come_back_byte_for_byte() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let sizes = [0, 1, 4096, BODY_CHUNK, BODY_CHUNK + 1, 3 * BODY_CHUNK + 77];
        for (n, size) in sizes.iter().enumerate() {
            deliver(&partition, ALICE, &bytes(n as u64, *size)).await;
        }
        for reopened in [false, true] {
            let partition = if reopened {
                partition.close().await.unwrap();
                world.open().await
            } else {
                partition.clone()
            };
            let account = partition.account(ALICE).await.unwrap();
            let snapshot = snapshot(&account, MailboxId::INBOX).await;
            assert_eq!(snapshot.len(), sizes.len());
            for (n, message) in snapshot.iter_from(0).enumerate() {
                let expected = bytes(n as u64, sizes[n]);
                assert_eq!(message.body.size, sizes[n] as u64);
                assert_eq!(whole_body(&account, message).await, expected);
                let summary = account.read_summary(&message.body).await.unwrap();
                assert_eq!(summary, format!("summary of {}", sizes[n]).into_bytes());
                for (offset, len) in [(0, 10), (BODY_CHUNK - 5, 10), (sizes[n] / 2, 300_000)] {
                    let read = account.read_body(&message.body, offset as u64, len).await.unwrap();
                    let end = (offset + len).min(sizes[n]);
                    assert_eq!(read, expected.get(offset..end).unwrap_or_default());
                }
            }
        }
    });
}

#[test]
fn new_accounts_have_their_mailboxes() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        assert_eq!(names(&account), ["INBOX", "Drafts", "Junk", "Sent", "Trash"]);
        assert_eq!(account.subscriptions().len(), 5);
        let junk = account.mailbox_by_name("Junk").unwrap();
        assert_eq!(junk.special_use, Some(SpecialUse::Junk));
        let entries = partition.probe().entries;
        assert_eq!(entries, 1, "one entry makes an account");
        // A delivery creates one too, and returns the message's location.
        let mut to_junk = target(BOB);
        to_junk.mailbox = Some("Junk".to_owned());
        let mut to_nowhere = target(BOB);
        to_nowhere.mailbox = Some("Nowhere".to_owned());
        let body = staged(&partition, b"x").await;
        let delivered = partition.deliver(body, vec![to_junk, to_nowhere], None).await.unwrap();
        assert_eq!(delivered[0].mailbox, junk.id);
        assert_eq!(delivered[1].mailbox, MailboxId::INBOX);
    });
}

#[test]
fn deliveries_to_one_mailbox_share_syncs() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        partition.account(ALICE).await.unwrap();
        let before = partition.probe();
        let mut sessions = Vec::new();
        for n in 0..50 {
            let partition = partition.clone();
            sessions.push(async move { deliver(&partition, ALICE, &bytes(n, 500)).await });
        }
        let mut uids: Vec<u32> =
            join_all(&world.simulation, sessions).await.iter().map(|d| d.uid.0).collect();
        uids.sort_unstable();
        assert_eq!(uids, (1..=50).collect::<Vec<_>>());
        let syncs = partition.probe().syncs - before.syncs;
        assert!(syncs < 25, "{syncs} syncs for 50 deliveries");
    });
}

/// Runs all futures at once as separate tasks.
async fn join_all<T: 'static>(
    simulation: &Simulation,
    futures: Vec<impl Future<Output = T> + 'static>,
) -> Vec<T> {
    let results: Rc<std::cell::RefCell<Vec<T>>> = Rc::default();
    let count = futures.len();
    for future in futures {
        let results = results.clone();
        let task = async move {
            let result = future.await;
            results.borrow_mut().push(result);
        };
        simulation.spawn(Priority::Foreground, Box::pin(task));
    }
    while results.borrow().len() < count {
        simulation.sleep(Duration::from_micros(1)).await;
    }
    results.take()
}

#[test]
fn a_repeated_delivery_is_a_no_op() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let repeat = async |partition: &Partition| {
            let body = staged(partition, b"once").await;
            partition.deliver(body, vec![target(ALICE)], Some(77)).await.unwrap().len()
        };
        assert_eq!(repeat(&partition).await, 1);
        assert_eq!(repeat(&partition).await, 0);
        partition.close().await.unwrap();
        let partition = world.open().await;
        assert_eq!(repeat(&partition).await, 0);
        let account = partition.account(ALICE).await.unwrap();
        assert_eq!(uids(&account, MailboxId::INBOX).await, [1]);
    });
}

#[test]
fn flags_keywords_and_unchangedsince() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        for n in 0..4 {
            deliver(&partition, ALICE, &bytes(n, 10)).await;
        }
        let account = partition.account(ALICE).await.unwrap();
        let inbox = MailboxId::INBOX;
        let all = [Uid(1), Uid(2), Uid(3), Uid(4), Uid(99)];
        let add = FlagChange::add(Flags::SEEN, vec!["$Work".to_owned()]);
        let outcome = account.store_flags(inbox, &all[..2], add.clone(), None).await.unwrap();
        assert_eq!(outcome.updated.iter().map(|(uid, _)| uid.0).collect::<Vec<_>>(), [1, 2]);
        let since = Some(ModSeq(5));
        let outcome = account.store_flags(inbox, &all, add.clone(), since).await.unwrap();
        assert_eq!(outcome.modified, [Uid(1), Uid(2)]);
        assert_eq!(outcome.updated.len(), 2);
        // Repeating it changes nothing, so no mod-sequence advances.
        let before = account.status(inbox).await.unwrap();
        let again = account.store_flags(inbox, &all, add, None).await.unwrap();
        assert_eq!(again.updated.len(), 4);
        assert_eq!(account.status(inbox).await.unwrap(), before);
        assert_eq!(before.unseen, 0);

        let replace = FlagChange::replace(Flags::FLAGGED, vec!["$WORK".into(), "other".into()]);
        account.store_flags(inbox, &all[..1], replace, None).await.unwrap();
        let remove = FlagChange::remove(Flags::SEEN, vec!["$work".into(), "unknown".into()]);
        account.store_flags(inbox, &all[1..2], remove, None).await.unwrap();
        let snapshot = snapshot(&account, inbox).await;
        assert_eq!(snapshot.keywords(), ["$Work", "other"]);
        let flags: Vec<FlagSet> = snapshot.iter_from(0).map(|message| message.flags).collect();
        assert_eq!(flags[0].system, Flags::FLAGGED);
        assert_eq!(flags[0].keywords.iter().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(flags[1], FlagSet::default());
        assert_eq!(flags[2].keywords.iter().collect::<Vec<_>>(), [0]);
    });
}

#[test]
fn copy_move_and_expunge() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        for n in 0..5 {
            deliver(&partition, ALICE, &bytes(n, 3000)).await;
        }
        let account = partition.account(ALICE).await.unwrap();
        let inbox = MailboxId::INBOX;
        let sent = account.mailbox_by_name("Sent").unwrap().id;
        let add = FlagChange::add(Flags::DELETED, vec!["a".into(), "b".into()]);
        account.store_flags(inbox, &[Uid(2), Uid(3)], add, None).await.unwrap();
        let view = account.select(inbox, true).await.unwrap();
        let before = view.current().unwrap();
        let messages: Vec<Message> = before.iter_from(0).copied().collect();

        let copied = account.copy(inbox, &messages[1..3], sent).await.unwrap();
        assert_eq!(copied.uids, [(Uid(2), Uid(1)), (Uid(3), Uid(2))]);
        let copies = snapshot(&account, sent).await;
        assert_eq!(copies.keywords(), ["a", "b"]);
        assert_eq!(copies.get(0).unwrap().body, messages[1].body, "one body, two folders");
        assert_eq!(copies.get(0).unwrap().flags, before.get(1).unwrap().flags);

        assert_eq!(account.expunge(inbox, Some(&[Uid(1), Uid(3)])).await.unwrap(), [Uid(3)]);
        assert_eq!(account.expunge(inbox, None).await.unwrap(), [Uid(2)]);
        assert_eq!(account.expunge(inbox, None).await.unwrap(), []);
        assert_eq!(account.remove(inbox, &[Uid(5), Uid(3)]).await.unwrap(), [Uid(5)]);
        let moved = account.move_messages(inbox, &messages, sent).await.unwrap();
        assert_eq!(moved.uids, [(Uid(1), Uid(3)), (Uid(4), Uid(4))], "the expunged are skipped");
        assert!(uids(&account, inbox).await.is_empty());
        assert_eq!(uids(&account, sent).await, [1, 2, 3, 4]);
        // A view opened before can still read messages expunged since.
        assert_eq!(whole_body(&account, before.get(4).unwrap()).await, bytes(4, 3000));
        let difference = before.difference(&view.current().unwrap());
        assert_eq!(difference.expunged, [0, 1, 2, 3, 4]);
        assert!(matches!(
            account.copy(sent, &messages, MailboxId(99)).await,
            Err(StoreError::NoSuchMailbox)
        ));
    });
}

#[test]
fn renaming_inbox_moves_its_messages() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        for n in 0..3 {
            deliver(&partition, ALICE, &bytes(n, 100)).await;
        }
        let account = partition.account(ALICE).await.unwrap();
        let add = FlagChange::add(Flags::SEEN, vec!["k".into()]);
        account.store_flags(MailboxId::INBOX, &[Uid(2)], add, None).await.unwrap();
        account.remove(MailboxId::INBOX, &[Uid(1)]).await.unwrap();
        account.rename_mailbox("inbox", "Old/mail").await.unwrap();
        let old = account.mailbox_by_name("Old/mail").unwrap().id;
        let moved = snapshot(&account, old).await;
        assert_eq!((moved.len(), moved.keywords()), (2, &["k".to_owned()][..]));
        assert_eq!(moved.get(0).unwrap().flags.system, Flags::SEEN);
        assert_eq!(whole_body(&account, moved.get(1).unwrap()).await, bytes(2, 100));
        let status = account.status(MailboxId::INBOX).await.unwrap();
        assert_eq!((status.messages, status.uid_next), (0, Uid(4)));
        assert!(account.mailbox_by_name("Old").is_some());
    });
}

#[test]
fn views_follow_renames_and_end_with_their_mailbox() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let id = account.create_mailbox("A/b", None).await.unwrap();
        let view = account.select(id, true).await.unwrap();
        let seen = view.current().unwrap();
        account.rename_mailbox("A", "Z").await.unwrap();
        assert_eq!(account.mailbox(id).unwrap().name, "Z/b");
        let body = staged(&partition, b"1").await;
        account.append(id, body, Flags::default(), &[], Timestamp(0)).await.unwrap();
        view.changed(&seen).await;
        let seen = view.current().unwrap();
        assert_eq!(seen.len(), 1);
        // A child is no obstacle, and outlives its parent.
        account.delete_mailbox("Z").await.unwrap();
        assert!(matches!(account.delete_mailbox("Z").await, Err(StoreError::NotPermitted(_))));
        assert_eq!(account.mailbox(id).unwrap().name, "Z/b");
        account.delete_mailbox("Z/b").await.unwrap();
        view.changed(&seen).await;
        assert!(view.current().is_none());
        assert_eq!(view.claim_recent(), None);
        let body = staged(&partition, b"2").await;
        let refused = account.append(id, body, Flags::default(), &[], Timestamp(0)).await;
        assert!(matches!(refused, Err(StoreError::NoSuchMailbox)));
    });
}

#[test]
fn a_waiting_view_is_woken() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let woken = Rc::new(std::cell::Cell::new(0));
        for _ in 0..3 {
            let (account, woken) = (account.clone(), woken.clone());
            let idle = async move {
                let view = account.select(MailboxId::INBOX, false).await.unwrap();
                let seen = view.current().unwrap();
                view.changed(&seen).await;
                assert_eq!(seen.difference(&view.current().unwrap()).added, 1);
                woken.set(woken.get() + 1);
            };
            world.simulation.spawn(Priority::Foreground, Box::pin(idle));
        }
        world.simulation.sleep(Duration::from_secs(1)).await;
        assert_eq!(woken.get(), 0);
        deliver(&partition, ALICE, b"news").await;
        world.simulation.sleep(Duration::from_secs(1)).await;
        assert_eq!(woken.get(), 3);
    });
}

#[test]
fn recent_is_claimed_once() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        deliver(&partition, ALICE, b"1").await;
        let account = partition.account(ALICE).await.unwrap();
        let examine = account.select(MailboxId::INBOX, false).await.unwrap();
        assert_eq!(examine.recent_from(), Uid(1));
        let first = account.select(MailboxId::INBOX, true).await.unwrap();
        let second = account.select(MailboxId::INBOX, true).await.unwrap();
        assert_eq!((first.recent_from(), second.recent_from()), (Uid(1), Uid(2)));
        deliver(&partition, ALICE, b"2").await;
        assert_eq!(account.status(MailboxId::INBOX).await.unwrap().recent, 1);
        assert_eq!((second.claim_recent(), first.claim_recent()), (Some(Uid(2)), None));
        partition.close().await.unwrap();
        let account = world.open().await.account(ALICE).await.unwrap();
        assert_eq!(account.status(MailboxId::INBOX).await.unwrap().recent, 0);
    });
}

#[test]
fn a_failed_sync_shows_nothing_and_refuses_everything() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        deliver(&partition, ALICE, b"kept").await;
        let account = partition.account(ALICE).await.unwrap();
        let view = account.select(MailboxId::INBOX, false).await.unwrap();
        // Syncs are counted from the device's creation: fail every later one.
        world.device.inject(Faults { failed_syncs: (0..1000).collect(), ..Faults::default() });
        let body = staged(&partition, b"lost").await;
        let refused = partition.deliver(body, vec![target(ALICE)], None).await;
        assert!(refused.is_err());
        assert_eq!(view.current().unwrap().len(), 1);
        assert!(partition.trouble().is_some());
        let refused = account.create_mailbox("x", None).await;
        assert!(matches!(refused, Err(StoreError::Poisoned)), "{refused:?}");
        assert!(partition.account(BOB).await.is_err());
        // Reads go on.
        let message = *view.current().unwrap().get(0).unwrap();
        assert_eq!(whole_body(&account, &message).await, b"kept");
        world.device.inject(Faults::default());
        let account = world.open().await.account(ALICE).await.unwrap();
        assert!(uids(&account, MailboxId::INBOX).await.starts_with(&[1]));
    });
}

/// For every failure at every time: what was acknowledged is there after reopening, what was
/// refused is there completely or not at all, and nothing visible was taken back.
#[test]
fn a_failing_device_loses_nothing_that_was_told() {
    type Fault = fn(u64) -> Faults;
    const CASES: &[(&str, Fault)] = &[
        ("sync", |at| Faults { failed_syncs: vec![at], ..Faults::default() }),
        ("append", |at| Faults { failed_appends: vec![at], ..Faults::default() }),
        ("short append", |at| Faults { short_appends: vec![at], ..Faults::default() }),
        ("full", |at| Faults { full_from: Some(at), ..Faults::default() }),
    ];
    for (name, fault) in CASES {
        for at in 0..25 {
            run(async |world: Rc<World>| {
                world.device.inject(fault(at));
                let partition = world.open().await;
                let session = |number: u64| {
                    let partition = partition.clone();
                    async move {
                        let mut told = Vec::new();
                        for n in 0..6 {
                            let body = staged(&partition, &bytes(number * 100 + n, 900)).await;
                            let targets = vec![target(ALICE), target(BOB)];
                            match partition.deliver(body, targets, None).await {
                                Ok(delivered) => told.push((number * 100 + n, delivered)),
                                Err(_) => break,
                            }
                        }
                        told
                    }
                };
                let told = join_all(&world.simulation, (0..5).map(session).collect()).await;
                let mut shown = Vec::new();
                for id in [ALICE, BOB] {
                    let Ok(account) = partition.account(id).await else { continue };
                    for message in snapshot(&account, MailboxId::INBOX).await.iter_from(0) {
                        shown.push((id, message.uid, whole_body(&account, message).await));
                    }
                }
                world.device.inject(Faults::default());
                let again = world.open().await;
                let mut found = Vec::new();
                for id in [ALICE, BOB] {
                    let account = again.account(id).await.unwrap();
                    for message in snapshot(&account, MailboxId::INBOX).await.iter_from(0) {
                        found.push((id, message.uid, whole_body(&account, message).await));
                    }
                }
                for (seed, delivered) in told.iter().flatten() {
                    for place in delivered {
                        let expected = (place.account, place.uid, bytes(*seed, 900));
                        assert!(found.contains(&expected), "{name} {at}: {place:?} is gone");
                    }
                }
                for message in shown {
                    assert!(found.contains(&message), "{name} {at}: was shown");
                }
                let alices = found.iter().filter(|(id, ..)| *id == ALICE).count();
                assert_eq!(alices * 2, found.len(), "{name} {at}: half a delivery");
                let next = deliver(&again, ALICE, b"next").await.uid;
                assert!(found.iter().all(|(id, uid, _)| *id != ALICE || *uid < next));
            });
        }
    }
}

#[test]
fn restarts_find_everything_with_and_without_checkpoints() {
    for checkpoint_after in [None, Some(0), Some(15), Some(29)] {
        run(async |world: Rc<World>| {
            let partition = world.open().await;
            let inbox = MailboxId::INBOX;
            for n in 0..30u64 {
                deliver(&partition, ALICE, &bytes(n, 100)).await;
                let account = partition.account(ALICE).await.unwrap();
                let change = FlagChange::add(Flags::SEEN, vec![format!("k{}", n % 4)]);
                account.store_flags(inbox, &[Uid(n as u32 / 2 + 1)], change, None).await.unwrap();
                if n % 5 == 4 {
                    account.remove(inbox, &[Uid(n as u32 - 3)]).await.unwrap();
                    account.create_mailbox(&format!("f{n}"), None).await.unwrap();
                    account.set_subscribed(&format!("s{n}"), true).await.unwrap();
                }
                if checkpoint_after == Some(n) {
                    partition.checkpoint().await.unwrap();
                }
            }
            let state = async |partition: &Partition| {
                let account = partition.account(ALICE).await.unwrap();
                let cold = account.status(inbox).await.unwrap();
                let snapshot = snapshot(&account, inbox).await;
                assert_eq!(snapshot.status(), cold);
                let messages: Vec<Message> = snapshot.iter_from(0).copied().collect();
                let keywords = snapshot.keywords().to_vec();
                (cold, messages, keywords, account.mailboxes(), account.subscriptions())
            };
            let before = state(&partition).await;
            let again = world.open().await;
            assert_eq!(state(&again).await, before);
            again.close().await.unwrap();
            let again = world.open().await;
            assert_eq!(state(&again).await, before);
        });
    }
}

#[test]
fn cold_accounts_leave_memory_and_deliveries_read_no_tables() {
    let mut world = World::new(9);
    world.options.account_budget = 64 * 1024;
    world.options.checkpoint_interval = 128 * 1024;
    let world = Rc::new(world);
    let simulation = world.simulation.clone();
    simulation.run_until(async {
        let partition = world.open().await;
        for round in 0..6u64 {
            for account in 0..100 {
                deliver(&partition, AccountId(account), &bytes(round, 300)).await;
            }
        }
        partition.checkpoint().await.unwrap();
        let probe = partition.probe();
        assert!(probe.accounts_in_memory < 40, "{probe:?}");
        assert!(probe.checkpoints > 2, "{probe:?}");
        for account in [0, 50, 99] {
            deliver(&partition, AccountId(account), b"last").await;
            let cell = partition.rooms.accounts.load(AccountId(account)).await.unwrap();
            let state = cell.state.borrow();
            assert!(state.mailboxes[&MailboxId::INBOX].loaded.is_none());
        }
        let account = partition.account(AccountId(50)).await.unwrap();
        assert_eq!(uids(&account, MailboxId::INBOX).await, [1, 2, 3, 4, 5, 6, 7]);
    });
}

/// Sessions hold more than the budget: a checkpoint cannot change that, and must not retry for
/// ever.
#[test]
fn pinned_accounts_beyond_the_budget_cost_no_checkpoints() {
    let mut world = World::new(9);
    world.options.account_budget = 8 * 1024;
    let world = Rc::new(world);
    let simulation = world.simulation.clone();
    simulation.run_until(async {
        let partition = world.open().await;
        let mut held = Vec::new();
        for account in 0..30 {
            deliver(&partition, AccountId(account), b"pinned").await;
            held.push(partition.account(AccountId(account)).await.unwrap());
        }
        world.simulation.sleep(Duration::from_secs(5)).await;
        let before = partition.probe().checkpoints;
        partition.checkpoint().await.unwrap();
        world.simulation.sleep(Duration::from_secs(60)).await;
        let after = partition.probe().checkpoints;
        assert!(after <= before + 2, "{} checkpoints", after - before);
    });
}

/// A checkpoint that is abandoned half-way, here while it rewrites a folder, loses no change.
#[test]
fn a_checkpoint_given_up_loses_nothing() {
    run(async |world: Rc<World>| {
        let tombstones = TombstoneLimits { at_least: 20, at_most: 20 };
        let partition = world.open_with(StoreOptions { tombstones, ..options() }).await;
        let account = partition.account(ALICE).await.unwrap();
        deliver(&partition, ALICE, b"seed").await;
        for _ in 0..11 {
            let messages: Vec<Message> =
                snapshot(&account, MailboxId::INBOX).await.iter_from(0).copied().collect();
            account.copy(MailboxId::INBOX, &messages, MailboxId::INBOX).await.unwrap();
        }
        partition.checkpoint().await.unwrap();
        // Runs of 2,048 records for at most 20 messages and 20 tombstones: the next checkpoint
        // rewrites the folder.
        let most: Vec<Uid> = (1..=2028).map(Uid).collect();
        account.remove(MailboxId::INBOX, &most).await.unwrap();
        let seen = FlagChange::add(Flags::SEEN, Vec::new());
        account.store_flags(MailboxId::INBOX, &[Uid(2048)], seen, None).await.unwrap();
        let delta = |account: &Account| {
            account.cell.state.borrow().mailboxes[&MailboxId::INBOX].delta.len()
        };
        assert_eq!(delta(&account), 2029);
        {
            let mut checkpoint = Box::pin(partition.checkpoint());
            std::future::poll_fn(|context| {
                assert!(checkpoint.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            assert_eq!(delta(&account), 0, "the checkpoint is at work on the folder");
            account.remove(MailboxId::INBOX, &[Uid(2047)]).await.unwrap();
        }
        assert_eq!(delta(&account), 2030);
        partition.checkpoint().await.unwrap();
        let before: Vec<Message> =
            snapshot(&account, MailboxId::INBOX).await.iter_from(0).copied().collect();
        drop(account);
        partition.close().await.unwrap();
        let account = world.open().await.account(ALICE).await.unwrap();
        let after = snapshot(&account, MailboxId::INBOX).await;
        assert_eq!(after.iter_from(0).copied().collect::<Vec<_>>(), before);
    });
}

/// An account with names too long for any page does not prevent the checkpoint of others.
#[test]
fn names_of_an_account_fit_its_page() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        deliver(&partition, ALICE, b"1").await;
        let mut refused = 0;
        for n in 0..100 {
            let keyword = format!("{n}{}", "k".repeat(90_000));
            let change = FlagChange::add(Flags::default(), vec![keyword]);
            let stored = account.store_flags(MailboxId::INBOX, &[Uid(1)], change, None).await;
            refused += u32::from(matches!(stored, Err(StoreError::Limit(_))));
        }
        assert!(refused > 0);
        deliver(&partition, BOB, b"2").await;
        partition.checkpoint().await.unwrap();
        assert_eq!(partition.probe().checkpoints, 1);
    });
}

/// RFC 7162 7: a mod-sequence is at least 1, and messages added to an empty mailbox are above the
/// reported one.
#[test]
fn mod_sequences_begin_above_zero() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let empty = snapshot(&account, MailboxId::INBOX).await.status().told_mod_seq();
        assert!(empty > ModSeq(0));
        deliver(&partition, ALICE, b"1").await;
        let first = snapshot(&account, MailboxId::INBOX).await.get(0).unwrap().mod_seq;
        assert!(first > empty, "{first:?}");
    });
}

/// Sessions that idle and leave without a change leave nothing behind.
#[test]
fn a_view_that_stopped_waiting_is_forgotten() {
    struct Nobody;
    impl std::task::Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let wakers: Vec<_> = (0..50).map(|_| Arc::new(Nobody)).collect();
        for waker in &wakers {
            let view = account.select(MailboxId::INBOX, false).await.unwrap();
            let seen = view.current().unwrap();
            let mut changed = Box::pin(view.changed(&seen));
            let waker = waker.clone().into();
            let mut context = std::task::Context::from_waker(&waker);
            assert!(changed.as_mut().poll(&mut context).is_pending());
        }
        let held = wakers.iter().filter(|waker| Arc::strong_count(waker) > 1).count();
        assert_eq!(held, 0);
    });
}

/// A checkpoint after a small change to a large folder writes little.
#[test]
fn checkpoint_bytes_are_proportional_to_change() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        deliver(&partition, ALICE, b"seed").await;
        // 2^14 messages by copying the folder into itself.
        for _ in 0..14 {
            let messages: Vec<Message> =
                snapshot(&account, MailboxId::INBOX).await.iter_from(0).copied().collect();
            account.copy(MailboxId::INBOX, &messages, MailboxId::INBOX).await.unwrap();
        }
        // The cards of this many take more than one run.
        for _ in 0..3 {
            partition.checkpoint().await.unwrap();
        }
        let written = |partition: &Partition| partition.probe().bytes_written;
        let mut largest = 0;
        for n in 0..40 {
            deliver(&partition, ALICE, &bytes(n, 50)).await;
            let seen = FlagChange::add(Flags::SEEN, Vec::new());
            let uid = Uid(n as u32 * 400 + 1);
            account.store_flags(MailboxId::INBOX, &[uid], seen, None).await.unwrap();
            let before = written(&partition);
            partition.checkpoint().await.unwrap();
            largest = largest.max(written(&partition) - before);
        }
        assert!(largest <= 16 * 1024, "{largest} bytes");
        // Endless changes do not let the runs grow endlessly.
        for round in 0..6 {
            let every = FlagChange::replace(Flags(round & 3), Vec::new());
            let all: Vec<Uid> = (1..=1 << 14).map(Uid).collect();
            account.store_flags(MailboxId::INBOX, &all, every, None).await.unwrap();
            partition.checkpoint().await.unwrap();
        }
        let records: u32 = account.cell.state.borrow().mailboxes[&MailboxId::INBOX]
            .runs
            .iter()
            .map(|run| run.records)
            .sum();
        assert!(records < 4 << 14, "{records} records");
        let before = account.status(MailboxId::INBOX).await.unwrap();
        drop(account);
        partition.close().await.unwrap();
        let account = world.open().await.account(ALICE).await.unwrap();
        assert_eq!(snapshot(&account, MailboxId::INBOX).await.status().messages, before.messages);
    });
}

/// `cargo test --release --lib store::tests::measure -- --ignored --nocapture`: microseconds of
/// one delivery of 4 KiB, simulator included.
#[test]
#[ignore = "measures, asserts nothing"]
fn measure_deliveries() {
    run(async |world: Rc<World>| {
        let mut options = world.options.clone();
        options.segment_size = 64 << 20;
        let device = Rc::new(world.device.clone());
        let executor = Rc::new(world.simulation.clone());
        let (partition, _) = Partition::open(device, executor, options).await.unwrap();
        let body = bytes(1, 4096);
        for accounts in [1, 1000] {
            const SESSIONS: u64 = 100;
            const EACH: u64 = 200;
            for id in 0..accounts {
                partition.account(AccountId(id)).await.unwrap();
            }
            let session = |number: u64| {
                let (partition, body) = (partition.clone(), body.clone());
                async move {
                    for n in 0..EACH {
                        deliver(&partition, AccountId((number + n * 7) % accounts), &body).await;
                    }
                }
            };
            let start = std::time::Instant::now();
            join_all(&world.simulation, (0..SESSIONS).map(session).collect()).await;
            let each = start.elapsed().as_secs_f64() * 1e6 / (SESSIONS * EACH) as f64;
            println!("{accounts} accounts: {each:.2} us, {:?}", partition.probe());
        }
        let account = partition.account(AccountId(0)).await.unwrap();
        for _ in 0..9 {
            let messages: Vec<Message> = snapshot(&account, MailboxId::INBOX)
                .await
                .iter_from(0)
                .take(20_000)
                .copied()
                .collect();
            account.copy(MailboxId::INBOX, &messages, MailboxId::INBOX).await.unwrap();
        }
        let view = account.select(MailboxId::INBOX, true).await.unwrap();
        let mut held = view.current().unwrap();
        let mut sum = Duration::ZERO;
        for _ in 0..100 {
            deliver(&partition, AccountId(0), b"x").await;
            let start = std::time::Instant::now();
            let now = view.current().unwrap();
            assert_eq!(held.difference(&now).added, 1);
            held = now;
            sum += start.elapsed();
        }
        println!("difference of {} messages: {:?}", held.len(), sum / 100);
        let start = std::time::Instant::now();
        for _ in 0..100 {
            let effect = super::format::effect::Effect::Message {
                account: AccountId(0),
                mailbox: MailboxId::INBOX,
                message: Message { uid: Uid(3_000_000_000), ..Message::default() },
            };
            let mut state = account.cell.state.borrow_mut();
            let mailbox = state.mailboxes.get_mut(&MailboxId::INBOX).unwrap();
            let held = mailbox.snapshot();
            mailbox.publish(Lsn(0), &effect);
            account.commits.accounts.memory.get();
            drop(held);
            let loaded = mailbox.loaded.as_mut().unwrap();
            Arc::make_mut(loaded).table.remove(&[Uid(3_000_000_000)], |_| ());
        }
        println!("publish with a held view: {:?}", start.elapsed() / 100);
    });
}

/// A STORE or EXPUNGE of a large folder goes in slices: other sessions run in between, and their
/// changes are respected.
#[test]
fn long_commands_let_others_in() {
    const COUNT: u32 = 4_096;
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let first = deliver(&partition, ALICE, b"x").await;
        while uids(&account, MailboxId::INBOX).await.len() < COUNT as usize {
            let snapshot = snapshot(&account, MailboxId::INBOX).await;
            let messages: Vec<Message> = snapshot.iter_from(0).copied().collect();
            account.copy(MailboxId::INBOX, &messages, MailboxId::INBOX).await.unwrap();
        }
        let all: Vec<Uid> = (first.uid.0..first.uid.0 + COUNT).map(Uid).collect();
        let (last, turns) = (*all.last().unwrap(), Rc::new(std::cell::Cell::new(0)));

        // Another session removes `\Deleted` from the last message during EXPUNGE, and counts how
        // often it runs.
        let deleted = FlagChange::add(Flags::DELETED, Vec::new());
        account.store_flags(MailboxId::INBOX, &all, deleted, None).await.unwrap();
        let other = {
            let (account, clock, turns) =
                (account.clone(), world.simulation.clone(), turns.clone());
            Box::pin(async move {
                let kept = FlagChange::remove(Flags::DELETED, Vec::new());
                account.store_flags(MailboxId::INBOX, &[last], kept, None).await.unwrap();
                loop {
                    turns.set(turns.get() + 1);
                    clock.yield_now().await;
                }
            })
        };
        world.simulation.spawn(Priority::Foreground, other);
        let removed = account.expunge(MailboxId::INBOX, None).await.unwrap();
        assert!(turns.get() > 1, "nobody else ran");
        let left: Vec<u32> = uids(&account, MailboxId::INBOX).await;
        assert_eq!(removed.len() + left.len(), COUNT as usize);
        assert_eq!(left, [last.0]);
    });
}

/// Runs beside a long command and records how far one of the account's counters moves between two
/// of its turns.
fn watch_steps(
    world: &World,
    account: &Account,
    number: impl Fn(&Account) -> i64 + 'static,
) -> Rc<std::cell::Cell<i64>> {
    let largest = Rc::new(std::cell::Cell::new(0));
    let (account, clock, noted) = (account.clone(), world.simulation.clone(), largest.clone());
    let other = Box::pin(async move {
        let mut before = number(&account);
        loop {
            let now = number(&account);
            noted.set(noted.get().max((now - before).abs()));
            before = now;
            clock.yield_now().await;
        }
    });
    world.simulation.spawn(Priority::Foreground, other);
    largest
}

fn published(account: &Account, mailbox: MailboxId) -> MailboxStatus {
    account.cell.state.borrow().live_mailbox(mailbox).map(|it| it.status).unwrap_or_default()
}

/// An INBOX of `count` messages with a keyword.
async fn filled(partition: &Partition, count: usize) -> Account {
    let account = partition.account(ALICE).await.unwrap();
    let first = deliver(partition, ALICE, b"x").await;
    let keyword = FlagChange::add(Flags::FLAGGED, vec!["Kept".to_owned()]);
    account.store_flags(MailboxId::INBOX, &[first.uid], keyword, None).await.unwrap();
    while uids(&account, MailboxId::INBOX).await.len() < count {
        let snapshot = snapshot(&account, MailboxId::INBOX).await;
        let missing = count - snapshot.len();
        let messages: Vec<Message> = snapshot.iter_from(0).take(missing).copied().collect();
        account.copy(MailboxId::INBOX, &messages, MailboxId::INBOX).await.unwrap();
    }
    account
}

/// The changes of one command in thousands of messages are published in pieces with yields in
/// between, not with one batch of the log: publishing itself cannot wait.
#[test]
fn long_commands_are_published_by_pieces() {
    const COUNT: usize = 10_000;
    const AT_ONCE: i64 = 2_048;
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = filled(&partition, COUNT).await;
        let all = snapshot(&account, MailboxId::INBOX).await;
        let messages: Vec<Message> = all.iter_from(0).copied().collect();
        let numbers: Vec<Uid> = messages.iter().map(|message| message.uid).collect();

        let unseen = |account: &Account| i64::from(published(account, MailboxId::INBOX).unseen);
        let inbox = |account: &Account| i64::from(published(account, MailboxId::INBOX).messages);
        let steps = watch_steps(&world, &account, unseen);
        let seen = FlagChange::add(Flags::SEEN, Vec::new());
        account.store_flags(MailboxId::INBOX, &numbers, seen, None).await.unwrap();
        assert!((1..=AT_ONCE).contains(&steps.get()), "STORE: {}", steps.get());

        let steps = watch_steps(&world, &account, inbox);
        let copied = account.copy(MailboxId::INBOX, &messages, MailboxId::INBOX).await.unwrap();
        assert_eq!(copied.uids.len(), COUNT);
        assert!((1..=AT_ONCE).contains(&steps.get()), "COPY: {}", steps.get());

        let steps = watch_steps(&world, &account, inbox);
        account.rename_mailbox("INBOX", "Old/All").await.unwrap();
        assert!((1..=AT_ONCE).contains(&steps.get()), "RENAME: {}", steps.get());
        let old = account.mailbox_by_name("Old/All").unwrap().id;
        assert_eq!(published(&account, MailboxId::INBOX).messages, 0);
        assert_eq!(uids(&account, old).await, (1..=2 * COUNT as u32).collect::<Vec<_>>());
        let moved = snapshot(&account, old).await;
        assert_eq!(moved.keywords(), ["Kept"]);
        assert!(moved.iter_from(0).all(|it| it.flags.keywords.contains(0)));
        let dates = |snapshot: &Snapshot| -> Vec<Timestamp> {
            snapshot.iter_from(0).take(COUNT).map(|message| message.save_date).collect()
        };
        assert_eq!(dates(&moved), dates(&all));
    });
}

/// RFC 3501 6.4.7: a COPY that ends half-way, here because its source is deleted, leaves nothing.
#[test]
fn a_copy_refused_on_the_way_is_taken_back() {
    const COUNT: usize = 8_000;
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = filled(&partition, COUNT).await;
        let source = account.create_mailbox("source", None).await.unwrap();
        let target = account.create_mailbox("target", None).await.unwrap();
        let inbox = snapshot(&account, MailboxId::INBOX).await;
        let messages: Vec<Message> = inbox.iter_from(0).copied().collect();
        account.copy(MailboxId::INBOX, &messages, source).await.unwrap();
        let messages: Vec<Message> =
            snapshot(&account, source).await.iter_from(0).copied().collect();

        let (other, clock) = (account.clone(), world.simulation.clone());
        world.simulation.spawn(
            Priority::Foreground,
            Box::pin(async move {
                while published(&other, target).messages == 0 {
                    clock.yield_now().await;
                }
                other.delete_mailbox("source").await.unwrap();
            }),
        );
        let copied = account.copy(source, &messages, target).await;
        assert!(matches!(copied, Err(StoreError::NoSuchMailbox)), "{copied:?}");
        assert_eq!(published(&account, target).messages, 0);
        assert!(published(&account, target).uid_next > Uid(1));
    });
}

/// Copies count, expunged messages and deleted mailboxes do not; the same after a restart.
#[test]
fn an_account_holds_so_many_messages() {
    run(async |world: Rc<World>| {
        let limits = HoldingLimits { messages: 4, octets: 1_000 };
        let options = StoreOptions { holding: limits, ..world.options.clone() };
        let device = world.device.clone();
        let world = World { device, options, simulation: world.simulation.clone() };
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let append = async |account: &Account, body: &[u8]| {
            let body = staged(&partition, body).await;
            account.append(MailboxId::INBOX, body, Flags::default(), &[], Timestamp(0)).await
        };
        for body in [&bytes(1, 100), &bytes(2, 100)] {
            append(&account, body).await.unwrap();
        }
        let before = snapshot(&account, MailboxId::INBOX).await;
        let messages: Vec<Message> = before.iter_from(0).copied().collect();
        let copy = async |account: &Account| {
            account.copy(MailboxId::INBOX, &messages, MailboxId::INBOX).await.map(drop)
        };
        copy(&account).await.unwrap();
        let full = |outcome: Result<(), StoreError>| matches!(outcome, Err(StoreError::OverQuota));
        assert!(full(copy(&account).await), "nothing doubles for ever");
        assert!(full(append(&account, b"x").await.map(drop)));
        // A move adds nothing.
        let other = account.create_mailbox("Other", None).await.unwrap();
        account.move_messages(MailboxId::INBOX, &messages, other).await.unwrap();
        assert!(full(append(&account, b"x").await.map(drop)));
        account.delete_mailbox("Other").await.unwrap();
        append(&account, &bytes(3, 700)).await.unwrap();
        assert!(full(append(&account, &bytes(4, 101)).await.map(drop)), "octets");
        append(&account, &bytes(4, 100)).await.unwrap();
        drop(account);
        partition.close().await.unwrap();
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let body = staged(&partition, b"x").await;
        let more = account.append(MailboxId::INBOX, body, Flags::default(), &[], Timestamp(0));
        assert!(full(more.await.map(drop)));
    });
}

/// A repetition may name only some of a delivery's accounts: the others still lack it.
#[test]
fn a_repetition_stands_for_whom_it_was_for() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let id = DeliveryId { number: 7, repetition: true };
        let body = staged(&partition, b"once more").await;
        partition.deliver_each(body, vec![target(BOB)], Some(id)).await.unwrap();
        for (account, delivered) in [(BOB, 0), (ALICE, 1), (ALICE, 0)] {
            let body = staged(&partition, b"once more").await;
            let outcome = partition.deliver_each(body, vec![target(account)], Some(id)).await;
            assert_eq!(outcome.unwrap().delivered.len(), delivered);
        }
    });
}
