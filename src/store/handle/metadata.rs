//! Annotations of mailboxes and of the server (RFC 5464): values under names.
//!
//! What all users share is kept with its mailbox, and that of the server with the account of the
//! public mailboxes. What is a user's own is in his account, also that of somebody else's mailbox,
//! as what he has seen is (`seen`): it costs the mailbox's owner nothing, and goes with the user.
//! How many there may be is decided on pending state.

use super::{
    super::{
        account::{properties::PropertyChanges, state::AccountState},
        error::StoreError,
        format::effect::{Effect, PropertyKey, PropertyKind},
    },
    access::property_effects,
    account::Account,
};
use crate::model::{AccountId, MailboxId};

/// Octets of the value of an annotation.
pub const ANNOTATION_VALUE_MAX: usize = 16 * 1024;
/// Annotations of a mailbox that one account keeps, and octets of their names and values.
const MAILBOX_ANNOTATIONS_MAX: usize = 100;
const MAILBOX_ANNOTATION_OCTETS_MAX: usize = 64 * 1024;
/// Annotations that an account keeps, and octets of their names and values: a part of those of its
/// properties, so that access lists have room beside them.
const ACCOUNT_ANNOTATIONS_MAX: usize = 5_000;
const ACCOUNT_ANNOTATION_OCTETS_MAX: usize = 512 * 1024;

/// The octet in front of the name of what a user notes of somebody else's mailbox; names begin with
/// a slash.
const ELSEWHERE: u8 = 0;

/// What has annotations, as one account keeps them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Annotated {
    /// A mailbox of the account.
    Mailbox(MailboxId),
    /// A mailbox of another account, by numbers that are never used again.
    Elsewhere { owner: AccountId, mailbox: MailboxId },
    /// The server.
    Server,
}

impl Annotated {
    /// The mailbox of the properties, and what their names begin with.
    fn place(self) -> (MailboxId, Vec<u8>) {
        match self {
            Annotated::Mailbox(mailbox) => (mailbox, b"/".to_vec()),
            Annotated::Server => (MailboxId(0), b"/".to_vec()),
            Annotated::Elsewhere { owner, mailbox } => {
                let mut begin = vec![ELSEWHERE];
                begin.extend_from_slice(&owner.0.to_le_bytes());
                begin.extend_from_slice(&mailbox.0.to_le_bytes());
                (MailboxId(0), begin)
            }
        }
    }

    fn key(self, name: &str) -> PropertyKey {
        let (mailbox, mut key) = self.place();
        match self {
            Annotated::Elsewhere { .. } => key.extend_from_slice(name.as_bytes()),
            _ => key = name.as_bytes().to_vec(),
        }
        (PropertyKind::Metadata, mailbox, key)
    }

    /// What has the property with this key, and its name.
    pub fn of_key(mailbox: MailboxId, key: &[u8]) -> Option<(Annotated, String)> {
        let of = match (mailbox, key.first()?) {
            (MailboxId(0), &ELSEWHERE) => {
                let (owner, rest) = key.get(1..)?.split_first_chunk()?;
                let (mailbox, _) = rest.split_first_chunk()?;
                let (owner, mailbox) = (u64::from_le_bytes(*owner), u32::from_le_bytes(*mailbox));
                Annotated::Elsewhere { owner: AccountId(owner), mailbox: MailboxId(mailbox) }
            }
            (MailboxId(0), _) => Annotated::Server,
            (mailbox, _) => Annotated::Mailbox(mailbox),
        };
        Some((of, of.name(key)?))
    }

    /// The name in a key of this one.
    fn name(self, key: &[u8]) -> Option<String> {
        let (_, begin) = self.place();
        let name = match self {
            Annotated::Elsewhere { .. } => key.strip_prefix(&begin[..])?,
            _ => Some(key).filter(|key| key.starts_with(&begin))?,
        };
        String::from_utf8(name.to_vec()).ok()
    }
}

/// Names and values, in the order of names.
pub type Annotations = Vec<(String, Vec<u8>)>;

impl Account {
    /// The annotations, as published.
    pub fn annotations_of(&self, of: Annotated) -> Annotations {
        let (mailbox, begin) = of.place();
        let state = self.cell.state.borrow();
        let found = state.properties.beginning(PropertyKind::Metadata, mailbox, begin);
        found.filter_map(|(key, value)| Some((of.name(key)?, value.to_vec()))).collect()
    }

    /// Whether the changes could be made now; `None` removes. Names are in one spelling.
    ///
    /// # Errors
    /// `Limit`, `NoSuchMailbox`.
    pub fn check_annotations(
        &self,
        of: Annotated,
        changes: &[(String, Option<Vec<u8>>)],
    ) -> Result<(), StoreError> {
        let state = self.cell.state.borrow();
        self.plan_annotations(&state, of, changes).map(drop)
    }

    /// Makes the changes, all or none.
    ///
    /// # Errors
    /// As [`Account::check_annotations`].
    pub async fn set_annotations(
        &self,
        of: Annotated,
        changes: &[(String, Option<Vec<u8>>)],
    ) -> Result<(), StoreError> {
        self.commits.log.room().await?;
        let effects = {
            let mut state = self.cell.state.borrow_mut();
            let changes = self.plan_annotations(&state, of, changes)?;
            let (account, is_changed) = (state.id, !changes.is_empty());
            let mut effects: Vec<Effect> = property_effects(account, changes).collect();
            if let Annotated::Mailbox(mailbox) = of
                && is_changed
            {
                // RFC 7162 3.2: it counts as a change of the mailbox, of none of its messages.
                let (mod_seq, groups) = (state.allocate_mod_seq(), Vec::new());
                effects.push(Effect::Flags { account, mailbox, mod_seq, groups });
            }
            effects
        };
        self.carry_out(effects).await
    }

    fn plan_annotations(
        &self,
        state: &AccountState,
        of: Annotated,
        changes: &[(String, Option<Vec<u8>>)],
    ) -> Result<PropertyChanges, StoreError> {
        let changes: PropertyChanges =
            changes.iter().map(|(name, value)| (of.key(name), value.clone())).collect();
        if changes.values().flatten().any(|value| value.len() > ANNOTATION_VALUE_MAX) {
            return Err(StoreError::Limit("octets of an annotation"));
        }
        let (mailbox, begin) = of.place();
        let is_here = |key: &PropertyKey| key.1 == mailbox && key.2.starts_with(&begin);
        let (mut here, mut all) = (Sum::default(), Sum::default());
        let (mut here_before, mut all_before) = (Sum::default(), Sum::default());
        for (key, value) in state.properties.pending_of(PropertyKind::Metadata) {
            all_before.add(key, value);
            if is_here(key) {
                here_before.add(key, value);
            }
            if !changes.contains_key(key) {
                all.add(key, value);
                if is_here(key) {
                    here.add(key, value);
                }
            }
        }
        for (key, value) in changes.iter().filter_map(|(key, it)| Some((key, it.as_ref()?))) {
            all.add(key, value);
            here.add(key, value);
        }
        let here_max =
            Sum { number: MAILBOX_ANNOTATIONS_MAX, octets: MAILBOX_ANNOTATION_OCTETS_MAX };
        let all_max =
            Sum { number: ACCOUNT_ANNOTATIONS_MAX, octets: ACCOUNT_ANNOTATION_OCTETS_MAX };
        if here.exceeds(here_max, here_before) {
            return Err(StoreError::Limit("annotations of a mailbox"));
        }
        if all.exceeds(all_max, all_before) {
            return Err(StoreError::Limit("annotations of an account"));
        }
        state.plan_properties(changes, self.commits.options.properties)
    }
}

#[derive(Clone, Copy, Default)]
struct Sum {
    number: usize,
    octets: usize,
}

impl Sum {
    fn add(&mut self, key: &PropertyKey, value: &[u8]) {
        self.number += 1;
        self.octets += key.2.len() + value.len();
    }

    /// Whether it is too much, and more than before: what is over a limit may become less.
    fn exceeds(self, limit: Sum, before: Sum) -> bool {
        self.number > limit.number.max(before.number)
            || self.octets > limit.octets.max(before.octets)
    }
}
