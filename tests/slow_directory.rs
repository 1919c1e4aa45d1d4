//! Sessions of SMTP, POP3 and IMAP with a directory that is queried on another thread: slow,
//! failing, hanging and changing its answers. Checks the replies, how long they take, and that no
//! removed account is served beyond the age of an answer.

mod transcript;
mod world;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;
use ringmail::{
    directory::{
        Backend, BackendJob, BackendOptions, BackendWorkers, Desk, Destination, Directory,
        DirectorySnapshot, GuardOptions, LogIn, PeerLimits, SharedDirectory, Unavailable,
    },
    runtime::{
        LocalFuture,
        connection::Connection,
        executor::{Executor, Priority},
        simulation::Simulation,
    },
    service::{
        Shard, imap, pop3,
        smtp::{self, ListenerKind},
    },
};
use world::{AtOnce, Client, Kit, SimulatedWorld, accounts_of};

const OPTIONS: BackendOptions = BackendOptions {
    timeout: Duration::from_secs(5),
    age: Duration::from_secs(100),
    age_unknown: Duration::from_secs(10),
    entries: 16,
    queue: 8,
};

/// The accounts, as set by the test; `None`: no answer.
struct Accounts(Mutex<Option<DirectorySnapshot>>);

impl Accounts {
    fn ask<T>(
        &self,
        answer: impl FnOnce(&DirectorySnapshot) -> Result<T, Unavailable>,
    ) -> Result<T, Unavailable> {
        answer(self.0.lock().expect("one thread").as_ref().ok_or(Unavailable)?)
    }
}

impl Backend for Accounts {
    fn resolve(&self, address: &str) -> Result<Destination, Unavailable> {
        self.ask(|snapshot| Backend::resolve(snapshot, address))
    }

    fn log_in(&self, name: &str) -> Result<LogIn, Unavailable> {
        self.ask(|snapshot| snapshot.log_in(name))
    }
}

/// The backend's thread in simulated time: a query waits for its turn, then takes `delay`.
struct Thread {
    simulation: Simulation,
    delay: Cell<Duration>,
    busy_until: RefCell<Duration>,
    queued: Cell<usize>,
    own: std::rc::Weak<Thread>,
}

impl BackendWorkers for Thread {
    fn try_run(&self, job: BackendJob) -> Option<LocalFuture<'static, ()>> {
        if self.queued.get() >= OPTIONS.queue {
            return None;
        }
        let own = self.own.upgrade()?;
        own.queued.set(own.queued.get() + 1);
        let now = Duration::from_micros(self.simulation.moment().0);
        let done = now.max(*self.busy_until.borrow()) + self.delay.get();
        *self.busy_until.borrow_mut() = done;
        let (sleep, wait) = (self.simulation.sleep(done - now), self.simulation.sleep(done - now));
        self.simulation.spawn(
            Priority::Foreground,
            Box::pin(async move {
                sleep.await;
                job();
                own.queued.set(own.queued.get() - 1);
            }),
        );
        let simulation = self.simulation.clone();
        Some(Box::pin(async move {
            wait.await;
            // The job is done at the same moment, before or after this.
            simulation.sleep(Duration::from_micros(1)).await;
        }))
    }
}

/// What a test changes while sessions run.
struct Stage {
    accounts: Arc<Accounts>,
    thread: Rc<Thread>,
    simulation: Simulation,
}

impl Stage {
    fn has(&self, names: &[&str]) {
        *self.accounts.0.lock().expect("one thread") = Some(accounts_of(names));
    }

    fn fails(&self) {
        *self.accounts.0.lock().expect("one thread") = None;
    }

    fn delay(&self, seconds: u64) {
        self.thread.delay.set(Duration::from_secs(seconds));
    }

    fn clock(&self) -> Duration {
        Duration::from_micros(self.simulation.moment().0)
    }
}

fn stage() -> (Stage, Kit) {
    let mut made = None;
    let kit = Kit::with_directory(|simulation| {
        let accounts = Arc::new(Accounts(Mutex::new(Some(accounts_of(&["alice", "bob"])))));
        let thread = Rc::new_cyclic(|own| Thread {
            simulation: simulation.clone(),
            delay: Cell::new(Duration::from_secs(1)),
            busy_until: RefCell::default(),
            queued: Cell::new(0),
            own: own.clone(),
        });
        let executor = Rc::new(simulation.clone());
        let desk = Desk::new(accounts.clone(), thread.clone(), executor, OPTIONS);
        let guard = GuardOptions {
            free_failures: 1000,
            network_failures: 1000,
            failure_delay: Duration::ZERO,
            ..GuardOptions::default()
        };
        let shared = SharedDirectory::guarded(accounts_of(&[]), PeerLimits::default(), guard);
        made = Some(Stage { accounts, thread, simulation: simulation.clone() });
        Directory::beside(shared, Rc::new(AtOnce), desk)
    });
    (made.expect("made"), kit)
}

type Shards = Rc<[Rc<Shard>]>;

fn submission(connection: Connection, shards: Shards, entry: usize) -> LocalFuture<'static, ()> {
    Box::pin(smtp::run(connection, shards[entry].clone(), ListenerKind::Submission))
}

fn exchange(connection: Connection, shards: Shards, entry: usize) -> LocalFuture<'static, ()> {
    Box::pin(smtp::run(connection, shards[entry].clone(), ListenerKind::Smtp))
}

fn pop3(connection: Connection, shards: Shards, entry: usize) -> LocalFuture<'static, ()> {
    Box::pin(async move {
        let mut outcome = pop3::run(connection, shards[entry].clone()).await;
        while let pop3::Outcome::HandOver(connection, handover) = outcome {
            let owner = usize::from(shards[entry].owner_of(handover.identity.account).0);
            outcome = pop3::resume(connection, shards[owner].clone(), handover).await;
        }
    })
}

fn imap(connection: Connection, shards: Shards, entry: usize) -> LocalFuture<'static, ()> {
    Box::pin(async move {
        let mut outcome = imap::run(connection, shards[entry].clone()).await;
        while let imap::Outcome::HandOver(connection, handover) = outcome {
            let owner = usize::from(shards[entry].owner_of(handover.identity.account).0);
            outcome = imap::resume(connection, shards[owner].clone(), handover).await;
        }
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Said {
    Yes,
    No,
    Temporary,
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Recipient,
    Auth,
    Pop3,
    Imap,
}

const PROTOCOLS: [Protocol; 4] =
    [Protocol::Recipient, Protocol::Auth, Protocol::Pop3, Protocol::Imap];

fn to_base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// One session that asks about `name`, with `password` if it logs in; returns the reply, and how
/// long it took.
fn ask(
    stage: &Stage,
    kit: &Kit,
    protocol: Protocol,
    name: &str,
    password: &str,
) -> (Said, Duration) {
    let serve = match protocol {
        Protocol::Recipient => exchange,
        Protocol::Auth => submission,
        Protocol::Pop3 => pop3,
        Protocol::Imap => imap,
    };
    let world = SimulatedWorld::new(kit, serve, 0, true);
    let mut client: Client = world.client();
    let mut dialogue = |steps: &[(String, &str)]| {
        let mut said = String::new();
        let mut took = Duration::ZERO;
        for (line, ends) in steps {
            let before = stage.clock();
            if !line.is_empty() {
                client.say(format!("{line}\r\n"));
            }
            said = client.read_to(ends);
            took = stage.clock() - before;
        }
        (said, took)
    };
    let step = |line: &str, ends: &'static str| (line.to_owned(), ends);
    let words: [(&str, Said); 3];
    let (said, took) = match protocol {
        Protocol::Recipient => {
            words =
                [("250 2.1.5", Said::Yes), ("550 5.1.1", Said::No), ("451 4.3.0", Said::Temporary)];
            dialogue(&[
                step("", "220"),
                step("EHLO x", "250 "),
                step("MAIL FROM:<>", "250"),
                step(&format!("RCPT TO:<{name}@demo.test>"), ""),
            ])
        }
        Protocol::Auth => {
            words =
                [("235 2.7.0", Said::Yes), ("535 5.7.8", Said::No), ("454 4.7.0", Said::Temporary)];
            let response = to_base64(&format!("\0{name}@demo.test\0{password}"));
            dialogue(&[
                step("", "220"),
                step("EHLO x", "250 "),
                step(&format!("AUTH PLAIN {response}"), ""),
            ])
        }
        Protocol::Pop3 => {
            words = [
                ("+OK", Said::Yes),
                ("-ERR [AUTH]", Said::No),
                ("-ERR [SYS/TEMP]", Said::Temporary),
            ];
            dialogue(&[
                step("", "+OK"),
                step(&format!("USER {name}@demo.test"), "+OK"),
                step(&format!("PASS {password}"), ""),
            ])
        }
        Protocol::Imap => {
            words = [
                ("a OK", Said::Yes),
                ("a NO [AUTHENTICATIONFAILED]", Said::No),
                ("a NO [UNAVAILABLE]", Said::Temporary),
            ];
            dialogue(&[
                step("", "* OK"),
                step(&format!("a LOGIN {name}@demo.test {password}"), "a "),
            ])
        }
    };
    let found = words.iter().find(|(start, _)| said.starts_with(start));
    (found.unwrap_or_else(|| panic!("{protocol:?}: {said}")).1, took)
}

#[test]
fn a_directory_that_does_not_answer_is_a_temporary_refusal() {
    for protocol in PROTOCOLS {
        let (stage, kit) = stage();
        let check = |name: &str, password: &str, said, seconds| {
            let (found, took) = ask(&stage, &kit, protocol, name, password);
            assert_eq!((found, took.as_secs()), (said, seconds), "{protocol:?} {name} {password}");
        };
        check("alice", "demo", Said::Yes, 1);
        check("alice", "demo", Said::Yes, 0);
        check("nobody", "demo", Said::No, 1);
        stage.fails();
        check("alice", "demo", Said::Yes, 0);
        check("bob", "demo", Said::Temporary, 1);
        // Beyond the deadline, then with a full queue.
        stage.delay(3600);
        check("bob", "demo", Said::Temporary, 5);
        for number in 0..20 {
            let (said, _) = ask(&stage, &kit, protocol, &format!("user{number}"), "demo");
            assert_eq!(said, Said::Temporary);
            assert!(stage.thread.queued.get() <= OPTIONS.queue);
        }
        check("bob", "demo", Said::Temporary, 0);
    }
}

#[test]
fn who_was_removed_is_served_no_longer_than_an_answer_is_fresh() {
    for protocol in PROTOCOLS {
        let (stage, kit) = stage();
        let said = |name| ask(&stage, &kit, protocol, name, "demo").0;
        assert_eq!(said("bob"), Said::Yes);
        stage.has(&["alice"]);
        assert_eq!(said("bob"), Said::Yes, "{protocol:?}");
        kit.simulation.run_until(kit.simulation.sleep(OPTIONS.age));
        assert_eq!(said("bob"), Said::No, "{protocol:?}");
        stage.has(&["alice", "bob"]);
        kit.simulation.run_until(kit.simulation.sleep(OPTIONS.age_unknown));
        assert_eq!(said("bob"), Said::Yes, "{protocol:?}");
    }
}

/// Timing does not reveal whether an account exists.
#[test]
fn a_guess_takes_as_long_whoever_is_there() {
    for protocol in [Protocol::Auth, Protocol::Pop3, Protocol::Imap] {
        let (stage, kit) = stage();
        assert_eq!(ask(&stage, &kit, protocol, "alice", "demo").0, Said::Yes);
        for name in ["alice", "bob", "nobody", "alice", "nobody"] {
            let (said, took) = ask(&stage, &kit, protocol, name, "guess");
            assert_eq!((said, took.as_secs()), (Said::No, 1), "{protocol:?} {name}");
        }
    }
}

/// MAIL queries too: whether the account may send as that address.
#[test]
fn a_sender_is_asked_for() {
    let (stage, kit) = stage();
    let world = SimulatedWorld::new(&kit, submission, 0, true);
    let mut client = world.client();
    client.read_to("220");
    client.say("EHLO x\r\n");
    client.read_to("250 ");
    client.say(format!("AUTH PLAIN {}\r\n", to_base64("\0alice\0demo")));
    client.read_to("235");
    stage.fails();
    client.say("MAIL FROM:<alice@demo.test>\r\n");
    client.read_to("451 4.3.0");
    stage.has(&["alice", "bob"]);
    client.say("MAIL FROM:<bob@demo.test>\r\n");
    client.read_to("553 5.7.1");
    client.say("MAIL FROM:<alice+x@demo.test>\r\nRCPT TO:<postmaster>\r\n");
    client.read_to("250 2.1.5");
}

#[derive(Clone, Debug)]
enum Move {
    Pass(u64),
    Delay(u64),
    Fail,
    Has(bool),
    Ask(usize, bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        prop_oneof![Just(1u64), Just(20), Just(120)].prop_map(Move::Pass),
        prop_oneof![Just(0u64), Just(1), Just(6)].prop_map(Move::Delay),
        Just(Move::Fail),
        any::<bool>().prop_map(Move::Has),
        (0..PROTOCOLS.len(), any::<bool>()).prop_map(|(it, right)| Move::Ask(it, right)),
        (0..PROTOCOLS.len(), any::<bool>()).prop_map(|(it, right)| Move::Ask(it, right)),
    ];
    proptest::collection::vec(one, 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(200)
    })]

    /// Whatever the directory does meanwhile: every reply comes in time, and is yes or no only if
    /// that was true within the age of an answer.
    #[test]
    fn sessions_hear_what_was_true_not_long_ago(moves in moves()) {
        let (stage, kit) = stage();
        let mut history = vec![(Duration::ZERO, true)];
        for step in moves {
            let before = stage.clock();
            match step {
                Move::Pass(seconds) => {
                    let sleep = kit.simulation.sleep(Duration::from_secs(seconds));
                    kit.simulation.run_until(sleep);
                }
                Move::Delay(seconds) => stage.delay(seconds),
                Move::Fail => stage.fails(),
                Move::Has(there) => {
                    stage.has(if there { &["alice", "bob"] } else { &["alice"] });
                    history.push((before, there));
                }
                Move::Ask(protocol, right) => {
                    let protocol = PROTOCOLS[protocol];
                    let password = if right { "demo" } else { "guess" };
                    let (said, took) = ask(&stage, &kit, protocol, "bob", password);
                    prop_assert!(took <= OPTIONS.timeout, "{:?}", took);
                    let from = before.saturating_sub(OPTIONS.age);
                    let was = |there| {
                        history.iter().enumerate().any(|(index, (_, is))| {
                            let until = history.get(index + 1).map_or(Duration::MAX, |it| it.0);
                            *is == there && until >= from
                        })
                    };
                    let guess = !right && !matches!(protocol, Protocol::Recipient);
                    match said {
                        Said::Yes => prop_assert!(!guess && was(true)),
                        Said::No => prop_assert!(guess || was(false)),
                        Said::Temporary => {}
                    }
                }
            }
            prop_assert!(stage.thread.queued.get() <= OPTIONS.queue);
        }
    }
}
