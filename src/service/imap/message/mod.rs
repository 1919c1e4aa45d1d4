//! Commands on messages of the selected mailbox (RFC 3501 6.4).

pub(super) mod copy;
pub(super) mod expunge;
pub(super) mod fetch;
pub(super) mod search;
pub(super) mod store;

mod reader;
mod search_key;
