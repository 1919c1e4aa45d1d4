//! SETMETADATA (RFC 5464 4.3).

use super::{
    super::{
        arguments::Arguments,
        cursor::{Cursor, Parsed, Text},
        name::MailboxName,
    },
    entry::{ENTRIES_MAX, EntryName},
};

/// `setmetadata = "SETMETADATA" SP mailbox SP entry-values`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetMetadata<'a> {
    /// Empty: the server.
    pub mailbox: MailboxName<'a>,
    /// Names and values; `None` removes. A name that comes twice has the later value.
    pub entries: Vec<(EntryName, Option<Text<'a>>)>,
}

impl<'a> Arguments<'a> for SetMetadata<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<SetMetadata<'a>> {
        cursor.arguments()?;
        let mailbox = cursor.mailbox()?;
        cursor.space()?;
        let mut entries = Vec::new();
        cursor.list(false, "annotations are missing", |cursor| {
            if entries.len() == ENTRIES_MAX {
                return Err("too many annotations");
            }
            let name = EntryName::parse(&cursor.astring()?)?;
            if name.is_scope() {
                return Err("this name has no value");
            }
            cursor.space()?;
            let value = match cursor.peek() {
                Some(b'~') => Some(cursor.literal8()?),
                _ => cursor.nstring()?,
            };
            entries.push((name, value));
            Ok(())
        })?;
        Ok(SetMetadata { mailbox, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody, parse,
            tests::{check, mailbox, text},
        },
        *,
    };

    /// The examples of RFC 5464 4.3, and its `literal8`.
    #[test]
    fn forms() {
        let set = |entries: &[(&str, Option<&'static str>)]| {
            let entry = |(name, value): &(&str, Option<&'static str>)| {
                (EntryName::parse(name.as_bytes()).expect(name), value.map(text))
            };
            let entries = entries.iter().map(entry).collect();
            CommandBody::SetMetadata(SetMetadata { mailbox: mailbox("INBOX"), entries })
        };
        let cases = [
            (
                "(/private/comment {33}\r\nMy new comment across\r\ntwo lines.)",
                set(&[("/private/comment", Some("My new comment across\r\ntwo lines."))]),
            ),
            ("(/private/comment NIL)", set(&[("/private/comment", None)])),
            (
                "(/private/comment \"My new comment\" /shared/comment \"This one is for you!\")",
                set(&[
                    ("/private/comment", Some("My new comment")),
                    ("/shared/comment", Some("This one is for you!")),
                ]),
            ),
            ("(\"/shared/x\" \"\")", set(&[("/shared/x", Some(""))])),
            ("(/shared/x ~{3}\r\na\0b)", set(&[("/shared/x", Some("a\0b"))])),
        ];
        for (written, expected) in cases {
            check(&format!("SETMETADATA INBOX {written}"), expected);
        }
    }

    #[test]
    fn nothing_else_is_set() {
        for written in [
            "INBOX",
            "INBOX ()",
            "INBOX /shared/comment x",
            "INBOX (/shared/comment)",
            "INBOX (/shared/comment x)",
            "INBOX (/shared \"x\")",
            "INBOX (comment \"x\")",
            "INBOX (/shared/comment {1}\r\n\0)",
        ] {
            let frame = format!("a SETMETADATA {written}\r\n");
            assert!(parse(frame.as_bytes()).is_err(), "{written}");
        }
    }
}
