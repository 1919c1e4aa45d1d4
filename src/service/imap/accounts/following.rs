//! Following what changes in an account, from any shard (NOTIFY, RFC 5465).
//!
//! A session on the account's shard is woken by what is published there. One on another shard hears
//! only the number of the latest change, by a feed ([`super::feed`]). What changed is asked for at
//! the owner, with the rights of that moment ([`super::news`]), by the session that has time for
//! it: so that a client that does not read costs nothing.

use std::rc::Rc;

use super::{
    super::reply::Failure,
    feed::{self, Feed, Feeds, Opened, Origin, State},
    holding::Holding,
    home::Home,
};
use crate::{model::AccountId, store::AccountFollower};

/// An account that a session follows.
pub(in crate::service::imap) enum Follow {
    /// On the session's shard.
    Here(AccountFollower),
    /// On another one.
    There(Followed),
}

/// An account of another shard.
pub(in crate::service::imap) struct Followed(Rc<Feed<Latest>>);

/// The accounts of other shards that sessions of this shard follow.
#[derive(Clone, Default)]
pub struct Follows(Feeds<AccountId, Latest>);

/// The number of the latest change.
#[derive(Clone, Copy)]
struct Latest(u64);

impl State for Latest {
    fn is_older_than(&self, other: &Latest) -> bool {
        self.0 < other.0
    }
}

impl Origin<Latest> for AccountFollower {
    async fn changed(&self, told: &Latest) {
        AccountFollower::changed(self, told.0).await;
    }

    fn now(&self, _: &Latest) -> Option<Latest> {
        Some(Latest(self.latest()))
    }

    fn ends_with(&self, _: &Latest) -> bool {
        false
    }
}

impl Follow {
    /// Begins to follow; also returns the number of the latest change of now.
    pub(in crate::service::imap) async fn of(home: &Home) -> Result<(Follow, u64), Failure> {
        let distant = match home {
            Home::There(distant) => distant,
            Home::Here(holding) => {
                let follower = holding.account.follow();
                let number = follower.latest();
                return Ok((Follow::Here(follower), number));
            }
        };
        let open = async |wants_source| {
            distant.ask(move |holding| async move { Ok(open(&holding, wants_source)) }).await
        };
        let Follows(feeds) = &distant.shard.follows;
        let (number, feed) = feeds.join(&distant.shard, distant.account, open).await?;
        Ok((Follow::There(Followed(feed)), number))
    }

    /// Whether there may be a change after the one numbered `known`.
    pub(in crate::service::imap) fn has_news(&self, known: u64) -> bool {
        match self {
            Follow::Here(follower) => follower.latest() != known,
            Follow::There(Followed(feed)) => feed.has_ended() || feed.with(|it| it.state.0 > known),
        }
    }

    /// Whether nothing more will be heard: then it must begin anew.
    pub(in crate::service::imap) fn has_ended(&self) -> bool {
        match self {
            Follow::Here(_) => false,
            Follow::There(Followed(feed)) => feed.has_ended(),
        }
    }

    /// Resolves when there may be a change after the one numbered `known`. Cancel-safe.
    pub(in crate::service::imap) async fn changed(&self, known: u64) {
        match self {
            Follow::Here(follower) => follower.changed(known).await,
            // Answers of the owner can be newer than what it has told.
            Follow::There(Followed(feed)) => {
                feed.until(|told| told.is_last || told.state.0 > known).await;
            }
        }
    }
}

/// Begins, on the owner's shard, to tell the latest change to another one.
fn open(holding: &Holding, wants_source: bool) -> Opened<u64, Latest> {
    let follower = holding.account.follow();
    let number = follower.latest();
    let state = Latest(number);
    let source = wants_source.then(|| feed::begin(&holding.shard, state, follower));
    Opened { answer: number, state, source }
}
