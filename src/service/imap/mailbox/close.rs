//! CLOSE (RFC 3501 6.4.2) and UNSELECT (RFC 3691).

use super::super::{
    folder,
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    model::{Right, Rights},
    protocol::imap::{
        Code,
        mailbox::close::{Close, Unselect},
    },
};

impl Handler for Close {
    /// Expunges without sending EXPUNGE responses, unless the mailbox was selected read-only or the
    /// user may not expunge (RFC 4314 4).
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        if !session.selected()?.read_only
            && let Ok(folder) = folder::selected(session, Rights::of(&[Right::Expunge])).await
        {
            // Expunges all \Deleted messages, also those marked by other sessions; the store counts
            // them, so it is cheap if there are none.
            match folder.expunge(None).await {
                // RFC 7162 3.2.8: the client is not told the mod-sequence of what it is not told.
                Ok(_) => {}
                // The right has gone meanwhile.
                Err(Failure::No { code: Some(Code::NoPerm | Code::NonExistent), .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
        session.selected = None;
        Done::ok("CLOSE completed")
    }
}

impl Handler for Unselect {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.selected = None;
        Done::ok("UNSELECT completed")
    }
}
