//! RESETKEY (RFC 4467 7): from then on, durably, no URL that the user signed before is valid.

use super::{
    super::{
        folder,
        handler::Handler,
        reply::{Done, Reply},
        state::Session,
    },
    fresh_key, unknown_mechanism,
};
use crate::{
    model::{Right, Rights},
    protocol::imap::{Code, url_auth::is_internal, urls::reset_key::ResetKey},
};

impl Handler for ResetKey<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        if !self.mechanisms.iter().all(|mechanism| is_internal(mechanism)) {
            return Err(unknown_mechanism());
        }
        let account = session.account()?;
        let Some(name) = &self.mailbox else {
            account.remove_url_keys().await?;
            session.note_url_key();
            return Done::with_code(Code::UrlMech, "All keys were removed");
        };
        // Also of one that he may no longer read: the key is his.
        let any_of = Rights::of(&[Right::Lookup, Right::Read]);
        let folder = folder::resolve_for_any(session, name, any_of).await?;
        account.replace_url_key(folder.place(), fresh_key(session)).await?;
        // This session is told by the reply.
        session.note_url_key();
        Done::with_code(Code::UrlMech, "The mailbox has another key")
    }
}
