//! `ringmail inspect`: the contents of a data directory's files, as tables or JSON.
//!
//! It only reads and takes no lock, so it is safe beside a running server. What that server has
//! just written may be missing or look torn, and files that it deletes meanwhile are left out.

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
            epoch_of_name, version_of_file,
        },
    },
};

use super::{
    Usage, bytes_bar, json,
    output::{complain, print, print_line},
    partition_bytes, printable, read_if_there,
};
use crate::cli::{InspectArguments, InspectVerb};

/// A column and the type of its values. The type cannot be guessed from a value, since a folder may
/// be called "007".
#[derive(Clone, Copy)]
enum Column {
    Text(&'static str),
    /// "-" if unknown.
    Number(&'static str),
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Text(name) | Number(name) => name,
        }
    }

    fn json(self, value: &str) -> String {
        match (self, value.parse::<u64>()) {
            (Number(_), Ok(number)) => number.to_string(),
            (Number(_), Err(_)) if value == "-" => "null".to_owned(),
            _ => json::text(value),
        }
    }
}

use Column::{Number, Text};

/// Rows have as many values as there are columns.
struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(columns: &[Column]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    fn json(&self) -> String {
        let row = |row: &Vec<String>| {
            let fields: Vec<(&str, String)> = self
                .columns
                .iter()
                .zip(row)
                .map(|(column, value)| (column.name(), column.json(value)))
                .collect();
            json::object(&fields)
        };
        json::list(&self.rows.iter().map(row).collect::<Vec<_>>())
    }

    /// Lines of aligned columns. Names come from users, so characters that could move a terminal's
    /// cursor or break a line are escaped.
    fn text(&self) -> String {
        let head = self.columns.iter().map(|column| column.name().to_owned()).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(|value| printable(value)).collect());
        let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
        let mut widths = vec![0; self.columns.len()];
        for line in &lines {
            for (width, value) in widths.iter_mut().zip(line) {
                *width = (*width).max(value.chars().count());
            }
        }
        let mut out = String::new();
        for line in &lines {
            let cells: Vec<String> =
                line.iter().zip(&widths).map(|(value, width)| format!("{value:<width$}")).collect();
            out.push_str(cells.join("  ").trim_end());
            out.push('\n');
        }
        out
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
    let table =
        data_dir::as_owner(&data_dir, || table(&arguments.verb, &data_dir, &users_file, options))?;
    match arguments.json {
        true => print_line(table.json()),
        false => print(table.text()),
    }
}

fn table(
    verb: &InspectVerb,
    data_dir: &Path,
    users_file: &Path,
    options: StoreOptions,
) -> Result<Table> {
    let layout = data_dir::read_layout(data_dir)?
        .with_context(|| format!("{}: not a ringmail data directory", data_dir.display()))?;
    match verb {
        InspectVerb::Segments => segments(data_dir, layout.partitions),
        InspectVerb::Checkpoint => checkpoints(data_dir, layout.partitions),
        InspectVerb::Batches { segment } => {
            let found = choose_segment(data_dir, layout.partitions, segment.as_deref())?;
            Ok(batches(found.as_ref()))
        }
        InspectVerb::Entries { segment } => {
            let found = choose_segment(data_dir, layout.partitions, segment.as_deref())?;
            Ok(entries(found.as_ref()))
        }
        InspectVerb::Account { address } => {
            account(data_dir, users_file, address, layout.partitions, options)
        }
    }
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

fn take_apart(path: &Path, name: &str, bytes: &[u8], partition: PartitionId) -> Result<Dissection> {
    let epoch =
        epoch_of_name(name).with_context(|| format!("{}: not a segment", path.display()))?;
    dissect(bytes, partition, epoch, Lsn(0)).with_context(|| {
        format!("{}: start the ringmail that wrote it, or a later one", path.display())
    })
}

/// The named segment, otherwise the first; `None` if there is none yet.
fn choose_segment(
    data_dir: &Path,
    partitions: u16,
    named: Option<&str>,
) -> Result<Option<Dissection>> {
    if let Some(named) = named {
        return read_segment(data_dir, named).map(Some);
    }
    for partition in (0..partitions).map(PartitionId) {
        let names = names(&folder(data_dir, partition))?;
        if let Some(name) = names.iter().find(|name| epoch_of_name(name).is_some()) {
            complain(format_args!("ringmail inspect: {partition}/{name}"));
            return read_segment(data_dir, &format!("{partition}/{name}")).map(Some);
        }
    }
    complain("ringmail inspect: no segment: nothing was written yet");
    Ok(None)
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
    let path = folder(data_dir, partition).join(name);
    let bytes = read_if_there(&path)?.with_context(|| {
        format!(
            "{}: not found; \"ringmail inspect segments\" lists the existing ones",
            path.display()
        )
    })?;
    take_apart(&path, name, &bytes, partition)
}

fn segments(data_dir: &Path, partitions: u16) -> Result<Table> {
    let mut table = Table::new(&[
        Number("partition"),
        Text("segment"),
        Text("layout"),
        Number("format"),
        Number("base"),
        Number("bytes"),
        Number("batches"),
        Number("entries"),
        Number("damaged"),
        Number("tail"),
        Number("replaces"),
    ]);
    let bar = bytes_bar("reading", partition_bytes(data_dir, partitions));
    for partition in (0..partitions).map(PartitionId) {
        let folder = folder(data_dir, partition);
        for name in names(&folder)?.iter().filter(|name| epoch_of_name(name).is_some()) {
            let path = folder.join(name);
            let Some(bytes) = read_if_there(&path)? else { continue };
            bar.inc(bytes.len() as u64);
            let found = take_apart(&path, name, &bytes, partition).ok();
            let described = describe_segment(found.as_ref(), bytes.len());
            let format = version_of_file(&bytes).map_or("-".to_owned(), |it| it.to_string());
            let mut row = vec![partition.to_string(), name.clone()];
            row.extend(described);
            row.insert(3, format);
            table.rows.push(row);
        }
    }
    bar.finish_and_clear();
    Ok(table)
}

/// Values from "layout" on. A segment of a later version (`None`) does not hide the others.
fn describe_segment(found: Option<&Dissection>, len: usize) -> [String; 8] {
    let Some(found) = found else {
        let mut row = std::array::from_fn(|_| "-".to_owned());
        row[0] = "unknown".to_owned();
        row[2] = len.to_string();
        return row;
    };
    let damaged =
        found.flaws.len() + found.entries.iter().filter(|entry| entry.flaw.is_some()).count();
    let (layout, base, replaces) = match (&found.compacted, found.header) {
        (Some(header), _) => {
            ("compacted", header.base.to_string(), header.sources.len().to_string())
        }
        (None, Some(header)) => ("log", header.base.to_string(), "0".to_owned()),
        (None, None) => ("damaged", "-".to_owned(), "-".to_owned()),
    };
    [
        layout.to_owned(),
        base,
        len.to_string(),
        found.batches.len().to_string(),
        found.entries.len().to_string(),
        damaged.to_string(),
        found.tail.to_string(),
        replaces,
    ]
}

fn checkpoints(data_dir: &Path, partitions: u16) -> Result<Table> {
    let mut table = Table::new(&[
        Number("partition"),
        Text("file"),
        Number("root"),
        Number("replay from"),
        Number("scan from"),
        Number("durable"),
        Text("state"),
    ]);
    for partition in (0..partitions).map(PartitionId) {
        let folder = folder(data_dir, partition);
        for name in names(&folder)?.iter().filter(|name| checkpoint_of_name(name).is_some()) {
            let Some(bytes) = read_if_there(&folder.join(name))? else { continue };
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

fn batches(found: Option<&Dissection>) -> Table {
    let mut table = Table::new(&[
        Number("offset"),
        Number("lsn"),
        Number("entries"),
        Number("bytes"),
        Number("durable"),
        Text("state"),
    ]);
    for batch in found.iter().flat_map(|found| &found.batches) {
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

fn entries(found: Option<&Dissection>) -> Table {
    let mut table = Table::new(&[
        Number("offset"),
        Number("lsn"),
        Text("kind"),
        Number("account"),
        Number("mailbox"),
        Number("uid"),
        Number("bytes"),
        Text("state"),
    ]);
    for entry in found.iter().flat_map(|found| &found.entries) {
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
        Text("folder"),
        Number("mailbox"),
        Number("uidvalidity"),
        Number("uidnext"),
        Number("messages"),
        Number("unseen"),
        Number("recent"),
        Number("highestmodseq"),
        Number("bytes"),
        Number("newest uid"),
    ]);
    table.rows = examine::account(data_dir, partitions, id, options)?;
    if table.rows.is_empty() {
        complain("ringmail inspect: no folders: the first message or log-in creates them");
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1");
    const SEGMENT: &str = "segment-0000000000000001";

    /// A data directory whose only partition is in the first format, and was partition 7.
    fn data_dir() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let folder = folder(place.path(), PartitionId(7));
        fs::create_dir(&folder).unwrap();
        for number in 0..7 {
            fs::create_dir(super::folder(place.path(), PartitionId(number))).unwrap();
        }
        for name in [SEGMENT, "checkpoint-0000000000000001"] {
            fs::copy(Path::new(GOLDEN).join(name), folder.join(name)).unwrap();
        }
        place
    }

    /// The values of one column.
    fn column<'a>(table: &'a Table, name: &str) -> Vec<&'a str> {
        let at = table.columns.iter().position(|column| column.name() == name).unwrap();
        table.rows.iter().map(|row| row[at].as_str()).collect()
    }

    #[test]
    fn the_first_format_is_shown_whole() {
        let place = data_dir();
        let found = segments(place.path(), 8).unwrap();
        assert_eq!(column(&found, "layout"), ["log"]);
        assert_eq!(column(&found, "damaged"), ["0"]);
        assert_eq!(column(&checkpoints(place.path(), 8).unwrap(), "state"), ["whole"]);
        let segment = read_segment(place.path(), &format!("7/{SEGMENT}")).unwrap();
        let (batches, entries) = (batches(Some(&segment)), entries(Some(&segment)));
        assert_eq!(column(&found, "batches"), [batches.rows.len().to_string()]);
        assert_eq!(column(&found, "entries"), [entries.rows.len().to_string()]);
        for table in [&batches, &entries] {
            assert!(!table.rows.is_empty());
            assert!(column(table, "state").iter().all(|state| *state == "whole"));
        }
        for kind in ["message", "body chunk", "checkpoint root", "expunge"] {
            assert!(column(&entries, "kind").contains(&kind), "{kind}");
        }
    }

    /// On a machine with several cores the partition of the first message is not known in advance.
    #[test]
    fn a_segment_need_not_be_named() {
        let place = data_dir();
        let found = entries(choose_segment(place.path(), 8, None).unwrap().as_ref());
        let named = format!("7/{SEGMENT}");
        let expected = entries(choose_segment(place.path(), 8, Some(&named)).unwrap().as_ref());
        assert!(!found.rows.is_empty());
        assert_eq!(found.rows, expected.rows);
        // Nothing was written yet.
        assert!(choose_segment(place.path(), 7, None).unwrap().is_none());
        assert!(entries(None).rows.is_empty() && batches(None).rows.is_empty());
    }

    /// The server deletes compacted files between our listing and our reading: a name without a
    /// file, like a dangling link.
    #[test]
    fn files_that_go_meanwhile_are_left_out() {
        let place = data_dir();
        let folder = folder(place.path(), PartitionId(7));
        for name in ["segment-0000000000000002", "checkpoint-0000000000000002"] {
            std::os::unix::fs::symlink("nowhere", folder.join(name)).unwrap();
        }
        assert_eq!(column(&segments(place.path(), 8).unwrap(), "segment"), [SEGMENT]);
        assert_eq!(checkpoints(place.path(), 8).unwrap().rows.len(), 1);
    }

    #[test]
    fn a_segment_of_a_later_version_hides_no_other() {
        let place = data_dir();
        let folder = folder(place.path(), PartitionId(7));
        let bytes = super::super::tests::of_version(99, &Path::new(GOLDEN).join(SEGMENT));
        fs::write(folder.join("segment-0000000000000002"), bytes).unwrap();
        let found = segments(place.path(), 8).unwrap();
        assert_eq!(column(&found, "layout"), ["log", "unknown"]);
        let error = read_segment(place.path(), "7/segment-0000000000000002").err().unwrap();
        assert!(format!("{error:#}").contains("format version 99"), "{error:#}");
    }

    #[test]
    fn values_stay_what_they_are() {
        let mut table = Table::new(&[Text("folder"), Number("uid")]);
        for (folder, uid) in [("007", "12"), ("+5", "-"), ("a\nb\u{1b}[2J", "0")] {
            table.rows.push(vec![folder.to_owned(), uid.to_owned()]);
        }
        assert_eq!(
            table.json(),
            "[{\"folder\":\"007\",\"uid\":12},{\"folder\":\"+5\",\"uid\":null},\
             {\"folder\":\"a\\u000ab\\u001b[2J\",\"uid\":0}]"
        );
        let text = table.text();
        assert_eq!(text.lines().count(), 4);
        assert!(!text.contains('\u{1b}'));
    }
}
