//! LOGIN (RFC 3501 6.2.3).

use super::{
    super::{handler::Handler, reply::Reply, state::Session},
    credentials::{check, refuse, require_privacy},
};
use crate::protocol::imap::authentication::login::Login;

impl Handler for Login<'_> {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        require_privacy(session)?;
        // Passwords are compared octet by octet; the directory holds user names and passwords in
        // UTF-8.
        match (std::str::from_utf8(&self.user), std::str::from_utf8(&self.password)) {
            (Ok(user), Ok(password)) => check(session, tag, user, password).await,
            _ => refuse(session).await,
        }
    }
}
