//! A partition: the accounts of one log. The entry point of the store, and the place where its
//! rooms are assembled; the work is done in the rooms.
//!
//! Services call [`Partition`] and hold the handles it returns. [`Rooms`] is built from the lowest
//! up, around a log and its contents; lower rooms notify higher ones through callbacks that are
//! connected here. Shard-local.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use hashbrown::HashSet;

use super::{
    accounts::{Accounts, Known},
    admission::{Admission, DiskLimits, PartitionTrouble},
    bodies::{
        Bodies,
        write::{BodyWriter, StagedBody},
    },
    cards::Cards,
    checkpoint::Checkpoints,
    commits::{Commits, feed::Subscription, standing::Standing},
    damage::{Damage, Damages},
    error::StoreError,
    format::effect::{PropertyKind, quota_owner, share_owner},
    handle::{
        account::Account,
        delivery::{Delivered, Deliveries, DeliveryId, DeliveryTarget, deliver_each},
        moves::Moves,
        quota::set_quota,
        shipment::{Shipment, Ticket},
    },
    log::{Log, LogOptions, Recovered, RecoveryReport, Replay},
    message::MessageBody,
    options::StoreOptions,
    probe::StoreProbe,
    repair::{
        load::{Loaded, load},
        reopen::Repair,
        verify::VerifyReport,
    },
    space::compaction::{CompactionReport, Space},
};
use crate::{
    model::{AccountId, Grantees, Lsn, MailboxId, PartitionId, QuotaLimits},
    runtime::{device::Device, executor::Executor, wait::Signal},
};

/// A single-writer, log-structured store in its own folder. Cheap to clone; shard-local.
#[derive(Clone)]
pub struct Partition {
    pub(super) rooms: Rc<Rooms>,
}

/// The shared part of a [`Partition`]'s clones: its rooms.
pub(super) struct Rooms {
    pub options: Rc<StoreOptions>,
    pub log: Log,
    pub damages: Rc<Damages>,
    pub admission: Rc<Admission>,
    pub bodies: Rc<Bodies>,
    pub cards: Rc<Cards>,
    pub accounts: Rc<Accounts>,
    pub commits: Rc<Commits>,
    pub checkpoints: Rc<Checkpoints>,
    pub space: Rc<Space>,
    pub repair: Rc<Repair>,
}

impl Rooms {
    /// Assembles the rooms around `log` and its contents, from the lowest up.
    fn new(
        device: Rc<dyn Device>,
        executor: Rc<dyn Executor>,
        options: StoreOptions,
        log: Log,
        known: Known,
        standing: Standing,
    ) -> Rooms {
        let options = Rc::new(options);
        let damages: Rc<Damages> = Rc::default();
        let limits = DiskLimits {
            free_space_min: options.free_space_min,
            reserve: options.reserve,
            timeout: options.disk_timeout,
        };
        let admission = Admission::new(log.clone(), device, executor.clone(), limits);
        let admission = Rc::new(admission);
        let bodies = Rc::new(Bodies::new(
            log.clone(),
            executor.clone(),
            admission.clone(),
            damages.clone(),
            options.compression,
        ));
        let cards = Cards::new(
            log.clone(),
            executor.clone(),
            bodies.clone(),
            options.card_split,
            options.card_budget,
        );
        let cards = Rc::new(cards);
        let checkpoint_wanted: Rc<Signal> = Rc::default();
        let accounts = Rc::new(Accounts::new(
            log.clone(),
            executor.clone(),
            damages.clone(),
            checkpoint_wanted.clone(),
            &options,
            known,
        ));
        let commits = Rc::new(Commits::new(
            options.clone(),
            executor,
            log.clone(),
            admission.clone(),
            bodies.clone(),
            accounts.clone(),
            standing,
        ));
        let checkpoints =
            Checkpoints::new(commits.clone(), cards.clone(), damages.clone(), checkpoint_wanted);
        let checkpoints = Rc::new(checkpoints);
        let space = Rc::new(Space::new(commits.clone(), checkpoints.clone(), damages.clone()));
        let repair = Repair::new(
            commits.clone(),
            cards.clone(),
            checkpoints.clone(),
            space.clone(),
            damages.clone(),
        );
        Rooms {
            options,
            log,
            damages,
            admission,
            bodies,
            cards,
            accounts,
            commits,
            checkpoints,
            space,
            repair: Rc::new(repair),
        }
    }

    /// Connects lower rooms to higher ones, by weak references.
    fn connect(&self) {
        let (commits, admission) = (Rc::downgrade(&self.commits), Rc::downgrade(&self.admission));
        let (checkpoints, space) = (Rc::downgrade(&self.checkpoints), Rc::downgrade(&self.space));
        let repair = Rc::downgrade(&self.repair);
        self.log.on_durable(Rc::new(move |outcome| {
            let Some(commits) = commits.upgrade() else { return };
            match outcome {
                Ok(durable) => {
                    commits.settle(durable);
                    checkpoints.upgrade().iter().for_each(|it| it.schedule());
                    space.upgrade().iter().for_each(|it| it.look_for_garbage());
                }
                Err(_) => {
                    commits.give_up_staged();
                    admission.upgrade().iter().for_each(|it| it.note_refusal());
                    repair.upgrade().iter().for_each(|it| it.log_failed());
                }
            }
        }));
        let space = Rc::downgrade(&self.space);
        self.admission.on_look(Rc::new(move |short| {
            space.upgrade().is_some_and(|space| space.make_room(short))
        }));
        let space = Rc::downgrade(&self.space);
        self.checkpoints.on_written(Rc::new(move || {
            space.upgrade().iter().for_each(|it| it.schedule());
        }));
    }

    /// Tells all shards what is shared here. Not again when the log is reopened: no published state
    /// changes then.
    async fn load_shares(&self) -> Result<(), StoreError> {
        let StoreOptions { partition, shares, .. } = &*self.options;
        if !shares.keep(*partition) || !self.accounts.has(AccountId::SHARES) {
            shares.load(*partition, std::iter::empty());
            return Ok(());
        }
        let cell = self.accounts.load(AccountId::SHARES).await?;
        let state = cell.state.borrow();
        let known =
            state.properties.published().iter().filter_map(|(key, value)| {
                Some((share_owner(key)?, Grantees::decode(value).ok()?))
            });
        shares.load(*partition, known);
        Ok(())
    }

    /// Tells all shards which limits were set for accounts here.
    async fn load_quotas(&self) -> Result<(), StoreError> {
        let StoreOptions { partition, quotas, .. } = &*self.options;
        if !self.accounts.has(AccountId::SHARES) {
            quotas.load(*partition, std::iter::empty());
            return Ok(());
        }
        let cell = self.accounts.load(AccountId::SHARES).await?;
        let state = cell.state.borrow();
        let set = state.properties.of_kind(PropertyKind::Quota);
        let set = set.filter_map(|(key, it)| Some((quota_owner(key)?, QuotaLimits::decode(it)?)));
        quotas.load(*partition, set);
        Ok(())
    }

    /// Starts the background tasks.
    fn start(&self) {
        self.checkpoints.start();
        self.space.start();
        self.repair.start();
        self.admission.start(self.checkpoints.stopped());
    }
}

impl Drop for Rooms {
    fn drop(&mut self) {
        self.checkpoints.stop();
        self.space.stop();
    }
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
        let (log, contents) = load(recovered, begin).await?;
        let Loaded { report, root, known, standing } = contents.complete(&log).await?;
        if let Some(checkpoint) = checkpoint.filter(|_| !report.rebuilt) {
            log.adopt_estimates(&root.segments, checkpoint.root);
        }
        let rooms = Rooms::new(device, executor, options, log, known, standing);
        rooms.connect();
        rooms.damages.keep_quarantined(&root.quarantined);
        rooms.damages.note_report(&report);
        // Already in the report.
        rooms.damages.news();
        rooms.start();
        rooms.load_shares().await?;
        rooms.load_quotas().await?;
        rooms.checkpoints.schedule();
        if report.rebuilt || report.lost > Lsn(0) {
            rooms.checkpoints.want();
        }
        Ok((Partition { rooms: Rc::new(rooms) }, report))
    }

    pub fn id(&self) -> PartitionId {
        self.rooms.options.partition
    }

    /// How long the device may take to answer.
    pub fn disk_timeout(&self) -> Duration {
        self.rooms.options.disk_timeout
    }

    /// Starts taking in a message body of unknown size.
    pub fn stage(&self) -> BodyWriter {
        BodyWriter::new(self.rooms.bodies.clone())
    }

    /// [`Partition::deliver_each`] for callers that expect no failure: an account that cannot take
    /// it is an error, although others have it.
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

    /// Puts one staged body into several mailboxes with one commit entry, durable when this
    /// returns. An account that cannot be read, or is full, fails by itself; for the others it is
    /// all or none. `delivery_id`, if given, makes a repetition a no-op for the accounts that have
    /// it.
    pub async fn deliver_each(
        &self,
        body: StagedBody,
        targets: Vec<DeliveryTarget>,
        delivery_id: Option<DeliveryId>,
    ) -> Result<Deliveries, StoreError> {
        deliver_each(&self.rooms.commits, body, targets, delivery_id).await
    }

    /// Begins to receive messages from another partition. With a ticket it is a move, from the
    /// account named.
    pub fn receive(&self, ticket: Option<(Ticket, AccountId)>) -> Shipment {
        Shipment::new(self.rooms.commits.clone(), ticket)
    }

    /// The moves to and from other partitions that are not finished.
    pub fn moves(&self) -> Moves {
        Moves::new(self.rooms.commits.clone())
    }

    /// Sets the limits of an account; `None`: it has the default. They hold for what comes from now
    /// on: mail beyond them stays.
    ///
    /// # Errors
    /// `Limit` if too many accounts have limits of their own.
    pub async fn set_quota(
        &self,
        account: AccountId,
        limits: Option<QuotaLimits>,
    ) -> Result<(), StoreError> {
        set_quota(&self.rooms.commits, &self.rooms.accounts, account, limits).await
    }

    /// Whether each of `accounts` could take one more message of `octets`.
    ///
    /// # Errors
    /// `OverQuota` if one could not, even if others have other errors; otherwise why one cannot be
    /// read.
    pub async fn has_room(&self, accounts: &[AccountId], octets: u64) -> Result<(), StoreError> {
        let mut unreadable = None;
        // The queue has a limit of its own.
        for account in accounts.iter().filter(|account| **account != AccountId::QUEUE) {
            match self.rooms.accounts.load(*account).await {
                Ok(cell) => {
                    let state = cell.state.borrow();
                    let limits = self.rooms.options.holding_of(*account);
                    state.check_holding(1, octets, limits)?;
                }
                Err(error) => unreadable = Some(error),
            }
        }
        unreadable.map_or(Ok(()), Err)
    }

    /// Families (see `standing`) of the deliveries whose repetition would be recognized.
    pub fn delivery_families(&self) -> HashSet<u64> {
        self.rooms.commits.standing.borrow().families()
    }

    /// No repetition of these can come any more.
    pub fn forget_deliveries(&self, families: &HashSet<u64>) {
        self.rooms.commits.standing.borrow_mut().forget(families);
    }

    /// Whether it is time to find out which deliveries can be forgotten.
    pub fn deliveries_crowded(&self) -> bool {
        let known = self.rooms.commits.standing.borrow().deliveries_known();
        known * 2 >= self.rooms.options.deliveries_known
    }

    /// As [`Account::read_body`], for a body in no account.
    pub async fn read_body(
        &self,
        body: &MessageBody,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        self.rooms.bodies.read_body(body, offset, len).await
    }

    /// Loads an account, creating it with an empty INBOX at first use. The handle pins its state
    /// in memory until dropped.
    pub async fn account(&self, account: AccountId) -> Result<Account, StoreError> {
        let cell = self.rooms.accounts.load(account).await?;
        self.rooms.commits.ensure_exists(&cell)?;
        let created = {
            let state = cell.state.borrow();
            state.staged.filter(|_| !state.names.contains(MailboxId::INBOX))
        };
        if let Some(lsn) = created {
            self.rooms.log.durable(lsn).await?;
        }
        Ok(Account { commits: self.rooms.commits.clone(), cards: self.rooms.cards.clone(), cell })
    }

    /// Loads an account as [`Partition::account`], but creates none: of an account that is not
    /// there, or of a reserved one, the handle is of one without mailboxes.
    pub async fn account_as_it_is(&self, account: AccountId) -> Result<Account, StoreError> {
        let cell = self.rooms.accounts.load(account).await?;
        Ok(Account { commits: self.rooms.commits.clone(), cards: self.rooms.cards.clone(), cell })
    }

    /// The account of mail that waits for delivery here ([`AccountId::QUEUE`]). Reading does not
    /// create it: it has a mailbox once something was delivered to it.
    pub async fn queue(&self) -> Result<Account, StoreError> {
        self.account_as_it_is(AccountId::QUEUE).await
    }

    /// Messages in the queue's account, and those in format 1's spool that are still to be moved
    /// there.
    pub async fn queued(&self) -> Result<u64, StoreError> {
        self.rooms.accounts.load(AccountId::QUEUE).await?;
        Ok(self.queued_known())
    }

    /// The count if the account is in memory, as it is while it is watched.
    fn queued_known(&self) -> u64 {
        let queue = self.rooms.accounts.get(AccountId::QUEUE);
        let messages = queue.and_then(|cell| {
            Some(cell.state.borrow().live_mailbox(MailboxId::INBOX)?.status.messages)
        });
        let spooled = self.rooms.commits.standing.borrow().spool.len() as u64;
        u64::from(messages.unwrap_or(0)) + spooled
    }

    /// Prevents checkpoints and compaction from writing: for read-only callers.
    pub fn keep_still(&self) {
        self.rooms.checkpoints.stop();
        self.rooms.space.stop();
    }

    /// Damage found since the last call, other than what the start reported.
    pub fn damage_news(&self) -> Vec<Damage> {
        self.rooms.damages.news()
    }

    /// Whether a delivery would be refused now, so that it can be refused before its octets arrive.
    ///
    /// # Errors
    /// The reason: `Full`, `NotAnswering`, or what the log failed with.
    pub fn admits(&self) -> Result<(), StoreError> {
        self.rooms.admission.admit()
    }

    /// Why new mail is refused; `None` if it is not.
    pub fn refusing(&self) -> Option<PartitionTrouble> {
        self.rooms.admission.refusing()
    }

    /// Free space at the last check, bytes; `None` if the device does not know.
    pub fn free_space(&self) -> Option<u64> {
        self.rooms.admission.free_space()
    }

    /// Subscribes to changes published from now on, with a queue of `capacity` changes. A resuming
    /// subscriber calls [`Partition::changed_since`] afterwards, so that nothing is missed in
    /// between.
    pub fn subscribe(&self, capacity: usize) -> Subscription {
        self.rooms.commits.feed.subscribe(capacity, self.rooms.log.durable_lsn())
    }

    /// Accounts that may have changed by entries from `lsn` on ([`Subscription::seen`] of an
    /// earlier life, or from before changes were missed), ascending. What changed in them is the
    /// difference between the caller's state and their snapshots.
    pub fn changed_since(&self, lsn: Lsn) -> Vec<AccountId> {
        self.rooms.accounts.changed_since(lsn)
    }

    /// `None` while healthy, otherwise why writes are refused.
    pub fn trouble(&self) -> Option<StoreError> {
        self.rooms.log.trouble()
    }

    pub fn probe(&self) -> StoreProbe {
        let log = self.rooms.log.probe();
        let (segments, segment_bytes) = self.rooms.log.disk_usage();
        let compaction = self.rooms.space.probe();
        StoreProbe {
            syncs: log.syncs,
            batches: log.batches,
            entries: log.entries,
            bytes_written: log.bytes_written,
            messages_stored: self.rooms.commits.messages_stored(),
            body_bytes: self.rooms.bodies.counters.raw.get(),
            body_bytes_stored: self.rooms.bodies.counters.stored.get(),
            accounts_in_memory: self.rooms.accounts.in_memory() as u64,
            checkpoints: log.checkpoints,
            reopened: log.reopened,
            segments: segments as u64,
            segment_bytes,
            garbage_bytes: self.rooms.space.garbage_bytes(),
            compactions: compaction.runs,
            compacted_bytes: compaction.rewritten,
            segments_deleted: compaction.deleted,
            segments_quarantined: self.rooms.damages.quarantined().len() as u64,
            queued: self.queued_known(),
        }
    }

    /// Runs one complete cycle of compaction over all segments now, at background priority; waits
    /// for a running one first. Reads and changes go on meanwhile.
    ///
    /// # Errors
    /// If the log is in trouble, the disk is full, or a page that leads to messages cannot be read
    /// (then nothing that it might have named is deleted).
    pub async fn compact(&self) -> Result<CompactionReport, StoreError> {
        self.rooms.space.compact_now().await
    }

    /// Approximate number of bytes that [`Partition::verify`] will report as progress.
    pub async fn verify_bytes(&self) -> Result<u64, StoreError> {
        self.rooms.repair.verify_bytes().await
    }

    /// Checks everything. `progress` is called with the bytes done.
    ///
    /// # Errors
    /// If the device fails, or a file has a version that this program does not know; damage is not
    /// an error.
    pub async fn verify(&self, progress: &dyn Fn(u64)) -> Result<VerifyReport, StoreError> {
        self.rooms.repair.verify(progress).await
    }

    /// One row per folder of the account, for `ringmail inspect`; none if the account is unknown.
    ///
    /// # Errors
    /// As for reads.
    pub async fn describe(&self, id: AccountId) -> Result<Vec<Vec<String>>, StoreError> {
        self.rooms.repair.describe(id).await
    }

    /// Writes a checkpoint now; `close` and the background task do so by themselves.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        self.rooms.checkpoints.checkpoint().await
    }

    /// Writes a checkpoint and stops the writer; for a clean shutdown.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.rooms.space.stop();
        self.rooms.space.idle().await;
        let checkpoint = self.rooms.checkpoints.checkpoint().await;
        self.rooms.checkpoints.stop();
        self.rooms.log.close().await.and(checkpoint)
    }
}
