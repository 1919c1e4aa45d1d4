//! The server side of one SMTP, submission or LMTP session: what is legal when, and the reply.
//!
//! `service::smtp` feeds it the connection's input. [`Session::next`] takes one step: it answers by
//! itself what order, syntax and limits decide, and reports the rest to the service as an [`Event`]
//! that borrows the input; the service decides and calls `accept_…` or `refuse_…`, which append the
//! reply. Every reply goes to the caller's output, so that all pipelined commands (RFC 2920) are
//! answered by one write.
//!
//! Invariants: input is consumed in whole lines or message octets, and a line over its limit is not
//! waited for; the memory held is one reverse-path, one client name and fixed state, whatever the
//! client sends; message octets pass through uncopied.
//!
//! Here are the state of a session and the table of commands. `policy` has what a session may do,
//! `event` what it reports; `greeting`, `auth`, `transaction`, `message` and `original_client` have
//! the commands of those names.

mod auth;
mod event;
mod greeting;
mod message;
mod original_client;
mod policy;
mod transaction;

#[cfg(test)]
mod tests;

pub use event::{Event, ForwardPath, Greeting, Sender};
pub use policy::{Extensions, Limits, Offer, Role, Security, Vrfy};

use super::{
    command::{self, Command, Node, Verb},
    data::DataReader,
    original_client::OriginalClient,
    parameter::BodyKind,
    reply::{self, Reply},
    trace::{HopCounter, Transport},
};
use crate::{
    model::Timestamp,
    protocol::{
        line::{Frame, LineFramer},
        sasl,
    },
};

/// Octets of a command line: 512 (RFC 5321 4.5.3.1.4) and what the extensions add, with room.
pub const COMMAND_LINE_MAX: usize = 2048;
/// The same where AUTH is offered (RFC 4954 4).
pub const AUTH_LINE_MAX: usize = 12_288;
/// Octets of a refused message that are read and discarded before the session closes.
pub const SWALLOW_MAX: u64 = 64 * 1024 * 1024;

/// One session. Shard-local; does no I/O.
pub struct Session {
    role: Role,
    limits: Limits,
    security: Security,
    framer: LineFramer,
    hello: Hello,
    client_name: String,
    /// The last moment until which messages are held, as announced.
    held_until_max: Timestamp,
    authenticated: bool,
    phase: Phase,
    transaction: Transaction,
    /// From XCLIENT, for the session.
    claimed: Option<Box<OriginalClient>>,
    /// From XFORWARD, for one transaction.
    forwarded: Option<Box<OriginalClient>>,
    /// The client is not served at all.
    rejected: bool,
    /// Since the last message.
    errors: usize,
    commands: usize,
    refused_recipients: usize,
    auth_failures: usize,
    /// MAIL commands of this session.
    transactions: usize,
}

/// How the client introduced itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hello {
    None,
    Helo,
    Extended,
}

enum Phase {
    Command,
    Auth(sasl::Exchange),
    Data(DataReader),
    Chunk(Chunk),
}

/// A BDAT chunk that is not complete yet.
#[derive(Clone, Copy)]
struct Chunk {
    size: u64,
    remaining: u64,
    last: bool,
}

/// From MAIL to the end of its message.
#[derive(Default)]
struct Transaction {
    open: bool,
    /// Kept between transactions to reuse its memory.
    reverse_path: String,
    body: BodyKind,
    smtp_utf8: bool,
    recipients: usize,
    /// There was a BDAT: DATA is not allowed any more.
    chunked: bool,
    /// Octets of the message so far.
    size: u64,
    /// Why the message will be refused at its end; its octets are discarded.
    refusal: Option<Reply>,
    swallowed: u64,
    hop_counter: HopCounter,
}

impl Session {
    pub fn new(role: Role, limits: Limits, security: Security) -> Session {
        let has_auth = role == Role::Submission || (role == Role::Lmtp && security.lmtp_auth);
        let line_max = if has_auth { AUTH_LINE_MAX } else { COMMAND_LINE_MAX };
        Session {
            role,
            limits,
            security,
            framer: LineFramer::new(line_max),
            hello: Hello::None,
            client_name: String::new(),
            held_until_max: Timestamp::default(),
            authenticated: false,
            phase: Phase::Command,
            transaction: Transaction::default(),
            claimed: None,
            forwarded: None,
            rejected: false,
            errors: 0,
            commands: 0,
            refused_recipients: 0,
            auth_failures: 0,
            transactions: 0,
        }
    }

    /// The greeting (RFC 5321 3.1).
    pub fn greet(&self, hostname: &str, output: &mut Vec<u8>) {
        let protocol = if self.role == Role::Lmtp { "LMTP" } else { "ESMTP" };
        reply::append_greeting(output, hostname, protocol);
    }

    /// Replaces the greeting: the client is not served. If `refusal` is 554, RFC 5321 3.1 keeps the
    /// session open until QUIT; with another one the caller closes.
    pub fn reject(&mut self, refusal: Reply, output: &mut Vec<u8>) {
        self.rejected = true;
        refusal.append_to(output);
    }

    /// The client's name from HELO, EHLO or LHLO.
    pub fn client_name(&self) -> &str {
        self.claimed().and_then(|client| client.hello.as_deref()).unwrap_or(&self.client_name)
    }

    /// Octets of the message so far, those included that were discarded.
    pub fn message_size(&self) -> u64 {
        self.transaction.size
    }

    /// Whether a message is being received, inside DATA or a chunk.
    pub fn in_message(&self) -> bool {
        matches!(self.phase, Phase::Data(_) | Phase::Chunk(_))
    }

    /// For the Received field.
    pub fn transport(&self) -> Transport {
        Transport {
            lmtp: self.role == Role::Lmtp,
            extended: (self.claimed().and_then(|client| client.extended))
                .unwrap_or(self.hello == Hello::Extended),
            tls: self.security.tls,
            authenticated: self.authenticated,
            utf8: self.transaction.smtp_utf8,
        }
    }

    /// Takes one step. The first value is the number of processed octets, to be removed from the
    /// input when the event, which borrows them, has been handled.
    pub fn next<'a>(&mut self, input: &'a [u8], output: &mut Vec<u8>) -> (usize, Event<'a>) {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            let (count, event) = match &self.phase {
                Phase::Data(_) => self.next_text(rest, output),
                Phase::Chunk(chunk) => self.next_chunk(*chunk, rest, output),
                Phase::Command | Phase::Auth(_) => self.next_line(rest, output),
            };
            consumed += count;
            if let Some(event) = event {
                return (consumed, event);
            }
        }
    }

    /// Refuses the current command.
    pub fn refuse(&mut self, refusal: Reply, output: &mut Vec<u8>) {
        self.errors += 1;
        refusal.append_to(output);
    }

    fn next_line<'a>(
        &mut self,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> (usize, Option<Event<'a>>) {
        if let Some(farewell) = self.patience_lost() {
            farewell.append_to(output);
            return (0, Some(Event::Close(Verb::Unknown)));
        }
        let (count, frame) = self.framer.next(input);
        let event = match frame {
            Frame::Incomplete => Event::Incomplete,
            Frame::Endless => {
                reply::ENDLESS_LINE.append_to(output);
                Event::Close(Verb::Unknown)
            }
            Frame::TooLong if matches!(self.phase, Phase::Auth(_)) => {
                self.refused_auth_step(reply::AUTH_LINE_TOO_LONG, output)
            }
            Frame::TooLong => self.refused(Verb::Unknown, reply::LINE_TOO_LONG, output),
            Frame::BareLf => {
                self.phase = Phase::Command;
                self.refused(Verb::Unknown, reply::BARE_LF, output)
            }
            Frame::Line(line) => match &mut self.phase {
                Phase::Auth(exchange) => {
                    let step = exchange.respond(line);
                    self.auth_step(step, output)
                }
                _ => return (count, self.command(line, output)),
            },
        };
        (count, Some(event))
    }

    fn patience_lost(&self) -> Option<Reply> {
        let limits = &self.limits;
        if self.errors > limits.errors_max
            || self.refused_recipients > limits.refused_recipients_max
            || self.auth_failures > limits.auth_failures_max
        {
            Some(reply::TOO_MANY_ERRORS)
        } else if self.commands > limits.commands_max {
            Some(reply::TOO_MANY_COMMANDS)
        } else {
            None
        }
    }

    fn refused<'a>(&mut self, verb: Verb, refusal: Reply, output: &mut Vec<u8>) -> Event<'a> {
        self.refuse(refusal, output);
        Event::Answered(verb)
    }

    /// `None` if the answer comes later: after the octets of a chunk.
    fn command<'a>(&mut self, line: &'a [u8], output: &mut Vec<u8>) -> Option<Event<'a>> {
        self.commands += 1;
        let (verb, parsed) = command::parse(line);
        let command = match parsed {
            Ok(command) => command,
            Err(error) => {
                let event = self.refused(verb, error.reply(), output);
                if verb != Verb::Bdat {
                    return Some(event);
                }
                // The octets of a chunk of unknown size cannot be told from commands. RFC 5321 3.8:
                // no close without a 421.
                return Some(answer(Event::Close(verb), reply::CHUNK_UNKNOWN, output));
            }
        };
        let judged = match command {
            Command::Quit => Ok(answer(Event::Close(verb), reply::BYE, output)),
            _ if self.rejected => Err(reply::REJECTED),
            Command::Helo(name) | Command::Ehlo(name) | Command::Lhlo(name) => {
                self.hello(Greeting { verb, client_name: name })
            }
            Command::Mail { reverse_path, parameters } => {
                self.mail(Sender { reverse_path, parameters })
            }
            Command::Rcpt { forward_path, parameters } => {
                self.recipient(ForwardPath { path: forward_path, parameters }, output)
            }
            Command::Data => self.data(),
            Command::Bdat { size, last } => return self.bdat(size, last),
            Command::Rset => {
                self.reset_transaction();
                Ok(answer(Event::Reset(verb), reply::RESET_OK, output))
            }
            Command::Vrfy(address) => match self.limits.vrfy {
                Vrfy::Unsure => Ok(answer(Event::Answered(verb), reply::VRFY, output)),
                Vrfy::Off => Err(reply::VRFY_OFF),
                Vrfy::Known => Ok(Event::Verify(address)),
            },
            Command::Xclient(attributes) => self.claim(attributes),
            Command::Xforward(attributes) => self.forward(attributes, output),
            Command::Expn(list) => match self.offers(self.limits.expn) {
                true => Ok(Event::Expand(list)),
                false => Err(reply::EXPN_OFF),
            },
            Command::Etrn(node) => self.start_queue(node),
            Command::Help => Ok(answer(Event::Answered(verb), reply::HELP, output)),
            Command::Noop => Ok(answer(Event::Answered(verb), reply::NOOP_OK, output)),
            Command::StartTls => self.start_tls(output),
            Command::Auth { mechanism, initial_response } => {
                self.auth(mechanism, initial_response, output)
            }
        };
        Some(judged.unwrap_or_else(|refusal| self.refused(verb, refusal, output)))
    }

    fn start_queue<'a>(&mut self, node: Node<'a>) -> Result<Event<'a>, Reply> {
        if !self.offers_etrn() {
            return Err(reply::ETRN_OFF);
        }
        if self.hello == Hello::None {
            return Err(self.hello_first());
        }
        if self.transaction.open {
            return Err(reply::IN_TRANSACTION);
        }
        Ok(Event::StartQueue(node))
    }

    fn start_tls<'a>(&mut self, output: &mut Vec<u8>) -> Result<Event<'a>, Reply> {
        if self.security.tls {
            return Err(reply::TLS_ALREADY);
        }
        if !self.security.can_start_tls {
            return Err(reply::TLS_UNAVAILABLE);
        }
        Ok(answer(Event::StartTls, reply::START_TLS, output))
    }

    /// What AUTH takes; known after the handshake.
    pub fn set_mechanisms(&mut self, mechanisms: sasl::Mechanisms) {
        self.security.mechanisms = mechanisms;
    }

    /// RFC 3207 4.2: everything learnt before TLS is forgotten.
    pub fn tls_started(&mut self, mechanisms: sasl::Mechanisms) {
        let security = Security { tls: true, can_start_tls: false, mechanisms, ..self.security };
        *self = Session::new(self.role, self.limits, security);
    }
}

fn answer<'a>(event: Event<'a>, reply: Reply, output: &mut Vec<u8>) -> Event<'a> {
    reply.append_to(output);
    event
}
