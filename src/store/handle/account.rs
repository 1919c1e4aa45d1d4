//! One account as services use it: mailboxes, messages, flags. Each command here decides on pending
//! state, commits one entry and returns once that is durable and published.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use hashbrown::HashMap;

use super::{
    super::{
        account::{
            changes::AccountChange,
            mailbox::PendingState,
            namespace::{MailboxInfo, NameLimits, Names, Renaming, normalise},
            snapshot::Snapshot,
            state::{AccountCell, AccountState},
        },
        bodies::{read::Ahead, write::StagedBody},
        cards::{Cards, Cursor},
        commits::{Change, Changes, Commits},
        damage::Place,
        error::StoreError,
        format::{
            blocks::BlockRunRef,
            effect::{
                ACCESS_LIST, Effect, NewMailbox, PropertyKey, PropertyKind, SEEN_IS_PERSONAL,
            },
        },
        message::{MailboxStatus, Message, MessageBody},
    },
    delivery::{Delivered, DeliveryTarget, plan_message},
    unsettled::Unsettled,
    view::{AccountFollower, AccountWatch, MailboxView},
};
use crate::model::{
    AccountId, FlagAction, FlagEdit, FlagMask, FlagSet, Flags, MailboxId, ModSeq, SpecialUse,
    Timestamp, Uid,
};

/// Messages of one mailbox that a STORE or EXPUNGE decides on and logs at once: well under a
/// millisecond of work.
const SLICE: usize = 512;

/// Messages of a table scanned before a yield.
const SCAN: usize = 4_096;

/// How long a reader waits for the log to be reopened, and how often it looks. Reopening takes a
/// second if the device works again at once.
const REOPEN_WAIT: Duration = Duration::from_secs(5);
const REOPEN_LOOK: Duration = Duration::from_millis(100);

/// One account, loaded. Cheap to clone. All mutations return after their effects are durable and
/// published; reads see published state only.
#[derive(Clone)]
pub struct Account {
    pub(in crate::store) commits: Rc<Commits>,
    pub(in crate::store) cards: Rc<Cards>,
    pub(crate) cell: Rc<AccountCell>,
}

/// A change of flags in client terms.
#[derive(Clone, Debug)]
pub struct FlagChange {
    pub action: FlagAction,
    pub system: Flags,
    pub keywords: Vec<String>,
    /// Other flags stay as they are.
    pub within: FlagMask,
}

impl FlagChange {
    pub fn new(action: FlagAction, system: Flags, keywords: Vec<String>) -> FlagChange {
        FlagChange { action, system, keywords, within: FlagMask::ALL }
    }

    pub fn add(system: Flags, keywords: Vec<String>) -> FlagChange {
        FlagChange::new(FlagAction::Add, system, keywords)
    }

    pub fn remove(system: Flags, keywords: Vec<String>) -> FlagChange {
        FlagChange::new(FlagAction::Remove, system, keywords)
    }

    pub fn replace(system: Flags, keywords: Vec<String>) -> FlagChange {
        FlagChange::new(FlagAction::Replace, system, keywords)
    }
}

#[derive(Clone, Debug, Default)]
pub struct FlagOutcome {
    /// Messages now in the requested state, with their mod-sequence; ascending by UID.
    pub updated: Vec<(Uid, ModSeq)>,
    /// Refused by UNCHANGEDSINCE (RFC 7162 3.1.3); ascending.
    pub modified: Vec<Uid>,
}

/// The result of [`Account::expunged_since`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expunged {
    /// Nothing is known of expunges with this mod-sequence or a lower one.
    pub floor: ModSeq,
    /// Ascending. At most as many as [`super::super::TombstoneLimits`] says.
    pub uids: Vec<Uid>,
}

/// The mailboxes that a RENAME is about, as the names are in the step that decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renamed {
    /// `None` for a mere level above mailboxes.
    pub mailbox: Option<MailboxId>,
    /// The nearest one above it.
    pub above: Option<MailboxId>,
    /// The nearest one above the new name.
    pub above_target: Option<MailboxId>,
}

impl Renamed {
    pub(super) fn of(state: &AccountState, source: &str, target: &str) -> Renamed {
        let names = &state.pending_names;
        Renamed {
            mailbox: names.find(source),
            above: names.nearest_above(&normalise(source)),
            above_target: names.nearest_above(&normalise(target)),
        }
    }
}

pub(super) fn sorted(uids: &[Uid]) -> Vec<Uid> {
    let mut uids = uids.to_vec();
    uids.sort_unstable();
    uids.dedup();
    uids
}

impl Account {
    pub fn id(&self) -> AccountId {
        self.cell.state.borrow().id
    }

    /// All mailboxes, sorted by name, INBOX first.
    pub fn mailboxes(&self) -> Vec<MailboxInfo> {
        let state = self.cell.state.borrow();
        state.names.list().into_iter().map(|info| state.with_special_use(info)).collect()
    }

    /// INBOX in any case is accepted.
    pub fn mailbox_by_name(&self, name: &str) -> Option<MailboxInfo> {
        let state = self.cell.state.borrow();
        Some(state.with_special_use(state.names.info(state.names.find(name)?)?))
    }

    pub fn mailbox(&self, id: MailboxId) -> Option<MailboxInfo> {
        let state = self.cell.state.borrow();
        Some(state.with_special_use(state.names.info(id)?))
    }

    /// The next `count` names, in their order, after `after`.
    pub fn names_after(&self, after: Option<&str>, which: Names, count: usize) -> Vec<String> {
        self.cell.state.borrow().names.names_after(after, which, count)
    }

    /// The nearest level above `name` that is a mailbox.
    pub fn nearest_above(&self, name: &str) -> Option<MailboxId> {
        self.cell.state.borrow().names.nearest_above(&normalise(name))
    }

    /// `name` is spelled as in [`Account::names_after`].
    pub fn is_subscribed(&self, name: &str) -> bool {
        self.cell.state.borrow().names.subscriptions.contains(name)
    }

    /// Whether a mailbox is below `name`.
    pub fn has_children(&self, name: &str) -> bool {
        self.cell.state.borrow().names.has_children(name)
    }

    /// Whether a subscribed name is below `name`.
    pub fn has_subscribed_below(&self, name: &str) -> bool {
        self.cell.state.borrow().names.has_subscribed_below(name)
    }

    /// Subscribed names; they need not exist (RFC 3501 6.3.6).
    pub fn subscriptions(&self) -> Vec<String> {
        self.cell.state.borrow().names.subscriptions.iter().cloned().collect()
    }

    pub(super) fn name_limits(&self) -> NameLimits {
        NameLimits {
            name_max: self.commits.options.mailbox_name_max,
            mailboxes_max: self.commits.options.mailboxes_per_account,
        }
    }

    pub(super) fn change(&self, effect: Effect) -> Change {
        Change { cell: Some(self.cell.clone()), effect }
    }

    /// Commits `effects` as one entry and waits for it. With none, waits for everything that this
    /// account has staged: the state that made them unnecessary may itself not be durable yet.
    pub(super) async fn carry_out(&self, effects: Vec<Effect>) -> Result<(), StoreError> {
        self.stage(effects)?;
        self.settled().await
    }

    /// Appends `effects`, if any, as one entry.
    fn stage(&self, effects: Vec<Effect>) -> Result<(), StoreError> {
        if effects.is_empty() {
            return self.check_real();
        }
        let changes: Changes = effects.into_iter().map(|effect| self.change(effect)).collect();
        self.commits.commit(changes, None).map(drop)
    }

    /// Refuses what was decided on an account that could not be read.
    pub(super) fn check_real(&self) -> Result<(), StoreError> {
        match self.cell.state.borrow().stand_in {
            true => Err(StoreError::Poisoned),
            false => Ok(()),
        }
    }

    /// Resolves when the latest change staged to this account is durable and published.
    pub(super) async fn settled(&self) -> Result<(), StoreError> {
        let staged = self.cell.state.borrow().staged;
        match staged {
            Some(lsn) => self.commits.acknowledged(lsn).await,
            None => Ok(()),
        }
    }

    /// Missing superior levels are created too (RFC 3501 6.3.3). All get a copy of the access list
    /// of the nearest mailbox above, as it is decided now, in the same entry (RFC 4314 4), and have
    /// `\Seen` as that one has it.
    pub async fn create_mailbox(
        &self,
        name: &str,
        special_use: Option<SpecialUse>,
    ) -> Result<MailboxId, StoreError> {
        self.create_mailbox_if(name, special_use, |_| Ok(())).await
    }

    /// The same, if `may` allows it. It is asked in the step that decides, about the nearest
    /// mailbox above as the names are then: others may be changing them.
    pub async fn create_mailbox_if<E: From<StoreError>>(
        &self,
        name: &str,
        special_use: Option<SpecialUse>,
        may: impl FnOnce(Option<MailboxId>) -> Result<(), E>,
    ) -> Result<MailboxId, E> {
        self.commits.log.room().await?;
        let (id, effects) = {
            let state = self.cell.state.borrow();
            let limits = self.name_limits();
            may(state.pending_names.nearest_above(&normalise(name)))?;
            let new = state.pending_names.plan_create(name, special_use, limits)?;
            state.check_names(new.iter().map(|mailbox| &mailbox.name))?;
            let id = new.last().map_or(MailboxId(0), |mailbox| mailbox.id);
            (id, self.creation(&state, new)?)
        };
        self.carry_out(effects).await?;
        Ok(id)
    }

    /// The effects that create `new`, each below the one before it, with the access list of the
    /// nearest mailbox above, and whether `\Seen` is each user's own.
    pub(super) fn creation(
        &self,
        state: &AccountState,
        new: Vec<NewMailbox>,
    ) -> Result<Vec<Effect>, StoreError> {
        const INHERITED: [(PropertyKind, &[u8]); 2] =
            [(PropertyKind::Acl, ACCESS_LIST), (PropertyKind::Seen, SEEN_IS_PERSONAL)];
        let above = new.first().and_then(|it| state.pending_names.nearest_above(&it.name));
        let inherited = above.into_iter().flat_map(|above| {
            INHERITED.into_iter().filter_map(move |(kind, name)| {
                let value = state.properties.pending(&(kind, above, name.to_vec()))?;
                Some((kind, name, value))
            })
        });
        let values = inherited.flat_map(|(kind, name, value)| {
            new.iter().map(move |it| ((kind, it.id, name.to_vec()), Some(value.clone())))
        });
        let values = state.properties.plan(values.collect(), self.commits.options.properties)?;
        let account = state.id;
        let create = |mailbox| Effect::CreateMailbox { account, mailbox };
        let set = |(key, value)| Effect::Property { account, key, value };
        Ok(new.into_iter().map(create).chain(values.into_iter().map(set)).collect())
    }

    /// A mailbox's children stay, and its name with them without a mailbox (RFC 3501 6.3.4).
    /// Deleting such a name is `NotPermitted`, as is deleting INBOX.
    pub async fn delete_mailbox(&self, name: &str) -> Result<(), StoreError> {
        self.delete_mailbox_if(name, |_| Ok(())).await
    }

    /// The same, if `may` allows it, as [`Account::create_mailbox_if`] asks: about the mailbox.
    pub async fn delete_mailbox_if<E: From<StoreError>>(
        &self,
        name: &str,
        may: impl FnOnce(MailboxId) -> Result<(), E>,
    ) -> Result<(), E> {
        self.commits.log.room().await?;
        let effect = {
            let state = self.cell.state.borrow();
            let mailbox = state.pending_names.plan_delete(name)?;
            may(mailbox)?;
            Effect::DeleteMailbox { account: state.id, mailbox }
        };
        Ok(self.carry_out(vec![effect]).await?)
    }

    /// Renames children too, in one transaction; properties stay with them. Renaming INBOX moves
    /// its messages to the new mailbox and leaves INBOX empty (RFC 3501 6.3.5). Superior levels are
    /// created.
    pub async fn rename_mailbox(&self, source: &str, target: &str) -> Result<(), StoreError> {
        self.rename_mailbox_if(source, target, |_| Ok(())).await
    }

    /// The same, if `may` allows it, as [`Account::create_mailbox_if`] asks.
    pub async fn rename_mailbox_if<E: From<StoreError>>(
        &self,
        source: &str,
        target: &str,
        may: impl FnOnce(Renamed) -> Result<(), E>,
    ) -> Result<(), E> {
        if normalise(source) == "INBOX" {
            return self.rename_inbox(target, may).await;
        }
        self.commits.log.room().await?;
        let effects = {
            let state = self.cell.state.borrow();
            may(Renamed::of(&state, source, target))?;
            let plan = state.pending_names.plan_rename(source, target, self.name_limits())?;
            let created = plan.superiors.iter().map(|mailbox| &mailbox.name);
            state.check_names(created.chain(plan.renames.iter().map(|(_, name)| name)))?;
            let (account, Renaming { superiors, renames }) = (state.id, plan);
            let rename = |(mailbox, name)| Effect::RenameMailbox { account, mailbox, name };
            let mut effects = self.creation(&state, superiors)?;
            effects.extend(renames.into_iter().map(rename));
            effects
        };
        Ok(self.carry_out(effects).await?)
    }

    pub async fn set_subscribed(&self, name: &str, subscribed: bool) -> Result<(), StoreError> {
        self.commits.log.room().await?;
        let name = normalise(name);
        let effects = {
            let state = self.cell.state.borrow();
            let names = &state.pending_names;
            if names.subscriptions.contains(&name) == subscribed {
                Vec::new()
            } else {
                if subscribed {
                    names.check_subscription(&name, self.commits.options.mailbox_name_max)?;
                    state.check_names(std::iter::once(&name))?;
                }
                vec![Effect::Subscription { account: state.id, name, subscribed }]
            }
        };
        self.carry_out(effects).await
    }

    /// A published property; mailbox 0 means the account itself.
    pub fn property(&self, key: &PropertyKey) -> Option<Vec<u8>> {
        self.cell.state.borrow().properties.published().get(key).cloned()
    }

    /// Published properties of one kind and mailbox (0: of the account itself), by key.
    pub fn properties(&self, kind: PropertyKind, mailbox: MailboxId) -> Vec<(Vec<u8>, Vec<u8>)> {
        let state = self.cell.state.borrow();
        let properties = state.properties.of(kind, mailbox);
        properties.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    pub async fn status(&self, mailbox: MailboxId) -> Result<MailboxStatus, StoreError> {
        let state = self.cell.state.borrow();
        let mailbox = state.live_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
        Ok(mailbox.status)
    }

    /// Loads the mailbox's message table for a reader. If the device did not give back the memory
    /// of a failed write, runs that a checkpoint put into it cannot be read until the log is
    /// reopened: this waits for that, up to [`REOPEN_WAIT`].
    pub(super) async fn ensure_table(&self, mailbox: MailboxId) -> Result<(), StoreError> {
        let mut waited = Duration::ZERO;
        loop {
            match self.commits.accounts.ensure_table(&self.cell, mailbox).await {
                Err(StoreError::Poisoned) if waited < REOPEN_WAIT => {
                    self.commits.executor.sleep(REOPEN_LOOK).await;
                    waited += REOPEN_LOOK;
                }
                loaded => return loaded,
            }
        }
    }

    /// The mailbox as published now. With `claim_recent` the session takes the `\Recent` marks:
    /// UIDs from [`MailboxView::recent_from`] on are recent for it and for no later session (the
    /// claim is durable lazily: at worst a message is recent twice after a crash).
    pub async fn select(
        &self,
        mailbox: MailboxId,
        claim_recent: bool,
    ) -> Result<MailboxView, StoreError> {
        self.ensure_table(mailbox).await?;
        let mut state = self.cell.state.borrow_mut();
        let found = state.mailboxes.get_mut(&mailbox).filter(|found| found.live);
        let found = found.ok_or(StoreError::NoSuchMailbox)?;
        let (mut recent_from, access_seen) = (found.recent_from, found.access_changes);
        if claim_recent && recent_from < found.status.uid_next {
            recent_from = found.claim_recent();
            state.dirty = true;
        }
        let from = (recent_from, access_seen);
        Ok(MailboxView::new(self.commits.clone(), self.cell.clone(), mailbox, from))
    }

    /// A mailbox as published now, and how often its access list was changed; `None` if it was
    /// deleted or its messages are not in memory. They are while a [`MailboxView`] is held.
    pub fn published(&self, mailbox: MailboxId) -> Option<(Snapshot, u64)> {
        let state = self.cell.state.borrow();
        let found = state.live_mailbox(mailbox)?;
        let snapshot = found.snapshot()?;
        self.commits.accounts.note_held(&snapshot.published);
        Some((snapshot, found.access_changes))
    }

    /// Waits for changes of the whole account, published from now on.
    pub fn watch(&self) -> AccountWatch {
        AccountWatch::new(self.commits.clone(), self.cell.clone())
    }

    /// Notes from now on what changes in the account.
    pub fn follow(&self) -> AccountFollower {
        AccountFollower::new(self.commits.clone(), self.cell.clone())
    }

    /// What changed after the change numbered `known`, in its order, and the number of the latest.
    /// `None` if that is not known any more: nobody followed, or too much has changed since.
    pub fn changed_after(&self, known: u64) -> Option<(Vec<AccountChange>, u64)> {
        let state = self.cell.state.borrow();
        let journal = state.journal.as_ref()?;
        Some((journal.since(known)?, journal.last()))
    }

    /// The body must be staged on this account's partition.
    pub async fn append(
        &self,
        mailbox: MailboxId,
        body: StagedBody,
        flags: Flags,
        keywords: &[String],
        internal_date: Timestamp,
    ) -> Result<Delivered, StoreError> {
        let begun = self.begin_append(mailbox, body, flags, keywords, internal_date).await;
        let (delivered, unsettled) = begun?;
        unsettled.settled().await?;
        Ok(delivered)
    }

    /// The same, without waiting for the disk: the message may be told of, and anything said to be
    /// done, only once the [`Unsettled`] is settled.
    pub async fn begin_append(
        &self,
        mailbox: MailboxId,
        mut body: StagedBody,
        flags: Flags,
        keywords: &[String],
        internal_date: Timestamp,
    ) -> Result<(Delivered, Unsettled), StoreError> {
        self.commits.check_owner(&body)?;
        self.commits.admission.admit()?;
        self.commits.log.room().await?;
        let target = DeliveryTarget {
            account: self.id(),
            mailbox: None,
            flags,
            keywords: keywords.to_vec(),
            internal_date,
            annotations: Vec::new(),
        };
        let (size, now) = (body.size(), self.commits.executor.now());
        let (change, delivered) =
            plan_message(&self.commits, self.cell.clone(), mailbox, &target, size, now)?;
        let lsn = self.commits.commit(Changes::from_buf([change]), Some(&body))?;
        body.logged(lsn);
        Ok((delivered, Unsettled::new(self.commits.clone(), Some(lsn), Some(body))))
    }

    /// UIDs that no longer exist are skipped. Each message's change is atomic, and nothing more is
    /// promised (RFC 3501 6.4.6): it is decided and logged in slices of [`SLICE`] messages, so that
    /// a folder of 100,000 does not hold the shard, and all of it is durable when this returns.
    pub async fn store_flags(
        &self,
        mailbox: MailboxId,
        uids: &[Uid],
        change: FlagChange,
        unchanged_since: Option<ModSeq>,
    ) -> Result<FlagOutcome, StoreError> {
        let begun = self.begin_store_flags(mailbox, uids, change, unchanged_since).await;
        let (outcome, unsettled) = begun?;
        unsettled.settled().await?;
        Ok(outcome)
    }

    /// The same, without waiting for the disk after the last slice: what it returns may be told
    /// only once the [`Unsettled`] is settled.
    pub async fn begin_store_flags(
        &self,
        mailbox: MailboxId,
        uids: &[Uid],
        change: FlagChange,
        unchanged_since: Option<ModSeq>,
    ) -> Result<(FlagOutcome, Unsettled), StoreError> {
        self.commits.accounts.ensure_table(&self.cell, mailbox).await?;
        let generation = self.commits.log.generation();
        let change = self.as_bits(mailbox, change)?;
        let mut outcome = FlagOutcome::default();
        for (index, slice) in sorted(uids).chunks(SLICE).enumerate() {
            self.room_for_slice(index, slice.len()).await?;
            let effects = {
                let mut state = self.cell.state.borrow_mut();
                plan_flags(&mut state, mailbox, slice, change, unchanged_since, &mut outcome)?
            };
            self.stage_slice(effects, slice.len())?;
        }
        let staged = self.cell.state.borrow().staged;
        let unsettled = Unsettled::since(self.commits.clone(), generation, staged);
        Ok((outcome, unsettled))
    }

    /// Checks that all slices of a command are durable: not so if the log failed and was reopened
    /// after the first of them, since only the last one is waited for.
    pub(super) async fn slices_settled(&self, generation: u64) -> Result<(), StoreError> {
        self.settled().await?;
        match self.commits.log.generation() == generation {
            true => Ok(()),
            false => Err(StoreError::Poisoned),
        }
    }

    /// Yields between the slices of a long command, and waits until the slices that all long
    /// commands have staged can be published in one turn.
    pub(super) async fn room_for_slice(
        &self,
        index: usize,
        messages: usize,
    ) -> Result<(), StoreError> {
        if index > 0 {
            self.commits.executor.yield_now().await;
            self.commits.bulk_turn(messages).await?;
        }
        self.commits.log.room().await
    }

    fn stage_slice(&self, effects: Vec<Effect>, messages: usize) -> Result<(), StoreError> {
        let changes = effects.into_iter().map(|effect| self.change(effect)).collect();
        self.stage_changes(changes, messages)
    }

    /// Appends the `changes`, if any, of a slice of `messages` as one entry; other accounts may be
    /// among them.
    pub(super) fn stage_changes(
        &self,
        changes: Changes,
        messages: usize,
    ) -> Result<(), StoreError> {
        if changes.is_empty() {
            return self.check_real();
        }
        let lsn = self.commits.commit(changes, None)?;
        self.commits.bulk.staged(lsn, messages);
        Ok(())
    }

    /// Converts keywords to bits. Added ones are put into the mailbox's table.
    fn as_bits(&self, mailbox: MailboxId, change: FlagChange) -> Result<FlagEdit, StoreError> {
        let FlagChange { action, system, mut keywords, within } = change;
        if !within.keywords {
            keywords.clear();
        }
        let flags = match action {
            FlagAction::Add | FlagAction::Replace => {
                let keywords = self.commits.define_keywords(&self.cell, mailbox, &keywords)?;
                FlagSet { system, keywords }
            }
            FlagAction::Remove => {
                let mut state = self.cell.state.borrow_mut();
                let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
                FlagSet::named(system, &keywords, found.pending_keywords())
            }
        };
        Ok(FlagEdit { action, flags, within })
    }

    /// Removes those of `uids` (or of all messages if `None`) that have `\Deleted`.
    pub async fn expunge(
        &self,
        mailbox: MailboxId,
        uids: Option<&[Uid]>,
    ) -> Result<Vec<Uid>, StoreError> {
        self.commits.accounts.ensure_table(&self.cell, mailbox).await?;
        let deleted = |pending: PendingState| pending.flags.system.contains(Flags::DELETED);
        let chosen = match uids {
            _ if !self.may_have_deleted(mailbox)? => Vec::new(),
            Some(uids) => sorted(uids),
            None => self.uids_where(mailbox, deleted).await?,
        };
        self.expunge_where(mailbox, chosen, deleted).await
    }

    fn may_have_deleted(&self, mailbox: MailboxId) -> Result<bool, StoreError> {
        let mut state = self.cell.state.borrow_mut();
        let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
        Ok(found.may_have_deleted())
    }

    /// UIDs of the messages for which `chosen` holds, ascending; yields in between.
    pub(super) async fn uids_where(
        &self,
        mailbox: MailboxId,
        chosen: impl Fn(PendingState) -> bool,
    ) -> Result<Vec<Uid>, StoreError> {
        let (mut uids, mut from) = (Vec::new(), Uid(0));
        loop {
            let mut looked_at = 0;
            {
                let mut state = self.cell.state.borrow_mut();
                let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
                for (message, pending) in found.pending_messages_from(from).take(SCAN) {
                    looked_at += 1;
                    from = Uid(message.uid.0.saturating_add(1));
                    if chosen(pending) {
                        uids.push(message.uid);
                    }
                }
            }
            if looked_at < SCAN {
                break;
            }
            self.commits.executor.yield_now().await;
        }
        Ok(uids)
    }

    /// Removes `uids` whatever their flags (POP3 QUIT).
    pub async fn remove(&self, mailbox: MailboxId, uids: &[Uid]) -> Result<Vec<Uid>, StoreError> {
        self.commits.accounts.ensure_table(&self.cell, mailbox).await?;
        self.expunge_where(mailbox, sorted(uids), |_| true).await
    }

    /// Removes those of `uids` that exist and for which `chosen` holds, in slices of [`SLICE`]
    /// messages as in [`Account::store_flags`]; checked again for each slice, since other sessions
    /// run in between.
    pub(super) async fn expunge_where(
        &self,
        mailbox: MailboxId,
        uids: Vec<Uid>,
        chosen: impl Fn(PendingState) -> bool,
    ) -> Result<Vec<Uid>, StoreError> {
        let generation = self.commits.log.generation();
        let mut removed = Vec::new();
        for (index, slice) in uids.chunks(SLICE).enumerate() {
            self.room_for_slice(index, slice.len()).await?;
            let effects = {
                let mut state = self.cell.state.borrow_mut();
                let account = state.id;
                let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
                let is_chosen = |uid: &Uid| found.pending_state(*uid).is_some_and(&chosen);
                let uids: Vec<Uid> = slice.iter().copied().filter(is_chosen).collect();
                if uids.is_empty() {
                    continue;
                }
                removed.extend_from_slice(&uids);
                let mod_seq = state.allocate_mod_seq();
                vec![Effect::Expunge { account, mailbox, mod_seq, uids }]
            };
            self.stage_slice(effects, slice.len())?;
        }
        self.slices_settled(generation).await?;
        Ok(removed)
    }

    /// The messages expunged in the mailbox with a mod-sequence above `since`, as far as known, for
    /// VANISHED (EARLIER) (RFC 7162 3.2.10.2). With `since` below [`Expunged::floor`] there may be
    /// more: the caller then finds them from absent UIDs.
    pub async fn expunged_since(
        &self,
        mailbox: MailboxId,
        since: ModSeq,
    ) -> Result<Expunged, StoreError> {
        self.expunged_between(mailbox, since, ModSeq(u64::MAX)).await
    }

    /// The same without those with a mod-sequence above `until`: for a reader of a snapshot, of
    /// which that is the highest mod-sequence, they are not expunged yet.
    pub async fn expunged_between(
        &self,
        mailbox: MailboxId,
        since: ModSeq,
        until: ModSeq,
    ) -> Result<Expunged, StoreError> {
        self.ensure_table(mailbox).await?;
        let state = self.cell.state.borrow();
        let found = state.live_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
        let tombstones = &found.tombstones;
        Ok(Expunged { floor: tombstones.floor(), uids: tombstones.between(since, until) })
    }

    /// Checksummed read of `range` of the body (clamped to its size). Reads only the chunks that
    /// overlap it: pieces aligned to [`super::BODY_CHUNK`] cost one chunk each.
    pub async fn read_body(
        &self,
        body: &MessageBody,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        self.commits.bodies.reading_turn().await;
        self.commits.bodies.read_body(body, offset, len).await
    }

    /// Reads bodies and summaries of many messages, in the order of their UIDs.
    pub fn bodies(&self) -> BodyReader {
        BodyReader { account: self.clone(), ahead: Ahead::default() }
    }

    /// Reads one part of the cards of many messages of `mailbox`, in the order of their UIDs.
    /// `part` is below [`CARD_PARTS`](crate::store::CARD_PARTS); its meaning is up to the code that
    /// made the parts.
    pub fn cards(&self, mailbox: MailboxId, part: usize) -> CardReader {
        CardReader { account: self.clone(), mailbox, cursor: Cursor::new(part) }
    }

    /// The location of `uid`'s card. If it and many others have none yet, a checkpoint is requested
    /// to make them.
    fn card_run_of(&self, mailbox: MailboxId, uid: Uid) -> Option<BlockRunRef> {
        let mut state = self.cell.state.borrow_mut();
        let found = state.mailboxes.get(&mailbox)?;
        let run = found.cards.run_of(uid);
        let least = self.commits.options.cards_wanted;
        if run.is_none()
            && uid >= found.cards.next()
            && found.cards.wanted(found.status.uid_next, least)
        {
            // A changed account is written sooner or later; writing everything at once only for
            // cards would hold the shard.
            if !state.dirty {
                self.commits.accounts.checkpoint_wanted.set();
            }
            state.dirty = true;
        }
        run
    }

    /// A run of cards is damaged: they are remade from the messages.
    fn give_up_cards(&self, mailbox: MailboxId, run: BlockRunRef, error: &StoreError) {
        let mut state = self.cell.state.borrow_mut();
        let place = Place { account: Some(state.id), mailbox: Some(mailbox), uid: None };
        let Some(found) = state.mailboxes.get_mut(&mailbox) else { return };
        let lost = found.cards.give_up(run.lsn);
        if lost.is_empty() {
            // It was joined with others during the read, and its segment may be gone.
            return;
        }
        self.commits.accounts.damages.note(error, place);
        lost.iter().for_each(|lost| self.commits.log.release(lost.lsn, lost.entry_len));
        state.dirty = true;
        self.commits.accounts.checkpoint_wanted.set();
    }

    /// The summary given to [`super::BodyWriter::finish`].
    pub async fn read_summary(&self, body: &MessageBody) -> Result<Bytes, StoreError> {
        self.commits.bodies.reading_turn().await;
        self.commits.bodies.read_summary(body).await
    }
}

/// Reads bodies and summaries, for callers that read those of one message after the other: most
/// messages that are neighbours in a mailbox are so in the log, and are read together. Holds up to
/// 256 KiB of what it has read.
pub struct BodyReader {
    account: Account,
    ahead: Ahead,
}

impl BodyReader {
    /// As [`Account::read_body`].
    pub async fn read_body(
        &self,
        body: &MessageBody,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        let bodies = &self.account.commits.bodies;
        bodies.reading_turn().await;
        bodies.read_body_on(body, offset, len, &self.ahead).await
    }

    /// As [`Account::read_summary`].
    pub async fn read_summary(&self, body: &MessageBody) -> Result<Bytes, StoreError> {
        let bodies = &self.account.commits.bodies;
        bodies.reading_turn().await;
        bodies.read_summary_on(body, &self.ahead).await
    }
}

/// Reads one part of the cards of a mailbox's messages, for callers that read many of them in
/// order. For messages without a card the message itself is read. Holds one opened block of cards.
pub struct CardReader {
    account: Account,
    mailbox: MailboxId,
    cursor: Cursor,
}

impl CardReader {
    /// Whether the part is in memory, so that [`CardReader::card`] returns it without waiting.
    pub fn is_at_hand(&mut self, message: &Message) -> bool {
        self.account.cards.is_at_hand(&mut self.cursor, message.uid, &message.body)
    }

    /// Reads a part that is not at hand; [`CardReader::card`] then returns it.
    pub async fn seek(&mut self, message: &Message) -> Result<(), StoreError> {
        let account = &self.account;
        account.commits.bodies.reading_turn().await;
        if let Some(run) = account.card_run_of(self.mailbox, message.uid) {
            let found = account.cards.seek(&mut self.cursor, run, message.uid, &message.body).await;
            match found {
                Ok(true) => return Ok(()),
                // The run may have gone with a failed write.
                Ok(false) | Err(StoreError::Poisoned) => {}
                Err(error @ StoreError::Corrupt { .. }) => {
                    account.give_up_cards(self.mailbox, run, &error);
                }
                Err(error) => return Err(error),
            }
        }
        let summary = account.commits.bodies.read_summary(&message.body).await?;
        account.cards.split_into(&mut self.cursor, &summary);
        Ok(())
    }

    /// What was found last. Empty if the message's summary cannot be made parts of.
    pub fn card(&self) -> &[u8] {
        self.cursor.card()
    }
}

/// Decides a slice of STORE and adds each message's result to `outcome`.
fn plan_flags(
    state: &mut AccountState,
    mailbox: MailboxId,
    uids: &[Uid],
    change: FlagEdit,
    unchanged_since: Option<ModSeq>,
    outcome: &mut FlagOutcome,
) -> Result<Vec<Effect>, StoreError> {
    let (account, mod_seq) = (state.id, ModSeq(state.pending_mod_seq.0 + 1));
    let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
    let mut groups: Vec<(FlagSet, Vec<Uid>)> = Vec::new();
    let mut group_of: HashMap<FlagSet, usize> = HashMap::new();
    for uid in uids {
        let Some(pending) = found.pending_state(*uid) else { continue };
        if unchanged_since.is_some_and(|since| pending.mod_seq > since) {
            outcome.modified.push(*uid);
            continue;
        }
        let flags = change.apply(pending.flags);
        if flags == pending.flags {
            // Nothing to do, so no new mod-sequence either (RFC 7162 3.1.3).
            outcome.updated.push((*uid, pending.mod_seq));
            continue;
        }
        outcome.updated.push((*uid, mod_seq));
        let group = *group_of.entry(flags).or_insert_with(|| {
            groups.push((flags, Vec::new()));
            groups.len() - 1
        });
        groups[group].1.push(*uid);
    }
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    state.allocate_mod_seq();
    Ok(vec![Effect::Flags { account, mailbox, mod_seq, groups }])
}
