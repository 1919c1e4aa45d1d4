//! The AUTH exchange of a session (RFC 4954). The service checks the credentials.

use super::{
    super::{
        command::Verb,
        reply::{self, Reply},
    },
    Event, Hello, Phase, Role, Session,
};
use crate::protocol::sasl;

impl Session {
    /// Whether AUTH is offered and usable.
    pub(super) fn auth_permitted(&self) -> Result<(), Reply> {
        if self.role != Role::Submission {
            Err(reply::AUTH_UNAVAILABLE)
        } else if !self.security.tls && !self.security.plaintext_auth {
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
        let mechanism =
            sasl::Mechanism::parse(mechanism.as_bytes()).ok_or(reply::AUTH_MECHANISM)?;
        let (exchange, step) =
            sasl::Exchange::start(mechanism, initial_response.map(str::as_bytes));
        self.phase = Phase::Auth(exchange);
        Ok(self.auth_step(step, output))
    }

    pub(super) fn auth_step<'a>(&mut self, step: sasl::Step, output: &mut Vec<u8>) -> Event<'a> {
        match step {
            sasl::Step::Challenge(challenge) => {
                reply::append_parts(output, &["334 ", challenge]);
                Event::Answered(Verb::Auth)
            }
            sasl::Step::Done(credentials) => {
                self.phase = Phase::Command;
                Event::Authenticate(credentials)
            }
            sasl::Step::Failed(sasl::SaslError::Cancelled) => {
                self.refused_auth_step(reply::AUTH_CANCELLED, output)
            }
            sasl::Step::Failed(sasl::SaslError::Malformed(_)) => {
                self.refused_auth_step(reply::AUTH_MALFORMED, output)
            }
            sasl::Step::Failed(sasl::SaslError::AuthorizationDenied) => {
                self.auth_failures += 1;
                self.refused_auth_step(reply::AUTH_REJECTED, output)
            }
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
