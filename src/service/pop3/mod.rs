//! POP3 sessions (RFC 1939 and the extensions in docs/rfc.md).
//!
//! The acceptor calls [`run`] with each connection; when the account that logged in lives on
//! another shard, `run` ends in [`Outcome::HandOver`] and that shard calls [`resume`]. The pieces:
//!
//! ```text
//! session    lines in, events done; the loop is service/channel.rs
//! login      credentials -> account -> open maildrop
//! maildrop   the exclusive lock, the messages as they were at login, their removal
//! retrieve   RETR and TOP: bodies straight from the log to the output
//! ```
//!
//! Which command is legal when is `protocol::pop3`'s business. Everything here is shard-local.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::time::Duration;

use crate::{directory::Identity, model::Moment, protocol::pop3, service::channel};

mod login;
mod maildrop;
mod retrieve;
mod session;

pub use self::session::{resume, run};

/// Limits and timeouts of POP3 sessions; `config` fills them.
#[derive(Clone, Debug)]
pub struct Pop3Options {
    /// Time from the greeting (or STLS) until logged in.
    pub login_timeout: Duration,
    /// Time for the next command after login; RFC 1939 3 wants 10 minutes at least.
    pub idle_timeout: Duration,
    /// Wrong passwords after which the session ends.
    pub login_failures_max: u32,
    /// Lines that are no legal command after which the session ends.
    pub bad_commands_max: u32,
}

impl Default for Pop3Options {
    fn default() -> Pop3Options {
        Pop3Options {
            login_timeout: Duration::from_secs(3 * 60),
            idle_timeout: Duration::from_secs(10 * 60),
            login_failures_max: 3,
            bad_commands_max: 20,
        }
    }
}

/// How a session on this shard ended.
pub type Outcome = channel::Outcome<Pop3Handover>;

/// What the owner of an account needs to answer the login and to go on.
#[derive(Debug)]
pub struct Pop3Handover {
    pub identity: Identity,
    session: pop3::Session,
    login_failures: u32,
    /// The time to log in goes on, should the owner refuse.
    deadline: Moment,
}

const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Pop3Handover>();
};
