//! An account on its own shard, as one user may use it.
//!
//! The only code that asks for a user's rights (RFC 4314) where mailboxes change: each call asks
//! the access list of that moment, whether the session is on this shard or asked over the mesh.

use std::{rc::Rc, sync::Arc};

use super::{
    super::reply::{Failure, no_such_mailbox},
    User,
};
use crate::{
    model::{
        AccessList, AccountId, Asker, FlagMask, Flags, MailboxId, QuotaLimits, Right, Rights,
        SpecialUse, Subject, rights_stored,
    },
    plant::{Plant, planted},
    protocol::imap::{self, Code, SEPARATOR},
    service::{
        Shard,
        access::{self, Edit, PublicNews},
        quota,
    },
    store::{Account, MailboxInfo, Names, Renamed, StoreError, Usage},
};

/// Names looked at before other sessions get their turn.
const NAMES_PER_TURN: usize = 256;
/// The same of names of which something else is asked: what became of each by some hundred renames.
const ASKED_PER_TURN: usize = 16;

/// The account, and who asks.
#[derive(Clone)]
pub(in crate::service::imap) struct Holding {
    pub shard: Rc<Shard>,
    pub account: Account,
    pub user: User,
    /// Of the user, when this was made: for one command.
    who: Who,
}

/// What the directory says of a user, for the rights that he has in an account.
#[derive(Clone)]
pub(super) struct Who {
    groups: Arc<[String]>,
    is_owner: bool,
    /// Neither the user nor the account that he does not own was removed.
    exists: bool,
}

impl Who {
    /// At this moment.
    pub(super) fn of(shard: &Shard, account: AccountId, user: &User) -> Who {
        let is_owner = is_owner(shard, account, user);
        let directory = &shard.directory;
        let exists = account == user.account
            || directory.may_exist(user.account)
                && (account == AccountId::PUBLIC || directory.may_exist(account));
        Who { groups: groups_of(shard, user), is_owner, exists }
    }

    fn asker<'a>(&'a self, user: &'a User) -> Asker<'a> {
        asker(user, &self.groups, self.is_owner)
    }

    /// What `user` may do by an access list.
    pub(super) fn rights_by(&self, list: Option<&[u8]>, user: &User) -> Rights {
        match self.exists {
            true => rights_stored(list, &self.asker(user)),
            false => Rights::NONE,
        }
    }
}

/// A mailbox that a user may look up.
#[derive(Clone, Debug)]
pub(in crate::service::imap) struct Listed {
    pub info: MailboxInfo,
    pub rights: Rights,
    pub seen_is_personal: bool,
    /// The user may look up a mailbox below it.
    pub has_children: bool,
}

/// The text of [`not_allowed`].
pub(super) const NOT_ALLOWED: &str = "Not allowed on this mailbox";

/// The user lacks a right on a mailbox that he may see (RFC 5530 3).
pub(in crate::service::imap) fn not_allowed() -> Failure {
    Failure::no(Code::NoPerm, NOT_ALLOWED)
}

/// The same with the right, or those of which one would do: MYRIGHTS tells which he has.
fn lacks(any_of: Rights) -> Failure {
    let letters = any_of.to_string();
    match letters.len() {
        0 => not_allowed(),
        1 => Failure::no(Code::NoPerm, format!("{NOT_ALLOWED}: it needs the right {letters}")),
        _ => Failure::no(Code::NoPerm, format!("{NOT_ALLOWED}: it needs one of {letters}")),
    }
}

/// Checks the rights found against those of which a command needs one. Without the lookup right the
/// answer is the one for a mailbox that does not exist (RFC 4314 6).
pub(in crate::service::imap) fn permitted(
    found: Option<Rights>,
    any_of: Rights,
    missing: impl FnOnce() -> Failure,
) -> Result<(), Failure> {
    match found {
        Some(rights) if rights.contain_any(any_of) => Ok(()),
        Some(rights) if rights.contain(Right::Lookup) => Err(lacks(any_of)),
        Some(_) if planted(Plant::TellHidden) => Err(not_allowed()),
        _ => Err(missing()),
    }
}

/// Who asks, for the store.
pub(super) fn asker<'a>(user: &'a User, groups: &'a [String], is_owner: bool) -> Asker<'a> {
    let (name, account) = (&*user.name, Some(user.account));
    Asker { is_owner, account, name, groups, is_logged_in: true }
}

/// How far the search for a mailbox below another one is.
enum Children {
    Known(bool),
    /// None that the user may look up until this name.
    After(String),
}

impl Holding {
    pub(in crate::service::imap) fn new(
        shard: &Rc<Shard>,
        account: Account,
        user: User,
    ) -> Holding {
        let who = Who::of(shard, account.id(), &user);
        Holding { shard: shard.clone(), account, user, who }
    }

    /// Loads the account, which is on this shard.
    pub(super) async fn open(
        shard: &Rc<Shard>,
        account: AccountId,
        user: User,
    ) -> Result<Holding, Failure> {
        let Some(partition) = shard.local_partition(account).cloned() else {
            return Err(Failure::no(Code::Unavailable, "The account is not available now"));
        };
        let opened = {
            let partition = partition.clone();
            async move { partition.account(account).await }
        };
        let account = shard.in_time(&partition, opened).await?;
        Ok(Holding::new(shard, account, user))
    }

    /// The same for a later command.
    pub(in crate::service::imap) fn again(&self) -> Holding {
        Holding::new(&self.shard, self.account.clone(), self.user.clone())
    }

    /// Rights on a mailbox now.
    pub(in crate::service::imap) fn rights(&self, mailbox: MailboxId) -> Rights {
        self.account.with_access_list(mailbox, |list| self.who.rights_by(list, &self.user))
    }

    /// Rights by an access list that a mailbox had.
    pub(super) fn rights_by(&self, list: Option<&[u8]>) -> Rights {
        self.who.rights_by(list, &self.user)
    }

    /// The mailbox of this name, if there is one; whether the user may look it up or not.
    pub(in crate::service::imap) fn find(&self, name: &str) -> Option<(MailboxInfo, Rights)> {
        let info = self.account.mailbox_by_name(name)?;
        let rights = self.rights(info.id);
        Some((info, rights))
    }

    /// The same by its number.
    pub(in crate::service::imap) fn get(
        &self,
        mailbox: MailboxId,
    ) -> Option<(MailboxInfo, Rights)> {
        Some((self.account.mailbox(mailbox)?, self.rights(mailbox)))
    }

    /// Whether the user has a `\Seen` of his own in the mailbox: not in his own account.
    pub(in crate::service::imap) fn seen_is_personal(&self, mailbox: MailboxId) -> bool {
        seen_is_personal(&self.account, mailbox, &self.user)
    }

    /// Of the flags that all users share, those that one with `rights` may change.
    pub(in crate::service::imap) fn shared_flags(
        &self,
        mailbox: MailboxId,
        rights: Rights,
    ) -> FlagMask {
        shared_flags(&self.account, mailbox, &self.user, rights)
    }

    /// Of the flags that all users share, those that copies made by one with `rights` have. The
    /// `\Seen` of a source where the user has one of his own is not his.
    pub(in crate::service::imap) fn flags_of_copies(
        &self,
        source: MailboxId,
        target: MailboxId,
        rights: Rights,
    ) -> FlagMask {
        if planted(Plant::CopyEveryFlag) {
            return FlagMask::ALL;
        }
        match self.seen_is_personal(source) && !self.seen_is_personal(target) {
            true => rights.flags().without(Flags::SEEN),
            false => rights.flags(),
        }
    }

    pub(super) fn may_look_up(&self, name: &str) -> bool {
        self.find(name).is_some_and(|(_, rights)| rights.contain(Right::Lookup))
    }

    /// Whether the user may look up a mailbox below `name`.
    pub(in crate::service::imap) fn has_children(&self, name: &str) -> bool {
        let mut step = self.begin_children(name);
        loop {
            match step {
                Children::Known(answer) => return answer,
                Children::After(after) => step = self.children_after(name, &after),
            }
        }
    }

    /// The same with other sessions' turns in between: all that are there may be hidden.
    pub(super) async fn has_children_in_turns(&self, name: &str) -> bool {
        let mut step = self.begin_children(name);
        loop {
            match step {
                Children::Known(answer) => return answer,
                Children::After(after) => {
                    step = self.children_after(name, &after);
                    self.shard.executor.yield_now().await;
                }
            }
        }
    }

    fn begin_children(&self, name: &str) -> Children {
        match self.account.has_children(name) {
            true if !self.who.is_owner => Children::After(format!("{name}{SEPARATOR}")),
            answer => Children::Known(answer),
        }
    }

    fn children_after(&self, name: &str, after: &str) -> Children {
        let names = self.account.names_after(Some(after), Names::Existing, NAMES_PER_TURN);
        let is_below = |below: &str| {
            below.strip_prefix(name).is_some_and(|below| below.starts_with(SEPARATOR))
        };
        for below in &names {
            if !is_below(below) {
                return Children::Known(false);
            }
            if self.may_look_up(below) {
                return Children::Known(true);
            }
        }
        names.into_iter().next_back().map_or(Children::Known(false), Children::After)
    }

    /// Whether all mailboxes below `name` that the user may look up are so.
    pub(super) async fn all_below(
        &self,
        name: &str,
        mut are: impl FnMut(&MailboxInfo) -> bool,
    ) -> bool {
        let above = format!("{name}{SEPARATOR}");
        let mut after = above.clone();
        loop {
            let names = self.account.names_after(Some(&after), Names::Existing, ASKED_PER_TURN);
            for name in &names {
                if !name.starts_with(&above) {
                    return true;
                }
                let found = self.find(name);
                let shown = found.filter(|(_, rights)| rights.contain(Right::Lookup));
                if shown.is_some_and(|(info, _)| !are(&info)) {
                    return false;
                }
            }
            let Some(last) = names.into_iter().next_back() else { return true };
            after = last;
            self.shard.executor.yield_now().await;
        }
    }

    /// The next mailboxes after `after`, at most `count`, that the user may look up, in the order
    /// of their names; fewer only at the end.
    pub(in crate::service::imap) async fn listed_after(
        &self,
        after: Option<&str>,
        count: usize,
    ) -> Vec<Listed> {
        let mut listed = Vec::new();
        let mut after = after.map(str::to_owned);
        while listed.len() < count {
            let names = self.account.names_after(after.as_deref(), Names::Existing, NAMES_PER_TURN);
            for name in &names {
                let Some((info, rights)) = self.find(name) else { continue };
                if rights.contain(Right::Lookup) && listed.len() < count {
                    let seen_is_personal = self.seen_is_personal(info.id);
                    let has_children = self.has_children_in_turns(name).await;
                    listed.push(Listed { info, rights, seen_is_personal, has_children });
                }
            }
            let Some(last) = names.into_iter().next_back() else { break };
            after = Some(last);
            self.shard.executor.yield_now().await;
        }
        listed
    }

    /// Rights on the nearest mailbox above a name. Where there is none, the account's owner has all
    /// and others have none.
    fn rights_above(&self, above: Option<MailboxId>) -> Rights {
        match above {
            Some(above) => self.rights(above),
            None if self.who.is_owner => Rights::ALL,
            None => Rights::NONE,
        }
    }

    /// As far as the user can tell, no mailbox has this name, but there are mailboxes below it (RFC
    /// 3501 6.3.4). One that he may neither look up nor delete is like none (RFC 4314 4 LIST).
    pub(in crate::service::imap) fn is_only_above(&self, name: &str) -> bool {
        self.is_only_level(name, self.find(name).map(|(_, rights)| rights))
    }

    /// The same of a name whose mailbox, if there is one, the user has these rights on.
    fn is_only_level(&self, name: &str, rights: Option<Rights>) -> bool {
        let shows = Rights::of(&[Right::Lookup, Right::DeleteMailbox]);
        let level = name.strip_suffix(SEPARATOR).unwrap_or(name);
        !rights.is_some_and(|rights| rights.contain_any(shows)) && self.has_children(level)
    }

    /// Creating a mailbox, or moving one to this name, needs the right to on the nearest mailbox
    /// above (RFC 4314 4). The answer does not tell whether there is one.
    fn check_create(&self, above: Option<MailboxId>) -> Result<(), Failure> {
        match self.rights_above(above).contain(Right::CreateMailbox) {
            true => Ok(()),
            false => Err(Failure::no(Code::NoPerm, "Mailboxes cannot be created there")),
        }
    }

    /// Whether a mailbox of this name could be created, if there is none.
    pub(in crate::service::imap) fn can_create(&self, name: &str) -> bool {
        self.check_create(self.account.nearest_above(name)).is_ok() && imap::new_name(name).is_ok()
    }

    pub(in crate::service::imap) async fn create(
        &self,
        name: &str,
        special_use: Option<SpecialUse>,
    ) -> Result<MailboxId, Failure> {
        let may = |above| {
            self.check_create(above)?;
            // RFC 6154 1: the owner's clients would put his mail there.
            match special_use.is_some() && self.account.id() != self.user.account {
                true => Err(Failure::no(Code::UseAttr, "Special uses are for one's own mailboxes")),
                false => Ok(()),
            }
        };
        let levels = access::public_levels_to_make(&self.account, name);
        let id = self.account.create_mailbox_if(name, special_use, may).await?;
        levels.iter().for_each(|level| self.tell_public(level, PublicNews::Created));
        self.tell_public(name, PublicNews::Created);
        Ok(id)
    }

    /// A level that is no mailbox is moved by who may delete the nearest mailbox above it.
    pub(in crate::service::imap) async fn rename(
        &self,
        name: &str,
        target: &str,
    ) -> Result<(), Failure> {
        let may = |Renamed { mailbox, above, above_target }: Renamed| {
            self.check_take(name, mailbox, above)?;
            self.check_create(above_target)
        };
        let levels = access::public_levels_to_make(&self.account, target);
        self.account.rename_mailbox_if(name, target, may).await?;
        levels.iter().for_each(|level| self.tell_public(level, PublicNews::Created));
        self.tell_public(target, PublicNews::Renamed(name));
        Ok(())
    }

    pub(in crate::service::imap) async fn delete(&self, name: &str) -> Result<(), Failure> {
        let may = |mailbox| {
            let needed = Rights::of(&[Right::DeleteMailbox]);
            permitted(Some(self.rights(mailbox)), needed, no_such_mailbox)
        };
        self.account.delete_mailbox_if(name, may).await?;
        self.tell_public(name, PublicNews::Deleted);
        Ok(())
    }

    fn tell_public(&self, name: &str, news: PublicNews<'_>) {
        access::tell_public(&self.shard, self.account.id(), name, news, self.user.as_cause());
    }

    /// Whether the user may take the mailbox away from this name.
    pub(in crate::service::imap) fn check_rename(&self, name: &str) -> Result<(), Failure> {
        let mailbox = self.account.mailbox_by_name(name).map(|info| info.id);
        self.check_take(name, mailbox, self.account.nearest_above(name))
    }

    /// The same of the mailbox that has the name, and the nearest one above.
    fn check_take(
        &self,
        name: &str,
        mailbox: Option<MailboxId>,
        above: Option<MailboxId>,
    ) -> Result<(), Failure> {
        let rights = mailbox.map(|mailbox| self.rights(mailbox));
        let found = match self.is_only_level(name, rights) {
            true => Some(self.rights_above(above)),
            false => rights,
        };
        let needed = match mailbox {
            // Its messages are moved (RFC 3501 6.3.5), to a mailbox with another list: as by MOVE.
            Some(MailboxId::INBOX) => Rights::of(&[
                Right::DeleteMailbox,
                Right::Read,
                Right::DeleteMessages,
                Right::Expunge,
            ]),
            _ => Rights::of(&[Right::DeleteMailbox]),
        };
        match found {
            Some(rights) if needed.without(rights).is_empty() => Ok(()),
            found => permitted(found, Rights::NONE, no_such_mailbox),
        }
    }

    /// The entries of an access list, as [`AccessList::told`].
    pub(in crate::service::imap) fn access_list(
        &self,
        mailbox: MailboxId,
        owner: &str,
    ) -> Vec<(String, Rights)> {
        let list =
            self.account.with_access_list(mailbox, |octets| AccessList::decode(octets?).ok());
        let name_of = |account| self.shard.directory.present_name(account);
        list.unwrap_or_default().told(owner, &name_of)
    }

    /// SETACL and DELETEACL.
    pub(in crate::service::imap) async fn edit_access(
        &self,
        mailbox: MailboxId,
        subject: Subject,
        edit: Edit,
    ) -> Result<(), Failure> {
        let permit = |list: &AccessList| self.check_administers(list);
        let (place, by) = ((&self.account, mailbox), self.user.as_cause());
        match access::edit(&self.shard, place, (&subject, edit), by, permit).await {
            Ok(_) => Ok(()),
            Err(StoreError::NotPermitted(NOT_ALLOWED)) => Err(not_allowed()),
            Err(error) => Err(error.into()),
        }
    }

    /// SETQUOTA, by an administrator.
    pub(in crate::service::imap) async fn set_quota(
        &self,
        limits: QuotaLimits,
    ) -> Result<Usage, Failure> {
        let (shard, account) = (&self.shard, self.account.id());
        if !self.user.is_administrator(shard) {
            return Err(Failure::no(Code::NoPerm, "Only administrators set quotas"));
        }
        let Some(partition) = shard.local_partition(account) else {
            return Err(Failure::no(Code::Unavailable, "The account is not available now"));
        };
        quota::set(shard, partition, account, Some(limits), self.user.as_cause()).await?;
        Ok(self.account.usage())
    }

    /// The list that all changes decided so far result in may have taken the right since the
    /// command began.
    fn check_administers(&self, list: &AccessList) -> Result<(), StoreError> {
        let rights = list.rights_of(&self.who.asker(&self.user));
        match self.who.exists && rights.contain(Right::Administer) {
            true => Ok(()),
            false => Err(StoreError::NotPermitted(NOT_ALLOWED)),
        }
    }
}

fn seen_is_personal(account: &Account, mailbox: MailboxId, user: &User) -> bool {
    account.id() != user.account && account.seen_is_personal(mailbox)
}

/// Of the flags that all users share, those that one with `rights` may change.
pub(super) fn shared_flags(
    account: &Account,
    mailbox: MailboxId,
    user: &User,
    rights: Rights,
) -> FlagMask {
    match seen_is_personal(account, mailbox, user) && !planted(Plant::SeenLeaks) {
        true => rights.flags().without(Flags::SEEN),
        false => rights.flags(),
    }
}

/// Whether the user is the owner of the account. Public mailboxes are the administrators'.
pub(super) fn is_owner(shard: &Shard, account: AccountId, user: &User) -> bool {
    account == user.account
        || account == AccountId::PUBLIC
            && shard.directory.may_exist(user.account)
            && shard
                .options
                .imap
                .administrators
                .iter()
                .any(|it| shard.directory.login_key(it) == *user.name)
}

/// The groups that the user belongs to: his account, since somebody else may have the name now.
pub(super) fn groups_of(shard: &Shard, user: &User) -> Arc<[String]> {
    shard.directory.groups_of_account(user.account)
}
