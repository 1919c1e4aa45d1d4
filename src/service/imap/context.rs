//! Search results whose changes a client is told (RFC 5267 4.3): which messages of the selected
//! mailbox are in each.
//!
//! Owned by [`super::selected::Selected`], and so gone with the selection; [`super::updates`] tells
//! the changes. A result is a bit for each message, whatever was found: a mailbox of 200,000 has 25
//! KB of them, and an expunge moves these. One that is sorted has the UIDs too, in its order.
//! Shard-local.
//!
//! Invariants:
//! * bit n is the message with the sequence number n + 1, also while an EXPUNGE waits;
//! * a sorted result has the UIDs of the messages whose bits are set, each once.

use super::query::{Order, Query};
use crate::model::Uid;

/// Results of a session whose changes it is told.
pub(super) const CONTEXTS_MAX: usize = 16;

/// Octets of all of them, with their keys, but for the first, unless it is sorted: a client can
/// always have one (RFC 5267 4.3.1).
pub(super) const CONTEXT_OCTETS_MAX: usize = 2 << 20;

/// Messages of a mailbox.
#[derive(Default, Debug)]
pub(super) struct Members {
    /// Bits beyond `len` are not set.
    words: Vec<u64>,
    len: usize,
}

/// One result.
pub(super) struct Context {
    /// Of the command that asked for it.
    pub tag: String,
    /// It is told in UIDs.
    pub uid: bool,
    pub query: Query,
    members: Members,
    pub sorted: Option<Sorted>,
    /// What is fetched of new messages: the list of a FETCH.
    pub fetch: Option<Vec<u8>>,
}

/// The order of a result.
pub(super) struct Sorted {
    pub order: Order,
    pub uids: Vec<Uid>,
}

/// The results of a session.
#[derive(Default)]
pub(super) struct Contexts(Vec<Context>);

impl Members {
    pub(super) fn of(len: usize, indexes: impl IntoIterator<Item = usize>) -> Members {
        let mut members = Members { words: vec![0; len.div_ceil(64)], len };
        indexes.into_iter().for_each(|index| members.set(index, true));
        members
    }

    pub(super) fn contains(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word & 1 << (index % 64) != 0)
    }

    fn set(&mut self, index: usize, is_member: bool) {
        if let Some(word) = self.words.get_mut(index / 64).filter(|_| index < self.len) {
            let bit = 1 << (index % 64);
            *word = if is_member { *word | bit } else { *word & !bit };
        }
    }

    fn resize(&mut self, len: usize) {
        self.words.resize(len.div_ceil(64), 0);
        if let Some(last) = self.words.last_mut().filter(|_| !len.is_multiple_of(64)) {
            *last &= (1 << (len % 64)) - 1;
        }
        self.len = len;
    }

    /// Forgets the messages at `gone`, which ascends: those behind them move up.
    fn remove(&mut self, gone: &[usize]) {
        let Some(&first) = gone.first() else { return };
        let ends = gone.iter().skip(1).copied().chain([self.len]);
        let mut to = first;
        for (before, end) in gone.iter().zip(ends) {
            let mut from = before + 1;
            while from < end {
                let count = (end - from).min(64 - to % 64);
                self.put(to, count, self.bits(from, count));
                (from, to) = (from + count, to + count);
            }
        }
        self.resize(to);
    }

    /// `count` bits from `from` on, at most 64.
    fn bits(&self, from: usize, count: usize) -> u64 {
        let word = |at: usize| self.words.get(at).copied().unwrap_or_default();
        let shift = from % 64;
        let low = word(from / 64) >> shift;
        let high = if shift == 0 { 0 } else { word(from / 64 + 1) << (64 - shift) };
        (low | high) & mask(count)
    }

    /// Sets `count` bits, all of one word.
    fn put(&mut self, to: usize, count: usize, bits: u64) {
        if let Some(word) = self.words.get_mut(to / 64) {
            let shift = to % 64;
            *word = *word & !(mask(count) << shift) | bits << shift;
        }
    }
}

/// The lowest `count` bits, of 64.
fn mask(count: usize) -> u64 {
    if count < 64 { (1 << count) - 1 } else { u64::MAX }
}

impl Context {
    pub(super) fn new(
        tag: &str,
        uid: bool,
        query: Query,
        members: Members,
        sorted: Option<Sorted>,
    ) -> Context {
        Context { tag: tag.to_owned(), uid, query, members, sorted, fetch: None }
    }

    pub(super) fn contains(&self, index: usize) -> bool {
        self.members.contains(index)
    }

    /// The messages at `indexes` are in it now, or not any more.
    pub(super) fn set(&mut self, indexes: &[usize], is_member: bool) {
        indexes.iter().for_each(|&index| self.members.set(index, is_member));
    }

    fn octets(&self) -> usize {
        let sorted = self.sorted.as_ref().map_or(0, |sorted| sorted.uids.len());
        size_of::<u64>() * self.members.words.len()
            + size_of::<Uid>() * sorted
            + self.fetch.as_ref().map_or(0, Vec::len)
            + self.query.octets()
    }
}

impl Contexts {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Context> {
        self.0.iter()
    }

    pub(super) fn get(&self, at: usize) -> Option<&Context> {
        self.0.get(at)
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Context> {
        self.0.get_mut(at)
    }

    pub(super) fn has(&self, tag: &str) -> bool {
        self.0.iter().any(|context| context.tag == tag)
    }

    /// Whether new messages are fetched for one.
    pub(super) fn fetch(&self) -> bool {
        self.0.iter().any(|context| context.fetch.is_some())
    }

    /// # Errors
    /// Why its changes cannot be told (RFC 5267 4.3.1).
    pub(super) fn add(&mut self, context: Context) -> Result<(), &'static str> {
        if self.0.len() == CONTEXTS_MAX {
            return Err("Too many contexts");
        }
        let is_first = self.0.is_empty() && context.sorted.is_none();
        if !is_first && self.octets() + context.octets() > CONTEXT_OCTETS_MAX {
            return Err("The contexts take too much memory");
        }
        self.0.push(context);
        Ok(())
    }

    fn octets(&self) -> usize {
        self.0.iter().map(Context::octets).sum()
    }

    /// Whether the sorted result at `at` has no room for `more` messages.
    pub(super) fn is_full(&self, at: usize, more: usize) -> bool {
        let is_sorted = self.get(at).is_some_and(|context| context.sorted.is_some());
        is_sorted && self.octets() + size_of::<Uid>() * more > CONTEXT_OCTETS_MAX
    }

    pub(super) fn remove(&mut self, at: usize) -> Option<Context> {
        (at < self.0.len()).then(|| self.0.remove(at))
    }

    /// No further changes of the result that `tag` asked for (RFC 5267 4.3.5).
    pub(super) fn cancel(&mut self, tag: &[u8]) {
        self.0.retain(|context| context.tag.as_bytes() != tag);
    }

    /// The client was told that the messages at `gone` are expunged, and how many there are.
    pub(super) fn renumber(&mut self, gone: &[usize], len: usize) {
        for context in &mut self.0 {
            context.members.remove(gone);
            context.members.resize(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn indexes(members: &Members) -> Vec<usize> {
        (0..members.len + 200).filter(|index| members.contains(*index)).collect()
    }

    #[test]
    fn messages_that_go_and_come() {
        let mut members = Members::of(130, [0, 5, 63, 64, 65, 128, 129]);
        members.remove(&[0, 4, 63, 128]);
        assert_eq!((indexes(&members), members.len), (vec![3, 61, 62, 125], 126));
        members.resize(62);
        members.resize(200);
        assert_eq!(indexes(&members), [3, 61]);
        members.set(199, true);
        members.set(200, true);
        assert_eq!(indexes(&members), [3, 61, 199]);
        members.remove(&(0..200).collect::<Vec<_>>());
        assert_eq!((indexes(&members), members.len), (vec![], 0));
    }

    proptest! {
        #[test]
        fn members_are_a_list_without_those_that_are_gone(
            bits in prop::collection::vec(any::<bool>(), 0..400),
            seed in prop::collection::vec(0..8_usize, 400),
        ) {
            let chosen = (0..bits.len()).filter(|index| bits[*index]);
            let mut members = Members::of(bits.len(), chosen);
            let gone: Vec<usize> = (0..bits.len()).filter(|index| seed[*index] == 0).collect();
            members.remove(&gone);
            let rest = (0..bits.len()).filter(|index| seed[*index] != 0).map(|index| bits[index]);
            let expected = rest.enumerate().filter(|(_, is_in)| *is_in).map(|(index, _)| index);
            prop_assert_eq!(indexes(&members), expected.collect::<Vec<_>>());
            prop_assert_eq!(members.len, bits.len() - gone.len());
        }
    }
}
