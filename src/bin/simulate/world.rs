//! One life of the simulated server: partitions on simulated devices, their owner shards and the
//! mesh between them, all on one seeded executor and its virtual clock.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use crate::{
    directory::{
        Directory, DirectorySnapshot, PasswordJob, PasswordWorkers, PeerLimits, SharedDirectory,
    },
    events::ShardEvents,
    metrics::ShardMetrics,
    model::{PartitionId, ShardId},
    protocol::mime,
    queue::{QueueOptions, Shape, SiteLimits, SiteSlots},
    runtime::{
        connect::Dialer,
        device::memory::MemoryDevice,
        executor::{Executor, Priority},
        mesh::{self, Mesh},
        resources::{ResourceLimits, ShardResources},
        simulation::Simulation,
    },
    service::{
        ServiceOptions, Shard,
        budget::MessageBudget,
        delivery,
        relay::{self, RelayOptions, client::ClientOptions},
        smtp::AcceptAll,
        transfer,
    },
    store::{
        Compression, Partition, RecoveryReport, Shares, StoreError, StoreOptions, TombstoneLimits,
    },
};

use super::{
    expectation::{PARTITIONS, partition_of},
    outside::{self, Nobody, Outside, Reach},
    post::{Post, Standing},
};

/// Accounts that the directory knows, from 1 on.
const USERS: usize = 20;

/// The address of one of the first accounts.
pub fn address_of(account: u64) -> String {
    match account {
        1 => "alice@example".to_owned(),
        2 => "bob@example".to_owned(),
        number => format!("user{}@example", number - 2),
    }
}

/// Virtual time for the queues to drain: redelivery pauses double up to five minutes.
const DRAIN_MAX: Duration = Duration::from_secs(4 * 3600);

/// A running server.
pub struct World {
    pub simulation: Simulation,
    pub devices: Vec<MemoryDevice>,
    pub shards: Vec<Rc<Shard>>,
    pub reports: Vec<RecoveryReport>,
}

/// Small sizes, so that segments are sealed, checkpoints written and accounts paged constantly.
fn store_options(partition: u16) -> StoreOptions {
    StoreOptions {
        partition: PartitionId(partition),
        segment_size: 32 * 1024,
        checkpoint_interval: 24 * 1024,
        account_budget: 12 * 1024,
        card_budget: 64 * 1024,
        write_buffer: 64 * 1024,
        garbage_share: 20,
        compaction_rate: 0,
        // In every second partition, and not for short bodies.
        compression: (partition % 2 == 1).then_some(Compression { level: 1, body_min: 300 }),
        run_records_max: 8,
        run_garbage_min: 6,
        cards_wanted: 3,
        card_split: mime::split_card,
        tombstones: TombstoneLimits { at_least: 4, at_most: 20 },
        default_mailboxes: Vec::new(),
        ..StoreOptions::default()
    }
}

/// How often mail for elsewhere is tried, and for how long. All of it happens within a run.
pub fn queue_options() -> QueueOptions {
    let seconds = Duration::from_secs;
    let site = SiteLimits {
        connections: 3,
        messages_per_connection: 4,
        // Small, so that an attempt needs several transactions.
        recipients: 3,
        rate: 0,
    };
    let slow = Shape { pattern: "d3.test".to_owned(), limits: SiteLimits { rate: 60, ..site } };
    QueueOptions {
        retry: [4, 10, 30, 100].map(seconds).to_vec(),
        delay_warning: seconds(60),
        expire: seconds(900),
        return_max: 2000,
        // Small, so that mailboxes of the queue have successors within a run.
        uids_per_mailbox: 7,
        site,
        shapes: vec![slow],
        ..QueueOptions::default()
    }
}

fn relay_options() -> RelayOptions {
    let patience = Duration::from_secs(10);
    RelayOptions {
        has_dns: true,
        client: ClientOptions {
            connect_timeout: patience,
            greeting_timeout: patience,
            command_timeout: patience,
            mail_timeout: patience,
            rcpt_timeout: patience,
            data_timeout: patience,
            block_timeout: patience,
            end_timeout: patience * 2,
            ..ClientOptions::default()
        },
        queue: queue_options(),
        ..RelayOptions::default()
    }
}

fn service_options() -> ServiceOptions {
    ServiceOptions {
        hostname: "mail.example".to_owned(),
        allow_plaintext_auth: false,
        lmtp_auth: false,
        certificate_name: Default::default(),
        tokens: None,
        smtp: Default::default(),
        pop3: Default::default(),
        imap: Default::default(),
        intake: Default::default(),
        quota: Default::default(),
        lag_max: Duration::from_secs(1),
        relay: relay_options(),
        write_timeout: Duration::from_secs(60),
        tls_handshake_timeout: Duration::from_secs(60),
    }
}

/// There are no log-ins here.
struct NoWorkers;

impl PasswordWorkers for NoWorkers {
    fn try_run(&self, _: PasswordJob) -> bool {
        false
    }
}

/// Why a server did not start: the partition and its error.
pub struct NotOpened(pub u16, pub StoreError);

impl World {
    /// Opens all partitions on `devices`, joins the mesh, resumes the queues. Mail for elsewhere
    /// goes where `post` knows; without it, nobody is reached.
    pub fn start(
        seed: u64,
        devices: Vec<MemoryDevice>,
        post: Option<&Rc<Post>>,
        downtime: i64,
    ) -> Result<World, NotOpened> {
        let simulation = Simulation::new(seed);
        simulation.set_wall_clock(downtime);
        let executor: Rc<dyn Executor> = Rc::new(simulation.clone());
        ShardResources::install(ResourceLimits::default(), &executor);
        let mut partitions = Vec::new();
        let mut reports = Vec::new();
        let shares = Arc::new(Shares::new(PARTITIONS));
        for (number, device) in (0..PARTITIONS).zip(&devices) {
            device.set_clock(executor.clone());
            let options = StoreOptions { shares: shares.clone(), ..store_options(number) };
            let open = Partition::open(Rc::new(device.clone()), executor.clone(), options);
            match simulation.run_until(open) {
                Ok((partition, report)) => {
                    partitions.push(partition);
                    reports.push(report);
                }
                Err(error) => {
                    simulation.kill_tasks();
                    return Err(NotOpened(number, error));
                }
            }
        }
        let snapshot = DirectorySnapshot::demo("example", USERS);
        let shared = SharedDirectory::new(snapshot, PeerLimits::default());
        let zone = outside::zone(simulation.random().is_multiple_of(2));
        let dialer: Rc<dyn Dialer> = match post {
            None => Rc::new(Nobody),
            Some(post) => {
                let trouble =
                    outside::trouble_names(simulation.clone(), post.clone(), zone.clone());
                simulation.spawn(Priority::Background, Box::pin(trouble));
                Rc::new(Reach(Rc::new(Outside::new(post.clone(), simulation.clone()))))
            }
        };
        let owners: Vec<ShardId> = (0..PARTITIONS).map(ShardId).collect();
        let (seats, _gate) = mesh::build::<Shard>(PARTITIONS);
        let shards = seats.into_iter().zip(0..PARTITIONS).map(|(seat, number)| {
            let own = |at: u16| (at == number).then(|| partitions[usize::from(at)].clone());
            Rc::new(Shard {
                id: ShardId(number),
                options: Arc::new(service_options()),
                executor: executor.clone(),
                mesh: seat.join(executor.clone()),
                directory: Directory::new(shared.clone(), Rc::new(NoWorkers)),
                metrics: Rc::new(ShardMetrics::new()),
                events: ShardEvents::nowhere(ShardId(number)),
                load: crate::service::load::Load::new(std::time::Duration::from_secs(1)),
                messages: MessageBudget::new(64 << 20),
                partitions: (0..PARTITIONS).map(own).collect(),
                owners: owners.clone(),
                deliveries: Default::default(),
                transfers: Default::default(),
                policy: Rc::new(AcceptAll),
                relay: Default::default(),
                tls_counts: Default::default(),
                imap_seats: Default::default(),
                reloads: Default::default(),
                leases: Default::default(),
                follows: Default::default(),
                signing: Default::default(),
                shares: shares.clone(),
                quotas: Default::default(),
                nearly_full: Default::default(),
                resolver: crate::resolver::Resolver::new(
                    zone.clone(),
                    executor.clone(),
                    Default::default(),
                ),
                shutting_down: Cell::new(false),
            })
        });
        let shards: Vec<Rc<Shard>> = shards.collect();
        let sites = SiteSlots::new();
        for shard in &shards {
            let mesh: &Mesh<Shard> = &shard.mesh;
            mesh.open(shard.clone());
            delivery::follow_queues(shard);
            transfer::follow(shard);
            relay::start(shard, dialer.clone(), &sites);
        }
        Ok(World { simulation, devices, shards, reports })
    }

    pub fn partition(&self, number: u16) -> &Partition {
        self.shards[usize::from(number)].partitions[usize::from(number)]
            .as_ref()
            .expect("each shard owns the partition of its number")
    }

    pub fn of_account(&self, account: u64) -> &Partition {
        self.partition(partition_of(account))
    }

    /// Operations on all devices so far: the unit for crash times.
    pub fn step(&self) -> usize {
        self.devices.iter().map(|device| device.trace().borrow().len()).sum()
    }

    /// Waits until the queues are empty and no move is unfinished.
    pub fn drain(&self) -> Result<(), String> {
        let from = self.simulation.now();
        let queued = async || {
            let mut queued = 0;
            for number in 0..PARTITIONS {
                // A partition that cannot answer may have some.
                queued += self.partition(number).queued().await.unwrap_or(1);
                let moves = self.partition(number).moves();
                queued += (moves.begun().len() + moves.arrivals().len()) as u64;
            }
            queued
        };
        self.simulation.run_until(async {
            while queued().await > 0 {
                if self.simulation.now() > from.after(DRAIN_MAX) {
                    return Err(format!("{} messages or moves stay undecided", queued().await));
                }
                self.simulation.sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        })
    }

    /// What is durable of mail for elsewhere.
    pub fn standing(&self, post: &Post) -> Result<Standing, StoreError> {
        let partitions: Vec<Partition> =
            (0..PARTITIONS).map(|number| self.partition(number).clone()).collect();
        self.simulation.run_until(Standing::read(&partitions, post))
    }

    /// A clean end: checkpoints, writers stopped. Returns the first failure.
    pub fn close(&self) -> Result<(), StoreError> {
        self.simulation.run_until(async {
            for number in 0..PARTITIONS {
                self.partition(number).close().await?;
            }
            Ok(())
        })
    }

    /// Ends everything at once: all tasks are dropped, the devices stay as they are.
    pub fn kill(self) -> Vec<MemoryDevice> {
        self.simulation.kill_tasks();
        for shard in &self.shards {
            shard.mesh.close();
        }
        self.simulation.kill_tasks();
        self.devices
    }
}
