//! Password checks of one shard: the cache of successful checks, one hash for identical checks at
//! the same time, and the queue to the worker threads for the rest.
//!
//! Cache and queue are keyed by an HMAC over (password, stored hash) with a secret of the process:
//! memory holds no password, and a key becomes useless once the stored hash changes for any reason.
//! The salt makes stored hashes unique to accounts, except in the demo, whose accounts share one
//! hash and therefore one cache entry.
//!
//! A check that is in the cache and succeeded from the same network passes immediately; all others
//! have to pass the [`Guard`].

use std::{cell::RefCell, net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use hashbrown::{HashMap, HashSet};
use ring::{hmac, rand::SystemRandom};

use super::{
    AuthenticationError, GuardOptions, Identity, LogIn, PeerLimits,
    guard::{Ask, Charge, Guard},
    keyring::Proved,
    turns::{Ticket, Turns, Verdict},
};
use crate::{
    model::{AccountId, Network},
    protocol::sasl::scram::Hash,
    runtime::{
        flight::Flight,
        worker::{self, WorkerPool},
    },
};

/// Entries of half the cache: when one half is full, the other one is dropped.
const CACHE_HALF_MAX: usize = 8192;

/// No account has a longer password; a longer one is wrong without being hashed.
const PASSWORD_MAX: usize = 1024;

/// Runs the hashing: the runtime's worker pool, or a test's.
pub trait PasswordWorkers {
    /// Queues `job`; false if the queue is full. A job decides when it runs whose password it
    /// checks.
    fn try_run(&self, job: PasswordJob) -> bool;
}

pub type PasswordJob = Box<dyn FnOnce() + Send>;

/// Whether a password is right.
type HashResult = Result<bool, AuthenticationError>;

impl PasswordWorkers for WorkerPool {
    fn try_run(&self, job: PasswordJob) -> bool {
        WorkerPool::try_run(self, job).is_ok()
    }
}

/// HMAC-SHA256 over password, stored hash and, for users that do not exist, the name.
pub(super) type Key = [u8; 32];

/// Data shared by all shards.
pub(super) struct Common {
    pub guard: Arc<Guard>,
    turns: Arc<Turns>,
    /// `None` if the system has no randomness: then nothing is cached or shared.
    secret: Option<hmac::Key>,
}

impl Common {
    pub(super) fn new(limits: PeerLimits, guard: GuardOptions) -> Common {
        Common {
            guard: Arc::new(Guard::new(guard)),
            turns: Arc::new(Turns::new(limits)),
            secret: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
        }
    }

    /// Of a stored key, which is as unique as a hash.
    fn key_of(&self, stored_key: &[u8]) -> Option<Key> {
        hmac::sign(self.secret.as_ref()?, stored_key).as_ref().try_into().ok()
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
}

pub(super) struct Authenticator {
    common: Arc<Common>,
    workers: Rc<dyn PasswordWorkers>,
    cache: RefCell<Cache>,
    /// Checks in progress.
    flights: RefCell<HashMap<Key, Rc<Flight<bool>>>>,
}

/// The directory's answer for a log-in name.
pub(super) struct Found<'a> {
    /// Canonical.
    pub name: &'a str,
    pub log_in: LogIn,
    /// The directory's generation at that time.
    pub generation: u64,
}

/// One password to check, and the account.
struct Question<'a> {
    ask: Ask<'a>,
    password: &'a str,
    hash: &'a Arc<str>,
    now: Duration,
}

impl Authenticator {
    pub(super) fn new(common: Arc<Common>, workers: Rc<dyn PasswordWorkers>) -> Authenticator {
        Authenticator { common, workers, cache: RefCell::default(), flights: RefCell::default() }
    }

    /// Whether `password` belongs to the account that the directory found.
    pub(super) async fn authenticate(
        &self,
        found: Found<'_>,
        password: &str,
        peer: IpAddr,
        now: Duration,
    ) -> Result<Identity, AuthenticationError> {
        let Found { name, log_in, generation } = found;
        let key = self.key(name, &log_in, password);
        if let Some(key) = key
            && let LogIn::Account(user) = &log_in
            && self.cache.borrow_mut().contains(generation, &key)
        {
            self.pass(&Ask { name, account: Some(user.id), peer, key: Some(key) }, &key, now)?;
            return log_in.identity();
        }
        if let LogIn::Account(user) = &log_in
            && let Some(app) = user.keyring.app_password_named(password)
        {
            self.pass_app_password(&Ask { name, account: Some(user.id), peer, key }, now)?;
            let identity = log_in.identity()?;
            return Ok(Identity { app_password: Some(app.into()), ..identity });
        }
        let account = log_in.account();
        let ask = Ask { name, account, peer, key };
        let right = self.check(&Question { ask, password, hash: log_in.hash(), now }).await?;
        if !right {
            return Err(AuthenticationError::Rejected);
        }
        let identity = log_in.identity()?;
        if let Some(key) = key {
            self.cache.borrow_mut().insert(generation, key);
        }
        Ok(identity)
    }

    /// Whether the key that was proved is one of the account's. Counted like a password, in the
    /// same way for names without an account.
    pub(super) fn prove(
        &self,
        found: Found<'_>,
        hash: Hash,
        proved: Option<&[u8]>,
        peer: IpAddr,
        now: Duration,
    ) -> Result<Identity, AuthenticationError> {
        let Found { name, log_in, .. } = found;
        let right = match &log_in {
            LogIn::Account(user) => proved.and_then(|it| user.keyring.proved(hash, it)),
            LogIn::Nobody { .. } => None,
        };
        // Of a wrong proof nothing can be recognized.
        let key = proved.filter(|_| right.is_some()).and_then(|it| self.common.key_of(it));
        let ask = Ask { name, account: log_in.account(), peer, key };
        let admitted = self.common.guard.admit(&ask, now);
        let charge = admitted.map_err(|wait| AuthenticationError::Limited { wait })?;
        charge.settle(right.is_some());
        let app_password = match right.ok_or(AuthenticationError::Rejected)? {
            Proved::Main => None,
            Proved::App(name) => Some(name.into()),
        };
        Ok(Identity { app_password, ..log_in.identity()? })
    }

    /// Whether this password was right before, for the account's hash in `found`.
    pub(super) fn remembers(&self, found: &Found<'_>, password: &str) -> bool {
        let key = self.key(found.name, &found.log_in, password);
        let known = |key| self.cache.borrow_mut().contains(found.generation, &key);
        found.log_in.account().is_some() && key.is_some_and(known)
    }

    /// For a name without an account, the name is part of the key: checks of existing accounts are
    /// not shared across accounts, so these (which always fail) must not be shared either.
    fn key(&self, name: &str, log_in: &LogIn, password: &str) -> Option<Key> {
        match log_in {
            LogIn::Account(user) => self.common.key(password, &user.hash, ""),
            LogIn::Nobody { stand_in } => self.common.key(password, stand_in, name),
        }
    }

    /// The password is right. From a network where it was right before, the guard is not asked.
    fn pass(&self, ask: &Ask<'_>, key: &Key, now: Duration) -> Result<(), AuthenticationError> {
        let Some(account) = ask.account else { return Err(AuthenticationError::Rejected) };
        let network = Network::narrow(ask.peer);
        if !self.common.guard.is_wary() && self.cache.borrow().is_noted(account, network, key) {
            return Ok(());
        }
        let admitted = self.common.guard.admit(ask, now);
        admitted.map_err(|wait| AuthenticationError::Limited { wait })?.settle(true);
        self.cache.borrow_mut().note(account, network, key);
        Ok(())
    }

    /// An application password is right: as if it had been right before, it is not hashed.
    fn pass_app_password(&self, ask: &Ask<'_>, now: Duration) -> Result<(), AuthenticationError> {
        if let Some(key) = &ask.key {
            return self.pass(ask, key, now);
        }
        let admitted = self.common.guard.admit(ask, now);
        admitted.map_err(|wait| AuthenticationError::Limited { wait })?.settle(true);
        Ok(())
    }

    /// Hashes, or waits for an identical check in progress.
    async fn check(&self, question: &Question<'_>) -> HashResult {
        let Some(key) = question.ask.key.filter(|_| question.password.len() <= PASSWORD_MAX) else {
            return self.hash(question, self.admit(question)?)?.await;
        };
        loop {
            let under_way = self.flights.borrow().get(&key).cloned();
            let Some(flight) = under_way else {
                let job = self.hash(question, self.admit(question)?)?;
                let lead = Lead::new(self, key);
                let verified = job.await?;
                lead.flight.land(Some(verified));
                return Ok(verified);
            };
            // Without a result its leader hung up or was refused: the next one takes the lead.
            match flight.landed().await {
                None => {}
                Some(true) => {
                    let Ask { account, peer, .. } = question.ask;
                    if let Some(account) = account {
                        self.common.guard.note(account, peer, Some(key), question.now);
                    }
                    return Ok(true);
                }
                // Many identical guesses at once are answered no more often than if each were
                // hashed.
                Some(false) => {
                    self.admit(question)?.settle(false);
                    return Ok(false);
                }
            }
        }
    }

    fn admit(&self, question: &Question<'_>) -> Result<Charge, AuthenticationError> {
        self.common
            .guard
            .admit(&question.ask, question.now)
            .map_err(|wait| AuthenticationError::Limited { wait })
    }

    /// Queues one check; the future is its result.
    fn hash(
        &self,
        question: &Question<'_>,
        charge: Charge,
    ) -> Result<impl Future<Output = HashResult> + use<>, AuthenticationError> {
        let (answer, verdict) = worker::answer();
        let Question { ask, password, hash, .. } = question;
        let network = Network::narrow(ask.peer);
        if password.len() > PASSWORD_MAX {
            charge.settle(false);
            answer.give(Verdict::Wrong);
        } else {
            let ticket = Ticket {
                network,
                password: (*password).to_owned(),
                hash: (*hash).clone(),
                exists: ask.account.is_some(),
                charge,
                answer,
            };
            let turns = self.common.turns.clone();
            let trusted = self.common.guard.trusts(ask.peer);
            let needs_turn = turns.push(ticket, trusted).map_err(|_| AuthenticationError::Busy)?;
            let turn = turns.clone();
            if needs_turn && !self.workers.try_run(Box::new(move || turn.take_turn())) {
                turns.withdraw(network);
            }
        }
        Ok(async move {
            match verdict.await {
                Some(Verdict::Right) => Ok(true),
                Some(Verdict::Wrong) => Ok(false),
                Some(Verdict::Limited(wait)) => Err(AuthenticationError::Limited { wait }),
                None => Err(AuthenticationError::Busy),
            }
        })
    }
}

/// Successful checks since the last reload, in two halves so that forgetting costs nothing.
#[derive(Default)]
struct Cache {
    /// The directory's generation when the entries were made.
    generation: u64,
    young: HashSet<Key>,
    old: HashSet<Key>,
    /// Those that the guard knows of: account, network, and the start of the key.
    noted: HashSet<(AccountId, Network, [u8; 8])>,
}

impl Cache {
    fn contains(&mut self, generation: u64, key: &Key) -> bool {
        self.follow(generation);
        if self.old.contains(key) {
            self.insert(generation, *key);
        }
        self.young.contains(key)
    }

    fn insert(&mut self, generation: u64, key: Key) {
        self.follow(generation);
        if self.young.len() >= CACHE_HALF_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }

    fn is_noted(&self, account: AccountId, network: Network, key: &Key) -> bool {
        self.noted.contains(&(account, network, beginning(key)))
    }

    fn note(&mut self, account: AccountId, network: Network, key: &Key) {
        if self.noted.len() >= 2 * CACHE_HALF_MAX {
            self.noted.clear();
        }
        self.noted.insert((account, network, beginning(key)));
    }

    fn follow(&mut self, generation: u64) {
        if self.generation != generation {
            *self = Cache { generation, ..Cache::default() };
        }
    }
}

fn beginning(key: &Key) -> [u8; 8] {
    key.first_chunk().copied().unwrap_or_default()
}

/// The task that hashes; dropping it, for any reason, ends the flight.
struct Lead<'a> {
    authenticator: &'a Authenticator,
    key: Key,
    flight: Rc<Flight<bool>>,
}

impl Lead<'_> {
    fn new(authenticator: &Authenticator, key: Key) -> Lead<'_> {
        let flight = Rc::<Flight<bool>>::default();
        authenticator.flights.borrow_mut().insert(key, flight.clone());
        Lead { authenticator, key, flight }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.authenticator.flights.borrow_mut().remove(&self.key);
        self.flight.land(None);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        collections::VecDeque,
        future::Future,
        pin::pin,
        task::{Context, Waker},
    };

    use futures_lite::future::block_on;

    use super::{
        super::{
            Directory, DirectoryOptions, DirectorySnapshot, Master, PeerLimits, Secret,
            SharedDirectory, UsersFile, password,
        },
        *,
    };

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// A pool that works when told to, and counts.
    #[derive(Default)]
    struct Pool {
        jobs: RefCell<VecDeque<PasswordJob>>,
        done: Cell<usize>,
        manual: Cell<bool>,
    }

    impl Pool {
        fn work(&self) {
            while self.work_once() {}
        }

        fn work_once(&self) -> bool {
            let Some(job) = self.jobs.borrow_mut().pop_front() else { return false };
            job();
            self.done.set(self.done.get() + 1);
            true
        }
    }

    impl PasswordWorkers for Pool {
        fn try_run(&self, job: PasswordJob) -> bool {
            self.jobs.borrow_mut().push_back(job);
            if !self.manual.get() {
                self.work();
            }
            true
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
        block_on(directory.authenticate(user, password, PEER, Duration::ZERO))
            .map(|it| it.account.0)
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

        let long = "x".repeat(PASSWORD_MAX + 1);
        assert_eq!(login(&directory, "bob", &long), rejected);
        assert_eq!(pool.done.get(), 5);
    }

    #[test]
    fn proofs_count_like_passwords() {
        let (directory, _) = directory(PeerLimits::default());
        let now = Duration::ZERO;
        let keys = |user: &str| block_on(directory.keys(user, Hash::Sha256, PEER)).expect("keys");
        let prove = |user: &str, stored_key: Option<&[u8]>| {
            let proved = directory.prove(user, Hash::Sha256, stored_key, PEER, now);
            block_on(proved).map(|it| it.account.0)
        };
        assert!(directory.offers_scram());
        let key = keys("alice").pairs[0].stored_key.clone();
        assert_eq!(prove("alice@demo.test", Some(&key)), Ok(1));
        assert_eq!(prove("nobody", Some(&key)), Err(AuthenticationError::Rejected));
        let made_up = keys("nobody").pairs[0].stored_key.clone();
        assert_eq!(prove("nobody", Some(&made_up)), Err(AuthenticationError::Rejected));
        // As many wrong ones as are free; then even a right one must wait, from another network.
        for _ in 0..GuardOptions::default().free_failures {
            assert_eq!(prove("bob", None), Err(AuthenticationError::Rejected));
        }
        assert!(matches!(prove("bob", None), Err(AuthenticationError::Limited { .. })));
        assert!(matches!(prove("bob", Some(&key)), Err(AuthenticationError::Limited { .. })));
        assert_eq!(prove("alice", Some(&key)), Ok(1), "others are not affected");
    }

    #[test]
    fn masters_act_with_their_own_password() {
        let mut file = UsersFile::new();
        for name in ["admin@a.test", "alice@b.test", "carol@c.test"] {
            let secret = Secret::of(name, None).expect("secret");
            file.add(name, secret).expect("added");
        }
        let masters = vec![Master::parse("admin@a.test=@b.test").expect("a master")];
        let options = DirectoryOptions { masters, ..DirectoryOptions::default() };
        let snapshot = DirectorySnapshot::new(&file, &options).expect("snapshot");
        let shared = SharedDirectory::new(snapshot, PeerLimits::default());
        let directory = Directory::new(shared, Rc::new(Pool::default()));
        let act = |user: &str, other: &str| {
            let identity = directory.authenticate(user, user, PEER, Duration::ZERO);
            let identity = block_on(identity).expect("its own password");
            let acted = block_on(directory.act_for(identity, other));
            acted.map(|it| (it.address, it.master.map(String::from)))
        };
        let own = |name: &str| Ok((name.to_owned(), None));
        let rejected = Err(AuthenticationError::Rejected);
        let for_alice = ("alice@b.test".to_owned(), Some("admin@a.test".to_owned()));
        assert_eq!(act("admin@a.test", "Alice@B.test"), Ok(for_alice));
        assert_eq!(act("admin@a.test", "ADMIN@a.test"), own("admin@a.test"));
        assert_eq!(act("admin@a.test", "carol@c.test"), rejected);
        assert_eq!(act("admin@a.test", "nobody@b.test"), rejected);
        assert_eq!(act("alice@b.test", "admin@a.test"), rejected);
        assert_eq!(act("alice@b.test", "alice@b.test"), own("alice@b.test"));
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
        let mut leader = Box::pin(directory.authenticate("alice", "demo", PEER, Duration::ZERO));
        let mut follower = pin!(directory.authenticate("bob", "demo", PEER, Duration::ZERO));
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
        let mut first = Box::pin(directory.authenticate("alice", "wrong", PEER, Duration::ZERO));
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
        let mut cache = Cache::default();
        for number in 0..3 * CACHE_HALF_MAX as u64 {
            let mut key = Key::default();
            key[..8].copy_from_slice(&number.to_le_bytes());
            cache.insert(0, key);
            cache.note(AccountId(number), Network::narrow(PEER), &key);
            assert!(cache.contains(0, &key));
            assert!(cache.contains(0, &Key::default()), "what is in use stays");
        }
        assert!(cache.young.len() + cache.old.len() <= 2 * CACHE_HALF_MAX);
        assert!(cache.noted.len() <= 2 * CACHE_HALF_MAX);
    }
}
