//! GETQUOTAROOT (RFC 9208 4.1.2): the limits are those of the mailbox's account.

use super::super::{
    folder::quota_root,
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::quota::get_quota_root::GetQuotaRoot;

impl Handler for GetQuotaRoot<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let (mailbox, root) = quota_root(session, &self.mailbox).await?;
        let mut writer = session.writer();
        writer.quota_root(&mailbox, root.as_ref().map(|(name, _)| name.as_str()));
        if let Some((name, usage)) = root {
            let octets = (usage.octets, usage.limits.octets);
            writer.quota(&name, octets, (usage.messages, usage.limits.messages));
        }
        Done::ok("GETQUOTAROOT completed")
    }
}
