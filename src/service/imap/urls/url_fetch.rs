//! URLFETCH (RFC 4467 7, RFC 5524): the octets that signed URLs name, with the rights of who signed
//! them.

use bytes::Bytes;

use super::super::{
    binary::{BinaryPart, Measured},
    handler::Handler,
    quoted::{self, Quoted},
    reader::MessageReader,
    reply::{Done, Failure, Leave, Reply},
    state::Session,
};
use crate::protocol::{
    imap::{
        Code, DecodedPart,
        message::fetch::{Partial, SectionPart},
        urls::url_fetch::{Content, UrlFetch, Wanted},
    },
    mime::{Summary, append_without_nul},
};

impl Handler for UrlFetch<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        for (url, wanted) in &self.urls {
            fetch(session, url, *wanted).await?;
        }
        Done::ok("URLFETCH completed")
    }
}

/// A response for each URL, NIL if it is not valid, whatever the reason.
async fn fetch(session: &mut Session, url: &[u8], wanted: Wanted) -> Result<(), Failure> {
    let found = match find(session, url, wanted).await {
        Ok(found) => Some(found),
        Err(failure) if quoted::may_succeed_later(&failure) => return Err(failure),
        Err(_) => None,
    };
    session.writer().begin_url_fetch(url);
    match found {
        None => session.writer().no_url_data(),
        Some(found) => found.tell(session).await?,
    }
    session.writer().end_url_fetch();
    session.channel.flush_if_full().await?;
    Ok(())
}

/// What is told of an URL. All that can fail without harm has been done.
struct Found {
    quoted: Quoted,
    structure: Option<(Summary, Option<DecodedPart>)>,
    data: Option<Data>,
}

enum Data {
    /// As it is, in the form of RFC 4467 or as an item: its octets, and the first of them.
    AsIs {
        item: Option<&'static str>,
        size: u64,
        first: Bytes,
    },
    Decoded(BinaryPart, Measured),
    UnknownEncoding,
}

async fn find(session: &Session, url: &[u8], wanted: Wanted) -> Result<Found, Failure> {
    let mut quoted = Quoted::find_signed(session, url).await?;
    let (structure, content) = match wanted {
        Wanted::Octets => {
            let data = Some(as_is(&mut quoted, None).await?);
            return Ok(Found { quoted, structure: None, data });
        }
        Wanted::Items { structure, content } => (structure, content),
    };
    let is_part = quoted.section.part == SectionPart::Full;
    let section = quoted.section.clone();
    let data = match content {
        Some(Content::Body) => Some(as_is(&mut quoted, Some("BODY")).await?),
        // A header or a text has no encoding of its own.
        Some(Content::Binary) if !is_part => Some(as_is(&mut quoted, Some("BINARY")).await?),
        _ => None,
    };
    let mut reader = MessageReader::new(&quoted.reading, quoted.message);
    let data = match content.filter(|_| data.is_none()) {
        None | Some(Content::Body) => data,
        Some(Content::Binary) => Some(match BinaryPart::find(&mut reader, &section).await {
            Ok(part) => {
                let part = part.ok_or_else(nothing)?;
                let partial = quoted
                    .partial
                    .map(|(offset, count)| Partial { offset, count: count.unwrap_or(u64::MAX) });
                let measured = part.measure(session, &reader, partial).await?;
                Data::Decoded(part, measured)
            }
            Err(Failure::No { code: Some(Code::UnknownCte), .. }) => Data::UnknownEncoding,
            Err(failure) => return Err(failure),
        }),
    };
    let structure = match structure {
        false => None,
        // It describes parts only.
        true if !is_part => return Err(nothing()),
        true => {
            let decoded = match &data {
                Some(Data::Decoded(part, _)) if !part.is_identity() => {
                    let Measured { size, lines, has_nul, is_ascii, .. } =
                        part.measure(session, &reader, None).await?;
                    Some(DecodedPart { size, lines, has_nul, is_ascii })
                }
                _ => None,
            };
            Some((reader.summary().await?.clone(), decoded))
        }
    };
    drop(reader);
    Ok(Found { quoted, structure, data })
}

/// The first octets are read before any are announced: until then the URL can be answered by NIL.
async fn as_is(quoted: &mut Quoted, item: Option<&'static str>) -> Result<Data, Failure> {
    let size = quoted.size();
    Ok(Data::AsIs { item, size, first: quoted.next().await? })
}

fn nothing() -> Failure {
    Failure::no(Code::NonExistent, "There is no such part")
}

impl Found {
    async fn tell(self, session: &mut Session) -> Result<(), Failure> {
        if let Some((summary, decoded)) = &self.structure {
            // Of the message itself, that of what is in it.
            let part = summary.part(&self.quoted.section.path).flatten();
            session.writer().url_structure(part.unwrap_or_else(|| summary.root()), *decoded);
        }
        match self.data {
            None => Ok(()),
            Some(Data::UnknownEncoding) => {
                session.writer().no_url_binary();
                Ok(())
            }
            Some(Data::Decoded(part, measured)) => {
                session.writer().begin_url_item("BINARY", measured.size, measured.has_nul);
                let reader = MessageReader::new(&self.quoted.reading, self.quoted.message);
                part.stream(session, &reader, &measured).await?;
                session.writer().end_url_item();
                Ok(())
            }
            Some(Data::AsIs { item, size, first }) => {
                match item {
                    Some(name) => session.writer().begin_url_item(name, size, false),
                    None => session.writer().url_data(size),
                }
                append_without_nul(&first, session.channel.connection.output());
                session.channel.flush_if_full().await?;
                stream(session, self.quoted).await?;
                if item.is_some() {
                    session.writer().end_url_item();
                }
                Ok(())
            }
        }
    }
}

/// The literal was announced: a failure can only end the session.
async fn stream(session: &mut Session, mut quoted: Quoted) -> Result<(), Failure> {
    while quoted.size() > 0 {
        let piece = quoted.next().await.map_err(|_| Failure::Leave(Leave::Lost))?;
        append_without_nul(&piece, session.channel.connection.output());
        session.channel.flush_if_full().await?;
        session.channel.shard.executor.yield_now().await;
    }
    Ok(())
}
