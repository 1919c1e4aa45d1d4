//! An in-memory connection for tests: the test holds one end and plays the client, the server
//! holds the other as a `Connection`. Works on every executor, and both ends may change threads.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// The client's end, in the hands of the test.
pub struct MemoryPeer {
    pipe: Arc<Mutex<Pipe>>,
}

/// The server's end, inside a `Connection`.
pub(super) struct MemoryEnd {
    pipe: Arc<Mutex<Pipe>>,
}

#[derive(Default)]
struct Pipe {
    to_server: VecDeque<Vec<u8>>,
    to_client: Vec<u8>,
    client_closed: bool,
    server_closed: bool,
    /// The next wait of the server fails as if its deadline had passed.
    expired: bool,
    server_waker: Option<Waker>,
    client_waker: Option<Waker>,
}

/// A fresh pipe.
pub(super) fn pipe() -> (MemoryEnd, MemoryPeer) {
    let pipe = Arc::new(Mutex::new(Pipe::default()));
    (MemoryEnd { pipe: pipe.clone() }, MemoryPeer { pipe })
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changes the pipe, then wakes one side, without the lock held.
fn change(pipe: &Mutex<Pipe>, change: impl FnOnce(&mut Pipe) -> Option<Waker>) {
    let waker = change(&mut lock(pipe));
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl MemoryPeer {
    /// Sends one chunk: the server receives it by one read (if it is at most 64 KiB).
    pub fn send(&self, chunk: &[u8]) {
        change(&self.pipe, |pipe| {
            if !chunk.is_empty() {
                pipe.to_server.push_back(chunk.to_vec());
            }
            pipe.server_waker.take()
        });
    }

    /// Takes the server's output so far.
    pub fn take_output(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.pipe).to_client)
    }

    /// Waits until the server sent something or closed; empty at the end.
    pub async fn receive(&self) -> Vec<u8> {
        std::future::poll_fn(|context| {
            let mut pipe = lock(&self.pipe);
            if pipe.to_client.is_empty() && !pipe.server_closed {
                pipe.client_waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(std::mem::take(&mut pipe.to_client))
        })
        .await
    }

    /// Ends the client's half: the server sees end of stream after what was sent.
    pub fn close(&self) {
        change(&self.pipe, |pipe| {
            pipe.client_closed = true;
            pipe.server_waker.take()
        });
    }

    /// Makes the server's current or next wait time out.
    pub fn expire(&self) {
        change(&self.pipe, |pipe| {
            pipe.expired = true;
            pipe.server_waker.take()
        });
    }

    /// True once the server closed its end.
    pub fn is_closed(&self) -> bool {
        lock(&self.pipe).server_closed
    }
}

impl Drop for MemoryPeer {
    fn drop(&mut self) {
        self.close();
    }
}

impl MemoryEnd {
    /// Like a socket's recv: 0 at the end of the stream.
    pub(super) fn poll_receive(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.pipe);
        let Some(chunk) = pipe.to_server.front_mut() else {
            if pipe.client_closed {
                return Poll::Ready(Ok(0));
            }
            if std::mem::take(&mut pipe.expired) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            pipe.server_waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        let count = chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&chunk[..count]);
        chunk.drain(..count);
        if chunk.is_empty() {
            pipe.to_server.pop_front();
        }
        Poll::Ready(Ok(count))
    }

    /// Never waits: output that the client does not take stays in memory.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut result = Ok(bytes.len());
        change(&self.pipe, |pipe| {
            if Arc::strong_count(&self.pipe) == 1 {
                result = Err(io::ErrorKind::BrokenPipe.into());
                return None;
            }
            pipe.to_client.extend_from_slice(bytes);
            pipe.client_waker.take()
        });
        result
    }

    pub(super) fn close(&self) {
        change(&self.pipe, |pipe| {
            pipe.server_closed = true;
            pipe.client_waker.take()
        });
    }
}

impl Drop for MemoryEnd {
    fn drop(&mut self) {
        self.close();
    }
}
