//! SETACL (RFC 4314 3.1).

use super::{
    super::{
        folder::{check_readable, resolve},
        handler::Handler,
        reply::{Done, Reply},
        state::Session,
    },
    subject::named,
};
use crate::{
    model::Right,
    protocol::imap::{Code, Status, access::set_acl::SetAcl},
    service::access::Edit,
};

impl Handler for SetAcl<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let folder = resolve(session, &self.mailbox, Right::Administer).await?;
        let subject = named(session, &self.identifier)?;
        folder.edit_access(subject, Edit::Change(self.change)).await?;
        leave_unreadable(session);
        Done::ok("SETACL completed")
    }
}

/// A session that took the right to read its selected mailbox from its own user leaves the mailbox,
/// since its client knows. `tell_changes` sends BYE to other sessions.
pub(super) fn leave_unreadable(session: &mut Session) {
    if session.selected.is_some() && check_readable(session).is_err() {
        session.selected = None;
        session.writer().untagged(Status::Ok, Some(Code::Closed), "The mailbox may not be read");
    }
}
