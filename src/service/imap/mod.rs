//! IMAP4rev1 sessions (RFC 3501 and the extensions in docs/rfc.md).
//!
//! The acceptor calls [`run`] with each connection; when the account that logged in lives on
//! another shard, `run` ends in [`Outcome::HandOver`] and that shard calls [`resume`]. The pieces:
//!
//! ```text
//! conversation   steps: reads frames, runs commands by the table of protocol::imap; the loop is in
//!                service/channel.rs
//! pipeline       changes that are decided and not yet durable
//! session/  authentication/  mailbox/  access/  quota/  metadata/  urls/  message/
//!                the commands, a file each
//! handler        the interface of a command's handler
//! notify         what happens elsewhere -> untagged responses (NOTIFY)
//! sync           what changed since -> untagged responses
//! updates        how the results of searches change -> untagged responses
//! quoted         octets of messages that an URL names
//! upload         messages of a command, from the client into the store
//! searching/     what the selected mailbox has of a query
//! folder         mailbox names -> mailboxes
//! namespace      the names that a session can use, and whose they are
//! progress       that a long command goes on
//! literal        message literals as they arrive
//! state          the session that handlers borrow
//! binary         parts of messages without their transfer encoding
//! reader         one stored message, in pieces
//! selected       the selected mailbox as the client knows it
//! context        search results whose changes a client is told
//! watched        what a session with NOTIFY watches
//! query          search keys, compiled
//! accounts/      accounts of this and other shards, as one user may use them
//! reply          how a command ends; StoreError -> response code
//! seats, options, handover
//! ```
//!
//! Imports point down this list. A new command takes a row of the table, a value and parser in
//! `protocol::imap`, and a handler here. Everything is shard-local.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod access;
mod accounts;
mod authentication;
mod binary;
mod context;
mod conversation;
mod folder;
mod handler;
mod handover;
mod literal;
mod mailbox;
mod message;
mod metadata;
mod namespace;
mod notify;
mod options;
mod pipeline;
mod progress;
mod query;
mod quota;
mod quoted;
mod reader;
mod reply;
mod resync;
mod searching;
mod seats;
mod selected;
mod session;
mod state;
mod sync;
mod updates;
mod upload;
mod urls;
mod watched;

pub use accounts::{Follows, Leases};
pub use conversation::{resume, run};
pub use handover::{ImapHandover, Outcome};
pub use options::ImapOptions;
pub use seats::AccountSeats;

#[cfg(test)]
mod tests;
