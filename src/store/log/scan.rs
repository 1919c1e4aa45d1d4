//! Finds the contents of one segment: intact batches, damage, and where the log ends in it.
//!
//! Called by recovery, `inspect` and a fuzz target; pure, and never panics whatever the bytes.
//!
//! The rule: a bad place below an LSN known to have been durable is *damage* (those bytes were once
//! good, and maybe acknowledged): it is reported and the scan goes on at the next block. A bad
//! place without anything durable after it is the torn *tail* of an unfinished write: the log ends
//! there, and everything after it is ignored, even if it looks intact.

use super::{
    compacted::CompactedHeader,
    entry::{EntryError, EntryHeader, decode_header, decode_payload, entry_len},
    resync::{corrected_batch, corrected_entry, corrected_segment, next_entry, wrong_bit},
    segment::{BATCH_HEADER, BLOCK, BatchHeader, HeaderError, SegmentHeader, align},
};
use crate::{
    model::{Lsn, PartitionId},
    plant::{Plant, planted},
};

/// What the caller knows of a segment before reading it.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub partition: PartitionId,
    pub epoch: u64,
    /// LSNs below are known to have been durable, from a later segment or a checkpoint.
    pub durable: Lsn,
}

/// Part of a segment, in order of offset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// A batch with valid checksums; `start..end` are its entries.
    Batch { start: usize, end: usize },
    /// Bytes that were durable and are damaged.
    Damage { start: usize, end: usize, what: String },
    /// As `Damage`, with an intact or nearly intact batch header: entries in `start..end` may be
    /// intact.
    DamagedBatch { start: usize, end: usize, what: String },
}

/// Result of [`scan_segment`].
#[derive(Clone, Debug)]
pub struct SegmentScan {
    /// `None` if damaged beyond one bit; then `base` was derived from the batches.
    pub header: Option<SegmentHeader>,
    /// LSN of the file's first byte; `None` if nothing in the file shows it.
    pub base: Option<Lsn>,
    pub pieces: Vec<Piece>,
    /// Offset where the log ends in this segment: the next block, or the end of the file if its
    /// last batch lacks padding; 0 if it never began.
    pub end: usize,
    /// Checksum of the last intact batch, which the next one must name; the predecessor's if there
    /// is none.
    pub chain: u32,
    /// Bytes past `end` that are not zero padding.
    pub tail: usize,
}

/// A place of the file, before it is known whether it is damage or tail.
struct Place {
    piece: Piece,
    good: bool,
    /// Bad, but not the result of an unfinished write.
    complete: bool,
    lsn: u64,
    /// What this place proves to have been durable.
    durable: u64,
    chain: u32,
    /// Of the batch's payload.
    checksum: u32,
}

impl Place {
    fn bad(piece: Piece, lsn: u64, complete: bool) -> Place {
        Place { piece, good: false, complete, lsn, durable: 0, chain: 0, checksum: 0 }
    }
}

/// Finds the batches in `bytes`, a segment from its first byte to the end of file or to the end
/// according to its successor.
///
/// # Errors
/// Only a format version that this program does not know.
pub fn scan_segment(bytes: &[u8], expected: Expected) -> Result<SegmentScan, HeaderError> {
    let decoded = match SegmentHeader::decode(bytes) {
        // The header of a compacted segment, from a stray write, is damage.
        Err(HeaderError::Version(version)) if CompactedHeader::decode(bytes).is_err() => {
            return Err(HeaderError::Version(version));
        }
        decoded => decoded.ok(),
    };
    let whole = decoded.is_some();
    let header = decoded
        .or_else(|| corrected_segment(bytes))
        .filter(|h| h.partition == expected.partition && h.epoch == expected.epoch);
    let Some((base, nonce)) =
        header.map(|h| (h.base.0, h.nonce)).or_else(|| guess_origin(bytes, expected))
    else {
        return Ok(SegmentScan {
            header,
            base: None,
            pieces: Vec::new(),
            end: 0,
            chain: 0,
            tail: nonzero(bytes),
        });
    };
    let mut found = Vec::new();
    if header.is_none() || !whole {
        let what = "segment header is damaged".to_owned();
        let piece = Piece::Damage { start: 0, end: BLOCK.min(bytes.len()), what };
        found.push(Place::bad(piece, base, header.is_some()));
    }
    let chain = header.map(|header| header.predecessor_checksum);
    let mut walk = Walk { bytes, expected, base, nonce, chain, found };
    walk.batches(BLOCK);
    // Header and first batch are one write. If the batch is intact, nobody was told that it failed,
    // and somebody maybe that it succeeded: it counts, even without the header.
    if header.is_none() && walk.found.get(1).is_some_and(|first| first.good) {
        walk.found[0].complete = true;
    }
    let began = if header.is_some() { BLOCK } else { 0 };
    Ok(decide(bytes, header, base, expected, walk.found, began))
}

/// As [`scan_segment`], for a segment whose `header` is known: `bytes` begins `skip` bytes into the
/// file, where a batch starts. Offsets in the result count from there, and so does its `base`.
pub(super) fn scan_batches(
    bytes: &[u8],
    header: SegmentHeader,
    skip: u64,
    durable: Lsn,
) -> SegmentScan {
    let expected = Expected { partition: header.partition, epoch: header.epoch, durable };
    let base = header.base.0.saturating_add(skip);
    let mut walk =
        Walk { bytes, expected, base, nonce: header.nonce, chain: None, found: Vec::new() };
    walk.batches(0);
    decide(bytes, Some(header), base, expected, walk.found, 0)
}

/// Origin of a segment with a damaged header, from its first batch header.
fn guess_origin(bytes: &[u8], expected: Expected) -> Option<(u64, u64)> {
    (BLOCK..bytes.len()).step_by(BLOCK).find_map(|offset| {
        let (header, _) = BatchHeader::decode(&bytes[offset..]).ok()?;
        let here = header.partition == expected.partition && header.epoch == expected.epoch;
        here.then_some((header.lsn.0.checked_sub(offset as u64)?, header.nonce))
    })
}

struct Walk<'a> {
    bytes: &'a [u8],
    expected: Expected,
    base: u64,
    nonce: u64,
    /// Checksum that the next batch must name; `None` after a gap.
    chain: Option<u32>,
    found: Vec<Place>,
}

impl Walk<'_> {
    fn batches(&mut self, first: usize) {
        let mut offset = first;
        while offset < self.bytes.len() {
            offset = match self.batch(offset) {
                Ok(end) => align(end as u64) as usize,
                Err(error) => {
                    self.bad(offset, error.to_string());
                    offset + BLOCK
                }
            };
        }
    }

    /// Reads the batch at `offset`; returns where it ends.
    fn batch(&mut self, offset: usize) -> Result<usize, HeaderError> {
        let bytes = &self.bytes[offset..];
        let decoded = BatchHeader::decode(bytes);
        let corrected = decoded.is_err();
        let (header, checksum) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => corrected_batch(bytes).ok_or(error)?,
        };
        let lsn = self.base.saturating_add(offset as u64);
        let here = header.partition == self.expected.partition
            && header.epoch == self.expected.epoch
            && header.nonce == self.nonce
            && header.lsn.0 == lsn;
        // A batch at this place that names another predecessor was never the next one.
        if !here || self.chain.is_some_and(|chain| chain != header.previous) {
            return Err(HeaderError::Misplaced);
        }
        let start = offset + BATCH_HEADER;
        let end = start + header.payload_len;
        let payload = self.bytes.get(start..end);
        let whole = payload.is_some_and(|p| crc32c::crc32c(p) == header.payload_checksum)
            || planted(Plant::BatchUnchecked);
        let end = end.min(self.bytes.len());
        let piece = match (whole, corrected) {
            (true, false) => Piece::Batch { start, end },
            (true, true) => {
                Piece::DamagedBatch { start, end, what: "batch header has a wrong bit".to_owned() }
            }
            (false, _) => {
                let what = "batch payload checksum does not match".to_owned();
                Piece::DamagedBatch { start, end, what }
            }
        };
        self.found.push(Place {
            piece,
            good: whole && !corrected,
            complete: whole,
            lsn,
            durable: header.durable.0,
            chain: checksum,
            checksum: header.payload_checksum,
        });
        self.chain = Some(checksum);
        Ok(end)
    }

    /// Records a bad block; consecutive ones become one piece.
    fn bad(&mut self, offset: usize, reason: String) {
        self.chain = None;
        let block_end = (offset + BLOCK).min(self.bytes.len());
        if let Some(Place { piece: Piece::Damage { end, .. }, .. }) = self.found.last_mut()
            && *end == offset
            && offset > BLOCK
        {
            *end = block_end;
            return;
        }
        let piece = Piece::Damage { start: offset, end: block_end, what: reason };
        self.found.push(Place::bad(piece, self.base.saturating_add(offset as u64), false));
    }
}

/// Whether a batch that ends the log, with a wrong checksum, was written completely and has rotted
/// since: one bit is wrong, and every entry confirms that it is this one.
fn rotted(bytes: &[u8], place: &Place) -> bool {
    let Piece::DamagedBatch { start, end, .. } = place.piece else { return false };
    let Some(payload) = bytes.get(start..end) else { return false };
    let Some(bit) = wrong_bit(payload, place.checksum) else { return false };
    let mut payload = payload.to_vec();
    payload[bit / 8] ^= 1 << (bit % 8);
    let mut entries = entries(&payload, Lsn(place.lsn + BATCH_HEADER as u64));
    entries.all(|entry| entry.payload.is_ok() && !entry.corrected)
}

/// Distinguishes damage from tail, and cuts the tail. `began` is where the first batch would start.
fn decide(
    bytes: &[u8],
    header: Option<SegmentHeader>,
    base: u64,
    expected: Expected,
    mut found: Vec<Place>,
    began: usize,
) -> SegmentScan {
    // From the end: what everything after it proves to be durable.
    let mut durable = expected.durable.0;
    let mut cut = found.len();
    for (index, place) in found.iter().enumerate().rev() {
        if !place.good && !place.complete && place.lsn >= durable && !rotted(bytes, place) {
            cut = index;
        }
        durable = durable.max(place.durable);
    }
    found.truncate(cut);

    let mut end = began;
    let mut chain = header.map_or(0, |header| header.predecessor_checksum);
    let mut pieces = Vec::with_capacity(found.len());
    for place in found {
        let (Piece::Batch { end: piece_end, .. }
        | Piece::Damage { end: piece_end, .. }
        | Piece::DamagedBatch { end: piece_end, .. }) = place.piece;
        end = align(piece_end as u64) as usize;
        if !matches!(place.piece, Piece::Damage { .. }) {
            chain = place.chain;
        }
        // A header torn by a crash, with its batch intact, is not damage.
        let torn = header.is_none() && piece_end <= BLOCK && base >= durable;
        if !torn {
            pieces.push(place.piece);
        }
    }
    pieces.extend(missing_end(bytes, base, expected, end));
    let end = end.min(bytes.len());
    let tail = nonzero(&bytes[end..]);
    SegmentScan { header, base: Some(Lsn(base)), pieces, end, chain, tail }
}

/// The file is shorter than its known durable part.
fn missing_end(bytes: &[u8], base: u64, expected: Expected, end: usize) -> Option<Piece> {
    let missing = expected.durable.0.saturating_sub(base).saturating_sub(end as u64);
    (missing > 0 && end >= bytes.len()).then(|| Piece::Damage {
        start: bytes.len(),
        end: bytes.len(),
        what: format!("{missing} bytes at the end are missing"),
    })
}

/// Bytes up to the last non-zero one.
fn nonzero(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// One item of [`entries`].
pub(super) struct Found<'a> {
    pub lsn: Lsn,
    /// `None` if the header itself is broken.
    pub header: Option<EntryHeader>,
    pub payload: Result<&'a [u8], EntryError>,
    /// The header had a single wrong bit.
    pub corrected: bool,
}

/// The entries in `bytes`, the payload of a batch whose first entry has the LSN `lsn`. After a
/// header that is broken beyond one bit, an error, the next intact one is searched for.
pub(super) fn entries(bytes: &[u8], lsn: Lsn) -> impl Iterator<Item = Found<'_>> {
    let mut at = Some(0);
    std::iter::from_fn(move || {
        let offset = at?;
        let rest = bytes.get(offset..).filter(|rest| !rest.is_empty())?;
        let here = Lsn(lsn.0.saturating_add(offset as u64));
        let decoded = decode_header(rest, here);
        let corrected = matches!(decoded, Err(EntryError::HeaderChecksum));
        let stored = match decoded {
            Err(error @ EntryError::HeaderChecksum) => corrected_entry(rest, here).ok_or(error),
            decoded => decoded,
        };
        Some(match stored {
            Ok(stored) => {
                at = Some(offset + entry_len(stored.payload_len));
                let payload = decode_payload(rest, &stored);
                Found { lsn: here, header: Some(stored.header), payload, corrected }
            }
            Err(error) => {
                at = next_entry(bytes, lsn, offset + 1);
                Found { lsn: here, header: None, payload: Err(error), corrected: false }
            }
        })
    })
}

/// The entries that can be found in `bytes`, a gap between batches that begins at `lsn`.
pub(super) fn entries_in_gap(bytes: &[u8], lsn: Lsn) -> impl Iterator<Item = Found<'_>> {
    let first = next_entry(bytes, lsn, 0).unwrap_or(bytes.len());
    let rest = entries(&bytes[first..], Lsn(lsn.0 + first as u64));
    rest.filter(|entry| entry.header.is_some())
}
