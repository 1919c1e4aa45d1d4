//! ID (RFC 2971).

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::session::id::Id;

impl Handler for Id<'_> {
    /// The client's fields are not kept: RFC 2971 1 forbids acting on them.
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.writer().id(&[("name", Some("Ringmail"))]);
        Done::ok("ID completed")
    }
}
