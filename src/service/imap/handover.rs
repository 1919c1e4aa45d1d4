//! How a session leaves a shard: closed, or handed over to the account's owner shard.

use crate::{directory::Identity, model::Moment, service::channel};

/// How a session on this shard ended.
pub type Outcome = channel::Outcome<ImapHandover>;

/// What the account's owner shard needs to continue a session that logged in elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImapHandover {
    pub identity: Identity,
    /// The tag of the LOGIN or AUTHENTICATE that the owner answers.
    pub tag: String,
    /// The login deadline, still in force if the owner refuses.
    pub(super) deadline: Moment,
    pub(super) login_failures: u32,
}
