//! Literals as their headers announce them (RFC 3501 4.3, RFC 7888, RFC 3516 4.4).

/// A literal, as its header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Literal {
    /// Octets; saturates, so that a long number never becomes a small one.
    pub size: u64,
    /// The client waits for a continuation (no `+`, RFC 7888 3).
    pub sync: bool,
    /// A `literal8`, which may contain NUL octets (RFC 3516 4.4).
    pub binary: bool,
}

/// `{size}` or `{size+}`, possibly after a `~`, before a line end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LiteralHeader {
    /// Offset of its first octet in the line.
    pub start: usize,
    pub literal: Literal,
}

impl LiteralHeader {
    /// The header at the end of `line`, if there is one. A quoted string cannot be mistaken for
    /// one, since it ends in a quote.
    pub(super) fn at_end_of(line: &[u8]) -> Option<LiteralHeader> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text).strip_suffix(b"}")?;
        let (text, sync) = match text.strip_suffix(b"+") {
            Some(text) => (text, false),
            None => (text, true),
        };
        let digits = text.iter().rev().take_while(|octet| octet.is_ascii_digit()).count();
        let (before, digits) = text.split_at(text.len() - digits);
        let before = before.strip_suffix(b"{")?;
        let (before, binary) = match before.strip_suffix(b"~") {
            Some(before) => (before, true),
            None => (before, false),
        };
        let size = digits.iter().fold(0_u64, |size, digit| {
            size.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
        });
        let literal = Literal { size, sync, binary };
        (!digits.is_empty()).then_some(LiteralHeader { start: before.len(), literal })
    }
}
