//! Accounts whose mailboxes a session works on, wherever they are.
//!
//! Everything that an account decides is decided on its own shard, by a [`Holding`]: the account as
//! one user may use it. A session reaches it through a [`Home`], directly or over the mesh, and
//! hands it the work to be done there. [`View`] is a selected mailbox, of which the owner sends
//! each newer state; [`Reading`] reads messages; [`Seen`] is what the user has seen of it.
//! [`Follow`] hears that something changed in an account, and [`News`] is what.

mod annotated;
mod conversion;
mod distant;
mod feed;
mod following;
mod holding;
mod home;
mod lease;
mod moving;
mod name_history;
mod news;
mod reading;
mod seen;
mod staging;

use std::{rc::Rc, sync::Arc};

pub(super) use annotated::{ANNOTATION_RIGHTS, Subject};
pub(super) use conversion::Conversion;
pub(super) use following::Follow;
pub use following::Follows;
pub(super) use holding::{Holding, Listed, not_allowed, permitted};
pub(super) use home::Home;
pub use lease::Leases;
pub(super) use lease::View;
pub(super) use moving::carry;
pub(super) use name_history::NameChange;
pub(super) use news::{
    AnnotationNews, Interest, MessageNews, NameNews, News, is_at_or_below, may_watch,
};
pub(super) use reading::{CardSource, Reading};
pub(super) use seen::{Seen, SeenBook, unseen};
pub(super) use staging::{Attributes, REPLACED_RIGHTS, Replaced, Staging, too_many};

use crate::{
    model::{AccountId, Trail},
    service::{Shard, access::By},
};

/// Who logged in.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub account: AccountId,
    /// The address, spelled as the directory compares addresses.
    pub name: Arc<str>,
    /// The session's.
    pub trail: Trail,
}

/// An account that a user can reach, and the names of its mailboxes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Reach {
    pub account: AccountId,
    /// Name of the user whose account it is.
    pub owner: Rc<str>,
    /// Goes before its mailboxes' names; empty for the user's own.
    pub prefix: Rc<str>,
}

impl User {
    /// As the cause of a change.
    fn as_cause(&self) -> By<'_> {
        By::User { trail: self.trail, name: &self.name }
    }

    /// Whether he may do what is for administrators.
    pub(super) fn is_administrator(&self, shard: &Shard) -> bool {
        holding::is_owner(shard, AccountId::PUBLIC, self)
    }

    /// Whether something in another account may be shared with the user. Says nothing about rights.
    pub(super) fn reaches(&self, shard: &Shard, account: AccountId) -> bool {
        let groups = holding::groups_of(shard, self);
        let is_owner = holding::is_owner(shard, account, self);
        is_owner || shard.shares.has(account, &holding::asker(self, &groups, false))
    }

    /// The other accounts in which something may be shared with the user.
    pub(super) fn sharers(&self, shard: &Shard) -> Vec<AccountId> {
        let groups = holding::groups_of(shard, self);
        shard.shares.owners(&holding::asker(self, &groups, false))
    }
}
