//! One account in memory: its names, its mailboxes, their messages; pending and published.
//!
//! Owns what is true of the account, and how its page and its tables are made of that and read back.
//! Does no I/O and never waits: the rooms above append the entries, and call `stage` and `publish`.
//! Knows `format` and the values.

pub(crate) mod annotations;
pub(crate) mod cards;
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
