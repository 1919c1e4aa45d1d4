//! The loop of one IMAP session: frames in, commands run, one flush for all that was pipelined.
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
    service::Shard,
};

/// Commands carried out one after the other before other sessions get their turn: a client may
/// pipeline thousands that never wait for anything.
const COMMANDS_PER_TURN: u32 = 32;

/// A session and what its loop counts.
struct Conversation {
    session: Session,
    /// Since the session last waited for input or let others run.
    commands_in_turn: u32,
    bad_commands: u32,
}

/// Serves a new connection until it is closed or belongs to another shard.
pub fn run(connection: Connection, shard: Rc<Shard>) -> impl Future<Output = Outcome> {
    let timeout = shard.options.tls_handshake_timeout;
    let mut conversation = Conversation::new(connection, shard);
    async move {
        if conversation.session.connection.handshake(timeout).await.is_err() {
            return Outcome::Closed;
        }
        conversation.greet();
        conversation.serve().await
    }
}

/// Goes on with a session that logged in on another shard: answers its LOGIN and serves it.
pub fn resume(
    connection: Connection,
    shard: Rc<Shard>,
    handover: ImapHandover,
) -> impl Future<Output = Outcome> {
    let mut conversation = Conversation::new(connection, shard);
    conversation.session.take_over(&handover);
    async move {
        let reply = conversation.session.log_in(handover.identity.account).await;
        let answered = conversation.answer(&handover.tag, reply);
        // Of no use while the session lasts.
        drop(handover);
        match answered {
            Ok(()) => conversation.serve().await,
            Err(leave) => conversation.end(leave).await,
        }
    }
}

/// Why [`Conversation::work`] returned.
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

impl Conversation {
    /// Boxed before the task begins, which has no place for the connection but this.
    fn new(connection: Connection, shard: Rc<Shard>) -> Box<Conversation> {
        let session = Session::new(connection, shard);
        Box::new(Conversation { session, commands_in_turn: 0, bad_commands: 0 })
    }

    fn greet(&mut self) {
        let code = Code::Capability(self.session.capabilities());
        let text = format!("{} Ringmail ready", self.session.options().hostname);
        self.session.writer().untagged(Status::Ok, Some(code), &text);
    }

    async fn serve(mut self: Box<Conversation>) -> Outcome {
        match self.work().await {
            End::Leave(leave) => self.end(leave).await,
            End::LoggedOut => self.end(Leave::Lost).await,
            End::HandOver(handover) => match self.session.flush().await {
                Ok(()) => Outcome::HandOver(self.session.connection, handover),
                Err(error) => self.end(error.into()).await,
            },
        }
    }

    /// The last words; `close` sends what it can of them.
    async fn end(mut self: Box<Conversation>, leave: Leave) -> Outcome {
        if let Leave::Bye(text) = leave {
            self.session.writer().bye(text);
            self.session.connection.linger();
        }
        self.session.connection.close().await;
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
        match self.session.framer.next(self.session.connection.input()) {
            Frame::More => {
                self.commands_in_turn = 0;
                self.session.wait_for_input().await?;
            }
            Frame::Continue => self.session.writer().continuation("OK"),
            Frame::Command { size } => {
                let bytes = self.session.take_input(size);
                Box::pin(self.command(&bytes)).await?;
            }
            Frame::Part { size, literal } => {
                let bytes = self.session.take_input(size);
                self.session.literal = Some(literal);
                Box::pin(self.command(&bytes)).await?;
                self.session.skip_rest().await.map_err(End::Leave)?;
                // A refused message may have taken longer than a client may be idle.
                self.session.restart_deadline();
            }
            Frame::Refused { size } => {
                let bytes = self.session.take_input(size);
                let tag = tag_of(&bytes).unwrap_or("*");
                let refusal = Err(Failure::literal_too_large());
                self.answer(tag, refusal).map_err(End::Leave)?;
            }
            Frame::Bye(text) => return Err(End::Leave(Leave::Bye(text))),
        }
        Ok(())
    }

    /// Runs one command and answers it.
    async fn command(&mut self, bytes: &[u8]) -> Result<(), End> {
        let started = self.session.shard.executor.moment();
        let command = match parse(bytes) {
            Ok(command) => command,
            Err(error) => {
                self.session.writer().tagged(
                    error.tag.unwrap_or("*"),
                    Status::Bad,
                    None,
                    error.what,
                );
                self.session.shard.metrics.command(Protocol::Imap, "other", Duration::ZERO);
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
            _ => self.session.shard.executor.moment().since(started),
        };
        self.session.shard.metrics.command(Protocol::Imap, row.name, elapsed);
        let bad = matches!(reply, Err(Failure::Bad(_)));
        if reply.is_ok() {
            self.bad_commands = 0;
        }
        match reply {
            Ok(Done::HandOver(handover)) => return Err(End::HandOver(handover)),
            Ok(Done::LogOut) => {
                self.session.writer().tagged(command.tag, Status::Ok, None, "Logged out");
                return Err(End::LoggedOut);
            }
            reply => self.answer(command.tag, reply).map_err(End::Leave)?,
        }
        self.session.restart_deadline();
        self.session.flush_if_full().await?;
        self.commands_in_turn += 1;
        if self.commands_in_turn >= COMMANDS_PER_TURN {
            self.commands_in_turn = 0;
            self.session.shard.executor.yield_now().await;
        }
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
    fn answer(&mut self, tag: &str, reply: Reply) -> Result<(), Leave> {
        let mut writer = self.session.writer();
        match reply {
            Ok(Done::Ok { code, text }) => {
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
        if self.bad_commands > self.session.imap().bad_commands_max {
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
