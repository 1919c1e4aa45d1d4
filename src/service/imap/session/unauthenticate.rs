//! UNAUTHENTICATE (RFC 8437).

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::{Code, Status, session::unauthenticate::Unauthenticate};

impl Handler for Unauthenticate {
    /// All that belongs to the user ends, and nothing is expunged; TLS stays. The next log-in may
    /// hand the session over again.
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        session.log_out();
        let is_deflated = session.channel.connection.is_deflated();
        if is_deflated {
            session.channel.deflate_last().await?;
        }
        // STARTTLS may be among them again.
        let (code, text) = (Code::Capability(session.capabilities()), "Log in again");
        if !is_deflated {
            return Done::with_code(code, text);
        }
        // RFC 8437 4.1: the command was the last that the client compressed, this is ours.
        session.writer().tagged(tag, Status::Ok, Some(code), text);
        session.channel.end_deflate().await?;
        Ok(Done::Answered)
    }
}
