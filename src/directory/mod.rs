//! Accounts, addresses and credentials: an immutable snapshot shared by the shards and replaced as
//! a whole on reload, or a [`Backend`] that is queried on a separate thread.
//!
//! [`SharedDirectory`] is made once, at start, and given to every shard, which makes its own
//! [`Directory`] from it. SMTP asks for the destination of an address, every protocol checks
//! passwords; the CLI edits the [`UsersFile`] that snapshots are made from.
//!
//! Every query returns an [`Answer`] and may find the directory [`Unavailable`]. The snapshot
//! always answers, immediately.
//!
//! Invariants: a lookup in the snapshot takes no lock, waits for nothing and sees one snapshot; no
//! password is hashed and no backend called on a shard; no lock is held across an await; the time
//! that a failed log-in takes does not tell whether the name exists.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod address;
mod aliases;
mod authenticate;
mod backend;
mod cache;
mod expansion;
mod files;
mod groups;
mod guard;
mod keyring;
mod masters;
mod mistakes;
mod password;
mod routes;
mod senders;
mod snapshot;
mod tokens;
mod turns;
mod users_file;

use std::{
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

pub use self::{
    address::is_address,
    aliases::{AliasMention, aliases_naming, is_reply_text},
    authenticate::{PasswordJob, PasswordWorkers},
    backend::{Backend, BackendJob, BackendOptions, BackendWorkers, Desk, Unavailable},
    files::DirectoryError,
    groups::{groups_naming, is_group_name},
    guard::{Block, GuardNews, GuardOptions, Held, HeldBack, Lift},
    keyring::{AppPassword, AppPasswordError, Keyring, Salt},
    masters::Master,
    mistakes::Mistakes,
    password::{HashError, Secret, hash, hash_all},
    routes::{
        Credentials, HostOptions, Inbound, NextHop, Password, RelayHost, RouteOptions, RouteTo,
        TlsPolicy, socket_path,
    },
    senders::{SenderOptions, Senders},
    snapshot::{DirectoryFiles, DirectoryOptions, DirectorySnapshot, ScramOffer},
    tokens::{TokenError, TokenOptions, TokenServer, Tokens, count_keys},
    turns::PeerLimits,
    users_file::{User, UsersFile, UsersFileError, lock_name, parse_import},
};
use self::{
    authenticate::{Authenticator, Common, Found},
    guard::Guard,
};
use crate::{
    model::{AccountId, AccountName, Network},
    protocol::sasl::scram::{Hash, Keys},
    runtime::answer::Answer,
};

/// The status of an address that the aliases file refuses (RFC 3463 3.2).
pub const ALIAS_REJECTED: &str = "5.1.1";
/// The status of mail for a domain whose route refuses it: a policy (RFC 3463 3.8).
pub const ROUTE_REJECTED: &str = "5.7.1";

/// The destination of mail for an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    Mailbox(AccountId),
    /// As [`Destination::Mailbox`], for a sub-address: the part after the separator is its detail
    /// (RFC 5233).
    Subaddress(AccountId),
    /// An alias with several targets, or with one that is not a mailbox here. Never empty; each
    /// target once.
    Several(Arc<[Target]>),
    /// Accepted, and thrown away.
    Discard,
    /// Refused for good with this text, which is printable ASCII: 550 [`ALIAS_REJECTED`].
    Reject(Arc<str>),
    /// A recipient in the domain of another server that we accept mail for, as its backup: to the
    /// next hop of that domain.
    Relay,
    /// The domain is ours, but the local part is unknown: 550 5.1.1. Or that of another server that
    /// we accept mail for, and it has no such recipient.
    UnknownUser,
    /// Not our domain: 550 5.7.1, unless the client may send everywhere.
    Foreign,
}

impl Destination {
    /// The account that gets the mail, if it is the only recipient.
    pub fn account(&self) -> Option<AccountId> {
        match self {
            Destination::Mailbox(account) | Destination::Subaddress(account) => Some(*account),
            _ => None,
        }
    }

    /// Whether there is somebody or something that takes the mail.
    fn is_known(&self) -> bool {
        !matches!(self, Destination::UnknownUser | Destination::Foreign)
    }

    /// Whether `account` gets the mail, alone or with others.
    pub fn reaches(&self, account: AccountId) -> bool {
        match self {
            Destination::Several(targets) => targets.iter().any(
                |target| matches!(target, Target::Account { account: one, .. } if *one == account),
            ),
            other => other.account() == Some(account),
        }
    }
}

/// One target of an alias.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    Account {
        account: AccountId,
        /// The detail of a sub-address: of the target as the aliases file has it, or else of the
        /// address that the mail was sent to.
        detail: Option<Box<str>>,
    },
    /// An address in a domain that is not ours.
    Remote { address: Box<str>, reason: Reason },
}

/// Why mail for an address of ours goes to another server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Reason {
    #[default]
    Alias,
    /// The account of that address forwards its mail.
    Forward,
    CatchAll,
    /// The address is a return path that we made for mail that was forwarded: a bounce goes back to
    /// the sender.
    Return,
}

/// The account that logged in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub account: AccountId,
    /// Canonical address, e.g. "alice@demo.test".
    pub address: String,
    /// The name of the application password that was used; `None`: none was.
    pub app_password: Option<Box<str>>,
    /// Who acts for the account: the address of a master; `None`: its owner.
    pub master: Option<Box<str>>,
}

/// The answer for a log-in name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogIn {
    Account(User),
    /// No account has the name.
    Nobody {
        /// Hashed in place of the missing hash: it costs as much as those of accounts, the same at
        /// each guess of this name, and never matches.
        stand_in: Arc<str>,
    },
}

impl LogIn {
    fn account(&self) -> Option<AccountId> {
        match self {
            LogIn::Account(user) => Some(user.id),
            LogIn::Nobody { .. } => None,
        }
    }

    fn hash(&self) -> &Arc<str> {
        match self {
            LogIn::Account(user) => &user.hash,
            LogIn::Nobody { stand_in } => stand_in,
        }
    }

    fn identity(self) -> Result<Identity, AuthenticationError> {
        match self {
            LogIn::Account(user) => {
                let (account, address) = (user.id, user.address);
                Ok(Identity { account, address, app_password: None, master: None })
            }
            LogIn::Nobody { .. } => Err(AuthenticationError::Rejected),
        }
    }
}

/// Why a log-in failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthenticationError {
    #[error("authentication failed")]
    Rejected,
    /// The hashing queue is full or this address has too many attempts waiting: try again later.
    #[error("too many authentications in progress")]
    Busy,
    /// There were too many wrong passwords; nothing was checked.
    #[error("too many failed authentications")]
    Limited {
        /// How long the caller should wait before the next attempt.
        wait: Duration,
    },
    /// Whether the account exists is not known now: try again later.
    #[error("the directory does not answer")]
    Unavailable,
    /// Who issues tokens does not say whose this one is: try again later.
    #[error("the token provider does not answer")]
    NoIssuer,
}

impl From<TokenError> for AuthenticationError {
    fn from(error: TokenError) -> AuthenticationError {
        match error {
            TokenError::Refused(_) => AuthenticationError::Rejected,
            TokenError::Unavailable => AuthenticationError::NoIssuer,
        }
    }
}

impl From<Unavailable> for AuthenticationError {
    fn from(_: Unavailable) -> AuthenticationError {
        AuthenticationError::Unavailable
    }
}

/// Data shared by all shards: the current snapshot, the queue of password checks, and the guard.
pub struct SharedDirectory {
    /// With a backend: only the domains, no accounts.
    snapshot: ArcSwap<DirectorySnapshot>,
    /// Reloads so far.
    generation: AtomicU64,
    /// The names of accounts that reloads removed, with the generation that lacked them; the latest
    /// [`REMOVED_MAX`], in their order.
    removed: ArcSwap<Vec<(u64, String)>>,
    common: Arc<Common>,
}

/// Names of removed accounts that are kept, for shards that do not follow for a while.
const REMOVED_MAX: usize = 10_000;

impl SharedDirectory {
    pub fn new(snapshot: DirectorySnapshot, limits: PeerLimits) -> Arc<SharedDirectory> {
        SharedDirectory::guarded(snapshot, limits, GuardOptions::default())
    }

    pub fn guarded(
        snapshot: DirectorySnapshot,
        limits: PeerLimits,
        guard: GuardOptions,
    ) -> Arc<SharedDirectory> {
        Arc::new(SharedDirectory {
            snapshot: ArcSwap::from_pointee(snapshot),
            generation: AtomicU64::new(0),
            removed: ArcSwap::default(),
            common: Arc::new(Common::new(limits, guard)),
        })
    }

    /// The blocks that began since the last call.
    pub fn news(&self) -> GuardNews {
        self.common.guard.news()
    }

    pub fn snapshot(&self) -> Arc<DirectorySnapshot> {
        self.snapshot.load_full()
    }

    /// Reload: replaces the snapshot; the shards' caches are dropped. Returns the previous one.
    pub fn replace(&self, snapshot: DirectorySnapshot) -> Arc<DirectorySnapshot> {
        let before = self.snapshot.swap(Arc::new(snapshot));
        self.note_removed(&before);
        self.generation.fetch_add(1, Ordering::Release);
        before
    }

    /// Keeps the names of the accounts that are no more. Called by one thread.
    fn note_removed(&self, before: &DirectorySnapshot) {
        let now = self.snapshot.load();
        if now.users().is_empty() {
            return;
        }
        let generation = self.generation() + 1;
        let gone = before.users().iter().filter(|user| now.name_of(user.id).is_none());
        let gone: Vec<_> = gone.map(|user| (generation, now.login_key(&user.address))).collect();
        if !gone.is_empty() {
            let mut removed = self.removed.load().to_vec();
            removed.extend(gone);
            removed.drain(..removed.len().saturating_sub(REMOVED_MAX));
            self.removed.store(Arc::new(removed));
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// A shard's handle on the directory. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<SharedDirectory>,
    authenticator: Rc<Authenticator>,
    /// Queries the backend; `None`: the snapshot has all accounts.
    desk: Option<Rc<Desk>>,
}

impl Directory {
    /// One per shard: it has its own password cache.
    pub fn new(shared: Arc<SharedDirectory>, workers: Rc<dyn PasswordWorkers>) -> Directory {
        let authenticator = Rc::new(Authenticator::new(shared.common.clone(), workers));
        Directory { shared, authenticator, desk: None }
    }

    /// One per shard, with the accounts of the backend at `desk`.
    pub fn beside(
        shared: Arc<SharedDirectory>,
        workers: Rc<dyn PasswordWorkers>,
        desk: Desk,
    ) -> Directory {
        Directory { desk: Some(Rc::new(desk)), ..Directory::new(shared, workers) }
    }

    /// `address` is the bare mailbox of RCPT TO, e.g. "alice+lists@demo.test": sub-addresses are
    /// resolved, domains compare without case, local parts too (as most servers do).
    pub fn resolve(&self, address: &str) -> Answer<'static, Result<Destination, Unavailable>> {
        match self.desk() {
            None => Answer::now(Ok(self.shared.snapshot.load().resolve(address))),
            Some(desk) => desk.resolve(address),
        }
    }

    /// The members of an address, for people ([`DirectorySnapshot::members`]). The aliases of a
    /// backend are not known here.
    pub fn members(&self, address: &str) -> Vec<String> {
        self.shared.snapshot.load().members(address)
    }

    /// `name` with the first of our domains, if it has none.
    pub fn complete(&self, name: &str) -> String {
        self.shared.snapshot.load().complete(name)
    }

    /// Whether `account` may send as `address`: if it gets the mail for it, that is, for its own
    /// address, its sub-addresses and aliases.
    pub fn may_send_as(
        &self,
        account: AccountId,
        address: &str,
    ) -> Answer<'static, Result<bool, Unavailable>> {
        match self.desk() {
            None => Answer::now(Ok(self.shared.snapshot.load().may_send_as(account, address))),
            Some(desk) => desk.may_send_as(account, address),
        }
    }

    /// Whether `password` is that of `user`, an address or a name in the default domain, tried from
    /// `peer` at `now`, a monotonic time. Hashing happens on the worker pool; unknown users cost
    /// the same. Cancel-safe.
    ///
    /// A cached answer of a backend is sufficient for a password that was right before. For any
    /// other password the backend is queried again, so that a new password works at once, and
    /// guesses take as long whether or not the name has an account.
    pub async fn authenticate(
        &self,
        user: &str,
        password: &str,
        peer: IpAddr,
        now: Duration,
    ) -> Result<Identity, AuthenticationError> {
        let generation = self.shared.generation();
        let name = self.shared.snapshot.load().login_key(user);
        let found = |log_in| Found { name: &name, log_in, generation };
        let known = match self.desk() {
            None => Some(found(self.shared.snapshot.load().log_in_of(&name))),
            Some(desk) => desk
                .remembered_log_in(&name)
                .map(found)
                .filter(|found| self.authenticator.remembers(found, password)),
        };
        let found = match (known, self.desk()) {
            (Some(known), _) => known,
            (None, Some(desk)) => {
                let network = (!self.guard().trusts(peer)).then(|| Network::narrow(peer));
                found(desk.log_in(&name, network).await?)
            }
            (None, None) => return Err(AuthenticationError::Unavailable),
        };
        self.authenticator.authenticate(found, password, peer, now).await
    }

    /// Whether SCRAM is to be offered.
    pub fn offers_scram(&self) -> bool {
        self.shared.snapshot.load().offers_scram(self.has_backend())
    }

    /// What a client must prove to be `user`; made up if there is no such account, or it has no
    /// keys.
    ///
    /// # Errors
    /// If the backend does not answer.
    pub async fn keys(&self, user: &str, hash: Hash, peer: IpAddr) -> Result<Keys, Unavailable> {
        let name = self.shared.snapshot.load().login_key(user);
        let log_in = self.log_in(&name, peer).await?;
        let keys = match &log_in {
            LogIn::Account(user) => user.keyring.keys(hash),
            LogIn::Nobody { .. } => None,
        };
        Ok(keys.unwrap_or_else(|| self.shared.snapshot.load().made_up_keys(&name, hash)))
    }

    /// The account of `user`, if `proved` is the key of one of its passwords, tried from `peer` at
    /// `now`, a monotonic time; `None`: the proof was wrong. Counted like a password. Cancel-safe.
    pub async fn prove(
        &self,
        user: &str,
        hash: Hash,
        proved: Option<&[u8]>,
        peer: IpAddr,
        now: Duration,
    ) -> Result<Identity, AuthenticationError> {
        let generation = self.shared.generation();
        let name = self.shared.snapshot.load().login_key(user);
        let log_in = self.log_in(&name, peer).await?;
        let found = Found { name: &name, log_in, generation };
        self.authenticator.prove(found, hash, proved, peer, now)
    }

    async fn log_in(&self, name: &str, peer: IpAddr) -> Result<LogIn, Unavailable> {
        match self.desk() {
            None => Ok(self.shared.snapshot.load().log_in_of(name)),
            Some(desk) => {
                let network = (!self.guard().trusts(peer)).then(|| Network::narrow(peer));
                desk.log_in(name, network).await
            }
        }
    }

    /// One spelling for all names that log in to one account, whether it exists or not.
    pub fn login_key(&self, name: &str) -> String {
        self.shared.snapshot.load().login_key(name)
    }

    /// `identity`, which has logged in, as it acts for `other` (RFC 4422 3.4.1): itself, or an
    /// account that it is a master of.
    ///
    /// # Errors
    /// It may not, or there is no such account: both are a wrong password.
    pub async fn act_for(
        &self,
        identity: Identity,
        other: &str,
    ) -> Result<Identity, AuthenticationError> {
        let other = self.login_key(other);
        if other == self.login_key(&identity.address) {
            return Ok(identity);
        }
        let Identity { address: master, app_password, .. } = identity;
        if !self.shared.snapshot.load().may_act_for(&master, &other) {
            return Err(AuthenticationError::Rejected);
        }
        let found = self.identity(&other).await?.ok_or(AuthenticationError::Rejected)?;
        Ok(Identity { app_password, master: Some(master.into()), ..found })
    }

    /// The account that logs in as `user`, without a look at a password: somebody else checked it.
    /// `None` if there is none.
    ///
    /// # Errors
    /// If the backend does not answer.
    pub async fn identity(&self, user: &str) -> Result<Option<Identity>, Unavailable> {
        let name = self.shared.snapshot.load().login_key(user);
        let log_in = match self.desk() {
            None => self.shared.snapshot.load().log_in_of(&name),
            Some(desk) => desk.log_in(&name, None).await?,
        };
        Ok(log_in.identity().ok())
    }

    /// The account that logs in as `user`: no alias, no sub-address. Of the snapshot alone: with a
    /// backend, `None`.
    pub fn account_named(&self, user: &str) -> Option<AccountId> {
        self.shared.snapshot.load().user(user).map(|user| user.id)
    }

    /// The canonical address of `account`. Of the snapshot alone: with a backend, `None`.
    pub fn name_of(&self, account: AccountId) -> Option<String> {
        self.shared.snapshot.load().name_of(account).map(str::to_owned)
    }

    /// What `account` is called now. Not known with a backend; and a snapshot without accounts is
    /// rather the mistake of an operator than the removal of everybody.
    pub fn present_name(&self, account: AccountId) -> AccountName {
        let snapshot = self.shared.snapshot.load();
        match snapshot.name_of(account) {
            Some(name) => AccountName::Known(snapshot.login_key(name)),
            None if self.has_backend() || snapshot.users().is_empty() => AccountName::Unknown,
            None => AccountName::Gone,
        }
    }

    /// The groups of the account `name`, spelt as [`Directory::login_key`] has it: sorted, without
    /// the `$` of access lists. Of the snapshot alone: with a backend, none. Allocates nothing.
    pub fn groups_of(&self, name: &str) -> Arc<[String]> {
        self.shared.snapshot.load().groups_of(name).clone()
    }

    /// The same for an account, whatever its address is.
    pub fn groups_of_account(&self, account: AccountId) -> Arc<[String]> {
        self.shared.snapshot.load().groups_of_account(account).clone()
    }

    /// False of an account that was removed. Nothing is known of those of a backend, nor if the
    /// snapshot is empty, which is rather a mistake of the operator.
    pub fn may_exist(&self, account: AccountId) -> bool {
        let snapshot = self.shared.snapshot.load();
        self.has_backend() || snapshot.users().is_empty() || snapshot.name_of(account).is_some()
    }

    /// Whether there is a group of this name, in lower case and without `$`; as
    /// [`Directory::groups_of`].
    pub fn has_group(&self, name: &str) -> bool {
        self.shared.snapshot.load().has_group(name)
    }

    /// Whether `domain`, in lower case, is one of ours.
    pub fn is_local_domain(&self, domain: &str) -> bool {
        self.shared.snapshot.load().is_local_domain(domain)
    }

    /// Whether accounts are elsewhere, and the snapshot does not know them.
    pub fn has_backend(&self) -> bool {
        self.desk.is_some()
    }

    /// Whether there are accounts in the snapshot.
    pub fn has_accounts(&self) -> bool {
        !self.shared.snapshot.load().users().is_empty()
    }

    /// The names that accounts had which reloads removed after `generation`.
    pub fn removed_since(&self, generation: u64) -> Vec<String> {
        let removed = self.shared.removed.load();
        let since = removed.iter().filter(|(at, _)| *at > generation);
        since.map(|(_, name)| name.clone()).collect()
    }

    /// Counts reloads.
    pub fn generation(&self) -> u64 {
        self.shared.generation()
    }

    /// Where mail for `domain` goes next.
    pub fn next_hop(&self, domain: &str) -> NextHop {
        self.shared.snapshot.load().next_hop(domain)
    }

    /// Whether clients at `peer` may send to other domains without a log-in.
    pub fn may_relay(&self, peer: IpAddr) -> bool {
        self.shared.snapshot.load().may_relay(peer)
    }

    /// The return path of mail from `sender`, a mailbox, that its account sends: with the domain
    /// rewritten. `None` if it stays.
    pub fn rewritten_sender(&self, sender: &str) -> Option<String> {
        self.shared.snapshot.load().senders().rewritten(sender)
    }

    /// Whether domains of senders are rewritten in the header fields of users' mail, too.
    pub fn rewrites_headers(&self) -> bool {
        self.shared.snapshot.load().senders().rewrites_headers()
    }

    /// What becomes of a sender's domain; `None` if it stays.
    pub fn rewritten_domain(&self, domain: &str) -> Option<String> {
        self.shared.snapshot.load().senders().rewritten_domain(domain).map(str::to_owned)
    }

    /// The return path for one recipient, if the sender has one for each (VERP).
    pub fn variable_sender(&self, sender: &str, recipient: &str) -> Option<String> {
        self.shared.snapshot.load().senders().for_recipient(sender, recipient)
    }

    /// The return path of mail from `sender`, a mailbox, that an alias sends on (SRS). `now`: since
    /// 1970. `None` if it stays: it is ours, or there is no such setting.
    pub fn forwarded_sender(&self, sender: &str, now: Duration) -> Option<String> {
        self.shared.snapshot.load().forwarded_sender(sender, now)
    }

    /// The detail in a sub-address: "lists" in "alice+lists@demo.test" (RFC 5233), as it was
    /// written.
    pub fn detail<'a>(&self, mailbox: &'a str) -> Option<&'a str> {
        self.shared.snapshot.load().detail(mailbox)
    }

    /// The desk, after dropping what it cached before a reload.
    fn desk(&self) -> Option<&Desk> {
        let desk = self.desk.as_deref()?;
        desk.follow(self.shared.generation());
        Some(desk)
    }

    /// Delay of the answer to a wrong password, and longest delay of a refusal.
    pub fn failure_delay(&self) -> Duration {
        self.guard().options().failure_delay
    }

    /// A place among the delayed refusals; without one, the refusal is answered at once.
    pub fn hold(&self, peer: IpAddr) -> Option<Held> {
        self.guard().hold(peer)
    }

    /// The blocks, longest wait first.
    pub fn blocks(&self, now: Duration) -> Vec<Block> {
        self.guard().blocks(now)
    }

    /// Forgives; returns how many blocks and counts are gone.
    pub fn lift(&self, what: &Lift) -> usize {
        match what {
            Lift::Account(name) => {
                let key = self.shared.snapshot.load().login_key(name);
                self.guard().lift(&Lift::Account(key))
            }
            other => self.guard().lift(other),
        }
    }

    fn guard(&self) -> &Arc<Guard> {
        &self.shared.common.guard
    }
}
