//! One outgoing session of SMTP or LMTP: connect, greet, TLS, AUTH, transactions, QUIT.
//!
//! What may be sent and what a reply means is decided in `protocol::smtp::client`; this file moves
//! the octets and keeps the time. Every reply has one deadline for all of its octets (RFC 5321
//! 4.5.3.2), so that a peer that sends them one by one gains nothing. Nothing that a peer does is
//! an error of ours: a session that cannot begin ends as [`Failed`], a transaction always in one
//! result for each recipient.
//!
//! Ownership: shard-local; a client owns its connection. Called by the carrier of the queue.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_lite::future::poll_once;

use crate::{
    model::Moment,
    protocol::{
        sasl::Credentials,
        smtp::client::{
            Capabilities, Envelope, Fault, RcptResult, Reply, ReplyParser, Stage, Step, Transaction,
        },
    },
    runtime::{
        LocalFuture,
        connect::Dialer,
        connection::{Connection, ConnectionError},
        executor::Executor,
        tls_client::{ClientTls, TlsFacts, TlsFailure, Trust, Verification},
    },
};

/// Octets of a peer's name in its greeting (RFC 5321 4.5.3.1.2).
const NAME_MAX: usize = 255;

/// Output that is sent before more is made.
const OUTPUT_MAX: usize = 64 * 1024;

/// How long a peer may take, by stage, and whom to trust. The defaults are those of RFC 5321
/// 4.5.3.2 where it has one, and to trust nobody.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// For the verification by names.
    pub trust: Arc<Trust>,
    pub connect_timeout: Duration,
    pub greeting_timeout: Duration,
    /// EHLO, HELO, LHLO, STARTTLS, AUTH, RSET.
    pub command_timeout: Duration,
    pub tls_handshake_timeout: Duration,
    pub mail_timeout: Duration,
    pub rcpt_timeout: Duration,
    /// The reply to DATA.
    pub data_timeout: Duration,
    /// For taking 64 KiB of a message, and for the reply to a chunk.
    pub block_timeout: Duration,
    /// The reply to the final dot. Giving up too early delivers twice (RFC 5321 4.5.3.2.6).
    pub end_timeout: Duration,
    pub quit_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        ClientOptions {
            trust: Arc::new(Trust::nobody()),
            connect_timeout: Duration::from_secs(30),
            greeting_timeout: minutes(5),
            command_timeout: minutes(5),
            tls_handshake_timeout: minutes(1),
            mail_timeout: minutes(5),
            rcpt_timeout: minutes(5),
            data_timeout: minutes(2),
            block_timeout: minutes(3),
            end_timeout: minutes(10),
            quit_timeout: Duration::from_secs(5),
        }
    }
}

impl ClientOptions {
    /// No stage may take longer than `most`.
    pub fn limit(&mut self, most: Duration) {
        for timeout in [
            &mut self.connect_timeout,
            &mut self.greeting_timeout,
            &mut self.command_timeout,
            &mut self.tls_handshake_timeout,
            &mut self.mail_timeout,
            &mut self.rcpt_timeout,
            &mut self.data_timeout,
            &mut self.block_timeout,
            &mut self.end_timeout,
            &mut self.quit_timeout,
        ] {
            *timeout = most.min(*timeout);
        }
    }

    fn patience(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Connect => self.connect_timeout,
            Stage::Greeting => self.greeting_timeout,
            Stage::Hello | Stage::StartTls | Stage::Auth | Stage::Reset => self.command_timeout,
            Stage::Tls => self.tls_handshake_timeout,
            Stage::Mail => self.mail_timeout,
            Stage::Rcpt => self.rcpt_timeout,
            Stage::Data => self.data_timeout,
            Stage::Content => self.block_timeout,
            Stage::End => self.end_timeout,
            Stage::Quit => self.quit_timeout,
        }
    }
}

/// Where a session leads, and how it begins.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    /// A socket of this host, in place of the address.
    pub path: Option<PathBuf>,
    /// The address of ours that is used; the host's choice if there is none.
    pub source: Option<IpAddr>,
    /// The host's name, for SNI.
    pub host: String,
    /// Our name for EHLO.
    pub hello: String,
    pub lmtp: bool,
    pub tls: TlsUse,
    /// For AUTH, which then has to succeed. Never sent in plain text, unless `tls` is `Never`.
    pub credentials: Option<Credentials>,
}

/// What is done about TLS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TlsUse {
    Never,
    /// STARTTLS if it is offered, without verification; plain text if not, or if the peer then
    /// refuses. If the handshake fails, the session fails at [`Stage::Tls`]: whether to try again
    /// with `Never` is the caller's decision.
    Opportunistic,
    /// STARTTLS, or no session.
    Required(Verification),
    /// TLS from the first octet (RFC 8314 3).
    Implicit(Verification),
}

/// Why a session did not begin.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {what}", stage.name())]
pub struct Failed {
    pub stage: Stage,
    /// What the peer said, if that is the reason.
    pub reply: Option<Reply>,
    pub what: String,
    /// Of the stage `Tls`, unless the connection broke: what was wrong.
    pub tls: Option<TlsFailure>,
    /// How long its stages took.
    pub times: StageTimes,
    /// Both ends of the session; empty if there was no connection.
    pub session: Box<SessionFacts>,
}

/// The two ends of a session.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SessionFacts {
    pub local: Option<IpAddr>,
    pub peer: Option<IpAddr>,
    /// The name that the peer greeted with.
    pub greeting: Option<String>,
}

/// How long stages took, in their order; one may occur twice.
pub type StageTimes = Vec<(Stage, Duration)>;

impl Failed {
    fn refused(stage: Stage, reply: Reply) -> Failed {
        Failed { reply: Some(reply.clone().clipped()), ..Failed::because(stage, reply.to_string()) }
    }

    fn because(stage: Stage, what: impl ToString) -> Failed {
        let session = Box::default();
        Failed { stage, reply: None, what: what.to_string(), tls: None, times: Vec::new(), session }
    }
}

/// Why an answer did not come.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("the message cannot be read: {0}")]
    Content(String),
}

/// The octets of a message, given piece by piece.
pub trait Content {
    /// The next piece, of any size but not empty; `None` at the end.
    ///
    /// # Errors
    /// If the message cannot be read: the transaction is broken off.
    fn next(&mut self) -> LocalFuture<'_, Result<Option<&[u8]>, String>>;
}

/// Watches a session: for latencies, and for operators who trace it.
pub trait Watcher {
    /// A stage before the first transaction has ended.
    fn stage(&self, stage: Stage, took: Duration);

    /// Whether somebody wants the lines.
    fn wants_lines(&self) -> bool;

    /// Commands that are sent: whole lines, without the message and without passwords.
    fn sent(&self, lines: &str);

    fn heard(&self, reply: &Reply);
}

/// What became of a message.
#[derive(Debug)]
pub struct Sent {
    /// In the order of the recipients.
    pub recipients: Vec<RcptResult>,
    /// The number of the peer's replies cannot be relied on (see [`Transaction::is_in_doubt`]).
    pub in_doubt: bool,
    /// Another transaction may follow.
    pub connection_usable: bool,
    /// How long its stages took; before the first transaction also those of the beginning.
    pub times: StageTimes,
}

/// An established session.
pub struct Client {
    connection: Connection,
    executor: Rc<dyn Executor>,
    options: ClientOptions,
    parser: ReplyParser,
    capabilities: Capabilities,
    /// EHLO, or LHLO, and our name.
    hello: Rc<str>,
    /// The name in the peer's greeting.
    greeting: Option<String>,
    lmtp: bool,
    /// Transactions begun.
    transactions: u32,
    /// Nothing can be sent any more.
    broken: bool,
    watcher: Option<Rc<dyn Watcher>>,
    /// Of the beginning, or of the current transaction.
    times: StageTimes,
}

impl Client {
    /// Connects, and says all that comes before the first message.
    ///
    /// # Errors
    /// If the peer cannot be reached or understood, or does not want us.
    pub async fn connect(
        executor: &Rc<dyn Executor>,
        dialer: &dyn Dialer,
        options: &ClientOptions,
        target: &Target,
    ) -> Result<Client, Failed> {
        Client::connect_watched(executor, dialer, options, target, None).await
    }

    /// As [`Client::connect`], and `watcher` sees the session.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_watched(
        executor: &Rc<dyn Executor>,
        dialer: &dyn Dialer,
        options: &ClientOptions,
        target: &Target,
        watcher: Option<Rc<dyn Watcher>>,
    ) -> Result<Client, Failed> {
        let began = executor.moment();
        let timeout = options.connect_timeout;
        let dialed = match &target.path {
            Some(path) => dialer.dial_path(path, timeout).await,
            None => dialer.dial(target.address, target.source, timeout).await,
        };
        let connection = dialed.map_err(|error| Failed {
            times: vec![(Stage::Connect, executor.moment().since(began))],
            ..Failed::because(Stage::Connect, error)
        })?;
        let mut client = Client {
            connection,
            executor: executor.clone(),
            options: options.clone(),
            parser: ReplyParser::default(),
            capabilities: Capabilities::default(),
            hello: format!("{} {}", if target.lmtp { "LHLO" } else { "EHLO" }, target.hello).into(),
            greeting: None,
            lmtp: target.lmtp,
            transactions: 0,
            broken: false,
            watcher,
            times: Vec::new(),
        };
        client.stage_is_over(Stage::Connect, began);
        client.note_time(Stage::Connect, began);
        match client.begin(target).await {
            Ok(()) => Ok(client),
            Err(failed) => {
                let session = Box::new(client.session());
                let times = std::mem::take(&mut client.times);
                client.quit().await;
                Err(Failed { session, times, ..failed })
            }
        }
    }

    async fn begin(&mut self, target: &Target) -> Result<(), Failed> {
        if let TlsUse::Implicit(verification) = &target.tls {
            self.handshake(target, verification).await?;
        }
        let began = self.executor.moment();
        let greeting = self.answer(Stage::Greeting).await?;
        self.stage_is_over(Stage::Greeting, began);
        let name = greeting.text.split_whitespace().next().unwrap_or_default();
        self.greeting = (1..=NAME_MAX).contains(&name.len()).then(|| name.to_owned());
        if !greeting.is_positive() {
            return Err(self.refused(Stage::Greeting, greeting));
        }
        self.hello(&target.hello).await?;
        match &target.tls {
            TlsUse::Never | TlsUse::Implicit(_) => {}
            TlsUse::Opportunistic if !self.capabilities.start_tls => {}
            TlsUse::Opportunistic => match self.start_tls(target, &Verification::None).await {
                Err(Failed { stage: Stage::StartTls, reply: Some(_), .. }) if !self.broken => {}
                tried => tried?,
            },
            TlsUse::Required(_) if !self.capabilities.start_tls => {
                return Err(Failed::because(Stage::StartTls, "the peer does not offer TLS"));
            }
            TlsUse::Required(verification) => self.start_tls(target, verification).await?,
        }
        match &target.credentials {
            Some(credentials) => self.authenticate(credentials, &target.tls).await,
            None => Ok(()),
        }
    }

    /// RFC 3207: after the handshake nothing said before it counts, so EHLO is said again.
    async fn start_tls(
        &mut self,
        target: &Target,
        verification: &Verification,
    ) -> Result<(), Failed> {
        let reply = self.command(Stage::StartTls, "STARTTLS").await?;
        if !reply.is_positive() {
            return Err(self.refused(Stage::StartTls, reply));
        }
        self.handshake(target, verification).await?;
        self.capabilities = Capabilities::default();
        self.hello(&target.hello).await
    }

    async fn handshake(
        &mut self,
        target: &Target,
        verification: &Verification,
    ) -> Result<(), Failed> {
        let tls = ClientTls {
            server_name: target.host.clone(),
            verification: verification.clone(),
            trust: self.options.trust.clone(),
        };
        let patience = self.options.patience(Stage::Tls);
        let began = self.executor.moment();
        let shaken = self.connection.start_tls_as_client(&tls, patience).await;
        self.stage_is_over(Stage::Tls, began);
        self.note_time(Stage::Tls, began);
        shaken.map_err(|error| {
            self.broken = true;
            let tls = match &error {
                ConnectionError::Tls(error) => Some(TlsFailure::of(error)),
                _ => None,
            };
            let failed = match tls.and_then(TlsFailure::words) {
                Some(words) => Failed::because(Stage::Tls, words),
                None => Failed::because(Stage::Tls, error),
            };
            Failed { tls, ..failed }
        })
    }

    /// AUTH (RFC 4954) with PLAIN (RFC 4616), or LOGIN if the peer offers only that.
    async fn authenticate(
        &mut self,
        credentials: &Credentials,
        tls: &TlsUse,
    ) -> Result<(), Failed> {
        let stage = Stage::Auth;
        if !self.connection.is_tls() && *tls != TlsUse::Never {
            return Err(Failed::because(stage, "a password is not sent without TLS"));
        }
        let Credentials { user, password } = credentials;
        let mut reply;
        if self.capabilities.auth_plain {
            let response = STANDARD.encode(format!("\0{user}\0{password}"));
            reply = self.command(stage, &format!("AUTH PLAIN {response}")).await?;
        } else if self.capabilities.auth_login {
            reply = self.command(stage, "AUTH LOGIN").await?;
            for response in [user, password] {
                if reply.is_intermediate() {
                    reply = self.command(stage, &STANDARD.encode(response)).await?;
                }
            }
        } else {
            return Err(Failed::because(stage, "the peer offers neither AUTH PLAIN nor LOGIN"));
        }
        match reply.is_positive() {
            true => Ok(()),
            false => Err(self.refused(stage, reply)),
        }
    }

    /// EHLO, or HELO if the peer does not know it (RFC 5321 3.2); LHLO (RFC 2033 4.1).
    async fn hello(&mut self, name: &str) -> Result<(), Failed> {
        let hello = self.hello.clone();
        let reply = self.command(Stage::Hello, &hello).await?;
        if reply.is_positive() {
            self.capabilities = Capabilities::parse(&reply);
            return Ok(());
        }
        if self.lmtp || !reply.is_permanent() {
            return Err(self.refused(Stage::Hello, reply));
        }
        let reply = self.command(Stage::Hello, &format!("HELO {name}")).await?;
        if !reply.is_positive() {
            return Err(self.refused(Stage::Hello, reply));
        }
        self.capabilities = Capabilities::none(&reply);
        Ok(())
    }

    /// What the peer can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// From now on each command waits for the answer to the one before, and with LMTP a transaction
    /// has one recipient: for a peer whose replies cannot be counted.
    pub fn send_one_by_one(&mut self) {
        self.capabilities.pipelining = false;
        if self.lmtp {
            self.capabilities.limits.rcpt_max = Some(1);
        }
    }

    pub fn peer(&self) -> SocketAddr {
        self.connection.peer()
    }

    /// Our own address.
    pub fn local(&self) -> SocketAddr {
        self.connection.local()
    }

    /// Both ends of the session.
    pub fn session(&self) -> SessionFacts {
        SessionFacts {
            local: Some(self.local().ip()),
            peer: Some(self.peer().ip()),
            greeting: self.greeting.clone(),
        }
    }

    /// Version, cipher and how the peer was verified; `None` in plain text.
    pub fn tls_facts(&self) -> Option<TlsFacts> {
        self.connection.tls_facts()
    }

    /// Transactions that the peer still takes (RFC 9422 4.2), if it said how many.
    pub fn transactions_left(&self) -> Option<u32> {
        let most = self.capabilities.limits.mail_max?;
        Some(most.saturating_sub(self.transactions))
    }

    /// Whether an unused session can still be used: the peer has neither closed it nor sent
    /// anything. Costs no system call unless something came.
    pub async fn is_alive(&mut self) -> bool {
        let silent = matches!(self.has_input().await, Ok(false));
        self.broken |= !silent || self.parser.is_inside();
        !self.broken
    }

    /// Whether octets from the peer are there already.
    async fn has_input(&mut self) -> Result<bool, ConnectionError> {
        if !self.connection.input().is_empty() {
            return Ok(true);
        }
        match poll_once(self.connection.fill(self.options.command_timeout)).await {
            None => Ok(false),
            Some(came) => came.map(|()| true),
        }
    }

    /// Sends one message.
    pub async fn send(&mut self, envelope: &Envelope<'_>, content: &mut dyn Content) -> Sent {
        let hello = self.hello.clone();
        let mut transaction =
            Transaction::new(*envelope, &self.capabilities, self.lmtp).with_hello(&hello);
        self.transactions = self.transactions.saturating_add(1);
        if !self.is_alive().await {
            transaction.lose(Stage::Mail, "the peer closed the connection, or spoke unasked");
        } else if let Err(broken) = self.transact(&mut transaction, content).await {
            match broken {
                Broken::Fault(fault) => transaction.desynchronised(fault),
                // A peer may say why before it closes, while the message is being sent.
                Broken::Connection(_) if self.has_input().await.is_ok() => {
                    let _ = self.take_unasked(&mut transaction);
                }
                _ => {}
            }
            transaction.lose(transaction.stage(), &broken.to_string());
            self.broken = true;
        }
        self.connection.set_interruptible(true);
        let connection_usable = !self.broken && self.transactions_left() != Some(0);
        let times = std::mem::take(&mut self.times);
        let in_doubt = transaction.is_in_doubt();
        Sent { recipients: transaction.into_results(), in_doubt, connection_usable, times }
    }

    async fn transact(
        &mut self,
        transaction: &mut Transaction<'_>,
        content: &mut dyn Content,
    ) -> Result<(), Broken> {
        let mut began = None;
        while self.wants_content(transaction).await? {
            let begun = *began.get_or_insert_with(|| self.executor.moment());
            let Some(piece) = content.next().await.map_err(Broken::Content)? else {
                self.hear_early(transaction).await?;
                self.note_time(Stage::Content, begun);
                transaction.finish(self.connection.output());
                continue;
            };
            for part in piece.chunks(OUTPUT_MAX) {
                if !self.wants_content(transaction).await? {
                    return Ok(());
                }
                transaction.push(part, self.connection.output());
                if self.connection.unsent() >= OUTPUT_MAX {
                    self.connection.flush(self.options.block_timeout).await?;
                    self.hear_early(transaction).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends commands and takes their answers. True if the message is wanted next, false if the
    /// transaction is over.
    async fn wants_content(&mut self, transaction: &mut Transaction<'_>) -> Result<bool, Broken> {
        loop {
            let before = self.connection.output().len();
            let step = transaction.advance(self.connection.output());
            self.show_commands(before);
            let stage = match step {
                Step::Await(stage) => stage,
                Step::Content => return Ok(true),
                Step::Done { usable } => {
                    self.broken |= !usable || self.parser.is_inside();
                    return Ok(false);
                }
            };
            // A shutdown must not hide whether the message was taken.
            self.connection.set_interruptible(stage != Stage::End);
            transaction.reply(self.reply(stage).await?)?;
            if transaction.expects_nothing() && !self.connection.input().is_empty() {
                self.take_unasked(transaction)?;
            }
        }
    }

    /// Takes an answer that came before the end of the message, so that it is not taken for the
    /// answer to it.
    async fn hear_early(&mut self, transaction: &mut Transaction<'_>) -> Result<(), Broken> {
        if transaction.expects_nothing() && self.has_input().await? {
            self.take_unasked(transaction)?;
            if self.parser.is_inside() {
                transaction.reply(self.reply(Stage::Content).await?)?;
            }
        }
        Ok(())
    }

    /// The peer has sent more replies than it got commands.
    fn take_unasked(&mut self, transaction: &mut Transaction<'_>) -> Result<(), Broken> {
        while let Some(reply) = self.parse()? {
            transaction.reply(reply)?;
        }
        Ok(())
    }

    /// Ends a transaction (RSET), or probes an unused connection.
    ///
    /// # Errors
    /// If the connection cannot be used any more.
    pub async fn reset(&mut self) -> Result<(), Failed> {
        let reply = self.command(Stage::Reset, "RSET").await?;
        if reply.is_positive() { Ok(()) } else { Err(self.refused(Stage::Reset, reply)) }
    }

    /// Says goodbye and closes. Whether the peer answers is of no importance.
    pub async fn quit(mut self) {
        if !self.broken {
            let _ = self.command(Stage::Quit, "QUIT").await;
        }
        self.connection.close().await;
    }

    fn note_time(&mut self, stage: Stage, began: Moment) {
        let took = self.executor.moment().since(began);
        match self.times.last_mut() {
            Some((last, so_far)) if *last == stage => *so_far += took,
            _ => self.times.push((stage, took)),
        }
    }

    fn stage_is_over(&self, stage: Stage, began: Moment) {
        if let Some(watcher) = &self.watcher {
            watcher.stage(stage, self.executor.moment().since(began));
        }
    }

    /// Passes the commands behind the first `before` octets of the output to the watcher, if it
    /// wants lines.
    fn show_commands(&mut self, before: usize) {
        if let Some(watcher) = self.watcher.as_ref().filter(|watcher| watcher.wants_lines()) {
            let new = self.connection.output().get(before..).unwrap_or_default();
            watcher.sent(&String::from_utf8_lossy(new));
        }
    }

    fn refused(&mut self, stage: Stage, reply: Reply) -> Failed {
        // After 3xx the peer waits for something that we do not know.
        self.broken |= reply.is_closing() || reply.is_intermediate();
        Failed::refused(stage, reply)
    }

    async fn command(&mut self, stage: Stage, line: &str) -> Result<Reply, Failed> {
        if let Some(watcher) = self.watcher.as_ref().filter(|watcher| watcher.wants_lines()) {
            match (stage, line.split_once(' ')) {
                (Stage::Auth, Some((verb, rest))) => {
                    let mechanism = rest.split(' ').next().unwrap_or_default();
                    watcher.sent(&format!("{verb} {mechanism} ..."));
                }
                // A response: a name or a password.
                (Stage::Auth, None) => watcher.sent("..."),
                _ => watcher.sent(line),
            }
        }
        let output = self.connection.output();
        output.extend_from_slice(line.as_bytes());
        output.extend_from_slice(b"\r\n");
        self.answer(stage).await
    }

    /// The reply to the last command, which must be the last that came.
    async fn answer(&mut self, stage: Stage) -> Result<Reply, Failed> {
        let reply =
            self.reply(stage).await.and_then(|reply| match self.connection.input().is_empty() {
                true => Ok(reply),
                // RFC 3207 6: someone in between may have put them there.
                false if stage == Stage::StartTls => Err(Fault::BeforeTls.into()),
                false => Err(Fault::Unsolicited.into()),
            });
        reply.map_err(|broken| {
            self.broken = true;
            Failed::because(stage, broken)
        })
    }

    /// Sends the output and waits for one reply.
    async fn reply(&mut self, stage: Stage) -> Result<Reply, Broken> {
        let began = self.executor.moment();
        let reply = self.reply_in_time(stage).await;
        self.note_time(stage, began);
        reply
    }

    async fn reply_in_time(&mut self, stage: Stage) -> Result<Reply, Broken> {
        let patience = self.options.patience(stage);
        let deadline = self.executor.moment().after(patience);
        if self.connection.unsent() > 0 {
            self.connection.flush(patience).await?;
        }
        loop {
            if let Some(reply) = self.parse()? {
                return Ok(reply);
            }
            let left = deadline.since(self.executor.moment());
            if left == Duration::ZERO {
                return Err(ConnectionError::TimedOut.into());
            }
            self.connection.fill(left).await?;
        }
    }

    fn parse(&mut self) -> Result<Option<Reply>, Fault> {
        let (done, parsed) = self.parser.next(self.connection.input());
        self.connection.consume(done);
        if let (Ok(Some(reply)), Some(watcher)) = (&parsed, &self.watcher)
            && watcher.wants_lines()
        {
            watcher.heard(reply);
        }
        parsed
    }
}
