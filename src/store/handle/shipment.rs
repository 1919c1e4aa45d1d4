//! Messages that come from another partition: all of them or none get into the mailbox.
//!
//! An entry of the log holds at most one body, so the bodies come first, each in an entry of its
//! own that changes nothing (`Commits::park`); then one entry puts all the messages into the
//! mailbox, with references to the bodies, as a COPY within the partition does. A hidden mailbox
//! that holds them until then would do as well, but would have to be emptied after a crash; a
//! parked body that nothing refers to is garbage by itself. Compaction keeps those of a
//! [`Shipment`] that is under way.
//!
//! Memory: a few dozen octets for each message, whatever its size.

use std::{collections::BTreeMap, rc::Rc};

use super::{
    super::{
        bodies::write::{ParkedBody, StagedBody},
        commits::{Change, Changes, Commits},
        error::StoreError,
        format::{effect::Effect, moves::Arrival},
        message::Message,
    },
    account::Account,
    copying::{COMMAND_MESSAGES_MAX, COPY_SLICE, Copied, translate},
};
use crate::{
    model::{AccountId, FlagMask, FlagSet, KeywordSet, MailboxId, Timestamp, Uid},
    plant::{Plant, planted},
};

/// The number of one move, at both ends. No two moves have the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u128);

/// The messages of a shipment that the source still has when it decides, with their flags then.
/// Can be sent to other shards.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Ascending by their UIDs in the source.
    pub messages: Vec<(Uid, FlagSet)>,
    /// The keywords that they have: bits, and names.
    pub keywords: Vec<(usize, String)>,
}

/// Messages on their way into a mailbox of this partition. Nothing of it is visible before
/// [`Shipment::commit`]; dropped earlier, it leaves only garbage in the log.
pub struct Shipment {
    commits: Rc<Commits>,
    /// The log's generation when it began: an earlier LSN may name another entry.
    generation: u64,
    ticket: Option<(Ticket, AccountId)>,
    /// By their UIDs in the source.
    messages: BTreeMap<Uid, Shipped>,
    octets: u64,
}

struct Shipped {
    internal_date: Timestamp,
    body: ParkedBody,
}

impl Shipment {
    pub(in crate::store) fn new(
        commits: Rc<Commits>,
        ticket: Option<(Ticket, AccountId)>,
    ) -> Shipment {
        if let Some((ticket, _)) = ticket {
            commits.receiving.borrow_mut().insert(ticket.0, false);
        }
        let generation = commits.log.generation();
        Shipment { commits, generation, ticket, messages: BTreeMap::new(), octets: 0 }
    }

    /// Takes the message with this UID in the source. Its body must be staged on this partition.
    ///
    /// # Errors
    /// As for deliveries; `Limit` if there are too many.
    pub async fn add(
        &mut self,
        uid: Uid,
        internal_date: Timestamp,
        body: StagedBody,
    ) -> Result<(), StoreError> {
        if self.messages.len() >= COMMAND_MESSAGES_MAX {
            return Err(StoreError::Limit("messages copied by one command"));
        }
        self.commits.check_owner(&body)?;
        self.commits.admission.admit()?;
        self.commits.log.room().await?;
        self.check_log()?;
        self.octets += body.size();
        let body = self.commits.park(body)?;
        self.messages.insert(uid, Shipped { internal_date, body });
        Ok(())
    }

    /// After a failure of the log, what was parked may be gone.
    fn check_log(&self) -> Result<(), StoreError> {
        match self.generation == self.commits.log.generation() {
            true => Ok(()),
            false => Err(StoreError::Poisoned),
        }
    }

    fn check_account(&self, account: &Account) -> Result<(), StoreError> {
        match Rc::ptr_eq(&account.commits, &self.commits) {
            true => Ok(()),
            false => Err(StoreError::NotPermitted("account of another partition")),
        }
    }

    /// Whether [`Shipment::commit`] would succeed now, so that the source need not begin in vain.
    ///
    /// # Errors
    /// Its errors.
    pub fn check(&self, account: &Account, mailbox: MailboxId) -> Result<(), StoreError> {
        self.check_for(account, mailbox, (self.messages.len() as u64, self.octets))
    }

    /// The same for messages that have not come yet: how many, and their octets.
    ///
    /// # Errors
    /// Those of [`Shipment::commit`].
    pub fn check_for(
        &self,
        account: &Account,
        mailbox: MailboxId,
        (messages, octets): (u64, u64),
    ) -> Result<(), StoreError> {
        if messages > COMMAND_MESSAGES_MAX as u64 {
            return Err(StoreError::Limit("messages copied by one command"));
        }
        self.check_account(account)?;
        self.check_log()?;
        self.commits.admission.admit()?;
        let mut state = account.cell.state.borrow_mut();
        state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
        let limits = self.commits.options.holding_of(state.id);
        state.check_holding(messages, octets, limits)
    }

    /// Puts those of the messages that are in `manifest` into `mailbox` of `account`, durably.
    /// Up to [`COPY_SLICE`] are one entry, with more it is as for [`Account::copy_from`]. If the
    /// shipment has a ticket, its arrival is recorded in the same entry. `may` is asked in the step
    /// that decides on each entry, and says which flags are kept.
    ///
    /// # Errors
    /// As for [`Account::copy_from`], and those of `may`; `Limit` for more than one entry with a
    /// ticket; `NotPermitted` if the source was told that nothing had arrived.
    pub async fn commit(
        self,
        account: &Account,
        mailbox: MailboxId,
        manifest: &Manifest,
        may: &mut dyn FnMut(&Account, MailboxId) -> Result<FlagMask, StoreError>,
    ) -> Result<Copied, StoreError> {
        self.check_account(account)?;
        self.commits.admission.admit()?;
        if self.ticket.is_some() && manifest.messages.len() > COPY_SLICE {
            return Err(StoreError::Limit("messages moved at a time"));
        }
        let mut copied = Copied::nothing();
        for (index, slice) in manifest.messages.chunks(COPY_SLICE).enumerate() {
            let staged = match account.room_for_slice(index, slice.len()).await {
                Ok(()) => {
                    let manifest = (slice, manifest.keywords.as_slice());
                    self.slice((account, mailbox), manifest, may, &mut copied)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = staged {
                return Err(account.take_back(error, mailbox, &copied).await);
            }
        }
        account.slices_settled(self.generation).await?;
        Ok(copied)
    }

    /// Decides on a slice and logs it; does not await.
    fn slice(
        &self,
        (account, mailbox): (&Account, MailboxId),
        (slice, names): (&[(Uid, FlagSet)], &[(usize, String)]),
        may: &mut dyn FnMut(&Account, MailboxId) -> Result<FlagMask, StoreError>,
        copied: &mut Copied,
    ) -> Result<(), StoreError> {
        self.check_log()?;
        let given_up = |(ticket, _): (Ticket, AccountId)| {
            let receiving = self.commits.receiving.borrow();
            receiving.get(&ticket.0).is_none_or(|given_up| *given_up)
        };
        if self.ticket.is_some_and(given_up) {
            return Err(StoreError::NotPermitted("the move was given up"));
        }
        let kept = may(account, mailbox)?;
        // The source of a MOVE expunges all of them.
        let missing = StoreError::NotPermitted("a message was not sent");
        let messages = slice.iter().map(|(uid, flags)| {
            self.messages.get(uid).map(|shipped| (*uid, kept.of(*flags), shipped))
        });
        let messages: Option<Vec<(Uid, FlagSet, &Shipped)>> = messages.collect();
        let messages = messages.ok_or(missing)?;
        let used = messages
            .iter()
            .fold(KeywordSet::default(), |used, (_, flags, _)| used.union(flags.keywords));
        let names: Vec<(usize, String)> =
            names.iter().filter(|(bit, _)| used.contains(*bit)).cloned().collect();
        let keywords = account.keywords_from(mailbox, &names)?;
        let now = self.commits.executor.now();
        let mut changes = Changes::with_capacity(messages.len() + 1);
        let mut uids = Vec::with_capacity(messages.len());
        {
            let mut state = account.cell.state.borrow_mut();
            let octets = messages.iter().map(|(.., shipped)| shipped.body.body.size).sum();
            let limits = self.commits.options.holding_of(state.id);
            state.check_holding(messages.len() as u64, octets, limits)?;
            let (id, mod_seq) = (state.id, state.allocate_mod_seq());
            let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
            copied.uid_validity = found.status.uid_validity;
            for (source, flags, Shipped { internal_date, body }) in &messages {
                let uid = found.allocate_uid().ok_or(StoreError::Limit("UIDs of a mailbox"))?;
                uids.push((*source, uid));
                let flags = FlagSet {
                    system: flags.system,
                    keywords: translate(flags.keywords, &keywords),
                };
                let (internal_date, save_date, body) = (*internal_date, now, body.body);
                let message = Message { uid, mod_seq, flags, internal_date, save_date, body };
                changes.push(account.change(Effect::Message { account: id, mailbox, message }));
            }
        }
        if let Some((ticket, source)) = self.ticket
            && let Some((_, first)) = uids.first()
        {
            let arrival = Arrival {
                source,
                target: (account.id(), mailbox),
                uid_validity: copied.uid_validity,
                uids: uids.iter().map(|(uid, _)| *uid).collect(),
                first: *first,
            };
            let effect = Effect::Intent { id: ticket.0, payload: arrival.encode() };
            if let Effect::Intent { payload, .. } = &effect {
                self.commits.standing.borrow().check_intents(payload.len())?;
            }
            if !planted(Plant::LoseTicket) {
                changes.push(Change { cell: None, effect });
            }
        }
        account.stage_changes(changes, messages.len())?;
        copied.uids.extend(uids);
        Ok(())
    }
}

impl Drop for Shipment {
    fn drop(&mut self) {
        if let Some((ticket, _)) = self.ticket {
            self.commits.receiving.borrow_mut().remove(&ticket.0);
        }
    }
}
