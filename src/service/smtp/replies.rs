//! Replies of policy, directory and store. Replies about what is legal are in
//! `protocol::smtp::reply`.

use crate::protocol::smtp::Reply;

// Policy.
pub(super) const DEFERRED: Reply = Reply("451 4.7.1 Not now, try again later");
/// In place of the greeting: the connection ends.
pub(super) const CONNECTION_DEFERRED: Reply = Reply("421 4.7.1 Not now, try again later");

/// `runtime.lag_max`.
pub(super) const TOO_BUSY: Reply = Reply("452 4.3.2 The server is too busy, try again later");

// Authentication.
pub(super) const AUTH_BUSY: Reply = Reply("454 4.7.0 Too many authentications, try again later");
pub(super) const AUTH_LIMITED: Reply = Reply("454 4.7.0 Too many wrong passwords, try again later");
/// RFC 4954 6.
pub(super) const AUTH_TEMPORARY: Reply = Reply("454 4.7.0 Temporary authentication failure");
/// In place of the greeting: no user has the name that XCLIENT gave as LOGIN.
pub(super) const LOGIN_UNKNOWN: Reply = Reply("554 5.7.8 No account has this LOGIN");
/// In place of the greeting: it is not known whether a user has that name.
pub(super) const LOGIN_UNCERTAIN: Reply = Reply("421 4.3.0 The directory does not answer, closing");
pub(super) const NOT_YOUR_ADDRESS: Reply =
    Reply("553 5.7.1 This account may not send as that address");

// Recipients.
pub(super) const UNKNOWN_USER: Reply = Reply("550 5.1.1 No such user here");
pub(super) const RELAY_DENIED: Reply = Reply("550 5.7.1 Relaying denied");
pub(super) const NO_WAY_OUT: Reply = Reply(
    "550 5.7.1 Mail to other domains is not possible: this server has no DNS servers and no route",
);
/// `queue.messages_per_partition`.
pub(super) const QUEUE_FULL: Reply =
    Reply("452 4.3.1 Too many messages wait for other servers, try again later");
/// Whether the user exists is not known.
pub(super) const DIRECTORY_TROUBLE: Reply =
    Reply("451 4.3.0 The directory does not answer, try again later");

// Messages.
pub(super) const MESSAGES_BUSY: Reply =
    Reply("452 4.3.1 Too many messages under way, try again later");
pub(super) const STORE_FULL: Reply = Reply("452 4.3.1 Not enough storage");
pub(super) const STORE_TROUBLE: Reply = Reply("451 4.3.0 Storage failed, try again later");
pub(super) const MAILBOX_FULL: Reply = Reply("552 5.2.2 The mailbox is full");
/// `quota.over = "defer"`.
pub(super) const MAILBOX_FULL_NOW: Reply = Reply("452 4.2.2 The mailbox is full, try again later");
pub(super) const MAILBOX_REFUSED: Reply = Reply("554 5.2.0 The mailbox cannot take this message");

// The end of a session.
pub(super) const TIMED_OUT: Reply = Reply("421 4.4.2 Timed out, closing");
pub(super) const SHUTTING_DOWN: Reply = Reply("421 4.3.2 Shutting down, closing");
pub(super) const NO_MEMORY: Reply = Reply("421 4.3.1 Out of memory, closing");
