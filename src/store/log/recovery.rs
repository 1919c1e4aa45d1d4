//! Opening a log: the surviving entries, in order, and a new segment for further ones.
//!
//! Called once when a partition opens, in two steps, because the state above must load its last
//! checkpoint before later entries can be applied: [`Recovered::read`] for the pages, then
//! [`Recovered::replay`].
//!
//! A segment found here is never appended to. A killed process may have left files, batches and a
//! checkpoint that were written but not synced; everything is synced before it is used, so that
//! nothing published from it can be lost.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    rc::Rc,
};

use bytes::Bytes;

use super::{super::error::StoreError, RecoveryReport};
use super::{
    Batch, Checkpoint, Ended, Inner, Layout, Log, LogOptions, LogProbe, READ_AHEAD, Segment, State,
    compacted::{CompactedFooter, CompactedHeader, scan_compacted},
    entry::{EntryError, EntryHeader, decode_header, decode_payload},
    failed,
    index::{Index, IndexCache},
    no_segment, read_entry,
    resync::corrected_segment,
    scan::{Expected, Piece, SegmentScan, entries, entries_in_gap, scan_batches, scan_segment},
    segment::{
        BATCH_HEADER, BLOCK, BatchHeader, CheckpointFile, HeaderError, SegmentHeader, align,
        checkpoint_name, checkpoint_sequence, segment_epoch, segment_name,
    },
    segment_of,
    wait::Waiters,
    writer,
};
use crate::{
    model::{Lsn, Moment, PartitionId},
    runtime::{
        device::Device,
        executor::{Executor, Priority},
    },
};

/// Takes one replayed entry. An error ends the opening.
pub type Replay<'a> = dyn FnMut(Lsn, &EntryHeader, &[u8]) -> Result<(), StoreError> + 'a;

/// Most places of damage reported, and most lost entries named.
const DAMAGE_MAX: usize = 1000;

/// A log found on a device and not yet replayed.
pub struct Recovered {
    device: Rc<dyn Device>,
    executor: Rc<dyn Executor>,
    options: LogOptions,
    index_cache: Rc<IndexCache>,
    /// Oldest first. Segments that never began are not included, nor are compacted ones: those are
    /// below every checkpoint and are never replayed.
    started: Vec<Started>,
    segments: BTreeMap<u64, Rc<Segment>>,
    checkpoint: Option<Checkpoint>,
    checkpoint_sequence: u64,
    checkpoint_next: u64,
    checkpoint_files: BTreeSet<u64>,
    /// Known from the checkpoint to have been durable.
    durable: Lsn,
    /// From the checkpoint: a batch starts here, and nothing before it is replayed.
    scan_from: Lsn,
    /// Everything is replayed, compacted segments too, because the pages are incomplete.
    whole: bool,
    /// An epoch above all that were used.
    epoch_next: u64,
    /// An LSN above all that were used.
    lsn_next: u64,
    /// Files of segments whose first write was not finished or failed. That is known from what
    /// follows them, so nothing of that may go before they do: see [`Log::retire`].
    abandoned: Vec<u64>,
    /// When a running log is reopened after a failure: where it ended for everything it
    /// acknowledged.
    cut: Option<Ended>,
    report: RecoveryReport,
}

/// A segment file as found.
struct Found {
    epoch: u64,
    len: u64,
    header: Option<SegmentHeader>,
    /// Whether it was written in place, that is, not by compaction; false if nothing says so.
    in_place: bool,
    /// Whether the header had one wrong bit.
    rotten: bool,
    compacted: Option<FoundCompacted>,
}

/// A compacted file's description of itself.
struct FoundCompacted {
    /// From the footer if there is one.
    header: CompactedHeader,
    /// `None` if the file was never finished, or is damaged.
    footer: Option<CompactedFooter>,
    /// Whether the first block is damaged.
    damaged: bool,
}

/// A segment with entries.
struct Started {
    segment: Rc<Segment>,
    /// `None` if damaged.
    header: Option<SegmentHeader>,
    len: u64,
}

/// Where the log ended, found by the scan of the last segment.
#[derive(Default)]
pub(super) struct Tip {
    ended: Ended,
    chain: u32,
}

/// Segments replaced by complete compacted ones.
#[derive(Default)]
struct Replaced {
    sources: BTreeSet<u64>,
    /// Epoch, base and end of each compacted segment.
    ranges: Vec<(u64, u64, u64)>,
}

impl Replaced {
    fn add(&mut self, epoch: u64, header: &CompactedHeader) {
        self.sources.extend(&header.sources);
        self.ranges.push((epoch, header.base.0, header.end.0));
    }

    /// Whether it is replaced by name, or because it begins inside the range of a later one: a
    /// source of a source whose deletion a crash has undone.
    fn contains(&self, epoch: u64, base: u64) -> bool {
        let covers = |(later, start, end): &(u64, u64, u64)| {
            epoch < *later && (*start..*end).contains(&base)
        };
        self.sources.contains(&epoch) || self.ranges.iter().any(covers)
    }
}

pub(super) fn refused(name: &str, reason: impl std::fmt::Display) -> StoreError {
    let what = format!("{name}: {reason}");
    StoreError::Io(io::Error::new(io::ErrorKind::Unsupported, what).into())
}

impl Recovered {
    pub(super) async fn find(
        device: Rc<dyn Device>,
        executor: Rc<dyn Executor>,
        options: LogOptions,
        index_cache: Rc<IndexCache>,
        cut: Option<Ended>,
    ) -> Result<Recovered, StoreError> {
        let mut recovered = Recovered {
            device,
            executor,
            options,
            index_cache,
            started: Vec::new(),
            segments: BTreeMap::new(),
            checkpoint: None,
            checkpoint_sequence: 0,
            checkpoint_next: 1,
            checkpoint_files: BTreeSet::new(),
            durable: Lsn(0),
            scan_from: Lsn(0),
            whole: false,
            epoch_next: 1,
            lsn_next: 0,
            abandoned: Vec::new(),
            cut,
            report: RecoveryReport::default(),
        };
        // The directory entries of files that a killed process created may not be durable yet.
        recovered.device.sync_directory().await.map_err(failed)?;
        let names = recovered.device.list().await.map_err(failed)?;
        recovered.find_checkpoint(&names).await?;
        recovered.find_segments(&names).await?;
        recovered.checkpoint_of_segments().await;
        Ok(recovered)
    }

    pub(super) fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// The first thing that the state above loads; `None` in a log without one, which is replayed
    /// completely.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.checkpoint
    }

    /// An entry of the checkpoint.
    pub async fn read(&self, lsn: Lsn) -> Result<(EntryHeader, Bytes), StoreError> {
        let segment = segment_of(&self.segments, lsn).ok_or_else(|| no_segment(lsn))?;
        read_entry(&*self.device, &self.index_cache, &segment, lsn, READ_AHEAD, None).await
    }

    /// The newest intact checkpoint file. A broken newer one was never finished: the older one is
    /// deleted only after it is durable.
    async fn find_checkpoint(&mut self, names: &[String]) -> Result<(), StoreError> {
        self.checkpoint_files = names.iter().filter_map(|name| checkpoint_sequence(name)).collect();
        self.checkpoint_next = self.checkpoint_files.last().map_or(1, |last| last + 1);
        for sequence in self.checkpoint_files.clone().into_iter().rev() {
            let name = checkpoint_name(sequence);
            let file = self.device.open(&name).await.map_err(failed)?;
            file.sync().await.map_err(failed)?;
            let content = file.read_at(0, 2 * BLOCK).await.map_err(failed)?;
            match CheckpointFile::decode(&content) {
                Ok(found) if found.partition != self.options.partition => {
                    return Err(refused(&name, "belongs to another partition"));
                }
                Ok(found) if found.sequence == sequence => {
                    self.checkpoint = Some(found.checkpoint);
                    self.checkpoint_sequence = sequence;
                    self.durable = found.durable;
                    self.scan_from = found.scan_from;
                    self.lsn_next = align(found.durable.0);
                    return Ok(());
                }
                Err(HeaderError::Version(version)) => {
                    return Err(refused(&name, HeaderError::Version(version)));
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Segment headers name the last checkpoint too, in case its file is gone or broken. Compaction
    /// may have dropped the pages of an old one: one whose root cannot be read is ignored.
    async fn checkpoint_of_segments(&mut self) {
        let mut newer: Vec<(u64, Checkpoint)> = self
            .started
            .iter()
            .filter_map(|started| started.header)
            .filter(|header| header.checkpoint_sequence > self.checkpoint_sequence)
            .filter_map(|header| Some((header.checkpoint_sequence, header.checkpoint?)))
            .collect();
        newer.sort_unstable_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
        newer.dedup_by_key(|(sequence, _)| *sequence);
        let Some(&newest) = newer.first() else { return };
        self.damaged(&checkpoint_name(newest.0), 0, "checkpoint file is missing or broken");
        let mut chosen = newest;
        for (sequence, checkpoint) in newer {
            if self.read(checkpoint.root).await.is_ok() {
                chosen = (sequence, checkpoint);
                break;
            }
        }
        (self.checkpoint_sequence, self.checkpoint) = (chosen.0, Some(chosen.1));
        self.checkpoint_next = self.checkpoint_next.max(newest.0 + 1);
    }

    async fn find_segments(&mut self, names: &[String]) -> Result<(), StoreError> {
        let mut epochs: Vec<u64> = names.iter().filter_map(|name| segment_epoch(name)).collect();
        epochs.sort_unstable();
        self.epoch_next = epochs.last().map_or(1, |last| last + 1);
        let mut found = Vec::with_capacity(epochs.len());
        // All but the last segment were synced to their end before the next one was begun; the last
        // one, and compacted segments written after it, are synced here.
        let mut unsynced = true;
        for epoch in epochs.into_iter().rev() {
            let file = self.look_at(epoch, unsynced).await?;
            unsynced &= file.header.is_none();
            found.push(file);
        }
        found.reverse();
        let (found, replaced) = self.take_compacted(found).await?;
        for (index, found_here) in found.iter().enumerate() {
            let Found { epoch, len, header, in_place, rotten, .. } = found_here;
            if *rotten && header.is_some() {
                self.damaged(&segment_name(*epoch), 0, "segment header is damaged");
            }
            let successor = found[index + 1..].iter().find_map(|later| later.header);
            let base = match header {
                _ if self.is_abandoned(*epoch, successor) => None,
                Some(header) => Some(header.base.0),
                None => self.lost_base(*epoch, *len, successor).await?,
            };
            let Some(base) = base else {
                self.report.tail_bytes += len;
                // Its own range of LSNs stays unused: it begins a block after that of the one
                // before.
                self.lsn_next = align(self.lsn_next + len) + BLOCK as u64;
                self.abandoned.extend(in_place.then_some(*epoch));
                continue;
            };
            // One that never began may be where its neighbours were merged: if the segment after it
            // was compacted away, nothing else marks it as ignored.
            if header.is_none() && replaced.contains(*epoch, base) {
                let _ = self.device.delete(&segment_name(*epoch)).await;
                continue;
            }
            // Where a damaged compacted segment and a source of it overlap, both stay.
            if self.segments.contains_key(&base) {
                continue;
            }
            let name = segment_name(*epoch);
            // Bytes after its end are a tail that was cut, for every reader.
            let end = successor.filter(|later| later.predecessor == *epoch);
            let end = end.map_or(*len, |later| later.predecessor_end.0.saturating_sub(base));
            let own = end.min(*len);
            let segment = Rc::new(Segment::found(*epoch, base, name, Layout::InPlace, own));
            self.segments.insert(base, segment.clone());
            self.lsn_next = self.lsn_next.max(align(base + len));
            self.started.push(Started { segment, header: *header, len: *len });
        }
        self.report.segments = self.segments.len();
        Ok(())
    }

    /// Adds compacted segments to the table, newest first, and deletes their sources; an unfinished
    /// one whose sources all exist is deleted itself. Returns the others, in order, and the
    /// replaced segments.
    async fn take_compacted(
        &mut self,
        found: Vec<Found>,
    ) -> Result<(Vec<Found>, Replaced), StoreError> {
        let present: BTreeSet<u64> = found.iter().map(|found| found.epoch).collect();
        let (mut compacted, others): (Vec<Found>, Vec<Found>) =
            found.into_iter().partition(|found| found.compacted.is_some());
        let mut replaced = Replaced::default();
        let mut doomed = Vec::new();
        while let Some(Found { epoch, len, compacted: Some(mut file), .. }) = compacted.pop() {
            if replaced.contains(epoch, file.header.base.0) {
                doomed.push(epoch);
                continue;
            }
            if file.header.sources.iter().any(|source| present.contains(source)) {
                // A killed process may have written the footer without syncing it, and nothing may
                // be deleted before that.
                let again = self.look_at(epoch, true).await?.compacted;
                file.footer = again.and_then(|again| again.footer);
            }
            let name = segment_name(epoch);
            if file.damaged {
                self.damaged(&name, 0, "segment header is damaged, the footer was used");
            }
            let segment = match &file.footer {
                Some(footer) => Segment::compacted(name, footer, len),
                None if file.header.sources.iter().all(|source| present.contains(source)) => {
                    doomed.push(epoch);
                    continue;
                }
                None => self.walk_compacted(epoch, len, &file.header).await?,
            };
            // Two intact blocks must agree before anything is deleted because of them.
            if file.footer.is_some() && !file.damaged {
                replaced.add(epoch, &file.header);
            }
            self.lsn_next = self.lsn_next.max(align(segment.end()));
            self.segments.insert(segment.base, Rc::new(segment));
        }
        let (old, kept): (Vec<Found>, Vec<Found>) = others.into_iter().partition(|found| {
            found.header.is_some_and(|header| replaced.contains(found.epoch, header.base.0))
                || replaced.sources.contains(&found.epoch)
        });
        doomed.extend(old.iter().map(|found| found.epoch));
        // A running log has a cleaner that may be about to finish its file.
        let doomed = if self.cut.is_some() { Vec::new() } else { doomed };
        for epoch in doomed {
            // A file that cannot be deleted now is recognized at the next start too.
            let _ = self.device.delete(&segment_name(epoch)).await;
        }
        Ok((kept, replaced))
    }

    /// A compacted segment whose footer and sources are lost: its entries are found one by one.
    async fn walk_compacted(
        &mut self,
        epoch: u64,
        len: u64,
        header: &CompactedHeader,
    ) -> Result<Segment, StoreError> {
        let name = segment_name(epoch);
        let file = self.device.open(&name).await.map_err(failed)?;
        let bytes = file.read_at(0, len as usize).await.map_err(failed)?;
        let scan = scan_compacted(&bytes).map_err(|error| refused(&name, error))?;
        let what = "the footer is damaged; entries were searched for";
        self.damaged(&name, len.saturating_sub(BLOCK as u64), what);
        for (offset, what) in &scan.damage {
            self.damaged(&name, *offset, what);
        }
        let layout = Layout::Indexed(Index::walked(header.end, scan.places()));
        Ok(Segment::found(epoch, header.base.0, name, layout, len))
    }

    /// Reads a segment's header, and for a compacted one the footer; with `sync`, makes them
    /// durable before they are used. An intact header that does not belong here is damage if what
    /// follows it does; otherwise it is refused: files were mixed up, and guessing would make it
    /// worse.
    async fn look_at(&self, epoch: u64, sync: bool) -> Result<Found, StoreError> {
        let name = segment_name(epoch);
        let file = self.device.open(&name).await.map_err(failed)?;
        if sync {
            file.sync().await.map_err(failed)?;
        }
        let len = file.len().await.map_err(failed)?;
        let block = file.read_at(0, BLOCK).await.map_err(failed)?;
        let rotten =
            Found { epoch, len, header: None, in_place: true, rotten: true, compacted: None };
        let mut header = CompactedHeader::decode(&block).ok();
        let mut foreign = None;
        match SegmentHeader::decode(&block) {
            Ok(header) => match self.check_place(&name, epoch, header.partition, header.epoch) {
                Ok(()) => return Ok(Found { header: Some(header), rotten: false, ..rotten }),
                Err(error) => foreign = Some(error),
            },
            Err(HeaderError::Version(version)) if header.is_none() => {
                return Err(refused(&name, HeaderError::Version(version)));
            }
            Err(_) => {}
        }
        if let Some(compacted) = &header
            && let Err(error) = self.check_place(&name, epoch, compacted.partition, compacted.epoch)
        {
            (header, foreign) = (None, Some(error));
        }
        let own =
            |partition: PartitionId, of: u64| partition == self.options.partition && of == epoch;
        if header.is_none()
            && let Some(header) = corrected_segment(&block).filter(|it| own(it.partition, it.epoch))
        {
            return Ok(Found { header: Some(header), ..rotten });
        }
        if header.is_none() {
            // A batch in the second block; mail at the end of it may contain anything.
            let second = file.read_at(BLOCK as u64, BATCH_HEADER).await.map_err(failed)?;
            if let Ok((batch, _)) = BatchHeader::decode(&second)
                && (foreign.is_none() || own(batch.partition, batch.epoch))
            {
                return Ok(rotten);
            }
        }
        let footer_at = len.saturating_sub(BLOCK as u64);
        let last = file.read_at(footer_at, BLOCK).await.map_err(failed)?;
        let footer = match CompactedFooter::decode(&last, len) {
            Err(HeaderError::Version(version)) if header.is_none() && foreign.is_none() => {
                return Err(refused(&name, HeaderError::Version(version)));
            }
            // The last block of mail may look like a footer, but does not know the nonce.
            decoded => decoded.ok().filter(|footer| {
                footer.header.epoch == epoch
                    && header.as_ref().is_none_or(|header| header.nonce == footer.header.nonce)
            }),
        };
        let damaged = header.is_none();
        let told = footer.as_ref().map(|footer| footer.header.clone()).or(header);
        match (&told, foreign) {
            (Some(header), _) => self.check_place(&name, epoch, header.partition, header.epoch)?,
            // If the file holds nothing else it does not matter what it was.
            (None, Some(error)) if len > BLOCK as u64 => return Err(error),
            (None, _) => {}
        }
        let compacted = told.map(|header| FoundCompacted { header, footer, damaged });
        Ok(Found { in_place: false, rotten: damaged, compacted, ..rotten })
    }

    fn check_place(
        &self,
        name: &str,
        epoch: u64,
        partition: PartitionId,
        written: u64,
    ) -> Result<(), StoreError> {
        if partition != self.options.partition {
            return Err(refused(name, "belongs to another partition"));
        }
        if written != epoch {
            return Err(refused(name, "was written under another name"));
        }
        Ok(())
    }

    /// A segment whose first write failed, or was not finished: the next written one has a
    /// different predecessor. Its writers were told that it failed, even if it looks intact.
    fn is_abandoned(&self, epoch: u64, successor: Option<SegmentHeader>) -> bool {
        successor.is_some_and(|successor| successor.predecessor < epoch)
            || self.cut.is_some_and(|cut| epoch > cut.epoch)
    }

    /// Base of a segment with a damaged header: `None` if the segment never began, that is, if its
    /// first write was not finished.
    async fn lost_base(
        &mut self,
        epoch: u64,
        len: u64,
        successor: Option<SegmentHeader>,
    ) -> Result<Option<u64>, StoreError> {
        if len == 0 {
            return Ok(None);
        }
        let file = self.device.open(&segment_name(epoch)).await.map_err(failed)?;
        let bytes = file.read_at(0, len as usize).await.map_err(failed)?;
        let durable = successor.map_or(self.durable, |successor| successor.predecessor_end);
        let scan = self.scan(&bytes, epoch, durable)?;
        if scan.end == 0 && successor.is_some_and(|successor| successor.predecessor == epoch) {
            let name = segment_name(epoch);
            self.damaged(&name, 0, "nothing in the segment is intact");
            self.lost_below(durable.0);
        }
        Ok(scan.base.filter(|_| scan.end > 0).map(|base| base.0))
    }

    fn scan(&self, bytes: &[u8], epoch: u64, durable: Lsn) -> Result<SegmentScan, StoreError> {
        let expected = Expected { partition: self.options.partition, epoch, durable };
        scan_segment(bytes, expected).map_err(|error| refused(&segment_name(epoch), error))
    }

    /// Passes every entry from the checkpoint's `replay_from` on to `replay`, in LSN order, then
    /// starts the log's writer. The first append opens a new segment.
    pub async fn replay(
        mut self,
        replay: &mut Replay<'_>,
    ) -> Result<(Log, RecoveryReport), StoreError> {
        let tip = self.replay_all(replay).await?;
        let report = self.report.clone();
        Ok((self.start(tip), report))
    }

    pub(super) async fn replay_all(&mut self, replay: &mut Replay<'_>) -> Result<Tip, StoreError> {
        let from = self.from();
        let mut tip = Tip::default();
        if self.whole {
            self.replay_compacted(replay).await?;
        }
        for index in 0..self.started.len() {
            let next = self.started.get(index + 1).map(|next| next.segment.base);
            self.check_predecessor(index, from);
            if next.is_none_or(|next| next > from) {
                tip = self.replay_segment(index, replay).await?;
                self.executor.yield_now().await;
            }
        }
        Ok(tip)
    }

    fn replay_from(&self) -> u64 {
        self.checkpoint.map_or(0, |checkpoint| checkpoint.replay_from.0)
    }

    /// First LSN that is replayed.
    fn from(&self) -> u64 {
        match self.checkpoint {
            Some(checkpoint) if !self.whole => checkpoint.replay_from.0,
            _ => 0,
        }
    }

    /// From now on the checkpoint's pages are ignored: [`Recovered::replay`] passes every existing
    /// entry, pages too, compacted segments first.
    pub fn replay_everything(&mut self) {
        (self.whole, self.scan_from, self.report.rebuilt) = (true, Lsn(0), true);
    }

    /// Whether the checkpoint and the replayed entries are complete. Maybe not if its file is lost
    /// and another one is used: compaction has dropped entries that the other one needs.
    pub fn is_continuous(&self) -> bool {
        let from = self.from();
        let compacted = |segment: &Rc<Segment>| {
            matches!(segment.layout, Layout::Indexed(_)) && segment.end() > from
        };
        // A segment without live entries leaves no other trace than this.
        let gap = |(index, started): (usize, &Started)| {
            let before = index.checked_sub(1).map_or(0, |i| self.started[i].segment.epoch);
            let named = started.header.filter(|header| header.predecessor > before);
            named.is_some_and(|header| header.predecessor_end.0 > from)
        };
        !self.segments.values().any(compacted) && !self.started.iter().enumerate().any(gap)
    }

    /// Records a damaged place.
    fn damaged(&mut self, name: &str, offset: u64, what: impl Into<String>) {
        let damage = &mut self.report.damage;
        let place = (name.to_owned(), offset, what.into());
        if damage.len() < DAMAGE_MAX && !damage.contains(&place) {
            damage.push(place);
        }
    }

    /// Entries below `lsn` were lost, of unknown accounts.
    fn lost_below(&mut self, lsn: u64) {
        if lsn > self.from() {
            self.report.lost = self.report.lost.max(Lsn(lsn));
        }
    }

    fn lost_entry(&mut self, lsn: Lsn, header: Option<EntryHeader>) {
        self.lost_below(lsn.0 + 1);
        if let Some(header) = header
            && self.report.lost_entries.len() < DAMAGE_MAX
        {
            self.report.lost_entries.push((lsn, header));
        }
    }

    /// Passes the entries of compacted segments, which only a damaged start reads.
    async fn replay_compacted(&mut self, replay: &mut Replay<'_>) -> Result<(), StoreError> {
        let compacted = |segment: &&Rc<Segment>| matches!(segment.layout, Layout::Indexed(_));
        let segments: Vec<Rc<Segment>> =
            self.segments.values().filter(compacted).cloned().collect();
        for segment in segments {
            let file = segment.open(&*self.device).await?;
            let bytes = super::read_whole(&*file, segment.len.get(), 0, &*self.executor).await?;
            drop(file);
            // Its file stays closed: there may be many.
            segment.file.take();
            let scan = scan_compacted(&bytes).map_err(|error| refused(&segment.name, error))?;
            if let Some((_, error)) = scan.unknown.into_iter().next() {
                return Err(refused(&segment.name, error));
            }
            for (offset, what) in scan.damage {
                self.damaged(&segment.name, offset, what);
            }
            for record in scan.entries {
                let rest = &bytes[record.offset as usize..];
                let Ok(stored) = decode_header(rest, record.lsn) else { continue };
                match decode_payload(rest, &stored) {
                    Ok(payload) => {
                        self.replay_entry(record.lsn, &stored.header, payload, replay)?
                    }
                    Err(_) => self.lost_entry(record.lsn, Some(stored.header)),
                }
            }
            self.executor.yield_now().await;
        }
        Ok(())
    }

    fn replay_entry(
        &mut self,
        lsn: Lsn,
        header: &EntryHeader,
        payload: &[u8],
        replay: &mut Replay<'_>,
    ) -> Result<(), StoreError> {
        self.report.replayed_entries += 1;
        self.report.replayed_bytes += super::entry_len(payload.len()) as u64;
        replay(lsn, header, payload)
    }

    /// A missing segment between the checkpoint and the end is damage.
    fn check_predecessor(&mut self, index: usize, from: u64) {
        let Some(header) = self.started[index].header else { return };
        let before = index.checked_sub(1).map_or(0, |i| self.started[i].segment.epoch);
        // One that ended below may have been compacted, or deleted because nothing in it was live.
        if header.predecessor > before && header.predecessor_end.0 > from {
            let name = segment_name(header.predecessor);
            self.damaged(&name, 0, "segment file is missing");
            self.lost_below(header.predecessor_end.0);
        }
    }

    async fn replay_segment(
        &mut self,
        index: usize,
        replay: &mut Replay<'_>,
    ) -> Result<Tip, StoreError> {
        let started = &self.started[index];
        let (segment, len) = (started.segment.clone(), started.len);
        segment.live.set(Some(0));
        let successor = self.started.get(index + 1).and_then(|next| next.header);
        let successor = successor.filter(|header| header.predecessor == segment.epoch);
        let file = segment.open(&*self.device).await?;
        let (limit, durable) = match successor {
            Some(header) => {
                (header.predecessor_end.0.saturating_sub(segment.base), header.predecessor_end)
            }
            None => match self.cut {
                Some(cut) => (cut.end.saturating_sub(segment.base), Lsn(cut.end)),
                None => (u64::MAX, self.durable),
            },
        };
        let skip = self.skip(index);
        let len = len.min(limit).saturating_sub(skip);
        let bytes = file.read_at(skip, len as usize).await.map_err(failed)?;
        let scan = match self.started[index].header {
            Some(header) if skip > 0 => scan_batches(&bytes, header, skip, durable),
            _ => self.scan(&bytes, segment.epoch, durable)?,
        };
        self.report.tail_bytes += scan.tail as u64;
        for piece in &scan.pieces {
            self.replay_piece(&segment, &bytes, skip, piece, replay)?;
        }
        let end = segment.base + skip + scan.end as u64;
        self.lsn_next = self.lsn_next.max(end);
        if self.whole {
            segment.live.set(None);
        }
        if successor.is_none() {
            segment.len.set(segment.len.get().min(end - segment.base));
        }
        Ok(Tip { ended: Ended { epoch: segment.epoch, end }, chain: scan.chain })
    }

    /// How much of a segment can be skipped, because the checkpoint has it.
    fn skip(&self, index: usize) -> u64 {
        let started = &self.started[index];
        let skip = self.scan_from.0.saturating_sub(started.segment.base);
        let inside =
            skip >= BLOCK as u64 && skip.is_multiple_of(BLOCK as u64) && skip < started.len;
        if inside && started.header.is_some() { skip } else { 0 }
    }

    fn replay_piece(
        &mut self,
        segment: &Segment,
        bytes: &[u8],
        skip: u64,
        piece: &Piece,
        replay: &mut Replay<'_>,
    ) -> Result<(), StoreError> {
        let name = &segment.name;
        let from = self.from();
        let (start, end) = match piece {
            Piece::Damage { start, end, what } => {
                self.damaged(name, skip + *start as u64, what.clone());
                self.lost_below(segment.base + skip + *end as u64);
                (*start, *end)
            }
            Piece::DamagedBatch { start, end, what } => {
                self.damaged(name, skip + *start as u64, what.clone());
                (*start, *end)
            }
            Piece::Batch { start, end } => (*start, *end),
        };
        let payload = bytes.get(start..end).unwrap_or_default();
        let lsn = Lsn(segment.base + skip + start as u64);
        let found: &mut dyn Iterator<Item = _> = match piece {
            Piece::Damage { .. } => &mut entries_in_gap(payload, lsn),
            _ => &mut entries(payload, lsn),
        };
        for entry in found {
            if let (true, Some(header)) = (entry.corrected, entry.header) {
                let what = format!("entry header has a wrong bit: {header:?}");
                self.damaged(name, entry.lsn.0 - segment.base, what);
            }
            match (entry.header, entry.payload) {
                (_, Err(EntryError::Unknown { kind, version })) => {
                    return Err(refused(name, EntryError::Unknown { kind, version }));
                }
                (header, Err(error)) => {
                    let what = match header {
                        Some(header) => format!("{error}: {header:?}"),
                        None => error.to_string(),
                    };
                    self.damaged(name, entry.lsn.0 - segment.base, what);
                    self.lost_entry(entry.lsn, header);
                }
                (Some(header), Ok(payload)) if entry.lsn.0 >= from => {
                    if header.kind.may_stay() && self.checkpoint.is_none_or(|c| entry.lsn > c.root)
                    {
                        segment.add_live(super::entry_len(payload.len()) as i64);
                    }
                    self.replay_entry(entry.lsn, &header, payload, replay)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A state of the log that continues in a new segment, at an unused LSN: with the given epoch
    /// and LSN, or above.
    pub(super) fn state(mut self, tip: Tip, epoch: u64, lsn: u64) -> State {
        let root = self.checkpoint.map_or(0, |checkpoint| checkpoint.root.0);
        let behind_root = root + u64::from(root > 0);
        let base = align(self.lsn_next.max(self.replay_from()).max(behind_root).max(lsn));
        let epoch = self.epoch_next.max(epoch);
        let segment = Rc::new(Segment::new(epoch, base, self.executor.random()));
        self.segments.insert(base, segment.clone());
        State {
            segments: self.segments,
            sealed_below: base,
            epoch_next: epoch + 1,
            open: Batch::new(segment, 0, Vec::new()),
            closed: VecDeque::new(),
            flight: None,
            flight_since: Moment::default(),
            durable: base,
            abandoned: self.abandoned,
            buffered: 0,
            chain: tip.chain,
            batch_starts: VecDeque::new(),
            ended: tip.ended,
            checkpoint: self.checkpoint,
            checkpoint_sequence: self.checkpoint_sequence,
            checkpoint_next: self.checkpoint_next,
            checkpoint_files: self.checkpoint_files,
            trouble: None,
            lost: Vec::new(),
            generation: 0,
            closing: false,
            writer_ended: false,
            spare: Vec::new(),
            batch_guess: 0,
            open_files: VecDeque::new(),
            writer: None,
            waiters: Waiters::default(),
            room: Waiters::default(),
            probe: LogProbe::default(),
        }
    }

    fn start(self, tip: Tip) -> Log {
        let (device, executor) = (self.device.clone(), self.executor.clone());
        let (index_cache, options) = (self.index_cache.clone(), self.options.clone());
        let inner = Rc::new(Inner {
            device,
            executor: executor.clone(),
            index_cache,
            options,
            state: RefCell::new(self.state(tip, 0, 0)),
            on_durable: RefCell::new(None),
        });
        executor.spawn(Priority::Foreground, Box::pin(writer::run(inner.clone(), None)));
        Log(inner)
    }
}
