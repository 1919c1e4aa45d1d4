//! SUBSCRIBE and UNSUBSCRIBE (RFC 3501 6.3.6, 6.3.7). A name may be subscribed before the mailbox
//! exists and after it is deleted, so that neither tells anybody whether it exists, and neither
//! needs a right (RFC 4314 4).

use super::super::{
    folder::Place,
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
    watched::Own,
};
use crate::protocol::imap::mailbox::subscribe::{Subscribe, Unsubscribe};

impl Handler for Subscribe<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let place = Place::new(session, &self.mailbox)?;
        place.set_subscribed(true).await?;
        session.note_own(Own::Subscription(place.spelled()));
        Done::ok("SUBSCRIBE completed")
    }
}

impl Handler for Unsubscribe<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let place = Place::existing(session, &self.mailbox)?;
        place.set_subscribed(false).await?;
        session.note_own(Own::Subscription(place.spelled()));
        Done::ok("UNSUBSCRIBE completed")
    }
}
