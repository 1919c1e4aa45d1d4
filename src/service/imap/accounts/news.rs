//! What changed in an account, as one user may know it: decided where the account is, with the
//! rights of that moment (RFC 5465 5: `l` and `r`).
//!
//! Of a mailbox that the user may not look up, or could not when it was deleted, nothing is told,
//! nor that something happened below the one above it. Of annotations, an account tells others only
//! those that all users share.

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

/// Mailboxes below one that was renamed that are told of one by one.
const RENAMED_BELOW_MAX: usize = 256;

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
                AccountChange::Access(mailbox, before) => {
                    collected.access.entry(mailbox).or_insert(before);
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
        for (mailbox, before) in collected.access {
            let may_look_up = self.rights_by(before.as_deref()).contain(Right::Lookup);
            let Some((info, rights)) = self.get(mailbox) else { continue };
            if may_look_up != rights.contain(Right::Lookup) {
                self.tell_name(&mut news, &interest, info.name, NameChange::Access).await?;
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
        let mut renamed = Vec::new();
        if self.may_look_up(&to) {
            renamed.push((from, to));
        } else if self.find(&to).is_some() {
            // Of those below it the user may see some.
            let begin = format!("{to}{SEPARATOR}");
            let mut top: Option<String> = None;
            for listed in self.listed_after(Some(&begin), RENAMED_BELOW_MAX).await {
                let name = listed.info.name;
                let Some(rest) = name.strip_prefix(&begin) else { break };
                let is_below = |top: &String| {
                    name.strip_prefix(top.as_str()).is_some_and(|it| it.starts_with(SEPARATOR))
                };
                if !top.as_ref().is_some_and(is_below) {
                    renamed.push((format!("{from}{SEPARATOR}{rest}"), name.clone()));
                    top = Some(name);
                }
            }
        } else if self.rights_by(access.as_deref()).contain(Right::Lookup) {
            // It has yet another name, or none any more, which is told of later.
            return self.tell_name(news, interest, from, NameChange::Made).await;
        }
        for (from, to) in renamed {
            let is_shown = self.shows(interest, &from) || self.shows(interest, &to);
            if is_shown && news.is_new(&to, Some(&from)) {
                let told = self.name_news(to, Some(from), NameChange::Made).await?;
                news.told.push(News::Name(told));
            }
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
}

impl Names {
    fn is_new(&mut self, name: &str, old_name: Option<&str>) -> bool {
        self.names.insert((name.to_owned(), old_name.map(str::to_owned)))
    }
}

/// Changes that are told of once for a mailbox.
#[derive(Default)]
struct Collected {
    messages: BTreeMap<MailboxId, MessageChanges>,
    /// The access lists before.
    access: BTreeMap<MailboxId, AccessListThen>,
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
