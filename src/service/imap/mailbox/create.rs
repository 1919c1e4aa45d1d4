//! CREATE (RFC 3501 6.3.3, RFC 6154 3).

use super::{
    super::{
        folder::Place,
        handler::Handler,
        reply::{Done, Failure, Reply},
        state::Session,
    },
    names,
};
use crate::{
    model::SpecialUse,
    protocol::imap::{Code, mailbox::create::Create},
};

impl Handler for Create<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let place = Place::new(session, &self.mailbox)?;
        let special_use = match self.special_use.as_slice() {
            // RFC 6154 3: a use that is not supported is refused. \All and \Flagged are not for
            // storing mail.
            _ if self.unknown_use => {
                return Err(Failure::no(Code::UseAttr, "Unknown special use"));
            }
            [SpecialUse::All | SpecialUse::Flagged] => {
                return Err(Failure::no(Code::UseAttr, "No mailbox can be created for this use"));
            }
            [] => None,
            [one] => Some(*one),
            _ => return Err(Failure::no(Code::UseAttr, "A mailbox has one special use")),
        };
        let id = place.create(special_use).await?;
        session.note_own_name(&place.spelled(), true);
        names::tell_other_name(session, &self.mailbox, &place);
        Done::with_code(Code::MailboxId(id), "CREATE completed")
    }
}
