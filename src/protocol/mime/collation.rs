//! Comparators (RFC 4790), by which SEARCH, SORT and THREAD compare strings (RFC 5255 4, RFC 5256
//! 2).
//!
//! A string becomes a key of octets; the order of keys is the order of strings, and one string is
//! in another if its key is. For i;unicode-casemap (RFC 5051) each character is mapped by itself:
//! to title case, then to its decomposition. So the key of a text is that of its pieces, wherever
//! it is cut.

use std::{iter, ops::Range, sync::LazyLock};

use icu_normalizer::DecomposingNormalizerBorrowed;

/// What strings are compared by. All have the operations that SEARCH and SORT need (RFC 5255 4.4).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Collation {
    #[default]
    UnicodeCasemap,
    AsciiCasemap,
    Octet,
}

/// The comparator of a session (RFC 5255 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ActiveComparator {
    pub collation: Collation,
    /// The order is the opposite one (RFC 4790 3.3).
    pub descending: bool,
}

impl Collation {
    /// The most useful one first.
    pub const ALL: [Collation; 3] =
        [Collation::UnicodeCasemap, Collation::AsciiCasemap, Collation::Octet];

    pub fn name(self) -> &'static str {
        match self {
            Collation::UnicodeCasemap => "i;unicode-casemap",
            Collation::AsciiCasemap => "i;ascii-casemap",
            Collation::Octet => "i;octet",
        }
    }

    /// Appends the key of `text`.
    pub fn push_key(self, text: &str, out: &mut Vec<u8>) {
        let start = out.len();
        match self {
            Collation::UnicodeCasemap => push_mapped(text, out),
            Collation::AsciiCasemap | Collation::Octet => {
                out.extend_from_slice(text.as_bytes());
                self.fold_ascii(&mut out[start..]);
            }
        }
    }

    /// The same for text that has ASCII only, in its place.
    pub(super) fn fold_ascii(self, text: &mut [u8]) {
        if self != Collation::Octet {
            text.make_ascii_uppercase();
        }
    }

    /// Appends a key by which texts are ordered. Those that were not valid in their charset come
    /// last, by their octets (RFC 5255 4.6).
    pub fn push_order_key(self, text: &str, out: &mut Vec<u8>) {
        if text.is_ascii() {
            let start = out.len();
            out.extend_from_slice(text.as_bytes());
            return self.fold_ascii(&mut out[start..]);
        }
        if text.contains(char::REPLACEMENT_CHARACTER) {
            // Above all that UTF-8 begins with.
            out.push(0xff);
            return out.extend_from_slice(text.as_bytes());
        }
        self.push_key(text, out);
    }
}

/// Characters that are looked up: most letters with a case, and most that have a decomposition, of
/// which some have eighteen characters.
const LOW: Range<u32> = 0..0x3400;
const HIGH: Range<u32> = 0xf900..0x1_0000;

/// The mapped characters of [`LOW`] and [`HIGH`]: a text, and where each one's part of it ends.
struct Table {
    text: Vec<u8>,
    ends: Vec<u32>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table { text: Vec::new(), ends: Vec::with_capacity(LOW.len() + HIGH.len()) };
    for code in LOW.chain(HIGH) {
        char::from_u32(code).into_iter().for_each(|letter| map(letter, &mut table.text));
        table.ends.push(table.text.len() as u32);
    }
    table
});

/// Appends the key of `text` for i;unicode-casemap.
fn push_mapped(text: &str, out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(letter) = push_ascii(&mut rest, out) {
        rest = &rest[letter.len_utf8()..];
        match place(letter) {
            Some(place) => {
                let (start, end) = (TABLE.ends[place - 1], TABLE.ends[place]);
                out.extend_from_slice(&TABLE.text[start as usize..end as usize]);
            }
            None if is_unmapped(letter) => push(letter, out),
            None => map(letter, out),
        }
    }
}

/// Where the table has a character that is not ASCII.
fn place(letter: char) -> Option<usize> {
    let code = letter as u32;
    match code {
        _ if LOW.contains(&code) => Some(code as usize),
        _ if HIGH.contains(&code) => Some((LOW.end + code - HIGH.start) as usize),
        _ => None,
    }
}

/// Appends the key of the ASCII at the beginning of `rest`, and returns the character behind it.
fn push_ascii(rest: &mut &str, out: &mut Vec<u8>) -> Option<char> {
    let size = if rest.is_ascii() { rest.len() } else { ascii_size(rest.as_bytes()) };
    let (ascii, others) = rest.split_at(size);
    let start = out.len();
    out.extend_from_slice(ascii.as_bytes());
    out[start..].make_ascii_uppercase();
    *rest = others;
    others.chars().next()
}

/// Octets of the ASCII at the beginning of `text`.
fn ascii_size(text: &[u8]) -> usize {
    const STEP: usize = 32;
    let whole = STEP * text.chunks_exact(STEP).take_while(|piece| piece.is_ascii()).count();
    whole + text[whole..].iter().take_while(|octet| octet.is_ascii()).count()
}

fn push(letter: char, out: &mut Vec<u8>) {
    out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Ideographs, and Hangul, whose decomposition is not in the character database (RFC 5051 2).
fn is_unmapped(letter: char) -> bool {
    matches!(letter, '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}')
}

fn map(letter: char, out: &mut Vec<u8>) {
    let normalizer = DecomposingNormalizerBorrowed::new_nfkd();
    let letters = normalizer.normalize_iter(iter::once(title_case(letter)));
    letters.for_each(|letter| push(letter, out));
}

/// The simple title case of the character database. It is the upper case, unless that is not one
/// character, or for the letters named here.
fn title_case(letter: char) -> char {
    let moved = |by: u32| char::from_u32(letter as u32 + by).unwrap_or(letter);
    match letter {
        '\u{1c4}'..='\u{1c6}' => '\u{1c5}',
        '\u{1c7}'..='\u{1c9}' => '\u{1c8}',
        '\u{1ca}'..='\u{1cc}' => '\u{1cb}',
        '\u{1f1}'..='\u{1f3}' => '\u{1f2}',
        // Georgian letters are their own title case.
        '\u{10d0}'..='\u{10ff}' => letter,
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => moved(8),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => moved(9),
        letter => {
            let mut upper = letter.to_uppercase();
            match (upper.next(), upper.next()) {
                (Some(only), None) => only,
                _ => letter,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> String {
        let mut key = Vec::new();
        Collation::UnicodeCasemap.push_key(text, &mut key);
        String::from_utf8(key).expect("UTF-8")
    }

    #[test]
    fn keys() {
        const CASES: &[(&str, &str)] = &[
            ("", ""),
            ("Hello [1]", "HELLO [1]"),
            ("Gr\u{fc}\u{df}e", "GRU\u{308}\u{df}E"),
            ("\u{e9}\u{c9}", "E\u{301}E\u{301}"),
            ("\u{3c3}\u{3c2}\u{3a3}", "\u{3a3}\u{3a3}\u{3a3}"),
            ("\u{44f}", "\u{42f}"),
            ("\u{fb01}", "fi"),
            ("\u{1c6}", "Dz\u{30c}"),
            ("\u{10d0}", "\u{10d0}"),
            ("\u{1fb3}", "\u{391}\u{345}"),
            ("a\u{a0}b", "A B"),
            ("\u{304c}", "\u{304b}\u{3099}"),
            ("\u{65e5}\u{d55c}", "\u{65e5}\u{d55c}"),
            ("\u{ff21}\u{ff41}", "AA"),
            ("\u{10428}", "\u{10400}"),
        ];
        for &(text, expected) in CASES {
            assert_eq!(key(text), expected, "{text:?}");
        }
    }

    /// RFC 4790 9.2, 9.3; RFC 5255 4.6.
    #[test]
    fn other_comparators() {
        let key = |collation: Collation, text| {
            let mut key = Vec::new();
            collation.push_order_key(text, &mut key);
            key
        };
        assert_eq!(key(Collation::AsciiCasemap, "aZ{\u{e9}"), "AZ{\u{e9}".as_bytes());
        assert_eq!(key(Collation::Octet, "aZ\u{e9}"), "aZ\u{e9}".as_bytes());
        for collation in Collation::ALL {
            assert!(key(collation, "\u{fffd}a") > key(collation, "\u{10ffff}"), "{collation:?}");
        }
    }

    #[test]
    fn the_table_is_the_mapping() {
        for letter in LOW.chain(HIGH).filter_map(char::from_u32) {
            let mut mapped = Vec::new();
            map(letter, &mut mapped);
            assert_eq!(key(&letter.to_string()).as_bytes(), mapped, "{letter:?}");
        }
    }
}
