//! APPEND (RFC 3501 6.3.11), up to its message, which is streamed: see
//! [`super::super::Frame::Part`].

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    flag_list::FlagList,
    name::MailboxName,
};
use crate::model::Timestamp;

/// `append = "APPEND" SP mailbox [SP flag-list] [SP date-time] SP (literal / literal8)`,
/// except the literal's octets (RFC 3516 4.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append<'a> {
    pub mailbox: MailboxName<'a>,
    pub flags: FlagList<'a>,
    pub internal_date: Option<Timestamp>,
}

impl<'a> Arguments<'a> for Append<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Append<'a>> {
        cursor.arguments()?;
        let mailbox = cursor.mailbox()?;
        cursor.space()?;
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
        cursor.literal_header().map_err(|_| "APPEND takes the message as a literal")?;
        Ok(Append { mailbox, flags, internal_date })
    }

    /// The first literal may be the mailbox; all others are messages.
    fn streams(first: bool, before: &[u8]) -> bool {
        !first || !before.is_empty()
    }
}

impl Append<'_> {
    /// Parses the part of the command after its message: the end of the line. Several messages (RFC
    /// 3502) are not offered.
    pub fn parse_rest(part: &[u8]) -> Result<(), &'static str> {
        match part.strip_suffix(b"\r\n") {
            Some(rest) if rest.iter().all(|&octet| octet == b' ') => Ok(()),
            _ => Err("Expected end of line"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        *,
    };
    use crate::model::Flags;

    #[test]
    fn appends() {
        let plain =
            Append { mailbox: mailbox("x"), flags: FlagList::default(), internal_date: None };
        check("APPEND x {310}", CommandBody::Append(plain.clone()));
        check("APPEND {1}\r\nx {310+}", CommandBody::Append(plain.clone()));
        check("APPEND x () {310}", CommandBody::Append(plain.clone()));
        check("APPEND x ~{310}", CommandBody::Append(plain.clone()));
        check(
            "APPEND x (\\Seen $Junk \\DRAFT $junk) {310}",
            CommandBody::Append(Append {
                flags: FlagList { system: Flags::SEEN | Flags::DRAFT, keywords: vec!["$Junk"] },
                ..plain
            }),
        );
    }

    #[test]
    fn internal_dates() {
        let append = Append {
            mailbox: mailbox("x"),
            flags: FlagList::default(),
            internal_date: Some(Timestamp::from_unix_seconds(8_797 * 86_400)),
        };
        check("APPEND x \"01-Feb-1994 01:00:00 +0100\" {1}", CommandBody::Append(append));
    }

    #[test]
    fn the_part_after_the_message() {
        for part in [&b"\r\n"[..], b"  \r\n"] {
            assert_eq!(Append::parse_rest(part), Ok(()));
        }
        for part in [&b"\n"[..], b"", b"x\r\n", b" (\\Seen) {3}\r\n"] {
            assert!(Append::parse_rest(part).is_err(), "{}", part.escape_ascii());
        }
    }
}
