//! What a connection's bytes travel on: a TCP socket on this shard's io_uring, or a test's pipe.

use std::{
    io,
    mem::ManuallyDrop,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
};

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use socket2::SockRef;

use super::pipe::MemoryEnd;

/// The address of both ends of a memory pipe, and of a socket that has lost its own.
pub(super) const MEMORY_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(super) enum Transport {
    /// glommio tries a plain non-blocking recv or send first and asks io_uring for readiness only
    /// when that would block; a pending read holds no buffer.
    Tcp(TcpStream),
    Memory(MemoryEnd),
}

/// A transport that belongs to no shard.
pub(super) enum DetachedTransport {
    Tcp(OwnedFd),
    Memory(MemoryEnd),
}

impl Transport {
    /// Takes over a connected, non-blocking socket.
    pub fn tcp(socket: OwnedFd) -> Transport {
        // SAFETY: `socket` owns an open descriptor and gives it up here.
        Transport::Tcp(unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) })
    }

    pub fn attach(detached: DetachedTransport) -> Transport {
        match detached {
            DetachedTransport::Tcp(socket) => Transport::tcp(socket),
            DetachedTransport::Memory(end) => Transport::Memory(end),
        }
    }

    /// Frees the socket from this shard. The stream's own descriptor cannot be taken from it, so
    /// it is duplicated; the stream's pending poll is cancelled with the stream.
    pub fn detach(self) -> DetachedTransport {
        let stream = match self {
            Transport::Memory(end) => return DetachedTransport::Memory(end),
            Transport::Tcp(stream) => stream,
        };
        let descriptor = stream.as_raw_fd();
        // SAFETY: the stream keeps its descriptor open for the length of this borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
        match borrowed.try_clone_to_owned() {
            Ok(duplicate) => DetachedTransport::Tcp(duplicate),
            Err(_) => {
                // Out of descriptors. Rather than lose the connection, leave the stream's
                // book-keeping behind for good and take its descriptor.
                let stream = ManuallyDrop::new(stream);
                // SAFETY: the stream is never dropped, so nobody else closes the descriptor.
                DetachedTransport::Tcp(unsafe { OwnedFd::from_raw_fd(stream.as_raw_fd()) })
            }
        }
    }

    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Memory(end) => end.poll_receive(context, buffer),
        }
    }

    pub fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Memory(end) => Poll::Ready(end.send(bytes)),
        }
    }

    /// Acknowledges what was received now, not with our next reply or after 40 ms.
    pub fn acknowledge(&self) {
        if let Transport::Tcp(stream) = self {
            // SAFETY: the stream keeps its descriptor open for the length of this borrow.
            let borrowed = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
            // Without it the peer only waits longer.
            let _ = SockRef::from(&borrowed).set_tcp_quickack(true);
        }
    }

    /// Ends our half of the stream (FIN).
    pub fn shut_down_sending(&mut self, context: &mut Context<'_>) {
        match self {
            Transport::Tcp(stream) => {
                let _ = Pin::new(stream).poll_close(context);
            }
            Transport::Memory(end) => end.close(),
        }
    }

    pub fn local(&self) -> SocketAddr {
        match self {
            Transport::Tcp(stream) => stream.local_addr().unwrap_or(MEMORY_ADDRESS),
            Transport::Memory(_) => MEMORY_ADDRESS,
        }
    }
}
