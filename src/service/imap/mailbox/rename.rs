//! RENAME (RFC 3501 6.3.5).

use super::super::{
    folder::{existing_name, new_name},
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::mailbox::rename::Rename;

impl Handler for Rename<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let source = existing_name(&self.source)?;
        let target = new_name(&self.target)?;
        session.account()?.rename_mailbox(&source, &target).await?;
        Done::ok("RENAME completed")
    }
}
