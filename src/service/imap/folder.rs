//! Resolves mailbox names from the client: the only way from a name to a mailbox.
//!
//! A command states the right that it needs ([`resolve`]) and gets a [`Folder`] to work on; for the
//! selected mailbox it asks [`selected`]. Rights are those of the mailbox's access list at that
//! moment, for every command anew (RFC 4314). Names are decoded from modified UTF-7 here; the store
//! has them in UTF-8. Whose account has a mailbox, and on which shard, makes no difference to a
//! command.

use super::{
    accounts::{
        ANNOTATION_RIGHTS, Holding, Home, Listed, REPLACED_RIGHTS, Reach, Reading, Replaced,
        SeenBook, Staging, Subject as Annotated, View, carry, may_watch, not_allowed, permitted,
        unseen,
    },
    namespace::{Located, Namespace, inbox_of},
    reply::{Failure, Leave, no_such_mailbox, try_create},
    selected::Selected,
    state::Session,
};
use crate::{
    model::{
        AccountId, FlagAction, FlagMask, Flags, MailboxId, ModSeq, QuotaLimits, Right, Rights,
        SpecialUse, Subject, Uid, UidValidity,
    },
    plant::{Plant, planted},
    protocol::imap::{self, Code, MailboxName, NameForm, ObjectId, SEPARATOR, Status},
    service::{self, access::Edit, transfer::Way},
    store::{
        Copied, Delivered, Expunged, FlagChange, FlagOutcome, MailboxInfo, MailboxStatus, Message,
        Unsettled, Usage,
    },
};

/// A mailbox that a command may work on.
#[derive(Clone)]
pub(super) struct Folder {
    home: Home,
    /// Whose it is, and what goes before its name.
    reach: Reach,
    info: MailboxInfo,
    /// Of the user who asks, when the command began.
    rights: Rights,
    /// Whether the user has a `\Seen` of his own in it, when the command began.
    seen_is_personal: bool,
    seen_book: SeenBook,
}

/// A mailbox of which messages are only read.
pub(super) struct Source {
    home: Home,
    mailbox: MailboxId,
    uid_validity: UidValidity,
}

/// The mailbox of this name, for a command that needs `right` on it.
pub(super) async fn resolve(
    session: &Session,
    name: &MailboxName<'_>,
    right: Right,
) -> Result<Folder, Failure> {
    resolve_for_any(session, name, Rights::of(&[right])).await
}

/// The same for a command that needs one of several rights.
pub(super) async fn resolve_for_any(
    session: &Session,
    name: &MailboxName<'_>,
    any_of: Rights,
) -> Result<Folder, Failure> {
    let namespace = Namespace::of(session)?;
    // A name that cannot be decoded names no mailbox.
    let name = name.to_utf8(session.name_form()).map_err(|_| no_such_mailbox())?;
    find(&namespace, &name, any_of, false).await
}

/// The mailbox of this name in UTF-8, for a command that needs `right` on it.
pub(super) async fn resolve_utf8(
    session: &Session,
    name: &str,
    right: Right,
) -> Result<Folder, Failure> {
    find(&Namespace::of(session)?, name, Rights::of(&[right]), false).await
}

/// The mailbox that another user, whose own account `own` is, can read and knows by this name in
/// UTF-8: with his rights, wherever his account and the mailbox are.
pub(super) async fn of_another_user(own: &Home, name: &str) -> Result<Source, Failure> {
    let name = name.to_owned();
    let locate = move |holding: Holding| async move {
        let located = Namespace::of_holding(holding).locate(&name);
        let Located { reach, name } = located.ok_or_else(no_such_mailbox)?;
        Ok((reach.account, name))
    };
    let (account, name) = own.at_owner(locate).await?;
    let home = match account == own.account() {
        true => own.clone(),
        false => own.neighbour(account).await?,
    };
    let find = move |holding: Holding| async move { Ok(holding.find(&name)) };
    let found = home.at_owner(find).await?;
    let read = Rights::of(&[Right::Read]);
    permitted(found.as_ref().map(|(_, rights)| *rights), read, no_such_mailbox)?;
    let (info, _) = found.ok_or_else(no_such_mailbox)?;
    Ok(Source { home, mailbox: info.id, uid_validity: info.uid_validity })
}

/// The same for the target of APPEND, COPY or MOVE: if it is missing, the client may create it
/// first, unless it certainly cannot (RFC 3501 6.3.11 TRYCREATE).
pub(super) async fn resolve_target(
    session: &Session,
    name: &MailboxName<'_>,
) -> Result<Folder, Failure> {
    let namespace = Namespace::of(session)?;
    let name = name.to_utf8(session.name_form()).map_err(|_| no_such_mailbox())?;
    find(&namespace, &name, Rights::of(&[Right::Insert]), true).await
}

/// The mailbox with this UTF-8 name, if it exists and may be looked up.
pub(super) async fn look_up(namespace: &Namespace, name: &str) -> Option<Folder> {
    find(namespace, name, Rights::of(&[Right::Lookup]), false).await.ok()
}

/// The name of a mailbox of another account that the user may watch, by its number.
pub(super) async fn name_of(
    namespace: &Namespace,
    owner: AccountId,
    mailbox: MailboxId,
) -> Option<String> {
    let home = home_of(namespace, owner).await.ok()?;
    let asked = move |holding: Holding| async move { Ok(holding.get(mailbox)) };
    let (info, rights) = home.at_owner(asked).await.ok()??;
    namespace.full_name(owner, &info.name).filter(|_| may_watch(rights))
}

/// A mailbox of another account that a walk over names came to.
pub(super) async fn walked(
    namespace: &Namespace,
    (reach, listed): (Reach, Listed),
) -> Option<Folder> {
    let home = namespace.home(&reach).await.ok()?;
    let Listed { info, rights, seen_is_personal, .. } = listed;
    let seen_book = SeenBook::new(namespace.own().account.clone(), reach.account, &info);
    Some(Folder { home, reach, info, rights, seen_is_personal, seen_book })
}

/// `is_target`: if it is missing, it may be created.
async fn find(
    namespace: &Namespace,
    name: &str,
    any_of: Rights,
    is_target: bool,
) -> Result<Folder, Failure> {
    let Located { reach, name } = namespace.locate(name).ok_or_else(no_such_mailbox)?;
    let home = namespace.home(&reach).await?;
    let asked = move |holding: Holding| async move {
        let found = holding.find(&name);
        // Also of one that the user does not see, which is to be like none.
        let can_create = is_target && holding.can_create(&name);
        let found = found.map(|(info, rights)| (holding.seen_is_personal(info.id), info, rights));
        Ok((found, can_create))
    };
    let (found, can_create) = home.at_owner(asked).await?;
    let missing = || if can_create { try_create() } else { no_such_mailbox() };
    permitted(found.as_ref().map(|(.., rights)| *rights), any_of, missing)?;
    let (seen_is_personal, info, rights) = found.ok_or_else(missing)?;
    let seen_book = SeenBook::new(namespace.own().account.clone(), reach.account, &info);
    Ok(Folder { home, reach, info, rights, seen_is_personal, seen_book })
}

/// What GETMETADATA and SETMETADATA are about: a mailbox that the user may look up, and on which he
/// has one more right (RFC 5464 3.3); without a name the server.
pub(super) async fn annotated(
    session: &Session,
    name: &MailboxName<'_>,
) -> Result<Annotated, Failure> {
    if name.0.is_empty() {
        return Ok(Annotated::server(Namespace::of(session)?.own()));
    }
    let folder = resolve_for_any(session, name, ANNOTATION_RIGHTS).await?;
    match folder.rights.contain(Right::Lookup) {
        true => Ok(folder.annotated()),
        false => Err(no_such_mailbox()),
    }
}

/// GETQUOTAROOT (RFC 9208 4.1.2): the mailbox's name, and the quota root of its account with what
/// is used of it. The name of one of the user's own need not exist. Of somebody else's account that
/// is told to who may put messages into the mailbox, and to administrators: others learn no root.
pub(super) async fn quota_root(
    session: &Session,
    name: &MailboxName<'_>,
) -> Result<(String, Option<(String, Usage)>), Failure> {
    let namespace = Namespace::of(session)?;
    let name = name.to_utf8(session.name_form()).map_err(|_| no_such_mailbox())?;
    let located = namespace.locate(&name).ok_or_else(no_such_mailbox)?;
    let root = namespace.root_of(&located.reach);
    if located.reach.account == namespace.user().account {
        let usage = namespace.own().account.usage();
        return Ok((located.name, Some((root, usage))));
    }
    let folder = find(&namespace, &name, Rights::of(&[Right::Lookup]), false).await?;
    let is_told = folder.rights.contain(Right::Insert)
        || namespace.user().is_administrator(namespace.shard());
    if !is_told {
        return Ok((folder.name(), None));
    }
    let asked = |holding: Holding| async move { Ok(holding.account.usage()) };
    let usage = folder.home.at_owner(asked).await?;
    Ok((folder.name(), Some((root, usage))))
}

/// The limits that a quota root stands for, and what is used. Roots that a user may not know of are
/// like none.
pub(super) async fn quota(session: &Session, root: &[u8]) -> Result<Usage, Failure> {
    let namespace = Namespace::of(session)?;
    let account = account_of_root(&namespace, root)?;
    let asked = |holding: Holding| async move { Ok(holding.account.usage()) };
    home_of(&namespace, account).await?.at_owner(asked).await
}

/// SETQUOTA (RFC 9208 4.1.3).
pub(super) async fn set_quota(
    session: &Session,
    root: &[u8],
    limits: QuotaLimits,
) -> Result<Usage, Failure> {
    let namespace = Namespace::of(session)?;
    if !namespace.user().is_administrator(namespace.shard()) {
        return Err(Failure::no(Code::NoPerm, "Only administrators set quotas"));
    }
    let account = account_of_root(&namespace, root)?;
    let work = move |holding: Holding| async move { holding.set_quota(limits).await };
    home_of(&namespace, account).await?.at_owner(work).await
}

fn account_of_root(namespace: &Namespace, root: &[u8]) -> Result<AccountId, Failure> {
    let root = std::str::from_utf8(root).ok();
    let account = root.and_then(|root| namespace.account_of_root(root));
    account.ok_or_else(|| Failure::no(Code::NonExistent, "No such quota root"))
}

async fn home_of(namespace: &Namespace, account: AccountId) -> Result<Home, Failure> {
    match account == namespace.user().account {
        true => Ok(Home::Here(namespace.own().clone())),
        false => Home::of(namespace.shard(), account, namespace.user()).await,
    }
}

/// The selected mailbox, for a command that needs all of `rights` on it beside the one to read. A
/// session that may no longer read it ends: no response about the mailbox would be for its user.
pub(super) async fn selected(session: &Session, rights: Rights) -> Result<Folder, Failure> {
    let selected = session.selected()?;
    check_readable(session)?;
    let mailbox = selected.mailbox();
    let (home, reach) = (selected.home.again(), selected.reach.clone());
    let (info, held) = match &home {
        Home::Here(holding) => holding.get(mailbox).ok_or_else(no_such_mailbox)?,
        // What it may do is decided by the owner; here it is known from the lease.
        Home::There(_) => (selected.info.clone(), selected.view.rights()),
    };
    match rights.without(held).is_empty() || planted(Plant::RightsAtSelect) {
        true => {
            let seen_is_personal = selected.view.seen_is_personal();
            let seen_book = selected.seen_book.clone();
            Ok(Folder { home, reach, info, rights: held, seen_is_personal, seen_book })
        }
        false => Err(not_allowed()),
    }
}

pub(super) fn check_readable(session: &Session) -> Result<(), Failure> {
    readable_with(session.selected()?.view.rights())
}

/// Ends a session that may no longer read its selected mailbox, on which it has these rights.
pub(super) fn readable_with(rights: Rights) -> Result<(), Failure> {
    match rights.contain(Right::Read) || planted(Plant::LeaseOutlivesRights) {
        true => Ok(()),
        false => Err(Failure::Leave(Leave::Bye("The selected mailbox may no longer be read"))),
    }
}

/// The flags of the selected mailbox that the session can change.
pub(super) fn changeable_flags(session: &Session) -> FlagMask {
    match &session.selected {
        Some(selected) if !selected.read_only => selected.view.rights().flags(),
        _ => FlagMask::NONE,
    }
}

impl Source {
    pub(super) fn uid_validity(&self) -> UidValidity {
        self.uid_validity
    }

    /// Numbers that are never used again.
    pub(super) fn place(&self) -> (AccountId, MailboxId) {
        (self.home.account(), self.mailbox)
    }

    /// Its messages. Whether they may be read is asked of the owner each time.
    pub(super) fn reading(&self) -> Reading {
        Reading::new(&self.home, self.mailbox)
    }

    /// The messages that it has now. As long as it is held, their octets stay.
    pub(super) async fn view(&self) -> Result<View, Failure> {
        match &self.home {
            Home::Here(holding) => View::here(holding, self.mailbox, false).await,
            Home::There(distant) => View::there(distant, self.mailbox, false).await,
        }
    }
}

impl Folder {
    /// To be read only.
    pub(super) fn source(&self) -> Source {
        let (mailbox, uid_validity) = (self.info.id, self.info.uid_validity);
        Source { home: self.home.clone(), mailbox, uid_validity }
    }

    /// Numbers that are never used again.
    pub(super) fn place(&self) -> (AccountId, MailboxId) {
        (self.home.account(), self.info.id)
    }

    /// In UTF-8, as the client knows it.
    pub(super) fn name(&self) -> String {
        format!("{}{}", self.reach.prefix, self.info.name)
    }

    pub(super) fn uid_validity(&self) -> UidValidity {
        self.info.uid_validity
    }

    /// What the session's user may do with it.
    pub(super) fn rights(&self) -> Rights {
        self.rights
    }

    /// `code` tells the UIDs of messages just put into it, which nobody learns who may not read it
    /// (RFC 4315 3).
    pub(super) fn with_uids(&self, code: Code) -> Option<Code> {
        self.rights.contain(Right::Read).then_some(code)
    }

    /// Those of one's own mailboxes: what others use theirs for says nothing about where this
    /// user's clients may put his mail.
    pub(super) fn special_use(&self) -> Option<SpecialUse> {
        self.info.special_use.filter(|_| self.reach.prefix.is_empty())
    }

    /// MAILBOXID (RFC 8474 4): it has it for ever.
    pub(super) fn object_id(&self) -> ObjectId {
        ObjectId::Mailbox(self.home.account(), self.info.id)
    }

    /// Its messages, to be read.
    pub(super) fn reading(&self) -> Reading {
        Reading::new(&self.home, self.info.id)
    }

    /// Whether this is the selected mailbox.
    pub(super) fn is(&self, selected: &Selected) -> bool {
        self.place() == selected.place()
    }

    /// Opens it for a session; `None` if it was deleted meanwhile.
    pub(super) async fn select(
        &self,
        read_only: bool,
        claim_recent: bool,
    ) -> Result<Option<Selected>, Failure> {
        let view = match &self.home {
            Home::Here(holding) => View::here(holding, self.info.id, claim_recent).await?,
            Home::There(distant) => View::there(distant, self.info.id, claim_recent).await?,
        };
        let place = (self.home.clone(), self.reach.clone(), self.info.clone());
        let view = (view, self.seen_book.clone());
        Ok(Selected::new(place, view, read_only, claim_recent))
    }

    /// The counters; how many messages the user has not seen only if `counts_unseen`.
    pub(super) async fn status(&self, counts_unseen: bool) -> Result<MailboxStatus, Failure> {
        let mailbox = self.info.id;
        let seen = (self.seen_is_personal && counts_unseen).then(|| self.seen_book.set());
        let asked = move |holding: Holding| async move {
            check(&holding, mailbox, &[Right::Read])?;
            let mut status = holding.account.status(mailbox).await?;
            let Some(seen) = seen.filter(|_| holding.seen_is_personal(mailbox)) else {
                return Ok(status);
            };
            status.unseen = status.messages;
            if !seen.is_empty() {
                let view = holding.account.select(mailbox, false).await?;
                let now = view.current().ok_or_else(no_such_mailbox)?;
                status = MailboxStatus { unseen: unseen(&now, &seen) as u32, ..now.status() };
            }
            Ok(status)
        };
        self.home.at_owner(asked).await
    }

    /// Its annotations. Whether the user may know of them is asked at the owner.
    pub(super) fn annotated(&self) -> Annotated {
        let mailbox = (self.home.clone(), self.info.id, self.special_use());
        Annotated::mailbox(self.name(), self.seen_book.account().clone(), mailbox)
    }

    /// Whether the user has a `\Seen` of his own in it.
    pub(super) fn seen_is_personal(&self) -> bool {
        self.seen_is_personal
    }

    /// Whether the user may know of its annotations.
    pub(super) fn shows_annotations(&self) -> bool {
        self.rights.contain(Right::Lookup) && self.rights.contain_any(ANNOTATION_RIGHTS)
    }

    /// The octets that an EXPUNGE would free.
    pub(super) async fn deleted_octets(&self) -> Result<u64, Failure> {
        let mailbox = self.info.id;
        let asked = move |holding: Holding| async move {
            check(&holding, mailbox, &[Right::Read])?;
            Ok(holding.account.deleted_octets(mailbox).await?)
        };
        self.home.at_owner(asked).await
    }

    /// How full, in percent, the account is after something was added, if it is the user's own and
    /// nearly full. Its operator learns of others too.
    pub(super) async fn nearly_full(&self) -> Option<u64> {
        if self.home.shard().quotas.limits(self.reach.account).is_none() {
            return None;
        }
        let look = |holding: Holding| async move {
            Ok(service::quota::look(&holding.shard, &holding.account))
        };
        let percent = self.home.at_owner(look).await.ok()?;
        percent.filter(|_| self.reach.prefix.is_empty())
    }

    /// Where the octets of messages go that are to be appended.
    pub(super) fn stage(&self) -> Result<Staging, Failure> {
        Staging::new(&self.home, self.info.id)
    }

    /// Adds the messages that were staged for it, all or none, with the flags that the user may
    /// set. Those in `seen` are as if he had read them; they are there, whether a `\Seen` of his
    /// own could be set or not. With an [`Unsettled`] nothing may be told of them before that is
    /// settled.
    pub(super) async fn append(
        &self,
        messages: Staging,
        seen: &[bool],
    ) -> Result<(Vec<Delivered>, SeenKept, Option<Unsettled>), Failure> {
        let (stored, unsettled) = messages.store(&self.home, self.info.id, None).await?;
        if !self.seen_is_personal {
            return Ok((stored.delivered, SeenKept(Ok(())), unsettled));
        }
        settle(unsettled).await?;
        let kept = self.add_seen_of(&stored.delivered, seen).await;
        Ok((stored.delivered, kept, None))
    }

    async fn add_seen_of(&self, delivered: &[Delivered], seen: &[bool]) -> SeenKept {
        if !self.seen_is_personal || !seen.contains(&true) {
            return SeenKept(Ok(()));
        }
        let uids = delivered.iter().zip(seen).filter(|(_, is_seen)| **is_seen);
        let uids: Vec<Uid> = uids.map(|(it, _)| it.uid).collect();
        SeenKept(self.add_seen(&uids).await)
    }

    /// Adds a message in place of one of the selected mailbox. In one partition that is one entry;
    /// otherwise the new one is durable before the other is expunged, and is removed again if that
    /// cannot be done.
    pub(super) async fn replace(
        &self,
        message: Staging,
        seen: &[bool],
        (source, uid): (&Selected, Uid),
    ) -> Result<(Delivered, SeenKept), Failure> {
        let (account, mailbox) = (source.home.account(), source.mailbox());
        let replaced = Replaced { account, mailbox, uid };
        let stored = message.store(&self.home, self.info.id, Some(replaced)).await?;
        let (stored, unsettled) = stored;
        settle(unsettled).await?;
        let delivered = *stored.delivered.first().ok_or_else(no_such_mailbox)?;
        if !stored.replaced {
            let remove = move |holding: Holding| async move {
                check(&holding, mailbox, &REPLACED_RIGHTS)?;
                let removed = holding.account.remove(mailbox, &[uid]).await?;
                if removed.is_empty() { Err(replaced_is_gone()) } else { Ok(()) }
            };
            if let Err(failure) = source.home.at_mailbox(mailbox, remove).await {
                self.take_back(delivered.uid).await?;
                return Err(failure);
            }
        }
        source.home.look(mailbox).await;
        let kept = self.add_seen_of(&[delivered], seen).await;
        Ok((delivered, kept))
    }

    /// Removes a message that was added in vain.
    async fn take_back(&self, uid: Uid) -> Result<(), Failure> {
        let mailbox = self.info.id;
        let work = move |holding: Holding| async move {
            Ok(holding.account.remove(mailbox, &[uid]).await.map(drop)?)
        };
        self.home.at_mailbox(mailbox, work).await
    }

    /// New messages here are as if the user had read them, if he may say so.
    async fn add_seen(&self, uids: &[Uid]) -> Result<(), Failure> {
        match self.rights.contain(Right::Seen) {
            true => self.seen_book.change(true, uids, None).await,
            false => Ok(()),
        }
    }

    /// Whether its user is told mod-sequences: [`Selected::has_mod_seqs`].
    pub(super) fn has_mod_seqs(&self) -> bool {
        !self.seen_is_personal
    }

    /// Changes the flags that the user may change; it is the `selected` mailbox. A `\Seen` of his
    /// own is changed here, the other flags at the owner.
    pub(super) async fn store_flags(
        &self,
        selected: &Selected,
        uids: &[Uid],
        change: FlagChange,
        unchanged_since: Option<ModSeq>,
    ) -> Result<FlagOutcome, Failure> {
        if !self.seen_is_personal {
            return self.store_shared_flags(uids, change, unchanged_since).await;
        }
        let may_change = change.within.and(self.rights.flags());
        let names_seen = change.system.contains(Flags::SEEN);
        let is_seen = match change.action {
            FlagAction::Replace => Some(names_seen),
            FlagAction::Add => names_seen.then_some(true),
            FlagAction::Remove => names_seen.then_some(false),
        };
        let is_seen = is_seen.filter(|_| may_change.system.contains(Flags::SEEN));
        let names_others = change.action == FlagAction::Replace
            || !(change.system & !Flags::SEEN).is_empty()
            || !change.keywords.is_empty();
        let within = may_change.without(Flags::SEEN);
        let outcome = match names_others && !within.is_empty() {
            true => {
                let change = FlagChange { within, ..change };
                self.store_shared_flags(uids, change, unchanged_since).await?
            }
            false => existing(selected, uids),
        };
        if let Some(is_seen) = is_seen {
            let uids: Vec<Uid> = outcome.updated.iter().map(|(uid, _)| *uid).collect();
            let now = selected.view.current();
            self.seen_book.change(is_seen, &uids, now.as_ref()).await?;
        }
        Ok(outcome)
    }

    /// [`Folder::store_flags`] that is only begun, where that can be: where the mailbox is on this
    /// shard and the user has no `\\Seen` of his own.
    pub(super) async fn begin_store_flags(
        &self,
        selected: &Selected,
        uids: &[Uid],
        change: FlagChange,
        unchanged_since: Option<ModSeq>,
    ) -> Result<(FlagOutcome, Option<Unsettled>), Failure> {
        let Home::Here(holding) = &self.home else {
            return Ok((self.store_flags(selected, uids, change, unchanged_since).await?, None));
        };
        if self.seen_is_personal {
            return Ok((self.store_flags(selected, uids, change, unchanged_since).await?, None));
        }
        let mailbox = self.info.id;
        let change = within_rights(holding, mailbox, change)?;
        let account = &holding.account;
        let begun = account.begin_store_flags(mailbox, uids, change, unchanged_since).await?;
        Ok((begun.0, Some(begun.1)))
    }

    /// Changes those flags of which all users have the same.
    pub(super) async fn store_shared_flags(
        &self,
        uids: &[Uid],
        change: FlagChange,
        unchanged_since: Option<ModSeq>,
    ) -> Result<FlagOutcome, Failure> {
        let (mailbox, uids) = (self.info.id, uids.to_vec());
        let work = move |holding: Holding| async move {
            let change = within_rights(&holding, mailbox, change)?;
            Ok(holding.account.store_flags(mailbox, &uids, change, unchanged_since).await?)
        };
        self.home.at_mailbox(mailbox, work).await
    }

    /// What was expunged with a mod-sequence above `since`, for a session that knows a state of the
    /// mailbox of which `until` is the highest one.
    pub(super) async fn expunged(&self, since: ModSeq, until: ModSeq) -> Result<Expunged, Failure> {
        let mailbox = self.info.id;
        let asked = move |holding: Holding| async move {
            check(&holding, mailbox, &[Right::Read])?;
            Ok(holding.account.expunged_between(mailbox, since, until).await?)
        };
        self.home.at_owner(asked).await
    }

    /// Removes those of `uids`, or of all messages, that have `\Deleted`.
    pub(super) async fn expunge(&self, uids: Option<&[Uid]>) -> Result<Vec<Uid>, Failure> {
        let (mailbox, uids) = (self.info.id, uids.map(<[Uid]>::to_vec));
        let work = move |holding: Holding| async move {
            check(&holding, mailbox, &[Right::Read, Right::Expunge])?;
            Ok(holding.account.expunge(mailbox, uids.as_deref()).await?)
        };
        self.home.at_mailbox(mailbox, work).await
    }

    /// Copies messages of the selected mailbox into this one, with the flags that the user may set
    /// here.
    pub(super) async fn copy_in(
        &self,
        source: &Selected,
        messages: &[Message],
    ) -> Result<Copied, Failure> {
        if self.home.account() != source.home.account() {
            return self.carry_in(source, messages, Way::Copy).await;
        }
        let (source, messages) = (source.mailbox(), messages.to_vec());
        let mailbox = self.info.id;
        let work = move |holding: Holding| async move {
            let rights = check(&holding, mailbox, &[Right::Insert])?;
            let kept = holding.flags_of_copies(source, mailbox, rights);
            check(&holding, source, &[Right::Read])?;
            let account = &holding.account;
            let copied = account.copy_keeping(source, &messages, mailbox, kept).await;
            copied.map_err(Failure::with_try_create)
        };
        self.home.at_mailbox(mailbox, work).await
    }

    /// Moves messages of the selected mailbox into this one, as [`Folder::copy_in`].
    pub(super) async fn move_in(
        &self,
        source: &Selected,
        messages: &[Message],
    ) -> Result<Copied, Failure> {
        if self.home.account() != source.home.account() {
            return self.carry_in(source, messages, Way::Move).await;
        }
        let (source, messages) = (source.mailbox(), messages.to_vec());
        let mailbox = self.info.id;
        let work = move |holding: Holding| async move {
            let rights = check(&holding, mailbox, &[Right::Insert])?;
            let kept = holding.flags_of_copies(source, mailbox, rights);
            check(&holding, source, &[Right::Read, Right::DeleteMessages, Right::Expunge])?;
            let account = &holding.account;
            let moved = account.move_keeping(source, &messages, mailbox, kept).await;
            moved.map_err(Failure::with_try_create)
        };
        self.home.at_mailbox(source, work).await
    }

    async fn carry_in(
        &self,
        source: &Selected,
        messages: &[Message],
        way: Way,
    ) -> Result<Copied, Failure> {
        let from = (&source.home, source.mailbox());
        let kept = match source.view.seen_is_personal() {
            // Not the user's.
            true if !planted(Plant::CarryAnothersSeen) => FlagMask::ALL.without(Flags::SEEN),
            _ => FlagMask::ALL,
        };
        carry(from, messages.to_vec(), (&self.home, self.info.id), kept, way).await
    }

    /// Makes copies of `messages` in this mailbox as seen as the user has seen those, if `\Seen` is
    /// his own here or there: the store copies only what is shared. The copies are there, whether
    /// this succeeds or not.
    pub(super) async fn keep_seen(
        &self,
        source: &Selected,
        messages: &[Message],
        copied: &Copied,
    ) -> SeenKept {
        let is_shared = !self.seen_is_personal && !source.view.seen_is_personal();
        if is_shared || planted(Plant::ForgetSeenOfCopies) {
            return SeenKept(Ok(()));
        }
        let was_seen = |uid: Uid| {
            let index = messages.binary_search_by_key(&uid, |message| message.uid).ok();
            let message = index.and_then(|index| messages.get(index));
            message.is_some_and(|message| message.flags.system.contains(Flags::SEEN))
        };
        let seen = copied.uids.iter().filter(|(original, _)| was_seen(*original));
        let mut seen: Vec<Uid> = seen.map(|(_, copy)| *copy).collect();
        seen.sort_unstable();
        SeenKept(if self.seen_is_personal {
            self.add_seen(&seen).await
        } else if !seen.is_empty() {
            let change = FlagChange::add(Flags::SEEN, Vec::new());
            self.store_shared_flags(&seen, change, None).await.map(drop)
        } else {
            Ok(())
        })
    }

    pub(super) async fn delete(&self) -> Result<(), Failure> {
        let name = self.info.name.clone();
        let work = move |holding: Holding| async move { holding.delete(&name).await };
        self.home.at_owner(work).await
    }

    /// The subject as the list has it.
    fn stored(&self, subject: Subject) -> Subject {
        subject.in_account(self.reach.account, &self.reach.owner)
    }

    /// GETACL: the entries of the access list, with the owner by his name.
    pub(super) async fn access_list(&self) -> Result<Vec<(String, Rights)>, Failure> {
        let (mailbox, owner) = (self.info.id, self.reach.owner.to_string());
        let asked = move |holding: Holding| async move {
            check(&holding, mailbox, &[Right::Administer])?;
            Ok(holding.access_list(mailbox, &owner))
        };
        self.home.at_owner(asked).await
    }

    /// The rights that cannot be taken from `subject`.
    pub(super) fn required_rights(&self, subject: Subject) -> Rights {
        self.stored(subject).required_rights()
    }

    /// SETACL and DELETEACL.
    pub(super) async fn edit_access(&self, subject: Subject, edit: Edit) -> Result<(), Failure> {
        let (mailbox, subject) = (self.info.id, self.stored(subject));
        let work = move |holding: Holding| async move {
            holding.edit_access(mailbox, subject, edit).await
        };
        self.home.at_mailbox(mailbox, work).await
    }
}

/// Whether new messages are as seen as they were to be. They are there all the same, and the
/// command succeeds.
#[must_use]
pub(super) struct SeenKept(Result<(), Failure>);

impl SeenKept {
    /// Warns the client (RFC 3501 7.1.2: an untagged NO, and the command still completes).
    pub(super) fn tell(self, session: &mut Session) -> Result<(), Failure> {
        match self.0 {
            Ok(()) => Ok(()),
            Err(Failure::No { code, text }) => {
                let text = format!("\\Seen was not set: {text}");
                session.writer().untagged(Status::No, code, &text);
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }
}

async fn settle(unsettled: Option<Unsettled>) -> Result<(), Failure> {
    match unsettled {
        Some(unsettled) => Ok(unsettled.settled().await?),
        None => Ok(()),
    }
}

/// The message to be replaced was expunged by another session.
pub(super) fn replaced_is_gone() -> Failure {
    Failure::no(Code::ExpungeIssued, "The message was expunged")
}

/// A change of the flags that all users share, of those that the user may change.
fn within_rights(
    holding: &Holding,
    mailbox: MailboxId,
    change: FlagChange,
) -> Result<FlagChange, Failure> {
    let rights = check(holding, mailbox, &[Right::Read])?;
    let within = change.within.and(holding.shared_flags(mailbox, rights));
    Ok(FlagChange { within, ..change })
}

/// The soft warning of RFC 9208 4.3.1, for a user whose account is nearly full after something was
/// added to the mailbox.
pub(super) async fn tell_nearly_full(session: &mut Session, folder: &Folder) {
    if let Some(percent) = folder.nearly_full().await {
        let text = format!("The account is {percent}% full");
        session.writer().untagged(Status::No, Some(Code::OverQuota), &text);
    }
}

/// Those of `uids` that there are, for a change that leaves the flags of all users as they are.
fn existing(selected: &Selected, uids: &[Uid]) -> FlagOutcome {
    let now = selected.view.current();
    let message = |uid: &Uid| now.as_ref().and_then(|now| now.get(now.index_of(*uid)?).copied());
    let messages = uids.iter().filter_map(message);
    let updated = messages.map(|message| (message.uid, message.mod_seq)).collect();
    FlagOutcome { updated, ..FlagOutcome::default() }
}

/// The user's rights on the mailbox at this moment, if `needed` are among them. Asked where the
/// mailbox is changed: since the command was allowed, its rights may have been taken.
fn check(holding: &Holding, mailbox: MailboxId, needed: &[Right]) -> Result<Rights, Failure> {
    let (_, rights) = holding.get(mailbox).ok_or_else(no_such_mailbox)?;
    let missing = Rights::of(needed).without(rights);
    match missing.is_empty() || planted(Plant::RightsAtSelect) {
        true => Ok(rights),
        false if rights.contain(Right::Lookup) => Err(not_allowed()),
        false => Err(no_such_mailbox()),
    }
}

/// A name, whether or not a mailbox has it.
pub(super) struct Place {
    namespace: Namespace,
    /// As the client knows it.
    full: String,
    /// `None` if the user cannot reach the account to which the name belongs.
    located: Option<Located>,
}

impl Place {
    /// The name of a mailbox, of a level above one, or of a mere subscription.
    pub(super) fn existing(session: &Session, name: &MailboxName<'_>) -> Result<Place, Failure> {
        let name = name.to_utf8(session.name_form()).map_err(|_| no_such_mailbox())?;
        Place::of(session, name.into_owned())
    }

    /// The name of a mailbox to be created.
    pub(super) fn new(session: &Session, name: &MailboxName<'_>) -> Result<Place, Failure> {
        Place::of(session, new_name(name, session.name_form())?)
    }

    fn of(session: &Session, full: String) -> Result<Place, Failure> {
        let namespace = Namespace::of(session)?;
        Ok(Place { located: namespace.locate(&full), namespace, full })
    }

    /// The name in UTF-8, as the client will be told it.
    pub(super) fn name(&self) -> &str {
        &self.full
    }

    /// The name in its one spelling, as changes of it are told.
    pub(super) fn spelled(&self) -> String {
        let full = self.full.strip_suffix(SEPARATOR).unwrap_or(&self.full);
        self.namespace.spelled(&inbox_of(full))
    }

    /// No mailbox has this name, but there are mailboxes below it that the user may look up (RFC
    /// 3501 6.3.4).
    pub(super) async fn is_only_above(&self) -> Result<bool, Failure> {
        let Some(Located { reach, name }) = &self.located else {
            let level = self.full.strip_suffix(SEPARATOR).unwrap_or(&self.full);
            return Ok(self.namespace.is_above_others(level).await);
        };
        let name = name.clone();
        let asked = move |holding: Holding| async move { Ok(holding.is_only_above(&name)) };
        self.namespace.home(reach).await?.at_owner(asked).await
    }

    /// Returns the MAILBOXID of the new mailbox (RFC 8474 4.1).
    pub(super) async fn create(
        &self,
        special_use: Option<SpecialUse>,
    ) -> Result<ObjectId, Failure> {
        let Some(Located { reach, name }) = &self.located else { return Err(not_there()) };
        let name = name.clone();
        let work = move |holding: Holding| async move { holding.create(&name, special_use).await };
        let id = self.namespace.home(reach).await?.at_owner(work).await?;
        Ok(ObjectId::Mailbox(reach.account, id))
    }

    pub(super) async fn rename(&self, target: &Place) -> Result<(), Failure> {
        let source = self.located.as_ref().ok_or_else(no_such_mailbox)?;
        let home = self.namespace.home(&source.reach).await?;
        let name = source.name.clone();
        let target = match &target.located {
            Some(Located { reach, name }) if reach.account == source.reach.account => name.clone(),
            _ => {
                let check = move |holding: Holding| async move { holding.check_rename(&name) };
                home.at_owner(check).await?;
                let text = "A mailbox cannot be moved to another account";
                return Err(Failure::no(Code::Cannot, text));
            }
        };
        let work = move |holding: Holding| async move { holding.rename(&name, &target).await };
        home.at_owner(work).await
    }

    /// The account keeps names of other accounts like its own.
    pub(super) async fn set_subscribed(&self, subscribed: bool) -> Result<(), Failure> {
        let (account, name) = (&self.namespace.own().account, self.namespace.spelled(&self.full));
        if !subscribed && name != self.full {
            // One that was subscribed as it was written.
            account.set_subscribed(&self.full, false).await?;
        }
        Ok(account.set_subscribed(&name, subscribed).await?)
    }
}

/// The user can create nothing in the account that a name leads to, whether there is one or not.
fn not_there() -> Failure {
    Failure::no(Code::NoPerm, "Mailboxes cannot be created there")
}

/// The name of a mailbox to be created.
fn new_name(name: &MailboxName<'_>, form: NameForm) -> Result<String, Failure> {
    let cannot = |why: &str| Failure::no(Code::Cannot, why.to_owned());
    let name = name.to_utf8(form).map_err(|error| cannot(&error.to_string()))?;
    Ok(imap::new_name(&name).map_err(cannot)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_that_may_not_be_seen_does_not_exist() {
        let found = |rights: Option<&[Right]>| {
            let rights = rights.map(Rights::of);
            permitted(rights, Rights::of(&[Right::Read]), no_such_mailbox).map_err(|it| match it {
                Failure::No { code: Some(code), text } => (code, text),
                other => panic!("{other:?}"),
            })
        };
        assert!(found(Some(&Right::EVERY)).is_ok());
        assert!(found(Some(&[Right::Read])).is_ok());
        let hidden = found(Some(&[Right::Insert])).unwrap_err();
        assert_eq!(hidden, found(None).unwrap_err());
        assert_eq!(hidden.0, Code::NonExistent);
        let refused = found(Some(&[Right::Lookup, Right::Insert])).unwrap_err();
        assert_eq!(refused.0, Code::NoPerm);
    }

    #[test]
    fn new_names() {
        const CASES: &[(&str, Option<&str>)] = &[
            ("a", Some("a")),
            ("a/b/", Some("a/b")),
            ("iNbOx/a", Some("INBOX/a")),
            ("Entw&APw-rfe", Some("Entwürfe")),
            ("", None),
            ("/", None),
            ("/a", None),
            ("a//b", None),
            ("a%", None),
            ("a*b", None),
            ("a&", None),
            ("a\tb", None),
        ];
        for (name, expected) in CASES {
            let named = new_name(&MailboxName(name.as_bytes().into()), NameForm::ModifiedUtf7).ok();
            assert_eq!(named.as_deref(), *expected, "{name:?}");
        }
    }
}
