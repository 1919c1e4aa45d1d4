//! RENAME (RFC 3501 6.3.5).

use super::{
    super::{
        folder::Place,
        handler::Handler,
        reply::{Done, Reply},
        state::Session,
        watched::Own,
    },
    names,
};
use crate::protocol::imap::mailbox::rename::Rename;

impl Handler for Rename<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let source = Place::existing(session, &self.source)?;
        let target = Place::new(session, &self.target)?;
        source.rename(&target).await?;
        let (from, to) = (source.spelled(), target.spelled());
        session.note_own_name(&to, true);
        session.note_own(Own::Renamed(from, to));
        names::tell_other_name(session, &self.target, &target);
        Done::ok("RENAME completed")
    }
}
