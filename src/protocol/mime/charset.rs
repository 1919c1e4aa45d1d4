//! Charsets of text: which decoder a label stands for, and texts of two octets a character that
//! shift, as mailers write them.
//!
//! Called by `encoded_word` and `search`, for SEARCH alone.

use encoding_rs::{Decoder, Encoding, ISO_2022_JP, REPLACEMENT, UTF_8};

use super::shifted::{Shifts, Unshifter};

const ESCAPE: u8 = 0x1b;
/// Octets of every escape sequence that ISO-2022-JP has (RFC 1468).
const SEQUENCE_SIZE: usize = 3;
/// Back to ASCII.
pub(super) const TO_ASCII: &[u8; SEQUENCE_SIZE] = b"\x1b(B";

/// What text is decoded by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Charset {
    Known(&'static Encoding),
    /// `encoding_rs` has no decoder for these.
    Shifted(Shifts),
}

/// Labels of what [`Charset::Shifted`] decodes.
const SHIFTED: [(&[u8], Shifts); 6] = [
    (b"hz-gb-2312", Shifts::Tilde),
    (b"hz", Shifts::Tilde),
    (b"iso-2022-kr", Shifts::ISO_2022_KR),
    (b"csiso2022kr", Shifts::ISO_2022_KR),
    (b"iso-2022-cn", Shifts::ISO_2022_CN),
    (b"iso-2022-cn-ext", Shifts::ISO_2022_CN),
];

impl Charset {
    /// By its label. ASCII, no label, and labels not known are taken as UTF-8, which is what
    /// unlabelled text is.
    pub fn new(label: &[u8]) -> Charset {
        let label = label.trim_ascii();
        if label.eq_ignore_ascii_case(b"us-ascii") || label.eq_ignore_ascii_case(b"ascii") {
            return Charset::Known(UTF_8);
        }
        match Encoding::for_label(label).filter(|found| *found != REPLACEMENT) {
            Some(encoding) => Charset::Known(encoding),
            None => shifted(label).map_or(Charset::Known(UTF_8), Charset::Shifted),
        }
    }
}

fn shifted(label: &[u8]) -> Option<Shifts> {
    let found = SHIFTED.iter().find(|(known, _)| label.eq_ignore_ascii_case(known));
    found.map(|&(_, shifts)| shifts)
}

/// A decoder of text in pieces that takes mail as it is.
pub(super) struct TextDecoder {
    decoder: Decoder,
    filter: Filter,
    filtered: Vec<u8>,
}

/// What octets pass before they are decoded.
enum Filter {
    None,
    Escapes(Escapes),
    Unshifter(Unshifter),
}

impl TextDecoder {
    pub fn new(charset: Charset) -> TextDecoder {
        let (encoding, filter) = match charset {
            Charset::Known(encoding) if encoding == ISO_2022_JP => {
                (encoding, Filter::Escapes(Escapes::default()))
            }
            Charset::Known(encoding) => (encoding, Filter::None),
            Charset::Shifted(shifts) => {
                (shifts.encoding(), Filter::Unshifter(Unshifter::new(shifts)))
            }
        };
        TextDecoder { decoder: encoding.new_decoder(), filter, filtered: Vec::new() }
    }

    /// Appends the text of `bytes`.
    pub fn push(&mut self, bytes: &[u8], last: bool, out: &mut String) {
        self.filtered.clear();
        let filtered = &mut self.filtered;
        let bytes = match &mut self.filter {
            Filter::None => bytes,
            Filter::Escapes(escapes) => {
                escapes.push(bytes, filtered);
                if last {
                    escapes.flush(filtered);
                }
                filtered
            }
            Filter::Unshifter(unshifter) => {
                unshifter.push(bytes, filtered);
                if last {
                    unshifter.flush(filtered);
                }
                filtered
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
        let mut decoder = TextDecoder::new(Charset::new(label.as_bytes()));
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
            ("iso-2022-kr", b"\x1b$)C plain \x0e0!3*\x0f text", " plain \u{ac00}\u{b098} text"),
            ("csISO2022KR", b"\x0e0!3*\x0f text", "\u{ac00}\u{b098} text"),
            ("hz-gb-2312", b"plain ~{<:Ky~} text", "plain \u{5df1}\u{6240} text"),
            ("HZ", b"~{<:Ky", "\u{5df1}\u{6240}"),
            ("iso-2022-cn", b"plain \x1b$)A\x0e=;\x0f", "plain \u{4ea4}"),
            ("iso-2022-cn-ext", b"plain", "plain"),
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
