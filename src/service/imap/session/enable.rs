//! ENABLE (RFC 5161).

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::session::enable::Enable;

impl Handler for Enable<'_> {
    /// Of what may be enabled we have CONDSTORE; unknown names are ignored (RFC 5161 3.1).
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let condstore = self.names.iter().any(|name| name.eq_ignore_ascii_case("CONDSTORE"));
        if condstore {
            session.enable_condstore();
        }
        session.writer().enabled(if condstore { &["CONDSTORE"] } else { &[] });
        Done::ok("ENABLE completed")
    }
}
