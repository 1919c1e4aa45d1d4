//! Runs: one log entry's records of a mailbox's messages, ascending by UID.
//!
//! Pure encoding; `runs` defines how runs become a table, and when they are merged.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use super::{
    super::message::Message,
    codec::{Decoded, Malformed, Put, Reader},
    effect::{put_flags, put_message, read_flags, read_message},
};
use crate::model::{FlagSet, Lsn, ModSeq, Uid};

/// Records in a run: one entry of the log, at most some 300 KiB, decoded in under a millisecond.
pub(crate) const RUN_RECORDS_MAX: usize = 4096;
/// Approximate size of a record on disk.
pub(crate) const RUN_RECORD_BYTES: u32 = 45;
/// A run's record of one UID.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum RunRecord {
    Put(Message),
    Flags {
        flags: FlagSet,
        mod_seq: ModSeq,
    },
    /// A tombstone. Mod-sequence 0: unknown (version 1 did not store it).
    Expunged {
        mod_seq: ModSeq,
    },
}

/// A run's place in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RunRef {
    pub lsn: Lsn,
    pub records: u32,
}

mod tag {
    pub(super) const PUT: u8 = 0;
    pub(super) const FLAGS: u8 = 1;
    pub(super) const EXPUNGED: u8 = 2;
}

/// Encodes `records` (ascending by UID) as one run's payload, in version 2.
pub(crate) fn encode_run<'a>(
    records: impl ExactSizeIterator<Item = (Uid, RunRecord)> + 'a,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + records.len() * 40);
    out.put_varint(records.len() as u64);
    // A record's length is known only when it is encoded.
    let mut framed = Vec::with_capacity(64);
    let mut previous = 0;
    for (uid, record) in records {
        out.put_varint(u64::from(uid.0.wrapping_sub(previous)));
        previous = uid.0;
        framed.clear();
        match record {
            RunRecord::Put(message) => {
                framed.put_u8(tag::PUT);
                put_message(&mut framed, &message);
            }
            RunRecord::Flags { flags, mod_seq } => {
                framed.put_u8(tag::FLAGS);
                put_flags(&mut framed, flags);
                framed.put_varint(mod_seq.0);
            }
            RunRecord::Expunged { mod_seq } => {
                framed.put_u8(tag::EXPUNGED);
                framed.put_varint(mod_seq.0);
            }
        }
        out.put_bytes(&framed);
    }
    out
}

/// Reads a run of the given `version` of its kind's payload.
pub(crate) fn decode_run(version: u8, payload: &[u8]) -> Decoded<Vec<(Uid, RunRecord)>> {
    let mut reader = Reader::new(payload);
    let count = reader.count(2, "run records")?;
    let mut records = Vec::with_capacity(count.min(RUN_RECORDS_MAX));
    let mut previous = 0u32;
    for _ in 0..count {
        let step = reader.varint_u32("uid")?;
        let uid = previous.checked_add(step).filter(|_| step > 0).ok_or(Malformed("uid"))?;
        previous = uid;
        let record = match version {
            1 => read_record(1, &mut reader, Uid(uid))?,
            _ => read_record(version, &mut Reader::new(reader.bytes("run record")?), Uid(uid))?,
        };
        records.push((Uid(uid), record));
    }
    Ok(records)
}

fn read_record(version: u8, reader: &mut Reader<'_>, uid: Uid) -> Decoded<RunRecord> {
    Ok(match reader.u8("record tag")? {
        tag::PUT => RunRecord::Put(read_message(reader, uid, (Lsn(0), 0))?),
        tag::FLAGS => {
            let flags = read_flags(reader)?;
            RunRecord::Flags { flags, mod_seq: ModSeq(reader.varint("mod_seq")?) }
        }
        tag::EXPUNGED if version == 1 => RunRecord::Expunged { mod_seq: ModSeq(0) },
        tag::EXPUNGED => RunRecord::Expunged { mod_seq: ModSeq(reader.varint("mod_seq")?) },
        _ => return Err(Malformed("record tag")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        format::effect::{BODY_HERE, tests::any_message},
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
            any::<u64>().prop_map(|n| RunRecord::Expunged { mod_seq: ModSeq(n) }),
        ]
    }

    /// As version 1 wrote it: without framing, and without mod-sequences of expunges.
    fn encode_version_1(records: &[(Uid, RunRecord)]) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(records.len() as u64);
        let mut previous = 0;
        for (uid, record) in records {
            out.put_varint(u64::from(uid.0 - previous));
            previous = uid.0;
            match record {
                RunRecord::Put(message) => {
                    out.put_u8(0);
                    put_message(&mut out, message);
                }
                RunRecord::Flags { flags, mod_seq } => {
                    out.put_u8(1);
                    put_flags(&mut out, *flags);
                    out.put_varint(mod_seq.0);
                }
                RunRecord::Expunged { .. } => out.put_u8(2),
            }
        }
        out
    }

    fn any_records() -> impl Strategy<Value = Vec<(Uid, RunRecord)>> {
        proptest::collection::btree_map(1u32.., any_record(), 0..30).prop_map(|records| {
            let stored = |(uid, record)| match record {
                RunRecord::Put(message) => (Uid(uid), RunRecord::Put(stored(message, Uid(uid)))),
                other => (Uid(uid), other),
            };
            records.into_iter().map(stored).collect()
        })
    }

    proptest! {
        #[test]
        fn runs_round_trip(records in any_records()) {
            let payload = encode_run(records.iter().copied());
            prop_assert_eq!(decode_run(2, &payload), Ok(records));
        }

        #[test]
        fn version_1_is_read_without_mod_sequences_of_expunges(records in any_records()) {
            let expected: Vec<(Uid, RunRecord)> = records.iter().map(|(uid, record)| match record {
                RunRecord::Expunged { .. } => (*uid, RunRecord::Expunged { mod_seq: ModSeq(0) }),
                other => (*uid, *other),
            }).collect();
            prop_assert_eq!(decode_run(1, &encode_version_1(&records)), Ok(expected));
        }

        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..80), version in 1u8..=2) {
            let _ = decode_run(version, &bytes);
        }
    }

    #[test]
    fn what_a_later_version_adds_to_a_record_is_passed_over() {
        let records = [7, 8].map(|uid| (Uid(uid), RunRecord::Expunged { mod_seq: ModSeq(5) }));
        let payload = [2, 7, 3, 2, 5, 99, 1, 5, 2, 5, 99, 99, 99];
        assert_eq!(decode_run(2, &payload), Ok(records.to_vec()));
    }
}
