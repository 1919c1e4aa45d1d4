//! LOGOUT (RFC 3501 6.1.3).

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::session::logout::Logout;

impl Handler for Logout {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.writer().bye("Logging out");
        Ok(Done::LogOut)
    }
}
