//! The log on the simulated device: framing to crash images.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use proptest::prelude::*;

use super::*;
use crate::{
    model::{AccountId, MailboxId, Uid},
    runtime::{
        device::memory::{CrashMode, Faults, MemoryDevice},
        executor::Priority,
        simulation::Simulation,
    },
    store::RecoveryReport,
};

/// Small, so that a short test rolls over segments.
const SEGMENT_SIZE: u64 = 64 * 1024;

/// The result of a replay, by LSN.
type Entries = BTreeMap<u64, (EntryHeader, Vec<u8>)>;

fn options() -> LogOptions {
    LogOptions { partition: PartitionId(5), segment_size: SEGMENT_SIZE, write_buffer: 32 * 1024 }
}

fn header(uid: u32) -> EntryHeader {
    EntryHeader::new(EntryKind::Message, AccountId(u64::from(uid) * 7), MailboxId::INBOX, Uid(uid))
}

/// Bytes and a length derived from the number.
fn payload(uid: u32) -> Vec<u8> {
    let len = (uid as usize).wrapping_mul(2_654_435_761) % 9000;
    (0..len).map(|at| (at as u32).wrapping_mul(uid) as u8).collect()
}

async fn open(
    device: &MemoryDevice,
    simulation: &Simulation,
) -> Result<(Log, Entries, RecoveryReport), StoreError> {
    let (device, executor) = (Rc::new(device.clone()), Rc::new(simulation.clone()));
    let recovered = Log::recover(device, executor, options()).await?;
    let mut entries = Entries::new();
    let mut last = None;
    let (log, report) = recovered
        .replay(&mut |lsn, header, payload| {
            assert!(last < Some(lsn), "replay goes up");
            last = Some(lsn);
            entries.insert(lsn.0, (*header, payload.to_vec()));
            Ok(())
        })
        .await?;
    Ok((log, entries, report))
}

/// Opens a healthy device.
async fn reopen(device: &MemoryDevice, simulation: &Simulation) -> (Log, Entries, RecoveryReport) {
    open(device, simulation).await.expect("the log opens")
}

fn check_entry(entry: &(EntryHeader, Vec<u8>)) {
    let uid = entry.0.uid.0;
    assert_eq!(entry.0, header(uid));
    assert_eq!(entry.1, payload(uid), "payload of {uid}");
}

/// Appends `uids` one after the other, each durable before the next; returns their LSNs.
async fn append_each(log: &Log, uids: std::ops::Range<u32>) -> Vec<Lsn> {
    let mut lsns = Vec::new();
    for uid in uids {
        let payload = payload(uid);
        let (front, back) = payload.split_at(payload.len() / 3);
        let lsn = log.append(header(uid), &[front, back]).unwrap();
        log.durable(lsn).await.unwrap();
        lsns.push(lsn);
    }
    lsns
}

#[test]
fn entries_come_back_after_a_clean_close() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(1));
    simulation.run_until(async {
        let (log, entries, report) = reopen(&device, &simulation).await;
        assert_eq!((entries.len(), report.segments), (0, 0));
        let lsns = append_each(&log, 0..100).await;
        assert!(log.probe().segments > 3, "the test rolls segments");
        log.close().await.unwrap();
        assert!(matches!(log.append(header(1), &[]), Err(StoreError::Poisoned)));

        let (log, entries, report) = reopen(&device, &simulation).await;
        assert_eq!(entries.keys().copied().collect::<Vec<_>>(), numbers(&lsns));
        entries.values().for_each(check_entry);
        assert_eq!((report.tail_bytes, report.damage), (0, Vec::new()));
        for (uid, lsn) in lsns.iter().enumerate() {
            let (found, bytes) = log.read(*lsn).await.unwrap();
            check_entry(&(found, bytes.to_vec()));
            assert_eq!(found.uid.0, uid as u32);
            let len = entry_len(bytes.len()) as u32;
            assert_eq!(log.read_sized(*lsn, len).await.unwrap().1, bytes);
        }
        assert!(log.read(Lsn(lsns[0].0 + 8)).await.is_err());
        assert!(log.read(Lsn(u64::MAX)).await.is_err());
        let more = append_each(&log, 100..110).await;
        assert!(more[0] > lsns[99]);
        log.close().await.unwrap();
        assert_eq!(reopen(&device, &simulation).await.1.len(), 110);
    });
}

fn numbers(lsns: &[Lsn]) -> Vec<u64> {
    lsns.iter().map(|lsn| lsn.0).collect()
}

#[test]
fn entries_not_yet_durable_can_be_read() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(2));
    simulation.run_until(async {
        let (log, ..) = reopen(&device, &simulation).await;
        for uid in 0..60 {
            // Some entries are still in the open batch, some closed, some in flight, some landed.
            let lsn = log.append(header(uid), &[&payload(uid)]).unwrap();
            for _ in 0..uid % 5 {
                simulation.yield_now().await;
            }
            let (found, bytes) = log.read(lsn).await.unwrap();
            check_entry(&(found, bytes.to_vec()));
        }
    });
}

/// Entries in memory, in flight and on disk, one after the other.
#[test]
fn entries_are_read_on_while_the_log_grows() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(12));
    simulation.run_until(async {
        let (log, ..) = reopen(&device, &simulation).await;
        let (ahead, mut lsns) = (Ahead::default(), Vec::new());
        let read = async |uid: u32, lsn: Lsn| {
            let len = entry_len(payload(uid).len()) as u32;
            let (found, bytes) = log.read_on(lsn, len, &ahead).await.unwrap();
            assert_eq!(found.uid.0, uid);
            check_entry(&(found, bytes.to_vec()));
        };
        for uid in 0..300 {
            lsns.push(log.append(header(uid), &[&payload(uid)]).unwrap());
            if uid % 3 == 0 {
                log.durable(lsns[uid as usize]).await.unwrap();
            }
            // Some eight behind the last one, which is in memory or in flight.
            for behind in (uid.saturating_sub(8)..=uid).step_by(1 + uid as usize % 7) {
                read(behind, lsns[behind as usize]).await;
            }
        }
        log.durable(lsns[299]).await.unwrap();
        for (uid, lsn) in lsns.iter().enumerate() {
            read(uid as u32, *lsn).await;
        }
    });
}

/// An entry that was not intact when it was read ahead is read again: it alone cannot be read if it
/// is damaged, and it can if it was not complete yet.
#[test]
fn what_was_read_ahead_in_pieces_is_read_again() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(13));
    simulation.run_until(async {
        let (log, ..) = reopen(&device, &simulation).await;
        let lsns = append_each(&log, 1..8).await;
        let name = device.names().into_iter().find(|name| name.starts_with("segment")).unwrap();
        // Its segment is the first: LSNs are offsets.
        let at = lsns[5].0 as usize + entry_len(payload(6).len()) / 2;
        let flip = || device.corrupt(&name, |bytes| bytes[at] ^= 1);
        for mends in [false, true] {
            flip();
            let ahead = Ahead::default();
            for (uid, lsn) in (1..8).zip(&lsns) {
                if uid == 6 && mends {
                    flip();
                }
                let len = entry_len(payload(uid).len()) as u32;
                match log.read_on(*lsn, len, &ahead).await {
                    Ok((found, bytes)) => check_entry(&(found, bytes.to_vec())),
                    Err(error) => {
                        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
                        assert_eq!((uid, mends), (6, false));
                    }
                }
            }
            if !mends {
                flip();
            }
        }
    });
}

#[test]
fn one_sync_settles_all_that_came_since_the_last() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(3));
    simulation.run_until(async {
        let (log, ..) = reopen(&device, &simulation).await;
        let lsns: Vec<Lsn> = (0..1000).map(|_| log.append(header(0), &[]).unwrap()).collect();
        log.durable(lsns[999]).await.unwrap();
        assert_eq!(log.probe().syncs, 1);
        // Settled, however late it is asked for.
        log.durable(lsns[0]).await.unwrap();
    });
}

#[test]
fn callback_runs_before_waiters() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(4));
    simulation.run_until(async {
        let (log, ..) = reopen(&device, &simulation).await;
        let published = Rc::new(Cell::new(0));
        let (told, again) = (published.clone(), log.clone());
        log.on_durable(Rc::new(move |reached| {
            // The log can be used from within the callback.
            assert_eq!(again.durable_lsn(), *reached.as_ref().unwrap());
            told.set(reached.unwrap().0);
        }));
        for uid in 0..50 {
            let lsn = log.append(header(uid), &[&payload(uid)]).unwrap();
            assert!(published.get() <= lsn.0);
            log.durable(lsn).await.unwrap();
            assert!(published.get() > lsn.0);
        }
    });
}

#[test]
fn room_waits_for_the_device() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(5));
    simulation.run_until(async {
        let (log, ..) = reopen(&device, &simulation).await;
        let chunk = vec![7; 10_000];
        let mut lsn = Lsn(0);
        for uid in 0..100 {
            log.room().await.unwrap();
            let ahead = log.next_lsn().0 - log.durable_lsn().0;
            assert!(ahead < 2 * options().write_buffer as u64, "{ahead} bytes ahead of the disk");
            lsn = log.append(header(uid), &[&chunk]).unwrap();
        }
        // A waiter that is dropped leaves no waker behind.
        let mut durable = Box::pin(log.durable(lsn));
        poll_fn(|context| {
            assert!(durable.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(durable);
        log.durable(lsn).await.unwrap();
    });
}

#[test]
fn entry_too_long_is_refused() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(6));
    simulation.run_until(async {
        let (log, ..) = reopen(&device, &simulation).await;
        let longest = vec![1; ENTRY_PAYLOAD_MAX];
        assert!(matches!(log.append(header(1), &[&longest, b"x"]), Err(StoreError::Limit(_))));
        // Longer than a segment: it gets its own.
        let before = log.append(header(1), &[b"before"]).unwrap();
        let lsn = log.append(header(1), &[&longest]).unwrap();
        let after = log.append(header(1), &[b"after"]).unwrap();
        log.durable(after).await.unwrap();
        assert_eq!(log.read(lsn).await.unwrap().1, longest);
        assert_eq!(log.read(before).await.unwrap().1, &b"before"[..]);
        log.close().await.unwrap();
        let (_, entries, _) = reopen(&device, &simulation).await;
        assert_eq!(numbers(&[before, lsn, after]), entries.keys().copied().collect::<Vec<_>>());
    });
}

#[test]
fn failures_poison_and_lose_nothing_acknowledged() {
    for good in [0, 1, 10, 30] {
        let failed = vec![good];
        check_fault(Faults { failed_syncs: failed.clone(), ..Faults::default() }, good, false);
        check_fault(Faults { failed_appends: failed.clone(), ..Faults::default() }, good, false);
        check_fault(Faults { short_appends: failed, ..Faults::default() }, good, false);
        check_fault(Faults { full_from: Some(good), ..Faults::default() }, good, true);
    }
}

/// `good` batches succeed before the fault; `full` says whether it counts as a full disk.
fn check_fault(faults: Faults, good: u64, full: bool) {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(7));
    device.inject(faults.clone());
    let refused = |error: &StoreError| match error {
        StoreError::Full => full,
        StoreError::Poisoned => !full,
        _ => false,
    };
    simulation.run_until(async {
        let (log, ..) = reopen(&device, &simulation).await;
        let failure = Rc::new(Cell::new(false));
        let told = failure.clone();
        log.on_durable(Rc::new(move |reached| told.set(reached.is_err())));
        let mut acknowledged = Vec::new();
        let error = loop {
            let uid = acknowledged.len() as u32;
            let lsn = log.append(header(uid), &[&payload(uid)]).unwrap();
            match log.durable(lsn).await {
                Ok(()) => acknowledged.push(lsn.0),
                Err(error) => break error,
            }
        };
        assert_eq!(acknowledged.len() as u64, good);
        assert!(failure.get() && log.trouble().is_some());
        assert_eq!(matches!(error, StoreError::Full), full);
        assert!(refused(&log.append(header(0), &[]).unwrap_err()));
        assert!(refused(&log.room().await.unwrap_err()));
        assert!(log.close().await.is_err());
        // Acknowledged entries can still be read.
        for lsn in &acknowledged {
            assert!(log.read(Lsn(*lsn)).await.is_ok());
        }

        device.inject(Faults::default());
        let (log, entries, report) = reopen(&device, &simulation).await;
        for lsn in &acknowledged {
            check_entry(&entries[lsn]);
        }
        assert_eq!(report.damage, []);
        // Entries present after reopening stay, whatever the failed sync left behind.
        let more = append_each(&log, 50..52).await;
        let image = device.trace().borrow().image(usize::MAX, CrashMode::Lost, 0);
        let (_, survived, report) = reopen(&image, &simulation).await;
        assert_eq!(report.damage, []);
        assert!(entries.keys().all(|lsn| survived.contains_key(lsn)), "{faults:?}");
        assert!(more.iter().all(|lsn| survived.contains_key(&lsn.0)));
    });
}

/// Name of the only segment of a fresh log, with `uids` in it, one batch each.
async fn one_segment(
    device: &MemoryDevice,
    simulation: &Simulation,
    uids: std::ops::Range<u32>,
) -> (String, Vec<Lsn>) {
    let (log, ..) = reopen(device, simulation).await;
    let lsns = append_each(&log, uids).await;
    log.close().await.unwrap();
    (segment::segment_name(1), lsns)
}

#[test]
fn torn_tail_is_cut_without_complaint() {
    // Where the last batch is torn, from its first entry on: in its header, in its entry's.
    for torn in [-64, -1, 0, 39, 40, 2000, 4000] {
        let (device, simulation) = (MemoryDevice::new(), Simulation::new(8));
        simulation.run_until(async {
            let (name, lsns) = one_segment(&device, &simulation, 3..6).await;
            device.corrupt(&name, |bytes| {
                bytes[(lsns[2].0 as i64 + torn) as usize..].fill(0xEE);
            });
            let (log, entries, report) = reopen(&device, &simulation).await;
            assert_eq!(entries.len(), 2);
            assert_eq!(report.damage, []);
            assert!(report.tail_bytes > 0);
            // The cut bytes never reappear, whatever is written after them.
            append_each(&log, 10..12).await;
            log.close().await.unwrap();
            let (_, entries, report) = reopen(&device, &simulation).await;
            let uids: Vec<u32> = entries.values().map(|(header, _)| header.uid.0).collect();
            assert_eq!((uids, report.damage), (vec![3, 4, 10, 11], Vec::new()));
        });
    }
}

#[test]
fn damage_below_the_durable_point_is_reported_and_passed() {
    // Offset from the second batch's first entry; UIDs that are still there.
    let cases: [(i64, &[u32]); 4] = [
        (-64 + 9, &[3, 4, 5, 6]),  // batch header
        (3, &[3, 4, 5, 6]),        // entry header
        (60, &[3, 5, 6]),          // payload
        (-64 + 45, &[3, 4, 5, 6]), // batch header: the payload's checksum
    ];
    for (offset, expected) in cases {
        let (device, simulation) = (MemoryDevice::new(), Simulation::new(9));
        simulation.run_until(async {
            let (name, lsns) = one_segment(&device, &simulation, 3..7).await;
            device.corrupt(&name, |bytes| bytes[(lsns[1].0 as i64 + offset) as usize] ^= 0x10);
            for _ in 0..2 {
                let (log, entries, report) = reopen(&device, &simulation).await;
                let uids: Vec<u32> = entries.values().map(|(header, _)| header.uid.0).collect();
                assert_eq!(uids, expected, "{offset}");
                assert!(!report.damage.is_empty(), "{offset}");
                assert!(report.damage.iter().all(|(segment, ..)| *segment == name));
                assert!(log.read(lsns[1]).await.is_err() || offset < 0);
                // The second time a segment follows, whose header proves this one durable.
                append_each(&log, 3..3).await;
            }
        });
    }
}

#[test]
fn lost_segment_header_costs_no_entries() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(10));
    simulation.run_until(async {
        let (name, _) = one_segment(&device, &simulation, 3..7).await;
        device.corrupt(&name, |bytes| bytes[20] ^= 1);
        let (log, entries, report) = reopen(&device, &simulation).await;
        assert_eq!((entries.len(), report.damage.len()), (4, 1));
        append_each(&log, 7..9).await;
        log.close().await.unwrap();
        assert_eq!(reopen(&device, &simulation).await.1.len(), 6);
    });
}

#[test]
fn missing_segment_and_foreign_folder_are_noticed() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(11));
    simulation.run_until(async {
        let (log, ..) = reopen(&device, &simulation).await;
        append_each(&log, 0..60).await;
        log.close().await.unwrap();
        let options = LogOptions { partition: PartitionId(6), ..options() };
        let (other, executor) = (Rc::new(device.clone()), Rc::new(simulation.clone()));
        assert!(Log::recover(other, executor, options).await.is_err());

        device.delete(&segment::segment_name(2)).await.unwrap();
        let (_, entries, report) = reopen(&device, &simulation).await;
        assert!(entries.len() < 60);
        assert_eq!(report.damage.len(), 1);
    });
}

#[test]
fn start_reads_from_the_checkpoint_on() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(12));
    simulation.run_until(async {
        let (log, ..) = reopen(&device, &simulation).await;
        // Until the next entry is well inside a segment.
        let holder = |lsn: Lsn| {
            let state = log.0.state.borrow();
            state.segments.range(..=lsn.0).next_back().unwrap().1.clone()
        };
        for uid in 0.. {
            append_each(&log, uid..uid + 1).await;
            let next = log.next_lsn();
            if uid > 20 && next.0 - holder(next).base > 2 * SCAN_STEP {
                break;
            }
        }
        let replay_from = log.next_lsn();
        let before = holder(replay_from);
        let root = EntryHeader::new(EntryKind::CheckpointRoot, AccountId(0), MailboxId(0), Uid(0));
        let root = log.append(root, &[b"pages"]).unwrap();
        append_each(&log, 40..45).await;
        log.publish_checkpoint(root, replay_from).await.unwrap();
        assert_eq!(log.bytes_since_checkpoint(), log.next_lsn().0 - replay_from.0);
        let older = segment::checkpoint_name(1);
        assert!(device.content(&older).is_some());
        log.publish_checkpoint(root, replay_from).await.unwrap();
        assert!(device.content(&older).is_none());
        append_each(&log, 45..80).await;
        log.close().await.unwrap();

        // Bytes before the checkpoint are not read: damage there goes unnoticed. The second time
        // the checkpoint's file is broken, the segment headers are used, and one segment is scanned
        // completely.
        device.corrupt(&before.name, |bytes| bytes[BLOCK + 100] ^= 1);
        for damage in [0, 3] {
            let (log, entries, report) = reopen(&device, &simulation).await;
            assert_eq!(log.checkpoint(), Some(Checkpoint { root, replay_from }));
            assert_eq!(entries.len(), 1 + 40);
            assert_eq!(report.damage.len(), damage);
            assert_eq!(log.read(root).await.unwrap().1, &b"pages"[..]);
            device.corrupt(&segment::checkpoint_name(2), |bytes| {
                // Its block and the copy.
                bytes[25] ^= 1;
                bytes[BLOCK + 25] ^= 1;
            });
        }
    });
}

/// The acknowledgements of a workload, with the device operations before each.
#[derive(Default)]
struct Told {
    acknowledged: Vec<(usize, u64, u32)>,
    checkpoints: Vec<(usize, Checkpoint)>,
}

/// Six sessions append at once; one of them writes checkpoints.
fn workload(device: &MemoryDevice, seed: u64) -> Told {
    let simulation = Simulation::new(seed);
    let told = Rc::new(RefCell::new(Told::default()));
    simulation.run_until(async {
        let (log, ..) = reopen(device, &simulation).await;
        let left = Rc::new(Cell::new(6));
        for session in 0..6 {
            let (log, told, left) = (log.clone(), told.clone(), left.clone());
            let trace = device.trace();
            let task = async move {
                for turn in 0..8 {
                    let uid = session * 100 + turn;
                    let lsn = log.append(header(uid), &[&payload(uid)]).unwrap();
                    log.durable(lsn).await.unwrap();
                    let step = trace.borrow().len();
                    told.borrow_mut().acknowledged.push((step, lsn.0, uid));
                    if session == 0 && turn % 3 == 2 {
                        let replay_from = log.next_lsn();
                        let root = log.append(header(uid), &[&payload(uid)]).unwrap();
                        log.publish_checkpoint(root, replay_from).await.unwrap();
                        let step = trace.borrow().len();
                        told.borrow_mut()
                            .checkpoints
                            .push((step, Checkpoint { root, replay_from }));
                    }
                }
                left.set(left.get() - 1);
            };
            simulation.spawn(Priority::Foreground, Box::pin(task));
        }
        while left.get() > 0 {
            simulation.yield_now().await;
        }
    });
    told.take()
}

/// Recovers `image`, taken after `step` operations, and returns the first error.
fn check_image(image: &MemoryDevice, step: usize, told: &Told) -> Result<(), String> {
    let simulation = Simulation::new(step as u64);
    simulation.run_until(async {
        let (log, entries, report) =
            open(image, &simulation).await.map_err(|error| error.to_string())?;
        if !report.damage.is_empty() {
            return Err(format!("a crash looks like damage: {:?}", report.damage));
        }
        entries.values().for_each(check_entry);
        let checkpoint = told.checkpoints.iter().rev().find(|(at, _)| *at <= step);
        let oldest = checkpoint.map_or(0, |(_, checkpoint)| checkpoint.replay_from.0);
        let from = log.checkpoint().map_or(0, |checkpoint| checkpoint.replay_from.0);
        if from < oldest {
            return Err(format!("checkpoint {oldest} was published and {from} is found"));
        }
        if let Some(checkpoint) = log.checkpoint() {
            log.read(checkpoint.root).await.map_err(|error| format!("root: {error}"))?;
        }
        for (at, lsn, uid) in &told.acknowledged {
            if *at > step {
                continue;
            }
            let (found, bytes) =
                log.read(Lsn(*lsn)).await.map_err(|error| format!("entry {uid}: {error}"))?;
            check_entry(&(found, bytes.to_vec()));
            if found.uid.0 != *uid || (*lsn >= from && !entries.contains_key(lsn)) {
                return Err(format!("entry {uid} at {lsn} was acknowledged and is gone"));
            }
        }
        // The log goes on, with unused LSNs.
        let more = append_each(&log, 900..902).await;
        if entries.last_key_value().is_some_and(|(last, _)| *last >= more[0].0) {
            return Err("an LSN was given out twice".to_owned());
        }
        log.close().await.map_err(|error| error.to_string())?;
        let (_, again, _) = open(image, &simulation).await.map_err(|error| error.to_string())?;
        match again.len() == entries.len() + more.len() {
            true => Ok(()),
            false => Err(format!("{} entries became {}", entries.len(), again.len())),
        }
    })
}

/// Crashes a workload at every step in every mode; returns the first error.
fn crash_everywhere(faults: Faults, seed: u64) -> Result<usize, String> {
    let device = MemoryDevice::new();
    device.inject(faults);
    let told = workload(&device, seed);
    let trace = device.trace();
    let trace = trace.borrow();
    for step in 0..=trace.len() {
        for mode in CrashMode::ALL {
            let image = trace.image(step, mode, seed);
            check_image(&image, step, &told)
                .map_err(|what| format!("seed {seed}, step {step}, {mode:?}: {what}"))?;
        }
    }
    Ok(told.acknowledged.len())
}

#[test]
fn no_crash_loses_what_was_acknowledged() {
    for seed in 0..4 {
        assert_eq!(crash_everywhere(Faults::default(), seed), Ok(48));
    }
}

#[test]
fn crash_test_notices_a_missing_sync() {
    let faults = Faults { lying_sync: true, ..Faults::default() };
    assert!(crash_everywhere(faults, 0).is_err());
}

#[test]
fn what_a_restart_believed_survives_a_crash_after_it() {
    for seed in 0..40 {
        let (device, simulation) = (MemoryDevice::new(), Simulation::new(seed));
        let entries = simulation.run_until(async {
            let (log, ..) = reopen(&device, &simulation).await;
            append_each(&log, 0..(seed % 4) as u32).await;
            for uid in 3..6 {
                log.append(header(uid), &[&payload(uid)]).unwrap();
            }
            // The process dies somewhere between this append and its sync.
            for _ in 0..seed {
                simulation.yield_now().await;
            }
            simulation.kill_tasks();
            reopen(&device, &simulation).await.1
        });
        let trace = device.trace();
        for mode in CrashMode::ALL {
            let image = trace.borrow().image(usize::MAX, mode, seed);
            let survived = simulation.run_until(async { reopen(&image, &simulation).await.1 });
            assert_eq!(survived, entries, "{mode:?}");
        }
    }
}

/// Whether compaction keeps the entry: most are dropped.
fn kept(uid: u32) -> bool {
    uid.is_multiple_of(3)
}

/// Compacts the sealed segments below the checkpoint, `group` of them into one, as if only the
/// entries chosen by [`kept`] were live. Returns how many were replaced.
async fn compact(log: &Log, lsns: &[(u64, u32)], group: usize) -> Result<usize, StoreError> {
    compact_some(log, lsns, group, |_| true).await
}

/// The same for the segments of some epochs.
async fn compact_some(
    log: &Log,
    lsns: &[(u64, u32)],
    group: usize,
    is_meant: impl Fn(u64) -> bool,
) -> Result<usize, StoreError> {
    let horizon = log.checkpoint().map_or(Lsn(0), |checkpoint| checkpoint.replay_from);
    let mut sealed = log.sealed_below(horizon);
    sealed.retain(|segment| is_meant(segment.epoch));
    for sources in sealed.chunks(group) {
        let epochs: Vec<u64> = sources.iter().map(|source| source.epoch).collect();
        let (base, end) = (sources[0].base, sources[sources.len() - 1].end);
        let mut writer = log.begin_compacted(base, end, epochs.clone()).await?;
        writer.begin().await?;
        for source in sources {
            let mut reader = log.source(source.epoch)?;
            let inside = |lsn: &u64| (source.base.0..source.end.0).contains(lsn);
            for (lsn, _) in lsns.iter().filter(|(lsn, uid)| inside(lsn) && kept(*uid)) {
                let entry = reader.entry(Lsn(*lsn)).await?.to_vec();
                writer.push(Lsn(*lsn), &entry).await?;
            }
        }
        let replacement = match writer.is_empty() {
            true => {
                writer.abandon().await?;
                None
            }
            false => Some(writer.finish(end, epochs.clone()).await?),
        };
        let retired = log.supersede(&epochs, replacement);
        assert_eq!(log.retire(retired, &|| true).await?, sources.len() as u64);
    }
    Ok(sealed.len())
}

/// Appends `uids`, then a root that covers all of them; returns their locations.
async fn append_and_checkpoint(log: &Log, uids: std::ops::Range<u32>) -> Vec<(u64, u32)> {
    let numbers = uids.clone();
    let lsns = append_each(log, uids).await;
    let replay_from = log.next_lsn();
    let root = log.append(header(99_999), &[&payload(99_999)]).unwrap();
    log.publish_checkpoint(root, replay_from).await.unwrap();
    lsns.iter().map(|lsn| lsn.0).zip(numbers).collect()
}

async fn check_kept(log: &Log, lsns: &[(u64, u32)]) {
    for (lsn, uid) in lsns.iter().filter(|(_, uid)| kept(*uid)) {
        let (found, bytes) = log.read(Lsn(*lsn)).await.unwrap();
        check_entry(&(found, bytes.to_vec()));
        assert_eq!(found.uid.0, *uid);
    }
}

fn segment_files(device: &MemoryDevice) -> (usize, usize) {
    let epochs = 1..200;
    let files: Vec<usize> = epochs
        .filter_map(|epoch| device.content(&segment::segment_name(epoch)))
        .map(|content| content.len())
        .collect();
    (files.len(), files.iter().sum())
}

#[test]
fn compacted_entries_keep_their_lsns_and_space_comes_back() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(20));
    simulation.run_until(async {
        let (log, ..) = reopen(&device, &simulation).await;
        let mut lsns = append_and_checkpoint(&log, 0..120).await;
        let (files, bytes) = segment_files(&device);
        assert!(compact(&log, &lsns, 3).await.unwrap() > 6);
        check_kept(&log, &lsns).await;
        let (fewer, less) = segment_files(&device);
        assert!(fewer < files / 2 && less < bytes / 2, "{fewer} files, {less} bytes");
        for (lsn, _) in lsns.iter().filter(|(lsn, uid)| *lsn < 300_000 && !kept(*uid)) {
            assert!(matches!(log.read(Lsn(*lsn)).await, Err(StoreError::Corrupt { .. })));
        }
        // Once more, with compacted segments among the sources.
        lsns.extend(append_and_checkpoint(&log, 200..300).await);
        compact(&log, &lsns, 4).await.unwrap();
        check_kept(&log, &lsns).await;
        log.close().await.unwrap();
        for _ in 0..2 {
            let (log, entries, report) = reopen(&device, &simulation).await;
            assert_eq!((report.damage, entries.len()), (Vec::new(), 1));
            check_kept(&log, &lsns).await;
            lsns.extend(append_and_checkpoint(&log, 300..310).await);
            log.close().await.unwrap();
        }
    });
}

/// A power cut tears the first write of a segment, and the segments after it are compacted before
/// the next start: nothing says any longer that the torn one never began.
#[test]
fn a_torn_segment_does_not_take_the_place_of_later_ones() {
    for keeps_header in [false, true] {
        let (device, simulation) = (MemoryDevice::new(), Simulation::new(22));
        let mut lsns = simulation.run_until(async {
            let (log, ..) = reopen(&device, &simulation).await;
            let lsns = append_and_checkpoint(&log, 0..60).await;
            log.seal();
            append_each(&log, 1000..1001).await;
            lsns
        });
        simulation.kill_tasks();
        let last = device.names().pop().expect("a segment");
        device.corrupt(&last, |bytes| {
            assert_eq!(bytes.len(), 3 * BLOCK, "its first write");
            let lost = if keeps_header { BLOCK + 512..2 * BLOCK } else { 0..BLOCK };
            bytes[lost].fill(0);
            bytes.truncate(2 * BLOCK + 512);
        });
        simulation.run_until(async {
            let (log, ..) = reopen(&device, &simulation).await;
            let torn = log.sealed_below(Lsn(u64::MAX)).last().expect("segments").epoch + 1;
            lsns.extend(append_and_checkpoint(&log, 100..160).await);
            log.seal();
            lsns.extend(append_and_checkpoint(&log, 200..210).await);
            let later = |epoch| epoch > torn;
            assert!(compact_some(&log, &lsns, 100, later).await.unwrap() > 4);
            check_kept(&log, &lsns).await;
            log.close().await.unwrap();
            for epochs in [0..=torn, 0..=u64::MAX] {
                let (log, _, report) = reopen(&device, &simulation).await;
                assert_eq!(report.damage, [], "header kept: {keeps_header}");
                check_kept(&log, &lsns).await;
                compact_some(&log, &lsns, 2, |epoch| epochs.contains(&epoch)).await.unwrap();
                check_kept(&log, &lsns).await;
                log.close().await.unwrap();
            }
            let (log, _, report) = reopen(&device, &simulation).await;
            assert_eq!(report.damage, [], "header kept: {keeps_header}");
            check_kept(&log, &lsns).await;
        });
    }
}

#[test]
fn damage_of_a_compacted_segment_costs_no_whole_entry() {
    // Offset in the file, from the start or (negative) from the end.
    for at in [20, 3 * BLOCK as i64, -20, -(BLOCK as i64) - 20] {
        let (device, simulation) = (MemoryDevice::new(), Simulation::new(21));
        simulation.run_until(async {
            let (log, ..) = reopen(&device, &simulation).await;
            let lsns = append_and_checkpoint(&log, 0..60).await;
            compact(&log, &lsns, 100).await.unwrap();
            let epoch = log.sealed_below(Lsn(u64::MAX))[0].epoch;
            log.close().await.unwrap();
            device.corrupt(&segment::segment_name(epoch), |bytes| {
                let at = if at < 0 { bytes.len() as i64 + at } else { at };
                bytes[at as usize] ^= 1;
            });
            let (log, _, report) = reopen(&device, &simulation).await;
            let mut lost = 0;
            for (lsn, uid) in lsns.iter().filter(|(_, uid)| kept(*uid)) {
                match log.read(Lsn(*lsn)).await {
                    Ok((found, bytes)) => {
                        check_entry(&(found, bytes.to_vec()));
                        assert_eq!(found.uid.0, *uid);
                    }
                    Err(StoreError::Corrupt { .. }) => lost += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(lost, usize::from(at == 3 * BLOCK as i64), "{at}");
            // Header and footer are read at every start; the rest on demand.
            assert_eq!(report.damage.is_empty(), ![20, -20].contains(&at), "{at}");
        });
    }
}

/// Appends, checkpoints and compacts; returns what was acknowledged, and after how many operations.
fn compacting_workload(device: &MemoryDevice, seed: u64) -> Told {
    let simulation = Simulation::new(seed);
    let mut told = Told::default();
    simulation.run_until(async {
        let (log, ..) = reopen(device, &simulation).await;
        let mut lsns = Vec::new();
        for round in 0..3 {
            let uids = round * 100..round * 100 + 30;
            let new = append_and_checkpoint(&log, uids).await;
            let step = device.trace().borrow().len();
            told.acknowledged.extend(new.iter().map(|(lsn, uid)| (step, *lsn, *uid)));
            told.checkpoints.push((step, log.checkpoint().unwrap()));
            lsns.extend(new);
            compact(&log, &lsns, 2 + round as usize).await.unwrap();
        }
    });
    told
}

#[test]
fn no_crash_while_compacting_loses_what_is_kept() {
    for seed in 0..2 {
        let device = MemoryDevice::new();
        let mut told = compacting_workload(&device, seed);
        told.acknowledged.retain(|(_, _, uid)| kept(*uid));
        let trace = device.trace();
        let trace = trace.borrow();
        for step in 0..=trace.len() {
            for mode in CrashMode::ALL {
                let image = trace.image(step, mode, seed);
                let told = Told {
                    // Entries covered by the checkpoint are not replayed: only reads show them.
                    acknowledged: told.acknowledged.clone(),
                    checkpoints: told.checkpoints.clone(),
                };
                check_image(&image, step, &told).unwrap_or_else(|what| {
                    panic!("seed {seed}, step {step} of {}, {mode:?}: {what}", trace.len())
                });
            }
        }
    }
}

#[test]
fn a_reader_holds_the_source_it_reads() {
    let (device, simulation) = (MemoryDevice::new(), Simulation::new(23));
    simulation.run_until(async {
        let (log, ..) = reopen(&device, &simulation).await;
        let lsns = append_and_checkpoint(&log, 0..40).await;
        let sealed = log.sealed_below(Lsn(u64::MAX));
        let name = segment::segment_name(sealed[0].epoch);
        let mut reader = log.source(sealed[0].epoch).unwrap();
        let retired = log.supersede(&[sealed[0].epoch], None);
        let retiring = log.clone();
        let deleted = Rc::new(Cell::new(0));
        let count = deleted.clone();
        let task = async move { count.set(retiring.retire(retired, &|| true).await.unwrap()) };
        simulation.spawn(Priority::Background, Box::pin(task));
        for _ in 0..50 {
            simulation.sleep(std::time::Duration::from_millis(10)).await;
            assert!(reader.entry(Lsn(lsns[0].0)).await.is_ok());
        }
        assert!(device.content(&name).is_some());
        drop(reader);
        while deleted.get() == 0 {
            simulation.sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(device.content(&name).is_none());
        assert!(log.read(Lsn(lsns[0].0)).await.is_err());
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// For arbitrary bytes, the scan ends, and what it reports as intact is intact.
    #[test]
    fn scan_bears_anything(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<u8>(), 1usize..9000),
            0..6,
        ),
        cut in any::<prop::sample::Index>(),
        durable in prop::option::of(0u64..60_000),
    ) {
        let (device, simulation) = (MemoryDevice::new(), Simulation::new(1));
        let (name, _) = simulation.run_until(one_segment(&device, &simulation, 1..9));
        let mut bytes = device.content(&name).unwrap();
        for (at, value, len) in edits {
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + len);
            bytes[at..end].fill(value);
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let durable = Lsn(durable.unwrap_or(0));
        let expected = Expected { partition: options().partition, epoch: 1, durable };
        let scan = scan_segment(&bytes, expected).unwrap();
        let mut last = 0;
        for piece in &scan.pieces {
            let (Piece::Batch { start, end }
            | Piece::Damage { start, end, .. }
            | Piece::DamagedBatch { start, end, .. }) = *piece;
            prop_assert!(last <= start && start <= end && end <= bytes.len().max(BLOCK));
            last = end;
            if matches!(piece, Piece::Batch { .. }) {
                for entry in scan::entries(&bytes[start..end], Lsn(start as u64)) {
                    let payload = entry.payload.unwrap();
                    check_entry(&(entry.header.unwrap(), payload.to_vec()));
                }
            }
        }
    }

    #[test]
    fn scan_bears_noise(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        let expected =
            Expected { partition: PartitionId(0), epoch: 1, durable: Lsn(1 << 20) };
        prop_assert!(scan_segment(&bytes, expected).unwrap().base.is_none());
    }
}
