//! GETACL (RFC 4314 3.3).

use super::super::{
    folder::resolve,
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::{model::Right, protocol::imap::access::get_acl::GetAcl};

impl Handler for GetAcl<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let folder = resolve(session, &self.mailbox, Right::Administer).await?;
        let list = folder.access_list().await?;
        session.writer().acl(&folder.name(), &list);
        Done::ok("GETACL completed")
    }
}
