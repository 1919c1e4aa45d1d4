//! IMAP4rev1 (RFC 3501) and its extensions: commands in, responses out, no I/O.
//!
//! `service::imap` calls it so: [`Framer::next`] finds where a command ends in the connection's
//! input; [`parse`] makes a [`Command`] of those bytes without copying them; [`CommandBody::row`]
//! says in which [`State`]s it is allowed; [`Writer`] and [`FetchResponse`] append responses to the
//! connection's output.

mod command;
mod cursor;
mod date;
mod fetch_response;
mod frame;
mod mailbox;
mod message;
mod name;
mod parse;
mod pattern;
mod response;
mod sequence;
mod state;
mod structure;
mod write;

pub use command::{
    Append, Command, CommandBody, DateTest, Fetch, FetchItem, FlagList, List, ListReturn,
    ListSelection, Partial, Search, SearchKey, SearchReturn, Section, SectionPart, StatusItems,
    Store, Text,
};
pub use fetch_response::FetchResponse;
pub use frame::{Frame, Framer, Limits};
pub use name::{MailboxName, NameError, SEPARATOR};
pub use parse::{ParseError, parse, tag_of};
pub use pattern::{ListPattern, PATTERN_MAX};
pub use response::{
    Attributes, Code, ListItem, SearchResult, Status, StatusValues, Writer, write_ranges,
};
pub use sequence::{Ranges, SequenceSet, SetError, write_set};
pub use state::{COMMANDS, CommandKind, CommandRow, State, capability};
