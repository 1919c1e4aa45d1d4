//! XCLIENT and XFORWARD: a trusted peer says for which client it acts.

use super::{
    super::{
        command::Verb,
        original_client::{OriginalClient, XCLIENT_ATTRIBUTES, XFORWARD_ATTRIBUTES},
        reply::{self, Reply},
    },
    Event, Hello, Session, answer,
};

impl Session {
    /// XCLIENT: another client takes the peer's place, and has said nothing yet.
    pub(super) fn claim<'a>(&mut self, attributes: &str) -> Result<Event<'a>, Reply> {
        if !self.security.xclient {
            return Err(reply::NOT_TRUSTED);
        }
        if self.transaction.open {
            return Err(reply::IN_TRANSACTION);
        }
        let mut client = self.claimed().cloned().unwrap_or_default().for_next();
        client.take(attributes, XCLIENT_ATTRIBUTES).ok_or(reply::BAD_PARAMETER)?;
        self.claimed = Some(Box::new(client));
        self.reset_transaction();
        self.hello = Hello::None;
        self.client_name.clear();
        self.authenticated = false;
        Ok(Event::ClientClaimed)
    }

    /// The client that a trusted peer named by XCLIENT.
    pub fn claimed(&self) -> Option<&OriginalClient> {
        self.claimed.as_deref()
    }

    /// The client logged in elsewhere, as a trusted peer says.
    pub fn assume_login(&mut self) {
        self.authenticated = true;
    }

    /// After the peer changed: whether the client is one of the site's own.
    pub fn set_trusted(&mut self, trusted: bool) {
        self.security.trusted = trusted;
    }

    /// XFORWARD: several may follow each other before MAIL.
    pub(super) fn forward<'a>(
        &mut self,
        attributes: &str,
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Reply> {
        if !self.security.xforward {
            return Err(reply::NOT_TRUSTED);
        }
        if self.transaction.open {
            return Err(reply::IN_TRANSACTION);
        }
        let mut client = self.forwarded().cloned().unwrap_or_default();
        client.take(attributes, XFORWARD_ATTRIBUTES).ok_or(reply::BAD_PARAMETER)?;
        self.forwarded = Some(Box::new(client));
        Ok(answer(Event::Answered(Verb::Xforward), reply::FORWARD_OK, output))
    }

    /// The client of this transaction that a trusted peer named by XFORWARD, for the log.
    pub fn forwarded(&self) -> Option<&OriginalClient> {
        self.forwarded.as_deref()
    }
}
