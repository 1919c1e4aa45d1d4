//! The queue of events from shards and threads to the writer: bounded, of chunks of whole lines. A
//! shard gathers frequent events in a chunk of its own and hands it over when it is full, or when
//! the shard's clock ticks; all other events go at once.
//!
//! Ownership: [`EventSender`] is shared by all threads, [`ShardEvents`] is shard-local,
//! [`EventQueue`] belongs to the writer. Memory: [`CHUNKS_MAX`] chunks of little more than
//! [`CHUNK_SIZE`].

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use crossbeam_channel::{Receiver, Sender};

use super::{
    Event, Kind, Kinds, Limit,
    tap::{Spoken, Tap, Taps},
};
use crate::model::{ShardId, Timestamp, Trail};

/// Octets after which a shard hands its chunk over; a chunk exceeds it by less than a line.
const CHUNK_SIZE: usize = 16 * 1024;
/// Chunks that wait for the writer: 4 MiB, some 15,000 messages.
const CHUNKS_MAX: usize = 256;
/// What a chunk gets at first: some events.
const CHUNK_SIZE_FIRST: usize = 1024;

/// Some whole lines.
#[derive(Default, Debug)]
pub struct Chunk {
    pub lines: Vec<u8>,
    pub count: u64,
}

impl Chunk {
    fn push(&mut self, event: &Event<'_>, time: Timestamp, shard: Option<u16>) {
        if self.lines.capacity() == 0 {
            self.lines.reserve_exact(CHUNK_SIZE_FIRST);
        }
        event.append_to(&mut self.lines, time, shard);
        self.count += 1;
    }

    /// One event, for the writer's own.
    pub fn of(event: &Event<'_>, time: Timestamp) -> Chunk {
        let mut chunk = Chunk::default();
        chunk.push(event, time, None);
        chunk
    }
}

#[derive(Default, Debug)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
}

/// A queue and its first sender. Events of `kinds` are written; others are not even rendered.
pub fn queue(kinds: Kinds) -> (EventSender, EventQueue) {
    let (sender, chunks) = crossbeam_channel::bounded(CHUNKS_MAX);
    let counts = Arc::<Counts>::default();
    let sender = EventSender { kinds, chunks: Some(sender), counts: counts.clone() };
    (sender, EventQueue { chunks, counts })
}

/// A handle on the queue for any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventSender {
    kinds: Kinds,
    /// `None` if there is no writer.
    chunks: Option<Sender<Chunk>>,
    counts: Arc<Counts>,
}

impl EventSender {
    /// Drops all events: for tests, and where no event log is wanted.
    pub fn nowhere() -> EventSender {
        EventSender { kinds: Kinds::NONE, chunks: None, counts: Arc::default() }
    }

    /// Reports an event of a thread beside the shards, with the current time. Never waits.
    pub fn tell(&self, event: &Event<'_>) {
        if self.kinds.has(event.kind()) {
            self.send(Chunk::of(event, wall_clock()));
        }
    }

    /// Reports many events at once, like [`EventSender::tell`].
    pub fn tell_all<'a>(&self, events: impl IntoIterator<Item = Event<'a>>) {
        let (mut chunk, now) = (Chunk::default(), wall_clock());
        for event in events.into_iter().filter(|event| self.kinds.has(event.kind())) {
            chunk.push(&event, now, None);
            if chunk.lines.len() >= CHUNK_SIZE {
                self.send(std::mem::take(&mut chunk));
            }
        }
        self.send(chunk);
    }

    fn send(&self, chunk: Chunk) {
        let Some(chunks) = &self.chunks else { return };
        let count = chunk.count;
        if chunks.try_send(chunk).is_err() {
            self.counts.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Wakes the writer.
    pub fn nudge(&self) {
        self.send(Chunk::default());
    }

    /// Events written so far.
    pub fn written(&self) -> u64 {
        self.counts.written.load(Ordering::Relaxed)
    }

    /// Events so far that did not fit in the queue or could not be written.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

/// The wall clock of threads beside the shards.
fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The writer's end of the queue.
#[derive(Debug)]
pub struct EventQueue {
    chunks: Receiver<Chunk>,
    counts: Arc<Counts>,
}

impl EventQueue {
    /// The next chunk, `None` if none comes within `timeout`.
    pub fn next(&self, timeout: Duration) -> Option<Chunk> {
        self.chunks.recv_timeout(timeout).ok()
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub fn count_written(&self, count: u64) {
        self.counts.written.fetch_add(count, Ordering::Relaxed);
    }

    pub fn count_dropped(&self, count: u64) {
        self.counts.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Events lost so far.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// An event of the writer itself, with the current time.
    pub fn own(event: &Event<'_>) -> Chunk {
        Chunk::of(event, wall_clock())
    }
}

/// A limit met since the last flush: how often, and by which client last.
struct Met {
    limit: Limit,
    count: u64,
    peer: Option<IpAddr>,
}

/// One shard's interface for reporting events.
pub struct ShardEvents {
    shard: ShardId,
    sender: EventSender,
    chunk: RefCell<Chunk>,
    /// One entry per limit.
    met: RefCell<Vec<Met>>,
    /// The trail of the last connection.
    trail: Cell<Trail>,
    taps: Taps,
}

impl ShardEvents {
    /// `now` distinguishes the trails of this run from those of others.
    pub fn new(shard: ShardId, sender: EventSender, now: Timestamp) -> ShardEvents {
        let run = u64::try_from(now.0 / 1000).unwrap_or(0);
        ShardEvents {
            shard,
            sender,
            chunk: RefCell::default(),
            met: RefCell::default(),
            trail: Cell::new(Trail { run, shard: shard.0, connection: 0, message: 0 }),
            taps: Taps::default(),
        }
    }

    /// The trail of a new connection.
    pub fn next_trail(&self) -> Trail {
        let mut trail = self.trail.get();
        trail.connection += 1;
        self.trail.set(trail);
        trail
    }

    /// Drops all events.
    pub fn nowhere(shard: ShardId) -> ShardEvents {
        ShardEvents::new(shard, EventSender::nowhere(), Timestamp(0))
    }

    /// Whether events of this kind are wanted; if not, callers can skip collecting their fields.
    pub fn wants(&self, kind: Kind) -> bool {
        self.sender.kinds.has(kind) || self.taps.are_open()
    }

    /// Whether somebody watches.
    pub fn is_traced(&self) -> bool {
        self.taps.are_open()
    }

    /// Passes every event to `tap`, too, until it says that nobody reads. False if there are too
    /// many.
    pub fn tap(&self, tap: Tap) -> bool {
        self.taps.add(tap)
    }

    /// A line of a session with another host, for those who watch.
    pub fn trace(&self, spoken: &Spoken<'_>, now: Timestamp) {
        if self.taps.are_open() {
            self.taps.tell(|out| spoken.append_to(out, now));
        }
    }

    /// Reports an event. Never waits; if the queue is full, the event is counted and dropped.
    pub fn tell(&self, event: &Event<'_>, now: Timestamp) {
        if self.taps.are_open() {
            self.taps.tell(|out| event.append_to(out, now, Some(self.shard.0)));
        }
        if !self.sender.kinds.has(event.kind()) {
            return;
        }
        let mut chunk = self.chunk.borrow_mut();
        chunk.push(event, now, Some(self.shard.0));
        if chunk.lines.len() >= CHUNK_SIZE || !event.kind().is_frequent() {
            let full = std::mem::take(&mut *chunk);
            // The next chunk will be as large.
            if full.lines.len() >= CHUNK_SIZE {
                chunk.lines.reserve_exact(CHUNK_SIZE + CHUNK_SIZE_FIRST);
            }
            drop(chunk);
            self.sender.send(full);
        }
    }

    /// Counts that a client met a limit; [`ShardEvents::flush_limits`] reports it.
    pub fn limit_met(&self, limit: Limit, peer: Option<IpAddr>) {
        self.limits_met(limit, 1, peer);
    }

    /// As [`ShardEvents::limit_met`], `count` times; a `count` of 0 only sets the last client, for
    /// limits counted elsewhere.
    pub fn limits_met(&self, limit: Limit, count: u64, peer: Option<IpAddr>) {
        if count == 0 && peer.is_none() {
            return;
        }
        let mut met = self.met.borrow_mut();
        match met.iter_mut().find(|it| it.limit == limit) {
            Some(it) => (it.count, it.peer) = (it.count + count, peer.or(it.peer)),
            None => met.push(Met { limit, count, peer }),
        }
    }

    /// Reports the limits met since the last call: one event per limit, however many clients.
    pub fn flush_limits(&self, now: Timestamp) {
        let met = std::mem::take(&mut *self.met.borrow_mut());
        for Met { limit, count, peer } in met.into_iter().filter(|met| met.count > 0) {
            self.tell(&Event::LimitMet { limit: limit.name(), count, peer }, now);
        }
    }

    /// Hands over the gathered events.
    pub fn flush(&self) {
        if self.chunk.borrow().count > 0 {
            self.sender.send(self.chunk.take());
        }
    }
}

impl Drop for ShardEvents {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(0);

    fn all() -> Kinds {
        Kind::ALL.into_iter().collect()
    }

    fn frequent() -> Event<'static> {
        Event::Appended {
            trail: Default::default(),
            account: Default::default(),
            mailbox: Default::default(),
            uid: Default::default(),
            octets: 5,
        }
    }

    fn drain(queue: &EventQueue) -> u64 {
        let mut count = 0;
        while let Some(chunk) = queue.next(Duration::ZERO) {
            let lines = chunk.lines.iter().filter(|octet| **octet == b'\n').count();
            assert_eq!(lines as u64, chunk.count);
            assert!(chunk.lines.len() < CHUNK_SIZE + 4096);
            count += chunk.count;
        }
        count
    }

    #[test]
    fn frequent_events_go_together_others_at_once() {
        let (sender, queue) = queue(all());
        let events = ShardEvents::new(ShardId(1), sender, NOW);
        events.tell(&frequent(), NOW);
        assert!(queue.is_empty());
        events.tell(&Event::Ready {}, NOW);
        assert_eq!(drain(&queue), 2, "in order, what was gathered before");
        for _ in 0..1000 {
            events.tell(&frequent(), NOW);
        }
        let handed_over = drain(&queue);
        assert!((500..1000).contains(&handed_over), "{handed_over}");
        events.flush();
        assert_eq!(handed_over + drain(&queue), 1000);
        events.tell(&frequent(), NOW);
        drop(events);
        assert_eq!(drain(&queue), 1);
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let (sender, queue) = queue(all());
        let events = ShardEvents::new(ShardId(0), sender.clone(), NOW);
        const TOLD: u64 = 200_000;
        for _ in 0..TOLD {
            events.tell(&frequent(), NOW);
        }
        events.flush();
        let dropped = sender.dropped();
        assert!(dropped > 0);
        assert_eq!(drain(&queue) + dropped, TOLD);
        // There is room again.
        sender.tell(&Event::Dropped { count: dropped });
        assert_eq!((drain(&queue), sender.dropped()), (1, dropped));
        sender.tell_all([Event::Ready {}; 3]);
        assert_eq!(drain(&queue), 3);
    }

    #[test]
    fn kinds_that_are_off_are_not_told() {
        let (sender, queue) = queue(Kinds::NONE.with(Kind::Server));
        let events = ShardEvents::new(ShardId(0), sender.clone(), NOW);
        events.tell(&frequent(), NOW);
        events.flush();
        sender.tell(&Event::ReloadFailed { reason: "x" });
        assert!(queue.is_empty());
        sender.tell(&Event::Ready {});
        assert_eq!(drain(&queue), 1);
    }

    #[test]
    fn a_limit_is_told_once_however_many_meet_it() {
        let (sender, queue) = queue(all());
        let events = ShardEvents::new(ShardId(0), sender, NOW);
        let peer = IpAddr::from([192, 0, 2, 7]);
        for _ in 0..1000 {
            events.limit_met(Limit::ConnectionsPerShard, Some(peer));
        }
        events.limits_met(Limit::Buffers, 3, None);
        events.limits_met(Limit::MessageMemory, 0, None);
        events.flush_limits(NOW);
        events.flush_limits(NOW);
        let mut text = String::new();
        while let Some(chunk) = queue.next(Duration::ZERO) {
            text.push_str(std::str::from_utf8(&chunk.lines).unwrap());
        }
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.contains(r#""limit":"connections_per_shard","count":1000,"peer":"192.0.2.7"}"#)
        );
        assert!(text.contains(r#""limit":"buffers_per_shard","count":3}"#));
    }
}
