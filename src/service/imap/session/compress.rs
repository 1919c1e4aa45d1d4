//! COMPRESS (RFC 4978).

use super::super::{
    handler::Handler,
    reply::{Done, Failure, Leave, Reply},
    state::Session,
};
use crate::protocol::imap::{Code, Status, session::compress::Compress};

impl Handler for Compress {
    /// The tagged OK is the last that is not compressed.
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        if session.channel.connection.is_deflated() {
            return Err(Failure::no(Code::CompressionActive, "DEFLATE is active already"));
        }
        session.writer().tagged(tag, Status::Ok, None, "DEFLATE active");
        session.channel.start_deflate().await.map_err(|_| Failure::Leave(Leave::Lost))?;
        Ok(Done::Answered)
    }
}
