//! A few threads for work that would hold up a shard: password hashing, compression, blocking
//! system calls. Shared by all shards.
//!
//! The queue is bounded: when it is full the caller gets a temporary refusal. Fairness among peers
//! is also the caller's responsibility, since only it knows for whom a job is.

use std::{
    future::Future,
    io,
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use crossbeam_channel::{Sender, TrySendError};
use tokio::sync::oneshot;

use super::bell::hear;

type Job = Box<dyn FnOnce() + Send>;

/// A result on its way to the task that waits for it, from any thread to any executor.
#[derive(Debug)]
pub struct Answer<T>(oneshot::Sender<T>);

impl<T> Answer<T> {
    /// Whether a task still waits for it.
    pub fn is_awaited(&self) -> bool {
        !self.0.is_closed()
    }

    /// Delivers the result, if the caller still waits.
    pub fn give(self, value: T) {
        let _ = self.0.send(value);
    }
}

/// An answer to give, and its future: `None` if the answer was dropped.
pub fn answer<T>() -> (Answer<T>, impl Future<Output = Option<T>> + use<T>) {
    let (answer, awaited) = oneshot::channel();
    (Answer(answer), async move { hear(awaited).await.ok() })
}

/// The queue is full; try again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much work is waiting")]
pub struct Busy;

/// A handle on the pool. Cheap to clone; the threads end when the last one is dropped and the queue
/// is empty.
#[derive(Clone)]
pub struct WorkerPool {
    jobs: Arc<Sender<Job>>,
}

impl WorkerPool {
    /// Starts `threads` threads, named `name` and a number; up to `queue_max` jobs wait for them.
    pub fn start(name: &str, threads: NonZero<usize>, queue_max: usize) -> io::Result<WorkerPool> {
        let (jobs, queue) = crossbeam_channel::bounded::<Job>(queue_max);
        for index in 0..threads.get() {
            let queue = queue.clone();
            thread::Builder::new().name(format!("{name}-{index}")).spawn(move || {
                for job in queue {
                    // Only where a panic unwinds (tests): the job's caller sees a dropped answer,
                    // the thread lives on.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            })?;
        }
        Ok(WorkerPool { jobs: Arc::new(jobs) })
    }

    /// Queues `job`; the future is its result, on any executor. The job runs even if the future is
    /// dropped.
    ///
    /// # Panics
    /// The future panics if the job did.
    #[allow(clippy::expect_used, reason = "a job that panics ends the process")]
    pub fn try_run<T, F>(&self, job: F) -> Result<impl Future<Output = T> + use<T, F>, Busy>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (result, answer) = answer();
        let job: Job = Box::new(move || result.give(job()));
        match self.jobs.try_send(job) {
            Ok(()) => Ok(async move { answer.await.expect("the worker's job panicked") }),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Busy),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn runs_jobs_and_refuses_when_full() {
        let pool = WorkerPool::start("worker", NonZero::<usize>::MIN, 1).unwrap();
        let (release, gate) = crossbeam_channel::bounded::<()>(0);
        let (started, has_started) = crossbeam_channel::bounded::<()>(1);
        let running = pool
            .try_run(move || {
                started.send(()).unwrap();
                gate.recv().unwrap();
                1
            })
            .unwrap();
        has_started.recv().unwrap();
        let waiting = pool.try_run(|| 2).unwrap();
        assert!(pool.try_run(|| 3).is_err());
        release.send(()).unwrap();
        assert_eq!(block_on(running), 1);
        assert_eq!(block_on(waiting), 2);
    }

    #[test]
    fn jobs_queued_run_although_the_pool_is_dropped() {
        let pool = WorkerPool::start("worker", NonZero::<usize>::MIN, 4).unwrap();
        let answers: Vec<_> = (0..4).map(|n| pool.try_run(move || n).ok().unwrap()).collect();
        drop(pool);
        let answers: Vec<i32> = answers.into_iter().map(block_on).collect();
        assert_eq!(answers, [0, 1, 2, 3]);
    }
}
