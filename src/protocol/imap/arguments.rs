//! The interface between the table of commands and a command's value.
//!
//! Implemented in each command's file; called by [`super::table`] and, for streamed literals, by
//! [`super::frame`].

use super::cursor::{Cursor, Parsed};

/// The value of a command, parsed from the text after its name.
pub(super) trait Arguments<'a>: Sized {
    /// `uid`: the name follows `UID` (RFC 3501 6.4.8); only for commands whose row has that form.
    /// Parsing begins at the end of the name, since a command may have no arguments.
    fn parse(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Self>;

    /// Whether it was the `UID` form.
    fn uid(&self) -> bool {
        false
    }

    /// Whether its arguments, or the answer to it, name messages by their numbers: refused where
    /// the client uses UIDs only (RFC 9586 3).
    fn uses_numbers(&self) -> bool {
        false
    }

    /// A [`Streams`], for commands that carry messages; literals of other commands are part of the
    /// command.
    fn streams(_first: bool, _before: &[u8]) -> bool {
        false
    }
}

/// Whether a literal of a command is streamed. `before` is the text before the literal: from the
/// start of the arguments if none was streamed yet (`first`), otherwise since the last streamed
/// one.
pub(super) type Streams = fn(first: bool, before: &[u8]) -> bool;
