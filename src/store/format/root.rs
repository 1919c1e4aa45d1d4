//! The root of a checkpoint and the directory pages that it names: the locations of the accounts'
//! pages.
//!
//! A start reads these instead of the whole log. Each is one log entry, found by its LSN. Pure
//! encoding; `checkpoint` decides when, `load` reads back. Fields may be added at the end: readers
//! ignore bytes after the fields that they know.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use bytes::Bytes;

use super::codec::{Decoded, Malformed, Put, Reader};
use crate::model::{AccountId, Lsn};

/// Encodes one directory page: the locations of accounts' pages. `records` ascend by account.
pub(crate) fn encode_directory(records: &[(AccountId, Lsn)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + records.len() * 12);
    out.put_varint(records.len() as u64);
    let mut previous = 0;
    for (account, lsn) in records {
        out.put_varint(account.0.wrapping_sub(previous));
        out.put_varint(lsn.0);
        previous = account.0;
    }
    out
}

pub(crate) fn decode_directory(payload: &[u8]) -> Decoded<Vec<(AccountId, Lsn)>> {
    let mut reader = Reader::new(payload);
    let count = reader.count(2, "directory records")?;
    let mut records = Vec::with_capacity(count);
    let mut previous = 0u64;
    for at in 0..count {
        let step = reader.varint("account")?;
        let account = previous
            .checked_add(step)
            .filter(|_| step > 0 || at == 0)
            .ok_or(Malformed("account"))?;
        previous = account;
        records.push((AccountId(account), Lsn(reader.varint("page lsn")?)));
    }
    Ok(records)
}

/// The page that names all others, and the partition's own state.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Root {
    /// Partition-wide effects below are in this root.
    pub applied: Lsn,
    /// One page per bucket of the directory; `None` for an empty bucket.
    pub buckets: Vec<Option<Lsn>>,
    /// Entries of spooled messages.
    pub spool: Vec<Lsn>,
    /// Completed deliveries, oldest first.
    pub deliveries: Vec<u128>,
    pub intents: Vec<(u128, Bytes)>,
    /// Bytes of each segment, by epoch, believed to be in use.
    pub segments: Vec<(u64, u64)>,
    /// Epochs of segments in which damage was found: their files stay.
    pub quarantined: Vec<u64>,
    /// Effects below were lost to damage, of any account: an account with an older page skips
    /// numbers that may have been used. 0 if none.
    pub lost: Lsn,
}

pub(crate) fn encode_root(root: &Root) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_varint(root.applied.0);
    out.put_varint(root.buckets.len() as u64);
    root.buckets.iter().for_each(|page| out.put_varint(page.map_or(0, |lsn| lsn.0)));
    out.put_varint(root.spool.len() as u64);
    root.spool.iter().for_each(|lsn| out.put_varint(lsn.0));
    out.put_varint(root.deliveries.len() as u64);
    root.deliveries.iter().for_each(|id| out.put_u128(*id));
    out.put_varint(root.intents.len() as u64);
    for (id, payload) in &root.intents {
        out.put_u128(*id);
        out.put_bytes(payload);
    }
    out.put_varint(root.segments.len() as u64);
    for (epoch, live) in &root.segments {
        out.put_varint(*epoch);
        out.put_varint(*live);
    }
    out.put_varint(root.quarantined.len() as u64);
    root.quarantined.iter().for_each(|epoch| out.put_varint(*epoch));
    out.put_varint(root.lost.0);
    out
}

pub(crate) fn decode_root(payload: &[u8]) -> Decoded<Root> {
    let mut reader = Reader::new(payload);
    let reader = &mut reader;
    let applied = Lsn(reader.varint("applied")?);
    let count = reader.count(1, "buckets")?;
    // LSN 0 is a segment header, never an entry.
    let buckets = (0..count)
        .map(|_| Ok(Some(Lsn(reader.varint("bucket")?)).filter(|lsn| lsn.0 != 0)))
        .collect::<Decoded<Vec<_>>>()?;
    if !buckets.len().is_power_of_two() {
        return Err(Malformed("number of buckets"));
    }
    let count = reader.count(1, "spool")?;
    let spool = (0..count).map(|_| reader.varint("spool").map(Lsn)).collect::<Decoded<Vec<_>>>()?;
    let count = reader.count(16, "deliveries")?;
    let deliveries = (0..count).map(|_| reader.u128("delivery")).collect::<Decoded<Vec<_>>>()?;
    let count = reader.count(17, "intents")?;
    let intents = (0..count)
        .map(|_| Ok((reader.u128("intent")?, Bytes::copy_from_slice(reader.bytes("intent")?))))
        .collect::<Decoded<Vec<_>>>()?;
    // Missing in roots of the first versions.
    let count = if reader.is_empty() { 0 } else { reader.count(2, "segments")? };
    let segments = (0..count)
        .map(|_| Ok((reader.varint("epoch")?, reader.varint("live bytes")?)))
        .collect::<Decoded<Vec<_>>>()?;
    // Missing in roots of later ones.
    let count = if reader.is_empty() { 0 } else { reader.count(1, "quarantined")? };
    let quarantined = (0..count).map(|_| reader.varint("epoch")).collect::<Decoded<Vec<_>>>()?;
    let lost = Lsn(if reader.is_empty() { 0 } else { reader.varint("lost")? });
    Ok(Root { applied, buckets, spool, deliveries, intents, segments, quarantined, lost })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..200)) {
            let _ = decode_directory(&bytes);
            let _ = decode_root(&bytes);
        }

        #[test]
        fn damaged_roots_never_panic(
            at in any::<usize>(),
            with in any::<u8>(),
            cut in any::<usize>(),
        ) {
            let buckets = vec![Some(Lsn(7)); 64];
            let root = Root { buckets, deliveries: vec![9; 3], ..Root::default() };
            let mut bytes = encode_root(&root);
            let at = at % bytes.len();
            bytes[at] ^= with;
            bytes.truncate(cut % (bytes.len() + 1));
            let _ = decode_root(&bytes);
        }

        #[test]
        fn directories_round_trip(
            records in proptest::collection::btree_map(any::<u64>(), any::<u64>(), 0..50)
        ) {
            let records: Vec<_> =
                records.into_iter().map(|(id, lsn)| (AccountId(id), Lsn(lsn))).collect();
            prop_assert_eq!(decode_directory(&encode_directory(&records)), Ok(records));
        }

        #[test]
        fn roots_round_trip(
            buckets in vec(proptest::option::of(1u64..), 64), spool in vec(any::<u64>(), 0..9),
            deliveries in vec(any::<u128>(), 0..9), intent in any::<(u128, Vec<u8>)>(),
            segments in vec(any::<(u64, u64)>(), 0..9),
        ) {
            let root = Root {
                applied: Lsn(9),
                buckets: buckets.into_iter().map(|lsn| lsn.map(Lsn)).collect(),
                spool: spool.into_iter().map(Lsn).collect(),
                deliveries,
                intents: vec![(intent.0, intent.1.into())],
                segments,
                quarantined: vec![3, 9],
                lost: Lsn(77),
            };
            prop_assert_eq!(decode_root(&encode_root(&root)), Ok(root));
        }
    }
}
