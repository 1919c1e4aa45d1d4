//! One session: passes input to `protocol::smtp::Session` and its events to directory, policy and
//! delivery, and sends all replies to one piece of input in one write. The loop is
//! `service/channel.rs`.

use std::{convert::Infallible, rc::Rc, time::Duration};

use super::{
    ListenerKind,
    envelope::{Envelope, MESSAGES_FAILED, Outcome, has_room},
    policy::{self, Client, Disposition},
    recipient::{self, Recipient, Route},
    replies::{
        AUTH_BUSY, AUTH_LIMITED, AUTH_TEMPORARY, CONNECTION_DEFERRED, DEFERRED, LOGIN_UNCERTAIN,
        LOGIN_UNKNOWN, MESSAGES_BUSY, NO_MEMORY, SHUTTING_DOWN, TIMED_OUT,
    },
};
use crate::{
    directory::{AuthenticationError, Identity},
    dkim::Signer,
    events,
    model::{MailClass, Moment, Network},
    protocol::{
        sasl::{Mechanisms, Question},
        smtp::{Event, Reply, Role, Security, Sender, Session, Verb, reply},
    },
    runtime::{
        answer::Answer,
        connection::{Connection, ConnectionError},
    },
    service::{
        Shard,
        authentication::{self, LogIn},
        channel::{self, Channel, Dialogue, OUTPUT_MAX, Step},
        delivery::Poster,
        intake::{Pace, STALL},
        relay,
    },
};

/// Reply memory kept while waiting for input.
const IDLE_REPLIES_MAX: usize = 1024;

type End = channel::End<Infallible>;

/// Where the mail then goes, or the reply that refuses it.
type Judged = Result<Disposition, Reply>;

fn client<'a>(
    session: &'a Session,
    connection: &Connection,
    listener: ListenerKind,
    identity: Option<&Identity>,
) -> Client<'a> {
    Client {
        peer: connection.peer().ip(),
        listener,
        name: session.client_name(),
        tls: connection.is_tls(),
        account: identity.map(|identity| identity.account),
    }
}

/// Whether the peer is in one of the networks.
fn is_among(networks: &[Network], connection: &Connection) -> bool {
    if networks.is_empty() {
        return false;
    }
    let peer = Network::exact(connection.peer().ip());
    networks.iter().any(|network| network.contains(&peer))
}

/// Whether the client is one of the site's own without a log-in.
fn is_trusted(shard: &Shard, kind: ListenerKind, connection: &Connection) -> bool {
    kind.class() != MailClass::Inbound || shard.directory.may_relay(connection.peer().ip())
}

struct Conversation {
    channel: Channel,
    kind: ListenerKind,
    session: Session,
    envelope: Envelope,
    /// For the message being received.
    pace: Option<Pace>,
    identity: Option<Identity>,
    log_in: LogIn,
    /// The dispositions of all mail on this connection, and of all mail since the client's last
    /// greeting.
    dispositions: [Disposition; 2],
    /// Replies not yet passed to the connection: events borrow its input meanwhile.
    replies: Vec<u8>,
    /// The channel's deadline is that of the next command, which must be complete by then. Octets
    /// that trickle in do not extend it.
    awaits_command: bool,
    /// When the current command began.
    started: Moment,
}

/// Runs a session to its end and closes the connection. Short-lived state is boxed, since a session
/// may wait for hours.
pub(super) fn converse(
    connection: Connection,
    shard: Rc<Shard>,
    kind: ListenerKind,
) -> impl Future<Output = ()> {
    let session = Box::new(Conversation::new(connection, shard, kind));
    async move {
        channel::serve(session).await;
    }
}

/// The reply when the connection ends the session; none if the client cannot receive it.
fn farewell(error: &ConnectionError) -> Option<Reply> {
    match error {
        ConnectionError::TimedOut => Some(TIMED_OUT),
        ConnectionError::ShuttingDown => Some(SHUTTING_DOWN),
        ConnectionError::NoMemory => Some(NO_MEMORY),
        ConnectionError::Closed | ConnectionError::Tls(_) | ConnectionError::Io(_) => None,
    }
}

impl Dialogue for Conversation {
    /// SMTP sessions never move, because they have many recipients.
    type Destination = Infallible;
    type Handover = Infallible;

    fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// The greeting, after the policy's decision.
    async fn begin(&mut self) -> Result<(), End> {
        self.started = self.channel.shard.executor.moment();
        self.session.set_mechanisms(self.mechanisms());
        let refusal = match self.judged(policy::Step::Connect).await {
            Ok(disposition) => {
                self.dispositions[0] = disposition;
                let hostname = &self.channel.shard.options.hostname;
                self.session.greet(hostname, &mut self.replies);
                return Ok(());
            }
            Err(DEFERRED) => CONNECTION_DEFERRED,
            Err(refusal) => refusal,
        };
        self.turn_away(refusal)
    }

    async fn step(&mut self) -> Result<Step, End> {
        let (consumed, event) =
            self.session.next(self.channel.connection.input(), &mut self.replies);
        // Events borrow the input: it is consumed when they have been handled, which may take some
        // time.
        self.awaits_command &= event == Event::Incomplete;
        match event {
            Event::Incomplete => {
                self.channel.connection.consume(consumed);
                return Ok(Step::Incomplete);
            }
            Event::Content(content) => {
                Box::pin(self.envelope.push(&self.channel.shard, content)).await;
            }
            Event::Greeting(greeting) => {
                match self.judged(policy::Step::Hello(greeting.client_name)).await {
                    Ok(disposition) => {
                        self.dispositions[1] = disposition;
                        let hostname = &self.channel.shard.options.hostname;
                        let now = self.channel.shard.executor.now();
                        self.session.accept_greeting(&greeting, hostname, now, &mut self.replies);
                        self.envelope.clear();
                        self.pace = None;
                    }
                    Err(refusal) => self.session.refuse(refusal, &mut self.replies),
                }
                self.answered(greeting.verb);
            }
            Event::Sender(sender) => {
                match self.judge_sender(&sender).await {
                    Ok(disposition) => {
                        self.dispositions.iter().for_each(|it| self.envelope.dispose(*it));
                        self.envelope.dispose(disposition);
                        self.envelope.note_sender(&sender, self.channel.shard.executor.now());
                        self.envelope.sign_with(self.signer(&sender), &sender);
                        self.envelope.rewrite_headers(self.rewrites_headers());
                        self.session.accept_sender(&sender, &mut self.replies);
                    }
                    Err(refusal) => self.session.refuse(refusal, &mut self.replies),
                }
                self.answered(Verb::Mail);
            }
            Event::Recipient(forward_path) => {
                let peer = self.channel.connection.peer().ip();
                let logged_in = self.identity.is_some();
                let asker = recipient::Asker { role: self.kind.role(), peer, logged_in };
                let recipient = Recipient::find(&self.channel.shard, asker, forward_path).await;
                let octets = self.envelope.announced();
                let judged = match has_room(&self.channel.shard, &recipient, octets).await {
                    Ok(()) => self.judged(policy::Step::Recipient(&recipient)).await,
                    Err(refusal) => Err(refusal),
                };
                let added = judged.and_then(|disposition| {
                    self.envelope.add(&self.channel.shard, &recipient, disposition)
                });
                if let Some(identity) = &self.identity {
                    let directory = &self.channel.shard.directory;
                    self.envelope.note_poster(|| Poster::of(directory, identity));
                }
                match added {
                    Ok(()) => match &recipient.route {
                        Route::Rejected { status, text } => {
                            let refusal = format!("550 {status} {text}");
                            self.tell_recipient_refused(recipient.path, &refusal);
                            self.session.reject_recipient(&refusal, &mut self.replies);
                        }
                        _ => self.session.accept_recipient(&mut self.replies),
                    },
                    Err(refusal) => {
                        self.tell_recipient_refused(recipient.path, refusal.0);
                        self.session.refuse_recipient(refusal, &mut self.replies);
                    }
                }
                self.answered(Verb::Rcpt);
            }
            Event::MessageStart(verb) => {
                match self.judge_message_start().await {
                    Ok(disposition) => {
                        self.envelope.dispose(disposition);
                        self.session.accept_message(&mut self.replies);
                    }
                    Err(refusal) => self.session.refuse_message(refusal, &mut self.replies),
                }
                self.answered(verb);
            }
            Event::Answered(verb) => self.answered(verb),
            Event::Reset(verb) => {
                self.envelope.clear();
                self.pace = None;
                self.answered(verb);
            }
            Event::MessageRefused(verb) => {
                self.refused_message();
                self.session.end_transaction(false);
                self.envelope.clear();
                self.pace = None;
                self.answered(verb);
            }
            Event::MessageEnd => Box::pin(self.end_message()).await,
            Event::Authenticate(question) => Box::pin(self.authenticate(question)).await?,
            Event::Judged => self.judge_authentication(),
            Event::Verify(address) => {
                let directory = &self.channel.shard.directory;
                match Box::pin(recipient::verify(directory, address)).await {
                    Ok(mailbox) => reply::append_verified(&mut self.replies, mailbox),
                    Err(reply::VRFY) => reply::VRFY.append_to(&mut self.replies),
                    // Counted like those of RCPT: it reveals as much.
                    Err(refusal) => self.session.refuse_recipient(refusal, &mut self.replies),
                }
                self.answered(Verb::Vrfy);
            }
            Event::Expand(list) => {
                let directory = &self.channel.shard.directory;
                match Box::pin(recipient::expand(directory, list)).await {
                    Ok(members) => reply::append_members(&mut self.replies, &members),
                    Err(reply::EXPN) => reply::EXPN.append_to(&mut self.replies),
                    Err(refusal) => self.session.refuse_recipient(refusal, &mut self.replies),
                }
                self.answered(Verb::Expn);
            }
            Event::StartQueue(node) => {
                let start = Box::pin(relay::start_for(&self.channel.shard, node)).await;
                reply::append_queue_start(&mut self.replies, node.text, start);
                self.answered(Verb::Etrn);
            }
            Event::ClientClaimed => {
                self.channel.connection.consume(consumed);
                Box::pin(self.begin_again()).await?;
                return Ok(Step::Done);
            }
            Event::StartTls => {
                self.channel.connection.consume(consumed);
                Box::pin(self.start_tls()).await?;
                return Ok(Step::Done);
            }
            Event::Close(verb) => {
                // A message without recipients is only read to its end.
                if matches!(verb, Verb::Data | Verb::Bdat) && !self.envelope.recipients().is_empty()
                {
                    self.refused_message();
                }
                self.answered(verb);
                if verb != Verb::Quit {
                    self.channel.connection.linger();
                }
                self.channel.connection.consume(consumed);
                self.hand_over_replies();
                return Err(End::Closed);
            }
        }
        self.channel.connection.consume(consumed);
        if self.replies.len() > OUTPUT_MAX {
            self.hand_over_replies();
        }
        Ok(Step::Done)
    }

    /// Sends all replies, then waits for more input.
    async fn listen(&mut self) -> Result<(), ConnectionError> {
        self.flush().await?;
        if self.replies.capacity() > IDLE_REPLIES_MAX {
            self.replies = Vec::new();
        }
        // A client that always has input ready must not keep others from running.
        self.channel.shard.executor.yield_now().await;
        let in_message = self.session.in_message();
        self.channel.connection.set_interruptible(!in_message);
        let shard = &self.channel.shard;
        let read_max = if in_message { self.envelope.read_max(shard) } else { usize::MAX };
        self.channel.connection.set_read_max(read_max);
        if in_message || self.envelope.under_way() {
            self.listen_to_message(in_message).await?;
        } else {
            self.pace = None;
            if !std::mem::replace(&mut self.awaits_command, true) {
                let patience = self.channel.shard.options.smtp.command_timeout;
                self.channel.restart_deadline(patience);
            }
            let patience = self.channel.time_left()?;
            self.channel.connection.fill(patience).await?;
        }
        self.started = self.channel.shard.executor.moment();
        Ok(())
    }

    fn end(&mut self, error: Option<&ConnectionError>) {
        if let Some(farewell) = error.and_then(farewell) {
            farewell.append_to(&mut self.replies);
            self.channel.connection.linger();
        }
        self.envelope.clear();
        self.hand_over_replies();
    }

    fn hand_over(self: Box<Self>, nowhere: Infallible) -> (Connection, Infallible) {
        match nowhere {}
    }
}

/// Of mail from a client that has not logged in.
fn class(shard: &Shard, kind: ListenerKind, connection: &Connection) -> MailClass {
    match kind.class() {
        MailClass::Inbound if shard.directory.may_relay(connection.peer().ip()) => {
            MailClass::Submission
        }
        class => class,
    }
}

impl Conversation {
    fn new(mut connection: Connection, shard: Rc<Shard>, kind: ListenerKind) -> Conversation {
        let options = &shard.options;
        let security = Security {
            tls: connection.is_tls(),
            can_start_tls: connection.can_start_tls(),
            plaintext_auth: options.allow_plaintext_auth,
            lmtp_auth: options.lmtp_auth,
            mechanisms: Mechanisms::NONE,
            xclient: is_among(&options.smtp.xclient, &connection),
            xforward: is_among(&options.smtp.xforward, &connection),
            trusted: is_trusted(&shard, kind, &connection),
        };
        connection.set_logged_in(kind.class() != MailClass::Inbound);
        let patience = options.smtp.command_timeout;
        Conversation {
            started: shard.executor.moment(),
            awaits_command: false,
            session: Session::new(kind.role(), options.smtp.limits, security),
            envelope: Envelope::new(&shard, class(&shard, kind, &connection), connection.trail()),
            kind,
            pace: None,
            identity: None,
            log_in: LogIn::default(),
            dispositions: Default::default(),
            replies: Vec::new(),
            channel: Channel::new(connection, shard, kind.protocol(), patience),
        }
    }

    /// What AUTH takes now: mail from other servers comes without it.
    fn mechanisms(&self) -> Mechanisms {
        let shard = &self.channel.shard;
        match self.kind.role() {
            Role::Exchange => Mechanisms::NONE,
            Role::Lmtp if !shard.options.lmtp_auth => Mechanisms::NONE,
            Role::Submission | Role::Lmtp => {
                authentication::mechanisms(shard, &self.channel.connection)
            }
        }
    }

    /// Refuses the client in place of the greeting.
    fn turn_away(&mut self, refusal: Reply) -> Result<(), End> {
        self.session.reject(refusal, &mut self.replies);
        match refusal.0.starts_with("421") {
            true => {
                self.channel.connection.linger();
                self.hand_over_replies();
                Err(End::Closed)
            }
            false => Ok(()),
        }
    }

    /// The client as the policy sees it.
    fn client(&self) -> Client<'_> {
        client(&self.session, &self.channel.connection, self.kind, self.identity.as_ref())
    }

    /// The policy's decision on a step.
    fn judged<'a>(&'a self, step: policy::Step<'a>) -> Answer<'a, Judged> {
        let ruling = policy::ask(&self.channel.shard, self.client(), step);
        ruling.map(|ruling| ruling.verdict.disposition())
    }

    fn tell_recipient_refused(&self, to: &str, reply: &str) {
        let (shard, connection) = (&self.channel.shard, &self.channel.connection);
        let forwarded = self.session.forwarded();
        shard.tell(&events::Event::RecipientRefused {
            trail: connection.trail(),
            protocol: self.kind.protocol(),
            peer: forwarded.and_then(|it| it.address).unwrap_or(connection.peer().ip()),
            client: forwarded
                .and_then(|it| it.hello.as_deref())
                .unwrap_or(self.session.client_name()),
            from: self.session.reverse_path(),
            to,
            reply,
        });
    }

    /// The session has refused a message for its content; its last reply says why.
    fn refused_message(&self) {
        let reply = self.replies.strip_suffix(b"\r\n").unwrap_or(&self.replies);
        let begin = memchr::memrchr(b'\n', reply).map_or(0, |at| at + 1);
        let reply = std::str::from_utf8(reply.get(begin..).unwrap_or_default());
        let (session, shard) = (&self.session, &self.channel.shard);
        let octets = session.message_size();
        let refused = Outcome::Refused { octets, reply: reply.unwrap_or_default() };
        self.envelope.tell(shard, session, self.client(), refused);
        shard.metrics.count(MESSAGES_FAILED, 1);
    }

    /// Whether the client is a user whose header fields are rewritten.
    fn rewrites_headers(&self) -> bool {
        let is_user = self.kind.role() == Role::Submission || self.identity.is_some();
        is_user && self.channel.shard.directory.rewrites_headers()
    }

    /// Signs the message of a user: with the keys of the domain that it is sent from.
    fn signer(&self, sender: &Sender<'_>) -> Option<Signer> {
        let identity = self.identity.as_ref()?;
        let shard = &self.channel.shard;
        let from = sender.reverse_path.mailbox().map(|mailbox| mailbox.canonical());
        let from = from.as_deref().unwrap_or(&identity.address);
        let rewritten = shard.directory.rewritten_sender(from);
        let (_, domain) = rewritten.as_deref().unwrap_or(from).rsplit_once('@')?;
        shard.signing.signer(domain)
    }

    async fn judge_sender(&self, sender: &Sender<'_>) -> Judged {
        let Sender { reverse_path: path, parameters } = *sender;
        self.envelope.admit_to_load(&self.channel.shard, sender)?;
        let directory = &self.channel.shard.directory;
        recipient::check_sender(directory, self.identity.as_ref(), path).await?;
        self.judged(policy::Step::Sender { path, parameters }).await
    }

    /// Called before admission: if there is no room, the policy need not be asked.
    async fn judge_message_start(&self) -> Judged {
        if !self.envelope.admits(&self.channel.shard) {
            return Err(MESSAGES_BUSY);
        }
        let recipients = self.envelope.recipients();
        self.judged(policy::Step::MessageStart { recipients }).await
    }

    /// Waits for more of a message, or for its next chunk: with as little memory as possible, and
    /// only while the client keeps the minimum rate.
    async fn listen_to_message(&mut self, in_message: bool) -> Result<(), ConnectionError> {
        let now = self.channel.shard.executor.moment();
        let intake = &self.channel.shard.options.intake;
        let mut pace = *self.pace.get_or_insert_with(|| Pace::new(intake, now));
        let stalls = self.envelope.is_staged() && pace.patience(now) > STALL;
        let most = if stalls { STALL } else { Duration::MAX };
        let mut filled = self.channel.fill_at_pace(&mut pace, most).await;
        if stalls && matches!(filled, Err(ConnectionError::TimedOut)) {
            Box::pin(self.envelope.stalled()).await;
            filled = self.channel.fill_at_pace(&mut pace, Duration::MAX).await;
        }
        filled?;
        if in_message {
            self.pace = Some(pace);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ConnectionError> {
        if self.replies.is_empty() {
            return Ok(());
        }
        self.hand_over_replies();
        self.channel.flush().await
    }

    fn hand_over_replies(&mut self) {
        if !self.replies.is_empty() {
            self.channel.connection.output().extend_from_slice(&self.replies);
            self.replies.clear();
        }
    }

    /// Counts a command and starts the next.
    fn answered(&mut self, verb: Verb) {
        self.record(verb.name());
    }

    fn record(&mut self, name: &'static str) {
        let now = self.channel.shard.executor.moment();
        let elapsed = now.since(self.started);
        self.channel.shard.metrics.command(self.kind.protocol(), name, elapsed);
        self.started = now;
    }

    async fn end_message(&mut self) {
        let (session, connection) = (&self.session, &self.channel.connection);
        let client = client(session, connection, self.kind, self.identity.as_ref());
        let replies = &mut self.replies;
        let accepted =
            self.envelope.finish(&self.channel.shard, session, connection, client, replies).await;
        self.session.end_transaction(accepted);
        self.pace = None;
        self.record("MESSAGE");
    }

    /// Finds out what the exchange asks, and says what it says next.
    async fn authenticate(&mut self, question: Question) -> Result<(), ConnectionError> {
        // The log-in may take some time.
        self.flush().await?;
        let (shard, connection) = (&self.channel.shard, &self.channel.connection);
        let protocol = self.kind.protocol();
        let answer = self.log_in.answer(shard, question, protocol, connection).await;
        match self.session.answer(answer, &mut self.replies) {
            Event::Judged => self.judge_authentication(),
            _ => self.answered(Verb::Auth),
        }
        Ok(())
    }

    fn judge_authentication(&mut self) {
        match self.log_in.outcome() {
            // An LMTP client delivers for others: the log-in lets it in, and no more.
            Ok(_) if self.kind.role() == Role::Lmtp => {
                self.session.authenticated(&mut self.replies);
            }
            Ok(identity) => {
                self.identity = Some(identity);
                self.channel.connection.set_logged_in(true);
                self.envelope.trust(&self.channel.shard);
                self.session.authenticated(&mut self.replies);
            }
            Err(AuthenticationError::Rejected) => {
                self.session.refuse_authentication(reply::AUTH_REJECTED, &mut self.replies);
            }
            Err(AuthenticationError::Busy) => {
                self.session.refuse_authentication(AUTH_BUSY, &mut self.replies);
            }
            Err(AuthenticationError::Limited { .. }) => {
                self.session.refuse_authentication(AUTH_LIMITED, &mut self.replies);
            }
            // Not the client's fault, so it does not count as a failure.
            Err(AuthenticationError::Unavailable | AuthenticationError::NoIssuer) => {
                self.session.defer_authentication(AUTH_TEMPORARY, &mut self.replies);
            }
        }
        self.answered(Verb::Auth);
    }

    /// A trusted peer named the client that it acts for: the session begins again with that one.
    async fn begin_again(&mut self) -> Result<(), End> {
        let claimed = self.session.claimed().cloned().unwrap_or_default();
        let connection = &mut self.channel.connection;
        let by = connection.peer().ip();
        if let Some(address) = claimed.address {
            connection.set_peer((address, claimed.port.unwrap_or(0)).into());
        }
        self.channel.shard.tell(&events::Event::Proxied {
            trail: connection.trail(),
            protocol: self.kind.protocol(),
            by,
            peer: connection.peer().ip(),
            local: claimed.destination,
            port: claimed.destination_port.map(u64::from),
        });
        let trusted = is_trusted(&self.channel.shard, self.kind, &self.channel.connection);
        self.session.set_trusted(trusted);
        let trail = self.envelope.trail();
        let class = class(&self.channel.shard, self.kind, &self.channel.connection);
        self.envelope = Envelope::new(&self.channel.shard, class, trail);
        self.pace = None;
        self.identity = None;
        self.dispositions = Default::default();
        self.channel.connection.set_logged_in(self.kind.class() != MailClass::Inbound);
        let known = match claimed.login {
            Some(name) => self.assume(&name).await,
            None => Ok(()),
        };
        let greeted = match known {
            Ok(()) => self.begin().await,
            Err(refusal) => self.turn_away(refusal),
        };
        self.answered(Verb::Xclient);
        greeted
    }

    /// The client logged in with a trusted peer, who checked the password.
    async fn assume(&mut self, name: &str) -> Result<(), Reply> {
        let shard = &self.channel.shard;
        let found = shard.directory.identity(name).await.map_err(|_| LOGIN_UNCERTAIN)?;
        let identity = found.ok_or(LOGIN_UNKNOWN)?;
        let (protocol, connection) = (self.kind.protocol(), &mut self.channel.connection);
        authentication::tell_log_in(shard, protocol, connection, &identity);
        self.identity = Some(identity);
        connection.set_logged_in(true);
        self.envelope.trust(shard);
        self.session.assume_login();
        Ok(())
    }

    async fn start_tls(&mut self) -> Result<(), ConnectionError> {
        self.hand_over_replies();
        self.channel.start_tls().await?;
        self.session.tls_started(self.mechanisms());
        let trail = self.envelope.trail();
        let class = class(&self.channel.shard, self.kind, &self.channel.connection);
        self.envelope = Envelope::new(&self.channel.shard, class, trail);
        self.identity = None;
        self.dispositions[1] = Disposition::default();
        self.channel.connection.set_logged_in(self.kind.class() != MailClass::Inbound);
        self.answered(Verb::StartTls);
        Ok(())
    }
}
