//! APPEND (RFC 3501 6.3.11, RFC 3502), up to its first message: see [`super::super::upload`].

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
    upload::{self, UploadPart},
};

/// `append = "APPEND" SP mailbox 1*append-message`, except the octets of the messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append<'a> {
    pub mailbox: MailboxName<'a>,
    pub part: UploadPart<'a>,
}

impl<'a> Arguments<'a> for Append<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Append<'a>> {
        cursor.arguments()?;
        let mailbox = cursor.mailbox()?;
        Ok(Append { mailbox, part: UploadPart::parse(cursor)? })
    }

    /// The first literal may be the mailbox; all others are messages.
    fn streams(first: bool, before: &[u8]) -> bool {
        upload::streams(first, before)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            flag_list::FlagList,
            tests::{check, mailbox},
            upload::{UploadPlace, UploadStep},
        },
        *,
    };
    use crate::model::{Flags, Timestamp};

    fn append(flags: FlagList<'static>, internal_date: Option<Timestamp>) -> CommandBody<'static> {
        let steps = vec![UploadStep::Begin { flags, internal_date }, UploadStep::Literal];
        let part = UploadPart { steps, place: UploadPlace::Message };
        CommandBody::Append(Append { mailbox: mailbox("x"), part })
    }

    #[test]
    fn appends() {
        let plain = || append(FlagList::default(), None);
        check("APPEND x {310}", plain());
        check("APPEND {1}\r\nx {310+}", plain());
        check("APPEND x () {310}", plain());
        check("APPEND x ~{310}", plain());
        let (system, keywords) = (Flags::SEEN | Flags::DRAFT, vec!["$Junk"]);
        let flags = FlagList { system, keywords };
        check("APPEND x (\\Seen $Junk \\DRAFT $junk) {310}", append(flags, None));
    }

    #[test]
    fn internal_dates() {
        let date = Timestamp::from_unix_seconds(8_797 * 86_400);
        let expected = append(FlagList::default(), Some(date));
        check("APPEND x \"01-Feb-1994 01:00:00 +0100\" {1}", expected);
    }
}
