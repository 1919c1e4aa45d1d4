//! Address lists (RFC 5322 3.4 and 4.4).

use std::borrow::Cow;

/// One address as ENVELOPE tells it (RFC 3501 7.4.2); `None` is NIL. A group begins with an
/// address that has only `mailbox` (the group's name) and ends with one that has nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Address<'a> {
    /// Display name, unquoted, encoded-words as sent.
    pub name: Option<Cow<'a, [u8]>>,
    /// At-domain-list (source route).
    pub route: Option<Cow<'a, [u8]>>,
    pub mailbox: Option<Cow<'a, [u8]>>,
    pub host: Option<Cow<'a, [u8]>>,
}

/// Reads as many addresses as can be made out; never fails.
pub fn parse_list(_value: &[u8]) -> Vec<Address<'_>> {
    todo!()
}
