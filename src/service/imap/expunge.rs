//! EXPUNGE and UID EXPUNGE (RFC 3501 6.4.3, RFC 4315 2.1). The untagged responses are told after
//! it, with everybody else's, by [`super::sync`].

use super::{
    reply::{Done, Reply},
    session::Session,
};
use crate::protocol::imap::SequenceSet;

pub(super) async fn expunge(session: &mut Session, uids: Option<&SequenceSet>) -> Reply {
    let selected = session.writable()?;
    let mailbox = selected.mailbox();
    let named = uids.map(|set| selected.uids_of(set));
    session.account()?.expunge(mailbox, named.as_deref()).await?;
    Done::ok("EXPUNGE completed")
}
