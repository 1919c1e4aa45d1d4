//! What the conversation asks of a command, whichever it is.
//!
//! Each command's file implements [`Handler`] for the value that its parser makes; the conversation calls
//! it by the table of `protocol::imap`. A row whose value has no handler does not compile.

use super::{reply::Reply, state::Session};

/// Carries a command out. The tagged response is written by the conversation, from the [`Reply`].
pub(super) trait Handler {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply;
}
