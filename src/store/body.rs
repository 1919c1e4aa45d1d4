//! Message bodies on their way into the log and back out.
//!
//! A body up to [`BODY_CHUNK`] lies inside its commit entry; a longer one is written as chunk
//! entries while it arrives, so that a session never holds more than one chunk of it, and the
//! commit entry lists them. Either way the commit entry's payload ends in a *body block*:
//! attributes, size, summary, then the bytes or the list of chunks.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use bytes::{Bytes, BytesMut};

use super::{
    codec::{Decoded, Malformed, Put, Reader},
    damage::Place,
    effect::split_payload,
    error::StoreError,
    log::{EntryHeader, EntryKind, Log, entry_len},
    partition::{Inner, undecodable},
    snapshot::MessageBody,
};
use crate::model::{AccountId, Lsn, MailboxId, Uid};

/// Bodies above this are written as chunks as they arrive instead of inside their commit entry.
pub const BODY_CHUNK: usize = 256 * 1024;

/// Summaries above this are refused: a commit entry must stay one entry.
const SUMMARY_MAX: usize = 4 << 20;

/// Attribute of a body block: a list of chunks instead of the bytes themselves.
const CHUNKED: u8 = 1;
/// Attribute of a body block: 16 bytes of explicit EMAILID (RFC 8474) precede the summary, for a
/// body that came from another partition. Without it the id is partition and LSN.
const HAS_EMAIL_ID: u8 = 2;
/// Attributes this version can read; compression will add some.
const KNOWN_ATTRIBUTES: u8 = CHUNKED | HAS_EMAIL_ID;

/// A chunk entry and how many bytes of the body it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    lsn: Lsn,
    len: u32,
}

enum Content {
    Inline(Vec<u8>),
    Chunked(Vec<Extent>),
}

/// Takes body bytes as they arrive; over [`BODY_CHUNK`] they go to the log as chunk entries.
/// Dropping it leaves at most garbage chunks, never a message.
pub struct BodyWriter {
    partition: Rc<Inner>,
    /// Of the log, when the body began.
    generation: u64,
    buffer: Vec<u8>,
    extents: Vec<Extent>,
    size: u64,
    staging: Option<Staging>,
}

/// Holds compaction off the chunks of a body that no entry refers to yet.
struct Staging {
    partition: Rc<Inner>,
    first: Lsn,
}

impl Staging {
    fn new(partition: Rc<Inner>, first: Lsn) -> Staging {
        partition.staging.borrow_mut().insert(first);
        Staging { partition, first }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.partition.staging.borrow_mut().remove(&self.first);
    }
}

impl BodyWriter {
    pub(super) fn new(partition: Rc<Inner>) -> BodyWriter {
        let generation = partition.log.generation();
        let (buffer, extents) = (Vec::new(), Vec::new());
        BodyWriter { partition, generation, buffer, extents, size: 0, staging: None }
    }

    /// Waits only when the partition's write buffer is full.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.buffer.len() == BODY_CHUNK {
                self.append_chunk().await?;
            }
            let (now, later) = rest.split_at(rest.len().min(BODY_CHUNK - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            self.size += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    async fn append_chunk(&mut self) -> Result<(), StoreError> {
        self.partition.admit()?;
        self.partition.log.room().await?;
        let header = EntryHeader {
            kind: EntryKind::BodyChunk,
            account: AccountId(0),
            mailbox: MailboxId(0),
            uid: Uid(0),
        };
        let lsn = self.partition.log.append(header, &[&self.buffer])?;
        if self.staging.is_none() {
            self.staging = Some(Staging::new(self.partition.clone(), lsn));
        }
        self.extents.push(Extent { lsn, len: self.buffer.len() as u32 });
        self.buffer.clear();
        Ok(())
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// `summary` is what `protocol::mime` derived, opaque here, kept beside the message.
    pub async fn finish(mut self, summary: Vec<u8>) -> Result<StagedBody, StoreError> {
        if summary.len() > SUMMARY_MAX {
            return Err(StoreError::Limit("bytes of a message summary"));
        }
        if !self.extents.is_empty() && !self.buffer.is_empty() {
            self.append_chunk().await?;
        }
        let content = match self.extents.is_empty() {
            true => Content::Inline(self.buffer),
            false => Content::Chunked(self.extents),
        };
        let BodyWriter { partition, generation, size, staging, .. } = self;
        Ok(StagedBody { partition, generation, content, summary, size, _staging: staging })
    }
}

/// A complete body waiting for its commit entry. Belongs to the partition that staged it.
pub struct StagedBody {
    partition: Rc<Inner>,
    generation: u64,
    content: Content,
    summary: Vec<u8>,
    size: u64,
    _staging: Option<Staging>,
}

impl StagedBody {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Extents are LSNs of one log: a body must not be committed to another.
    pub(super) fn belongs_to(&self, partition: &Rc<Inner>) -> bool {
        Rc::ptr_eq(&self.partition, partition)
    }

    /// Refuses a body whose chunks may have gone with a failure of the log since it was begun.
    pub(super) fn check_chunks(&self, log: &Log) -> Result<(), StoreError> {
        let chunked = matches!(self.content, Content::Chunked(_));
        match chunked && self.generation != log.generation() {
            true => Err(StoreError::Poisoned),
            false => Ok(()),
        }
    }

    /// Appends the body block's beginning to `head`; the block goes on with [`Self::summary`] and
    /// [`Self::inline`].
    pub(super) fn encode_head(&self, head: &mut Vec<u8>) {
        head.put_u8(if matches!(self.content, Content::Chunked(_)) { CHUNKED } else { 0 });
        head.put_varint(self.size);
        if let Content::Chunked(extents) = &self.content {
            head.put_varint(extents.len() as u64);
            for extent in extents {
                head.put_varint(extent.lsn.0);
                head.put_varint(u64::from(extent.len));
            }
        }
        head.put_varint(self.summary.len() as u64);
    }

    pub(super) fn summary(&self) -> &[u8] {
        &self.summary
    }

    pub(super) fn inline(&self) -> &[u8] {
        match &self.content {
            Content::Inline(bytes) => bytes,
            Content::Chunked(_) => &[],
        }
    }

    /// Moves a short body out into a chunk, so that the commit entry is small whatever the body.
    pub(super) async fn into_chunks(self) -> Result<StagedBody, StoreError> {
        let Content::Inline(buffer) = self.content else { return Ok(self) };
        let mut writer =
            BodyWriter { buffer, size: self.size, ..BodyWriter::new(self.partition.clone()) };
        writer.append_chunk().await?;
        let content = Content::Chunked(writer.extents);
        Ok(StagedBody {
            content,
            generation: writer.generation,
            partition: self.partition,
            summary: self.summary,
            size: self.size,
            _staging: writer.staging,
        })
    }
}

/// A body block taken apart.
struct Block<'a> {
    size: u64,
    extents: Vec<Extent>,
    summary: &'a [u8],
    /// Empty when there are extents.
    inline: &'a [u8],
}

fn parse_block(block: &[u8]) -> Decoded<Block<'_>> {
    let mut reader = Reader::new(block);
    let attributes = reader.u8("body attributes")?;
    if attributes & !KNOWN_ATTRIBUTES != 0 {
        return Err(Malformed("body attributes"));
    }
    let size = reader.varint("body size")?;
    if attributes & HAS_EMAIL_ID != 0 {
        reader.u128("email id")?;
    }
    let mut extents = Vec::new();
    if attributes & CHUNKED != 0 {
        let count = reader.count(2, "extents")?;
        for _ in 0..count {
            let lsn = Lsn(reader.varint("extent lsn")?);
            extents.push(Extent { lsn, len: reader.varint_u32("extent length")? });
        }
    }
    let summary = reader.bytes("summary")?;
    let inline = reader.take(reader.remaining(), "body")?;
    let stored: u64 = match extents.is_empty() {
        true => inline.len() as u64,
        false => extents.iter().map(|extent| u64::from(extent.len)).sum(),
    };
    if stored != size {
        return Err(Malformed("body size"));
    }
    Ok(Block { size, extents, summary, inline })
}

/// Entries read last, so that a long body read in pieces, or summary and then body, read each entry
/// of the log once. Shard-local.
#[derive(Default)]
pub(super) struct EntryCache {
    /// Latest last.
    entries: RefCell<VecDeque<(Lsn, Bytes)>>,
}

/// Entries kept in an [`EntryCache`], and bytes of them.
const CACHED_ENTRIES: usize = 16;
const CACHED_BYTES: usize = 2 << 20;

impl EntryCache {
    fn get(&self, lsn: Lsn) -> Option<Bytes> {
        let entries = self.entries.borrow();
        entries.iter().rev().find(|(at, _)| *at == lsn).map(|(_, payload)| payload.clone())
    }

    pub(super) fn clear(&self) {
        self.entries.borrow_mut().clear();
    }

    fn insert(&self, lsn: Lsn, payload: Bytes) {
        let mut entries = self.entries.borrow_mut();
        entries.push_back((lsn, payload));
        let mut bytes: usize = entries.iter().map(|(_, payload)| payload.len()).sum();
        while entries.len() > CACHED_ENTRIES || bytes > CACHED_BYTES {
            let Some((_, oldest)) = entries.pop_front() else { break };
            bytes -= oldest.len();
        }
    }
}

impl Inner {
    async fn read_payload(&self, lsn: Lsn, entry_len: u32) -> Result<Bytes, StoreError> {
        if let Some(payload) = self.cache.get(lsn) {
            return Ok(payload);
        }
        let read = match entry_len {
            0 => self.log.read(lsn).await,
            len => self.log.read_sized(lsn, len).await,
        };
        let (_, payload) = read.inspect_err(|error| self.note_damage(error, Place::default()))?;
        self.cache.insert(lsn, payload.clone());
        Ok(payload)
    }

    /// Bytes `offset..offset + len` of the body, clamped to its size.
    pub(super) async fn read_body(
        &self,
        body: &MessageBody,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        let payload = self.read_payload(body.lsn, body.entry_len).await?;
        let block = block_of(&payload).map_err(|error| undecodable(body.lsn, error))?;
        let end = offset.saturating_add(len as u64).min(block.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        if block.extents.is_empty() {
            return Ok(payload.slice_ref(&block.inline[offset as usize..end as usize]));
        }
        self.read_extents(&block.extents, offset, end).await
    }

    /// Reads only the chunks that hold some of `offset..end`, which lies within them.
    async fn read_extents(
        &self,
        extents: &[Extent],
        offset: u64,
        end: u64,
    ) -> Result<Bytes, StoreError> {
        let mut start = 0;
        let mut out = BytesMut::new();
        for extent in extents {
            let (first, last) = (start, start + u64::from(extent.len));
            start = last;
            if last <= offset || first >= end {
                continue;
            }
            let entry_len = entry_len(extent.len as usize) as u32;
            let chunk = self.read_payload(extent.lsn, entry_len).await?;
            let from = (offset.max(first) - first) as usize;
            let to = (end.min(last) - first) as usize;
            if chunk.len() != extent.len as usize {
                return Err(undecodable(extent.lsn, Malformed("chunk length")));
            }
            let piece = chunk.slice(from..to);
            if piece.len() as u64 == end - offset {
                return Ok(piece);
            }
            out.extend_from_slice(&piece);
        }
        Ok(out.freeze())
    }

    /// The entries that hold the body's chunks, with their bytes in the log; none if it lies in its
    /// commit entry.
    pub(super) async fn chunks(&self, body: &MessageBody) -> Result<Vec<(Lsn, u32)>, StoreError> {
        let payload = self.read_payload(body.lsn, body.entry_len).await?;
        let block = block_of(&payload).map_err(|error| undecodable(body.lsn, error))?;
        let chunk = |extent: &Extent| (extent.lsn, entry_len(extent.len as usize) as u32);
        Ok(block.extents.iter().map(chunk).collect())
    }

    pub(super) async fn read_summary(&self, body: &MessageBody) -> Result<Bytes, StoreError> {
        let payload = self.read_payload(body.lsn, body.entry_len).await?;
        let block = block_of(&payload).map_err(|error| undecodable(body.lsn, error))?;
        Ok(payload.slice_ref(block.summary))
    }
}

fn block_of(payload: &[u8]) -> Decoded<Block<'_>> {
    parse_block(split_payload(payload)?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_block(&bytes);
        }
    }

    #[test]
    fn blocks_say_what_they_hold() {
        // attributes, size, summary length, summary, body
        let block = parse_block(&[0, 3, 2, b's', b'u', b'a', b'b', b'c']).unwrap();
        assert_eq!((block.size, block.summary, block.inline), (3, &b"su"[..], &b"abc"[..]));
        // One byte of the body lost, an unknown attribute.
        assert!(parse_block(&[0, 3, 2, b's', b'u', b'a', b'b']).is_err());
        assert!(parse_block(&[4, 0, 0]).is_err());
        // attributes, size, one extent (lsn 9, 5 bytes), summary length
        let block = parse_block(&[CHUNKED, 5, 1, 9, 5, 0]).unwrap();
        assert_eq!(block.extents, [Extent { lsn: Lsn(9), len: 5 }]);
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = EntryCache::default();
        (0..100).for_each(|n| cache.insert(Lsn(n), Bytes::from(vec![0; 300_000])));
        assert!(cache.get(Lsn(99)).is_some() && cache.get(Lsn(0)).is_none());
        assert!(cache.entries.borrow().len() * 300_000 <= CACHED_BYTES);
    }
}
