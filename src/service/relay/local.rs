//! Queued mail for addresses here: reports to our own users, forwarded mail that comes back, copies
//! whose delivery is to be reported, mail for domains that have become ours. And mail for nowhere.
//!
//! A delivery carries an id made of the queued message, so that after a crash between the delivery
//! and its record the mailbox does not get the message twice. The same holds for the copy that an
//! alias sends on to other servers: it is a message of its own in the queue.

use std::{collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use super::content::StoredContent;
use crate::{
    directory::{ALIAS_REJECTED, Destination, Target},
    model::{AccountId, MailClass},
    protocol::smtp::Notify,
    queue::{self, Envelope, Job, Outcome, Problem, QueueId, Recipient, Session},
    runtime::LocalFuture,
    service::{
        Shard,
        delivery::{Delivery, Failure, Poster},
    },
};

pub(super) struct LocalSession {
    shard: Rc<Shard>,
}

impl LocalSession {
    pub(super) fn new(shard: Rc<Shard>) -> LocalSession {
        LocalSession { shard }
    }

    fn problem(&self, status: &str, reason: &str) -> Problem {
        let (status, reason) = (status.to_owned(), reason.to_owned());
        Problem { at: self.shard.executor.now(), status, reason, ..Problem::default() }
    }

    async fn deliver(&self, job: &Job<'_>, number: u32, recipient: &Recipient) -> Outcome {
        let found = match recipient.account {
            Some(account) => Ok(Found::Account(account)),
            None => self.find(&recipient.address).await,
        };
        let quarantined = recipient.quarantined;
        let (done, reply) = match found {
            Err(outcome) => return outcome,
            Ok(Found::Account(account)) => {
                let detail = self.shard.directory.detail(&recipient.address);
                let copied = self.copy(job, &[(account, detail)], quarantined).await;
                (copied, "delivered to the mailbox")
            }
            Ok(Found::Several(targets)) => {
                let sent_on = self.pass_on(job, number, recipient, &targets);
                (sent_on.await, "delivered to the members of the alias")
            }
            Ok(Found::Nowhere) => (Ok(()), "discarded"),
        };
        match done {
            Ok(()) => Outcome::Delivered {
                host: String::new(),
                reply: reply.to_owned(),
                tls: None,
                is_reported: recipient.wants_success(),
            },
            Err(Failure::OverQuota) => {
                Outcome::Deferred(self.problem("4.2.2", "the mailbox is full"))
            }
            Err(Failure::Refused) => {
                Outcome::Failed(self.problem("5.2.0", "the mailbox cannot take this message"))
            }
            Err(failure) => Outcome::Deferred(self.problem("4.3.0", &failure.to_string())),
        }
    }

    async fn find(&self, address: &str) -> Result<Found, Outcome> {
        let unknown = || Err(Outcome::Failed(self.problem("5.1.1", "no such user here")));
        match self.shard.directory.resolve(&address.to_lowercase()).await {
            Err(_) => {
                Err(Outcome::Deferred(self.problem("4.3.0", "the directory does not answer")))
            }
            Ok(Destination::Mailbox(account) | Destination::Subaddress(account)) => {
                Ok(Found::Account(account))
            }
            Ok(Destination::Several(targets)) => Ok(Found::Several(targets)),
            Ok(Destination::Discard) => Ok(Found::Nowhere),
            Ok(Destination::Reject(text)) => {
                Err(Outcome::Failed(self.problem(ALIAS_REJECTED, &text)))
            }
            Ok(Destination::Relay | Destination::UnknownUser | Destination::Foreign) => unknown(),
        }
    }

    /// Puts a copy into the mailboxes of accounts, each with the detail of the sub-address that
    /// leads to it. Who sent the message is not known any more, as if it had come from outside.
    async fn copy(
        &self,
        job: &Job<'_>,
        to: &[(AccountId, Option<&str>)],
        quarantined: bool,
    ) -> Result<(), Failure> {
        let arrived = job.envelope.arrived;
        let accounts = || to.iter().map(|(account, _)| *account);
        let mut delivery = Delivery::new(&self.shard, accounts(), MailClass::Local).again(arrived);
        let folder =
            |(account, detail): &(AccountId, Option<&str>)| Some((*account, (*detail)?.into()));
        let folders: Vec<(AccountId, Box<str>)> = to.iter().filter_map(folder).collect();
        if !folders.is_empty() {
            delivery = delivery.posted_by(Poster::default(), folders);
        }
        if quarantined {
            delivery.quarantine(accounts().collect());
        }
        push(job, &mut delivery).await?;
        // BODY=BINARYMIME may have waited in the queue as it came.
        if delivery.is_to_lose_nul() {
            Box::pin(delivery.lose_nul(&mut |_| {})).await;
        }
        delivery.finish_once(delivery_id(job.id)).await
    }

    /// Delivers to all that an alias leads to. Repeated, it does only what is missing.
    async fn pass_on(
        &self,
        job: &Job<'_>,
        number: u32,
        recipient: &Recipient,
        targets: &[Target],
    ) -> Result<(), Failure> {
        let envelope = self.envelope_for_others(job, recipient, targets);
        if !envelope.recipients.is_empty() {
            if !self.shard.relay().admits(MailClass::Local) {
                return Err(Failure::Full);
            }
            let arrived = job.envelope.arrived;
            let delivery = Delivery::new(&self.shard, [], MailClass::Local).with_queue();
            let mut delivery = delivery.again(arrived);
            push(job, &mut delivery).await?;
            delivery.send_on(envelope);
            delivery.finish_once(passing_on_id(job.id, number)).await?;
        }
        fn account(target: &Target) -> Option<(AccountId, Option<&str>)> {
            match target {
                Target::Account { account, detail } => Some((*account, detail.as_deref())),
                Target::Remote { .. } => None,
            }
        }
        let accounts: Vec<(AccountId, Option<&str>)> = targets.iter().filter_map(account).collect();
        match accounts.is_empty() {
            true => Ok(()),
            false => self.copy(job, &accounts, recipient.quarantined).await,
        }
    }

    /// The message for the targets on other servers.
    fn envelope_for_others(
        &self,
        job: &Job<'_>,
        recipient: &Recipient,
        targets: &[Target],
    ) -> Envelope {
        let of = job.envelope;
        let now = Duration::from_micros(self.shard.executor.now().0.unsigned_abs());
        let sender = self.shard.directory.forwarded_sender(&of.sender, now);
        // That it got here is reported from here.
        let notify = recipient.notify.map(|notify| match notify {
            Notify::On { failure: false, delay: false, .. } => Notify::Never,
            Notify::On { failure, delay, .. } => Notify::On { success: false, failure, delay },
            Notify::Never => Notify::Never,
        });
        // RFC 3461 5.2.7.2: reports name the recipient as the sender knew it.
        let original = recipient.original.clone();
        let original = original.or_else(|| Some(queue::original_recipient(&recipient.address)));
        let address = |target: &Target| match target {
            Target::Account { .. } => None,
            Target::Remote { address, .. } => Some(address.to_string()),
        };
        let passed_on = |address| Recipient {
            address,
            quarantined: recipient.quarantined,
            original: original.clone(),
            notify,
            sender: sender.clone(),
            any_tls: recipient.any_tls,
            ..Recipient::default()
        };
        let recipients: BTreeMap<u32, Recipient> =
            (1..).zip(targets.iter().filter_map(address).map(passed_on)).collect();
        Envelope { recipients, held: false, hold_until: None, ..of.clone() }
    }
}

/// Where mail for an address here goes.
enum Found {
    Account(AccountId),
    /// The targets of an alias.
    Several(Arc<[Target]>),
    /// It is thrown away.
    Nowhere,
}

async fn push(job: &Job<'_>, delivery: &mut Delivery) -> Result<(), Failure> {
    let mut content = StoredContent::whole(job.partition, job.body);
    while let Some(piece) = content.piece().await? {
        delivery.push(&piece).await;
    }
    Ok(())
}

/// The id under which a queued message is delivered here. Its upper half is its family: nothing of
/// it is forgotten while the message is in the queue. Messages of several mailboxes of the queue
/// may share a family.
pub(super) fn delivery_id(id: QueueId) -> u128 {
    // The store derives ids of single accounts by changing a few bits of the lower half: those of
    // two mailboxes must not be near each other.
    id_of(id, u64::from(id.mailbox.0).wrapping_add(1))
}

/// The id of the copy for the targets elsewhere of the alias that is the recipient of this number.
fn passing_on_id(id: QueueId, number: u32) -> u128 {
    let number = u64::from(number).wrapping_add(1) << 33;
    id_of(id, number.wrapping_add(u64::from(id.mailbox.0)).wrapping_add(1))
}

/// The id with the family of `id`, and a lower half made of `which`.
fn id_of(id: QueueId, which: u64) -> u128 {
    let mut spread = which.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    spread = (spread ^ (spread >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    u128::from(delivery_family(id)) << 64 | u128::from(spread ^ (spread >> 32))
}

/// See [`delivery_id`].
pub(crate) fn delivery_family(id: QueueId) -> u64 {
    // Random families have this pattern once in 2^16 deliveries, and then collide with one message
    // in 2^48.
    0x4f75 << 48 | u64::from(id.partition.0) << 32 | u64::from(id.uid.0)
}

impl Session for LocalSession {
    fn send<'a>(&'a mut self, job: &'a Job<'a>) -> LocalFuture<'a, Vec<(u32, Outcome)>> {
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(job.recipients.len());
            for (number, recipient) in job.recipients {
                outcomes.push((*number, self.deliver(job, *number, recipient).await));
            }
            outcomes
        })
    }

    fn is_usable(&self) -> bool {
        true
    }

    fn end(self: Box<Self>) -> LocalFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Mail for domains whose route is to discard it.
pub(super) struct NowhereSession;

impl Session for NowhereSession {
    fn send<'a>(&'a mut self, job: &'a Job<'a>) -> LocalFuture<'a, Vec<(u32, Outcome)>> {
        let discarded = |(number, recipient): &(u32, &Recipient)| {
            let (host, reply) = (String::new(), "discarded".to_owned());
            let is_reported = recipient.wants_success();
            (*number, Outcome::Delivered { host, reply, tls: None, is_reported })
        };
        Box::pin(std::future::ready(job.recipients.iter().map(discarded).collect()))
    }

    fn is_usable(&self) -> bool {
        true
    }

    fn end(self: Box<Self>) -> LocalFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MailboxId, PartitionId, Uid};

    /// The store takes a delivery for done if the id with the number of an account, plus one, in
    /// the lower half is known (`commits/standing.rs`).
    #[test]
    fn ids_of_two_mailboxes_are_not_near_each_other() {
        let id = |mailbox| {
            let (partition, mailbox) = (PartitionId(1), MailboxId(mailbox));
            delivery_id(QueueId { partition, mailbox, uid: Uid(3) })
        };
        for one in 1..100 {
            assert_eq!((id(one) >> 64) as u64, (id(1) >> 64) as u64, "one family");
            assert!((1..one).all(|other| id(one) ^ id(other) > 1 << 32), "{one}");
            let (partition, mailbox) = (PartitionId(1), MailboxId(2));
            let passed_on = passing_on_id(QueueId { partition, mailbox, uid: Uid(3) }, one);
            assert!((1..100).all(|other| passed_on ^ id(other) > 1 << 32), "{one}");
        }
    }
}
