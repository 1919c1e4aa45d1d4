//! Outgoing connections: how a shard connects to another host without waiting for it.
//!
//! A [`Dialer`] makes connections: [`Sockets`] those of the host, a test's or the simulator's own
//! ones over memory. An outgoing connection counts in the shard's connections, as it needs a
//! descriptor, but in no client's limits. At the limit on buffers, connections of strangers give
//! way before it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::Path,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{
    LocalFuture,
    connection::{Connection, ConnectionError},
    resources::ShardResources,
    transport::MEMORY_ADDRESS,
};
use crate::model::MailClass;

/// Makes outgoing connections.
pub trait Dialer {
    /// Connects to `address`, from `source` if one is given, within `timeout`.
    fn dial(
        &self,
        address: SocketAddr,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> LocalFuture<'_, Result<Connection, ConnectionError>>;

    /// Connects to the socket at `path`, on this host.
    fn dial_path<'a>(
        &'a self,
        path: &'a Path,
        _timeout: Duration,
    ) -> LocalFuture<'a, Result<Connection, ConnectionError>> {
        let text = format!("{}: no sockets of this host", path.display());
        let error = io::Error::new(io::ErrorKind::Unsupported, text);
        Box::pin(std::future::ready(Err(ConnectionError::Io(error))))
    }
}

/// Those of the host: TCP, and its own (`AF_UNIX`).
#[derive(Clone, Copy, Default, Debug)]
pub struct Sockets;

impl Dialer for Sockets {
    fn dial(
        &self,
        address: SocketAddr,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> LocalFuture<'_, Result<Connection, ConnectionError>> {
        Box::pin(Connection::connect(address, source, timeout))
    }

    fn dial_path<'a>(
        &'a self,
        path: &'a Path,
        timeout: Duration,
    ) -> LocalFuture<'a, Result<Connection, ConnectionError>> {
        Box::pin(Connection::connect_path(path, timeout))
    }
}

impl Connection {
    /// Connects to `address`, from `source` if one is given (of the same family), within `timeout`.
    ///
    /// # Errors
    /// If the host refuses, does not answer in time or cannot be reached, or if the shard has no
    /// descriptor to spare.
    pub async fn connect(
        address: SocketAddr,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> Result<Connection, ConnectionError> {
        if ShardResources::current().connections_full(MailClass::Local) {
            return Err(ConnectionError::Io(io::Error::from_raw_os_error(libc::EMFILE)));
        }
        let mut connection = Connection::outgoing(begin(address, source)?, address);
        connection.finish_connecting(timeout).await?;
        Ok(connection)
    }
}

impl Connection {
    /// Connects to the socket at `path`. It has no address: its peer is [`MEMORY_ADDRESS`].
    ///
    /// # Errors
    /// If nobody listens there or may be connected to, or too many wait to be accepted; or if the
    /// shard has no descriptor to spare.
    pub async fn connect_path(
        path: &Path,
        timeout: Duration,
    ) -> Result<Connection, ConnectionError> {
        if ShardResources::current().connections_full(MailClass::Local) {
            return Err(ConnectionError::Io(io::Error::from_raw_os_error(libc::EMFILE)));
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        // Connected at once, or refused, or (EAGAIN) there is no place in the queue of the
        // listener.
        socket.connect(&SockAddr::unix(path)?)?;
        let mut connection = Connection::outgoing(socket.into(), MEMORY_ADDRESS);
        connection.finish_connecting(timeout).await?;
        Ok(connection)
    }
}

/// A socket that is being connected.
fn begin(address: SocketAddr, source: Option<IpAddr>) -> io::Result<OwnedFd> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        // The port is chosen when the peer is known: ports can then be shared by connections to
        // different peers.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}
