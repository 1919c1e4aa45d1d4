//! Reading bodies from the log: decompressed, and cut to the requested range.
//!
//! The entries read last are kept (`EntryCache`), and work is counted: a caller that reads a few
//! octets each of many bodies pays for what is read and decompressed for them.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
};

use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;

pub(crate) use super::super::log::Ahead;
use super::{
    super::{
        damage::Place,
        error::StoreError,
        format::{
            body::{Extent, block_of, summary_of},
            codec::Malformed,
            payload::{self, Head},
        },
        log::ENTRY_PAYLOAD_MAX,
        message::MessageBody,
    },
    Bodies, compression,
};
use crate::model::Lsn;

/// The entries read last, so that a long body read in pieces, or a summary and then its body, reads
/// each entry of the log once and decompresses it once. Shard-local.
#[derive(Default)]
pub(crate) struct EntryCache {
    /// Latest last.
    entries: RefCell<VecDeque<(Key, Bytes)>>,
    /// Octets read and decompressed since the last yield.
    work: Cell<usize>,
}

/// Summaries of recent messages, so that the checkpoint that makes their cards need not read them
/// again. Keyed by the entry of the body.
#[derive(Default)]
pub(crate) struct RecentSummaries {
    summaries: HashMap<Lsn, Bytes>,
    /// In order of arrival.
    order: VecDeque<Lsn>,
    bytes: usize,
}

/// Bytes kept: usually the summaries that arrive between two checkpoints.
const RECENT_BYTES: usize = 4 << 20;
/// Overhead of keeping one, beside its bytes.
const RECENT_OVERHEAD: usize = 96;

impl RecentSummaries {
    pub(crate) fn keep(&mut self, body: Lsn, summary: Vec<u8>) {
        let cost = |summary: &Bytes| summary.len() + RECENT_OVERHEAD;
        let summary = Bytes::from(summary);
        self.bytes += cost(&summary);
        self.order.push_back(body);
        self.summaries.insert(body, summary);
        while self.bytes > RECENT_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= self.summaries.remove(&oldest).as_ref().map_or(0, cost);
        }
    }

    fn get(&self, body: Lsn) -> Option<Bytes> {
        self.summaries.get(&body).cloned()
    }
}

/// Octets read and decompressed before other sessions run, about a millisecond's work, however few
/// of them were requested.
const WORK_PER_TURN: usize = 1 << 20;
/// Minimum work counted for any read, also from the cache.
const WORK_MIN: usize = 4 * 1024;
/// Decompressing an octet takes about as long as reading and checking this many.
const DECOMPRESSION_WORK: usize = 3;

/// The summary of entries longer than this is read without the rest.
const HEAD_ALONE_MIN: usize = 16 * 1024;
/// Bytes of the payload read for it at first: few summaries are longer.
const HEAD_READ: usize = 4 * 1024;

/// What is kept of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Payload(Lsn),
    /// The body, or piece of a body, in the entry's frame.
    Decompressed(Lsn),
}

/// Entries kept in an [`EntryCache`], and bytes of them.
const CACHED_ENTRIES: usize = 16;
const CACHED_BYTES: usize = 2 << 20;

impl EntryCache {
    fn get(&self, key: Key) -> Option<Bytes> {
        let entries = self.entries.borrow();
        entries.iter().rev().find(|(at, _)| *at == key).map(|(_, bytes)| bytes.clone())
    }

    fn worked(&self, octets: usize) {
        self.work.set(self.work.get().saturating_add(octets));
    }

    /// Whether enough work was done since this last returned true.
    fn turn_is_over(&self) -> bool {
        let over = self.work.get() >= WORK_PER_TURN;
        if over {
            self.work.set(0);
        }
        over
    }

    pub(crate) fn clear(&self) {
        self.entries.borrow_mut().clear();
    }

    fn insert(&self, key: Key, kept: Bytes) {
        let mut entries = self.entries.borrow_mut();
        entries.push_back((key, kept));
        let mut bytes: usize = entries.iter().map(|(_, kept)| kept.len()).sum();
        while entries.len() > CACHED_ENTRIES || bytes > CACHED_BYTES {
            let Some((_, oldest)) = entries.pop_front() else { break };
            bytes -= oldest.len();
        }
    }
}

impl Bodies {
    /// To be awaited before each read for a session: a caller that reads a few octets each of many
    /// bodies pays for what is read and decompressed for them.
    pub(crate) async fn reading_turn(&self) {
        if self.cache.turn_is_over() {
            self.executor.yield_now().await;
        }
    }

    /// Counts the work of reading and opening a block of cards with this many octets.
    pub(crate) fn worked_on_cards(&self, octets: usize) {
        self.cache.worked(octets.saturating_mul(DECOMPRESSION_WORK));
    }

    pub(super) async fn read_payload(&self, lsn: Lsn, entry_len: u32) -> Result<Bytes, StoreError> {
        self.cache.worked(WORK_MIN);
        if let Some(payload) = self.cache.get(Key::Payload(lsn)) {
            return Ok(payload);
        }
        let read = match entry_len {
            0 => self.log.read(lsn).await,
            len => self.log.read_sized(lsn, len).await,
        };
        let (_, payload) = read.inspect_err(|error| self.damages.note(error, Place::default()))?;
        self.cache.worked(payload.len());
        self.cache.insert(Key::Payload(lsn), payload.clone());
        Ok(payload)
    }

    /// As [`Bodies::read_payload`], of entries in order. What is read ahead takes the place of the
    /// cache.
    async fn read_payload_on(
        &self,
        body: &MessageBody,
        ahead: &Ahead,
    ) -> Result<Bytes, StoreError> {
        if body.entry_len == 0 {
            return self.read_payload(body.lsn, 0).await;
        }
        let read = self.log.read_on(body.lsn, body.entry_len, ahead).await;
        let (_, payload) = read.inspect_err(|error| self.damages.note(error, Place::default()))?;
        self.cache.worked(WORK_MIN + payload.len());
        Ok(payload)
    }

    /// The `raw` bytes that `frame`, of the entry at `lsn`, expands to.
    fn decompressed(&self, lsn: Lsn, frame: &[u8], raw: u64) -> Result<Bytes, StoreError> {
        let key = Key::Decompressed(lsn);
        let raw = usize::try_from(raw).unwrap_or(usize::MAX);
        // Two references to one chunk may disagree about its size if the disk was tampered with.
        if let Some(bytes) = self.cache.get(key).filter(|bytes| bytes.len() == raw) {
            return Ok(bytes);
        }
        let bytes = compression::decompress(frame, raw)
            .map_err(|error| StoreError::undecodable(lsn, error))
            .inspect_err(|error| self.damages.note(error, Place::default()))?;
        let bytes = Bytes::from(bytes);
        self.cache.worked(bytes.len().saturating_mul(DECOMPRESSION_WORK));
        self.cache.insert(key, bytes.clone());
        Ok(bytes)
    }

    /// Bytes `offset..offset + len` of the body, clamped to its size.
    pub(crate) async fn read_body(
        &self,
        body: &MessageBody,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        let payload = self.read_payload(body.lsn, body.entry_len).await?;
        self.read_from(&payload, body, offset, len).await
    }

    /// As [`Bodies::read_body`], of messages in the order in which they are in the log.
    pub(crate) async fn read_body_on(
        &self,
        body: &MessageBody,
        offset: u64,
        len: usize,
        ahead: &Ahead,
    ) -> Result<Bytes, StoreError> {
        let payload = self.read_payload_on(body, ahead).await?;
        self.read_from(&payload, body, offset, len).await
    }

    /// As [`Bodies::read_body`], of the `payload` of the body's entry.
    async fn read_from(
        &self,
        payload: &Bytes,
        body: &MessageBody,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        let block = block_of(payload).map_err(|error| StoreError::undecodable(body.lsn, error))?;
        if block.size != body.size {
            // A reader that stops early must not take the rest for the whole.
            let what = "the body has another size than its message says";
            return Err(StoreError::undecodable(body.lsn, what));
        }
        let end = offset.saturating_add(len as u64).min(block.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        if block.compressed {
            let bytes = self.decompressed(body.lsn, block.inline, block.size)?;
            return Ok(bytes.slice(offset as usize..end as usize));
        }
        if block.extents.is_empty() {
            return Ok(payload.slice_ref(&block.inline[offset as usize..end as usize]));
        }
        self.read_extents(&block.extents, offset, end).await
    }

    /// Reads only the chunks that overlap `offset..end`, which is inside them.
    async fn read_extents(
        &self,
        extents: &[Extent],
        offset: u64,
        end: u64,
    ) -> Result<Bytes, StoreError> {
        let mut start = 0;
        let mut out = BytesMut::new();
        for extent in extents {
            let (first, last) = (start, start + u64::from(extent.raw));
            start = last;
            if last <= offset || first >= end {
                continue;
            }
            let chunk = self.read_chunk(extent).await?;
            let from = (offset.max(first) - first) as usize;
            let to = (end.min(last) - first) as usize;
            let piece = chunk.slice(from..to);
            if piece.len() as u64 == end - offset {
                return Ok(piece);
            }
            out.extend_from_slice(&piece);
        }
        Ok(out.freeze())
    }

    /// The bytes of the body in a chunk, exactly as many as the extent says.
    pub(super) async fn read_chunk(&self, extent: &Extent) -> Result<Bytes, StoreError> {
        let cached = self.cache.get(Key::Decompressed(extent.lsn));
        if let Some(bytes) = cached.filter(|bytes| bytes.len() == extent.raw as usize) {
            return Ok(bytes);
        }
        let payload = self.read_payload(extent.lsn, extent.entry_len()).await?;
        if payload.len() != extent.stored as usize {
            return Err(StoreError::undecodable(extent.lsn, Malformed("chunk length")));
        }
        match extent.is_compressed() {
            true => self.decompressed(extent.lsn, &payload, u64::from(extent.raw)),
            false => Ok(payload),
        }
    }

    /// The entries with the body's chunks, and their bytes in the log; none if it is in its commit
    /// entry.
    pub(crate) async fn chunks(&self, body: &MessageBody) -> Result<Vec<(Lsn, u32)>, StoreError> {
        let payload = self.read_payload(body.lsn, body.entry_len).await?;
        let block = block_of(&payload).map_err(|error| StoreError::undecodable(body.lsn, error))?;
        let chunk = |extent: &Extent| (extent.lsn, extent.entry_len());
        Ok(block.extents.iter().map(chunk).collect())
    }

    /// As [`Bodies::read_summary`], for callers that look at recent messages.
    pub(crate) async fn recent_summary(&self, body: &MessageBody) -> Result<Bytes, StoreError> {
        let recent = self.recent.borrow().get(body.lsn);
        match recent {
            Some(summary) => Ok(summary),
            None => self.read_summary(body).await,
        }
    }

    /// The summary of a body. For an entry with a long body only the head is read.
    pub(crate) async fn read_summary(&self, body: &MessageBody) -> Result<Bytes, StoreError> {
        let known = self.cache.get(Key::Payload(body.lsn));
        let head = match known {
            None if body.entry_len as usize > HEAD_ALONE_MIN => self.read_head(body.lsn).await?,
            _ => None,
        };
        let payload = match head {
            Some(head) => head,
            None => self.read_payload(body.lsn, body.entry_len).await?,
        };
        let summary = summary_of(&payload);
        let summary = summary.map_err(|error| StoreError::undecodable(body.lsn, error))?;
        Ok(payload.slice_ref(summary))
    }

    /// As [`Bodies::read_summary`], of messages in the order in which they are in the log.
    pub(crate) async fn read_summary_on(
        &self,
        body: &MessageBody,
        ahead: &Ahead,
    ) -> Result<Bytes, StoreError> {
        if body.entry_len as usize > HEAD_ALONE_MIN {
            return self.read_summary(body).await;
        }
        let payload = self.read_payload_on(body, ahead).await?;
        let summary = summary_of(&payload);
        let summary = summary.map_err(|error| StoreError::undecodable(body.lsn, error))?;
        Ok(payload.slice_ref(summary))
    }

    /// The payload of the entry at `lsn` up to the end of the summary, checked; `None` if it has no
    /// checksum of its own.
    async fn read_head(&self, lsn: Lsn) -> Result<Option<Bytes>, StoreError> {
        let mut wanted = HEAD_READ;
        loop {
            self.cache.worked(wanted);
            let start = self.log.read_start(lsn, wanted).await;
            let start = start.inspect_err(|error| self.damages.note(error, Place::default()))?;
            match payload::head(&start) {
                Ok(Head::Whole(head)) => return Ok(Some(start.slice_ref(head))),
                // Only once, and no further than an entry can go.
                Ok(Head::Longer(len)) if wanted == HEAD_READ && len <= ENTRY_PAYLOAD_MAX => {
                    wanted = len;
                }
                // Reading the whole entry reports the error, if there is one.
                Ok(Head::Unframed | Head::Longer(_)) | Err(_) => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_ends_by_what_was_done() {
        let cache = EntryCache::default();
        assert!(!cache.turn_is_over());
        cache.worked(WORK_PER_TURN - 1);
        assert!(!cache.turn_is_over());
        cache.worked(1);
        assert!(cache.turn_is_over() && !cache.turn_is_over());
        cache.worked(usize::MAX);
        cache.worked(usize::MAX);
        assert!(cache.turn_is_over());
    }

    #[test]
    fn recent_summaries_are_bounded() {
        let mut recent = RecentSummaries::default();
        (0..100_000).for_each(|n| recent.keep(Lsn(n), vec![n as u8; 1_000]));
        assert!(recent.get(Lsn(99_999)).is_some() && recent.get(Lsn(0)).is_none());
        assert!(recent.bytes <= RECENT_BYTES && recent.summaries.len() == recent.order.len());
        assert!(recent.summaries.len() * (1_000 + RECENT_OVERHEAD) == recent.bytes);
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = EntryCache::default();
        let key = |n| Key::Payload(Lsn(n));
        (0..100).for_each(|n| cache.insert(key(n), Bytes::from(vec![0; 300_000])));
        assert!(cache.get(key(99)).is_some() && cache.get(key(0)).is_none());
        assert!(cache.get(Key::Decompressed(Lsn(99))).is_none());
        assert!(cache.entries.borrow().len() * 300_000 <= CACHED_BYTES);
    }
}
