//! The location of every account's page: the only data of cold accounts that stays in memory, 16
//! bytes each.
//!
//! Accounts hash into buckets, a power of two of them; each bucket is one directory page on disk,
//! and a checkpoint rewrites only the buckets that changed. Shard-local, owned by the partition.

use super::super::format::root::{Root, encode_directory};
use crate::model::{AccountId, Lsn};

/// Accounts per bucket at which the number of buckets doubles: a page is then some 6 KiB.
const BUCKET_ACCOUNTS: usize = 512;
const BUCKETS_MIN: usize = 16;

#[derive(Default)]
struct Bucket {
    /// Ascending by account.
    records: Vec<(AccountId, Lsn)>,
    page: Option<Lsn>,
    dirty: bool,
}

pub(crate) struct PageDirectory {
    buckets: Vec<Bucket>,
    accounts: usize,
}

fn empty(count: usize) -> Vec<Bucket> {
    (0..count).map(|_| Bucket::default()).collect()
}

impl PageDirectory {
    pub(crate) fn new() -> PageDirectory {
        PageDirectory { buckets: empty(BUCKETS_MIN), accounts: 0 }
    }

    /// The directory a root describes, its buckets still to be filled.
    pub(crate) fn from_root(root: &Root) -> PageDirectory {
        let mut buckets = empty(root.buckets.len());
        std::iter::zip(&mut buckets, &root.buckets).for_each(|(bucket, page)| bucket.page = *page);
        PageDirectory { buckets, accounts: 0 }
    }

    /// Adds the records read from a directory page.
    pub(crate) fn fill(&mut self, records: Vec<(AccountId, Lsn)>) {
        for (account, page) in records {
            let bucket = self.bucket_of(account);
            insert(&mut self.buckets[bucket].records, account, page);
            self.accounts += 1;
        }
    }

    fn bucket_of(&self, account: AccountId) -> usize {
        // A different odd multiplier than the partition's: within a partition those bits are alike.
        let mixed = account.0.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (mixed >> 32) as usize & (self.buckets.len() - 1)
    }

    pub(crate) fn get(&self, account: AccountId) -> Option<Lsn> {
        let records = &self.buckets[self.bucket_of(account)].records;
        let index = records.binary_search_by_key(&account, |(id, _)| *id).ok()?;
        Some(records[index].1)
    }

    pub(crate) fn set(&mut self, account: AccountId, page: Lsn) {
        let at = self.bucket_of(account);
        let bucket = &mut self.buckets[at];
        bucket.dirty = true;
        if insert(&mut bucket.records, account, page) {
            self.accounts += 1;
            if self.accounts > self.buckets.len() * BUCKET_ACCOUNTS {
                self.grow();
            }
        }
    }

    /// Doubles the buckets. All are then rewritten, once per doubling of the accounts.
    fn grow(&mut self) {
        let count = self.buckets.len() * 2;
        let old = std::mem::replace(&mut self.buckets, empty(count));
        for (account, page) in old.into_iter().flat_map(|bucket| bucket.records) {
            let at = self.bucket_of(account);
            insert(&mut self.buckets[at].records, account, page);
        }
        self.buckets.iter_mut().for_each(|bucket| bucket.dirty = true);
    }

    /// Calls `write` with the old location and the content of each changed page, until it says that
    /// this is enough for now, and remembers the LSNs it returns. True if changed pages are left.
    pub(crate) fn write_changed<E>(
        &mut self,
        mut write: impl FnMut(Option<Lsn>, Vec<u8>) -> Result<(Lsn, bool), E>,
    ) -> Result<bool, E> {
        let mut changed = self.buckets.iter_mut().filter(|bucket| bucket.dirty);
        for bucket in changed.by_ref() {
            let mut more = true;
            bucket.page = match bucket.records.is_empty() {
                true => None,
                false => {
                    let (page, go_on) = write(bucket.page, encode_directory(&bucket.records))?;
                    more = go_on;
                    Some(page)
                }
            };
            bucket.dirty = false;
            if !more {
                break;
            }
        }
        Ok(changed.next().is_some())
    }

    pub(crate) fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    /// The accounts of one bucket, ascending.
    pub(crate) fn accounts_in(&self, bucket: usize) -> Vec<AccountId> {
        let records = self.buckets.get(bucket).map(|bucket| &bucket.records);
        records.into_iter().flatten().map(|(account, _)| *account).collect()
    }

    /// The accounts whose pages are at `lsn` or later.
    pub(crate) fn written_since(&self, lsn: Lsn) -> impl Iterator<Item = AccountId> {
        let records = self.buckets.iter().flat_map(|bucket| &bucket.records);
        records.filter(move |(_, page)| *page >= lsn).map(|(account, _)| *account)
    }

    pub(crate) fn pages(&self) -> Vec<Option<Lsn>> {
        self.buckets.iter().map(|bucket| bucket.page).collect()
    }
}

/// True if the account is new.
fn insert(records: &mut Vec<(AccountId, Lsn)>, account: AccountId, page: Lsn) -> bool {
    match records.binary_search_by_key(&account, |(id, _)| *id) {
        Ok(index) => {
            records[index].1 = page;
            false
        }
        Err(index) => {
            records.insert(index, (account, page));
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::store::accounts::page_directory::*;
    use crate::store::format::root::decode_directory;

    #[test]
    fn grows_and_writes_only_what_changed() {
        let mut directory = PageDirectory::new();
        let count = (BUCKETS_MIN * BUCKET_ACCOUNTS * 3) as u64;
        (0..count).for_each(|id| directory.set(AccountId(id), Lsn(id + 1)));
        assert!((0..count).all(|id| directory.get(AccountId(id)) == Some(Lsn(id + 1))));
        assert_eq!(directory.buckets.len(), BUCKETS_MIN * 4);
        let largest = directory.buckets.iter().map(|b| b.records.len()).max();
        assert!(largest < Some(BUCKET_ACCOUNTS * 2), "{largest:?}");

        let mut pages = Vec::new();
        let mut write = |_, page| {
            pages.push(page);
            // One at a time.
            Ok::<_, ()>((Lsn(1_000_000 + pages.len() as u64), false))
        };
        while directory.write_changed(&mut write).unwrap() {}
        directory.set(AccountId(3), Lsn(99));
        assert!(!directory.write_changed(&mut write).unwrap());
        assert_eq!(pages.len(), BUCKETS_MIN * 4 + 1);

        let root = Root { buckets: directory.pages(), ..Root::default() };
        let mut again = PageDirectory::from_root(&root);
        for page in root.buckets.iter().flatten() {
            let page = &pages[(page.0 - 1_000_001) as usize];
            again.fill(decode_directory(page).unwrap());
        }
        assert_eq!((again.get(AccountId(3)), again.accounts), (Some(Lsn(99)), count as usize));
    }
}
