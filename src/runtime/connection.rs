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

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{
    budget::{GivesWay, HolderId},
    clients::Visit,
    layers::{DetachedLayers, Layers},
    pipe::{self, MemoryPeer},
    resources::{PooledBuffer, SCRATCH_SIZE, ShardResources},
    timer::Timer,
    tls::TlsContext,
    tls_client::{ClientTls, TlsFacts},
    tls_session::TlsSession,
    transport::{DetachedTransport, MEMORY_ADDRESS, Transport},
};
use crate::model::{MailClass, Trail};

/// How long `close` may spend on the last reply.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// If the peer goes on sending after our last reply, we read for this long and this many octets:
/// closing with unread bytes would make the kernel reset the connection and could lose that reply.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Consecutive fills and flushes that need not wait; then the session yields, so that a client
/// faster than us does not keep the core (1 MiB at most between two yields).
const EAGER_MAX: u8 = 16;

/// Consecutive reads that bring no plaintext; then the session yields. Otherwise a peer that sends
/// key updates and empty records as fast as we open them would keep the core, and its deadline
/// would not be checked. 64 KiB of them take about 2 ms.
const FRUITLESS_READS_MAX: u8 = 2;

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

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => ConnectionError::TimedOut,
            _ => ConnectionError::Io(error),
        }
    }
}

/// How a listener's connections use TLS.
#[derive(Clone)]
pub enum TlsMode {
    /// Plain, for ever.
    Off,
    /// Plain at first; `start_tls` may follow (STARTTLS, STLS).
    Upgrade(Arc<TlsContext>),
    /// TLS from the first byte (the "s" ports).
    Implicit(Arc<TlsContext>),
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

/// Counts the connection in its shard, and holds its place in the buffer budget, until it is
/// dropped.
struct Seat {
    resources: Rc<ShardResources>,
    holder: HolderId,
    class: MailClass,
}

impl Seat {
    fn take(resources: &Rc<ShardResources>) -> Seat {
        let class = MailClass::Local;
        resources.connections().add(class, 1);
        Seat { resources: resources.clone(), holder: resources.buffers().enter(), class }
    }

    fn set_class(&mut self, class: MailClass) {
        self.resources.connections().remove(self.class, 1);
        self.resources.connections().add(class, 1);
        self.class = class;
    }

    fn buffer(&self) -> PooledBuffer {
        PooledBuffer::new(&self.resources, self.holder)
    }

    /// `NoMemory` if this connection must give way.
    fn settle(&self) -> Result<(), ConnectionError> {
        let settled = self.resources.buffers().settle(self.holder);
        settled.map_err(|GivesWay| ConnectionError::NoMemory)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.resources.buffers().leave(self.holder);
        self.resources.connections().remove(self.class, 1);
    }
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

    fn set_tls_mode(&mut self, tls: &TlsMode) -> Result<(), ConnectionError> {
        match tls {
            TlsMode::Off => {}
            TlsMode::Upgrade(context) => self.upgrade = Some(context.clone()),
            TlsMode::Implicit(context) => {
                self.begin_tls(context)?;
            }
        }
        Ok(())
    }

    /// For a connection that was accepted plain from a proxy, once the proxy's header is consumed:
    /// `client`, if it named one, is the peer from now on, and TLS is as `tls` says. With implicit
    /// TLS the octets behind the header belong to the handshake.
    pub async fn enter(
        &mut self,
        client: Option<SocketAddr>,
        tls: &TlsMode,
    ) -> Result<(), ConnectionError> {
        self.peer = client.unwrap_or(self.peer);
        self.set_tls_mode(tls)?;
        if self.layers.is_empty() || self.input().is_empty() {
            return Ok(());
        }
        let mut received = self.input().to_vec();
        self.consume(usize::MAX);
        let opened = self.layers.open(&mut received, &mut self.input, &mut self.sealed);
        if opened.is_err() {
            poll_fn(|context| {
                self.send_alert(context);
                Poll::Ready(())
            })
            .await;
        }
        opened
    }

    fn begin_tls(&mut self, context: &TlsContext) -> Result<(), ConnectionError> {
        let session = TlsSession::server(context.config())?;
        self.layers.push(Box::new(session), self.seat.buffer());
        Ok(())
    }

    /// Begins TLS on a connection that we made; what was received before is discarded. An
    /// error of the certificate can be classified: [`TlsFailure::of`].
    ///
    /// [`TlsFailure::of`]: super::tls_client::TlsFailure::of
    pub async fn start_tls_as_client(
        &mut self,
        tls: &ClientTls,
        timeout: Duration,
    ) -> Result<(), ConnectionError> {
        self.flush(timeout).await?;
        // RFC 3207 4.2: nothing that came in plain text counts any more.
        self.consume(usize::MAX);
        self.layers.push(Box::new(TlsSession::client(tls)?), self.seat.buffer());
        // We speak first.
        self.layers.open(&mut [], &mut self.input, &mut self.sealed)?;
        self.handshake(timeout).await
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

    pub fn is_tls(&self) -> bool {
        self.layers.are_private()
    }

    /// For the Received header, e.g. "TLSv1.3 TLS13_AES_256_GCM_SHA384"; `None` when plain.
    pub fn tls_description(&self) -> Option<String> {
        self.tls_facts().map(|facts| format!("{} {}", facts.version, facts.cipher))
    }

    /// Version, cipher and how the peer was verified; `None` when plain.
    pub fn tls_facts(&self) -> Option<TlsFacts> {
        self.layers.facts()
    }

    /// Bytes received (decrypted) and not yet consumed.
    pub fn input(&self) -> &[u8] {
        self.input.bytes().get(self.consumed..).unwrap_or_default()
    }

    /// Marks the first `count` bytes of `input()` as processed (all of them if it has fewer).
    pub fn consume(&mut self, count: usize) {
        self.consumed = self.consumed.saturating_add(count);
        if self.consumed >= self.input.bytes().len() && self.consumed > 0 {
            self.input.bytes_mut().clear();
            self.consumed = 0;
        }
    }

    /// From now on `fill` takes at most `octets` from the socket at a time (64 KiB at first):
    /// octets left in the socket cost the shard nothing.
    pub fn set_read_max(&mut self, octets: usize) {
        self.read_max = octets.clamp(1, SCRATCH_SIZE) as u32;
    }

    /// Waits for more input and appends it to `input()`; at most 64 KiB a call. The caller keeps
    /// `input()` bounded by consuming or giving up. `Err(Closed)` at end of stream. Cancel-safe.
    pub async fn fill(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        self.input.release_if_empty();
        self.wait(timeout, Self::poll_fill).await
    }

    /// While false, `fill` does not fail with `ShuttingDown`: for the middle of a command, such as
    /// message data, when `input()` may be empty. Initially true.
    pub fn set_interruptible(&mut self, interruptible: bool) {
        self.interruptible = interruptible;
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

    /// Acknowledges what the peer sent without waiting for a reply to carry it. For protocols whose
    /// clients write one message in two small pieces: with Nagle's algorithm on their side and
    /// delayed acknowledgements on ours, the second piece comes 40 ms late.
    pub fn acknowledge(&self) {
        self.transport.acknowledge();
    }

    /// Octets of replies not yet sent. Does not allocate a buffer.
    pub fn unsent(&self) -> usize {
        self.output.bytes().len()
    }

    /// Replies not yet sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.output.bytes_mut()
    }

    /// Sends all of `output()`. Call it whenever `output()` outgrows 64 KiB, so that a client that
    /// never reads costs one buffer. After its future was dropped, `output()` may only be appended
    /// to before the next `flush`.
    pub async fn flush(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        let result = self.wait(timeout, Self::poll_flush).await;
        self.broken |= result.is_err();
        result
    }

    /// Discards unread plaintext (RFC 3207 4.2: nothing is carried over), then does the TLS
    /// handshake.
    pub async fn start_tls(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        self.flush(timeout).await?;
        let Some(context) = self.upgrade.take() else {
            return Err(ConnectionError::Io(io::ErrorKind::Unsupported.into()));
        };
        self.consume(usize::MAX);
        self.begin_tls(&context)?;
        self.handshake(timeout).await
    }

    /// Finishes the TLS handshake if one is in progress.
    pub async fn handshake(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        self.wait(timeout, Self::poll_handshake).await
    }

    /// Whether STARTTLS or STLS can be offered: the connection is plain, and a certificate is
    /// configured.
    pub fn can_start_tls(&self) -> bool {
        self.upgrade.is_some()
    }

    /// True once the server wants sessions to end; `fill` then fails with `ShuttingDown`.
    pub fn shutting_down(&self) -> bool {
        self.seat.resources.shutting_down()
    }

    /// We end the session, not the peer. The peer may still be sending, so `close` has to read on
    /// for a while; otherwise its octets would arrive at a closed socket and reset the connection,
    /// losing our last reply.
    pub fn linger(&mut self) {
        self.lingering = true;
    }

    /// Flushes as much as it can, says goodbye (TLS close_notify) and closes.
    pub async fn close(mut self) {
        self.finish().await;
    }

    /// Like [`Connection::close`], for a caller that drops the connection next, which closes the
    /// socket: the future of a task that waits for a client then needs no room to move the
    /// connection.
    pub async fn finish(&mut self) {
        self.interruptible = false;
        if self.broken || !self.layers.are_settled() || self.flush(CLOSE_TIMEOUT).await.is_err() {
            return;
        }
        if !self.layers.is_empty()
            && self.layers.seal_end(&mut self.input, &mut self.sealed).is_ok()
        {
            let _ = self.wait(CLOSE_TIMEOUT, Self::poll_send_sealed).await;
        }
        if !self.ended {
            let mut discarded = 0;
            // A shutdown does not wait for it.
            self.lingering &= !self.shutting_down();
            if self.lingering {
                self.transport.shut_down_sending();
            }
            let linger = |this: &mut Self, context: &mut Context<'_>| {
                this.poll_linger(context, &mut discarded)
            };
            let _ = self.wait(LINGER_TIMEOUT, linger).await;
        }
    }

    /// Takes the connection apart for another shard. Only when `output()` is empty.
    pub fn detach(mut self) -> DetachedConnection {
        debug_assert_eq!(self.output.bytes().len(), self.taken, "detached with unsent output");
        self.compact_input();
        let mut sealed = self.sealed.into_vec();
        sealed.drain(..self.sealed_sent);
        DetachedConnection {
            transport: self.transport.detach(),
            peer: self.peer,
            layers: self.layers.detach(),
            upgrade: self.upgrade,
            input: self.input.into_vec(),
            sealed,
            ended: self.ended,
            broken: self.broken,
            interruptible: self.interruptible,
            visit: self.visit,
            trail: self.trail,
            logged_in: self.seat.resources.buffers().is_logged_in(self.seat.holder),
            class: self.seat.class,
        }
    }

    /// Makes a detached connection this shard's. It counts in the shard's connections, whose limit
    /// the caller has checked before (`ShardResources::connections_full`).
    pub fn attach(detached: DetachedConnection) -> Connection {
        let mut connection = Self::new(Transport::attach(detached.transport), detached.peer);
        connection.seat.set_class(detached.class);
        let Seat { resources, holder, .. } = &connection.seat;
        connection.input = PooledBuffer::from_vec(detached.input, resources, *holder);
        connection.layers = Layers::attach(detached.layers, resources, *holder);
        connection.sealed = PooledBuffer::from_vec(detached.sealed, resources, *holder);
        connection.visit = detached.visit;
        connection.trail = detached.trail;
        connection.set_logged_in(detached.logged_in);
        connection.upgrade = detached.upgrade;
        connection.ended = detached.ended;
        connection.broken = detached.broken;
        connection.interruptible = detached.interruptible;
        connection
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

    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let before = self.input().len();
        if before == 0 && self.interruptible && self.shutting_down() {
            return Poll::Ready(Err(ConnectionError::ShuttingDown));
        }
        loop {
            ready!(self.poll_send_sealed(context))?;
            if self.input().len() > before {
                self.input.recount();
                if !self.seat.resources.buffers().has_room() {
                    // What counts is the received data, not the size of the buffer that happened to
                    // be free.
                    self.input.fit();
                }
                return Poll::Ready(self.seat.settle());
            }
            ready!(self.poll_fruitless(context));
            ready!(self.poll_receive(context))?;
        }
    }

    /// Before each read of a wait: ready unless there were so many that others must run first.
    /// `wait` resets the count.
    fn poll_fruitless(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.fruitless < FRUITLESS_READS_MAX {
            self.fruitless += 1;
            return Poll::Ready(());
        }
        self.fruitless = 0;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        loop {
            ready!(self.poll_send_sealed(context))?;
            if self.layers.are_settled() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_fruitless(context));
            ready!(self.poll_receive(context))?;
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        ready!(self.poll_handshake(context))?;
        loop {
            ready!(self.poll_send_sealed(context))?;
            let unsent = self.output.bytes().get(self.taken..).unwrap_or_default();
            if unsent.is_empty() {
                self.output.bytes_mut().clear();
                self.output.release_if_empty();
                self.taken = 0;
                return Poll::Ready(Ok(()));
            }
            if self.layers.is_empty() {
                self.taken += ready!(self.transport.poll_send(context, unsent))?;
                continue;
            }
            // Sealed piece by piece, so that a large reply is never in memory twice.
            let piece = unsent.get(..SCRATCH_SIZE).unwrap_or(unsent);
            let sealed = self.layers.seal(piece, &mut self.input, &mut self.sealed);
            self.taken += piece.len();
            if let Err(error) = sealed {
                self.send_alert(context);
                return Poll::Ready(Err(error));
            }
            self.input.release_if_empty();
            self.sealed.recount();
        }
    }

    fn poll_send_sealed(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        while let Some(unsent @ [_, ..]) = self.sealed.bytes().get(self.sealed_sent..) {
            self.sealed_sent += ready!(self.transport.poll_send(context, unsent))?;
        }
        if self.sealed_sent > 0 {
            self.sealed.bytes_mut().clear();
            self.sealed_sent = 0;
        }
        self.sealed.release_if_empty();
        Poll::Ready(Ok(()))
    }

    /// Receives once, through the layers if there are any. Ready does not mean that `input` grew.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        if self.ended {
            return Poll::Ready(Err(ConnectionError::Closed));
        }
        let resources = self.seat.resources.clone();
        resources.with_scratch(|scratch| {
            let scratch = scratch.get_mut(..self.read_max as usize).unwrap_or_default();
            let count = ready!(self.transport.poll_receive(context, scratch))?;
            let Some(received @ [_, ..]) = scratch.get_mut(..count) else {
                self.ended = true;
                return Poll::Ready(Err(ConnectionError::Closed));
            };
            self.compact_input();
            if self.layers.is_empty() {
                self.input.reserve(received.len());
                self.input.bytes_mut().extend_from_slice(received);
                return Poll::Ready(Ok(()));
            }
            let opened = self.layers.open(received, &mut self.input, &mut self.sealed);
            self.ended = self.layers.have_ended();
            self.input.release_if_empty();
            if opened.is_err() {
                self.send_alert(context);
            }
            Poll::Ready(opened)
        })
    }

    /// After a TLS error: sends the alert, as far as the socket takes it, and nothing after it.
    fn send_alert(&mut self, context: &mut Context<'_>) {
        self.broken = true;
        let _ = self.poll_send_sealed(context);
    }

    /// Ready at once unless the peer is still sending; otherwise ends our half and reads on until
    /// the peer stops. `discarded` counts the octets read.
    fn poll_linger(
        &mut self,
        context: &mut Context<'_>,
        discarded: &mut usize,
    ) -> Poll<Result<(), ConnectionError>> {
        let resources = self.seat.resources.clone();
        resources.with_scratch(|scratch| {
            while *discarded <= LINGER_BYTES_MAX {
                match self.transport.poll_receive(context, scratch) {
                    Poll::Pending if self.lingering || *discarded > 0 => return Poll::Pending,
                    Poll::Ready(Ok(count @ 1..)) => {
                        if *discarded == 0 && !self.lingering {
                            self.transport.shut_down_sending();
                        }
                        *discarded += count;
                    }
                    _ => break,
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Moves unconsumed input to the front of its buffer.
    fn compact_input(&mut self) {
        if self.consumed > 0 {
            self.input.bytes_mut().drain(..self.consumed);
            self.consumed = 0;
        }
    }
}

/// A connection between two shards: descriptor, layers with their unprocessed input, unread input.
pub struct DetachedConnection {
    transport: DetachedTransport,
    peer: SocketAddr,
    layers: DetachedLayers,
    upgrade: Option<Arc<TlsContext>>,
    input: Vec<u8>,
    sealed: Vec<u8>,
    ended: bool,
    broken: bool,
    interruptible: bool,
    logged_in: bool,
    class: MailClass,
    visit: Option<Box<Visit>>,
    trail: Trail,
}

const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<DetachedConnection>();
};

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        io::{Read, Write},
    };

    use futures_lite::future::{block_on, poll_once};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;
    use crate::runtime::{layers::Layer, tls::SelfSigned};

    const SECOND: Duration = Duration::from_secs(1);

    /// A server's TLS context and a client configuration that trusts it.
    fn tls_pair(
        version: &'static rustls::SupportedProtocolVersion,
    ) -> (TlsMode, Arc<ClientConfig>) {
        let made = SelfSigned::generate(&["localhost"]).unwrap();
        let mut roots = RootCertStore::empty();
        let pem = made.chain_pem.as_bytes();
        let leaf = rustls_pki_types::pem::PemObject::from_pem_slice(pem).unwrap();
        roots.add(leaf).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let context = TlsContext::new(made.certificate().unwrap()).unwrap();
        (TlsMode::Implicit(context), Arc::new(client))
    }

    fn tls_client(config: &Arc<ClientConfig>) -> ClientConnection {
        ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap()
    }

    /// Moves all available bytes between client and pipe, in chunks of at most `chunk` bytes to the
    /// server; returns the plaintext that the client received.
    fn pump(client: &mut ClientConnection, peer: &MemoryPeer, chunk: usize) -> Vec<u8> {
        let (plaintext, sent) = exchange(client, peer);
        for chunk in sent.chunks(chunk) {
            peer.send(chunk);
        }
        plaintext
    }

    /// Gives the client the server's output; returns plaintext received and bytes to send.
    fn exchange(client: &mut ClientConnection, peer: &MemoryPeer) -> (Vec<u8>, Vec<u8>) {
        let output = peer.take_output();
        let mut rest = &output[..];
        let mut plaintext = Vec::new();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
            // WouldBlock is the end of the available data.
            let _ = client.reader().read_to_end(&mut plaintext);
        }
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).unwrap();
        }
        (plaintext, sent)
    }

    fn resources() -> Rc<ShardResources> {
        ShardResources::current()
    }

    #[test]
    fn input_is_consumed_and_idle_holds_no_buffer() {
        let (mut connection, peer) = Connection::memory();
        peer.send(b"NOOP\r\nQU");
        block_on(connection.fill(SECOND)).unwrap();
        assert_eq!(connection.input(), b"NOOP\r\nQU");
        connection.consume(6);
        peer.send(b"IT\r\n");
        block_on(connection.fill(SECOND)).unwrap();
        assert_eq!(connection.input(), b"QUIT\r\n");
        connection.consume(6);
        connection.output().extend_from_slice(b"221 bye\r\n");
        assert!(resources().buffer_bytes() > 0);
        block_on(connection.flush(SECOND)).unwrap();
        assert_eq!(peer.take_output(), b"221 bye\r\n");
        assert!(block_on(poll_once(connection.fill(SECOND))).is_none());
        assert_eq!(resources().buffer_bytes(), 0);
        peer.close();
        assert!(matches!(block_on(connection.fill(SECOND)), Err(ConnectionError::Closed)));
        assert!(matches!(block_on(connection.fill(SECOND)), Err(ConnectionError::Closed)));
    }

    /// Shard resources of this size, without timers.
    fn small_shard(buffer_bytes_max: usize) {
        let executor: Rc<dyn crate::runtime::executor::Executor> =
            Rc::new(crate::runtime::simulation::Simulation::new(1));
        let limits =
            crate::runtime::resources::ResourceLimits { buffer_bytes_max, ..Default::default() };
        ShardResources::install(limits, &executor);
    }

    /// Connections that wait with an unfinished line of `len` octets.
    fn unfinished(count: usize, len: usize) -> Vec<(Connection, MemoryPeer)> {
        let made = (0..count).map(|_| {
            let (mut connection, peer) = Connection::memory();
            peer.send(&vec![b'x'; len]);
            block_on(connection.fill(SECOND)).unwrap();
            assert!(block_on(poll_once(connection.fill(SECOND))).is_none());
            (connection, peer)
        });
        made.collect()
    }

    /// One octet more than a small buffer holds used to cost 64 KiB.
    #[test]
    fn an_unfinished_line_costs_its_octets() {
        small_shard(64 << 20);
        let connections = unfinished(1_024, 4_097);
        assert!(
            resources().buffer_bytes() < 1_024 * 4_097 * 5 / 4,
            "{}",
            resources().buffer_bytes()
        );
        drop(connections);
        assert_eq!(resources().buffer_bytes(), 0);
        assert_eq!(resources().buffers().gave_way(), 0);
    }

    #[test]
    fn who_holds_most_gives_way_and_hears_so() {
        small_shard(256 << 10);
        let mut logged_in = unfinished(1, 60_000);
        logged_in[0].0.set_logged_in(true);
        logged_in.iter_mut().for_each(|(connection, _)| {
            // As a handover does.
            let (moved, _peer) = Connection::memory();
            let moved = std::mem::replace(connection, moved);
            *connection = Connection::attach(moved.detach());
            assert!(block_on(poll_once(connection.fill(SECOND))).is_none());
        });
        let mut strangers = unfinished(40, 4_097);
        assert_eq!(resources().buffers().gave_way(), 0);
        let mut newcomers = unfinished(20, 3_000);
        let gave_way = resources().buffers().gave_way();
        assert!((1..40).contains(&gave_way), "{gave_way}");
        let mut lost = 0;
        for (connection, peer) in &mut strangers {
            if let Some(heard) = block_on(poll_once(connection.fill(SECOND))) {
                assert!(matches!(heard, Err(ConnectionError::NoMemory)));
                assert_eq!(connection.input(), b"");
                connection.output().extend_from_slice(b"421 4.3.2 full\r\n");
                block_on(connection.flush(SECOND)).unwrap();
                assert_eq!(peer.take_output(), b"421 4.3.2 full\r\n");
                lost += 1;
            }
        }
        assert_eq!(lost, gave_way);
        for (connection, peer) in newcomers.iter_mut().chain(&mut logged_in) {
            peer.send(b"\r\n");
            block_on(connection.fill(SECOND)).unwrap();
        }
        assert!(resources().buffer_bytes() <= 256 << 10);
    }

    #[test]
    fn deadlines_and_shutdown_end_a_wait() {
        let (mut connection, peer) = Connection::memory();
        peer.expire();
        assert!(matches!(block_on(connection.fill(SECOND)), Err(ConnectionError::TimedOut)));
        {
            let mut fill = Box::pin(connection.fill(SECOND));
            assert!(block_on(poll_once(&mut fill)).is_none());
            resources().timers().advance(10);
            assert!(block_on(poll_once(&mut fill)).is_none());
            resources().timers().advance(1);
            assert!(matches!(block_on(fill), Err(ConnectionError::TimedOut)));
        }
        peer.send(b"DATA half a mess");
        block_on(connection.fill(SECOND)).unwrap();
        resources().shut_down();
        let unfinished = block_on(poll_once(connection.fill(SECOND)));
        assert!(unfinished.is_none(), "with input unconsumed we are inside a command");
        connection.consume(usize::MAX);
        connection.set_interruptible(false);
        assert!(block_on(poll_once(connection.fill(SECOND))).is_none());
        connection.set_interruptible(true);
        assert!(matches!(block_on(connection.fill(SECOND)), Err(ConnectionError::ShuttingDown)));
    }

    /// Unread octets stay in the socket and cost nothing.
    #[test]
    fn reads_are_as_small_as_wanted() {
        let (mut connection, peer) = Connection::memory();
        peer.send(&[b'x'; 100]);
        connection.set_read_max(10);
        block_on(connection.fill(SECOND)).unwrap();
        assert_eq!(connection.input().len(), 10);
        connection.set_read_max(usize::MAX);
        block_on(connection.fill(SECOND)).unwrap();
        assert_eq!(connection.input().len(), 100);
    }

    /// Octets that trickle in do not extend the deadline.
    #[test]
    fn a_handshake_has_one_deadline() {
        let (mode, config) = tls_pair(&rustls::version::TLS13);
        let mut hello = Vec::new();
        tls_client(&config).write_tls(&mut hello).unwrap();
        let (mut connection, peer) = Connection::memory_tls(&mode).unwrap();
        let mut handshake = Box::pin(connection.handshake(5 * SECOND));
        for second in 1..=5u64 {
            assert!(block_on(poll_once(&mut handshake)).is_none(), "{second}");
            peer.send(&[hello.remove(0)]);
            assert!(block_on(poll_once(&mut handshake)).is_none(), "{second}");
            resources().timers().advance(10);
        }
        resources().timers().advance(1);
        assert!(matches!(block_on(handshake), Err(ConnectionError::TimedOut)));
    }

    /// A client that logs in makes room for the next stranger of its address, and stays logged in
    /// on another shard.
    #[test]
    fn a_log_in_is_told_to_the_clients_count_and_carried_along() {
        use crate::runtime::clients::{ClientLimits, ClientShare, Clients, Excess};
        let address = ClientShare { connections: 2, strangers: 1, new_per_second: 0 };
        let clients =
            Clients::new(ClientLimits { address, allow: Vec::new(), ..ClientLimits::default() });
        let admit = || clients.admit(MEMORY_ADDRESS.ip());
        let (mut connection, _peer) = Connection::memory();
        connection.set_visit(admit().unwrap());
        assert_eq!(admit().err(), Some(Excess::Strangers));
        connection.set_logged_in(true);
        let connection = Connection::attach(connection.detach());
        let second = admit().unwrap();
        assert_eq!(admit().err(), Some(Excess::Connections));
        drop(second);
        drop(admit().unwrap());
        block_on(connection.close());
        let (first, second) = (admit().unwrap(), admit());
        assert_eq!(second.err(), Some(Excess::Strangers));
        drop(first);
    }

    #[test]
    fn connections_are_counted_until_they_are_gone() {
        let before = resources().connection_count();
        let (connection, _peer) = Connection::memory();
        let detached = connection.detach();
        assert_eq!(resources().connection_count(), before);
        let connection = Connection::attach(detached);
        assert_eq!(resources().connection_count(), before + 1);
        block_on(connection.close());
        assert_eq!(resources().connection_count(), before);
    }

    #[test]
    fn a_closed_server_ends_the_clients_stream() {
        let (mut connection, peer) = Connection::memory();
        connection.output().extend_from_slice(b"421 bye\r\n");
        block_on(connection.close());
        assert_eq!(peer.take_output(), b"421 bye\r\n");
        assert!(peer.is_closed());
    }

    /// Input after our last reply is read, for a bounded time, so that it cannot destroy that
    /// reply.
    #[test]
    fn a_server_that_hangs_up_reads_on() {
        for waits_for_us in [true, false] {
            let (mut connection, peer) = Connection::memory();
            connection.output().extend_from_slice(b"421 bye\r\n");
            connection.linger();
            let mut close = Box::pin(connection.close());
            assert!(block_on(poll_once(&mut close)).is_none());
            assert_eq!(peer.take_output(), b"421 bye\r\n");
            assert!(peer.is_closed());
            peer.send(b"octets of a chunk");
            assert!(block_on(poll_once(&mut close)).is_none());
            if waits_for_us {
                peer.close();
            } else {
                resources().timers().advance(30);
            }
            block_on(close);
        }
    }

    /// An echo over TLS, the client's bytes cut into pieces of every small size.
    #[test]
    fn tls_split_at_every_byte() {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let (mode, config) = tls_pair(version);
            for chunk in [1, 2, 3, 5, 7, 64, 1000, 1 << 16] {
                let (mut server, peer) = Connection::memory_tls(&mode).unwrap();
                let mut client = tls_client(&config);
                let mut shake = Box::pin(server.handshake(SECOND));
                while block_on(poll_once(&mut shake)).is_none() {
                    pump(&mut client, &peer, chunk);
                }
                drop(shake);
                pump(&mut client, &peer, chunk);
                let sent: Vec<u8> = (0..40_000u32).map(|n| n as u8).collect();
                client.writer().write_all(&sent).unwrap();
                let mut echoed = Vec::new();
                while echoed.len() < sent.len() {
                    echoed.extend(pump(&mut client, &peer, chunk));
                    if block_on(poll_once(server.fill(SECOND))).is_some() {
                        let input = server.input().to_vec();
                        server.consume(input.len());
                        server.output().extend_from_slice(&input);
                        block_on(server.flush(SECOND)).unwrap();
                    }
                }
                assert!(echoed == sent, "{version:?} in pieces of {chunk}");
                assert!(block_on(poll_once(server.fill(SECOND))).is_none());
                assert_eq!(resources().buffer_bytes(), 0, "idle over TLS holds no buffer");
                block_on(server.close());
                pump(&mut client, &peer, chunk);
                assert_eq!(client.reader().read(&mut [0; 16]).unwrap(), 0, "close_notify");
            }
        }
    }

    /// The connection moves after every single byte received, during the handshake too.
    #[test]
    fn a_handover_after_every_byte_loses_nothing() {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let (mode, config) = tls_pair(version);
            let (mut server, peer) = Connection::memory_tls(&mode).unwrap();
            let mut client = tls_client(&config);
            let commands = b"a1 NOOP\r\na2 LOGIN bob demo\r\na3 APPEND x {3+}\r\nabc\r\n".repeat(4);
            let mut wire = VecDeque::new();
            let mut written = false;
            while server.input().len() < commands.len() {
                wire.extend(exchange(&mut client, &peer).1);
                if let Some(byte) = wire.pop_front() {
                    peer.send(&[byte]);
                } else if !client.is_handshaking() && !written {
                    client.writer().write_all(&commands).unwrap();
                    written = true;
                }
                let _ = block_on(poll_once(server.fill(SECOND)));
                server = Connection::attach(server.detach());
            }
            assert_eq!(server.input(), commands, "{version:?}");
        }
    }

    /// A layer that hides octets behind a counter that advances with each, in frames with a length
    /// prefix, so that order, cuts and losses show. At the end of the stream is an empty frame.
    #[derive(Default)]
    struct Masked {
        opened: u8,
        sealed: u8,
        ended: bool,
    }

    impl Masked {
        fn frame(&mut self, message: &[u8], outgoing: &mut Vec<u8>) {
            outgoing.push(message.len() as u8);
            for octet in message {
                outgoing.push(octet ^ self.sealed);
                self.sealed = self.sealed.wrapping_add(1);
            }
        }
    }

    impl Layer for Masked {
        fn open(
            &mut self,
            sealed: &mut [u8],
            opened: &mut Vec<u8>,
            _: &mut Vec<u8>,
        ) -> Result<usize, ConnectionError> {
            let mut done = 0;
            while let [len, rest @ ..] = &sealed[done..]
                && let Some(frame) = rest.get(..usize::from(*len))
            {
                self.ended |= frame.is_empty();
                for octet in frame {
                    opened.push(octet ^ self.opened);
                    self.opened = self.opened.wrapping_add(1);
                }
                done += 1 + frame.len();
            }
            Ok(done)
        }

        fn seal(
            &mut self,
            message: &[u8],
            kept: &mut [u8],
            opened: &mut Vec<u8>,
            outgoing: &mut Vec<u8>,
        ) -> Result<usize, ConnectionError> {
            message.chunks(200).for_each(|piece| self.frame(piece, outgoing));
            self.open(kept, opened, &mut Vec::new())
        }

        fn seal_end(
            &mut self,
            _: &mut [u8],
            outgoing: &mut Vec<u8>,
        ) -> Result<(), ConnectionError> {
            self.frame(&[], outgoing);
            Ok(())
        }

        fn is_settled(&self) -> bool {
            true
        }

        fn has_ended(&self) -> bool {
            self.ended
        }

        fn kept_max(&self) -> usize {
            255
        }

        fn is_private(&self) -> bool {
            false
        }

        fn facts(&self) -> Option<TlsFacts> {
            None
        }
    }

    /// Two layers on top of each other, handed over after every octet: incomplete input of either
    /// moves along.
    #[test]
    fn layers_lie_over_each_other_and_move_together() {
        let (mode, config) = tls_pair(&rustls::version::TLS13);
        let (mut server, peer) = Connection::memory_tls(&mode).unwrap();
        let mut client = tls_client(&config);
        let mut shake = Box::pin(server.handshake(SECOND));
        while block_on(poll_once(&mut shake)).is_none() {
            pump(&mut client, &peer, 1 << 16);
        }
        drop(shake);
        pump(&mut client, &peer, 1 << 16);
        server.layers.push(Box::new(Masked::default()), server.seat.buffer());
        let mut theirs = Masked::default();

        let sent: Vec<u8> = (0..1_000u32).map(|n| (n / 3) as u8).collect();
        let mut frames = Vec::new();
        theirs.seal(&sent, &mut [], &mut Vec::new(), &mut frames).unwrap();
        // Records end in the middle of frames.
        for piece in frames.chunks(77) {
            client.writer().write_all(piece).unwrap();
            for octet in exchange(&mut client, &peer).1 {
                peer.send(&[octet]);
                let _ = block_on(poll_once(server.fill(SECOND)));
                server = Connection::attach(server.detach());
            }
        }
        assert!(server.input() == sent, "{} of {}", server.input().len(), sent.len());
        assert!(server.is_tls() && server.tls_description().unwrap().contains("TLSv1.3"));
        server.consume(sent.len());
        let _ = block_on(poll_once(server.fill(SECOND)));
        assert_eq!(resources().buffer_bytes(), 0, "idle it holds no buffer");

        server.output().extend_from_slice(&sent);
        block_on(server.flush(SECOND)).unwrap();
        block_on(server.close());
        let mut sealed = pump(&mut client, &peer, 1 << 16);
        let mut opened = Vec::new();
        let done = theirs.open(&mut sealed, &mut opened, &mut Vec::new()).unwrap();
        assert!(opened == sent && done == sealed.len() && theirs.ended);
        assert_eq!(client.reader().read(&mut [0; 16]).unwrap(), 0, "close_notify");
    }

    #[test]
    fn a_handover_carries_what_tls_had_not_sent() {
        let (mut server, peer) = Connection::memory();
        server.sealed.bytes_mut().extend_from_slice(b"key update");
        server.sealed_sent = 4;
        let mut server = Connection::attach(server.detach());
        block_on(server.flush(SECOND)).unwrap();
        assert_eq!(peer.take_output(), b"update");
    }

    #[test]
    fn start_tls_carries_no_plaintext_over() {
        let (mode, config) = tls_pair(&rustls::version::TLS13);
        let TlsMode::Implicit(context) = mode else { unreachable!() };
        let (mut server, peer) = Connection::memory_tls(&TlsMode::Upgrade(context)).unwrap();
        assert!(server.can_start_tls() && !server.is_tls());
        peer.send(b"STARTTLS\r\nMAIL FROM:<injected@evil.test>\r\n");
        block_on(server.fill(SECOND)).unwrap();
        server.consume(b"STARTTLS\r\n".len());
        server.output().extend_from_slice(b"220 go\r\n");
        {
            let mut client = tls_client(&config);
            let mut start = Box::pin(server.start_tls(SECOND));
            assert!(block_on(poll_once(&mut start)).is_none());
            assert_eq!(peer.take_output(), b"220 go\r\n");
            while block_on(poll_once(&mut start)).is_none() {
                pump(&mut client, &peer, 100);
            }
        }
        assert!(server.is_tls() && !server.can_start_tls());
        assert_eq!(server.input(), b"");
        let description = server.tls_description().unwrap();
        assert!(description.starts_with("TLSv1.3 TLS13_"), "{description}");
    }

    #[test]
    fn what_is_not_tls_gets_an_alert_and_an_error() {
        let (mode, _) = tls_pair(&rustls::version::TLS13);
        let (mut server, peer) = Connection::memory_tls(&mode).unwrap();
        peer.send(b"EHLO client.test\r\n");
        assert!(matches!(block_on(server.fill(SECOND)), Err(ConnectionError::Tls(_))));
        let alert = peer.take_output();
        assert_eq!(alert.first(), Some(&21), "a TLS alert record: {alert:?}");
    }
}
