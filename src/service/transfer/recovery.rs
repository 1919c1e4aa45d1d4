//! Moves between partitions that were begun and whose end is not known: after a start, or because
//! the other shard or a disk did not answer. One task for each shard asks for its partitions: the
//! target of each intent whether the messages have arrived, and the source of each arrival whether
//! its intent is gone.

use std::{cell::RefCell, rc::Rc, time::Duration};

use hashbrown::HashSet;

use super::Shard;
use crate::{
    model::{AccountId, PartitionId},
    runtime::{LocalFuture, executor::Priority, mesh::Class, wait::Signal},
    store::{Arrived, Begun, Copied, Partition, Ticket},
};

/// How long another shard may take to answer; its disk may have to.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before a round; after one that left something it doubles, up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// A shard's moves to and from other partitions.
#[derive(Default)]
pub struct Transfers {
    /// Moves that a session here is carrying out.
    open: RefCell<HashSet<u128>>,
    /// There may be something to do.
    wanted: Signal,
}

impl Transfers {
    pub(super) fn look(&self) {
        self.wanted.set();
    }
}

/// While it exists, recovery leaves the move alone.
pub(super) struct Open {
    shard: Rc<Shard>,
    ticket: Ticket,
    is_done: bool,
}

impl Open {
    pub(super) fn new(shard: &Rc<Shard>, ticket: Ticket) -> Open {
        shard.transfers.open.borrow_mut().insert(ticket.0);
        Open { shard: shard.clone(), ticket, is_done: false }
    }

    /// Nothing is left for recovery.
    pub(super) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shard.transfers.open.borrow_mut().remove(&self.ticket.0);
        if !self.is_done {
            self.shard.transfers.look();
        }
    }
}

/// Starts the shard's task, which also takes up what an earlier life of the server left.
pub fn follow(shard: &Rc<Shard>) {
    shard.transfers.look();
    let shard = shard.clone();
    let executor = shard.executor.clone();
    let task = async move {
        let mut pause = Duration::ZERO;
        while !shard.shutting_down.get() {
            if pause.is_zero() {
                shard.transfers.wanted.take().await;
                pause = RETRY_PAUSE_MIN;
            }
            let wait = shard.executor.sleep(pause);
            // What is new is not to wait for what cannot be settled.
            let new = async {
                shard.transfers.wanted.take().await;
                shard.executor.sleep(RETRY_PAUSE_MIN).await;
            };
            futures_lite::future::or(wait, new).await;
            pause = match round(&shard).await {
                true => Duration::ZERO,
                false => (pause * 2).min(RETRY_PAUSE_MAX),
            };
        }
    };
    executor.spawn(Priority::Background, Box::pin(task));
}

/// True if nothing is left to do, except by sessions.
async fn round(shard: &Rc<Shard>) -> bool {
    let mut all = true;
    // Each of them would be waited for.
    let mut silent: HashSet<PartitionId> = HashSet::new();
    for partition in shard.partitions.iter().flatten() {
        for begun in partition.moves().begun() {
            let to = shard.partition_of(begun.target.0);
            if shard.transfers.open.borrow().contains(&begun.ticket.0) {
                continue;
            }
            let settled = match silent.contains(&to) {
                true => None,
                false => settle(shard, partition, begun).await,
            };
            if settled.is_none() {
                silent.insert(to);
            }
            all &= settled == Some(true);
        }
        for arrived in partition.moves().arrivals() {
            let from = shard.partition_of(arrived.source);
            let settled = match silent.contains(&from) {
                true => None,
                false => sort_out(shard, partition, arrived).await,
            };
            if settled.is_none() {
                silent.insert(from);
            }
            all &= settled == Some(true);
        }
    }
    all
}

/// Finishes or cancels a move of ours. Whether that is done; `None` if the target does not answer.
async fn settle(shard: &Rc<Shard>, partition: &Partition, begun: Begun) -> Option<bool> {
    let Begun { ticket, target, .. } = begun;
    let moves = partition.moves();
    let (settled, counter) = match ask(shard, target.0, ticket).await? {
        Some(_) => (moves.finish(ticket).await, "moves_finished_late_total"),
        None => (moves.cancel(ticket).await, "moves_cancelled_total"),
    };
    if settled.is_ok() {
        shard.metrics.count(counter, 1);
        forget(shard, target.0, ticket);
    }
    Some(settled.is_ok())
}

/// Whether the messages of a move have arrived, and where; `None` if that is not known. If they
/// have not, they never will.
pub(super) async fn ask(
    shard: &Rc<Shard>,
    target: AccountId,
    ticket: Ticket,
) -> Option<Option<Copied>> {
    let ask = move |there: Rc<Shard>| -> LocalFuture<'static, Option<Option<Copied>>> {
        Box::pin(async move { there.local_partition(target)?.moves().arrived(ticket).await.ok() })
    };
    let owner = shard.owner_of(target);
    shard.mesh.call(owner, Class::Delivery, ASK_TIMEOUT, ask).await.ok()?
}

/// Tells the target that the move is finished; it need not hear it.
pub(super) fn forget(shard: &Rc<Shard>, target: AccountId, ticket: Ticket) {
    let tell = move |there: Rc<Shard>| -> LocalFuture<'static, ()> {
        Box::pin(async move {
            if let Some(partition) = there.local_partition(target) {
                let _ = partition.moves().forget(ticket).await;
            }
        })
    };
    let (shard, executor) = (shard.clone(), shard.executor.clone());
    let told = async move {
        let owner = shard.owner_of(target);
        let _ = shard.mesh.call(owner, Class::Delivery, ASK_TIMEOUT, tell).await;
    };
    executor.spawn(Priority::Background, Box::pin(told));
}

/// Forgets what arrived if its source knows. Whether nothing is left to do; `None` if the source
/// does not answer.
async fn sort_out(shard: &Rc<Shard>, partition: &Partition, arrived: Arrived) -> Option<bool> {
    let Arrived { ticket, source } = arrived;
    let ask = move |there: Rc<Shard>| -> LocalFuture<'static, bool> {
        let begun = there.local_partition(source).map(|it| it.moves().is_begun(ticket));
        Box::pin(std::future::ready(begun.unwrap_or(true)))
    };
    let owner = shard.owner_of(source);
    let is_begun = shard.mesh.call(owner, Class::Upkeep, ASK_TIMEOUT, ask).await.ok()?;
    Some(!is_begun && partition.moves().forget(ticket).await.is_ok())
}
