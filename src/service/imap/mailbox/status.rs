//! STATUS (RFC 3501 6.3.10, RFC 7162 3.1.7, RFC 7889, RFC 8438), also as part of LIST (RFC 5819).
//! Answered from counters; no message is read. Only UNSEEN is counted where `\Seen` is each user's
//! own, and DELETED-STORAGE (RFC 9208 4.1.4) where something is deleted.

use super::super::{
    folder::{self, Folder},
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
};
use crate::{
    model::{ModSeq, Right},
    protocol::imap::{
        StatusValues,
        mailbox::status::{Status, StatusItems},
    },
};

impl Handler for Status<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let folder = folder::resolve(session, &self.mailbox, Right::Read).await?;
        tell(session, &folder, self.items).await?;
        Done::ok("STATUS completed")
    }
}

/// One STATUS response. Asking for HIGHESTMODSEQ enables CONDSTORE (RFC 7162 3.1).
pub(super) async fn tell(
    session: &mut Session,
    folder: &Folder,
    items: StatusItems,
) -> Result<(), Failure> {
    let status = folder.status(items.contains(StatusItems::UNSEEN)).await?;
    let deleted_octets = match items.contains(StatusItems::DELETED_STORAGE) {
        true => folder.deleted_octets().await?,
        false => 0,
    };
    if items.contains(StatusItems::HIGHEST_MOD_SEQ) {
        session.enable_condstore();
    }
    let values = StatusValues {
        messages: status.messages,
        recent: status.recent,
        uid_next: status.uid_next,
        uid_validity: status.uid_validity,
        unseen: status.unseen,
        // RFC 7162 3.1.7: 0 for a mailbox that tells none.
        highest_mod_seq: match folder.has_mod_seqs() {
            true => status.told_mod_seq(),
            false => ModSeq(0),
        },
        size: status.size,
        deleted: status.deleted,
        mailbox_id: Some(folder.object_id()),
        append_limit: session.imap().limits.message,
        deleted_octets,
    };
    session.writer().status(&folder.name(), items, &values);
    Ok(())
}
