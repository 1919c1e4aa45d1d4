//! COMPRESS (RFC 4978).

use super::super::{
    handler::Handler,
    reply::{Done, Failure, Leave, Reply},
    state::Session,
};
use crate::protocol::imap::{
    Code, Status,
    session::{compress::Compress, unauthenticate::Unauthenticate},
};

impl Handler for Compress {
    /// The tagged OK is the last that is not compressed.
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        if session.channel.connection.is_deflated() {
            // RFC 4978 3: BAD, while NO is for compression by another layer.
            let (code, text) = (Some(Code::CompressionActive), "DEFLATE is active already".into());
            return Err(Failure::Bad { code, text });
        }
        session.writer().tagged(tag, Status::Ok, None, "DEFLATE active");
        let started = session.channel.start_deflate(Unauthenticate::may_end).await;
        started.map_err(|_| Failure::Leave(Leave::Lost))?;
        Ok(Done::Answered)
    }
}
