//! `ringmail verify`: the work itself, in a running server (asked through its control socket) or in
//! a process of its own, and its report, line by line.
//!
//! Lines, with fields separated by tabs: `total BYTES`, `progress BYTES` (since the last),
//! `finding PARTITION FILE OFFSET ACCOUNT UID FOLDER WHAT` (`-` where unknown),
//! `report PARTITION NAME=VALUE ...`, `failed PARTITION WHY`. The report is complete when the
//! stream ends.

use std::{cell::Cell, path::Path, rc::Rc, sync::mpsc};

use anyhow::{Context, Result, bail};

use super::data_dir::DataDirectory;
use crate::{
    model::{AccountId, PartitionId},
    protocol::mime,
    runtime::{
        device::{Device, file::FileDevice, read_only::ReadOnlyDevice},
        executor::Executor,
        shard::{self, ShardOptions},
    },
    store::{Finding, Partition, StoreError, StoreOptions, VerifyReport},
};

/// Bytes between two lines of progress.
const PROGRESS_STEP: u64 = 4 << 20;

/// Verifies one partition and reports everything through `tell`. With `repair`, salvaged data is
/// made durable.
pub async fn verify(partition: &Partition, repair: bool, tell: &dyn Fn(String)) {
    let id = partition.id();
    let outcome = async {
        tell(format!("total\t{}", partition.verify_bytes().await?));
        let pending = Cell::new(0);
        let progress = |bytes: u64| {
            pending.set(pending.get() + bytes);
            if pending.get() >= PROGRESS_STEP {
                tell(format!("progress\t{}", pending.take()));
            }
        };
        let report = partition.verify(&progress).await?;
        if repair {
            partition.checkpoint().await?;
        }
        Ok::<VerifyReport, StoreError>(report)
    };
    match outcome.await {
        Ok(report) => {
            report.findings.iter().for_each(|finding| tell(finding_line(id, finding)));
            tell(report_line(id, &report));
        }
        Err(error) => tell(failed_line(id, &error.to_string())),
    }
}

/// The line that says why a partition was not verified.
pub fn failed_line(id: PartitionId, why: &str) -> String {
    format!("failed\t{id}\t{}", clean(why))
}

fn clean(text: &str) -> String {
    text.replace(['\t', '\n', '\r'], " ")
}

fn finding_line(id: PartitionId, finding: &Finding) -> String {
    let Finding { file, offset, what, account, folder, uid } = finding;
    let account = account.map_or("-".to_owned(), |account| account.to_string());
    let uid = uid.map_or("-".to_owned(), |uid| uid.to_string());
    let folder = folder.as_deref().map_or("-".to_owned(), clean);
    format!("finding\t{id}\t{file}\t{offset}\t{account}\t{uid}\t{folder}\t{}", clean(what))
}

fn report_line(id: PartitionId, report: &VerifyReport) -> String {
    let numbers = [
        ("files", report.checked.files),
        ("bytes", report.checked.bytes),
        ("batches", report.checked.batches),
        ("entries", report.checked.entries),
        ("tail_bytes", report.checked.tail_bytes),
        ("accounts", report.accounts),
        ("folders", report.folders),
        ("messages", report.messages),
        ("messages_damaged", report.messages_damaged),
        ("queued", report.queued),
        ("bodies", report.bodies),
        ("body_bytes", report.body_bytes),
        ("references", report.references),
        ("shared_bytes", report.shared_bytes),
        ("findings", report.findings_total),
    ];
    let numbers = numbers.map(|(name, value)| format!("\t{name}={value}"));
    format!("report\t{id}{}", numbers.concat())
}

/// Verifies a data directory on which no server runs, and holds its lock meanwhile. Each line goes
/// to `lines`.
///
/// # Errors
/// If the directory is not a data directory, or is held by a server; not because of damage.
pub fn verify_offline(
    path: &Path,
    options: StoreOptions,
    repair: bool,
    lines: mpsc::Sender<String>,
) -> Result<()> {
    if super::data_dir::read_layout(path)?.is_none() {
        bail!("{}: not a ringmail data directory", path.display());
    }
    let data = DataDirectory::open(path, 1)?;
    let partitions: Vec<PartitionId> = (0..data.layout().partitions).map(PartitionId).collect();
    let folders: Vec<_> = partitions.iter().map(|id| (*id, data.partition_path(*id))).collect();
    let start = move |context: shard::ShardContext| async move {
        for (partition, folder) in folders {
            let files = FileDevice::new(&folder);
            let device: Rc<dyn Device> = match repair {
                true => Rc::new(files),
                false => Rc::new(ReadOnlyDevice(files)),
            };
            let options = StoreOptions { partition, ..options.clone() };
            verify_closed(device, context.executor.clone(), options, repair, &lines).await;
        }
    };
    let threads = shard::start(&ShardOptions::default(), vec![start]);
    let threads = threads.context("cannot start a shard to verify on")?;
    for ended in threads.join() {
        ended.context("the verifying shard ended")?;
    }
    drop(data);
    Ok(())
}

async fn verify_closed(
    device: Rc<dyn Device>,
    executor: Rc<dyn Executor>,
    options: StoreOptions,
    repair: bool,
    lines: &mpsc::Sender<String>,
) {
    // If the receiver is gone, its process is ending.
    let tell = |line: String| drop(lines.send(line));
    let id = options.partition;
    // What is found garbage is left for the server.
    // Nobody waits for the disk: as fast as it goes.
    let options = StoreOptions {
        garbage_share: 0,
        reserve: 0,
        compaction_rate: 0,
        card_split: mime::split_card,
        ..options
    };
    match Partition::open(device, executor, options).await {
        Err(error) => tell(failed_line(id, &error.to_string())),
        Ok((partition, _)) => {
            if !repair {
                partition.keep_still();
            }
            verify(&partition, repair, &tell).await;
            if repair && let Err(error) = partition.close().await {
                tell(failed_line(id, &error.to_string()));
            }
        }
    }
}

/// One row per folder of an account, read without a lock: name, number, UIDVALIDITY, UIDNEXT,
/// messages, unseen, recent, HIGHESTMODSEQ, bytes, highest UID present.
///
/// # Errors
/// If the partition cannot be opened.
pub fn account(
    path: &Path,
    partitions: u16,
    id: AccountId,
    options: StoreOptions,
) -> Result<Vec<Vec<String>>> {
    let partition = id.partition(partitions);
    let folder = std::path::absolute(path)
        .with_context(|| format!("{}: not a path", path.display()))?
        .join(format!("partition-{:04}", partition.0));
    let options = StoreOptions {
        partition,
        garbage_share: 0,
        reserve: 0,
        card_split: mime::split_card,
        ..options
    };
    let start = move |context: shard::ShardContext| async move {
        let device = Rc::new(ReadOnlyDevice(FileDevice::new(&folder)));
        let (partition, _) = Partition::open(device, context.executor.clone(), options).await?;
        partition.keep_still();
        partition.describe(id).await
    };
    let threads = shard::start(&ShardOptions::default(), vec![start]);
    let threads = threads.context("cannot start a shard to read on")?;
    let mut rows = Vec::new();
    for ended in threads.join() {
        rows = ended.context("the reading shard ended")??;
    }
    Ok(rows)
}
