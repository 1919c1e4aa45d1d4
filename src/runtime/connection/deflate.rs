//! Deflate on a connection, above TLS if there is any (RFC 4978).

use std::{future::poll_fn, task::Poll, time::Duration};

use super::{super::deflate::Deflate, Connection, ConnectionError};

impl Connection {
    /// Sends `output()`, and compresses everything after it, in both directions. Meanwhile STARTTLS
    /// is not possible: what is encrypted is compressed before, never the other way round. Not if
    /// it is compressed already. `may_end`: whether the peer may end its compression behind these
    /// octets.
    pub async fn start_deflate(
        &mut self,
        timeout: Duration,
        may_end: fn(&[u8]) -> bool,
    ) -> Result<(), ConnectionError> {
        self.flush(timeout).await?;
        self.is_deflated = true;
        self.layers.push(Box::new(Deflate::new(may_end)), self.seat.buffer());
        let mut received = self.input().to_vec();
        self.consume(usize::MAX);
        let opened = self.layers.open_highest(&mut received, &mut self.input, &mut self.sealed);
        self.ended |= self.layers.have_ended();
        if opened.is_err() {
            poll_fn(|context| {
                self.send_alert(context);
                Poll::Ready(())
            })
            .await;
        }
        opened
    }

    /// Sends `output()`; what is put there next, up to [`Connection::end_deflate`], is the last
    /// that is compressed.
    pub async fn deflate_last(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        self.flush(timeout).await?;
        self.layers.seal_last();
        self.is_deflated = false;
        Ok(())
    }

    /// Sends `output()`; nothing after it is compressed, and nothing that was not opened yet.
    pub async fn end_deflate(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        self.flush(timeout).await?;
        self.layers.end_highest();
        // If it was its last octet, that will be found again.
        self.ended = self.layers.have_ended();
        Ok(())
    }

    /// Whether both directions are compressed.
    pub fn is_deflated(&self) -> bool {
        self.is_deflated
    }

    /// The peer is not expected to send anything soon: gives up memory that can be had again.
    pub fn rest(&mut self) {
        self.layers.rest();
    }
}
