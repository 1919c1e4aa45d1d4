//! Flags as clients send them (RFC 3501 9 `flag-list`), in STORE and APPEND.

use super::cursor::{Cursor, Parsed};
use crate::model::{Flags, KEYWORDS_PER_MAILBOX_MAX};

/// Longest keyword a client may make, octets.
const KEYWORD_MAX: usize = 100;

/// Flags sent by a client. `\Recent` is never among them: clients cannot alter it (RFC 3501 2.3.2).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FlagList<'a> {
    pub system: Flags,
    /// As sent, each once (compared without case).
    pub keywords: Vec<&'a str>,
}

impl<'a> Cursor<'a> {
    /// A flag list in parentheses.
    pub(super) fn flag_list(&mut self) -> Parsed<FlagList<'a>> {
        let mut flags = FlagList::default();
        self.list(true, "a flag list is missing", |cursor| cursor.flag(&mut flags))?;
        Ok(flags)
    }

    /// One flag, added to `flags`.
    pub(super) fn flag(&mut self, flags: &mut FlagList<'a>) -> Parsed<()> {
        if !self.eat(b'\\') {
            return push_keyword(&mut flags.keywords, self.keyword()?);
        }
        let name = self.atom()?;
        let known = [
            ("Seen", Flags::SEEN),
            ("Answered", Flags::ANSWERED),
            ("Flagged", Flags::FLAGGED),
            ("Deleted", Flags::DELETED),
            ("Draft", Flags::DRAFT),
        ];
        if name.eq_ignore_ascii_case("Recent") {
            return Err("\\Recent is set and cleared by the server only");
        }
        let found = known.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        flags.system |= found.ok_or("unknown system flag")?.1;
        Ok(())
    }

    pub(super) fn keyword(&mut self) -> Parsed<&'a str> {
        let keyword = self.atom()?;
        if keyword.len() > KEYWORD_MAX { Err("keyword too long") } else { Ok(keyword) }
    }
}

/// Adds a keyword unless it is already there, ignoring case.
fn push_keyword<'a>(keywords: &mut Vec<&'a str>, keyword: &'a str) -> Parsed<()> {
    if keywords.iter().any(|known| known.eq_ignore_ascii_case(keyword)) {
        return Ok(());
    }
    if keywords.len() == KEYWORDS_PER_MAILBOX_MAX {
        return Err("too many keywords");
    }
    keywords.push(keyword);
    Ok(())
}
