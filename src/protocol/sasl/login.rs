//! LOGIN, which was never standardized (draft-murchison-sasl-login): name and password, each on
//! demand.

use super::{Credentials, Machine, Move, Question, SaslError, identity, secret};

/// What the client is expected to send.
#[derive(Debug)]
pub(super) enum Login {
    User,
    Password { user: String },
}

impl Machine for Login {
    /// Clients expect these two texts.
    fn opening(&self) -> &'static str {
        "Username:"
    }

    fn respond(&mut self, message: Vec<u8>) -> Result<Move, SaslError> {
        match std::mem::replace(self, Login::User) {
            Login::User => {
                *self = Login::Password { user: identity(&message)? };
                Ok(Move::Challenge(b"Password:".to_vec()))
            }
            Login::Password { user } => {
                let credentials = Credentials { user, password: secret(&message)? };
                Ok(Move::Ask(Question::Password { credentials, authorization: None }))
            }
        }
    }
}
