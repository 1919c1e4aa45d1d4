//! The control socket: how `ringmail user` and its like talk to a running server.
//!
//! One line in, one line out, over a Unix socket in the data directory that its owner alone can
//! open: `reload` answers `ok` or `error: why`.

mod socket;

pub use socket::{Handler, bind, request, serve};
