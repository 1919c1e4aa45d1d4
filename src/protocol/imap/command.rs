//! A complete command: a frame's octets to a [`Command`] that borrows them (RFC 3501 9).
//!
//! Called by `service::imap` with the frames that [`super::Framer`] found. The rows of
//! [`super::table`] say which file parses the arguments of a name. The grammar is applied strictly
//! (CRLF, no unknown words), except for spaces: where one is allowed there may be more, also inside
//! parentheses and at the end of a line. Every error says what was wrong. Only SEARCH recurses,
//! with a limit; every list has a named limit.
//!
//! Everything borrows the command's bytes in the connection's buffer; a string is owned only if a
//! quoted string had escapes. The service explicitly copies values that must survive an await on
//! the connection.
//!
//! Invariants: no value is nested deeper than [`super::Limits`] allows, so dropping and walking it
//! recursively is safe; flags and keywords are ASCII; numbers of a [`super::SequenceSet`] are not
//! 0.

use std::borrow::Cow;

use super::{
    cursor::{Cursor, Parsed, Quoted, UNKNOWN_ITEM, UNKNOWN_KEY, UNKNOWN_KEY_OR_ARGUMENT},
    table::CommandBody,
};

/// `command = tag SP (command-any / command-auth / command-nonauth / command-select) CRLF`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command<'a> {
    pub tag: &'a str,
    pub body: CommandBody<'a>,
}

/// Why a command was not understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError<'a> {
    /// `None` if not even the tag could be parsed: answer `* BAD`.
    pub tag: Option<&'a str>,
    /// Suitable as the text of `BAD`.
    pub what: &'static str,
    /// The word of a search or a fetch that is not known.
    pub word: Option<&'a str>,
}

impl ParseError<'_> {
    /// The text of `BAD`.
    pub fn text(&self) -> Cow<'static, str> {
        match self.word {
            Some(word) => format!("{}: {word}", self.what).into(),
            None => self.what.into(),
        }
    }
}

/// Parses the command in `frame` ([`super::Frame::Command`] or [`super::Frame::Part`]).
pub fn parse(frame: &[u8]) -> Result<Command<'_>, ParseError<'_>> {
    parse_with(Quoted::default(), frame)
}

/// [`parse`], for a client that has or has not said what its quoted strings contain.
pub fn parse_with(quoted: Quoted, frame: &[u8]) -> Result<Command<'_>, ParseError<'_>> {
    let mut cursor = Cursor::new(strip_line_end(frame)).with_quoted(quoted);
    let tag = cursor.tag().map_err(|what| ParseError { tag: None, what, word: None })?;
    let error = |what| ParseError { tag: Some(tag), what, word: None };
    if !frame.ends_with(b"\r\n") {
        return Err(error("a line must end in CRLF"));
    }
    let body = command_body(&mut cursor).map_err(|what| {
        let is_word = [UNKNOWN_KEY, UNKNOWN_KEY_OR_ARGUMENT, UNKNOWN_ITEM].contains(&what);
        ParseError { word: cursor.last_word().filter(|_| is_word), ..error(what) }
    })?;
    cursor.end().map_err(error)?;
    Ok(Command { tag, body })
}

/// The tag at the start of a command that is not (or cannot be) parsed.
pub fn tag_of(frame: &[u8]) -> Option<&str> {
    Cursor::new(strip_line_end(frame)).tag().ok()
}

fn strip_line_end(frame: &[u8]) -> &[u8] {
    let line = frame.strip_suffix(b"\n").unwrap_or(frame);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn command_body<'a>(cursor: &mut Cursor<'a>) -> Parsed<CommandBody<'a>> {
    cursor.space().map_err(|_| "a command name is missing after the tag")?;
    let name = cursor.word().map_err(|_| "unknown command")?;
    if name.as_bytes() != b"UID" {
        return CommandBody::parse(name.as_bytes(), false, cursor).ok_or("unknown command")?;
    }
    // RFC 3501 6.4.8
    cursor.arguments()?;
    let name = cursor.word().map_err(|_| "unknown UID command")?;
    CommandBody::parse(name.as_bytes(), true, cursor).ok_or("unknown UID command")?
}
