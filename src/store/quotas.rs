//! The limits of accounts, for all shards: those that were set for an account, and those that it
//! has otherwise.
//!
//! Made once for the process, and given to each partition with its options. A partition keeps what
//! was set durably, as properties of [`AccountId::SHARES`] (`handle/quota`). Here it is in memory:
//! loaded when the partition opens, and changed when an entry is published. A partition has one
//! writer, its shard; readers on any shard get an immutable index, which a change replaces. So the
//! limit of a recipient is known where the mail arrives, and the account's shard is asked only for
//! those who have one.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use hashbrown::HashMap;

use crate::model::{AccountId, PartitionId, QuotaLimits};

/// What limits an account for which nothing was set.
pub type DefaultQuota = Box<dyn Fn(AccountId) -> QuotaLimits + Send + Sync>;

/// The limits of all accounts.
pub struct Quotas {
    partitions: Box<[ArcSwap<Index>]>,
    default: Option<DefaultQuota>,
}

/// Maps of an index, of which a change copies one.
const BUCKETS: usize = 64;

type Bucket = HashMap<AccountId, QuotaLimits>;

/// What was set for the accounts of a partition.
#[derive(Clone, Default)]
struct Index {
    /// None while there is nothing in any.
    buckets: Vec<Arc<Bucket>>,
}

impl Index {
    /// Accounts are numbered, and a partition is chosen by their low digits.
    fn place(account: AccountId) -> usize {
        (account.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize % BUCKETS
    }

    fn get(&self, account: AccountId) -> Option<QuotaLimits> {
        self.buckets.get(Index::place(account))?.get(&account).copied()
    }

    fn set(&mut self, account: AccountId, limits: Option<QuotaLimits>) {
        if self.buckets.is_empty() {
            self.buckets.resize_with(BUCKETS, Arc::default);
        }
        let Some(bucket) = self.buckets.get_mut(Index::place(account)) else { return };
        let bucket = Arc::make_mut(bucket);
        match limits {
            Some(limits) => drop(bucket.insert(account, limits)),
            None => drop(bucket.remove(&account)),
        }
    }
}

impl Default for Quotas {
    /// Of no partition: for programs that limit nothing.
    fn default() -> Quotas {
        Quotas::new(0, None)
    }
}

impl fmt::Debug for Quotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quotas of {} partitions", self.partitions.len())
    }
}

impl Quotas {
    /// For the partitions `0..partitions`; of others nothing is kept. `default` is asked on any
    /// shard, and for each message: it must not wait.
    pub fn new(partitions: u16, default: Option<DefaultQuota>) -> Quotas {
        Quotas { partitions: (0..partitions).map(|_| ArcSwap::default()).collect(), default }
    }

    /// What was set for an account.
    pub fn own(&self, account: AccountId) -> Option<QuotaLimits> {
        let partition = account.partition(self.partitions.len().clamp(1, u16::MAX.into()) as u16);
        self.partitions.get(usize::from(partition.0))?.load().get(account)
    }

    /// What limits an account: what was set for it, or else the default.
    pub fn limits(&self, account: AccountId) -> QuotaLimits {
        let default = || self.default.as_ref().map(|default| default(account));
        self.own(account).or_else(default).unwrap_or_default()
    }

    /// Replaces all that is known of a partition.
    pub(super) fn load(
        &self,
        partition: PartitionId,
        limits: impl Iterator<Item = (AccountId, QuotaLimits)>,
    ) {
        if let Some(index) = self.partitions.get(usize::from(partition.0)) {
            let mut loaded = Index::default();
            limits.for_each(|(account, limits)| loaded.set(account, Some(limits)));
            index.store(Arc::new(loaded));
        }
    }

    /// The limits set for an account have changed.
    pub(super) fn change(
        &self,
        partition: PartitionId,
        account: AccountId,
        limits: Option<QuotaLimits>,
    ) {
        if let Some(index) = self.partitions.get(usize::from(partition.0)) {
            let mut changed = Index::clone(&index.load());
            changed.set(account, limits);
            index.store(Arc::new(changed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_comes_before_the_default() {
        let default = |account: AccountId| QuotaLimits { octets: Some(account.0), messages: None };
        let quotas = Quotas::new(2, Some(Box::new(default)));
        let own = QuotaLimits { octets: None, messages: Some(3) };
        let (set, other) = (AccountId(5), AccountId(6));
        let partition = set.partition(2);
        quotas.change(partition, set, Some(own));
        assert_eq!((quotas.limits(set), quotas.limits(other)), (own, default(other)));
        assert_eq!((quotas.own(set), quotas.own(other)), (Some(own), None));
        quotas.change(partition, set, None);
        assert_eq!(quotas.limits(set), default(set));
        quotas.load(partition, [(set, own)].into_iter());
        assert_eq!(quotas.limits(set), own);
        quotas.load(partition, std::iter::empty());
        assert_eq!(quotas.limits(set), default(set));
        assert_eq!(Quotas::default().limits(set), QuotaLimits::default());
    }
}
