//! A shard's memory budget for one purpose: how much each holder has, and which gives way at the
//! limit.
//!
//! Holders are `strangers` (not logged in) or logged in. Part of the budget is reserved for those
//! logged in. At the limit the holder with the most gives way, strangers first. A newcomer that
//! asks for little is never chosen, so many holders with a little each cannot keep others out.
//! `resources` has one budget for the buffers of connections.
//!
//! Invariants: counting is a few additions, without looking at other holders; only at the limit all
//! are examined, once for each [`FREED_SHARE`]th of the budget. Only holders that wait (or ask) are
//! told to leave, because they can do so at once.
//!
//! Ownership: shard-local.

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    task::Waker,
};

use slab::Slab;

/// The part reserved for those logged in: the budget divided by this.
const KEPT_SHARE: usize = 4;

/// The part freed at once at the limit: the budget divided by this.
const FREED_SHARE: usize = 64;

/// See the module documentation.
pub struct Budget {
    limit: usize,
    /// The most that strangers may hold together.
    strangers_max: usize,
    /// An asking holder with at most this much is told to leave only if no other can be.
    newcomer: usize,
    /// Held by all, by strangers, and of both by holders told to leave.
    used: Cell<usize>,
    strangers: Cell<usize>,
    leaving: Cell<usize>,
    leaving_strangers: Cell<usize>,
    /// How many holders were told to leave, since the start.
    gave_way: Cell<u64>,
    holders: RefCell<Slab<Holder>>,
}

/// A holder of memory: a place in the budget until [`Budget::leave`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HolderId(usize);

#[derive(Default)]
struct Holder {
    cost: Cell<usize>,
    logged_in: Cell<bool>,
    /// Told to leave.
    leaving: Cell<bool>,
    /// Waits, so that `waker` can tell it to leave.
    waits: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// There is no room, and this holder must give way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivesWay;

fn add(sum: &Cell<usize>, more: usize, less: usize) {
    sum.set((sum.get() + more).saturating_sub(less));
}

impl Budget {
    /// A budget of `limit` bytes; an asking holder with at most `newcomer` gives way last.
    pub fn new(limit: usize, newcomer: usize) -> Budget {
        Budget {
            limit,
            strangers_max: limit - limit / KEPT_SHARE,
            newcomer,
            used: Cell::new(0),
            strangers: Cell::new(0),
            leaving: Cell::new(0),
            leaving_strangers: Cell::new(0),
            gave_way: Cell::new(0),
            holders: RefCell::default(),
        }
    }

    /// Adds a holder: a stranger that holds nothing.
    pub fn enter(&self) -> HolderId {
        HolderId(self.holders.borrow_mut().insert(Holder::default()))
    }

    /// Removes a holder; memory that it still held is no longer counted.
    pub fn leave(&self, id: HolderId) {
        self.change(id, 0, usize::MAX);
        self.holders.borrow_mut().try_remove(id.0);
    }

    /// Counts `more` bytes that the holder got and `less` that it gave back.
    pub fn change(&self, id: HolderId, more: usize, less: usize) {
        let holders = self.holders.borrow();
        let Some(holder) = holders.get(id.0) else { return };
        let less = less.min(holder.cost.get() + more);
        add(&holder.cost, more, less);
        add(&self.used, more, less);
        if holder.leaving.get() {
            add(&self.leaving, more, less);
        }
        if !holder.logged_in.get() {
            add(&self.strangers, more, less);
            if holder.leaving.get() {
                add(&self.leaving_strangers, more, less);
            }
        }
    }

    /// Sets whether the holder is logged in.
    pub fn set_logged_in(&self, id: HolderId, logged_in: bool) {
        let cost = self.cost(id);
        self.change(id, 0, cost);
        if let Some(holder) = self.holders.borrow().get(id.0) {
            holder.logged_in.set(logged_in);
        }
        self.change(id, cost, 0);
    }

    /// Whether the holder is logged in.
    pub fn is_logged_in(&self, id: HolderId) -> bool {
        self.holders.borrow().get(id.0).is_some_and(|holder| holder.logged_in.get())
    }

    /// Bytes that the holder has now.
    pub fn cost(&self, id: HolderId) -> usize {
        self.holders.borrow().get(id.0).map_or(0, |holder| holder.cost.get())
    }

    /// Bytes held by all.
    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// Holders told to leave since the start.
    pub fn gave_way(&self) -> u64 {
        self.gave_way.get()
    }

    /// True once the holder was told to leave.
    pub fn is_leaving(&self, id: HolderId) -> bool {
        self.holders.borrow().get(id.0).is_some_and(|holder| holder.leaving.get())
    }

    /// The holder waits, and `waker` wakes it when it must leave. A holder of nothing never must.
    pub fn wait(&self, id: HolderId, waker: &Waker) {
        let holders = self.holders.borrow();
        let Some(holder) = holders.get(id.0).filter(|holder| holder.cost.get() > 0) else { return };
        holder.waits.set(true);
        let mut known = holder.waker.borrow_mut();
        match &mut *known {
            Some(known) => known.clone_from(waker),
            None => *known = Some(waker.clone()),
        }
    }

    /// The holder no longer waits.
    pub fn waited(&self, id: HolderId) {
        if let Some(holder) = self.holders.borrow().get(id.0) {
            holder.waits.set(false);
        }
    }

    /// Checks that the total is within the budget; if not, makes others give way, or the asking
    /// holder itself.
    pub fn settle(&self, asking: HolderId) -> Result<(), GivesWay> {
        if self.has_room() { Ok(()) } else { self.make_room(asking) }
    }

    /// Whether no holder has to give way.
    pub fn has_room(&self) -> bool {
        self.excess(0) == 0 && self.strangers_excess(0) == 0
    }

    /// Bytes above the budget, less `spare`, that no holder was told to free yet.
    fn excess(&self, spare: usize) -> usize {
        (self.used.get() - self.leaving.get()).saturating_sub(self.limit - spare)
    }

    fn strangers_excess(&self, spare: usize) -> usize {
        (self.strangers.get() - self.leaving_strangers.get())
            .saturating_sub(self.strangers_max.saturating_sub(spare))
    }

    #[cold]
    fn make_room(&self, asking: HolderId) -> Result<(), GivesWay> {
        let spare = self.limit / FREED_SHARE;
        let holders = self.holders.borrow();
        let can_go = |id: usize, holder: &Holder| {
            let asks = id == asking.0 && holder.cost.get() > self.newcomer;
            !holder.leaving.get() && holder.cost.get() > 0 && (asks || holder.waits.get())
        };
        let mut wakers = Vec::new();
        let mut gives_way = false;
        // Those logged in give way only for what strangers cannot free.
        for logged_in in [false, true] {
            if logged_in && self.excess(0) == 0 {
                break;
            }
            let mut candidates: Vec<(usize, &Holder)> = holders
                .iter()
                .filter(|(id, holder)| holder.logged_in.get() == logged_in && can_go(*id, holder))
                .collect();
            // Among equal ones, the asking one last.
            candidates
                .sort_unstable_by_key(|(id, holder)| (Reverse(holder.cost.get()), *id == asking.0));
            for (id, holder) in candidates {
                if self.excess(spare) == 0 && (logged_in || self.strangers_excess(spare) == 0) {
                    break;
                }
                self.tell_to_go(holder);
                gives_way |= id == asking.0;
                if id != asking.0 {
                    wakers.extend(holder.waker.borrow_mut().take());
                }
            }
        }
        // Release the borrow first: a woken task may call this.
        drop(holders);
        wakers.into_iter().for_each(Waker::wake);
        if gives_way { Err(GivesWay) } else { Ok(()) }
    }

    fn tell_to_go(&self, holder: &Holder) {
        holder.leaving.set(true);
        add(&self.leaving, holder.cost.get(), 0);
        if !holder.logged_in.get() {
            add(&self.leaving_strangers, holder.cost.get(), 0);
        }
        self.gave_way.set(self.gave_way.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 64_000;
    const NEWCOMER: usize = 100;

    /// A budget with waiting holders: (bytes, logged in).
    fn budget(holders: &[(usize, bool)]) -> (Budget, Vec<HolderId>) {
        let budget = Budget::new(LIMIT, NEWCOMER);
        let ids = holders.iter().map(|&(bytes, logged_in)| {
            let id = budget.enter();
            budget.change(id, bytes, 0);
            budget.set_logged_in(id, logged_in);
            budget.wait(id, Waker::noop());
            id
        });
        let ids = ids.collect();
        (budget, ids)
    }

    /// Holders, bytes of a new one and whether it is logged in -> the holders told to leave, and
    /// whether the new one is.
    #[test]
    fn whoever_costs_most_and_is_not_logged_in_gives_way() {
        type Case = (&'static [(usize, bool)], (usize, bool), &'static [usize], bool);
        const CASES: &[Case] = &[
            (&[(20_000, false), (27_000, false)], (1_000, false), &[], false),
            (&[(20_000, false), (27_900, false)], (101, false), &[1], false),
            // The reserved part is not available to strangers, and using it takes nothing from
            // them.
            (&[(47_000, false), (10_000, true)], (6_000, true), &[], false),
            (&[(5_000, false), (45_000, true)], (15_000, true), &[0], false),
            // The one that asks for most must leave itself.
            (&[(10_000, false), (20_000, false)], (30_000, false), &[], true),
            (&[(10_000, false), (20_000, false)], (30_000, true), &[], false),
            // One of those logged in, if there are no strangers.
            (&[(20_000, true), (25_000, true)], (19_500, true), &[1], false),
            (&[(20_000, true), (25_000, true)], (30_000, true), &[], true),
            (&[(20_000, true), (44_000, true)], (90, false), &[1], false),
        ];
        for (holders, (bytes, logged_in), told, gives_way) in CASES {
            let (budget, ids) = budget(holders);
            let new = budget.enter();
            budget.set_logged_in(new, *logged_in);
            budget.change(new, *bytes, 0);
            assert_eq!(budget.settle(new).is_err(), *gives_way, "{holders:?} {bytes}");
            let left: Vec<usize> = (0..ids.len()).filter(|&i| budget.is_leaving(ids[i])).collect();
            assert_eq!(left, *told, "{holders:?} {bytes}");
            assert_eq!(budget.settle(new), Ok(()), "told once, others need not go");
        }
    }

    #[test]
    fn a_newcomer_is_served_however_little_the_others_hold() {
        let (budget, ids) = budget(&[(48, false); 1_000]);
        for _ in 0..100 {
            let new = budget.enter();
            budget.change(new, NEWCOMER, 0);
            assert_eq!(budget.settle(new), Ok(()));
        }
        let told = ids.iter().filter(|id| budget.is_leaving(**id)).count();
        assert!((200..300).contains(&told), "{told}");
        ids.iter().filter(|id| budget.is_leaving(**id)).for_each(|id| budget.leave(*id));
        assert!(budget.used() <= LIMIT - LIMIT / KEPT_SHARE);
    }

    #[test]
    fn who_does_not_wait_cannot_be_told() {
        let (budget, ids) = budget(&[(40_000, false), (7_000, false)]);
        budget.waited(ids[0]);
        let new = budget.enter();
        budget.change(new, 2_000, 0);
        assert_eq!(budget.settle(new), Ok(()));
        assert!(!budget.is_leaving(ids[0]) && budget.is_leaving(ids[1]));
        budget.change(new, 10_000, 0);
        assert_eq!(budget.settle(new), Err(GivesWay));
        assert!(!budget.is_leaving(ids[0]));
    }

    proptest! {
        /// The sums match the holders in every case, and nothing is left at the end.
        #[test]
        fn sums_are_true(
            steps in prop::collection::vec((0usize..6, 0usize..5, 0usize..30_000), 0..80),
        ) {
            let budget = Budget::new(LIMIT, NEWCOMER);
            let mut ids: Vec<HolderId> = (0..6).map(|_| budget.enter()).collect();
            for (who, what, bytes) in steps {
                let id = ids[who];
                match what {
                    0 => budget.change(id, bytes, 0),
                    1 => budget.change(id, 0, bytes),
                    2 => budget.set_logged_in(id, bytes % 2 == 0),
                    3 => { budget.leave(id); ids[who] = budget.enter(); }
                    _ => { budget.wait(id, Waker::noop()); let _ = budget.settle(id); }
                }
                let sum = |pick: &dyn Fn(HolderId) -> bool| -> usize {
                    ids.iter().filter(|id| pick(**id)).map(|id| budget.cost(*id)).sum()
                };
                prop_assert_eq!(budget.used(), sum(&|_| true));
                prop_assert_eq!(budget.leaving.get(), sum(&|id| budget.is_leaving(id)));
                prop_assert_eq!(budget.strangers.get(), sum(&|id| !budget.is_logged_in(id)));
            }
            ids.into_iter().for_each(|id| budget.leave(id));
            prop_assert_eq!((budget.used(), budget.leaving.get()), (0, 0));
            prop_assert_eq!((budget.strangers.get(), budget.leaving_strangers.get()), (0, 0));
        }
    }
}
