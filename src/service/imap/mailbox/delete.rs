//! DELETE (RFC 3501 6.3.4).

use super::super::{
    folder::{Place, resolve},
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    model::Right,
    protocol::imap::{Code, Status, mailbox::delete::Delete},
};

impl Handler for Delete<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        // RFC 3501 6.3.4: a \Noselect name cannot be deleted; it vanishes with the last mailbox
        // below it.
        if Place::existing(session, &self.mailbox)?.is_only_above().await? {
            let text = "Not a mailbox, but has mailboxes below it";
            return Err(Failure::no(Code::HasChildren, text));
        }
        let folder = resolve(session, &self.mailbox, Right::DeleteMailbox).await?;
        folder.delete().await?;
        session.note_own_name(&folder.name(), false);
        // This session returns to the authenticated state, since its client knows of the deletion.
        // `tell_changes` sends BYE to other sessions.
        if session.selected.as_ref().is_some_and(|selected| folder.is(selected)) {
            session.selected = None;
            session.writer().untagged(Status::Ok, Some(Code::Closed), "The mailbox was deleted");
        }
        Done::ok("DELETE completed")
    }
}
