//! The transport of a connection's bytes: a socket of this shard, by TCP or to a path of this host,
//! or a test's pipe.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    os::fd::{AsFd, OwnedFd},
    task::{Context, Poll, ready},
};

use socket2::SockRef;

use super::{pipe::MemoryEnd, readiness::Watched, resources::ShardResources};

/// The address of both ends of a memory pipe, and of a socket whose address is unknown or that has
/// none, as one with a path.
pub(super) const MEMORY_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(super) enum Transport {
    Tcp(Socket),
    Memory(MemoryEnd),
}

/// A non-blocking socket: recv or send is tried at once, and waits only if that would block. A
/// pending read holds no buffer.
pub(super) struct Socket {
    // Before the stream: the descriptor must not be reused while it is watched.
    watched: Watched,
    stream: TcpStream,
}

/// A transport that belongs to no shard.
pub(super) enum DetachedTransport {
    Tcp(OwnedFd),
    Memory(MemoryEnd),
}

impl Transport {
    /// Takes over a connected, non-blocking socket. Only on a shard.
    pub(super) fn tcp(socket: OwnedFd) -> Transport {
        let watched = ShardResources::current().readiness().watch(socket.as_fd());
        Transport::Tcp(Socket { watched, stream: socket.into() })
    }

    pub(super) fn attach(detached: DetachedTransport) -> Transport {
        match detached {
            DetachedTransport::Tcp(socket) => Transport::tcp(socket),
            DetachedTransport::Memory(end) => Transport::Memory(end),
        }
    }

    /// Frees the socket from this shard.
    pub(super) fn detach(self) -> DetachedTransport {
        match self {
            Transport::Memory(end) => DetachedTransport::Memory(end),
            Transport::Tcp(Socket { watched, stream }) => {
                watched.release(stream.as_fd());
                DetachedTransport::Tcp(stream.into())
            }
        }
    }

    pub(super) fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Transport::Tcp(socket) => socket.poll_receive(context, buffer),
            Transport::Memory(end) => end.poll_receive(context, buffer),
        }
    }

    pub(super) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Transport::Tcp(socket) => socket.poll_send(context, bytes),
            Transport::Memory(end) => Poll::Ready(end.send(bytes)),
        }
    }

    /// Ready once a socket that is being connected is connected, or has failed. `asked`: whether
    /// it was asked for before.
    pub(super) fn poll_connected(
        &mut self,
        context: &mut Context<'_>,
        asked: &mut bool,
    ) -> Poll<io::Result<()>> {
        let Transport::Tcp(Socket { watched, stream }) = self else { return Poll::Ready(Ok(())) };
        if !std::mem::replace(asked, true) {
            // Until it is connected there is no room for a write, and the first event reports room.
            watched.full(stream.as_fd())?;
        }
        ready!(watched.poll_writable(context));
        Poll::Ready(stream.take_error()?.map_or(Ok(()), Err))
    }

    /// Acknowledges received data now, instead of with our next reply or after 40 ms.
    pub(super) fn acknowledge(&self) {
        if let Transport::Tcp(socket) = self {
            // If it fails, the peer only waits longer.
            let _ = SockRef::from(&socket.stream).set_tcp_quickack(true);
        }
    }

    /// Ends our half of the stream (FIN).
    pub(super) fn shut_down_sending(&mut self) {
        match self {
            Transport::Tcp(socket) => {
                let _ = socket.stream.shutdown(Shutdown::Write);
            }
            Transport::Memory(end) => end.close(),
        }
    }

    pub(super) fn local(&self) -> SocketAddr {
        match self {
            Transport::Tcp(socket) => socket.stream.local_addr().unwrap_or(MEMORY_ADDRESS),
            Transport::Memory(_) => MEMORY_ADDRESS,
        }
    }
}

impl Socket {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.watched.poll_readable(context));
            match self.stream.read(buffer) {
                Ok(count) => {
                    // More may have come since, and is reported by a new event.
                    if count < buffer.len() {
                        self.watched.drained();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.watched.empty()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.watched.poll_writable(context));
            match self.stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watched.full(self.stream.as_fd())?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}
