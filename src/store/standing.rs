//! State of the partition itself, beside its accounts: the spool, deliveries already carried out,
//! intents. Kept whole in memory and in the checkpoint's root; bounded by named limits.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use hashbrown::HashMap;

use super::{
    codec::Decoded,
    effect::{Effect, decode_effects},
    page::Root,
    partition::Spooled,
};
use crate::{
    model::Lsn,
    plant::{Plant, planted},
};

/// Delivery ids remembered; a repetition that comes later than this many others is not recognised.
pub(super) const DELIVERIES_MAX: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct Standing {
    pub spool: BTreeMap<Lsn, Spooled>,
    /// Deliveries staged or published, with the entry that carries them out.
    deliveries: HashMap<u128, Lsn>,
    /// Published ones in order, to forget the oldest.
    order: VecDeque<u128>,
    pub intents: BTreeMap<u128, Bytes>,
    /// Partition-wide effects below are included.
    applied: Lsn,
}

impl Standing {
    /// The state a checkpoint's root holds; the spool's entries are read by the caller.
    pub fn from_root(root: &Root) -> Standing {
        let mut standing = Standing { applied: root.applied, ..Standing::default() };
        for id in &root.deliveries {
            standing.publish(Lsn(0), &Effect::Delivery { id: *id });
        }
        standing.intents.extend(root.intents.iter().cloned());
        standing.applied = root.applied;
        standing
    }

    /// Takes the spooled message of the entry at `lsn`.
    pub fn take_spooled(&mut self, lsn: Lsn, payload: &[u8]) -> Decoded<()> {
        decode_effects(lsn, payload, |effect| {
            if let Effect::Spool { payload, body } = effect {
                self.spool.insert(lsn, Spooled { lsn, payload, body });
            }
        })
    }

    /// Fills in what a root keeps of this.
    pub fn to_root(&self, root: &mut Root) {
        root.applied = self.applied;
        if !planted(Plant::LoseSpool) {
            root.spool = self.spool.keys().copied().collect();
        }
        root.deliveries = self.order.iter().copied().collect();
        root.intents = self.intents.iter().map(|(id, payload)| (*id, payload.clone())).collect();
    }

    /// The entry that carries out, or will, the delivery `id`.
    pub fn delivery(&self, id: u128) -> Option<Lsn> {
        self.deliveries.get(&id).copied()
    }

    pub fn stage(&mut self, lsn: Lsn, effect: &Effect) {
        if let Effect::Delivery { id } = effect {
            self.deliveries.insert(*id, lsn);
        }
    }

    pub fn publish(&mut self, lsn: Lsn, effect: &Effect) {
        self.applied = Lsn(lsn.0 + 1);
        match effect {
            Effect::Delivery { id } => {
                self.deliveries.insert(*id, lsn);
                self.order.push_back(*id);
                if self.order.len() > DELIVERIES_MAX
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.deliveries.remove(&oldest);
                }
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

    /// Carries out what the log said after the root was written.
    pub fn replay(&mut self, effects: &[(Lsn, Effect)]) {
        let applied = self.applied;
        for (lsn, effect) in effects.iter().filter(|(lsn, _)| *lsn >= applied) {
            self.publish(*lsn, effect);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_deliveries_are_forgotten_and_the_rest_survives_a_root() {
        let mut standing = Standing::default();
        for id in 0..=DELIVERIES_MAX as u128 {
            standing.publish(Lsn(id as u64 + 1), &Effect::Delivery { id });
        }
        assert_eq!((standing.delivery(0), standing.delivery(1)), (None, Some(Lsn(2))));
        standing.publish(Lsn(90_000), &Effect::Intent { id: 4, payload: Bytes::from("x") });
        let mut root = Root::default();
        standing.to_root(&mut root);
        let mut again = Standing::from_root(&root);
        assert!(again.delivery(1).is_some() && again.intents.contains_key(&4));
        // The root has what lies below; what lies above is new.
        again.replay(&[
            (Lsn(90_000), Effect::IntentDone { id: 4 }),
            (Lsn(90_001), Effect::Delivery { id: 1 << 100 }),
        ]);
        assert!(again.delivery(1 << 100).is_some() && again.intents.contains_key(&4));
    }
}
