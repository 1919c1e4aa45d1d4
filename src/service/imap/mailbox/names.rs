//! Names for LIST and LSUB, matched by patterns.

use super::super::{folder::Place, state::Session};
use crate::protocol::imap::{Attributes, ListItem, ListPattern, MailboxName, NameForm, SEPARATOR};

/// Steps of matching before other sessions get their turn: well under 1 ms even for a pattern of
/// wildcards.
const STEPS_PER_TURN: usize = 4_096;

/// Patterns of one command and the work done with them.
pub(super) struct Matcher {
    patterns: Vec<ListPattern>,
    /// What the names begin with that each pattern matches.
    beginnings: Vec<String>,
    /// Steps taken since the last turn.
    steps: usize,
}

impl Matcher {
    /// A pattern that is too long or cannot be decoded matches no name; it is not an error (RFC
    /// 3501 6.3.8).
    pub(super) fn new(
        form: NameForm,
        reference: &MailboxName<'_>,
        patterns: &[MailboxName<'_>],
    ) -> Matcher {
        let reference = reference.to_utf8(form).ok();
        let compile = |pattern: &MailboxName<'_>| {
            let (reference, pattern) = (reference.as_deref()?, pattern.to_utf8(form).ok()?);
            // RFC 3501 6.3.8: the canonical form is the concatenation of the two.
            let whole = format!("{reference}{pattern}");
            let beginning = whole.split(['*', '%']).next().unwrap_or_default().to_owned();
            Some((ListPattern::new(&whole)?, beginning))
        };
        let (patterns, beginnings) = patterns.iter().filter_map(compile).unzip();
        Matcher { patterns, beginnings, steps: 0 }
    }

    /// Whether a pattern can match `level` or a name below it.
    pub(super) fn can_match_below(&self, level: &str) -> bool {
        self.beginnings.iter().any(|it| it.starts_with(level) || level.starts_with(it.as_str()))
    }

    pub(super) async fn matches(&mut self, session: &Session, name: &str) -> bool {
        for pattern in &self.patterns {
            self.steps += pattern.cost(name);
            if self.steps > STEPS_PER_TURN {
                self.steps = 0;
                session.channel.shard.executor.yield_now().await;
            }
            if pattern.matches(name) {
                return true;
            }
        }
        false
    }
}

/// RFC 9051 6.3.4, 6.3.6: tells a client the name of a new mailbox that is not what it wrote.
pub(super) fn tell_other_name(session: &mut Session, written: &MailboxName<'_>, place: &Place) {
    let Ok(written) = std::str::from_utf8(&written.0) else { return };
    let plain = written.strip_suffix(SEPARATOR).unwrap_or(written);
    if !session.rev2() || plain == place.name() {
        return;
    }
    let item = ListItem {
        name: place.name(),
        attributes: Attributes::default(),
        special_use: None,
        child_subscribed: false,
        child_special_use: false,
        old_name: Some(written),
    };
    session.writer().list(&item);
}

/// Superior levels of names given in order, each once: all names below a level are adjacent.
#[derive(Default)]
pub(super) struct Superiors {
    previous: String,
}

impl Superiors {
    /// The levels of `name` that the previous name did not have.
    pub(super) fn new_of(&mut self, name: &str) -> Vec<String> {
        let is_new = |level: &&str| {
            let rest = self.previous.strip_prefix(level);
            !rest.is_some_and(|rest| rest.starts_with(SEPARATOR))
        };
        let new = ancestors(name).filter(is_new).map(str::to_owned).collect();
        name.clone_into(&mut self.previous);
        new
    }
}

/// Superior levels of `name`: `a` and `a/b` for `a/b/c`.
fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices(SEPARATOR).filter_map(|(end, _)| name.get(..end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn superiors_come_once(names in prop::collection::btree_set("[ab]([-/][ab]){0,4}", 0..12)) {
            let mut superiors = Superiors::default();
            let mut told: Vec<String> =
                names.iter().flat_map(|name| superiors.new_of(name)).collect();
            told.sort();
            let mut expected: Vec<&str> = names.iter().flat_map(|name| ancestors(name)).collect();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(told, expected);
        }
    }

    #[test]
    fn superior_levels() {
        const CASES: &[(&str, &[&str])] =
            &[("a", &[]), ("a/b", &["a"]), ("a/b/c", &["a", "a/b"]), ("ü/x", &["ü"])];
        for (name, expected) in CASES {
            assert_eq!(ancestors(name).collect::<Vec<_>>(), *expected, "{name}");
        }
    }
}
