//! GETMETADATA (RFC 5464 4.2).

use super::super::{
    folder,
    handler::Handler,
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::{
    Code,
    metadata::{
        entry::EntryName,
        get_metadata::{Depth, GetMetadata},
    },
};

impl Handler for GetMetadata<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let subject = folder::annotated(session, &self.mailbox).await?;
        let known = subject.annotations(self.entries.iter().map(|entry| entry.scope)).await?;
        let (mut told, mut longest) = (Vec::new(), 0);
        let mut tell = |name: &str, value: Option<&[u8]>| {
            let size = value.map_or(0, |value| value.len() as u64);
            match self.max_size.is_some_and(|most| size > most) {
                true => longest = longest.max(size),
                false => told.push((name.to_owned(), value.map(<[u8]>::to_vec))),
            }
        };
        if self.depth == Depth::Zero {
            for entry in self.entries.iter().filter(|entry| !entry.is_scope()) {
                let key = entry.key();
                let found = known.iter().find(|(name, _)| *name == key);
                // One that has no value has NIL; the name is as the client wrote it.
                tell(entry.told(), found.map(|(_, value)| &value[..]));
            }
        } else {
            // Each once, whatever reaches it.
            let keys: Vec<String> = self.entries.iter().map(EntryName::key).collect();
            let reached = |name: &str| keys.iter().any(|key| self.depth.reaches(key, name));
            for (name, value) in known.iter().filter(|(name, _)| reached(name)) {
                tell(name, Some(value));
            }
        }
        if !told.is_empty() {
            session.writer().metadata(subject.name(), &told);
        }
        let code = (longest > 0).then_some(Code::MetadataLongEntries(longest));
        Ok(Done::Ok { code, text: "GETMETADATA completed" })
    }
}
