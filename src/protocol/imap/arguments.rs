//! What the table of commands asks of a command's value.
//!
//! Implemented in each command's file; called by [`super::table`] and, for streamed literals, by
//! [`super::frame`].

use super::cursor::{Cursor, Parsed};

/// The value of a command, read off what follows its name.
pub(super) trait Arguments<'a>: Sized {
    /// `uid`: the name stands behind `UID` (RFC 3501 6.4.8); only of commands whose row has that
    /// form. Begins at the end of the name, so that a command may have no arguments.
    fn parse(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Self>;

    /// It was the `UID` form.
    fn uid(&self) -> bool {
        false
    }

    /// A [`Streams`], for commands that carry messages; the others' literals are all part of them.
    fn streams(_first: bool, _before: &[u8]) -> bool {
        false
    }
}

/// Whether a literal of a command is streamed. `before` is what stands before the literal: of the
/// arguments if none was streamed yet (`first`), else of the part since the last one.
pub(super) type Streams = fn(first: bool, before: &[u8]) -> bool;
