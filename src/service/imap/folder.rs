//! From a mailbox name of the client to one of the store's.
//!
//! The store knows names in UTF-8; modified UTF-7 ends here.

use std::borrow::Cow;

use super::reply::{Failure, no_such_mailbox};
use crate::protocol::imap::{Code, MailboxName, SEPARATOR};

/// The name of a mailbox that should exist: what cannot be decoded names none.
pub(super) fn existing_name<'a>(name: &'a MailboxName<'_>) -> Result<Cow<'a, str>, Failure> {
    name.to_utf8().map_err(|_| no_such_mailbox())
}

/// A name that is to come into being. A separator at its end says that the client will create
/// children, and means nothing here (RFC 3501 6.3.3).
pub(super) fn new_name(name: &MailboxName<'_>) -> Result<String, Failure> {
    let cannot = |why: &str| Failure::no(Code::Cannot, why.to_owned());
    let name = name.to_utf8().map_err(|error| cannot(&error.to_string()))?;
    let name = name.strip_suffix(SEPARATOR).unwrap_or(&name);
    if name.split(SEPARATOR).any(str::is_empty) {
        return Err(cannot("A level of the mailbox name is empty"));
    }
    // Such a mailbox could not be told from others by LIST.
    if name.contains(['*', '%']) {
        return Err(cannot("Mailbox names have no * and %"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_names() {
        const CASES: &[(&str, Option<&str>)] = &[
            ("a", Some("a")),
            ("a/b/", Some("a/b")),
            ("iNbOx/a", Some("INBOX/a")),
            ("Entw&APw-rfe", Some("Entwürfe")),
            ("", None),
            ("/", None),
            ("/a", None),
            ("a//b", None),
            ("a%", None),
            ("a*b", None),
            ("a&", None),
            ("a\tb", None),
        ];
        for (name, expected) in CASES {
            let named = new_name(&MailboxName(name.as_bytes().into())).ok();
            assert_eq!(named.as_deref(), *expected, "{name:?}");
        }
    }
}
