//! Message cards: the data of messages that listing and searching a mailbox needs, kept apart from
//! the bodies in runs of blocks.
//!
//! A card has parts, made from the message's summary and opaque here. Each part is a column of the
//! run, so that a reader of one part of many messages reads no others. Each part is stored with the
//! location of the body that it was made from: if that is not the message's body, the part is
//! ignored. Pure. docs/disk_format.md, "Card run", has the layout.
//!
//! Invariant: cards are derived data. Cards that cannot be read are made again from the bodies.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::ops::Range;

use super::{
    blocks::{BlockRunBuilder, ROW_MAX, read_rows},
    codec::{Decoded, Put, Reader},
};
use crate::model::{Lsn, Uid};

/// Most bytes of a part, or of a summary; a message with a longer one gets no card and is read
/// instead.
pub(crate) const CARD_MAX: usize = ROW_MAX - 32;
/// Parts of a card. A reader of one of them does not read the others.
pub const CARD_PARTS: usize = 6;
/// Most cards in one run.
pub(crate) const RUN_CARDS_MAX: usize = 1024;

/// Makes the parts of a card from a message's summary: called with the summary and an empty vector
/// for each part. Must give the same parts for the same summary: cards are verified with it.
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
    /// Adds it to a run; UIDs ascend. `row` is a scratch buffer.
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

/// The location of one card's part in a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CardPlace {
    pub uid: Uid,
    /// As [`Card::body`].
    pub body: Lsn,
    /// The range of its octets in the opened block.
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
            cards in vec(
                (any::<u64>(), [300, 9, 9, 30, 20, 40].map(|len| vec(any::<u8>(), 0..len))),
                1..20,
            )
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
