//! Compaction through the partition's handles: live data stays readable, the rest is freed.

use super::*;
use crate::{
    plant::{Plant, plant},
    runtime::device::Device,
};

/// Names and bytes of segment files.
async fn segments(world: &World) -> Vec<(String, usize)> {
    let mut names = world.device.list().await.unwrap();
    names.retain(|name| name.starts_with("segment-"));
    names.sort();
    let len = |name: &String| world.device.content(name).unwrap().len();
    names.iter().map(|name| (name.clone(), len(name))).collect()
}

async fn segment_bytes(world: &World) -> usize {
    segments(world).await.iter().map(|(_, len)| len).sum()
}

/// Body number `n`: every tenth is in chunks.
fn numbered(n: u64) -> Vec<u8> {
    bytes(n, if n.is_multiple_of(10) { BODY_CHUNK + 5000 + n as usize } else { 4000 + n as usize })
}

async fn fill(partition: &Partition, account: AccountId, numbers: std::ops::Range<u64>) {
    for n in numbers {
        deliver(partition, account, &numbered(n)).await;
    }
}

/// Checks every message of INBOX, whose UID determines its number, and returns the UIDs.
async fn check_inbox(partition: &Partition, account: AccountId) -> Vec<u32> {
    let account = partition.account(account).await.unwrap();
    let snapshot = snapshot(&account, MailboxId::INBOX).await;
    for message in snapshot.iter_from(0) {
        let expected = numbered(u64::from(message.uid.0) - 1);
        assert!(whole_body(&account, message).await == expected, "body of {:?}", message.uid);
    }
    snapshot.iter_from(0).map(|message| message.uid.0).collect()
}

async fn remove_all_but_every(partition: &Partition, account: AccountId, kept: u32) {
    let account = partition.account(account).await.unwrap();
    let all = uids(&account, MailboxId::INBOX).await;
    let gone: Vec<Uid> = all.into_iter().filter(|uid| !uid.is_multiple_of(kept)).map(Uid).collect();
    account.remove(MailboxId::INBOX, &gone).await.unwrap();
}

#[test]
fn space_comes_back_and_what_stays_is_whole() {
    run(async |world: Rc<World>| {
        let mut partition = world.open().await;
        fill(&partition, ALICE, 0..150).await;
        fill(&partition, BOB, 0..50).await;
        for round in 0..3 {
            remove_all_but_every(&partition, ALICE, [2, 6, 12][round]).await;
            let before = segment_bytes(&world).await;
            let report = partition.compact().await.unwrap();
            let after = segment_bytes(&world).await;
            assert_eq!((report.bytes_before, report.quarantined.len()), (before as u64, 0));
            assert_eq!(report.bytes_after, after as u64);
            assert!(report.segments_deleted > 0 && after < before, "{report:?}");
            // The log above the last checkpoint, and less than a tenth of each segment.
            let live: usize = check_inbox(&partition, ALICE)
                .await
                .iter()
                .map(|uid| *uid as u64)
                .chain(1..=50)
                .map(|uid| numbered(uid - 1).len() + 200)
                .sum();
            let bound = live * 10 / 9 + 3 * world.options.segment_size as usize;
            assert!(after < bound, "round {round}: {after} bytes, {live} live");
            check_inbox(&partition, BOB).await;
            if round == 1 {
                partition.close().await.unwrap();
                partition = world.open().await;
            }
            assert_eq!(check_inbox(&partition, BOB).await.len(), 50);
        }
        let again = partition.compact().await.unwrap();
        assert_eq!(again.quarantined.len(), 0);
        let settled = segment_bytes(&world).await;
        partition.compact().await.unwrap();
        // Rewriting ends: only checkpoints come and go.
        assert!(segment_bytes(&world).await.abs_diff(settled) < 64 * 1024);
        partition.close().await.unwrap();
        let partition = world.open().await;
        assert_eq!(check_inbox(&partition, ALICE).await.len(), 12);
        fill(&partition, ALICE, 150..160).await;
        assert_eq!(check_inbox(&partition, ALICE).await.len(), 22);
    });
}

#[test]
fn a_held_view_reads_on_through_compaction() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        fill(&partition, ALICE, 0..60).await;
        let account = partition.account(ALICE).await.unwrap();
        let folder = account.create_mailbox("gone", None).await.unwrap();
        let held = snapshot(&account, MailboxId::INBOX).await;
        let all: Vec<Message> = held.iter_from(0).copied().collect();
        account.copy(MailboxId::INBOX, &all[..30], folder).await.unwrap();
        let deleted = snapshot(&account, folder).await;
        account.delete_mailbox("gone").await.unwrap();
        let uids: Vec<Uid> = all.iter().map(|message| message.uid).collect();
        account.remove(MailboxId::INBOX, &uids).await.unwrap();
        partition.compact().await.unwrap();
        for message in held.iter_from(0) {
            let expected = numbered(u64::from(message.uid.0) - 1);
            assert!(whole_body(&account, message).await == expected);
        }
        let full = segment_bytes(&world).await;
        // The copies in the deleted folder keep half of them.
        drop(held);
        partition.compact().await.unwrap();
        for (message, original) in deleted.iter_from(0).zip(&all) {
            let expected = numbered(u64::from(original.uid.0) - 1);
            assert!(whole_body(&account, message).await == expected);
        }
        let half = segment_bytes(&world).await;
        drop(deleted);
        partition.compact().await.unwrap();
        let none = segment_bytes(&world).await;
        assert!(half < full * 3 / 4 && none < half / 2, "{full}, {half}, {none}");
    });
}

/// The registry of staged bodies keeps them.
#[test]
fn forgotten_staged_bodies_are_noticed() {
    plant(Some(Plant::ForgetStagedBodies));
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let mut writer = partition.stage();
        writer.write(&bytes(7, 2 * BODY_CHUNK + 9)).await.unwrap();
        fill(&partition, ALICE, 1..3).await;
        partition.compact().await.unwrap();
        let staged = writer.finish(b"s".to_vec()).await.unwrap();
        partition.deliver(staged, vec![target(BOB)], None).await.unwrap();
        let account = partition.account(BOB).await.unwrap();
        let message = *snapshot(&account, MailboxId::INBOX).await.get(0).unwrap();
        assert!(account.read_body(&message.body, 0, usize::MAX).await.is_err());
    });
    plant(None);
}

#[test]
fn what_is_being_taken_in_is_not_garbage() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let body = bytes(7, 5 * BODY_CHUNK + 9);
        let mut writer = partition.stage();
        writer.write(&body[..3 * BODY_CHUNK]).await.unwrap();
        fill(&partition, ALICE, 1..40).await;
        remove_all_but_every(&partition, ALICE, 100).await;
        partition.compact().await.unwrap();
        writer.write(&body[3 * BODY_CHUNK..]).await.unwrap();
        let staged = writer.finish(b"s".to_vec()).await.unwrap();
        partition.compact().await.unwrap();
        partition.deliver(staged, vec![target(BOB)], None).await.unwrap();
        partition.compact().await.unwrap();
        partition.close().await.unwrap();
        let partition = world.open().await;
        let account = partition.account(BOB).await.unwrap();
        let message = *snapshot(&account, MailboxId::INBOX).await.get(0).unwrap();
        assert!(whole_body(&account, &message).await == body);
    });
}

/// However slowly a body arrives, the log behind it is compacted, and its own chunks move; it is
/// complete when it is finally committed, also after a kill and another compaction.
#[test]
fn a_body_that_trickles_in_holds_back_nothing() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let body = bytes(7, 4 * BODY_CHUNK + 9);
        let mut slow = partition.stage();
        slow.write(&body[..2 * BODY_CHUNK + 1]).await.unwrap();
        let mut never = partition.stage();
        never.write(&bytes(9, 2 * BODY_CHUNK)).await.unwrap();
        let mut most = 0;
        for round in 0..6 {
            fill(&partition, ALICE, 1..30).await;
            remove_all_but_every(&partition, ALICE, 1000).await;
            partition.checkpoint().await.unwrap();
            let report = partition.compact().await.unwrap();
            assert!(report.quarantined.is_empty() && report.segments_deleted > 0, "{report:?}");
            if round > 1 {
                most = segment_bytes(&world).await.max(most);
            }
        }
        let bound = 4 * BODY_CHUNK + 4 * world.options.segment_size as usize;
        assert!(most < bound, "{most} bytes for two bodies on their way, {bound} at most");

        slow.write(&body[2 * BODY_CHUNK + 1..]).await.unwrap();
        let staged = slow.finish(b"s".to_vec()).await.unwrap();
        partition.deliver(staged, vec![target(BOB)], None).await.unwrap();
        let whole = async |partition: &Partition| {
            let account = partition.account(BOB).await.unwrap();
            let message = *snapshot(&account, MailboxId::INBOX).await.get(0).unwrap();
            assert!(whole_body(&account, &message).await == body);
        };
        whole(&partition).await;
        // Killed: the commit entry is replayed, its chunks are in compacted segments.
        world.simulation.kill_tasks();
        drop((never, partition));
        let partition = world.open().await;
        whole(&partition).await;
        partition.compact().await.unwrap();
        whole(&partition).await;
    });
}

#[test]
fn a_segment_that_cannot_be_read_stays_and_the_others_go() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        fill(&partition, ALICE, 1..10).await;
        let rotten = deliver(&partition, ALICE, &numbered(9)).await;
        fill(&partition, ALICE, 10..200).await;
        remove_all_but_every(&partition, ALICE, 10).await;
        let account = partition.account(ALICE).await.unwrap();
        let message = snapshot(&account, MailboxId::INBOX).await;
        let message = *message.get(message.index_of(rotten.uid).unwrap()).unwrap();
        let (name, _) = segments(&world).await[0].clone();
        let before = segments(&world).await.len();
        world.device.corrupt(&name, |bytes| bytes[message.body.lsn.0 as usize + 100] ^= 1);
        for _ in 0..2 {
            let report = partition.compact().await.unwrap();
            assert_eq!(report.quarantined.len(), 1, "{report:?}");
            assert_eq!(report.quarantined[0].0, name);
            assert!(world.device.content(&name).is_some());
        }
        assert_eq!(partition.probe().segments_quarantined, 1);
        let after = segments(&world).await.len();
        assert!(after * 3 < before, "{before} segments, then {after}");
        partition.close().await.unwrap();
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let mut lost = Vec::new();
        for message in snapshot(&account, MailboxId::INBOX).await.iter_from(0) {
            if account.read_body(&message.body, 0, usize::MAX).await.is_err() {
                lost.push(message.uid);
            }
        }
        assert_eq!(lost, [rotten.uid]);
    });
}

#[test]
fn garbage_calls_for_compaction_by_itself() {
    let mut world = World::new(3);
    world.options.checkpoint_interval = 128 * 1024;
    world.options.garbage_share = 30;
    let (world, simulation) = (Rc::new(world), Simulation::new(3));
    simulation.run_until(async {
        let world = World {
            device: world.device.clone(),
            simulation: simulation.clone(),
            options: world.options.clone(),
        };
        let partition = world.open().await;
        let mut most = 0;
        for round in 0..40 {
            fill(&partition, ALICE, round * 20 + 1..round * 20 + 21).await;
            let account = partition.account(ALICE).await.unwrap();
            let all = uids(&account, MailboxId::INBOX).await;
            let old: Vec<Uid> =
                all[..all.len().saturating_sub(20)].iter().copied().map(Uid).collect();
            account.remove(MailboxId::INBOX, &old).await.unwrap();
            world.simulation.sleep(Duration::from_secs(1)).await;
            most = most.max(segment_bytes(&world).await);
        }
        let probe = partition.probe();
        assert!(probe.compactions > 3 && probe.segments_deleted > 20, "{probe:?}");
        // More than ten times that was written.
        assert!(most < 12 * world.options.segment_size as usize, "{most} bytes, {probe:?}");
        assert!(probe.bytes_written > 10 << 20, "{probe:?}");
    });
}

/// Any append or sync may fail while a cycle runs: either the log is in trouble and a restart finds
/// everything, or only the cycle has failed and everything goes on.
#[test]
fn a_failing_disk_ends_the_cycle_and_loses_nothing() {
    let mut survived = 0;
    for fault in 0..24 {
        run(async |world: Rc<World>| {
            let partition = world.open().await;
            fill(&partition, ALICE, 0..60).await;
            remove_all_but_every(&partition, ALICE, 3).await;
            let appends = world.device.appends() + fault;
            let faults = match fault % 2 {
                0 => Faults { full_from: Some(appends), ..Faults::default() },
                _ => Faults { short_appends: vec![appends], ..Faults::default() },
            };
            world.device.inject(faults);
            let report = partition.compact().await;
            world.device.inject(Faults::default());
            if partition.trouble().is_none() {
                survived += u32::from(report.is_err());
                partition.compact().await.unwrap();
                check_inbox(&partition, ALICE).await;
                partition.close().await.unwrap();
            }
            let partition = world.open().await;
            assert_eq!(check_inbox(&partition, ALICE).await.len(), 20);
        });
    }
    assert!(survived > 3, "{survived}");
}

/// Checkpoints and cycles make garbage themselves; without other changes they must end.
#[test]
fn an_idle_partition_comes_to_rest() {
    let mut world = World::new(4);
    world.options.segment_size = 16 * 1024;
    world.options.checkpoint_interval = 8 * 1024;
    world.options.garbage_share = 30;
    let (world, simulation) = (Rc::new(world), Simulation::new(4));
    simulation.run_until(async {
        let world = World {
            device: world.device.clone(),
            simulation: simulation.clone(),
            options: world.options.clone(),
        };
        let partition = world.open().await;
        for n in 0..60 {
            deliver(&partition, AccountId(n % 20), &bytes(n, 900)).await;
        }
        for n in 0..20 {
            let account = partition.account(AccountId(n)).await.unwrap();
            account.remove(MailboxId::INBOX, &[Uid(1), Uid(2)]).await.unwrap();
        }
        world.simulation.sleep(Duration::from_secs(600)).await;
        let before = partition.probe();
        world.simulation.sleep(Duration::from_secs(600)).await;
        let after = partition.probe();
        assert!(before.compactions > 0, "{before:?}");
        assert_eq!((before.compactions, before.syncs), (after.compactions, after.syncs));
    });
}

/// What a disk holds in the tests below: several segments.
const CAPACITY: u64 = 2 << 20;

/// Octets of a body there: with its commit entry it nearly fills two blocks, so that there is
/// little to gain from mail that is alive.
const BODY: usize = 7800;

/// Runs `test` in a world whose disk has [`CAPACITY`]. No test logs enough for a checkpoint of its
/// own accord.
fn run_small<F: Future<Output = ()>>(
    change: impl FnOnce(&mut StoreOptions),
    test: impl FnOnce(Rc<World>) -> F,
) {
    let mut world = World::new(6);
    world.options.garbage_share = 30;
    world.options.reserve = 128 * 1024;
    world.options.free_space_min = 64 * 1024;
    change(&mut world.options);
    world.device.inject(Faults { capacity: Some(CAPACITY), ..Faults::default() });
    let simulation = world.simulation.clone();
    simulation.run_until(test(Rc::new(world)));
}

async fn wait(world: &World, seconds: u64) {
    world.simulation.sleep(Duration::from_secs(seconds)).await;
}

/// Delivers until mail is refused for want of space, also after some time.
async fn fill_up(world: &World, partition: &Partition) {
    for n in 0..10_000 {
        let body = async {
            let mut writer = partition.stage();
            writer.write(&bytes(n, BODY)).await?;
            writer.finish(Vec::new()).await
        };
        let delivered = match body.await {
            Ok(body) => partition.deliver(body, vec![target(ALICE)], None).await.map(drop),
            Err(error) => Err(error),
        };
        match delivered {
            Ok(_) => wait(world, 1).await,
            Err(StoreError::Full) => {
                wait(world, 90).await;
                assert!(partition.trouble().is_none() && partition.refusing().is_some());
                return;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("never full");
}

/// Expunges the messages in INBOX whose UIDs `kept` does not divide, a few at a time.
async fn empty(partition: &Partition, kept: u32) {
    let account = partition.account(ALICE).await.unwrap();
    let all = uids(&account, MailboxId::INBOX).await;
    let gone: Vec<Uid> = all.into_iter().filter(|uid| !uid.is_multiple_of(kept)).map(Uid).collect();
    for some in gone.chunks(20) {
        account.remove(MailboxId::INBOX, some).await.unwrap();
    }
}

async fn takes_mail_again(world: &World, partition: &Partition) {
    wait(world, 200).await;
    let probe = partition.probe();
    assert!(partition.refusing().is_none(), "{:?}, {probe:?}", partition.refusing());
    assert!(probe.segments_deleted > 0 && probe.compactions > 0, "{probe:?}");
    deliver(partition, BOB, b"again").await;
}

#[test]
fn a_full_disk_takes_mail_again_when_mail_was_deleted() {
    // A write fails; or the space becomes low before, in a segment that is never sealed.
    let failing = |options: &mut StoreOptions| {
        options.free_space_min = 0;
        options.reserve = 256 * 1024;
    };
    let low = |options: &mut StoreOptions| {
        options.free_space_min = CAPACITY / 2;
        options.segment_size = CAPACITY;
    };
    let both: [&dyn Fn(&mut StoreOptions); 2] = [&failing, &low];
    for change in both {
        for kept in [u32::MAX, 3] {
            run_small(change, async |world: Rc<World>| {
                let partition = world.open().await;
                fill_up(&world, &partition).await;
                empty(&partition, kept).await;
                takes_mail_again(&world, &partition).await;
                let account = partition.account(ALICE).await.unwrap();
                let snapshot = snapshot(&account, MailboxId::INBOX).await;
                assert_eq!(snapshot.is_empty(), kept == u32::MAX);
                for message in snapshot.iter_from(0) {
                    let expected = bytes(u64::from(message.uid.0) - 1, BODY);
                    assert!(whole_body(&account, message).await == expected);
                }
            });
        }
    }
}

/// What was deleted before the start counts too, whether or not a checkpoint knows of it.
#[test]
fn a_full_disk_takes_mail_again_after_a_restart() {
    for killed in [false, true] {
        let room = |options: &mut StoreOptions| options.free_space_min = 256 * 1024;
        run_small(room, async |world: Rc<World>| {
            let never = StoreOptions { garbage_share: 0, ..world.options.clone() };
            let partition = world.open_with(never).await;
            fill_up(&world, &partition).await;
            empty(&partition, u32::MAX).await;
            wait(&world, 200).await;
            assert!(partition.refusing().is_some());
            match killed {
                true => world.simulation.kill_tasks(),
                false => partition.close().await.unwrap(),
            }
            drop(partition);
            let partition = world.open().await;
            takes_mail_again(&world, &partition).await;
        });
    }
}

/// A session that holds what was deleted, for as long as an attempt to make room takes, does not
/// hold up mail any longer than that.
#[test]
fn a_full_disk_takes_mail_again_soon_after_a_view_was_dropped() {
    run_small(
        |options| options.free_space_min = 256 * 1024,
        async |world: Rc<World>| {
            let partition = world.open().await;
            fill_up(&world, &partition).await;
            let account = partition.account(ALICE).await.unwrap();
            let view = account.select(MailboxId::INBOX, false).await.unwrap();
            let held = view.current().unwrap();
            empty(&partition, u32::MAX).await;
            wait(&world, 10).await;
            assert!(partition.refusing().is_some());
            drop((held, view));
            wait(&world, 20).await;
            assert!(partition.refusing().is_none(), "{:?}", partition.refusing());
        },
    );
}

/// Where nothing can be freed there is no end of attempts, but long pauses between them; and a
/// partition that is only looked at writes nothing.
#[test]
fn a_disk_full_of_mail_comes_to_rest() {
    run_small(
        |_| (),
        async |world: Rc<World>| {
            let partition = world.open().await;
            fill_up(&world, &partition).await;
            wait(&world, 600).await;
            let before = world.device.operations();
            wait(&world, 3600).await;
            assert_eq!(world.device.operations(), before);
            // Views keep what is expunged.
            let account = partition.account(ALICE).await.unwrap();
            let view = account.select(MailboxId::INBOX, false).await.unwrap();
            let held = view.current().unwrap();
            empty(&partition, u32::MAX).await;
            wait(&world, 600).await;
            let before = partition.probe();
            wait(&world, 3600).await;
            let after = partition.probe();
            assert!(after.checkpoints - before.checkpoints <= 8, "{before:?}, {after:?}");
            assert!(
                after.segment_bytes <= before.segment_bytes + 64 * 1024,
                "{before:?}, {after:?}"
            );
            drop((held, view));
            wait(&world, 3600).await;
            takes_mail_again(&world, &partition).await;
        },
    );
    run_small(
        |options| options.free_space_min = 256 * 1024,
        async |world: Rc<World>| {
            let never = StoreOptions { garbage_share: 0, ..world.options.clone() };
            let partition = world.open_with(never).await;
            fill_up(&world, &partition).await;
            empty(&partition, u32::MAX).await;
            partition.close().await.unwrap();
            drop(partition);
            let before = world.device.operations();
            let partition = world.open().await;
            partition.keep_still();
            wait(&world, 600).await;
            assert_eq!(world.device.operations().0, before.0);
        },
    );
}
