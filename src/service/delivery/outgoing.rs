//! The step from a durable copy in the queue to the attempts: on the shard that owns its partition,
//! and only once the client will be told that the whole message is accepted.

use std::{rc::Rc, sync::Arc, time::Duration};

use super::{COMMIT_TIMEOUT, Order, Stored, owned_partition};
use crate::{
    model::{PartitionId, ShardId},
    queue::{Envelope, QueueId},
    runtime::{
        LocalFuture,
        executor::Priority,
        mesh::{Class, MeshError},
    },
    service::Shard,
    store::{Delivered, Settlement, StoreError},
};

/// The copy in the queue that `stored` speaks of, and the shard of its partition.
fn copy(shard: &Shard, order: &Order, stored: &Stored) -> Option<(ShardId, QueueId)> {
    let Delivered { mailbox, uid, .. } = stored.as_ref().ok()?.queued?;
    let owner = *shard.owners.get(usize::from(order.partition.0))?;
    Some((owner, QueueId { partition: order.partition, mailbox, uid }))
}

/// Pause before another attempt to tell a shard about a message.
const TELL_PAUSE: Duration = Duration::from_secs(1);

/// The message may be sent. If the other shard cannot be told now, a task goes on trying: the
/// client has its answer, and otherwise only the next start would find it.
pub(super) async fn take_up(shard: &Rc<Shard>, order: &Order, stored: &Stored) {
    let (Some((owner, id)), Some(envelope)) = (copy(shard, order, stored), &order.outgoing) else {
        return;
    };
    if owner == shard.id {
        return take_up_here(shard, id, envelope.clone()).await;
    }
    if tell(shard, owner, id, envelope.clone()).await.is_err() {
        let (executor, envelope) = (shard.executor.clone(), envelope.clone());
        let shard = shard.clone();
        let task = async move {
            while !shard.shutting_down.get() {
                shard.executor.sleep(TELL_PAUSE).await;
                // Told twice, a message is taken up once.
                if tell(&shard, owner, id, envelope.clone()).await.is_ok() {
                    return;
                }
            }
        };
        executor.spawn(Priority::Background, Box::pin(task));
    }
}

async fn tell(
    shard: &Rc<Shard>,
    owner: ShardId,
    id: QueueId,
    envelope: Arc<Envelope>,
) -> Result<(), MeshError> {
    let take_up = move |target: Rc<Shard>| -> LocalFuture<'static, ()> {
        Box::pin(async move { take_up_here(&target, id, envelope).await })
    };
    shard.mesh.call(owner, Class::Delivery, COMMIT_TIMEOUT, take_up).await
}

async fn take_up_here(shard: &Rc<Shard>, id: QueueId, envelope: Arc<Envelope>) {
    let Ok(partition) = owned_partition(shard, id.partition) else { return };
    let envelope = Rc::new(Arc::unwrap_or_clone(envelope));
    shard.relay().take_in(&partition, id, envelope).await;
}

/// The message was refused in the end: it must not be sent.
pub(super) async fn take_back(shard: &Rc<Shard>, order: &Order, stored: &Stored) {
    let Some((owner, id)) = copy(shard, order, stored) else { return };
    let take_back = move |target: Rc<Shard>| -> LocalFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            let partition: PartitionId = id.partition;
            let Ok(partition) = owned_partition(&target, partition) else { return Ok(()) };
            let account = partition.queue().await?;
            account.settle(id.mailbox, id.uid, Settlement::Removed, None).await.map(drop)
        })
    };
    // If this fails, the client sends it again, and it goes out twice.
    let _ = shard.mesh.call(owner, Class::Delivery, COMMIT_TIMEOUT, take_back).await;
}
