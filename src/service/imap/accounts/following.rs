//! Following what changes in an account, from any shard (NOTIFY, RFC 5465).
//!
//! A session on the account's shard is woken by what is published there. A session on another one
//! hears only the number of the latest change: its shard has one feed of an account, however many
//! of its sessions follow it, of which only the latest number waits ([`Teller`]). What changed is
//! asked for at the owner, with the rights of that moment (`news`), by the session that has time
//! for it: so that a client that does not read costs nothing.
//!
//! A feed ends as a lease does: when no session follows any more, when the owner's shard ends, and
//! when the other shard does not renew it.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_lite::future::or;
use hashbrown::HashMap;

use super::{
    super::reply::Failure,
    distant::Distant,
    holding::Holding,
    home::Home,
    lease::{EXPIRY, RENEWAL},
};
use crate::{
    model::AccountId,
    runtime::{
        executor::Priority,
        latest::{Listener, Silent, Teller},
    },
    service::Shard,
    store::AccountFollower,
};

/// An account that a session follows.
pub(in crate::service::imap) enum Follow {
    /// On the session's shard.
    Here(AccountFollower),
    /// On another one.
    There(Rc<Feed>),
}

/// The accounts of other shards that sessions of this shard follow.
#[derive(Clone, Default)]
pub struct Follows(Rc<RefCell<HashMap<AccountId, Weak<Feed>>>>);

/// What the sessions of a shard share of an account on another one.
pub(in crate::service::imap) struct Feed {
    latest: Teller<Latest>,
    /// Counted up by this shard, and looked at by the owner.
    renewals: Arc<AtomicU64>,
}

struct Latest {
    /// Of the latest change.
    number: u64,
    /// Nothing comes any more.
    is_last: bool,
}

/// What the owner gives to a shard that begins to follow an account.
struct Opened {
    number: u64,
    feed: Option<(Listener<u64>, Arc<AtomicU64>)>,
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
        let feeds = &distant.shard.follows;
        let mut held = feeds.get(distant.account);
        loop {
            let wants_feed = held.is_none();
            let Opened { number, feed } =
                distant.ask(move |holding| async move { Ok(open(&holding, wants_feed)) }).await?;
            // Meanwhile another session may have begun to follow it, too, and ours may have ended.
            match (feeds.get(distant.account), feed) {
                (Some(feed), _) => return Ok((Follow::There(feed), number)),
                (None, Some(source)) => {
                    return Ok((Follow::There(feeds.follow(distant, number, source)), number));
                }
                (None, None) => held = None,
            }
        }
    }

    /// Whether there may be a change after the one numbered `known`.
    pub(in crate::service::imap) fn has_news(&self, known: u64) -> bool {
        match self {
            Follow::Here(follower) => follower.latest() != known,
            Follow::There(feed) => feed.latest.with(|latest| latest.is_after(known)),
        }
    }

    /// Whether nothing more will be heard: then it must begin anew.
    pub(in crate::service::imap) fn has_ended(&self) -> bool {
        match self {
            Follow::Here(_) => false,
            Follow::There(feed) => feed.latest.with(|latest| latest.is_last),
        }
    }

    /// Resolves when there may be a change after the one numbered `known`. Cancel-safe.
    pub(in crate::service::imap) async fn changed(&self, known: u64) {
        let feed = match self {
            Follow::Here(follower) => return follower.changed(known).await,
            Follow::There(feed) => feed,
        };
        let mut latest = feed.latest.listen();
        // The feed lives as long as it is followed.
        while !latest.with(|latest| latest.is_after(known)) && latest.news().await.is_ok() {}
    }
}

impl Latest {
    /// Answers of the owner can be newer than what it has told.
    fn is_after(&self, known: u64) -> bool {
        self.is_last || self.number > known
    }
}

impl Follows {
    fn get(&self, account: AccountId) -> Option<Rc<Feed>> {
        let feed = self.0.borrow().get(&account)?.upgrade()?;
        let is_last = feed.latest.with(|latest| latest.is_last);
        (!is_last).then_some(feed)
    }

    fn follow(
        &self,
        distant: &Distant,
        number: u64,
        (source, renewals): (Listener<u64>, Arc<AtomicU64>),
    ) -> Rc<Feed> {
        let latest = Teller::new(Latest { number, is_last: false });
        let feed = Rc::new(Feed { latest, renewals });
        let mut feeds = self.0.borrow_mut();
        feeds.retain(|_, feed| feed.strong_count() > 0);
        feeds.insert(distant.account, Rc::downgrade(&feed));
        let relay = relay(distant.shard.clone(), Rc::downgrade(&feed), source);
        distant.shard.executor.spawn(Priority::Foreground, Box::pin(relay));
        feed
    }
}

/// Begins, on the owner's shard, to tell the latest change to another one.
fn open(holding: &Holding, wants_feed: bool) -> Opened {
    let follower = holding.account.follow();
    let number = follower.latest();
    if !wants_feed {
        return Opened { number, feed: None };
    }
    let teller = Teller::new(number);
    let listener = teller.listen();
    let renewals = Arc::new(AtomicU64::new(0));
    let task = tell(holding.shard.clone(), follower, teller, renewals.clone());
    holding.shard.executor.spawn(Priority::Foreground, Box::pin(task));
    Opened { number, feed: Some((listener, renewals)) }
}

/// Tells the number of the latest change to another shard, as long as that one follows.
async fn tell(
    shard: Rc<Shard>,
    follower: AccountFollower,
    teller: Teller<u64>,
    renewals: Arc<AtomicU64>,
) {
    let executor = shard.executor.clone();
    let mut told = follower.latest();
    let mut renewed = (renewals.load(Ordering::Relaxed), executor.moment());
    loop {
        let look = async {
            or(teller.alone(), executor.sleep(RENEWAL)).await;
        };
        or(follower.changed(told), look).await;
        let count = renewals.load(Ordering::Relaxed);
        let now = executor.moment();
        if count != renewed.0 {
            renewed = (count, now);
        }
        if teller.is_alone() || now.since(renewed.1) > EXPIRY || shard.shutting_down.get() {
            return;
        }
        let latest = follower.latest();
        if latest != told {
            told = latest;
            teller.tell(latest);
        }
    }
}

enum Heard {
    News,
    End,
    Tick,
}

/// Passes on to the sessions of this shard what the owner tells, as long as there are any.
async fn relay(shard: Rc<Shard>, feed: Weak<Feed>, mut source: Listener<u64>) {
    loop {
        let news = async {
            match source.news().await {
                Ok(()) => Heard::News,
                Err(Silent) => Heard::End,
            }
        };
        let tick = async {
            shard.executor.sleep(RENEWAL).await;
            Heard::Tick
        };
        let heard = or(news, tick).await;
        let Some(feed) = feed.upgrade() else { return };
        feed.renewals.fetch_add(1, Ordering::Relaxed);
        match heard {
            Heard::Tick => {}
            Heard::News => {
                let number = source.with(|number| *number);
                feed.latest.tell(Latest { number, is_last: false });
            }
            Heard::End => {
                feed.latest.tell_if(|latest| {
                    latest.is_last = true;
                    true
                });
                return;
            }
        }
    }
}
