//! Connections over a pipe: buffers and their budget, deadlines, counts, handovers and closing.

mod deflate;
mod tls;

use std::rc::Rc;

use futures_lite::future::{block_on, poll_once};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn resources() -> Rc<ShardResources> {
    ShardResources::current()
}

#[test]
fn input_is_consumed_and_idle_holds_no_buffer() {
    let (mut connection, peer) = Connection::memory();
    peer.send(b"NOOP\r\nQU");
    block_on(connection.fill(SECOND)).unwrap();
    assert_eq!(connection.input(), b"NOOP\r\nQU");
    connection.consume(6);
    peer.send(b"IT\r\n");
    block_on(connection.fill(SECOND)).unwrap();
    assert_eq!(connection.input(), b"QUIT\r\n");
    connection.consume(6);
    connection.output().extend_from_slice(b"221 bye\r\n");
    assert!(resources().buffer_bytes() > 0);
    block_on(connection.flush(SECOND)).unwrap();
    assert_eq!(peer.take_output(), b"221 bye\r\n");
    assert!(block_on(poll_once(connection.fill(SECOND))).is_none());
    assert_eq!(resources().buffer_bytes(), 0);
    peer.close();
    assert!(matches!(block_on(connection.fill(SECOND)), Err(ConnectionError::Closed)));
    assert!(matches!(block_on(connection.fill(SECOND)), Err(ConnectionError::Closed)));
}

/// Shard resources of this size, without timers.
fn small_shard(buffer_bytes_max: usize) {
    let executor: Rc<dyn crate::runtime::executor::Executor> =
        Rc::new(crate::runtime::simulation::Simulation::new(1));
    let limits =
        crate::runtime::resources::ResourceLimits { buffer_bytes_max, ..Default::default() };
    ShardResources::install(limits, &executor);
}

/// Connections that wait with an unfinished line of `len` octets.
fn unfinished(count: usize, len: usize) -> Vec<(Connection, MemoryPeer)> {
    let made = (0..count).map(|_| {
        let (mut connection, peer) = Connection::memory();
        peer.send(&vec![b'x'; len]);
        block_on(connection.fill(SECOND)).unwrap();
        assert!(block_on(poll_once(connection.fill(SECOND))).is_none());
        (connection, peer)
    });
    made.collect()
}

/// One octet more than a small buffer holds used to cost 64 KiB.
#[test]
fn an_unfinished_line_costs_its_octets() {
    small_shard(64 << 20);
    let connections = unfinished(1_024, 4_097);
    assert!(resources().buffer_bytes() < 1_024 * 4_097 * 5 / 4, "{}", resources().buffer_bytes());
    drop(connections);
    assert_eq!(resources().buffer_bytes(), 0);
    assert_eq!(resources().buffers().gave_way(), 0);
}

#[test]
fn who_holds_most_gives_way_and_hears_so() {
    small_shard(256 << 10);
    let mut logged_in = unfinished(1, 60_000);
    logged_in[0].0.set_logged_in(true);
    logged_in.iter_mut().for_each(|(connection, _)| {
        // As a handover does.
        let (moved, _peer) = Connection::memory();
        let moved = std::mem::replace(connection, moved);
        *connection = Connection::attach(moved.detach());
        assert!(block_on(poll_once(connection.fill(SECOND))).is_none());
    });
    let mut strangers = unfinished(40, 4_097);
    assert_eq!(resources().buffers().gave_way(), 0);
    let mut newcomers = unfinished(20, 3_000);
    let gave_way = resources().buffers().gave_way();
    assert!((1..40).contains(&gave_way), "{gave_way}");
    let mut lost = 0;
    for (connection, peer) in &mut strangers {
        if let Some(heard) = block_on(poll_once(connection.fill(SECOND))) {
            assert!(matches!(heard, Err(ConnectionError::NoMemory)));
            assert_eq!(connection.input(), b"");
            connection.output().extend_from_slice(b"421 4.3.2 full\r\n");
            block_on(connection.flush(SECOND)).unwrap();
            assert_eq!(peer.take_output(), b"421 4.3.2 full\r\n");
            lost += 1;
        }
    }
    assert_eq!(lost, gave_way);
    for (connection, peer) in newcomers.iter_mut().chain(&mut logged_in) {
        peer.send(b"\r\n");
        block_on(connection.fill(SECOND)).unwrap();
    }
    assert!(resources().buffer_bytes() <= 256 << 10);
}

#[test]
fn deadlines_and_shutdown_end_a_wait() {
    let (mut connection, peer) = Connection::memory();
    peer.expire();
    assert!(matches!(block_on(connection.fill(SECOND)), Err(ConnectionError::TimedOut)));
    {
        let mut fill = Box::pin(connection.fill(SECOND));
        assert!(block_on(poll_once(&mut fill)).is_none());
        resources().timers().advance(10);
        assert!(block_on(poll_once(&mut fill)).is_none());
        resources().timers().advance(1);
        assert!(matches!(block_on(fill), Err(ConnectionError::TimedOut)));
    }
    peer.send(b"DATA half a mess");
    block_on(connection.fill(SECOND)).unwrap();
    resources().shut_down();
    let unfinished = block_on(poll_once(connection.fill(SECOND)));
    assert!(unfinished.is_none(), "with input unconsumed we are inside a command");
    connection.consume(usize::MAX);
    connection.set_interruptible(false);
    assert!(block_on(poll_once(connection.fill(SECOND))).is_none());
    connection.set_interruptible(true);
    assert!(matches!(block_on(connection.fill(SECOND)), Err(ConnectionError::ShuttingDown)));
}

/// Unread octets stay in the socket and cost nothing.
#[test]
fn reads_are_as_small_as_wanted() {
    let (mut connection, peer) = Connection::memory();
    peer.send(&[b'x'; 100]);
    connection.set_read_max(10);
    block_on(connection.fill(SECOND)).unwrap();
    assert_eq!(connection.input().len(), 10);
    connection.set_read_max(usize::MAX);
    block_on(connection.fill(SECOND)).unwrap();
    assert_eq!(connection.input().len(), 100);
}

/// A client that logs in makes room for the next stranger of its address, and stays logged in
/// on another shard.
#[test]
fn a_log_in_is_told_to_the_clients_count_and_carried_along() {
    use crate::runtime::clients::{ClientLimits, ClientShare, Clients, Excess};
    let address = ClientShare { connections: 2, strangers: 1, new_per_second: 0 };
    let clients =
        Clients::new(ClientLimits { address, allow: Vec::new(), ..ClientLimits::default() });
    let admit = || clients.admit(MEMORY_ADDRESS.ip());
    let (mut connection, _peer) = Connection::memory();
    connection.set_visit(admit().unwrap());
    assert_eq!(admit().err(), Some(Excess::Strangers));
    connection.set_logged_in(true);
    let connection = Connection::attach(connection.detach());
    let second = admit().unwrap();
    assert_eq!(admit().err(), Some(Excess::Connections));
    drop(second);
    drop(admit().unwrap());
    block_on(connection.close());
    let (first, second) = (admit().unwrap(), admit());
    assert_eq!(second.err(), Some(Excess::Strangers));
    drop(first);
}

#[test]
fn connections_are_counted_until_they_are_gone() {
    let before = resources().connection_count();
    let (connection, _peer) = Connection::memory();
    let detached = connection.detach();
    assert_eq!(resources().connection_count(), before);
    let connection = Connection::attach(detached);
    assert_eq!(resources().connection_count(), before + 1);
    block_on(connection.close());
    assert_eq!(resources().connection_count(), before);
}

#[test]
fn a_closed_server_ends_the_clients_stream() {
    let (mut connection, peer) = Connection::memory();
    connection.output().extend_from_slice(b"421 bye\r\n");
    block_on(connection.close());
    assert_eq!(peer.take_output(), b"421 bye\r\n");
    assert!(peer.is_closed());
}

/// Input after our last reply is read, for a bounded time, so that it cannot destroy that
/// reply.
#[test]
fn a_server_that_hangs_up_reads_on() {
    for waits_for_us in [true, false] {
        let (mut connection, peer) = Connection::memory();
        connection.output().extend_from_slice(b"421 bye\r\n");
        connection.linger();
        let mut close = Box::pin(connection.close());
        assert!(block_on(poll_once(&mut close)).is_none());
        assert_eq!(peer.take_output(), b"421 bye\r\n");
        assert!(peer.is_closed());
        peer.send(b"octets of a chunk");
        assert!(block_on(poll_once(&mut close)).is_none());
        if waits_for_us {
            peer.close();
        } else {
            resources().timers().advance(30);
        }
        block_on(close);
    }
}

#[test]
fn a_handover_carries_what_tls_had_not_sent() {
    let (mut server, peer) = Connection::memory();
    server.sealed.bytes_mut().extend_from_slice(b"key update");
    server.sealed_sent = 4;
    let mut server = Connection::attach(server.detach());
    block_on(server.flush(SECOND)).unwrap();
    assert_eq!(peer.take_output(), b"update");
}
