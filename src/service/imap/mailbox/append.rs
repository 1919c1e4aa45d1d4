//! APPEND (RFC 3501 6.3.11, RFC 4315, RFC 3502): messages from the client, all or none. How they
//! come is in [`crate::service::imap::upload`].

use super::super::{
    folder::{self, Folder},
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
    upload,
};
use crate::{
    protocol::imap::{Code, mailbox::append::Append},
    store::Delivered,
};

impl Handler for Append<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let folder = folder::resolve_target(session, &self.mailbox).await?;
        let options = session.imap();
        let messages_max = options.limit_of_saves().unwrap_or(u32::MAX);
        let messages_max = messages_max.min(options.append_messages_max) as usize;
        let uploaded = upload::receive(session, &folder, &self.part, messages_max).await?;
        uploaded.store(session, &folder, answer).await
    }
}

fn answer(folder: &Folder, appended: Vec<Delivered>) -> Reply {
    let missing = || Failure::bad("Message literal missing");
    let uid_validity = appended.first().ok_or_else(missing)?.uid_validity;
    let uids = appended.iter().map(|it| it.uid).collect();
    let code = folder.with_uids(Code::AppendUid(uid_validity, uids));
    Ok(Done::Ok { code, text: "APPEND completed" })
}
