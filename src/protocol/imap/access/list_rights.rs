//! LISTRIGHTS (RFC 4314 3.4).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed, Text},
    name::MailboxName,
};

/// `listrights = "LISTRIGHTS" SP mailbox SP identifier`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListRights<'a> {
    pub mailbox: MailboxName<'a>,
    pub identifier: Text<'a>,
}

impl<'a> Arguments<'a> for ListRights<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<ListRights<'a>> {
        cursor.arguments()?;
        let mailbox = cursor.mailbox()?;
        cursor.space()?;
        Ok(ListRights { mailbox, identifier: cursor.astring()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox, text},
        },
        ListRights,
    };

    #[test]
    fn names_a_mailbox_and_an_identifier() {
        let (mailbox, identifier) = (mailbox("x"), text("-$a b"));
        check(
            "LISTRIGHTS x \"-$a b\"",
            CommandBody::ListRights(ListRights { mailbox, identifier }),
        );
    }
}
