//! Message cards: what lists and sorts of a mailbox need of its messages, kept beside them and apart
//! from their bodies. One entry of the log holds the cards of a range of UIDs, in blocks.
//!
//! A card is the message's summary, opaque here, with the place of the body that it was made of: a card
//! whose body is another than the message's says nothing of it. Blocks are compressed and have checksums
//! of their own, and an index in front says where each lies: so one is read without the others. Pure;
//! compressing is the caller's. docs/disk_format.md, "Card run", is the drawing.
//!
//! Invariant: cards are derived. What of them cannot be read is made again from the bodies.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::ops::Range;

use super::codec::{Decoded, Malformed, Put, Reader};
use crate::model::{Lsn, Uid};

/// Bytes of cards in a block before it is closed: large enough to compress well, and opened in some
/// 50 µs.
const BLOCK_TARGET: usize = 32 * 1024;
/// Bytes of a summary that is not worth a card: its message is read instead.
pub(crate) const CARD_MAX: usize = 16 * 1024;
/// Bytes of a block that a reader believes.
const BLOCK_MAX: u32 = 64 * 1024;
/// Cards in one run, at the most.
pub(crate) const RUN_CARDS_MAX: usize = 1024;
/// Bytes before the index: its length and its checksum.
const FRAME: usize = 8;

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
}

/// One message's card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Card<'a> {
    pub uid: Uid,
    /// The entry that holds the body's block.
    pub body: Lsn,
    pub summary: &'a [u8],
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

/// Puts a run together.
pub(crate) struct CardRunBuilder<C> {
    /// Compresses a block if that pays.
    compress: C,
    blocks: Vec<BlockRef>,
    data: Vec<u8>,
    open: Vec<u8>,
    open_first: Uid,
    open_cards: u32,
    last: Uid,
}

impl<C: FnMut(Vec<u8>) -> Vec<u8>> CardRunBuilder<C> {
    pub(crate) fn new(compress: C) -> CardRunBuilder<C> {
        CardRunBuilder {
            compress,
            blocks: Vec::new(),
            data: Vec::new(),
            open: Vec::new(),
            open_first: Uid(0),
            open_cards: 0,
            last: Uid(0),
        }
    }

    /// Adds a card; UIDs ascend.
    pub(crate) fn push(&mut self, card: &Card<'_>) {
        if self.open.is_empty() {
            self.open_first = card.uid;
            self.last = Uid(0);
        }
        self.open.put_varint(u64::from(card.uid.0.wrapping_sub(self.last.0)));
        let mut content = Vec::with_capacity(card.summary.len() + 16);
        content.put_varint(card.body.0);
        content.put_bytes(card.summary);
        self.open.put_bytes(&content);
        self.last = card.uid;
        self.open_cards += 1;
        if self.open.len() >= BLOCK_TARGET {
            self.close_block();
        }
    }

    /// Adds the blocks of an older run, as they are. Its UIDs are above all so far.
    pub(crate) fn adopt(&mut self, payload: &[u8]) -> Decoded<()> {
        self.close_block();
        for block in read_index(payload)? {
            let range = block.offset..block.offset + block.stored as usize;
            let stored = payload.get(range).ok_or(Malformed("block of cards"))?;
            block.verify(stored)?;
            self.blocks.push(BlockRef { offset: self.data.len(), ..block });
            self.data.extend_from_slice(stored);
        }
        Ok(())
    }

    fn close_block(&mut self) {
        if self.open_cards == 0 {
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
            cards: std::mem::take(&mut self.open_cards),
            checksum: crc32c::crc32c(&stored),
        });
        self.data.extend_from_slice(&stored);
    }

    /// The run's payload, the first and the last UID in it, and how many cards; `None` without any.
    pub(crate) fn finish(mut self) -> Option<(Vec<u8>, Uid, Uid, u32)> {
        self.close_block();
        let (first, last) = (self.blocks.first()?.first, self.blocks.last()?.last);
        let cards = self.blocks.iter().map(|block| block.cards).sum();
        let mut index = Vec::with_capacity(8 + 24 * self.blocks.len());
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
        let mut payload = Vec::with_capacity(FRAME + index.len() + self.data.len());
        payload.extend_from_slice(&(index.len() as u32).to_le_bytes());
        payload.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
        payload.extend_from_slice(&index);
        payload.extend_from_slice(&self.data);
        Some((payload, first, last, cards))
    }
}

/// Bytes from a payload's start to the end of its index; `start` has at least [`FRAME`] of them.
pub(crate) fn index_len(start: &[u8]) -> Decoded<usize> {
    let (length, _) = start.split_first_chunk::<4>().ok_or(Malformed("index of cards"))?;
    Ok(FRAME.saturating_add(u32::from_le_bytes(*length) as usize))
}

/// The blocks of a run, from a payload's start, at least [`index_len`] of it.
pub(crate) fn read_index(start: &[u8]) -> Decoded<Vec<BlockRef>> {
    let end = index_len(start)?;
    let index = start.get(FRAME..end).ok_or(Malformed("index of cards"))?;
    let checksum = start.get(4..).and_then(|rest| rest.first_chunk::<4>());
    if checksum.is_none_or(|sum| u32::from_le_bytes(*sum) != crc32c::crc32c(index)) {
        return Err(Malformed("index of cards: checksum does not match"));
    }
    let mut reader = Reader::new(index);
    let count = reader.count(6, "blocks of cards")?;
    let mut blocks = Vec::with_capacity(count);
    let (mut previous, mut offset) = (0u32, end);
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
        let (first_uid, last_uid) = (Uid(first), Uid(last));
        blocks.push(BlockRef {
            first: first_uid,
            last: last_uid,
            offset,
            stored,
            raw,
            cards,
            checksum,
        });
        previous = last;
        offset = offset.saturating_add(stored as usize);
    }
    Ok(blocks)
}

/// The cards of a block, decompressed: UID, the body's place, and where in `raw` the summary lies.
/// Ascending by UID.
pub(crate) fn read_block(raw: &[u8]) -> Decoded<Vec<(Uid, Lsn, Range<usize>)>> {
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
        let summary = content.bytes("summary of a card")?;
        let summary_end = end - content.remaining();
        cards.push((Uid(uid), body, summary_end - summary.len()..summary_end));
    }
    Ok(cards)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    type Made = Vec<(Uid, Lsn, Vec<u8>)>;

    fn any_cards() -> impl Strategy<Value = Made> {
        let card = (1u32..9, any::<u64>(), vec(any::<u8>(), 0..3_000));
        vec(card, 0..60).prop_map(|cards| {
            let mut uid = 0;
            let card = |(step, body, summary)| {
                uid += step;
                (Uid(uid), Lsn(body), summary)
            };
            cards.into_iter().map(card).collect()
        })
    }

    fn push_all(
        builder: &mut CardRunBuilder<impl FnMut(Vec<u8>) -> Vec<u8>>,
        cards: &[(Uid, Lsn, Vec<u8>)],
    ) {
        for (uid, body, summary) in cards {
            builder.push(&Card { uid: *uid, body: *body, summary });
        }
    }

    fn read_all(payload: &[u8]) -> Made {
        let mut found = Made::new();
        for block in read_index(payload).unwrap() {
            let raw = &payload[block.offset..][..block.stored as usize];
            block.verify(raw).unwrap();
            assert!(!block.is_compressed());
            let cards = read_block(raw).unwrap();
            assert_eq!((cards[0].0, cards.last().unwrap().0), (block.first, block.last));
            assert_eq!(cards.len(), block.cards as usize);
            found.extend(cards.into_iter().map(|(uid, body, at)| (uid, body, raw[at].to_vec())));
        }
        found
    }

    proptest! {
        #[test]
        fn runs_round_trip_also_joined(cards in any_cards(), at: prop::sample::Index) {
            let at = if cards.is_empty() { 0 } else { at.index(cards.len()) };
            let run = |cards: &[(Uid, Lsn, Vec<u8>)]| {
                let mut builder = CardRunBuilder::new(|raw| raw);
                push_all(&mut builder, cards);
                builder.finish()
            };
            let Some((payload, first, last, count)) = run(&cards) else {
                prop_assert!(cards.is_empty());
                return Ok(());
            };
            prop_assert_eq!(read_all(&payload), cards.clone());
            prop_assert_eq!((first, last), (cards[0].0, cards.last().unwrap().0));
            prop_assert_eq!(count as usize, cards.len());

            let mut joined = CardRunBuilder::new(|raw| raw);
            if let Some((older, ..)) = run(&cards[..at]) {
                joined.adopt(&older).unwrap();
            }
            push_all(&mut joined, &cards[at..]);
            let (payload, _, _, count) = joined.finish().unwrap();
            prop_assert_eq!(read_all(&payload), cards.clone());
            prop_assert_eq!(count as usize, cards.len());
        }

        #[test]
        fn damage_is_noticed(cards in any_cards(), bit: prop::sample::Index) {
            let mut builder = CardRunBuilder::new(|raw| raw);
            push_all(&mut builder, &cards);
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
            let _ = (read_index(&bytes).is_ok(), read_block(&bytes).is_ok());
            let mut checked = (bytes.len() as u32).to_le_bytes().to_vec();
            checked.extend(crc32c::crc32c(&bytes).to_le_bytes());
            checked.extend_from_slice(&bytes);
            let _ = read_index(&checked);
        }
    }
}
