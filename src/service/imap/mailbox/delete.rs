//! DELETE (RFC 3501 6.3.4).

use super::super::{
    folder::{Place, Right, resolve},
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::protocol::imap::{Code, Status, mailbox::delete::Delete};

impl Handler for Delete<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        // RFC 3501 6.3.4: a \Noselect name goes with the last that is below it, not before.
        if Place::existing(session, &self.mailbox, Right::DeleteMailbox)?.is_only_above() {
            let text = "Not a mailbox, and has mailboxes below";
            return Err(Failure::no(Code::HasChildren, text));
        }
        let folder = resolve(session, &self.mailbox, Right::DeleteMailbox)?;
        folder.delete().await?;
        // Our own client knows what it did: it goes on in the authenticated state. Other sessions
        // are told BYE by `tell_changes`.
        if session.selected.as_ref().is_some_and(|selected| folder.is(selected)) {
            session.selected = None;
            session.writer().untagged(Status::Ok, Some(Code::Closed), "The mailbox was deleted");
        }
        Done::ok("DELETE completed")
    }
}
