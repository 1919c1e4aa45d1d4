//! Deflate (RFC 4978): octets in pieces of any size to a compressed connection that answers, rests
//! and moves between shards. Nothing panics, what is opened at a time is bounded, and nothing is
//! left over.
//!
//! The first octet chooses the size of the pieces and what happens between them.
#![no_main]

use std::time::Duration;

use futures_lite::future::{block_on, poll_once};
use libfuzzer_sys::fuzz_target;
use ringmail::runtime::{connection::Connection, resources::ShardResources};

const SECOND: Duration = Duration::from_secs(1);

fuzz_target!(|input: &[u8]| {
    let Some((&first, octets)) = input.split_first() else { return };
    let (mut server, peer) = Connection::memory();
    block_on(server.start_deflate(SECOND, |opened| opened.ends_with(b"\n"))).expect("nothing was received yet");
    let mut pieces = octets.chunks(usize::from(first >> 2) * 16 + 1);
    'pieces: for piece in pieces.by_ref() {
        peer.send(piece);
        while let Some(filled) = block_on(poll_once(server.fill(SECOND))) {
            let opened = server.input().len();
            assert!(opened <= 128 * 1024, "{opened} at a time");
            server.output().extend_from_slice(&opened.to_le_bytes());
            server.consume(opened);
            if filled.is_err() {
                break 'pieces;
            }
        }
        if first & 1 != 0 {
            server.rest();
        }
        if first & 2 != 0 && block_on(poll_once(server.flush(SECOND))).is_some() {
            server = Connection::attach(server.detach());
        }
    }
    peer.close();
    block_on(server.close());
    assert_eq!(ShardResources::current().buffer_bytes(), 0, "a buffer outlives its connection");
});
