//! COPY and MOVE (RFC 3501 6.4.7, RFC 6851, RFC 4315 3): all messages or none.

use super::{
    super::{
        folder,
        handler::Handler,
        progress::Progress,
        reply::{Done, Failure, Reply},
        state::Session,
    },
    limit::{self, Limited},
};
use crate::{
    model::{Right, Rights},
    protocol::imap::{
        Code, SequenceSet, Status,
        message::copy::{Copy, Move},
    },
    store::Message,
};

impl Handler for Copy<'_> {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        folder::selected(session, Rights::NONE).await?;
        let target = folder::resolve_target(session, &self.mailbox).await?;
        let mut messages = messages(session, self.uid, &self.set).await?;
        if messages.is_empty() {
            return Done::ok("Nothing to copy");
        }
        let limit = session.imap().limit_of_saves();
        if let Some(limited) = Limited::cut(limit, &mut messages, |message| message.uid) {
            return Err(limited.refuse());
        }
        let copy = async |selected| {
            let copied = target.copy_in(selected, &messages).await?;
            let seen_kept = target.keep_seen(selected, &messages, &copied).await;
            Ok((copied, seen_kept))
        };
        let (copied, seen_kept) = session.patiently(tag, &Progress::of_change(), copy).await?;
        seen_kept.tell(session)?;
        folder::tell_nearly_full(session, &target).await;
        for (_, uid) in &copied.uids {
            session.note_added(target.place(), *uid);
        }
        let code =
            (!copied.uids.is_empty()).then_some(Code::CopyUid(copied.uid_validity, copied.uids));
        let code = code.and_then(|code| target.with_uids(code));
        Ok(Done::Ok { code, text: "COPY completed" })
    }
}

impl Handler for Move<'_> {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        let Move(Copy { uid, set, mailbox }) = self;
        session.writable()?;
        // RFC 6851 4.2: those of COPY, of STORE with \Deleted and of EXPUNGE.
        folder::selected(session, Rights::of(&[Right::DeleteMessages, Right::Expunge])).await?;
        let target = folder::resolve_target(session, mailbox).await?;
        let mut messages = messages(session, *uid, set).await?;
        if messages.is_empty() {
            return Done::ok("Nothing to move");
        }
        // RFC 9738 3.1: those with the highest UIDs are moved, all or none of them.
        let limit = session.imap().limit_of_messages();
        let limited = Limited::cut(limit, &mut messages, |message| message.uid);
        let carry = async |selected| {
            let moved = target.move_in(selected, &messages).await?;
            let seen_kept = target.keep_seen(selected, &messages, &moved).await;
            Ok((moved, seen_kept))
        };
        let (moved, seen_kept) = session.patiently(tag, &Progress::of_change(), carry).await?;
        seen_kept.tell(session)?;
        folder::tell_nearly_full(session, &target).await;
        // RFC 6851 4.3: before the EXPUNGEs, so that a client never sees the messages nowhere.
        if moved.uids.is_empty() {
            return limit::answer(session, limited, Done::ok("MOVE completed"));
        }
        if let Some(code) = target.with_uids(Code::CopyUid(moved.uid_validity, moved.uids)) {
            session.writer().untagged(Status::Ok, Some(code), "Moved");
        }
        let reply = session.expunged(*uid, "MOVE completed").await;
        limit::answer(session, limited, reply)
    }
}

/// The messages of `set`, with their flags as the user has them now. If another session expunged
/// one of them, a command by number is refused as a whole (RFC 2180 4.4.2); by UID that message is
/// skipped as nonexistent.
async fn messages(
    session: &Session,
    uid: bool,
    set: &SequenceSet,
) -> Result<Vec<Message>, Failure> {
    let selected = session.selected()?;
    let current = selected.view.current();
    let seen = selected.seen_news().unwrap_or_else(|| selected.seen().clone());
    let mut messages = Vec::new();
    for index in selected.indexes(uid, set)?.into_iter().flatten() {
        session.turn_of_scan(index).await;
        let Some(message) = selected.message(index) else { continue };
        let newest = current.as_ref().and_then(|it| it.get(it.index_of(message.uid)?));
        match newest {
            Some(newest) => messages.push(seen.message(newest)),
            None if uid => {}
            None => return Err(Failure::no(Code::ExpungeIssued, "Some messages were expunged")),
        }
    }
    Ok(messages)
}
