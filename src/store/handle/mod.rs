//! What services hold: an account, a view of one of its mailboxes, the result of a
//! delivery, and of an attempt to deliver a queued message.
//!
//! Each command decides on pending state, commits one entry and returns once that is durable and
//! published.

mod access;
pub(super) mod account;
pub(super) mod annotations;
pub(super) mod copying;
pub(super) mod delivery;
pub(super) mod metadata;
pub(super) mod moves;
pub(super) mod queue;
pub(super) mod quota;
pub(super) mod replacing;
pub(super) mod seen;
pub(super) mod shipment;
pub(super) mod unsettled;
pub(super) mod url_keys;
pub(super) mod view;
