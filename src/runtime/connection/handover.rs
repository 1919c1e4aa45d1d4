//! A connection that moves to another shard, with all that was received and not consumed.

use std::{net::SocketAddr, sync::Arc};

use super::{
    super::{
        clients::Visit,
        layers::{DetachedLayers, Layers},
        resources::PooledBuffer,
        tls::TlsContext,
        transport::{DetachedTransport, Transport},
    },
    Connection, Seat,
};
use crate::model::{MailClass, Trail};

impl Connection {
    /// Takes the connection apart for another shard. Only when `output()` is empty.
    pub fn detach(mut self) -> DetachedConnection {
        debug_assert_eq!(self.output.bytes().len(), self.taken, "detached with unsent output");
        self.compact_input();
        let mut sealed = self.sealed.into_vec();
        sealed.drain(..self.sealed_sent);
        DetachedConnection {
            transport: self.transport.detach(),
            peer: self.peer,
            layers: self.layers.detach(),
            upgrade: self.upgrade,
            input: self.input.into_vec(),
            sealed,
            is_deflated: self.is_deflated,
            ended: self.ended,
            broken: self.broken,
            interruptible: self.interruptible,
            visit: self.visit,
            trail: self.trail,
            logged_in: self.seat.resources.buffers().is_logged_in(self.seat.holder),
            class: self.seat.class,
        }
    }

    /// Makes a detached connection this shard's. It counts in the shard's connections, whose limit
    /// the caller has checked before (`ShardResources::connections_full`).
    pub fn attach(detached: DetachedConnection) -> Connection {
        let mut connection = Self::new(Transport::attach(detached.transport), detached.peer);
        connection.seat.set_class(detached.class);
        let Seat { resources, holder, .. } = &connection.seat;
        connection.input = PooledBuffer::from_vec(detached.input, resources, *holder);
        connection.layers = Layers::attach(detached.layers, resources, *holder);
        connection.sealed = PooledBuffer::from_vec(detached.sealed, resources, *holder);
        connection.visit = detached.visit;
        connection.trail = detached.trail;
        connection.set_logged_in(detached.logged_in);
        connection.upgrade = detached.upgrade;
        connection.is_deflated = detached.is_deflated;
        connection.ended = detached.ended;
        connection.broken = detached.broken;
        connection.interruptible = detached.interruptible;
        connection
    }
}

/// A connection between two shards: descriptor, layers with their unprocessed input, unread input.
pub struct DetachedConnection {
    transport: DetachedTransport,
    peer: SocketAddr,
    layers: DetachedLayers,
    upgrade: Option<Arc<TlsContext>>,
    input: Vec<u8>,
    sealed: Vec<u8>,
    is_deflated: bool,
    ended: bool,
    broken: bool,
    interruptible: bool,
    logged_in: bool,
    class: MailClass,
    visit: Option<Box<Visit>>,
    trail: Trail,
}

const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<DetachedConnection>();
};
