//! Keys that URLs of messages are signed with (RFC 4467 3): for each mailbox that a user signed
//! one for.
//!
//! All of a user's keys are in *his* account, also those of somebody else's mailboxes, as what he
//! has seen is (`seen`): two users of a mailbox have two keys, and what one signed ends with his
//! account. They name mailboxes by numbers that are never used again, so that a mailbox which is
//! deleted and created anew has another key. One of his own mailboxes goes with the mailbox.

use super::{
    super::{
        account::{properties::PropertyChanges, state::AccountState},
        error::StoreError,
        format::effect::{Effect, PropertyKey, PropertyKind, url_key_of},
    },
    access::property_effects,
    account::Account,
};
use crate::model::{AccountId, MailboxId};

/// A secret; see [`Account::url_key_or`].
pub type UrlKey = [u8; 32];

/// Keys of one account. Those of mailboxes of others that are gone count until all are removed.
const URL_KEYS_MAX: usize = 1_000;

impl Account {
    /// The key of this account's user for a mailbox, as published.
    pub fn url_key(&self, of: (AccountId, MailboxId)) -> Option<UrlKey> {
        let state = self.cell.state.borrow();
        let value = state.properties.published().get(&url_key_of(state.id, of))?;
        value.as_slice().try_into().ok()
    }

    /// The key of this account's user for a mailbox, durable: the one that there is, or `fresh`.
    ///
    /// # Errors
    /// `NoSuchMailbox`, `Limit`.
    pub async fn url_key_or(
        &self,
        of: (AccountId, MailboxId),
        fresh: UrlKey,
    ) -> Result<UrlKey, StoreError> {
        self.commits.log.room().await?;
        let (key, effects) = {
            let state = self.cell.state.borrow();
            let name = url_key_of(state.id, of);
            let known = state.properties.pending(&name);
            match known.and_then(|value| value.as_slice().try_into().ok()) {
                Some(known) => (known, Vec::new()),
                None => (fresh, self.set_url_key(&state, name, fresh)?),
            }
        };
        // One that another session has just made may not be durable yet: it waits for that, too.
        self.carry_out(effects).await?;
        Ok(key)
    }

    /// Sets another key for a mailbox: what was signed with the one before is signed no more.
    ///
    /// # Errors
    /// `NoSuchMailbox`, `Limit`.
    pub async fn replace_url_key(
        &self,
        of: (AccountId, MailboxId),
        fresh: UrlKey,
    ) -> Result<(), StoreError> {
        self.commits.log.room().await?;
        let effects = {
            let state = self.cell.state.borrow();
            self.set_url_key(&state, url_key_of(state.id, of), fresh)?
        };
        self.carry_out(effects).await
    }

    /// Removes all keys of this account's user.
    ///
    /// # Errors
    /// As any change.
    pub async fn remove_url_keys(&self) -> Result<(), StoreError> {
        self.commits.log.room().await?;
        let effects = {
            let state = self.cell.state.borrow();
            let keys = state.properties.pending_of(PropertyKind::UrlKey);
            let changes: PropertyChanges = keys.map(|(key, _)| (key.clone(), None)).collect();
            let changes = state.plan_properties(changes, self.commits.options.properties)?;
            property_effects(state.id, changes).collect()
        };
        self.carry_out(effects).await
    }

    fn set_url_key(
        &self,
        state: &AccountState,
        name: PropertyKey,
        fresh: UrlKey,
    ) -> Result<Vec<Effect>, StoreError> {
        let is_new = state.properties.pending(&name).is_none();
        if is_new && state.properties.pending_of(PropertyKind::UrlKey).count() >= URL_KEYS_MAX {
            return Err(StoreError::Limit("mailboxes with keys for URLs"));
        }
        let changes = [(name, Some(fresh.to_vec()))].into();
        let changes = state.plan_properties(changes, self.commits.options.properties)?;
        Ok(property_effects(state.id, changes).collect())
    }
}
