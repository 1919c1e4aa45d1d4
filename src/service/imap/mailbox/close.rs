//! CLOSE (RFC 3501 6.4.2) and UNSELECT (RFC 3691).

use super::super::{
    folder,
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    model::{Flags, Right, Rights, Uid},
    protocol::imap::{
        Code,
        mailbox::close::{Close, Unselect},
    },
    store::Message,
};

impl Handler for Close {
    /// Expunges without sending EXPUNGE responses, unless the mailbox was selected read-only or the
    /// user may not expunge (RFC 4314 4).
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let mut code = None;
        if !session.selected()?.read_only
            && let Ok(folder) = folder::selected(session, Rights::of(&[Right::Expunge])).await
        {
            // Expunges all \Deleted messages, also those marked by other sessions; the store counts
            // them, so it is cheap if there are none.
            match folder.expunge(None).await {
                Ok(expunged) => code = highest_mod_seq(session, &expunged),
                // The right has gone meanwhile.
                Err(Failure::No { code: Some(Code::NoPerm | Code::NonExistent), .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
        session.selected = None;
        Ok(Done::Ok { code, text: "CLOSE completed" })
    }
}

/// RFC 7162 3.2.8: the mod-sequence up to which the client knows the mailbox after its CLOSE. It is
/// told no other changes any more: with those there are, that is the one from before.
fn highest_mod_seq(session: &Session, expunged: &[Uid]) -> Option<Code> {
    let code = session.highest_mod_seq().filter(|_| !expunged.is_empty())?;
    let selected = session.selected.as_ref()?;
    let (before, now) = (selected.numbering(), selected.view.current()?);
    let difference = before.difference(&now);
    let is_deleted = |message: &&Message| message.flags.system.contains(Flags::DELETED);
    let knew = before.iter_from(0).filter(is_deleted).map(|message| message.uid);
    let knows_all = difference.changed.is_empty()
        && difference.added == 0
        && difference.expunged.len() == expunged.len()
        && !selected.expunge_pending()
        && knew.eq(expunged.iter().copied());
    Some(if knows_all { Code::HighestModSeq(now.status().told_mod_seq()) } else { code })
}

impl Handler for Unselect {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.selected = None;
        Done::ok("UNSELECT completed")
    }
}
