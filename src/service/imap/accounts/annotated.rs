//! What has annotations (RFC 5464): a mailbox, or the server.
//!
//! What all users share is asked for and changed where the mailbox's account is, with the rights of
//! that moment; a user's own is in his account, on the session's shard. RFC 5464 3.3 asks for the
//! right `l` and one of `r`, `s`, `w`, `i` and `p`. To change what others see takes `w` here:
//! otherwise whoever may read a public mailbox could write on its wall.

use std::rc::Rc;

use super::{
    super::reply::{Failure, no_such_mailbox},
    Holding, Home, User, not_allowed,
};
use crate::{
    model::{AccountId, MailboxId, Right, Rights, SpecialUse},
    protocol::imap::{
        Code,
        metadata::entry::{EntryName, Scope},
    },
    service::Shard,
    store::{Account, Annotated, Annotations, SPECIAL_USE_ENTRY, StoreError},
};

/// Any of these beside `l`.
pub(in crate::service::imap) const ANNOTATION_RIGHTS: Rights =
    Rights::of(&[Right::Read, Right::Seen, Right::Write, Right::Insert, Right::Post]);

/// Changes; `None` removes.
pub(in crate::service::imap) type AnnotationChanges = Vec<(String, Option<Vec<u8>>)>;

/// A mailbox or the server, for one command of a user.
pub(in crate::service::imap) struct Subject {
    /// As the client knows it; empty for the server.
    name: String,
    /// The user's account.
    own: Account,
    kind: Kind,
}

enum Kind {
    Server { shard: Rc<Shard>, user: User },
    Mailbox { home: Home, mailbox: MailboxId, special_use: Option<SpecialUse> },
}

impl Subject {
    pub(in crate::service::imap) fn server(own: &Holding) -> Subject {
        let kind = Kind::Server { shard: own.shard.clone(), user: own.user.clone() };
        Subject { name: String::new(), own: own.account.clone(), kind }
    }

    /// A mailbox, with the special use that it has for the user.
    pub(in crate::service::imap) fn mailbox(
        name: String,
        own: Account,
        (home, mailbox, special_use): (Home, MailboxId, Option<SpecialUse>),
    ) -> Subject {
        Subject { name, own, kind: Kind::Mailbox { home, mailbox, special_use } }
    }

    pub(in crate::service::imap) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a mailbox of the user's own.
    fn is_own(&self) -> bool {
        matches!(&self.kind, Kind::Mailbox { home, .. } if home.account() == self.own.id())
    }

    /// Where a user's own annotations of it are in his account.
    fn private(&self) -> Annotated {
        match &self.kind {
            Kind::Server { .. } => Annotated::Server,
            Kind::Mailbox { mailbox, .. } if self.is_own() => Annotated::Mailbox(*mailbox),
            Kind::Mailbox { home, mailbox, .. } => {
                Annotated::Elsewhere { owner: home.account(), mailbox: *mailbox }
            }
        }
    }

    /// Where those that all share are, and in which account.
    async fn shared(&self) -> Result<(Home, Annotated, Option<MailboxId>), Failure> {
        match &self.kind {
            Kind::Server { shard, user } => {
                let home = Home::of(shard, AccountId::PUBLIC, user).await?;
                Ok((home, Annotated::Server, None))
            }
            Kind::Mailbox { home, mailbox, .. } => {
                Ok((home.clone(), Annotated::Mailbox(*mailbox), Some(*mailbox)))
            }
        }
    }

    /// The annotations in these scopes, in the order of names.
    pub(in crate::service::imap) async fn annotations(
        &self,
        scopes: impl Iterator<Item = Scope>,
    ) -> Result<Annotations, Failure> {
        let (mut wants_private, mut wants_shared) = (false, false);
        for scope in scopes {
            match scope {
                Scope::Private => wants_private = true,
                Scope::Shared => wants_shared = true,
            }
        }
        let mut found = Annotations::new();
        if wants_private {
            let all = self.own.annotations_of(self.private());
            let stored = |name: &str| name != SPECIAL_USE_ENTRY || !self.is_own();
            found.extend(all.into_iter().filter(|(name, _)| is_private(name) && stored(name)));
            if let Kind::Mailbox { special_use: Some(special_use), .. } = &self.kind {
                let value = special_use.attribute().as_bytes().to_vec();
                found.push((SPECIAL_USE_ENTRY.to_owned(), value));
                found.sort_unstable();
            }
        }
        if wants_shared {
            let (home, of, mailbox) = self.shared().await?;
            let asked = move |holding: Holding| async move {
                may(&holding, mailbox, Rights::NONE)?;
                Ok(holding.account.annotations_of(of))
            };
            let all = home.at_owner(asked).await?;
            found.extend(all.into_iter().filter(|(name, _)| !is_private(name)));
        }
        Ok(found)
    }

    /// Changes annotations: all or none, but that what is a user's own may fail to be written after
    /// what is shared was.
    pub(in crate::service::imap) async fn annotate(
        &self,
        entries: Vec<(EntryName, Option<Vec<u8>>)>,
    ) -> Result<(), Failure> {
        let mut private = AnnotationChanges::new();
        let mut shared = AnnotationChanges::new();
        for (name, value) in entries {
            match (name.scope, name.key()) {
                (Scope::Private, key) if key == SPECIAL_USE_ENTRY => {
                    private.push((key, self.special_use(value)?));
                }
                (Scope::Private, key) => private.push((key, value)),
                (Scope::Shared, key) => shared.push((key, value)),
            }
        }
        if self.is_own() {
            // Both are in one place.
            shared.append(&mut private);
        }
        let of = self.private();
        self.own.check_annotations(of, &private).map_err(failed)?;
        if !shared.is_empty() {
            let (home, of, mailbox) = self.shared().await?;
            let needed = match shared.iter().all(|(name, _)| is_private(name)) {
                true => Rights::NONE,
                false => Rights::of(&[Right::Write]),
            };
            let work = move |holding: Holding| async move {
                may(&holding, mailbox, needed)?;
                holding.account.set_annotations(of, &shared).await.map_err(failed)
            };
            home.at_owner(work).await?;
        }
        match private.is_empty() {
            true => Ok(()),
            false => self.own.set_annotations(of, &private).await.map_err(failed),
        }
    }

    /// The value by which the store knows a special use (RFC 6154 4): none is one that is set, too,
    /// so that a use from CREATE can be taken away.
    fn special_use(&self, value: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Failure> {
        let refused = |text: &'static str| Failure::no(Code::UseAttr, text);
        match &self.kind {
            Kind::Server { .. } => return Err(refused("The server has no special use")),
            Kind::Mailbox { .. } if !self.is_own() => {
                return Err(refused("Special uses are for one's own mailboxes"));
            }
            Kind::Mailbox { .. } => {}
        }
        let value = value.unwrap_or_default();
        let text = std::str::from_utf8(&value).map_err(|_| refused("Unknown special use"))?;
        let mut uses = text.split_ascii_whitespace();
        let Some(first) = uses.next() else { return Ok(Some(Vec::new())) };
        if uses.next().is_some() {
            return Err(refused("A mailbox has one special use"));
        }
        let known = SpecialUse::EVERY.iter().find(|it| it.attribute().eq_ignore_ascii_case(first));
        match known {
            None => Err(refused("Unknown special use")),
            Some(SpecialUse::All | SpecialUse::Flagged) => {
                Err(refused("No mailbox can have this use"))
            }
            Some(known) => Ok(Some(known.attribute().as_bytes().to_vec())),
        }
    }
}

fn is_private(name: &str) -> bool {
    name.starts_with("/private/")
}

/// Refuses who may not see the annotations of a mailbox, or lacks one of `needed` on it. Those of
/// the server everybody sees, and administrators change.
fn may(holding: &Holding, mailbox: Option<MailboxId>, needed: Rights) -> Result<(), Failure> {
    let Some(mailbox) = mailbox else {
        let is_allowed = needed.is_empty() || holding.user.is_administrator(&holding.shard);
        let text = "Only administrators annotate the server for all";
        return if is_allowed { Ok(()) } else { Err(Failure::no(Code::NoPerm, text)) };
    };
    let (_, rights) = holding.get(mailbox).ok_or_else(no_such_mailbox)?;
    if !rights.contain(Right::Lookup) {
        return Err(no_such_mailbox());
    }
    match rights.contain_any(ANNOTATION_RIGHTS) && needed.without(rights).is_empty() {
        true => Ok(()),
        false => Err(not_allowed()),
    }
}

fn failed(error: StoreError) -> Failure {
    match error {
        StoreError::Limit(what) => {
            Failure::no(Code::MetadataTooMany, format!("Limit reached: {what}"))
        }
        error => error.into(),
    }
}
