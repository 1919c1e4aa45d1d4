//! Commits: effects that were appended and are not yet durable, and the order in which they become
//! visible.
//!
//! A change is *decided* by its caller on pending state, *appended* here as one entry, *staged* in
//! pending state, and *published* when the log reports that the entry is durable; only then does
//! the caller get its result. Shard-local. Invariants:
//! - There is no await between deciding and staging, so a decision is never out of date.
//! - Effects are published in the order of their LSNs, and never before they are durable.
//! - After a failed write or sync nothing that was staged is published.
//! - No `RefCell` is borrowed across an await or while a waker runs.
//!
//! `standing` is the partition's own state; `bulk` limits what long commands stage, `feed` informs
//! subscribers, `garbage` counts the garbage that published changes make, `foundation` creates
//! prerequisites of a change.

mod bulk;
pub(super) mod feed;
mod foundation;
mod garbage;
pub(super) mod standing;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::Waker,
};

use hashbrown::HashMap;
use smallvec::SmallVec;

use self::{bulk::Bulk, feed::Feed, garbage::Freed, standing::Standing};
use super::{
    account::state::AccountCell,
    accounts::Accounts,
    admission::Admission,
    bodies::{
        Bodies,
        write::{ParkedBody, StagedBody},
    },
    error::StoreError,
    format::{
        effect::{BODY_HERE, Effect, PropertyKind, quota_owner, share_owner},
        payload,
    },
    log::{EntryHeader, EntryKind, Log, entry_len},
    message::Message,
    options::StoreOptions,
};
use crate::{
    model::{AccountId, Grantees, Lsn, MailboxId, QuotaLimits, Uid},
    plant::{Plant, planted},
    runtime::executor::Executor,
};

/// An effect and the account it changes, pinned until published; `None` for the partition itself.
pub(crate) struct Change {
    pub cell: Option<Rc<AccountCell>>,
    pub effect: Effect,
}

/// The changes of one entry. Nearly always one.
pub(crate) type Changes = SmallVec<[Change; 1]>;

/// The commits of one partition. Held by everything that changes state.
pub(super) struct Commits {
    pub(super) options: Rc<StoreOptions>,
    pub(super) executor: Rc<dyn Executor>,
    pub(super) log: Log,
    pub(super) admission: Rc<Admission>,
    pub(super) bodies: Rc<Bodies>,
    pub(super) accounts: Rc<Accounts>,
    pub(super) standing: RefCell<Standing>,
    pub(super) bulk: Bulk,
    pub(super) freed: Freed,
    pub(super) feed: Feed,
    /// Moves whose messages are being received, by ticket, and whether their source was told that
    /// they have not arrived.
    pub(super) receiving: RefCell<HashMap<u128, bool>>,
    /// Entries appended and not yet durable, in order.
    staged: RefCell<VecDeque<(Lsn, Changes)>>,
    /// The entry published last.
    published: Cell<Lsn>,
    /// Encoding buffer, reused.
    scratch: RefCell<Vec<u8>>,
    messages_stored: Cell<u64>,
}

impl Commits {
    pub(super) fn new(
        options: Rc<StoreOptions>,
        executor: Rc<dyn Executor>,
        log: Log,
        admission: Rc<Admission>,
        bodies: Rc<Bodies>,
        accounts: Rc<Accounts>,
        standing: Standing,
    ) -> Commits {
        Commits {
            options,
            executor,
            log,
            admission,
            bodies,
            accounts,
            standing: RefCell::new(standing),
            bulk: Bulk::default(),
            freed: Freed::default(),
            feed: Feed::default(),
            receiving: RefCell::default(),
            staged: RefCell::default(),
            published: Cell::default(),
            scratch: RefCell::default(),
            messages_stored: Cell::new(0),
        }
    }

    /// Messages published since the partition was opened.
    pub(super) fn messages_stored(&self) -> u64 {
        self.messages_stored.get()
    }

    /// Refuses a body staged on another partition, whose chunks this log does not have.
    pub(super) fn check_owner(&self, body: &StagedBody) -> Result<(), StoreError> {
        match body.belongs_to(&self.bodies) {
            true => Ok(()),
            false => Err(StoreError::NotPermitted("body staged on another partition")),
        }
    }

    /// [`Commits::commit`] of a single effect.
    pub(super) fn commit_one(
        &self,
        cell: Option<&Rc<AccountCell>>,
        effect: Effect,
        body: Option<&StagedBody>,
    ) -> Result<Lsn, StoreError> {
        let change = Change { cell: cell.cloned(), effect };
        self.commit(Changes::from_buf([change]), body)
    }

    /// Appends `changes` (not empty) as one entry with at most one body, and stages them. The
    /// caller awaits [`Commits::acknowledged`] before it reports success.
    pub(super) fn commit(
        &self,
        mut changes: Changes,
        body: Option<&StagedBody>,
    ) -> Result<Lsn, StoreError> {
        let first = &changes[0].effect;
        let (mailbox, uid) = first.place();
        let kind = if changes.len() == 1 { entry_kind(first) } else { EntryKind::Transaction };
        let account = first.account().unwrap_or_default();
        let header = EntryHeader::new(kind, account, mailbox, uid);

        if let Some(body) = body {
            body.check_chunks(&self.log)?;
        }
        for Change { cell, effect } in &changes {
            cell.as_ref().map_or(Ok(()), |cell| cell.state.borrow().check_change(effect))?;
        }
        let here = self.append(header, &changes, body)?;
        let lsn = here.0;
        if body.is_none() && kind.may_stay() {
            // It holds no body: garbage once a checkpoint has its effects.
            self.log.release(lsn, here.1);
        }

        for change in &mut changes {
            resolve_body(&mut change.effect, here);
            match &change.cell {
                Some(cell) => cell.state.borrow_mut().stage(lsn, &change.effect),
                None => self.standing.borrow_mut().stage(lsn, &change.effect),
            }
        }
        if planted(Plant::FeedTellsEarly) {
            self.tell(lsn, &changes, &mut Vec::new());
        }
        let early = planted(Plant::ShowEarly)
            || planted(Plant::SendUndurable)
                && changes.iter().any(|it| it.effect.account() == Some(AccountId::QUEUE));
        self.staged.borrow_mut().push_back((lsn, changes));
        if early {
            self.publish_below(Lsn(lsn.0 + 1));
        }
        Ok(lsn)
    }

    /// Appends `body` alone. Nothing refers to it yet, nor after a crash before something does: it
    /// is garbage then, like the chunks of a body that was never committed. Compaction keeps it
    /// while the result exists.
    pub(super) fn park(&self, mut body: StagedBody) -> Result<ParkedBody, StoreError> {
        body.check_chunks(&self.log)?;
        let header = EntryHeader::new(EntryKind::Transaction, AccountId(0), MailboxId(0), Uid(0));
        let (lsn, entry_len) = self.append(header, &[], Some(&body))?;
        body.logged(lsn);
        let parked = body.parked(lsn, entry_len);
        self.count_parked(&parked.body);
        Ok(parked)
    }

    /// Appends an entry; returns its LSN and its length in the log.
    fn append(
        &self,
        header: EntryHeader,
        changes: &[Change],
        body: Option<&StagedBody>,
    ) -> Result<(Lsn, u32), StoreError> {
        let head = &mut *self.scratch.borrow_mut();
        head.clear();
        let framed = header.kind.has_head();
        payload::begin(head, framed);
        changes.iter().for_each(|change| change.effect.encode(head));
        payload::end_effects(head, framed);
        let (summary, inline) = match body {
            Some(body) => {
                body.encode_head(head);
                (body.summary(), body.inline())
            }
            None => (&[][..], &[][..]),
        };
        if framed {
            payload::end_head(head, summary);
        }
        let lsn = self.log.append(header, &[head, summary, inline])?;
        let entry_len = entry_len(head.len() + summary.len() + inline.len()) as u32;
        head.shrink_to(SCRATCH_KEPT);
        self.freed.count_change(u64::from(entry_len));
        Ok((lsn, entry_len))
    }

    /// Resolves when the entry at `lsn` is durable and its effects are published.
    pub(super) async fn acknowledged(&self, lsn: Lsn) -> Result<(), StoreError> {
        if planted(Plant::AcknowledgeEarly) {
            return Ok(());
        }
        self.log.durable(lsn).await
    }

    fn tell(&self, lsn: Lsn, changes: &Changes, wake: &mut Vec<Waker>) {
        self.feed.tell(lsn, changes.iter().map(|change| &change.effect), wake);
    }

    /// The latest entry appended whose effects are not published.
    pub(super) fn last_staged(&self) -> Option<Lsn> {
        self.staged.borrow().back().map(|(lsn, _)| *lsn)
    }

    fn publish_below(&self, durable: Lsn) {
        let mut wake = Vec::new();
        loop {
            let next = {
                let mut staged = self.staged.borrow_mut();
                match staged.front() {
                    Some((lsn, _)) if *lsn < durable => staged.pop_front(),
                    _ => None,
                }
            };
            let Some((lsn, changes)) = next else { break };
            let before = self.published.replace(lsn);
            assert!(before < lsn && lsn < durable, "{lsn:?} is published after {before:?}");
            self.count_references(lsn, &changes);
            for Change { cell, effect } in &changes {
                match cell {
                    Some(cell) => {
                        cell.state.borrow().assert_follows(effect);
                        self.publish_share(cell, effect);
                        cell.state.borrow_mut().publish(lsn, effect, &mut wake);
                        self.accounts.charge(cell, CHANGE_MEMORY + effect.annotation_octets());
                    }
                    None => self.standing.borrow_mut().publish(lsn, effect),
                }
                let stored = u64::from(matches!(effect, Effect::Message { .. }));
                self.messages_stored.set(self.messages_stored.get() + stored);
            }
            if self.feed.has_subscribers() && !planted(Plant::FeedTellsEarly) {
                self.tell(lsn, &changes, &mut wake);
            }
        }
        wake.into_iter().for_each(Waker::wake);
    }

    /// The index of shares in memory follows its properties, and so do the quotas. Called before
    /// the effect is published in the account.
    fn publish_share(&self, cell: &AccountCell, effect: &Effect) {
        let Effect::Property { account: AccountId::SHARES, key, value } = effect else { return };
        if let Some(of) = quota_owner(key) {
            let limits = value.as_ref().and_then(|it| QuotaLimits::decode(it));
            self.options.quotas.change(self.options.partition, of, limits);
            return;
        }
        let Some(owner) = share_owner(key) else { return };
        let state = cell.state.borrow();
        let before = state.properties.published().get(key);
        // What cannot be read grants nothing; the entry was written by this process.
        let decoded = |value: Option<&Vec<u8>>| {
            value.and_then(|it| Grantees::decode(it).ok()).unwrap_or_default()
        };
        let (before, after) = (decoded(before), decoded(value.as_ref()));
        self.options.shares.change(self.options.partition, owner, &before, &after);
    }

    /// Called by the log after each sync: entries below `durable` may now be published.
    pub(super) fn settle(&self, durable: Lsn) {
        self.publish_below(durable);
    }

    /// The log failed: the outcome of staged changes is unknown for ever, and nobody may see them.
    /// The log refuses all further appends, so that nothing decided on them follows, until it is
    /// reopened.
    pub(super) fn give_up_staged(&self) {
        self.staged.borrow_mut().clear();
    }

    /// The log was reopened with this state.
    pub(super) fn reset(&self, standing: Standing) {
        let before = self.standing.replace(standing);
        self.standing.borrow_mut().succeed(&before);
        self.bulk.reset();
    }
}

/// Kind of the entry that holds only this effect.
fn entry_kind(effect: &Effect) -> EntryKind {
    match effect {
        Effect::Account { .. } => EntryKind::Account,
        Effect::Message { .. } => EntryKind::Message,
        Effect::Flags { .. } => EntryKind::Flags,
        Effect::Expunge { .. } => EntryKind::Expunge,
        Effect::CreateMailbox { .. }
        | Effect::DeleteMailbox { .. }
        | Effect::RenameMailbox { .. } => EntryKind::Mailbox,
        Effect::Keyword { .. } => EntryKind::Keyword,
        Effect::Subscription { .. } => EntryKind::Subscription,
        Effect::Property { key: (PropertyKind::Acl | PropertyKind::Share, ..), .. } => {
            EntryKind::Acl
        }
        Effect::Property { key: (PropertyKind::Quota, ..), .. } => EntryKind::Quota,
        Effect::Property {
            key: (PropertyKind::Metadata | PropertyKind::Seen | PropertyKind::UrlKey, ..),
            ..
        } => EntryKind::Metadata,
        Effect::Annotations { .. } => EntryKind::Annotations,
        Effect::Delivery { .. } => EntryKind::Transaction,
        Effect::Spool { .. } => EntryKind::Spool,
        Effect::Unspool { .. } => EntryKind::Unspool,
        Effect::Intent { .. } | Effect::IntentDone { .. } => EntryKind::Intent,
    }
}

/// Estimated memory of a published change until its account is measured again.
const CHANGE_MEMORY: usize = 2 * size_of::<Message>();
/// A rare huge transaction's buffer is not kept.
const SCRATCH_KEPT: usize = 64 * 1024;

/// Once the entry's LSN is known, the bodies in it are located.
fn resolve_body(effect: &mut Effect, (lsn, entry_len): (Lsn, u32)) {
    if let Effect::Message { message: Message { body, .. }, .. } | Effect::Spool { body, .. } =
        effect
        && body.lsn == BODY_HERE
    {
        (body.lsn, body.entry_len) = (lsn, entry_len);
    }
}
