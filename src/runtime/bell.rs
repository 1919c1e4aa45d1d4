//! Waking a task of a shard from another thread.
//!
//! glommio lets a task be woken from any thread, but the sleeper then needs a turn of its reactor,
//! and a shard in one of the waits that `readiness` makes between two such turns would not notice.
//! So a thread that wakes another shard's task leaves the waker with that shard's bell and rings.
//! The bell is in the shard's epoll set, and the shard calls the waker itself, without the reactor.
//! [`hear`] does this for a future, the mesh for its inboxes.
//!
//! A shard that is awake is not interrupted: it checks the bell before it waits.
//!
//! Ownership: one per shard, shared with the threads that may wake its tasks. Its mutex is held for
//! one move.

use std::{
    future::{Future, poll_fn},
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::resources::ShardResources;

/// One shard's bell.
pub(super) struct Bell {
    event: EventFd,
    /// The tasks to wake.
    called: Mutex<Vec<Waker>>,
    /// The bell was rung and not answered yet.
    rung: AtomicBool,
    /// The shard waits, or is about to, and watches `event`.
    heeded: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> io::Result<Bell> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (rung, heeded) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Bell { event, called: Mutex::default(), rung, heeded })
    }

    /// Makes the shard wake `task`, one of its own. Can be called from any thread.
    fn ring(&self, task: Waker) {
        self.called().push(task);
        // One of the two sees the other's store: either this thread sees that the shard waits, or
        // the shard sees that it must not.
        if !self.rung.swap(true, Ordering::SeqCst) && self.heeded.load(Ordering::SeqCst) {
            // This fails only if it is full, and then the shard is already notified.
            let _ = self.event.write(1);
        }
    }

    /// Whether the shard may wait now, because the bell was not rung. From then on until
    /// [`Bell::ignore`] ringing signals the event.
    pub(super) fn heed(&self) -> bool {
        self.heeded.store(true, Ordering::SeqCst);
        !self.rung.load(Ordering::SeqCst)
    }

    pub(super) fn ignore(&self) {
        self.heeded.store(false, Ordering::SeqCst);
    }

    /// Wakes the queued tasks, on the shard; false if there were none.
    pub(super) fn answer(&self) -> bool {
        if !self.rung.load(Ordering::SeqCst) {
            return false;
        }
        self.rung.store(false, Ordering::SeqCst);
        let called = std::mem::take(&mut *self.called());
        called.into_iter().for_each(Waker::wake);
        true
    }

    fn called(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Wakes a task of a shard from another thread.
pub(super) struct DistantWaker {
    task: Waker,
    bell: Option<Arc<Bell>>,
}

impl DistantWaker {
    /// For a task of this thread.
    pub(super) fn new(task: &Waker) -> DistantWaker {
        DistantWaker { task: task.clone(), bell: ShardResources::current().bell() }
    }

    /// From now on wakes `task`, which is on the same shard.
    pub(super) fn set(&mut self, task: &Waker) {
        self.task.clone_from(task);
    }

    pub(super) fn call(&self) {
        match &self.bell {
            Some(bell) => bell.ring(self.task.clone()),
            None => self.task.wake_by_ref(),
        }
    }
}

impl Wake for DistantWaker {
    fn wake(self: Arc<Self>) {
        self.call();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.call();
    }
}

/// Waits for `future`, which another thread completes: a worker's answer, a message from another
/// shard. Works with any executor; a shard is notified at once.
pub async fn hear<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut distant: Option<(Waker, Waker)> = None;
    poll_fn(|context| {
        let task = context.waker();
        let (_, waker) = match &mut distant {
            Some(known) if known.0.will_wake(task) => known,
            unknown => {
                let waker = Waker::from(Arc::new(DistantWaker::new(task)));
                unknown.insert((task.clone(), waker))
            }
        };
        future.as_mut().poll(&mut Context::from_waker(waker))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(bell: &Bell) -> bool {
        bell.event.read().is_ok()
    }

    #[test]
    fn who_rings_before_the_wait_prevents_it_and_who_rings_during_it_ends_it() {
        let bell = Bell::new().unwrap();
        let ring = || bell.ring(Waker::noop().clone());
        ring();
        assert!(!rings(&bell), "nobody listens");
        assert!(!bell.heed());
        assert!(bell.answer() && bell.heed() && !bell.answer());
        ring();
        ring();
        assert!(rings(&bell) && !rings(&bell), "one is enough");
        assert_eq!(bell.called().len(), 2);
        assert!(bell.answer() && bell.called().is_empty());
        bell.ignore();
        ring();
        assert!(!rings(&bell) && !bell.heed());
    }
}
