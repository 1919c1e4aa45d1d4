//! IMAP4rev1 sessions (RFC 3501 and the extensions in docs/rfc.md): the loop and the commands.
//!
//! The acceptor calls [`run`] with each connection; when the account that logged in lives on
//! another shard, `run` ends in [`Outcome::HandOver`] and that shard calls [`resume`]. The pieces:
//!
//! ```text
//! state      the loop: frames in, commands run, one flush
//! dispatch   command -> state it is allowed in, handler, updates that may follow
//! reply      how a command ends; StoreError -> response code
//! selected   the selected mailbox as the client knows it
//! sync       what changed since -> untagged responses
//! session/, authentication/, mailbox/, message/   the commands
//! ```
//!
//! A further command is a row of `protocol::imap::state`, its parser, a `Command`, an arm of `dispatch` and a
//! file; an extension may also change responses, capabilities and docs. Everything here is shard-local.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::time::Duration;

use crate::{
    directory::Identity, model::Moment, protocol::imap::Limits, runtime::connection::Connection,
};

mod authentication;
mod folder;
mod handler;
mod literal;
mod mailbox;
mod message;
mod reply;
mod seats;
mod selected;
mod session;
mod state;
mod sync;

pub use seats::AccountSeats;
pub use state::{resume, run};

/// Limits and timeouts of IMAP sessions; `config` fills them.
#[derive(Clone, Debug)]
pub struct ImapOptions {
    /// What one command may cost, once logged in. Before that 8 KiB are enough for anything.
    pub limits: Limits,
    /// Time from the greeting (or STARTTLS) until logged in.
    pub login_timeout: Duration,
    /// Time between commands, and between the octets of one; RFC 3501 5.4 wants 30 minutes.
    pub idle_timeout: Duration,
    /// Refused LOGINs after which the session ends.
    pub login_failures_max: u32,
    /// Sessions of one account at once.
    pub sessions_per_account: u32,
    /// Commands in a row that are not understood, after which the session ends.
    pub bad_commands_max: u32,
}

impl Default for ImapOptions {
    fn default() -> ImapOptions {
        ImapOptions {
            limits: Limits::default(),
            login_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30 * 60),
            login_failures_max: 3,
            sessions_per_account: 1000,
            bad_commands_max: 20,
        }
    }
}

/// How a session on this shard ended.
#[allow(clippy::large_enum_variant)] // one a session
pub enum Outcome {
    /// The connection is closed.
    Closed,
    /// The account lives on another shard: detach the connection, attach it there, [`resume`].
    /// Its output is empty; what the client pipelined after LOGIN is unread in its input.
    HandOver(Connection, ImapHandover),
}

/// What the owner of an account needs to go on with a session that logged in elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImapHandover {
    pub identity: Identity,
    /// Of the LOGIN or AUTHENTICATE that the owner answers.
    pub tag: String,
    /// The time to log in goes on, should the owner refuse.
    deadline: Moment,
    login_failures: u32,
}
