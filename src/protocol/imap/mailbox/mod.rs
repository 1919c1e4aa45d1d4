//! Commands about mailboxes as wholes and about their names (RFC 3501 6.3, 6.4.1, 6.4.2): opening
//! and leaving one, making, renaming and listing them, putting a message in.

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
