//! The loop of one POP3 session: lines in, events done, one flush for all that was pipelined.
//!
//! Called by the acceptor ([`run`]) and, after a handover, by the owner of the account
//! ([`resume`]). Owns the connection; shard-local. Between commands it holds no buffer.

use std::{rc::Rc, time::Duration};

use super::{Outcome, Pop3Handover, maildrop::OpenMaildrop};
use crate::{
    directory::Identity,
    metrics::Protocol,
    model::Moment,
    protocol::pop3::{Event, ListingKind, Offer, Session, write_err, write_ok},
    runtime::connection::{Connection, ConnectionError},
    service::Shard,
    store::StoreError,
};

/// Output beyond this is sent before more is made, so that a client that does not read costs one
/// buffer and not its maildrop.
const OUTPUT_MAX: usize = 64 * 1024;

/// Commands carried out one after the other before other sessions get their turn: a client may
/// pipeline thousands that never wait for anything.
const COMMANDS_PER_TURN: u32 = 32;

/// One client's session on this shard.
pub(super) struct Client {
    pub connection: Connection,
    pub shard: Rc<Shard>,
    pub session: Session,
    /// Set once logged in.
    pub maildrop: Option<OpenMaildrop>,
    pub login_failures: u32,
    /// Since the session last let others run.
    commands_in_turn: u32,
    /// When the client must have sent its next command.
    deadline: Moment,
}

/// Why a session ends, or leaves this shard.
pub(super) enum End {
    /// What is in the output is the last answer.
    Closed,
    /// Close without a word.
    Abort,
    Lost(ConnectionError),
    HandOver(Identity),
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> End {
        End::Lost(error)
    }
}

/// Serves a new connection until it is closed or belongs to another shard. The session is boxed
/// before the task begins, which has no place for the connection but this.
pub fn run(connection: Connection, shard: Rc<Shard>) -> impl Future<Output = Outcome> {
    let session = Session::new(offer(&connection, &shard), shard.options.pop3.bad_commands_max);
    let mut client = Box::new(Client::new(connection, shard, session, 0));
    async move {
        let patience = client.shard.options.tls_handshake_timeout;
        if client.connection.handshake(patience).await.is_err() {
            return Outcome::Closed;
        }
        client.begin_log_in();
        let greeting = format!("{} POP3 server ready", client.shard.options.hostname);
        write_ok(client.connection.output(), &greeting);
        client.serve().await
    }
}

/// Goes on with a session that logged in on another shard: answers its login and serves it.
pub fn resume(
    connection: Connection,
    shard: Rc<Shard>,
    handover: Pop3Handover,
) -> impl Future<Output = Outcome> {
    let Pop3Handover { identity, session, login_failures, deadline } = handover;
    let mut client = Box::new(Client::new(connection, shard, session, login_failures));
    client.deadline = deadline;
    async move {
        Box::pin(client.open_maildrop(&identity)).await;
        client.restart_deadline();
        client.serve().await
    }
}

/// RFC 2595 2.2: passwords only where nobody listens, unless the configuration says otherwise.
fn offer(connection: &Connection, shard: &Shard) -> Offer {
    Offer {
        login: connection.is_tls() || shard.options.allow_plaintext_auth,
        start_tls: connection.can_start_tls(),
    }
}

impl Client {
    fn new(
        connection: Connection,
        shard: Rc<Shard>,
        session: Session,
        login_failures: u32,
    ) -> Client {
        let deadline = shard.executor.moment().after(shard.options.pop3.login_timeout);
        let (maildrop, commands_in_turn) = (None, 0);
        Client { connection, shard, session, maildrop, login_failures, commands_in_turn, deadline }
    }

    /// From now on the client's time to log in runs.
    fn begin_log_in(&mut self) {
        let timeout = self.shard.options.pop3.login_timeout;
        self.deadline = self.shard.executor.moment().after(timeout);
    }

    async fn serve(mut self: Box<Self>) -> Outcome {
        let end = loop {
            if let Err(end) = self.step().await {
                break end;
            }
        };
        // Unlocked before the client can know: it may come back at once.
        self.maildrop = None;
        match end {
            End::HandOver(identity) => return Box::pin(self.hand_over(identity)).await,
            End::Closed => {}
            End::Abort => self.connection.output().clear(),
            End::Lost(error) => self.last_words(&error),
        }
        self.connection.close().await;
        Outcome::Closed
    }

    /// What was pipelined before the login is answered here, the login itself by the new owner.
    async fn hand_over(mut self: Box<Self>, identity: Identity) -> Outcome {
        if self.flush().await.is_err() {
            self.connection.close().await;
            return Outcome::Closed;
        }
        let Client { connection, session, login_failures, deadline, .. } = *self;
        let state = Pop3Handover { identity, session, login_failures, deadline };
        Outcome::HandOver(connection, state)
    }

    /// RFC 1939 3: an autologout says nothing. Where the server is at fault, it says so.
    fn last_words(&mut self, error: &ConnectionError) {
        let text = match error {
            ConnectionError::ShuttingDown => "[SYS/TEMP] the server is shutting down",
            ConnectionError::NoMemory => "[SYS/TEMP] out of memory, try again later",
            _ => return,
        };
        write_err(self.connection.output(), text);
        self.connection.linger();
    }

    /// Takes one line off the input, or waits for one.
    async fn step(&mut self) -> Result<(), End> {
        let step = self.session.next(self.connection.input());
        self.connection.consume(step.consumed);
        if step.event == Event::Incomplete {
            return self.wait_for_input().await;
        }
        let start = self.shard.executor.moment();
        let done = self.perform(step.event).await;
        self.shard.metrics.command(
            Protocol::Pop3,
            step.command,
            self.shard.executor.moment().since(start),
        );
        self.restart_deadline();
        done?;
        self.commands_in_turn += 1;
        if self.commands_in_turn >= COMMANDS_PER_TURN {
            self.commands_in_turn = 0;
            self.shard.executor.yield_now().await;
        }
        self.flush_if_full().await
    }

    async fn perform(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Incomplete => {}
            Event::Answer(answer) => answer.write(self.connection.output()),
            Event::Close(answer) => {
                answer.write(self.connection.output());
                self.connection.linger();
                return Err(End::Closed);
            }
            // Boxed: of use for a moment of a session that may be idle for hours.
            Event::StartTls => Box::pin(self.start_tls()).await?,
            Event::Login(credentials) => Box::pin(self.login(credentials)).await?,
            Event::Stat => {
                let (maildrop, output) = self.maildrop_and_output()?;
                maildrop.numbers.write_stat(output);
            }
            Event::List(kind, Some(number)) => {
                let (maildrop, output) = self.maildrop_and_output()?;
                maildrop.numbers.write_one(kind, number, output);
            }
            Event::List(kind, None) => self.list(kind).await?,
            Event::Retr(number) => Box::pin(self.retr(number)).await?,
            Event::Top(number, body_lines) => Box::pin(self.top(number, body_lines)).await?,
            Event::Dele(number) => {
                let (maildrop, output) = self.maildrop_and_output()?;
                match maildrop.numbers.mark(number) {
                    Ok(()) => write_ok(output, "message deleted"),
                    Err(reason) => write_err(output, reason),
                }
            }
            Event::Rset => {
                let (maildrop, output) = self.maildrop_and_output()?;
                maildrop.numbers.unmark_all();
                write_ok(output, "nothing is deleted");
            }
            Event::Quit => return Err(Box::pin(self.quit()).await),
        }
        Ok(())
    }

    async fn start_tls(&mut self) -> Result<(), End> {
        write_ok(self.connection.output(), "begin TLS");
        self.flush().await?;
        self.connection.start_tls(self.shard.options.tls_handshake_timeout).await?;
        self.session.tls_started(offer(&self.connection, &self.shard));
        self.begin_log_in();
        Ok(())
    }

    async fn list(&mut self, kind: ListingKind) -> Result<(), End> {
        let mut from = 0;
        loop {
            let (maildrop, output) = self.maildrop_and_output()?;
            match maildrop.numbers.write_all(kind, from, output, OUTPUT_MAX) {
                Some(next) => from = next,
                None => return Ok(()),
            }
            self.flush_if_full().await?;
        }
    }

    /// UPDATE: +OK promises that what was marked will not come back, so it waits for the disk.
    async fn quit(&mut self) -> End {
        let Some(maildrop) = self.maildrop.take() else {
            write_ok(self.connection.output(), "bye");
            return End::Closed;
        };
        let count = maildrop.numbers.marked_count();
        match maildrop.remove_marked().await {
            Ok(()) => {
                self.count("pop3_messages_deleted_total", count as u64);
                let text = format!("bye, {count} messages deleted");
                write_ok(self.connection.output(), &text);
            }
            Err(error) => {
                self.store_failed(&error);
                let text = "[SYS/TEMP] the messages could not be deleted, try again later";
                write_err(self.connection.output(), text);
            }
        }
        End::Closed
    }

    /// The session lets no command through that needs a maildrop before there is one.
    pub(super) fn maildrop(&self) -> Result<&OpenMaildrop, End> {
        self.maildrop.as_ref().ok_or(End::Abort)
    }

    fn maildrop_and_output(&mut self) -> Result<(&mut OpenMaildrop, &mut Vec<u8>), End> {
        let maildrop = self.maildrop.as_mut().ok_or(End::Abort)?;
        Ok((maildrop, self.connection.output()))
    }

    /// Sends the output once it is a buffer's worth, and lets other sessions run.
    pub(super) async fn flush_if_full(&mut self) -> Result<(), End> {
        if self.connection.output().len() >= OUTPUT_MAX {
            self.flush().await?;
            self.shard.executor.yield_now().await;
        }
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<(), End> {
        Ok(self.connection.flush(self.shard.options.write_timeout).await?)
    }

    /// Sends what is there and waits for more input, until the deadline.
    async fn wait_for_input(&mut self) -> Result<(), End> {
        self.flush().await?;
        if self.shard.shutting_down.get() {
            return Err(ConnectionError::ShuttingDown.into());
        }
        // Looked at here, as a wait of no length would end only if nothing came: a trickle always
        // comes.
        match self.deadline.since(self.shard.executor.moment()) {
            Duration::ZERO => Err(ConnectionError::TimedOut.into()),
            left => Ok(self.connection.fill(left).await?),
        }
    }

    /// The client is active. Before login that earns it no more time: a stranger must not keep a
    /// connection open.
    fn restart_deadline(&mut self) {
        if self.maildrop.is_some() {
            let timeout = self.shard.options.pop3.idle_timeout;
            self.deadline = self.shard.executor.moment().after(timeout);
        }
    }

    /// The client only hears that it is temporary; the cause is the operator's business.
    pub(super) fn store_failed(&self, error: &StoreError) {
        let name = match error {
            StoreError::Corrupt { .. } => "pop3_corrupt_reads_total",
            _ => "pop3_store_errors_total",
        };
        self.count(name, 1);
    }

    pub(super) fn count(&self, name: &'static str, by: u64) {
        self.shard.metrics.count(name, by);
    }
}
