//! Which sockets of a shard can be read or written: one epoll set, which io_uring watches.
//!
//! A poll request in the ring for every read would work as well, and did: but the kernel delivers
//! each completion to the shard's thread by an interrupt of its processor, one for every piece a
//! client sends (1.3 to 3.8 a message on loopback; glommio cannot ask for
//! `IORING_SETUP_COOP_TASKRUN`). A socket is registered with a set once per connection, the set
//! records events without interrupting anyone, and one poll request covers all events meanwhile.
//! docs/performance.md has the figures.
//!
//! Registrations are edge-triggered: [`Watched`] remembers that its socket was readable until a
//! read has emptied it.
//!
//! A sleep in glommio costs a dozen system calls: five before it and five after. So a shard that
//! has nothing to do and expects its clients back soon waits on the set itself, in one call of at
//! most [`LINGER_MAX`]: it lingers. Other threads wake its tasks with a bell that is in the set.
//!
//! Ownership: shard-local. A descriptor leaves the set when it is closed; `Watched::release`
//! removes it before another shard gets it.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures_lite::io::AsyncRead;
use glommio::net::TcpStream;
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        time::TimeSpec,
    },
};
use slab::Slab;

use super::{bell::Bell, executor::Executor, idleness::Idleness, write_ring::WriteRing};

/// Events taken by one call, and therefore sessions that run between two clock reads.
const EVENTS_MAX: usize = 32;

/// Between two polls of the set while no descriptor is free to wait with.
const WITHOUT_DESCRIPTOR: Duration = Duration::from_millis(1);

/// A shard that is never idle polls the set this often anyway: its ring, which would signal
/// readiness, is polled only when a time slice is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// A shard that serves its sockets skips glommio's reactor for at most this long: events that only
/// the reactor sees (mainly timers) may be late by as much. Clients that pause for longer are
/// waited for in glommio.
const LINGER_MAX: Duration = Duration::from_millis(2);

/// Used in place of a socket's key: the bell, and the ring for writes.
const BELL: u64 = u64::MAX;
const WRITES: u64 = u64::MAX - 1;

/// The set of one shard.
pub(super) struct Readiness {
    epoll: Epoll,
    bell: Arc<Bell>,
    /// `None` if the kernel gives no ring.
    writes: Option<Rc<WriteRing>>,
    /// Asked before the shard lingers; without it the shard never lingers.
    idleness: Option<Rc<Idleness>>,
    watched: RefCell<Slab<Rc<State>>>,
    /// Events so far, so that callers can see whether any came.
    events: Cell<u64>,
    /// The last poll.
    looked: Cell<Instant>,
    /// The shard lingers, or is about to.
    lingering: Cell<bool>,
    /// The latest time at which the dozing task must be woken.
    alarm: Cell<Option<Instant>>,
    sleeper: RefCell<Option<Waker>>,
    /// How often the shard lingered and an event came.
    #[cfg(test)]
    lingered: Cell<usize>,
}

/// The state of one descriptor.
#[derive(Default)]
struct State {
    /// There may be unread data that no read has tried to get yet.
    readable: Cell<bool>,
    /// The peer ended its half, or the socket failed: every read returns something.
    ended: Cell<bool>,
    /// A write may be tried.
    writable: Cell<bool>,
    /// The one task that uses the descriptor, while it waits.
    waker: RefCell<Option<Waker>>,
}

/// A descriptor's place in the set. Dropping it frees the place; the descriptor leaves the set when
/// it is closed.
pub(super) struct Watched {
    readiness: Rc<Readiness>,
    key: usize,
    state: Rc<State>,
    /// Why the kernel did not register it.
    refusal: Option<Errno>,
}

impl Readiness {
    pub(super) fn new(idleness: Option<Rc<Idleness>>) -> io::Result<Readiness> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = Arc::new(Bell::new()?);
        // Edge-triggered: the event need not be reset.
        epoll.add(&*bell, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, BELL))?;
        let writes = WriteRing::new().ok().map(Rc::new);
        if let Some(writes) = &writes {
            epoll.add(&**writes, EpollEvent::new(EpollFlags::EPOLLIN, WRITES))?;
        }
        Ok(Readiness {
            epoll,
            bell,
            writes,
            idleness,
            watched: RefCell::default(),
            events: Cell::new(0),
            looked: Cell::new(Instant::now()),
            lingering: Cell::default(),
            alarm: Cell::default(),
            sleeper: RefCell::default(),
            #[cfg(test)]
            lingered: Cell::default(),
        })
    }

    /// Adds `descriptor`, which must be closed or given to [`Watched::release`] when the place is
    /// dropped. If the kernel refuses (memory, fs.epoll.max_user_watches), a task that would have
    /// to wait gets the error ([`Watched::empty`], [`Watched::full`]).
    pub(super) fn watch(self: &Rc<Self>, descriptor: BorrowedFd<'_>) -> Watched {
        let state = Rc::new(State { writable: Cell::new(true), ..State::default() });
        let key = self.watched.borrow_mut().insert(state.clone());
        let event = EpollEvent::new(READING, key as u64);
        let refusal = self.epoll.add(descriptor, event).err();
        Watched { readiness: self.clone(), key, state, refusal }
    }

    /// Wakes the tasks that wait for ready descriptors, for as long as the shard lives.
    pub(super) async fn drive(self: Rc<Self>, executor: Rc<dyn Executor>) {
        loop {
            let begun = Instant::now();
            if self.bell.heed() && self.ready().await.is_err() {
                executor.sleep(WITHOUT_DESCRIPTOR).await;
            }
            self.bell.ignore();
            self.look();
            let now = self.looked.get();
            if let Some(idleness) = &self.idleness
                && now - begun < LINGER_MAX
            {
                self.linger(idleness, now + LINGER_MAX).await;
            }
        }
    }

    /// Serves the sockets without a turn of the reactor until `end`, as long as the shard has
    /// nothing else to do.
    async fn linger(&self, idleness: &Idleness, end: Instant) {
        self.lingering.set(true);
        while idleness.idle().await {
            let due = self.alarm.get().map_or(end, |at| at.min(end));
            let left = due.saturating_duration_since(Instant::now());
            let came = !left.is_zero() && self.bell.heed() && self.take_events(left);
            self.bell.ignore();
            // A ring of the bell before the wait prevented the wait.
            let came = self.bell.answer() || came;
            let alarmed = self.alarm.get().is_some() && self.looked.get() >= due && due < end;
            if came || alarmed {
                self.wake_sleeper();
            }
            if !came && !alarmed {
                break;
            }
            #[cfg(test)]
            self.lingered.set(self.lingered.get() + 1);
        }
        self.lingering.set(false);
        self.wake_sleeper();
    }

    /// Waits for the next event, or until `at`; on a shard that does not linger, only for one poll
    /// of the set. One task at a time.
    pub(super) async fn doze(&self, at: Instant) {
        if !self.lingering.get() {
            futures_lite::future::yield_now().await;
            self.look();
            return;
        }
        self.alarm.set(Some(at));
        poll_fn(|context| {
            if self.alarm.get().is_none() {
                return Poll::Ready(());
            }
            *self.sleeper.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn wake_sleeper(&self) {
        self.alarm.set(None);
        if let Some(sleeper) = self.sleeper.take() {
            sleeper.wake();
        }
    }

    /// Wakes the tasks that wait for ready descriptors; false if there are none.
    pub(super) fn look(&self) -> bool {
        self.take_events(Duration::ZERO)
    }

    /// [`Readiness::look`], once something is ready, the bell rings, or `timeout` is over.
    fn take_events(&self, timeout: Duration) -> bool {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let count = wait(&self.epoll, &mut events, timeout);
        self.looked.set(Instant::now());
        let mut sockets = 0;
        for event in &events[..count] {
            match event.data() {
                // Handled below, together with rings that came while the shard was awake.
                BELL => continue,
                WRITES => {
                    if let Some(writes) = &self.writes {
                        writes.reap();
                    }
                    continue;
                }
                _ => sockets += 1,
            }
            // Not borrowed while a task is woken: what it drops may leave the set.
            let state = self.watched.borrow().get(event.data() as usize).cloned();
            if let Some(state) = state {
                state.note(event.events());
            }
        }
        self.events.set(self.events.get() + sockets);
        self.bell.answer() || count > 0
    }

    /// The shard's ring for appends, if there is one.
    pub(super) fn writes(&self) -> Option<&Rc<WriteRing>> {
        self.writes.as_ref()
    }

    /// The bell with which other threads wake a task of this shard; `None` if the shard spins,
    /// since then glommio sees its own wake-ups sooner.
    pub(super) fn bell(&self) -> Option<Arc<Bell>> {
        self.idleness.is_some().then(|| self.bell.clone())
    }

    /// [`Readiness::look`], if the last poll was a while ago.
    pub(super) fn look_if_due(&self) -> bool {
        self.looked.get().elapsed() >= LOOK_INTERVAL && self.look()
    }

    /// [`Readiness::look`] by a shard that is busy. The kernel's thread that writes for it is bound
    /// to the same processor: it would wait until the scheduler's time slice ends, for
    /// milliseconds, and all commits with it. So it has its turn first.
    pub(super) fn look_when_busy(&self) {
        if self.writes.as_ref().is_some_and(|writes| writes.is_busy()) {
            std::thread::yield_now();
        }
        self.look();
    }

    /// How often anything has become ready so far.
    pub(super) fn events(&self) -> u64 {
        self.events.get()
    }

    #[cfg(test)]
    pub(super) fn idleness(&self) -> Option<Rc<Idleness>> {
        self.idleness.clone()
    }

    /// As if `events` more sockets had become ready.
    #[cfg(test)]
    pub(crate) fn pretend(&self, events: u64) {
        self.events.set(self.events.get() + events);
    }

    /// Waits until something in the set is ready.
    ///
    /// glommio has no readiness wait of its own. A stream over a duplicate descriptor starts with a
    /// poll for reading; when that fires, its recv fails (the set is not a socket), and that
    /// failure is the signal.
    async fn ready(&self) -> io::Result<()> {
        let duplicate = self.epoll.0.try_clone()?;
        // SAFETY: `duplicate` owns an open descriptor and gives it up here.
        let mut probe = unsafe { TcpStream::from_raw_fd(duplicate.into_raw_fd()) };
        poll_fn(|context| Pin::new(&mut probe).poll_read(context, &mut [0]).map(drop)).await;
        Ok(())
    }
}

/// Takes events from `epoll`, once there are any or `timeout` is over; returns how many.
fn wait(epoll: &Epoll, events: &mut [EpollEvent; EVENTS_MAX], timeout: Duration) -> usize {
    if timeout.is_zero() {
        // The only possible error is EINTR: ready descriptors stay ready.
        return epoll.wait(events, EpollTimeout::ZERO).unwrap_or(0);
    }
    let timeout = TimeSpec::from(timeout);
    let (descriptor, room) = (epoll.0.as_raw_fd(), EVENTS_MAX as libc::c_int);
    // SAFETY: `events` has room for that many (an EpollEvent is an epoll_event); it and the
    // timespec outlive the call, and no signal mask is passed.
    let count = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            descriptor,
            events.as_mut_ptr(),
            room,
            timeout.as_ref(),
            std::ptr::null::<libc::sigset_t>(),
            0,
        )
    };
    // EINTR, or ENOSYS before Linux 5.11: treated as no events.
    usize::try_from(count).unwrap_or(0)
}

/// Events watched at first; writing is added only once a write had to wait.
const READING: EpollFlags =
    EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);

impl State {
    fn note(&self, events: EpollFlags) {
        const FAILED: EpollFlags = EpollFlags::EPOLLHUP.union(EpollFlags::EPOLLERR);
        if events.intersects(EpollFlags::EPOLLRDHUP.union(FAILED)) {
            self.ended.set(true);
        }
        if events.intersects(EpollFlags::EPOLLIN) {
            self.readable.set(true);
        }
        // Only for these flags: `full` makes the kernel report unread octets again, and a write
        // tried then would make it report them once more, for as long as the peer does not read.
        if events.intersects(EpollFlags::EPOLLOUT.union(FAILED)) {
            self.writable.set(true);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn wait(&self, context: &mut Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
    }
}

impl Watched {
    /// Ready if there may be data to read; otherwise the task is woken when there is.
    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.state.readable.get() || self.state.ended.get() || self.refusal.is_some() {
            return Poll::Ready(());
        }
        self.state.wait(context);
        Poll::Pending
    }

    /// Notes that a read emptied the socket. Call it without a wait after that read.
    pub(super) fn drained(&self) {
        self.state.readable.set(false);
    }

    /// Notes that a read would have blocked: there is neither data nor an end of stream.
    ///
    /// # Errors
    /// If the descriptor is not registered, so that it cannot be waited for.
    pub(super) fn empty(&self) -> io::Result<()> {
        self.state.readable.set(false);
        self.state.ended.set(false);
        self.refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    /// Ready unless the last write would have blocked and there has been no room since; otherwise
    /// the task is woken when there is.
    pub(super) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.state.writable.get() {
            return Poll::Ready(());
        }
        self.state.wait(context);
        Poll::Pending
    }

    /// Notes that a write to `descriptor` would have blocked.
    ///
    /// # Errors
    /// If the descriptor is not registered.
    pub(super) fn full(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.state.writable.set(false);
        // Registered again each time: the kernel reports at once if there is room by now.
        let mut event = EpollEvent::new(READING | EpollFlags::EPOLLOUT, self.key as u64);
        Ok(self.readiness.epoll.modify(descriptor, &mut event)?)
    }

    /// Removes `descriptor` from the set, for use elsewhere.
    pub(super) fn release(self, descriptor: BorrowedFd<'_>) {
        let _ = self.readiness.epoll.delete(descriptor);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.readiness.watched.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
        os::fd::AsFd,
    };

    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::runtime::{
        executor::Priority,
        shard::{self, ShardContext, ShardOptions},
    };

    /// Two ends of a connection; the first does not block.
    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, peer)
    }

    fn is_readable(watched: &Watched) -> bool {
        block_on(poll_once(poll_fn(|context| watched.poll_readable(context)))).is_some()
    }

    fn is_writable(watched: &Watched) -> bool {
        block_on(poll_once(poll_fn(|context| watched.poll_writable(context)))).is_some()
    }

    #[test]
    fn what_is_ready_stays_so_until_a_read_took_it() {
        let readiness = Rc::new(Readiness::new(None).unwrap());
        let (mut ours, mut peer) = connected();
        let watched = readiness.watch(ours.as_fd());
        assert!(!readiness.look() && !is_readable(&watched));
        peer.write_all(b"NOOP\r\n").unwrap();
        assert!(readiness.look() && is_readable(&watched));
        assert!(!readiness.look(), "told once");
        assert!(is_readable(&watched), "and remembered");
        assert_eq!(ours.read(&mut [0; 100]).unwrap(), 6);
        watched.drained();
        assert!(!is_readable(&watched));

        // The end of the stream came with the last octets: one event reports both.
        peer.write_all(b"QUIT\r\n").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        assert!(readiness.look());
        assert_eq!(ours.read(&mut [0; 100]).unwrap(), 6);
        watched.drained();
        assert!(is_readable(&watched), "the end is still to be read");
        assert_eq!(ours.read(&mut [0; 100]).unwrap(), 0);
    }

    #[test]
    fn what_was_there_before_is_told() {
        let readiness = Rc::new(Readiness::new(None).unwrap());
        let (ours, mut peer) = connected();
        peer.write_all(b"EHLO early.test\r\n").unwrap();
        let watched = readiness.watch(ours.as_fd());
        assert!(readiness.look() && is_readable(&watched));
    }

    #[test]
    fn a_full_socket_is_writable_once_the_peer_has_read() {
        let readiness = Rc::new(Readiness::new(None).unwrap());
        let (mut ours, mut peer) = connected();
        let watched = readiness.watch(ours.as_fd());
        let mut sent = 0;
        loop {
            match ours.write(&[b'x'; 1 << 16]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        watched.full(ours.as_fd()).unwrap();
        assert!(!is_writable(&watched));
        peer.read_exact(&mut vec![0; sent]).unwrap();
        assert!(readiness.look() && is_writable(&watched));
    }

    /// A client that sends and never reads: each request for room reports its octets again.
    #[test]
    fn unread_input_does_not_make_a_full_socket_writable() {
        let readiness = Rc::new(Readiness::new(None).unwrap());
        let (mut ours, mut peer) = connected();
        let watched = readiness.watch(ours.as_fd());
        while ours.write(&[b'x'; 1 << 16]).is_ok() {}
        peer.write_all(b"NOOP\r\n").unwrap();
        for _ in 0..3 {
            watched.full(ours.as_fd()).unwrap();
            readiness.look();
            assert!(is_readable(&watched) && !is_writable(&watched));
        }
    }

    /// A set always refuses regular files.
    #[test]
    fn what_the_set_refuses_is_tried_and_never_waited_for() {
        let readiness = Rc::new(Readiness::new(None).unwrap());
        let file = tempfile::tempfile().unwrap();
        let watched = readiness.watch(file.as_fd());
        watched.drained();
        assert!(is_readable(&watched));
        assert!(watched.empty().is_err() && watched.full(file.as_fd()).is_err());
    }

    #[test]
    fn a_released_socket_is_told_to_nobody_and_its_place_is_free() {
        let readiness = Rc::new(Readiness::new(None).unwrap());
        let (ours, mut peer) = connected();
        let watched = readiness.watch(ours.as_fd());
        watched.release(ours.as_fd());
        peer.write_all(b"NOOP\r\n").unwrap();
        assert!(!readiness.look());
        assert!(readiness.watched.borrow().is_empty());
    }

    /// More events at once than one call takes; each task runs, on a real shard.
    #[test]
    fn a_shard_wakes_whoever_waits() {
        let count = EVENTS_MAX + 50;
        let life = move |context: ShardContext| async move {
            let woken = Rc::new(Cell::new(0));
            let (mut peers, mut last) = (Vec::new(), None);
            for _ in 0..count {
                let (ours, peer) = connected();
                peers.push(peer);
                let watched = context.resources.readiness().watch(ours.as_fd());
                let woken = woken.clone();
                let task = async move {
                    poll_fn(|context| watched.poll_readable(context)).await;
                    woken.set(woken.get() + 1);
                    drop(ours);
                };
                context.executor.spawn(Priority::Foreground, Box::pin(task));
            }
            context.executor.sleep(Duration::from_millis(5)).await;
            assert_eq!(woken.get(), 0);
            for mut peer in peers {
                peer.write_all(b"x").unwrap();
                last = Some(peer);
            }
            while woken.get() < count {
                context.executor.sleep(Duration::from_millis(1)).await;
            }
            drop(last);
        };
        let lives = shard::start(&ShardOptions::default(), vec![life]).unwrap().join();
        assert!(lives.into_iter().all(|life| life.is_ok()));
    }

    /// The shard waits without glommio for a client that answers at once; a wake from another
    /// thread in the meantime is noticed.
    #[test]
    fn a_shard_lingers_for_a_lone_client() {
        use std::sync::mpsc;

        let life = async |context: ShardContext| {
            let (mut ours, mut peer) = connected();
            let (ask, asked) = mpsc::channel::<tokio::sync::oneshot::Sender<()>>();
            let client = std::thread::spawn(move || {
                let mut answer = [0];
                for _ in 0..500 {
                    peer.write_all(b"?").unwrap();
                    peer.read_exact(&mut answer).unwrap();
                }
                for distant in asked {
                    std::thread::sleep(Duration::from_micros(200));
                    distant.send(()).unwrap();
                }
            });
            let readiness = context.resources.readiness().clone();
            let served = Rc::new(Cell::new(false));
            let done = served.clone();
            let task = async move {
                let watched = readiness.watch(ours.as_fd());
                for _ in 0..500 {
                    poll_fn(|context| watched.poll_readable(context)).await;
                    assert_eq!(ours.read(&mut [0; 10]).unwrap(), 1);
                    watched.drained();
                    ours.write_all(b"!").unwrap();
                }
                assert!(readiness.lingered.get() > 0);
                for _ in 0..50 {
                    let (distant, answer) = tokio::sync::oneshot::channel();
                    ask.send(distant).unwrap();
                    crate::runtime::bell::hear(answer).await.unwrap();
                }
                done.set(true);
            };
            context.executor.spawn(Priority::Foreground, Box::pin(task));
            while !served.get() {
                context.executor.sleep(Duration::from_millis(5)).await;
            }
            client.join().unwrap();
        };
        let lives = shard::start(&ShardOptions::default(), vec![life]).unwrap().join();
        assert!(lives.into_iter().all(|life| life.is_ok()));
    }
}
