//! The access lists of an account's mailboxes, and the account's place in the index of shares.
//!
//! Called by services on the account's shard. A list and the index change by one entry, so that a
//! crash cannot part them; both are decided on pending state, without an await, so that of changes
//! at the same time none is lost. Invariant: the index names whomever a positive entry of a list of
//! the account names. It may name more, until a list of the account is changed: a mailbox may have
//! been deleted since. CREATE and RENAME leave it alone: a new mailbox gets a copy of a list that
//! the account has already, and a renamed one keeps its list, under the same number.

use std::rc::Rc;

use super::{
    super::{
        account::{
            properties::{PropertyChanges, PropertyLimits},
            state::{AccountCell, AccountState},
        },
        commits::{Change, Changes},
        error::StoreError,
        format::effect::{
            ACCESS_LIST, Effect, PropertyKey, PropertyKind, is_access_list, share_key, share_owner,
        },
    },
    account::Account,
};
use crate::{
    model::{AccessList, AccountId, GRANTEES_OCTETS_MAX, Grantees, MailboxId},
    plant::{Plant, planted},
};

impl Account {
    /// Passes the encoded access list of a mailbox, as published, to `read`; `None` if it has none.
    /// In memory, without a copy: cheap enough to ask at every command.
    pub fn with_access_list<T>(
        &self,
        mailbox: MailboxId,
        read: impl FnOnce(Option<&[u8]>) -> T,
    ) -> T {
        let state = self.cell.state.borrow();
        let mut properties = state.properties.of(PropertyKind::Acl, mailbox);
        let list = properties.next().filter(|(key, _)| *key == ACCESS_LIST);
        read(list.map(|(_, value)| value))
    }

    /// Changes the access list of a mailbox. `change` gets the list that all changes decided so far
    /// result in, so that none is lost; an empty one if the mailbox has none. It may be refused by
    /// `change`; the list then stays as it is.
    ///
    /// # Errors
    /// `NoSuchMailbox`, `Limit`, `NotPermitted` for a list that cannot be read, and those of
    /// `change`. Nothing is then changed.
    pub async fn change_access_list(
        &self,
        mailbox: MailboxId,
        change: impl FnOnce(&mut AccessList) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let shares = self.commits.accounts.load(AccountId::SHARES).await?;
        self.commits.log.room().await?;
        let changes = {
            let state = self.cell.state.borrow();
            let key = (PropertyKind::Acl, mailbox, ACCESS_LIST.to_vec());
            let stored = state.properties.pending(&key);
            // One of a later version: its entries must not be lost.
            let unreadable = StoreError::NotPermitted("The access list cannot be read");
            let decoded =
                stored.map(|it| AccessList::decode(it)).transpose().map_err(|_| unreadable)?;
            let mut list = decoded.unwrap_or_default();
            change(&mut list)?;
            let value = (!list.is_empty()).then(|| list.encode());
            self.plan_access(&state, &shares, [(key, value)].into())?
        };
        self.carry_out_access(&shares, changes).await
    }

    /// Changes the access lists of all mailboxes that have one, by one entry: for the removal of an
    /// account, this one or one that is named in lists. Lists that cannot be read stay.
    ///
    /// # Errors
    /// `Limit`; nothing is then changed.
    pub async fn change_access_lists(
        &self,
        mut change: impl FnMut(MailboxId, &mut AccessList),
    ) -> Result<(), StoreError> {
        let shares = self.commits.accounts.load(AccountId::SHARES).await?;
        self.commits.log.room().await?;
        let changes = {
            let state = self.cell.state.borrow();
            let mut changes = PropertyChanges::new();
            let lists = state.properties.pending_of(PropertyKind::Acl);
            for (key, octets) in lists.filter(|(key, _)| is_access_list(key)) {
                if let Ok(mut list) = AccessList::decode(octets) {
                    change(key.1, &mut list);
                    changes.insert(key.clone(), (!list.is_empty()).then(|| list.encode()));
                }
            }
            self.plan_access(&state, &shares, changes)?
        };
        self.carry_out_access(&shares, changes).await
    }

    /// The mailboxes that have an access list, as published, ascending.
    pub fn mailboxes_with_access_lists(&self) -> Vec<MailboxId> {
        let state = self.cell.state.borrow();
        let all = state.properties.of_kind(PropertyKind::Acl);
        all.filter(|(key, _)| is_access_list(key)).map(|(key, _)| key.1).collect()
    }

    /// Of [`AccountId::SHARES`]: the accounts whose access lists name others, ascending.
    pub fn sharers(&self) -> Vec<AccountId> {
        let state = self.cell.state.borrow();
        let all = state.properties.of_kind(PropertyKind::Share);
        let mut sharers: Vec<AccountId> = all.filter_map(|(key, _)| share_owner(key)).collect();
        sharers.sort_unstable();
        sharers
    }

    /// Of [`AccountId::SHARES`]: whom the access lists of `owner` name.
    pub fn grantees_of(&self, owner: AccountId) -> Grantees {
        let state = self.cell.state.borrow();
        let known = state.properties.published().get(&share_key(owner));
        known.and_then(|octets| Grantees::decode(octets).ok()).unwrap_or_default()
    }

    /// Sets (or, with `None`, removes) several properties: all of them or none.
    ///
    /// # Errors
    /// `NoSuchMailbox` if one of the mailboxes does not exist; `Limit` if the account would have
    /// too many properties, or too many octets of them.
    pub async fn set_properties(
        &self,
        changes: impl IntoIterator<Item = (PropertyKey, Option<Vec<u8>>)>,
    ) -> Result<(), StoreError> {
        let changes: PropertyChanges = changes.into_iter().collect();
        let shares = match changes.keys().any(is_access_list) {
            true => Some(self.commits.accounts.load(AccountId::SHARES).await?),
            false => None,
        };
        self.commits.log.room().await?;
        let Some(shares) = shares else {
            let effects = {
                let state = self.cell.state.borrow();
                let changes = state.plan_properties(changes, self.commits.options.properties)?;
                property_effects(state.id, changes).collect()
            };
            return self.carry_out(effects).await;
        };
        let changes = self.plan_access(&self.cell.state.borrow(), &shares, changes)?;
        self.carry_out_access(&shares, changes).await
    }

    /// The effects of `changes`, with access lists among them: on this account, and on the index.
    fn plan_access(
        &self,
        state: &AccountState,
        shares: &AccountCell,
        changes: PropertyChanges,
    ) -> Result<AccessChanges, StoreError> {
        if state.stand_in {
            // It looks as if it had no lists.
            return Err(StoreError::Poisoned);
        }
        let grantees = {
            let known = state.properties.pending_of(PropertyKind::Acl);
            let kept = known.filter(|(key, _)| is_access_list(key) && !changes.contains_key(*key));
            let new = changes.iter().filter(|(key, _)| is_access_list(key));
            let lists =
                kept.map(|(_, list)| &list[..]).chain(new.filter_map(|(_, it)| it.as_deref()));
            Grantees::of_lists(lists, state.id)
        };
        let changes = state.plan_properties(changes, self.commits.options.properties)?;
        let index = plan_share(
            &shares.state.borrow(),
            state.id,
            grantees,
            self.commits.options.share_limits,
        )?;
        Ok(AccessChanges { own: property_effects(state.id, changes).collect(), index })
    }

    /// Commits all of it as one entry and waits for it.
    async fn carry_out_access(
        &self,
        shares: &Rc<AccountCell>,
        changes: AccessChanges,
    ) -> Result<(), StoreError> {
        let AccessChanges { own, index } = changes;
        let index = index.filter(|_| !planted(Plant::ForgetShares));
        let Some(effect) = index else { return self.carry_out(own).await };
        if planted(Plant::SharesApart) {
            self.carry_out(own).await?;
            self.commits.ensure_exists(shares)?;
            let lsn = self.commits.commit_one(Some(shares), effect, None)?;
            return self.commits.acknowledged(lsn).await;
        }
        self.commits.ensure_exists(shares)?;
        let own = own.into_iter().map(|effect| self.change(effect));
        let index = Change { cell: Some(shares.clone()), effect };
        let lsn = self.commits.commit(own.chain([index]).collect::<Changes>(), None)?;
        self.commits.acknowledged(lsn).await
    }
}

/// Effects that belong together.
struct AccessChanges {
    /// On the account.
    own: Vec<Effect>,
    /// On [`AccountId::SHARES`].
    index: Option<Effect>,
}

pub(super) fn property_effects(
    account: AccountId,
    changes: PropertyChanges,
) -> impl Iterator<Item = Effect> {
    changes.into_iter().map(move |(key, value)| Effect::Property { account, key, value })
}

/// The change of the index, if any, when `owner` has these grantees, and whether they are those of
/// all its lists.
fn plan_share(
    index: &AccountState,
    owner: AccountId,
    (mut grantees, whole): (Grantees, bool),
    limits: PropertyLimits,
) -> Result<Option<Effect>, StoreError> {
    let key = share_key(owner);
    if !whole && let Some(known) = index.properties.pending(&key) {
        // A list of a later version may name them.
        grantees.add(Grantees::decode(known).unwrap_or_default());
    }
    let value = (!grantees.is_empty()).then(|| grantees.encode());
    if value.as_ref().is_some_and(|value| value.len() > GRANTEES_OCTETS_MAX) {
        return Err(StoreError::Limit("identifiers in the access lists of an account"));
    }
    let changes =
        index.properties.plan([(key, value)].into(), limits).map_err(|error| match error {
            StoreError::Limit(_) => StoreError::Limit("accounts that share mailboxes"),
            error => error,
        })?;
    Ok(property_effects(AccountId::SHARES, changes).next())
}
