//! What SEARCH and SORT return (RFC 4731 3.1, RFC 5182, RFC 5267 3 and 4, RFC 9394 3.1).

use super::super::cursor::{Cursor, Parsed};

/// The options of `RETURN (…)`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SearchReturn {
    pub min: bool,
    pub max: bool,
    pub all: bool,
    pub count: bool,
    /// Keep the result for `$` (RFC 5182 2.1).
    pub save: bool,
}

impl SearchReturn {
    /// `SAVE` alone: nothing is answered (RFC 5182 2.1).
    pub fn is_silent(self) -> bool {
        self == SearchReturn { save: true, ..SearchReturn::default() }
    }

    /// `RETURN (…)`, if it is next; an empty list means ALL.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Parsed<Option<SearchReturn>> {
        if !cursor.eat_all(b"RETURN ") {
            return Ok(None);
        }
        cursor.spaces();
        let mut returns = SearchReturn::default();
        cursor.list(true, "return options are missing", |cursor| returns.read_option(cursor))?;
        cursor.space()?;
        if returns == SearchReturn::default() {
            returns.all = true;
        }
        Ok(Some(returns))
    }

    /// A repeated option counts once.
    fn read_option(&mut self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        let option = match cursor.word()?.as_bytes() {
            b"MIN" => &mut self.min,
            b"MAX" => &mut self.max,
            b"ALL" => &mut self.all,
            b"COUNT" => &mut self.count,
            b"SAVE" => &mut self.save,
            _ => return Err("unknown return option"),
        };
        *option = true;
        Ok(())
    }
}
