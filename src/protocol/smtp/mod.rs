//! SMTP and LMTP without I/O: commands, addresses, replies, the text of a message, and the session
//! that says what is legal when (RFC 5321, RFC 2033 and the extensions named in each file).

pub mod address;
pub mod command;
pub mod data;
pub mod parameter;
