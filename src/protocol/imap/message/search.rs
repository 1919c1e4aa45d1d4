//! SEARCH (RFC 3501 6.4.4, RFC 5032, RFC 5182, RFC 7162 3.1.5), and the keys of the commands that
//! are based on it.
//!
//! NOT, OR and parentheses nest by recursion, at most [`DEPTH_MAX`] deep: fifteen thousand NOTs
//! cost a hundred steps and a BAD.

use std::borrow::Cow;

use super::{
    super::{
        arguments::Arguments,
        cursor::{Cursor, Parsed, Text, UNKNOWN_KEY, UNKNOWN_KEY_OR_ARGUMENT},
        object_id::ObjectId,
        sequence::SequenceSet,
    },
    returns::SearchReturn,
};
use crate::model::{Flags, ModSeq, Uid};

/// How deep keys may nest.
const DEPTH_MAX: usize = 100;
/// Keys in one SEARCH.
const KEYS_MAX: usize = 1_000;

/// `search = "SEARCH" [SP "RETURN" SP "(" … ")"] [SP "CHARSET" SP astring] 1*(SP search-key)`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search<'a> {
    /// Its `UID` form.
    pub uid: bool,
    /// `None`: answer by SEARCH. `RETURN ()` means `ALL` (RFC 4731 3.1) and is stored so.
    pub returns: Option<SearchReturn>,
    /// What UPDATE wants of new messages (RFC 5465 7): the list, with its parentheses.
    pub update_fetch: Option<&'a [u8]>,
    /// As sent; strings of the keys are in this charset, US-ASCII if `None`.
    pub charset: Option<Text<'a>>,
    pub key: SearchKey<'a>,
}

/// How a date is compared: earlier, the same day, the same day or later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DateTest {
    Before,
    On,
    Since,
}

/// How an age is compared (RFC 5032 3). Both include messages of exactly that age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AgeTest {
    Older,
    Younger,
}

/// A search key. The RFC's short forms are folded: `SEEN` is `Set(SEEN)`, `UNSEEN` is
/// `Unset(SEEN)`, `FROM x` is `Header("From", x)`, `NEW` is `And([Recent, Unset(SEEN)])`, `OLD` is
/// `Not(Recent)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SearchKey<'a> {
    All,
    /// The message carries this system flag.
    Set(Flags),
    Unset(Flags),
    Recent,
    Keyword(&'a str),
    Unkeyword(&'a str),
    /// Field name, and a string it contains (empty: the field exists).
    Header(Text<'a>, Text<'a>),
    Body(Text<'a>),
    /// Header or body.
    Text(Text<'a>),
    /// Internal date, days since 1970-01-01, zone disregarded.
    InternalDate(DateTest, i64),
    /// Day on which the message came into the mailbox (RFC 8514 4.3).
    SaveDate(DateTest, i64),
    /// Internal date, seconds before now; not 0 (RFC 5032 3).
    Age(AgeTest, u64),
    /// Date field, days since 1970-01-01, zone disregarded.
    SentDate(DateTest, i64),
    /// Strictly more octets than this.
    Larger(u64),
    /// Strictly fewer octets than this.
    Smaller(u64),
    /// Messages by sequence number.
    Sequence(SequenceSet),
    Uid(SequenceSet),
    /// Messages with a higher UID (RFC 9738 3.2).
    UidAfter(Uid),
    /// Those with a lower one.
    UidBefore(Uid),
    /// The message with this identifier; `None`: no message has it (RFC 8474 6).
    EmailId(Option<ObjectId>),
    /// Those of the thread with this identifier.
    ThreadId(Option<ObjectId>),
    /// This or higher (RFC 7162 3.1.5); the entry name, if any, is ignored.
    ModSeq(ModSeq),
    Not(Box<SearchKey<'a>>),
    Or(Box<(SearchKey<'a>, SearchKey<'a>)>),
    And(Vec<SearchKey<'a>>),
}

impl SearchKey<'_> {
    /// Whether it names messages by their numbers; `$` does not (RFC 5182 2.2). It is as deep as
    /// the parser allows.
    pub(in crate::protocol::imap) fn has_numbers(&self) -> bool {
        match self {
            SearchKey::Sequence(set) => !set.is_saved_result(),
            SearchKey::Not(key) => key.has_numbers(),
            SearchKey::Or(keys) => keys.0.has_numbers() || keys.1.has_numbers(),
            SearchKey::And(keys) => keys.iter().any(SearchKey::has_numbers),
            _ => false,
        }
    }
}

impl<'a> Arguments<'a> for Search<'a> {
    fn parse(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Search<'a>> {
        cursor.arguments()?;
        let mut update_fetch = None;
        let returns = SearchReturn::read(cursor, &mut update_fetch)?;
        let (charset, key) = criteria(cursor)?;
        Ok(Search { uid, returns, update_fetch, charset, key })
    }

    fn uid(&self) -> bool {
        self.uid
    }

    fn uses_numbers(&self) -> bool {
        !self.uid || self.key.has_numbers()
    }
}

/// `[CHARSET …]` and the keys of SEARCH.
fn criteria<'a>(cursor: &mut Cursor<'a>) -> Parsed<(Option<Text<'a>>, SearchKey<'a>)> {
    let mut charset = None;
    if cursor.eat_all(b"CHARSET ") {
        cursor.spaces();
        charset = Some(cursor.astring()?);
        cursor.space()?;
    }
    Ok((charset, keys(cursor)?))
}

/// `uniqueid = nz-number`
fn uid(cursor: &mut Cursor<'_>) -> Parsed<Uid> {
    let uid = u32::try_from(cursor.number()?).ok().filter(|&uid| uid > 0);
    uid.map(Uid).ok_or("not a UID")
}

/// One or more keys, all of which must match.
pub(super) fn keys<'a>(cursor: &mut Cursor<'a>) -> Parsed<SearchKey<'a>> {
    Keys { cursor, count: 0 }.list(0)
}

/// The keys of one search being read.
struct Keys<'c, 'a> {
    cursor: &'c mut Cursor<'a>,
    count: usize,
}

impl<'a> Keys<'_, 'a> {
    /// One or more keys, all of which must match.
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
            Some(b'0'..=b'9' | b'*' | b'$') => {
                return self.cursor.sequence_set().map(SearchKey::Sequence);
            }
            _ => {}
        }
        let word = self.cursor.word().map_err(|_| UNKNOWN_KEY)?;
        if let Some(key) = bare_key(word.as_bytes()) {
            return Ok(key);
        }
        self.cursor.space().map_err(|_| UNKNOWN_KEY_OR_ARGUMENT)?;
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
            b"SAVEDBEFORE" => SearchKey::SaveDate(DateTest::Before, cursor.date()?),
            b"SAVEDON" => SearchKey::SaveDate(DateTest::On, cursor.date()?),
            b"SAVEDSINCE" => SearchKey::SaveDate(DateTest::Since, cursor.date()?),
            b"OLDER" => SearchKey::Age(AgeTest::Older, interval(cursor)?),
            b"YOUNGER" => SearchKey::Age(AgeTest::Younger, interval(cursor)?),
            b"SENTBEFORE" => SearchKey::SentDate(DateTest::Before, cursor.date()?),
            b"SENTON" => SearchKey::SentDate(DateTest::On, cursor.date()?),
            b"SENTSINCE" => SearchKey::SentDate(DateTest::Since, cursor.date()?),
            b"KEYWORD" => SearchKey::Keyword(cursor.keyword()?),
            b"UNKEYWORD" => SearchKey::Unkeyword(cursor.keyword()?),
            b"LARGER" => SearchKey::Larger(cursor.number()?),
            b"SMALLER" => SearchKey::Smaller(cursor.number()?),
            b"UID" => SearchKey::Uid(cursor.sequence_set()?),
            b"UIDAFTER" => SearchKey::UidAfter(uid(cursor)?),
            b"UIDBEFORE" => SearchKey::UidBefore(uid(cursor)?),
            b"EMAILID" => SearchKey::EmailId(ObjectId::parse_email(object_id(cursor)?)),
            b"THREADID" => SearchKey::ThreadId(ObjectId::parse_thread(object_id(cursor)?)),
            b"MODSEQ" => mod_seq(cursor)?,
            _ => return Err(UNKNOWN_KEY),
        })
    }
}

/// Keys without arguments.
fn bare_key<'a>(word: &[u8]) -> Option<SearchKey<'a>> {
    Some(match word {
        // RFC 8514 4.3: every mailbox here keeps save dates.
        b"ALL" | b"SAVEDATESUPPORTED" => SearchKey::All,
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

/// `nz-number` of OLDER and YOUNGER, seconds (RFC 5032 4).
fn interval(cursor: &mut Cursor<'_>) -> Parsed<u64> {
    match cursor.number()? {
        0 => Err("an interval must not be 0"),
        seconds => Ok(seconds),
    }
}

/// Most characters of an `objectid` (RFC 8474 7).
const OBJECT_ID_MAX: usize = 255;

/// `objectid = 1*255(ALPHA / DIGIT / "_" / "-")`, also as a string.
fn object_id<'a>(cursor: &mut Cursor<'a>) -> Parsed<&'a str> {
    let quoted = cursor.eat(b'"');
    let belongs = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'_' | b'-');
    let taken = cursor.take_while(belongs);
    if quoted {
        cursor.expect(b'"', "a closing quote is missing")?;
    }
    match std::str::from_utf8(taken) {
        Ok(id) if (1..=OBJECT_ID_MAX).contains(&id.len()) => Ok(id),
        _ => Err("not an object identifier"),
    }
}

/// RFC 7162 3.1.5: `[entry-name entry-type] mod-sequence`. We keep one mod-sequence per message, so
/// the entry is ignored.
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

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, set, text},
        },
        *,
    };

    fn search(key: SearchKey<'static>) -> CommandBody<'static> {
        CommandBody::Search(Search {
            uid: false,
            returns: None,
            update_fetch: None,
            charset: None,
            key,
        })
    }

    /// RFC 3501 6.4.4.
    #[test]
    fn search_keys() {
        use SearchKey as Key;
        let header = |name, value| Key::Header(text(name), text(value));
        let cases: Vec<(&str, SearchKey<'static>)> = vec![
            ("ALL", Key::All),
            ("ANSWERED", Key::Set(Flags::ANSWERED)),
            ("unseen", Key::Unset(Flags::SEEN)),
            ("UNDRAFT", Key::Unset(Flags::DRAFT)),
            ("NEW", Key::And(vec![Key::Recent, Key::Unset(Flags::SEEN)])),
            ("OLD", Key::Not(Box::new(Key::Recent))),
            ("RECENT", Key::Recent),
            ("KEYWORD $Junk", Key::Keyword("$Junk")),
            ("UNKEYWORD x", Key::Unkeyword("x")),
            ("BCC x", header("Bcc", "x")),
            ("CC x", header("Cc", "x")),
            ("FROM \"a b\"", header("From", "a b")),
            ("SUBJECT {4}\r\n\u{e4}\u{e4}", header("Subject", "\u{e4}\u{e4}")),
            ("TO \"\"", header("To", "")),
            ("HEADER X-Y z", header("X-Y", "z")),
            ("BODY x", Key::Body(text("x"))),
            ("TEXT x", Key::Text(text("x"))),
            ("LARGER 0", Key::Larger(0)),
            ("SMALLER 5000000000", Key::Smaller(5_000_000_000)),
            ("SAVEDATESUPPORTED", Key::All),
            ("EMAILID M1-ff", Key::EmailId(ObjectId::parse_email("M1-ff"))),
            ("emailid \"M1-ff\"", Key::EmailId(ObjectId::parse_email("M1-ff"))),
            ("EMAILID x_y-Z9", Key::EmailId(None)),
            ("THREADID T1", Key::ThreadId(ObjectId::parse_thread("T1"))),
            ("THREADID x", Key::ThreadId(None)),
            ("SAVEDBEFORE 1-Jan-1970", Key::SaveDate(DateTest::Before, 0)),
            ("savedon 2-Jan-1970", Key::SaveDate(DateTest::On, 1)),
            ("SAVEDSINCE \"3-Jan-1970\"", Key::SaveDate(DateTest::Since, 2)),
            ("OLDER 3600", Key::Age(AgeTest::Older, 3_600)),
            ("younger 1", Key::Age(AgeTest::Younger, 1)),
            ("1:3,*", Key::Sequence(set("1:3,*"))),
            ("*:4", Key::Sequence(set("*:4"))),
            ("UID 7", Key::Uid(set("7"))),
            ("MODSEQ 620162338", Key::ModSeq(ModSeq(620_162_338))),
            ("MODSEQ \"/flags/\\\\draft\" all 1", Key::ModSeq(ModSeq(1))),
            ("NOT SEEN", Key::Not(Box::new(Key::Set(Flags::SEEN)))),
            ("OR SEEN ALL", Key::Or(Box::new((Key::Set(Flags::SEEN), Key::All)))),
            ("(ALL)", Key::All),
            (
                "ALL (SEEN DRAFT)",
                Key::And(vec![
                    Key::All,
                    Key::And(vec![Key::Set(Flags::SEEN), Key::Set(Flags::DRAFT)]),
                ]),
            ),
        ];
        for (line, key) in cases {
            check(&format!("SEARCH {line}"), search(key));
        }
    }

    /// Needs `mime::date` for the days.
    #[test]
    fn search_dates() {
        use DateTest::{Before, On, Since};
        check("SEARCH BEFORE 1-Feb-1994", search(SearchKey::InternalDate(Before, 8_797)));
        check("SEARCH ON \"01-Feb-1994\"", search(SearchKey::InternalDate(On, 8_797)));
        check("SEARCH SINCE 1-feb-1994", search(SearchKey::InternalDate(Since, 8_797)));
        check("SEARCH SENTBEFORE 1-Feb-1994", search(SearchKey::SentDate(Before, 8_797)));
        check("SEARCH SENTON 1-Feb-1994", search(SearchKey::SentDate(On, 8_797)));
        check("SEARCH SENTSINCE 1-Feb-1994", search(SearchKey::SentDate(Since, 8_797)));
        // RFC 3501 9 `date-day-fixed` is of date-time only; phones send it here, too.
        for date in ["\" 1-Feb-1994\"", "\"1-Feb-1994 \"", "\"  01-feb-1994\"", " 1-Feb-1994"] {
            check(&format!("SEARCH SINCE {date}"), search(SearchKey::InternalDate(Since, 8_797)));
            check(&format!("SEARCH SENTON {date}"), search(SearchKey::SentDate(On, 8_797)));
        }
    }

    /// RFC 4731 3.1, RFC 3501 6.4.4.
    #[test]
    fn search_forms() {
        let all = SearchReturn { all: true, ..SearchReturn::default() };
        let form = |uid, returns, charset: Option<&'static str>| {
            CommandBody::Search(Search {
                uid,
                returns,
                update_fetch: None,
                charset: charset.map(text),
                key: SearchKey::All,
            })
        };
        check("SEARCH RETURN () ALL", form(false, Some(all), None));
        check("UID SEARCH RETURN (ALL) CHARSET UTF-8 ALL", form(true, Some(all), Some("UTF-8")));
        check(
            "SEARCH RETURN (MIN MAX COUNT) ALL",
            form(
                false,
                Some(SearchReturn { min: true, max: true, count: true, ..SearchReturn::default() }),
                None,
            ),
        );
        check("SEARCH CHARSET \"x\" ALL", form(false, None, Some("x")));
        // RFC 5182 2.2, 3.
        let save = SearchReturn { save: true, ..SearchReturn::default() };
        assert!(save.is_silent() && !SearchReturn { min: true, ..save }.is_silent());
        check("SEARCH RETURN (save) ALL", form(false, Some(save), None));
        let saved = crate::protocol::imap::SequenceSet::saved_result();
        check("SEARCH $", search(SearchKey::Sequence(saved.clone())));
        check("SEARCH UID $", search(SearchKey::Uid(saved)));
    }
}
