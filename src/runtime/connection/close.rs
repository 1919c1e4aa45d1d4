//! The end of a connection: the last reply has to arrive, in bounded time.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use super::{Connection, ConnectionError};

/// How long `close` may spend on the last reply.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// If the peer goes on sending after our last reply, we read for this long and this many octets:
/// closing with unread bytes would make the kernel reset the connection and could lose that reply.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1 << 20;

impl Connection {
    /// We end the session, not the peer. The peer may still be sending, so `close` has to read on
    /// for a while; otherwise its octets would arrive at a closed socket and reset the connection,
    /// losing our last reply.
    pub fn linger(&mut self) {
        self.lingering = true;
    }

    /// Flushes as much as it can, says goodbye (TLS close_notify) and closes.
    pub async fn close(mut self) {
        self.finish().await;
    }

    /// Like [`Connection::close`], for a caller that drops the connection next, which closes the
    /// socket: the future of a task that waits for a client then needs no room to move the
    /// connection.
    pub async fn finish(&mut self) {
        self.interruptible = false;
        if self.broken || !self.layers.are_settled() || self.flush(CLOSE_TIMEOUT).await.is_err() {
            return;
        }
        if !self.layers.is_empty()
            && self.layers.seal_end(&mut self.input, &mut self.sealed).is_ok()
        {
            let _ = self.wait(CLOSE_TIMEOUT, Self::poll_send_sealed).await;
        }
        if !self.ended {
            let mut discarded = 0;
            // A shutdown does not wait for it.
            self.lingering &= !self.shutting_down();
            if self.lingering {
                self.transport.shut_down_sending();
            }
            let linger = |this: &mut Self, context: &mut Context<'_>| {
                this.poll_linger(context, &mut discarded)
            };
            let _ = self.wait(LINGER_TIMEOUT, linger).await;
        }
    }

    /// Ready at once unless the peer is still sending; otherwise ends our half and reads on until
    /// the peer stops. `discarded` counts the octets read.
    fn poll_linger(
        &mut self,
        context: &mut Context<'_>,
        discarded: &mut usize,
    ) -> Poll<Result<(), ConnectionError>> {
        let resources = self.seat.resources.clone();
        resources.with_scratch(|scratch| {
            while *discarded <= LINGER_BYTES_MAX {
                match self.transport.poll_receive(context, scratch) {
                    Poll::Pending if self.lingering || *discarded > 0 => return Poll::Pending,
                    Poll::Ready(Ok(count @ 1..)) => {
                        if *discarded == 0 && !self.lingering {
                            self.transport.shut_down_sending();
                        }
                        *discarded += count;
                    }
                    _ => break,
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}
