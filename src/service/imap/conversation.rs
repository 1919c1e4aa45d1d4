//! The steps of one IMAP session: reads frames, runs commands, writes replies. The loop is in
//! `service/channel.rs`.
//!
//! Called by the acceptor ([`run`]) and, after a handover, by the owner of the account
//! ([`resume`]). Only this file knows the command table, and so the handlers; handlers know the
//! [`Session`] and nothing of this file.

use std::{future::pending, rc::Rc, time::Duration};

use super::{
    handler::Handler,
    handover::{ImapHandover, Outcome},
    notify,
    pipeline::{Open, Pipeline, has_whole},
    reply::{Done, Failure, Leave, Reply},
    state::Session,
};
use crate::{
    metrics::Protocol,
    protocol::imap::{
        Code, Command, CommandBody, CommandKind, CommandRow, Frame, State, Status, Updates,
        command_table, parse_with, tag_of,
    },
    runtime::{
        LocalFuture,
        connection::{Connection, ConnectionError},
    },
    service::{
        Shard,
        channel::{self, Channel, Dialogue, Step},
    },
};

type End = channel::End<ImapHandover>;

/// A session and its state between commands.
struct Conversation {
    session: Session,
    bad_commands: u32,
    /// A log-in on another shard, to be answered here first.
    arrived: Option<Box<ImapHandover>>,
    pipeline: Pipeline,
}

/// Serves a new connection until it is closed or belongs to another shard.
pub fn run(connection: Connection, shard: Rc<Shard>) -> impl Future<Output = Outcome> {
    channel::serve(Conversation::new(connection, shard))
}

/// Continues a session that logged in on another shard: answers its LOGIN and serves it.
pub fn resume(
    connection: Connection,
    shard: Rc<Shard>,
    handover: ImapHandover,
) -> impl Future<Output = Outcome> {
    let mut conversation = Conversation::new(connection, shard);
    conversation.session.take_over(&handover);
    conversation.arrived = Some(Box::new(handover));
    channel::go_on(conversation)
}

impl Dialogue for Conversation {
    type Destination = ImapHandover;
    type Handover = ImapHandover;

    fn channel(&mut self) -> &mut Channel {
        &mut self.session.channel
    }

    async fn begin(&mut self) -> Result<(), End> {
        let code = Code::Capability(self.session.capabilities());
        let text = format!("{} Ringmail ready", self.session.options().hostname);
        self.session.writer().untagged(Status::Ok, Some(code), &text);
        Ok(())
    }

    /// Takes one frame off the input. Commands run in a box, so that a session between commands is
    /// small.
    async fn step(&mut self) -> Result<Step, End> {
        if let Some(handover) = self.arrived.take() {
            Box::pin(self.answer_log_in(&handover)).await?;
            return Ok(Step::Done);
        }
        while let Some(open) = self.pipeline.pop_settled().await {
            self.settle(open).await?;
        }
        let before = self.session.framer.clone();
        let input = self.session.channel.connection.input();
        let frame = self.session.framer.next(input);
        if let Frame::Part { size, literal } = frame
            && self.pipeline.awaits(literal.size, input.len() - size)
        {
            self.session.framer = before;
            return Ok(Step::Incomplete);
        }
        let is_whole = match frame {
            Frame::More => {
                if self.hears_unasked() {
                    let reported = Box::pin(self.session.report_unasked()).await;
                    if let Err(Failure::Leave(leave)) = reported {
                        return Err(self.leave(leave));
                    }
                }
                return Ok(Step::Incomplete);
            }
            Frame::Command { .. } => true,
            Frame::Part { size, literal } => has_whole(literal.size, input.len() - size),
            _ => false,
        };
        if !is_whole {
            self.settle_all().await?;
        }
        match frame {
            Frame::More => {}
            Frame::Continue => self.session.writer().continuation("OK"),
            Frame::Command { size } => {
                let bytes = self.session.take_input(size);
                self.received(&bytes).await?;
            }
            Frame::Part { size, literal } => {
                let bytes = self.session.take_input(size);
                self.session.literal = Some(literal);
                self.received(&bytes).await?;
                if self.session.literal.is_some() {
                    Box::pin(self.skip_rest()).await?;
                }
            }
            Frame::Refused { size } => {
                let bytes = self.session.take_input(size);
                self.session.framer.take_excess();
                let tag = tag_of(&bytes).unwrap_or("*");
                let limits = self.session.framer.limits();
                let refusal = Err(Failure::literal_too_large(limits));
                self.answer(tag, refusal)?;
            }
            Frame::Bye(text) => return Err(self.leave(Leave::Bye(text))),
        }
        Ok(Step::Done)
    }

    /// With open changes also until the first of them is settled. Their answers are written even
    /// if the client sends nothing more.
    async fn listen(&mut self) -> Result<(), ConnectionError> {
        let hears_unasked = self.hears_unasked();
        let channel = &mut self.session.channel;
        if hears_unasked {
            return Box::pin(notify::listen(&mut self.session, pending())).await;
        }
        if self.pipeline.is_empty() {
            return channel.listen().await;
        }
        let listened = channel.listen_or(self.pipeline.first_settled()).await;
        if listened.is_err() {
            // A reason to end the session is there already.
            let _ = self.settle_all().await;
        }
        listened
    }

    fn end(&mut self, error: Option<&ConnectionError>) {
        self.session.let_go();
        if let Some(error) = error {
            self.leave(error.into());
        }
    }

    fn hand_over(self: Box<Self>, handover: ImapHandover) -> (Connection, ImapHandover) {
        (self.session.channel.connection, handover)
    }
}

impl Conversation {
    /// Boxed before the task begins, so that the task's future holds no second copy of the
    /// connection.
    fn new(connection: Connection, shard: Rc<Shard>) -> Box<Conversation> {
        let session = Session::new(connection, shard, run_own);
        let pipeline = Pipeline::default();
        Box::new(Conversation { session, bad_commands: 0, arrived: None, pipeline })
    }

    /// Whether the client is told of events now: it wants them (RFC 5465), and no command is under
    /// way.
    fn hears_unasked(&mut self) -> bool {
        self.session.has_notify()
            && self.pipeline.is_empty()
            && self.session.channel.connection.input().is_empty()
    }

    /// Opens the account that the client logged in to on another shard.
    async fn answer_log_in(&mut self, handover: &ImapHandover) -> Result<(), End> {
        let reply = self.session.log_in(&handover.identity).await;
        self.answer(&handover.tag, reply)
    }

    /// Runs a command, or the first part of one, unless its literals may not be sent like this.
    async fn received(&mut self, bytes: &[u8]) -> Result<(), End> {
        if self.session.framer.take_excess() {
            self.settle_all().await?;
            self.answer(tag_of(bytes).unwrap_or("*"), Err(Failure::literal_not_awaited()))?;
            return self.count_bad_command();
        }
        Box::pin(self.command(bytes)).await
    }

    /// Discards the rest of a refused command from the stream.
    async fn skip_rest(&mut self) -> Result<(), End> {
        let skipped = self.session.skip_rest().await;
        skipped.map_err(|leave| self.leave(leave))?;
        // A refused message may have taken longer than the idle timeout.
        self.session.restart_deadline();
        Ok(())
    }

    /// Answers all commands that were decided, once they are durable.
    async fn settle_all(&mut self) -> Result<(), End> {
        while let Some(open) = self.pipeline.pop() {
            self.settle(open).await?;
        }
        Ok(())
    }

    async fn settle(&mut self, open: Open) -> Result<(), End> {
        let Open { tag, updates, later } = open;
        let mut reply = match later.unsettled.settled().await {
            Ok(()) => (later.finish)(&mut self.session).await,
            Err(error) => Err(error.into()),
        };
        if !matches!(reply, Err(Failure::Leave(_)))
            && let Err(failure) = self.session.report(updates).await
        {
            reply = Err(failure);
        }
        self.answer(&tag, reply)
    }

    /// Writes BYE if the reason has one, and ends the session.
    fn leave(&mut self, leave: Leave) -> End {
        if let Leave::Bye(text) = leave {
            self.session.writer().bye(text);
            self.session.channel.connection.linger();
        }
        End::Closed
    }

    /// Runs one command and answers it.
    async fn command(&mut self, bytes: &[u8]) -> Result<(), End> {
        let started = self.session.channel.shard.executor.moment();
        let command = match parse_with(self.session.quoted(), bytes) {
            Ok(command) => command,
            Err(error) => {
                self.settle_all().await?;
                self.session.writer().tagged(
                    error.tag.unwrap_or("*"),
                    Status::Bad,
                    None,
                    &error.text(),
                );
                self.session.channel.shard.metrics.command(Protocol::Imap, "other", Duration::ZERO);
                return self.count_bad_command();
            }
        };
        if !self.pipeline.takes(&command.body) {
            self.settle_all().await?;
        }
        let row = command.body.row();
        let state = self.session.state();
        let reply = if !self.session.imap().capabilities.contains(row.needs) {
            Err(Failure::bad("unknown command"))
        } else if !row.allowed(state) {
            Err(Failure::bad(row.refusal(state)))
        } else if self.session.imap().utf8_only() && !self.session.utf8() && may_need_utf8(row) {
            Err(Failure::no(Code::Cannot, "ENABLE UTF8=ACCEPT first"))
        } else if self.session.uid_only() && command.body.uses_numbers() {
            Err(Failure::UidRequired)
        } else {
            self.execute(&command).await?
        };
        // The duration of IDLE says nothing about the server.
        let elapsed = match row.kind {
            CommandKind::Idle => Duration::ZERO,
            _ => self.session.channel.shard.executor.moment().since(started),
        };
        self.session.channel.shard.metrics.command(Protocol::Imap, row.name, elapsed);
        let bad = matches!(reply, Err(Failure::Bad { .. } | Failure::UidRequired));
        if reply.is_ok() {
            self.bad_commands = 0;
        }
        match reply {
            Ok(Done::Later) => {
                let (tag, updates) = (command.tag.to_owned(), command.body.updates());
                let later = self.session.later.take();
                self.pipeline.push(later.map(|later| Open { tag, updates, later }));
            }
            Ok(Done::HandOver(handover)) => return Err(End::HandOver(handover)),
            Ok(Done::LogOut) => {
                self.session.writer().tagged(command.tag, Status::Ok, None, "Logged out");
                return Err(End::Closed);
            }
            reply => {
                self.settle_all().await?;
                self.answer(command.tag, reply)?;
            }
        }
        self.session.restart_deadline();
        if bad { self.count_bad_command() } else { Ok(()) }
    }

    /// Runs the handler, then writes the mailbox updates that precede its reply, unless that waits
    /// for the disk.
    async fn execute(&mut self, command: &Command<'_>) -> Result<Reply, End> {
        if let Err(failure) = self.session.check_account() {
            return Ok(Err(failure));
        }
        let reply = run_handler(&mut self.session, command).await;
        if matches!(reply, Ok(Done::Later)) {
            return Ok(reply);
        }
        self.settle_all().await?;
        let updates = command.body.updates();
        if updates != Updates::None && !matches!(reply, Err(Failure::Leave(_))) {
            let told = self.session.report(updates).await;
            return Ok(told.and(reply));
        }
        Ok(reply)
    }

    /// Writes the tagged response.
    fn answer(&mut self, tag: &str, reply: Reply) -> Result<(), End> {
        let mut writer = self.session.writer();
        match reply {
            Ok(Done::Ok { code, text }) => {
                writer.tagged(tag, Status::Ok, code, text);
            }
            Ok(Done::Answered | Done::Later | Done::LogOut | Done::HandOver(_)) => {}
            Err(Failure::No { code, text }) => writer.tagged(tag, Status::No, code, &text),
            Err(Failure::Bad { code, text }) => writer.tagged(tag, Status::Bad, code, &text),
            Err(Failure::UidRequired) => {
                let text = "Messages have no numbers; use UIDs";
                writer.tagged(tag, Status::Bad, Some(Code::UidRequired), text);
            }
            Err(Failure::Leave(leave)) => return Err(self.leave(leave)),
        }
        Ok(())
    }

    /// Ends the session after too many bad commands in a row.
    fn count_bad_command(&mut self) -> Result<(), End> {
        self.bad_commands += 1;
        if self.bad_commands > self.session.imap().bad_commands_max {
            return Err(self.leave(Leave::Bye("Too many bad commands")));
        }
        Ok(())
    }
}

/// Whether the command may need UTF-8 (RFC 6855 6): all that have to do with mailboxes. The names
/// of comparators are ASCII (RFC 4790 3.1).
fn may_need_utf8(row: &CommandRow) -> bool {
    use CommandKind::{Comparator, Enable, Idle, Unauthenticate};
    !row.allowed(State::NotAuthenticated)
        && !matches!(row.kind, Comparator | Enable | Idle | Unauthenticate)
}

/// See [`super::state::Runner`].
fn run_own(session: &mut Session, bytes: Vec<u8>) -> LocalFuture<'_, Reply> {
    Box::pin(async move {
        match parse_with(session.quoted(), &bytes) {
            Ok(command) => run_handler(session, &command).await,
            Err(error) => Err(Failure::bad(error.text())),
        }
    })
}

/// Dispatches by the command table. Each handler runs in its own box: an idle session then holds
/// none of its state.
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
