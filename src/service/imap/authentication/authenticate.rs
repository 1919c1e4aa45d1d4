//! Who is there: STARTTLS, AUTHENTICATE and LOGIN (RFC 3501 6.2, RFC 4959), and which shard serves.
//!
//! Nothing that came in clear is used under TLS: `Connection::start_tls` throws it away (RFC 3501
//! 11.1). After login the account's owner shard answers, which may be another one: see
//! [`crate::service::imap::Outcome::HandOver`].

use super::super::{
    reply::{Done, Failure, Leave, Reply},
    state::Session,
};
use crate::{
    directory::AuthenticationError,
    model::AccountId,
    protocol::{
        imap::{Code, Frame, Status, Text},
        sasl::{Exchange, Mechanism, SaslError, Step},
    },
    service::authentication,
};

pub(crate) async fn start_tls(session: &mut Session, tag: &str) -> Reply {
    if !session.connection.can_start_tls() {
        return Err(Failure::bad("TLS is active already or not available"));
    }
    session.writer().tagged(tag, Status::Ok, None, "Begin TLS negotiation now");
    session.flush().await?;
    let timeout = session.options().tls_handshake_timeout;
    session.connection.start_tls(timeout).await.map_err(|_| Failure::Leave(Leave::Lost))?;
    session.restart_under_tls();
    Ok(Done::Answered)
}

pub(crate) async fn login(
    session: &mut Session,
    tag: &str,
    user: &Text<'_>,
    password: &Text<'_>,
) -> Reply {
    require_privacy(session)?;
    // Passwords are compared octet by octet; accounts and passwords are UTF-8 in our directory.
    match (std::str::from_utf8(user), std::str::from_utf8(password)) {
        (Ok(user), Ok(password)) => check(session, tag, user, password).await,
        _ => refuse(session).await,
    }
}

pub(crate) async fn authenticate(
    session: &mut Session,
    tag: &str,
    mechanism: &str,
    initial_response: Option<&[u8]>,
) -> Reply {
    require_privacy(session)?;
    let Some(mechanism) = Mechanism::parse(mechanism.as_bytes()) else {
        return Err(Failure::no(Code::Cannot, "No such mechanism"));
    };
    let (mut exchange, mut step) = Exchange::start(mechanism, initial_response);
    loop {
        match step {
            Step::Challenge(challenge) => {
                session.writer().continuation(challenge);
                let line = read_line(session).await?;
                step = exchange.respond(&line);
            }
            Step::Done(credentials) => {
                return check(session, tag, &credentials.user, &credentials.password).await;
            }
            Step::Failed(SaslError::AuthorizationDenied) => return refuse(session).await,
            Step::Failed(SaslError::Cancelled) => {
                return Err(Failure::bad("Authentication cancelled"));
            }
            Step::Failed(SaslError::Malformed(why)) => return Err(Failure::bad(why)),
        }
    }
}

impl Session {
    /// Opens the account on this shard, its owner. The tagged OK tells what is possible now, which
    /// saves the client a CAPABILITY.
    pub(crate) async fn log_in(&mut self, account: AccountId) -> Reply {
        let Some(partition) = self.shard.local_partition(account).cloned() else {
            return Err(Failure::no(Code::Unavailable, "The account is not available now"));
        };
        let most = self.imap().sessions_per_account;
        let Some(seat) = self.shard.imap_seats.take(account, most) else {
            return Err(Failure::no(Code::Limit, "Too many sessions of this account"));
        };
        // The seat goes with the work: who tries again and again on a silent disk runs out of them.
        let opened = {
            let partition = partition.clone();
            async move { partition.account(account).await.map(|account| (account, seat)) }
        };
        let (account, seat) = self.shard.in_time(&partition, opened).await?;
        (self.account, self.seat) = (Some(account), Some(seat));
        // Only now: whom the account has no room for is still a stranger.
        self.connection.set_logged_in(true);
        self.lift_limits();
        self.restart_deadline();
        Done::with_code(Code::Capability(self.capabilities()), "Logged in")
    }
}

/// RFC 3501 6.2.3 and 11.1: no password in clear, and the refusal comes before looking at it.
fn require_privacy(session: &Session) -> Result<(), Failure> {
    if session.can_login() {
        return Ok(());
    }
    Err(Failure::no(Code::PrivacyRequired, "Passwords are taken under TLS only"))
}

async fn check(session: &mut Session, tag: &str, user: &str, password: &str) -> Reply {
    let peer = session.connection.peer().ip();
    let shard = session.shard.clone();
    session.flush().await?;
    let checked = authentication::authenticate(&shard, user, password, peer).await;
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
    }
}

/// What no password could make right: told as late as a wrong one.
async fn refuse(session: &mut Session) -> Reply {
    session.flush().await?;
    let delay = session.shard.directory.failure_delay();
    session.shard.executor.sleep(delay).await;
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

/// One line of a SASL exchange, without its CRLF.
async fn read_line(session: &mut Session) -> Result<Vec<u8>, Failure> {
    loop {
        match session.framer.line(session.connection.input()) {
            Frame::Command { size } => {
                let mut line = session.take_input(size);
                line.truncate(line.strip_suffix(b"\r\n").unwrap_or(&line).len());
                return Ok(line);
            }
            Frame::Bye(text) => return Err(Failure::bye(text)),
            _ => session.wait_for_input().await?,
        }
    }
}
