//! Message cards: what lists and sorts of a mailbox need of its messages, kept beside them and apart
//! from their bodies, in runs of blocks.
//!
//! A card has parts, made of the message's summary and opaque here. Each part is a column of the run, so
//! that who wants one part of many messages reads no others. With each part stands the place of the body
//! that it was made of: one whose body is another than the message's says nothing of it. Pure.
//! docs/disk_format.md, "Card run", is the drawing.
//!
//! Invariant: cards are derived. What of them cannot be read is made again from the bodies.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::ops::Range;

use super::{
    blocks::{BlockRunBuilder, ROW_MAX, read_rows},
    codec::{Decoded, Put, Reader},
};
use crate::model::{Lsn, Uid};

/// Bytes of a part, or of a summary, from which on it is not worth a card: its message is read instead.
pub(crate) const CARD_MAX: usize = ROW_MAX - 32;
/// Parts of a card. Who looks for one of them does not read the others.
pub const CARD_PARTS: usize = 3;
/// Cards in one run, at the most.
pub(crate) const RUN_CARDS_MAX: usize = 1024;

/// Makes the parts of a card of a message's summary: called with the summary and with a part's vector
/// for each, all empty. Has to answer the same for the same summary: cards are verified by it.
pub type CardSplit = fn(&[u8], &mut [Vec<u8>; CARD_PARTS]);

/// The first part is the summary, the others are empty.
pub(crate) fn undivided(summary: &[u8], parts: &mut [Vec<u8>; CARD_PARTS]) {
    let [first, ..] = parts;
    first.extend_from_slice(summary);
}

/// One message's card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Card<'a> {
    pub uid: Uid,
    /// The entry that holds the body's block.
    pub body: Lsn,
    pub parts: &'a [Vec<u8>; CARD_PARTS],
}

impl Card<'_> {
    /// Adds it to a run; UIDs ascend. `row` is a buffer.
    pub(crate) fn put<C: FnMut(Vec<u8>) -> Vec<u8>>(
        &self,
        run: &mut BlockRunBuilder<CARD_PARTS, C>,
        row: &mut Vec<u8>,
    ) {
        for (column, part) in self.parts.iter().enumerate() {
            row.clear();
            row.put_varint(self.body.0);
            row.put_bytes(part);
            run.push(column, self.uid, row);
        }
    }
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

/// The cards of a block, decompressed. Ascending by UID.
pub(crate) fn read_block(raw: &[u8]) -> Decoded<Vec<CardPlace>> {
    let card = |(uid, at): (Uid, Range<usize>)| {
        let mut row = Reader::new(raw.get(at.clone()).unwrap_or_default());
        let body = Lsn(row.varint("body of a card")?);
        let part = row.bytes("part of a card")?;
        let end = at.end - row.remaining();
        let (start, end) = ((end - part.len()) as u32, end as u32);
        Ok(CardPlace { uid, body, start, end })
    };
    read_rows(raw)?.into_iter().map(card).collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{super::blocks::read_index, *};

    proptest! {
        #[test]
        fn cards_round_trip(
            cards in vec((any::<u64>(), [vec(any::<u8>(), 0..300), vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..9)]), 1..20)
        ) {
            let (mut builder, mut row) = (BlockRunBuilder::new(|raw| raw), Vec::new());
            for (uid, (body, parts)) in (1..).zip(&cards) {
                Card { uid: Uid(uid), body: Lsn(*body), parts }.put(&mut builder, &mut row);
            }
            let payload = builder.finish().unwrap().payload;
            let index = read_index(&payload).unwrap();
            for column in 0..CARD_PARTS {
                let block = index.column(column)[0];
                let raw = &payload[block.offset..][..block.stored as usize];
                let read = read_block(raw).unwrap();
                prop_assert_eq!(read.len(), cards.len());
                for (place, (uid, (body, parts))) in read.iter().zip((1..).zip(&cards)) {
                    let found = (place.uid, place.body, &raw[place.range()]);
                    prop_assert_eq!(found, (Uid(uid), Lsn(*body), &parts[column][..]));
                }
            }
        }

        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..60)) {
            let _ = read_block(&bytes);
        }
    }
}
