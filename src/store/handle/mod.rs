//! What services hold: an account, a view of one of its mailboxes, and the result of a delivery.
//!
//! Each command decides on pending state, commits one entry and returns once that is durable and
//! published.

pub(super) mod account;
pub(super) mod annotations;
pub(super) mod delivery;
pub(super) mod view;
