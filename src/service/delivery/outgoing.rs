//! The step from a durable copy in the queue to the attempts: on the shard that owns its partition,
//! and only once the client will be told that the whole message is accepted.

use std::{rc::Rc, sync::Arc};

use super::{COMMIT_TIMEOUT, Order, Stored, owned_partition};
use crate::{
    model::{PartitionId, ShardId},
    queue::{Envelope, QueueId},
    runtime::{LocalFuture, mesh::Class},
    service::Shard,
    store::{Delivered, Settlement, StoreError},
};

/// The copy in the queue that `stored` speaks of, and the shard of its partition.
fn copy(shard: &Shard, order: &Order, stored: &Stored) -> Option<(ShardId, QueueId)> {
    let Delivered { mailbox, uid, .. } = stored.as_ref().ok()?.queued?;
    let owner = *shard.owners.get(usize::from(order.partition.0))?;
    Some((owner, QueueId { partition: order.partition, mailbox, uid }))
}

/// The message may be sent. If the other shard cannot be told, its next start finds it.
pub(super) async fn take_up(shard: &Rc<Shard>, order: &Order, stored: &Stored) {
    let (Some((owner, id)), Some(envelope)) = (copy(shard, order, stored), &order.outgoing) else {
        return;
    };
    if owner == shard.id {
        return take_up_here(shard, id, envelope.clone()).await;
    }
    let envelope = envelope.clone();
    let take_up = move |target: Rc<Shard>| -> LocalFuture<'static, ()> {
        Box::pin(async move { take_up_here(&target, id, envelope).await })
    };
    let _ = shard.mesh.call(owner, Class::Delivery, COMMIT_TIMEOUT, take_up).await;
}

async fn take_up_here(shard: &Rc<Shard>, id: QueueId, envelope: Arc<Envelope>) {
    let Ok(partition) = owned_partition(shard, id.partition) else { return };
    if let Some(body) = crate::queue::body_of(&partition, id.mailbox, id.uid).await {
        shard.relay().admit(id, body, &Rc::new(Arc::unwrap_or_clone(envelope)));
    }
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
    // Failing that, the client sends it again, and it is sent twice.
    let _ = shard.mesh.call(owner, Class::Delivery, COMMIT_TIMEOUT, take_back).await;
}
