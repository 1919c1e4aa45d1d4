//! Compaction: live entries of old segments move to new files, and the space of the rest is freed.
//!
//! A cycle chooses segments with much garbage, marks their live entries (`liveness`), publishes a
//! checkpoint, copies the live entries with their LSNs into compacted segments (`log::compact`) and
//! deletes the old files once nobody reads them. It runs as a background task when the estimated
//! share of garbage exceeds a setting, or on request; one at a time.
//!
//! Shard-local. Invariants:
//! - Only segments wholly below the *horizon*, the checkpoint's `replay_from`, are touched. Chunks
//!   of bodies that are still being staged are live like any others, and move with their LSNs:
//!   however slowly a body arrives, it holds back nothing but itself.
//! - A compacted segment is completed only after a checkpoint that was written entirely after the
//!   mark pass: no start can need a page that the pass did not see.
//! - A segment with an unreadable live entry is *quarantined*: kept unchanged, named, never
//!   deleted.
//! - Any failure ends the cycle and leaves the log as it was; it does not affect the partition.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::{Rc, Weak},
    time::Duration,
};

use super::{
    super::{
        accounts::Accounts,
        checkpoint::Checkpoints,
        commits::Commits,
        damage::Damages,
        error::StoreError,
        log::{CompactedWriter, Log, SOURCES_MAX, SealedSegment, compacted_len},
        options::StoreOptions,
    },
    liveness::{Liveness, Marks},
    pace::{Pace, STEP},
};
use crate::{
    model::{AccountId, Lsn, Moment},
    runtime::{
        executor::{Executor, Priority},
        wait::Signal,
    },
};

/// Segments examined by one mark pass.
const SEGMENTS_AT_ONCE: usize = 64;

/// An attempt to make room is repeated after this time, even if little has changed since: sessions
/// may have let go of expunged messages that it had to keep. The time doubles up to
/// [`ROOM_RETRY_MAX`].
const ROOM_RETRY_MIN: Duration = Duration::from_secs(5);
const ROOM_RETRY_MAX: Duration = Duration::from_secs(900);

/// A segment is not rewritten for less than this share of it, in percent.
const SHARE_MIN: u64 = 10;

/// The result of one cycle.
#[derive(Clone, Default, Debug)]
pub struct CompactionReport {
    pub segments_before: usize,
    pub segments_after: usize,
    /// Bytes of all segment files.
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// Of these, bytes of entries in use, if known.
    pub live_bytes: u64,
    /// Bytes of compacted segments written.
    pub bytes_rewritten: u64,
    pub segments_deleted: u64,
    /// Segments kept because an entry in use cannot be read: name and error.
    pub quarantined: Vec<(String, StoreError)>,
}

/// When compaction runs, and what it has done. Shard-local.
pub(crate) struct Space {
    options: Rc<StoreOptions>,
    executor: Rc<dyn Executor>,
    log: Log,
    accounts: Rc<Accounts>,
    commits: Rc<Commits>,
    liveness: Liveness,
    checkpoints: Rc<Checkpoints>,
    damages: Rc<Damages>,
    wanted: Rc<Signal>,
    ended: Signal,
    running: Cell<bool>,
    stopped: Rc<Cell<bool>>,
    /// An unfinished file could not be deleted, or a cycle was dropped: the next start cleans up.
    halted: Cell<bool>,
    /// Garbage that the last cycle left or could not remove.
    left: Cell<u64>,
    /// The next cycle may begin whatever has changed since the last one.
    pressed: Cell<bool>,
    /// When the last attempt to make room began, and the pause before the next one.
    pressed_at: Cell<Option<(Moment, Duration)>>,
    /// The estimates are to be made anew before the next cycle.
    survey_wanted: Cell<bool>,
    /// When they were last made anew, and the pause before that may be repeated.
    surveyed_at: Cell<Option<(Moment, Duration)>>,
    runs: Cell<u64>,
    rewritten: Cell<u64>,
    deleted: Cell<u64>,
}

/// Counters for [`super::StoreProbe`].
#[derive(Clone, Copy, Default)]
pub(crate) struct CompactionProbe {
    pub runs: u64,
    pub rewritten: u64,
    pub deleted: u64,
}

impl Space {
    pub(crate) fn new(
        commits: Rc<Commits>,
        checkpoints: Rc<Checkpoints>,
        damages: Rc<Damages>,
    ) -> Space {
        Space {
            options: commits.options.clone(),
            executor: commits.executor.clone(),
            log: commits.log.clone(),
            accounts: commits.accounts.clone(),
            liveness: Liveness::new(&commits),
            commits,
            checkpoints,
            damages,
            wanted: Rc::default(),
            ended: Signal::default(),
            running: Cell::new(false),
            stopped: Rc::default(),
            halted: Cell::new(false),
            left: Cell::new(0),
            pressed: Cell::new(false),
            pressed_at: Cell::new(None),
            survey_wanted: Cell::new(false),
            surveyed_at: Cell::new(None),
            runs: Cell::new(0),
            rewritten: Cell::new(0),
            deleted: Cell::new(0),
        }
    }

    /// Starts the background task.
    pub(crate) fn start(self: &Rc<Space>) {
        let task = run(Rc::downgrade(self), self.wanted.clone());
        self.executor.spawn(Priority::Background, Box::pin(task));
    }

    pub(crate) fn probe(&self) -> CompactionProbe {
        CompactionProbe {
            runs: self.runs.get(),
            rewritten: self.rewritten.get(),
            deleted: self.deleted.get(),
        }
    }

    /// Ends a running cycle at its next step, and the background task.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        self.wanted.set();
    }

    /// Waits until no cycle is running.
    pub(crate) async fn idle(&self) {
        while self.running.get() {
            self.ended.take().await;
        }
        // Passed on to other waiters.
        self.ended.set();
    }
}

/// A running cycle. Dropped before its end, it may have left a file.
struct Running<'a> {
    space: &'a Space,
    clean: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.clean {
            self.space.halted.set(true);
        }
        self.space.running.set(false);
        self.space.ended.set();
    }
}

/// The background task: a cycle whenever one is requested, until the partition is gone.
async fn run(space: Weak<Space>, wanted: Rc<Signal>) {
    loop {
        wanted.take().await;
        let Some(space) = space.upgrade() else { return };
        if space.stopped.get() {
            return;
        }
        // A full disk or a damaged page ends either; further garbage triggers the next cycle.
        let _ = match space.survey_wanted.replace(false) {
            true => space.survey().await,
            false => space.compact(false).await.map(drop),
        };
    }
}

impl Space {
    /// Runs one complete cycle over all segments now, at background priority; waits for a running
    /// one first. Reads and changes go on meanwhile.
    ///
    /// # Errors
    /// If the log is in trouble, the disk is full, or a page that leads to messages cannot be read
    /// (then nothing that it might have named is deleted).
    pub(crate) async fn compact_now(self: &Rc<Space>) -> Result<CompactionReport, StoreError> {
        let outcome: Rc<RefCell<Option<Result<CompactionReport, StoreError>>>> = Rc::default();
        let ended = Rc::new(Signal::default());
        let (space, told, signal) = (self.clone(), outcome.clone(), ended.clone());
        // A separate task: the caller may stop waiting, the cycle goes on.
        let task = async move {
            let report = space.compact(true).await;
            *told.borrow_mut() = Some(report);
            signal.set();
        };
        self.executor.spawn(Priority::Background, Box::pin(task));
        ended.take().await;
        let report = outcome.borrow_mut().take();
        report.unwrap_or(Err(StoreError::Poisoned))
    }

    /// Requests a cycle if the garbage is worth it. Cheap: it reads each segment's counters.
    pub(crate) fn schedule(&self) {
        if !self.may_begin() {
            return;
        }
        let sealed = self.compactable();
        let unattributed = self.commits.freed.unattributed.get();
        let grown = garbage(&sealed) + unattributed >= self.left.get() + self.garbage_min();
        let due = self.pressed.get() || (self.changed_enough() && grown);
        if due && self.is_worth(&sealed, unattributed) {
            self.wanted.set();
        }
    }

    /// Requests a cycle if the estimates say that it would free enough, whatever has changed since
    /// the start; and first the checkpoint without which the newest segments may not be touched.
    /// For a start, and, `short`, while new mail is refused for want of space: then the log grows
    /// too little for a checkpoint of its own. Checkpoint and cycle do not lead to another attempt:
    /// only changes or time do. Returns whether something will be written.
    pub(crate) fn make_room(&self, short: bool) -> bool {
        let busy = self.running.get() || self.checkpoints.is_running();
        let now = self.executor.moment();
        let last = self.pressed_at.get().filter(|_| !self.changed_enough());
        let rested = last.is_none_or(|(begun, pause)| now.since(begun) >= pause);
        if busy || !self.may_begin() || !rested {
            return false;
        }
        let mut sealed = self.examinable();
        let filling = Some(self.log.filling()).filter(|it| short && self.is_worth(&[*it], 0));
        sealed.extend(filling);
        if !self.is_worth(&sealed, self.commits.freed.unattributed.get()) {
            // Expunges that a start replayed are in no estimate, nor what sessions held when the
            // estimates were made.
            let last = self.surveyed_at.get();
            if short && last.is_none_or(|(begun, pause)| now.since(begun) >= pause) {
                self.surveyed_at.set(Some((now, next_pause(last))));
                self.survey_wanted.set(true);
                self.wanted.set();
            }
            return false;
        }
        self.pressed_at.set(Some((now, next_pause(last))));
        self.commits.freed.changed.set(0);
        self.pressed.set(true);
        if sealed.len() == self.compactable().len() {
            self.wanted.set();
            return true;
        }
        if filling.is_some() {
            self.log.seal();
        }
        // It calls `schedule` at its end.
        self.checkpoints.want();
        true
    }

    /// Whether a cycle may begin by itself.
    fn may_begin(&self) -> bool {
        let still = self.stopped.get() || self.halted.get() || self.log.trouble().is_some();
        self.options.garbage_share > 0 && !still
    }

    /// Whether changes since the last cycle may have made garbage that is worth one.
    fn changed_enough(&self) -> bool {
        self.commits.freed.changed.get() >= self.garbage_min() / 2
    }

    /// Whether the garbage in `segments`, and `more` whose place is not known, is worth a cycle.
    fn is_worth(&self, segments: &[SealedSegment], more: u64) -> bool {
        let total: u64 = segments.iter().map(|segment| segment.len).sum();
        let garbage = garbage(segments) + more;
        garbage * 100 > total * u64::from(self.options.garbage_share)
            && garbage >= self.garbage_min()
    }

    /// After changes were published: calls [`Space::schedule`] if they have freed enough, however
    /// little they added to the log.
    pub(crate) fn look_for_garbage(&self) {
        if self.commits.freed.freed.get() >= self.garbage_min() {
            self.commits.freed.freed.set(0);
            self.schedule();
        }
    }

    /// Less garbage than this is not worth a pass over all accounts.
    fn garbage_min(&self) -> u64 {
        self.options.segment_size / 4
    }

    /// Entries below are not replayed by a start, and get no first reference any more, except by
    /// bodies that are already staged.
    fn horizon(&self) -> Lsn {
        self.log.checkpoint().map_or(Lsn(0), |checkpoint| checkpoint.replay_from)
    }

    /// Sealed segments below the horizon that may be rewritten.
    fn compactable(&self) -> Vec<SealedSegment> {
        self.readable_below(self.horizon())
    }

    /// Sealed segments that may be rewritten once a checkpoint has passed them.
    fn examinable(&self) -> Vec<SealedSegment> {
        self.readable_below(Lsn(u64::MAX))
    }

    fn readable_below(&self, horizon: Lsn) -> Vec<SealedSegment> {
        let quarantined = self.damages.quarantined();
        let mut sealed = self.log.sealed_below(horizon);
        sealed.retain(|segment| !quarantined.contains_key(&segment.epoch));
        sealed
    }

    /// One cycle. `all`: everything is examined, after a checkpoint; otherwise the segments that
    /// the estimates name.
    pub(crate) async fn compact(&self, all: bool) -> Result<CompactionReport, StoreError> {
        while self.running.replace(true) {
            self.ended.take().await;
        }
        let mut running = Running { space: self, clean: false };
        let mut report = CompactionReport::default();
        (report.segments_before, report.bytes_before) = self.log.disk_usage();
        self.commits.freed.changed.set(0);
        self.pressed.set(false);
        let outcome = match self.halted.get() || self.stopped.get() {
            true => Ok(()),
            false => self.run_cycle(all, &mut report).await,
        };
        running.clean = true;
        (report.segments_after, report.bytes_after) = self.log.disk_usage();
        report.live_bytes = report.bytes_after.saturating_sub(self.garbage_bytes());
        report.quarantined = self.damages.quarantined().values().cloned().collect();
        self.runs.set(self.runs.get() + 1);
        self.left.set(garbage(&self.compactable()));
        outcome.map(|()| report)
    }

    /// Makes the estimates of all sealed segments anew; writes nothing.
    async fn survey(&self) -> Result<(), StoreError> {
        while self.running.replace(true) {
            self.ended.take().await;
        }
        let mut running = Running { space: self, clean: false };
        let outcome = match self.may_begin() {
            true => self.estimate_all(&mut self.pace()).await,
            false => Ok(()),
        };
        running.clean = true;
        outcome
    }

    async fn estimate_all(&self, pace: &mut Pace) -> Result<(), StoreError> {
        // Of an account that is not loaded, a pass takes all that was replayed for alive.
        let replayed: Vec<AccountId> = self.accounts.replayed.borrow().keys().copied().collect();
        for id in replayed {
            match self.accounts.load(id).await {
                Err(StoreError::Corrupt { .. }) => {}
                loaded => drop(loaded?),
            }
            pace.spent(0).await?;
        }
        self.estimate(&self.examinable(), pace).await
    }

    /// Makes the estimates of `segments` anew.
    async fn estimate(
        &self,
        segments: &[SealedSegment],
        pace: &mut Pace,
    ) -> Result<(), StoreError> {
        let marks = self.liveness.mark(segments, &BTreeSet::new(), pace).await?;
        self.adopt(&marks, |_| true);
        Ok(())
    }

    fn pace(&self) -> Pace {
        let rate = self.options.compaction_rate;
        Pace::new(self.executor.clone(), self.log.clone(), self.stopped.clone(), rate)
    }

    /// Garbage in all sealed segments, estimated.
    pub(crate) fn garbage_bytes(&self) -> u64 {
        garbage(&self.log.sealed_below(Lsn(u64::MAX)))
    }

    async fn run_cycle(&self, all: bool, report: &mut CompactionReport) -> Result<(), StoreError> {
        if all {
            self.checkpoints.checkpoint_pages().await?;
        }
        let mut pace = self.pace();
        let horizon = self.horizon();
        let mut sealed = self.compactable();
        let unknown = sealed.iter().any(|segment| segment.live.is_none());
        if !all && (unknown || self.commits.freed.unattributed.get() >= self.garbage_min()) {
            self.estimate(&sealed, &mut pace).await?;
            sealed = self.compactable();
            self.commits.freed.unattributed.set(0);
        }
        if all {
            self.commits.freed.unattributed.set(0);
        }
        let least = if all { 0 } else { u64::from(self.options.garbage_share) / 2 };
        let chosen: Vec<SealedSegment> = sealed
            .iter()
            .copied()
            .filter(|segment| {
                let dead = segment.live.map_or(segment.len, |live| segment.len - live);
                all || dead * 100 >= segment.len * least || self.is_small(segment.len)
            })
            .collect();
        for batch in chosen.chunks(SEGMENTS_AT_ONCE) {
            self.compact_batch(batch, &sealed, horizon, &mut pace, report).await?;
        }
        Ok(())
    }

    /// Small segments, which many restarts leave, are merged whatever they hold.
    fn is_small(&self, len: u64) -> bool {
        len < self.options.segment_size / 8
    }

    /// Uses the pass's sums as estimates of the segments for which `which` holds.
    fn adopt(&self, marks: &Marks, which: impl Fn(u64) -> bool) {
        let estimates = marks.estimates().filter(|(epoch, _)| which(*epoch));
        self.log.set_live(&estimates.collect());
    }

    async fn compact_batch(
        &self,
        batch: &[SealedSegment],
        sealed: &[SealedSegment],
        horizon: Lsn,
        pace: &mut Pace,
        report: &mut CompactionReport,
    ) -> Result<(), StoreError> {
        let wanted: BTreeSet<u64> = batch.iter().map(|segment| segment.epoch).collect();
        let marks = self.liveness.mark(sealed, &wanted, pace).await?;
        self.adopt(&marks, |epoch| wanted.contains(&epoch));
        // A full disk takes small copies only.
        let free = self.commits.admission.free_now().await;
        let len_max = self.options.segment_size.min(free.map_or(u64::MAX, |free| free / 4));
        let groups = self.groups(batch, &marks, len_max);
        let Some(least) = groups.first() else { return Ok(()) };
        self.check_room(least, &marks).await?;
        // Everything that a start may use from here on was written after the pass, or seen by it.
        self.checkpoints.checkpoint_pages().await?;
        let checkpoint = self.log.checkpoint();
        if checkpoint.is_none_or(|checkpoint| checkpoint.replay_from < horizon) {
            return Ok(());
        }
        for group in groups {
            self.check_room(&group, &marks).await?;
            self.compact_group(&group, &marks, pace, report).await?;
        }
        Ok(())
    }

    /// Whether the disk has room for the copy of `group`, and for expunges meanwhile.
    async fn check_room(&self, group: &[SealedSegment], marks: &Marks) -> Result<(), StoreError> {
        let live: u64 = group.iter().filter_map(|segment| marks.live_bytes(segment.epoch)).sum();
        let free = self.commits.admission.free_now().await;
        let fits = |free| live == 0 || free >= live + self.options.reserve / 4;
        if free.is_none_or(fits) { Ok(()) } else { Err(StoreError::Full) }
    }

    /// Adjacent segments whose live entries take at most `len_max` bytes together, and become
    /// smaller; those with the least live entries first.
    fn groups(
        &self,
        batch: &[SealedSegment],
        marks: &Marks,
        len_max: u64,
    ) -> Vec<Vec<SealedSegment>> {
        // Quarantined ones too: a segment that stays between two others prevents their merging, or
        // it would overlap the merged one's range.
        let all = self.log.sealed_below(Lsn(u64::MAX));
        let mut groups: Vec<Vec<SealedSegment>> = Vec::new();
        let mut file_len = 0;
        let mut expected = None;
        for segment in batch {
            let Some(live) = marks.of(segment.epoch) else { continue };
            let bytes = marks.live_bytes(segment.epoch).unwrap_or(0);
            let dead = segment.len.saturating_sub(bytes);
            if dead * 100 < segment.len * SHARE_MIN && !self.is_small(segment.len) {
                continue;
            }
            let at = all.iter().position(|other| other.epoch == segment.epoch);
            let neighbour = at.is_some() && at == expected;
            let grown = file_len + bytes + 16 * live.len() as u64;
            match groups.last_mut() {
                Some(group)
                    if neighbour
                        && group.len() < SOURCES_MAX
                        && compacted_len(grown, 0) <= len_max =>
                {
                    group.push(*segment);
                    file_len = grown;
                }
                _ => {
                    groups.push(vec![*segment]);
                    file_len = compacted_len(0, 0) + bytes + 16 * live.len() as u64;
                }
            }
            expected = at.map(|at| at + 1);
        }
        let live_bytes = |group: &[SealedSegment]| -> u64 {
            group.iter().filter_map(|segment| marks.live_bytes(segment.epoch)).sum()
        };
        groups.retain(|group| {
            let before: u64 = group.iter().map(|segment| segment.len).sum();
            let entries: usize =
                group.iter().filter_map(|segment| marks.of(segment.epoch)).map(<[_]>::len).sum();
            let live = live_bytes(group);
            entries == 0 || compacted_len(4096 + live, entries as u64) < before
        });
        // On a full disk the space of the first makes room for the copies of the next.
        groups.sort_by_key(|group| live_bytes(group));
        groups
    }

    /// Replaces the segments of `group` by one; or by several, around those that cannot be read.
    async fn compact_group(
        &self,
        group: &[SealedSegment],
        marks: &Marks,
        pace: &mut Pace,
        report: &mut CompactionReport,
    ) -> Result<(), StoreError> {
        let mut output = Output::default();
        for (index, segment) in group.iter().enumerate() {
            let planned = &group[index..];
            match self.copy_segment(segment, planned, marks, &mut output, pace).await {
                Ok(()) => output.sources.push(*segment),
                Err(error @ StoreError::Corrupt { .. }) => {
                    if let Some(writer) = &mut output.writer {
                        writer.cut(segment.base);
                    }
                    self.damages.quarantine(segment.epoch, error);
                    self.complete(std::mem::take(&mut output), marks, pace, report).await?;
                }
                Err(error) => {
                    self.give_up(output).await?;
                    return Err(error);
                }
            }
        }
        self.complete(output, marks, pace, report).await
    }

    async fn copy_segment(
        &self,
        segment: &SealedSegment,
        planned: &[SealedSegment],
        marks: &Marks,
        output: &mut Output,
        pace: &mut Pace,
    ) -> Result<(), StoreError> {
        let live = marks.of(segment.epoch).unwrap_or_default();
        if live.is_empty() {
            return Ok(());
        }
        if output.writer.is_none() {
            let first = output.sources.first().unwrap_or(segment);
            let sources = output.sources.iter().chain(planned).map(|source| source.epoch);
            let end = planned.last().unwrap_or(segment).end;
            let writer = self.log.begin_compacted(first.base, end, sources.collect()).await?;
            output.writer.insert(writer).begin().await?;
        }
        let Some(writer) = &mut output.writer else { return Ok(()) };
        let mut reader = self.log.source(segment.epoch)?;
        let mut step = 0;
        for (lsn, _) in live {
            let entry = reader.entry(Lsn(*lsn)).await?;
            step += entry.len() as u64;
            writer.push(Lsn(*lsn), entry).await?;
            if step >= STEP {
                pace.spent(2 * step).await?;
                step = 0;
            }
        }
        pace.spent(2 * step).await
    }

    /// Completes the new segment and replaces its sources by it.
    async fn complete(
        &self,
        mut output: Output,
        marks: &Marks,
        pace: &mut Pace,
        report: &mut CompactionReport,
    ) -> Result<(), StoreError> {
        let Some(last) = output.sources.last().copied() else {
            return self.give_up(output).await;
        };
        let sources: Vec<u64> = output.sources.iter().map(|source| source.epoch).collect();
        if output.writer.as_ref().is_some_and(CompactedWriter::is_empty) {
            self.give_up(std::mem::take(&mut output)).await?;
        }
        let replacement = match &mut output.writer {
            None => None,
            Some(writer) => match writer.finish(last.end, sources.clone()).await {
                Ok(replacement) => Some(replacement),
                Err(error) => {
                    self.give_up(output).await?;
                    return Err(error);
                }
            },
        };
        drop(output);
        let written = replacement.as_ref().map_or(0, |replacement| replacement.file_len());
        if let Some(replacement) = &replacement {
            // Entries held only by sessions' views are copied, and become garbage when those move
            // on.
            let owned = sources.iter().filter_map(|epoch| marks.owned_bytes(*epoch)).sum();
            replacement.set_live(owned);
        }
        report.bytes_rewritten += written;
        self.rewritten.set(self.rewritten.get() + written);
        let retired = self.log.supersede(&sources, replacement);
        let deleted = self.log.retire(retired, &|| pace.go_on()).await?;
        report.segments_deleted += deleted;
        self.deleted.set(self.deleted.get() + deleted);
        pace.spent(0).await
    }

    /// Deletes an unfinished file. If that fails nothing is compacted any more: a later cycle's
    /// deletions would make the leftover look like a finished file that was damaged.
    async fn give_up(&self, output: Output) -> Result<(), StoreError> {
        let Some(writer) = output.writer else { return Ok(()) };
        let outcome = writer.abandon().await;
        if outcome.is_err() {
            self.halted.set(true);
        }
        outcome
    }
}

/// A compacted segment being written, and what it replaces so far.
#[derive(Default)]
struct Output {
    writer: Option<CompactedWriter>,
    sources: Vec<SealedSegment>,
}

/// The pause after an attempt to make room, from the attempt before.
fn next_pause(last: Option<(Moment, Duration)>) -> Duration {
    last.map_or(ROOM_RETRY_MIN, |(_, pause)| (2 * pause).min(ROOM_RETRY_MAX))
}

/// Unused bytes in `segments`; unknown segments count completely.
fn garbage(segments: &[SealedSegment]) -> u64 {
    segments.iter().map(|segment| segment.len - segment.live.unwrap_or(0).min(segment.len)).sum()
}
