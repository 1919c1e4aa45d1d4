//! Charsets of text: which decoder a label stands for, and text in ISO-2022-JP as mailers write it.
//!
//! Called by `encoded_word` and `search`, for SEARCH alone.

use encoding_rs::{Decoder, Encoding, ISO_2022_JP, REPLACEMENT, UTF_8};

const ESCAPE: u8 = 0x1b;
/// Octets of every escape sequence that ISO-2022-JP has (RFC 1468).
const SEQUENCE_SIZE: usize = 3;
/// Back to ASCII.
pub(super) const TO_ASCII: &[u8; SEQUENCE_SIZE] = b"\x1b(B";

/// The encoding of a charset label. ASCII, no label, and labels not known are taken as UTF-8, which
/// is what unlabelled text is. So are those that `encoding_rs` has no decoder for (iso-2022-kr,
/// iso-2022-cn, hz-gb-2312): it would make one U+FFFD of the whole text, yet the ASCII in it can be
/// found.
pub(super) fn encoding(label: &[u8]) -> &'static Encoding {
    if label.eq_ignore_ascii_case(b"us-ascii") || label.eq_ignore_ascii_case(b"ascii") {
        return UTF_8;
    }
    Encoding::for_label(label).filter(|found| *found != REPLACEMENT).unwrap_or(UTF_8)
}

/// A decoder of text in pieces that takes mail as it is.
pub(super) struct TextDecoder {
    decoder: Decoder,
    /// `None` for charsets without a state.
    escapes: Option<Escapes>,
    collapsed: Vec<u8>,
}

impl TextDecoder {
    pub fn new(encoding: &'static Encoding) -> TextDecoder {
        TextDecoder {
            decoder: encoding.new_decoder(),
            escapes: (encoding == ISO_2022_JP).then(Escapes::default),
            collapsed: Vec::new(),
        }
    }

    /// Appends the text of `bytes`.
    pub fn push(&mut self, bytes: &[u8], last: bool, out: &mut String) {
        let bytes = match &mut self.escapes {
            None => bytes,
            Some(escapes) => {
                self.collapsed.clear();
                escapes.push(bytes, &mut self.collapsed);
                if last {
                    escapes.flush(&mut self.collapsed);
                }
                &self.collapsed
            }
        };
        let room = self.decoder.max_utf8_buffer_length(bytes.len());
        out.reserve(room.unwrap_or(bytes.len() * 3));
        // The room suffices for all input, so nothing is left over.
        let _ = self.decoder.decode_to_string(bytes, out, last);
    }
}

/// Leaves out escape sequences directly before others. They switch to a set of characters and use
/// none of it, as at the seam of two encoded-words (each ends in ASCII, RFC 2047 3); the WHATWG
/// decoder takes that for an attack and puts U+FFFD there.
#[derive(Default)]
struct Escapes {
    /// A sequence, or the beginning of one, that is not given out yet.
    held: [u8; SEQUENCE_SIZE],
    size: usize,
}

impl Escapes {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &byte in bytes {
            if byte == ESCAPE && self.size == SEQUENCE_SIZE {
                self.size = 0;
            } else if byte == ESCAPE || self.size == SEQUENCE_SIZE {
                self.flush(out);
            }
            if byte == ESCAPE || self.size > 0 {
                self.held[self.size] = byte;
                self.size += 1;
            } else {
                out.push(byte);
            }
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.held[..self.size]);
        self.size = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(label: &str, bytes: &[u8], size: usize) -> String {
        let mut decoder = TextDecoder::new(encoding(label.as_bytes()));
        let mut text = String::new();
        bytes.chunks(size).for_each(|piece| decoder.push(piece, false, &mut text));
        decoder.push(b"", true, &mut text);
        text
    }

    #[test]
    fn texts() {
        const CASES: &[(&str, &[u8], &str)] = &[
            ("iso-2022-jp", b"a\x1b$BF|K\\\x1b(Bb", "a\u{65e5}\u{672c}b"),
            // To ASCII and back at once, and more of it.
            ("iso-2022-jp", b"\x1b$BF|\x1b(B\x1b$BK\\\x1b(B", "\u{65e5}\u{672c}"),
            (
                "iso-2022-jp",
                b"\x1b(B\x1b(J\x1b$BF|\x1b(B\x1b(B\x1b$BK\\\x1b(B!",
                "\u{65e5}\u{672c}!",
            ),
            ("iso-2022-jp", b"a\x1b", "a\u{fffd}"),
            ("iso-2022-jp", b"\x1b$BF|\x1b(B\x1b$B", "\u{65e5}"),
            ("iso-2022-kr", b"\x1b$)C plain \x0e!!\x0f text", "\x1b$)C plain \x0e!!\x0f text"),
            ("hz-gb-2312", b"plain ~{<:Ky~} text", "plain ~{<:Ky~} text"),
            ("iso-2022-cn", b"plain", "plain"),
            ("replacement", b"plain", "plain"),
            ("nonsense", "\u{fc}".as_bytes(), "\u{fc}"),
            ("", b"a", "a"),
            ("utf-16be", b"\0a\0b", "ab"),
        ];
        for (label, bytes, expected) in CASES {
            for size in [1, 2, 3, 5, 100] {
                assert_eq!(decode(label, bytes, size), *expected, "{label} by {size}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(
            bytes in proptest::collection::vec(
                proptest::sample::select(b"\x1b\x1b\x1b(B$@JIaF|".to_vec()), 0..40),
            size in 1_usize..5,
        ) {
            let whole = decode("iso-2022-jp", &bytes, 100);
            proptest::prop_assert_eq!(decode("iso-2022-jp", &bytes, size), whole);
        }
    }
}
