//! Numbered values beside a message: the server's own data about it, such as the envelope of a
//! queued one. They are set with the message ([`super::delivery::DeliveryTarget`]) or later, and
//! are removed when it is expunged.

use std::{collections::BTreeMap, ops::RangeInclusive};

use bytes::Bytes;

use super::{
    super::{
        account::annotations::by_message,
        annotations::{Damaged, read},
        commits::{Change, Changes},
        error::StoreError,
        format::{annotations::check_limits, effect::Effect},
    },
    account::Account,
};
use crate::model::{MailboxId, Uid};

/// Values by number, `None` to remove one.
pub type AnnotationChanges = Vec<(u32, Option<Bytes>)>;

impl Account {
    /// Sets or removes values beside the message `uid`: all of them or none. False if there is no
    /// such message (any more).
    ///
    /// # Errors
    /// `NoSuchMailbox`; `Limit` for values too long or too many, or numbers too high.
    pub async fn annotate(
        &self,
        mailbox: MailboxId,
        uid: Uid,
        changes: AnnotationChanges,
    ) -> Result<bool, StoreError> {
        let octets = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        check_limits(changes.iter().map(|(number, value)| (*number, octets(value))))?;
        self.commits.accounts.ensure_table(&self.cell, mailbox).await?;
        self.commits.log.room().await?;
        let effect = {
            let mut state = self.cell.state.borrow_mut();
            let account = state.id;
            let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
            if found.pending_state(uid).is_none() {
                return Ok(false);
            }
            Effect::Annotations { account, mailbox, uid, values: changes }
        };
        let change = Change { cell: Some(self.cell.clone()), effect };
        let lsn = self.commits.commit(Changes::from_buf([change]), None)?;
        self.commits.acknowledged(lsn).await?;
        Ok(true)
    }

    /// The published values beside the messages `uids`, by message and number. To read many
    /// messages, pass some hundred at a time, in UID order: then each run is read once.
    ///
    /// # Errors
    /// As for reads. Values lost to damage are absent; the damage is reported.
    pub async fn annotations(
        &self,
        mailbox: MailboxId,
        uids: RangeInclusive<Uid>,
    ) -> Result<BTreeMap<Uid, Vec<(u32, Bytes)>>, StoreError> {
        let accounts = &self.commits.accounts;
        loop {
            self.ensure_table(mailbox).await?;
            let (snapshot, runs, changes) = {
                let state = self.cell.state.borrow();
                let found = state.live_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
                let Some(annotations) = &found.annotations else { return Ok(BTreeMap::new()) };
                let runs = annotations.runs().to_vec();
                (found.snapshot(), runs, annotations.changes(uids.clone()))
            };
            match read(&self.commits.log, &runs, uids.clone()).await {
                Ok(mut rows) => {
                    rows.extend(changes);
                    // Values of expunged messages stay in runs for a while.
                    let exists =
                        |uid| snapshot.as_ref().is_some_and(|it| it.index_of(uid).is_some());
                    rows.retain(|(uid, _), _| exists(*uid));
                    return Ok(by_message(rows));
                }
                Err(Damaged { run, error }) => {
                    let damaged = Damaged { run, error };
                    accounts.salvage_annotations(&self.cell, mailbox, damaged).await?;
                }
            }
        }
    }
}
