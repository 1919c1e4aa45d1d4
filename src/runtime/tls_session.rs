//! One TLS connection as a pure state machine: ciphertext and plaintext in, plaintext and
//! ciphertext out. `Connection` moves the bytes.
//!
//! It stands on rustls' unbuffered interface, so that an idle TLS connection holds keys and
//! nothing else: records are decrypted where they were received, only a record cut short is kept,
//! and that by `Connection`, which can therefore hand it to another shard.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{
        ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
    },
};

/// Sealed bytes added to a record by any version and suite we offer, rounded up: header, explicit
/// nonce, tag, content type.
const RECORD_OVERHEAD: usize = 64;

/// Plaintext bytes of a full record (RFC 8446 5.1).
const RECORD_SIZE: usize = 16 * 1024;

/// Server side of one TLS connection. `Send`: it travels when its connection is handed over.
pub(super) struct TlsSession {
    connection: UnbufferedServerConnection,
    handshake_done: bool,
    peer_closed: bool,
}

impl TlsSession {
    pub fn new(config: Arc<ServerConfig>) -> Result<TlsSession, rustls::Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(TlsSession { connection, handshake_done: false, peer_closed: false })
    }

    pub fn handshake_done(&self) -> bool {
        self.handshake_done
    }

    /// The peer said close_notify: no plaintext will come any more.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// E.g. "TLSv1.3 TLS13_AES_256_GCM_SHA384".
    pub fn description(&self) -> Option<String> {
        let version = match self.connection.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => "TLS",
        };
        let suite = self.connection.negotiated_cipher_suite()?.suite();
        Some(format!("{version} {}", suite.as_str().unwrap_or("unknown suite")))
    }

    /// Opens the records in `ciphertext`, which is overwritten: plaintext goes to `plaintext`,
    /// what must be sent (handshake, alerts, key updates) to `outgoing`. Answers how many bytes of
    /// `ciphertext` are done with; the rest is a record cut short, to be passed again with more
    /// behind it. After an error `outgoing` may hold the alert that tells the peer.
    pub fn open(
        &mut self,
        ciphertext: &mut [u8],
        plaintext: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, rustls::Error> {
        let result = self.open_and_seal(ciphertext, plaintext, None, outgoing);
        if result.is_err() {
            // The alert is queued inside rustls; it comes out when asked with nothing to read.
            let _ = self.open_and_seal(&mut [], &mut Vec::new(), None, outgoing);
        }
        result
    }

    /// Seals all of `message` into `outgoing`. Needs a finished handshake. `ciphertext` is the
    /// record cut short that `open` left, if any; its count of finished bytes is answered again.
    pub fn seal(
        &mut self,
        message: &[u8],
        ciphertext: &mut [u8],
        plaintext: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, rustls::Error> {
        self.open_and_seal(ciphertext, plaintext, Some(Sealing::Data(message)), outgoing)
    }

    /// Appends close_notify to `outgoing`.
    pub fn seal_close_notify(&mut self, outgoing: &mut Vec<u8>) -> Result<(), rustls::Error> {
        let sealing = Some(Sealing::CloseNotify);
        self.open_and_seal(&mut [], &mut Vec::new(), sealing, outgoing).map(|_| ())
    }

    fn open_and_seal(
        &mut self,
        ciphertext: &mut [u8],
        plaintext: &mut Vec<u8>,
        mut sealing: Option<Sealing<'_>>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, rustls::Error> {
        let mut opened = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut ciphertext[opened..]);
            let mut finished = false;
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plaintext.extend_from_slice(record.payload);
                    }
                }
                // Early data is never offered, so none is ever accepted.
                ConnectionState::ReadEarlyData(_) => {}
                ConnectionState::EncodeTlsData(mut data) => {
                    with_room(outgoing, 0, |room| match data.encode(room) {
                        Err(EncodeError::InsufficientSize(size)) => Err(Some(size)),
                        Err(EncodeError::AlreadyEncoded) => Err(None),
                        Ok(written) => Ok(written),
                    })?;
                }
                // "Sent" here means queued: `Connection` sends `outgoing` before anything else.
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.peer_closed = true,
                ConnectionState::WriteTraffic(mut traffic) => {
                    self.handshake_done = true;
                    finished = true;
                    if let Some(sealing) = sealing.take() {
                        let guess = sealing.size_sealed();
                        with_room(outgoing, guess, |room| {
                            let sealed = match &sealing {
                                Sealing::Data(message) => traffic.encrypt(message, room),
                                Sealing::CloseNotify => traffic.queue_close_notify(room),
                            };
                            sealed.map_err(|error| match error {
                                EncryptError::InsufficientSize(size) => Some(size),
                                EncryptError::EncryptExhausted => None,
                            })
                        })?;
                    }
                }
                // Nothing to do before more bytes come.
                _ => finished = true,
            }
            opened += discard;
            if finished {
                return Ok(opened);
            }
        }
    }
}

enum Sealing<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

impl Sealing<'_> {
    fn size_sealed(&self) -> usize {
        match self {
            Sealing::Data(message) => {
                message.len() + (message.len() / RECORD_SIZE + 1) * RECORD_OVERHEAD
            }
            Sealing::CloseNotify => RECORD_OVERHEAD,
        }
    }
}

/// Lets `write` append to `outgoing`: with room for `guess` bytes, then with the room it asked for.
fn with_room(
    outgoing: &mut Vec<u8>,
    guess: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), rustls::Error> {
    let start = outgoing.len();
    let mut room = guess;
    for _ in 0..2 {
        outgoing.resize(start + room, 0);
        match write(&mut outgoing[start..]) {
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
