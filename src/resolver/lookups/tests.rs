//! Servers that are slow, fail and come back, asked by one shard.

use super::*;
use crate::{
    model::Moment,
    resolver::{Kind, Name, Resolver, zone::Zone},
    runtime::{LocalFuture, simulation::Simulation},
};

/// Answers after a time, or never.
struct Slow {
    zone: Arc<Zone>,
    simulation: std::thread::ThreadId,
    delay: std::sync::Mutex<Option<Duration>>,
}

thread_local! {
    static CLOCK: RefCell<Option<Simulation>> = const { RefCell::new(None) };
}

impl NameServers for Slow {
    fn ask(&self, question: Question) -> Option<LocalFuture<'static, Reply>> {
        assert_eq!(std::thread::current().id(), self.simulation);
        let delay = *self.delay.lock().unwrap();
        let zone = self.zone.clone();
        Some(Box::pin(async move {
            let clock = CLOCK.with_borrow(|clock| clock.clone()).unwrap();
            match delay {
                Some(delay) => Executor::sleep(&clock, delay).await,
                None => std::future::pending().await,
            }
            zone.ask(question).unwrap().await
        }))
    }
}

struct World {
    simulation: Simulation,
    zone: Arc<Zone>,
    slow: Arc<Slow>,
    resolver: Rc<Resolver>,
}

impl World {
    fn new(options: ResolverOptions) -> World {
        let simulation = Simulation::new(1);
        CLOCK.set(Some(simulation.clone()));
        let zone = Arc::new(Zone::new());
        zone.add("a.example A 192.0.2.1");
        zone.add("!b.example A 192.0.2.2");
        let slow = Arc::new(Slow {
            zone: zone.clone(),
            simulation: std::thread::current().id(),
            delay: std::sync::Mutex::new(Some(Duration::from_millis(10))),
        });
        let executor = Rc::new(simulation.clone());
        let resolver = Rc::new(Resolver::new(slow.clone(), executor, options));
        World { simulation, zone, slow, resolver }
    }

    fn ask(&self, name: &str) -> Reply {
        let name = Name::parse(name).unwrap();
        (*self.simulation.run_until(self.resolver.ask(&name, Kind::A))).clone()
    }

    fn is_found(&self, name: &str) -> bool {
        matches!(self.ask(name), Reply::Found(_))
    }

    fn pass(&self, seconds: u64) {
        self.simulation.run_until(Executor::sleep(&self.simulation, Duration::from_secs(seconds)));
    }

    fn asked(&self) -> usize {
        self.zone.asked().len()
    }
}

#[test]
fn identical_queries_are_sent_once() {
    let world = World::new(ResolverOptions::default());
    let done = Rc::new(Cell::new(0));
    for _ in 0..100 {
        let (resolver, done) = (world.resolver.clone(), done.clone());
        let task = async move {
            let reply = resolver.ask(&Name::parse("a.example").unwrap(), Kind::A).await;
            assert!(matches!(*reply, Reply::Found(_)));
            done.set(done.get() + 1);
        };
        Executor::spawn(&world.simulation, Priority::Foreground, Box::pin(task));
    }
    world.pass(1);
    assert_eq!((done.get(), world.asked(), world.resolver.waiting()), (100, 1, 0));
}

#[test]
fn answers_are_kept_for_their_time_to_live() {
    let world = World::new(ResolverOptions::default());
    assert!(world.is_found("a.example"));
    world.pass(299);
    assert!(world.is_found("a.example"));
    assert_eq!(world.asked(), 1);
    world.pass(2);
    assert!(world.is_found("a.example"));
    assert_eq!(world.asked(), 2);
    // Absence, too.
    assert!(matches!(world.ask("none.example"), Reply::Nothing { exists: false, .. }));
    world.pass(200);
    world.ask("none.example");
    assert_eq!(world.asked(), 3);
    world.zone.add("none.example A 192.0.2.3");
    world.pass(101);
    assert!(world.is_found("none.example"));
    // No longer than configured, whatever the zone says.
    let age_max = Duration::from_secs(60);
    let world = World::new(ResolverOptions { age_max, ..ResolverOptions::default() });
    world.ask("a.example");
    world.pass(61);
    world.ask("a.example");
    assert_eq!(world.asked(), 2);
}

#[test]
fn old_answers_bridge_an_outage() {
    let stale = Duration::from_secs(3600);
    let world = World::new(ResolverOptions { stale, ..ResolverOptions::default() });
    assert!(world.is_found("a.example"));
    world.zone.set_down(Some(Failure::ServerFailed));
    world.pass(301);
    assert!(world.is_found("a.example"), "stale, but better than nothing");
    let asked = world.asked();
    assert!(world.is_found("a.example"));
    assert_eq!(world.asked(), asked, "the servers are not asked each time");
    world.pass(31);
    assert!(world.is_found("a.example"));
    assert_eq!(world.asked(), asked + 1, "but now and then");
    // What was never known stays unknown, and so does what is too old.
    assert_eq!(world.ask("b.example"), Reply::Failed(Failure::ServerFailed));
    world.pass(3600);
    assert_eq!(world.ask("a.example"), Reply::Failed(Failure::ServerFailed));
    world.zone.set_down(None);
    world.pass(6);
    assert!(world.is_found("a.example"));
}

/// Whoever can forge an answer could otherwise keep an old one in use.
#[test]
fn a_bogus_answer_is_not_bridged() {
    let world = World::new(ResolverOptions::default());
    assert!(world.is_found("b.example"));
    world.zone.set_down(Some(Failure::Bogus));
    world.pass(301);
    assert_eq!(world.ask("b.example"), Reply::Failed(Failure::Bogus));
}

#[test]
fn without_stale_answers_an_outage_shows_at_once() {
    let stale = Duration::ZERO;
    let world = World::new(ResolverOptions { stale, ..ResolverOptions::default() });
    assert!(world.is_found("a.example"));
    world.zone.set_down(Some(Failure::Refused));
    world.pass(301);
    assert_eq!(world.ask("a.example"), Reply::Failed(Failure::Refused));
    let asked = world.asked();
    assert_eq!(world.ask("a.example"), Reply::Failed(Failure::Refused));
    assert_eq!(world.asked(), asked, "a failure is the answer for some seconds");
    world.pass(6);
    world.ask("a.example");
    assert_eq!(world.asked(), asked + 1);
}

#[test]
fn a_query_that_hangs_ends() {
    let world = World::new(ResolverOptions::default());
    *world.slow.delay.lock().unwrap() = None;
    let before = Executor::moment(&world.simulation);
    assert_eq!(world.ask("a.example"), Reply::Failed(Failure::TimedOut));
    let waited = Executor::moment(&world.simulation).since(before);
    assert_eq!(waited, ResolverOptions::default().deadline);
    assert_eq!(world.resolver.waiting(), 0);
}

#[test]
fn waiting_queries_are_limited() {
    let world = World::new(ResolverOptions { queue: 3, ..ResolverOptions::default() });
    *world.slow.delay.lock().unwrap() = None;
    let failures = Rc::new(RefCell::new(Vec::new()));
    for number in 0..5 {
        let (resolver, failures) = (world.resolver.clone(), failures.clone());
        let task = async move {
            let name = Name::parse(&format!("n{number}.example")).unwrap();
            if let Reply::Failed(failure) = *resolver.ask(&name, Kind::A).await {
                failures.borrow_mut().push(failure);
            }
        };
        Executor::spawn(&world.simulation, Priority::Foreground, Box::pin(task));
    }
    world.pass(1);
    assert_eq!(*failures.borrow(), [Failure::Busy, Failure::Busy]);
    world.pass(60);
    assert_eq!(failures.borrow().len(), 5);
}

#[test]
fn the_cache_is_bounded() {
    let mut cache = Cache::new(100);
    let question = |number: u64| Question {
        name: Name::parse(&format!("n{number}.example")).unwrap(),
        kind: Kind::A,
    };
    let aged = |reply: Reply| Aged {
        reply: Rc::new(reply),
        fresh_until: Moment(10),
        stale_until: Moment(20),
    };
    let found = Reply::Found(crate::resolver::Found {
        records: crate::resolver::Records::Addresses(vec!["192.0.2.1".parse().unwrap()]),
        name: Name::parse("n.example").unwrap(),
        authentic: false,
        age: Duration::ZERO,
    });
    for number in 0..50 {
        cache.insert(question(number), aged(found.clone()));
    }
    for number in 1000..11_000 {
        let nothing = Reply::Nothing { exists: false, age: Duration::ZERO };
        cache.insert(question(number), aged(nothing));
    }
    assert!(cache.len() <= 200, "{}", cache.len());
    let kept = (0..50).filter(|it| cache.get(&question(*it), Moment(15)).is_some()).count();
    assert_eq!(kept, 50, "names that do not exist push out no others");
    assert!(cache.get(&question(0), Moment(20)).is_none());
}
