//! ID (RFC 2971).

use super::super::{
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    protocol::imap::{Code, session::id::Id},
    service::load::Level,
};

impl Handler for Id<'_> {
    /// The client's fields are not kept, and nothing else depends on them (RFC 2971 1). One is
    /// there to be acted on: work that its program can do at another time.
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        if self.can_wait() && session.channel.shard.load.level() > Level::Nothing {
            return Err(Failure::no(Code::Unavailable, "Too busy for this; try again later"));
        }
        session.writer().id(&[("name", Some("Ringmail"))]);
        Done::ok("ID completed")
    }
}
