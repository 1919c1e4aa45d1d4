//! RENAME (RFC 3501 6.3.5).

use super::{
    super::{
        folder::Place,
        handler::Handler,
        reply::{Done, Reply},
        state::Session,
    },
    names,
};
use crate::protocol::imap::mailbox::rename::Rename;

impl Handler for Rename<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let source = Place::existing(session, &self.source)?;
        let target = Place::new(session, &self.target)?;
        source.rename(&target).await?;
        session.note_own_name(&target.spelled(), true);
        names::tell_other_name(session, &self.target, &target);
        Done::ok("RENAME completed")
    }
}
