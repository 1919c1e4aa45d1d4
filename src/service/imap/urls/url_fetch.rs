//! URLFETCH (RFC 4467 7): the octets that signed URLs name, with the rights of who signed them.

use super::super::{
    handler::Handler,
    quoted::{self, Quoted},
    reply::{Done, Failure, Leave, Reply},
    state::Session,
};
use crate::protocol::imap::urls::url_fetch::UrlFetch;

impl Handler for UrlFetch<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        for url in &self.urls {
            fetch(session, url).await?;
        }
        Done::ok("URLFETCH completed")
    }
}

/// A response for each URL, NIL if it is not valid, whatever the reason.
async fn fetch(session: &mut Session, url: &[u8]) -> Result<(), Failure> {
    let first = match Quoted::find_signed(session, url).await {
        Ok(mut quoted) => {
            let size = quoted.size();
            quoted.next().await.map(|piece| Some((quoted, size, piece)))
        }
        Err(failure) => Err(failure),
    };
    let found = match first {
        Ok(found) => found,
        Err(failure) if quoted::may_succeed_later(&failure) => return Err(failure),
        Err(_) => None,
    };
    let mut writer = session.writer();
    writer.begin_url_fetch(url);
    match found {
        None => writer.no_url_data(),
        Some((mut quoted, size, mut piece)) => {
            writer.url_data(size);
            loop {
                session.channel.connection.output().extend_from_slice(&piece);
                session.channel.flush_if_full().await?;
                if quoted.size() == 0 {
                    break;
                }
                // The literal was announced: a failure can only end the session.
                let next = quoted.next().await;
                piece = next.map_err(|_| Failure::Leave(Leave::Lost))?;
                session.channel.shard.executor.yield_now().await;
            }
        }
    }
    session.writer().end_url_fetch();
    session.channel.flush_if_full().await?;
    Ok(())
}
