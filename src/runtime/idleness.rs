//! Detects whether a shard has nothing to do, which glommio does not report.
//!
//! The foreground queue is found empty by giving the background queue a turn: a task of that queue
//! ([`Idleness::guard`]) runs only when the foreground has nothing left (or has used up its time
//! slice). If no other background task ran before it, none was runnable. Operations in glommio's
//! rings are counted where they begin ([`begin_operation`]).
//!
//! This is an estimate, not a guarantee; callers that rely on it must not wait for long.
//!
//! Ownership: shard-local.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    marker::PhantomData,
    pin::Pin,
    rc::Rc,
    task::{Poll, Waker},
};

use super::LocalFuture;

thread_local! {
    /// Operations in progress in glommio's rings for this thread.
    static OPERATIONS: Cell<usize> = const { Cell::new(0) };
}

/// An operation of glommio's rings is in progress while this exists: only a turn of the reactor
/// starts it and notices its completion.
pub(super) struct Operation {
    /// Counted per thread.
    _local: PhantomData<Rc<()>>,
}

pub(super) fn begin_operation() -> Operation {
    OPERATIONS.set(OPERATIONS.get() + 1);
    Operation { _local: PhantomData }
}

impl Drop for Operation {
    fn drop(&mut self) {
        OPERATIONS.set(OPERATIONS.get() - 1);
    }
}

/// The state of one shard's idle detection.
#[derive(Default)]
pub(super) struct Idleness {
    /// How often a background task has run.
    background_runs: Cell<u64>,
    /// Whether the guard was asked, and whether it has answered.
    asked: Cell<bool>,
    guard: RefCell<Option<Waker>>,
    asker: RefCell<Option<Waker>>,
}

impl Idleness {
    /// Wraps `task` so that every run of it is counted. For every background task but the guard.
    pub(super) fn noted(
        self: &Rc<Self>,
        mut task: LocalFuture<'static, ()>,
    ) -> impl Future<Output = ()> + use<> {
        let idleness = self.clone();
        poll_fn(move |context| {
            idleness.background_runs.set(idleness.background_runs.get() + 1);
            Pin::new(&mut task).poll(context)
        })
    }

    /// The background queue's own task: answers for as long as the shard lives.
    pub(super) async fn guard(self: Rc<Self>) {
        poll_fn(|context| {
            if self.asked.take()
                && let Some(asker) = self.asker.take()
            {
                asker.wake();
            }
            let mut guard = self.guard.borrow_mut();
            match &mut *guard {
                Some(known) => known.clone_from(context.waker()),
                None => *guard = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }

    /// Waits until no foreground task can run; true if no background task could either, and glommio
    /// has no operation in progress.
    pub(super) async fn idle(&self) -> bool {
        let runs = self.background_runs.get();
        self.asked.set(true);
        poll_fn(|context| {
            if !self.asked.get() {
                return Poll::Ready(());
            }
            *self.asker.borrow_mut() = Some(context.waker().clone());
            if let Some(guard) = &*self.guard.borrow() {
                guard.wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        self.background_runs.get() == runs && OPERATIONS.get() == 0
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::yield_now;

    use super::*;
    use crate::runtime::{
        executor::{Executor, Priority},
        shard::{self, ShardContext, ShardOptions},
    };

    /// Asks in the foreground, as the task that waits for sockets does.
    async fn ask(idleness: &Rc<Idleness>, executor: &dyn Executor) -> bool {
        let answer = Rc::new(Cell::new(None));
        let (asked, told) = (idleness.clone(), answer.clone());
        let task = async move { told.set(Some(asked.idle().await)) };
        executor.spawn(Priority::Foreground, Box::pin(task));
        loop {
            executor.sleep(std::time::Duration::from_millis(1)).await;
            if let Some(idle) = answer.get() {
                return idle;
            }
        }
    }

    #[test]
    fn a_shard_is_idle_unless_something_runs_or_is_under_way() {
        let life = async |context: ShardContext| {
            let idleness = context.resources.readiness().idleness().unwrap();
            assert!(ask(&idleness, &*context.executor).await);
            let operation = begin_operation();
            assert!(!ask(&idleness, &*context.executor).await);
            drop(operation);
            assert!(ask(&idleness, &*context.executor).await);

            let running = Rc::new(Cell::new(true));
            let goes_on = running.clone();
            let task = async move {
                while goes_on.get() {
                    yield_now().await;
                }
            };
            context.executor.spawn(Priority::Background, Box::pin(task));
            assert!(!ask(&idleness, &*context.executor).await);
            running.set(false);
            context.executor.sleep(std::time::Duration::from_millis(1)).await;
            assert!(ask(&idleness, &*context.executor).await);
        };
        let lives = shard::start(&ShardOptions::default(), vec![life]).unwrap().join();
        assert!(lives.into_iter().all(|life| life.is_ok()));
    }
}
