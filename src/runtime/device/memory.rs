//! A device in memory that records every operation, can fail on request, and can compute what a
//! crash at any moment would have left.
//!
//! Called by tests and the simulator. Each operation yields to other tasks before and after its
//! effect, so that the seeded executor explores the interleavings. A handle that is kept after its
//! log was dropped represents the state after a killed process (the page cache survives);
//! [`Trace::image`] represents the state after a power loss.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;

use super::{Device, File};
use crate::runtime::{
    LocalFuture,
    executor::Executor,
    simulation::{split_mix, yield_once},
};

/// Disks write this many bytes atomically.
const SECTOR: usize = 512;

/// Faults to inject; operations are counted from the device's creation, from 0.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// `sync` calls that fail. Their data never becomes durable.
    pub failed_syncs: Vec<u64>,
    /// `append` calls that fail with nothing written.
    pub failed_appends: Vec<u64>,
    /// `append` calls that write only their first half and then fail.
    pub short_appends: Vec<u64>,
    /// Appends from this one on find the disk full.
    pub full_from: Option<u64>,
    /// Appends from this one on find room again; never if `None`.
    pub full_until: Option<u64>,
    /// Operations (appends and syncs counted together) that take this long on the clock given by
    /// [`MemoryDevice::set_clock`].
    pub slow: Vec<(u64, Duration)>,
    /// Reads fail.
    pub unreadable: bool,
    /// What `free_space` answers.
    pub free: Option<u64>,
    /// Bytes that all files together may have, reserved space included; `free_space` answers
    /// what is left.
    pub capacity: Option<u64>,
    /// `free_space` finds a read-only file system.
    pub read_only: bool,
    /// `sync` answers `Ok` and does nothing: to prove that a crash test notices.
    pub lying_sync: bool,
}

/// Which un-synced writes survived a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashMode {
    /// Nothing.
    Lost,
    /// Everything up to a random multiple of 512 bytes, in the order written.
    TornSector,
    /// The same at 4,096 bytes.
    TornPage,
    /// Each 512-byte sector independently: the disk reordered its queue.
    Reordered,
}

impl CrashMode {
    pub const ALL: [CrashMode; 4] =
        [CrashMode::Lost, CrashMode::TornSector, CrashMode::TornPage, CrashMode::Reordered];
}

/// One recorded operation, at the moment it took effect.
#[derive(Clone, Debug)]
enum Step {
    Create {
        name: String,
        inode: u64,
    },
    Delete {
        name: String,
    },
    Append {
        inode: u64,
        offset: u64,
        bytes: Bytes,
    },
    /// Appends to `inode` among the first `through` steps are durable from here on.
    Sync {
        inode: u64,
        through: usize,
    },
    /// A caller was told that the disk does not have the forgotten appends to `inode`: from here on
    /// no crash brings them back.
    Disown {
        inode: u64,
    },
    /// As `Sync`, for creations and deletions.
    SyncDirectory {
        through: usize,
    },
}

/// All operations on a device, in order.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    steps: Vec<Step>,
    /// Steps of appends whose sync failed: the kernel forgot them, no later sync writes them.
    forgotten: Vec<usize>,
}

/// Cheap to clone; all clones are one device.
#[derive(Clone, Default)]
pub struct MemoryDevice(Rc<Inner>);

#[derive(Default)]
struct Inner {
    files: RefCell<BTreeMap<String, (u64, Content)>>,
    /// Bytes of reserved files, if there is a capacity.
    reserved: RefCell<BTreeMap<String, u64>>,
    next_inode: Cell<u64>,
    trace: Rc<RefCell<Trace>>,
    faults: RefCell<Faults>,
    appends: Cell<u64>,
    syncs: Cell<u64>,
    clock: RefCell<Option<Rc<dyn Executor>>>,
}

type Content = Rc<RefCell<Vec<u8>>>;

struct MemoryFile {
    device: Rc<Inner>,
    inode: u64,
    content: Content,
    /// Opened, not created: its sync drops cached data that the disk does not have.
    found: bool,
}

impl MemoryDevice {
    pub fn new() -> MemoryDevice {
        MemoryDevice::default()
    }

    /// The operations so far; it goes on growing.
    pub fn trace(&self) -> Rc<RefCell<Trace>> {
        self.0.trace.clone()
    }

    /// `append` calls so far, as [`Faults`] counts them.
    pub fn appends(&self) -> u64 {
        self.0.appends.get()
    }

    /// Faults from now on.
    pub fn inject(&self, faults: Faults) {
        *self.0.faults.borrow_mut() = faults;
    }

    /// The clock of slow operations. A device outlives the executors of its users.
    pub fn set_clock(&self, clock: Rc<dyn Executor>) {
        *self.0.clock.borrow_mut() = Some(clock);
    }

    /// Appends and syncs so far, as [`Faults`] counts them.
    pub fn operations(&self) -> (u64, u64) {
        (self.0.appends.get(), self.0.syncs.get())
    }

    /// Changes bytes silently, as a failing disk does.
    ///
    /// # Panics
    /// If there is no such file.
    #[allow(clippy::expect_used, reason = "for tests")]
    pub fn corrupt(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let content = self.0.files.borrow().get(name).expect("file to corrupt").1.clone();
        change(&mut content.borrow_mut());
    }

    /// Names of all files, sorted.
    pub fn names(&self) -> Vec<String> {
        self.0.files.borrow().keys().cloned().collect()
    }

    /// A copy of a file's bytes; `None` if there is no such file.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        Some(self.0.files.borrow().get(name)?.1.borrow().clone())
    }

    /// A device whose files are all durable: the recording starts with them in place.
    fn from_files(files: BTreeMap<String, Vec<u8>>) -> MemoryDevice {
        let device = MemoryDevice::default();
        for (name, bytes) in files {
            let inode = device.0.insert(name, bytes.clone());
            let bytes = Bytes::from(bytes);
            let through = device.0.record(Step::Append { inode, offset: 0, bytes });
            device.0.record(Step::Sync { inode, through });
        }
        let through = device.0.trace.borrow().steps.len();
        device.0.record(Step::SyncDirectory { through });
        device
    }
}

impl Inner {
    /// Bytes left of the capacity.
    fn left(&self) -> Option<u64> {
        let capacity = self.faults.borrow().capacity?;
        let written: u64 =
            self.files.borrow().values().map(|(_, content)| content.borrow().len() as u64).sum();
        let reserved: u64 = self.reserved.borrow().values().sum();
        Some(capacity.saturating_sub(written + reserved))
    }

    /// Whether the next append would find the disk full.
    fn is_full(&self) -> bool {
        let (faults, number) = (self.faults.borrow(), self.appends.get());
        faults.full_from.is_some_and(|from| number >= from)
            && faults.full_until.is_none_or(|until| number < until)
    }

    /// Waits for the duration of the next operation.
    async fn pause(&self) {
        let number = self.appends.get() + self.syncs.get();
        let slow = self.faults.borrow().slow.iter().find(|(at, _)| *at == number).copied();
        let clock = self.clock.borrow().clone();
        if let (Some((_, pause)), Some(clock)) = (slow, clock) {
            clock.sleep(pause).await;
        }
    }

    /// Records `step`; returns how many there are now.
    fn record(&self, step: Step) -> usize {
        let steps = &mut self.trace.borrow_mut().steps;
        steps.push(step);
        steps.len()
    }

    fn insert(&self, name: String, bytes: Vec<u8>) -> u64 {
        let inode = self.next_inode.get();
        self.next_inode.set(inode + 1);
        self.record(Step::Create { name: name.clone(), inode });
        self.files.borrow_mut().insert(name, (inode, Rc::new(RefCell::new(bytes))));
        inode
    }

    fn file(self: &Rc<Self>, name: &str, found: bool) -> io::Result<Rc<dyn File>> {
        let files = self.files.borrow();
        let (inode, content) =
            files.get(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let (inode, content) = (*inode, content.clone());
        Ok(Rc::new(MemoryFile { device: self.clone(), inode, content, found }))
    }
}

fn count(counter: &Cell<u64>) -> u64 {
    counter.replace(counter.get() + 1)
}

fn injected(what: &str) -> io::Error {
    io::Error::other(format!("injected fault: {what}"))
}

impl Device for MemoryDevice {
    /// Without a capacity it only reports whether there would be room.
    fn reserve(&self, name: &str, len: u64) -> LocalFuture<'_, io::Result<()>> {
        let name = name.to_owned();
        Box::pin(async move {
            yield_once().await;
            let held = self.0.reserved.borrow().get(&name).copied().unwrap_or(0);
            let left = self.0.left();
            if self.0.is_full() || left.is_some_and(|left| len > left + held) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if left.is_some() {
                self.0.reserved.borrow_mut().insert(name, len);
            }
            Ok(())
        })
    }

    fn free_space(&self) -> LocalFuture<'_, io::Result<Option<u64>>> {
        Box::pin(async move {
            yield_once().await;
            if self.0.faults.borrow().read_only {
                return Err(io::ErrorKind::ReadOnlyFilesystem.into());
            }
            Ok(self.0.left().or(self.0.faults.borrow().free))
        })
    }

    fn create(&self, name: &str, _size_hint: u64) -> LocalFuture<'_, io::Result<Rc<dyn File>>> {
        let name = name.to_owned();
        Box::pin(async move {
            yield_once().await;
            if self.0.files.borrow().contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            self.0.insert(name.clone(), Vec::new());
            yield_once().await;
            self.0.file(&name, false)
        })
    }

    fn open(&self, name: &str) -> LocalFuture<'_, io::Result<Rc<dyn File>>> {
        let name = name.to_owned();
        Box::pin(async move {
            yield_once().await;
            self.0.file(&name, true)
        })
    }

    fn sync_directory(&self) -> LocalFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let through = self.0.trace.borrow().steps.len();
            yield_once().await;
            if !self.0.faults.borrow().lying_sync {
                self.0.record(Step::SyncDirectory { through });
            }
            yield_once().await;
            Ok(())
        })
    }

    fn delete(&self, name: &str) -> LocalFuture<'_, io::Result<()>> {
        let name = name.to_owned();
        Box::pin(async move {
            yield_once().await;
            if self.0.reserved.borrow_mut().remove(&name).is_some() {
                return Ok(());
            }
            if self.0.files.borrow_mut().remove(&name).is_none() {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.0.record(Step::Delete { name });
            Ok(())
        })
    }

    fn list(&self) -> LocalFuture<'_, io::Result<Vec<String>>> {
        Box::pin(async move {
            yield_once().await;
            Ok(self.0.files.borrow().keys().cloned().collect())
        })
    }
}

impl MemoryFile {
    fn write(&self, offset: u64, bytes: &[u8]) {
        let mut content = self.content.borrow_mut();
        assert_eq!(content.len() as u64, offset, "append anywhere but at the end");
        content.extend_from_slice(bytes);
        let bytes = Bytes::copy_from_slice(bytes);
        self.device.record(Step::Append { inode: self.inode, offset, bytes });
    }

    fn append_now(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let number = count(&self.device.appends);
        let faults = self.device.faults.borrow();
        if self.device.left().is_some_and(|left| left < bytes.len() as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let full = faults.full_from.is_some_and(|from| number >= from);
        if full && faults.full_until.is_none_or(|until| number < until) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if faults.failed_appends.contains(&number) {
            return Err(injected("failed append"));
        }
        if faults.short_appends.contains(&number) {
            self.write(offset, &bytes[..bytes.len() / 2]);
            return Err(injected("short append"));
        }
        self.write(offset, bytes);
        Ok(())
    }

    fn sync_now(&self, through: usize) -> io::Result<()> {
        let number = count(&self.device.syncs);
        let faults = self.device.faults.borrow();
        if faults.failed_syncs.contains(&number) {
            self.device.trace.borrow_mut().forget(self.inode, through);
            return Err(injected("failed sync"));
        }
        if !faults.lying_sync {
            self.device.record(Step::Sync { inode: self.inode, through });
        }
        let trace = self.device.trace.borrow();
        if self.found && trace.forgot(self.inode) {
            let nothing = &mut Choices(0);
            let disk = trace.surviving_bytes(&trace.steps, self.inode, CrashMode::Lost, nothing);
            *self.content.borrow_mut() = disk;
            drop(trace);
            self.device.record(Step::Disown { inode: self.inode });
        }
        Ok(())
    }
}

impl File for MemoryFile {
    fn append(&self, offset: u64, bytes: Vec<u8>) -> LocalFuture<'_, (io::Result<()>, Vec<u8>)> {
        Box::pin(async move {
            yield_once().await;
            self.device.pause().await;
            let outcome = self.append_now(offset, &bytes);
            yield_once().await;
            (outcome, bytes)
        })
    }

    fn read_at(&self, offset: u64, len: usize) -> LocalFuture<'_, io::Result<Vec<u8>>> {
        Box::pin(async move {
            yield_once().await;
            if self.device.faults.borrow().unreadable {
                return Err(io::Error::other("simulated: cannot be read"));
            }
            let content = self.content.borrow();
            let start = content.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
            let end = content.len().min(start.saturating_add(len));
            Ok(content[start..end].to_vec())
        })
    }

    fn sync(&self) -> LocalFuture<'_, io::Result<()>> {
        Box::pin(async move {
            // Only writes before the call are covered.
            let through = self.device.trace.borrow().steps.len();
            yield_once().await;
            self.device.pause().await;
            let outcome = self.sync_now(through);
            yield_once().await;
            outcome
        })
    }

    fn len(&self) -> LocalFuture<'_, io::Result<u64>> {
        Box::pin(async move { Ok(self.content.borrow().len() as u64) })
    }
}

/// A small stream of random choices for one image.
struct Choices(u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        split_mix(self.0)
    }

    fn heads(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

impl Trace {
    /// Operations recorded so far.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The device as found after a power loss when only the first `step` operations had happened.
    /// `seed` decides which un-synced ones survive, within `mode`.
    pub fn image(&self, step: usize, mode: CrashMode, seed: u64) -> MemoryDevice {
        let mut choices = Choices(seed ^ (step as u64) << 32);
        let steps = &self.steps[..step.min(self.steps.len())];
        let names = self.surviving_names(steps, mode, &mut choices);
        let files = names
            .into_iter()
            .map(|(name, inode)| (name, self.surviving_bytes(steps, inode, mode, &mut choices)))
            .collect();
        MemoryDevice::from_files(files)
    }

    /// The last `count` operations, for human readers.
    pub fn last(&self, count: usize) -> Vec<String> {
        let first = self.steps.len().saturating_sub(count);
        let steps = self.steps.iter().enumerate().skip(first);
        let line = |(at, step): (usize, &Step)| match step {
            Step::Append { inode, offset, bytes } => {
                let forgotten = if self.forgotten.contains(&at) { ", forgotten" } else { "" };
                format!("{at}: append {} at {offset} of inode {inode}{forgotten}", bytes.len())
            }
            other => format!("{at}: {other:?}"),
        };
        steps.map(line).collect()
    }

    fn forget(&mut self, inode: u64, through: usize) {
        let durable = durable_through(&self.steps, inode);
        let lost = (durable..through)
            .filter(|&at| matches!(self.steps[at], Step::Append { inode: of, .. } if of == inode));
        self.forgotten.extend(lost);
    }

    /// Whether a failed sync of this file lost something.
    fn forgot(&self, inode: u64) -> bool {
        let lost =
            |&at: &usize| matches!(self.steps[at], Step::Append { inode: of, .. } if of == inode);
        self.forgotten.iter().any(lost)
    }

    /// The directory: synced operations, and any subset of the others.
    fn surviving_names(
        &self,
        steps: &[Step],
        mode: CrashMode,
        choices: &mut Choices,
    ) -> BTreeMap<String, u64> {
        // The furthest, not the latest: of two concurrent syncs, the one started first may end
        // last.
        let synced = steps.iter().filter_map(|step| match step {
            Step::SyncDirectory { through } => Some(*through),
            _ => None,
        });
        let synced = synced.max();
        let mut names = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            let survives = at < synced.unwrap_or(0) || (mode != CrashMode::Lost && choices.heads());
            match step {
                Step::Create { name, inode } if survives => {
                    names.insert(name.clone(), *inode);
                }
                Step::Delete { name } if survives => {
                    names.remove(name);
                }
                _ => {}
            }
        }
        names
    }

    fn surviving_bytes(
        &self,
        steps: &[Step],
        inode: u64,
        mode: CrashMode,
        choices: &mut Choices,
    ) -> Vec<u8> {
        let durable = durable_through(steps, inode);
        let disowned = |step: &Step| matches!(step, Step::Disown { inode: of } if *of == inode);
        let disowned = steps.iter().rposition(disowned).unwrap_or(0);
        let mut content = Vec::new();
        let mut loose = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Append { inode: of, offset, bytes } if *of == inode => {
                    if at < durable && !self.forgotten.contains(&at) {
                        put(&mut content, *offset as usize, bytes);
                    } else if at >= disowned || !self.forgotten.contains(&at) {
                        loose.push((*offset as usize, bytes));
                    }
                }
                _ => {}
            }
        }
        match mode {
            CrashMode::Lost => {}
            CrashMode::TornSector => put_torn(&mut content, &loose, SECTOR, choices),
            CrashMode::TornPage => put_torn(&mut content, &loose, 8 * SECTOR, choices),
            CrashMode::Reordered => put_some_sectors(&mut content, &loose, choices),
        }
        content
    }
}

/// Appends to `inode` before this step are durable.
fn durable_through(steps: &[Step], inode: u64) -> usize {
    let synced = steps.iter().filter_map(|step| match step {
        Step::Sync { inode: of, through } if *of == inode => Some(*through),
        _ => None,
    });
    synced.max().unwrap_or(0)
}

/// Writes `bytes` at `offset`; a gap before it reads as zeros.
fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

/// The writes in order, up to a multiple of `unit` somewhere in them.
fn put_torn(content: &mut Vec<u8>, loose: &[(usize, &Bytes)], unit: usize, choices: &mut Choices) {
    let total: usize = loose.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut left = (choices.next() % (total / unit + 1) as u64) as usize * unit;
    for (offset, bytes) in loose {
        let len = bytes.len().min(left);
        left -= len;
        if len > 0 {
            put(content, *offset, &bytes[..len]);
        }
    }
}

/// Any subset of the sectors of the writes.
fn put_some_sectors(content: &mut Vec<u8>, loose: &[(usize, &Bytes)], choices: &mut Choices) {
    for (offset, bytes) in loose {
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            if choices.heads() {
                put(content, offset + index * SECTOR, sector);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::simulation::Simulation;

    /// One synced and one un-synced block in a file whose directory entry is synced.
    fn workload(device: &MemoryDevice) {
        Simulation::new(1).run_until(async {
            let file = device.create("a", 0).await.unwrap();
            device.sync_directory().await.unwrap();
            file.append(0, vec![1; 4096]).await.0.unwrap();
            file.sync().await.unwrap();
            file.append(4096, vec![2; 4096]).await.0.unwrap();
        });
    }

    #[test]
    fn images_keep_the_synced_and_only_parts_of_the_rest() {
        let device = MemoryDevice::new();
        workload(&device);
        let trace = device.trace();
        let trace = trace.borrow();
        for mode in CrashMode::ALL {
            let mut lens = std::collections::BTreeSet::new();
            for seed in 0..64 {
                let content = trace.image(trace.len(), mode, seed).content("a").unwrap();
                assert_eq!(content[..4096], [1; 4096], "{mode:?}");
                lens.insert(content.len());
            }
            let expected = match mode {
                CrashMode::Lost => 1,
                CrashMode::TornPage => 2,
                CrashMode::TornSector | CrashMode::Reordered => 3,
            };
            assert!(lens.len() >= expected, "{mode:?}: {lens:?}");
        }
    }

    #[test]
    fn lying_sync_and_unsynced_directory_lose_everything() {
        let device = MemoryDevice::new();
        device.inject(Faults { lying_sync: true, ..Faults::default() });
        workload(&device);
        let trace = device.trace();
        let image = trace.borrow().image(usize::MAX, CrashMode::Lost, 0);
        assert_eq!(image.content("a"), None);
    }

    #[test]
    fn failed_sync_loses_for_ever() {
        let device = MemoryDevice::new();
        device.inject(Faults { failed_syncs: vec![0], ..Faults::default() });
        Simulation::new(1).run_until(async {
            let file = device.create("a", 0).await.unwrap();
            device.sync_directory().await.unwrap();
            file.append(0, vec![1; 512]).await.0.unwrap();
            assert!(file.sync().await.is_err());
            file.sync().await.unwrap();
        });
        let trace = device.trace();
        let image = trace.borrow().image(usize::MAX, CrashMode::Lost, 0);
        assert_eq!(image.content("a"), Some(Vec::new()));
    }

    /// A reader that reopens the file is told what the disk has: no later crash adds to that.
    #[test]
    fn what_the_disk_was_told_not_to_have_stays_away() {
        let device = MemoryDevice::new();
        device.inject(Faults { failed_syncs: vec![0], ..Faults::default() });
        Simulation::new(1).run_until(async {
            let file = device.create("a", 0).await.unwrap();
            device.sync_directory().await.unwrap();
            file.append(0, vec![1; 4096]).await.0.unwrap();
            assert!(file.sync().await.is_err());
        });
        let trace = device.trace();
        let survives = |seed| {
            let image = trace.borrow().image(usize::MAX, CrashMode::Reordered, seed);
            !image.content("a").unwrap().is_empty()
        };
        assert!((0..64).any(survives));
        Simulation::new(2).run_until(async {
            let file = device.open("a").await.unwrap();
            file.sync().await.unwrap();
            assert_eq!(file.len().await.unwrap(), 0);
        });
        assert!(!(0..64).any(survives));
    }
}
