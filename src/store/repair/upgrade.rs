//! Moves format 1's spool to the queue, in the background after a start.
//!
//! A spooled message becomes a message of the queue's account, its payload the annotations beside
//! it, by one entry that also removes it from the spool: a crash leaves it in one place or the
//! other. Pages and runs need nothing here: a checkpoint writes changed ones in the current
//! version.

use std::{
    ops::Bound,
    rc::{Rc, Weak},
    time::Duration,
};

use bytes::Bytes;

use super::{
    super::{
        bodies::write::{BodyWriter, StagedBody},
        commits::{Change, Changes, standing::Spooled},
        damage::Place,
        error::StoreError,
        format::{annotations::ANNOTATION_OCTETS_MAX, body::BODY_CHUNK, effect::Effect},
        handle::delivery::{DeliveryTarget, plan_message},
    },
    reopen::Repair,
};
use crate::{
    model::{AccountId, Flags, Lsn, MailboxId},
    plant::{Plant, planted},
    runtime::executor::Priority,
};

/// Pause before another attempt after a failure.
const PAUSE: Duration = Duration::from_secs(1);

impl Repair {
    /// Begins to move the spool, if there is one.
    pub(super) fn start_upgrade(self: &Rc<Repair>) {
        if self.oldest_spooled(None).is_some() {
            let task = upgrade(Rc::downgrade(self));
            self.commits.executor.spawn(Priority::Background, Box::pin(task));
        }
    }

    /// The oldest spooled message after `after`.
    fn oldest_spooled(&self, after: Option<Lsn>) -> Option<Spooled> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let standing = self.commits.standing.borrow();
        standing.spool.range((after, Bound::Unbounded)).next().map(|(_, spooled)| spooled.clone())
    }

    async fn move_spooled(&self, spooled: &Spooled) -> Result<(), StoreError> {
        let commits = &self.commits;
        // The remaining space is reserved for expunges.
        commits.admission.admit()?;
        let body = self.copy_body(spooled).await?;
        let cell = commits.accounts.load(AccountId::QUEUE).await?;
        commits.log.room().await?;
        // There is no await from here to the commit.
        commits.ensure_exists(&cell)?;
        let (size, now) = (body.size(), commits.executor.now());
        let target = DeliveryTarget {
            account: AccountId::QUEUE,
            mailbox: None,
            flags: Flags::default(),
            keywords: Vec::new(),
            internal_date: now,
            annotations: Vec::new(),
        };
        let (change, place) =
            plan_message(commits, cell.clone(), MailboxId::INBOX, &target, size, now)?;
        let pieces = spooled.payload.chunks(ANNOTATION_OCTETS_MAX).map(Bytes::copy_from_slice);
        let values = (0..).zip(pieces.map(Some)).collect();
        let (account, mailbox, uid) = (place.account, place.mailbox, place.uid);
        let annotations = Effect::Annotations { account, mailbox, uid, values };
        let mut changes = Changes::from_buf([change]);
        changes.push(Change { cell: Some(cell), effect: annotations });
        let end = Effect::Unspool { lsn: spooled.lsn };
        let end = Change { cell: None, effect: end };
        if planted(Plant::SpoolMovedInHalves) {
            let lsn = commits.commit(changes, Some(&body))?;
            commits.acknowledged(lsn).await?;
            changes = Changes::new();
            changes.push(end);
        } else {
            changes.push(end);
        }
        let body = Some(&body).filter(|_| changes.len() > 1);
        let lsn = commits.commit(changes, body)?;
        commits.acknowledged(lsn).await
    }

    /// Copies the body: the spool kept even short bodies in chunks, which no reader of messages
    /// expects.
    async fn copy_body(&self, spooled: &Spooled) -> Result<StagedBody, StoreError> {
        let bodies = &self.commits.bodies;
        let mut writer = BodyWriter::new(bodies.clone());
        let mut offset = 0;
        while offset < spooled.body.size {
            let piece = bodies.read_body(&spooled.body, offset, BODY_CHUNK).await?;
            offset += piece.len() as u64;
            writer.write(&piece).await?;
        }
        let summary = bodies.read_summary(&spooled.body).await?;
        writer.finish(summary.to_vec()).await
    }
}

async fn upgrade(repair: Weak<Repair>) {
    // The last message skipped.
    let mut skipped = None;
    loop {
        let Some(strong) = repair.upgrade() else { return };
        if strong.checkpoints.stopped().get() {
            return;
        }
        let Some(spooled) = strong.oldest_spooled(skipped) else { return };
        let executor = strong.commits.executor.clone();
        let moved = strong.move_spooled(&spooled).await;
        match moved {
            Ok(()) => executor.yield_now().await,
            // Damaged: reported, kept in the spool, and skipped until the next start.
            Err(error @ StoreError::Corrupt { .. }) => {
                strong.damages.note(&error, Place::default());
                skipped = Some(spooled.lsn);
            }
            // The log may have failed, or the disk may be full.
            Err(_) => {
                drop(strong);
                executor.sleep(PAUSE).await;
            }
        }
    }
}
