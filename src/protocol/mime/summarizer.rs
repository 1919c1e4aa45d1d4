//! Derives a [`Summary`] from a message's bytes as they pass.
//!
//! SMTP, LMTP and IMAP APPEND feed one per message, chunk by chunk, on the shard that receives it.
//! It is on the hot path: a body costs one SIMD pass to count lines, and inside a multipart one
//! more to find `LF--`; a header is parsed once, in the caller's chunk if it is completely there.
//!
//! Invariants: the summary depends only on the bytes, never on the chunk boundaries; of bodies only
//! the first words are kept; memory stays below [`HEADER_SIZE_MAX`] + [`TEXT_SIZE_MAX`] + a fixed
//! amount per part, of which there are at most [`PARTS_MAX`].
//!
//! ```text
//!            blank line                   LF, watching, '-' next
//!  Header ───────────────► Body ─────────────────────────────────► Candidate
//!    ▲ ▲                    ▲  ▲──────── no delimiter, or a close ────┘ │ │
//!    │ └──── no delimiter ──┼──────────────────────────────────────────-┘ │
//!    └───── LF ──────── DelimiterTail ◄──────────── a part begins ────────┘
//! ```

use std::sync::LazyLock;

use memchr::{memchr, memchr_iter, memmem};

use super::{
    describe::{Description, TEXT_SIZE_MAX, describe},
    preview::{PreviewReader, part_shown},
    summary::{DEPTH_MAX, PARTS_MAX, Part, PartKind, Record, Summary},
};

/// Octets kept of one header block; later fields are ignored.
pub(super) const HEADER_SIZE_MAX: usize = 256 * 1024;
/// Memory of one part's header that is reused for the next.
const HEADER_KEPT_MAX: usize = 8 * 1024;
/// Octets of a boundary. RFC 2046 5.1.1 allows 70, a line has room for this many; a longer one
/// never matches.
pub(super) const BOUNDARY_SIZE_MAX: usize = 998;
/// Octets of a line needed to decide whether it is a delimiter: `--`, boundary, `--`, some padding.
const CANDIDATE_SIZE_MAX: usize = BOUNDARY_SIZE_MAX + 16;

const _: () = assert!(TEXT_SIZE_MAX < u32::MAX as usize);

/// The only possible start of a delimiter line, with the line end before it.
static DELIMITER_START: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new(b"\n--"));

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// In the header of the innermost open part.
    Header,
    /// In its body, or in the preamble or epilogue of a multipart.
    Body,
    /// In a line that may be a delimiter; then back to Header or Body.
    Candidate { in_header: bool },
    /// After a delimiter; the next part begins on the next line.
    DelimiterTail,
}

/// A part that has begun and not ended, outermost first.
#[derive(Debug)]
struct OpenPart {
    /// Index in `records`.
    index: usize,
    /// The boundary of a multipart until its close delimiter, if it can match at all; otherwise
    /// empty.
    boundary: Vec<u8>,
    /// Parts inside are message/rfc822 by default (RFC 2046 5.1.5).
    digest: bool,
    /// Line ends of the message up to the part's body.
    lines_before: u64,
}

impl OpenPart {
    /// Whether `line`, after its `--`, begins with the part's boundary.
    fn is_bounded_by(&self, line: &[u8]) -> bool {
        !self.boundary.is_empty() && line.starts_with(&self.boundary)
    }
}

/// Takes a message in chunks of any size; of bodies it keeps the first words alone.
#[derive(Debug)]
pub struct Summarizer {
    state: State,
    /// Octets taken.
    offset: u64,
    /// Line ends (LF) taken.
    lines: u64,
    /// The last two octets taken, newest last.
    newest: [u8; 2],
    /// Octets of the current line taken; exact in headers, elsewhere only zero or not.
    line_size: u64,
    /// The start of a header that is not within one chunk.
    header: Vec<u8>,
    /// The possible delimiter line, without its LF.
    candidate: Vec<u8>,
    /// Octets of the line end before the candidate: 1 or 2.
    line_end_size: u64,
    /// Open parts with a boundary.
    boundaries: usize,
    open: Vec<OpenPart>,
    /// The best text until now for the first words.
    shown: Option<Shown>,
    summary: Summary,
}

/// A part's first words.
#[derive(Debug)]
struct Shown {
    /// Where its body begins.
    start: u64,
    reader: PreviewReader,
    /// Whether the octets that pass are the part's.
    is_open: bool,
    /// It is the body of a multipart, and counts only if there are no parts in it.
    is_multipart: bool,
}

impl Default for Summarizer {
    fn default() -> Summarizer {
        let mut summarizer = Summarizer {
            state: State::Header,
            offset: 0,
            lines: 0,
            newest: [0; 2],
            line_size: 0,
            header: Vec::new(),
            candidate: Vec::new(),
            line_end_size: 0,
            boundaries: 0,
            open: Vec::new(),
            shown: None,
            summary: Summary::empty(),
        };
        summarizer.open_part();
        summarizer
    }
}

impl Summarizer {
    pub fn new() -> Summarizer {
        Summarizer::default()
    }

    /// Octets taken.
    pub fn size(&self) -> u64 {
        self.offset
    }

    /// Bytes of memory held beside the summarizer itself, used or not.
    pub fn memory(&self) -> usize {
        self.header.capacity()
            + self.candidate.capacity()
            + self.boundaries * BOUNDARY_SIZE_MAX
            + self.open.capacity() * size_of::<OpenPart>()
            + self.shown.as_ref().map_or(0, |shown| shown.reader.memory())
            + self.summary.memory()
    }

    /// The next bytes of the message as stored.
    pub fn push(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let taken = match self.state {
                State::Header => self.take_header(rest),
                State::Body => self.take_body(rest),
                State::Candidate { in_header } => self.take_candidate(rest, in_header),
                State::DelimiterTail => self.take_delimiter_tail(rest),
            };
            rest = &rest[taken..];
        }
    }

    /// Ends the message here, complete or not.
    pub fn finish(mut self) -> Summary {
        self.end()
    }

    /// Ends the message here. Nothing may be pushed afterwards.
    pub fn end(&mut self) -> Summary {
        if let State::Candidate { in_header } = self.state {
            self.decide_candidate(in_header);
        }
        self.close_parts(0, self.offset, self.lines);
        self.summary.size = self.offset;
        self.summary.preview = match (part_shown(&self.summary), self.shown.take()) {
            (None, _) => Some(String::new()),
            (Some(part), Some(shown)) if shown.start == part.body().start => {
                Some(shown.reader.finish())
            }
            // A part that did not look like the one: who asks reads it.
            _ => None,
        };
        std::mem::replace(&mut self.summary, Summary::spent())
    }

    /// Marks `bytes` as taken; the caller counts line ends.
    fn advance(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        match *bytes {
            [] => {}
            [only] => self.newest = [self.newest[1], only],
            [.., before, last] => self.newest = [before, last],
        }
    }

    fn take_header(&mut self, chunk: &[u8]) -> usize {
        let mut line_start = 0;
        loop {
            let rest = &chunk[line_start..];
            if self.line_size == 0 && self.boundaries > 0 && rest.first() == Some(&b'-') {
                self.keep_header(&chunk[..line_start]);
                self.begin_candidate(true);
                return line_start;
            }
            let Some(length) = memchr(b'\n', rest) else {
                self.line_size += rest.len() as u64;
                self.keep_header(chunk);
                return chunk.len();
            };
            let end = line_start + length + 1;
            self.lines += 1;
            let line_size = self.line_size + length as u64;
            let before = if end >= 2 { chunk[end - 2] } else { self.newest[1] };
            self.line_size = 0;
            if line_size == 0 || line_size == 1 && before == b'\r' {
                self.end_header(&chunk[..end]);
                return end;
            }
            line_start = end;
            if line_start == chunk.len() {
                self.keep_header(chunk);
                return chunk.len();
            }
        }
    }

    fn keep_header(&mut self, bytes: &[u8]) {
        self.advance(bytes);
        let room = HEADER_SIZE_MAX - self.header.len();
        let kept = &bytes[..bytes.len().min(room)];
        let needed = self.header.len() + kept.len();
        if needed > self.header.capacity() {
            let capacity = needed.max((2 * self.header.capacity()).min(HEADER_SIZE_MAX));
            self.header.reserve_exact(capacity - self.header.len());
        }
        self.header.extend_from_slice(kept);
    }

    /// The blank line was found: `bytes` are the header's last.
    fn end_header(&mut self, bytes: &[u8]) {
        if self.header.is_empty() && bytes.len() <= HEADER_SIZE_MAX {
            self.advance(bytes);
            self.begin_body(bytes, self.offset, self.lines);
        } else {
            self.keep_header(bytes);
            let mut header = std::mem::take(&mut self.header);
            self.begin_body(&header, self.offset, self.lines);
            header.clear();
            if header.capacity() <= HEADER_KEPT_MAX {
                self.header = header; // its room serves the next part
            }
        }
    }

    fn take_body(&mut self, chunk: &[u8]) -> usize {
        if self.boundaries == 0 {
            self.lines += memchr_iter(b'\n', chunk).count() as u64;
            self.advance(chunk);
            self.show(chunk);
            return chunk.len();
        }
        if self.line_size == 0 && chunk[0] == b'-' {
            self.begin_candidate(false);
            return 0;
        }
        let line_start = self.next_candidate(chunk);
        self.line_size = u64::from(line_start.is_none());
        let taken = &chunk[..line_start.unwrap_or(chunk.len())];
        self.lines += memchr_iter(b'\n', taken).count() as u64;
        self.advance(taken);
        // With the line end before a delimiter, which is white space.
        self.show(taken);
        taken.len()
    }

    /// Passes octets of a body on to the first words.
    fn show(&mut self, bytes: &[u8]) {
        if let Some(shown) = self.shown.as_mut().filter(|shown| shown.is_open) {
            shown.reader.push(bytes);
        }
    }

    /// The body of the innermost part begins: it may be what is shown of the message.
    fn begin_shown(&mut self) {
        let Some(innermost) = self.open.last() else { return };
        let part = Part { summary: &self.summary, index: innermost.index };
        let is_multipart = part.kind() == PartKind::Multipart;
        let is = |of_type: &[u8]| part.media_subtype().eq_ignore_ascii_case(of_type);
        let is_text =
            part.kind() == PartKind::Leaf && part.media_type().eq_ignore_ascii_case(b"text");
        let is_plain = is_multipart || is_text && is(b"plain");
        let is_better = match &self.shown {
            None => is_plain || is_text && is(b"html"),
            Some(shown) => shown.reader.is_html() && is_plain,
        };
        let is_hidden = |open: &OpenPart| {
            let part = Part { summary: &self.summary, index: open.index };
            part.kind() == PartKind::Message
                || part.disposition().is_some_and(|it| it.eq_ignore_ascii_case(b"attachment"))
        };
        if is_better && !self.open.iter().any(is_hidden) {
            let (start, reader) = (part.body().start, PreviewReader::of(part));
            self.shown = Some(Shown { start, reader, is_open: true, is_multipart });
        }
    }

    /// The multipart at `depth` has a delimiter, so that it is not shown itself.
    fn divide_shown(&mut self, depth: usize) {
        let Some(part) = self.open.get(depth) else { return };
        let start = self.summary.records[part.index].body_start;
        if self.shown.as_ref().is_some_and(|it| it.is_multipart && it.start == start) {
            self.shown = None;
        }
    }

    /// Where a line begins that may be a delimiter, or that needs the next chunk to decide.
    fn next_candidate(&self, chunk: &[u8]) -> Option<usize> {
        let mut from = 0;
        while let Some(at) = DELIMITER_START.find(&chunk[from..]) {
            let line_start = from + at + 1;
            let rest = &chunk[line_start + 2..];
            let is_told_here = rest.len() >= BOUNDARY_SIZE_MAX;
            if !is_told_here || self.open.iter().any(|part| part.is_bounded_by(rest)) {
                return Some(line_start);
            }
            from = line_start + 2;
        }
        match chunk {
            [.., b'\n', b'-'] => Some(chunk.len() - 1),
            [.., b'\n'] => Some(chunk.len()),
            _ => None,
        }
    }

    fn begin_candidate(&mut self, in_header: bool) {
        self.candidate.clear();
        self.line_end_size = if self.newest == *b"\r\n" { 2 } else { 1 };
        self.state = State::Candidate { in_header };
    }

    fn take_candidate(&mut self, chunk: &[u8], in_header: bool) -> usize {
        let room = CANDIDATE_SIZE_MAX - self.candidate.len();
        let within = &chunk[..chunk.len().min(room)];
        let line_end = memchr(b'\n', within);
        let taken = &within[..line_end.unwrap_or(within.len())];
        self.candidate.extend_from_slice(taken);
        self.advance(taken);
        if line_end.is_some() || self.candidate.len() == CANDIDATE_SIZE_MAX {
            self.decide_candidate(in_header);
        }
        taken.len()
    }

    /// The candidate is either a delimiter, or its bytes belong to the part that it is in. The LF
    /// has not been taken yet.
    fn decide_candidate(&mut self, in_header: bool) {
        let candidate = std::mem::take(&mut self.candidate);
        match self.delimiter(&candidate) {
            Some((depth, false)) if self.summary.records.len() < PARTS_MAX => {
                self.end_parts_before(&candidate, depth);
                self.state = State::DelimiterTail;
            }
            Some((depth, true)) => {
                self.end_parts_before(&candidate, depth);
                self.open[depth].boundary = Vec::new();
                self.boundaries -= 1;
                self.line_size = candidate.len() as u64;
            }
            _ => {
                self.line_size = candidate.len() as u64;
                self.state = if in_header { State::Header } else { State::Body };
                if !in_header {
                    self.show(&candidate);
                } else {
                    let room = HEADER_SIZE_MAX - self.header.len();
                    self.header.extend_from_slice(&candidate[..candidate.len().min(room)]);
                }
            }
        }
        self.candidate = candidate;
    }

    /// The open part whose delimiter the line is, and whether it closes the part. An exact match
    /// wins over a line that only begins with the boundary (RFC 2046 5.1.1 allows both), since one
    /// boundary may be a prefix of another; then the longer boundary, then the inner part.
    fn delimiter(&self, line: &[u8]) -> Option<(usize, bool)> {
        let line = line.strip_prefix(b"--")?;
        let mut best: Option<(usize, bool)> = None;
        for (depth, part) in self.open.iter().enumerate().rev() {
            if !part.is_bounded_by(line) {
                continue;
            }
            let tail = line[part.boundary.len()..].trim_ascii_end();
            if tail.is_empty() || tail == b"--" {
                return Some((depth, !tail.is_empty()));
            }
            let longer = |other: usize| part.boundary.len() > self.open[other].boundary.len();
            if best.is_none_or(|(other, _)| longer(other)) {
                best = Some((depth, tail.starts_with(b"--")));
            }
        }
        best
    }

    /// Ends the parts inside the multipart at `depth`; the line end before the delimiter belongs to
    /// the delimiter (RFC 2046 5.1.1).
    fn end_parts_before(&mut self, delimiter: &[u8], depth: usize) {
        self.divide_shown(depth);
        let end = self.offset - delimiter.len() as u64 - self.line_end_size;
        self.close_parts(depth + 1, end, self.lines - 1);
    }

    fn take_delimiter_tail(&mut self, chunk: &[u8]) -> usize {
        let Some(length) = memchr(b'\n', chunk) else {
            self.advance(chunk);
            return chunk.len();
        };
        self.lines += 1;
        self.advance(&chunk[..=length]);
        self.open_part();
        length + 1
    }

    /// A part's header begins here.
    fn open_part(&mut self) {
        self.open.push(OpenPart {
            index: self.summary.records.len(),
            boundary: Vec::new(),
            digest: false,
            lines_before: 0,
        });
        self.summary.records.push(Record {
            kind: PartKind::Leaf,
            present: 0,
            first_text: 0,
            header_start: self.offset,
            body_start: self.offset,
            body_end: self.offset,
            lines: 0,
            descendants: 0,
        });
        self.state = State::Header;
        self.line_size = 0;
    }

    /// The innermost part's `header` is complete; its body begins at `start`.
    fn begin_body(&mut self, header: &[u8], start: u64, lines_before: u64) {
        let depth = self.open.len() - 1;
        let outer = depth.checked_sub(1).map(|outer| &self.open[outer]);
        let description = Description {
            // The root of a message: the message itself, or what a message/rfc822 part holds.
            of_message: outer
                .is_none_or(|outer| self.summary.records[outer.index].kind == PartKind::Message),
            in_digest: outer.is_some_and(|outer| outer.digest),
            // The last part takes everything that follows, the deepest everything inside it.
            opaque: self.summary.records.len() >= PARTS_MAX || depth >= DEPTH_MAX,
        };
        let Some(part) = self.open.last_mut() else { return };
        part.lines_before = lines_before;
        let found = describe(header, description, &mut self.summary, part.index);
        self.summary.records[part.index].body_start = start;
        self.state = State::Body;
        self.line_size = 0;
        match found.kind {
            PartKind::Leaf => self.begin_shown(),
            PartKind::Multipart => {
                part.boundary = found.boundary;
                part.digest = found.digest;
                self.boundaries += usize::from(!part.boundary.is_empty());
                self.begin_shown();
            }
            PartKind::Message => {
                self.open_part();
                let index = self.summary.records.len() - 1;
                self.summary.records[index].header_start = start;
            }
        }
    }

    /// Ends the open parts from `depth` on: their bodies stop at `end`, where the message had
    /// `lines` line ends.
    fn close_parts(&mut self, depth: usize, end: u64, lines: u64) {
        // A header without its blank line is the whole part; opening the message of a
        // message/rfc822 part leads to one more such header.
        while self.open.len() > depth
            && let Some(part) = self.open.last()
            && matches!(self.state, State::Header | State::Candidate { in_header: true })
        {
            let start = end.max(self.summary.records[part.index].header_start);
            let header = std::mem::take(&mut self.header);
            self.begin_body(&header, start, lines);
        }
        self.state = State::Body;
        if let Some(shown) = &mut self.shown {
            shown.is_open = false;
        }
        let Some(innermost) = self.open.last() else { return };
        // Without a body in between, the line end before the delimiter belongs to the header.
        let body_start = self.summary.records[innermost.index].body_start;
        let (end, lines) =
            if body_start > end { (body_start, innermost.lines_before) } else { (end, lines) };
        let count = self.summary.records.len();
        for part in self.open.drain(depth.min(self.open.len())..) {
            let record = &mut self.summary.records[part.index];
            record.body_end = end;
            record.lines = lines.saturating_sub(part.lines_before);
            record.descendants = (count - 1 - part.index) as u32;
            self.boundaries -= usize::from(!part.boundary.is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Preview, *};

    /// Boundaries as RFC 2231 writes them, and far beyond the 70 octets of RFC 2046 5.1.1.
    #[test]
    fn unusual_boundaries() {
        let long = "b".repeat(900);
        let cases = [
            ("boundary*=us-ascii'en'a%2Db", "a-b"),
            ("boundary*0=a; boundary*1=b", "ab"),
            ("boundary*0*=''a%2D; boundary*1=b", "a-b"),
            (&format!("boundary={long}"), long.as_str()),
        ];
        for (parameter, boundary) in cases {
            let message = format!(
                "Content-Type: multipart/mixed; {parameter}\r\n\r\n--{boundary}\r\n\r\none\r\n\
                 --{boundary}\r\n\r\ntwo\r\n--{boundary}--\r\n"
            );
            let mut summarizer = Summarizer::new();
            summarizer.push(message.as_bytes());
            let summary = summarizer.finish();
            assert_eq!(summary.root().children().count(), 2, "{parameter}");
        }
    }

    /// A boundary that is too long for any line never matches, not even in a longer line: no part
    /// is invented, and no end is missed.
    #[test]
    fn boundaries_beyond_the_limit() {
        for (size, parts) in [(998, 2), (999, 0), (1_200, 0)] {
            let boundary = "b".repeat(size);
            let message = format!(
                "Content-Type: multipart/mixed; boundary={boundary}\r\n\r\n--{boundary}\r\n\r\n\
                 one\r\n--{boundary}\r\n\r\ntwo\r\n--{boundary}--\r\n"
            );
            let summary = summarize([message.as_bytes()]);
            assert_eq!(summary.root().children().count(), parts, "{size}");
            assert_eq!(summary.root().is_undelimited(), parts == 0, "{size}");
            assert_eq!(summary.root().body().end, message.len() as u64);
            for pieces in [1, 7, 500] {
                assert_eq!(summarize(message.as_bytes().chunks(pieces)), summary);
            }
            assert_eq!(Summary::decode(&summary.encode()), Ok(summary));
        }
        // The enclosing multipart goes on.
        let (inner, outer) = ("i".repeat(999), "--o\r\n\r\none\r\n--o--\r\n");
        let message = format!(
            "Content-Type: multipart/mixed; boundary=o\r\n\r\n\
             --o\r\nContent-Type: multipart/mixed; boundary={inner}\r\n\r\ntwo\r\n{outer}"
        );
        let summary = summarize([message.as_bytes()]);
        let sizes: Vec<u64> = summary.root().children().map(Part::size).collect();
        assert_eq!(sizes, [3, 3]);
    }

    fn summarize<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Summary {
        let mut summarizer = Summarizer::new();
        let mut message = Vec::new();
        for chunk in chunks {
            summarizer.push(chunk);
            message.extend_from_slice(chunk);
        }
        let summary = summarizer.finish();
        check_preview(&summary, &message);
        summary
    }

    /// The first words are those that are read from the message, and few are left to be read.
    fn check_preview(summary: &Summary, message: &[u8]) {
        let Some(told) = summary.preview() else { return };
        let read = Preview::of(summary).map_or_else(String::new, |preview| {
            let range = preview.range.start as usize..preview.range.end as usize;
            preview.text(&message[range])
        });
        assert_eq!(told, read, "{}", message.escape_ascii());
    }

    /// The tree on one line: `type/subtype:lines"body"` and children in parentheses.
    fn tell(part: Part<'_>, message: &[u8]) -> String {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let mut out = format!("{}/{}", text(part.media_type()), text(part.media_subtype()));
        let children: Vec<Part<'_>> = part.children().chain(part.message()).collect();
        if children.is_empty() {
            let body = &message[part.body().start as usize..part.body().end as usize];
            out += &format!(":{}\"{}\"", part.lines(), text(body));
        }
        if part.kind() != PartKind::Leaf {
            let children: Vec<String> = children.iter().map(|part| tell(*part, message)).collect();
            out += &format!(":{}({})", part.lines(), children.join(" "));
        }
        out
    }

    /// Whole, in pieces of every size, and cut in two at every octet.
    fn check(message: &[u8], expected: &str) {
        let whole = summarize([message]);
        assert_eq!(tell(whole.root(), message), expected, "{}", message.escape_ascii());
        for size in 1..message.len().min(40) {
            assert_eq!(summarize(message.chunks(size)), whole, "pieces of {size}");
        }
        for cut in 0..message.len() {
            assert_eq!(summarize([&message[..cut], &message[cut..]]), whole, "cut at {cut}");
        }
    }

    const MIXED: &str = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";

    /// Message after `MIXED`, tree.
    const MIXED_CASES: &[(&str, &str)] = &[
        ("", "multipart/mixed:0\"\":0()"),
        ("--b\r\n\r\none\r\n--b--\r\n", "multipart/mixed:4(text/plain:0\"one\")"),
        (
            "preamble\r\n--b\r\n\r\none\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>\r\n\
             --b--\r\nepilogue",
            "multipart/mixed:10(text/plain:1\"one\\r\\n\" text/html:0\"<p>\")",
        ),
        // The end is missing.
        ("--b\r\n\r\none\r\n", "multipart/mixed:3(text/plain:1\"one\\r\\n\")"),
        ("--b\r\n\r\none\r\n--b", "multipart/mixed:3(text/plain:0\"one\")"),
        ("--b\r\n\r\none\r\n--b--", "multipart/mixed:3(text/plain:0\"one\")"),
        // Headers without their blank line.
        (
            "--b\r\nX: y\r\n--b\r\n--b\r\n",
            "multipart/mixed:4(text/plain:0\"\" text/plain:0\"\" text/plain:0\"\")",
        ),
        (
            "--b\r\nContent-Type: message/rfc822\r\n\r\nA: b\r\n\r\n--b--",
            "multipart/mixed:5(message/rfc822:2(text/plain:0\"\"))",
        ),
        ("--b\r\nContent-Type: a/b", "multipart/mixed:1(a/b:0\"\")"),
        (
            "--b\r\nContent-Type: message/rfc822\r\n--b--",
            "multipart/mixed:2(message/rfc822:0(text/plain:0\"\"))",
        ),
        // Lines that only resemble a delimiter.
        (
            "--b\r\n\r\n --b\r\n-b\r\n--\r\n-\r\n--a\r\n\r\n--b--",
            "multipart/mixed:8(text/plain:5\" --b\\r\\n-b\\r\\n--\\r\\n-\\r\\n--a\\r\\n\")",
        ),
        ("--b\r\n\r\nx--b\r\n--b--", "multipart/mixed:3(text/plain:0\"x--b\")"),
        ("--b\r\n--x: y\r\n-: z\r\n\r\none\r\n--b--", "multipart/mixed:5(text/plain:0\"one\")"),
        // Padding after a boundary; more than a boundary (RFC 2046 5.1.1).
        ("--b \t \r\n\r\none\r\n--b-- \r\n", "multipart/mixed:4(text/plain:0\"one\")"),
        ("--box\r\n\r\none\r\n--b--ox\r\n", "multipart/mixed:4(text/plain:0\"one\")"),
        // Bare LF for line ends.
        (
            "--b\n\none\n--b\n\ntwo\n--b--\n",
            "multipart/mixed:7(text/plain:0\"one\" text/plain:0\"two\")",
        ),
        // After the close delimiter no part begins.
        ("--b\r\n\r\none\r\n--b--\r\n--b\r\n\r\ntwo\r\n", "multipart/mixed:7(text/plain:0\"one\")"),
        // An inner multipart with the same boundary takes it until it is closed.
        (
            "--b\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\none\r\n\
             --b--\r\n--b\r\n\r\ntwo\r\n--b--\r\n",
            "multipart/mixed:11(multipart/alternative:3(text/plain:0\"one\") text/plain:0\"two\")",
        ),
        // An inner multipart that is not closed; one whose boundary begins like the outer one.
        (
            "--b\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\n\r\none\r\n\
             --b\r\n\r\ntwo\r\n--b--\r\n",
            "multipart/mixed:10(multipart/alternative:2(text/plain:0\"one\") text/plain:0\"two\")",
        ),
        (
            "--b\r\nContent-Type: multipart/alternative; boundary=bb\r\n\r\n--bb\r\n\r\none\r\n\
             --bb--\r\n--b\r\n\r\ntwo\r\n--b--\r\n",
            "multipart/mixed:11(multipart/alternative:3(text/plain:0\"one\") text/plain:0\"two\")",
        ),
        (
            "--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\ntwo\r\nlines\r\n\
             --b--\r\n",
            "multipart/mixed:8(message/rfc822:3(text/plain:1\"two\\r\\nlines\"))",
        ),
        (
            "--b\r\nContent-Type: multipart/mixed\r\n\r\none\r\n--b--\r\n",
            "multipart/mixed:5(text/plain:0\"one\")",
        ),
    ];

    const CASES: &[(&str, &str)] = &[
        ("", "text/plain:0\"\""),
        ("\r\n", "text/plain:0\"\""),
        ("\n", "text/plain:0\"\""),
        ("\r", "text/plain:0\"\""),
        ("Subject: no body", "text/plain:0\"\""),
        ("Subject: a\r\n\r\none\r\ntwo", "text/plain:1\"one\\r\\ntwo\""),
        ("Subject: a\n\none\n", "text/plain:1\"one\\n\""),
        ("A: b\r\nr\r\n\r\nbody", "text/plain:0\"body\""),
        ("Content-Type: nonsense\r\n\r\n", "text/plain:0\"\""),
        ("Content-Type: multipart/mixed\r\n\r\n--\r\n", "text/plain:1\"--\\r\\n\""),
        ("Content-Type: multipart/mixed; boundary=\"\"\r\n\r\n", "text/plain:0\"\""),
        (
            "Content-Type: message/rfc822\r\n\r\nA: b\r\n\r\nx",
            "message/rfc822:2(text/plain:0\"x\")",
        ),
        (
            "Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nSubject: in\r\n\r\n\
             one\r\n\
             --b\r\nContent-Type: text/plain\r\n\r\ntwo\r\n--b--\r\n",
            "multipart/digest:10(message/rfc822:2(text/plain:0\"one\") text/plain:0\"two\")",
        ),
    ];

    #[test]
    fn trees() {
        for (message, expected) in CASES {
            check(message.as_bytes(), expected);
        }
        for (rest, expected) in MIXED_CASES {
            check([MIXED, rest].concat().as_bytes(), expected);
        }
    }

    #[test]
    fn texts() {
        let message =
            b"Date: today\r\nSUBJECT: one\r\n two\r\nSubject: second\r\nTo: a@b\r\nto: c@d\r\n\
            Content-Type: text/html; charset=x; name=\"a b\"\r\n\
            Content-Disposition: attachment; filename=f\r\nContent-ID: <i>\r\n\
            Content-Language: en, de\r\nContent-Transfer-Encoding: BASE64 (x)\r\n\
            Content-Location: http://x\r\nContent-MD5: m\r\nContent-Description: d\r\n\
            In-Reply-To: <r>\r\nMessage-ID: <m>\r\nFrom: f@g\r\n\r\n";
        let summary = summarize([message.as_slice()]);
        let envelope = summary.envelope();
        assert_eq!(envelope.date, Some(b"today".as_slice()));
        assert_eq!(envelope.subject, Some(b"one two".as_slice()));
        assert_eq!(envelope.to.len(), 2);
        assert_eq!((envelope.sender, envelope.reply_to), (None, None));
        assert_eq!(envelope.in_reply_to, Some(b"<r>".as_slice()));
        assert_eq!(envelope.message_id, Some(b"<m>".as_slice()));
        let root = summary.root();
        assert_eq!(root.id(), Some(b"<i>".as_slice()));
        assert_eq!(root.description(), Some(b"d".as_slice()));
        assert_eq!(root.encoding(), b"BASE64");
        assert_eq!(root.md5(), Some(b"m".as_slice()));
        assert_eq!(root.location(), Some(b"http://x".as_slice()));
        assert_eq!(root.disposition(), Some(b"attachment".as_slice()));
        assert_eq!(root.languages().collect::<Vec<_>>(), [b"en", b"de"]);
        let pairs = |name: &'static str, value: &'static str| (name.as_bytes(), value.as_bytes());
        assert_eq!(
            root.parameters().collect::<Vec<_>>(),
            [pairs("charset", "x"), pairs("name", "a b")]
        );
        assert_eq!(root.disposition_parameters().collect::<Vec<_>>(), [pairs("filename", "f")]);
        let bare = summarize([b"\r\n".as_slice()]);
        assert_eq!(bare.root().parameters().collect::<Vec<_>>(), [pairs("charset", "us-ascii")]);
        assert_eq!(bare.envelope(), super::super::Envelope::default());
    }

    #[test]
    fn nesting_is_bounded() {
        let mut multiparts = Vec::new();
        for depth in 0..20_000 {
            let start =
                format!("Content-Type: multipart/mixed; boundary={depth}.\r\n\r\n--{depth}.\r\n");
            multiparts.extend_from_slice(start.as_bytes());
        }
        let messages = "Content-Type: message/rfc822\r\n\r\n".repeat(20_000);
        for message in [multiparts, messages.into_bytes()] {
            let summary = summarize([message.as_slice()]);
            assert_eq!(summary.records.len(), DEPTH_MAX + 1);
            let deepest = Part { summary: &summary, index: DEPTH_MAX };
            assert_eq!(deepest.media_subtype(), b"octet-stream");
            assert_eq!(deepest.body().end, message.len() as u64);
            assert_eq!(Summary::decode(&summary.encode()), Ok(summary.clone()));
        }
    }

    #[test]
    fn the_number_of_parts_is_bounded() {
        let part = "--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\ny\r\n";
        let message = [MIXED, &part.repeat(20_000), "--b--\r\nepilogue\r\n"].concat();
        let summary = summarize([message.as_bytes()]);
        assert_eq!(summary.records.len(), PARTS_MAX);
        let last = Part { summary: &summary, index: PARTS_MAX - 1 };
        assert_eq!(last.media_subtype(), b"octet-stream");
        assert_eq!(last.body().end, (message.len() - "\r\n--b--\r\nepilogue\r\n".len()) as u64);
        assert_eq!(Summary::decode(&summary.encode()), Ok(summary.clone()));
    }

    #[test]
    fn headers_and_texts_are_bounded() {
        let to = "To: someone@example.org, \r\n".repeat(40_000) + "X:";
        let field = format!("Subject: {}", "x".repeat(2 * HEADER_SIZE_MAX));
        for header in [to, field, "X".repeat(2 * HEADER_SIZE_MAX)] {
            let message = [&header, "\r\n\r\nbody"].concat();
            let summary = summarize([message.as_bytes()]);
            assert_eq!(summary.root().body(), message.len() as u64 - 4..message.len() as u64);
            assert!(summary.text.len() <= TEXT_SIZE_MAX);
            assert_eq!(summarize(message.as_bytes().chunks(1000)), summary);
            let envelope = summary.envelope();
            assert!(envelope.to.iter().all(|to| to.host.as_deref() == Some(b"example.org")));
        }
        let part = format!("--b\r\nContent-Description: {}\r\n\r\n\r\n", "x".repeat(70_000));
        let message = [MIXED, &part.repeat(20)].concat();
        let summary = summarize([message.as_bytes()]);
        assert_eq!(summary.records.len(), 21);
        assert!(summary.text.len() <= TEXT_SIZE_MAX);
    }

    /// Pieces that combine delimiters, headers and line ends in every way.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "\r\n",
            "\n",
            "\r",
            "-",
            "--",
            "--b",
            "--bb",
            "--b--",
            "--bb--",
            " ",
            "x",
            "b",
            ":",
            "Content-Type: multipart/mixed; boundary=b\r\n",
            "Content-Type: multipart/digest; boundary=bb\r\n",
            "Content-Type: message/rfc822\r\n",
            "Subject: s\r\n",
        ]);
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(message in message(), size in 1usize..20) {
            let whole = summarize([message.as_slice()]);
            prop_assert_eq!(&summarize(message.chunks(size)), &whole);
            // The decoder checks every invariant of the tree.
            prop_assert_eq!(Summary::decode(&whole.encode()), Ok(whole));
        }

        /// A message that begins with a field, an mbox line or the end of its header, like every
        /// stored message, can be summarized before its trace fields are known.
        #[test]
        fn fields_may_be_put_before_it_later(
            begin in prop::sample::select(vec!["To: a@b\r\n", "\r\n", "From a\r\nSubject: x\r\n"]),
            rest in message(),
            prologue in prop::sample::select(vec![
                "", "Return-Path: <>\r\n", "X: y\r\n\tz\r\nReceived: from a\r\n\tby b; c\r\n",
            ]),
        ) {
            let message = [begin.as_bytes(), &rest].concat();
            let mut later = summarize([message.as_slice()]);
            later.prepend(prologue.len() as u64);
            prop_assert_eq!(later, summarize([prologue.as_bytes(), &message]));
        }
    }
}
