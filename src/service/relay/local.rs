//! Queued mail for mailboxes here: reports to our own users, forwarded mail that comes back, copies
//! whose delivery is to be reported. And mail for nowhere.
//!
//! A delivery carries an id made of the queued message, so that after a crash between the delivery
//! and its record the mailbox does not get the message twice.

use std::rc::Rc;

use super::content::StoredContent;
use crate::{
    directory::{ALIAS_REJECTED, Destination},
    model::{AccountId, MailClass},
    queue::{Job, Outcome, Problem, QueueId, Recipient, Session},
    runtime::LocalFuture,
    service::{
        Shard,
        delivery::{Delivery, Failure},
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

    async fn deliver(&self, job: &Job<'_>, recipient: &Recipient) -> Outcome {
        let account = match recipient.account {
            Some(account) => account,
            None => match self.account(&recipient.address).await {
                Ok(account) => account,
                Err(outcome) => return outcome,
            },
        };
        match self.copy(job, account, recipient.quarantined).await {
            Ok(()) => Outcome::Delivered {
                host: String::new(),
                reply: "delivered to the mailbox".to_owned(),
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

    async fn account(&self, address: &str) -> Result<AccountId, Outcome> {
        match self.shard.directory.resolve(&address.to_lowercase()).await {
            Err(_) => {
                Err(Outcome::Deferred(self.problem("4.3.0", "the directory does not answer")))
            }
            Ok(found @ (Destination::Mailbox(_) | Destination::Subaddress(_))) => {
                let unknown = || Outcome::Failed(self.problem("5.1.1", "no such user here"));
                found.account().ok_or_else(unknown)
            }
            Ok(Destination::Reject(text)) => {
                Err(Outcome::Failed(self.problem(ALIAS_REJECTED, &text)))
            }
            Ok(_) => Err(Outcome::Failed(self.problem("5.1.1", "no such user here"))),
        }
    }

    async fn copy(
        &self,
        job: &Job<'_>,
        account: AccountId,
        quarantined: bool,
    ) -> Result<(), Failure> {
        let arrived = job.envelope.arrived;
        let mut delivery = Delivery::new(&self.shard, [account], MailClass::Local).again(arrived);
        if quarantined {
            delivery.quarantine(std::iter::once(account).collect());
        }
        let mut content = StoredContent::whole(job.partition, job.body);
        while let Some(piece) = content.piece().await? {
            delivery.push(&piece).await;
        }
        delivery.finish_once(delivery_id(job.id)).await
    }
}

/// The id under which a queued message is delivered here. Its upper half is its family: nothing of
/// it is forgotten while the message is in the queue. Messages of several mailboxes of the queue
/// may share a family.
pub(super) fn delivery_id(id: QueueId) -> u128 {
    // The store derives ids of single accounts by changing a few bits of the lower half: those of
    // two mailboxes must not be near each other.
    let mut spread = u64::from(id.mailbox.0).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
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
                outcomes.push((*number, self.deliver(job, recipient).await));
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
        }
    }
}
