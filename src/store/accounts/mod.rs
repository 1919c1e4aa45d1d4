//! The accounts of a partition: which are in memory, and where the pages of all of them are.
//!
//! `paging` loads accounts and message tables and drops unused ones; `salvage` recovers a damaged
//! account from the rest of the log; `page_directory` has the location of each account's page,
//! `views` the states that sessions hold; `renewal` replaces the state of accounts when the log was
//! reopened. Shard-local. It does not know commits and checkpoints: it is told where a page was
//! written, and requests a checkpoint by a signal.

pub(super) mod page_directory;
mod paging;
mod renewal;
mod salvage;
mod views;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use hashbrown::HashMap;

use super::{
    account::{
        namespace,
        snapshot::Published,
        state::{AccountCell, MAILBOXES_SKIPPED},
        tombstones::TombstoneLimits,
    },
    accounts::{page_directory::PageDirectory, views::Views},
    damage::Damages,
    format::effect::{LoggedEffects, NewMailbox},
    log::Log,
    options::StoreOptions,
};
use crate::{
    model::{AccountId, Lsn, SpecialUse, UidValidity},
    plant::{Plant, planted},
    runtime::{executor::Executor, wait::Signal},
};

/// The accounts found in a log when it is opened.
pub(super) struct Known {
    pub directory: PageDirectory,
    /// Effects that pages lack.
    pub replayed: HashMap<AccountId, LoggedEffects>,
    /// As [`super::format::root::Root::lost`].
    pub lost: Lsn,
}

/// The accounts of one partition.
pub(super) struct Accounts {
    pub(super) log: Log,
    pub(super) executor: Rc<dyn Executor>,
    pub(super) damages: Rc<Damages>,
    /// Set when only a checkpoint can free memory.
    pub(super) checkpoint_wanted: Rc<Signal>,
    /// Bytes of memory before cold accounts are dropped.
    pub(super) budget: usize,
    pub(super) default_mailboxes: Vec<(String, SpecialUse)>,
    tombstone_limits: TombstoneLimits,
    /// The accounts in memory.
    pub(super) cells: RefCell<HashMap<AccountId, Rc<AccountCell>>>,
    pub(super) directory: RefCell<PageDirectory>,
    /// As [`Known::replayed`], for accounts not loaded since.
    pub(super) replayed: RefCell<HashMap<AccountId, Rc<LoggedEffects>>>,
    /// Published states that sessions may hold.
    views: RefCell<Views>,
    /// Sum of the memory charged for the accounts in memory.
    pub(super) memory: Cell<usize>,
    /// Memory below which trimming again would find nothing.
    pub(super) trim_above: Cell<usize>,
    /// Counts uses of accounts, to find the least recently used.
    clock: Cell<u64>,
    pub(super) lost: Cell<Lsn>,
}

impl Accounts {
    pub(super) fn new(
        log: Log,
        executor: Rc<dyn Executor>,
        damages: Rc<Damages>,
        checkpoint_wanted: Rc<Signal>,
        options: &StoreOptions,
        known: Known,
    ) -> Accounts {
        Accounts {
            log,
            executor,
            damages,
            checkpoint_wanted,
            budget: options.account_budget,
            default_mailboxes: options.default_mailboxes.clone(),
            tombstone_limits: options.tombstones,
            cells: RefCell::default(),
            directory: RefCell::new(known.directory),
            replayed: RefCell::new(shared(known.replayed)),
            views: RefCell::default(),
            memory: Cell::new(0),
            trim_above: Cell::new(0),
            clock: Cell::new(0),
            lost: Cell::new(known.lost),
        }
    }

    pub(super) fn in_memory(&self) -> usize {
        self.cells.borrow().len()
    }

    /// The account if it is in memory. Does not count as a use.
    pub(super) fn get(&self, id: AccountId) -> Option<Rc<AccountCell>> {
        self.cells.borrow().get(&id).cloned()
    }

    /// Whether the log has anything of the account. Does not load it.
    pub(super) fn has(&self, id: AccountId) -> bool {
        self.directory.borrow().get(id).is_some()
            || self.replayed.borrow().contains_key(&id)
            || self.cells.borrow().contains_key(&id)
    }

    /// Every existing account, ascending.
    pub(super) fn ids(&self) -> Vec<AccountId> {
        let directory = self.directory.borrow();
        let mut ids: Vec<AccountId> = (0..directory.bucket_count())
            .flat_map(|bucket| directory.accounts_in(bucket))
            .collect();
        ids.extend(self.replayed.borrow().keys().copied());
        ids.extend(self.cells.borrow().keys().copied());
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Those with changes that their pages lack, in order, so that a simulation is repeatable.
    pub(super) fn changed(&self) -> Vec<AccountId> {
        let cells = self.cells.borrow();
        let loaded = cells.iter().filter(|(_, cell)| cell.state.borrow().dirty);
        let mut changed: Vec<AccountId> = loaded.map(|(id, _)| *id).collect();
        changed.extend(self.replayed.borrow().keys().copied());
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// Accounts that may have changed by entries from `lsn` on, ascending: those whose page was
    /// written later, or lacks something.
    pub(super) fn changed_since(&self, lsn: Lsn) -> Vec<AccountId> {
        let mut changed = self.changed();
        if !planted(Plant::FeedForgetsPages) {
            changed.extend(self.directory.borrow().written_since(lsn));
        }
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// The first effect of the account that its page lacks.
    pub(super) fn first_unwritten(&self, id: AccountId) -> Option<Lsn> {
        if let Some(cell) = self.cells.borrow().get(&id) {
            return cell.state.borrow().unwritten;
        }
        self.replayed.borrow().get(&id)?.first().map(|(lsn, _)| *lsn)
    }

    /// The first UIDVALIDITY of a new account's mailboxes: the time. If damage has destroyed
    /// effects, an account with this number may have been among them, and its UIDs may have been
    /// seen: then it is higher than any allocated one, even if the clock stood still or went back a
    /// little.
    pub(super) fn first_uid_validity(&self) -> UidValidity {
        let seconds = self.executor.now().unix_seconds().clamp(1, i64::from(u32::MAX / 2)) as u32;
        let skipped = if self.lost.get() > Lsn(0) { MAILBOXES_SKIPPED } else { 0 };
        UidValidity(seconds.saturating_add(skipped))
    }

    /// The first mailboxes of the account `id`. Every account has INBOX, even one that never gets
    /// mail: an account exists when INBOX does.
    pub(super) fn first_mailboxes(&self, id: AccountId) -> Vec<NewMailbox> {
        let others = match id {
            AccountId::QUEUE | AccountId::SHARES | AccountId::PUBLIC => &[][..],
            _ => &self.default_mailboxes,
        };
        namespace::first_mailboxes(self.first_uid_validity(), others)
    }

    /// Records that a session holds `published` from now on.
    pub(super) fn note_held(&self, published: &Arc<Published>) {
        self.views.borrow_mut().note(published);
    }

    /// States that sessions hold, in the order in which they were handed out.
    pub(super) fn held(&self) -> Vec<Arc<Published>> {
        self.views.borrow().held()
    }

    /// Counts a use.
    pub(super) fn tick(&self) -> u64 {
        let turn = self.clock.get() + 1;
        self.clock.set(turn);
        turn
    }
}

/// Shares each account's effects so that they need not be copied.
pub(super) fn shared(
    effects: HashMap<AccountId, LoggedEffects>,
) -> HashMap<AccountId, Rc<LoggedEffects>> {
    // From a map to a map, in any order.
    effects.into_iter().map(|(id, list)| (id, Rc::new(list))).collect()
}
