//! Tasks that wait for the next change of a mailbox, or of a whole account: sessions in IDLE.
//!
//! A wake-up says only that there was a change: the waiting task compares the latest snapshot, so
//! that any number of changes in between is one. Publishing takes the wakers out and wakes them
//! when nothing is borrowed, together for all entries of one sync. Owned by the watched object;
//! shard-local.

use std::{cell::RefCell, task::Waker};

/// Tasks to be woken by the next change, each once.
#[derive(Default)]
pub(crate) struct Watchers(RefCell<Vec<Waker>>);

impl Watchers {
    pub(crate) fn add(&self, waker: &Waker) {
        let mut waiting = self.0.borrow_mut();
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// The task with `waker` no longer waits.
    pub(crate) fn remove(&self, waker: &Waker) {
        self.0.borrow_mut().retain(|other| !other.will_wake(waker));
    }

    /// Moves them out, to be woken.
    pub(crate) fn take(&self, into: &mut Vec<Waker>) {
        into.append(&mut self.0.borrow_mut());
    }
}
