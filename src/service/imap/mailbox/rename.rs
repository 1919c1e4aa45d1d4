//! RENAME (RFC 3501 6.3.5).

use super::super::{
    folder::{Place, Right},
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::mailbox::rename::Rename;

impl Handler for Rename<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let source = Place::existing(session, &self.source, Right::DeleteMailbox)?;
        let target = Place::new(session, &self.target, Right::Create)?;
        source.rename(&target).await?;
        Done::ok("RENAME completed")
    }
}
