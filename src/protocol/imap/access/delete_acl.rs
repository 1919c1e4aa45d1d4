//! DELETEACL (RFC 4314 3.2).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed, Text},
    name::MailboxName,
};

/// `deleteacl = "DELETEACL" SP mailbox SP identifier`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteAcl<'a> {
    pub mailbox: MailboxName<'a>,
    pub identifier: Text<'a>,
}

impl<'a> Arguments<'a> for DeleteAcl<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<DeleteAcl<'a>> {
        cursor.arguments()?;
        let mailbox = cursor.mailbox()?;
        cursor.space()?;
        Ok(DeleteAcl { mailbox, identifier: cursor.astring()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox, text},
        },
        DeleteAcl,
    };

    #[test]
    fn names_a_mailbox_and_an_identifier() {
        let (mailbox, identifier) = (mailbox("x"), text("-$a b"));
        check("DELETEACL x \"-$a b\"", CommandBody::DeleteAcl(DeleteAcl { mailbox, identifier }));
    }
}
