//! Message octets as the body of a multi-line response (RFC 1939 3): a line that begins with `.`
//! gets another one before it, and a line of a single `.` ends the response.
//!
//! `service::pop3` feeds the body piece by piece as the store reads it; pieces may be cut anywhere.
//! Only CRLF ends a line here, but most clients also take a bare LF for a line end, and messages
//! may have some (BDAT and APPEND carry any octets). For such a client `<LF>.<CRLF>` would end the
//! response, and it would take the rest for the answer to its next command: a message could forge
//! answers. So dots after a bare LF are stuffed as well, which gives a strict client one dot too
//! many in a message that has no proper lines anyway.
//!
//! NUL, which no message should have, is another octet here, as it is in IMAP.

use memchr::memmem;

use crate::protocol::mime::append_without_nul;

/// Writes one message for RETR or TOP.
#[derive(Debug)]
pub struct MultilineWriter {
    /// How the octets so far end.
    tail: Tail,
    top: Option<Top>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tail {
    /// CRLF, or nothing written yet: at the start of a line.
    LineStart,
    /// A bare LF: the start of a line for some clients only.
    LoneLf,
    Cr,
    Other,
}

/// How much TOP still needs.
#[derive(Debug)]
struct Top {
    in_header: bool,
    body_lines_left: u32,
    /// Octets of the current line in earlier pieces.
    line_len: u64,
}

impl MultilineWriter {
    /// The whole message.
    pub fn retr() -> MultilineWriter {
        MultilineWriter { tail: Tail::LineStart, top: None }
    }

    /// The header, the empty line after it, and `body_lines` lines (RFC 1939 7).
    pub fn top(body_lines: u32) -> MultilineWriter {
        let top = Top { in_header: true, body_lines_left: body_lines, line_len: 0 };
        MultilineWriter { tail: Tail::LineStart, top: Some(top) }
    }

    /// Appends the next octets of the message; false once no more are needed.
    pub fn write(&mut self, piece: &[u8], output: &mut Vec<u8>) -> bool {
        let wanted = match &mut self.top {
            None => piece.len(),
            Some(top) => top.wanted(piece, self.tail),
        };
        let (wanted, rest) = piece.split_at(wanted.min(piece.len()));
        self.write_stuffed(wanted, output);
        rest.is_empty() && !self.top.as_ref().is_some_and(Top::is_over)
    }

    /// Completes the last line if necessary and ends the response.
    pub fn finish(self, output: &mut Vec<u8>) {
        if self.tail != Tail::LineStart {
            output.extend_from_slice(b"\r\n");
        }
        output.extend_from_slice(b".\r\n");
    }

    fn write_stuffed(&mut self, piece: &[u8], output: &mut Vec<u8>) {
        if let (Tail::LineStart | Tail::LoneLf, [b'.', ..]) = (self.tail, piece) {
            output.push(b'.');
        }
        let mut copied = 0;
        for position in memmem::find_iter(piece, b"\n.") {
            let dot = position + 1;
            append_without_nul(piece.get(copied..dot).unwrap_or_default(), output);
            output.push(b'.');
            copied = dot;
        }
        append_without_nul(piece.get(copied..).unwrap_or_default(), output);
        self.tail = match (self.tail, piece) {
            (tail, []) => tail,
            (Tail::Cr, [b'\n']) | (_, [.., b'\r', b'\n']) => Tail::LineStart,
            (_, [.., b'\n']) => Tail::LoneLf,
            (_, [.., b'\r']) => Tail::Cr,
            _ => Tail::Other,
        };
    }
}

impl Top {
    fn is_over(&self) -> bool {
        !self.in_header && self.body_lines_left == 0
    }

    /// How many octets at the start of `piece` belong to the part for TOP.
    fn wanted(&mut self, piece: &[u8], tail: Tail) -> usize {
        let mut start = 0;
        if tail == Tail::Cr && piece.first() == Some(&b'\n') {
            start = 1;
            self.end_of_line(self.line_len == 1);
        }
        while !self.is_over() {
            let rest = piece.get(start..).unwrap_or_default();
            let Some(len) = memmem::find(rest, b"\r\n") else {
                self.line_len += rest.len() as u64;
                return piece.len();
            };
            self.end_of_line(self.line_len == 0 && len == 0);
            start += len + 2;
        }
        start
    }

    fn end_of_line(&mut self, empty: bool) {
        self.line_len = 0;
        if !self.in_header {
            self.body_lines_left = self.body_lines_left.saturating_sub(1);
        } else if empty {
            self.in_header = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Message, number of body lines for TOP, response.
    const CASES: &[(&str, Option<u32>, &str)] = &[
        ("", None, ".\r\n"),
        ("a", None, "a\r\n.\r\n"),
        ("a\r\n", None, "a\r\n.\r\n"),
        (".\r\n", None, "..\r\n.\r\n"),
        ("a\r\n.b\r\n..\r\n", None, "a\r\n..b\r\n...\r\n.\r\n"),
        ("\r\n.\r\n.\r\n", None, "\r\n..\r\n..\r\n.\r\n"),
        // A dot after a lone LF is stuffed as well, one after a lone CR is not.
        ("a\n.b\r.c", None, "a\n..b\r.c\r\n.\r\n"),
        ("a\n.\r\n-ERR x\r\n", None, "a\n..\r\n-ERR x\r\n.\r\n"),
        ("a\n", None, "a\n\r\n.\r\n"),
        ("a\r", None, "a\r\r\n.\r\n"),
        ("a\r\n.", None, "a\r\n..\r\n.\r\n"),
        ("h: 1\r\nh: 2\r\n\r\nb1\r\nb2\r\n", Some(0), "h: 1\r\nh: 2\r\n\r\n.\r\n"),
        ("h: 1\r\n\r\n.b1\r\nb2\r\n", Some(1), "h: 1\r\n\r\n..b1\r\n.\r\n"),
        ("h: 1\r\n\r\nb1\r\nb2", Some(2), "h: 1\r\n\r\nb1\r\nb2\r\n.\r\n"),
        ("h: 1\r\n\r\nb1\r\n", Some(9), "h: 1\r\n\r\nb1\r\n.\r\n"),
        ("\r\nb1\r\nb2\r\n", Some(1), "\r\nb1\r\n.\r\n"),
        ("h: 1\r\n", Some(1), "h: 1\r\n.\r\n"),
        ("h: 1\r\n\r\n\r\n\r\nb3\r\n", Some(2), "h: 1\r\n\r\n\r\n\r\n.\r\n"),
        ("h: \r\r\n\r\nb1\r\n", Some(0), "h: \r\r\n\r\n.\r\n"),
        ("\r\r\n\r\nb1\r\n", Some(0), "\r\r\n\r\n.\r\n"),
        ("h: 1\n\nb1\r\n", Some(0), "h: 1\n\nb1\r\n.\r\n"),
        ("", Some(3), ".\r\n"),
        ("a\0b\0\r\n\0.\r\n.\0\n.\0", None, "a?b?\r\n?.\r\n..?\n..?\r\n.\r\n"),
    ];

    fn write(pieces: &[&[u8]], top: Option<u32>) -> Vec<u8> {
        let mut writer = top.map_or_else(MultilineWriter::retr, MultilineWriter::top);
        let mut output = Vec::new();
        for piece in pieces {
            if !writer.write(piece, &mut output) {
                break;
            }
        }
        writer.finish(&mut output);
        output
    }

    #[test]
    fn cases_cut_everywhere() {
        for (message, top, expected) in CASES {
            let message = message.as_bytes();
            for first in 0..=message.len() {
                for second in first..=message.len() {
                    let pieces = [&message[..first], &message[first..second], &message[second..]];
                    let output = write(&pieces, *top);
                    assert_eq!(String::from_utf8_lossy(&output), *expected, "{pieces:?}");
                }
            }
        }
    }

    #[test]
    fn top_asks_for_no_more_than_it_needs() {
        let mut writer = MultilineWriter::top(1);
        let mut output = Vec::new();
        assert!(writer.write(b"h: 1\r\n\r\n", &mut output));
        assert!(!writer.write(b"b1\r\n", &mut output));
    }

    /// A client's view of the response if it takes `line_end` for the end of a line.
    fn unstuff(response: &[u8], line_end: &[u8]) -> Vec<u8> {
        let body = response.strip_suffix(b".\r\n").expect("the end");
        let mut message = Vec::new();
        let mut rest = body;
        while let Some(len) = memmem::find(rest, line_end) {
            let (line, after) = rest.split_at(len + line_end.len());
            assert_ne!(line.trim_ascii_end(), b".", "an end before the end");
            message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            rest = after;
        }
        assert!(rest.is_empty());
        message
    }

    proptest! {
        #[test]
        fn a_client_gets_the_message_back(
            octets in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a')],
                0..64,
            ),
            cuts in proptest::collection::vec(0usize..64, 0..4),
        ) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut start = 0;
            for cut in cuts.into_iter().map(|cut| cut.min(octets.len())) {
                pieces.push(&octets[start..cut]);
                start = cut;
            }
            pieces.push(&octets[start..]);
            let mut expected = octets.clone();
            if !expected.is_empty() && !expected.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            let response = write(&pieces, None);
            prop_assert_eq!(unstuff(&response, b"\n"), expected);
            unstuff(&response, b"\r\n");
        }
    }
}
