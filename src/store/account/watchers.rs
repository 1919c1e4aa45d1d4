//! Who waits for the next change of a mailbox, or of a whole account: sessions in IDLE.
//!
//! A wake-up says only that there is something: whoever waits looks at the latest snapshot, so that any
//! number of changes in between is one. Publishing takes the wakers out and wakes them when nothing is
//! borrowed, those of all entries of one sync together. Owned by what is watched; shard-local.

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

    /// Who was told by `waker` waits no longer.
    pub(crate) fn remove(&self, waker: &Waker) {
        self.0.borrow_mut().retain(|other| !other.will_wake(waker));
    }

    /// Moves them out, to be woken.
    pub(crate) fn take(&self, into: &mut Vec<Waker>) {
        into.append(&mut self.0.borrow_mut());
    }
}
