//! Password checks of one shard: the cache of what was right before, one hash for all who ask the
//! same at once, and the way to the worker threads for the rest.
//!
//! Cache and queue are keyed by an HMAC over (password, stored hash) with a secret of the process:
//! memory holds no password, and a key ends to matter when the stored hash changes, for whatever
//! reason. The salt makes stored hashes unique to accounts, except in the demo, whose accounts
//! share one hash and so one cache entry, too.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
};

use hashbrown::{HashMap, HashSet};
use ring::{hmac, rand::SystemRandom};

use super::{AuthenticationError, DirectorySnapshot, Identity, password, peers::Peers};
use crate::runtime::{LocalFuture, worker::WorkerPool};

/// Entries of half the cache: when one half is full, the other one is forgotten.
const CACHE_HALF_MAX: usize = 8192;

/// No account has a longer password; a longer one is wrong without hashing it.
const PASSWORD_MAX: usize = 1024;

/// Where hashing happens: the runtime's worker pool, or a test's.
pub trait PasswordWorkers {
    /// Queues `job`; `None` if the queue is full. The job runs to its end even when the future is
    /// dropped.
    fn try_run(&self, job: PasswordJob) -> Option<LocalFuture<'static, bool>>;
}

pub type PasswordJob = Box<dyn FnOnce() -> bool + Send>;

impl PasswordWorkers for WorkerPool {
    fn try_run(&self, job: PasswordJob) -> Option<LocalFuture<'static, bool>> {
        let answer = WorkerPool::try_run(self, job).ok()?;
        Some(Box::pin(answer))
    }
}

/// HMAC-SHA256 over password, stored hash and, for users that do not exist, the name.
type Key = [u8; 32];

pub(super) struct Authenticator {
    peers: Arc<Peers>,
    workers: Rc<dyn PasswordWorkers>,
    /// `None` if the system has no randomness: then nothing is remembered or shared.
    secret: Option<hmac::Key>,
    cache: RefCell<Cache>,
    /// Checks that are under way.
    flights: RefCell<HashMap<Key, Rc<Flight>>>,
}

impl Authenticator {
    pub fn new(peers: Arc<Peers>, workers: Rc<dyn PasswordWorkers>) -> Authenticator {
        Authenticator {
            peers,
            workers,
            secret: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            cache: RefCell::default(),
            flights: RefCell::default(),
        }
    }

    pub async fn authenticate(
        &self,
        snapshot: Arc<DirectorySnapshot>,
        name: &str,
        password: &str,
        peer: IpAddr,
    ) -> Result<Identity, AuthenticationError> {
        if password.len() > PASSWORD_MAX {
            return Err(AuthenticationError::Rejected);
        }
        let Some(user) = snapshot.user(name) else {
            // Costs what a wrong password costs, and is as wrong whatever comes out. The name is
            // part of the key, because for existing users such checks are not shared either.
            let key = self.key(password, password::DEMO_HASH, name);
            self.check(key, password, password::DEMO_HASH, peer).await?;
            return Err(AuthenticationError::Rejected);
        };
        let identity = Identity { account: user.id, address: user.address.clone() };
        let key = self.key(password, &user.hash, "");
        if key.is_some_and(|key| self.cache.borrow_mut().contains(&snapshot, &key)) {
            return Ok(identity);
        }
        if !self.check(key, password, &user.hash, peer).await? {
            return Err(AuthenticationError::Rejected);
        }
        if let Some(key) = key {
            self.cache.borrow_mut().insert(&snapshot, key);
        }
        Ok(identity)
    }

    fn key(&self, password: &str, hash: &str, unknown_name: &str) -> Option<Key> {
        let mut context = hmac::Context::with_key(self.secret.as_ref()?);
        for field in [password, hash, unknown_name] {
            // The length keeps fields apart.
            context.update(&(field.len() as u64).to_le_bytes());
            context.update(field.as_bytes());
        }
        context.sign().as_ref().try_into().ok()
    }

    /// Hashes, or waits for the one who does already.
    async fn check(
        &self,
        key: Option<Key>,
        password: &str,
        hash: &str,
        peer: IpAddr,
    ) -> Result<bool, AuthenticationError> {
        let Some(key) = key else {
            return Ok(self.enqueue(password, hash, peer)?.await);
        };
        loop {
            let under_way = self.flights.borrow().get(&key).cloned();
            let Some(flight) = under_way else {
                let job = self.enqueue(password, hash, peer)?;
                let lead = Lead::new(self, key);
                let verified = job.await;
                lead.flight.verified.set(Some(verified));
                return Ok(verified);
            };
            // Without a result its leader's client hung up: the next one takes the lead.
            if let Some(verified) = flight.landed().await {
                return Ok(verified);
            }
        }
    }

    fn enqueue(
        &self,
        password: &str,
        hash: &str,
        peer: IpAddr,
    ) -> Result<LocalFuture<'static, bool>, AuthenticationError> {
        let permit = self.peers.admit(peer).ok_or(AuthenticationError::Busy)?;
        let (password, hash) = (password.to_owned(), hash.to_owned());
        let job = Box::new(move || {
            let verified = password::verify(&password, &hash);
            drop(permit);
            verified
        });
        self.workers.try_run(job).ok_or(AuthenticationError::Busy)
    }
}

/// What was right since the last reload, in two halves so that forgetting costs nothing.
#[derive(Default)]
struct Cache {
    /// The snapshot that the entries belong to.
    snapshot: Option<Arc<DirectorySnapshot>>,
    young: HashSet<Key>,
    old: HashSet<Key>,
}

impl Cache {
    fn contains(&mut self, snapshot: &Arc<DirectorySnapshot>, key: &Key) -> bool {
        self.follow(snapshot);
        if self.old.contains(key) {
            self.insert(snapshot, *key);
        }
        self.young.contains(key)
    }

    fn insert(&mut self, snapshot: &Arc<DirectorySnapshot>, key: Key) {
        self.follow(snapshot);
        if self.young.len() >= CACHE_HALF_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }

    fn follow(&mut self, snapshot: &Arc<DirectorySnapshot>) {
        if !self.snapshot.as_ref().is_some_and(|it| Arc::ptr_eq(it, snapshot)) {
            *self = Cache { snapshot: Some(snapshot.clone()), ..Cache::default() };
        }
    }
}

/// One hash under way and those who wait for it.
#[derive(Default)]
struct Flight {
    over: Cell<bool>,
    /// Set if the flight ended with a result.
    verified: Cell<Option<bool>>,
    waiters: RefCell<Vec<Waker>>,
}

impl Flight {
    async fn landed(&self) -> Option<bool> {
        let mut slot = None;
        poll_fn(|context| {
            if self.over.get() {
                return Poll::Ready(self.verified.get());
            }
            let mut waiters = self.waiters.borrow_mut();
            match slot.and_then(|slot: usize| waiters.get_mut(slot)) {
                Some(waker) => waker.clone_from(context.waker()),
                None => {
                    slot = Some(waiters.len());
                    waiters.push(context.waker().clone());
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The one who hashes; its end, however it comes, ends the flight.
struct Lead<'a> {
    authenticator: &'a Authenticator,
    key: Key,
    flight: Rc<Flight>,
}

impl Lead<'_> {
    fn new(authenticator: &Authenticator, key: Key) -> Lead<'_> {
        let flight = Rc::<Flight>::default();
        authenticator.flights.borrow_mut().insert(key, flight.clone());
        Lead { authenticator, key, flight }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.authenticator.flights.borrow_mut().remove(&self.key);
        self.flight.over.set(true);
        for waker in self.flight.waiters.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, future::Future, pin::pin, task::Context};

    use futures_lite::future::block_on;

    use super::{
        super::{Directory, DirectoryOptions, PeerLimits, SharedDirectory, UsersFile},
        *,
    };

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    type Queued = (PasswordJob, Rc<Cell<Option<bool>>>);

    /// A pool that works when told to, and counts.
    #[derive(Default)]
    struct Pool {
        jobs: RefCell<VecDeque<Queued>>,
        done: Cell<usize>,
        manual: Cell<bool>,
    }

    impl Pool {
        fn work(&self) {
            while let Some((job, result)) = self.jobs.borrow_mut().pop_front() {
                result.set(Some(job()));
                self.done.set(self.done.get() + 1);
            }
        }
    }

    impl PasswordWorkers for Pool {
        fn try_run(&self, job: PasswordJob) -> Option<LocalFuture<'static, bool>> {
            let result = Rc::new(Cell::new(None));
            self.jobs.borrow_mut().push_back((job, result.clone()));
            if !self.manual.get() {
                self.work();
            }
            Some(Box::pin(poll_fn(move |_| match result.get() {
                Some(verified) => Poll::Ready(verified),
                None => Poll::Pending,
            })))
        }
    }

    fn directory(limits: PeerLimits) -> (Directory, Rc<Pool>) {
        let pool = Rc::new(Pool::default());
        let shared = SharedDirectory::new(DirectorySnapshot::demo("demo.test", 200), limits);
        (Directory::new(shared, pool.clone()), pool)
    }

    fn login(
        directory: &Directory,
        user: &str,
        password: &str,
    ) -> Result<u64, AuthenticationError> {
        block_on(directory.authenticate(user, password, PEER)).map(|it| it.account.0)
    }

    #[test]
    fn right_and_wrong_and_unknown() {
        let (directory, pool) = directory(PeerLimits::default());
        let rejected = Err(AuthenticationError::Rejected);
        assert_eq!(login(&directory, "alice@demo.test", "demo"), Ok(1));
        assert_eq!(login(&directory, "Alice", "demo"), Ok(1));
        assert_eq!(login(&directory, "user7@demo.test", "demo"), Ok(9));
        assert_eq!(pool.done.get(), 1, "demo accounts share one cache entry");

        assert_eq!(login(&directory, "alice@demo.test", "Demo"), rejected);
        assert_eq!(login(&directory, "alice@demo.test", "Demo"), rejected);
        assert_eq!(login(&directory, "nobody@demo.test", "demo"), rejected);
        assert_eq!(login(&directory, "nobody@demo.test", "demo"), rejected);
        assert_eq!(pool.done.get(), 5, "failures and unknown users are hashed each time");

        assert_eq!(login(&directory, "alice", &"x".repeat(PASSWORD_MAX + 1)), rejected);
        assert_eq!(pool.done.get(), 5);
    }

    #[test]
    fn reload_forgets() {
        let (directory, pool) = directory(PeerLimits::default());
        assert_eq!(login(&directory, "alice@demo.test", "demo"), Ok(1));
        directory.shared.replace(DirectorySnapshot::demo("demo.test", 0));
        assert_eq!(login(&directory, "alice@demo.test", "demo"), Ok(1));
        assert_eq!(pool.done.get(), 2);

        let mut file = UsersFile::new();
        file.add("alice@demo.test", password::hash("new").expect("hash")).expect("added");
        let options = DirectoryOptions::default();
        let snapshot = DirectorySnapshot::new(&file, &options).expect("snapshot");
        directory.shared.replace(snapshot);
        let rejected = Err(AuthenticationError::Rejected);
        assert_eq!(login(&directory, "alice@demo.test", "demo"), rejected);
        assert_eq!(login(&directory, "bob@demo.test", "demo"), rejected);
        assert_eq!(login(&directory, "alice@demo.test", "new"), Ok(1));
    }

    #[test]
    fn the_same_question_is_hashed_once_also_when_the_asker_leaves() {
        let (directory, pool) = directory(PeerLimits::default());
        pool.manual.set(true);
        let mut context = Context::from_waker(Waker::noop());
        let mut leader = Box::pin(directory.authenticate("alice", "demo", PEER));
        let mut follower = pin!(directory.authenticate("bob", "demo", PEER));
        assert!(leader.as_mut().poll(&mut context).is_pending());
        assert!(follower.as_mut().poll(&mut context).is_pending());
        assert_eq!(pool.jobs.borrow().len(), 1);

        drop(leader);
        assert!(follower.as_mut().poll(&mut context).is_pending());
        assert_eq!(pool.jobs.borrow().len(), 2, "the follower took the lead");
        pool.work();
        assert!(follower.as_mut().poll(&mut context).is_ready());
        assert!(directory.authenticator.flights.borrow().is_empty());
    }

    #[test]
    fn a_full_queue_is_busy_until_the_hash_is_done() {
        let limits = PeerLimits { waiting_max: 9, waiting_per_peer_max: 1 };
        let (directory, pool) = directory(limits);
        pool.manual.set(true);
        let mut context = Context::from_waker(Waker::noop());
        let mut first = Box::pin(directory.authenticate("alice", "wrong", PEER));
        assert!(first.as_mut().poll(&mut context).is_pending());
        drop(first);
        let busy = Err(AuthenticationError::Busy);
        assert_eq!(login(&directory, "alice", "other"), busy, "hanging up gives no room back");
        pool.work();
        pool.manual.set(false);
        assert_eq!(login(&directory, "alice", "demo"), Ok(1));
    }

    #[test]
    fn the_cache_is_bounded() {
        let snapshot = Arc::new(DirectorySnapshot::demo("demo.test", 0));
        let mut cache = Cache::default();
        for number in 0..3 * CACHE_HALF_MAX as u64 {
            let mut key = Key::default();
            key[..8].copy_from_slice(&number.to_le_bytes());
            cache.insert(&snapshot, key);
            assert!(cache.contains(&snapshot, &key));
            assert!(cache.contains(&snapshot, &Key::default()), "what is in use stays");
        }
        assert!(cache.young.len() + cache.old.len() <= 2 * CACHE_HALF_MAX);
    }
}
