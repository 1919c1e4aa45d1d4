//! The input of a connection: what was received, opened by its layers, and not yet consumed.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{super::resources::SCRATCH_SIZE, Connection, ConnectionError};

/// Consecutive reads that bring no plaintext; then the session yields. Otherwise a peer that sends
/// key updates and empty records as fast as we open them would keep the core, and its deadline
/// would not be checked. 64 KiB of them take about 2 ms.
const FRUITLESS_READS_MAX: u8 = 2;

impl Connection {
    /// Bytes received (decrypted) and not yet consumed.
    pub fn input(&self) -> &[u8] {
        self.input.bytes().get(self.consumed..).unwrap_or_default()
    }

    /// Marks the first `count` bytes of `input()` as processed (all of them if it has fewer).
    pub fn consume(&mut self, count: usize) {
        self.consumed = self.consumed.saturating_add(count);
        if self.consumed >= self.input.bytes().len() && self.consumed > 0 {
            self.input.bytes_mut().clear();
            self.consumed = 0;
        }
    }

    /// From now on `fill` takes at most `octets` from the socket at a time (64 KiB at first):
    /// octets left in the socket cost the shard nothing.
    pub fn set_read_max(&mut self, octets: usize) {
        self.read_max = octets.clamp(1, SCRATCH_SIZE) as u32;
    }

    /// Waits for more input and appends it to `input()`; at most 64 KiB a call. The caller keeps
    /// `input()` bounded by consuming or giving up. `Err(Closed)` at end of stream. Cancel-safe.
    pub async fn fill(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        self.input.release_if_empty();
        self.wait(timeout, Self::poll_fill).await
    }

    /// While false, `fill` does not fail with `ShuttingDown`: for the middle of a command, such as
    /// message data, when `input()` may be empty. Initially true.
    pub fn set_interruptible(&mut self, interruptible: bool) {
        self.interruptible = interruptible;
    }

    /// Acknowledges what the peer sent without waiting for a reply to carry it. For protocols whose
    /// clients write one message in two small pieces: with Nagle's algorithm on their side and
    /// delayed acknowledgements on ours, the second piece comes 40 ms late.
    pub fn acknowledge(&self) {
        self.transport.acknowledge();
    }

    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let before = self.input().len();
        if before == 0 && self.interruptible && self.shutting_down() {
            return Poll::Ready(Err(ConnectionError::ShuttingDown));
        }
        loop {
            ready!(self.poll_send_sealed(context))?;
            if self.input().len() > before {
                self.input.recount();
                if !self.seat.resources.buffers().has_room() {
                    // What counts is the received data, not the size of the buffer that happened to
                    // be free.
                    self.input.fit();
                }
                return Poll::Ready(self.seat.settle());
            }
            ready!(self.poll_fruitless(context));
            ready!(self.poll_receive(context))?;
        }
    }

    /// Before each read of a wait: ready unless there were so many that others must run first.
    /// `wait` resets the count.
    pub(super) fn poll_fruitless(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.fruitless < FRUITLESS_READS_MAX {
            self.fruitless += 1;
            return Poll::Ready(());
        }
        self.fruitless = 0;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Receives once, through the layers if there are any. Ready does not mean that `input` grew.
    pub(super) fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>> {
        if self.layers.have_more() {
            return Poll::Ready(self.open_more(context));
        }
        if self.ended {
            return Poll::Ready(Err(ConnectionError::Closed));
        }
        let resources = self.seat.resources.clone();
        resources.with_scratch(|scratch| {
            let scratch = scratch.get_mut(..self.read_max as usize).unwrap_or_default();
            let count = ready!(self.transport.poll_receive(context, scratch))?;
            let Some(received @ [_, ..]) = scratch.get_mut(..count) else {
                self.ended = true;
                return Poll::Ready(Err(ConnectionError::Closed));
            };
            self.compact_input();
            if self.layers.is_empty() {
                self.input.reserve(received.len());
                self.input.bytes_mut().extend_from_slice(received);
                return Poll::Ready(Ok(()));
            }
            let opened = self.layers.open(received, &mut self.input, &mut self.sealed);
            self.ended = self.layers.have_ended();
            self.layers.drop_spent();
            self.input.release_if_empty();
            if opened.is_err() {
                self.send_alert(context);
            }
            Poll::Ready(opened)
        })
    }

    /// Opens more of what was received before.
    fn open_more(&mut self, context: &mut Context<'_>) -> Result<(), ConnectionError> {
        self.compact_input();
        let opened = self.layers.open_more(&mut self.input, &mut self.sealed);
        self.ended = self.layers.have_ended();
        self.layers.drop_spent();
        self.input.release_if_empty();
        if opened.is_err() {
            self.send_alert(context);
        }
        opened
    }

    /// Moves unconsumed input to the front of its buffer.
    pub(super) fn compact_input(&mut self) {
        if self.consumed > 0 {
            self.input.bytes_mut().drain(..self.consumed);
            self.consumed = 0;
        }
    }
}
