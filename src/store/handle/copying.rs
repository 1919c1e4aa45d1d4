//! COPY and MOVE within a partition, from one mailbox to another, of the same account or of two;
//! and RENAME of INBOX. Bodies are shared by reference; no octet is copied.
//!
//! Up to [`COPY_SLICE`] messages are one entry, in a MOVE with their expunge, whether or not that
//! is in another account. More are several entries, so that they do not hold the shard.

use std::rc::Rc;

use super::{
    super::{
        account::mailbox::Mailbox,
        commits::{Change, Changes},
        error::StoreError,
        format::effect::Effect,
        message::Message,
    },
    account::{Account, Renamed, sorted},
};
use crate::{
    model::{FlagMask, FlagSet, KeywordSet, MailboxId, ModSeq, Uid, UidValidity},
    plant::{Plant, planted},
};

/// Messages that a COPY, a MOVE or a RENAME of INBOX puts into a mailbox in one transaction: its
/// entry is published as a whole, which takes about a millisecond.
pub const COPY_SLICE: usize = 1_024;

/// Messages that one COPY or MOVE may name.
pub(super) const COMMAND_MESSAGES_MAX: usize = 100_000;

/// Where the messages of a COPY or MOVE are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    pub uid_validity: UidValidity,
    /// (source, target), ascending.
    pub uids: Vec<(Uid, Uid)>,
}

impl Copied {
    pub(super) fn nothing() -> Copied {
        Copied { uid_validity: UidValidity(0), uids: Vec::new() }
    }
}

/// How messages get from one mailbox into another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Copy,
    Move,
    /// As MOVE, but keeping their save dates.
    Rename,
}

/// Asked in the step that decides on each slice, so that its answer is never out of date: whether
/// the slice may be copied, and which flags are kept.
type May<'a> = &'a mut dyn FnMut() -> Result<FlagMask, StoreError>;

/// What a COPY or MOVE is about.
#[derive(Clone, Copy)]
struct Route<'a> {
    source: (&'a Account, MailboxId),
    target: (&'a Account, MailboxId),
    way: Way,
}

impl Account {
    /// [`Account::copy_from`] within the account, with all flags.
    pub async fn copy(
        &self,
        source: MailboxId,
        messages: &[Message],
        target: MailboxId,
    ) -> Result<Copied, StoreError> {
        self.copy_keeping(source, messages, target, FlagMask::ALL).await
    }

    /// The same; of the flags of each message the copy has those of `kept`.
    pub async fn copy_keeping(
        &self,
        source: MailboxId,
        messages: &[Message],
        target: MailboxId,
        kept: FlagMask,
    ) -> Result<Copied, StoreError> {
        self.copy_from(target, self, source, messages, kept).await
    }

    /// [`Account::move_from`] within the account, with all flags.
    pub async fn move_messages(
        &self,
        source: MailboxId,
        messages: &[Message],
        target: MailboxId,
    ) -> Result<Copied, StoreError> {
        self.move_keeping(source, messages, target, FlagMask::ALL).await
    }

    /// The same; of the flags of each message those of `kept` are moved.
    pub async fn move_keeping(
        &self,
        source: MailboxId,
        messages: &[Message],
        target: MailboxId,
        kept: FlagMask,
    ) -> Result<Copied, StoreError> {
        self.move_from(target, self, source, messages, kept).await
    }

    /// Copies messages of `source`, an account of the same partition, into the mailbox `target` of
    /// this one. Returns (source, target) UIDs in ascending order. Keywords are copied by name;
    /// `\Recent` is set in the target. Messages expunged meanwhile are skipped. Up to
    /// [`COPY_SLICE`] messages are one transaction; of more, a refusal in between removes the
    /// copies made so far, but a crash or a failing disk may leave some of them.
    ///
    /// # Errors
    /// `NotPermitted` if the accounts are in different partitions, `NoSuchMailbox`, `OverQuota`,
    /// `Limit`.
    pub async fn copy_from(
        &self,
        target: MailboxId,
        source: &Account,
        source_mailbox: MailboxId,
        messages: &[Message],
        kept: FlagMask,
    ) -> Result<Copied, StoreError> {
        let mut may = || Ok(kept);
        self.copy_from_if(target, source, source_mailbox, messages, &mut may).await
    }

    /// The same, asking `may` in the step that decides on each [`COPY_SLICE`] messages, and with
    /// the flags that it answers.
    pub async fn copy_from_if(
        &self,
        target: MailboxId,
        source: &Account,
        source_mailbox: MailboxId,
        messages: &[Message],
        may: &mut dyn FnMut() -> Result<FlagMask, StoreError>,
    ) -> Result<Copied, StoreError> {
        let (source, target) = ((source, source_mailbox), (self, target));
        Route { source, target, way: Way::Copy }.take(messages, may).await
    }

    /// COPY and EXPUNGE of the same messages, [`COPY_SLICE`] of them in one transaction: each is
    /// moved or not (RFC 6851 3.3). Otherwise as [`Account::copy_from`].
    ///
    /// # Errors
    /// As there. Messages of earlier transactions are moved.
    pub async fn move_from(
        &self,
        target: MailboxId,
        source: &Account,
        source_mailbox: MailboxId,
        messages: &[Message],
        kept: FlagMask,
    ) -> Result<Copied, StoreError> {
        let mut may = || Ok(kept);
        self.move_from_if(target, source, source_mailbox, messages, &mut may).await
    }

    /// The same, asking `may` as [`Account::copy_from_if`] does.
    pub async fn move_from_if(
        &self,
        target: MailboxId,
        source: &Account,
        source_mailbox: MailboxId,
        messages: &[Message],
        may: &mut dyn FnMut() -> Result<FlagMask, StoreError>,
    ) -> Result<Copied, StoreError> {
        let (source, target) = ((source, source_mailbox), (self, target));
        Route { source, target, way: Way::Move }.take(messages, may).await
    }

    /// One transaction if the messages fit in a slice. Otherwise the new mailbox comes first and
    /// the messages follow: messages that arrive meanwhile stay in INBOX, and so do the remaining
    /// ones after a crash.
    pub(super) async fn rename_inbox<E: From<StoreError>>(
        &self,
        target: &str,
        may: impl FnOnce(Renamed) -> Result<(), E>,
    ) -> Result<(), E> {
        // Before any await: changes that a reopened log took back must not count as done.
        let generation = self.commits.log.generation();
        self.commits.accounts.ensure_table(&self.cell, MailboxId::INBOX).await?;
        self.commits.log.room().await?;
        let (effects, mailbox, whole) = {
            may(Renamed::of(&self.cell.state.borrow(), "INBOX", target))?;
            let is_left = self.is_being_left(MailboxId::INBOX);
            let mut state = self.cell.state.borrow_mut();
            let new = state.pending_names.plan_create(target, None, self.name_limits())?;
            let keywords = state.mailboxes.get(&MailboxId::INBOX).map(Mailbox::pending_keywords);
            let copied = keywords.into_iter().flat_map(|keywords| keywords.iter());
            state.check_names(new.iter().map(|mailbox| &mailbox.name).chain(copied))?;
            let account = state.id;
            let mailbox = new.last().map_or(MailboxId(0), |mailbox| mailbox.id);
            let mut effects = self.creation(&state, new)?;
            let mod_seq = state.allocate_mod_seq();
            let inbox = state.pending_mailbox(MailboxId::INBOX).ok_or(StoreError::NoSuchMailbox)?;
            let keywords = inbox.pending_keywords();
            if !keywords.is_empty() {
                effects.push(Effect::Keyword { account, mailbox, names: keywords.to_vec() });
            }
            let whole = inbox.status.messages as usize <= COPY_SLICE && !is_left;
            let mut moved = Vec::new();
            for (message, pending) in inbox.pending_messages().filter(|_| whole) {
                moved.push(message.uid);
                let uid = Uid(moved.len() as u32);
                let message = Message { uid, mod_seq, flags: pending.flags, ..*message };
                effects.push(Effect::Message { account, mailbox, message });
            }
            if !moved.is_empty() {
                let mailbox = MailboxId::INBOX;
                effects.push(Effect::Expunge { account, mailbox, mod_seq, uids: moved });
            }
            (effects, mailbox, whole)
        };
        self.carry_out(effects).await?;
        if !whole {
            let uids = self.uids_where(MailboxId::INBOX, |_| true).await?;
            let inbox = MailboxId::INBOX;
            let route = Route { source: (self, inbox), target: (self, mailbox), way: Way::Rename };
            route.by_slices(generation, &uids, &mut || Ok(FlagMask::ALL)).await?;
        }
        Ok(())
    }

    /// Those of `uids` that still exist in pending state, ascending by UID.
    pub(super) fn originals(
        &self,
        source: MailboxId,
        uids: &[Uid],
    ) -> Result<Vec<Message>, StoreError> {
        let mut state = self.cell.state.borrow_mut();
        let found = state.pending_mailbox(source).ok_or(StoreError::NoSuchMailbox)?;
        let table = found.loaded.as_ref().map(|loaded| &loaded.table);
        let originals = uids.iter().filter_map(|&uid| {
            let pending = found.pending_state(uid)?;
            let message = table?.by_uid(uid)?;
            Some(Message { flags: pending.flags, mod_seq: pending.mod_seq, ..*message })
        });
        Ok(originals.collect())
    }

    /// The names of the keywords that `messages` of `mailbox` have, with their bits there.
    pub(super) fn keyword_names(
        &self,
        mailbox: MailboxId,
        messages: &[Message],
    ) -> Result<Vec<(usize, String)>, StoreError> {
        let used = messages
            .iter()
            .fold(KeywordSet::default(), |used, message| used.union(message.flags.keywords));
        let mut state = self.cell.state.borrow_mut();
        let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
        let table = found.pending_keywords();
        Ok(used.iter().filter_map(|bit| Some((bit, table.get(bit)?.clone()))).collect())
    }

    /// The bits in `mailbox` for keywords named elsewhere, with their bits there. They are defined
    /// if necessary.
    pub(super) fn keywords_from(
        &self,
        mailbox: MailboxId,
        names: &[(usize, String)],
    ) -> Result<Vec<(usize, KeywordSet)>, StoreError> {
        let define = |(bit, name): &(usize, String)| {
            let name = std::slice::from_ref(name);
            Ok((*bit, self.commits.define_keywords(&self.cell, mailbox, name)?))
        };
        names.iter().map(define).collect()
    }

    /// A later slice of a COPY was refused: the copies are removed again (RFC 3501 6.4.7). Returns
    /// the `error`.
    pub(super) async fn take_back(
        &self,
        error: StoreError,
        target: MailboxId,
        copied: &Copied,
    ) -> StoreError {
        if !copied.uids.is_empty() && self.settled().await.is_ok() {
            let uids = copied.uids.iter().map(|(_, uid)| *uid).collect();
            if let Err(worse) = self.expunge_where(target, uids, |_| true).await {
                return worse;
            }
        }
        error
    }
}

impl Route<'_> {
    fn is_within_account(&self) -> bool {
        Rc::ptr_eq(&self.source.0.cell, &self.target.0.cell)
    }

    /// Whether the target's account holds more afterwards.
    fn adds(&self) -> bool {
        self.way == Way::Copy || !self.is_within_account()
    }

    async fn take(&self, messages: &[Message], may: May<'_>) -> Result<Copied, StoreError> {
        let ((source, source_mailbox), (target, _)) = (self.source, self.target);
        let commits = &target.commits;
        if !Rc::ptr_eq(&source.commits, commits) {
            return Err(StoreError::NotPermitted("accounts of different partitions"));
        }
        if messages.len() > COMMAND_MESSAGES_MAX {
            return Err(StoreError::Limit("messages copied by one command"));
        }
        if self.adds() {
            let octets = messages.iter().map(|message| message.body.size).sum();
            let state = target.cell.state.borrow();
            let limits = commits.options.holding_of(state.id);
            state.check_holding(messages.len() as u64, octets, limits)?;
        }
        let generation = commits.log.generation();
        commits.accounts.ensure_table(&source.cell, source_mailbox).await?;
        let uids = sorted(&messages.iter().map(|message| message.uid).collect::<Vec<_>>());
        self.by_slices(generation, &uids, may).await
    }

    /// `uids` are sorted, and the table of the source is loaded.
    async fn by_slices(
        &self,
        generation: u64,
        uids: &[Uid],
        may: May<'_>,
    ) -> Result<Copied, StoreError> {
        let (source, target) = (self.source.0, self.target.0);
        let mut copied = Copied::nothing();
        for (index, slice) in uids.chunks(COPY_SLICE).enumerate() {
            let staged = match target.room_for_slice(index, slice.len()).await {
                Ok(()) => self.slice(slice, may, &mut copied),
                Err(error) => Err(error),
            };
            if let Err(error) = staged {
                if self.way == Way::Copy {
                    return Err(target.take_back(error, self.target.1, &copied).await);
                }
                // What was moved is seen before the answer.
                return Err(target.settled().await.err().unwrap_or(error));
            }
        }
        // What made a message not to be copied may itself not be durable yet.
        source.settled().await?;
        target.slices_settled(generation).await?;
        Ok(copied)
    }

    /// Decides on a slice and logs it; does not await.
    fn slice(&self, uids: &[Uid], may: May<'_>, copied: &mut Copied) -> Result<(), StoreError> {
        let ((source, source_mailbox), (target, mailbox)) = (self.source, self.target);
        let kept = may()?;
        let mut uids = uids.to_vec();
        if self.way != Way::Copy {
            source.leave_out_departing(source_mailbox, &mut uids);
        }
        let mut originals = source.originals(source_mailbox, &uids)?;
        originals.iter_mut().for_each(|original| original.flags = kept.of(original.flags));
        let names = source.keyword_names(source_mailbox, &originals)?;
        let keywords = target.keywords_from(mailbox, &names)?;
        let now = target.commits.executor.now();
        let mut changes = Changes::with_capacity(originals.len() + 1);
        let mut slice = Vec::with_capacity(originals.len());
        let mod_seq = {
            let mut state = target.cell.state.borrow_mut();
            if self.adds() {
                // Checked again: other sessions may have copied since the command was checked as a
                // whole.
                let octets = originals.iter().map(|original| original.body.size).sum();
                let limits = target.commits.options.holding_of(state.id);
                state.check_holding(originals.len() as u64, octets, limits)?;
            }
            let (account, mod_seq) = (state.id, state.allocate_mod_seq());
            let found = state.pending_mailbox(mailbox).ok_or(StoreError::NoSuchMailbox)?;
            copied.uid_validity = found.status.uid_validity;
            for original in &originals {
                let uid = found.allocate_uid().ok_or(StoreError::Limit("UIDs of a mailbox"))?;
                slice.push((original.uid, uid));
                let flags = FlagSet {
                    system: original.flags.system,
                    keywords: translate(original.flags.keywords, &keywords),
                };
                let save_date = if self.way == Way::Rename { original.save_date } else { now };
                let message = Message { uid, mod_seq, flags, save_date, ..*original };
                changes.push(target.change(Effect::Message { account, mailbox, message }));
            }
            mod_seq
        };
        if self.way != Way::Copy && !slice.is_empty() {
            let uids = slice.iter().map(|(uid, _)| *uid).collect();
            changes.push(self.expunge(uids, mod_seq));
        }
        if changes.is_empty() {
            source.check_real()?;
        }
        target.stage_changes(changes, originals.len())?;
        copied.uids.extend(slice);
        Ok(())
    }

    /// The expunge of a MOVE, whose messages have `mod_seq` in the target.
    fn expunge(&self, uids: Vec<Uid>, mod_seq: ModSeq) -> Change {
        let (source, mailbox) = self.source;
        let mut state = source.cell.state.borrow_mut();
        let mod_seq = if self.is_within_account() { mod_seq } else { state.allocate_mod_seq() };
        source.change(Effect::Expunge { account: state.id, mailbox, mod_seq, uids })
    }
}

/// The target's bits for the keywords a message carries in its source.
pub(super) fn translate(keywords: KeywordSet, between: &[(usize, KeywordSet)]) -> KeywordSet {
    if planted(Plant::MixKeywords) {
        return keywords;
    }
    between
        .iter()
        .filter(|(bit, _)| keywords.contains(*bit))
        .fold(KeywordSet::default(), |set, (_, target)| set.union(*target))
}
