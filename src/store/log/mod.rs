//! The partition log: an entry in it is durable; an entry that is not in it never happened.
//!
//! Called by the account and mailbox state above it, which appends entries, is notified by
//! [`Log::on_durable`] when they are on stable storage, and gets them back in order at start.
//!
//! An entry's LSN is its segment's base LSN plus its offset in the file, so finding an entry needs
//! no index, only the table of segments; compaction (`compact`) moves entries and keeps their LSNs,
//! so a compacted segment has an index on disk (`index`). Appending is synchronous: one copy and
//! one checksum into the open batch. One writer task (`writer`) writes and syncs a batch while the
//! next one fills.
//!
//! Shard-local; clones share the log. Invariants:
//! - LSNs only grow, and none is given to two entries, across restarts too.
//! - `durable <= written <= appended`; an entry is not acknowledged before it is below `durable`.
//! - After a failed write or sync the log accepts nothing: that batch's outcome is unknown. It may
//!   be reopened in place (`reopen`), which cuts off entries not known to be durable.
//! - No borrow of the state is held across an await or a callback.

mod ahead;
mod check;
mod checkpoint;
mod compact;
mod compacted;
mod entry;
mod index;
mod recovery;
mod reopen;
mod resync;
mod scan;
mod segment;
mod survey;
#[cfg(test)]
mod tests;
mod wait;
mod writer;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::{Future, poll_fn},
    io,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use bytes::Bytes;

pub use self::{
    ahead::Ahead,
    check::{
        Checked, CheckpointRecord, Dissection, Flaw, ListedBatch, ListedEntry, check_checkpoint,
        checkpoint_of_name, decode_checkpoint, dissect, epoch_of_name, partition_of_file,
    },
    compact::{CompactedWriter, SealedSegment, compacted_len},
    compacted::{CompactedHeader, CompactedScan, IndexRecord, SOURCES_MAX, scan_compacted},
    entry::{ENTRY_PAYLOAD_MAX, EntryError, EntryHeader, EntryKind, entry_len},
    recovery::{Recovered, Replay},
    reopen::Reopened,
    scan::{Expected, Piece, SegmentScan, scan_segment},
    segment::{BatchHeader, HeaderError, SegmentHeader},
    segment::{segment_epoch, segment_name, version_of_file},
};
use self::{
    entry::{ENTRY_HEADER, decode_header, decode_payload, payload_start},
    index::{Index, IndexCache},
    segment::{BATCH_HEADER, BATCH_TARGET, BLOCK, align},
    wait::Waiters,
};
use super::error::StoreError;
use crate::{
    model::{Lsn, Moment, PartitionId},
    runtime::{
        device::{Device, File},
        executor::Executor,
    },
};

/// Segment files kept open for reading; the one opened first is closed for another.
const OPEN_FILES_MAX: usize = 256;

/// Least and most memory for a batch before its size is known.
const BATCH_RESERVE: std::ops::RangeInclusive<usize> = 16 * 1024..=1024 * 1024;

/// Log bytes between two batch starts that are remembered for the next checkpoint.
const SCAN_STEP: u64 = 16 * 1024;

/// Bytes that [`Log::read`] fetches before it knows how long the entry is.
const READ_AHEAD: usize = 8 * 1024;

/// Sizes of one log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    pub partition: PartitionId,
    /// Bytes at which a segment is sealed; a longer batch gets its own segment.
    pub segment_size: u64,
    /// Bytes not yet durable at which [`Log::room`] makes appenders wait.
    pub write_buffer: usize,
}

/// A state of everything above the log, written to the log itself.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Checkpoint {
    /// The entry that names all pages.
    pub root: Lsn,
    /// The first entry whose effect the pages lack.
    pub replay_from: Lsn,
}

/// The result of opening; `ringmail serve` logs it.
#[derive(Debug, Default, Clone)]
pub struct RecoveryReport {
    pub segments: usize,
    pub replayed_bytes: u64,
    pub replayed_entries: u64,
    /// Bytes of torn, unacknowledged tail ignored.
    pub tail_bytes: u64,
    /// Damaged batches below a durable LSN: (segment, offset, what).
    pub damage: Vec<(String, u64, String)>,
    /// Entries that damage made unreadable, with their headers.
    pub lost_entries: Vec<(Lsn, EntryHeader)>,
    /// Effects below were lost, of any account; 0 if none.
    pub lost: Lsn,
    /// The pages between the checkpoint and the accounts were damaged: all segments were read
    /// instead.
    pub rebuilt: bool,
}

/// Counters since the log was opened.
#[derive(Clone, Copy, Default, Debug)]
pub struct LogProbe {
    pub syncs: u64,
    pub batches: u64,
    pub entries: u64,
    pub bytes_written: u64,
    pub segments: u64,
    /// How often the log was reopened after a failure.
    pub reopened: u64,
    pub checkpoints: u64,
}

/// Called after each sync: everything below the LSN is durable; or why nothing more will be.
pub type DurableCallback = Rc<dyn Fn(Result<Lsn, StoreError>)>;

/// A partition's log. Cheap to clone; shard-local.
#[derive(Clone)]
pub struct Log(Rc<Inner>);

struct Inner {
    device: Rc<dyn Device>,
    executor: Rc<dyn Executor>,
    options: LogOptions,
    index_cache: Rc<IndexCache>,
    state: RefCell<State>,
    on_durable: RefCell<Option<DurableCallback>>,
}

struct State {
    /// By base LSN. The last one is being filled.
    segments: BTreeMap<u64, Rc<Segment>>,
    /// Segments of this layout with a lower base are no longer written.
    sealed_below: u64,
    /// An epoch above all that were used, those of compacted segments included.
    epoch_next: u64,
    /// Takes appends. Its headers are filled in when it is written.
    open: Batch,
    /// Closed because full, oldest first; waiting for the writer. After a failure: lost, and still
    /// readable.
    closed: VecDeque<Batch>,
    /// LSNs of the batch being written: its bytes are with the device.
    flight: Option<(u64, u64)>,
    /// When it was handed over.
    flight_since: Moment,
    /// Everything below is on stable storage.
    durable: u64,
    /// Files of segments that never began, to be deleted before any that follows them.
    abandoned: Vec<u64>,
    /// Bytes appended and not yet durable.
    buffered: usize,
    /// Header checksum of the last written batch.
    chain: u32,
    /// Starts of batches, about one in [`SCAN_STEP`] bytes, since the last checkpoint.
    batch_starts: VecDeque<u64>,
    /// Where the last written segment ended, for its successor's header.
    ended: Ended,
    checkpoint: Option<Checkpoint>,
    /// Its file's number.
    checkpoint_sequence: u64,
    /// A number that no checkpoint file has had.
    checkpoint_next: u64,
    /// Checkpoint files that exist, or may exist.
    checkpoint_files: BTreeSet<u64>,
    /// Why nothing is accepted now.
    trouble: Option<StoreError>,
    /// LSNs whose entries were lost in a failure.
    lost: Vec<(u64, u64)>,
    /// How often the log was reopened after failures.
    generation: u64,
    closing: bool,
    writer_ended: bool,
    /// Buffers of written batches, for reuse.
    spare: Vec<Vec<u8>>,
    /// Expected size of the next batch: that of the last one.
    batch_guess: usize,
    /// Segments opened for reading, oldest first.
    open_files: VecDeque<Rc<Segment>>,
    writer: Option<Waker>,
    waiters: Waiters,
    room: Waiters,
    probe: LogProbe,
}

/// One file of the log and the LSNs it holds.
struct Segment {
    epoch: u64,
    base: u64,
    nonce: u64,
    name: String,
    layout: Layout,
    /// Bytes written to the file.
    len: Cell<u64>,
    /// Bytes of entries believed to be in use: an estimate that may exceed its bounds for a while.
    /// `None` if unknown.
    live: Cell<Option<i64>>,
    /// Open once it was read or written.
    file: RefCell<Option<Rc<dyn File>>>,
}

/// How an entry is located in a segment.
enum Layout {
    /// At LSN - base.
    InPlace,
    /// By the index at the end of the file.
    Indexed(Index),
}

/// Bytes for one write: complete blocks, including the segment's header if they open a segment.
struct Batch {
    segment: Rc<Segment>,
    /// Offset of `bytes` in the file; 0 if it opens the segment.
    offset: u64,
    bytes: Vec<u8>,
    /// Entries in it and their bytes.
    entries: u32,
    payload: usize,
}

/// The last written segment, for its successor's header.
#[derive(Clone, Copy, Default)]
struct Ended {
    epoch: u64,
    end: u64,
}

impl Batch {
    /// An empty batch at `offset`, with room for its headers.
    fn new(segment: Rc<Segment>, offset: u64, mut bytes: Vec<u8>) -> Batch {
        bytes.clear();
        bytes.resize(if offset == 0 { BLOCK + BATCH_HEADER } else { BATCH_HEADER }, 0);
        Batch { segment, offset, bytes, entries: 0, payload: 0 }
    }

    /// Position of the batch header in `bytes`.
    fn header_at(&self) -> usize {
        if self.offset == 0 { BLOCK } else { 0 }
    }

    /// LSN of the first of `bytes`.
    fn start(&self) -> u64 {
        self.segment.base + self.offset
    }

    /// LSN after the last of `bytes`: where the next entry goes.
    fn next(&self) -> u64 {
        self.start() + self.bytes.len() as u64
    }

    /// Offset in the file of the block after this batch.
    fn end_offset(&self) -> u64 {
        align(self.offset + self.bytes.len() as u64)
    }
}

impl State {
    /// Moves the open batch to the writer's queue and opens the next one behind it, in a new
    /// segment if its nonce is given.
    fn close_batch(&mut self, new_segment: Option<u64>) {
        let (mut segment, mut offset) = (self.open.segment.clone(), self.open.end_offset());
        if let Some(nonce) = new_segment {
            let end = segment.base + offset;
            segment = Rc::new(Segment::new(self.take_epoch(), end, nonce));
            self.segments.insert(end, segment.clone());
            offset = 0;
        }
        let buffer = self.spare.pop().unwrap_or_default();
        let closed = std::mem::replace(&mut self.open, Batch::new(segment, offset, buffer));
        if closed.entries > 0 {
            self.closed.push_back(closed);
        } else if self.spare.is_empty() {
            self.spare.push(closed.bytes);
        }
    }

    /// An unused epoch.
    fn take_epoch(&mut self) -> u64 {
        let epoch = self.epoch_next;
        self.epoch_next += 1;
        epoch
    }

    fn refusal(&self) -> Option<StoreError> {
        match &self.trouble {
            Some(StoreError::Full) => Some(StoreError::Full),
            Some(_) => Some(StoreError::Poisoned),
            None if self.closing => Some(StoreError::Poisoned),
            None => None,
        }
    }

    /// The last remembered start of a batch at or below `lsn`, 0 if there is none; earlier ones are
    /// dropped.
    fn batch_before(&mut self, lsn: Lsn) -> u64 {
        while self.batch_starts.get(1).is_some_and(|next| *next <= lsn.0) {
            self.batch_starts.pop_front();
        }
        self.batch_starts.front().copied().filter(|start| *start <= lsn.0).unwrap_or(0)
    }

    /// Counts a file opened for reading, and closes another if there are too many. A reader that is
    /// using that one holds it open a little longer.
    fn opened(&mut self, segment: Rc<Segment>) {
        self.open_files.push_back(segment);
        if self.open_files.len() > OPEN_FILES_MAX
            && let Some(oldest) = self.open_files.pop_front()
        {
            oldest.file.take();
        }
    }

    /// Whether the entry at `lsn` is durable, or never will be.
    fn settled(&self, lsn: Lsn) -> Option<Result<(), StoreError>> {
        if self.is_lost(lsn.0) {
            return Some(Err(StoreError::Poisoned));
        }
        if lsn.0 < self.durable {
            return Some(Ok(()));
        }
        self.trouble.clone().map(Err)
    }

    fn is_lost(&self, lsn: u64) -> bool {
        self.lost.iter().any(|(start, end)| (*start..*end).contains(&lsn))
    }

    /// The batch still in memory that holds `lsn`.
    fn buffer_of(&self, lsn: u64) -> Option<&Batch> {
        let holds = |batch: &&Batch| (batch.start()..batch.next()).contains(&lsn);
        std::iter::once(&self.open).chain(&self.closed).find(holds)
    }
}

impl Segment {
    /// A segment to be filled.
    fn new(epoch: u64, base: u64, nonce: u64) -> Segment {
        let name = segment::segment_name(epoch);
        let fresh = Segment::found(epoch, base, name, Layout::InPlace, 0);
        Segment { nonce, live: Cell::new(Some(0)), ..fresh }
    }

    /// A read-only segment.
    fn found(epoch: u64, base: u64, name: String, layout: Layout, len: u64) -> Segment {
        let (len, live, file) = (Cell::new(len), Cell::new(None), RefCell::new(None));
        Segment { epoch, base, nonce: 0, name, layout, len, live, file }
    }

    /// The first LSN that it does not cover.
    fn end(&self) -> u64 {
        match &self.layout {
            Layout::InPlace => self.base + align(self.len.get()),
            Layout::Indexed(index) => index.end,
        }
    }

    /// Offset in the file of the entry at `lsn`.
    async fn locate(
        &self,
        device: &dyn Device,
        cache: &IndexCache,
        lsn: Lsn,
    ) -> Result<u64, StoreError> {
        match &self.layout {
            Layout::InPlace => Ok(lsn.0 - self.base),
            Layout::Indexed(index) => match index.find(self, device, cache, lsn).await? {
                Some(record) => Ok(record.offset),
                None => Err(self.corrupt(lsn.0, "compaction did not keep this entry")),
            },
        }
    }

    fn corrupt(&self, lsn: u64, what: impl ToString) -> StoreError {
        StoreError::Corrupt {
            segment: self.name.clone(),
            offset: lsn.saturating_sub(self.base),
            what: what.to_string(),
        }
    }

    /// The file for reading, opened at first use.
    async fn open(&self, device: &dyn Device) -> Result<Rc<dyn File>, StoreError> {
        let open = self.file.borrow().clone();
        if let Some(file) = open {
            return Ok(file);
        }
        let file = device.open(&self.name).await.map_err(failed)?;
        Ok(self.file.borrow_mut().get_or_insert(file).clone())
    }
}

/// Disk full is the only failure with its own error.
fn failed(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Io(error.into()),
    }
}

/// Bytes of a file read at once: about as many as may be copied without holding the shard.
const READ_PIECE: usize = 512 * 1024;

/// The first `len` bytes of `file`, or all there are; yields in between. At most `rate` bytes a
/// second, 0 = no limit.
async fn read_whole(
    file: &dyn File,
    len: u64,
    rate: u64,
    executor: &dyn Executor,
) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::with_capacity(len as usize);
    while (bytes.len() as u64) < len {
        let wanted = READ_PIECE.min(len as usize - bytes.len());
        let piece = file.read_at(bytes.len() as u64, wanted).await.map_err(failed)?;
        if piece.is_empty() {
            break;
        }
        bytes.extend_from_slice(&piece);
        match rate {
            0 => executor.yield_now().await,
            rate => executor.sleep(time_for(piece.len() as u64, rate)).await,
        }
    }
    Ok(bytes)
}

/// How long `bytes` take at `rate` bytes a second.
pub(super) fn time_for(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Log {
    /// Reads as much of `device` as is needed to find the last checkpoint; see [`Recovered`].
    pub async fn recover(
        device: Rc<dyn Device>,
        executor: Rc<dyn Executor>,
        options: LogOptions,
    ) -> Result<Recovered, StoreError> {
        Recovered::find(device, executor, options, Rc::default(), None).await
    }

    /// Appends an entry to the open batch and returns its LSN. It is durable, and may be
    /// acknowledged, only once [`Log::durable`] resolves. The payload may come in parts.
    ///
    /// # Errors
    /// `Limit` if longer than [`ENTRY_PAYLOAD_MAX`]; `Poisoned` or `Full` after a failure.
    pub fn append(&self, header: EntryHeader, payload: &[&[u8]]) -> Result<Lsn, StoreError> {
        let state = &mut *self.0.state.borrow_mut();
        if let Some(refusal) = state.refusal() {
            return Err(refusal);
        }
        let payload_len = payload.iter().map(|part| part.len()).sum();
        if payload_len > ENTRY_PAYLOAD_MAX {
            return Err(StoreError::Limit("bytes of a log entry"));
        }
        let len = entry_len(payload_len);
        let open = &state.open;
        let end = open.offset + (open.bytes.len() + len) as u64;
        let fresh = open.offset == 0 && open.entries == 0;
        if end > self.0.options.segment_size && !fresh {
            state.close_batch(Some(self.0.executor.random()));
        } else if open.entries > 0 && open.bytes.len() + len > BATCH_TARGET {
            state.close_batch(None);
        }
        if state.open.entries == 0 {
            let (least, most) = BATCH_RESERVE.into_inner();
            state.open.bytes.reserve(state.batch_guess.clamp(least, most));
        }
        let lsn = Lsn(state.open.next());
        assert!(lsn.0 >= state.durable, "{lsn:?} is below what is durable, {}", state.durable);
        entry::encode(&mut state.open.bytes, lsn, &header, payload);
        state.open.entries += 1;
        if header.kind.may_stay() {
            state.open.segment.add_live(len as i64);
        }
        state.open.payload += len;
        state.buffered += len;
        state.probe.entries += 1;
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        Ok(lsn)
    }

    /// The lowest possible LSN of the next entry.
    pub fn next_lsn(&self) -> Lsn {
        Lsn(self.0.state.borrow().open.next())
    }

    /// All entries below are on stable storage.
    pub fn durable_lsn(&self) -> Lsn {
        Lsn(self.0.state.borrow().durable)
    }

    /// Backpressure: waits until fewer than `write_buffer` bytes are not yet durable. Cancel-safe.
    pub async fn room(&self) -> Result<(), StoreError> {
        let write_buffer = self.0.options.write_buffer;
        wait(
            &self.0,
            |state| &mut state.room,
            0,
            |state| match state.refusal() {
                Some(refusal) => Some(Err(refusal)),
                None => (state.buffered < write_buffer).then_some(Ok(())),
            },
        )
        .await
    }

    /// Resolves when the entry at `lsn` is on stable storage, or will never be known to be.
    /// Cancel-safe.
    pub fn durable(&self, lsn: Lsn) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let inner = self.0.clone();
        let settled = move |state: &mut State| state.settled(lsn);
        async move { wait(&inner, |state| &mut state.waiters, lsn.0, settled).await }
    }

    /// Sets the one callback. The writer calls it right after each sync and before the waiters of
    /// [`Log::durable`] run, so that their results are already visible; and once with the error
    /// when the log fails.
    pub fn on_durable(&self, callback: DurableCallback) {
        *self.0.on_durable.borrow_mut() = Some(callback);
    }

    /// The entry at `lsn`, checksums verified. Entries not yet durable can be read too.
    pub async fn read(&self, lsn: Lsn) -> Result<(EntryHeader, Bytes), StoreError> {
        self.read_guess(lsn, READ_AHEAD).await
    }

    /// As [`Log::read`], in a single device read, for callers that know the payload's length
    /// (`entry_len` = [`entry_len`] of it).
    pub async fn read_sized(
        &self,
        lsn: Lsn,
        entry_len: u32,
    ) -> Result<(EntryHeader, Bytes), StoreError> {
        self.read_guess(lsn, entry_len as usize).await
    }

    /// The first `wanted` bytes of the payload of the entry at `lsn`, or all of a shorter one. Only
    /// the entry's header is verified: the caller has a checksum for the rest.
    pub async fn read_start(&self, lsn: Lsn, wanted: usize) -> Result<Bytes, StoreError> {
        Ok(self.read_part(lsn, ENTRY_HEADER + wanted, Some(wanted)).await?.1)
    }

    /// `len` bytes from `offset` of the payload of the entry at `lsn`, unverified: the caller has a
    /// checksum for them. Fewer if the file ends.
    pub async fn read_range(
        &self,
        lsn: Lsn,
        offset: usize,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        let segment = loop {
            match self.find(lsn)? {
                Place::Memory(_, payload) => {
                    let start = offset.min(payload.len());
                    let end = offset.saturating_add(len).min(payload.len());
                    return Ok(payload.slice(start..end));
                }
                Place::Flight => self.landed(lsn).await,
                Place::Disk(segment) => break segment,
            }
        };
        let device = &*self.0.device;
        let at = segment.locate(device, &self.0.index_cache, lsn).await?;
        let opens = segment.file.borrow().is_none();
        let file = segment.open(device).await?;
        let bytes = file.read_at(at + (ENTRY_HEADER + offset) as u64, len).await.map_err(failed)?;
        self.note_opened(opens, segment);
        Ok(Bytes::from(bytes))
    }

    /// Counts a segment whose file was opened for reading.
    fn note_opened(&self, opens: bool, segment: Rc<Segment>) {
        if opens {
            let state = &mut *self.0.state.borrow_mut();
            // Not if compaction has replaced it meanwhile: then it must not be held open.
            if state.segments.get(&segment.base).is_some_and(|now| Rc::ptr_eq(now, &segment)) {
                state.opened(segment);
            }
        }
    }

    async fn read_guess(&self, lsn: Lsn, guess: usize) -> Result<(EntryHeader, Bytes), StoreError> {
        self.read_part(lsn, guess, None).await
    }

    /// `guess` is how many bytes to fetch at first. With `start`, that much of the payload,
    /// unverified.
    async fn read_part(
        &self,
        lsn: Lsn,
        guess: usize,
        start: Option<usize>,
    ) -> Result<(EntryHeader, Bytes), StoreError> {
        let segment = loop {
            match self.find(lsn)? {
                Place::Memory(header, payload) => {
                    let end = start.unwrap_or(payload.len()).min(payload.len());
                    return Ok((header, payload.slice(..end)));
                }
                Place::Flight => self.landed(lsn).await,
                Place::Disk(segment) => break segment,
            }
        };
        let opens = segment.file.borrow().is_none();
        let inner = &self.0;
        let entry =
            read_entry(&*inner.device, &inner.index_cache, &segment, lsn, guess, start).await;
        self.note_opened(opens, segment);
        entry
    }

    fn find(&self, lsn: Lsn) -> Result<Place, StoreError> {
        let state = self.0.state.borrow();
        if state.is_lost(lsn.0) {
            return Err(StoreError::Poisoned);
        }
        if let Some(batch) = state.buffer_of(lsn.0) {
            let bytes = &batch.bytes[(lsn.0 - batch.start()) as usize..];
            let entry = decode_header(bytes, lsn)
                .and_then(|stored| Ok((stored.header, decode_payload(bytes, &stored)?)));
            let (header, payload) = entry.map_err(|error| batch.segment.corrupt(lsn.0, error))?;
            return Ok(Place::Memory(header, Bytes::copy_from_slice(payload)));
        }
        if state.flight.is_some_and(|(start, end)| (start..end).contains(&lsn.0)) {
            return Ok(Place::Flight);
        }
        if state.trouble.is_some() && lsn.0 >= state.durable {
            return Err(StoreError::Poisoned);
        }
        match segment_of(&state.segments, lsn) {
            Some(segment) => Ok(Place::Disk(segment)),
            None => Err(no_segment(lsn)),
        }
    }

    /// Waits until the batch that holds `lsn` is no longer with the device.
    async fn landed(&self, lsn: Lsn) {
        wait(
            &self.0,
            |state| &mut state.waiters,
            lsn.0,
            |state| {
                let flying = state.flight.is_some_and(|(start, end)| (start..end).contains(&lsn.0));
                (!flying || state.trouble.is_some()).then_some(())
            },
        )
        .await;
    }

    /// The checkpoint that a start would use now.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.0.state.borrow().checkpoint
    }

    /// Log bytes that a start would replay now: those appended since the last checkpoint began.
    pub fn bytes_since_checkpoint(&self) -> u64 {
        let state = self.0.state.borrow();
        let from = state.checkpoint.map_or(0, |checkpoint| checkpoint.replay_from.0);
        state.open.next().saturating_sub(from)
    }

    /// The error that an append would return.
    pub fn refusal(&self) -> Option<StoreError> {
        self.0.state.borrow().refusal()
    }

    /// Since when the device has been writing the current batch.
    pub fn in_flight_since(&self) -> Option<Moment> {
        let state = self.0.state.borrow();
        state.flight.map(|_| state.flight_since)
    }

    /// `None` while healthy, otherwise why nothing is accepted.
    pub fn trouble(&self) -> Option<StoreError> {
        self.0.state.borrow().trouble.clone()
    }

    pub fn probe(&self) -> LogProbe {
        self.0.state.borrow().probe
    }

    /// Writes and syncs everything appended and ends the writer. Later appends are refused.
    pub async fn close(&self) -> Result<(), StoreError> {
        {
            let state = &mut *self.0.state.borrow_mut();
            state.closing = true;
            state.room.wake_all();
            if let Some(writer) = state.writer.take() {
                writer.wake();
            }
        }
        wait(
            &self.0,
            |state| &mut state.waiters,
            0,
            |state| state.writer_ended.then(|| state.trouble.clone().map_or(Ok(()), Err)),
        )
        .await
    }
}

/// Where an entry is now.
enum Place {
    Memory(EntryHeader, Bytes),
    /// Being written: for a moment neither in memory nor readable.
    Flight,
    Disk(Rc<Segment>),
}

fn segment_of(segments: &BTreeMap<u64, Rc<Segment>>, lsn: Lsn) -> Option<Rc<Segment>> {
    let (_, segment) = segments.range(..=lsn.0).next_back()?;
    (lsn.0 < segment.end()).then(|| segment.clone())
}

fn no_segment(lsn: Lsn) -> StoreError {
    let what = "no segment holds this LSN".to_owned();
    StoreError::Corrupt { segment: "log".to_owned(), offset: lsn.0, what }
}

/// Reads and verifies one entry, or only its header and the `start` of its payload. `guess` is how
/// many bytes to fetch at first; if they suffice, there is no second read.
async fn read_entry(
    device: &dyn Device,
    cache: &IndexCache,
    segment: &Segment,
    lsn: Lsn,
    guess: usize,
    start: Option<usize>,
) -> Result<(EntryHeader, Bytes), StoreError> {
    let offset = segment.locate(device, cache, lsn).await?;
    let corrupt = |error: EntryError| {
        let (segment, what) = (segment.name.clone(), error.to_string());
        StoreError::Corrupt { segment, offset, what }
    };
    let file = segment.open(device).await?;
    let mut bytes = file.read_at(offset, guess.max(ENTRY_HEADER)).await.map_err(failed)?;
    let stored = decode_header(&bytes, lsn).map_err(corrupt)?;
    let wanted = start.unwrap_or(stored.payload_len);
    let end = ENTRY_HEADER + stored.payload_len.min(wanted);
    if bytes.len() < end {
        let have = bytes.len();
        let rest = file.read_at(offset + have as u64, end - have).await.map_err(failed)?;
        bytes.extend_from_slice(&rest);
    }
    let checked = match start {
        Some(wanted) => payload_start(&bytes, &stored, wanted),
        None => decode_payload(&bytes, &stored),
    };
    checked.map_err(corrupt)?;
    Ok((stored.header, Bytes::from(bytes).slice(ENTRY_HEADER..end)))
}

/// Waits until `ready` returns a value; it is called now and whenever `list` is woken for `point`.
/// Cancel-safe: dropping the future removes its place in the list.
async fn wait<T>(
    inner: &Inner,
    list: fn(&mut State) -> &mut Waiters,
    point: u64,
    mut ready: impl FnMut(&mut State) -> Option<T>,
) -> T {
    let mut seat = Seat { inner, list, key: None };
    poll_fn(|context| {
        let state = &mut *inner.state.borrow_mut();
        if let Some(answer) = ready(state) {
            return Poll::Ready(answer);
        }
        list(state).park(&mut seat.key, point, context.waker());
        Poll::Pending
    })
    .await
}

/// A place in a list of waiters, given up on drop.
struct Seat<'a> {
    inner: &'a Inner,
    list: fn(&mut State) -> &mut Waiters,
    key: Option<usize>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if self.key.is_some() {
            (self.list)(&mut self.inner.state.borrow_mut()).leave(&mut self.key);
        }
    }
}
