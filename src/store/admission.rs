//! Whether a partition takes new mail: not while its disk is full or nearly full, failed, or does
//! not answer. Operations that free space (expunge, flags, compaction, checkpoints) go on as long
//! as possible.
//!
//! A background task checks the free space and keeps the *reserve*: a file that takes space until
//! the disk is full. Then it is deleted, and its space is available for expunges and the files of
//! compaction; new mail is refused until the reserve could be taken again. So users whose mail
//! fills the disk can free it. `reopen` releases it; services ask
//! [`Partition::admits`](super::Partition::admits) as early as possible.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use super::{error::StoreError, log::Log};
use crate::{
    model::{Lsn, Timestamp},
    runtime::{
        device::Device,
        executor::{Executor, Priority},
    },
};

/// How often the free space is checked.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The same while mail is taken and less than [`NEAR`] bytes more than must be are free: other
/// partitions may be filling the disk.
const LOOK_INTERVAL_NEAR: Duration = Duration::from_millis(200);
const NEAR: u64 = 1 << 30;

/// The file that holds the reserve.
const RESERVE: &str = "reserve";

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Reserve {
    /// Not checked yet, or the device cannot promise space.
    #[default]
    Unknown,
    Held,
    GivenUp,
}

/// State of the partition's disk. Shard-local.
pub(super) struct Admission {
    log: Log,
    device: Rc<dyn Device>,
    executor: Rc<dyn Executor>,
    limits: DiskLimits,
    free: Cell<Option<u64>>,
    /// Entries from here on may have been written after `free` was true.
    free_at: Cell<Lsn>,
    reserve: Cell<Reserve>,
    /// The file system is read-only: nothing was written yet that could have failed.
    read_only: Cell<bool>,
    /// When the refusal of new mail began.
    since: Cell<Option<Timestamp>>,
    /// Makes room; see [`Admission::on_look`].
    make_room: RefCell<Option<MakeRoom>>,
    /// Whether it was called already.
    looked: Cell<bool>,
}

/// Frees space if that pays; the argument is whether mail is refused for want of it.
/// Returns whether it will write.
type MakeRoom = Rc<dyn Fn(bool) -> bool>;

/// Limits below which a disk is too full, or too slow, for new mail.
pub(super) struct DiskLimits {
    /// Bytes that must be free.
    pub free_space_min: u64,
    /// Bytes of the reserve; 0 = none.
    pub reserve: u64,
    /// How long a write may take.
    pub timeout: Duration,
}

/// Why new mail is refused, and since when.
#[derive(Clone, Debug)]
pub struct PartitionTrouble {
    pub reason: Refusal,
    pub since: Timestamp,
}

/// What [`PartitionTrouble`] tells an operator; clients get the [`StoreError`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("less than store.free_space_min is free")]
    Low,
    /// A write failed for want of space, and the reserve was released.
    #[error("the disk is full: there is no room yet for store.reserve and store.free_space_min")]
    NoReserve,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The background task; ends with the partition, or at once if the device does not report space.
async fn run(admission: Weak<Admission>, stopped: Rc<Cell<bool>>) {
    loop {
        let Some(executor) = look(&admission, &stopped).await else { return };
        let near = admission.upgrade().is_some_and(|admission| admission.is_near());
        executor.sleep(if near { LOOK_INTERVAL_NEAR } else { LOOK_INTERVAL }).await;
    }
}

/// One check; `None` to stop checking.
async fn look(admission: &Weak<Admission>, stopped: &Cell<bool>) -> Option<Rc<dyn Executor>> {
    let admission = admission.upgrade()?;
    if stopped.get() {
        return None;
    }
    // What becomes durable during the check may or may not be in its answer.
    let durable = admission.log.durable_lsn();
    let answer = admission.device.free_space().await;
    let read_only = |error: &io::Error| error.kind() == io::ErrorKind::ReadOnlyFilesystem;
    admission.read_only.set(answer.as_ref().is_err_and(read_only));
    match answer {
        Ok(Some(free)) => {
            admission.free_at.set(durable);
            admission.look_at_space(free).await;
        }
        Ok(None) => {
            admission.make_room();
            return None;
        }
        // It may answer later.
        Err(_) => admission.note_refusal(),
    }
    Some(admission.executor.clone())
}

impl Admission {
    pub(super) fn new(
        log: Log,
        device: Rc<dyn Device>,
        executor: Rc<dyn Executor>,
        limits: DiskLimits,
    ) -> Admission {
        Admission {
            log,
            device,
            executor,
            limits,
            free: Cell::default(),
            free_at: Cell::default(),
            reserve: Cell::default(),
            read_only: Cell::default(),
            since: Cell::default(),
            make_room: RefCell::default(),
            looked: Cell::default(),
        }
    }

    /// `make_room` is called at the first check, and at each one while new mail is refused for want
    /// of space and the log takes changes.
    pub(super) fn on_look(&self, make_room: MakeRoom) {
        self.make_room.replace(Some(make_room));
    }

    /// Starts the background task; it ends when `stopped` is set.
    pub(super) fn start(self: &Rc<Admission>, stopped: &Rc<Cell<bool>>) {
        let task = run(Rc::downgrade(self), stopped.clone());
        self.executor.spawn(Priority::Background, Box::pin(task));
    }

    async fn look_at_space(&self, free: u64) {
        let (least, reserve) = (self.limits.free_space_min, self.limits.reserve);
        self.free.set(Some(free));
        let wanted = reserve > 0 && self.reserve.get() != Reserve::Held;
        if wanted && free >= least.saturating_add(reserve) && self.log.trouble().is_none() {
            match self.device.reserve(RESERVE, reserve).await {
                Ok(()) => self.reserve.set(Reserve::Held),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    self.reserve.set(Reserve::Unknown);
                }
                // Filled up meanwhile: the next check tries again.
                Err(_) => {}
            }
        }
        self.note_refusal();
        if self.make_room() {
            self.use_reserve().await;
        }
    }

    fn make_room(&self) -> bool {
        let first = !self.looked.replace(true);
        let wanted = (first || self.is_short()) && self.log.trouble().is_none();
        let make_room = self.make_room.borrow().clone().filter(|_| wanted);
        make_room.is_some_and(|make_room| make_room(self.is_short()))
    }

    /// Something is about to be written that frees space: releases the space of the reserve if
    /// there is less without it.
    async fn use_reserve(&self) {
        if self.free_now().await.is_some_and(|free| free < self.limits.reserve) {
            self.give_up_reserve().await;
        }
    }

    /// Whether less than `free_space_min` is free: at the last check, less what was logged since.
    fn is_low(&self) -> bool {
        let logged = self.log.next_lsn().0.saturating_sub(self.free_at.get().0);
        let least = self.limits.free_space_min;
        self.free.get().is_some_and(|free| free.saturating_sub(logged) < least)
    }

    fn is_near(&self) -> bool {
        let most = self.limits.free_space_min.saturating_add(NEAR);
        self.free.get().is_some_and(|free| free < most) && !self.is_short()
    }

    fn is_short(&self) -> bool {
        self.is_low() || self.reserve.get() == Reserve::GivenUp
    }

    /// The disk is full: releases the space of the reserve for operations that free space.
    pub(super) async fn give_up_reserve(&self) {
        if self.limits.reserve == 0 || self.reserve.get() == Reserve::GivenUp {
            return;
        }
        // Absent: an earlier life released it.
        let _ = self.device.delete(RESERVE).await;
        if self.free.get().is_some() {
            self.reserve.set(Reserve::GivenUp);
        }
    }

    /// Records since when new mail is refused.
    pub(super) fn note_refusal(&self) {
        let since = &self.since;
        match self.admit() {
            Ok(()) => since.set(None),
            Err(_) if since.get().is_none() => since.set(Some(self.executor.now())),
            Err(_) => {}
        }
    }

    /// Whether a new message is admitted.
    pub(super) fn admit(&self) -> Result<(), StoreError> {
        if let Some(refusal) = self.log.refusal() {
            return Err(refusal);
        }
        if self.is_short() {
            return Err(StoreError::Full);
        }
        if self.read_only.get() {
            return Err(StoreError::Io(Arc::new(io::ErrorKind::ReadOnlyFilesystem.into())));
        }
        match self.stalled_for() {
            Some(_) => Err(StoreError::NotAnswering),
            None => Ok(()),
        }
    }

    /// How long the device has not answered, if longer than allowed.
    fn stalled_for(&self) -> Option<Duration> {
        let owed = self.executor.moment().since(self.log.in_flight_since()?);
        (owed > self.limits.timeout).then_some(owed)
    }

    /// Why new mail is refused; `None` if it is not.
    pub(super) fn refusing(&self) -> Option<PartitionTrouble> {
        let reason = match self.log.trouble() {
            Some(trouble) => trouble,
            None => self.admit().err()?,
        };
        let reason = match reason {
            StoreError::Full if self.log.trouble().is_none() => match self.is_low() {
                true if self.reserve.get() != Reserve::GivenUp => Refusal::Low,
                _ => Refusal::NoReserve,
            },
            reason => Refusal::Store(reason),
        };
        let stalled = self.stalled_for().unwrap_or_default();
        let since = self.since.get();
        let since = since.unwrap_or_else(|| self.executor.now().before(stalled));
        Some(PartitionTrouble { reason, since })
    }

    /// Free space now, bytes; `None` if the device does not know.
    pub(super) async fn free_now(&self) -> Option<u64> {
        self.device.free_space().await.ok().flatten()
    }

    /// Free space at the last check, bytes; `None` if the device does not know.
    pub(super) fn free_space(&self) -> Option<u64> {
        self.free.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{AccountId, Flags, MailboxId, Uid},
        runtime::{
            device::memory::{Faults, MemoryDevice},
            simulation::Simulation,
        },
        store::{DeliveryTarget, Partition, StoreOptions},
    };

    const ALICE: AccountId = AccountId(1);

    struct World {
        device: MemoryDevice,
        simulation: Simulation,
        partition: Partition,
    }

    impl World {
        async fn deliver(&self) -> Result<Uid, StoreError> {
            let body = self.partition.stage().finish(Vec::new()).await?;
            let target = DeliveryTarget {
                account: ALICE,
                mailbox: None,
                flags: Flags::default(),
                keywords: Vec::new(),
                internal_date: Timestamp(0),
                annotations: Vec::new(),
            };
            Ok(self.partition.deliver(body, vec![target], None).await?[0].uid)
        }

        async fn expunge(&self, uid: Uid) -> Result<Vec<Uid>, StoreError> {
            self.partition.account(ALICE).await?.remove(MailboxId::INBOX, &[uid]).await
        }

        fn inject(&self, free: u64, faults: Faults) {
            self.device.inject(Faults { free: Some(free), ..faults });
        }

        async fn wait(&self, seconds: u64) {
            self.simulation.sleep(Duration::from_secs(seconds)).await;
        }
    }

    fn run(test: impl AsyncFnOnce(&World)) {
        let (device, simulation) = (MemoryDevice::new(), Simulation::new(3));
        device.inject(Faults { free: Some(1 << 40), ..Faults::default() });
        device.set_clock(Rc::new(simulation.clone()));
        simulation.run_until(async {
            let executor = Rc::new(simulation.clone());
            let options = StoreOptions::default();
            let (partition, _) =
                Partition::open(Rc::new(device.clone()), executor, options).await.unwrap();
            let world = World { device, simulation: simulation.clone(), partition };
            world.wait(5).await;
            test(&world).await;
        });
    }

    #[test]
    fn little_space_refuses_mail_and_takes_expunges() {
        run(async |world| {
            let uid = world.deliver().await.unwrap();
            world.inject(1 << 20, Faults::default());
            world.wait(5).await;
            assert!(matches!(world.deliver().await, Err(StoreError::Full)));
            assert!(matches!(world.partition.admits(), Err(StoreError::Full)));
            world.wait(7).await;
            let trouble = world.partition.refusing().unwrap();
            assert!(matches!(trouble.reason, Refusal::Low));
            assert!(trouble.since.after(Duration::from_secs(5)) < world.simulation.now());
            assert_eq!(world.expunge(uid).await.unwrap(), [uid]);
            world.inject(1 << 40, Faults::default());
            world.wait(5).await;
            assert!(world.partition.refusing().is_none());
            assert!(world.deliver().await.unwrap() > uid);
        });
    }

    /// Known before the first write fails.
    #[test]
    fn a_read_only_file_system_is_refused_at_once() {
        run(async |world| {
            world.inject(1 << 40, Faults { read_only: true, ..Faults::default() });
            world.wait(5).await;
            let told = world.partition.refusing().unwrap().reason.to_string();
            assert_eq!(told, "read-only filesystem or storage medium");
            assert!(matches!(world.deliver().await, Err(StoreError::Io(_))));
            world.inject(1 << 40, Faults::default());
            world.wait(5).await;
            assert!(world.partition.refusing().is_none());
            world.deliver().await.unwrap();
        });
    }

    /// What is logged between two checks counts.
    #[test]
    fn a_burst_of_mail_leaves_the_space_that_must_be_free() {
        run(async |world| {
            let least = StoreOptions::default().free_space_min;
            world.inject(least + (1 << 20), Faults::default());
            world.wait(5).await;
            let before = world.partition.probe().bytes_written;
            let mut delivered = 0;
            while world.deliver().await.is_ok() {
                delivered += 1;
                assert!(delivered < 1000, "{delivered}");
            }
            let written = world.partition.probe().bytes_written - before;
            assert!(delivered > 100 && (900 << 10..=1 << 20).contains(&written), "{written}");
            assert!(matches!(world.partition.admits(), Err(StoreError::Full)));
            // The next check sees that there is as much free as before.
            world.wait(5).await;
            world.deliver().await.unwrap();
        });
    }

    /// Suddenly full: the reserve makes room for expunges, and mail waits until it is back.
    #[test]
    fn a_full_disk_can_be_emptied() {
        run(async |world| {
            let uid = world.deliver().await.unwrap();
            world.inject(0, Faults { full_from: Some(0), ..Faults::default() });
            assert!(matches!(world.deliver().await, Err(StoreError::Full)));
            assert!(matches!(world.expunge(uid).await, Err(StoreError::Full)));
            // Only the space of the reserve is free now.
            world.inject(8 << 20, Faults::default());
            world.wait(60).await;
            assert!(world.partition.trouble().is_none());
            assert!(matches!(world.partition.refusing().unwrap().reason, Refusal::NoReserve));
            assert!(matches!(world.deliver().await, Err(StoreError::Full)));
            assert_eq!(world.expunge(uid).await.unwrap(), [uid]);
            world.inject(1 << 40, Faults::default());
            world.wait(5).await;
            assert!(world.deliver().await.is_ok());
        });
    }

    /// New mail does not pile up behind a disk that does not answer; tasks that already wait keep
    /// waiting.
    #[test]
    fn a_disk_that_does_not_answer() {
        run(async |world| {
            world.deliver().await.unwrap();
            let (appends, syncs) = world.device.operations();
            let slow = vec![(appends + syncs, Duration::from_secs(100))];
            world.inject(1 << 40, Faults { slow, ..Faults::default() });
            let waiting: Rc<Cell<Option<bool>>> = Rc::default();
            let (partition, told) = (world.partition.clone(), waiting.clone());
            let task = async move {
                let account = partition.account(ALICE).await.unwrap();
                told.set(Some(account.set_subscribed("x", true).await.is_ok()));
            };
            world.simulation.spawn(crate::runtime::executor::Priority::Foreground, Box::pin(task));
            world.wait(20).await;
            assert!(matches!(world.deliver().await, Err(StoreError::NotAnswering)));
            assert!(world.partition.refusing().is_some() && waiting.get().is_none());
            world.wait(100).await;
            assert_eq!(waiting.get(), Some(true));
            assert!(world.partition.refusing().is_none());
            world.deliver().await.unwrap();
        });
    }
}
