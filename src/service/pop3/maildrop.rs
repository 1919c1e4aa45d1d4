//! A maildrop opened by one session (RFC 1939 4): locked against other POP3 sessions, with the
//! messages present at log-in.
//!
//! IMAP sessions are not locked out. Messages that they expunge stay readable here, because the
//! view pins them; messages that they add are seen at the next log-in.

use std::cell::RefCell;

use hashbrown::HashSet;

use crate::{
    model::{AccountId, MailboxId, Uid},
    protocol::pop3::{Listing, Maildrop},
    store::{Account, MailboxView, Message, Partition, Snapshot, StoreError},
};

/// An account's INBOX, opened by a login and closed by dropping it.
pub(super) struct OpenMaildrop {
    pub numbers: Maildrop<Messages>,
    pub account: Account,
    /// Keeps the bodies in the snapshot readable.
    _view: MailboxView,
    _lock: MaildropLock,
}

/// Why a maildrop was not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("another session has the maildrop")]
    InUse,
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl OpenMaildrop {
    /// `partition` is the account's own.
    pub(super) async fn open(
        partition: Partition,
        id: AccountId,
    ) -> Result<OpenMaildrop, OpenError> {
        let lock = MaildropLock::take(id).ok_or(OpenError::InUse)?;
        let account = partition.account(id).await?;
        let view = account.select(MailboxId::INBOX, false).await?;
        let snapshot = view.current().ok_or(StoreError::NoSuchMailbox)?;
        let numbers = Maildrop::new(Messages { snapshot });
        Ok(OpenMaildrop { numbers, account, _view: view, _lock: lock })
    }

    /// The message `number`, or why it is not available.
    pub(super) fn message(&self, number: u32) -> Result<Message, &'static str> {
        let index = self.numbers.index(number)?;
        self.numbers.listing().snapshot.get(index).copied().ok_or("no such message")
    }

    /// UPDATE (RFC 1939 6): removes the marked messages; durable when this returns. Messages that
    /// an IMAP session expunged meanwhile are skipped.
    pub(super) async fn remove_marked(&self) -> Result<(), StoreError> {
        if self.numbers.marked_count() == 0 {
            return Ok(());
        }
        let snapshot = &self.numbers.listing().snapshot;
        let messages = self.numbers.marked().filter_map(|index| snapshot.get(index));
        let uids: Vec<Uid> = messages.map(|message| message.uid).collect();
        self.account.remove(MailboxId::INBOX, &uids).await.map(|_removed| ())
    }
}

/// The snapshot with POP3 numbers.
pub(super) struct Messages {
    snapshot: Snapshot,
}

impl Listing for Messages {
    fn count(&self) -> usize {
        self.snapshot.len()
    }

    fn total_size(&self) -> u64 {
        self.snapshot.status().size
    }

    fn size(&self, index: usize) -> Option<u64> {
        self.snapshot.get(index).map(|message| message.body.size)
    }

    fn unique_id(&self, index: usize) -> Option<(u32, u32)> {
        let message = self.snapshot.get(index)?;
        Some((self.snapshot.status().uid_validity.0, message.uid.0))
    }
}

thread_local! {
    /// Accounts whose maildrop is open. A shard is a thread and an account has one owner shard, so
    /// no other lock is needed; the entry is removed however the session ends.
    static LOCKED: RefCell<HashSet<AccountId>> = RefCell::default();
}

/// The exclusive-access lock of RFC 1939 4.
struct MaildropLock {
    account: AccountId,
}

impl MaildropLock {
    fn take(account: AccountId) -> Option<MaildropLock> {
        LOCKED.with_borrow_mut(|locked| locked.insert(account)).then_some(MaildropLock { account })
    }
}

impl Drop for MaildropLock {
    fn drop(&mut self) {
        // At the thread's end the set may be gone before its sessions are.
        let _ = LOCKED.try_with(|locked| locked.borrow_mut().remove(&self.account));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lock_an_account() {
        let first = MaildropLock::take(AccountId(1)).expect("free");
        assert!(MaildropLock::take(AccountId(1)).is_none());
        let _other = MaildropLock::take(AccountId(2)).expect("another account");
        drop(first);
        assert!(MaildropLock::take(AccountId(1)).is_some());
    }
}
