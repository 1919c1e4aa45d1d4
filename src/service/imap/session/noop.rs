//! NOOP (RFC 3501 6.1.2).

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::session::noop::Noop;

impl Handler for Noop {
    /// Changes are sent after every command, so there is nothing else to do.
    async fn run(&self, _: &mut Session, _: &str) -> Reply {
        Done::ok("NOOP completed")
    }
}
