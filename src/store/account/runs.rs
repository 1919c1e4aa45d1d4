//! A mailbox's message table on disk, as a log-structured merge tree.
//!
//! A checkpoint never rewrites a folder for one delivery: it appends the changes since the last one
//! as a run, merged with the newest runs while these are no larger (so their number stays
//! logarithmic), and rewrites a folder as a whole only if its runs hold twice as many records as
//! there are messages and tombstones above the mailbox's floor. Reading applies runs oldest to
//! newest.
//!
//! Since UIDs ascend in time, a run's new messages come after those of every older run. A tombstone
//! below the floor is needed only as long as an older run may hold its message.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::BTreeMap;

use super::{
    super::format::{
        codec::{Decoded, Malformed},
        run::{RUN_RECORDS_MAX, RunRecord, RunRef},
    },
    snapshot::MessageTable,
    tombstones::Tombstone,
};
use crate::{
    model::{ModSeq, Uid},
    plant::{Plant, planted},
};

/// Number of garbage records that is never worth a rewrite.
pub(crate) const RUN_GARBAGE_MIN: usize = 1024;

/// How many of the newest `runs` to merge with a delta of `delta` records.
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

/// Whether the runs hold so much garbage that rewriting the folder is cheaper in the end: at least
/// as many records are garbage as `live` (messages and tombstones), so the work is amortized over
/// past changes.
pub(crate) fn wants_rewrite(runs: &[RunRef], live: usize, garbage_min: usize) -> bool {
    let records: usize = runs.iter().map(|run| run.records as usize).sum();
    records > 2 * live + garbage_min
}

/// Changes of messages that are in no run yet, by UID; a later change of a message absorbs the
/// earlier one.
pub(crate) type Delta = BTreeMap<Uid, RunRecord>;

/// Merges runs and a delta, oldest first, so that a caller that yields in between never computes
/// for long. Tombstones above the `floor` stay.
pub(crate) struct Merger {
    floor: ModSeq,
    merged: Delta,
}

impl Merger {
    pub(crate) fn new(floor: ModSeq) -> Merger {
        Merger { floor, merged: Delta::new() }
    }

    pub(crate) fn add(&mut self, (uid, record): (Uid, RunRecord)) {
        match (self.merged.get_mut(&uid), record) {
            (Some(RunRecord::Put(message)), RunRecord::Flags { flags, mod_seq }) => {
                (message.flags, message.mod_seq) = (flags, mod_seq);
            }
            // The message begins and ends within these runs: no other run has it.
            (Some(RunRecord::Put(_)), RunRecord::Expunged { mod_seq })
                if mod_seq <= self.floor || planted(Plant::LoseTombstone) =>
            {
                self.merged.remove(&uid);
            }
            _ => drop(self.merged.insert(uid, record)),
        }
    }

    /// The remaining records, ascending. If `all` runs were merged, only tombstones above the floor
    /// are kept.
    pub(crate) fn finish(self, all: bool) -> impl Iterator<Item = (Uid, RunRecord)> {
        let floor = self.floor;
        self.merged.into_iter().filter(move |(_, record)| match record {
            RunRecord::Expunged { mod_seq } => !all || *mod_seq > floor,
            RunRecord::Put(_) | RunRecord::Flags { .. } => true,
        })
    }
}

/// Applies `newer` to the records of older runs that are merged with it, in one step.
pub(crate) fn merge_over(
    older: impl Iterator<Item = (Uid, RunRecord)>,
    newer: &Delta,
    floor: ModSeq,
    all: bool,
) -> Delta {
    let mut merger = Merger::new(floor);
    let newer = newer.iter().map(|(uid, record)| (*uid, *record));
    older.chain(newer).for_each(|record| merger.add(record));
    merger.finish(all).collect()
}

/// Records of `tombstones`, which are in the order of their expunges, ascending by UID.
pub(crate) fn tombstone_records(
    tombstones: impl Iterator<Item = Tombstone>,
) -> Vec<(Uid, RunRecord)> {
    let record = |(mod_seq, uid)| (uid, RunRecord::Expunged { mod_seq });
    let mut records: Vec<(Uid, RunRecord)> = tombstones.map(record).collect();
    records.sort_unstable_by_key(|(uid, _)| *uid);
    records
}

/// Builds a message table from runs and then the delta, oldest first. The cost of one run depends
/// on its size, not on the table's: a caller that yields between runs never computes for long.
#[derive(Default)]
pub(crate) struct TableBuilder {
    table: MessageTable,
    /// Highest UID seen, expunged ones included.
    last: Option<Uid>,
    /// In order of arrival, those below the floor included.
    tombstones: Vec<Tombstone>,
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
                RunRecord::Expunged { mod_seq } => {
                    expunged.push(uid);
                    self.tombstones.push((mod_seq, uid));
                }
            }
        }
        self.table.remove(&expunged, |_| {});
        Ok(())
    }

    pub(crate) fn finish(self) -> (MessageTable, Vec<Tombstone>) {
        (self.table, self.tombstones)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Lsn,
        store::{
            account::tombstones::{TombstoneLimits, Tombstones},
            message::Message,
        },
    };
    use proptest::{collection::vec, prelude::*};

    /// One mailbox through arbitrary changes and checkpoints, as `checkpoint` writes it and
    /// `paging` reads it.
    struct Disk {
        runs: Vec<Vec<(Uid, RunRecord)>>,
        written: usize,
    }

    impl Disk {
        fn refs(&self) -> Vec<RunRef> {
            let run = |run: &Vec<_>| RunRef { lsn: Lsn(0), records: run.len() as u32 };
            self.runs.iter().map(run).collect()
        }

        fn write(&mut self, delta: &BTreeMap<Uid, RunRecord>, floor: ModSeq) {
            let keep = self.runs.len() - runs_to_merge(&self.refs(), delta.len());
            let older = self.runs.split_off(keep).into_iter().flatten();
            let merged = merge_over(older, delta, floor, keep == 0);
            self.written += merged.len();
            if !merged.is_empty() {
                self.runs.push(merged.into_iter().collect());
            }
        }

        fn rewrite(&mut self, messages: &BTreeMap<Uid, Message>, tombstones: &Tombstones) {
            let put = |(uid, message): (&Uid, &Message)| (*uid, RunRecord::Put(*message));
            self.runs =
                vec![messages.iter().map(put).collect(), tombstone_records(tombstones.iter())];
            self.runs.retain(|run| !run.is_empty());
            self.written += self.runs.iter().map(Vec::len).sum::<usize>();
        }

        fn read(&self) -> (Vec<Message>, Vec<Tombstone>) {
            let mut builder = TableBuilder::default();
            self.runs.iter().for_each(|run| builder.apply(run.iter().copied()).unwrap());
            let (table, tombstones) = builder.finish();
            (table.iter_from(0).copied().collect(), tombstones)
        }
    }

    const GARBAGE_MIN: usize = 20;

    proptest! {
        /// Any sequence of checkpoints leaves runs that read back as the messages and the expunges
        /// above the floor, few in number, with bounded garbage and bounded rewriting.
        #[test]
        fn runs_are_the_table(
            steps in vec((0u32..60, 0u32..40, 0u32..40, any::<u32>()), 1..40),
            at_least in 0usize..40,
        ) {
            let limits = TombstoneLimits { at_least, at_most: 50 };
            let mut model: BTreeMap<Uid, Message> = BTreeMap::new();
            let mut tombstones = Tombstones::default();
            let mut disk = Disk { runs: Vec::new(), written: 0 };
            let (mut uid_next, mut mod_seq, mut changes) = (1, 0, 0);
            for (puts, flags, expunges, seed) in steps {
                let mut delta = BTreeMap::new();
                let unstored_from = Uid(uid_next);
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
                    mod_seq += u64::from(n % 3 > 0);
                    model.remove(&uid);
                    delta.insert(uid, RunRecord::Expunged { mod_seq: ModSeq(mod_seq) });
                    tombstones.add(ModSeq(mod_seq), uid);
                    tombstones.trim(limits, model.len() as u32, |uid| {
                        if uid >= unstored_from {
                            delta.remove(&uid);
                        }
                    });
                }
                changes += (puts + flags + expunges) as usize;
                let live = model.len() + tombstones.count() as usize;
                match wants_rewrite(&disk.refs(), live, GARBAGE_MIN) {
                    true => disk.rewrite(&model, &tombstones),
                    false => disk.write(&delta, tombstones.floor()),
                }
                let (messages, found) = disk.read();
                prop_assert_eq!(messages, model.values().copied().collect::<Vec<_>>());
                let mut again = Tombstones::stored(tombstones.floor(), tombstones.count());
                prop_assert_eq!(again.install(found), Ok(()));
                prop_assert_eq!(&again, &tombstones);
                prop_assert!(disk.runs.len() <= 18);
                // Each record is merged a logarithmic number of times, and rewritten once per
                // equally many garbage records.
                prop_assert!(disk.written <= 16 * (changes + GARBAGE_MIN));
            }
        }
    }

    #[test]
    fn only_tombstones_of_use_survive_a_merge() {
        let put = |uid| (Uid(uid), RunRecord::Put(Message { uid: Uid(uid), ..Message::default() }));
        let gone = |uid, at| (Uid(uid), RunRecord::Expunged { mod_seq: ModSeq(at) });
        let older = [put(2), put(3), put(4)];
        let newer = BTreeMap::from([gone(1, 4), gone(2, 5), gone(3, 6), gone(5, 7)]);
        let merge = |all| merge_over(older.into_iter(), &newer, ModSeq(5), all);
        // An older run may hold message 1.
        assert_eq!(merge(false), BTreeMap::from([gone(1, 4), gone(3, 6), put(4), gone(5, 7)]));
        assert_eq!(merge(true), BTreeMap::from([gone(3, 6), put(4), gone(5, 7)]));
    }
}
