//! Deliveries: one message put into mailboxes of several accounts with one entry.
//!
//! Called by the partition for LMTP and SMTP, and for an APPEND. The message's UID and mod-sequence
//! are decided here on pending state; `commits` does the rest.

use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::super::{
    account::state::AccountCell,
    bodies::write::StagedBody,
    commits::{Change, Changes, Commits, standing::id_of_one},
    error::StoreError,
    format::{
        annotations::check_limits,
        effect::{BODY_HERE, Effect},
    },
    message::{Message, MessageBody},
};
use crate::{
    model::{AccountId, FlagSet, Flags, Lsn, MailboxId, Timestamp, Uid, UidValidity},
    plant::{Plant, planted},
};

/// Messages that one transaction may put into mailboxes: its entry stays below the log's limit.
pub(crate) const TRANSACTION_MESSAGES_MAX: usize = 100_000;

#[derive(Clone, Debug)]
pub struct DeliveryTarget {
    pub account: AccountId,
    /// `INBOX` or a path as in [`super::MailboxInfo::name`]; INBOX if the folder does not exist.
    pub mailbox: Option<String>,
    pub flags: Flags,
    /// Keyword names to set, e.g. `$Junk`.
    pub keywords: Vec<String>,
    pub internal_date: Timestamp,
    /// Values beside the message, by number.
    pub annotations: Vec<(u32, Bytes)>,
}

/// The result of a delivery to several accounts.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// The new messages. Accounts that had it already are in neither list.
    pub delivered: Vec<Delivered>,
    /// Accounts that could not take it; nothing of it is stored for them.
    pub failed: Vec<(AccountId, StoreError)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivered {
    pub account: AccountId,
    pub mailbox: MailboxId,
    pub uid_validity: UidValidity,
    pub uid: Uid,
}

/// The identity of a delivery that may be repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeliveryId {
    pub number: u128,
    /// It is repeated, maybe for some of its accounts only.
    pub repetition: bool,
}

/// The ids for a delivery in the log: its own, if all its accounts have it after this. A repetition
/// does not know all of the accounts: those not named may still lack it.
fn ids(
    id: DeliveryId,
    delivered: &[Delivered],
    failed: &[(AccountId, StoreError)],
) -> SmallVec<[u128; 1]> {
    match failed.is_empty() && !id.repetition {
        true => SmallVec::from_buf([id.number]),
        false => delivered.iter().map(|it| id_of_one(id.number, it.account)).collect(),
    }
}

/// Puts one staged body into several mailboxes with one commit entry, durable when this returns. An
/// account that cannot be read, or is full, fails by itself; for the others it is all or none.
/// `delivery_id`, if given, makes a repetition a no-op for the accounts that have it.
pub(crate) async fn deliver_each(
    commits: &Commits,
    mut body: StagedBody,
    targets: Vec<DeliveryTarget>,
    delivery_id: Option<DeliveryId>,
) -> Result<Deliveries, StoreError> {
    if targets.len() > TRANSACTION_MESSAGES_MAX {
        return Err(StoreError::Limit("recipients of a delivery"));
    }
    for target in &targets {
        check_limits(target.annotations.iter().map(|(number, value)| (*number, value.len())))?;
    }
    commits.check_owner(&body)?;
    commits.admission.admit()?;
    let mut failed = Vec::new();
    let mut wanted = Vec::with_capacity(targets.len());
    for target in targets {
        match commits.accounts.load(target.account).await {
            Ok(cell) => wanted.push((cell, target)),
            Err(error) => failed.push((target.account, error)),
        }
    }
    commits.log.room().await?;

    // There is no await from here to the commit.
    let id = delivery_id.filter(|_| !planted(Plant::IgnoreDeliveryId));
    let repeated = match id {
        Some(id) => leave_out_repeated(commits, id.number, &mut wanted, &mut failed)?,
        None => None,
    };
    let now = commits.executor.now();
    let mut delivered = Vec::with_capacity(wanted.len());
    let mut changes = Changes::new();
    for (cell, target) in wanted {
        match plan_delivery(commits, cell.clone(), &target, body.size(), now) {
            Ok((change, place)) => {
                changes.push(change);
                changes.extend(annotate(&cell, &target, place));
                delivered.push(place);
            }
            Err(error) => failed.push((target.account, error)),
        }
    }
    let lsn = if changes.is_empty() {
        repeated
    } else {
        for id in delivery_id.map_or_else(SmallVec::new, |id| ids(id, &delivered, &failed)) {
            changes.push(Change { cell: None, effect: Effect::Delivery { id } });
        }
        let lsn = commits.commit(changes, Some(&body))?;
        body.logged(lsn);
        Some(lsn)
    };
    let queued = delivered.iter().any(|it| it.account == AccountId::QUEUE);
    if let Some(lsn) = lsn
        && !(planted(Plant::SendUndurable) && queued)
    {
        commits.acknowledged(lsn).await?;
    }
    Ok(Deliveries { delivered, failed })
}

/// The annotations of the message delivered to `place`.
pub(super) fn annotate(
    cell: &Rc<AccountCell>,
    target: &DeliveryTarget,
    place: Delivered,
) -> Option<Change> {
    let values: Vec<(u32, Option<Bytes>)> =
        target.annotations.iter().map(|(number, value)| (*number, Some(value.clone()))).collect();
    let Delivered { account, mailbox, uid, .. } = place;
    let effect = Effect::Annotations { account, mailbox, uid, values };
    (!target.annotations.is_empty()).then(|| Change { cell: Some(cell.clone()), effect })
}

/// Removes the accounts that already have the delivery `id` from both lists; returns the last entry
/// that gave it to one.
fn leave_out_repeated(
    commits: &Commits,
    id: u128,
    wanted: &mut Vec<(Rc<AccountCell>, DeliveryTarget)>,
    failed: &mut Vec<(AccountId, StoreError)>,
) -> Result<Option<Lsn>, StoreError> {
    let standing = commits.standing.borrow();
    let mut last = None;
    let mut is_new = |account: AccountId| {
        let known = standing.delivery(id, account);
        last = last.max(known);
        known.is_none()
    };
    wanted.retain(|(_, target)| is_new(target.account));
    failed.retain(|(account, _)| is_new(*account));
    let full = standing.deliveries_known() >= commits.options.deliveries_known;
    if full && !wanted.is_empty() { Err(StoreError::Crowded) } else { Ok(last) }
}

/// Decides the mailbox of a delivery and takes its UID. Does not await.
pub(super) fn plan_delivery(
    commits: &Commits,
    cell: Rc<AccountCell>,
    target: &DeliveryTarget,
    size: u64,
    now: Timestamp,
) -> Result<(Change, Delivered), StoreError> {
    commits.ensure_exists(&cell)?;
    let mailbox = {
        let state = cell.state.borrow();
        let named = target.mailbox.as_ref().and_then(|name| state.pending_names.find(name));
        named.unwrap_or(MailboxId::INBOX)
    };
    plan_message(commits, cell, mailbox, target, size, now)
}

pub(crate) fn plan_message(
    commits: &Commits,
    cell: Rc<AccountCell>,
    mailbox: MailboxId,
    target: &DeliveryTarget,
    size: u64,
    now: Timestamp,
) -> Result<(Change, Delivered), StoreError> {
    let keywords = commits.define_keywords(&cell, mailbox, &target.keywords)?;
    let mut state = cell.state.borrow_mut();
    let state = &mut *state;
    let account = state.id;
    if account != AccountId::QUEUE {
        state.check_holding(1, size, commits.options.holding_of(account))?;
    }
    let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
    let uid_validity = found.status.uid_validity;
    let uid = found.allocate_uid().ok_or(StoreError::Limit("UIDs of a mailbox"))?;
    let message = Message {
        uid,
        mod_seq: state.allocate_mod_seq(),
        flags: FlagSet { system: target.flags, keywords },
        internal_date: target.internal_date,
        save_date: now,
        body: MessageBody { lsn: BODY_HERE, size, entry_len: 0 },
    };
    let effect = Effect::Message { account, mailbox, message };
    let delivered = Delivered { account, mailbox, uid_validity, uid };
    Ok((Change { cell: Some(cell.clone()), effect }, delivered))
}
