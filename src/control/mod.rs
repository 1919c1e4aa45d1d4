//! The control socket: how `ringmail user` and its like talk to a running server.
//!
//! One line in, over a Unix socket in the data directory that its owner alone can open, and one or
//! many out: `reload` answers `ok` or `error: why`; `verify` and `verify repair` answer with the
//! lines of `server::examine` as they come, `block list` and `block lift ...` with those of
//! `server::blocks`.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod socket;

pub use socket::{Asker, Handler, Reply, TIMEOUT, bind, path, request, serve, stream};
