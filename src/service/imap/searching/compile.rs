//! Compiling the keys of a command, for the selected mailbox as it is now (RFC 3501 6.4.4).
//!
//! Invariant: keys nest at most as deep as the parser's limit, so that recursion is safe.

use encoding_rs::Encoding;

use super::super::{
    query::{HeaderKey, Key, Query},
    reply::Failure,
    selected::Selected,
};
use crate::{
    model::{PartitionId, Timestamp},
    protocol::{
        imap::{Code, ObjectId, Ranges, SequenceSet, message::search::SearchKey},
        mime::{Collation, EnvelopeField, Needle, Scope, encoding_of},
    },
};

/// Most strings that one SEARCH may look for in headers and texts; more are refused with `NO
/// [LIMIT]`, since every message is searched for each.
const STRINGS_MAX: usize = 64;

/// `charset` is the one named in the command; strings are UTF-8 otherwise (ASCII within it).
/// Ages count from `now`.
pub(in crate::service::imap) fn compile(
    key: &SearchKey<'_>,
    charset: Option<&[u8]>,
    collation: Collation,
    selected: &Selected,
    now: Timestamp,
) -> Result<Query, Failure> {
    let charset = match charset {
        None => encoding_rs::UTF_8,
        Some(label) => searchable(label).ok_or_else(bad_charset)?,
    };
    let mut compiler = Compiler {
        charset,
        collation,
        selected,
        partition: selected.home.partition(),
        headers: Vec::new(),
        needles: Vec::new(),
        keywords: Vec::new(),
        open: Vec::new(),
        ages: Vec::new(),
        recent: false,
        varies: false,
        mod_seq: false,
        keys: 0,
    };
    let key = compiler.key(key);
    let Compiler { headers, needles, keywords, open, ages, recent, varies, mod_seq, keys, .. } =
        compiler;
    if headers.len() + needles.len() > STRINGS_MAX {
        return Err(Failure::no(Code::Limit, "Too many strings to search for"));
    }
    let now = now.unix_seconds();
    let mut query =
        Query { key, headers, needles, keywords, open, ages, now, recent, varies, mod_seq, keys };
    query.find_keywords(selected.told().keywords());
    Ok(query)
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
    collation: Collation,
    selected: &'a Selected,
    /// Where the messages are kept.
    partition: PartitionId,
    headers: Vec<HeaderKey>,
    needles: Vec<(Scope, Needle)>,
    keywords: Vec<(String, Option<usize>)>,
    open: Vec<(SequenceSet, Ranges)>,
    ages: Vec<u64>,
    recent: bool,
    varies: bool,
    mod_seq: bool,
    keys: usize,
}

impl Compiler<'_> {
    fn key(&mut self, key: &SearchKey<'_>) -> Key {
        self.keys += 1;
        match key {
            SearchKey::All => Key::Constant(true),
            SearchKey::Set(flags) => {
                self.varies = true;
                Key::Set(*flags)
            }
            SearchKey::Unset(flags) => {
                self.varies = true;
                Key::Unset(*flags)
            }
            SearchKey::Recent => {
                self.recent = true;
                Key::Recent
            }
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
            SearchKey::Age(test, interval) => {
                self.ages.push(*interval);
                Key::Age(*test, self.ages.len() - 1)
            }
            SearchKey::SentDate(test, day) => Key::SentDate(*test, *day),
            SearchKey::Larger(size) => Key::Larger(*size),
            SearchKey::Smaller(size) => Key::Smaller(*size),
            SearchKey::Uid(set) if set.has_star() => {
                self.open.push((set.clone(), Ranges::clone(&self.selected.uid_ranges(true, set))));
                Key::OpenUid(self.open.len() - 1)
            }
            SearchKey::Sequence(set) => Key::Uid(self.selected.uid_ranges(false, set)),
            SearchKey::Uid(set) => Key::Uid(self.selected.uid_ranges(true, set)),
            SearchKey::UidAfter(uid) => {
                let first = uid.0.checked_add(1);
                Key::Uid(Ranges::of_ascending(first.map(|first| (first, u32::MAX))).into())
            }
            SearchKey::UidBefore(uid) => Key::Uid(Ranges::up_to(uid.0.saturating_sub(1)).into()),
            SearchKey::ModSeq(mod_seq) => {
                (self.mod_seq, self.varies) = (true, true);
                Key::ModSeq(*mod_seq)
            }
            SearchKey::EmailId(Some(ObjectId::Email(partition, lsn)))
                if *partition == self.partition =>
            {
                Key::Body(*lsn)
            }
            SearchKey::ThreadId(Some(ObjectId::Thread(root))) => Key::Thread(Some(*root)),
            SearchKey::ThreadId(Some(ObjectId::Alone(partition, lsn)))
                if *partition == self.partition =>
            {
                Key::All(vec![Key::Body(*lsn), Key::Thread(None)])
            }
            SearchKey::EmailId(_) | SearchKey::ThreadId(_) => Key::Constant(false),
            SearchKey::Not(key) => Key::Not(Box::new(self.key(key))),
            SearchKey::Or(keys) => Key::Any(vec![self.key(&keys.0), self.key(&keys.1)]),
            SearchKey::And(keys) => Key::All(keys.iter().map(|key| self.key(key)).collect()),
        }
    }

    fn keyword(&mut self, name: &str) -> Key {
        self.varies = true;
        self.keywords.push((name.to_owned(), None));
        Key::Keyword(self.keywords.len() - 1)
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
        Needle::by(self.collation, &self.charset.decode_without_bom_handling(text).0)
    }
}
