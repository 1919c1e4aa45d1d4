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

mod auth;
mod message;

use std::time::Duration;

use super::{
    address::Path,
    command::{self, Command, Node, Verb},
    data::{BareNewline, DataReader},
    original_client::{OriginalClient, XCLIENT_ATTRIBUTES, XFORWARD_ATTRIBUTES},
    parameter::{BodyKind, MailParameters, RecipientParameters},
    reply::{self, Reply},
    timing::{ByMode, Hold, rfc3339},
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

/// The listener that the client connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Port 25: mail from other servers for our users.
    Exchange,
    /// Ports 587 and 465: mail from our users (RFC 6409).
    Submission,
    /// RFC 2033.
    Lmtp,
}

/// Limits of a session; `config` fills them through the service's options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Octets of a message, announced by SIZE.
    pub message_size_max: u64,
    pub recipients_max: usize,
    /// Recipients refused in one session before it is closed: a client guessing users.
    pub refused_recipients_max: usize,
    /// Commands refused since the last message before the session is closed.
    pub errors_max: usize,
    /// Commands since the last message, refused or not.
    pub commands_max: usize,
    pub auth_failures_max: usize,
    /// Number of Received fields from which a message is taken for looping (RFC 5321 6.3: at least
    /// 100).
    pub hops_max: usize,
    pub bare_newline: BareNewline,
    /// Octets of a line in a message. RFC 5321 4.5.3.1.6 allows clients at most 998, but real mail
    /// has more; `None` accepts any length, as it costs nothing here.
    pub text_line_max: Option<usize>,
    /// Transactions in one session (RFC 9422 MAILMAX).
    pub transactions_max: Option<usize>,
    pub extensions: Extensions,
    pub vrfy: Vrfy,
    /// EXPN (RFC 5321 3.5).
    pub expn: Offer,
    /// ETRN (RFC 1985); not in LMTP.
    pub etrn: Offer,
}

/// How VRFY is answered (RFC 5321 3.5.3).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Vrfy {
    /// 252: whether the address exists is not disclosed.
    #[default]
    Unsure,
    /// 502.
    Off,
    /// 250 or 550, by the directory.
    Known,
}

/// Who may use a command.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Offer {
    #[default]
    Nobody,
    /// Who logged in, and trusted clients ([`Security::trusted`]).
    Trusted,
    Everybody,
}

/// Extensions that promise something which the queue must keep. Each is announced, and its
/// parameters are taken, only if it is set: a demand that is silently ignored would be worse than
/// one that is refused.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Extensions {
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 8689; under TLS only.
    pub require_tls: bool,
    /// RFC 2852: the least time that is taken with return, seconds; `Some(0)` has no least. Not in
    /// LMTP, where the message is delivered at once.
    pub deliver_by: Option<u32>,
    /// RFC 6710.
    pub mt_priority: bool,
    /// RFC 4865: the longest time that a message is held, seconds. On submission only.
    pub future_release: Option<u32>,
    /// RFC 9422: the limits on recipients and transactions are announced.
    pub limits: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_size_max: 50 * 1024 * 1024,
            recipients_max: 1000,
            refused_recipients_max: 100,
            errors_max: 20,
            commands_max: 4000,
            auth_failures_max: 4,
            hops_max: 100,
            bare_newline: BareNewline::Refuse,
            text_line_max: None,
            transactions_max: None,
            extensions: Extensions::default(),
            vrfy: Vrfy::default(),
            expn: Offer::default(),
            etrn: Offer::default(),
        }
    }
}

/// What the connection allows; the service sets it at the start and after TLS starts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Security {
    pub tls: bool,
    pub can_start_tls: bool,
    /// AUTH without TLS: in demo only.
    pub plaintext_auth: bool,
    /// The peer may say for which client it acts: for the session, or for the log of a message.
    pub xclient: bool,
    pub xforward: bool,
    /// The client is one of the site's own, as if it had logged in, for [`Offer`].
    pub trusted: bool,
}

/// MAIL, as the client gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender<'a> {
    pub reverse_path: Path<'a>,
    pub parameters: MailParameters<'a>,
}

/// RCPT, as the client gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForwardPath<'a> {
    pub path: Path<'a>,
    pub parameters: RecipientParameters<'a>,
}

/// HELO, EHLO or LHLO, as the client gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting<'a> {
    pub verb: Verb,
    /// The client's name for itself.
    pub client_name: &'a str,
}

/// The result of a step.
#[derive(PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// More input is needed.
    Incomplete,
    /// The command was answered.
    Answered(Verb),
    /// The command was answered, and the transaction is over: forget recipients and message.
    Reset(Verb),
    /// Call `accept_greeting`, which also ends the transaction, or `refuse`.
    Greeting(Greeting<'a>),
    /// Call `accept_sender` or `refuse`.
    Sender(Sender<'a>),
    /// Call `accept_recipient` or `refuse_recipient`.
    Recipient(ForwardPath<'a>),
    /// Before the first octet of a message: before 354, or at the first BDAT. Call `accept_message`
    /// or `refuse_message`.
    MessageStart(Verb),
    /// Octets of the message, dots removed.
    Content(&'a [u8]),
    /// The message is complete: append its reply, or in LMTP a reply for each accepted recipient,
    /// in their order, and call `end_transaction`.
    MessageEnd,
    /// The message was refused for its content, and answered: call `end_transaction`.
    MessageRefused(Verb),
    /// Call `authenticated` or `refuse_authentication`.
    Authenticate(sasl::Credentials),
    /// VRFY: append its reply, or call `refuse_recipient`.
    Verify(&'a str),
    /// EXPN: append its reply, or call `refuse_recipient`.
    Expand(&'a str),
    /// ETRN: append its reply.
    StartQueue(Node<'a>),
    /// XCLIENT: the session is as new. Call `assume_login` if the client is known to have logged
    /// in, and greet, or reject it.
    ClientClaimed,
    /// Send the output, start TLS, call `tls_started`.
    StartTls,
    /// Send the output and close.
    Close(Verb),
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

impl Session {
    pub fn new(role: Role, limits: Limits, security: Security) -> Session {
        let line_max = if role == Role::Submission { AUTH_LINE_MAX } else { COMMAND_LINE_MAX };
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

    pub fn reverse_path(&self) -> &str {
        &self.transaction.reverse_path
    }

    /// Octets of the message so far, those included that were discarded.
    pub fn message_size(&self) -> u64 {
        self.transaction.size
    }

    /// The client's name from HELO, EHLO or LHLO.
    pub fn client_name(&self) -> &str {
        self.claimed().and_then(|client| client.hello.as_deref()).unwrap_or(&self.client_name)
    }

    /// The client that a trusted peer named by XCLIENT.
    pub fn claimed(&self) -> Option<&OriginalClient> {
        self.claimed.as_deref()
    }

    /// After the peer changed: whether the client is one of the site's own.
    pub fn set_trusted(&mut self, trusted: bool) {
        self.security.trusted = trusted;
    }

    /// The client of this transaction that a trusted peer named by XFORWARD, for the log.
    pub fn forwarded(&self) -> Option<&OriginalClient> {
        self.forwarded.as_deref()
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

    /// Accepts the greeting. `hostname` is our own; `now` is for what is announced as a date.
    pub fn accept_greeting(
        &mut self,
        greeting: &Greeting<'_>,
        hostname: &str,
        now: Timestamp,
        output: &mut Vec<u8>,
    ) {
        self.reset_transaction();
        self.client_name.clear();
        self.client_name.push_str(greeting.client_name);
        if greeting.verb == Verb::Helo {
            self.hello = Hello::Helo;
            return reply::append_parts(output, &["250 ", hostname]);
        }
        self.hello = Hello::Extended;
        let hold_max = Duration::from_secs(self.offered().future_release.unwrap_or(0).into());
        self.held_until_max = now.after(hold_max);
        self.append_capabilities(hostname, output);
    }

    /// Accepts the sender.
    pub fn accept_sender(&mut self, sender: &Sender<'_>, output: &mut Vec<u8>) {
        let transaction = &mut self.transaction;
        transaction.open = true;
        transaction.reverse_path.clear();
        transaction.reverse_path.push_str(sender.reverse_path.as_str());
        transaction.body = sender.parameters.body;
        transaction.smtp_utf8 = sender.parameters.smtp_utf8;
        reply::MAIL_OK.append_to(output);
    }

    pub fn accept_recipient(&mut self, output: &mut Vec<u8>) {
        self.transaction.recipients += 1;
        reply::RCPT_OK.append_to(output);
    }

    pub fn refuse_recipient(&mut self, refusal: Reply, output: &mut Vec<u8>) {
        self.refused_recipients += 1;
        refusal.append_to(output);
    }

    /// [`Session::refuse_recipient`] with a line that is not one of ours: it must be printable.
    pub fn reject_recipient(&mut self, line: &str, output: &mut Vec<u8>) {
        self.refused_recipients += 1;
        output.extend_from_slice(line.as_bytes());
        output.extend_from_slice(b"\r\n");
    }

    /// Refuses the current command.
    pub fn refuse(&mut self, refusal: Reply, output: &mut Vec<u8>) {
        self.errors += 1;
        refusal.append_to(output);
    }

    pub fn authenticated(&mut self, output: &mut Vec<u8>) {
        self.authenticated = true;
        reply::AUTHENTICATED.append_to(output);
    }

    /// The client logged in elsewhere, as a trusted peer says.
    pub fn assume_login(&mut self) {
        self.authenticated = true;
    }

    pub fn refuse_authentication(&mut self, refusal: Reply, output: &mut Vec<u8>) {
        self.auth_failures += 1;
        self.refuse(refusal, output);
    }

    /// Whether the credentials are right is not known now; this does not count as a client error.
    pub fn defer_authentication(&mut self, refusal: Reply, output: &mut Vec<u8>) {
        refusal.append_to(output);
    }

    /// RFC 3207 4.2: everything learnt before TLS is forgotten.
    pub fn tls_started(&mut self) {
        let security = Security { tls: true, can_start_tls: false, ..self.security };
        *self = Session::new(self.role, self.limits, security);
    }

    /// Call after [`Event::MessageEnd`] was answered, or after [`Event::MessageRefused`]. An
    /// accepted message resets the error counts.
    pub fn end_transaction(&mut self, accepted: bool) {
        self.reset_transaction();
        if accepted {
            self.errors = 0;
            self.commands = 0;
        }
    }

    fn reset_transaction(&mut self) {
        self.forwarded = None;
        let mut reverse_path = std::mem::take(&mut self.transaction.reverse_path);
        reverse_path.clear();
        self.transaction = Transaction { reverse_path, ..Transaction::default() };
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

    fn hello<'a>(&mut self, greeting: Greeting<'a>) -> Result<Event<'a>, Reply> {
        match (greeting.verb, self.role) {
            (Verb::Helo | Verb::Ehlo, Role::Lmtp) => Err(reply::LHLO_NOT_HELO),
            (Verb::Lhlo, Role::Exchange | Role::Submission) => Err(reply::UNKNOWN_COMMAND),
            _ => Ok(Event::Greeting(greeting)),
        }
    }

    fn offers(&self, offer: Offer) -> bool {
        match offer {
            Offer::Nobody => false,
            Offer::Trusted => self.authenticated || self.security.trusted,
            Offer::Everybody => true,
        }
    }

    fn offers_etrn(&self) -> bool {
        self.role != Role::Lmtp && self.offers(self.limits.etrn)
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

    /// RFC 5321 4.1.1.1: only what can be used in this state.
    fn append_capabilities(&self, hostname: &str, output: &mut Vec<u8>) {
        reply::append_parts(output, &["250-", hostname]);
        output.extend_from_slice(
            b"250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250-BINARYMIME\r\n",
        );
        let size = self.limits.message_size_max.to_string();
        reply::append_parts(output, &["250-SIZE ", &size]);
        if self.security.can_start_tls && !self.security.tls {
            output.extend_from_slice(b"250-STARTTLS\r\n");
        }
        if self.auth_permitted().is_ok() && !self.authenticated {
            output.extend_from_slice(b"250-AUTH");
            for mechanism in sasl::Mechanism::ALL {
                output.push(b' ');
                output.extend_from_slice(mechanism.name().as_bytes());
            }
            output.extend_from_slice(b"\r\n");
        }
        self.append_extensions(output);
        if self.offers(self.limits.expn) {
            output.extend_from_slice(b"250-EXPN\r\n");
        }
        if self.offers_etrn() {
            output.extend_from_slice(b"250-ETRN\r\n");
        }
        if self.security.xclient {
            reply::append_parts(output, &["250-XCLIENT ", XCLIENT_ATTRIBUTES]);
        }
        if self.security.xforward {
            reply::append_parts(output, &["250-XFORWARD ", XFORWARD_ATTRIBUTES]);
        }
        output.extend_from_slice(b"250-HELP\r\n250 ENHANCEDSTATUSCODES\r\n");
    }

    /// What of [`Extensions`] holds for this role and this connection.
    fn offered(&self) -> Extensions {
        let Extensions { dsn, require_tls, deliver_by, mt_priority, future_release, limits } =
            self.limits.extensions;
        Extensions {
            dsn,
            // RFC 8689 2: not announced before TLS.
            require_tls: require_tls && self.security.tls,
            deliver_by: deliver_by.filter(|_| self.role != Role::Lmtp),
            mt_priority,
            // RFC 4865 4: for submission.
            future_release: future_release.filter(|_| self.role == Role::Submission),
            limits,
        }
    }

    fn append_extensions(&self, output: &mut Vec<u8>) {
        let offered = self.offered();
        if offered.dsn {
            output.extend_from_slice(b"250-DSN\r\n");
        }
        if offered.require_tls {
            output.extend_from_slice(b"250-REQUIRETLS\r\n");
        }
        match offered.deliver_by {
            None => {}
            Some(0) => output.extend_from_slice(b"250-DELIVERBY\r\n"),
            Some(least) => reply::append_parts(output, &["250-DELIVERBY ", &least.to_string()]),
        }
        if offered.mt_priority {
            output.extend_from_slice(b"250-MT-PRIORITY\r\n");
        }
        if let Some(seconds) = offered.future_release {
            let (seconds, until) = (seconds.to_string(), rfc3339(self.held_until_max));
            reply::append_parts(output, &["250-FUTURERELEASE ", &seconds, " ", &until]);
        }
        if offered.limits {
            let recipients = format!("250-LIMITS RCPTMAX={}", self.limits.recipients_max);
            let transactions = self.limits.transactions_max;
            let transactions = transactions.map(|most| format!(" MAILMAX={most}"));
            reply::append_parts(output, &[&recipients, transactions.as_deref().unwrap_or("")]);
        }
    }

    /// Parameters of extensions that are not offered are unknown.
    fn check_demands(&self, parameters: &MailParameters<'_>) -> Result<(), Reply> {
        let offered = self.offered();
        if parameters.ask_for_notification() && !offered.dsn
            || parameters.require_tls && !offered.require_tls
            || parameters.deliver_by.is_some() && offered.deliver_by.is_none()
            || parameters.priority.is_some() && !offered.mt_priority
            || parameters.hold.is_some() && offered.future_release.is_none()
        {
            return Err(reply::UNKNOWN_PARAMETER);
        }
        // RFC 2852 4: the minimum is for mode R only.
        if let (Some(by), Some(least)) = (parameters.deliver_by, offered.deliver_by)
            && by.mode == ByMode::Return
            && i64::from(by.seconds) < i64::from(least)
        {
            return Err(reply::DELIVER_BY_TOO_SHORT);
        }
        let too_long = match (parameters.hold, offered.future_release) {
            (Some(Hold::For(seconds)), Some(most)) => seconds > most,
            (Some(Hold::Until(until)), Some(_)) => until > self.held_until_max,
            _ => false,
        };
        if too_long { Err(reply::HELD_TOO_LONG) } else { Ok(()) }
    }

    fn mail<'a>(&mut self, sender: Sender<'a>) -> Result<Event<'a>, Reply> {
        // RFC 9422 4.1: those count that fail, too.
        if self.limits.transactions_max.is_some_and(|most| self.transactions >= most) {
            return Err(reply::TOO_MANY_MESSAGES);
        }
        self.transactions += 1;
        if self.hello == Hello::None {
            return Err(self.hello_first());
        }
        if self.role == Role::Submission && !self.authenticated {
            return Err(reply::AUTH_REQUIRED);
        }
        if self.transaction.open {
            return Err(reply::NESTED_MAIL);
        }
        self.check_demands(&sender.parameters)?;
        // RFC 4954 5: AUTH= belongs to the extension, but senders that log in elsewhere send
        // AUTH=<> to every server. It has no effect, so it is accepted here too.
        // RFC 1870 6.1: refused before any octet is sent.
        if sender.parameters.size.is_some_and(|size| size > self.limits.message_size_max) {
            return Err(reply::TOO_LARGE);
        }
        Ok(Event::Sender(sender))
    }

    /// XCLIENT: another client takes the peer's place, and has said nothing yet.
    fn claim<'a>(&mut self, attributes: &str) -> Result<Event<'a>, Reply> {
        if !self.security.xclient {
            return Err(reply::NOT_TRUSTED);
        }
        if self.transaction.open {
            return Err(reply::IN_TRANSACTION);
        }
        let mut client = self.claimed().cloned().unwrap_or_default().for_next();
        client.take(attributes, XCLIENT_ATTRIBUTES).ok_or(reply::BAD_PARAMETER)?;
        self.claimed = Some(Box::new(client));
        self.reset_transaction();
        self.hello = Hello::None;
        self.client_name.clear();
        self.authenticated = false;
        Ok(Event::ClientClaimed)
    }

    /// XFORWARD: several may follow each other before MAIL.
    fn forward<'a>(&mut self, attributes: &str, output: &mut Vec<u8>) -> Result<Event<'a>, Reply> {
        if !self.security.xforward {
            return Err(reply::NOT_TRUSTED);
        }
        if self.transaction.open {
            return Err(reply::IN_TRANSACTION);
        }
        let mut client = self.forwarded().cloned().unwrap_or_default();
        client.take(attributes, XFORWARD_ATTRIBUTES).ok_or(reply::BAD_PARAMETER)?;
        self.forwarded = Some(Box::new(client));
        Ok(answer(Event::Answered(Verb::Xforward), reply::FORWARD_OK, output))
    }

    fn hello_first(&self) -> Reply {
        if self.role == Role::Lmtp { reply::LHLO_FIRST } else { reply::HELLO_FIRST }
    }

    fn recipient<'a>(
        &mut self,
        forward_path: ForwardPath<'a>,
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Reply> {
        if forward_path.parameters.ask_for_notification() && !self.limits.extensions.dsn {
            return Err(reply::UNKNOWN_PARAMETER);
        }
        if !self.transaction.open {
            return Err(reply::MAIL_FIRST);
        }
        if self.transaction.chunked {
            return Err(reply::RCPT_AFTER_BDAT);
        }
        if self.transaction.recipients >= self.limits.recipients_max {
            // RFC 5321 4.5.3.1.10: a temporary refusal, so that the client sends the rest later. It
            // does not count as an error, since a long list would then end the session.
            return Ok(answer(Event::Answered(Verb::Rcpt), reply::TOO_MANY_RECIPIENTS, output));
        }
        if !self.transaction.smtp_utf8 && !forward_path.path.is_ascii() {
            return Err(reply::FORWARD_PATH_NEEDS_UTF8);
        }
        let original = forward_path.parameters.orcpt;
        if !self.transaction.smtp_utf8 && original.is_some_and(|orcpt| !orcpt.is_ascii()) {
            return Err(reply::ORIGINAL_NEEDS_UTF8);
        }
        Ok(Event::Recipient(forward_path))
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
}

fn answer<'a>(event: Event<'a>, reply: Reply, output: &mut Vec<u8>) -> Event<'a> {
    reply.append_to(output);
    event
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::command::NodeKind, *};

    /// 2026-11-23T21:36:29Z.
    const NOW: Timestamp = Timestamp(1_795_469_789_000_000);
    const NO_SUCH_USER: Reply = Reply("550 5.1.1 No");
    const PLAIN: Security = Security {
        tls: false,
        can_start_tls: false,
        plaintext_auth: true,
        xclient: false,
        xforward: false,
        trusted: false,
    };

    /// Plays `input`, cut at `cut`, with a service that accepts everything except recipients named
    /// "no"; returns all output and all messages.
    fn play(role: Role, limits: Limits, input: &[u8], cut: usize) -> (String, Vec<String>) {
        let mut session = Session::new(role, limits, PLAIN);
        let (mut output, mut messages, mut message) = (Vec::new(), Vec::new(), Vec::new());
        let (mut start, mut end, mut recipients) = (0, cut, 0);
        loop {
            let (consumed, event) = session.next(&input[start..end], &mut output);
            start += consumed;
            match event {
                Event::Incomplete if end == input.len() => break,
                Event::Incomplete => end = input.len(),
                Event::Answered(_) => (),
                Event::Reset(_) => {
                    recipients = 0;
                    message.clear();
                }
                Event::MessageRefused(_) => {
                    session.end_transaction(false);
                    recipients = 0;
                    message.clear();
                }
                Event::Greeting(greeting) => {
                    session.accept_greeting(&greeting, "me.test", NOW, &mut output);
                    recipients = 0;
                    message.clear();
                }
                Event::MessageStart(_) => session.accept_message(&mut output),
                Event::Sender(sender) => session.accept_sender(&sender, &mut output),
                Event::Recipient(it) if it.path.as_str().starts_with("no") => {
                    session.refuse_recipient(NO_SUCH_USER, &mut output);
                }
                Event::Recipient(_) => {
                    recipients += 1;
                    session.accept_recipient(&mut output);
                }
                Event::Content(content) => message.extend_from_slice(content),
                Event::MessageEnd => {
                    let replies = if role == Role::Lmtp { recipients } else { 1 };
                    (0..replies).for_each(|_| reply::DELIVERED.append_to(&mut output));
                    messages.push(String::from_utf8_lossy(&message).into_owned());
                    message.clear();
                    recipients = 0;
                    session.end_transaction(true);
                }
                Event::Authenticate(_) => session.authenticated(&mut output),
                Event::StartTls => panic!("TLS is not offered"),
                Event::Verify(_)
                | Event::Expand(_)
                | Event::StartQueue(_)
                | Event::ClientClaimed => panic!("not allowed here"),
                Event::Close(_) => break,
            }
        }
        (String::from_utf8_lossy(&output).into_owned(), messages)
    }

    /// The code of each reply, continuation lines left out.
    fn codes(output: &str) -> Vec<&str> {
        output.lines().filter(|line| line.get(3..4) == Some(" ")).map(|line| &line[..3]).collect()
    }

    fn check(role: Role, limits: Limits, input: &str, expected: &str, messages: &[&str]) {
        for cut in 0..=input.len() {
            let (output, found) = play(role, limits, input.as_bytes(), cut);
            assert_eq!(codes(&output).join(" "), expected, "{input:?} cut at {cut}: {output}");
            assert_eq!(found, messages, "{input:?} cut at {cut}");
        }
    }

    #[test]
    fn dialogues() {
        use Role::*;
        const CASES: &[(Role, &str, &str, &[&str])] = &[
            (Exchange, "NOOP\r\nRSET\r\nQUIT\r\nNOOP\r\n", "250 250 221", &[]),
            (Exchange, "MAIL FROM:<a@b>\r\n", "503", &[]),
            (Exchange, "LHLO x\r\n", "500", &[]),
            (Lmtp, "HELO x\r\nEHLO x\r\nLHLO x\r\n", "500 500 250", &[]),
            (
                Exchange,
                "HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n..x\r\n.\r\nQUIT\r\n",
                "250 250 250 354 250 221",
                &[".x\r\n"],
            ),
            (
                Exchange,
                "EHLO x\r\nRCPT TO:<a@b>\r\nDATA\r\nMAIL FROM:<c@d>\r\nMAIL FROM:<c@d>\r\nDATA\r\n",
                "250 503 503 250 503 554",
                &[],
            ),
            (
                Lmtp,
                "LHLO x\r\nMAIL FROM:<c@d>\r\nRCPT TO:<no@b>\r\nDATA\r\nRCPT TO:<a@b>\r\n\
                 RCPT TO:<b@b>\r\nDATA\r\nx\r\n.\r\n",
                "250 250 550 503 250 250 354 250 250",
                &["x\r\n"],
            ),
            (
                Exchange,
                "EHLO x\r\nMAIL FROM:<c@d> BODY=BINARYMIME\r\nRCPT TO:<a@b>\r\nDATA\r\n\
                 BDAT 4\r\na\n.\nBDAT 0\r\nDATA\r\nBDAT 2 LAST\r\nbcNOOP\r\n",
                "250 250 250 503 250 250 503 250 250",
                &["a\n.\nbc"],
            ),
            (Exchange, "EHLO x\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", "250 503 250", &[]),
            (Exchange, "EHLO x\r\nBDAT six\r\nQUIT\r\n", "250 501 421", &[]),
            (
                Exchange,
                "EHLO x\r\nMAIL FROM:<c@d> SIZE=101\r\nMAIL FROM:<c@d> SIZE=100\r\n",
                "250 552 250",
                &[],
            ),
            (
                Exchange,
                "EHLO x\r\nMAIL FROM:<c@d>\r\nRCPT TO:<a@b>\r\nDATA\r\nbare\nLF\r\n.\r\nNOOP\r\n",
                "250 250 250 354 550 250",
                &[],
            ),
            (
                Exchange,
                "EHLO x\r\nMAIL FROM:<c@d>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n.\nMAIL FROM:<e@f>\r\n",
                "250 250 250 354 521",
                &[],
            ),
            (
                Exchange,
                "EHLO x\r\nMAIL FROM:<c@d>\r\nRCPT TO:<\u{e9}@b>\r\nRSET\r\n\
                 MAIL FROM:<c@d> SMTPUTF8\r\nRCPT TO:<\u{e9}@b>\r\n",
                "250 250 553 250 250 250",
                &[],
            ),
            (Exchange, "EHLO x\r\nAUTH PLAIN AGEAYg==\r\nSTARTTLS\r\n", "250 502 502", &[]),
            (Exchange, "EHLO x\r\nMAIL FROM:<c@d> AUTH=<>\r\n", "250 250", &[]),
            (Submission, "EHLO x\r\nMAIL FROM:<c@d>\r\n", "250 530", &[]),
            (
                Submission,
                "EHLO x\r\nAUTH PLAIN AGEAYg==\r\nAUTH PLAIN AGEAYg==\r\nMAIL FROM:<c@d> AUTH=<>\r\n",
                "250 235 503 250",
                &[],
            ),
            (Submission, "EHLO x\r\nAUTH LOGIN\r\nYQ==\r\nYg==\r\n", "250 334 334 235", &[]),
            (Submission, "EHLO x\r\nAUTH PLAIN\r\n*\r\nNOOP\r\n", "250 334 501 250", &[]),
            (Submission, "EHLO x\r\nAUTH PLAIN\r\n!\r\nAUTH X\r\n", "250 334 501 504", &[]),
            (Submission, "HELO x\r\nAUTH PLAIN AGEAYg==\r\n", "250 503", &[]),
            (Exchange, "VRFY a\r\nEXPN a\r\nHELP\r\nTURN\r\nFOO\r\n", "252 502 214 502 500", &[]),
            (Exchange, "NOOP\nNOOP\r\n", "500 250", &[]),
        ];
        let limits = Limits { message_size_max: 100, ..Limits::default() };
        for (role, input, expected, messages) in CASES {
            check(*role, limits, input, expected, messages);
        }
    }

    #[test]
    fn limits_have_replies() {
        const MAIL: &str = "EHLO x\r\nMAIL FROM:<c@d>\r\n";
        let limits = Limits {
            message_size_max: 10,
            recipients_max: 2,
            refused_recipients_max: 2,
            errors_max: 2,
            commands_max: 8,
            hops_max: 1,
            text_line_max: Some(5),
            ..Limits::default()
        };
        let check = |input: &str, expected: &str| {
            check(Role::Exchange, limits, &format!("{MAIL}{input}"), expected, &[]);
        };
        check(&"RCPT TO:<a@b>\r\n".repeat(6), "250 250 250 250 452 452 452 452");
        check(&"RCPT TO:<no@b>\r\n".repeat(4), "250 250 550 550 550 421");
        check(&"FOO\r\n".repeat(4), "250 250 500 500 500 421");
        check(&"NOOP\r\n".repeat(9), "250 250 250 250 250 250 250 250 250 421");
        let rcpt = "RCPT TO:<a@b>\r\nDATA\r\n";
        check(&format!("{rcpt}a\r\nb\r\nc\r\nd\r\n.\r\n"), "250 250 250 354 552");
        check(&format!("{rcpt}abcdef\r\n.\r\n"), "250 250 250 354 550");
        check("RCPT TO:<a@b>\r\nBDAT 11 LAST\r\n12345678901", "250 250 250 552");
        check("RCPT TO:<a@b>\r\nBDAT 99999999999 LAST\r\n", "250 250 250 421");
        let long = format!("NOOP {}\r\n", "x".repeat(COMMAND_LINE_MAX));
        assert_eq!(codes(&play(Role::Exchange, limits, long.as_bytes(), 0).0), ["500"]);
        let hops = Limits { message_size_max: 1000, text_line_max: None, ..limits };
        let looping = format!("{MAIL}{rcpt}Received: a\r\nReceived: b\r\n\r\n.\r\n");
        let (output, _) = play(Role::Exchange, hops, looping.as_bytes(), 0);
        assert!(output.ends_with("554 5.4.6 Too many Received header fields: a mail loop\r\n"));
    }

    #[test]
    fn capabilities_follow_the_state() {
        let offered = |role, security| {
            let mut output = Vec::new();
            let line: &[u8] = if role == Role::Lmtp { b"LHLO x\r\n" } else { b"EHLO x\r\n" };
            let mut session = Session::new(role, Limits::default(), security);
            let Event::Greeting(greeting) = session.next(line, &mut output).1 else {
                panic!("a greeting");
            };
            session.accept_greeting(&greeting, "me.test", NOW, &mut output);
            let text = String::from_utf8_lossy(&output).into_owned();
            assert!(text.starts_with("250-me.test\r\n") && text.contains("250-SIZE 52428800\r\n"));
            (text.contains("STARTTLS"), text.contains("AUTH PLAIN LOGIN"))
        };
        let plain = Security { can_start_tls: true, ..Security::default() };
        let tls = Security { tls: true, can_start_tls: true, ..Security::default() };
        assert_eq!(offered(Role::Exchange, plain), (true, false));
        assert_eq!(offered(Role::Submission, plain), (true, false));
        assert_eq!(offered(Role::Submission, tls), (false, true));
        assert_eq!(offered(Role::Submission, PLAIN), (false, true));
        assert_eq!(offered(Role::Lmtp, tls), (false, false));
    }

    #[test]
    fn tls_forgets_what_was_said_before() {
        let security = Security { can_start_tls: true, ..Security::default() };
        let mut session = Session::new(Role::Exchange, Limits::default(), security);
        let mut output = Vec::new();
        let greeting = Greeting { verb: Verb::Ehlo, client_name: "x" };
        assert_eq!(session.next(b"EHLO x\r\n", &mut output).1, Event::Greeting(greeting));
        session.accept_greeting(&greeting, "me.test", NOW, &mut output);
        assert_eq!(session.next(b"STARTTLS\r\n", &mut output).1, Event::StartTls);
        session.tls_started();
        output.clear();
        session.next(b"MAIL FROM:<a@b>\r\n", &mut output);
        session.next(b"STARTTLS\r\n", &mut output);
        assert_eq!(codes(&String::from_utf8_lossy(&output)), ["503", "503"]);
    }

    #[test]
    fn notifications_are_asked_for_only_where_they_are_offered() {
        let input = "EHLO x\r\nMAIL FROM:<c@d> RET=HDRS\r\nMAIL FROM:<c@d>\r\n\
                     RCPT TO:<a@b> NOTIFY=NEVER\r\nRCPT TO:<a@b>\r\n";
        let offered = Limits {
            extensions: Extensions { dsn: true, ..Extensions::default() },
            ..Limits::default()
        };
        let (output, _) = play(Role::Exchange, Limits::default(), input.as_bytes(), 0);
        assert_eq!(codes(&output).join(" "), "250 555 250 555 250");
        assert!(!output.contains("DSN"));
        let (output, _) = play(Role::Exchange, offered, input.as_bytes(), 0);
        assert_eq!(codes(&output).join(" "), "250 250 503 250 250");
        assert!(output.contains("250-DSN\r\n"));
    }

    const ALL: Extensions = Extensions {
        dsn: true,
        require_tls: true,
        deliver_by: Some(60),
        mt_priority: true,
        future_release: Some(3600),
        limits: true,
    };

    #[test]
    fn extensions_are_announced_where_they_hold() {
        let announced = |role, tls, extensions, transactions_max| {
            let limits = Limits { extensions, transactions_max, ..Limits::default() };
            let mut session = Session::new(role, limits, Security { tls, ..PLAIN });
            let greeting = Greeting { verb: Verb::Ehlo, client_name: "x" };
            let mut output = Vec::new();
            session.accept_greeting(&greeting, "me.test", NOW, &mut output);
            let text = String::from_utf8_lossy(&output).into_owned();
            let begin = text.find("250-DSN").or(text.find("250-HELP")).expect("HELP");
            let lines = text[begin..].lines().take_while(|line| !line.ends_with("HELP"));
            lines.map(|line| line[4..].to_owned()).collect::<Vec<_>>().join(", ")
        };
        let bare = Extensions { deliver_by: Some(0), ..ALL };
        assert_eq!(
            announced(Role::Submission, true, ALL, Some(50)),
            "DSN, REQUIRETLS, DELIVERBY 60, MT-PRIORITY, FUTURERELEASE 3600 2026-11-23T22:36:29Z, \
             LIMITS RCPTMAX=1000 MAILMAX=50"
        );
        assert_eq!(
            announced(Role::Exchange, false, bare, None),
            "DSN, DELIVERBY, MT-PRIORITY, LIMITS RCPTMAX=1000"
        );
        assert_eq!(
            announced(Role::Lmtp, true, ALL, None),
            "DSN, REQUIRETLS, MT-PRIORITY, LIMITS RCPTMAX=1000"
        );
        assert_eq!(announced(Role::Submission, true, Extensions::default(), Some(1)), "");
    }

    /// Each parameter, and the reply where its extension is not offered and where it is.
    #[test]
    fn demands_are_taken_where_they_are_offered() {
        const CASES: &[(&str, &str)] = &[
            ("RET=FULL", "250"),
            ("REQUIRETLS", "250"),
            ("BY=59;N", "250"),
            ("BY=-59;N", "250"),
            ("BY=59;R", "555"),
            ("BY=60;R", "250"),
            ("MT-PRIORITY=9", "250"),
            ("HOLDFOR=3600", "250"),
            ("HOLDFOR=3601", "501"),
            ("HOLDUNTIL=2026-11-23T22:36:29Z", "250"),
            ("HOLDUNTIL=2026-11-23T22:36:30Z", "501"),
            ("HOLDUNTIL=2016-11-23T22:36:30Z", "250"),
        ];
        let reply = |role, tls, extensions, parameter: &str| {
            let limits = Limits { extensions, ..Limits::default() };
            let mut session = Session::new(role, limits, Security { tls, ..PLAIN });
            let greeting = Greeting { verb: Verb::Ehlo, client_name: "x" };
            let mut output = Vec::new();
            session.accept_greeting(&greeting, "me.test", NOW, &mut output);
            session.authenticated(&mut output);
            output.clear();
            let line = format!("MAIL FROM:<a@b> {parameter}\r\n");
            match session.next(line.as_bytes(), &mut output).1 {
                Event::Sender(_) => "250".to_owned(),
                _ => String::from_utf8_lossy(&output)[..3].to_owned(),
            }
        };
        for (parameter, expected) in CASES {
            let offered = reply(Role::Submission, true, ALL, parameter);
            assert_eq!(offered, *expected, "{parameter}");
            let not_offered = reply(Role::Submission, true, Extensions::default(), parameter);
            assert_eq!(not_offered, "555", "{parameter}");
        }
        assert_eq!(reply(Role::Submission, false, ALL, "REQUIRETLS"), "555");
        assert_eq!(reply(Role::Exchange, true, ALL, "HOLDFOR=1"), "555");
        assert_eq!(reply(Role::Lmtp, true, ALL, "BY=60;N"), "555");
    }

    #[test]
    fn transactions_of_a_session_are_limited() {
        let limits = Limits { transactions_max: Some(2), ..Limits::default() };
        let input = format!("EHLO x\r\n{}", "MAIL FROM:<a@b>\r\nRSET\r\n".repeat(3));
        check(Role::Exchange, limits, &input, "250 250 250 250 250 452 250", &[]);
        let input = "EHLO x\r\nMAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\nRSET\r\nMAIL FROM:<a@b>\r\n";
        check(Role::Exchange, limits, input, "250 250 503 250 452", &[]);
    }

    #[test]
    fn an_original_recipient_in_utf8_needs_the_extension() {
        let limits = Limits { extensions: ALL, ..Limits::default() };
        let input = "EHLO x\r\nMAIL FROM:<c@d>\r\nRCPT TO:<a@b> ORCPT=utf-8;\u{e9}@b\r\nRSET\r\n\
                     MAIL FROM:<c@d> SMTPUTF8\r\nRCPT TO:<a@b> ORCPT=utf-8;\u{e9}@b\r\n";
        check(Role::Exchange, limits, input, "250 250 501 250 250 250", &[]);
    }

    #[test]
    fn trusted_peers_speak_for_others() {
        let security = Security { xclient: true, xforward: true, ..PLAIN };
        let mut session = Session::new(Role::Exchange, Limits::default(), security);
        let say = |session: &mut Session, line: &str| {
            let (mut output, line) = (Vec::new(), format!("{line}\r\n"));
            match session.next(line.as_bytes(), &mut output).1 {
                Event::Greeting(greeting) => {
                    session.accept_greeting(&greeting, "me.test", NOW, &mut output);
                }
                Event::Sender(sender) => session.accept_sender(&sender, &mut output),
                Event::ClientClaimed => session.greet("me.test", &mut output),
                _ => {}
            }
            String::from_utf8_lossy(&output).into_owned()
        };
        let heard = say(&mut session, "EHLO filter.test");
        assert!(heard.contains("\r\n250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DEST"), "{heard}");
        assert!(heard.contains("\r\n250-XFORWARD NAME ADDR"), "{heard}");
        assert!(say(&mut session, "XFORWARD ADDR=192.0.2.7 HELO=one").starts_with("250 "));
        assert!(say(&mut session, "XFORWARD HELO=two").starts_with("250 "));
        assert!(say(&mut session, "XFORWARD HELO=three ADDR=x").starts_with("501 "));
        assert!(say(&mut session, "MAIL FROM:<a@b>").starts_with("250 "));
        assert!(say(&mut session, "XFORWARD HELO=two").starts_with("503 "));
        assert!(say(&mut session, "XCLIENT HELO=two").starts_with("503 "));
        let client = session.forwarded().expect("a client");
        assert_eq!((client.hello.as_deref(), client.address.is_some()), (Some("two"), true));
        assert_eq!(session.client_name(), "filter.test");
        say(&mut session, "RSET");
        assert_eq!(session.forwarded(), None);
        let claim = "XCLIENT ADDR=192.0.2.8 PROTO=SMTP HELO=real.test";
        assert!(say(&mut session, claim).starts_with("220 me.test "));
        assert!(say(&mut session, "MAIL FROM:<a@b>").starts_with("503 "));
        say(&mut session, "EHLO filter.test");
        assert_eq!((session.client_name(), session.transport().keyword()), ("real.test", "SMTP"));
        say(&mut session, "XCLIENT LOGIN=alice HELO=real.test");
        let login = |session: &Session| session.claimed().and_then(|client| client.login.clone());
        assert_eq!(login(&session).as_deref(), Some("alice"));
        session.assume_login();
        let heard = say(&mut session, "EHLO filter.test");
        assert!(session.transport().authenticated && !heard.contains("250-AUTH"), "{heard}");
        say(&mut session, "XCLIENT ADDR=192.0.2.9");
        assert!(!session.transport().authenticated && login(&session).is_none());
        let mut stranger = Session::new(Role::Exchange, Limits::default(), PLAIN);
        let heard = say(&mut stranger, "EHLO x");
        assert!(!heard.contains("XCLIENT") && !heard.contains("XFORWARD"));
        assert!(say(&mut stranger, claim).starts_with("550 "));
        assert!(say(&mut stranger, "XFORWARD ADDR=192.0.2.8").starts_with("550 "));
    }

    #[test]
    fn expn_and_etrn_by_policy() {
        let node = Node { text: "x.test", kind: NodeKind::Domain };
        let may = |role, offer, trusted, logged_in| {
            let limits = Limits { expn: offer, etrn: offer, ..Limits::default() };
            let mut session = Session::new(role, limits, Security { trusted, ..PLAIN });
            let mut output = Vec::new();
            if logged_in {
                session.authenticated(&mut output);
            }
            output.clear();
            let early = session.next(b"ETRN x.test\r\n", &mut output).1;
            let refused = matches!(early, Event::Answered(Verb::Etrn));
            assert!(refused && matches!(&*output, [b'5', b'0', b'2' | b'3', ..]));
            output.clear();
            let verb = if role == Role::Lmtp { Verb::Lhlo } else { Verb::Ehlo };
            let greeting = Greeting { verb, client_name: "x" };
            session.accept_greeting(&greeting, "me.test", NOW, &mut output);
            let offered = String::from_utf8(std::mem::take(&mut output)).unwrap();
            let expn = session.next(b"EXPN list\r\n", &mut output).1 == Event::Expand("list");
            let etrn = session.next(b"ETRN x.test\r\n", &mut output).1 == Event::StartQueue(node);
            assert_eq!(offered.contains("250-EXPN\r\n"), expn);
            assert_eq!(offered.contains("250-ETRN\r\n"), etrn);
            assert_eq!(
                codes(std::str::from_utf8(&output).unwrap()).len(),
                2 - usize::from(expn) - usize::from(etrn)
            );
            (expn, etrn)
        };
        for (role, offer, trusted, logged_in, expected) in [
            (Role::Exchange, Offer::Nobody, true, true, (false, false)),
            (Role::Exchange, Offer::Trusted, false, false, (false, false)),
            (Role::Exchange, Offer::Trusted, true, false, (true, true)),
            (Role::Submission, Offer::Trusted, false, true, (true, true)),
            (Role::Exchange, Offer::Everybody, false, false, (true, true)),
            (Role::Lmtp, Offer::Everybody, true, false, (true, false)),
        ] {
            let case = (role, offer, trusted, logged_in);
            assert_eq!(may(role, offer, trusted, logged_in), expected, "{case:?}");
        }
        let limits = Limits { etrn: Offer::Everybody, ..Limits::default() };
        let mut session = Session::new(Role::Exchange, limits, PLAIN);
        let mut output = Vec::new();
        let greeting = Greeting { verb: Verb::Ehlo, client_name: "x" };
        session.accept_greeting(&greeting, "me.test", NOW, &mut output);
        session.transaction.open = true;
        output.clear();
        session.next(b"ETRN x.test\r\n", &mut output);
        assert!(output.starts_with(b"503 "));
    }

    #[test]
    fn replies_with_many_lines_end_with_a_space() {
        let mut output = Vec::new();
        reply::append_members(&mut output, &["a@x.test".to_owned(), "b@x.test".to_owned()]);
        reply::append_members(&mut output, &["c@x.test".to_owned()]);
        let lines = "250-2.1.5 <a@x.test>\r\n250 2.1.5 <b@x.test>\r\n250 2.1.5 <c@x.test>\r\n";
        assert_eq!(std::str::from_utf8(&output).unwrap(), lines);
    }

    #[test]
    fn vrfy_by_policy() {
        let reply = |vrfy| {
            let limits = Limits { vrfy, ..Limits::default() };
            let mut session = Session::new(Role::Exchange, limits, PLAIN);
            let mut output = Vec::new();
            let verified = session.next(b"VRFY alice\r\n", &mut output).1 == Event::Verify("alice");
            (verified, String::from_utf8_lossy(&output).chars().take(3).collect::<String>())
        };
        assert_eq!(reply(Vrfy::Unsure), (false, "252".into()));
        assert_eq!(reply(Vrfy::Off), (false, "502".into()));
        assert_eq!(reply(Vrfy::Known), (true, String::new()));
    }

    /// Refusals by the service at each step, and the client's view of them.
    #[test]
    fn refusals_at_each_step() {
        const NO: Reply = Reply("450 4.7.1 Not now");
        let play = |refused: &str, input: &str| {
            let mut session = Session::new(Role::Exchange, Limits::default(), PLAIN);
            let (mut output, mut rest) = (Vec::new(), input.as_bytes());
            if refused == "connect" {
                session.reject(Reply("554 5.7.1 No"), &mut output);
            }
            loop {
                let (consumed, event) = session.next(rest, &mut output);
                let accepted = match event {
                    Event::Incomplete | Event::Close(_) => break,
                    Event::Greeting(_) if refused == "hello" => false,
                    Event::Greeting(it) => {
                        session.accept_greeting(&it, "me.test", NOW, &mut output);
                        true
                    }
                    Event::Sender(sender) => {
                        session.accept_sender(&sender, &mut output);
                        true
                    }
                    Event::Recipient(_) => {
                        session.accept_recipient(&mut output);
                        true
                    }
                    Event::MessageStart(_) if refused == "message" => {
                        session.refuse_message(NO, &mut output);
                        true
                    }
                    Event::MessageStart(_) => {
                        session.accept_message(&mut output);
                        true
                    }
                    Event::MessageEnd => {
                        reply::DELIVERED.append_to(&mut output);
                        session.end_transaction(true);
                        true
                    }
                    _ => true,
                };
                if !accepted {
                    session.refuse(NO, &mut output);
                }
                rest = &rest[consumed..];
            }
            codes(&String::from_utf8_lossy(&output)).join(" ")
        };
        const MAIL: &str = "EHLO x\r\nMAIL FROM:<c@d>\r\nRCPT TO:<a@b>\r\n";
        let to_data = format!("{MAIL}DATA\r\nRSET\r\n");
        let to_chunk = format!("{MAIL}BDAT 3\r\nabcBDAT 1 LAST\r\nxNOOP\r\n");
        // RFC 5321 3.1: after 554 the client is served until QUIT, and gets 503.
        assert_eq!(play("connect", "EHLO x\r\nNOOP\r\nQUIT\r\n"), "554 503 503 221");
        assert_eq!(play("connect", &"NOOP\r\n".repeat(30))[..7], *"554 503");
        assert!(play("connect", &"NOOP\r\n".repeat(30)).ends_with("503 421"));
        assert_eq!(play("hello", &to_data), "450 503 503 503 250");
        assert_eq!(play("message", &to_data), "250 250 250 450 250");
        // RFC 3030 2: a chunk is read to its end, whatever the reply to it.
        assert_eq!(play("message", &to_chunk), "250 250 250 450 503 250");
        assert_eq!(play("", &to_chunk), "250 250 250 250 250 250");
        let long = format!("{MAIL}BDAT {}\r\nabc", SWALLOW_MAX + 1);
        assert_eq!(play("message", &long), "250 250 250 421");
    }

    proptest! {
        #[test]
        fn anything_is_answered_the_same_however_cut(
            words in proptest::collection::vec(proptest::sample::select(vec![
                "EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<a@b>", "DATA", "BDAT 3", "BDAT 2 LAST",
                "RSET", "\r\n", "\r\n", "\r\n", "\n", "\r", ".", "x", "AUTH PLAIN", "*",
            ]), 0..40),
            cut in 0usize..100,
        ) {
            let input = words.concat().into_bytes();
            for role in [Role::Exchange, Role::Submission, Role::Lmtp] {
                let whole = play(role, Limits::default(), &input, input.len());
                let cut = play(role, Limits::default(), &input, cut.min(input.len()));
                prop_assert_eq!(whole, cut);
            }
        }
    }
}
