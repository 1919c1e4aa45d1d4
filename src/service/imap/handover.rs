//! How a session leaves a shard: its connection closed, or on its way to the account's owner.

use crate::{directory::Identity, model::Moment, service::channel};

/// How a session on this shard ended.
pub type Outcome = channel::Outcome<ImapHandover>;

/// What the owner of an account needs to go on with a session that logged in elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImapHandover {
    pub identity: Identity,
    /// Of the LOGIN or AUTHENTICATE that the owner answers.
    pub tag: String,
    /// The time to log in goes on, should the owner refuse.
    pub(super) deadline: Moment,
    pub(super) login_failures: u32,
}
