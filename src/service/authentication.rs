//! Log-ins of every protocol: which mechanisms are offered, the questions of an exchange,
//! admission, delay of the answer, and counting.
//!
//! SMTP AUTH, POP3 and IMAP differ only in the replies, so guessing is equally slow everywhere. A
//! session that waits here holds its credentials but no worker; the directory limits how many
//! refusals wait, and the hashing rate limits wrong passwords.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::Shard;
use crate::{
    directory::{AuthenticationError, Identity, TokenError, Unavailable},
    events::{Event, Limit},
    metrics::Protocol,
    model::Moment,
    protocol::sasl::{
        Answer, Binding, Credentials, Mechanism, Mechanisms, Question, Token,
        scram::{Ground, Hash},
    },
    runtime::{channel_binding::ChannelBinding, connection::Connection},
};

/// Octets of the server's part of a nonce, before base64.
const NONCE_SIZE: usize = 18;

/// Whether passwords may be sent on `connection` now (RFC 3501 6.2.3, RFC 2595 2.2, RFC 4954 4).
pub(super) fn may_send_passwords(shard: &Shard, connection: &Connection) -> bool {
    connection.is_tls() || shard.options.allow_plaintext_auth
}

/// The mechanisms that would work on `connection`, once its handshake is done.
pub(super) fn mechanisms(shard: &Shard, connection: &Connection) -> Mechanisms {
    let is_private = may_send_passwords(shard, connection);
    let has_keys = shard.directory.offers_scram();
    let works = |it: &Mechanism| {
        (is_private || !it.needs_privacy())
            && (has_keys || !it.needs_keys())
            && (connection.is_bound() || !it.binds())
            && (!it.needs_tokens() || shard.options.tokens.as_ref().is_some_and(|it| it.work()))
            && (!it.needs_certificate() || certificate_is_known(shard, connection))
    };
    Mechanism::ALL.into_iter().filter(works).collect()
}

/// The names in the client's certificate.
fn certificate_names(shard: &Shard, connection: &Connection) -> Vec<String> {
    let now = Duration::from_micros(u64::try_from(shard.executor.now().0).unwrap_or_default());
    connection.certificate_names(shard.options.certificate_name, now)
}

/// Whether the client's certificate is an account's. Accounts of a backend are not asked for.
fn certificate_is_known(shard: &Shard, connection: &Connection) -> bool {
    let is_account = |name: &String| {
        shard.directory.has_backend() || shard.directory.account_named(name).is_some()
    };
    certificate_names(shard, connection).iter().any(is_account)
}

/// An attempt to log in: answers the questions of an exchange, and keeps the last answer until the
/// exchange is over.
#[derive(Debug, Default)]
pub(super) struct LogIn {
    outcome: Option<Result<Identity, AuthenticationError>>,
}

impl LogIn {
    /// Finds out.
    pub(super) async fn answer(
        &mut self,
        shard: &Shard,
        question: Question,
        protocol: Protocol,
        connection: &Connection,
    ) -> Answer {
        let attempt = Attempt { shard, protocol, connection };
        let outcome = match question {
            Question::Password { credentials, authorization } => {
                let Credentials { user, password } = credentials;
                attempt.make(&user, authorization.as_deref(), Means::Password(&password)).await
            }
            Question::Token { token: Token(token), authorization } => {
                let user = authorization.as_deref().unwrap_or_default();
                attempt.make(user, authorization.as_deref(), Means::Token(&token)).await
            }
            Question::Certificate { authorization } => {
                attempt.by_certificate(authorization.as_deref()).await
            }
            Question::Keys { user, hash, binding } => {
                match attempt.ground(&user, hash, binding).await {
                    Ok(ground) => return Answer::Ground(Box::new(ground)),
                    Err(error) => {
                        let means = Means::Proof { hash, proved: None };
                        attempt.count_and_tell(&user, means.name(), &Err(error.into()));
                        Err(error)
                    }
                }
            }
            Question::Proof { user, authorization, hash, proved } => {
                let means = Means::Proof { hash, proved: proved.as_deref() };
                attempt.make(&user, authorization.as_deref(), means).await
            }
        };
        let answer = match &outcome {
            Ok(_) => Answer::Accepted,
            Err(AuthenticationError::Rejected) => Answer::Refused,
            Err(_) => Answer::Unavailable,
        };
        self.outcome = Some(outcome);
        answer
    }

    /// What the last question led to.
    pub(super) fn outcome(&mut self) -> Result<Identity, AuthenticationError> {
        self.outcome.take().unwrap_or(Err(AuthenticationError::Rejected))
    }
}

/// One question that leads to a log-in or not.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    shard: &'a Shard,
    protocol: Protocol,
    connection: &'a Connection,
}

/// What a client shows.
#[derive(Clone, Copy)]
enum Means<'a> {
    Password(&'a str),
    Token(&'a str),
    Proof { hash: Hash, proved: Option<&'a [u8]> },
}

impl Means<'_> {
    fn name(&self) -> &'static str {
        match self {
            Means::Password(_) => "password",
            Means::Token(_) => "token",
            Means::Proof { .. } => "scram",
        }
    }
}

/// Why a log-in failed. The client is told no more than the error.
struct Refused {
    error: AuthenticationError,
    /// For the operator.
    detail: Option<String>,
}

impl Refused {
    fn with(detail: String) -> Refused {
        Refused { error: AuthenticationError::Rejected, detail: Some(detail) }
    }
}

impl From<AuthenticationError> for Refused {
    fn from(error: AuthenticationError) -> Refused {
        let detail = (error == AuthenticationError::NoIssuer).then(|| error.to_string());
        Refused { error, detail }
    }
}

impl From<Unavailable> for Refused {
    fn from(error: Unavailable) -> Refused {
        AuthenticationError::from(error).into()
    }
}

impl Attempt<'_> {
    /// Checks what the client shows. If it is wrong, the answer is late. An attempt that must wait
    /// only a short time is delayed and then tried, so a user who mistyped a password notices at
    /// most a pause.
    async fn make(
        &self,
        user: &str,
        authorization: Option<&str>,
        means: Means<'_>,
    ) -> Result<Identity, AuthenticationError> {
        let peer = self.connection.peer().ip();
        let (shard, directory) = (self.shard, &self.shard.directory);
        let delay = directory.failure_delay();
        let mut outcome = self.check(user, means).await;
        if let Err(Refused { error: AuthenticationError::Limited { wait }, .. }) = outcome
            && let Some(_held) = directory.hold(peer)
        {
            shard.executor.sleep(wait.min(delay)).await;
            if wait <= delay {
                outcome = self.check(user, means).await;
            }
        }
        if let (Some(other), Ok(identity)) = (authorization, &outcome) {
            outcome = self.act_for(identity.clone(), other).await;
        }
        self.count_and_tell(user, means.name(), &outcome);
        let outcome = outcome.map_err(|it| it.error);
        if outcome == Err(AuthenticationError::Rejected) && !delay.is_zero() {
            shard.executor.sleep(delay).await;
        }
        outcome
    }

    async fn act_for(&self, identity: Identity, other: &str) -> Result<Identity, Refused> {
        let by = identity.address.clone();
        let outcome = self.shard.directory.act_for(identity, other).await;
        outcome.map_err(|error| match error {
            AuthenticationError::Rejected => {
                Refused::with(format!("{by} may not act for {other}, or there is no such account"))
            }
            error => error.into(),
        })
    }

    async fn check(&self, user: &str, means: Means<'_>) -> Result<Identity, Refused> {
        let (peer, now) = (self.connection.peer().ip(), now(self.shard));
        let directory = &self.shard.directory;
        match means {
            // Tokens cannot be guessed, so wrong ones are not counted.
            Means::Token(token) => {
                let tokens = self.shard.options.tokens.as_ref();
                let tokens = tokens.ok_or(AuthenticationError::Rejected)?;
                let name = tokens.name_of(token).await.map_err(|error| match error {
                    TokenError::Refused(why) => Refused::with(why.to_owned()),
                    error => AuthenticationError::from(error).into(),
                })?;
                let found = directory.identity(&name).await?;
                found.ok_or_else(|| Refused::with(format!("it is for {name}, who has no account")))
            }
            Means::Password(password) => {
                Ok(directory.authenticate(user, password, peer, now).await?)
            }
            Means::Proof { hash, proved } => {
                Ok(directory.prove(user, hash, proved, peer, now).await?)
            }
        }
    }

    /// Logs in the account that the client's certificate names. If it names several, the client
    /// says which, or the first one counts.
    async fn by_certificate(
        &self,
        authorization: Option<&str>,
    ) -> Result<Identity, AuthenticationError> {
        let directory = &self.shard.directory;
        let names = certificate_names(self.shard, self.connection);
        let wanted = authorization.map(|name| directory.login_key(name));
        let mut outcome = Err(Refused::with("no name in the certificate is an account".to_owned()));
        for name in &names {
            let found = match directory.identity(name).await {
                Ok(found) => found.ok_or(AuthenticationError::Rejected.into()),
                Err(error) => Err(error.into()),
            };
            let is_wanted = wanted.as_ref().is_some_and(|it| *it == directory.login_key(name));
            if found.is_ok() && (outcome.is_err() || is_wanted) {
                outcome = found;
            }
        }
        if let (Some(other), Ok(identity)) = (authorization, &outcome) {
            outcome = self.act_for(identity.clone(), other).await;
        }
        let name = names.first().map_or("", String::as_str);
        self.count_and_tell(name, "certificate", &outcome);
        outcome.map_err(|it| it.error)
    }

    /// What the client must prove.
    async fn ground(
        &self,
        user: &str,
        hash: Hash,
        binding: Option<Binding>,
    ) -> Result<Ground, AuthenticationError> {
        let peer = self.connection.peer().ip();
        let keys = self.shard.directory.keys(user, hash, peer).await?;
        let bound_to = binding.and_then(|binding| {
            self.connection.bound_to(match binding {
                Binding::Exporter => ChannelBinding::Exporter,
                Binding::EndPoint => ChannelBinding::EndPoint,
            })
        });
        let mut nonce = [0; NONCE_SIZE];
        for octets in nonce.chunks_mut(8) {
            let drawn = self.shard.executor.random().to_le_bytes();
            octets.iter_mut().zip(drawn).for_each(|(octet, drawn)| *octet = drawn);
        }
        Ok(Ground { keys, nonce: STANDARD.encode(nonce), bound_to })
    }

    fn count_and_tell(&self, user: &str, means: &'static str, outcome: &Result<Identity, Refused>) {
        let counter = match outcome {
            Ok(_) => "authentication_successes_total",
            Err(refused) => counter(refused.error),
        };
        self.shard.metrics.count(counter, 1);
        match outcome {
            Ok(identity) => tell_log_in(self.shard, self.protocol, self.connection, identity),
            Err(refused) => self.tell_refused(user, means, refused),
        }
    }

    fn tell_refused(&self, name: &str, means: &'static str, refused: &Refused) {
        let Attempt { shard, protocol, connection } = *self;
        let (trail, peer, tls) = (connection.trail(), connection.peer().ip(), connection.is_tls());
        let reason = match refused.error {
            AuthenticationError::Rejected => "wrong",
            AuthenticationError::Limited { .. } => "held_back",
            AuthenticationError::Unavailable | AuthenticationError::NoIssuer => "unavailable",
            AuthenticationError::Busy => {
                shard.events.limit_met(Limit::AuthenticationQueue, Some(peer));
                "busy"
            }
        };
        let detail = refused.detail.as_deref();
        shard.tell(&Event::LogInRefused {
            trail,
            protocol,
            peer,
            tls,
            name,
            reason,
            means,
            detail,
        });
    }
}

fn counter(error: AuthenticationError) -> &'static str {
    match error {
        AuthenticationError::Rejected => "authentication_failures_total",
        AuthenticationError::Limited { .. } => "authentication_limited_total",
        AuthenticationError::Busy => "authentication_busy_total",
        AuthenticationError::Unavailable | AuthenticationError::NoIssuer => {
            "authentication_unavailable_total"
        }
    }
}

/// Reports a log-in, for the operator.
pub(super) fn tell_log_in(
    shard: &Shard,
    protocol: Protocol,
    connection: &Connection,
    identity: &Identity,
) {
    let (trail, peer, tls) = (connection.trail(), connection.peer().ip(), connection.is_tls());
    let Identity { account, address, app_password, master } = identity;
    shard.tell(&Event::LogIn {
        trail,
        protocol,
        peer,
        tls,
        account: *account,
        address,
        app_password: app_password.as_deref(),
        master: master.as_deref(),
    });
}

/// The clock for counting and forgiving failures.
pub fn now(shard: &Shard) -> Duration {
    shard.executor.moment().since(Moment::default())
}
