//! AUTHENTICATE (RFC 3501 6.2.2, RFC 4959): `protocol::sasl` runs the exchange.

use super::{
    super::{
        handler::Handler,
        reply::{Failure, Reply},
        state::Session,
    },
    credentials::{NOT_PRIVATE, count_failure, judge},
};
use crate::{
    metrics::Protocol,
    protocol::{
        imap::{Code, Frame, authentication::authenticate::Authenticate},
        sasl::{Exchange, NotOffered, SaslError, Step},
    },
    service::authentication::LogIn,
};

impl Handler for Authenticate<'_> {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        let offered = session.mechanisms();
        let chosen = offered.choose(self.mechanism.as_bytes(), session.can_login());
        let mechanism = chosen.map_err(|why| match why {
            NotOffered::NeedsPrivacy => Failure::no(Code::PrivacyRequired, NOT_PRIVATE),
            NotOffered::Unknown => Failure::no(Code::Cannot, "No such mechanism"),
        })?;
        let (mut exchange, mut step) = Exchange::start(mechanism, offered, self.initial_response);
        let mut log_in = LogIn::default();
        loop {
            match step {
                Step::Challenge(challenge) => {
                    session.writer().continuation(&challenge);
                    let line = read_line(session).await?;
                    step = exchange.respond(&line);
                }
                Step::Ask(question) => {
                    session.channel.flush().await?;
                    let (shard, connection) = (&session.channel.shard, &session.channel.connection);
                    let answer = log_in.answer(shard, question, Protocol::Imap, connection).await;
                    step = exchange.answer(answer);
                }
                Step::Over => return judge(session, tag, log_in.outcome()).await,
                Step::Failed(SaslError::Cancelled) => {
                    return Err(Failure::bad("Authentication cancelled"));
                }
                Step::Failed(SaslError::Undecodable(why)) => return Err(Failure::bad(why)),
                Step::Failed(SaslError::Refused(why)) => {
                    count_failure(session)?;
                    return Err(Failure::no(Code::AuthenticationFailed, why));
                }
            }
        }
    }
}

/// One line of a SASL exchange, without its CRLF.
async fn read_line(session: &mut Session) -> Result<Vec<u8>, Failure> {
    loop {
        match session.framer.line(session.channel.connection.input()) {
            Frame::Command { size } => {
                let mut line = session.take_input(size);
                line.truncate(line.strip_suffix(b"\r\n").unwrap_or(&line).len());
                return Ok(line);
            }
            Frame::Bye(text) => return Err(Failure::bye(text)),
            _ => session.channel.listen().await?,
        }
    }
}
