//! The life of one shard: open its partitions, join the mesh, serve, drain, close.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    data_dir::DataDirectory,
    listeners::{Service, ShardListeners},
    sessions::sessions,
};
use crate::{
    directory::{Directory, SharedDirectory},
    metrics::ShardMetrics,
    model::{PartitionId, ShardId},
    runtime::{
        acceptor::Acceptor,
        clients::Clients,
        device::file::FileDevice,
        executor::Priority,
        mesh::{MeshError, MeshGate, MeshSeat},
        shard::ShardContext,
        tls::TlsContext,
        worker::WorkerPool,
    },
    service::{ServiceOptions, Shard, budget::MessageBudget, delivery, smtp::AcceptAll},
    store::{Damage, Partition, StoreOptions},
};

/// What all shards are made from.
pub(super) struct Plan {
    pub service: Arc<ServiceOptions>,
    pub store: StoreOptions,
    pub shard_count: u16,
    pub data: Arc<DataDirectory>,
    pub directory: Arc<SharedDirectory>,
    pub tls: Option<Arc<TlsContext>>,
    pub workers: WorkerPool,
    pub clients: Arc<Clients>,
    pub shutdown_timeout: Duration,
}

impl Plan {
    /// Partitions go to shards in turn; the number of shards may differ from start to start.
    fn owner(&self, partition: PartitionId) -> ShardId {
        ShardId(partition.0 % self.shard_count)
    }

    fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        (0..self.data.layout().partitions).map(PartitionId)
    }
}

/// How often a full gate is asked again before a shard is given up.
const BUSY_RETRIES_MAX: u32 = 50;

/// How often a shard looks whether it was asked to end, and then whether its last session did.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How often a shard looks whether its partitions take mail.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a shard from start to end. Says through `ready` when its ports are about to be served, or
/// why they will not be.
pub(super) async fn live(
    plan: Arc<Plan>,
    context: ShardContext,
    seat: MeshSeat<Shard>,
    listeners: ShardListeners,
    ready: mpsc::Sender<Result<()>>,
) -> Result<()> {
    let partitions = match open_partitions(&plan, &context).await {
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
        messages: MessageBudget::new(plan.service.intake.memory),
        partitions,
        owners: plan.partitions().map(|partition| plan.owner(partition)).collect(),
        deliveries: Default::default(),
        policy: Rc::new(AcceptAll),
        imap_seats: Default::default(),
        shutting_down: Cell::new(false),
    });
    mesh.open(shard.clone());
    delivery::resume_spool(&shard);
    for (service, listener) in listeners {
        let acceptor = Acceptor {
            listener,
            tls: service.tls_mode(plan.tls.as_ref()),
            // Who hands mail in by LMTP is the site's own.
            clients: (service != Service::Lmtp).then(|| plan.clients.clone()),
            session: sessions(shard.clone(), service),
        };
        executor.spawn(Priority::Foreground, Box::pin(acceptor.run(executor.clone())));
    }
    executor.spawn(Priority::Background, Box::pin(tell_troubles(shard.clone())));
    let _ = ready.send(Ok(()));
    // The starter keeps no sender of ours: were it waiting for one that never comes, it would hang.
    drop(ready);

    while !shard.shutting_down.get() {
        executor.sleep(LOOK_INTERVAL).await;
        tell_damage(&shard);
        shard.deliveries.news().iter().for_each(|line| eprintln!("ringmail: {line}"));
    }
    context.resources.shut_down();
    let deadline = Instant::now() + plan.shutdown_timeout;
    while context.resources.connection_count() > 0 && Instant::now() < deadline {
        executor.sleep(LOOK_INTERVAL).await;
    }
    let closed = close_partitions(&shard).await;
    mesh.close();
    closed
}

/// Asks all shards to end: no new connections, sessions end between commands. A gate full of other
/// errands is asked again for a while.
pub(super) fn begin_shutdown(gate: &MeshGate<Shard>) {
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
            eprintln!("ringmail: shard {shard}: cannot be asked to end: {error}");
        }
    }
}

async fn open_partitions(plan: &Plan, context: &ShardContext) -> Result<Vec<Option<Partition>>> {
    let mut partitions = Vec::new();
    for partition in plan.partitions() {
        if plan.owner(partition) != context.id {
            partitions.push(None);
            continue;
        }
        let folder = plan.data.partition_path(partition);
        let device = Rc::new(FileDevice::new(&folder));
        let options = StoreOptions { partition, ..plan.store.clone() };
        let (opened, report) = Partition::open(device, context.executor.clone(), options)
            .await
            .with_context(|| format!("{}: cannot open", folder.display()))?;
        for (segment, offset, what) in &report.damage {
            eprintln!(
                "ringmail: {}: damage in {segment} at offset {offset}: {what}",
                folder.display()
            );
        }
        partitions.push(Some(opened));
    }
    Ok(partitions)
}

/// One line on standard error when a partition begins to refuse new mail, and one when it ends.
async fn tell_troubles(shard: Rc<Shard>) {
    let mut refusing: Vec<bool> = vec![false; shard.partitions.len()];
    while !shard.shutting_down.get() {
        for (partition, before) in shard.partitions.iter().zip(&mut refusing) {
            let Some(partition) = partition else { continue };
            let trouble = partition.refusing();
            match (&trouble, *before) {
                (Some(trouble), false) => eprintln!(
                    "ringmail: partition {}: {}: new mail is refused; reading and deleting go on, and \
                     mail is taken again without a restart",
                    partition.id(),
                    trouble.reason
                ),
                (None, true) => {
                    eprintln!("ringmail: partition {}: takes mail again", partition.id())
                }
                _ => {}
            }
            *before = trouble.is_some();
        }
        shard.executor.sleep(TROUBLE_INTERVAL).await;
    }
}

/// Says on standard error what reads have found since the last look.
fn tell_damage(shard: &Shard) {
    for partition in shard.partitions.iter().flatten() {
        for damage in partition.damage_news() {
            let Damage { segment, offset, what, place } = damage;
            let account = place.account.map_or(String::new(), |id| format!(" (account {id})"));
            let id = partition.id();
            eprintln!(
                "ringmail: partition {id}: damage in {segment} at offset {offset}{account}: {what}"
            );
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
