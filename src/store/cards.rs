//! Reads message cards, and builds runs of them.
//!
//! A command over many messages reads one part of their cards from a few long runs, instead of each
//! message's own entry. `checkpoint` has runs built here and appends them; a mailbox knows their
//! locations (`account::cards`). Shard-local. Indices and blocks read last are cached, up to the
//! limits below.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use bytes::Bytes;

use super::{
    bodies::{Bodies, compression},
    error::StoreError,
    format::{
        blocks::{
            BlockRef, BlockRunBuilder, BlockRunRef, MadeRun, RunIndex, index_len, read_index,
        },
        cards::{CARD_MAX, CARD_PARTS, Card, CardPlace, CardSplit, read_block},
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

/// Most indices of runs cached, each up to a few KiB.
const INDICES_KEPT: usize = 256;
/// Most bytes of consecutive blocks read at once by a cursor that already read one: about all that
/// a run has of one part.
const AHEAD_MAX: usize = 128 * 1024;
/// Bytes of a run read at first, to find its index.
const INDEX_READ: usize = 4 * 1024;
/// zstd's level for blocks: blocks are short, written once and read often.
const LEVEL: i32 = 1;
/// Messages whose cards are made before other tasks run.
const CARDS_AT_ONCE: usize = 64;

/// The cards of one partition.
pub(super) struct Cards {
    log: Log,
    executor: Rc<dyn Executor>,
    bodies: Rc<Bodies>,
    split: CardSplit,
    /// Most bytes of opened blocks kept; one block takes 40 to 100 KiB.
    budget: usize,
    /// How often the log was reopened: cursors from before are invalid.
    opened: Cell<u64>,
    indices: RefCell<VecDeque<(Lsn, Rc<RunIndex>)>>,
    blocks: RefCell<VecDeque<Rc<Block>>>,
}

/// An opened block.
pub(super) struct Block {
    run: Lsn,
    offset: usize,
    /// The part of its cards that it holds.
    part: usize,
    cards: Vec<CardPlace>,
    raw: Bytes,
}

impl Block {
    /// Position of the card of message `uid`, if the block has it. In ordered reads it is at
    /// `next`.
    fn position(&self, uid: Uid, next: usize) -> Option<usize> {
        match self.cards.get(next) {
            Some(card) if card.uid == uid => Some(next),
            _ => self.cards.binary_search_by_key(&uid, |card| card.uid).ok(),
        }
    }

    /// The card at `position`, if it was made from `body`.
    fn card(&self, position: usize, body: Lsn) -> Option<&[u8]> {
        let card = self.cards.get(position).filter(|card| card.body == body)?;
        self.raw.get(card.range())
    }

    fn covers(&self, run: Lsn, part: usize, uid: Uid) -> bool {
        let first = self.cards.first().map(|card| card.uid);
        let last = self.cards.last().map(|card| card.uid);
        (self.run, self.part) == (run, part) && first <= Some(uid) && Some(uid) <= last
    }

    fn memory(&self) -> usize {
        self.raw.len() + self.cards.capacity() * size_of::<CardPlace>()
    }
}

/// Reads one part of the cards of many messages, in order. Holds its current block, and the stored
/// octets of some blocks that follow.
pub(super) struct Cursor {
    part: usize,
    /// [`Cards::opened`] at the last read.
    opened: u64,
    block: Option<Rc<Block>>,
    /// Octets read ahead: their run, their offset in its payload, and the octets.
    ahead: (Lsn, usize, Bytes),
    /// Of the card found last.
    position: usize,
    body: Lsn,
    /// The parts made for a message without a card; and whether these are the last result.
    made: [Vec<u8>; CARD_PARTS],
    is_made: bool,
}

impl Cursor {
    pub(super) fn new(part: usize) -> Cursor {
        Cursor {
            part,
            opened: 0,
            block: None,
            ahead: (Lsn(0), 0, Bytes::new()),
            position: 0,
            body: Lsn(0),
            made: Default::default(),
            is_made: false,
        }
    }

    /// Whether the current block has the card of `uid`: then [`Cursor::card`] returns it.
    fn is_at_hand(&mut self, uid: Uid, body: &MessageBody) -> bool {
        let Some(block) = &self.block else { return false };
        let found = block.position(uid, self.position + 1);
        let found = found.filter(|&at| block.card(at, body.lsn).is_some());
        if let Some(position) = found {
            (self.position, self.body, self.is_made) = (position, body.lsn, false);
        }
        found.is_some()
    }

    /// The stored octets of the block at `place`, if they were read ahead.
    fn read_ahead(&self, run: Lsn, place: &BlockRef) -> Option<Bytes> {
        let (of, start, octets) = &self.ahead;
        let from = place.offset.checked_sub(*start).filter(|_| *of == run)?;
        let range = from..from.checked_add(place.stored as usize)?;
        (range.end <= octets.len()).then(|| octets.slice(range))
    }

    /// The card found last.
    pub(super) fn card(&self) -> &[u8] {
        let found = match self.is_made {
            true => self.made.get(self.part).map(Vec::as_slice),
            false => self.block.as_ref().and_then(|block| block.card(self.position, self.body)),
        };
        found.unwrap_or_default()
    }
}

impl Cards {
    pub(super) fn new(
        log: Log,
        executor: Rc<dyn Executor>,
        bodies: Rc<Bodies>,
        split: CardSplit,
        budget: usize,
    ) -> Cards {
        let (opened, indices, blocks) = Default::default();
        Cards { log, executor, bodies, split, budget, opened, indices, blocks }
    }

    /// The log was reopened: entries near its end may differ from those read before.
    pub(super) fn reset(&self) {
        self.opened.set(self.opened.get() + 1);
        self.indices.borrow_mut().clear();
        self.blocks.borrow_mut().clear();
    }

    /// Whether `cursor` already has the card of message `uid`: then [`Cursor::card`] returns it.
    pub(super) fn is_at_hand(&self, cursor: &mut Cursor, uid: Uid, body: &MessageBody) -> bool {
        cursor.opened == self.opened.get() && cursor.is_at_hand(uid, body)
    }

    /// Finds the card of message `uid`, which `run` should have; false if it has none, or one made
    /// from another body.
    ///
    /// # Errors
    /// `Corrupt` if the run is damaged.
    pub(super) async fn seek(
        &self,
        cursor: &mut Cursor,
        run: BlockRunRef,
        uid: Uid,
        body: &MessageBody,
    ) -> Result<bool, StoreError> {
        if cursor.opened != self.opened.get() {
            cursor.opened = self.opened.get();
            cursor.block = None;
            cursor.ahead = (Lsn(0), 0, Bytes::new());
        }
        let part = cursor.part;
        let known =
            self.blocks.borrow().iter().rev().find(|it| it.covers(run.lsn, part, uid)).cloned();
        let block = match known {
            Some(block) => block,
            None => {
                let index = self.index(run.lsn).await?;
                let Some(place) = index.block_of(part, uid) else { return Ok(false) };
                let stored = match cursor.read_ahead(run.lsn, &place) {
                    Some(stored) => stored,
                    None => {
                        let wanted = match &cursor.block {
                            Some(_) => index.octets_from(part, &place, AHEAD_MAX),
                            None => place.stored as usize,
                        };
                        let octets = self.log.read_range(run.lsn, place.offset, wanted).await?;
                        let stored = octets.slice(..octets.len().min(place.stored as usize));
                        cursor.ahead = (run.lsn, place.offset, octets);
                        stored
                    }
                };
                self.open_block(run.lsn, part, place, stored)?
            }
        };
        let Some(position) = block.position(uid, 0) else { return Ok(false) };
        if block.card(position, body.lsn).is_none() {
            return Ok(false);
        }
        (cursor.position, cursor.body, cursor.is_made) = (position, body.lsn, false);
        cursor.block = Some(block);
        Ok(true)
    }

    /// Makes the parts for a message without a card, from its `summary`.
    pub(super) fn split_into(&self, cursor: &mut Cursor, summary: &[u8]) {
        cursor.is_made = true;
        cursor.made.iter_mut().for_each(Vec::clear);
        (self.split)(summary, &mut cursor.made);
    }

    async fn index(&self, run: Lsn) -> Result<Rc<RunIndex>, StoreError> {
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

    fn open_block(
        &self,
        run: Lsn,
        part: usize,
        place: BlockRef,
        stored: Bytes,
    ) -> Result<Rc<Block>, StoreError> {
        let undecodable = |error| StoreError::undecodable(run, error);
        self.bodies.worked_on_cards(place.raw as usize);
        place.verify(&stored).map_err(undecodable)?;
        let raw = match place.is_compressed() {
            true => compression::decompress(&stored, place.raw as usize)
                .map_err(|error| StoreError::undecodable(run, error))?
                .into(),
            false => stored,
        };
        let cards = read_block(&raw).map_err(undecodable)?;
        let block = Rc::new(Block { run, offset: place.offset, part, cards, raw });
        let mut blocks = self.blocks.borrow_mut();
        // Another reader may have opened it meanwhile.
        blocks.retain(|other| (other.run, other.offset) != (run, place.offset));
        blocks.push_back(block.clone());
        let mut kept: usize = blocks.iter().map(|block| block.memory()).sum();
        while kept > self.budget {
            let Some(oldest) = blocks.pop_front() else { break };
            kept -= oldest.memory();
        }
        Ok(block)
    }

    /// Whether the card of message `uid` in `run` agrees with its `summary`; true also if there is
    /// no card.
    ///
    /// # Errors
    /// As [`Cards::seek`].
    pub(super) async fn agrees(
        &self,
        run: BlockRunRef,
        uid: Uid,
        body: &MessageBody,
        summary: &[u8],
    ) -> Result<bool, StoreError> {
        let mut expected: [Vec<u8>; CARD_PARTS] = Default::default();
        (self.split)(summary, &mut expected);
        for (part, expected) in expected.iter().enumerate() {
            let mut cursor = Cursor::new(part);
            if self.seek(&mut cursor, run, uid, body).await? && cursor.card() != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The payload of a run: the cards of the runs in `joined`, then those of `messages`, whose
    /// UIDs ascend and are above all of `joined`. A message whose summary cannot be read, or is too
    /// long, gets no card.
    ///
    /// # Errors
    /// `Corrupt` if a run of `joined` is damaged; otherwise as for reads.
    pub(super) async fn make_run(
        &self,
        joined: &[BlockRunRef],
        messages: &[(Uid, MessageBody)],
    ) -> Result<Option<MadeRun>, StoreError> {
        let compress = |raw| compression::compress(raw, LEVEL).bytes;
        let mut builder = BlockRunBuilder::new(compress);
        for run in joined {
            let (_, payload) = self.log.read(run.lsn).await?;
            let adopted: Decoded<()> = builder.adopt(&payload);
            adopted.map_err(|error| StoreError::undecodable(run.lsn, error))?;
            self.executor.yield_now().await;
        }
        let mut before: Option<Bytes> = None;
        let mut parts: [Vec<u8>; CARD_PARTS] = Default::default();
        let mut row = Vec::new();
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
            parts.iter_mut().for_each(Vec::clear);
            (self.split)(&summary, &mut parts);
            if parts.iter().all(|part| part.len() <= CARD_MAX) {
                Card { uid: *uid, body: body.lsn, parts: &parts }.put(&mut builder, &mut row);
            }
            before = Some(summary);
        }
        Ok(builder.finish())
    }
}
