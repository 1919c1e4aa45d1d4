//! COPY and MOVE to a mailbox of any account, on whichever shards the session, the source and the
//! target are.
//!
//! The source's owner does the work. Within a partition it is one entry without a copied octet
//! (`Account::copy_from_if`). Otherwise the bodies go piece by piece over a stream of the mesh to
//! the target's owner ([`receiving`]), which puts all the messages into the mailbox or none.
//!
//! A MOVE to another partition takes [`COPY_SLICE`] messages at a time:
//! 1. The bodies are sent, and the target says whether it would take them.
//! 2. The source records what it will expunge, an intent.
//! 3. The target puts the messages into the mailbox, and records that they have arrived.
//! 4. The source expunges them and drops the intent, with one entry.
//! 5. The target forgets the arrival.
//!
//! If the target does not answer after step 2, the client gets an error, and the intent stays. The
//! source then asks until it knows ([`recovery`]), after a start too.
//!
//! Ownership: shard-local. Memory: one piece of a body here, [`PIECES_IN_FLIGHT`] on their way, and
//! one chunk at the target, where it is counted as a message that is received.

mod receiving;
mod recovery;

pub use self::recovery::{Transfers, follow};

use std::{future::Future, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;

use super::Shard;
use crate::{
    model::{AccountId, FlagMask, MailboxId, Timestamp, Uid, UidValidity},
    plant::{Plant, planted},
    runtime::{
        executor::Priority,
        mesh::Class,
        stream::{Incoming, Outgoing},
        worker::{self, Answer},
    },
    store::{
        Account, BODY_CHUNK, COPY_SLICE, Copied, Manifest, Message, Partition, StoreError, Ticket,
    },
};

use self::recovery::Open;

/// Octets of a body sent at a time.
const PIECE_SIZE: usize = BODY_CHUNK;
/// Pieces sent and not yet received.
const PIECES_IN_FLIGHT: usize = 2;
/// Octets, and messages, that are sent without asking first whether they would be taken.
const UNASKED_OCTETS: u64 = (PIECES_IN_FLIGHT * PIECE_SIZE) as u64;
const UNASKED_MESSAGES: u64 = 64;
/// How long another shard may take to begin, to take one piece, or to commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A mailbox of an account.
pub type Place = (AccountId, MailboxId);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Copy,
    Move,
}

/// Asked on the account's owner, in the step that decides, whether the user may do it (still), and
/// which flags the copies keep. Its errors are the transfer's.
pub type Consent = Arc<dyn Fn(&Account, MailboxId) -> Result<FlagMask, StoreError> + Send + Sync>;

/// The two sides' consent. For a MOVE the source is asked when it decides to expunge, so before the
/// target is: whatever is taken from the user later does not keep the messages.
#[derive(Clone)]
pub struct Consents {
    /// Its flags do not matter.
    pub source: Consent,
    pub target: Consent,
}

impl Consents {
    /// For tests, and callers that have no rights to ask for.
    pub fn all() -> Consents {
        let all: Consent = Arc::new(|_, _| Ok(FlagMask::ALL));
        Consents { source: all.clone(), target: all }
    }
}

/// Why nothing (more) was copied or moved. Unlike `StoreError` it can be sent to other shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransferFailure {
    #[error("the source mailbox does not exist")]
    NoSource,
    #[error("the target mailbox does not exist")]
    NoTarget,
    #[error("{0}")]
    NotPermitted(&'static str),
    /// The target's account has reached its quota.
    #[error("the account is full")]
    OverQuota,
    #[error("the disk is full")]
    Full,
    #[error("limit reached: {0}")]
    Limit(&'static str),
    /// A shard or a disk did not answer, or failed. The messages of a MOVE may be in both places
    /// for a while, and then are in one; a COPY may have been made.
    #[error("storage is in trouble")]
    Unavailable,
}

impl TransferFailure {
    fn of_source(error: StoreError) -> TransferFailure {
        TransferFailure::of(error, TransferFailure::NoSource)
    }

    fn of_target(error: StoreError) -> TransferFailure {
        TransferFailure::of(error, TransferFailure::NoTarget)
    }

    fn of(error: StoreError, no_mailbox: TransferFailure) -> TransferFailure {
        match error {
            StoreError::NoSuchMailbox => no_mailbox,
            StoreError::NotPermitted(why) => TransferFailure::NotPermitted(why),
            StoreError::OverQuota => TransferFailure::OverQuota,
            StoreError::Full => TransferFailure::Full,
            StoreError::Limit(what) => TransferFailure::Limit(what),
            _ => TransferFailure::Unavailable,
        }
    }
}

pub type Outcome = Result<Copied, TransferFailure>;

/// Copies or moves `messages` of `source` to `target`. May be called on any shard. Messages that
/// were expunged meanwhile are skipped; if nothing is left, the result has no UIDs and may have
/// UIDVALIDITY 0.
///
/// COPY is all or nothing, with the exception in [`Account::copy_from`]. Of a MOVE that fails some
/// messages may have been moved, each of them wholly (RFC 6851 3.3).
pub async fn transfer(
    shard: &Rc<Shard>,
    source: Place,
    messages: Vec<Message>,
    target: Place,
    way: Way,
    consents: Consents,
) -> Outcome {
    let owner = shard.owner_of(source.0);
    let order = Order { source, target, way, consents };
    if owner == shard.id {
        return order.carry_out(shard, &messages).await;
    }
    // A stream, not a call: it may take long, and must not hold a credit.
    let begin = move |home: Rc<Shard>, incoming: Incoming<(), Outcome>| {
        let executor = home.executor.clone();
        let work = async move { incoming.answer(order.carry_out(&home, &messages).await) };
        executor.spawn(Priority::Foreground, Box::pin(work));
    };
    let stream = shard.mesh.open_stream(owner, Class::Delivery, ANSWER_TIMEOUT, 1, begin);
    stream.answer().await.unwrap_or(Err(TransferFailure::Unavailable))
}

/// A transfer at the source's owner.
struct Order {
    source: Place,
    target: Place,
    way: Way,
    consents: Consents,
}

impl Order {
    async fn carry_out(&self, shard: &Rc<Shard>, messages: &[Message]) -> Outcome {
        let partition = shard.local_partition(self.source.0);
        let partition = partition.ok_or(TransferFailure::Unavailable)?;
        let account = partition.account(self.source.0).await;
        let account = account.map_err(TransferFailure::of_source)?;
        if shard.partition_of(self.target.0) == partition.id() {
            return self.within(partition, &account, messages).await;
        }
        let mut uids: Vec<Uid> = messages.iter().map(|message| message.uid).collect();
        uids.sort_unstable();
        uids.dedup();
        if self.way == Way::Copy {
            return self.copy(shard, &account, &uids).await;
        }
        let mut moved = Copied { uid_validity: UidValidity(0), uids: Vec::new() };
        for batch in uids.chunks(COPY_SLICE) {
            let Copied { uid_validity, uids } =
                self.move_batch(shard, partition, &account, batch).await?;
            if !uids.is_empty() {
                moved.uid_validity = uid_validity;
            }
            moved.uids.extend(uids);
        }
        Ok(moved)
    }

    async fn within(
        &self,
        partition: &Partition,
        source: &Account,
        messages: &[Message],
    ) -> Outcome {
        let (from, to) = (self.source.1, self.target.1);
        let target = partition.account(self.target.0).await;
        let target = target.map_err(TransferFailure::of_target)?;
        let mut may = || {
            (self.consents.source)(source, from)?;
            (self.consents.target)(&target, to)
        };
        let done = match self.way {
            Way::Copy => target.copy_from_if(to, source, from, messages, &mut may).await,
            Way::Move => target.move_from_if(to, source, from, messages, &mut may).await,
        };
        done.map_err(|error| match target.mailbox(to) {
            Some(_) => TransferFailure::of_source(error),
            None => TransferFailure::of_target(error),
        })
    }

    async fn copy(&self, shard: &Rc<Shard>, account: &Account, uids: &[Uid]) -> Outcome {
        let mailbox = self.source.1;
        let sending = Sending::begin(shard, self, None);
        let sending = sending.send_bodies(account, mailbox, uids).await?;
        let manifest = account.manifest(mailbox, uids).await;
        let manifest = manifest.map_err(TransferFailure::of_source)?;
        // What was taken from the user while the bodies were sent is not copied.
        (self.consents.source)(account, mailbox).map_err(TransferFailure::of_source)?;
        sending.commit(manifest).await
    }

    async fn move_batch(
        &self,
        shard: &Rc<Shard>,
        partition: &Partition,
        account: &Account,
        uids: &[Uid],
    ) -> Outcome {
        let mailbox = self.source.1;
        let ticket = new_ticket(shard);
        let sending = Sending::begin(shard, self, Some(ticket));
        let sending = sending.send_bodies(account, mailbox, uids).await?;
        let sending = sending.check(None).await?;
        // Until this is dropped, recovery leaves the move alone.
        let open = Open::new(shard, ticket);
        let mut may = |account: &Account, mailbox| (self.consents.source)(account, mailbox);
        let begun = account.begin_move(mailbox, uids, ticket, self.target, &mut may).await;
        let manifest = begun.map_err(TransferFailure::of_source)?;
        if manifest.messages.is_empty() {
            open.done();
            return Ok(Copied { uid_validity: UidValidity(0), uids: Vec::new() });
        }
        if planted(Plant::ExpungeEarly) {
            let _ = partition.moves().finish(ticket).await;
        }
        let outcome = sending.commit_in_time(manifest).await;
        let moves = partition.moves();
        let finished = match outcome {
            Ok(copied) => moves.finish(ticket).await.map(|()| Ok(copied)),
            // Nobody may know; if it is known, the client is told the truth at once.
            Err(failure) => match recovery::ask(shard, self.target.0, ticket).await {
                None => return Err(failure),
                Some(Some(copied)) => moves.finish(ticket).await.map(|()| Ok(copied)),
                Some(None) => moves.cancel(ticket).await.map(|()| Err(failure)),
            },
        };
        let outcome = finished.map_err(TransferFailure::of_source)?;
        open.done();
        if outcome.is_ok() {
            recovery::forget(shard, self.target.0, ticket);
        }
        outcome
    }
}

fn new_ticket(shard: &Shard) -> Ticket {
    let [high, low] = [(); 2].map(|()| u128::from(shard.executor.random()));
    Ticket(high << 64 | low)
}

/// What the source sends.
enum Piece {
    /// The next octets of a body.
    Chunk(Bytes),
    /// The body is complete.
    Message { uid: Uid, internal_date: Timestamp, summary: Bytes },
    /// Would all of it be taken? `expected`: what is to come, messages and octets; else what has
    /// come.
    Check { expected: Option<(u64, u64)>, answer: Answer<Result<(), TransferFailure>> },
    /// Those of the messages that are to be put into the mailbox.
    Commit(Manifest),
}

/// The source's end of a transfer to another partition. If it is dropped, nothing gets there.
struct Sending<'a> {
    shard: &'a Rc<Shard>,
    stream: Outgoing<Piece, Outcome>,
}

impl<'a> Sending<'a> {
    fn begin(shard: &'a Rc<Shard>, order: &Order, ticket: Option<Ticket>) -> Sending<'a> {
        let receiving = receiving::Receiving {
            target: order.target,
            ticket: ticket.map(|ticket| (ticket, order.source.0)),
            consent: order.consents.target.clone(),
        };
        let owner = shard.owner_of(order.target.0);
        let begin = move |there: Rc<Shard>, incoming| receiving.begin(&there, incoming);
        let (class, places) = (Class::Delivery, PIECES_IN_FLIGHT);
        let stream = shard.mesh.open_stream(owner, class, ANSWER_TIMEOUT, places, begin);
        Sending { shard, stream }
    }

    async fn send(self, piece: Piece) -> Result<Sending<'a>, TransferFailure> {
        match in_time(self.shard, self.stream.send(piece)).await {
            Some(Ok(())) => Ok(self),
            // It gave up, and said why.
            Some(Err(_)) => Err(self.reason().await),
            None => Err(TransferFailure::Unavailable),
        }
    }

    async fn reason(self) -> TransferFailure {
        let answer = in_time(self.shard, self.stream.answer()).await;
        match answer {
            Some(Ok(Err(failure))) => failure,
            _ => TransferFailure::Unavailable,
        }
    }

    /// Sends those of the messages that are there. They are held meanwhile, so that their bodies
    /// stay even if somebody expunges them.
    async fn send_bodies(
        mut self,
        account: &Account,
        mailbox: MailboxId,
        uids: &[Uid],
    ) -> Result<Sending<'a>, TransferFailure> {
        let view = account.select(mailbox, false).await.map_err(TransferFailure::of_source)?;
        let held = view.current().ok_or(TransferFailure::NoSource)?;
        let message = |uid: &Uid| held.index_of(*uid).and_then(|index| held.get(index));
        let sizes = uids.iter().filter_map(message).map(|message| message.body.size);
        let (messages, octets) = sizes.fold((0, 0u64), |(messages, octets), size| {
            (messages + 1, octets.saturating_add(size))
        });
        // What nobody may put there, or does not fit, is not written there first. A little is sent
        // without asking, which costs a turn of both shards.
        if octets > UNASKED_OCTETS || messages > UNASKED_MESSAGES {
            self = self.check(Some((messages, octets))).await?;
        }
        for uid in uids {
            let Some(message) = message(uid) else { continue };
            let (body, mut offset) = (message.body, 0);
            while offset < body.size {
                let chunk = account.read_body(&body, offset, PIECE_SIZE).await;
                let chunk = chunk.map_err(TransferFailure::of_source)?;
                offset += chunk.len() as u64;
                self = self.send(Piece::Chunk(chunk)).await?;
            }
            let summary = account.read_summary(&body).await;
            let summary = summary.map_err(TransferFailure::of_source)?;
            let (uid, internal_date) = (*uid, message.internal_date);
            self = self.send(Piece::Message { uid, internal_date, summary }).await?;
        }
        Ok(self)
    }

    async fn check(self, expected: Option<(u64, u64)>) -> Result<Sending<'a>, TransferFailure> {
        let (answer, told) = worker::answer();
        let sending = self.send(Piece::Check { expected, answer }).await?;
        match in_time(sending.shard, told).await {
            Some(Some(told)) => told.map(|()| sending),
            Some(None) => Err(sending.reason().await),
            None => Err(TransferFailure::Unavailable),
        }
    }

    /// For a COPY: waits for the target's disk as long as it takes, as within a partition, since
    /// nobody could find out later what became of it.
    async fn commit(self, manifest: Manifest) -> Outcome {
        let sending = self.send(Piece::Commit(manifest)).await?;
        sending.stream.answer().await.unwrap_or(Err(TransferFailure::Unavailable))
    }

    /// For a MOVE, of which the target can be asked later.
    async fn commit_in_time(self, manifest: Manifest) -> Outcome {
        let shard = self.shard;
        let answer = in_time(shard, self.commit(manifest)).await;
        answer.unwrap_or(Err(TransferFailure::Unavailable))
    }
}

/// `None` if it takes longer than [`ANSWER_TIMEOUT`].
async fn in_time<T>(shard: &Shard, work: impl Future<Output = T>) -> Option<T> {
    let late = async {
        shard.executor.sleep(ANSWER_TIMEOUT).await;
        None
    };
    futures_lite::future::or(async { Some(work.await) }, late).await
}
