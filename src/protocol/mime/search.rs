//! SEARCH over decoded text (RFC 3501 6.4.4): substring, without case, as UTF-8.

use super::Summary;

/// A case-folded string to look for.
#[derive(Clone, Debug)]
pub struct Needle {}

impl Needle {
    pub fn new(_text: &str) -> Needle {
        todo!()
    }

    /// Whether `text` contains it, without case.
    pub fn is_in(&self, _text: &str) -> bool {
        todo!()
    }

    /// Whether a raw header value (folded or not, encoded-words) contains it once decoded.
    pub fn is_in_value(&self, _value: &[u8]) -> bool {
        todo!()
    }

    /// `HEADER name needle`: whether any field `name` of the header block contains it. An empty
    /// needle asks for the field only.
    pub fn is_in_header(&self, _header: &[u8], _name: &[u8]) -> bool {
        todo!()
    }
}

/// Where a needle may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// `BODY`: text and message parts, decoded.
    Body,
    /// `TEXT`: the same and the header.
    Text,
}

/// Looks for needles in one message as its bytes are read; keeps none of them.
pub struct MessageSearch<'a> {
    _summary: &'a Summary,
}

impl<'a> MessageSearch<'a> {
    pub fn new(_summary: &'a Summary, _needles: &[(Scope, &Needle)]) -> MessageSearch<'a> {
        todo!()
    }

    /// Offset in the message of the first byte that `push` wants.
    pub fn start(&self) -> u64 {
        todo!()
    }

    /// The next bytes of the message; `true` when all is decided and the rest need not be read.
    pub fn push(&mut self, _chunk: &[u8]) -> bool {
        todo!()
    }

    /// For each needle, in the order given, whether it was found.
    pub fn finish(self) -> Vec<bool> {
        todo!()
    }
}
