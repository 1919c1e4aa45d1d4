//! How another thread reaches a shard that waits for its sockets in a call of its own.
//!
//! glommio lets a task be woken from any thread, and interrupts its own sleep for it. It does not know of
//! the waits that `readiness` makes between two turns of its reactor; a wake-up that comes meanwhile would
//! be noticed only when the wait is over. So whoever wakes a task of another thread rings that shard's
//! bell afterwards: [`hear`] does it for a future, the mesh for its inboxes.
//!
//! The bell is not needed for progress, only for speed: such a wait is short (`readiness::LINGER_MAX`).
//!
//! Ownership: one a shard, shared with the threads that may wake its tasks.

use std::{
    future::{Future, poll_fn},
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::resources::ShardResources;

/// One shard's bell.
pub(super) struct Bell {
    event: EventFd,
    /// Somebody has woken a task since the shard last asked.
    rung: AtomicBool,
    /// The shard waits, or is about to: `event` is listened to.
    heeded: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> io::Result<Bell> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Bell { event, rung: AtomicBool::new(false), heeded: AtomicBool::new(false) })
    }

    /// Tells the shard that one of its tasks was woken. From any thread, after the wake-up.
    pub(super) fn ring(&self) {
        // One of the two sees the other's store: this thread that the shard waits, or the shard that
        // it should not.
        self.rung.store(true, Ordering::SeqCst);
        if self.heeded.load(Ordering::SeqCst) {
            // It can only be full, and then the shard has been told.
            let _ = self.event.write(1);
        }
    }

    /// Whether the shard may wait now: nobody has rung since the last time it asked. From then on until
    /// [`Bell::ignore`] the event tells of who rings.
    pub(super) fn heed(&self) -> bool {
        self.heeded.store(true, Ordering::SeqCst);
        !self.rung.swap(false, Ordering::SeqCst)
    }

    pub(super) fn ignore(&self) {
        self.heeded.store(false, Ordering::SeqCst);
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
        self.task.wake_by_ref();
        if let Some(bell) = &self.bell {
            bell.ring();
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
        bell.ring();
        assert!(!rings(&bell), "nobody listens");
        assert!(!bell.heed());
        assert!(bell.heed(), "that was heard");
        bell.ring();
        assert!(rings(&bell));
        bell.ignore();
        bell.ring();
        assert!(!rings(&bell) && !bell.heed());
    }
}
