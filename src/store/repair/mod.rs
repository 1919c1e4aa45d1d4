//! Reading a log when a partition opens, and repairing one that is damaged or failed.
//!
//! `load` reads the last checkpoint and later entries, `rebuild` everything if that is damaged;
//! `reopen` puts a partition back in service after a failed write; `verify` looks for damage;
//! `upgrade` moves format 1's spool to the queue.

pub(super) mod load;
mod rebuild;
pub(super) mod reopen;
mod upgrade;
pub(super) mod verify;
