//! Commands on whole mailboxes and their names (RFC 3501 6.3, 6.4.1, 6.4.2): opening and leaving
//! one, creating, renaming and listing them, appending a message.

pub mod append;
pub mod check;
pub mod close;
pub mod create;
pub mod delete;
pub mod list;
pub mod lsub;
pub mod rename;
pub mod select;
pub mod status;
pub mod subscribe;
