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
        Attributes, Capability, Code, ListItem, ObjectId, Status, Writer,
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
    let rev2 = session.rev2();
    let selected = folder.select(read_only, can_change && !rev2).await?;
    let mut selected = selected.ok_or_else(no_such_mailbox)?;
    if rev2 {
        selected.forget_recent();
    }
    let changeable = if read_only { FlagMask::NONE } else { folder.rights().flags() };
    if select.condstore {
        session.enable_condstore();
    }
    let changes = match &select.resync {
        Some(known) => resync::changes(&folder, &selected, known).await?,
        None => None,
    };
    let telling = Telling {
        rev2,
        unseen: !rev2 && !session.uid_only(),
        id: folder.object_id(),
        signs_urls: session.imap().capabilities.contains(Capability::UrlAuth),
    };
    describe(&mut session.writer(), &selected, changeable, telling);
    if rev2 {
        // RFC 9051 6.3.2
        let (name, attributes) = (folder.name(), Attributes::default());
        let special_use = folder.special_use();
        let item = ListItem {
            name: &name,
            attributes,
            special_use,
            child_subscribed: false,
            child_special_use: false,
            old_name: None,
        };
        session.writer().list(&item);
    }
    session.selected = Some(selected);
    session.note_url_key();
    if let Some(changes) = changes {
        session.tell_vanished(&changes).await?;
        session.tell_changed(&changes).await?;
    }
    let code = if can_change { Code::ReadWrite } else { Code::ReadOnly };
    Done::with_code(code, if read_only { "EXAMINE completed" } else { "SELECT completed" })
}

/// What the client is told of.
#[derive(Clone, Copy)]
struct Telling {
    /// Not of `\Recent` (RFC 9051, appendix E).
    rev2: bool,
    /// The number of the first unseen message: not in IMAP4rev2, and not to a client that uses
    /// UIDs only (RFC 9586 3.5).
    unseen: bool,
    id: ObjectId,
    /// How URLs can be signed.
    signs_urls: bool,
}

/// The untagged responses of SELECT, in the order of RFC 3501 6.3.1.
fn describe(writer: &mut Writer<'_>, selected: &Selected, changeable: FlagMask, telling: Telling) {
    let snapshot = selected.numbering();
    let status = snapshot.status();
    writer.flags(snapshot.keywords());
    tell_permanent_flags(writer, snapshot.keywords(), changeable);
    writer.exists(snapshot.len() as u32);
    if !telling.rev2 {
        writer.recent(selected.recent_count(snapshot) as u32);
    }
    if telling.unseen
        && let Some(index) = selected.seen().first_unseen(snapshot)
    {
        writer.untagged(Status::Ok, Some(Code::Unseen(index as u32 + 1)), "First unseen");
    }
    writer.untagged(Status::Ok, Some(Code::UidValidity(status.uid_validity)), "UIDs valid");
    writer.untagged(Status::Ok, Some(Code::UidNext(status.uid_next)), "Predicted next UID");
    // RFC 8474 4.2
    writer.untagged(Status::Ok, Some(Code::MailboxId(telling.id)), "Its name may change");
    if telling.signs_urls {
        // RFC 4467 8
        writer.untagged(Status::Ok, Some(Code::UrlMech), "URLs can be signed");
    }
    tell_highest(writer, selected);
}
