//! PLAIN (RFC 4616): one message with everything.

use super::{Credentials, Machine, Move, Question, SaslError, identity, secret};

#[derive(Debug)]
pub(super) struct Plain;

impl Machine for Plain {
    /// `message = [authzid] UTF8NUL authcid UTF8NUL passwd` (RFC 4616 2).
    fn respond(&mut self, message: Vec<u8>) -> Result<Move, SaslError> {
        let mut fields = message.split(|&octet| octet == 0);
        let (Some(authzid), Some(authcid), Some(passwd), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(SaslError::Refused("PLAIN wants three fields"));
        };
        let credentials = Credentials { user: identity(authcid)?, password: secret(passwd)? };
        let authorization = match authzid {
            [] => None,
            authzid => Some(identity(authzid)?),
        };
        Ok(Move::Ask(Question::Password { credentials, authorization }))
    }
}
