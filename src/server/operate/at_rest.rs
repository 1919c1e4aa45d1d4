//! Answers about a queue on which no server works, from disk. It only reads and takes no lock, as
//! `ringmail inspect`; the queue is that of a running server, with a carrier that carries nothing.

use std::{path::Path, rc::Rc, sync::mpsc};

use anyhow::{Context, Result, bail};
use smallvec::SmallVec;

use super::{
    lines,
    request::{LIST_STEP, Request, Verb, shape_edges},
};
use crate::{
    model::{PartitionId, ShardId, Timestamp},
    protocol::mime,
    queue::{
        Carrier, Ends, Job, Problem, Queue, QueueEvent, QueueOptions, Report, Session, SiteSlots,
        Unreachable, Way,
    },
    runtime::{
        LocalFuture,
        device::{file::FileDevice, read_only::ReadOnlyDevice},
        executor::Executor,
        shard::{self, ShardOptions},
    },
    server::data_dir,
    store::{Partition, StoreError, StoreOptions},
};

/// Answers `list`, `show` and `shape` about a data directory on which no server runs; each line
/// goes to `lines`.
///
/// # Errors
/// If the directory is not a data directory, or a partition cannot be read.
pub fn answer_at_rest(
    path: &Path,
    store: &StoreOptions,
    options: &QueueOptions,
    request: &Request,
    lines: mpsc::SyncSender<String>,
) -> Result<()> {
    let layout = data_dir::read_layout(path)?
        .with_context(|| format!("{}: not a ringmail data directory", path.display()))?;
    if matches!(request.verb, Verb::Act { .. }) {
        bail!("{}: no server runs here, and only a server changes its queue", path.display());
    }
    let path =
        std::path::absolute(path).with_context(|| format!("{}: not a path", path.display()))?;
    let (store, options, request) = (store.clone(), options.clone(), request.clone());
    let start = move |context: shard::ShardContext| async move {
        let executor = context.executor.clone();
        let mut partitions = Vec::new();
        for partition in (0..layout.partitions).map(PartitionId) {
            let folder = path.join(data_dir::partition_name(partition));
            partitions.push(Some(open(&folder, executor.clone(), partition, &store).await?));
        }
        let seat = SiteSlots::new().seat(ShardId(0));
        let queue = Queue::new(executor.clone(), AtRest, options, partitions, seat);
        queue.read_only().await?;
        // If the receiver is gone, its process is ending.
        let tell = |line: String| drop(lines.send(line));
        answer(&queue, &request, executor.now(), &tell).await;
        Ok::<_, StoreError>(())
    };
    let threads = shard::start(&ShardOptions::default(), vec![start]);
    let threads = threads.context("cannot start a shard to read on")?;
    for ended in threads.join() {
        ended.context("the reading shard ended")?.context("the queue cannot be read")?;
    }
    Ok(())
}

pub(super) async fn open(
    folder: &Path,
    executor: Rc<dyn Executor>,
    partition: PartitionId,
    store: &StoreOptions,
) -> Result<Partition, StoreError> {
    let options = StoreOptions {
        partition,
        garbage_share: 0,
        reserve: 0,
        card_split: mime::split_card,
        ..store.clone()
    };
    let device = Rc::new(ReadOnlyDevice(FileDevice::new(folder)));
    let (partition, _) = Partition::open(device, executor, options).await?;
    partition.keep_still();
    Ok(partition)
}

async fn answer(queue: &Queue<AtRest>, request: &Request, now: Timestamp, tell: &dyn Fn(String)) {
    let json = request.json;
    tell("#no server runs here: this is what is on disk".to_owned());
    match request.verb {
        Verb::List { most } => {
            let most = if most == 0 { u64::MAX } else { most };
            let mut sums = queue.find(&request.filter, None, 0).await;
            let (mut after, mut shown) = (None, 0);
            loop {
                let step = LIST_STEP.min(usize::try_from(most - shown).unwrap_or(usize::MAX));
                let listed = queue.list(&request.filter, after, step).await;
                let Some(last) = listed.last() else { break };
                after = Some(last.id);
                shown += listed.len() as u64;
                listed.iter().flat_map(|it| lines::listed(it, now, json)).for_each(tell);
                if !request.filter.ids.is_empty() {
                    sums.listed.extend(listed);
                }
            }
            lines::rest(&sums, shown, json).into_iter().for_each(tell);
            if shown == sums.messages {
                let found = |id| sums.listed.iter().any(|it| it.id == id);
                request.missing(found).into_iter().for_each(tell);
            }
        }
        Verb::Show => {
            let mut found = Vec::new();
            for id in &request.filter.ids {
                if let Some((listed, envelope)) = queue.show(*id).await {
                    found.push(*id);
                    lines::shown(&listed, &envelope, &[], now, json).into_iter().for_each(tell);
                }
            }
            request.missing(|id| found.contains(&id)).into_iter().for_each(tell);
        }
        Verb::Shape { by, rows } => {
            let shape = queue.shape(&request.filter, by, &shape_edges(), rows).await;
            lines::shape(&shape, by, json).into_iter().for_each(tell);
        }
        // Refused before.
        Verb::Act { .. } => {}
    }
}

/// The carrier of a queue that nobody works on.
struct AtRest;

#[derive(Clone)]
struct NoWay;

impl Way for NoWay {
    fn site(&self) -> &str {
        ""
    }

    fn hosts(&self) -> SmallVec<[&str; 4]> {
        SmallVec::new()
    }
}

impl AtRest {
    fn nowhere() -> Unreachable {
        Unreachable::Now(Problem { reason: "no server runs".to_owned(), ..Problem::default() })
    }
}

impl Carrier for AtRest {
    type Way = NoWay;

    fn find<'a>(&'a self, _: &'a str) -> LocalFuture<'a, Result<NoWay, Unreachable>> {
        Box::pin(std::future::ready(Err(AtRest::nowhere())))
    }

    fn open<'a>(&'a self, _: &'a NoWay) -> LocalFuture<'a, Result<Box<dyn Session>, Unreachable>> {
        Box::pin(std::future::ready(Err(AtRest::nowhere())))
    }

    fn report<'a>(
        &'a self,
        _: &'a Job<'a>,
        _: &'a Ends,
    ) -> LocalFuture<'a, Result<Option<Report>, StoreError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn tell(&self, _: &QueueEvent<'_>) {}
}
