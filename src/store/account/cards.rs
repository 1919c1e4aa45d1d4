//! Which messages of a mailbox have cards, and the locations of their runs.
//!
//! Checkpoints make cards, in UID order, once enough messages have none: a mailbox that gets few
//! messages costs nothing, and reading its few messages instead is as fast. Runs are disjoint and
//! ascend. A run that cannot be read is given up with all later ones; the next checkpoints make
//! them again.

use super::super::format::{
    blocks::{BlockRunRef, RUN_REF_MIN},
    cards::{CARD_PARTS, RUN_CARDS_MAX},
    codec::{Decoded, Malformed, Put, Reader},
};
use crate::model::{Lsn, Uid};

/// A checkpoint makes cards once at least this many messages may have none (default).
pub(crate) const CARDS_WANTED: u32 = 64;
/// Number of garbage cards that is never worth making all cards again.
const CARD_GARBAGE_MIN: usize = 1024;
/// The cards of one mailbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MailboxCards {
    runs: Vec<BlockRunRef>,
    /// Messages with lower UIDs have their cards, or get none.
    next: Uid,
}

impl Default for MailboxCards {
    fn default() -> MailboxCards {
        MailboxCards { runs: Vec::new(), next: Uid(1) }
    }
}

impl MailboxCards {
    pub(crate) fn runs(&self) -> &[BlockRunRef] {
        &self.runs
    }

    /// The first UID that no checkpoint has processed.
    pub(crate) fn next(&self) -> Uid {
        self.next
    }

    /// The run that holds the card of `uid`, if there is one.
    pub(crate) fn run_of(&self, uid: Uid) -> Option<BlockRunRef> {
        let at = self.runs.partition_point(|run| run.last < uid);
        self.runs.get(at).filter(|run| run.first <= uid).copied()
    }

    /// Whether at least `least` messages below `uid_next` may have no card.
    pub(crate) fn wanted(&self, uid_next: Uid, least: u32) -> bool {
        uid_next.0.saturating_sub(self.next.0) >= least
    }

    /// How many of the newest runs to join with `new` cards: keeps the number of runs logarithmic.
    pub(crate) fn to_join(&self, new: usize) -> usize {
        let mut cards = new;
        let small = |run: &&BlockRunRef| {
            let size = run.rows as usize;
            let joins = size <= cards && cards + size <= RUN_CARDS_MAX;
            cards += size;
            joins
        };
        self.runs.iter().rev().take_while(small).count()
    }

    /// Records that a checkpoint wrote `run` for the messages below `next`, including the cards of
    /// the newest `joined` runs; returns those runs, no longer needed. `run` is `None` if none of
    /// the messages gets a card.
    pub(crate) fn add(
        &mut self,
        joined: usize,
        run: Option<BlockRunRef>,
        next: Uid,
    ) -> Vec<BlockRunRef> {
        let kept = self.runs.len().saturating_sub(joined);
        let replaced = self.runs.split_off(kept);
        self.runs.extend(run);
        self.next = next;
        debug_assert!(self.runs.is_sorted_by(|a, b| a.last < b.first));
        replaced
    }

    /// The run at `lsn` cannot be read: gives up it and all later ones, and returns them.
    pub(crate) fn give_up(&mut self, lsn: Lsn) -> Vec<BlockRunRef> {
        let Some(at) = self.runs.iter().position(|run| run.lsn == lsn) else { return Vec::new() };
        let lost = self.runs.split_off(at);
        self.next = lost.first().map_or(self.next, |run| run.first.min(self.next));
        lost
    }

    /// Gives up all cards if there are many more than `messages`: cards of expunged messages stay
    /// in runs. The past expunges pay for making the rest again.
    pub(crate) fn give_up_garbage(&mut self, messages: u32) -> Vec<BlockRunRef> {
        let cards: usize = self.runs.iter().map(|run| run.rows as usize).sum();
        match cards > 2 * messages as usize + CARD_GARBAGE_MIN {
            true => std::mem::take(self).runs,
            false => Vec::new(),
        }
    }

    /// Appends their part of an account page.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_varint(u64::from(self.next.0));
        out.put_varint(self.runs.len() as u64);
        let mut previous = Uid(0);
        for run in &self.runs {
            run.put(previous, out);
            previous = run.last;
        }
        out.put_varint(CARD_PARTS as u64);
    }

    /// Cards with a different number of parts are dropped, to be made again.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Decoded<MailboxCards> {
        let next = Uid(reader.varint_u32("next card")?);
        let count = reader.count(RUN_REF_MIN, "card runs")?;
        let mut runs = Vec::with_capacity(count);
        let mut previous = Uid(0);
        for _ in 0..count {
            let run = BlockRunRef::read(previous, reader)?;
            if run.first == previous {
                return Err(Malformed("first card"));
            }
            previous = run.last;
            runs.push(run);
        }
        let parts = if reader.is_empty() { 0 } else { reader.varint("parts of cards")? };
        match parts == CARD_PARTS as u64 {
            true => Ok(MailboxCards { runs, next }),
            false => Ok(MailboxCards::default()),
        }
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        self.runs.capacity() * size_of::<BlockRunRef>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lsn: u64, first: u32, last: u32, rows: u32) -> BlockRunRef {
        BlockRunRef { lsn: Lsn(lsn), entry_len: 8 * rows, first: Uid(first), last: Uid(last), rows }
    }

    fn shelf(runs: &[BlockRunRef]) -> MailboxCards {
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
        // 70 does not join 64, but joins 80; then 100 joins 150; 900 does not fit.
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
    fn cards_of_other_parts_are_made_anew() {
        let mut page = Vec::new();
        shelf(&[run(10, 1, 900, 900)]).put(&mut page);
        for parts in [&[][..], &[CARD_PARTS as u8 + 1]] {
            let end = page.len() - 1;
            let other = [&page[..end], parts].concat();
            let read = MailboxCards::read(&mut Reader::new(&other)).unwrap();
            assert_eq!(read, MailboxCards::default());
        }
    }
}
