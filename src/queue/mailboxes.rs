//! The mailboxes that hold a partition's queue: `Outgoing`, and its successors.
//!
//! A UID names a message for ever (RFC 9051 2.3.1.1), and there are 2^32 of them in a mailbox. Long
//! before they are used up, new messages go to a successor, `Outgoing 2` and so on; those that wait
//! stay where they are. A predecessor that is found empty at the start is deleted.
//!
//! Invariants: the mailbox that new messages go to is the last one, and it exists before a message
//! is put into it.

use std::{rc::Rc, time::Duration};

use super::{Carrier, OUTGOING, Queue, QueueId};
use crate::{
    model::{AccountId, MailboxId},
    store::{Account, Partition, StoreError},
};

/// Pause before looking again for a mailbox that another session is creating, and how often.
const MAKE_PAUSE: Duration = Duration::from_millis(10);
const MAKE_TRIES: u32 = 1000;

/// The mailbox that new messages of a partition go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Current {
    id: MailboxId,
    name: Rc<str>,
}

/// The place of a mailbox of the queue's account in the row, from 1; `None` for another one.
pub fn place_of(name: &str) -> Option<u32> {
    match name.strip_prefix(OUTGOING)? {
        "" => Some(1),
        rest => {
            let place = rest.strip_prefix(' ')?.parse().ok().filter(|place| *place > 1)?;
            (rest == format!(" {place}")).then_some(place)
        }
    }
}

fn name_of(place: u32) -> String {
    if place == 1 { OUTGOING.to_owned() } else { format!("{OUTGOING} {place}") }
}

/// The mailboxes of the queue, the oldest first.
pub(super) fn outgoing(account: &Account) -> Vec<(u32, MailboxId)> {
    let known = account.mailboxes().into_iter();
    let mut found: Vec<(u32, MailboxId)> =
        known.filter_map(|mailbox| Some((place_of(&mailbox.name)?, mailbox.id))).collect();
    found.sort_unstable();
    found
}

impl<C: Carrier> Queue<C> {
    /// The name of the mailbox that new messages of a partition go to; it is made if there is none.
    ///
    /// # Errors
    /// As for accounts.
    pub async fn mailbox(&self, partition: &Partition) -> Result<Rc<str>, StoreError> {
        let number = usize::from(partition.id().0);
        if let Some(Some(known)) = self.inner.mailboxes.borrow().get(number) {
            return Ok(known.name.clone());
        }
        let account = partition.account(AccountId::QUEUE).await?;
        let found = self.find_or_make(&account).await?;
        let name = found.name.clone();
        if let Some(known) = self.inner.mailboxes.borrow_mut().get_mut(number) {
            *known = Some(found);
        }
        Ok(name)
    }

    async fn find_or_make(&self, account: &Account) -> Result<Current, StoreError> {
        for _ in 0..MAKE_TRIES {
            let last = outgoing(account).last().copied();
            let place = match last {
                None => 1,
                Some((place, id)) if self.has_uids(account, id).await? => {
                    return Ok(Current { id, name: name_of(place).into() });
                }
                Some((place, _)) => place.saturating_add(1),
            };
            match account.create_mailbox(&name_of(place), None).await {
                // Another session is creating it; we see it once it is durable.
                Err(StoreError::MailboxExists) => self.inner.executor.sleep(MAKE_PAUSE).await,
                made => return Ok(Current { id: made?, name: name_of(place).into() }),
            }
        }
        Err(StoreError::NotAnswering)
    }

    async fn has_uids(&self, account: &Account, mailbox: MailboxId) -> Result<bool, StoreError> {
        let view = account.select(mailbox, false).await?;
        let next = view.current().map(|snapshot| snapshot.status().uid_next);
        Ok(next.is_some_and(|next| next.0 <= self.options().uids_per_mailbox))
    }

    /// A message got this name: after the last one of a mailbox its successor is looked for.
    pub(super) fn note_place(&self, id: QueueId) {
        if id.uid.0 < self.options().uids_per_mailbox {
            return;
        }
        let mut mailboxes = self.inner.mailboxes.borrow_mut();
        if let Some(current) = mailboxes.get_mut(usize::from(id.partition.0))
            && current.as_ref().is_some_and(|current| current.id == id.mailbox)
        {
            *current = None;
        }
    }

    /// Deletes empty mailboxes that have a successor. At the start only: nothing is on its way into
    /// them then, since new messages have always gone to the last one.
    pub(super) async fn delete_predecessors(
        &self,
        partition: &Partition,
    ) -> Result<(), StoreError> {
        let account = partition.queue().await?;
        let mut all = outgoing(&account);
        all.pop();
        for (place, id) in all {
            let view = account.select(id, false).await?;
            if view.current().is_some_and(|snapshot| snapshot.is_empty()) {
                account.delete_mailbox(&name_of(place)).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successors_have_a_number() {
        for (name, place) in [
            ("Outgoing", Some(1)),
            ("Outgoing 2", Some(2)),
            ("Outgoing 4294967295", Some(u32::MAX)),
            ("Outgoing 1", None),
            ("Outgoing 02", None),
            ("Outgoing +2", None),
            ("Outgoing2", None),
            ("Outgoing ", None),
            ("INBOX", None),
        ] {
            assert_eq!(place_of(name), place, "{name}");
            assert!(place.is_none_or(|place| name_of(place) == name));
        }
    }
}
