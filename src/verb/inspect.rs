//! `ringmail inspect`: what the files of a data directory hold, as tables or JSON.
//!
//! Only reads, takes no lock, and so is safe beside a server that runs; what that server has just
//! written may be missing, or look torn.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use ringmail::{
    config::Settings,
    directory::UsersFile,
    model::{Lsn, PartitionId},
    server::{data_dir, examine},
    store::{
        StoreOptions, kind_name,
        log::{
            CheckpointRecord, Dissection, checkpoint_of_name, decode_checkpoint, dissect,
            epoch_of_name,
        },
    },
};

use super::{Usage, json};
use crate::cli::{InspectArguments, InspectVerb};

/// A table: the names of its columns, and rows.
struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(columns: &[&'static str]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    fn print(&self, as_json: bool) {
        if as_json {
            let rows: Vec<String> = self
                .rows
                .iter()
                .map(|row| {
                    let fields: Vec<(&str, String)> = self
                        .columns
                        .iter()
                        .zip(row)
                        .map(|(name, value)| match value.parse::<u64>() {
                            Ok(number) => (*name, number.to_string()),
                            Err(_) => (*name, json::text(value)),
                        })
                        .collect();
                    json::object(&fields)
                })
                .collect();
            println!("{}", json::list(&rows));
            return;
        }
        let mut widths: Vec<usize> = self.columns.iter().map(|name| name.len()).collect();
        for row in &self.rows {
            for (width, value) in widths.iter_mut().zip(row) {
                *width = (*width).max(value.chars().count());
            }
        }
        let line = |values: Vec<&str>| {
            let cells: Vec<String> = values
                .iter()
                .zip(&widths)
                .map(|(value, width)| format!("{value:<width$}"))
                .collect();
            println!("{}", cells.join("  ").trim_end());
        };
        line(self.columns.clone());
        for row in &self.rows {
            line(row.iter().map(String::as_str).collect());
        }
    }
}

pub fn inspect(arguments: InspectArguments) -> Result<()> {
    let (data_dir, users_file, options) = match (&arguments.place.config, &arguments.place.dir) {
        (Some(config), _) => {
            let settings = Settings::load(config)?;
            let (users, options) = (settings.users_path(), settings.store_options());
            (settings.data_dir, users, options)
        }
        (None, Some(dir)) => (dir.clone(), dir.join("users"), StoreOptions::default()),
        (None, None) => return Err(Usage("--config or --dir is needed".to_owned()).into()),
    };
    let layout = data_dir::read_layout(&data_dir)?
        .with_context(|| format!("{}: not a ringmail data directory", data_dir.display()))?;
    let table = match &arguments.verb {
        InspectVerb::Segments => segments(&data_dir, layout.partitions)?,
        InspectVerb::Checkpoint => checkpoints(&data_dir, layout.partitions)?,
        InspectVerb::Batches { segment } => batches(&read_segment(&data_dir, segment)?),
        InspectVerb::Entries { segment } => entries(&read_segment(&data_dir, segment)?),
        InspectVerb::Account { address } => {
            account(&data_dir, &users_file, address, layout.partitions, options)?
        }
    };
    table.print(arguments.json);
    Ok(())
}

fn folder(data_dir: &Path, partition: PartitionId) -> PathBuf {
    data_dir.join(format!("partition-{:04}", partition.0))
}

/// Names of a partition's files, sorted.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("{}: cannot read", folder.display()))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn take_apart(folder: &Path, name: &str, partition: PartitionId) -> Result<Dissection> {
    let path = folder.join(name);
    let bytes = fs::read(&path).with_context(|| format!("{}: cannot read", path.display()))?;
    let epoch =
        epoch_of_name(name).with_context(|| format!("{}: not a segment", path.display()))?;
    dissect(&bytes, partition, epoch, Lsn(0)).with_context(|| path.display().to_string())
}

/// `PARTITION/NAME`, a path, or a name if there is one partition only.
fn read_segment(data_dir: &Path, named: &str) -> Result<Dissection> {
    let path = Path::new(named);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(named);
    let parent = path.parent().and_then(|parent| parent.file_name()?.to_str());
    let number =
        parent.and_then(|parent| parent.strip_prefix("partition-").unwrap_or(parent).parse().ok());
    let partition = match (parent, number) {
        (None | Some(""), _) => PartitionId(0),
        (Some(_), Some(number)) => PartitionId(number),
        (Some(other), None) => {
            return Err(
                Usage(format!("{other}: not a partition; name a segment as 0/{name}")).into()
            );
        }
    };
    take_apart(&folder(data_dir, partition), name, partition)
}

fn segments(data_dir: &Path, partitions: u16) -> Result<Table> {
    let mut table = Table::new(&[
        "partition",
        "segment",
        "layout",
        "base",
        "bytes",
        "batches",
        "entries",
        "damaged",
        "tail",
        "replaces",
    ]);
    for partition in (0..partitions).map(PartitionId) {
        let folder = folder(data_dir, partition);
        for name in names(&folder)?.iter().filter(|name| epoch_of_name(name).is_some()) {
            let found = take_apart(&folder, name, partition)?;
            let len = fs::metadata(folder.join(name)).map_or(0, |metadata| metadata.len());
            let damaged = found.flaws.len()
                + found.entries.iter().filter(|entry| entry.flaw.is_some()).count();
            let (layout, base, replaces) = match (&found.compacted, found.header) {
                (Some(header), _) => {
                    ("compacted", header.base.to_string(), header.sources.len().to_string())
                }
                (None, Some(header)) => ("log", header.base.to_string(), "0".to_owned()),
                (None, None) => ("damaged", "-".to_owned(), "-".to_owned()),
            };
            table.rows.push(vec![
                partition.to_string(),
                name.clone(),
                layout.to_owned(),
                base,
                len.to_string(),
                found.batches.len().to_string(),
                found.entries.len().to_string(),
                damaged.to_string(),
                found.tail.to_string(),
                replaces,
            ]);
        }
    }
    Ok(table)
}

fn checkpoints(data_dir: &Path, partitions: u16) -> Result<Table> {
    let mut table =
        Table::new(&["partition", "file", "root", "replay from", "scan from", "durable", "state"]);
    for partition in (0..partitions).map(PartitionId) {
        let folder = folder(data_dir, partition);
        for name in names(&folder)?.iter().filter(|name| checkpoint_of_name(name).is_some()) {
            let path = folder.join(name);
            let bytes =
                fs::read(&path).with_context(|| format!("{}: cannot read", path.display()))?;
            let row = match decode_checkpoint(&bytes) {
                Ok(CheckpointRecord { root, replay_from, scan_from, durable }) => vec![
                    root.to_string(),
                    replay_from.to_string(),
                    scan_from.to_string(),
                    durable.to_string(),
                    "whole".to_owned(),
                ],
                Err(error) => {
                    let mut row = vec!["-".to_owned(); 4];
                    row.push(error.to_string());
                    row
                }
            };
            table.rows.push([vec![partition.to_string(), name.clone()], row].concat());
        }
    }
    Ok(table)
}

fn batches(found: &Dissection) -> Table {
    let mut table = Table::new(&["offset", "lsn", "entries", "bytes", "durable", "state"]);
    for batch in &found.batches {
        let state = batch.flaw.clone().unwrap_or("whole".to_owned());
        let numbers = match batch.header {
            Some(header) => [
                header.lsn.to_string(),
                header.entries.to_string(),
                header.payload_len.to_string(),
                header.durable.to_string(),
            ],
            None => std::array::from_fn(|_| "-".to_owned()),
        };
        table.rows.push([vec![batch.offset.to_string()], numbers.to_vec(), vec![state]].concat());
    }
    table
}

fn entries(found: &Dissection) -> Table {
    let mut table =
        Table::new(&["offset", "lsn", "kind", "account", "mailbox", "uid", "bytes", "state"]);
    for entry in &found.entries {
        let about = match entry.header {
            Some(header) => [
                kind_name(header.kind).to_owned(),
                header.account.to_string(),
                header.mailbox.to_string(),
                header.uid.to_string(),
            ],
            None => std::array::from_fn(|_| "-".to_owned()),
        };
        let state = entry.flaw.clone().unwrap_or("whole".to_owned());
        table.rows.push(
            [
                vec![entry.offset.to_string(), entry.lsn.to_string()],
                about.to_vec(),
                vec![entry.payload_len.to_string(), state],
            ]
            .concat(),
        );
    }
    table
}

fn account(
    data_dir: &Path,
    users_file: &Path,
    address: &str,
    partitions: u16,
    options: StoreOptions,
) -> Result<Table> {
    let users = UsersFile::load(users_file)?;
    let known: BTreeMap<&str, _> =
        users.users().map(|user| (user.address.as_str(), user.id)).collect();
    let Some(id) = known.get(address.to_lowercase().as_str()).copied() else {
        bail!("{}: no account {address}", users_file.display());
    };
    let mut table = Table::new(&[
        "folder",
        "mailbox",
        "uidvalidity",
        "uidnext",
        "messages",
        "unseen",
        "recent",
        "highestmodseq",
        "bytes",
        "newest uid",
    ]);
    table.rows = examine::account(data_dir, partitions, id, options)?;
    Ok(table)
}
