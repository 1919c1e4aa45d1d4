//! The queue against a scripted outside world, on a simulated device and clock.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use smallvec::{SmallVec, smallvec};

use super::*;
use crate::{
    model::{MailClass, PartitionId, ShardId, Timestamp},
    protocol::smtp::Notify,
    runtime::{
        device::memory::{Faults, MemoryDevice},
        executor::Executor,
        simulation::Simulation,
    },
    store::StoreOptions,
};

/// What hosts do, by the local part of a recipient: `ok…`, `later…` (450), `never…` (550), `lost…`
/// (the connection ends). Domains: `down…` refuse connections, `gone…` do not exist, `dark…` cannot
/// be looked up now; `one…` and `two…` share a host.
#[derive(Default)]
struct Outside {
    simulation: RefCell<Option<Simulation>>,
    /// Time of each delivery, by recipient.
    delivered: RefCell<BTreeMap<String, Vec<Timestamp>>>,
    attempts: RefCell<Vec<String>>,
    /// Recipients of each transaction.
    transactions: RefCell<Vec<Vec<String>>>,
    connections: Cell<usize>,
    /// Open now, and at most.
    open: Cell<usize>,
    open_most: Cell<usize>,
    up: RefCell<BTreeSet<String>>,
    strained: Cell<bool>,
    reports: Cell<u32>,
    /// Of all failures reported.
    reasons: RefCell<Vec<String>>,
    /// No report can be written.
    full: Cell<bool>,
}

#[derive(Clone)]
struct Fake(Rc<Outside>);

#[derive(Clone, Debug)]
struct FakeWay(String);

impl Way for FakeWay {
    fn site(&self) -> &str {
        &self.0
    }

    fn hosts(&self) -> SmallVec<[&str; 4]> {
        smallvec![&*self.0]
    }
}

struct FakeSession {
    outside: Rc<Outside>,
    usable: bool,
    sent: u32,
}

fn problem(status: &str, reason: &str) -> Problem {
    let (status, reason) = (status.to_owned(), reason.to_owned());
    Problem { status, reason, ..Problem::default() }
}

impl Carrier for Fake {
    type Way = FakeWay;

    fn find<'a>(&'a self, destination: &'a str) -> LocalFuture<'a, Result<FakeWay, Unreachable>> {
        let up = self.0.up.borrow().contains(destination);
        Box::pin(async move {
            match destination {
                it if it.starts_with("gone") => {
                    Err(Unreachable::Ever(problem("5.1.2", "no such domain")))
                }
                it if it.starts_with("dark") && !up => {
                    Err(Unreachable::Now(problem("4.4.3", "no answer")))
                }
                it if it.starts_with("one") || it.starts_with("two") => {
                    Ok(FakeWay("shared".to_owned()))
                }
                it => Ok(FakeWay(format!("mx.{it}"))),
            }
        })
    }

    fn open<'a>(
        &'a self,
        way: &'a FakeWay,
    ) -> LocalFuture<'a, Result<Box<dyn Session>, Unreachable>> {
        Box::pin(async move {
            self.0.connections.set(self.0.connections.get() + 1);
            if way.0.starts_with("mx.hang") && !self.0.up.borrow().contains(&way.0) {
                let simulation = self.0.simulation.borrow().clone().unwrap();
                simulation.sleep(Duration::from_secs(1000)).await;
                return Err(Unreachable::Now(problem("4.4.1", "no answer")));
            }
            if way.0.starts_with("mx.down") && !self.0.up.borrow().contains(&way.0) {
                return Err(Unreachable::Now(problem("4.4.1", "connection refused")));
            }
            self.0.open.set(self.0.open.get() + 1);
            self.0.open_most.set(self.0.open_most.get().max(self.0.open.get()));
            let session = FakeSession { outside: self.0.clone(), usable: true, sent: 0 };
            Ok(Box::new(session) as Box<dyn Session>)
        })
    }

    fn report<'a>(
        &'a self,
        job: &'a Job<'a>,
        ends: &'a Ends,
    ) -> LocalFuture<'a, Result<Option<Report>, StoreError>> {
        Box::pin(async move {
            if self.0.full.get() {
                return Err(StoreError::Full);
            }
            self.0.reports.set(self.0.reports.get() + 1);
            for (_, _, end) in ends {
                if let End::Failed(problem) = end {
                    self.0.reasons.borrow_mut().push(problem.reason.clone());
                }
            }
            let mut writer = job.partition.stage();
            let text: Vec<String> = ends
                .iter()
                .map(|(_, recipient, end)| match end {
                    End::Failed(problem) => {
                        format!("{} failed {}", recipient.address, problem.status)
                    }
                    End::Delayed(problem) => {
                        format!("{} late {}", recipient.address, problem.status)
                    }
                    End::Delivered { .. } => format!("{} delivered", recipient.address),
                })
                .collect();
            writer.write(text.join("\r\n").as_bytes()).await?;
            let staged = writer.finish(Vec::new()).await?;
            let now = self.0.simulation.borrow().as_ref().map(|it| it.now()).unwrap_or_default();
            let mut envelope =
                Envelope { arrived: now, origin: Origin::Report, ..Envelope::default() };
            let sender = Recipient { address: job.envelope.sender.clone(), ..Recipient::default() };
            envelope.recipients.insert(1, sender);
            Ok(Some((staged, envelope)))
        })
    }

    fn is_strained(&self) -> bool {
        self.0.strained.get()
    }

    fn tell(&self, _: &QueueEvent<'_>) {}
}

impl Session for FakeSession {
    fn send<'a>(&'a mut self, job: &'a Job<'a>) -> LocalFuture<'a, Vec<(u32, Outcome)>> {
        Box::pin(async move {
            let simulation = self.outside.simulation.borrow().clone().unwrap();
            simulation.sleep(Duration::from_millis(5)).await;
            let addresses = job.recipients.iter().map(|(_, it)| it.address.clone()).collect();
            self.outside.transactions.borrow_mut().push(addresses);
            let mut outcomes = Vec::new();
            for (number, recipient) in job.recipients {
                let address = &recipient.address;
                self.outside.attempts.borrow_mut().push(address.clone());
                let outcome = match address.as_str() {
                    it if it.starts_with("later") && !self.outside.up.borrow().contains(it) => {
                        let at = simulation.now();
                        Outcome::Deferred(Problem { at, ..problem("4.2.0", "450 later") })
                    }
                    it if it.starts_with("stale") && self.sent > 0 => {
                        self.usable = false;
                        Outcome::Again
                    }
                    it if it.starts_with("never") => {
                        Outcome::Failed(problem("5.1.1", "550 no such user"))
                    }
                    it if it.starts_with("hang") && !self.outside.up.borrow().contains(it) => {
                        std::future::pending().await
                    }
                    it if it.starts_with("lost") && !self.outside.up.borrow().contains(it) => {
                        self.usable = false;
                        Outcome::Deferred(problem("4.4.2", "lost"))
                    }
                    _ => {
                        let mut delivered = self.outside.delivered.borrow_mut();
                        delivered.entry(address.clone()).or_default().push(simulation.now());
                        Outcome::Delivered {
                            host: "mx".to_owned(),
                            reply: "250 ok".to_owned(),
                            tls: None,
                            reports: false,
                        }
                    }
                };
                outcomes.push((*number, outcome));
            }
            self.sent += 1;
            outcomes
        })
    }

    fn is_usable(&self) -> bool {
        self.usable
    }

    fn end(self: Box<Self>) -> LocalFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        self.outside.open.set(self.outside.open.get() - 1);
    }
}

struct World {
    device: MemoryDevice,
    outside: Rc<Outside>,
    options: QueueOptions,
    account_budget: usize,
}

/// A running queue.
struct Running {
    simulation: Simulation,
    partition: Partition,
    queue: Queue<Fake>,
}

impl World {
    fn new() -> World {
        let seconds = Duration::from_secs;
        let options = QueueOptions {
            retry: vec![seconds(10), seconds(100), seconds(1000)],
            delay_warning: seconds(300),
            expire: seconds(5000),
            ..QueueOptions::default()
        };
        let account_budget = StoreOptions::default().account_budget;
        World { device: MemoryDevice::new(), outside: Rc::default(), options, account_budget }
    }

    fn start(&self, seed: u64) -> Running {
        self.join(&Simulation::new(seed), SiteSlots::new().seat(ShardId(0)))
    }

    /// A shard of several.
    fn join(&self, simulation: &Simulation, seat: SlotSeat) -> Running {
        let simulation = simulation.clone();
        *self.outside.simulation.borrow_mut() = Some(simulation.clone());
        let executor: Rc<dyn Executor> = Rc::new(simulation.clone());
        self.device.set_clock(executor.clone());
        let options = StoreOptions {
            partition: PartitionId(0),
            account_budget: self.account_budget,
            ..StoreOptions::default()
        };
        let open = Partition::open(Rc::new(self.device.clone()), executor.clone(), options);
        let (partition, _) = simulation.run_until(open).unwrap();
        let carrier = Fake(self.outside.clone());
        let partitions = vec![Some(partition.clone())];
        let queue = Queue::new(executor, carrier, self.options.clone(), partitions, seat);
        queue.start();
        Running { simulation, partition, queue }
    }

    fn got(&self, address: &str) -> usize {
        self.outside.delivered.borrow().get(address).map_or(0, Vec::len)
    }

    fn tried(&self, address: &str) -> usize {
        self.outside.attempts.borrow().iter().filter(|it| *it == address).count()
    }
}

impl Running {
    fn envelope(&self, sender: &str, recipients: &[&str]) -> Envelope {
        let recipient =
            |address: &&str| Recipient { address: (*address).to_owned(), ..Recipient::default() };
        Envelope {
            arrived: self.simulation.now(),
            sender: sender.to_owned(),
            recipients: (1..).zip(recipients.iter().map(recipient)).collect(),
            ..Envelope::default()
        }
    }

    fn submit(&self, sender: &str, recipients: &[&str]) -> QueueId {
        self.submit_with(self.envelope(sender, recipients))
    }

    fn submit_with(&self, envelope: Envelope) -> QueueId {
        self.simulation.clone().run_until(async {
            let id = self.store(&envelope).await;
            self.queue.take_in(&self.partition, id, Rc::new(envelope)).await;
            id
        })
    }

    /// Puts it durably into the queue, and tells nobody.
    async fn store(&self, envelope: &Envelope) -> QueueId {
        let mailbox = self.queue.mailbox(&self.partition).await.unwrap();
        let mut writer = self.partition.stage();
        writer.write(b"Subject: x\r\n\r\nbody\r\n").await.unwrap();
        let staged = writer.finish(Vec::new()).await.unwrap();
        let target = settle::target(envelope, envelope.arrived, &mailbox);
        let placed = self.partition.deliver(staged, vec![target], None).await.unwrap();
        let place = placed[0];
        let partition = PartitionId(0);
        QueueId { partition, mailbox: place.mailbox, uid: place.uid }
    }

    fn wait(&self, seconds: u64) {
        self.simulation.run_until(self.simulation.sleep(Duration::from_secs(seconds)));
    }

    fn listed(&self, filter: &Filter) -> Vec<Listed> {
        self.simulation.clone().run_until(self.queue.list(filter, None, 1000))
    }

    /// As after power loss; what was acknowledged is on the device.
    fn crash(self) {
        self.simulation.kill_tasks();
    }
}

#[test]
fn each_recipient_gets_it_once_and_the_message_goes() {
    let world = World::new();
    let running = world.start(1);
    running.submit("s@x.test", &["ok1@a.test", "ok2@a.test", "ok3@b.test"]);
    running.wait(3);
    assert!(running.queue.is_empty());
    for address in ["ok1@a.test", "ok2@a.test", "ok3@b.test"] {
        assert_eq!(world.got(address), 1, "{address}");
    }
    assert_eq!(world.outside.transactions.borrow().len(), 2, "one for each site");
    assert_eq!(world.outside.reports.get(), 0);
    running.crash();
    let running = world.start(2);
    running.wait(3);
    assert!(running.queue.is_read() && running.queue.is_empty());
    assert_eq!(world.got("ok1@a.test"), 1);
}

#[test]
fn sessions_that_need_the_mailbox_at_once_all_find_it() {
    for seed in 0..20 {
        let world = World::new();
        let running = world.start(seed);
        let found: Rc<RefCell<Vec<Result<Rc<str>, String>>>> = Rc::default();
        for _ in 0..4 {
            let (queue, partition) = (running.queue.clone(), running.partition.clone());
            let (found, clock) = (found.clone(), running.simulation.clone());
            let find = async move {
                clock.yield_now().await;
                let mailbox = queue.mailbox(&partition).await.map_err(|error| error.to_string());
                found.borrow_mut().push(mailbox);
            };
            running
                .simulation
                .spawn(crate::runtime::executor::Priority::Foreground, Box::pin(find));
        }
        running.wait(1);
        let found = found.borrow();
        assert!(found.len() == 4 && found.iter().all(|it| it.is_ok() && *it == found[0]));
    }
}

#[test]
fn results_wait_for_a_slow_disk_without_spinning() {
    let world = World::new();
    let running = world.start(13);
    running.submit("s@x.test", &["ok@a.test", "ok@b.test", "ok@c.test", "ok@d.test"]);
    let (appends, syncs) = world.device.operations();
    let slow = (0..20).map(|at| (appends + syncs + at, Duration::from_secs(3))).collect();
    world.device.inject(Faults { slow, ..Faults::default() });
    running.simulation.allow_polls(20_000);
    running.wait(200);
    assert!(running.queue.is_empty());
    assert!(["a", "b", "c", "d"].iter().all(|it| world.got(&format!("ok@{it}.test")) == 1));
}

#[test]
fn destinations_with_the_same_hosts_share_transactions_and_connections() {
    let world = World::new();
    let running = world.start(1);
    // Both are known before a message comes for both.
    running.submit("s@x.test", &["ok@one.test"]);
    running.submit("s@x.test", &["ok@two.test"]);
    running.wait(1);
    let connections = world.outside.connections.get();
    running.submit("s@x.test", &["ok1@one.test", "ok2@two.test"]);
    running.wait(1);
    assert_eq!(world.outside.connections.get(), connections, "an idle connection is used");
    let both = ["ok1@one.test".to_owned(), "ok2@two.test".to_owned()];
    let transactions = world.outside.transactions.borrow();
    // They may also become ready one after the other.
    let last: Vec<String> = transactions.iter().skip(2).flatten().cloned().collect();
    assert_eq!(last.iter().collect::<BTreeSet<_>>(), both.iter().collect());
}

#[test]
fn refusals_are_returned_once_and_temporary_ones_tried_by_the_schedule() {
    let world = World::new();
    let running = world.start(3);
    running.submit("s@x.test", &["never@a.test", "later@a.test", "ok@a.test"]);
    running.wait(5);
    assert_eq!(world.got("s@x.test"), 1, "the report");
    assert_eq!((world.got("ok@a.test"), world.tried("later@a.test")), (1, 1));
    let left = running.listed(&Filter::default());
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].parts[0].status, "4.2.0");
    running.wait(20);
    assert_eq!(world.tried("later@a.test"), 2, "after 10 s");
    running.wait(400);
    assert_eq!(world.got("s@x.test"), 2, "told that it is late");
    world.outside.up.borrow_mut().insert("later@a.test".to_owned());
    running.wait(1200);
    assert_eq!(world.got("later@a.test"), 1);
    assert!(running.queue.is_empty());
    assert_eq!((world.tried("never@a.test"), world.got("s@x.test")), (1, 2));
    assert_eq!(world.got("ok@a.test"), 1);
}

#[test]
fn what_cannot_be_delivered_expires_and_reports_are_never_returned() {
    let world = World::new();
    let running = world.start(4);
    running.submit("s@x.test", &["later@a.test"]);
    running.submit("", &["later2@a.test", "never@b.test"]);
    running.submit("never@s.test", &["ok@gone.test"]);
    running.wait(6000);
    assert!(running.queue.is_empty(), "{:?}", running.listed(&Filter::default()));
    assert_eq!(world.got("s@x.test"), 2, "a warning and a report");
    assert_eq!(world.tried("never@s.test"), 1, "a report that cannot be delivered ends there");
    assert_eq!(world.outside.reports.get(), 3);
    assert!(world.tried("later@a.test") >= 4);
}

/// What expires has a last attempt: after a long outage of our own the other side may be up, and
/// the report says why it could not be delivered.
#[test]
fn the_last_attempt_is_at_the_end_of_a_message_s_time() {
    let mut world = World::new();
    world.options.retry = vec![Duration::from_secs(100_000)];
    world.options.delay_warning = Duration::ZERO;
    let running = world.start(16);
    running.submit("s@x.test", &["later1@a.test", "later2@b.test"]);
    running.wait(10);
    world.outside.up.borrow_mut().insert("later1@a.test".to_owned());
    running.wait(world.options.expire.as_secs());
    assert!(running.queue.is_empty());
    assert_eq!((world.got("later1@a.test"), world.tried("later2@b.test")), (1, 2));
    assert_eq!(world.got("s@x.test"), 1);
    let reasons = world.outside.reasons.borrow();
    assert!(reasons[0].contains("450 later"), "{reasons:?}");
}

/// A restart does not change it.
#[test]
fn mail_can_have_a_time_of_its_own() {
    let world = World::new();
    let running = world.start(17);
    let mut envelope = running.envelope("s@x.test", &["later@a.test"]);
    envelope.recipients.get_mut(&1).unwrap().notify = Some(Notify::Never);
    envelope.expires = Some(envelope.arrived.after(Duration::from_secs(600)));
    running.submit_with(envelope);
    running.wait(5);
    running.crash();
    let running = world.start(18);
    running.wait(500);
    assert_eq!(running.queue.len(), 1);
    running.wait(110);
    assert!(running.queue.is_empty(), "{:?}", running.listed(&Filter::default()));
    assert_eq!(world.outside.reports.get(), 0);
}

/// Its client was told 250: no trouble with reading may leave it until the next start.
#[test]
fn a_message_that_cannot_be_read_at_once_is_taken_up_later() {
    let mut world = World::new();
    world.account_budget = 1;
    let running = world.start(17);
    running.simulation.clone().run_until(async {
        let envelope = running.envelope("s@x.test", &["ok@a.test"]);
        let id = running.store(&envelope).await;
        running.partition.checkpoint().await.unwrap();
        world.device.inject(Faults { unreadable: true, ..Faults::default() });
        assert!(settle::body_of(&running.partition, id.mailbox, id.uid).await.is_err());
        running.queue.take_in(&running.partition, id, Rc::new(envelope)).await;
        assert!(running.queue.is_empty());
        running.simulation.sleep(Duration::from_secs(5)).await;
        world.device.inject(Faults::default());
    });
    running.wait(5);
    assert_eq!(world.got("ok@a.test"), 1);
}

#[test]
fn recipients_for_whom_any_tls_will_do_are_a_destination_of_their_own() {
    let world = World::new();
    world.outside.up.borrow_mut().insert(format!("dark.test{ANY_TLS}"));
    let running = world.start(29);
    running.submit("s@x.test", &["strict@dark.test"]);
    let mut envelope = running.envelope("s@x.test", &["any@dark.test"]);
    envelope.recipients.get_mut(&1).unwrap().any_tls = true;
    running.submit_with(envelope);
    running.wait(5);
    assert_eq!((world.got("any@dark.test"), world.got("strict@dark.test")), (1, 0));
}

#[test]
fn a_site_that_is_down_is_not_asked_for_each_message() {
    let world = World::new();
    let running = world.start(5);
    for number in 0..50 {
        running.submit("s@x.test", &[&format!("ok{number}@down.test")]);
    }
    running.wait(5);
    let first = world.outside.connections.get();
    assert!(first <= 55, "{first}");
    let listed = running.listed(&Filter::default());
    assert_eq!(listed.len(), 50);
    assert_eq!(listed[0].parts[0].status, "4.4.1");
    world.outside.up.borrow_mut().insert("mx.down.test".to_owned());
    running.wait(200);
    assert!(running.queue.is_empty());
    assert!((0..50).all(|number| world.got(&format!("ok{number}@down.test")) == 1));
}

/// The pause of a site must not make a message miss its own schedule by much, or its expiry.
#[test]
fn a_site_that_was_down_for_long_is_tried_by_the_schedule_of_its_messages() {
    let mut world = World::new();
    world.options.retry = vec![Duration::from_secs(1), Duration::from_secs(2)];
    let running = world.start(14);
    running.submit("s@x.test", &["ok@down.test"]);
    running.wait(40);
    world.outside.up.borrow_mut().insert("mx.down.test".to_owned());
    running.wait(5);
    assert_eq!(world.got("ok@down.test"), 1);
}

/// More messages are tried again than the site can take in that time.
#[test]
fn old_messages_that_are_refused_again_and_again_do_not_keep_new_ones_waiting() {
    let mut world = World::new();
    world.options.retry = vec![Duration::from_secs(1)];
    world.options.site.connections = 1;
    let running = world.start(15);
    for number in 0..400 {
        running.submit("s@x.test", &[&format!("later{number}@a.test")]);
    }
    running.wait(20);
    running.submit("s@x.test", &["ok@a.test"]);
    running.wait(10);
    assert_eq!(world.got("ok@a.test"), 1);
}

#[test]
fn lookups_that_fail_now_are_repeated() {
    let world = World::new();
    let running = world.start(6);
    running.submit("s@x.test", &["ok@dark.test"]);
    running.wait(5);
    assert_eq!(running.listed(&Filter::default())[0].parts[0].status, "4.4.3");
    world.outside.up.borrow_mut().insert("dark.test".to_owned());
    running.wait(15);
    assert_eq!(world.got("ok@dark.test"), 1);
}

#[test]
fn lost_connections_leave_the_rest_for_later() {
    let world = World::new();
    let running = world.start(7);
    running.submit("s@x.test", &["lost@a.test"]);
    running.submit("s@x.test", &["ok@a.test"]);
    running.wait(5);
    assert_eq!(world.got("ok@a.test"), 1);
    world.outside.up.borrow_mut().insert("lost@a.test".to_owned());
    running.wait(30);
    assert!(running.queue.is_empty());
    assert_eq!(world.got("lost@a.test"), 1);
}

/// A connection that the other side has ended meanwhile is no attempt.
#[test]
fn a_message_that_was_not_begun_is_tried_on_another_connection_at_once() {
    let world = World::new();
    let running = world.start(13);
    running.submit("s@x.test", &["ok@a.test"]);
    running.wait(1);
    running.submit("s@x.test", &["stale@a.test", "ok2@b.test"]);
    running.wait(1);
    assert_eq!((world.got("stale@a.test"), world.got("ok2@b.test")), (1, 1));
    assert!(running.queue.is_empty());
}

/// Later transactions with the same message may take long.
#[test]
fn who_has_a_message_does_not_get_it_again_after_a_crash_in_its_next_transaction() {
    let mut world = World::new();
    world.options.site.recipients = 2;
    let running = world.start(11);
    let to = ["ok@a.test", "never@a.test", "ok2@a.test", "later@a.test", "hang@a.test"];
    running.submit("s@x.test", &to);
    running.wait(2);
    assert_eq!((world.got("ok@a.test"), world.got("ok2@a.test")), (1, 1));
    running.crash();
    world.outside.up.borrow_mut().extend(["hang@a.test".to_owned(), "later@a.test".to_owned()]);
    let running = world.start(12);
    running.wait(200);
    for address in to.iter().filter(|it| !it.starts_with("never")) {
        assert_eq!(world.got(address), 1, "{address}");
    }
    assert_eq!(world.got("s@x.test"), 1, "one report about the refused one");
    assert!(running.queue.is_empty());
}

/// They share a destination, and so the time of the next attempt.
#[test]
fn who_was_put_off_is_not_tried_at_once_with_whom_no_command_reached() {
    let world = World::new();
    let running = world.start(7);
    running.submit("s@x.test", &["ok@a.test"]);
    running.wait(1);
    running.submit("s@x.test", &["stale@a.test", "later@a.test"]);
    running.wait(5);
    assert_eq!((world.got("stale@a.test"), world.tried("later@a.test")), (0, 1));
    running.wait(15);
    assert_eq!(world.got("stale@a.test"), 1);
}

#[test]
fn a_restart_finds_everything_and_keeps_the_schedule() {
    let world = World::new();
    let running = world.start(8);
    running.submit("s@x.test", &["later@a.test", "ok@b.test"]);
    let mut held = running.envelope("s@x.test", &["ok@held.test"]);
    held.held = true;
    let held = running.submit_with(held);
    let mut future = running.envelope("s@x.test", &["ok@future.test"]);
    future.hold_until = Some(running.simulation.now().after(Duration::from_secs(60)));
    running.submit_with(future);
    running.wait(8);
    running.simulation.clone().run_until(running.partition.checkpoint()).unwrap();
    assert_eq!((world.got("ok@b.test"), world.tried("later@a.test")), (1, 1));
    running.crash();
    world.outside.up.borrow_mut().insert("later@a.test".to_owned());
    // The clock begins anew.
    let running = world.start(9);
    running.wait(1);
    assert!(running.queue.is_read());
    assert_eq!(running.queue.len(), 3);
    running.wait(30);
    assert_eq!((world.got("later@a.test"), world.got("ok@b.test")), (1, 1));
    assert_eq!((world.got("ok@future.test"), world.got("ok@held.test")), (0, 0));
    running.wait(60);
    assert_eq!(world.got("ok@future.test"), 1);
    let released = running.simulation.clone().run_until(running.queue.set_held(held, false));
    assert!(released.unwrap());
    running.wait(2);
    assert_eq!(world.got("ok@held.test"), 1);
    assert!(running.queue.is_empty());
}

/// RFC 4865: a message may be held for as long as others may wait.
#[test]
fn a_message_that_was_held_does_not_expire_meanwhile() {
    let world = World::new();
    let running = world.start(15);
    let mut envelope = running.envelope("s@x.test", &["later@a.test"]);
    let hold = world.options.expire;
    envelope.hold_until = Some(running.simulation.now().after(hold));
    running.submit_with(envelope);
    running.wait(hold.as_secs() + 5);
    assert_eq!((world.tried("later@a.test"), world.got("s@x.test")), (1, 0));
    running.wait(20);
    assert!(world.tried("later@a.test") >= 2, "by its schedule");
    running.wait(hold.as_secs());
    assert!(running.queue.is_empty());
    assert_eq!(world.got("s@x.test"), 2, "a warning and a report");
}

#[test]
fn notifications_are_sent_as_asked_for() {
    let world = World::new();
    let running = world.start(10);
    let on = |success, failure| Some(Notify::On { success, failure, delay: false });
    let mut envelope = running.envelope("s@x.test", &["ok1@a.test", "ok2@a.test"]);
    envelope.recipients.get_mut(&1).unwrap().notify = on(true, false);
    running.submit_with(envelope);
    running.wait(2);
    assert_eq!(world.got("s@x.test"), 1);
    let mut envelope = running.envelope("t@x.test", &["never1@a.test", "never2@a.test"]);
    envelope.recipients.get_mut(&1).unwrap().notify = Some(Notify::Never);
    envelope.recipients.get_mut(&2).unwrap().notify = on(true, false);
    running.submit_with(envelope);
    running.wait(2);
    assert_eq!(world.got("t@x.test"), 0);
    assert!(running.queue.is_empty());
}

#[test]
fn operators_find_try_return_and_remove() {
    let world = World::new();
    let running = world.start(11);
    let first = running.submit("alice@x.test", &["later1@a.test"]);
    let second = running.submit("bob@x.test", &["later2@b.test"]);
    let third = running.submit("", &["ok@down.test"]);
    running.wait(2);
    let ids = |filter: Filter| -> Vec<QueueId> {
        running.listed(&filter).into_iter().map(|it| it.id).collect()
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(ids(Filter { sender: text("ALICE"), ..Filter::default() }), [first]);
    assert_eq!(ids(Filter { sender: text("<>"), ..Filter::default() }), [third]);
    assert_eq!(ids(Filter { recipient: text("later2@"), ..Filter::default() }), [second]);
    assert_eq!(ids(Filter { domain: text("B.test"), ..Filter::default() }), [second]);
    for (domain, count) in [(".test", 3), (".B.test", 1), (".est", 0), (".", 0), ("test", 0)] {
        let found = ids(Filter { domain: text(domain), ..Filter::default() });
        assert_eq!(found.len(), count, "{domain}");
    }
    assert_eq!(ids(Filter { site: text("mx.a.test"), ..Filter::default() }), [first]);
    assert_eq!(ids(Filter { error: text("4.4"), ..Filter::default() }), [third]);
    let few = running.simulation.clone().run_until(running.queue.list(&Filter::default(), None, 9));
    let reasons = |all: &[Listed]| -> BTreeMap<QueueId, bool> {
        let problem = |it: &Listed| it.parts.iter().all(|part| part.problem.is_some());
        all.iter().map(|it| (it.id, problem(it))).collect()
    };
    assert_eq!(reasons(&few), [first, second, third].map(|id| (id, true)).into(), "with replies");
    let found =
        running.simulation.clone().run_until(running.queue.find(&Filter::default(), None, 9));
    assert_eq!(found.listed, few);
    let many = running.listed(&Filter::default());
    let expected = [(first, false), (second, false), (third, true)];
    assert_eq!(reasons(&many), expected.into(), "a long list");
    let minute = Some(Duration::from_secs(60));
    assert_eq!(ids(Filter { older: minute, ..Filter::default() }), []);
    assert_eq!(ids(Filter { younger: minute, ..Filter::default() }).len(), 3);
    assert_eq!(second.to_string().parse(), Ok(second));

    let tried = world.tried("later1@a.test");
    let flush =
        |id| running.simulation.clone().run_until(running.queue.act(id, &Action::Flush)).unwrap();
    running.simulation.clone().run_until(running.queue.set_held(first, true)).unwrap();
    assert_eq!(flush(first), Acted::Held);
    running.wait(1);
    assert_eq!(world.tried("later1@a.test"), tried);
    running.simulation.clone().run_until(running.queue.set_held(first, false)).unwrap();
    running.wait(1);
    let tried = world.tried("later1@a.test");
    assert_eq!(flush(first), Acted::Done);
    running.wait(1);
    assert_eq!(world.tried("later1@a.test"), tried + 1);
    let shape = running.simulation.clone().run_until(async {
        let edges = [Duration::from_secs(1), Duration::from_secs(100)];
        running.queue.shape(&Filter::default(), ShapeBy::Destination, &edges, 2).await
    });
    assert_eq!((shape.rows.len(), shape.domains, &*shape.total), (2, 3, &[0, 3, 0][..]));
    assert!(shape.rows.iter().all(|(_, counts)| *counts == [0, 1, 0]));

    let returned = running.queue.remove(first, Some("not wanted"));
    assert_eq!(running.simulation.clone().run_until(returned).unwrap(), Acted::Done);
    let removed = running.queue.remove(second, None);
    assert_eq!(running.simulation.clone().run_until(removed).unwrap(), Acted::Done);
    running.wait(2);
    assert_eq!((world.got("alice@x.test"), world.got("bob@x.test")), (1, 0));
    assert_eq!(ids(Filter::default()), [third]);
}

/// Shards of one server, with a device each and the same outside world.
fn shards(count: u16, seed: u64, options: &QueueOptions) -> (Vec<World>, Vec<Running>) {
    let (simulation, slots) = (Simulation::new(seed), SiteSlots::new());
    let outside: Rc<Outside> = Rc::default();
    let world = |_| World { outside: outside.clone(), options: options.clone(), ..World::new() };
    let worlds: Vec<World> = (0..count).map(world).collect();
    let seats = (0..count).map(|shard| slots.seat(ShardId(shard)));
    let running = worlds.iter().zip(seats).map(|(world, seat)| world.join(&simulation, seat));
    let running = running.collect();
    (worlds, running)
}

#[test]
fn the_connections_of_a_site_are_those_of_all_shards() {
    for (limit, seed) in [(1, 1), (2, 2), (3, 3), (5, 4)] {
        let mut options = World::new().options;
        options.site.connections = limit;
        let (worlds, running) = shards(3, seed, &options);
        let outside = &worlds[0].outside;
        // The first has its mail, and the connections, before the others.
        for (number, shard) in running.iter().enumerate() {
            for message in 0..400 {
                shard.submit("s@x.test", &[&format!("ok{number}-{message}@a.test")]);
            }
        }
        running[0].wait(1);
        let got = |shard: usize| {
            let prefix = format!("ok{shard}-");
            outside.delivered.borrow().keys().filter(|it| it.starts_with(&prefix)).count()
        };
        let mut waited = 0;
        while running.iter().any(|shard| !shard.queue.is_empty()) {
            if running.iter().all(|shard| !shard.queue.is_empty()) && waited > 0 {
                assert!((1..3).all(|shard| got(shard) > 0), "{limit}: a shard starves");
            }
            running[0].wait(1);
            waited += 1;
            assert!(waited < 120, "{limit}: {} {} {}", got(0), got(1), got(2));
        }
        assert_eq!(outside.open_most.get(), limit, "connections at once");
        // Connections are kept for a turn, not for a message.
        assert!(outside.connections.get() < 300, "{limit}: {}", outside.connections.get());
    }
}

#[test]
fn the_rate_of_a_site_is_that_of_all_shards() {
    let mut options = World::new().options;
    options.site.rate = 120;
    let (worlds, running) = shards(2, 5, &options);
    for (number, shard) in running.iter().enumerate() {
        for message in 0..40 {
            shard.submit("s@x.test", &[&format!("ok{number}-{message}@a.test")]);
        }
    }
    running[0].wait(20);
    let got: Vec<String> = worlds[0].outside.delivered.borrow().keys().cloned().collect();
    let delivered = got.len();
    assert!((37..=42).contains(&delivered), "{delivered} in 20 s at two a second");
    let first = got.iter().filter(|it| it.starts_with("ok0")).count();
    assert!((10..=30).contains(&first), "{first} of {delivered}");
    running[0].wait(30);
    assert!(running.iter().all(|shard| shard.queue.is_empty()));
}

#[test]
fn mailboxes_whose_uids_are_used_up_have_successors() {
    let mut world = World::new();
    world.options.uids_per_mailbox = 5;
    let running = world.start(18);
    let mut ids: Vec<QueueId> =
        (0..12).map(|n| running.submit("s@x.test", &[&format!("later{n}@a.test")])).collect();
    // Reports follow.
    running.submit("s@x.test", &["never@a.test"]);
    running.wait(2);
    assert_eq!(world.got("s@x.test"), 1);
    let mailboxes = |running: &Running| -> Vec<String> {
        let queue = running.simulation.clone().run_until(running.partition.queue()).unwrap();
        queue.mailboxes().into_iter().map(|it| it.name).filter(|it| it != "INBOX").collect()
    };
    let all = ["Outgoing", "Outgoing 2", "Outgoing 3"];
    assert_eq!(mailboxes(&running), all);
    assert_eq!(ids.iter().map(|id| id.mailbox).collect::<BTreeSet<_>>().len(), 3);
    assert!(ids.is_sorted());
    assert_eq!(running.listed(&Filter::default()).len(), 12);
    running.crash();

    let running = world.start(19);
    running.wait(1);
    assert_eq!((running.queue.len(), mailboxes(&running)), (12, all.map(str::to_owned).to_vec()));
    let show = |id| running.simulation.clone().run_until(running.queue.show(id));
    assert!(ids.iter().all(|id| show(*id).is_some_and(|(it, _)| it.id == *id)));
    let removed = |id| running.simulation.clone().run_until(running.queue.remove(id, None));
    assert!(ids.drain(..5).all(|id| removed(id).unwrap() == Acted::Done));
    ids.push(running.submit("s@x.test", &["later12@a.test"]));
    world.outside.up.borrow_mut().extend((0..5).map(|n| format!("later{n}@a.test")));
    running.crash();

    // The first one is empty now, and goes.
    let running = world.start(20);
    running.wait(1);
    assert_eq!(mailboxes(&running), all[1..]);
    world.outside.up.borrow_mut().extend((5..13).map(|n| format!("later{n}@a.test")));
    running.wait(300);
    assert!(running.queue.is_empty());
    assert!((5..13).all(|n| world.got(&format!("later{n}@a.test")) == 1));
    running.crash();
    let running = world.start(21);
    running.wait(1);
    assert_eq!(mailboxes(&running), all[2..], "the last one stays: its UIDs are used");
    let id = running.submit("s@x.test", &["later99@a.test"]);
    assert!(id > *ids.last().unwrap());
}

#[test]
fn a_flood_of_reports_takes_a_quarter_of_the_queue() {
    let mut world = World::new();
    world.options.messages_max = 80;
    let running = world.start(22);
    let admitted = |running: &Running, class: MailClass, sender: &str, origin| {
        let mut count = 0;
        while running.queue.admits(class) {
            let mut envelope = running.envelope(sender, &["later@a.test"]);
            envelope.origin = origin;
            running.submit_with(envelope);
            count += 1;
        }
        count
    };
    assert_eq!(admitted(&running, MailClass::NullSender, "", Origin::Inbound), 20);
    assert_eq!(admitted(&running, MailClass::Inbound, "s@x.test", Origin::Relay), 40);
    assert_eq!(admitted(&running, MailClass::Submission, "s@x.test", Origin::Submission), 20);
    assert!(!running.queue.admits(MailClass::Local));
    running.wait(2);
    assert_eq!(MailClass::ALL.map(|class| running.queue.len_of(class)), [40, 20, 0, 20]);
    running.crash();
    let running = world.start(23);
    running.wait(2);
    assert_eq!(MailClass::ALL.map(|class| running.queue.len_of(class)), [40, 20, 0, 20]);
    assert!(
        !running.queue.admits(MailClass::NullSender) && !running.queue.admits(MailClass::Inbound)
    );
    let reports = Filter { sender: Some("<>".to_owned()), ..Filter::default() };
    let reports: Vec<QueueId> = running.listed(&reports).iter().map(|it| it.id).collect();
    for id in &reports {
        running.simulation.clone().run_until(running.queue.remove(*id, None)).unwrap();
    }
    assert_eq!((reports.len(), running.queue.len_of(MailClass::NullSender)), (20, 0));
    assert_eq!(admitted(&running, MailClass::Inbound, "s@x.test", Origin::Relay), 0);
    assert_eq!(admitted(&running, MailClass::NullSender, "", Origin::Inbound), 10);
    assert_eq!(
        admitted(&running, MailClass::Submission, "s@x.test", Origin::Submission),
        10,
        "the rest"
    );
}

#[test]
fn a_busy_shard_needs_one_connection_for_a_site() {
    let world = World::new();
    let running = world.start(24);
    world.outside.strained.set(true);
    let submit = |from: u32| {
        for number in from..from + 300 {
            running.submit("s@x.test", &[&format!("ok{number}@a.test")]);
        }
    };
    submit(0);
    running.wait(1);
    assert_eq!(world.outside.open_most.get(), 1);
    running.wait(5);
    assert!(running.queue.is_empty(), "it goes on");
    world.outside.strained.set(false);
    submit(300);
    running.wait(1);
    assert!(world.outside.open_most.get() > 3);
    running.wait(5);
    submit(600);
    world.outside.strained.set(true);
    running.wait(1);
    assert!(world.outside.open.get() <= 1, "the others ended after their message");
}

#[test]
fn the_time_that_an_attempt_took_is_kept_with_its_problem() {
    let mut world = World::new();
    world.options.site.rate = 60;
    let running = world.start(25);
    let first = running.submit("s@x.test", &["later1@a.test"]);
    let second = running.submit("s@x.test", &["later2@a.test"]);
    running.wait(5);
    let waited = |running: &Running, id| {
        let (_, envelope) = running.simulation.clone().run_until(running.queue.show(id)).unwrap();
        let times = envelope.recipients[&1].problem.as_ref().unwrap().times.clone();
        let steps: Vec<Step> = times.iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [Step::Queue, Step::Resolve]);
        times.iter().next().unwrap().1
    };
    assert!(waited(&running, first) < Duration::from_millis(100));
    let long = waited(&running, second);
    assert!((900..1100).contains(&long.as_millis()), "{long:?} for its place by the rate");
    running.crash();
    let running = world.start(26);
    running.wait(1);
    assert_eq!(waited(&running, second), long, "it is on disk");
}

#[test]
fn one_recipient_of_a_message_can_be_returned_or_removed() {
    let world = World::new();
    let running = world.start(16);
    let id = running
        .submit("s@x.test", &["later1@a.test", "later2@a.test", "later3@B.test", "ok@c.test"]);
    running.wait(2);
    let act = |running: &Running, recipient: &str, reason: Option<&str>| {
        let (recipient, reason) = (recipient.to_owned(), reason.map(str::to_owned));
        let action = Action::Drop { recipient, reason };
        running.simulation.clone().run_until(running.queue.act(id, &action)).unwrap()
    };
    let left = |running: &Running| -> Vec<String> {
        let shown = running.simulation.clone().run_until(running.queue.show(id));
        let recipients = shown.map(|(_, envelope)| envelope.recipients.clone()).unwrap_or_default();
        recipients.into_values().map(|it| it.address).collect()
    };
    let due = |running: &Running| running.listed(&Filter::default())[0].parts[0].next_attempt;
    let before = due(&running);
    assert_eq!(act(&running, "later@a.test", None), Acted::Gone, "part of an address");
    assert_eq!(act(&running, "later1@a.test", None), Acted::Done);
    assert_eq!(left(&running), ["later2@a.test", "later3@B.test"]);
    assert_eq!(due(&running), before, "the others keep their schedule");
    assert_eq!(world.outside.reports.get(), 0);
    assert_eq!(act(&running, "LATER3@b.test", Some("not wanted")), Acted::Done);
    assert_eq!(act(&running, "later3@b.test", Some("not wanted")), Acted::Gone);
    running.wait(1);
    assert_eq!((world.got("s@x.test"), left(&running)), (1, vec!["later2@a.test".to_owned()]));
    assert_eq!(*world.outside.reasons.borrow(), ["not wanted"]);
    running.crash();

    let running = world.start(17);
    running.wait(1);
    assert_eq!(left(&running), ["later2@a.test"], "it is durable");
    let tried = world.tried("later2@a.test");
    running.wait(120);
    assert!(world.tried("later2@a.test") > tried);
    assert_eq!(world.tried("later1@a.test"), 1);
    // The last one takes the message along.
    assert_eq!(act(&running, "later2@a.test", None), Acted::Done);
    assert!(running.queue.is_empty());
    assert_eq!(act(&running, "later2@a.test", None), Acted::Gone);
    running.wait(1);
    assert_eq!(world.outside.reports.get(), 1);
}

#[test]
fn what_is_returned_by_an_operator_stays_so_after_a_crash() {
    let world = World::new();
    let running = world.start(18);
    let id = running.submit("s@x.test", &["later@a.test", "ok@down.test"]);
    running.wait(2);
    let bounce = Action::Bounce("not wanted".to_owned());
    let returned = running.queue.act(id, &bounce);
    assert_eq!(running.simulation.clone().run_until(returned).unwrap(), Acted::Done);
    running.crash();
    assert_eq!(*world.outside.reasons.borrow(), ["not wanted"; 2]);
    let running = world.start(19);
    running.wait(20);
    assert!(running.queue.is_empty());
    assert_eq!((world.got("s@x.test"), world.outside.reports.get()), (1, 1));
}

/// Both commands have read the message before either has changed it.
#[test]
fn a_message_that_is_held_while_a_recipient_is_removed_is_held() {
    let world = World::new();
    let running = world.start(20);
    let id = running.submit("s@x.test", &["later1@a.test", "later2@a.test"]);
    running.wait(2);
    let action = Action::Drop { recipient: "later1@a.test".to_owned(), reason: None };
    let dropped = running.queue.act(id, &action);
    let held = running.queue.act(id, &Action::Hold);
    let both = futures_lite::future::zip(dropped, held);
    let (dropped, held) = running.simulation.clone().run_until(both);
    assert_eq!((dropped.unwrap(), held.unwrap()), (Acted::Done, Acted::Done));
    running.wait(200);
    assert_eq!(world.tried("later2@a.test"), 1);
    let released = running.queue.act(id, &Action::Release);
    assert_eq!(running.simulation.clone().run_until(released).unwrap(), Acted::Done);
    running.wait(2);
    assert_eq!(world.tried("later2@a.test"), 2);
}

/// A recipient that was returned without an attempt is not returned again with the whole message.
#[test]
fn what_was_returned_before_an_attempt_is_not_returned_twice() {
    let world = World::new();
    let running = world.start(24);
    let id = running.submit("s@x.test", &["a@dark.test", "a@gone.test"]);
    running.wait(2);
    assert_eq!(*world.outside.reasons.borrow(), ["no such domain"]);
    let action = Action::Bounce("unwanted".to_owned());
    let bounced = running.queue.act(id, &action);
    assert_eq!(running.simulation.clone().run_until(bounced).unwrap(), Acted::Done);
    running.wait(20);
    assert_eq!(*world.outside.reasons.borrow(), ["no such domain", "unwanted"]);
    assert!(running.queue.is_empty());
}

/// What an operator could not do does not hurry a message.
#[test]
fn a_command_that_failed_leaves_the_schedule() {
    let mut world = World::new();
    world.options.retry = vec![Duration::from_secs(100)];
    let running = world.start(25);
    let id = running.submit("s@x.test", &["later@a.test"]);
    running.wait(2);
    world.outside.full.set(true);
    let action = Action::Bounce("unwanted".to_owned());
    let bounced = running.queue.act(id, &action);
    assert!(running.simulation.clone().run_until(bounced).is_err());
    running.wait(50);
    assert_eq!(world.tried("later@a.test"), 1);
    running.wait(100);
    assert_eq!(world.tried("later@a.test"), 2);
}

/// A disk that is full has no room for reports.
#[test]
fn who_has_the_message_does_not_get_it_again_while_no_report_can_be_written() {
    let world = World::new();
    let running = world.start(21);
    world.outside.full.set(true);
    running.submit("s@x.test", &["ok1@a.test", "never@a.test"]);
    running.submit("s@x.test", &["ok2@b.test", "never@c.test"]);
    running.wait(2000);
    for address in ["ok1@a.test", "ok2@b.test"] {
        assert_eq!(world.got(address), 1, "{address}");
    }
    running.crash();
    let running = world.start(22);
    running.wait(20);
    world.outside.full.set(false);
    running.wait(20);
    assert!(running.queue.is_empty());
    for address in ["ok1@a.test", "ok2@b.test"] {
        assert_eq!(world.got(address), 1, "{address}");
    }
    assert_eq!(world.outside.reports.get(), 2);
}

#[test]
fn the_shape_of_any_destination_holds_also_after_a_reload() {
    let limits = |connections| SiteLimits { connections, ..SiteLimits::default() };
    let shape = |pattern: &str, connections| Shape {
        pattern: pattern.to_owned(),
        limits: limits(connections),
    };
    let mut world = World::new();
    world.options.shapes = vec![shape("nobody.test", 9), shape("two.test", 3)];
    let running = world.start(23);
    let connections = || {
        let state = running.queue.inner.state.borrow();
        state.sites.get("shared").map(|site| site.limits.get().connections)
    };
    running.submit("s@x.test", &["later@one.test"]);
    running.wait(1);
    assert_eq!(connections(), Some(20));
    running.submit("s@x.test", &["later@two.test"]);
    running.wait(1);
    assert_eq!(connections(), Some(3), "the second destination has a shape");
    running.queue.set_options(QueueOptions { site: limits(7), ..world.options.clone() });
    assert_eq!(connections(), Some(3));
    let shapes = vec![shape("one.test", 5), shape("two.test", 3)];
    running.queue.set_options(QueueOptions { shapes, ..world.options.clone() });
    assert_eq!(connections(), Some(5), "the first one counts");
    let shapes = vec![shape("shared", 4), shape("one.test", 5)];
    running.queue.set_options(QueueOptions { shapes, ..world.options.clone() });
    assert_eq!(connections(), Some(4), "a host of it");
    running.queue.set_options(QueueOptions { shapes: Vec::new(), ..world.options.clone() });
    assert_eq!(connections(), Some(20));
}

#[test]
fn a_queue_that_ends_does_not_wait_for_the_rate() {
    let mut world = World::new();
    world.options.site.rate = 1;
    let running = world.start(24);
    running.submit("s@x.test", &["ok1@a.test"]);
    running.submit("s@x.test", &["ok2@a.test"]);
    running.wait(2);
    assert_eq!((world.outside.delivered.borrow().len(), world.outside.open.get()), (1, 1));
    running.queue.end();
    running.wait(2);
    assert_eq!((world.outside.delivered.borrow().len(), world.outside.open.get()), (1, 0));
}

/// All connections are with hosts that do not answer.
/// A site that looked for a free connection again and again would need a poll each time.
#[test]
fn many_sites_that_wait_for_a_connection_cost_little() {
    const SITES: u32 = 2000;
    let mut world = World::new();
    world.options.connections = 2;
    let running = world.start(25);
    for number in 0..2 {
        running.submit("s@x.test", &[&*format!("ok@hang{number}.test")]);
    }
    running.wait(1);
    let recipients: Vec<String> = (0..SITES).map(|it| format!("ok@{it}.test")).collect();
    for some in recipients.chunks(1000) {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        running.submit("s@x.test", &some);
    }
    // All sites are known then.
    running.wait(10);
    running.simulation.allow_polls(u64::from(SITES));
    running.wait(290);
    running.simulation.allow_polls(u64::MAX);
    assert!(world.outside.delivered.borrow().is_empty());
    let hosts = (0..2).map(|number| format!("mx.hang{number}.test"));
    world.outside.up.borrow_mut().extend(hosts);
    running.wait(1000);
    assert!(world.outside.delivered.borrow().len() >= SITES as usize);
}

#[test]
fn urgent_mail_overtakes() {
    let world = World::new();
    let mut options = world.options.clone();
    options.site.connections = 1;
    let world = World { options, ..world };
    let running = world.start(12);
    let mut last = None;
    for number in 0..30 {
        let address = format!("ok{number}@a.test");
        let mut envelope = running.envelope("s@x.test", &[&address]);
        envelope.origin = Origin::Relay;
        if number == 29 {
            envelope.priority = 5;
            last = Some(address.clone());
        }
        running.submit_with(envelope);
    }
    running.wait(5);
    let attempts = world.outside.attempts.borrow();
    let place = attempts.iter().position(|it| Some(it) == last.as_ref()).unwrap();
    assert_eq!(attempts.len(), 30);
    assert!(place < 29, "{place}");
}

#[test]
fn what_memory_does_not_have_is_found_on_disk() {
    let world = World::new();
    let running = world.start(13);
    let many: Vec<String> = (0..60).map(|n| format!("later{n}@many.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = running.submit("a@x.test", &many);
    let short = running.submit("b@x.test", &["later@a.test"]);
    let down = running.submit("c@x.test", &["ok@down.test"]);
    let dark = running.submit("d@x.test", &["ok@dark.test"]);
    running.wait(2);
    let ids = |filter: &Filter| -> Vec<QueueId> {
        running.listed(filter).into_iter().map(|it| it.id).collect()
    };
    let text = |text: &str| Some(text.to_owned());
    let recipient = |wanted: &str| Filter { recipient: text(wanted), ..Filter::default() };
    let error = |wanted: &str| Filter { error: text(wanted), ..Filter::default() };
    assert_eq!(ids(&recipient("LATER59@many")), [long]);
    assert_eq!(ids(&recipient("later60@many")), []);
    assert_eq!(ids(&error("450 LATER")), [long, short]);
    assert_eq!(ids(&error("connection refused")), [down]);
    assert_eq!(ids(&error("no answer")), [dark]);
    assert_eq!(ids(&error("4.2")), [long, short]);
    assert_eq!(ids(&error("4.9")), []);
    let both = Filter { recipient: text("later"), ..error("450") };
    assert_eq!(ids(&both), [long, short]);
    assert_eq!(ids(&Filter { ids: vec![dark, short, dark], ..Filter::default() }), [short, dark]);
    assert_eq!(ids(&Filter { ids: vec![short], ..error("4.4") }), []);
    assert_eq!(ids(&Filter { smaller: Some(1), ..Filter::default() }), []);
    let found =
        running.simulation.clone().run_until(running.queue.find(&Filter::default(), Some(long), 2));
    assert_eq!((found.listed.len(), found.messages, found.recipients), (2, 3, 3));
}

#[test]
fn all_that_is_done_to_messages_survives_a_restart() {
    let world = World::new();
    let running = world.start(14);
    let ids: Vec<QueueId> =
        (0..300).map(|n| running.submit("s@x.test", &[&format!("later{n}@a.test")])).collect();
    running.wait(2);
    let act = |running: &Running, ids: &[QueueId], action: &Action| {
        let tally = Tally::default();
        let all = running.queue.act_on_all(ids.to_vec(), action, &tally);
        running.simulation.clone().run_until(all);
        (tally.done.get(), tally.busy.get(), tally.gone.get(), tally.failed.get())
    };
    assert_eq!(act(&running, &ids[..100], &Action::Hold), (100, 0, 0, 0));
    assert_eq!(act(&running, &ids[100..200], &Action::Cancel), (100, 0, 0, 0));
    assert_eq!(act(&running, &ids[90..110], &Action::Cancel), (10, 0, 10, 0));
    let held = Filter { held: Some(true), ..Filter::default() };
    assert_eq!(running.listed(&held).len(), 90);
    assert!(running.listed(&held).iter().all(|it| it.parts[0].phase == "held"));
    let tried = world.tried("later0@a.test");
    running.queue.flush(&ids);
    running.wait(60);
    assert_eq!(world.tried("later0@a.test"), tried, "held");
    running.crash();

    let running = world.start(15);
    running.wait(60);
    assert_eq!((running.queue.len(), running.listed(&held).len()), (190, 90));
    assert_eq!(world.tried("later0@a.test"), tried, "held");
    assert_eq!(act(&running, &ids[..1], &Action::Release), (1, 0, 0, 0));
    running.wait(1);
    assert_eq!(world.tried("later0@a.test"), tried + 1);

    // It begins anew: with its attempts, its age and its hold.
    running.wait(1000);
    assert_eq!(act(&running, &ids[1..2], &Action::Requeue), (1, 0, 0, 0));
    let renewed = Filter { ids: vec![ids[1]], ..Filter::default() };
    let listed = running.listed(&renewed);
    assert!(
        !listed[0].held
            && listed[0].arrived.after(Duration::from_secs(1)) > running.simulation.now()
    );
    running.wait(1);
    let (_, envelope) = running.simulation.clone().run_until(running.queue.show(ids[1])).unwrap();
    assert_eq!(envelope.recipients[&1].attempts, 1);
    let told = world.got("s@x.test");
    assert_eq!(act(&running, &ids[1..2], &Action::Bounce("not wanted".to_owned())), (1, 0, 0, 0));
    running.wait(2);
    assert_eq!(world.got("s@x.test"), told + 1);
    assert_eq!(running.listed(&renewed), []);
}

/// Measured by hand: `cargo test --lib a_million -- --ignored --nocapture`.
#[test]
#[ignore = "takes a while and tells times"]
fn a_million_messages_are_listed_in_slices() {
    let world = World::new();
    let running = world.start(16);
    let id = running.submit("s@x.test", &["later@a.test"]);
    running.wait(1);
    let (partition, mailbox) = (id.partition, id.mailbox);
    let body = running.queue.inner.state.borrow().entries[&id].body;
    for number in 2..1_000_002 {
        let address = format!("r{number}@d{}.test", number % 1000);
        let envelope = Rc::new(running.envelope(&format!("s{}@y.test", number % 50), &[&address]));
        let id = QueueId { partition, mailbox, uid: crate::model::Uid(number) };
        let later = running.simulation.now().after(Duration::from_secs(4000));
        running.queue.inner.state.borrow_mut().add(id, body, &envelope, false, |_| later);
    }
    let text = |text: &str| Some(text.to_owned());
    for filter in [
        Filter::default(),
        Filter { recipient: text("r999999@"), ..Filter::default() },
        Filter { sender: text("s7@"), domain: text("d7.test"), ..Filter::default() },
        Filter { error: text("4.2"), ..Filter::default() },
    ] {
        let began = std::time::Instant::now();
        let find = running.queue.find(&filter, None, 100);
        let found = running.simulation.clone().run_until(find);
        println!("{} found in {:?}: {filter:?}", found.messages, began.elapsed());
    }
    let began = std::time::Instant::now();
    let edges = [Duration::from_secs(60)];
    let all = Filter::default();
    let shape = running.queue.shape(&all, ShapeBy::Destination, &edges, 20);
    let shape = running.simulation.clone().run_until(shape);
    println!("{} domains in {:?}", shape.domains, began.elapsed());
}
