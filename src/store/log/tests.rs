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

/// What a replay handed over, by LSN.
type Entries = BTreeMap<u64, (EntryHeader, Vec<u8>)>;

fn options() -> LogOptions {
    LogOptions { partition: PartitionId(5), segment_size: SEGMENT_SIZE, write_buffer: 32 * 1024 }
}

fn header(uid: u32) -> EntryHeader {
    EntryHeader {
        kind: EntryKind::Message,
        account: AccountId(u64::from(uid) * 7),
        mailbox: MailboxId::INBOX,
        uid: Uid(uid),
    }
}

/// Bytes that follow from the number, of a length that follows from it too.
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
        assert_eq!(entries.keys().copied().collect::<Vec<_>>(), lsns.map_lsn());
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

trait MapLsn {
    fn map_lsn(&self) -> Vec<u64>;
}

impl MapLsn for Vec<Lsn> {
    fn map_lsn(&self) -> Vec<u64> {
        self.iter().map(|lsn| lsn.0).collect()
    }
}
