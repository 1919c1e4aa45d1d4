//! LANGUAGE (RFC 5255 3).

use super::super::{
    handler::Handler,
    namespace::{OTHER_USERS, SHARED},
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::protocol::imap::{
    State,
    session::language::{LANGUAGES, Language},
};

impl Handler for Language {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        match *self {
            Language::List => session.writer().language(LANGUAGES),
            Language::Choose(language) => {
                session.writer().language(&[language]);
                // RFC 5255 3.4: prefixes could be translated, too.
                if session.state() != State::NotAuthenticated {
                    session.writer().namespace(OTHER_USERS, SHARED);
                }
            }
            Language::Unknown => {
                return Err(Failure::No { code: None, text: "Only English is spoken here".into() });
            }
        }
        Done::ok("LANGUAGE completed")
    }
}
