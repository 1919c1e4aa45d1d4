//! Search keys compiled for testing messages, and the test itself (RFC 3501 6.4.4).
//!
//! [`super::search`] compiles them once per command. A test never waits: it answers from what is
//! known of the message so far, or says what it needs. So cheap keys decide first, whatever their
//! order in the command, and nothing is read for a message that they rule out.
//!
//! Invariant: keys nest at most as deep as the parser's limit, so that recursion is safe.

use encoding_rs::Encoding;

use super::super::{reply::Failure, selected::Selected};
use crate::{
    model::{Flags, Lsn, ModSeq, PartitionId, Timestamp},
    protocol::{
        imap::{
            Code, ObjectId, Ranges,
            message::search::{AgeTest, DateTest, SearchKey},
        },
        mime::{EnvelopeCard, EnvelopeField, Needle, Scope, card::Unanswered, encoding_of},
    },
    store::Message,
};

/// Most strings that one SEARCH may look for in headers and texts; more are refused with `NO
/// [LIMIT]`, since every message is searched for each.
const STRINGS_MAX: usize = 64;

const SECONDS_PER_DAY: i64 = 86_400;

pub(crate) enum Key {
    Constant(bool),
    Set(Flags),
    Unset(Flags),
    Recent,
    /// Index in the mailbox's keyword table.
    Keyword(usize),
    InternalDate(DateTest, i64),
    SaveDate(DateTest, i64),
    /// Compares the internal date; seconds since 1970-01-01.
    Age(AgeTest, i64),
    SentDate(DateTest, i64),
    Larger(u64),
    Smaller(u64),
    Uid(Ranges),
    ModSeq(ModSeq),
    /// Where the message is kept.
    Body(Lsn),
    /// The hash of the message that began the thread.
    Thread(u64),
    /// Index in [`Query::headers`].
    Header(usize),
    /// Index in [`Query::needles`].
    Text(usize),
    Not(Box<Key>),
    Any(Vec<Key>),
    All(Vec<Key>),
}

/// A header field name and a string that one such field must contain.
pub(crate) struct HeaderKey {
    name: Vec<u8>,
    /// Set if cards hold this field.
    field: Option<EnvelopeField>,
    needle: Needle,
}

impl HeaderKey {
    /// Reads `header` once.
    pub(crate) fn is_in(&self, header: &[u8]) -> bool {
        self.needle.is_in_header(header, &self.name)
    }

    /// Whether the card's field contains the string, and the number of octets searched.
    ///
    /// # Errors
    /// If the header has to be read.
    pub(crate) fn is_in_card(
        &self,
        card: &EnvelopeCard<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(bool, usize), Unanswered> {
        let field = self.field.ok_or(Unanswered)?;
        Ok((card.contains(field, &self.needle, scratch)?, card.value_size(field)))
    }
}

/// A compiled SEARCH command.
pub(crate) struct Query {
    pub key: Key,
    pub headers: Vec<HeaderKey>,
    /// Strings of BODY and TEXT keys: searched for together, in one pass over the message.
    pub needles: Vec<(Scope, Needle)>,
    /// A MODSEQ key was used: the response has the highest mod-sequence (RFC 7162 3.1.5).
    pub mod_seq: bool,
    /// Most keys that a test evaluates.
    pub keys: usize,
}

/// What is known of a message besides its entry in the snapshot.
#[derive(Default)]
pub(crate) struct Known {
    /// Day of the Date field, `Some(None)` if there is no valid one.
    pub sent_day: Option<Option<i64>>,
    /// The hash of the message that began the thread, `Some(None)` if it is in none.
    pub thread: Option<Option<u64>>,
    /// By index in [`Query::headers`].
    pub header: Option<Vec<bool>>,
    /// By index in [`Query::needles`].
    pub found: Option<Vec<bool>>,
}

/// What a test still needs to be decided; the cheapest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Need {
    SentDay,
    Thread,
    Header,
    Text,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Yes,
    No,
    Needs(Need),
}

impl From<bool> for Verdict {
    fn from(matches: bool) -> Verdict {
        if matches { Verdict::Yes } else { Verdict::No }
    }
}

impl Query {
    /// Whether all header keys of the query may be answered from cards.
    pub(super) fn asks_cards(&self) -> bool {
        self.headers.iter().all(|key| key.field.is_some())
    }

    /// `charset` is the one named in the command; strings are UTF-8 otherwise (ASCII within it).
    /// Ages count from `now`.
    pub(crate) fn new(
        key: &SearchKey<'_>,
        charset: Option<&[u8]>,
        selected: &Selected,
        now: Timestamp,
    ) -> Result<Query, Failure> {
        let charset = match charset {
            None => encoding_rs::UTF_8,
            Some(label) => searchable(label).ok_or_else(bad_charset)?,
        };
        let mut compiler = Compiler {
            charset,
            selected,
            partition: selected.home.partition(),
            now,
            headers: Vec::new(),
            needles: Vec::new(),
            mod_seq: false,
            keys: 0,
        };
        let key = compiler.key(key);
        let Compiler { headers, needles, mod_seq, keys, .. } = compiler;
        if headers.len() + needles.len() > STRINGS_MAX {
            return Err(Failure::no(Code::Limit, "Too many strings to search for"));
        }
        Ok(Query { key, headers, needles, mod_seq, keys })
    }

    pub(crate) fn test(&self, message: &Message, selected: &Selected, known: &Known) -> Verdict {
        Subject { message, selected, known }.test(&self.key)
    }
}

/// The charset of a command's strings. UTF-16 is excluded: RFC 3501 4.3 allows no NUL in a string,
/// so it could encode hardly any text. (UTF-7 and UTF-32 are not supported at all.)
fn searchable(label: &[u8]) -> Option<&'static Encoding> {
    encoding_of(label)
        .filter(|found| ![encoding_rs::UTF_16LE, encoding_rs::UTF_16BE].contains(found))
}

/// RFC 3501 6.4.4: the code lists supported charsets; it is a hint, so the common ones are enough.
fn bad_charset() -> Failure {
    let charsets = Code::BadCharset(&["US-ASCII", "UTF-8", "ISO-8859-1"]);
    Failure::no(charsets, "Charset not supported")
}

struct Compiler<'a> {
    charset: &'static Encoding,
    selected: &'a Selected,
    /// Where the messages are kept.
    partition: PartitionId,
    now: Timestamp,
    headers: Vec<HeaderKey>,
    needles: Vec<(Scope, Needle)>,
    mod_seq: bool,
    keys: usize,
}

impl Compiler<'_> {
    fn key(&mut self, key: &SearchKey<'_>) -> Key {
        self.keys += 1;
        match key {
            SearchKey::All => Key::Constant(true),
            SearchKey::Set(flags) => Key::Set(*flags),
            SearchKey::Unset(flags) => Key::Unset(*flags),
            SearchKey::Recent => Key::Recent,
            SearchKey::Keyword(name) => self.keyword(name),
            SearchKey::Unkeyword(name) => Key::Not(Box::new(self.keyword(name))),
            SearchKey::Header(name, text) => {
                let needle = self.needle(text);
                let field = EnvelopeField::named(name);
                self.headers.push(HeaderKey { name: name.to_vec(), field, needle });
                Key::Header(self.headers.len() - 1)
            }
            SearchKey::Body(text) => self.text(Scope::Body, text),
            SearchKey::Text(text) => self.text(Scope::Text, text),
            SearchKey::InternalDate(test, day) => Key::InternalDate(*test, *day),
            SearchKey::SaveDate(test, day) => Key::SaveDate(*test, *day),
            SearchKey::Age(test, interval) => Key::Age(*test, before(self.now, *interval)),
            SearchKey::SentDate(test, day) => Key::SentDate(*test, *day),
            SearchKey::Larger(size) => Key::Larger(*size),
            SearchKey::Smaller(size) => Key::Smaller(*size),
            SearchKey::Sequence(set) => Key::Uid(self.selected.uid_ranges(false, set)),
            SearchKey::Uid(set) => Key::Uid(self.selected.uid_ranges(true, set)),
            SearchKey::ModSeq(mod_seq) => {
                self.mod_seq = true;
                Key::ModSeq(*mod_seq)
            }
            SearchKey::EmailId(Some(ObjectId::Email(partition, lsn)))
                if *partition == self.partition =>
            {
                Key::Body(*lsn)
            }
            SearchKey::ThreadId(Some(ObjectId::Thread(root))) => Key::Thread(*root),
            SearchKey::EmailId(_) | SearchKey::ThreadId(_) => Key::Constant(false),
            SearchKey::Not(key) => Key::Not(Box::new(self.key(key))),
            SearchKey::Or(keys) => Key::Any(vec![self.key(&keys.0), self.key(&keys.1)]),
            SearchKey::And(keys) => Key::All(keys.iter().map(|key| self.key(key)).collect()),
        }
    }

    /// No message has a keyword that is not in the mailbox's table.
    fn keyword(&self, name: &str) -> Key {
        let known = self.selected.told().keywords();
        match known.iter().position(|keyword| keyword.eq_ignore_ascii_case(name)) {
            Some(index) => Key::Keyword(index),
            None => Key::Constant(false),
        }
    }

    fn text(&mut self, scope: Scope, text: &[u8]) -> Key {
        // RFC 3501 6.4.4: every message contains the empty string.
        if text.is_empty() {
            return Key::Constant(true);
        }
        let needle = self.needle(text);
        self.needles.push((scope, needle));
        Key::Text(self.needles.len() - 1)
    }

    fn needle(&self, text: &[u8]) -> Needle {
        Needle::new(&self.charset.decode_without_bom_handling(text).0)
    }
}

/// One message under test.
struct Subject<'a> {
    message: &'a Message,
    selected: &'a Selected,
    known: &'a Known,
}

impl Subject<'_> {
    fn test(&self, key: &Key) -> Verdict {
        let message = self.message;
        match key {
            Key::Constant(value) => (*value).into(),
            Key::Set(flags) => message.flags.system.contains(*flags).into(),
            Key::Unset(flags) => (!message.flags.system.contains(*flags)).into(),
            Key::Recent => self.selected.is_recent(message.uid).into(),
            Key::Keyword(index) => message.flags.keywords.contains(*index).into(),
            Key::InternalDate(test, day) => {
                date_matches(*test, day_of(message.internal_date), *day).into()
            }
            Key::SaveDate(test, day) => date_matches(*test, day_of(message.save_date), *day).into(),
            Key::Age(test, target) => {
                age_matches(*test, message.internal_date.unix_seconds(), *target).into()
            }
            Key::SentDate(test, day) => match self.known.sent_day {
                Some(sent) => sent.is_some_and(|sent| date_matches(*test, sent, *day)).into(),
                None => Verdict::Needs(Need::SentDay),
            },
            Key::Larger(size) => (message.body.size > *size).into(),
            Key::Smaller(size) => (message.body.size < *size).into(),
            Key::Uid(ranges) => ranges.contains(message.uid.0).into(),
            Key::ModSeq(mod_seq) => (message.mod_seq >= *mod_seq).into(),
            Key::Body(lsn) => (message.body.lsn == *lsn).into(),
            Key::Thread(root) => match self.known.thread {
                Some(thread) => (thread == Some(*root)).into(),
                None => Verdict::Needs(Need::Thread),
            },
            Key::Header(key) => match &self.known.header {
                Some(found) => found.get(*key).copied().unwrap_or(false).into(),
                None => Verdict::Needs(Need::Header),
            },
            Key::Text(needle) => match &self.known.found {
                Some(found) => found.get(*needle).copied().unwrap_or(false).into(),
                None => Verdict::Needs(Need::Text),
            },
            Key::Not(key) => match self.test(key) {
                Verdict::Yes => Verdict::No,
                Verdict::No => Verdict::Yes,
                needs => needs,
            },
            Key::Any(keys) => self.first_of(keys, Verdict::Yes, Verdict::No),
            Key::All(keys) => self.first_of(keys, Verdict::No, Verdict::Yes),
        }
    }

    /// `decisive` if any key gives it; else the cheapest need of an undecided key; else
    /// `otherwise`.
    fn first_of(&self, keys: &[Key], decisive: Verdict, otherwise: Verdict) -> Verdict {
        let mut cheapest: Option<Need> = None;
        for key in keys {
            match self.test(key) {
                verdict if verdict == decisive => return decisive,
                Verdict::Needs(need) => {
                    cheapest = Some(cheapest.map_or(need, |other| other.min(need)));
                }
                _ => {}
            }
        }
        cheapest.map_or(otherwise, Verdict::Needs)
    }
}

/// Days since 1970-01-01, in UTC.
fn day_of(date: Timestamp) -> i64 {
    date.unix_seconds().div_euclid(SECONDS_PER_DAY)
}

fn date_matches(test: DateTest, day: i64, wanted: i64) -> bool {
    match test {
        DateTest::Before => day < wanted,
        DateTest::On => day == wanted,
        DateTest::Since => day >= wanted,
    }
}

/// Seconds since 1970-01-01, `interval` seconds before `now`.
fn before(now: Timestamp, interval: u64) -> i64 {
    now.unix_seconds().saturating_sub_unsigned(interval)
}

/// RFC 5032 3: exact to the second, and both include the target itself.
fn age_matches(test: AgeTest, date: i64, target: i64) -> bool {
    match test {
        AgeTest::Older => date <= target,
        AgeTest::Younger => date >= target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let target = before(Timestamp::from_unix_seconds(1_000), 100);
        assert_eq!(target, 900);
        for (date, older, younger) in [(899, true, false), (900, true, true), (901, false, true)] {
            assert_eq!(age_matches(AgeTest::Older, date, target), older, "{date}");
            assert_eq!(age_matches(AgeTest::Younger, date, target), younger, "{date}");
        }
        // The interval is longer than time goes back: everything is younger.
        let target = before(Timestamp::from_unix_seconds(1_000), u64::MAX);
        assert!(age_matches(AgeTest::Younger, i64::MIN, target));
    }
}
