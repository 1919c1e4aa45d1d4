//! The encoding around entries: a segment file's first block and each batch's header, and file
//! names. docs/disk_format.md has the layouts.
//!
//! Called by the writer (encode) and by recovery (decode); pure. A batch is the unit of one sync.
//! Every header carries the segment's `nonce`, a random number that no peer can know, so that mail
//! which imitates a batch is never taken for one while recovery scans past damage.

use std::ops::RangeInclusive;

use super::{
    Checkpoint,
    entry::{ENTRY_PAYLOAD_MAX, entry_len, u16_at, u32_at, u64_at},
};
use crate::model::{Lsn, PartitionId};

/// Batches start at multiples of this; the segment header fills the first.
pub(super) const BLOCK: usize = 4096;

/// Bytes of a segment header that are in use; the rest of the block is reserved.
pub(super) const SEGMENT_HEADER_FIELDS: usize = 88;

/// Bytes before a batch's first entry.
pub(super) const BATCH_HEADER: usize = 64;

/// A batch of this size is closed, so that one sync never covers too much.
pub(super) const BATCH_TARGET: usize = 4 * 1024 * 1024;

/// Longest batch payload: a batch under the target may still take one entry of any size.
pub(super) const BATCH_PAYLOAD_MAX: usize = BATCH_TARGET + entry_len(ENTRY_PAYLOAD_MAX);

pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"RINGSEG\n";
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"RBAT");
const CHECKPOINT_MAGIC: [u8; 8] = *b"RINGCHK\n";

/// Version in which a segment (its batches included) and a checkpoint file are written. A file
/// keeps its version for life.
pub(super) const VERSION: u16 = 2;
/// Versions that are read. Each entry's own version describes the differences.
pub(super) const VERSIONS: RangeInclusive<u16> = 1..=VERSION;

/// The version of a segment or checkpoint file, if it begins like one, regardless of later damage.
pub fn version_of_file(bytes: &[u8]) -> Option<u16> {
    let begins = bytes.starts_with(&SEGMENT_MAGIC) || bytes.starts_with(&CHECKPOINT_MAGIC);
    let field = bytes.get(12..)?.first_chunk().filter(|_| begins)?;
    Some(u16::from_le_bytes(*field))
}

/// An entry lies at LSN - base. Compaction writes another layout, with an index (`compacted`).
const LAYOUT_IN_PLACE: u8 = 1;

/// First block of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub partition: PartitionId,
    /// Number of the segment, counted from 1; never reused.
    pub epoch: u64,
    /// LSN of the file's first byte.
    pub base: Lsn,
    pub nonce: u64,
    /// The segment written before this one, 0 for the first.
    pub predecessor: u64,
    /// Where it ended: bytes past it are a tail that was cut, even if they look valid.
    pub predecessor_end: Lsn,
    /// Checksum of its last batch; the chain continues from there.
    pub predecessor_checksum: u32,
    pub checkpoint: Option<Checkpoint>,
    pub checkpoint_sequence: u64,
}

/// Start of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    pub partition: PartitionId,
    pub epoch: u64,
    /// LSN of this header.
    pub lsn: Lsn,
    /// Everything below was on stable storage when this batch was written.
    pub durable: Lsn,
    pub nonce: u64,
    pub payload_len: usize,
    pub payload_checksum: u32,
    /// The header checksum of the previous batch.
    pub previous: u32,
    pub entries: u32,
}

/// Why a block is not the expected header.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("header cut short")]
    Short,
    #[error("not a header")]
    Magic,
    #[error("header checksum does not match")]
    Checksum,
    #[error("header of another file or offset")]
    Misplaced,
    #[error("batch of {0} bytes is longer than the maximum")]
    TooLong(usize),
    /// Intact, but from another version of Ringmail: refused, never skipped.
    #[error("format version {0} is unknown: written by a newer Ringmail")]
    Version(u16),
}

impl SegmentHeader {
    /// Fills `block` (one [`BLOCK`], zeroed).
    pub fn encode(&self, block: &mut [u8]) {
        block[..8].copy_from_slice(&SEGMENT_MAGIC);
        block[12..14].copy_from_slice(&VERSION.to_le_bytes());
        block[14] = LAYOUT_IN_PLACE;
        block[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        block[24..32].copy_from_slice(&self.base.0.to_le_bytes());
        block[32..40].copy_from_slice(&self.nonce.to_le_bytes());
        block[40..48].copy_from_slice(&self.predecessor.to_le_bytes());
        block[48..56].copy_from_slice(&self.predecessor_end.0.to_le_bytes());
        block[56..60].copy_from_slice(&self.predecessor_checksum.to_le_bytes());
        block[60..62].copy_from_slice(&self.partition.0.to_le_bytes());
        let checkpoint = self.checkpoint.unwrap_or_default();
        block[64..72].copy_from_slice(&checkpoint.root.0.to_le_bytes());
        block[72..80].copy_from_slice(&checkpoint.replay_from.0.to_le_bytes());
        block[80..88].copy_from_slice(&self.checkpoint_sequence.to_le_bytes());
        let checksum = crc32c::crc32c(&block[12..BLOCK]);
        block[8..12].copy_from_slice(&checksum.to_le_bytes());
    }

    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, HeaderError> {
        let block: &[u8; BLOCK] = bytes.first_chunk().ok_or(HeaderError::Short)?;
        if block[..8] != SEGMENT_MAGIC {
            return Err(HeaderError::Magic);
        }
        if crc32c::crc32c(&block[12..]) != u32_at(block, 8) {
            return Err(HeaderError::Checksum);
        }
        let (version, layout) = (u16_at(block, 12), block[14]);
        if !VERSIONS.contains(&version) || layout != LAYOUT_IN_PLACE {
            return Err(HeaderError::Version(version.max(u16::from(layout))));
        }
        let sequence = u64_at(block, 80);
        let checkpoint =
            Checkpoint { root: Lsn(u64_at(block, 64)), replay_from: Lsn(u64_at(block, 72)) };
        Ok(SegmentHeader {
            partition: PartitionId(u16_at(block, 60)),
            epoch: u64_at(block, 16),
            base: Lsn(u64_at(block, 24)),
            nonce: u64_at(block, 32),
            predecessor: u64_at(block, 40),
            predecessor_end: Lsn(u64_at(block, 48)),
            predecessor_checksum: u32_at(block, 56),
            checkpoint: (sequence > 0).then_some(checkpoint),
            checkpoint_sequence: sequence,
        })
    }
}

impl BatchHeader {
    /// Fills the first [`BATCH_HEADER`] bytes; returns the checksum the next batch will name.
    pub fn encode(&self, bytes: &mut [u8]) -> u32 {
        bytes[..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.lsn.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.durable.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[40..44].copy_from_slice(&(self.payload_len as u32).to_le_bytes());
        bytes[44..48].copy_from_slice(&self.payload_checksum.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.previous.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.entries.to_le_bytes());
        bytes[56..58].copy_from_slice(&self.partition.0.to_le_bytes());
        bytes[58..64].fill(0);
        let checksum = crc32c::crc32c(&bytes[8..BATCH_HEADER]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }

    /// The header and its checksum.
    pub fn decode(bytes: &[u8]) -> Result<(BatchHeader, u32), HeaderError> {
        let bytes: &[u8; BATCH_HEADER] = bytes.first_chunk().ok_or(HeaderError::Short)?;
        if u32_at(bytes, 0) != BATCH_MAGIC {
            return Err(HeaderError::Magic);
        }
        let checksum = u32_at(bytes, 4);
        if crc32c::crc32c(&bytes[8..]) != checksum {
            return Err(HeaderError::Checksum);
        }
        let payload_len = u32_at(bytes, 40) as usize;
        if payload_len > BATCH_PAYLOAD_MAX {
            return Err(HeaderError::TooLong(payload_len));
        }
        let header = BatchHeader {
            partition: PartitionId(u16_at(bytes, 56)),
            epoch: u64_at(bytes, 16),
            lsn: Lsn(u64_at(bytes, 8)),
            durable: Lsn(u64_at(bytes, 24)),
            nonce: u64_at(bytes, 32),
            payload_len,
            payload_checksum: u32_at(bytes, 44),
            previous: u32_at(bytes, 48),
            entries: u32_at(bytes, 52),
        };
        Ok((header, checksum))
    }
}

/// The content of a checkpoint file: one block, written twice in a row, so that one rotten block
/// does not send a start to an older checkpoint, whose pages compaction may have dropped. Files of
/// the first versions have one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CheckpointFile {
    pub partition: PartitionId,
    pub sequence: u64,
    pub checkpoint: Checkpoint,
    /// Durable end of the log when it was written: a bad batch below it is damage.
    pub durable: Lsn,
    /// Start of a batch at or shortly below `replay_from`, from which a start scans. 0 if none is
    /// known.
    pub scan_from: Lsn,
}

impl CheckpointFile {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..8].copy_from_slice(&CHECKPOINT_MAGIC);
        block[12..14].copy_from_slice(&VERSION.to_le_bytes());
        block[14..16].copy_from_slice(&self.partition.0.to_le_bytes());
        block[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        block[24..32].copy_from_slice(&self.checkpoint.root.0.to_le_bytes());
        block[32..40].copy_from_slice(&self.checkpoint.replay_from.0.to_le_bytes());
        block[40..48].copy_from_slice(&self.durable.0.to_le_bytes());
        block[48..56].copy_from_slice(&self.scan_from.0.to_le_bytes());
        let checksum = crc32c::crc32c(&block[12..]);
        block[8..12].copy_from_slice(&checksum.to_le_bytes());
        block.extend_from_within(..);
        block
    }

    /// Decodes the first intact one of the two blocks.
    pub(super) fn decode(bytes: &[u8]) -> Result<CheckpointFile, HeaderError> {
        match CheckpointFile::decode_block(bytes) {
            Err(error @ HeaderError::Version(_)) => Err(error),
            Err(error) => {
                let mirror = bytes.get(BLOCK..).ok_or(HeaderError::Short);
                mirror.and_then(CheckpointFile::decode_block).map_err(|second| match second {
                    HeaderError::Version(_) => second,
                    _ => error,
                })
            }
            whole => whole,
        }
    }

    fn decode_block(bytes: &[u8]) -> Result<CheckpointFile, HeaderError> {
        let block: &[u8; BLOCK] = bytes.first_chunk().ok_or(HeaderError::Short)?;
        if block[..8] != CHECKPOINT_MAGIC {
            return Err(HeaderError::Magic);
        }
        if crc32c::crc32c(&block[12..]) != u32_at(block, 8) {
            return Err(HeaderError::Checksum);
        }
        let version = u16_at(block, 12);
        if !VERSIONS.contains(&version) {
            return Err(HeaderError::Version(version));
        }
        let (root, replay_from) = (Lsn(u64_at(block, 24)), Lsn(u64_at(block, 32)));
        Ok(CheckpointFile {
            partition: PartitionId(u16_at(block, 14)),
            sequence: u64_at(block, 16),
            checkpoint: Checkpoint { root, replay_from },
            durable: Lsn(u64_at(block, 40)),
            scan_from: Lsn(u64_at(block, 48)),
        })
    }
}

/// The next possible start of a batch.
pub(super) fn align(offset: u64) -> u64 {
    offset.next_multiple_of(BLOCK as u64)
}

pub fn segment_name(epoch: u64) -> String {
    format!("segment-{epoch:016x}")
}

pub(super) fn checkpoint_name(sequence: u64) -> String {
    format!("checkpoint-{sequence:016x}")
}

pub fn segment_epoch(name: &str) -> Option<u64> {
    number(name, "segment-")
}

pub(super) fn checkpoint_sequence(name: &str) -> Option<u64> {
    number(name, "checkpoint-")
}

fn number(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        let checkpoint = Checkpoint { root: Lsn(77), replay_from: Lsn(66) };
        let segment = SegmentHeader {
            partition: PartitionId(3),
            epoch: 4,
            base: Lsn(1 << 40),
            nonce: 99,
            predecessor: 3,
            predecessor_end: Lsn(12345),
            predecessor_checksum: 5,
            checkpoint: Some(checkpoint),
            checkpoint_sequence: 8,
        };
        let mut block = vec![0; BLOCK];
        segment.encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Ok(segment));
        for at in [9, 12, 90, BLOCK - 1] {
            block[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&block), Err(HeaderError::Checksum));
            block[at] ^= 1;
        }

        let batch = BatchHeader {
            partition: PartitionId(3),
            epoch: 4,
            lsn: Lsn(8192),
            durable: Lsn(4096),
            nonce: 99,
            payload_len: 100,
            payload_checksum: 1,
            previous: 2,
            entries: 3,
        };
        let mut bytes = [0xFF; BATCH_HEADER];
        let checksum = batch.encode(&mut bytes);
        assert_eq!(BatchHeader::decode(&bytes), Ok((batch, checksum)));

        let file = CheckpointFile {
            partition: PartitionId(3),
            sequence: 2,
            checkpoint,
            durable: Lsn(100),
            scan_from: Lsn(64),
        };
        let mut bytes = file.encode();
        assert_eq!(CheckpointFile::decode(&bytes), Ok(file));
        assert_eq!(CheckpointFile::decode(&bytes[..BLOCK]), Ok(file));
        bytes[30] ^= 1;
        assert_eq!(CheckpointFile::decode(&bytes), Ok(file));
        assert_eq!(CheckpointFile::decode(&bytes[..BLOCK]), Err(HeaderError::Checksum));
        bytes[BLOCK + 30] ^= 1;
        assert_eq!(CheckpointFile::decode(&bytes), Err(HeaderError::Checksum));
    }

    #[test]
    fn names() {
        assert_eq!(segment_epoch(&segment_name(u64::MAX)), Some(u64::MAX));
        assert_eq!(checkpoint_sequence(&checkpoint_name(7)), Some(7));
        assert_eq!(segment_epoch("segment-1"), None);
        assert_eq!(segment_epoch("checkpoint-0000000000000001"), None);
    }
}
