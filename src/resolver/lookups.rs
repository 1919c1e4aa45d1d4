//! One shard's queries: from the cache, or sent to the servers, identical ones once.
//!
//! While no server answers, replies from before are used beyond their time to live, up to
//! [`ResolverOptions::stale`] (RFC 8767 5); the servers are asked again every [`STALE_RECHECK`].

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use futures_lite::future::or;
use hashbrown::HashMap;

use super::{
    Failure, NameServers, Question, Reply, ResolverOptions,
    cache::{Aged, Cache},
};
use crate::runtime::{
    answer::Answer,
    executor::{Executor, Priority},
    flight::Flight,
};

/// How long a reply that is too old is used before the servers are asked again (RFC 8767 5).
const STALE_RECHECK: Duration = Duration::from_secs(30);

/// How long a failure is the answer to the same question: the messages of a queue must not ask a
/// server in trouble again and again (RFC 2308 7).
const FAILURE_AGE: Duration = Duration::from_secs(5);

pub(super) struct Lookups(Rc<Desk>);

struct Desk {
    servers: Arc<dyn NameServers>,
    executor: Rc<dyn Executor>,
    cache: RefCell<Cache>,
    flights: RefCell<HashMap<Question, Rc<Flight<Rc<Reply>>>>>,
    waiting: Cell<usize>,
    queue: usize,
    deadline: Duration,
    age_max: Duration,
    age_unknown_max: Duration,
    stale: Duration,
    own: Weak<Desk>,
}

/// A place among the waiting queries.
struct Seat(Rc<Desk>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
    }
}

impl Lookups {
    pub(super) fn new(
        servers: Arc<dyn NameServers>,
        executor: Rc<dyn Executor>,
        options: &ResolverOptions,
    ) -> Lookups {
        Lookups(Rc::new_cyclic(|own| Desk {
            servers,
            executor,
            cache: RefCell::new(Cache::new(options.entries)),
            flights: RefCell::default(),
            waiting: Cell::new(0),
            queue: options.queue,
            deadline: options.deadline,
            age_max: options.age_max,
            age_unknown_max: options.age_unknown_max,
            stale: options.stale,
            own: own.clone(),
        }))
    }

    /// The query is under way when this returns: a caller with several questions asks them all
    /// before it awaits the first.
    pub(super) fn find(&self, question: Question) -> Answer<'static, Rc<Reply>> {
        let desk = &self.0;
        if question.name.is_never_public() {
            let age = Duration::MAX;
            return Answer::now(Rc::new(Reply::Nothing { exists: false, age }));
        }
        let now = desk.executor.moment();
        let cached = desk.cache.borrow_mut().get(&question, now);
        if let Some(aged) = &cached
            && now < aged.fresh_until
        {
            return Answer::now(aged.reply.clone());
        }
        let under_way = desk.flights.borrow().get(&question).cloned();
        let busy = || Rc::new(Reply::Failed(Failure::Busy));
        match under_way.or_else(|| desk.begin(question)) {
            Some(flight) => {
                Answer::later(async move { flight.landed().await.unwrap_or_else(busy) })
            }
            // Stale answers are better than none.
            None => Answer::now(cached.map_or_else(busy, |aged| aged.reply)),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.0.waiting.get()
    }
}

impl Desk {
    /// Sends the query; a task of the shard waits for the reply even if all callers leave. `None`
    /// if too many wait.
    fn begin(&self, question: Question) -> Option<Rc<Flight<Rc<Reply>>>> {
        let desk = self.own.upgrade()?;
        if self.waiting.get() >= self.queue {
            return None;
        }
        let running = self.servers.ask(question.clone())?;
        self.waiting.set(self.waiting.get() + 1);
        let seat = Seat(desk.clone());
        let flight = Rc::<Flight<_>>::default();
        self.flights.borrow_mut().insert(question.clone(), flight.clone());
        let landing = flight.clone();
        let task = async move {
            let late = async {
                desk.executor.sleep(desk.deadline).await;
                Reply::Failed(Failure::TimedOut)
            };
            let reply = or(running, late).await;
            drop(seat);
            desk.flights.borrow_mut().remove(&question);
            landing.land(Some(desk.keep(question, reply)));
        };
        self.executor.spawn(Priority::Foreground, Box::pin(task));
        Some(flight)
    }

    /// Caches `reply`; the reply to give, which may be one from before.
    fn keep(&self, question: Question, reply: Reply) -> Rc<Reply> {
        let now = self.executor.moment();
        let mut cache = self.cache.borrow_mut();
        let aged = match &reply {
            Reply::Found(found) => {
                let fresh_until = now.after(found.age.min(self.age_max));
                let stale_until = fresh_until.after(self.stale);
                Aged { reply: Rc::new(reply), fresh_until, stale_until }
            }
            Reply::Nothing { age, .. } => {
                let fresh_until = now.after((*age).min(self.age_unknown_max));
                let stale_until = fresh_until.after(self.stale);
                Aged { reply: Rc::new(reply), fresh_until, stale_until }
            }
            Reply::Failed(failure) => {
                let before = cache.get(&question, now).filter(|before| {
                    failure.allows_stale()
                        && now < before.stale_until
                        && !matches!(*before.reply, Reply::Failed(_))
                });
                match before {
                    Some(before) => Aged { fresh_until: now.after(STALE_RECHECK), ..before },
                    None => {
                        let until = now.after(FAILURE_AGE);
                        Aged { reply: Rc::new(reply), fresh_until: until, stale_until: until }
                    }
                }
            }
        };
        let reply = aged.reply.clone();
        cache.insert(question, aged);
        reply
    }
}

#[cfg(test)]
mod tests;
