//! Damage found while the partition is open, and the mutual exclusion of repairs.
//!
//! Filled by reads, start and salvage; `server` reports it to the administrator, `verify` lists it.
//! Shard-local, bounded. A segment with damage is *quarantined*: its file stays, whatever else in
//! it is garbage, and the checkpoint's root names it.

use std::{
    cell::{Cell, Ref, RefCell},
    collections::BTreeMap,
};

use super::{
    error::StoreError,
    log::{RecoveryReport, segment_epoch, segment_name},
};
use crate::{
    model::{AccountId, MailboxId, Uid},
    runtime::wait::Signal,
};

/// Places of damage remembered; further ones are only counted.
const NOTES_MAX: usize = 1000;

/// Whose bytes are damaged, as far as known.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Place {
    pub account: Option<AccountId>,
    pub mailbox: Option<MailboxId>,
    pub uid: Option<Uid>,
}

/// One place that is not as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    pub segment: String,
    pub offset: u64,
    pub what: String,
    pub place: Place,
}

#[derive(Default)]
pub(super) struct Damages {
    notes: RefCell<Vec<Damage>>,
    /// How many of them were reported.
    told: Cell<usize>,
    quarantined: RefCell<BTreeMap<u64, (String, StoreError)>>,
    repairing: Cell<bool>,
    ended: Signal,
}

/// The right to read the whole log: one task at a time, to limit memory.
pub(super) struct Turn<'a>(&'a Damages);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.repairing.set(false);
        self.0.ended.set();
    }
}

impl Damages {
    pub(super) async fn turn(&self) -> Turn<'_> {
        while self.repairing.replace(true) {
            self.ended.take().await;
        }
        Turn(self)
    }

    /// Records damage and quarantines its segment; ignores other errors.
    pub(super) fn note(&self, error: &StoreError, place: Place) {
        let StoreError::Corrupt { segment, offset, what } = error else { return };
        self.note_loss(Damage {
            segment: segment.clone(),
            offset: *offset,
            what: what.clone(),
            place,
        });
        if let Some(epoch) = segment_epoch(segment) {
            self.quarantine(epoch, error.clone());
        }
    }

    /// As [`Damages::note`], for everything that reading the log found.
    pub(super) fn note_report(&self, report: &RecoveryReport) {
        for (segment, offset, what) in &report.damage {
            let (segment, what) = (segment.clone(), what.clone());
            let error = StoreError::Corrupt { segment, offset: *offset, what };
            self.note(&error, Place::default());
        }
    }

    /// The segment of this epoch is kept unchanged.
    pub(super) fn quarantine(&self, epoch: u64, error: StoreError) {
        let name = match &error {
            StoreError::Corrupt { segment, .. } => segment.clone(),
            _ => format!("segment {epoch}"),
        };
        self.quarantined.borrow_mut().entry(epoch).or_insert((name, error));
    }

    /// Takes the list of segments to keep from the last checkpoint's root.
    pub(super) fn keep_quarantined(&self, epochs: &[u64]) {
        for epoch in epochs {
            let segment = segment_name(*epoch);
            let what = "damage was found in it earlier".to_owned();
            self.quarantine(*epoch, StoreError::Corrupt { segment, offset: 0, what });
        }
    }

    /// Segments that are kept, by epoch: their names and their damage.
    pub(super) fn quarantined(&self) -> Ref<'_, BTreeMap<u64, (String, StoreError)>> {
        self.quarantined.borrow()
    }

    /// Records a loss at an unknown place.
    pub(super) fn note_loss(&self, damage: Damage) {
        let mut notes = self.notes.borrow_mut();
        let known = notes.iter().any(|other| {
            other.segment == damage.segment
                && other.offset == damage.offset
                && other.what == damage.what
        });
        if !known && notes.len() < NOTES_MAX {
            notes.push(damage);
        }
    }

    pub(super) fn all(&self) -> Vec<Damage> {
        self.notes.borrow().clone()
    }

    #[cfg(test)]
    pub(crate) fn any(&self) -> bool {
        !self.notes.borrow().is_empty()
    }

    /// What was recorded since the last call.
    pub(super) fn news(&self) -> Vec<Damage> {
        let notes = self.notes.borrow();
        let from = self.told.replace(notes.len());
        notes[from..].to_vec()
    }
}
