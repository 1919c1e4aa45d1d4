//! Settling queued messages: what became of a message of [`AccountId::QUEUE`], and the report that
//! its sender gets, as one entry. After a crash either both are there or neither, so no report is
//! sent twice and none is lost.
//!
//! Called by the queue (`crate::queue`) on accounts from [`crate::store::Partition::queue`].

use super::{
    super::{
        bodies::write::StagedBody,
        commits::{Change, Changes},
        error::StoreError,
        format::{annotations::check_limits, effect::Effect},
    },
    account::Account,
    annotations::AnnotationChanges,
    delivery::{Delivered, DeliveryTarget, annotate, plan_delivery},
};
use crate::{
    model::{MailboxId, Uid},
    plant::{Plant, planted},
};

/// The result of an attempt to deliver a queued message.
#[derive(Debug)]
pub enum Settlement {
    /// Some recipients are left: these annotations change.
    Changed(AnnotationChanges),
    /// No recipient is left.
    Removed,
}

/// The result of [`Account::settle`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// There is no such message (any more); nothing was changed.
    Gone,
    /// It is durable; the place of the report.
    Done(Option<Delivered>),
}

impl Account {
    /// Records what became of the message `uid`, and puts `report` into its mailbox of this
    /// account, with one entry. The body of the report must be staged on this partition.
    ///
    /// # Errors
    /// As for deliveries and [`Account::annotate`]. Nothing was changed.
    pub async fn settle(
        &self,
        mailbox: MailboxId,
        uid: Uid,
        settlement: Settlement,
        report: Option<(StagedBody, DeliveryTarget)>,
    ) -> Result<Settled, StoreError> {
        if let Settlement::Changed(changes) = &settlement {
            check_limits(
                changes
                    .iter()
                    .map(|(number, value)| (*number, value.as_ref().map_or(0, bytes::Bytes::len))),
            )?;
        }
        if let Some((body, target)) = &report {
            check_limits(target.annotations.iter().map(|(number, value)| (*number, value.len())))?;
            self.commits.check_owner(body)?;
            self.commits.admission.admit()?;
        }
        self.commits.accounts.ensure_table(&self.cell, mailbox).await?;
        self.commits.log.room().await?;

        // There is no await from here to the commit.
        let mut changes = Changes::new();
        {
            let mut state = self.cell.state.borrow_mut();
            let account = state.id;
            let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
            if found.pending_state(uid).is_none() {
                return Ok(Settled::Gone);
            }
            let effect = match settlement {
                Settlement::Removed => {
                    let mod_seq = state.allocate_mod_seq();
                    Effect::Expunge { account, mailbox, mod_seq, uids: vec![uid] }
                }
                Settlement::Changed(values) => {
                    Effect::Annotations { account, mailbox, uid, values }
                }
            };
            changes.push(Change { cell: Some(self.cell.clone()), effect });
        }
        if planted(Plant::ReportApart) && report.is_some() {
            let settled = self.commits.commit(std::mem::take(&mut changes), None)?;
            self.commits.acknowledged(settled).await?;
        }
        let mut place = None;
        let mut staged = None;
        if let Some((body, target)) = report {
            let now = self.commits.executor.now();
            let (change, delivered) =
                plan_delivery(&self.commits, self.cell.clone(), &target, body.size(), now)?;
            changes.push(change);
            changes.extend(annotate(&self.cell, &target, delivered));
            (place, staged) = (Some(delivered), Some(body));
        }
        let lsn = self.commits.commit(changes, staged.as_ref())?;
        if let Some(body) = &mut staged {
            body.logged(lsn);
        }
        self.commits.acknowledged(lsn).await?;
        Ok(Settled::Done(place))
    }
}
