//! What is shared with whom, for all shards: the owners of mailboxes whose access lists name
//! somebody, by whom they name.
//!
//! Made once for the process, and given to each partition with its options. A partition keeps the
//! grantees of each owner durably, as properties of [`AccountId::SHARES`], written by the entry
//! that changes an access list (`handle/access`). Here is the other direction, in memory: loaded
//! when the partition opens, and changed when an entry is published. A partition has one writer,
//! its shard; readers on any shard get an immutable [`Index`], which a change replaces as a whole.
//! An index is many small maps, of which a change copies one for each grantee that came or went.
//!
//! An owner who is found may have nothing for the asker after all (a negative entry, a deleted
//! mailbox); one who has is found. Rights are decided by the lists alone, at the owner.

use std::{collections::BTreeSet, fmt, hash::BuildHasher, sync::Arc};

use arc_swap::ArcSwap;
use hashbrown::{DefaultHashBuilder, HashMap};

use crate::{
    model::{AccountId, Asker, Grantee, Grantees, PartitionId},
    runtime::latest::{Listener, Teller},
};

/// The shares of all partitions.
pub struct Shares {
    partitions: Box<[ArcSwap<Index>]>,
    /// Counts changes, for those who ask again.
    changes: Teller<u64>,
}

/// Ascending.
type Owners = Arc<[AccountId]>;
type Bucket = HashMap<Grantee, Owners>;

/// Maps of an index. A change of 10,000 grantees' index copies about 40 of them.
const BUCKETS: usize = 256;

/// The shares of one partition.
#[derive(Clone, Default)]
pub(super) struct Index {
    /// None while there is nothing in any.
    buckets: Vec<Arc<Bucket>>,
    hasher: DefaultHashBuilder,
}

impl Default for Shares {
    /// Of no partition: for programs that do not ask what is shared.
    fn default() -> Shares {
        Shares::new(0)
    }
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shares of {} partitions", self.partitions.len())
    }
}

impl Shares {
    /// For the partitions `0..partitions`; of others nothing is kept.
    pub fn new(partitions: u16) -> Shares {
        let partitions = (0..partitions).map(|_| ArcSwap::default()).collect();
        Shares { partitions, changes: Teller::default() }
    }

    /// Hears of changes from now on; how many there were says nothing.
    pub fn listen(&self) -> Listener<u64> {
        self.changes.listen()
    }

    fn tell(&self) {
        self.changes.tell_if(|count| {
            *count = count.wrapping_add(1);
            true
        });
    }

    /// The accounts whose lists name `asker`, ascending; without the asker's own.
    pub fn owners(&self, asker: &Asker<'_>) -> Vec<AccountId> {
        let mut owners = self.owners_of(&Grantee::naming(asker).collect::<Vec<_>>());
        owners.retain(|owner| Some(*owner) != asker.account);
        owners
    }

    /// Whether the lists of `owner`, another account, name `asker`.
    pub fn has(&self, owner: AccountId, asker: &Asker<'_>) -> bool {
        let partition = owner.partition(self.partitions.len().clamp(1, u16::MAX.into()) as u16);
        let Some(index) = self.partitions.get(usize::from(partition.0)) else { return false };
        let index = index.load();
        Some(owner) != asker.account
            && Grantee::naming(asker)
                .any(|grantee| index.owners(&grantee).binary_search(&owner).is_ok())
    }

    fn owners_of(&self, grantees: &[Grantee]) -> Vec<AccountId> {
        let mut owners = Vec::new();
        for index in &self.partitions {
            let index = index.load();
            grantees.iter().for_each(|grantee| owners.extend_from_slice(index.owners(grantee)));
        }
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    /// Whether the shares of this partition are kept.
    pub(super) fn keep(&self, partition: PartitionId) -> bool {
        usize::from(partition.0) < self.partitions.len()
    }

    /// Replaces all that is known of a partition.
    pub(super) fn load(
        &self,
        partition: PartitionId,
        shares: impl Iterator<Item = (AccountId, Grantees)>,
    ) {
        if let Some(index) = self.partitions.get(usize::from(partition.0)) {
            index.store(Arc::new(Index::of(shares)));
            self.tell();
        }
    }

    /// The grantees of an account have changed.
    pub(super) fn change(
        &self,
        partition: PartitionId,
        owner: AccountId,
        before: &Grantees,
        after: &Grantees,
    ) {
        if let Some(index) = self.partitions.get(usize::from(partition.0)) {
            let mut changed = Index::clone(&index.load());
            before.without(after).for_each(|gone| changed.change(gone, owner, false));
            after.without(before).for_each(|new| changed.change(new, owner, true));
            index.store(Arc::new(changed));
            self.tell();
        }
    }

    /// Everything known of a partition.
    #[cfg(test)]
    pub(super) fn all(
        &self,
        partition: PartitionId,
    ) -> std::collections::BTreeMap<Grantee, Vec<AccountId>> {
        let index = self.partitions[usize::from(partition.0)].load();
        let entries = index.buckets.iter().flat_map(|bucket| bucket.iter());
        entries.map(|(grantee, owners)| (grantee.clone(), owners.to_vec())).collect()
    }
}

impl Index {
    fn of(shares: impl Iterator<Item = (AccountId, Grantees)>) -> Index {
        let mut owners: HashMap<Grantee, BTreeSet<AccountId>> = HashMap::new();
        for (owner, grantees) in shares {
            for grantee in grantees.iter() {
                owners.entry(grantee.clone()).or_default().insert(owner);
            }
        }
        let mut index = Index::default();
        // From a map to a map, in any order.
        for (grantee, owners) in owners {
            let owners = owners.into_iter().collect();
            index.bucket_mut(&grantee).insert(grantee, owners);
        }
        index
    }

    fn place(&self, grantee: &Grantee) -> usize {
        // Not the bits that a bucket uses.
        (self.hasher.hash_one(grantee) >> 32) as usize % BUCKETS
    }

    fn bucket_mut(&mut self, grantee: &Grantee) -> &mut Bucket {
        if self.buckets.is_empty() {
            self.buckets.resize_with(BUCKETS, Arc::default);
        }
        let place = self.place(grantee);
        Arc::make_mut(&mut self.buckets[place])
    }

    fn owners(&self, grantee: &Grantee) -> &[AccountId] {
        let bucket = self.buckets.get(self.place(grantee));
        bucket.and_then(|bucket| bucket.get(grantee)).map_or(&[], |owners| owners)
    }

    fn change(&mut self, grantee: &Grantee, owner: AccountId, is_there: bool) {
        let bucket = self.bucket_mut(grantee);
        let mut owners = bucket.remove(grantee).map_or_else(Vec::new, |owners| owners.to_vec());
        match (owners.binary_search(&owner), is_there) {
            (Err(at), true) => owners.insert(at, owner),
            (Ok(at), false) => drop(owners.remove(at)),
            _ => {}
        }
        if !owners.is_empty() {
            bucket.insert(grantee.clone(), owners.into());
        }
    }
}
