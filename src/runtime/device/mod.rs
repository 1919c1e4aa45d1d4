//! The device seam: the only storage operations the store may use.
//!
//! Append-only on purpose (create, append, read at, sync, sync directory, delete, list; no rename,
//! no mmap, no overwrite), so that a partition can use files, a recorder, the seeded simulator and
//! later RADOS objects.
//!
//! The contract, which crash images test: appended bytes are durable only after `File::sync`
//! returned `Ok`; a file's existence is durable only after `Device::sync_directory` returned `Ok`;
//! before that any subset of 512-byte sectors may survive a crash, in any order. After a failed
//! write or sync the outcome of everything un-synced is unknown for ever.

pub mod file;
pub mod memory;
pub mod read_only;

use std::{io, rc::Rc};

use super::LocalFuture;

/// One partition's flat folder of files.
pub trait Device {
    /// Creates `name`, which must not exist. `size_hint` bytes may be reserved ahead.
    fn create(&self, name: &str, size_hint: u64) -> LocalFuture<'_, io::Result<Rc<dyn File>>>;

    /// Opens an existing file to read. A file found at start is never appended to again.
    fn open(&self, name: &str) -> LocalFuture<'_, io::Result<Rc<dyn File>>>;

    /// Makes creations and deletions so far durable.
    fn sync_directory(&self) -> LocalFuture<'_, io::Result<()>>;

    fn delete(&self, name: &str) -> LocalFuture<'_, io::Result<()>>;

    /// Makes sure that `name` takes `len` bytes of space, which no other file gets until it is
    /// deleted. A device that cannot promise space answers `Unsupported`.
    fn reserve(&self, name: &str, len: u64) -> LocalFuture<'_, io::Result<()>>;

    /// Bytes that could be written now; `None` if the device does not know. Fails with
    /// `ReadOnlyFilesystem` if nothing can be written.
    fn free_space(&self) -> LocalFuture<'_, io::Result<Option<u64>>>;

    /// Names of all files, in no order.
    fn list(&self) -> LocalFuture<'_, io::Result<Vec<String>>>;
}

/// One append-only file.
#[allow(clippy::len_without_is_empty)] // No caller asks whether a file is empty.
pub trait File {
    /// Appends all of `bytes` at `offset`, which must be the current end as the caller counts it.
    /// Takes the buffer (the kernel may read it after the future is dropped) and returns it for
    /// reuse.
    fn append(&self, offset: u64, bytes: Vec<u8>) -> LocalFuture<'_, (io::Result<()>, Vec<u8>)>;

    /// Reads up to `len` bytes at `offset`; shorter only at the end of the file.
    fn read_at(&self, offset: u64, len: usize) -> LocalFuture<'_, io::Result<Vec<u8>>>;

    /// These bytes will probably be read soon, and may be fetched meanwhile. Does not wait.
    fn read_ahead(&self, _offset: u64, _len: u64) {}

    /// Makes everything appended so far durable (fdatasync). On a file found by [`Device::open`] it
    /// also makes `read_at` return the contents of stable storage: after a sync that failed in an
    /// earlier life, a cache may hold bytes that were never written and never will be.
    fn sync(&self) -> LocalFuture<'_, io::Result<()>>;

    /// Bytes that can be read. After a crash it may include reserved zeros past the written end.
    fn len(&self) -> LocalFuture<'_, io::Result<u64>>;
}
