//! The output of a connection: replies, sealed by its layers piece by piece, and what the layers
//! send of their own.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{super::resources::SCRATCH_SIZE, Connection, ConnectionError};

impl Connection {
    /// Octets of replies not yet sent. Does not allocate a buffer.
    pub fn unsent(&self) -> usize {
        self.output.bytes().len()
    }

    /// Replies not yet sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.output.bytes_mut()
    }

    /// As much output as was just sent is likely to follow: a buffer that grew to it would be
    /// copied at each step.
    pub fn expect_output(&mut self, octets: usize) {
        // What is appended last goes beyond it.
        self.output.reserve(2 * octets);
    }

    /// Sends all of `output()`. Call it whenever `output()` outgrows 64 KiB, so that a client that
    /// never reads costs one buffer. After its future was dropped, `output()` may only be appended
    /// to before the next `flush`.
    pub async fn flush(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        let result = self.wait(timeout, Self::poll_flush).await;
        self.broken |= result.is_err();
        result
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        ready!(self.poll_handshake(context))?;
        loop {
            ready!(self.poll_send_sealed(context))?;
            let unsent = self.output.bytes().get(self.taken..).unwrap_or_default();
            if unsent.is_empty() {
                self.output.bytes_mut().clear();
                self.output.release_if_empty();
                self.taken = 0;
                return Poll::Ready(Ok(()));
            }
            if self.layers.is_empty() {
                self.taken += ready!(self.transport.poll_send(context, unsent))?;
                continue;
            }
            // Sealed piece by piece, so that a large reply is never in memory twice.
            let piece = unsent.get(..SCRATCH_SIZE).unwrap_or(unsent);
            let sealed = self.layers.seal(piece, &mut self.input, &mut self.sealed);
            self.taken += piece.len();
            if let Err(error) = sealed {
                self.send_alert(context);
                return Poll::Ready(Err(error));
            }
            self.input.release_if_empty();
            self.sealed.recount();
        }
    }

    pub(super) fn poll_send_sealed(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>> {
        while let Some(unsent @ [_, ..]) = self.sealed.bytes().get(self.sealed_sent..) {
            self.sealed_sent += ready!(self.transport.poll_send(context, unsent))?;
        }
        if self.sealed_sent > 0 {
            self.sealed.bytes_mut().clear();
            self.sealed_sent = 0;
        }
        self.sealed.release_if_empty();
        Poll::Ready(Ok(()))
    }

    /// After a TLS error: sends the alert, as far as the socket takes it, and nothing after it.
    pub(super) fn send_alert(&mut self, context: &mut Context<'_>) {
        self.broken = true;
        let _ = self.poll_send_sealed(context);
    }
}
