//! Search keys compiled for testing messages, and the test itself (RFC 3501 6.4.4).
//!
//! [`super::searching`] compiles them once per command, or for as long as a client is told what a
//! search finds (RFC 5267 4.3). A test never waits: it answers from what is
//! known of the message so far, or says what it needs. So cheap keys decide first, whatever their
//! order in the command, and nothing is read for a message that they rule out.
//!
//! Invariant: keys nest at most as deep as the parser's limit, so that recursion is safe.

use std::rc::Rc;

use crate::{
    model::{Flags, Lsn, ModSeq, Timestamp, Uid},
    protocol::{
        imap::{
            Ranges, SequenceSet,
            message::{
                search::{AgeTest, DateTest},
                sort::Criterion,
            },
        },
        mime::{ActiveComparator, EnvelopeCard, EnvelopeField, Needle, Scope, card::Unanswered},
    },
    store::Message,
};

const SECONDS_PER_DAY: i64 = 86_400;

pub(super) enum Key {
    Constant(bool),
    Set(Flags),
    Unset(Flags),
    Recent,
    /// Index in [`Query::keywords`].
    Keyword(usize),
    InternalDate(DateTest, i64),
    SaveDate(DateTest, i64),
    /// Compares the internal date with [`Query::now`]; index in [`Query::ages`].
    Age(AgeTest, usize),
    SentDate(DateTest, i64),
    Larger(u64),
    Smaller(u64),
    /// Shared, since a command may name the saved result many times.
    Uid(Rc<Ranges>),
    /// UIDs up to the last one; index in [`Query::open`].
    OpenUid(usize),
    ModSeq(ModSeq),
    /// Where the message is kept.
    Body(Lsn),
    /// The hash of the message that began the thread; `None`: it is in none.
    Thread(Option<u64>),
    /// Index in [`Query::headers`].
    Header(usize),
    /// Index in [`Query::needles`].
    Text(usize),
    Not(Box<Key>),
    Any(Vec<Key>),
    All(Vec<Key>),
}

impl Key {
    fn octets(&self) -> usize {
        size_of::<Key>()
            + match self {
                Key::Uid(uids) => size_of::<(u32, u32)>() * uids.ranges().count(),
                Key::Not(key) => key.octets(),
                Key::Any(keys) | Key::All(keys) => keys.iter().map(Key::octets).sum(),
                _ => 0,
            }
    }
}

/// A header field name and a string that one such field must contain.
pub(super) struct HeaderKey {
    pub name: Vec<u8>,
    /// Set if cards hold this field.
    pub field: Option<EnvelopeField>,
    pub needle: Needle,
}

impl HeaderKey {
    /// Reads `header` once.
    pub(super) fn is_in(&self, header: &[u8]) -> bool {
        self.needle.is_in_header(header, &self.name)
    }

    /// Whether the card's field contains the string, and the number of octets searched.
    ///
    /// # Errors
    /// If the header has to be read.
    pub(super) fn is_in_card(
        &self,
        card: &EnvelopeCard<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(bool, usize), Unanswered> {
        let field = self.field.ok_or(Unanswered)?;
        Ok((card.contains(field, &self.needle, scratch)?, card.value_size(field)))
    }
}

/// A compiled SEARCH command.
pub(super) struct Query {
    pub key: Key,
    pub headers: Vec<HeaderKey>,
    /// Strings of BODY and TEXT keys: searched for together, in one pass over the message.
    pub needles: Vec<(Scope, Needle)>,
    /// Keywords that keys name, and their index in the mailbox's table; no message has one that is
    /// not there.
    pub keywords: Vec<(String, Option<usize>)>,
    /// Sets of UIDs that have a `*`, and the UIDs that they mean while the last one is the same.
    pub open: Vec<(SequenceSet, Ranges)>,
    /// Seconds before now.
    pub ages: Vec<u64>,
    /// Seconds since 1970-01-01.
    pub now: i64,
    /// A key asks for it.
    pub recent: bool,
    /// A key asks for what can change of a message.
    pub varies: bool,
    /// A MODSEQ key was used: the response has the highest mod-sequence (RFC 7162 3.1.5).
    pub mod_seq: bool,
    /// Most keys that a test evaluates.
    pub keys: usize,
}

/// What SORT asks for.
#[derive(Clone)]
pub(super) struct Order {
    pub criteria: Vec<Criterion>,
    /// By which strings are compared.
    pub comparator: ActiveComparator,
}

/// What is known of a message besides its entry in the snapshot.
#[derive(Default)]
pub(super) struct Known {
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
pub(super) enum Need {
    SentDay,
    Thread,
    Header,
    Text,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
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

    /// Whether the sets of UIDs that all messages found must be in have this one: whether a search
    /// has to look at the message (RFC 9738 3.1).
    pub(super) fn looks_at(&self, uid: Uid) -> bool {
        fn is_in(query: &Query, key: &Key, uid: Uid) -> bool {
            match key {
                Key::Uid(ranges) => ranges.contains(uid.0),
                Key::OpenUid(set) => {
                    query.open.get(*set).is_some_and(|(_, ranges)| ranges.contains(uid.0))
                }
                Key::All(keys) => keys.iter().all(|key| is_in(query, key, uid)),
                _ => true,
            }
        }
        is_in(self, &self.key, uid)
    }

    /// Finds the keywords that keys name in the mailbox's table, which may have grown.
    pub(super) fn find_keywords(&mut self, table: &[String]) {
        for (name, index) in &mut self.keywords {
            *index = table.iter().position(|known| known.eq_ignore_ascii_case(name));
        }
    }

    /// The last UID of the mailbox is another one.
    pub(super) fn set_last_uid(&mut self, last: u32) {
        self.open.iter_mut().for_each(|(set, uids)| *uids = set.resolve(last));
    }

    /// What it keeps in memory, about.
    pub(super) fn octets(&self) -> usize {
        /// A [`Needle`] prepares its search.
        const NEEDLE: usize = 512;
        const RANGE: usize = size_of::<(u32, u32)>();
        let texts = self.headers.iter().map(|key| key.name.len() + key.needle.size());
        let texts = texts.chain(self.needles.iter().map(|(_, needle)| needle.size()));
        let open = self.open.iter().map(|(_, uids)| 2 * RANGE * (1 + uids.ranges().count()));
        let parts = texts.map(|size| size + NEEDLE).chain(open);
        self.key.octets() + parts.sum::<usize>()
    }

    /// `is_recent`: for the session that asks.
    pub(super) fn test(
        &self,
        message: &Message,
        is_recent: impl Fn() -> bool,
        known: &Known,
    ) -> Verdict {
        let is_recent = self.recent && is_recent();
        Subject { query: self, message, is_recent, known }.test(&self.key)
    }
}

/// One message under test.
struct Subject<'a> {
    query: &'a Query,
    message: &'a Message,
    is_recent: bool,
    known: &'a Known,
}

impl Subject<'_> {
    fn test(&self, key: &Key) -> Verdict {
        let message = self.message;
        match key {
            Key::Constant(value) => (*value).into(),
            Key::Set(flags) => message.flags.system.contains(*flags).into(),
            Key::Unset(flags) => (!message.flags.system.contains(*flags)).into(),
            Key::Recent => self.is_recent.into(),
            Key::Keyword(index) => {
                let known = self.query.keywords.get(*index).and_then(|(_, index)| *index);
                known.is_some_and(|index| message.flags.keywords.contains(index)).into()
            }
            Key::InternalDate(test, day) => {
                date_matches(*test, day_of(message.internal_date), *day).into()
            }
            Key::SaveDate(test, day) => date_matches(*test, day_of(message.save_date), *day).into(),
            Key::Age(test, age) => {
                let age = self.query.ages.get(*age).copied().unwrap_or_default();
                let target = self.query.now.saturating_sub_unsigned(age);
                age_matches(*test, message.internal_date.unix_seconds(), target).into()
            }
            Key::SentDate(test, day) => match self.known.sent_day {
                Some(sent) => sent.is_some_and(|sent| date_matches(*test, sent, *day)).into(),
                None => Verdict::Needs(Need::SentDay),
            },
            Key::Larger(size) => (message.body.size > *size).into(),
            Key::Smaller(size) => (message.body.size < *size).into(),
            Key::Uid(ranges) => ranges.contains(message.uid.0).into(),
            Key::OpenUid(set) => {
                self.query.open.get(*set).is_some_and(|(_, it)| it.contains(message.uid.0)).into()
            }
            Key::ModSeq(mod_seq) => (message.mod_seq >= *mod_seq).into(),
            Key::Body(lsn) => (message.body.lsn == *lsn).into(),
            Key::Thread(root) => match self.known.thread {
                Some(thread) => (thread == *root).into(),
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
        for (date, older, younger) in [(899, true, false), (900, true, true), (901, false, true)] {
            assert_eq!(age_matches(AgeTest::Older, date, 900), older, "{date}");
            assert_eq!(age_matches(AgeTest::Younger, date, 900), younger, "{date}");
        }
        // The interval is longer than time goes back: everything is younger.
        assert!(1_000_i64.saturating_sub_unsigned(u64::MAX) < i64::MIN + 2_000);
    }
}
