//! The text of a message as it is sent: lines end in CRLF and in nothing else, and with DATA a dot
//! at the start of a line gets another (RFC 5321 4.5.2).
//!
//! **Smuggling.** A peer that takes `<LF>.<LF>` or similar for the end of a message would find a
//! second message in the first. So a CR or LF that is not part of CRLF never leaves: it counts as a
//! CRLF, as in `data::BareNewline::Normalise`, also before a peer with CHUNKING, which may pass the
//! message on with DATA. Only what is declared BODY=BINARYMIME goes as it is (RFC 3030 3), and
//! never with DATA. Lines may be of any length.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use memchr::memchr2;

/// The position in the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Start,
    Inside,
    /// After a CR that is not yet sent.
    Cr,
}

/// Encodes one message, given in pieces cut anywhere.
#[derive(Debug)]
pub struct BodyEncoder {
    place: Place,
    dots: bool,
    binary: bool,
}

impl BodyEncoder {
    /// For DATA.
    pub fn data() -> BodyEncoder {
        BodyEncoder { place: Place::Start, dots: true, binary: false }
    }

    /// For BDAT. `binary`: declared BODY=BINARYMIME.
    pub fn chunks(binary: bool) -> BodyEncoder {
        BodyEncoder { place: Place::Start, dots: false, binary }
    }

    /// Appends `piece` to `output`, encoded: at most twice its octets and two more.
    pub fn push(&mut self, piece: &[u8], output: &mut Vec<u8>) {
        if self.binary {
            return output.extend_from_slice(piece);
        }
        let mut rest = piece;
        if self.place == Place::Cr && !rest.is_empty() {
            self.end_line(output);
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(first) = rest.first() {
            if self.place == Place::Start && *first == b'.' && self.dots {
                output.push(b'.');
            }
            self.place = Place::Inside;
            let Some(at) = memchr2(b'\r', b'\n', rest) else {
                return output.extend_from_slice(rest);
            };
            let (line, end) = rest.split_at(at);
            output.extend_from_slice(line);
            rest = match end {
                [b'\r'] => {
                    self.place = Place::Cr;
                    return;
                }
                [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
                [] => return,
            };
            self.end_line(output);
        }
    }

    /// Ends the last line, if it has no end. RFC 5321 4.1.1.4: the final dot follows a CRLF.
    pub fn finish(&mut self, output: &mut Vec<u8>) {
        if self.place != Place::Start {
            self.end_line(output);
        }
    }

    fn end_line(&mut self, output: &mut Vec<u8>) {
        output.extend_from_slice(b"\r\n");
        self.place = Place::Start;
    }
}
