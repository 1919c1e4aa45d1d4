//! LIST with RFC 5258, RFC 5819 and RFC 6154, and LSUB (RFC 3501 6.3.8, 6.3.9).
//!
//! Every existing mailbox's superior levels exist too (the store sees to it), so that only names
//! that are merely subscribed can be `\NonExistent`.

use std::collections::{BTreeMap, HashSet};

use super::{
    folder::attribute_of_use,
    reply::{Done, Failure, Reply},
    session::Session,
    status,
};
use crate::{
    protocol::imap::{Attributes, Code, List, ListItem, ListPattern, MailboxName, SEPARATOR},
    store::MailboxInfo,
};

/// Octets of names held against a pattern before other sessions get their turn: well under 1 ms
/// even for a pattern of wildcards.
const OCTETS_PER_TURN: usize = 4_096;

/// Patterns of one command and the work done with them.
struct Matcher {
    patterns: Vec<ListPattern>,
    /// Octets of names matched since the last turn.
    octets: usize,
}

impl Matcher {
    fn new(reference: &MailboxName<'_>, patterns: &[MailboxName<'_>]) -> Result<Matcher, Failure> {
        let not_a_name = |_| Failure::no(Code::Cannot, "Not a mailbox pattern");
        let reference = reference.to_utf8().map_err(not_a_name)?;
        let mut compiled = Vec::new();
        for pattern in patterns {
            let pattern = pattern.to_utf8().map_err(not_a_name)?;
            // RFC 3501 6.3.8: the canonical form is the two put together. A pattern too long to
            // match any name matches none.
            compiled.extend(ListPattern::new(&format!("{reference}{pattern}")));
        }
        Ok(Matcher { patterns: compiled, octets: 0 })
    }

    async fn matches(&mut self, session: &Session, name: &str) -> bool {
        for pattern in &self.patterns {
            self.octets += name.len() + 1;
            if self.octets > OCTETS_PER_TURN {
                self.octets = 0;
                session.shard.executor.yield_now().await;
            }
            if pattern.matches(name) {
                return true;
            }
        }
        false
    }
}

/// What LIST has to know of all mailboxes before it can describe one.
struct Folders {
    existing: BTreeMap<String, MailboxInfo>,
    subscribed: HashSet<String>,
    /// Every proper ancestor of an existing mailbox.
    parents: HashSet<String>,
    /// Every proper ancestor of a name subscribed to.
    subscribed_parents: HashSet<String>,
}

impl Folders {
    fn new(session: &Session) -> Result<Folders, Failure> {
        let account = session.account()?;
        let existing: BTreeMap<String, MailboxInfo> =
            account.mailboxes().into_iter().map(|info| (info.name.clone(), info)).collect();
        let subscribed: HashSet<String> = account.subscriptions().into_iter().collect();
        let parents = existing.keys().flat_map(|name| ancestors(name)).map(str::to_owned).collect();
        let subscribed_parents =
            subscribed.iter().flat_map(|name| ancestors(name)).map(str::to_owned).collect();
        Ok(Folders { existing, subscribed, parents, subscribed_parents })
    }

    /// Names to hold against the patterns, INBOX first.
    fn candidates(&self, list: &List<'_>) -> Vec<String> {
        let mut names: Vec<&String> = self.existing.keys().collect();
        if list.selection.subscribed {
            names.extend(&self.subscribed);
            if list.selection.recursive_match {
                names.extend(&self.subscribed_parents);
            }
        }
        names.sort_by_key(|name| (name.as_str() != "INBOX", name.as_str()));
        names.dedup();
        names.into_iter().cloned().collect()
    }

    /// The LIST response for `name`; `None` if the selection options rule it out (RFC 5258 3.1).
    fn describe<'n>(&self, name: &'n str, list: &List<'_>) -> Option<ListItem<'n>> {
        let info = self.existing.get(name);
        let special_use = info.and_then(|info| info.special_use).map(attribute_of_use);
        let subscribed = self.subscribed.contains(name);
        let selection = list.selection;
        let child_subscribed = selection.recursive_match
            && selection.subscribed
            && self.subscribed_parents.contains(name);
        let selected = (!selection.subscribed || subscribed || child_subscribed)
            && (!selection.special_use || special_use.is_some());
        if !selected {
            return None;
        }
        let mut attributes = if self.parents.contains(name) {
            Attributes::HAS_CHILDREN
        } else {
            Attributes::HAS_NO_CHILDREN
        };
        if info.is_none() {
            attributes.insert(Attributes::NON_EXISTENT);
        }
        if subscribed && (list.returns.subscribed || selection.subscribed) {
            attributes.insert(Attributes::SUBSCRIBED);
        }
        Some(ListItem { name, attributes, special_use, child_subscribed })
    }
}

pub(super) async fn list(session: &mut Session, list: &List<'_>) -> Reply {
    let asks_separator = !list.extended && list.patterns.iter().all(|it| it.0.is_empty());
    if asks_separator {
        session.writer().list_separator();
        return Done::ok("LIST completed");
    }
    let mut matcher = Matcher::new(&list.reference, &list.patterns)?;
    let folders = Folders::new(session)?;
    for name in folders.candidates(list) {
        if !matcher.matches(session, &name).await {
            continue;
        }
        let Some(item) = folders.describe(&name, list) else { continue };
        session.writer().list(&item);
        if let (Some(items), Some(info)) = (list.returns.status, folders.existing.get(&name)) {
            match status::tell(session, info, items).await {
                // Deleted since: RFC 5819 2 lets the STATUS be missing.
                Err(Failure::No { .. }) | Ok(()) => {}
                Err(failure) => return Err(failure),
            }
        }
        session.flush_if_full().await?;
    }
    Done::ok("LIST completed")
}

pub(super) async fn lsub(
    session: &mut Session,
    reference: &MailboxName<'_>,
    pattern: &MailboxName<'_>,
) -> Reply {
    let mut matcher = Matcher::new(reference, std::slice::from_ref(pattern))?;
    let subscribed = session.account()?.subscriptions();
    let mut told: BTreeMap<&str, Attributes> = BTreeMap::new();
    for name in &subscribed {
        if matcher.matches(session, name).await {
            told.insert(name, Attributes::default());
            continue;
        }
        // RFC 3501 6.3.9: with `%` a level that is not subscribed itself, but has subscribed
        // levels below, is told as \Noselect.
        for parent in ancestors(name) {
            if !told.contains_key(parent) && matcher.matches(session, parent).await {
                told.insert(parent, Attributes::NO_SELECT);
            }
        }
    }
    for (name, attributes) in told {
        session.writer().lsub(&ListItem {
            name,
            attributes,
            special_use: None,
            child_subscribed: false,
        });
        session.flush_if_full().await?;
    }
    Done::ok("LSUB completed")
}

/// Superior levels of `name`: of `a/b/c` these are `a` and `a/b`.
fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices(SEPARATOR).filter_map(|(end, _)| name.get(..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superior_levels() {
        const CASES: &[(&str, &[&str])] =
            &[("a", &[]), ("a/b", &["a"]), ("a/b/c", &["a", "a/b"]), ("ü/x", &["ü"])];
        for (name, expected) in CASES {
            assert_eq!(ancestors(name).collect::<Vec<_>>(), *expected, "{name}");
        }
    }
}
