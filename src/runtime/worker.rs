//! A few threads for work that would hold a shard up: password hashing, compression, system calls
//! that wait. Shared by all shards.
//!
//! The queue is bounded: a full one is the caller's temporary refusal, not a longer queue. Fairness
//! among peers is the caller's business too, since only it knows whom a job is for.

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

/// A result on its way to whoever waits for it, from any thread to any executor.
#[derive(Debug)]
pub struct Answer<T>(oneshot::Sender<T>);

impl<T> Answer<T> {
    /// Somebody still waits for it.
    pub fn is_awaited(&self) -> bool {
        !self.0.is_closed()
    }

    /// A caller that went away wants no answer.
    pub fn give(self, value: T) {
        let _ = self.0.send(value);
    }
}

/// An answer to give, and the future of it: `None` if it was dropped.
pub fn answer<T>() -> (Answer<T>, impl Future<Output = Option<T>> + use<T>) {
    let (answer, awaited) = oneshot::channel();
    (Answer(answer), async move { hear(awaited).await.ok() })
}

/// The queue is full; try again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much work is waiting")]
pub struct Busy;

/// A handle on the pool. Cheap to clone; the threads end with the last one, after the jobs queued.
#[derive(Clone)]
pub struct WorkerPool {
    jobs: Arc<Sender<Job>>,
}

impl WorkerPool {
    /// Starts `threads` threads, called `name` and a number; up to `queue_max` jobs wait for them.
    pub fn start(name: &str, threads: NonZero<usize>, queue_max: usize) -> io::Result<WorkerPool> {
        let (jobs, queue) = crossbeam_channel::bounded::<Job>(queue_max);
        for index in 0..threads.get() {
            let queue = queue.clone();
            thread::Builder::new().name(format!("{name}-{index}")).spawn(move || {
                for job in queue {
                    // Only where a panic unwinds (tests): the job's caller learns of it by its
                    // dropped answer, the thread lives on.
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
