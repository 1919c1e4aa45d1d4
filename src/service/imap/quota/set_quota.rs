//! SETQUOTA (RFC 9208 4.1.3), for administrators. Limits that it does not name are taken away;
//! those above what any account may have are rounded down to that.

use super::super::{
    folder::set_quota,
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    model::QuotaLimits,
    protocol::imap::{Code, quota::set_quota::SetQuota},
};

impl Handler for SetQuota<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        if self.unknown {
            return Err(Failure::no(Code::Cannot, "Only STORAGE and MESSAGE can be limited"));
        }
        let octets = self.storage.map(|kib| kib.saturating_mul(1024));
        let limits = QuotaLimits { octets, messages: self.messages };
        let usage = set_quota(session, &self.root, limits).await?;
        let root = String::from_utf8_lossy(&self.root);
        session.writer().quota(&root, (usage.octets, usage.limits.octets), {
            (usage.messages, usage.limits.messages)
        });
        Done::ok("SETQUOTA completed")
    }
}
