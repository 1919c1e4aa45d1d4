//! The AUTH exchange of a session (RFC 4954). The service checks the credentials.

use super::{
    super::{
        command::Verb,
        reply::{self, Reply},
    },
    Event, Hello, Phase, Role, Session,
};
use crate::protocol::sasl::{self, NotOffered};

impl Session {
    /// Whether clients must log in before they send.
    pub(super) fn must_log_in(&self) -> bool {
        match self.role {
            Role::Submission => true,
            Role::Lmtp => self.security.lmtp_auth,
            Role::Exchange => false,
        }
    }

    /// Whether AUTH is there.
    pub(super) fn auth_permitted(&self) -> Result<(), Reply> {
        if !self.must_log_in() {
            Err(reply::AUTH_UNAVAILABLE)
        } else if self.security.mechanisms.is_empty() {
            Err(reply::AUTH_NEEDS_TLS)
        } else {
            Ok(())
        }
    }

    pub(super) fn auth<'a>(
        &mut self,
        mechanism: &str,
        initial_response: Option<&str>,
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Reply> {
        self.auth_permitted()?;
        if self.hello != Hello::Extended {
            return Err(self.hello_first());
        }
        if self.authenticated {
            return Err(reply::AUTH_ALREADY);
        }
        if self.transaction.open {
            return Err(reply::IN_TRANSACTION);
        }
        let is_private = self.security.tls || self.security.plaintext_auth;
        let offered = self.security.mechanisms;
        let mechanism = offered.choose(mechanism.as_bytes(), is_private);
        let mechanism = mechanism.map_err(|why| match why {
            NotOffered::Unknown => reply::AUTH_MECHANISM,
            NotOffered::NeedsPrivacy => reply::AUTH_NEEDS_TLS,
        })?;
        let (exchange, step) =
            sasl::Exchange::start(mechanism, offered, initial_response.map(str::as_bytes));
        self.phase = Phase::Auth(exchange);
        Ok(self.auth_step(step, output))
    }

    pub(super) fn auth_step<'a>(&mut self, step: sasl::Step, output: &mut Vec<u8>) -> Event<'a> {
        match step {
            sasl::Step::Challenge(challenge) => {
                reply::append_parts(output, &["334 ", &challenge]);
                Event::Answered(Verb::Auth)
            }
            sasl::Step::Ask(question) => Event::Authenticate(question),
            sasl::Step::Over => {
                self.phase = Phase::Command;
                Event::Judged
            }
            sasl::Step::Failed(sasl::SaslError::Cancelled) => {
                self.refused_auth_step(reply::AUTH_CANCELLED, output)
            }
            sasl::Step::Failed(sasl::SaslError::Undecodable(_)) => {
                self.refused_auth_step(reply::AUTH_MALFORMED, output)
            }
            sasl::Step::Failed(sasl::SaslError::Refused(_)) => {
                self.auth_failures += 1;
                self.refused_auth_step(reply::AUTH_REJECTED, output)
            }
        }
    }

    /// Takes the answer to the last [`Event::Authenticate`].
    pub fn answer(&mut self, answer: sasl::Answer, output: &mut Vec<u8>) -> Event<'static> {
        match &mut self.phase {
            Phase::Auth(exchange) => {
                let step = exchange.answer(answer);
                self.auth_step(step, output)
            }
            _ => Event::Judged,
        }
    }

    pub(super) fn refused_auth_step<'a>(
        &mut self,
        refusal: Reply,
        output: &mut Vec<u8>,
    ) -> Event<'a> {
        self.phase = Phase::Command;
        self.refused(Verb::Auth, refusal, output)
    }

    pub fn authenticated(&mut self, output: &mut Vec<u8>) {
        self.authenticated = true;
        reply::AUTHENTICATED.append_to(output);
    }

    pub fn refuse_authentication(&mut self, refusal: Reply, output: &mut Vec<u8>) {
        self.auth_failures += 1;
        self.refuse(refusal, output);
    }

    /// Whether the credentials are right is not known now; this does not count as a client error.
    pub fn defer_authentication(&mut self, refusal: Reply, output: &mut Vec<u8>) {
        refusal.append_to(output);
    }
}
