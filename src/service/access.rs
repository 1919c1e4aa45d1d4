//! Changes of access lists (RFC 4314), as users ask for them over IMAP and operators by `ringmail
//! acl`: whom an identifier names, and the change itself, on the account's shard. Every change is
//! told to the operator. And what becomes of entries when accounts come and go.

use std::{collections::HashSet, rc::Rc, time::Duration};

use super::{Shard, quota};
use crate::{
    directory::Directory,
    events::Event,
    model::{
        AccessList, AccountId, Change, Grantee, Identifier, IdentifierError, MailboxId, Rights,
        Subject, Trail,
    },
    runtime::executor::Priority,
    store::{Account, Partition, StoreError},
};

/// The subject that an identifier names. A user is named as at log-in, so that all spellings of an
/// address are one subject. An account's rights go with it, not with its name.
pub fn named(directory: &Directory, identifier: &str) -> Result<Subject, IdentifierError> {
    let subject = Subject::parse(identifier)?;
    let identifier = match subject.identifier {
        identifier if identifier.is_number() => identifier,
        Identifier::User { name, .. } => {
            let key = directory.login_key(&name);
            let account = directory.account_named(&key);
            // Elsewhere this is who has not logged in; whoever gets the address must not have his
            // rights.
            if name == "anonymous" && account.is_none() {
                return Err(IdentifierError::Anonymous);
            }
            Identifier::user(&key)?.numbered(account)
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
    pub(super) fn cause(&self) -> &'static str {
        match self {
            By::User { .. } => "user",
            By::Operator { .. } => "operator",
            By::Removal => "account_removed",
        }
    }

    pub(super) fn trail(&self) -> Option<Trail> {
        match self {
            By::User { trail, .. } => Some(*trail),
            _ => None,
        }
    }

    pub(super) fn user(&self) -> Option<&str> {
        match self {
            By::User { name, .. } => Some(name),
            _ => None,
        }
    }

    pub(super) fn operator(&self) -> Option<u64> {
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
    /// Whether it had an entry before.
    pub had_entry: bool,
}

/// Edits a list; `subject` as [`AccessList::resolve`] has it.
///
/// # Errors
/// `Limit`, and `NotPermitted` for a number that has no entry; the list is then unchanged.
pub fn edit_list(
    list: &mut AccessList,
    subject: &Subject,
    edit: Edit,
) -> Result<Edited, StoreError> {
    let had_entry = list.entry(subject).is_some();
    let (before, after) = match edit {
        Edit::Change(change) => list.change(subject, change)?,
        Edit::Remove => list.take_back(subject),
    };
    Ok(Edited { before, after, had_entry })
}

/// Edits the list of a mailbox of this shard, if `permit` allows it by the list of that moment;
/// `subject` as [`Subject::in_account`] has it.
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
    let mut edited = Edited { before: Rights::NONE, after: Rights::NONE, had_entry: false };
    let change = |list: &mut AccessList| {
        permit(list)?;
        let subject = list.resolve(subject.clone(), &|id| shard.directory.present_name(id));
        edited = edit_list(list, &subject, edit)?;
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
    Edited { before, after, .. }: Edited,
    by: By<'_>,
) {
    if before == after {
        return;
    }
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

/// The levels above a mailbox that creating it makes mailboxes, too, if it is a public one: the
/// operator is told of each.
pub fn public_levels_to_make(account: &Account, name: &str) -> Vec<String> {
    if account.id() != AccountId::PUBLIC {
        return Vec::new();
    }
    let levels = name.match_indices('/').filter_map(|(end, _)| name.get(..end));
    let is_missing =
        |level: &&str| account.mailbox_by_name(level).is_none() && !account.has_children(level);
    levels.filter(is_missing).map(str::to_owned).collect()
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

/// How often a shard looks whether the accounts have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Owners that are looked at before other work gets its turn.
const OWNERS_PER_TURN: usize = 64;

/// Tells sessions of this shard of each reload, and keeps its lists up to date with the accounts,
/// in the background: at the start, and after each reload. Entries for an account that is gone are
/// removed. Entries for a name without a number get the number of the account that has the name
/// now, so that later they mean nobody else. Where a backend has the accounts, nothing is known of
/// them all, and the lists stay.
pub fn follow_accounts(shard: &Rc<Shard>) {
    if shard.directory.has_backend() {
        return;
    }
    let shard = shard.clone();
    let executor = shard.executor.clone();
    let follow = async move {
        let mut seen = None;
        while !shard.shutting_down.get() {
            let generation = shard.directory.generation();
            shard.reloads.tell_if(|told| std::mem::replace(told, generation) != generation);
            if seen != Some(generation) {
                let removed = shard.directory.removed_since(seen.unwrap_or(generation));
                // What a partition in trouble lacks is done later.
                if look_at_all(&shard, &removed.into_iter().collect()).await.is_ok() {
                    seen = Some(generation);
                }
            }
            shard.executor.sleep(LOOK_INTERVAL).await;
        }
    };
    executor.spawn(Priority::Background, Box::pin(follow));
}

/// `removed`: names that removed accounts had. An entry for such a name was the account's, also if
/// it has no number yet.
async fn look_at_all(shard: &Shard, removed: &HashSet<String>) -> Result<(), StoreError> {
    // Rather the mistake of an operator than the removal of everybody.
    if !shard.directory.has_accounts() {
        return Ok(());
    }
    for partition in shard.partitions.iter().flatten() {
        quota::forget_gone(shard, partition).await?;
        let index = partition.account_as_it_is(AccountId::SHARES).await?;
        for (at, owner) in index.sharers().into_iter().enumerate() {
            let is_old = |grantee: &Grantee| match grantee {
                Grantee::Account(account) => shard.directory.name_of(*account).is_none(),
                Grantee::Name(name) => {
                    removed.contains(&**name) || shard.directory.account_named(name).is_some()
                }
                _ => false,
            };
            if index.grantees_of(owner).iter().any(is_old) {
                renew(shard, partition, owner, removed).await?;
            }
            if at % OWNERS_PER_TURN == 0 {
                shard.executor.yield_now().await;
            }
        }
    }
    Ok(())
}

/// Brings the lists of an account up to date, by one entry.
async fn renew(
    shard: &Shard,
    partition: &Partition,
    owner: AccountId,
    removed_names: &HashSet<String>,
) -> Result<(), StoreError> {
    let account = partition.account_as_it_is(owner).await?;
    let directory = &shard.directory;
    let mut removed = Vec::new();
    let renew = |mailbox, list: &mut AccessList| {
        let is_gone = |identifier: &Identifier| match identifier {
            Identifier::User { account: Some(account), .. } => {
                directory.name_of(*account).is_none()
            }
            Identifier::User { name, account: None } => removed_names.contains(name),
            _ => false,
        };
        let gone = list.renew(is_gone, |name| directory.account_named(name));
        removed.extend(gone.into_iter().map(|(subject, rights)| (mailbox, subject, rights)));
    };
    account.change_access_lists(renew).await?;
    for (mailbox, subject, before) in removed {
        let edited = Edited { before, after: Rights::NONE, had_entry: true };
        tell(shard, (&account, mailbox), &subject, edited, By::Removal);
    }
    Ok(())
}
