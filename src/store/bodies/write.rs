//! Writing bodies to the log: taken in pieces, staged, committed by the entry that names them.

use std::{collections::BTreeMap, rc::Rc};

use bytes::Bytes;

use super::{
    super::{
        error::StoreError,
        format::body::{BODY_CHUNK, Extent, put_head},
        log::{EntryHeader, EntryKind, Log},
        message::MessageBody,
    },
    Bodies,
    compression::{self, Packed},
};
use crate::{
    model::{AccountId, Lsn, MailboxId, Uid},
    runtime::wait::Permit,
};

/// Summaries above this are refused: a commit entry must stay one entry.
const SUMMARY_MAX: usize = 4 << 20;

/// Spilled bodies reassembled at a time, per partition: 2 MiB of memory.
pub(crate) const REASSEMBLED_MAX: usize = 8;

/// Octets that [`BodyWriter::read`] copies from memory.
const PIECE_SIZE: usize = 64 * 1024;

enum Content {
    Inline(Packed),
    Chunked(Vec<Extent>),
}

/// Takes body bytes as they arrive; beyond [`BODY_CHUNK`] they go to the log as chunk entries, and
/// sooner when memory is short ([`BodyWriter::spill`]). Dropping it leaves at most garbage chunks,
/// never a message.
pub struct BodyWriter {
    bodies: Rc<Bodies>,
    /// The log's generation when the body began.
    generation: u64,
    buffer: Vec<u8>,
    extents: Vec<Extent>,
    size: u64,
    /// Compressing a chunk did not pay: the body's other chunks are not tried.
    incompressible: bool,
    staging: Option<Staging>,
}

/// Chunks of bodies, and parked bodies, that no entry refers to yet, by the LSN of the body's
/// first entry, with the bytes each takes in the log. Compaction moves them like any others,
/// however long their bodies take.
pub(crate) type StagedChunks = BTreeMap<Lsn, Vec<(Lsn, u32)>>;

/// Keeps the chunks of one body among those of [`Bodies`].
struct Staging {
    bodies: Rc<Bodies>,
    first: Lsn,
}

impl Staging {
    fn new(bodies: Rc<Bodies>, first: Lsn) -> Staging {
        bodies.staging.borrow_mut().insert(first, Vec::new());
        Staging { bodies, first }
    }

    fn add(&self, extent: &Extent) {
        self.add_entry(extent.lsn, extent.entry_len());
    }

    fn add_entry(&self, lsn: Lsn, entry_len: u32) {
        if let Some(entries) = self.bodies.staging.borrow_mut().get_mut(&self.first) {
            entries.push((lsn, entry_len));
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.bodies.staging.borrow_mut().remove(&self.first);
    }
}

impl BodyWriter {
    pub(in crate::store) fn new(bodies: Rc<Bodies>) -> BodyWriter {
        let generation = bodies.log.generation();
        let (buffer, extents) = (Vec::new(), Vec::new());
        let incompressible = false;
        BodyWriter { bodies, generation, buffer, extents, size: 0, incompressible, staging: None }
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

    /// Puts `prologue` before everything written: in memory if the body is still there, otherwise
    /// as a chunk of its own. To be called last: bytes written afterwards still follow the body.
    pub async fn prepend(&mut self, prologue: &[u8]) -> Result<(), StoreError> {
        if prologue.is_empty() {
            return Ok(());
        }
        if prologue.len() > BODY_CHUNK {
            return Err(StoreError::Limit("bytes before a body"));
        }
        let together = prologue.len() + self.buffer.len();
        if self.extents.is_empty() && together <= BODY_CHUNK {
            let mut whole = Vec::with_capacity(together);
            whole.extend_from_slice(prologue);
            whole.extend_from_slice(&self.buffer);
            self.buffer = whole;
        } else {
            if !self.buffer.is_empty() {
                self.append_chunk().await?;
            }
            let packed = Packed { bytes: prologue.to_vec(), raw: prologue.len() };
            self.append_packed(&packed).await?;
            self.extents.rotate_right(1);
        }
        self.size += prologue.len() as u64;
        Ok(())
    }

    /// Part of the written octets from `offset` on; empty at the end. Repeated calls read all of
    /// it.
    pub async fn read(&self, offset: u64) -> Result<Bytes, StoreError> {
        let mut start = 0;
        for extent in &self.extents {
            let end = start + u64::from(extent.raw);
            if offset < end {
                self.bodies.reading_turn().await;
                // After a failure of the log an LSN may belong to another entry.
                if self.generation != self.bodies.log.generation() {
                    return Err(StoreError::Poisoned);
                }
                let chunk = self.bodies.read_chunk(extent).await?;
                if self.generation != self.bodies.log.generation() {
                    return Err(StoreError::Poisoned);
                }
                return Ok(chunk.slice((offset - start) as usize..));
            }
            start = end;
        }
        let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let rest = self.buffer.get(from..).unwrap_or_default();
        Ok(Bytes::copy_from_slice(rest.get(..PIECE_SIZE).unwrap_or(rest)))
    }

    async fn pack(&mut self) -> Packed {
        let raw = std::mem::take(&mut self.buffer);
        let how = self.bodies.compression.filter(|_| !self.incompressible);
        // A short piece is not tried, which does not count as a failure to compress.
        let tried = how.is_some_and(|how| raw.len() >= how.body_min);
        let packed = compression::pack(&*self.bodies.executor, how, raw).await;
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

    /// Writes the part in memory to the log as a chunk and frees its memory.
    pub async fn spill(&mut self) -> Result<(), StoreError> {
        if !self.buffer.is_empty() {
            let packed = self.pack().await;
            self.append_packed(&packed).await?;
        }
        self.buffer = Vec::new();
        Ok(())
    }

    /// Frees unused memory.
    pub fn shrink(&mut self) {
        self.buffer.shrink_to_fit();
    }

    /// Reassembles a body that was spilled but turned out short: only longer ones may be in chunks,
    /// since compaction does not look for chunks of others.
    async fn reassemble(&mut self) -> Result<Permit, StoreError> {
        let permit = self.bodies.reassembly.acquire().await;
        if self.generation != self.bodies.log.generation() {
            return Err(StoreError::Poisoned);
        }
        let mut whole = Vec::with_capacity(usize::try_from(self.size).unwrap_or(BODY_CHUNK));
        for extent in &self.extents {
            whole.extend_from_slice(&self.bodies.read_chunk(extent).await?);
        }
        // After a failure, old chunks cannot be distinguished from others.
        if self.generation != self.bodies.log.generation() {
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
            // The chunk that was just written.
            self.buffer = packed.bytes;
            self.buffer.clear();
        }
        Ok(())
    }

    async fn append_packed(&mut self, packed: &Packed) -> Result<(), StoreError> {
        self.bodies.admission.admit()?;
        self.bodies.log.room().await?;
        let header = EntryHeader::new(EntryKind::BodyChunk, AccountId(0), MailboxId(0), Uid(0));
        let lsn = self.bodies.log.append(header, &[&packed.bytes])?;
        let (stored, raw) = (packed.bytes.len() as u32, packed.raw as u32);
        self.bodies.counters.count_chunk(stored, raw);
        let extent = Extent { lsn, stored, raw };
        let begin = || Staging::new(self.bodies.clone(), lsn);
        self.staging.get_or_insert_with(begin).add(&extent);
        self.extents.push(extent);
        Ok(())
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// `summary` is derived by `protocol::mime`, opaque here, and kept beside the message.
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
                self.bodies.counters.count(packed.bytes.len() as u32, packed.raw as u32);
                Content::Inline(packed)
            }
            false => Content::Chunked(self.extents),
        };
        let BodyWriter { bodies, generation, size, staging, .. } = self;
        Ok(StagedBody {
            bodies,
            generation,
            content,
            summary,
            size,
            _staging: staging,
            _reassembled: reassembled,
        })
    }
}

/// Makes room for `more` bytes of a body: doubling never allocates more than a chunk.
fn grow(buffer: &mut Vec<u8>, more: usize) {
    let needed = buffer.len() + more;
    if needed > buffer.capacity() {
        let capacity = needed.max((2 * buffer.capacity()).min(BODY_CHUNK));
        buffer.reserve_exact(capacity - buffer.len());
    }
}

/// A body that is in the log in an entry of its own, to which no message refers yet. To be kept
/// until the entry that does is durable.
pub(crate) struct ParkedBody {
    pub(crate) body: MessageBody,
    _staging: Staging,
}

/// A complete body waiting for its commit entry. Belongs to the partition that staged it.
pub struct StagedBody {
    bodies: Rc<Bodies>,
    generation: u64,
    content: Content,
    summary: Vec<u8>,
    size: u64,
    _staging: Option<Staging>,
    /// Held until the body is in the log: limits the memory of reassembled bodies.
    _reassembled: Option<Permit>,
}

impl StagedBody {
    /// The log has taken the body in the entry at `lsn`: its memory is free for others while the
    /// disk writes. Its chunks stay staged until it is dropped.
    pub(crate) fn logged(&mut self, lsn: Lsn) {
        self.bodies.recent.borrow_mut().keep(lsn, std::mem::take(&mut self.summary));
        if matches!(self.content, Content::Inline(_)) {
            self.content = Content::Chunked(Vec::new());
        }
        self._reassembled = None;
    }

    /// The body alone is the entry at `lsn`; to be called after [`StagedBody::logged`].
    pub(crate) fn parked(self, lsn: Lsn, entry_len: u32) -> ParkedBody {
        let staging = self._staging.unwrap_or_else(|| Staging::new(self.bodies, lsn));
        staging.add_entry(lsn, entry_len);
        ParkedBody { body: MessageBody { lsn, size: self.size, entry_len }, _staging: staging }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Extents are LSNs of one log: a body must not be committed to another.
    pub(in crate::store) fn belongs_to(&self, bodies: &Rc<Bodies>) -> bool {
        Rc::ptr_eq(&self.bodies, bodies)
    }

    /// Refuses a body whose chunks may have been lost in a failure of the log since it began.
    pub(crate) fn check_chunks(&self, log: &Log) -> Result<(), StoreError> {
        let chunked = matches!(self.content, Content::Chunked(_));
        match chunked && self.generation != log.generation() {
            true => Err(StoreError::Poisoned),
            false => Ok(()),
        }
    }

    /// Appends the start of the body block to `head`; the block continues with [`Self::summary`]
    /// and [`Self::inline`].
    pub(crate) fn encode_head(&self, head: &mut Vec<u8>) {
        let (extents, compressed) = match &self.content {
            Content::Inline(packed) => (None, packed.is_compressed()),
            Content::Chunked(extents) => (Some(extents.as_slice()), false),
        };
        put_head(head, extents, compressed, self.size, self.summary.len());
    }

    pub(crate) fn summary(&self) -> &[u8] {
        &self.summary
    }

    pub(crate) fn inline(&self) -> &[u8] {
        match &self.content {
            Content::Inline(packed) => &packed.bytes,
            Content::Chunked(_) => &[],
        }
    }

    /// Moves a short body to a chunk, as in format 1's spool.
    #[cfg(test)]
    pub(crate) async fn into_chunks(self) -> Result<StagedBody, StoreError> {
        let Content::Inline(packed) = self.content else { return Ok(self) };
        let mut writer = BodyWriter::new(self.bodies.clone());
        writer.append_packed(&packed).await?;
        let content = Content::Chunked(writer.extents);
        Ok(StagedBody {
            content,
            generation: writer.generation,
            bodies: self.bodies,
            summary: self.summary,
            size: self.size,
            _staging: writer.staging,
            _reassembled: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Timestamp,
        runtime::{device::memory::MemoryDevice, simulation::Simulation},
        store::{DeliveryTarget, Partition, StoreOptions},
    };

    /// Bytes with valid checksums that are not a frame, or one of another length, are damage, and
    /// named.
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
                        annotations: Vec::new(),
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
}
