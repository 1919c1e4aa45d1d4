//! One question under way and all who wait for its answer. Shard-local.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    task::{Poll, Waker},
};

/// What the answer to one question is handed out by, to any number of tasks of one shard.
pub(super) struct Flight<T> {
    over: Cell<bool>,
    /// Set if the flight ended with an answer.
    answer: RefCell<Option<T>>,
    waiters: RefCell<Vec<Waker>>,
}

impl<T> Default for Flight<T> {
    fn default() -> Flight<T> {
        Flight {
            over: Cell::new(false),
            answer: RefCell::new(None),
            waiters: RefCell::new(Vec::new()),
        }
    }
}

impl<T: Clone> Flight<T> {
    /// The answer; `None` if whoever asked left without one.
    pub(super) async fn landed(&self) -> Option<T> {
        let mut slot = None;
        poll_fn(|context| {
            if self.over.get() {
                return Poll::Ready(self.answer.borrow().clone());
            }
            let mut waiters = self.waiters.borrow_mut();
            match slot.and_then(|slot: usize| waiters.get_mut(slot)) {
                Some(waker) => waker.clone_from(context.waker()),
                None => {
                    slot = Some(waiters.len());
                    waiters.push(context.waker().clone());
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Ends the flight and wakes who waits; the first end counts.
    pub(super) fn land(&self, answer: Option<T>) {
        if self.over.replace(true) {
            return;
        }
        *self.answer.borrow_mut() = answer;
        for waker in self.waiters.take() {
            waker.wake();
        }
    }
}
