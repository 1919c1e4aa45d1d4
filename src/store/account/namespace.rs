//! The names of an account's mailboxes: rules, hierarchy, subscriptions, counters for new ids.
//!
//! Names are UTF-8 paths with '/' between levels (the IMAP service translates modified UTF-7).
//! INBOX is case-insensitive and always exists (RFC 3501 5.1). A level above a mailbox whose own
//! mailbox was deleted is a `\Noselect` name (RFC 3501 6.3.4): it is not stored, but follows from
//! the names below it, and disappears with the last of them. An account keeps two namespaces, one
//! pending and one published; both change by the same effects.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    rc::Rc,
};

use super::super::{
    error::StoreError,
    format::effect::{Effect, NewMailbox},
};
use crate::model::{MailboxId, SpecialUse, UidValidity};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailboxInfo {
    pub id: MailboxId,
    /// UTF-8 path, levels separated by '/'; INBOX is always "INBOX".
    pub name: String,
    pub special_use: Option<SpecialUse>,
    pub uid_validity: UidValidity,
}

/// Which names [`crate::store::Account::names_after`] returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Names {
    Existing,
    Subscribed,
    Both,
}

/// Levels a name may have.
const DEPTH_MAX: usize = 32;
/// Subscriptions an account may hold; they need not name mailboxes, so the mailbox limit does not
/// apply.
const SUBSCRIPTIONS_MAX: usize = 10_000;

const INBOX: &str = "INBOX";

/// One mailbox's entry; shared by the pending and the published namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    name: Rc<str>,
    special_use: Option<SpecialUse>,
    uid_validity: UidValidity,
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Namespace {
    by_name: BTreeMap<Rc<str>, MailboxId>,
    by_id: BTreeMap<MailboxId, Entry>,
    pub subscriptions: BTreeSet<String>,
    /// Next numbers to allocate: both only grow, whatever is deleted.
    pub next_mailbox: u32,
    pub next_uid_validity: u32,
}

/// The stored form of `name`: INBOX in capitals (also as the first level of a path), without a
/// trailing '/' (with which a client announces that it will create children, RFC 3501 6.3.3).
pub(crate) fn normalise(name: &str) -> String {
    let name = name.strip_suffix('/').unwrap_or(name);
    match name.split_once('/') {
        Some((first, rest)) if first.eq_ignore_ascii_case(INBOX) => format!("{INBOX}/{rest}"),
        None if name.eq_ignore_ascii_case(INBOX) => INBOX.to_owned(),
        _ => name.to_owned(),
    }
}

/// Refuses names that are invalid for a mailbox. `name` is normalised; `name_max` in octets.
fn validate(name: &str, name_max: usize) -> Result<(), StoreError> {
    if name.len() > name_max {
        return Err(StoreError::Limit("mailbox name length"));
    }
    if name.split('/').count() > DEPTH_MAX {
        return Err(StoreError::Limit("mailbox name depth"));
    }
    if name.split('/').any(str::is_empty) {
        return Err(StoreError::NotPermitted("mailbox name has an empty level"));
    }
    if name.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        return Err(StoreError::NotPermitted("mailbox name has a control character"));
    }
    Ok(())
}

/// The changes that rename a mailbox.
pub(crate) struct Renaming {
    /// Mailboxes to create first.
    pub superiors: Vec<NewMailbox>,
    /// New names of the mailbox and all below it.
    pub renames: Vec<(MailboxId, String)>,
}

/// Limits for creating and renaming.
#[derive(Clone, Copy)]
pub(crate) struct NameLimits {
    pub name_max: usize,
    pub mailboxes_max: usize,
}

impl Namespace {
    /// All mailboxes, sorted by name, INBOX first.
    pub(crate) fn list(&self) -> Vec<MailboxInfo> {
        let inbox = self.by_name.get(INBOX).copied();
        let others = self.by_name.values().copied().filter(|id| Some(*id) != inbox);
        inbox.into_iter().chain(others).filter_map(|id| self.info(id)).collect()
    }

    /// The next `count` names in order after `after`: of mailboxes, of subscriptions, or both.
    pub(crate) fn names_after(
        &self,
        after: Option<&str>,
        which: Names,
        count: usize,
    ) -> Vec<String> {
        let bounds = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let existing = self.by_name.range::<str, _>(bounds).map(|(name, _)| name.as_ref());
        let subscribed = self.subscriptions.range::<str, _>(bounds).map(String::as_str);
        let mut existing = existing.filter(|_| which != Names::Subscribed).peekable();
        let mut subscribed = subscribed.filter(|_| which != Names::Existing).peekable();
        let mut names = Vec::with_capacity(count);
        while names.len() < count {
            let next = match (existing.peek(), subscribed.peek()) {
                (Some(left), Some(right)) if left == right => {
                    subscribed.next();
                    existing.next()
                }
                (Some(left), Some(right)) if left > right => subscribed.next(),
                (Some(_), _) => existing.next(),
                (None, _) => subscribed.next(),
            };
            let Some(name) = next else { break };
            names.push(name.to_owned());
        }
        names
    }

    /// Whether a mailbox is below `name`.
    pub(crate) fn has_children(&self, name: &str) -> bool {
        let prefix = format!("{name}/");
        let below = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let first = self.by_name.range::<str, _>(below).next();
        first.is_some_and(|(name, _)| name.starts_with(&prefix))
    }

    /// Whether a subscribed name is below `name`.
    pub(crate) fn has_subscribed_below(&self, name: &str) -> bool {
        let prefix = format!("{name}/");
        let below = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let first = self.subscriptions.range::<str, _>(below).next();
        first.is_some_and(|name| name.starts_with(&prefix))
    }

    pub(crate) fn info(&self, id: MailboxId) -> Option<MailboxInfo> {
        let Entry { name, special_use, uid_validity } = self.by_id.get(&id)?;
        Some(MailboxInfo {
            id,
            name: name.as_ref().to_owned(),
            special_use: *special_use,
            uid_validity: *uid_validity,
        })
    }

    pub(crate) fn contains(&self, id: MailboxId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Finds `name`, with any spelling of INBOX.
    pub(crate) fn find(&self, name: &str) -> Option<MailboxId> {
        match self.by_name.get(name) {
            Some(id) => Some(*id),
            None => self.by_name.get(normalise(name).as_str()).copied(),
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = MailboxId> {
        self.by_id.keys().copied()
    }

    /// Names strictly below `name`.
    fn children(&self, name: &str) -> impl Iterator<Item = (&Rc<str>, MailboxId)> {
        let prefix = format!("{name}/");
        self.by_name
            .range::<str, _>((
                std::ops::Bound::Included(prefix.as_str()),
                std::ops::Bound::Unbounded,
            ))
            .map(|(name, id)| (name, *id))
            .take_while(move |(name, _)| name.starts_with(&prefix))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// The mailboxes to create so that `name` exists: itself and its missing superiors, these
    /// first (RFC 3501 6.3.3).
    pub(crate) fn plan_create(
        &self,
        name: &str,
        special_use: Option<SpecialUse>,
        limits: NameLimits,
    ) -> Result<Vec<NewMailbox>, StoreError> {
        let name = normalise(name);
        validate(&name, limits.name_max)?;
        if self.find(&name).is_some() {
            return Err(StoreError::MailboxExists);
        }
        let mut new = self.missing_superiors(&name);
        new.push(self.next_after(new.len(), name, special_use));
        if self.by_id.len() + new.len() > limits.mailboxes_max {
            return Err(StoreError::Limit("mailboxes per account"));
        }
        Ok(new)
    }

    /// The nearest level above `name`, which is normalised, that is a mailbox.
    pub(crate) fn nearest_above(&self, name: &str) -> Option<MailboxId> {
        let levels = name.rmatch_indices('/').filter_map(|(end, _)| name.get(..end));
        levels.into_iter().find_map(|level| self.find(level))
    }

    /// An existing `\Noselect` level is left alone: creating a child does not recreate it.
    fn missing_superiors(&self, name: &str) -> Vec<NewMailbox> {
        let mut new = Vec::new();
        for (at, _) in name.match_indices('/') {
            let superior = &name[..at];
            if self.find(superior).is_none() && !self.has_children(superior) {
                new.push(self.next_after(new.len(), superior.to_owned(), None));
            }
        }
        new
    }

    fn next_after(
        &self,
        count: usize,
        name: String,
        special_use: Option<SpecialUse>,
    ) -> NewMailbox {
        NewMailbox {
            id: MailboxId(self.next_mailbox + count as u32),
            uid_validity: UidValidity(self.next_uid_validity.saturating_add(count as u32)),
            special_use,
            name,
        }
    }

    /// Children stay, and with them the name as `\Noselect`. That cannot be deleted again.
    pub(crate) fn plan_delete(&self, name: &str) -> Result<MailboxId, StoreError> {
        let Some(id) = self.find(name) else {
            return Err(match self.has_children(&normalise(name)) {
                true => StoreError::NotPermitted("not a mailbox, and has children"),
                false => StoreError::NoSuchMailbox,
            });
        };
        if id == MailboxId::INBOX {
            return Err(StoreError::NotPermitted("INBOX cannot be deleted"));
        }
        Ok(id)
    }

    /// Not for INBOX, whose renaming moves messages instead. Renaming a `\Noselect` name renames
    /// everything below it. It cannot be the target: its children and the source's could have the
    /// same names.
    pub(crate) fn plan_rename(
        &self,
        source: &str,
        target: &str,
        limits: NameLimits,
    ) -> Result<Renaming, StoreError> {
        let (source, target) = (normalise(source), normalise(target));
        let id = self.find(&source);
        if id.is_none() && !self.has_children(&source) {
            return Err(StoreError::NoSuchMailbox);
        }
        validate(&target, limits.name_max)?;
        if self.find(&target).is_some() || self.has_children(&target) {
            return Err(StoreError::MailboxExists);
        }
        if target.strip_prefix(source.as_str()).is_some_and(|rest| rest.starts_with('/')) {
            return Err(StoreError::NotPermitted("a mailbox cannot move below itself"));
        }
        let mut renames: Vec<_> = id.into_iter().map(|id| (id, target.clone())).collect();
        for (name, id) in self.children(&source) {
            let name = format!("{target}{}", &name[source.len()..]);
            validate(&name, limits.name_max)?;
            renames.push((id, name));
        }
        let superiors = self.missing_superiors(&target);
        if self.by_id.len() + superiors.len() > limits.mailboxes_max {
            return Err(StoreError::Limit("mailboxes per account"));
        }
        Ok(Renaming { superiors, renames })
    }

    pub(crate) fn check_subscription(&self, name: &str, name_max: usize) -> Result<(), StoreError> {
        validate(name, name_max)?;
        if self.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(StoreError::Limit("subscriptions"));
        }
        Ok(())
    }

    /// Applies `effect` if it concerns names.
    pub(crate) fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Account { mailboxes, .. } => {
                for mailbox in mailboxes {
                    self.insert(mailbox);
                    self.subscriptions.insert(mailbox.name.clone());
                }
            }
            Effect::CreateMailbox { mailbox, .. } => self.insert(mailbox),
            Effect::DeleteMailbox { mailbox, .. } => {
                if let Some(entry) = self.by_id.remove(mailbox) {
                    self.by_name.remove(&entry.name);
                }
            }
            Effect::RenameMailbox { mailbox, name, .. } => {
                if let Some(entry) = self.by_id.get_mut(mailbox) {
                    let name: Rc<str> = name.as_str().into();
                    // Another mailbox of the same transaction may have taken the old name.
                    if self.by_name.get(&entry.name) == Some(mailbox) {
                        self.by_name.remove(&entry.name);
                    }
                    self.by_name.insert(name.clone(), *mailbox);
                    entry.name = name;
                }
            }
            Effect::Subscription { name, subscribed: true, .. } => {
                self.subscriptions.insert(name.clone());
            }
            Effect::Subscription { name, subscribed: false, .. } => {
                self.subscriptions.remove(name);
            }
            _ => {}
        }
    }

    pub(crate) fn insert(&mut self, mailbox: &NewMailbox) {
        let name: Rc<str> = mailbox.name.as_str().into();
        self.by_name.insert(name.clone(), mailbox.id);
        self.by_id.insert(
            mailbox.id,
            Entry { name, special_use: mailbox.special_use, uid_validity: mailbox.uid_validity },
        );
        self.next_mailbox = self.next_mailbox.max(mailbox.id.0.saturating_add(1));
        let next_validity = mailbox.uid_validity.0.saturating_add(1);
        self.next_uid_validity = self.next_uid_validity.max(next_validity);
    }

    /// Octets of all names, as in an account's page.
    pub(crate) fn octets(&self) -> usize {
        let names: usize = self.by_name.keys().map(|name| name.len()).sum();
        names + self.subscriptions.iter().map(String::len).sum::<usize>()
    }

    /// True for effects that [`Namespace::apply`] acts on.
    pub(crate) fn concerns(effect: &Effect) -> bool {
        matches!(
            effect,
            Effect::Account { .. }
                | Effect::CreateMailbox { .. }
                | Effect::DeleteMailbox { .. }
                | Effect::RenameMailbox { .. }
                | Effect::Subscription { .. }
        )
    }
}

/// The first mailboxes of a new account: INBOX and `defaults`, numbered from INBOX's 1.
/// `uid_validity` seeds the account's counter: the time, so that an account recreated after a lost
/// data directory does not match clients' caches of the old one.
pub(crate) fn first_mailboxes(
    uid_validity: UidValidity,
    defaults: &[(String, SpecialUse)],
) -> Vec<NewMailbox> {
    let inbox = (INBOX, None);
    let others = defaults.iter().map(|(name, special_use)| (name.as_str(), Some(*special_use)));
    let numbered = std::iter::once(inbox).chain(others).zip(0u32..);
    numbered
        .map(|((name, special_use), number)| NewMailbox {
            id: MailboxId(MailboxId::INBOX.0 + number),
            uid_validity: UidValidity(uid_validity.0.saturating_add(number)),
            special_use,
            name: name.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AccountId;

    const LIMITS: NameLimits = NameLimits { name_max: 64, mailboxes_max: 12 };
    const ACCOUNT: AccountId = AccountId(1);

    fn namespace(names: &[&str]) -> Namespace {
        let mut namespace = Namespace::default();
        let mailboxes = first_mailboxes(UidValidity(100), &[]);
        namespace.apply(&Effect::Account { account: ACCOUNT, mailboxes });
        for name in names {
            create(&mut namespace, name).unwrap();
        }
        namespace
    }

    fn create(namespace: &mut Namespace, name: &str) -> Result<(), StoreError> {
        for mailbox in namespace.plan_create(name, None, LIMITS)? {
            namespace.apply(&Effect::CreateMailbox { account: ACCOUNT, mailbox });
        }
        Ok(())
    }

    fn rename(namespace: &mut Namespace, source: &str, target: &str) -> Result<(), StoreError> {
        let Renaming { superiors, renames } = namespace.plan_rename(source, target, LIMITS)?;
        for mailbox in superiors {
            namespace.apply(&Effect::CreateMailbox { account: ACCOUNT, mailbox });
        }
        for (mailbox, name) in renames {
            namespace.apply(&Effect::RenameMailbox { account: ACCOUNT, mailbox, name });
        }
        Ok(())
    }

    fn names(namespace: &Namespace) -> Vec<String> {
        namespace.list().into_iter().map(|info| info.name).collect()
    }

    #[test]
    fn refused_names() {
        const CASES: &[&str] = &["", "/", "a//b", "/a", "a\r\nb", "a\u{7f}", "inbox", "InBoX/"];
        for name in CASES {
            assert!(create(&mut namespace(&[]), name).is_err(), "{name:?}");
        }
        let deep = vec!["d"; DEPTH_MAX + 1].join("/");
        for name in [deep, "x".repeat(65)] {
            assert!(matches!(create(&mut namespace(&[]), &name), Err(StoreError::Limit(_))));
        }
    }

    #[test]
    fn superiors_are_created_and_inbox_comes_first() {
        let namespace = namespace(&["A/b/c/", "inbox/Lists", "Zoo"]);
        assert_eq!(names(&namespace), ["INBOX", "A", "A/b", "A/b/c", "INBOX/Lists", "Zoo"]);
        assert_eq!(namespace.find("iNbOx/Lists"), namespace.find("INBOX/Lists"));
    }

    /// LIST walks the names in pieces: none is left out or repeated, however it is cut.
    #[test]
    fn names_come_by_pieces() {
        let mut namespace = namespace(&["A/b/c", "A-x", "Z"]);
        for name in ["A/b/other", "A/b/c", "gone/deep/er"] {
            namespace.subscriptions.insert(name.to_owned());
        }
        const BOTH: &[&str] =
            &["A", "A-x", "A/b", "A/b/c", "A/b/other", "INBOX", "Z", "gone/deep/er"];
        const CASES: &[(Names, &[&str])] = &[
            (Names::Existing, &["A", "A-x", "A/b", "A/b/c", "INBOX", "Z"]),
            (Names::Subscribed, &["A/b/c", "A/b/other", "INBOX", "gone/deep/er"]),
            (Names::Both, BOTH),
        ];
        for (which, expected) in CASES {
            for count in 1..=expected.len() + 1 {
                let mut told: Vec<String> = Vec::new();
                loop {
                    let last = told.last().map(String::as_str);
                    let piece = namespace.names_after(last, *which, count);
                    assert!(piece.len() <= count);
                    if piece.is_empty() {
                        break;
                    }
                    told.extend(piece);
                }
                assert_eq!(told, *expected, "{which:?} by {count}");
            }
        }
        for (name, children, subscribed) in
            [("A", true, true), ("A/b/c", false, false), ("gone", false, true), ("Z", false, false)]
        {
            assert_eq!(namespace.has_children(name), children, "{name}");
            assert_eq!(namespace.has_subscribed_below(name), subscribed, "{name}");
        }
    }

    #[test]
    fn the_nearest_level_above() {
        let mut namespace = namespace(&["A/b/c", "INBOX/x"]);
        delete(&mut namespace, "A/b").unwrap();
        let cases = [
            ("A", None),
            ("A/b", Some("A")),
            ("A/b/d", Some("A")),
            ("A/b/c/d/e", Some("A/b/c")),
            ("B/c", None),
            ("INBOX/y", Some("INBOX")),
        ];
        for (name, above) in cases {
            let found = namespace.nearest_above(name).and_then(|id| namespace.info(id));
            assert_eq!(found.map(|info| info.name).as_deref(), above, "{name}");
        }
    }

    #[test]
    fn rename_takes_children_along() {
        let mut namespace = namespace(&["A/b/c", "A2", "Ab"]);
        let c = namespace.find("A/b/c");
        rename(&mut namespace, "A", "X/y").unwrap();
        assert_eq!(names(&namespace), ["INBOX", "A2", "Ab", "X", "X/y", "X/y/b", "X/y/b/c"]);
        assert_eq!(namespace.find("X/y/b/c"), c);
        for (source, target) in [("X", "X/deeper"), ("none", "N"), ("X", "Ab"), ("X", "inbox")] {
            assert!(rename(&mut namespace, source, target).is_err(), "{source} {target}");
        }
        // Below its own old name is allowed once another mailbox has that name.
        rename(&mut namespace, "Ab", "Abc").unwrap();
    }

    #[test]
    fn numbers_are_never_given_twice() {
        let mut namespace = namespace(&["A"]);
        let first = namespace.info(namespace.find("A").unwrap()).unwrap();
        let mailbox = namespace.plan_delete("A").unwrap();
        namespace.apply(&Effect::DeleteMailbox { account: ACCOUNT, mailbox });
        create(&mut namespace, "A").unwrap();
        let second = namespace.info(namespace.find("A").unwrap()).unwrap();
        assert!(second.id > first.id && second.uid_validity > first.uid_validity);
    }

    fn delete(namespace: &mut Namespace, name: &str) -> Result<(), StoreError> {
        let mailbox = namespace.plan_delete(name)?;
        namespace.apply(&Effect::DeleteMailbox { account: ACCOUNT, mailbox });
        Ok(())
    }

    #[test]
    fn children_outlive_their_parent() {
        let mut namespace = namespace(&["A/b/c"]);
        let first = namespace.info(namespace.find("A").unwrap()).unwrap();
        delete(&mut namespace, "A").unwrap();
        delete(&mut namespace, "A/b").unwrap();
        assert_eq!(names(&namespace), ["INBOX", "A/b/c"]);
        assert!(namespace.has_children("A") && namespace.has_children("A/b"));
        for name in ["A", "A/", "A/b"] {
            let refused = delete(&mut namespace, name);
            assert!(matches!(refused, Err(StoreError::NotPermitted(_))), "{name}");
        }
        // Neither a new child nor a renamed one recreates it; CREATE does, as a new mailbox.
        create(&mut namespace, "A/d").unwrap();
        rename(&mut namespace, "A/d", "A/b/e").unwrap();
        assert_eq!(names(&namespace), ["INBOX", "A/b/c", "A/b/e"]);
        create(&mut namespace, "A").unwrap();
        let second = namespace.info(namespace.find("A").unwrap()).unwrap();
        assert!(second.id > first.id && second.uid_validity > first.uid_validity);
        // It disappears with its last child.
        for name in ["A/b/c", "A/b/e"] {
            delete(&mut namespace, name).unwrap();
        }
        assert!(matches!(delete(&mut namespace, "A/b"), Err(StoreError::NoSuchMailbox)));
        assert_eq!(names(&namespace), ["INBOX", "A"]);
    }

    #[test]
    fn a_name_of_no_mailbox_is_renamed_with_its_children() {
        let mut namespace = namespace(&["A/b", "A/c/d", "F", "T/b"]);
        for name in ["A", "T"] {
            delete(&mut namespace, name).unwrap();
        }
        // The names below T would conflict.
        for source in ["A", "F", "T/b"] {
            let refused = rename(&mut namespace, source, "T");
            assert!(matches!(refused, Err(StoreError::MailboxExists)), "{source}");
        }
        assert!(rename(&mut namespace, "A", "A/b/x").is_err());
        rename(&mut namespace, "A", "N").unwrap();
        assert_eq!(names(&namespace), ["INBOX", "F", "N/b", "N/c", "N/c/d", "T/b"]);
        assert!(matches!(rename(&mut namespace, "A", "M"), Err(StoreError::NoSuchMailbox)));
    }

    #[test]
    fn refused_deletions_and_limits() {
        let mut namespace = namespace(&["A/b"]);
        for name in ["INBOX", "inbox", "none"] {
            assert!(namespace.plan_delete(name).is_err(), "{name}");
        }
        let results: Vec<_> =
            (0..20).map(|n| create(&mut namespace, &format!("m{n}")).is_ok()).collect();
        assert_eq!(results.iter().filter(|ok| **ok).count(), LIMITS.mailboxes_max - 3);
    }
}
