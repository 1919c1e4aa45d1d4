//! Writing compacted segments, and replacing their sources by them.
//!
//! Called by `store::compaction`, which knows what is live; one at a time. The order matters: the
//! new file is complete and durable before any read goes to it, reads go to it before a source is
//! deleted, and a source is deleted only when nobody reads from it any more. After a crash in
//! between, recovery distinguishes the files by the footer.

use std::{collections::BTreeMap, io, rc::Rc, time::Duration};

use hashbrown::HashMap;

use super::super::error::StoreError;
use super::{
    Index, Layout, Log, Segment,
    compacted::{CompactedFooter, CompactedHeader, IndexRecord, encode_index, index_place},
    entry::{ENTRY_HEADER, decode_header, decode_payload, entry_len},
    failed, no_segment,
};
use crate::{
    model::Lsn,
    plant::{Plant, planted},
    runtime::device::File,
};

/// Bytes written at once.
const WRITE_SIZE: usize = 256 * 1024;

/// Bytes of a source read at once.
const READ_SIZE: usize = 256 * 1024;

/// How often to check at once whether readers have released a source, since reads are short; and
/// the interval after that.
const PIN_YIELDS: u32 = 200;
const PIN_INTERVAL: Duration = Duration::from_millis(20);

/// A segment that is no longer written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedSegment {
    pub epoch: u64,
    /// LSNs it covers: `base..end`.
    pub base: Lsn,
    pub end: Lsn,
    /// Bytes of its file.
    pub len: u64,
    pub compacted: bool,
    /// Bytes of its entries believed to be in use; `None` if unknown.
    pub live: Option<u64>,
}

impl Log {
    /// The segments that are sealed and wholly below `horizon`, in LSN order.
    pub fn sealed_below(&self, horizon: Lsn) -> Vec<SealedSegment> {
        let state = self.0.state.borrow();
        let sealed = |segment: &&Rc<Segment>| {
            let written = match segment.layout {
                Layout::InPlace => segment.base < state.sealed_below,
                Layout::Indexed(_) => true,
            };
            written && segment.end() <= horizon.0
        };
        state.segments.values().filter(sealed).map(|segment| segment.describe()).collect()
    }

    /// The segment being filled, as far as it is written.
    pub fn filling(&self) -> SealedSegment {
        self.0.state.borrow().open.segment.describe()
    }

    /// Later entries go to a new segment, so that the one being filled can be compacted.
    pub fn seal(&self) {
        let state = &mut *self.0.state.borrow_mut();
        if state.refusal().is_none() && state.open.offset > 0 {
            state.close_batch(Some(self.0.executor.random()));
        }
    }

    /// Creates a segment that will replace `sources` and cover the LSNs `base..end`.
    pub async fn begin_compacted(
        &self,
        base: Lsn,
        end: Lsn,
        sources: Vec<u64>,
    ) -> Result<CompactedWriter, StoreError> {
        let epoch = self.0.state.borrow_mut().take_epoch();
        let header = CompactedHeader {
            partition: self.0.options.partition,
            epoch,
            base,
            end,
            nonce: self.0.executor.random(),
            sources,
        };
        let name = super::segment::segment_name(epoch);
        let device = &self.0.device;
        let file = device.create(&name, 0).await.map_err(failed)?;
        Ok(CompactedWriter {
            log: self.clone(),
            at: 0,
            buffer: Vec::with_capacity(WRITE_SIZE),
            records: Vec::new(),
            entry_bytes: 0,
            header,
            name,
            file,
        })
    }

    /// Replaces the segments `sources` by `replacement`, if there is one: reads go there from now
    /// on. [`Log::retire`] then deletes them.
    pub fn supersede(&self, sources: &[u64], replacement: Option<Compacted>) -> Retired {
        let state = &mut *self.0.state.borrow_mut();
        let mut retired = Vec::with_capacity(sources.len());
        state.segments.retain(|_, segment| {
            let stays = !sources.contains(&segment.epoch);
            if !stays {
                retired.push(segment.clone());
            }
            stays
        });
        state.open_files.retain(|segment| !sources.contains(&segment.epoch));
        if let Some(Compacted(segment)) = replacement {
            state.segments.insert(segment.base, segment);
        }
        Retired(retired)
    }

    /// Deletes superseded segments as soon as nobody reads from them. `go_on` is called while
    /// waiting; if it returns false, the rest stays until the next start, which handles it.
    ///
    /// Segments that never began go first. One that follows names its predecessor; without that, a
    /// start could take a torn first write for a damaged segment, in the place of others.
    ///
    /// # Errors
    /// The device's: files may be left over.
    pub async fn retire(
        &self,
        retired: Retired,
        go_on: &dyn Fn() -> bool,
    ) -> Result<u64, StoreError> {
        let device = &self.0.device;
        self.delete_abandoned().await?;
        // A crash must not undo an earlier deletion and keep a later one.
        device.sync_directory().await.map_err(failed)?;
        let mut deleted = 0;
        for segment in retired.0 {
            let mut looks = 0;
            while Rc::strong_count(&segment) > 1 {
                if !go_on() {
                    return Ok(deleted);
                }
                looks += 1;
                match looks {
                    ..=PIN_YIELDS => self.0.executor.yield_now().await,
                    _ => self.0.executor.sleep(PIN_INTERVAL).await,
                }
            }
            segment.file.take();
            match device.delete(&segment.name).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => deleted += 1,
            }
        }
        device.sync_directory().await.map_err(failed)?;
        Ok(deleted)
    }

    /// Base of the first segment behind `base` and below `end` that is not among `epochs`.
    fn first_other(&self, base: u64, end: u64, epochs: &[u64]) -> Option<u64> {
        let state = self.0.state.borrow();
        let mut inside = state.segments.range(base + 1..end.max(base + 1));
        let other = inside.find(|(_, segment)| !epochs.contains(&segment.epoch));
        other.map(|(base, _)| *base)
    }

    async fn delete_abandoned(&self) -> Result<(), StoreError> {
        let abandoned = self.0.state.borrow().abandoned.clone();
        for epoch in &abandoned {
            match self.0.device.delete(&super::segment::segment_name(*epoch)).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        self.0.state.borrow_mut().abandoned.retain(|epoch| !abandoned.contains(epoch));
        Ok(())
    }

    /// Reads entries of one sealed segment in order.
    pub fn source(&self, epoch: u64) -> Result<SourceReader, StoreError> {
        let state = self.0.state.borrow();
        let found = state.segments.values().find(|segment| segment.epoch == epoch).cloned();
        let segment = found.ok_or_else(|| no_segment(Lsn(0)))?;
        Ok(SourceReader { log: self.clone(), segment, window: Vec::new(), window_at: 0 })
    }

    /// Segment files and their bytes.
    pub fn disk_usage(&self) -> (usize, u64) {
        let state = self.0.state.borrow();
        let written = state.segments.values().map(|segment| segment.len.get());
        written.filter(|len| *len > 0).fold((0, 0), |(files, bytes), len| (files + 1, bytes + len))
    }

    /// `bytes` of entries at `lsn` are believed to be unused now.
    pub fn release(&self, lsn: Lsn, bytes: u32) {
        self.count(lsn, -i64::from(bytes));
    }

    /// Another reference to the entry at `lsn`.
    pub fn retain(&self, lsn: Lsn, bytes: u32) {
        self.count(lsn, i64::from(bytes));
    }

    fn count(&self, lsn: Lsn, bytes: i64) {
        if let Some(segment) = segment_of_any(&self.0.state.borrow().segments, lsn) {
            segment.add_live(bytes);
        }
    }

    /// As [`Log::release`] and, negative, [`Log::retain`], for `bytes` of chunks appended before
    /// the entry at `lsn`.
    pub fn release_before(&self, lsn: Lsn, bytes: i64) {
        let state = self.0.state.borrow();
        let mut left = bytes;
        for segment in state.segments.range(..=lsn.0).rev().map(|(_, segment)| segment) {
            let room = (lsn.0 - segment.base).min(segment.len.get()) as i64;
            let here = left.clamp(-room, room);
            segment.add_live(-here);
            left -= here;
            if left == 0 {
                break;
            }
        }
    }

    /// What a mark pass found to be in use, by epoch.
    pub fn set_live(&self, found: &HashMap<u64, u64>) {
        for segment in self.0.state.borrow().segments.values() {
            if let Some(live) = found.get(&segment.epoch) {
                segment.live.set(Some(*live as i64));
            }
        }
    }

    /// The estimates, by epoch, for the next start.
    pub fn estimates(&self) -> Vec<(u64, u64)> {
        let state = self.0.state.borrow();
        let known = state.segments.values().map(|segment| segment.describe());
        known.filter_map(|segment| Some((segment.epoch, segment.live?))).collect()
    }

    /// Takes the estimates of [`Log::estimates`] from before `root` was written. Later entries were
    /// counted by the replay; a segment that began before and is not listed is unknown.
    pub fn adopt_estimates(&self, estimates: &[(u64, u64)], root: Lsn) {
        let listed: HashMap<u64, u64> = estimates.iter().copied().collect();
        let state = self.0.state.borrow();
        for segment in state.segments.values().filter(|segment| segment.base <= root.0) {
            let since = segment.live.get().unwrap_or(0);
            segment.live.set(listed.get(&segment.epoch).map(|live| *live as i64 + since));
        }
    }
}

/// As [`segment_of`], for the segment being filled too: it has no end yet.
fn segment_of_any(segments: &BTreeMap<u64, Rc<Segment>>, lsn: Lsn) -> Option<&Rc<Segment>> {
    segments.range(..=lsn.0).next_back().map(|(_, segment)| segment)
}

impl Segment {
    /// Unknown stays unknown.
    pub(super) fn add_live(&self, bytes: i64) {
        self.live.set(self.live.get().map(|live| live.saturating_add(bytes)));
    }

    fn describe(&self) -> SealedSegment {
        SealedSegment {
            epoch: self.epoch,
            base: Lsn(self.base),
            end: Lsn(self.end()),
            len: self.len.get(),
            compacted: matches!(self.layout, Layout::Indexed(_)),
            live: self.live.get().map(|live| live.clamp(0, self.len.get() as i64) as u64),
        }
    }
}

/// Segments removed from the table, whose files still exist.
#[must_use]
pub struct Retired(Vec<Rc<Segment>>);

/// A complete, durable compacted segment that is not read yet.
#[must_use]
pub struct Compacted(Rc<Segment>);

impl Compacted {
    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        self.0.len.get()
    }

    /// Bytes of its entries that are in use for longer than a session.
    pub fn set_live(&self, bytes: u64) {
        self.0.live.set(Some(bytes as i64));
    }
}

/// A compacted segment being written.
pub struct CompactedWriter {
    log: Log,
    header: CompactedHeader,
    name: String,
    file: Rc<dyn File>,
    /// Offset in the file of `buffer`.
    at: u64,
    buffer: Vec<u8>,
    records: Vec<IndexRecord>,
    entry_bytes: u64,
}

impl CompactedWriter {
    /// Writes the header first: a file without one never began.
    pub async fn begin(&mut self) -> Result<(), StoreError> {
        self.buffer = self.header.encode();
        self.write().await?;
        self.file.sync().await.map_err(failed)?;
        self.log.0.device.sync_directory().await.map_err(failed)
    }

    /// Adds an entry from [`SourceReader::entry`]. LSNs ascend.
    pub async fn push(&mut self, lsn: Lsn, entry: &[u8]) -> Result<(), StoreError> {
        let offset = self.at + self.buffer.len() as u64;
        self.records.push(IndexRecord { lsn, offset, len: entry.len() as u32 });
        self.buffer.extend_from_slice(entry);
        self.entry_bytes += entry.len() as u64;
        match self.buffer.len() >= WRITE_SIZE {
            true => self.write().await,
            false => Ok(()),
        }
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        let bytes = std::mem::take(&mut self.buffer);
        let len = bytes.len() as u64;
        let (outcome, mut buffer) = self.file.append(self.at, bytes).await;
        outcome.map_err(failed)?;
        self.at += len;
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    /// Drops the entries from `lsn` on: their source turned out to be damaged and stays.
    pub fn cut(&mut self, lsn: Lsn) {
        let kept = self.records.partition_point(|record| record.lsn < lsn);
        let cut: u64 = self.records.drain(kept..).map(|record| u64::from(record.len)).sum();
        self.entry_bytes -= cut;
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Completes the file: it covers the LSNs up to `end` and replaces `sources`, which may be
    /// fewer than at the beginning. A segment that begins before `end` and is not among them keeps
    /// its LSNs, which a start would take from it otherwise.
    ///
    /// # Errors
    /// The device's; the file must then be abandoned.
    pub async fn finish(&mut self, end: Lsn, sources: Vec<u64>) -> Result<Compacted, StoreError> {
        let end = match self.log.first_other(self.header.base.0, end.0, &sources) {
            None => end,
            Some(other) => {
                self.cut(Lsn(other));
                Lsn(other)
            }
        };
        (self.header.end, self.header.sources) = (end, sources);
        let index_at = index_place(self.at + self.buffer.len() as u64);
        self.buffer.resize((index_at - self.at) as usize, 0);
        let index = encode_index(&self.records, self.header.nonce);
        for piece in index.chunks(WRITE_SIZE) {
            self.buffer.extend_from_slice(piece);
            self.write().await?;
        }
        if !self.buffer.is_empty() {
            self.write().await?;
        }
        self.sync().await?;
        let footer = CompactedFooter {
            header: self.header.clone(),
            index_at,
            entries: self.records.len() as u64,
            entry_bytes: self.entry_bytes,
        };
        self.buffer = footer.encode();
        self.write().await?;
        self.sync().await?;
        let segment = Segment::compacted(self.name.clone(), &footer, self.at);
        segment.live.set(Some(self.entry_bytes as i64));
        Ok(Compacted(Rc::new(segment)))
    }

    async fn sync(&self) -> Result<(), StoreError> {
        if planted(Plant::SkipCompactedSync) {
            return Ok(());
        }
        self.file.sync().await.map_err(failed)
    }

    /// Deletes the file.
    ///
    /// # Errors
    /// The device's: the file is left over, and the next start deletes it. Nothing must be
    /// compacted before that.
    pub async fn abandon(self) -> Result<(), StoreError> {
        drop(self.file);
        self.log.0.device.delete(&self.name).await.map_err(failed)
    }
}

/// Bytes of a compacted file whose entries end at `offset`.
pub fn compacted_len(offset: u64, entries: u64) -> u64 {
    let block = super::segment::BLOCK as u64;
    let blocks = entries.div_ceil(super::compacted::INDEX_RECORDS as u64);
    index_place(offset) + (blocks + 1) * block
}

/// Reads verified entries of one segment in ascending order, a piece of the file at a time.
/// Prevents the segment from being deleted.
pub struct SourceReader {
    log: Log,
    segment: Rc<Segment>,
    window: Vec<u8>,
    window_at: u64,
}

impl SourceReader {
    pub fn name(&self) -> &str {
        &self.segment.name
    }

    /// The entry at `lsn` as it is in the file, padding included.
    ///
    /// # Errors
    /// `Corrupt` if its checksums are wrong or there is no entry.
    pub async fn entry(&mut self, lsn: Lsn) -> Result<&[u8], StoreError> {
        let inner = self.log.0.clone();
        let offset = self.segment.locate(&*inner.device, &inner.index_cache, lsn).await?;
        self.fetch(offset, ENTRY_HEADER).await?;
        let segment = self.segment.clone();
        let stored = decode_header(self.at(offset, ENTRY_HEADER), lsn)
            .map_err(|error| segment.corrupt(lsn.0, error))?;
        let len = entry_len(stored.payload_len);
        self.fetch(offset, len).await?;
        let bytes = self.at(offset, len);
        decode_payload(bytes, &stored).map_err(|error| segment.corrupt(lsn.0, error))?;
        match bytes.len() == len {
            true => Ok(bytes),
            false => Err(segment.corrupt(lsn.0, "entry is cut short")),
        }
    }

    /// Up to `len` fetched bytes at `offset`.
    fn at(&self, offset: u64, len: usize) -> &[u8] {
        let start = (offset - self.window_at) as usize;
        let end = self.window.len().min(start + len);
        &self.window[start.min(end)..end]
    }

    async fn fetch(&mut self, offset: u64, len: usize) -> Result<(), StoreError> {
        let end = self.window_at + self.window.len() as u64;
        if offset >= self.window_at && offset + len as u64 <= end {
            return Ok(());
        }
        let file = self.segment.open(&*self.log.0.device).await?;
        self.window = file.read_at(offset, len.max(READ_SIZE)).await.map_err(failed)?;
        self.window_at = offset;
        Ok(())
    }
}

impl Segment {
    /// A complete compacted segment, according to its footer.
    pub(super) fn compacted(name: String, footer: &CompactedFooter, len: u64) -> Segment {
        let layout = Layout::Indexed(Index::new(footer));
        let header = &footer.header;
        Segment::found(header.epoch, header.base.0, name, layout, len)
    }
}
