//! The loop of one IMAP session: frames in, commands run, one flush for all that was pipelined.
//!
//! Called by the acceptor ([`run`]) and, after a handover, by the owner of the account
//! ([`resume`]). Owns the connection; shard-local. Between commands, with nothing unread, it holds
//! no buffer: a command's bytes are copied once (commands are short; message literals are streamed
//! and never here), so that its values may outlive reads and writes of the connection.

use std::{rc::Rc, time::Duration};

use super::{
    ImapHandover, ImapOptions, Outcome,
    handler::Handler,
    literal::Literal,
    reply::{Done, Failure, Leave, Reply},
    seats::AccountSeat,
    selected::Selected,
};
use crate::{
    directory::Identity,
    metrics::Protocol,
    model::Moment,
    protocol::imap::{
        Code, Command, CommandBody, CommandKind, Frame, Framer, Limits, State, Status, Updates,
        Writer, capability, command_table, parse, tag_of,
    },
    runtime::{
        LocalFuture,
        connection::{Connection, ConnectionError},
    },
    service::{ServiceOptions, Shard},
    store::Account,
};

/// Output beyond this is sent before more is made, so that a client that does not read costs one
/// buffer and not its mailbox.
pub(super) const OUTPUT_MAX: usize = 64 * 1024;

/// Commands carried out one after the other before other sessions get their turn: a client may
/// pipeline thousands that never wait for anything.
const COMMANDS_PER_TURN: u32 = 32;

/// Messages of the view looked at, with nothing read or written for them, before other sessions get
/// their turn.
const MESSAGES_PER_TURN: usize = 4_096;

/// Before login nothing longer is of use: credentials and ID fields.
const LIMITS_BEFORE_LOGIN: Limits = Limits { line: 8 * 1024, command: 16 * 1024, message: 0 };

/// One client's session on this shard.
pub(super) struct Session {
    pub connection: Connection,
    pub shard: Rc<Shard>,
    /// Set once logged in.
    pub account: Option<Account>,
    /// Its place among the account's sessions.
    pub seat: Option<AccountSeat>,
    pub selected: Option<Selected>,
    /// A CONDSTORE-enabling command was given: FETCH responses tell MODSEQ (RFC 7162 3.1).
    pub condstore: bool,
    pub login_failures: u32,
    /// The message of an APPEND that is running, until its handler takes it.
    pub literal: Option<Literal>,
    pub framer: Framer,
    /// How often output was sent before a command was done: what was sent cannot be taken back.
    pub flushes: u64,
    /// Since the session last waited for input or let others run.
    commands_in_turn: u32,
    bad_commands: u32,
    /// When the client must have sent its next command.
    deadline: Moment,
}

/// Serves a new connection until it is closed or belongs to another shard.
pub fn run(connection: Connection, shard: Rc<Shard>) -> impl Future<Output = Outcome> {
    // Boxed before the task begins, which has no place for the connection but this.
    let timeout = shard.options.tls_handshake_timeout;
    let mut session = Box::new(Session::new(connection, shard));
    async move {
        if session.connection.handshake(timeout).await.is_err() {
            return Outcome::Closed;
        }
        session.greet();
        session.serve().await
    }
}

/// Goes on with a session that logged in on another shard: answers its LOGIN and serves it.
pub fn resume(
    connection: Connection,
    shard: Rc<Shard>,
    handover: ImapHandover,
) -> impl Future<Output = Outcome> {
    let mut session = Box::new(Session::new(connection, shard));
    (session.deadline, session.login_failures) = (handover.deadline, handover.login_failures);
    async move {
        let reply = session.log_in(handover.identity.account).await;
        let answered = session.answer(&handover.tag, reply);
        // Of no use while the session lasts.
        drop(handover);
        match answered {
            Ok(()) => session.serve().await,
            Err(leave) => session.end(leave).await,
        }
    }
}

/// Why [`Session::work`] returned.
enum End {
    Leave(Leave),
    LoggedOut,
    HandOver(ImapHandover),
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> End {
        End::Leave(error.into())
    }
}

impl Session {
    fn new(connection: Connection, shard: Rc<Shard>) -> Session {
        let deadline = shard.executor.moment().after(shard.options.imap.login_timeout);
        Session {
            connection,
            shard,
            account: None,
            seat: None,
            selected: None,
            condstore: false,
            login_failures: 0,
            literal: None,
            framer: Framer::new(LIMITS_BEFORE_LOGIN),
            flushes: 0,
            commands_in_turn: 0,
            bad_commands: 0,
            deadline,
        }
    }

    pub(super) fn options(&self) -> &ServiceOptions {
        &self.shard.options
    }

    pub(super) fn imap(&self) -> &ImapOptions {
        &self.shard.options.imap
    }

    pub(super) fn writer(&mut self) -> Writer<'_> {
        Writer::new(self.connection.output())
    }

    pub(super) fn state(&self) -> State {
        match (&self.account, &self.selected) {
            (None, _) => State::NotAuthenticated,
            (Some(_), None) => State::Authenticated,
            (Some(_), Some(_)) => State::Selected,
        }
    }

    /// The account of a session that is logged in; the table lets no command through before.
    pub(super) fn account(&self) -> Result<Account, Failure> {
        self.account.clone().ok_or_else(|| Failure::bad("Log in first"))
    }

    pub(super) fn selected(&self) -> Result<&Selected, Failure> {
        self.selected.as_ref().ok_or_else(|| Failure::bad("Select a mailbox first"))
    }

    /// For commands that change the selected mailbox (RFC 3501 6.3.2).
    pub(super) fn writable(&self) -> Result<&Selected, Failure> {
        let selected = self.selected()?;
        if selected.read_only {
            return Err(Failure::no(Code::ReadOnly, "The mailbox is selected read-only"));
        }
        Ok(selected)
    }

    /// May passwords be sent as things stand? (RFC 3501 6.2.3)
    pub(super) fn can_login(&self) -> bool {
        self.connection.is_tls() || self.options().allow_plaintext_auth
    }

    pub(super) fn capabilities(&self) -> &'static str {
        capability(self.state(), self.connection.can_start_tls(), self.can_login())
    }

    /// Sends the output once it is a buffer's worth, and lets other sessions run.
    pub(super) async fn flush_if_full(&mut self) -> Result<(), ConnectionError> {
        if self.connection.output().len() > OUTPUT_MAX {
            self.flush().await?;
            self.shard.executor.yield_now().await;
        }
        Ok(())
    }

    /// To be awaited at each index of a loop over messages that may have nothing else to wait for.
    pub(super) async fn turn_of_scan(&self, index: usize) {
        if index % MESSAGES_PER_TURN == MESSAGES_PER_TURN - 1 {
            self.shard.executor.yield_now().await;
        }
    }

    pub(super) async fn flush(&mut self) -> Result<(), ConnectionError> {
        self.flushes += 1;
        self.connection.flush(self.shard.options.write_timeout).await
    }

    /// Sends what is there and waits for more input, until the deadline of the state.
    pub(super) async fn wait_for_input(&mut self) -> Result<(), ConnectionError> {
        self.commands_in_turn = 0;
        self.flush().await?;
        let timeout = self.time_left()?;
        self.connection.fill(timeout).await
    }

    /// Until the client must have sent its next command. A deadline that has passed ends the session
    /// at once: a wait of no length would end only if nothing came, and a trickle always comes.
    pub(super) fn time_left(&self) -> Result<Duration, ConnectionError> {
        match self.deadline.since(self.shard.executor.moment()) {
            Duration::ZERO => Err(ConnectionError::TimedOut),
            left => Ok(left),
        }
    }

    /// The client is active. Before login that earns it no more time: a stranger's NOOPs must not
    /// keep a connection open.
    pub(super) fn restart_deadline(&mut self) {
        if self.state() != State::NotAuthenticated {
            self.deadline = self.shard.executor.moment().after(self.imap().idle_timeout);
        }
    }

    /// After STARTTLS: what was half read before is gone, and the client has its time to log in.
    pub(super) fn restart_under_tls(&mut self) {
        self.framer = Framer::new(LIMITS_BEFORE_LOGIN);
        self.deadline = self.shard.executor.moment().after(self.imap().login_timeout);
    }

    /// RFC 7162 3.1: from the first CONDSTORE-enabling command on, FETCH responses tell MODSEQ, and
    /// the client must know where the selected mailbox stands.
    pub(super) fn enable_condstore(&mut self) {
        if self.condstore {
            return;
        }
        self.condstore = true;
        if let Some(selected) = &self.selected {
            let code = Code::HighestModSeq(selected.told().status().told_mod_seq());
            self.writer().untagged(Status::Ok, Some(code), "Highest");
        }
    }

    /// What the owner of the account has to know.
    pub(super) fn handover(&self, identity: Identity, tag: &str) -> ImapHandover {
        let (deadline, login_failures) = (self.deadline, self.login_failures);
        ImapHandover { identity, tag: tag.to_owned(), deadline, login_failures }
    }

    /// Called once the session knows its account.
    pub(super) fn lift_limits(&mut self) {
        let limits = self.imap().limits;
        self.framer.set_limits(limits);
    }

    fn greet(&mut self) {
        let code = Code::Capability(self.capabilities());
        let text = format!("{} Ringmail ready", self.options().hostname);
        self.writer().untagged(Status::Ok, Some(code), &text);
    }

    async fn serve(mut self: Box<Session>) -> Outcome {
        match self.work().await {
            End::Leave(leave) => self.end(leave).await,
            End::LoggedOut => self.end(Leave::Lost).await,
            End::HandOver(handover) => match self.flush().await {
                Ok(()) => Outcome::HandOver(self.connection, handover),
                Err(error) => self.end(error.into()).await,
            },
        }
    }

    /// The last words; `close` sends what it can of them.
    async fn end(mut self: Box<Session>, leave: Leave) -> Outcome {
        if let Leave::Bye(text) = leave {
            self.writer().bye(text);
            self.connection.linger();
        }
        self.connection.close().await;
        Outcome::Closed
    }

    async fn work(&mut self) -> End {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    /// Takes one frame off the input, or waits for one. Commands run in a box, so that a session
    /// between commands is small.
    async fn step(&mut self) -> Result<(), End> {
        match self.framer.next(self.connection.input()) {
            Frame::More => self.wait_for_input().await?,
            Frame::Continue => self.writer().continuation("OK"),
            Frame::Command { size } => {
                let bytes = self.take_input(size);
                Box::pin(self.command(&bytes)).await?;
            }
            Frame::Append { prefix, size, sync } => {
                let bytes = self.take_input(prefix);
                self.literal = Some(Literal::new(size, sync));
                Box::pin(self.command(&bytes)).await?;
                self.skip_literal().await.map_err(End::Leave)?;
                // A refused message may have taken longer than a client may be idle.
                self.restart_deadline();
            }
            Frame::Refused { size } => {
                let bytes = self.take_input(size);
                let tag = tag_of(&bytes).unwrap_or("*");
                let text = "The literal is larger than this server takes";
                self.writer().tagged(tag, Status::No, Some(Code::TooBig), text);
            }
            Frame::Bye(text) => return Err(End::Leave(Leave::Bye(text))),
        }
        Ok(())
    }

    pub(super) fn take_input(&mut self, size: usize) -> Vec<u8> {
        let bytes = self.connection.input().get(..size).unwrap_or_default().to_vec();
        self.connection.consume(size);
        bytes
    }

    /// Runs one command and answers it.
    async fn command(&mut self, bytes: &[u8]) -> Result<(), End> {
        let started = self.shard.executor.moment();
        let command = match parse(bytes) {
            Ok(command) => command,
            Err(error) => {
                self.writer().tagged(error.tag.unwrap_or("*"), Status::Bad, None, error.what);
                self.shard.metrics.command(Protocol::Imap, "other", Duration::ZERO);
                return self.count_bad_command();
            }
        };
        let row = command.body.row();
        let state = self.state();
        let reply = if row.allowed(state) {
            self.execute(&command).await
        } else {
            Err(Failure::bad(row.refusal(state)))
        };
        // How long a client idles says nothing about us.
        let elapsed = match row.kind {
            CommandKind::Idle => Duration::ZERO,
            _ => self.shard.executor.moment().since(started),
        };
        self.shard.metrics.command(Protocol::Imap, row.name, elapsed);
        let bad = matches!(reply, Err(Failure::Bad(_)));
        if reply.is_ok() {
            self.bad_commands = 0;
        }
        match reply {
            Ok(Done::HandOver(handover)) => return Err(End::HandOver(handover)),
            Ok(Done::LogOut) => {
                self.writer().tagged(command.tag, Status::Ok, None, "Logged out");
                return Err(End::LoggedOut);
            }
            reply => self.answer(command.tag, reply).map_err(End::Leave)?,
        }
        self.restart_deadline();
        self.flush_if_full().await?;
        self.commands_in_turn += 1;
        if self.commands_in_turn >= COMMANDS_PER_TURN {
            self.commands_in_turn = 0;
            self.shard.executor.yield_now().await;
        }
        if bad { self.count_bad_command() } else { Ok(()) }
    }

    /// The handler's reply, after what else there is to tell.
    async fn execute(&mut self, command: &Command<'_>) -> Reply {
        let reply = run_handler(self, command).await;
        let updates = command.body.updates();
        if updates != Updates::None && !matches!(reply, Err(Failure::Leave(_))) {
            self.tell_changes(updates).await?;
        }
        reply
    }

    /// Writes the tagged response.
    fn answer(&mut self, tag: &str, reply: Reply) -> Result<(), Leave> {
        let mut writer = self.writer();
        match reply {
            Ok(Done::Ok { code, text }) => {
                let code = code.as_ref().map(|code| code.borrowed());
                writer.tagged(tag, Status::Ok, code, text);
            }
            Ok(Done::Answered | Done::LogOut | Done::HandOver(_)) => {}
            Err(Failure::No { code, text }) => writer.tagged(tag, Status::No, code, &text),
            Err(Failure::Bad(text)) => writer.tagged(tag, Status::Bad, None, &text),
            Err(Failure::Leave(leave)) => return Err(leave),
        }
        Ok(())
    }

    /// A client that does not speak IMAP, or not with us, is sent away.
    fn count_bad_command(&mut self) -> Result<(), End> {
        self.bad_commands += 1;
        if self.bad_commands > self.imap().bad_commands_max {
            return Err(End::Leave(Leave::Bye("Too many bad commands")));
        }
        Ok(())
    }
}

/// By the table of commands. Handlers run in a box of their own: an idle session then holds none of
/// their state.
fn run_handler<'a>(session: &'a mut Session, command: &'a Command<'_>) -> LocalFuture<'a, Reply> {
    let tag = command.tag;
    macro_rules! run {
        ($($family:ident {
            $($file:ident::$kind:ident $(<$life:lifetime>)? [$($column:tt)*];)*
        })*) => {
            match &command.body {
                $($(CommandBody::$kind(value) => Box::pin(value.run(session, tag)),)*)*
            }
        };
    }
    command_table!(run)
}
