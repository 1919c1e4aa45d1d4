//! Runs of blocks: rows of bytes by UID, one entry of the log for a range of UIDs.
//!
//! What a mailbox keeps beside its messages and apart from its table is in such runs; what a row says is
//! for `annotations`. Runs of `cards` have a column of such blocks for each part. Blocks are compressed and have checksums of their own, and an index in front says
//! where each lies: so one is read without the others. Pure; compressing is the caller's.
//! docs/disk_format.md, "Runs of blocks", is the drawing.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::ops::Range;

use super::codec::{Decoded, Malformed, Put, Reader};
use crate::model::{Lsn, Uid};

/// Bytes of rows in a block before it is closed: large enough to compress well, and opened in some
/// 50 µs.
const BLOCK_TARGET: usize = 32 * 1024;
/// Bytes of a row, at the most.
pub(crate) const ROW_MAX: usize = 16 * 1024;
/// Bytes of a block that a reader believes.
const BLOCK_MAX: u32 = 64 * 1024;
/// Bytes before the index: its length and its checksum.
const FRAME: usize = 8;
/// Fewest bytes that [`BlockRunRef::put`] takes.
pub(crate) const RUN_REF_MIN: usize = 6;

/// Where a run lies and what of its mailbox it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockRunRef {
    pub lsn: Lsn,
    /// Bytes of its entry in the log.
    pub entry_len: u32,
    /// Its rows have UIDs from here to `last`.
    pub first: Uid,
    pub last: Uid,
    pub rows: u32,
}

impl BlockRunRef {
    /// Appends it as a page has it. `previous` is a UID that `first` is not below.
    pub(crate) fn put(&self, previous: Uid, out: &mut Vec<u8>) {
        let mut record = Vec::with_capacity(24);
        record.put_varint(self.lsn.0);
        record.put_varint(u64::from(self.entry_len));
        record.put_varint(u64::from(self.first.0.wrapping_sub(previous.0)));
        record.put_varint(u64::from(self.last.0.wrapping_sub(self.first.0)));
        record.put_varint(u64::from(self.rows));
        out.put_bytes(&record);
    }

    pub(crate) fn read(previous: Uid, reader: &mut Reader<'_>) -> Decoded<BlockRunRef> {
        let mut record = Reader::new(reader.bytes("run of blocks")?);
        let lsn = Lsn(record.varint("run lsn")?);
        let entry_len = record.varint_u32("run length")?;
        let first = previous.0.checked_add(record.varint_u32("first uid of a run")?);
        let first = first.ok_or(Malformed("first uid of a run"))?;
        let last = first.checked_add(record.varint_u32("last uid of a run")?);
        let last = last.ok_or(Malformed("last uid of a run"))?;
        let rows = record.varint_u32("rows of a run")?;
        Ok(BlockRunRef { lsn, entry_len, first: Uid(first), last: Uid(last), rows })
    }
}

/// A block as the index has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockRef {
    pub first: Uid,
    pub last: Uid,
    /// Where its bytes begin in the payload.
    pub offset: usize,
    /// Its bytes there, and those they stand for: more if they are a frame.
    pub stored: u32,
    pub raw: u32,
    pub rows: u32,
    checksum: u32,
}

impl BlockRef {
    pub(crate) fn is_compressed(&self) -> bool {
        self.stored != self.raw
    }

    /// Whether `stored` is what was written.
    pub(crate) fn verify(&self, stored: &[u8]) -> Decoded<()> {
        match stored.len() == self.stored as usize && crc32c::crc32c(stored) == self.checksum {
            true => Ok(()),
            false => Err(Malformed("block: checksum does not match")),
        }
    }
}

/// Puts a run together.
pub(crate) struct BlockRunBuilder<C> {
    /// Compresses a block if that pays.
    compress: C,
    blocks: Vec<BlockRef>,
    data: Vec<u8>,
    open: Vec<u8>,
    open_first: Uid,
    open_rows: u32,
    last: Uid,
}

impl<C: FnMut(Vec<u8>) -> Vec<u8>> BlockRunBuilder<C> {
    pub(crate) fn new(compress: C) -> BlockRunBuilder<C> {
        BlockRunBuilder {
            compress,
            blocks: Vec::new(),
            data: Vec::new(),
            open: Vec::new(),
            open_first: Uid(0),
            open_rows: 0,
            last: Uid(0),
        }
    }

    /// Adds a row, of at most [`ROW_MAX`] bytes; UIDs ascend; several rows may have the same.
    pub(crate) fn push(&mut self, uid: Uid, row: &[u8]) {
        debug_assert!(row.len() <= ROW_MAX);
        if self.open.is_empty() {
            self.open_first = uid;
            self.last = Uid(0);
        }
        self.open.put_varint(u64::from(uid.0.wrapping_sub(self.last.0)));
        self.open.put_bytes(row);
        self.last = uid;
        self.open_rows += 1;
        if self.open.len() >= BLOCK_TARGET {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        if self.open_rows == 0 {
            return;
        }
        let raw = self.open.len() as u32;
        let stored = (self.compress)(std::mem::take(&mut self.open));
        self.blocks.push(BlockRef {
            first: self.open_first,
            last: self.last,
            offset: self.data.len(),
            stored: stored.len() as u32,
            raw,
            rows: std::mem::take(&mut self.open_rows),
            checksum: crc32c::crc32c(&stored),
        });
        self.data.extend_from_slice(&stored);
    }

    /// The run's payload, the first and the last UID in it, and how many rows; `None` without any.
    pub(crate) fn finish(mut self) -> Option<(Vec<u8>, Uid, Uid, u32)> {
        self.close_block();
        let (first, last) = (self.blocks.first()?.first, self.blocks.last()?.last);
        let rows = self.blocks.iter().map(|block| block.rows).sum();
        let mut index = Vec::with_capacity(8 + 24 * self.blocks.len());
        index.put_varint(self.blocks.len() as u64);
        let mut previous = 0;
        for block in &self.blocks {
            let mut record = Vec::with_capacity(24);
            record.put_varint(u64::from(block.first.0.wrapping_sub(previous)));
            record.put_varint(u64::from(block.last.0.wrapping_sub(block.first.0)));
            record.put_varint(u64::from(block.stored));
            record.put_varint(u64::from(block.raw));
            record.put_varint(u64::from(block.rows));
            record.extend_from_slice(&block.checksum.to_le_bytes());
            index.put_bytes(&record);
            previous = block.last.0;
        }
        let mut payload = Vec::with_capacity(FRAME + index.len() + self.data.len());
        payload.extend_from_slice(&(index.len() as u32).to_le_bytes());
        payload.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
        payload.extend_from_slice(&index);
        payload.extend_from_slice(&self.data);
        Some((payload, first, last, rows))
    }
}

/// Bytes from a payload's start to the end of its index; `start` has at least [`FRAME`] of them.
pub(crate) fn index_len(start: &[u8]) -> Decoded<usize> {
    let (length, _) = start.split_first_chunk::<4>().ok_or(Malformed("index of blocks"))?;
    Ok(FRAME.saturating_add(u32::from_le_bytes(*length) as usize))
}

/// The blocks of a run, from a payload's start, at least [`index_len`] of it.
pub(crate) fn read_index(start: &[u8]) -> Decoded<Vec<BlockRef>> {
    let end = index_len(start)?;
    let index = start.get(FRAME..end).ok_or(Malformed("index of blocks"))?;
    let checksum = start.get(4..).and_then(|rest| rest.first_chunk::<4>());
    if checksum.is_none_or(|sum| u32::from_le_bytes(*sum) != crc32c::crc32c(index)) {
        return Err(Malformed("index of blocks: checksum does not match"));
    }
    let mut reader = Reader::new(index);
    let count = reader.count(6, "blocks")?;
    let mut blocks = Vec::with_capacity(count);
    let (mut previous, mut offset) = (0u32, end);
    for _ in 0..count {
        let mut record = Reader::new(reader.bytes("block")?);
        let step = record.varint_u32("first uid")?;
        let first = previous.checked_add(step).ok_or(Malformed("first uid"))?;
        let last =
            first.checked_add(record.varint_u32("last uid")?).ok_or(Malformed("last uid"))?;
        let (stored, raw) = (record.varint_u32("stored")?, record.varint_u32("raw")?);
        if raw > BLOCK_MAX || stored > raw {
            return Err(Malformed("size of a block"));
        }
        let rows = record.varint_u32("rows")?;
        let checksum = record.take(4, "checksum")?.first_chunk::<4>();
        let checksum = checksum.map_or(0, |sum| u32::from_le_bytes(*sum));
        let (first_uid, last_uid) = (Uid(first), Uid(last));
        blocks.push(BlockRef {
            first: first_uid,
            last: last_uid,
            offset,
            stored,
            raw,
            rows,
            checksum,
        });
        previous = last;
        offset = offset.saturating_add(stored as usize);
    }
    Ok(blocks)
}

/// The rows of a block, decompressed: UID, and where in `raw` the row lies. Ascending by UID.
pub(crate) fn read_rows(raw: &[u8]) -> Decoded<Vec<(Uid, Range<usize>)>> {
    let mut reader = Reader::new(raw);
    let mut rows = Vec::new();
    let mut previous = 0u32;
    while !reader.is_empty() {
        let step = reader.varint_u32("uid of a row")?;
        let uid = previous.checked_add(step).ok_or(Malformed("uid of a row"))?;
        previous = uid;
        let row = reader.bytes("row")?;
        // Where `row` ends in `raw`, the rest of which the reader still has.
        let end = raw.len() - reader.remaining();
        rows.push((Uid(uid), end - row.len()..end));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    type Made = Vec<(Uid, Vec<u8>)>;

    fn any_rows() -> impl Strategy<Value = Made> {
        let row = (0u32..9, vec(any::<u8>(), 0..3_000));
        vec(row, 0..60).prop_map(|rows| {
            let mut uid = 0;
            let row = |(step, row)| {
                uid += step;
                (Uid(uid), row)
            };
            rows.into_iter().map(row).collect()
        })
    }

    fn push_all(
        builder: &mut BlockRunBuilder<impl FnMut(Vec<u8>) -> Vec<u8>>,
        rows: &[(Uid, Vec<u8>)],
    ) {
        rows.iter().for_each(|(uid, row)| builder.push(*uid, row));
    }

    fn read_all(payload: &[u8]) -> Made {
        let mut found = Made::new();
        for block in read_index(payload).unwrap() {
            let raw = &payload[block.offset..][..block.stored as usize];
            block.verify(raw).unwrap();
            assert!(!block.is_compressed());
            let rows = read_rows(raw).unwrap();
            assert_eq!((rows[0].0, rows.last().unwrap().0), (block.first, block.last));
            assert_eq!(rows.len(), block.rows as usize);
            found.extend(rows.into_iter().map(|(uid, at)| (uid, raw[at].to_vec())));
        }
        found
    }

    proptest! {
        #[test]
        fn runs_round_trip(rows in any_rows()) {
            let run = |rows: &[(Uid, Vec<u8>)]| {
                let mut builder = BlockRunBuilder::new(|raw| raw);
                push_all(&mut builder, rows);
                builder.finish()
            };
            let Some((payload, first, last, count)) = run(&rows) else {
                prop_assert!(rows.is_empty());
                return Ok(());
            };
            prop_assert_eq!(read_all(&payload), rows.clone());
            prop_assert_eq!((first, last), (rows[0].0, rows.last().unwrap().0));
            prop_assert_eq!(count as usize, rows.len());
        }

        #[test]
        fn damage_is_noticed(rows in any_rows(), bit: prop::sample::Index) {
            let mut builder = BlockRunBuilder::new(|raw| raw);
            push_all(&mut builder, &rows);
            let Some((mut payload, ..)) = builder.finish() else { return Ok(()) };
            let bit = bit.index(payload.len() * 8);
            payload[bit / 8] ^= 1 << (bit % 8);
            let whole = read_index(&payload).and_then(|blocks| {
                blocks.iter().try_for_each(|block| {
                    let stored = payload.get(block.offset..).unwrap_or_default();
                    block.verify(stored.get(..block.stored as usize).unwrap_or_default())
                })
            });
            prop_assert!(whole.is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..60)) {
            let _ = (read_index(&bytes).is_ok(), read_rows(&bytes).is_ok());
            let mut checked = (bytes.len() as u32).to_le_bytes().to_vec();
            checked.extend(crc32c::crc32c(&bytes).to_le_bytes());
            checked.extend_from_slice(&bytes);
            let _ = read_index(&checked);
        }
    }
}
