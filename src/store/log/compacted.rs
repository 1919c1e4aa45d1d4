//! The encoding of a compacted segment (layout 2): entries of older segments with their LSNs,
//! packed together, and an index that finds them. docs/disk_format.md has the layout.
//!
//! Called by compaction (encode), by recovery, reads and a fuzz target (decode); pure, and never
//! panics whatever the bytes. The file is complete if its last block, the footer, is intact: it is
//! written after everything else was synced, and repeats the header. Index blocks and footer carry
//! the file's nonce, so that mail which imitates them is never taken for them.

use super::{
    entry::{
        ENTRY_ALIGN, ENTRY_HEADER, EntryError, decode_header, decode_payload, entry_len, len_of,
        lsn_of,
    },
    entry::{u16_at, u32_at, u64_at},
    segment::{BLOCK, HeaderError, SEGMENT_MAGIC, VERSION, VERSIONS, align},
};
use crate::model::{Lsn, PartitionId};

/// Layout byte of a segment whose entries are found through its index.
pub(super) const LAYOUT_INDEXED: u8 = 2;

/// Segments that one compacted segment may replace: their epochs fit in its header.
pub const SOURCES_MAX: usize = 256;

/// Index records in a block.
pub(super) const INDEX_RECORDS: usize = (BLOCK - INDEX_HEADER) / INDEX_RECORD;

const INDEX_HEADER: usize = 16;
const INDEX_RECORD: usize = 16;
const FOOTER_MAGIC: [u8; 8] = *b"RINGEND\n";
const SOURCES_AT: usize = 96;

/// The description of a compacted segment, in its first block and again in its last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompactedHeader {
    pub partition: PartitionId,
    pub epoch: u64,
    /// The first LSN that it covers.
    pub base: Lsn,
    /// The first LSN that it does not cover; missing LSNs in between were garbage.
    pub end: Lsn,
    pub nonce: u64,
    /// Epochs of the segments it replaces.
    pub sources: Vec<u64>,
}

/// The last block: only a complete file has one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CompactedFooter {
    pub header: CompactedHeader,
    /// Offset of the first index block.
    pub index_at: u64,
    pub entries: u64,
    /// Bytes of these entries, padding included.
    pub entry_bytes: u64,
}

/// The location of an entry in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexRecord {
    pub lsn: Lsn,
    pub offset: u64,
    /// Bytes it takes, padding included.
    pub len: u32,
}

impl CompactedHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = self.block(SEGMENT_MAGIC);
        seal(&mut block);
        block
    }

    fn block(&self, magic: [u8; 8]) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..8].copy_from_slice(&magic);
        block[12..14].copy_from_slice(&VERSION.to_le_bytes());
        block[14] = LAYOUT_INDEXED;
        block[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        block[24..32].copy_from_slice(&self.base.0.to_le_bytes());
        block[32..40].copy_from_slice(&self.nonce.to_le_bytes());
        block[40..48].copy_from_slice(&self.end.0.to_le_bytes());
        block[48..52].copy_from_slice(&(self.sources.len() as u32).to_le_bytes());
        block[60..62].copy_from_slice(&self.partition.0.to_le_bytes());
        for (epoch, place) in self.sources.iter().zip(block[SOURCES_AT..].chunks_exact_mut(8)) {
            place.copy_from_slice(&epoch.to_le_bytes());
        }
        block
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<CompactedHeader, HeaderError> {
        Ok(decode_block(bytes, SEGMENT_MAGIC)?.0)
    }
}

impl CompactedFooter {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = self.header.block(FOOTER_MAGIC);
        block[64..72].copy_from_slice(&self.index_at.to_le_bytes());
        block[72..80].copy_from_slice(&self.entries.to_le_bytes());
        block[80..88].copy_from_slice(&self.entry_bytes.to_le_bytes());
        seal(&mut block);
        block
    }

    /// The footer of a file of `len` bytes, from its last block.
    pub(super) fn decode(bytes: &[u8], len: u64) -> Result<CompactedFooter, HeaderError> {
        let (header, block) = decode_block(bytes, FOOTER_MAGIC)?;
        let footer = CompactedFooter {
            header,
            index_at: u64_at(block, 64),
            entries: u64_at(block, 72),
            entry_bytes: u64_at(block, 80),
        };
        let blocks = footer.entries.div_ceil(INDEX_RECORDS as u64);
        let index_bytes = blocks.checked_mul(BLOCK as u64);
        let expected = index_bytes
            .and_then(|index| index.checked_add(footer.index_at)?.checked_add(BLOCK as u64));
        let placed = footer.index_at.is_multiple_of(BLOCK as u64)
            && footer.index_at >= BLOCK as u64
            && expected == Some(len);
        if placed { Ok(footer) } else { Err(HeaderError::Misplaced) }
    }

    pub(super) fn index_blocks(&self) -> u64 {
        self.entries.div_ceil(INDEX_RECORDS as u64)
    }
}

fn seal(block: &mut [u8]) {
    let checksum = crc32c::crc32c(&block[12..]);
    block[8..12].copy_from_slice(&checksum.to_le_bytes());
}

fn decode_block(
    bytes: &[u8],
    magic: [u8; 8],
) -> Result<(CompactedHeader, &[u8; BLOCK]), HeaderError> {
    let block: &[u8; BLOCK] = bytes.first_chunk().ok_or(HeaderError::Short)?;
    if block[..8] != magic {
        return Err(HeaderError::Magic);
    }
    if crc32c::crc32c(&block[12..]) != u32_at(block, 8) {
        return Err(HeaderError::Checksum);
    }
    let (version, layout) = (u16_at(block, 12), block[14]);
    if !VERSIONS.contains(&version) || layout != LAYOUT_INDEXED {
        return Err(HeaderError::Version(version.max(u16::from(layout))));
    }
    let count = u32_at(block, 48) as usize;
    if count > SOURCES_MAX {
        return Err(HeaderError::Misplaced);
    }
    let header = CompactedHeader {
        partition: PartitionId(u16_at(block, 60)),
        epoch: u64_at(block, 16),
        base: Lsn(u64_at(block, 24)),
        end: Lsn(u64_at(block, 40)),
        nonce: u64_at(block, 32),
        sources: (0..count).map(|n| u64_at(block, SOURCES_AT + 8 * n)).collect(),
    };
    Ok((header, block))
}

/// Index blocks for `records`, which ascend by LSN.
pub(super) fn encode_index(records: &[IndexRecord], nonce: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len().div_ceil(INDEX_RECORDS) * BLOCK);
    for records in records.chunks(INDEX_RECORDS) {
        let start = out.len();
        out.resize(start + BLOCK, 0);
        let block = &mut out[start..];
        block[4..8].copy_from_slice(&(records.len() as u32).to_le_bytes());
        block[8..16].copy_from_slice(&nonce.to_le_bytes());
        for (record, place) in
            records.iter().zip(block[INDEX_HEADER..].chunks_exact_mut(INDEX_RECORD))
        {
            let units = |bytes: u64| ((bytes / ENTRY_ALIGN as u64) as u32).to_le_bytes();
            place[..8].copy_from_slice(&record.lsn.0.to_le_bytes());
            place[8..12].copy_from_slice(&units(record.offset));
            place[12..].copy_from_slice(&units(u64::from(record.len)));
        }
        let checksum = crc32c::crc32c(&block[4..]);
        block[..4].copy_from_slice(&checksum.to_le_bytes());
    }
    out
}

/// The records of one index block: not empty, ascending.
pub(super) fn decode_index_block(
    bytes: &[u8],
    nonce: u64,
) -> Result<Vec<IndexRecord>, HeaderError> {
    let block: &[u8; BLOCK] = bytes.first_chunk().ok_or(HeaderError::Short)?;
    if crc32c::crc32c(&block[4..]) != u32_at(block, 0) {
        return Err(HeaderError::Checksum);
    }
    let count = u32_at(block, 4) as usize;
    if u64_at(block, 8) != nonce || count == 0 || count > INDEX_RECORDS {
        return Err(HeaderError::Misplaced);
    }
    let records: Vec<IndexRecord> = (0..count)
        .map(|n| {
            let at = INDEX_HEADER + n * INDEX_RECORD;
            let units = |at| u64::from(u32_at(block, at)) * ENTRY_ALIGN as u64;
            let len = u32_at(block, at + 12).saturating_mul(ENTRY_ALIGN as u32);
            IndexRecord { lsn: Lsn(u64_at(block, at)), offset: units(at + 8), len }
        })
        .collect();
    let ascending = records.windows(2).all(|pair| {
        let end = pair[0].offset + u64::from(pair[0].len);
        pair[0].lsn < pair[1].lsn && end <= pair[1].offset
    });
    if ascending { Ok(records) } else { Err(HeaderError::Misplaced) }
}

/// Result of [`scan_compacted`].
#[derive(Clone, Debug, Default)]
pub struct CompactedScan {
    /// From the footer if it is intact, otherwise from the first block; `None` if neither is.
    pub header: Option<CompactedHeader>,
    /// Whether the footer is intact: then everything else was complete once.
    pub complete: bool,
    /// Entries with an intact header, ascending by LSN.
    pub entries: Vec<IndexRecord>,
    /// Entries of a kind or version that this program does not know, not among `entries`.
    pub unknown: Vec<(IndexRecord, EntryError)>,
    /// Damage: offset and reason.
    pub damage: Vec<(u64, String)>,
}

impl CompactedScan {
    /// The locations of all entries, known or not, ascending.
    pub fn places(self) -> Vec<IndexRecord> {
        let mut places = self.entries;
        places.extend(self.unknown.iter().map(|(record, _)| *record));
        places.sort_unstable_by_key(|record| record.lsn);
        places
    }
}

/// Parses a whole compacted file without trusting any part of it: entries are found by walking from
/// one to the next, and where that ends, with the remaining index.
///
/// # Errors
/// Only a format version that this program does not know.
pub fn scan_compacted(bytes: &[u8]) -> Result<CompactedScan, HeaderError> {
    let mut scan = CompactedScan::default();
    let first = CompactedHeader::decode(bytes);
    let last = bytes.len().saturating_sub(BLOCK);
    let footer = CompactedFooter::decode(&bytes[last..], bytes.len() as u64);
    for decoded in [first.as_ref().err(), footer.as_ref().err()].into_iter().flatten() {
        if let HeaderError::Version(version) = decoded {
            return Err(HeaderError::Version(*version));
        }
    }
    if let Err(error) = &first {
        scan.damage.push((0, format!("segment header: {error}")));
    }
    scan.complete = footer.is_ok();
    let footer = footer.ok();
    let Some(header) = footer.as_ref().map(|footer| footer.header.clone()).or(first.ok()) else {
        return Ok(scan);
    };
    let (known, entries_end) = surviving_index(bytes, &header, footer.as_ref(), &mut scan.damage);
    walk_entries(&bytes[..entries_end], &header, &known, &mut scan);
    scan.header = Some(header);
    Ok(scan)
}

/// The index records that can still be read, and an upper bound for the end of the entries.
fn surviving_index(
    bytes: &[u8],
    header: &CompactedHeader,
    footer: Option<&CompactedFooter>,
    damage: &mut Vec<(u64, String)>,
) -> (Vec<IndexRecord>, usize) {
    let block_at = |at: usize| decode_index_block(bytes.get(at..)?, header.nonce).ok();
    let mut known = Vec::new();
    if let Some(footer) = footer {
        // `decode` has checked that these are inside the file.
        let start = footer.index_at as usize;
        for at in (start..bytes.len() - BLOCK).step_by(BLOCK) {
            match block_at(at) {
                Some(records) => known.extend(records),
                None => damage.push((at as u64, "index block is damaged".to_owned())),
            }
        }
        return (known, start);
    }
    // Without a footer: the blocks that only the writer of this file can have written.
    let mut end = bytes.len();
    for at in (BLOCK..bytes.len()).step_by(BLOCK) {
        if let Some(records) = block_at(at) {
            end = end.min(at);
            known.extend(records);
        }
    }
    (known, end)
}

fn walk_entries(
    bytes: &[u8],
    header: &CompactedHeader,
    known: &[IndexRecord],
    scan: &mut CompactedScan,
) {
    let mut at = BLOCK;
    let mut floor = header.base.0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let next = known.partition_point(|record| record.offset < at as u64);
        let lsn = lsn_of(rest).filter(|lsn| (floor..header.end.0).contains(&lsn.0));
        let decoded = lsn.map(|lsn| (lsn, decode_header(rest, lsn)));
        if let (Some((lsn, Err(error @ EntryError::Unknown { .. }))), Some(len)) =
            (&decoded, len_of(rest))
        {
            let record = IndexRecord { lsn: *lsn, offset: at as u64, len: len as u32 };
            scan.unknown.push((record, error.clone()));
            floor = lsn.0 + ENTRY_HEADER as u64;
            at += len;
            continue;
        }
        let Some((lsn, Ok(stored))) = decoded else {
            match known.get(next..).unwrap_or_default().iter().find(|r| r.offset > at as u64) {
                Some(record) => {
                    scan.damage.push((at as u64, "entry header is damaged".to_owned()));
                    at = record.offset as usize;
                }
                None => {
                    if rest.iter().any(|byte| *byte != 0) {
                        scan.damage.push((at as u64, "entry header is damaged".to_owned()));
                    }
                    return;
                }
            }
            continue;
        };
        if let Err(error) = decode_payload(rest, &stored) {
            scan.damage.push((at as u64, error.to_string()));
        }
        let len = entry_len(stored.payload_len);
        scan.entries.push(IndexRecord { lsn, offset: at as u64, len: len as u32 });
        floor = lsn.0 + ENTRY_HEADER as u64;
        at += len;
    }
}

/// Where the index begins if entries end at `offset`.
pub(super) fn index_place(offset: u64) -> u64 {
    align(offset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::entry::{EntryHeader, EntryKind, encode},
        *,
    };
    use crate::model::{AccountId, MailboxId, Uid};

    fn header(sources: Vec<u64>) -> CompactedHeader {
        CompactedHeader {
            partition: PartitionId(4),
            epoch: 9,
            base: Lsn(4096),
            end: Lsn(1 << 40),
            nonce: 77,
            sources,
        }
    }

    /// A complete file with entries of these payload lengths, and its records.
    fn file(lens: &[usize]) -> (Vec<u8>, Vec<IndexRecord>) {
        let header = header(vec![3, 4]);
        let mut bytes = header.encode();
        let mut records = Vec::new();
        for (n, len) in lens.iter().enumerate() {
            let lsn = Lsn(8192 + n as u64 * 100_000);
            let offset = bytes.len() as u64;
            let about =
                EntryHeader::new(EntryKind::Message, AccountId(1), MailboxId(1), Uid(n as u32));
            encode(&mut bytes, lsn, &about, &[&vec![n as u8; *len]]);
            records.push(IndexRecord { lsn, offset, len: (bytes.len() as u64 - offset) as u32 });
        }
        let entry_bytes = (bytes.len() - BLOCK) as u64;
        let index_at = index_place(bytes.len() as u64);
        bytes.resize(index_at as usize, 0);
        bytes.extend(encode_index(&records, header.nonce));
        let entries = records.len() as u64;
        bytes.extend(CompactedFooter { header, index_at, entries, entry_bytes }.encode());
        (bytes, records)
    }

    #[test]
    fn an_older_program_refuses_the_layout_by_name() {
        let block = header(vec![1]).encode();
        let refused = super::super::segment::SegmentHeader::decode(&block);
        assert_eq!(refused, Err(HeaderError::Version(2)));
    }

    #[test]
    fn an_entry_of_a_later_version_is_told_from_damage() {
        let (mut bytes, records) = file(&[10, 20, 30]);
        let at = records[1].offset as usize;
        bytes[at + 12] = 200;
        let checksum = crc32c::crc32c(&bytes[at + 4..at + ENTRY_HEADER]);
        bytes[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
        let scan = scan_compacted(&bytes).unwrap();
        assert_eq!(scan.unknown, [(records[1], EntryError::Unknown { kind: 200, version: 2 })]);
        assert_eq!(scan.entries, [records[0], records[2]]);
        assert!(scan.damage.is_empty());
        assert_eq!(scan.places(), records);
    }

    #[test]
    fn headers_hold_as_many_sources_as_allowed() {
        let most = header((0..SOURCES_MAX as u64).collect());
        assert_eq!(CompactedHeader::decode(&most.encode()), Ok(most.clone()));
        let footer = CompactedFooter { header: most, index_at: 4096, entries: 0, entry_bytes: 0 };
        assert_eq!(CompactedFooter::decode(&footer.encode(), 8192), Ok(footer.clone()));
        assert!(CompactedFooter::decode(&footer.encode(), 8192 + 4096).is_err());
    }

    #[test]
    fn what_the_footer_lost_is_found_by_walking() {
        let lens: Vec<usize> = (0..600).map(|n| n % 97).collect();
        let (whole, records) = file(&lens);
        let scan = scan_compacted(&whole).unwrap();
        assert!(scan.complete && scan.damage.is_empty());
        assert_eq!(scan.entries, records);

        let mut lost = whole.clone();
        let footer = lost.len() - BLOCK;
        lost[footer + 20] ^= 1;
        let scan = scan_compacted(&lost).unwrap();
        assert!(!scan.complete);
        assert_eq!(scan.entries, records);

        // One entry's header is broken: the index locates the next one.
        let mut broken = lost.clone();
        broken[records[40].offset as usize + 3] ^= 1;
        let scan = scan_compacted(&broken).unwrap();
        assert_eq!(scan.entries.len(), records.len() - 1);
        assert_eq!(scan.damage.len(), 1);

        // The header is gone, the footer is used.
        let mut headless = whole;
        headless[30] ^= 1;
        let scan = scan_compacted(&headless).unwrap();
        assert_eq!((scan.entries.len(), scan.damage.len()), (records.len(), 1));
    }

    proptest! {
        #[test]
        fn files_round_trip(lens in prop::collection::vec(0usize..300, 0..700)) {
            let (bytes, records) = file(&lens);
            let scan = scan_compacted(&bytes).unwrap();
            prop_assert!(scan.complete);
            prop_assert_eq!(&scan.entries, &records);
            let footer = &bytes[bytes.len() - BLOCK..];
            let footer = CompactedFooter::decode(footer, bytes.len() as u64).unwrap();
            let mut index = Vec::new();
            for block in 0..footer.index_blocks() {
                let at = (footer.index_at + block * BLOCK as u64) as usize;
                index.extend(decode_index_block(&bytes[at..], footer.header.nonce).unwrap());
            }
            prop_assert_eq!(index, records);
        }

        #[test]
        fn damage_never_panics(
            lens in prop::collection::vec(0usize..300, 0..300),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let (mut bytes, records) = file(&lens);
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            if let Ok(scan) = scan_compacted(&bytes) {
                prop_assert!(scan.entries.iter().all(|found| records.contains(found)));
            }
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
            let _ = scan_compacted(&bytes);
            let _ = decode_index_block(&bytes, 0);
        }
    }
}
