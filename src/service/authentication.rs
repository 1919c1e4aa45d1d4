//! Log-ins of every protocol: which mechanisms are offered, the questions of an exchange, admission,
//! delay of the answer, and counting.
//!
//! SMTP AUTH, POP3 and IMAP differ only in the replies, so guessing is equally slow everywhere. A
//! session that waits here holds its credentials but no worker; the directory limits how many
//! refusals wait, and the hashing rate limits wrong passwords.

use std::time::Duration;

use super::Shard;
use crate::{
    directory::{AuthenticationError, Identity},
    events::{Event, Limit},
    metrics::Protocol,
    model::Moment,
    protocol::sasl::{Answer, Credentials, Mechanism, Mechanisms, Question},
    runtime::connection::Connection,
};

/// Whether passwords may be sent on `connection` now (RFC 3501 6.2.3, RFC 2595 2.2, RFC 4954 4).
pub(super) fn may_send_passwords(shard: &Shard, connection: &Connection) -> bool {
    connection.is_tls() || shard.options.allow_plaintext_auth
}

/// The mechanisms that would work on `connection`, once its handshake is done.
pub(super) fn mechanisms(shard: &Shard, connection: &Connection) -> Mechanisms {
    let is_private = may_send_passwords(shard, connection);
    Mechanism::ALL.into_iter().filter(|it| is_private || !it.needs_privacy()).collect()
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
        let outcome = match question {
            Question::Password { credentials, authorization } => {
                let Credentials { user, password } = credentials;
                let authorization = authorization.as_deref();
                authenticate(shard, &user, authorization, &password, protocol, connection).await
            }
        };
        let answer = if outcome.is_ok() { Answer::Accepted } else { Answer::Refused };
        self.outcome = Some(outcome);
        answer
    }

    /// What the last question led to.
    pub(super) fn outcome(&mut self) -> Result<Identity, AuthenticationError> {
        self.outcome.take().unwrap_or(Err(AuthenticationError::Rejected))
    }
}

/// Checks a password. A wrong one is answered late. An attempt that must wait only a short time is
/// delayed and then tried, so a user who mistyped a password notices at most a pause.
async fn authenticate(
    shard: &Shard,
    user: &str,
    authorization: Option<&str>,
    password: &str,
    protocol: Protocol,
    connection: &Connection,
) -> Result<Identity, AuthenticationError> {
    let peer = connection.peer().ip();
    let directory = &shard.directory;
    let delay = directory.failure_delay();
    let mut outcome = directory.authenticate(user, password, peer, now(shard)).await;
    if let Err(AuthenticationError::Limited { wait }) = outcome
        && let Some(_held) = directory.hold(peer)
    {
        shard.executor.sleep(wait.min(delay)).await;
        if wait <= delay {
            outcome = directory.authenticate(user, password, peer, now(shard)).await;
        }
    }
    // Acting for another user is not supported (RFC 4616 4).
    if authorization.is_some_and(|other| other != user) && outcome.is_ok() {
        outcome = Err(AuthenticationError::Rejected);
    }
    shard.metrics.count(counter(&outcome), 1);
    tell(shard, user, protocol, connection, &outcome);
    if outcome == Err(AuthenticationError::Rejected) && !delay.is_zero() {
        shard.executor.sleep(delay).await;
    }
    outcome
}

fn counter(outcome: &Result<Identity, AuthenticationError>) -> &'static str {
    match outcome {
        Ok(_) => "authentication_successes_total",
        Err(AuthenticationError::Rejected) => "authentication_failures_total",
        Err(AuthenticationError::Limited { .. }) => "authentication_limited_total",
        Err(AuthenticationError::Busy) => "authentication_busy_total",
        Err(AuthenticationError::Unavailable) => "authentication_unavailable_total",
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
    let Identity { account, address } = identity;
    shard.tell(&Event::LogIn { trail, protocol, peer, tls, account: *account, address });
}

fn tell(
    shard: &Shard,
    name: &str,
    protocol: Protocol,
    connection: &Connection,
    outcome: &Result<Identity, AuthenticationError>,
) {
    let (trail, peer, tls) = (connection.trail(), connection.peer().ip(), connection.is_tls());
    let reason = match outcome {
        Ok(identity) => return tell_log_in(shard, protocol, connection, identity),
        Err(AuthenticationError::Rejected) => "wrong",
        Err(AuthenticationError::Limited { .. }) => "held_back",
        Err(AuthenticationError::Unavailable) => "unavailable",
        Err(AuthenticationError::Busy) => {
            shard.events.limit_met(Limit::AuthenticationQueue, Some(peer));
            "busy"
        }
    };
    shard.tell(&Event::LogInRefused { trail, protocol, peer, tls, name, reason });
}

/// The clock for counting and forgiving failures.
pub fn now(shard: &Shard) -> Duration {
    shard.executor.moment().since(Moment::default())
}
