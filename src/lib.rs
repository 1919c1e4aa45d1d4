//! Ringmail: a thread-per-core mail gateway and mailbox server on io_uring.
//!
//! The modules below are in layer order: imports point down this list, never up, and modules on one
//! line never import each other (`tests/tidy.rs` checks this).
//!
//! ```text
//! model, metrics, plant
//! events                  what happened, as lines of JSON for the operator
//! protocol | runtime      pure parsers and sessions | executors, connections, devices
//! store                   the partition log: what is durable
//! search | queue | directory | resolver
//! service                 what is wanted: one session loop per protocol
//! admin | control         HTTP, control socket (tokio thread)
//! config                  file -> each module's own Options
//! main, cli               arguments -> config -> shards -> exit code
//! ```
//!
//! Protocol decides what is legal, service what is wanted, store what is durable, runtime when it
//! runs. `docs/architecture.md` is the longer map.

// No byte from the network or the disk may cause a panic, since a panic ends the process. Code that
// cannot fail has an `allow` with the reason (docs/contributing.md).
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]
// Items outside the public interface are `pub(crate)`, so that the compiler finds unused ones.
#![warn(unreachable_pub)]

pub mod admin;
pub mod config;
pub mod control;
pub mod directory;
pub mod dkim;
pub mod events;
pub mod metrics;
pub mod model;
pub mod plant;
pub mod protocol;
pub mod queue;
pub mod resolver;
pub mod runtime;
pub mod server;
pub mod service;
pub mod store;

/// Planted bugs (`plant`) exist in unit tests only; the simulator has its own crate root.
const PLANTS_LIVE: bool = cfg!(test);

/// What tests of the whole need that live in this crate, because mistakes can be planted only here.
#[cfg(test)]
#[path = "../tests/transcript/mod.rs"]
mod transcript;
#[cfg(test)]
#[path = "../tests/world/mod.rs"]
mod world;
/// For these two, which other tests use too.
#[cfg(test)]
extern crate self as ringmail;
