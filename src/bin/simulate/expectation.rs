//! The expected state: a plain in-memory model of what every client was told.
//!
//! Each session works on mail that carries its own tokens and on mailboxes that it named, so its
//! view of the store is sequential: the state found must be that after its last answered command,
//! or after the command in progress, completely executed. Only UIDs, mailbox numbers and
//! mod-sequences are taken from the state found; the model knows everything else.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{AccountId, Flags, MailboxId, ModSeq, UidValidity},
    store::{MailboxStatus, PropertyKind},
};

/// Partitions of the simulated server, each on its own shard and device.
pub const PARTITIONS: u16 = 2;
/// Clients at once.
pub const SESSIONS: u64 = 4;
/// Tokens of this owner are the messages that all sessions compete for; see `Op::Race`.
pub const SHARED: u64 = SESSIONS;

/// Account, mailbox, UID.
pub type Key = (u64, u32, u32);

/// Account, mailbox (0: the account itself), index in [`PROPERTY_KINDS`], key.
pub type PropertyPlace = (u64, u32, usize, String);

/// Account, mailbox, and the user in its access list, who is named after a session like a mailbox.
pub type Grant = (u64, u32, String);

pub const PROPERTY_KINDS: [PropertyKind; 4] =
    [PropertyKind::Acl, PropertyKind::Quota, PropertyKind::Metadata, PropertyKind::Seen];

/// The value of a property for a serial; later ones are higher.
pub fn value_of(serial: u64) -> Vec<u8> {
    let mut value = serial.to_le_bytes().to_vec();
    value.resize(8 + (serial.wrapping_mul(7919) % 90) as usize, b'v');
    value
}

/// The serial of a value; `None` if it is not a complete one.
pub fn serial_of(value: &[u8]) -> Option<u64> {
    let serial = u64::from_le_bytes(*value.first_chunk()?);
    (value_of(serial) == value).then_some(serial)
}

/// Tokens name their session.
pub fn owner_of(token: u64) -> u64 {
    token % (SESSIONS + 1)
}

/// Mailboxes and subscriptions are named after their session: `s2-17/4` is session 2's.
pub fn owner_of_name(name: &str) -> Option<usize> {
    name.strip_prefix('s')?.chars().next()?.to_digit(10).map(|digit| digit as usize)
}

pub fn partition_of(account: u64) -> u16 {
    AccountId(account).partition(PARTITIONS).0
}

/// The body of a token. Tokens with bit 40 have long ones.
pub fn body_of(token: u64) -> Vec<u8> {
    let long = token >> 40 & 1 == 1;
    let len = match long {
        true => crate::store::BODY_CHUNK as u64 + 5000 + token % 9000,
        false => token.wrapping_mul(7919) % 1500,
    };
    let mut body = format!("token {token}\r\n").into_bytes();
    body.extend((0..len).map(|at| (at.wrapping_mul(token | 1) >> 2) as u8));
    body
}

/// The token with this body; `None` if it is not a token's complete body.
pub fn token_of(body: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(&body[..body.iter().position(|byte| *byte == b'\r')?]).ok()?;
    let token = line.strip_prefix("token ")?.parse().ok()?;
    (body_of(token) == body).then_some(token)
}

/// One message.
#[derive(Clone, PartialEq, Debug)]
pub struct Known {
    pub token: u64,
    pub flags: Flags,
    pub keywords: BTreeSet<String>,
    pub mod_seq: ModSeq,
}

/// One session's part of the store.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Share {
    pub messages: BTreeMap<Key, Known>,
    /// By account and name: number.
    pub mailboxes: BTreeMap<(u64, String), u32>,
    pub subscriptions: BTreeSet<(u64, String)>,
    pub properties: BTreeMap<PropertyPlace, Vec<u8>>,
    pub grants: BTreeSet<Grant>,
}

/// A command of a session, with everything that determines its effect.
#[derive(Clone, Debug)]
pub enum Op {
    /// To the INBOX of each account, through the delivery service; `together`: one result for all.
    Deliver {
        token: u64,
        accounts: Vec<u64>,
        together: bool,
    },
    Append {
        account: u64,
        mailbox: u32,
        token: u64,
        flags: Flags,
        keywords: Vec<String>,
    },
    Copy {
        account: u64,
        source: u32,
        target: u32,
        uids: Vec<u32>,
        expunge: bool,
    },
    /// A new message, and the expunge of another one, at once.
    Replace {
        account: u64,
        mailbox: u32,
        token: u64,
        flags: Flags,
        /// The mailbox and the UID of the message that it replaces.
        replaced: (u32, u32),
    },
    /// A new message, and a change of flags that does not wait for it.
    Pipelined {
        append: Box<Op>,
        flag: Box<Op>,
    },
    /// To the INBOX of another account, perhaps of another partition.
    Transfer {
        account: u64,
        source: u32,
        other: u64,
        uids: Vec<u32>,
        expunge: bool,
    },
    Flag {
        account: u64,
        mailbox: u32,
        uids: Vec<u32>,
        kind: FlagKind,
        flags: Flags,
        keywords: Vec<String>,
        since: Option<ModSeq>,
    },
    /// Messages removed: by POP3 regardless of flags, by EXPUNGE those with `\Deleted`.
    Remove {
        account: u64,
        mailbox: u32,
        uids: Vec<u32>,
        deleted_only: bool,
    },
    Create {
        account: u64,
        name: String,
    },
    Rename {
        account: u64,
        source: String,
        target: String,
    },
    Delete {
        account: u64,
        name: String,
        mailbox: u32,
    },
    Subscribe {
        account: u64,
        name: String,
        subscribed: bool,
    },
    /// Properties set or removed, all at once.
    Property {
        changes: BTreeMap<PropertyPlace, Option<Vec<u8>>>,
    },
    /// A user is put into a mailbox's access list, or taken out.
    Grant {
        grant: Grant,
        given: bool,
    },
    /// STORE with UNCHANGEDSINCE on the message that all sessions compete for.
    Race {
        account: u64,
    },
    Checkpoint {
        partition: u16,
    },
    Compact {
        partition: u16,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlagKind {
    Add,
    Remove,
    Replace,
}

/// A delivery whose copies may still arrive: it was answered with success while a partition was
/// unavailable (`required`), or it got no answer or a failure.
#[derive(Clone, Debug)]
pub struct Floating {
    pub accounts: BTreeSet<u64>,
    pub required: bool,
}

/// One session as known to the checker.
#[derive(Clone, Default, Debug)]
pub struct Client {
    pub share: Share,
    /// The command in progress, and whether its success was already reported.
    pub op: Option<(Op, bool)>,
    pub floating: BTreeMap<u64, Floating>,
}

/// A mailbox as published at some time: the reference point for expunges reported since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sight {
    pub uid_validity: UidValidity,
    pub mod_seq: ModSeq,
    pub uid_next: u32,
    pub live: BTreeSet<u32>,
}

/// Sights of a mailbox that are kept.
const SIGHTS_MAX: usize = 6;

/// The expunges that a mailbox reports since a sight.
pub struct Told<'a> {
    pub since: &'a Sight,
    pub floor: ModSeq,
    pub uids: Vec<u32>,
}

/// The checker's state; survives crashes.
#[derive(Clone, Default, Debug)]
pub struct Model {
    pub clients: Vec<Client>,
    /// Every message that was ever visible, by token: its bytes must never change.
    pub ever: BTreeMap<Key, u64>,
    /// Mod-sequence of every message when last seen.
    pub seen: BTreeMap<Key, ModSeq>,
    pub statuses: BTreeMap<(u64, u32), MailboxStatus>,
    /// Messages, or mailboxes (UID 0), whose removal was requested.
    pub removals: BTreeSet<Key>,
    /// Highest mod-sequence seen in each account.
    pub mod_seqs: BTreeMap<u64, ModSeq>,
    /// By account and mailbox, from different times.
    pub sights: BTreeMap<(u64, u32), Vec<Sight>>,
    /// Serial of every property when last seen.
    pub properties_seen: BTreeMap<PropertyPlace, u64>,
    /// Serial at the time when the removal of a property was last requested.
    pub property_removals: BTreeMap<PropertyPlace, u64>,
    /// (account, mod-sequence) for which a session won the race.
    pub wins: BTreeSet<(u64, ModSeq)>,
}

impl Model {
    pub fn new() -> Model {
        let clients = (0..=SESSIONS).map(|_| Client::default()).collect();
        Model { clients, ..Model::default() }
    }

    pub fn removed(&self, key: &Key) -> bool {
        self.removals.contains(key) || self.removals.contains(&(key.0, key.1, 0))
    }

    /// Records a published message; an error if it differs from the earlier one.
    pub fn see(&mut self, key: Key, token: u64, mod_seq: ModSeq) -> Result<(), String> {
        let before = *self.ever.entry(key).or_insert(token);
        if before != token {
            return Err(format!("{key:?} was the message {before}, and is {token}: a UID twice"));
        }
        let last = self.seen.insert(key, mod_seq).unwrap_or(mod_seq);
        if last > mod_seq {
            return Err(format!("{key:?}: mod-sequence went back from {last} to {mod_seq}"));
        }
        let highest = self.mod_seqs.entry(key.0).or_default();
        *highest = mod_seq.max(*highest);
        Ok(())
    }

    /// Records a published property; an error if it was a later one before.
    pub fn see_property(&mut self, place: PropertyPlace, value: &[u8]) -> Result<(), String> {
        let Some(serial) = serial_of(value) else {
            return Err(format!("FALSE PROPERTY served: {place:?} is {value:?}"));
        };
        let last = self.properties_seen.insert(place.clone(), serial).unwrap_or(serial);
        match last > serial {
            true => Err(format!("property {place:?} went back from {last} to {serial}")),
            false => Ok(()),
        }
    }

    /// Records the state of a mailbox.
    pub fn remember(&mut self, place: (u64, u32), now: Sight) {
        let sights = self.sights.entry(place).or_default();
        if sights.contains(&now) {
            return;
        }
        if sights.len() < SIGHTS_MAX {
            sights.push(now);
        } else {
            let at = (now.mod_seq.0 as usize * 7 + now.live.len()) % SIGHTS_MAX;
            sights[at] = now;
        }
    }

    /// Must never be reported, whatever was lost: an existing message as expunged.
    pub fn check_told(place: (u64, u32), now: &Sight, told: &Told<'_>) -> Result<(), String> {
        let Told { since, uids, .. } = told;
        let ascending = uids.windows(2).all(|pair| pair[0] < pair[1]);
        let live = uids.iter().find(|uid| now.live.contains(uid) || **uid >= now.uid_next);
        match ascending && live.is_none() {
            true => Ok(()),
            false => Err(format!(
                "mailbox {place:?} tells {uids:?} expunged since {}: {live:?} is there",
                since.mod_seq
            )),
        }
    }

    /// The expunges reported since a sight at or above the floor are all that happened, and none
    /// that happened before.
    pub fn check_exact(
        &self,
        place: (u64, u32),
        now: &Sight,
        told: &Told<'_>,
    ) -> Result<(), String> {
        let Told { since, floor, uids } = told;
        // If damage took a whole account, another one may have been created since: its UIDs are
        // different, and its UIDVALIDITY shows it (RFC 3501 2.3.1.1).
        if since.mod_seq < *floor || since.uid_validity != now.uid_validity {
            return Ok(());
        }
        // A disk that lied about syncs took back UIDs.
        let end = now.uid_next.max(since.uid_next);
        let came = (place.0, place.1, since.uid_next)..(place.0, place.1, end);
        let came = self.ever.range(came).map(|((_, _, uid), _)| *uid);
        let gone = since.live.iter().copied().chain(came).filter(|uid| !now.live.contains(uid));
        let told: BTreeSet<u32> = uids.iter().copied().collect();
        let untold: Vec<u32> = gone.filter(|uid| !told.contains(uid)).collect();
        let before = told.iter().find(|uid| **uid < since.uid_next && !since.live.contains(uid));
        match untold.is_empty() && before.is_none() {
            true => Ok(()),
            false => Err(format!(
                "mailbox {place:?} tells {uids:?} expunged since {}, with floor {floor}: untold are \
                 {untold:?}, gone before was {before:?}",
                since.mod_seq
            )),
        }
    }

    /// Records published counters; an error if they decreased.
    pub fn see_status(&mut self, place: (u64, u32), now: MailboxStatus) -> Result<(), String> {
        let before = self.statuses.insert(place, now).unwrap_or(now);
        if before.uid_validity != now.uid_validity
            || before.uid_next > now.uid_next
            || before.highest_mod_seq > now.highest_mod_seq
        {
            return Err(format!("mailbox {place:?} went back from {before:?} to {now:?}"));
        }
        let highest = self.mod_seqs.entry(place.0).or_default();
        *highest = now.highest_mod_seq.max(*highest);
        Ok(())
    }
}

/// The state found after a recovery, sorted by owner.
#[derive(Clone, Default, Debug)]
pub struct Found {
    pub shares: Vec<Share>,
    pub statuses: BTreeMap<(u64, u32), MailboxStatus>,
    /// Accounts with something unreadable, and the error; empty unless the disk broke its contract.
    pub errors: Vec<(u64, String)>,
    /// Messages listed whose bodies could not be read.
    pub unreadable: BTreeSet<Key>,
    /// The states of mailboxes.
    pub sights: BTreeMap<(u64, u32), Sight>,
    /// Reported expunges that are not exact; the flag: since a mod-sequence above the floor.
    pub inexact: Vec<(u64, bool, String)>,
    /// False data that was served: never allowed.
    pub wrong: Vec<String>,
}

/// UID of a message that should be there but is missing.
const MISSING: u32 = u32::MAX;

impl Client {
    /// The state after `op`, executed (`whole`) or not, from the state before. New numbers are
    /// taken from `found`.
    pub fn after(&self, op: &Op, found: &Share) -> Share {
        let mut share = self.share.clone();
        match op {
            Op::Deliver { token, accounts, .. } => {
                for account in accounts {
                    let place = (*account, MailboxId::INBOX.0);
                    let known = Known::new(*token, Flags::default(), &[]);
                    share.add(found, &self.share, place, known);
                }
            }
            Op::Append { account, mailbox, token, flags, keywords } => {
                let known = Known::new(*token, *flags, keywords);
                share.add(found, &self.share, (*account, *mailbox), known);
            }
            Op::Replace { account, mailbox, token, flags, replaced: (source, uid) } => {
                let known = Known::new(*token, *flags, &[]);
                share.add(found, &self.share, (*account, *mailbox), known);
                share.messages.remove(&(*account, *source, *uid));
            }
            Op::Pipelined { append, flag } => {
                share = self.after(append, found);
                share.flag(flag, found);
            }
            Op::Copy { account, source, target, uids, expunge } => {
                for uid in uids {
                    let Some(known) = self.share.messages.get(&(*account, *source, *uid)) else {
                        continue;
                    };
                    share.add(found, &self.share, (*account, *target), known.clone());
                    if *expunge {
                        share.messages.remove(&(*account, *source, *uid));
                    }
                }
            }
            Op::Transfer { account, source, other, uids, expunge } => {
                for uid in uids {
                    let Some(known) = self.share.messages.get(&(*account, *source, *uid)) else {
                        continue;
                    };
                    let place = (*other, MailboxId::INBOX.0);
                    share.add(found, &self.share, place, known.clone());
                    if *expunge {
                        share.messages.remove(&(*account, *source, *uid));
                    }
                }
            }
            Op::Flag { .. } => share.flag(op, found),
            Op::Remove { account, mailbox, uids, deleted_only } => {
                for uid in uids {
                    let key = (*account, *mailbox, *uid);
                    let deleted = share
                        .messages
                        .get(&key)
                        .is_some_and(|known| known.flags.contains(Flags::DELETED));
                    if deleted || !deleted_only {
                        share.messages.remove(&key);
                    }
                }
            }
            Op::Create { account, name } => {
                let place = (*account, name.clone());
                let id = found.mailboxes.get(&place).copied().unwrap_or(MISSING);
                // Its parent's list is copied.
                let parent = name.rsplit_once('/').map(|(above, _)| (*account, above.to_owned()));
                if let Some(parent) = parent.and_then(|it| self.share.mailboxes.get(&it)) {
                    let of = |grant: &&Grant| (grant.0, grant.1) == (*account, *parent);
                    let copied = self.share.grants.iter().filter(of);
                    share.grants.extend(copied.map(|(.., user)| (*account, id, user.clone())));
                }
                share.mailboxes.insert(place, id);
            }
            Op::Rename { account, source, target } => {
                let children = format!("{source}/");
                let mailboxes = std::mem::take(&mut share.mailboxes);
                for ((of, name), id) in mailboxes {
                    let name = match name.strip_prefix(&children) {
                        Some(rest) if of == *account => format!("{target}/{rest}"),
                        None if of == *account && name == *source => target.clone(),
                        _ => name,
                    };
                    share.mailboxes.insert((of, name), id);
                }
            }
            Op::Delete { account, name, mailbox } => {
                share.mailboxes.remove(&(*account, name.clone()));
                share.messages.retain(|key, _| (key.0, key.1) != (*account, *mailbox));
                share.properties.retain(|key, _| (key.0, key.1) != (*account, *mailbox));
                share.grants.retain(|grant| (grant.0, grant.1) != (*account, *mailbox));
            }
            Op::Grant { grant, given: true } => {
                share.grants.insert(grant.clone());
            }
            Op::Grant { grant, given: false } => {
                share.grants.remove(grant);
            }
            Op::Property { changes } => {
                for (place, value) in changes {
                    match value {
                        Some(value) => share.properties.insert(place.clone(), value.clone()),
                        None => share.properties.remove(place),
                    };
                }
            }
            Op::Subscribe { account, name, subscribed: true } => {
                share.subscriptions.insert((*account, name.clone()));
            }
            Op::Subscribe { account, name, subscribed: false } => {
                share.subscriptions.remove(&(*account, name.clone()));
            }
            Op::Race { .. } | Op::Checkpoint { .. } | Op::Compact { .. } => {}
        }
        share
    }

    /// Compares the state found with the expected one and takes it over. `settled`: all queues are
    /// empty, so no delivery is pending.
    pub fn reconcile(&mut self, found: &Share, settled: bool) -> Result<(), String> {
        self.take_in_floating(found)?;
        let op = self.op.take();
        let mut before = None;
        if op.as_ref().is_none_or(|(_, answered)| !answered) {
            let differences = self.share.differences(found);
            if differences.is_empty() {
                self.share = found.clone();
                before = Some(Vec::new());
            } else {
                before = Some(differences);
            }
        }
        if before.as_ref().is_none_or(|differences| !differences.is_empty()) {
            let Some((op, answered)) = op else {
                return Err(format!(
                    "expected otherwise: {}",
                    before.unwrap_or_default().join("; ")
                ));
            };
            let floats = matches!(op, Op::Deliver { .. });
            if floats {
                self.float(&op, answered);
                self.take_in_floating(found)?;
            }
            let after = if floats { self.share.clone() } else { self.after(&op, found) };
            let differences = after.differences(found);
            // The first of two may have become durable alone.
            let is_half = match &op {
                Op::Pipelined { append, .. } if !answered => {
                    self.after(append, found).differences(found).is_empty()
                }
                _ => false,
            };
            if !differences.is_empty() && !is_half {
                return Err(format!(
                    "after {op:?} ({}): {}{}",
                    if answered { "answered" } else { "under way: neither whole nor absent" },
                    differences.join("; "),
                    before.map_or(String::new(), |it| format!("; as before it: {}", it.join("; ")))
                ));
            }
            self.share = found.clone();
        }
        if settled {
            let floating = std::mem::take(&mut self.floating);
            if let Some((token, missing)) =
                floating.iter().find(|(_, it)| it.required && !it.accounts.is_empty())
            {
                return Err(format!(
                    "the message {token} was accepted, the queues are empty, and accounts {:?} \
                     never got it",
                    missing.accounts
                ));
            }
        }
        Ok(())
    }

    /// Copies of this delivery may arrive from now on, and must if it was answered with success.
    pub fn float(&mut self, op: &Op, required: bool) {
        if let Op::Deliver { token, accounts, .. } = op {
            let accounts = accounts.iter().copied().collect();
            self.floating.insert(*token, Floating { accounts, required });
        }
    }

    /// Copies from pending deliveries: one for each account, all of a partition at once.
    fn take_in_floating(&mut self, found: &Share) -> Result<(), String> {
        for (token, floating) in &mut self.floating {
            let mut came = BTreeSet::new();
            for account in floating.accounts.clone() {
                let place = (account, MailboxId::INBOX.0);
                let known = Known::new(*token, Flags::default(), &[]);
                if self.share.clone().add(found, &self.share, place, known.clone()) {
                    let before = self.share.clone();
                    self.share.add(found, &before, place, known);
                    floating.accounts.remove(&account);
                    came.insert(partition_of(account));
                }
            }
            let half = floating.accounts.iter().find(|it| came.contains(&partition_of(**it)));
            if let Some(account) = half {
                return Err(format!(
                    "the message {token} came to other accounts of partition {} and not to {account}",
                    partition_of(*account)
                ));
            }
        }
        Ok(())
    }
}

impl Known {
    fn new(token: u64, flags: Flags, keywords: &[String]) -> Known {
        let keywords = keywords.iter().cloned().collect();
        Known { token, flags, keywords, mod_seq: ModSeq(0) }
    }
}

impl Share {
    /// Adds `known` at `place` under the number that is new in `found` compared with `before`;
    /// false if there is none.
    fn add(&mut self, found: &Share, before: &Share, place: (u64, u32), known: Known) -> bool {
        let range = (place.0, place.1, 0)..(place.0, place.1, u32::MAX);
        let new = found.messages.range(range).find(|(key, it)| {
            it.token == known.token
                && !before.messages.contains_key(key)
                && !self.messages.contains_key(key)
        });
        let uid = new.map_or(MISSING, |(key, _)| key.2);
        // Mod-sequence 0: any value.
        self.messages.insert((place.0, place.1, uid), Known { mod_seq: ModSeq(0), ..known });
        new.is_some()
    }

    fn flag(&mut self, op: &Op, found: &Share) {
        let Op::Flag { account, mailbox, uids, kind, flags, keywords, since } = op else { return };
        for uid in uids {
            let key = (*account, *mailbox, *uid);
            let Some(known) = self.messages.get_mut(&key) else { continue };
            if since.is_some_and(|since| known.mod_seq > since) {
                continue;
            }
            let before = known.clone();
            let names = keywords.iter().cloned();
            match kind {
                FlagKind::Add => {
                    known.flags |= *flags;
                    known.keywords.extend(names);
                }
                FlagKind::Remove => {
                    known.flags = known.flags & !*flags;
                    known.keywords.retain(|held| !keywords.contains(held));
                }
                FlagKind::Replace => (known.flags, known.keywords) = (*flags, names.collect()),
            }
            if *known != before {
                // Higher than before, any value.
                let now = found.messages.get(&key).map_or(ModSeq(0), |found| found.mod_seq);
                known.mod_seq = now.max(ModSeq(before.mod_seq.0 + 1));
            }
        }
    }

    /// The part that concerns one account.
    pub fn only(&self, account: u64) -> Share {
        let mut share = self.clone();
        share.messages.retain(|key, _| key.0 == account);
        share.mailboxes.retain(|(of, _), _| *of == account);
        share.subscriptions.retain(|(of, _)| *of == account);
        share.properties.retain(|place, _| place.0 == account);
        share.grants.retain(|grant| grant.0 == account);
        share
    }

    /// The differences of `found` from the expected state; empty if there are none.
    pub fn differences(&self, found: &Share) -> Vec<String> {
        let mut differences = Vec::new();
        let keys: BTreeSet<&Key> = self.messages.keys().chain(found.messages.keys()).collect();
        for key in keys {
            let (expected, found) = (self.messages.get(key), found.messages.get(key));
            let same = match (expected, found) {
                (Some(expected), Some(found)) => {
                    let mod_seq = match expected.mod_seq {
                        ModSeq(0) => found.mod_seq,
                        known => known,
                    };
                    Known { mod_seq, ..expected.clone() } == *found
                }
                _ => false,
            };
            if !same {
                differences.push(format!("{}", Difference(*key, expected, found)));
            }
        }
        if self.mailboxes != found.mailboxes {
            differences
                .push(format!("mailboxes {:?}, found {:?}", self.mailboxes, found.mailboxes));
        }
        if self.subscriptions != found.subscriptions {
            differences.push(format!(
                "subscriptions {:?}, found {:?}",
                self.subscriptions, found.subscriptions
            ));
        }
        if self.grants != found.grants {
            differences.push(format!("grants {:?}, found {:?}", self.grants, found.grants));
        }
        let places: BTreeSet<&PropertyPlace> =
            self.properties.keys().chain(found.properties.keys()).collect();
        for place in places {
            let serial = |share: &Share| share.properties.get(place).map(|value| serial_of(value));
            let (expected, found) = (serial(self), serial(found));
            if expected != found {
                differences
                    .push(format!("property {place:?}: expected {expected:?}, found {found:?}"));
            }
        }
        differences
    }
}

/// One message that differs, for human readers.
struct Difference<'a>(Key, Option<&'a Known>, Option<&'a Known>);

impl std::fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Difference((account, mailbox, uid), expected, found) = self;
        let uid = if *uid == MISSING { "?".to_owned() } else { uid.to_string() };
        write!(f, "account {account} mailbox {mailbox} UID {uid}: ")?;
        match (expected, found) {
            (Some(expected), None) => write!(f, "lost {expected:?}"),
            (None, Some(found)) => write!(f, "nobody asked for {found:?}"),
            _ => write!(f, "expected {expected:?}, found {found:?}"),
        }
    }
}
