//! Accounts, addresses and credentials: an immutable snapshot shared by the shards, replaced whole
//! on reload.
//!
//! [`SharedDirectory`] is made once, at start, and given to every shard, which makes its own
//! [`Directory`] of it. SMTP asks where an address leads, every protocol asks whether a password
//! is right; the CLI edits the [`UsersFile`] that snapshots are made from.
//!
//! Invariants: a lookup takes no lock and sees one snapshot; no password is hashed on a shard; no
//! lock is held across an await.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod address;
mod authenticate;
mod flight;
mod guard;
mod password;
mod snapshot;
mod turns;
mod users_file;

use std::{net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use self::{
    authenticate::{Authenticator, Common},
    guard::Guard,
};
pub use self::{
    authenticate::{PasswordJob, PasswordWorkers},
    guard::{Block, GuardOptions, Held, Lift},
    password::{HashError, hash, hash_all},
    snapshot::{DirectoryOptions, DirectorySnapshot},
    turns::PeerLimits,
    users_file::{User, UsersFile, UsersFileError, lock_name, parse_import},
};
use crate::model::AccountId;

/// Where mail for an address goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    Mailbox(AccountId),
    /// The domain is ours, the local part is not: 550 5.1.1.
    UnknownUser,
    /// Not our domain: 550 5.7.1 on port 25, "no outbound queue yet" on submission.
    Foreign,
}

/// Who logged in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub account: AccountId,
    /// Canonical address, e.g. "alice@demo.test".
    pub address: String,
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
}

/// What all shards share: the current snapshot, who waits for a password check, and who guesses.
pub struct SharedDirectory {
    snapshot: ArcSwap<DirectorySnapshot>,
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
            common: Arc::new(Common::new(limits, guard)),
        })
    }

    /// Lines for the operator about who was held back since the last call.
    pub fn news(&self) -> Vec<String> {
        self.common.guard.news()
    }

    /// Reload: what shards look up from now on; password caches forget what they knew.
    pub fn replace(&self, snapshot: DirectorySnapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }
}

/// A shard's handle on the directory. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<SharedDirectory>,
    authenticator: Rc<Authenticator>,
}

impl Directory {
    /// One a shard: it has a password cache of its own.
    pub fn new(shared: Arc<SharedDirectory>, workers: Rc<dyn PasswordWorkers>) -> Directory {
        let authenticator = Rc::new(Authenticator::new(shared.common.clone(), workers));
        Directory { shared, authenticator }
    }

    /// `address` is the bare mailbox of RCPT TO, e.g. "alice+lists@demo.test": sub-addresses are
    /// resolved, domains compare without case, local parts too (as most servers do).
    pub fn resolve(&self, address: &str) -> Destination {
        self.shared.snapshot.load().resolve(address)
    }

    /// May `identity` send as `address`? Yes where it gets the mail for it: its own address, its
    /// sub-addresses and aliases.
    pub fn may_send_as(&self, identity: &Identity, address: &str) -> bool {
        self.resolve(address) == Destination::Mailbox(identity.account)
    }

    pub fn is_local_domain(&self, domain: &str) -> bool {
        self.shared.snapshot.load().is_local_domain(domain)
    }

    /// Whether `password` is that of `user`, an address or a name in the default domain, asked from
    /// `peer` at `now`, a time since whatever never goes back. Hashing happens on the worker pool;
    /// unknown users cost the same. Cancel-safe.
    pub async fn authenticate(
        &self,
        user: &str,
        password: &str,
        peer: IpAddr,
        now: Duration,
    ) -> Result<Identity, AuthenticationError> {
        let snapshot = self.shared.snapshot.load_full();
        self.authenticator.authenticate(snapshot, user, password, peer, now).await
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
