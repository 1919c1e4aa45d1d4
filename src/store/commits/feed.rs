//! The change feed: published changes, for the subscribers of a partition.
//!
//! Each subscriber has a bounded queue of changes in LSN order, each reported once, none before it
//! is durable and visible. If a queue overflows, the subscriber is told that it missed changes and
//! from which LSN: it then compares its state with snapshots, mailbox by mailbox, by mod-sequence
//! and tombstones. The same is done after a restart: a subscriber that kept the LSN up to which it
//! has seen everything asks for the accounts that have changed since
//! ([`super::super::Partition::changed_since`]). Shard-local; publishing never waits for a
//! subscriber.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::{Rc, Weak},
    task::{Poll, Waker},
};

use super::super::format::effect::Effect;
use crate::{
    model::{AccountId, Lsn, MailboxId},
    plant::{Plant, planted},
};

/// The change of an account by one published effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeedChange {
    /// The entry's LSN; several changes of one entry are consecutive.
    pub lsn: Lsn,
    pub account: AccountId,
    /// `None` for changes of the account as a whole.
    pub mailbox: Option<MailboxId>,
    pub kind: FeedKind,
    /// How many messages it affects.
    pub messages: u32,
}

/// Families of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FeedKind {
    /// Messages were added.
    Messages,
    /// Flags or keywords of messages.
    Flags,
    /// Messages were expunged.
    Expunged,
    /// A mailbox was created, deleted or renamed, a subscription changed; or the account was
    /// created.
    Names,
    /// An ACL, a quota, metadata.
    Properties,
    /// Values beside a message.
    Annotations,
}

/// An event for a subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FeedEvent {
    Change(FeedChange),
    /// The queue overflowed: changes of the entries from this LSN on were dropped. The next event
    /// is later than all of them.
    Missed {
        from: Lsn,
    },
}

/// All subscribers of a partition.
#[derive(Default)]
pub(crate) struct Feed {
    queues: RefCell<Vec<Weak<Queue>>>,
    /// Counts changes, for plants.
    told: Cell<u64>,
}

struct Queue {
    capacity: usize,
    changes: RefCell<VecDeque<FeedChange>>,
    missed: Cell<Option<Lsn>>,
    /// Everything below was queued or missed.
    upto: Cell<Lsn>,
    waiting: RefCell<Option<Waker>>,
}

/// A place in the feed; dropping it unsubscribes.
pub struct Subscription {
    queue: Rc<Queue>,
    seen: Cell<Lsn>,
}

impl Feed {
    /// A queue of up to `capacity` changes published from now on; everything below `from` is
    /// already published.
    pub(crate) fn subscribe(&self, capacity: usize, from: Lsn) -> Subscription {
        let queue = Rc::new(Queue {
            capacity,
            changes: RefCell::default(),
            missed: Cell::new(None),
            upto: Cell::new(from),
            waiting: RefCell::default(),
        });
        self.queues.borrow_mut().push(Rc::downgrade(&queue));
        Subscription { queue, seen: Cell::new(from) }
    }

    pub(crate) fn has_subscribers(&self) -> bool {
        !self.queues.borrow().is_empty()
    }

    /// Reports `effects` of the entry at `lsn`, which are published. Wakers of waiting tasks are
    /// moved to `wake`, to be woken when nothing is borrowed.
    pub(crate) fn tell<'a>(
        &self,
        lsn: Lsn,
        effects: impl Iterator<Item = &'a Effect> + Clone,
        wake: &mut Vec<Waker>,
    ) {
        self.queues.borrow_mut().retain(|queue| {
            let Some(queue) = queue.upgrade() else { return false };
            for change in effects.clone().filter_map(|effect| change_of(lsn, effect)) {
                self.told.set(self.told.get() + 1);
                let fifth = self.told.get().is_multiple_of(5);
                if fifth && planted(Plant::FeedDrops) {
                    continue;
                }
                queue.push(change);
                if fifth && planted(Plant::FeedTellsTwice) {
                    queue.push(change);
                }
            }
            queue.upto.set(Lsn(lsn.0 + 1));
            wake.extend(queue.waiting.take());
            true
        });
    }
}

impl Queue {
    fn push(&self, change: FeedChange) {
        if self.missed.get().is_some() {
            return;
        }
        let mut changes = self.changes.borrow_mut();
        if changes.len() >= self.capacity {
            // The changes in the queue are covered by snapshots compared from its first change on.
            let first = changes.front().map_or(change.lsn, |first| first.lsn);
            self.missed.set(Some(first));
            changes.clear();
            return;
        }
        changes.push_back(change);
    }
}

impl Subscription {
    /// The next event; waits for one. Cancel-safe.
    pub async fn next(&self) -> FeedEvent {
        poll_fn(|context| match self.try_next() {
            Some(event) => Poll::Ready(event),
            None => {
                self.queue.waiting.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    /// The next event, if there is one.
    pub fn try_next(&self) -> Option<FeedEvent> {
        if let Some(from) = self.queue.missed.take() {
            self.seen.set(self.queue.upto.get());
            return Some(FeedEvent::Missed { from });
        }
        let mut changes = self.queue.changes.borrow_mut();
        let change = changes.pop_front()?;
        // An entry is seen when all its changes are.
        let next = changes.front().map_or(self.queue.upto.get(), |next| next.lsn);
        self.seen.set(next);
        Some(FeedEvent::Change(change))
    }

    /// All changes of entries below were reported, or reported as missed. A subscriber that keeps
    /// it durably (once its own state is) resumes from it after a restart.
    pub fn seen(&self) -> Lsn {
        match self.queue.changes.borrow().is_empty() && self.queue.missed.get().is_none() {
            true => self.queue.upto.get(),
            false => self.seen.get(),
        }
    }
}

fn change_of(lsn: Lsn, effect: &Effect) -> Option<FeedChange> {
    let account = effect.account()?;
    let change = |mailbox, kind, messages| {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        Some(FeedChange { lsn, account, mailbox, kind, messages })
    };
    match effect {
        Effect::Message { mailbox, .. } => change(Some(*mailbox), FeedKind::Messages, 1),
        Effect::Flags { mailbox, groups, .. } => {
            let messages = groups.iter().map(|(_, uids)| uids.len()).sum();
            change(Some(*mailbox), FeedKind::Flags, messages)
        }
        Effect::Keyword { mailbox, .. } => change(Some(*mailbox), FeedKind::Flags, 0),
        Effect::Expunge { mailbox, uids, .. } => {
            change(Some(*mailbox), FeedKind::Expunged, uids.len())
        }
        Effect::Annotations { mailbox, .. } => change(Some(*mailbox), FeedKind::Annotations, 1),
        Effect::CreateMailbox { mailbox, .. } => change(Some(mailbox.id), FeedKind::Names, 0),
        Effect::DeleteMailbox { mailbox, .. } | Effect::RenameMailbox { mailbox, .. } => {
            change(Some(*mailbox), FeedKind::Names, 0)
        }
        Effect::Account { .. } | Effect::Subscription { .. } => change(None, FeedKind::Names, 0),
        Effect::Property { key: (_, mailbox, _), .. } => {
            let mailbox = Some(*mailbox).filter(|mailbox| mailbox.0 != 0);
            change(mailbox, FeedKind::Properties, 0)
        }
        Effect::Delivery { .. }
        | Effect::Spool { .. }
        | Effect::Unspool { .. }
        | Effect::Intent { .. }
        | Effect::IntentDone { .. } => None,
    }
}
