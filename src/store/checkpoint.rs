//! Checkpoints: writing changed accounts as pages, so that a start replays little and cold accounts
//! can be evicted from memory.
//!
//! Checkpoints are fuzzy: commits continue meanwhile. Effects published before the start are in the
//! pages; later ones are replayed from `replay_from`, and an account's page names the first effect
//! that it lacks, so nothing is lost or applied twice. Changes of its mailboxes go to runs first,
//! in pieces between which other tasks run: at any time the runs plus the changes not in them are
//! the table. The page itself, with changes that came meanwhile, is captured without an await. Only
//! changed accounts, changed directory pages and a root are written.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod annotations;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::{Rc, Weak},
};

use super::{
    account::{
        mailbox::Mailbox,
        page::{decode_account, encode_account},
        runs::{Delta, Merger, merge_over, runs_to_merge, tombstone_records, wants_rewrite},
        state::{AccountCell, AccountState},
        tombstones::Tombstone,
    },
    accounts::Accounts,
    cards::Cards,
    commits::Commits,
    damage::Damages,
    error::StoreError,
    format::{
        blocks::{BlockRunRef, MadeRun},
        cards::RUN_CARDS_MAX,
        root::{Root, decode_root, encode_root},
        run::{RUN_RECORD_BYTES, RunRecord, RunRef, decode_run, encode_run},
    },
    log::{EntryHeader, EntryKind, Log, entry_len},
    message::MessageBody,
    options::StoreOptions,
};
use crate::{
    model::{AccountId, Lsn, MailboxId, Uid},
    plant::{Plant, SELF_CHECKS, planted, self_check},
    runtime::{
        executor::{Executor, Priority},
        wait::Signal,
    },
};

/// Most messages of one mailbox that get cards in one checkpoint.
const CARDS_AT_ONCE: usize = 8 * RUN_CARDS_MAX;

/// Most passes over an account whose mailboxes keep changing during the checkpoint: the changes
/// left after these are written with the page, at once.
const PASSES_MAX: usize = 8;

/// Octets that a checkpoint appends before it waits until they are durable: a commit that comes
/// meanwhile waits behind no more than these.
const BEHIND_MAX: usize = 256 * 1024;

/// Schedules and writes checkpoints. Shard-local.
pub(super) struct Checkpoints {
    options: Rc<StoreOptions>,
    executor: Rc<dyn Executor>,
    log: Log,
    accounts: Rc<Accounts>,
    commits: Rc<Commits>,
    cards: Rc<Cards>,
    damages: Rc<Damages>,
    /// Set when a checkpoint is wanted; the background task waits for it.
    wanted: Rc<Signal>,
    /// Set when a checkpoint ended.
    ended: Signal,
    running: Cell<bool>,
    /// Records processed since other tasks had their turn.
    worked: Cell<usize>,
    /// End of the log at the last attempt: a failing checkpoint is not retried before the log has
    /// grown.
    attempted: Cell<Lsn>,
    stopped: Rc<Cell<bool>>,
    /// The last entry appended, and the octets appended since this last waited for the disk.
    behind: Cell<(Lsn, usize)>,
    /// Bytes of the last root.
    root_len: Cell<u32>,
    /// Called after each checkpoint that compaction itself did not request.
    after: RefCell<Option<Rc<dyn Fn()>>>,
}

impl Checkpoints {
    /// Others set `wanted` to request a checkpoint.
    pub(super) fn new(
        commits: Rc<Commits>,
        cards: Rc<Cards>,
        damages: Rc<Damages>,
        wanted: Rc<Signal>,
    ) -> Checkpoints {
        let log = commits.log.clone();
        let attempted = log.checkpoint().map_or(Lsn(0), |checkpoint| checkpoint.replay_from);
        Checkpoints {
            options: commits.options.clone(),
            executor: commits.executor.clone(),
            accounts: commits.accounts.clone(),
            log,
            commits,
            cards,
            damages,
            wanted,
            ended: Signal::default(),
            running: Cell::new(false),
            worked: Cell::new(0),
            attempted: Cell::new(attempted),
            stopped: Rc::default(),
            behind: Cell::default(),
            root_len: Cell::new(0),
            after: RefCell::default(),
        }
    }

    /// Starts the background task.
    pub(super) fn start(self: &Rc<Checkpoints>) {
        let task = run(Rc::downgrade(self), self.wanted.clone());
        self.executor.spawn(Priority::Background, Box::pin(task));
    }

    /// `call` is called after each checkpoint: compaction may pay then.
    pub(super) fn on_written(&self, call: Rc<dyn Fn()>) {
        self.after.replace(Some(call));
    }

    /// Ends the background task.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
        self.wanted.set();
    }

    /// Set when no more checkpoints are to be written: the partition ends, or is only inspected.
    pub(super) fn stopped(&self) -> &Rc<Cell<bool>> {
        &self.stopped
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.get()
    }

    /// Requests a checkpoint from the background task.
    pub(super) fn want(&self) {
        self.wanted.set();
    }
}

/// The background task: writes a checkpoint whenever one is wanted, until the partition is dropped.
async fn run(checkpoints: Weak<Checkpoints>, wanted: Rc<Signal>) {
    loop {
        wanted.take().await;
        let Some(checkpoints) = checkpoints.upgrade() else { return };
        if checkpoints.stopped.get() {
            return;
        }
        // A failed write is reported as the partition's trouble; a damaged account keeps its
        // effects in the log. Either way the next interval tries again.
        let _ = checkpoints.checkpoint().await;
    }
}

/// The delta of a mailbox, being written to runs. If that fails or is abandoned, it is put back,
/// below changes published meanwhile.
struct Captured<'a> {
    cell: &'a AccountCell,
    id: MailboxId,
    delta: Rc<Delta>,
}

impl<'a> Captured<'a> {
    fn of(cell: &'a AccountCell, id: MailboxId, mailbox: &mut Mailbox) -> Captured<'a> {
        Captured { cell, id, delta: mailbox.capture() }
    }

    /// Sets the mailbox's runs to `runs`; returns the previous ones, or `None` if its table was
    /// replaced.
    fn written(&self, runs: Vec<RunRef>) -> Option<Vec<RunRef>> {
        let mut state = self.cell.state.borrow_mut();
        state.mailboxes.get_mut(&self.id)?.written(&self.delta, runs)
    }
}

impl Drop for Captured<'_> {
    fn drop(&mut self) {
        if let Some(mailbox) = self.cell.state.borrow_mut().mailboxes.get_mut(&self.id) {
            mailbox.give_back(&self.delta);
        }
    }
}

impl Checkpoints {
    /// Requests a checkpoint if the log has grown by the interval since the last attempt.
    pub(super) fn schedule(&self) {
        let grown = self.log.next_lsn().0.saturating_sub(self.attempted.get().0);
        if grown > self.options.checkpoint_interval {
            self.wanted.set();
        }
    }

    /// Writes a checkpoint, after one in progress has ended; then calls the hook of
    /// [`Checkpoints::on_written`].
    pub(super) async fn checkpoint(&self) -> Result<(), StoreError> {
        let outcome = self.checkpoint_pages().await;
        let after = self.after.borrow().clone();
        after.iter().for_each(|call| call());
        outcome
    }

    pub(super) async fn checkpoint_pages(&self) -> Result<(), StoreError> {
        while self.running.replace(true) {
            self.ended.take().await;
        }
        // The flag must be reset even if this future is dropped.
        let running = Running(self);
        self.attempted.set(self.log.next_lsn());
        let outcome = self.write_checkpoint().await;
        drop(running);
        self.accounts.trim_anew();
        outcome
    }

    async fn write_checkpoint(&self) -> Result<(), StoreError> {
        if let Some(trouble) = self.log.trouble() {
            return Err(trouble);
        }
        // What an earlier one appended is durable, or was lost in a failure.
        self.behind.take();
        // Every durable effect is published, and every published one is in the pages written below.
        let mut replay_from = self.log.durable_lsn();
        let mut damaged = None;
        for id in self.accounts.changed() {
            match self.write_account(id).await {
                Ok(()) => {}
                // One account that is damaged, or too large for a page, must not prevent the
                // others' pages; its effects in the log will be replayed again.
                Err(error @ (StoreError::Corrupt { .. } | StoreError::Limit(_))) => {
                    replay_from =
                        replay_from.min(self.accounts.first_unwritten(id).unwrap_or(replay_from));
                    damaged = Some(error);
                }
                Err(error) => return Err(error),
            }
            self.executor.yield_now().await;
        }
        self.room().await?;
        while self.append_directory()? {
            self.executor.yield_now().await;
            self.room().await?;
        }
        let root = self.append_root()?;
        if planted(Plant::CheckpointAhead) {
            replay_from = root;
        }
        self.log.durable(root).await?;
        self.log.publish_checkpoint(root, replay_from).await?;
        damaged.map_or(Ok(()), Err)
    }

    /// Waits before more is appended: for room in the log's buffer, and for the disk if much of
    /// what the checkpoint appended is not durable yet.
    async fn room(&self) -> Result<(), StoreError> {
        self.log.room().await?;
        let (last, octets) = self.behind.get();
        if octets < BEHIND_MAX {
            return Ok(());
        }
        self.behind.set((last, 0));
        self.log.durable(last).await
    }

    fn append(&self, header: EntryHeader, payload: &[u8]) -> Result<Lsn, StoreError> {
        let lsn = self.log.append(header, &[payload])?;
        let (_, octets) = self.behind.get();
        self.behind.set((lsn, octets + payload.len()));
        Ok(lsn)
    }

    /// Writes changed pages of the directory, about [`BEHIND_MAX`] octets of them. True if some are
    /// left.
    fn append_directory(&self) -> Result<bool, StoreError> {
        let mut left = BEHIND_MAX;
        self.accounts.directory.borrow_mut().write_changed(|old, page| {
            let len = page.len();
            left = left.saturating_sub(len);
            let new = self.append_page(EntryKind::DirectoryPage, AccountId(0), page)?;
            old.into_iter().for_each(|old| self.log.release(old, entry_len(len) as u32));
            Ok((new, left > 0))
        })
    }

    /// The directory's pages are written.
    fn append_root(&self) -> Result<Lsn, StoreError> {
        if let Some(older) = self.log.checkpoint() {
            self.log.release(older.root, self.root_len.get());
        }
        let segments = self.log.estimates();
        let mut root = Root {
            buckets: self.accounts.directory.borrow().pages(),
            segments,
            quarantined: self.damages.quarantined().keys().copied().collect(),
            lost: self.accounts.lost.get(),
            ..Root::default()
        };
        self.commits.standing.borrow().to_root(&mut root);
        let encoded = encode_root(&root);
        if SELF_CHECKS {
            let read = decode_root(&encoded);
            self_check(read.as_ref() == Ok(&root), || format!("{root:?} is read as {read:?}"));
        }
        let root = encoded;
        self.root_len.set(entry_len(root.len()) as u32);
        self.append_page(EntryKind::CheckpointRoot, AccountId(0), root)
    }

    fn append_page(
        &self,
        kind: EntryKind,
        account: AccountId,
        payload: Vec<u8>,
    ) -> Result<Lsn, StoreError> {
        let header = EntryHeader::new(kind, account, MailboxId(0), Uid(0));
        self.append(header, &payload)
    }

    fn append_run(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        records: impl ExactSizeIterator<Item = (Uid, RunRecord)>,
    ) -> Result<RunRef, StoreError> {
        let header = EntryHeader::new(EntryKind::MailboxRun, account, mailbox, Uid(0));
        let count = records.len() as u32;
        let payload = encode_run(records);
        if SELF_CHECKS {
            let read = decode_run(header.version, &payload).map(|it| it.len());
            self_check(read == Ok(count as usize), || {
                format!("a run of {count} messages is read as {read:?}")
            });
        }
        let lsn = self.append(header, &payload)?;
        Ok(RunRef { lsn, records: count })
    }

    fn release_run(&self, run: &RunRef) {
        self.log.release(run.lsn, run.records * RUN_RECORD_BYTES);
    }

    async fn write_account(&self, id: AccountId) -> Result<(), StoreError> {
        let cell = self.accounts.load(id).await?;
        let mut cards_left = false;
        for mailbox in mailboxes_of(&cell) {
            self.write_changes(&cell, mailbox).await?;
            cards_left |= self.make_cards(&cell, mailbox).await?;
            self.write_annotations(&cell, mailbox).await?;
        }
        self.room().await?;
        // Changes were made meanwhile, usually few.
        for _ in 0..PASSES_MAX {
            if changes_of(&cell) <= self.turn() {
                break;
            }
            for mailbox in mailboxes_of(&cell) {
                self.write_changes(&cell, mailbox).await?;
            }
            self.room().await?;
        }
        // There is no await from here to the end: page and runs show the same state.
        let mut state = cell.state.borrow_mut();
        if !state.names.contains(MailboxId::INBOX) {
            return Ok(());
        }
        self.append_deltas(&mut state)?;
        self.append_annotations_left(&mut state)?;
        let content = encode_account(&state);
        if SELF_CHECKS {
            self_check(reads_back(&content), || {
                format!("the page of {id:?} does not read back as written")
            });
        }
        let len = entry_len(content.len()) as u32;
        let page = self.append_page(EntryKind::AccountPage, id, content)?;
        if let Some(older) = state.page.replace(page) {
            self.log.release(older, len);
        }
        (state.dirty, state.unwritten) = (cards_left, None);
        if cards_left {
            self.wanted.set();
        }
        self.accounts.directory.borrow_mut().set(id, page);
        drop(state);
        self.accounts.measure(&cell);
        Ok(())
    }

    /// Records to process before other tasks get their turn: about half a millisecond.
    fn turn(&self) -> usize {
        (self.options.run_records_max / 2).max(1)
    }

    /// Counts `records` as processed; lets other tasks run when a turn is over.
    async fn worked_on(&self, records: usize) {
        let worked = self.worked.get() + records;
        self.worked.set(worked % self.turn());
        if worked >= self.turn() {
            self.executor.yield_now().await;
        }
    }

    /// Moves a mailbox's changes into runs, joined with its newest ones, or rewrites the whole
    /// mailbox, in pieces. Changes published meanwhile are left for the next time.
    pub(super) async fn write_changes(
        &self,
        cell: &Rc<AccountCell>,
        id: MailboxId,
    ) -> Result<(), StoreError> {
        let rewrite = {
            let state = cell.state.borrow();
            let Some(mailbox) = state.mailboxes.get(&id) else { return Ok(()) };
            let live = mailbox.status.messages as usize + mailbox.tombstones.count() as usize;
            wants_rewrite(&mailbox.runs, live, self.options.run_garbage_min)
        };
        if rewrite {
            return match self.rewrite_runs(cell, id).await {
                // A table that cannot be read now is left as it is: its changes follow with the
                // page.
                Err(StoreError::NoSuchMailbox | StoreError::Io(_)) => Ok(()),
                other => other,
            };
        }
        let (account, mut kept, captured, floor) = {
            let mut state = cell.state.borrow_mut();
            let account = state.id;
            let Some(mailbox) = state.mailboxes.get_mut(&id) else { return Ok(()) };
            if mailbox.delta.is_empty() {
                return Ok(());
            }
            let (runs, floor) = (mailbox.runs.clone(), mailbox.tombstones.floor());
            (account, runs, Captured::of(cell, id, mailbox), floor)
        };
        let mut merger = Merger::new(floor);
        let mut joined = kept.split_off(kept.len() - runs_to_merge(&kept, captured.delta.len()));
        match self.feed(&mut merger, &joined).await {
            Ok(()) => {}
            // Loading the table salvages what is left, for the next time; if it is in memory
            // already, the runs are kept as they are.
            Err(StoreError::Corrupt { .. }) => {
                self.accounts.ensure_table(cell, id).await?;
                kept.append(&mut joined);
                merger = Merger::new(floor);
            }
            // One bad sector must not keep the whole partition from its checkpoints.
            Err(StoreError::Io(_)) => {
                kept.append(&mut joined);
                merger = Merger::new(floor);
            }
            Err(error) => return Err(error),
        }
        for piece in pieces(&captured.delta, self.turn()) {
            let count = piece.map(|(uid, record)| merger.add((*uid, *record))).count();
            self.worked_on(count).await;
        }
        let mut records = merger.finish(kept.is_empty());
        let mut new = Vec::new();
        loop {
            let piece: Vec<_> = records.by_ref().take(self.options.run_records_max).collect();
            if piece.is_empty() {
                break;
            }
            self.room().await?;
            new.push(self.append_run(account, id, piece.iter().copied())?);
            self.worked_on(piece.len()).await;
        }
        kept.extend(&new);
        let written = captured.written(kept).is_some();
        let useless = if written { joined } else { new };
        useless.iter().for_each(|run| self.release_run(run));
        Ok(())
    }

    /// Reads `runs` into `merger`.
    async fn feed(&self, merger: &mut Merger, runs: &[RunRef]) -> Result<(), StoreError> {
        for run in runs {
            let records = self.accounts.read_run(run).await?;
            for piece in records.chunks(self.turn()) {
                piece.iter().for_each(|record| merger.add(*record));
                self.worked_on(piece.len()).await;
            }
        }
        Ok(())
    }

    /// Writes a mailbox's whole table and its tombstones as new runs, in pieces. Changes published
    /// meanwhile go to the delta as always.
    async fn rewrite_runs(&self, cell: &Rc<AccountCell>, id: MailboxId) -> Result<(), StoreError> {
        self.accounts.ensure_table(cell, id).await?;
        let (account, table, tombstones, captured) = {
            let mut state = cell.state.borrow_mut();
            let account = state.id;
            let mailbox = state.mailboxes.get_mut(&id).ok_or(StoreError::NoSuchMailbox)?;
            let table = mailbox.loaded.clone().ok_or(StoreError::NoSuchMailbox)?;
            let tombstones: Vec<Tombstone> = mailbox.tombstones.iter().collect();
            (account, table, tombstones, Captured::of(cell, id, mailbox))
        };
        let mut runs = Vec::new();
        let mut start = 0;
        while start < table.table.len() {
            self.room().await?;
            let count = self.options.run_records_max.min(table.table.len() - start);
            let messages: Vec<(Uid, RunRecord)> = table
                .table
                .iter_from(start)
                .take(count)
                .map(|message| (message.uid, RunRecord::Put(*message)))
                .collect();
            runs.push(self.append_run(account, id, messages.into_iter())?);
            start += count;
            self.executor.yield_now().await;
        }
        for piece in tombstones.chunks(self.options.run_records_max) {
            self.room().await?;
            let records = tombstone_records(piece.iter().copied());
            runs.push(self.append_run(account, id, records.into_iter())?);
            self.executor.yield_now().await;
        }
        let useless = captured.written(runs.clone()).unwrap_or(runs);
        useless.iter().for_each(|run| self.release_run(run));
        Ok(())
    }

    /// Makes cards for a mailbox's messages that have none, once there are many; at most
    /// [`CARDS_AT_ONCE`]. True if some are left to the next checkpoint.
    async fn make_cards(&self, cell: &Rc<AccountCell>, id: MailboxId) -> Result<bool, StoreError> {
        let (mut from, uid_next) = {
            let mut state = cell.state.borrow_mut();
            let Some(mailbox) = state.mailboxes.get_mut(&id) else { return Ok(false) };
            self.release_cards(mailbox.cards.give_up_garbage(mailbox.status.messages));
            if !mailbox.cards.wanted(mailbox.status.uid_next, self.options.cards_wanted) {
                return Ok(false);
            }
            (mailbox.cards.next(), mailbox.status.uid_next)
        };
        let mut bare = match self.bodies_from(cell, id, from).await {
            Ok(bare) => bare,
            // Deleted meanwhile; or damaged, which is handled when the table is loaded.
            Err(StoreError::NoSuchMailbox | StoreError::Corrupt { .. } | StoreError::Io(_)) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let left = bare.len() > CARDS_AT_ONCE;
        bare.truncate(CARDS_AT_ONCE);
        let mut pieces = bare.chunks(RUN_CARDS_MAX).peekable();
        loop {
            let piece = pieces.next().unwrap_or_default();
            let joined: Vec<BlockRunRef> = {
                let state = cell.state.borrow();
                let Some(mailbox) = state.mailboxes.get(&id) else { return Ok(false) };
                newest(mailbox.cards.runs(), mailbox.cards.to_join(piece.len())).to_vec()
            };
            let made = match self.cards.make_run(&joined, piece).await {
                Err(StoreError::Corrupt { .. }) => {
                    self.give_up_cards(cell, id, &joined);
                    return Ok(true);
                }
                // Tried again by the next checkpoint.
                Err(StoreError::Io(_)) => return Ok(false),
                made => made?,
            };
            self.room().await?;
            let state = &mut *cell.state.borrow_mut();
            let Some(mailbox) = state.mailboxes.get_mut(&id) else { return Ok(false) };
            if !mailbox.cards.runs().ends_with(&joined) || mailbox.cards.next() != from {
                // Some runs were given up meanwhile: their cards come first.
                return Ok(true);
            }
            let run = match made {
                Some(made) => Some(self.append_cards(state.id, id, made)?),
                None => None,
            };
            let whole = pieces.peek().is_none() && !left;
            let last = piece.last().map_or(uid_next, |(uid, _)| Uid(uid.0.saturating_add(1)));
            from = if whole { uid_next } else { last };
            self.release_cards(mailbox.cards.add(joined.len(), run, from));
            if pieces.peek().is_none() {
                return Ok(left);
            }
        }
    }

    /// The bodies of a mailbox's messages with UIDs from `first` on, ascending.
    async fn bodies_from(
        &self,
        cell: &AccountCell,
        id: MailboxId,
        first: Uid,
    ) -> Result<Vec<(Uid, MessageBody)>, StoreError> {
        let (runs, delta) = {
            let state = cell.state.borrow();
            let mailbox = state.mailboxes.get(&id).ok_or(StoreError::NoSuchMailbox)?;
            if let Some(loaded) = &mailbox.loaded {
                // Only as many as can get cards, plus one to show that more are left: a copy of all
                // would block the shard.
                let messages = loaded.table.iter_from(loaded.table.lower_bound(first));
                let messages = messages.take(CARDS_AT_ONCE + 1);
                return Ok(messages.map(|message| (message.uid, message.body)).collect());
            }
            let changes = mailbox.changes().flat_map(|layer| layer.range(first..));
            let delta: Vec<(Uid, RunRecord)> =
                changes.map(|(uid, record)| (*uid, *record)).collect();
            (mailbox.runs.clone(), delta)
        };
        // New messages in a run have higher UIDs than those in older runs: the newest runs suffice.
        let mut records = Vec::new();
        for run in runs.iter().rev() {
            let found = self.accounts.read_run(run).await?;
            let put = found.iter().find(|(_, record)| matches!(record, RunRecord::Put(_)));
            let oldest = put.is_some_and(|(uid, _)| *uid < first);
            records.push(found);
            if oldest {
                break;
            }
            self.executor.yield_now().await;
        }
        let mut bodies = BTreeMap::new();
        let newer = records.into_iter().rev().flatten().chain(delta);
        for (uid, record) in newer.filter(|(uid, _)| *uid >= first) {
            match record {
                RunRecord::Put(message) => drop(bodies.insert(uid, message.body)),
                RunRecord::Expunged { .. } => drop(bodies.remove(&uid)),
                RunRecord::Flags { .. } => {}
            }
        }
        Ok(bodies.into_iter().collect())
    }

    fn append_cards(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        made: MadeRun,
    ) -> Result<BlockRunRef, StoreError> {
        let header = EntryHeader::new(EntryKind::CardRun, account, mailbox, Uid(0));
        let lsn = self.append(header, &made.payload)?;
        let entry_len = entry_len(made.payload.len()) as u32;
        let MadeRun { first, last, rows, .. } = made;
        Ok(BlockRunRef { lsn, entry_len, first, last, rows })
    }

    /// One of the runs in `joined` is damaged: the next checkpoint makes them again.
    fn give_up_cards(&self, cell: &AccountCell, id: MailboxId, joined: &[BlockRunRef]) {
        let mut state = cell.state.borrow_mut();
        let Some(mailbox) = state.mailboxes.get_mut(&id) else { return };
        if let Some(first) = joined.first() {
            self.release_cards(mailbox.cards.give_up(first.lsn));
        }
    }

    fn release_cards(&self, runs: Vec<impl Into<BlockRunRef>>) {
        let runs = runs.into_iter().map(Into::into);
        runs.for_each(|run: BlockRunRef| self.log.release(run.lsn, run.entry_len));
    }

    /// Moves the few changes left in the mailboxes' deltas into runs of their own.
    fn append_deltas(&self, state: &mut AccountState) -> Result<(), StoreError> {
        for (id, mailbox) in &mut state.mailboxes {
            debug_assert!(mailbox.changes().count() == 1, "nothing is captured");
            if mailbox.delta.is_empty() {
                continue;
            }
            let (delta, floor) = (mailbox.take_delta(), mailbox.tombstones.floor());
            let records = merge_over([].into_iter(), &delta, floor, mailbox.runs.is_empty());
            let records: Vec<(Uid, RunRecord)> = records.into_iter().collect();
            for piece in records.chunks(self.options.run_records_max) {
                mailbox.runs.push(self.append_run(state.id, *id, piece.iter().copied())?);
            }
        }
        Ok(())
    }
}

/// Number of changed messages in all mailboxes of an account.
fn changes_of(cell: &AccountCell) -> usize {
    cell.state.borrow().mailboxes.values().map(|mailbox| mailbox.delta.len()).sum()
}

fn mailboxes_of(cell: &AccountCell) -> Vec<MailboxId> {
    cell.state.borrow().names.ids().collect()
}

/// `delta` in pieces of `count` records.
fn pieces(
    delta: &Delta,
    count: usize,
) -> impl Iterator<Item = impl Iterator<Item = (&Uid, &RunRecord)>> {
    let mut next = delta.keys().next().copied();
    std::iter::from_fn(move || {
        let from = next?;
        next = delta.range(from..).nth(count).map(|(uid, _)| *uid);
        Some(delta.range(from..).take(count))
    })
}

/// Whether a page decodes to a state that encodes to the same page.
fn reads_back(page: &[u8]) -> bool {
    // These two alter what they decode, on purpose.
    let altered = planted(Plant::ReuseUid) || planted(Plant::ModSeqBack);
    let version = EntryKind::AccountPage.version();
    let decoded = decode_account(version, Lsn(0), page);
    altered || decoded.is_ok_and(|state| encode_account(&state) == page)
}

/// The last `count` of `runs`.
fn newest<T>(runs: &[T], count: usize) -> &[T] {
    runs.get(runs.len().saturating_sub(count)..).unwrap_or_default()
}

/// When dropped, lets the next checkpoint begin.
struct Running<'a>(&'a Checkpoints);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        self.0.ended.set();
    }
}
