//! IMAP4rev1 (RFC 3501) and its extensions: commands in, responses out, no I/O.
//!
//! `service::imap` uses it as follows: [`Framer::next`] finds the end of a command in the
//! connection's input; [`parse`] makes a [`Command`] of those bytes without copying them;
//! [`CommandBody::row`] says in which [`State`]s it is allowed; [`Writer`] and [`FetchResponse`]
//! append responses to the connection's output.

pub mod access;
mod arguments;
pub mod authentication;
mod batches;
mod capability;
mod command;
mod cursor;
mod date;
mod fetch_response;
mod flag_list;
mod frame;
mod literal;
pub mod mailbox;
pub mod message;
pub mod metadata;
mod name;
mod object_id;
mod pattern;
pub mod quota;
mod response;
mod sequence;
pub mod session;
mod state;
mod structure;
mod table;
#[cfg(test)]
mod tests;
mod upload;
mod url;
pub mod url_auth;
pub mod urls;
mod vanished;
mod write;

pub use batches::Batches;
pub use capability::{Announced, Capabilities};
pub use command::{Command, ParseError, parse, parse_with, tag_of};
pub use cursor::{Quoted, Text};
pub use fetch_response::{FetchResponse, Naming};
pub use flag_list::FlagList;
pub use frame::{Frame, Framer, Limits};
pub use literal::Literal;
pub use name::{MailboxName, NameError, NameForm, SEPARATOR, new_name};
pub use object_id::ObjectId;
pub use pattern::{ListPattern, PATTERN_MAX};
pub use response::{
    Attributes, Code, ListItem, ResultChange, SearchResult, Status, StatusValues, Writer,
};
pub use sequence::{Ranges, SequenceSet, SetError, write_set};
pub use state::State;
pub use structure::{DecodedPart, WrittenParts};
pub(crate) use table::command_table;
pub use table::{COMMANDS, Capability, CommandBody, CommandKind, CommandRow, Updates};
pub use upload::{UploadPart, UploadPlace, UploadStep};
pub use url::{MessageUrl, Server as UrlServer};
pub use vanished::Vanished;
