//! Commands about mailboxes as wholes and about their names (RFC 3501 6.3, 6.4.1, 6.4.2): opening
//! and leaving one, making, renaming and listing them, putting a message in.

mod append;
mod check;
mod close;
mod create;
mod delete;
mod list;
mod lsub;
mod names;
mod rename;
mod select;
mod status;
mod subscribe;
