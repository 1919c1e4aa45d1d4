//! An account from any shard.
//!
//! A session hands its work to the account's owner: on the same shard it runs at once, on another
//! one as a request of the mesh.

use std::{future::Future, rc::Rc};

use super::{super::reply::Failure, User, distant::Distant, holding::Holding, lease::News};
use crate::{
    model::{AccountId, MailboxId, PartitionId},
    service::Shard,
};

/// An account whose mailboxes a session works on.
#[derive(Clone)]
pub(in crate::service::imap) enum Home {
    /// On the session's shard.
    Here(Holding),
    /// On another one.
    There(Distant),
}

impl Home {
    /// An account on any shard; one of this shard is loaded.
    pub(in crate::service::imap) async fn of(
        shard: &Rc<Shard>,
        account: AccountId,
        user: &User,
    ) -> Result<Home, Failure> {
        if shard.owner_of(account) == shard.id {
            return Ok(Home::Here(Holding::open(shard, account, user.clone()).await?));
        }
        Ok(Home::There(Distant { shard: shard.clone(), account, user: user.clone() }))
    }

    /// Another account, for the same user.
    pub(in crate::service::imap) async fn neighbour(
        &self,
        account: AccountId,
    ) -> Result<Home, Failure> {
        Home::of(self.shard(), account, self.user()).await
    }

    /// The same for a later command, with the groups that the user belongs to then.
    pub(in crate::service::imap) fn again(&self) -> Home {
        match self {
            Home::Here(holding) => Home::Here(holding.again()),
            Home::There(distant) => Home::There(distant.clone()),
        }
    }

    pub(in crate::service::imap) fn account(&self) -> AccountId {
        match self {
            Home::Here(holding) => holding.account.id(),
            Home::There(distant) => distant.account,
        }
    }

    /// The partition that keeps it.
    pub(in crate::service::imap) fn partition(&self) -> PartitionId {
        self.account().partition(self.shard().partitions.len() as u16)
    }

    /// The session's shard.
    pub(in crate::service::imap) fn shard(&self) -> &Rc<Shard> {
        match self {
            Home::Here(holding) => &holding.shard,
            Home::There(distant) => &distant.shard,
        }
    }

    pub(super) fn user(&self) -> &User {
        match self {
            Home::Here(holding) => &holding.user,
            Home::There(distant) => &distant.user,
        }
    }

    /// Brings the session's view of a mailbox, if it has it selected, up to date.
    pub(in crate::service::imap) async fn look(&self, mailbox: MailboxId) {
        // If it cannot be reached, the lease tells that.
        let _ = self.at_mailbox(mailbox, |_| async { Ok(()) }).await;
    }

    /// Runs `work` on the account's shard.
    ///
    /// # Errors
    /// As [`Distant::ask`].
    pub(in crate::service::imap) async fn at_owner<T, W, F>(&self, work: W) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: FnOnce(Holding) -> F + Send + 'static,
        F: Future<Output = Result<T, Failure>> + 'static,
    {
        match self {
            Home::Here(holding) => work(holding.clone()).await,
            Home::There(distant) => distant.ask(work).await,
        }
    }

    /// The same for work on a mailbox. If it is the selected one, what the work changed is in the
    /// session's view when this returns.
    pub(in crate::service::imap) async fn at_mailbox<T, W, F>(
        &self,
        mailbox: MailboxId,
        work: W,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: FnOnce(Holding) -> F + Send + 'static,
        F: Future<Output = Result<T, Failure>> + 'static,
    {
        let distant = match self {
            Home::Here(holding) => return work(holding.clone()).await,
            Home::There(distant) => distant,
        };
        let work = move |holding: Holding| async move {
            let outcome = work(holding.clone()).await;
            Ok((outcome, News::of(&holding.account, mailbox)))
        };
        let (outcome, news) = distant.ask(work).await?;
        distant.shard.leases.advance(distant.account, mailbox, news);
        outcome
    }
}
