//! When things run: executors, connections, timers, the mesh between shards, devices.
//!
//! `glommio::` is named only below this folder. Everything above uses the traits and types here, so
//! that the store runs under the simulator (`simulation`) exactly as in production.

pub mod acceptor;
pub mod answer;
pub mod bell;
pub mod budget;
pub mod channel_binding;
pub mod client_certificate;
pub mod clients;
mod commit;
pub mod connect;
pub mod connection;
pub mod device;
pub mod executor;
pub mod flight;
pub mod folder;
mod helpers;
pub mod host;
pub mod latest;
pub mod mesh;
pub mod pipe;
pub mod privilege;
pub mod resources;
pub mod shard;
pub mod signal;
pub mod simulation;
pub mod stream;
pub mod timer;
pub mod tls;
pub mod tls_client;
pub mod wait;
pub mod worker;

mod background;
mod deflate;
mod idleness;
mod layers;
mod readiness;
mod tls_session;
mod transport;
mod write_ring;

use std::{future::Future, pin::Pin};

/// A boxed future that never leaves its shard.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
