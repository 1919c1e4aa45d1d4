//! What changed in an account, as one user may know it: decided where the account is, with the
//! rights of that moment (RFC 5465 5: `l` and `r`).
//!
//! A name is told only if the user may look it up now, or could when it was taken, deleted or
//! renamed; nor is he told, of others, that something happened below the one above them. What he is
//! told of names is worked out by [`super::name_history`]. Of annotations, an account tells others
//! only those that all users share.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::take,
    sync::Arc,
};

use super::{
    super::reply::Failure,
    holding::{Holding, Listed},
    name_history::{NameChange, NameEvent, NameHistory, Outcome, ToldName, What},
};
use crate::{
    model::{AccountId, MailboxId, Right, Rights},
    protocol::imap::SEPARATOR,
    store::{AccessListThen, AccountChange, Annotated, MailboxInfo, MailboxStatus, MessageChange},
};

const INBOX: &str = "INBOX";

/// Mailboxes that were renamed with one above them, and are told of one by one. With more the
/// client begins anew.
const CARRIED_MAX: usize = 1_000;

/// Changes looked at before other sessions get their turn.
const CHANGES_PER_TURN: usize = 64;

/// The mailboxes of an account that a session asks about, by their names there. More than it wants
/// may be among them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::service::imap) struct Interest {
    pub all: bool,
    /// Of each the session wants the same, and names too: of a rename it tells all in one line.
    pub is_uniform: bool,
    pub names: BTreeSet<String>,
    /// Those, and all below them.
    pub subtrees: BTreeSet<String>,
}

impl Interest {
    fn covers(&self, name: &str) -> bool {
        self.all || self.names.contains(name) || is_at_or_below(&self.subtrees, name)
    }
}

/// Whether a name is one of `roots` or below one.
pub(in crate::service::imap) fn is_at_or_below(roots: &BTreeSet<String>, name: &str) -> bool {
    let above = name.match_indices(SEPARATOR).filter_map(|(end, _)| name.get(..end));
    !roots.is_empty() && above.chain([name]).any(|level| roots.contains(level))
}

/// Something that happened in an account. Names are those of the account.
#[derive(Debug)]
pub(in crate::service::imap) enum News {
    Messages(MessageNews),
    Name(NameNews),
    /// Of the user's own account: a name was subscribed, or is not any more.
    Subscription(String),
    Annotations(AnnotationNews),
}

/// Messages of a mailbox changed.
#[derive(Debug)]
pub(in crate::service::imap) struct MessageNews {
    pub name: String,
    pub mailbox: MailboxId,
    pub changes: MessageChanges,
    pub status: MailboxStatus,
    pub seen_is_personal: bool,
}

/// What happened to its messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::service::imap) struct MessageChanges {
    pub added: bool,
    pub expunged: bool,
    pub flags: bool,
    /// How many have no `\Seen`, which all users share.
    pub unseen: bool,
}

impl MessageChanges {
    fn add(&mut self, change: MessageChange) {
        match change {
            MessageChange::Added => self.added = true,
            MessageChange::Expunged => self.expunged = true,
            MessageChange::Flags => self.flags = true,
            MessageChange::Unseen => self.unseen = true,
        }
    }
}

/// A name means something else now, or its mailbox has other mailboxes below it.
#[derive(Debug)]
pub(in crate::service::imap) struct NameNews {
    pub name: String,
    /// Its mailbox had this one before.
    pub old_name: Option<String>,
    pub what: NameChange,
    /// The mailbox of this name, if the user may look it up, his rights on it, and its state if he
    /// may know that.
    pub found: Option<(MailboxInfo, Rights, Option<MailboxStatus>)>,
    pub seen_is_personal: bool,
    pub has_children: bool,
}

impl NameNews {
    /// Of a mailbox that the user may look up now.
    pub(in crate::service::imap) fn granted(listed: Listed) -> NameNews {
        let Listed { info, rights, seen_is_personal, has_children } = listed;
        let (name, what) = (info.name.clone(), NameChange::Access);
        let found = Some((info, rights, None));
        NameNews { name, old_name: None, what, found, seen_is_personal, has_children }
    }

    pub(in crate::service::imap) fn is_there(&self) -> bool {
        self.found.is_some()
    }
}

/// Annotations have other values.
#[derive(Debug)]
pub(in crate::service::imap) struct AnnotationNews {
    pub of: Annotated,
    /// Of a mailbox of the account.
    pub name: Option<String>,
    pub entries: Vec<String>,
}

impl Holding {
    /// What happened after the change numbered `known`, and the number of the latest. `None` if
    /// that is not known any more.
    pub(in crate::service::imap) async fn news_after(
        &self,
        known: u64,
        interest: Arc<Interest>,
    ) -> Result<Option<(Vec<News>, u64)>, Failure> {
        let Some((changes, latest)) = self.account.changed_after(known) else { return Ok(None) };
        let mut collected = Collected::default();
        for (index, change) in changes.into_iter().enumerate() {
            self.take_turn(index, CHANGES_PER_TURN).await;
            self.collect(&mut collected, change);
        }
        let Some(mut news) = self.names_told(&collected, &interest).await? else {
            return Ok(None);
        };
        news.extend(collected.subscriptions.into_iter().map(News::Subscription));
        for (mailbox, changes) in collected.messages {
            if let Some(told) = self.message_news(&interest, mailbox, changes).await? {
                news.push(News::Messages(told));
            }
        }
        for (index, told) in collected.annotations.into_iter().enumerate() {
            self.take_turn(index, CHANGES_PER_TURN).await;
            news.extend(self.annotation_news(&interest, told).map(News::Annotations));
        }
        Ok(Some((news, latest)))
    }

    /// Lets other sessions have their turn after each `count` of those that are counted by `index`.
    async fn take_turn(&self, index: usize, count: usize) {
        if index % count == count - 1 {
            self.shard.executor.yield_now().await;
        }
    }

    fn collect(&self, collected: &mut Collected, change: AccountChange) {
        let rights = |list: AccessListThen| self.rights_by(list.as_deref());
        let could_look_up = |list| rights(list).contain(Right::Lookup);
        let (mailbox, what, was_visible) = match change {
            AccountChange::Messages(mailbox, change) => {
                return collected.messages.entry(mailbox).or_default().add(change);
            }
            AccountChange::Subscription(name) => {
                if self.is_own() {
                    collected.subscriptions.push(name);
                }
                return;
            }
            AccountChange::Annotation(mailbox, key) => {
                if let Some((of, name)) = Annotated::of_key(mailbox, &key) {
                    collected.annotation(of, name);
                }
                return;
            }
            AccountChange::Created { mailbox, name } => (mailbox, What::Created(name), false),
            AccountChange::Deleted { mailbox, name, access } => {
                (mailbox, What::Deleted(name), could_look_up(access))
            }
            AccountChange::Renamed { mailbox, from, to, access, entry } => {
                (mailbox, What::Renamed { from, to, entry }, could_look_up(access))
            }
            AccountChange::Access { mailbox, name, before, .. } => {
                let rights = rights(before);
                collected.watched.entry(mailbox).or_insert(may_watch(rights));
                (mailbox, What::Access(name), rights.contain(Right::Lookup))
            }
        };
        collected.names.push(NameEvent { mailbox, what, was_visible });
    }

    fn is_own(&self) -> bool {
        self.account.id() == self.user.account
    }

    async fn message_news(
        &self,
        interest: &Interest,
        mailbox: MailboxId,
        changes: MessageChanges,
    ) -> Result<Option<MessageNews>, Failure> {
        let Some((info, rights)) = self.get(mailbox) else { return Ok(None) };
        if !may_watch(rights) || !self.shows(interest, &info.name) {
            return Ok(None);
        }
        let seen_is_personal = self.seen_is_personal(mailbox);
        let status = self.account.status(mailbox).await?;
        Ok(Some(MessageNews { name: info.name, mailbox, changes, status, seen_is_personal }))
    }

    /// What the client is told of names, and of those above them (RFC 5465 5.4); `None` if it has
    /// to begin anew.
    async fn names_told(
        &self,
        collected: &Collected,
        interest: &Interest,
    ) -> Result<Option<Vec<News>>, Failure> {
        let history = &collected.names;
        let now = |mailbox| {
            let (info, rights) = self.get(mailbox)?;
            Some((info.name, rights.contain(Right::Lookup)))
        };
        let Some(outcome) = history.outcome(now) else { return Ok(None) };
        for above in &outcome.unsure {
            let is_known = |info: &MailboxInfo| history.knows(&outcome, info.id, &info.name);
            if !self.all_below(above, is_known).await {
                return Ok(None);
            }
        }
        let Some(mut carried) = self.carried(history, &outcome, interest).await else {
            return Ok(None);
        };
        let (mut news, mut names, mut above) = (Vec::new(), BTreeSet::new(), Vec::new());
        for (index, told) in outcome.told.into_iter().enumerate() {
            self.take_turn(index, CHANGES_PER_TURN).await;
            let ToldName { name, old_name, what, .. } = told;
            let is_shown = self.shows(interest, &name)
                || old_name.as_ref().is_some_and(|name| self.shows(interest, name));
            let carries = old_name.is_some() && !carried.is_empty();
            if !carries && !is_shown {
                continue;
            }
            // What is told of a name is its state of now: once is enough.
            if !names.insert(name.clone()) && old_name.is_none() {
                continue;
            }
            if old_name.is_none()
                && let Some((level, _)) = name.rsplit_once(SEPARATOR)
            {
                above.push(level.to_owned());
            }
            news.push(News::Name(self.name_news(name, old_name, what).await?));
            if carries {
                for (name, old_name) in take(&mut carried) {
                    let told = self.name_news(name, Some(old_name), NameChange::Carried).await?;
                    news.push(News::Name(told));
                }
            }
        }
        for (index, name) in above.into_iter().enumerate() {
            self.take_turn(index, CHANGES_PER_TURN).await;
            if self.shows(interest, &name) && names.insert(name.clone()) {
                news.push(News::Name(self.name_news(name, None, NameChange::Below).await?));
            }
        }
        for (index, (&mailbox, &was_watched)) in collected.watched.iter().enumerate() {
            self.take_turn(index, CHANGES_PER_TURN).await;
            let found = self.get(mailbox).filter(|(_, rights)| rights.contain(Right::Lookup));
            let found = found.filter(|(_, rights)| may_watch(*rights) != was_watched);
            let Some((MailboxInfo { name, .. }, _)) = found else { continue };
            if self.shows(interest, &name) && names.insert(name.clone()) {
                news.push(News::Name(self.name_news(name, None, NameChange::Access).await?));
            }
        }
        Ok(Some(news))
    }

    /// The mailboxes about which the session asks that were renamed with one above them, and their
    /// old names, where it may not be enough for the client to be told of that one. `None` if there
    /// are too many, or if there was more than one rename, whose steps the client would have to
    /// know.
    async fn carried(
        &self,
        history: &NameHistory,
        outcome: &Outcome,
        interest: &Interest,
    ) -> Option<BTreeMap<String, String>> {
        let mut carried = BTreeMap::new();
        if interest.is_uniform {
            return Some(carried);
        }
        let (mut told, mut moves) = (BTreeSet::new(), Vec::new());
        for ToldName { name, old_name, first_name, .. } in &outcome.told {
            told.insert(name);
            moves.extend(old_name.is_some().then_some(name));
            let known = old_name.as_ref().unwrap_or(name);
            let Some(first) = first_name.as_ref().filter(|first| *first != known) else { continue };
            if [first, known, name].into_iter().any(|name| self.shows(interest, name)) {
                return None;
            }
        }
        for above in &moves {
            let add = |info: &MailboxInfo| {
                let first = history.first_name(outcome, info.id, &info.name);
                let old_name = first.filter(|first| *first != info.name);
                let Some(old_name) = old_name.filter(|_| !told.contains(&info.name)) else {
                    return true;
                };
                if self.shows(interest, &info.name) || self.shows(interest, &old_name) {
                    carried.insert(info.name.clone(), old_name);
                }
                carried.len() <= CARRIED_MAX
            };
            if !self.all_below(above, add).await {
                return None;
            }
        }
        (carried.is_empty() || moves.len() == 1).then_some(carried)
    }

    /// Whether the session asks about a name, and users are told of it at all.
    fn shows(&self, interest: &Interest, name: &str) -> bool {
        // Of the public account nobody sees the INBOX that every account has.
        let is_hidden = self.account.id() == AccountId::PUBLIC && name == INBOX;
        !is_hidden && interest.covers(name)
    }

    async fn name_news(
        &self,
        name: String,
        old_name: Option<String>,
        what: NameChange,
    ) -> Result<NameNews, Failure> {
        let has_children = self.has_children_in_turns(&name).await;
        let found = self.find(&name).filter(|(_, rights)| rights.contain(Right::Lookup));
        let mut seen_is_personal = false;
        let found = match found {
            Some((info, rights)) => {
                seen_is_personal = self.seen_is_personal(info.id);
                let status = match may_watch(rights) {
                    true => Some(self.account.status(info.id).await?),
                    false => None,
                };
                Some((info, rights, status))
            }
            None => None,
        };
        Ok(NameNews { name, old_name, what, found, seen_is_personal, has_children })
    }

    /// Those that the user may know of: in somebody else's account those that all share.
    fn annotation_news(&self, interest: &Interest, told: AnnotationNews) -> Option<AnnotationNews> {
        let AnnotationNews { of, mut entries, .. } = told;
        if !self.is_own() {
            entries.retain(|entry| entry.starts_with("/shared"));
        }
        let name = match of {
            Annotated::Mailbox(mailbox) => {
                let (info, rights) = self.get(mailbox)?;
                if !may_watch(rights) || !self.shows(interest, &info.name) {
                    return None;
                }
                Some(info.name)
            }
            Annotated::Elsewhere { .. } if !self.is_own() => return None,
            Annotated::Server if !self.is_own() && self.account.id() != AccountId::PUBLIC => {
                return None;
            }
            Annotated::Elsewhere { .. } | Annotated::Server => None,
        };
        (!entries.is_empty()).then_some(AnnotationNews { of, name, entries })
    }
}

/// Whether one with these rights may be told of what happens in a mailbox.
pub(in crate::service::imap) fn may_watch(rights: Rights) -> bool {
    rights.contain(Right::Lookup) && rights.contain(Right::Read)
}

/// Changes that are told of once for a mailbox or name.
#[derive(Default)]
struct Collected {
    names: NameHistory,
    /// Mailboxes with other access lists than before: whether the user might be told before of what
    /// happens in them.
    watched: BTreeMap<MailboxId, bool>,
    subscriptions: Vec<String>,
    messages: BTreeMap<MailboxId, MessageChanges>,
    annotations: Vec<AnnotationNews>,
}

impl Collected {
    fn annotation(&mut self, of: Annotated, entry: String) {
        match self.annotations.iter_mut().find(|it| it.of == of) {
            Some(told) => told.entries.push(entry),
            None => {
                self.annotations.push(AnnotationNews { of, name: None, entries: vec![entry] });
            }
        }
    }
}
