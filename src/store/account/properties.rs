//! Opaque values of an account and its mailboxes (ACLs, quota, metadata, each user's `\Seen`):
//! published, and with staged changes.
//!
//! Owned by the account's state. Only the caller that sets a value knows its meaning.
//!
//! Invariant: numbers and octets in `pending` are those of the published properties with the
//! overlay applied, so that a limit is checked without walking all of them.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::BTreeMap;

use super::super::{
    error::StoreError,
    format::effect::{PropertyKey, PropertyKind},
};
use crate::{
    model::{Lsn, MailboxId},
    plant::{Plant, planted},
};

/// How many properties an account may have, and how many octets of keys and values in total. They
/// are in its page, one entry of the log, together with all names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PropertyLimits {
    pub number: usize,
    pub octets: usize,
}

/// Properties of an account and its mailboxes.
const PROPERTIES_MAX: usize = 10_000;
/// Octets of their keys and values.
const PROPERTY_OCTETS_MAX: usize = 1 << 20;

impl Default for PropertyLimits {
    fn default() -> PropertyLimits {
        PropertyLimits { number: PROPERTIES_MAX, octets: PROPERTY_OCTETS_MAX }
    }
}

/// Changes of several properties; `None` removes.
pub(crate) type PropertyChanges = BTreeMap<PropertyKey, Option<Vec<u8>>>;

/// Sums over properties.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Size {
    number: usize,
    octets: usize,
}

impl Size {
    fn add(&mut self, key: &PropertyKey, value: &[u8]) {
        self.number += 1;
        self.octets += key.2.len() + value.len();
    }

    fn remove(&mut self, key: &PropertyKey, value: &[u8]) {
        self.number = self.number.saturating_sub(1);
        self.octets = self.octets.saturating_sub(key.2.len() + value.len());
    }
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Properties {
    published: BTreeMap<PropertyKey, Vec<u8>>,
    /// The latest staged change of each key, with its entry's LSN; `None` means removed.
    overlay: BTreeMap<PropertyKey, (Lsn, Option<Vec<u8>>)>,
    pending: Size,
}

impl Properties {
    /// The properties read from a page.
    pub(crate) fn stored(published: BTreeMap<PropertyKey, Vec<u8>>) -> Properties {
        let mut pending = Size::default();
        published.iter().for_each(|(key, value)| pending.add(key, value));
        Properties { published, overlay: BTreeMap::new(), pending }
    }

    pub(crate) fn published(&self) -> &BTreeMap<PropertyKey, Vec<u8>> {
        &self.published
    }

    /// Published properties of this kind and mailbox, by key.
    pub(crate) fn of(
        &self,
        kind: PropertyKind,
        mailbox: MailboxId,
    ) -> impl Iterator<Item = (&[u8], &[u8])> {
        let properties = self.published.range((kind, mailbox, Vec::new())..);
        properties
            .take_while(move |(key, _)| (key.0, key.1) == (kind, mailbox))
            .map(|(key, value)| (&key.2[..], &value[..]))
    }

    /// Those whose names begin so.
    pub(crate) fn beginning(
        &self,
        kind: PropertyKind,
        mailbox: MailboxId,
        begin: Vec<u8>,
    ) -> impl Iterator<Item = (&[u8], &[u8])> {
        let properties = self.published.range((kind, mailbox, begin.clone())..);
        properties
            .take_while(move |(key, _)| {
                (key.0, key.1) == (kind, mailbox) && key.2.starts_with(&begin)
            })
            .map(|(key, value)| (&key.2[..], &value[..]))
    }

    /// Published properties of this kind, by mailbox and key.
    pub(crate) fn of_kind(
        &self,
        kind: PropertyKind,
    ) -> impl Iterator<Item = (&PropertyKey, &Vec<u8>)> {
        let properties = self.published.range((kind, MailboxId(0), Vec::new())..);
        properties.take_while(move |(key, _)| key.0 == kind)
    }

    /// Properties of this kind as all staged changes result in, in any order.
    pub(crate) fn pending_of(
        &self,
        kind: PropertyKind,
    ) -> impl Iterator<Item = (&PropertyKey, &Vec<u8>)> {
        let first = || (kind, MailboxId(0), Vec::new());
        let published = self.published.range(first()..).take_while(move |(key, _)| key.0 == kind);
        let staged = self.overlay.range(first()..).take_while(move |(key, _)| key.0 == kind);
        let staged = staged.filter_map(|(key, (_, value))| Some((key, value.as_ref()?)));
        published.filter(|(key, _)| !self.overlay.contains_key(*key)).chain(staged)
    }

    /// The value that all staged changes result in.
    pub(crate) fn pending(&self, key: &PropertyKey) -> Option<&Vec<u8>> {
        match self.overlay.get(key) {
            Some((_, value)) => value.as_ref(),
            None => self.published.get(key),
        }
    }

    /// Those of `changes` that change pending state.
    ///
    /// # Errors
    /// `Limit` if there would be too many, and more than now.
    pub(crate) fn plan(
        &self,
        mut changes: PropertyChanges,
        limits: PropertyLimits,
    ) -> Result<PropertyChanges, StoreError> {
        let mut after = self.pending;
        changes.retain(|key, value| self.pending(key) != value.as_ref());
        for (key, value) in &changes {
            self.pending(key).into_iter().for_each(|before| after.remove(key, before));
            value.iter().for_each(|value| after.add(key, value));
        }
        if after.number > limits.number.max(self.pending.number) {
            return Err(StoreError::Limit("properties per account"));
        }
        if after.octets > limits.octets.max(self.pending.octets) {
            return Err(StoreError::Limit("octets of properties per account"));
        }
        Ok(changes)
    }

    /// Records a change appended at `lsn`.
    pub(crate) fn stage(&mut self, lsn: Lsn, key: &PropertyKey, value: Option<&Vec<u8>>) {
        if let Some(before) = self.pending(key).cloned() {
            self.pending.remove(key, &before);
        }
        value.into_iter().for_each(|value| self.pending.add(key, value));
        if planted(Plant::ShowPropertyEarly) {
            self.set(key, value);
        }
        self.overlay.insert(key.clone(), (lsn, value.cloned()));
    }

    /// Applies a durable change, appended at `lsn`.
    pub(crate) fn publish(&mut self, lsn: Lsn, key: &PropertyKey, value: Option<&Vec<u8>>) {
        self.set(key, value);
        if self.overlay.get(key).is_some_and(|(staged, _)| *staged == lsn) {
            self.overlay.remove(key);
        }
    }

    fn set(&mut self, key: &PropertyKey, value: Option<&Vec<u8>>) {
        match value {
            Some(value) => drop(self.published.insert(key.clone(), value.clone())),
            None => drop(self.published.remove(key)),
        }
    }

    /// The deletion of `mailbox` was appended at `lsn`: its properties go with it.
    pub(crate) fn stage_deletion(&mut self, lsn: Lsn, mailbox: MailboxId) {
        let keys = self.published.keys().chain(self.overlay.keys());
        let keys: Vec<PropertyKey> = keys.filter(|key| key.1 == mailbox).cloned().collect();
        keys.iter().for_each(|key| self.stage(lsn, key, None));
    }

    /// The deletion of `mailbox` is durable.
    pub(crate) fn publish_deletion(&mut self, mailbox: MailboxId) {
        // Nothing is staged after it: the mailbox's number is never used again.
        self.overlay.retain(|(_, of, _), _| *of != mailbox);
        self.published.retain(|(_, of, _), _| *of != mailbox);
    }

    /// Bytes of memory, estimated.
    pub(crate) fn memory(&self) -> usize {
        /// Two vectors and a place in a map.
        const PROPERTY: usize = 80;
        let published = self.published.iter().map(|(key, value)| (key, value.len()));
        let staged =
            self.overlay.iter().map(|(key, (_, value))| (key, value.as_ref().map_or(0, Vec::len)));
        published.chain(staged).map(|(key, len)| key.2.len() + len + PROPERTY).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const LIMITS: PropertyLimits = PropertyLimits { number: 4, octets: 30 };

    fn key(mailbox: u32, name: u8) -> PropertyKey {
        (PropertyKind::Metadata, MailboxId(mailbox), vec![name; 2])
    }

    type Values = BTreeMap<PropertyKey, Vec<u8>>;

    fn applied(mut values: Values, changes: &PropertyChanges) -> Values {
        for (key, value) in changes {
            match value {
                Some(value) => drop(values.insert(key.clone(), value.clone())),
                None => drop(values.remove(key)),
            }
        }
        values
    }

    fn fits(values: &Values) -> bool {
        let octets: usize = values.iter().map(|(key, value)| key.2.len() + value.len()).sum();
        values.len() <= LIMITS.number && octets <= LIMITS.octets
    }

    proptest! {
        /// Changes that are staged now and published later, compared with plain maps of both
        /// states.
        #[test]
        fn both_states_are_the_models(
            steps in vec((vec((0u32..3, 0u8..3, proptest::option::of(0usize..12)), 0..4), 0usize..4,
                          proptest::option::weighted(0.1, 1u32..3)), 1..40),
        ) {
            let mut properties = Properties::default();
            let (mut published, mut pending) = (Values::new(), Values::new());
            let mut staged: std::collections::VecDeque<(Lsn, PropertyChanges, Option<MailboxId>)> =
                Default::default();
            let mut deleted = Vec::new();
            for (lsn, (changes, settle, delete)) in (0..).step_by(2).map(Lsn).zip(steps) {
                let changes: PropertyChanges = changes.into_iter()
                    .filter(|(mailbox, ..)| !deleted.contains(mailbox))
                    .map(|(mailbox, name, len)| (key(mailbox, name), len.map(|len| vec![7; len])))
                    .collect();
                let after = applied(pending.clone(), &changes);
                match properties.plan(changes.clone(), LIMITS) {
                    Ok(planned) => {
                        prop_assert!(fits(&after));
                        let mut planned_changes = planned.iter();
                        prop_assert!(
                            planned_changes.all(|(key, value)| pending.get(key) != value.as_ref())
                        );
                        for (key, value) in &planned {
                            properties.stage(lsn, key, value.as_ref());
                        }
                        pending = after;
                        staged.push_back((lsn, planned, None));
                    }
                    Err(_) => prop_assert!(!fits(&after)),
                }
                if let Some(mailbox) = delete.filter(|mailbox| !deleted.contains(mailbox)) {
                    deleted.push(mailbox);
                    pending.retain(|(_, of, _), _| of.0 != mailbox);
                    let lsn = Lsn(lsn.0 + 1);
                    properties.stage_deletion(lsn, MailboxId(mailbox));
                    staged.push_back((lsn, PropertyChanges::new(), Some(MailboxId(mailbox))));
                }
                for _ in 0..settle {
                    let Some((lsn, changes, deletion)) = staged.pop_front() else { break };
                    for (key, value) in &changes {
                        properties.publish(lsn, key, value.as_ref());
                    }
                    deletion.into_iter().for_each(|mailbox| properties.publish_deletion(mailbox));
                    published = applied(published, &changes);
                    published.retain(|(_, of, _), _| Some(*of) != deletion);
                }
                prop_assert_eq!(properties.published(), &published);
                let keys: Vec<PropertyKey> =
                    (0..3).flat_map(|mailbox| (0..3).map(move |name| key(mailbox, name))).collect();
                for key in &keys {
                    prop_assert_eq!(properties.pending(key), pending.get(key));
                }
                let of = properties.pending_of(PropertyKind::Metadata);
                let of: Values = of.map(|(key, value)| (key.clone(), value.clone())).collect();
                prop_assert_eq!(&of, &pending);
                prop_assert_eq!(properties.pending_of(PropertyKind::Acl).count(), 0);
                prop_assert_eq!(properties.pending, Properties::stored(pending.clone()).pending);
                prop_assert!(!staged.is_empty() || properties.overlay.is_empty());
            }
        }
    }

    #[test]
    fn what_is_over_a_limit_may_become_less() {
        let values = (0..5).map(|name| (key(0, name), vec![0; 9])).collect();
        let properties = Properties::stored(values);
        let change = |name, len: Option<usize>| {
            let changes = [(key(0, name), len.map(|len| vec![1; len]))];
            properties.plan(changes.into(), LIMITS).map(|changes| changes.len())
        };
        // (key, length or removal, whether it is allowed)
        const CASES: &[(u8, Option<usize>, bool)] = &[
            (0, None, true),
            (0, Some(8), true),
            (0, Some(9), true),
            (0, Some(10), false),
            (7, Some(0), false),
            (7, None, true),
        ];
        for (name, len, fits) in CASES {
            assert_eq!(change(*name, *len).is_ok(), *fits, "{name} {len:?}");
        }
    }

    #[test]
    fn kinds_and_mailboxes_are_told_apart() {
        let (acl, seen) = (PropertyKind::Acl, PropertyKind::Seen);
        let keys = [(acl, 1, "a"), (acl, 1, "b"), (acl, 2, "a"), (seen, 1, "a")];
        let values = keys.map(|(kind, mailbox, name)| {
            ((kind, MailboxId(mailbox), name.as_bytes().to_vec()), name.as_bytes().to_vec())
        });
        let properties = Properties::stored(values.into());
        let of = |kind, mailbox| properties.of(kind, MailboxId(mailbox)).count();
        assert_eq!([of(acl, 1), of(acl, 2), of(acl, 3), of(seen, 1), of(seen, 2)], [2, 1, 0, 1, 0]);
    }
}
