//! The annotations of one mailbox: the locations of their runs, and the changes since those were
//! written.
//!
//! Most messages have none: a mailbox without any costs nothing. Values are looked up on disk, so
//! that memory holds only changes that no run has yet: as much as the log grows between two
//! checkpoints. A newer run overrides an older one. Rows of expunged messages are garbage, wherever
//! they are; runs are rewritten when much of them is garbage.

use std::{collections::BTreeMap, ops::RangeInclusive};

use bytes::Bytes;

use super::super::format::{
    annotations::{Place, Rows},
    blocks::{BlockRunRef, RUN_REF_MIN},
    codec::{Decoded, Put, Reader},
};
use crate::model::{Lsn, Uid};

/// Size up to which runs are merged with newer ones, bytes.
const JOIN_BYTES_MAX: u32 = 1 << 20;
/// Most rows joined at once: some two milliseconds of work without a pause.
const JOIN_ROWS_MAX: u64 = 8 * 1024;
/// Number of garbage rows that is never worth a rewrite.
const GARBAGE_MIN: u64 = 1024;
/// A row's place in a map, bytes.
const ROW: usize = 64;

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct MailboxAnnotations {
    /// Oldest first.
    runs: Vec<BlockRunRef>,
    /// Published, but in no run.
    delta: Rows,
    delta_octets: usize,
    /// Garbage rows in runs (an estimate).
    garbage: u64,
}

impl MailboxAnnotations {
    pub(crate) fn runs(&self) -> &[BlockRunRef] {
        &self.runs
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.delta.is_empty()
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.delta.is_empty()
    }

    /// Octets that are in no run.
    pub(crate) fn changed_octets(&self) -> usize {
        self.delta_octets
    }

    /// The changes of the messages `uids` since the runs were written.
    pub(crate) fn changes(&self, uids: RangeInclusive<Uid>) -> Rows {
        let places = (*uids.start(), 0)..=(*uids.end(), u32::MAX);
        self.delta.range(places).map(|(place, value)| (*place, value.clone())).collect()
    }

    fn is_in_a_run(&self, uid: Uid) -> bool {
        self.runs.iter().any(|run| run.first <= uid && uid <= run.last)
    }

    /// Applies a durable change of the message `uid`.
    pub(crate) fn publish(&mut self, uid: Uid, values: &[(u32, Option<Bytes>)]) {
        self.garbage += if self.is_in_a_run(uid) { values.len() as u64 } else { 0 };
        for (number, value) in values {
            self.put((uid, *number), value.clone());
        }
    }

    fn put(&mut self, place: Place, value: Option<Bytes>) {
        let octets = |value: &Option<Bytes>| ROW + value.as_ref().map_or(0, Bytes::len);
        self.delta_octets += octets(&value);
        if let Some(before) = self.delta.insert(place, value) {
            self.delta_octets -= octets(&before);
        }
    }

    fn rows(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.rows)).sum()
    }

    /// These messages were expunged; `messages` remain in the mailbox.
    pub(crate) fn forget(&mut self, uids: &[Uid], messages: u32) {
        let live = self.rows().saturating_sub(self.garbage);
        let of_each = live.div_ceil(u64::from(messages.max(1))).max(1);
        for uid in uids {
            let places: Vec<Place> =
                self.delta.range((*uid, 0)..=(*uid, u32::MAX)).map(|(place, _)| *place).collect();
            for place in places {
                let value = self.delta.remove(&place).flatten();
                self.delta_octets -= ROW + value.map_or(0, |value| value.len());
            }
            self.garbage += if self.is_in_a_run(*uid) { of_each } else { 0 };
        }
    }

    /// Takes the first changes, about `octets` of them, to be written to a run.
    pub(crate) fn take_changes(&mut self, octets: usize) -> Rows {
        let mut taken = Rows::new();
        let mut left = octets;
        while left > 0
            && let Some((place, value)) = self.delta.pop_first()
        {
            let size = ROW + value.as_ref().map_or(0, Bytes::len);
            left = left.saturating_sub(size);
            self.delta_octets -= size;
            taken.insert(place, value);
        }
        taken
    }

    /// Adds changes that are older than the existing ones.
    pub(crate) fn put_under(&mut self, older: Rows) {
        for (place, value) in older {
            if !self.delta.contains_key(&place) {
                self.put(place, value);
            }
        }
    }

    /// How many of the newest runs to join with `octets` of changes, so that their number stays
    /// logarithmic while they are short.
    pub(crate) fn to_join(&self, octets: usize) -> usize {
        let mut bytes = u32::try_from(octets).unwrap_or(u32::MAX);
        let mut rows = (octets / ROW).min(self.delta.len()) as u64;
        let small = |run: &&BlockRunRef| {
            rows += u64::from(run.rows);
            let joins = run.entry_len <= bytes && bytes < JOIN_BYTES_MAX && rows <= JOIN_ROWS_MAX;
            bytes = bytes.saturating_add(run.entry_len);
            joins
        };
        self.runs.iter().rev().take_while(small).count()
    }

    /// Records that `runs` were written and include the rows of the newest `joined`; returns the
    /// runs no longer needed.
    pub(crate) fn add(&mut self, joined: usize, runs: Vec<BlockRunRef>) -> Vec<BlockRunRef> {
        let kept = self.runs.len().saturating_sub(joined);
        let replaced = self.runs.split_off(kept);
        self.runs.extend(runs);
        replaced
    }

    /// Whether much of the runs is garbage, for a mailbox with `messages`.
    pub(crate) fn wants_rewrite(&self, messages: u32) -> bool {
        match messages {
            0 => !self.runs.is_empty(),
            _ => self.garbage > self.rows() / 2 + GARBAGE_MIN,
        }
    }

    /// Records that all runs were rewritten as `runs`, if they are still those in `older`.
    pub(crate) fn replace(
        &mut self,
        older: &[BlockRunRef],
        runs: Vec<BlockRunRef>,
    ) -> Vec<BlockRunRef> {
        if self.runs != older {
            return runs;
        }
        self.garbage = 0;
        std::mem::replace(&mut self.runs, runs)
    }

    /// The run at `lsn` cannot be read: `rows`, as far as known, become changes older than all
    /// others.
    pub(crate) fn give_up(&mut self, lsn: Lsn, rows: Rows) -> Option<BlockRunRef> {
        let at = self.runs.iter().position(|run| run.lsn == lsn)?;
        self.put_under(rows);
        Some(self.runs.remove(at))
    }

    /// Appends their part of an account page.
    pub(crate) fn put_page(&self, out: &mut Vec<u8>) {
        out.put_varint(self.garbage);
        out.put_varint(self.runs.len() as u64);
        // They may overlap: each is encoded with its own first UID.
        self.runs.iter().for_each(|run| run.put(Uid(0), out));
    }

    pub(crate) fn read_page(reader: &mut Reader<'_>) -> Decoded<MailboxAnnotations> {
        let garbage = reader.varint("garbage of annotations")?;
        let count = reader.count(RUN_REF_MIN, "annotation runs")?;
        let runs = (0..count).map(|_| BlockRunRef::read(Uid(0), reader));
        let runs = runs.collect::<Decoded<_>>()?;
        Ok(MailboxAnnotations { runs, garbage, ..MailboxAnnotations::default() })
    }

    /// Bytes of memory, about.
    pub(crate) fn memory(&self) -> usize {
        size_of::<MailboxAnnotations>()
            + self.runs.capacity() * size_of::<BlockRunRef>()
            + self.delta_octets
            + self.delta.len() * size_of::<(Place, Option<Bytes>)>()
    }
}

/// Values of messages, by message and number.
pub(crate) fn by_message(rows: Rows) -> BTreeMap<Uid, Vec<(u32, Bytes)>> {
    let mut messages: BTreeMap<Uid, Vec<(u32, Bytes)>> = BTreeMap::new();
    for ((uid, number), value) in rows {
        if let Some(value) = value {
            messages.entry(uid).or_default().push((number, value));
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lsn: u64, first: u32, last: u32, entry_len: u32) -> BlockRunRef {
        let rows = last - first + 1;
        BlockRunRef { lsn: Lsn(lsn), entry_len, first: Uid(first), last: Uid(last), rows }
    }

    fn value(text: &str) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn changes_are_taken_in_pieces_and_go_with_their_message() {
        let mut annotations = MailboxAnnotations::default();
        annotations.publish(Uid(7), &[(0, value("envelope")), (1, value("to do"))]);
        annotations.publish(Uid(8), &[(0, value("other"))]);
        annotations.publish(Uid(7), &[(1, value("done")), (2, None)]);
        let changes = annotations.changes(Uid(7)..=Uid(7));
        assert_eq!(changes.len(), 3);
        assert_eq!(changes[&(Uid(7), 1)], value("done"));
        let first = annotations.take_changes(1);
        assert_eq!(first.keys().collect::<Vec<_>>(), [&(Uid(7), 0)]);
        annotations.forget(&[Uid(7)], 2);
        assert_eq!(annotations.changed_octets(), ROW + 5);
        assert_eq!(annotations.take_changes(usize::MAX).len(), 1);
        assert!(annotations.is_empty() && annotations.changed_octets() == 0);
    }

    #[test]
    fn runs_are_joined_rewritten_and_given_up() {
        let runs = [run(10, 1, 9000, 900_000), run(20, 50, 60, 500), run(30, 9001, 9100, 400)];
        let mut annotations = MailboxAnnotations::default();
        assert!(annotations.add(0, runs.to_vec()).is_empty());
        assert_eq!([100, 400, 5000].map(|octets| annotations.to_join(octets)), [0, 2, 2]);
        assert_eq!(annotations.add(2, vec![run(40, 50, 9200, 1_000)]), runs[1..]);
        // Two rows per message: a third of them becomes garbage, then more than half.
        annotations.forget(&(1..=3_000).map(Uid).collect::<Vec<_>>(), 9_100);
        assert!(!annotations.wants_rewrite(6_100) && annotations.wants_rewrite(0));
        annotations.forget(&(3_001..=5_500).map(Uid).collect::<Vec<_>>(), 6_100);
        assert!(annotations.wants_rewrite(3_600));
        let mut page = Vec::new();
        annotations.put_page(&mut page);
        let read = MailboxAnnotations::read_page(&mut Reader::new(&page)).unwrap();
        assert_eq!(read, annotations);

        let older = annotations.runs().to_vec();
        let anew = vec![run(50, 9_100, 9_200, 700)];
        assert_eq!(annotations.clone().replace(&older[..1], anew.clone()), anew, "overtaken");
        assert_eq!(annotations.replace(&older, anew), older);
        assert!(!annotations.wants_rewrite(100));
        annotations.publish(Uid(9_150), &[(1, value("newer"))]);
        let rows: Rows = [((Uid(9_150), 1), value("old")), ((Uid(9_150), 2), None)].into();
        assert!(annotations.give_up(Lsn(50), rows).is_some());
        assert_eq!(annotations.changes(Uid(1)..=Uid(u32::MAX))[&(Uid(9_150), 1)], value("newer"));
        assert!(
            annotations.runs().is_empty() && annotations.give_up(Lsn(50), Rows::new()).is_none()
        );
    }
}
