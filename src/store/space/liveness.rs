//! The mark pass of compaction: which entries of old segments are still referred to.
//!
//! It walks everything that refers to an entry: directory, accounts one at a time, their runs and
//! message tables, the spool, and last the states that sessions hold. Why nothing is missed while
//! mail goes on: the pass examines only segments that are complete (the caller's horizon), and a
//! new reference to an old entry can only come from an existing one of the same account, or from a
//! body whose chunks were written but not committed. Such bodies are noted first, before any await:
//! one committed by then is seen in its mailbox. Otherwise it is enough to see each account once,
//! as a whole, at any time during the pass; its later references are either among those or to new
//! entries. Sessions' states are collected after all accounts: a message that left its account
//! before the account was seen is in one of them, or unreachable.
//!
//! Memory is bounded: 16 bytes for each live entry of the segments in question, up to a limit.

use std::{collections::BTreeSet, rc::Rc, sync::Arc};

use super::{
    super::{
        account::{page::decode_account, snapshot::Published, state::AccountState},
        accounts::Accounts,
        bodies::Bodies,
        commits::Commits,
        error::StoreError,
        format::{
            blocks::BlockRunRef,
            body::BODY_CHUNK,
            effect::Effect,
            run::{RUN_RECORD_BYTES, RunRecord, RunRef},
        },
        log::{Log, SealedSegment},
        message::MessageBody,
    },
    pace::Pace,
};
use crate::{
    model::{AccountId, Lsn, MailboxId, Uid},
    plant::{Plant, planted},
};

/// Live entries remembered in one pass: 32 MiB. Beyond that, the fullest segment is left for
/// another pass.
const MARKS_MAX: usize = 2 << 20;

/// Messages examined before it yields.
const MESSAGES_AT_ONCE: usize = 2048;

/// Bodies up to this size may be in chunks regardless of [`BODY_CHUNK`]: checking is cheap.
const BODY_SMALL: u64 = 64;

/// Approximate size on disk of an account's page, and of a directory page.
const PAGE_BYTES: u32 = 512;
const DIRECTORY_PAGE_BYTES: u32 = 6 * 1024;

/// A live entry: LSN and bytes in the log, estimated for pages.
type Mark = (u64, u32);

/// The live entries of some segments, and estimates for the others.
pub(crate) struct Marks {
    /// Ascending by base, not overlapping.
    ranges: Vec<Range>,
    total: usize,
    /// Total at which duplicates are removed next.
    settle_at: usize,
}

struct Range {
    epoch: u64,
    base: u64,
    end: u64,
    /// Sum over all references, including repeated ones to one entry.
    referred: u64,
    /// `None` if not requested, or given up because there were too many.
    marks: Option<Vec<Mark>>,
    /// Bytes of the marks, without those from sessions' views only.
    owned: u64,
}

impl Marks {
    /// Sums for all of `segments`, the entries themselves for those in `wanted`.
    fn new(segments: &[SealedSegment], wanted: &BTreeSet<u64>) -> Marks {
        let ranges = segments.iter().map(|segment| Range {
            epoch: segment.epoch,
            base: segment.base.0,
            end: segment.end.0,
            referred: 0,
            owned: 0,
            marks: wanted.contains(&segment.epoch).then(Vec::new),
        });
        Marks { ranges: ranges.collect(), total: 0, settle_at: MARKS_MAX / 4 }
    }

    fn range_of(&mut self, lsn: Lsn) -> Option<&mut Range> {
        let at = self.ranges.partition_point(|range| range.base <= lsn.0).checked_sub(1)?;
        self.ranges.get_mut(at).filter(|range| lsn.0 < range.end)
    }

    fn add(&mut self, lsn: Lsn, len: u32) {
        let Some(range) = self.range_of(lsn) else { return };
        range.referred += u64::from(len);
        let Some(marks) = &mut range.marks else { return };
        marks.push((lsn.0, len));
        self.total += 1;
    }

    /// `bytes` of chunks are somewhere below `lsn`: for sums the exact place does not matter.
    fn add_below(&mut self, lsn: Lsn, bytes: u64) {
        let mut at = self.ranges.partition_point(|range| range.base <= lsn.0);
        let mut left = bytes;
        while left > 0 && at > 0 {
            at -= 1;
            let range = &mut self.ranges[at];
            let room = lsn.0.min(range.end) - range.base;
            let here = left.min(room);
            range.referred += here;
            left -= here;
        }
    }

    /// The chunks of a body are below its commit entry: there are none below all ranges.
    fn may_hold_chunks_of(&self, body: &MessageBody) -> bool {
        let first = self.ranges.iter().find(|range| range.marks.is_some());
        first.is_some_and(|range| body.lsn.0 >= range.base)
    }

    fn is_full(&self) -> bool {
        self.total >= self.settle_at
    }

    /// Removes duplicates; drops the fullest segment while there are too many marks.
    async fn settle(&mut self, pace: &mut Pace) -> Result<(), StoreError> {
        self.total = 0;
        for marks in self.ranges.iter_mut().filter_map(|range| range.marks.as_mut()) {
            marks.sort_unstable();
            // Of two lengths for one entry the larger is the exact one.
            marks.reverse();
            marks.dedup_by_key(|(lsn, _)| *lsn);
            marks.reverse();
            self.total += marks.len();
            pace.spent(0).await?;
        }
        let len = |range: &Range| range.marks.as_ref().map_or(0, Vec::len);
        while self.total > MARKS_MAX / 2 {
            let Some(fullest) = self.ranges.iter_mut().max_by_key(|range| len(range)) else {
                break;
            };
            self.total -= len(fullest);
            fullest.marks = None;
        }
        self.settle_at = MARKS_MAX.min(2 * self.total + MARKS_MAX / 4);
        Ok(())
    }

    /// The live entries of a segment, ascending; `None` if it was not examined.
    pub(crate) fn of(&self, epoch: u64) -> Option<&[Mark]> {
        self.ranges.iter().find(|range| range.epoch == epoch)?.marks.as_deref()
    }

    /// Bytes of the live entries of a segment.
    pub(crate) fn live_bytes(&self, epoch: u64) -> Option<u64> {
        Some(self.of(epoch)?.iter().map(|(_, len)| u64::from(*len)).sum())
    }

    /// As [`Marks::live_bytes`], without entries held only by sessions' views.
    pub(crate) fn owned_bytes(&self, epoch: u64) -> Option<u64> {
        let range = self.ranges.iter().find(|range| range.epoch == epoch)?;
        range.marks.is_some().then_some(range.owned)
    }

    /// For every segment its bytes in use by mailboxes: exact if it was examined, otherwise counted
    /// once per reference.
    pub(crate) fn estimates(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().map(|range| {
            (range.epoch, if range.marks.is_some() { range.owned } else { range.referred })
        })
    }
}

/// The references of an account at one moment.
struct Capture {
    runs: Vec<RunRef>,
    /// Runs of cards and of annotations.
    blocks: Vec<BlockRunRef>,
    tables: Vec<Table>,
}

/// Messages of one mailbox.
enum Table {
    Loaded(Arc<Published>),
    Stored {
        runs: Vec<RunRef>,
        /// Bodies added since the last run, and expunged messages.
        added: Vec<MessageBody>,
        expunged: Vec<Uid>,
    },
}

impl Capture {
    fn of(state: &AccountState) -> Capture {
        let mut capture = Capture { runs: Vec::new(), blocks: Vec::new(), tables: Vec::new() };
        for mailbox in state.mailboxes.values() {
            capture.runs.extend(&mailbox.runs);
            if !planted(Plant::ForgetCards) {
                capture.blocks.extend(mailbox.cards.runs());
            }
            if let Some(annotations) = &mailbox.annotations
                && !planted(Plant::ForgetAnnotations)
            {
                capture.blocks.extend(annotations.runs());
            }
            let table = match &mailbox.loaded {
                Some(loaded) => Table::Loaded(loaded.clone()),
                None => {
                    let (mut added, mut expunged) = (Vec::new(), Vec::new());
                    for (uid, record) in mailbox.changes().flatten() {
                        match record {
                            RunRecord::Put(message) => added.push(message.body),
                            RunRecord::Expunged { .. } => expunged.push(*uid),
                            RunRecord::Flags { .. } => {}
                        }
                    }
                    Table::Stored { runs: mailbox.runs.clone(), added, expunged }
                }
            };
            capture.tables.push(table);
        }
        capture
    }
}

/// Finds out which entries are alive. Called by compaction, one pass at a time.
pub(crate) struct Liveness {
    log: Log,
    bodies: Rc<Bodies>,
    accounts: Rc<Accounts>,
    commits: Rc<Commits>,
}

impl Liveness {
    pub(crate) fn new(commits: &Rc<Commits>) -> Liveness {
        Liveness {
            log: commits.log.clone(),
            bodies: commits.bodies.clone(),
            accounts: commits.accounts.clone(),
            commits: commits.clone(),
        }
    }

    /// Marks the live entries of the segments `wanted`, all of which must be below the horizon
    /// taken before.
    pub(crate) async fn mark(
        &self,
        segments: &[SealedSegment],
        wanted: &BTreeSet<u64>,
        pace: &mut Pace,
    ) -> Result<Marks, StoreError> {
        let mut marks = Marks::new(segments, wanted);
        self.mark_staged(&mut marks);
        // Bodies committed but not yet published would be seen nowhere: wait until they are
        // published.
        if let Some(last) = self.commits.last_staged() {
            self.log.durable(last).await?;
        }
        self.mark_spool(&mut marks).await?;
        // Accounts that are in no directory page yet.
        let mut unpaged: Vec<AccountId> = {
            let directory = self.accounts.directory.borrow();
            let (accounts, replayed) =
                (self.accounts.cells.borrow(), self.accounts.replayed.borrow());
            let known = accounts.keys().chain(replayed.keys()).copied();
            known.filter(|id| directory.get(*id).is_none()).collect()
        };
        unpaged.sort_unstable();
        for id in unpaged {
            self.mark_account(id, &mut marks, pace).await?;
        }
        let (mut bucket, mut count) = (0, self.accounts.directory.borrow().bucket_count());
        while bucket < count {
            let (ids, now) = {
                let directory = self.accounts.directory.borrow();
                (directory.accounts_in(bucket), directory.bucket_count())
            };
            if now != count {
                // The directory has grown: accounts have moved to other buckets.
                (bucket, count) = (0, now);
                continue;
            }
            for id in ids {
                self.mark_account(id, &mut marks, pace).await?;
            }
            bucket += 1;
        }
        for page in self.accounts.directory.borrow().pages().into_iter().flatten() {
            marks.add(page, DIRECTORY_PAGE_BYTES);
        }
        marks.settle(pace).await?;
        for range in &mut marks.ranges {
            let bytes = range.marks.iter().flatten().map(|(_, len)| u64::from(*len));
            range.owned = bytes.sum();
        }
        let held = self.accounts.held();
        for published in held {
            if planted(Plant::IgnoreHeldViews) {
                break;
            }
            self.mark_table(&published, &mut marks, pace).await?;
        }
        marks.settle(pace).await?;
        Ok(marks)
    }

    /// Chunks of bodies without a commit entry yet.
    fn mark_staged(&self, marks: &mut Marks) {
        for (lsn, len) in self.bodies.staged_chunks() {
            if !planted(Plant::ForgetStagedBodies) {
                marks.add(lsn, len);
            }
        }
    }

    async fn mark_spool(&self, marks: &mut Marks) -> Result<(), StoreError> {
        let spooled: Vec<MessageBody> =
            self.commits.standing.borrow().spool.values().map(|spooled| spooled.body).collect();
        for body in spooled {
            marks.add(body.lsn, body.entry_len);
            self.mark_chunks(&body, marks).await?;
        }
        Ok(())
    }

    async fn mark_account(
        &self,
        id: AccountId,
        marks: &mut Marks,
        pace: &mut Pace,
    ) -> Result<(), StoreError> {
        match self.mark_account_as_is(id, marks, pace).await {
            Err(StoreError::Corrupt { .. }) => {}
            marked => return marked,
        }
        // Loading salvages; a salvaged account is completely in memory.
        let cell = self.accounts.load(id).await?;
        let mailboxes: Vec<MailboxId> = cell.state.borrow().names.ids().collect();
        for mailbox in mailboxes {
            match self.accounts.ensure_table(&cell, mailbox).await {
                Err(StoreError::NoSuchMailbox) => {}
                loaded => loaded?,
            }
        }
        self.mark_account_as_is(id, marks, pace).await
    }

    async fn mark_account_as_is(
        &self,
        id: AccountId,
        marks: &mut Marks,
        pace: &mut Pace,
    ) -> Result<(), StoreError> {
        // One moment: there is no await until everything is captured, or named by an immutable
        // page.
        let page = self.accounts.directory.borrow().get(id);
        let cell = self.accounts.get(id);
        let replayed = self.accounts.replayed.borrow().get(&id).cloned();
        let loaded = cell.as_ref().map(|cell| {
            let state = cell.state.borrow();
            (state.page, Capture::of(&state))
        });
        drop(cell);
        let capture = match (loaded, page) {
            (Some((own, capture)), _) => {
                own.into_iter().for_each(|own| marks.add(own, PAGE_BYTES));
                capture
            }
            (None, None) => Capture { runs: Vec::new(), blocks: Vec::new(), tables: Vec::new() },
            (None, Some(lsn)) => {
                let (header, payload) = self.log.read(lsn).await?;
                pace.spent(payload.len() as u64).await?;
                marks.add(lsn, payload.len() as u32);
                let state = decode_account(header.version, lsn, &payload);
                Capture::of(&state.map_err(|error| StoreError::undecodable(lsn, error))?)
            }
        };
        page.into_iter().for_each(|page| marks.add(page, PAGE_BYTES));
        capture.runs.iter().for_each(|run| marks.add(run.lsn, run.records * RUN_RECORD_BYTES));
        capture.blocks.iter().for_each(|run| marks.add(run.lsn, run.entry_len));
        for (_, effect) in replayed.iter().flat_map(|effects| effects.iter()) {
            if let Effect::Message { message, .. } = effect {
                self.mark_body(&message.body, marks).await?;
            }
        }
        for table in capture.tables {
            match table {
                Table::Loaded(published) => self.mark_table(&published, marks, pace).await?,
                Table::Stored { runs, added, expunged } => {
                    for body in &added {
                        self.mark_body(body, marks).await?;
                    }
                    self.mark_runs(&runs, expunged, marks, pace).await?;
                }
            }
        }
        Ok(())
    }

    /// Newest run first: messages that it expunges are not marked in older ones.
    async fn mark_runs(
        &self,
        runs: &[RunRef],
        expunged: Vec<Uid>,
        marks: &mut Marks,
        pace: &mut Pace,
    ) -> Result<(), StoreError> {
        let mut gone: hashbrown::HashSet<Uid> = expunged.into_iter().collect();
        for run in runs.iter().rev() {
            let records = self.accounts.read_run(run).await?;
            pace.spent(u64::from(run.records * RUN_RECORD_BYTES)).await?;
            for (uid, record) in records {
                match record {
                    RunRecord::Put(message) if !gone.contains(&uid) => {
                        self.mark_body(&message.body, marks).await?;
                    }
                    RunRecord::Expunged { .. } => drop(gone.insert(uid)),
                    RunRecord::Put(_) | RunRecord::Flags { .. } => {}
                }
            }
            if marks.is_full() {
                marks.settle(pace).await?;
            }
        }
        Ok(())
    }

    async fn mark_table(
        &self,
        published: &Published,
        marks: &mut Marks,
        pace: &mut Pace,
    ) -> Result<(), StoreError> {
        let mut start = 0;
        while start < published.table.len() {
            for message in published.table.iter_from(start).take(MESSAGES_AT_ONCE) {
                self.mark_body(&message.body, marks).await?;
            }
            start += MESSAGES_AT_ONCE;
            pace.spent(0).await?;
            if marks.is_full() {
                marks.settle(pace).await?;
            }
        }
        Ok(())
    }

    async fn mark_body(&self, body: &MessageBody, marks: &mut Marks) -> Result<(), StoreError> {
        if planted(Plant::DropLiveBody) && (body.lsn.0 / 8).is_multiple_of(4) {
            return Ok(());
        }
        marks.add(body.lsn, body.entry_len);
        // Shorter ones are in their commit entry.
        if body.size > BODY_CHUNK as u64 || body.size <= BODY_SMALL {
            return match self.mark_chunks(body, marks).await {
                // The list of its chunks is lost, and so are they; its segment is quarantined.
                Err(StoreError::Corrupt { .. }) => Ok(()),
                marked => marked,
            };
        }
        Ok(())
    }

    async fn mark_chunks(&self, body: &MessageBody, marks: &mut Marks) -> Result<(), StoreError> {
        if !marks.may_hold_chunks_of(body) {
            let inside = u64::from(body.entry_len) >= body.size;
            let chunks = self.bodies.counters.chunks_of(body.size);
            marks.add_below(body.lsn, if inside { 0 } else { chunks });
            return Ok(());
        }
        for (lsn, len) in self.bodies.chunks(body).await? {
            marks.add(lsn, len);
        }
        Ok(())
    }
}
