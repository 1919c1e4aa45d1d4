//! One client connection: plain or TLS over a socket, or an in-memory pipe in tests. STUB
//! SIGNATURES: what service loops are built against in parallel.
//!
//! Shape of every session loop: look at `input()`, let the protocol parse it, `consume()` what it
//! took, append replies to `output()`; when nothing more can be parsed, `flush()` once, then
//! `fill()`. All pipelined commands are answered by one write.
#![allow(unused_variables)]

use std::{net::SocketAddr, time::Duration};

/// Why a connection can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("timed out")]
    TimedOut,
    #[error("connection closed by the peer")]
    Closed,
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The shard's memory budget is spent; the session says so in its protocol and closes.
    #[error("out of buffer memory")]
    NoMemory,
    /// The server is shutting down.
    #[error("shutting down")]
    ShuttingDown,
}

/// A connection on its shard. Idle (nothing in `input` or `output`) it holds no buffer.
pub struct Connection {}

impl Connection {
    pub fn peer(&self) -> SocketAddr {
        todo!()
    }
    pub fn local(&self) -> SocketAddr {
        todo!()
    }
    pub fn is_tls(&self) -> bool {
        todo!()
    }
    /// For the Received header, e.g. "TLSv1.3 TLS13_AES_256_GCM_SHA384"; `None` when plain.
    pub fn tls_description(&self) -> Option<String> {
        todo!()
    }

    /// Bytes received (decrypted) and not yet consumed.
    pub fn input(&self) -> &[u8] {
        todo!()
    }
    pub fn consume(&mut self, count: usize) {
        todo!()
    }
    /// Waits for more input and appends it to `input()`; at most 64 KiB a call. The caller keeps
    /// `input()` bounded by consuming or giving up. `Err(Closed)` at end of stream. Cancel-safe.
    pub async fn fill(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        todo!()
    }

    /// Replies not yet sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        todo!()
    }
    /// Sends all of `output()`. Call it whenever `output()` outgrows 64 KiB, so that a client that
    /// never reads costs one buffer. Not cancel-safe.
    pub async fn flush(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        todo!()
    }

    /// Discards unread plaintext (RFC 3207 4.2: nothing is carried over), then shakes hands.
    pub async fn start_tls(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        todo!()
    }
    /// STARTTLS/STLS can be offered: plain now, and a certificate is configured.
    pub fn can_start_tls(&self) -> bool {
        todo!()
    }

    /// True once the server wants sessions to end; `fill` then fails with `ShuttingDown`.
    pub fn shutting_down(&self) -> bool {
        todo!()
    }

    /// Flushes what it can, says goodbye (TLS close_notify) and closes.
    pub async fn close(self) {
        todo!()
    }

    /// Takes the connection apart for another shard. Only when `output()` is empty.
    pub fn detach(self) -> DetachedConnection {
        todo!()
    }
}

/// A connection between two shards: descriptor, TLS state, unread ciphertext and plaintext.
pub struct DetachedConnection {}

const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<DetachedConnection>();
};
