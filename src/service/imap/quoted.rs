//! Octets of messages that a client names by URL (RFC 5092), read with the rights of its user.

use std::ops::Range;

use bytes::Bytes;

use super::{
    accounts::Reading,
    folder::{self, Folder},
    reader::MessageReader,
    reply::Failure,
    selected::Selected,
    state::Session,
};
use crate::{
    model::{Right, Rights},
    protocol::imap::{Code, MessageUrl},
    store::Message,
};

/// What an URL names, found and not read yet.
pub(super) struct Quoted {
    reading: Reading,
    message: Message,
    /// Keeps the body, should the message be expunged.
    _held: Selected,
    rest: Rest,
}

enum Rest {
    /// Of the message.
    Range(Range<u64>),
    /// Fields of a header.
    Fields(Bytes),
}

impl Quoted {
    /// Finds what `url` names. Nothing is told of what the user may not read: whatever is wrong,
    /// the answer is BADURL (RFC 4469 4.3).
    pub(super) async fn find(session: &Session, url: &[u8]) -> Result<Quoted, Failure> {
        let text = String::from_utf8_lossy(url).into_owned();
        let bad = |why: &'static str| Failure::no(Code::BadUrl(text.clone()), why);
        let parsed = MessageUrl::parse(url).map_err(bad)?;
        if !is_ours(session, &parsed)? {
            return Err(bad("The URL is of another server or user"));
        }
        let found = Quoted::find_there(session, &parsed).await;
        found.map_err(|failure| match failure {
            // Such as a disk that does not answer: the URL may be right.
            Failure::No { code: Some(Code::Unavailable), .. } | Failure::Leave(_) => failure,
            _ => bad("There is no such message, or it may not be read"),
        })
    }

    async fn find_there(session: &Session, url: &MessageUrl) -> Result<Quoted, Failure> {
        let nothing = || Failure::no(Code::NonExistent, "There is no such message");
        let folder: Folder = match &url.mailbox {
            Some(name) => folder::resolve_utf8(session, name, Right::Read).await?,
            None => folder::selected(session, Rights::of(&[Right::Read])).await?,
        };
        if url.uid_validity.is_some_and(|it| it != folder.uid_validity()) {
            return Err(nothing());
        }
        let held = folder.select(true, false).await?.ok_or_else(nothing)?;
        let message = {
            let snapshot = held.numbering();
            let index = snapshot.index_of(url.uid).ok_or_else(nothing)?;
            *snapshot.get(index).ok_or_else(nothing)?
        };
        let reading = folder.reading();
        let mut reader = MessageReader::new(&reading, message);
        let range = reader.locate(&url.section).await?.ok_or_else(nothing)?;
        let rest = match reader.fields(&url.section, range.clone()).await? {
            Some(fields) => {
                let cut = clip(0..fields.len() as u64, url.partial);
                let cut = cut.start as usize..cut.end as usize;
                Rest::Fields(Bytes::from(fields).slice(cut))
            }
            None => Rest::Range(clip(range, url.partial)),
        };
        drop(reader);
        Ok(Quoted { reading, message, _held: held, rest })
    }

    /// Octets that were not read yet.
    pub(super) fn size(&self) -> u64 {
        match &self.rest {
            Rest::Range(range) => range.end.saturating_sub(range.start),
            Rest::Fields(octets) => octets.len() as u64,
        }
    }

    /// The next octets; empty at the end.
    pub(super) async fn next(&mut self) -> Result<Bytes, Failure> {
        match &mut self.rest {
            Rest::Range(range) => {
                let reader = MessageReader::new(&self.reading, self.message);
                let piece = reader.piece(range).await?;
                range.start += piece.len() as u64;
                Ok(piece)
            }
            Rest::Fields(octets) => Ok(std::mem::take(octets)),
        }
    }
}

/// `range` cut to what a partial asks for (RFC 5092 6.1).
fn clip(range: Range<u64>, partial: Option<(u64, Option<u64>)>) -> Range<u64> {
    let Some((offset, count)) = partial else { return range };
    let start = range.start.saturating_add(offset).min(range.end);
    let end = count.map_or(range.end, |count| start.saturating_add(count).min(range.end));
    start..end
}

/// Whether an URL is of this server, and of the user who asks.
fn is_ours(session: &Session, url: &MessageUrl) -> Result<bool, Failure> {
    let Some(server) = &url.server else { return Ok(true) };
    let name = &session.user()?.name;
    let directory = &session.channel.shard.directory;
    let is_user = server.user.as_ref().is_none_or(|it| directory.login_key(it) == **name);
    Ok(is_user && server.host.eq_ignore_ascii_case(&session.options().hostname))
}
