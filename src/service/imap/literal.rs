//! Reads streamed literals, counted and never kept, and the parts of a command around them.
//!
//! The framer announces a literal; handlers of commands that carry messages take it. The
//! conversation discards the rest of a refused command, so that the stream stays in sync (RFC 7888
//! 4).

use std::time::Duration;

use super::{
    reply::{Failure, Leave},
    state::Session,
};
use crate::{
    model::MailClass, protocol::imap::Frame, runtime::connection::ConnectionError,
    service::intake::Pace,
};

impl Session {
    /// Number of octets of the literal that are in the input, at least one; `remaining` are
    /// outstanding. The caller consumes what it uses.
    pub(super) async fn literal_input(
        &mut self,
        remaining: u64,
        pace: &mut Pace,
    ) -> Result<usize, ConnectionError> {
        while self.channel.connection.input().is_empty() {
            self.wait_for_literal(pace, None).await?;
        }
        let arrived = self.channel.connection.input().len();
        Ok(usize::try_from(remaining).map_or(arrived, |remaining| arrived.min(remaining)))
    }

    /// The pace that a client must keep while it sends a message.
    pub(super) fn literal_pace(&self) -> Pace {
        Pace::new(&self.options().intake, self.channel.shard.executor.moment())
    }

    /// Waits for more of a message, for at most `most`, and only while the client keeps up its
    /// pace.
    pub(super) async fn wait_for_literal(
        &mut self,
        pace: &mut Pace,
        most: Option<Duration>,
    ) -> Result<(), ConnectionError> {
        self.channel.flush().await?;
        let read_max = self.channel.shard.messages.read_max(MailClass::Submission);
        self.channel.connection.set_read_max(read_max);
        let filled = self.channel.fill_at_pace(pace, most.unwrap_or(Duration::MAX)).await;
        self.channel.connection.set_read_max(usize::MAX);
        filled
    }

    /// The part of the command that follows a streamed literal: up to the header of the next
    /// literal, which is then in [`Session::literal`], or up to the command's end.
    pub(super) async fn next_part(&mut self, pace: &mut Pace) -> Result<Vec<u8>, Failure> {
        if self.channel.connection.input().is_empty() {
            // Python's imaplib and others send the command's last CRLF by itself.
            self.channel.connection.acknowledge();
        }
        loop {
            match self.framer.next(self.channel.connection.input()) {
                Frame::More => self.wait_for_literal(pace, None).await?,
                Frame::Continue => self.writer().continuation("OK"),
                Frame::Command { size } => return self.take_part(size),
                Frame::Part { size, literal } => {
                    self.literal = Some(literal);
                    return self.take_part(size);
                }
                Frame::Refused { size } => {
                    self.channel.connection.consume(size);
                    self.framer.take_excess();
                    return Err(Failure::literal_too_large(self.framer.limits()));
                }
                Frame::Bye(text) => return Err(Failure::bye(text)),
            }
        }
    }

    fn take_part(&mut self, size: usize) -> Result<Vec<u8>, Failure> {
        let part = self.take_input(size);
        match self.framer.take_excess() {
            true => Err(Failure::literal_not_awaited()),
            false => Ok(part),
        }
    }

    /// Discards the rest of a command that was refused before it was read. A client that waits for
    /// `+` has been told NO instead and sends nothing (RFC 3501 7.5).
    pub(super) async fn skip_rest(&mut self) -> Result<(), Leave> {
        let mut pace = self.literal_pace();
        while let Some(literal) = self.literal.take() {
            if literal.sync {
                self.framer.abandon();
                return Ok(());
            }
            let mut remaining = literal.size;
            while remaining > 0 {
                let came = self.literal_input(remaining, &mut pace).await;
                let count = came.map_err(|error| Leave::from(&error))?;
                self.channel.connection.consume(count);
                remaining -= count as u64;
            }
            // The content of the part does not matter: the command has been answered.
            if let Err(Failure::Leave(leave)) = self.next_part(&mut pace).await {
                return Err(leave);
            }
        }
        Ok(())
    }
}
