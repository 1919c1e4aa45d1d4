//! The primitive encoding under every payload in the log: little-endian integers, LEB128 varints,
//! length-prefixed bytes. Used by `effect` and `page`; it knows nothing of mail.
//!
//! Invariant: decoding never panics and never allocates more than its input could hold, whatever
//! the bytes. Checksums make garbage unlikely, not impossible (our own bugs can produce it too).

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use crate::model::Uid;

/// Payload bytes that we cannot have written; the text names the field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("undecodable {0}")]
pub(crate) struct Malformed(pub &'static str);

pub(crate) type Decoded<T> = Result<T, Malformed>;

/// Appends to a caller's buffer.
pub(crate) trait Put {
    fn put_u8(&mut self, value: u8);
    fn put_varint(&mut self, value: u64);
    /// Small magnitudes of either sign stay short (zigzag).
    fn put_signed(&mut self, value: i64);
    fn put_i64(&mut self, value: i64);
    fn put_u128(&mut self, value: u128);
    fn put_bytes(&mut self, bytes: &[u8]);
    /// `uids` ascending; runs of consecutive UIDs take two varints whatever their length.
    fn put_uids(&mut self, uids: &[Uid]);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn put_signed(&mut self, value: i64) {
        self.put_varint(((value << 1) ^ (value >> 63)) as u64);
    }

    fn put_i64(&mut self, value: i64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u128(&mut self, value: u128) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }

    fn put_uids(&mut self, uids: &[Uid]) {
        let runs = || uids.chunk_by(|left, right| left.0.checked_add(1) == Some(right.0));
        self.put_varint(runs().count() as u64);
        let mut previous = 0;
        for run in runs() {
            let (first, len) = (run.first().map_or(0, |uid| uid.0), run.len() as u64);
            self.put_varint(u64::from(first.wrapping_sub(previous)));
            self.put_varint(len);
            previous = first.wrapping_add(run.len() as u32);
        }
    }
}

/// Most UIDs one decoded set may hold: more is garbage, not a mailbox.
const UIDS_MAX: u64 = 16 * 1024 * 1024;

/// Takes values from the front of a slice.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn take(&mut self, count: usize, what: &'static str) -> Decoded<&'a [u8]> {
        let (head, tail) = self.bytes.split_at_checked(count).ok_or(Malformed(what))?;
        self.bytes = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Decoded<[u8; N]> {
        let (head, tail) = self.bytes.split_first_chunk::<N>().ok_or(Malformed(what))?;
        self.bytes = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Decoded<u8> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(crate) fn i64(&mut self, what: &'static str) -> Decoded<i64> {
        self.array(what).map(i64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self, what: &'static str) -> Decoded<u128> {
        self.array(what).map(u128::from_le_bytes)
    }

    pub(crate) fn varint(&mut self, what: &'static str) -> Decoded<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed(what));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed(what))
    }

    pub(crate) fn varint_u32(&mut self, what: &'static str) -> Decoded<u32> {
        u32::try_from(self.varint(what)?).map_err(|_| Malformed(what))
    }

    pub(crate) fn signed(&mut self, what: &'static str) -> Decoded<i64> {
        let raw = self.varint(what)?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A count of items of at least `each` bytes, refused if the rest cannot hold them.
    pub(crate) fn count(&mut self, each: usize, what: &'static str) -> Decoded<usize> {
        let count = usize::try_from(self.varint(what)?).map_err(|_| Malformed(what))?;
        match count.checked_mul(each.max(1)) {
            Some(bytes) if bytes <= self.bytes.len() => Ok(count),
            _ => Err(Malformed(what)),
        }
    }

    pub(crate) fn bytes(&mut self, what: &'static str) -> Decoded<&'a [u8]> {
        let len = self.count(1, what)?;
        self.take(len, what)
    }

    pub(crate) fn string(&mut self, what: &'static str) -> Decoded<String> {
        let bytes = self.bytes(what)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed(what))
    }

    pub(crate) fn uids(&mut self, what: &'static str) -> Decoded<Vec<Uid>> {
        let runs = self.count(2, what)?;
        let mut uids = Vec::new();
        let mut previous = 0u64;
        let mut total = 0u64;
        for _ in 0..runs {
            let first = previous + u64::from(self.varint_u32(what)?);
            let len = u64::from(self.varint_u32(what)?);
            total += len;
            if first + len > u64::from(u32::MAX) + 1 || total > UIDS_MAX {
                return Err(Malformed(what));
            }
            uids.extend((first..first + len).map(|uid| Uid(uid as u32)));
            previous = first + len;
        }
        Ok(uids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_round_trip(a in any::<u64>(), b in any::<i64>(), c in any::<u128>()) {
            let mut out = Vec::new();
            out.put_varint(a);
            out.put_signed(b);
            out.put_u128(c);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint("a"), Ok(a));
            prop_assert_eq!(reader.signed("b"), Ok(b));
            prop_assert_eq!(reader.u128("c"), Ok(c));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn uid_sets_round_trip(set in proptest::collection::btree_set(1u32..400, 0..200)) {
            let uids: Vec<Uid> = set.into_iter().map(Uid).collect();
            let mut out = Vec::new();
            out.put_uids(&uids);
            prop_assert_eq!(Reader::new(&out).uids("uids"), Ok(uids));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Reader::new(&bytes).uids("uids");
            let _ = Reader::new(&bytes).varint("varint");
            let _ = Reader::new(&bytes).string("string");
        }
    }

    #[test]
    fn consecutive_uids_are_short_and_the_largest_fits() {
        let uids: Vec<Uid> = (1..=10_000).map(Uid).collect();
        let mut out = Vec::new();
        out.put_uids(&uids);
        assert_eq!(out.len(), 4);
        let mut out = Vec::new();
        out.put_uids(&[Uid(u32::MAX)]);
        assert_eq!(Reader::new(&out).uids("uids"), Ok(vec![Uid(u32::MAX)]));
    }

    #[test]
    fn overlong_varint_is_refused() {
        assert!(Reader::new(&[0xff; 9]).varint("v").is_err());
        let mut max = vec![0xff; 9];
        max.push(1);
        assert_eq!(Reader::new(&max).varint("v"), Ok(u64::MAX));
        max[9] = 2;
        assert!(Reader::new(&max).varint("v").is_err());
    }
}
