//! Deflate on a connection, above TLS if there is any (RFC 4978).

use std::{future::poll_fn, task::Poll, time::Duration};

use super::{super::deflate::Deflate, Connection, ConnectionError};

impl Connection {
    /// Sends `output()`, and compresses everything after it, in both directions. STARTTLS is no
    /// longer possible: what is encrypted is compressed before, never the other way round. Once.
    pub async fn start_deflate(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        self.flush(timeout).await?;
        self.upgrade = None;
        self.is_deflated = true;
        self.layers.push(Box::new(Deflate::default()), self.seat.buffer());
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

    /// Whether `start_deflate` was called.
    pub fn is_deflated(&self) -> bool {
        self.is_deflated
    }

    /// The peer is not expected to send anything soon: gives up memory that can be had again.
    pub fn rest(&mut self) {
        self.layers.rest();
    }
}
