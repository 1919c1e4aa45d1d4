//! Asynchronous directories: the queries that one must answer, and the desk of a shard that sends
//! them.
//!
//! A [`Backend`] is a program's view of a database or a network service. Its calls may block, so
//! none is made on a shard: the [`Desk`] hands each query to [`BackendWorkers`], a thread with a
//! bounded queue, and a task of the shard waits for the answer until [`BackendOptions::timeout`].
//! Identical queries of several sessions are sent once. Answers are cached for their age and no
//! longer, whatever happens to the backend meanwhile. A query that cannot be sent, or is not
//! answered in time, is [`Unavailable`]: the client gets a temporary refusal.
//!
//! The users file is a backend whose answers are all in memory. [`super::Directory`] asks its
//! snapshot directly, without a desk.
//!
//! Ownership: a backend is shared by all shards; a desk is shard-local. Called by
//! [`super::Directory`].

use std::{
    cell::{Cell, RefCell},
    hash::Hash,
    rc::{Rc, Weak},
    sync::{Arc, mpsc},
    time::Duration,
};

use futures_lite::future::or;
use hashbrown::HashMap;

use super::{Destination, LogIn, address::ADDRESS_MAX, cache::Cache, password};
use crate::{
    model::{AccountId, Network},
    runtime::{
        LocalFuture,
        answer::Answer,
        executor::{Executor, Priority},
        flight::Flight,
        worker::WorkerPool,
    },
};

/// Of the queries that may wait, the fraction 1/`QUEUE_SHARE` is reserved for log-ins; the same
/// number is the limit for waiting log-ins of one network.
const QUEUE_SHARE: usize = 4;

/// The backend gave no answer: try again later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the directory does not answer")]
pub struct Unavailable;

/// The source of accounts. Calls may block; each is made on a thread of the backend.
pub trait Backend: Send + Sync {
    /// The destination of mail for `address`, the bare mailbox of RCPT TO.
    ///
    /// # Errors
    /// If there is no answer now.
    fn resolve(&self, address: &str) -> Result<Destination, Unavailable>;

    /// Whether `account` may send as `address`: by default, if it gets the mail for it.
    ///
    /// # Errors
    /// If there is no answer now.
    fn may_send_as(&self, account: AccountId, address: &str) -> Result<bool, Unavailable> {
        Ok(self.resolve(address)?.reaches(account))
    }

    /// The account that logs in as `name`, which is in canonical spelling. This should take as long
    /// for a name without an account.
    ///
    /// # Errors
    /// If there is no answer now.
    fn log_in(&self, name: &str) -> Result<LogIn, Unavailable>;
}

/// Limits of queries to a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendOptions {
    /// How long a query may take before its caller gets a temporary refusal.
    pub timeout: Duration,
    /// How long answers about destinations, senders and log-in names are cached.
    pub age: Duration,
    /// How long the absence of an address is cached.
    pub age_unknown: Duration,
    /// Answers that a shard caches, for each kind of query.
    pub entries: usize,
    /// Queries that may wait, of one shard and of all together.
    pub queue: usize,
}

impl Default for BackendOptions {
    fn default() -> BackendOptions {
        BackendOptions {
            timeout: Duration::from_secs(5),
            age: Duration::from_secs(300),
            age_unknown: Duration::from_secs(30),
            entries: 10_000,
            queue: 256,
        }
    }
}

pub type BackendJob = Box<dyn FnOnce() + Send>;

/// Runs queries to a backend: a pool of the runtime, or a test's.
pub trait BackendWorkers {
    /// Queues `job`; the future is done when it has run. `None` if the queue is full.
    fn try_run(&self, job: BackendJob) -> Option<LocalFuture<'static, ()>>;
}

impl BackendWorkers for WorkerPool {
    fn try_run(&self, job: BackendJob) -> Option<LocalFuture<'static, ()>> {
        let running = WorkerPool::try_run(self, job).ok()?;
        Some(Box::pin(running))
    }
}

/// Sends one shard's queries to its backend. See the module documentation.
pub struct Desk {
    place: Rc<Place>,
    addresses: Rc<Lane<String, Destination>>,
    senders: Rc<Lane<(AccountId, String), bool>>,
    log_ins: Rc<Lane<String, LogIn>>,
    generation: Cell<u64>,
}

impl Desk {
    pub fn new(
        backend: Arc<dyn Backend>,
        workers: Rc<dyn BackendWorkers>,
        executor: Rc<dyn Executor>,
        options: BackendOptions,
    ) -> Desk {
        let place = Place { backend, workers, executor, options, waiting: RefCell::default() };
        let place = Rc::new(place);
        let addresses = Lane::new(
            &place,
            |backend, address: &String| backend.resolve(address),
            Destination::is_known,
        );
        let senders = Lane::new(
            &place,
            |backend, (account, address): &(AccountId, String)| {
                backend.may_send_as(*account, address)
            },
            |may| *may,
        );
        // A name without an account is not cached: each guess should take as long.
        let log_ins = Lane::new(
            &place,
            |backend, name: &String| backend.log_in(name),
            |log_in| log_in.account().is_some(),
        );
        Desk { place, addresses, senders, log_ins, generation: Cell::new(0) }
    }

    /// Forgets answers from before a reload.
    pub(super) fn follow(&self, generation: u64) {
        if self.generation.replace(generation) != generation {
            self.addresses.forget();
            self.senders.forget();
            self.log_ins.forget();
        }
    }

    pub(super) fn resolve(
        &self,
        address: &str,
    ) -> Answer<'static, Result<Destination, Unavailable>> {
        self.addresses.find(address.to_owned())
    }

    pub(super) fn may_send_as(
        &self,
        account: AccountId,
        address: &str,
    ) -> Answer<'static, Result<bool, Unavailable>> {
        self.senders.find((account, address.to_owned()))
    }

    /// The cached answer for `name`, if it is not too old.
    pub(super) fn remembered_log_in(&self, name: &str) -> Option<LogIn> {
        self.log_ins.remembered(&name.to_owned())
    }

    /// Queries `name` even if an answer is cached. `network`: the network whose queries are
    /// counted.
    pub(super) fn log_in(
        &self,
        name: &str,
        network: Option<Network>,
    ) -> Answer<'static, Result<LogIn, Unavailable>> {
        if name.len() > ADDRESS_MAX {
            return Answer::now(Ok(LogIn::Nobody { stand_in: Arc::from(password::DEMO_HASH) }));
        }
        self.log_ins.ask(name.to_owned(), Waiter::LogIn(network))
    }

    /// Queries that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.place.waiting.borrow().total
    }
}

/// Data shared by the lanes of a desk.
struct Place {
    backend: Arc<dyn Backend>,
    workers: Rc<dyn BackendWorkers>,
    executor: Rc<dyn Executor>,
    options: BackendOptions,
    waiting: RefCell<Waiting>,
}

#[derive(Default)]
struct Waiting {
    total: usize,
    by_network: HashMap<Network, usize>,
}

/// The caller of a waiting query.
#[derive(Clone, Copy)]
enum Waiter {
    Mail,
    LogIn(Option<Network>),
}

/// A place among the waiting queries.
struct Seat {
    place: Rc<Place>,
    network: Option<Network>,
}

impl Seat {
    fn take(place: &Rc<Place>, waiter: Waiter) -> Option<Seat> {
        let queue = place.options.queue;
        let share = (queue / QUEUE_SHARE).max(1);
        let mut waiting = place.waiting.borrow_mut();
        let (most, network) = match waiter {
            Waiter::Mail => ((queue - queue / QUEUE_SHARE).max(1), None),
            Waiter::LogIn(network) => (queue, network),
        };
        let of_network = network.and_then(|network| waiting.by_network.get(&network).copied());
        if waiting.total >= most || of_network.is_some_and(|count| count >= share) {
            return None;
        }
        waiting.total += 1;
        if let Some(network) = network {
            *waiting.by_network.entry(network).or_default() += 1;
        }
        drop(waiting);
        Some(Seat { place: place.clone(), network })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut waiting = self.place.waiting.borrow_mut();
        waiting.total = waiting.total.saturating_sub(1);
        if let Some(network) = self.network
            && let Some(count) = waiting.by_network.get_mut(&network)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                waiting.by_network.remove(&network);
            }
        }
    }
}

/// Queries of one kind.
struct Lane<K, V> {
    place: Rc<Place>,
    question: fn(&dyn Backend, &K) -> Result<V, Unavailable>,
    /// Whether the answer says that the object exists.
    is_known: fn(&V) -> bool,
    cache: RefCell<Cache<K, V>>,
    flights: RefCell<HashMap<K, Rc<Flight<Result<V, Unavailable>>>>>,
    /// Reloads so far: an answer to a query from before a reload is not cached.
    reloads: Cell<u64>,
    own: Weak<Lane<K, V>>,
}

impl<K, V> Lane<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + 'static,
{
    fn new(
        place: &Rc<Place>,
        question: fn(&dyn Backend, &K) -> Result<V, Unavailable>,
        is_known: fn(&V) -> bool,
    ) -> Rc<Lane<K, V>> {
        Rc::new_cyclic(|own| Lane {
            place: place.clone(),
            question,
            is_known,
            cache: RefCell::new(Cache::new(place.options.entries)),
            flights: RefCell::default(),
            reloads: Cell::new(0),
            own: own.clone(),
        })
    }

    /// The cached answer, or else the backend's.
    fn find(&self, key: K) -> Answer<'static, Result<V, Unavailable>> {
        match self.remembered(&key) {
            Some(value) => Answer::now(Ok(value)),
            None => self.ask(key, Waiter::Mail),
        }
    }

    fn remembered(&self, key: &K) -> Option<V> {
        self.cache.borrow_mut().get(key, self.place.executor.moment())
    }

    fn forget(&self) {
        *self.cache.borrow_mut() = Cache::new(self.place.options.entries);
        self.flights.borrow_mut().clear();
        self.reloads.set(self.reloads.get() + 1);
    }

    /// Queries the backend, or waits for an identical query in progress.
    fn ask(&self, key: K, waiter: Waiter) -> Answer<'static, Result<V, Unavailable>> {
        let under_way = self.flights.borrow().get(&key).cloned();
        let Some(flight) = under_way.or_else(|| self.begin(key, waiter)) else {
            return Answer::now(Err(Unavailable));
        };
        Answer::later(async move { flight.landed().await.unwrap_or(Err(Unavailable)) })
    }

    /// Sends the query to the backend; a task of the shard waits for the answer even if all callers
    /// leave. `None` if too many wait.
    fn begin(&self, key: K, waiter: Waiter) -> Option<Rc<Flight<Result<V, Unavailable>>>> {
        let own = self.own.upgrade()?;
        let seat = Seat::take(&self.place, waiter)?;
        let (answered, answer) = mpsc::channel();
        // Dropped when no caller waits any more; then the query is not sent at all.
        let wanted = Arc::new(());
        let running = {
            let wanted = Arc::downgrade(&wanted);
            let (backend, question, key) = (self.place.backend.clone(), self.question, key.clone());
            self.place.workers.try_run(Box::new(move || {
                if wanted.strong_count() > 0 {
                    // The caller may be gone by the time the backend has answered.
                    let _ = answered.send(question(&*backend, &key));
                }
            }))?
        };
        let flight = Rc::<Flight<_>>::default();
        self.flights.borrow_mut().insert(key.clone(), flight.clone());
        let executor = self.place.executor.clone();
        let (asked, reloads) = (executor.moment(), self.reloads.get());
        let landing = flight.clone();
        let task = async move {
            let options = own.place.options;
            let late = async {
                own.place.executor.sleep(options.timeout).await;
                None
            };
            let in_time = async {
                running.await;
                answer.try_recv().ok()
            };
            let reply = or(in_time, late).await.unwrap_or(Err(Unavailable));
            drop((wanted, seat));
            if own.reloads.get() == reloads {
                own.flights.borrow_mut().remove(&key);
                if let Ok(value) = &reply {
                    // The answer is as old as the query.
                    let known = (own.is_known)(value);
                    let age = if known { options.age } else { options.age_unknown };
                    own.cache.borrow_mut().insert(key, value.clone(), known, asked.after(age));
                }
            }
            landing.land(Some(reply));
        };
        executor.spawn(Priority::Foreground, Box::pin(task));
        Some(flight)
    }
}

#[cfg(test)]
mod tests;
