//! STARTTLS (RFC 3501 6.2.1).
//!
//! Input received in clear text is not used under TLS: `Connection::start_tls` discards it (RFC
//! 3501 11.1).

use super::super::{
    handler::Handler,
    reply::{Done, Failure, Leave, Reply},
    state::Session,
};
use crate::protocol::imap::{Status, authentication::start_tls::StartTls};

impl Handler for StartTls {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        if !session.channel.connection.can_start_tls() {
            return Err(Failure::bad("TLS is already active or not available"));
        }
        session.writer().tagged(tag, Status::Ok, None, "Begin TLS negotiation now");
        session.channel.start_tls().await.map_err(|_| Failure::Leave(Leave::Lost))?;
        session.restart_under_tls();
        Ok(Done::Answered)
    }
}
