//! Putting a partition back in service after a failed write, without a restart of the server.
//!
//! One background task per partition waits for a failure, pauses, and tries. Staged changes that
//! were not durable are gone, and pending state, pages and runs in memory may build on them: so
//! everything is read again from the device as at a start, up to the durable LSN (`log::reopen`),
//! and replaces the state in memory in one step. Accounts that sessions hold get their new state
//! inside the same cell: handles and views stay valid, and still see what they saw.
//!
//! Meanwhile reads use the old state; the published state does not change.

use std::{
    rc::{Rc, Weak},
    time::Duration,
};

use super::{
    super::{
        admission::Admission,
        cards::Cards,
        checkpoint::Checkpoints,
        commits::Commits,
        damage::Damages,
        error::StoreError,
        log::{Recovered, Replay},
        space::compaction::Space,
    },
    load::load,
};
use crate::runtime::{executor::Priority, wait::Signal};

/// Pause before the first attempt; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long to wait for a checkpoint that has not noticed yet that its log failed.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(10);

/// Puts a partition back in service. Shard-local.
pub(crate) struct Repair {
    pub(crate) admission: Rc<Admission>,
    pub(crate) commits: Rc<Commits>,
    pub(crate) cards: Rc<Cards>,
    pub(crate) checkpoints: Rc<Checkpoints>,
    pub(crate) space: Rc<Space>,
    pub(crate) damages: Rc<Damages>,
    /// Set when the log failed.
    failed: Rc<Signal>,
}

/// The background task; ends with the partition.
async fn run(repair: Weak<Repair>, failed: Rc<Signal>) {
    loop {
        failed.take().await;
        let mut pause = PAUSE_MIN;
        loop {
            let Some(executor) = repair.upgrade().map(|it| it.commits.executor.clone()) else {
                return;
            };
            executor.sleep(pause).await;
            let Some(repair) = repair.upgrade() else { return };
            if repair.checkpoints.stopped().get() {
                return;
            }
            if matches!(repair.commits.log.trouble(), Some(StoreError::Full)) {
                repair.admission.give_up_reserve().await;
            }
            if repair.reopen().await.is_ok() {
                repair.admission.note_refusal();
                break;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

impl Repair {
    pub(crate) fn new(
        commits: Rc<Commits>,
        cards: Rc<Cards>,
        checkpoints: Rc<Checkpoints>,
        space: Rc<Space>,
        damages: Rc<Damages>,
    ) -> Repair {
        let (admission, failed) = (commits.admission.clone(), Rc::default());
        Repair { admission, commits, cards, checkpoints, space, damages, failed }
    }

    /// Starts the background task.
    pub(crate) fn start(self: &Rc<Repair>) {
        let task = run(Rc::downgrade(self), self.failed.clone());
        self.commits.executor.spawn(Priority::Background, Box::pin(task));
        self.start_upgrade();
    }

    /// The log failed: it is reopened after a pause.
    pub(crate) fn log_failed(&self) {
        self.failed.set();
    }

    /// One attempt.
    async fn reopen(&self) -> Result<(), StoreError> {
        // Both end at their next step in a failed log, and start nothing new.
        while self.checkpoints.is_running() {
            self.commits.executor.sleep(CHECKPOINT_PAUSE).await;
        }
        self.space.idle().await;
        let log = &self.commits.log;
        let recovered = log.look_again().await?;
        let begin = async |recovered: Recovered, replay: &mut Replay<'_>| {
            log.reopen(recovered, replay).await
        };
        let (reopened, contents) = load(recovered, begin).await?;
        let accounts = &self.commits.accounts;
        let read = async {
            let loaded = contents.complete(log).await?;
            let fresh = accounts.read_again(&loaded.known).await?;
            Ok((loaded, fresh))
        };
        let (loaded, fresh) = match read.await {
            Ok(read) => read,
            Err(error) => {
                log.discard(reopened).await;
                return Err(error);
            }
        };

        // There is no await from here on: log, directory and accounts change as one.
        log.resume(reopened)?;
        self.commits.reset(loaded.standing);
        self.commits.bodies.reset();
        self.cards.reset();
        accounts.renew(loaded.known, fresh);
        self.damages.note_report(&loaded.report);
        self.checkpoints.schedule();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeMap};

    use crate::store::repair::reopen::*;
    use crate::{
        model::{AccountId, Flags, Lsn, MailboxId, ModSeq, Moment, PartitionId, Timestamp, Uid},
        runtime::{
            LocalFuture,
            device::memory::{Faults, MemoryDevice},
            executor::{CommitTurn, Executor},
            simulation::Simulation,
        },
        store::{BODY_CHUNK, DeliveryTarget, FlagChange, Partition, StagedBody, StoreOptions, log},
    };

    const ALICE: AccountId = AccountId(1);
    const INBOX: MailboxId = MailboxId::INBOX;

    struct World {
        device: MemoryDevice,
        simulation: Simulation,
    }

    impl World {
        async fn open(&self) -> Partition {
            let options = StoreOptions {
                segment_size: 64 * 1024,
                checkpoint_interval: 16 * 1024,
                account_budget: 8 * 1024,
                ..StoreOptions::default()
            };
            let (device, executor) = (self.device.clone(), self.simulation.clone());
            let opened = Partition::open(Rc::new(device), Rc::new(executor), options).await;
            opened.expect("opens").0
        }

        /// Waits until the partition is in service again.
        async fn healed(&self, partition: &Partition) {
            for _ in 0..100 {
                if partition.trouble().is_none() {
                    return;
                }
                self.simulation.sleep(PAUSE_MIN).await;
            }
            panic!("never in service again: {:?}", partition.trouble());
        }
    }

    fn run(test: impl AsyncFnOnce(&World)) {
        let world = World { device: MemoryDevice::new(), simulation: Simulation::new(5) };
        world.simulation.run_until(test(&world));
    }

    async fn staged(partition: &Partition, body: &[u8]) -> Result<StagedBody, StoreError> {
        let mut writer = partition.stage();
        writer.write(body).await?;
        writer.finish(Vec::new()).await
    }

    async fn deliver(
        partition: &Partition,
        account: AccountId,
        body: &[u8],
    ) -> Result<Uid, StoreError> {
        let target = DeliveryTarget {
            account,
            mailbox: None,
            flags: Flags::default(),
            keywords: Vec::new(),
            internal_date: Timestamp(0),
            annotations: Vec::new(),
        };
        let body = staged(partition, body).await?;
        Ok(partition.deliver(body, vec![target], None).await?[0].uid)
    }

    /// The contents of an account's INBOX: body and flags by UID.
    async fn content(partition: &Partition, account: AccountId) -> BTreeMap<u32, (Vec<u8>, Flags)> {
        let account = partition.account(account).await.unwrap();
        let snapshot = account.select(INBOX, false).await.unwrap().current().unwrap();
        let mut found = BTreeMap::new();
        for message in snapshot.iter_from(0) {
            let body = account.read_body(&message.body, 0, usize::MAX).await.unwrap();
            found.insert(message.uid.0, (body.to_vec(), message.flags.system));
        }
        found
    }

    /// A failed write is reported and survived: views stay valid, UIDs increase, and the failed
    /// change appears neither now nor after a restart, even if the disk has all of it.
    #[test]
    fn service_goes_on_after_a_failure() {
        let nth = |n: u64| vec![n];
        for (name, faults) in [
            ("append", Faults { failed_appends: nth(1), ..Faults::default() }),
            ("short append", Faults { short_appends: nth(1), ..Faults::default() }),
            ("sync", Faults { failed_syncs: nth(1), ..Faults::default() }),
        ] {
            run(async |world| {
                let partition = world.open().await;
                world.device.inject(faults);
                let first = deliver(&partition, ALICE, b"first").await.unwrap();
                let account = partition.account(ALICE).await.unwrap();
                let view = account.select(INBOX, false).await.unwrap();
                let seen = view.current().unwrap();
                assert!(deliver(&partition, ALICE, b"lost").await.is_err(), "{name}");
                assert!(partition.trouble().is_some());
                assert!(deliver(&partition, ALICE, b"refused").await.is_err());
                assert_eq!(content(&partition, ALICE).await.len(), 1, "{name}: reads go on");

                world.healed(&partition).await;
                let second = deliver(&partition, ALICE, b"second").await.unwrap();
                assert!(second > first);
                view.changed(&seen).await;
                assert_eq!(view.current().unwrap().len(), 2, "{name}");
                let expected = content(&partition, ALICE).await;
                let bodies: Vec<&[u8]> = expected.values().map(|(body, _)| &body[..]).collect();
                assert_eq!(bodies, [&b"first"[..], b"second"], "{name}");
                drop((view, account));
                // Killed, and after a clean stop.
                world.simulation.kill_tasks();
                let again = world.open().await;
                assert_eq!(content(&again, ALICE).await, expected, "{name}");
                again.close().await.unwrap();
                assert_eq!(content(&world.open().await, ALICE).await, expected, "{name}");
            });
        }
    }

    /// The root of the last checkpoint rots while a partition is open, and then a write fails: the
    /// locations of accounts are found from all segments, as at a start.
    #[test]
    fn a_damaged_root_does_not_keep_it_out_of_service() {
        run(async |world| {
            let partition = world.open().await;
            for n in 0..40u64 {
                deliver(&partition, AccountId(n % 5), &[n as u8; 700]).await.unwrap();
            }
            partition.checkpoint().await.unwrap();
            deliver(&partition, ALICE, b"after the checkpoint").await.unwrap();
            let expected = content(&partition, ALICE).await;
            let mut broken = 0;
            for name in world.device.names() {
                let Some(epoch) = log::epoch_of_name(&name) else { continue };
                let bytes = world.device.content(&name).unwrap();
                let found = log::dissect(&bytes, PartitionId(0), epoch, Lsn(0)).unwrap();
                for entry in found.entries {
                    if entry.header.is_some_and(|it| it.kind == log::EntryKind::CheckpointRoot) {
                        world.device.corrupt(&name, |bytes| bytes[entry.offset as usize + 40] ^= 1);
                        broken += 1;
                    }
                }
            }
            assert!(broken > 0);
            let (appends, _) = world.device.operations();
            world.device.inject(Faults { failed_appends: vec![appends], ..Faults::default() });
            assert!(deliver(&partition, ALICE, b"lost").await.is_err());
            world.healed(&partition).await;
            deliver(&partition, ALICE, b"and on").await.unwrap();
            let mut found = content(&partition, ALICE).await;
            assert_eq!(found.pop_last().unwrap().1.0, b"and on");
            assert_eq!(found, expected);
            assert!(partition.damage_news().iter().any(|news| news.what.contains("all segments")));
            for n in [0, 2, 3, 4] {
                assert_eq!(content(&partition, AccountId(n)).await.len(), 8);
            }
        });
    }

    /// A body whose first chunk was lost in the failure cannot be committed after it.
    #[test]
    fn chunks_do_not_outlive_a_failure() {
        run(async |world| {
            let partition = world.open().await;
            deliver(&partition, ALICE, b"first").await.unwrap();
            let mut writer = partition.stage();
            writer.write(&vec![b'x'; 2 * BODY_CHUNK]).await.unwrap();
            world.device.inject(Faults { full_from: Some(0), ..Faults::default() });
            assert!(matches!(deliver(&partition, ALICE, b"y").await, Err(StoreError::Full)));
            world.device.inject(Faults::default());
            world.healed(&partition).await;
            let body = writer.finish(Vec::new()).await.unwrap();
            let target = DeliveryTarget {
                account: ALICE,
                mailbox: None,
                flags: Flags::default(),
                keywords: Vec::new(),
                internal_date: Timestamp(0),
                annotations: Vec::new(),
            };
            assert!(partition.deliver(body, vec![target], None).await.is_err());
            deliver(&partition, ALICE, &vec![b'z'; 3 * BODY_CHUNK]).await.unwrap();
            assert_eq!(content(&partition, ALICE).await.len(), 2);
        });
    }

    /// A checkpoint moved changes of a mailbox to a run, and the write failed: the mailbox can be
    /// read however long the disk stays full.
    #[test]
    fn reads_go_on_while_the_disk_is_full() {
        run(async |world| {
            let partition = world.open().await;
            deliver(&partition, ALICE, b"first").await.unwrap();
            partition.close().await.unwrap();
            // Nothing needs the table of the mailbox here.
            let partition = world.open().await;
            deliver(&partition, ALICE, b"second").await.unwrap();
            let (appends, _) = world.device.operations();
            world.device.inject(Faults { full_from: Some(appends), ..Faults::default() });
            assert!(matches!(partition.checkpoint().await, Err(StoreError::Full)));
            assert_eq!(content(&partition, ALICE).await.len(), 2);

            world.device.inject(Faults::default());
            world.healed(&partition).await;
            deliver(&partition, ALICE, b"third").await.unwrap();
            assert_eq!(content(&partition, ALICE).await.len(), 3);
        });
    }

    /// Flips a bit in every page of ALICE's account.
    fn break_page(world: &World) -> usize {
        let mut broken = 0;
        for name in world.device.names() {
            let Some(epoch) = log::epoch_of_name(&name) else { continue };
            let bytes = world.device.content(&name).unwrap();
            let found = log::dissect(&bytes, PartitionId(0), epoch, Lsn(0)).unwrap();
            for entry in found.entries {
                let page = entry.header.is_some_and(|it| {
                    it.kind == log::EntryKind::AccountPage && it.account == ALICE
                });
                if page {
                    world.device.corrupt(&name, |bytes| bytes[entry.offset as usize + 41] ^= 4);
                    broken += 1;
                }
            }
        }
        broken
    }

    /// An account that cannot be read when the log is reopened: a holder of an old handle can
    /// neither change it nor recreate it over the old one.
    #[test]
    fn nothing_is_committed_to_a_stand_in() {
        run(async |world| {
            let partition = world.open().await;
            deliver(&partition, ALICE, b"first").await.unwrap();
            partition.checkpoint().await.unwrap();
            let account = partition.account(ALICE).await.unwrap();
            account.create_mailbox("Kept", None).await.unwrap();
            let subscribed = account.subscriptions();
            let cell = account.cell.clone();
            assert!(break_page(world) > 0);
            let (appends, _) = world.device.operations();
            world.device.inject(Faults { failed_appends: vec![appends], ..Faults::default() });
            assert!(deliver(&partition, AccountId(2), b"lost").await.is_err());
            world.healed(&partition).await;

            assert!(cell.state.borrow().stand_in);
            let refused = |told: Result<(), StoreError>| match told {
                Err(StoreError::Poisoned | StoreError::NoSuchMailbox) => (),
                told => panic!("{told:?}"),
            };
            refused(account.create_mailbox("New", None).await.map(drop));
            refused(account.set_subscribed("New", true).await);
            refused(account.set_subscribed("Old", false).await);
            refused(account.delete_mailbox("Kept").await);
            let body = staged(&partition, b"x").await.unwrap();
            let append = account.append(INBOX, body, Flags::default(), &[], Timestamp(0));
            refused(append.await.map(drop));
            refused(partition.rooms.commits.ensure_exists(&cell));
            // The account itself is salvaged, with its contents.
            let again = partition.account(ALICE).await.unwrap();
            assert!(again.mailbox_by_name("Kept").is_some() && !subscribed.is_empty());
            let bodies = content(&partition, ALICE).await;
            assert!(bodies.values().any(|(body, _)| body == b"first"), "{bodies:?}");
            deliver(&partition, ALICE, b"second").await.unwrap();
        });
    }

    /// A handle to an account whose first entry was lost in the failure creates no folder in it.
    #[test]
    fn nothing_is_committed_to_an_account_that_was_not_made() {
        run(async |world| {
            let partition = world.open().await;
            deliver(&partition, AccountId(2), b"first").await.unwrap();
            let cell = partition.rooms.accounts.load(ALICE).await.unwrap();
            partition.rooms.commits.ensure_exists(&cell).unwrap();
            let account = crate::store::Account {
                commits: partition.rooms.commits.clone(),
                cards: partition.rooms.cards.clone(),
                cell,
            };
            let (appends, _) = world.device.operations();
            world.device.inject(Faults { failed_appends: vec![appends], ..Faults::default() });
            assert!(account.create_mailbox("lost", None).await.is_err());
            world.healed(&partition).await;
            let told = account.create_mailbox("alone", None).await;
            assert!(matches!(told, Err(StoreError::Poisoned)), "{told:?}");
            deliver(&partition, ALICE, b"x").await.unwrap();
            assert!(partition.account(ALICE).await.unwrap().mailbox_by_name("alone").is_none());
        });
    }

    /// A shard so busy that a yield takes ten minutes, if requested.
    struct Busy(Simulation, Rc<Cell<bool>>);

    impl Executor for Busy {
        fn spawn(&self, priority: Priority, task: LocalFuture<'static, ()>) {
            self.0.spawn(priority, task);
        }

        fn now(&self) -> Timestamp {
            self.0.now()
        }

        fn moment(&self) -> Moment {
            self.0.moment()
        }

        fn random(&self) -> u64 {
            self.0.random()
        }

        fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
            self.0.sleep(duration)
        }

        fn offload(&self, job: Box<dyn FnOnce() + Send>) -> LocalFuture<'static, ()> {
            self.0.offload(job)
        }

        fn commit_turn(&self) -> LocalFuture<'static, CommitTurn> {
            self.0.commit_turn()
        }

        fn yield_now(&self) -> LocalFuture<'static, ()> {
            match self.1.take() {
                true => self.0.sleep(Duration::from_secs(600)),
                false => self.0.yield_now(),
            }
        }
    }

    /// Between two slices of a long command the log fails and is reopened: the command must not
    /// succeed, since its first slice is gone.
    #[test]
    fn a_slice_lost_between_two_others_is_told() {
        for expunge in [false, true] {
            run(async |world| {
                let device = Rc::new(world.device.clone());
                let busy = Rc::new(Cell::new(false));
                let executor = Rc::new(Busy(world.simulation.clone(), busy.clone()));
                let options = StoreOptions { default_mailboxes: Vec::new(), ..Default::default() };
                let partition = Partition::open(device, executor, options).await.unwrap().0;
                for n in 0..600u32 {
                    deliver(&partition, ALICE, &n.to_le_bytes()).await.unwrap();
                }
                let account = partition.account(ALICE).await.unwrap();
                let uids: Vec<Uid> = (1..=600).map(Uid).collect();
                let (appends, _) = world.device.operations();
                world.device.inject(Faults { failed_appends: vec![appends], ..Faults::default() });
                busy.set(true);
                let told = match expunge {
                    true => account.remove(INBOX, &uids).await.map(|_| ()),
                    false => {
                        let seen = FlagChange::add(Flags::SEEN, Vec::new());
                        account.store_flags(INBOX, &uids, seen, None).await.map(|_| ())
                    }
                };
                assert_eq!(partition.probe().reopened, 1, "the log failed and works again");
                assert!(matches!(told, Err(StoreError::Poisoned)), "{told:?}");
                let left = content(&partition, ALICE).await;
                let untouched = left.values().filter(|(_, flags)| !flags.contains(Flags::SEEN));
                assert_eq!(untouched.count(), 512, "the first slice is gone, the second is not");
            });
        }
    }

    /// Every append of a workload with checkpoints, flags and expunges fails once, in each way;
    /// what was acknowledged is there, what was refused is not, before and after a restart.
    #[test]
    fn any_write_may_fail() {
        let failures: [fn(u64) -> Faults; 3] = [
            |n| Faults { failed_appends: vec![n], ..Faults::default() },
            |n| Faults { short_appends: vec![n, n + 1], ..Faults::default() },
            |n| Faults { failed_syncs: vec![n, n + 2, n + 3], ..Faults::default() },
        ];
        let mut failed = 0;
        for n in (0..90).step_by(2) {
            run(async |world| {
                let partition = world.open().await;
                world.device.inject(failures[n as usize / 2 % 3](n));
                let mut expected: BTreeMap<AccountId, BTreeMap<u32, (Vec<u8>, Flags)>> =
                    BTreeMap::new();
                for step in 0..60u64 {
                    let id = AccountId(step % 3);
                    world.healed(&partition).await;
                    if step == 30 {
                        failed += u32::from(partition.checkpoint().await.is_err());
                        world.healed(&partition).await;
                    }
                    let body = vec![step as u8; 1000 + step as usize];
                    match deliver(&partition, id, &body).await {
                        Ok(uid) => {
                            let known = expected.entry(id).or_default();
                            assert!(known.keys().all(|known| *known < uid.0));
                            known.insert(uid.0, (body, Flags::default()));
                        }
                        Err(_) => {
                            failed += 1;
                            continue;
                        }
                    }
                    let Ok(account) = partition.account(id).await else { continue };
                    let known = expected.entry(id).or_default();
                    let first = *known.keys().next().unwrap();
                    if step % 4 == 1 {
                        let seen = FlagChange::add(Flags::SEEN, Vec::new());
                        let uids = [Uid(first)];
                        if account.store_flags(INBOX, &uids, seen, None).await.is_ok() {
                            known.get_mut(&first).unwrap().1 = Flags::SEEN;
                        }
                    }
                    if step % 5 == 4 && account.remove(INBOX, &[Uid(first)]).await.is_ok() {
                        known.remove(&first);
                    }
                }
                world.healed(&partition).await;
                let mod_seqs = async |partition: &Partition, id| {
                    let account = partition.account(id).await.unwrap();
                    account.status(INBOX).await.unwrap().highest_mod_seq
                };
                for (id, known) in &expected {
                    assert_eq!(content(&partition, *id).await, *known, "failure {n}");
                }
                let before: Vec<ModSeq> = vec![
                    mod_seqs(&partition, AccountId(0)).await,
                    mod_seqs(&partition, AccountId(1)).await,
                ];
                world.simulation.kill_tasks();
                let again = world.open().await;
                for (id, known) in &expected {
                    assert_eq!(content(&again, *id).await, *known, "failure {n}, restarted");
                }
                assert!(mod_seqs(&again, AccountId(0)).await >= before[0]);
                assert!(mod_seqs(&again, AccountId(1)).await >= before[1]);
            });
        }
        assert!(failed > 20, "only {failed} failures");
    }
}
