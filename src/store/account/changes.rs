//! What changed in an account lately, for those who follow it: sessions with NOTIFY (RFC 5465).
//!
//! Owned by the account's state; there only while somebody follows, so that an account that nobody
//! follows pays one comparison for each effect. Each change has a number, by which a follower says
//! what it knows. A change that says all about earlier ones of its kind replaces them: that there
//! are new messages in a mailbox is here once, however many came.
//!
//! Invariants: numbers ascend, also from one journal of an account to its next one (they are not
//! below the LSN of their entry); what is dropped for want of room is below `floor`, and a follower
//! who knows less than that is told so instead.

use std::{collections::BTreeMap, mem::size_of, sync::Arc};

use hashbrown::HashMap;

use crate::model::{Lsn, MailboxId};

/// Changes that are kept.
const CHANGES_MAX: usize = 1_024;
/// Octets of names and access lists among them.
const OCTETS_MAX: usize = 256 * 1024;

/// The encoded access list that a mailbox had when something happened to it: who could see it then.
pub type AccessListThen = Option<Arc<[u8]>>;

/// Something that happened in an account. Names are those of the account.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum AccountChange {
    /// Messages of a mailbox.
    Messages(MailboxId, MessageChange),
    /// A mailbox was created.
    Created { mailbox: MailboxId, name: String },
    /// A mailbox was deleted.
    Deleted { mailbox: MailboxId, name: String, access: AccessListThen },
    /// A mailbox got another name. Of those below it, which got other names with it, there are only
    /// those that not the same users see. `entry`: what was renamed at once has the same.
    Renamed { mailbox: MailboxId, from: String, to: String, access: AccessListThen, entry: Lsn },
    /// The access list of a mailbox, which had this name then, was replaced.
    Access { mailbox: MailboxId, name: String, before: AccessListThen, after: AccessListThen },
    /// A name was subscribed, or is not any more.
    Subscription(String),
    /// A property of kind [`super::super::PropertyKind::Metadata`], by its mailbox (0: the account)
    /// and key.
    Annotation(MailboxId, Vec<u8>),
}

/// What happened to messages of a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MessageChange {
    Added,
    Expunged,
    /// Flags or keywords.
    Flags,
    /// The number of messages without `\Seen` is another one.
    Unseen,
}

impl AccountChange {
    /// Whether one says all that an earlier equal one did.
    fn replaces_equal(&self) -> bool {
        use AccountChange::{Annotation, Messages, Subscription};
        matches!(self, Messages(..) | Subscription(_) | Annotation(..))
    }

    fn octets(&self) -> usize {
        let list = |list: &AccessListThen| list.as_ref().map_or(0, |list| list.len());
        match self {
            AccountChange::Messages(..) => 0,
            AccountChange::Created { name, .. } | AccountChange::Subscription(name) => name.len(),
            AccountChange::Deleted { name, access, .. } => name.len() + list(access),
            AccountChange::Renamed { from, to, access, .. } => from.len() + to.len() + list(access),
            AccountChange::Access { name, before, after, .. } => {
                name.len() + list(before) + list(after)
            }
            AccountChange::Annotation(_, key) => key.len(),
        }
    }
}

/// The latest changes of an account.
pub(crate) struct Journal {
    followers: usize,
    /// Of changes up to here nothing is known.
    floor: u64,
    /// Number of the latest change, or the floor.
    last: u64,
    changes: BTreeMap<u64, AccountChange>,
    /// Where those are that a later one will replace.
    latest: HashMap<AccountChange, u64>,
    octets: usize,
    /// The entry whose changes were added last.
    entry: Lsn,
    /// Where its renames are that are here, by the old names.
    renames: HashMap<String, u64>,
}

impl Journal {
    /// With one follower. `applied` as in the account's state.
    pub(crate) fn new(applied: Lsn) -> Journal {
        Journal {
            followers: 1,
            floor: applied.0,
            last: applied.0,
            changes: BTreeMap::new(),
            latest: HashMap::new(),
            octets: 0,
            entry: applied,
            renames: HashMap::new(),
        }
    }

    /// For the same followers, none of whom knows what `applied` contains.
    pub(crate) fn begin_again(&self, applied: Lsn) -> Journal {
        let floor = self.last.max(applied.0) + 1;
        Journal { followers: self.followers, floor, last: floor, ..Journal::new(applied) }
    }

    pub(crate) fn join(&mut self) {
        self.followers += 1;
    }

    /// Returns whether that was the last one.
    pub(crate) fn leave(&mut self) -> bool {
        self.followers = self.followers.saturating_sub(1);
        self.followers == 0
    }

    /// The number of the latest change.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Adds a change by the entry at `lsn`.
    pub(crate) fn push(&mut self, lsn: Lsn, change: AccountChange) {
        if self.entry != lsn {
            self.entry = lsn;
            self.renames.clear();
        }
        let number = (self.last + 1).max(lsn.0);
        if let AccountChange::Renamed { from, to, access, .. } = &change {
            if self.moved_with_another((from, to), access) {
                return;
            }
            // Of an entry with more renames than are kept, nobody is told but that.
            if self.renames.len() < CHANGES_MAX {
                self.renames.insert(from.clone(), number);
            }
        }
        self.last = number;
        if change.replaces_equal()
            && let Some(earlier) = self.latest.insert(change.clone(), self.last)
        {
            self.remove(earlier);
        }
        self.octets += change.octets();
        self.changes.insert(self.last, change);
        while self.changes.len() > CHANGES_MAX || self.octets > OCTETS_MAX {
            let Some((&first, _)) = self.changes.first_key_value() else { break };
            if let Some(dropped) = self.remove(first)
                && self.latest.get(&dropped) == Some(&first)
            {
                self.latest.remove(&dropped);
            }
            self.floor = first;
        }
    }

    fn remove(&mut self, number: u64) -> Option<AccountChange> {
        let change = self.changes.remove(&number)?;
        self.octets = self.octets.saturating_sub(change.octets());
        Some(change)
    }

    /// Whether the same entry, of which each change comes after the one of the mailbox above it,
    /// renamed a mailbox above in the same way, and the next one above that is here can be seen by
    /// the same users.
    fn moved_with_another(&self, (from, to): (&str, &str), access: &AccessListThen) -> bool {
        let mut above = from.rmatch_indices('/').filter_map(|(end, _)| {
            let (above, below) = from.split_at_checked(end)?;
            match self.changes.get(self.renames.get(above)?)? {
                AccountChange::Renamed { to: to_above, access, .. }
                    if to.strip_prefix(&**to_above) == Some(below) =>
                {
                    Some(access)
                }
                _ => None,
            }
        });
        above.next().is_some_and(|above| above == access)
    }

    /// The changes after the one numbered `known`, in their order; `None` if some were dropped.
    pub(crate) fn since(&self, known: u64) -> Option<Vec<AccountChange>> {
        let after = || self.changes.range(known.saturating_add(1)..);
        (known >= self.floor).then(|| after().map(|(_, change)| change.clone()).collect())
    }

    /// Octets of memory, estimated.
    pub(crate) fn memory(&self) -> usize {
        let change = size_of::<AccountChange>() + size_of::<u64>() + 16;
        // A sum, in any order.
        let renames = self.renames.keys().map(|name| name.len() + change).sum::<usize>();
        self.octets + (self.changes.len() + self.latest.len()) * change + renames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(mailbox: u32) -> AccountChange {
        AccountChange::Messages(MailboxId(mailbox), MessageChange::Added)
    }

    #[test]
    fn what_says_the_same_is_there_once() {
        let mut journal = Journal::new(Lsn(100));
        let begin = journal.last();
        for lsn in 0..5_000 {
            journal.push(Lsn(200 + 50 * lsn), added(1 + (lsn % 2) as u32));
        }
        assert_eq!(journal.since(begin), Some(vec![added(1), added(2)]));
        let known = journal.last();
        assert_eq!(journal.since(known), Some(Vec::new()));
        journal.push(Lsn(1_000_000), added(1));
        assert_eq!(journal.since(known), Some(vec![added(1)]));
        assert_eq!(journal.since(begin), Some(vec![added(2), added(1)]));
        // Renames do not: each matters.
        let created = AccountChange::Created { mailbox: MailboxId(1), name: "a".to_owned() };
        journal.push(Lsn(1_000_100), created.clone());
        journal.push(Lsn(1_000_200), created.clone());
        assert_eq!(journal.since(known), Some(vec![added(1), created.clone(), created]));
    }

    #[test]
    fn who_is_far_behind_is_told_so() {
        let mut journal = Journal::new(Lsn(100));
        let begin = journal.last();
        assert!(journal.since(begin - 1).is_none());
        for mailbox in 0..CHANGES_MAX as u32 {
            journal.push(Lsn(200 + 50 * u64::from(mailbox)), added(mailbox));
        }
        let after_first = 200;
        assert_eq!(journal.since(begin).unwrap().len(), CHANGES_MAX);
        journal.push(Lsn(1_000_000), added(5_000));
        assert!(journal.since(begin).is_none());
        assert_eq!(journal.since(after_first).unwrap().len(), CHANGES_MAX);
        // The dropped one may come again.
        journal.push(Lsn(1_000_100), added(0));
        assert_eq!(journal.since(journal.last() - 1), Some(vec![added(0)]));
        let known = journal.last();
        let created =
            |octets| AccountChange::Created { mailbox: MailboxId(1), name: "x".repeat(octets) };
        journal.push(Lsn(1_000_200), created(OCTETS_MAX / 2));
        assert!(journal.since(known).is_some());
        journal.push(Lsn(1_000_300), created(OCTETS_MAX / 2 + 1));
        assert!(journal.since(known).is_none());
        assert!(journal.memory() < 2 * OCTETS_MAX);
        // Access lists count, those before and after.
        let known = journal.last();
        let list: AccessListThen = Some(vec![0; OCTETS_MAX / 4].into());
        for lsn in [1_000_400, 1_000_500] {
            assert!(journal.since(known).is_some());
            let (before, after) = (list.clone(), list.clone());
            let (mailbox, name) = (MailboxId(1), "x".to_owned());
            journal.push(Lsn(lsn), AccountChange::Access { mailbox, name, before, after });
        }
        assert!(journal.since(known).is_none());
    }

    #[test]
    fn what_is_renamed_with_a_mailbox_above_is_not_told() {
        let mut journal = Journal::new(Lsn(100));
        let begin = journal.last();
        let rename_of = |lsn, from: &str, to: &str, access: &[u8]| {
            let (from, to) = (from.to_owned(), to.to_owned());
            let access = (!access.is_empty()).then(|| access.into());
            AccountChange::Renamed { mailbox: MailboxId(1), from, to, access, entry: Lsn(lsn) }
        };
        let rename = |lsn, from: &str, to: &str| rename_of(lsn, from, to, b"");
        for (from, to) in [("a", "b"), ("a/x", "b/x"), ("a/x/y", "b/x/y"), ("ab", "bb")] {
            journal.push(Lsn(200), rename(200, from, to));
        }
        journal.push(Lsn(300), rename(300, "b/x", "c/x"));
        let expected = [rename(200, "a", "b"), rename(200, "ab", "bb"), rename(300, "b/x", "c/x")];
        assert_eq!(journal.since(begin).unwrap(), expected);
        // But for what others can see.
        let known = journal.last();
        for (name, access) in [("a", "1"), ("a/x", "1"), ("a/y", "2"), ("a/y/z", "2")] {
            let (from, to) = (name.to_owned(), name.replace('a', "b"));
            journal.push(Lsn(400), rename_of(400, &from, &to, access.as_bytes()));
        }
        journal.push(Lsn(400), rename_of(400, "a/y/z/u", "b/y/z/u", b"1"));
        let expected = [
            rename_of(400, "a", "b", b"1"),
            rename_of(400, "a/y", "b/y", b"2"),
            rename_of(400, "a/y/z/u", "b/y/z/u", b"1"),
        ];
        assert_eq!(journal.since(known).unwrap(), expected);
    }

    #[test]
    fn another_journal_of_the_account_continues_the_numbers() {
        let mut journal = Journal::new(Lsn(100));
        // An entry of several changes, whose octets are more than these.
        for mailbox in 0..3 {
            journal.push(Lsn(200), added(mailbox));
        }
        let known = journal.last();
        let next = Journal::new(Lsn(201));
        assert_eq!(next.since(known), Some(Vec::new()));
        let again = journal.begin_again(Lsn(150));
        assert!(again.since(known).is_none());
        assert_eq!(again.since(again.last()), Some(Vec::new()));
    }
}
