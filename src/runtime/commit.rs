//! When the partitions of a shard write to disk: together, and once the shard has no other work
//! that would add to the batch.
//!
//! A sync costs the machine about as much as three messages, whatever its size: a trip to one of
//! io_uring's threads, a commit of the file system's journal, three interrupts and the wake-ups
//! that follow. So the writers of a shard's logs go in rounds. A round opens when the last one's
//! writes are done and either no socket of the shard was ready for a while, so that waiting longer
//! would gather nothing, or `ShardOptions::commit_gather` has passed. Files written at the same
//! time share one commit of the journal.
//!
//! An idle shard writes at once; a busy one writes rarely and in large batches. Ownership:
//! shard-local.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use super::{
    LocalFuture,
    executor::{Executor, Priority},
    readiness::Readiness,
    resources::ShardResources,
    timer::Timer,
};

/// A shard is busy if sockets became ready at intervals this short since the last round became due:
/// then the next events come soon enough to wait for.
const BUSY_GAP: Duration = Duration::from_micros(31);

/// A round opens on a busy shard when nothing has happened for this many times the previous
/// interval between events.
const QUIET_GAPS: u32 = 10;

/// How long other writers wait for one whose write does not return: a disk in trouble holds up only
/// its own partition.
const PATIENCE: Duration = Duration::from_millis(100);

/// The rounds of one shard.
pub(super) struct CommitRounds {
    readiness: Rc<Readiness>,
    /// How long a busy shard lets entries gather before it writes them.
    gather_max: Duration,
    /// Rounds that have opened.
    opened: Cell<u64>,
    /// Turns taken for the next round.
    joined: Cell<usize>,
    /// A task is about to open it.
    opening: Cell<bool>,
    /// Turns of the last opened round that are not over.
    writing: Cell<usize>,
    /// When a round last became due, and the event count at that time.
    measured: Cell<(Instant, u64)>,
    /// Tasks that wait for the next round, and the one that opens it.
    waiters: RefCell<Vec<Waker>>,
    opener: RefCell<Option<Waker>>,
}

/// A log's turn to write, among the logs of its shard.
pub struct CommitTurn {
    /// Ends the turn when dropped; `None` if there are no others.
    _place: Option<Place>,
}

impl CommitTurn {
    /// A turn where there are no other writers.
    pub(super) fn alone() -> CommitTurn {
        CommitTurn { _place: None }
    }
}

/// A place in a round, from the request until the write is done.
struct Place {
    rounds: Rc<CommitRounds>,
    round: u64,
}

impl CommitRounds {
    pub(super) fn new(readiness: Rc<Readiness>, gather_max: Duration) -> CommitRounds {
        CommitRounds {
            readiness,
            gather_max,
            opened: Cell::new(0),
            joined: Cell::new(0),
            opening: Cell::new(false),
            writing: Cell::new(0),
            measured: Cell::new((Instant::now(), 0)),
            waiters: RefCell::default(),
            opener: RefCell::default(),
        }
    }

    /// Waits for the next round to open.
    pub(super) fn turn(
        self: &Rc<Self>,
        executor: &dyn Executor,
    ) -> LocalFuture<'static, CommitTurn> {
        let place = Place { rounds: self.clone(), round: self.opened.get() + 1 };
        self.joined.set(self.joined.get() + 1);
        if !self.opening.replace(true) {
            executor.spawn(Priority::Foreground, Box::pin(self.clone().open_next()));
        }
        Box::pin(async move {
            poll_fn(|context| {
                if place.rounds.opened.get() >= place.round {
                    return Poll::Ready(());
                }
                place.rounds.waiters.borrow_mut().push(context.waker().clone());
                Poll::Pending
            })
            .await;
            CommitTurn { _place: Some(place) }
        })
    }

    async fn open_next(self: Rc<Self>) {
        let gap = self.gap_if_busy();
        if gap.is_some() {
            self.last_is_over().await;
        }
        self.gather(gap.map_or(Duration::ZERO, |gap| gap * QUIET_GAPS)).await;
        self.opening.set(false);
        self.opened.set(self.opened.get() + 1);
        self.writing.set(self.joined.take());
        for waiter in self.waiters.take() {
            waiter.wake();
        }
    }

    /// Serves sessions until they have been quiet for `quiet_max`, or the time is over.
    async fn gather(&self, quiet_max: Duration) {
        let begun = Instant::now();
        let end = begun + self.gather_max;
        let mut quiet_until = begun + quiet_max;
        loop {
            let before = self.readiness.events();
            // Every runnable task runs before this returns.
            if quiet_max.is_zero() {
                futures_lite::future::yield_now().await;
                self.readiness.look();
            } else {
                self.readiness.doze(quiet_until.min(end)).await;
            }
            let now = Instant::now();
            if self.readiness.events() != before {
                quiet_until = now + quiet_max;
            }
            if now >= quiet_until.min(end) {
                return;
            }
        }
    }

    /// On a busy shard, the interval between events since the last call.
    fn gap_if_busy(&self) -> Option<Duration> {
        let (now, events) = (Instant::now(), self.readiness.events());
        let (before, events_before) = self.measured.replace((now, events));
        let count = u32::try_from(events - events_before).unwrap_or(u32::MAX);
        let gap = (now - before).checked_div(count)?;
        (gap <= BUSY_GAP && !self.gather_max.is_zero()).then_some(gap)
    }

    /// Waits until all writes of the last round are done, or for [`PATIENCE`].
    async fn last_is_over(&self) {
        let mut timer = None;
        poll_fn(|context| {
            if self.writing.get() == 0 {
                return Poll::Ready(());
            }
            let timer = timer.get_or_insert_with(|| {
                let timer = Timer::new(ShardResources::current().timers());
                timer.arm(PATIENCE);
                timer
            });
            if timer.poll_passed(context) {
                return Poll::Ready(());
            }
            *self.opener.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let rounds = &self.rounds;
        let opened = rounds.opened.get();
        if self.round > opened {
            rounds.joined.set(rounds.joined.get().saturating_sub(1));
        } else if self.round == opened {
            rounds.writing.set(rounds.writing.get().saturating_sub(1));
            if rounds.writing.get() == 0
                && let Some(opener) = rounds.opener.take()
            {
                opener.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;
    use crate::runtime::shard::{self, ShardContext, ShardOptions};

    /// Runs `life` on a shard.
    fn on_a_shard<Life: Future<Output = ()> + 'static>(
        life: impl FnOnce(ShardContext) -> Life + Send + 'static,
    ) {
        let lives = shard::start(&ShardOptions::default(), vec![life]).unwrap().join();
        assert!(lives.into_iter().all(|life| life.is_ok()));
    }

    fn rounds(context: &ShardContext) -> Rc<CommitRounds> {
        gathering(context, ShardOptions::default().commit_gather)
    }

    fn gathering(context: &ShardContext, gather_max: Duration) -> Rc<CommitRounds> {
        Rc::new(CommitRounds::new(context.resources.readiness().clone(), gather_max))
    }

    /// A session that adds work `times` times, and how often it has done so.
    fn talk(rounds: &Rc<CommitRounds>, context: &ShardContext, times: usize) -> Rc<Cell<usize>> {
        let said = Rc::new(Cell::new(0));
        let (readiness, saying) = (rounds.readiness.clone(), said.clone());
        let task = async move {
            while saying.get() < times {
                saying.set(saying.get() + 1);
                readiness.pretend(1);
                futures_lite::future::yield_now().await;
            }
        };
        context.executor.spawn(Priority::Foreground, Box::pin(task));
        said
    }

    /// Makes a shard look busy until the next round.
    fn be_busy(rounds: &CommitRounds) {
        let long_ago = Instant::now() - Duration::from_millis(1);
        let events = rounds.readiness.events();
        rounds.measured.set((long_ago, events));
        rounds.readiness.pretend(1_000_000);
    }

    #[test]
    fn those_who_ask_together_go_together() {
        on_a_shard(async |context| {
            let rounds = rounds(&context);
            let first = rounds.turn(&*context.executor);
            let second = rounds.turn(&*context.executor);
            let (first, second) = futures_lite::future::zip(first, second).await;
            assert_eq!((rounds.opened.get(), rounds.writing.get()), (1, 2));
            drop((first, second));
            assert_eq!(rounds.writing.get(), 0);
        });
    }

    #[test]
    fn an_idle_shard_holds_nobody_up() {
        on_a_shard(async |context| {
            let rounds = rounds(&context);
            let writing = rounds.turn(&*context.executor).await;
            let beside = rounds.turn(&*context.executor).await;
            assert_eq!(rounds.opened.get(), 2, "nothing was gained by waiting");
            drop((writing, beside));
        });
    }

    #[test]
    fn a_busy_shard_writes_after_what_it_is_writing() {
        on_a_shard(async |context| {
            let rounds = rounds(&context);
            let writing = rounds.turn(&*context.executor).await;
            be_busy(&rounds);
            let mut next = rounds.turn(&*context.executor);
            context.executor.sleep(Duration::from_millis(10)).await;
            assert!(futures_lite::future::poll_once(&mut next).await.is_none());
            drop(writing);
            drop(next.await);
            assert_eq!(rounds.opened.get(), 2);
        });
    }

    /// The value of `said` when the next round opened. Read in the sessions' own queue, whose tasks
    /// take turns.
    async fn said_at_opening(
        rounds: &Rc<CommitRounds>,
        context: &ShardContext,
        said: &Rc<Cell<usize>>,
    ) -> usize {
        let at_opening = Rc::new(Cell::new(None));
        let (turn, said, noted) =
            (rounds.turn(&*context.executor), said.clone(), at_opening.clone());
        let task = async move {
            drop(turn.await);
            noted.set(Some(said.get()));
            // Stops a session that would go on for ever.
            said.set(usize::MAX);
        };
        context.executor.spawn(Priority::Foreground, Box::pin(task));
        loop {
            context.executor.sleep(Duration::from_millis(1)).await;
            if let Some(count) = at_opening.get() {
                return count;
            }
        }
    }

    #[test]
    fn a_busy_shard_writes_once_nobody_says_more() {
        on_a_shard(async |context| {
            let rounds = gathering(&context, Duration::from_secs(60));
            be_busy(&rounds);
            let said = talk(&rounds, &context, 200);
            assert_eq!(said_at_opening(&rounds, &context, &said).await, 200);
        });
    }

    #[test]
    fn a_busy_shard_gathers_for_a_while_at_most() {
        on_a_shard(async |context| {
            let rounds = gathering(&context, Duration::from_millis(2));
            be_busy(&rounds);
            let said = talk(&rounds, &context, usize::MAX);
            assert_ne!(said_at_opening(&rounds, &context, &said).await, 0);
        });
    }

    #[test]
    fn without_gathering_a_busy_shard_writes_at_once() {
        on_a_shard(async |context| {
            let rounds = gathering(&context, Duration::ZERO);
            let writing = rounds.turn(&*context.executor).await;
            be_busy(&rounds);
            drop(rounds.turn(&*context.executor).await);
            drop(writing);
        });
    }

    #[test]
    fn a_write_that_hangs_holds_the_others_up_once() {
        on_a_shard(async |context| {
            let rounds = rounds(&context);
            let hanging = rounds.turn(&*context.executor).await;
            for _ in 0..3 {
                be_busy(&rounds);
                drop(rounds.turn(&*context.executor).await);
            }
            drop(hanging);
            assert_eq!((rounds.opened.get(), rounds.writing.get()), (4, 0));
        });
    }
}
