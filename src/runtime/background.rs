//! Background tasks take turns with sessions.
//!
//! glommio runs all background tasks that are ready before it looks for events of the foreground:
//! with a hundred connections of the queue, a session waited for milliseconds before each line that
//! it read. So background tasks look themselves, whenever they have had [`TURN`], and then the
//! foreground goes first. Ownership: shard-local.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    time::{Duration, Instant},
};

use super::{LocalFuture, readiness::Readiness};

/// How long background tasks run, and at most one run of one of them longer, before the foreground
/// gets its chance.
const TURN: Duration = Duration::from_micros(250);

/// The turn of a shard's background tasks.
pub(super) struct BackgroundTurn {
    readiness: Rc<Readiness>,
    /// `None` once it has ended: the next one begins with its first run, as long as the foreground
    /// took in between. Otherwise a busy foreground would leave the background nothing.
    began: Cell<Option<Instant>>,
}

impl BackgroundTurn {
    pub(super) fn new(readiness: Rc<Readiness>) -> BackgroundTurn {
        BackgroundTurn { readiness, began: Cell::new(None) }
    }

    /// Wraps a background task: before a run of it, the turn may end.
    pub(super) fn keep(
        self: &Rc<Self>,
        mut task: LocalFuture<'static, ()>,
    ) -> LocalFuture<'static, ()> {
        let turn = self.clone();
        let kept = poll_fn(move |context| {
            let now = Instant::now();
            let began = turn.began.get().unwrap_or(now);
            if now.saturating_duration_since(began) < TURN {
                turn.began.set(Some(began));
                return task.as_mut().poll(context);
            }
            turn.readiness.look_when_busy();
            turn.began.set(None);
            // This wakes the task: it runs when its queue has its next turn.
            let executor = glommio::executor();
            pin!(executor.yield_task_queue_now()).poll(context)
        });
        Box::pin(kept)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsFd, os::unix::net::UnixStream, task::Poll};

    use super::*;
    use crate::runtime::{
        executor::Priority,
        shard::{self, ShardContext, ShardOptions},
    };

    /// Runs of the background before and between which the client waits. A turn has two or three.
    const RUNS_MAX: usize = 20;

    fn spin() {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(100) {
            std::hint::spin_loop();
        }
    }

    /// A session whose client speaks while the background has endless work is heard after a turn,
    /// not after a time slice of glommio's.
    #[test]
    fn sessions_go_first() {
        let life = async |context: ShardContext| {
            let (ours, mut peer) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let watched = context.resources.readiness().watch(ours.as_fd());
            let heard = Rc::new(Cell::new(false));
            let (told, running) = (heard.clone(), Rc::new(Cell::new(0usize)));
            let session = async move {
                poll_fn(|context| watched.poll_readable(context)).await;
                told.set(true);
                drop(ours);
            };
            context.executor.spawn(Priority::Foreground, Box::pin(session));
            // It waits for its socket now.
            context.executor.sleep(Duration::from_millis(5)).await;
            for _ in 0..4 {
                let (heard, running) = (heard.clone(), running.clone());
                let work = async move {
                    while !heard.get() {
                        running.set(running.get() + 1);
                        spin();
                        futures_lite::future::yield_now().await;
                    }
                };
                context.executor.spawn(Priority::Background, Box::pin(work));
            }
            peer.write_all(b"NOOP\r\n").unwrap();
            while !heard.get() {
                context.executor.sleep(Duration::from_millis(1)).await;
            }
            running.get()
        };
        let options =
            ShardOptions { foreground_latency: Duration::from_secs(1), ..ShardOptions::default() };
        for lived in shard::start(&options, vec![life]).unwrap().join() {
            let runs = lived.unwrap();
            assert!(runs <= RUNS_MAX, "{runs} runs of the background came first");
        }
    }

    /// However long the foreground took after the background gave way, the background runs next:
    /// otherwise a foreground that is always busy for longer than a turn would leave it nothing.
    #[test]
    fn who_gave_way_runs_next() {
        let life = async |context: ShardContext| {
            let turn = Rc::new(BackgroundTurn::new(context.resources.readiness().clone()));
            let runs = Rc::new(Cell::new(0usize));
            let ran = runs.clone();
            let work = poll_fn(move |context| {
                ran.set(ran.get() + 1);
                context.waker().wake_by_ref();
                Poll::<()>::Pending
            });
            let mut kept = turn.keep(Box::pin(work));
            let mut seen = Vec::new();
            for _ in 0..4 {
                assert!(futures_lite::future::poll_once(&mut kept).await.is_none());
                seen.push(runs.get());
                // The foreground.
                (0..5).for_each(|_| spin());
            }
            seen
        };
        for lived in shard::start(&ShardOptions::default(), vec![life]).unwrap().join() {
            assert_eq!(lived.unwrap(), [1, 1, 2, 2], "runs");
        }
    }
}
