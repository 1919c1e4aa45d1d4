//! How another thread wakes a task of a shard.
//!
//! glommio lets a task be woken from any thread: it costs the sleeper a turn of its reactor, and in the
//! waits that `readiness` makes between two such turns nobody would notice. So whoever wakes a task of
//! another thread leaves its waker with that shard's bell and rings. The bell is in the shard's epoll set,
//! and the waker is called where it belongs, without the reactor. [`hear`] does it for a future, the mesh
//! for its inboxes.
//!
//! A shard that is awake is not interrupted: it asks before it waits.
//!
//! Ownership: one a shard, shared with the threads that may wake its tasks. Its mutex is held for one move.

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
    /// Whom to wake.
    called: Mutex<Vec<Waker>>,
    /// Somebody rang, and it was not answered yet.
    rung: AtomicBool,
    /// The shard waits, or is about to: `event` is listened to.
    heeded: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> io::Result<Bell> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (rung, heeded) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Bell { event, called: Mutex::default(), rung, heeded })
    }

    /// Has the shard wake `task`, which is one of its own. From any thread.
    fn ring(&self, task: Waker) {
        self.called().push(task);
        // One of the two sees the other's store: this thread that the shard waits, or the shard that
        // it should not.
        if !self.rung.swap(true, Ordering::SeqCst) && self.heeded.load(Ordering::SeqCst) {
            // It can only be full, and then the shard has been told.
            let _ = self.event.write(1);
        }
    }

    /// Whether the shard may wait now: nobody has rung. From then on until [`Bell::ignore`] the event
    /// tells of who rings.
    pub(super) fn heed(&self) -> bool {
        self.heeded.store(true, Ordering::SeqCst);
        !self.rung.load(Ordering::SeqCst)
    }

    pub(super) fn ignore(&self) {
        self.heeded.store(false, Ordering::SeqCst);
    }

    /// Wakes who was called, on the shard; false if nobody was.
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

    /// Wakes `task` from now on, which is of the same shard.
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

/// Waits for `future`, which another thread brings to its end: a worker's answer, a message from another
/// shard. Works with any executor; on a shard it is heard of at once.
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
