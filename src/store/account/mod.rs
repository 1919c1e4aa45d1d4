//! One account in memory: its names, its mailboxes, their messages; pending and published.
//!
//! Owns the account's state, and the encoding and decoding of its page and tables. Does no I/O and
//! never waits: the rooms above append the entries, and call `stage` and `publish`. Knows `format`
//! and the values.

pub(crate) mod annotations;
pub(crate) mod cards;
pub(crate) mod changes;
pub(crate) mod holding;
pub(crate) mod mailbox;
pub(crate) mod namespace;
pub(crate) mod page;
pub(crate) mod properties;
pub(crate) mod runs;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod tombstones;
pub(crate) mod watchers;
