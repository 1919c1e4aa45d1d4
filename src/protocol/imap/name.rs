//! Mailbox names: modified UTF-7 on the wire (RFC 3501 5.1.3), UTF-8 everywhere else, and on the
//! wire too once the client enabled that (RFC 9051 5.1).
//!
//! Decoding is strict: of all spellings of a name only the one that [`encode`] produces is
//! accepted, so that no two names on the wire are one mailbox (RFC 3501 5.1.3: "MUST NOT").

use std::borrow::Cow;

/// Separates levels of a mailbox name.
pub const SEPARATOR: char = '/';

/// Modified base64: `,` stands for the `/` of base64, there is no padding.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

/// How names are written on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum NameForm {
    #[default]
    ModifiedUtf7,
    /// RFC 9051 5.1
    Utf8,
}

/// A mailbox name as the client sent it. For LIST also a pattern or a reference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailboxName<'a>(pub Cow<'a, [u8]>);

/// Why a name is not valid here; the text is suitable for a `NO [CANNOT]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    #[error("mailbox name is not encoded as it should be")]
    Encoding,
    #[error("mailbox name has a control character")]
    Control,
}

impl MailboxName<'_> {
    /// The name in UTF-8. A first level `inbox` in any case becomes `INBOX` (RFC 3501 5.1);
    /// borrowed unless something had to be decoded or folded. `*` and `%` of a pattern are kept.
    pub fn to_utf8(&self, form: NameForm) -> Result<Cow<'_, str>, NameError> {
        let name = match form {
            NameForm::ModifiedUtf7 => decode(&self.0)?,
            NameForm::Utf8 => Cow::Borrowed(utf8(&self.0)?),
        };
        let (first, rest) = name.split_at(name.find(SEPARATOR).unwrap_or(name.len()));
        if first != "INBOX" && first.eq_ignore_ascii_case("INBOX") {
            return Ok(Cow::Owned(format!("INBOX{rest}")));
        }
        Ok(name)
    }
}

/// The name of a mailbox to be created, in UTF-8, or why there can be none of it. A trailing
/// separator announces that the client will create children; it is ignored (RFC 3501 6.3.3).
pub fn new_name(name: &str) -> Result<&str, &'static str> {
    let name = name.strip_suffix(SEPARATOR).unwrap_or(name);
    if name.split(SEPARATOR).any(str::is_empty) {
        return Err("A level of the mailbox name is empty");
    }
    // LIST could not name such a mailbox alone: these are its wildcards.
    if name.contains(['*', '%']) {
        return Err("Mailbox names cannot contain * or %");
    }
    // RFC 6855 3: neither a line separator nor a paragraph separator.
    match name.chars().any(|it| it.is_control() || matches!(it, '\u{2028}' | '\u{2029}')) {
        true => Err("Mailbox names cannot contain control characters"),
        false => Ok(name),
    }
}

/// A name that is UTF-8 on the wire. Refuses control characters.
fn utf8(raw: &[u8]) -> Result<&str, NameError> {
    let name = std::str::from_utf8(raw).map_err(|_| NameError::Encoding)?;
    if name.chars().any(char::is_control) { Err(NameError::Control) } else { Ok(name) }
}

/// Decodes modified UTF-7. Refuses control characters, encoded or not.
pub(super) fn decode(raw: &[u8]) -> Result<Cow<'_, str>, NameError> {
    if raw.iter().any(u8::is_ascii_control) {
        return Err(NameError::Control);
    }
    let text = std::str::from_utf8(raw).map_err(|_| NameError::Encoding)?;
    if !text.is_ascii() {
        return Err(NameError::Encoding);
    }
    if !text.contains('&') {
        return Ok(Cow::Borrowed(text));
    }
    let mut name = String::with_capacity(text.len());
    let mut pieces = text.split('&');
    name.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (shifted, direct) = piece.split_once('-').ok_or(NameError::Encoding)?;
        if shifted.is_empty() {
            name.push('&');
        } else {
            decode_shifted(shifted.as_bytes(), &mut name)?;
        }
        name.push_str(direct);
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::Control);
    }
    // One comparison finds every non-canonical spelling: ASCII in base64, adjacent shifts, stray
    // bits at the end.
    let mut canonical = Vec::with_capacity(raw.len());
    encode(&name, &mut canonical);
    if canonical != raw {
        return Err(NameError::Encoding);
    }
    Ok(Cow::Owned(name))
}

/// Appends `name` in modified UTF-7.
pub(super) fn encode(name: &str, out: &mut Vec<u8>) {
    let mut rest = name;
    while let Some(octet) = rest.bytes().next() {
        if is_direct(octet) {
            out.push(octet);
            if octet == b'&' {
                out.push(b'-');
            }
            rest = &rest[1..];
            continue;
        }
        let end = rest.bytes().position(is_direct).unwrap_or(rest.len());
        let (shifted, after) = rest.split_at(end);
        encode_shifted(shifted, out);
        rest = after;
    }
}

/// Whether printable ASCII is written directly.
fn is_direct(octet: u8) -> bool {
    matches!(octet, 0x20..=0x7e)
}

fn encode_shifted(text: &str, out: &mut Vec<u8>) {
    out.push(b'&');
    let (mut bits, mut count) = (0_u32, 0);
    for unit in text.encode_utf16() {
        bits = bits << 16 | u32::from(unit);
        count += 16;
        while count >= 6 {
            count -= 6;
            out.push(ALPHABET[(bits >> count & 63) as usize]);
        }
    }
    if count > 0 {
        out.push(ALPHABET[(bits << (6 - count) & 63) as usize]);
    }
    out.push(b'-');
}

/// Base64 of UTF-16, most significant octet first. The caller checks left-over bits.
fn decode_shifted(shifted: &[u8], name: &mut String) -> Result<(), NameError> {
    let (mut bits, mut count) = (0_u32, 0);
    let mut units = Vec::with_capacity(shifted.len() * 6 / 16);
    for &octet in shifted {
        let value = match octet {
            b'A'..=b'Z' => octet - b'A',
            b'a'..=b'z' => octet - b'a' + 26,
            b'0'..=b'9' => octet - b'0' + 52,
            b'+' => 62,
            b',' => 63,
            _ => return Err(NameError::Encoding),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 16 {
            count -= 16;
            units.push((bits >> count) as u16);
        }
    }
    for character in char::decode_utf16(units) {
        name.push(character.map_err(|_| NameError::Encoding)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(name: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode(name, &mut out);
        out
    }

    #[track_caller]
    fn check(wire: &[u8], expected: Result<&str, NameError>) {
        let name = MailboxName(Cow::Borrowed(wire));
        let got = name.to_utf8(NameForm::ModifiedUtf7);
        assert_eq!(got.as_deref(), expected.as_ref().copied(), "{}", wire.escape_ascii());
    }

    #[test]
    fn cases() {
        const CASES: &[(&[u8], Result<&str, NameError>)] = &[
            (b"Sent", Ok("Sent")),
            (b"", Ok("")),
            (b"inbox", Ok("INBOX")),
            (b"iNbOx/a", Ok("INBOX/a")),
            (b"inboxes", Ok("inboxes")),
            (b"a/inbox", Ok("a/inbox")),
            // RFC 3501 5.1.3's own example.
            (
                b"~peter/mail/&U,BTFw-/&ZeVnLIqe-",
                Ok("~peter/mail/\u{53f0}\u{5317}/\u{65e5}\u{672c}\u{8a9e}"),
            ),
            (b"Entw&APw-rfe", Ok("Entw\u{fc}rfe")),
            (b"Tom &- Jerry", Ok("Tom & Jerry")),
            (b"&2D3eAA-", Ok("\u{1f600}")),
            (b"&AOQ-&-&AOQ-", Ok("\u{e4}&\u{e4}")),
            (b"%/&APw-*", Ok("%/\u{fc}*")),
            // Not canonical (RFC 3501 5.1.3).
            (b"&AGEAYg-", Err(NameError::Encoding)),
            (b"&U,BTFw-&ZeVnLIqe-", Err(NameError::Encoding)),
            (b"&APx-", Err(NameError::Encoding)),
            (b"&APwA-", Err(NameError::Encoding)),
            (b"&AA-", Err(NameError::Encoding)),
            (b"&ACY-", Err(NameError::Encoding)),
            // Broken.
            (b"&APw", Err(NameError::Encoding)),
            (b"&", Err(NameError::Encoding)),
            (b"a&b", Err(NameError::Encoding)),
            (b"&AP/-", Err(NameError::Encoding)),
            (b"&2D0-", Err(NameError::Encoding)),
            (b"&3gA-", Err(NameError::Encoding)),
            (b"caf\xc3\xa9", Err(NameError::Encoding)),
            (b"\xff", Err(NameError::Encoding)),
            (b"a\tb", Err(NameError::Control)),
            (b"a\0", Err(NameError::Control)),
            (b"&AAA-", Err(NameError::Control)),
            (b"&AA0ACg-", Err(NameError::Control)),
        ];
        for &(wire, expected) in CASES {
            check(wire, expected);
        }
    }

    /// RFC 9051 5.1: `&` is a letter like any other.
    #[test]
    fn names_in_utf8() {
        const CASES: &[(&[u8], Result<&str, NameError>)] = &[
            (b"inbox/Entw\xc3\xbcrfe", Ok("INBOX/Entw\u{fc}rfe")),
            (b"Tom & Jerry", Ok("Tom & Jerry")),
            (b"&AOQ-", Ok("&AOQ-")),
            (b"\xff", Err(NameError::Encoding)),
            (b"a\tb", Err(NameError::Control)),
            (b"\xc2\x85", Err(NameError::Control)),
        ];
        for &(wire, expected) in CASES {
            let name = MailboxName(Cow::Borrowed(wire));
            let got = name.to_utf8(NameForm::Utf8);
            assert_eq!(got.as_deref(), expected.as_ref().copied(), "{}", wire.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(name in "[^\\p{Cc}]{0,40}") {
            let wire = encoded(&name);
            prop_assert!(wire.is_ascii());
            let decoded = decode(&wire);
            prop_assert_eq!(decoded.as_deref(), Ok(name.as_str()));
        }

        #[test]
        fn what_decodes_has_one_spelling(wire in "[a&,+A-D0-9/-]{0,24}") {
            if let Ok(name) = decode(wire.as_bytes()) {
                prop_assert_eq!(encoded(&name), wire.as_bytes());
            }
        }

        #[test]
        fn any_octets_are_survived(wire in proptest::collection::vec(any::<u8>(), 0..64)) {
            let name = MailboxName(Cow::Owned(wire));
            let _ = name.to_utf8(NameForm::ModifiedUtf7);
            if let Ok(text) = name.to_utf8(NameForm::Utf8) {
                prop_assert!(text.as_bytes().eq_ignore_ascii_case(&name.0));
            }
        }
    }
}
