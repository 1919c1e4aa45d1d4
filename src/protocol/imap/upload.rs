//! Messages as APPEND and REPLACE carry them (RFC 3501 6.3.11, RFC 3502).
//!
//! A command comes in parts, since its messages are streamed ([`super::Frame::Part`]). Each part
//! says what is to be done, as [`UploadStep`]s in order, and where the next part goes on.

use super::{
    cursor::{Cursor, Parsed},
    flag_list::FlagList,
};
use crate::model::Timestamp;

/// `append-message = [SP flag-list] [SP date-time] SP (literal / literal8)`, any number of them, as
/// far as a part of the command has them.
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
    /// The message is complete.
    End,
}

/// Where a command is after one of its parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UploadPlace {
    /// After the literal that is the message.
    Message,
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
        }
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
        cursor.literal_header().map_err(|_| "a message is taken as a literal")?;
        self.steps.push(UploadStep::Literal);
        self.place = UploadPlace::Message;
        Ok(())
    }
}

/// Whether a literal of the messages is streamed. `first`: `before` begins with the mailbox name.
pub(super) fn streams(first: bool, before: &[u8]) -> bool {
    !first || !before.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Flags;

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
        for part in [&b"\n"[..], b"", b"x\r\n", b"{3}\r\n", b" (\\Seen)\r\n", b" {3} x\r\n"] {
            let refused = UploadPart::parse_rest(UploadPlace::Message, part);
            assert!(refused.is_err(), "{}", part.escape_ascii());
        }
    }
}
