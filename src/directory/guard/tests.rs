//! Guesses in virtual time: how many get an answer, and which clients are not delayed by them.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, task::Waker};

use futures_lite::future::block_on;

use super::{
    super::{
        AuthenticationError, Directory, DirectoryOptions, DirectorySnapshot, PasswordJob,
        PasswordWorkers, PeerLimits, SharedDirectory, UsersFile,
    },
    *,
};

const LIMITED: &str = "limited";
const WRONG: &str = "wrong";
const RIGHT: &str = "right";

/// Works when told to, or immediately.
#[derive(Default)]
struct Pool {
    jobs: RefCell<VecDeque<PasswordJob>>,
    manual: std::cell::Cell<bool>,
}

impl Pool {
    fn work_once(&self) {
        let job = self.jobs.borrow_mut().pop_front();
        job.into_iter().for_each(|job| job());
    }
}

impl PasswordWorkers for Pool {
    fn try_run(&self, job: PasswordJob) -> bool {
        if self.manual.get() {
            self.jobs.borrow_mut().push_back(job);
        } else {
            job();
        }
        true
    }
}

/// Two shards of one process.
struct World {
    shared: Arc<SharedDirectory>,
    shards: [Directory; 2],
    pool: Rc<Pool>,
}

/// Alice, bob and user1 ... user30, each with the password "demo" and a cheap hash of their own.
fn snapshot(password: &str) -> DirectorySnapshot {
    use argon2::password_hash::{PasswordHasher, SaltString};
    let params = argon2::Params::new(8, 1, 1, None).expect("parameters");
    let hasher = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut file = UsersFile::new();
    let names = ["alice", "bob"].map(str::to_owned);
    for (number, name) in names.into_iter().chain((1..=30).map(|n| format!("user{n}"))).enumerate()
    {
        let salt = SaltString::encode_b64(format!("salt{number:08}").as_bytes()).expect("salt");
        let hash = hasher.hash_password(password.as_bytes(), &salt).expect("hash").to_string();
        file.add(&format!("{name}@demo.test"), Arc::<str>::from(hash.as_str())).expect("added");
    }
    let domains = vec!["demo.test".to_owned()];
    DirectorySnapshot::new(&file, &DirectoryOptions { domains, ..DirectoryOptions::default() })
        .expect("users")
}

impl World {
    fn new() -> World {
        World::with(GuardOptions::default())
    }

    fn with(options: GuardOptions) -> World {
        let limits = PeerLimits { waiting_max: 256, waiting_per_peer_max: 64 };
        let shared = SharedDirectory::guarded(snapshot("demo"), limits, options);
        let pool = Rc::new(Pool::default());
        let shards = [(); 2].map(|()| Directory::new(shared.clone(), pool.clone()));
        World { shared, shards, pool }
    }

    fn guard(&self) -> &Arc<Guard> {
        self.shards[0].guard()
    }

    fn on(
        &self,
        shard: usize,
        name: &str,
        password: &str,
        peer: &str,
        at: Duration,
    ) -> &'static str {
        let peer = peer.parse().expect("address");
        match block_on(self.shards[shard].authenticate(name, password, peer, at)) {
            Ok(_) => RIGHT,
            Err(AuthenticationError::Rejected) => WRONG,
            Err(AuthenticationError::Limited { .. }) => LIMITED,
            Err(AuthenticationError::Busy) => "busy",
            Err(AuthenticationError::Unavailable | AuthenticationError::NoIssuer) => "unavailable",
        }
    }

    fn login(&self, name: &str, password: &str, peer: &str, at: Duration) -> &'static str {
        self.on(0, name, password, peer, at)
    }

    /// Guesses at `name` until its next attempt has to wait.
    fn block(&self, name: &str, peer: &str, at: Duration) {
        for guess in 0..20 {
            self.login(name, &format!("guess {guess}"), peer, at);
        }
        assert_eq!(self.login(name, "one more", peer, at), LIMITED);
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const HERE: &str = "192.0.2.7";
const THERE: &str = "198.51.100.9";

/// How many answers 8 connections on 2 shards get in each of 60 s, guessing 20 times a second each.
fn told_each_second(name: &str, password: impl Fn(u64) -> String) -> Vec<usize> {
    let world = World::new();
    let mut told = vec![0; 60];
    for step in 0..60 * 20 {
        let at = Duration::from_millis(step * 50);
        for connection in 0..8 {
            let guess = password(step * 8 + connection);
            let outcome = world.on(connection as usize % 2, name, &guess, HERE, at);
            assert_ne!(outcome, RIGHT);
            told[at.as_secs() as usize] += usize::from(outcome == WRONG);
        }
    }
    told
}

#[test]
fn one_account_is_guessed_at_less_than_once_a_second() {
    let guesses = [
        told_each_second("alice@demo.test", |number| format!("guess {number}")),
        told_each_second("alice@demo.test", |_| "always the same".to_owned()),
        told_each_second("Alice", |number| "x".repeat(1025 + number as usize % 7)),
    ];
    for told in guesses {
        assert_eq!(told[0], 5, "{told:?}");
        assert!(told.iter().skip(1).all(|told| *told <= 1), "{told:?}");
        assert!(told.iter().sum::<usize>() <= 5 + 6, "{told:?}");
    }
}

#[test]
fn unknown_names_are_held_back_like_known_ones() {
    let known = told_each_second("alice@demo.test", |number| format!("guess {number}"));
    let unknown = told_each_second("nobody@demo.test", |number| format!("guess {number}"));
    assert_eq!(known, unknown);
}

#[test]
fn spellings_of_a_name_are_one_account() {
    let world = World::new();
    let spellings = ["alice", "ALICE@demo.test", "\"alice\"@Demo.Test", "Alice@DEMO.TEST", "aLice"];
    for (number, name) in spellings.iter().enumerate() {
        assert_eq!(world.login(name, &format!("guess {number}"), HERE, seconds(0)), WRONG);
    }
    assert_eq!(world.login("alice@demo.test", "x", HERE, seconds(0)), LIMITED);
}

#[test]
fn guesses_elsewhere_lock_nobody_out() {
    let world = World::new();
    world.block("alice", THERE, seconds(0));
    assert_eq!(world.login("alice", "demo", HERE, seconds(0)), RIGHT);
    assert_eq!(world.login("alice", "demo", THERE, seconds(0)), LIMITED, "nor is it told there");
}

#[test]
fn what_was_right_from_there_passes_beside_guesses_and_after_a_reload() {
    let world = World::new();
    assert_eq!(world.login("alice", "demo", HERE, seconds(0)), RIGHT);
    world.block("alice", HERE, seconds(1));
    for shard in 0..2 {
        assert_eq!(world.on(shard, "alice", "demo", HERE, seconds(1)), RIGHT, "shard {shard}");
    }
    world.shared.replace(snapshot("demo"));
    assert_eq!(world.login("alice", "demo", HERE, seconds(1)), RIGHT, "reloaded");
    assert_eq!(world.login("alice", "another", HERE, seconds(1)), LIMITED);
}

/// A phone with an old password, and another device with the new one.
#[test]
fn a_repeated_wrong_password_takes_no_attempt_from_the_right_one() {
    let world = World::new();
    assert_eq!(world.login("alice", "demo", HERE, seconds(0)), RIGHT);
    world.shared.replace(snapshot("new"));
    for second in 0..300 {
        assert_ne!(world.login("alice", "demo", HERE, seconds(second)), RIGHT);
    }
    assert_eq!(world.login("alice", "new", HERE, seconds(300)), RIGHT);
    assert_eq!(world.login("alice", "new", HERE, seconds(300)), RIGHT);
}

#[test]
fn refused_guesses_are_no_endless_oracle() {
    let world = World::new();
    for peer in [HERE, THERE] {
        assert_eq!(world.login("alice", "demo", peer, seconds(0)), RIGHT);
    }
    for guess in 0..LOOKS_BURST + 20 {
        assert_ne!(world.login("alice", &format!("guess {guess}"), HERE, seconds(1)), RIGHT);
    }
    for shard in 0..2 {
        assert_eq!(world.on(shard, "alice", "demo", HERE, seconds(1)), LIMITED);
        assert_eq!(world.on(shard, "alice", "demo", THERE, seconds(1)), RIGHT);
    }
    assert_eq!(
        world.login("alice", "demo", HERE, seconds(120)),
        RIGHT,
        "an attempt like any other"
    );
}

#[test]
fn a_network_fails_so_often_a_minute() {
    let world = World::new();
    assert_eq!(world.login("alice", "demo", HERE, seconds(0)), RIGHT);
    let spray =
        |at| (0..200).filter(|n| world.login(&format!("n{n}"), "x", HERE, at) == WRONG).count();
    assert_eq!(spray(seconds(1)), 20);
    assert_eq!(spray(seconds(31)), 10);
    assert_eq!(world.login("bob", "demo", HERE, seconds(31)), LIMITED, "a newcomer");
    assert_eq!(world.login("bob", "demo", HERE, seconds(34)), RIGHT, "waits for 3 s");
    assert_eq!(world.login("alice", "demo", HERE, seconds(31)), RIGHT, "one of the house");
    assert_eq!(world.login("bob", "demo", "192.0.2.8", seconds(31)), RIGHT, "a neighbour");
    for host in 10..40 {
        for n in 0..20 {
            world.login(&format!("n{n}"), "x", &format!("192.0.2.{host}"), seconds(34));
        }
    }
    let neighbour = world.login("user1", "demo", "192.0.2.9", seconds(34));
    assert_eq!(neighbour, LIMITED, "of a bad neighbourhood");
}

#[test]
fn many_people_behind_one_address_log_in() {
    let world = World::new();
    for (shard, n) in (1..=30).flat_map(|n| [(0, n), (1, n), (0, n)]) {
        assert_eq!(world.on(shard, &format!("user{n}"), "demo", HERE, seconds(0)), RIGHT);
    }
    let trusted = vec!["192.0.2.0/29".parse().expect("network")];
    let world = World::with(GuardOptions { trusted, ..GuardOptions::default() });
    let wrong = (0..200).filter(|n| world.login(&format!("n{n}"), "x", HERE, seconds(0)) == WRONG);
    assert_eq!(wrong.count(), 200, "no limit by network");
    world.block("alice", HERE, seconds(0));
}

#[test]
fn four_networks_that_guess_leave_a_fifth_its_turn() {
    let world = World::new();
    world.pool.manual.set(true);
    let mut context = std::task::Context::from_waker(Waker::noop());
    let names: Vec<String> = (0..64).map(|n| format!("n{n}")).collect();
    let mut guesses = Vec::new();
    let directory = &world.shards[0];
    for name in &names {
        for (host, guess) in (1..).zip(["a", "b", "c", "d"]) {
            let peer = IpAddr::from([203, 0, 113, host]);
            guesses.push(Box::pin(directory.authenticate(name, guess, peer, seconds(0))));
        }
    }
    for guess in &mut guesses {
        assert!(guess.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(world.pool.jobs.borrow().len(), 256, "the queue is full");
    let peer = IpAddr::from([192, 0, 2, 7]);
    let mut fifth = Box::pin(directory.authenticate("alice", "demo", peer, seconds(0)));
    assert!(fifth.as_mut().poll(&mut context).is_pending(), "one of the others gave its place");
    for _ in 0..5 {
        world.pool.work_once();
    }
    let std::task::Poll::Ready(outcome) = fifth.as_mut().poll(&mut context) else {
        panic!("still waits after a round");
    };
    assert_eq!(outcome.map(|it| it.account), Ok(AccountId(1)));
    let mut busy = 0;
    for guess in &mut guesses {
        let outcome = guess.as_mut().poll(&mut context);
        let displaced = std::task::Poll::Ready(Err(AuthenticationError::Busy));
        busy += usize::from(outcome == displaced);
    }
    assert_eq!(busy, 1);
}

/// Many connections with one right password at a cold start.
#[test]
fn the_right_password_on_many_connections_at_once() {
    let world = World::new();
    world.pool.manual.set(true);
    let mut context = std::task::Context::from_waker(Waker::noop());
    let peer = IpAddr::from([192, 0, 2, 7]);
    let mut logins: Vec<_> = (0..40)
        .map(|_| Box::pin(world.shards[0].authenticate("alice", "demo", peer, seconds(0))))
        .collect();
    for login in &mut logins {
        assert!(login.as_mut().poll(&mut context).is_pending());
    }
    world.pool.work_once();
    for login in &mut logins {
        assert!(matches!(login.as_mut().poll(&mut context), std::task::Poll::Ready(Ok(_))));
    }
    assert!(world.guard().state(seconds(0)).pairs.is_empty());
}

#[test]
fn tables_are_bounded_and_keep_the_worst() {
    let guard = Arc::new(Guard::new(GuardOptions::default()));
    let fail = |name: &str, peer: IpAddr, at| {
        let ask = Ask { name, account: None, peer, key: None };
        guard.admit(&ask, at).map(|charge| charge.settle(false)).is_ok()
    };
    let worst = IpAddr::from([192, 0, 2, 7]);
    (0..5).for_each(|_| assert!(fail("alice", worst, seconds(0))));
    for number in 0..3 * PAIRS_MAX as u32 {
        let peer = IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(number) << 76).to_be_bytes());
        assert!(fail("alice", peer, Duration::from_micros(number.into())));
        guard.note(AccountId(1), peer, None, seconds(0));
    }
    let state = guard.state(seconds(0));
    assert!(state.pairs.len() <= PAIRS_MAX && state.buckets.len() <= BUCKETS_MAX + 1);
    assert!(state.known.len() <= KNOWN_MAX);
    drop(state);
    assert!(!fail("alice", worst, seconds(0)), "what is blocked stays so");

    let held: Vec<_> = (0..300).filter_map(|_| guard.hold(worst)).collect();
    assert_eq!(held.len(), HELD_PER_NETWORK_MAX);
    drop(held);
    assert!(guard.hold(worst).is_some() && guard.state(seconds(0)).held.is_empty());
}

#[test]
fn failures_are_forgiven_one_by_one() {
    let world = World::new();
    world.block("alice", HERE, seconds(0));
    let attempts = |at| {
        (0..9).filter(|n| world.login("alice", &format!("{at:?} {n}"), HERE, at) == WRONG).count()
    };
    assert_eq!(attempts(seconds(1)), 1);
    assert_eq!(attempts(seconds(1) + FORGIVEN_EACH * 3), 2, "6 less 3 forgiven, 5 are free");
    assert_eq!(attempts(seconds(1) + FORGIVEN_EACH * 30), 5);
}

#[test]
fn blocks_are_listed_told_and_lifted() {
    let world = World::new();
    let directory = &world.shards[1];
    world.block("alice", HERE, seconds(0));
    world.block("bob", THERE, seconds(0));
    let blocks = directory.blocks(seconds(0));
    let [first, second] = blocks.as_slice() else { panic!("{blocks:?}") };
    assert_eq!((first.failures, first.left), (5, seconds(1)));
    assert_eq!(first.account.as_deref(), Some("alice@demo.test"));
    assert_eq!(second.account.as_deref(), Some("bob@demo.test"));
    let news = world.shared.news();
    let expected = HeldBack {
        name: Some("alice@demo.test".into()),
        network: Network::narrow(HERE.parse().expect("address")),
        failures: 5,
        wait: Some(seconds(1)),
    };
    assert_eq!((news.held_back.first(), news.held_back.len(), news.more), (Some(&expected), 2, 0));
    assert!(world.shared.news().held_back.is_empty());

    assert_eq!(directory.lift(&Lift::Account("ALICE".to_owned())), 1);
    assert_eq!(world.login("alice", "x", HERE, seconds(0)), WRONG);
    assert_eq!(world.login("bob", "x", THERE, seconds(0)), LIMITED);
    // The pair, the address and the /24 around it.
    assert_eq!(directory.lift(&Lift::Network(THERE.parse().expect("network"))), 3);
    assert_eq!(world.login("bob", "x", THERE, seconds(0)), WRONG);
    assert!(directory.lift(&Lift::All) > 0);
    assert!(directory.blocks(seconds(0)).is_empty());
    assert_eq!(directory.lift(&Lift::All), 0);
}
