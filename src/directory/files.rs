//! The small files beside the users file that a snapshot is made from, and the error of all of
//! them: `FILE:LINE: what, and what to do`.
//!
//! Blocks: for the start, reloads and commands, not for a shard.

use std::{
    io,
    path::{Path, PathBuf},
};

use hashbrown::HashSet;

use super::{address::account_address, mistakes::Mistakes, users_file::UsersFileError};
use crate::runtime::folder::read_file;

/// Longest list of recipients of another server: some millions.
const RECIPIENTS_FILE_MAX: u64 = 256 << 20;
/// Longest file of aliases or groups: some hundred thousand lines.
const LINES_FILE_MAX: u64 = 64 << 20;
/// Longest file with a password or with keys.
const SECRET_FILE_MAX: u64 = 64 << 10;

/// Why the directory cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error(transparent)]
    Users(#[from] UsersFileError),
    #[error("{}: {error}", file.display())]
    Io { file: PathBuf, error: io::Error },
    #[error("{}:{line}: {what}", file.display())]
    Line { file: PathBuf, line: usize, what: String },
    #[error(transparent)]
    Lines(#[from] Mistakes),
    /// Of a file that only a setting names.
    #[error("{setting}: {}: {error}{}", file.display(), advice(error))]
    Named { setting: &'static str, file: PathBuf, error: io::Error },
    #[error("{}: no account for postmaster", .0.display())]
    NoPostmaster(PathBuf),
}

/// What to do about a file that only a setting names, unless the error says it.
fn advice(error: &io::Error) -> &'static str {
    // Made by `read_lines`.
    match error.get_ref() {
        Some(_) if error.kind() == io::ErrorKind::NotFound => "",
        _ => ": make it, or change the setting",
    }
}

impl DirectoryError {
    /// With the setting that names the file, if that cannot be read. A mistake in it has a place.
    pub(super) fn of(self, setting: &'static str) -> DirectoryError {
        match self {
            DirectoryError::Io { file, error } => DirectoryError::Named { setting, file, error },
            other => other,
        }
    }

    pub(super) fn io(file: &Path, error: io::Error) -> DirectoryError {
        DirectoryError::Io { file: file.to_owned(), error }
    }

    pub(super) fn at(file: &Path, line: usize, what: impl Into<String>) -> DirectoryError {
        DirectoryError::Line { file: file.to_owned(), line, what: what.into() }
    }
}

fn read_text(path: &Path, max: u64) -> Result<String, DirectoryError> {
    let failed = |error| DirectoryError::io(path, error);
    let invalid = |error| failed(io::Error::new(io::ErrorKind::InvalidData, error));
    String::from_utf8(read_file(path, max).map_err(failed)?).map_err(invalid)
}

/// The text of a file of lines that people write. An absent file is an empty one, unless it
/// `must_exist`: then `setting` names it, so it was moved away or never made, and to go on without
/// all of `what` would be wrong.
pub(super) fn read_lines(
    path: &Path,
    must_exist: bool,
    setting: &'static str,
    what: &str,
) -> Result<String, DirectoryError> {
    let text = match read_file(path, LINES_FILE_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && must_exist => {
            let what = format!(
                "not there: create it, empty if there are no {what}, or remove the setting"
            );
            let error = io::Error::new(io::ErrorKind::NotFound, what);
            return Err(DirectoryError::io(path, error).of(setting));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        read => read.map_err(|error| DirectoryError::io(path, error))?,
    };
    String::from_utf8(text).map_err(|error| DirectoryError::at(path, line_of(&error), "not UTF-8"))
}

/// The line of the first octet that is not UTF-8.
fn line_of(error: &std::string::FromUtf8Error) -> usize {
    let before = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
    1 + before.filter(|&&byte| byte == b'\n').count()
}

/// A line with its continuations.
pub(super) struct Entry<'a> {
    pub line: usize,
    /// Trimmed, each with the line that it is on; without comments. Never empty.
    pub parts: Vec<(usize, &'a str)>,
}

pub(super) fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let (line, part) = (index + 1, raw.trim());
        if part.is_empty() || part.starts_with('#') {
            continue;
        }
        match entries.last_mut() {
            Some(entry) if raw.starts_with([' ', '\t']) => entry.parts.push((line, part)),
            _ => entries.push(Entry { line, parts: vec![(line, part)] }),
        }
    }
    entries
}

/// The recipients of another server: one address or `@domain` a line, comments and empty lines
/// skipped. All in lower case.
pub(super) fn read_recipients(path: &Path) -> Result<HashSet<String>, DirectoryError> {
    let text = read_text(path, RECIPIENTS_FILE_MAX)?;
    let mut recipients = HashSet::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let canonical = match line.strip_prefix('@') {
            Some(domain) => account_address(&format!("x@{domain}"))
                .map(|address| address.trim_start_matches('x').to_owned()),
            None => account_address(line),
        };
        let wrong = |_| {
            let what = format!("{line:?}: expected an address or @domain");
            DirectoryError::at(path, index + 1, what)
        };
        recipients.insert(canonical.map_err(wrong)?);
    }
    Ok(recipients)
}

/// The password in the first line.
pub(super) fn read_secret(path: &Path) -> Result<String, DirectoryError> {
    let text = read_text(path, SECRET_FILE_MAX)?;
    match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => Err(DirectoryError::at(path, 1, "expected a password in the first line")),
    }
}

/// The keys of a file, one a line, comments and empty lines skipped; `None` if it is absent.
pub(super) fn read_keys(path: &Path) -> Result<Option<Vec<String>>, DirectoryError> {
    let text = match read_text(path, SECRET_FILE_MAX) {
        Err(DirectoryError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        text => text?,
    };
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let mut keys = Vec::new();
    for (line, key) in lines.filter(|(_, key)| !key.is_empty() && !key.starts_with('#')) {
        // 128 bits in hexadecimal digits.
        if key.len() < 32 {
            let what = "a key has at least 32 characters: remove the file, and a start makes one";
            return Err(DirectoryError::at(path, line, what));
        }
        keys.push(key.to_owned());
    }
    if keys.is_empty() {
        let what = "has no key: remove the file, and a start makes one";
        return Err(DirectoryError::at(path, 1, what));
    }
    Ok(Some(keys))
}
