//! A peer's replies (RFC 5321 4.2): octets in, one bounded and harmless [`Reply`] out.
//!
//! What is tolerated, because real servers do it and nothing depends on it: a line that ends in a
//! bare LF; a line of a code alone; any length of line within the limit of the whole reply; any
//! second and third digit. What is refused, because the reply then has no meaning: a line without a
//! code of three digits from 200 to 599; another octet than space or `-` behind it; lines of one
//! reply with different codes; more than [`REPLY_OCTETS_MAX`] octets or [`REPLY_LINES_MAX`] lines.
//! After a [`Fault`] the parser is of no more use.
//!
//! The text of a reply goes into bounces, logs and terminals: octets that are not UTF-8 become
//! U+FFFD, and control characters (also NUL and a CR inside a line, and those that turn the
//! direction of writing) become `?`.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::{fmt, sync::Arc};

use memchr::memchr;

/// Octets of one reply, all lines; a peer that sends more never finishes.
pub const REPLY_OCTETS_MAX: usize = 64 * 1024;
/// Lines of one reply.
pub const REPLY_LINES_MAX: usize = 128;
/// Octets of a reply's text that are kept with a recipient's result.
pub const REPLY_TEXT_MAX: usize = 1024;

/// Why a peer cannot be understood. The connection must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    #[error("the peer sent a line that is no reply")]
    Malformed,
    #[error("the peer sent a reply with different codes")]
    MixedCodes,
    #[error("the peer sent a reply without end")]
    Endless,
    #[error("the peer sent a reply that answers nothing")]
    Unsolicited,
    #[error("the peer sent a reply that does not answer the command")]
    Unexpected,
    #[error("the peer sent octets between its reply to STARTTLS and TLS")]
    BeforeTls,
}

/// An enhanced status code (RFC 3463 2), as `5.1.1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EnhancedCode {
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

impl EnhancedCode {
    /// At the start of a reply's text: class, subject and detail, the last two of one to three
    /// digits (RFC 2034 4), and then a space or nothing.
    fn parse(text: &[u8]) -> Option<EnhancedCode> {
        let word = text.split(|octet| octet.is_ascii_whitespace()).next()?;
        let mut parts = word.split(|octet| *octet == b'.');
        let class = number(parts.next()?, 1)?;
        let subject = number(parts.next()?, 3)?;
        let detail = number(parts.next()?, 3)?;
        let whole = parts.next().is_none() && matches!(class, 2 | 4 | 5);
        whole.then_some(EnhancedCode { class: class as u8, subject, detail })
    }
}

/// One to `digits` digits.
fn number(digits: &[u8], most: usize) -> Option<u16> {
    let good = (1..=most).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    good.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')))
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// A peer's reply. Cheap to clone: the text is shared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// Only if its class is that of the code.
    pub enhanced: Option<EnhancedCode>,
    /// Behind the code, with an enhanced one as it was sent; lines are separated by LF, which is
    /// the only control character.
    pub text: Arc<str>,
    /// Made here in place of asking the peer, as it has said before what it would answer.
    pub local: bool,
}

impl Reply {
    /// An answer that the peer need not be asked for.
    pub fn local(code: u16, text: &str) -> Reply {
        Reply { local: true, ..Reply::new(code, text.as_bytes()) }
    }

    fn new(code: u16, text: &[u8]) -> Reply {
        let enhanced = EnhancedCode::parse(text);
        let enhanced = enhanced.filter(|it| u16::from(it.class) == code / 100);
        Reply { code, enhanced, text: harmless(text).into(), local: false }
    }

    /// 2xx.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 3xx: the peer wants more (RFC 5321 4.2.1).
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// 5xx.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// The peer closes the connection, whatever the command (RFC 5321 3.8).
    pub fn is_closing(&self) -> bool {
        self.code == 421
    }

    /// The lines of the text.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    /// The reply with at most [`REPLY_TEXT_MAX`] octets of text.
    #[must_use]
    pub fn clipped(self) -> Reply {
        if self.text.len() <= REPLY_TEXT_MAX {
            return self;
        }
        let text = clipped(&self.text, REPLY_TEXT_MAX).into();
        Reply { text, ..self }
    }
}

/// On one line: `550 5.1.1 No such user`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        self.lines().filter(|line| !line.is_empty()).try_for_each(|line| write!(f, " {line}"))
    }
}

/// The text without what could hurt a log, a terminal or a message. LF stays.
fn harmless(text: &[u8]) -> String {
    let turns = |c: char| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let safe = |c: char| if (c.is_control() && c != '\n') || turns(c) { '?' } else { c };
    String::from_utf8_lossy(text).chars().map(safe).collect()
}

/// The first characters of `text`, at most `octets` octets.
pub(super) fn clipped(text: &str, octets: usize) -> &str {
    let fits =
        text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= octets);
    text.get(..fits.last().unwrap_or(0)).unwrap_or_default()
}

/// Reads replies, one after the other. Memory: at most [`REPLY_OCTETS_MAX`].
#[derive(Default, Debug)]
pub struct ReplyParser {
    /// The unfinished line.
    line: Vec<u8>,
    /// Of the unfinished reply: its code, once a line is complete.
    code: Option<u16>,
    text: Vec<u8>,
    lines: usize,
    /// Octets of the unfinished reply, with codes and line ends.
    octets: usize,
}

impl ReplyParser {
    /// Takes octets from `input`, up to the end of a reply. The first value is the number of
    /// processed octets: all of them if no reply is complete.
    pub fn next(&mut self, input: &[u8]) -> (usize, Result<Option<Reply>, Fault>) {
        let mut done = 0;
        while let Some(rest @ [_, ..]) = input.get(done..) {
            let end = memchr(b'\n', rest);
            let piece = rest.get(..end.map_or(rest.len(), |end| end + 1)).unwrap_or(rest);
            done += piece.len();
            self.octets = self.octets.saturating_add(piece.len());
            if self.octets > REPLY_OCTETS_MAX {
                return (done, Err(Fault::Endless));
            }
            self.line.extend_from_slice(piece);
            if end.is_none() {
                break;
            }
            match self.end_line() {
                Ok(None) => {}
                ended => return (done, ended),
            }
        }
        (done, Ok(None))
    }

    /// Whether a reply has begun and is not complete.
    pub fn is_inside(&self) -> bool {
        self.octets > 0
    }

    fn end_line(&mut self) -> Result<Option<Reply>, Fault> {
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, is_last, text) = split(line).ok_or(Fault::Malformed)?;
        if self.code.is_some_and(|first| first != code) {
            return Err(Fault::MixedCodes);
        }
        self.lines += 1;
        if self.lines > REPLY_LINES_MAX {
            return Err(Fault::Endless);
        }
        if self.code.is_some() {
            self.text.push(b'\n');
        }
        self.code = Some(code);
        self.text.extend_from_slice(text);
        self.line.clear();
        if !is_last {
            return Ok(None);
        }
        let reply = Reply::new(code, &self.text);
        *self = ReplyParser::default();
        Ok(Some(reply))
    }
}

/// Code, whether the line is the reply's last, text. RFC 5321 4.2.1: the text may be missing, and
/// the space before it too.
fn split(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (code, rest) = line.split_at_checked(3)?;
    let code = number(code, 3).filter(|code| (200..600).contains(code))?;
    match rest {
        [] => Some((code, true, rest)),
        [b' ', text @ ..] => Some((code, true, text)),
        [b'-', text @ ..] => Some((code, false, text)),
        _ => None,
    }
}
