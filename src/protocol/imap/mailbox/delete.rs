//! DELETE (RFC 3501 6.3.4).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
};

/// `delete = "DELETE" SP mailbox`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delete<'a> {
    pub mailbox: MailboxName<'a>,
}

impl<'a> Arguments<'a> for Delete<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Delete<'a>> {
        cursor.arguments()?;
        Ok(Delete { mailbox: cursor.mailbox()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        Delete,
    };

    #[test]
    fn names_a_mailbox() {
        check("DELETE x", CommandBody::Delete(Delete { mailbox: mailbox("x") }));
    }
}
