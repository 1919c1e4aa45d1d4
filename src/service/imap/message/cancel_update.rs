//! CANCELUPDATE (RFC 5267 4.3.5). A tag that no result has is no mistake: the server may have ended
//! it before.

use super::super::{
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::protocol::imap::message::cancel_update::CancelUpdate;

impl Handler for CancelUpdate<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let selected = session.selected.as_mut();
        let contexts =
            &mut selected.ok_or_else(|| Failure::bad("Select a mailbox first"))?.contexts;
        self.tags.iter().for_each(|tag| contexts.cancel(tag));
        Done::ok("No further updates")
    }
}
