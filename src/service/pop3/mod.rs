//! POP3 sessions (RFC 1939 and the extensions in docs/rfc.md).
//!
//! The acceptor calls [`run`] with each connection; if the account that logged in belongs to
//! another shard, `run` ends with [`Outcome::HandOver`] and that shard calls [`resume`]. The parts:
//!
//! ```text
//! session    lines in, events done; the loop is service/channel.rs
//! login      credentials -> account -> open maildrop
//! maildrop   the exclusive lock, the messages as of log-in, their removal
//! retrieve   RETR and TOP: bodies straight from the log to the output
//! ```
//!
//! `protocol::pop3` decides which commands are legal. Everything here is shard-local.

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
    /// Time for the next command after log-in; RFC 1939 3 requires at least 10 minutes.
    pub idle_timeout: Duration,
    /// Wrong passwords after which the session ends.
    pub login_failures_max: u32,
    /// Number of illegal lines after which the session ends.
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

/// The state that the owner of an account needs to answer the log-in and go on.
#[derive(Debug)]
pub struct Pop3Handover {
    pub identity: Identity,
    session: pop3::Session,
    login_failures: u32,
    /// The log-in deadline continues if the owner refuses.
    deadline: Moment,
}

const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Pop3Handover>();
};
