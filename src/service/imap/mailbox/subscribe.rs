//! SUBSCRIBE and UNSUBSCRIBE (RFC 3501 6.3.6, 6.3.7). Names may be subscribed to before they exist and
//! after they are gone.

use super::super::{
    folder::{existing_name, new_name},
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::mailbox::subscribe::{Subscribe, Unsubscribe};

impl Handler for Subscribe<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let name = new_name(&self.mailbox)?;
        session.account()?.set_subscribed(&name, true).await?;
        Done::ok("SUBSCRIBE completed")
    }
}

impl Handler for Unsubscribe<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let name = existing_name(&self.mailbox)?;
        session.account()?.set_subscribed(&name, false).await?;
        Done::ok("UNSUBSCRIBE completed")
    }
}
