//! The queue against a scripted outside world, on a simulated device and clock. Here is the world;
//! the tests are in a file for each subject.

mod mailboxes;
mod operators;
mod restart;
mod results;
mod schedule;
mod sites;

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
                            is_reported: recipient.wants_success() || address.starts_with("told"),
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
