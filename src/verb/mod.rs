//! What each verb of the command line does.

use std::{fs, io, path::Path, time::Duration};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use ringmail::{control::json, runtime::folder::read_file};

mod acl;
mod block;
mod check;
mod dkim;
mod inspect;
mod output;
mod queue;
mod quota;
mod resolve;
mod run;
mod tlsrpt;
mod user;
mod verify;

pub use acl::acl;
pub use block::block;
pub use check::check;
pub use dkim::dkim;
pub use inspect::inspect;
pub use output::{READER_GONE_CODE, ReaderGone, complain};
pub use queue::{Incomplete, explain, queue, trace};
pub use quota::quota;
pub use resolve::resolve;
pub use run::{demo, serve};
pub use tlsrpt::tlsrpt;
pub use user::user;
pub use verify::verify;

/// A wrong command line that clap accepts: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Longest file of a partition that is read whole: the largest `store.segment_size`, plus the
/// excess of a last entry.
const FILE_MAX: u64 = 5 << 30;

/// Reads a listed file; `None` if it is gone, since a running server deletes files that it has
/// replaced. Never waits for a pipe.
fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match read_file(path, FILE_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{}: cannot read", path.display())),
    }
}

/// Escapes control characters: text from files or a socket might be crafted to move a terminal's
/// cursor.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => out.extend(character.escape_default()),
            false => out.push(character),
        }
    }
    out
}

/// As [`printable`], for text of several lines.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// A progress bar of bytes on standard error, if that is a terminal.
fn bytes_bar(doing: &str, total: u64) -> ProgressBar {
    let template =
        format!("{doing} {{bar:40}} {{bytes}}/{{total_bytes}}  {{bytes_per_sec}}  {{eta}} left");
    let style =
        ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Bytes of all files of the data directory's partitions, about.
fn partition_bytes(data_dir: &Path, partitions: u16) -> u64 {
    let folders = (0..partitions).map(|number| data_dir.join(format!("partition-{number:04}")));
    let files = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|about| about.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets in the header block of a segment or checkpoint file (docs/disk_format.md).
    const CHECKSUM: usize = 8;
    const VERSION: usize = 12;
    const BLOCK: usize = 4096;

    /// The file's content as if another version had written it.
    pub fn of_version(version: u16, path: &Path) -> Vec<u8> {
        let mut bytes = fs::read(path).unwrap();
        bytes[VERSION..VERSION + 2].copy_from_slice(&version.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[VERSION..BLOCK]);
        bytes[CHECKSUM..VERSION].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}
