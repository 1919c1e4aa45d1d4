//! Deadlines of one shard: a coarse timer wheel over a single kernel timer.
//!
//! Every connection always has a deadline and nearly none ever passes, so arming must cost nothing:
//! a later deadline is a plain store, noticed when the wheel reaches the timer. Only a deadline
//! earlier than the next visit moves the timer to another slot. `Connection` and `Mesh` use it.
//!
//! Time is counted in ticks from the driver task; the wheel never reads a clock, so it runs under
//! the simulator unchanged. A deadline passes up to two ticks late, never early.
//!
//! Ownership: shard-local. A dropped timer leaves the wheel at once (a shard that accepts thousands
//! of connections a second must not keep dead timers for a turn of the wheel).

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::executor::Executor;

/// Length of a tick: the resolution of every deadline.
pub const TICK: Duration = Duration::from_millis(100);

/// Slots of the wheel; a timer further away than this many ticks is visited once a turn.
const SLOTS: usize = 512;

/// Most ticks taken at once. After a suspension of hours, deadlines pass gradually instead of all
/// at one moment.
const TICKS_AT_ONCE_MAX: u64 = 50;

/// `Node::index` of a timer that is in no slot.
const NOWHERE: usize = usize::MAX;

/// `Node::deadline` of a timer that is not armed.
const NEVER: u64 = u64::MAX;

/// The shard's timers, in slots by the tick of the wheel's next visit.
pub struct TimerWheel {
    slots: RefCell<Vec<Vec<Rc<Node>>>>,
    now: Cell<u64>,
    /// Timers in slots.
    count: Cell<usize>,
    /// The driver, while it sleeps because the wheel is empty.
    parked_driver: RefCell<Option<Waker>>,
}

struct Node {
    /// Tick at which the timer passes.
    deadline: Cell<u64>,
    /// Tick of the wheel's next visit: at most `deadline` while armed.
    visit: Cell<u64>,
    /// Index inside the slot of `visit`.
    index: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

/// One deadline that can be armed repeatedly. Dropping it cancels it.
pub struct Timer {
    wheel: Rc<TimerWheel>,
    node: Rc<Node>,
}

impl TimerWheel {
    pub fn new() -> TimerWheel {
        TimerWheel {
            slots: RefCell::new((0..SLOTS).map(|_| Vec::new()).collect()),
            now: Cell::new(0),
            count: Cell::new(0),
            parked_driver: RefCell::new(None),
        }
    }

    /// Lets `ticks` ticks pass and wakes the tasks whose deadlines passed.
    pub fn advance(&self, ticks: u64) {
        for _ in 0..ticks {
            let now = self.now.get() + 1;
            self.now.set(now);
            let visited = std::mem::take(&mut self.slots.borrow_mut()[slot_of(now)]);
            self.count.set(self.count.get() - visited.len());
            for node in visited {
                node.index.set(NOWHERE);
                match node.deadline.get() {
                    NEVER => {}
                    deadline if deadline <= now => node.wake(),
                    deadline => self.insert(node, deadline),
                }
            }
        }
    }

    /// Wakes every waiter, so that it checks its state again (shutdown).
    pub fn wake_all(&self) {
        let nodes: Vec<Rc<Node>> = self.slots.borrow().iter().flatten().cloned().collect();
        for node in nodes {
            node.wake();
        }
    }

    /// Advances the wheel for as long as the shard lives; sleeps while the wheel is empty.
    pub async fn drive(self: Rc<Self>, executor: Rc<dyn Executor>) {
        loop {
            std::future::poll_fn(|context| self.poll_occupied(context)).await;
            let before = executor.moment();
            executor.sleep(TICK).await;
            let elapsed = executor.moment().since(before);
            let ticks = (elapsed.as_micros() / TICK.as_micros()).min(u128::from(TICKS_AT_ONCE_MAX));
            self.advance((ticks as u64).max(1));
        }
    }

    fn poll_occupied(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.count.get() > 0 {
            return Poll::Ready(());
        }
        *self.parked_driver.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    fn insert(&self, node: Rc<Node>, deadline: u64) {
        let visit = deadline.min(self.now.get() + SLOTS as u64 - 1);
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[slot_of(visit)];
        node.visit.set(visit);
        node.index.set(slot.len());
        slot.push(node);
        self.count.set(self.count.get() + 1);
        if let Some(driver) = self.parked_driver.borrow_mut().take() {
            driver.wake();
        }
    }

    fn remove(&self, node: &Node) {
        let index = node.index.replace(NOWHERE);
        if index == NOWHERE {
            return;
        }
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[slot_of(node.visit.get())];
        slot.swap_remove(index);
        if let Some(moved) = slot.get(index) {
            moved.index.set(index);
        }
        self.count.set(self.count.get() - 1);
    }
}

impl Default for TimerWheel {
    fn default() -> Self {
        Self::new()
    }
}

fn slot_of(tick: u64) -> usize {
    tick as usize % SLOTS
}

impl Node {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Timer {
    pub fn new(wheel: &Rc<TimerWheel>) -> Timer {
        Timer {
            wheel: wheel.clone(),
            node: Rc::new(Node {
                deadline: Cell::new(NEVER),
                visit: Cell::new(0),
                index: Cell::new(NOWHERE),
                waker: RefCell::new(None),
            }),
        }
    }

    /// Sets the deadline `timeout` from now. One tick is added because the current one is partly
    /// over.
    pub fn arm(&self, timeout: Duration) {
        let ticks = (timeout.as_millis().div_ceil(TICK.as_millis())).min(u128::from(u32::MAX));
        let deadline = self.wheel.now.get() + ticks as u64 + 1;
        self.node.deadline.set(deadline);
        if self.node.index.get() != NOWHERE {
            if self.node.visit.get() <= deadline {
                return;
            }
            self.wheel.remove(&self.node);
        }
        self.wheel.insert(self.node.clone(), deadline);
    }

    pub fn disarm(&self) {
        self.node.deadline.set(NEVER);
    }

    /// True once the deadline passed; otherwise the task is woken when it does.
    pub fn poll_passed(&self, context: &mut Context<'_>) -> bool {
        if self.node.deadline.get() <= self.wheel.now.get() {
            return true;
        }
        let mut waker = self.node.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
        false
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.wheel.remove(&self.node);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use proptest::prelude::*;

    use super::*;

    struct Counter(AtomicUsize);

    impl std::task::Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ticks(count: u64) -> Duration {
        TICK * count as u32
    }

    #[test]
    fn a_later_deadline_is_a_store_and_an_earlier_one_moves() {
        let wheel = Rc::new(TimerWheel::new());
        let timer = Timer::new(&wheel);
        let wakes = Arc::new(Counter(AtomicUsize::new(0)));
        let waker = Waker::from(wakes.clone());
        let mut context = Context::from_waker(&waker);

        timer.arm(ticks(3));
        let visit = timer.node.visit.get();
        timer.arm(ticks(5_000));
        assert_eq!(timer.node.visit.get(), visit, "arming later must not touch the wheel");
        assert!(!timer.poll_passed(&mut context));
        wheel.advance(1_000);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        timer.arm(ticks(2));
        wheel.advance(2);
        assert!(!timer.poll_passed(&mut context));
        wheel.advance(1);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(timer.poll_passed(&mut context));
    }

    #[test]
    fn dropped_timers_leave_nothing_behind() {
        let wheel = Rc::new(TimerWheel::new());
        let timers: Vec<Timer> = (0..100).map(|_| Timer::new(&wheel)).collect();
        for (index, timer) in timers.iter().enumerate() {
            timer.arm(ticks(index as u64 % 7));
        }
        assert_eq!(wheel.count.get(), 100);
        drop(timers);
        assert_eq!(wheel.count.get(), 0);
        assert!(wheel.slots.borrow().iter().all(Vec::is_empty));
    }

    proptest! {
        /// Compared with the plain rule: a timer has passed exactly when its tick has come.
        #[test]
        fn passes_when_a_list_of_deadlines_says_so(
            steps in prop::collection::vec((0usize..8, 0u64..2_000, 0u64..600), 1..60),
        ) {
            let wheel = Rc::new(TimerWheel::new());
            let timers: Vec<Timer> = (0..8).map(|_| Timer::new(&wheel)).collect();
            let mut model = [None; 8];
            let mut now = 0u64;
            for (which, timeout, pass) in steps {
                timers[which].arm(ticks(timeout));
                model[which] = Some(now + timeout + 1);
                wheel.advance(pass);
                now += pass;
                for (timer, deadline) in timers.iter().zip(model) {
                    let passed = timer.poll_passed(&mut Context::from_waker(Waker::noop()));
                    prop_assert_eq!(passed, deadline.is_some_and(|deadline| deadline <= now));
                }
            }
        }
    }
}
