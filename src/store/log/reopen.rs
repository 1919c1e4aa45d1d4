//! Reopening a log in place after a failed write or sync.
//!
//! Called by the partition, which pauses between attempts. The effect of the failed batch on disk
//! is unknown, and its senders were told that it failed: so the log ends permanently at the durable
//! LSN, whatever follows it, and continues in a new segment whose header says so
//! (`predecessor_end`). Nothing is written to an old file, and the cached pages of the last one are
//! dropped before they are read. The new segment's header, written and synced alone, proves that
//! the device takes writes again; only then are appends accepted.
//!
//! Invariant: an LSN of a lost entry is never durable later, nor used again.

use std::rc::Rc;

use super::{super::error::StoreError, RecoveryReport};
use super::{
    Batch, Ended, Log, Recovered, Replay, State, failed,
    segment::{BLOCK, SegmentHeader},
    writer,
};
use crate::{
    model::Lsn,
    runtime::{device::File, executor::Priority},
};

/// Ranges of lost LSNs that are remembered: nobody waits for an entry from that many failures ago.
const LOST_MAX: usize = 64;

/// A log read again from its device, with a segment that takes writes. [`Log::resume`] installs it;
/// until then nothing has changed.
pub struct Reopened {
    state: State,
    file: Rc<dyn File>,
}

impl Log {
    /// How often the log was reopened: entries of another generation that were not durable are
    /// gone.
    pub fn generation(&self) -> u64 {
        self.0.state.borrow().generation
    }

    /// The log on the device up to the durable LSN, to be loaded and replayed as at a start.
    ///
    /// # Errors
    /// If the device cannot even be read; or `Poisoned`, if the log is closing or healthy.
    pub async fn look_again(&self) -> Result<Recovered, StoreError> {
        let ended = {
            let state = self.0.state.borrow();
            if state.closing || state.trouble.is_none() {
                return Err(StoreError::Poisoned);
            }
            state.ended
        };
        let log = &self.0;
        let (device, executor) = (log.device.clone(), log.executor.clone());
        let (options, index_cache) = (log.options.clone(), log.index_cache.clone());
        Recovered::find(device, executor, options, index_cache, Some(ended)).await
    }

    /// Replays `recovered` and begins a new segment, durably.
    ///
    /// # Errors
    /// If the device still fails. The attempt's file is deleted if possible; if left behind, it
    /// counts as never begun.
    pub async fn reopen(
        &self,
        mut recovered: Recovered,
        replay: &mut Replay<'_>,
    ) -> Result<(Reopened, RecoveryReport), StoreError> {
        let tip = recovered.replay_all(replay).await?;
        let report = recovered.report().clone();
        let (epoch, lsn) = {
            let state = &mut *self.0.state.borrow_mut();
            (state.take_epoch(), state.open.next())
        };
        let mut state = recovered.state(tip, epoch, lsn);
        let segment = state.open.segment.clone();
        let header = SegmentHeader {
            partition: self.0.options.partition,
            epoch: segment.epoch,
            base: Lsn(segment.base),
            nonce: segment.nonce,
            predecessor: state.ended.epoch,
            predecessor_end: Lsn(state.ended.end),
            predecessor_checksum: state.chain,
            checkpoint: state.checkpoint,
            checkpoint_sequence: state.checkpoint_sequence,
        };
        let mut block = vec![0; BLOCK];
        header.encode(&mut block);
        let file = match self.begin_segment(&segment.name, block).await {
            Ok(file) => file,
            Err(error) => {
                let _ = self.0.device.delete(&segment.name).await;
                return Err(error);
            }
        };
        *segment.file.borrow_mut() = Some(file.clone());
        segment.len.set(BLOCK as u64);
        state.open_files.push_back(segment.clone());
        state.ended = Ended { epoch: segment.epoch, end: segment.base + BLOCK as u64 };
        state.durable = state.ended.end;
        state.open = Batch::new(segment, BLOCK as u64, Vec::new());
        Ok((Reopened { state, file }, report))
    }

    async fn begin_segment(&self, name: &str, block: Vec<u8>) -> Result<Rc<dyn File>, StoreError> {
        let device = &self.0.device;
        let file = device.create(name, self.0.options.segment_size).await.map_err(failed)?;
        device.sync_directory().await.map_err(failed)?;
        file.append(0, block).await.0.map_err(failed)?;
        file.sync().await.map_err(failed)?;
        Ok(file)
    }

    /// Deletes the segment in which `reopened` would have continued. If it remains, it counts as
    /// never begun.
    pub async fn discard(&self, reopened: Reopened) {
        let name = &reopened.state.open.segment.name;
        let _ = self.0.device.delete(name).await;
    }

    /// Replaces the failed state by `reopened` and accepts appends again. Does not await, so that
    /// the state above can be replaced together with it.
    ///
    /// # Errors
    /// `Poisoned` if the log was closed meanwhile.
    pub fn resume(&self, reopened: Reopened) -> Result<(), StoreError> {
        let Reopened { state: mut fresh, file } = reopened;
        let epoch = fresh.open.segment.epoch;
        {
            let state = &mut *self.0.state.borrow_mut();
            if state.closing {
                return Err(StoreError::Poisoned);
            }
            fresh.lost = std::mem::take(&mut state.lost);
            fresh.lost.push((state.durable, state.open.next()));
            let forgotten = fresh.lost.len().saturating_sub(LOST_MAX);
            fresh.lost.drain(..forgotten);
            fresh.generation = state.generation + 1;
            fresh.epoch_next = fresh.epoch_next.max(state.epoch_next);
            fresh.waiters = std::mem::take(&mut state.waiters);
            fresh.room = std::mem::take(&mut state.room);
            fresh.probe = state.probe;
            fresh.probe.reopened += 1;
            for segment in fresh.segments.values() {
                let known = state.segments.get(&segment.base);
                if let Some(known) = known.filter(|known| known.epoch == segment.epoch) {
                    segment.live.set(known.live.get());
                }
            }
            *state = fresh;
        }
        let current = Some((epoch, file));
        let writer = writer::run(self.0.clone(), current);
        self.0.executor.spawn(Priority::Foreground, Box::pin(writer));
        let state = self.0.state.borrow();
        state.waiters.wake_below(u64::MAX);
        state.room.wake_all();
        Ok(())
    }
}
