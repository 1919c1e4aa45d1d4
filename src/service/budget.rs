//! Memory for messages being received: one budget per shard for everything that DATA, BDAT and
//! APPEND hold until the message is in the log.
//!
//! The receiver of a message keeps a [`Charge`] up to date with the memory that it really holds.
//! The fuller the budget, the less of its body a message may keep in memory
//! ([`Charge::stage_max`]): the rest is spilled to the log. A message that still does not fit is
//! refused: before it begins if there is no room for another ([`MessageBudget::admits`]), otherwise
//! at its end. A quarter is reserved for authenticated clients.
//!
//! Ownership: shard-local, held by `Rc`. All of it is arithmetic on a cell.

use std::{cell::Cell, rc::Rc};

/// Free memory required to admit a message.
const ADMISSION: usize = 16 * 1024;

/// The part of the budget reserved for [`Trust::Known`]: 1/this.
const KEPT_FOR_KNOWN: usize = 4;

/// Smallest piece of a body that is worth its own log entry.
const SPILL_MIN: usize = 4 * 1024;

/// Pieces of a long message are at least 1/this of it, so that the list of its pieces stays short.
const SPILL_SHARE: u64 = 256;

/// The kind of client that the memory is held for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Not authenticated.
    Stranger,
    /// Logged in; or a peer of the LMTP port, which only the operator's own servers reach.
    Known,
}

/// The budget of one shard. See the module documentation.
pub struct MessageBudget {
    limit: usize,
    held: Cell<usize>,
}

impl MessageBudget {
    /// `limit`: bytes that all messages being received may hold together.
    pub fn new(limit: usize) -> Rc<MessageBudget> {
        Rc::new(MessageBudget { limit, held: Cell::new(0) })
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Whether there is room for one more message.
    pub fn admits(&self, trust: Trust) -> bool {
        self.held.get().saturating_add(ADMISSION) <= self.limit_of(trust)
    }

    /// Octets of a message to read from its connection at a time: octets that were read and wait
    /// for the log take memory too, while unread ones wait with the client.
    pub fn read_max(&self, trust: Trust) -> usize {
        self.piece_max(trust).unwrap_or(usize::MAX)
    }

    /// How large a piece of a message may wait in memory; `None` while there is plenty.
    fn piece_max(&self, trust: Trust) -> Option<usize> {
        let eighths = self.held.get().saturating_mul(8) / self.limit_of(trust).max(1);
        match eighths {
            0 | 1 => None,
            2 | 3 => Some(16 * SPILL_MIN),
            4 => Some(4 * SPILL_MIN),
            _ => Some(SPILL_MIN),
        }
    }

    fn limit_of(&self, trust: Trust) -> usize {
        match trust {
            Trust::Stranger => self.limit - self.limit / KEPT_FOR_KNOWN,
            Trust::Known => self.limit,
        }
    }
}

/// The memory of one message being received. Returned when dropped.
pub struct Charge {
    budget: Rc<MessageBudget>,
    trust: Trust,
    octets: usize,
}

impl Charge {
    /// Holds nothing yet.
    pub fn new(budget: &Rc<MessageBudget>, trust: Trust) -> Charge {
        Charge { budget: budget.clone(), trust, octets: 0 }
    }

    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// Sets the held memory to `octets`. False if that is over the limit: hold less, or refuse.
    #[must_use]
    pub fn set(&mut self, octets: usize) -> bool {
        let held = self.budget.held.get() - self.octets + octets;
        self.budget.held.set(held);
        self.octets = octets;
        octets == 0 || held <= self.budget.limit_of(self.trust)
    }

    /// Octets of the body that may wait in memory, for a message that has reached `size`.
    pub fn stage_max(&self, size: u64) -> usize {
        self.budget.piece_max(self.trust).map_or(usize::MAX, |most| most.max(least_piece(size)))
    }

    /// As [`Charge::stage_max`], for a message whose sender pauses.
    pub fn stage_max_stalled(&self, size: u64) -> usize {
        match self.stage_max(size) {
            usize::MAX => usize::MAX,
            _ => least_piece(size),
        }
    }
}

/// The smallest piece worth an entry, for a message that has reached `size`.
fn least_piece(size: u64) -> usize {
    SPILL_MIN.max(usize::try_from(size / SPILL_SHARE).unwrap_or(usize::MAX))
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.held.set(self.budget.held.get() - self.octets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn strangers_leave_a_quarter_and_everything_comes_back() {
        let budget = MessageBudget::new(400 * KIB);
        let mut stranger = Charge::new(&budget, Trust::Stranger);
        assert!(stranger.set(300 * KIB));
        assert!(!budget.admits(Trust::Stranger) && budget.admits(Trust::Known));
        assert!(!stranger.set(300 * KIB + 1));
        assert_eq!(budget.held(), 300 * KIB + 1, "it is counted all the same");
        let mut known = Charge::new(&budget, Trust::Known);
        assert!(known.set(99 * KIB));
        assert!(!known.set(100 * KIB));
        assert!(stranger.set(0));
        assert!(known.set(400 * KIB));
        drop(known);
        drop(stranger);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn the_fuller_the_smaller_the_pieces() {
        let budget = MessageBudget::new(800 * KIB);
        let mut charge = Charge::new(&budget, Trust::Known);
        let stages = [(0, usize::MAX), (199, usize::MAX), (200, 64), (400, 16), (500, 4), (800, 4)];
        for (held, most) in stages {
            assert!(charge.set(held * KIB));
            assert_eq!(charge.stage_max(0), most.saturating_mul(KIB), "{held}");
            assert_eq!(budget.read_max(Trust::Known), most.saturating_mul(KIB), "{held}");
        }
        assert_eq!(charge.stage_max(50 << 20), 200 * KIB, "a long message has longer pieces");
        assert_eq!(charge.stage_max(u64::MAX), usize::MAX >> 8);
    }

    #[test]
    fn a_budget_of_nothing_refuses() {
        let budget = MessageBudget::new(0);
        assert!(!budget.admits(Trust::Known));
        let mut charge = Charge::new(&budget, Trust::Known);
        assert!(!charge.set(1));
        assert!(charge.set(0));
    }
}
