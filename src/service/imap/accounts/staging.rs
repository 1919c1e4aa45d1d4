//! Messages on their way into a mailbox, wherever its account is: octets go to the account's log as
//! they arrive.
//!
//! To another shard they go in pieces, of which [`IN_FLIGHT`] may wait there: a log that is slow
//! holds up the client and nobody else. The owner stores nothing before it has everything, and asks
//! for the user's rights then. One message is stored with its body; several are parked first, and
//! one entry puts all of them into the mailbox (`store::Shipment`).

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use futures_lite::future::or;

use super::{
    super::reply::{Failure, try_create},
    User,
    conversion::Conversion,
    distant::unreachable_now,
    holding::{Holding, NOT_ALLOWED, not_allowed, permitted},
    home::Home,
    lease::News,
};
use crate::{
    model::{
        AccountId, FlagMask, FlagSet, Flags, KEYWORDS_PER_MAILBOX_MAX, KeywordSet, MailClass,
        MailboxId, Right, Rights, Timestamp, Uid,
    },
    protocol::imap::Code,
    runtime::{
        executor::{Executor, Priority},
        mesh::Class,
        stream::{Incoming, Outgoing},
        worker,
    },
    service::{Shard, budget::Charge},
    store::{
        Account, BODY_CHUNK, BodyWriter, Delivered, Manifest, Partition, Replacing, Shipment,
        StagedBody, StoreError, Unsettled,
    },
};

/// Pieces sent to another shard and not yet received.
const IN_FLIGHT: usize = 2;

/// How long another shard may take to begin, to take a piece, and to store the message.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the octets of messages go.
pub(in crate::service::imap) enum Staging {
    /// Into the log of a partition of this shard.
    Here(Box<Batch>),
    /// To another shard.
    There(Sending),
}

/// Messages on their way into a mailbox, on the shard of its account: one is being received, those
/// before it are complete. Nothing of them is visible before they are stored.
pub(in crate::service::imap) struct Batch {
    partition: Partition,
    executor: Rc<dyn Executor>,
    writer: BodyWriter,
    /// The first message, as long as it is the only one.
    first: Option<StagedBody>,
    /// All that are complete, once there are more.
    shipment: Option<Shipment>,
    /// Of those that are complete.
    attributes: Vec<Attributes>,
}

/// Messages being sent to another shard.
pub(in crate::service::imap) struct Sending {
    pieces: Outgoing<Piece, Answer>,
    executor: Rc<dyn Executor>,
    buffer: Vec<u8>,
    /// Of the current message.
    size: u64,
    sent: usize,
}

type Answer = Result<(Stored, Option<News>), Failure>;

/// A message that a new one replaces (RFC 8508).
#[derive(Clone, Copy)]
pub(in crate::service::imap) struct Replaced {
    pub account: AccountId,
    pub mailbox: MailboxId,
    pub uid: Uid,
}

/// What was done with messages.
pub(in crate::service::imap) struct Stored {
    pub delivered: Vec<Delivered>,
    /// The message to be replaced was expunged with the same entry; otherwise it is still there.
    pub replaced: bool,
}

/// Needed where a message is replaced: those of STORE with `\Deleted` and of EXPUNGE.
pub(in crate::service::imap) const REPLACED_RIGHTS: [Right; 3] =
    [Right::Read, Right::DeleteMessages, Right::Expunge];

enum Piece {
    Octets(Bytes),
    /// The message is complete.
    End {
        summary: Vec<u8>,
        with: Attributes,
        conversion: Option<Requested>,
    },
    /// Another one begins.
    Next,
    /// All messages are complete.
    Store(Option<Replaced>),
}

/// A conversion, and the answer with the octets that the message has then.
type Requested = (Conversion, worker::Answer<Result<u64, Failure>>);

/// What a message has beside its octets.
pub(in crate::service::imap) struct Attributes {
    pub flags: Flags,
    pub keywords: Vec<String>,
    pub internal_date: Timestamp,
}

impl Attributes {
    /// Without the flags that may not be set, which are left out (RFC 4314 4).
    fn within(self, may_set: FlagMask) -> Attributes {
        let keywords = if may_set.keywords { self.keywords } else { Vec::new() };
        Attributes { flags: self.flags & may_set.system, keywords, ..self }
    }
}

impl Batch {
    fn new(partition: &Partition, executor: &Rc<dyn Executor>) -> Batch {
        Batch {
            writer: partition.stage(),
            partition: partition.clone(),
            executor: executor.clone(),
            first: None,
            shipment: None,
            attributes: Vec::new(),
        }
    }

    /// Another message begins: those before it go to the log.
    async fn next(&mut self) -> Result<(), StoreError> {
        let Some(body) = self.first.take() else { return Ok(()) };
        let mut shipment = self.partition.receive(None);
        if let Some(first) = self.attributes.first() {
            shipment.add(Uid(1), first.internal_date, body).await?;
        }
        self.shipment = Some(shipment);
        Ok(())
    }

    /// The current message is complete, but is not to be stored as it is. Returns its summary.
    async fn convert(
        &mut self,
        summary: &[u8],
        conversion: Conversion,
        charge: &mut Charge,
    ) -> Result<Vec<u8>, Failure> {
        let (source, target) = (&mut self.writer, self.partition.stage());
        let converted = conversion.run(source, summary, target, &self.executor, charge).await;
        let (writer, summary) = converted?;
        self.writer = writer;
        Ok(summary)
    }

    /// The current message is complete.
    async fn end(&mut self, summary: Vec<u8>, with: Attributes) -> Result<(), StoreError> {
        let writer = std::mem::replace(&mut self.writer, self.partition.stage());
        let body = writer.finish(summary).await?;
        let internal_date = with.internal_date;
        self.attributes.push(with);
        match &mut self.shipment {
            Some(shipment) => {
                shipment.add(Uid(self.attributes.len() as u32), internal_date, body).await
            }
            None => {
                self.first = Some(body);
                Ok(())
            }
        }
    }

    /// Puts the messages into the mailbox. They may have taken their time, and the rights are those
    /// of now.
    async fn store(
        self,
        holding: &Holding,
        mailbox: MailboxId,
        replaced: Option<Replaced>,
    ) -> Result<(Stored, Option<Unsettled>), Failure> {
        let rights = holding.get(mailbox).map(|(_, rights)| rights);
        permitted(rights, Rights::of(&[Right::Insert]), try_create)?;
        let may_set = holding.shared_flags(mailbox, rights.unwrap_or_default());
        let account = &holding.account;
        let Batch { first, shipment, attributes, .. } = self;
        let failed = |error| match error {
            StoreError::NotPermitted(NOT_ALLOWED) => not_allowed(),
            error => Failure::with_try_create(error),
        };
        if let Some(shipment) = shipment {
            let manifest = manifest(&attributes)?;
            let mut may = |_: &Account, _| {
                let rights = holding.rights(mailbox);
                match rights.contain(Right::Insert) {
                    true => Ok(holding.shared_flags(mailbox, rights)),
                    false => Err(StoreError::NotPermitted(NOT_ALLOWED)),
                }
            };
            let stored = shipment.commit(account, mailbox, &manifest, &mut may).await;
            let stored = stored.map_err(failed)?;
            let (account, uid_validity) = (account.id(), stored.uid_validity);
            let delivered = |&(_, uid)| Delivered { account, mailbox, uid_validity, uid };
            let delivered = stored.uids.iter().map(delivered).collect();
            return Ok((Stored { delivered, replaced: false }, None));
        }
        let only = first.zip(attributes.into_iter().next());
        let (body, with) = only.ok_or_else(unreachable_now)?;
        let partition_of = |account| holding.shard.partition_of(account);
        if let Some(replaced) = replaced
            && partition_of(replaced.account) == partition_of(account.id())
        {
            let stored = replace((holding, mailbox), (body, with), replaced).await?;
            return Ok((stored, None));
        }
        let Attributes { flags, keywords, internal_date } = with.within(may_set);
        let stored = account.begin_append(mailbox, body, flags, &keywords, internal_date).await;
        let (delivered, unsettled) = stored.map_err(failed)?;
        Ok((Stored { delivered: vec![delivered], replaced: false }, Some(unsettled)))
    }
}

/// Puts a message into a mailbox in place of another one of the same partition, with one entry.
async fn replace(
    (holding, mailbox): (&Holding, MailboxId),
    (body, with): (StagedBody, Attributes),
    replaced: Replaced,
) -> Result<Stored, Failure> {
    let Holding { shard, account, user, .. } = holding;
    let source = match replaced.account == account.id() {
        true => holding.clone(),
        false => Holding::open(shard, replaced.account, user.clone()).await?,
    };
    let Replaced { mailbox: from, uid, .. } = replaced;
    let replacing = Replacing { account: &source.account, mailbox: from, uid };
    let mut may = || {
        let (there, here) = (source.rights(from), holding.rights(mailbox));
        let may = Rights::of(&REPLACED_RIGHTS).without(there).is_empty();
        match may && here.contain(Right::Insert) {
            true => Ok(holding.shared_flags(mailbox, here)),
            false => Err(StoreError::NotPermitted(NOT_ALLOWED)),
        }
    };
    let Attributes { flags, keywords, internal_date } = with;
    let with = (flags, keywords, internal_date);
    let stored = account.append_replacing(mailbox, body, with, replacing, &mut may).await;
    let stored = stored.map_err(|error| match error {
        StoreError::NotPermitted(NOT_ALLOWED) => not_allowed(),
        error => Failure::with_try_create(error),
    })?;
    let gone = || Failure::no(Code::ExpungeIssued, "The message was expunged");
    Ok(Stored { delivered: vec![stored.ok_or_else(gone)?], replaced: true })
}

/// The flags of several messages, which have their numbers for UIDs.
fn manifest(messages: &[Attributes]) -> Result<Manifest, StoreError> {
    let mut manifest = Manifest::default();
    for (number, message) in (1..).zip(messages) {
        let mut keywords = KeywordSet::default();
        for keyword in &message.keywords {
            let names = &mut manifest.keywords;
            let known = names.iter().position(|(_, it)| it.eq_ignore_ascii_case(keyword));
            let bit = known.unwrap_or(names.len());
            if bit >= KEYWORDS_PER_MAILBOX_MAX {
                return Err(StoreError::Limit("keywords of a mailbox"));
            }
            if known.is_none() {
                names.push((bit, keyword.clone()));
            }
            keywords.insert(bit);
        }
        manifest.messages.push((Uid(number), FlagSet { system: message.flags, keywords }));
    }
    Ok(manifest)
}

impl Staging {
    pub(in crate::service::imap) fn new(
        home: &Home,
        mailbox: MailboxId,
    ) -> Result<Staging, Failure> {
        match home {
            Home::Here(Holding { shard, account, .. }) => {
                let partition = shard.local_partition(account.id());
                let batch = Batch::new(partition.ok_or_else(unreachable_now)?, &shard.executor);
                Ok(Staging::Here(Box::new(batch)))
            }
            Home::There(distant) => {
                let (account, user) = (distant.account, distant.user.clone());
                let begin = move |shard: Rc<Shard>, mut pieces: Incoming<Piece, Answer>| {
                    let executor = shard.executor.clone();
                    let task = async move {
                        let answer = receive(shard, account, user, mailbox, &mut pieces).await;
                        pieces.answer(answer);
                    };
                    executor.spawn(Priority::Foreground, Box::pin(task));
                };
                let (mesh, owner) = (&distant.shard.mesh, distant.shard.owner_of(account));
                let pieces =
                    mesh.open_stream(owner, Class::Delivery, ANSWER_TIMEOUT, IN_FLIGHT, begin);
                let executor = distant.shard.executor.clone();
                let (buffer, size, sent) = (Vec::new(), 0, 0);
                Ok(Staging::There(Sending { pieces, executor, buffer, size, sent }))
            }
        }
    }

    pub(in crate::service::imap) async fn write(&mut self, octets: &[u8]) -> Result<(), Failure> {
        match self {
            Staging::Here(batch) => Ok(batch.writer.write(octets).await?),
            Staging::There(sending) => sending.write(octets).await,
        }
    }

    /// Octets of the current message so far.
    pub(in crate::service::imap) fn size(&self) -> u64 {
        match self {
            Staging::Here(batch) => batch.writer.size(),
            Staging::There(sending) => sending.size,
        }
    }

    /// Octets of it that are in memory here.
    pub(in crate::service::imap) fn staged(&self) -> usize {
        match self {
            Staging::Here(batch) => batch.writer.staged(),
            Staging::There(sending) => sending.buffer.len(),
        }
    }

    /// Memory held here, bytes.
    pub(in crate::service::imap) fn memory(&self) -> usize {
        match self {
            Staging::Here(batch) => batch.writer.memory(),
            Staging::There(sending) => {
                sending.buffer.capacity() + sending.pieces.waiting() * sending.sent
            }
        }
    }

    /// Gets rid of the octets in memory.
    pub(in crate::service::imap) async fn spill(&mut self) -> Result<(), Failure> {
        match self {
            Staging::Here(batch) => Ok(batch.writer.spill().await?),
            Staging::There(sending) => sending.flush().await,
        }
    }

    /// Gives back memory that is not needed now.
    pub(in crate::service::imap) fn shrink(&mut self) {
        match self {
            Staging::Here(batch) => batch.writer.shrink(),
            Staging::There(sending) => sending.buffer.shrink_to_fit(),
        }
    }

    /// The current message is complete, and is to be converted if it has NUL. Returns its octets.
    pub(in crate::service::imap) async fn end(
        &mut self,
        mut summary: Vec<u8>,
        with: Attributes,
        conversion: Option<Conversion>,
        charge: &mut Charge,
    ) -> Result<u64, Failure> {
        match self {
            Staging::Here(batch) => {
                if let Some(conversion) = conversion {
                    summary = batch.convert(&summary, conversion, charge).await?;
                }
                let size = batch.writer.size();
                batch.end(summary, with).await?;
                Ok(size)
            }
            Staging::There(sending) => sending.end(summary, with, conversion).await,
        }
    }

    /// Another message begins.
    pub(in crate::service::imap) async fn next(&mut self) -> Result<(), Failure> {
        match self {
            Staging::Here(batch) => Ok(batch.next().await?),
            Staging::There(sending) => sending.send(Piece::Next).await,
        }
    }

    /// Puts the messages into the mailbox for which they were staged, all or none. With an
    /// [`Unsettled`] that is only begun.
    pub(in crate::service::imap) async fn store(
        self,
        home: &Home,
        mailbox: MailboxId,
        replaced: Option<Replaced>,
    ) -> Result<(Stored, Option<Unsettled>), Failure> {
        match (self, home) {
            (Staging::Here(batch), Home::Here(holding)) => {
                batch.store(&holding.again(), mailbox, replaced).await
            }
            (Staging::There(sending), Home::There(distant)) => {
                sending.send(Piece::Store(replaced)).await?;
                let (stored, news) = sending.answer().await?;
                distant.shard.leases.advance(distant.account, mailbox, news);
                Ok((stored, None))
            }
            _ => Err(unreachable_now()),
        }
    }
}

impl Sending {
    async fn write(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.size += octets.len() as u64;
        let mut rest = octets;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BODY_CHUNK - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            rest = later;
            if self.buffer.len() == BODY_CHUNK {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let octets = Bytes::from(std::mem::take(&mut self.buffer));
        self.sent = octets.len();
        self.send(Piece::Octets(octets)).await
    }

    async fn end(
        &mut self,
        summary: Vec<u8>,
        with: Attributes,
        conversion: Option<Conversion>,
    ) -> Result<u64, Failure> {
        self.flush().await?;
        let size = std::mem::take(&mut self.size);
        let Some(conversion) = conversion else {
            self.send(Piece::End { summary, with, conversion: None }).await?;
            return Ok(size);
        };
        let (answer, converted) = worker::answer();
        let conversion = Some((conversion, answer));
        self.send(Piece::End { summary, with, conversion }).await?;
        // Without a receiver there is no answer either.
        let converted = async { converted.await.unwrap_or(Ok(size)) };
        let too_late = async { self.too_late().await.unwrap_or_else(|| Err(unreachable_now())) };
        or(converted, too_late).await
    }

    /// Why an owner stopped to listen is in its answer, for which the session asks at the end.
    async fn send(&self, piece: Piece) -> Result<(), Failure> {
        let send = async { Some(self.pieces.send(piece).await) };
        or(send, self.too_late()).await.map(|_| ()).ok_or_else(unreachable_now)
    }

    async fn answer(self) -> Answer {
        let executor = self.executor;
        let answer = async { self.pieces.answer().await.ok() };
        let too_late = async {
            executor.sleep(ANSWER_TIMEOUT).await;
            None
        };
        or(answer, too_late).await.unwrap_or_else(|| Err(unreachable_now()))
    }

    async fn too_late<T>(&self) -> Option<T> {
        self.executor.sleep(ANSWER_TIMEOUT).await;
        None
    }
}

/// On the owner's shard: messages from a session of another one.
async fn receive(
    shard: Rc<Shard>,
    account: AccountId,
    user: User,
    mailbox: MailboxId,
    pieces: &mut Incoming<Piece, Answer>,
) -> Answer {
    let partition = shard.local_partition(account).ok_or_else(unreachable_now)?;
    let mut batch = Batch::new(partition, &shard.executor);
    let mut charge = Charge::new(&shard.messages, MailClass::Submission);
    loop {
        match pieces.next().await {
            Some(Piece::Octets(octets)) => {
                let writer = &mut batch.writer;
                writer.write(&octets).await?;
                let within = charge.set(writer.memory());
                if !within || writer.staged() >= charge.stage_max(writer.size()) {
                    writer.spill().await?;
                    if !charge.set(writer.memory()) {
                        return Err(too_many());
                    }
                }
            }
            Some(Piece::End { mut summary, with, conversion }) => {
                if let Some((conversion, answer)) = conversion {
                    match batch.convert(&summary, conversion, &mut charge).await {
                        Ok(converted) => {
                            answer.give(Ok(batch.writer.size()));
                            summary = converted;
                        }
                        Err(failure) => {
                            answer.give(Err(failure));
                            return Err(unreachable_now());
                        }
                    }
                }
                batch.end(summary, with).await?;
            }
            Some(Piece::Next) => batch.next().await?,
            Some(Piece::Store(replaced)) => {
                let holding = Holding::open(&shard, account, user).await?;
                let (stored, unsettled) = batch.store(&holding, mailbox, replaced).await?;
                if let Some(unsettled) = unsettled {
                    unsettled.settled().await?;
                }
                return Ok((stored, News::of(&holding.account, mailbox)));
            }
            // The session has gone; what it sent is garbage in the log.
            None => return Err(unreachable_now()),
        }
    }
}

pub(in crate::service::imap) fn too_many() -> Failure {
    Failure::no(Code::Limit, "Too many messages under way; try again later")
}
