//! Commands about annotations of mailboxes and of the server (RFC 5464 4).

pub mod entry;
pub mod get_metadata;
pub mod set_metadata;
