//! What the owner's shard tells another one of an account or a mailbox, as long as sessions there
//! follow it.
//!
//! A shard has one feed of each thing, however many of its sessions follow that. The owner sends
//! each newer state, of which only the latest waits ([`Teller`]): a slow shard costs the owner
//! nothing.
//!
//! A feed ends when no session follows it any more, when the owner's shard ends, and when the other
//! shard does not renew it: the owner keeps no state for a shard that does nothing.

use std::{
    cell::RefCell,
    hash::Hash,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_lite::future::or;
use hashbrown::HashMap;

use super::super::reply::Failure;
use crate::{
    runtime::{
        executor::Priority,
        latest::{Listener, Silent, Teller},
    },
    service::Shard,
};

/// How often a shard renews its feeds.
const RENEWAL: Duration = Duration::from_secs(10);
/// How long the owner keeps a feed that is not renewed.
const EXPIRY: Duration = Duration::from_secs(60);

/// A state of what is followed.
pub(super) trait State: Clone + Send + Sync + 'static {
    fn is_older_than(&self, other: &Self) -> bool;
}

/// What is followed, at its owner.
pub(super) trait Origin<S>: 'static {
    /// Resolves when there may be a newer state than `told`. Cancel-safe.
    async fn changed(&self, told: &S);

    /// The state of now, if it can be told.
    fn now(&self, told: &S) -> Option<S>;

    /// Whether `told` is the last one.
    fn ends_with(&self, told: &S) -> bool;
}

/// What the owner gives to a shard that begins to follow.
pub(super) struct Source<S> {
    states: Listener<S>,
    renewals: Arc<AtomicU64>,
}

/// What a session that begins to follow gets from the owner: an answer of its own, the state of
/// now, and the source of a feed if its shard had none.
pub(super) struct Opened<A, S> {
    pub answer: A,
    pub state: S,
    pub source: Option<Source<S>>,
}

/// A state as the shard of the sessions knows it.
pub(super) struct Told<S> {
    pub state: S,
    /// Nothing comes any more, whatever becomes of what was followed.
    pub is_last: bool,
}

/// What the sessions of a shard share.
pub(super) struct Feed<S> {
    latest: Teller<Told<S>>,
    /// Counted up by this shard, and looked at by the owner.
    renewals: Arc<AtomicU64>,
}

/// The feeds of a shard.
pub(super) struct Feeds<K, S>(Rc<RefCell<HashMap<K, Weak<Feed<S>>>>>);

impl<K, S> Clone for Feeds<K, S> {
    fn clone(&self) -> Feeds<K, S> {
        Feeds(self.0.clone())
    }
}

impl<K, S> Default for Feeds<K, S> {
    fn default() -> Feeds<K, S> {
        Feeds(Rc::default())
    }
}

impl<K: Copy + Eq + Hash, S: State> Feeds<K, S> {
    /// The feed of `key`, if there is one and it has not ended.
    pub(super) fn get(&self, key: K) -> Option<Rc<Feed<S>>> {
        let feed = self.0.borrow().get(&key)?.upgrade()?;
        (!feed.has_ended()).then_some(feed)
    }

    /// Begins to follow `key` by the shard's feed. `open` asks the owner; it is told whether a
    /// source is needed.
    pub(super) async fn join<A>(
        &self,
        shard: &Rc<Shard>,
        key: K,
        open: impl AsyncFn(bool) -> Result<Opened<A, S>, Failure>,
    ) -> Result<(A, Rc<Feed<S>>), Failure> {
        let mut held = self.get(key);
        loop {
            let Opened { answer, state, source } = open(held.is_none()).await?;
            // Meanwhile another session may have begun to follow it, too, and ours may have ended.
            match (self.get(key), source) {
                (Some(feed), _) => {
                    feed.advance(state);
                    return Ok((answer, feed));
                }
                (None, Some(source)) => {
                    return Ok((answer, self.follow(shard, key, state, source)));
                }
                (None, None) => held = None,
            }
        }
    }

    fn follow(&self, shard: &Rc<Shard>, key: K, state: S, source: Source<S>) -> Rc<Feed<S>> {
        let Source { states, renewals } = source;
        let latest = Teller::new(Told { state, is_last: false });
        let feed = Rc::new(Feed { latest, renewals });
        let mut feeds = self.0.borrow_mut();
        feeds.retain(|_, feed| feed.strong_count() > 0);
        feeds.insert(key, Rc::downgrade(&feed));
        let relay = relay(shard.clone(), Rc::downgrade(&feed), states);
        shard.executor.spawn(Priority::Foreground, Box::pin(relay));
        feed
    }
}

impl<S: State> Feed<S> {
    /// A state that an answer of the owner had, which may be newer than what it has told.
    pub(super) fn advance(&self, state: S) {
        self.latest.tell_if(|told| {
            // One that has ended stays so: nobody would hear what the owner tells.
            let newer = !told.is_last && told.state.is_older_than(&state);
            if newer {
                told.state = state;
            }
            newer
        });
    }

    fn end(&self) {
        self.latest.tell_if(|told| {
            told.is_last = true;
            true
        });
    }

    /// Whether nothing more will be heard: then a session must begin anew.
    pub(super) fn has_ended(&self) -> bool {
        self.with(|told| told.is_last)
    }

    pub(super) fn with<R>(&self, read: impl FnOnce(&Told<S>) -> R) -> R {
        self.latest.with(read)
    }

    /// Resolves when what is told `is_news`. Cancel-safe.
    pub(super) async fn until(&self, mut is_news: impl FnMut(&Told<S>) -> bool) {
        let mut latest = self.latest.listen();
        // The feed lives as long as it is followed.
        while !latest.with(&mut is_news) && latest.news().await.is_ok() {}
    }
}

enum Heard {
    News,
    End,
    Tick,
}

/// Passes on to the sessions of this shard what the owner tells, as long as there are any.
async fn relay<S: State>(shard: Rc<Shard>, feed: Weak<Feed<S>>, mut states: Listener<S>) {
    loop {
        let news = async {
            match states.news().await {
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
            Heard::News => feed.advance(states.with(S::clone)),
            Heard::End => return feed.end(),
        }
    }
}

/// Begins, on the owner's shard, to tell another one of `origin`, of which `first` is the state of
/// now.
pub(super) fn begin<S: State>(shard: &Rc<Shard>, first: S, origin: impl Origin<S>) -> Source<S> {
    let teller = Teller::new(first.clone());
    let (states, renewals) = (teller.listen(), Arc::new(AtomicU64::new(0)));
    let task = tell(shard.clone(), origin, first, teller, renewals.clone());
    shard.executor.spawn(Priority::Foreground, Box::pin(task));
    Source { states, renewals }
}

/// Tells each newer state to another shard, as long as that one follows.
async fn tell<S: State>(
    shard: Rc<Shard>,
    origin: impl Origin<S>,
    mut told: S,
    teller: Teller<S>,
    renewals: Arc<AtomicU64>,
) {
    let executor = shard.executor.clone();
    let mut renewed = (renewals.load(Ordering::Relaxed), executor.moment());
    while !origin.ends_with(&told) {
        let look = async {
            or(teller.alone(), executor.sleep(RENEWAL)).await;
        };
        or(origin.changed(&told), look).await;
        let count = renewals.load(Ordering::Relaxed);
        let now = executor.moment();
        if count != renewed.0 {
            renewed = (count, now);
        }
        if teller.is_alone() || now.since(renewed.1) > EXPIRY || shard.shutting_down.get() {
            return;
        }
        if let Some(newer) = origin.now(&told).filter(|newer| told.is_older_than(newer)) {
            told = newer.clone();
            teller.tell(newer);
        }
    }
}
