//! What TLS records can do to a connection before, during and after the handshake and at its end:
//! each case is sent whole, in pieces of every small size, with the connection handed over in
//! between, and ends in `close`, with any data left over. rustls panics if it is misused, and the
//! process with it; these tests check that no record causes that.

mod tls_client;

use std::{rc::Rc, time::Duration};

use futures_lite::future::{block_on, poll_once};
use ringmail::runtime::{
    connection::{Connection, ConnectionError, TlsMode},
    executor::Executor,
    pipe::MemoryPeer,
    resources::{ResourceLimits, ShardResources},
    simulation::Simulation,
};
use rustls::{
    SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use tls_client::{RecordClient, Sides, plain_record};

const SECOND: Duration = Duration::from_secs(1);

/// TLS content types (RFC 8446 5.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// How a case is sent and served.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// Octets that arrive at once.
    piece: usize,
    /// Whether the connection moves to another shard after each piece.
    moves: bool,
}

const WAYS: [Way; 6] = [
    Way { piece: 1 << 16, moves: false },
    Way { piece: 1 << 16, moves: true },
    Way { piece: 1, moves: false },
    Way { piece: 1, moves: true },
    Way { piece: 7, moves: false },
    Way { piece: 23, moves: true },
];

/// The result of a connection.
struct Outcome {
    error: Option<ConnectionError>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Sends `octets`, serves them by an echo as far as it goes, and closes.
fn serve(mut server: Connection, peer: &MemoryPeer, octets: &[u8], way: Way) -> Outcome {
    let (mut error, mut input) = (None, Vec::new());
    for piece in octets.chunks(way.piece) {
        peer.send(piece);
        while error.is_none() {
            match block_on(poll_once(server.fill(SECOND))) {
                None => break,
                Some(Ok(())) => {
                    let came = server.input().to_vec();
                    server.consume(came.len());
                    server.output().extend_from_slice(&came);
                    input.extend(came);
                    error = block_on(server.flush(SECOND)).err();
                }
                Some(Err(failed)) => error = Some(failed),
            }
        }
        if way.moves {
            server = Connection::attach(server.detach());
        }
    }
    // After an error, a service may still try to send a reply, and to read on.
    if error.is_some() {
        server.output().extend_from_slice(b"421 bye\r\n");
        let _ = block_on(poll_once(server.flush(SECOND)));
        let _ = block_on(poll_once(server.fill(SECOND)));
    }
    peer.close();
    block_on(server.close());
    Outcome { error, input, output: peer.take_output() }
}

/// Does the handshake until the client has the server's flight and could finish. Returns the octets
/// with which it would.
/// which it would.
fn half_shaken(server: &mut Connection, peer: &MemoryPeer, client: &mut RecordClient) -> Vec<u8> {
    peer.send(&client.exchange(peer));
    assert!(block_on(poll_once(server.handshake(SECOND))).is_none());
    client.exchange(peer)
}

fn shaken(server: &mut Connection, peer: &MemoryPeer, client: &mut RecordClient) {
    peer.send(&client.exchange(peer));
    while block_on(poll_once(server.handshake(SECOND))).is_none() {
        peer.send(&client.exchange(peer));
    }
    peer.send(&client.exchange(peer));
    let _ = block_on(poll_once(server.fill(SECOND)));
    assert!(client.take_traffic_keys());
}

#[test]
fn records_before_the_handshake() {
    let fragment = plain_record(HANDSHAKE, &[1, 0, 0, 32, 0]);
    let hello = plain_record(HANDSHAKE, &[1, 0, 0, 0]);
    let seventeen = [&fragment[..], &plain_record(DATA, &[0, 0])].concat();
    assert_eq!(seventeen.len(), 17);
    let cases: &[(&str, Vec<u8>)] = &[
        ("a fragment, then data", seventeen),
        ("a fragment, then an alert", [&fragment[..], &plain_record(ALERT, &[1, 0])].concat()),
        ("a fragment, then CCS", [&fragment[..], &plain_record(CHANGE_CIPHER_SPEC, &[1])].concat()),
        ("a fragment, then no record", [&fragment[..], &[99, 3, 3, 0, 1, 0]].concat()),
        ("a fragment, then nothing in one", [&fragment[..], &[22, 3, 3, 0, 0]].concat()),
        ("a fragment, then one too long", [&fragment[..], &[22, 3, 3, 255, 255]].concat()),
        ("two messages in one", plain_record(HANDSHAKE, &[1, 0, 0, 0, 1, 0, 0, 0])),
        ("one and a half in one", plain_record(HANDSHAKE, &[1, 0, 0, 0, 1, 0, 0])),
        ("an unknown one and a half", plain_record(HANDSHAKE, &[77, 0, 0, 1, 9, 1, 0, 9, 0])),
        ("two messages in two", [&hello[..], &hello].concat()),
        ("a message too long", plain_record(HANDSHAKE, &[1, 255, 255, 255, 0])),
        ("an alert", plain_record(ALERT, &[2, 40])),
        ("half an alert", plain_record(ALERT, &[2])),
        ("data", plain_record(DATA, b"a1 NOOP\r\n")),
        ("no TLS", b"EHLO client.test\r\n".to_vec()),
    ];
    let sides = Sides::new();
    for (name, octets) in cases {
        for way in WAYS {
            let (server, peer) = Connection::memory_tls(&sides.implicit()).unwrap();
            let outcome = serve(server, &peer, octets, way);
            let failed = matches!(outcome.error, Some(ConnectionError::Tls(_)));
            assert!(failed, "{name}, {way:?}: {:?}", outcome.error);
            // At most one alert; rustls has none for interleaved messages.
            assert!(matches!(outcome.output[..], [] | [ALERT, _, _, 0, 2, 2, _]), "{name}");

            let mode = TlsMode::Upgrade(sides.context.clone());
            let (mut server, peer) = Connection::memory_tls(&mode).unwrap();
            peer.send(b"STARTTLS\r\n");
            block_on(server.fill(SECOND)).unwrap();
            assert!(block_on(poll_once(server.start_tls(SECOND))).is_none());
            let outcome = serve(server, &peer, octets, way);
            assert!(outcome.error.is_some(), "{name} after STARTTLS");
        }
    }
}

/// TLS 1.3: under the handshake keys, instead of or before the client's Finished.
#[test]
fn records_during_the_handshake() {
    type Records = fn(&mut RecordClient) -> Vec<u8>;
    let cases: &[(&str, Records)] = &[
        ("a fragment", |client| client.record(HANDSHAKE, &[20, 0, 0, 32, 1])),
        ("a fragment, then data", |client| {
            [client.record(HANDSHAKE, &[20, 0, 0, 32, 1]), client.record(DATA, b"x")].concat()
        }),
        ("a fragment, then CCS", |client| {
            let fragment = client.record(HANDSHAKE, &[20, 0, 0]);
            [fragment, plain_record(CHANGE_CIPHER_SPEC, &[1])].concat()
        }),
        ("a wrong Finished and a half", |client| {
            let mut messages = vec![20, 0, 0, 32];
            messages.extend([7; 32]);
            messages.extend([24, 0, 0, 1, 0, 20, 0]);
            client.record(HANDSHAKE, &messages)
        }),
        ("nothing, then CCS, then a fragment", |client| {
            let nothing = client.record(HANDSHAKE, &[]);
            let fragment = client.record(HANDSHAKE, &[20, 0]);
            [nothing, plain_record(CHANGE_CIPHER_SPEC, &[1]), fragment].concat()
        }),
        ("a key update", |client| client.record(HANDSHAKE, &[24, 0, 0, 1, 1])),
        ("an alert cut short", |client| client.record(ALERT, &[1])),
        ("a record that cannot be opened", |_| plain_record(DATA, &[0; 40])),
    ];
    let sides = Sides::new();
    for (name, records) in cases {
        for way in WAYS {
            let (mut server, peer) = Connection::memory_tls(&sides.implicit()).unwrap();
            let mut client = sides.client(&TLS13);
            half_shaken(&mut server, &peer, &mut client);
            assert!(client.take_handshake_keys(), "{name}");
            let octets = records(&mut client);
            let outcome = serve(server, &peer, &octets, way);
            assert!(outcome.input.is_empty(), "{name}, {way:?}");
        }
    }
}

#[test]
fn records_after_the_handshake() {
    type Records = fn(&mut RecordClient) -> Vec<u8>;
    let cases: &[(&str, Records, &[u8])] = &[
        (
            "a fragment behind the last command",
            |client| {
                [client.record(DATA, b"QUIT\r\n"), client.record(HANDSHAKE, &[24, 0])].concat()
            },
            b"QUIT\r\n",
        ),
        ("only a fragment", |client| client.record(HANDSHAKE, &[24, 0, 0, 1]), b""),
        (
            "a fragment, then data",
            |client| [client.record(HANDSHAKE, &[24, 0, 0]), client.record(DATA, b"x")].concat(),
            b"",
        ),
        (
            "a fragment, then close_notify",
            |client| [client.record(HANDSHAKE, &[24]), client.record(ALERT, &[1, 0])].concat(),
            b"",
        ),
        (
            "close_notify, then all kinds",
            |client| {
                let kinds = [(HANDSHAKE, &[24, 0][..]), (DATA, b"y"), (ALERT, &[1, 0])];
                let end = [client.record(DATA, b"x"), client.record(ALERT, &[1, 0])].concat();
                kinds
                    .iter()
                    .fold(end, |end, (kind, payload)| [end, client.record(*kind, payload)].concat())
            },
            b"x",
        ),
        (
            "two messages in one",
            |client| client.record(HANDSHAKE, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0]),
            b"",
        ),
        (
            "one and a half in one, behind data",
            |client| {
                let data = client.record(DATA, b"x");
                [data, client.record(HANDSHAKE, &[1, 0, 0, 0, 24, 0, 0])].concat()
            },
            b"x",
        ),
        (
            "nothing of each kind",
            |client| {
                let nothing = [client.record(HANDSHAKE, &[]), client.record(DATA, &[])].concat();
                [nothing, client.record(DATA, b"x"), client.record(HANDSHAKE, &[])].concat()
            },
            b"x",
        ),
        (
            "a record that cannot be opened",
            |client| [client.record(DATA, b"x"), plain_record(DATA, &[0; 40])].concat(),
            b"x",
        ),
        (
            "data cut short",
            |client| {
                let whole = client.record(DATA, b"y");
                [client.record(DATA, b"x"), whole[..whole.len() - 1].to_vec()].concat()
            },
            b"x",
        ),
    ];
    let sides = Sides::new();
    for (name, records, expected) in cases {
        for version in BOTH {
            for way in WAYS {
                let (mut server, peer) = Connection::memory_tls(&sides.implicit()).unwrap();
                let mut client = sides.client(version);
                shaken(&mut server, &peer, &mut client);
                let octets = records(&mut client);
                let outcome = serve(server, &peer, &octets, way);
                // Data that came together with an error is not processed.
                let lost = outcome.error.is_some() && outcome.input.is_empty();
                assert!(lost || outcome.input == *expected, "{name}, {version:?}, {way:?}");
            }
        }
    }
}

/// A fragment of a handshake message is kept while replies are sealed, and joined with its rest
/// later; the connection goes on with the first record under the new keys.
#[test]
fn a_key_update_in_fragments_around_a_reply() {
    let sides = Sides::new();
    let (mut server, peer) = Connection::memory_tls(&sides.implicit()).unwrap();
    let mut client = sides.client(&TLS13);
    shaken(&mut server, &peer, &mut client);
    let first = [client.record(DATA, b"a1 NOOP\r\n"), client.record(HANDSHAKE, &[24, 0])].concat();
    peer.send(&first);
    block_on(server.fill(SECOND)).unwrap();
    assert_eq!(server.input(), b"a1 NOOP\r\n");
    server.output().extend_from_slice(b"a1 OK\r\n");
    block_on(server.flush(SECOND)).unwrap();
    let mut server = Connection::attach(server.detach());
    server.consume(usize::MAX);
    peer.send(&client.record(HANDSHAKE, &[0, 1, 0]));
    assert!(block_on(poll_once(server.fill(SECOND))).is_none());
    server.output().extend_from_slice(b"* BYE\r\n");
    block_on(server.flush(SECOND)).unwrap();
    peer.close();
    block_on(server.close());
}

/// Key updates and empty records in turn pass every limit of rustls and bring no plaintext. They do
/// not keep the core: the session's wait yields in between, and notices its deadline.
#[test]
fn records_without_plaintext_let_others_run() {
    let sides = Sides::new();
    let (mut server, peer) = Connection::memory_tls(&sides.implicit()).unwrap();
    let mut client = sides.client(&TLS13);
    shaken(&mut server, &peer, &mut client);
    for _ in 0..100 {
        peer.send(&client.record(DATA, &[]));
        peer.send(&client.key_update());
    }
    peer.send(&client.record(DATA, b"x"));
    let mut turns = 1;
    while block_on(poll_once(server.fill(SECOND))).is_none() {
        turns += 1;
        assert!(turns < 1000, "the data never came");
    }
    assert!(turns > 20, "{turns} turns");
}

/// The connection that holds the most of a shard's buffers must give way, and is told so: in a
/// record of its own, sealed while the fragment that it sent is still there.
#[test]
fn a_fragment_of_who_gives_way() {
    let sides = Sides::new();
    for version in BOTH {
        let executor: Rc<dyn Executor> = Rc::new(Simulation::new(1));
        let limits = ResourceLimits { buffer_bytes_max: 16 * 1024, ..ResourceLimits::default() };
        ShardResources::install(limits, &executor);
        let (mut server, peer) = Connection::memory_tls(&sides.implicit()).unwrap();
        let mut client = sides.client(version);
        shaken(&mut server, &peer, &mut client);
        let mut fragment = vec![24, 0, 0xff, 0xff];
        fragment.resize(16_000, 0);
        peer.send(&client.record(HANDSHAKE, &fragment));
        peer.send(&client.record(HANDSHAKE, &fragment));
        let mut told = None;
        for _ in 0..10 {
            told = told.or(block_on(poll_once(server.fill(SECOND))));
        }
        assert!(matches!(told, Some(Err(ConnectionError::NoMemory))), "{version:?}: {told:?}");
        server.output().extend_from_slice(b"421 no memory\r\n");
        let before = peer.take_output().len();
        block_on(server.flush(SECOND)).unwrap();
        assert!(peer.take_output().len() > before, "{version:?}: told in words");
        block_on(server.close());
    }
}
