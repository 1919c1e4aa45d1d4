//! The only way of a message into mailboxes: SMTP, submission and LMTP sessions, and later the
//! queue, pass it the octets as they arrive and get one verdict for each partition.
//!
//! A [`Delivery`] derives the summary while the octets pass and stages them in every partition that
//! holds a recipient: directly in the log buffer if this shard owns the partition, otherwise over
//! the mesh, small messages in one call, larger ones chunk by chunk through a queue of
//! [`CHUNKS_IN_FLIGHT`], whose free places are the credits. The staged body can be read
//! ([`Delivery::read`]), and its prologue is set when it is complete ([`Delivery::prepend`]).
//! `finish` commits in all partitions concurrently and returns when each is durable or refused.
//!
//! **One reply for several partitions** (SMTP DATA). If some partitions refused after others
//! committed, neither "yes" nor "no" would be true. Then the missing deliveries are put durably
//! into the queue of a partition that did commit, and a task of that partition's shard repeats them
//! until they succeed, after a restart too ([`follow_queues`]). All attempts carry one delivery id,
//! by which a partition whose first answer was lost recognizes that it has the message.
//!
//! Ownership: shard-local. Memory: at most one chunk of [`CHUNK_SIZE`] here and
//! [`CHUNKS_IN_FLIGHT`] for each remote partition, less when the shard's message budget is short,
//! and counted there (`service/budget.rs`). Dropping a delivery before `finish` leaves only garbage
//! in logs.

use std::{future::poll_fn, rc::Rc, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Shard, budget::Charge, quota};
use crate::{
    events::Limit,
    model::{AccountId, Flags, MailClass, PartitionId, Timestamp, Trail},
    plant::{Plant, planted},
    protocol::mime::Summarizer,
    queue::{self, Envelope},
    runtime::{
        LocalFuture,
        executor::Priority,
        mesh::{Class, MeshError},
        stream::{Incoming, Outgoing},
        worker::{self, Answer},
    },
    store::{self, BodyWriter, Delivered, DeliveryId, DeliveryTarget, Partition, StoreError},
};

mod conversion;
mod known;
mod outgoing;
mod posting;
mod redelivery;
mod tell;

pub use known::Deliveries;
pub use posting::{Poster, Posting, posting};
pub use redelivery::follow_queues;

use known::Open;
use posting::Posts;

/// Octets sent to another shard at a time.
const CHUNK_SIZE: usize = crate::store::BODY_CHUNK;
/// Chunks sent to another shard and not yet received.
const CHUNKS_IN_FLIGHT: usize = 2;
/// How long another shard may take to store a complete message, or to start receiving one in
/// chunks.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a partition did not store the message. Unlike `StoreError` it can be sent to other shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    #[error("the disk is full")]
    Full,
    /// Storage failed or did not answer: whether the message was stored is unknown.
    #[error("storage is in trouble")]
    Unavailable,
    /// The message itself cannot be stored.
    #[error("the message is refused")]
    Refused,
    /// An account has reached its quota.
    #[error("the account is full")]
    OverQuota,
    /// The messages being received hold too much memory.
    #[error("out of memory for messages")]
    NoMemory,
}

impl Failure {
    /// The name in events.
    fn name(self) -> &'static str {
        match self {
            Failure::Full => "disk_full",
            Failure::Unavailable => "storage",
            Failure::Refused => "refused",
            Failure::OverQuota => "over_quota",
            Failure::NoMemory => "memory",
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::Full => Failure::Full,
            StoreError::OverQuota => Failure::OverQuota,
            StoreError::NoSuchMailbox
            | StoreError::MailboxExists
            | StoreError::NotPermitted(_)
            | StoreError::Limit(_) => Failure::Refused,
            _ => Failure::Unavailable,
        }
    }
}

impl From<MeshError> for Failure {
    fn from(_: MeshError) -> Failure {
        Failure::Unavailable
    }
}

/// A partition's answer after storing the message for some accounts.
#[derive(Clone)]
struct Taken {
    /// The location of one copy, unless all accounts had the message already.
    copy: Option<Delivered>,
    /// The location of the copy in the queue for other servers.
    queued: Option<Delivered>,
    /// Accounts that certainly did not get it.
    failed: Vec<(AccountId, Failure)>,
}

type Stored = Result<Taken, Failure>;

/// Memory of a stream to another shard besides its chunks, bytes: two channels and two tasks.
const STREAM: usize = 5 * 1024;

/// The Junk mailbox of new accounts, and its keyword. Accounts without one get the copy in INBOX.
const QUARANTINE_MAILBOX: &str = "Junk";
const QUARANTINE_KEYWORD: &str = "$Junk";

/// A message on its way to its recipients' mailboxes.
pub struct Delivery {
    shard: Rc<Shard>,
    summarizer: Summarizer,
    /// There is NUL in the pushed octets.
    has_nul: bool,
    /// The prologue, which goes before the pushed octets.
    prologue: Vec<u8>,
    /// Accounts whose copy goes to the Junk mailbox.
    quarantined: Accounts,
    posts: Option<Arc<Posts>>,
    parts: SmallVec<[Part; 1]>,
    /// Octets not yet sent to remote partitions; unused if all are local.
    pending: Vec<u8>,
    /// Size of the last chunk sent: as much may be in transit to each remote partition.
    sent: usize,
    charge: Charge,
    internal_date: Timestamp,
    repetition: bool,
    trail: Option<Trail>,
    /// The envelope for recipients elsewhere, if the message has any.
    outgoing: Option<Arc<Envelope>>,
}

pub type Accounts = SmallVec<[AccountId; 1]>;

/// The recipients of one partition.
struct Part {
    partition: PartitionId,
    accounts: Accounts,
    stage: Stage,
}

enum Stage {
    Local {
        partition: Partition,
        writer: BodyWriter,
    },
    /// On another shard, nothing sent yet.
    Remote,
    /// On another shard, receiving chunks.
    Streaming(Outgoing<Piece, Stored>),
    Failed(Failure),
}

/// Data sent to another shard while a message is received.
enum Piece {
    Chunk(Bytes),
    /// A request for staged octets from this offset on.
    Read {
        offset: u64,
        answer: Answer<Result<Bytes, Failure>>,
    },
    /// The message is complete.
    Commit {
        prologue: Bytes,
        summary: Bytes,
        quarantined: Accounts,
        delivery_id: Option<u128>,
        outgoing: Option<Arc<Envelope>>,
    },
}

/// How to commit one partition's share once the message is complete. Can be sent to other shards.
#[derive(Clone)]
struct Order {
    partition: PartitionId,
    class: MailClass,
    accounts: Accounts,
    quarantined: Accounts,
    posts: Option<Arc<Posts>>,
    internal_date: Timestamp,
    delivery_id: Option<u128>,
    /// As [`DeliveryId::repetition`].
    repetition: bool,
    /// The message's trail, for events.
    trail: Option<Trail>,
    /// With [`AccountId::QUEUE`] among the accounts.
    outgoing: Option<Arc<Envelope>>,
}

impl Order {
    /// `outgoing`: the mailbox of the queue that takes new messages.
    fn targets(&self, outgoing: &str) -> Vec<DeliveryTarget> {
        let target = |&account| {
            if account == AccountId::QUEUE
                && let Some(envelope) = &self.outgoing
            {
                return queue::target(envelope, self.internal_date, outgoing);
            }
            let quarantined = self.quarantined.contains(&account);
            let (mailbox, keyword) = (QUARANTINE_MAILBOX.to_owned(), QUARANTINE_KEYWORD.to_owned());
            DeliveryTarget {
                account,
                mailbox: quarantined.then_some(mailbox),
                flags: Flags::default(),
                keywords: if quarantined { vec![keyword] } else { Vec::new() },
                internal_date: self.internal_date,
                annotations: Vec::new(),
            }
        };
        self.accounts.iter().map(target).collect()
    }
}

/// Each partition's answer, with the accounts for which it differed.
pub struct Outcome {
    partitions: SmallVec<[(PartitionId, Result<(), Failure>); 1]>,
    failed: Vec<(AccountId, Failure)>,
    queue: Result<(), Failure>,
    partition_count: u16,
}

impl Outcome {
    /// The result for one recipient's copy.
    pub fn of(&self, account: AccountId) -> Result<(), Failure> {
        if let Some((_, failure)) = self.failed.iter().find(|(failed, _)| *failed == account) {
            return Err(*failure);
        }
        let partition = account.partition(self.partition_count);
        let found = self.partitions.iter().find(|(it, _)| *it == partition);
        found.map_or(Err(Failure::Unavailable), |(_, result)| *result)
    }

    /// The result for the copy in the queue.
    pub fn of_queue(&self) -> Result<(), Failure> {
        self.queue
    }

    /// The first failure, if there is one.
    pub fn all(&self) -> Result<(), Failure> {
        let one = self.failed.first().map_or(Ok(()), |(_, failure)| Err(*failure));
        one.and(self.partitions.iter().try_for_each(|(_, result)| *result))
    }
}

impl Delivery {
    /// Begins a delivery to `accounts`; an account named twice gets one copy.
    pub fn new(
        shard: &Rc<Shard>,
        accounts: impl IntoIterator<Item = AccountId>,
        class: MailClass,
    ) -> Delivery {
        let mut parts: SmallVec<[Part; 1]> = SmallVec::new();
        let mut sorted: Accounts = accounts.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        for account in sorted {
            let partition = shard.partition_of(account);
            match parts.iter_mut().find(|part| part.partition == partition) {
                Some(part) => part.accounts.push(account),
                None => {
                    let stage = match shard.local_partition(account) {
                        Some(local) => {
                            Stage::Local { partition: local.clone(), writer: local.stage() }
                        }
                        None => Stage::Remote,
                    };
                    let accounts = SmallVec::from_slice(&[account]);
                    parts.push(Part { partition, accounts, stage });
                }
            }
        }
        let mut delivery = Delivery {
            shard: shard.clone(),
            summarizer: Summarizer::new(),
            has_nul: false,
            prologue: Vec::new(),
            quarantined: Accounts::new(),
            posts: None,
            parts,
            pending: Vec::new(),
            sent: 0,
            charge: Charge::new(&shard.messages, class),
            internal_date: shard.executor.now(),
            repetition: false,
            trail: None,
            outgoing: None,
        };
        // Checked when something is pushed.
        let _ = delivery.charge.set(delivery.memory());
        delivery
    }

    /// Adds a copy for the queue of mail to other servers, in the entry of a partition that takes
    /// part anyway, if possible one of this shard. [`Delivery::send_on`] says to whom.
    ///
    /// To be called before anything is pushed.
    pub fn with_queue(mut self) -> Delivery {
        let shard = self.shard.clone();
        let healthy = |partition: &&Partition| partition.admits().is_ok();
        let local = self.parts.iter().position(
            |part| matches!(&part.stage, Stage::Local { partition, .. } if healthy(&partition)),
        );
        let mut all = shard.partitions.iter().flatten();
        // One that takes no mail refuses it, and says why.
        let own = all.clone().find(healthy).or_else(|| all.next());
        let accounts = SmallVec::from_slice(&[AccountId::QUEUE]);
        match (local, own, self.parts.first_mut()) {
            (Some(at), ..) => self.parts[at].accounts.push(AccountId::QUEUE),
            (None, Some(own), _) => {
                let partition = own.id();
                match self.parts.iter_mut().find(|part| part.partition == partition) {
                    Some(part) => part.accounts.push(AccountId::QUEUE),
                    None => {
                        let stage = Stage::Local { partition: own.clone(), writer: own.stage() };
                        self.parts.push(Part { partition, accounts, stage });
                    }
                }
            }
            (None, None, Some(part)) => part.accounts.push(AccountId::QUEUE),
            (None, None, None) => {
                let partition = PartitionId(shard.id.0 % shard.partitions.len().max(1) as u16);
                self.parts.push(Part { partition, accounts, stage: Stage::Remote });
            }
        }
        self
    }

    /// Sets the envelope for the copy in the queue.
    pub fn send_on(&mut self, envelope: Envelope) {
        self.outgoing = Some(Arc::new(envelope));
    }

    /// Sets the trail of its events.
    pub fn under(mut self, trail: Trail) -> Delivery {
        self.trail = Some(trail);
        self
    }

    /// Names folders of accounts, at most one of each, for which `poster` may have the right.
    ///
    /// To be called before anything is pushed.
    pub fn posted_by(mut self, poster: Poster, folders: Vec<(AccountId, Box<str>)>) -> Delivery {
        self.posts = Some(Arc::new(Posts { poster, folders }));
        self
    }

    /// Marks a delivery that was tried before, and keeps its date.
    pub(super) fn again(mut self, internal_date: Timestamp) -> Delivery {
        (self.internal_date, self.repetition) = (internal_date, true);
        self
    }

    /// Whether no account gets the message.
    pub fn is_for_nobody(&self) -> bool {
        self.parts.is_empty()
    }

    /// Sets the accounts, among those of the delivery, whose copy goes to the Junk mailbox.
    pub fn quarantine(&mut self, accounts: Accounts) {
        self.quarantined = accounts;
    }

    /// Sets the prologue: complete header fields before all pushed octets.
    pub fn prepend(&mut self, prologue: Vec<u8>) {
        self.prologue = prologue;
    }

    /// Octets pushed so far.
    pub fn size(&self) -> u64 {
        self.summarizer.size()
    }

    /// Part of the pushed octets from `offset` on, wherever they are staged; empty at the end.
    /// Repeated calls read all of it.
    ///
    /// # Errors
    /// If no partition has it.
    /// If no partition has it.
    pub async fn read(&self, offset: u64) -> Result<Bytes, Failure> {
        let mut failure = Failure::Unavailable;
        for part in &self.parts {
            let piece = match &part.stage {
                Stage::Local { writer, .. } => writer.read(offset).await.map_err(Failure::from),
                Stage::Remote => Ok(self.read_pending(offset)),
                Stage::Streaming(stream) => match self.size() - self.pending.len() as u64 {
                    streamed if offset >= streamed => Ok(self.read_pending(offset - streamed)),
                    _ => read_remote(stream, offset).await,
                },
                Stage::Failed(why) => Err(*why),
            };
            match piece {
                Ok(piece) => return Ok(piece),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    fn read_pending(&self, offset: u64) -> Bytes {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        Bytes::copy_from_slice(self.pending.get(from..).unwrap_or_default())
    }

    /// Takes the next octets of the message. Failures are kept for `finish`: the client's message
    /// must be read to its end in any case.
    pub async fn push(&mut self, octets: &[u8]) {
        if self.parts.iter().all(|part| matches!(part.stage, Stage::Failed(_))) {
            return;
        }
        self.summarizer.push(octets);
        self.has_nul = self.has_nul || memchr::memchr(0, octets).is_some();
        let mut remote = false;
        for part in &mut self.parts {
            match &mut part.stage {
                Stage::Local { writer, .. } => {
                    if let Err(error) = writer.write(octets).await {
                        part.stage = Stage::Failed(error.into());
                    }
                }
                Stage::Remote | Stage::Streaming(_) => remote = true,
                Stage::Failed(_) => (),
            }
        }
        let mut rest = octets;
        while remote && !rest.is_empty() {
            if self.pending.len() == CHUNK_SIZE {
                self.send_pending().await;
            }
            let (now, later) = rest.split_at(rest.len().min(CHUNK_SIZE - self.pending.len()));
            let needed = self.pending.len() + now.len();
            if needed > self.pending.capacity() {
                let capacity = needed.max((2 * self.pending.capacity()).min(CHUNK_SIZE));
                self.pending.reserve_exact(capacity - self.pending.len());
            }
            self.pending.extend_from_slice(now);
            rest = later;
        }
        let stage_max = self.charge.stage_max(self.summarizer.size());
        self.settle(stage_max, octets.len()).await;
    }

    /// The client pauses in the middle of the message. The delivery waits with less memory if that
    /// is short.
    pub async fn stalled(&mut self) {
        let stage_max = self.charge.stage_max_stalled(self.summarizer.size());
        self.settle(stage_max, 0).await;
        if stage_max < usize::MAX {
            self.pending.shrink_to_fit();
            for part in &mut self.parts {
                if let Stage::Local { writer, .. } = &mut part.stage {
                    writer.shrink();
                }
            }
            let _ = self.charge.set(self.memory());
        }
    }

    /// Whether part of the message waits in memory here.
    pub fn is_staged(&self) -> bool {
        self.staged() > 0
    }

    /// Charges the held memory, and `at_hand` octets that the connection holds while the log has no
    /// room; and spills the body beyond `stage_max` octets. If the memory is still not available,
    /// the message fails: it will be refused when it is complete.
    async fn settle(&mut self, stage_max: usize, at_hand: usize) {
        let mut within = self.charge.set(self.memory());
        if self.staged() >= stage_max || !within && self.is_staged() {
            let _ = self.charge.set(self.memory() + at_hand);
            self.spill().await;
            within = self.charge.set(self.memory());
        }
        if !within {
            self.give_up(Failure::NoMemory);
        }
    }

    /// Octets of the body waiting in memory, in every place that holds them.
    fn staged(&self) -> usize {
        let local = self.parts.iter().map(|part| match &part.stage {
            Stage::Local { writer, .. } => writer.staged(),
            _ => 0,
        });
        local.max().unwrap_or(0).max(self.pending.len())
    }

    /// Bytes of memory held here.
    fn memory(&self) -> usize {
        let mut octets =
            self.summarizer.memory() + self.prologue.capacity() + self.pending.capacity();
        let mut in_flight = 0;
        for part in &self.parts {
            if part.accounts.spilled() {
                octets += part.accounts.capacity() * size_of::<AccountId>();
            }
            match &part.stage {
                Stage::Local { writer, .. } => octets += writer.memory(),
                Stage::Streaming(stream) => {
                    octets += STREAM;
                    in_flight = in_flight.max(stream.waiting());
                }
                Stage::Remote | Stage::Failed(_) => {}
            }
        }
        octets + in_flight * self.sent
    }

    /// Moves the waiting part of the body to the logs.
    async fn spill(&mut self) {
        for part in &mut self.parts {
            if let Stage::Local { writer, .. } = &mut part.stage
                && let Err(error) = writer.spill().await
            {
                part.stage = Stage::Failed(error.into());
            }
        }
        if !self.pending.is_empty() {
            self.send_pending().await;
        }
    }

    /// Drops everything; the message fails for all recipients.
    fn give_up(&mut self, failure: Failure) {
        for part in &mut self.parts {
            part.stage = Stage::Failed(failure);
        }
        self.pending = Vec::new();
        self.summarizer = Summarizer::new();
        let _ = self.charge.set(0);
        self.shard.metrics.count("messages_out_of_memory_total", 1);
        self.shard.events.limit_met(Limit::MessageMemory, None);
    }

    /// Sends a chunk to all remote partitions, which share its memory.
    async fn send_pending(&mut self) {
        let chunk = Bytes::from(std::mem::take(&mut self.pending));
        self.sent = chunk.len();
        for index in 0..self.parts.len() {
            if matches!(self.parts[index].stage, Stage::Remote) {
                self.parts[index].stage = self.begin_streaming(index);
            }
            if let Stage::Streaming(stream) = &self.parts[index].stage {
                // A receiver that gave up has left its reason in the answer, if it ever started.
                let _ = stream.send(Piece::Chunk(chunk.clone())).await;
            }
        }
    }

    /// Asks the owner of a partition to receive chunks until it is told to commit. A client that is
    /// slow with a large message does not hold the credits that log-ins and other mail need.
    fn begin_streaming(&self, index: usize) -> Stage {
        let order = self.order(index, None);
        let owner = self.shard.owners[usize::from(order.partition.0)];
        let begin = move |target: Rc<Shard>, mut incoming: Incoming<Piece, Stored>| {
            let executor = target.executor.clone();
            let staging = async move {
                let stored = take_chunks(target, order, &mut incoming).await;
                incoming.answer(stored);
            };
            executor.spawn(Priority::Foreground, Box::pin(staging));
        };
        let mesh = &self.shard.mesh;
        let class = Class::Delivery;
        Stage::Streaming(mesh.open_stream(owner, class, COMMIT_TIMEOUT, CHUNKS_IN_FLIGHT, begin))
    }

    fn order(&self, index: usize, delivery_id: Option<u128>) -> Order {
        let part = &self.parts[index];
        Order {
            partition: part.partition,
            class: self.charge.class(),
            accounts: part.accounts.clone(),
            quarantined: self.quarantined.clone(),
            posts: self.posts.clone(),
            internal_date: self.internal_date,
            delivery_id,
            repetition: self.repetition,
            trail: self.trail,
            outgoing: self.outgoing.clone().filter(|_| part.accounts.contains(&AccountId::QUEUE)),
        }
    }

    /// Ends the message with a result for every recipient (LMTP).
    pub async fn finish_each(self) -> Outcome {
        let partition_count = self.shard.partitions.len() as u16;
        let mut failed = Vec::new();
        let mut partitions = SmallVec::new();
        let mut queue = Ok(());
        let shard = self.shard.clone();
        for (order, stored) in self.commit(None).await {
            tell::failed(&shard, &order, &stored);
            outgoing::take_up(&shard, &order, &stored).await;
            let is_queue = order.outgoing.is_some();
            let result = stored.map(|taken| failed.extend(taken.failed));
            if is_queue {
                queue = result;
            }
            partitions.push((order.partition, result));
        }
        Outcome { partitions, failed, queue, partition_count }
    }

    /// Ends the message: it is accepted for all recipients or for none (SMTP).
    pub async fn finish_together(self) -> Result<(), Failure> {
        self.check_room().await?;
        let shard = self.shard.clone();
        // One partition needs no id: it answers for all, or the client tries again.
        let delivery_id = (self.parts.len() > 1).then(|| new_id(&shard));
        let _open = delivery_id.map(|id| Open::new(&shard, id));
        let committed = self.commit(delivery_id).await;
        committed.iter().for_each(|(order, stored)| tell::failed(&shard, order, stored));
        let outgoing = committed.iter().find(|(order, _)| order.outgoing.is_some()).cloned();
        let settled = redelivery::settle(&shard, committed).await;
        if let Some((order, stored)) = outgoing {
            match settled {
                Ok(()) => outgoing::take_up(&shard, &order, &stored).await,
                // The client will send it again.
                Err(_) => outgoing::take_back(&shard, &order, &stored).await,
            }
        }
        settled
    }

    /// One full account refuses the message for all, before any of them has it.
    async fn check_room(&self) -> Result<(), Failure> {
        if let [only] = self.parts.as_slice()
            && only.accounts.len() == 1
        {
            return Ok(());
        }
        let octets = self.summarizer.size() + self.prologue.len() as u64;
        let checks = self.parts.iter().map(|part| -> LocalFuture<'static, Result<(), Failure>> {
            let (shard, accounts) = (self.shard.clone(), part.accounts.clone());
            match &part.stage {
                Stage::Local { partition, .. } => {
                    let partition = partition.clone();
                    Box::pin(async move { has_room(&partition, &accounts, octets).await })
                }
                // It fails in any case.
                Stage::Failed(_) => Box::pin(std::future::ready(Ok(()))),
                Stage::Remote | Stage::Streaming(_) => {
                    let id = part.partition;
                    let owner = shard.owners[usize::from(id.0)];
                    let check = move |target: Rc<Shard>| -> LocalFuture<'static, _> {
                        Box::pin(async move {
                            has_room(&owned_partition(&target, id)?, &accounts, octets).await
                        })
                    };
                    Box::pin(async move {
                        // A shard that does not answer now may do so when it gets the message.
                        let asked = shard.mesh.call(owner, Class::Delivery, COMMIT_TIMEOUT, check);
                        asked.await.unwrap_or(Ok(()))
                    })
                }
            }
        });
        join(checks.collect()).await.into_iter().collect()
    }

    /// As [`Delivery::finish_together`], for a delivery that may be repeated under `delivery_id`:
    /// an account that has it already is a success.
    pub(super) async fn finish_once(self, delivery_id: u128) -> Result<(), Failure> {
        let shard = self.shard.clone();
        for (order, stored) in self.commit(Some(delivery_id)).await {
            tell::failed(&shard, &order, &stored);
            outgoing::take_up(&shard, &order, &stored).await;
            if let Some((_, failure)) = stored?.failed.first() {
                return Err(*failure);
            }
        }
        Ok(())
    }

    /// Commits in all partitions concurrently.
    async fn commit(mut self, delivery_id: Option<u128>) -> SmallVec<[(Order, Stored); 1]> {
        let mut summary = self.summarizer.end();
        summary.prepend(self.prologue.len() as u64);
        let summary = summary.encode();
        // The message is complete: its memory in the last steps is counted, but not limited.
        let _ = self.charge.set(self.memory() + summary.capacity());
        if let [Part { stage: Stage::Local { .. }, .. }] = self.parts.as_slice() {
            // The usual case: one partition, our own; nothing to join and nothing to box.
            let order = self.order(0, delivery_id);
            let stage = std::mem::replace(&mut self.parts[0].stage, Stage::Remote);
            if let Stage::Local { partition, writer } = stage {
                let message = Message { writer, prologue: &self.prologue, summary };
                let stored = commit_here(&self.shard, &partition, message, &order).await;
                return SmallVec::from_iter([(order, stored)]);
            }
        }
        let summary = Bytes::from(summary);
        let prologue = Bytes::from(std::mem::take(&mut self.prologue));
        let whole = Bytes::from(std::mem::take(&mut self.pending));
        let mut committed = SmallVec::<[(Order, Stored); 1]>::new();
        let mut running = Vec::with_capacity(self.parts.len());
        let mut orders = SmallVec::<[Order; 1]>::new();
        // The queue's copy comes first: without it, nobody must have the message. Nothing that is
        // missing elsewhere could be made up for by the queue of another partition.
        let first = self.parts.iter().position(|part| part.accounts.contains(&AccountId::QUEUE));
        let rest = (0..self.parts.len()).filter(|index| Some(*index) != first);
        for index in first.into_iter().chain(rest) {
            let order = self.order(index, delivery_id);
            let stage = std::mem::replace(&mut self.parts[index].stage, Stage::Remote);
            let part = self.commit_part(stage, order.clone(), &prologue, &whole, &summary);
            if Some(index) == first {
                let stored = part.await;
                if planted(Plant::SendUnaccepted) {
                    outgoing::take_up(&self.shard, &order, &stored).await;
                }
                let failure = stored.as_ref().err().copied();
                committed.push((order, stored));
                if let Some(failure) = failure {
                    // The others are not tried.
                    let others = (0..self.parts.len()).filter(|other| *other != index);
                    let failed = others.map(|other| (self.order(other, None), Err(failure)));
                    committed.extend(failed);
                    return committed;
                }
                continue;
            }
            orders.push(order);
            running.push(part);
        }
        committed.extend(orders.into_iter().zip(join(running).await));
        committed
    }

    fn commit_part(
        &self,
        stage: Stage,
        order: Order,
        prologue: &Bytes,
        pending: &Bytes,
        summary: &Bytes,
    ) -> LocalFuture<'static, Stored> {
        let (prologue, pending, summary) = (prologue.clone(), pending.clone(), summary.clone());
        match stage {
            Stage::Failed(failure) => Box::pin(async move { Err(failure) }),
            Stage::Local { partition, writer } => {
                let shard = self.shard.clone();
                Box::pin(async move {
                    let summary = summary.to_vec();
                    let message = Message { writer, prologue: &prologue, summary };
                    commit_here(&shard, &partition, message, &order).await
                })
            }
            Stage::Remote => {
                let shard = self.shard.clone();
                Box::pin(
                    async move { commit_whole(&shard, order, prologue, pending, summary).await },
                )
            }
            Stage::Streaming(stream) => Box::pin(async move {
                // As in `send_pending`, the answer reports failures.
                if !pending.is_empty() {
                    let _ = stream.send(Piece::Chunk(pending)).await;
                }
                let Order { quarantined, delivery_id, outgoing, .. } = order;
                let commit =
                    Piece::Commit { prologue, summary, quarantined, delivery_id, outgoing };
                let _ = stream.send(commit).await;
                stream.answer().await.unwrap_or(Err(Failure::Unavailable))
            }),
        }
    }
}

/// An id that no other delivery has.
fn new_id(shard: &Shard) -> u128 {
    let [high, low] = [(); 2].map(|()| u128::from(shard.executor.random()));
    high << 64 | low
}

/// Only certain excess counts: other errors of an account are reported when it gets the message.
async fn has_room(
    partition: &Partition,
    accounts: &[AccountId],
    octets: u64,
) -> Result<(), Failure> {
    match partition.has_room(accounts, octets).await {
        Err(StoreError::OverQuota) => Err(Failure::OverQuota),
        _ => Ok(()),
    }
}

/// A complete message, where it is staged.
struct Message<'a> {
    writer: BodyWriter,
    prologue: &'a [u8],
    /// The summary of the message with its prologue.
    summary: Vec<u8>,
}

async fn commit_here(
    shard: &Rc<Shard>,
    partition: &Partition,
    message: Message<'_>,
    order: &Order,
) -> Stored {
    let Message { mut writer, prologue, summary } = message;
    // The caller may have given up by now: a repetition must be recognized for as long as this
    // runs.
    let open = order.delivery_id.map(|id| Open::new(shard, id));
    writer.prepend(prologue).await?;
    let body = writer.finish(summary).await?;
    let octets = body.size();
    let repetition = order.repetition;
    let id = order.delivery_id.map(|number| DeliveryId { number, repetition });
    // The mailbox must exist: otherwise INBOX would get it.
    let outgoing = match order.outgoing {
        Some(_) => Some(shard.relay().mailbox(partition).await?),
        None => None,
    };
    let mut targets = order.targets(outgoing.as_deref().unwrap_or_default());
    if let Some(posts) = &order.posts {
        posting::direct(partition, posts, &mut targets).await;
    }
    let outcome = partition.deliver_each(body, targets, id).await;
    if open.is_some() {
        known::look_after(shard, partition);
    }
    let store::Deliveries { delivered, failed } = outcome?;
    // Nobody makes up for a copy that the queue lacks: the client must send the message again.
    if let Some(at) = failed.iter().position(|(account, _)| *account == AccountId::QUEUE) {
        let (_, error) = failed.into_iter().nth(at).ok_or(Failure::Unavailable)?;
        return Err(error.into());
    }
    tell::delivered(shard, order, &delivered, octets);
    for it in &delivered {
        quota::look_at(shard, partition, it.account).await;
    }
    let failed = failed.into_iter().map(|(account, error)| (account, error.into())).collect();
    let (queued, kept): (Vec<Delivered>, Vec<Delivered>) =
        delivered.into_iter().partition(|it| it.account == AccountId::QUEUE);
    let queued = queued.first().copied();
    // The copy in the mailbox stays; the one in the queue may be removed at any time once it is
    // taken up.
    Ok(Taken { copy: kept.first().copied().or(queued), queued, failed })
}

/// Sends a small message to its owner in one call.
async fn commit_whole(
    shard: &Rc<Shard>,
    order: Order,
    prologue: Bytes,
    body: Bytes,
    summary: Bytes,
) -> Stored {
    let owner = shard.owners[usize::from(order.partition.0)];
    let store = move |target: Rc<Shard>| -> LocalFuture<'static, Stored> {
        Box::pin(async move {
            let partition = owned_partition(&target, order.partition)?;
            let mut charge = Charge::new(&target.messages, order.class);
            if !charge.set(2 * (prologue.len() + body.len()) + summary.len()) {
                return Err(Failure::NoMemory);
            }
            let mut writer = partition.stage();
            writer.write(&prologue).await?;
            writer.write(&body).await?;
            let message = Message { writer, prologue: &[], summary: summary.to_vec() };
            commit_here(&target, &partition, message, &order).await
        })
    };
    shard.mesh.call(owner, Class::Delivery, COMMIT_TIMEOUT, store).await?
}

/// On the owner's shard: receives a message chunk by chunk. If the sender's end closes without a
/// commit, there will be no message.
async fn take_chunks(
    shard: Rc<Shard>,
    mut order: Order,
    incoming: &mut Incoming<Piece, Stored>,
) -> Stored {
    let partition = owned_partition(&shard, order.partition)?;
    let mut writer = partition.stage();
    let mut charge = Charge::new(&shard.messages, order.class);
    loop {
        match incoming.next().await {
            Some(Piece::Chunk(chunk)) => {
                writer.write(&chunk).await?;
                drop(chunk);
                // Counted while the log has no room for it, and refused only if that does not help.
                let _ = charge.set(writer.memory());
                // More will follow, perhaps much later: nothing waits in memory for it.
                writer.spill().await?;
                if !charge.set(writer.memory()) {
                    return Err(Failure::NoMemory);
                }
            }
            Some(Piece::Read { offset, answer }) => {
                answer.give(writer.read(offset).await.map_err(Failure::from));
            }
            Some(Piece::Commit { prologue, summary, quarantined, delivery_id, outgoing }) => {
                (order.quarantined, order.delivery_id) = (quarantined, delivery_id);
                order.outgoing = outgoing;
                let summary = summary.to_vec();
                let message = Message { writer, prologue: &prologue, summary };
                return commit_here(&shard, &partition, message, &order).await;
            }
            None => return Err(Failure::Unavailable),
        }
    }
}

/// Asks the shard that receives the chunks for part of the staged octets.
async fn read_remote(stream: &Outgoing<Piece, Stored>, offset: u64) -> Result<Bytes, Failure> {
    let (answer, piece) = worker::answer();
    // Without a receiver there is no answer either.
    let _ = stream.send(Piece::Read { offset, answer }).await;
    piece.await.unwrap_or(Err(Failure::Unavailable))
}

fn owned_partition(shard: &Shard, partition: PartitionId) -> Result<Partition, Failure> {
    let owned = shard.partitions.get(usize::from(partition.0)).and_then(Option::as_ref);
    owned.cloned().ok_or(Failure::Unavailable)
}

/// Runs all futures concurrently; returns their results in order.
async fn join<T>(mut running: Vec<LocalFuture<'_, T>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = running.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut waiting = false;
        for (future, result) in running.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    results.into_iter().flatten().collect()
}
