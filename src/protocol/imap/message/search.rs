//! Arguments of SEARCH (RFC 3501 6.4.4, RFC 4731, RFC 7162 3.1.5).
//!
//! NOT, OR and parentheses nest by recursion, at most [`DEPTH_MAX`] deep: fifteen thousand NOTs
//! cost a hundred steps and a BAD.

use std::borrow::Cow;

use super::super::{
    command::{DateTest, Search, SearchKey, SearchReturn, Text},
    cursor::{Cursor, Parsed},
};
use crate::model::Flags;

/// How deep keys may nest.
const DEPTH_MAX: usize = 100;
/// Keys in one SEARCH.
const KEYS_MAX: usize = 1_000;

pub(crate) fn search<'a>(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Search<'a>> {
    let mut returns = None;
    if cursor.eat_all(b"RETURN ") {
        cursor.spaces();
        returns = Some(return_options(cursor)?);
        cursor.space()?;
    }
    let mut charset = None;
    if cursor.eat_all(b"CHARSET ") {
        cursor.spaces();
        charset = Some(cursor.astring()?);
        cursor.space()?;
    }
    let mut keys = Keys { cursor, count: 0 };
    let key = keys.list(0)?;
    Ok(Search { uid, returns, charset, key })
}

/// RFC 4731 3.1; an empty list means ALL.
fn return_options(cursor: &mut Cursor<'_>) -> Parsed<SearchReturn> {
    let mut returns = SearchReturn::default();
    cursor.list(true, "return options are missing", |cursor| {
        let option = match cursor.word()?.as_bytes() {
            b"MIN" => &mut returns.min,
            b"MAX" => &mut returns.max,
            b"ALL" => &mut returns.all,
            b"COUNT" => &mut returns.count,
            _ => return Err("unknown return option"),
        };
        *option = true;
        Ok(())
    })?;
    if returns == SearchReturn::default() {
        returns.all = true;
    }
    Ok(returns)
}

/// The keys of one search being read.
struct Keys<'c, 'a> {
    cursor: &'c mut Cursor<'a>,
    count: usize,
}

impl<'a> Keys<'_, 'a> {
    /// One key or more, all of which must hold.
    fn list(&mut self, depth: usize) -> Parsed<SearchKey<'a>> {
        let first = self.key(depth)?;
        if !self.cursor.another() {
            return Ok(first);
        }
        let mut keys = vec![first, self.key(depth)?];
        while self.cursor.another() {
            keys.push(self.key(depth)?);
        }
        Ok(SearchKey::And(keys))
    }

    fn key(&mut self, depth: usize) -> Parsed<SearchKey<'a>> {
        if depth >= DEPTH_MAX {
            return Err("search keys nest too deeply");
        }
        self.count += 1;
        if self.count > KEYS_MAX {
            return Err("too many search keys");
        }
        match self.cursor.peek() {
            Some(b'(') => {
                self.cursor.eat(b'(');
                self.cursor.spaces();
                let key = self.list(depth + 1)?;
                self.cursor.expect(b')', "a closing parenthesis is missing")?;
                return Ok(key);
            }
            Some(b'0'..=b'9' | b'*') => return self.cursor.sequence_set().map(SearchKey::Sequence),
            _ => {}
        }
        let word = self.cursor.word().map_err(|_| "unknown search key")?;
        if let Some(key) = bare_key(word.as_bytes()) {
            return Ok(key);
        }
        self.cursor.space().map_err(|_| "unknown search key, or its argument is missing")?;
        match word.as_bytes() {
            b"NOT" => Ok(SearchKey::Not(Box::new(self.key(depth + 1)?))),
            b"OR" => {
                let left = self.key(depth + 1)?;
                self.cursor.space()?;
                Ok(SearchKey::Or(Box::new((left, self.key(depth + 1)?))))
            }
            word => self.with_argument(word),
        }
    }

    fn with_argument(&mut self, word: &[u8]) -> Parsed<SearchKey<'a>> {
        let cursor = &mut *self.cursor;
        let field = |name: &'static [u8], cursor: &mut Cursor<'a>| -> Parsed<SearchKey<'a>> {
            Ok(SearchKey::Header(Cow::Borrowed(name), cursor.astring()?))
        };
        Ok(match word {
            b"BCC" => field(b"Bcc", cursor)?,
            b"CC" => field(b"Cc", cursor)?,
            b"FROM" => field(b"From", cursor)?,
            b"SUBJECT" => field(b"Subject", cursor)?,
            b"TO" => field(b"To", cursor)?,
            b"HEADER" => {
                let name: Text<'a> = cursor.astring()?;
                cursor.space()?;
                SearchKey::Header(name, cursor.astring()?)
            }
            b"BODY" => SearchKey::Body(cursor.astring()?),
            b"TEXT" => SearchKey::Text(cursor.astring()?),
            b"BEFORE" => SearchKey::InternalDate(DateTest::Before, cursor.date()?),
            b"ON" => SearchKey::InternalDate(DateTest::On, cursor.date()?),
            b"SINCE" => SearchKey::InternalDate(DateTest::Since, cursor.date()?),
            b"SENTBEFORE" => SearchKey::SentDate(DateTest::Before, cursor.date()?),
            b"SENTON" => SearchKey::SentDate(DateTest::On, cursor.date()?),
            b"SENTSINCE" => SearchKey::SentDate(DateTest::Since, cursor.date()?),
            b"KEYWORD" => SearchKey::Keyword(cursor.keyword()?),
            b"UNKEYWORD" => SearchKey::Unkeyword(cursor.keyword()?),
            b"LARGER" => SearchKey::Larger(cursor.number()?),
            b"SMALLER" => SearchKey::Smaller(cursor.number()?),
            b"UID" => SearchKey::Uid(cursor.sequence_set()?),
            b"MODSEQ" => mod_seq(cursor)?,
            _ => return Err("unknown search key"),
        })
    }
}

/// Keys that stand alone.
fn bare_key<'a>(word: &[u8]) -> Option<SearchKey<'a>> {
    Some(match word {
        b"ALL" => SearchKey::All,
        b"ANSWERED" => SearchKey::Set(Flags::ANSWERED),
        b"DELETED" => SearchKey::Set(Flags::DELETED),
        b"DRAFT" => SearchKey::Set(Flags::DRAFT),
        b"FLAGGED" => SearchKey::Set(Flags::FLAGGED),
        b"SEEN" => SearchKey::Set(Flags::SEEN),
        b"UNANSWERED" => SearchKey::Unset(Flags::ANSWERED),
        b"UNDELETED" => SearchKey::Unset(Flags::DELETED),
        b"UNDRAFT" => SearchKey::Unset(Flags::DRAFT),
        b"UNFLAGGED" => SearchKey::Unset(Flags::FLAGGED),
        b"UNSEEN" => SearchKey::Unset(Flags::SEEN),
        b"NEW" => SearchKey::And(vec![SearchKey::Recent, SearchKey::Unset(Flags::SEEN)]),
        b"OLD" => SearchKey::Not(Box::new(SearchKey::Recent)),
        b"RECENT" => SearchKey::Recent,
        _ => return None,
    })
}

/// RFC 7162 3.1.5: `[entry-name entry-type] mod-sequence`. We keep one mod-sequence a message, so
/// the entry changes nothing.
fn mod_seq<'a>(cursor: &mut Cursor<'a>) -> Parsed<SearchKey<'a>> {
    if cursor.peek() == Some(b'"') {
        if !cursor.string()?.to_ascii_lowercase().starts_with(b"/flags/") {
            return Err("unknown MODSEQ entry");
        }
        cursor.space()?;
        match cursor.word()?.as_bytes() {
            b"PRIV" | b"SHARED" | b"ALL" => cursor.space()?,
            _ => return Err("unknown MODSEQ entry type"),
        }
    }
    cursor.mod_seq().map(SearchKey::ModSeq)
}
