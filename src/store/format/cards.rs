//! Message cards: what lists and sorts of a mailbox need of its messages, kept beside them and apart
//! from their bodies. One entry of the log holds the cards of a range of UIDs, in blocks.
//!
//! A card has parts, made of the message's summary and opaque here. Each part is a column of the run, in
//! blocks of its own, so that who wants one part of many messages reads no others. With each part stands
//! the place of the body that it was made of: one whose body is another than the message's says nothing
//! of it. Blocks are compressed and have checksums of their own, and an index in front says where each
//! lies: so one is read without the others. Pure; compressing is the caller's. docs/disk_format.md, "Card run", is the drawing.
//!
//! Invariant: cards are derived. What of them cannot be read is made again from the bodies.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::ops::Range;

use super::{
    blocks::BlockRunRef,
    codec::{Decoded, Malformed, Put, Reader},
};
use crate::model::{Lsn, Uid};

/// Bytes of cards in a block before it is closed: large enough to compress well, and opened in some
/// 50 µs.
const BLOCK_TARGET: usize = 32 * 1024;
/// Bytes of a part, or of a summary, from which on it is not worth a card: its message is read instead.
pub(crate) const CARD_MAX: usize = 16 * 1024;
/// Parts of a card. Who looks for one of them does not read the others.
pub const CARD_PARTS: usize = 3;
/// Bytes of a block that a reader believes.
const BLOCK_MAX: u32 = 64 * 1024;
/// Cards in one run, at the most.
pub(crate) const RUN_CARDS_MAX: usize = 1024;
/// Bytes before the index: its length and its checksum.
const FRAME: usize = 8;

/// Makes the parts of a card of a message's summary: called with the summary and with a part's vector
/// for each, all empty. Has to answer the same for the same summary: cards are verified by it.
pub type CardSplit = fn(&[u8], &mut [Vec<u8>; CARD_PARTS]);

/// The first part is the summary, the others are empty.
pub(crate) fn undivided(summary: &[u8], parts: &mut [Vec<u8>; CARD_PARTS]) {
    let [first, ..] = parts;
    first.extend_from_slice(summary);
}

/// Where a run of cards lies and what of its mailbox it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CardRunRef {
    pub lsn: Lsn,
    /// Bytes of its entry in the log.
    pub entry_len: u32,
    /// Its cards have UIDs from here to `last`.
    pub first: Uid,
    pub last: Uid,
    pub cards: u32,
    /// Parts that each of its cards has; 0 in runs of whole summaries, which are made anew.
    pub parts: u32,
}

impl From<CardRunRef> for BlockRunRef {
    /// What the log has of it.
    fn from(run: CardRunRef) -> BlockRunRef {
        let CardRunRef { lsn, entry_len, first, last, cards: rows, .. } = run;
        BlockRunRef { lsn, entry_len, first, last, rows }
    }
}

/// One message's card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Card<'a> {
    pub uid: Uid,
    /// The entry that holds the body's block.
    pub body: Lsn,
    pub parts: &'a [Vec<u8>; CARD_PARTS],
}

/// What a block has of one card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CardPlace {
    pub uid: Uid,
    /// As [`Card::body`].
    pub body: Lsn,
    /// Where its octets lie in the opened block.
    start: u32,
    end: u32,
}

impl CardPlace {
    pub(crate) fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Where the blocks of a run lie: each column has its own, of other UIDs than the next one's.
#[derive(PartialEq, Eq, Default, Debug)]
pub(crate) struct RunIndex {
    /// Of whole summaries, as runs had them whose cards have no parts.
    pub whole: Vec<BlockRef>,
    pub parts: [Vec<BlockRef>; CARD_PARTS],
}

impl RunIndex {
    /// The block of `part` that may have the card of `uid`.
    pub(crate) fn block_of(&self, part: usize, uid: Uid) -> Option<BlockRef> {
        block_of(self.parts.get(part)?, uid)
    }

    /// The block that may have the whole summary of `uid`.
    pub(crate) fn whole_block_of(&self, uid: Uid) -> Option<BlockRef> {
        block_of(&self.whole, uid)
    }

    /// Octets from where `place` begins to the end of the last block of its column that ends within
    /// `most` of them; its own at least.
    pub(crate) fn octets_from(&self, place: &BlockRef, most: usize) -> usize {
        let Some(column) = self.columns().find(|column| column.contains(place)) else {
            return place.stored as usize;
        };
        let ends = column.iter().map(|it| it.offset.saturating_add(it.stored as usize));
        let sizes = ends.filter_map(|end| end.checked_sub(place.offset));
        sizes.filter(|&size| size <= most).fold(place.stored as usize, usize::max)
    }

    fn columns(&self) -> impl Iterator<Item = &Vec<BlockRef>> {
        std::iter::once(&self.whole).chain(&self.parts)
    }
}

fn block_of(blocks: &[BlockRef], uid: Uid) -> Option<BlockRef> {
    let at = blocks.partition_point(|block| block.last < uid);
    blocks.get(at).filter(|block| block.first <= uid).copied()
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
    cards: u32,
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
            false => Err(Malformed("block of cards: checksum does not match")),
        }
    }
}

/// One column of a run in the making.
struct Column {
    blocks: Vec<BlockRef>,
    data: Vec<u8>,
    open: Vec<u8>,
    open_first: Uid,
    open_cards: u32,
    last: Uid,
}

impl Default for Column {
    fn default() -> Column {
        Column {
            blocks: Vec::new(),
            data: Vec::new(),
            open: Vec::new(),
            open_first: Uid(0),
            open_cards: 0,
            last: Uid(0),
        }
    }
}

impl Column {
    fn push(&mut self, uid: Uid, body: Lsn, content: &[u8]) {
        if self.open_cards == 0 {
            self.open_first = uid;
            self.last = Uid(0);
        }
        self.open.put_varint(u64::from(uid.0.wrapping_sub(self.last.0)));
        let numbers = varint_len(body.0) + varint_len(content.len() as u64);
        self.open.put_varint((numbers + content.len()) as u64);
        self.open.put_varint(body.0);
        self.open.put_bytes(content);
        self.last = uid;
        self.open_cards += 1;
    }

    fn close(&mut self, compress: &mut impl FnMut(Vec<u8>) -> Vec<u8>) {
        if self.open_cards == 0 {
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
            cards: std::mem::take(&mut self.open_cards),
            checksum: crc32c::crc32c(&stored),
        });
        self.data.extend_from_slice(&stored);
    }

    fn adopt(&mut self, blocks: &[BlockRef], payload: &[u8]) -> Decoded<()> {
        for block in blocks {
            let range = block.offset..block.offset.saturating_add(block.stored as usize);
            let stored = payload.get(range).ok_or(Malformed("block of cards"))?;
            block.verify(stored)?;
            self.blocks.push(BlockRef { offset: self.data.len(), ..*block });
            self.data.extend_from_slice(stored);
        }
        Ok(())
    }

    fn cards(&self) -> u32 {
        self.blocks.iter().map(|block| block.cards).sum()
    }

    fn put(&self, index: &mut Vec<u8>) {
        index.put_varint(self.blocks.len() as u64);
        let mut previous = 0;
        for block in &self.blocks {
            let mut record = Vec::with_capacity(24);
            record.put_varint(u64::from(block.first.0.wrapping_sub(previous)));
            record.put_varint(u64::from(block.last.0.wrapping_sub(block.first.0)));
            record.put_varint(u64::from(block.stored));
            record.put_varint(u64::from(block.raw));
            record.put_varint(u64::from(block.cards));
            record.extend_from_slice(&block.checksum.to_le_bytes());
            index.put_bytes(&record);
            previous = block.last.0;
        }
    }
}

fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Puts a run together.
pub(crate) struct CardRunBuilder<C> {
    /// Compresses a block if that pays.
    compress: C,
    whole: Column,
    parts: [Column; CARD_PARTS],
}

/// A run's payload and what it is about.
pub(crate) struct MadeRun {
    pub payload: Vec<u8>,
    pub first: Uid,
    pub last: Uid,
    pub cards: u32,
    /// As [`CardRunRef::parts`].
    pub parts: u32,
}

impl<C: FnMut(Vec<u8>) -> Vec<u8>> CardRunBuilder<C> {
    pub(crate) fn new(compress: C) -> CardRunBuilder<C> {
        CardRunBuilder { compress, whole: Column::default(), parts: Default::default() }
    }

    /// Adds a card; UIDs ascend.
    pub(crate) fn push(&mut self, card: &Card<'_>) {
        for (column, content) in self.parts.iter_mut().zip(card.parts) {
            column.push(card.uid, card.body, content);
            if column.open.len() >= BLOCK_TARGET {
                column.close(&mut self.compress);
            }
        }
    }

    /// Adds the blocks of an older run, as they are. Its UIDs are above all so far.
    pub(crate) fn adopt(&mut self, payload: &[u8]) -> Decoded<()> {
        self.parts.iter_mut().for_each(|column| column.close(&mut self.compress));
        let index = read_index(payload)?;
        self.whole.adopt(&index.whole, payload)?;
        let parts = self.parts.iter_mut().zip(&index.parts);
        parts.into_iter().try_for_each(|(column, blocks)| column.adopt(blocks, payload))
    }

    /// The run; `None` without any card.
    pub(crate) fn finish(mut self) -> Option<MadeRun> {
        self.parts.iter_mut().for_each(|column| column.close(&mut self.compress));
        let columns = || std::iter::once(&self.whole).chain(&self.parts);
        let blocks = || columns().flat_map(|column| &column.blocks);
        let first = blocks().map(|block| block.first).min()?;
        let last = blocks().map(|block| block.last).max()?;
        let [column, ..] = &self.parts;
        let cards = self.whole.cards() + column.cards();
        let parts = if self.whole.blocks.is_empty() { CARD_PARTS as u32 } else { 0 };

        let mut index = Vec::with_capacity(16 + 24 * blocks().count());
        self.whole.put(&mut index);
        index.put_varint(CARD_PARTS as u64);
        for column in &self.parts {
            let mut records = Vec::with_capacity(8 + 24 * column.blocks.len());
            column.put(&mut records);
            index.put_bytes(&records);
        }
        let data: usize = columns().map(|column| column.data.len()).sum();
        let mut payload = Vec::with_capacity(FRAME + index.len() + data);
        payload.extend_from_slice(&(index.len() as u32).to_le_bytes());
        payload.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
        payload.extend_from_slice(&index);
        columns().for_each(|column| payload.extend_from_slice(&column.data));
        Some(MadeRun { payload, first, last, cards, parts })
    }
}

/// Bytes from a payload's start to the end of its index; `start` has at least [`FRAME`] of them.
pub(crate) fn index_len(start: &[u8]) -> Decoded<usize> {
    let (length, _) = start.split_first_chunk::<4>().ok_or(Malformed("index of cards"))?;
    Ok(FRAME.saturating_add(u32::from_le_bytes(*length) as usize))
}

/// The blocks of a run, from a payload's start, at least [`index_len`] of it.
pub(crate) fn read_index(start: &[u8]) -> Decoded<RunIndex> {
    let end = index_len(start)?;
    let bytes = start.get(FRAME..end).ok_or(Malformed("index of cards"))?;
    let checksum = start.get(4..).and_then(|rest| rest.first_chunk::<4>());
    if checksum.is_none_or(|sum| u32::from_le_bytes(*sum) != crc32c::crc32c(bytes)) {
        return Err(Malformed("index of cards: checksum does not match"));
    }
    let mut reader = Reader::new(bytes);
    let mut offset = end;
    let whole = read_column(&mut reader, &mut offset)?;
    let mut index = RunIndex { whole, ..RunIndex::default() };
    if !reader.is_empty() {
        // A later version may have more parts; fewer count as missing.
        let parts = reader.count(1, "parts of cards")?;
        for part in 0..parts {
            let mut column = Reader::new(reader.bytes("part of cards")?);
            let blocks = read_column(&mut column, &mut offset)?;
            if let Some(place) = index.parts.get_mut(part) {
                *place = blocks;
            }
        }
    }
    Ok(index)
}

/// The blocks of one column, whose octets begin at `offset` of the payload; it moves on by as many.
fn read_column(reader: &mut Reader<'_>, offset: &mut usize) -> Decoded<Vec<BlockRef>> {
    let count = reader.count(6, "blocks of cards")?;
    let mut blocks = Vec::with_capacity(count);
    let mut previous = 0u32;
    for _ in 0..count {
        let mut record = Reader::new(reader.bytes("block of cards")?);
        let step = record.varint_u32("first uid")?;
        let first = previous.checked_add(step).filter(|_| step > 0);
        let first = first.ok_or(Malformed("first uid"))?;
        let last =
            first.checked_add(record.varint_u32("last uid")?).ok_or(Malformed("last uid"))?;
        let (stored, raw) = (record.varint_u32("stored")?, record.varint_u32("raw")?);
        if raw > BLOCK_MAX || stored > raw {
            return Err(Malformed("size of a block of cards"));
        }
        let cards = record.varint_u32("cards")?;
        let checksum = record.take(4, "checksum")?.first_chunk::<4>();
        let checksum = checksum.map_or(0, |sum| u32::from_le_bytes(*sum));
        let (first, last, at) = (Uid(first), Uid(last), *offset);
        previous = last.0;
        *offset = offset.saturating_add(stored as usize);
        blocks.push(BlockRef { first, last, offset: at, stored, raw, cards, checksum });
    }
    Ok(blocks)
}

/// The cards of a block, decompressed. Ascending by UID.
pub(crate) fn read_block(raw: &[u8]) -> Decoded<Vec<CardPlace>> {
    if raw.len() > BLOCK_MAX as usize {
        return Err(Malformed("size of a block of cards"));
    }
    let mut reader = Reader::new(raw);
    let mut cards = Vec::new();
    let mut previous = 0u32;
    while !reader.is_empty() {
        let step = reader.varint_u32("uid of a card")?;
        let uid =
            previous.checked_add(step).filter(|_| step > 0).ok_or(Malformed("uid of a card"))?;
        previous = uid;
        let content = reader.bytes("card")?;
        // Where `content` ends in `raw`, the rest of which the reader still has.
        let end = raw.len() - reader.remaining();
        let mut content = Reader::new(content);
        let body = Lsn(content.varint("body of a card")?);
        let part = content.bytes("part of a card")?;
        let end = end - content.remaining();
        let (start, end) = ((end - part.len()) as u32, end as u32);
        cards.push(CardPlace { uid: Uid(uid), body, start, end });
    }
    Ok(cards)
}

/// A run as it was written before cards had parts.
#[cfg(test)]
pub(crate) fn run_of_whole_summaries(cards: &[(Uid, Lsn, Vec<u8>)]) -> Vec<u8> {
    let mut column = Column::default();
    for (uid, body, summary) in cards {
        column.push(*uid, *body, summary);
        if column.open.len() >= BLOCK_TARGET {
            column.close(&mut |raw| raw);
        }
    }
    column.close(&mut |raw| raw);
    let mut index = Vec::new();
    column.put(&mut index);
    let mut payload = (index.len() as u32).to_le_bytes().to_vec();
    payload.extend(crc32c::crc32c(&index).to_le_bytes());
    payload.extend([index, column.data].concat());
    payload
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    type Parts = [Vec<u8>; CARD_PARTS];
    type Made = Vec<(Uid, Lsn, Parts)>;

    fn any_cards() -> impl Strategy<Value = Made> {
        let part = |size| vec(any::<u8>(), 0..size);
        let card = (1u32..9, any::<u64>(), [part(3_000), part(2_000), part(20)]);
        vec(card, 0..60).prop_map(|cards| {
            let mut uid = 0;
            let card = |(step, body, parts)| {
                uid += step;
                (Uid(uid), Lsn(body), parts)
            };
            cards.into_iter().map(card).collect()
        })
    }

    fn builder() -> CardRunBuilder<impl FnMut(Vec<u8>) -> Vec<u8>> {
        CardRunBuilder::new(|raw| raw)
    }

    fn push_all(
        builder: &mut CardRunBuilder<impl FnMut(Vec<u8>) -> Vec<u8>>,
        cards: &[(Uid, Lsn, Parts)],
    ) {
        for (uid, body, parts) in cards {
            builder.push(&Card { uid: *uid, body: *body, parts });
        }
    }

    fn run(cards: &[(Uid, Lsn, Parts)]) -> Option<MadeRun> {
        let mut builder = builder();
        push_all(&mut builder, cards);
        builder.finish()
    }

    fn read_column_of(payload: &[u8], blocks: &[BlockRef]) -> Vec<(Uid, Lsn, Vec<u8>)> {
        let mut found = Vec::new();
        for block in blocks {
            let raw = &payload[block.offset..][..block.stored as usize];
            block.verify(raw).unwrap();
            assert!(!block.is_compressed());
            let cards = read_block(raw).unwrap();
            assert_eq!((cards[0].uid, cards.last().unwrap().uid), (block.first, block.last));
            assert_eq!(cards.len(), block.cards as usize);
            found.extend(cards.iter().map(|it| (it.uid, it.body, raw[it.range()].to_vec())));
        }
        found
    }

    fn check(made: &MadeRun, cards: &Made) {
        let index = read_index(&made.payload).unwrap();
        assert!(index.whole.is_empty());
        for part in 0..CARD_PARTS {
            let expected: Vec<(Uid, Lsn, Vec<u8>)> =
                cards.iter().map(|(uid, body, it)| (*uid, *body, it[part].clone())).collect();
            assert_eq!(read_column_of(&made.payload, &index.parts[part]), expected);
            let block = index.block_of(part, made.first).unwrap();
            let all: u32 = index.parts[part].iter().map(|block| block.stored).sum();
            assert_eq!(index.octets_from(&block, usize::MAX), all as usize);
            assert_eq!(index.octets_from(&block, 0), block.stored as usize);
            assert!(block.first == made.first && index.whole_block_of(made.first).is_none());
        }
        assert_eq!((made.first, made.last), (cards[0].0, cards.last().unwrap().0));
        assert_eq!((made.cards as usize, made.parts as usize), (cards.len(), CARD_PARTS));
    }

    #[test]
    fn runs_of_whole_summaries_are_read_and_joined() {
        let older: Vec<(Uid, Lsn, Vec<u8>)> =
            (1..200).map(|n| (Uid(n), Lsn(u64::from(n) << 9), vec![n as u8; 900])).collect();
        let payload = run_of_whole_summaries(&older);
        let index = read_index(&payload).unwrap();
        assert!(index.whole.len() > 2 && index.parts.iter().all(Vec::is_empty));
        assert_eq!(read_column_of(&payload, &index.whole), older);
        let mut joined = builder();
        joined.adopt(&payload).unwrap();
        let parts = [vec![1], vec![2], vec![3]];
        push_all(&mut joined, &[(Uid(500), Lsn(7), parts)]);
        let made = joined.finish().unwrap();
        assert_eq!((made.first, made.last, made.cards, made.parts), (Uid(1), Uid(500), 200, 0));
        let index = read_index(&made.payload).unwrap();
        assert_eq!(read_column_of(&made.payload, &index.whole), older);
        assert_eq!(read_column_of(&made.payload, &index.parts[2]), [(Uid(500), Lsn(7), vec![3])]);
    }

    proptest! {
        #[test]
        fn runs_round_trip_also_joined(cards in any_cards(), at: prop::sample::Index) {
            let at = if cards.is_empty() { 0 } else { at.index(cards.len()) };
            let Some(made) = run(&cards) else {
                prop_assert!(cards.is_empty());
                return Ok(());
            };
            check(&made, &cards);
            let mut joined = builder();
            if let Some(older) = run(&cards[..at]) {
                joined.adopt(&older.payload).unwrap();
            }
            push_all(&mut joined, &cards[at..]);
            check(&joined.finish().unwrap(), &cards);
        }

        #[test]
        fn damage_is_noticed(cards in any_cards(), bit: prop::sample::Index) {
            let Some(MadeRun { mut payload, .. }) = run(&cards) else { return Ok(()) };
            let bit = bit.index(payload.len() * 8);
            payload[bit / 8] ^= 1 << (bit % 8);
            let whole = read_index(&payload).and_then(|index| {
                index.columns().flatten().try_for_each(|block| {
                    let stored = payload.get(block.offset..).unwrap_or_default();
                    block.verify(stored.get(..block.stored as usize).unwrap_or_default())
                })
            });
            prop_assert!(whole.is_err());
        }

        #[test]
        fn numbers_take_as_many_octets(number in any::<u64>(), shift in 0u32..64) {
            let mut out = Vec::new();
            out.put_varint(number >> shift);
            prop_assert_eq!(varint_len(number >> shift), out.len());
        }

        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..60)) {
            let _ = (read_index(&bytes).is_ok(), read_block(&bytes).is_ok());
            let mut checked = (bytes.len() as u32).to_le_bytes().to_vec();
            checked.extend(crc32c::crc32c(&bytes).to_le_bytes());
            checked.extend_from_slice(&bytes);
            let _ = read_index(&checked);
        }
    }
}
