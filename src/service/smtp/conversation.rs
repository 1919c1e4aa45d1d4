//! The loop of one session: input to `protocol::smtp::Session`, its events to directory and
//! delivery, all replies that one piece of input calls for out by one write.

use std::{rc::Rc, time::Duration};

use super::{
    ListenerKind,
    envelope::Envelope,
    policy::{self, Client, Disposition, Step},
    recipient::{self, Recipient},
    replies::{
        AUTH_BUSY, AUTH_LIMITED, AUTH_TEMPORARY, CONNECTION_DEFERRED, DEFERRED, MESSAGES_BUSY,
        NO_MEMORY, SHUTTING_DOWN, TIMED_OUT,
    },
};
use crate::{
    directory::{AuthenticationError, Identity},
    model::Moment,
    protocol::{
        sasl::Credentials,
        smtp::{Event, Reply, Security, Sender, Session, Verb, reply},
    },
    runtime::{
        answer::Answer,
        connection::{Connection, ConnectionError},
    },
    service::{
        Shard, authentication,
        budget::Trust,
        intake::{Pace, STALL},
    },
};

/// Octets of replies after which they are sent though more input waits.
const REPLIES_MAX: usize = 64 * 1024;
/// Reply memory kept while waiting for input.
const IDLE_REPLIES_MAX: usize = 1024;

/// What to do after an event.
enum Turn {
    Continue,
    StartTls,
    Close,
}

/// Where mail goes then, or the reply that refuses it.
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

struct Conversation {
    connection: Connection,
    shard: Rc<Shard>,
    kind: ListenerKind,
    session: Session,
    envelope: Envelope,
    /// Of the message under way.
    pace: Option<Pace>,
    identity: Option<Identity>,
    /// Of all that comes by this connection, and since the client last introduced itself.
    dispositions: [Disposition; 2],
    /// Replies not yet handed to the connection: events borrow its input meanwhile.
    replies: Vec<u8>,
    /// Until the next command must have come whole; `None` while none is waited for. Octets of it
    /// that trickle in earn a client no more time.
    deadline: Option<Moment>,
    /// When the command at hand began.
    started: Moment,
}

/// Runs a session to its end and closes the connection. The session is boxed before the task begins,
/// which has no place for the connection but this; and what a session needs for a moment is boxed,
/// since it may wait for hours.
pub(super) fn converse(
    connection: Connection,
    shard: Rc<Shard>,
    kind: ListenerKind,
) -> impl Future<Output = ()> {
    let mut conversation = Box::new(Conversation::new(connection, shard, kind));
    async move {
        let patience = conversation.shard.options.tls_handshake_timeout;
        if conversation.connection.handshake(patience).await.is_err() {
            return;
        }
        conversation.started = conversation.shard.executor.moment();
        if let Some(farewell) = conversation.run().await.err().and_then(farewell) {
            farewell.append_to(&mut conversation.replies);
            conversation.connection.linger();
        }
        conversation.hand_over_replies();
        // Closing sends what is left.
        conversation.connection.close().await;
    }
}

/// What to say when the connection ended the session; nothing where nobody listens.
fn farewell(error: ConnectionError) -> Option<Reply> {
    match error {
        ConnectionError::TimedOut => Some(TIMED_OUT),
        ConnectionError::ShuttingDown => Some(SHUTTING_DOWN),
        ConnectionError::NoMemory => Some(NO_MEMORY),
        ConnectionError::Closed | ConnectionError::Tls(_) | ConnectionError::Io(_) => None,
    }
}

impl Conversation {
    fn new(mut connection: Connection, shard: Rc<Shard>, kind: ListenerKind) -> Conversation {
        let options = &shard.options;
        let security = Security {
            tls: connection.is_tls(),
            can_start_tls: connection.can_start_tls(),
            plaintext_auth: options.allow_plaintext_auth,
        };
        connection.set_logged_in(kind.trust() == Trust::Known);
        Conversation {
            started: shard.executor.moment(),
            deadline: None,
            session: Session::new(kind.role(), options.smtp.limits, security),
            envelope: Envelope::new(&shard, kind.trust()),
            connection,
            kind,
            pace: None,
            identity: None,
            dispositions: Default::default(),
            replies: Vec::new(),
            shard,
        }
    }

    /// `Ok` when the session closes by its own rules.
    async fn run(&mut self) -> Result<(), ConnectionError> {
        if let Turn::Close = self.greet().await {
            return Ok(());
        }
        loop {
            let (consumed, event) = self.session.next(self.connection.input(), &mut self.replies);
            let turn = match event {
                Event::Incomplete => {
                    self.connection.consume(consumed);
                    self.listen().await?;
                    continue;
                }
                // The only events whose borrowed octets must live through a wait.
                Event::Content(content) => {
                    Box::pin(self.envelope.push(&self.shard, content)).await;
                    Turn::Continue
                }
                Event::Greeting(greeting) => {
                    match self.judged(Step::Hello(greeting.client_name)).await {
                        Ok(disposition) => {
                            self.dispositions[1] = disposition;
                            let hostname = &self.shard.options.hostname;
                            self.session.accept_greeting(&greeting, hostname, &mut self.replies);
                            self.envelope.clear();
                            self.pace = None;
                        }
                        Err(refusal) => self.session.refuse(refusal, &mut self.replies),
                    }
                    self.answered(greeting.verb)
                }
                Event::Sender(sender) => {
                    match self.judge_sender(&sender).await {
                        Ok(disposition) => {
                            self.dispositions.iter().for_each(|it| self.envelope.dispose(*it));
                            self.envelope.dispose(disposition);
                            self.session.accept_sender(&sender, &mut self.replies);
                        }
                        Err(refusal) => self.session.refuse(refusal, &mut self.replies),
                    }
                    self.answered(Verb::Mail)
                }
                Event::Recipient(forward_path) => {
                    let (shard, role) = (&self.shard, self.kind.role());
                    let recipient = Recipient::find(shard, role, forward_path).await;
                    let judged = self.judged(Step::Recipient(&recipient)).await;
                    let added = judged.and_then(|disposition| {
                        self.envelope.add(&self.shard, &recipient, disposition)
                    });
                    match added {
                        Ok(()) => self.session.accept_recipient(&mut self.replies),
                        Err(refusal) => self.session.refuse_recipient(refusal, &mut self.replies),
                    }
                    self.answered(Verb::Rcpt)
                }
                Event::MessageStart(verb) => {
                    match self.judge_message_start().await {
                        Ok(disposition) => {
                            self.envelope.dispose(disposition);
                            self.session.accept_message(&mut self.replies);
                        }
                        Err(refusal) => self.session.refuse_message(refusal, &mut self.replies),
                    }
                    self.answered(verb)
                }
                Event::Answered(verb) => self.answered(verb),
                Event::Reset(verb) => {
                    self.envelope.clear();
                    self.pace = None;
                    self.answered(verb)
                }
                Event::MessageEnd => Box::pin(self.end_message()).await,
                Event::Authenticate(credentials) => {
                    Box::pin(self.authenticate(credentials)).await?
                }
                Event::StartTls => Turn::StartTls,
                Event::Close(verb) => {
                    self.answered(verb);
                    if verb != Verb::Quit {
                        self.connection.linger();
                    }
                    Turn::Close
                }
            };
            self.connection.consume(consumed);
            self.deadline = None;
            match turn {
                Turn::Continue if self.replies.len() > REPLIES_MAX => self.flush().await?,
                Turn::Continue => (),
                Turn::StartTls => Box::pin(self.start_tls()).await?,
                Turn::Close => return Ok(()),
            }
        }
    }

    /// The first thing to say, when the policy has said something.
    async fn greet(&mut self) -> Turn {
        let ruling = policy::ask(&self.shard, self.client(), Step::Connect).await;
        let refusal = match ruling.verdict.disposition() {
            Ok(disposition) => {
                self.dispositions[0] = disposition;
                self.session.greet(&self.shard.options.hostname, &mut self.replies);
                return Turn::Continue;
            }
            Err(DEFERRED) => CONNECTION_DEFERRED,
            Err(refusal) => refusal,
        };
        self.session.reject(refusal, &mut self.replies);
        if refusal.0.starts_with("421") {
            self.connection.linger();
            return Turn::Close;
        }
        Turn::Continue
    }

    /// Whom the policy judges.
    fn client(&self) -> Client<'_> {
        client(&self.session, &self.connection, self.kind, self.identity.as_ref())
    }

    /// What the policy says of a step.
    fn judged<'a>(&'a self, step: Step<'a>) -> Answer<'a, Judged> {
        let ruling = policy::ask(&self.shard, self.client(), step);
        ruling.map(|ruling| ruling.verdict.disposition())
    }

    async fn judge_sender(&self, sender: &Sender<'_>) -> Judged {
        let Sender { reverse_path: path, parameters } = *sender;
        let directory = &self.shard.directory;
        recipient::check_sender(directory, self.identity.as_ref(), path).await?;
        self.judged(Step::Sender { path, parameters }).await
    }

    /// Before it is admitted: where nobody has room for it the policy need not look.
    async fn judge_message_start(&self) -> Judged {
        if !self.envelope.admits(&self.shard) {
            return Err(MESSAGES_BUSY);
        }
        let recipients = self.envelope.recipients();
        self.judged(Step::MessageStart { recipients }).await
    }

    /// Sends all replies, then waits for more input.
    async fn listen(&mut self) -> Result<(), ConnectionError> {
        self.flush().await?;
        if self.replies.capacity() > IDLE_REPLIES_MAX {
            self.replies = Vec::new();
        }
        // A client that never lets us wait must not keep others from running.
        self.shard.executor.yield_now().await;
        let in_message = self.session.in_message();
        self.connection.set_interruptible(!in_message);
        let read_max = if in_message { self.envelope.read_max(&self.shard) } else { usize::MAX };
        self.connection.set_read_max(read_max);
        if in_message || self.envelope.under_way() {
            self.listen_to_message(in_message).await?;
        } else {
            self.pace = None;
            let patience = self.patience()?;
            self.connection.fill(patience).await?;
        }
        self.started = self.shard.executor.moment();
        Ok(())
    }

    /// How long the next command may take to come whole.
    fn patience(&mut self) -> Result<Duration, ConnectionError> {
        let now = self.shard.executor.moment();
        let timeout = self.shard.options.smtp.command_timeout;
        match self.deadline.get_or_insert_with(|| now.after(timeout)).since(now) {
            Duration::ZERO => Err(ConnectionError::TimedOut),
            left => Ok(left),
        }
    }

    /// Waits for more of a message, or for its next chunk: with as little memory as can be, and only
    /// while the client keeps up its pace.
    async fn listen_to_message(&mut self, in_message: bool) -> Result<(), ConnectionError> {
        let intake = &self.shard.options.intake;
        let executor = &*self.shard.executor;
        let now = executor.moment();
        let mut pace = *self.pace.get_or_insert_with(|| Pace::new(intake, now));
        let patience = pace.patience(now);
        if patience == Duration::ZERO {
            return Err(ConnectionError::TimedOut);
        }
        let before = self.connection.input().len();
        let stalls = self.envelope.is_staged() && patience > STALL;
        let mut filled = self.connection.fill(if stalls { STALL } else { patience }).await;
        if stalls && matches!(filled, Err(ConnectionError::TimedOut)) {
            Box::pin(self.envelope.stalled()).await;
            filled = self.connection.fill(patience - STALL).await;
        }
        filled?;
        if in_message {
            let came = self.connection.input().len().saturating_sub(before);
            pace.credit(intake, came, executor.moment());
            self.pace = Some(pace);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ConnectionError> {
        if self.replies.is_empty() {
            return Ok(());
        }
        self.hand_over_replies();
        self.connection.flush(self.shard.options.write_timeout).await
    }

    fn hand_over_replies(&mut self) {
        if !self.replies.is_empty() {
            self.connection.output().extend_from_slice(&self.replies);
            self.replies.clear();
        }
    }

    /// Counts a command and begins the next.
    fn answered(&mut self, verb: Verb) -> Turn {
        self.record(verb.name());
        Turn::Continue
    }

    fn record(&mut self, name: &'static str) {
        let now = self.shard.executor.moment();
        let elapsed = now.since(self.started);
        self.shard.metrics.command(self.kind.protocol(), name, elapsed);
        self.started = now;
    }

    async fn end_message(&mut self) -> Turn {
        let (session, connection) = (&self.session, &self.connection);
        let client = client(session, connection, self.kind, self.identity.as_ref());
        let replies = &mut self.replies;
        let accepted =
            self.envelope.finish(&self.shard, session, connection, client, replies).await;
        self.session.end_transaction(accepted);
        self.pace = None;
        self.record("MESSAGE");
        Turn::Continue
    }

    async fn authenticate(&mut self, credentials: Credentials) -> Result<Turn, ConnectionError> {
        // The answer may take its time.
        self.flush().await?;
        let Credentials { user, password } = credentials;
        let peer = self.connection.peer().ip();
        match authentication::authenticate(&self.shard, &user, &password, peer).await {
            Ok(identity) => {
                self.identity = Some(identity);
                self.connection.set_logged_in(true);
                self.envelope.trust(&self.shard);
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
            // Nobody's fault, so no failure of the client's.
            Err(AuthenticationError::Unavailable) => {
                self.session.defer_authentication(AUTH_TEMPORARY, &mut self.replies);
            }
        }
        Ok(self.answered(Verb::Auth))
    }

    async fn start_tls(&mut self) -> Result<(), ConnectionError> {
        self.flush().await?;
        self.connection.start_tls(self.shard.options.tls_handshake_timeout).await?;
        self.session.tls_started();
        self.envelope = Envelope::new(&self.shard, self.kind.trust());
        self.identity = None;
        self.dispositions[1] = Disposition::default();
        self.connection.set_logged_in(self.kind.trust() == Trust::Known);
        self.answered(Verb::StartTls);
        Ok(())
    }
}
