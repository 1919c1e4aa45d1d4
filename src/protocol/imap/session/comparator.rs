//! COMPARATOR (RFC 5255 4.7): by which SEARCH, SORT and THREAD compare strings.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};
use crate::protocol::mime::{ActiveComparator, Collation};

/// Comparators in one command.
const COMPARATORS_MAX: usize = 50;
/// Octets of one (RFC 4790 3.2).
const PATTERN_MAX: usize = 255;

/// `comparator-cmd = "COMPARATOR" *(SP comp-order-quoted)`
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Comparator {
    /// No argument: which one is active.
    Tell,
    /// The one that the first argument means that means any; and all that any argument means.
    Choose(ActiveComparator, Vec<Collation>),
    /// None is meant.
    Unknown,
}

impl Arguments<'_> for Comparator {
    fn parse(cursor: &mut Cursor<'_>, _: bool) -> Parsed<Comparator> {
        let mut count = 0;
        let mut chosen: Option<ActiveComparator> = None;
        let mut meant = [false; Collation::ALL.len()];
        while cursor.another() {
            count += 1;
            let argument = cursor.astring()?;
            if count > COMPARATORS_MAX || argument.len() > PATTERN_MAX {
                return Err("too many comparators, or too long a one");
            }
            let (descending, pattern) = match &*argument {
                [b'-', pattern @ ..] => (true, pattern),
                [b'+', pattern @ ..] => (false, pattern),
                pattern => (false, pattern),
            };
            for (collation, meant) in Collation::ALL.into_iter().zip(&mut meant) {
                if means(pattern, collation) {
                    chosen = chosen.or(Some(ActiveComparator { collation, descending }));
                    *meant = true;
                }
            }
        }
        let meant = Collation::ALL.into_iter().zip(meant).filter(|(_, meant)| *meant);
        Ok(match chosen {
            _ if count == 0 => Comparator::Tell,
            None => Comparator::Unknown,
            Some(chosen) => Comparator::Choose(chosen, meant.map(|(it, _)| it).collect()),
        })
    }
}

/// Whether a collation's name has the form of `pattern`, whose `*` stand for any characters (RFC
/// 4790 3.2); `default` is the one that a session begins with.
fn means(pattern: &[u8], collation: Collation) -> bool {
    if pattern.eq_ignore_ascii_case(b"default") {
        return collation == Collation::default();
    }
    let name = collation.name().as_bytes();
    let mut pieces = pattern.split(|octet| *octet == b'*');
    let Some(rest) = strip(name, pieces.next().unwrap_or_default()) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    let between = pieces.try_fold(rest, |rest, piece| {
        (0..=rest.len()).find_map(|at| strip(rest.get(at..)?, piece))
    });
    let end = between.and_then(|rest| rest.get(rest.len().checked_sub(last.len())?..));
    end.is_some_and(|end| end.eq_ignore_ascii_case(last))
}

/// `text` without `start`, if it begins with that.
fn strip<'t>(text: &'t [u8], start: &[u8]) -> Option<&'t [u8]> {
    let (found, rest) = text.split_at_checked(start.len())?;
    found.eq_ignore_ascii_case(start).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, parse, tests::check},
        *,
    };

    #[test]
    fn comparators() {
        use Collation::{AsciiCasemap, Octet, UnicodeCasemap};
        let chosen = |collation, descending, meant: &[Collation]| {
            Comparator::Choose(ActiveComparator { collation, descending }, meant.to_vec())
        };
        let cases = [
            ("COMPARATOR", Comparator::Tell),
            ("COMPARATOR i;octet", chosen(Octet, false, &[Octet])),
            ("COMPARATOR \"cz;*\" I;Ascii-CaseMap", chosen(AsciiCasemap, false, &[AsciiCasemap])),
            ("COMPARATOR \"*\"", chosen(UnicodeCasemap, false, &Collation::ALL)),
            (
                "COMPARATOR \"i;*casemap\"",
                chosen(UnicodeCasemap, false, &[UnicodeCasemap, AsciiCasemap]),
            ),
            ("COMPARATOR i;octet default", chosen(Octet, false, &[UnicodeCasemap, Octet])),
            ("COMPARATOR -i;octet", chosen(Octet, true, &[Octet])),
            ("COMPARATOR +i;octet", chosen(Octet, false, &[Octet])),
            ("COMPARATOR \"i*a*-*a*\"", chosen(AsciiCasemap, false, &[AsciiCasemap])),
            ("COMPARATOR i;ascii-numeric", Comparator::Unknown),
            ("COMPARATOR \"\" octet \"*;octet;\" \"i;octet*t\"", Comparator::Unknown),
        ];
        for (command, expected) in cases {
            check(command, CommandBody::Comparator(expected));
        }
    }

    #[test]
    fn limits() {
        let is_taken =
            |arguments: String| parse(format!("a COMPARATOR{arguments}\r\n").as_bytes()).is_ok();
        assert!(is_taken(" cz".repeat(COMPARATORS_MAX)));
        assert!(!is_taken(" cz".repeat(COMPARATORS_MAX + 1)));
        assert!(is_taken(format!(" \"{}\"", "*a".repeat(127))));
        assert!(!is_taken(format!(" \"{}\"", "*".repeat(256))));
    }
}
