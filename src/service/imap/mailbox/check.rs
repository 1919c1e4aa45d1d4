//! CHECK (RFC 3501 6.4.1).

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::mailbox::check::Check;

impl Handler for Check {
    /// Requests housekeeping; the server does that without being asked.
    async fn run(&self, _: &mut Session, _: &str) -> Reply {
        Done::ok("CHECK completed")
    }
}
