//! Estimates of garbage: which segments have lost references to their entries.
//!
//! Called when changes are published, before they take effect. Only per-segment counters change, so
//! it needs no memory per message; the next mark pass corrects errors (a body shared by many, a
//! deleted mailbox whose table was not in memory).

use std::cell::Cell;

use super::{
    super::{
        format::{body::BODY_CHUNK, effect::Effect},
        message::MessageBody,
    },
    Change, Changes, Commits,
};
use crate::model::{Lsn, MailboxId, Uid};

/// Messages of one change that are looked up one by one; the rest count as the average.
const LOOKED_UP_MAX: usize = 1024;

/// Space that changes have freed. Compaction reads it and resets the counts.
#[derive(Default)]
pub(crate) struct Freed {
    /// Garbage from expunges in unknown segments, since the last pass over everything.
    pub unattributed: Cell<u64>,
    /// Garbage from changes since the last check whether a cycle pays.
    pub freed: Cell<u64>,
    /// Bytes that changes have logged or freed since the last cycle. Checkpoints and cycles make
    /// garbage too: without this they could trigger each other for ever.
    pub changed: Cell<u64>,
}

impl Freed {
    fn add_unattributed(&self, bytes: u64) {
        self.unattributed.set(self.unattributed.get() + bytes);
        self.add(bytes);
    }

    fn add(&self, bytes: u64) {
        self.freed.set(self.freed.get() + bytes);
        self.count_change(bytes);
    }

    /// Changes logged or freed `bytes`.
    pub(crate) fn count_change(&self, bytes: u64) {
        self.changed.set(self.changed.get() + bytes);
    }
}

impl Commits {
    /// Counts the changes of references by the entry at `lsn`, which is about to be published.
    pub(crate) fn count_references(&self, lsn: Lsn, changes: &Changes) {
        let mut first = true;
        for change in changes {
            match &change.effect {
                // The first reference of an entry to its own body was counted when appended.
                Effect::Message { message, .. } if message.body.lsn == lsn && first => {
                    first = false;
                }
                Effect::Message { message, .. } => self.count_body(&message.body, 1),
                Effect::Expunge { mailbox, uids, .. } => {
                    self.count_expunged(change, *mailbox, uids)
                }
                Effect::DeleteMailbox { mailbox, .. } => {
                    let size = change.cell.as_ref().and_then(|cell| {
                        Some(cell.state.borrow().mailboxes.get(mailbox)?.status.size)
                    });
                    self.freed.add_unattributed(size.unwrap_or(0));
                }
                Effect::Unspool { lsn } => {
                    let body = self.standing.borrow().spool.get(lsn).map(|spooled| spooled.body);
                    body.iter().for_each(|body| self.count_body(body, -1));
                }
                _ => {}
            }
        }
    }

    fn count_expunged(&self, change: &Change, mailbox: MailboxId, uids: &[Uid]) {
        let Some(cell) = &change.cell else { return };
        let state = cell.state.borrow();
        let Some(found) = state.mailboxes.get(&mailbox) else { return };
        let (near, rest) = uids.split_at(uids.len().min(LOOKED_UP_MAX));
        if let Some(loaded) = &found.loaded {
            for message in near.iter().filter_map(|uid| loaded.table.by_uid(*uid)) {
                self.count_body(&message.body, -1);
            }
        }
        let average = found.status.size / u64::from(found.status.messages.max(1));
        self.freed.add_unattributed(average * rest.len() as u64);
    }

    /// One reference to a body more or less.
    fn count_body(&self, body: &MessageBody, references: i64) {
        if references <= 0 {
            let chunked = body.size > BODY_CHUNK as u64;
            self.freed.add(u64::from(body.entry_len).max(if chunked { body.size } else { 0 }));
        }
        self.count_octets(body, references);
    }

    /// A body that was just appended with no reference to it: the first one makes up for this.
    pub(crate) fn count_parked(&self, body: &MessageBody) {
        self.count_octets(body, -1);
    }

    fn count_octets(&self, body: &MessageBody, references: i64) {
        match references > 0 {
            true => self.log.retain(body.lsn, body.entry_len),
            false => self.log.release(body.lsn, body.entry_len),
        }
        if body.size > BODY_CHUNK as u64 && u64::from(body.entry_len) < body.size {
            let chunks = self.bodies.counters.chunks_of(body.size) as i64;
            self.log.release_before(body.lsn, -references * chunks);
        }
    }
}
