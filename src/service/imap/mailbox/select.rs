//! SELECT and EXAMINE (RFC 3501 6.3.1, 6.3.2; RFC 7162 3.1.8, 3.2.5).

use super::super::{
    folder,
    handler::Handler,
    reply::{Done, Failure, Reply, no_such_mailbox},
    resync,
    selected::Selected,
    state::Session,
    sync::{tell_highest, tell_permanent_flags},
};
use crate::{
    model::{FlagMask, Right, Rights},
    protocol::imap::{
        Code, Status, Writer,
        mailbox::select::{Examine, Select},
    },
};

impl Handler for Select<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        open(session, self, false).await
    }
}

impl Handler for Examine<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        open(session, &self.0, true).await
    }
}

async fn open(session: &mut Session, select: &Select<'_>, read_only: bool) -> Reply {
    if select.resync.is_some() && !session.qresync() {
        return Err(Failure::bad("ENABLE QRESYNC first"));
    }
    // RFC 3501 6.3.1: the old mailbox is deselected even if this command fails. RFC 7162 3.2.11:
    // responses after CLOSED are not about the old mailbox.
    if session.selected.take().is_some() {
        session.writer().untagged(Status::Ok, Some(Code::Closed), "The previous mailbox is closed");
    }
    let folder = folder::resolve(session, &select.mailbox, Right::Read).await?;
    // RFC 4314 5.2: READ-ONLY also if the user may change nothing.
    let can_change = !read_only && folder.rights().contain_any(Rights::TO_CHANGE_MESSAGES);
    let selected = folder.select(read_only, can_change).await?;
    let selected = selected.ok_or_else(no_such_mailbox)?;
    let changeable = if read_only { FlagMask::NONE } else { folder.rights().flags() };
    if select.condstore {
        session.enable_condstore();
    }
    let changes = match &select.resync {
        Some(known) => resync::changes(&folder, &selected, known).await?,
        None => None,
    };
    // RFC 9586 3.5
    let tells_unseen = !session.uid_only();
    describe(&mut session.writer(), &selected, changeable, tells_unseen);
    session.selected = Some(selected);
    if let Some(changes) = changes {
        session.tell_vanished(&changes).await?;
        session.tell_changed(&changes).await?;
    }
    let code = if can_change { Code::ReadWrite } else { Code::ReadOnly };
    Done::with_code(code, if read_only { "EXAMINE completed" } else { "SELECT completed" })
}

/// The untagged responses of SELECT, in the order of RFC 3501 6.3.1.
fn describe(
    writer: &mut Writer<'_>,
    selected: &Selected,
    changeable: FlagMask,
    tells_unseen: bool,
) {
    let snapshot = selected.numbering();
    let status = snapshot.status();
    writer.flags(snapshot.keywords());
    tell_permanent_flags(writer, snapshot.keywords(), changeable);
    writer.exists(snapshot.len() as u32);
    writer.recent(selected.recent_count(snapshot) as u32);
    if tells_unseen && let Some(index) = selected.seen().first_unseen(snapshot) {
        writer.untagged(Status::Ok, Some(Code::Unseen(index as u32 + 1)), "First unseen");
    }
    writer.untagged(Status::Ok, Some(Code::UidValidity(status.uid_validity)), "UIDs valid");
    writer.untagged(Status::Ok, Some(Code::UidNext(status.uid_next)), "Predicted next UID");
    tell_highest(writer, selected);
}
