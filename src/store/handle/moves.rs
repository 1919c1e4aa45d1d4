//! MOVE to a mailbox of another partition, so that a crash leaves each message in one place or the
//! other, and in both only as long as recovery takes.
//!
//! The source records what it is about to expunge, an intent, and only then may the target put the
//! messages into its mailbox, with their arrival in the same entry ([`super::shipment`]). When that
//! is durable the source expunges them and drops the intent, with one entry; then the target
//! forgets the arrival. Whoever finds an intent asks the target, and finishes or cancels it
//! ([`Moves::arrived`]); whoever finds an arrival asks the source, and forgets it once the intent
//! is gone. Both ends are intents of the log, named by the same ticket.
//!
//! What the source decides, it decides when it begins: later changes of flags do not reach the
//! target, and rights that are taken later do not keep the messages.

use std::rc::Rc;

use bytes::Bytes;

use super::{
    super::{
        account::state::AccountCell,
        commits::{Change, Changes, Commits},
        error::StoreError,
        format::{
            effect::Effect,
            moves::{Arrival, Departure, End},
        },
    },
    account::{Account, sorted},
    copying::{COPY_SLICE, Copied},
    shipment::{Manifest, Ticket},
};
use crate::{
    model::{AccountId, FlagMask, MailboxId, Uid},
    plant::{Plant, planted},
};

/// A move that this partition has begun and not yet finished or cancelled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Begun {
    pub ticket: Ticket,
    pub source: (AccountId, MailboxId),
    pub target: (AccountId, MailboxId),
}

/// A move that has arrived in this partition and is not yet forgotten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrived {
    pub ticket: Ticket,
    /// The account that it came from.
    pub source: AccountId,
}

impl Account {
    /// The messages among `uids` that exist in pending state, for a COPY to another partition.
    ///
    /// # Errors
    /// `NoSuchMailbox`, or why the table cannot be read.
    pub async fn manifest(&self, mailbox: MailboxId, uids: &[Uid]) -> Result<Manifest, StoreError> {
        self.commits.accounts.ensure_table(&self.cell, mailbox).await?;
        self.manifest_now(mailbox, &sorted(uids))
    }

    fn manifest_now(&self, mailbox: MailboxId, uids: &[Uid]) -> Result<Manifest, StoreError> {
        let originals = self.originals(mailbox, uids)?;
        let keywords = self.keyword_names(mailbox, &originals)?;
        let messages = originals.iter().map(|message| (message.uid, message.flags)).collect();
        Ok(Manifest { messages, keywords })
    }

    /// Leaves out those of `uids` that are about to leave `mailbox` for another partition, as it is
    /// decided now. A second MOVE, or a RENAME of INBOX, must not take them elsewhere as well. They
    /// are still there for everything else: a COPY is as if it had come before the move, an EXPUNGE
    /// as if it had come after it.
    pub(super) fn leave_out_departing(&self, mailbox: MailboxId, uids: &mut Vec<Uid>) {
        let standing = self.commits.standing.borrow();
        for departing in departures((self.id(), mailbox), standing.pending_intents()) {
            uids.retain(|uid| departing.binary_search(uid).is_err());
        }
    }

    /// Whether messages are about to leave `mailbox` so.
    pub(super) fn is_being_left(&self, mailbox: MailboxId) -> bool {
        let standing = self.commits.standing.borrow();
        departures((self.id(), mailbox), standing.pending_intents()).next().is_some()
    }

    /// Decides that the messages among `uids` that exist go to `target`, and records it durably.
    /// Those that are about to leave by another move are left out. If none is left, nothing is
    /// recorded. `may` is asked in the step that decides. At most [`COPY_SLICE`] messages.
    ///
    /// # Errors
    /// `NoSuchMailbox`, `Limit` if too many moves are under way, and those of `may`.
    pub async fn begin_move(
        &self,
        mailbox: MailboxId,
        uids: &[Uid],
        ticket: Ticket,
        target: (AccountId, MailboxId),
        may: &mut dyn FnMut(&Account, MailboxId) -> Result<FlagMask, StoreError>,
    ) -> Result<Manifest, StoreError> {
        if uids.len() > COPY_SLICE {
            return Err(StoreError::Limit("messages moved at a time"));
        }
        self.commits.accounts.ensure_table(&self.cell, mailbox).await?;
        self.commits.log.room().await?;

        // There is no await from here to the commit.
        may(self, mailbox)?;
        let source = (self.id(), mailbox);
        let mut uids = sorted(uids);
        self.leave_out_departing(mailbox, &mut uids);
        let manifest = self.manifest_now(mailbox, &uids)?;
        if manifest.messages.is_empty() {
            self.settled().await?;
            return Ok(manifest);
        }
        let uids = manifest.messages.iter().map(|(uid, _)| *uid).collect();
        let payload = Departure { source, target, uids }.encode();
        self.commits.standing.borrow().check_intents(payload.len())?;
        let effect = Effect::Intent { id: ticket.0, payload };
        let lsn = self.commits.commit_one(None, effect, None)?;
        self.commits.acknowledged(lsn).await?;
        Ok(manifest)
    }
}

/// The UIDs, ascending, of each move from `place`.
fn departures<'a>(
    place: (AccountId, MailboxId),
    intents: impl Iterator<Item = &'a Bytes>,
) -> impl Iterator<Item = Vec<Uid>> {
    intents.filter_map(move |payload| match End::decode(payload) {
        Ok(End::Departure(Departure { source, uids, .. })) if source == place => Some(uids),
        _ => None,
    })
}

/// The moves between a partition and others that are not yet finished.
pub struct Moves {
    commits: Rc<Commits>,
}

impl Moves {
    pub(in crate::store) fn new(commits: Rc<Commits>) -> Moves {
        Moves { commits }
    }

    fn published(&self) -> Vec<(Ticket, End)> {
        let standing = self.commits.standing.borrow();
        let known = standing.intents.iter().filter_map(|(id, payload)| {
            // One of a later version is left to it.
            Some((Ticket(*id), End::decode(payload).ok()?))
        });
        known.collect()
    }

    /// Those whose messages leave this partition, by ticket.
    pub fn begun(&self) -> Vec<Begun> {
        let published = self.published().into_iter();
        let begun = published.filter_map(|(ticket, end)| match end {
            End::Departure(Departure { source, target, .. }) => {
                Some(Begun { ticket, source, target })
            }
            End::Arrival(_) => None,
        });
        begun.collect()
    }

    /// Those whose messages came here, by ticket.
    pub fn arrivals(&self) -> Vec<Arrived> {
        let published = self.published().into_iter();
        let arrivals = published.filter_map(|(ticket, end)| match end {
            End::Arrival(Arrival { source, .. }) => Some(Arrived { ticket, source }),
            End::Departure(_) => None,
        });
        arrivals.collect()
    }

    /// Whether the messages of this move are durably here, and where. If this is `None` they never
    /// will be: a shipment that is still under way is refused from now on.
    ///
    /// # Errors
    /// If it is not known: the log has failed.
    pub async fn arrived(&self, ticket: Ticket) -> Result<Option<Copied>, StoreError> {
        if let Some(trouble) = self.commits.log.trouble() {
            return Err(trouble);
        }
        let (payload, staged) = {
            let standing = self.commits.standing.borrow();
            let (payload, staged) = standing.pending_intent(ticket.0);
            (payload.cloned(), staged)
        };
        if let Some(lsn) = staged {
            self.commits.log.durable(lsn).await?;
        }
        if let Some(payload) = payload
            && let Ok(End::Arrival(arrival)) = End::decode(&payload)
        {
            let Arrival { uid_validity, uids, first, .. } = arrival;
            let uids = uids.into_iter().zip((first.0..).map(Uid)).collect();
            return Ok(Some(Copied { uid_validity, uids }));
        }
        if !planted(Plant::TakeGivenUp)
            && let Some(given_up) = self.commits.receiving.borrow_mut().get_mut(&ticket.0)
        {
            *given_up = true;
        }
        Ok(None)
    }

    /// Whether this partition may still finish the move: its intent is there, or is not yet durably
    /// gone.
    pub fn is_begun(&self, ticket: Ticket) -> bool {
        let standing = self.commits.standing.borrow();
        standing.intents.contains_key(&ticket.0) || standing.pending_intent(ticket.0).0.is_some()
    }

    /// The messages have arrived: those that are still here are expunged, and the intent is
    /// dropped, with one entry. A move that is not there (any more) is finished.
    ///
    /// # Errors
    /// If the account cannot be read, or the log fails. The intent stays.
    pub async fn finish(&self, ticket: Ticket) -> Result<(), StoreError> {
        let pending = || {
            let standing = self.commits.standing.borrow();
            let (payload, staged) = standing.pending_intent(ticket.0);
            (payload.cloned(), staged)
        };
        let (Some(payload), _) = pending() else { return self.ended(pending().1).await };
        let Ok(End::Departure(Departure { source: (account, mailbox), uids, .. })) =
            End::decode(&payload)
        else {
            return Ok(());
        };
        let cell = self.commits.accounts.load(account).await?;
        match self.commits.accounts.ensure_table(&cell, mailbox).await {
            Err(StoreError::NoSuchMailbox) => {}
            loaded => loaded?,
        }
        self.commits.log.room().await?;

        // There is no await from here to the commit.
        if pending().0.is_none() {
            return self.ended(pending().1).await;
        }
        let mut changes = Changes::new();
        changes.extend(expunge(&cell, mailbox, &uids));
        changes.push(Change { cell: None, effect: Effect::IntentDone { id: ticket.0 } });
        let lsn = self.commits.commit(changes, None)?;
        self.commits.acknowledged(lsn).await
    }

    async fn ended(&self, staged: Option<crate::model::Lsn>) -> Result<(), StoreError> {
        match staged {
            Some(lsn) => self.commits.log.durable(lsn).await,
            None => Ok(()),
        }
    }

    /// The messages will not arrive: they stay.
    ///
    /// # Errors
    /// If the log fails. The intent stays.
    pub async fn cancel(&self, ticket: Ticket) -> Result<(), StoreError> {
        self.drop_intent(ticket, |end| matches!(end, End::Departure(_))).await
    }

    /// The source has dropped its intent.
    ///
    /// # Errors
    /// If the log fails. The arrival stays.
    pub async fn forget(&self, ticket: Ticket) -> Result<(), StoreError> {
        self.drop_intent(ticket, |end| matches!(end, End::Arrival(_))).await
    }

    async fn drop_intent(
        &self,
        ticket: Ticket,
        wanted: impl Fn(&End) -> bool,
    ) -> Result<(), StoreError> {
        self.commits.log.room().await?;
        let (payload, staged) = {
            let standing = self.commits.standing.borrow();
            let (payload, staged) = standing.pending_intent(ticket.0);
            (payload.cloned(), staged)
        };
        let Some(payload) = payload else { return self.ended(staged).await };
        if !End::decode(&payload).is_ok_and(|end| wanted(&end)) {
            return Ok(());
        }
        let effect = Effect::IntentDone { id: ticket.0 };
        let lsn = self.commits.commit_one(None, effect, None)?;
        self.commits.acknowledged(lsn).await
    }
}

/// The expunge of those of `uids` that are there.
fn expunge(cell: &Rc<AccountCell>, mailbox: MailboxId, uids: &[Uid]) -> Option<Change> {
    let mut state = cell.state.borrow_mut();
    let found = state.pending_mailbox(mailbox)?;
    let uids: Vec<Uid> =
        uids.iter().copied().filter(|uid| found.pending_state(*uid).is_some()).collect();
    if uids.is_empty() {
        return None;
    }
    let (account, mod_seq) = (state.id, state.allocate_mod_seq());
    let effect = Effect::Expunge { account, mailbox, mod_seq, uids };
    Some(Change { cell: Some(cell.clone()), effect })
}
