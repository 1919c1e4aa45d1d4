//! Accounts that sessions hold while their log is reopened: each gets its new state inside the same
//! cell, so that handles and views stay valid.

use std::{collections::BTreeMap, rc::Rc, task::Waker};

use hashbrown::HashMap;

use super::{
    super::{
        account::state::{AccountCell, AccountState},
        error::StoreError,
    },
    Accounts, Known,
    paging::install_table,
    shared,
};
use crate::model::{AccountId, MailboxId};

/// New states of the held accounts. `None` for one that cannot be read.
pub(crate) type Fresh = HashMap<AccountId, Option<AccountState>>;

impl Accounts {
    /// Reads the held accounts from the log with what is `known` of it, including the message
    /// tables that they have loaded, until all are read.
    pub(crate) async fn read_again(&self, known: &Known) -> Result<Fresh, StoreError> {
        let mut fresh = Fresh::new();
        loop {
            let next = {
                let accounts = self.cells.borrow();
                let unread = |(id, cell): &(&AccountId, &Rc<AccountCell>)| {
                    Rc::strong_count(cell) > 1 && !fresh.contains_key(*id)
                };
                // In any order, then the lowest: a repeated simulation reads the same one.
                let next = accounts.iter().filter(unread).min_by_key(|(id, _)| **id);
                next.map(|(id, cell)| (*id, cell.clone()))
            };
            let Some((id, cell)) = next else { return Ok(fresh) };
            let (page, replayed) = (known.directory.get(id), known.replayed.get(&id));
            let state = match self.read_account(id, page, replayed).await {
                Ok(mut state) => self.read_tables(&cell, &mut state).await.map(|()| Some(state)),
                Err(error) => Err(error),
            };
            fresh.insert(
                id,
                match state {
                    Err(StoreError::Corrupt { .. }) => None,
                    state => state?,
                },
            );
        }
    }

    /// Loads the tables into `state` that are loaded in `cell`.
    async fn read_tables(
        &self,
        cell: &AccountCell,
        state: &mut AccountState,
    ) -> Result<(), StoreError> {
        let loaded: Vec<MailboxId> = {
            let before = cell.state.borrow();
            let loaded = before.mailboxes.iter().filter(|(_, mailbox)| mailbox.loaded.is_some());
            loaded.map(|(id, _)| *id).collect()
        };
        let page = state.page.unwrap_or_default();
        for id in loaded {
            if let Some(mailbox) = state.mailboxes.get_mut(&id)
                && mailbox.loaded.is_none()
            {
                let builder = self.read_runs(&mailbox.runs).await?;
                install_table(mailbox, builder)
                    .map_err(|error| StoreError::undecodable(page, error))?;
            }
        }
        Ok(())
    }

    /// Installs what is `known` of the log, gives the held accounts their `fresh` state and drops
    /// the others; wakes their watchers. Does not await.
    pub(crate) fn renew(&self, known: Known, mut fresh: Fresh) {
        let Known { directory, replayed, lost } = known;
        self.directory.replace(directory);
        self.replayed.replace(shared(replayed));
        self.lost.set(self.lost.get().max(lost));
        let mut wake: BTreeMap<AccountId, Vec<Waker>> = BTreeMap::new();
        self.memory.set(0);
        self.cells.borrow_mut().retain(|id, cell| {
            let Some(state) = fresh.remove(id) else { return false };
            self.replayed.borrow_mut().remove(id);
            // Without a state it is unreachable: its holders find no mailbox in it any more, and
            // cannot commit changes to it.
            let readable = state.is_some();
            let mut new = state.unwrap_or_else(|| AccountState::stand_in(*id));
            let old = &mut *cell.state.borrow_mut();
            new.succeed(old, wake.entry(*id).or_default());
            *old = new;
            cell.memory.set(0);
            readable
        });
        let cells: Vec<Rc<AccountCell>> = self.cells.borrow().values().cloned().collect();
        cells.iter().for_each(|cell| self.measure(cell));
        wake.into_values().flatten().for_each(Waker::wake);
    }
}
