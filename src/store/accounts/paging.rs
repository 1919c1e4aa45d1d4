//! Loading accounts and message tables, and dropping unused accounts.
//!
//! A delivery to a cold account reads one page; a message table is read only when a mailbox is
//! opened. Reads await, and meanwhile other tasks may load, change, write out or drop the same
//! account: each function checks again before it installs what it read.

use std::{rc::Rc, sync::Arc};

use super::{
    super::{
        account::{
            mailbox::Mailbox,
            page::decode_account,
            runs::TableBuilder,
            snapshot::{MessageTable, Published},
            state::{AccountCell, AccountState},
            tombstones::Tombstone,
        },
        error::StoreError,
        format::{
            codec::{Decoded, Malformed},
            effect::{Effect, LoggedEffects},
            run::{RunRecord, RunRef, decode_run},
        },
    },
    Accounts,
};
use crate::{
    model::{AccountId, Flags, Lsn, MailboxId, Uid},
    plant::{Plant, SELF_CHECKS, planted, self_check},
};

impl Accounts {
    /// The account's state, loaded if necessary; empty (`exists()` is false) if the account is
    /// unknown.
    pub(crate) async fn load(&self, id: AccountId) -> Result<Rc<AccountCell>, StoreError> {
        loop {
            if let Some(cell) = self.cells.borrow().get(&id) {
                cell.last_used.set(self.tick());
                return Ok(cell.clone());
            }
            let page = self.directory.borrow().get(id);
            let replayed = self.replayed.borrow().get(&id).cloned();
            let generation = self.log.generation();
            let state = match self.read_account(id, page, replayed.as_deref()).await {
                Err(error @ StoreError::Corrupt { .. }) => {
                    match self.salvage_account(id, &error).await? {
                        Some(state) => state,
                        None => continue,
                    }
                }
                read => read?,
            };
            let overtaken = self.cells.borrow().contains_key(&id)
                || self.log.generation() != generation
                || self.directory.borrow().get(id) != page
                || self.replayed.borrow().contains_key(&id) != replayed.is_some();
            if overtaken {
                continue;
            }
            self.replayed.borrow_mut().remove(&id);
            let cell = Rc::new(AccountCell::new(state));
            cell.last_used.set(self.tick());
            self.cells.borrow_mut().insert(id, cell.clone());
            self.measure(&cell);
            if self.trim() {
                self.checkpoint_wanted.set();
            }
            return Ok(cell);
        }
    }

    pub(crate) async fn read_account(
        &self,
        id: AccountId,
        page: Option<Lsn>,
        replayed: Option<&LoggedEffects>,
    ) -> Result<AccountState, StoreError> {
        let mut state = AccountState::new(id);
        if let Some(lsn) = page {
            let (header, payload) = self.log.read(lsn).await?;
            state = decode_account(header.version, lsn, &payload)
                .and_then(|state| match state.id == id {
                    true => Ok(state),
                    false => Err(Malformed("account of a page")),
                })
                .map_err(|error| StoreError::undecodable(lsn, error))?;
        }
        state.tombstone_limits = self.tombstone_limits;
        let lost = self.lost.get();
        let may_lack = state.applied < lost;
        if let Some(effects) = replayed {
            self.replay_account(&mut state, page, effects).await?;
        }
        if may_lack && state.exists() {
            state.skip_numbers();
            state.applied = state.applied.max(lost);
        }
        Ok(state)
    }

    async fn replay_account(
        &self,
        state: &mut AccountState,
        page: Option<Lsn>,
        effects: &LoggedEffects,
    ) -> Result<(), StoreError> {
        // Flag changes and expunges update counters by the old state of messages: they need the
        // table.
        for (_, effect) in effects {
            let (Effect::Flags { mailbox, .. } | Effect::Expunge { mailbox, .. }) = effect else {
                continue;
            };
            if let Some(mailbox) = state.mailboxes.get_mut(mailbox)
                && mailbox.loaded.is_none()
            {
                let builder = self.read_runs(&mailbox.runs).await?;
                install_table(mailbox, builder)
                    .map_err(|error| StoreError::undecodable(page.unwrap_or_default(), error))?;
            }
        }
        state.replay(effects);
        Ok(())
    }

    pub(crate) async fn read_runs(&self, runs: &[RunRef]) -> Result<TableBuilder, StoreError> {
        let mut builder = TableBuilder::default();
        for run in runs {
            let records = self.read_run(run).await?;
            let applied = builder.apply(records.into_iter());
            applied.map_err(|error| StoreError::undecodable(run.lsn, error))?;
            self.executor.yield_now().await;
        }
        Ok(builder)
    }

    pub(crate) async fn read_run(&self, run: &RunRef) -> Result<Vec<(Uid, RunRecord)>, StoreError> {
        let (header, payload) = self.log.read(run.lsn).await?;
        decode_run(header.version, &payload)
            .and_then(|records| match records.len() == run.records as usize {
                true => Ok(records),
                false => Err(Malformed("length of a run")),
            })
            .map_err(|error| StoreError::undecodable(run.lsn, error))
    }

    /// Makes sure the mailbox's message table is in memory.
    ///
    /// # Errors
    /// `NoSuchMailbox` if it does not exist (any more).
    pub(crate) async fn ensure_table(
        &self,
        cell: &Rc<AccountCell>,
        id: MailboxId,
    ) -> Result<(), StoreError> {
        loop {
            let runs = {
                let state = cell.state.borrow();
                let mailbox = state.mailboxes.get(&id).ok_or(StoreError::NoSuchMailbox)?;
                if mailbox.loaded.is_some() {
                    return Ok(());
                }
                mailbox.runs.clone()
            };
            let installed = match self.read_runs(&runs).await {
                Ok(builder) => {
                    let mut state = cell.state.borrow_mut();
                    let page = state.page.unwrap_or_default();
                    let mailbox = state.mailboxes.get_mut(&id).ok_or(StoreError::NoSuchMailbox)?;
                    if mailbox.loaded.is_some() || mailbox.runs != runs {
                        continue;
                    }
                    install_table(mailbox, builder)
                        .map_err(|error| StoreError::undecodable(page, error))
                }
                Err(error) => Err(error),
            };
            match installed {
                Err(error @ StoreError::Corrupt { .. }) => {
                    self.salvage_table(cell, id, &runs, &error).await?;
                }
                installed => installed?,
            }
            self.measure(cell);
        }
    }

    /// Adds `bytes` to the memory charged for the account.
    pub(crate) fn charge(&self, cell: &AccountCell, bytes: usize) {
        cell.memory.set(cell.memory.get() + bytes);
        self.memory.set(self.memory.get() + bytes);
    }

    /// Sets the account's charge to its present memory.
    pub(crate) fn measure(&self, cell: &AccountCell) {
        let now = cell.state.borrow().memory();
        let before = cell.memory.replace(now);
        self.memory.set((self.memory.get() + now).saturating_sub(before));
    }

    /// After a checkpoint, which may have made many accounts clean.
    pub(crate) fn trim_anew(&self) {
        self.trim_above.set(0);
        self.trim();
    }

    /// Drops the least recently used accounts when the budget is exceeded, down to three quarters
    /// of it so that the search pays. Pinned and changed accounts stay; true if these alone are too
    /// many. Then a checkpoint helps, unless it was just written: accounts that stay after it are
    /// pinned.
    pub(crate) fn trim(&self) -> bool {
        let budget = self.budget;
        if self.memory.get() <= budget || self.memory.get() <= self.trim_above.get() {
            return false;
        }
        let durable = self.log.durable_lsn();
        let mut accounts = self.cells.borrow_mut();
        let mut idle: Vec<(u64, AccountId)> = accounts
            .values()
            .filter(|cell| Rc::strong_count(cell) == 1)
            .filter_map(|cell| {
                let state = cell.state.borrow();
                let written = (!state.dirty || planted(Plant::EvictDirty))
                    && state.page.is_none_or(|page| page < durable);
                written.then(|| (cell.last_used.get(), state.id))
            })
            .collect();
        idle.sort_unstable();
        for (_, id) in idle {
            if self.memory.get() <= budget / 4 * 3 {
                break;
            }
            if let Some(cell) = accounts.remove(&id) {
                self.memory.set(self.memory.get().saturating_sub(cell.memory.get()));
            }
        }
        // Those that stay are changed or pinned: the next trim waits until there are more of them.
        let over = self.memory.get() > budget;
        self.trim_above.set(if over { self.memory.get() + budget / 8 } else { 0 });
        over
    }
}

/// Installs the table from runs and delta, if its messages and tombstones match the counts.
pub(crate) fn install_table(mailbox: &mut Mailbox, mut builder: TableBuilder) -> Decoded<()> {
    for layer in mailbox.changes() {
        builder.apply(layer.iter().map(|(uid, record)| (*uid, *record)))?;
    }
    let (table, tombstones): (MessageTable, Vec<Tombstone>) = builder.finish();
    if table.len() != mailbox.status.messages as usize {
        return Err(Malformed("number of messages in the runs of a mailbox"));
    }
    mailbox.tombstones.install(tombstones)?;
    if SELF_CHECKS {
        recount(mailbox, &table);
    }
    mailbox.loaded = Some(Arc::new(Published {
        table,
        keywords: mailbox.keywords.clone(),
        status: mailbox.status,
        generation: 0,
    }));
    Ok(())
}

/// Checks that a page's counters of a mailbox match its messages.
fn recount(mailbox: &Mailbox, table: &MessageTable) {
    let (mut unseen, mut deleted, mut size) = (0, 0, 0u64);
    for message in table.iter_from(0) {
        unseen += u32::from(!message.flags.system.contains(Flags::SEEN));
        deleted += u32::from(message.flags.system.contains(Flags::DELETED));
        size = size.saturating_add(message.body.size);
    }
    let status = &mailbox.status;
    let drifts = planted(Plant::DriftUnseen);
    let is_unseen = drifts || status.unseen == unseen;
    self_check(is_unseen && (status.deleted, status.size) == (deleted, size), || {
        format!("{status:?}, counted: {unseen} unseen, {deleted} deleted, {size} octets")
    });
}
