//! Finding an entry in a compacted segment, by its index on disk.
//!
//! Called by `Log::read` and recovery. A lookup is a binary search over index blocks; recently used
//! ones are kept in a cache of fixed size, so that memory for indexes does not grow with the number
//! of messages. Shard-local. If a block is damaged, the lookup uses the entries themselves: the
//! file is walked once and the result is kept with the segment.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use hashbrown::HashMap;

use super::super::error::StoreError;
use super::{
    Segment,
    compacted::{CompactedFooter, IndexRecord, decode_index_block, scan_compacted},
    failed,
    segment::BLOCK,
};
use crate::{model::Lsn, runtime::device::Device};

/// Blocks kept in an [`IndexCache`]: 4 MiB on disk, 6 MiB decoded.
const CACHED_BLOCKS: usize = 1024;

/// Index blocks read last, of all compacted segments of a log.
#[derive(Default)]
pub(super) struct IndexCache(RefCell<Cached>);

type BlockKey = (u64, u64);

#[derive(Default)]
struct Cached {
    blocks: HashMap<BlockKey, Rc<[IndexRecord]>>,
    /// Oldest first.
    order: VecDeque<BlockKey>,
}

impl IndexCache {
    fn get(&self, key: BlockKey) -> Option<Rc<[IndexRecord]>> {
        self.0.borrow().blocks.get(&key).cloned()
    }

    fn insert(&self, key: BlockKey, block: Rc<[IndexRecord]>) {
        let cached = &mut *self.0.borrow_mut();
        if cached.blocks.insert(key, block).is_none() {
            cached.order.push_back(key);
        }
        while cached.order.len() > CACHED_BLOCKS {
            let Some(oldest) = cached.order.pop_front() else { break };
            cached.blocks.remove(&oldest);
        }
    }
}

/// The index of one compacted segment, on disk.
pub(super) struct Index {
    /// First LSN that the segment does not cover.
    pub end: u64,
    at: u64,
    blocks: u64,
    nonce: u64,
    /// The block found last: most entries are looked up in order.
    latest: Cell<u64>,
    /// Records found by walking the entries, because the index or the footer is damaged.
    walked: RefCell<Option<Rc<[IndexRecord]>>>,
}

impl Index {
    pub(super) fn new(footer: &CompactedFooter) -> Index {
        Index {
            end: footer.header.end.0,
            at: footer.index_at,
            blocks: footer.index_blocks(),
            nonce: footer.header.nonce,
            latest: Cell::new(0),
            walked: RefCell::new(None),
        }
    }

    /// For a file whose footer is lost: the result of a scan.
    pub(super) fn walked(end: Lsn, records: Vec<IndexRecord>) -> Index {
        let walked = RefCell::new(Some(records.into()));
        Index { end: end.0, at: 0, blocks: 0, nonce: 0, latest: Cell::new(0), walked }
    }

    /// The location of the entry at `lsn`; `None` if the segment does not hold it.
    pub(super) async fn find(
        &self,
        segment: &Segment,
        device: &dyn Device,
        cache: &IndexCache,
        lsn: Lsn,
    ) -> Result<Option<IndexRecord>, StoreError> {
        let (mut low, mut high) = (0, self.blocks);
        let mut middle = self.latest.get();
        while low < high && self.walked.borrow().is_none() {
            let Some(records) = self.block(segment, device, cache, middle).await? else {
                self.walk(segment, device).await?;
                break;
            };
            if records.first().is_none_or(|first| lsn < first.lsn) {
                high = middle;
            } else if records.last().is_none_or(|last| lsn > last.lsn) {
                low = middle + 1;
            } else {
                self.latest.set(middle);
                return Ok(search(&records, lsn));
            }
            middle = low.midpoint(high);
        }
        let walked = self.walked.borrow().clone();
        Ok(walked.and_then(|records| search(&records, lsn)))
    }

    /// One block; `None` if it is damaged.
    async fn block(
        &self,
        segment: &Segment,
        device: &dyn Device,
        cache: &IndexCache,
        number: u64,
    ) -> Result<Option<Rc<[IndexRecord]>>, StoreError> {
        let key = (segment.epoch, number);
        if let Some(records) = cache.get(key) {
            return Ok(Some(records));
        }
        let file = segment.open(device).await?;
        let bytes = file.read_at(self.at + number * BLOCK as u64, BLOCK).await.map_err(failed)?;
        let Ok(records) = decode_index_block(&bytes, self.nonce) else { return Ok(None) };
        let records: Rc<[IndexRecord]> = records.into();
        cache.insert(key, records.clone());
        Ok(Some(records))
    }

    /// Reads the whole file, once, because the index is damaged.
    async fn walk(&self, segment: &Segment, device: &dyn Device) -> Result<(), StoreError> {
        let file = segment.open(device).await?;
        let bytes = file.read_at(0, segment.len.get() as usize).await.map_err(failed)?;
        let scan = scan_compacted(&bytes).map_err(|error| segment.corrupt(segment.base, error))?;
        *self.walked.borrow_mut() = Some(scan.places().into());
        Ok(())
    }
}

fn search(records: &[IndexRecord], lsn: Lsn) -> Option<IndexRecord> {
    let at = records.binary_search_by_key(&lsn, |record| record.lsn).ok()?;
    Some(records[at])
}
