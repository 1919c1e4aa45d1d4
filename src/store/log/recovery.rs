//! Opening a log: what survived, in order, and a new segment to go on in.
//!
//! Called once when a partition opens, in two steps, because the state above must load its last
//! checkpoint before it can take in what came after: [`Recovered::read`] for the pages, then
//! [`Recovered::replay`].
//!
//! A segment found here is never appended to. A process that was killed may have left files,
//! batches and a checkpoint that were written and not synced; whatever is believed is synced first,
//! so that nothing published from it can be lost.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    rc::Rc,
};

use bytes::Bytes;

use super::{
    Batch, Checkpoint, Ended, Inner, Log, LogOptions, LogProbe, READ_AHEAD, Segment, State,
    entry::{EntryError, EntryHeader},
    failed, no_segment, read_entry,
    scan::{Expected, Piece, SegmentScan, entries, scan_batches, scan_segment},
    segment::{
        BLOCK, CheckpointFile, HeaderError, SegmentHeader, align, checkpoint_name,
        checkpoint_sequence, segment_epoch, segment_name,
    },
    segment_of,
    wait::Waiters,
    writer,
};
use crate::{
    model::Lsn,
    runtime::{
        device::Device,
        executor::{Executor, Priority},
    },
    store::{RecoveryReport, StoreError},
};

/// Takes one replayed entry. An error ends the opening with it.
pub type Replay<'a> = dyn FnMut(Lsn, &EntryHeader, &[u8]) -> Result<(), StoreError> + 'a;

/// A log found on a device and not yet replayed.
pub struct Recovered {
    device: Rc<dyn Device>,
    executor: Rc<dyn Executor>,
    options: LogOptions,
    /// Oldest first. Segments that never began are not here.
    started: Vec<Started>,
    segments: BTreeMap<u64, Rc<Segment>>,
    checkpoint: Option<Checkpoint>,
    checkpoint_sequence: u64,
    checkpoint_next: u64,
    checkpoint_files: BTreeSet<u64>,
    /// Known from the checkpoint to have been durable.
    durable: Lsn,
    /// From the checkpoint: a batch starts here, and nothing before it is replayed.
    scan_from: Lsn,
    /// No segment had this epoch.
    epoch_next: u64,
    /// No entry had an LSN from here on.
    lsn_next: u64,
    report: RecoveryReport,
}

/// A segment file as it lies there.
struct Found {
    epoch: u64,
    len: u64,
    header: Option<SegmentHeader>,
}

/// A segment that entries were written to.
struct Started {
    segment: Rc<Segment>,
    /// `None` if damaged.
    header: Option<SegmentHeader>,
    len: u64,
}

/// Where the log ended, found by the scan of the last segment.
#[derive(Default)]
struct Tip {
    ended: Ended,
    chain: u32,
}

fn refused(name: &str, reason: impl std::fmt::Display) -> StoreError {
    let what = format!("{name}: {reason}");
    StoreError::Io(io::Error::new(io::ErrorKind::Unsupported, what).into())
}

impl Recovered {
    pub(super) async fn find(
        device: Rc<dyn Device>,
        executor: Rc<dyn Executor>,
        options: LogOptions,
    ) -> Result<Recovered, StoreError> {
        let mut recovered = Recovered {
            device,
            executor,
            options,
            started: Vec::new(),
            segments: BTreeMap::new(),
            checkpoint: None,
            checkpoint_sequence: 0,
            checkpoint_next: 1,
            checkpoint_files: BTreeSet::new(),
            durable: Lsn(0),
            scan_from: Lsn(0),
            epoch_next: 1,
            lsn_next: 0,
            report: RecoveryReport::default(),
        };
        // Files that a killed process made may not be in the directory for good yet.
        recovered.device.sync_directory().await.map_err(failed)?;
        let names = recovered.device.list().await.map_err(failed)?;
        recovered.find_checkpoint(&names).await?;
        recovered.find_segments(&names).await?;
        recovered.checkpoint_of_segments();
        Ok(recovered)
    }

    /// What the state above loads first; `None` in a log without one, which is replayed whole.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.checkpoint
    }

    /// An entry of the checkpoint.
    pub async fn read(&self, lsn: Lsn) -> Result<(EntryHeader, Bytes), StoreError> {
        let segment = segment_of(&self.segments, lsn).ok_or_else(|| no_segment(lsn))?;
        read_entry(&*self.device, &segment, lsn, READ_AHEAD).await
    }

    /// The newest checkpoint file that is whole. A broken newer one was never finished: the older
    /// is deleted only after.
    async fn find_checkpoint(&mut self, names: &[String]) -> Result<(), StoreError> {
        self.checkpoint_files = names.iter().filter_map(|name| checkpoint_sequence(name)).collect();
        self.checkpoint_next = self.checkpoint_files.last().map_or(1, |last| last + 1);
        for sequence in self.checkpoint_files.clone().into_iter().rev() {
            let name = checkpoint_name(sequence);
            let file = self.device.open(&name).await.map_err(failed)?;
            file.sync().await.map_err(failed)?;
            let content = file.read_at(0, BLOCK).await.map_err(failed)?;
            match CheckpointFile::decode(&content) {
                Ok(found) if found.partition != self.options.partition => {
                    return Err(refused(&name, "belongs to another partition"));
                }
                Ok(found) if found.sequence == sequence => {
                    self.checkpoint = Some(found.checkpoint);
                    self.checkpoint_sequence = sequence;
                    self.durable = found.durable;
                    self.scan_from = found.scan_from;
                    self.lsn_next = align(found.durable.0);
                    return Ok(());
                }
                Err(HeaderError::Version(version)) => {
                    return Err(refused(&name, HeaderError::Version(version)));
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Segments name the last checkpoint too, in case its file is gone or broken.
    fn checkpoint_of_segments(&mut self) {
        let newest = self
            .started
            .iter()
            .filter_map(|started| started.header)
            .max_by_key(|header| header.checkpoint_sequence);
        let Some(header) = newest.filter(|h| h.checkpoint_sequence > self.checkpoint_sequence)
        else {
            return;
        };
        let name = checkpoint_name(header.checkpoint_sequence);
        self.report.damage.push((name, 0, "checkpoint file is missing or broken".to_owned()));
        self.checkpoint = header.checkpoint;
        self.checkpoint_sequence = header.checkpoint_sequence;
        self.checkpoint_next = self.checkpoint_next.max(header.checkpoint_sequence + 1);
    }

    async fn find_segments(&mut self, names: &[String]) -> Result<(), StoreError> {
        let mut epochs: Vec<u64> = names.iter().filter_map(|name| segment_epoch(name)).collect();
        epochs.sort_unstable();
        let last = epochs.last().copied().unwrap_or(0);
        self.epoch_next = last + 1;
        let mut found = Vec::with_capacity(epochs.len());
        for epoch in epochs {
            found.push(self.look_at(epoch, epoch == last).await?);
        }
        for (index, Found { epoch, len, header }) in found.iter().enumerate() {
            let successor = found[index + 1..].iter().find_map(|later| later.header);
            let base = match header {
                Some(header) => Some(header.base.0),
                None => self.lost_base(*epoch, *len, successor).await?,
            };
            let Some(base) = base else {
                self.report.tail_bytes += len;
                self.lsn_next = align(self.lsn_next + len);
                continue;
            };
            let segment = Rc::new(Segment {
                epoch: *epoch,
                base,
                nonce: 0,
                name: segment_name(*epoch),
                file: RefCell::new(None),
            });
            self.segments.insert(base, segment.clone());
            self.lsn_next = self.lsn_next.max(align(base + len));
            self.started.push(Started { segment, header: *header, len: *len });
        }
        self.report.segments = self.started.len();
        Ok(())
    }

    /// Reads a segment's header. All but the last segment were synced to their end before the next
    /// one was begun; the last is synced here, before anything in it is believed. A whole header
    /// that does not belong here is refused: somebody mixed up files, and guessing would make it
    /// worse.
    async fn look_at(&self, epoch: u64, last: bool) -> Result<Found, StoreError> {
        let name = segment_name(epoch);
        let file = self.device.open(&name).await.map_err(failed)?;
        if last {
            file.sync().await.map_err(failed)?;
        }
        let len = file.len().await.map_err(failed)?;
        let block = file.read_at(0, BLOCK).await.map_err(failed)?;
        let header = match SegmentHeader::decode(&block) {
            Ok(header) if header.partition != self.options.partition => {
                return Err(refused(&name, "belongs to another partition"));
            }
            Ok(header) if header.epoch != epoch => {
                return Err(refused(&name, "was written under another name"));
            }
            Ok(header) => Some(header),
            Err(HeaderError::Version(version)) => {
                return Err(refused(&name, HeaderError::Version(version)));
            }
            Err(_) => None,
        };
        Ok(Found { epoch, len, header })
    }

    /// Base of a segment whose header is not whole: `None` if the segment never began, that is if
    /// its first write was not finished and the next segment did not count it.
    async fn lost_base(
        &mut self,
        epoch: u64,
        len: u64,
        successor: Option<SegmentHeader>,
    ) -> Result<Option<u64>, StoreError> {
        let abandoned = successor.is_some_and(|successor| successor.predecessor < epoch);
        if len == 0 || abandoned {
            return Ok(None);
        }
        let file = self.device.open(&segment_name(epoch)).await.map_err(failed)?;
        let bytes = file.read_at(0, len as usize).await.map_err(failed)?;
        let durable = successor.map_or(self.durable, |successor| successor.predecessor_end);
        let scan = self.scan(&bytes, epoch, durable)?;
        if scan.end == 0 && successor.is_some_and(|successor| successor.predecessor == epoch) {
            let name = segment_name(epoch);
            self.report.damage.push((name, 0, "nothing in the segment is whole".to_owned()));
        }
        Ok(scan.base.filter(|_| scan.end > 0).map(|base| base.0))
    }

    fn scan(&self, bytes: &[u8], epoch: u64, durable: Lsn) -> Result<SegmentScan, StoreError> {
        let expected = Expected { partition: self.options.partition, epoch, durable };
        scan_segment(bytes, expected).map_err(|error| refused(&segment_name(epoch), error))
    }

    /// Hands every entry from the checkpoint's `replay_from` on to `replay`, in LSN order, then
    /// starts the log's writer. The first append opens a new segment.
    pub async fn replay(
        mut self,
        replay: &mut Replay<'_>,
    ) -> Result<(Log, RecoveryReport), StoreError> {
        let from = self.checkpoint.map_or(0, |checkpoint| checkpoint.replay_from.0);
        let mut tip = Tip::default();
        for index in 0..self.started.len() {
            let next = self.started.get(index + 1).map(|next| next.segment.base);
            self.check_predecessor(index, from);
            if next.is_none_or(|next| next > from) {
                tip = self.replay_segment(index, replay).await?;
                self.executor.yield_now().await;
            }
        }
        let report = self.report.clone();
        Ok((self.start(tip, from), report))
    }

    /// A segment between the checkpoint and the end that is not there is damage.
    fn check_predecessor(&mut self, index: usize, from: u64) {
        let Some(header) = self.started[index].header else { return };
        let before = index.checked_sub(1).map_or(0, |i| self.started[i].segment.epoch);
        if header.predecessor > before && header.base.0 > from {
            let name = segment_name(header.predecessor);
            self.report.damage.push((name, 0, "segment file is missing".to_owned()));
        }
    }

    async fn replay_segment(
        &mut self,
        index: usize,
        replay: &mut Replay<'_>,
    ) -> Result<Tip, StoreError> {
        let started = &self.started[index];
        let (segment, len) = (started.segment.clone(), started.len);
        let successor = self.started.get(index + 1).and_then(|next| next.header);
        let successor = successor.filter(|header| header.predecessor == segment.epoch);
        let file = segment.open(&*self.device).await?;
        let (limit, durable) = match successor {
            Some(header) => {
                (header.predecessor_end.0.saturating_sub(segment.base), header.predecessor_end)
            }
            None => (u64::MAX, self.durable),
        };
        let skip = self.skip(index);
        let len = len.min(limit).saturating_sub(skip);
        let bytes = file.read_at(skip, len as usize).await.map_err(failed)?;
        let scan = match self.started[index].header {
            Some(header) if skip > 0 => scan_batches(&bytes, header, skip, durable),
            _ => self.scan(&bytes, segment.epoch, durable)?,
        };
        self.report.tail_bytes += scan.tail as u64;
        for piece in &scan.pieces {
            self.replay_piece(&segment, &bytes, skip, piece, replay)?;
        }
        let end = segment.base + skip + scan.end as u64;
        self.lsn_next = self.lsn_next.max(end);
        Ok(Tip { ended: Ended { epoch: segment.epoch, end }, chain: scan.chain })
    }

    /// How much of a segment need not be looked at, because the checkpoint has it.
    fn skip(&self, index: usize) -> u64 {
        let started = &self.started[index];
        let skip = self.scan_from.0.saturating_sub(started.segment.base);
        let inside =
            skip >= BLOCK as u64 && skip.is_multiple_of(BLOCK as u64) && skip < started.len;
        if inside && started.header.is_some() { skip } else { 0 }
    }

    fn replay_piece(
        &mut self,
        segment: &Segment,
        bytes: &[u8],
        skip: u64,
        piece: &Piece,
        replay: &mut Replay<'_>,
    ) -> Result<(), StoreError> {
        let name = &segment.name;
        let from = self.checkpoint.map_or(0, |checkpoint| checkpoint.replay_from.0);
        let (start, end) = match piece {
            Piece::Damage { start, what, .. } => {
                self.report.damage.push((name.clone(), skip + *start as u64, what.clone()));
                return Ok(());
            }
            Piece::DamagedBatch { start, end } => {
                let what = "batch payload checksum does not match".to_owned();
                self.report.damage.push((name.clone(), skip + *start as u64, what));
                (*start, *end)
            }
            Piece::Batch { start, end } => (*start, *end),
        };
        let payload = bytes.get(start..end).unwrap_or_default();
        for entry in entries(payload, Lsn(segment.base + skip + start as u64)) {
            match (entry.header, entry.payload) {
                (_, Err(EntryError::Unknown { kind, version })) => {
                    return Err(refused(name, EntryError::Unknown { kind, version }));
                }
                (header, Err(error)) => {
                    let what = match header {
                        Some(header) => format!("{error}: {header:?}"),
                        None => error.to_string(),
                    };
                    self.report.damage.push((name.clone(), entry.lsn.0 - segment.base, what));
                }
                (Some(header), Ok(payload)) if entry.lsn.0 >= from => {
                    self.report.replayed_entries += 1;
                    self.report.replayed_bytes += super::entry_len(payload.len()) as u64;
                    replay(entry.lsn, &header, payload)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The log, at a place where no entry ever was.
    fn start(mut self, tip: Tip, replay_from: u64) -> Log {
        let root = self.checkpoint.map_or(0, |checkpoint| checkpoint.root.0);
        let base = align(self.lsn_next.max(replay_from).max(root + u64::from(root > 0)));
        let segment = Rc::new(Segment::new(self.epoch_next, base));
        self.segments.insert(base, segment.clone());
        let state = State {
            segments: self.segments,
            open: Batch::new(segment, 0, Vec::new()),
            closed: VecDeque::new(),
            flight: None,
            durable: base,
            buffered: 0,
            chain: tip.chain,
            batch_starts: VecDeque::new(),
            ended: tip.ended,
            checkpoint: self.checkpoint,
            checkpoint_sequence: self.checkpoint_sequence,
            checkpoint_next: self.checkpoint_next,
            checkpoint_files: self.checkpoint_files,
            trouble: None,
            closing: false,
            writer_ended: false,
            spare: Vec::new(),
            batch_guess: 0,
            open_files: VecDeque::new(),
            writer: None,
            waiters: Waiters::default(),
            room: Waiters::default(),
            probe: LogProbe::default(),
        };
        let inner = Rc::new(Inner {
            device: self.device,
            options: self.options,
            state: RefCell::new(state),
            on_durable: RefCell::new(None),
        });
        self.executor.spawn(Priority::Foreground, Box::pin(writer::run(inner.clone())));
        Log(inner)
    }
}
