//! `\Seen` that is each user's own: whether a mailbox has it so, and what a user has seen.
//!
//! Whether it is so is a property of the mailbox. What a user has seen of it is a property of the
//! *user's* account: it is in memory as long as he has a session, however many users a mailbox
//! has; his sessions are on its shard, so it is read and changed without asking another one; and
//! it goes with his account. It names the mailbox by numbers that are never used again.

use super::{
    super::{
        error::StoreError,
        format::effect::{PropertyKind, SEEN_IS_PERSONAL, seen_key},
    },
    account::Account,
};
use crate::model::{AccountId, MailboxId, SeenSet, UidValidity};

/// A mailbox, as a user's account names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeenIn {
    pub owner: AccountId,
    pub mailbox: MailboxId,
    pub uid_validity: UidValidity,
}

impl SeenIn {
    /// The set that a property has. One with another UIDVALIDITY is about other messages.
    pub fn decode(&self, octets: Option<&[u8]>) -> SeenSet {
        let decoded = octets.and_then(|octets| SeenSet::decode(octets).ok());
        let same = decoded.filter(|(uid_validity, _)| *uid_validity == self.uid_validity);
        same.map(|(_, set)| set).unwrap_or_default()
    }
}

impl Account {
    /// Whether users other than the owner have a `\Seen` of their own in a mailbox: by default in
    /// public ones, where nobody is the owner. In memory, as published.
    pub fn seen_is_personal(&self, mailbox: MailboxId) -> bool {
        let state = self.cell.state.borrow();
        let mut properties = state.properties.of(PropertyKind::Seen, mailbox);
        match properties.next() {
            Some((SEEN_IS_PERSONAL, value)) => value != [0],
            _ => state.id == AccountId::PUBLIC,
        }
    }

    /// Sets whether users other than the owner have a `\Seen` of their own. What they have seen
    /// while they had stays, should it be set again.
    ///
    /// # Errors
    /// `NoSuchMailbox`, `Limit`.
    pub async fn set_seen_is_personal(
        &self,
        mailbox: MailboxId,
        is_personal: bool,
    ) -> Result<(), StoreError> {
        let key = (PropertyKind::Seen, mailbox, SEEN_IS_PERSONAL.to_vec());
        self.set_properties([(key, Some(vec![u8::from(is_personal)]))]).await
    }

    /// Passes the encoded [`SeenSet`] of this account's user in a mailbox of somebody else, as
    /// published, to `read`. Another one is another set.
    pub fn with_seen<T>(&self, of: &SeenIn, read: impl FnOnce(Option<&[u8]>) -> T) -> T {
        let state = self.cell.state.borrow();
        let value = state.properties.published().get(&seen_key(of.owner, of.mailbox));
        read(value.map(Vec::as_slice))
    }

    /// Changes what this account's user has seen in a mailbox of somebody else. `change` gets what
    /// all changes decided so far result in, so that none is lost.
    ///
    /// # Errors
    /// `Limit`; `NotPermitted` for a set of a later version. Nothing is then changed.
    pub async fn change_seen(
        &self,
        of: &SeenIn,
        change: impl FnOnce(&mut SeenSet),
    ) -> Result<(), StoreError> {
        self.commits.log.room().await?;
        let effects = {
            let state = self.cell.state.borrow();
            let key = seen_key(of.owner, of.mailbox);
            let stored = state.properties.pending(&key).map(Vec::as_slice);
            if stored.is_some_and(|octets| SeenSet::decode(octets).is_err()) {
                return Err(StoreError::NotPermitted("What was seen cannot be read"));
            }
            let mut set = of.decode(stored);
            change(&mut set);
            let value = (!set.is_empty()).then(|| set.encode(of.uid_validity));
            let limits = self.commits.options.properties;
            let changes = state.plan_properties([(key, value)].into(), limits)?;
            super::access::property_effects(state.id, changes).collect()
        };
        self.carry_out(effects).await
    }
}
