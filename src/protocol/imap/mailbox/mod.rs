//! Syntax of the commands about mailboxes and their names (RFC 3501 6.3).

pub(super) mod list;
