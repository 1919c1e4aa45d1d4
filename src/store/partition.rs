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

use std::{cell::Cell, rc::Rc, time::Duration};

use bytes::Bytes;
use hashbrown::HashSet;

use super::{
    accounts::{Accounts, Known},
    admission::{self, Admission, DiskLimits, PartitionTrouble},
    bodies::{
        Bodies,
        write::{BodyWriter, StagedBody},
    },
    checkpoint,
    commits::{
        Change, Commits,
        standing::{Spooled, Standing},
    },
    compaction::Compactions,
    damage::{Damage, Damages},
    delivery::{Delivered, Deliveries, DeliveryId, DeliveryTarget, deliver_each},
    error::StoreError,
    format::effect::{BODY_HERE, Effect},
    handle::Account,
    load::{Loaded, load, load_spool},
    log::{Log, LogOptions, Recovered, RecoveryReport, Replay},
    message::MessageBody,
    options::{StoreOptions, StoreProbe},
    reopen,
    signal::Signal,
};
use crate::{
    model::{AccountId, Lsn, MailboxId, PartitionId},
    runtime::{
        device::Device,
        executor::{Executor, Priority},
    },
};

/// Messages in the spool: each costs memory, and a task that tries again.
pub(super) const SPOOLED_MAX: usize = 10_000;
/// Bytes of a spooled payload.
const SPOOL_PAYLOAD_MAX: usize = 1 << 20;

/// A single-writer, log-structured store in a folder of its own. Cheap to clone; shard-local.
#[derive(Clone)]
pub struct Partition {
    pub(super) inner: Rc<Inner>,
}

/// What the clones of a [`Partition`] share.
pub(super) struct Inner {
    pub options: Rc<StoreOptions>,
    pub executor: Rc<dyn Executor>,
    pub admission: Rc<Admission>,
    pub log: Log,
    pub accounts: Rc<Accounts>,
    pub commits: Rc<Commits>,
    pub bodies: Rc<Bodies>,
    pub checkpoints: checkpoint::Schedule,
    pub compactions: Compactions,
    pub damages: Rc<Damages>,
    /// Bytes of the last root.
    pub root_len: Cell<u32>,
    /// Set when the log failed; the task that opens it again waits for it.
    pub failed: Rc<Signal>,
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
        let options = Rc::new(options);
        let commits = Rc::new(Commits::new(
            options.clone(),
            executor.clone(),
            log.clone(),
            admission.clone(),
            bodies.clone(),
            accounts.clone(),
            standing,
        ));
        let inner = Rc::new(Inner {
            executor,
            admission,
            accounts,
            commits,
            bodies,
            checkpoints: checkpoint::Schedule::new(checkpoint_wanted, &log),
            compactions: Compactions::default(),
            damages,
            root_len: Cell::new(0),
            failed: Rc::default(),
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
        body: StagedBody,
        targets: Vec<DeliveryTarget>,
        delivery_id: Option<DeliveryId>,
    ) -> Result<Deliveries, StoreError> {
        deliver_each(&self.inner.commits, body, targets, delivery_id).await
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
        self.inner.commits.standing.borrow().families()
    }

    /// No repetition of these comes any more.
    pub fn forget_deliveries(&self, families: &HashSet<u64>) {
        self.inner.commits.standing.borrow_mut().forget(families);
    }

    /// It is time to find out which deliveries can be forgotten.
    pub fn deliveries_crowded(&self) -> bool {
        let known = self.inner.commits.standing.borrow().deliveries_known();
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
        self.inner.commits.ensure_exists(&cell)?;
        let created = {
            let state = cell.state.borrow();
            state.staged.filter(|_| !state.names.contains(MailboxId::INBOX))
        };
        if let Some(lsn) = created {
            self.inner.log.durable(lsn).await?;
        }
        Ok(Account { commits: self.inner.commits.clone(), cell })
    }

    /// Spool: keeps `payload` (opaque to the store) durably until `unspool`. For mail that waits.
    pub async fn spool(&self, body: StagedBody, payload: Bytes) -> Result<Lsn, StoreError> {
        if payload.len() > SPOOL_PAYLOAD_MAX {
            return Err(StoreError::Limit("bytes of a spooled payload"));
        }
        self.inner.commits.check_owner(&body)?;
        self.inner.admission.admit()?;
        // A start reads the entries of the whole spool: keep bodies out of them.
        let body = body.into_chunks().await?;
        self.inner.log.room().await?;
        if self.inner.commits.standing.borrow().spool.len() >= SPOOLED_MAX {
            return Err(StoreError::Limit("spooled messages"));
        }
        let place = MessageBody { lsn: BODY_HERE, size: body.size(), entry_len: 0 };
        let effect = Effect::Spool { payload, body: place };
        let lsn = self.inner.commits.commit_one(None, effect, Some(&body))?;
        self.inner.commits.acknowledged(lsn).await?;
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
        let lsn = self.inner.commits.commit(changes.into_iter().collect(), Some(&body))?;
        self.inner.commits.acknowledged(lsn).await?;
        Ok(lsn)
    }

    /// Published spooled messages, oldest first.
    pub fn spooled(&self) -> Vec<Spooled> {
        self.inner.commits.standing.borrow().spool.values().cloned().collect()
    }

    pub async fn unspool(&self, lsn: Lsn) -> Result<(), StoreError> {
        self.inner.log.room().await?;
        let lsn = self.inner.commits.commit_one(None, Effect::Unspool { lsn }, None)?;
        self.inner.commits.acknowledged(lsn).await
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
            messages_stored: self.inner.commits.messages_stored(),
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
            spooled: self.inner.commits.standing.borrow().spool.len() as u64,
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

impl Inner {
    /// Told by the log after each sync, and once when it fails.
    fn settle(&self, outcome: Result<Lsn, StoreError>) {
        match outcome {
            Ok(durable) => {
                self.commits.settle(durable);
                self.schedule_checkpoint();
                self.look_for_garbage();
            }
            Err(_) => {
                self.commits.give_up_staged();
                self.admission.note_refusal();
                self.failed.set();
            }
        }
    }
}
