//! Replies kept until their time to live is over, and some time longer for when no server answers
//! (RFC 8767). Bounded in number.
//!
//! As in the directory's cache, replies with records and those without are kept apart, so that
//! queries for names that do not exist push out nothing useful; each kind in two halves. When the
//! younger half is full, the older one is dropped as a whole; a reply that is used moves to the
//! younger half.

use std::rc::Rc;

use hashbrown::HashMap;

use super::{Question, Reply};
use crate::model::Moment;

pub(super) struct Cache {
    records: Halves,
    nothing: Halves,
    half_max: usize,
}

#[derive(Default)]
struct Halves {
    young: HashMap<Question, Aged>,
    old: HashMap<Question, Aged>,
}

#[derive(Clone)]
pub(super) struct Aged {
    pub(super) reply: Rc<Reply>,
    /// From this moment on the servers are asked again.
    pub(super) fresh_until: Moment,
    /// Until this moment it is used if they do not answer.
    pub(super) stale_until: Moment,
}

impl Cache {
    /// `entries`: the limit of replies with records, and again of those without.
    pub(super) fn new(entries: usize) -> Cache {
        Cache { records: Halves::default(), nothing: Halves::default(), half_max: entries / 2 }
    }

    /// The cached reply, fresh or stale.
    pub(super) fn get(&mut self, question: &Question, now: Moment) -> Option<Aged> {
        let half_max = self.half_max;
        let found = self.records.get(question, now, half_max);
        found.or_else(|| self.nothing.get(question, now, half_max))
    }

    /// Replaces the cached reply.
    pub(super) fn insert(&mut self, question: Question, aged: Aged) {
        self.records.remove(&question);
        self.nothing.remove(&question);
        let halves = match *aged.reply {
            Reply::Found(_) => &mut self.records,
            Reply::Nothing { .. } | Reply::Failed(_) => &mut self.nothing,
        };
        halves.insert(question, aged, self.half_max);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let len = |halves: &Halves| halves.young.len() + halves.old.len();
        len(&self.records) + len(&self.nothing)
    }
}

impl Halves {
    fn get(&mut self, question: &Question, now: Moment, half_max: usize) -> Option<Aged> {
        let usable = |aged: &Aged| now < aged.fresh_until.max(aged.stale_until);
        if let Some(aged) = self.young.get(question).filter(|aged| usable(aged)) {
            return Some(aged.clone());
        }
        let aged = self.young.remove(question).or_else(|| self.old.remove(question));
        let aged = aged.filter(usable)?;
        self.insert(question.clone(), aged.clone(), half_max);
        Some(aged)
    }

    fn insert(&mut self, question: Question, aged: Aged, half_max: usize) {
        if half_max == 0 {
            return;
        }
        if self.young.len() >= half_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(question, aged);
    }

    fn remove(&mut self, question: &Question) {
        self.young.remove(question);
        self.old.remove(question);
    }
}
