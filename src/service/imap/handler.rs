//! The interface between the conversation and the handler of a command.
//!
//! Each command's file implements [`Handler`] for the value that its parser returns; the
//! conversation calls it by the table of `protocol::imap`. A row without a handler does not
//! compile.

use super::{reply::Reply, state::Session};

/// Executes a command. The conversation writes the tagged response from the [`Reply`].
pub(super) trait Handler {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply;
}
