//! Changes of one session that are decided and not yet durable: while the entry of one command is
//! being written, the next one is decided, so that commands which a client sends one after the
//! other share syncs.
//!
//! Owned by the conversation, which answers them in order and none before it is durable. Only
//! commands that do not depend on what is published (APPEND, STORE) run while others are open; all
//! others wait for those before them. At most [`OPEN_MAX`] are open.
//!
//! ```text
//! input      a APPEND | b APPEND | c STORE | d FETCH
//! decided    a   b   c   .   .   .   d
//! written    . [ a ] [ b c ] .
//! answered   .   .   a   b   c   .   d
//! ```

use std::collections::VecDeque;

use super::state::Later;
use crate::protocol::imap::{CommandBody, Updates};

/// Changes of a session that may be open at once: each is a few hundred octets, and its entry
/// waits in the log's write buffer, which is bounded by itself.
const OPEN_MAX: usize = 64;

/// Octets of a message that are awaited while changes are open; for a longer one they are answered
/// first, since it may take its time.
const AWAITED_MAX: u64 = 64 * 1024;

/// Whether a message of `octets` is there, and the line end behind it.
pub(super) fn has_whole(octets: u64, arrived: usize) -> bool {
    arrived as u64 >= octets.saturating_add(2)
}

/// A command whose answer waits for the disk.
pub(super) struct Open {
    pub tag: String,
    pub updates: Updates,
    pub later: Later,
}

/// The open changes of a session, in the order of their commands.
#[derive(Default)]
pub(super) struct Pipeline {
    open: VecDeque<Open>,
}

impl Pipeline {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn push(&mut self, open: Option<Open>) {
        self.open.extend(open);
    }

    /// Whether a command may be decided while these are open.
    pub(super) fn takes(&self, command: &CommandBody<'_>) -> bool {
        let overlaps = match command {
            CommandBody::Append(_) => true,
            CommandBody::Store(store) => store.unchanged_since.is_none(),
            _ => false,
        };
        overlaps && self.open.len() < OPEN_MAX
    }

    /// Whether a message of `octets`, of which `arrived` are there, is awaited with these open.
    pub(super) fn awaits(&self, octets: u64, arrived: usize) -> bool {
        !self.open.is_empty() && octets <= AWAITED_MAX && !has_whole(octets, arrived)
    }

    pub(super) fn pop(&mut self) -> Option<Open> {
        self.open.pop_front()
    }

    /// The first one, if its outcome is known.
    pub(super) async fn pop_settled(&mut self) -> Option<Open> {
        let settled = self.first_settled();
        futures_lite::future::poll_once(settled).await?;
        self.open.pop_front()
    }

    /// Resolves when the outcome of the first one is known. Cancel-safe.
    pub(super) async fn first_settled(&self) {
        if let Some(open) = self.open.front() {
            // What it is will be asked again.
            let _ = open.later.unsettled.settled().await;
        }
    }
}
