//! SETMETADATA (RFC 5464 4.3): all entries or none.

use super::super::{
    folder,
    handler::Handler,
    reply::{Done, Failure, Reply},
    state::Session,
    watched::Own,
};
use crate::{
    protocol::imap::{Code, metadata::set_metadata::SetMetadata},
    store::ANNOTATION_VALUE_MAX,
};

impl Handler for SetMetadata<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let subject = folder::annotated(session, &self.mailbox).await?;
        let mut values = self.entries.iter().filter_map(|(_, value)| value.as_ref());
        if values.any(|value| value.len() > ANNOTATION_VALUE_MAX) {
            let code = Code::MetadataMaxSize(ANNOTATION_VALUE_MAX as u64);
            return Err(Failure::no(code, "The value is too long"));
        }
        let entries = self.entries.iter();
        let entries =
            entries.map(|(name, value)| (name.clone(), value.as_deref().map(<[u8]>::to_vec)));
        subject.annotate(entries.collect()).await?;
        for (name, _) in &self.entries {
            session.note_own(Own::Annotation(subject.name().to_owned(), name.key()));
        }
        Done::ok("SETMETADATA completed")
    }
}
