//! Limits what long commands stage. STORE, EXPUNGE, COPY and MOVE of many messages are logged in
//! slices and published with their batch, all at once, and one batch holds thousands of slices. So
//! that no publication holds the shard, all of them together stage [`BULK_MESSAGES_MAX`] and then
//! wait for the disk.
//!
//! Shard-local. Short commands and deliveries are not counted: their clients wait for each one.

use std::cell::Cell;

use super::{super::error::StoreError, Commits};
use crate::model::Lsn;

/// Messages whose changes long commands may have staged but not published: a few milliseconds of
/// work.
const BULK_MESSAGES_MAX: usize = 2_048;

#[derive(Default)]
pub(crate) struct Bulk {
    /// The latest slice.
    last: Cell<Lsn>,
    /// Messages in slices since everything was published.
    messages: Cell<usize>,
}

impl Bulk {
    /// A slice of `messages` was appended at `lsn`.
    pub(crate) fn staged(&self, lsn: Lsn, messages: usize) {
        self.last.set(self.last.get().max(lsn));
        self.messages.set(self.messages.get() + messages);
    }

    /// The log was reopened: staged slices will never be published.
    pub(crate) fn reset(&self) {
        self.messages.set(0);
    }

    fn takes(&self, messages: usize) -> bool {
        let staged = self.messages.get();
        staged == 0 || staged + messages <= BULK_MESSAGES_MAX
    }

    /// Everything up to `lsn` is settled.
    fn settled(&self, lsn: Lsn) {
        if self.last.get() == lsn {
            self.messages.set(0);
        }
    }
}

impl Commits {
    /// To be awaited before each slice of a long command except its first. Cancel-safe.
    pub(crate) async fn bulk_turn(&self, messages: usize) -> Result<(), StoreError> {
        while !self.bulk.takes(messages) {
            let last = self.bulk.last.get();
            let settled = self.log.durable(last).await;
            self.bulk.settled(last);
            settled?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_until_the_last_slice_is_settled() {
        let bulk = Bulk::default();
        // A slice that is larger than the limit is taken alone.
        assert!(bulk.takes(BULK_MESSAGES_MAX + 1));
        bulk.staged(Lsn(1), 1_000);
        bulk.staged(Lsn(2), 1_000);
        assert!(bulk.takes(48) && !bulk.takes(49));
        bulk.settled(Lsn(1));
        assert!(!bulk.takes(49));
        bulk.settled(Lsn(2));
        assert!(bulk.takes(BULK_MESSAGES_MAX));
    }
}
