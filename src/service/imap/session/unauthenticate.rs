//! UNAUTHENTICATE (RFC 8437).

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::{Code, session::unauthenticate::Unauthenticate};

impl Handler for Unauthenticate {
    /// All that belongs to the user ends, and nothing is expunged; TLS and compression stay. The
    /// next log-in may hand the session over again.
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.log_out();
        Done::with_code(Code::Capability(session.capabilities()), "Log in again")
    }
}
