//! Tasks waiting for the log to reach a point: durability, room in the buffer, a finished flight.
//!
//! Shard-local. A dropped waiter removes its waker (cancel-safe), so a list holds at most one waker
//! per waiting task.

use std::task::Waker;

use slab::Slab;

/// Wakers with the point that each waits for.
#[derive(Default)]
pub(super) struct Waiters(Slab<(u64, Waker)>);

impl Waiters {
    /// Parks `waker` until [`Waiters::wake_below`] passes `point`; `key` names the caller's place.
    pub(super) fn park(&mut self, key: &mut Option<usize>, point: u64, waker: &Waker) {
        match key.and_then(|key| self.0.get_mut(key)) {
            Some((at, parked)) => {
                *at = point;
                parked.clone_from(waker);
            }
            None => *key = Some(self.0.insert((point, waker.clone()))),
        }
    }

    /// The caller no longer waits.
    pub(super) fn leave(&mut self, key: &mut Option<usize>) {
        if let Some(key) = key.take() {
            self.0.try_remove(key);
        }
    }

    /// Wakes all waiters for a point below `reached`. They stay parked until they leave.
    pub(super) fn wake_below(&self, reached: u64) {
        for (_, (point, waker)) in &self.0 {
            if *point < reached {
                waker.wake_by_ref();
            }
        }
    }

    pub(super) fn wake_all(&self) {
        self.wake_below(u64::MAX);
    }
}
