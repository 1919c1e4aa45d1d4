//! Changes of access lists (RFC 4314), as users ask for them over IMAP and operators by `ringmail
//! acl`: whom an identifier names, and the change itself, on the account's shard. Every change is
//! told to the operator.

use super::Shard;
use crate::{
    directory::Directory,
    events::Event,
    model::{
        AccessList, AccountId, Change, Identifier, IdentifierError, MailboxId, Rights, Subject,
        Trail,
    },
    store::{Account, StoreError},
};

/// The subject that an identifier names. A user is named as at log-in, so that all spellings of an
/// address are one subject. An account's rights go with it, not with its name.
pub fn named(directory: &Directory, identifier: &str) -> Result<Subject, IdentifierError> {
    let subject = Subject::parse(identifier)?;
    let identifier = match subject.identifier {
        Identifier::User { name, .. } => {
            let key = directory.login_key(&name);
            Identifier::user(&key)?.numbered(directory.account_named(&key))
        }
        identifier => identifier,
    };
    Ok(Subject { identifier, ..subject })
}

/// Who changes a list, or a public mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By<'a> {
    User {
        trail: Trail,
        name: &'a str,
    },
    Operator {
        uid: Option<u64>,
    },
    /// Nobody: an account was removed.
    Removal,
}

impl By<'_> {
    fn cause(&self) -> &'static str {
        match self {
            By::User { .. } => "user",
            By::Operator { .. } => "operator",
            By::Removal => "account_removed",
        }
    }

    fn trail(&self) -> Option<Trail> {
        match self {
            By::User { trail, .. } => Some(*trail),
            _ => None,
        }
    }

    fn user(&self) -> Option<&str> {
        match self {
            By::User { name, .. } => Some(name),
            _ => None,
        }
    }

    fn operator(&self) -> Option<u64> {
        match self {
            By::Operator { uid } => *uid,
            _ => None,
        }
    }
}

/// What is done with the entry of a subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edit {
    /// SETACL (RFC 4314 3.1).
    Change(Change),
    /// DELETEACL (RFC 4314 3.2). A subject without an entry is no error.
    Remove,
}

/// The rights of a subject before and after a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edited {
    pub before: Rights,
    pub after: Rights,
}

/// Edits a list; `subject` as [`Subject::in_account`] has it.
///
/// # Errors
/// `Limit`; the list is then unchanged.
pub fn edit_list(
    list: &mut AccessList,
    subject: &Subject,
    edit: Edit,
) -> Result<Edited, StoreError> {
    let (before, after) = match edit {
        Edit::Change(change) => list.change(subject, change)?,
        Edit::Remove => list.take_back(subject),
    };
    Ok(Edited { before, after })
}

/// Edits the list of a mailbox of this shard, if `permit` allows it by the list of that moment.
///
/// # Errors
/// As [`Account::change_access_list`], and those of `permit`.
pub async fn edit(
    shard: &Shard,
    (account, mailbox): (&Account, MailboxId),
    (subject, edit): (&Subject, Edit),
    by: By<'_>,
    permit: impl FnOnce(&AccessList) -> Result<(), StoreError>,
) -> Result<Edited, StoreError> {
    let mut edited = Edited { before: Rights::NONE, after: Rights::NONE };
    let change = |list: &mut AccessList| {
        permit(list)?;
        edited = edit_list(list, subject, edit)?;
        Ok(())
    };
    account.change_access_list(mailbox, change).await?;
    tell(shard, (account, mailbox), subject, edited, by);
    Ok(edited)
}

/// Tells the operator of a change.
fn tell(
    shard: &Shard,
    (account, mailbox): (&Account, MailboxId),
    subject: &Subject,
    Edited { before, after }: Edited,
    by: By<'_>,
) {
    // It may have been deleted since.
    let name = account.mailbox(mailbox).map(|info| info.name).unwrap_or_default();
    shard.tell(&Event::AccessChanged {
        trail: by.trail(),
        cause: by.cause(),
        user: by.user(),
        operator: by.operator(),
        account: Some(account.id()).filter(|id| *id != AccountId::PUBLIC),
        mailbox,
        name: &name,
        identifier: &subject.to_string(),
        before: &before.to_string(),
        after: &after.to_string(),
    });
}

/// What became of a public mailbox.
#[derive(Clone, Copy, Debug)]
pub enum PublicNews<'a> {
    Created,
    Deleted,
    /// The name that it had.
    Renamed(&'a str),
}

/// Tells the operator of what became of a mailbox, if it is a public one.
pub fn tell_public(
    shard: &Shard,
    account: AccountId,
    name: &str,
    news: PublicNews<'_>,
    by: By<'_>,
) {
    if account != AccountId::PUBLIC {
        return;
    }
    let (trail, cause, user, operator) = (by.trail(), by.cause(), by.user(), by.operator());
    shard.tell(&match news {
        PublicNews::Created => Event::PublicMailboxCreated { trail, cause, user, operator, name },
        PublicNews::Deleted => Event::PublicMailboxDeleted { trail, cause, user, operator, name },
        PublicNews::Renamed(before) => {
            Event::PublicMailboxRenamed { trail, cause, user, operator, name, before }
        }
    });
}
