//! The device in production: a folder of ordinary files, written and synced through io_uring.
//!
//! Created by the shard that owns the partition, on its executor; shard-local. Files are buffered:
//! a message read soon after its delivery comes from the page cache, without a round trip through
//! the ring. They grow as they are written: reserving a whole segment ahead would cost disk for
//! every partition at every start, and saved no time when measured (design 4).
//!
//! A new file is made by a helper thread: glommio's ring would be asked four times, and is asked
//! every few milliseconds while the shard's core is busy, and every commit waits for the file.

use std::{
    cell::Cell,
    fs,
    future::poll_fn,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
    task::Poll,
};

use glommio::{
    GlommioError,
    io::{BufferedFile, OpenOptions},
};
use nix::{
    fcntl::{PosixFadviseAdvice, posix_fadvise},
    sys::statvfs::{FsFlags, statvfs},
};

use super::{Device, File};
use crate::runtime::{LocalFuture, helpers, idleness::begin_operation, resources::ShardResources};

/// Files are private to the server's user.
const FILE_MODE: libc::mode_t = 0o600;

/// One partition's folder.
pub struct FileDevice {
    path: PathBuf,
}

/// A file of the folder. The descriptor is closed when the last clone is dropped.
struct DiskFile {
    file: BufferedFile,
    /// Opened, not created: never appended to.
    found: bool,
    /// False once the file system reported that it does not support such reads.
    peek: Cell<bool>,
    /// How many more requests to fetch bytes ahead are worth it: 0 as long as all that is read is
    /// in the page cache.
    cold: Cell<u8>,
}

/// [`DiskFile::cold`] once something was not in the page cache.
const COLD: u8 = 16;

/// Bytes that the kernel is asked to fetch by one call; it fetches no more than some of a longer
/// range.
const FETCH: u64 = 1 << 20;

impl FileDevice {
    /// The folder `path`, which exists (`server::data_dir` makes it, durably).
    pub fn new(path: &Path) -> FileDevice {
        FileDevice { path: path.to_owned() }
    }
}

impl Device for FileDevice {
    fn create(&self, name: &str, _size_hint: u64) -> LocalFuture<'_, io::Result<Rc<dyn File>>> {
        let path = self.path.join(name);
        let name = name.to_owned();
        Box::pin(async move {
            let created = helpers::call_for_segment(move || {
                let mut options = fs::OpenOptions::new();
                options.read(true).write(true).create_new(true).mode(FILE_MODE);
                options.custom_flags(libc::O_DSYNC | libc::O_NOFOLLOW).open(path)
            });
            let descriptor = created.await.map_err(|error| named(&name, &error))?.into_raw_fd();
            // SAFETY: the descriptor is open, and nobody else has it.
            let file = unsafe { BufferedFile::from_raw_fd(descriptor) };
            Ok(Rc::new(DiskFile::new(file, false)) as Rc<dyn File>)
        })
    }

    fn open(&self, name: &str) -> LocalFuture<'_, io::Result<Rc<dyn File>>> {
        let path = self.path.join(name);
        Box::pin(async move {
            let _operation = begin_operation();
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
            let file = options.buffered_open(&path).await.map_err(plain)?;
            Ok(Rc::new(DiskFile::new(file, true)) as Rc<dyn File>)
        })
    }

    fn sync_directory(&self) -> LocalFuture<'_, io::Result<()>> {
        let path = self.path.clone();
        Box::pin(helpers::call_for_segment(move || fs::File::open(path)?.sync_all()))
    }

    /// The name goes at once, the blocks of a long file gradually, unless the file has another
    /// name, as in a copy made of hard links, which must keep them.
    fn delete(&self, name: &str) -> LocalFuture<'_, io::Result<()>> {
        let path = self.path.join(name);
        Box::pin(helpers::call(move || {
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
            let held = fs::OpenOptions::new().write(true).custom_flags(flags).open(&path);
            fs::remove_file(&path)?;
            if let Ok(file) = held
                && file.metadata().is_ok_and(|about| about.nlink() == 0)
            {
                helpers::give_back(file);
            }
            Ok(())
        }))
    }

    fn reserve(&self, name: &str, len: u64) -> LocalFuture<'_, io::Result<()>> {
        let path = self.path.join(name);
        Box::pin(helpers::call(move || allocate(&path, len)))
    }

    fn free_space(&self) -> LocalFuture<'_, io::Result<Option<u64>>> {
        let path = self.path.clone();
        Box::pin(helpers::call(move || {
            let stat = statvfs(&path)?;
            if stat.flags().contains(FsFlags::ST_RDONLY) {
                return Err(io::Error::from_raw_os_error(libc::EROFS));
            }
            Ok(Some(stat.blocks_available() as u64 * stat.fragment_size() as u64))
        }))
    }

    /// Blocks for the time of a `readdir`: called only when a partition opens.
    fn list(&self) -> LocalFuture<'_, io::Result<Vec<String>>> {
        Box::pin(async move {
            let names = fs::read_dir(&self.path)?
                .map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
            names.filter_map(Result::transpose).collect()
        })
    }
}

impl File for DiskFile {
    fn append(&self, offset: u64, bytes: Vec<u8>) -> LocalFuture<'_, (io::Result<()>, Vec<u8>)> {
        let len = bytes.len();
        Box::pin(async move {
            let (outcome, buffer) = self.write_at(offset, bytes).await;
            let outcome = match outcome {
                Ok(written) if written == len => Ok(()),
                // The kernel cuts a write to a file short only for lack of space.
                Ok(written) => Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    format!("wrote {written} of {len} bytes"),
                )),
                Err(error) => Err(error),
            };
            (outcome, buffer)
        })
    }

    fn read_at(&self, offset: u64, len: usize) -> LocalFuture<'_, io::Result<Vec<u8>>> {
        Box::pin(async move {
            let mut bytes = Vec::with_capacity(len);
            while bytes.len() < len {
                let at = offset + bytes.len() as u64;
                if self.peek.get() {
                    match read_cached(self.file.as_raw_fd(), at, len, &mut bytes) {
                        Ok(0) => break,
                        Ok(_) => continue,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            self.cold.set(COLD);
                        }
                        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                            self.peek.set(false);
                        }
                        Err(error) => return Err(error),
                    }
                }
                let _operation = begin_operation();
                let part = self.file.read_at(at, len - bytes.len()).await.map_err(plain)?;
                if part.is_empty() {
                    break;
                }
                bytes.extend_from_slice(&part);
            }
            Ok(bytes)
        })
    }

    /// On a helper thread: the kernel may wait for the file's map of blocks.
    fn read_ahead(&self, offset: u64, len: u64) {
        let Some(left) = self.cold.get().checked_sub(1) else { return };
        self.cold.set(left);
        // SAFETY: the file is open as long as `self` is there.
        let descriptor = unsafe { BorrowedFd::borrow_raw(self.file.as_raw_fd()) };
        let Ok(file) = descriptor.try_clone_to_owned() else { return };
        helpers::begin_call(move || {
            for start in (offset..offset.saturating_add(len)).step_by(FETCH as usize) {
                let (start, advice) =
                    (start as libc::off_t, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
                // A mere hint.
                let _ = posix_fadvise(&file, start, FETCH as libc::off_t, advice);
            }
        });
    }

    /// A file created here was opened with O_DSYNC: appended data is already durable (one trip to
    /// an io_uring worker thread for a batch instead of two).
    ///
    /// For a file found at start, its cached pages are dropped too: after a sync that failed in an
    /// earlier life they may be marked clean although the disk holds something else.
    fn sync(&self) -> LocalFuture<'_, io::Result<()>> {
        if !self.found {
            // A zero-sized future, whose box allocates nothing.
            return Box::pin(poll_fn(|_| Poll::Ready(Ok(()))));
        }
        Box::pin(async move {
            let _operation = begin_operation();
            self.file.fdatasync().await.map_err(plain)?;
            forget_cache(self.file.as_raw_fd())
        })
    }

    /// Does not wait: the inode of an open file is in memory.
    fn len(&self) -> LocalFuture<'_, io::Result<u64>> {
        Box::pin(async move {
            // SAFETY: the file is open as long as `self` is there.
            let descriptor = unsafe { BorrowedFd::borrow_raw(self.file.as_raw_fd()) };
            let about = nix::sys::stat::fstat(descriptor)?;
            u64::try_from(about.st_size).map_err(io::Error::other)
        })
    }
}

impl DiskFile {
    fn new(file: BufferedFile, found: bool) -> DiskFile {
        DiskFile { file, found, peek: Cell::new(true), cold: Cell::new(0) }
    }

    /// Writes through the shard's own ring. If there is none or it is full, glommio's ring is used,
    /// which keeps the buffer: then an empty one is returned.
    async fn write_at(&self, offset: u64, bytes: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        // SAFETY: the file is open as long as `self` is there.
        let descriptor = unsafe { BorrowedFd::borrow_raw(self.file.as_raw_fd()) };
        let bytes = match ShardResources::current().write_ring() {
            Some(ring) => match ring.write(descriptor, offset, bytes) {
                Ok(writing) => return writing.await,
                Err(bytes) => bytes,
            },
            None => bytes,
        };
        let _operation = begin_operation();
        (self.file.write_at(bytes, offset).await.map_err(plain), Vec::new())
    }
}

/// The error as people read it, with the name of its file, but without the names of calls.
fn plain(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::EnhancedIoError { source, path, .. } => {
            match path.as_deref().and_then(Path::file_name) {
                Some(name) => named(&name.to_string_lossy(), &source),
                None => source,
            }
        }
        other => other.into(),
    }
}

fn named(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

/// Reserves `len` bytes for the file `path`, which may already exist.
fn allocate(path: &Path, len: u64) -> io::Result<()> {
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(FILE_MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let len = i64::try_from(len).map_err(io::Error::other)?;
    let taken = nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, len);
    taken.map_err(io::Error::from)
}

/// Reads from the page cache at `offset`, appending to `bytes` up to `len` bytes in all. Never
/// waits for the disk: it returns `WouldBlock` instead. `Ok(0)` is the end of the file.
fn read_cached(fd: RawFd, offset: u64, len: usize, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let wanted = len - bytes.len();
    bytes.reserve(wanted);
    let room = bytes.spare_capacity_mut();
    let vector = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: wanted };
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: `vector` is the spare capacity of `bytes`, which lives until after the call.
    let read = unsafe { libc::preadv2(fd, &raw const vector, 1, offset, libc::RWF_NOWAIT) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has written `read` bytes, at most the spare capacity, behind `len()`.
    unsafe { bytes.set_len(bytes.len() + read) };
    Ok(read)
}

/// Drops the file's clean pages, so that the next read asks the disk.
fn forget_cache(fd: RawFd) -> io::Result<()> {
    // SAFETY: no memory is passed; a bad descriptor is an error, not a fault.
    match unsafe { libc::posix_fadvise(fd, 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use glommio::LocalExecutorBuilder;

    use super::*;

    /// Runs `test` on a shard of its own with an empty folder.
    fn check<F: Future<Output = ()> + 'static>(test: impl FnOnce(FileDevice) -> F + 'static) {
        let folder = tempfile::tempdir().unwrap();
        let executor = LocalExecutorBuilder::default().make().unwrap();
        executor.run(async move {
            test(FileDevice::new(folder.path())).await;
            folder.close().unwrap();
        });
    }

    #[test]
    fn files_keep_what_is_appended() {
        check(|device| async move {
            let file = device.create("one", 1 << 20).await.unwrap();
            assert!(device.create("one", 0).await.is_err());
            for block in 0..5u8 {
                let (outcome, _) = file.append(u64::from(block) * 4096, vec![block; 4096]).await;
                outcome.unwrap();
            }
            file.sync().await.unwrap();
            device.sync_directory().await.unwrap();

            let found = device.open("one").await.unwrap();
            found.sync().await.unwrap();
            for file in [file, found] {
                assert_eq!(file.len().await.unwrap(), 5 * 4096);
                let bytes = file.read_at(4095, 4098).await.unwrap();
                assert_eq!((bytes.len(), bytes[0], bytes[1], bytes[4097]), (4098, 0, 1, 2));
                file.read_ahead(4096, 100 << 20);
                assert_eq!(file.read_at(5 * 4096 - 1, 100).await.unwrap(), [4]);
                assert!(file.read_at(1 << 30, 100).await.unwrap().is_empty());
            }
            assert_eq!(device.list().await.unwrap(), ["one"]);
            let large = 5 << 19;
            device.reserve("two", large).await.unwrap();
            device.reserve("two", large).await.unwrap();
            assert_eq!(device.open("two").await.unwrap().len().await.unwrap(), large);
            device.delete("two").await.unwrap();
            assert!(device.free_space().await.unwrap() > Some(0));
            device.delete("one").await.unwrap();
            assert_eq!(device.list().await.unwrap(), Vec::<String>::new());
            let error = device.open("one").await.err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            assert_eq!(error.to_string(), "one: No such file or directory (os error 2)");
        });
    }
}
