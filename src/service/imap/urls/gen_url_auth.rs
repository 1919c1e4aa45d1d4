//! GENURLAUTH (RFC 4467 7): signs URLs of mailboxes that the user may read, his own or others'.

use super::{
    super::{
        folder,
        handler::Handler,
        quoted::{elsewhere, is_this_server},
        reply::{Done, Failure, Reply},
        state::Session,
    },
    fresh_key, unknown_mechanism,
};
use crate::{
    model::Right,
    protocol::imap::{
        Code, MessageUrl,
        url_auth::{self, UrlAuth},
        urls::gen_url_auth::GenUrlAuth,
    },
};

impl Handler for GenUrlAuth<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        if !self.urls.iter().all(|(_, mechanism)| url_auth::is_internal(mechanism)) {
            return Err(unknown_mechanism());
        }
        let mut signed = Vec::with_capacity(self.urls.len());
        for (url, _) in &self.urls {
            signed.push(sign(session, url).await?);
        }
        session.writer().gen_url_auth(&signed);
        Done::ok("GENURLAUTH completed")
    }
}

/// RFC 4467 7: whatever is wrong with an URL is BAD. Whether the message is there, and whether the
/// user who may use it exists, is left to URLFETCH.
async fn sign(session: &Session, url: &[u8]) -> Result<Vec<u8>, Failure> {
    let parsed = MessageUrl::parse(url).map_err(Failure::bad)?;
    let (Some(server), Some(name), Some(UrlAuth { proof: None, .. })) =
        (&parsed.server, &parsed.mailbox, &parsed.auth)
    else {
        return Err(Failure::bad("An URL ends with ;URLAUTH= and who may use it"));
    };
    let user = session.user()?;
    let is_own = |it: &String| session.channel.shard.directory.login_key(it) == *user.name;
    if !is_this_server(session, server) || !server.user.as_ref().is_some_and(is_own) {
        return Err(Failure::bad(elsewhere(session)));
    }
    let found = folder::resolve_utf8(session, name, Right::Read).await;
    let folder = found.map_err(|failure| match failure {
        Failure::No { code: Some(Code::Unavailable), .. } => failure,
        Failure::Leave(_) => failure,
        _ => Failure::bad("There is no such mailbox, or it may not be read"),
    })?;
    if parsed.uid_validity.is_some_and(|it| it != folder.uid_validity()) {
        return Err(Failure::bad("The mailbox has another UIDVALIDITY"));
    }
    let key = session.account()?.url_key_or(folder.place(), fresh_key(session)).await?;
    Ok(url_auth::sign(&key, url))
}
