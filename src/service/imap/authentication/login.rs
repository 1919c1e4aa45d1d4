//! LOGIN (RFC 3501 6.2.3).

use super::{
    super::{
        handler::Handler,
        reply::{Failure, Reply},
        state::Session,
    },
    credentials::{NOT_PRIVATE, judge, refuse},
};
use crate::{
    metrics::Protocol,
    protocol::{
        imap::{Code, authentication::login::Login},
        sasl::{Credentials, Question},
    },
    service::authentication::LogIn,
};

impl Handler for Login<'_> {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        // RFC 3501 6.2.3 and 11.1: a password in clear text is refused before it is checked.
        if !session.can_login() {
            return Err(Failure::no(Code::PrivacyRequired, NOT_PRIVATE));
        }
        // Passwords are compared octet by octet; the directory holds user names and passwords in
        // UTF-8.
        let (Ok(user), Ok(password)) =
            (std::str::from_utf8(&self.user), std::str::from_utf8(&self.password))
        else {
            return refuse(session).await;
        };
        session.channel.flush().await?;
        let credentials = Credentials { user: user.to_owned(), password: password.to_owned() };
        let question = Question::Password { credentials, authorization: None };
        let (shard, connection) = (&session.channel.shard, &session.channel.connection);
        let mut log_in = LogIn::default();
        log_in.answer(shard, question, Protocol::Imap, connection).await;
        judge(session, tag, log_in.outcome()).await
    }
}
