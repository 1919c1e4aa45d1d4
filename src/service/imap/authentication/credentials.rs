//! The common part of LOGIN and AUTHENTICATE: checks credentials and finds the shard that serves.
//!
//! After a log-in the account's owner shard answers, which may be another shard: see
//! [`crate::service::imap::Outcome::HandOver`].

use super::super::{
    accounts::User,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    directory::{AuthenticationError, Identity},
    events::Limit,
    protocol::imap::Code,
};

impl Session {
    /// Opens the account on this shard, its owner. The tagged OK lists the capabilities, which
    /// saves the client a CAPABILITY command.
    pub(crate) async fn log_in(&mut self, identity: &Identity) -> Reply {
        let account = identity.account;
        let Some(partition) = self.channel.shard.local_partition(account).cloned() else {
            return Err(Failure::no(Code::Unavailable, "The account is not available now"));
        };
        let most = self.imap().sessions_per_account;
        let Some(seat) = self.channel.shard.imap_seats.take(account, most) else {
            let peer = self.channel.connection.peer().ip();
            self.channel.shard.events.limit_met(Limit::SessionsOfAccount, Some(peer));
            return Err(Failure::no(Code::Limit, "Too many sessions of this account"));
        };
        // The pending work holds the seat: a client that retries on a silent disk runs out of
        // seats.
        let opened = {
            let partition = partition.clone();
            async move { partition.account(account).await.map(|account| (account, seat)) }
        };
        let (account, seat) = self.channel.shard.in_time(&partition, opened).await?;
        let name = self.channel.shard.directory.login_key(&identity.address).into();
        let trail = self.channel.connection.trail();
        self.user = Some(User { account: identity.account, name, trail });
        (self.account, self.seat) = (Some(account), Some(seat));
        // Only now: a client refused for lack of a seat does not count as logged in.
        self.channel.connection.set_logged_in(true);
        self.lift_limits();
        self.restart_deadline();
        Done::with_code(Code::Capability(self.capabilities()), "Logged in")
    }
}

pub(super) const NOT_PRIVATE: &str = "Passwords are accepted under TLS only";

/// Answers a log-in as it was judged.
pub(super) async fn judge(
    session: &mut Session,
    tag: &str,
    judged: Result<Identity, AuthenticationError>,
) -> Reply {
    let shard = session.channel.shard.clone();
    match judged {
        Ok(identity) if shard.owner_of(identity.account) == shard.id => {
            session.log_in(&identity).await
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
        Err(AuthenticationError::NoIssuer) => {
            let text = "The provider of tokens does not answer; try again later";
            Err(Failure::no(Code::Unavailable, text))
        }
        // RFC 5530 3: UNAVAILABLE says nothing about the password.
        Err(AuthenticationError::Unavailable) => {
            Err(Failure::no(Code::Unavailable, "The directory does not answer; try again later"))
        }
    }
}

/// Refuses a log-in that no password could allow, after the same delay as a wrong password.
pub(super) async fn refuse(session: &mut Session) -> Reply {
    session.channel.flush().await?;
    let delay = session.channel.shard.directory.failure_delay();
    session.channel.shard.executor.sleep(delay).await;
    count_failure(session)?;
    Err(Failure::no(Code::AuthenticationFailed, "Wrong user or password"))
}

pub(super) fn count_failure(session: &mut Session) -> Result<(), Failure> {
    session.login_failures += 1;
    if session.login_failures >= session.imap().login_failures_max {
        return Err(Failure::bye("Too many failed logins"));
    }
    Ok(())
}
