//! Cached answers of a backend: bounded in number, and never used once they are too old.
//!
//! Positive and negative answers are kept apart, each up to the limit, so that queries for unknown
//! names evict nothing useful. Each is kept in two halves; when the younger one is full, the older
//! one is dropped as a whole, and an entry that is used again moves to the younger half.

use std::hash::Hash;

use hashbrown::HashMap;

use crate::model::Moment;

pub(super) struct Cache<K, V> {
    known: Halves<K, V>,
    unknown: Halves<K, V>,
    half_max: usize,
}

struct Halves<K, V> {
    young: HashMap<K, Aged<V>>,
    old: HashMap<K, Aged<V>>,
}

struct Aged<V> {
    value: V,
    /// From this moment on it is too old.
    until: Moment,
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    /// `entries`: the limit of positive answers, and again of negative ones.
    pub(super) fn new(entries: usize) -> Cache<K, V> {
        let halves = || Halves { young: HashMap::new(), old: HashMap::new() };
        Cache { known: halves(), unknown: halves(), half_max: entries / 2 }
    }

    pub(super) fn get(&mut self, key: &K, now: Moment) -> Option<V> {
        let half_max = self.half_max;
        self.known.get(key, now, half_max).or_else(|| self.unknown.get(key, now, half_max))
    }

    /// Replaces the cached answer for `key`.
    pub(super) fn insert(&mut self, key: K, value: V, known: bool, until: Moment) {
        self.known.remove(&key);
        self.unknown.remove(&key);
        let halves = if known { &mut self.known } else { &mut self.unknown };
        halves.insert(key, Aged { value, until }, self.half_max);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let len = |halves: &Halves<K, V>| halves.young.len() + halves.old.len();
        len(&self.known) + len(&self.unknown)
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Halves<K, V> {
    fn get(&mut self, key: &K, now: Moment, half_max: usize) -> Option<V> {
        let fresh = |aged: &Aged<V>| now < aged.until;
        if let Some(aged) = self.young.get(key).filter(|aged| fresh(aged)) {
            return Some(aged.value.clone());
        }
        let aged = self.young.remove(key).or_else(|| self.old.remove(key)).filter(fresh)?;
        let value = aged.value.clone();
        self.insert(key.clone(), aged, half_max);
        Some(value)
    }

    fn insert(&mut self, key: K, aged: Aged<V>, half_max: usize) {
        if half_max == 0 {
            return;
        }
        if self.young.len() >= half_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, aged);
    }

    fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_used_beyond_its_age() {
        let mut cache = Cache::new(4);
        cache.insert("a", 1, true, Moment(10));
        assert_eq!(cache.get(&"a", Moment(9)), Some(1));
        assert_eq!(cache.get(&"a", Moment(10)), None);
        assert_eq!(cache.len(), 0, "what is too old is forgotten when it is found so");
        // Moving to the younger half does not make it younger.
        cache.insert("a", 1, true, Moment(10));
        cache.insert("b", 2, true, Moment(10));
        cache.insert("c", 3, true, Moment(10));
        assert_eq!(cache.get(&"a", Moment(9)), Some(1));
        assert_eq!(cache.get(&"a", Moment(10)), None);
    }

    #[test]
    fn the_newest_answer_counts() {
        let mut cache = Cache::new(4);
        cache.insert("a", 1, true, Moment(100));
        cache.insert("a", 0, false, Moment(10));
        assert_eq!(cache.get(&"a", Moment(1)), Some(0));
        assert_eq!(cache.get(&"a", Moment(10)), None, "and what it replaced is gone");
    }

    #[test]
    fn unknown_names_push_out_no_known_ones() {
        let mut cache = Cache::new(100);
        for number in 0..100 {
            cache.insert(number, number, true, Moment(10));
        }
        for number in 1000..100_000 {
            cache.insert(number, number, false, Moment(10));
        }
        assert!(
            (0..50).chain(50..100).filter(|it| cache.get(it, Moment(1)).is_some()).count() >= 50
        );
        assert!(cache.len() <= 200);
        let mut none = Cache::new(0);
        none.insert(1, 1, true, Moment(10));
        assert_eq!((none.get(&1, Moment(1)), none.len()), (None, 0));
    }
}
