//! ID (RFC 2971).

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::session::id::Id;

impl Handler for Id<'_> {
    /// What the client says of itself is not kept: RFC 2971 1 forbids to act on it.
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.writer().id(&[("name", Some("Ringmail"))]);
        Done::ok("ID completed")
    }
}
