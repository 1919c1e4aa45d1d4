//! Which published states of mailboxes are still held by sessions.
//!
//! A body stays readable while any session's view contains it, also after the message was expunged
//! or its mailbox deleted. Every state handed out is recorded here; compaction queries it.
//! Shard-local, owned by the partition; it holds only the empty shells of states in memory.

use std::sync::{Arc, Weak};

use hashbrown::HashMap;

use super::super::account::snapshot::Published;

/// States recorded before the first search for dead ones.
const PRUNE_MIN: usize = 64;

#[derive(Default)]
pub(crate) struct Views {
    /// By address: the weak reference prevents reuse of the address.
    handed_out: HashMap<*const Published, (u64, Weak<Published>)>,
    /// Counts them: addresses differ in every run, but a simulation must be repeatable.
    noted: u64,
    /// Size at which dead ones are searched for: twice the number that were alive last time.
    prune_at: usize,
}

impl Views {
    /// Records that a session holds `published`.
    pub(crate) fn note(&mut self, published: &Arc<Published>) {
        let noted = &mut self.noted;
        self.handed_out.entry(Arc::as_ptr(published)).or_insert_with(|| {
            *noted += 1;
            (*noted, Arc::downgrade(published))
        });
        if self.handed_out.len() > self.prune_at.max(PRUNE_MIN) {
            self.handed_out.retain(|_, (_, weak)| weak.strong_count() > 0);
            self.prune_at = 2 * self.handed_out.len();
        }
    }

    /// States held now, in the order in which they were handed out.
    pub(crate) fn held(&self) -> Vec<Arc<Published>> {
        let mut noted: Vec<&(u64, Weak<Published>)> = self.handed_out.values().collect();
        noted.sort_unstable_by_key(|(number, _)| *number);
        noted.into_iter().filter_map(|(_, weak)| weak.upgrade()).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::store::accounts::views::*;

    #[test]
    fn only_what_is_held_is_remembered() {
        let mut views = Views::default();
        let held = Arc::new(Published::default());
        for _ in 0..10 * PRUNE_MIN {
            views.note(&held);
            views.note(&Arc::new(Published::default()));
        }
        assert_eq!(views.held().len(), 1);
        assert!(views.handed_out.len() <= 2 * PRUNE_MIN);
    }
}
