//! The command parser.

use super::command::Command;

/// Why a command was not understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError<'a> {
    /// `None` if not even the tag could be read: answer `* BAD`.
    pub tag: Option<&'a str>,
    /// Fit for the text of `BAD`.
    pub what: &'static str,
}

/// Reads the command that is `frame` ([`super::Frame::Command`] or [`super::Frame::Append`]).
pub fn parse(_frame: &[u8]) -> Result<Command<'_>, ParseError<'_>> {
    todo!()
}

/// The tag at the start of a command that is not (or cannot be) parsed.
pub fn tag_of(_frame: &[u8]) -> Option<&str> {
    todo!()
}
