//! REPLACE (RFC 8508): a new message, and the expunge of another one, in one entry.

use std::rc::Rc;

use super::{
    super::{
        bodies::write::StagedBody, commits::Changes, error::StoreError, format::effect::Effect,
    },
    account::Account,
    delivery::{Delivered, DeliveryTarget, plan_message},
};
use crate::{
    model::{FlagMask, Flags, MailboxId, Timestamp, Uid},
    plant::{Plant, planted},
};

/// The message that a new one replaces.
#[derive(Clone, Copy)]
pub struct Replacing<'a> {
    pub account: &'a Account,
    pub mailbox: MailboxId,
    pub uid: Uid,
}

impl Account {
    /// Adds a message to `mailbox` and expunges the one that it replaces, which may be in another
    /// account of the same partition. `None`, and no change, if that one is gone already. `may` is
    /// asked in the step that decides, and says which flags are kept.
    ///
    /// # Errors
    /// As [`Account::append`], and those of `may`; `NotPermitted` if the accounts are in different
    /// partitions.
    pub async fn append_replacing(
        &self,
        mailbox: MailboxId,
        mut body: StagedBody,
        (flags, keywords, internal_date): (Flags, Vec<String>, Timestamp),
        replacing: Replacing<'_>,
        may: &mut dyn FnMut() -> Result<FlagMask, StoreError>,
    ) -> Result<Option<Delivered>, StoreError> {
        let source = replacing.account;
        if !Rc::ptr_eq(&source.commits, &self.commits) {
            return Err(StoreError::NotPermitted("accounts of different partitions"));
        }
        self.commits.check_owner(&body)?;
        self.commits.admission.admit()?;
        self.commits.accounts.ensure_table(&source.cell, replacing.mailbox).await?;
        self.commits.log.room().await?;
        // There is no await from here to the commit.
        let kept = may()?;
        let is_there = {
            let mut state = source.cell.state.borrow_mut();
            let found = state.pending_mailbox(replacing.mailbox);
            found.ok_or(StoreError::NoSuchMailbox)?.pending_state(replacing.uid).is_some()
        };
        if !is_there {
            // What expunged it may itself not be durable yet.
            source.settled().await?;
            return Ok(None);
        }
        let target = DeliveryTarget {
            account: self.id(),
            mailbox: None,
            flags: flags & kept.system,
            keywords: if kept.keywords { keywords } else { Vec::new() },
            internal_date,
            annotations: Vec::new(),
        };
        let (size, now) = (body.size(), self.commits.executor.now());
        let (added, delivered) =
            plan_message(&self.commits, self.cell.clone(), mailbox, &target, size, now)?;
        let mut changes = vec![added];
        let apart = planted(Plant::ReplaceApart);
        if apart {
            let lsn = self.commits.commit(Changes::from_vec(changes), Some(&body))?;
            body.logged(lsn);
            self.commits.acknowledged(lsn).await?;
            changes = Vec::new();
        }
        changes.push({
            let mut state = source.cell.state.borrow_mut();
            let (account, mod_seq) = (state.id, state.allocate_mod_seq());
            let (mailbox, uids) = (replacing.mailbox, vec![replacing.uid]);
            source.change(Effect::Expunge { account, mailbox, mod_seq, uids })
        });
        let lsn =
            self.commits.commit(Changes::from_vec(changes), Some(&body).filter(|_| !apart))?;
        if !apart {
            body.logged(lsn);
        }
        self.commits.acknowledged(lsn).await?;
        Ok(Some(delivered))
    }
}
