//! GETMETADATA (RFC 5464 4.2).

use super::{
    super::{
        arguments::Arguments,
        cursor::{Cursor, Parsed},
        name::MailboxName,
    },
    entry::{EntryName, bare_entries, entries},
};

/// `getmetadata = "GETMETADATA" [SP getmetadata-options] SP mailbox SP entries`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GetMetadata<'a> {
    /// Empty: the server.
    pub mailbox: MailboxName<'a>,
    pub entries: Vec<EntryName>,
    /// Octets; longer values are left out (RFC 5464 4.2.1).
    pub max_size: Option<u64>,
    pub depth: Depth,
}

/// Which entries are meant beside those named (RFC 5464 4.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Depth {
    #[default]
    Zero,
    /// Those directly below.
    One,
    /// All below.
    Infinity,
}

impl Depth {
    /// Whether it reaches from one entry to another, both as [`EntryName::key`] has them.
    pub fn reaches(self, from: &str, to: &str) -> bool {
        match to.strip_prefix(from) {
            Some("") => true,
            Some(below) if below.starts_with('/') => match self {
                Depth::Zero => false,
                Depth::One => below.matches('/').count() == 1,
                Depth::Infinity => true,
            },
            _ => false,
        }
    }
}

#[derive(Default)]
struct Options {
    max_size: Option<u64>,
    depth: Option<Depth>,
}

impl Options {
    fn parse(&mut self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        cursor.list(false, "options are missing", |cursor| {
            let option = cursor.word()?;
            cursor.space()?;
            match option.as_bytes() {
                b"MAXSIZE" if self.max_size.is_none() => self.max_size = Some(cursor.number()?),
                b"DEPTH" if self.depth.is_none() => {
                    self.depth = Some(match cursor.word()?.as_bytes() {
                        b"0" => Depth::Zero,
                        b"1" => Depth::One,
                        b"INFINITY" => Depth::Infinity,
                        _ => return Err("DEPTH is 0, 1 or infinity"),
                    });
                }
                _ => return Err("unknown option"),
            }
            Ok(())
        })
    }
}

impl<'a> Arguments<'a> for GetMetadata<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<GetMetadata<'a>> {
        cursor.arguments()?;
        let mut options = Options::default();
        if cursor.peek() == Some(b'(') {
            options.parse(cursor)?;
            cursor.space()?;
        }
        let mailbox = cursor.mailbox()?;
        cursor.space()?;
        // The examples of the RFC have the options here, its grammar has them before the mailbox.
        let after = cursor.rest().strip_prefix(b"(").map(|rest| rest.trim_ascii_start());
        if after.is_some_and(|after| after.first().is_some_and(u8::is_ascii_alphabetic)) {
            options.parse(cursor)?;
            cursor.space()?;
        }
        let entries = match cursor.peek() {
            Some(b'(') => entries(cursor)?,
            _ => bare_entries(cursor)?,
        };
        let Options { max_size, depth } = options;
        Ok(GetMetadata { mailbox, entries, max_size, depth: depth.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody, parse,
            tests::{check, mailbox},
        },
        *,
    };

    fn names(names: &[&str]) -> Vec<EntryName> {
        names.iter().map(|name| EntryName::parse(name.as_bytes()).expect(name)).collect()
    }

    /// The examples of RFC 5464 4.2, and the options where the grammar has them.
    #[test]
    fn forms() {
        let plain = |name, entries: &[&str]| GetMetadata {
            mailbox: mailbox(name),
            entries: names(entries),
            max_size: None,
            depth: Depth::Zero,
        };
        let both = ["/shared/comment", "/private/comment"];
        let limited = GetMetadata { max_size: Some(1024), ..plain("INBOX", &both) };
        let deep =
            GetMetadata { depth: Depth::One, ..plain("INBOX", &["/private/filters/values"]) };
        let all = GetMetadata {
            max_size: Some(0),
            depth: Depth::Infinity,
            ..plain("INBOX", &["/shared"])
        };
        let cases = [
            ("\"\" /shared/comment", plain("", &["/shared/comment"])),
            ("\"INBOX\" /private/comment", plain("INBOX", &["/private/comment"])),
            ("\"INBOX\" (/shared/comment /private/comment)", plain("INBOX", &both)),
            ("INBOX (\"/shared/comment\" {16}\r\n/private/comment)", plain("INBOX", &both)),
            ("INBOX (/shared/comment /private/comment /SHARED/comment)", plain("INBOX", &both)),
            ("\"INBOX\" (MAXSIZE 1024) (/shared/comment /private/comment)", limited.clone()),
            ("(MAXSIZE 1024) INBOX (/shared/comment /private/comment)", limited),
            ("\"INBOX\" (DEPTH 1) (/private/filters/values)", deep.clone()),
            ("(DEPTH 1) INBOX /private/filters/values", deep),
            ("(depth infinity) INBOX ( MAXSIZE 0) /shared", all),
        ];
        for (written, expected) in cases {
            check(&format!("GETMETADATA {written}"), CommandBody::GetMetadata(expected));
        }
    }

    #[test]
    fn nothing_else_is_asked_for() {
        for written in [
            "INBOX",
            "INBOX ()",
            "INBOX comment",
            "INBOX (MAXSIZE) /shared/comment",
            "INBOX (DEPTH 2) /shared/comment",
            "(DEPTH 1 DEPTH 1) INBOX /shared/comment",
            "(DEPTH 1) INBOX (DEPTH 1) /shared/comment",
            "(COLOUR 1) INBOX /shared/comment",
            "() INBOX /shared/comment",
        ] {
            let frame = format!("a GETMETADATA {written}\r\n");
            assert!(parse(frame.as_bytes()).is_err(), "{written}");
        }
        let many: Vec<String> = (0..101).map(|number| format!("/shared/{number}")).collect();
        for (count, is_taken) in [(100, true), (101, false)] {
            let frame = format!("a GETMETADATA x ({})\r\n", many[..count].join(" "));
            assert_eq!(parse(frame.as_bytes()).is_ok(), is_taken, "{count}");
        }
    }

    #[test]
    fn depths() {
        use Depth::{Infinity, One, Zero};
        const CASES: &[(&str, [bool; 3])] = &[
            ("/shared/a", [true, true, true]),
            ("/shared/a/b", [false, true, true]),
            ("/shared/a/b/c", [false, false, true]),
            ("/shared/ab", [false, false, false]),
            ("/shared", [false, false, false]),
        ];
        for (to, expected) in CASES {
            let reached = [Zero, One, Infinity].map(|depth| depth.reaches("/shared/a", to));
            assert_eq!(reached, *expected, "{to}");
        }
    }
}
