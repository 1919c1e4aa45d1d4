//! Which messages of a mailbox have cards, and where these lie.
//!
//! Cards are made by checkpoints, in the order of UIDs, once enough messages are without: a mailbox that
//! gets a message now and then costs nothing, and its few cards are as quickly read from the messages.
//! Runs are disjoint and ascend. A run that cannot be read is given up with all that follow it; the next
//! checkpoints make them anew.

use super::super::format::{
    cards::{CARD_PARTS, CardRunRef, RUN_CARDS_MAX},
    codec::{Decoded, Malformed, Put, Reader},
};
use crate::model::{Lsn, Uid};

/// Messages without cards before a checkpoint makes them some, by default.
pub(crate) const CARDS_WANTED: u32 = 64;
/// Superfluous cards that are never worth making all anew.
const CARD_GARBAGE_MIN: usize = 1024;
/// Fewest bytes that a run takes in a page.
const RUN_MIN: usize = 6;

/// Whether the cards of `run` lack parts that are made now.
pub(crate) fn is_older(run: &CardRunRef) -> bool {
    (run.parts as usize) < CARD_PARTS
}

/// The cards of one mailbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MailboxCards {
    runs: Vec<CardRunRef>,
    /// Messages with lower UIDs have their cards, or get none.
    next: Uid,
}

impl Default for MailboxCards {
    fn default() -> MailboxCards {
        MailboxCards { runs: Vec::new(), next: Uid(1) }
    }
}

impl MailboxCards {
    pub(crate) fn runs(&self) -> &[CardRunRef] {
        &self.runs
    }

    /// The first UID that no checkpoint has looked at.
    pub(crate) fn next(&self) -> Uid {
        self.next
    }

    /// The run that holds the card of `uid`, if there is one.
    pub(crate) fn run_of(&self, uid: Uid) -> Option<CardRunRef> {
        let at = self.runs.partition_point(|run| run.last < uid);
        self.runs.get(at).filter(|run| run.first <= uid).copied()
    }

    /// At least so many messages below `uid_next` may have none.
    pub(crate) fn wanted(&self, uid_next: Uid, least: u32) -> bool {
        uid_next.0.saturating_sub(self.next.0) >= least
    }

    /// How many of the newest runs to join with `new` cards, so that their number stays logarithmic.
    pub(crate) fn to_join(&self, new: usize) -> usize {
        let mut cards = new;
        let small = |run: &&CardRunRef| {
            let size = run.cards as usize;
            let joins = size <= cards && cards + size <= RUN_CARDS_MAX;
            cards += size;
            joins
        };
        self.runs.iter().rev().take_while(small).count()
    }

    /// A checkpoint wrote `run` for the messages below `next`, with the cards of the newest `joined`
    /// runs in it; which are of no use any more. `run` is `None` if none of the messages gets a card.
    pub(crate) fn add(
        &mut self,
        joined: usize,
        run: Option<CardRunRef>,
        next: Uid,
    ) -> Vec<CardRunRef> {
        let kept = self.runs.len().saturating_sub(joined);
        let replaced = self.runs.split_off(kept);
        self.runs.extend(run);
        self.next = next;
        debug_assert!(self.runs.is_sorted_by(|a, b| a.last < b.first));
        replaced
    }

    /// The run at `lsn` cannot be read: it and what follows are given up.
    pub(crate) fn give_up(&mut self, lsn: Lsn) -> Vec<CardRunRef> {
        let Some(at) = self.runs.iter().position(|run| run.lsn == lsn) else { return Vec::new() };
        let lost = self.runs.split_off(at);
        self.next = lost.first().map_or(self.next, |run| run.first.min(self.next));
        lost
    }

    /// Gives up what was made before cards had the parts they have now, and what follows.
    pub(crate) fn give_up_older(&mut self) -> Vec<CardRunRef> {
        let older = self.runs.iter().find(|run| is_older(run)).map(|run| run.lsn);
        older.map_or_else(Vec::new, |lsn| self.give_up(lsn))
    }

    /// Gives all up if there are many more than `messages`: what was expunged stays in them. Made anew
    /// they are paid for by past changes.
    pub(crate) fn give_up_garbage(&mut self, messages: u32) -> Vec<CardRunRef> {
        let cards: usize = self.runs.iter().map(|run| run.cards as usize).sum();
        match cards > 2 * messages as usize + CARD_GARBAGE_MIN {
            true => std::mem::take(self).runs,
            false => Vec::new(),
        }
    }

    /// Appends what a page says of them.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_varint(u64::from(self.next.0));
        out.put_varint(self.runs.len() as u64);
        let mut previous = 0;
        for run in &self.runs {
            let mut record = Vec::with_capacity(24);
            record.put_varint(run.lsn.0);
            record.put_varint(u64::from(run.entry_len));
            record.put_varint(u64::from(run.first.0.wrapping_sub(previous)));
            record.put_varint(u64::from(run.last.0.wrapping_sub(run.first.0)));
            record.put_varint(u64::from(run.cards));
            record.put_varint(u64::from(run.parts));
            out.put_bytes(&record);
            previous = run.last.0;
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Decoded<MailboxCards> {
        let next = Uid(reader.varint_u32("next card")?);
        let count = reader.count(RUN_MIN, "card runs")?;
        let mut runs = Vec::with_capacity(count);
        let mut previous = 0u32;
        for _ in 0..count {
            let mut record = Reader::new(reader.bytes("card run")?);
            let lsn = Lsn(record.varint("card run lsn")?);
            let entry_len = record.varint_u32("card run length")?;
            let step = record.varint_u32("first card")?;
            let first = previous.checked_add(step).filter(|_| step > 0);
            let first = first.ok_or(Malformed("first card"))?;
            let last = first.checked_add(record.varint_u32("last card")?);
            let last = last.ok_or(Malformed("last card"))?;
            let cards = record.varint_u32("cards")?;
            // Of runs that were written before cards had parts nothing follows.
            let parts = if record.is_empty() { 0 } else { record.varint_u32("parts")? };
            let (first, last) = (Uid(first), Uid(last));
            runs.push(CardRunRef { lsn, entry_len, first, last, cards, parts });
            previous = last.0;
        }
        Ok(MailboxCards { runs, next })
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        self.runs.capacity() * size_of::<CardRunRef>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lsn: u64, first: u32, last: u32, cards: u32) -> CardRunRef {
        CardRunRef {
            lsn: Lsn(lsn),
            entry_len: 8 * cards,
            first: Uid(first),
            last: Uid(last),
            cards,
            parts: CARD_PARTS as u32,
        }
    }

    fn shelf(runs: &[CardRunRef]) -> MailboxCards {
        let mut cards = MailboxCards::default();
        for run in runs {
            cards.add(0, Some(*run), Uid(run.last.0 + 1));
        }
        cards
    }

    #[test]
    fn cards_are_found_joined_and_given_up() {
        let runs = [run(10, 1, 900, 900), run(20, 901, 1000, 100), run(30, 1101, 1170, 70)];
        let mut cards = shelf(&runs);
        for (uid, expected) in [(1, Some(10)), (900, Some(10)), (901, Some(20)), (1050, None)] {
            assert_eq!(cards.run_of(Uid(uid)).map(|run| run.lsn.0), expected, "{uid}");
        }
        assert_eq!(cards.run_of(Uid(1171)), None);
        assert!(!cards.wanted(Uid(1171 + 63), 64) && cards.wanted(Uid(1171 + 64), 64));
        // 70 joins 64 no, 70 joins 80 yes, then 100 joins 150 yes; 900 does not fit.
        assert_eq!((cards.to_join(64), cards.to_join(80)), (0, 2));
        let replaced = cards.add(2, Some(run(40, 901, 1300, 250)), Uid(1301));
        assert_eq!(replaced, runs[1..]);
        let mut page = Vec::new();
        cards.put(&mut page);
        assert_eq!(MailboxCards::read(&mut Reader::new(&page)).unwrap(), cards);

        assert!(cards.give_up_garbage(1_000).is_empty());
        assert_eq!(cards.clone().give_up_garbage(20).len(), 2);
        assert!(cards.give_up(Lsn(99)).is_empty());
        assert_eq!(cards.give_up(Lsn(40)).len(), 1);
        assert_eq!((cards.next(), cards.runs()), (Uid(901), &runs[..1]));
    }

    #[test]
    fn runs_without_parts_are_given_up() {
        let older = CardRunRef { parts: 0, ..run(20, 901, 1000, 100) };
        let mut cards = shelf(&[run(10, 1, 900, 900), older, run(30, 1101, 1170, 70)]);
        let mut page = Vec::new();
        cards.put(&mut page);
        assert_eq!(MailboxCards::read(&mut Reader::new(&page)).unwrap(), cards);
        assert_eq!(cards.give_up_older().len(), 2);
        assert_eq!(cards.next(), Uid(901));
        assert!(cards.give_up_older().is_empty());
    }

    /// A page that was written before cards had parts.
    #[test]
    fn pages_of_runs_without_parts_are_read() {
        let mut page = Vec::new();
        page.put_varint(101);
        page.put_varint(1);
        page.put_bytes(&[10, 90, 1, 99, 100]);
        let cards = MailboxCards::read(&mut Reader::new(&page)).unwrap();
        let expected = CardRunRef {
            lsn: Lsn(10),
            entry_len: 90,
            first: Uid(1),
            last: Uid(100),
            cards: 100,
            parts: 0,
        };
        assert_eq!((cards.next(), cards.runs()), (Uid(101), &[expected][..]));
    }
}
