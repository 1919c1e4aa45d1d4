//! Which UIDs of a mailbox were expunged, and at which mod-sequence, for a client that
//! resynchronizes (RFC 7162 3.2.10.2). Only the latest are kept; below a *floor* nothing is known.
//!
//! They are in the mailbox's runs and are loaded with its message table. They are owned by the
//! mailbox and not by its published states, which sessions hold: otherwise an expunge would copy
//! them each time.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::VecDeque;

use super::super::format::codec::{Decoded, Malformed};
use crate::{
    model::{ModSeq, Uid},
    plant::{Plant, planted},
};

/// How many tombstones a mailbox keeps: as many as it has messages, within these bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TombstoneLimits {
    pub at_least: usize,
    pub at_most: usize,
}

/// Tombstones that even the smallest mailbox keeps: 16 KiB of memory.
const TOMBSTONES_MIN: usize = 1_024;
/// Tombstones that even the largest mailbox keeps: 1 MiB of memory.
const TOMBSTONES_MAX: usize = 65_536;

impl Default for TombstoneLimits {
    fn default() -> TombstoneLimits {
        TombstoneLimits { at_least: TOMBSTONES_MIN, at_most: TOMBSTONES_MAX }
    }
}

impl TombstoneLimits {
    /// How many a mailbox of `messages` keeps.
    fn of(self, messages: u32) -> usize {
        (messages as usize).max(self.at_least).min(self.at_most)
    }
}

/// The mod-sequence of an expunge, and the UID.
pub(crate) type Tombstone = (ModSeq, Uid);

/// The tombstones of one mailbox.
///
/// Invariants: all of them are above the floor; every UID expunged above the floor is among them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Tombstones {
    floor: ModSeq,
    /// Ascending; empty while the message table is not in memory.
    list: VecDeque<Tombstone>,
    /// How many there are, in memory or not.
    count: u32,
}

impl Tombstones {
    /// For a mailbox whose table is not in memory, from its page.
    pub(crate) fn stored(floor: ModSeq, count: u32) -> Tombstones {
        Tombstones { floor, count, list: VecDeque::new() }
    }

    /// Nothing is known of expunges with this mod-sequence or a lower one.
    pub(crate) fn floor(&self) -> ModSeq {
        self.floor
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Takes the tombstones from runs and delta, some of which may be below the floor.
    ///
    /// # Errors
    /// If their number differs from the count.
    pub(crate) fn install(&mut self, mut found: Vec<Tombstone>) -> Decoded<()> {
        found.retain(|(mod_seq, _)| *mod_seq > self.floor);
        if found.len() != self.count as usize {
            return Err(Malformed("number of expunged messages in the runs of a mailbox"));
        }
        found.sort();
        self.list = found.into();
        Ok(())
    }

    /// Records that `uid` was expunged.
    pub(crate) fn add(&mut self, mod_seq: ModSeq, uid: Uid) {
        if mod_seq <= self.floor {
            return;
        }
        self.count = self.count.saturating_add(1);
        // They come in order, except after damage.
        let at = match self.list.back() {
            Some(last) if *last > (mod_seq, uid) => {
                self.list.partition_point(|known| *known < (mod_seq, uid))
            }
            _ => self.list.len(),
        };
        self.list.insert(at, (mod_seq, uid));
    }

    /// Forgets the oldest while there are more than a mailbox of `messages` keeps, and raises the
    /// floor to them; calls `forgotten` with each.
    pub(crate) fn trim(
        &mut self,
        limits: TombstoneLimits,
        messages: u32,
        mut forgotten: impl FnMut(Uid),
    ) {
        let most = limits.of(messages);
        let excess = self.list.len().saturating_sub(most);
        let Some((floor, _)) = excess.checked_sub(1).and_then(|last| self.list.get(last)).copied()
        else {
            return;
        };
        if !planted(Plant::KeepFloor) {
            self.floor = floor;
        }
        // Others expunged by the same command are dropped too.
        let gone = self.list.partition_point(|(mod_seq, _)| *mod_seq <= floor);
        self.list.drain(..gone).for_each(|(_, uid)| forgotten(uid));
        self.count = self.list.len() as u32;
    }

    /// Forgets all expunges up to `floor`, which is above all of them.
    pub(crate) fn forget_all(&mut self, floor: ModSeq) {
        debug_assert!(self.list.back().is_none_or(|(last, _)| *last <= floor));
        *self = Tombstones::stored(self.floor.max(floor), 0);
    }

    /// All of them, in the order of their expunges.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Tombstone> {
        self.list.iter().copied()
    }

    /// UIDs expunged with a mod-sequence above `since` and up to `until`, ascending; needs the
    /// message table loaded.
    pub(crate) fn between(&self, since: ModSeq, until: ModSeq) -> Vec<Uid> {
        let first = self.list.partition_point(|(mod_seq, _)| *mod_seq <= since);
        let end = self.list.partition_point(|(mod_seq, _)| *mod_seq <= until).max(first);
        let mut uids: Vec<Uid> = self.list.range(first..end).map(|(_, uid)| *uid).collect();
        uids.sort_unstable();
        uids
    }

    /// All those above `since`.
    #[cfg(test)]
    pub(crate) fn since(&self, since: ModSeq) -> Vec<Uid> {
        self.between(since, ModSeq(u64::MAX))
    }

    /// Bytes of memory, estimated.
    pub(crate) fn memory(&self) -> usize {
        self.list.capacity() * size_of::<Tombstone>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use std::collections::BTreeMap;

    const LIMITS: TombstoneLimits = TombstoneLimits { at_least: 3, at_most: 8 };

    #[test]
    fn as_many_as_messages_within_bounds() {
        // (messages, tombstones)
        const CASES: &[(u32, usize)] = &[(0, 3), (3, 3), (5, 5), (8, 8), (9, 8), (u32::MAX, 8)];
        for (messages, kept) in CASES {
            assert_eq!(LIMITS.of(*messages), *kept, "{messages}");
        }
        assert_eq!(TombstoneLimits::default().of(5_000), 5_000);
    }

    proptest! {
        /// After any expunges, the list above the floor is exact and within its limit, also after a
        /// start.
        #[test]
        fn exact_above_the_floor(steps in vec((1u64..4, 1usize..6, 0u32..12), 1..40)) {
            let mut tombstones = Tombstones::default();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let (mut mod_seq, mut uid) = (0, 0);
            for (step, uids, messages) in steps {
                mod_seq += step;
                for _ in 0..uids {
                    uid += 1;
                    tombstones.add(ModSeq(mod_seq), Uid(uid));
                    model.insert(uid, mod_seq);
                }
                let (floor, mut gone) = (tombstones.floor(), Vec::new());
                tombstones.trim(LIMITS, messages, |uid| gone.push(uid));
                prop_assert!(tombstones.floor() >= floor);
                let expected: Vec<Uid> = model.iter()
                    .filter(|(_, at)| **at > floor.0 && **at <= tombstones.floor().0)
                    .map(|(uid, _)| Uid(*uid)).collect();
                prop_assert_eq!(gone, expected);
                prop_assert!(tombstones.count() as usize <= LIMITS.of(messages));
                for since in tombstones.floor().0..=mod_seq {
                    let expected: Vec<Uid> = model.iter().filter(|(_, at)| **at > since)
                        .map(|(uid, _)| Uid(*uid)).collect();
                    prop_assert_eq!(tombstones.since(ModSeq(since)), expected.clone());
                    // A reader with an older state knows nothing of later ones.
                    let middle = since.midpoint(mod_seq);
                    let mut both = tombstones.between(ModSeq(since), ModSeq(middle));
                    both.extend(tombstones.between(ModSeq(middle), ModSeq(mod_seq)));
                    both.sort_unstable();
                    prop_assert_eq!(both, expected);
                }
                // In any order, mixed with old ones, as runs hold them.
                let mut again = Tombstones::stored(tombstones.floor(), tombstones.count());
                let all = model.iter().map(|(uid, at)| (ModSeq(*at), Uid(*uid)));
                prop_assert_eq!(again.install(all.collect()), Ok(()));
                prop_assert_eq!(&again, &tombstones);
                let mut other = Tombstones::stored(tombstones.floor(), tombstones.count() + 1);
                prop_assert!(other.install(tombstones.iter().collect()).is_err());
            }
        }
    }

    #[test]
    fn the_order_of_coming_does_not_matter() {
        let mut tombstones = Tombstones::default();
        for (mod_seq, uid) in [(5, 1), (7, 9), (6, 3), (7, 2)] {
            tombstones.add(ModSeq(mod_seq), Uid(uid));
        }
        assert_eq!(tombstones.since(ModSeq(5)), [Uid(2), Uid(3), Uid(9)]);
        tombstones.forget_all(ModSeq(9));
        tombstones.add(ModSeq(9), Uid(10));
        assert_eq!((tombstones.floor(), tombstones.count()), (ModSeq(9), 0));
    }
}
