//! One IMAP session's steps: frames in, commands run, their answers. The loop is `service/channel.rs`.
//!
//! Called by the acceptor ([`run`]) and, after a handover, by the owner of the account
//! ([`resume`]). Alone knows the table of commands, and so their handlers; those know the
//! [`Session`] and nothing of this.

use std::{rc::Rc, time::Duration};

use super::{
    handler::Handler,
    handover::{ImapHandover, Outcome},
    reply::{Done, Failure, Leave, Reply},
    state::Session,
};
use crate::{
    metrics::Protocol,
    protocol::imap::{
        Code, Command, CommandBody, CommandKind, Frame, Status, Updates, command_table, parse,
        tag_of,
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

/// A session and what it is between commands.
struct Conversation {
    session: Session,
    bad_commands: u32,
    /// The log-in on another shard that is to be answered here first.
    arrived: Option<Box<ImapHandover>>,
}

/// Serves a new connection until it is closed or belongs to another shard.
pub fn run(connection: Connection, shard: Rc<Shard>) -> impl Future<Output = Outcome> {
    channel::serve(Conversation::new(connection, shard))
}

/// Goes on with a session that logged in on another shard: answers its LOGIN and serves it.
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
        match self.session.framer.next(self.session.channel.connection.input()) {
            Frame::More => return Ok(Step::Incomplete),
            Frame::Continue => self.session.writer().continuation("OK"),
            Frame::Command { size } => {
                let bytes = self.session.take_input(size);
                Box::pin(self.command(&bytes)).await?;
            }
            Frame::Part { size, literal } => {
                let bytes = self.session.take_input(size);
                self.session.literal = Some(literal);
                Box::pin(self.command(&bytes)).await?;
                if self.session.literal.is_some() {
                    Box::pin(self.skip_rest()).await?;
                }
            }
            Frame::Refused { size } => {
                let bytes = self.session.take_input(size);
                let tag = tag_of(&bytes).unwrap_or("*");
                let refusal = Err(Failure::literal_too_large());
                self.answer(tag, refusal)?;
            }
            Frame::Bye(text) => return Err(self.leave(Leave::Bye(text))),
        }
        Ok(Step::Done)
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
    /// Boxed before the task begins, which has no place for the connection but this.
    fn new(connection: Connection, shard: Rc<Shard>) -> Box<Conversation> {
        let session = Session::new(connection, shard);
        Box::new(Conversation { session, bad_commands: 0, arrived: None })
    }

    /// Opens the account that the client logged in to on another shard.
    async fn answer_log_in(&mut self, handover: &ImapHandover) -> Result<(), End> {
        let reply = self.session.log_in(handover.identity.account).await;
        self.answer(&handover.tag, reply)
    }

    /// Throws away what a refused command left in the stream.
    async fn skip_rest(&mut self) -> Result<(), End> {
        let skipped = self.session.skip_rest().await;
        skipped.map_err(|leave| self.leave(leave))?;
        // A refused message may have taken longer than a client may be idle.
        self.session.restart_deadline();
        Ok(())
    }

    /// The last words.
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
        let command = match parse(bytes) {
            Ok(command) => command,
            Err(error) => {
                self.session.writer().tagged(
                    error.tag.unwrap_or("*"),
                    Status::Bad,
                    None,
                    error.what,
                );
                self.session.channel.shard.metrics.command(Protocol::Imap, "other", Duration::ZERO);
                return self.count_bad_command();
            }
        };
        let row = command.body.row();
        let state = self.session.state();
        let reply = if !self.session.imap().capabilities.contains(row.needs) {
            Err(Failure::bad("unknown command"))
        } else if !row.allowed(state) {
            Err(Failure::bad(row.refusal(state)))
        } else {
            self.execute(&command).await
        };
        // How long a client idles says nothing about us.
        let elapsed = match row.kind {
            CommandKind::Idle => Duration::ZERO,
            _ => self.session.channel.shard.executor.moment().since(started),
        };
        self.session.channel.shard.metrics.command(Protocol::Imap, row.name, elapsed);
        let bad = matches!(reply, Err(Failure::Bad(_)));
        if reply.is_ok() {
            self.bad_commands = 0;
        }
        match reply {
            Ok(Done::HandOver(handover)) => return Err(End::HandOver(handover)),
            Ok(Done::LogOut) => {
                self.session.writer().tagged(command.tag, Status::Ok, None, "Logged out");
                return Err(End::Closed);
            }
            reply => self.answer(command.tag, reply)?,
        }
        self.session.restart_deadline();
        if bad { self.count_bad_command() } else { Ok(()) }
    }

    /// The handler's reply, after what else there is to tell.
    async fn execute(&mut self, command: &Command<'_>) -> Reply {
        let reply = run_handler(&mut self.session, command).await;
        let updates = command.body.updates();
        if updates != Updates::None && !matches!(reply, Err(Failure::Leave(_))) {
            self.session.tell_changes(updates).await?;
        }
        reply
    }

    /// Writes the tagged response.
    fn answer(&mut self, tag: &str, reply: Reply) -> Result<(), End> {
        let mut writer = self.session.writer();
        match reply {
            Ok(Done::Ok { code, text }) => {
                writer.tagged(tag, Status::Ok, code, text);
            }
            Ok(Done::Answered | Done::LogOut | Done::HandOver(_)) => {}
            Err(Failure::No { code, text }) => writer.tagged(tag, Status::No, code, &text),
            Err(Failure::Bad(text)) => writer.tagged(tag, Status::Bad, None, &text),
            Err(Failure::Leave(leave)) => return Err(self.leave(leave)),
        }
        Ok(())
    }

    /// A client that does not speak IMAP, or not with us, is sent away.
    fn count_bad_command(&mut self) -> Result<(), End> {
        self.bad_commands += 1;
        if self.bad_commands > self.session.imap().bad_commands_max {
            return Err(self.leave(Leave::Bye("Too many bad commands")));
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
