//! Message cards: what lists and sorts of a mailbox need of its messages, kept beside them and apart
//! from their bodies, in runs of blocks.
//!
//! A card is the message's summary, opaque here, with the place of the body that it was made of: a card
//! whose body is another than the message's says nothing of it. Pure. docs/disk_format.md, "Card run",
//! is the drawing.
//!
//! Invariant: cards are derived. What of them cannot be read is made again from the bodies.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::ops::Range;

use super::{
    blocks::{self, BlockRunBuilder},
    codec::{Decoded, Put, Reader},
};
use crate::model::{Lsn, Uid};

/// Bytes of a summary that is not worth a card: its message is read instead.
pub(crate) const CARD_MAX: usize = blocks::ROW_MAX - 32;
/// Cards in one run, at the most.
pub(crate) const RUN_CARDS_MAX: usize = 1024;

/// One message's card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Card<'a> {
    pub uid: Uid,
    /// The entry that holds the body's block.
    pub body: Lsn,
    pub summary: &'a [u8],
}

impl Card<'_> {
    /// Adds it to a run; UIDs ascend.
    pub(crate) fn put<C: FnMut(Vec<u8>) -> Vec<u8>>(&self, run: &mut BlockRunBuilder<C>) {
        let mut row = Vec::with_capacity(self.summary.len() + 16);
        row.put_varint(self.body.0);
        row.put_bytes(self.summary);
        run.push(self.uid, &row);
    }
}

/// The cards of a block, decompressed: UID, the body's place, and where in `raw` the summary lies.
/// Ascending by UID.
pub(crate) fn read_block(raw: &[u8]) -> Decoded<Vec<(Uid, Lsn, Range<usize>)>> {
    let card = |(uid, at): (Uid, Range<usize>)| {
        let mut row = Reader::new(raw.get(at.clone()).unwrap_or_default());
        let body = Lsn(row.varint("body of a card")?);
        let summary = row.bytes("summary of a card")?;
        let end = at.end - row.remaining();
        Ok((uid, body, end - summary.len()..end))
    };
    blocks::read_rows(raw)?.into_iter().map(card).collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn cards_round_trip(cards in vec((any::<u64>(), vec(any::<u8>(), 0..300)), 1..20)) {
            let mut builder = BlockRunBuilder::new(|raw| raw);
            for (uid, (body, summary)) in (1..).zip(&cards) {
                Card { uid: Uid(uid), body: Lsn(*body), summary }.put(&mut builder);
            }
            let (payload, ..) = builder.finish().unwrap();
            let block = blocks::read_index(&payload).unwrap()[0];
            let raw = &payload[block.offset..][..block.stored as usize];
            let read = read_block(raw).unwrap();
            prop_assert_eq!(read.len(), cards.len());
            for ((uid, body, at), (n, card)) in read.into_iter().zip((1..).zip(cards)) {
                prop_assert_eq!((uid, body, raw[at].to_vec()), (Uid(n), Lsn(card.0), card.1));
            }
        }

        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..60)) {
            let _ = read_block(&bytes);
        }
    }
}
