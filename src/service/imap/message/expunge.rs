//! EXPUNGE and UID EXPUNGE (RFC 3501 6.4.3, RFC 4315 2.1). [`crate::service::imap::sync`] sends the
//! untagged responses afterwards, with those of other sessions' changes.

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
    model::{Flags, Right, Rights, Uid},
    protocol::imap::{SequenceSet, message::expunge::Expunge},
};

impl Handler for Expunge {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        session.writable()?;
        let folder = folder::selected(session, Rights::of(&[Right::Expunge])).await?;
        let mut limited = None;
        let named = match &self.uids {
            Some(set) => {
                let limit = session.imap().limit_of_messages();
                let mut uids = uids_of(session, set, limit.is_some()).await?;
                limited = Limited::cut(limit, &mut uids, |uid| *uid);
                Some(uids)
            }
            // RFC 9738 3.1: EXPUNGE and CLOSE have no limit.
            None => None,
        };
        let expunge = |_| folder.expunge(named.as_deref());
        let expunged = session.patiently(tag, &Progress::of_change(), expunge).await?;
        let reply = match expunged.is_empty() {
            true => Done::ok("EXPUNGE completed"),
            false => session.expunged(named.is_some(), "EXPUNGE completed").await,
        };
        limit::answer(session, limited, reply)
    }
}

/// UIDs of the messages in a set of UIDs, ascending; maybe only of those that are marked as
/// deleted.
async fn uids_of(
    session: &Session,
    set: &SequenceSet,
    only_deleted: bool,
) -> Result<Vec<Uid>, Failure> {
    let selected = session.selected()?;
    let current = selected.view.current();
    let is_deleted = |uid: Uid| {
        let newest = current.as_ref().and_then(|it| it.get(it.index_of(uid)?));
        newest.is_some_and(|message| message.flags.system.contains(Flags::DELETED))
    };
    let mut uids = Vec::new();
    for index in selected.indexes(true, set)?.into_iter().flatten() {
        session.turn_of_scan(index).await;
        let uid = selected.numbering().get(index).map(|message| message.uid);
        uids.extend(uid.filter(|uid| !only_deleted || is_deleted(*uid)));
    }
    Ok(uids)
}
