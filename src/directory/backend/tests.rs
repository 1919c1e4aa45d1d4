//! A backend that is slow, fails, hangs and changes its answers, queried by one shard.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr},
    num::NonZero,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use argon2::password_hash::{PasswordHasher, SaltString};
use futures_lite::future::{block_on, poll_once};
use proptest::prelude::*;

use super::*;
use crate::{
    directory::{
        AuthenticationError, Directory, DirectoryOptions, DirectorySnapshot, GuardOptions,
        PasswordJob, PasswordWorkers, PeerLimits, SharedDirectory, UsersFile,
    },
    runtime::simulation::Simulation,
};

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ALICE: Destination = Destination::Mailbox(AccountId(1));

/// Hashes immediately.
struct AtOnce;

impl PasswordWorkers for AtOnce {
    fn try_run(&self, job: PasswordJob) -> bool {
        job();
        true
    }
}

/// Accounts that a test may change, and whether there is an answer.
struct Accounts {
    snapshot: Mutex<DirectorySnapshot>,
    fails: Mutex<bool>,
    asked: AtomicUsize,
}

fn snapshot(names: &[&str]) -> DirectorySnapshot {
    // At the lowest cost, since guesses are hashed each time.
    let params = argon2::Params::new(8, 1, 1, None).unwrap();
    let hasher = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let salt = SaltString::from_b64("c2FsdHNhbHQ").unwrap();
    let hash = hasher.hash_password(b"demo", &salt).unwrap().to_string();
    let mut file = UsersFile::new();
    for name in names {
        file.add(&format!("{name}@demo.test"), Arc::<str>::from(hash.as_str())).expect("added");
    }
    let options =
        DirectoryOptions { domains: vec!["demo.test".to_owned()], ..DirectoryOptions::default() };
    DirectorySnapshot::new(&file, &options).expect("snapshot")
}

impl Accounts {
    fn ask<T>(&self, answer: impl FnOnce(&DirectorySnapshot) -> T) -> Result<T, Unavailable> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if *self.fails.lock().unwrap() {
            return Err(Unavailable);
        }
        Ok(answer(&self.snapshot.lock().unwrap()))
    }
}

impl Backend for Accounts {
    fn resolve(&self, address: &str) -> Result<Destination, Unavailable> {
        self.ask(|snapshot| snapshot.resolve(address))
    }

    fn log_in(&self, name: &str) -> Result<LogIn, Unavailable> {
        self.ask(|snapshot| snapshot.log_in_of(name))
    }
}

/// The backend's thread, in simulated time: each query takes `delay`.
struct Slow {
    simulation: Simulation,
    delay: Cell<Duration>,
    queued: Rc<RefCell<usize>>,
    queue_max: usize,
}

impl BackendWorkers for Slow {
    fn try_run(&self, job: BackendJob) -> Option<LocalFuture<'static, ()>> {
        if *self.queued.borrow() >= self.queue_max {
            return None;
        }
        *self.queued.borrow_mut() += 1;
        let flight = Rc::<Flight<()>>::default();
        let (landing, queued) = (flight.clone(), self.queued.clone());
        let sleep = self.simulation.sleep(self.delay.get());
        let task = async move {
            sleep.await;
            job();
            *queued.borrow_mut() -= 1;
            landing.land(Some(()));
        };
        self.simulation.spawn(Priority::Foreground, Box::pin(task));
        Some(Box::pin(async move {
            let _ = flight.landed().await;
        }))
    }
}

struct World {
    simulation: Simulation,
    accounts: Arc<Accounts>,
    workers: Rc<Slow>,
    shared: Arc<SharedDirectory>,
    directory: Directory,
}

const OPTIONS: BackendOptions = BackendOptions {
    timeout: Duration::from_secs(5),
    age: Duration::from_secs(100),
    age_unknown: Duration::from_secs(10),
    entries: 8,
    queue: 8,
};

fn world() -> World {
    let simulation = Simulation::new(7);
    let accounts = Arc::new(Accounts {
        snapshot: Mutex::new(snapshot(&["alice", "bob"])),
        fails: Mutex::new(false),
        asked: AtomicUsize::new(0),
    });
    let workers = Rc::new(Slow {
        simulation: simulation.clone(),
        delay: Cell::new(Duration::from_secs(1)),
        queued: Rc::default(),
        queue_max: OPTIONS.queue,
    });
    let desk = Desk::new(accounts.clone(), workers.clone(), Rc::new(simulation.clone()), OPTIONS);
    let guard = GuardOptions { free_failures: 1000, network_failures: 1000, ..Default::default() };
    let shared = SharedDirectory::guarded(snapshot(&[]), PeerLimits::default(), guard);
    let directory = Directory::beside(shared.clone(), Rc::new(AtOnce), desk);
    World { simulation, accounts, workers, shared, directory }
}

impl World {
    fn resolve(&self, address: &str) -> Result<Destination, Unavailable> {
        self.simulation.run_until(self.directory.resolve(address))
    }

    fn log_in(&self, name: &str, password: &str) -> Result<u64, AuthenticationError> {
        let now = Duration::from_micros(self.simulation.moment().0);
        let outcome = self.directory.authenticate(name, password, PEER, now);
        self.simulation.run_until(outcome).map(|identity| identity.account.0)
    }

    fn pass(&self, seconds: u64) {
        self.simulation.run_until(self.simulation.sleep(Duration::from_secs(seconds)));
    }

    fn asked(&self) -> usize {
        self.accounts.asked.swap(0, Ordering::Relaxed)
    }

    fn fail(&self, fails: bool) {
        *self.accounts.fails.lock().unwrap() = fails;
    }

    fn has(&self, names: &[&str]) {
        *self.accounts.snapshot.lock().unwrap() = snapshot(names);
    }

    fn clock(&self) -> Duration {
        Duration::from_micros(self.simulation.moment().0)
    }
}

#[test]
fn the_snapshot_answers_on_the_spot() {
    let shared = SharedDirectory::new(snapshot(&["alice"]), PeerLimits::default());
    let directory = Directory::new(shared, Rc::new(AtOnce));
    let now = |address| block_on(poll_once(directory.resolve(address)));
    assert_eq!(now("alice@demo.test"), Some(Ok(ALICE)));
    assert_eq!(now("nobody@demo.test"), Some(Ok(Destination::UnknownUser)));
    assert!(directory.resolve("x@elsewhere.test").is_ready());
    let may = |address| block_on(poll_once(directory.may_send_as(AccountId(1), address)));
    assert_eq!(may("alice+x@demo.test"), Some(Ok(true)));
    assert_eq!(may("bob@demo.test"), Some(Ok(false)));
}

/// What needs an answer at once comes from the snapshot, whoever has the accounts.
#[test]
fn names_numbers_and_groups_are_the_snapshots() {
    let shared = SharedDirectory::new(snapshot(&["alice"]), PeerLimits::default());
    let directory = Directory::new(shared.clone(), Rc::new(AtOnce));
    for (name, expected) in [
        ("alice@demo.test", Some(AccountId(1))),
        ("\"Alice\"@DEMO.test", Some(AccountId(1))),
        ("alice+x@demo.test", None),
        ("postmaster@demo.test", None),
        ("nobody@demo.test", None),
        ("", None),
    ] {
        assert_eq!(directory.account_named(name), expected, "{name}");
    }
    assert_eq!(directory.name_of(AccountId(1)).as_deref(), Some("alice@demo.test"));
    assert_eq!(directory.name_of(AccountId(2)), None);
    assert!(directory.groups_of("alice@demo.test").is_empty());
    shared.replace(snapshot(&["zoe"]));
    assert_eq!(directory.account_named("alice@demo.test"), None);
    assert_eq!(directory.name_of(AccountId(1)).as_deref(), Some("zoe@demo.test"));
    let world = world();
    assert_eq!(world.directory.account_named("alice@demo.test"), None);
    assert_eq!(world.directory.name_of(AccountId(1)), None);
    assert!(world.directory.groups_of("alice@demo.test").is_empty());
    assert_eq!(world.asked(), 0);
}

#[test]
fn answers_are_used_while_they_are_fresh_and_not_beyond() {
    let world = world();
    assert_eq!(world.resolve("alice@demo.test"), Ok(ALICE));
    assert_eq!(world.clock(), Duration::from_secs(1));
    world.has(&["zoe"]);
    world.fail(true);
    assert_eq!(world.resolve("alice@demo.test"), Ok(ALICE));
    // The answer is as old as the query.
    world.pass(98);
    assert_eq!(world.resolve("alice@demo.test"), Ok(ALICE));
    assert_eq!(world.asked(), 1);
    world.pass(1);
    assert_eq!(world.resolve("alice@demo.test"), Err(Unavailable), "not served when too old");
    world.fail(false);
    assert_eq!(world.resolve("alice@demo.test"), Ok(Destination::UnknownUser), "she was removed");
    // The absence of an address expires sooner.
    world.has(&["alice"]);
    world.pass(8);
    assert_eq!(world.resolve("alice@demo.test"), Ok(Destination::UnknownUser));
    world.pass(1);
    assert_eq!(world.resolve("alice@demo.test"), Ok(ALICE));
}

#[test]
fn a_failure_is_not_remembered() {
    let world = world();
    world.fail(true);
    assert_eq!(world.resolve("alice@demo.test"), Err(Unavailable));
    world.fail(false);
    assert_eq!(world.resolve("alice@demo.test"), Ok(ALICE));
    let may = |account| {
        world.simulation.run_until(world.directory.may_send_as(AccountId(account), "bob@demo.test"))
    };
    assert_eq!((may(1), may(2)), (Ok(false), Ok(true)));
}

#[test]
fn a_reload_forgets() {
    let world = world();
    assert_eq!(world.resolve("alice@demo.test"), Ok(ALICE));
    world.has(&[]);
    assert_eq!(world.resolve("alice@demo.test"), Ok(ALICE));
    // A query sent before the reload and answered after it is not cached either.
    let mut early = world.directory.resolve("bob@demo.test");
    assert_eq!(block_on(poll_once(&mut early)), None);
    world.shared.replace(snapshot(&[]));
    assert_eq!(world.resolve("alice@demo.test"), Ok(Destination::UnknownUser));
    world.has(&["x", "bob"]);
    assert_eq!(world.simulation.run_until(early), Ok(Destination::UnknownUser));
    assert_eq!(world.resolve("bob@demo.test"), Ok(Destination::Mailbox(AccountId(2))));
}

#[test]
fn a_hanging_backend_costs_a_deadline_and_no_queue_grows() {
    let world = world();
    world.workers.delay.set(Duration::from_secs(3600));
    let start = world.clock();
    let waiting: Vec<_> =
        (0..100).map(|n| world.directory.resolve(&format!("user{n}@demo.test"))).collect();
    let at_once = waiting.iter().filter(|answer| answer.is_ready()).count();
    assert_eq!(at_once, 100 - 6, "of 8 places two are kept for log-ins");
    for answer in waiting {
        assert_eq!(world.simulation.run_until(answer), Err(Unavailable));
    }
    assert_eq!(world.clock() - start, OPTIONS.timeout);
    // The queries are still at the backend, and no caller waits for them.
    assert_eq!(world.directory.desk().unwrap().waiting(), 0);
    assert_eq!(*world.workers.queued.borrow(), 6);
    for round in 0..3 {
        let waiting: Vec<_> =
            (0..100).map(|n| world.directory.resolve(&format!("{round}{n}@demo.test"))).collect();
        for answer in waiting {
            assert_eq!(world.simulation.run_until(answer), Err(Unavailable));
        }
        assert!(*world.workers.queued.borrow() <= OPTIONS.queue);
    }
    // The backend works again; queries without a caller are not sent to it.
    world.workers.delay.set(Duration::ZERO);
    world.pass(4000);
    assert_eq!(world.asked(), 0);
    assert_eq!(world.resolve("alice@demo.test"), Ok(ALICE));
}

#[test]
fn the_same_question_is_asked_once() {
    let world = world();
    let mut askers: Vec<_> = (0..50).map(|_| world.directory.resolve("alice@demo.test")).collect();
    // The first caller leaves; the others still get the answer.
    drop(askers.remove(0));
    for asker in askers {
        assert_eq!(world.simulation.run_until(asker), Ok(ALICE));
    }
    assert_eq!(world.asked(), 1);
}

#[test]
fn one_network_does_not_take_all_places() {
    let world = world();
    world.workers.delay.set(Duration::from_secs(4));
    let desk = world.directory.desk().unwrap();
    let network = |last| Some(Network::narrow(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))));
    let ask = |n: u32, of| desk.log_in(&format!("user{n}@demo.test"), network(of));
    let guesses: Vec<_> = (0..20).map(|n| ask(n, 1)).collect();
    assert_eq!(guesses.iter().filter(|answer| answer.is_ready()).count(), 18);
    assert!(!ask(100, 2).is_ready());
    world.pass(5);
    assert!(!ask(200, 1).is_ready(), "places come back");
}

#[test]
fn log_ins() {
    let world = world();
    let rejected = Err(AuthenticationError::Rejected);
    let unavailable = Err(AuthenticationError::Unavailable);
    assert_eq!(world.log_in("alice", "demo"), Ok(1));
    assert_eq!(world.asked(), 1);
    assert_eq!(world.log_in("alice@Demo.test", "demo"), Ok(1));
    assert_eq!(world.asked(), 0, "what was right before needs no question");
    world.fail(true);
    assert_eq!(world.log_in("alice", "demo"), Ok(1));
    assert_eq!(world.log_in("alice", "wrong"), unavailable);
    assert_eq!(world.log_in("nobody", "wrong"), unavailable);
    assert_eq!(world.log_in("bob", "demo"), unavailable);
    // Beyond its age no answer is used, whatever the backend does.
    world.pass(101);
    assert_eq!(world.log_in("alice", "demo"), unavailable);
    world.fail(false);
    assert_eq!(world.log_in("alice", "demo"), Ok(1));
    world.has(&["zoe"]);
    assert_eq!(world.log_in("alice", "demo"), Ok(1));
    assert_eq!(world.log_in("alice", "wrong"), rejected);
    world.pass(101);
    assert_eq!(world.log_in("alice", "demo"), rejected, "removed");
    let long = "x".repeat(ADDRESS_MAX + 1);
    world.asked();
    assert_eq!(world.log_in(&long, "demo"), rejected);
    assert_eq!(world.asked(), 0, "no account can have such a name");
}

/// A guess takes as long, and sends as many queries, whether or not the name has an account, and
/// whether or not that account has just logged in.
#[test]
fn how_long_a_guess_takes_does_not_tell_who_is_there() {
    let world = world();
    assert_eq!(world.log_in("alice", "demo"), Ok(1));
    world.asked();
    for seconds in [0, 1, 15, 50, 200] {
        world.pass(seconds);
        for name in ["alice", "bob", "nobody", "alice", "nobody"] {
            let before = world.clock();
            assert_eq!(world.log_in(name, "guess"), Err(AuthenticationError::Rejected), "{name}");
            assert_eq!(world.clock() - before, Duration::from_secs(1), "{name}");
            assert_eq!(world.asked(), 1, "{name}");
        }
    }
}

/// On real threads: a query that hangs delays only its callers, and a full queue is refused.
#[test]
fn a_thread_that_hangs_is_left_behind() {
    struct Hanging(Mutex<mpsc::Receiver<()>>);

    impl Backend for Hanging {
        fn resolve(&self, _: &str) -> Result<Destination, Unavailable> {
            self.0.lock().unwrap().recv().map(|()| ALICE).map_err(|_| Unavailable)
        }

        fn log_in(&self, _: &str) -> Result<LogIn, Unavailable> {
            Err(Unavailable)
        }
    }

    let (release, gate) = mpsc::channel();
    let pool = WorkerPool::start("directory", NonZero::<usize>::MIN, 2).unwrap();
    let backend: Arc<dyn Backend> = Arc::new(Hanging(Mutex::new(gate)));
    let simulation = Simulation::new(1);
    let place = Place {
        backend,
        workers: Rc::new(pool),
        executor: Rc::new(simulation.clone()),
        options: OPTIONS,
        waiting: RefCell::default(),
    };
    let lane =
        Lane::new(&Rc::new(place), |backend, address: &String| backend.resolve(address), |_| true);
    // One of them is with the thread and two wait in its queue; the thread may not have taken the
    // first yet.
    let answers: Vec<_> = (0..6).map(|n| lane.find(format!("{n}"))).collect();
    let refused = answers.iter().filter(|answer| answer.is_ready()).count();
    assert!((3..=4).contains(&refused), "{refused}");
    for answer in answers {
        assert_eq!(simulation.run_until(answer), Err(Unavailable), "time passes in the simulation");
    }
    drop(release);
}

#[derive(Clone, Debug)]
enum Move {
    Pass(u64),
    Fail(bool),
    Delay(u64),
    /// Whether the account exists from now on.
    Has(bool),
    Resolve,
    LogIn(bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        (0u64..60).prop_map(Move::Pass),
        any::<bool>().prop_map(Move::Fail),
        prop_oneof![Just(0u64), Just(1), Just(4), Just(6), Just(3600)].prop_map(Move::Delay),
        any::<bool>().prop_map(Move::Has),
        Just(Move::Resolve),
        any::<bool>().prop_map(Move::LogIn),
    ];
    proptest::collection::vec(one, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the backend does: an answer was the backend's answer at some time no longer ago
    /// than the cache age, it comes within the deadline, and a right password of an account that
    /// always existed is never rejected.
    #[test]
    fn an_answer_was_true_not_long_ago(moves in moves()) {
        let world = world();
        // When bob was added or removed: (since when, whether he exists).
        let mut history = vec![(Duration::ZERO, true)];
        let was = |history: &[(Duration, bool)], there: bool, from: Duration, to: Duration| {
            history.iter().enumerate().any(|(index, (since, is))| {
                let until = history.get(index + 1).map_or(Duration::MAX, |next| next.0);
                *is == there && *since <= to && until >= from
            })
        };
        for step in moves {
            let before = world.clock();
            let age = |there| if there { OPTIONS.age } else { OPTIONS.age_unknown };
            match step {
                Move::Pass(seconds) => world.pass(seconds),
                Move::Fail(fails) => world.fail(fails),
                Move::Delay(seconds) => world.workers.delay.set(Duration::from_secs(seconds)),
                Move::Has(there) => {
                    world.has(if there { &["alice", "bob"] } else { &["alice"] });
                    history.push((before, there));
                }
                Move::Resolve => {
                    let answer = world.resolve("bob@demo.test");
                    let after = world.clock();
                    prop_assert!(after - before <= OPTIONS.timeout);
                    if let Ok(destination) = answer {
                        let there = matches!(destination, Destination::Mailbox(_));
                        let from = before.saturating_sub(age(there));
                        prop_assert!(was(&history, there, from, after), "{destination:?}");
                    }
                }
                Move::LogIn(right) => {
                    let outcome = world.log_in("bob", if right { "demo" } else { "guess" });
                    let after = world.clock();
                    prop_assert!(after - before <= OPTIONS.timeout);
                    match outcome {
                        Ok(_) => {
                            prop_assert!(right);
                            let from = before.saturating_sub(OPTIONS.age);
                            prop_assert!(was(&history, true, from, after));
                        }
                        Err(AuthenticationError::Rejected) => {
                            let from = before.saturating_sub(OPTIONS.timeout);
                            let away = was(&history, false, from, after);
                            prop_assert!(!right || away);
                        }
                        Err(AuthenticationError::Unavailable) => {}
                        Err(other) => prop_assert!(false, "{other:?}"),
                    }
                }
            }
            prop_assert!(*world.workers.queued.borrow() <= OPTIONS.queue);
            let desk = world.directory.desk().unwrap();
            prop_assert!(desk.waiting() <= OPTIONS.queue);
        }
    }
}
