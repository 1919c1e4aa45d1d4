//! Commands about mailboxes and their names (RFC 3501 6.3), and those that leave one.

pub(super) mod append;
pub(super) mod folder;
pub(super) mod list;
pub(super) mod select;
pub(super) mod status;
