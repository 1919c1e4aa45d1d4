//! The comparator i;unicode-casemap (RFC 5051), by which SORT and THREAD compare strings (RFC 5255
//! 4.5, RFC 5256 2).
//!
//! A string becomes a key of octets; the order of keys is the order of strings. Each character is
//! mapped by itself: to title case, then to its decomposition.

use std::{iter, sync::LazyLock};

use icu_normalizer::DecomposingNormalizerBorrowed;

/// Characters below this are looked up; beyond it most have no decomposition.
const TABLE_END: u32 = 0x3100;

/// The mapped characters below [`TABLE_END`]: a text, and where each one's part of it ends.
struct Table {
    text: String,
    ends: Vec<u32>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table { text: String::new(), ends: Vec::with_capacity(TABLE_END as usize) };
    for code in 0..TABLE_END {
        char::from_u32(code).into_iter().for_each(|letter| map(letter, &mut table.text));
        table.ends.push(table.text.len() as u32);
    }
    table
});

/// Appends the key of `text`.
pub fn push_key(text: &str, out: &mut Vec<u8>) {
    if text.is_ascii() {
        let start = out.len();
        out.extend_from_slice(text.as_bytes());
        out[start..].make_ascii_uppercase();
        return;
    }
    let table = &*TABLE;
    for letter in text.chars() {
        let code = letter as usize;
        match table.ends.get(code) {
            Some(&end) => {
                let start = code.checked_sub(1).map_or(0, |before| table.ends[before]);
                out.extend_from_slice(&table.text.as_bytes()[start as usize..end as usize]);
            }
            None if is_unmapped(letter) => {
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
            None => {
                let mut mapped = String::new();
                map(letter, &mut mapped);
                out.extend_from_slice(mapped.as_bytes());
            }
        }
    }
}

/// Ideographs, and Hangul, whose decomposition is not in the character database (RFC 5051 2).
fn is_unmapped(letter: char) -> bool {
    matches!(letter, '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}')
}

fn map(letter: char, out: &mut String) {
    let normalizer = DecomposingNormalizerBorrowed::new_nfkd();
    out.extend(normalizer.normalize_iter(iter::once(title_case(letter))));
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
        push_key(text, &mut key);
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

    #[test]
    fn the_table_is_the_mapping() {
        for letter in (0..0x3200).filter_map(char::from_u32) {
            let mut mapped = String::new();
            map(letter, &mut mapped);
            // A letter that is not ASCII, so that the table is used.
            assert_eq!(key(&format!("\u{65e5}{letter}")), format!("\u{65e5}{mapped}"));
        }
    }
}
