//! The process's threads beside the shards, for work that would hold up a shard.
//!
//! Started by `shard::start`, on a thread that is not pinned to a processor yet, since otherwise
//! they would all share one core with a shard. glommio has such threads too, but those abort the
//! process when a shard ends before their work for it is done.

use std::{
    fs, io,
    num::NonZero,
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::Duration,
};

use crossbeam_channel::Sender;

use super::worker::WorkerPool;

/// Threads for calls that io_uring lacks; several, so that a file system that does not answer does
/// not hold up everything else.
const CALL_THREADS: NonZero<usize> = NonZero::new(4).unwrap();

/// Jobs that wait for a thread; the caller of a further one is refused, or does it itself.
const JOBS_MAX: usize = 4096;

/// Bytes of a deleted file that are freed at once, and the time between two such pieces.
const FREE_STEP: u64 = 1 << 20;
const FREE_INTERVAL: Duration = Duration::from_millis(5);

struct Helpers {
    calls: WorkerPool,
    /// Apart from the others: every commit waits for a new segment, and a file system that does not
    /// answer may hold up all threads for other calls.
    segments: WorkerPool,
    compute: WorkerPool,
    deleted: Sender<fs::File>,
}

static HELPERS: OnceLock<Helpers> = OnceLock::new();

impl Helpers {
    fn start() -> io::Result<Helpers> {
        let processors = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        let (deleted, files) = crossbeam_channel::unbounded::<fs::File>();
        let free = move || files.iter().for_each(|file| drop(shorten(&file)));
        thread::Builder::new().name("free".to_owned()).spawn(free)?;
        Ok(Helpers {
            calls: WorkerPool::start("call", CALL_THREADS, JOBS_MAX)?,
            segments: WorkerPool::start("segment", CALL_THREADS, JOBS_MAX)?,
            compute: WorkerPool::start("compute", processors, JOBS_MAX)?,
            deleted,
        })
    }

    fn get() -> io::Result<&'static Helpers> {
        if let Some(helpers) = HELPERS.get() {
            return Ok(helpers);
        }
        let started = Helpers::start()?;
        // Another thread may have been first; our threads end with their channels.
        Ok(HELPERS.get_or_init(|| started))
    }
}

/// Starts the threads, if they are not running.
///
/// # Errors
/// If the process may have no more threads.
pub(super) fn start() -> io::Result<()> {
    Helpers::get().map(|_| ())
}

/// Runs a system call that may block, or a few.
///
/// # Errors
/// The call's; `ResourceBusy` when too many are in progress.
pub(super) async fn call<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    run(&Helpers::get()?.calls, call).await
}

/// The same for what makes a new segment durable.
///
/// # Errors
/// As [`call`].
pub(super) async fn call_for_segment<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    run(&Helpers::get()?.segments, call).await
}

/// Runs a system call that may block, for nobody who waits for its result; not if too many are in
/// progress.
pub(super) fn begin_call(call: impl FnOnce() + Send + 'static) {
    if let Ok(helpers) = Helpers::get() {
        drop(helpers.calls.try_run(call));
    }
}

async fn run<T: Send + 'static>(
    pool: &WorkerPool,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let busy = |_| io::Error::new(io::ErrorKind::ResourceBusy, "too many calls in progress");
    pool.try_run(call).map_err(busy)?.await
}

/// Runs `job` on a thread for long computations; on this one if those have too much to do.
pub(super) async fn compute(job: Box<dyn FnOnce() + Send>) {
    // `try_run` drops a job that it refuses; with the slot we can still take ours and run it here.
    // Only one side ever uses it, so the mutex is never contended.
    let slot = Arc::new(Mutex::new(Some(job)));
    let take = |slot: &Mutex<Option<_>>| slot.lock().unwrap_or_else(|it| it.into_inner()).take();
    let theirs = slot.clone();
    let run = move || {
        if let Some(job) = take(&theirs) {
            job();
        }
    };
    let running = Helpers::get().ok().and_then(|helpers| helpers.compute.try_run(run).ok());
    if let Some(running) = running {
        running.await;
    } else if let Some(job) = take(&slot) {
        job();
    }
}

/// Frees the blocks of a file that has no name any more, piece by piece: freeing 64 MiB at once
/// blocks the file system's journal, and every sync on it, for 10 ms and more. If the process ends
/// first, the file system frees the rest.
pub(super) fn give_back(deleted: fs::File) {
    if let Ok(helpers) = Helpers::get() {
        // The thread lives as long as the process.
        let _ = helpers.deleted.send(deleted);
    }
}

fn shorten(file: &fs::File) -> io::Result<()> {
    let mut left = file.metadata()?.len();
    while left > 0 {
        left = left.saturating_sub(FREE_STEP);
        file.set_len(left)?;
        if left > 0 {
            thread::sleep(FREE_INTERVAL);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn jobs_run_and_calls_answer() {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        block_on(compute(Box::new(move || sender.send(5).unwrap())));
        assert_eq!(receiver.try_recv(), Ok(5));
        assert_eq!(block_on(call(|| Ok(6))).unwrap(), 6);
        let failed = block_on(call(|| Err::<(), _>(io::ErrorKind::NotFound.into())));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_deleted_file_shrinks_to_nothing() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(5 * FREE_STEP / 2).unwrap();
        shorten(&file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
