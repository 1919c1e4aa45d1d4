//! A mailbox's message table on disk, as a log-structured merge would keep it.
//!
//! A checkpoint never rewrites a folder for one delivery: it appends what changed since the last
//! one as a run, joined with the newest runs while these are no larger (so their number stays
//! logarithmic), and rewrites a folder whole only when its runs hold twice as many records as there are
//! messages. Reading applies runs oldest to newest.
//!
//! Since UIDs ascend in time, a run's new messages come after those of every older run.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::BTreeMap;

use super::{
    super::format::{
        codec::{Decoded, Malformed},
        run::{RUN_RECORDS_MAX, RunRecord, RunRef},
    },
    snapshot::MessageTable,
};
use crate::model::Uid;

/// Superfluous records that are never worth a rewrite.
pub(crate) const RUN_GARBAGE_MIN: usize = 1024;

/// How many of the newest `runs` to join with a delta of `delta` records.
pub(crate) fn runs_to_merge(runs: &[RunRef], delta: usize) -> usize {
    let mut records = delta;
    let mut count = 0;
    for run in runs.iter().rev() {
        let size = run.records as usize;
        if delta == 0 || size > records || size >= RUN_RECORDS_MAX {
            break;
        }
        records += size;
        count += 1;
    }
    count
}

/// True when the runs hold so much of no use that writing the folder anew is cheaper in the end:
/// at least as many records are garbage as live, so the work is paid for by past changes.
pub(crate) fn wants_rewrite(runs: &[RunRef], messages: u32, garbage_min: usize) -> bool {
    let records: usize = runs.iter().map(|run| run.records as usize).sum();
    records > 2 * messages as usize + garbage_min
}

/// Puts `newer` over the records of older runs that are being joined with it.
pub(crate) fn merge_over(
    older: impl Iterator<Item = (Uid, RunRecord)>,
    newer: &BTreeMap<Uid, RunRecord>,
) -> BTreeMap<Uid, RunRecord> {
    let mut merged = BTreeMap::new();
    let newer = newer.iter().map(|(uid, record)| (*uid, *record));
    for (uid, record) in older.chain(newer) {
        match (merged.get_mut(&uid), record) {
            (Some(RunRecord::Put(message)), RunRecord::Flags { flags, mod_seq }) => {
                (message.flags, message.mod_seq) = (flags, mod_seq);
            }
            // The message begins and ends within these runs: nobody else knows it.
            (Some(RunRecord::Put(_)), RunRecord::Expunged) => drop(merged.remove(&uid)),
            _ => drop(merged.insert(uid, record)),
        }
    }
    merged
}

/// Builds a message table from runs and the delta on top, fed oldest first. One run costs what it
/// holds, not what the table holds: a caller that yields between runs never computes for long.
#[derive(Default)]
pub(crate) struct TableBuilder {
    table: MessageTable,
    /// Highest UID seen, expunged ones included.
    last: Option<Uid>,
}

impl TableBuilder {
    pub(crate) fn apply(&mut self, records: impl Iterator<Item = (Uid, RunRecord)>) -> Decoded<()> {
        let mut expunged = Vec::new();
        for (uid, record) in records {
            match record {
                RunRecord::Put(message) => {
                    if self.last.is_some_and(|last| last >= uid) {
                        return Err(Malformed("order of runs"));
                    }
                    self.last = Some(uid);
                    self.table.push(message);
                }
                RunRecord::Flags { flags, mod_seq } => {
                    self.table.set_flags(uid, flags, mod_seq);
                }
                RunRecord::Expunged => expunged.push(uid),
            }
        }
        self.table.remove(&expunged, |_| {});
        Ok(())
    }

    pub(crate) fn finish(self) -> MessageTable {
        self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Lsn, ModSeq},
        store::message::Message,
    };
    use proptest::{collection::vec, prelude::*};

    proptest! {
        /// Any sequence of checkpoints leaves runs that read back as the messages themselves, few
        /// in number and bounded in garbage.
        #[test]
        fn runs_are_the_table(steps in vec((0u32..60, 0u32..40, 0u32..40, any::<u32>()), 1..40)) {
            let mut model: BTreeMap<Uid, Message> = BTreeMap::new();
            let mut disk: Vec<Vec<(Uid, RunRecord)>> = Vec::new();
            let (mut uid_next, mut mod_seq) = (1, 0);
            for (puts, flags, expunges, seed) in steps {
                let mut delta = BTreeMap::new();
                let pick = |model: &BTreeMap<Uid, Message>, n: u32| {
                    let index = (seed.wrapping_mul(n + 1)) as usize % model.len().max(1);
                    model.keys().nth(index).copied()
                };
                for _ in 0..puts {
                    let message = Message { uid: Uid(uid_next), ..Message::default() };
                    model.insert(message.uid, message);
                    delta.insert(message.uid, RunRecord::Put(message));
                    uid_next += 1;
                }
                for n in 0..flags {
                    let Some(uid) = pick(&model, n) else { break };
                    mod_seq += 1;
                    let message = model.get_mut(&uid).unwrap();
                    message.mod_seq = ModSeq(mod_seq);
                    match delta.get_mut(&uid) {
                        Some(RunRecord::Put(put)) => put.mod_seq = ModSeq(mod_seq),
                        _ => drop(delta.insert(uid, RunRecord::Flags {
                            flags: message.flags, mod_seq: ModSeq(mod_seq)
                        })),
                    }
                }
                for n in 0..expunges {
                    let Some(uid) = pick(&model, n) else { break };
                    model.remove(&uid);
                    match delta.get(&uid) {
                        Some(RunRecord::Put(_)) => drop(delta.remove(&uid)),
                        _ => drop(delta.insert(uid, RunRecord::Expunged)),
                    }
                }
                let refs: Vec<RunRef> = disk.iter()
                    .map(|run| RunRef { lsn: Lsn(0), records: run.len() as u32 }).collect();
                let keep = disk.len() - runs_to_merge(&refs, delta.len());
                let merged = merge_over(disk.split_off(keep).into_iter().flatten(), &delta);
                if !merged.is_empty() {
                    disk.push(merged.into_iter().collect());
                }
                let mut builder = TableBuilder::default();
                disk.iter().for_each(|run| builder.apply(run.iter().copied()).unwrap());
                let table: Vec<Message> = builder.finish().iter_from(0).copied().collect();
                prop_assert_eq!(table, model.values().copied().collect::<Vec<_>>());
                prop_assert!(disk.len() <= 16);
            }
        }
    }
}
