//! The connections to a site, and its messages a minute, counted for all shards together: a number
//! in the configuration is what the site sees of this server.
//!
//! There is one table for the process instead of a share for each shard: a limit of one connection
//! has no shares, and mail for a site is rarely spread evenly over the shards. A site's counts have
//! a mutex of their own, held for nanoseconds, once or twice for each message sent.
//!
//! A shard that gets no slot asks for one and looks again soon ([`LOOK_AGAIN`]); what it asks for
//! is kept for it for [`ASK_LIFE`]. Asks are served in their order. A shard with more connections
//! gives one up after a turn, at the end of a message, to one that asks and has at least two
//! fewer, or none. So every shard gets its turn, however low the limit is. Nobody waits while a
//! mutex is held, and nothing here depends on anything but the moments that are passed in, so a
//! simulation with shared slots can be repeated.
//!
//! Invariants: `open <= limit` whenever a slot is taken; sites that no queue knows are forgotten.
//!
//! Ownership: [`SiteSlots`] is shared by all shards; each shard has its own [`SlotSeat`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::model::{Moment, ShardId};

/// When a shard that asked for a slot looks again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long a slot is kept for a shard that asked for it and does not take it.
const ASK_LIFE: Duration = Duration::from_secs(1);

/// Size at which the table is first searched for sites that no queue knows any more.
const SWEEP_MIN: usize = 1024;

/// The slots of all sites. Shared by all shards.
#[derive(Default)]
pub struct SiteSlots {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    sites: HashMap<Box<str>, Weak<Slots>>,
    sweep_at: usize,
}

/// One shard's place at [`SiteSlots`].
#[derive(Clone)]
pub struct SlotSeat {
    slots: Arc<SiteSlots>,
    shard: ShardId,
}

/// The slots of one site, for one shard.
pub(super) struct SiteSeat {
    slots: Arc<Slots>,
    shard: ShardId,
}

#[derive(Default)]
struct Slots {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// For each shard that has or wants connections.
    shares: BTreeMap<ShardId, Share>,
    /// Asks so far.
    turns: u64,
    /// When the next message may be sent, with a rate limit.
    next_message: Moment,
}

#[derive(Default)]
struct Share {
    /// Connections, also those being opened, and those that were told to end.
    open: usize,
    leaving: usize,
    /// It waits for a slot: its turn, and until when the slot is kept.
    ask: Option<(u64, Moment)>,
}

/// The answer to a shard that wants another connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    Taken,
    /// Other shards have all of them, and one will be freed for this shard: it asks again after
    /// [`LOOK_AGAIN`].
    Asked,
    /// It already has its share.
    Refused,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SiteSlots {
    pub fn new() -> Arc<SiteSlots> {
        Arc::default()
    }

    pub fn seat(self: &Arc<SiteSlots>, shard: ShardId) -> SlotSeat {
        SlotSeat { slots: self.clone(), shard }
    }
}

impl SlotSeat {
    pub(super) fn site(&self, name: &str) -> SiteSeat {
        let mut table = lock(&self.slots.table);
        let known = table.sites.get(name).and_then(Weak::upgrade);
        let slots = known.unwrap_or_else(|| {
            if table.sites.len() >= table.sweep_at.max(SWEEP_MIN) {
                table.sites.retain(|_, site| site.strong_count() > 0);
                table.sweep_at = table.sites.len() * 2;
            }
            let slots = Arc::new(Slots::default());
            table.sites.insert(name.into(), Arc::downgrade(&slots));
            slots
        });
        SiteSeat { slots, shard: self.shard }
    }
}

impl SiteSeat {
    /// Takes a slot for a connection, if fewer than `limit` are taken.
    pub(super) fn take(&self, limit: usize, now: Moment) -> Slot {
        lock(&self.slots.counts).take(self.shard, limit, now)
    }

    /// Whether a connection must end, so that another shard gets its turn, or because the limit is
    /// lower now. It then counts as leaving.
    pub(super) fn must_leave(&self, limit: usize, now: Moment) -> bool {
        lock(&self.slots.counts).must_leave(self.shard, limit, now)
    }

    /// A connection ended. `leaving`: [`SiteSeat::must_leave`] had said so.
    pub(super) fn give_back(&self, leaving: bool) {
        let mut counts = lock(&self.slots.counts);
        if let Some(share) = counts.shares.get_mut(&self.shard) {
            share.open = share.open.saturating_sub(1);
            share.leaving = share.leaving.saturating_sub(usize::from(leaving)).min(share.open);
        }
    }

    /// Takes the place of the next message, `interval` after the last one; returns how long to wait
    /// for it.
    /// Places are served in order.
    pub(super) fn book(&self, interval: Duration, now: Moment) -> Duration {
        let mut counts = lock(&self.slots.counts);
        let place = counts.next_message.max(now);
        counts.next_message = place.after(interval);
        place.since(now)
    }
}

impl Counts {
    fn open(&self) -> usize {
        self.shares.values().map(|share| share.open).sum()
    }

    fn tidy(&mut self, now: Moment) {
        for share in self.shares.values_mut() {
            share.ask = share.ask.filter(|(_, until)| *until >= now);
        }
        self.shares.retain(|_, share| share.open > 0 || share.ask.is_some());
    }

    fn take(&mut self, shard: ShardId, limit: usize, now: Moment) -> Slot {
        self.tidy(now);
        let free = limit.saturating_sub(self.open());
        let most = self.shares.values().map(|share| share.open).max().unwrap_or(0);
        let last = self.turns;
        let others = self.shares.iter().filter(|(other, _)| **other != shard);
        let asked: SmallVec<[u64; 8]> =
            others.filter_map(|(_, share)| Some(share.ask?.0)).collect();
        let own = self.shares.entry(shard).or_default();
        let turn = own.ask.map_or(last, |(turn, _)| turn);
        if free > asked.iter().filter(|other| **other < turn).count() {
            own.open += 1;
            own.ask = None;
            return Slot::Taken;
        }
        if own.open > 0 && own.open + 2 > most {
            own.ask = None;
            return Slot::Refused;
        }
        own.ask = Some((turn, now.after(ASK_LIFE)));
        self.turns += u64::from(turn == last);
        Slot::Asked
    }

    fn must_leave(&mut self, shard: ShardId, limit: usize, now: Moment) -> bool {
        self.tidy(now);
        let staying = |share: &Share| share.open - share.leaving;
        let total: usize = self.shares.values().map(staying).sum();
        let most = self.shares.values().map(staying).max().unwrap_or(0);
        let own = self.shares.get(&shard).map_or(0, staying);
        let asking = || self.shares.values().filter(|share| share.ask.is_some());
        let has_fewer = |share: &Share| share.open + 2 <= own || share.open == 0 && most == 1;
        let unserved = asking().count() > limit.saturating_sub(total);
        let leaves = own > 0 && (total > limit || unserved && asking().any(has_fewer));
        if leaves && let Some(share) = self.shares.get_mut(&shard) {
            share.leaving += 1;
        }
        leaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(count: u16) -> (Arc<SiteSlots>, Vec<SiteSeat>) {
        let slots = SiteSlots::new();
        let seats = (0..count).map(|shard| slots.seat(ShardId(shard)).site("mx")).collect();
        (slots, seats)
    }

    fn at(millis: u64) -> Moment {
        Moment::default().after(Duration::from_millis(millis))
    }

    #[test]
    fn one_slot_goes_round() {
        let (_slots, seats) = seats(3);
        assert_eq!(seats[0].take(1, at(0)), Slot::Taken);
        assert!(!seats[0].must_leave(1, at(0)), "nobody asks");
        assert_eq!(seats[1].take(1, at(1)), Slot::Asked);
        assert_eq!(seats[2].take(1, at(2)), Slot::Asked);
        assert!(seats[0].must_leave(1, at(3)));
        assert!(!seats[0].must_leave(1, at(3)), "it has only one");
        seats[0].give_back(true);
        assert_eq!(seats[0].take(1, at(4)), Slot::Asked, "it is kept for who asked before");
        assert_eq!(seats[2].take(1, at(5)), Slot::Asked);
        assert_eq!(seats[1].take(1, at(6)), Slot::Taken);
        assert!(seats[1].must_leave(1, at(7)));
        seats[1].give_back(true);
        assert_eq!(seats[0].take(1, at(8)), Slot::Asked);
        assert_eq!(seats[2].take(1, at(9)), Slot::Taken);
        // Who asked and does not come back loses the turn.
        seats[2].give_back(false);
        assert_eq!(seats[1].take(1, at(900)), Slot::Asked);
        assert_eq!(seats[1].take(1, at(1009)), Slot::Taken);
    }

    #[test]
    fn shards_come_to_equal_parts_and_never_above_the_limit() {
        let (_slots, seats) = seats(2);
        let mut open = [0, 0];
        while seats[0].take(7, at(0)) == Slot::Taken {
            open[0] += 1;
        }
        assert_eq!(open, [7, 0]);
        for step in 0..100 {
            let now = at(step);
            for (seat, open) in seats.iter().zip(&mut open) {
                if *open > 0 && seat.must_leave(7, now) {
                    seat.give_back(true);
                    *open -= 1;
                }
                *open += usize::from(seat.take(7, now) == Slot::Taken);
            }
            assert!(open[0] + open[1] <= 7);
        }
        assert!(open == [4, 3] || open == [3, 4], "{open:?}");
        // The limit is lower now.
        for seat in &seats {
            while seat.must_leave(2, at(200)) {
                seat.give_back(true);
            }
        }
        assert_eq!(lock(&seats[0].slots.counts).open(), 2);
        assert!(seats.iter().all(|seat| seat.take(2, at(300)) != Slot::Taken));
    }

    #[test]
    fn places_of_messages_are_taken_in_order() {
        let (_slots, seats) = seats(2);
        let second = Duration::from_secs(1);
        let waits: Vec<u64> =
            [0, 1, 0, 1].map(|seat| seats[seat].book(second, at(5)).as_secs()).to_vec();
        assert_eq!(waits, [0, 1, 2, 3]);
        assert_eq!(seats[0].book(second, at(60_000)), Duration::ZERO);
        assert_eq!(seats[1].book(second, at(60_000)), second);
    }

    #[test]
    fn sites_that_nobody_knows_are_forgotten() {
        let (slots, seats) = seats(1);
        for number in 0..3 * SWEEP_MIN {
            drop(slots.seat(ShardId(0)).site(&format!("mx{number}")));
        }
        let table = lock(&slots.table);
        assert!(table.sites.len() <= SWEEP_MIN + 1, "{}", table.sites.len());
        assert!(Arc::strong_count(&seats[0].slots) == 1 && table.sites.contains_key("mx"));
    }
}
