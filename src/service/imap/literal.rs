//! The message literal of an APPEND while it arrives: counted, never kept.
//!
//! Announced by the framer, taken by [`super::mailbox::append`]; what a refused APPEND leaves of it is
//! thrown away by the session, so that the stream stays in step (RFC 7888 4).

use std::time::Duration;

use super::{
    reply::{Failure, Leave},
    state::Session,
};
use crate::{
    protocol::imap::Frame,
    runtime::connection::ConnectionError,
    service::{budget::Trust, intake::Pace},
};

/// A literal that follows the command that was just read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Literal {
    pub size: u64,
    /// The client waits for `+` before it sends.
    pub sync: bool,
}

impl Literal {
    pub(super) fn new(size: u64, sync: bool) -> Literal {
        Literal { size, sync }
    }
}

impl Session {
    /// Input of the literal that has arrived, at least one octet; `remaining` are outstanding.
    /// The caller consumes what it took.
    pub(super) async fn literal_input(
        &mut self,
        remaining: u64,
        pace: &mut Pace,
    ) -> Result<usize, ConnectionError> {
        while self.connection.input().is_empty() {
            self.wait_for_literal(pace, None).await?;
        }
        let arrived = self.connection.input().len();
        Ok(usize::try_from(remaining).map_or(arrived, |remaining| arrived.min(remaining)))
    }

    /// The time that a client has for a message.
    pub(super) fn literal_pace(&self) -> Pace {
        Pace::new(&self.options().intake, self.shard.executor.moment())
    }

    /// Waits for more of a message, `most` at the longest, and only while the client keeps up its
    /// pace.
    pub(super) async fn wait_for_literal(
        &mut self,
        pace: &mut Pace,
        most: Option<Duration>,
    ) -> Result<(), ConnectionError> {
        self.flush().await?;
        let patience = pace.patience(self.shard.executor.moment());
        if patience == Duration::ZERO {
            return Err(ConnectionError::TimedOut);
        }
        let before = self.connection.input().len();
        self.connection.set_read_max(self.shard.messages.read_max(Trust::Known));
        let filled = self.connection.fill(most.map_or(patience, |most| most.min(patience))).await;
        self.connection.set_read_max(usize::MAX);
        filled?;
        let came = self.connection.input().len().saturating_sub(before);
        pace.credit(&self.shard.options.intake, came, self.shard.executor.moment());
        Ok(())
    }

    /// The empty line after the literal. Anything else would be a second message (MULTIAPPEND),
    /// which we do not offer.
    pub(super) async fn end_of_literal(&mut self, pace: &mut Pace) -> Result<(), Failure> {
        if self.connection.input().is_empty() {
            // Python's imaplib and others send the command's last CRLF by itself.
            self.connection.acknowledge();
        }
        loop {
            match self.framer.line(self.connection.input()) {
                Frame::Command { size } => {
                    let line = self.take_input(size);
                    let text = line.strip_suffix(b"\r\n");
                    let empty = text.is_some_and(|text| text.iter().all(|&octet| octet == b' '));
                    return if empty { Ok(()) } else { Err(Failure::bad("Expected end of line")) };
                }
                Frame::Bye(text) => return Err(Failure::bye(text)),
                _ => self.wait_for_literal(pace, None).await?,
            }
        }
    }

    /// Throws away the literal of an APPEND that was refused before reading it. A client that waits
    /// for `+` has been told NO instead and sends nothing (RFC 3501 7.5).
    pub(super) async fn skip_literal(&mut self) -> Result<(), Leave> {
        let Some(literal) = self.literal.take() else { return Ok(()) };
        if literal.sync {
            return Ok(());
        }
        let mut pace = self.literal_pace();
        let mut remaining = literal.size;
        while remaining > 0 {
            let count = self.literal_input(remaining, &mut pace).await?;
            self.connection.consume(count);
            remaining -= count as u64;
        }
        // What the line says makes no difference: the command has been answered.
        match self.end_of_literal(&mut pace).await {
            Err(Failure::Leave(leave)) => Err(leave),
            _ => Ok(()),
        }
    }
}
