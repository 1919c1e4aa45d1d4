//! Data shared by the connections of one shard: buffers, the scratch buffer, timers, the connection
//! count and the shutdown request.
//!
//! Invariant: an idle connection holds none of this. Bytes are received into the shard's scratch
//! buffer and copied to a pooled buffer only if there are any; an empty buffer returns to the pool,
//! and one that waits with data is shrunk to it. Each shard has a byte budget for buffers in use
//! (`budget`); at the limit, waits of the connection that must give way fail with `NoMemory`, while
//! replies always get memory, so that the refusal can be sent.
//!
//! Ownership: shard-local, one per thread, held by `Rc`. `shard::start` installs it; on other
//! executors tests get one on first use.

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
};

use super::{
    bell::Bell,
    budget::{Budget, HolderId},
    clients::Excess,
    executor::{Executor, Priority},
    readiness::Readiness,
    timer::TimerWheel,
    write_ring::WriteRing,
};
use crate::model::{ClassCounts, MailClass};

/// Most bytes received by one call, and therefore the size of the scratch buffer.
pub const SCRATCH_SIZE: usize = 64 * 1024;

/// Capacity of the small pooled buffers: a batch of commands or replies.
const SMALL_BUFFER: usize = 4 * 1024;

/// Capacity of the pooled buffers for the rest of a line: the minimum of a waiting connection.
const REMAINDER_BUFFER: usize = 256;

/// A buffer that grew past this is freed, not pooled.
const POOLED_CAPACITY_MAX: usize = 2 * SCRATCH_SIZE;

/// Free buffers kept of each size.
const FREE_REMAINDER_MAX: usize = 512;
const FREE_SMALL_MAX: usize = 512;
const FREE_LARGE_MAX: usize = 32;

/// Limits of one shard.
#[derive(Clone, Debug)]
pub struct ResourceLimits {
    /// Bytes of connection buffers in use at once.
    pub buffer_bytes_max: usize,
    /// Connections served at once; further ones are refused with a reply of the protocol.
    pub connections_max: usize,
}

impl Default for ResourceLimits {
    fn default() -> Self {
        ResourceLimits { buffer_bytes_max: 64 << 20, connections_max: 100_000 }
    }
}

/// Connections that the shard refused since its start, by limit.
#[derive(Default)]
pub struct RefusalCounts {
    /// The shard's own limit.
    pub full: Cell<u64>,
    /// The limits of one address or network.
    pub connections: Cell<u64>,
    pub strangers: Cell<u64>,
    pub new_connections: Cell<u64>,
}

impl RefusalCounts {
    /// Counts one refusal; `None`: the shard is full.
    pub(super) fn count(&self, excess: Option<Excess>) {
        let count = match excess {
            None => &self.full,
            Some(Excess::Connections) => &self.connections,
            Some(Excess::Strangers) => &self.strangers,
            Some(Excess::NewConnections) => &self.new_connections,
        };
        count.set(count.get() + 1);
    }
}

/// Data shared by one shard's connections. See the module documentation.
pub struct ShardResources {
    limits: ResourceLimits,
    scratch: RefCell<Box<[u8]>>,
    free_remainder: RefCell<Vec<Vec<u8>>>,
    free_small: RefCell<Vec<Vec<u8>>>,
    free_large: RefCell<Vec<Vec<u8>>>,
    buffers: Budget,
    connections: ClassCounts,
    refusals: RefusalCounts,
    shutting_down: Cell<bool>,
    timers: Rc<TimerWheel>,
    timers_driven: Cell<bool>,
    readiness: OnceCell<Rc<Readiness>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<ShardResources>>> = const { RefCell::new(None) };
}

impl ShardResources {
    /// Makes the resources of this thread's shard, in place of any before.
    pub fn install(limits: ResourceLimits, executor: &Rc<dyn Executor>) -> Rc<ShardResources> {
        let resources = Rc::new(Self::new(limits));
        CURRENT.set(Some(resources.clone()));
        resources.start_timers(executor);
        resources
    }

    /// This thread's resources. Outside a shard (unit tests) they are created here, with default
    /// limits and deadlines that never pass.
    pub fn current() -> Rc<ShardResources> {
        CURRENT.with_borrow_mut(|current| {
            current.get_or_insert_with(|| Rc::new(Self::new(ResourceLimits::default()))).clone()
        })
    }

    fn new(limits: ResourceLimits) -> ShardResources {
        ShardResources {
            buffers: Budget::new(limits.buffer_bytes_max, SMALL_BUFFER),
            limits,
            scratch: RefCell::new(vec![0; SCRATCH_SIZE].into_boxed_slice()),
            free_remainder: RefCell::default(),
            free_small: RefCell::default(),
            free_large: RefCell::default(),
            connections: ClassCounts::default(),
            refusals: RefusalCounts::default(),
            shutting_down: Cell::new(false),
            timers: Rc::new(TimerWheel::new()),
            timers_driven: Cell::new(false),
            readiness: OnceCell::new(),
        }
    }

    /// Starts the task that makes deadlines pass, unless there is one.
    pub fn start_timers(self: &Rc<Self>, executor: &Rc<dyn Executor>) {
        if !self.timers_driven.replace(true) {
            let driving = Driving(self.clone());
            let drive = self.timers.clone().drive(executor.clone());
            let task = async move {
                let _driving = driving;
                drive.await;
            };
            executor.spawn(Priority::Foreground, Box::pin(task));
        }
    }

    /// Gives this shard a set of sockets, and starts the task that watches it.
    pub(super) fn watch_sockets(&self, readiness: Rc<Readiness>, executor: &Rc<dyn Executor>) {
        let drive = readiness.clone().drive(executor.clone());
        executor.spawn(Priority::Foreground, Box::pin(drive));
        let _ = self.readiness.set(readiness);
    }

    /// The bell with which other threads wake a task of this shard; `None` where tests play a
    /// shard, or the shard spins.
    pub(super) fn bell(&self) -> Option<Arc<Bell>> {
        self.readiness.get()?.bell()
    }

    /// This shard's ring for appends; `None` where tests play a shard, or the kernel gives none.
    pub(super) fn write_ring(&self) -> Option<Rc<WriteRing>> {
        self.readiness.get()?.writes().cloned()
    }

    /// The set of this shard's sockets. Only on real shards.
    #[allow(clippy::unreachable, reason = "every shard has one before its first socket")]
    pub(super) fn readiness(&self) -> &Rc<Readiness> {
        match self.readiness.get() {
            Some(readiness) => readiness,
            None => unreachable!("a socket outside of a shard"),
        }
    }

    pub fn timers(&self) -> &Rc<TimerWheel> {
        &self.timers
    }

    /// Ends waiting sessions: `Connection::fill` fails between commands from now on.
    pub fn shut_down(&self) {
        self.shutting_down.set(true);
        self.timers.wake_all();
    }

    pub fn shutting_down(&self) -> bool {
        self.shutting_down.get()
    }

    /// Connections on this shard now.
    pub fn connection_count(&self) -> usize {
        self.connections.total()
    }

    /// The same, by the listeners that they came to; our own to others are local.
    pub fn connections(&self) -> &ClassCounts {
        &self.connections
    }

    /// True if the shard has as many connections as the class may have (or more, after a handover).
    pub fn connections_full(&self, class: MailClass) -> bool {
        !self.connections.fits(class, 1, self.limits.connections_max)
    }

    /// Connections refused so far.
    pub fn refusals(&self) -> &RefusalCounts {
        &self.refusals
    }

    /// Bytes of connection buffers in use now.
    pub fn buffer_bytes(&self) -> usize {
        self.buffers.used()
    }

    /// The budget of connection buffers.
    pub fn buffers(&self) -> &Budget {
        &self.buffers
    }

    /// Lends the scratch buffer to `use_scratch`, which must not call back here.
    pub(super) fn with_scratch<T>(&self, use_scratch: impl FnOnce(&mut [u8]) -> T) -> T {
        use_scratch(&mut self.scratch.borrow_mut())
    }

    fn take(&self, size: usize) -> Vec<u8> {
        let (free, capacity) = if size <= REMAINDER_BUFFER {
            (&self.free_remainder, REMAINDER_BUFFER)
        } else if size <= SMALL_BUFFER {
            (&self.free_small, SMALL_BUFFER)
        } else {
            (&self.free_large, size.max(SCRATCH_SIZE))
        };
        let mut bytes = free.borrow_mut().pop().unwrap_or_default();
        bytes.reserve(capacity);
        bytes
    }

    fn give(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let (free, count_max) = match bytes.capacity() {
            REMAINDER_BUFFER => (&self.free_remainder, FREE_REMAINDER_MAX),
            0..SMALL_BUFFER => return,
            SMALL_BUFFER..SCRATCH_SIZE => (&self.free_small, FREE_SMALL_MAX),
            SCRATCH_SIZE..=POOLED_CAPACITY_MAX => (&self.free_large, FREE_LARGE_MAX),
            _ => return,
        };
        let mut free = free.borrow_mut();
        if free.len() < count_max {
            free.push(bytes);
        }
    }
}

/// Held by the task that drives the timers: when its executor is dropped (one simulation after
/// another on a thread), the next one starts another.
struct Driving(Rc<ShardResources>);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.timers_driven.set(false);
    }
}

/// A byte buffer that counts against the shard's budget while it holds memory. It has no memory
/// until something is put in.
pub(super) struct PooledBuffer {
    bytes: Vec<u8>,
    /// Bytes of capacity counted in the budget.
    charged: usize,
    resources: Rc<ShardResources>,
    holder: HolderId,
}

impl PooledBuffer {
    pub(super) fn new(resources: &Rc<ShardResources>, holder: HolderId) -> PooledBuffer {
        PooledBuffer { bytes: Vec::new(), charged: 0, resources: resources.clone(), holder }
    }

    pub(super) fn from_vec(
        bytes: Vec<u8>,
        resources: &Rc<ShardResources>,
        holder: HolderId,
    ) -> PooledBuffer {
        let mut buffer = PooledBuffer::new(resources, holder);
        buffer.bytes = bytes;
        buffer.recount();
        buffer
    }

    pub(super) fn bytes(&self) -> &Vec<u8> {
        &self.bytes
    }

    /// The bytes for writing, with some memory allocated. `recount` counts any growth.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = self.resources.take(SMALL_BUFFER);
            self.recount();
        }
        &mut self.bytes
    }

    /// Makes room for `additional` bytes, from the pool if there is too little.
    pub(super) fn reserve(&mut self, additional: usize) {
        if self.bytes.capacity() - self.bytes.len() < additional {
            let size = (self.bytes.len() + additional).max(SMALL_BUFFER);
            let mut larger = self.resources.take(size);
            larger.extend_from_slice(&self.bytes);
            self.resources.give(std::mem::replace(&mut self.bytes, larger));
        }
        self.recount();
    }

    /// Before a wait: data that needs much less than the buffer moves to a buffer of its size, with
    /// an eighth to spare, so that trickling octets are not copied one by one.
    pub(super) fn fit(&mut self) {
        let (len, capacity) = (self.bytes.len(), self.bytes.capacity());
        if len == 0 {
            return self.release_if_empty();
        }
        if capacity - len > REMAINDER_BUFFER + len / 4 {
            let mut fitting = match len {
                ..=REMAINDER_BUFFER => self.resources.take(len),
                _ => Vec::with_capacity(len + len / 8),
            };
            fitting.extend_from_slice(&self.bytes);
            self.resources.give(std::mem::replace(&mut self.bytes, fitting));
        }
        self.recount();
    }

    /// Returns the memory if the buffer is empty.
    pub(super) fn release_if_empty(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > 0 {
            self.resources.give(std::mem::take(&mut self.bytes));
            self.recount();
        }
    }

    /// Returns the memory, even if the buffer is not empty.
    pub(super) fn discard(&mut self) {
        self.bytes.clear();
        self.release_if_empty();
    }

    /// Takes the bytes out of this shard's accounts.
    pub(super) fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Counts the buffer's present capacity against the budget.
    pub(super) fn recount(&mut self) {
        let capacity = self.bytes.capacity();
        if capacity != self.charged {
            self.resources.buffers.change(self.holder, capacity, self.charged);
            self.charged = capacity;
        }
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.resources.give(std::mem::take(&mut self.bytes));
        self.recount();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources() -> (Rc<ShardResources>, HolderId) {
        let resources = Rc::new(ShardResources::new(ResourceLimits::default()));
        let holder = resources.buffers.enter();
        (resources, holder)
    }

    #[test]
    fn buffers_are_counted_and_reused() {
        let (resources, holder) = resources();
        let mut buffer = PooledBuffer::new(&resources, holder);
        assert_eq!(resources.buffer_bytes(), 0);
        buffer.bytes_mut().extend_from_slice(b"HELO");
        assert_eq!(resources.buffer_bytes(), buffer.bytes().capacity());

        let memory = buffer.bytes().as_ptr();
        buffer.bytes_mut().clear();
        buffer.release_if_empty();
        assert_eq!(resources.buffer_bytes(), 0);
        buffer.bytes_mut().push(b'x');
        assert_eq!(buffer.bytes().as_ptr(), memory, "the pooled buffer comes back");

        buffer.bytes_mut().resize(2 * SCRATCH_SIZE, 0);
        buffer.recount();
        assert_eq!(resources.buffers.cost(holder), buffer.bytes().capacity());
        drop(buffer);
        assert_eq!(resources.buffer_bytes(), 0);
    }

    /// Whatever was received before, waiting data costs its own size, and a little more.
    #[test]
    fn a_remainder_costs_its_octets() {
        for len in [1, 100, 257, 1_000, 4_097, 60_000] {
            let (resources, holder) = resources();
            let mut buffer = PooledBuffer::new(&resources, holder);
            buffer.reserve(SCRATCH_SIZE);
            let large = buffer.bytes().as_ptr();
            let octets: Vec<u8> = (0..len).map(|n| n as u8).collect();
            buffer.bytes_mut().extend_from_slice(&octets);
            buffer.fit();
            assert_eq!(*buffer.bytes(), octets);
            let cost = resources.buffer_bytes();
            assert!(cost <= len + len / 4 + REMAINDER_BUFFER, "{len} octets cost {cost}");
            buffer.reserve(SCRATCH_SIZE - len);
            assert_eq!(*buffer.bytes(), octets);
            if cost < SCRATCH_SIZE {
                assert_eq!(buffer.bytes().as_ptr(), large, "from the pool");
            }
        }
    }

    #[test]
    fn detached_bytes_leave_the_accounts() {
        let (resources, holder) = resources();
        let mut buffer = PooledBuffer::new(&resources, holder);
        buffer.bytes_mut().extend_from_slice(b"half a comm");
        let bytes = buffer.into_vec();
        assert_eq!(resources.buffer_bytes(), 0);
        let buffer = PooledBuffer::from_vec(bytes, &resources, holder);
        assert_eq!(resources.buffer_bytes(), buffer.bytes().capacity());
    }
}
