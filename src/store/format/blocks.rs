//! Runs of blocks: rows of bytes by UID, one log entry for a range of UIDs, in one or more columns.
//!
//! Data that a mailbox keeps beside its messages and outside its table is in such runs;
//! `annotations` and `cards` define the rows. Runs of `cards` have one column of such blocks for
//! each part. Blocks are compressed and have their own checksums, and an index in front locates
//! each, so that one can be read without the others, and a column without the other columns. Pure;
//! the caller compresses. docs/disk_format.md, "Runs of blocks", has the layout.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::ops::Range;

use super::codec::{Decoded, Malformed, Put, Reader};
use crate::model::{Lsn, Uid};

/// Bytes of rows at which a block is closed: enough to compress well, and opened in some 50 µs.
const BLOCK_TARGET: usize = 32 * 1024;
/// Most bytes of a row.
pub(crate) const ROW_MAX: usize = 16 * 1024;
/// Most bytes of a block that a reader accepts.
const BLOCK_MAX: u32 = 64 * 1024;
/// Bytes before the index: its length and its checksum.
const FRAME: usize = 8;
/// Minimum size of [`BlockRunRef::put`]'s output.
pub(crate) const RUN_REF_MIN: usize = 6;

/// The location of a run and its range of UIDs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockRunRef {
    pub lsn: Lsn,
    /// Bytes of its entry in the log.
    pub entry_len: u32,
    /// Its rows have UIDs from `first` to `last`.
    pub first: Uid,
    pub last: Uid,
    pub rows: u32,
}

impl BlockRunRef {
    /// Appends it in the form of a page. `previous` is a UID not above `first`.
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

/// A block in the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockRef {
    pub first: Uid,
    pub last: Uid,
    /// Offset of its bytes in the payload.
    pub offset: usize,
    /// Its stored bytes, and its uncompressed bytes: more if it is a frame.
    pub stored: u32,
    pub raw: u32,
    pub rows: u32,
    checksum: u32,
}

impl BlockRef {
    pub(crate) fn is_compressed(&self) -> bool {
        self.stored != self.raw
    }

    /// Whether `stored` is intact.
    pub(crate) fn verify(&self, stored: &[u8]) -> Decoded<()> {
        match stored.len() == self.stored as usize && crc32c::crc32c(stored) == self.checksum {
            true => Ok(()),
            false => Err(Malformed("block: checksum does not match")),
        }
    }
}

/// One column of a run being built.
struct Column {
    blocks: Vec<BlockRef>,
    data: Vec<u8>,
    open: Vec<u8>,
    open_first: Uid,
    open_rows: u32,
    last: Uid,
}

impl Column {
    fn new() -> Column {
        Column {
            blocks: Vec::new(),
            data: Vec::new(),
            open: Vec::new(),
            open_first: Uid(0),
            open_rows: 0,
            last: Uid(0),
        }
    }

    fn push(&mut self, uid: Uid, row: &[u8]) {
        debug_assert!(row.len() <= ROW_MAX);
        if self.open_rows == 0 {
            self.open_first = uid;
            self.last = Uid(0);
        }
        self.open.put_varint(u64::from(uid.0.wrapping_sub(self.last.0)));
        self.open.put_bytes(row);
        self.last = uid;
        self.open_rows += 1;
    }

    fn close_block(&mut self, compress: &mut impl FnMut(Vec<u8>) -> Vec<u8>) {
        if self.open_rows == 0 {
            return;
        }
        let raw = self.open.len() as u32;
        let stored = compress(std::mem::take(&mut self.open));
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

    fn adopt(&mut self, blocks: &[BlockRef], payload: &[u8]) -> Decoded<()> {
        for block in blocks {
            let range = block.offset..block.offset.saturating_add(block.stored as usize);
            let stored = payload.get(range).ok_or(Malformed("block"))?;
            block.verify(stored)?;
            self.blocks.push(BlockRef { offset: self.data.len(), ..*block });
            self.data.extend_from_slice(stored);
        }
        Ok(())
    }

    fn put(&self, index: &mut Vec<u8>) {
        let mut column = Vec::with_capacity(8 + 24 * self.blocks.len());
        column.put_varint(self.blocks.len() as u64);
        let mut previous = 0;
        for block in &self.blocks {
            let mut record = Vec::with_capacity(24);
            record.put_varint(u64::from(block.first.0.wrapping_sub(previous)));
            record.put_varint(u64::from(block.last.0.wrapping_sub(block.first.0)));
            record.put_varint(u64::from(block.stored));
            record.put_varint(u64::from(block.raw));
            record.put_varint(u64::from(block.rows));
            record.extend_from_slice(&block.checksum.to_le_bytes());
            column.put_bytes(&record);
            previous = block.last.0;
        }
        index.put_bytes(&column);
    }
}

/// Builds a run with several columns.
pub(crate) struct BlockRunBuilder<const COLUMNS: usize, C> {
    /// Compresses a block if that pays.
    compress: C,
    columns: [Column; COLUMNS],
}

/// A run's payload and its description.
pub(crate) struct MadeRun {
    pub payload: Vec<u8>,
    pub first: Uid,
    pub last: Uid,
    /// Rows of the first column.
    pub rows: u32,
}

impl<const COLUMNS: usize, C: FnMut(Vec<u8>) -> Vec<u8>> BlockRunBuilder<COLUMNS, C> {
    pub(crate) fn new(compress: C) -> BlockRunBuilder<COLUMNS, C> {
        BlockRunBuilder { compress, columns: std::array::from_fn(|_| Column::new()) }
    }

    /// Adds a row, of at most [`ROW_MAX`] bytes, to a column. UIDs ascend; several rows may have
    /// the same UID.
    pub(crate) fn push(&mut self, column: usize, uid: Uid, row: &[u8]) {
        let Some(column) = self.columns.get_mut(column) else { return };
        column.push(uid, row);
        if column.open.len() >= BLOCK_TARGET {
            column.close_block(&mut self.compress);
        }
    }

    /// Adds the blocks of an older run unchanged. Its UIDs are above all so far.
    pub(crate) fn adopt(&mut self, payload: &[u8]) -> Decoded<()> {
        self.columns.iter_mut().for_each(|column| column.close_block(&mut self.compress));
        let index = read_index(payload)?;
        let columns = self.columns.iter_mut().zip(&index.columns);
        columns.into_iter().try_for_each(|(column, blocks)| column.adopt(blocks, payload))
    }

    /// The run; `None` without any rows.
    pub(crate) fn finish(mut self) -> Option<MadeRun> {
        self.columns.iter_mut().for_each(|column| column.close_block(&mut self.compress));
        let blocks = || self.columns.iter().flat_map(|column| &column.blocks);
        let first = blocks().map(|block| block.first).min()?;
        let last = blocks().map(|block| block.last).max()?;
        let rows = self.columns.first()?.blocks.iter().map(|block| block.rows).sum();
        let mut index = Vec::with_capacity(16 + 24 * blocks().count());
        index.put_varint(COLUMNS as u64);
        self.columns.iter().for_each(|column| column.put(&mut index));
        let data: usize = self.columns.iter().map(|column| column.data.len()).sum();
        let mut payload = Vec::with_capacity(FRAME + index.len() + data);
        payload.extend_from_slice(&(index.len() as u32).to_le_bytes());
        payload.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
        payload.extend_from_slice(&index);
        self.columns.iter().for_each(|column| payload.extend_from_slice(&column.data));
        Some(MadeRun { payload, first, last, rows })
    }
}

/// The locations of a run's blocks: each column has its own, with other UID ranges than the next
/// one's.
#[derive(PartialEq, Eq, Default, Debug)]
pub(crate) struct RunIndex {
    columns: Vec<Vec<BlockRef>>,
}

impl RunIndex {
    pub(crate) fn column(&self, column: usize) -> &[BlockRef] {
        self.columns.get(column).map_or(&[], Vec::as_slice)
    }

    /// The block of a column that may have the row of `uid`, if each UID has one.
    pub(crate) fn block_of(&self, column: usize, uid: Uid) -> Option<BlockRef> {
        let blocks = self.column(column);
        let at = blocks.partition_point(|block| block.last < uid);
        blocks.get(at).filter(|block| block.first <= uid).copied()
    }

    /// Octets from the start of `place` to the end of the last block of the column that ends within
    /// `most` of them; at least its own.
    pub(crate) fn octets_from(&self, column: usize, place: &BlockRef, most: usize) -> usize {
        let blocks = self.column(column).iter();
        let ends = blocks.map(|block| block.offset.saturating_add(block.stored as usize));
        let sizes = ends.filter_map(|end| end.checked_sub(place.offset));
        sizes.filter(|&size| size <= most).fold(place.stored as usize, usize::max)
    }
}

/// Bytes from the start of a payload to the end of its index; `start` has at least [`FRAME`] of
/// them.
pub(crate) fn index_len(start: &[u8]) -> Decoded<usize> {
    let (length, _) = start.split_first_chunk::<4>().ok_or(Malformed("index of blocks"))?;
    Ok(FRAME.saturating_add(u32::from_le_bytes(*length) as usize))
}

/// The blocks of a run, from a payload's start, at least [`index_len`] of it.
pub(crate) fn read_index(start: &[u8]) -> Decoded<RunIndex> {
    let end = index_len(start)?;
    let index = start.get(FRAME..end).ok_or(Malformed("index of blocks"))?;
    let checksum = start.get(4..).and_then(|rest| rest.first_chunk::<4>());
    if checksum.is_none_or(|sum| u32::from_le_bytes(*sum) != crc32c::crc32c(index)) {
        return Err(Malformed("index of blocks: checksum does not match"));
    }
    let mut reader = Reader::new(index);
    let mut offset = end;
    let count = reader.count(2, "columns")?;
    let columns = (0..count).map(|_| {
        let column = &mut Reader::new(reader.bytes("column")?);
        read_column(column, &mut offset)
    });
    Ok(RunIndex { columns: columns.collect::<Decoded<_>>()? })
}

/// The blocks of one column, whose octets begin at `offset` of the payload; `offset` advances past
/// them.
fn read_column(reader: &mut Reader<'_>, offset: &mut usize) -> Decoded<Vec<BlockRef>> {
    let count = reader.count(6, "blocks")?;
    let mut blocks = Vec::with_capacity(count);
    let mut previous = 0u32;
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
        let (first, last, at) = (Uid(first), Uid(last), *offset);
        previous = last.0;
        *offset = offset.saturating_add(stored as usize);
        blocks.push(BlockRef { first, last, offset: at, stored, raw, rows, checksum });
    }
    Ok(blocks)
}

/// The rows of a decompressed block: UID, and the row's range in `raw`. Ascending by UID.
pub(crate) fn read_rows(raw: &[u8]) -> Decoded<Vec<(Uid, Range<usize>)>> {
    if raw.len() > BLOCK_MAX as usize {
        return Err(Malformed("size of a block"));
    }
    let mut reader = Reader::new(raw);
    let mut rows = Vec::new();
    let mut previous = 0u32;
    while !reader.is_empty() {
        let step = reader.varint_u32("uid of a row")?;
        let uid = previous.checked_add(step).ok_or(Malformed("uid of a row"))?;
        previous = uid;
        let row = reader.bytes("row")?;
        // The end of `row` in `raw`, whose rest the reader still has.
        let end = raw.len() - reader.remaining();
        rows.push((Uid(uid), end - row.len()..end));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const COLUMNS: usize = 2;
    /// A UID and its row in each column.
    type Made = Vec<(Uid, [Vec<u8>; COLUMNS])>;

    fn any_rows() -> impl Strategy<Value = Made> {
        let row = (0u32..9, [vec(any::<u8>(), 0..3_000), vec(any::<u8>(), 0..50)]);
        vec(row, 0..60).prop_map(|rows| {
            let mut uid = 0;
            let row = |(step, row)| {
                uid += step;
                (Uid(uid), row)
            };
            rows.into_iter().map(row).collect()
        })
    }

    type Builder<C> = BlockRunBuilder<COLUMNS, C>;

    fn builder() -> Builder<impl FnMut(Vec<u8>) -> Vec<u8>> {
        Builder::new(|raw| raw)
    }

    fn push_all(builder: &mut Builder<impl FnMut(Vec<u8>) -> Vec<u8>>, rows: &Made) {
        for (uid, row) in rows {
            row.iter().enumerate().for_each(|(column, row)| builder.push(column, *uid, row));
        }
    }

    fn run(rows: &Made) -> Option<MadeRun> {
        let mut builder = builder();
        push_all(&mut builder, rows);
        builder.finish()
    }

    fn check(made: &MadeRun, rows: &Made) {
        let index = read_index(&made.payload).unwrap();
        for column in 0..COLUMNS {
            let mut found = Vec::new();
            for block in index.column(column) {
                let raw = &made.payload[block.offset..][..block.stored as usize];
                block.verify(raw).unwrap();
                assert!(!block.is_compressed());
                let rows = read_rows(raw).unwrap();
                assert_eq!((rows[0].0, rows.last().unwrap().0), (block.first, block.last));
                assert_eq!(rows.len(), block.rows as usize);
                found.extend(rows.into_iter().map(|(uid, at)| (uid, raw[at].to_vec())));
            }
            let expected: Vec<(Uid, Vec<u8>)> =
                rows.iter().map(|(uid, row)| (*uid, row[column].clone())).collect();
            assert_eq!(found, expected);
            let block = index.block_of(column, made.first).unwrap();
            assert_eq!(block.first, made.first);
            let all: u32 = index.column(column).iter().map(|block| block.stored).sum();
            assert_eq!(index.octets_from(column, &block, usize::MAX), all as usize);
            assert_eq!(index.octets_from(column, &block, 0), block.stored as usize);
        }
        assert_eq!((made.first, made.last), (rows[0].0, rows.last().unwrap().0));
        assert_eq!(made.rows as usize, rows.len());
    }

    proptest! {
        #[test]
        fn runs_round_trip_also_joined(rows in any_rows(), at: prop::sample::Index) {
            let at = if rows.is_empty() { 0 } else { at.index(rows.len()) };
            let Some(made) = run(&rows) else {
                prop_assert!(rows.is_empty());
                return Ok(());
            };
            check(&made, &rows);
            let mut joined = builder();
            if let Some(older) = run(&rows[..at].to_vec()) {
                joined.adopt(&older.payload).unwrap();
            }
            push_all(&mut joined, &rows[at..].to_vec());
            check(&joined.finish().unwrap(), &rows);
        }

        #[test]
        fn damage_is_noticed(rows in any_rows(), bit: prop::sample::Index) {
            let Some(MadeRun { mut payload, .. }) = run(&rows) else { return Ok(()) };
            let bit = bit.index(payload.len() * 8);
            payload[bit / 8] ^= 1 << (bit % 8);
            let whole = read_index(&payload).and_then(|index| {
                index.columns.iter().flatten().try_for_each(|block| {
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
