//! GETQUOTAROOT (RFC 9208 4.1.2).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
};

/// `getquotaroot = "GETQUOTAROOT" SP mailbox`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GetQuotaRoot<'a> {
    pub mailbox: MailboxName<'a>,
}

impl<'a> Arguments<'a> for GetQuotaRoot<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<GetQuotaRoot<'a>> {
        cursor.arguments()?;
        Ok(GetQuotaRoot { mailbox: cursor.mailbox()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        GetQuotaRoot,
    };

    #[test]
    fn names_a_mailbox() {
        let mailbox = mailbox("INBOX");
        check("GETQUOTAROOT INBOX", CommandBody::GetQuotaRoot(GetQuotaRoot { mailbox }));
    }
}
