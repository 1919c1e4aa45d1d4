//! A partition: the accounts of one log, and the way every change takes through it.
//!
//! Services call [`Partition`] and the handles it gives out; the log below knows only entries. A
//! change is *decided* on pending state, *appended* as one entry, *staged* in pending state, and
//! *published* when the log says that the entry is durable; only then does its caller hear of it.
//! From deciding to staging nothing awaits, so a decision is never out of date; nothing is locked
//! while the log syncs, so the changes of all sessions share its syncs.
//!
//! Shard-local. Invariants:
//! - Effects are published in the order of their LSNs, and never before they are durable.
//! - After a failed write or sync nothing more is published or accepted.
//! - No `RefCell` is borrowed across an await or while a waker runs.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashSet;
use smallvec::SmallVec;

use super::{
    account::{namespace::first_mailboxes, state::AccountCell},
    accounts::{Accounts, Known},
    admission::{self, Admission, DiskLimits, PartitionTrouble},
    bodies::{
        Bodies,
        write::{BodyWriter, StagedBody},
    },
    bulk::Bulk,
    checkpoint,
    compaction::Compactions,
    damage::{Damage, Damages},
    error::StoreError,
    format::effect::{BODY_HERE, Effect, PropertyKind, encode_effects},
    handle::Account,
    load::{Loaded, load, load_spool},
    log::{EntryHeader, EntryKind, Log, LogOptions, Recovered, RecoveryReport, Replay, entry_len},
    message::{Message, MessageBody},
    options::{StoreOptions, StoreProbe},
    reopen,
    signal::Signal,
    standing::{Standing, id_of_one},
};
use crate::{
    model::{
        AccountId, FlagSet, Flags, KeywordSet, Lsn, MailboxId, PartitionId, Timestamp, Uid,
        UidValidity,
    },
    plant::{Plant, planted},
    runtime::{
        device::Device,
        executor::{Executor, Priority},
    },
};

/// Messages one transaction may put into mailboxes: its entry stays below the log's limit.
pub(super) const TRANSACTION_MESSAGES_MAX: usize = 100_000;
/// Messages in the spool: each costs memory, and a task that tries again.
pub(super) const SPOOLED_MAX: usize = 10_000;
/// Bytes of a spooled payload.
const SPOOL_PAYLOAD_MAX: usize = 1 << 20;

/// A single-writer, log-structured store in a folder of its own. Cheap to clone; shard-local.
#[derive(Clone)]
pub struct Partition {
    pub(super) inner: Rc<Inner>,
}

#[derive(Clone, Debug)]
pub struct Spooled {
    pub lsn: Lsn,
    pub payload: Bytes,
    pub body: MessageBody,
}

#[derive(Clone, Debug)]
pub struct DeliveryTarget {
    pub account: AccountId,
    /// `INBOX` or a path as in [`super::MailboxInfo::name`]; absent folders fall back to INBOX.
    pub mailbox: Option<String>,
    pub flags: Flags,
    /// Keyword names to set, e.g. `$Junk`.
    pub keywords: Vec<String>,
    pub internal_date: Timestamp,
}

/// What became of a delivery to several accounts.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// Where it lies now. Accounts that had it already are neither here nor there.
    pub delivered: Vec<Delivered>,
    /// Accounts that could not take it; nothing of it is in them.
    pub failed: Vec<(AccountId, StoreError)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivered {
    pub account: AccountId,
    pub mailbox: MailboxId,
    pub uid_validity: UidValidity,
    pub uid: Uid,
}

/// An effect and the account it changes, pinned until published; `None` for the partition itself.
pub(super) struct Change {
    pub cell: Option<Rc<AccountCell>>,
    pub effect: Effect,
}

/// The changes of one entry. Nearly always one.
pub(super) type Changes = SmallVec<[Change; 1]>;

/// What the clones of a [`Partition`] share.
pub(super) struct Inner {
    pub options: StoreOptions,
    pub executor: Rc<dyn Executor>,
    pub admission: Rc<Admission>,
    pub log: Log,
    pub accounts: Rc<Accounts>,
    pub standing: RefCell<Standing>,
    /// Entries appended and not yet durable, in order.
    staged: RefCell<VecDeque<(Lsn, Changes)>>,
    pub bodies: Rc<Bodies>,
    pub bulk: Bulk,
    pub checkpoints: checkpoint::Schedule,
    pub compactions: Compactions,
    pub damages: Rc<Damages>,
    /// Bytes of the last root.
    pub root_len: Cell<u32>,
    /// Set when the log failed; the task that opens it again waits for it.
    pub failed: Rc<Signal>,
    /// Encoding buffer, used again and again.
    scratch: RefCell<Vec<u8>>,
    messages_stored: Cell<u64>,
}

impl Partition {
    /// Opens or creates the partition on `device`; replays the log after the last checkpoint.
    pub async fn open(
        device: Rc<dyn Device>,
        executor: Rc<dyn Executor>,
        options: StoreOptions,
    ) -> Result<(Partition, RecoveryReport), StoreError> {
        let log_options = LogOptions {
            partition: options.partition,
            segment_size: options.segment_size,
            write_buffer: options.write_buffer,
        };
        let recovered = Log::recover(device.clone(), executor.clone(), log_options).await?;
        let checkpoint = recovered.checkpoint();
        let begin =
            async |recovered: Recovered, replay: &mut Replay<'_>| recovered.replay(replay).await;
        let Loaded { log, mut report, directory, root, accounts, effects } =
            load(recovered, begin).await?;
        if let Some(checkpoint) = checkpoint.filter(|_| !report.rebuilt) {
            log.adopt_estimates(&root.segments, checkpoint.root);
        }
        let mut standing = Standing::from_root(&root);
        load_spool(&log, &root, &mut standing, &mut report).await?;
        standing.replay(&effects);

        let checkpoint_wanted: Rc<Signal> = Rc::default();
        let limits = DiskLimits {
            free_space_min: options.free_space_min,
            reserve: options.reserve,
            timeout: options.disk_timeout,
        };
        let admission = Admission::new(log.clone(), device, executor.clone(), limits);
        let admission = Rc::new(admission);
        let damages: Rc<Damages> = Rc::default();
        let bodies = Rc::new(Bodies::new(
            log.clone(),
            executor.clone(),
            admission.clone(),
            damages.clone(),
            options.compression,
        ));
        let known = Known { directory, replayed: accounts, lost: root.lost.max(report.lost) };
        let accounts = Rc::new(Accounts::new(
            log.clone(),
            executor.clone(),
            damages.clone(),
            checkpoint_wanted.clone(),
            &options,
            known,
        ));
        let inner = Rc::new(Inner {
            executor,
            admission,
            accounts,
            standing: RefCell::new(standing),
            staged: RefCell::default(),
            bodies,
            bulk: Bulk::default(),
            checkpoints: checkpoint::Schedule::new(checkpoint_wanted, &log),
            compactions: Compactions::default(),
            damages,
            root_len: Cell::new(0),
            failed: Rc::default(),
            scratch: RefCell::default(),
            messages_stored: Cell::new(0),
            options,
            log,
        });
        let weak = Rc::downgrade(&inner);
        inner.log.on_durable(Rc::new(move |outcome| {
            if let Some(inner) = weak.upgrade() {
                inner.settle(outcome);
            }
        }));
        let task = checkpoint::run(Rc::downgrade(&inner), inner.checkpoints.wanted.clone());
        inner.executor.spawn(Priority::Background, Box::pin(task));
        inner.damages.keep_quarantined(&root.quarantined);
        inner.damages.note_report(&report);
        // Told by the report.
        inner.damages.news();
        inner.start_compaction_task();
        let task = reopen::run(Rc::downgrade(&inner), inner.failed.clone());
        inner.executor.spawn(Priority::Background, Box::pin(task));
        let stopped = inner.checkpoints.stopped.clone();
        let task = admission::run(Rc::downgrade(&inner.admission), stopped);
        inner.executor.spawn(Priority::Background, Box::pin(task));
        inner.schedule_checkpoint();
        if report.rebuilt || report.lost > Lsn(0) {
            inner.checkpoints.wanted.set();
        }
        Ok((Partition { inner }, report))
    }

    pub fn id(&self) -> PartitionId {
        self.inner.options.partition
    }

    /// How long the device may take to answer.
    pub fn disk_timeout(&self) -> Duration {
        self.inner.options.disk_timeout
    }

    /// Starts taking in a message body of unknown size.
    pub fn stage(&self) -> BodyWriter {
        BodyWriter::new(self.inner.bodies.clone())
    }

    /// [`Partition::deliver_each`] for who expects it to fail for none: an account that cannot take it
    /// is an error then, though others have it.
    pub async fn deliver(
        &self,
        body: StagedBody,
        targets: Vec<DeliveryTarget>,
        delivery_id: Option<u128>,
    ) -> Result<Vec<Delivered>, StoreError> {
        let id = delivery_id.map(|number| DeliveryId { number, repetition: false });
        let Deliveries { delivered, failed } = self.deliver_each(body, targets, id).await?;
        failed.into_iter().next().map_or(Ok(delivered), |(_, error)| Err(error))
    }

    /// Puts one staged body into several mailboxes by one commit entry, durable when this returns. An
    /// account that cannot be read, or takes no more, fails by itself; the others get it all or none.
    /// `delivery_id`, when given, makes a repetition a no-op for the accounts that have it.
    pub async fn deliver_each(
        &self,
        mut body: StagedBody,
        targets: Vec<DeliveryTarget>,
        delivery_id: Option<DeliveryId>,
    ) -> Result<Deliveries, StoreError> {
        if targets.len() > TRANSACTION_MESSAGES_MAX {
            return Err(StoreError::Limit("recipients of a delivery"));
        }
        let inner = &self.inner;
        inner.check_owner(&body)?;
        inner.admission.admit()?;
        let mut failed = Vec::new();
        let mut wanted = Vec::with_capacity(targets.len());
        for target in targets {
            match inner.accounts.load(target.account).await {
                Ok(cell) => wanted.push((cell, target)),
                Err(error) => failed.push((target.account, error)),
            }
        }
        inner.log.room().await?;

        // From here to the commit nothing awaits.
        let id = delivery_id.filter(|_| !planted(Plant::IgnoreDeliveryId));
        let repeated = match id {
            Some(id) => inner.leave_out_repeated(id.number, &mut wanted, &mut failed)?,
            None => None,
        };
        let now = inner.executor.now();
        let mut delivered = Vec::with_capacity(wanted.len());
        let mut changes = Changes::new();
        for (cell, target) in wanted {
            match inner.plan_delivery(cell, &target, body.size(), now) {
                Ok((change, place)) => {
                    changes.push(change);
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
            let lsn = inner.commit(changes, Some(&body))?;
            body.logged();
            Some(lsn)
        };
        if let Some(lsn) = lsn {
            inner.acknowledged(lsn).await?;
        }
        Ok(Deliveries { delivered, failed })
    }

    /// Whether each of `accounts` could take one more message of `octets`.
    ///
    /// # Errors
    /// `OverQuota` if one could not, whatever is wrong with others; else why one cannot be read.
    pub async fn has_room(&self, accounts: &[AccountId], octets: u64) -> Result<(), StoreError> {
        let mut unreadable = None;
        for account in accounts {
            match self.inner.accounts.load(*account).await {
                Ok(cell) => {
                    let state = cell.state.borrow();
                    state.check_holding(1, octets, self.inner.options.holding)?;
                }
                Err(error) => unreadable = Some(error),
            }
        }
        unreadable.map_or(Ok(()), Err)
    }

    /// Families (see `standing`) of the deliveries that a repetition would be known of.
    pub fn delivery_families(&self) -> HashSet<u64> {
        self.inner.standing.borrow().families()
    }

    /// No repetition of these comes any more.
    pub fn forget_deliveries(&self, families: &HashSet<u64>) {
        self.inner.standing.borrow_mut().forget(families);
    }

    /// It is time to find out which deliveries can be forgotten.
    pub fn deliveries_crowded(&self) -> bool {
        let known = self.inner.standing.borrow().deliveries_known();
        known * 2 >= self.inner.options.deliveries_known
    }

    /// As [`Account::read_body`], of a body in no account.
    pub async fn read_body(
        &self,
        body: &MessageBody,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        self.inner.bodies.read_body(body, offset, len).await
    }

    /// Loads an account, creating it with an empty INBOX at first use. The handle pins its state
    /// in memory until dropped.
    pub async fn account(&self, account: AccountId) -> Result<Account, StoreError> {
        let cell = self.inner.accounts.load(account).await?;
        self.inner.ensure_exists(&cell)?;
        let created = {
            let state = cell.state.borrow();
            state.staged.filter(|_| !state.names.contains(MailboxId::INBOX))
        };
        if let Some(lsn) = created {
            self.inner.log.durable(lsn).await?;
        }
        Ok(Account { inner: self.inner.clone(), cell })
    }

    /// Spool: keeps `payload` (opaque to the store) durably until `unspool`. For mail that waits.
    pub async fn spool(&self, body: StagedBody, payload: Bytes) -> Result<Lsn, StoreError> {
        if payload.len() > SPOOL_PAYLOAD_MAX {
            return Err(StoreError::Limit("bytes of a spooled payload"));
        }
        self.inner.check_owner(&body)?;
        self.inner.admission.admit()?;
        // A start reads the entries of the whole spool: keep bodies out of them.
        let body = body.into_chunks().await?;
        self.inner.log.room().await?;
        if self.inner.standing.borrow().spool.len() >= SPOOLED_MAX {
            return Err(StoreError::Limit("spooled messages"));
        }
        let place = MessageBody { lsn: BODY_HERE, size: body.size(), entry_len: 0 };
        let effect = Effect::Spool { payload, body: place };
        let lsn = self.inner.commit_one(None, effect, Some(&body))?;
        self.inner.acknowledged(lsn).await?;
        Ok(lsn)
    }

    /// Gives a spooled message another payload, by one entry; its body stays where it is.
    pub async fn respool(&self, spooled: &Spooled, payload: Bytes) -> Result<Lsn, StoreError> {
        if payload.len() > SPOOL_PAYLOAD_MAX {
            return Err(StoreError::Limit("bytes of a spooled payload"));
        }
        let body = self.inner.bodies.stage_again(&spooled.body).await?;
        self.inner.log.room().await?;
        let place = MessageBody { lsn: BODY_HERE, size: body.size(), entry_len: 0 };
        let spool = Effect::Spool { payload, body: place };
        let unspool = Effect::Unspool { lsn: spooled.lsn };
        let changes = [spool, unspool].map(|effect| Change { cell: None, effect });
        let lsn = self.inner.commit(changes.into_iter().collect(), Some(&body))?;
        self.inner.acknowledged(lsn).await?;
        Ok(lsn)
    }

    /// Published spooled messages, oldest first.
    pub fn spooled(&self) -> Vec<Spooled> {
        self.inner.standing.borrow().spool.values().cloned().collect()
    }

    pub async fn unspool(&self, lsn: Lsn) -> Result<(), StoreError> {
        self.inner.log.room().await?;
        let lsn = self.inner.commit_one(None, Effect::Unspool { lsn }, None)?;
        self.inner.acknowledged(lsn).await
    }

    /// Keeps checkpoints and compaction from writing: for who only looks.
    pub fn keep_still(&self) {
        self.inner.checkpoints.stop();
        self.inner.compactions.stop();
    }

    /// Damage found since the last call, other than what the start reported.
    pub fn damage_news(&self) -> Vec<Damage> {
        self.inner.damages.news()
    }

    /// Whether a delivery would be refused now, so that it can be refused before its octets come.
    ///
    /// # Errors
    /// The reason: `Full`, `NotAnswering`, or what the log failed with.
    pub fn admits(&self) -> Result<(), StoreError> {
        self.inner.admission.admit()
    }

    /// Why new mail is refused, `None` while it is not.
    pub fn refusing(&self) -> Option<PartitionTrouble> {
        self.inner.admission.refusing()
    }

    /// Free space at the last look, bytes; `None` if the device does not know.
    pub fn free_space(&self) -> Option<u64> {
        self.inner.admission.free_space()
    }

    /// `None` while healthy, else why writes are refused.
    pub fn trouble(&self) -> Option<StoreError> {
        self.inner.log.trouble()
    }

    pub fn probe(&self) -> StoreProbe {
        let log = self.inner.log.probe();
        let (segments, segment_bytes) = self.inner.log.disk_usage();
        let compaction = self.inner.compactions.probe();
        StoreProbe {
            syncs: log.syncs,
            batches: log.batches,
            entries: log.entries,
            bytes_written: log.bytes_written,
            messages_stored: self.inner.messages_stored.get(),
            body_bytes: self.inner.bodies.counters.raw.get(),
            body_bytes_stored: self.inner.bodies.counters.stored.get(),
            accounts_in_memory: self.inner.accounts.in_memory() as u64,
            checkpoints: log.checkpoints,
            reopened: log.reopened,
            segments: segments as u64,
            segment_bytes,
            garbage_bytes: self.inner.garbage_bytes(),
            compactions: compaction.runs,
            compacted_bytes: compaction.rewritten,
            segments_deleted: compaction.deleted,
            segments_quarantined: self.inner.damages.quarantined().len() as u64,
            spooled: self.inner.standing.borrow().spool.len() as u64,
        }
    }

    /// Writes a checkpoint now; `close` and the background task do so by themselves.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        self.inner.checkpoint().await
    }

    /// Writes a checkpoint and stops the writer; for a clean shutdown.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.inner.compactions.stop();
        self.inner.compactions.idle().await;
        let checkpoint = self.inner.checkpoint().await;
        self.inner.checkpoints.stop();
        self.inner.log.close().await.and(checkpoint)
    }
}

/// By what a delivery is known that comes again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeliveryId {
    pub number: u128,
    /// It comes again, maybe for some of its accounts only.
    pub repetition: bool,
}

/// What stands for a delivery in the log: itself, if all its accounts have it then. A repetition does
/// not know all of them: who is left out of it may still be without.
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

/// Kind of the entry that holds just this effect.
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
        Effect::Property { key: (PropertyKind::Acl, ..), .. } => EntryKind::Acl,
        Effect::Property { key: (PropertyKind::Quota, ..), .. } => EntryKind::Quota,
        Effect::Property { key: (PropertyKind::Metadata, ..), .. } => EntryKind::Metadata,
        Effect::Delivery { .. } => EntryKind::Transaction,
        Effect::Spool { .. } => EntryKind::Spool,
        Effect::Unspool { .. } => EntryKind::Unspool,
        Effect::Intent { .. } | Effect::IntentDone { .. } => EntryKind::Intent,
    }
}

impl Inner {
    /// Refuses a body staged on another partition, whose chunks this log does not have.
    pub(super) fn check_owner(&self, body: &StagedBody) -> Result<(), StoreError> {
        match body.belongs_to(&self.bodies) {
            true => Ok(()),
            false => Err(StoreError::NotPermitted("body staged on another partition")),
        }
    }

    /// Appends the entry that creates the account, if nothing is known of it. Its own entry: an
    /// account without the message that called it into being does no harm.
    pub(super) fn ensure_exists(&self, cell: &Rc<AccountCell>) -> Result<(), StoreError> {
        let account = {
            let state = cell.state.borrow();
            if state.exists() {
                return Ok(());
            }
            state.id
        };
        let seconds = self.executor.now().unix_seconds().clamp(1, i64::from(u32::MAX / 2));
        let mailboxes =
            first_mailboxes(UidValidity(seconds as u32), &self.options.default_mailboxes);
        self.commit_one(Some(cell), Effect::Account { account, mailboxes }, None)?;
        Ok(())
    }

    /// Takes the accounts that have the delivery `id` already out of both lists; the last entry that
    /// gave it to one.
    fn leave_out_repeated(
        &self,
        id: u128,
        wanted: &mut Vec<(Rc<AccountCell>, DeliveryTarget)>,
        failed: &mut Vec<(AccountId, StoreError)>,
    ) -> Result<Option<Lsn>, StoreError> {
        let standing = self.standing.borrow();
        let mut last = None;
        let mut is_new = |account: AccountId| {
            let known = standing.delivery(id, account);
            last = last.max(known);
            known.is_none()
        };
        wanted.retain(|(_, target)| is_new(target.account));
        failed.retain(|(account, _)| is_new(*account));
        let full = standing.deliveries_known() >= self.options.deliveries_known;
        if full && !wanted.is_empty() { Err(StoreError::Crowded) } else { Ok(last) }
    }

    /// Decides where a delivery goes and takes its UID. Does not await.
    fn plan_delivery(
        &self,
        cell: Rc<AccountCell>,
        target: &DeliveryTarget,
        size: u64,
        now: Timestamp,
    ) -> Result<(Change, Delivered), StoreError> {
        self.ensure_exists(&cell)?;
        let mailbox = {
            let state = cell.state.borrow();
            let named = target.mailbox.as_ref().and_then(|name| state.pending_names.find(name));
            named.unwrap_or(MailboxId::INBOX)
        };
        self.plan_message(cell, mailbox, target, size, now)
    }

    pub(super) fn plan_message(
        &self,
        cell: Rc<AccountCell>,
        mailbox: MailboxId,
        target: &DeliveryTarget,
        size: u64,
        now: Timestamp,
    ) -> Result<(Change, Delivered), StoreError> {
        let keywords = self.define_keywords(&cell, mailbox, &target.keywords)?;
        let mut state = cell.state.borrow_mut();
        let state = &mut *state;
        let account = state.id;
        state.check_holding(1, size, self.options.holding)?;
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

    /// The bits of keyword `names` in the mailbox's pending table, after appending an entry that
    /// adds those it lacks. Its own entry: a keyword that nothing uses does no harm.
    pub(super) fn define_keywords(
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

    /// [`Inner::commit`] of a single effect.
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
    /// caller awaits [`Inner::acknowledged`] before it speaks of them.
    pub(super) fn commit(
        &self,
        mut changes: Changes,
        body: Option<&StagedBody>,
    ) -> Result<Lsn, StoreError> {
        let first = &changes[0].effect;
        let (mailbox, uid) = first.place();
        let kind = if changes.len() == 1 { entry_kind(first) } else { EntryKind::Transaction };
        let account = first.account().unwrap_or_default();
        let header = EntryHeader { kind, account, mailbox, uid };

        if let Some(body) = body {
            body.check_chunks(&self.log)?;
        }
        for Change { cell, effect } in &changes {
            cell.as_ref().map_or(Ok(()), |cell| cell.state.borrow().check_change(effect))?;
        }
        let head = &mut *self.scratch.borrow_mut();
        head.clear();
        encode_effects(changes.iter().map(|change| &change.effect), head);
        let (summary, inline) = match body {
            Some(body) => {
                body.encode_head(head);
                (body.summary(), body.inline())
            }
            None => (&[][..], &[][..]),
        };
        let lsn = self.log.append(header, &[head, summary, inline])?;
        let here = (lsn, entry_len(head.len() + summary.len() + inline.len()) as u32);
        head.shrink_to(SCRATCH_KEPT);
        self.count_change(u64::from(here.1));
        if body.is_none() && kind.may_stay() {
            // It holds no body: of no use once a checkpoint has its effects.
            self.log.release(lsn, here.1);
        }

        for change in &mut changes {
            resolve_body(&mut change.effect, here);
            match &change.cell {
                Some(cell) => cell.state.borrow_mut().stage(lsn, &change.effect),
                None => self.standing.borrow_mut().stage(lsn, &change.effect),
            }
        }
        self.staged.borrow_mut().push_back((lsn, changes));
        if planted(Plant::ShowEarly) {
            self.publish_below(Lsn(lsn.0 + 1));
        }
        Ok(lsn)
    }

    /// Resolves when the entry at `lsn` is durable and its effects are published.
    pub(super) async fn acknowledged(&self, lsn: Lsn) -> Result<(), StoreError> {
        if planted(Plant::AcknowledgeEarly) {
            return Ok(());
        }
        self.log.durable(lsn).await
    }

    /// Told by the log after each sync, and once when it fails.
    fn settle(&self, outcome: Result<Lsn, StoreError>) {
        match outcome {
            Ok(durable) => {
                self.publish_below(durable);
                self.schedule_checkpoint();
                self.look_for_garbage();
            }
            // Their outcome is unknown for ever: nobody may see them. The log refuses all further
            // appends, so that nothing decided on them follows, until it is opened again.
            Err(_) => {
                self.staged.borrow_mut().clear();
                self.admission.note_refusal();
                self.failed.set();
            }
        }
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
            self.count_references(lsn, &changes);
            for Change { cell, effect } in &changes {
                match cell {
                    Some(cell) => {
                        cell.state.borrow_mut().publish(lsn, effect, &mut wake);
                        self.accounts.charge(cell, CHANGE_MEMORY);
                    }
                    None => self.standing.borrow_mut().publish(lsn, effect),
                }
                let stored = u64::from(matches!(effect, Effect::Message { .. }));
                self.messages_stored.set(self.messages_stored.get() + stored);
            }
        }
        wake.into_iter().for_each(std::task::Waker::wake);
    }
}

/// What a published change is taken to cost until its account is measured again.
const CHANGE_MEMORY: usize = 2 * size_of::<Message>();
/// A rare huge transaction's buffer is not kept.
const SCRATCH_KEPT: usize = 64 * 1024;

/// Now that the entry's place is known, so is that of the bodies in it.
fn resolve_body(effect: &mut Effect, (lsn, entry_len): (Lsn, u32)) {
    if let Effect::Message { message: Message { body, .. }, .. } | Effect::Spool { body, .. } =
        effect
        && body.lsn == BODY_HERE
    {
        (body.lsn, body.entry_len) = (lsn, entry_len);
    }
}
