//! `\Seen` of a mailbox as one user has it: the flag of each message or, where `\Seen` is each
//! user's own, a set in the user's account.
//!
//! That account is on the session's shard, also if the mailbox is not: the set is read and changed
//! here, and the mailbox's owner and other users learn nothing of it.

use std::rc::Rc;

use super::super::reply::Failure;
use crate::{
    model::{AccountId, FlagSet, Flags, SeenSet, Uid},
    store::{Account, AccountWatch, MailboxInfo, Message, SeenIn, Snapshot},
};

/// Where a user's own `\Seen` of a mailbox is kept.
#[derive(Clone)]
pub(in crate::service::imap) struct SeenBook {
    /// The user's.
    account: Account,
    of: SeenIn,
}

/// What a user has seen, as of one moment.
#[derive(Clone)]
pub(in crate::service::imap) enum Seen {
    /// `\Seen` is a flag like any other.
    Shared,
    Personal(Rc<Personal>),
}

pub(in crate::service::imap) struct Personal {
    /// As the account has it: `None` if nothing was seen yet.
    stored: Option<Vec<u8>>,
    set: SeenSet,
}

impl SeenBook {
    /// For a mailbox of `owner`.
    pub(in crate::service::imap) fn new(
        account: Account,
        owner: AccountId,
        info: &MailboxInfo,
    ) -> SeenBook {
        let of = SeenIn { owner, mailbox: info.id, uid_validity: info.uid_validity };
        SeenBook { account, of }
    }

    /// The account of the user who has it.
    pub(in crate::service::imap) fn account(&self) -> &Account {
        &self.account
    }

    /// What was seen until now, if `\Seen` is each user's own.
    pub(in crate::service::imap) fn read(&self, is_personal: bool) -> Seen {
        match is_personal {
            true => self.account.with_seen(&self.of, |stored| self.personal(stored)),
            false => Seen::Shared,
        }
    }

    /// The same if it is not `known`.
    pub(in crate::service::imap) fn news(&self, is_personal: bool, known: &Seen) -> Option<Seen> {
        match (is_personal, known) {
            (false, Seen::Shared) => None,
            (true, Seen::Personal(personal)) => self.account.with_seen(&self.of, |stored| {
                let is_same = stored == personal.stored.as_deref();
                (!is_same).then(|| self.personal(stored))
            }),
            _ => Some(self.read(is_personal)),
        }
    }

    fn personal(&self, stored: Option<&[u8]>) -> Seen {
        let set = self.of.decode(stored);
        Seen::Personal(Rc::new(Personal { stored: stored.map(<[u8]>::to_vec), set }))
    }

    pub(in crate::service::imap) fn set(&self) -> SeenSet {
        self.account.with_seen(&self.of, |stored| self.of.decode(stored))
    }

    /// Adds `uids`, which ascend, or removes them. What `now` shows to be expunged is left out, so
    /// that the set does not grow for ever.
    pub(in crate::service::imap) async fn change(
        &self,
        is_seen: bool,
        uids: &[Uid],
        now: Option<&Snapshot>,
    ) -> Result<(), Failure> {
        if uids.is_empty() {
            return Ok(());
        }
        let change = |set: &mut SeenSet| {
            match is_seen {
                true => set.add(uids),
                false => set.remove(uids),
            }
            if let Some(now) = now {
                set.tidy(now.status().uid_next, |first, last| count(now, first, last) > 0);
            }
        };
        Ok(self.account.change_seen(&self.of, change).await?)
    }

    pub(in crate::service::imap) fn watch(&self) -> AccountWatch {
        self.account.watch()
    }
}

/// Messages from one UID to another.
fn count(snapshot: &Snapshot, first: Uid, last: Uid) -> usize {
    let end = last.0.checked_add(1).map_or(snapshot.len(), |it| snapshot.lower_bound(Uid(it)));
    end.saturating_sub(snapshot.lower_bound(first))
}

/// Messages that are not in `set`.
pub(in crate::service::imap) fn unseen(snapshot: &Snapshot, set: &SeenSet) -> usize {
    let seen: usize = set.ranges().map(|(first, last)| count(snapshot, first, last)).sum();
    snapshot.len().saturating_sub(seen)
}

impl Seen {
    pub(in crate::service::imap) fn is_personal(&self) -> bool {
        matches!(self, Seen::Personal(_))
    }

    /// The flags of a message as the user has them.
    pub(in crate::service::imap) fn flags(&self, message: &Message) -> FlagSet {
        let Seen::Personal(personal) = self else { return message.flags };
        let others = message.flags.system & !Flags::SEEN;
        let system = match personal.set.contains(message.uid) {
            true => others | Flags::SEEN,
            false => others,
        };
        FlagSet { system, ..message.flags }
    }

    pub(in crate::service::imap) fn message(&self, message: &Message) -> Message {
        match self {
            // As a whole: a copy field by field is read back slowly.
            Seen::Shared => *message,
            Seen::Personal(_) => Message { flags: self.flags(message), ..*message },
        }
    }

    /// Index of the first message that the user has not seen.
    pub(in crate::service::imap) fn first_unseen(&self, snapshot: &Snapshot) -> Option<usize> {
        match self {
            Seen::Shared if snapshot.status().unseen == 0 => None,
            Seen::Personal(personal) if unseen(snapshot, &personal.set) == 0 => None,
            _ => snapshot
                .iter_from(0)
                .position(|message| !self.flags(message).system.contains(Flags::SEEN)),
        }
    }

    /// Indexes of the messages of `snapshot` on which `\Seen` may differ between `self` and
    /// `newer`, ascending.
    pub(in crate::service::imap) fn changed(
        &self,
        newer: &Seen,
        snapshot: &Snapshot,
    ) -> Vec<usize> {
        match (self, newer) {
            (Seen::Shared, Seen::Shared) => Vec::new(),
            (Seen::Personal(before), Seen::Personal(after)) => {
                let ranges = before.set.difference(&after.set);
                let indexes = ranges.map(|(first, last)| {
                    let start = snapshot.lower_bound(first);
                    start..start + count(snapshot, first, last)
                });
                indexes.flatten().collect()
            }
            _ => (0..snapshot.len()).collect(),
        }
    }
}
