//! Who is there, and which shard serves: what LOGIN and AUTHENTICATE have in common.
//!
//! After a log-in the account's owner shard answers, which may be another one: see
//! [`crate::service::imap::Outcome::HandOver`].

use super::super::{
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    directory::AuthenticationError, events::Limit, metrics::Protocol, model::AccountId,
    protocol::imap::Code, service::authentication,
};

impl Session {
    /// Opens the account on this shard, its owner. The tagged OK tells what is possible now, which
    /// saves the client a CAPABILITY.
    pub(crate) async fn log_in(&mut self, account: AccountId) -> Reply {
        let Some(partition) = self.channel.shard.local_partition(account).cloned() else {
            return Err(Failure::no(Code::Unavailable, "The account is not available now"));
        };
        let most = self.imap().sessions_per_account;
        let Some(seat) = self.channel.shard.imap_seats.take(account, most) else {
            let peer = self.channel.connection.peer().ip();
            self.channel.shard.events.limit_met(Limit::SessionsOfAccount, Some(peer));
            return Err(Failure::no(Code::Limit, "Too many sessions of this account"));
        };
        // The seat goes with the work: who tries again and again on a silent disk runs out of them.
        let opened = {
            let partition = partition.clone();
            async move { partition.account(account).await.map(|account| (account, seat)) }
        };
        let (account, seat) = self.channel.shard.in_time(&partition, opened).await?;
        (self.account, self.seat) = (Some(account), Some(seat));
        // Only now: whom the account has no room for is still a stranger.
        self.channel.connection.set_logged_in(true);
        self.lift_limits();
        self.restart_deadline();
        Done::with_code(Code::Capability(self.capabilities()), "Logged in")
    }
}

/// RFC 3501 6.2.3 and 11.1: no password in clear, and the refusal comes before looking at it.
pub(super) fn require_privacy(session: &Session) -> Result<(), Failure> {
    if session.can_login() {
        return Ok(());
    }
    Err(Failure::no(Code::PrivacyRequired, "Passwords are taken under TLS only"))
}

pub(super) async fn check(session: &mut Session, tag: &str, user: &str, password: &str) -> Reply {
    let shard = session.channel.shard.clone();
    session.channel.flush().await?;
    let connection = &session.channel.connection;
    let checked =
        authentication::authenticate(&shard, user, password, Protocol::Imap, connection).await;
    match checked {
        Ok(identity) if shard.owner_of(identity.account) == shard.id => {
            session.log_in(identity.account).await
        }
        Ok(identity) => Ok(Done::HandOver(session.handover(identity, tag))),
        Err(AuthenticationError::Rejected) => {
            count_failure(session)?;
            Err(Failure::no(Code::AuthenticationFailed, "Wrong user or password"))
        }
        Err(AuthenticationError::Limited { .. }) => {
            count_failure(session)?;
            Err(Failure::no(Code::Unavailable, "Too many wrong passwords; try again later"))
        }
        Err(AuthenticationError::Busy) => {
            Err(Failure::no(Code::Unavailable, "Too many logins in progress; try again"))
        }
        // RFC 5530 3: nothing is said about the password.
        Err(AuthenticationError::Unavailable) => {
            Err(Failure::no(Code::Unavailable, "The directory does not answer; try again later"))
        }
    }
}

/// What no password could make right: told as late as a wrong one.
pub(super) async fn refuse(session: &mut Session) -> Reply {
    session.channel.flush().await?;
    let delay = session.channel.shard.directory.failure_delay();
    session.channel.shard.executor.sleep(delay).await;
    count_failure(session)?;
    Err(Failure::no(Code::AuthenticationFailed, "Wrong user or password"))
}

fn count_failure(session: &mut Session) -> Result<(), Failure> {
    session.login_failures += 1;
    if session.login_failures >= session.imap().login_failures_max {
        return Err(Failure::bye("Too many failed logins"));
    }
    Ok(())
}
