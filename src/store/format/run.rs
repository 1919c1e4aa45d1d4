//! Runs: what one entry of the log says of a mailbox's messages, records ascending by UID.
//!
//! Pure encoding; how runs become a table, and when they are joined, is in `runs`.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use super::{
    super::message::Message,
    codec::{Decoded, Malformed, Put, Reader},
    effect::{put_flags, put_message, read_flags, read_message},
};
use crate::model::{FlagSet, Lsn, ModSeq, Uid};

/// Records in a run: one entry of the log, at most some 300 KiB, decoded in under a millisecond.
pub(crate) const RUN_RECORDS_MAX: usize = 4096;
/// What a record takes on disk, about.
pub(crate) const RUN_RECORD_BYTES: u32 = 45;
/// What a run says of one UID.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum RunRecord {
    Put(Message),
    Flags { flags: FlagSet, mod_seq: ModSeq },
    Expunged,
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

/// Encodes `records` (ascending by UID) as one run's payload.
pub(crate) fn encode_run<'a>(
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

pub(crate) fn decode_run(payload: &[u8]) -> Decoded<Vec<(Uid, RunRecord)>> {
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

    }
}
