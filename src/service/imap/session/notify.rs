//! NOTIFY (RFC 5465). What the client is then told is in [`crate::service::imap::notify`].

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::session::notify::Notify;

impl Handler for Notify<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        match self {
            Notify::None => session.watch_nothing(),
            Notify::Set(set) => session.watch(set).await?,
        }
        Done::ok("NOTIFY completed")
    }
}
