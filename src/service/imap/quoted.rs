//! Octets of messages that a client names by URL (RFC 5092): with the rights of its user, or, if
//! the URL is signed (RFC 4467), with those of who signed it.

use std::{ops::Range, rc::Rc};

use bytes::Bytes;

use super::{
    accounts::{Home, Reading, User, View},
    folder::{self, Source},
    reader::MessageReader,
    reply::Failure,
    state::Session,
};
use crate::{
    model::{Right, Rights},
    protocol::imap::{
        Code, MessageUrl, UrlServer,
        message::fetch::Section,
        url_auth::{Access, UrlAuth},
    },
    service::Shard,
    store::Message,
};

/// What an URL names, found and not read yet.
pub(super) struct Quoted {
    pub reading: Reading,
    pub message: Message,
    pub section: Section<'static>,
    pub partial: Option<(u64, Option<u64>)>,
    /// Keeps the body, should the message be expunged.
    _held: View,
    rest: Rest,
}

enum Rest {
    /// Of the message.
    Range(Range<u64>),
    /// Fields of a header.
    Fields(Bytes),
}

impl Quoted {
    /// Finds what `url` names, for CATENATE. Nothing is told of what the user may not read:
    /// whatever is wrong, the answer is BADURL (RFC 4469 4.3).
    pub(super) async fn find(session: &Session, url: &[u8]) -> Result<Quoted, Failure> {
        let text = String::from_utf8_lossy(url).into_owned();
        let bad = |why: &'static str| Failure::no(Code::BadUrl(text.clone()), why);
        let parsed = MessageUrl::parse(url).map_err(bad)?;
        if parsed.auth.is_none() && !is_ours(session, &parsed)? {
            return Err(Failure::no(Code::BadUrl(text), elsewhere(session)));
        }
        let found = Quoted::find_there(session, url, &parsed).await;
        found.map_err(|failure| match may_succeed_later(&failure) {
            true => failure,
            false => bad("There is no such message, or it may not be read"),
        })
    }

    /// Finds what a signed `url` names.
    pub(super) async fn find_signed(session: &Session, url: &[u8]) -> Result<Quoted, Failure> {
        let parsed = MessageUrl::parse(url).map_err(|_| nothing())?;
        match parsed.auth {
            Some(_) => Quoted::find_there(session, url, &parsed).await,
            None => Err(nothing()),
        }
    }

    async fn find_there(
        session: &Session,
        octets: &[u8],
        url: &MessageUrl,
    ) -> Result<Quoted, Failure> {
        let source = match (&url.auth, &url.mailbox) {
            (Some(auth), Some(name)) => signed(session, octets, (url, auth, name)).await?,
            (None, Some(name)) => folder::resolve_utf8(session, name, Right::Read).await?.source(),
            _ => folder::selected(session, Rights::of(&[Right::Read])).await?.source(),
        };
        if url.uid_validity.is_some_and(|it| it != source.uid_validity()) {
            return Err(nothing());
        }
        let held = source.view().await?;
        let message = {
            let snapshot = held.current().ok_or_else(nothing)?;
            let index = snapshot.index_of(url.uid).ok_or_else(nothing)?;
            *snapshot.get(index).ok_or_else(nothing)?
        };
        let reading = source.reading();
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
        let (section, partial) = (url.section.clone(), url.partial);
        Ok(Quoted { reading, message, section, partial, _held: held, rest })
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

fn nothing() -> Failure {
    Failure::no(Code::NonExistent, "There is no such message")
}

/// The mailbox of a signed URL, if this session may use it now (RFC 4467 4): as the user finds it
/// who signed it, with his rights of this moment. What costs nothing is tested first; the proof
/// can only be tested last, since each mailbox has a key of its own.
async fn signed(
    session: &Session,
    octets: &[u8],
    (url, auth, name): (&MessageUrl, &UrlAuth, &str),
) -> Result<Source, Failure> {
    let shard = &session.channel.shard;
    let proof = auth.proof.as_ref().filter(|proof| proof.is_internal()).ok_or_else(nothing)?;
    let server = url.server.as_ref().filter(|it| is_this_server(session, it));
    let issuer = server.and_then(|server| server.user.as_deref()).ok_or_else(nothing)?;
    let is_expired = auth.expire.is_some_and(|expire| shard.executor.now() >= expire);
    if is_expired || !may_use(session, &auth.access)? {
        return Err(nothing());
    }
    let issuer = issuer_named(shard, session.user()?, issuer).ok_or_else(nothing)?;
    let own = Home::of(shard, issuer.account, &issuer).await?;
    let source = folder::of_another_user(&own, name).await?;
    let place = source.place();
    let key =
        own.at_owner(move |holding| async move { Ok(holding.account.url_key(place)) }).await?;
    let rump = octets.get(..auth.rump).unwrap_or_default();
    match key.is_some_and(|key| proof.verifies(&key, rump)) {
        true => Ok(source),
        false => Err(nothing()),
    }
}

/// The user who an URL says has signed it.
fn issuer_named(shard: &Rc<Shard>, asker: &User, name: &str) -> Option<User> {
    let key = shard.directory.login_key(name);
    if key == *asker.name {
        return Some(asker.clone());
    }
    let account = shard.directory.account_named(name)?;
    Some(User { account, name: key.as_str().into(), trail: asker.trail })
}

/// Whether the session is one of those for whom an URL is (RFC 4467 3).
fn may_use(session: &Session, access: &Access) -> Result<bool, Failure> {
    let user = session.user()?;
    let directory = &session.channel.shard.directory;
    let is_user = |name: &String| directory.login_key(name) == *user.name;
    Ok(match access {
        // Nobody is here without a log-in, and nobody logs in as nobody.
        Access::AuthUser | Access::Anonymous => true,
        Access::User(name) => is_user(name),
        // For whom it submits, is its affair.
        Access::Submit(_) => session.imap().submitters.iter().any(is_user),
    })
}

/// Whether an URL that failed like this may be right: a disk, say, does not answer.
pub(super) fn may_succeed_later(failure: &Failure) -> bool {
    matches!(failure, Failure::No { code: Some(Code::Unavailable), .. } | Failure::Leave(_))
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
    Ok(is_user && is_this_server(session, server))
}

pub(super) fn is_this_server(session: &Session, server: &UrlServer) -> bool {
    let is_it = |name: &str| server.host.eq_ignore_ascii_case(name);
    is_it(&session.options().hostname) || session.imap().url_hosts.iter().any(|it| is_it(it))
}

/// What is wrong with the URL of another server or user.
pub(super) fn elsewhere(session: &Session) -> String {
    let name = &session.options().hostname;
    format!("The URL is not of you, or not of this server, which is {name} in URLs")
}
