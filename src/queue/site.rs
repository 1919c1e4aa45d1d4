//! A site: the hosts that take the mail of some destinations, and how it is doing.
//!
//! The number of connections starts low, grows while messages are accepted and shrinks when the
//! site refuses connections or says 421, so that an overloaded site gets less. A site
//! that cannot be reached pauses; the messages themselves wait by their own schedule.
//!
//! What a shard learns about a site (how many connections it takes, its pause) belongs to the
//! shard: each shard sees the refusals of its own connections, and halves its own number. The
//! limits of the configuration hold for all shards together (`slots`).

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use super::{
    envelope::Problem,
    list::SiteFacts,
    options::SiteLimits,
    slots::{SiteSeat, Slot},
};
use crate::{model::Moment, runtime::wait::Signal};

/// Connections that a site gets before anything is known of it. Each message that it accepts gives
/// it one more, until it pushes back for the first time; then growth is slow.
const FIRST_CONNECTIONS: f64 = 4.0;
/// Pause after the first failed connection; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);

pub(super) struct Site<W> {
    pub name: String,
    /// As found last.
    pub way: RefCell<W>,
    pub limits: Cell<SiteLimits>,
    /// The position in the configuration of the shape that `limits` come from; past all others if
    /// none applies.
    shape: Cell<usize>,
    /// Destinations with ready messages, in the order in which they get their turn.
    pub hungry: RefCell<VecDeque<u32>>,
    /// Messages ready, of all its destinations.
    pub ready: Cell<usize>,
    /// Connections, also those being opened.
    pub open: Cell<usize>,
    /// Of those, waiting for work.
    pub idle: Cell<usize>,
    pub work: Rc<Signal>,
    allowed: Cell<f64>,
    /// It has pushed back once.
    pushed: Cell<bool>,
    /// No connection is opened before.
    pub not_before: Cell<Moment>,
    failures: Cell<u32>,
    pub problem: RefCell<Option<Problem>>,
    /// Shared with other shards; `None` for mailboxes here, which are no site of others.
    seat: Option<SiteSeat>,
    /// A message's place in the rate was taken and not used.
    spare_place: Cell<bool>,
    pub delivered: Cell<u64>,
    pub deferred: Cell<u64>,
    /// A task will look again when the pause is over.
    pub waking: Cell<bool>,
}

impl<W> Site<W> {
    pub(super) fn new(name: String, way: W, limits: SiteLimits, seat: Option<SiteSeat>) -> Site<W> {
        Site {
            name,
            way: RefCell::new(way),
            limits: Cell::new(limits),
            shape: Cell::new(usize::MAX),
            hungry: RefCell::default(),
            ready: Cell::new(0),
            open: Cell::new(0),
            idle: Cell::new(0),
            work: Rc::default(),
            allowed: Cell::new(FIRST_CONNECTIONS),
            pushed: Cell::new(false),
            not_before: Cell::default(),
            failures: Cell::new(0),
            problem: RefCell::default(),
            seat,
            spare_place: Cell::new(false),
            delivered: Cell::new(0),
            deferred: Cell::new(0),
            waking: Cell::new(false),
        }
    }

    /// Whether it stands for other hosts, and not for mailboxes here.
    pub(super) fn is_outside(&self) -> bool {
        self.seat.is_some()
    }

    /// A shape ([`QueueOptions::shape_of`]) matches one of its hosts or destinations: of all that
    /// match, the first in the configuration applies.
    pub(super) fn take_shape(&self, found: Option<(usize, SiteLimits)>) {
        if let Some((place, limits)) = found
            && place < self.shape.get()
        {
            self.shape.set(place);
            self.limits.set(limits);
        }
    }

    /// The configuration has changed.
    pub(super) fn forget_shape(&self, usual: SiteLimits) {
        self.shape.set(usize::MAX);
        self.limits.set(usual);
    }

    /// Connections that it may have now.
    pub(super) fn allowed(&self) -> usize {
        (self.allowed.get() as usize).clamp(1, self.limits.get().connections_used())
    }

    /// Whether one more connection is worth opening.
    pub(super) fn wants_connection(&self, now: Moment) -> bool {
        let working = self.open.get() - self.idle.get();
        self.ready.get() > self.idle.get()
            && self.open.get() < self.allowed()
            && now >= self.not_before.get()
            && (working == 0 || self.ready.get() > working)
    }

    pub(super) fn accepted(&self) {
        let most = self.limits.get().connections_used() as f64;
        let allowed = self.allowed.get();
        let more = if self.pushed.get() { 1.0 / allowed } else { 1.0 };
        self.allowed.set((allowed + more).min(most));
        self.failures.set(0);
        self.delivered.set(self.delivered.get() + 1);
        if self.problem.borrow().is_some() {
            *self.problem.borrow_mut() = None;
        }
    }

    /// It asked for less: 421, or a refused connection.
    pub(super) fn pushed_back(&self) {
        self.pushed.set(true);
        self.allowed.set((self.allowed.get() / 2.0).max(1.0));
    }

    /// A connection could not be opened. True if no other one works, so that the site counts as
    /// down: its messages wait. `most`: the longest pause between attempts of a message.
    pub(super) fn failed(&self, now: Moment, problem: Problem, most: Duration) -> bool {
        self.pushed_back();
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        *self.problem.borrow_mut() = Some(problem);
        let pause = PAUSE_MIN.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX).min(most);
        self.not_before.set(now.after(pause));
        self.open.get() <= 1
    }

    /// An operator wants it tried now.
    pub(super) fn forgive(&self) {
        self.not_before.set(Moment::default());
        self.failures.set(0);
    }

    /// What is known about it, for operators.
    pub(super) fn facts(&self, now: Moment) -> SiteFacts {
        let limits = self.limits.get();
        SiteFacts {
            name: self.name.clone(),
            ready: self.ready.get(),
            connections: self.open.get(),
            connections_allowed: self.allowed(),
            connections_max: limits.connections,
            messages_per_connection: limits.messages_per_connection,
            recipients_per_transaction: limits.recipients,
            rate: limits.rate,
            pause: self.not_before.get().since(now),
            delivered: self.delivered.get(),
            deferred: self.deferred.get(),
            problem: self.problem.borrow().clone(),
        }
    }

    /// Takes a slot for one more connection.
    pub(super) fn take_slot(&self, now: Moment) -> Slot {
        let limit = self.limits.get().connections_used();
        let slot = self.seat.as_ref().map_or(Slot::Taken, |seat| seat.take(limit, now));
        if slot == Slot::Taken {
            self.open.set(self.open.get() + 1);
        }
        slot
    }

    /// Whether a connection must end, for another shard or because of a lower limit.
    pub(super) fn must_leave(&self, now: Moment) -> bool {
        let limit = self.limits.get().connections_used();
        self.seat.as_ref().is_some_and(|seat| seat.must_leave(limit, now))
    }

    /// A connection ended. `leaving`: [`Site::must_leave`] had said so.
    pub(super) fn closed(&self, leaving: bool) {
        self.open.set(self.open.get() - 1);
        if let Some(seat) = &self.seat {
            seat.give_back(leaving);
        }
    }

    /// Takes the next message's place in the rate; returns how long to wait for it.
    pub(super) fn take_place(&self, now: Moment) -> Duration {
        match (&self.seat, self.limits.get().rate) {
            (None, _) | (_, 0) => Duration::ZERO,
            _ if self.spare_place.take() => Duration::ZERO,
            (Some(seat), rate) => seat.book(Duration::from_secs(60) / rate, now),
        }
    }

    /// The place was not used: the next message gets it.
    pub(super) fn return_place(&self) {
        self.spare_place.set(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::ShardId, queue::SiteSlots};

    fn site() -> Site<()> {
        let limits = SiteLimits { connections: 8, rate: 60, ..SiteLimits::default() };
        let seat = SiteSlots::new().seat(ShardId(0)).site("mx");
        Site::new("mx".to_owned(), (), limits, Some(seat))
    }

    #[test]
    fn connections_follow_success_and_refusal() {
        let site = site();
        assert_eq!(site.allowed(), 4);
        (0..4).for_each(|_| site.accepted());
        assert_eq!(site.allowed(), 8);
        site.pushed_back();
        assert_eq!(site.allowed(), 4);
        (0..10).for_each(|_| site.pushed_back());
        assert_eq!(site.allowed(), 1);
        (0..3).for_each(|_| site.accepted());
        assert_eq!(site.allowed(), 2);
    }

    #[test]
    fn a_site_that_is_down_pauses_longer_each_time() {
        let site = site();
        site.open.set(1);
        site.ready.set(5);
        let now = Moment(0);
        let pauses: Vec<u64> = (0..12)
            .map(|_| {
                assert!(site.failed(now, Problem::default(), Duration::MAX));
                site.not_before.get().since(now).as_secs()
            })
            .collect();
        assert_eq!(pauses[..4], [1, 2, 4, 8]);
        assert_eq!(pauses[11], PAUSE_MAX.as_secs());
        site.failed(now, Problem::default(), Duration::from_secs(7));
        assert_eq!(site.not_before.get().since(now).as_secs(), 7);
        assert!(!site.wants_connection(now));
        site.open.set(0);
        site.forgive();
        assert!(site.wants_connection(now));
    }

    #[test]
    fn the_rate_is_kept() {
        let site = site();
        assert_eq!(site.take_place(Moment(5)), Duration::ZERO);
        assert_eq!(site.take_place(Moment(5)), Duration::from_secs(1));
        assert_eq!(site.take_place(Moment(3_000_005)), Duration::ZERO);
        site.return_place();
        assert_eq!(site.take_place(Moment(3_000_005)), Duration::ZERO, "it was not used");
        assert_eq!(site.take_place(Moment(3_000_005)), Duration::from_secs(1));
    }

    /// A connection that waits for its place for long would be closed by the other side.
    #[test]
    fn a_low_rate_needs_few_connections() {
        let used = |connections, rate| {
            SiteLimits { connections, rate, ..SiteLimits::default() }.connections_used()
        };
        assert_eq!((used(20, 0), used(20, 600), used(20, 60), used(20, 1)), (20, 20, 10, 1));
    }
}
