//! EXPUNGE and UID EXPUNGE (RFC 3501 6.4.3, RFC 4315 2.1). [`crate::service::imap::sync`] sends the
//! untagged responses afterwards, with those of other sessions' changes.

use super::super::{
    folder,
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    model::{Right, Rights, Uid},
    protocol::imap::{SequenceSet, message::expunge::Expunge},
};

impl Handler for Expunge {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        session.writable()?;
        let folder = folder::selected(session, Rights::of(&[Right::Expunge])).await?;
        let named = match &self.uids {
            Some(set) => Some(uids_of(session, set).await?),
            None => None,
        };
        if folder.expunge(named.as_deref()).await?.is_empty() {
            return Done::ok("EXPUNGE completed");
        }
        session.expunged(named.is_some(), "EXPUNGE completed").await
    }
}

/// UIDs of the messages in a set of UIDs, ascending.
async fn uids_of(session: &Session, set: &SequenceSet) -> Result<Vec<Uid>, Failure> {
    let selected = session.selected()?;
    let mut uids = Vec::new();
    for index in selected.indexes(true, set)?.into_iter().flatten() {
        session.turn_of_scan(index).await;
        uids.extend(selected.numbering().get(index).map(|message| message.uid));
    }
    Ok(uids)
}
