//! Reading annotations from their runs, and merging runs.
//!
//! Callers that need the values of one or many messages pass the runs that the mailbox knows
//! (`account::annotations`); `checkpoint` creates and appends runs. Nothing is cached: each message
//! is read rarely, and many are read in UID order.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::ops::RangeInclusive;

use super::{
    bodies::compression,
    error::StoreError,
    format::{
        annotations::{Rows, put_row, read_block},
        blocks::{
            BlockRef, BlockRunBuilder, BlockRunRef, MadeRun, RunIndex, index_len, read_index,
        },
    },
    log::{ENTRY_PAYLOAD_MAX, Log},
};
use crate::model::{Lsn, Uid};

/// Bytes of a run read at first, to find its index.
const INDEX_READ: usize = 4 * 1024;
/// zstd's level for blocks.
const LEVEL: i32 = 1;

/// A damaged run.
pub(super) struct Damaged {
    pub run: BlockRunRef,
    pub error: StoreError,
}

/// The rows of `runs`, oldest first, for the messages `uids`; the newest of each.
///
/// # Errors
/// The run that cannot be read, and why.
pub(super) async fn read(
    log: &Log,
    runs: &[BlockRunRef],
    uids: RangeInclusive<Uid>,
) -> Result<Rows, Damaged> {
    let mut rows = Rows::new();
    let within = |first: Uid, last: Uid| first <= *uids.end() && *uids.start() <= last;
    for run in runs.iter().filter(|run| within(run.first, run.last)) {
        let damaged = |error| Damaged { run: *run, error };
        let mut found = Rows::new();
        let index = read_run_index(log, run.lsn).await.map_err(damaged)?;
        for block in index.column(0) {
            if within(block.first, block.last) {
                let raw = open_block(log, run.lsn, *block).await.map_err(damaged)?;
                let read = read_block(&raw, &mut found);
                read.map_err(|error| damaged(StoreError::undecodable(run.lsn, error)))?;
            }
        }
        rows.extend(found.into_iter().filter(|((uid, _), _)| uids.contains(uid)));
    }
    Ok(rows)
}

async fn read_run_index(log: &Log, run: Lsn) -> Result<RunIndex, StoreError> {
    let undecodable = |error| StoreError::undecodable(run, error);
    let mut start = log.read_start(run, INDEX_READ).await?;
    let len = index_len(&start).map_err(undecodable)?;
    if len > start.len() && len <= ENTRY_PAYLOAD_MAX {
        start = log.read_start(run, len).await?;
    }
    read_index(&start).map_err(undecodable)
}

async fn open_block(log: &Log, run: Lsn, place: BlockRef) -> Result<Vec<u8>, StoreError> {
    let stored = log.read_range(run, place.offset, place.stored as usize).await?;
    place.verify(&stored).map_err(|error| StoreError::undecodable(run, error))?;
    match place.is_compressed() {
        true => compression::decompress(&stored, place.raw as usize)
            .map_err(|error| StoreError::undecodable(run, error)),
        false => Ok(stored.to_vec()),
    }
}

/// A run of `rows`; `None` without any.
pub(super) fn make_run(rows: &Rows) -> Option<MadeRun> {
    let mut builder = BlockRunBuilder::new(|raw| compression::compress(raw, LEVEL).bytes);
    rows.iter().for_each(|(place, value)| put_row(&mut builder, *place, value.as_deref()));
    builder.finish()
}
