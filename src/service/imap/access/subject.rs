//! The identifiers that clients name.

use super::super::{reply::Failure, state::Session};
use crate::{
    model::{Identifier, IdentifierError, Subject},
    protocol::imap::Code,
};

/// The subject that an identifier names. A user is named as at log-in, so that all spellings of an
/// address are one subject. An account's rights go with it, not with its name; whether there is one
/// is not told.
pub(super) fn named(session: &Session, identifier: &[u8]) -> Result<Subject, Failure> {
    let refused = |why: String| Failure::no(Code::Cannot, why);
    let text = std::str::from_utf8(identifier);
    let text = text.map_err(|_| refused("the identifier is not in UTF-8".to_owned()))?;
    let wrong = |error: IdentifierError| refused(error.to_string());
    let subject = Subject::parse(text).map_err(wrong)?;
    let identifier = match subject.identifier {
        Identifier::User { name, .. } => {
            let directory = &session.channel.shard.directory;
            let key = directory.login_key(&name);
            Identifier::user(&key).map_err(wrong)?.numbered(directory.account_named(&key))
        }
        identifier => identifier,
    };
    Ok(Subject { identifier, ..subject })
}
