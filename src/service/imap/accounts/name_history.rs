//! What became of the names of an account's mailboxes, for a client that reads of several changes
//! at once (RFC 5465 5.4).
//!
//! Such a client is told no step in between: what it is told leads from the names that it knew to
//! those of now, in the order in which it is told. A rename takes along what is below, of which
//! nothing is told. Where no such order is found, it has to begin anew.
//!
//! Knows nothing of the store but what the caller says; the model in the tests is a client that
//! believes all that it is told.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{Lsn, MailboxId},
    protocol::imap::SEPARATOR,
};

/// Renames times mailboxes to which something happened: the work that it takes to find out what the
/// client is told, under 1 ms. With more it begins anew.
const NAME_STEPS_MAX: usize = 8_192;

/// Something that happened to the name of a mailbox, or to who may look it up.
pub(super) struct NameEvent {
    pub mailbox: MailboxId,
    pub what: What,
    /// The user could look it up before.
    pub was_visible: bool,
}

/// With the names of that time.
pub(super) enum What {
    Created(String),
    Deleted(String),
    /// `entry`: what was renamed at once has the same.
    Renamed {
        from: String,
        to: String,
        entry: Lsn,
    },
    Access(String),
}

impl What {
    /// The name before it, or the one that it began with.
    fn before(&self) -> &String {
        match self {
            What::Created(name) | What::Deleted(name) | What::Access(name) => name,
            What::Renamed { from, .. } => from,
        }
    }

    fn after(&self) -> &String {
        match self {
            What::Renamed { to, .. } => to,
            _ => self.before(),
        }
    }
}

/// The events that the client does not know of, in their order.
#[derive(Default)]
pub(super) struct NameHistory {
    events: Vec<NameEvent>,
    renames: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::service::imap) enum NameChange {
    /// A mailbox was created, deleted or renamed.
    Made,
    /// A mailbox above was renamed, and this one with it.
    Carried,
    /// Something below it was.
    Below,
    /// The user may look it up now, or may not any more.
    Access,
}

/// The client is told what is now at `name`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ToldName {
    pub name: String,
    /// The name by which the client knows the mailbox that is there now.
    pub old_name: Option<String>,
    /// The one by which it knows the mailbox if it is not told of those above.
    pub first_name: Option<String>,
    pub what: NameChange,
}

/// What the client is told.
pub(super) struct Outcome {
    pub told: Vec<ToldName>,
    /// Those that something happened to, and the names that the client knew first.
    first_names: BTreeMap<MailboxId, Option<String>>,
    /// Names below which others may have been renamed without the client's knowledge.
    pub unsure: Vec<String>,
    /// The renames that it is told of.
    moves: Vec<(String, String)>,
}

/// What happened to a mailbox.
struct Trace {
    /// The name that the client knew first.
    start: Option<String>,
    /// The last event.
    last: usize,
    what: NameChange,
}

impl NameHistory {
    pub(super) fn push(&mut self, event: NameEvent) {
        self.renames += usize::from(matches!(event.what, What::Renamed { .. }));
        self.events.push(event);
    }

    /// What the client is told; `None` if it has to begin anew. `now`: the name of a mailbox, and
    /// whether the user may look it up.
    pub(super) fn outcome(
        &self,
        now: impl Fn(MailboxId) -> Option<(String, bool)>,
    ) -> Option<Outcome> {
        let mailboxes: BTreeSet<MailboxId> = self.events.iter().map(|it| it.mailbox).collect();
        if self.renames * mailboxes.len() > NAME_STEPS_MAX {
            return None;
        }
        let traces = self.traces();
        let visible = |mailbox| now(mailbox).and_then(|(name, shown)| shown.then_some(name));
        let mut order: Vec<Named<'_>> =
            traces.iter().map(|(&id, trace)| (trace, visible(id))).collect();
        order.sort_by_key(|(trace, _)| trace.last);
        // A name that was left may have been taken before the latest rename of who left it.
        let (told, client) = told_in(&order).or_else(|| {
            order.sort_by_key(|(trace, now)| trace.start.is_none() || now.is_none());
            told_in(&order)
        })?;
        let mut unsure = Vec::new();
        for (&mailbox, trace) in traces.iter().filter(|_| self.renames > 0) {
            let name = match (now(mailbox), self.events.get(trace.last)) {
                (Some((name, _)), _) => name,
                (None, Some(event)) => self.after(trace.last, event.what.after().clone()),
                (None, None) => continue,
            };
            if trace.start.as_deref().map(|start| client.name_of(start)).as_ref() != Some(&name) {
                unsure.push(name);
            }
        }
        let first_names = traces.into_iter().map(|(id, trace)| (id, trace.start)).collect();
        Some(Outcome { told, first_names, unsure, moves: client.moves })
    }

    /// Whether the client knows a mailbox, to which nothing happened but to those above it, by its
    /// name of now.
    pub(super) fn knows(&self, outcome: &Outcome, mailbox: MailboxId, name: &str) -> bool {
        let known = mapped(&outcome.moves, &self.before(self.events.len(), name.to_owned()));
        outcome.first_names.contains_key(&mailbox) || known == name
    }

    /// The name that the client knew first of a mailbox that has the name `name` now.
    pub(super) fn first_name(
        &self,
        outcome: &Outcome,
        mailbox: MailboxId,
        name: &str,
    ) -> Option<String> {
        match outcome.first_names.get(&mailbox) {
            Some(first) => first.clone(),
            None => Some(self.before(self.events.len(), name.to_owned())),
        }
    }

    fn traces(&self) -> BTreeMap<MailboxId, Trace> {
        let mut traces: BTreeMap<MailboxId, Trace> = BTreeMap::new();
        for (index, NameEvent { mailbox, what, was_visible }) in self.events.iter().enumerate() {
            let trace = traces.entry(*mailbox).or_insert_with(|| {
                let start = was_visible.then(|| self.before(index, what.before().clone()));
                Trace { start, last: index, what: NameChange::Access }
            });
            trace.last = index;
            if !matches!(what, What::Access(_)) {
                trace.what = NameChange::Made;
            }
        }
        traces
    }

    fn renames(&self) -> impl DoubleEndedIterator<Item = (usize, (&String, &String), Lsn)> {
        self.events.iter().enumerate().filter_map(|(index, event)| match &event.what {
            What::Renamed { from, to, entry } => Some((index, (from, to), *entry)),
            _ => None,
        })
    }

    fn entry(&self, index: usize) -> Option<Lsn> {
        match self.events.get(index)?.what {
            What::Renamed { entry, .. } => Some(entry),
            _ => None,
        }
    }

    /// The name before all events of what had the name `name` just before the event at `index`. An
    /// entry renames it once.
    fn before(&self, index: usize, mut name: String) -> String {
        let mut done = self.entry(index);
        for (_, (from, to), entry) in self.renames().rev().filter(|(at, ..)| *at < index) {
            if done != Some(entry)
                && let Some(other) = renamed(&name, to, from)
            {
                (name, done) = (other, Some(entry));
            }
        }
        name
    }

    /// The name after all events of what had it just after the event at `index`.
    fn after(&self, index: usize, mut name: String) -> String {
        let mut done = self.entry(index);
        for (_, (from, to), entry) in self.renames().filter(|(at, ..)| *at > index) {
            if done != Some(entry)
                && let Some(other) = renamed(&name, from, to)
            {
                (name, done) = (other, Some(entry));
            }
        }
        name
    }
}

/// What happened to a mailbox, and the name by which the user may look it up now.
type Named<'a> = (&'a Trace, Option<String>);

/// What a client is told of one after the other; `None` if it does not make the names of now of
/// that.
fn told_in(order: &[Named<'_>]) -> Option<(Vec<ToldName>, Client)> {
    let names: BTreeSet<String> = order.iter().filter_map(|(_, now)| now.clone()).collect();
    let mut client = Client::default();
    client.names.extend(order.iter().filter_map(|(trace, _)| trace.start.clone()));
    let mut told = Vec::new();
    for (trace, now) in order {
        let known = trace.start.as_deref().map(|start| client.name_of(start));
        let (name, old_name) = match (known, now.clone()) {
            (None, None) => continue,
            (Some(known), Some(name)) if known == name => continue,
            (Some(known), Some(name)) => {
                client.rename(known.clone(), name.clone());
                (name, Some(known))
            }
            (Some(known), None) => {
                // Another one may have the name now.
                if !names.contains(&known) {
                    client.names.remove(&known);
                }
                (known, None)
            }
            (None, Some(name)) => {
                client.names.insert(name.clone());
                (name, None)
            }
        };
        let first_name = trace.start.clone();
        told.push(ToldName { name, old_name, first_name, what: trace.what });
    }
    (client.names == names).then_some((told, client))
}

/// What a client makes of what it is told.
#[derive(Default)]
struct Client {
    /// Those that it knows, of the mailboxes that something happened to.
    names: BTreeSet<String>,
    moves: Vec<(String, String)>,
}

impl Client {
    /// Of a mailbox that it knew first by the name `start`.
    fn name_of(&self, start: &str) -> String {
        mapped(&self.moves, start)
    }

    fn rename(&mut self, from: String, to: String) {
        let moved: Vec<(String, String)> = self
            .names
            .iter()
            .filter_map(|name| Some((name.clone(), renamed(name, &from, &to)?)))
            .collect();
        for (name, _) in &moved {
            self.names.remove(name);
        }
        self.names.extend(moved.into_iter().map(|(_, name)| name));
        self.moves.push((from, to));
    }
}

/// A name after several renames.
fn mapped(moves: &[(String, String)], name: &str) -> String {
    moves.iter().fold(name.to_owned(), |name, (from, to)| match renamed(&name, from, to) {
        Some(renamed) => renamed,
        None => name,
    })
}

/// The new name if it is renamed with `from`.
fn renamed(name: &str, from: &str, to: &str) -> Option<String> {
    let below = name.strip_prefix(from)?;
    (below.is_empty() || below.starts_with(SEPARATOR)).then(|| format!("{to}{below}"))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// An account: the names of mailboxes, and their access lists, of which the user may look up
    /// mailboxes by all but 0.
    #[derive(Clone, Default)]
    struct Account {
        mailboxes: BTreeMap<MailboxId, (String, u8)>,
        latest: u32,
    }

    #[derive(Clone, Debug)]
    enum Act {
        Create(&'static str, u8),
        Delete(&'static str),
        Rename(&'static str, &'static str),
        Grant(&'static str, u8),
    }

    impl Account {
        fn find(&self, name: &str) -> Option<MailboxId> {
            self.mailboxes.iter().find(|(_, found)| found.0 == name).map(|(id, _)| *id)
        }

        fn visible(&self) -> BTreeSet<String> {
            let shown = self.mailboxes.values().filter(|(_, list)| *list > 0);
            shown.map(|(name, _)| name.clone()).collect()
        }

        fn create(&mut self, name: &str, list: u8, history: &mut NameHistory) {
            let above = name.rsplit_once('/').map(|(above, _)| above);
            above.into_iter().for_each(|above| self.create(above, list, history));
            if self.find(name).is_none() {
                self.latest += 1;
                let mailbox = MailboxId(self.latest);
                self.mailboxes.insert(mailbox, (name.to_owned(), list));
                let what = What::Created(name.to_owned());
                history.push(NameEvent { mailbox, what, was_visible: false });
            }
        }

        /// Events are those of the journal of an account.
        fn act(&mut self, entry: u64, act: &Act, history: &mut NameHistory) {
            match act {
                Act::Create(name, list) => self.create(name, *list, history),
                Act::Delete(name) => {
                    let Some(mailbox) = self.find(name) else { return };
                    let (name, list) = self.mailboxes.remove(&mailbox).unwrap();
                    let what = What::Deleted(name);
                    history.push(NameEvent { mailbox, what, was_visible: list > 0 });
                }
                Act::Grant(name, list) => {
                    let Some(mailbox) = self.find(name) else { return };
                    let (name, before) = self.mailboxes[&mailbox].clone();
                    self.mailboxes.insert(mailbox, (name.clone(), *list));
                    let what = What::Access(name);
                    history.push(NameEvent { mailbox, what, was_visible: before > 0 });
                }
                Act::Rename(from, to) => self.rename((from, to), Lsn(entry), history),
            }
        }

        fn rename(&mut self, (from, to): (&str, &str), entry: Lsn, history: &mut NameHistory) {
            let is_free = !self.mailboxes.values().any(|it| renamed(&it.0, to, "").is_some());
            let is_there = self.mailboxes.values().any(|it| renamed(&it.0, from, "").is_some());
            if !is_free || !is_there || renamed(to, from, "").is_some() {
                return;
            }
            if let Some((above, _)) = to.rsplit_once('/') {
                self.create(above, 1, history);
            }
            let mut moved: Vec<(MailboxId, String, u8)> = Vec::new();
            for (&id, (name, list)) in &self.mailboxes {
                if renamed(name, from, to).is_some() {
                    moved.push((id, name.clone(), *list));
                }
            }
            moved.sort_by(|one, other| one.1.cmp(&other.1));
            let mut kept: Vec<(String, u8)> = Vec::new();
            for (mailbox, name, list) in moved {
                let new = renamed(&name, from, to).unwrap();
                self.mailboxes.insert(mailbox, (new.clone(), list));
                let mut above =
                    kept.iter().rev().filter(|(it, _)| renamed(&name, it, "").is_some());
                if above.next().is_some_and(|above| above.1 == list) {
                    continue;
                }
                kept.push((name.clone(), list));
                let what = What::Renamed { from: name, to: new, entry };
                history.push(NameEvent { mailbox, what, was_visible: list > 0 });
            }
        }

        /// What the client knows that believes what it is told; `None` if it has to begin anew.
        fn believed(
            &self,
            mut names: BTreeSet<String>,
            history: &NameHistory,
        ) -> Option<BTreeSet<String>> {
            let now = |id| self.mailboxes.get(&id).map(|(name, list)| (name.clone(), *list > 0));
            let outcome = history.outcome(now)?;
            for above in &outcome.unsure {
                let mut below = self.mailboxes.iter().filter(|(_, (name, list))| {
                    *list > 0 && name != above && renamed(name, above, "").is_some()
                });
                if !below.all(|(id, (name, _))| history.knows(&outcome, *id, name)) {
                    return None;
                }
            }
            let visible = self.visible();
            for ToldName { name, old_name, .. } in outcome.told {
                match old_name {
                    Some(old) => {
                        let new = |it: String| renamed(&it, &old, &name).unwrap_or(it);
                        names = names.into_iter().map(new).collect();
                    }
                    None if visible.contains(&name) => drop(names.insert(name)),
                    None => drop(names.remove(&name)),
                }
            }
            Some(names)
        }
    }

    const NAMES: [&str; 9] = ["a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/b/a", "b/a/a", "c"];

    fn name() -> impl Strategy<Value = &'static str> {
        (0..NAMES.len()).prop_map(|index| NAMES[index])
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            2 => (name(), 0..3_u8).prop_map(|(name, list)| Act::Create(name, list)),
            1 => name().prop_map(Act::Delete),
            3 => (name(), name()).prop_map(|(from, to)| Act::Rename(from, to)),
            1 => (name(), 0..3_u8).prop_map(|(name, list)| Act::Grant(name, list)),
        ]
    }

    /// `before` happens before the client knows all.
    fn check(before: &[Act], acts: &[Act]) -> Option<()> {
        let (mut account, mut history) = (Account::default(), NameHistory::default());
        before.iter().for_each(|act| account.act(0, act, &mut history));
        let (known, mut history) = (account.visible(), NameHistory::default());
        for (entry, act) in (1..).zip(acts) {
            account.act(entry, act, &mut history);
        }
        let believed = account.believed(known.clone(), &history)?;
        assert_eq!(believed, account.visible(), "known before: {known:?}");
        Some(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn what_is_told_leads_to_the_names_of_now(
            before in vec(act(), 0..8),
            acts in vec(act(), 0..6),
        ) {
            check(&before, &acts);
        }

        /// What one command changes can always be told.
        #[test]
        fn one_change_is_always_told(before in vec(act(), 0..12), act in act()) {
            check(&before, &[act]).unwrap();
        }
    }

    #[test]
    fn several_changes_in_the_order_in_which_they_can_be_told() {
        use Act::{Create, Delete, Rename};
        let all = [Create("a/a/a", 1), Create("b", 1)];
        // A mailbox takes the place of another one.
        check(&all, &[Delete("b"), Rename("a", "b")]).unwrap();
        check(&all, &[Rename("b", "c"), Rename("a", "b"), Create("a", 1)]).unwrap();
        check(&all, &[Rename("a", "c"), Rename("c", "a/b"), Rename("a/b", "c")]).unwrap();
        check(&all, &[Create("b/a", 1), Rename("b", "c"), Rename("c/a", "b")]).unwrap();
        // Two change places.
        assert!(check(&all, &[Rename("a", "c"), Rename("b", "a"), Rename("c", "b")]).is_none());
    }
}
