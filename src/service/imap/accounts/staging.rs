//! A message on its way into a mailbox, wherever its account is: octets go to the account's log as
//! they arrive.
//!
//! To another shard they go in pieces, of which [`IN_FLIGHT`] may wait there: a log that is slow
//! holds up the client and nobody else. The owner stores nothing before it has everything, and asks
//! for the user's rights then.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use futures_lite::future::or;

use super::{
    super::reply::{Failure, try_create},
    User,
    distant::unreachable_now,
    holding::{Holding, permitted},
    home::Home,
    lease::News,
};
use crate::{
    model::{AccountId, FlagMask, Flags, MailClass, MailboxId, Right, Rights, Timestamp},
    protocol::imap::Code,
    runtime::{
        executor::{Executor, Priority},
        mesh::Class,
        stream::{Incoming, Outgoing},
    },
    service::{Shard, budget::Charge},
    store::{BODY_CHUNK, BodyWriter, Delivered, StagedBody},
};

/// Pieces sent to another shard and not yet received.
const IN_FLIGHT: usize = 2;

/// How long another shard may take to begin, to take a piece, and to store the message.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the octets of a message go.
pub(in crate::service::imap) enum Staging {
    /// Into the log of a partition of this shard.
    Here(BodyWriter),
    /// To another shard.
    There(Sending),
    /// Nowhere: the message is refused.
    Nowhere,
}

/// The message is complete, and not in the mailbox yet.
pub(in crate::service::imap) enum Staged {
    Here(StagedBody),
    There { sending: Sending, summary: Vec<u8> },
}

/// A message being sent to another shard.
pub(in crate::service::imap) struct Sending {
    pieces: Outgoing<Piece, Answer>,
    executor: Rc<dyn Executor>,
    buffer: Vec<u8>,
    size: u64,
    sent: usize,
}

type Answer = Result<(Delivered, Option<News>), Failure>;

enum Piece {
    Octets(Bytes),
    /// The message is complete.
    Store {
        summary: Vec<u8>,
        with: Attributes,
    },
}

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

impl Staging {
    pub(in crate::service::imap) fn new(
        home: &Home,
        mailbox: MailboxId,
    ) -> Result<Staging, Failure> {
        match home {
            Home::Here(Holding { shard, account, .. }) => {
                let partition = shard.local_partition(account.id()).cloned();
                let partition = partition.ok_or_else(unreachable_now)?;
                Ok(Staging::Here(partition.stage()))
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
                Ok(Staging::There(Sending {
                    pieces,
                    executor,
                    buffer: Vec::new(),
                    size: 0,
                    sent: 0,
                }))
            }
        }
    }

    pub(in crate::service::imap) async fn write(&mut self, octets: &[u8]) -> Result<(), Failure> {
        match self {
            Staging::Here(writer) => Ok(writer.write(octets).await?),
            Staging::There(sending) => sending.write(octets).await,
            Staging::Nowhere => Ok(()),
        }
    }

    /// Octets of the message so far.
    pub(in crate::service::imap) fn size(&self) -> u64 {
        match self {
            Staging::Here(writer) => writer.size(),
            Staging::There(sending) => sending.size,
            Staging::Nowhere => 0,
        }
    }

    /// Octets that are in memory here.
    pub(in crate::service::imap) fn staged(&self) -> usize {
        match self {
            Staging::Here(writer) => writer.staged(),
            Staging::There(sending) => sending.buffer.len(),
            Staging::Nowhere => 0,
        }
    }

    /// Memory held here, bytes.
    pub(in crate::service::imap) fn memory(&self) -> usize {
        match self {
            Staging::Here(writer) => writer.memory(),
            Staging::There(sending) => {
                sending.buffer.capacity() + sending.pieces.waiting() * sending.sent
            }
            Staging::Nowhere => 0,
        }
    }

    /// Gets rid of the octets in memory.
    pub(in crate::service::imap) async fn spill(&mut self) -> Result<(), Failure> {
        match self {
            Staging::Here(writer) => Ok(writer.spill().await?),
            Staging::There(sending) => sending.flush().await,
            Staging::Nowhere => Ok(()),
        }
    }

    /// Gives back memory that is not needed now.
    pub(in crate::service::imap) fn shrink(&mut self) {
        match self {
            Staging::Here(writer) => writer.shrink(),
            Staging::There(sending) => sending.buffer.shrink_to_fit(),
            Staging::Nowhere => {}
        }
    }

    pub(in crate::service::imap) async fn finish(
        self,
        summary: Vec<u8>,
    ) -> Result<Staged, Failure> {
        match self {
            Staging::Here(writer) => Ok(Staged::Here(writer.finish(summary).await?)),
            Staging::There(mut sending) => {
                sending.flush().await?;
                Ok(Staged::There { sending, summary })
            }
            Staging::Nowhere => Err(unreachable_now()),
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

impl Staged {
    /// Octets of the message.
    pub(in crate::service::imap) fn size(&self) -> u64 {
        match self {
            Staged::Here(body) => body.size(),
            Staged::There { sending, .. } => sending.size,
        }
    }

    /// Puts the message into the mailbox for which it was staged.
    pub(in crate::service::imap) async fn store(
        self,
        home: &Home,
        mailbox: MailboxId,
        with: Attributes,
    ) -> Result<Delivered, Failure> {
        match (self, home) {
            (Staged::Here(body), Home::Here(holding)) => {
                store(&holding.again(), mailbox, body, with).await
            }
            (Staged::There { sending, summary }, Home::There(distant)) => {
                sending.send(Piece::Store { summary, with }).await?;
                let (delivered, news) = sending.answer().await?;
                distant.shard.leases.advance(distant.account, mailbox, news);
                Ok(delivered)
            }
            _ => Err(unreachable_now()),
        }
    }
}

/// On the owner's shard: the message may have taken its time, and the rights are those of now.
async fn store(
    holding: &Holding,
    mailbox: MailboxId,
    body: StagedBody,
    with: Attributes,
) -> Result<Delivered, Failure> {
    let rights = holding.get(mailbox).map(|(_, rights)| rights);
    permitted(rights, Rights::of(&[Right::Insert]), try_create)?;
    let may_set = holding.shared_flags(mailbox, rights.unwrap_or_default());
    let Attributes { flags, keywords, internal_date } = with.within(may_set);
    let stored = holding.account.append(mailbox, body, flags, &keywords, internal_date).await;
    stored.map_err(Failure::with_try_create)
}

/// On the owner's shard: a message from a session of another one.
async fn receive(
    shard: Rc<Shard>,
    account: AccountId,
    user: User,
    mailbox: MailboxId,
    pieces: &mut Incoming<Piece, Answer>,
) -> Answer {
    let Some(partition) = shard.local_partition(account).cloned() else {
        return Err(unreachable_now());
    };
    let mut writer = partition.stage();
    let mut charge = Charge::new(&shard.messages, MailClass::Submission);
    loop {
        match pieces.next().await {
            Some(Piece::Octets(octets)) => {
                writer.write(&octets).await?;
                let within = charge.set(writer.memory());
                if !within || writer.staged() >= charge.stage_max(writer.size()) {
                    writer.spill().await?;
                    if !charge.set(writer.memory()) {
                        return Err(Failure::no(Code::Limit, "Too many messages under way"));
                    }
                }
            }
            Some(Piece::Store { summary, with }) => {
                let body = writer.finish(summary).await?;
                let holding = Holding::open(&shard, account, user).await?;
                let delivered = store(&holding, mailbox, body, with).await?;
                return Ok((delivered, News::of(&holding.account, mailbox)));
            }
            // The session has gone; what it sent is garbage in the log.
            None => return Err(unreachable_now()),
        }
    }
}
