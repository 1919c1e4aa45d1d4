//! Searching the selected mailbox: for the commands that find messages, for FETCH, which reads them
//! likewise, and for clients that are told what a search finds later (RFC 5267 4.3).

mod column;
mod compile;
mod order;
mod scan;
mod threading;
mod threads;

pub(super) use compile::compile;
pub(super) use order::{places, sort};
pub(super) use scan::{Hit, scan_among};
pub(super) use threads::thread;
