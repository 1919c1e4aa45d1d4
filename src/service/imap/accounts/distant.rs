//! An account on another shard.
//!
//! Work for it is a request of the mesh, with a [`Holding`] made for it there, so that rights are
//! those of that moment. A request runs to its end, even if the session has gone.

use std::{future::Future, rc::Rc, time::Duration};

use super::{super::reply::Failure, User, holding::Holding};
use crate::{model::AccountId, protocol::imap::Code, runtime::mesh::Class, service::Shard};

/// How long the shard of another account may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// An account on another shard, and who asks.
#[derive(Clone)]
pub(in crate::service::imap) struct Distant {
    pub shard: Rc<Shard>,
    pub account: AccountId,
    pub user: User,
}

impl Distant {
    /// Runs `work` on the account's shard.
    ///
    /// # Errors
    /// Those of `work`; `NO [UNAVAILABLE]` if the shard does not answer. Then the work may have
    /// been done all the same.
    pub(super) async fn ask<T, W, F>(&self, work: W) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: FnOnce(Holding) -> F + Send + 'static,
        F: Future<Output = Result<T, Failure>> + 'static,
    {
        let Distant { shard, account, user } = self;
        let (account, user) = (*account, user.clone());
        let asked = shard.mesh.call(
            shard.owner_of(account),
            Class::Mailbox,
            ANSWER_TIMEOUT,
            move |shard: Rc<Shard>| {
                Box::pin(async move { work(Holding::open(&shard, account, user).await?).await })
            },
        );
        asked.await.unwrap_or_else(|_| Err(unreachable_now()))
    }
}

pub(super) fn unreachable_now() -> Failure {
    Failure::no(Code::Unavailable, "The mailbox cannot be reached now; try again later")
}
