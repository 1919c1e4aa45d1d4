//! Resolves mailbox names from the client: the only way from a name to a mailbox.
//!
//! A command states the right that it needs ([`resolve`]) and gets a [`Folder`] to work on; for the
//! selected mailbox it asks [`selected`]. Rights are those of the mailbox's access list at that
//! moment, for every command anew (RFC 4314). A session sees the mailboxes of its own account, and
//! no others yet. Names are decoded from modified UTF-7 here; the store has them in UTF-8.

use std::rc::Rc;

use super::{
    reply::{Failure, Leave, no_such_mailbox, try_create},
    selected::Selected,
    state::{Session, User},
};
use crate::{
    model::{
        AccessList, Asker, Change, FlagMask, Flags, Identifier, MailboxId, ModSeq, Right, Rights,
        SpecialUse, Subject, Timestamp, Uid, rights_stored,
    },
    protocol::imap::{Code, MailboxName, SEPARATOR},
    store::{
        Account, Copied, Delivered, FlagChange, FlagOutcome, MailboxInfo, MailboxStatus,
        MailboxView, Message, Names, StagedBody, StoreError,
    },
};

/// The user lacks a right on a mailbox that he may see (RFC 5530 3).
pub(super) fn not_allowed() -> Failure {
    Failure::no(Code::NoPerm, "Not allowed on this mailbox")
}

/// Checks the rights found against those of which a command needs one. Without the lookup right the
/// answer is the one for a mailbox that does not exist (RFC 4314 6).
fn permitted(
    found: Option<Rights>,
    any_of: Rights,
    missing: impl FnOnce() -> Failure,
) -> Result<(), Failure> {
    match found {
        Some(rights) if rights.contain_any(any_of) => Ok(()),
        Some(rights) if rights.contain(Right::Lookup) => Err(not_allowed()),
        _ => Err(missing()),
    }
}

/// What `user` may do with a mailbox of `account` now.
fn rights_on(user: &User, account: &Account, mailbox: MailboxId) -> Rights {
    let is_owner = user.account == account.id();
    let asker = Asker {
        is_owner,
        account: Some(user.account),
        name: &user.name,
        groups: &[],
        is_logged_in: true,
    };
    account.with_access_list(mailbox, |list| rights_stored(list, &asker))
}

/// A mailbox that a command may work on.
pub(super) enum Folder {
    /// A mailbox of an account on this shard.
    Local {
        account: Account,
        /// Name of the user whose account it is.
        owner: Rc<str>,
        info: MailboxInfo,
        /// Of the user who asks, when the command began.
        rights: Rights,
    },
}

/// The mailbox of this name, for a command that needs `right` on it.
pub(super) fn resolve(
    session: &Session,
    name: &MailboxName<'_>,
    right: Right,
) -> Result<Folder, Failure> {
    resolve_for_any(session, name, Rights::of(&[right]))
}

/// The same for a command that needs one of several rights.
pub(super) fn resolve_for_any(
    session: &Session,
    name: &MailboxName<'_>,
    any_of: Rights,
) -> Result<Folder, Failure> {
    let namespace = Namespace::of(session)?;
    // A name that cannot be decoded names no mailbox.
    let name = name.to_utf8().map_err(|_| no_such_mailbox())?;
    namespace.folder(&name, any_of, no_such_mailbox)
}

/// The same for the target of APPEND, COPY or MOVE: if it is missing, the client may create it
/// first (RFC 3501 7.1 TRYCREATE).
pub(super) fn resolve_target(session: &Session, name: &MailboxName<'_>) -> Result<Folder, Failure> {
    let namespace = Namespace::of(session)?;
    let name = name.to_utf8().map_err(|_| try_create())?;
    namespace.folder(&name, Rights::of(&[Right::Insert]), try_create)
}

/// The selected mailbox, for a command that needs all of `rights` on it beside the one to read. A
/// session that may no longer read it ends: no response about the mailbox would be for its user.
pub(super) fn selected(session: &Session, rights: Rights) -> Result<Folder, Failure> {
    let selected = session.selected()?;
    let account = selected.account.clone();
    let info = account.mailbox(selected.mailbox()).ok_or_else(no_such_mailbox)?;
    check_readable(session)?;
    let user = session.user()?.clone();
    let namespace = Namespace { user, account, owner: selected.owner.clone() };
    let folder = namespace.open(info);
    match rights.without(folder.rights()).is_empty() {
        true => Ok(folder),
        false => Err(not_allowed()),
    }
}

/// Ends a session that may no longer read its selected mailbox.
pub(super) fn check_readable(session: &Session) -> Result<(), Failure> {
    match rights_on_selected(session).contain(Right::Read) {
        true => Ok(()),
        false => Err(Failure::Leave(Leave::Bye("The selected mailbox may no longer be read"))),
    }
}

/// The flags of the selected mailbox that the session can change.
pub(super) fn changeable_flags(session: &Session) -> FlagMask {
    match &session.selected {
        Some(selected) if !selected.read_only => rights_on_selected(session).flags(),
        _ => FlagMask::NONE,
    }
}

fn rights_on_selected(session: &Session) -> Rights {
    match (&session.user, &session.selected) {
        (Some(user), Some(selected)) => rights_on(user, &selected.account, selected.mailbox()),
        _ => Rights::NONE,
    }
}

impl Folder {
    pub(super) fn account(&self) -> &Account {
        let Folder::Local { account, .. } = self;
        account
    }

    /// In UTF-8.
    pub(super) fn name(&self) -> &str {
        let Folder::Local { info, .. } = self;
        &info.name
    }

    /// Name of the user whose account has it, as directory names are compared.
    pub(super) fn owner(&self) -> &Rc<str> {
        let Folder::Local { owner, .. } = self;
        owner
    }

    /// What the session's user may do with it.
    pub(super) fn rights(&self) -> Rights {
        let Folder::Local { rights, .. } = self;
        *rights
    }

    /// The same mailbox with the rights of now, for the target of a command that has waited for its
    /// client.
    pub(super) fn looked_at_again(self, session: &Session) -> Result<Folder, Failure> {
        let Folder::Local { account, owner, info, .. } = self;
        let rights = rights_on(session.user()?, &account, info.id);
        permitted(Some(rights), Rights::of(&[Right::Insert]), try_create)?;
        Ok(Folder::Local { account, owner, info, rights })
    }

    pub(super) fn special_use(&self) -> Option<SpecialUse> {
        let Folder::Local { info, .. } = self;
        info.special_use
    }

    /// Whether this is the selected mailbox.
    pub(super) fn is(&self, selected: &Selected) -> bool {
        let Folder::Local { account, info, .. } = self;
        (account.id(), info.id) == (selected.account.id(), selected.mailbox())
    }

    pub(super) async fn select(&self, claim_recent: bool) -> Result<MailboxView, StoreError> {
        let Folder::Local { account, info, .. } = self;
        account.select(info.id, claim_recent).await
    }

    pub(super) async fn status(&self) -> Result<MailboxStatus, StoreError> {
        let Folder::Local { account, info, .. } = self;
        account.status(info.id).await
    }

    pub(super) async fn append(
        &self,
        body: StagedBody,
        flags: Flags,
        keywords: &[String],
        internal_date: Timestamp,
    ) -> Result<Delivered, StoreError> {
        let Folder::Local { account, info, .. } = self;
        account.append(info.id, body, flags, keywords, internal_date).await
    }

    pub(super) async fn store_flags(
        &self,
        uids: &[Uid],
        change: FlagChange,
        unchanged_since: Option<ModSeq>,
    ) -> Result<FlagOutcome, StoreError> {
        let Folder::Local { account, info, .. } = self;
        account.store_flags(info.id, uids, change, unchanged_since).await
    }

    /// Removes those of `uids`, or of all messages, that have `\Deleted`.
    pub(super) async fn expunge(&self, uids: Option<&[Uid]>) -> Result<Vec<Uid>, StoreError> {
        let Folder::Local { account, info, .. } = self;
        account.expunge(info.id, uids).await
    }

    /// Copies messages of the selected mailbox into this one, with the flags that the user may set
    /// here.
    pub(super) async fn copy_in(
        &self,
        source: &Selected,
        messages: &[Message],
    ) -> Result<Copied, StoreError> {
        let Folder::Local { account, info, rights, .. } = self;
        check_same_account(account, source)?;
        account.copy_keeping(source.mailbox(), messages, info.id, rights.flags()).await
    }

    /// Moves messages of the selected mailbox into this one, as [`Folder::copy_in`].
    pub(super) async fn move_in(
        &self,
        source: &Selected,
        messages: &[Message],
    ) -> Result<Copied, StoreError> {
        let Folder::Local { account, info, rights, .. } = self;
        check_same_account(account, source)?;
        account.move_keeping(source.mailbox(), messages, info.id, rights.flags()).await
    }

    pub(super) async fn delete(&self) -> Result<(), StoreError> {
        let Folder::Local { account, info, .. } = self;
        account.delete_mailbox(&info.name).await
    }

    /// The subject as the list has it: the owner by his name is the owner.
    fn stored(&self, subject: Subject) -> Subject {
        match subject.identifier {
            Identifier::User { name, .. } if *name == **self.owner() => {
                Subject { identifier: Identifier::Owner, ..subject }
            }
            identifier => Subject { identifier, ..subject },
        }
    }

    /// The entries of the access list, with the owner by his name. If none says what he may do, his
    /// rights come first.
    pub(super) fn access_list(&self) -> Vec<(String, Rights)> {
        let Folder::Local { account, info, .. } = self;
        let list = account.with_access_list(info.id, |octets| AccessList::decode(octets?).ok());
        let list = list.unwrap_or_default();
        let told = |subject: &Subject| match (&subject.identifier, subject.negative) {
            (Identifier::Owner, false) => self.owner().to_string(),
            (Identifier::Owner, true) => format!("-{}", self.owner()),
            _ => subject.to_string(),
        };
        let owner = Subject::positive(Identifier::Owner);
        let implied = list.entry(&owner).is_none().then_some((&owner, Rights::ALL));
        implied.into_iter().chain(list.entries()).map(|(it, rights)| (told(it), rights)).collect()
    }

    /// The rights that cannot be taken from `subject`.
    pub(super) fn required_rights(&self, subject: Subject) -> Rights {
        match self.stored(subject) == Subject::positive(Identifier::Owner) {
            true => Rights::OF_EVERY_OWNER,
            false => Rights::NONE,
        }
    }

    /// SETACL. An owner without an entry has every right, so a change of his rights begins there.
    pub(super) async fn change_access(
        &self,
        subject: Subject,
        change: Change,
    ) -> Result<(), StoreError> {
        let Folder::Local { account, info, .. } = self;
        let required = self.required_rights(subject.clone());
        let subject = self.stored(subject);
        let implied = if required.is_empty() { Rights::NONE } else { Rights::ALL };
        let change = |list: &mut AccessList| {
            let before = list.entry(&subject).unwrap_or(implied);
            Ok(list.set(subject, change.apply(before) | required)?)
        };
        account.change_access_list(info.id, change).await
    }

    /// DELETEACL. Without an entry the owner has every right again.
    pub(super) async fn remove_access(&self, subject: Subject) -> Result<(), StoreError> {
        let Folder::Local { account, info, .. } = self;
        let subject = self.stored(subject);
        let change = |list: &mut AccessList| {
            list.remove(&subject);
            Ok(())
        };
        account.change_access_list(info.id, change).await
    }
}

/// Messages are copied and moved within an account.
fn check_same_account(account: &Account, source: &Selected) -> Result<(), StoreError> {
    match account.id() == source.account.id() {
        true => Ok(()),
        false => Err(StoreError::NotPermitted("The mailboxes belong to different accounts")),
    }
}

/// A name, whether or not a mailbox has it.
pub(super) struct Place {
    user: User,
    account: Account,
    name: String,
}

impl Place {
    /// The name of a mailbox, of a level above one, or of a mere subscription.
    pub(super) fn existing(session: &Session, name: &MailboxName<'_>) -> Result<Place, Failure> {
        let name = name.to_utf8().map_err(|_| no_such_mailbox())?;
        Place::of(session, name.into_owned())
    }

    /// The name of a mailbox to be created.
    pub(super) fn new(session: &Session, name: &MailboxName<'_>) -> Result<Place, Failure> {
        Place::of(session, new_name(name)?)
    }

    fn of(session: &Session, name: String) -> Result<Place, Failure> {
        Ok(Place { user: session.user()?.clone(), account: session.account()?, name })
    }

    /// Rights on the mailbox of this name.
    fn rights(&self) -> Option<Rights> {
        let info = self.account.mailbox_by_name(&self.name)?;
        Some(rights_on(&self.user, &self.account, info.id))
    }

    /// Rights on the nearest mailbox above. Where there is none, the account's owner has all and
    /// others have none.
    fn rights_above(&self) -> Rights {
        match self.account.nearest_above(&self.name) {
            Some(above) => rights_on(&self.user, &self.account, above),
            None if self.user.account == self.account.id() => Rights::ALL,
            None => Rights::NONE,
        }
    }

    /// No mailbox has this name, but there are mailboxes below it (RFC 3501 6.3.4).
    pub(super) fn is_only_above(&self) -> bool {
        let name = self.name.strip_suffix(SEPARATOR).unwrap_or(&self.name);
        self.account.mailbox_by_name(&self.name).is_none() && self.account.has_children(name)
    }

    /// Creating a mailbox, or moving one to this name, needs the right to on the nearest mailbox
    /// above (RFC 4314 4). The answer does not tell whether there is one.
    fn check_create(&self) -> Result<(), Failure> {
        match self.rights_above().contain(Right::CreateMailbox) {
            true => Ok(()),
            false => Err(Failure::no(Code::NoPerm, "Mailboxes cannot be created there")),
        }
    }

    pub(super) async fn create(&self, special_use: Option<SpecialUse>) -> Result<(), Failure> {
        self.check_create()?;
        self.account.create_mailbox(&self.name, special_use).await?;
        Ok(())
    }

    /// A level that is no mailbox is moved by who may delete the nearest mailbox above it.
    pub(super) async fn rename(&self, target: &Place) -> Result<(), Failure> {
        let found = match self.is_only_above() {
            true => Some(self.rights_above()),
            false => self.rights(),
        };
        permitted(found, Rights::of(&[Right::DeleteMailbox]), no_such_mailbox)?;
        target.check_create()?;
        Ok(self.account.rename_mailbox(&self.name, &target.name).await?)
    }

    pub(super) async fn set_subscribed(&self, subscribed: bool) -> Result<(), Failure> {
        Ok(self.account.set_subscribed(&self.name, subscribed).await?)
    }
}

/// All names that a session can list: those of its own account (RFC 2342: the personal namespace).
pub(super) struct Namespace {
    user: User,
    account: Account,
    /// Name of the user whose account it is.
    owner: Rc<str>,
}

impl Namespace {
    pub(super) fn of(session: &Session) -> Result<Namespace, Failure> {
        let user = session.user()?.clone();
        let owner = user.name.clone();
        Ok(Namespace { user, account: session.account()?, owner })
    }

    fn open(&self, info: MailboxInfo) -> Folder {
        let account = self.account.clone();
        let rights = rights_on(&self.user, &account, info.id);
        Folder::Local { account, owner: self.owner.clone(), info, rights }
    }

    fn folder(
        &self,
        name: &str,
        any_of: Rights,
        missing: impl FnOnce() -> Failure,
    ) -> Result<Folder, Failure> {
        let folder = self.account.mailbox_by_name(name).map(|info| self.open(info));
        permitted(folder.as_ref().map(Folder::rights), any_of, missing)?;
        folder.ok_or_else(no_such_mailbox)
    }

    /// The mailbox with this UTF-8 name, if it exists and may be looked up.
    pub(super) fn look_up(&self, name: &str) -> Option<Folder> {
        self.folder(name, Rights::of(&[Right::Lookup]), no_such_mailbox).ok()
    }

    /// The next `count` names after `after`, in order.
    pub(super) fn names_after(
        &self,
        after: Option<&str>,
        which: Names,
        count: usize,
    ) -> Vec<String> {
        self.account.names_after(after, which, count)
    }

    pub(super) fn is_subscribed(&self, name: &str) -> bool {
        self.account.is_subscribed(name)
    }

    /// Whether there is a mailbox below `name`.
    pub(super) fn has_children(&self, name: &str) -> bool {
        self.account.has_children(name)
    }

    /// Whether a subscribed name is below `name`.
    pub(super) fn has_subscribed_below(&self, name: &str) -> bool {
        self.account.has_subscribed_below(name)
    }
}

/// The name of a mailbox to be created. A trailing separator announces that the client will create
/// children; it is ignored (RFC 3501 6.3.3).
fn new_name(name: &MailboxName<'_>) -> Result<String, Failure> {
    let cannot = |why: &str| Failure::no(Code::Cannot, why.to_owned());
    let name = name.to_utf8().map_err(|error| cannot(&error.to_string()))?;
    let name = name.strip_suffix(SEPARATOR).unwrap_or(&name);
    if name.split(SEPARATOR).any(str::is_empty) {
        return Err(cannot("A level of the mailbox name is empty"));
    }
    // LIST could not name such a mailbox alone: these are its wildcards.
    if name.contains(['*', '%']) {
        return Err(cannot("Mailbox names cannot contain * or %"));
    }
    Ok(name.to_owned())
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
            let named = new_name(&MailboxName(name.as_bytes().into())).ok();
            assert_eq!(named.as_deref(), *expected, "{name:?}");
        }
    }
}
