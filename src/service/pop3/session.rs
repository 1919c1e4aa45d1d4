//! One POP3 session: reads a line at a time and handles its event. The loop is
//! `service/channel.rs`.
//!
//! Called by the acceptor ([`run`]) and, after a handover, by the owner of the account
//! ([`resume`]). Shard-local.

use std::rc::Rc;

use super::{Outcome, Pop3Handover, maildrop::OpenMaildrop};
use crate::{
    directory::Identity,
    metrics::Protocol,
    protocol::pop3::{Event, ListingKind, Offer, Session, write_err, write_ok},
    runtime::connection::{Connection, ConnectionError},
    service::{
        Shard,
        authentication::{self, LogIn},
        channel::{self, Channel, Dialogue, OUTPUT_MAX, Step},
    },
    store::StoreError,
};

/// One client's session on this shard.
pub(super) struct Client {
    pub channel: Channel,
    pub session: Session,
    /// Set once logged in.
    pub maildrop: Option<OpenMaildrop>,
    pub log_in: LogIn,
    pub login_failures: u32,
}

/// Why a session ends, or that it continues on the shard of this account.
pub(super) type End = channel::End<Identity>;

/// Serves a new connection until it is closed or handed over to another shard.
pub fn run(connection: Connection, shard: Rc<Shard>) -> impl Future<Output = Outcome> {
    let session = Session::new(offer(&connection, &shard), shard.options.pop3.bad_commands_max);
    channel::serve(Box::new(Client::new(connection, shard, session, 0)))
}

/// Continues a session that logged in on another shard: answers its log-in and serves it.
pub fn resume(
    connection: Connection,
    shard: Rc<Shard>,
    handover: Pop3Handover,
) -> impl Future<Output = Outcome> {
    let Pop3Handover { identity, session, login_failures, deadline } = handover;
    let mut client = Box::new(Client::new(connection, shard, session, login_failures));
    client.channel.set_deadline(deadline);
    async move {
        Box::pin(client.open_maildrop(&identity)).await;
        client.restart_deadline();
        channel::go_on(client).await
    }
}

/// RFC 2595 2.2: passwords only over encrypted connections, unless the configuration says
/// otherwise.
fn offer(connection: &Connection, shard: &Shard) -> Offer {
    Offer {
        login: authentication::may_send_passwords(shard, connection),
        mechanisms: authentication::mechanisms(shard, connection),
        start_tls: connection.can_start_tls(),
    }
}

impl Dialogue for Client {
    type Destination = Identity;
    type Handover = Pop3Handover;

    fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    async fn begin(&mut self) -> Result<(), End> {
        self.session.set_offer(offer(&self.channel.connection, &self.channel.shard));
        self.begin_log_in();
        let greeting = format!("{} POP3 server ready", self.channel.shard.options.hostname);
        write_ok(self.channel.connection.output(), &greeting);
        Ok(())
    }

    /// Takes one line from the input.
    async fn step(&mut self) -> Result<Step, End> {
        let step = self.session.next(self.channel.connection.input());
        self.channel.connection.consume(step.consumed);
        if step.event == Event::Incomplete {
            return Ok(Step::Incomplete);
        }
        let directory = &self.channel.shard.directory;
        if self.maildrop.as_ref().is_some_and(|it| !directory.may_exist(it.account.id())) {
            // RFC 3206 4. Nothing is deleted: this is no QUIT.
            write_err(self.channel.connection.output(), "[AUTH] the account was removed");
            self.channel.connection.linger();
            return Err(End::Closed);
        }
        let start = self.channel.shard.executor.moment();
        let done = self.perform(step.event).await;
        let shard = &self.channel.shard;
        let elapsed = shard.executor.moment().since(start);
        shard.metrics.command(Protocol::Pop3, step.command, elapsed);
        self.restart_deadline();
        done.map(|()| Step::Done)
    }

    /// RFC 1939 3: an autologout sends no reply. An error of the server is reported.
    fn end(&mut self, error: Option<&ConnectionError>) {
        // Unlocked before the client is told: it may reconnect at once.
        self.maildrop = None;
        let text = match error {
            Some(ConnectionError::ShuttingDown) => "[SYS/TEMP] the server is shutting down",
            Some(ConnectionError::NoMemory) => "[SYS/TEMP] out of memory, try again later",
            _ => return,
        };
        write_err(self.channel.connection.output(), text);
        self.channel.connection.linger();
    }

    fn hand_over(self: Box<Self>, identity: Identity) -> (Connection, Pop3Handover) {
        let Client { channel, session, login_failures, .. } = *self;
        let deadline = channel.deadline();
        let state = Pop3Handover { identity, session, login_failures, deadline };
        (channel.connection, state)
    }
}

impl Client {
    fn new(
        connection: Connection,
        shard: Rc<Shard>,
        session: Session,
        login_failures: u32,
    ) -> Client {
        let patience = shard.options.pop3.login_timeout;
        let channel = Channel::new(connection, shard, Protocol::Pop3, patience);
        Client { channel, session, maildrop: None, log_in: LogIn::default(), login_failures }
    }

    /// From now on the log-in deadline counts.
    fn begin_log_in(&mut self) {
        let patience = self.channel.shard.options.pop3.login_timeout;
        self.channel.restart_deadline(patience);
    }

    async fn perform(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Incomplete => {}
            Event::Answer(answer) => answer.write(self.channel.connection.output()),
            Event::Close(answer) => {
                answer.write(self.channel.connection.output());
                self.channel.connection.linger();
                return Err(End::Closed);
            }
            // Boxed: needed only briefly in a session that may be idle for hours.
            Event::StartTls => Box::pin(self.start_tls()).await?,
            Event::Ask(question) => Box::pin(self.ask(question)).await?,
            Event::Judged => Box::pin(self.judge()).await?,
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
                write_ok(output, "no messages are deleted");
            }
            Event::Quit => return Err(Box::pin(self.quit()).await),
        }
        Ok(())
    }

    async fn start_tls(&mut self) -> Result<(), End> {
        write_ok(self.channel.connection.output(), "begin TLS");
        self.channel.start_tls().await?;
        self.session.tls_started(offer(&self.channel.connection, &self.channel.shard));
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
            self.channel.flush_if_full().await?;
        }
    }

    /// UPDATE: +OK promises that marked messages will not come back, so it waits for the disk.
    async fn quit(&mut self) -> End {
        let Some(maildrop) = self.maildrop.take() else {
            write_ok(self.channel.connection.output(), "bye");
            return End::Closed;
        };
        let count = maildrop.numbers.marked_count();
        match maildrop.remove_marked().await {
            Ok(()) => {
                self.count("pop3_messages_deleted_total", count as u64);
                let text = format!("bye, {count} messages deleted");
                write_ok(self.channel.connection.output(), &text);
            }
            Err(error) => {
                self.store_failed(&error);
                let text = "[SYS/TEMP] the messages could not be deleted, try again later";
                write_err(self.channel.connection.output(), text);
            }
        }
        End::Closed
    }

    /// The session lets no command that needs a maildrop through before there is one.
    pub(super) fn maildrop(&self) -> Result<&OpenMaildrop, End> {
        self.maildrop.as_ref().ok_or(End::Abort)
    }

    fn maildrop_and_output(&mut self) -> Result<(&mut OpenMaildrop, &mut Vec<u8>), End> {
        let maildrop = self.maildrop.as_mut().ok_or(End::Abort)?;
        Ok((maildrop, self.channel.connection.output()))
    }

    /// The client is active. Before log-in this does not extend its time: a stranger must not keep
    /// a connection open.
    fn restart_deadline(&mut self) {
        if self.maildrop.is_some() {
            let patience = self.channel.shard.options.pop3.idle_timeout;
            self.channel.restart_deadline(patience);
        }
    }

    /// The client is told only that the error is temporary; the cause is reported to the operator.
    pub(super) fn store_failed(&self, error: &StoreError) {
        let name = match error {
            StoreError::Corrupt { .. } => "pop3_corrupt_reads_total",
            _ => "pop3_store_errors_total",
        };
        self.count(name, 1);
    }

    pub(super) fn count(&self, name: &'static str, by: u64) {
        self.channel.shard.metrics.count(name, by);
    }
}
