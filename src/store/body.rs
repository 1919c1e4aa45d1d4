//! Message bodies on their way into the log and back out.
//!
//! A body up to [`BODY_CHUNK`] lies inside its commit entry; a longer one is written as chunk
//! entries while it arrives, so that a session never holds more than one chunk of it, and the
//! commit entry lists them. Either way the commit entry's payload ends in a *body block*:
//! attributes, size, summary, then the bytes or the list of chunks. Where it pays, a body or each
//! chunk of it is compressed; what is said of lengths elsewhere is said of the body as it came.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use bytes::{Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    compression::{self, Packed},
    damage::Place,
    error::StoreError,
    format::{
        codec::{Decoded, Malformed, Put, Reader},
        effect::split_payload,
    },
    log::{EntryHeader, EntryKind, Log, entry_len},
    message::MessageBody,
    partition::{Inner, undecodable},
};
use crate::model::{AccountId, Lsn, MailboxId, Uid};

/// Bodies above this are written as chunks as they arrive instead of inside their commit entry.
pub const BODY_CHUNK: usize = 256 * 1024;

/// Summaries above this are refused: a commit entry must stay one entry.
const SUMMARY_MAX: usize = 4 << 20;

/// Spilled bodies put together again at a time, a partition: 2 MiB of memory.
pub(super) const REASSEMBLED_MAX: usize = 8;

/// Attribute of a body block: a list of chunks instead of the bytes themselves.
const CHUNKED: u8 = 1;
/// Attribute of a body block: 16 bytes of explicit EMAILID (RFC 8474) precede the summary, for a
/// body that came from another partition. Without it the id is partition and LSN.
const HAS_EMAIL_ID: u8 = 2;
/// Attribute of a body block: its bytes, or those of chunks that say so, are zstd frames.
const COMPRESSED: u8 = 4;
/// Attributes this version can read.
const KNOWN_ATTRIBUTES: u8 = CHUNKED | HAS_EMAIL_ID | COMPRESSED;

/// A chunk entry and how many bytes of the body it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    lsn: Lsn,
    /// Bytes of the entry's payload.
    stored: u32,
    /// Bytes of the body; more than `stored` if these are a frame.
    raw: u32,
}

impl Extent {
    fn is_compressed(&self) -> bool {
        self.stored != self.raw
    }

    fn entry_len(&self) -> u32 {
        entry_len(self.stored as usize) as u32
    }
}

enum Content {
    Inline(Packed),
    Chunked(Vec<Extent>),
}

/// Takes body bytes as they arrive; over [`BODY_CHUNK`] they go to the log as chunk entries, and
/// sooner where memory is short ([`BodyWriter::spill`]). Dropping it leaves at most garbage chunks,
/// never a message.
pub struct BodyWriter {
    partition: Rc<Inner>,
    /// Of the log, when the body began.
    generation: u64,
    buffer: Vec<u8>,
    extents: Vec<Extent>,
    size: u64,
    /// Compressing a chunk has not paid: the others of the body are not tried.
    incompressible: bool,
    staging: Option<Staging>,
}

/// Chunks of bodies that no entry refers to yet, by the LSN of the body's first, with the bytes each
/// takes in the log. Compaction moves them like any others, however long their bodies take.
pub(super) type StagedChunks = BTreeMap<Lsn, Vec<(Lsn, u32)>>;

/// Keeps the chunks of one body among the partition's [`StagedChunks`].
struct Staging {
    partition: Rc<Inner>,
    first: Lsn,
}

impl Staging {
    fn new(partition: Rc<Inner>, first: Lsn) -> Staging {
        partition.staging.borrow_mut().insert(first, Vec::new());
        Staging { partition, first }
    }

    fn add(&self, extent: &Extent) {
        if let Some(chunks) = self.partition.staging.borrow_mut().get_mut(&self.first) {
            chunks.push((extent.lsn, extent.entry_len()));
        }
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
        let incompressible = false;
        BodyWriter {
            partition,
            generation,
            buffer,
            extents,
            size: 0,
            incompressible,
            staging: None,
        }
    }

    /// Waits only when the partition's write buffer is full.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.buffer.len() == BODY_CHUNK {
                self.append_chunk().await?;
            }
            let (now, later) = rest.split_at(rest.len().min(BODY_CHUNK - self.buffer.len()));
            grow(&mut self.buffer, now.len());
            self.buffer.extend_from_slice(now);
            self.size += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    async fn pack(&mut self) -> Packed {
        let raw = std::mem::take(&mut self.buffer);
        let how = self.partition.options.compression.filter(|_| !self.incompressible);
        // A short piece is not even tried, which says nothing about the others.
        let tried = how.is_some_and(|how| raw.len() >= how.body_min);
        let packed = compression::pack(&*self.partition.executor, how, raw).await;
        self.incompressible |= tried && !packed.is_compressed();
        packed
    }

    /// Bytes waiting in memory.
    pub fn staged(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes of memory held, used or not.
    pub fn memory(&self) -> usize {
        self.buffer.capacity() + self.extents.capacity() * size_of::<Extent>()
    }

    /// Writes what waits in memory to the log as a chunk and gives its memory back.
    pub async fn spill(&mut self) -> Result<(), StoreError> {
        if !self.buffer.is_empty() {
            let packed = self.pack().await;
            self.append_packed(&packed).await?;
        }
        self.buffer = Vec::new();
        Ok(())
    }

    /// Gives back memory that nothing waits in.
    pub fn shrink(&mut self) {
        self.buffer.shrink_to_fit();
    }

    /// A body that was spilled and turned out short is put together again: only longer ones may be
    /// in chunks, since compaction does not look for those of others.
    async fn reassemble(&mut self) -> Result<OwnedSemaphorePermit, StoreError> {
        let gate = self.partition.reassembly.clone();
        let permit = gate.acquire_owned().await.map_err(|_| StoreError::Poisoned)?;
        if self.generation != self.partition.log.generation() {
            return Err(StoreError::Poisoned);
        }
        let mut whole = Vec::with_capacity(usize::try_from(self.size).unwrap_or(BODY_CHUNK));
        for extent in &self.extents {
            whole.extend_from_slice(&self.partition.read_chunk(extent).await?);
        }
        // Chunks of before a failure are not to be told from others' by now.
        if self.generation != self.partition.log.generation() {
            return Err(StoreError::Poisoned);
        }
        whole.extend_from_slice(&self.buffer);
        self.buffer = whole;
        self.extents.clear();
        self.staging = None;
        self.incompressible = false;
        Ok(permit)
    }

    async fn append_chunk(&mut self) -> Result<(), StoreError> {
        let packed = self.pack().await;
        self.append_packed(&packed).await?;
        if packed.is_compressed() {
            self.buffer.reserve(BODY_CHUNK);
        } else {
            // The one that was just written.
            self.buffer = packed.bytes;
            self.buffer.clear();
        }
        Ok(())
    }

    async fn append_packed(&mut self, packed: &Packed) -> Result<(), StoreError> {
        self.partition.admit()?;
        self.partition.log.room().await?;
        let header = EntryHeader {
            kind: EntryKind::BodyChunk,
            account: AccountId(0),
            mailbox: MailboxId(0),
            uid: Uid(0),
        };
        let lsn = self.partition.log.append(header, &[&packed.bytes])?;
        let (stored, raw) = (packed.bytes.len() as u32, packed.raw as u32);
        self.partition.body_counters.count_chunk(stored, raw);
        let extent = Extent { lsn, stored, raw };
        let begin = || Staging::new(self.partition.clone(), lsn);
        self.staging.get_or_insert_with(begin).add(&extent);
        self.extents.push(extent);
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
        let mut reassembled = None;
        if !self.extents.is_empty() && self.size <= BODY_CHUNK as u64 {
            reassembled = Some(self.reassemble().await?);
        } else if !self.extents.is_empty() && !self.buffer.is_empty() {
            self.append_chunk().await?;
        }
        let content = match self.extents.is_empty() {
            true => {
                let packed = self.pack().await;
                self.partition.body_counters.count(packed.bytes.len() as u32, packed.raw as u32);
                Content::Inline(packed)
            }
            false => Content::Chunked(self.extents),
        };
        let BodyWriter { partition, generation, size, staging, .. } = self;
        Ok(StagedBody {
            partition,
            generation,
            content,
            summary,
            size,
            _staging: staging,
            _reassembled: reassembled,
        })
    }
}

/// Makes room for `more` bytes of a body: what is doubled is never more than a chunk.
fn grow(buffer: &mut Vec<u8>, more: usize) {
    let needed = buffer.len() + more;
    if needed > buffer.capacity() {
        let capacity = needed.max((2 * buffer.capacity()).min(BODY_CHUNK));
        buffer.reserve_exact(capacity - buffer.len());
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
    /// Kept until the body is in the log: bounds the memory of those put together again.
    _reassembled: Option<OwnedSemaphorePermit>,
}

impl StagedBody {
    /// The log has taken the body: what it held in memory is free for others while the disk writes. Its
    /// chunks stay staged until it is dropped.
    pub(super) fn logged(&mut self) {
        if matches!(self.content, Content::Inline(_)) {
            self.content = Content::Chunked(Vec::new());
        }
        self._reassembled = None;
    }

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
        let (chunked, compressed) = match &self.content {
            Content::Inline(packed) => (0, packed.is_compressed()),
            Content::Chunked(extents) => (CHUNKED, extents.iter().any(Extent::is_compressed)),
        };
        head.put_u8(chunked | if compressed { COMPRESSED } else { 0 });
        head.put_varint(self.size);
        if let Content::Chunked(extents) = &self.content {
            head.put_varint(extents.len() as u64);
            for extent in extents {
                head.put_varint(extent.lsn.0);
                head.put_varint(u64::from(extent.stored));
                if compressed {
                    head.put_varint(u64::from(extent.raw));
                }
            }
        }
        head.put_varint(self.summary.len() as u64);
    }

    pub(super) fn summary(&self) -> &[u8] {
        &self.summary
    }

    pub(super) fn inline(&self) -> &[u8] {
        match &self.content {
            Content::Inline(packed) => &packed.bytes,
            Content::Chunked(_) => &[],
        }
    }

    /// Moves a short body out into a chunk, so that the commit entry is small whatever the body.
    pub(super) async fn into_chunks(self) -> Result<StagedBody, StoreError> {
        let Content::Inline(packed) = self.content else { return Ok(self) };
        let mut writer = BodyWriter::new(self.partition.clone());
        writer.append_packed(&packed).await?;
        let content = Content::Chunked(writer.extents);
        Ok(StagedBody {
            content,
            generation: writer.generation,
            partition: self.partition,
            summary: self.summary,
            size: self.size,
            _staging: writer.staging,
            _reassembled: None,
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
    /// `inline` is a frame.
    compressed: bool,
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
    let compressed = attributes & COMPRESSED != 0;
    let mut extents = Vec::new();
    if attributes & CHUNKED != 0 {
        let count = reader.count(2, "extents")?;
        for _ in 0..count {
            let lsn = Lsn(reader.varint("extent lsn")?);
            let stored = reader.varint_u32("extent length")?;
            let raw = if compressed { reader.varint_u32("bytes of the extent")? } else { stored };
            extents.push(Extent { lsn, stored, raw });
        }
    }
    let summary = reader.bytes("summary")?;
    let inline = reader.take(reader.remaining(), "body")?;
    let held: u64 = match extents.is_empty() {
        // What the frame holds is seen when it is opened.
        true if compressed => size,
        true => inline.len() as u64,
        false => extents.iter().map(|extent| u64::from(extent.raw)).sum(),
    };
    if held != size {
        return Err(Malformed("body size"));
    }
    let compressed = compressed && extents.is_empty();
    Ok(Block { size, extents, summary, inline, compressed })
}

/// Entries read last, so that a long body read in pieces, or summary and then body, read each entry
/// of the log once, and decompress what it holds once. Shard-local.
#[derive(Default)]
pub(super) struct EntryCache {
    /// Latest last.
    entries: RefCell<VecDeque<(Key, Bytes)>>,
    /// Octets read and decompressed since others were let in.
    work: Cell<usize>,
}

/// Octets read and decompressed before other sessions get their turn, about a millisecond's, however
/// few of them were asked for.
const WORK_PER_TURN: usize = 1 << 20;
/// What any reading counts as, also one of what is kept here.
const WORK_MIN: usize = 4 * 1024;
/// Decompressing an octet takes about as long as reading and checking this many.
const DECOMPRESSION_WORK: usize = 3;

/// What is kept of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Payload(Lsn),
    /// The body, or the piece of one, that the entry's frame stands for.
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

    /// Enough was done since the last time this said so.
    fn turn_is_over(&self) -> bool {
        let over = self.work.get() >= WORK_PER_TURN;
        if over {
            self.work.set(0);
        }
        over
    }

    pub(super) fn clear(&self) {
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

impl Inner {
    /// To be awaited before each reading for a session: whoever asks for a few octets each of many
    /// bodies costs what is read and decompressed for them.
    pub(super) async fn reading_turn(&self) {
        if self.cache.turn_is_over() {
            self.executor.yield_now().await;
        }
    }

    async fn read_payload(&self, lsn: Lsn, entry_len: u32) -> Result<Bytes, StoreError> {
        self.cache.worked(WORK_MIN);
        if let Some(payload) = self.cache.get(Key::Payload(lsn)) {
            return Ok(payload);
        }
        let read = match entry_len {
            0 => self.log.read(lsn).await,
            len => self.log.read_sized(lsn, len).await,
        };
        let (_, payload) = read.inspect_err(|error| self.note_damage(error, Place::default()))?;
        self.cache.worked(payload.len());
        self.cache.insert(Key::Payload(lsn), payload.clone());
        Ok(payload)
    }

    /// The `raw` bytes that `frame`, of the entry at `lsn`, stands for.
    fn decompressed(&self, lsn: Lsn, frame: &[u8], raw: u64) -> Result<Bytes, StoreError> {
        let key = Key::Decompressed(lsn);
        let raw = usize::try_from(raw).unwrap_or(usize::MAX);
        // Two references to one chunk may disagree about its size, on a disk that was tampered with.
        if let Some(bytes) = self.cache.get(key).filter(|bytes| bytes.len() == raw) {
            return Ok(bytes);
        }
        let bytes = compression::decompress(frame, raw)
            .map_err(|error| undecodable(lsn, error))
            .inspect_err(|error| self.note_damage(error, Place::default()))?;
        let bytes = Bytes::from(bytes);
        self.cache.worked(bytes.len().saturating_mul(DECOMPRESSION_WORK));
        self.cache.insert(key, bytes.clone());
        Ok(bytes)
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
        if block.compressed {
            let bytes = self.decompressed(body.lsn, block.inline, block.size)?;
            return Ok(bytes.slice(offset as usize..end as usize));
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

    /// The bytes of the body that a chunk holds, exactly as many as the extent says.
    async fn read_chunk(&self, extent: &Extent) -> Result<Bytes, StoreError> {
        let cached = self.cache.get(Key::Decompressed(extent.lsn));
        if let Some(bytes) = cached.filter(|bytes| bytes.len() == extent.raw as usize) {
            return Ok(bytes);
        }
        let payload = self.read_payload(extent.lsn, extent.entry_len()).await?;
        if payload.len() != extent.stored as usize {
            return Err(undecodable(extent.lsn, Malformed("chunk length")));
        }
        match extent.is_compressed() {
            true => self.decompressed(extent.lsn, &payload, u64::from(extent.raw)),
            false => Ok(payload),
        }
    }

    /// The entries that hold the body's chunks, with their bytes in the log; none if it lies in its
    /// commit entry.
    pub(super) async fn chunks(&self, body: &MessageBody) -> Result<Vec<(Lsn, u32)>, StoreError> {
        let payload = self.read_payload(body.lsn, body.entry_len).await?;
        let block = block_of(&payload).map_err(|error| undecodable(body.lsn, error))?;
        let chunk = |extent: &Extent| (extent.lsn, extent.entry_len());
        Ok(block.extents.iter().map(chunk).collect())
    }

    /// The chunks of a body in the log, to be committed once more. Who calls holds the entry that has
    /// them now.
    pub(super) async fn stage_again(
        self: &Rc<Self>,
        body: &MessageBody,
    ) -> Result<StagedBody, StoreError> {
        let generation = self.log.generation();
        let payload = self.read_payload(body.lsn, body.entry_len).await?;
        let block = block_of(&payload).map_err(|error| undecodable(body.lsn, error))?;
        if block.extents.is_empty() {
            return Err(StoreError::NotPermitted("a body that is not in chunks"));
        }
        let (size, summary) = (block.size, block.summary.to_vec());
        let content = Content::Chunked(block.extents);
        let partition = self.clone();
        Ok(StagedBody {
            partition,
            generation,
            content,
            summary,
            size,
            _staging: None,
            _reassembled: None,
        })
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
    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::Timestamp,
        runtime::{device::memory::MemoryDevice, simulation::Simulation},
        store::{DeliveryTarget, Partition, StoreOptions},
    };

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
        assert!(parse_block(&[8, 0, 0]).is_err());
        // attributes, size, one extent (lsn 9, 5 bytes), summary length
        let block = parse_block(&[CHUNKED, 5, 1, 9, 5, 0]).unwrap();
        assert_eq!(block.extents, [Extent { lsn: Lsn(9), stored: 5, raw: 5 }]);
        // Compressed: 2 bytes stand for 5 in the first extent, the second is plain.
        let block = parse_block(&[CHUNKED | COMPRESSED, 8, 2, 9, 2, 5, 11, 3, 3, 0]).unwrap();
        assert!(block.extents[0].is_compressed() && !block.extents[1].is_compressed());
        // A frame: how much it holds is not seen yet.
        let block = parse_block(&[COMPRESSED, 100, 0, b'z', b'z']).unwrap();
        assert_eq!((block.size, block.inline, block.compressed), (100, &b"zz"[..], true));
    }

    /// A frame whose checksums hold and that is none, or of another length, is damage, and named.
    #[test]
    fn a_false_frame_is_not_served() {
        let simulation = Simulation::new(1);
        simulation.run_until(async {
            let (device, executor) = (Rc::new(MemoryDevice::new()), Rc::new(simulation.clone()));
            let partition =
                Partition::open(device, executor, StoreOptions::default()).await.unwrap().0;
            let frame = compression::compress(vec![b'x'; 5000], 1).bytes;
            let cut = frame[..frame.len() - 1].to_vec();
            let contents = [
                (vec![1, 2, 3], 5000),
                (cut, 5000),
                (frame.clone(), 4999),
                (frame.clone(), 5001),
                (frame.clone(), 2 * BODY_CHUNK),
            ];
            for (bytes, raw) in contents {
                for chunked in [false, true] {
                    let staged = partition.stage().finish(Vec::new()).await.unwrap();
                    let content = Content::Inline(Packed { bytes: bytes.clone(), raw });
                    let mut staged = StagedBody { content, size: raw as u64, ..staged };
                    if chunked {
                        staged = staged.into_chunks().await.unwrap();
                    }
                    let target = DeliveryTarget {
                        account: AccountId(1),
                        mailbox: None,
                        flags: Default::default(),
                        keywords: Vec::new(),
                        internal_date: Timestamp(0),
                    };
                    partition.deliver(staged, vec![target], None).await.unwrap();
                }
            }
            let account = partition.account(AccountId(1)).await.unwrap();
            let view = account.select(MailboxId::INBOX, false).await.unwrap();
            let messages = view.current().unwrap();
            assert_eq!(messages.len(), 10);
            for message in messages.iter_from(0) {
                for len in [1, usize::MAX] {
                    let read = account.read_body(&message.body, 0, len).await;
                    assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
                }
            }
            assert_eq!(partition.verify(&|_| {}).await.unwrap().messages_damaged, 10);
        });
    }

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
    fn the_cache_is_bounded() {
        let cache = EntryCache::default();
        let key = |n| Key::Payload(Lsn(n));
        (0..100).for_each(|n| cache.insert(key(n), Bytes::from(vec![0; 300_000])));
        assert!(cache.get(key(99)).is_some() && cache.get(key(0)).is_none());
        assert!(cache.get(Key::Decompressed(Lsn(99))).is_none());
        assert!(cache.entries.borrow().len() * 300_000 <= CACHED_BYTES);
    }
}
