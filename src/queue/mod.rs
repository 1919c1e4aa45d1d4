//! The durable queue: mail that waits for its next attempt, and who sends it when.
//!
//! A queued message is a message of a mailbox of [`AccountId::QUEUE`](crate::model::AccountId) in
//! the partition that accepted it, with its [`Envelope`] beside it as annotations. [`Queue`] keeps
//! a short entry of each in memory, decides when a message is due and on which connection it goes,
//! and records the result of each attempt durably before it forgets it.
//!
//! Mail is grouped by **destination** (the domain of the recipients) and destinations by **site**
//! (the hosts that take their mail). Connections, rates and back-off belong to the site. How a
//! destination is found, how a connection is opened and a message sent is the [`Carrier`]'s
//! business: `service/relay` has the real one, the simulator one that misbehaves.
//!
//! Rooms, from the top: `engine` (tasks), `settle` (results and reports), `mailboxes` (where new
//! messages go), `list` and `steer` (for operators), `state` (entries and their order), `site`,
//! `slots`, `envelope`, `options`. Shard-local, except `slots`.
//!
//! Invariants: each recipient ends exactly once, as delivered, returned or cancelled, and its end
//! is durable before it is forgotten; a report about it is durable in the same entry; what is in
//! memory can be rebuilt from the store.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod engine;
mod envelope;
mod list;
mod mailboxes;
mod options;
mod settle;
mod site;
mod slots;
mod state;
mod steer;
mod times;

#[cfg(test)]
mod tests;

use std::fmt;

use smallvec::SmallVec;

pub use self::{
    engine::Queue,
    envelope::{
        DeliverBy, Envelope, Origin, Problem, REASON_MAX, Recipient, clip, domain_of,
        original_recipient,
    },
    list::{AgeShape, Filter, Listed, ListedPart, Matches, ShapeBy, SiteFacts},
    mailboxes::place_of,
    options::{QueueOptions, Shape, SiteLimits},
    settle::target,
    slots::{SiteSlots, SlotSeat},
    state::destination_of,
    steer::{Acted, Action, Tally},
    times::{Step, Times},
};
use crate::{
    model::{MailboxId, PartitionId, Uid},
    runtime::LocalFuture,
    store::{MessageBody, Partition, StagedBody, StoreError},
};

/// The mailbox of the queue's account that holds outgoing mail, the first of several. INBOX holds
/// deliveries that some partition here still lacks (`service/delivery/redelivery.rs`).
pub const OUTGOING: &str = "Outgoing";

/// The destination of recipients with an account here.
pub const HERE: &str = "";

/// After the domain of a destination: its TLS policy does not count (RFC 8689 4.2.2). Such
/// recipients share no connections with others.
pub const ANY_TLS: &str = " (any TLS)";

/// The domain of a destination; empty for [`HERE`].
pub fn domain_of_destination(destination: &str) -> &str {
    destination.strip_suffix(ANY_TLS).unwrap_or(destination)
}

/// The name of a queued message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueId {
    pub partition: PartitionId,
    pub mailbox: MailboxId,
    pub uid: Uid,
}

/// `2-9-41`: partition, mailbox and UID.
impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.partition.0, self.mailbox.0, self.uid.0)
    }
}

/// Text that names no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected three numbers, such as 0-9-41, as \"ringmail queue list\" shows them")]
pub struct NotAQueueId;

impl std::str::FromStr for QueueId {
    type Err = NotAQueueId;

    fn from_str(text: &str) -> Result<QueueId, NotAQueueId> {
        let mut numbers = text.splitn(3, '-').map(|part| part.parse::<u32>());
        let mut next = || numbers.next().and_then(Result::ok).ok_or(NotAQueueId);
        let partition = PartitionId(u16::try_from(next()?).map_err(|_| NotAQueueId)?);
        Ok(QueueId { partition, mailbox: MailboxId(next()?), uid: Uid(next()?) })
    }
}

/// A queued message to be sent to some of its recipients.
pub struct Job<'a> {
    pub id: QueueId,
    pub partition: &'a Partition,
    pub body: MessageBody,
    pub envelope: &'a Envelope,
    /// The reverse-path, without brackets.
    pub sender: &'a str,
    /// By the number of their annotation. Not empty.
    pub recipients: &'a [(u32, &'a Recipient)],
}

/// The result for one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Delivered {
        /// Who has it now: a host, or empty for a mailbox here.
        host: String,
        reply: String,
        /// What is known of TLS on the way; `None` in plain text, or if there was no way.
        tls: Option<String>,
        /// The sender is told: that was asked for, and the next host will not tell (RFC 3461 5.2,
        /// RFC 2852 4).
        is_reported: bool,
    },
    Deferred(Problem),
    Failed(Problem),
    /// The connection had ended before the message was begun: it is tried on another at once.
    Again,
}

/// Why a destination or site cannot be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unreachable {
    /// Try again later.
    Now(Problem),
    /// Mail for it is returned.
    Ever(Problem),
}

/// What is reported to the sender about a recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Delivered, or passed to a host that sends no reports.
    Delivered {
        host: String,
        reply: String,
        relayed: bool,
    },
    Failed(Problem),
    /// Still in the queue.
    Delayed(Problem),
}

/// The recipients that a report is about, by number.
pub type Ends = Vec<(u32, Recipient, End)>;

/// The way to a destination.
pub trait Way: Clone + 'static {
    /// The site's name: the same for all destinations with the same hosts.
    fn site(&self) -> &str;
    /// The hosts' names, for limits.
    fn hosts(&self) -> SmallVec<[&str; 4]>;
}

/// A report as a message: its staged body, and the envelope.
pub type Report = (StagedBody, Envelope);

/// The outside world, as the queue sees it.
pub trait Carrier: 'static {
    type Way: Way;

    /// Where mail for the destination goes: a domain in lower case, perhaps with [`ANY_TLS`], or
    /// [`HERE`].
    fn find<'a>(&'a self, destination: &'a str) -> LocalFuture<'a, Result<Self::Way, Unreachable>>;

    /// Connects to one of the hosts.
    fn open<'a>(
        &'a self,
        way: &'a Self::Way,
    ) -> LocalFuture<'a, Result<Box<dyn Session>, Unreachable>>;

    /// Writes the report about `ends` to the sender of a message, staged on its partition. `None`
    /// if nobody is to get one.
    fn report<'a>(
        &'a self,
        job: &'a Job<'a>,
        ends: &'a Ends,
    ) -> LocalFuture<'a, Result<Option<Report>, StoreError>>;

    /// Whether the shard is so busy that one connection to each site must do.
    fn is_strained(&self) -> bool {
        false
    }

    /// Something happened, for the event log and metrics.
    fn tell(&self, event: &QueueEvent<'_>);
}

/// A connection to a site.
pub trait Session {
    /// Sends the message; the results by the recipients' numbers, one for each.
    fn send<'a>(&'a mut self, job: &'a Job<'a>) -> LocalFuture<'a, Vec<(u32, Outcome)>>;

    /// Whether another message can be sent.
    fn is_usable(&self) -> bool;

    /// Whether the other side still holds a connection that was not used for a while.
    fn is_alive(&mut self) -> LocalFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }

    fn end(self: Box<Self>) -> LocalFuture<'static, ()>;
}

/// What happens to queued mail.
pub enum QueueEvent<'a> {
    Queued {
        id: QueueId,
        envelope: &'a Envelope,
        octets: u64,
    },
    /// A recipient's attempt ended.
    Attempt {
        id: QueueId,
        envelope: &'a Envelope,
        recipient: &'a Recipient,
        outcome: &'a Outcome,
    },
    /// No recipient is left.
    Done {
        id: QueueId,
        envelope: &'a Envelope,
    },
    /// A report was queued.
    Reported {
        id: QueueId,
        report: QueueId,
    },
    SiteDown {
        site: &'a str,
        problem: &'a Problem,
    },
    /// A message whose envelope cannot be read: it stays and is not tried.
    Unreadable {
        id: QueueId,
    },
}
