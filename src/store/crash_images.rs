//! Crash images: a concurrent workload is recorded; the device as it could be after a power loss at
//! every step is opened and compared with what the sessions had been told by then.
//!
//! Every session works on mail that carries its tokens, so its own view of the store is sequential:
//! after a crash, exactly the state of its last acknowledged command must be there, or that of the
//! command in progress, complete. Another task watches as IMAP clients do, and what it saw must
//! never be taken back. The same checker must catch planted mistakes.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use super::*;
use crate::{
    model::{AccountId, FlagMask, Flags, MailboxId, ModSeq, PartitionId, Timestamp, Uid},
    plant::{Plant, plant},
    runtime::{
        device::memory::{CrashMode, Faults, MemoryDevice, Trace},
        executor::{Executor, Priority},
        simulation::Simulation,
    },
};

const ACCOUNTS: u64 = 3;
const SESSIONS: u64 = 4;

/// Account, mailbox, UID.
type Key = (u64, u32, u32);

#[derive(Clone, PartialEq, Debug)]
struct Known {
    token: u64,
    flags: Flags,
    keywords: BTreeSet<String>,
    /// `None` while the session has not seen it.
    mod_seq: Option<ModSeq>,
}

/// One session's part of the store.
#[derive(Clone, Default, PartialEq, Debug)]
struct Share {
    messages: BTreeMap<Key, Known>,
    /// By account and name: id.
    mailboxes: BTreeMap<(u64, String), u32>,
    subscriptions: BTreeSet<(u64, String)>,
    /// By account, mailbox (0: the account itself) and key.
    properties: BTreeMap<(u64, u32, String), Vec<u8>>,
}

/// A mailbox as it was published at some step.
struct Sight {
    step: usize,
    mod_seq: ModSeq,
    uid_next: Uid,
    live: BTreeSet<Uid>,
}

impl Sight {
    fn of(step: usize, snapshot: &Snapshot) -> Sight {
        let MailboxStatus { highest_mod_seq: mod_seq, uid_next, .. } = snapshot.status();
        let live = snapshot.iter_from(0).map(|message| message.uid).collect();
        Sight { step, mod_seq, uid_next, live }
    }

    /// Compares the expunges reported since this sight with the messages there `now`.
    fn check(&self, told: &Expunged, now: &Sight) -> Result<(), String> {
        let wrong = |uid: &&Uid| {
            let gone_before = **uid < self.uid_next && !self.live.contains(uid);
            now.live.contains(uid) || **uid >= now.uid_next || gone_before
        };
        if let Some(uid) = told.uids.iter().find(wrong) {
            return Err(format!("UID {uid} was not expunged since {}: {told:?}", self.mod_seq));
        }
        let mut gone = self.live.difference(&now.live);
        match gone.find(|uid| self.mod_seq >= told.floor && !told.uids.contains(uid)) {
            Some(uid) => Err(format!("UID {uid} went since {}: {told:?}", self.mod_seq)),
            None => Ok(()),
        }
    }
}

impl Share {
    /// The differences of `found`, as recovered, from what is expected; empty if there are none.
    fn differences(&self, found: &Share) -> Vec<String> {
        let mut differences = Vec::new();
        let keys: BTreeSet<&Key> = self.messages.keys().chain(found.messages.keys()).collect();
        for key in keys {
            let (expected, found) = (self.messages.get(key), found.messages.get(key));
            let same = match (expected, found) {
                (Some(expected), Some(found)) => {
                    let mod_seq = expected.mod_seq.or(found.mod_seq);
                    Known { mod_seq, ..expected.clone() } == *found
                }
                _ => false,
            };
            if !same {
                differences.push(format!("{key:?}: {expected:?}, found {found:?}"));
            }
        }
        if self.mailboxes != found.mailboxes {
            differences.push(format!("{:?}, found {:?}", self.mailboxes, found.mailboxes));
        }
        if self.subscriptions != found.subscriptions {
            differences.push(format!("{:?}, found {:?}", self.subscriptions, found.subscriptions));
        }
        if self.properties != found.properties {
            differences.push(format!("{:?}, found {:?}", self.properties, found.properties));
        }
        differences
    }
}

/// One command of a session; steps are positions in the device's trace.
struct Command {
    started: usize,
    acknowledged: usize,
    after: Share,
}

/// Data for the checker, recorded while the workload runs.
#[derive(Default)]
struct History {
    commands: Vec<Vec<Command>>,
    /// (step, message, its mod-sequence) as published at that step.
    seen_messages: Vec<(usize, Key, ModSeq)>,
    /// (step, account, mailbox, status) likewise.
    seen_statuses: Vec<(usize, u64, u32, MailboxStatus)>,
    /// By account and mailbox, in the order of steps.
    sights: BTreeMap<(u64, u32), Vec<Sight>>,
    /// Step at which the removal of a message, or of a mailbox (UID 0), was first requested.
    removals: BTreeMap<Key, usize>,
    /// A message that a session could no longer read while it had the mailbox selected.
    unreadable: Option<String>,
    /// Segments that compaction deleted.
    segments_deleted: u64,
}

fn options() -> StoreOptions {
    StoreOptions {
        partition: PartitionId(1),
        segment_size: 64 * 1024,
        checkpoint_interval: 48 * 1024,
        account_budget: 24 * 1024,
        write_buffer: 64 * 1024,
        tombstones: TombstoneLimits { at_least: 6, at_most: 16 },
        default_mailboxes: Vec::new(),
        compaction_rate: 0,
        // Some bodies are compressed, some are not.
        compression: Some(Compression { level: 1, body_min: 700 }),
        ..StoreOptions::default()
    }
}

/// The body for a token.
fn body_of(token: u64, large: bool) -> Vec<u8> {
    let len = if large { BODY_CHUNK + 9000 } else { (token.wrapping_mul(7919) % 1500) as usize };
    let mut body = format!("token {token} {}\r\n", u8::from(large)).into_bytes();
    body.extend((0..len as u64).map(|at| (at.wrapping_mul(token | 1) >> 2) as u8));
    body
}

fn token_of(body: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(&body[..body.iter().position(|byte| *byte == b'\r')?]).ok()?;
    let mut words = line.split(' ').skip(1);
    let token = words.next()?.parse().ok()?;
    (body_of(token, words.next()? == "1") == body).then_some(token)
}

/// Tokens name their session.
fn session_of(token: u64) -> u64 {
    token % SESSIONS
}

/// One client: issues commands one after the other and records the answers.
struct Session {
    number: u64,
    partition: Partition,
    simulation: Simulation,
    trace: Rc<RefCell<Trace>>,
    history: Rc<RefCell<History>>,
    share: Share,
    next_token: u64,
    large: bool,
}

impl Session {
    fn step(&self) -> usize {
        self.trace.borrow().len()
    }

    fn pick(&self, below: usize) -> usize {
        (self.simulation.random() % below.max(1) as u64) as usize
    }

    fn home(&self) -> u64 {
        self.number % ACCOUNTS
    }

    fn token(&mut self) -> u64 {
        self.next_token += SESSIONS;
        self.next_token
    }

    async fn account(&self, account: u64) -> Account {
        self.partition.account(AccountId(account)).await.unwrap()
    }

    async fn body(&mut self, token: u64) -> StagedBody {
        let large = self.large && self.pick(4) == 0;
        let mut writer = self.partition.stage();
        for piece in body_of(token, large).chunks(50_000) {
            writer.write(piece).await.unwrap();
        }
        writer.finish(Vec::new()).await.unwrap()
    }

    async fn run(mut self, commands: usize) {
        for _ in 0..commands {
            let started = self.step();
            self.command().await;
            self.look_up_mod_seqs().await;
            let acknowledged = self.step();
            let command = Command { started, acknowledged, after: self.share.clone() };
            self.history.borrow_mut().commands[self.number as usize].push(command);
        }
    }

    async fn command(&mut self) {
        match self.pick(18) {
            0..=3 => self.deliver().await,
            4..=5 => self.append().await,
            6 => self.copy(false).await,
            7 => self.copy(true).await,
            8..=10 => self.flag().await,
            11 => self.expunge().await,
            12 => self.create().await,
            13 => self.rename().await,
            14 if self.pick(3) == 0 => self.delete().await,
            14 => self.subscribe().await,
            15..=16 => self.set_properties().await,
            _ if self.pick(2) == 0 => drop(self.partition.compact().await),
            _ => drop(self.partition.checkpoint().await),
        }
    }

    fn keep(&mut self, delivered: &Delivered, token: u64, flags: Flags, keywords: &[String]) {
        let key = (delivered.account.0, delivered.mailbox.0, delivered.uid.0);
        let keywords = keywords.iter().cloned().collect();
        self.share.messages.insert(key, Known { token, flags, keywords, mod_seq: None });
    }

    async fn deliver(&mut self) {
        let token = self.token();
        let body = self.body(token).await;
        let first = self.pick(ACCOUNTS as usize) as u64;
        let targets = (0..1 + self.pick(3) as u64)
            .map(|n| DeliveryTarget {
                account: AccountId((first + n) % ACCOUNTS),
                mailbox: None,
                flags: Flags::default(),
                keywords: Vec::new(),
                internal_date: Timestamp(token as i64),
                annotations: Vec::new(),
            })
            .collect();
        let id = Some(u128::from(token));
        for delivered in self.partition.deliver(body, targets, id).await.unwrap() {
            self.keep(&delivered, token, Flags::default(), &[]);
        }
    }

    /// A mailbox of this session at home; INBOX while it has none.
    fn own_mailbox(&self) -> MailboxId {
        let mut own: Vec<u32> = self.share.mailboxes.values().copied().collect();
        own.push(MailboxId::INBOX.0);
        MailboxId(own[self.pick(own.len())])
    }

    /// Some messages of this session in a mailbox at home.
    fn own_messages(&self, mailbox: MailboxId) -> Vec<Uid> {
        let range = (self.home(), mailbox.0, 0)..(self.home(), mailbox.0 + 1, 0);
        let uids = self.share.messages.range(range).map(|((_, _, uid), _)| Uid(*uid));
        uids.filter(|_| self.pick(2) == 0).collect()
    }

    async fn append(&mut self) {
        let token = self.token();
        let body = self.body(token).await;
        let flags = Flags(self.pick(32) as u8);
        let keywords: Vec<String> = (0..self.pick(3)).map(|n| format!("k{n}")).collect();
        let account = self.account(self.home()).await;
        let mailbox = self.own_mailbox();
        let date = Timestamp(token as i64);
        let delivered = account.append(mailbox, body, flags, &keywords, date).await.unwrap();
        self.keep(&delivered, token, flags, &keywords);
    }

    /// The messages of this session among `uids`, as published.
    async fn messages(&self, mailbox: MailboxId, uids: &[Uid]) -> Vec<Message> {
        let account = self.account(self.home()).await;
        // A planted mistake may have acknowledged a mailbox that does not exist yet.
        let Ok(view) = account.select(mailbox, false).await else { return Vec::new() };
        let Some(snapshot) = view.current() else { return Vec::new() };
        uids.iter()
            .filter_map(|uid| snapshot.index_of(*uid))
            .filter_map(|index| snapshot.get(index).copied())
            .collect()
    }

    async fn copy(&mut self, remove: bool) {
        let (source, target) = (self.own_mailbox(), self.own_mailbox());
        let uids = self.own_messages(source);
        let messages = self.messages(source, &uids).await;
        let account = self.account(self.home()).await;
        // Into a mailbox of its own, or into another account.
        let (owner, target) = match self.pick(3) {
            0 => ((self.home() + 1) % ACCOUNTS, MailboxId::INBOX),
            _ => (self.home(), target),
        };
        let other = self.account(owner).await;
        let kept = FlagMask::ALL;
        let copied = if remove {
            self.removing(source, &uids);
            other.move_from(target, &account, source, &messages, kept).await.unwrap()
        } else {
            other.copy_from(target, &account, source, &messages, kept).await.unwrap()
        };
        for (from, to) in copied.uids {
            let from = (self.home(), source.0, from.0);
            let mut known = self.share.messages[&from].clone();
            known.mod_seq = None;
            self.share.messages.insert((owner, target.0, to.0), known);
            if remove {
                self.share.messages.remove(&from);
            }
        }
    }

    fn removing(&self, mailbox: MailboxId, uids: &[Uid]) {
        let step = self.step();
        for uid in uids {
            let key = (self.home(), mailbox.0, uid.0);
            self.history.borrow_mut().removals.entry(key).or_insert(step);
        }
    }

    async fn flag(&mut self) {
        let mailbox = self.own_mailbox();
        let uids = self.own_messages(mailbox);
        let flags = Flags(self.pick(32) as u8);
        let names: Vec<String> = (0..self.pick(3)).map(|n| format!("k{n}")).collect();
        let kind = self.pick(3);
        let change = match kind {
            0 => FlagChange::add(flags, names.clone()),
            1 => FlagChange::remove(flags, names.clone()),
            _ => FlagChange::replace(flags, names.clone()),
        };
        let account = self.account(self.home()).await;
        let outcome = account.store_flags(mailbox, &uids, change, None).await.unwrap();
        for (uid, mod_seq) in outcome.updated {
            let key = (self.home(), mailbox.0, uid.0);
            let Some(known) = self.share.messages.get_mut(&key) else { continue };
            known.mod_seq = Some(mod_seq);
            let names = names.iter().cloned();
            match kind {
                0 => {
                    known.flags |= flags;
                    known.keywords.extend(names);
                }
                1 => {
                    known.flags = known.flags & !flags;
                    known.keywords.retain(|held| !names.clone().any(|name| name == *held));
                }
                _ => (known.flags, known.keywords) = (flags, names.collect()),
            }
        }
    }

    async fn expunge(&mut self) {
        let mailbox = self.own_mailbox();
        let uids = self.own_messages(mailbox);
        let account = self.account(self.home()).await;
        self.removing(mailbox, &uids);
        let removed = match self.pick(2) {
            0 => account.remove(mailbox, &uids).await.unwrap(),
            _ => account.expunge(mailbox, Some(&uids)).await.unwrap(),
        };
        for uid in removed {
            self.share.messages.remove(&(self.home(), mailbox.0, uid.0));
        }
    }

    /// Names at home that this session created.
    fn own_names(&self) -> Vec<String> {
        self.share.mailboxes.keys().map(|(_, name)| name.clone()).collect()
    }

    async fn create(&mut self) {
        let mut parents = self.own_names();
        parents.push(format!("s{}", self.number));
        let mut name = parents[self.pick(parents.len())].clone();
        if name.len() > 2 || self.share.mailboxes.contains_key(&(self.home(), name.clone())) {
            name = format!("{name}/{}", self.pick(1000));
        }
        let account = self.account(self.home()).await;
        // Names may collide, or be below a root that a rename removed.
        let superior_missing = name
            .rsplit_once('/')
            .is_some_and(|(above, _)| account.mailbox_by_name(above).is_none());
        if superior_missing {
            return;
        }
        if let Ok(id) = account.create_mailbox(&name, None).await {
            self.share.mailboxes.insert((self.home(), name), id.0);
        }
    }

    async fn rename(&mut self) {
        let names = self.own_names();
        if names.is_empty() {
            return;
        }
        let source = names[self.pick(names.len())].clone();
        let target = format!("s{}r{}", self.number, self.pick(100_000));
        let account = self.account(self.home()).await;
        if account.rename_mailbox(&source, &target).await.is_ok() {
            let children = format!("{source}/");
            let mailboxes = std::mem::take(&mut self.share.mailboxes);
            for ((home, name), id) in mailboxes {
                let name = match name.strip_prefix(&children) {
                    Some(rest) => format!("{target}/{rest}"),
                    None if name == source => target.clone(),
                    None => name,
                };
                self.share.mailboxes.insert((home, name), id);
            }
        }
    }

    async fn delete(&mut self) {
        let names = self.own_names();
        let Some(name) = names.last() else { return };
        let id = self.share.mailboxes[&(self.home(), name.clone())];
        let account = self.account(self.home()).await;
        let step = self.step();
        self.history.borrow_mut().removals.entry((self.home(), id, 0)).or_insert(step);
        if account.delete_mailbox(name).await.is_ok() {
            self.share.mailboxes.remove(&(self.home(), name.clone()));
            let home = self.home();
            self.share
                .messages
                .retain(|(account, mailbox, _), _| (*account, *mailbox) != (home, id));
            self.share.properties.retain(|(of, mailbox, _), _| (*of, *mailbox) != (home, id));
        }
    }

    /// Sets and removes several at once.
    async fn set_properties(&mut self) {
        let mut changes = BTreeMap::new();
        for _ in 0..1 + self.pick(3) {
            let mailbox = if self.pick(3) == 0 { MailboxId(0) } else { self.own_mailbox() };
            let name = format!("s{}/{}", self.number, self.pick(3));
            let value = (self.pick(4) > 0).then(|| self.token().to_le_bytes().to_vec());
            changes.insert((mailbox, name), value);
        }
        let account = self.account(self.home()).await;
        let change = |((mailbox, name), value): (&(MailboxId, String), &Option<Vec<u8>>)| {
            ((PropertyKind::Metadata, *mailbox, name.clone().into_bytes()), value.clone())
        };
        account.set_properties(changes.iter().map(change)).await.unwrap();
        for ((mailbox, name), value) in changes {
            let place = (self.home(), mailbox.0, name);
            match value {
                Some(value) => drop(self.share.properties.insert(place, value)),
                None => drop(self.share.properties.remove(&place)),
            }
        }
    }

    async fn subscribe(&mut self) {
        let name = format!("s{}/{}", self.number, self.pick(4));
        let account = self.account(self.home()).await;
        let key = (self.home(), name.clone());
        let subscribed = !self.share.subscriptions.remove(&key);
        account.set_subscribed(&name, subscribed).await.unwrap();
        if subscribed {
            self.share.subscriptions.insert(key);
        }
    }

    /// Fills in unknown mod-sequences from the published state.
    async fn look_up_mod_seqs(&mut self) {
        for ((account, mailbox, uid), known) in &mut self.share.messages {
            if known.mod_seq.is_some() {
                continue;
            }
            let account = self.partition.account(AccountId(*account)).await.unwrap();
            let Ok(view) = account.select(MailboxId(*mailbox), false).await else { continue };
            let Some(snapshot) = view.current() else { continue };
            let index = snapshot.index_of(Uid(*uid));
            known.mod_seq = index.and_then(|index| snapshot.get(index)).map(|m| m.mod_seq);
        }
    }
}

/// Looks at everything published until `done`, and records what is new.
async fn watch(
    partition: Partition,
    simulation: Simulation,
    trace: Rc<RefCell<Trace>>,
    history: Rc<RefCell<History>>,
    done: Rc<Cell<u64>>,
) {
    let mut messages: BTreeMap<Key, ModSeq> = BTreeMap::new();
    let mut statuses: BTreeMap<(u64, u32), MailboxStatus> = BTreeMap::new();
    // A session can read everything in its selected mailbox, whatever is expunged, deleted and
    // compacted.
    let mut held: VecDeque<(Account, Snapshot)> = VecDeque::new();
    while done.get() < SESSIONS {
        for id in 0..ACCOUNTS {
            let account = partition.account(AccountId(id)).await.unwrap();
            for mailbox in account.mailboxes() {
                let Ok(view) = account.select(mailbox.id, false).await else { continue };
                let Some(snapshot) = view.current() else { continue };
                let step = trace.borrow().len();
                let mut history = history.borrow_mut();
                for message in snapshot.iter_from(0) {
                    let key = (id, mailbox.id.0, message.uid.0);
                    if messages.insert(key, message.mod_seq) != Some(message.mod_seq) {
                        history.seen_messages.push((step, key, message.mod_seq));
                    }
                }
                let status = snapshot.status();
                if statuses.insert((id, mailbox.id.0), status) != Some(status) {
                    history.seen_statuses.push((step, id, mailbox.id.0, status));
                    let sights = history.sights.entry((id, mailbox.id.0)).or_default();
                    sights.push(Sight::of(step, &snapshot));
                }
                drop(history);
                held.push_back((account.clone(), snapshot));
            }
        }
        while held.len() > 3 * ACCOUNTS as usize {
            let Some((account, snapshot)) = held.pop_front() else { break };
            for message in snapshot.iter_from(0) {
                let body = account.read_body(&message.body, 0, usize::MAX).await;
                if !body.as_ref().is_ok_and(|body| token_of(body).is_some()) {
                    let what = format!("{message:?} in a held view: {:?}", body.err());
                    history.borrow_mut().unreadable = Some(what);
                }
            }
        }
        simulation.yield_now().await;
    }
}

struct Workload {
    seed: u64,
    commands: usize,
    large: bool,
    planted: Option<Plant>,
    lying_sync: bool,
}

const HONEST: Workload =
    Workload { seed: 0, commands: 50, large: false, planted: None, lying_sync: false };

fn record(workload: &Workload) -> (History, Trace) {
    let simulation = Simulation::new(workload.seed);
    let device = MemoryDevice::new();
    device.inject(Faults { lying_sync: workload.lying_sync, ..Faults::default() });
    let trace = device.trace();
    let history = Rc::new(RefCell::new(History::default()));
    history.borrow_mut().commands.resize_with(SESSIONS as usize, Vec::new);
    let done = Rc::new(Cell::new(0));
    simulation.run_until(async {
        let executor = Rc::new(simulation.clone());
        let (partition, _) =
            Partition::open(Rc::new(device.clone()), executor, options()).await.unwrap();
        plant(workload.planted);
        for number in 0..SESSIONS {
            let session = Session {
                number,
                partition: partition.clone(),
                simulation: simulation.clone(),
                trace: trace.clone(),
                history: history.clone(),
                share: Share::default(),
                next_token: number,
                large: workload.large,
            };
            let (commands, done) = (workload.commands, done.clone());
            let task = async move {
                session.run(commands).await;
                done.set(done.get() + 1);
            };
            simulation.spawn(Priority::Foreground, Box::pin(task));
        }
        let (clock, log) = (simulation.clone(), history.clone());
        watch(partition.clone(), clock, trace.clone(), log, done).await;
        history.borrow_mut().segments_deleted = partition.probe().segments_deleted;
    });
    simulation.kill_tasks();
    plant(None);
    let trace = trace.borrow().clone();
    (history.take(), trace)
}

/// The store as recovered: each session's share, and the counters of all mailboxes.
async fn extract(
    partition: &Partition,
) -> Result<(Vec<Share>, BTreeMap<(u64, u32), MailboxStatus>), String> {
    let mut shares = vec![Share::default(); SESSIONS as usize];
    let mut statuses = BTreeMap::new();
    for id in 0..ACCOUNTS {
        let account = partition.account(AccountId(id)).await.map_err(|e| e.to_string())?;
        for name in account.subscriptions() {
            if let Some(session) = session_of_name(&name) {
                shares[session].subscriptions.insert((id, name));
            }
        }
        let mailboxes = account.mailboxes().into_iter().map(|info| info.id);
        for mailbox in std::iter::once(MailboxId(0)).chain(mailboxes) {
            for (key, value) in account.properties(PropertyKind::Metadata, mailbox) {
                let name = String::from_utf8_lossy(&key).into_owned();
                let session = session_of_name(&name).ok_or("a property of nobody")?;
                shares[session].properties.insert((id, mailbox.0, name), value);
            }
        }
        for info in account.mailboxes() {
            if let Some(session) = session_of_name(&info.name) {
                shares[session].mailboxes.insert((id, info.name.clone()), info.id.0);
            }
            let view = account.select(info.id, false).await.map_err(|e| e.to_string())?;
            let snapshot = view.current().ok_or("mailbox without messages table")?;
            let distinct: BTreeSet<&String> = snapshot.keywords().iter().collect();
            if distinct.len() != snapshot.keywords().len() {
                return Err(format!("keywords defined twice: {:?}", snapshot.keywords()));
            }
            let mut counted =
                MailboxStatus { recent: snapshot.status().recent, ..snapshot.status() };
            (counted.messages, counted.unseen, counted.deleted, counted.size) = (0, 0, 0, 0);
            for message in snapshot.iter_from(0) {
                let body = account.read_body(&message.body, 0, usize::MAX).await;
                let body = body.map_err(|error| format!("body of {message:?}: {error}"))?;
                let token = token_of(&body).ok_or(format!("torn body of {message:?}"))?;
                counted.messages += 1;
                counted.unseen += u32::from(!message.flags.system.contains(Flags::SEEN));
                counted.deleted += u32::from(message.flags.system.contains(Flags::DELETED));
                counted.size += message.body.size;
                let bits = message.flags.keywords.iter();
                let keywords = bits.map(|bit| snapshot.keywords()[bit].clone()).collect();
                let key = (id, info.id.0, message.uid.0);
                let known = Known {
                    token,
                    flags: message.flags.system,
                    keywords,
                    mod_seq: Some(message.mod_seq),
                };
                shares[session_of(token) as usize].messages.insert(key, known);
            }
            if counted != snapshot.status() {
                return Err(format!("counters {:?}, counted {counted:?}", snapshot.status()));
            }
            statuses.insert((id, info.id.0), counted);
        }
    }
    Ok((shares, statuses))
}

/// `s2r17/4` is session 2's.
fn session_of_name(name: &str) -> Option<usize> {
    name.strip_prefix('s')?.chars().next()?.to_digit(10).map(|digit| digit as usize)
}

impl History {
    /// Compares what was told by `step` with the state after a crash at `step`.
    fn check(
        &self,
        step: usize,
        shares: &[Share],
        statuses: &BTreeMap<(u64, u32), MailboxStatus>,
    ) -> Result<(), String> {
        for (session, commands) in self.commands.iter().enumerate() {
            let told = commands.partition_point(|command| command.acknowledged <= step);
            let nothing = Share::default();
            let before = told.checked_sub(1).map_or(&nothing, |last| &commands[last].after);
            let under_way = commands.get(told).filter(|command| command.started <= step);
            let found = &shares[session];
            let differences = before.differences(found);
            let whole = |command: &Command| command.after.differences(found).is_empty();
            if !differences.is_empty() && !under_way.is_some_and(whole) {
                return Err(format!(
                    "session {session} after {told} commands, expected {differences:#?}\nor {:#?}",
                    under_way.map(|command| command.after.differences(found))
                ));
            }
        }
        let removed = |key: &Key| self.removals.get(key).is_some_and(|at| *at <= step);
        for (at, key, mod_seq) in &self.seen_messages {
            if *at > step || removed(key) || removed(&(key.0, key.1, 0)) {
                continue;
            }
            let found = shares.iter().find_map(|share| share.messages.get(key));
            if found.and_then(|known| known.mod_seq) < Some(*mod_seq) {
                return Err(format!("{key:?} was seen with {mod_seq:?}, found {found:?}"));
            }
        }
        for (at, account, mailbox, seen) in &self.seen_statuses {
            if *at > step || removed(&(*account, *mailbox, 0)) {
                continue;
            }
            let found = statuses.get(&(*account, *mailbox));
            let holds = found.is_some_and(|found| {
                found.uid_validity == seen.uid_validity
                    && found.uid_next >= seen.uid_next
                    && found.highest_mod_seq >= seen.highest_mod_seq
            });
            if !holds {
                return Err(format!("{account}/{mailbox}: seen {seen:?}, found {found:?}"));
            }
        }
        Ok(())
    }

    /// The expunges reported since the state published by `step` are all that happened, above the
    /// floor.
    async fn check_expunged(&self, step: usize, partition: &Partition) -> Result<(), String> {
        for ((id, mailbox), sights) in &self.sights {
            let account = partition.account(AccountId(*id)).await.map_err(|e| e.to_string())?;
            let Ok(view) = account.select(MailboxId(*mailbox), false).await else { continue };
            let snapshot = view.current().ok_or("mailbox without messages table")?;
            let now = Sight::of(step, &snapshot);
            for sight in sights.iter().take_while(|sight| sight.step <= step) {
                let told = account.expunged_since(MailboxId(*mailbox), sight.mod_seq).await;
                let told = told.map_err(|error| error.to_string())?;
                sight.check(&told, &now).map_err(|error| format!("{id}/{mailbox}: {error}"))?;
            }
        }
        Ok(())
    }

    /// Highest UID reported in each account's INBOX by `step`.
    fn last_uid(&self, step: usize, account: u64) -> u32 {
        let seen = self.seen_messages.iter().filter(|(at, ..)| *at <= step);
        let inbox = seen.filter(|(_, key, _)| (key.0, key.1) == (account, MailboxId::INBOX.0));
        inbox.map(|(_, key, _)| key.2).max().unwrap_or(0)
    }
}

/// Opens one image and compares it with the history. Sometimes also goes on working.
fn check_image(
    history: &History,
    image: MemoryDevice,
    step: usize,
    go_on: bool,
) -> Result<(), String> {
    let simulation = Simulation::new(step as u64);
    simulation.run_until(async {
        let open = async || {
            let executor = Rc::new(simulation.clone());
            Partition::open(Rc::new(image.clone()), executor, options()).await
        };
        let (partition, report) = open().await.map_err(|error| error.to_string())?;
        if !report.damage.is_empty() {
            return Err(format!("damage: {:?}", report.damage));
        }
        let (shares, statuses) = extract(&partition).await?;
        history.check(step, &shares, &statuses)?;
        history.check_expunged(step, &partition).await?;
        if let Some(damage) = partition.damage_news().first() {
            return Err(format!("damage found: {damage:?}"));
        }
        if !go_on {
            return Ok(());
        }
        for account in 0..ACCOUNTS {
            let mut writer = partition.stage();
            writer.write(&body_of(u64::MAX - 3, false)).await.map_err(|e| e.to_string())?;
            let body = writer.finish(Vec::new()).await.map_err(|e| e.to_string())?;
            let target = DeliveryTarget {
                account: AccountId(account),
                mailbox: None,
                flags: Flags::default(),
                keywords: Vec::new(),
                internal_date: Timestamp(0),
                annotations: Vec::new(),
            };
            let delivered = partition.deliver(body, vec![target], None).await;
            let uid = delivered.map_err(|e| e.to_string())?[0].uid.0;
            if uid <= history.last_uid(step, account) {
                return Err(format!("account {account}: UID {uid} was given out before"));
            }
        }
        partition.close().await.map_err(|error| error.to_string())?;
        let (again, _) = open().await.map_err(|error| error.to_string())?;
        let before = extract(&partition).await?;
        history.check_expunged(step, &again).await?;
        match extract(&again).await? == before {
            true => Ok(()),
            false => Err("a clean restart changed something".to_owned()),
        }
    })
}

/// Checks images at every `stride`th step in every mode; returns the first failure.
fn check_images(history: &History, trace: &Trace, stride: usize) -> Result<usize, String> {
    if let Some(what) = &history.unreadable {
        return Err(what.clone());
    }
    let mut images = 0;
    for step in (0..=trace.len()).step_by(stride) {
        for mode in CrashMode::ALL {
            let image = trace.image(step, mode, step as u64);
            check_image(history, image, step, images % 13 == 0).map_err(|error| {
                format!("crash at {step} of {}, {mode:?}: {error}", trace.len())
            })?;
            images += 1;
        }
    }
    Ok(images)
}

/// `RINGMAIL_CRASH_SEEDS=100` for a longer look.
#[test]
fn every_crash_keeps_what_was_told() {
    let seeds = std::env::var("RINGMAIL_CRASH_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    for seed in 0..seeds.unwrap_or(2) {
        let (history, trace) = record(&Workload { seed, ..HONEST });
        let images = check_images(&history, &trace, 1)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(history.segments_deleted > 0, "the workload compacts");
        assert!(images > 400, "{images} images");
    }
}

#[test]
fn large_bodies_are_whole_or_absent() {
    let (history, trace) = record(&Workload { seed: 7, commands: 8, large: true, ..HONEST });
    check_images(&history, &trace, 2).unwrap_or_else(|error| panic!("{error}"));
}

/// The plants of compaction: each must be found within a few seeds.
#[test]
fn planted_mistakes_of_compaction_are_found() {
    let cases = [Plant::DropLiveBody, Plant::IgnoreHeldViews, Plant::SkipCompactedSync];
    find_each(&cases);
}

/// The plants of checkpoints, in what they write of expunges and properties.
#[test]
fn planted_mistakes_of_checkpoints_are_found() {
    find_each(&[Plant::LoseTombstone, Plant::KeepFloor, Plant::LoseProperty]);
}

fn find_each(cases: &[Plant]) {
    for plant in cases.iter().copied() {
        let found = (0..6).find(|seed| {
            let planted = Some(plant);
            let (history, trace) = record(&Workload { seed: *seed, planted, ..HONEST });
            check_images(&history, &trace, 2).is_err()
        });
        println!("{plant:?}: {found:?}");
        assert!(found.is_some(), "not noticed: {plant:?}");
    }
}

/// The checker is useful only if it finds these.
#[test]
fn planted_mistakes_are_found() {
    let planted = |plant| Workload { seed: 3, planted: Some(plant), ..HONEST };
    let cases = [
        Workload { seed: 3, lying_sync: true, ..HONEST },
        planted(Plant::AcknowledgeEarly),
        planted(Plant::ShowEarly),
    ];
    for workload in cases {
        let (history, trace) = record(&workload);
        let found = check_images(&history, &trace, 1);
        let name = format!("{:?}, lying sync {}", workload.planted, workload.lying_sync);
        assert!(found.is_err(), "not noticed: {name}");
    }
}
