//! Accounts, addresses and credentials: an immutable snapshot shared by the shards, replaced whole
//! on reload. STUB SIGNATURES.
#![allow(unused_variables)]

use std::net::IpAddr;

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

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub account: AccountId,
    /// Canonical address, e.g. "alice@demo.test".
    pub address: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthenticationError {
    #[error("authentication failed")]
    Rejected,
    /// The hashing queue is full or this address has too many attempts waiting: try again later.
    #[error("too many authentications in progress")]
    Busy,
}

/// A shard's handle on the directory. Cheap to clone.
#[derive(Clone)]
pub struct Directory {}

impl Directory {
    /// `address` is the bare mailbox of RCPT TO, e.g. "alice+lists@demo.test": sub-addresses are
    /// resolved, domains compare without case, local parts too (as most servers do).
    pub fn resolve(&self, address: &str) -> Destination {
        todo!()
    }
    /// May `identity` send as `address`? (its own address, its sub-addresses and aliases)
    pub fn may_send_as(&self, identity: &Identity, address: &str) -> bool {
        todo!()
    }
    /// Hashing happens on the worker pool; unknown users cost the same.
    pub async fn authenticate(
        &self,
        user: &str,
        password: &str,
        peer: IpAddr,
    ) -> Result<Identity, AuthenticationError> {
        todo!()
    }
}
