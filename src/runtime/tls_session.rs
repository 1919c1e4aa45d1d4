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
    CommonState, ServerConfig, SideData,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError,
        ReadEarlyData, UnbufferedStatus, WriteTraffic,
    },
};

use rustls_pki_types::CertificateDer;

use super::{
    channel_binding::Bound,
    connection::ConnectionError,
    layers::Layer,
    tls_client::{ClientTls, TlsFacts, Verdict, Verified},
};

/// Most bytes added to a record by any version and suite that we offer, rounded up: header,
/// explicit nonce, tag, content type.
const RECORD_OVERHEAD: usize = 64;

/// Most ciphertext kept undecrypted: the largest handshake message that rustls joins (64 KiB) and a
/// record. More means a peer that never completes one.
const CIPHERTEXT_MAX: usize = 96 * 1024;

/// Plaintext bytes of a full record (RFC 8446 5.1).
const RECORD_SIZE: usize = 16 * 1024;

/// What differs between the two sides of a TLS connection.
pub(super) trait Side: Send {
    type Data: SideData;

    fn process<'c, 'i>(
        &'c mut self,
        ciphertext: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Octets of early data to discard.
    fn skip_early(early: ReadEarlyData<'_, '_, Self::Data>) -> Result<usize, rustls::Error>;

    fn common(&self) -> &CommonState;

    /// How the peer's certificate was checked, after the handshake.
    fn verified(&self) -> Verified;

    /// What the connection is bound to.
    fn bound(&self) -> Option<&Bound> {
        None
    }
}

/// We accepted the connection.
pub(super) struct ServerSide {
    connection: UnbufferedServerConnection,
    bound: Bound,
}

/// We made the connection.
pub(super) struct ClientSide {
    connection: UnbufferedClientConnection,
    verdict: Verdict,
}

impl Side for ServerSide {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        ciphertext: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.connection.process_tls_records(ciphertext)
    }

    /// Early data is never offered, so none is ever accepted; it would be dropped.
    fn skip_early(
        mut early: ReadEarlyData<'_, '_, ServerConnectionData>,
    ) -> Result<usize, rustls::Error> {
        let mut discard = 0;
        while let Some(record) = early.next_record() {
            discard += record?.discard;
        }
        Ok(discard)
    }

    fn common(&self) -> &CommonState {
        &self.connection
    }

    fn bound(&self) -> Option<&Bound> {
        Some(&self.bound)
    }

    /// No certificate is asked for.
    fn verified(&self) -> Verified {
        Verified::NotAsked
    }
}

impl Side for ClientSide {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        ciphertext: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.connection.process_tls_records(ciphertext)
    }

    /// A server sends none.
    fn skip_early(_: ReadEarlyData<'_, '_, ClientConnectionData>) -> Result<usize, rustls::Error> {
        Ok(0)
    }

    fn common(&self) -> &CommonState {
        &self.connection
    }

    fn verified(&self) -> Verified {
        self.verdict.get()
    }
}

/// One side of a TLS connection. `Send`: it travels when its connection is handed over.
pub(super) struct TlsSession<S> {
    side: S,
    handshake_done: bool,
    /// The peer sent close_notify: no plaintext will follow.
    peer_closed: bool,
    /// The first error, which every later call returns.
    failed: Option<rustls::Error>,
}

impl TlsSession<ServerSide> {
    pub(super) fn server(bound: Bound, config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self::of(ServerSide { connection, bound }))
    }
}

impl TlsSession<ClientSide> {
    /// Its first call of `open`, of no octets, begins the handshake.
    pub(super) fn client(tls: &ClientTls) -> Result<Self, rustls::Error> {
        let (config, name, verdict) = tls.begin()?;
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::of(ClientSide { connection, verdict }))
    }
}

impl<S: Side> TlsSession<S> {
    fn of(side: S) -> TlsSession<S> {
        TlsSession { side, handshake_done: false, peer_closed: false, failed: None }
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
            let UnbufferedStatus { mut discard, state } = self.side.process(rest);
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
                Ok(ConnectionState::ReadEarlyData(early)) => discard += S::skip_early(early)?,
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
        while self.side.common().wants_write() {
            let UnbufferedStatus { state, .. } = self.side.process(rest);
            let Ok(ConnectionState::EncodeTlsData(data)) = state else { return };
            if encode(data, outgoing).is_err() {
                return;
            }
        }
    }
}

impl<S: Side> Layer for TlsSession<S> {
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

    fn facts(&self) -> Option<TlsFacts> {
        let common = self.side.common();
        let version = match common.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => "TLS",
        };
        let suite = common.negotiated_cipher_suite()?.suite();
        let cipher = suite.as_str().unwrap_or("unknown suite");
        Some(TlsFacts { version, cipher, verified: self.side.verified() })
    }

    fn bound(&self) -> Option<&Bound> {
        self.side.bound().filter(|_| self.handshake_done)
    }

    fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        let chain = self.side.common().peer_certificates().filter(|_| self.handshake_done)?;
        chain.first()
    }
}

/// The part of `ciphertext` that rustls has not discarded.
fn rest_of(ciphertext: &mut [u8], opened: usize) -> &mut [u8] {
    ciphertext.get_mut(opened..).unwrap_or_default()
}

fn encode<Data>(
    mut data: EncodeTlsData<'_, Data>,
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
    fn write<Data>(
        &self,
        traffic: &mut WriteTraffic<'_, Data>,
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
