//! Encoders for bodies, also for those that claim an encoding and are not quite in it.
//!
//! The rewriter calls them piece by piece. No line that they make begins with "-", as a delimiter
//! does, or with ".".

use base64::{Engine, engine::general_purpose::STANDARD};

use super::super::transfer::TransferDecoder;

/// Octets of a line of quoted-printable without the "=" of a soft break (RFC 2045 6.7: 76 with it).
const QUOTED_OCTETS: usize = 75;
/// Octets that make a line of base64 (RFC 2045 6.8: 76 characters).
const BASE64_OCTETS: usize = 57;

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

fn push_hex(octet: u8, out: &mut Vec<u8>) {
    let [high, low] = [octet >> 4, octet & 15].map(|digit| DIGITS[usize::from(digit)]);
    out.extend_from_slice(&[b'=', high, low]);
}

/// RFC 2045 6.7. CRLF stays a line end; any other CR or LF is an octet of the body.
#[derive(Debug, Default)]
pub(super) struct QuotedPrintable {
    column: usize,
    /// White space that may turn out to end its line.
    held: Option<u8>,
    cr: bool,
}

impl Encoder for QuotedPrintable {
    const NAME: &'static str = "quoted-printable";

    fn push(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        for &octet in octets {
            if std::mem::take(&mut self.cr) {
                if octet == b'\n' {
                    self.end_line(out);
                    continue;
                }
                self.put_held(out);
                self.put(b'\r', out);
            }
            match octet {
                b'\r' => self.cr = true,
                b' ' | b'\t' => {
                    self.put_held(out);
                    self.held = Some(octet);
                }
                _ => {
                    self.put_held(out);
                    self.put(octet, out);
                }
            }
        }
    }

    fn finish(&mut self, last: bool, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.cr) {
            self.put_held(out);
            self.put(b'\r', out);
        }
        if let Some(space) = self.held.take() {
            self.put_encoded(space, out);
        }
        if last && self.column > 0 {
            out.extend_from_slice(b"=\r\n");
        }
    }
}

impl QuotedPrintable {
    fn end_line(&mut self, out: &mut Vec<u8>) {
        // White space at the end of a line is encoded (rule 3).
        if let Some(space) = self.held.take() {
            self.put_encoded(space, out);
        }
        out.extend_from_slice(b"\r\n");
        self.column = 0;
    }

    fn put_held(&mut self, out: &mut Vec<u8>) {
        if let Some(space) = self.held.take() {
            self.make_room(1, out);
            out.push(space);
            self.column += 1;
        }
    }

    fn put(&mut self, octet: u8, out: &mut Vec<u8>) {
        if !matches!(octet, b'!'..=b'~') || octet == b'=' {
            return self.put_encoded(octet, out);
        }
        self.make_room(1, out);
        if self.column == 0 && matches!(octet, b'-' | b'.') {
            return self.put_encoded(octet, out);
        }
        out.push(octet);
        self.column += 1;
    }

    fn put_encoded(&mut self, octet: u8, out: &mut Vec<u8>) {
        self.make_room(3, out);
        push_hex(octet, out);
        self.column += 3;
    }

    /// A soft break, which is not part of the body, if the line has no room.
    fn make_room(&mut self, width: usize, out: &mut Vec<u8>) {
        if self.column + width > QUOTED_OCTETS {
            out.extend_from_slice(b"=\r\n");
            self.column = 0;
        }
    }
}

/// RFC 2045 6.8.
#[derive(Debug)]
pub(super) struct Base64 {
    line: [u8; BASE64_OCTETS],
    filled: usize,
    lines: bool,
}

impl Default for Base64 {
    fn default() -> Base64 {
        Base64 { line: [0; BASE64_OCTETS], filled: 0, lines: false }
    }
}

impl Encoder for Base64 {
    const NAME: &'static str = "base64";

    fn push(&mut self, mut octets: &[u8], out: &mut Vec<u8>) {
        while !octets.is_empty() {
            // A full line is written when more follows, so that no line end is the last thing.
            if self.filled == BASE64_OCTETS {
                self.write_line(out);
            }
            let count = octets.len().min(BASE64_OCTETS - self.filled);
            let (now, later) = octets.split_at(count);
            self.line[self.filled..self.filled + count].copy_from_slice(now);
            self.filled += count;
            octets = later;
        }
    }

    fn finish(&mut self, last: bool, out: &mut Vec<u8>) {
        if self.filled > 0 {
            self.write_line(out);
        }
        if last && self.lines {
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl Base64 {
    fn write_line(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.lines, true) {
            out.extend_from_slice(b"\r\n");
        }
        let mut text = [0; BASE64_OCTETS.div_ceil(3) * 4];
        // The room is exact for a whole line.
        let written = STANDARD.encode_slice(&self.line[..self.filled], &mut text).unwrap_or(0);
        out.extend_from_slice(&text[..written]);
        self.filled = 0;
    }
}

/// A body that claims an encoding and has octets that do not belong there: it is decoded as a
/// tolerant reader does it, and encoded again.
#[derive(Debug)]
pub(super) struct Mended<E> {
    decoder: TransferDecoder,
    encoder: E,
    /// What was decoded of one piece.
    decoded: Vec<u8>,
}

/// Encodes one body.
pub(super) trait Encoder: Default {
    /// The value of Content-Transfer-Encoding.
    const NAME: &'static str;

    fn push(&mut self, octets: &[u8], out: &mut Vec<u8>);

    /// `last`: nothing follows, and the last line must end.
    fn finish(&mut self, last: bool, out: &mut Vec<u8>);
}

impl<E: Encoder> Default for Mended<E> {
    fn default() -> Mended<E> {
        let decoder = TransferDecoder::new(E::NAME.as_bytes());
        Mended { decoder, encoder: E::default(), decoded: Vec::new() }
    }
}

impl<E: Encoder> Mended<E> {
    pub(super) fn push(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        self.decoder.push(octets, &mut self.decoded);
        self.encoder.push(&self.decoded, out);
        self.decoded.clear();
    }

    pub(super) fn finish(&mut self, last: bool, out: &mut Vec<u8>) {
        self.decoder.finish(&mut self.decoded);
        self.encoder.push(&self.decoded, out);
        self.encoder.finish(last, out);
    }
}
