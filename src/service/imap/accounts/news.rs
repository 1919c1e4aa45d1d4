//! What changed in an account, as one user may know it: decided where the account is, with the
//! rights of that moment (RFC 5465 5: `l` and `r`).
//!
//! A name is told only if the user may look it up now, or could when it was taken, deleted or
//! renamed; nor is he told, of others, that something happened below the one above them. Of
//! annotations, an account tells others only those that all users share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    super::reply::Failure,
    holding::{Holding, Listed},
};
use crate::{
    model::{AccountId, MailboxId, Right, Rights},
    protocol::imap::SEPARATOR,
    store::{AccessListThen, AccountChange, Annotated, MailboxInfo, MailboxStatus, MessageChange},
};

const INBOX: &str = "INBOX";

/// Changes looked at before other sessions get their turn.
const CHANGES_PER_TURN: usize = 64;

/// The mailboxes of an account that a session asks about, by their names there. More than it wants
/// may be among them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::service::imap) struct Interest {
    pub all: bool,
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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::service::imap) enum NameChange {
    /// A mailbox was created, deleted or renamed.
    Made,
    /// Something below it was.
    Below,
    /// The user may look it up now, or may not any more.
    Access,
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
        let mut news = Names::default();
        for (index, change) in changes.into_iter().enumerate() {
            if index % CHANGES_PER_TURN == CHANGES_PER_TURN - 1 {
                self.shard.executor.yield_now().await;
            }
            match change {
                AccountChange::Messages(mailbox, change) => {
                    collected.messages.entry(mailbox).or_default().add(change);
                }
                AccountChange::Created(name) if self.may_look_up(&name) => {
                    self.tell_name(&mut news, &interest, name, NameChange::Made).await?;
                }
                AccountChange::Deleted { name, access }
                    if self.rights_by(access.as_deref()).contain(Right::Lookup) =>
                {
                    self.tell_name(&mut news, &interest, name, NameChange::Made).await?;
                }
                AccountChange::Renamed { from, to, access } => {
                    self.tell_renamed(&mut news, &interest, (from, to), access).await?;
                }
                AccountChange::Access { name, before, after } => {
                    let may_look_up = |list: AccessListThen| {
                        self.rights_by(list.as_deref()).contain(Right::Lookup)
                    };
                    collected.access(name, may_look_up(before), may_look_up(after));
                }
                AccountChange::Subscription(name) if self.is_own() => {
                    news.told.push(News::Subscription(name));
                }
                AccountChange::Annotation(mailbox, key) => {
                    if let Some((of, name)) = Annotated::of_key(mailbox, &key) {
                        collected.annotation(of, name);
                    }
                }
                AccountChange::Created(_)
                | AccountChange::Deleted { .. }
                | AccountChange::Subscription(_) => {}
            }
        }
        for (name, Known { at_first, ever }) in collected.access {
            // The mailbox may have yet another name now, which is not the user's concern.
            let is_other = if self.may_look_up(&name) { !at_first } else { ever };
            if is_other {
                self.tell_name(&mut news, &interest, name, NameChange::Access).await?;
            }
        }
        let mut news = news.told;
        for (mailbox, changes) in collected.messages {
            if let Some(told) = self.message_news(&interest, mailbox, changes).await? {
                news.push(News::Messages(told));
            }
        }
        for told in collected.annotations {
            news.extend(self.annotation_news(&interest, told).map(News::Annotations));
        }
        Ok(Some((news, latest)))
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

    /// A name, and the mailbox above it (RFC 5465 5.4).
    async fn tell_name(
        &self,
        news: &mut Names,
        interest: &Interest,
        name: String,
        what: NameChange,
    ) -> Result<(), Failure> {
        let above = name.rsplit_once(SEPARATOR).map(|(above, _)| above.to_owned());
        let below = above.map(|above| (above, NameChange::Below));
        for (name, what) in [(name, what)].into_iter().chain(below) {
            if self.shows(interest, &name) && news.is_new(&name, None) {
                news.told.push(News::Name(self.name_news(name, None, what).await?));
            }
        }
        Ok(())
    }

    async fn tell_renamed(
        &self,
        news: &mut Names,
        interest: &Interest,
        (from, to): (String, String),
        access: AccessListThen,
    ) -> Result<(), Failure> {
        let is_told = news.renames.have_told(&from, &to);
        if is_told || !self.rights_by(access.as_deref()).contain(Right::Lookup) {
            return Ok(());
        }
        if !self.may_look_up(&to) {
            // It has yet another name, or none any more, or was taken: which is told of later.
            return self.tell_name(news, interest, from, NameChange::Made).await;
        }
        if !self.shows(interest, &from) && !self.shows(interest, &to) {
            return Ok(());
        }
        news.renames.tell(&from, &to);
        if news.is_new(&to, Some(&from)) {
            let told = self.name_news(to, Some(from), NameChange::Made).await?;
            news.told.push(News::Name(told));
        }
        Ok(())
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
        let found = self.find(&name).filter(|(_, rights)| rights.contain(Right::Lookup));
        let has_children = self.has_children(&name);
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

/// News in their order. What is told of a name is its state of now, however often it changed: so
/// once is enough.
#[derive(Default)]
struct Names {
    told: Vec<News>,
    /// With the old name, where there is one.
    names: BTreeSet<(String, Option<String>)>,
    renames: Renames,
}

impl Names {
    fn is_new(&mut self, name: &str, old_name: Option<&str>) -> bool {
        self.names.insert((name.to_owned(), old_name.map(str::to_owned)))
    }
}

/// The latest rename, with that of mailboxes below it, which comes behind it: one who is told of a
/// mailbox knows of those below.
#[derive(Default)]
struct Renames {
    /// The highest mailbox: its old name and its new one.
    top: (String, String),
    /// The same of those that are told of.
    told: BTreeMap<String, String>,
}

impl Renames {
    /// Whether a mailbox was renamed with one above it that is told of.
    fn have_told(&mut self, from: &str, to: &str) -> bool {
        if !is_moved_with((&self.top.0, &self.top.1), (from, to)) {
            self.top = (from.to_owned(), to.to_owned());
            self.told.clear();
        }
        from.match_indices(SEPARATOR).any(|(end, _)| {
            let above = from.get(..end).and_then(|above| self.told.get_key_value(above));
            above.is_some_and(|(old, new)| is_moved_with((old, new), (from, to)))
        })
    }

    fn tell(&mut self, from: &str, to: &str) {
        self.told.insert(from.to_owned(), to.to_owned());
    }
}

/// Whether names, old and new, are below others in the same way.
fn is_moved_with(above: (&str, &str), (from, to): (&str, &str)) -> bool {
    let rest = from.strip_prefix(above.0).filter(|rest| rest.starts_with(SEPARATOR));
    rest.is_some() && rest == to.strip_prefix(above.1)
}

/// Whether the user could look up a name, as far as access lists changed.
struct Known {
    /// Before the first change.
    at_first: bool,
    /// Before or after any.
    ever: bool,
}

/// Changes that are told of once for a mailbox or name.
#[derive(Default)]
struct Collected {
    messages: BTreeMap<MailboxId, MessageChanges>,
    access: BTreeMap<String, Known>,
    annotations: Vec<AnnotationNews>,
}

impl Collected {
    /// Another access list: whether the user could look up the name before, and after.
    fn access(&mut self, name: String, before: bool, after: bool) {
        let known = self.access.entry(name).or_insert(Known { at_first: before, ever: false });
        known.ever |= before || after;
    }

    fn annotation(&mut self, of: Annotated, entry: String) {
        match self.annotations.iter_mut().find(|it| it.of == of) {
            Some(told) => told.entries.push(entry),
            None => {
                self.annotations.push(AnnotationNews { of, name: None, entries: vec![entry] });
            }
        }
    }
}
