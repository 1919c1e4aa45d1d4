//! One TLS connection as a pure state machine: ciphertext and plaintext in, plaintext and
//! ciphertext out. It is the stream layer next to the wire (`layers`).
//!
//! It uses rustls' unbuffered interface, so that an idle TLS connection holds only keys: records
//! are decrypted where they were received, only an incomplete record is kept, and the chain of
//! layers keeps it, so that it can be handed to another shard.
//!
//! rustls keeps positions in bytes that it does not own: where the fragments of an unfinished
//! handshake message are, and how far it has read, both from the start of what it has not
//! discarded. It slices there without checking the length, and panics if the bytes were removed.
//! Hence two rules for every operation (opening, sealing, closing):
//! - It is always given everything that it has not discarded: each call takes `ciphertext`, and its
//!   caller keeps what the answer did not count.
//! - After an error nothing more is opened or sealed. It would read on in the middle of the failed
//!   data (and send a second alert); only the alert that it has queued is taken out.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::sync::Arc;

use rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError,
        UnbufferedStatus, WriteTraffic,
    },
};

use super::{connection::ConnectionError, layers::Layer};

/// Most bytes added to a record by any version and suite that we offer, rounded up: header,
/// explicit nonce, tag, content type.
const RECORD_OVERHEAD: usize = 64;

/// Most ciphertext kept undecrypted: the largest handshake message that rustls joins (64 KiB) and a
/// record. More means a peer that never completes one.
const CIPHERTEXT_MAX: usize = 96 * 1024;

/// Plaintext bytes of a full record (RFC 8446 5.1).
const RECORD_SIZE: usize = 16 * 1024;

/// Server side of one TLS connection. `Send`: it travels when its connection is handed over.
pub(super) struct TlsSession {
    connection: UnbufferedServerConnection,
    handshake_done: bool,
    /// The peer sent close_notify: no plaintext will follow.
    peer_closed: bool,
    /// The first error, which every later call returns.
    failed: Option<rustls::Error>,
}

impl TlsSession {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<TlsSession, rustls::Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(TlsSession { connection, handshake_done: false, peer_closed: false, failed: None })
    }

    fn open_and_seal(
        &mut self,
        ciphertext: &mut [u8],
        plaintext: &mut Vec<u8>,
        sealing: Option<Sealing<'_>>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, rustls::Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut opened = 0;
        let result = self.advance(ciphertext, &mut opened, plaintext, sealing, outgoing);
        if let Err(error) = result {
            self.take_alert(rest_of(ciphertext, opened), outgoing);
            self.failed = Some(error.clone());
            return Err(error);
        }
        // RFC 8446 6.1: data after close_notify is ignored.
        Ok(if self.peer_closed { ciphertext.len() } else { opened })
    }

    /// Drives rustls until it needs more bytes. `opened` counts the bytes of `ciphertext` that it
    /// discards.
    fn advance(
        &mut self,
        ciphertext: &mut [u8],
        opened: &mut usize,
        plaintext: &mut Vec<u8>,
        mut sealing: Option<Sealing<'_>>,
        outgoing: &mut Vec<u8>,
    ) -> Result<(), rustls::Error> {
        loop {
            let rest = rest_of(ciphertext, *opened);
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(rest);
            let mut finished = false;
            match state {
                Err(error) => {
                    *opened += discard;
                    return Err(error);
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plaintext.extend_from_slice(record.payload);
                    }
                }
                // Early data is never offered, so none is ever accepted; it would be dropped.
                Ok(ConnectionState::ReadEarlyData(mut early)) => {
                    while let Some(record) = early.next_record() {
                        discard += record?.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, outgoing)?,
                // "Sent" here means queued: `Connection` sends `outgoing` before anything else.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    self.handshake_done = true;
                    finished = true;
                    if let Some(sealing) = sealing.take() {
                        sealing.write(&mut traffic, outgoing)?;
                    }
                }
                // Nothing to do until more bytes come.
                Ok(_) => finished = true,
            }
            *opened += discard;
            if finished {
                return Ok(());
            }
        }
    }

    /// After an error: takes out the alert that rustls queued, and lets it read nothing more.
    /// rustls returns queued output before it looks at `rest`.
    fn take_alert(&mut self, rest: &mut [u8], outgoing: &mut Vec<u8>) {
        while self.connection.wants_write() {
            let UnbufferedStatus { state, .. } = self.connection.process_tls_records(rest);
            let Ok(ConnectionState::EncodeTlsData(data)) = state else { return };
            if encode(data, outgoing).is_err() {
                return;
            }
        }
    }
}

impl Layer for TlsSession {
    /// Records are opened in place. Output consists of handshake messages, alerts and key updates;
    /// what remains is an incomplete record or handshake message.
    fn open(
        &mut self,
        sealed: &mut [u8],
        opened: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError> {
        Ok(self.open_and_seal(sealed, opened, None, outgoing)?)
    }

    /// Requires a finished handshake.
    fn seal(
        &mut self,
        message: &[u8],
        kept: &mut [u8],
        opened: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError> {
        Ok(self.open_and_seal(kept, opened, Some(Sealing::Data(message)), outgoing)?)
    }

    /// close_notify.
    fn seal_end(&mut self, kept: &mut [u8], outgoing: &mut Vec<u8>) -> Result<(), ConnectionError> {
        let sealing = Some(Sealing::CloseNotify);
        self.open_and_seal(kept, &mut Vec::new(), sealing, outgoing)?;
        Ok(())
    }

    /// The handshake is done.
    fn is_settled(&self) -> bool {
        self.handshake_done
    }

    /// The peer sent close_notify.
    fn has_ended(&self) -> bool {
        self.peer_closed
    }

    fn kept_max(&self) -> usize {
        CIPHERTEXT_MAX
    }

    fn is_private(&self) -> bool {
        true
    }

    /// E.g. "TLSv1.3 TLS13_AES_256_GCM_SHA384".
    fn description(&self) -> Option<String> {
        let version = match self.connection.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => "TLS",
        };
        let suite = self.connection.negotiated_cipher_suite()?.suite();
        Some(format!("{version} {}", suite.as_str().unwrap_or("unknown suite")))
    }
}

/// The part of `ciphertext` that rustls has not discarded.
fn rest_of(ciphertext: &mut [u8], opened: usize) -> &mut [u8] {
    ciphertext.get_mut(opened..).unwrap_or_default()
}

type ServerData = rustls::server::ServerConnectionData;

fn encode(
    mut data: EncodeTlsData<'_, ServerData>,
    outgoing: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    with_room(outgoing, 0, |room| {
        data.encode(room).map_err(|error| match error {
            EncodeError::InsufficientSize(size) => Some(size),
            EncodeError::AlreadyEncoded => None,
        })
    })
}

enum Sealing<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

impl Sealing<'_> {
    fn write(
        &self,
        traffic: &mut WriteTraffic<'_, ServerData>,
        outgoing: &mut Vec<u8>,
    ) -> Result<(), rustls::Error> {
        with_room(outgoing, self.size_sealed(), |room| {
            let sealed = match self {
                Sealing::Data(message) => traffic.encrypt(message, room),
                Sealing::CloseNotify => traffic.queue_close_notify(room),
            };
            sealed.map_err(|error| match error {
                EncryptError::InsufficientSize(size) => Some(size),
                EncryptError::EncryptExhausted => None,
            })
        })
    }

    fn size_sealed(&self) -> usize {
        match self {
            Sealing::Data(message) => {
                message.len() + (message.len() / RECORD_SIZE + 1) * RECORD_OVERHEAD
            }
            Sealing::CloseNotify => RECORD_OVERHEAD,
        }
    }
}

/// Lets `write` append to `outgoing`: with room for `guess` bytes, then with the room that it asked
/// for.
fn with_room(
    outgoing: &mut Vec<u8>,
    guess: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), rustls::Error> {
    let start = outgoing.len();
    let mut room = guess;
    for _ in 0..2 {
        outgoing.resize(start + room, 0);
        match write(outgoing.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                outgoing.truncate(start + written);
                return Ok(());
            }
            Err(Some(InsufficientSizeError { required_size })) => room = required_size,
            Err(None) => break,
        }
    }
    outgoing.truncate(start);
    Err(rustls::Error::EncryptError)
}
