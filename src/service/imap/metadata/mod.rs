//! Commands about annotations of mailboxes and of the server (RFC 5464 4).

mod get_metadata;
mod set_metadata;
