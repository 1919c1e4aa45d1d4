//! Listening sockets and the loop that turns new connections into tasks.
//!
//! `bind` makes one SO_REUSEPORT socket per shard and port before privileges are dropped; the
//! kernel spreads connections over them. On its shard `Acceptor::run` waits for readiness and
//! drains the queue by accept4, so a connection costs one system call here: everything else
//! (no-delay, keep-alive) is inherited from the listening socket.
//!
//! A client at the limit of its address or network (`clients`) is refused in the same way.
//!
//! A connection from a trusted proxy is handed on plain and uncounted ([`Admission::Proxied`]): the
//! session reads the proxy's header and asks [`Entrance::admit_proxied`] for the client it names.
//!
//! Invariants: a shard at its limit goes on accepting, since the kernel goes on assigning it
//! connections, and lets the service refuse them with a reply of the protocol. Out of descriptors,
//! the acceptor closes connections that it cannot serve and pauses; it never spins and never gives
//! up.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::{
    LocalFuture,
    clients::{Clients, Excess, Visit},
    connection::{Connection, ConnectionError, TlsMode},
    executor::{Executor, Priority},
    readiness::Watched,
    resources::ShardResources,
    timer::Timer,
};
use crate::model::{MailClass, Network};

/// Pause after running out of descriptors or kernel memory.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Longest wait for readiness before the queue is checked anyway.
const READINESS_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections accepted before other tasks get their turn.
const ACCEPTS_AT_ONCE_MAX: usize = 64;

/// Connections being refused at once, on one listener; further ones are closed without a reply.
const REFUSALS_MAX: usize = 256;

/// A dead peer of an idle connection is noticed after about this long without a packet.
const KEEP_ALIVE: Duration = Duration::from_secs(600);

/// A bound and listening socket. `Send`: made by the starter, used on one shard.
pub struct BoundListener {
    socket: Socket,
}

impl BoundListener {
    /// `AddrInUse` if any process listens on `address`: SO_REUSEPORT, with which [`Self::bind`]
    /// gives each shard a socket, would let a second server of this user share the port unnoticed.
    pub fn refuse_if_taken(address: SocketAddr) -> io::Result<()> {
        let probe = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
        if address.is_ipv6() {
            probe.set_only_v6(true)?;
        }
        probe.set_reuse_address(true)?;
        probe.bind(&SockAddr::from(address))
    }

    /// Listens on `address`, also beside other sockets of this user made by this function. The
    /// kernel limits `backlog` to net.core.somaxconn. An IPv6 address takes IPv6 connections only.
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

    /// The bound address, with the port that the kernel chose if 0 was requested.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Waits until a connection is in the queue, or the shard shuts down.
    async fn ready(&self, watched: &Watched, resources: &ShardResources) {
        // A timer in the wheel: the wheel wakes its waiters when the shard shuts down.
        let timer = Timer::new(resources.timers());
        timer.arm(READINESS_TIMEOUT);
        poll_fn(|context| {
            let ready = watched.poll_readable(context).is_ready();
            if ready || timer.poll_passed(context) || resources.shutting_down() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
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
        // SAFETY: accept4 succeeded, so this is a new descriptor without another owner.
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
    /// The shard is at its limit: reply in the protocol (SMTP 421, POP3 `-ERR [SYS/TEMP]`, IMAP
    /// `BYE`) and close.
    Refused,
    /// The client's address or network is at this limit.
    ClientRefused(Excess),
    /// The peer is a trusted proxy: its header comes first, in the clear, and then
    /// [`Entrance::admit_proxied`] decides.
    Proxied,
}

/// How the connections of a listener begin.
pub struct Entrance {
    /// Of the connections that come here, in the shard's limit.
    pub class: MailClass,
    pub tls: TlsMode,
    /// Limits by client address, if there are any.
    pub clients: Option<Arc<Clients>>,
    /// Peers that must begin with a PROXY header.
    pub proxies: Arc<[Network]>,
}

impl Entrance {
    fn is_proxy(&self, peer: SocketAddr) -> bool {
        if self.proxies.is_empty() {
            return false;
        }
        let peer = Network::exact(peer.ip());
        self.proxies.iter().any(|network| network.contains(&peer))
    }

    /// Whether the shard serves a connection of `peer`.
    fn admission(
        &self,
        peer: SocketAddr,
        resources: &ShardResources,
    ) -> (Admission, Option<Visit>) {
        if resources.connections_full(self.class) {
            resources.refusals().count(None);
            return (Admission::Refused, None);
        }
        if self.is_proxy(peer) {
            return (Admission::Proxied, None);
        }
        self.client_admission(peer, resources)
    }

    fn client_admission(
        &self,
        client: SocketAddr,
        resources: &ShardResources,
    ) -> (Admission, Option<Visit>) {
        let Some(clients) = &self.clients else { return (Admission::Admitted, None) };
        match clients.admit(client.ip()) {
            Ok(visit) => (Admission::Admitted, visit),
            Err(excess) => {
                resources.refusals().count(Some(excess));
                (Admission::ClientRefused(excess), None)
            }
        }
    }

    /// After the header of a proxy was consumed: `client` is the peer from now on, or, without one,
    /// the proxy itself; it counts in the limits, and TLS may begin. Never [`Admission::Proxied`].
    pub async fn admit_proxied(
        &self,
        connection: &mut Connection,
        client: Option<SocketAddr>,
    ) -> Result<Admission, ConnectionError> {
        connection.enter(client, &self.tls).await?;
        let resources = ShardResources::current();
        let (admission, visit) = self.client_admission(connection.peer(), &resources);
        connection.set_visit(visit);
        Ok(admission)
    }
}

/// Accepts the connections of one listener.
pub struct Acceptor {
    pub listener: BoundListener,
    pub entrance: Rc<Entrance>,
    /// Creates the session, which runs as a foreground task of its own.
    pub session: Rc<dyn Fn(Connection, Admission) -> LocalFuture<'static, ()>>,
}

impl Acceptor {
    /// Accepts for as long as the shard lives, or until it shuts down; then the listening socket
    /// closes and the kernel refuses or moves on.
    pub async fn run(self, executor: Rc<dyn Executor>) {
        let resources = ShardResources::current();
        let refusals = Rc::new(Cell::new(0));
        let watched = resources.readiness().watch(self.listener.socket.as_fd());
        let mut reserve = reserve_descriptor();
        while !resources.shutting_down() {
            let drained = match self.drain(&executor, &resources, &refusals) {
                Ok(drained) => drained,
                Err(error) if is_passing(&error) => false,
                Err(_) => {
                    // Out of descriptors or memory: close one waiting connection, so that its peer
                    // notices and the queue moves, and give sessions time to end.
                    drop(reserve.take());
                    let _ = self.listener.accept();
                    reserve = reserve_descriptor();
                    executor.sleep(BACK_OFF).await;
                    false
                }
            };
            if drained {
                match watched.empty() {
                    Ok(()) => self.listener.ready(&watched, &resources).await,
                    Err(_) => executor.sleep(BACK_OFF).await,
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
            let (admission, visit) = self.entrance.admission(peer, resources);
            let refused = !matches!(admission, Admission::Admitted | Admission::Proxied);
            // A proxy that is refused would take our words for its client's protocol, or for TLS.
            if refused && (refusals.get() >= REFUSALS_MAX || self.entrance.is_proxy(peer)) {
                continue;
            }
            let tls = match admission {
                Admission::Proxied => &TlsMode::Off,
                _ => &self.entrance.tls,
            };
            let Ok(mut connection) = Connection::accept(socket, peer, tls) else { continue };
            connection.set_class(self.entrance.class);
            connection.set_visit(visit);
            let session = (self.session)(connection, admission);
            if refused {
                executor.spawn(Priority::Foreground, Box::pin(counted(session, refusals.clone())));
            } else {
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

/// Whether the error concerns only one connection that died in the queue (accept(2) passes its
/// network errors on). Any other error, known or not, leads to a pause.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPROTO
                | libc::EPERM
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
        )
    )
}

/// A descriptor to release when none are left.
fn reserve_descriptor() -> Option<std::fs::File> {
    std::fs::File::open("/dev/null").ok()
}

#[cfg(test)]
mod tests {
    use std::{
        cell::OnceCell,
        io::{Read, Write},
        net::{Ipv4Addr, TcpStream as ClientStream},
        time::Instant,
    };

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;
    use crate::{
        model::ShardId,
        runtime::{
            clients::{ClientLimits, ClientShare},
            connection::ConnectionError,
            mesh::{self, Class, Mesh, MeshGate},
            resources::ResourceLimits,
            shard::{self, ShardContext, ShardOptions, ShardThreads},
            tls::{SelfSigned, TlsContext},
        },
    };

    /// A deadline that is reached only if the test fails.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Echo servers on shards that hand over every connection again and again.
    struct Echo {
        id: ShardId,
        shard_count: u16,
        executor: Rc<dyn Executor>,
        mesh: OnceCell<Mesh<Echo>>,
    }

    impl Echo {
        /// Echoes an odd part of the input, then moves to the next shard with the rest unread.
        async fn serve(self: Rc<Self>, mut connection: Connection) -> Result<(), ConnectionError> {
            loop {
                connection.fill(PATIENCE).await?;
                let part = connection.input().len().div_ceil(3);
                let bytes = connection.input()[..part].to_vec();
                connection.consume(part);
                connection.output().extend_from_slice(&bytes);
                connection.flush(PATIENCE).await?;
                while connection.input().len() > 1000 {
                    let bytes = connection.input()[..999].to_vec();
                    connection.consume(999);
                    connection.output().extend_from_slice(&bytes);
                    connection.flush(PATIENCE).await?;
                }
                if self.shard_count > 1 {
                    return self.hand_over(connection).await;
                }
                let rest = connection.input().to_vec();
                connection.consume(rest.len());
                connection.output().extend_from_slice(&rest);
                connection.flush(PATIENCE).await?;
            }
        }

        async fn hand_over(&self, connection: Connection) -> Result<(), ConnectionError> {
            let detached = connection.detach();
            let next = ShardId((self.id.0 + 1) % self.shard_count);
            let moved =
                self.mesh.get().unwrap().call(next, Class::Handover, PATIENCE, move |there| {
                    Box::pin(async move {
                        let mut connection = Connection::attach(detached);
                        let executor = there.executor.clone();
                        let session = async move {
                            let rest = connection.input().to_vec();
                            connection.consume(rest.len());
                            connection.output().extend_from_slice(&rest);
                            if connection.flush(PATIENCE).await.is_ok() {
                                let _ = there.serve(connection).await;
                            }
                        };
                        executor.spawn(Priority::Foreground, Box::pin(session));
                    })
                });
            moved.await.map_err(|_| ConnectionError::ShuttingDown)
        }
    }

    /// Starts `shard_count` shards; shard 0 listens.
    fn start(
        shard_count: u16,
        tls: TlsMode,
        connections_max: usize,
    ) -> (SocketAddr, MeshGate<Echo>, ShardThreads<()>) {
        start_limited(shard_count, tls, connections_max, None)
    }

    fn start_limited(
        shard_count: u16,
        tls: TlsMode,
        connections_max: usize,
        clients: Option<Arc<Clients>>,
    ) -> (SocketAddr, MeshGate<Echo>, ShardThreads<()>) {
        let (seats, gate) = mesh::build::<Echo>(shard_count);
        let listener = BoundListener::bind((Ipv4Addr::LOCALHOST, 0).into(), 64).unwrap();
        let address = listener.local().unwrap();
        let mut listener = Some(listener);
        let starts = seats.into_iter().map(|seat| {
            let (listener, tls, clients) = (listener.take(), tls.clone(), clients.clone());
            move |context: ShardContext| async move {
                let mesh = seat.join(context.executor.clone());
                let echo = Rc::new(Echo {
                    id: context.id,
                    shard_count,
                    executor: context.executor.clone(),
                    mesh: OnceCell::new(),
                });
                let _ = echo.mesh.set(mesh.clone());
                mesh.open(echo.clone());
                if let Some(listener) = listener {
                    let session = move |mut connection: Connection, admission| {
                        let echo = echo.clone();
                        let session = async move {
                            let words: &[u8] = match admission {
                                Admission::Refused => b"421 full\r\n",
                                Admission::ClientRefused(_) => b"421 too many\r\n",
                                Admission::Admitted | Admission::Proxied => b"",
                            };
                            if !words.is_empty() {
                                connection.output().extend_from_slice(words);
                                connection.close().await;
                            } else {
                                let _ = echo.serve(connection).await;
                            }
                        };
                        Box::pin(session) as LocalFuture<'static, ()>
                    };
                    let entrance = Rc::new(Entrance {
                        class: MailClass::Local,
                        tls,
                        clients,
                        proxies: Arc::new([]),
                    });
                    let acceptor = Acceptor { listener, entrance, session: Rc::new(session) };
                    acceptor.run(context.executor.clone()).await;
                }
                while !context.resources.shutting_down() {
                    context.executor.sleep(Duration::from_millis(2)).await;
                }
                mesh.close();
            }
        });
        let limits = ResourceLimits { connections_max, ..ResourceLimits::default() };
        let options = ShardOptions { limits, ..ShardOptions::default() };
        let threads = shard::start(&options, starts.collect()).unwrap();
        (address, gate, threads)
    }

    fn stop(gate: &MeshGate<Echo>, threads: ShardThreads<()>) {
        for shard in 0..gate.shard_count() {
            let shut_down = |_| -> LocalFuture<'static, ()> {
                ShardResources::current().shut_down();
                Box::pin(async {})
            };
            gate.post(ShardId(shard), shut_down).unwrap();
        }
        for result in threads.join() {
            result.unwrap();
        }
    }

    /// A client that sends without ever waiting and checks what comes back.
    fn check_echo(stream: ClientStream, mut tls: Option<ClientConnection>, bytes: usize) {
        let mut stream = stream;
        stream.set_nonblocking(true).unwrap();
        let byte_at = |position: usize| (position * 31 + position / 251) as u8;
        let (mut sent, mut received) = (0, 0);
        let started = Instant::now();
        let mut buffer = [0; 8192];
        while received < bytes {
            assert!(started.elapsed() < PATIENCE, "{sent} sent, {received} received");
            let piece = (sent % 1733 + 1).min(bytes - sent);
            let data: Vec<u8> = (sent..sent + piece).map(byte_at).collect();
            sent += match &mut tls {
                None => stream.write(&data).unwrap_or(0),
                Some(tls) if tls.wants_write() => 0,
                Some(tls) => tls.writer().write(&data).unwrap(),
            };
            let count = match &mut tls {
                None => stream.read(&mut buffer).unwrap_or(0),
                Some(tls) => {
                    let _ = tls.write_tls(&mut stream);
                    let _ = tls.read_tls(&mut stream);
                    tls.process_new_packets().unwrap();
                    tls.reader().read(&mut buffer).unwrap_or(0)
                }
            };
            for &byte in &buffer[..count] {
                assert_eq!(byte, byte_at(received), "at {received}");
                received += 1;
            }
            if count == 0 {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_connection_keeps_its_stream_while_it_moves_between_shards() {
        let made = SelfSigned::generate(&["localhost"]).unwrap();
        let mut roots = RootCertStore::empty();
        let leaf = rustls_pki_types::pem::PemObject::from_pem_slice(made.chain_pem.as_bytes());
        roots.add(leaf.unwrap()).unwrap();
        let context = TlsContext::new(made.certificate().unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = [None, Some(&rustls::version::TLS12), Some(&rustls::version::TLS13)];
        for version in versions {
            let mode = match version {
                None => TlsMode::Off,
                Some(_) => TlsMode::Implicit(context.clone()),
            };
            let (address, gate, threads) = start(2, mode, 100);
            let tls = version.map(|version| {
                let config = ClientConfig::builder_with_provider(provider.clone())
                    .with_protocol_versions(&[version])
                    .unwrap()
                    .with_root_certificates(roots.clone())
                    .with_no_client_auth();
                ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap()
            });
            check_echo(ClientStream::connect(address).unwrap(), tls, 1 << 20);
            stop(&gate, threads);
        }
    }

    #[test]
    fn a_port_is_shared_among_our_shards_only() {
        let any_port = (Ipv4Addr::LOCALHOST, 0).into();
        let first = BoundListener::bind(any_port, 16).unwrap();
        let address = first.local().unwrap();
        let second = BoundListener::bind(address, 16).unwrap();
        let second_server = BoundListener::refuse_if_taken(address);
        assert_eq!(second_server.err().map(|e| e.kind()), Some(io::ErrorKind::AddrInUse));
        drop((first, second));
        BoundListener::refuse_if_taken(address).unwrap();
    }

    /// A silent client meets its deadline; one within its deadline is told of the shutdown.
    #[test]
    fn deadlines_pass_and_shutdown_reaches_idle_sessions() {
        let any_port = (Ipv4Addr::LOCALHOST, 0).into();
        let listener = BoundListener::bind(any_port, 16).unwrap();
        let address = listener.local().unwrap();
        let (shut_down, wish) = crossbeam_channel::bounded::<()>(1);
        let life = move |context: ShardContext| async move {
            let session = |mut connection: Connection, _| {
                let session = async move {
                    let mut timeout = PATIENCE;
                    let reason = loop {
                        match connection.fill(timeout).await {
                            Ok(()) => timeout = Duration::from_millis(1),
                            Err(reason) => break reason,
                        }
                        connection.consume(usize::MAX);
                    };
                    connection.output().extend_from_slice(reason.to_string().as_bytes());
                    connection.close().await;
                };
                Box::pin(session) as LocalFuture<'static, ()>
            };
            let session = Rc::new(session);
            let proxies = Arc::new([]);
            let entrance = Rc::new(Entrance {
                class: MailClass::Inbound,
                tls: TlsMode::Off,
                clients: None,
                proxies,
            });
            let acceptor = Acceptor { listener, entrance, session };
            context
                .executor
                .spawn(Priority::Foreground, Box::pin(acceptor.run(context.executor.clone())));
            while wish.try_recv().is_err() {
                context.executor.sleep(Duration::from_millis(2)).await;
            }
            context.resources.shut_down();
            while context.resources.connection_count() > 0 {
                context.executor.sleep(Duration::from_millis(2)).await;
            }
        };
        let threads = shard::start(&ShardOptions::default(), vec![life]).unwrap();
        let read_all = |mut client: ClientStream| {
            let mut text = String::new();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.read_to_string(&mut text).unwrap();
            text
        };
        let idle = ClientStream::connect(address).unwrap();
        let mut silent = ClientStream::connect(address).unwrap();
        silent.write_all(b"now I say nothing more").unwrap();
        assert_eq!(read_all(silent), "timed out");
        shut_down.send(()).unwrap();
        assert_eq!(read_all(idle), "shutting down");
        assert!(threads.join().into_iter().all(|life| life.is_ok()));
        assert!(ClientStream::connect(address).is_err(), "nobody listens any more");
    }

    /// Set in the child process of `running_out_of_descriptors_passes`: the file for its address.
    const CHILD: &str = "RINGMAIL_TEST_FEW_DESCRIPTORS";

    /// The server is a process of its own with few descriptors. Further clients are closed or wait;
    /// once the others are gone, it serves again.
    #[test]
    fn running_out_of_descriptors_passes() {
        if let Some(file) = std::env::var_os(CHILD) {
            return serve_with_few_descriptors(file.as_ref());
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("address");
        let server = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "runtime::acceptor::tests::running_out_of_descriptors_passes"])
            .env(CHILD, &file)
            .stdout(std::process::Stdio::null())
            .spawn();
        let _server = KilledOnDrop(server.unwrap());
        let started = Instant::now();
        let address: SocketAddr = loop {
            assert!(started.elapsed() < PATIENCE);
            match std::fs::read_to_string(&file).map(|text| text.parse()) {
                Ok(Ok(address)) => break address,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let greeted = |client: &mut ClientStream| {
            let mut echoed = [0; 2];
            client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            client.write_all(b"hi").is_ok() && client.read_exact(&mut echoed).is_ok()
        };
        let mut clients: Vec<_> =
            (0..80).map(|_| ClientStream::connect(address).unwrap()).collect();
        let served = clients.iter_mut().filter_map(|client| greeted(client).then_some(())).count();
        assert!((1..64).contains(&served), "{served} of 80 served with 64 descriptors");
        drop(clients);
        while !greeted(&mut ClientStream::connect(address).unwrap()) {
            assert!(started.elapsed() < PATIENCE);
        }
    }

    struct KilledOnDrop(std::process::Child);

    impl Drop for KilledOnDrop {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn serve_with_few_descriptors(file: &std::path::Path) {
        use nix::sys::resource::{Resource, setrlimit};
        setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
        let (address, _gate, threads) = start(1, TlsMode::Off, 1000);
        std::fs::write(file, address.to_string()).unwrap();
        // Until the parent kills us, or, without a parent, the harness gives up.
        threads.join();
    }

    /// The count moves with the connection, from shard to shard, and ends with it.
    #[test]
    fn a_client_at_its_limit_is_refused_in_words_and_served_again() {
        let address = ClientShare { connections: 2, strangers: 2, new_per_second: 0 };
        let limits = ClientLimits { address, allow: Vec::new(), ..ClientLimits::default() };
        let clients = Clients::new(limits);
        let (address, gate, threads) = start_limited(2, TlsMode::Off, 100, Some(clients));
        let mut echoed = [0; 2];
        let mut served: Vec<_> = (0..2).map(|_| ClientStream::connect(address).unwrap()).collect();
        for turn in 0..8 {
            let stream = &mut served[turn % 2];
            stream.write_all(b"hi").unwrap();
            stream.read_exact(&mut echoed).unwrap();
        }
        let mut text = String::new();
        ClientStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "421 too many\r\n");
        served.pop();
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < PATIENCE);
            let mut again = ClientStream::connect(address).unwrap();
            again.write_all(b"hi").unwrap();
            if again.read_exact(&mut echoed).is_ok() && &echoed == b"hi" {
                break;
            }
        }
        stop(&gate, threads);
    }

    #[test]
    fn a_full_shard_refuses_in_words_and_serves_again() {
        let (address, gate, threads) = start(1, TlsMode::Off, 2);
        let mut first = ClientStream::connect(address).unwrap();
        let mut echoed = [0; 2];
        first.write_all(b"hi").unwrap();
        first.read_exact(&mut echoed).unwrap();
        let mut second = ClientStream::connect(address).unwrap();
        second.write_all(b"hi").unwrap();
        second.read_exact(&mut echoed).unwrap();
        let mut third = ClientStream::connect(address).unwrap();
        let mut text = String::new();
        third.read_to_string(&mut text).unwrap();
        assert_eq!(text, "421 full\r\n");
        drop(first);
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < PATIENCE);
            let mut again = ClientStream::connect(address).unwrap();
            again.write_all(b"hi").unwrap();
            if again.read_exact(&mut echoed).is_ok() && &echoed == b"hi" {
                break;
            }
        }
        stop(&gate, threads);
    }
}
