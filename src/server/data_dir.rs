//! The data directory: the layout that is fixed when it is created, and the lock that keeps out a
//! second server.
//!
//! ```text
//! DIR/store.toml        format version and number of partitions; written once
//! DIR/lock              flock'ed by the server that runs on DIR
//! DIR/users             accounts (unless the configuration names another file)
//! DIR/control.sock      control socket of the running server
//! DIR/partition-0000/   one folder per partition: docs/disk_format.md
//! ```

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;

use crate::{
    model::PartitionId,
    runtime::{folder::Folder, privilege},
};

/// The newest layout of a data directory that this binary knows.
pub const FORMAT: u32 = 1;

/// flock'ed by the process that works on the directory.
pub(super) const LOCK: &str = "lock";

pub(super) const STORE_FILE: &str = "store.toml";

/// A layout is two lines.
const STORE_FILE_MAX: u64 = 4096;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreFile {
    format: u32,
    partitions: u16,
}

/// The contents of `store.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub format: u32,
    pub partitions: u16,
}

/// A data directory held by this process; dropping the value releases the lock.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    layout: Layout,
    _lock: Flock<fs::File>,
}

impl DataDirectory {
    /// Opens `path`, creating it with `partitions` partitions if it is new. An existing directory
    /// keeps its own number.
    pub fn open(path: &Path, partitions: u16) -> Result<DataDirectory> {
        let folder = Folder::make(path, None)
            .with_context(|| format!("{}: cannot create", path.display()))?;
        // glommio cannot open relative paths here.
        let path = folder.path();
        keep_private(&folder)?;
        let lock = lock(&folder)?;
        let layout = match layout_of(&folder)? {
            Some(layout) => layout,
            None => write_layout(&folder, Layout { format: FORMAT, partitions })?,
        };
        let directory = DataDirectory { path: path.to_owned(), layout, _lock: lock };
        for number in 0..layout.partitions {
            let path = directory.partition_path(PartitionId(number));
            let partition = folder
                .child(&partition_name(PartitionId(number)))
                .with_context(|| format!("{}: cannot open", path.display()))?;
            keep_private(&partition)?;
        }
        folder.sync()?;
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn partition_path(&self, partition: PartitionId) -> PathBuf {
        self.path.join(partition_name(partition))
    }
}

/// Files that a partition's log opens beside its segments, and segments that it may gain before the
/// next start counts again.
const FILES_PER_PARTITION: u64 = 64;

/// File descriptors that the store on `path` needs: every segment stays open once it was read, so
/// the existing ones count, and half as many again for new mail. `partitions` is for a directory
/// that does not exist yet.
pub fn files_wanted(path: &Path, partitions: u16) -> u64 {
    let partitions = match read_layout(path) {
        Ok(Some(layout)) => layout.partitions,
        // If something is wrong with it, opening it reports that.
        _ => partitions,
    };
    let files = |number: u16| -> u64 {
        let folder = path.join(partition_name(PartitionId(number)));
        fs::read_dir(folder).map_or(0, |entries| entries.count() as u64)
    };
    let there: u64 = (0..partitions).map(files).sum();
    there + there / 2 + u64::from(partitions) * FILES_PER_PARTITION
}

/// The name of a partition's folder.
pub fn partition_name(partition: PartitionId) -> String {
    format!("partition-{:04}", partition.0)
}

/// Mail is private to its owner. Root does not work in a folder of another user: that user controls
/// its contents, and could not open files that root creates (`as_owner`).
fn keep_private(folder: &Folder) -> Result<()> {
    let path = folder.path().display();
    let uid = folder.owner().uid;
    if privilege::is_root() && !uid.is_root() {
        bail!("{path}: belongs to user {uid}, but its parent folder to root: chown one of them");
    }
    let mode = folder.tighten().with_context(|| format!("{path}: cannot change its mode"))?;
    if let Some(mode) = mode {
        eprintln!("ringmail: {path}: its mode {mode:o} let other users in; changed to 700");
    }
    Ok(())
}

/// Opens a data directory, or another folder of the server's, that must be there.
pub fn open_folder(path: &Path) -> Result<Folder> {
    Folder::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow::anyhow!(
            "{}: no such directory; name the data directory of a server, which its first start \
             makes",
            path.display()
        ),
        _ => anyhow::Error::new(error).context(format!("{}: cannot open", path.display())),
    })
}

/// Runs `work` as the owner of the folder `path`, if we are root: see [`Folder::act`].
pub fn as_owner<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let folder = open_folder(path)?;
    folder.adopt(OsStr::new(LOCK))?;
    folder.act(work)?
}

fn lock(folder: &Folder) -> Result<Flock<fs::File>> {
    let path = folder.path().display();
    let file = folder
        .lock_file(OsStr::new(LOCK), None)
        .with_context(|| format!("{path}/{LOCK}: cannot open"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
            "{path}: another ringmail runs on this directory; stop it first, or use another directory"
        ),
        Err((_, errno)) => bail!("{path}/{LOCK}: cannot lock: {errno}"),
    }
}

/// An error if a server runs on `folder`; called before anything in it is changed.
pub fn refuse_if_running(folder: &Folder) -> Result<()> {
    lock(folder).map(drop)
}

/// The layout of `path`, `None` if it is not a data directory yet. Refuses a layout that this
/// binary cannot open, and says which binary can.
pub fn read_layout(path: &Path) -> Result<Option<Layout>> {
    match Folder::open(path) {
        Ok(folder) => layout_of(&folder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{}: cannot open", path.display())),
    }
}

/// As [`read_layout`]. Does not follow links, because errors quote the contents.
fn layout_of(folder: &Folder) -> Result<Option<Layout>> {
    let file_path = folder.path().join(STORE_FILE);
    let bytes = folder
        .read(OsStr::new(STORE_FILE), STORE_FILE_MAX)
        .with_context(|| format!("{}: cannot read", file_path.display()))?;
    let Some(bytes) = bytes else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let file: StoreFile = toml::from_str(&text)
        .with_context(|| format!("{}: not a ringmail store file", file_path.display()))?;
    if file.format == 0 || file.format > FORMAT {
        bail!(
            "{}: format {} is newer than this binary's {FORMAT}: start the ringmail that wrote it, \
             or a later one",
            file_path.display(),
            file.format
        );
    }
    if file.partitions == 0 {
        bail!("{}: partitions must be at least 1", file_path.display());
    }
    Ok(Some(Layout { format: file.format, partitions: file.partitions }))
}

/// Written under another name, synced and renamed: a crash leaves a complete file or none.
fn write_layout(folder: &Folder, layout: Layout) -> Result<Layout> {
    let text = format!(
        "# Written once, when this directory was made. Do not edit.\nformat = {}\npartitions = {}\n",
        layout.format, layout.partitions
    );
    folder
        .replace(OsStr::new(STORE_FILE), text.as_bytes(), None)
        .with_context(|| format!("{}/{STORE_FILE}: cannot write", folder.path().display()))?;
    Ok(layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_wants_what_it_has_and_more() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(files_wanted(folder.path(), 3), 3 * FILES_PER_PARTITION, "not made yet");
        let path = folder.path().join("data");
        let data = DataDirectory::open(&path, 2).unwrap();
        for number in 0..10 {
            fs::write(data.partition_path(PartitionId(1)).join(number.to_string()), "").unwrap();
        }
        assert_eq!(files_wanted(&path, 7), 2 * FILES_PER_PARTITION + 15);
    }

    #[test]
    fn an_existing_directory_keeps_its_partitions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mail");
        drop(DataDirectory::open(&path, 3).unwrap());
        let again = DataDirectory::open(&path, 9).unwrap();
        assert_eq!(again.layout(), Layout { format: 1, partitions: 3 });
        assert!(again.partition_path(PartitionId(2)).is_dir());
    }

    #[test]
    fn partitions_have_absolute_paths() {
        let folder = tempfile::tempdir_in(".").unwrap();
        let relative = Path::new(folder.path().file_name().unwrap());
        let opened = DataDirectory::open(relative, 1).unwrap();
        assert!(opened.partition_path(PartitionId(0)).is_absolute());
        assert!(folder.path().join("partition-0000").is_dir());
    }

    #[test]
    fn a_second_server_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let _held = DataDirectory::open(folder.path(), 1).unwrap();
        let error = DataDirectory::open(folder.path(), 1).unwrap_err();
        assert!(error.to_string().contains("another ringmail"), "{error:#}");
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("store.toml"), "format = 2\npartitions = 1\n").unwrap();
        let error = DataDirectory::open(folder.path(), 1).unwrap_err();
        assert!(error.to_string().contains("format 2 is newer"), "{error:#}");
    }
}
