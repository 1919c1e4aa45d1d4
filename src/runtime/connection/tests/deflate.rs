//! Deflate over a pipe: any cut of the octets, handovers in the middle, what is kept, and peers
//! that send other things or too much.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::*;

/// The other side of a deflated connection.
struct Peer {
    compress: Compress,
    decompress: Decompress,
    pipe: MemoryPeer,
}

fn may_end(received: &[u8]) -> bool {
    received.ends_with(b"end\r\n")
}

/// A connection that has been deflated, and its peer.
fn pair() -> (Connection, Peer) {
    let (mut server, pipe) = Connection::memory();
    server.output().extend_from_slice(b"OK\r\n");
    block_on(server.start_deflate(SECOND, may_end)).unwrap();
    assert_eq!(pipe.take_output(), b"OK\r\n", "compression begins after it");
    assert!(server.is_deflated());
    let compress = Compress::new(Compression::new(6), false);
    (server, Peer { compress, decompress: Decompress::new(false), pipe })
}

impl Peer {
    fn sealed(&mut self, message: &[u8], flush: FlushCompress) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(message.len() + 1024);
        self.compress.compress_vec(message, &mut sealed, flush).unwrap();
        sealed
    }

    fn send(&mut self, message: &[u8]) -> usize {
        let sealed = self.sealed(message, FlushCompress::Sync);
        self.pipe.send(&sealed);
        sealed.len()
    }

    /// What the server sent since, opened, and how many octets it took.
    fn receive(&mut self) -> (Vec<u8>, usize) {
        let sealed = self.pipe.take_output();
        let mut opened = Vec::with_capacity(1 << 20);
        self.decompress.decompress_vec(&sealed, &mut opened, FlushDecompress::Sync).unwrap();
        (opened, sealed.len())
    }
}

/// A mail-like text that repeats itself.
fn text(len: usize) -> Vec<u8> {
    let lines = (0u32..).flat_map(|n| format!("line {} of {n:05}\r\n", n * n % 97).into_bytes());
    lines.take(len).collect()
}

#[test]
fn any_cut_and_any_handover() {
    let (mut server, mut peer) = pair();
    let mut expected = Vec::new();
    for (round, flush) in
        [FlushCompress::Sync, FlushCompress::Partial, FlushCompress::Full].iter().enumerate()
    {
        let message = text(3_000 + round);
        let sealed = peer.sealed(&message, *flush);
        expected.extend_from_slice(&message);
        for octet in sealed {
            peer.pipe.send(&[octet]);
            let _ = block_on(poll_once(server.fill(SECOND)));
            server = Connection::attach(server.detach());
        }
        if round == 0 {
            server.rest();
        }
        assert!(server.input() == expected, "{} of {}", server.input().len(), expected.len());
    }
    server.consume(expected.len());
    let _ = block_on(poll_once(server.fill(SECOND)));
    assert_eq!(resources().buffer_bytes(), 0, "idle it holds no buffer");

    server.output().extend_from_slice(&expected);
    block_on(server.flush(SECOND)).unwrap();
    let (opened, taken) = peer.receive();
    assert!(opened == expected && taken < expected.len() / 3, "{taken} of {}", expected.len());
}

/// The peer refers to octets up to 32 KiB back, also after they were packed.
#[test]
fn the_window_is_kept_while_the_connection_rests() {
    let (mut server, mut peer) = pair();
    // No repetition within.
    let mut seed = 1u64;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    })
    .take(30_000)
    .collect();
    assert!(peer.send(&random) > 30_000);
    block_on(server.fill(SECOND)).unwrap();
    assert!(server.input() == random);
    server.consume(random.len());
    for _ in 0..3 {
        server.rest();
        server.rest();
        let taken = peer.send(&random[..20_000]);
        assert!(taken < 1_000, "not compressed: {taken}");
        block_on(server.fill(SECOND)).unwrap();
        assert!(server.input() == &random[..20_000]);
        server.consume(20_000);
    }
}

/// Every message can be opened without those before it, of this or another connection.
#[test]
fn nothing_sent_refers_to_what_was_sent_before() {
    let (mut one, mut ones) = pair();
    let (mut other, mut others) = pair();
    let message = text(2_000);
    for _ in 0..3 {
        for (server, peer) in [(&mut one, &mut ones), (&mut other, &mut others)] {
            server.output().extend_from_slice(&message);
            block_on(server.flush(SECOND)).unwrap();
            peer.decompress.reset(false);
            assert!(peer.receive().0 == message);
        }
    }
}

#[test]
fn messages_of_any_length() {
    let (mut server, mut peer) = pair();
    let whole = text(300_000);
    for len in [1, 2, 126, 127, 128, 129, 4_096, 65_535, 65_536, 65_537, 300_000] {
        server.output().extend_from_slice(&whole[..len]);
        block_on(server.flush(SECOND)).unwrap();
        let (opened, taken) = peer.receive();
        assert!(opened == whole[..len], "{len}");
        assert!(taken <= len + 5, "{len} octets took {taken}");
    }
}

/// 16 MiB arrive as 16 KiB, and are opened only as fast as they are consumed.
#[test]
fn a_bomb_costs_no_more_than_its_pieces() {
    let (mut server, mut peer) = pair();
    let zeros = vec![0; 16 << 20];
    assert!(peer.send(&zeros) < 32 * 1024);
    // Empty blocks cost time and bring nothing.
    peer.pipe.send(&[0, 0, 0, 255, 255].repeat(10_000));
    let mut total = 0;
    while total < zeros.len() {
        block_on(server.fill(SECOND)).unwrap();
        let len = server.input().len();
        assert!(0 < len && len <= 128 * 1024, "{len} at a time");
        assert!(resources().buffer_bytes() <= 512 * 1024, "{}", resources().buffer_bytes());
        total += len;
        server.consume(len);
    }
    assert_eq!(total, zeros.len());
    peer.send(b"NOOP\r\n");
    block_on(server.fill(SECOND)).unwrap();
    assert_eq!(server.input(), b"NOOP\r\n");
}

#[test]
fn what_is_not_deflate_ends_the_connection() {
    for octets in [&b"a NOOP\r\n"[..], &[7; 40], &[0, 1, 0, 1, 0], &[5, 0xff, 0xff, 0xff]] {
        let (mut server, peer) = pair();
        peer.pipe.send(octets);
        let failed = block_on(server.fill(SECOND));
        assert!(matches!(failed, Err(ConnectionError::Io(_))), "{octets:?}: {failed:?}");
    }
}

#[test]
fn a_stream_may_end() {
    let (mut server, mut peer) = pair();
    let sealed = peer.sealed(b"a LOGOUT\r\n", FlushCompress::Finish);
    peer.pipe.send(&sealed);
    block_on(server.fill(SECOND)).unwrap();
    assert_eq!(server.input(), b"a LOGOUT\r\n");
    server.consume(10);
    assert!(matches!(block_on(server.fill(SECOND)), Err(ConnectionError::Closed)));
}

/// The peer may compress at once what follows the request to begin.
#[test]
fn what_was_received_with_the_request_counts() {
    let (mut server, pipe) = Connection::memory();
    let mut peer = Peer {
        compress: Compress::new(Compression::new(6), false),
        decompress: Decompress::new(false),
        pipe,
    };
    let sealed = peer.sealed(b"b NOOP\r\n", FlushCompress::Sync);
    peer.pipe.send(&[&b"a COMPRESS DEFLATE\r\n"[..], &sealed].concat());
    block_on(server.fill(SECOND)).unwrap();
    server.consume(20);
    block_on(server.start_deflate(SECOND, may_end)).unwrap();
    assert_eq!(server.input(), b"b NOOP\r\n");
}

/// RFC 8437 4.1: whatever a peer ends its stream with, what it sends behind it is not opened, and
/// neither does anything of ours follow the last message.
#[test]
fn both_sides_end_it() {
    for (flush, stored) in [
        (FlushCompress::Sync, false),
        (FlushCompress::Full, false),
        (FlushCompress::Partial, false),
        (FlushCompress::Finish, false),
        (FlushCompress::Sync, true),
    ] {
        for cut in 0..40 {
            let (mut server, mut peer) = pair();
            peer.send(b"before\r\n");
            let mut sealed = match stored {
                // As ours: no empty block follows it.
                true => b"\0\x05\0\xfa\xffend\r\n".to_vec(),
                false => peer.sealed(b"end\r\n", flush),
            };
            sealed.extend_from_slice(b"plain\r\n");
            let (early, late) = sealed.split_at(cut.min(sealed.len()));
            peer.pipe.send(early);
            block_on(server.fill(SECOND)).unwrap();
            assert!(server.input().starts_with(b"before\r\n"));
            let mut late = late.iter();
            while !server.input().ends_with(b"end\r\n") {
                match late.next() {
                    Some(octet) => {
                        peer.pipe.send(&[*octet]);
                        let _ = block_on(poll_once(server.fill(SECOND)));
                    }
                    None => block_on(server.fill(SECOND)).unwrap(),
                }
            }
            server.consume(usize::MAX);
            server.output().extend_from_slice(&text(5_000));
            block_on(server.deflate_last(SECOND)).unwrap();
            peer.receive();
            let last = text(70_000);
            server.output().extend_from_slice(&last);
            block_on(server.end_deflate(SECOND)).unwrap();
            let sent = peer.pipe.take_output();
            assert!(sent.ends_with(&last[69_000..]), "something follows");
            let mut opened = Vec::with_capacity(1 << 20);
            peer.decompress.decompress_vec(&sent, &mut opened, FlushDecompress::Sync).unwrap();
            assert!(opened == last);
            server = Connection::attach(server.detach());
            peer.pipe.send(late.as_slice());
            while server.input().len() < 7 {
                block_on(server.fill(SECOND)).unwrap();
            }
            assert_eq!(server.input(), b"plain\r\n", "{flush:?} {cut}");
            server.consume(7);
            assert!(!server.is_deflated());
            server.output().extend_from_slice(b"plain\r\n");
            block_on(server.flush(SECOND)).unwrap();
            assert_eq!(peer.pipe.take_output(), b"plain\r\n");
            // It can begin again.
            block_on(server.start_deflate(SECOND, may_end)).unwrap();
            peer.compress.reset();
            peer.send(b"again\r\n");
            block_on(server.fill(SECOND)).unwrap();
            assert_eq!(server.input(), b"again\r\n");
        }
    }
}

/// A message that only might have been the end holds nothing up.
#[test]
fn what_might_be_the_end_is_none() {
    let (mut server, mut peer) = pair();
    let mut sealed = peer.sealed(b"no end\r\n", FlushCompress::Sync);
    sealed.extend(peer.sealed(b"goes on\r\n", FlushCompress::Sync));
    peer.pipe.send(&sealed);
    block_on(server.fill(SECOND)).unwrap();
    assert_eq!(server.input(), b"no end\r\n");
    block_on(server.fill(SECOND)).unwrap();
    assert_eq!(server.input(), b"no end\r\ngoes on\r\n");
}
