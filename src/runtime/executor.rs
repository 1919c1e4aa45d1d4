//! The seam between shard code and the executor that runs it: glommio in production, the seeded
//! simulator in tests.

use std::{sync::mpsc, time::Duration};

use super::LocalFuture;
pub use super::commit::CommitTurn;
use crate::model::{Moment, Timestamp};

/// The share of the core that a task gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// Sessions and commits: latency matters.
    Foreground,
    /// Checkpoints, compaction, indexing: must not slow down sessions.
    Background,
}

/// Runs tasks of one shard and tells the time. Shard-local: neither `Send` nor `Sync`.
pub trait Executor {
    /// Starts `task` on this shard; it runs to its end, detached.
    fn spawn(&self, priority: Priority, task: LocalFuture<'static, ()>);

    /// Wall-clock time, for dates; it may be set at any time. Virtual under simulation.
    fn now(&self) -> Timestamp;

    /// The monotonic clock, for deadlines and lengths of time. Virtual under simulation.
    fn moment(&self) -> Moment;

    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()>;

    /// An unpredictable number; under simulation the next of the seed's, so that a run can be
    /// repeated.
    fn random(&self) -> u64;

    /// Runs `job` on a thread where it does not hold up the shard; inline under simulation. It runs
    /// to its end even if the future is dropped.
    fn offload(&self, job: Box<dyn FnOnce() + Send>) -> LocalFuture<'static, ()>;

    /// Waits for a turn to write to disk. The turn is over when it is dropped, which should be when
    /// the write is durable.
    fn commit_turn(&self) -> LocalFuture<'static, CommitTurn>;

    /// Lets other tasks run if this one has had its share.
    fn yield_now(&self) -> LocalFuture<'static, ()>;
}

/// The result of `job`, which ran where it did not hold up the shard.
#[allow(clippy::unreachable, reason = "a job that panics ends the process")]
pub async fn offload<T: Send + 'static>(
    executor: &dyn Executor,
    job: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (result, answer) = mpsc::channel();
    executor.offload(Box::new(move || drop(result.send(job())))).await;
    answer.try_recv().unwrap_or_else(|_| unreachable!("the job has run"))
}
