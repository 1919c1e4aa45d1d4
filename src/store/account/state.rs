//! One account in memory: names, mailboxes, mod-sequence, properties; pending and published.
//!
//! Owned by the partition, shared with `Account` handles and views through an [`AccountCell`].
//! Every change is an effect: *staged* when its entry is appended (pending state), *published* when
//! that entry is durable, *replayed* (both at once) after a start.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    task::Waker,
};

use super::{
    super::{
        error::StoreError,
        format::effect::{ACCESS_LIST, Effect, PropertyKind, SPECIAL_USE_ENTRY, is_access_list},
        log::ENTRY_PAYLOAD_MAX,
        message::{MOD_SEQ_OF_NOTHING, MailboxStatus},
    },
    changes::{AccountChange, Journal, MessageChange},
    holding::{Holding, HoldingLimits, StagedHolding},
    mailbox::Mailbox,
    namespace::{MailboxInfo, Namespace},
    properties::{Properties, PropertyChanges, PropertyLimits},
    tombstones::TombstoneLimits,
    watchers::Watchers,
};
use crate::{
    model::{AccountId, Lsn, MailboxId, ModSeq, SpecialUse},
    plant::{Plant, SELF_CHECKS, planted, self_check},
};

/// Octets of mailbox names, subscriptions and keywords that an account may have; leaves room for
/// the rest of its page.
const NAMES_OCTETS_MAX: usize = ENTRY_PAYLOAD_MAX / 2;

/// UIDs skipped in a mailbox when effects may have been lost: more than the messages of the largest
/// transaction.
const UIDS_SKIPPED: u32 = 1 << 17;
/// Mod-sequences skipped then: more than the entries of the longest batch.
const MOD_SEQS_SKIPPED: u64 = 1 << 20;
/// Mailbox ids and UIDVALIDITY values skipped then.
pub(crate) const MAILBOXES_SKIPPED: u32 = 1 << 10;

/// An account in memory and its data for the partition's budget. Holding the `Rc` pins the account.
pub(crate) struct AccountCell {
    pub state: RefCell<AccountState>,
    /// Tick of the partition's clock at the last use.
    pub last_used: Cell<u64>,
    /// Bytes counted against the partition's budget.
    pub memory: Cell<usize>,
}

pub(crate) struct AccountState {
    pub id: AccountId,
    /// Names as sessions see them.
    pub names: Rc<Namespace>,
    /// Names including staged changes.
    pub pending_names: Rc<Namespace>,
    /// Live mailboxes, and those whose creation is pending.
    pub mailboxes: BTreeMap<MailboxId, Mailbox>,
    /// Last mod-sequence allocated (RFC 7162 3.1.1), pending ones included.
    pub pending_mod_seq: ModSeq,
    /// Last mod-sequence published.
    pub mod_seq: ModSeq,
    pub properties: Properties,
    /// All effects below are in the published state; a replay skips them.
    pub applied: Lsn,
    /// Entry of the latest change staged; `None` if none was since loading.
    pub staged: Option<Lsn>,
    /// Whether the published state differs from `page`.
    pub dirty: bool,
    /// First effect published but not in `page`.
    pub unwritten: Option<Lsn>,
    /// The account's page as last written.
    pub page: Option<Lsn>,
    /// Replaces an account that could not be read when the log was reopened: its holders see it as
    /// empty, and must not change anything through it.
    pub stand_in: bool,
    /// Messages published in all mailboxes; `None` until needed.
    pub holding: Cell<Option<Holding>>,
    /// Messages that staged entries add and remove.
    staged_holding: StagedHolding,
    pub tombstone_limits: TombstoneLimits,
    /// Staged, unpublished effects that change names.
    pending_renames: u32,
    /// Who waits for any change of the account.
    watchers: Watchers,
    /// What changed lately, while somebody follows.
    pub journal: Option<Box<Journal>>,
}

impl AccountCell {
    pub(crate) fn new(state: AccountState) -> AccountCell {
        AccountCell { memory: Cell::new(0), last_used: Cell::new(0), state: RefCell::new(state) }
    }
}

impl AccountState {
    /// An unknown account: it exists once its `Account` effect is staged.
    pub(crate) fn new(id: AccountId) -> AccountState {
        AccountState {
            id,
            names: Rc::default(),
            pending_names: Rc::default(),
            mailboxes: BTreeMap::new(),
            pending_mod_seq: MOD_SEQ_OF_NOTHING,
            mod_seq: MOD_SEQ_OF_NOTHING,
            properties: Properties::default(),
            applied: Lsn(0),
            staged: None,
            dirty: false,
            unwritten: None,
            page: None,
            stand_in: false,
            holding: Cell::new(None),
            staged_holding: StagedHolding::default(),
            tombstone_limits: TombstoneLimits::default(),
            pending_renames: 0,
            watchers: Watchers::default(),
            journal: None,
        }
    }

    /// For the holders of an account that can no longer be read.
    pub(crate) fn stand_in(id: AccountId) -> AccountState {
        AccountState { stand_in: true, ..AccountState::new(id) }
    }

    /// Its `Account` effect is at least staged: INBOX is there.
    pub(crate) fn exists(&self) -> bool {
        self.pending_names.contains(MailboxId::INBOX)
    }

    /// Refuses `effect` if it would be inconsistent with the log's state of the account. A handle
    /// outlives a failure of the log; its object may have become unreachable since, or may never
    /// have been written.
    pub(crate) fn check_change(&self, effect: &Effect) -> Result<(), StoreError> {
        let begins = matches!(effect, Effect::Account { .. });
        match !self.stand_in && (begins || self.exists()) {
            true => Ok(()),
            false => Err(StoreError::Poisoned),
        }
    }

    pub(crate) fn allocate_mod_seq(&mut self) -> ModSeq {
        self.pending_mod_seq = ModSeq(self.pending_mod_seq.0 + 1);
        self.pending_mod_seq
    }

    /// Refuses `more` names of mailboxes, subscriptions or keywords if the account's page, one
    /// entry of the log, might not hold them all.
    pub(crate) fn check_names<'a>(
        &self,
        more: impl Iterator<Item = &'a String>,
    ) -> Result<(), StoreError> {
        let keywords = self.mailboxes.values().flat_map(|it| it.pending_keywords().iter());
        let octets =
            keywords.map(String::len).sum::<usize>() + more.map(String::len).sum::<usize>();
        match octets + self.pending_names.octets() <= NAMES_OCTETS_MAX {
            true => Ok(()),
            false => Err(StoreError::Limit("octets of names per account")),
        }
    }

    /// Those of `changes` that change pending state.
    ///
    /// # Errors
    /// `NoSuchMailbox` for a mailbox that does not exist in pending state, `Limit`.
    pub(crate) fn plan_properties(
        &self,
        changes: PropertyChanges,
        limits: PropertyLimits,
    ) -> Result<PropertyChanges, StoreError> {
        let known = |mailbox| mailbox == MailboxId(0) || self.pending_names.contains(mailbox);
        match changes.keys().all(|(_, mailbox, _)| known(*mailbox)) {
            true => self.properties.plan(changes, limits),
            false => Err(StoreError::NoSuchMailbox),
        }
    }

    /// A mailbox with the special use that it was given last.
    pub(crate) fn with_special_use(&self, info: MailboxInfo) -> MailboxInfo {
        let name = SPECIAL_USE_ENTRY.as_bytes().to_vec();
        let mut given = self.properties.beginning(PropertyKind::Metadata, info.id, name);
        let Some((_, value)) = given.next() else { return info };
        let special_use =
            SpecialUse::EVERY.into_iter().find(|it| it.attribute().as_bytes() == value);
        MailboxInfo { special_use, ..info }
    }

    /// A mailbox that exists in pending state: not deleted, not pending deletion.
    pub(crate) fn pending_mailbox(&mut self, id: MailboxId) -> Option<&mut Mailbox> {
        if !self.pending_names.contains(id) {
            return None;
        }
        self.mailboxes.get_mut(&id)
    }

    /// A mailbox that readers may see.
    pub(crate) fn live_mailbox(&self, id: MailboxId) -> Option<&Mailbox> {
        self.mailboxes.get(&id).filter(|mailbox| mailbox.live)
    }

    /// Records an effect appended at `lsn` in pending state.
    pub(crate) fn stage(&mut self, lsn: Lsn, effect: &Effect) {
        self.staged = Some(lsn);
        if Namespace::concerns(effect) {
            Rc::make_mut(&mut self.pending_names).apply(effect);
            self.pending_renames += 1;
        }
        match effect {
            Effect::Account { mailboxes, .. } => {
                for mailbox in mailboxes {
                    self.mailboxes.insert(mailbox.id, Mailbox::new(mailbox.uid_validity));
                }
            }
            Effect::CreateMailbox { mailbox, .. } => {
                self.mailboxes.insert(mailbox.id, Mailbox::new(mailbox.uid_validity));
            }
            Effect::Message { mailbox, message, .. } => {
                self.pending_mod_seq = self.pending_mod_seq.max(message.mod_seq);
                let added = Holding { messages: 1, octets: message.body.size };
                self.staged_holding.stage(lsn, added, Holding::default());
                self.stage_in(*mailbox, lsn, effect);
            }
            Effect::Flags { mailbox, mod_seq, .. } | Effect::Expunge { mailbox, mod_seq, .. } => {
                self.pending_mod_seq = self.pending_mod_seq.max(*mod_seq);
                if let Effect::Expunge { uids, .. } = effect
                    && let Some(mailbox) = self.mailboxes.get(mailbox)
                {
                    let removed = mailbox.pending_holding(uids);
                    self.staged_holding.stage(lsn, Holding::default(), removed);
                }
                self.stage_in(*mailbox, lsn, effect);
            }
            Effect::Keyword { mailbox, .. } => self.stage_in(*mailbox, lsn, effect),
            Effect::DeleteMailbox { mailbox, .. } => self.properties.stage_deletion(lsn, *mailbox),
            Effect::Property { key, value, .. } => self.properties.stage(lsn, key, value.as_ref()),
            _ => {}
        }
    }

    fn stage_in(&mut self, mailbox: MailboxId, lsn: Lsn, effect: &Effect) {
        if let Some(mailbox) = self.mailboxes.get_mut(&mailbox) {
            mailbox.stage(lsn, effect);
        }
    }

    /// Asserts that numbers only ascend, for an effect that this process decided on and is about to
    /// publish. Effects found in the log at a start are not checked.
    pub(crate) fn assert_follows(&self, effect: &Effect) {
        match effect {
            Effect::Message { mailbox, message, .. } => {
                let next = self.mailboxes.get(mailbox).map(|mailbox| mailbox.status.uid_next);
                let (uid, mod_seq) = (message.uid, message.mod_seq);
                assert!(next.is_none_or(|next| next <= uid), "UID {uid} after {next:?}");
                assert!(self.mod_seq <= mod_seq, "{mod_seq} after {}", self.mod_seq);
            }
            Effect::Flags { mod_seq, .. } | Effect::Expunge { mod_seq, .. } => {
                assert!(self.mod_seq <= *mod_seq, "{mod_seq} after {}", self.mod_seq);
            }
            _ => {}
        }
    }

    /// Applies a staged effect whose entry at `lsn` is durable. The wakers of waiting tasks are
    /// moved to `wake`, to be woken when nothing is borrowed.
    pub(crate) fn publish(&mut self, lsn: Lsn, effect: &Effect, wake: &mut Vec<Waker>) {
        self.applied = Lsn(lsn.0 + 1);
        self.staged_holding.publish(lsn);
        self.watchers.take(wake);
        if !(planted(Plant::LoseSubscription) && matches!(effect, Effect::Subscription { .. })) {
            self.dirty = true;
        }
        self.unwritten.get_or_insert(lsn);
        if self.journal.is_some() {
            self.note(lsn, effect);
        }
        if Namespace::concerns(effect) {
            self.publish_names(effect);
        }
        match effect {
            Effect::Account { mailboxes, .. } => {
                mailboxes.iter().for_each(|mailbox| self.publish_mailbox(mailbox.id));
            }
            Effect::CreateMailbox { mailbox, .. } => self.publish_mailbox(mailbox.id),
            Effect::DeleteMailbox { mailbox, .. } => {
                if let Some(gone) = self.mailboxes.remove(mailbox) {
                    self.holding_changed(&gone.status, &MailboxStatus::default());
                    gone.watchers.take(wake);
                }
                self.properties.publish_deletion(*mailbox);
            }
            Effect::Message { mailbox, message, .. } => {
                self.mod_seq = self.mod_seq.max(message.mod_seq);
                self.publish_in(*mailbox, lsn, effect, wake);
            }
            Effect::Flags { mailbox, mod_seq, .. } | Effect::Expunge { mailbox, mod_seq, .. } => {
                self.mod_seq = self.mod_seq.max(*mod_seq);
                self.publish_in(*mailbox, lsn, effect, wake);
            }
            Effect::Keyword { mailbox, .. } | Effect::Annotations { mailbox, .. } => {
                self.publish_in(*mailbox, lsn, effect, wake);
            }
            Effect::Property { key, value, .. } => {
                self.properties.publish(lsn, key, value.as_ref());
                // Sessions that have the mailbox open may have lost it, or see `\Seen` otherwise.
                if matches!(key.0, PropertyKind::Acl | PropertyKind::Seen)
                    && let Some(mailbox) = self.mailboxes.get_mut(&key.1)
                {
                    mailbox.access_changes += 1;
                    mailbox.watchers.take(wake);
                }
            }
            _ => {}
        }
    }

    /// The tasks that wait for changes of a mailbox, or of any kind; `None` if the mailbox is gone.
    pub(crate) fn watchers(&self, mailbox: Option<MailboxId>) -> Option<&Watchers> {
        match mailbox {
            None => Some(&self.watchers),
            Some(id) => self.mailboxes.get(&id).map(|mailbox| &mailbox.watchers),
        }
    }

    fn publish_names(&mut self, effect: &Effect) {
        self.pending_renames = self.pending_renames.saturating_sub(1);
        if self.pending_renames == 0 {
            // Nothing else is pending: both are equal again, and share memory.
            self.names = self.pending_names.clone();
        } else {
            Rc::make_mut(&mut self.names).apply(effect);
        }
    }

    fn publish_mailbox(&mut self, id: MailboxId) {
        if let Some(mailbox) = self.mailboxes.get_mut(&id) {
            mailbox.live = true;
        }
    }

    fn publish_in(&mut self, id: MailboxId, lsn: Lsn, effect: &Effect, wake: &mut Vec<Waker>) {
        if let Some(mailbox) = self.mailboxes.get_mut(&id) {
            let before = mailbox.status;
            mailbox.publish(lsn, effect);
            if let Effect::Expunge { .. } = effect {
                mailbox.trim_tombstones(self.tombstone_limits);
            }
            mailbox.watchers.take(wake);
            let after = mailbox.status;
            self.holding_changed(&before, &after);
            if let Some(journal) = &mut self.journal
                && before.unseen != after.unseen
            {
                journal.push(lsn, AccountChange::Messages(id, MessageChange::Unseen));
            }
        }
    }

    /// Adds what `effect` is about to change to the journal.
    fn note(&mut self, lsn: Lsn, effect: &Effect) {
        let name_of = |id| self.names.info(id).map(|info| info.name);
        let access_to = |id| {
            let key = (PropertyKind::Acl, id, ACCESS_LIST.to_vec());
            self.properties.published().get(&key).map(|list| list.as_slice().into())
        };
        let change = match effect {
            Effect::Message { mailbox, .. } => {
                AccountChange::Messages(*mailbox, MessageChange::Added)
            }
            Effect::Expunge { mailbox, .. } => {
                AccountChange::Messages(*mailbox, MessageChange::Expunged)
            }
            Effect::Flags { mailbox, .. } => {
                AccountChange::Messages(*mailbox, MessageChange::Flags)
            }
            Effect::CreateMailbox { mailbox, .. } => {
                AccountChange::Created { mailbox: mailbox.id, name: mailbox.name.clone() }
            }
            &Effect::DeleteMailbox { mailbox, .. } => match name_of(mailbox) {
                Some(name) => AccountChange::Deleted { mailbox, name, access: access_to(mailbox) },
                None => return,
            },
            &Effect::RenameMailbox { mailbox, name: ref to, .. } => match name_of(mailbox) {
                Some(from) => {
                    let (to, access) = (to.clone(), access_to(mailbox));
                    AccountChange::Renamed { mailbox, from, to, access, entry: lsn }
                }
                None => return,
            },
            Effect::Subscription { name, .. } => AccountChange::Subscription(name.clone()),
            Effect::Property { key, value, .. } if is_access_list(key) => match name_of(key.1) {
                Some(name) => {
                    let after = value.as_ref().map(|list| list.as_slice().into());
                    let (mailbox, before) = (key.1, access_to(key.1));
                    AccountChange::Access { mailbox, name, before, after }
                }
                None => return,
            },
            Effect::Property { key: (PropertyKind::Metadata, mailbox, key), .. } => {
                AccountChange::Annotation(*mailbox, key.clone())
            }
            _ => return,
        };
        if let Some(journal) = &mut self.journal {
            journal.push(lsn, change);
        }
    }

    fn holding_changed(&self, before: &MailboxStatus, after: &MailboxStatus) {
        self.holding.set(self.holding.get().map(|holding| holding.changed(before, after)));
    }

    /// Refuses changes that would exceed the account's quota, once all that is staged is durable.
    pub(crate) fn check_holding(
        &self,
        messages: u64,
        octets: u64,
        limits: HoldingLimits,
    ) -> Result<(), StoreError> {
        self.staged_holding.on(self.holding()).check(messages, octets, limits)
    }

    /// The messages published.
    pub(crate) fn holding(&self) -> Holding {
        let sum = || Holding::of(self.mailboxes.values().map(|mailbox| &mailbox.status));
        let holding = self.holding.get().unwrap_or_else(sum);
        if SELF_CHECKS {
            let counted = sum();
            self_check(holding == counted, || {
                format!("account {} holds {holding:?}, counted {counted:?}", self.id.0)
            });
        }
        self.holding.set(Some(holding));
        holding
    }

    /// Applies the effects found in the log at start that the page lacks. The tables of mailboxes
    /// with flag changes or expunges among them must be loaded.
    pub(crate) fn replay(&mut self, effects: &[(Lsn, Effect)]) {
        let applied = self.applied;
        for (lsn, effect) in effects.iter().filter(|(lsn, _)| *lsn >= applied) {
            match effect {
                Effect::RenameMailbox { .. } if planted(Plant::LoseRename) => continue,
                Effect::Expunge { .. } if planted(Plant::ResurrectExpunged) => continue,
                _ => {}
            }
            self.stage(*lsn, effect);
            self.publish(*lsn, effect, &mut Vec::new());
        }
    }

    /// Takes over from `old`, the same published state before the log was reopened, the state that
    /// is not in the log: claims on `\Recent`, watchers, and who follows.
    pub(crate) fn succeed(&mut self, old: &AccountState, wake: &mut Vec<Waker>) {
        old.watchers.take(wake);
        // What the log had beyond the old state was not noted.
        let journal = old.journal.as_ref().map(|journal| journal.begin_again(self.applied));
        self.journal = journal.map(Box::new);
        for (id, mailbox) in &old.mailboxes {
            mailbox.watchers.take(wake);
            let Some(new) = self.mailboxes.get_mut(id) else { continue };
            if new.recent_from < mailbox.recent_from {
                (new.recent_from, new.status.recent) = (mailbox.recent_from, mailbox.status.recent);
                self.dirty = true;
            }
            if let (Some(new), Some(before)) = (&mut new.loaded, &mailbox.loaded) {
                // No number that a session has seen may get another meaning.
                Arc::make_mut(new).generation = before.generation + 1;
            }
        }
    }

    /// Continues with numbers that cannot have been used, whatever was lost: UIDs, mod-sequences,
    /// mailbox ids and UIDVALIDITY. Mailboxes forget their expunges: the list may be incomplete.
    pub(crate) fn skip_numbers(&mut self) {
        let last = self.mod_seq.max(self.pending_mod_seq);
        let mod_seq = ModSeq(last.0.saturating_add(MOD_SEQS_SKIPPED));
        (self.mod_seq, self.pending_mod_seq) = (mod_seq, mod_seq);
        for mailbox in self.mailboxes.values_mut() {
            mailbox.skip_numbers(UIDS_SKIPPED, mod_seq);
        }
        self.skip_mailbox_numbers();
    }

    /// The part of [`AccountState::skip_numbers`] that must come before any mailbox is recreated.
    pub(crate) fn skip_mailbox_numbers(&mut self) {
        let names = Rc::make_mut(&mut self.names);
        names.next_mailbox = names.next_mailbox.saturating_add(MAILBOXES_SKIPPED);
        names.next_uid_validity = names.next_uid_validity.saturating_add(MAILBOXES_SKIPPED);
        self.pending_names = self.names.clone();
        self.dirty = true;
    }

    /// Bytes of memory, estimated.
    pub(crate) fn memory(&self) -> usize {
        /// A mailbox's name, its entries in two maps, its node in the account's map.
        const MAILBOX_NAMES: usize = 200;
        let mailboxes: usize =
            self.mailboxes.values().map(|mailbox| mailbox.memory() + MAILBOX_NAMES).sum();
        let subscriptions: usize = self.names.subscriptions.iter().map(|s| s.len() + 40).sum();
        let journal = self.journal.as_ref().map_or(0, |journal| journal.memory());
        size_of::<AccountCell>() + mailboxes + subscriptions + self.properties.memory() + journal
    }
}
