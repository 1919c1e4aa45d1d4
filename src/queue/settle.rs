//! Recording what became of queued messages, and reporting it to their senders.
//!
//! The changes of an attempt and the report about it are one entry of the log
//! ([`crate::store::Account::settle`]). One message is settled by one task at a time: the last one
//! removes the message. While the store cannot record a result, the task that has it waits: a
//! recipient who has the message must not get it again.

use std::{
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use super::{
    Carrier, End, Ends, HERE, Job, Outcome, Queue, QueueEvent, QueueId,
    envelope::{Envelope, Problem, Recipient},
    state::{DestinationId, destination_of, parse_status},
};
use crate::{
    model::{AccountId, Flags, MailboxId, Timestamp, Uid},
    plant::{Plant, planted},
    protocol::smtp::Notify,
    store::{
        AnnotationChanges, DeliveryTarget, MessageBody, Partition, Settled, Settlement, Snapshot,
        StoreError,
    },
};

/// Pause before another attempt to record a result, and how many such attempts there are before the
/// message counts as not tried.
const RECORD_PAUSE: Duration = Duration::from_secs(1);
const RECORD_TRIES: u32 = 600;

/// Work on a message apart from any connection.
pub(super) enum Chore {
    /// Its recipients at the destination, whose parts are busy, cannot get it: it is returned.
    Return(QueueId, DestinationId, Problem),
    /// Its sender is told that the destination's recipients must wait.
    Warn(QueueId, DestinationId, Problem),
}

/// A destination with recipients that are left, why (`None`: no command reached the other side),
/// and whether their sender was warned.
type Left = (DestinationId, Option<Problem>, bool);

/// A message at hand.
pub(super) struct AtHand<'a> {
    pub id: QueueId,
    pub partition: &'a Partition,
    pub body: MessageBody,
    pub envelope: &'a Envelope,
}

/// What the sender is told of a delivery, if anything.
fn delivered_end(recipient: &Recipient, outcome: &Outcome) -> Option<End> {
    let Outcome::Delivered { host, reply, is_reported, tls: _ } = outcome else { return None };
    is_reported.then(|| End::Delivered {
        host: host.clone(),
        reply: reply.clone(),
        relayed: destination_of(recipient) != HERE,
    })
}

impl<C: Carrier> Queue<C> {
    pub(super) async fn do_chores(self) {
        while !self.inner.ended.get() {
            let next = self.inner.chores.borrow_mut().pop_front();
            match next {
                None => self.inner.chore.take().await,
                Some(Chore::Return(id, destination, problem)) => {
                    self.give_back(id, destination, problem).await;
                }
                Some(Chore::Warn(id, destination, problem)) => {
                    self.warn(id, destination, problem).await;
                }
            }
        }
    }

    async fn give_back(&self, id: QueueId, destination: DestinationId, problem: Problem) {
        let Some((partition, body, envelope)) = self.load(id).await else {
            return self.trouble(id, &[destination]);
        };
        let recipients = self.recipients_of(&[destination], &envelope);
        let failed = |(number, _)| (number, Outcome::Failed(problem.clone()));
        let outcomes = recipients.into_iter().map(failed).collect();
        self.settle(id, &[destination], &partition, body, &envelope, outcomes).await;
    }

    async fn warn(&self, id: QueueId, destination: DestinationId, problem: Problem) {
        let _lock = self.lock(id).await;
        let Some((partition, body, envelope)) = self.load(id).await else { return };
        let mut changes = AnnotationChanges::new();
        let mut ends = Ends::new();
        for (number, recipient) in self.recipients_of(&[destination], &envelope) {
            if recipient.warned {
                continue;
            }
            let mut told = recipient.clone();
            told.warned = true;
            changes.push((number, Some(told.encode())));
            if recipient.wants(|_, _, delay| delay, true) {
                ends.push((number, told, End::Delayed(problem.clone())));
            }
        }
        if changes.is_empty() {
            return;
        }
        let at_hand = AtHand { id, partition: &partition, body, envelope: &envelope };
        // If this fails, the sender is warned after the next attempt.
        if self.record(&at_hand, Some(changes), &ends, AnnotationChanges::new(), 1).await {
            let mut state = self.inner.state.borrow_mut();
            if let Some(part) = state.part(id, destination) {
                part.warned = true;
            }
            drop(state);
            self.forget_fresh(id);
        }
    }

    /// Records the outcomes of an attempt for all recipients of `destinations`, whose parts are
    /// busy, and schedules what is left.
    pub(super) async fn settle(
        &self,
        id: QueueId,
        destinations: &[DestinationId],
        partition: &Partition,
        body: MessageBody,
        envelope: &Rc<Envelope>,
        outcomes: Vec<(u32, Outcome)>,
    ) {
        // Before anything is decided: a warning may be recorded meanwhile.
        let lock = self.lock(id).await;
        let now = self.inner.executor.now();
        let options = self.options();
        let warning = options.warning_at(&envelope.timetable());
        let late = warning.is_some_and(|at| at <= now);
        let mut changes = AnnotationChanges::new();
        let mut ends = Ends::new();
        // Recipients who have the message and are in no report.
        let mut sent = AnnotationChanges::new();
        let mut left: Vec<Left> = Vec::new();
        for (number, recipient) in self.recipients_of(destinations, envelope) {
            let outcome = outcomes.iter().find(|(other, _)| *other == number);
            let unknown = Outcome::Deferred(Problem {
                at: now,
                status: "4.4.2".to_owned(),
                reason: "the other side did not say what became of this recipient".to_owned(),
                ..Problem::default()
            });
            let outcome = outcome.map_or(&unknown, |(_, outcome)| outcome);
            if *outcome != Outcome::Again {
                let event = QueueEvent::Attempt { id, envelope, recipient, outcome };
                self.inner.carrier.tell(&event);
            }
            if planted(Plant::ForgetRecipient) && number % 2 == 0 && outcomes.len() > 1 {
                changes.push((number, None));
                continue;
            }
            match outcome {
                Outcome::Delivered { .. } => {
                    if !planted(Plant::RetryDelivered) {
                        changes.push((number, None));
                    }
                    if let Some(end) = delivered_end(recipient, outcome) {
                        ends.push((number, recipient.clone(), end));
                    } else if !planted(Plant::RetryDelivered) {
                        sent.push((number, None));
                    }
                }
                Outcome::Failed(problem) => {
                    changes.push((number, None));
                    if recipient.wants(|_, failure, _| failure, true) {
                        ends.push((number, recipient.clone(), End::Failed(problem.clone())));
                    }
                }
                Outcome::Deferred(problem) => {
                    let mut later = recipient.clone();
                    later.attempts = later.attempts.saturating_add(1);
                    later.problem = Some(problem.clone());
                    later.warned |= self.is_warned(id, recipient);
                    if late && !later.warned {
                        later.warned = true;
                        if recipient.wants(|_, _, delay| delay, true) {
                            let end = End::Delayed(problem.clone());
                            ends.push((number, later.clone(), end));
                        }
                    }
                    let warned = later.warned;
                    changes.push((number, Some(later.encode())));
                    let problem = Some(problem.clone());
                    self.leave(recipient, problem, warned, &mut left);
                }
                Outcome::Again => {
                    let warned = recipient.warned;
                    self.leave(recipient, None, warned, &mut left);
                }
            }
        }
        let is_last = {
            let state = self.inner.state.borrow();
            state.entries.get(&id).is_none_or(|entry| {
                let ended = |part: &super::state::Part| {
                    destinations.contains(&part.destination)
                        && !left.iter().any(|(other, ..)| *other == part.destination)
                };
                match planted(Plant::EndEarly) {
                    true => entry.parts.iter().any(ended),
                    false => entry.parts.iter().all(ended),
                }
            })
        };
        let at_hand = AtHand { id, partition, body, envelope };
        let some_ended = changes.iter().any(|(_, value)| value.is_none());
        let changes = (!is_last).then_some(changes);
        // After a connection that had ended there is nothing to record.
        let nothing = ends.is_empty() && changes.as_ref().is_some_and(Vec::is_empty);
        if !nothing && !self.record(&at_hand, changes, &ends, sent, RECORD_TRIES).await {
            return self.trouble(id, destinations);
        }
        if is_last {
            self.inner.carrier.tell(&QueueEvent::Done { id, envelope });
            let entry = self.inner.state.borrow_mut().remove(id);
            self.dropped(entry.is_some_and(|entry| entry.fresh.is_some()));
        } else {
            let mut state = self.inner.state.borrow_mut();
            for destination in destinations {
                let done = !left.iter().any(|(other, ..)| other == destination);
                let forgotten = planted(Plant::ForgetPart) && some_ended;
                if done || forgotten {
                    state.end_part(id, *destination);
                }
            }
            for (destination, problem, warned) in &left {
                if let Some(part) = state.part(id, *destination) {
                    if let Some(problem) = problem {
                        part.status = parse_status(&problem.status);
                    }
                    part.warned = *warned;
                }
            }
            drop(state);
            for (destination, problem, _) in &left {
                match problem {
                    Some(problem) => self.put_off(id, *destination, problem),
                    None => self.inner.state.borrow_mut().defer(id, *destination, now),
                }
            }
            self.wake();
        }
        drop(lock);
    }

    /// Records who has the message, of a message that also goes to others: after a crash they must
    /// not get it again. Takes them from `outcomes`; whoever could not be recorded stays there.
    pub(super) async fn record_delivered(
        &self,
        at_hand: &AtHand<'_>,
        outcomes: &mut Vec<(u32, Outcome)>,
    ) -> Vec<u32> {
        let AtHand { id, envelope, .. } = *at_hand;
        let delivered = |it: &Outcome| matches!(it, Outcome::Delivered { .. });
        if planted(Plant::RetryDelivered) || !outcomes.iter().any(|(_, it)| delivered(it)) {
            return Vec::new();
        }
        let _lock = self.lock(id).await;
        let (mut changes, mut ends) = (AnnotationChanges::new(), Ends::new());
        for (number, outcome) in outcomes.iter().filter(|(_, it)| delivered(it)) {
            changes.push((*number, None));
            let recipient = envelope.recipients.get(number);
            let end = recipient.and_then(|it| Some((it, delivered_end(it, outcome)?)));
            ends.extend(end.map(|(recipient, end)| (*number, recipient.clone(), end)));
        }
        if !self.record(at_hand, Some(changes), &ends, AnnotationChanges::new(), 1).await {
            return Vec::new();
        }
        let (recorded, left): (Vec<_>, Vec<_>) =
            outcomes.drain(..).partition(|(_, it)| delivered(it));
        *outcomes = left;
        for (number, outcome) in &recorded {
            if let Some(recipient) = envelope.recipients.get(number) {
                let event = QueueEvent::Attempt { id, envelope, recipient, outcome };
                self.inner.carrier.tell(&event);
            }
        }
        recorded.into_iter().map(|(number, _)| number).collect()
    }

    /// Notes that a recipient is left. Those at one destination are tried together, and not before
    /// the one who was put off may be.
    fn leave(
        &self,
        recipient: &Recipient,
        problem: Option<Problem>,
        warned: bool,
        left: &mut Vec<Left>,
    ) {
        let name = destination_of(recipient);
        let Some(found) = self.inner.state.borrow().destination_named(&name) else { return };
        match left.iter_mut().find(|(other, ..)| *other == found) {
            None => left.push((found, problem, warned)),
            Some((_, why, _)) => *why = why.take().or(problem),
        }
    }

    /// Whether the sender was told of the delay, also since the envelope was read.
    fn is_warned(&self, id: QueueId, recipient: &Recipient) -> bool {
        let mut state = self.inner.state.borrow_mut();
        let destination = state.destination_named(&destination_of(recipient));
        destination.and_then(|it| state.part(id, it)).is_some_and(|part| part.warned)
    }

    /// Puts changes (`None`: the message is removed) and the report about `ends` on disk. False if
    /// that failed `tries` times. `sent`, of the changes, needs no report and is recorded apart if
    /// the report cannot be: a full disk has no room for mail, but it has for this.
    async fn record(
        &self,
        at_hand: &AtHand<'_>,
        changes: Option<AnnotationChanges>,
        ends: &Ends,
        mut sent: AnnotationChanges,
        tries: u32,
    ) -> bool {
        for attempt in 0..tries {
            if attempt > 0 {
                self.inner.executor.sleep(RECORD_PAUSE).await;
            }
            if self.record_once(at_hand, changes.clone(), ends).await.is_ok() {
                return true;
            }
            if !sent.is_empty() && !ends.is_empty() {
                let apart = Some(sent.clone());
                if self.record_once(at_hand, apart, &Ends::new()).await.is_ok() {
                    sent.clear();
                }
            }
            if self.inner.ended.get() {
                return false;
            }
        }
        false
    }

    pub(super) async fn record_once(
        &self,
        at_hand: &AtHand<'_>,
        changes: Option<AnnotationChanges>,
        ends: &Ends,
    ) -> Result<(), StoreError> {
        let AtHand { id, partition, body, envelope } = *at_hand;
        // There is never a report about a report (RFC 5321 4.5.5).
        let wanted = !ends.is_empty() && !envelope.sender.is_empty();
        let report = match wanted {
            false => None,
            true => {
                let job = Job {
                    id,
                    partition,
                    body,
                    envelope,
                    sender: &envelope.sender,
                    recipients: &[],
                };
                self.inner.carrier.report(&job, ends).await?
            }
        };
        let (staged, about) = match report {
            None => (None, None),
            Some((staged, about)) => {
                let mailbox = self.mailbox(partition).await?;
                let target = target(&about, about.arrived, &mailbox);
                (Some((staged, target)), Some(about))
            }
        };
        let settlement = changes.map_or(Settlement::Removed, Settlement::Changed);
        let account = partition.queue().await?;
        if planted(Plant::BounceTwice)
            && let Some(about) = &about
        {
            let job = Job { id, partition, body, envelope, sender: "", recipients: &[] };
            if let Some((again, _)) = self.inner.carrier.report(&job, ends).await? {
                let mailbox = self.mailbox(partition).await?;
                let target = target(about, about.arrived, &mailbox);
                partition.deliver(again, vec![target], None).await?;
            }
        }
        let settled = account.settle(id.mailbox, id.uid, settlement, staged).await?;
        // The envelope in memory still has recipients that are finished.
        self.forget_fresh(id);
        if let (Settled::Done(Some(place)), Some(about)) = (settled, about) {
            let report = QueueId { uid: place.uid, mailbox: place.mailbox, ..id };
            self.inner.carrier.tell(&QueueEvent::Reported { id, report });
            self.take_in(partition, report, Rc::new(about)).await;
        }
        Ok(())
    }

    /// Waits until no other task settles the message.
    pub(super) async fn lock(&self, id: QueueId) -> Lock<'_, C> {
        poll_fn(|context| {
            let mut state = self.inner.state.borrow_mut();
            match state.entries.get_mut(&id) {
                Some(entry) if entry.settling => {
                    self.inner.unsettled.borrow_mut().push(context.waker().clone());
                    Poll::Pending
                }
                found => {
                    found.into_iter().for_each(|entry| entry.settling = true);
                    Poll::Ready(Lock { queue: self, id })
                }
            }
        })
        .await
    }
}

/// The right to settle a message.
pub(super) struct Lock<'a, C: Carrier> {
    queue: &'a Queue<C>,
    id: QueueId,
}

impl<C: Carrier> Drop for Lock<'_, C> {
    fn drop(&mut self) {
        let mut state = self.queue.inner.state.borrow_mut();
        if let Some(entry) = state.entries.get_mut(&self.id) {
            entry.settling = false;
        }
        drop(state);
        // All of them check again: nothing records whose message it was.
        let waiting = std::mem::take(&mut *self.queue.inner.unsettled.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// How a message with this envelope is put into the queue; `mailbox` is [`Queue::mailbox`].
pub fn target(envelope: &Envelope, internal_date: Timestamp, mailbox: &str) -> DeliveryTarget {
    DeliveryTarget {
        account: AccountId::QUEUE,
        mailbox: Some(mailbox.to_owned()),
        flags: Flags::default(),
        keywords: Vec::new(),
        internal_date,
        annotations: envelope.annotations(),
    }
}

/// The body of a message that was just put into a mailbox of the queue; `None` if it is gone.
pub(super) async fn body_of(
    partition: &Partition,
    mailbox: MailboxId,
    uid: Uid,
) -> Result<Option<MessageBody>, StoreError> {
    let view = partition.queue().await?.select(mailbox, false).await?;
    let snapshot = view.current();
    let found = |snapshot: &Snapshot| Some(snapshot.get(snapshot.index_of(uid)?)?.body);
    Ok(snapshot.as_ref().and_then(found))
}

impl Recipient {
    /// Whether the sender wants to know this about the recipient. `default`: without NOTIFY
    /// (RFC 3461 4.1).
    pub(super) fn wants(&self, kind: impl Fn(bool, bool, bool) -> bool, default: bool) -> bool {
        match self.notify {
            None => default,
            Some(Notify::Never) => false,
            Some(Notify::On { success, failure, delay }) => kind(success, failure, delay),
        }
    }

    /// Whether the sender wants to know that the recipient has the message.
    pub fn wants_success(&self) -> bool {
        self.wants(|success, _, _| success, false)
    }
}
