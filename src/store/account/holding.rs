//! How much mail an account has, and its limits.
//!
//! Copies share their bodies, so a COPY of everything onto itself takes no disk; but each message
//! takes memory in the account's tables, and a hundred copies of copies would fill it.
//!
//! Published messages are counted, so that the sums match STATUS; changes that are staged are kept
//! beside them. A limit is checked against both, so that of two messages for the same last place
//! one is refused, even while neither is durable.
//!
//! Owned by the account in memory; shard-local.

use std::collections::VecDeque;

use super::super::{error::StoreError, message::MailboxStatus};
use crate::model::Lsn;

/// The limits of an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldingLimits {
    pub messages: u64,
    /// Octets of messages, as RFC822.SIZE counts them; copies count like originals.
    pub octets: u64,
}

impl Default for HoldingLimits {
    fn default() -> HoldingLimits {
        HoldingLimits { messages: 2_000_000, octets: 1 << 40 }
    }
}

/// Messages in all mailboxes of an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Holding {
    pub messages: u64,
    pub octets: u64,
}

impl Holding {
    /// Adds up mailboxes.
    pub(crate) fn of<'a>(mailboxes: impl Iterator<Item = &'a MailboxStatus>) -> Holding {
        mailboxes
            .fold(Holding::default(), |sum, status| sum.changed(&MailboxStatus::default(), status))
    }

    /// The sums after one mailbox changed from `before` to `after`.
    pub(crate) fn changed(self, before: &MailboxStatus, after: &MailboxStatus) -> Holding {
        let count =
            |sum: u64, before: u64, after: u64| sum.saturating_add(after).saturating_sub(before);
        Holding {
            messages: count(self.messages, before.messages.into(), after.messages.into()),
            octets: count(self.octets, before.size, after.size),
        }
    }

    /// Whether `messages` with a total of `octets` may be added.
    ///
    /// # Errors
    /// [`StoreError::OverQuota`]
    pub(crate) fn check(
        self,
        messages: u64,
        octets: u64,
        limits: HoldingLimits,
    ) -> Result<(), StoreError> {
        let fits = self.messages.saturating_add(messages) <= limits.messages
            && self.octets.saturating_add(octets) <= limits.octets;
        if fits { Ok(()) } else { Err(StoreError::OverQuota) }
    }
}

/// What staged entries will change.
#[derive(Clone, Default, Debug)]
pub(crate) struct StagedHolding {
    /// Of each entry, in the order of the log: messages and octets that come or go.
    entries: VecDeque<(Lsn, i128, i128)>,
    messages: i128,
    octets: i128,
}

impl StagedHolding {
    fn count(&mut self, messages: i128, octets: i128) {
        self.messages += messages;
        self.octets += octets;
    }

    /// An effect of the entry at `lsn` adds messages, or removes them.
    pub(crate) fn stage(&mut self, lsn: Lsn, added: Holding, removed: Holding) {
        let messages = i128::from(added.messages) - i128::from(removed.messages);
        let octets = i128::from(added.octets) - i128::from(removed.octets);
        match self.entries.back_mut().filter(|entry| entry.0 == lsn) {
            Some(entry) => (entry.1, entry.2) = (entry.1 + messages, entry.2 + octets),
            None => self.entries.push_back((lsn, messages, octets)),
        }
        self.count(messages, octets);
    }

    /// The entry at `lsn` is durable: its messages are counted as published.
    pub(crate) fn publish(&mut self, lsn: Lsn) {
        while let Some((at, messages, octets)) = self.entries.front().copied()
            && at <= lsn
        {
            self.entries.pop_front();
            self.count(-messages, -octets);
        }
    }

    /// What there will be once all of it is published.
    pub(crate) fn on(&self, published: Holding) -> Holding {
        let sum = |published: u64, staged: i128| {
            (i128::from(published) + staged).clamp(0, u64::MAX.into()) as u64
        };
        Holding {
            messages: sum(published.messages, self.messages),
            octets: sum(published.octets, self.octets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(messages: u32, size: u64) -> MailboxStatus {
        MailboxStatus { messages, size, ..MailboxStatus::default() }
    }

    #[test]
    fn staged_changes_count_until_they_are_published() {
        let some = |messages, octets| Holding { messages, octets };
        let nothing = Holding::default();
        let mut staged = StagedHolding::default();
        let published = some(3, 30);
        staged.stage(Lsn(8), some(1, 10), nothing);
        staged.stage(Lsn(8), nothing, some(2, 25));
        staged.stage(Lsn(16), some(1, 1), nothing);
        assert_eq!(staged.on(published), some(3, 16));
        assert_eq!(staged.on(some(1, 5)), some(1, 0));
        staged.publish(Lsn(7));
        assert_eq!(staged.on(published), some(3, 16));
        staged.publish(Lsn(8));
        assert_eq!(staged.on(some(2, 15)), some(3, 16));
        staged.publish(Lsn(24));
        assert_eq!(staged.on(some(3, 16)), some(3, 16));
    }

    #[test]
    fn sums_follow_and_limits_hold() {
        let holding = Holding::of([status(2, 20), status(3, 30)].iter());
        assert_eq!(holding, Holding { messages: 5, octets: 50 });
        let holding = holding.changed(&status(2, 20), &status(1, 15));
        assert_eq!(holding, Holding { messages: 4, octets: 45 });
        let limits = HoldingLimits { messages: 6, octets: 60 };
        // (messages, octets, whether they fit)
        const CASES: &[(u64, u64, bool)] = &[
            (2, 15, true),
            (3, 15, false),
            (2, 16, false),
            (u64::MAX, 0, false),
            (0, u64::MAX, false),
        ];
        for (messages, octets, fits) in CASES {
            let checked = holding.check(*messages, *octets, limits);
            assert_eq!(checked.is_ok(), *fits, "{messages} {octets}");
        }
    }
}
