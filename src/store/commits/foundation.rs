//! Prerequisites of a change that may be missing: its account, its keywords. Each is a separate
//! entry appended before: without the change that needed it, it does no harm.

use std::rc::Rc;

use super::{
    super::{account::state::AccountCell, error::StoreError, format::effect::Effect},
    Commits,
};
use crate::model::{KeywordSet, MailboxId};

impl Commits {
    /// Appends the entry that creates the account, if it does not exist. A separate entry: an
    /// account without the message that caused its creation does no harm.
    pub(crate) fn ensure_exists(&self, cell: &Rc<AccountCell>) -> Result<(), StoreError> {
        let account = {
            let state = cell.state.borrow();
            if state.exists() {
                return Ok(());
            }
            state.id
        };
        let mailboxes = self.accounts.first_mailboxes(account);
        self.commit_one(Some(cell), Effect::Account { account, mailboxes }, None)?;
        Ok(())
    }

    /// The bits of keyword `names` in the mailbox's pending table, after appending an entry that
    /// adds missing ones. A separate entry: an unused keyword does no harm.
    pub(crate) fn define_keywords(
        &self,
        cell: &Rc<AccountCell>,
        mailbox: MailboxId,
        names: &[String],
    ) -> Result<KeywordSet, StoreError> {
        let mut set = KeywordSet::default();
        if names.is_empty() {
            return Ok(set);
        }
        let (account, missing) = {
            let mut state = cell.state.borrow_mut();
            let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
            let missing = found.missing_keywords(names);
            let missing = missing.ok_or(StoreError::Limit("keywords per mailbox"))?;
            if !missing.is_empty() {
                state.check_names(missing.iter())?;
            }
            (state.id, missing)
        };
        if !missing.is_empty() {
            let effect = Effect::Keyword { account, mailbox, names: missing };
            self.commit_one(Some(cell), effect, None)?;
        }
        let mut state = cell.state.borrow_mut();
        let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
        names.iter().filter_map(|name| found.keyword_index(name)).for_each(|bit| set.insert(bit));
        Ok(set)
    }
}
