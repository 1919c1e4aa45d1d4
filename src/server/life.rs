//! The life of one shard: open its partitions, join the mesh, serve, drain, close.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use arc_swap::ArcSwap;

use super::{
    data_dir::DataDirectory,
    listeners::{Service, ShardListeners},
    sessions::sessions,
};
use crate::{
    directory::{Directory, SharedDirectory},
    events::{Event, EventSender, Limit, ShardEvents},
    metrics::ShardMetrics,
    model::{Network, PartitionId, ShardId},
    protocol::mime,
    queue::{QueueOptions, SiteSlots},
    resolver::{NameServers, Resolver, ResolverOptions},
    runtime::{
        acceptor::{Acceptor, Entrance},
        clients::Clients,
        connect::Sockets,
        device::file::FileDevice,
        executor::Priority,
        mesh::{MeshError, MeshGate, MeshSeat},
        resources::ShardResources,
        shard::ShardContext,
        tls::TlsContexts,
        worker::WorkerPool,
    },
    service::{
        ServiceOptions, Shard, access,
        budget::MessageBudget,
        delivery,
        load::{self, Load},
        relay,
        signing::Signing,
        smtp::AcceptAll,
        transfer,
    },
    store::{Damage, Partition, StoreOptions},
};

/// Data that all shards are created from.
pub(super) struct Plan {
    pub service: Arc<ServiceOptions>,
    /// The queue's settings as of the last reload.
    pub queue: Arc<ArcSwap<QueueOptions>>,
    /// Connections to other servers, of all shards.
    pub sites: Arc<SiteSlots>,
    pub store: StoreOptions,
    pub shard_count: u16,
    pub data: Arc<DataDirectory>,
    pub directory: Arc<SharedDirectory>,
    pub tls: Option<TlsContexts>,
    pub workers: WorkerPool,
    pub signing: Signing,
    /// Where what becomes of TLS is handed over; nothing is counted if `None`.
    pub tls_counts: Option<relay::Handover>,
    pub clients: Arc<Clients>,
    pub names: Arc<dyn NameServers>,
    pub resolver: ResolverOptions,
    /// `listen.proxy_networks`.
    pub proxies: Arc<[Network]>,
    pub events: EventSender,
    pub shutdown_timeout: Duration,
}

impl Plan {
    /// Partitions are assigned to shards round-robin; the number of shards may change at each
    /// start.
    fn owner(&self, partition: PartitionId) -> ShardId {
        ShardId(partition.0 % self.shard_count)
    }

    fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        (0..self.data.layout().partitions).map(PartitionId)
    }
}

/// How often a full gate is retried before a shard is given up.
const BUSY_RETRIES_MAX: u32 = 50;

/// How often a shard checks whether it must end, and then whether its last session ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How often a shard checks whether its partitions take mail.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a shard from start to end. Reports through `ready` that its ports are about to be served,
/// or why they will not be.
pub(super) async fn live(
    plan: Arc<Plan>,
    context: ShardContext,
    seat: MeshSeat<Shard>,
    listeners: ShardListeners,
    ready: mpsc::Sender<Result<()>>,
) -> Result<()> {
    let events = ShardEvents::new(context.id, plan.events.clone(), context.executor.now());
    let partitions = match open_partitions(&plan, &context, &events).await {
        Ok(partitions) => partitions,
        Err(error) => {
            let text = format!("{error:#}");
            let _ = ready.send(Err(error));
            anyhow::bail!(text);
        }
    };
    let executor = context.executor.clone();
    let mesh = seat.join(executor.clone());
    let shard = Rc::new(Shard {
        id: context.id,
        options: plan.service.clone(),
        executor: context.executor.clone(),
        mesh: mesh.clone(),
        directory: Directory::new(plan.directory.clone(), Rc::new(plan.workers.clone())),
        metrics: Rc::new(ShardMetrics::new()),
        events,
        load: Load::new(plan.service.lag_max),
        messages: MessageBudget::new(plan.service.intake.memory),
        partitions,
        owners: plan.partitions().map(|partition| plan.owner(partition)).collect(),
        deliveries: Default::default(),
        transfers: Default::default(),
        policy: Rc::new(AcceptAll),
        relay: Default::default(),
        tls_counts: relay::TlsCounts::new(plan.tls_counts.clone()),
        imap_seats: Default::default(),
        reloads: Default::default(),
        leases: Default::default(),
        follows: Default::default(),
        signing: plan.signing.clone(),
        shares: plan.store.shares.clone(),
        quotas: plan.store.quotas.clone(),
        nearly_full: Default::default(),
        resolver: Resolver::new(
            plan.names.clone(),
            context.executor.clone(),
            plan.resolver.clone(),
        ),
        shutting_down: Cell::new(false),
    });
    mesh.open(shard.clone());
    delivery::follow_queues(&shard);
    transfer::follow(&shard);
    relay::start(&shard, Rc::new(Sockets), &plan.sites);
    access::follow_accounts(&shard);
    for (service, listener) in listeners {
        let entrance = Rc::new(Entrance {
            class: service.class(),
            tls: service.tls_mode(plan.tls.as_ref()),
            // LMTP clients are the site's own servers and are not limited.
            clients: (service != Service::Lmtp).then(|| plan.clients.clone()),
            proxies: plan.proxies.clone(),
        });
        let session = sessions(shard.clone(), service, entrance.clone());
        let acceptor = Acceptor { listener, entrance, session };
        executor.spawn(Priority::Foreground, Box::pin(acceptor.run(executor.clone())));
    }
    executor.spawn(Priority::Foreground, Box::pin(load::watch(shard.clone())));
    executor.spawn(Priority::Background, Box::pin(tell_troubles(shard.clone())));
    let _ = ready.send(Ok(()));
    // Our copy of the sender must be dropped, or the starter could wait for ever for a report that
    // never comes.
    drop(ready);

    let mut queue_options = plan.queue.load_full();
    while !shard.shutting_down.get() {
        executor.sleep(LOOK_INTERVAL).await;
        let reloaded = plan.queue.load_full();
        if !Arc::ptr_eq(&reloaded, &queue_options) {
            shard.relay().set_options((*reloaded).clone());
            queue_options = reloaded;
        }
        tell_damage(&shard);
        shard.events.flush();
    }
    shard.relay().end();
    context.resources.shut_down();
    let deadline = Instant::now() + plan.shutdown_timeout;
    while context.resources.connection_count() > 0 && Instant::now() < deadline {
        executor.sleep(LOOK_INTERVAL).await;
    }
    let closed = close_partitions(&shard).await;
    tell_damage(&shard);
    mesh.close();
    shard.tls_counts.hand_over();
    shard.events.flush();
    closed
}

/// Asks all shards to end: no new connections, sessions end between commands. A gate that is full
/// of other requests is retried for a while.
pub(super) fn begin_shutdown(gate: &MeshGate<Shard>, events: &EventSender) {
    for shard in 0..gate.shard_count() {
        let ask = || {
            gate.post(ShardId(shard), |shard| {
                shard.shutting_down.set(true);
                Box::pin(std::future::ready(()))
            })
        };
        let mut asked = ask();
        for _ in 0..BUSY_RETRIES_MAX {
            if asked != Err(MeshError::Busy) {
                break;
            }
            std::thread::sleep(LOOK_INTERVAL);
            asked = ask();
        }
        if let Err(error) = asked {
            let text = format!("shard {shard}: cannot be told to stop: {error}");
            events.tell(&Event::Warning { text: &text });
        }
    }
}

async fn open_partitions(
    plan: &Plan,
    context: &ShardContext,
    events: &ShardEvents,
) -> Result<Vec<Option<Partition>>> {
    let mut partitions = Vec::new();
    for partition in plan.partitions() {
        if plan.owner(partition) != context.id {
            partitions.push(None);
            continue;
        }
        let folder = plan.data.partition_path(partition);
        let device = Rc::new(FileDevice::new(&folder));
        let options =
            StoreOptions { partition, card_split: mime::split_card, ..plan.store.clone() };
        let (opened, report) = Partition::open(device, context.executor.clone(), options)
            .await
            .with_context(|| format!("{}: cannot open", folder.display()))?;
        for (segment, offset, what) in &report.damage {
            let (offset, account) = (*offset, None);
            let event = Event::Damage { partition, segment, offset, account, what };
            events.tell(&event, context.executor.now());
        }
        partitions.push(Some(opened));
    }
    Ok(partitions)
}

/// Once a second: hands over the counts of TLS, and reports which partitions began to refuse new
/// mail, which take it again, and which limits clients met.
async fn tell_troubles(shard: Rc<Shard>) {
    let mut refusing: Vec<bool> = vec![false; shard.partitions.len()];
    let mut met = LimitCounts::default();
    while !shard.shutting_down.get() {
        for (partition, before) in shard.partitions.iter().zip(&mut refusing) {
            let Some(partition) = partition else { continue };
            let (id, trouble) = (partition.id(), partition.refusing());
            match (&trouble, *before) {
                (Some(trouble), false) => {
                    let reason = trouble.reason.to_string();
                    shard.tell(&Event::PartitionRefusesMail { partition: id, reason: &reason });
                }
                (None, true) => shard.tell(&Event::PartitionTakesMail { partition: id }),
                _ => {}
            }
            *before = trouble.is_some();
        }
        shard.tls_counts.hand_over();
        met.look(&shard.events);
        shard.events.flush_limits(shard.executor.now());
        shard.executor.sleep(TROUBLE_INTERVAL).await;
    }
}

/// The runtime's counts of limits met, at the last check.
#[derive(Default)]
struct LimitCounts([u64; 5]);

impl LimitCounts {
    fn look(&mut self, events: &ShardEvents) {
        let resources = ShardResources::current();
        let refusals = resources.refusals();
        let counts = [
            (refusals.full.get(), Limit::ConnectionsPerShard),
            (refusals.connections.get(), Limit::ConnectionsOfClient),
            (refusals.strangers.get(), Limit::StrangersOfClient),
            (refusals.new_connections.get(), Limit::NewConnectionsOfClient),
            (resources.buffers().gave_way(), Limit::Buffers),
        ];
        for (before, (count, limit)) in self.0.iter_mut().zip(counts) {
            events.limits_met(limit, count.saturating_sub(*before), None);
            *before = count;
        }
    }
}

/// Reports the damage that reads have found since the last check.
fn tell_damage(shard: &Shard) {
    for partition in shard.partitions.iter().flatten() {
        for Damage { segment, offset, what, place } in partition.damage_news() {
            shard.tell(&Event::Damage {
                partition: partition.id(),
                segment: &segment,
                offset,
                account: place.account,
                what: &what,
            });
        }
    }
}

async fn close_partitions(shard: &Shard) -> Result<()> {
    for partition in shard.partitions.iter().flatten() {
        partition
            .close()
            .await
            .with_context(|| format!("partition {}: not closed cleanly", partition.id()))?;
    }
    Ok(())
}
