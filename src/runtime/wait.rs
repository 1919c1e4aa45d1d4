//! Waiting primitives for tasks of one shard: a flag (setting it twice counts once), and a number
//! of permits.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

/// A flag that one task sets and another waits for.
#[derive(Default)]
pub struct Signal {
    set: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Signal {
    /// Sets the flag and wakes the waiting tasks.
    pub fn set(&self) {
        if !self.set.replace(true) {
            let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Waits until the flag is set and clears it. Cancel-safe.
    pub async fn take(&self) {
        poll_fn(|context| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// Limits how many may do something at a time.
pub struct Permits {
    free: Cell<usize>,
    freed: Signal,
}

/// One of [`Permits`], returned when dropped.
pub struct Permit(Rc<Permits>);

impl Permits {
    /// `count` of them, all free.
    pub fn new(count: usize) -> Permits {
        Permits { free: Cell::new(count), freed: Signal::default() }
    }

    /// Waits for a permit. Cancel-safe; not strictly first come, first served.
    pub async fn acquire(self: &Rc<Permits>) -> Permit {
        while self.free.get() == 0 {
            self.freed.take().await;
        }
        self.free.set(self.free.get() - 1);
        // Several may have been returned before the first waiter ran.
        if self.free.get() > 0 {
            self.freed.set();
        }
        Permit(self.clone())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
        self.0.freed.set();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{
        executor::{Executor, Priority},
        simulation::Simulation,
    };

    #[test]
    fn permits_bound_how_many_and_starve_nobody() {
        for seed in 0..20 {
            let simulation = Simulation::new(seed);
            let permits = Rc::new(Permits::new(3));
            let (inside, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            for _ in 0..20 {
                let (permits, executor) = (permits.clone(), simulation.clone());
                let (inside, done) = (inside.clone(), done.clone());
                let task = async move {
                    let permit = permits.acquire().await;
                    inside.set(inside.get() + 1);
                    assert!(inside.get() <= 3);
                    executor.yield_now().await;
                    inside.set(inside.get() - 1);
                    drop(permit);
                    done.set(done.get() + 1);
                };
                simulation.spawn(Priority::Foreground, Box::pin(task));
            }
            let executor = simulation.clone();
            simulation.run_until(async {
                for _ in 0..1_000 {
                    executor.yield_now().await;
                }
            });
            assert_eq!(done.get(), 20);
            assert_eq!(permits.free.get(), 3);
        }
    }
}
