//! TLS and other layers over a pipe: any cut of the octets, handovers in the middle, and bad peers.

use std::{
    collections::VecDeque,
    io::{Read, Write},
};

use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::runtime::{
    layers::Layer,
    tls::{SelfSigned, TlsContext},
};

/// A server's TLS context and a client configuration that trusts it.
fn tls_pair(version: &'static rustls::SupportedProtocolVersion) -> (TlsMode, Arc<ClientConfig>) {
    let made = SelfSigned::generate(&["localhost"]).unwrap();
    let mut roots = RootCertStore::empty();
    let pem = made.chain_pem.as_bytes();
    let leaf = rustls_pki_types::pem::PemObject::from_pem_slice(pem).unwrap();
    roots.add(leaf).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let context = TlsContext::new(made.certificate().unwrap()).unwrap();
    (TlsMode::Implicit(context), Arc::new(client))
}

fn tls_client(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap()
}

/// Moves all available bytes between client and pipe, in chunks of at most `chunk` bytes to the
/// server; returns the plaintext that the client received.
fn pump(client: &mut ClientConnection, peer: &MemoryPeer, chunk: usize) -> Vec<u8> {
    let (plaintext, sent) = exchange(client, peer);
    for chunk in sent.chunks(chunk) {
        peer.send(chunk);
    }
    plaintext
}

/// Gives the client the server's output; returns plaintext received and bytes to send.
fn exchange(client: &mut ClientConnection, peer: &MemoryPeer) -> (Vec<u8>, Vec<u8>) {
    let output = peer.take_output();
    let mut rest = &output[..];
    let mut plaintext = Vec::new();
    while !rest.is_empty() {
        client.read_tls(&mut rest).unwrap();
        client.process_new_packets().unwrap();
        // WouldBlock is the end of the available data.
        let _ = client.reader().read_to_end(&mut plaintext);
    }
    let mut sent = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut sent).unwrap();
    }
    (plaintext, sent)
}

/// Octets that trickle in do not extend the deadline.
#[test]
fn a_handshake_has_one_deadline() {
    let (mode, config) = tls_pair(&rustls::version::TLS13);
    let mut hello = Vec::new();
    tls_client(&config).write_tls(&mut hello).unwrap();
    let (mut connection, peer) = Connection::memory_tls(&mode).unwrap();
    let mut handshake = Box::pin(connection.handshake(5 * SECOND));
    for second in 1..=5u64 {
        assert!(block_on(poll_once(&mut handshake)).is_none(), "{second}");
        peer.send(&[hello.remove(0)]);
        assert!(block_on(poll_once(&mut handshake)).is_none(), "{second}");
        resources().timers().advance(10);
    }
    resources().timers().advance(1);
    assert!(matches!(block_on(handshake), Err(ConnectionError::TimedOut)));
}

/// An echo over TLS, the client's bytes cut into pieces of every small size.
#[test]
fn tls_split_at_every_byte() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (mode, config) = tls_pair(version);
        for chunk in [1, 2, 3, 5, 7, 64, 1000, 1 << 16] {
            let (mut server, peer) = Connection::memory_tls(&mode).unwrap();
            let mut client = tls_client(&config);
            let mut shake = Box::pin(server.handshake(SECOND));
            while block_on(poll_once(&mut shake)).is_none() {
                pump(&mut client, &peer, chunk);
            }
            drop(shake);
            pump(&mut client, &peer, chunk);
            let sent: Vec<u8> = (0..40_000u32).map(|n| n as u8).collect();
            client.writer().write_all(&sent).unwrap();
            let mut echoed = Vec::new();
            while echoed.len() < sent.len() {
                echoed.extend(pump(&mut client, &peer, chunk));
                if block_on(poll_once(server.fill(SECOND))).is_some() {
                    let input = server.input().to_vec();
                    server.consume(input.len());
                    server.output().extend_from_slice(&input);
                    block_on(server.flush(SECOND)).unwrap();
                }
            }
            assert!(echoed == sent, "{version:?} in pieces of {chunk}");
            assert!(block_on(poll_once(server.fill(SECOND))).is_none());
            assert_eq!(resources().buffer_bytes(), 0, "idle over TLS holds no buffer");
            block_on(server.close());
            pump(&mut client, &peer, chunk);
            assert_eq!(client.reader().read(&mut [0; 16]).unwrap(), 0, "close_notify");
        }
    }
}

/// The connection moves after every single byte received, during the handshake too.
#[test]
fn a_handover_after_every_byte_loses_nothing() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (mode, config) = tls_pair(version);
        let (mut server, peer) = Connection::memory_tls(&mode).unwrap();
        let mut client = tls_client(&config);
        let commands = b"a1 NOOP\r\na2 LOGIN bob demo\r\na3 APPEND x {3+}\r\nabc\r\n".repeat(4);
        let mut wire = VecDeque::new();
        let mut written = false;
        while server.input().len() < commands.len() {
            wire.extend(exchange(&mut client, &peer).1);
            if let Some(byte) = wire.pop_front() {
                peer.send(&[byte]);
            } else if !client.is_handshaking() && !written {
                client.writer().write_all(&commands).unwrap();
                written = true;
            }
            let _ = block_on(poll_once(server.fill(SECOND)));
            server = Connection::attach(server.detach());
        }
        assert_eq!(server.input(), commands, "{version:?}");
    }
}

/// A layer that hides octets behind a counter that advances with each, in frames with a length
/// prefix, so that order, cuts and losses show. At the end of the stream is an empty frame.
#[derive(Default)]
struct Masked {
    opened: u8,
    sealed: u8,
    ended: bool,
}

impl Masked {
    fn frame(&mut self, message: &[u8], outgoing: &mut Vec<u8>) {
        outgoing.push(message.len() as u8);
        for octet in message {
            outgoing.push(octet ^ self.sealed);
            self.sealed = self.sealed.wrapping_add(1);
        }
    }
}

impl Layer for Masked {
    fn open(
        &mut self,
        sealed: &mut [u8],
        opened: &mut Vec<u8>,
        _: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError> {
        let mut done = 0;
        while let [len, rest @ ..] = &sealed[done..]
            && let Some(frame) = rest.get(..usize::from(*len))
        {
            self.ended |= frame.is_empty();
            for octet in frame {
                opened.push(octet ^ self.opened);
                self.opened = self.opened.wrapping_add(1);
            }
            done += 1 + frame.len();
        }
        Ok(done)
    }

    fn seal(
        &mut self,
        message: &[u8],
        kept: &mut [u8],
        opened: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError> {
        message.chunks(200).for_each(|piece| self.frame(piece, outgoing));
        self.open(kept, opened, &mut Vec::new())
    }

    fn seal_end(&mut self, _: &mut [u8], outgoing: &mut Vec<u8>) -> Result<(), ConnectionError> {
        self.frame(&[], outgoing);
        Ok(())
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn kept_max(&self) -> usize {
        255
    }
}

/// Two layers on top of each other, handed over after every octet: incomplete input of either
/// moves along.
#[test]
fn layers_lie_over_each_other_and_move_together() {
    let (mode, config) = tls_pair(&rustls::version::TLS13);
    let (mut server, peer) = Connection::memory_tls(&mode).unwrap();
    let mut client = tls_client(&config);
    let mut shake = Box::pin(server.handshake(SECOND));
    while block_on(poll_once(&mut shake)).is_none() {
        pump(&mut client, &peer, 1 << 16);
    }
    drop(shake);
    pump(&mut client, &peer, 1 << 16);
    server.layers.push(Box::new(Masked::default()), server.seat.buffer());
    let mut theirs = Masked::default();

    let sent: Vec<u8> = (0..1_000u32).map(|n| (n / 3) as u8).collect();
    let mut frames = Vec::new();
    theirs.seal(&sent, &mut [], &mut Vec::new(), &mut frames).unwrap();
    // Records end in the middle of frames.
    for piece in frames.chunks(77) {
        client.writer().write_all(piece).unwrap();
        for octet in exchange(&mut client, &peer).1 {
            peer.send(&[octet]);
            let _ = block_on(poll_once(server.fill(SECOND)));
            server = Connection::attach(server.detach());
        }
    }
    assert!(server.input() == sent, "{} of {}", server.input().len(), sent.len());
    assert!(server.is_tls() && server.tls_description().unwrap().contains("TLSv1.3"));
    server.consume(sent.len());
    let _ = block_on(poll_once(server.fill(SECOND)));
    assert_eq!(resources().buffer_bytes(), 0, "idle it holds no buffer");

    server.output().extend_from_slice(&sent);
    block_on(server.flush(SECOND)).unwrap();
    block_on(server.close());
    let mut sealed = pump(&mut client, &peer, 1 << 16);
    let mut opened = Vec::new();
    let done = theirs.open(&mut sealed, &mut opened, &mut Vec::new()).unwrap();
    assert!(opened == sent && done == sealed.len() && theirs.ended);
    assert_eq!(client.reader().read(&mut [0; 16]).unwrap(), 0, "close_notify");
}

#[test]
fn start_tls_carries_no_plaintext_over() {
    let (mode, config) = tls_pair(&rustls::version::TLS13);
    let TlsMode::Implicit(context) = mode else { unreachable!() };
    let (mut server, peer) = Connection::memory_tls(&TlsMode::Upgrade(context)).unwrap();
    assert!(server.can_start_tls() && !server.is_tls());
    peer.send(b"STARTTLS\r\nMAIL FROM:<injected@evil.test>\r\n");
    block_on(server.fill(SECOND)).unwrap();
    server.consume(b"STARTTLS\r\n".len());
    server.output().extend_from_slice(b"220 go\r\n");
    {
        let mut client = tls_client(&config);
        let mut start = Box::pin(server.start_tls(SECOND));
        assert!(block_on(poll_once(&mut start)).is_none());
        assert_eq!(peer.take_output(), b"220 go\r\n");
        while block_on(poll_once(&mut start)).is_none() {
            pump(&mut client, &peer, 100);
        }
    }
    assert!(server.is_tls() && !server.can_start_tls());
    assert_eq!(server.input(), b"");
    let description = server.tls_description().unwrap();
    assert!(description.starts_with("TLSv1.3 TLS13_"), "{description}");
}

#[test]
fn what_is_not_tls_gets_an_alert_and_an_error() {
    let (mode, _) = tls_pair(&rustls::version::TLS13);
    let (mut server, peer) = Connection::memory_tls(&mode).unwrap();
    peer.send(b"EHLO client.test\r\n");
    assert!(matches!(block_on(server.fill(SECOND)), Err(ConnectionError::Tls(_))));
    let alert = peer.take_output();
    assert_eq!(alert.first(), Some(&21), "a TLS alert record: {alert:?}");
}
