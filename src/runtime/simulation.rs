//! A deterministic executor: one thread, a virtual clock, and the next task drawn from a seed.
//!
//! Called by tests of everything above the runtime and by the simulator. The same seed gives the
//! same run; another seed gives another interleaving, which is how races between tasks are found.
//! Tasks never run in parallel, and time passes only when no task can run.

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    future::{Future, poll_fn},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use super::{
    LocalFuture,
    executor::{CommitTurn, Executor, Priority},
};
use crate::model::{Moment, Timestamp};

/// A start time that looks current in logs and headers.
const EPOCH_SECONDS: u64 = 1_700_000_000;

/// The task that [`Simulation::run_until`] was given.
const MAIN: u64 = 0;

/// Cheap to clone; all clones are one executor.
#[derive(Clone)]
pub struct Simulation(Rc<Inner>);

struct Inner {
    random: Cell<u64>,
    /// Microseconds since the simulation began.
    clock: Cell<u64>,
    /// Microseconds by which the wall clock was set forward.
    wall_steps: Cell<i64>,
    tasks: RefCell<BTreeMap<u64, LocalFuture<'static, ()>>>,
    next_task: Cell<u64>,
    ready: Arc<Ready>,
    /// Sleepers: the time, in order of arrival, and the task to wake.
    timers: RefCell<BinaryHeap<Reverse<(u64, u64)>>>,
    sleepers: RefCell<BTreeMap<u64, Waker>>,
    next_timer: Cell<u64>,
    /// Polls of tasks that are still allowed.
    polls_left: Cell<u64>,
}

/// Tasks that can run. Wakers must be `Send`, hence the mutex; it is never contended.
#[derive(Default)]
struct Ready(Mutex<Vec<u64>>);

impl Ready {
    fn push(&self, task: u64) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !tasks.contains(&task) {
            tasks.push(task);
        }
    }

    fn draw(&self, random: u64) -> Option<u64> {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let len = tasks.len() as u64;
        (len > 0).then(|| tasks.swap_remove((random % len) as usize))
    }
}

struct TaskWaker {
    task: u64,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.task);
    }
}

impl Simulation {
    pub fn new(seed: u64) -> Simulation {
        Simulation(Rc::new(Inner {
            random: Cell::new(seed),
            clock: Cell::new(0),
            wall_steps: Cell::new(0),
            tasks: RefCell::default(),
            next_task: Cell::new(MAIN + 1),
            ready: Arc::default(),
            timers: RefCell::default(),
            sleepers: RefCell::default(),
            next_timer: Cell::new(0),
            polls_left: Cell::new(u64::MAX),
        }))
    }

    /// The next number of this seed's stream; tests draw their own choices from it.
    pub fn random(&self) -> u64 {
        let state = self.0.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.random.set(state);
        split_mix(state)
    }

    /// Lets tasks be polled this often from now on. What must not spin, or must cost little while
    /// it waits, is tested with it: the count does not depend on the machine.
    pub fn allow_polls(&self, polls: u64) {
        self.0.polls_left.set(polls);
    }

    /// Runs `future`, and whatever it spawned, until it is done; the rest stays for the next call.
    ///
    /// # Panics
    /// If no task can run and none sleeps: the tasks wait for each other. And after more polls than
    /// [`Simulation::allow_polls`] allows.
    pub fn run_until<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        self.0.ready.push(MAIN);
        loop {
            let Some(task) = self.0.ready.draw(self.random()) else {
                assert!(self.wake_next_sleeper(), "deadlock: every task waits");
                continue;
            };
            let left = self.0.polls_left.get();
            assert!(left > 0, "more polls than the test allows");
            self.0.polls_left.set(left - 1);
            let waker = Waker::from(Arc::new(TaskWaker { task, ready: self.0.ready.clone() }));
            let mut context = Context::from_waker(&waker);
            if task == MAIN {
                if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                    return output;
                }
            } else {
                self.run_task(task, &mut context);
            }
        }
    }

    /// Runs spawned tasks until none can go on without time passing.
    pub fn run_idle(&self) {
        while let Some(task) = self.0.ready.draw(self.random()) {
            let waker = Waker::from(Arc::new(TaskWaker { task, ready: self.0.ready.clone() }));
            self.run_task(task, &mut Context::from_waker(&waker));
        }
    }

    /// Drops all tasks, as a crash would.
    pub fn kill_tasks(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(tasks);
    }

    fn run_task(&self, task: u64, context: &mut Context<'_>) {
        // Removed from the map while it runs, because it may spawn.
        let Some(mut future) = self.0.tasks.borrow_mut().remove(&task) else { return };
        if future.as_mut().poll(context).is_pending() {
            self.0.tasks.borrow_mut().insert(task, future);
        }
    }

    /// Moves the clock to the next timer that a task still waits for.
    fn wake_next_sleeper(&self) -> bool {
        while let Some(Reverse((time, timer))) = self.0.timers.borrow_mut().pop() {
            let sleeper = self.0.sleepers.borrow_mut().remove(&timer);
            if let Some(waker) = sleeper {
                self.0.clock.set(time.max(self.0.clock.get()));
                waker.wake();
                return true;
            }
        }
        false
    }
}

impl Simulation {
    /// Sets the wall clock forward by this many seconds, or back if negative.
    pub fn set_wall_clock(&self, seconds: i64) {
        let step = Timestamp::from_unix_seconds(seconds).0;
        self.0.wall_steps.set(self.0.wall_steps.get().saturating_add(step));
    }
}

impl Executor for Simulation {
    fn spawn(&self, _priority: Priority, task: LocalFuture<'static, ()>) {
        let number = self.0.next_task.get();
        self.0.next_task.set(number + 1);
        self.0.tasks.borrow_mut().insert(number, task);
        self.0.ready.push(number);
    }

    fn now(&self) -> Timestamp {
        let wall = Timestamp(self.0.wall_steps.get());
        let start = wall.after(Duration::from_secs(EPOCH_SECONDS));
        start.after(Duration::from_micros(self.0.clock.get()))
    }

    fn random(&self) -> u64 {
        Simulation::random(self)
    }

    fn moment(&self) -> Moment {
        Moment(self.0.clock.get())
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let until = self.0.clock.get().saturating_add(micros);
        let inner = self.0.clone();
        let mut sleeper = Sleeper { inner, timer: None };
        Box::pin(poll_fn(move |context| sleeper.poll(until, context)))
    }

    fn offload(&self, job: Box<dyn FnOnce() + Send>) -> LocalFuture<'static, ()> {
        job();
        Box::pin(yield_once())
    }

    fn commit_turn(&self) -> LocalFuture<'static, CommitTurn> {
        Box::pin(async {
            yield_once().await;
            CommitTurn::alone()
        })
    }

    fn yield_now(&self) -> LocalFuture<'static, ()> {
        Box::pin(yield_once())
    }
}

/// One sleep; dropping it leaves only a timer that wakes nobody.
struct Sleeper {
    inner: Rc<Inner>,
    timer: Option<u64>,
}

impl Sleeper {
    fn poll(&mut self, until: u64, context: &mut Context<'_>) -> Poll<()> {
        if self.inner.clock.get() >= until {
            return Poll::Ready(());
        }
        let timer = *self.timer.get_or_insert_with(|| {
            let timer = self.inner.next_timer.get();
            self.inner.next_timer.set(timer + 1);
            self.inner.timers.borrow_mut().push(Reverse((until, timer)));
            timer
        });
        self.inner.sleepers.borrow_mut().insert(timer, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.inner.sleepers.borrow_mut().remove(&timer);
        }
    }
}

/// Lets every other ready task run before the caller goes on.
pub fn yield_once() -> impl Future<Output = ()> {
    let mut yielded = false;
    poll_fn(move |context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Scrambles a counter into a random-looking number (Steele, Lea and Flood's SplitMix64).
pub fn split_mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order in which ten tasks of a seed pass three yields each.
    fn order(seed: u64) -> Vec<u32> {
        let simulation = Simulation::new(seed);
        let log = Rc::new(RefCell::new(Vec::new()));
        for task in 0..10 {
            let (log, clock) = (log.clone(), simulation.clone());
            simulation.spawn(
                Priority::Foreground,
                Box::pin(async move {
                    for _ in 0..3 {
                        log.borrow_mut().push(task);
                        clock.yield_now().await;
                    }
                }),
            );
        }
        simulation.run_idle();
        log.take()
    }

    #[test]
    fn seed_decides_the_order() {
        assert_eq!(order(1).len(), 30);
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn time_passes_only_by_sleeping() {
        let simulation = Simulation::new(7);
        let start = simulation.now();
        simulation.run_until(async {
            simulation.yield_now().await;
            assert_eq!(simulation.now(), start);
            simulation.sleep(Duration::from_secs(3600)).await;
        });
        assert_eq!(simulation.now(), start.after(Duration::from_secs(3600)));
    }

    #[test]
    #[should_panic(expected = "more polls than the test allows")]
    fn spinning_is_noticed() {
        let simulation = Simulation::new(0);
        simulation.allow_polls(100);
        simulation.run_until(async {
            for _ in 0..99 {
                simulation.yield_now().await;
            }
        });
        simulation.allow_polls(100);
        simulation.run_until(async {
            loop {
                simulation.yield_now().await;
            }
        });
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn deadlock_is_noticed() {
        Simulation::new(0).run_until(std::future::pending::<()>());
    }
}
