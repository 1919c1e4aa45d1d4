//! Shards: one pinned glommio executor per core, each on its own thread.
//!
//! `main` makes one start closure per shard (containing that shard's listeners and mesh seat) and
//! calls `start`; each closure's future is the life of its shard. Conditions under which glommio
//! would panic with a misleading reason are checked first by `host::probe`.
//!
//! Ownership: `ShardContext` is shard-local; `ShardThreads` belongs to the starter.

use std::{
    future::Future,
    io,
    rc::Rc,
    sync::LazyLock,
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use glommio::{
    ExecutorJoinHandle, Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle,
};

use super::{
    LocalFuture,
    background::BackgroundTurn,
    commit::CommitRounds,
    executor::{CommitTurn, Executor, Priority},
    helpers,
    idleness::Idleness,
    readiness::Readiness,
    resources::{ResourceLimits, ShardResources},
};
use crate::model::{Moment, ShardId, Timestamp};

/// How shards run. The same for all of them.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    pub limits: ResourceLimits,
    /// Bytes registered with io_uring for file I/O; locked memory, a multiple of 64 KiB.
    pub io_memory: usize,
    /// Entries of each io_uring.
    pub ring_depth: usize,
    /// Busy-wait this long before sleeping: shorter wake-ups for a hot core. Off by default.
    pub spin_before_park: Option<Duration>,
    /// How long a busy shard gathers writes, for fewer and larger ones. An idle one never waits.
    pub commit_gather: Duration,
    /// Shares of the core under contention: sessions and commits against checkpoints, indexing.
    pub foreground_shares: usize,
    pub background_shares: usize,
    /// A task is asked to yield, and glommio's rings are polled, when sessions waited this long.
    pub foreground_latency: Duration,
}

impl Default for ShardOptions {
    fn default() -> Self {
        ShardOptions {
            limits: ResourceLimits::default(),
            io_memory: 1 << 20,
            ring_depth: 256,
            spin_before_park: None,
            commit_gather: Duration::from_micros(1500),
            foreground_shares: 1000,
            background_shares: 50,
            foreground_latency: Duration::from_millis(5),
        }
    }
}

/// The context of a shard's start closure.
pub struct ShardContext {
    pub id: ShardId,
    pub executor: Rc<dyn Executor>,
    pub resources: Rc<ShardResources>,
}

/// The running shards.
pub struct ShardThreads<T: Send + 'static> {
    threads: Vec<ExecutorJoinHandle<io::Result<T>>>,
}

/// Starts as many shards as there are `starts`. Shard `i` is pinned to the `i`-th processor that
/// this process may use; with more shards than processors none is pinned.
pub fn start<T, F, Life>(options: &ShardOptions, starts: Vec<F>) -> io::Result<ShardThreads<T>>
where
    T: Send + 'static,
    F: FnOnce(ShardContext) -> Life + Send + 'static,
    Life: Future<Output = T> + 'static,
{
    helpers::start()?;
    let processors = allowed_processors()?;
    let pinned = starts.len() <= processors.len();
    let mut threads = Vec::with_capacity(starts.len());
    for (index, start) in starts.into_iter().enumerate() {
        let placement = match processors.get(index) {
            Some(processor) if pinned => Placement::Fixed(*processor),
            _ => Placement::Unbound,
        };
        let mut builder = LocalExecutorBuilder::new(placement)
            .name(&format!("shard-{index}"))
            .preempt_timer(options.foreground_latency)
            .io_memory(options.io_memory)
            .ring_depth(options.ring_depth);
        if let Some(spin) = options.spin_before_park {
            builder = builder.spin_before_park(spin);
        }
        let id = ShardId(u16::try_from(index).map_err(io::Error::other)?);
        let options = options.clone();
        let life = move || async move {
            let idleness = Rc::new(Idleness::default());
            // A spinning shard must spin where it would otherwise linger.
            let lingering = options.spin_before_park.is_none().then(|| idleness.clone());
            let readiness = Rc::new(Readiness::new(lingering)?);
            let executor = GlommioExecutor::new(&options, readiness.clone(), idleness)?;
            let executor: Rc<dyn Executor> = Rc::new(executor);
            let resources = ShardResources::install(options.limits, &executor);
            resources.watch_sockets(readiness, &executor);
            Ok(start(ShardContext { id, executor, resources }).await)
        };
        threads.push(builder.spawn(life).map_err(glommio_error)?);
    }
    Ok(ShardThreads { threads })
}

impl<T: Send + 'static> ShardThreads<T> {
    /// Waits until every shard's life is over.
    pub fn join(self) -> Vec<io::Result<T>> {
        self.threads
            .into_iter()
            .map(|thread| thread.join().map_err(glommio_error).and_then(|life| life))
            .collect()
    }
}

/// glommio's errors may hold a panic's payload, which io::Error cannot carry.
fn glommio_error(error: glommio::GlommioError<()>) -> io::Error {
    io::Error::other(error.to_string())
}

/// Processors this process may run on, in order.
pub fn allowed_processors() -> io::Result<Vec<usize>> {
    use nix::{
        sched::{CpuSet, sched_getaffinity},
        unistd::Pid,
    };
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&processor| set.is_set(processor) == Ok(true)).collect())
}

/// The production executor: two glommio task queues.
pub struct GlommioExecutor {
    foreground: TaskQueueHandle,
    background: TaskQueueHandle,
    background_turn: Rc<BackgroundTurn>,
    readiness: Rc<Readiness>,
    commit_rounds: Rc<CommitRounds>,
    idleness: Rc<Idleness>,
}

impl GlommioExecutor {
    /// Must be called on a glommio executor's thread.
    fn new(
        options: &ShardOptions,
        readiness: Rc<Readiness>,
        idleness: Rc<Idleness>,
    ) -> io::Result<GlommioExecutor> {
        let executor = glommio::executor();
        let made = GlommioExecutor {
            foreground: executor.create_task_queue(
                Shares::Static(options.foreground_shares),
                Latency::Matters(options.foreground_latency),
                "foreground",
            ),
            background: executor.create_task_queue(
                Shares::Static(options.background_shares),
                Latency::NotImportant,
                "background",
            ),
            background_turn: Rc::new(BackgroundTurn::new(readiness.clone())),
            commit_rounds: Rc::new(CommitRounds::new(readiness.clone(), options.commit_gather)),
            readiness,
            idleness: idleness.clone(),
        };
        made.spawn_into(made.background, idleness.guard());
        Ok(made)
    }

    #[allow(clippy::unreachable, reason = "both queues live as long as the executor")]
    fn spawn_into(&self, queue: TaskQueueHandle, task: impl Future<Output = ()> + 'static) {
        match glommio::spawn_local_into(task, queue) {
            Ok(task) => drop(task.detach()),
            // Both queues live as long as the executor.
            Err(error) => unreachable!("a task queue is gone: {error}"),
        }
    }
}

impl Executor for GlommioExecutor {
    fn spawn(&self, priority: Priority, task: LocalFuture<'static, ()>) {
        match priority {
            Priority::Foreground => self.spawn_into(self.foreground, task),
            Priority::Background => {
                // Noted also when it gives way: it can run, so the shard is not idle.
                let task = self.background_turn.keep(task);
                self.spawn_into(self.background, self.idleness.noted(task));
            }
        }
    }

    fn now(&self) -> Timestamp {
        match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)),
            Err(before) => {
                Timestamp(-i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX))
            }
        }
    }

    fn random(&self) -> u64 {
        rand::random()
    }

    fn moment(&self) -> Moment {
        // One start for all shards, because sessions move with their deadlines.
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Moment::default().after(START.elapsed())
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        Box::pin(glommio::timer::sleep(duration))
    }

    fn offload(&self, job: Box<dyn FnOnce() + Send>) -> LocalFuture<'static, ()> {
        Box::pin(helpers::compute(job))
    }

    fn commit_turn(&self) -> LocalFuture<'static, CommitTurn> {
        self.commit_rounds.turn(self)
    }

    fn yield_now(&self) -> LocalFuture<'static, ()> {
        // A long command's turns are shorter than a time slice: tasks that became ready meanwhile
        // run next.
        match self.readiness.look_if_due() {
            true => Box::pin(futures_lite::future::yield_now()),
            false if glommio::executor().need_preempt() => Box::pin(glommio::yield_if_needed()),
            // A zero-sized future, whose box allocates nothing.
            false => Box::pin(std::future::poll_fn(|_| Poll::Ready(()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Starts `count` shards; each returns its number and the processors it may run on.
    fn started(count: u16) -> Vec<(ShardId, Vec<usize>)> {
        let life =
            |context: ShardContext| async move { (context.id, allowed_processors().unwrap()) };
        let starts = (0..count).map(|_| life).collect();
        let threads = start(&ShardOptions::default(), starts).unwrap();
        threads.join().into_iter().map(Result::unwrap).collect()
    }

    #[test]
    fn shards_are_pinned_while_processors_last() {
        let processors = allowed_processors().unwrap();
        let count = processors.len() as u16;
        for (index, (id, allowed)) in started(count).into_iter().enumerate() {
            assert_eq!(id, ShardId(index as u16));
            assert_eq!(allowed, [processors[index]]);
        }
        let crowded = started(count + 1);
        assert_eq!(crowded.len(), usize::from(count) + 1);
        assert!(crowded.iter().all(|(_, allowed)| *allowed == processors));
    }

    #[test]
    fn both_priorities_run_and_time_passes() {
        let life = |context: ShardContext| async move {
            let ran = Rc::new(Cell::new(0));
            for priority in [Priority::Foreground, Priority::Background] {
                let ran = ran.clone();
                let task = async move { ran.set(ran.get() + 1) };
                context.executor.spawn(priority, Box::pin(task));
            }
            let before = context.executor.now();
            while ran.get() < 2 {
                context.executor.sleep(Duration::from_millis(1)).await;
            }
            context.executor.yield_now().await;
            before < context.executor.now()
        };
        let options = ShardOptions {
            spin_before_park: Some(Duration::from_micros(50)),
            ..Default::default()
        };
        let lives = start(&options, vec![life]).unwrap().join();
        assert!(lives.into_iter().all(|life| life.unwrap()));
    }
}
