//! MYRIGHTS (RFC 4314 3.5), also as part of LIST (RFC 8440).

use super::super::{
    folder::resolve_for_any,
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::{model::Rights, protocol::imap::access::my_rights::MyRights};

impl Handler for MyRights<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let folder = resolve_for_any(session, &self.mailbox, Rights::FOR_MY_RIGHTS).await?;
        session.writer().my_rights(&folder.name(), folder.rights());
        Done::ok("MYRIGHTS completed")
    }
}
