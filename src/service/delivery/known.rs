//! Which deliveries may still be repeated, so that partitions can forget the others.
//!
//! A partition remembers the id of a delivery so that a repetition is a no-op. Repetitions have
//! only two sources: a delivery in progress on some shard, and a queue. So when a partition
//! remembers many, its shard asks all shards, first for the deliveries *open* there, then for those
//! in their queues; in that order, since a delivery is queued before it is closed. Ids that neither
//! names are forgotten. None is forgotten because of its age or for lack of room: a partition with
//! too many refuses further ones instead (`StoreError::Crowded`).
//!
//! After a start only the deliveries in the queues are open, and the ids replayed from the log are
//! sorted out in the same way.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use hashbrown::{HashMap, HashSet};

use super::redelivery::{self, Queues};
use crate::{
    model::ShardId,
    plant::{Plant, planted},
    runtime::{LocalFuture, executor::Priority, mesh::Class},
    service::Shard,
    store::Partition,
};

/// How long a shard may take to list its open deliveries; it needs no disk for that.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after a round, and before another if a shard did not answer.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// A shard's record of deliveries that may be repeated.
#[derive(Default)]
pub struct Deliveries {
    /// Families of ids in use here, with their counts.
    open: RefCell<HashMap<u64, u32>>,
    /// A round is in progress.
    looking: Cell<bool>,
    pub(super) queues: Queues,
}

/// Ids of one family, the upper half, belong to one delivery.
pub(super) fn family(delivery_id: u128) -> u64 {
    (delivery_id >> 64) as u64
}

/// While it exists, no partition forgets the delivery.
pub(super) struct Open {
    shard: Rc<Shard>,
    family: u64,
}

impl Open {
    pub(super) fn new(shard: &Rc<Shard>, delivery_id: u128) -> Open {
        let family = family(delivery_id);
        *shard.deliveries.open.borrow_mut().entry(family).or_default() += 1;
        Open { shard: shard.clone(), family }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.shard.deliveries.open.borrow_mut();
        if let Some(count) = open.get_mut(&self.family) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.family);
            }
        }
    }
}

/// After a start: the replayed ids are sorted out once all shards answer.
pub(super) fn sort_out(shard: &Rc<Shard>) {
    let known = |partition: &Partition| !partition.delivery_families().is_empty();
    if shard.partitions.iter().flatten().any(known) {
        begin(shard, false);
    }
}

/// Called after a delivery that `partition` remembers.
pub(super) fn look_after(shard: &Rc<Shard>, partition: &Partition) {
    if partition.deliveries_crowded() {
        begin(shard, true);
    }
}

/// `once`: a round without an answer is given up, since the next delivery starts another.
fn begin(shard: &Rc<Shard>, once: bool) {
    if shard.deliveries.looking.replace(true) {
        return;
    }
    let looking = shard.clone();
    let task = async move {
        loop {
            let answered = forget_ended(&looking).await.is_some();
            looking.executor.sleep(LOOK_PAUSE).await;
            if once || answered || looking.shutting_down.get() {
                break;
            }
        }
        looking.deliveries.looking.set(false);
    };
    shard.executor.spawn(Priority::Background, Box::pin(task));
}

/// One round. `None` if a shard did not answer, or has not read its queues yet: it is asked again
/// later, since a request waiting there would hold a mesh credit.
async fn forget_ended(shard: &Rc<Shard>) -> Option<()> {
    // Only these: ids remembered later may belong to a delivery opened after its shard was asked.
    let own = shard.partitions.iter().flatten();
    let known: Vec<(Partition, HashSet<u64>)> =
        own.map(|partition| (partition.clone(), partition.delivery_families())).collect();
    let mut live = HashSet::new();
    let asks: [fn(&Shard) -> Option<Vec<u64>>; 2] =
        [|target| Some(open(target)), |target| redelivery::families(target)];
    for ask in asks {
        for target in 0..shard.mesh.shard_count() {
            let target = ShardId(target);
            let ask = move |target: Rc<Shard>| -> LocalFuture<'static, Option<Vec<u64>>> {
                Box::pin(std::future::ready(ask(&target)))
            };
            live.extend(shard.mesh.call(target, Class::Upkeep, ASK_TIMEOUT, ask).await.ok()??);
        }
    }
    // Partition by partition; families in any order.
    for (partition, mut families) in known {
        families.retain(|family| planted(Plant::ForgetDeliveries) || !live.contains(family));
        partition.forget_deliveries(&families);
    }
    Some(())
}

fn open(shard: &Shard) -> Vec<u64> {
    // They may come in any order: the caller makes a set of them.
    shard.deliveries.open.borrow().keys().copied().collect()
}
