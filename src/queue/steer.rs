//! What operators do to queued mail: try it now, hold and release it, begin anew, return it and
//! remove it, or only one of its recipients.
//!
//! A message that is being sent is left alone: what becomes of it is not known yet. All that is to
//! last is on disk before it is reported as done.

use std::{cell::Cell, collections::VecDeque, future::poll_fn, rc::Rc, task::Poll};

use super::{
    Carrier, End, Ends, Outcome, Queue, QueueEvent, QueueId,
    envelope::{Envelope, Problem, Recipient},
    settle::AtHand,
    state::{Phase, Route, destination_of},
};
use crate::{
    model::Timestamp,
    runtime::LocalFuture,
    store::{Settled, Settlement, StoreError},
};

/// Messages changed at once: their changes share writes to disk.
const AT_ONCE: usize = 128;

/// What is done to messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Tried now, also if its sites pause.
    Flush,
    /// Not tried until it is released.
    Hold,
    Release,
    /// As if it had arrived now: earlier failures, hold and schedule are forgotten.
    Requeue,
    /// Removed; nobody is told.
    Cancel,
    /// Returned to its sender with this reason.
    Bounce(String),
    /// The recipient with this address (without case) does not get it; the others stay. With a
    /// reason it is returned for that recipient, otherwise nobody is told.
    Drop {
        recipient: String,
        reason: Option<String>,
    },
}

/// What became of a message that something was to be done to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acted {
    Done,
    /// It is being sent.
    Busy,
    /// It is on hold: it must be released before it is tried.
    Held,
    /// There is none, or it has no such recipient.
    Gone,
}

/// How many messages an action reached so far.
#[derive(Default, Debug)]
pub struct Tally {
    pub done: Cell<u64>,
    pub busy: Cell<u64>,
    pub held: Cell<u64>,
    pub gone: Cell<u64>,
    /// The store refused the change.
    pub failed: Cell<u64>,
}

impl Tally {
    fn count(&self, acted: &Result<Acted, StoreError>) {
        let counter = match acted {
            Ok(Acted::Done) => &self.done,
            Ok(Acted::Busy) => &self.busy,
            Ok(Acted::Held) => &self.held,
            Ok(Acted::Gone) => &self.gone,
            Err(_) => &self.failed,
        };
        counter.set(counter.get() + 1);
    }
}

impl<C: Carrier> Queue<C> {
    /// Does `action` to all these messages, some at a time; `tally` tells how far it is.
    pub async fn act_on_all(&self, ids: Vec<QueueId>, action: &Action, tally: &Tally) {
        let left = Cell::new(VecDeque::from(ids));
        let next = || {
            let mut ids = left.take();
            let id = ids.pop_front();
            left.set(ids);
            id
        };
        let work = async || {
            while let Some(id) = next() {
                tally.count(&self.act(id, action).await);
                self.inner.executor.yield_now().await;
            }
        };
        let mut working: Vec<LocalFuture<'_, ()>> = Vec::new();
        working.extend((0..AT_ONCE).map(|_| Box::pin(work()) as LocalFuture<'_, ()>));
        poll_fn(|context| {
            working.retain_mut(|task| task.as_mut().poll(context).is_pending());
            if working.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Does `action` to one message.
    ///
    /// # Errors
    /// As for [`crate::store::Account::settle`]; the message is as before.
    pub async fn act(&self, id: QueueId, action: &Action) -> Result<Acted, StoreError> {
        let done = |found: bool| if found { Acted::Done } else { Acted::Gone };
        match action {
            Action::Flush if self.is_held(id) => Ok(Acted::Held),
            Action::Flush => Ok(done(self.flush(&[id]) > 0)),
            Action::Hold => self.set_held(id, true).await.map(done),
            Action::Release => self.set_held(id, false).await.map(done),
            Action::Requeue => self.requeue(id).await,
            Action::Cancel => self.remove(id, None).await,
            Action::Bounce(reason) => self.remove(id, Some(reason)).await,
            Action::Drop { recipient, reason } => {
                let is_meant = |it: &Recipient| it.address.eq_ignore_ascii_case(recipient);
                self.drop_recipients(id, is_meant, reason.as_deref()).await
            }
        }
    }

    fn is_held(&self, id: QueueId) -> bool {
        self.inner.state.borrow().entries.get(&id).is_some_and(|entry| entry.held)
    }

    /// Tries these messages now, also if their sites pause; those that are held stay so. Returns
    /// how many exist.
    pub fn flush(&self, ids: &[QueueId]) -> usize {
        let now = self.inner.executor.now();
        let mut state = self.inner.state.borrow_mut();
        let mut found = 0;
        for id in ids {
            let Some(entry) = state.entries.get(id) else { continue };
            found += 1;
            for part in &entry.parts {
                let destination = state.destinations.get(part.destination as usize);
                if let Some(Route::Found { site, .. }) = destination.map(|it| &it.route) {
                    site.forgive();
                }
            }
            state.reschedule(*id, |_| now);
        }
        drop(state);
        self.wake();
        found
    }

    /// Holds or releases a message, durably. False if there is none.
    ///
    /// # Errors
    /// As for [`crate::store::Account::settle`].
    pub async fn set_held(&self, id: QueueId, held: bool) -> Result<bool, StoreError> {
        // Other commands put the message back into the indexes as they have read it.
        let _lock = self.lock(id).await;
        let Some((partition, _, envelope)) = self.load(id).await else { return Ok(false) };
        let mut changed = (*envelope).clone();
        changed.held = held;
        if !held {
            changed.hold_until = None;
        }
        if changed == *envelope {
            return Ok(true);
        }
        let changes = vec![(0, Some(changed.encode_head()))];
        let account = partition.queue().await?;
        let settled =
            account.settle(id.mailbox, id.uid, Settlement::Changed(changes), None).await?;
        if settled == Settled::Gone {
            return Ok(false);
        }
        let now = self.inner.executor.now();
        self.forget_fresh(id);
        let mut state = self.inner.state.borrow_mut();
        if let Some(entry) = state.entries.get_mut(&id) {
            entry.held = held;
            entry.times = changed.timetable();
        }
        state.reschedule(id, |part| if held { part.due } else { now });
        drop(state);
        self.wake();
        Ok(true)
    }

    /// Takes a message out of all indexes, so that nobody sends it; its destinations.
    fn claim(&self, id: QueueId) -> Result<Vec<u32>, Acted> {
        let mut state = self.inner.state.borrow_mut();
        let entry = state.entries.get(&id).ok_or(Acted::Gone)?;
        if entry.settling || entry.parts.iter().any(|part| part.phase == Phase::Busy) {
            return Err(Acted::Busy);
        }
        let destinations = entry.parts.iter().map(|part| part.destination).collect();
        state.claim(id);
        Ok(destinations)
    }

    async fn requeue(&self, id: QueueId) -> Result<Acted, StoreError> {
        let destinations = match self.claim(id) {
            Ok(destinations) => destinations,
            Err(acted) => return Ok(acted),
        };
        // A warning must not be recorded over the new beginning, nor this over a hold.
        let lock = self.lock(id).await;
        let now = self.inner.executor.now();
        let changed = async {
            let (partition, body, envelope) =
                self.load(id).await.ok_or(StoreError::NoSuchMailbox)?;
            let mut renewed = Envelope { arrived: now, held: false, ..(*envelope).clone() };
            renewed.hold_until = None;
            for recipient in renewed.recipients.values_mut() {
                (recipient.attempts, recipient.problem) = (0, None);
                recipient.warned = false;
            }
            let changes = Settlement::Changed(renewed.changes_from(&envelope));
            let account = partition.queue().await?;
            let settled = account.settle(id.mailbox, id.uid, changes, None).await?;
            Ok((settled, body, Rc::new(renewed)))
        };
        let changed = changed.await;
        drop(lock);
        match changed {
            Ok((settled, body, envelope)) => {
                let mut state = self.inner.state.borrow_mut();
                let entry = state.remove(id);
                let gone = settled == Settled::Gone;
                if !gone {
                    state.add(id, body, &envelope, false, |_| now);
                }
                drop(state);
                self.dropped(entry.is_some_and(|entry| entry.fresh.is_some()));
                self.flush(&[id]);
                Ok(if gone { Acted::Gone } else { Acted::Done })
            }
            Err(error) => {
                self.trouble(id, &destinations);
                Err(error)
            }
        }
    }

    /// Removes a message without telling its sender, or (with a reason) returns it.
    ///
    /// # Errors
    /// As for [`crate::store::Account::settle`].
    pub async fn remove(&self, id: QueueId, bounce: Option<&str>) -> Result<Acted, StoreError> {
        if bounce.is_some() {
            return self.drop_recipients(id, |_| true, bounce).await;
        }
        let destinations = match self.claim(id) {
            Ok(destinations) => destinations,
            Err(acted) => return Ok(acted),
        };
        let removed = async {
            let partition = self.partition(id.partition).ok_or(StoreError::NoSuchMailbox)?;
            let account = partition.queue().await?;
            account.settle(id.mailbox, id.uid, Settlement::Removed, None).await
        };
        match removed.await {
            Ok(_) => {
                let entry = self.inner.state.borrow_mut().remove(id);
                self.dropped(entry.is_some_and(|entry| entry.fresh.is_some()));
                Ok(Acted::Done)
            }
            Err(error) => {
                self.trouble(id, &destinations);
                Err(error)
            }
        }
    }

    /// Why an operator returns mail.
    fn unwanted(&self, reason: &str) -> Problem {
        let (status, reason) = ("5.7.1".to_owned(), reason.to_owned());
        Problem { at: self.inner.executor.now(), status, reason, ..Problem::default() }
    }

    /// Takes some recipients off a message, without telling its sender, or (with a reason)
    /// returned. What is left keeps its schedule.
    async fn drop_recipients(
        &self,
        id: QueueId,
        is_meant: impl Fn(&Recipient) -> bool,
        bounce: Option<&str>,
    ) -> Result<Acted, StoreError> {
        let destinations = match self.claim(id) {
            Ok(destinations) => destinations,
            Err(acted) => return Ok(acted),
        };
        // A warning about the same recipient must not be recorded after its end.
        let lock = self.lock(id).await;
        let dropped = async {
            let (partition, body, envelope) =
                self.load(id).await.ok_or(StoreError::NoSuchMailbox)?;
            let mut left = (*envelope).clone();
            left.recipients.retain(|_, recipient| !is_meant(recipient));
            if left.recipients.len() == envelope.recipients.len() {
                return Ok((Acted::Gone, body, left));
            }
            let meant = envelope.recipients.iter().filter(|(_, it)| is_meant(it));
            let mut ends = Ends::new();
            if let Some(reason) = bounce {
                let failed = |it: &Recipient| it.wants(|_, failure, _| failure, true);
                let wanted = meant.clone().filter(|(_, it)| failed(it));
                let end = End::Failed(self.unwanted(reason));
                ends.extend(wanted.map(|(number, it)| (*number, it.clone(), end.clone())));
            }
            let changes = meant.clone().map(|(number, _)| (*number, None)).collect();
            let changes = (!left.recipients.is_empty()).then_some(changes);
            let at_hand = AtHand { id, partition: &partition, body, envelope: &envelope };
            self.record_once(&at_hand, changes, &ends).await?;
            for (_, recipient) in meant {
                if let Some(reason) = bounce {
                    let outcome = &Outcome::Failed(self.unwanted(reason));
                    let event = QueueEvent::Attempt { id, envelope: &envelope, recipient, outcome };
                    self.inner.carrier.tell(&event);
                }
            }
            if left.recipients.is_empty() {
                self.inner.carrier.tell(&QueueEvent::Done { id, envelope: &envelope });
            }
            Ok((Acted::Done, body, left))
        };
        let dropped = dropped.await;
        drop(lock);
        match dropped {
            Ok((acted, body, left)) => {
                let mut state = self.inner.state.borrow_mut();
                let due: Vec<(String, Timestamp)> = state.schedule(id);
                let next = |recipient: &Recipient| {
                    let name = destination_of(recipient);
                    let known = due.iter().find(|(destination, _)| *destination == name);
                    known.map_or(Timestamp::default(), |(_, due)| *due)
                };
                let entry = state.remove(id);
                if !left.recipients.is_empty() {
                    state.add(id, body, &Rc::new(left), false, next);
                }
                drop(state);
                self.dropped(entry.is_some_and(|entry| entry.fresh.is_some()));
                self.wake();
                Ok(acted)
            }
            Err(error) => {
                self.trouble(id, &destinations);
                Err(error)
            }
        }
    }
}
