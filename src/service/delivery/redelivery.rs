//! Deliveries that some partitions still lack after the client was told 250: a message in the queue
//! of a working partition, retried until it succeeds. As accounts get it, the remaining recipients
//! are reduced, durably. Accounts that refuse it, or cannot be reached for [`RETRY_TIME`], are
//! reported to the operator; for them it stays in the queue, to be tried at the next start.
//!
//! The queue is the INBOX of a reserved account ([`AccountId::QUEUE`]), one in each partition. The
//! state of a delivery is kept beside its message as annotations: number 0 is the [`Rest`] itself,
//! each further one is an account that still lacks the message. The owner's shard watches the
//! account, so putting a message there is enough to have it tried.
//!
//! The body is copied from a mailbox that has it, so that no session holds a message in memory for
//! the case of failure.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{
    CHUNK_SIZE, COMMIT_TIMEOUT, Delivery, Failure, Order, Stored, Taken,
    known::{self, family},
    new_id, owned_partition, tell,
};
use crate::{
    directory::NextHop,
    model::{AccountId, Flags, MailClass, MailboxId, PartitionId, Timestamp, Uid},
    queue::HERE,
    runtime::{LocalFuture, executor::Priority, mesh::Class},
    service::{Shard, relay},
    store::{
        Account, AnnotationChanges, Delivered, DeliveryTarget, Message, MessageBody, Partition,
        StoreError,
    },
};

/// Pause before the first retry; it doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(300);

/// How long after its arrival a message is retried (RFC 5321 4.5.4.1); an older one is tried once
/// at each start.
const RETRY_TIME: Duration = Duration::from_secs(5 * 24 * 3600);

/// Messages in a partition's queue: each costs a retrying task.
pub(super) const QUEUED_MAX: u32 = 10_000;

/// Tries of one shard that are under way at a time: each may hold a piece of its message.
const TRIES_MAX: usize = 32;

/// Messages whose annotations are read at once.
const TAKEN_UP_AT_ONCE: usize = 256;

/// Pause before a queue that could not be read is read again.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// First octet of annotation 0. The first kind is a spool payload of format 1: accounts included,
/// cut into consecutive pieces.
const KIND_OF_FORMAT_1: u8 = 1;
const KIND: u8 = 2;

/// The accounts that still lack a message.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rest {
    delivery_id: u128,
    internal_date: Timestamp,
    /// By the number of the annotation.
    recipients: BTreeMap<u32, Recipient>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Recipient {
    account: AccountId,
    /// Its copy goes to the Junk mailbox.
    quarantined: bool,
}

impl Rest {
    fn new(delivery_id: u128, order: &Order, recipients: Vec<Recipient>) -> Rest {
        let recipients = (1..).zip(recipients).collect();
        Rest { delivery_id, internal_date: order.internal_date, recipients }
    }

    fn accounts(&self) -> Vec<AccountId> {
        self.recipients.values().map(|recipient| recipient.account).collect()
    }

    fn keep(&mut self, wanted: impl Fn(&AccountId) -> bool) {
        self.recipients.retain(|_, recipient| wanted(&recipient.account));
    }

    /// Encodes it as annotations.
    fn encode(&self) -> Vec<(u32, Bytes)> {
        let mut head = Vec::with_capacity(29);
        head.push(KIND);
        head.extend_from_slice(&self.delivery_id.to_le_bytes());
        head.extend_from_slice(&self.internal_date.0.to_le_bytes());
        head.extend_from_slice(&(self.recipients.len() as u32).to_le_bytes());
        let recipient = |(number, recipient): (&u32, &Recipient)| {
            let mut value = recipient.account.0.to_le_bytes().to_vec();
            value.push(u8::from(recipient.quarantined));
            (*number, Bytes::from(value))
        };
        let recipients = self.recipients.iter().map(recipient);
        std::iter::once((0, Bytes::from(head))).chain(recipients).collect()
    }

    /// `None` for annotations of another kind.
    fn decode(values: &[(u32, Bytes)]) -> Option<Rest> {
        let (_, mut head) = values.first().filter(|(number, _)| *number == 0).cloned()?;
        match head.try_get_u8().ok()? {
            KIND => {
                let delivery_id = head.try_get_u128_le().ok()?;
                let internal_date = Timestamp(head.try_get_i64_le().ok()?);
                let count = head.try_get_u32_le().ok()? as usize;
                let mut recipients = BTreeMap::new();
                for (number, value) in values.get(1..).unwrap_or_default() {
                    let mut value = value.clone();
                    let account = AccountId(value.try_get_u64_le().ok()?);
                    let quarantined = value.try_get_u8().ok()? & 1 != 0;
                    recipients.insert(*number, Recipient { account, quarantined });
                }
                // Otherwise damage has destroyed some of them.
                (recipients.len() == count).then_some(Rest {
                    delivery_id,
                    internal_date,
                    recipients,
                })
            }
            KIND_OF_FORMAT_1 => {
                let pieces: Vec<&[u8]> = values.iter().map(|(_, value)| &value[..]).collect();
                Rest::decode_format_1(&pieces.concat())
            }
            _ => None,
        }
    }

    fn decode_format_1(payload: &[u8]) -> Option<Rest> {
        let mut payload = payload.get(1..)?;
        let delivery_id = payload.try_get_u128_le().ok()?;
        let internal_date = Timestamp(payload.try_get_i64_le().ok()?);
        // An account of the partition, which was used to read the body.
        payload.try_get_u64_le().ok()?;
        let mut recipients = BTreeMap::new();
        for number in 1.. {
            if payload.is_empty() {
                break;
            }
            let account = AccountId(payload.try_get_u64_le().ok()?);
            recipients.insert(number, Recipient { account, quarantined: false });
        }
        Some(Rest { delivery_id, internal_date, recipients })
    }
}

/// The changes that turn the `stored` annotations into the `wanted` ones.
fn changes(stored: &[(u32, Bytes)], wanted: &[(u32, Bytes)]) -> AnnotationChanges {
    let mut changes: BTreeMap<u32, Option<Bytes>> =
        stored.iter().map(|(number, _)| (*number, None)).collect();
    changes.extend(wanted.iter().map(|(number, value)| (*number, Some(value.clone()))));
    for (number, value) in stored {
        if changes.get(number).is_some_and(|wanted| wanted.as_ref() == Some(value)) {
            changes.remove(number);
        }
    }
    changes.into_iter().collect()
}

/// A shard's state for the queues of its partitions.
#[derive(Default)]
pub(super) struct Queues {
    /// The delivery family of each message being tried.
    families: RefCell<HashMap<(PartitionId, Uid), u64>>,
    /// Partitions whose queue has not been read since the start.
    unread: Cell<usize>,
    tries: Rc<Tries>,
}

/// Tries under way, and those that wait. Each end wakes one: thousands may wait.
#[derive(Default)]
struct Tries {
    under_way: Cell<usize>,
    waiting: RefCell<VecDeque<Waker>>,
}

/// One of [`TRIES_MAX`], until it is dropped.
struct Turn(Rc<Tries>);

impl Tries {
    async fn begin(self: &Rc<Tries>) -> Turn {
        poll_fn(|context| {
            if self.under_way.get() < TRIES_MAX {
                self.under_way.set(self.under_way.get() + 1);
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push_back(context.waker().clone());
            Poll::Pending
        })
        .await;
        Turn(self.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
        let next = self.0.waiting.borrow_mut().pop_front();
        next.into_iter().for_each(Waker::wake);
    }
}

/// Turns the answers of all partitions into the one that the client gets.
pub(super) async fn settle(
    shard: &Rc<Shard>,
    committed: SmallVec<[(Order, Stored); 1]>,
) -> Result<(), Failure> {
    let Left { again, refused } = Left::of(&committed);
    // A retry will not help the refused ones: the sender must be told.
    if let Some((_, failure)) = refused.first() {
        return Err(*failure);
    }
    let Some(&(_, failure)) = again.first() else { return Ok(()) };
    let accounts: Vec<AccountId> = again.into_iter().map(|(account, _)| account).collect();
    let is_quarantined = |account: &AccountId| {
        committed.iter().any(|(order, _)| order.quarantined.contains(account))
    };
    for (order, stored) in &committed {
        let Ok(Taken { copy: Some(copy), .. }) = stored else { continue };
        // Without an id, the failed accounts are known, and no other caller repeats the rest.
        let delivery = order.delivery_id.unwrap_or_else(|| new_id(shard));
        let recipient = |account: &AccountId| Recipient {
            account: *account,
            quarantined: is_quarantined(account),
        };
        let rest = Rest::new(delivery, order, accounts.iter().map(recipient).collect());
        if queue(shard, order.partition, *copy, rest).await.is_ok() {
            shard.metrics.count("delivery_queued_total", 1);
            tell::queued(shard, order, delivery, &accounts);
            return Ok(());
        }
    }
    Err(failure)
}

/// Accounts that an attempt left without the message.
#[derive(Default)]
struct Left {
    /// A retry may help.
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

/// Families of the deliveries that queues of this shard may repeat; `None` until all queues have
/// been read.
pub(super) fn families(shard: &Shard) -> Option<Vec<u64>> {
    let queues = &shard.deliveries.queues;
    // They may come in any order: the caller makes a set of them.
    let all_read = queues.unread.get() == 0 && shard.relay().is_read();
    all_read.then(|| {
        let own = queues.families.borrow().values().copied().collect::<Vec<u64>>();
        // A report to a user of ours names the domain only, and is delivered here like the others.
        let is_here = |destination: &str| {
            destination == HERE || matches!(shard.directory.next_hop(destination), NextHop::Local)
        };
        let here = shard.relay().names_at(is_here);
        own.into_iter().chain(here.into_iter().map(relay::delivery_family)).collect()
    })
}

/// Watches the queues of the shard's partitions from the start of the server: retries their
/// messages, and new ones.
pub fn follow_queues(shard: &Rc<Shard>) {
    let own = shard.partitions.iter().flatten();
    shard.deliveries.queues.unread.set(own.clone().count());
    for partition in own {
        let task = follow(shard.clone(), partition.clone());
        shard.executor.spawn(Priority::Background, Box::pin(task));
    }
    known::sort_out(shard);
}

async fn follow(shard: Rc<Shard>, partition: Partition) {
    let (mut next, mut unread) = (Uid(1), true);
    while !shard.shutting_down.get() {
        let watched = async || {
            let queue = partition.queue().await?;
            let watch = queue.watch();
            take_up(&shard, &partition, &mut next).await?;
            Ok::<_, StoreError>(watch)
        };
        match { watched }().await {
            Ok(watch) => {
                if std::mem::take(&mut unread) {
                    let queues = &shard.deliveries.queues;
                    queues.unread.set(queues.unread.get() - 1);
                }
                watch.changed().await;
            }
            Err(_) => shard.executor.sleep(LOOK_PAUSE).await,
        }
    }
}

/// Starts trying the messages in the queue from UID `next` on.
async fn take_up(
    shard: &Rc<Shard>,
    partition: &Partition,
    next: &mut Uid,
) -> Result<(), StoreError> {
    let queue = partition.queue().await?;
    let view = match queue.select(MailboxId::INBOX, false).await {
        // The queue was never used.
        Err(StoreError::NoSuchMailbox) => return Ok(()),
        view => view?,
    };
    let Some(snapshot) = view.current() else { return Ok(()) };
    loop {
        let new = snapshot.iter_from(snapshot.lower_bound(*next)).take(TAKEN_UP_AT_ONCE);
        let new: Vec<Message> = new.copied().collect();
        let (Some(first), Some(last)) = (new.first(), new.last()) else { return Ok(()) };
        let (first, last) = (first.uid, last.uid);
        let mut values = match queue.annotations(MailboxId::INBOX, first..=last).await {
            Err(StoreError::Io(_)) => readable(&queue, &new).await?,
            values => values?,
        };
        for message in &new {
            let stored = values.remove(&message.uid).unwrap_or_default();
            let rest = Rest::decode(&stored);
            // A message without recipients would have been removed: these lost them to damage.
            let Some(rest) = rest.filter(|rest| !rest.recipients.is_empty()) else {
                shard.metrics.count("delivery_given_up_total", 1);
                tell::given_up(shard, 0, partition.id(), &[], "unreadable");
                continue;
            };
            let key = (partition.id(), message.uid);
            let families = &shard.deliveries.queues.families;
            families.borrow_mut().insert(key, family(rest.delivery_id));
            let queued = Queued { partition: partition.clone(), message: *message, stored };
            let task = redeliver(shard.clone(), queued, rest);
            shard.executor.spawn(Priority::Background, Box::pin(task));
        }
        *next = Uid(last.0.saturating_add(1));
        shard.executor.yield_now().await;
    }
}

/// The annotations of `messages` that can be read, one message after the other: the disk has a bad
/// place.
async fn readable(
    queue: &Account,
    messages: &[Message],
) -> Result<BTreeMap<Uid, Vec<(u32, Bytes)>>, StoreError> {
    let mut values = BTreeMap::new();
    for message in messages {
        match queue.annotations(MailboxId::INBOX, message.uid..=message.uid).await {
            Err(StoreError::Io(_)) => {}
            found => values.extend(found?),
        }
    }
    Ok(values)
}

/// Queues on the shard that owns `partition`, which has `copy`.
async fn queue(
    shard: &Rc<Shard>,
    partition: PartitionId,
    copy: Delivered,
    rest: Rest,
) -> Result<(), Failure> {
    let owner = shard.owners[usize::from(partition.0)];
    let keep = move |target: Rc<Shard>| -> LocalFuture<'static, Result<(), Failure>> {
        Box::pin(async move { queue_here(&target, partition, copy, rest).await })
    };
    shard.mesh.call(owner, Class::Delivery, COMMIT_TIMEOUT, keep).await?
}

async fn queue_here(
    shard: &Rc<Shard>,
    partition: PartitionId,
    copy: Delivered,
    rest: Rest,
) -> Result<(), Failure> {
    // The caller may stop waiting, and no queue names the delivery yet.
    let _open = known::Open::new(shard, rest.delivery_id);
    let partition = owned_partition(shard, partition)?;
    if partition.queued().await? >= u64::from(QUEUED_MAX) {
        return Err(Failure::Unavailable);
    }
    let account = partition.account(copy.account).await?;
    let view = account.select(copy.mailbox, false).await?;
    // If it was expunged again this counts as a failure: the client will resend the message.
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
    let target = DeliveryTarget {
        account: AccountId::QUEUE,
        mailbox: None,
        flags: Flags::default(),
        keywords: Vec::new(),
        internal_date: rest.internal_date,
        annotations: rest.encode(),
    };
    let delivered = partition.deliver(staged, vec![target], None).await?;
    // Recorded at once, not only when the queue's watcher gets there.
    let families = &shard.deliveries.queues.families;
    for place in delivered {
        let key = (partition.id(), place.uid);
        families.borrow_mut().entry(key).or_insert(family(rest.delivery_id));
    }
    Ok(())
}

/// A message of a queue, with its stored annotations.
struct Queued {
    partition: Partition,
    message: Message,
    stored: Vec<(u32, Bytes)>,
}

impl Queued {
    /// Durably reduces the recipients to `rest`.
    async fn narrow(&mut self, rest: &Rest) -> Result<(), StoreError> {
        let wanted = rest.encode();
        let changes = changes(&self.stored, &wanted);
        let queue = self.partition.queue().await?;
        queue.annotate(MailboxId::INBOX, self.message.uid, changes).await?;
        self.stored = wanted;
        Ok(())
    }

    /// Removes it from the queue.
    async fn remove(&self) -> Result<(), StoreError> {
        let queue = self.partition.queue().await?;
        queue.remove(MailboxId::INBOX, &[self.message.uid]).await.map(drop)
    }
}

/// Tries until all accounts have the message, or a retry would help none of the rest, or the server
/// shuts down. A delivery that is given up stays in the queue: the next start tries it once more.
async fn redeliver(shard: Rc<Shard>, mut queued: Queued, mut rest: Rest) {
    let mut pause = RETRY_PAUSE_MIN;
    let partition = queued.partition.clone();
    // The accounts of `rest` that need no retry.
    let mut refused: Vec<AccountId> = Vec::new();
    loop {
        shard.executor.sleep(pause).await;
        if shard.shutting_down.get() {
            return;
        }
        let mut waiting = rest.accounts();
        waiting.retain(|account| !refused.contains(account));
        if !waiting.is_empty()
            && let Ok(left) = redeliver_once(&shard, &queued, &rest, &waiting).await
        {
            let final_ones: Vec<AccountId> = left.refused.into_iter().map(|(id, _)| id).collect();
            give_up(&shard, &partition, rest.delivery_id, &final_ones, "refused");
            refused.extend(final_ones);
            waiting.retain(|account| left.again.iter().any(|(other, _)| other == account));
        }
        rest.keep(|account| waiting.contains(account) || refused.contains(account));
        if rest.recipients.is_empty() && queued.remove().await.is_ok() {
            let key = (partition.id(), queued.message.uid);
            shard.deliveries.queues.families.borrow_mut().remove(&key);
            shard.metrics.count("delivery_dequeued_total", 1);
            tell::dequeued(&shard, rest.delivery_id, partition.id());
            known::look_after(&shard, &partition);
            return;
        }
        // A failure here is harmless, as ids are recognized; the next turn tries again.
        let narrowed = rest.recipients.is_empty()
            || rest.encode() == queued.stored
            || queued.narrow(&rest).await.is_ok();
        let late = shard.executor.now() > rest.internal_date.after(RETRY_TIME);
        if !rest.recipients.is_empty() && (late || waiting.is_empty()) && narrowed {
            if late {
                give_up(&shard, &partition, rest.delivery_id, &waiting, "too_late");
            }
            return;
        }
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

/// Counts and reports that `accounts` will not get a message before the next start.
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

async fn redeliver_once(
    shard: &Rc<Shard>,
    queued: &Queued,
    rest: &Rest,
    accounts: &[AccountId],
) -> Result<Left, Failure> {
    let _turn = shard.deliveries.queues.tries.begin().await;
    let mut delivery =
        Delivery::new(shard, accounts.iter().copied(), MailClass::Local).again(rest.internal_date);
    let recipients = rest.recipients.values();
    let suspect = recipients.filter(|it| it.quarantined && accounts.contains(&it.account));
    delivery.quarantine(suspect.map(|it| it.account).collect());
    let body = queued.message.body;
    let mut reader = BodyReader { partition: &queued.partition, body, offset: 0 };
    while let Some(chunk) = reader.next().await? {
        delivery.push(&chunk).await;
    }
    let committed = delivery.commit(Some(rest.delivery_id)).await;
    Ok(Left::of(&committed))
}

/// Reads a stored body from start to end.
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
        Ok(Some(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{executor::Executor, simulation::Simulation};

    fn rest(accounts: &[u64]) -> Rest {
        let recipient = |account: &u64| Recipient {
            account: AccountId(*account),
            quarantined: account.is_multiple_of(2),
        };
        Rest {
            delivery_id: u128::MAX - 5,
            internal_date: Timestamp(-3),
            recipients: (1..).zip(accounts.iter().map(recipient)).collect(),
        }
    }

    #[test]
    fn annotations_tell_the_rest() {
        for accounts in [&[][..], &[1, u64::MAX - 1, 6]] {
            let rest = rest(accounts);
            let values = rest.encode();
            assert_eq!(Rest::decode(&values), Some(rest));
            for len in 0..29 {
                let cut = [&[(0, values[0].1.slice(..len))], &values[1..]].concat();
                assert_eq!(Rest::decode(&cut), None, "{len}");
            }
            assert_eq!(Rest::decode(&values[1..]), None, "without the head");
        }
        let later = [(0, Bytes::from_static(&[KIND + 1; 40]))];
        assert_eq!(Rest::decode(&later), None);
    }

    #[test]
    fn a_spool_of_format_1_is_understood() {
        let mut payload = vec![KIND_OF_FORMAT_1];
        payload.extend_from_slice(&(u128::MAX - 5).to_le_bytes());
        payload.extend_from_slice(&(-3i64).to_le_bytes());
        payload.extend_from_slice(&9u64.to_le_bytes());
        payload.extend_from_slice(&1u64.to_le_bytes());
        payload.extend_from_slice(&3u64.to_le_bytes());
        let pieces: Vec<(u32, Bytes)> =
            (0..).zip(payload.chunks(20)).map(|(n, it)| (n, Bytes::copy_from_slice(it))).collect();
        let decoded = Rest::decode(&pieces).unwrap();
        assert_eq!(decoded, rest(&[1, 3]));
        assert_eq!(Rest::decode(&pieces[..2]), None, "the pieces' end is missing");
        // The result is then as in the current format.
        let mut stored: BTreeMap<u32, Bytes> = pieces.iter().cloned().collect();
        for (number, value) in changes(&pieces, &decoded.encode()) {
            match value {
                Some(value) => drop(stored.insert(number, value)),
                None => drop(stored.remove(&number)),
            }
        }
        assert_eq!(stored.into_iter().collect::<Vec<_>>(), decoded.encode());
    }

    #[test]
    fn few_tries_are_under_way_at_a_time() {
        let simulation = Simulation::new(1);
        let (tries, ended) = (Rc::new(Tries::default()), Rc::new(Cell::new(0)));
        let most = Rc::new(Cell::new(0));
        for _ in 0..10 * TRIES_MAX {
            let (tries, ended, most) = (tries.clone(), ended.clone(), most.clone());
            let clock = simulation.clone();
            let attempt = async move {
                let _turn = tries.begin().await;
                most.set(tries.under_way.get().max(most.get()));
                clock.sleep(Duration::from_secs(1)).await;
                ended.set(ended.get() + 1);
            };
            simulation.spawn(Priority::Background, Box::pin(attempt));
        }
        simulation.run_until(simulation.sleep(Duration::from_secs(60)));
        assert_eq!((ended.get(), most.get()), (10 * TRIES_MAX, TRIES_MAX));
    }

    #[test]
    fn narrowing_removes_what_is_done() {
        let mut rest = rest(&[1, 2, 3]);
        let stored = rest.encode();
        rest.keep(|account| *account == AccountId(2));
        let changes = changes(&stored, &rest.encode());
        let head = rest.encode().remove(0).1;
        assert_eq!(changes, [(0, Some(head)), (1, None), (3, None)]);
        // Only all of it counts.
        assert!(Rest::decode(&stored).is_some() && Rest::decode(&stored[..3]).is_none());
    }
}
