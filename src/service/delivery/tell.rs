//! Events of deliveries for the operator: each mailbox that gets a message, and the actions of the
//! queue.
//!
//! They are reported on the shard that knows: the owner of the partition that stored the message,
//! or the session's shard if none did. The message's trail comes with its order; retries after a
//! restart have only the delivery's number, which the event `queued` gives beside the trail.

use super::{Order, Stored};
use crate::{
    events::{Event, Kind},
    model::{AccountId, PartitionId},
    service::Shard,
    store::Delivered,
};

/// A partition has the message durably.
pub(super) fn delivered(shard: &Shard, order: &Order, delivered: &[Delivered], octets: u64) {
    // The queue has events of its own.
    let mailboxes = delivered.iter().filter(|it| it.account != AccountId::QUEUE);
    for Delivered { account, mailbox, uid, .. } in mailboxes {
        shard.tell(&Event::Delivered {
            trail: order.trail,
            delivery: order.delivery_id,
            partition: order.partition,
            account: *account,
            mailbox: *mailbox,
            uid: *uid,
            octets,
        });
    }
}

/// Accounts for which a partition did not store the message, as their session's shard learns it.
pub(super) fn failed(shard: &Shard, order: &Order, stored: &Stored) {
    if !shard.events.wants(Kind::Deliveries) {
        return;
    }
    let tell = |account: AccountId, why: &super::Failure| {
        shard.tell(&Event::DeliveryFailed {
            trail: order.trail,
            delivery: order.delivery_id,
            partition: order.partition,
            account,
            reason: why.name(),
        });
    };
    match stored {
        Ok(taken) => taken.failed.iter().for_each(|(account, why)| tell(*account, why)),
        Err(why) => order.accounts.iter().for_each(|account| tell(*account, why)),
    }
}

/// Some accounts lack a message, and it is in the queue of `partition` for them.
pub(super) fn queued(shard: &Shard, order: &Order, delivery: u128, accounts: &[AccountId]) {
    let (trail, partition) = (order.trail, order.partition);
    let count = accounts.len() as u64;
    shard.tell(&Event::Queued { trail, delivery, partition, accounts, count });
}

pub(super) fn dequeued(shard: &Shard, delivery: u128, partition: PartitionId) {
    shard.tell(&Event::Dequeued { delivery, partition });
}

/// `accounts` will not get a message before the next start.
pub(super) fn given_up(
    shard: &Shard,
    delivery: u128,
    partition: PartitionId,
    accounts: &[AccountId],
    reason: &'static str,
) {
    let count = accounts.len() as u64;
    shard.tell(&Event::GivenUp { delivery, partition, accounts, count, reason });
}
