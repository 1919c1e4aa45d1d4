//! Finds the end of a command: lines and literals (RFC 3501 2.2.1, 4.3, RFC 7888, RFC 3516 4.4).
//!
//! The service calls [`Framer::next`] with all unread input of the connection, always from the
//! first byte of the same command until a frame was returned and consumed. No byte is examined
//! twice, however the input is split. The framer owns no input; it is a few words and moves with a
//! connection to another shard.
//!
//! Literals are part of their command, except those that the command's parser declares streamed
//! (`Arguments::streams`): messages. Such a command comes in parts ([`Frame::Part`]), each up to
//! the header of a streamed literal, the last one ([`Frame::Command`]) up to the end.
//!
//! Invariant: at most `Limits::line + Limits::command` bytes are requested before a frame or a
//! refusal. Octets of streamed literals do not count: the service takes them from the input between
//! two calls.

use memchr::memchr;

use super::{
    arguments::Streams,
    cursor::Cursor,
    literal::{Literal, LiteralHeader},
    table::CommandKind,
};

/// Limits of one command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Octets of a command outside of its literals.
    pub line: usize,
    /// Octets from the start of a command, or of a part of one, to the end of any literal in it
    /// that is not streamed.
    pub command: usize,
    /// Octets of a streamed literal.
    pub message: u64,
    /// Octets of a literal for which the client does not wait to be asked.
    pub unasked: u64,
}

impl Limits {
    /// Under LITERAL- (RFC 7888 5).
    pub const UNASKED_UNDER_LITERAL_MINUS: u64 = 4_096;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            line: 64 * 1024,
            command: 256 * 1024,
            message: 50 * 1024 * 1024,
            unasked: u64::MAX,
        }
    }
}

/// What the input starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Not enough input: fill, then call again.
    More,
    /// The client waits for a continuation (a synchronizing literal inside a command): send `+ OK`,
    /// then call again with at least the same input.
    Continue,
    /// `input[..size]` is a whole command for [`super::parse`], or what follows the last
    /// [`Frame::Part`] of one: parse, then consume `size`.
    Command { size: usize },
    /// `input[..size]` is a command up to a streamed literal, its header included, for
    /// [`super::parse`]; or the part after such a literal, up to the next. Consume `size`, then the
    /// octets of the literal; then call for the next part. Or [`Framer::abandon`] the command.
    Part { size: usize, literal: Literal },
    /// A synchronizing literal is larger than allowed, and the client waits: answer the tag of
    /// `input[..size]` ([`super::tag_of`]) with `NO [TOOBIG]`, consume `size`, go on.
    Refused { size: usize },
    /// The rest of the stream cannot be parsed: `BYE` with this text, then close.
    Bye(&'static str),
}

/// Octets of an ID command, whatever the other limits are: 30 fields of 1,024 octets (RFC 2971
/// 3.3), each octet escaped, with their names. Clients send it before they log in.
const ID_COMMAND_MAX: usize = 64 * 1024;

const LINE_TOO_LONG: &str = "command line too long";
const LITERAL_TOO_LARGE: &str = "[TOOBIG] literal too large";
const BARE_LF_AFTER_LITERAL: &str = "literal announced on a line without CRLF";

/// Finds commands in a connection's input. See the module documentation for the calling rule.
#[derive(Clone, Debug)]
pub struct Framer {
    limits: Limits,
    /// There is no line end before this offset. It is beyond the input while a literal is awaited.
    scanned: usize,
    /// Where the current line starts: 0, or the end of the last literal.
    line_start: usize,
    /// Octets of earlier lines of this command.
    earlier_lines: usize,
    /// Set if a part of the command was returned: the next part is awaited.
    streams: Option<Streams>,
    /// See [`Framer::take_excess`].
    excess: bool,
}

impl Framer {
    pub fn new(limits: Limits) -> Framer {
        let excess = false;
        Framer { limits, scanned: 0, line_start: 0, earlier_lines: 0, streams: None, excess }
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// New limits (a client that logged in may send more). Call it between commands.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Looks for the end of the command at the start of `input`.
    #[allow(clippy::should_implement_trait)] // not an iterator: it is asked with new input
    pub fn next(&mut self, input: &[u8]) -> Frame {
        loop {
            let end = match self.line_end(input) {
                Ok(end) => end,
                Err(frame) => return frame,
            };
            let line = &input[self.line_start..end];
            let Some(header) = LiteralHeader::at_end_of(line) else {
                self.reset();
                return Frame::Command { size: end };
            };
            if !line.ends_with(b"\r\n") {
                // The following octets could be the literal or commands: a wrong guess would
                // execute the octets of a message.
                return Frame::Bye(BARE_LF_AFTER_LITERAL);
            }
            let literal = header.literal;
            self.excess |= !literal.sync && literal.size > self.limits.unasked;
            let streams = self.streams_after(&input[..self.line_start + header.start]);
            let fits = if streams.is_some() {
                literal.size <= self.limits.message
            } else {
                let max = self.at_least_for_id(self.limits.command, input);
                literal.size <= max.saturating_sub(end) as u64
            };
            if !fits {
                self.reset();
                return if literal.sync {
                    Frame::Refused { size: end }
                } else {
                    Frame::Bye(LITERAL_TOO_LARGE)
                };
            }
            if streams.is_some() {
                self.reset();
                self.streams = streams;
                return Frame::Part { size: end, literal };
            }
            self.earlier_lines += end - self.line_start;
            // Fits in usize: it was compared with `limits.command`.
            self.line_start = end + literal.size as usize;
            self.scanned = self.line_start;
            if literal.sync {
                return Frame::Continue;
            }
        }
    }

    /// The command of the last [`Frame::Part`] was answered before its literal was requested:
    /// another command follows (RFC 3501 7.5).
    pub fn abandon(&mut self) {
        self.reset();
    }

    /// Whether the frame that was returned last has, or announces, a literal that the client sends
    /// unasked and that is too large for that (RFC 7888 5): the command is `BAD`, and what follows
    /// can be read all the same.
    pub fn take_excess(&mut self) -> bool {
        std::mem::take(&mut self.excess)
    }

    /// A line without literals: a SASL response, `DONE`. Returns [`Frame::Command`] (`size`
    /// includes the line end), [`Frame::More`] or [`Frame::Bye`].
    pub fn line(&mut self, input: &[u8]) -> Frame {
        match self.line_end(input) {
            Ok(size) => {
                self.reset();
                Frame::Command { size }
            }
            Err(frame) => frame,
        }
    }

    /// Offset after the LF that ends the current line.
    fn line_end(&mut self, input: &[u8]) -> Result<usize, Frame> {
        let Some(unseen) = input.get(self.scanned..) else { return Err(Frame::More) };
        let found = memchr(b'\n', unseen).map(|index| self.scanned + index + 1);
        let end = found.unwrap_or(input.len());
        self.scanned = end;
        let size = self.earlier_lines + (end - self.line_start);
        if size > self.limits.line && size > self.at_least_for_id(self.limits.line, input) {
            return Err(Frame::Bye(LINE_TOO_LONG));
        }
        found.ok_or(Frame::More)
    }

    /// Whether the literal after `before`, a command or a part of one, is streamed: if so, the
    /// function that decides on the command's later literals. Called once per literal, with
    /// everything before it.
    fn streams_after(&self, before: &[u8]) -> Option<Streams> {
        if let Some(streams) = self.streams {
            return streams(false, before).then_some(streams);
        }
        let mut cursor = Cursor::new(before);
        cursor.take_while(|octet| octet != b' ');
        cursor.spaces();
        let mut name = cursor.word().ok()?;
        let uid = name.as_bytes() == b"UID";
        if uid {
            cursor.spaces();
            name = cursor.word().ok()?;
        }
        let streams = CommandKind::named(name.as_bytes(), uid)?.row().streams;
        (cursor.spaces() && streams(true, cursor.rest())).then_some(streams)
    }

    /// `limit`, or enough for an ID if the command in `input` is one. Call it with a complete first
    /// line, or with more than the limit of a line: other data read with it must not matter.
    fn at_least_for_id(&self, limit: usize, input: &[u8]) -> usize {
        if self.streams.is_some() {
            return limit;
        }
        let line = &input[..input.len().min(self.limits.line)];
        let line = &line[..memchr(b'\n', line).unwrap_or(line.len())];
        let space = memchr(b' ', line).unwrap_or(line.len());
        let spaces = line[space..].iter().take_while(|&&octet| octet == b' ').count();
        let name = line[space + spaces..].get(..3).unwrap_or_default();
        if name.eq_ignore_ascii_case(b"ID ") { limit.max(ID_COMMAND_MAX) } else { limit }
    }

    fn reset(&mut self) {
        *self = Framer { excess: self.excess, ..Framer::new(self.limits) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: Limits = Limits { line: 40, command: 60, message: 1_000, unasked: 1_000 };

    /// Feeds `input` in pieces of `step` bytes and lists the results. The octets of streamed
    /// literals are skipped as the service would.
    fn frames(input: &[u8], step: usize) -> Vec<Frame> {
        let mut framer = Framer::new(SMALL);
        let (mut start, mut end, mut skip) = (0, 0, 0);
        let mut found = Vec::new();
        loop {
            let skipped = skip.min(end - start);
            (start, skip) = (start + skipped, skip - skipped);
            let frame = if skip == 0 { framer.next(&input[start..end]) } else { Frame::More };
            if frame != Frame::More {
                found.push(frame);
            }
            match frame {
                Frame::More if end == input.len() => return found,
                Frame::More => end = (end + step).min(input.len()),
                Frame::Continue => {}
                Frame::Command { size } | Frame::Refused { size } => start += size,
                Frame::Part { size, literal } => {
                    (start, skip) = (start + size, literal.size as usize)
                }
                Frame::Bye(_) => return found,
            }
        }
    }

    const fn part(size: usize, octets: u64, sync: bool) -> Frame {
        Frame::Part { size, literal: Literal { size: octets, sync, binary: false } }
    }

    #[track_caller]
    fn check(input: &[u8], expected: &[Frame]) {
        for step in 1..=input.len().max(1) {
            assert_eq!(frames(input, step), expected, "{} by {step}", input.escape_ascii());
        }
    }

    #[test]
    fn cases() {
        use Frame::*;
        const CASES: &[(&[u8], &[Frame])] = &[
            (b"", &[]),
            (b"a NOOP", &[]),
            (b"a NOOP\r\n", &[Command { size: 8 }]),
            (b"a NOOP\r\nb NOOP\r\nc", &[Command { size: 8 }, Command { size: 8 }]),
            // A bare LF ends a frame, which the parser then refuses.
            (b"a NOOP\nb NOOP\r\n", &[Command { size: 7 }, Command { size: 8 }]),
            (b"a LOGIN {1}\r\nx {2}\r\nyz\r\n", &[Continue, Continue, Command { size: 24 }]),
            (b"a LOGIN {1+}\r\nx {2+}\r\nyz\r\n", &[Command { size: 26 }]),
            (b"a LOGIN {4+}\r\n\r\n\r\n x\r\n", &[Command { size: 22 }]),
            (b"a LOGIN {0+}\r\n {0}\r\n\r\n", &[Continue, Command { size: 22 }]),
            // RFC 3501 6.3.11: the message is announced, not framed.
            (
                b"a APPEND x {3}\r\nabc\r\nb NOOP\r\n",
                &[part(16, 3, true), Command { size: 2 }, Command { size: 8 }],
            ),
            (
                b"a append {1+}\r\nx (\\Seen) {3+}\r\nabc\r\n",
                &[part(31, 3, false), Command { size: 2 }],
            ),
            // More than one space changes nothing: the first literal is the mailbox.
            (
                b"a  append  {1}\r\nx  {3}\r\nabc \r\n",
                &[Continue, part(24, 3, true), Command { size: 3 }],
            ),
            // After a message the command goes on; there may be a second message.
            (
                b"a APPEND x {1+}\r\ny (\\Seen) {2}\r\nzz\r\nb NOOP\r\n",
                &[part(17, 1, false), part(14, 2, true), Command { size: 2 }, Command { size: 8 }],
            ),
            (
                b"a APPEND x {1+}\r\ny {1001}\r\nb LOGIN {1+}\r\nx\r\n",
                &[part(17, 1, false), Refused { size: 9 }, Command { size: 17 }],
            ),
            (b"a APPEND x {1+}\r\ny {1001+}\r\n", &[part(17, 1, false), Bye(LITERAL_TOO_LARGE)]),
            // Names that only resemble it, and the UID form, which it lacks.
            (b"a APPENDS x {3+}\r\nabc\r\n", &[Command { size: 23 }]),
            (b"a UID APPEND x {3+}\r\nabc\r\n", &[Command { size: 26 }]),
            // RFC 3516 4.4: a literal8 is a literal wherever it stands.
            (
                b"a APPEND x ~{3+}\r\na\0c\r\n",
                &[
                    Part { size: 18, literal: Literal { size: 3, sync: false, binary: true } },
                    Command { size: 2 },
                ],
            ),
            (b"a LOGIN ~{3}\r\na\nc x\r\n", &[Continue, Command { size: 21 }]),
            // RFC 7888 4: too large and not synchronising cannot be skipped cheaply.
            (b"a LOGIN {10000000000+}\r\n", &[Bye(LITERAL_TOO_LARGE)]),
            (b"a LOGIN {9999999999999999999999+}\r\n", &[Bye(LITERAL_TOO_LARGE)]),
            (b"a APPEND x {10000000000+}\r\n", &[Bye(LITERAL_TOO_LARGE)]),
            (
                b"a APPEND x {10000000000}\r\nb NOOP\r\n",
                &[Refused { size: 26 }, Command { size: 8 }],
            ),
            (b"a LOGIN {50}\r\nb NOOP\r\n", &[Refused { size: 14 }, Command { size: 8 }]),
            (b"a LOGIN x{3+}\nabc\r\n", &[Bye(BARE_LF_AFTER_LITERAL)]),
            (b"a 45678901234567890123456789012345678901\r\n", &[Bye(LINE_TOO_LONG)]),
            (b"a 456789012345678901234567890123456789012", &[Bye(LINE_TOO_LONG)]),
            // Not literal headers.
            (b"a x {}\r\n", &[Command { size: 8 }]),
            (b"a x {+}\r\n", &[Command { size: 9 }]),
            (b"a \"{3}\"\r\n", &[Command { size: 9 }]),
            (b"a x {3} \r\n", &[Command { size: 10 }]),
            (b"3}\r\n", &[Command { size: 4 }]),
        ];
        for &(input, expected) in CASES {
            check(input, expected);
        }
    }

    /// RFC 2971 3.3, and no more.
    #[test]
    fn a_full_id_is_taken_whatever_the_limits() {
        let value = "x".repeat(1_024);
        let fields = |count| vec![format!("\"name\" \"{value}\""); count].join(" ");
        let id = format!("a ID ({})\r\n", fields(30));
        let mut framer = Framer::new(SMALL);
        assert_eq!(framer.next(id.as_bytes()), Frame::Command { size: id.len() });
        let literals = format!("a ID (\"name\" {{1024+}}\r\n{value})\r\n");
        assert_eq!(framer.next(literals.as_bytes()), Frame::Command { size: literals.len() });
        let endless = format!("a ID ({})\r\n", fields(70));
        assert_eq!(framer.next(endless.as_bytes()), Frame::Bye(LINE_TOO_LONG));
    }

    /// Data read together with the line, or not yet, does not make it an ID: only the text within
    /// the line's limit and before its end does.
    #[test]
    fn how_the_input_is_cut_makes_no_id() {
        let long_tag = format!("{}\n ID NIL\r\n", "x".repeat(SMALL.line));
        check(long_tag.as_bytes(), &[Frame::Bye(LINE_TOO_LONG)]);
        let spaces = format!("a{}ID NIL\r\n", " ".repeat(SMALL.line));
        check(spaces.as_bytes(), &[Frame::Bye(LINE_TOO_LONG)]);
        let literal = b"a{61}\r\n ID NIL\r\n";
        check(literal, &[Frame::Refused { size: 7 }, Frame::Command { size: 9 }]);
        let fits = format!("a{}ID NIL\r\n", " ".repeat(SMALL.line - "aID ".len()));
        check(fits.as_bytes(), &[Frame::Command { size: fits.len() }]);
    }

    /// RFC 7888 5: the frame is found, so that what follows it is not lost.
    #[test]
    fn literals_that_must_be_awaited() {
        type Case = (&'static [u8], Frame, bool);
        const CASES: &[Case] = &[
            (b"a LOGIN {2+}\r\nab x\r\n", Frame::Command { size: 20 }, false),
            (b"a LOGIN {3+}\r\nabc x\r\n", Frame::Command { size: 21 }, true),
            (b"a APPEND x {2+}\r\n", part(17, 2, false), false),
            (b"a APPEND x {3+}\r\n", part(17, 3, false), true),
            (b"a APPEND {3+}\r\nabc {2+}\r\n", part(25, 2, false), true),
            (b"a APPEND x {3}\r\n", part(16, 3, true), false),
        ];
        for &(input, frame, excess) in CASES {
            let mut framer = Framer::new(Limits { unasked: 2, ..SMALL });
            assert_eq!(framer.next(input), frame, "{}", input.escape_ascii());
            assert_eq!(framer.take_excess(), excess, "{}", input.escape_ascii());
            assert!(!framer.take_excess());
        }
    }

    #[test]
    fn lines_of_one_command_are_counted_together() {
        // Four lines of 12 octets with empty literals between: over the 40 of SMALL.
        let input = b"a LOGIN {0+}\r\n {0+}\r\n {0+}\r\n {0+}\r\n {0+}\r\n\r\n";
        check(input, &[Frame::Bye(LINE_TOO_LONG)]);
    }

    #[test]
    fn a_long_wait_scans_each_byte_once() {
        let mut framer = Framer::new(Limits { line: 1 << 20, ..SMALL });
        let input = vec![b'x'; 1 << 16];
        for end in 0..input.len() {
            assert_eq!(framer.next(&input[..end]), Frame::More);
            assert_eq!(framer.scanned, end);
        }
    }

    proptest! {
        /// Independent of how the input is cut, also inside streamed literals and parts of
        /// commands.
        #[test]
        fn cuts_make_no_difference(words in prop::collection::vec(prop_oneof![
            Just("a APPEND "), Just("b LOGIN "), Just("c UID "), Just("x "), Just("{1}"),
            Just("{2+}"), Just("~{3}"), Just("~{0+}"), Just("{1001}"), Just("{61}"), Just("\r\n"),
            Just("\r\n"), Just("\n"), Just("y"), Just(" ID "), Just("\0"),
        ], 0..24)) {
            let input = words.concat();
            let whole = frames(input.as_bytes(), input.len().max(1));
            for step in 1..input.len() {
                prop_assert_eq!(&frames(input.as_bytes(), step), &whole, "by {}", step);
            }
        }
    }
}
