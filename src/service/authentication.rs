//! Log-ins of every protocol: admission, delay of the answer, and counting.
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
    runtime::connection::Connection,
};

/// Checks a password. A wrong one is answered late. An attempt that must wait only a short time is
/// delayed and then tried, so a user who mistyped a password notices at most a pause.
pub(super) async fn authenticate(
    shard: &Shard,
    user: &str,
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
