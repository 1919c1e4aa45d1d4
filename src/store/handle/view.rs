//! A session's hold on a mailbox: the latest published snapshot, its `\Recent` claim, and waiting
//! for changes (IMAP IDLE); a watch over a whole account; and following what changes in it.

use std::{
    cell::Cell,
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::super::{
    account::{changes::Journal, snapshot::Snapshot, state::AccountCell},
    commits::Commits,
};
use crate::model::{Lsn, MailboxId, Uid};

/// Follows the mailbox through renames; keeps its account in memory.
pub struct MailboxView {
    /// Keeps the publisher alive while sessions need it.
    commits: Rc<Commits>,
    cell: Rc<AccountCell>,
    mailbox: MailboxId,
    recent_from: Cell<Uid>,
    /// [`super::super::account::mailbox::Mailbox::access_changes`] when it was last looked at.
    access_seen: Cell<u64>,
}

impl MailboxView {
    pub(in crate::store) fn new(
        commits: Rc<Commits>,
        cell: Rc<AccountCell>,
        mailbox: MailboxId,
        (recent_from, access_seen): (Uid, u64),
    ) -> MailboxView {
        let (recent_from, access_seen) = (Cell::new(recent_from), Cell::new(access_seen));
        MailboxView { commits, cell, mailbox, recent_from, access_seen }
    }

    pub fn mailbox(&self) -> MailboxId {
        self.mailbox
    }

    /// Latest published state; `None` once the mailbox was deleted.
    pub fn current(&self) -> Option<Snapshot> {
        let snapshot = self.cell.state.borrow().live_mailbox(self.mailbox)?.snapshot()?;
        self.commits.accounts.note_held(&snapshot.published);
        Some(snapshot)
    }

    /// Messages with a UID from here on are `\Recent` for this session, as of the selection.
    pub fn recent_from(&self) -> Uid {
        self.recent_from.get()
    }

    /// Takes the `\Recent` claim on messages added since; returns the first UID of them.
    pub fn claim_recent(&self) -> Option<Uid> {
        let mut state = self.cell.state.borrow_mut();
        let mailbox = state.mailboxes.get_mut(&self.mailbox).filter(|mailbox| mailbox.live)?;
        if mailbox.recent_from >= mailbox.status.uid_next {
            return None;
        }
        let first = mailbox.claim_recent();
        // Written with the account's next page; a lost claim only shows a message as recent twice.
        state.dirty = true;
        Some(first)
    }

    /// Resolves when something newer than `seen` is published, the mailbox is deleted, or its
    /// access list was changed since this last resolved. Cancel-safe.
    pub async fn changed(&self, seen: &Snapshot) {
        let mut seat = Seat { cell: &self.cell, mailbox: Some(self.mailbox), waker: None };
        poll_fn(|context| {
            {
                let state = self.cell.state.borrow();
                let Some(mailbox) = state.live_mailbox(self.mailbox) else {
                    return Poll::Ready(());
                };
                if self.access_seen.replace(mailbox.access_changes) != mailbox.access_changes {
                    return Poll::Ready(());
                }
                let generation = mailbox.loaded.as_ref().map(|loaded| loaded.generation);
                if generation != Some(seen.published.generation) {
                    return Poll::Ready(());
                }
            }
            seat.wait(context)
        })
        .await
    }
}

/// Follows all changes published for an account: messages and flags in any mailbox, names,
/// properties.
pub struct AccountWatch {
    /// Keeps the publisher alive while sessions need it.
    _commits: Rc<Commits>,
    cell: Rc<AccountCell>,
    seen: Cell<Lsn>,
}

impl AccountWatch {
    pub(in crate::store) fn new(commits: Rc<Commits>, cell: Rc<AccountCell>) -> AccountWatch {
        let seen = Cell::new(cell.state.borrow().applied);
        AccountWatch { _commits: commits, cell, seen }
    }

    /// Resolves when something was published since the last call, or since the watch began.
    /// Cancel-safe.
    pub async fn changed(&self) {
        let mut seat = Seat { cell: &self.cell, mailbox: None, waker: None };
        poll_fn(|context| {
            let applied = self.cell.state.borrow().applied;
            match self.seen.replace(applied) == applied {
                true => seat.wait(context),
                false => Poll::Ready(()),
            }
        })
        .await
    }
}

/// Follows what changes in an account: as long as it is there, changes are noted, each with a
/// number.
pub struct AccountFollower {
    /// Keeps the publisher alive while sessions need it.
    _commits: Rc<Commits>,
    cell: Rc<AccountCell>,
}

impl AccountFollower {
    pub(in crate::store) fn new(commits: Rc<Commits>, cell: Rc<AccountCell>) -> AccountFollower {
        {
            let state = &mut *cell.state.borrow_mut();
            match &mut state.journal {
                Some(journal) => journal.join(),
                None => state.journal = Some(Box::new(Journal::new(state.applied))),
            }
        }
        AccountFollower { _commits: commits, cell }
    }

    /// The number of the latest change.
    pub fn latest(&self) -> u64 {
        self.cell.state.borrow().journal.as_ref().map_or(0, |journal| journal.last())
    }

    /// Resolves when there is a change after the one numbered `known`. Cancel-safe.
    pub async fn changed(&self, known: u64) {
        let mut seat = Seat { cell: &self.cell, mailbox: None, waker: None };
        poll_fn(|context| match self.latest() == known {
            true => seat.wait(context),
            false => Poll::Ready(()),
        })
        .await
    }
}

impl Drop for AccountFollower {
    fn drop(&mut self) {
        let mut state = self.cell.state.borrow_mut();
        if state.journal.as_mut().is_some_and(|journal| journal.leave()) {
            state.journal = None;
        }
    }
}

/// Registration as a watcher of an account or one of its mailboxes. Removed on drop: sessions that
/// idle and leave while nothing happens must not add up.
struct Seat<'a> {
    cell: &'a AccountCell,
    mailbox: Option<MailboxId>,
    waker: Option<Waker>,
}

impl Seat<'_> {
    fn wait(&mut self, context: &Context<'_>) -> Poll<()> {
        if let Some(watchers) = self.cell.state.borrow().watchers(self.mailbox) {
            watchers.add(context.waker());
            self.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let Some(waker) = &self.waker else { return };
        if let Some(watchers) = self.cell.state.borrow().watchers(self.mailbox) {
            watchers.remove(waker);
        }
    }
}
