//! SUBSCRIBE and UNSUBSCRIBE (RFC 3501 6.3.6, 6.3.7).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
};

/// `subscribe = "SUBSCRIBE" SP mailbox`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscribe<'a> {
    pub mailbox: MailboxName<'a>,
}

/// `unsubscribe = "UNSUBSCRIBE" SP mailbox`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsubscribe<'a> {
    pub mailbox: MailboxName<'a>,
}

impl<'a> Arguments<'a> for Subscribe<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Subscribe<'a>> {
        cursor.arguments()?;
        Ok(Subscribe { mailbox: cursor.mailbox()? })
    }
}

impl<'a> Arguments<'a> for Unsubscribe<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Unsubscribe<'a>> {
        cursor.arguments()?;
        Ok(Unsubscribe { mailbox: cursor.mailbox()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        Subscribe, Unsubscribe,
    };

    #[test]
    fn name_a_mailbox() {
        check("SUBSCRIBE x", CommandBody::Subscribe(Subscribe { mailbox: mailbox("x") }));
        check("UNSUBSCRIBE x", CommandBody::Unsubscribe(Unsubscribe { mailbox: mailbox("x") }));
    }
}
