//! The text after DATA: finds its end, removes the stuffed dots (RFC 5321 4.5.2), and checks that
//! only CRLF ends a line (RFC 5321 2.3.8).
//!
//! The session passes it the connection's input; it returns ranges of that input, cut only where a
//! dot was stuffed. It searches for CR and LF with memchr and examines no other octet but the first
//! of a line. Input may be cut anywhere: the only state is its position in the line.
//!
//! **Smuggling.** A server that takes `<LF>.<LF>` or similar for the end of a message lets a sender
//! hide a second message inside the first. Here only `<CRLF>.<CRLF>` is the end. A bare CR or LF
//! either makes the message unacceptable ([`BareNewline::Refuse`]) or counts as a CRLF that can
//! never begin an end ([`BareNewline::Normalise`]). A lone dot between other line ends, which
//! another server might have taken for the end, is reported as [`Piece::AmbiguousEnd`] when
//! refusing, so that the session can close instead of reading a hidden message.

use memchr::memchr2;

/// What to do about CR or LF that is not part of CRLF.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum BareNewline {
    #[default]
    Refuse,
    Normalise,
}

/// The result of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// Octets of the message; never empty.
    Content(&'a [u8]),
    /// More input is needed.
    Incomplete,
    /// `<CRLF>.<CRLF>` was found: the message is complete.
    End,
    /// A lone dot on a line whose ends are not both CRLF. Only when refusing.
    AmbiguousEnd,
}

/// The position in a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Start,
    Inside,
    /// After a CR inside a line.
    Cr,
    /// After a dot that began a line.
    Dot,
    /// After a dot that began a line, and a CR.
    DotCr,
}

/// Reads one message. Create a new one for each.
#[derive(Clone, Debug)]
pub struct DataReader {
    place: Place,
    /// The previous line ended in CRLF, so a dot here was stuffed.
    clean: bool,
    policy: BareNewline,
    bare_newline: bool,
    /// Octets of the current line so far.
    line_len: usize,
    longest_line: usize,
}

/// The decision of one step inside a piece.
enum Turn<'a> {
    Continue,
    Return(Piece<'a>),
}

impl DataReader {
    pub fn new(policy: BareNewline) -> DataReader {
        DataReader {
            place: Place::Start,
            clean: true,
            policy,
            bare_newline: false,
            line_len: 0,
            longest_line: 0,
        }
    }

    /// Whether a bare CR or LF was seen: the message must be refused, unless normalised.
    pub fn saw_bare_newline(&self) -> bool {
        self.bare_newline
    }

    /// Octets of the longest line ended so far, CRLF not counted.
    pub fn longest_line(&self) -> usize {
        self.longest_line.max(self.line_len)
    }

    /// Takes a piece from `input`. The first value is the number of processed octets.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> (usize, Piece<'a>) {
        let mut cut = Cut { input, start: 0, at: 0 };
        loop {
            let turn = match self.place {
                Place::Start => self.at_start(&mut cut),
                Place::Inside => self.inside(&mut cut),
                Place::Cr => self.after_cr(&mut cut),
                Place::Dot => self.after_dot(&mut cut),
                Place::DotCr => self.after_dot_cr(&mut cut),
            };
            if let Turn::Return(piece) = turn {
                return (cut.at, piece);
            }
        }
    }

    fn at_start<'a>(&mut self, cut: &mut Cut<'a>) -> Turn<'a> {
        match cut.peek() {
            None => Turn::Return(cut.content()),
            // The text before it is returned first, so that a dot is only ever the first of a
            // piece.
            Some(b'.') if cut.at > cut.start => Turn::Return(cut.content()),
            Some(b'.') => {
                cut.drop_one();
                self.place = Place::Dot;
                Turn::Continue
            }
            Some(_) => {
                self.place = Place::Inside;
                Turn::Continue
            }
        }
    }

    fn inside<'a>(&mut self, cut: &mut Cut<'a>) -> Turn<'a> {
        let rest = &cut.input[cut.at..];
        let Some(offset) = memchr2(b'\r', b'\n', rest) else {
            self.line_len = self.line_len.saturating_add(rest.len());
            cut.at = cut.input.len();
            return Turn::Return(cut.content());
        };
        self.line_len = self.line_len.saturating_add(offset);
        cut.at += offset;
        if rest[offset..].starts_with(b"\r\n") {
            cut.at += 2;
            self.end_line(true);
            return Turn::Continue;
        }
        // Rare from here on. The text before the line end is returned first, because the line end
        // may have to be replaced.
        if cut.at > cut.start {
            return Turn::Return(cut.content());
        }
        cut.drop_one();
        if rest[offset] == b'\r' {
            self.place = Place::Cr;
            return Turn::Continue;
        }
        Turn::Return(self.bare_newline())
    }

    /// The CR is consumed but not returned yet.
    fn after_cr<'a>(&mut self, cut: &mut Cut<'a>) -> Turn<'a> {
        match cut.peek() {
            None => Turn::Return(Piece::Incomplete),
            Some(b'\n') => {
                cut.drop_one();
                self.end_line(true);
                Turn::Return(Piece::Content(b"\r\n"))
            }
            Some(_) => Turn::Return(self.bare_newline()),
        }
    }

    /// A bare CR or LF, already consumed: one line end, if it counts at all.
    fn bare_newline(&mut self) -> Piece<'static> {
        self.bare_newline = true;
        self.end_line(false);
        Piece::Content(b"\r\n")
    }

    /// The dot is consumed but not returned yet.
    fn after_dot<'a>(&mut self, cut: &mut Cut<'a>) -> Turn<'a> {
        match cut.peek() {
            None => Turn::Return(Piece::Incomplete),
            Some(b'\r') => {
                cut.drop_one();
                self.place = Place::DotCr;
                Turn::Continue
            }
            Some(b'\n') => {
                cut.drop_one();
                self.ambiguous(false)
            }
            Some(_) => {
                self.place = Place::Inside;
                // After a normalised line end the dot belongs to the message.
                if self.clean { Turn::Continue } else { Turn::Return(Piece::Content(b".")) }
            }
        }
    }

    fn after_dot_cr<'a>(&mut self, cut: &mut Cut<'a>) -> Turn<'a> {
        match cut.peek() {
            None => Turn::Return(Piece::Incomplete),
            Some(b'\n') => {
                cut.drop_one();
                if self.clean { Turn::Return(Piece::End) } else { self.ambiguous(true) }
            }
            Some(_) => self.ambiguous(false),
        }
    }

    /// A line with only a dot that does not end the message; its octets are consumed.
    fn ambiguous<'a>(&mut self, clean: bool) -> Turn<'a> {
        self.bare_newline = true;
        self.end_line(clean);
        match self.policy {
            BareNewline::Refuse => Turn::Return(Piece::AmbiguousEnd),
            BareNewline::Normalise => Turn::Return(Piece::Content(b".\r\n")),
        }
    }

    fn end_line(&mut self, clean: bool) {
        self.longest_line = self.longest_line.max(self.line_len);
        self.line_len = 0;
        self.clean = clean;
        self.place = Place::Start;
    }
}

/// `input[start..at]` is content found but not returned yet.
struct Cut<'a> {
    input: &'a [u8],
    start: usize,
    at: usize,
}

impl<'a> Cut<'a> {
    fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    fn content(&self) -> Piece<'a> {
        match &self.input[self.start..self.at] {
            [] => Piece::Incomplete,
            content => Piece::Content(content),
        }
    }

    /// Skips an octet that is not content. There must be no content before it.
    fn drop_one(&mut self) {
        debug_assert_eq!(self.start, self.at);
        self.at += 1;
        self.start = self.at;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The result of reading a message.
    #[derive(PartialEq, Eq, Debug)]
    struct Outcome {
        content: Vec<u8>,
        /// `None` without an end.
        end: Option<End>,
        /// Octets left over after the end.
        rest: usize,
        bare_newline: bool,
    }

    #[derive(PartialEq, Eq, Debug)]
    enum End {
        Whole,
        Ambiguous,
    }

    fn read(input: &[u8], policy: BareNewline, cuts: &[usize]) -> Outcome {
        let mut reader = DataReader::new(policy);
        let mut content = Vec::new();
        let mut start = 0;
        let mut ends = cuts.iter().copied().chain([input.len()]);
        let mut end = ends.next().unwrap_or_default();
        loop {
            let (consumed, piece) = reader.next(&input[start..end]);
            start += consumed;
            let found = match piece {
                Piece::Content(bytes) => {
                    content.extend_from_slice(bytes);
                    continue;
                }
                Piece::Incomplete => match ends.next() {
                    Some(next) => {
                        assert_eq!(start, end, "octets held back");
                        end = next;
                        continue;
                    }
                    None => None,
                },
                Piece::End => Some(End::Whole),
                Piece::AmbiguousEnd => Some(End::Ambiguous),
            };
            let (rest, bare_newline) = (input.len() - start, reader.saw_bare_newline());
            return Outcome { content, end: found, rest, bare_newline };
        }
    }

    fn check(input: &[u8], policy: BareNewline, content: &[u8], end: Option<End>, bare: bool) {
        let whole = read(input, policy, &[]);
        let name = String::from_utf8_lossy(input);
        if end != Some(End::Ambiguous) && !(bare && policy == BareNewline::Refuse) {
            assert_eq!(whole.content, content, "{name:?} {policy:?}");
        }
        assert_eq!(whole.end, end, "{name:?} {policy:?}");
        assert_eq!(whole.bare_newline, bare, "{name:?} {policy:?}");
        for cut in 0..=input.len() {
            assert_eq!(read(input, policy, &[cut]), whole, "{name:?} {policy:?} cut at {cut}");
        }
        let every: Vec<usize> = (0..input.len()).collect();
        assert_eq!(read(input, policy, &every), whole, "{name:?} {policy:?} octet by octet");
    }

    #[test]
    fn messages() {
        const CASES: &[(&[u8], &[u8])] = &[
            (b".\r\n", b""),
            (b"\r\n.\r\n", b"\r\n"),
            (b"a\r\n.\r\n", b"a\r\n"),
            (b"a\r\n..\r\n.\r\n", b"a\r\n.\r\n"),
            (b"..\r\n.\r\n", b".\r\n"),
            (b".a\r\n.\r\n", b"a\r\n"),
            (b"...a\r\n.\r\n", b"..a\r\n"),
            (b"a.\r\n.b.\r\n.\r\n", b"a.\r\nb.\r\n"),
            (b"\0\xff\r\n.\r\n", b"\0\xff\r\n"),
        ];
        for (input, content) in CASES {
            for policy in [BareNewline::Refuse, BareNewline::Normalise] {
                check(input, policy, content, Some(End::Whole), false);
                let open = &input[..input.len() - 1];
                check(open, policy, content, None, false);
            }
        }
        let pipelined = read(b"a\r\n.\r\nQUIT\r\n", BareNewline::Refuse, &[]);
        assert_eq!((pipelined.content.as_slice(), pipelined.rest), (&b"a\r\n"[..], 6));
    }

    #[test]
    fn smuggling() {
        use BareNewline::{Normalise, Refuse};
        /// Input, its end when refusing, and the normalised text.
        const CASES: &[(&[u8], Option<End>, &[u8])] = &[
            (b"a\nb\r\n.\r\n", Some(End::Whole), b"a\r\nb\r\n"),
            (b"a\rb\r\n.\r\n", Some(End::Whole), b"a\r\nb\r\n"),
            (b"a\r\r\n.\r\n", Some(End::Whole), b"a\r\n\r\n"),
            (b"a\n\r\n.\r\n", Some(End::Whole), b"a\r\n\r\n"),
            (b"a\n.b\r\n.\r\n", Some(End::Whole), b"a\r\n.b\r\n"),
            (b"a\n.\nb\r\n.\r\n", Some(End::Ambiguous), b"a\r\n.\r\nb\r\n"),
            (b"a\n.\r\nb\r\n.\r\n", Some(End::Ambiguous), b"a\r\n.\r\nb\r\n"),
            (b"a\r\n.\nb\r\n.\r\n", Some(End::Ambiguous), b"a\r\n.\r\nb\r\n"),
            (b"a\r.\rb\r\n.\r\n", Some(End::Ambiguous), b"a\r\n.\r\nb\r\n"),
            (b"a\r.\r\nb\r\n.\r\n", Some(End::Ambiguous), b"a\r\n.\r\nb\r\n"),
            (b"a\r\n.\rb\r\n.\r\n", Some(End::Ambiguous), b"a\r\n.\r\nb\r\n"),
            (b"a\n\n.\n\n.\r\n.\r\n", Some(End::Ambiguous), b"a\r\n\r\n.\r\n\r\n.\r\n"),
        ];
        for (input, refused, normalised) in CASES {
            let name = String::from_utf8_lossy(input);
            let outcome = read(input, Refuse, &[]);
            assert!(outcome.bare_newline, "{name:?}");
            assert_eq!(outcome.end, *refused, "{name:?}");
            check(input, Normalise, normalised, Some(End::Whole), true);
        }
    }

    #[test]
    fn longest_line() {
        let mut reader = DataReader::new(BareNewline::Refuse);
        let (_, piece) = reader.next(b"abc\r\nabcdef\r\nab");
        assert_eq!(piece, Piece::Content(b"abc\r\nabcdef\r\nab"));
        assert_eq!(reader.longest_line(), 6);
        reader.next(b"cdefg");
        assert_eq!(reader.longest_line(), 7);
    }

    /// The obvious way of unstuffing, for well-formed text.
    fn model(text: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        for line in text.split_inclusive(|&octet| octet == b'\n') {
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        content
    }

    proptest! {
        #[test]
        fn same_however_cut(
            input in proptest::collection::vec(
                proptest::sample::select(b"\r\n.x".to_vec()), 0..40),
            cuts in proptest::collection::vec(0usize..40, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut <= input.len()).collect();
            cuts.sort_unstable();
            for policy in [BareNewline::Refuse, BareNewline::Normalise] {
                prop_assert_eq!(read(&input, policy, &cuts), read(&input, policy, &[]));
            }
        }

        #[test]
        fn normalised_text_has_crlf_only(
            input in proptest::collection::vec(
                proptest::sample::select(b"\r\n.x".to_vec()), 0..40),
        ) {
            let content = read(&input, BareNewline::Normalise, &[]).content;
            let text = String::from_utf8(content).expect("ASCII").replace("\r\n", "");
            prop_assert!(!text.contains(['\r', '\n']));
        }

        #[test]
        fn unstuffs_like_the_model(lines in proptest::collection::vec("[.a]{0,4}", 0..8)) {
            let text: String = lines.iter().filter(|line| *line != ".")
                .map(|line| format!("{line}\r\n")).collect();
            let whole = format!("{text}.\r\n");
            let outcome = read(whole.as_bytes(), BareNewline::Refuse, &[]);
            prop_assert_eq!(outcome.content, model(text.as_bytes()));
            prop_assert_eq!(outcome.end, Some(End::Whole));
            prop_assert!(!outcome.bare_newline);
        }
    }
}
