//! Accounts, addresses and credentials: an immutable snapshot shared by the shards, replaced whole
//! on reload, or a [`Backend`] that is asked on a thread of its own.
//!
//! [`SharedDirectory`] is made once, at start, and given to every shard, which makes its own
//! [`Directory`] of it. SMTP asks where an address leads, every protocol asks whether a password
//! is right; the CLI edits the [`UsersFile`] that snapshots are made from.
//!
//! Every question is answered by an [`Answer`] and may find the directory [`Unavailable`]. The snapshot
//! always answers, and at once.
//!
//! Invariants: a lookup in the snapshot takes no lock, waits for nothing and sees one snapshot; no
//! password is hashed and no backend called on a shard; no lock is held across an await; whether a name
//! exists is not told by how long a log-in takes that fails.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod address;
mod authenticate;
mod backend;
mod cache;
mod flight;
mod guard;
mod password;
mod snapshot;
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
    address::detail,
    authenticate::{PasswordJob, PasswordWorkers},
    backend::{Backend, BackendJob, BackendOptions, BackendWorkers, Desk, Unavailable},
    guard::{Block, GuardNews, GuardOptions, Held, HeldBack, Lift},
    password::{HashError, hash, hash_all},
    snapshot::{DirectoryOptions, DirectorySnapshot},
    turns::PeerLimits,
    users_file::{User, UsersFile, UsersFileError, lock_name, parse_import},
};
use self::{
    authenticate::{Authenticator, Common, Found},
    guard::Guard,
};
use crate::{
    model::{AccountId, Network},
    runtime::answer::Answer,
};

/// Where mail for an address goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    Mailbox(AccountId),
    /// As [`Destination::Mailbox`], by a sub-address: what follows the separator is its detail (RFC 5233).
    Subaddress(AccountId),
    /// The domain is ours, the local part is not: 550 5.1.1.
    UnknownUser,
    /// Not our domain: 550 5.7.1 on port 25, "no outbound queue yet" on submission.
    Foreign,
}

impl Destination {
    /// Whose mail it is.
    pub fn account(self) -> Option<AccountId> {
        match self {
            Destination::Mailbox(account) | Destination::Subaddress(account) => Some(account),
            Destination::UnknownUser | Destination::Foreign => None,
        }
    }
}

/// Who logged in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub account: AccountId,
    /// Canonical address, e.g. "alice@demo.test".
    pub address: String,
}

/// What a name to log in with leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogIn {
    Account(User),
    /// Nobody has the name.
    Nobody {
        /// Hashed in place of the one that is not there: it costs what accounts' hashes cost, the same at
        /// each guess of this name, and is wrong whatever comes out.
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
            LogIn::Account(user) => Ok(Identity { account: user.id, address: user.address }),
            LogIn::Nobody { .. } => Err(AuthenticationError::Rejected),
        }
    }
}

/// Why nobody did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthenticationError {
    #[error("authentication failed")]
    Rejected,
    /// The hashing queue is full or this address has too many attempts waiting: try again later.
    #[error("too many authentications in progress")]
    Busy,
    /// Too many wrong passwords came before; nothing was checked.
    #[error("too many failed authentications")]
    Limited {
        /// Until it may be worth while to ask again.
        wait: Duration,
    },
    /// Whether there is such an account is not known now: try again later.
    #[error("the directory does not answer")]
    Unavailable,
}

impl From<Unavailable> for AuthenticationError {
    fn from(_: Unavailable) -> AuthenticationError {
        AuthenticationError::Unavailable
    }
}

/// What all shards share: the current snapshot, who waits for a password check, and who guesses.
pub struct SharedDirectory {
    /// With a backend: no accounts, and the domains.
    snapshot: ArcSwap<DirectorySnapshot>,
    /// Reloads so far.
    generation: AtomicU64,
    common: Arc<Common>,
}

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
            common: Arc::new(Common::new(limits, guard)),
        })
    }

    /// Who was held back since the last call.
    pub fn news(&self) -> GuardNews {
        self.common.guard.news()
    }

    pub fn snapshot(&self) -> Arc<DirectorySnapshot> {
        self.snapshot.load_full()
    }

    /// Reload: what shards look up from now on; their caches forget what they knew. Answers what it was
    /// before.
    pub fn replace(&self, snapshot: DirectorySnapshot) -> Arc<DirectorySnapshot> {
        let before = self.snapshot.swap(Arc::new(snapshot));
        self.generation.fetch_add(1, Ordering::Release);
        before
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
    /// Where the backend is asked; `None`: the snapshot has all there is.
    desk: Option<Rc<Desk>>,
}

impl Directory {
    /// One a shard: it has a password cache of its own.
    pub fn new(shared: Arc<SharedDirectory>, workers: Rc<dyn PasswordWorkers>) -> Directory {
        let authenticator = Rc::new(Authenticator::new(shared.common.clone(), workers));
        Directory { shared, authenticator, desk: None }
    }

    /// One a shard, whose accounts are those of the backend at `desk`.
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

    /// May `account` send as `address`? Yes where it gets the mail for it: its own address, its
    /// sub-addresses and aliases.
    pub fn may_send_as(
        &self,
        account: AccountId,
        address: &str,
    ) -> Answer<'static, Result<bool, Unavailable>> {
        match self.desk() {
            None => Answer::now(self.shared.snapshot.load().may_send_as(account, address)),
            Some(desk) => desk.may_send_as(account, address),
        }
    }

    /// Whether `password` is that of `user`, an address or a name in the default domain, asked from
    /// `peer` at `now`, a time since whatever never goes back. Hashing happens on the worker pool;
    /// unknown users cost the same. Cancel-safe.
    ///
    /// What a backend has said of the name is enough for the password that was right before. With any
    /// other the backend is asked anew: so a new password counts at once, and guesses take as long
    /// whether somebody has the name or not.
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

    /// The desk, with nothing remembered of before a reload.
    fn desk(&self) -> Option<&Desk> {
        let desk = self.desk.as_deref()?;
        desk.follow(self.shared.generation());
        Some(desk)
    }

    /// How long the answer to a wrong password takes, and a refusal at most.
    pub fn failure_delay(&self) -> Duration {
        self.guard().options().failure_delay
    }

    /// A place among the refusals that are held back; without one they are answered at once.
    pub fn hold(&self, peer: IpAddr) -> Option<Held> {
        self.guard().hold(peer)
    }

    /// Who is held back, the longest first.
    pub fn blocks(&self, now: Duration) -> Vec<Block> {
        self.guard().blocks(now)
    }

    /// Forgives; how many blocks and counts are gone.
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
