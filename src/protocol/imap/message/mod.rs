//! Syntax of the commands on messages of the selected mailbox (RFC 3501 6.4).

pub(super) mod fetch;
pub(super) mod search;
