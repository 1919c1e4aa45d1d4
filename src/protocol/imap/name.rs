//! Mailbox names: modified UTF-7 on the wire (RFC 3501 5.1.3), UTF-8 everywhere else.

use std::borrow::Cow;

/// Separates levels of a mailbox name.
pub const SEPARATOR: char = '/';

/// A mailbox name as the client sent it. For LIST also a pattern or a reference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailboxName<'a>(pub Cow<'a, [u8]>);

/// Why a name cannot be one of ours; the text is fit for a `NO [CANNOT]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    #[error("mailbox name is not valid modified UTF-7")]
    Encoding,
    #[error("mailbox name has a control character")]
    Control,
}

impl<'a> MailboxName<'a> {
    /// The name in UTF-8. A first level `inbox` in any case becomes `INBOX` (RFC 3501 5.1); borrowed
    /// unless there was something to decode or fold. `*` and `%` of a pattern are left as they are.
    pub fn to_utf8(&self) -> Result<Cow<'_, str>, NameError> {
        todo!()
    }
}

/// Appends `name` in modified UTF-7.
pub fn encode(_name: &str, _out: &mut Vec<u8>) {
    todo!()
}
