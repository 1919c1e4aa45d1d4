//! Reading every entry, page or garbage, because damage leaves no shorter way.
//!
//! Called by salvage. One segment is in memory at a time, and it yields in between.

use std::rc::Rc;

use super::super::error::StoreError;
use super::{
    Layout, Log, Segment,
    compacted::scan_compacted,
    entry::{ENTRY_HEADER, EntryHeader, decode_header, decode_payload},
    failed, read_whole,
    scan::{Expected, Piece, entries, entries_in_gap, scan_segment},
    segment_of,
};
use crate::{model::Lsn, runtime::executor::offload};

/// Bytes of entries checked and passed on before it yields.
const BURST_BYTES: usize = 256 * 1024;

/// Takes one entry; without a payload if that is damaged.
pub(super) type Visit<'a> = dyn FnMut(Lsn, &EntryHeader, Option<&[u8]>) + 'a;

impl Log {
    /// Passes on every recognizable entry on stable storage, segment by segment in LSN order.
    ///
    /// # Errors
    /// The device's: a failed read is an error, damage is not.
    pub async fn survey(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut after = None;
        while let Some(segment) = self.segment_after(after) {
            after = Some(segment.base);
            self.survey_segment(&segment, visit).await?;
            self.0.executor.yield_now().await;
        }
        Ok(())
    }

    fn segment_after(&self, base: Option<u64>) -> Option<Rc<Segment>> {
        let state = self.0.state.borrow();
        let from = base.map_or(0, |base| base + 1);
        let mut later = state.segments.range(from..).map(|(_, segment)| segment);
        later.find(|segment| segment.len.get() > 0).cloned()
    }

    async fn survey_segment(
        &self,
        segment: &Rc<Segment>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        // Not the file that readers share: there may be many segments.
        let file = self.0.device.open(&segment.name).await.map_err(failed)?;
        let len = segment.len.get();
        let executor = &*self.0.executor;
        let bytes = read_whole(&*file, len, 0, executor).await?;
        let mut burst = 0;
        // Where files overlap, as after a crash in the middle of compaction, only one of them
        // counts.
        let owned = |lsn: Lsn| {
            let owner = segment_of(&self.0.state.borrow().segments, lsn);
            owner.is_some_and(|owner| owner.epoch == segment.epoch)
        };
        if let Layout::Indexed(_) = segment.layout {
            let take_apart = move || (scan_compacted(&bytes), bytes);
            let (scan, bytes) = offload(executor, take_apart).await;
            let scan = scan.map_err(|error| segment.corrupt(0, error))?;
            for record in scan.entries.iter().filter(|record| owned(record.lsn)) {
                let rest = &bytes[record.offset as usize..];
                let Ok(stored) = decode_header(rest, record.lsn) else { continue };
                visit(record.lsn, &stored.header, decode_payload(rest, &stored).ok());
                self.breathe(record.len as usize, &mut burst).await;
            }
            return Ok(());
        }
        let durable = Lsn(segment.base + len);
        let partition = self.0.options.partition;
        let expected = Expected { partition, epoch: segment.epoch, durable };
        let take_apart = move || (scan_segment(&bytes, expected), bytes);
        let (scan, bytes) = offload(executor, take_apart).await;
        let scan = scan.map_err(|error| segment.corrupt(0, error))?;
        let base = scan.base.unwrap_or(Lsn(segment.base)).0;
        for piece in &scan.pieces {
            let (Piece::Batch { start, end }
            | Piece::Damage { start, end, .. }
            | Piece::DamagedBatch { start, end, .. }) = piece;
            let payload = bytes.get(*start..*end).unwrap_or_default();
            let lsn = Lsn(base + *start as u64);
            let found: &mut dyn Iterator<Item = _> = match piece {
                Piece::Damage { .. } => &mut entries_in_gap(payload, lsn),
                _ => &mut entries(payload, lsn),
            };
            for entry in found.filter(|entry| owned(entry.lsn)) {
                let len = entry.payload.as_ref().map_or(0, |payload| payload.len());
                if let Some(header) = &entry.header {
                    visit(entry.lsn, header, entry.payload.ok());
                }
                self.breathe(len, &mut burst).await;
            }
        }
        Ok(())
    }

    /// Yields when enough was read since the last time.
    async fn breathe(&self, bytes: usize, burst: &mut usize) {
        *burst += bytes + ENTRY_HEADER;
        if *burst >= BURST_BYTES {
            *burst = 0;
            self.0.executor.yield_now().await;
        }
    }
}
