//! Clients: sessions that issue commands one after the other and compare each answer with the
//! model, and watchers that read everything all the time, as IMAP clients do.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use crate::{
    model::{
        AccessList, AccountId, Asker, FlagMask, Flags, Identifier, Lsn, MailClass, MailboxId,
        ModSeq, Rights, Subject, Uid,
    },
    protocol::mime,
    runtime::{executor::Executor, simulation::Simulation},
    service::{
        Shard,
        delivery::{Delivery, Failure},
        transfer::{Consents, TransferFailure, Way, transfer},
    },
    store::{
        Account, BODY_CHUNK, CARD_PARTS, CardReader, FlagChange, MailboxStatus, MailboxView,
        Message, Partition, PropertyKey, PropertyKind, Replacing, Snapshot, StagedBody, StoreError,
    },
};

use super::expectation::{
    self, Client, FlagKind, Found, Grant, Key, Known, Model, Op, PARTITIONS, PROPERTY_KINDS,
    PropertyPlace, SESSIONS, SHARED, Share, Sight, body_of, owner_of, owner_of_name, partition_of,
    token_of, value_of,
};

/// Lines of history kept for the report of a failure.
const HISTORY_MAX: usize = 400;

/// State shared by all clients of one run; survives crashes of the server.
pub struct Ledger {
    pub model: RefCell<Model>,
    /// The first error.
    pub complaint: RefCell<Option<String>>,
    pub history: RefCell<VecDeque<String>>,
    next_token: Cell<u64>,
}

impl Ledger {
    pub fn new() -> Ledger {
        Ledger {
            model: RefCell::new(Model::new()),
            complaint: RefCell::default(),
            history: RefCell::default(),
            next_token: Cell::new(1),
        }
    }

    pub fn complain(&self, complaint: String) {
        self.complaint.borrow_mut().get_or_insert(complaint);
    }

    pub fn note(&self, line: String) {
        let mut history = self.history.borrow_mut();
        if history.len() == HISTORY_MAX {
            history.pop_front();
        }
        history.push_back(line);
    }

    /// Higher than all before; never equal to a token's.
    pub fn serial(&self) -> u64 {
        let serial = self.next_token.get();
        self.next_token.set(serial + 1);
        serial
    }

    /// A new token of `owner`.
    pub fn token(&self, owner: u64, long: bool) -> u64 {
        let serial = self.next_token.get();
        self.next_token.set(serial + 1);
        // The bit of long bodies must not change the owner.
        let stride = SESSIONS + 1;
        let high = if long { (1u64 << 40).next_multiple_of(stride) } else { 0 };
        high + serial * stride + owner
    }
}

/// One life of the server as clients see it.
pub struct Life {
    pub simulation: Simulation,
    pub shards: Vec<Rc<Shard>>,
    pub ledger: Rc<Ledger>,
    pub accounts: Rc<Vec<u64>>,
    /// The disk may fail within its contract: commands may be refused.
    pub faults: bool,
    /// Sessions with commands left.
    pub running: Cell<u64>,
    /// Watchers stop.
    pub ended: Cell<bool>,
    /// Tokens of bodies read in this life, by partition and LSN.
    pub tokens: RefCell<BTreeMap<(u16, Lsn), u64>>,
    pub number: u32,
    pub step: Box<dyn Fn() -> usize>,
}

/// Why a command has no valid answer.
enum Stop {
    /// Refused by a failing disk: allowed when faults are on.
    Refused(String),
    /// Must not happen.
    Wrong(String),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        match error {
            StoreError::Io(_)
            | StoreError::Full
            | StoreError::Poisoned
            | StoreError::Crowded
            | StoreError::NotAnswering => Stop::Refused(error.to_string()),
            error => Stop::Wrong(error.to_string()),
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        match failure {
            Failure::Refused | Failure::OverQuota => Stop::Wrong(failure.to_string()),
            _ => Stop::Refused(failure.to_string()),
        }
    }
}

impl From<TransferFailure> for Stop {
    fn from(failure: TransferFailure) -> Stop {
        match failure {
            TransferFailure::Full | TransferFailure::Unavailable => {
                Stop::Refused(failure.to_string())
            }
            _ => Stop::Wrong(failure.to_string()),
        }
    }
}

impl Life {
    pub fn partition(&self, number: u16) -> Partition {
        self.shards[usize::from(number)].partitions[usize::from(number)]
            .clone()
            .expect("each shard owns the partition of its number")
    }

    pub async fn account(&self, account: u64) -> Result<Account, StoreError> {
        self.partition(partition_of(account)).account(AccountId(account)).await
    }

    fn pick(&self, below: usize) -> usize {
        (self.simulation.random() % below.max(1) as u64) as usize
    }

    pub fn note(&self, who: &str, what: String) {
        let time = self.simulation.now().0 % 1_000_000_000;
        let step = (self.step)();
        self.ledger.note(format!("life {} step {step:5} {time:9} us  {who}: {what}", self.number));
    }

    /// Lets other tasks run, and sometimes time pass.
    async fn breathe(&self, idle: u32) {
        match self.pick(8) {
            0 => self.simulation.sleep(Duration::from_millis(1 << idle.min(14))).await,
            _ => self.simulation.yield_now().await,
        }
    }

    fn over(&self) -> bool {
        self.ended.get() || self.ledger.complaint.borrow().is_some()
    }

    /// The token of a stored message, read from its body unless it is cached.
    async fn token(&self, account: &Account, message: &Message) -> Result<u64, String> {
        let place = (partition_of(account.id().0), message.body.lsn);
        if let Some(token) = self.tokens.borrow().get(&place) {
            return Ok(*token);
        }
        let token = read_token(account, message).await?;
        self.tokens.borrow_mut().insert(place, token);
        Ok(token)
    }

    /// Messages of `owner` in a mailbox as published, added to `share`; others are skipped.
    async fn look(
        &self,
        account: &Account,
        mailbox: MailboxId,
        owner: u64,
        share: &mut Share,
    ) -> Result<(), Stop> {
        let view = account.select(mailbox, false).await?;
        let Some(snapshot) = view.current() else { return Ok(()) };
        for message in snapshot.iter_from(0) {
            let token = self.token(account, message).await.map_err(Stop::Wrong)?;
            if owner_of(token) == owner {
                let key = (account.id().0, mailbox.0, message.uid.0);
                share.messages.insert(key, known(&snapshot, message, token));
            }
        }
        Ok(())
    }
}

/// Reads a body and returns its token; an error if it cannot be read or is not a complete body.
pub async fn read_token(account: &Account, message: &Message) -> Result<u64, String> {
    let body = account.read_body(&message.body, 0, usize::MAX).await;
    let body = body.map_err(|error| format!("body of UID {}: {error}", message.uid))?;
    token_of(&body).ok_or_else(|| format!("FALSE BODY served for UID {}", message.uid))
}

pub fn known(snapshot: &Snapshot, message: &Message, token: u64) -> Known {
    let names = snapshot.keywords();
    let bits = message.flags.keywords.iter();
    // A bit without a name is a keyword that no session set.
    let keywords = bits.map(|bit| names.get(bit).cloned().unwrap_or_else(|| format!("?{bit}")));
    Known {
        token,
        flags: message.flags.system,
        keywords: keywords.collect(),
        mod_seq: message.mod_seq,
    }
}

/// The counters of the messages in a snapshot; `recent` is taken unchecked.
pub fn recount(snapshot: &Snapshot) -> MailboxStatus {
    let mut counted = MailboxStatus { recent: snapshot.status().recent, ..snapshot.status() };
    (counted.messages, counted.unseen, counted.deleted, counted.size) = (0, 0, 0, 0);
    for message in snapshot.iter_from(0) {
        counted.messages += 1;
        counted.unseen += u32::from(!message.flags.system.contains(Flags::SEEN));
        counted.deleted += u32::from(message.flags.system.contains(Flags::DELETED));
        counted.size += message.body.size;
    }
    counted
}

/// All properties of an account as published.
pub fn properties_of(account: &Account) -> BTreeMap<PropertyPlace, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mailboxes = account.mailboxes().into_iter().map(|info| info.id);
    for mailbox in std::iter::once(MailboxId(0)).chain(mailboxes) {
        for (kind, number) in PROPERTY_KINDS.into_iter().zip(0..) {
            for (key, value) in account.properties(kind, mailbox) {
                if kind == PropertyKind::Acl && key.is_empty() {
                    // An access list: see [`grants_of`].
                    continue;
                }
                let key = String::from_utf8_lossy(&key).into_owned();
                found.insert((account.id().0, mailbox.0, number, key), value);
            }
        }
    }
    found
}

/// Whom the access lists of an account name, as published; and the first of them whom the index of
/// shares forgets.
fn grants_of(life: &Life, account: &Account) -> (Vec<Grant>, Option<String>) {
    let (mut grants, mut forgotten) = (Vec::new(), None);
    for info in account.mailboxes() {
        let list = account.with_access_list(info.id, |octets| AccessList::decode(octets?).ok());
        for (subject, _) in list.iter().flat_map(AccessList::entries) {
            let name = subject.to_string();
            let asker = Asker {
                is_owner: false,
                account: Some(AccountId(u64::MAX / 2)),
                name: &name,
                groups: &[],
                is_logged_in: true,
            };
            // The index is one for all shards.
            let is_found = life.shards.iter().all(|it| it.shares.has(account.id(), &asker));
            if !is_found && forgotten.is_none() {
                let (owner, mailbox) = (account.id(), info.id);
                forgotten = Some(format!("{owner} shares {mailbox} with {name}: not in the index"));
            }
            grants.push((account.id().0, info.id.0, name));
        }
    }
    (grants, forgotten)
}

/// Queries the expunges since each of `sights`, and compares them with `model`. An error is either
/// always wrong, or inexact, with the flag whether the requested mod-sequence is above the floor.
async fn check_expunged(
    account: &Account,
    view: &MailboxView,
    mailbox: MailboxId,
    sights: &[Sight],
    model: &RefCell<Model>,
) -> Result<Result<Option<Sight>, (Option<bool>, String)>, StoreError> {
    let before = view.current();
    let mut told = Vec::new();
    for since in sights {
        let answer = match account.expunged_since(mailbox, since.mod_seq).await {
            Err(StoreError::NoSuchMailbox) => return Ok(Ok(None)),
            answer => answer?,
        };
        let uids = answer.uids.iter().map(|uid| uid.0).collect();
        told.push(expectation::Told { since, floor: answer.floor, uids });
    }
    let (Some(before), Some(now)) = (before, view.current()) else { return Ok(Ok(None)) };
    if before.status() != now.status() {
        // Other tasks ran meanwhile.
        return Ok(Ok(None));
    }
    let place = (account.id().0, mailbox.0);
    let now = Sight {
        uid_validity: now.status().uid_validity,
        mod_seq: now.status().highest_mod_seq,
        uid_next: now.status().uid_next.0,
        live: now.iter_from(0).map(|message| message.uid.0).collect(),
    };
    for told in &told {
        if let Err(wrong) = Model::check_told(place, &now, told) {
            return Ok(Err((None, wrong)));
        }
        if let Err(inexact) = model.borrow().check_exact(place, &now, told) {
            return Ok(Err((Some(told.since.mod_seq > told.floor), inexact)));
        }
    }
    Ok(Ok(Some(now)))
}

/// One client and its remaining commands.
pub struct Session {
    pub number: u64,
    pub home: u64,
    pub life: Rc<Life>,
    pub commands: usize,
}

impl Session {
    pub async fn run(self) {
        let who = format!("session {}", self.number);
        for _ in 0..self.commands {
            if self.life.ledger.complaint.borrow().is_some() {
                break;
            }
            match self.command(&who).await {
                Ok(()) => {}
                Err(Stop::Refused(why)) if self.life.faults => {
                    self.life.note(&who, format!("refused ({why})"));
                    match self.wait_for_disks().await {
                        Ok(true) => self.life.note(&who, "goes on".to_owned()),
                        Ok(false) => {
                            self.life.note(&who, "gives up".to_owned());
                            break;
                        }
                        Err(Stop::Refused(why) | Stop::Wrong(why)) => {
                            self.life.ledger.complain(format!("{who}, after a failed disk: {why}"));
                            break;
                        }
                    }
                }
                Err(Stop::Refused(why) | Stop::Wrong(why)) => {
                    let op = self.with_client(|client| client.op.clone());
                    self.life.ledger.complain(format!("{who}: {op:?} failed: {why}"));
                    break;
                }
            }
            self.life.breathe(0).await;
        }
        self.life.running.set(self.life.running.get() - 1);
    }

    /// Waits until all partitions have reopened and no move is undecided, then takes over the
    /// result of the refused command: it took effect or not. False if they take too long.
    async fn wait_for_disks(&self) -> Result<bool, Stop> {
        for idle in 0..300 {
            if self.life.over() {
                return Ok(false);
            }
            let partitions = (0..PARTITIONS).map(|number| self.life.partition(number));
            let is_well = |partition: Partition| {
                partition.trouble().is_none() && partition.moves().begun().is_empty()
            };
            if partitions.into_iter().all(is_well) {
                let found = self.look_at_own().await?;
                let outcome = self.with_client(|client| {
                    // A queue may deliver it later.
                    if let Some((op @ Op::Deliver { .. }, false)) = client.op.clone() {
                        client.float(&op, false);
                        client.op = None;
                    }
                    client.reconcile(&found, false)
                });
                return outcome.map(|()| true).map_err(Stop::Wrong);
            }
            self.life.breathe(idle.min(10)).await;
        }
        Ok(false)
    }

    /// Pauses in the middle of a long body, as a slow client does.
    async fn linger(&self, len: usize) {
        if len > BODY_CHUNK && self.pick(2) == 0 {
            for _ in 0..self.pick(60) {
                self.life.breathe(8).await;
            }
        }
    }

    fn with_client<T>(&self, work: impl FnOnce(&mut Client) -> T) -> T {
        work(&mut self.life.ledger.model.borrow_mut().clients[self.number as usize])
    }

    fn share(&self) -> Share {
        self.with_client(|client| client.share.clone())
    }

    /// Chooses a command, executes it, and checks the visible result.
    async fn command(&self, who: &str) -> Result<(), Stop> {
        let Some(op) = self.choose() else { return Ok(()) };
        let floor = {
            let mut model = self.life.ledger.model.borrow_mut();
            let removed = removals(&op, self.home);
            model.removals.extend(removed);
            if let Op::Property { changes } = &op {
                let serial = self.life.ledger.serial();
                for (place, _) in changes.iter().filter(|(_, value)| value.is_none()) {
                    model.property_removals.insert(place.clone(), serial);
                }
            }
            model.clients[self.number as usize].op = Some((op.clone(), false));
            model.mod_seqs.get(&self.home).copied().unwrap_or_default()
        };
        self.life.note(who, format!("{op:?}"));
        let told = self.carry_out(&op).await?;
        self.with_client(|client| client.op = Some((op.clone(), true)));
        self.life.note(who, format!("answered {told:?}"));
        let found = self.look_at_own().await?;
        self.check_answer(&op, &told, floor, &found).map_err(Stop::Wrong)?;
        let outcome = self.with_client(|client| client.reconcile(&found, false));
        outcome.map_err(Stop::Wrong)
    }

    /// This session's part as published now.
    async fn look_at_own(&self) -> Result<Share, Stop> {
        let mut found = Share::default();
        for id in self.life.accounts.iter() {
            // Other accounts have no mailboxes of this session; there may be mail in their INBOX.
            let account = self.life.account(*id).await?;
            if *id == self.home {
                found.properties = properties_of(&account);
                found
                    .properties
                    .retain(|place, _| owner_of_name(&place.3) == Some(self.number as usize));
                let (grants, forgotten) = grants_of(&self.life, &account);
                if let Some(forgotten) = forgotten {
                    return Err(Stop::Wrong(forgotten));
                }
                let own = |grant: &Grant| owner_of_name(&grant.2) == Some(self.number as usize);
                found.grants = grants.into_iter().filter(own).collect();
                for name in account.subscriptions() {
                    if owner_of_name(&name) == Some(self.number as usize) {
                        found.subscriptions.insert((*id, name));
                    }
                }
            }
            for info in account.mailboxes() {
                let own = owner_of_name(&info.name) == Some(self.number as usize);
                if own {
                    found.mailboxes.insert((*id, info.name.clone()), info.id.0);
                }
                if own || info.id == MailboxId::INBOX {
                    self.life.look(&account, info.id, self.number, &mut found).await?;
                }
            }
        }
        Ok(found)
    }

    /// Compares the command's answer with the visible state.
    fn check_answer(
        &self,
        op: &Op,
        told: &Told,
        floor: ModSeq,
        found: &Share,
    ) -> Result<(), String> {
        match (op, told) {
            (
                Op::Append { account, mailbox, token, .. }
                | Op::Replace { account, mailbox, token, .. },
                Told::Uids(uids),
            ) => {
                let key = (*account, *mailbox, uids.first().copied().unwrap_or(0));
                let at = found.messages.get(&key);
                if at.is_none_or(|known| known.token != *token) {
                    return Err(format!("{op:?} answered {key:?}, where {at:?} is"));
                }
                if at.is_some_and(|known| known.mod_seq <= floor) {
                    return Err(format!("{op:?} has {at:?}, not above {floor}"));
                }
            }
            (Op::Copy { account, target, .. }, Told::Uids(uids)) => {
                for uid in uids {
                    let known = found.messages.get(&(*account, *target, *uid));
                    if known.is_none_or(|known| known.mod_seq <= floor) {
                        return Err(format!("{op:?}: {known:?} at UID {uid}, floor {floor}"));
                    }
                }
            }
            (Op::Transfer { other, .. }, Told::Uids(uids)) => {
                let there = |uid| found.messages.contains_key(&(*other, MailboxId::INBOX.0, uid));
                if let Some(uid) = uids.iter().find(|uid| !there(**uid)) {
                    return Err(format!("{op:?} answered UID {uid}, where nothing is"));
                }
            }
            (Op::Flag { account, mailbox, .. }, Told::ModSeqs(updated)) => {
                let share = self.share();
                for (uid, mod_seq) in updated {
                    let key = (*account, *mailbox, *uid);
                    let (before, now) = (share.messages.get(&key), found.messages.get(&key));
                    if now.is_none_or(|known| known.mod_seq != *mod_seq) {
                        return Err(format!("{op:?} answered {mod_seq} for {key:?}: {now:?}"));
                    }
                    let changed = before.is_some_and(|known| known.mod_seq != *mod_seq);
                    if changed && *mod_seq <= floor {
                        return Err(format!("{op:?}: {mod_seq} is not above {floor}"));
                    }
                }
            }
            (Op::Race { account }, Told::Won(since)) => {
                let mut model = self.life.ledger.model.borrow_mut();
                if !model.wins.insert((*account, *since)) {
                    return Err(format!("two changes UNCHANGEDSINCE {since} of account {account}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A command's answer, as far as it is checked.
#[derive(Debug)]
enum Told {
    Nothing,
    Uids(Vec<u32>),
    ModSeqs(Vec<(u32, ModSeq)>),
    /// The race for the message of this mod-sequence.
    Won(ModSeq),
}

/// Messages and mailboxes that `op` removes.
fn removals(op: &Op, home: u64) -> Vec<Key> {
    match op {
        Op::Copy { source, uids, expunge: true, .. }
        | Op::Transfer { source, uids, expunge: true, .. } => {
            uids.iter().map(|uid| (home, *source, *uid)).collect()
        }
        Op::Remove { mailbox, uids, .. } => uids.iter().map(|uid| (home, *mailbox, *uid)).collect(),
        Op::Replace { replaced: (mailbox, uid), .. } => vec![(home, *mailbox, *uid)],
        Op::Delete { mailbox, .. } => vec![(home, *mailbox, 0)],
        _ => Vec::new(),
    }
}

// --- choosing ---

impl Session {
    fn pick(&self, below: usize) -> usize {
        self.life.pick(below)
    }

    fn choose(&self) -> Option<Op> {
        let share = self.share();
        let home = self.home;
        Some(match self.pick(35) {
            0..=5 => self.choose_delivery(),
            6..=8 => Op::Append {
                account: home,
                mailbox: self.own_mailbox(&share),
                token: self.life.ledger.token(self.number, self.pick(24) == 0),
                flags: Flags(self.pick(32) as u8),
                keywords: self.keywords(),
            },
            9..=11 => {
                let source = self.own_mailbox(&share);
                let uids = self.own_messages(&share, source);
                let (target, expunge) = (self.own_mailbox(&share), self.pick(2) == 0);
                Op::Copy { account: home, source, target, uids, expunge }
            }
            12..=14 => self.choose_flag(&share),
            15..=16 => {
                let mailbox = self.own_mailbox(&share);
                let uids = self.own_messages(&share, mailbox);
                Op::Remove { account: home, mailbox, uids, deleted_only: self.pick(2) == 0 }
            }
            17 => Op::Create { account: home, name: self.new_name(&share) },
            18 => {
                let source = self.own_name(&share)?;
                let target = self.unused(&share, &format!("s{}-", self.number));
                Op::Rename { account: home, source, target }
            }
            19 => {
                let name = self.own_name(&share)?;
                let mailbox = share.mailboxes[&(home, name.clone())];
                Op::Delete { account: home, name, mailbox }
            }
            20 => {
                let name = format!("s{}/{}", self.number, self.pick(4));
                let subscribed = !share.subscriptions.contains(&(home, name.clone()));
                Op::Subscribe { account: home, name, subscribed }
            }
            21 => Op::Race { account: home },
            23..=24 => self.choose_properties(&share),
            25..=26 => self.choose_grant(&share),
            22 => Op::Compact { partition: self.pick(usize::from(PARTITIONS)) as u16 },
            27..=29 => {
                let source = self.own_mailbox(&share);
                let uids = self.own_messages(&share, source);
                let mut others = self.life.accounts.iter().copied().filter(|it| *it != home);
                let other = others.nth(self.pick(self.life.accounts.len() - 1))?;
                // A delivery that may still come there could not be told from the copy.
                let may_come = |token: u64| {
                    self.with_client(|client| {
                        let floating = client.floating.get(&token);
                        floating.is_some_and(|it| it.accounts.contains(&other))
                    })
                };
                let token = |uid: u32| Some(share.messages.get(&(home, source, uid))?.token);
                let uids = uids.into_iter().filter(|uid| !token(*uid).is_some_and(may_come));
                let uids = uids.collect();
                Op::Transfer { account: home, source, other, uids, expunge: self.pick(2) == 0 }
            }
            30..=31 => {
                let source = self.own_mailbox(&share);
                let uid = self.own_messages(&share, source).first().copied()?;
                Op::Replace {
                    account: home,
                    mailbox: self.own_mailbox(&share),
                    token: self.life.ledger.token(self.number, self.pick(24) == 0),
                    flags: Flags(self.pick(32) as u8),
                    replaced: (source, uid),
                }
            }
            32..=33 => {
                let append = Op::Append {
                    account: home,
                    mailbox: self.own_mailbox(&share),
                    token: self.life.ledger.token(self.number, false),
                    flags: Flags(self.pick(32) as u8),
                    keywords: self.keywords(),
                };
                Op::Pipelined { append: append.into(), flag: self.choose_flag(&share).into() }
            }
            _ => Op::Checkpoint { partition: self.pick(usize::from(PARTITIONS)) as u16 },
        })
    }

    fn choose_delivery(&self) -> Op {
        let accounts = &self.life.accounts;
        let count = 1 + self.pick(3).min(accounts.len() - 1);
        let first = self.pick(accounts.len());
        let accounts = (0..count).map(|n| accounts[(first + n) % accounts.len()]).collect();
        let token = self.life.ledger.token(self.number, self.pick(24) == 0);
        Op::Deliver { token, accounts, together: self.pick(4) > 0 }
    }

    fn choose_properties(&self, share: &Share) -> Op {
        let mut changes = BTreeMap::new();
        for _ in 0..1 + self.pick(3) {
            let mailbox = if self.pick(3) == 0 { 0 } else { self.own_mailbox(share) };
            let key = format!("s{}/{}", self.number, self.pick(3));
            let place = (self.home, mailbox, self.pick(PROPERTY_KINDS.len()), key);
            let value = (self.pick(4) > 0).then(|| value_of(self.life.ledger.serial()));
            changes.insert(place, value);
        }
        Op::Property { changes }
    }

    fn choose_grant(&self, share: &Share) -> Op {
        let user = format!("s{}-{}", self.number, self.pick(3));
        let grant = (self.home, self.own_mailbox(share), user);
        let given = !share.grants.contains(&grant) || self.pick(8) == 0;
        Op::Grant { grant, given }
    }

    fn choose_flag(&self, share: &Share) -> Op {
        let mailbox = self.own_mailbox(share);
        let uids = self.own_messages(share, mailbox);
        let since = (self.pick(3) == 0).then(|| {
            let known = uids.iter().filter_map(|uid| {
                share.messages.get(&(self.home, mailbox, *uid)).map(|known| known.mod_seq)
            });
            known.min().unwrap_or_default()
        });
        let kinds = [FlagKind::Add, FlagKind::Remove, FlagKind::Replace];
        Op::Flag {
            account: self.home,
            mailbox,
            uids,
            kind: kinds[self.pick(3)],
            flags: Flags(self.pick(32) as u8),
            keywords: self.keywords(),
            since,
        }
    }

    fn keywords(&self) -> Vec<String> {
        (0..self.pick(3)).map(|_| format!("k{}", self.pick(5))).collect()
    }

    /// A mailbox of this session at home; INBOX too.
    fn own_mailbox(&self, share: &Share) -> u32 {
        let mut own: Vec<u32> = share.mailboxes.values().copied().collect();
        own.push(MailboxId::INBOX.0);
        own[self.pick(own.len())]
    }

    /// Some messages of this session in a mailbox at home.
    fn own_messages(&self, share: &Share, mailbox: u32) -> Vec<u32> {
        let range = (self.home, mailbox, 0)..(self.home, mailbox + 1, 0);
        let uids = share.messages.range(range).map(|((_, _, uid), _)| *uid);
        uids.filter(|_| self.pick(2) == 0).collect()
    }

    fn own_name(&self, share: &Share) -> Option<String> {
        let mut names: Vec<String> = share.mailboxes.keys().map(|(_, name)| name.clone()).collect();
        (!names.is_empty()).then(|| names.swap_remove(self.pick(names.len())))
    }

    fn new_name(&self, share: &Share) -> String {
        match self.own_name(share) {
            Some(parent) if self.pick(2) == 0 && parent.len() < 40 => {
                self.unused(share, &format!("{parent}/"))
            }
            _ => self.unused(share, &format!("s{}-", self.number)),
        }
    }

    /// A name that no mailbox of this session has.
    fn unused(&self, share: &Share, begin: &str) -> String {
        loop {
            let name = format!("{begin}{}", self.pick(100_000));
            if share.mailboxes.keys().all(|(_, other)| *other != name) {
                return name;
            }
        }
    }
}

// --- carrying out ---

impl Session {
    async fn carry_out(&self, op: &Op) -> Result<Told, Stop> {
        match op {
            Op::Deliver { token, accounts, together } => {
                self.deliver(*token, accounts, *together).await
            }
            Op::Checkpoint { partition } => {
                self.life.partition(*partition).checkpoint().await?;
                Ok(Told::Nothing)
            }
            Op::Compact { partition } => {
                let report = self.life.partition(*partition).compact().await?;
                match report.quarantined.first() {
                    None => {
                        let gone = report.segments_deleted;
                        self.life.note("compaction", format!("{gone} segments deleted"));
                        Ok(Told::Nothing)
                    }
                    Some((segment, error)) => {
                        Err(Stop::Wrong(format!("{segment} quarantined: {error}")))
                    }
                }
            }
            Op::Race { .. } => self.race().await,
            Op::Transfer { source, other, uids, expunge, .. } => {
                let account = self.life.account(self.home).await?;
                let source = MailboxId(*source);
                let messages = messages(&account, source, uids).await?;
                let way = if *expunge { Way::Move } else { Way::Copy };
                let shard = &self.life.shards[self.pick(self.life.shards.len())];
                let (from, to) = ((account.id(), source), (AccountId(*other), MailboxId::INBOX));
                drop(account);
                let consents = Consents::all();
                let copied = transfer(shard, from, messages, to, way, consents).await?;
                Ok(Told::Uids(copied.uids.iter().map(|(_, uid)| uid.0).collect()))
            }
            op => self.carry_out_at_home(op).await,
        }
    }

    async fn deliver(&self, token: u64, accounts: &[u64], together: bool) -> Result<Told, Stop> {
        let shard = &self.life.shards[self.pick(self.life.shards.len())];
        let accounts: Vec<AccountId> = accounts.iter().copied().map(AccountId).collect();
        let mut delivery = Delivery::new(shard, accounts, MailClass::Local);
        let whole = body_of(token);
        let (prologue, body) = whole.split_at(self.pick(1 + whole.len().min(2_000)));
        for piece in body.chunks(1 + self.pick(100_000)) {
            delivery.push(piece).await;
            self.linger(body.len()).await;
            if self.pick(4) == 0 {
                self.life.simulation.yield_now().await;
            }
        }
        if self.pick(4) == 0 {
            read_staged(&delivery, body).await?;
        }
        delivery.prepend(prologue.to_vec());
        match together {
            true => delivery.finish_together().await?,
            false => delivery.finish_each().await.all()?,
        }
        Ok(Told::Nothing)
    }

    async fn carry_out_at_home(&self, op: &Op) -> Result<Told, Stop> {
        let account = self.life.account(self.home).await?;
        match op {
            Op::Append { mailbox, token, flags, keywords, .. } => {
                let body = self.stage(*token).await?;
                let date = self.life.simulation.now();
                let delivered =
                    account.append(MailboxId(*mailbox), body, *flags, keywords, date).await?;
                Ok(Told::Uids(vec![delivered.uid.0]))
            }
            Op::Replace { mailbox, token, flags, replaced: (source, uid), .. } => {
                let body = self.stage(*token).await?;
                let target = (*flags, Vec::new(), self.life.simulation.now());
                let (source, uid) = (MailboxId(*source), Uid(*uid));
                let replacing = Replacing { account: &account, mailbox: source, uid };
                let mut may = || Ok(FlagMask::ALL);
                let mailbox = MailboxId(*mailbox);
                match account.append_replacing(mailbox, body, target, replacing, &mut may).await? {
                    Some(delivered) => Ok(Told::Uids(vec![delivered.uid.0])),
                    None => Err(Stop::Wrong(format!("{op:?}: the message is gone"))),
                }
            }
            Op::Pipelined { append, flag } => self.pipeline(&account, append, flag).await,
            Op::Copy { source, target, uids, expunge, .. } => {
                let (source, target) = (MailboxId(*source), MailboxId(*target));
                let messages = messages(&account, source, uids).await?;
                let copied = match expunge {
                    true => account.move_messages(source, &messages, target).await?,
                    false => account.copy(source, &messages, target).await?,
                };
                Ok(Told::Uids(copied.uids.iter().map(|(_, uid)| uid.0).collect()))
            }
            Op::Flag { mailbox, uids, kind, flags, keywords, since, .. } => {
                let change = flag_change(*kind, *flags, keywords);
                let uids: Vec<Uid> = uids.iter().copied().map(Uid).collect();
                let outcome =
                    account.store_flags(MailboxId(*mailbox), &uids, change, *since).await?;
                let updated = outcome.updated.iter().map(|(uid, at)| (uid.0, *at));
                Ok(Told::ModSeqs(updated.collect()))
            }
            Op::Remove { mailbox, uids, deleted_only, .. } => {
                let uids: Vec<Uid> = uids.iter().copied().map(Uid).collect();
                let removed = match deleted_only {
                    true => account.expunge(MailboxId(*mailbox), Some(&uids)).await?,
                    false => account.remove(MailboxId(*mailbox), &uids).await?,
                };
                Ok(Told::Uids(removed.iter().map(|uid| uid.0).collect()))
            }
            Op::Create { name, .. } => {
                account.create_mailbox(name, None).await?;
                Ok(Told::Nothing)
            }
            Op::Rename { source, target, .. } => {
                account.rename_mailbox(source, target).await?;
                Ok(Told::Nothing)
            }
            Op::Delete { name, .. } => {
                account.delete_mailbox(name).await?;
                Ok(Told::Nothing)
            }
            Op::Subscribe { name, subscribed, .. } => {
                account.set_subscribed(name, *subscribed).await?;
                Ok(Told::Nothing)
            }
            Op::Property { changes } => {
                let change = |(place, value): (&PropertyPlace, &Option<Vec<u8>>)| {
                    let (_, mailbox, kind, key) = place.clone();
                    let key: PropertyKey =
                        (PROPERTY_KINDS[kind], MailboxId(mailbox), key.into_bytes());
                    (key, value.clone())
                };
                account.set_properties(changes.iter().map(change)).await?;
                Ok(Told::Nothing)
            }
            Op::Grant { grant: (_, mailbox, user), given } => {
                let Ok(user) = Identifier::user(user) else { return Ok(Told::Nothing) };
                let rights = if *given { Rights::ALL } else { Rights::NONE };
                let change = |list: &mut AccessList| Ok(list.set(Subject::positive(user), rights)?);
                account.change_access_list(MailboxId(*mailbox), change).await?;
                Ok(Told::Nothing)
            }
            _ => Ok(Told::Nothing),
        }
    }

    async fn stage(&self, token: u64) -> Result<StagedBody, Stop> {
        let mut writer = self.life.partition(partition_of(self.home)).stage();
        let body = body_of(token);
        for piece in body.chunks(50_000) {
            writer.write(piece).await?;
            self.linger(body.len()).await;
        }
        Ok(writer.finish(token.to_le_bytes().to_vec()).await?)
    }

    /// Begins both changes, and asks for their outcome later, perhaps after the log has failed and
    /// was opened again.
    async fn pipeline(&self, account: &Account, append: &Op, flag: &Op) -> Result<Told, Stop> {
        let Op::Append { mailbox, token, flags, keywords, .. } = append else {
            return Ok(Told::Nothing);
        };
        let body = self.stage(*token).await?;
        let date = self.life.simulation.now();
        let mailbox = MailboxId(*mailbox);
        let begun = account.begin_append(mailbox, body, *flags, keywords, date).await;
        let (_, appended) = begun?;
        let Op::Flag { mailbox, uids, kind, flags, keywords, since, .. } = flag else {
            return Ok(Told::Nothing);
        };
        let change = flag_change(*kind, *flags, keywords);
        let uids: Vec<Uid> = uids.iter().copied().map(Uid).collect();
        let begun = account.begin_store_flags(MailboxId(*mailbox), &uids, change, *since).await;
        if self.pick(2) == 0 {
            self.life.simulation.sleep(Duration::from_millis(self.pick(4_000) as u64)).await;
        }
        appended.settled().await?;
        begun?.1.settled().await?;
        Ok(Told::Nothing)
    }

    /// Reads the message that all compete for, and changes its flags if no other session did since.
    async fn race(&self) -> Result<Told, Stop> {
        let account = self.life.account(self.home).await?;
        let view = account.select(MailboxId::INBOX, false).await?;
        let Some(snapshot) = view.current() else { return Ok(Told::Nothing) };
        for message in snapshot.iter_from(0) {
            let token = self.life.token(&account, message).await.map_err(Stop::Wrong)?;
            if owner_of(token) != SHARED {
                continue;
            }
            let since = message.mod_seq;
            let flags = Flags(message.flags.system.0 ^ (1 + self.pick(31) as u8));
            let change = FlagChange::replace(flags, Vec::new());
            let uids = [message.uid];
            let outcome = account.store_flags(MailboxId::INBOX, &uids, change, Some(since)).await?;
            let won = outcome.updated.iter().any(|(_, now)| *now > since);
            return Ok(if won { Told::Won(since) } else { Told::Nothing });
        }
        Ok(Told::Nothing)
    }
}

fn flag_change(kind: FlagKind, flags: Flags, keywords: &[String]) -> FlagChange {
    match kind {
        FlagKind::Add => FlagChange::add(flags, keywords.to_vec()),
        FlagKind::Remove => FlagChange::remove(flags, keywords.to_vec()),
        FlagKind::Replace => FlagChange::replace(flags, keywords.to_vec()),
    }
}

async fn messages(
    account: &Account,
    mailbox: MailboxId,
    uids: &[u32],
) -> Result<Vec<Message>, StoreError> {
    let view = account.select(mailbox, false).await?;
    let Some(snapshot) = view.current() else { return Ok(Vec::new()) };
    let found = uids.iter().filter_map(|uid| snapshot.index_of(Uid(*uid)));
    Ok(found.filter_map(|index| snapshot.get(index).copied()).collect())
}

// --- watching ---

/// Reads everything published, repeatedly: what was seen must never be taken back.
pub async fn watch(life: Rc<Life>) {
    let mut idle = 0;
    let mut statuses: BTreeMap<(u64, u32), MailboxStatus> = BTreeMap::new();
    while !life.over() {
        idle += 1;
        for id in life.accounts.iter() {
            match watch_account(&life, *id, &mut statuses).await {
                Ok(true) => idle = 0,
                Ok(false) => {}
                Err(Stop::Refused(why) | Stop::Wrong(why)) => {
                    return life.ledger.complain(format!("watcher, account {id}: {why}"));
                }
            }
        }
        life.breathe(idle).await;
    }
}

/// True if something was new.
async fn watch_account(
    life: &Life,
    id: u64,
    statuses: &mut BTreeMap<(u64, u32), MailboxStatus>,
) -> Result<bool, Stop> {
    let account = life.account(id).await?;
    let mut news = false;
    for (place, value) in properties_of(&account) {
        let mut model = life.ledger.model.borrow_mut();
        model.see_property(place, &value).map_err(Stop::Wrong)?;
    }
    if let (_, Some(forgotten)) = grants_of(life, &account) {
        return Err(Stop::Wrong(forgotten));
    }
    for info in account.mailboxes() {
        let view = match account.select(info.id, false).await {
            Err(StoreError::NoSuchMailbox) => continue,
            other => other?,
        };
        let Some(snapshot) = view.current() else { continue };
        if statuses.insert((id, info.id.0), snapshot.status()) == Some(snapshot.status()) {
            continue;
        }
        news = true;
        check_counters(&snapshot).map_err(Stop::Wrong)?;
        {
            // Before any await: everything seen now must survive a crash from now on.
            let mut model = life.ledger.model.borrow_mut();
            model.see_status((id, info.id.0), snapshot.status()).map_err(Stop::Wrong)?;
            for message in snapshot.iter_from(0) {
                let key = (id, info.id.0, message.uid.0);
                if let Some(token) = model.ever.get(&key).copied() {
                    model.see(key, token, message.mod_seq).map_err(Stop::Wrong)?;
                } else {
                    model.seen.insert(key, message.mod_seq);
                }
            }
        }
        let place = (id, info.id.0);
        let sights = life.ledger.model.borrow().sights.get(&place).cloned().unwrap_or_default();
        match check_expunged(&account, &view, info.id, &sights, &life.ledger.model).await? {
            Ok(None) => {}
            Ok(Some(now)) => life.ledger.model.borrow_mut().remember(place, now),
            Err((_, wrong)) => return Err(Stop::Wrong(wrong)),
        }
        for message in snapshot.iter_from(0) {
            let token = life.token(&account, message).await.map_err(Stop::Wrong)?;
            let key = (id, info.id.0, message.uid.0);
            let before = *life.ledger.model.borrow_mut().ever.entry(key).or_insert(token);
            if before != token {
                let what = format!("{key:?} was the message {before} and is {token}");
                return Err(Stop::Wrong(what));
            }
        }
    }
    Ok(news)
}

pub fn check_counters(snapshot: &Snapshot) -> Result<(), String> {
    let counted = recount(snapshot);
    match counted == snapshot.status() {
        true => Ok(()),
        false => Err(format!("counters say {:?}, recounted {counted:?}", snapshot.status())),
    }
}

/// Holds a view while other sessions expunge and compact, and reads its bodies: they must stay
/// readable.
pub async fn hold_views(life: Rc<Life>) {
    while !life.over() {
        let id = life.accounts[life.pick(life.accounts.len())];
        match hold_one(&life, id).await {
            Ok(()) => {}
            Err(Stop::Refused(why) | Stop::Wrong(why)) => {
                return life.ledger.complain(format!("a view of account {id}: {why}"));
            }
        }
        life.breathe(6).await;
    }
}

async fn hold_one(life: &Life, id: u64) -> Result<(), Stop> {
    let account = life.account(id).await?;
    let mailboxes = account.mailboxes();
    let mailbox = mailboxes[life.pick(mailboxes.len())].id;
    let view = match account.select(mailbox, life.pick(4) == 0).await {
        Err(StoreError::NoSuchMailbox) => return Ok(()),
        other => other?,
    };
    let Some(snapshot) = view.current() else { return Ok(()) };
    for _ in 0..life.pick(20) {
        life.breathe(4).await;
        if snapshot.is_empty() {
            return Ok(());
        }
        let Some(message) = snapshot.get(life.pick(snapshot.len())) else { continue };
        let token = read_token(&account, message).await.map_err(Stop::Wrong)?;
        let key = (id, mailbox.0, message.uid.0);
        let ever = life.ledger.model.borrow().ever.get(&key).copied();
        if ever.is_some_and(|ever| ever != token) {
            return Err(Stop::Wrong(format!("FALSE BODY: {key:?} is {ever:?}, served {token}")));
        }
    }
    Ok(())
}

/// Extracts everything, sorted by owner. Errors are collected, not returned: the caller knows
/// whether any are allowed.
pub async fn extract(life: &Life) -> Found {
    let mut found = Found::default();
    found.shares.resize_with(SESSIONS as usize + 1, Share::default);
    for id in life.accounts.iter() {
        if let Err(error) = extract_account(life, *id, &mut found).await {
            found.errors.push((*id, error));
        }
    }
    found
}

async fn extract_account(life: &Life, id: u64, found: &mut Found) -> Result<(), String> {
    let account = life.account(id).await.map_err(|error| format!("account {id}: {error}"))?;
    for name in account.subscriptions() {
        if let Some(owner) = owner_of_name(&name) {
            found.shares[owner].subscriptions.insert((id, name));
        }
    }
    for (place, value) in properties_of(&account) {
        match owner_of_name(&place.3).and_then(|owner| found.shares.get_mut(owner)) {
            Some(share) => drop(share.properties.insert(place, value)),
            None => found.wrong.push(format!("FALSE PROPERTY {place:?}")),
        }
    }
    let (grants, forgotten) = grants_of(life, &account);
    found.inexact.extend(forgotten.map(|forgotten| (id, false, forgotten)));
    for grant in grants {
        match owner_of_name(&grant.2).and_then(|owner| found.shares.get_mut(owner)) {
            Some(share) => {
                share.grants.insert(grant);
            }
            None => found.wrong.push(format!("FALSE GRANT {grant:?}")),
        }
    }
    for info in account.mailboxes() {
        if let Some(owner) = owner_of_name(&info.name) {
            found.shares[owner].mailboxes.insert((id, info.name.clone()), info.id.0);
        }
        let view = match account.select(info.id, false).await {
            Ok(view) => view,
            Err(error) => {
                found.errors.push((id, format!("mailbox {} of {id}: {error}", info.id)));
                continue;
            }
        };
        let Some(snapshot) = view.current() else { continue };
        if let Err(error) = check_counters(&snapshot) {
            found.wrong.push(format!("{} of account {id}: {error}", info.name));
        }
        let mut names: Vec<&String> = snapshot.keywords().iter().collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            found.wrong.push(format!("account {id}: a keyword defined twice: {names:?}"));
        }
        let mut cards: Vec<CardReader> =
            (0..CARD_PARTS).map(|part| account.cards(info.id, part)).collect();
        for message in snapshot.iter_from(0) {
            let place = || format!("account {id} mailbox {} UID {}", info.id, message.uid);
            match account.read_body(&message.body, 0, usize::MAX).await {
                Ok(body) => match token_of(&body) {
                    Some(token) => {
                        let key = (id, info.id.0, message.uid.0);
                        let known = known(&snapshot, message, token);
                        found.shares[owner_of(token) as usize].messages.insert(key, known);
                    }
                    None => found.wrong.push(format!("FALSE BODY of {}", place())),
                },
                Err(error) => {
                    found.unreadable.insert((id, info.id.0, message.uid.0));
                    found.errors.push((id, format!("body of {}: {error}", place())));
                }
            }
            let Ok(summary) = account.read_summary(&message.body).await else { continue };
            let mut expected: [Vec<u8>; CARD_PARTS] = Default::default();
            mime::split_card(&summary, &mut expected);
            for (reader, expected) in cards.iter_mut().zip(&expected) {
                if reader.seek(message).await.is_ok() && reader.card() != expected {
                    found.wrong.push(format!("FALSE CARD of {}", place()));
                }
            }
        }
        found.statuses.insert((id, info.id.0), snapshot.status());
        let place = (id, info.id.0);
        let sights = life.ledger.model.borrow().sights.get(&place).cloned().unwrap_or_default();
        let model = &life.ledger.model;
        match check_expunged(&account, &view, info.id, &sights, model).await {
            Ok(Ok(now)) => drop(now.map(|now| found.sights.insert(place, now))),
            Ok(Err((None, wrong))) => found.wrong.push(wrong),
            Ok(Err((Some(above), inexact))) => found.inexact.push((id, above, inexact)),
            Err(error) => found.errors.push((id, format!("expunged of {}: {error}", info.name))),
        }
    }
    Ok(())
}

/// A delivery's staged octets read back as pushed. If the disk fails they are not read.
async fn read_staged(delivery: &Delivery, body: &[u8]) -> Result<(), Stop> {
    let mut read = Vec::new();
    while let Ok(piece) = delivery.read(read.len() as u64).await {
        if piece.is_empty() {
            return match read == body {
                true => Ok(()),
                false => Err(Stop::Wrong("a staged body reads back otherwise".to_owned())),
            };
        }
        read.extend_from_slice(&piece);
    }
    Ok(())
}
