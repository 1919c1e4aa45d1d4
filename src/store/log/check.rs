//! Checks that every byte of a partition's files is what was written: headers, batches, entries,
//! chains, indexes, mirrors, and zero padding.
//!
//! Called by `verify` (over an open log), and by `inspect` and `check` (over files alone, which a
//! server may be writing). The functions on bytes are pure and never panic.

use std::collections::BTreeMap;

use super::super::error::StoreError;
use super::{
    Checkpoint, Layout, Log,
    compacted::{CompactedFooter, CompactedHeader, decode_index_block, scan_compacted},
    entry::{ENTRY_HEADER, EntryError, EntryHeader, decode_header, decode_payload, entry_len},
    failed,
    scan::{Expected, Piece, entries, entries_in_gap, scan_segment},
    segment::{
        BLOCK, BatchHeader, CheckpointFile, HeaderError, SegmentHeader, align, checkpoint_sequence,
        segment_epoch,
    },
};
use crate::{
    model::{Lsn, PartitionId},
    runtime::executor::offload,
};

/// A damaged place.
#[derive(Clone, Debug)]
pub struct Flaw {
    pub file: String,
    pub offset: u64,
    pub what: String,
    /// The damaged entry, if its header is readable.
    pub entry: Option<EntryHeader>,
}

/// What was checked.
#[derive(Clone, Copy, Default, Debug)]
pub struct Checked {
    pub files: u64,
    pub bytes: u64,
    pub batches: u64,
    pub entries: u64,
    /// Bytes after the end of a segment: unfinished writes.
    pub tail_bytes: u64,
}

/// One entry as `inspect` lists it.
#[derive(Clone, Debug)]
pub struct ListedEntry {
    pub offset: u64,
    pub lsn: Lsn,
    pub header: Option<EntryHeader>,
    /// Bytes of the payload, 0 if unknown.
    pub payload_len: usize,
    /// What is wrong with it.
    pub flaw: Option<String>,
    /// Set if it is intact but of a kind or version that this program does not know.
    pub unknown: Option<String>,
}

/// One batch as `inspect` lists it.
#[derive(Clone, Debug)]
pub struct ListedBatch {
    pub offset: u64,
    pub header: Option<BatchHeader>,
    pub flaw: Option<String>,
}

/// A parsed segment file.
#[derive(Clone, Debug, Default)]
pub struct Dissection {
    pub header: Option<SegmentHeader>,
    pub compacted: Option<CompactedHeader>,
    pub batches: Vec<ListedBatch>,
    pub entries: Vec<ListedEntry>,
    /// Offset and reason.
    pub flaws: Vec<(u64, String)>,
    /// Checksum that the next segment's first batch names.
    pub chain: u32,
    /// Bytes after the last batch that are not zero.
    pub tail: usize,
}

/// Parses a segment file. `durable`: LSNs below must be there; with 0 the end may be torn.
///
/// # Errors
/// A version or layout that this program does not know.
pub fn dissect(
    bytes: &[u8],
    partition: PartitionId,
    epoch: u64,
    durable: Lsn,
) -> Result<Dissection, HeaderError> {
    let last = bytes.len().saturating_sub(BLOCK);
    let compacted = CompactedHeader::decode(bytes).is_ok_and(|header| header.epoch == epoch)
        || (SegmentHeader::decode(bytes).map_or(true, |header| header.epoch != epoch)
            && CompactedFooter::decode(&bytes[last..], bytes.len() as u64)
                .is_ok_and(|footer| footer.header.epoch == epoch));
    match compacted {
        true => dissect_compacted(bytes),
        false => dissect_in_place(bytes, Expected { partition, epoch, durable }),
    }
}

fn dissect_in_place(bytes: &[u8], expected: Expected) -> Result<Dissection, HeaderError> {
    let scan = scan_segment(bytes, expected)?;
    let mut found = Dissection { header: scan.header, chain: scan.chain, ..Dissection::default() };
    found.tail = scan.tail;
    let Some(base) = scan.base else {
        found.flaws.push((0, "nothing in the segment is intact".to_owned()));
        return Ok(found);
    };
    if SegmentHeader::decode(bytes).is_err() {
        found.flaws.push((0, "segment header is damaged".to_owned()));
    }
    for piece in &scan.pieces {
        let (start, end, flaw) = match piece {
            Piece::Batch { start, end } => (*start, *end, None),
            Piece::DamagedBatch { start, end, what } | Piece::Damage { start, end, what } => {
                (*start, *end, Some(what.clone()))
            }
        };
        let payload = bytes.get(start..end).unwrap_or_default();
        let gap = matches!(piece, Piece::Damage { .. });
        let at = if gap { start } else { start - super::BATCH_HEADER };
        if !(gap && start == 0) {
            let header = BatchHeader::decode(&bytes[at..]).ok().map(|(header, _)| header);
            found.batches.push(ListedBatch { offset: at as u64, header, flaw: flaw.clone() });
        }
        found.flaws.extend(flaw.filter(|_| start > 0).map(|what| (at as u64, what)));
        let lsn = Lsn(base.0 + start as u64);
        let items: &mut dyn Iterator<Item = _> = match gap {
            true => &mut entries_in_gap(payload, lsn),
            false => &mut entries(payload, lsn),
        };
        for entry in items {
            let flaw = match &entry.payload {
                Err(error) => Some(error.to_string()),
                Ok(_) if entry.corrected => Some("entry header has a wrong bit".to_owned()),
                Ok(_) => None,
            };
            let payload_len = entry.payload.as_ref().map_or(0, |payload| payload.len());
            found.entries.push(ListedEntry {
                offset: entry.lsn.0 - base.0,
                lsn: entry.lsn,
                header: entry.header,
                payload_len,
                unknown: flaw
                    .clone()
                    .filter(|_| matches!(entry.payload, Err(EntryError::Unknown { .. }))),
                flaw,
            });
        }
        let padding = bytes.get(end..(align(end as u64) as usize).min(bytes.len()));
        if let Some(at) = padding.and_then(|padding| padding.iter().position(|byte| *byte != 0)) {
            found.flaws.push(((end + at) as u64, "padding is not zero".to_owned()));
        }
    }
    Ok(found)
}

fn dissect_compacted(bytes: &[u8]) -> Result<Dissection, HeaderError> {
    let scan = scan_compacted(bytes)?;
    let mut found = Dissection { compacted: scan.header.clone(), ..Dissection::default() };
    found.flaws.clone_from(&scan.damage);
    let last = bytes.len().saturating_sub(BLOCK);
    let footer = CompactedFooter::decode(&bytes[last..], bytes.len() as u64);
    let mut end = BLOCK;
    for record in &scan.entries {
        let rest = &bytes[record.offset as usize..];
        let Ok(stored) = decode_header(rest, record.lsn) else { continue };
        let flaw = decode_payload(rest, &stored).err().map(|error| error.to_string());
        let used = ENTRY_HEADER + stored.payload_len;
        let padding = rest.get(used..entry_len(stored.payload_len)).unwrap_or_default();
        if padding.iter().any(|byte| *byte != 0) {
            found.flaws.push((record.offset + used as u64, "padding is not zero".to_owned()));
        }
        end = record.offset as usize + record.len as usize;
        found.entries.push(ListedEntry {
            offset: record.offset,
            lsn: record.lsn,
            header: Some(stored.header),
            payload_len: stored.payload_len,
            flaw,
            unknown: None,
        });
    }
    for (record, error) in &scan.unknown {
        end = end.max(record.offset as usize + record.len as usize);
        found.entries.push(ListedEntry {
            offset: record.offset,
            lsn: record.lsn,
            header: None,
            payload_len: 0,
            flaw: Some(error.to_string()),
            unknown: Some(error.to_string()),
        });
    }
    found.entries.sort_by_key(|entry| entry.offset);
    match footer {
        Err(error) => found.flaws.push((last as u64, format!("footer: {error}"))),
        Ok(footer) => check_index(bytes, &footer, &scan.places(), end, &mut found.flaws),
    }
    Ok(found)
}

/// Compares the footer with the header, and the index with the entries.
fn check_index(
    bytes: &[u8],
    footer: &CompactedFooter,
    walked: &[super::IndexRecord],
    end: usize,
    flaws: &mut Vec<(u64, String)>,
) {
    let last = (bytes.len() - BLOCK) as u64;
    if CompactedHeader::decode(bytes).is_ok_and(|header| header != footer.header) {
        flaws.push((last, "footer and header differ".to_owned()));
    }
    let index = footer.index_at as usize;
    if let Some(at) = bytes[end.min(index)..index].iter().position(|byte| *byte != 0)
        && walked.len() as u64 == footer.entries
    {
        flaws.push(((end + at) as u64, "padding is not zero".to_owned()));
    }
    let mut known = Vec::new();
    for at in (index..last as usize).step_by(BLOCK) {
        // The scan has reported a broken block.
        known.extend(decode_index_block(&bytes[at..], footer.header.nonce).unwrap_or_default());
    }
    let walked_all: BTreeMap<u64, u64> = walked.iter().map(|r| (r.lsn.0, r.offset)).collect();
    for record in known.iter().filter(|r| walked_all.get(&r.lsn.0) != Some(&r.offset)) {
        flaws.push((record.offset, format!("no intact entry where LSN {} should be", record.lsn)));
    }
}

/// The damage of a checkpoint file.
///
/// # Errors
/// A version that this program does not know.
pub fn check_checkpoint(
    bytes: &[u8],
    partition: PartitionId,
    sequence: u64,
) -> Result<Vec<(u64, String)>, HeaderError> {
    let mut flaws = Vec::new();
    // Files of the first versions have one block.
    let blocks = if bytes.len() == BLOCK { 1 } else { 2 };
    let mut whole = Vec::new();
    for at in (0..blocks).map(|block| block * BLOCK) {
        let block = bytes.get(at..bytes.len().min(at + BLOCK)).unwrap_or_default();
        match CheckpointFile::decode(block) {
            Err(HeaderError::Version(version)) => return Err(HeaderError::Version(version)),
            Err(error) => flaws.push((at as u64, format!("checkpoint: {error}"))),
            Ok(file) if file.partition != partition || file.sequence != sequence => {
                flaws.push((at as u64, "checkpoint of another partition or sequence".to_owned()));
            }
            Ok(file) => whole.push(file),
        }
    }
    if whole.windows(2).any(|pair| pair[0] != pair[1]) || bytes.len() > blocks * BLOCK {
        flaws.push((0, "the two copies of the checkpoint differ".to_owned()));
    }
    Ok(flaws)
}

/// The content of a checkpoint file.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointRecord {
    pub root: Lsn,
    pub replay_from: Lsn,
    pub scan_from: Lsn,
    pub durable: Lsn,
}

/// The content of a checkpoint file, from its first intact block.
pub fn decode_checkpoint(bytes: &[u8]) -> Result<CheckpointRecord, HeaderError> {
    let file = CheckpointFile::decode(bytes)?;
    let Checkpoint { root, replay_from } = file.checkpoint;
    Ok(CheckpointRecord { root, replay_from, scan_from: file.scan_from, durable: file.durable })
}

/// The partition whose file it is; `None` if no header of it can be read.
pub fn partition_of_file(bytes: &[u8]) -> Option<PartitionId> {
    let second = bytes.get(BLOCK..).unwrap_or_default();
    let last = bytes.get(bytes.len().saturating_sub(BLOCK)..).unwrap_or_default();
    let footer = || CompactedFooter::decode(last, bytes.len() as u64).ok();
    let checkpoint = |block| CheckpointFile::decode(block).ok().map(|file| file.partition);
    checkpoint(bytes.get(..BLOCK)?)
        .or_else(|| checkpoint(second.get(..BLOCK)?))
        .or_else(|| SegmentHeader::decode(bytes).ok().map(|header| header.partition))
        .or_else(|| CompactedHeader::decode(bytes).ok().map(|header| header.partition))
        .or_else(|| footer().map(|footer| footer.header.partition))
}

/// The epoch in a segment's file name.
pub fn epoch_of_name(name: &str) -> Option<u64> {
    segment_epoch(name)
}

/// The sequence in a checkpoint's file name.
pub fn checkpoint_of_name(name: &str) -> Option<u64> {
    checkpoint_sequence(name)
}

impl Log {
    /// Names and lengths of all files that are not empty.
    pub async fn files(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let mut names = self.0.device.list().await.map_err(failed)?;
        names.sort_unstable();
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            if segment_epoch(&name).is_none() && checkpoint_sequence(&name).is_none() {
                continue;
            }
            // Compaction or a checkpoint may delete it at any time.
            let Ok(file) = self.0.device.open(&name).await else { continue };
            files.push((name, file.len().await.map_err(failed)?));
        }
        Ok(files)
    }

    /// Checks every byte of every file in use, at most `rate` a second (0: no limit), and reports
    /// damage.
    ///
    /// # Errors
    /// The device's; a version that this program does not know.
    pub async fn check_files(
        &self,
        rate: u64,
        flawed: &mut dyn FnMut(Flaw),
        progress: &dyn Fn(u64),
    ) -> Result<Checked, StoreError> {
        let mut checked = Checked::default();
        let mut chains: BTreeMap<u64, u32> = BTreeMap::new();
        for (name, _) in self.files().await? {
            // How far it is durable, before it is read: more is written meanwhile.
            let in_use = segment_epoch(&name).and_then(|epoch| self.segment_in_use(epoch));
            let Ok(file) = self.0.device.open(&name).await else { continue };
            let len = file.len().await.map_err(failed)?;
            let bytes = super::read_whole(&*file, len, rate, &*self.0.executor).await?;
            let mut flaw = |offset, what, entry| {
                flawed(Flaw { file: name.clone(), offset, what, entry });
            };
            let refused = |error: HeaderError| super::recovery::refused(&name, error);
            if let Some(sequence) = checkpoint_sequence(&name) {
                let partition = self.0.options.partition;
                let flaws = check_checkpoint(&bytes, partition, sequence).map_err(refused)?;
                // A file that was deleted meanwhile, or is being written, is not checked.
                let current = self.0.state.borrow().checkpoint_sequence;
                if sequence == current {
                    flaws.into_iter().for_each(|(at, what)| flaw(at, what, None));
                }
            } else if let Some(epoch) = segment_epoch(&name) {
                let found = match in_use {
                    Some(used) => {
                        let found = self.check_segment(used, bytes, &mut checked, &mut flaw).await;
                        Some(found.map_err(refused)?)
                    }
                    None => None,
                };
                if let Some(found) = found {
                    let before = found.header.and_then(|header| {
                        let chain = chains.get(&header.predecessor)?;
                        (*chain != header.predecessor_checksum).then_some(header.predecessor)
                    });
                    if let Some(before) = before {
                        let what = format!("does not follow segment {before:x} as written");
                        flaw(0, what, None);
                    }
                    chains.insert(epoch, found.chain);
                }
            }
            checked.files += 1;
            checked.bytes += len;
            progress(len);
            self.0.executor.yield_now().await;
        }
        Ok(checked)
    }

    /// `None` if the segment is not in use, or nothing in it is durable yet.
    fn segment_in_use(&self, epoch: u64) -> Option<SegmentInUse> {
        let state = self.0.state.borrow();
        let segment = state.segments.values().find(|segment| segment.epoch == epoch)?;
        let in_place = matches!(segment.layout, Layout::InPlace);
        let len = segment.len.get();
        let last = state.ended.epoch == epoch && state.probe.batches == 0;
        let used = SegmentInUse { epoch, base: segment.base, len, in_place, last };
        Some(used).filter(|used| !used.in_place || used.len > 0)
    }

    async fn check_segment(
        &self,
        used: SegmentInUse,
        bytes: Vec<u8>,
        checked: &mut Checked,
        flaw: &mut dyn FnMut(u64, String, Option<EntryHeader>),
    ) -> Result<Dissection, HeaderError> {
        let SegmentInUse { epoch, base, len, in_place, last } = used;
        let end = if in_place { align(len).min(bytes.len() as u64) } else { bytes.len() as u64 };
        let durable = Lsn(base + len);
        let partition = self.0.options.partition;
        let there = bytes.len() as u64;
        let take_apart = move || {
            let found = dissect(&bytes[..end as usize], partition, epoch, durable);
            (found, bytes[end as usize..].iter().filter(|byte| **byte != 0).count())
        };
        let (found, tail) = offload(&*self.0.executor, take_apart).await;
        let found = found?;
        if there < len {
            flaw(there, format!("{} bytes are missing", len - there), None);
        }
        for (at, what) in &found.flaws {
            flaw(*at, what.clone(), None);
        }
        for entry in &found.entries {
            if let Some(what) = &entry.flaw {
                flaw(entry.offset, what.clone(), entry.header);
            }
        }
        checked.tail_bytes += tail as u64;
        if last && tail > 0 && in_place {
            let what = "bytes behind the end of the log: an unfinished write (nobody was told of \
                        it), or damage";
            flaw(end, what.to_owned(), None);
        }
        checked.batches += found.batches.len() as u64;
        checked.entries += found.entries.len() as u64;
        Ok(found)
    }
}

/// A segment as it was when `check_files` came to it.
#[derive(Clone, Copy)]
struct SegmentInUse {
    epoch: u64,
    base: u64,
    /// Durable bytes.
    len: u64,
    in_place: bool,
    /// It ended where the last start found the log's end, and nothing was appended since.
    last: bool,
}
