//! NAMESPACE (RFC 2342).

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::session::namespace::Namespace;

impl Handler for Namespace {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.writer().namespace();
        Done::ok("NAMESPACE completed")
    }
}
