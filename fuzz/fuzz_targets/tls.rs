//! TLS: records of every type and length, plain or sealed with the right keys, cut, joined, doubled
//! and reordered, before, in and after a real handshake, sent to a connection that answers, moves
//! between shards and closes at any moment. Nothing panics; nothing is left over.
//!
//! The input's first octet chooses the version and how far the handshake goes; then steps follow.
#![no_main]

#[path = "../../tests/tls_client/mod.rs"]
#[allow(dead_code)]
mod tls_client;

use std::{sync::OnceLock, time::Duration};

use futures_lite::future::{block_on, poll_once};
use libfuzzer_sys::fuzz_target;
use ringmail::runtime::{
    connection::{Connection, TlsMode},
    pipe::MemoryPeer,
    resources::ShardResources,
};
use rustls::version::{TLS12, TLS13};
use tls_client::{RecordClient, Sides, plain_record};

const SECOND: Duration = Duration::from_secs(1);
const KINDS: [u8; 8] = [20, 21, 22, 22, 22, 23, 23, 24];

fuzz_target!(|input: &[u8]| {
    static SIDES: OnceLock<Sides> = OnceLock::new();
    let sides = SIDES.get_or_init(Sides::new);
    let Some((&first, mut rest)) = input.split_first() else { return };
    let version = if first & 1 == 0 { &TLS13 } else { &TLS12 };
    let mut client = sides.client(version);
    let (connection, peer) = start(sides, first & 2 != 0);
    let mut server = Some(connection);
    match first >> 2 & 3 {
        0 => {}
        1 => half_shake(&mut server, &peer, &mut client),
        _ => shake(&mut server, &peer, &mut client),
    }
    let mut unsent = Vec::new();
    while let Some((&step, after)) = rest.split_first() {
        rest = after;
        run_step(step, &mut rest, &mut unsent, &mut server, &peer, &mut client);
    }
    peer.send(&unsent);
    listen(&mut server);
    peer.close();
    if let Some(server) = server {
        block_on(server.close());
    }
    assert_eq!(ShardResources::current().buffer_bytes(), 0, "a buffer outlives its connection");
});

/// With implicit TLS, or after STARTTLS.
fn start(sides: &Sides, upgrade: bool) -> (Connection, MemoryPeer) {
    if !upgrade {
        return Connection::memory_tls(&sides.implicit()).unwrap();
    }
    let mode = TlsMode::Upgrade(sides.context.clone());
    let (mut server, peer) = Connection::memory_tls(&mode).unwrap();
    peer.send(b"STARTTLS\r\n");
    let _ = block_on(poll_once(server.fill(SECOND)));
    let _ = block_on(poll_once(server.start_tls(SECOND)));
    (server, peer)
}

fn half_shake(server: &mut Option<Connection>, peer: &MemoryPeer, client: &mut RecordClient) {
    peer.send(&client.exchange(peer));
    listen(server);
    client.exchange(peer);
    client.take_handshake_keys();
}

fn shake(server: &mut Option<Connection>, peer: &MemoryPeer, client: &mut RecordClient) {
    for _ in 0..4 {
        peer.send(&client.exchange(peer));
        listen(server);
    }
    client.take_traffic_keys();
}

/// Lets the server read everything available and echo it.
fn listen(server: &mut Option<Connection>) {
    let Some(server) = server else { return };
    for _ in 0..64 {
        match block_on(poll_once(server.fill(SECOND))) {
            Some(Ok(())) => {
                let came = server.input().to_vec();
                server.consume(came.len());
                server.output().extend_from_slice(&came);
                let _ = block_on(poll_once(server.flush(SECOND)));
            }
            Some(Err(_)) => return,
            None => {}
        }
    }
}

fn run_step(
    step: u8,
    rest: &mut &[u8],
    unsent: &mut Vec<u8>,
    server: &mut Option<Connection>,
    peer: &MemoryPeer,
    client: &mut RecordClient,
) {
    let mut take = |count: usize| {
        let (taken, after) = rest.split_at(count.min(rest.len()));
        *rest = after;
        taken.to_vec()
    };
    match step % 16 {
        // A record, sealed if there are keys; of a usual type or any; short, or of any length.
        kind @ 0..=7 => {
            let count = take(1).first().copied().unwrap_or(0) as usize;
            let payload = take(count);
            unsent.extend(client.record(KINDS[kind as usize], &payload));
        }
        8 => {
            let kind = take(1).first().copied().unwrap_or(0);
            let length = take(2).iter().fold(0, |sum, octet| sum << 8 | *octet as usize) % 16385;
            unsent.extend(client.record(kind, &vec![step; length]));
        }
        9 => {
            let payload = take(40);
            unsent.extend(plain_record(22, &payload));
        }
        10 => {
            let count = take(1).first().copied().unwrap_or(0) as usize;
            unsent.extend(take(count));
        }
        // Sends a piece of the gathered octets, or all.
        11 => {
            let count = take(1).first().copied().unwrap_or(0) as usize;
            let piece: Vec<u8> = unsent.drain(..count.min(unsent.len())).collect();
            peer.send(&piece);
            listen(server);
        }
        12 => {
            peer.send(unsent);
            unsent.clear();
            listen(server);
        }
        // Twice, or in reverse order.
        13 => {
            if unsent.len() < 1 << 16 {
                unsent.extend_from_within(..);
            }
        }
        14 => {
            let middle = unsent.len() / 2;
            unsent.rotate_left(middle);
        }
        // Moves, sends something itself, or continues the handshake.
        _ => match step >> 4 & 3 {
            0 => {
                if let Some(mut moving) = server.take() {
                    let sent = matches!(block_on(poll_once(moving.flush(SECOND))), Some(Ok(())));
                    *server = Some(if sent { Connection::attach(moving.detach()) } else { moving });
                }
            }
            1 => {
                if let Some(server) = server {
                    server.output().extend_from_slice(&[b'*'; 300]);
                    let _ = block_on(poll_once(server.flush(SECOND)));
                }
            }
            2 => unsent.extend(client.exchange(peer)),
            _ => {
                client.take_traffic_keys();
            }
        },
    }
}
