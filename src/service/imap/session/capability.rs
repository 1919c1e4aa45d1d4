//! CAPABILITY (RFC 3501 6.1.1).

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::session::capability::Capability;

impl Handler for Capability {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let list = session.capabilities();
        session.writer().capability(list);
        Done::ok("CAPABILITY completed")
    }
}
