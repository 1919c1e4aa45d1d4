//! GETQUOTA (RFC 9208 4.1.1).

use super::super::{
    folder::quota,
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::quota::get_quota::GetQuota;

impl Handler for GetQuota<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let usage = quota(session, &self.root).await?;
        let root = String::from_utf8_lossy(&self.root);
        session.writer().quota(&root, (usage.octets, usage.limits.octets), {
            (usage.messages, usage.limits.messages)
        });
        Done::ok("GETQUOTA completed")
    }
}
