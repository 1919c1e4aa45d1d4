//! RENAME (RFC 3501 6.3.5).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
};

/// `rename = "RENAME" SP mailbox SP mailbox`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rename<'a> {
    pub source: MailboxName<'a>,
    pub target: MailboxName<'a>,
}

impl<'a> Arguments<'a> for Rename<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Rename<'a>> {
        cursor.arguments()?;
        let source = cursor.mailbox()?;
        cursor.space()?;
        Ok(Rename { source, target: cursor.mailbox()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        Rename,
    };

    #[test]
    fn names_two_mailboxes() {
        let (source, target) = (mailbox("x"), mailbox("y/z"));
        check("RENAME x y/z", CommandBody::Rename(Rename { source, target }));
    }
}
