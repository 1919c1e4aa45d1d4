//! Listening sockets and the loop that turns new connections into tasks.
//!
//! `bind` makes one SO_REUSEPORT socket per shard and port before privileges are dropped; the
//! kernel spreads connections over them. On its shard `Acceptor::run` waits for readiness and
//! drains the queue by accept4, so a connection costs one system call here: everything else
//! (no-delay, keep-alive) is inherited from the listening socket.
//!
//! Invariants: a shard at its limit goes on accepting, since the kernel goes on giving it
//! connections, and lets the service refuse them in its protocol's words. Out of descriptors, the
//! acceptor closes what it cannot serve and pauses; it never spins and never gives up.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use futures_lite::io::AsyncRead;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::{
    LocalFuture,
    connection::{Connection, TlsMode},
    executor::{Executor, Priority},
    resources::ShardResources,
    timer::Timer,
    transport::Transport,
};

/// Pause after running out of descriptors or kernel memory.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Longest wait for readiness before the queue is looked at in any case.
const READINESS_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections accepted before other tasks get their turn.
const ACCEPTS_AT_ONCE_MAX: usize = 64;

/// Connections being refused at once, on one listener; past that they are closed unheard.
const REFUSALS_MAX: usize = 256;

/// A dead peer of an idle connection is noticed after about this long without a packet.
const KEEP_ALIVE: Duration = Duration::from_secs(600);

/// A bound and listening socket. `Send`: made by the starter, used on one shard.
pub struct BoundListener {
    socket: Socket,
}

impl BoundListener {
    /// Listens on `address` beside other sockets of this process on the same one. `backlog` is cut
    /// by the kernel at net.core.somaxconn.
    pub fn bind(address: SocketAddr, backlog: i32) -> io::Result<BoundListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(true)?;
        socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEP_ALIVE))?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(backlog)?;
        Ok(BoundListener { socket })
    }

    /// The address bound to: the port the kernel chose where 0 was asked for.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Waits until a connection stands in the queue, or the shard shuts down.
    ///
    /// glommio has no readiness wait of its own for a listening socket. A stream over a duplicate
    /// starts with a poll for reading; when that fires, its recv fails (a listening socket is not
    /// connected), and that failure is the signal. Three cheap calls a batch of connections,
    /// against four and a lost accept through glommio's listener.
    async fn ready(&self, resources: &ShardResources) -> io::Result<()> {
        let Transport::Tcp(mut probe) = Transport::tcp(self.socket.try_clone()?.into()) else {
            return Ok(());
        };
        // A timer stands in the wheel, which wakes its waiters when the shard shuts down.
        let timer = Timer::new(resources.timers());
        timer.arm(READINESS_TIMEOUT);
        poll_fn(|context| {
            let fired = Pin::new(&mut probe).poll_read(context, &mut [0]).is_ready();
            if fired || timer.poll_passed(context) || resources.shutting_down() {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Takes one connection out of the queue; `WouldBlock` when it is empty.
    fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        let mut peer = SockAddrStorage::zeroed();
        let mut length = peer.size_of();
        // SAFETY: `peer` is a sockaddr_storage of `length` bytes; both outlive the call.
        let descriptor = unsafe {
            libc::accept4(
                self.socket.as_raw_fd(),
                (&raw mut peer).cast(),
                &mut length,
                libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            )
        };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: accept4 succeeded, so this is a new descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // SAFETY: accept4 wrote an address of `length` bytes; the rest of the storage is zero.
        let peer = unsafe { SockAddr::new(peer, length) };
        Ok((socket, peer.as_socket().ok_or(io::ErrorKind::Unsupported)?))
    }
}

/// Whether the shard has room for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    Admitted,
    /// The shard is at its limit: say so in the protocol's words (SMTP 421, POP3 `-ERR
    /// [SYS/TEMP]`, IMAP `BYE`) and close.
    Refused,
}

/// What a listener does with connections.
pub struct Acceptor {
    pub listener: BoundListener,
    pub tls: TlsMode,
    /// Makes the session; runs as a foreground task of its own.
    pub session: Rc<dyn Fn(Connection, Admission) -> LocalFuture<'static, ()>>,
}

impl Acceptor {
    /// Accepts for as long as the shard lives, or until it shuts down; then the listening socket
    /// closes and the kernel refuses or moves on.
    pub async fn run(self, executor: Rc<dyn Executor>) {
        let resources = ShardResources::current();
        let refusals = Rc::new(Cell::new(0));
        let mut reserve = reserve_descriptor();
        while !resources.shutting_down() {
            let drained = match self.drain(&executor, &resources, &refusals) {
                Ok(drained) => drained,
                Err(error) if is_passing(&error) => false,
                Err(_) => {
                    // Out of descriptors or memory: let one waiting peer know by closing it, so
                    // that the queue does not stand still, and give sessions time to end.
                    drop(reserve.take());
                    let _ = self.listener.accept();
                    reserve = reserve_descriptor();
                    executor.sleep(BACK_OFF).await;
                    false
                }
            };
            if drained {
                if self.listener.ready(&resources).await.is_err() {
                    executor.sleep(BACK_OFF).await;
                }
            } else {
                // Not `Executor::yield_now`, which yields only at the end of a time slice: the
                // sessions just accepted come first.
                futures_lite::future::yield_now().await;
            }
        }
    }

    /// Accepts a batch; true when the queue is empty.
    fn drain(
        &self,
        executor: &Rc<dyn Executor>,
        resources: &Rc<ShardResources>,
        refusals: &Rc<Cell<usize>>,
    ) -> io::Result<bool> {
        for _ in 0..ACCEPTS_AT_ONCE_MAX {
            let (socket, peer) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let refused = resources.connections_full();
            if refused && refusals.get() >= REFUSALS_MAX {
                continue;
            }
            let Ok(connection) = Connection::accept(socket, peer, &self.tls) else { continue };
            if refused {
                let refusal = (self.session)(connection, Admission::Refused);
                executor.spawn(Priority::Foreground, Box::pin(counted(refusal, refusals.clone())));
            } else {
                let session = (self.session)(connection, Admission::Admitted);
                executor.spawn(Priority::Foreground, session);
            }
        }
        Ok(false)
    }
}

/// Runs `refusal` while it counts among those in progress.
fn counted(
    refusal: LocalFuture<'static, ()>,
    refusals: Rc<Cell<usize>>,
) -> impl Future<Output = ()> {
    refusals.set(refusals.get() + 1);
    async move {
        refusal.await;
        refusals.set(refusals.get() - 1);
    }
}

/// Errors of one connection that died in the queue; the next one is as good as ever.
fn is_passing(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EBADF)
    )
}

/// A descriptor to give up when none are left.
fn reserve_descriptor() -> Option<std::fs::File> {
    std::fs::File::open("/dev/null").ok()
}
