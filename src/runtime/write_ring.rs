//! Appends to files through a ring of the shard's own, whose completions the shard's epoll set
//! reports.
//!
//! glommio's ring would work as well, but every write then needs a turn of its reactor to start and
//! another to be noticed: nine system calls a commit. Here a write is one call, made at once, and
//! its completion is read from memory. The buffer is returned and reused, which saves page faults.
//!
//! Invariant: a buffer stays with the ring until the kernel is done with it, whether or not a task
//! still waits. If the ring is dropped before that, the buffer is leaked.
//!
//! Ownership: shard-local. `readiness` holds it and calls [`WriteRing::reap`]; `device/file.rs`
//! writes.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    rc::Rc,
    task::{Poll, Waker},
};

use io_uring::{IoUring, opcode, types};
use slab::Slab;

/// Writes in progress at once; a further one is refused. A partition has one or two.
const WRITES_MAX: u32 = 64;

/// A shard's ring.
pub(super) struct WriteRing {
    ring: RefCell<IoUring>,
    /// The ring's descriptor.
    descriptor: OwnedFd,
    writes: RefCell<Slab<Write>>,
}

/// A write in progress in the kernel.
struct Write {
    bytes: Vec<u8>,
    /// The kernel is done with it.
    done: bool,
    outcome: Option<io::Result<usize>>,
    waker: Option<Waker>,
    /// No task waits for it any more.
    forsaken: bool,
}

/// A place in the ring, held by the waiting task.
struct Place {
    ring: Rc<WriteRing>,
    key: usize,
}

impl WriteRing {
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn new() -> io::Result<WriteRing> {
        let ring = IoUring::new(WRITES_MAX)?;
        // SAFETY: the ring owns an open descriptor.
        let descriptor =
            unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.try_clone_to_owned()?;
        Ok(WriteRing { ring: RefCell::new(ring), descriptor, writes: RefCell::default() })
    }

    /// Starts writing `bytes` at `offset`. The future returns the number of bytes written, which
    /// may be lower, and the buffer.
    ///
    /// # Errors
    /// The buffer, if the ring is full or refuses; nothing was written.
    pub(super) fn write(
        self: &Rc<Self>,
        file: BorrowedFd<'_>,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<impl Future<Output = (io::Result<usize>, Vec<u8>)> + use<>, Vec<u8>> {
        let Ok(len) = u32::try_from(bytes.len()) else { return Err(bytes) };
        let mut writes = self.writes.borrow_mut();
        if writes.len() >= WRITES_MAX as usize {
            return Err(bytes);
        }
        let address = bytes.as_ptr();
        let key = writes.insert(Write {
            bytes,
            done: false,
            outcome: None,
            waker: None,
            forsaken: false,
        });
        let write = opcode::Write::new(types::Fd(file.as_raw_fd()), address, len).offset(offset);
        let mut ring = self.ring.borrow_mut();
        let entry = write.build().user_data(key as u64);
        // SAFETY: the buffer's memory stays in place and unchanged until the completion is reaped:
        // `Write` is neither used nor dropped before.
        if unsafe { ring.submission().push(&entry) }.is_err() {
            return Err(writes.remove(key).bytes);
        }
        drop((ring, writes));
        let place = Place { ring: self.clone(), key };
        self.submit();
        Ok(async move { poll_fn(|context| place.poll(context.waker())).await })
    }

    /// Submits the queue to the kernel; false if it takes it later (out of memory, interrupted).
    fn submit(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        ring.submission().is_empty() || (ring.submit().is_ok() && ring.submission().is_empty())
    }

    /// Whether a write is with the kernel.
    pub(super) fn is_busy(&self) -> bool {
        !self.writes.borrow().is_empty()
    }

    /// Wakes the tasks whose writes are done.
    pub(super) fn reap(&self) {
        loop {
            let Some(completion) = self.ring.borrow_mut().completion().next() else { return };
            let key = completion.user_data() as usize;
            let result = completion.result();
            let mut writes = self.writes.borrow_mut();
            let Some(write) = writes.get_mut(key) else { continue };
            if write.forsaken {
                drop(writes.remove(key));
                continue;
            }
            write.done = true;
            write.outcome = Some(match usize::try_from(result) {
                Ok(written) => Ok(written),
                Err(_) => Err(io::Error::from_raw_os_error(-result)),
            });
            let waker = write.waker.take();
            drop(writes);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Place {
    fn poll(&self, waker: &Waker) -> Poll<(io::Result<usize>, Vec<u8>)> {
        let mut writes = self.ring.writes.borrow_mut();
        let Some(write) = writes.get_mut(self.key) else { return Poll::Pending };
        match write.outcome.take() {
            Some(outcome) => Poll::Ready((outcome, std::mem::take(&mut write.bytes))),
            None => {
                write.waker = Some(waker.clone());
                drop(writes);
                if !self.ring.submit() {
                    waker.wake_by_ref();
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut writes = self.ring.writes.borrow_mut();
        match writes.get_mut(self.key) {
            Some(write) if !write.done => write.forsaken = true,
            Some(_) => drop(writes.remove(self.key)),
            None => {}
        }
    }
}

impl AsFd for WriteRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for WriteRing {
    fn drop(&mut self) {
        // The kernel may still be reading buffers of abandoned writes.
        let writes = self.writes.take();
        if !writes.is_empty() {
            std::mem::forget(writes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::AsFd};

    use futures_lite::future::{block_on, poll_once, yield_now};

    use super::*;

    /// Waits for the ring as a shard would.
    fn wait(ring: &WriteRing) {
        let wanted = nix::poll::PollFlags::POLLIN;
        let mut polled = [nix::poll::PollFd::new(ring.as_fd(), wanted)];
        nix::poll::poll(&mut polled, nix::poll::PollTimeout::NONE).unwrap();
        ring.reap();
    }

    fn finish<T>(ring: &WriteRing, future: impl Future<Output = T>) -> T {
        block_on(futures_lite::future::or(future, async {
            loop {
                wait(ring);
                yield_now().await;
            }
        }))
    }

    #[test]
    fn writes_land_and_buffers_come_back() {
        let ring = Rc::new(WriteRing::new().unwrap());
        let mut file = tempfile::tempfile().unwrap();
        let first = ring.write(file.as_fd(), 0, b"first".to_vec()).ok().unwrap();
        let second = ring.write(file.as_fd(), 5, b" second".to_vec()).ok().unwrap();
        let (first, second) = finish(&ring, futures_lite::future::zip(first, second));
        assert_eq!((first.0.unwrap(), &first.1[..]), (5, &b"first"[..]));
        assert_eq!((second.0.unwrap(), &second.1[..]), (7, &b" second"[..]));
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first second");
        assert!(ring.writes.borrow().is_empty());
    }

    #[test]
    fn a_write_that_fails_says_why() {
        let ring = Rc::new(WriteRing::new().unwrap());
        let unwritable = std::fs::File::open("/dev/null").unwrap();
        let write = ring.write(unwritable.as_fd(), 0, b"lost".to_vec()).ok().unwrap();
        let (outcome, _) = finish(&ring, write);
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    /// Writes to a full pipe, so that they wait until it is read.
    #[test]
    fn a_full_ring_gives_the_buffer_back_and_what_nobody_waits_for_is_kept_until_it_is_done() {
        let ring = Rc::new(WriteRing::new().unwrap());
        let (mut reader, writer) = std::io::pipe().unwrap();
        let block = vec![b'x'; 1 << 16];
        let write = || ring.write(writer.as_fd(), u64::MAX, block.clone());
        let mut writes: Vec<_> = (0..WRITES_MAX).map(|_| write().ok().unwrap()).collect();
        assert_eq!(write().err().as_ref(), Some(&block));
        let mut last = Box::pin(writes.pop().unwrap());
        assert!(block_on(poll_once(&mut last)).is_none());
        drop(writes);
        assert_eq!(ring.writes.borrow().len(), WRITES_MAX as usize);
        let mut rest = block.len() * WRITES_MAX as usize;
        let mut buffer = vec![0; 1 << 16];
        while rest > 0 {
            rest -= reader.read(&mut buffer).unwrap();
        }
        while ring.writes.borrow().len() > 1 {
            wait(&ring);
        }
        assert_eq!(finish(&ring, last).0.unwrap(), block.len());
        assert!(ring.writes.borrow().is_empty());
    }
}
