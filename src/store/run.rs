//! Runs: a mailbox's message table on disk, as a log-structured merge would keep it.
//!
//! A checkpoint never rewrites a folder for one delivery: it appends what changed since the last
//! one as a *run* (records ascending by UID), joined with the newest runs while these are no larger
//! (so their number stays logarithmic), and rewrites a folder whole only when its runs hold twice
//! as many records as there are messages. Reading applies runs oldest to newest.
//!
//! Since UIDs ascend in time, a run's new messages come after those of every older run.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::BTreeMap;

use super::{
    codec::{Decoded, Malformed, Put, Reader},
    effect::{put_flags, put_message, read_flags, read_message},
    message::Message,
    snapshot::MessageTable,
};
use crate::model::{FlagSet, Lsn, ModSeq, Uid};

/// Records in a run: one entry of the log, at most some 300 KiB, decoded in under a millisecond.
pub(super) const RUN_RECORDS_MAX: usize = 4096;
/// What a record takes on disk, about.
pub(super) const RUN_RECORD_BYTES: u32 = 45;
/// Superfluous records that are never worth a rewrite.
pub(super) const RUN_GARBAGE_MIN: usize = 1024;

/// What a run says of one UID.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum RunRecord {
    Put(Message),
    Flags { flags: FlagSet, mod_seq: ModSeq },
    Expunged,
}

/// A run's place in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RunRef {
    pub lsn: Lsn,
    pub records: u32,
}

mod tag {
    pub const PUT: u8 = 0;
    pub const FLAGS: u8 = 1;
    pub const EXPUNGED: u8 = 2;
}

/// Encodes `records` (ascending by UID) as one run's payload.
pub(super) fn encode_run<'a>(
    records: impl ExactSizeIterator<Item = (Uid, RunRecord)> + 'a,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + records.len() * 40);
    out.put_varint(records.len() as u64);
    let mut previous = 0;
    for (uid, record) in records {
        out.put_varint(u64::from(uid.0.wrapping_sub(previous)));
        previous = uid.0;
        match record {
            RunRecord::Put(message) => {
                out.put_u8(tag::PUT);
                put_message(&mut out, &message);
            }
            RunRecord::Flags { flags, mod_seq } => {
                out.put_u8(tag::FLAGS);
                put_flags(&mut out, flags);
                out.put_varint(mod_seq.0);
            }
            RunRecord::Expunged => out.put_u8(tag::EXPUNGED),
        }
    }
    out
}

pub(super) fn decode_run(payload: &[u8]) -> Decoded<Vec<(Uid, RunRecord)>> {
    let mut reader = Reader::new(payload);
    let count = reader.count(2, "run records")?;
    let mut records = Vec::with_capacity(count.min(RUN_RECORDS_MAX));
    let mut previous = 0u32;
    for _ in 0..count {
        let step = reader.varint_u32("uid")?;
        let uid = previous.checked_add(step).filter(|_| step > 0).ok_or(Malformed("uid"))?;
        previous = uid;
        let record = match reader.u8("record tag")? {
            tag::PUT => RunRecord::Put(read_message(&mut reader, Uid(uid), (Lsn(0), 0))?),
            tag::FLAGS => {
                let flags = read_flags(&mut reader)?;
                RunRecord::Flags { flags, mod_seq: ModSeq(reader.varint("mod_seq")?) }
            }
            tag::EXPUNGED => RunRecord::Expunged,
            _ => return Err(Malformed("record tag")),
        };
        records.push((Uid(uid), record));
    }
    Ok(records)
}

/// How many of the newest `runs` to join with a delta of `delta` records.
pub(super) fn runs_to_merge(runs: &[RunRef], delta: usize) -> usize {
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
pub(super) fn wants_rewrite(runs: &[RunRef], messages: u32, garbage_min: usize) -> bool {
    let records: usize = runs.iter().map(|run| run.records as usize).sum();
    records > 2 * messages as usize + garbage_min
}

/// Puts `newer` over the records of older runs that are being joined with it.
pub(super) fn merge_over(
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
pub(super) struct TableBuilder {
    table: MessageTable,
    /// Highest UID seen, expunged ones included.
    last: Option<Uid>,
}

impl TableBuilder {
    pub fn apply(&mut self, records: impl Iterator<Item = (Uid, RunRecord)>) -> Decoded<()> {
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

    pub fn finish(self) -> MessageTable {
        self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        effect::{BODY_HERE, tests::any_message},
        message::MessageBody,
    };
    use proptest::{collection::vec, prelude::*};

    fn stored(mut message: Message, uid: Uid) -> Message {
        message.uid = uid;
        if message.body.lsn == BODY_HERE {
            message.body = MessageBody { lsn: Lsn(7), entry_len: 9, ..message.body };
        }
        message
    }

    fn any_record() -> impl Strategy<Value = RunRecord> {
        prop_oneof![
            any_message().prop_map(RunRecord::Put),
            (any::<u64>(), any_message())
                .prop_map(|(n, m)| RunRecord::Flags { flags: m.flags, mod_seq: ModSeq(n) }),
            Just(RunRecord::Expunged),
        ]
    }

    proptest! {
        #[test]
        fn runs_round_trip(records in proptest::collection::btree_map(1u32.., any_record(), 0..30)) {
            let records: Vec<(Uid, RunRecord)> = records.into_iter().map(|(uid, record)| {
                let uid = Uid(uid);
                (uid, match record {
                    RunRecord::Put(message) => RunRecord::Put(stored(message, uid)),
                    other => other,
                })
            }).collect();
            let payload = encode_run(records.iter().copied());
            prop_assert_eq!(decode_run(&payload), Ok(records));
        }

        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..80)) {
            let _ = decode_run(&bytes);
        }

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
