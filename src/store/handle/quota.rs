//! What was set as an account's limits, and how much of them is used.
//!
//! What was set is a property of [`AccountId::SHARES`] of the account's partition: all of them are
//! in memory when the partition opens, whichever accounts are, so that every shard knows them.

use super::{
    super::{
        account::holding::HoldingLimits,
        accounts::Accounts,
        commits::Commits,
        error::StoreError,
        format::effect::{PropertyKind, quota_key, quota_owner},
    },
    access::property_effects,
    account::Account,
};
use crate::model::{AccountId, Flags, MailboxId, QuotaLimits};

/// How much mail an account has, and how much it may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    pub messages: u64,
    /// Octets of them.
    pub octets: u64,
    pub limits: HoldingLimits,
}

impl Usage {
    /// The share of the limit that is used, of whichever resource more is; in percent, rounded
    /// down. 100 or more: full.
    pub fn percent(&self) -> u64 {
        let of = |used: u64, limit: u64| match limit {
            0 => 100,
            _ => (u128::from(used) * 100 / u128::from(limit)).min(u64::MAX.into()) as u64,
        };
        of(self.messages, self.limits.messages).max(of(self.octets, self.limits.octets))
    }
}

/// Sets the limits of an account of this partition; `None`: it has the default.
pub(crate) async fn set_quota(
    commits: &Commits,
    accounts: &Accounts,
    account: AccountId,
    limits: Option<QuotaLimits>,
) -> Result<(), StoreError> {
    let cell = accounts.load(AccountId::SHARES).await?;
    commits.log.room().await?;
    let (effect, staged) = {
        let state = cell.state.borrow();
        if state.stand_in {
            return Err(StoreError::Poisoned);
        }
        let changes = [(quota_key(account), limits.map(|limits| limits.encode()))];
        let changes = state.properties.plan(changes.into(), commits.options.share_limits);
        let changes = changes.map_err(|error| match error {
            StoreError::Limit(_) => StoreError::Limit("accounts with a quota of their own"),
            error => error,
        })?;
        (property_effects(AccountId::SHARES, changes).next(), state.staged)
    };
    let lsn = match effect {
        Some(effect) => {
            commits.ensure_exists(&cell)?;
            Some(commits.commit_one(Some(&cell), effect, None)?)
        }
        None => staged,
    };
    match lsn {
        Some(lsn) => commits.acknowledged(lsn).await,
        None => Ok(()),
    }
}

impl Account {
    /// Of [`AccountId::SHARES`]: the accounts for which limits were set, ascending.
    pub fn accounts_with_quota(&self) -> Vec<(AccountId, QuotaLimits)> {
        let state = self.cell.state.borrow();
        let all = state.properties.of_kind(PropertyKind::Quota);
        let known =
            all.filter_map(|(key, value)| Some((quota_owner(key)?, QuotaLimits::decode(value)?)));
        let mut known: Vec<(AccountId, QuotaLimits)> = known.collect();
        known.sort_unstable_by_key(|(account, _)| *account);
        known
    }

    /// How much of its limits the account uses, as published.
    pub fn usage(&self) -> Usage {
        let state = self.cell.state.borrow();
        let holding = state.holding();
        let limits = self.commits.options.holding_of(state.id);
        Usage { messages: holding.messages, octets: holding.octets, limits }
    }

    /// The octets that an EXPUNGE of the mailbox would free (RFC 9208 4.1.4). A mailbox without
    /// deleted messages is not looked at.
    ///
    /// # Errors
    /// `NoSuchMailbox`, and those of reading the message table.
    pub async fn deleted_octets(&self, mailbox: MailboxId) -> Result<u64, StoreError> {
        if self.status(mailbox).await?.deleted == 0 {
            return Ok(0);
        }
        let view = self.select(mailbox, false).await?;
        let now = view.current().ok_or(StoreError::NoSuchMailbox)?;
        let deleted = now.iter_from(0).filter(|it| it.flags.system.contains(Flags::DELETED));
        Ok(deleted.map(|message| message.body.size).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_resource_counts() {
        let usage = |messages, octets| {
            let limits = HoldingLimits { messages: 10, octets: 1_000 };
            Usage { messages, octets, limits }.percent()
        };
        assert_eq!([usage(0, 0), usage(9, 0), usage(9, 999), usage(3, 1_500)], [0, 90, 99, 150]);
        let nothing = HoldingLimits { messages: 0, octets: u64::MAX };
        assert_eq!(Usage { messages: 0, octets: 0, limits: nothing }.percent(), 100);
    }
}
