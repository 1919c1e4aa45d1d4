//! The published messages of a mailbox as a persistent vector, shared by every session's view.
//!
//! Messages are in chunks of at most [`CHUNK_MAX`], ascending by UID; a snapshot is a vector of
//! counted pointers to chunks. Publishing changes in place what no session holds and otherwise
//! copies only the affected chunk, so one delivery into a mailbox of 200,000 messages with an open
//! view costs microseconds, and `difference` skips the chunks that both sides share.
//!
//! Only the owner's shard makes snapshots. One never changes once a session holds it, and the
//! session may be on another shard.

use std::sync::Arc;

use super::super::message::{MailboxStatus, Message};
use crate::model::{FlagSet, ModSeq, Uid};

/// Messages in a chunk: the amount a change copies while a session holds the old state (20 KiB).
const CHUNK_MAX: usize = 256;
/// A chunk that shrinks below this is merged with a neighbour if both fit in one.
const CHUNK_MIN: usize = CHUNK_MAX / 4;

type Chunk = Vec<Message>;

/// The persistent vector itself.
#[derive(Clone, Default)]
pub(crate) struct MessageTable {
    /// None is empty.
    chunks: Vec<Arc<Chunk>>,
    /// Index of each chunk's first message.
    starts: Vec<u32>,
    len: usize,
}

impl MessageTable {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn chunk_of_index(&self, index: usize) -> Option<(usize, usize)> {
        if index >= self.len {
            return None;
        }
        // Where nothing was expunged, chunks are full.
        let guess = index / CHUNK_MAX;
        let is_in = |chunk: usize| {
            let next = self.starts.get(chunk + 1).map_or(self.len, |&start| start as usize);
            (self.starts[chunk] as usize..next).contains(&index)
        };
        let chunk = match is_in(guess) {
            true => guess,
            false => self.starts.partition_point(|&start| start as usize <= index) - 1,
        };
        Some((chunk, index - self.starts[chunk] as usize))
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Message> {
        let (chunk, offset) = self.chunk_of_index(index)?;
        self.chunks[chunk].get(offset)
    }

    /// Chunk and offset in it of the first message with a UID >= `uid`.
    fn position(&self, uid: Uid) -> (usize, usize) {
        let chunk = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|m| m.uid < uid));
        let offset =
            self.chunks.get(chunk).map_or(0, |chunk| chunk.partition_point(|m| m.uid < uid));
        (chunk, offset)
    }

    pub(crate) fn lower_bound(&self, uid: Uid) -> usize {
        let (chunk, offset) = self.position(uid);
        self.starts.get(chunk).map_or(self.len, |&start| start as usize + offset)
    }

    fn find(&self, uid: Uid) -> Option<(usize, usize)> {
        let (chunk, offset) = self.position(uid);
        (self.chunks.get(chunk)?.get(offset)?.uid == uid).then_some((chunk, offset))
    }

    pub(crate) fn by_uid(&self, uid: Uid) -> Option<&Message> {
        self.find(uid).map(|(chunk, offset)| &self.chunks[chunk][offset])
    }

    pub(crate) fn iter_from(&self, index: usize) -> impl Iterator<Item = &Message> {
        let (chunk, offset) = self.chunk_of_index(index).unwrap_or((self.chunks.len(), 0));
        self.chunks[chunk..].iter().flat_map(|chunk| chunk.iter()).skip(offset)
    }

    /// `message.uid` must be above all others.
    pub(crate) fn push(&mut self, message: Message) {
        debug_assert!(
            self.chunks.last().and_then(|c| c.last()).is_none_or(|m| m.uid < message.uid)
        );
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK_MAX => Arc::make_mut(last).push(message),
            _ => {
                self.starts.push(self.len as u32);
                self.chunks.push(Arc::new(vec![message]));
            }
        }
        self.len += 1;
    }

    /// Sets flags and mod-sequence; returns the old flags, `None` if there is no such message.
    pub(crate) fn set_flags(
        &mut self,
        uid: Uid,
        flags: FlagSet,
        mod_seq: ModSeq,
    ) -> Option<FlagSet> {
        let (chunk, offset) = self.find(uid)?;
        let message = &mut Arc::make_mut(&mut self.chunks[chunk])[offset];
        let before = message.flags;
        (message.flags, message.mod_seq) = (flags, mod_seq);
        Some(before)
    }

    /// Removes `uids` (ascending), calling `removed` with each message that was there.
    pub(crate) fn remove(&mut self, uids: &[Uid], mut removed: impl FnMut(&Message)) {
        let mut first_changed = self.chunks.len();
        let mut rest = uids;
        // Chunks before this one are finished; they may be empty by now, so no search may use them.
        let mut chunk = 0;
        while let Some(&uid) = rest.first() {
            let ahead = &self.chunks[chunk..];
            chunk += ahead.partition_point(|chunk| chunk.last().is_some_and(|m| m.uid < uid));
            let Some(last) = self.chunks.get(chunk).and_then(|c| c.last()) else { break };
            let (mine, others) = rest.split_at(rest.partition_point(|&uid| uid <= last.uid));
            rest = others;
            if self.chunks[chunk].iter().any(|m| mine.binary_search(&m.uid).is_ok()) {
                let before = self.chunks[chunk].len();
                Arc::make_mut(&mut self.chunks[chunk]).retain(|message| {
                    let keep = mine.binary_search(&message.uid).is_err();
                    if !keep {
                        removed(message);
                    }
                    keep
                });
                self.len -= before - self.chunks[chunk].len();
                first_changed = first_changed.min(chunk);
            }
            chunk += 1;
        }
        self.settle(first_changed);
    }

    /// After removals from chunk `first` on: merges or drops small chunks, renumbers.
    fn settle(&mut self, first: usize) {
        if first >= self.chunks.len() {
            return;
        }
        let first = first.saturating_sub(1);
        let tail = self.chunks.split_off(first);
        self.starts.truncate(first);
        for chunk in tail {
            match self.chunks[first..].last_mut() {
                _ if chunk.is_empty() => {}
                Some(last)
                    if (chunk.len() < CHUNK_MIN || last.len() < CHUNK_MIN)
                        && last.len() + chunk.len() <= CHUNK_MAX =>
                {
                    Arc::make_mut(last).extend_from_slice(&chunk);
                }
                _ => self.chunks.push(chunk),
            }
        }
        let mut start = match (first.checked_sub(1), self.starts.last()) {
            (Some(previous), Some(&start)) => start as usize + self.chunks[previous].len(),
            _ => 0,
        };
        for chunk in &self.chunks[first..] {
            self.starts.push(start as u32);
            start += chunk.len();
        }
    }
}

/// The shared part of a [`Snapshot`].
#[derive(Clone, Default)]
pub(crate) struct Published {
    pub table: MessageTable,
    pub keywords: Arc<Vec<String>>,
    pub status: MailboxStatus,
    /// Incremented by every publication; compared by `MailboxView::changed`.
    pub generation: u64,
}

/// An immutable published state of one mailbox, shared by its sessions on all shards. Clones are
/// cheap.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) published: Arc<Published>,
}

impl Snapshot {
    pub fn len(&self) -> usize {
        self.published.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// By message sequence number minus one.
    pub fn get(&self, index: usize) -> Option<&Message> {
        self.published.table.get(index)
    }

    pub fn index_of(&self, uid: Uid) -> Option<usize> {
        let index = self.lower_bound(uid);
        (self.get(index)?.uid == uid).then_some(index)
    }

    /// Index of the first message with a UID >= `uid`; `len()` if none.
    pub fn lower_bound(&self, uid: Uid) -> usize {
        self.published.table.lower_bound(uid)
    }

    pub fn iter_from(&self, index: usize) -> impl Iterator<Item = &Message> {
        self.published.table.iter_from(index)
    }

    /// Keyword names; position = bit in `KeywordSet`. Only ever grows.
    pub fn keywords(&self) -> &[String] {
        &self.published.keywords
    }

    pub fn status(&self) -> MailboxStatus {
        self.published.status
    }

    /// Of two states of a mailbox, the later one has the higher number. Numbers begin anew when
    /// nobody has held the mailbox for a while.
    pub fn generation(&self) -> u64 {
        self.published.generation
    }

    /// Nothing was published between the two.
    pub fn is_same(&self, other: &Snapshot) -> bool {
        Arc::ptr_eq(&self.published, &other.published)
    }

    /// What changed from `self` to `newer`; cheap when little did (shared chunks are skipped).
    pub fn difference(&self, newer: &Snapshot) -> Difference {
        let mut difference = Difference {
            keywords: self.keywords().len() != newer.keywords().len(),
            ..Difference::default()
        };
        if self.is_same(newer) {
            return difference;
        }
        let mut old = Cursor::new(&self.published.table);
        let mut new = Cursor::new(&newer.published.table);
        loop {
            if let (Some(left), Some(right)) = (old.whole_chunk(), new.whole_chunk())
                && Arc::ptr_eq(left, right)
            {
                old.skip_chunk();
                new.skip_chunk();
                continue;
            }
            match (old.get(), new.get()) {
                (Some(before), Some(after)) if before.uid == after.uid => {
                    if before.mod_seq != after.mod_seq || before.flags != after.flags {
                        difference.changed.push(new.index);
                    }
                    old.step();
                    new.step();
                }
                (Some(_), _) => {
                    difference.expunged.push(old.index);
                    old.step();
                }
                (None, _) => break,
            }
        }
        difference.added = newer.len() - new.index;
        difference
    }
}

/// Walks a table by chunks.
struct Cursor<'a> {
    table: &'a MessageTable,
    chunk: usize,
    offset: usize,
    index: usize,
}

impl<'a> Cursor<'a> {
    fn new(table: &'a MessageTable) -> Cursor<'a> {
        Cursor { table, chunk: 0, offset: 0, index: 0 }
    }

    fn get(&self) -> Option<&'a Message> {
        self.table.chunks.get(self.chunk)?.get(self.offset)
    }

    /// The next chunk, if none of it was walked yet.
    fn whole_chunk(&self) -> Option<&'a Arc<Chunk>> {
        if self.offset == 0 { self.table.chunks.get(self.chunk) } else { None }
    }

    fn skip_chunk(&mut self) {
        self.index += self.table.chunks[self.chunk].len();
        self.chunk += 1;
    }

    fn step(&mut self) {
        self.index += 1;
        self.offset += 1;
        if self.offset == self.table.chunks[self.chunk].len() {
            self.chunk += 1;
            self.offset = 0;
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Indexes in the older snapshot, ascending.
    pub expunged: Vec<usize>,
    /// Indexes in the newer snapshot of messages in both whose flags or mod-sequence changed.
    pub changed: Vec<usize>,
    /// Messages that are only in the newer one: all at its end.
    pub added: usize,
    /// The keyword table grew: FLAGS must be sent again.
    pub keywords: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Flags;
    use proptest::prelude::*;

    fn message(uid: u32) -> Message {
        Message { uid: Uid(uid), ..Message::default() }
    }

    fn snapshot(table: &MessageTable) -> Snapshot {
        Snapshot { published: Arc::new(Published { table: table.clone(), ..Published::default() }) }
    }

    /// Every query on a table, compared with a plain vector.
    fn check(table: &MessageTable, model: &[Message]) {
        assert_eq!(table.len(), model.len());
        assert!(table.chunks.iter().all(|c| !c.is_empty() && c.len() <= CHUNK_MAX));
        assert_eq!(table.iter_from(0).copied().collect::<Vec<_>>(), model);
        for (index, message) in model.iter().enumerate() {
            assert_eq!(table.get(index), Some(message));
            assert_eq!(table.lower_bound(message.uid), index);
            assert_eq!(table.by_uid(message.uid), Some(message));
        }
        assert_eq!(table.get(model.len()), None);
        let middle = model.len() / 2;
        assert_eq!(table.iter_from(middle).count(), model.len() - middle);
        assert_eq!(table.iter_from(model.len() + 5).count(), 0);
    }

    fn naive_difference(old: &[Message], new: &[Message]) -> Difference {
        let expunged =
            (0..old.len()).filter(|&i| !new.iter().any(|m| m.uid == old[i].uid)).collect();
        let in_old = |m: &Message| old.iter().find(|o| o.uid == m.uid);
        let changed =
            (0..new.len()).filter(|&i| in_old(&new[i]).is_some_and(|o| *o != new[i])).collect();
        let added = new.iter().filter(|m| in_old(m).is_none()).count();
        Difference { expunged, changed, added, keywords: false }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u32),
        Flag(u32),
        Remove(u32, u32, u32),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u32..400).prop_map(Step::Push),
            any::<u32>().prop_map(Step::Flag),
            (any::<u32>(), 1u32..500, 1u32..7).prop_map(|(at, n, step)| Step::Remove(at, n, step)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn behaves_as_a_vector_and_snapshots_stay(
            steps in proptest::collection::vec(any_step(), 1..24), hold in any::<u32>()
        ) {
            let (mut table, mut model) = (MessageTable::default(), Vec::new());
            let (mut uid_next, mut mod_seq) = (1, 1);
            let mut held: Vec<(Snapshot, Vec<Message>)> = Vec::new();
            for (number, step) in steps.iter().enumerate() {
                if hold >> (number % 32) & 1 == 1 {
                    held.push((snapshot(&table), model.clone()));
                }
                mod_seq += 1;
                match *step {
                    Step::Push(count) => for _ in 0..count {
                        table.push(message(uid_next));
                        model.push(message(uid_next));
                        uid_next += 1;
                    },
                    Step::Flag(at) if !model.is_empty() => {
                        let index = at as usize % model.len();
                        let flags = FlagSet { system: Flags::SEEN, ..FlagSet::default() };
                        let uid = model[index].uid;
                        prop_assert_eq!(
                            table.set_flags(uid, flags, ModSeq(mod_seq)), Some(model[index].flags)
                        );
                        (model[index].flags, model[index].mod_seq) = (flags, ModSeq(mod_seq));
                    }
                    Step::Remove(at, count, step) => {
                        let first = at % uid_next;
                        let uids: Vec<Uid> =
                            (0..count).map(|n| Uid(first + n * step)).collect();
                        let mut removed = 0;
                        table.remove(&uids, |_| removed += 1);
                        let before = model.len();
                        model.retain(|m| !uids.contains(&m.uid));
                        prop_assert_eq!(removed, before - model.len());
                    }
                    _ => {}
                }
            }
            check(&table, &model);
            let newest = snapshot(&table);
            for (old, old_model) in held {
                check(&old.published.table, &old_model);
                prop_assert_eq!(old.difference(&newest), naive_difference(&old_model, &model));
            }
        }
    }

    #[test]
    fn one_change_shares_every_other_chunk() {
        let mut table = MessageTable::default();
        (1..=10 * CHUNK_MAX as u32).for_each(|uid| table.push(message(uid)));
        let before = table.clone();
        table.set_flags(Uid(700), FlagSet::default(), ModSeq(9));
        let shared = std::iter::zip(&before.chunks, &table.chunks)
            .filter(|(left, right)| Arc::ptr_eq(left, right))
            .count();
        assert_eq!(shared, 9);
    }
}
