//! Resynchronizing after broken bytes.
//!
//! Called by the scan; pure. A header with a single wrong bit still locates the next one; otherwise
//! the next one is searched for. Corrected data is never served: it is still damage, and only saves
//! what follows it.

use super::{
    entry::{ENTRY_ALIGN, ENTRY_HEADER, StoredHeader, decode_header, lsn_of},
    segment::{BATCH_HEADER, BLOCK, BatchHeader, SEGMENT_HEADER_FIELDS, SegmentHeader},
};
use crate::model::Lsn;

/// Longest payload in which a single wrong bit is searched for: 2^25 steps.
const FLIP_SEARCH_MAX: usize = 4 * 1024 * 1024;

/// Set bits in the reserved part of a segment header that are tried.
const RESERVED_BITS_MAX: usize = 8;

/// CRC-32C, reflected.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// The header of the entry expected at `lsn`, with one wrong bit corrected.
pub(super) fn corrected_entry(bytes: &[u8], lsn: Lsn) -> Option<StoredHeader> {
    let header: &[u8; ENTRY_HEADER] = bytes.first_chunk()?;
    flipped(header, 0..ENTRY_HEADER * 8, |copy| decode_header(copy, lsn).ok())
}

/// A batch header and its checksum, with one wrong bit corrected.
pub(super) fn corrected_batch(bytes: &[u8]) -> Option<(BatchHeader, u32)> {
    let header: &[u8; BATCH_HEADER] = bytes.first_chunk()?;
    flipped(header, 0..BATCH_HEADER * 8, |copy| BatchHeader::decode(copy).ok())
}

/// A segment header with one wrong bit corrected.
pub(super) fn corrected_segment(bytes: &[u8]) -> Option<SegmentHeader> {
    let block: &[u8; BLOCK] = bytes.first_chunk()?;
    let fields = 0..SEGMENT_HEADER_FIELDS * 8;
    // Reserved bytes were written as zero: a set bit there is the wrong one.
    let set = (fields.end..BLOCK * 8).filter(|bit| block[bit / 8] >> (bit % 8) & 1 == 1);
    let reserved: Vec<usize> = set.take(RESERVED_BITS_MAX).collect();
    flipped(block, fields.chain(reserved), |copy| SegmentHeader::decode(copy).ok())
}

/// Tries `decode` on `bytes` with each of `bits` flipped.
fn flipped<const N: usize, T>(
    bytes: &[u8; N],
    bits: impl IntoIterator<Item = usize>,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    let mut copy = *bytes;
    bits.into_iter().find_map(|bit| {
        copy[bit / 8] ^= 1 << (bit % 8);
        let found = decode(&copy);
        copy[bit / 8] ^= 1 << (bit % 8);
        found
    })
}

/// Offset of the first intact entry header at or after `from`, in bytes that begin at `lsn`.
pub(super) fn next_entry(bytes: &[u8], lsn: Lsn, from: usize) -> Option<usize> {
    let aligned = from.next_multiple_of(ENTRY_ALIGN);
    (aligned..bytes.len()).step_by(ENTRY_ALIGN).find(|&offset| {
        let here = Lsn(lsn.0.saturating_add(offset as u64));
        let rest = &bytes[offset..];
        lsn_of(rest) == Some(here) && decode_header(rest, here).is_ok()
    })
}

/// The wrong bit in `bytes` if there is exactly one, given the expected checksum. No unfinished
/// write leaves this; only bit rot does.
pub(super) fn wrong_bit(bytes: &[u8], checksum: u32) -> Option<usize> {
    if bytes.len() > FLIP_SEARCH_MAX {
        return None;
    }
    // The checksum is linear: the difference shows how far from the end the bit is.
    let difference = crc32c::crc32c(bytes) ^ checksum;
    let mut state = POLYNOMIAL;
    (0..bytes.len() * 8).rev().find(|_| {
        let found = state == difference;
        state = (state >> 1) ^ (if state & 1 == 1 { POLYNOMIAL } else { 0 });
        found
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_wrong_bit_is_found(
            mut bytes in prop::collection::vec(any::<u8>(), 1..600),
            at in any::<prop::sample::Index>(),
        ) {
            let checksum = crc32c::crc32c(&bytes);
            prop_assert_eq!(wrong_bit(&bytes, checksum), None);
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(wrong_bit(&bytes, checksum), Some(bit));
        }
    }
}
