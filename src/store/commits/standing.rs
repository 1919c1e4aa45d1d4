//! The partition's own state, beside its accounts: the part of format 1's spool that is not moved
//! yet (`repair::upgrade`), completed deliveries, intents. All of it is in memory and in the
//! checkpoint's root; bounded by named limits.
//!
//! A delivery's id is remembered until its caller reports that no repetition can come any more
//! ([`Standing::forget`]); none is forgotten for lack of room. Forgotten ids leave memory only; a
//! start brings back those that the log still names, and the caller sorts them out again. Ids of
//! one *family* (upper half) belong together: if only some accounts of a delivery got it, each of
//! them has an id of its own, derived from the delivery's.
//!
//! Intents are the two ends of moves between partitions (`format::moves`): at the source what is to
//! be expunged, at the target that it arrived. Each is there until [`Effect::IntentDone`].

use std::collections::BTreeMap;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};

use super::super::{
    error::StoreError,
    format::{
        codec::Decoded,
        effect::{Effect, decode_effects},
        root::Root,
    },
    message::MessageBody,
};
use crate::{
    model::{AccountId, Lsn},
    plant::{Plant, planted},
};

/// Octets of intents, of which a partition has as many as it sends and receives moves.
const INTENTS_OCTETS_MAX: usize = 1 << 20;
/// An intent's number, and its place in memory.
const INTENT_OVERHEAD: usize = 64;

/// The common part of ids that belong together.
pub(crate) fn family(id: u128) -> u64 {
    (id >> 64) as u64
}

/// The id for the delivery `id` if only some of its accounts got it, and `account` did.
pub(crate) fn id_of_one(id: u128, account: AccountId) -> u128 {
    id ^ u128::from(account.0.wrapping_add(1))
}

/// A message in no mailbox, as format 1 stored queued ones.
#[derive(Clone, Debug)]
pub(crate) struct Spooled {
    pub lsn: Lsn,
    pub payload: Bytes,
    pub body: MessageBody,
}

#[derive(Default)]
pub(crate) struct Standing {
    pub spool: BTreeMap<Lsn, Spooled>,
    /// Deliveries staged or published, with their entries.
    deliveries: HashMap<u128, Lsn>,
    /// Those of them that are published.
    published: HashSet<u128>,
    /// Published ones.
    pub intents: BTreeMap<u128, Bytes>,
    /// Of the intents staged to begin (with their payload) or to end, the last entry.
    staged_intents: HashMap<u128, (Lsn, Option<Bytes>)>,
    /// Partition-wide effects below are included.
    applied: Lsn,
}

impl Standing {
    /// The state in a checkpoint's root; the caller reads the spool's entries.
    pub(crate) fn from_root(root: &Root) -> Standing {
        let mut standing = Standing { applied: root.applied, ..Standing::default() };
        for id in &root.deliveries {
            standing.publish(Lsn(0), &Effect::Delivery { id: *id });
        }
        if !planted(Plant::ForgetIntents) {
            standing.intents.extend(root.intents.iter().cloned());
        }
        standing.applied = root.applied;
        standing
    }

    /// Takes the spooled message of the entry at `lsn`.
    pub(crate) fn take_spooled(&mut self, lsn: Lsn, payload: &[u8]) -> Decoded<()> {
        decode_effects(lsn, payload, |effect| {
            if let Effect::Spool { payload, body } = effect {
                self.spool.insert(lsn, Spooled { lsn, payload, body });
            }
        })
    }

    /// Fills in this part of a root.
    pub(crate) fn to_root(&self, root: &mut Root) {
        root.applied = self.applied;
        root.spool = self.spool.keys().copied().collect();
        root.deliveries = self.published.iter().copied().collect();
        root.deliveries.sort_unstable();
        root.intents = self.intents.iter().map(|(id, payload)| (*id, payload.clone())).collect();
    }

    /// The entry of the delivery `id` to `account`, staged or published.
    pub(crate) fn delivery(&self, id: u128, account: AccountId) -> Option<Lsn> {
        let known = |id: u128| self.deliveries.get(&id).copied();
        known(id).or_else(|| known(id_of_one(id, account)))
    }

    pub(crate) fn deliveries_known(&self) -> usize {
        self.deliveries.len()
    }

    pub(crate) fn families(&self) -> HashSet<u64> {
        // A set, so they may come in any order.
        self.deliveries.keys().map(|id| family(*id)).collect()
    }

    /// No repetition of these can come any more.
    pub(crate) fn forget(&mut self, families: &HashSet<u64>) {
        self.deliveries.retain(|id, _| !families.contains(&family(*id)));
        self.published.retain(|id| !families.contains(&family(*id)));
    }

    /// Takes over from `old`, the state before the log was reopened, what is not in the log: which
    /// deliveries were forgotten.
    pub(crate) fn succeed(&mut self, old: &Standing) {
        self.deliveries.retain(|id, _| old.deliveries.contains_key(id));
        self.published.retain(|id| old.deliveries.contains_key(id));
    }

    /// An intent as all changes decided so far leave it, and the entry that is not yet durable.
    pub(crate) fn pending_intent(&self, id: u128) -> (Option<&Bytes>, Option<Lsn>) {
        match self.staged_intents.get(&id) {
            Some((lsn, payload)) => (payload.as_ref(), Some(*lsn)),
            None => (self.intents.get(&id), None),
        }
    }

    /// All intents of [`Standing::pending_intent`], in any order.
    pub(crate) fn pending_intents(&self) -> impl Iterator<Item = &Bytes> {
        let settled = self.intents.iter().filter(|(id, _)| !self.staged_intents.contains_key(*id));
        let staged = self.staged_intents.values().filter_map(|(_, payload)| payload.as_ref());
        settled.map(|(_, payload)| payload).chain(staged)
    }

    /// Refuses one more intent of `octets`: all of them are in each root.
    pub(crate) fn check_intents(&self, octets: usize) -> Result<(), StoreError> {
        let held = self.pending_intents().map(|payload| payload.len() + INTENT_OVERHEAD);
        match held.sum::<usize>() + octets + INTENT_OVERHEAD <= INTENTS_OCTETS_MAX {
            true => Ok(()),
            false => Err(StoreError::Limit("moves to other partitions at a time")),
        }
    }

    pub(crate) fn stage(&mut self, lsn: Lsn, effect: &Effect) {
        match effect {
            Effect::Delivery { id } => drop(self.deliveries.insert(*id, lsn)),
            Effect::Intent { id, payload } => {
                self.staged_intents.insert(*id, (lsn, Some(payload.clone())));
            }
            Effect::IntentDone { id } => drop(self.staged_intents.insert(*id, (lsn, None))),
            _ => {}
        }
    }

    pub(crate) fn publish(&mut self, lsn: Lsn, effect: &Effect) {
        self.applied = Lsn(lsn.0 + 1);
        if let Effect::Intent { id, .. } | Effect::IntentDone { id } = effect
            && self.staged_intents.get(id).is_some_and(|(staged, _)| *staged <= lsn)
        {
            self.staged_intents.remove(id);
        }
        match effect {
            Effect::Delivery { id } => {
                self.deliveries.insert(*id, lsn);
                self.published.insert(*id);
            }
            Effect::Spool { payload, body } => {
                let spooled = Spooled { lsn, payload: payload.clone(), body: *body };
                self.spool.insert(lsn, spooled);
            }
            Effect::Unspool { lsn } => drop(self.spool.remove(lsn)),
            Effect::Intent { id, payload } => drop(self.intents.insert(*id, payload.clone())),
            Effect::IntentDone { id } => drop(self.intents.remove(id)),
            _ => {}
        }
    }

    /// Applies effects logged after the root was written.
    pub(crate) fn replay(&mut self, effects: &[(Lsn, Effect)]) {
        let applied = self.applied;
        for (lsn, effect) in effects.iter().filter(|(lsn, _)| *lsn >= applied) {
            if !(planted(Plant::ForgetIntents) && matches!(effect, Effect::Intent { .. })) {
                self.publish(*lsn, effect);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: AccountId = AccountId(1);
    const BOB: AccountId = AccountId(2);

    #[test]
    fn deliveries_are_known_until_they_are_forgotten() {
        let id = |family: u64| u128::from(family) << 64 | 77;
        let mut standing = Standing::default();
        for n in 0..20_000 {
            standing.publish(Lsn(n + 1), &Effect::Delivery { id: id(n) });
        }
        assert_eq!(standing.delivery(id(0), ALICE), Some(Lsn(1)));
        assert_eq!(standing.deliveries_known(), 20_000);
        // Only alice got this one.
        let one = id_of_one(id(30_000), ALICE);
        standing.stage(Lsn(30_000), &Effect::Delivery { id: one });
        assert_eq!(standing.delivery(id(30_000), ALICE), Some(Lsn(30_000)));
        assert_eq!(standing.delivery(id(30_000), BOB), None);
        let mut root = Root::default();
        standing.to_root(&mut root);
        assert_eq!(root.deliveries.len(), 20_000, "what is not published is not in the root");

        standing.publish(Lsn(30_000), &Effect::Delivery { id: one });
        let mut gone = standing.families();
        gone.remove(&7);
        standing.forget(&gone);
        assert_eq!(standing.deliveries_known(), 1);
        assert_eq!(standing.delivery(id(7), BOB), Some(Lsn(8)));
        // Reopened from an older root, it knows no more than it did.
        let mut again = Standing::from_root(&root);
        assert_eq!(again.deliveries_known(), 20_000);
        again.succeed(&standing);
        assert_eq!(again.families().into_iter().collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn a_root_has_what_lies_below_it() {
        let mut standing = Standing::default();
        standing.publish(Lsn(2), &Effect::Delivery { id: 1 });
        standing.publish(Lsn(90_000), &Effect::Intent { id: 4, payload: Bytes::from("x") });
        let mut root = Root::default();
        standing.to_root(&mut root);
        let mut again = Standing::from_root(&root);
        assert!(again.delivery(1, ALICE).is_some() && again.intents.contains_key(&4));
        // Effects above it are new.
        again.replay(&[
            (Lsn(90_000), Effect::IntentDone { id: 4 }),
            (Lsn(90_001), Effect::Delivery { id: 1 << 100 }),
        ]);
        assert!(again.delivery(1 << 100, BOB).is_some() && again.intents.contains_key(&4));
    }
}
