//! The identifiers that clients name.

use super::super::{reply::Failure, state::Session};
use crate::{model::Subject, protocol::imap::Code, service::access};

/// The subject that an identifier names. Whether a user has an account is not told.
pub(super) fn named(session: &Session, identifier: &[u8]) -> Result<Subject, Failure> {
    let refused = |why: String| Failure::no(Code::Cannot, why);
    let text = std::str::from_utf8(identifier);
    let text = text.map_err(|_| refused("the identifier is not in UTF-8".to_owned()))?;
    access::named(&session.channel.shard.directory, text).map_err(|why| refused(why.to_string()))
}
