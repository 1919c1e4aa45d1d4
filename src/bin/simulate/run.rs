//! One seed: a server with several lives on the same devices, with active clients, faults, and an
//! end by power loss, kill or shutdown; checked after every recovery.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use crate::{
    model::{Flags, MailboxId},
    plant,
    queue::Filter,
    runtime::{
        device::memory::{CrashMode, Faults, MemoryDevice},
        executor::{Executor, Priority},
        simulation::{Simulation, split_mix},
    },
};

use super::{
    check,
    expectation::{Found, PARTITIONS, SESSIONS, SHARED, body_of, partition_of},
    post::{BOXES, Post},
    sender::{SENDERS, Sender},
    session::{Ledger, Life, Session, extract, hold_views, watch},
    world::{NotOpened, World, address_of, queue_options},
};

/// Turns of the main loop after which a life that does not end is an error.
const TURNS_MAX: u64 = 3_000_000;

/// Operations of each device noted at the end of a life.
const OPERATIONS_NOTED: usize = 40;

/// Turns for which watchers go on after all sessions are done: reads must work whatever happened to
/// the disk.
const AFTERWARDS: u32 = 100;

/// Virtual time for all mail for elsewhere to come to its end: it expires, and reports too.
const SETTLED_WITHIN: Duration = Duration::from_secs(3 * 900);

/// Microseconds.
const SECOND: i64 = 1_000_000;

/// The result of a seed without errors.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    pub crashes: u64,
    pub recoveries: u64,
    /// Broken disks examined.
    pub damages: u64,
}

/// Why a seed failed.
pub struct Complaint {
    pub text: String,
    pub history: Vec<String>,
}

/// A small stream of random choices.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        split_mix(self.0)
    }

    fn below(&mut self, below: u64) -> u64 {
        self.next() % below.max(1)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// Two accounts in each partition.
fn accounts() -> Vec<u64> {
    let mut of = [0; PARTITIONS as usize];
    (1..)
        .filter(|account| {
            let count = &mut of[usize::from(partition_of(*account))];
            *count += 1;
            *count <= 2
        })
        .take(2 * usize::from(PARTITIONS))
        .collect()
}

/// The accounts after them: one in each partition, for mail that comes through the queue.
fn boxes(accounts: &[u64]) -> Vec<(u64, String)> {
    let last = accounts.iter().copied().max().unwrap_or(0);
    let first_in = |partition: usize| {
        let account = (last + 1..).find(|it| usize::from(partition_of(*it)) == partition);
        let account = account.unwrap_or_default();
        (account, address_of(account))
    };
    (0..BOXES).map(first_in).collect()
}

/// Runs `seed` to its end. `commands`: for each session in each life; random if `None`.
pub fn run(seed: u64, commands: Option<usize>) -> Result<Tally, Complaint> {
    let mut dice = Dice(split_mix(seed));
    let ledger = Rc::new(Ledger::new());
    let accounts = accounts();
    let post = Rc::new(Post::new(ledger.clone(), queue_options(), boxes(&accounts)));
    let mut run = Run {
        mails: dice.one_in(2),
        dice,
        ledger,
        post,
        accounts: Rc::new(accounts),
        commands,
        tally: Tally::default(),
    };
    plant::take_failed_check();
    let outcome = run.lives();
    let outcome = match plant::take_failed_check() {
        Some(text) => Err(format!("a check of the store's own: {text}")),
        None => outcome,
    };
    outcome.map_err(|text| Complaint {
        text,
        history: run.ledger.history.borrow().iter().cloned().collect(),
    })?;
    Ok(run.tally)
}

struct Run {
    dice: Dice,
    ledger: Rc<Ledger>,
    accounts: Rc<Vec<u64>>,
    post: Rc<Post>,
    /// There is mail for elsewhere in this run.
    mails: bool,
    commands: Option<usize>,
    tally: Tally,
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Power loss.
    Crash(CrashMode, u64),
    /// The process is gone, the page cache remains.
    Kill,
    /// All clients are done and the server shuts down.
    Close,
}

impl Run {
    fn lives(&mut self) -> Result<(), String> {
        let mut devices: Vec<MemoryDevice> = (0..PARTITIONS).map(|_| MemoryDevice::new()).collect();
        let lives = 2 + self.dice.below(3) as u32;
        for number in 0..=lives {
            let world = self.recover(devices, number)?;
            if number == lives {
                self.settle(&world)?;
                self.post.end_life(world.simulation.now());
                return self.break_contract(world);
            }
            if number == 0 {
                self.deliver_shared(&world)?;
            }
            let liar = self.draw_liar(number + 1 == lives);
            let faults = self.inject(&world, liar);
            let life = self.life(&world, number, faults);
            self.post.faults.set(faults);
            let done = self.live(&world, &life)?;
            if let Some(partition) = liar {
                return self.check_liar(world, partition);
            }
            let end = self.draw_end(done);
            self.note_operations(&world);
            self.ledger.note(format!("life {number} ends by {end:?} at step {}", world.step()));
            devices = self.end(world, end, faults)?;
        }
        Ok(())
    }

    /// Starts the server and checks everything.
    fn recover(&mut self, devices: Vec<MemoryDevice>, number: u32) -> Result<World, String> {
        for device in &devices {
            device.inject(Faults::default());
        }
        let world = self.start(devices, true)?;
        self.note_files(&world);
        let life = self.life(&world, number, false);
        let found = world.simulation.run_until(extract(&life));
        check::recovered(&mut self.ledger.model.borrow_mut(), &found)
            .map_err(|error| format!("after the start of life {number}: {error}"))?;
        for number in 0..PARTITIONS {
            if let Some(damage) = world.partition(number).damage_news().first() {
                return Err(format!("damage found on a disk that is whole: {damage:?}"));
            }
        }
        self.tally.recoveries += 1;
        Ok(world)
    }

    /// The outside world becomes kind: all mail for elsewhere comes to its end.
    fn settle(&mut self, world: &World) -> Result<(), String> {
        if !self.mails {
            return Ok(());
        }
        self.post.kind.set(true);
        self.post.release_all(world.simulation.now());
        let until = world.simulation.now().after(SETTLED_WITHIN);
        loop {
            let standing = world.standing(&self.post);
            let standing = standing.map_err(|error| format!("the queue: {error}"))?;
            if let Some(complaint) = self.ledger.complaint.borrow().clone() {
                return Err(complaint);
            }
            if standing.is_drained() || world.simulation.now() > until {
                return self
                    .post
                    .check_settled(&standing)
                    .map_err(|error| format!("at the end: {error}"));
            }
            world.simulation.run_until(async {
                for shard in &world.shards {
                    let held = Filter { held: Some(true), ..Filter::default() };
                    for listed in shard.relay().list(&held, None, 1000).await {
                        let _ = shard.relay().set_held(listed.id, false).await;
                    }
                }
                world.simulation.sleep(Duration::from_secs(5)).await;
            });
        }
    }

    /// Seconds by which the clock goes on between two lives, and since the first.
    fn downtime(&mut self) -> i64 {
        let pause = 1 + self.dice.below(20) as i64;
        let first = Simulation::new(0).now();
        let last = self.post.last_end().unwrap_or(first);
        (last.0 - first.0) / SECOND + pause
    }

    /// Records the files on the devices.
    fn note_files(&self, world: &World) {
        for (partition, device) in world.devices.iter().enumerate() {
            for name in device.names() {
                let bytes = device.content(&name).unwrap_or_default();
                // A segment's header has its base LSN here (docs/disk_format.md).
                let base = bytes.get(24..32).and_then(|base| base.try_into().ok());
                let base = base.map_or(0, u64::from_le_bytes);
                let line =
                    format!("partition {partition}: {name}, {} bytes, base {base}", bytes.len());
                self.ledger.note(line);
            }
        }
    }

    fn start(&mut self, devices: Vec<MemoryDevice>, goes_on: bool) -> Result<World, String> {
        let (seed, downtime) = (self.dice.next(), self.downtime());
        let world = World::start(seed, devices, goes_on.then_some(&self.post), downtime);
        let world = world.map_err(|NotOpened(number, error)| {
            format!("partition {number} does not open: {error}")
        })?;
        self.post.aside.set(!goes_on);
        if let Some(damage) = world.reports.iter().find_map(|report| report.damage.first()) {
            return Err(format!("damage reported on a disk that is whole: {damage:?}"));
        }
        let read = || {
            let standing = world.standing(&self.post);
            standing.map_err(|error| format!("the queue cannot be read: {error}"))
        };
        if self.mails {
            self.post.check_durable(&read()?, world.simulation.now())?;
        }
        world.drain()?;
        if self.mails {
            self.post.check_direct(&read()?)?;
        }
        match self.ledger.complaint.borrow().clone() {
            Some(complaint) => Err(complaint),
            None => Ok(world),
        }
    }

    fn life(&self, world: &World, number: u32, faults: bool) -> Rc<Life> {
        let traces: Vec<_> = world.devices.iter().map(MemoryDevice::trace).collect();
        Rc::new(Life {
            simulation: world.simulation.clone(),
            shards: world.shards.clone(),
            ledger: self.ledger.clone(),
            accounts: self.accounts.clone(),
            faults,
            running: Cell::new(SESSIONS + if self.mails { SENDERS } else { 0 }),
            ended: Cell::new(false),
            tokens: RefCell::default(),
            number,
            step: Box::new(move || traces.iter().map(|trace| trace.borrow().len()).sum()),
        })
    }

    /// Puts the message that all sessions compete for into each account.
    fn deliver_shared(&mut self, world: &World) -> Result<(), String> {
        for account in self.accounts.iter() {
            let token = self.ledger.token(SHARED, false);
            let partition = world.of_account(*account).clone();
            let appended = world.simulation.run_until(async {
                let account = partition.account(crate::model::AccountId(*account)).await?;
                let mut writer = partition.stage();
                writer.write(&body_of(token)).await?;
                let body = writer.finish(Vec::new()).await?;
                let now = world.simulation.now();
                account.append(MailboxId::INBOX, body, Flags::default(), &[], now).await
            });
            appended.map_err(|error| format!("first message of {account}: {error}"))?;
        }
        let life = self.life(world, 0, false);
        let found = world.simulation.run_until(extract(&life));
        let shared = found.shares[SHARED as usize].clone();
        self.ledger.model.borrow_mut().clients[SHARED as usize].share = shared;
        Ok(())
    }

    /// Draws the disks' faults within their contract; true if there are any.
    fn inject(&mut self, world: &World, liar: Option<u16>) -> bool {
        if let Some(partition) = liar {
            let faults = Faults { lying_sync: true, ..Faults::default() };
            world.devices[usize::from(partition)].inject(faults);
            return false;
        }
        if self.dice.one_in(2) {
            return false;
        }
        for (partition, device) in world.devices.iter().enumerate() {
            let mut faults = Faults::default();
            let (appends, syncs) = device.operations();
            match self.dice.below(8) {
                0 => faults.failed_syncs = vec![syncs + self.dice.below(60)],
                1 => faults.failed_appends = vec![appends + self.dice.below(60)],
                2 => faults.short_appends = vec![appends + self.dice.below(60)],
                3 => {
                    let from = appends + self.dice.below(60);
                    faults.full_from = Some(from);
                    faults.full_until = Some(from + 1 + self.dice.below(20));
                }
                4 | 5 => {
                    for _ in 0..1 + self.dice.below(4) {
                        let at = appends + syncs + self.dice.below(100);
                        let pause = match self.dice.below(3) {
                            0 => Duration::from_millis(self.dice.below(50)),
                            1 => Duration::from_millis(self.dice.below(5_000)),
                            _ => Duration::from_secs(self.dice.below(200)),
                        };
                        faults.slow.push((at, pause));
                    }
                }
                _ => {}
            }
            self.ledger.note(format!("partition {partition}: {faults:?}"));
            device.inject(faults);
        }
        true
    }

    /// Lets clients work until the drawn step, or until they are done; true if they are.
    fn live(&mut self, world: &World, life: &Rc<Life>) -> Result<bool, String> {
        let executor = &world.simulation;
        for number in 0..SESSIONS {
            let home = self.accounts[self.dice.below(self.accounts.len() as u64) as usize];
            let drawn = 4 + self.dice.below(28) as usize;
            let commands = self.commands.unwrap_or(drawn);
            let session =
                Session { number, home: self.home(number, home), life: life.clone(), commands };
            executor.spawn(Priority::Foreground, Box::pin(session.run()));
        }
        for _ in 0..if self.mails { SENDERS } else { 0 } {
            let commands = self.commands.unwrap_or(2 + self.dice.below(12) as usize);
            let (life, post) = (life.clone(), self.post.clone());
            let sender = Sender { life, post, commands };
            executor.spawn(Priority::Foreground, Box::pin(sender.run()));
        }
        executor.spawn(Priority::Foreground, Box::pin(watch(life.clone())));
        executor.spawn(Priority::Foreground, Box::pin(hold_views(life.clone())));
        let until = match self.dice.one_in(4) {
            true => usize::MAX,
            false => world.step() + self.dice.below(500) as usize,
        };
        let ledger = self.ledger.clone();
        world.simulation.run_until(async {
            let (mut turns, mut idle, mut before) = (0u64, 0, 0);
            let mut afterwards = AFTERWARDS;
            while afterwards > 0 && ledger.complaint.borrow().is_none() {
                if life.running.get() == 0 {
                    afterwards -= 1;
                }
                let step = world.step();
                if step >= until {
                    break;
                }
                idle = if step == before { idle + 1 } else { 0 };
                before = step;
                turns += 1;
                if turns > TURNS_MAX {
                    return ledger.complain("the clients never end".to_owned());
                }
                match idle > 20 {
                    true => executor.sleep(Duration::from_millis(1 << (idle / 20).min(12))).await,
                    false => executor.yield_now().await,
                }
            }
        });
        match self.ledger.complaint.borrow().clone() {
            Some(complaint) => Err(complaint),
            None => Ok(life.running.get() == 0),
        }
    }

    /// A session's home stays the same in all lives: its known state is there.
    fn home(&self, number: u64, drawn: u64) -> u64 {
        let model = self.ledger.model.borrow();
        let share = &model.clients[number as usize].share;
        let of_mailbox = share.mailboxes.keys().map(|(account, _)| *account);
        let of_subscription = share.subscriptions.iter().map(|(account, _)| *account);
        let of_property = share.properties.keys().map(|place| place.0);
        let of_grant = share.grants.iter().map(|grant| grant.0);
        let known = of_mailbox.chain(of_subscription).chain(of_property).chain(of_grant).next();
        known.unwrap_or(drawn)
    }

    fn draw_end(&mut self, done: bool) -> End {
        match self.dice.below(6) {
            0 => End::Kill,
            1 | 2 if done => End::Close,
            _ => {
                let mode = CrashMode::ALL[self.dice.below(CrashMode::ALL.len() as u64) as usize];
                End::Crash(mode, self.dice.next())
            }
        }
    }

    /// The last operations on all devices, if the whole history was requested.
    fn note_operations(&self, world: &World) {
        for (partition, device) in world.devices.iter().enumerate() {
            for line in device.trace().borrow().last(OPERATIONS_NOTED) {
                self.ledger.note(format!("partition {partition} {line}"));
            }
        }
    }

    /// Ends the life; returns the devices for the next one.
    fn end(&mut self, world: World, end: End, faults: bool) -> Result<Vec<MemoryDevice>, String> {
        if let End::Close = end {
            match world.close() {
                Err(error) if !faults => return Err(format!("close: {error}")),
                _ => {}
            }
        }
        // Hosts may get something until then.
        self.post.end_life(world.simulation.now());
        match end {
            End::Kill | End::Close => Ok(world.kill()),
            End::Crash(mode, seed) => {
                self.tally.crashes += 1;
                let devices = world.kill();
                let images = |mode: CrashMode, seed: u64| -> Vec<MemoryDevice> {
                    let image = |(index, device): (usize, &MemoryDevice)| {
                        let trace = device.trace();
                        trace.borrow().image(usize::MAX, mode, seed ^ index as u64)
                    };
                    devices.iter().enumerate().map(image).collect()
                };
                if self.dice.one_in(4) {
                    for other in CrashMode::ALL.into_iter().filter(|other| *other != mode) {
                        self.probe(images(other, seed)).map_err(|error| {
                            format!(
                                "power loss, {other:?}, looked at and not gone on with: {error}"
                            )
                        })?;
                    }
                }
                Ok(images(mode, seed))
            }
        }
    }

    /// In some last lives one disk answers syncs without doing anything.
    fn draw_liar(&mut self, last: bool) -> Option<u16> {
        (last && self.dice.one_in(8)).then(|| self.dice.below(u64::from(PARTITIONS)) as u16)
    }

    /// Power loss after a life in which the disk of `partition` lied: the run ends here.
    fn check_liar(&mut self, world: World, partition: u16) -> Result<(), String> {
        let mode = CrashMode::ALL[self.dice.below(CrashMode::ALL.len() as u64) as usize];
        let seed = self.dice.next();
        self.ledger.note(format!("partition {partition} lied about syncs; power loss, {mode:?}"));
        let devices = world.kill();
        let images = devices.iter().map(|device| {
            let trace = device.trace();
            trace.borrow().image(usize::MAX, mode, seed)
        });
        self.check_damaged(images.collect(), partition, true)
    }

    /// Damages the disks of a server that was just found intact, in several ways one by one.
    fn break_contract(&mut self, world: World) -> Result<(), String> {
        if self.dice.one_in(2) {
            world.kill();
            return Ok(());
        }
        // After a checkpoint no batch is the last one, whose loss looks like a torn tail.
        for number in 0..PARTITIONS {
            let checkpoint = world.partition(number).checkpoint();
            let outcome = world.simulation.run_until(checkpoint);
            outcome.map_err(|error| format!("checkpoint of partition {number}: {error}"))?;
        }
        let devices = world.kill();
        // Everything used at the last start was synced: nothing is lost by this.
        let images = || -> Vec<MemoryDevice> {
            let image = |device: &MemoryDevice| {
                let trace = device.trace();
                trace.borrow().image(usize::MAX, CrashMode::Lost, 0)
            };
            devices.iter().map(image).collect()
        };
        self.probe(images()).map_err(|error| format!("power loss after a start: {error}"))?;
        for _ in 0..3 {
            let images = images();
            let partition = self.dice.below(u64::from(PARTITIONS)) as u16;
            if let Some(what) = self.rot(&images[usize::from(partition)]) {
                self.ledger.note(format!("partition {partition}: {what}"));
                self.check_damaged(images, partition, false)
                    .map_err(|error| format!("{what}: {error}"))?;
            }
        }
        Ok(())
    }

    /// Changes one place of a file; returns a description, `None` if nothing changed.
    fn rot(&mut self, device: &MemoryDevice) -> Option<String> {
        const BLOCK: usize = 4096;
        const SECTOR: usize = 512;
        let names = device.names();
        let name = &names[self.dice.below(names.len() as u64) as usize];
        let before = device.content(name)?;
        let mut bytes = before.clone();
        if bytes.len() < BLOCK {
            return None;
        }
        let at = self.dice.below(bytes.len() as u64) as usize;
        let block = at / BLOCK * BLOCK;
        let sector = at / SECTOR * SECTOR;
        // Half of the cases are misdirected writes: only a few blocks make two entries trade
        // places.
        let what = match self.dice.below(8) {
            0 | 1 => {
                bytes[at] ^= 1 << self.dice.below(8);
                format!("bit flipped in {name} at {at}")
            }
            2 => {
                bytes[sector..].iter_mut().take(SECTOR).for_each(|byte| *byte = 0);
                format!("sector zeroed in {name} at {sector}")
            }
            3 => {
                bytes[block..].iter_mut().take(BLOCK).for_each(|byte| *byte = 0);
                format!("block zeroed in {name} at {block}")
            }
            _ => {
                let other = &names[self.dice.below(names.len() as u64) as usize];
                let source = device.content(other)?;
                let from = self.dice.below((source.len() / BLOCK) as u64) as usize * BLOCK;
                let piece = source.get(from..from + BLOCK)?;
                bytes.get_mut(block..block + BLOCK)?.copy_from_slice(piece);
                format!("block of {other} at {from} written to {name} at {block}")
            }
        };
        let changed = bytes != before;
        device.corrupt(name, |content| *content = bytes);
        changed.then_some(what)
    }

    fn check_damaged(
        &mut self,
        devices: Vec<MemoryDevice>,
        partition: u16,
        lied: bool,
    ) -> Result<(), String> {
        self.tally.damages += 1;
        let world = match World::start(self.dice.next(), devices, None, 0) {
            Ok(world) => world,
            Err(NotOpened(number, error)) => {
                return Err(format!("partition {number} does not open: {error}"));
            }
        };
        let reports = world.reports.iter();
        let named: Vec<bool> = reports.map(|report| !report.damage.is_empty()).collect();
        if named.iter().zip(0..).any(|(named, number)| *named && number != partition) {
            return Err("damage reported on the other disk".to_owned());
        }
        let named = named[usize::from(partition)];
        let mut damage = check::Damage { partition, named, lied };
        let before = self.look_damaged(&world, &mut damage)?;
        // Neither compaction nor a start may destroy anything that was readable.
        let compacted = world.simulation.run_until(world.partition(partition).compact());
        self.ledger.note(format!("compacted after the damage: {compacted:?}"));
        let after = self.look_damaged(&world, &mut damage)?;
        check::still_there(&before, &after)
            .map_err(|error| format!("after compaction of the damaged: {error}"))?;
        let devices = world.kill();
        match World::start(self.dice.next(), devices, None, 0) {
            Ok(world) => {
                let again = self.look_damaged(&world, &mut damage)?;
                world.kill();
                check::still_there(&before, &again)
                    .map_err(|error| format!("after one more start of the damaged: {error}"))
            }
            Err(NotOpened(number, error)) => {
                Err(format!("partition {number} does not open again: {error}"))
            }
        }
    }

    fn look_damaged(&self, world: &World, damage: &mut check::Damage) -> Result<Found, String> {
        let life = self.life(world, u32::MAX, false);
        let found = world.simulation.run_until(extract(&life));
        // A damaged page is salvaged from the log, and reported when it is read.
        damage.named |= !world.partition(damage.partition).damage_news().is_empty();
        check::damaged(&self.ledger.model.borrow(), &found, damage)?;
        Ok(found)
    }

    /// Checks another possible outcome of the same crash.
    fn probe(&mut self, images: Vec<MemoryDevice>) -> Result<(), String> {
        let world = self.start(images, false)?;
        let life = self.life(&world, u32::MAX, false);
        let found = world.simulation.run_until(extract(&life));
        let mut model = self.ledger.model.borrow().clone();
        check::recovered(&mut model, &found)?;
        self.tally.recoveries += 1;
        world.kill();
        Ok(())
    }
}
