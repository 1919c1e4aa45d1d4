//! Content transfer encodings (RFC 2045 6), decoded piece by piece.
//!
//! Called by SEARCH on the parts it searches, for encoded-words of RFC 2047, and by FETCH of
//! BINARY. Tolerant: invalid input is skipped or taken undecoded.

use memchr::memchr;

/// Decodes one body; pieces may be cut anywhere.
#[derive(Clone, Debug)]
pub enum TransferDecoder {
    /// 7bit, 8bit, binary, and unknown encodings.
    Identity,
    Base64 {
        /// Bits read, newest lowest; fewer than 24 of them are pending.
        bits: u32,
        /// Characters of the current group of four.
        characters: u8,
    },
    QuotedPrintable(Quoted),
}

/// Where a quoted-printable text was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quoted {
    Text,
    /// After `=`.
    Equals,
    /// After `=` and this first digit.
    Digit(u8),
    /// After `=` and white space: the line continues after its end.
    SoftBreak,
}

impl TransferDecoder {
    /// By the value of Content-Transfer-Encoding; an unknown one is taken undecoded.
    pub fn new(encoding: &[u8]) -> TransferDecoder {
        TransferDecoder::known(encoding).unwrap_or(TransferDecoder::Identity)
    }

    /// The same; `None` for an encoding that is not known (RFC 2045 6.1).
    pub fn known(encoding: &[u8]) -> Option<TransferDecoder> {
        let is = |name: &[u8]| encoding.eq_ignore_ascii_case(name);
        if is(b"base64") {
            Some(TransferDecoder::Base64 { bits: 0, characters: 0 })
        } else if is(b"quoted-printable") {
            Some(TransferDecoder::QuotedPrintable(Quoted::Text))
        } else {
            let plain = [&b"7bit"[..], b"8bit", b"binary"].into_iter().any(is);
            plain.then_some(TransferDecoder::Identity)
        }
    }

    /// Appends the decoded `piece`: never more octets than it has, except one or two pending ones.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        match self {
            TransferDecoder::Identity => out.extend_from_slice(piece),
            TransferDecoder::Base64 { bits, characters } => {
                for &byte in piece {
                    push_base64(byte, bits, characters, out);
                }
            }
            TransferDecoder::QuotedPrintable(state) => push_quoted(piece, state, out),
        }
    }

    /// Appends the rest of an incomplete end.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        match self {
            TransferDecoder::Identity => {}
            TransferDecoder::Base64 { bits, characters } => end_group(bits, characters, out),
            TransferDecoder::QuotedPrintable(state) => {
                match std::mem::replace(state, Quoted::Text) {
                    Quoted::Digit(digit) => out.extend_from_slice(&[b'=', digit]),
                    Quoted::Text | Quoted::Equals | Quoted::SoftBreak => {}
                }
            }
        }
    }
}

/// A whole body, decoded by the value of its Content-Transfer-Encoding.
pub fn decode_transfer(encoding: &[u8], body: &[u8]) -> Vec<u8> {
    let mut decoder = TransferDecoder::new(encoding);
    let mut out = Vec::new();
    decoder.push(body, &mut out);
    decoder.finish(&mut out);
    out
}

/// 0 to 63, or 255 for octets outside the alphabet (RFC 2045 6.8).
const BASE64_VALUES: [u8; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [255; 256];
    let mut index = 0;
    while index < alphabet.len() {
        values[alphabet[index] as usize] = index as u8;
        index += 1;
    }
    values
};

fn push_base64(byte: u8, bits: &mut u32, characters: &mut u8, out: &mut Vec<u8>) {
    let value = BASE64_VALUES[usize::from(byte)];
    if value < 64 {
        *bits = *bits << 6 | u32::from(value);
        *characters += 1;
        if *characters == 4 {
            out.extend_from_slice(&bits.to_be_bytes()[1..]);
            (*bits, *characters) = (0, 0);
        }
    } else if byte == b'=' {
        // Padding ends a group; some encoders continue after it.
        end_group(bits, characters, out);
    }
}

fn end_group(bits: &mut u32, characters: &mut u8, out: &mut Vec<u8>) {
    match characters {
        2 => out.push((*bits >> 4) as u8),
        3 => out.extend_from_slice(&((*bits >> 2) as u16).to_be_bytes()),
        _ => {}
    }
    (*bits, *characters) = (0, 0);
}

fn push_quoted(piece: &[u8], state: &mut Quoted, out: &mut Vec<u8>) {
    let mut rest = piece;
    while let Some((&byte, after)) = rest.split_first() {
        *state = match *state {
            Quoted::Text => match memchr(b'=', rest) {
                Some(length) => {
                    out.extend_from_slice(&rest[..length]);
                    rest = &rest[length + 1..];
                    Quoted::Equals
                }
                None => {
                    out.extend_from_slice(rest);
                    return;
                }
            },
            Quoted::Equals => match byte {
                b' ' | b'\t' | b'\r' => {
                    rest = after;
                    Quoted::SoftBreak
                }
                b'\n' => {
                    rest = after;
                    Quoted::Text
                }
                _ if byte.is_ascii_hexdigit() => {
                    rest = after;
                    Quoted::Digit(byte)
                }
                _ => {
                    out.push(b'=');
                    Quoted::Text
                }
            },
            Quoted::Digit(first) => {
                match (hex(first), hex(byte)) {
                    (Some(high), Some(low)) => {
                        out.push(high << 4 | low);
                        rest = after;
                    }
                    _ => out.extend_from_slice(&[b'=', first]),
                }
                Quoted::Text
            }
            Quoted::SoftBreak => match byte {
                b' ' | b'\t' | b'\r' => {
                    rest = after;
                    Quoted::SoftBreak
                }
                b'\n' => {
                    rest = after;
                    Quoted::Text
                }
                _ => Quoted::Text,
            },
        };
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode<'a>(encoding: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut decoder = TransferDecoder::new(encoding.as_bytes());
        let mut out = Vec::new();
        pieces.into_iter().for_each(|piece| decoder.push(piece, &mut out));
        decoder.finish(&mut out);
        out.escape_ascii().to_string()
    }

    const CASES: &[(&str, &str, &str)] = &[
        ("8bit", "a=20b", "a=20b"),
        ("x-unknown", "a", "a"),
        ("Base64", "aGVsbG8gd29ybGQ=", "hello world"),
        ("base64", "aGVs\r\nbG8g\r\n d29y bGQ", "hello world"),
        ("base64", "YQ==YWI=YWJj", "aababc"),
        ("base64", "!a!G!V!s!", "hel"),
        ("base64", "====", ""),
        ("base64", "A", ""),
        ("Quoted-Printable", "J=C3=B6rg =3d x", r"J\xc3\xb6rg = x"),
        ("quoted-printable", "soft=\r\nbreak= \t\r\nand=\nmore\r\nend", r"softbreakandmore\r\nend"),
        ("quoted-printable", "a=b, a=, =zz, ==41", r"a=b, a=, =zz, =A"),
        ("quoted-printable", "cut=", "cut"),
        ("quoted-printable", "cut=4", "cut=4"),
        ("quoted-printable", "= x", "x"),
        ("quoted-printable", "=", ""),
    ];

    #[test]
    fn encodings() {
        for (encoding, source, expected) in CASES {
            let source = source.as_bytes();
            assert_eq!(decode(encoding, [source]), *expected);
            assert_eq!(decode(encoding, source.chunks(1)), *expected, "one octet at a time");
        }
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(source in "[=a4 \r\n\t]{0,30}", size in 1usize..6) {
            for encoding in ["base64", "quoted-printable"] {
                let whole = decode(encoding, [source.as_bytes()]);
                prop_assert_eq!(decode(encoding, source.as_bytes().chunks(size)), whole);
            }
        }
    }
}
