//! Section addresses (RFC 3501 6.4.5): `BODY[1.2.MIME]` and its kin to octet ranges.

use std::ops::Range;

use super::Summary;

/// What of a part or message is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionText {
    /// Nothing said: the whole message, or a part's body.
    Full,
    /// `HEADER` (and the source of `HEADER.FIELDS`): needs no path or a message/rfc822 part.
    Header,
    /// `TEXT`: needs no path or a message/rfc822 part.
    Text,
    /// `MIME`: needs a path.
    Mime,
}

impl Summary {
    /// Octets of the message that the section names; `None` when there is no such part.
    pub fn section(&self, _path: &[u32], _what: SectionText) -> Option<Range<u64>> {
        todo!()
    }
}
