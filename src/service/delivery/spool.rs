//! What is left of a delivery when some partitions took it and others did not, yet the client was
//! told 250: kept in the spool of a partition that works, and tried again until it succeeds.
//!
//! The body is copied from the mailbox that has it, so that no session holds a message in memory
//! for the case of failure.

use std::{rc::Rc, time::Duration};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::{CHUNK_SIZE, COMMIT_TIMEOUT, Delivery, Failure, Order, Stored, owned_partition};
use crate::{
    model::{AccountId, PartitionId, Timestamp},
    runtime::{LocalFuture, executor::Priority, mesh::Class},
    service::Shard,
    store::{Account, Delivered, MessageBody, Partition, Spooled, StoreError},
};

/// Pause before the first new try; it doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(300);

/// First octet of a spool payload of this kind; other kinds belong to others.
const PAYLOAD_KIND: u8 = 1;

/// Who still has to get a message.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rest {
    delivery_id: u128,
    internal_date: Timestamp,
    /// Some account of the partition that spools, to read the body by.
    reader: AccountId,
    accounts: Vec<AccountId>,
}

impl Rest {
    fn encode(&self) -> Bytes {
        let mut payload = Vec::with_capacity(33 + 8 * self.accounts.len());
        payload.push(PAYLOAD_KIND);
        payload.extend_from_slice(&self.delivery_id.to_le_bytes());
        payload.extend_from_slice(&self.internal_date.0.to_le_bytes());
        payload.extend_from_slice(&self.reader.0.to_le_bytes());
        for account in &self.accounts {
            payload.extend_from_slice(&account.0.to_le_bytes());
        }
        Bytes::from(payload)
    }

    /// `None` for payloads of another kind.
    fn decode(mut payload: &[u8]) -> Option<Rest> {
        if payload.try_get_u8().ok()? != PAYLOAD_KIND {
            return None;
        }
        let delivery_id = payload.try_get_u128_le().ok()?;
        let internal_date = Timestamp(payload.try_get_i64_le().ok()?);
        let reader = AccountId(payload.try_get_u64_le().ok()?);
        let mut accounts = Vec::with_capacity(payload.len() / 8);
        while !payload.is_empty() {
            accounts.push(AccountId(payload.try_get_u64_le().ok()?));
        }
        Some(Rest { delivery_id, internal_date, reader, accounts })
    }
}

/// Turns the answers of all partitions into the one that the client gets.
pub(super) async fn settle(
    shard: &Rc<Shard>,
    committed: SmallVec<[(Order, Stored); 1]>,
) -> Result<(), Failure> {
    let failures = || committed.iter().filter_map(|(_, stored)| stored.as_ref().err().copied());
    let Some(failure) = failures().next() else {
        return Ok(());
    };
    // Trying again will not help the refused ones: the sender must learn of them.
    if failures().any(|failure| failure == Failure::Refused) {
        return Err(Failure::Refused);
    }
    for (order, stored) in &committed {
        let (Ok(Some(copy)), Some(delivery_id)) = (stored, order.delivery_id) else { continue };
        let accounts = committed
            .iter()
            .filter(|(_, stored)| stored.is_err())
            .flat_map(|(order, _)| order.accounts.iter().copied())
            .collect();
        let internal_date = order.internal_date;
        let rest = Rest { delivery_id, internal_date, reader: copy.account, accounts };
        if spool(shard, order.partition, *copy, rest).await.is_ok() {
            shard.metrics.count("delivery_spooled_total", 1);
            return Ok(());
        }
    }
    Err(failure)
}

/// Starts again, after a start of the server, what its partitions' spools hold.
pub fn resume_spool(shard: &Rc<Shard>) {
    for partition in shard.partitions.iter().flatten() {
        for spooled in partition.spooled() {
            if let Some(rest) = Rest::decode(&spooled.payload) {
                start_redelivery(shard, partition.clone(), spooled, rest);
            }
        }
    }
}

/// Spools on the shard that owns `partition`, which holds `copy`.
async fn spool(
    shard: &Rc<Shard>,
    partition: PartitionId,
    copy: Delivered,
    rest: Rest,
) -> Result<(), Failure> {
    let owner = shard.owners[usize::from(partition.0)];
    let keep = move |target: Rc<Shard>| -> LocalFuture<'static, Result<(), Failure>> {
        Box::pin(async move { spool_here(&target, partition, copy, rest).await })
    };
    shard.mesh.call(owner, Class::Delivery, COMMIT_TIMEOUT, keep).await?
}

async fn spool_here(
    shard: &Rc<Shard>,
    partition: PartitionId,
    copy: Delivered,
    rest: Rest,
) -> Result<(), Failure> {
    let partition = owned_partition(shard, partition)?;
    let account = partition.account(copy.account).await?;
    let view = account.select(copy.mailbox, false).await?;
    // Already gone again is as good as a failure: the client will send the message once more.
    let snapshot = view.current().ok_or(Failure::Unavailable)?;
    let index = snapshot.index_of(copy.uid).ok_or(Failure::Unavailable)?;
    let body = snapshot.get(index).ok_or(Failure::Unavailable)?.body;
    let mut writer = partition.stage();
    let mut reader = BodyReader { account: &account, body, offset: 0 };
    while let Some(chunk) = reader.next().await? {
        writer.write(&chunk).await?;
    }
    let summary = account.read_summary(&body).await?;
    let staged = writer.finish(summary.to_vec()).await?;
    let lsn = partition.spool(staged, rest.encode()).await?;
    if let Some(spooled) = partition.spooled().into_iter().find(|spooled| spooled.lsn == lsn) {
        start_redelivery(shard, partition, spooled, rest);
    }
    Ok(())
}

fn start_redelivery(shard: &Rc<Shard>, partition: Partition, spooled: Spooled, rest: Rest) {
    let task = redeliver(shard.clone(), partition, spooled, rest);
    shard.executor.spawn(Priority::Background, Box::pin(task));
}

/// Tries until all partitions have the message, or the server shuts down; the spool keeps it.
async fn redeliver(shard: Rc<Shard>, partition: Partition, spooled: Spooled, rest: Rest) {
    let mut pause = RETRY_PAUSE_MIN;
    loop {
        shard.executor.sleep(pause).await;
        if shard.shutting_down.get() {
            return;
        }
        if redeliver_once(&shard, &partition, &spooled, &rest).await.is_ok()
            && partition.unspool(spooled.lsn).await.is_ok()
        {
            shard.metrics.count("delivery_unspooled_total", 1);
            return;
        }
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

async fn redeliver_once(
    shard: &Rc<Shard>,
    partition: &Partition,
    spooled: &Spooled,
    rest: &Rest,
) -> Result<(), Failure> {
    let account = partition.account(rest.reader).await?;
    let mut delivery = Delivery::new(shard, &rest.accounts).with_internal_date(rest.internal_date);
    let mut reader = BodyReader { account: &account, body: spooled.body, offset: 0 };
    while let Some(chunk) = reader.next().await? {
        delivery.push(&chunk).await;
    }
    let committed = delivery.commit(Some(rest.delivery_id)).await;
    committed.into_iter().try_for_each(|(_, stored)| stored.map(|_| ()))
}

/// Reads a stored body from front to back.
struct BodyReader<'a> {
    account: &'a Account,
    body: MessageBody,
    offset: u64,
}

impl BodyReader<'_> {
    /// At most [`CHUNK_SIZE`] octets; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.offset >= self.body.size {
            return Ok(None);
        }
        let chunk = self.account.read_body(&self.body, self.offset, CHUNK_SIZE).await?;
        self.offset += chunk.len() as u64;
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads() {
        let check = |accounts: &[u64]| {
            let rest = Rest {
                delivery_id: u128::MAX - 5,
                internal_date: Timestamp(-3),
                reader: AccountId(9),
                accounts: accounts.iter().copied().map(AccountId).collect(),
            };
            let payload = rest.encode();
            assert_eq!(Rest::decode(&payload), Some(rest));
            for len in 0..33 {
                assert_eq!(Rest::decode(&payload[..len]), None, "{len}");
            }
            assert_eq!(Rest::decode(&[&[PAYLOAD_KIND + 1], &payload[1..]].concat()), None);
        };
        check(&[]);
        check(&[1, u64::MAX]);
    }
}
