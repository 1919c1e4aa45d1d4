//! EXTERNAL (RFC 4422 A): the client has shown who it is by other means, its certificate; what it
//! sends is only whom to act for.

use super::{Machine, Move, Question, SaslError, identity};

#[derive(Debug)]
pub(super) struct External;

impl Machine for External {
    /// `extern-initial-resp = external-authz-id`, which may be empty.
    fn respond(&mut self, message: Vec<u8>) -> Result<Move, SaslError> {
        let authorization = match message.as_slice() {
            [] => None,
            name => Some(identity(name)?),
        };
        Ok(Move::Ask(Question::Certificate { authorization }))
    }
}
