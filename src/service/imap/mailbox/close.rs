//! CLOSE (RFC 3501 6.4.2) and UNSELECT (RFC 3691).

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::mailbox::close::{Close, Unselect};

impl Handler for Close {
    /// Expunges without sending EXPUNGE responses, unless the mailbox was selected read-only.
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let selected = session.selected()?;
        if !selected.read_only {
            let mailbox = selected.mailbox();
            // Expunges all \Deleted messages, also those marked by other sessions; the store counts
            // them, so it is cheap if there are none.
            session.account()?.expunge(mailbox, None).await?;
        }
        session.selected = None;
        Done::ok("CLOSE completed")
    }
}

impl Handler for Unselect {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.selected = None;
        Done::ok("UNSELECT completed")
    }
}
