//! LIST patterns: `*` matches anything, `%` anything but the hierarchy separator (RFC 3501 6.3.8).
//!
//! Called by [`super::list`]. Matching walks all alternatives at once (a set of pattern positions
//! moved along by each octet of the name), so that a pattern full of wildcards costs pattern
//! length times name length and never more.

/// Separates levels of a mailbox name, in the store and on the wire.
pub(super) const SEPARATOR: u8 = b'/';

/// Pattern steps beyond this cannot be matched by any name the store takes.
const STEPS_MAX: usize = 2048;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// `*`
    Any,
    /// `%`
    AnyInLevel,
    Octet(u8),
}

/// A pattern ready to match names. Patterns and names are compared as UTF-8.
#[derive(Debug)]
pub(super) struct Pattern {
    steps: Vec<Step>,
}

impl Pattern {
    /// `None` if the pattern is longer than any name could match. Runs of wildcards are merged; a
    /// first level that is "inbox" in any case is INBOX (RFC 3501 5.1).
    pub fn new(pattern: &str) -> Option<Pattern> {
        let mut steps: Vec<Step> = Vec::new();
        for octet in pattern.bytes() {
            let step = match octet {
                b'*' => Step::Any,
                b'%' => Step::AnyInLevel,
                octet => Step::Octet(octet),
            };
            match (steps.last(), step) {
                (Some(Step::Any), Step::Any | Step::AnyInLevel)
                | (Some(Step::AnyInLevel), Step::AnyInLevel) => {}
                (Some(Step::AnyInLevel), Step::Any) => {
                    steps.pop();
                    steps.push(Step::Any);
                }
                _ => steps.push(step),
            }
            if steps.len() > STEPS_MAX {
                return None;
            }
        }
        let mut pattern = Pattern { steps };
        pattern.fold_inbox();
        Some(pattern)
    }

    /// Rewrites a leading `inbox` so that comparing octets is enough. With a wildcard in it ("IN%")
    /// the pattern stays as it is and is matched in the case in which INBOX is stored.
    fn fold_inbox(&mut self) {
        let Some((first, rest)) = self.steps.split_at_mut_checked(5) else { return };
        let is_inbox = first.iter().zip(b"INBOX").all(|(step, inbox)| {
            matches!(step, Step::Octet(octet) if octet.eq_ignore_ascii_case(inbox))
        });
        let level_ends = match rest.first() {
            Some(Step::Octet(octet)) => *octet == SEPARATOR,
            Some(Step::Any | Step::AnyInLevel) | None => true,
        };
        if is_inbox && level_ends {
            for (step, inbox) in first.iter_mut().zip(b"INBOX") {
                *step = Step::Octet(*inbox);
            }
        }
    }

    pub fn matches(&self, name: &str) -> bool {
        let count = self.steps.len();
        // reached[p]: the octets so far can be matched by the first p steps.
        let mut reached = vec![false; count + 1];
        let mut next = vec![false; count + 1];
        reached[0] = true;
        for octet in name.bytes() {
            self.skip_wildcards(&mut reached);
            next.fill(false);
            let mut alive = false;
            for (position, step) in self.steps.iter().enumerate() {
                if !reached[position] {
                    continue;
                }
                match *step {
                    Step::Any => next[position] = true,
                    Step::AnyInLevel if octet != SEPARATOR => next[position] = true,
                    Step::Octet(wanted) if wanted == octet => next[position + 1] = true,
                    _ => continue,
                }
                alive = true;
            }
            if !alive {
                return false;
            }
            std::mem::swap(&mut reached, &mut next);
        }
        self.skip_wildcards(&mut reached);
        reached[count]
    }

    /// A wildcard may also match nothing.
    fn skip_wildcards(&self, reached: &mut [bool]) {
        for (position, step) in self.steps.iter().enumerate() {
            if reached[position] && matches!(step, Step::Any | Step::AnyInLevel) {
                reached[position + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check((pattern, name, expected): (&str, &str, bool)) {
        let compiled = Pattern::new(pattern).expect("within limits");
        assert_eq!(compiled.matches(name), expected, "{pattern:?} on {name:?}");
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
            ("a*", "a", true),
            ("a*c", "a/b/c", true),
            ("a%c", "abc", true),
            ("a%c", "a/c", false),
            ("%/%", "a/b", true),
            ("*%", "a/b", true),
            ("%*", "a/b", true),
            ("inbox", "INBOX", true),
            ("iNbOx/%", "INBOX/x", true),
            ("inbox*", "INBOX/x/y", true),
            ("inboxes", "INBOXes", false),
            ("Sent", "sent", false),
            ("", "a", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("Entwürfe%", "Entwürfe", true),
        ];
        for &case in CASES {
            check(case);
        }
    }

    #[test]
    fn a_wildcard_bomb_is_linear_in_the_name() {
        let bomb = "*a".repeat(1000) + "b";
        let pattern = Pattern::new(&bomb).expect("within limits");
        assert!(!pattern.matches(&"a".repeat(1000)));
    }

    #[test]
    fn an_endless_pattern_matches_nothing() {
        assert!(Pattern::new(&"a".repeat(STEPS_MAX + 1)).is_none());
    }
}
