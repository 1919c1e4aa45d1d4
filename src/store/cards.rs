//! Reading message cards, and putting runs of them together.
//!
//! A command over many messages reads their summaries here, from a few long runs, and not from each
//! message's own entry. `checkpoint` has runs made and appends them; a mailbox knows where they lie
//! (`account::cards`). Shard-local. What was read last is kept, up to named limits.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::{cell::RefCell, collections::VecDeque, ops::Range, rc::Rc};

use bytes::Bytes;

use super::{
    bodies::{Bodies, compression},
    error::StoreError,
    format::{
        blocks::{BlockRef, BlockRunBuilder, BlockRunRef, index_len, read_index},
        cards::{CARD_MAX, Card, read_block},
        codec::Decoded,
    },
    log::{ENTRY_PAYLOAD_MAX, Log},
    message::MessageBody,
};
use crate::{
    model::{Lsn, Uid},
    plant::{Plant, planted},
    runtime::executor::Executor,
};

/// Indices of runs kept, each up to a few KiB.
const INDICES_KEPT: usize = 64;
/// Bytes of opened blocks kept; one takes some 40 KiB.
const BLOCK_BYTES_KEPT: usize = 2 << 20;
/// Bytes of a run read at first, to find its index.
const INDEX_READ: usize = 4 * 1024;
/// zstd's level for blocks: they are written once and read often, and short.
const LEVEL: i32 = 1;
/// Messages whose cards are made before others run.
const CARDS_AT_ONCE: usize = 64;

/// The cards of one partition.
pub(super) struct Cards {
    log: Log,
    executor: Rc<dyn Executor>,
    bodies: Rc<Bodies>,
    indices: RefCell<VecDeque<(Lsn, Rc<Vec<BlockRef>>)>>,
    blocks: RefCell<VecDeque<Rc<Block>>>,
}

/// An opened block.
struct Block {
    run: Lsn,
    offset: usize,
    cards: Vec<(Uid, Lsn, Range<usize>)>,
    raw: Bytes,
}

impl Block {
    /// The summary of the message `uid`, if the block has it and it is of that `body`.
    fn summary(&self, uid: Uid, body: Lsn) -> Option<Bytes> {
        let at = self.cards.binary_search_by_key(&uid, |(uid, ..)| *uid).ok()?;
        let (_, of, range) = self.cards.get(at)?;
        (*of == body).then(|| self.raw.slice(range.clone()))
    }

    fn covers(&self, run: Lsn, uid: Uid) -> bool {
        let first = self.cards.first().map(|(uid, ..)| *uid);
        let last = self.cards.last().map(|(uid, ..)| *uid);
        self.run == run && first <= Some(uid) && Some(uid) <= last
    }

    fn memory(&self) -> usize {
        self.raw.len() + self.cards.capacity() * size_of::<(Uid, Lsn, Range<usize>)>()
    }
}

impl Cards {
    pub(super) fn new(log: Log, executor: Rc<dyn Executor>, bodies: Rc<Bodies>) -> Cards {
        Cards { log, executor, bodies, indices: RefCell::default(), blocks: RefCell::default() }
    }

    /// The log was opened again: what was read of its end may be another by now.
    pub(super) fn reset(&self) {
        self.indices.borrow_mut().clear();
        self.blocks.borrow_mut().clear();
    }

    /// The summary of message `uid`, whose card `run` should have; `None` if it has none, or one of
    /// another body.
    ///
    /// # Errors
    /// `Corrupt` if the run is not as it was written.
    pub(super) async fn summary(
        &self,
        run: BlockRunRef,
        uid: Uid,
        body: &MessageBody,
    ) -> Result<Option<Bytes>, StoreError> {
        let known = {
            let blocks = self.blocks.borrow();
            blocks.iter().rev().find(|block| block.covers(run.lsn, uid)).cloned()
        };
        let block = match known {
            Some(block) => block,
            None => {
                let index = self.index(run.lsn).await?;
                let at = index.partition_point(|block| block.last < uid);
                let Some(place) = index.get(at).filter(|block| block.first <= uid) else {
                    return Ok(None);
                };
                self.open_block(run.lsn, *place).await?
            }
        };
        Ok(block.summary(uid, body.lsn))
    }

    async fn index(&self, run: Lsn) -> Result<Rc<Vec<BlockRef>>, StoreError> {
        if let Some((_, index)) = self.indices.borrow().iter().find(|(lsn, _)| *lsn == run) {
            return Ok(index.clone());
        }
        let undecodable = |error| StoreError::undecodable(run, error);
        let mut start = self.log.read_start(run, INDEX_READ).await?;
        let len = index_len(&start).map_err(undecodable)?;
        if len > start.len() && len <= ENTRY_PAYLOAD_MAX {
            start = self.log.read_start(run, len).await?;
        }
        let index = Rc::new(read_index(&start).map_err(undecodable)?);
        let mut indices = self.indices.borrow_mut();
        indices.push_back((run, index.clone()));
        if indices.len() > INDICES_KEPT {
            indices.pop_front();
        }
        Ok(index)
    }

    async fn open_block(&self, run: Lsn, place: BlockRef) -> Result<Rc<Block>, StoreError> {
        let undecodable = |error| StoreError::undecodable(run, error);
        let stored = self.log.read_range(run, place.offset, place.stored as usize).await?;
        place.verify(&stored).map_err(undecodable)?;
        let raw = match place.is_compressed() {
            true => compression::decompress(&stored, place.raw as usize)
                .map_err(|error| StoreError::undecodable(run, error))?
                .into(),
            false => stored,
        };
        let cards = read_block(&raw).map_err(undecodable)?;
        let block = Rc::new(Block { run, offset: place.offset, cards, raw });
        let mut blocks = self.blocks.borrow_mut();
        // Another may have opened it meanwhile.
        blocks.retain(|other| (other.run, other.offset) != (run, place.offset));
        blocks.push_back(block.clone());
        let mut kept: usize = blocks.iter().map(|block| block.memory()).sum();
        while kept > BLOCK_BYTES_KEPT {
            let Some(oldest) = blocks.pop_front() else { break };
            kept -= oldest.memory();
        }
        Ok(block)
    }

    /// The payload of a run: the cards of the runs in `joined`, then those of `messages`, ascending and
    /// above all of them. A message whose summary cannot be read, or is too long, gets none.
    ///
    /// # Errors
    /// `Corrupt` if a run of `joined` is damaged; others as reads'.
    pub(super) async fn make_run(
        &self,
        joined: &[BlockRunRef],
        messages: &[(Uid, MessageBody)],
    ) -> Result<Option<(Vec<u8>, Uid, Uid, u32)>, StoreError> {
        let compress = |raw| compression::compress(raw, LEVEL).bytes;
        let mut builder = BlockRunBuilder::new(compress);
        for run in joined {
            let (_, payload) = self.log.read(run.lsn).await?;
            let adopted: Decoded<()> = builder.adopt(&payload);
            adopted.map_err(|error| StoreError::undecodable(run.lsn, error))?;
            self.executor.yield_now().await;
        }
        let mut before: Option<Bytes> = None;
        for (n, (uid, body)) in messages.iter().enumerate() {
            if n % CARDS_AT_ONCE == CARDS_AT_ONCE - 1 {
                self.executor.yield_now().await;
            }
            let summary = match self.bodies.recent_summary(body).await {
                Ok(summary) => summary,
                Err(StoreError::Corrupt { .. }) => continue,
                Err(error) => return Err(error),
            };
            if summary.len() > CARD_MAX {
                continue;
            }
            let other = before.as_ref().filter(|_| planted(Plant::CardOfAnother));
            let summary = other.unwrap_or(&summary).clone();
            Card { uid: *uid, body: body.lsn, summary: &summary }.put(&mut builder);
            before = Some(summary);
        }
        Ok(builder.finish())
    }
}
