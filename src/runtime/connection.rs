//! One client connection: a socket with or without layers (TLS), or an in-memory pipe in tests.
//!
//! The shape of every session loop: look at `input()`, let the protocol parse it, `consume()` what
//! it parsed, append replies to `output()`; when nothing more can be parsed, `flush()` once, then
//! `fill()`. All pipelined commands are answered by one write.
//!
//! Invariants:
//! - Idle (nothing in `input` or `output`) a connection holds no buffer, TLS or not; while it waits
//!   with data in them, it holds buffers of that size, and may have to give way (`budget`).
//! - Both `fill` and `flush` keep their progress in the connection, so dropping their futures
//!   loses nothing.
//! - Output of the layers themselves (`sealed`) is sent before anything else and before waiting to
//!   read.
//!
//! Ownership: shard-local. `detach` makes it `Send`, `attach` makes it another shard's.
//!
//! Here are the state of a connection, its making and its waits. `input`, `output`, `tls`,
//! `deflate`, `handover` and `close` have what their names say; `seat` counts it in its shard.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod close;
mod deflate;
mod handover;
mod input;
mod output;
mod seat;
mod tls;

#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

pub use handover::DetachedConnection;
use seat::Seat;
pub use tls::TlsMode;

use super::{
    clients::Visit,
    layers::Layers,
    pipe::{self, MemoryPeer},
    resources::{PooledBuffer, SCRATCH_SIZE, ShardResources},
    timer::Timer,
    tls::TlsContext,
    transport::{MEMORY_ADDRESS, Transport},
};
use crate::model::{MailClass, Trail};

/// Consecutive fills and flushes that need not wait; then the session yields, so that a client
/// faster than us does not keep the core (1 MiB at most between two yields).
const EAGER_MAX: u8 = 16;

/// Why a connection can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("timed out")]
    TimedOut,
    #[error("connection closed by the peer")]
    Closed,
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Io(io::Error),
    /// The shard's memory budget is spent, and this connection must give way; the session says so
    /// in its protocol and closes.
    #[error("out of buffer memory")]
    NoMemory,
    /// The server is shutting down.
    #[error("shutting down")]
    ShuttingDown,
}

impl ConnectionError {
    /// Why the peer's certificate does not count, if that is what ended the handshake.
    pub fn refused_certificate(&self) -> Option<String> {
        match self {
            ConnectionError::Tls(rustls::Error::InvalidCertificate(why)) => Some(why.to_string()),
            _ => None,
        }
    }
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => ConnectionError::TimedOut,
            _ => ConnectionError::Io(error),
        }
    }
}

/// A connection on its shard. Idle (nothing in `input` or `output`) it holds no buffer.
pub struct Connection {
    transport: Transport,
    peer: SocketAddr,
    /// Empty if the connection is plain.
    layers: Layers,
    /// For `start_tls`; `None` if TLS is off or already on.
    upgrade: Option<Arc<TlsContext>>,
    /// Plaintext received; the first `consumed` bytes are processed.
    input: PooledBuffer,
    consumed: usize,
    /// Plaintext to send; the first `taken` bytes are sent or sealed already.
    output: PooledBuffer,
    taken: usize,
    /// Ciphertext to send; the first `sealed_sent` bytes are sent.
    sealed: PooledBuffer,
    sealed_sent: usize,
    is_deflated: bool,
    /// The peer sent its last byte.
    ended: bool,
    /// Sending failed; nothing more is sent.
    broken: bool,
    /// Whether a shutdown may end a waiting `fill`.
    interruptible: bool,
    /// The peer may still be sending when `close` is called.
    lingering: bool,
    /// Most bytes received by one call.
    read_max: u32,
    /// Consecutive fills and flushes that did not wait.
    eager: u8,
    /// Reads in the present wait, since it last yielded, that made no progress.
    fruitless: u8,
    timer: Timer,
    /// The session was told `NoMemory`: its last reply must not fail for the same reason.
    gave_way: bool,
    /// Its place in the client's counts, if these are limited.
    visit: Option<Box<Visit>>,
    /// The trail of its events.
    trail: Trail,
    seat: Seat,
}

impl Connection {
    /// Takes over a connected, non-blocking socket on this shard. With implicit TLS the handshake
    /// happens in the first `fill` or `flush`, or in `handshake`.
    pub fn accept(
        socket: OwnedFd,
        peer: SocketAddr,
        tls: &TlsMode,
    ) -> Result<Connection, ConnectionError> {
        let mut connection = Self::new(Transport::tcp(socket), peer);
        connection.set_tls_mode(tls)?;
        Ok(connection)
    }

    /// Takes over a socket that is being connected to `peer`. Call `finish_connecting` next.
    pub(super) fn outgoing(socket: OwnedFd, peer: SocketAddr) -> Connection {
        let mut connection = Self::new(Transport::tcp(socket), peer);
        // Work that was promised to a client that is gone: strangers give way before it.
        connection.set_logged_in(true);
        connection
    }

    /// Waits until the socket is connected.
    pub(super) async fn finish_connecting(
        &mut self,
        timeout: Duration,
    ) -> Result<(), ConnectionError> {
        let mut asked = false;
        let connected = |this: &mut Self, context: &mut Context<'_>| {
            let connected = ready!(this.transport.poll_connected(context, &mut asked));
            Poll::Ready(connected.map_err(ConnectionError::from))
        };
        self.wait(timeout, connected).await
    }

    /// A connection over memory, and the client's end of it, for tests.
    pub fn memory() -> (Connection, MemoryPeer) {
        let (end, peer) = pipe::pipe();
        (Self::new(Transport::Memory(end), MEMORY_ADDRESS), peer)
    }

    /// Like `memory`, with TLS as `tls` says; the test speaks TLS over its end.
    pub fn memory_tls(tls: &TlsMode) -> Result<(Connection, MemoryPeer), ConnectionError> {
        let (mut connection, peer) = Self::memory();
        connection.set_tls_mode(tls)?;
        Ok((connection, peer))
    }

    fn new(transport: Transport, peer: SocketAddr) -> Connection {
        let resources = ShardResources::current();
        let seat = Seat::take(&resources);
        Connection {
            transport,
            peer,
            layers: Layers::default(),
            upgrade: None,
            input: seat.buffer(),
            consumed: 0,
            output: seat.buffer(),
            taken: 0,
            sealed: seat.buffer(),
            sealed_sent: 0,
            is_deflated: false,
            ended: false,
            broken: false,
            interruptible: true,
            lingering: false,
            read_max: SCRATCH_SIZE as u32,
            eager: 0,
            fruitless: 0,
            timer: Timer::new(resources.timers()),
            gave_way: false,
            visit: None,
            trail: Trail::default(),
            seat,
        }
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// From now on this is the peer: a trusted one named the client that it acts for. Its counts
    /// stay those of the client that connected.
    pub fn set_peer(&mut self, peer: SocketAddr) {
        self.peer = peer;
    }

    pub fn local(&self) -> SocketAddr {
        self.transport.local()
    }

    /// The class under which it counts in the shard's connections; until then it is local.
    pub(super) fn set_class(&mut self, class: MailClass) {
        self.seat.set_class(class);
    }

    /// Sets whether the client is logged in: at the shard's limits others give way first. A
    /// handover keeps it.
    pub fn set_logged_in(&mut self, logged_in: bool) {
        if let Some(visit) = &mut self.visit {
            visit.set_logged_in(logged_in);
        }
        self.seat.resources.buffers().set_logged_in(self.seat.holder, logged_in);
    }

    /// Keeps the client's counts for as long as the connection lives, on any shard.
    pub fn set_visit(&mut self, visit: Option<Visit>) {
        self.visit = visit.map(Box::new);
    }

    /// Sets the connection's trail, which a handover keeps.
    pub fn set_trail(&mut self, trail: Trail) {
        self.trail = trail;
    }

    pub fn trail(&self) -> Trail {
        self.trail
    }

    /// True once the server wants sessions to end; `fill` then fails with `ShuttingDown`.
    pub fn shutting_down(&self) -> bool {
        self.seat.resources.shutting_down()
    }

    /// Runs `poll` until it is ready or `timeout` has passed. The timer is armed only if there is
    /// something to wait for.
    async fn wait(
        &mut self,
        timeout: Duration,
        mut poll: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<Result<(), ConnectionError>>,
    ) -> Result<(), ConnectionError> {
        let mut armed = false;
        // A dropped wait may have left this set.
        self.seat.resources.buffers().waited(self.seat.holder);
        self.fruitless = 0;
        let result = poll_fn(|context| {
            self.stay()?;
            if let Poll::Ready(result) = poll(self, context) {
                return Poll::Ready(result);
            }
            if !armed {
                self.fit_buffers()?;
                self.timer.arm(timeout);
                armed = true;
            }
            self.seat.resources.buffers().wait(self.seat.holder, context.waker());
            if self.timer.poll_passed(context) {
                return Poll::Ready(Err(ConnectionError::TimedOut));
            }
            Poll::Pending
        })
        .await;
        if matches!(result, Err(ConnectionError::NoMemory)) {
            self.give_way();
        }
        if armed {
            self.seat.resources.buffers().waited(self.seat.holder);
            self.timer.disarm();
            self.eager = 0;
        } else if self.eager < EAGER_MAX {
            self.eager += 1;
        } else {
            self.eager = 0;
            // All progress is in `self`: nothing is lost if this wait is dropped.
            futures_lite::future::yield_now().await;
        }
        result
    }

    /// `NoMemory` if this connection was told to give way and its session does not know yet.
    fn stay(&self) -> Result<(), ConnectionError> {
        if !self.gave_way && self.seat.resources.buffers().is_leaving(self.seat.holder) {
            return Err(ConnectionError::NoMemory);
        }
        Ok(())
    }

    /// Before a wait: shrinks the buffers to their contents, and counts them.
    fn fit_buffers(&mut self) -> Result<(), ConnectionError> {
        self.compact_input();
        self.input.fit();
        self.layers.fit();
        self.output.recount();
        self.sealed.recount();
        if self.gave_way { Ok(()) } else { self.seat.settle() }
    }

    /// Drops received data that will not be read any more.
    fn give_way(&mut self) {
        self.gave_way = true;
        self.consumed = 0;
        self.input.discard();
        // `sealed` stays: rustls relies on it for as long as it has anything to seal, and the
        // session's last reply will be sealed. It is at most `Layer::kept_max`.
    }
}
