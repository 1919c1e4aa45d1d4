//! AUTHENTICATE (RFC 3501 6.2.2, RFC 4959): `protocol::sasl` runs the exchange.

use super::{
    super::{
        handler::Handler,
        reply::{Failure, Reply},
        state::Session,
    },
    credentials::{check, refuse, require_privacy},
};
use crate::protocol::{
    imap::{Code, Frame, authentication::authenticate::Authenticate},
    sasl::{Exchange, Mechanism, SaslError, Step},
};

impl Handler for Authenticate<'_> {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        require_privacy(session)?;
        let Some(mechanism) = Mechanism::parse(self.mechanism.as_bytes()) else {
            return Err(Failure::no(Code::Cannot, "No such mechanism"));
        };
        let (mut exchange, mut step) = Exchange::start(mechanism, self.initial_response);
        loop {
            match step {
                Step::Challenge(challenge) => {
                    session.writer().continuation(challenge);
                    let line = read_line(session).await?;
                    step = exchange.respond(&line);
                }
                Step::Done(credentials) => {
                    return check(session, tag, &credentials.user, &credentials.password).await;
                }
                Step::Failed(SaslError::AuthorizationDenied) => return refuse(session).await,
                Step::Failed(SaslError::Cancelled) => {
                    return Err(Failure::bad("Authentication cancelled"));
                }
                Step::Failed(SaslError::Malformed(why)) => return Err(Failure::bad(why)),
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
