//! REPLACE (RFC 8508): a new message takes the place of one of the selected mailbox.

use super::super::{
    folder,
    handler::Handler,
    reply::{Failure, Reply},
    state::Session,
    upload,
};
use crate::{
    model::{Right, Rights, Uid},
    protocol::imap::{Code, Status, message::replace::Replace},
};

impl Handler for Replace<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.writable()?;
        // RFC 8508 5: those of APPEND, of STORE with \Deleted and of EXPUNGE.
        let needed = Rights::of(&[Right::DeleteMessages, Right::Expunge]);
        folder::selected(session, needed).await?;
        let target = folder::resolve_target(session, &self.mailbox).await?;
        let replaced = replaced(session, self)?;
        let uploaded = upload::receive(session, &target, &self.part, 1).await?;
        let stored = uploaded.store_replacing(session, &target, replaced).await?;
        // RFC 8508 3.3: before the EXPUNGE, so that a client never sees the message nowhere.
        let code = Code::AppendUid(stored.uid_validity, vec![stored.uid]);
        if let Some(code) = target.with_uids(code) {
            session.writer().untagged(Status::Ok, Some(code), "Replacement message stored");
        }
        // RFC 8508 4.5: as after UID EXPUNGE.
        session.expunged(self.uid, "REPLACE completed").await
    }
}

/// The message that is to be replaced.
fn replaced(session: &Session, replace: &Replace<'_>) -> Result<Uid, Failure> {
    let selected = session.selected()?;
    let numbering = selected.numbering();
    let index = match (replace.number, replace.uid) {
        (None, _) => numbering.len().checked_sub(1),
        (Some(number), false) => Some(number as usize - 1).filter(|it| *it < numbering.len()),
        (Some(uid), true) => numbering.index_of(Uid(uid)),
    };
    let message = index.and_then(|index| numbering.get(index));
    let uid = match message {
        Some(message) => message.uid,
        // RFC 8508 3.4: it fails, unlike other commands with UIDs.
        None if replace.uid => {
            return Err(Failure::no(Code::NonExistent, "No message has that UID"));
        }
        None => return Err(Failure::bad("No message has that number")),
    };
    let now = selected.view.current();
    match now.is_some_and(|now| now.index_of(uid).is_some()) {
        true => Ok(uid),
        false => Err(folder::replaced_is_gone()),
    }
}
