//! Changes of access lists (RFC 4314), as users ask for them over IMAP and operators by `ringmail
//! acl`: whom an identifier names, and the change itself, on the account's shard.

use crate::{
    directory::Directory,
    model::{AccessList, Change, Identifier, IdentifierError, MailboxId, Rights, Subject},
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

/// Edits the list of a mailbox, if `permit` allows it by the list of that moment.
///
/// # Errors
/// As [`Account::change_access_list`], and those of `permit`.
pub async fn edit(
    account: &Account,
    mailbox: MailboxId,
    subject: &Subject,
    edit: Edit,
    permit: impl FnOnce(&AccessList) -> Result<(), StoreError>,
) -> Result<Edited, StoreError> {
    let mut edited = Edited { before: Rights::NONE, after: Rights::NONE };
    let change = |list: &mut AccessList| {
        permit(list)?;
        edited = edit_list(list, subject, edit)?;
        Ok(())
    };
    account.change_access_list(mailbox, change).await?;
    Ok(edited)
}
