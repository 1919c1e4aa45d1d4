//! REPLACE (RFC 8508), up to its message: see [`super::super::upload`].

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
    upload::{self, UploadPart},
};

/// `replace = "REPLACE" SP seq-number SP mailbox append-message`, except the octets of the message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replace<'a> {
    /// Its `UID` form.
    pub uid: bool,
    /// The message to be replaced: its number or UID; `None` for `*`, the last one.
    pub number: Option<u32>,
    pub mailbox: MailboxName<'a>,
    pub part: UploadPart<'a>,
}

impl<'a> Arguments<'a> for Replace<'a> {
    fn parse(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Replace<'a>> {
        cursor.arguments()?;
        let mut number = None;
        if !cursor.eat(b'*') {
            let found = u32::try_from(cursor.number()?).ok().filter(|&number| number > 0);
            number = Some(found.ok_or("not a message number")?);
        }
        cursor.space()?;
        let mailbox = cursor.mailbox()?;
        Ok(Replace { uid, number, mailbox, part: UploadPart::parse(cursor)? })
    }

    fn uid(&self) -> bool {
        self.uid
    }

    fn uses_numbers(&self) -> bool {
        !self.uid
    }

    /// The first literal may be the mailbox; the other one is the message.
    fn streams(first: bool, before: &[u8]) -> bool {
        let mut cursor = Cursor::new(before);
        if first {
            cursor.take_while(|octet| octet != b' ');
            cursor.spaces();
        }
        upload::streams(first, cursor.rest())
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
    use crate::model::Flags;

    #[test]
    fn forms() {
        let replace = |uid, number, system| {
            let flags = FlagList { system, keywords: Vec::new() };
            let steps = vec![UploadStep::Begin { flags, internal_date: None }, UploadStep::Literal];
            let part = UploadPart { steps, place: UploadPlace::Message };
            CommandBody::Replace(Replace { uid, number, mailbox: mailbox("x"), part })
        };
        let draft = Flags::SEEN | Flags::DRAFT;
        check("REPLACE 4 x (\\Seen \\Draft) {312}", replace(false, Some(4), draft));
        check("UID REPLACE 2000 x {312+}", replace(true, Some(2000), Flags::default()));
        check("REPLACE * {1}\r\nx ~{312}", replace(false, None, Flags::default()));
    }
}
