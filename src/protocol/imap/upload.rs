//! Messages as APPEND and REPLACE carry them (RFC 3501 6.3.11, RFC 3502, RFC 4469, RFC 6855 4).
//!
//! A command comes in parts, since its messages are streamed ([`super::Frame::Part`]). Each part
//! says what is to be done, as [`UploadStep`]s in order, and where the next part goes on.

use super::{
    cursor::{Cursor, Parsed, Text},
    flag_list::FlagList,
};
use crate::model::Timestamp;

/// `append-message = [SP flag-list] [SP date-time] SP (literal / literal8 / utf8-literal /
/// "CATENATE" SP "(" cat-part *(SP cat-part) ")")`, any number of them, as far as a part of the
/// command has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UploadPart<'a> {
    pub steps: Vec<UploadStep<'a>>,
    /// What the next part follows.
    pub place: UploadPlace,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UploadStep<'a> {
    /// A message begins.
    Begin { flags: FlagList<'a>, internal_date: Option<Timestamp> },
    /// Octets of the message: the literal that the part ends with.
    Literal,
    /// The same in the form for messages with UTF-8 in their headers.
    Utf8Literal,
    /// Octets of the message: what the URL names.
    Url(Text<'a>),
    /// The message is complete.
    End,
}

/// Where a command is after one of its parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UploadPlace {
    /// After the literal that is the message.
    Message,
    /// After a literal in CATENATE.
    Catenate,
    /// In the parentheses around the literal that is the message.
    Utf8Message,
    /// In the parentheses around a literal in CATENATE.
    Utf8Catenate,
    /// At its end.
    End,
}

impl<'a> UploadPart<'a> {
    /// The part that begins after the mailbox name.
    pub(super) fn parse(cursor: &mut Cursor<'a>) -> Parsed<UploadPart<'a>> {
        cursor.space()?;
        let mut part = UploadPart { steps: Vec::new(), place: UploadPlace::End };
        part.message(cursor)?;
        Ok(part)
    }

    /// The part that follows a literal.
    pub fn parse_rest(place: UploadPlace, part: &'a [u8]) -> Result<UploadPart<'a>, &'static str> {
        let line = part.strip_suffix(b"\r\n").ok_or("a line must end in CRLF")?;
        let mut cursor = Cursor::new(line);
        let mut part = UploadPart { steps: Vec::new(), place };
        part.go_on(&mut cursor)?;
        cursor.end()?;
        Ok(part)
    }

    fn go_on(&mut self, cursor: &mut Cursor<'a>) -> Parsed<()> {
        match self.place {
            UploadPlace::End => Ok(()),
            UploadPlace::Message => self.end_message(cursor),
            UploadPlace::Catenate => self.catenate(cursor),
            UploadPlace::Utf8Message => {
                self.end_utf8(cursor)?;
                self.end_message(cursor)
            }
            UploadPlace::Utf8Catenate => {
                self.end_utf8(cursor)?;
                self.catenate(cursor)
            }
        }
    }

    fn end_utf8(&mut self, cursor: &mut Cursor<'a>) -> Parsed<()> {
        cursor.spaces();
        cursor.expect(b')', "a closing parenthesis is missing after the literal")
    }

    fn end_message(&mut self, cursor: &mut Cursor<'a>) -> Parsed<()> {
        self.steps.push(UploadStep::End);
        self.place = UploadPlace::End;
        if cursor.another() { self.message(cursor) } else { Ok(()) }
    }

    fn message(&mut self, cursor: &mut Cursor<'a>) -> Parsed<()> {
        let mut flags = FlagList::default();
        if cursor.peek() == Some(b'(') {
            flags = cursor.flag_list()?;
            cursor.space()?;
        }
        let mut internal_date = None;
        if cursor.peek() == Some(b'"') {
            internal_date = Some(cursor.date_time()?);
            cursor.space()?;
        }
        self.steps.push(UploadStep::Begin { flags, internal_date });
        if cursor.eat_all(b"CATENATE") {
            cursor.space()?;
            cursor.expect(b'(', "CATENATE takes a list")?;
            cursor.spaces();
            return match self.cat_part(cursor)? {
                CatPart::Literal => Ok(()),
                CatPart::Url => self.catenate(cursor),
            };
        }
        if cursor.eat_all(b"UTF8 ") {
            self.place = UploadPlace::Utf8Message;
            return self.utf8_literal(cursor);
        }
        cursor.literal_header().map_err(|_| "a message is taken as a literal")?;
        self.steps.push(UploadStep::Literal);
        self.place = UploadPlace::Message;
        Ok(())
    }

    /// What follows a `cat-part`.
    fn catenate(&mut self, cursor: &mut Cursor<'a>) -> Parsed<()> {
        loop {
            let parted = cursor.spaces();
            if cursor.eat(b')') {
                return self.end_message(cursor);
            }
            if !parted {
                return Err("a closing parenthesis is missing");
            }
            if self.cat_part(cursor)? == CatPart::Literal {
                return Ok(());
            }
        }
    }

    /// `utf8-literal = "UTF8" SP "(" literal8 ")"` (RFC 6855 4), up to its literal.
    fn utf8_literal(&mut self, cursor: &mut Cursor<'a>) -> Parsed<()> {
        cursor.spaces();
        cursor.expect(b'(', "UTF8 takes a literal8 in parentheses")?;
        cursor.spaces();
        let literal = cursor.literal_header()?;
        if !literal.binary {
            return Err("UTF8 takes a literal8");
        }
        self.steps.push(UploadStep::Utf8Literal);
        Ok(())
    }

    /// `cat-part = "URL" SP astring / "TEXT" SP literal / utf8-literal`. With a literal the part of
    /// the command ends.
    fn cat_part(&mut self, cursor: &mut Cursor<'a>) -> Parsed<CatPart> {
        if cursor.eat_all(b"URL ") {
            cursor.spaces();
            self.steps.push(UploadStep::Url(cursor.astring()?));
        } else if cursor.eat_all(b"TEXT ") {
            cursor.spaces();
            cursor.literal_header()?;
            self.steps.push(UploadStep::Literal);
            self.place = UploadPlace::Catenate;
            return Ok(CatPart::Literal);
        } else if cursor.eat_all(b"UTF8 ") {
            self.place = UploadPlace::Utf8Catenate;
            self.utf8_literal(cursor)?;
            return Ok(CatPart::Literal);
        } else {
            return Err("CATENATE takes URL, TEXT and UTF8");
        }
        Ok(CatPart::Url)
    }
}

/// What a part of CATENATE was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CatPart {
    Url,
    Literal,
}

/// Whether a literal of the messages is streamed: all but those that are the mailbox name or an
/// URL. `first`: `before` begins with the mailbox name.
pub(super) fn streams(first: bool, before: &[u8]) -> bool {
    let mut cursor = Cursor::new(before);
    if first {
        if before.is_empty() {
            return false;
        }
        if cursor.mailbox().is_err() {
            return true;
        }
    }
    let before = cursor.rest();
    let end = before.iter().rposition(|&octet| octet != b' ').map_or(0, |last| last + 1);
    let (word, spaces) = before.split_at(end);
    let is_url = word.len() > 3
        && !spaces.is_empty()
        && word[word.len() - 3..].eq_ignore_ascii_case(b"URL")
        && matches!(word[word.len() - 4], b' ' | b'(');
    !is_url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Flags;

    #[test]
    fn literals_that_are_streamed() {
        const CASES: &[(bool, &str, bool)] = &[
            (true, "", false),
            (true, "x ", true),
            (true, "URL ", true),
            (true, "\"a URL\" ", true),
            (true, "{5}\r\na URL ", true),
            (true, "x CATENATE (URL ", false),
            (true, "x CATENATE (URL /a url  ", false),
            (true, "x CATENATE (URL /a TEXT ", true),
            (false, " URL ", false),
            (false, " URL {2}\r\n/a TEXT ", true),
            (false, " (\\Seen) ", true),
            (true, "x UTF8 (", true),
            (true, "x CATENATE (UTF8 (", true),
            (false, ") URL ", false),
        ];
        for &(first, before, expected) in CASES {
            assert_eq!(streams(first, before.as_bytes()), expected, "{before:?}");
        }
    }

    #[test]
    fn parts_after_a_message() {
        use UploadStep::{Begin, End, Literal};
        let begin = |system| {
            let flags = FlagList { system, keywords: Vec::new() };
            Begin { flags, internal_date: None }
        };
        let cases: [(&[u8], Vec<UploadStep<'_>>, UploadPlace); 4] = [
            (b"\r\n", vec![End], UploadPlace::End),
            (b"  \r\n", vec![End], UploadPlace::End),
            (b" {3}\r\n", vec![End, begin(Flags::default()), Literal], UploadPlace::Message),
            (b" (\\Seen) ~{3+}\r\n", vec![End, begin(Flags::SEEN), Literal], UploadPlace::Message),
        ];
        for (part, steps, place) in cases {
            let expected = Ok(UploadPart { steps, place });
            assert_eq!(UploadPart::parse_rest(UploadPlace::Message, part), expected);
        }
        let url = |url: &'static [u8]| UploadStep::Url(url.into());
        let cases: [(&[u8], Vec<UploadStep<'_>>, UploadPlace); 4] = [
            (b")\r\n", vec![End], UploadPlace::End),
            (b" URL /a URL {2}\r\n/b)\r\n", vec![url(b"/a"), url(b"/b"), End], UploadPlace::End),
            (b" url \"/a\" TEXT {3}\r\n", vec![url(b"/a"), Literal], UploadPlace::Catenate),
            (
                b" ) CATENATE ( URL /a TEXT {3+}\r\n",
                vec![End, begin(Flags::default()), url(b"/a"), Literal],
                UploadPlace::Catenate,
            ),
        ];
        for (part, steps, place) in cases {
            let expected = Ok(UploadPart { steps, place });
            assert_eq!(UploadPart::parse_rest(UploadPlace::Catenate, part), expected);
        }
        for part in [&b"\r\n"[..], b" \r\n", b"URL /a)\r\n", b" TEXT x)\r\n", b" URL /a\r\n"] {
            let refused = UploadPart::parse_rest(UploadPlace::Catenate, part);
            assert!(refused.is_err(), "{}", part.escape_ascii());
        }
        let cases: [(UploadPlace, &[u8], Vec<UploadStep<'_>>, UploadPlace); 4] = [
            (UploadPlace::Utf8Message, b")\r\n", vec![End], UploadPlace::End),
            (
                UploadPlace::Utf8Message,
                b" ) utf8 (~{3}\r\n",
                vec![End, begin(Flags::default()), UploadStep::Utf8Literal],
                UploadPlace::Utf8Message,
            ),
            (
                UploadPlace::Utf8Catenate,
                b") URL /a UTF8 (~{3+}\r\n",
                vec![url(b"/a"), UploadStep::Utf8Literal],
                UploadPlace::Utf8Catenate,
            ),
            (UploadPlace::Utf8Catenate, b"))\r\n", vec![End], UploadPlace::End),
        ];
        for (after, part, steps, place) in cases {
            let expected = Ok(UploadPart { steps, place });
            assert_eq!(UploadPart::parse_rest(after, part), expected, "{}", part.escape_ascii());
        }
        for part in [&b"\r\n"[..], b" {3}\r\n", b") UTF8 ({3}\r\n", b") UTF8 ~{3}\r\n"] {
            let refused = UploadPart::parse_rest(UploadPlace::Utf8Message, part);
            assert!(refused.is_err(), "{}", part.escape_ascii());
        }
        for part in [&b"\n"[..], b"", b"x\r\n", b"{3}\r\n", b" (\\Seen)\r\n", b" {3} x\r\n"] {
            let refused = UploadPart::parse_rest(UploadPlace::Message, part);
            assert!(refused.is_err(), "{}", part.escape_ascii());
        }
    }
}
