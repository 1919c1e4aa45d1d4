//! The session loop of all protocols, and its view of the connection: deadlines, turns, the limit
//! on output, the seat in the connection count, the end.
//!
//! A protocol implements [`Dialogue`]: how a session begins, what one step does, what it sends
//! last. [`serve`] runs it from the handshake to its end or handover, [`go_on`] after a handover.
//! Protocols define their steps and timeouts. This file ensures that a client which pipelines
//! without end lets others run, that one which does not read costs one buffer, and that a trickle
//! of octets extends no deadline. It also has the waits within a command: for more of a message, at
//! its pace, and for an event besides the client's input.
//!
//! Ownership: a channel owns its connection; shard-local. Between steps, with nothing unread, it
//! holds no buffer. SMTP, POP3 and IMAP use it.

use std::{rc::Rc, time::Duration};

use futures_lite::future;

use super::{Shard, intake::Pace};
use crate::{
    events::Event,
    metrics::{Protocol, Seat},
    model::Moment,
    runtime::connection::{Connection, ConnectionError},
};

/// Output beyond this is sent before more is made, so that a client that does not read costs one
/// buffer, not all the output that it requested.
pub(super) const OUTPUT_MAX: usize = 64 * 1024;

/// Steps done one after the other before other sessions get their turn: a client may pipeline
/// thousands that never wait for anything.
const STEPS_PER_TURN: u32 = 32;

/// One client's connection. See the module documentation.
pub(super) struct Channel {
    pub connection: Connection,
    pub shard: Rc<Shard>,
    protocol: Protocol,
    /// When the client must have sent its next command.
    deadline: Moment,
    /// Steps since the session last waited for input or let others run.
    steps_in_turn: u32,
    /// How often output was sent: sent output cannot be withdrawn.
    flushes: u64,
    _seat: Seat,
}

impl Channel {
    /// Counts as a connection of `protocol` until dropped. `patience`: the time for the first
    /// command.
    pub(super) fn new(
        connection: Connection,
        shard: Rc<Shard>,
        protocol: Protocol,
        patience: Duration,
    ) -> Channel {
        let deadline = shard.executor.moment().after(patience);
        let _seat = shard.metrics.seat(protocol);
        Channel { connection, shard, protocol, deadline, steps_in_turn: 0, flushes: 0, _seat }
    }

    /// The client has `patience` from now on.
    pub(super) fn restart_deadline(&mut self, patience: Duration) {
        self.deadline = self.shard.executor.moment().after(patience);
    }

    pub(super) fn deadline(&self) -> Moment {
        self.deadline
    }

    pub(super) fn set_deadline(&mut self, deadline: Moment) {
        self.deadline = deadline;
    }

    /// Time until the client must have sent its next command. A deadline that has passed is an
    /// error at once: a wait of zero length would time out only if nothing arrived, and a trickle
    /// always arrives.
    pub(super) fn time_left(&self) -> Result<Duration, ConnectionError> {
        match self.deadline.since(self.shard.executor.moment()) {
            Duration::ZERO => Err(ConnectionError::TimedOut),
            left => Ok(left),
        }
    }

    pub(super) async fn flush(&mut self) -> Result<(), ConnectionError> {
        self.flushes += 1;
        self.connection.flush(self.shard.options.write_timeout).await
    }

    /// Changes whenever output is sent, also within a command.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes
    }

    /// Sends the output once it fills a buffer, and lets other sessions run.
    pub(super) async fn flush_if_full(&mut self) -> Result<(), ConnectionError> {
        if self.connection.unsent() >= OUTPUT_MAX {
            self.flush().await?;
            self.shard.executor.yield_now().await;
            self.connection.expect_output(OUTPUT_MAX);
        }
        Ok(())
    }

    /// Sends the output and waits for more input, until the deadline.
    pub(super) async fn listen(&mut self) -> Result<(), ConnectionError> {
        let left = self.begin_to_listen().await?;
        self.connection.fill(left).await
    }

    /// The same, but also ends when `news` does, which must be cancel-safe.
    pub(super) async fn listen_or(
        &mut self,
        news: impl Future<Output = ()>,
    ) -> Result<(), ConnectionError> {
        let left = self.begin_to_listen().await?;
        let news = async {
            news.await;
            Ok(())
        };
        future::or(self.connection.fill(left), news).await
    }

    async fn begin_to_listen(&mut self) -> Result<Duration, ConnectionError> {
        self.flush().await?;
        self.steps_in_turn = 0;
        self.time_left()
    }

    /// Waits for more of a message, for at most `most`, and only while the client keeps up its
    /// pace.
    pub(super) async fn fill_at_pace(
        &mut self,
        pace: &mut Pace,
        most: Duration,
    ) -> Result<(), ConnectionError> {
        let patience = pace.patience(self.shard.executor.moment());
        if patience == Duration::ZERO {
            return Err(ConnectionError::TimedOut);
        }
        let before = self.connection.input().len();
        self.connection.fill(patience.min(most)).await?;
        let came = self.connection.input().len().saturating_sub(before);
        pace.credit(&self.shard.options.intake, came, self.shard.executor.moment());
        Ok(())
    }

    /// The TLS handshake, on ports with TLS from the first octet.
    async fn handshake(&mut self) -> Result<(), ConnectionError> {
        let patience = self.shard.options.tls_handshake_timeout;
        let outcome = self.connection.handshake(patience).await;
        self.tell_refused_certificate(&outcome);
        outcome
    }

    /// Whoever shows a certificate that does not count learns it from TLS, and the operator here.
    fn tell_refused_certificate(&self, outcome: &Result<(), ConnectionError>) {
        let refused = outcome.as_ref().err().and_then(ConnectionError::refused_certificate);
        if let Some(reason) = refused {
            let (trail, peer) = (self.connection.trail(), self.connection.peer().ip());
            let (protocol, reason) = (self.protocol, reason.as_str());
            self.shard.tell(&Event::CertificateRefused { trail, protocol, peer, reason });
        }
    }

    /// Sends the output, then begins TLS.
    pub(super) async fn start_tls(&mut self) -> Result<(), ConnectionError> {
        self.flush().await?;
        let patience = self.shard.options.tls_handshake_timeout;
        let outcome = self.connection.start_tls(patience).await;
        self.tell_refused_certificate(&outcome);
        outcome
    }

    /// Sends the output, then compresses both directions. `may_end`: whether the client may end its
    /// compression behind these octets.
    pub(super) async fn start_deflate(
        &mut self,
        may_end: fn(&[u8]) -> bool,
    ) -> Result<(), ConnectionError> {
        self.connection.start_deflate(self.shard.options.write_timeout, may_end).await
    }

    /// Sends the output; the next is the last that is compressed.
    pub(super) async fn deflate_last(&mut self) -> Result<(), ConnectionError> {
        self.connection.deflate_last(self.shard.options.write_timeout).await
    }

    /// Sends the output, then compresses no more.
    pub(super) async fn end_deflate(&mut self) -> Result<(), ConnectionError> {
        self.connection.end_deflate(self.shard.options.write_timeout).await
    }

    /// After a step: lets other sessions run now and then.
    async fn step_is_over(&mut self) -> Result<(), ConnectionError> {
        self.steps_in_turn += 1;
        if self.steps_in_turn >= STEPS_PER_TURN {
            self.steps_in_turn = 0;
            self.shard.executor.yield_now().await;
        }
        self.flush_if_full().await
    }
}

/// Result of a step.
pub(super) enum Step {
    /// Something was done.
    Done,
    /// Nothing more can be done without more input.
    Incomplete,
}

/// Why a session ends, or leaves this shard.
pub(super) enum End<D> {
    /// The output holds the last response.
    Closed,
    /// Close without sending the output.
    Abort,
    Lost(ConnectionError),
    /// The session continues at the destination `D`.
    HandOver(D),
}

impl<D> From<ConnectionError> for End<D> {
    fn from(error: ConnectionError) -> End<D> {
        End::Lost(error)
    }
}

/// How a session on this shard ended. `H`: what its next shard needs.
#[allow(clippy::large_enum_variant)] // one variant holds a connection, moved once or twice
pub enum Outcome<H> {
    /// The connection is closed.
    Closed,
    /// The account lives on another shard: detach the connection, attach it there, resume. Its
    /// output is empty; what the client pipelined after the log-in is unread in its input.
    HandOver(Connection, H),
}

/// A session of one protocol.
pub(super) trait Dialogue {
    /// Where a session continues after a handover.
    type Destination;
    /// What it needs there.
    type Handover;

    fn channel(&mut self) -> &mut Channel;

    /// Writes the greeting, once the connection is established.
    async fn begin(&mut self) -> Result<(), End<Self::Destination>>;

    /// Takes a command, or a piece of a message, off the input and executes it.
    async fn step(&mut self) -> Result<Step, End<Self::Destination>>;

    /// Sends the output and waits for more input.
    async fn listen(&mut self) -> Result<(), ConnectionError> {
        self.channel().listen().await
    }

    /// Called at the end of a session. After a connection error, writes a last response if the
    /// client can still receive it. Releases all that the session holds of its account or of a
    /// message, before the client can know that the session is over.
    fn end(&mut self, error: Option<&ConnectionError>);

    /// Takes the session apart; all its output is sent.
    fn hand_over(self: Box<Self>, destination: Self::Destination) -> (Connection, Self::Handover);
}

/// Serves a new connection until it is closed or belongs to another shard. The session is boxed
/// before the task begins, so that the task's future holds no second copy of the connection.
pub(super) async fn serve<S: Dialogue>(mut session: Box<S>) -> Outcome<S::Handover> {
    if session.channel().handshake().await.is_err() {
        return Outcome::Closed;
    }
    match session.begin().await {
        Ok(()) => go_on(session).await,
        Err(end) => finish(session, end).await,
    }
}

/// Serves a connection whose session has begun.
pub(super) async fn go_on<S: Dialogue>(mut session: Box<S>) -> Outcome<S::Handover> {
    let end = loop {
        let done = match session.step().await {
            Ok(Step::Done) => session.channel().step_is_over().await,
            Ok(Step::Incomplete) => session.listen().await,
            Err(end) => break end,
        };
        if let Err(error) = done {
            break End::Lost(error);
        }
    };
    finish(session, end).await
}

async fn finish<S: Dialogue>(
    mut session: Box<S>,
    end: End<S::Destination>,
) -> Outcome<S::Handover> {
    match end {
        End::HandOver(destination) => {
            // Commands pipelined before the log-in are answered here, the log-in itself by the new
            // owner.
            if session.channel().flush().await.is_ok() {
                let (connection, state) = session.hand_over(destination);
                return Outcome::HandOver(connection, state);
            }
            session.end(None);
        }
        End::Closed => session.end(None),
        End::Abort => {
            session.end(None);
            session.channel().connection.output().clear();
        }
        End::Lost(error) => session.end(Some(&error)),
    }
    // Sends the remaining output, in place: moving the connection would need room for it in the
    // task's future.
    session.channel().connection.finish().await;
    Outcome::Closed
}
