//! What is read of a log when a partition opens, and what is done when it is not as it should be.
//!
//! `load` reads the last checkpoint and what came after, `rebuild` everything if that is damaged; `reopen`
//! puts a partition back in service after a failed write; `verify` looks for damage;
//! `upgrade` moves what format 1 kept elsewhere.

pub(super) mod load;
mod rebuild;
pub(super) mod reopen;
mod upgrade;
pub(super) mod verify;
