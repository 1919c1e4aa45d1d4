//! DELETEACL (RFC 4314 3.2). An identifier without an entry is not an error: the entry is gone.

use super::{
    super::{
        folder::resolve,
        handler::Handler,
        reply::{Done, Reply},
        state::Session,
    },
    set_acl::leave_unreadable,
    subject::named,
};
use crate::{model::Right, protocol::imap::access::delete_acl::DeleteAcl, service::access::Edit};

impl Handler for DeleteAcl<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let folder = resolve(session, &self.mailbox, Right::Administer).await?;
        let subject = named(session, &self.identifier)?;
        folder.edit_access(subject, Edit::Remove).await?;
        leave_unreadable(session);
        Done::ok("DELETEACL completed")
    }
}
