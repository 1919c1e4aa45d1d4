//! CRLF line framing over the caller's buffer.
//!
//! SMTP and POP3 sessions call it for the next line of their connection's input. It copies nothing:
//! a line is a slice of the input, and the result says how many octets are processed. It remembers
//! only how far it has searched, so that no octet is searched twice however finely the network cuts
//! the stream.
//!
//! Strictness (RFC 5321 2.3.8): only CRLF ends a line. A line ended by a bare LF is reported as
//! such, so that the session refuses it; a CR inside a line is left to the parser, which treats it
//! like any control character.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use memchr::memchr;

/// Octets of one over-long line that are skipped before the connection is closed.
pub const SKIP_MAX: usize = 4 * 1024 * 1024;

/// What is at the start of the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// One line, without its CRLF.
    Line(&'a [u8]),
    /// A line ended by LF without CR: to be refused.
    BareLf,
    /// A line longer than the limit has ended; it was skipped.
    TooLong,
    /// More than [`SKIP_MAX`] octets without an end: the session closes.
    Endless,
    /// No complete line yet.
    Incomplete,
}

/// Finds lines. One for each connection and direction; 24 octets.
#[derive(Clone, Debug)]
pub struct LineFramer {
    /// Octets allowed before the CRLF.
    limit: usize,
    /// Octets at the start of the input without an LF.
    searched: usize,
    /// Octets skipped of a line over the limit; 0 when not in one.
    skipped: usize,
}

impl LineFramer {
    /// Lines may have up to `limit` octets, not counting the CRLF.
    pub fn new(limit: usize) -> LineFramer {
        LineFramer { limit, searched: 0, skipped: 0 }
    }

    /// Takes the next line from `input`. The first value is the number of processed octets, which
    /// the caller removes before the next call. What remains is never more than the limit and a CR.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> (usize, Frame<'a>) {
        let unsearched = input.get(self.searched..).unwrap_or_default();
        let Some(offset) = memchr(b'\n', unsearched) else {
            return self.without_end(input.len());
        };
        let end = self.searched + offset;
        self.searched = 0;
        if self.skipped > 0 {
            self.skipped = 0;
            return (end + 1, Frame::TooLong);
        }
        // As if the same line had come in pieces and been skipped.
        if end > self.limit + 1 {
            return (end + 1, Frame::TooLong);
        }
        let line = input.get(..end).unwrap_or_default().strip_suffix(b"\r");
        let frame = line.map_or(Frame::BareLf, Frame::Line);
        (end + 1, frame)
    }

    fn without_end(&mut self, len: usize) -> (usize, Frame<'static>) {
        // One octet over the limit may be the CR.
        if self.skipped == 0 && len <= self.limit + 1 {
            self.searched = len;
            return (0, Frame::Incomplete);
        }
        self.searched = 0;
        self.skipped += len;
        if self.skipped > SKIP_MAX {
            return (len, Frame::Endless);
        }
        (len, Frame::Incomplete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames `input`, handing over `step` octets more at a time.
    fn frames(input: &[u8], limit: usize, step: usize) -> Vec<String> {
        let mut framer = LineFramer::new(limit);
        let (mut start, mut end) = (0, 0);
        let mut frames = Vec::new();
        loop {
            let (consumed, frame) = framer.next(&input[start..end]);
            start += consumed;
            match frame {
                Frame::Incomplete if end == input.len() => break,
                Frame::Incomplete => end = (end + step).min(input.len()),
                Frame::Line(line) => frames.push(String::from_utf8_lossy(line).into_owned()),
                other => frames.push(format!("{other:?}")),
            }
            assert!(end - start <= limit + 1 + step, "held back more than a line");
        }
        frames
    }

    #[test]
    fn lines() {
        const CASES: &[(&[u8], &[&str])] = &[
            (b"", &[]),
            (b"NOOP\r\n", &["NOOP"]),
            (b"a\r\nb\r\n\r\nc", &["a", "b", ""]),
            (b"a\nb\r\n", &["BareLf", "b"]),
            (b"a\rb\r\n", &["a\rb"]),
            (b"a\r\r\n", &["a\r"]),
            (b"12345678\r\n", &["12345678"]),
            (b"123456789\r\nx\r\n", &["TooLong", "x"]),
            (b"1234567890123456789012345\r\nx\r\n", &["TooLong", "x"]),
            (b"1234567890123456789012345\nx\r\n", &["TooLong", "x"]),
            (b"1234567890\nx\r\n", &["TooLong", "x"]),
            (b"123456789\nx\r\n", &["BareLf", "x"]),
        ];
        for (input, expected) in CASES {
            for step in 1..=input.len().max(1) {
                let found = frames(input, 8, step);
                assert_eq!(found, *expected, "{:?} by {step}", String::from_utf8_lossy(input));
            }
        }
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut framer = LineFramer::new(8);
        let block = [b'x'; 65536];
        let mut blocks = 0;
        while framer.next(&block) == (block.len(), Frame::Incomplete) {
            blocks += 1;
        }
        assert_eq!(blocks, SKIP_MAX / block.len());
    }
}
