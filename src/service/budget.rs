//! Memory for messages being received: one budget per shard for everything that DATA, BDAT and
//! APPEND hold until the message is in the log.
//!
//! The receiver of a message keeps a [`Charge`] up to date with the memory that it really holds.
//! The fuller the budget, the less of its body a message may keep in memory
//! ([`Charge::stage_max`]): the rest is spilled to the log. A message that still does not fit is
//! refused: before it begins if there is no room for another ([`MessageBudget::admits`]), otherwise
//! at its end. Each class of mail has its share ([`MailClass`]): strangers leave a quarter to
//! others.
//!
//! Ownership: shard-local, held by `Rc`. All of it is arithmetic on cells.

use std::rc::Rc;

use crate::model::{ClassCounts, MailClass};

/// Free memory required to admit a message.
const ADMISSION: usize = 16 * 1024;

/// Smallest piece of a body that is worth its own log entry.
const SPILL_MIN: usize = 4 * 1024;

/// Pieces of a long message are at least 1/this of it, so that the list of its pieces stays short.
const SPILL_SHARE: u64 = 256;

/// The budget of one shard. See the module documentation.
pub struct MessageBudget {
    limit: usize,
    held: ClassCounts,
}

impl MessageBudget {
    /// `limit`: bytes that all messages being received may hold together.
    pub fn new(limit: usize) -> Rc<MessageBudget> {
        Rc::new(MessageBudget { limit, held: ClassCounts::default() })
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.total()
    }

    /// The same by class.
    pub fn held_by_class(&self) -> &ClassCounts {
        &self.held
    }

    /// Whether there is room for one more message.
    pub fn admits(&self, class: MailClass) -> bool {
        self.held.fits(class, ADMISSION, self.limit)
    }

    /// Octets of a message to read from its connection at a time: octets that were read and wait
    /// for the log take memory too, while unread ones wait with the client.
    pub fn read_max(&self, class: MailClass) -> usize {
        self.piece_max(class).unwrap_or(usize::MAX)
    }

    /// How large a piece of a message may wait in memory; `None` while there is plenty.
    fn piece_max(&self, class: MailClass) -> Option<usize> {
        let (own, all) = class.shares(self.limit);
        let eighths = |held: usize, limit: usize| held.saturating_mul(8) / limit.max(1);
        let eighths = eighths(self.held.total(), all).max(eighths(self.held.of(class), own));
        match eighths {
            0 | 1 => None,
            2 | 3 => Some(16 * SPILL_MIN),
            4 => Some(4 * SPILL_MIN),
            _ => Some(SPILL_MIN),
        }
    }
}

/// The memory of one message being received. Returned when dropped.
pub struct Charge {
    budget: Rc<MessageBudget>,
    class: MailClass,
    octets: usize,
}

impl Charge {
    /// Holds nothing yet.
    pub fn new(budget: &Rc<MessageBudget>, class: MailClass) -> Charge {
        Charge { budget: budget.clone(), class, octets: 0 }
    }

    pub fn class(&self) -> MailClass {
        self.class
    }

    /// What it holds counts under another class from now on.
    pub fn set_class(&mut self, class: MailClass) {
        self.budget.held.remove(self.class, self.octets);
        self.budget.held.add(class, self.octets);
        self.class = class;
    }

    /// Sets the held memory to `octets`. False if that is over the limit: hold less, or refuse.
    #[must_use]
    pub fn set(&mut self, octets: usize) -> bool {
        self.budget.held.remove(self.class, self.octets);
        let fits = self.budget.held.fits(self.class, octets, self.budget.limit);
        self.budget.held.add(self.class, octets);
        self.octets = octets;
        octets == 0 || fits
    }

    /// Octets of the body that may wait in memory, for a message that has reached `size`.
    pub fn stage_max(&self, size: u64) -> usize {
        self.budget.piece_max(self.class).map_or(usize::MAX, |most| most.max(least_piece(size)))
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
        self.budget.held.remove(self.class, self.octets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn strangers_leave_a_quarter_and_everything_comes_back() {
        let budget = MessageBudget::new(400 * KIB);
        let mut stranger = Charge::new(&budget, MailClass::Inbound);
        assert!(stranger.set(300 * KIB));
        assert!(!budget.admits(MailClass::Inbound) && budget.admits(MailClass::Local));
        assert!(!stranger.set(300 * KIB + 1));
        assert_eq!(budget.held(), 300 * KIB + 1, "it is counted all the same");
        let mut known = Charge::new(&budget, MailClass::Local);
        assert!(known.set(99 * KIB));
        assert!(!known.set(100 * KIB));
        assert!(stranger.set(0));
        assert!(known.set(400 * KIB));
        drop(known);
        drop(stranger);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn reports_of_others_have_a_quarter() {
        let budget = MessageBudget::new(400 * KIB);
        let mut report = Charge::new(&budget, MailClass::Inbound);
        assert!(report.set(10 * KIB));
        report.set_class(MailClass::NullSender);
        assert_eq!(budget.held_by_class().of(MailClass::Inbound), 0);
        assert!(report.set(100 * KIB) && !budget.admits(MailClass::NullSender));
        assert_eq!(budget.read_max(MailClass::NullSender), 4 * KIB);
        assert_eq!(budget.read_max(MailClass::Local), 64 * KIB);
        assert!(!report.set(101 * KIB));
        assert!(budget.admits(MailClass::Inbound));
    }

    #[test]
    fn the_fuller_the_smaller_the_pieces() {
        let budget = MessageBudget::new(800 * KIB);
        let mut charge = Charge::new(&budget, MailClass::Local);
        let stages = [(0, usize::MAX), (199, usize::MAX), (200, 64), (400, 16), (500, 4), (800, 4)];
        for (held, most) in stages {
            assert!(charge.set(held * KIB));
            assert_eq!(charge.stage_max(0), most.saturating_mul(KIB), "{held}");
            assert_eq!(budget.read_max(MailClass::Local), most.saturating_mul(KIB), "{held}");
        }
        assert_eq!(charge.stage_max(50 << 20), 200 * KIB, "a long message has longer pieces");
        assert_eq!(charge.stage_max(u64::MAX), usize::MAX >> 8);
    }

    #[test]
    fn a_budget_of_nothing_refuses() {
        let budget = MessageBudget::new(0);
        assert!(!budget.admits(MailClass::Local));
        let mut charge = Charge::new(&budget, MailClass::Local);
        assert!(!charge.set(1));
        assert!(charge.set(0));
    }
}
