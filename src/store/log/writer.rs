//! The log's one writer task: writes and syncs appended entries, and notifies the waiters.
//!
//! Spawned by recovery, ends with `Log::close` or at the first failure. Group commit needs no
//! timer: while one batch is being synced the next one fills, and an idle log writes at once.

use std::{future::poll_fn, io, rc::Rc, task::Poll};

use super::super::error::StoreError;
use super::{
    Batch, Ended, Inner, SCAN_STEP, Segment, State, failed,
    segment::{BATCH_HEADER, BATCH_TARGET, BLOCK, BatchHeader, SegmentHeader},
};
use crate::{
    model::Lsn,
    plant::{Plant, planted},
    runtime::device::File,
};

/// Buffers kept for later batches: one fills while the other is written.
const SPARE_BUFFERS: usize = 2;

/// A buffer that a burst enlarged beyond this is not kept.
const SPARE_CAPACITY: usize = BATCH_TARGET / 4;

/// Runs until the log is closed or fails. `current` is the file to continue, if it is open.
pub(super) async fn run(inner: Rc<Inner>, mut current: Current) {
    while has_work(&inner).await {
        // Entries appended before the turn comes share the sync.
        let turn = inner.executor.commit_turn().await;
        let batch = next_batch(&inner);
        let landed = write(&inner, batch, &mut current).await;
        drop(turn);
        let failed = landed.is_err();
        settle(&inner, landed);
        if failed {
            break;
        }
        // Tasks that can append now share the next sync. If there are none this costs nothing.
        futures_lite::future::yield_now().await;
    }
    let state = &mut *inner.state.borrow_mut();
    state.writer_ended = true;
    state.waiters.wake_all();
}

/// Waits for something to write; false once the log is closing and everything is written.
async fn has_work(inner: &Inner) -> bool {
    poll_fn(|context| {
        let state = &mut *inner.state.borrow_mut();
        if !state.closed.is_empty() || state.open.entries > 0 {
            return Poll::Ready(true);
        }
        if state.closing {
            return Poll::Ready(false);
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    })
    .await
}

/// The oldest batch not yet written, headers filled in.
#[allow(clippy::unreachable, reason = "only the writer takes batches")]
fn next_batch(inner: &Inner) -> Batch {
    let state = &mut *inner.state.borrow_mut();
    if state.closed.is_empty() {
        state.close_batch(None);
    }
    match state.closed.pop_front() {
        Some(mut batch) => {
            state.seal(&mut batch, inner);
            batch
        }
        None => unreachable!("the writer was told of an entry, and nobody else takes any"),
    }
}

impl State {
    /// Fills in header fields that are known only now, and marks the batch as in flight.
    fn seal(&mut self, batch: &mut Batch, inner: &Inner) {
        let (start, at) = (batch.start(), batch.header_at());
        let segment = batch.segment.clone();
        if batch.offset == 0 {
            let header = SegmentHeader {
                partition: inner.options.partition,
                epoch: segment.epoch,
                base: Lsn(segment.base),
                nonce: segment.nonce,
                predecessor: self.ended.epoch,
                predecessor_end: Lsn(self.ended.end),
                predecessor_checksum: self.chain,
                checkpoint: self.checkpoint,
                checkpoint_sequence: self.checkpoint_sequence,
            };
            header.encode(&mut batch.bytes[..BLOCK]);
        }
        let header_lsn = start + at as u64;
        if self.batch_starts.back().is_none_or(|last| header_lsn >= last + SCAN_STEP) {
            self.batch_starts.push_back(header_lsn);
        }
        let payload = &batch.bytes[at + BATCH_HEADER..];
        let header = BatchHeader {
            partition: inner.options.partition,
            epoch: segment.epoch,
            lsn: Lsn(header_lsn),
            durable: Lsn(self.durable),
            nonce: segment.nonce,
            payload_len: payload.len(),
            payload_checksum: crc32c::crc32c(payload),
            previous: self.chain,
            entries: batch.entries,
        };
        self.chain = header.encode(&mut batch.bytes[at..at + BATCH_HEADER]);
        let padded = batch.bytes.len().next_multiple_of(BLOCK);
        batch.bytes.resize(padded, 0);
        assert!(self.flight.is_none() && self.durable <= start, "one batch after the other");
        self.flight = Some((start, start + padded as u64));
        self.flight_since = inner.executor.moment();
    }

    /// Everything below `landed.end` is durable now.
    fn advance(&mut self, landed: Landed) -> Lsn {
        let waiting = self.closed.front().map_or(self.open.start(), Batch::start);
        assert!(
            self.durable <= landed.end && landed.end <= waiting,
            "durable {} <= written {} <= waiting {waiting}",
            self.durable,
            landed.end,
        );
        self.durable = landed.end;
        self.ended = Ended { epoch: landed.epoch, end: landed.end };
        self.buffered -= landed.payload;
        self.probe.batches += 1;
        self.probe.syncs += 1;
        self.probe.bytes_written += landed.written;
        self.batch_guess = landed.payload;
        let capacity = landed.buffer.capacity();
        if self.spare.len() < SPARE_BUFFERS && (1..=SPARE_CAPACITY).contains(&capacity) {
            self.spare.push(landed.buffer);
        }
        Lsn(landed.end)
    }
}

/// A batch on stable storage.
struct Landed {
    epoch: u64,
    /// LSN after its last byte.
    end: u64,
    /// Bytes of its entries.
    payload: usize,
    written: u64,
    /// Its memory, for reuse.
    buffer: Vec<u8>,
}

/// The file of the segment being filled, and its epoch.
pub(super) type Current = Option<(u64, Rc<dyn File>)>;

/// A batch that failed, if the device gave its memory back.
struct Lost {
    error: StoreError,
    batch: Option<Batch>,
}

async fn write(inner: &Inner, mut batch: Batch, current: &mut Current) -> Result<Landed, Lost> {
    let written = batch.bytes.len();
    let outcome = write_bytes(inner, &mut batch, current).await;
    let Batch { ref segment, offset, payload, .. } = batch;
    if let Err(error) = outcome {
        let whole = batch.bytes.len() == written;
        return Err(Lost { error, batch: whole.then_some(batch) });
    }
    let (epoch, written) = (segment.epoch, written as u64);
    segment.len.set(offset + written);
    let end = segment.base + offset + written;
    Ok(Landed { epoch, end, payload, written, buffer: batch.bytes })
}

async fn write_bytes(
    inner: &Inner,
    batch: &mut Batch,
    current: &mut Current,
) -> Result<(), StoreError> {
    let epoch = batch.segment.epoch;
    let file = match current {
        Some((open, file)) if *open == epoch => file.clone(),
        _ => create_file(inner, &batch.segment).await?,
    };
    *current = Some((epoch, file.clone()));
    let (outcome, buffer) = file.append(batch.offset, std::mem::take(&mut batch.bytes)).await;
    batch.bytes = buffer;
    outcome.map_err(failed)?;
    sync(&*file).await.map_err(failed)
}

async fn sync(file: &dyn File) -> io::Result<()> {
    if planted(Plant::SkipSync) {
        return Ok(());
    }
    match file.sync().await {
        Err(_) if planted(Plant::RetryFailedSync) => file.sync().await,
        outcome => outcome,
    }
}

/// Creates a segment's file when its first batch is about to be written. The file must be in its
/// synced directory before an entry in it is acknowledged.
async fn create_file(inner: &Inner, segment: &Rc<Segment>) -> Result<Rc<dyn File>, StoreError> {
    let size = inner.options.segment_size;
    let file = inner.device.create(&segment.name, size).await.map_err(failed)?;
    if !planted(Plant::SkipDirectorySync) {
        inner.device.sync_directory().await.map_err(failed)?;
    }
    *segment.file.borrow_mut() = Some(file.clone());
    let state = &mut *inner.state.borrow_mut();
    state.sealed_below = segment.base;
    state.opened(segment.clone());
    state.probe.segments += 1;
    Ok(file)
}

/// Advances the durable point, or marks the log as failed; then notifies the state above, then the
/// waiters. What is lost stays readable until the log is reopened: a checkpoint may have moved
/// durable changes into it.
fn settle(inner: &Inner, landed: Result<Landed, Lost>) {
    let outcome = {
        let state = &mut *inner.state.borrow_mut();
        state.flight = None;
        match landed {
            Ok(landed) => Ok(state.advance(landed)),
            Err(Lost { error, batch }) => {
                state.trouble = Some(error.clone());
                batch.into_iter().for_each(|batch| state.closed.push_front(batch));
                Err(error)
            }
        }
    };
    let callback = inner.on_durable.borrow().clone();
    let reached = outcome.as_ref().map_or(u64::MAX, |lsn| lsn.0);
    if let Some(callback) = callback {
        callback(outcome);
    }
    let state = inner.state.borrow();
    state.waiters.wake_below(reached);
    state.room.wake_all();
}
