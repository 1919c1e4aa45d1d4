//! DELETE (RFC 3501 6.3.4).

use super::super::{
    folder::existing_name,
    handler::Handler,
    reply::{Done, Failure, Reply, no_such_mailbox},
    state::Session,
};
use crate::protocol::imap::{Code, SEPARATOR, Status, mailbox::delete::Delete};

impl Handler for Delete<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let account = session.account()?;
        let name = existing_name(&self.mailbox)?;
        let Some(info) = account.mailbox_by_name(&name) else {
            // RFC 3501 6.3.4: a \Noselect name goes with the last that is below it, not before.
            return Err(
                match account.has_children(name.strip_suffix(SEPARATOR).unwrap_or(&name)) {
                    true => {
                        Failure::no(Code::HasChildren, "Not a mailbox, and has mailboxes below")
                    }
                    false => no_such_mailbox(),
                },
            );
        };
        account.delete_mailbox(&name).await?;
        // Our own client knows what it did: it goes on in the authenticated state. Other sessions are
        // told BYE by `tell_changes`.
        if session.selected.as_ref().is_some_and(|selected| selected.mailbox() == info.id) {
            session.selected = None;
            session.writer().untagged(Status::Ok, Some(Code::Closed), "The mailbox was deleted");
        }
        Done::ok("DELETE completed")
    }
}
