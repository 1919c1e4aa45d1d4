//! One query in progress and all tasks that wait for its answer. Shard-local. The directory and the
//! resolver send each query once, however many sessions ask.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    task::{Poll, Waker},
};

/// Hands out the answer of one query to any number of tasks of one shard.
pub struct Flight<T> {
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
    /// The answer; `None` if the task that asked ended without one.
    pub async fn landed(&self) -> Option<T> {
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

    /// Ends the flight and wakes the waiting tasks; only the first call counts.
    pub fn land(&self, answer: Option<T>) {
        if self.over.replace(true) {
            return;
        }
        *self.answer.borrow_mut() = answer;
        for waker in self.waiters.take() {
            waker.wake();
        }
    }
}
