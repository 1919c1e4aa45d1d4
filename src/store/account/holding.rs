//! How much mail an account has, and its limits.
//!
//! Copies share their bodies, so a COPY of everything onto itself takes no disk; but each message
//! takes memory in the account's tables, and a hundred copies of copies would fill it.
//!
//! Invariant: published messages are counted, so that the sums match STATUS. Staged changes come on
//! top: at most as many as fit in one batch of the log.
//!
//! Owned by the account in memory; shard-local.

use super::super::{error::StoreError, message::MailboxStatus};

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

#[cfg(test)]
mod tests {
    use super::*;

    fn status(messages: u32, size: u64) -> MailboxStatus {
        MailboxStatus { messages, size, ..MailboxStatus::default() }
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
