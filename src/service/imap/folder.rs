//! Resolves mailbox names from the client: the only way from a name to a mailbox.
//!
//! A command states the right that it needs ([`resolve`]) and gets a [`Folder`] to work on. A
//! session has every right on the mailboxes of its own account, and sees no others yet. Names are
//! decoded from modified UTF-7 here; the store has them in UTF-8.

use super::{
    reply::{Failure, no_such_mailbox, try_create},
    selected::Selected,
    state::Session,
};
use crate::{
    model::{Flags, SpecialUse, Timestamp},
    protocol::imap::{Code, MailboxName, SEPARATOR},
    store::{
        Account, Copied, Delivered, MailboxInfo, MailboxStatus, MailboxView, Message, Names,
        StagedBody, StoreError,
    },
};

/// What a command must be allowed to do with a mailbox (RFC 4314 2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Right {
    /// `l`: see that it exists.
    Lookup,
    /// `r`: select it, get its status.
    Read,
    /// `i`: put messages in.
    Insert,
    /// `k`: create a mailbox below it, or by this name.
    Create,
    /// `x`: delete or rename it.
    DeleteMailbox,
}

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rights(u8);

impl Rights {
    /// The rights of an account on its own mailboxes.
    const ALL: Rights = Rights(u8::MAX);

    fn contain(self, right: Right) -> bool {
        self.0 & (1 << right as u8) != 0
    }
}

/// Checks `right` against the rights found. Without the lookup right the answer is the one for a
/// mailbox that does not exist (RFC 4314 6).
fn permitted(
    found: Option<Rights>,
    right: Right,
    missing: impl FnOnce() -> Failure,
) -> Result<(), Failure> {
    match found {
        Some(rights) if rights.contain(right) => Ok(()),
        Some(rights) if rights.contain(Right::Lookup) => {
            Err(Failure::no(Code::NoPerm, "Not allowed on this mailbox"))
        }
        _ => Err(missing()),
    }
}

/// A mailbox that a command may work on.
pub(super) enum Folder {
    /// A mailbox of the session's own account, on this shard.
    Local { account: Account, info: MailboxInfo },
}

/// The mailbox of this name, for a command that needs `right` on it.
pub(super) fn resolve(
    session: &Session,
    name: &MailboxName<'_>,
    right: Right,
) -> Result<Folder, Failure> {
    let namespace = Namespace::of(session)?;
    // A name that cannot be decoded names no mailbox.
    let name = name.to_utf8().map_err(|_| no_such_mailbox())?;
    namespace.folder(&name, right, no_such_mailbox)
}

/// The same for the target of APPEND, COPY or MOVE: if it is missing, the client may create it
/// first (RFC 3501 7.1 TRYCREATE).
pub(super) fn resolve_target(session: &Session, name: &MailboxName<'_>) -> Result<Folder, Failure> {
    let namespace = Namespace::of(session)?;
    let name = name.to_utf8().map_err(|_| try_create())?;
    namespace.folder(&name, Right::Insert, try_create)
}

impl Folder {
    /// In UTF-8.
    pub(super) fn name(&self) -> &str {
        let Folder::Local { info, .. } = self;
        &info.name
    }

    pub(super) fn special_use(&self) -> Option<SpecialUse> {
        let Folder::Local { info, .. } = self;
        info.special_use
    }

    /// Whether this is the selected mailbox.
    pub(super) fn is(&self, selected: &Selected) -> bool {
        let Folder::Local { info, .. } = self;
        info.id == selected.mailbox()
    }

    pub(super) async fn select(&self, claim_recent: bool) -> Result<MailboxView, StoreError> {
        let Folder::Local { account, info } = self;
        account.select(info.id, claim_recent).await
    }

    pub(super) async fn status(&self) -> Result<MailboxStatus, StoreError> {
        let Folder::Local { account, info } = self;
        account.status(info.id).await
    }

    pub(super) async fn append(
        &self,
        body: StagedBody,
        flags: Flags,
        keywords: &[String],
        internal_date: Timestamp,
    ) -> Result<Delivered, StoreError> {
        let Folder::Local { account, info } = self;
        account.append(info.id, body, flags, keywords, internal_date).await
    }

    /// Copies messages of the selected mailbox into this one.
    pub(super) async fn copy_in(
        &self,
        source: &Selected,
        messages: &[Message],
    ) -> Result<Copied, StoreError> {
        let Folder::Local { account, info } = self;
        account.copy(source.mailbox(), messages, info.id).await
    }

    /// Moves messages of the selected mailbox into this one.
    pub(super) async fn move_in(
        &self,
        source: &Selected,
        messages: &[Message],
    ) -> Result<Copied, StoreError> {
        let Folder::Local { account, info } = self;
        account.move_messages(source.mailbox(), messages, info.id).await
    }

    pub(super) async fn delete(&self) -> Result<(), StoreError> {
        let Folder::Local { account, info } = self;
        account.delete_mailbox(&info.name).await
    }
}

/// A name, whether or not a mailbox has it.
pub(super) struct Place {
    account: Account,
    name: String,
}

impl Place {
    /// The name of a mailbox, of a level above one, or of a mere subscription.
    pub(super) fn existing(
        session: &Session,
        name: &MailboxName<'_>,
        right: Right,
    ) -> Result<Place, Failure> {
        let name = name.to_utf8().map_err(|_| no_such_mailbox())?;
        Place::of(session, name.into_owned(), right)
    }

    /// The name of a mailbox to be created.
    pub(super) fn new(
        session: &Session,
        name: &MailboxName<'_>,
        right: Right,
    ) -> Result<Place, Failure> {
        Place::of(session, new_name(name)?, right)
    }

    fn of(session: &Session, name: String, right: Right) -> Result<Place, Failure> {
        permitted(Some(Rights::ALL), right, no_such_mailbox)?;
        Ok(Place { account: session.account()?, name })
    }

    /// No mailbox has this name, but there are mailboxes below it (RFC 3501 6.3.4).
    pub(super) fn is_only_above(&self) -> bool {
        let name = self.name.strip_suffix(SEPARATOR).unwrap_or(&self.name);
        self.account.mailbox_by_name(&self.name).is_none() && self.account.has_children(name)
    }

    pub(super) async fn create(&self, special_use: Option<SpecialUse>) -> Result<(), Failure> {
        self.account.create_mailbox(&self.name, special_use).await?;
        Ok(())
    }

    pub(super) async fn rename(&self, target: &Place) -> Result<(), Failure> {
        Ok(self.account.rename_mailbox(&self.name, &target.name).await?)
    }

    pub(super) async fn set_subscribed(&self, subscribed: bool) -> Result<(), Failure> {
        Ok(self.account.set_subscribed(&self.name, subscribed).await?)
    }
}

/// All names that a session can list: those of its own account (RFC 2342: the personal namespace).
pub(super) struct Namespace {
    account: Account,
}

impl Namespace {
    pub(super) fn of(session: &Session) -> Result<Namespace, Failure> {
        Ok(Namespace { account: session.account()? })
    }

    fn folder(
        &self,
        name: &str,
        right: Right,
        missing: impl FnOnce() -> Failure,
    ) -> Result<Folder, Failure> {
        let info = self.account.mailbox_by_name(name);
        permitted(info.as_ref().map(|_| Rights::ALL), right, missing)?;
        let info = info.ok_or_else(no_such_mailbox)?;
        Ok(Folder::Local { account: self.account.clone(), info })
    }

    /// The mailbox with this UTF-8 name, if it exists and may be looked up.
    pub(super) fn look_up(&self, name: &str) -> Option<Folder> {
        self.folder(name, Right::Lookup, no_such_mailbox).ok()
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

    fn rights(rights: &[Right]) -> Rights {
        Rights(rights.iter().fold(0, |bits, &right| bits | 1 << right as u8))
    }

    #[test]
    fn a_mailbox_that_may_not_be_seen_does_not_exist() {
        let found = |exists: bool, rights| {
            permitted(exists.then_some(rights), Right::Read, no_such_mailbox).map_err(|it| match it
            {
                Failure::No { code: Some(code), text } => (code, text),
                other => panic!("{other:?}"),
            })
        };
        assert!(found(true, Rights::ALL).is_ok());
        assert!(found(true, rights(&[Right::Read])).is_ok());
        let hidden = found(true, rights(&[Right::Insert])).unwrap_err();
        assert_eq!(hidden, found(false, Rights::ALL).unwrap_err());
        assert_eq!(hidden.0, Code::NonExistent);
        let refused = found(true, rights(&[Right::Lookup, Right::Insert])).unwrap_err();
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
