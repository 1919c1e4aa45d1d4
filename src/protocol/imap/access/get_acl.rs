//! GETACL (RFC 4314 3.3).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
};

/// `getacl = "GETACL" SP mailbox`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GetAcl<'a> {
    pub mailbox: MailboxName<'a>,
}

impl<'a> Arguments<'a> for GetAcl<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<GetAcl<'a>> {
        cursor.arguments()?;
        Ok(GetAcl { mailbox: cursor.mailbox()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        GetAcl,
    };

    #[test]
    fn names_a_mailbox() {
        let mailbox = mailbox("a b");
        check("GETACL \"a b\"", CommandBody::GetAcl(GetAcl { mailbox }));
    }
}
