//! LISTRIGHTS (RFC 4314 3.4): every right can be granted by itself.

use super::{
    super::{
        folder::resolve,
        handler::Handler,
        reply::{Done, Reply},
        state::Session,
    },
    subject::named,
};
use crate::{model::Right, protocol::imap::access::list_rights::ListRights};

impl Handler for ListRights<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let folder = resolve(session, &self.mailbox, Right::Administer).await?;
        let required = folder.required_rights(named(session, &self.identifier)?);
        session.writer().list_rights(&folder.name(), &self.identifier, required);
        Done::ok("LISTRIGHTS completed")
    }
}
