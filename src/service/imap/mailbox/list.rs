//! LIST with RFC 5258, RFC 5819 and RFC 6154, and LSUB (RFC 3501 6.3.8, 6.3.9).
//!
//! Names are taken from the account by pieces and looked up one by one: a LIST holds a piece of them
//! and an output buffer, whatever the account has and however slowly its client reads.
//!
//! A level above a mailbox that is none itself, its own having been deleted, is `\Noselect` (RFC
//! 3501 6.3.4). The account does not keep such names: they are derived, each just before the first
//! name below it. Names that are merely subscribed are `\NonExistent`.

use super::{
    super::{
        reply::{Done, Failure, Reply},
        state::Session,
    },
    status,
};
use crate::{
    protocol::imap::{Attributes, List, ListItem, ListPattern, MailboxName, SEPARATOR},
    store::{Account, MailboxInfo, Names},
};

/// Steps of matching before other sessions get their turn: well under 1 ms even for a pattern of
/// wildcards.
const STEPS_PER_TURN: usize = 4_096;

/// Names that a LIST or LSUB holds at once.
const NAMES_PIECE: usize = 64;

const INBOX: &str = "INBOX";

/// Patterns of one command and the work done with them.
struct Matcher {
    patterns: Vec<ListPattern>,
    /// Steps taken since the last turn.
    steps: usize,
}

impl Matcher {
    /// A pattern that no name can match, being too long or not decodable, matches none: asking for
    /// it is no error (RFC 3501 6.3.8).
    fn new(reference: &MailboxName<'_>, patterns: &[MailboxName<'_>]) -> Matcher {
        let reference = reference.to_utf8().ok();
        let compile = |pattern: &MailboxName<'_>| {
            let (reference, pattern) = (reference.as_deref()?, pattern.to_utf8().ok()?);
            // RFC 3501 6.3.8: the canonical form is the two put together.
            ListPattern::new(&format!("{reference}{pattern}"))
        };
        Matcher { patterns: patterns.iter().filter_map(compile).collect(), steps: 0 }
    }

    async fn matches(&mut self, session: &Session, name: &str) -> bool {
        for pattern in &self.patterns {
            self.steps += pattern.cost(name);
            if self.steps > STEPS_PER_TURN {
                self.steps = 0;
                session.shard.executor.yield_now().await;
            }
            if pattern.matches(name) {
                return true;
            }
        }
        false
    }
}

/// The names of an account piece by piece, INBOX first if it is about mailboxes: what is told of them may wait for a client
/// that does not read, and then holds one piece, however many there are. Names that come or go
/// meanwhile are told or not.
struct NameWalk {
    which: Names,
    piece: std::vec::IntoIter<String>,
    last: Option<String>,
    inbox_told: bool,
}

impl NameWalk {
    fn new(which: Names) -> NameWalk {
        NameWalk { which, piece: Vec::new().into_iter(), last: None, inbox_told: false }
    }

    fn next(&mut self, account: &Account) -> Option<String> {
        let inbox_first = self.which != Names::Subscribed;
        if inbox_first && !self.inbox_told {
            self.inbox_told = true;
            return Some(INBOX.to_owned());
        }
        loop {
            let Some(name) = self.piece.next() else {
                let piece = account.names_after(self.last.as_deref(), self.which, NAMES_PIECE);
                self.last = Some(piece.last()?.clone());
                self.piece = piece.into_iter();
                continue;
            };
            if !(inbox_first && name == INBOX) {
                return Some(name);
            }
        }
    }
}

/// Superior levels of names that come in order, each once: all names below a level are neighbours.
#[derive(Default)]
struct Superiors {
    previous: String,
}

impl Superiors {
    /// Those of `name` that the name before did not have.
    fn new_of(&mut self, name: &str) -> Vec<String> {
        let is_new = |level: &&str| {
            let rest = self.previous.strip_prefix(level);
            !rest.is_some_and(|rest| rest.starts_with(SEPARATOR))
        };
        let new = ancestors(name).filter(is_new).map(str::to_owned).collect();
        name.clone_into(&mut self.previous);
        new
    }
}

/// The LIST response for `name`; `None` if the selection options rule it out (RFC 5258 3.1).
fn describe<'n>(
    account: &Account,
    name: &'n str,
    info: Option<&MailboxInfo>,
    list: &List<'_>,
) -> Option<ListItem<'n>> {
    let special_use = info.and_then(|info| info.special_use);
    let subscribed = account.is_subscribed(name);
    let selection = list.selection;
    let child_subscribed =
        selection.recursive_match && selection.subscribed && account.has_subscribed_below(name);
    let selected = (!selection.subscribed || subscribed || child_subscribed)
        && (!selection.special_use || special_use.is_some());
    if !selected {
        return None;
    }
    let has_children = account.has_children(name);
    let mut attributes = match has_children {
        true => Attributes::HAS_CHILDREN,
        false => Attributes::HAS_NO_CHILDREN,
    };
    if info.is_none() {
        attributes.insert(match has_children {
            true => Attributes::NO_SELECT,
            false => Attributes::NON_EXISTENT,
        });
    }
    if subscribed && (list.returns.subscribed || selection.subscribed) {
        attributes.insert(Attributes::SUBSCRIBED);
    }
    Some(ListItem { name, attributes, special_use, child_subscribed })
}

pub(crate) async fn list(session: &mut Session, list: &List<'_>) -> Reply {
    let asks_separator = !list.extended && list.patterns.iter().all(|it| it.0.is_empty());
    if asks_separator {
        session.writer().list_separator();
        return Done::ok("LIST completed");
    }
    let mut matcher = Matcher::new(&list.reference, &list.patterns);
    let account = session.account()?;
    let selection = list.selection;
    let mut walk = NameWalk::new(if selection.subscribed { Names::Both } else { Names::Existing });
    let mut superiors = Superiors::default();
    while let Some(name) = walk.next(&account) {
        // RFC 5258 3.1: superior levels of what is subscribed may be names of nothing themselves. If
        // it is not subscriptions that are asked for, so may those of every mailbox.
        let has_levels_to_tell =
            !selection.subscribed || selection.recursive_match && account.is_subscribed(&name);
        if has_levels_to_tell {
            for level in superiors.new_of(&name) {
                let comes_itself = account.mailbox_by_name(&level).is_some()
                    || selection.subscribed && account.is_subscribed(&level);
                if !comes_itself {
                    tell(session, &account, &mut matcher, &level, list).await?;
                }
            }
        }
        tell(session, &account, &mut matcher, &name, list).await?;
    }
    Done::ok("LIST completed")
}

/// The responses for `name`, if it is asked for.
async fn tell(
    session: &mut Session,
    account: &Account,
    matcher: &mut Matcher,
    name: &str,
    list: &List<'_>,
) -> Result<(), Failure> {
    if !matcher.matches(session, name).await {
        return Ok(());
    }
    let info = account.mailbox_by_name(name);
    let Some(item) = describe(account, name, info.as_ref(), list) else { return Ok(()) };
    session.writer().list(&item);
    if let (Some(items), Some(info)) = (list.returns.status, info) {
        match status::tell(session, &info, items).await {
            // Deleted since: RFC 5819 2 lets the STATUS be missing.
            Err(Failure::No { .. }) | Ok(()) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(session.flush_if_full().await?)
}

pub(crate) async fn lsub(
    session: &mut Session,
    reference: &MailboxName<'_>,
    pattern: &MailboxName<'_>,
) -> Reply {
    let mut matcher = Matcher::new(reference, std::slice::from_ref(pattern));
    let account = session.account()?;
    let mut walk = NameWalk::new(Names::Subscribed);
    let mut superiors = Superiors::default();
    while let Some(name) = walk.next(&account) {
        if matcher.matches(session, &name).await {
            tell_lsub(session, &name, Attributes::default()).await?;
            continue;
        }
        // RFC 3501 6.3.9: with `%` a level that is not subscribed itself, but has subscribed
        // levels below, is told as \Noselect.
        for level in superiors.new_of(&name) {
            if !account.is_subscribed(&level) && matcher.matches(session, &level).await {
                tell_lsub(session, &level, Attributes::NO_SELECT).await?;
            }
        }
    }
    Done::ok("LSUB completed")
}

async fn tell_lsub(
    session: &mut Session,
    name: &str,
    attributes: Attributes,
) -> Result<(), Failure> {
    let item = ListItem { name, attributes, special_use: None, child_subscribed: false };
    session.writer().lsub(&item);
    Ok(session.flush_if_full().await?)
}

/// Superior levels of `name`: of `a/b/c` these are `a` and `a/b`.
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
