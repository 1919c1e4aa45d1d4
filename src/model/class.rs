//! Classes of mail and clients, and the share of a limit that each may have: a flood of one kind
//! must leave room for the others.
//!
//! Each limit (connections, memory of messages being received, the queue) keeps a [`ClassCounts`]
//! of its own and asks [`ClassCounts::fits`].

use std::cell::Cell;

/// Where mail comes from, as limits and load shedding see it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MailClass {
    /// From a server or client that nobody vouches for.
    Inbound = 0,
    /// From a user who logged in, or from a network that may relay through this server.
    Submission = 1,
    /// From the operator's own servers (LMTP), or from this one.
    Local = 2,
    /// Mail with the null reverse-path (RFC 5321 4.5.5), whoever sends it: reports of other
    /// servers. It is a flood when somebody forges our addresses.
    NullSender = 3,
}

/// Limits are divided into so many parts.
const PARTS: usize = 8;

impl MailClass {
    pub const ALL: [MailClass; 4] =
        [MailClass::Inbound, MailClass::Submission, MailClass::Local, MailClass::NullSender];

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            MailClass::Inbound => "inbound",
            MailClass::Submission => "submission",
            MailClass::Local => "local",
            MailClass::NullSender => "null_sender",
        }
    }

    /// Eighths of a limit that the class may have itself, and that may be in use by all when it
    /// gets more. Reports of other servers come in beside a flood of strangers' mail, and leave the
    /// last eighth to users.
    fn parts(self) -> (usize, usize) {
        match self {
            MailClass::Inbound => (6, 6),
            MailClass::Submission => (7, 8),
            MailClass::Local => (8, 8),
            MailClass::NullSender => (2, 7),
        }
    }

    /// What the class may have of `limit`: itself, and with all others. At least 1, unless the
    /// limit is 0.
    pub fn shares(self, limit: usize) -> (usize, usize) {
        let (own, all) = self.parts();
        let part = |parts: usize| (limit as u128 * parts as u128).div_ceil(PARTS as u128) as usize;
        (part(own), part(all))
    }
}

/// What each class has of something limited.
#[derive(Default, Debug)]
pub struct ClassCounts {
    counts: [Cell<usize>; MailClass::ALL.len()],
}

impl ClassCounts {
    fn cell(&self, class: MailClass) -> &Cell<usize> {
        let [inbound, submission, local, null_sender] = &self.counts;
        match class {
            MailClass::Inbound => inbound,
            MailClass::Submission => submission,
            MailClass::Local => local,
            MailClass::NullSender => null_sender,
        }
    }

    pub fn of(&self, class: MailClass) -> usize {
        self.cell(class).get()
    }

    pub fn total(&self) -> usize {
        self.counts.iter().map(Cell::get).sum()
    }

    pub fn add(&self, class: MailClass, more: usize) {
        let cell = self.cell(class);
        cell.set(cell.get() + more);
    }

    pub fn remove(&self, class: MailClass, less: usize) {
        let cell = self.cell(class);
        cell.set(cell.get().saturating_sub(less));
    }

    /// Whether the class may have `more` of `limit`.
    pub fn fits(&self, class: MailClass, more: usize, limit: usize) -> bool {
        let (own, all) = class.shares(limit);
        self.of(class).saturating_add(more) <= own && self.total().saturating_add(more) <= all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_class_leaves_room_for_others() {
        let counts = ClassCounts::default();
        let fill = |class| {
            let mut taken = 0;
            while counts.fits(class, 1, 80) {
                counts.add(class, 1);
                taken += 1;
            }
            taken
        };
        assert_eq!(fill(MailClass::NullSender), 20);
        assert_eq!(fill(MailClass::Inbound), 40);
        assert_eq!(fill(MailClass::NullSender), 0);
        assert_eq!(fill(MailClass::Submission), 20);
        assert!(!counts.fits(MailClass::Local, 1, 80) && counts.total() == 80);
        counts.remove(MailClass::Submission, 20);
        assert_eq!(fill(MailClass::Local), 20);
        counts.remove(MailClass::NullSender, 20);
        counts.remove(MailClass::Local, 20);
        assert_eq!(fill(MailClass::Inbound), 20);
        assert_eq!(fill(MailClass::NullSender), 10, "their own share beside the strangers'");
        assert_eq!(fill(MailClass::Submission), 10);
        let counts = ClassCounts::default();
        counts.add(MailClass::Submission, 70);
        assert!(!counts.fits(MailClass::Submission, 1, 80), "an eighth is for ourselves");
        assert!(counts.fits(MailClass::Local, 10, 80));
    }

    #[test]
    fn small_limits_admit_each_class() {
        for class in MailClass::ALL {
            let counts = ClassCounts::default();
            assert!(counts.fits(class, 1, 1), "{}", class.name());
            assert!(!counts.fits(class, 1, 0) && counts.fits(class, 0, 0));
            assert!(class.shares(usize::MAX).1 >= usize::MAX / 2);
        }
    }
}
