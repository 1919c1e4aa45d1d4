//! MYRIGHTS (RFC 4314 3.5).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
};

/// `myrights = "MYRIGHTS" SP mailbox`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MyRights<'a> {
    pub mailbox: MailboxName<'a>,
}

impl<'a> Arguments<'a> for MyRights<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<MyRights<'a>> {
        cursor.arguments()?;
        Ok(MyRights { mailbox: cursor.mailbox()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        MyRights,
    };

    #[test]
    fn names_a_mailbox() {
        let mailbox = mailbox("a b");
        check("MYRIGHTS \"a b\"", CommandBody::MyRights(MyRights { mailbox }));
    }
}
