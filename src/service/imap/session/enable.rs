//! ENABLE (RFC 5161).

use super::super::{
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::{
    Capability,
    session::{enable::Enable, notify::Events},
};

impl Handler for Enable {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let extensions = self.extensions.and(session.imap().can_be_enabled());
        if extensions.contains(Capability::CondStore) {
            session.enable_condstore();
        }
        if extensions.contains(Capability::QResync) {
            session.enable_qresync();
        }
        if extensions.contains(Capability::UidOnly) {
            session.enable_uid_only();
            session.end_contexts(|context| !context.uid, "Messages have no numbers any more");
        }
        if extensions.contains(Capability::Imap4Rev2) {
            session.enable_rev2();
            session.end_contexts(|context| context.query.recent, "No message is recent any more");
        }
        if extensions.contains(Capability::Utf8Accept) {
            session.enable_utf8();
        }
        if extensions.contains(Capability::Metadata) {
            session.watch_annotations(Events::OF_METADATA).await?;
        } else if extensions.contains(Capability::MetadataServer) {
            session.watch_annotations(Events::SERVER_METADATA_CHANGE).await?;
        }
        session.writer().enabled(extensions);
        Done::ok("ENABLE completed")
    }
}
