//! What is left of a delivery when some partitions took it and others did not, yet the client was
//! told 250: kept in the spool of a partition that works, and tried again until it succeeds. As accounts
//! get it the rest is narrowed, durably. Who refuses it, or cannot be reached for [`RETRY_TIME`], is
//! named to the operator; for them it stays in the spool, to be tried at the next start.
//!
//! The body is copied from the mailbox that has it, so that no session holds a message in memory
//! for the case of failure.

use std::{rc::Rc, time::Duration};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::{
    CHUNK_SIZE, COMMIT_TIMEOUT, Delivery, Failure, Order, Stored, Taken,
    known::{self, family},
    new_id, owned_partition, tell,
};
use crate::{
    model::{AccountId, PartitionId, Timestamp},
    runtime::{LocalFuture, executor::Priority, mesh::Class},
    service::{Shard, budget::Trust},
    store::{Delivered, MessageBody, Partition, Spooled, StoreError},
};

/// Pause before the first new try; it doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(300);

/// How long after its arrival a message is tried again (RFC 5321 4.5.4.1); what is older is tried once
/// at each start.
const RETRY_TIME: Duration = Duration::from_secs(5 * 24 * 3600);

/// First octet of a spool payload of this kind; other kinds belong to others.
const PAYLOAD_KIND: u8 = 1;

/// Who still has to get a message.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rest {
    delivery_id: u128,
    internal_date: Timestamp,
    /// Some account of the partition that spools; older versions read the body by it.
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
    let Left { again, refused } = Left::of(&committed);
    // Trying again will not help the refused ones: the sender must learn of them.
    if let Some((_, failure)) = refused.first() {
        return Err(*failure);
    }
    let Some(&(_, failure)) = again.first() else { return Ok(()) };
    let accounts: Vec<AccountId> = again.into_iter().map(|(account, _)| account).collect();
    for (order, stored) in &committed {
        let Ok(Taken { copy: Some(copy), .. }) = stored else { continue };
        // Where there is none, what failed is known, and nobody repeats the rest.
        let delivery = order.delivery_id.unwrap_or_else(|| new_id(shard));
        let rest = Rest {
            delivery_id: delivery,
            internal_date: order.internal_date,
            reader: copy.account,
            accounts: accounts.clone(),
        };
        if spool(shard, order.partition, *copy, rest).await.is_ok() {
            shard.metrics.count("delivery_spooled_total", 1);
            tell::spooled(shard, order, delivery, &accounts);
            return Ok(());
        }
    }
    Err(failure)
}

/// Accounts that a try left without the message.
#[derive(Default)]
struct Left {
    /// Another try may help.
    again: Vec<(AccountId, Failure)>,
    refused: Vec<(AccountId, Failure)>,
}

impl Left {
    fn of(committed: &[(Order, Stored)]) -> Left {
        let mut left = Left::default();
        for (order, stored) in committed {
            match stored {
                Ok(taken) => {
                    taken.failed.iter().for_each(|(account, why)| left.add(*account, *why))
                }
                Err(why) => order.accounts.iter().for_each(|account| left.add(*account, *why)),
            }
        }
        left
    }

    fn add(&mut self, account: AccountId, why: Failure) {
        match why {
            Failure::Refused => self.refused.push((account, why)),
            why => self.again.push((account, why)),
        }
    }
}

/// Families of the deliveries that spools of this shard may repeat.
pub(super) fn families(shard: &Shard) -> Vec<u64> {
    let spooled = shard.partitions.iter().flatten().flat_map(Partition::spooled);
    spooled
        .filter_map(|spooled| Some(family(Rest::decode(&spooled.payload)?.delivery_id)))
        .collect()
}

/// Starts again, after a start of the server, what its partitions' spools hold.
pub fn resume_spool(shard: &Rc<Shard>) {
    known::sort_out(shard);
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
    // The asker may give up waiting, and no spool names the delivery yet.
    let _open = known::Open::new(shard, rest.delivery_id);
    let partition = owned_partition(shard, partition)?;
    let account = partition.account(copy.account).await?;
    let view = account.select(copy.mailbox, false).await?;
    // Already gone again is as good as a failure: the client will send the message once more.
    let snapshot = view.current().ok_or(Failure::Unavailable)?;
    let index = snapshot.index_of(copy.uid).ok_or(Failure::Unavailable)?;
    let body = snapshot.get(index).ok_or(Failure::Unavailable)?.body;
    let mut writer = partition.stage();
    let mut reader = BodyReader { partition: &partition, body, offset: 0 };
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

/// Tries until everybody has the message, or nobody is left whom another try may help, or the server
/// shuts down; the spool keeps it. What is given up stays there too: the next start tries it once more.
async fn redeliver(shard: Rc<Shard>, partition: Partition, mut spooled: Spooled, mut rest: Rest) {
    let mut pause = RETRY_PAUSE_MIN;
    // Of `rest`, those that need no other try.
    let mut refused: Vec<AccountId> = Vec::new();
    loop {
        shard.executor.sleep(pause).await;
        if shard.shutting_down.get() {
            return;
        }
        let mut waiting = rest.accounts.clone();
        waiting.retain(|account| !refused.contains(account));
        if !waiting.is_empty()
            && let Ok(left) = redeliver_once(&shard, &partition, &spooled, &rest, &waiting).await
        {
            let final_ones: Vec<AccountId> = left.refused.into_iter().map(|(id, _)| id).collect();
            give_up(&shard, &partition, rest.delivery_id, &final_ones, "refused");
            refused.extend(final_ones);
            waiting.retain(|account| left.again.iter().any(|(other, _)| other == account));
        }
        let open = |account: &AccountId| waiting.contains(account) || refused.contains(account);
        rest.accounts.retain(open);
        if rest.accounts.is_empty() && partition.unspool(spooled.lsn).await.is_ok() {
            shard.metrics.count("delivery_unspooled_total", 1);
            tell::unspooled(&shard, rest.delivery_id, partition.id());
            known::look_after(&shard, &partition);
            return;
        }
        // A spool that could not be narrowed is harmless, as ids are known; the next turn tries again.
        if !rest.accounts.is_empty()
            && Rest::decode(&spooled.payload).is_some_and(|stored| stored != rest)
            && let Ok(narrowed) = narrow(&partition, &spooled, &rest).await
        {
            spooled = narrowed;
        }
        let late = shard.executor.now() > rest.internal_date.after(RETRY_TIME);
        let stored = Rest::decode(&spooled.payload).is_none_or(|stored| stored == rest);
        if !rest.accounts.is_empty() && (late || waiting.is_empty()) && stored {
            if late {
                give_up(&shard, &partition, rest.delivery_id, &waiting, "too_late");
            }
            return;
        }
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

/// Counts and tells that `accounts` will not get a message before the next start.
fn give_up(
    shard: &Shard,
    partition: &Partition,
    delivery: u128,
    accounts: &[AccountId],
    why: &'static str,
) {
    if accounts.is_empty() {
        return;
    }
    shard.metrics.count("delivery_given_up_total", accounts.len() as u64);
    tell::given_up(shard, delivery, partition.id(), accounts, why);
}

/// Makes durable that only `rest` is left.
async fn narrow(
    partition: &Partition,
    spooled: &Spooled,
    rest: &Rest,
) -> Result<Spooled, StoreError> {
    let lsn = partition.respool(spooled, rest.encode()).await?;
    let mut all = partition.spooled().into_iter();
    all.find(|spooled| spooled.lsn == lsn).ok_or(StoreError::Poisoned)
}

async fn redeliver_once(
    shard: &Rc<Shard>,
    partition: &Partition,
    spooled: &Spooled,
    rest: &Rest,
    accounts: &[AccountId],
) -> Result<Left, Failure> {
    let mut delivery =
        Delivery::new(shard, accounts.iter().copied(), Trust::Known).again(rest.internal_date);
    let mut reader = BodyReader { partition, body: spooled.body, offset: 0 };
    while let Some(chunk) = reader.next().await? {
        delivery.push(&chunk).await;
    }
    let committed = delivery.commit(Some(rest.delivery_id)).await;
    Ok(Left::of(&committed))
}

/// Reads a stored body from front to back.
struct BodyReader<'a> {
    partition: &'a Partition,
    body: MessageBody,
    offset: u64,
}

impl BodyReader<'_> {
    /// At most [`CHUNK_SIZE`] octets; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.offset >= self.body.size {
            return Ok(None);
        }
        let chunk = self.partition.read_body(&self.body, self.offset, CHUNK_SIZE).await?;
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
