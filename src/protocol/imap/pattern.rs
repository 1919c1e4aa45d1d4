//! LIST patterns (RFC 3501 6.3.8): `*` matches anything, `%` anything but the separator.
//!
//! All possible matches are followed at once: the set of pattern positions reached so far moves
//! along the name, 64 positions per word. A pattern of wildcards costs the length of the name times
//! a 64th of the pattern's, never an exponential.

use super::name::SEPARATOR;

/// Longest pattern; none of our names could match a longer one in a useful way.
pub const PATTERN_MAX: usize = 1_024;

/// A pattern prepared for matching many names.
#[derive(Clone, Debug)]
pub struct ListPattern {
    /// Each an octet of the pattern, with runs of wildcards merged.
    steps: Vec<u8>,
    /// Bit p: step p is `*` or `%`.
    wild: Vec<u64>,
    /// Bit p: step p is `*`.
    any: Vec<u64>,
}

impl ListPattern {
    /// `pattern` is in UTF-8 (reference and pattern joined). A first level `inbox` in any case
    /// means INBOX (RFC 3501 5.1). `None` if it is longer than [`PATTERN_MAX`].
    pub fn new(pattern: &str) -> Option<ListPattern> {
        if pattern.len() > PATTERN_MAX {
            return None;
        }
        let mut steps: Vec<u8> = Vec::with_capacity(pattern.len());
        for octet in pattern.bytes() {
            match (steps.last(), octet) {
                // A run of wildcards is one: `*` if there is a `*` in it.
                (Some(b'*' | b'%'), b'%') | (Some(b'*'), b'*') => {}
                (Some(b'%'), b'*') => {
                    steps.pop();
                    steps.push(b'*');
                }
                _ => steps.push(octet),
            }
        }
        fold_inbox(&mut steps);
        let words = steps.len() / 64 + 1;
        let (mut wild, mut any) = (vec![0; words], vec![0; words]);
        for (position, octet) in steps.iter().enumerate() {
            let bit = 1_u64 << (position % 64);
            wild[position / 64] |= if matches!(octet, b'*' | b'%') { bit } else { 0 };
            any[position / 64] |= if *octet == b'*' { bit } else { 0 };
        }
        Some(ListPattern { steps, wild, any })
    }

    /// Upper bound of the steps that [`ListPattern::matches`] takes with `name`: some 50 ns each.
    pub fn cost(&self, name: &str) -> usize {
        (name.len() + 1) * self.wild.len()
    }

    /// `name` is in UTF-8; INBOX is spelled `INBOX`.
    pub fn matches(&self, name: &str) -> bool {
        // Bit p of `reached`: the first p steps match the name so far.
        let mut reached = vec![0_u64; self.wild.len()];
        reached[0] = 1;
        self.pass_wildcards(&mut reached);
        for octet in name.bytes() {
            // A wildcard stays at its position, a literal step advances if it equals this octet.
            let stays = if octet == SEPARATOR as u8 { &self.any } else { &self.wild };
            let mut carry = 0;
            let mut alive = 0;
            for (word, bits) in reached.iter_mut().enumerate() {
                let moves = self.literals_equal(word, *bits & !self.wild[word], octet);
                *bits = *bits & stays[word] | moves << 1 | carry;
                carry = moves >> 63;
                alive |= *bits;
            }
            if alive == 0 {
                return false;
            }
            self.pass_wildcards(&mut reached);
        }
        reached[self.steps.len() / 64] >> (self.steps.len() % 64) & 1 == 1
    }

    /// Those of the positions `bits` (of one word) whose literal step is `octet`.
    fn literals_equal(&self, word: usize, mut bits: u64, octet: u8) -> u64 {
        let mut equal = 0;
        while bits != 0 {
            let position = bits.trailing_zeros();
            bits &= bits - 1;
            if self.steps.get(word * 64 + position as usize) == Some(&octet) {
                equal |= 1 << position;
            }
        }
        equal
    }

    /// A wildcard may match nothing. One pass is enough: no two wildcards are adjacent.
    fn pass_wildcards(&self, reached: &mut [u64]) {
        let mut carry = 0;
        for (bits, wild) in reached.iter_mut().zip(&self.wild) {
            let passed = *bits & wild;
            *bits |= passed << 1 | carry;
            carry = passed >> 63;
        }
    }
}

/// Spells a first level `inbox` as the store does, so that octets can be compared.
fn fold_inbox(steps: &mut [u8]) {
    let Some((first, rest)) = steps.split_at_mut_checked(5) else { return };
    let level_ends = matches!(rest.first(), None | Some(b'/' | b'*' | b'%'));
    if level_ends && first.eq_ignore_ascii_case(b"INBOX") {
        first.copy_from_slice(b"INBOX");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, exponential.
    fn slow(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((&wild @ (b'*' | b'%'), rest)) => {
                slow(rest, name)
                    || name.split_first().is_some_and(|(&octet, name)| {
                        (wild == b'*' || octet != b'/') && slow(pattern, name)
                    })
            }
            Some((octet, rest)) => name.first() == Some(octet) && slow(rest, &name[1..]),
        }
    }

    #[test]
    fn cases() {
        const CASES: &[(&str, &str, bool)] = &[
            ("*", "INBOX", true),
            ("*", "a/b/c", true),
            ("%", "INBOX", true),
            ("%", "a/b", false),
            ("a/%", "a/b", true),
            ("a/%", "a/b/c", false),
            ("a/%", "a", false),
            ("a*c", "a/b/c", true),
            ("a%c", "abc", true),
            ("a%c", "a/c", false),
            ("%/%", "a/b", true),
            ("*%", "a/b", true),
            ("%*", "a/b", true),
            ("inbox", "INBOX", true),
            ("iNbOx/%", "INBOX/x", true),
            ("inbox*", "INBOX/x/y", true),
            ("inboxes", "INBOXES", false),
            ("Sent", "sent", false),
            ("", "", true),
            ("", "a", false),
            ("Entw\u{fc}rfe%", "Entw\u{fc}rfe", true),
        ];
        for &(pattern, name, expected) in CASES {
            let compiled = ListPattern::new(pattern).expect("short");
            assert_eq!(compiled.matches(name), expected, "{pattern:?} on {name:?}");
        }
    }

    #[test]
    fn a_wildcard_bomb_is_cheap() {
        for bomb in ["%*".repeat(512), "*a".repeat(511) + "*b", "%a".repeat(511) + "b"] {
            let pattern = ListPattern::new(&bomb).expect("within the limit");
            let name = "a".repeat(1_000);
            assert_eq!(pattern.matches(&name), bomb == "%*".repeat(512), "{bomb}");
        }
        assert!(ListPattern::new(&"*a".repeat(PATTERN_MAX)).is_none());
    }

    proptest! {
        #[test]
        fn as_defined(pattern in "[ab/*%]{0,10}", name in "[ab/]{0,10}") {
            let compiled = ListPattern::new(&pattern).expect("short");
            let expected = slow(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(compiled.matches(&name), expected);
        }

        #[test]
        fn as_defined_over_word_edges(middle in "[ab%*]{0,6}", name in "[ab]{60,70}") {
            let pattern = format!("{}{middle}", &name[..58]);
            let compiled = ListPattern::new(&pattern).expect("short");
            let expected = slow(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(compiled.matches(&name), expected);
        }
    }
}
