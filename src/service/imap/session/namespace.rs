//! NAMESPACE (RFC 2342).

use super::super::{
    handler::Handler,
    namespace::{OTHER_USERS, SHARED},
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::session::namespace::Namespace;

impl Handler for Namespace {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.writer().namespace(OTHER_USERS, SHARED);
        Done::ok("NAMESPACE completed")
    }
}
