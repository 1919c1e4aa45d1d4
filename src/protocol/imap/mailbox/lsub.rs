//! LSUB (RFC 3501 6.3.9).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
};

/// `lsub = "LSUB" SP mailbox SP list-mailbox`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lsub<'a> {
    pub reference: MailboxName<'a>,
    /// Still with `*` and `%`.
    pub pattern: MailboxName<'a>,
}

impl<'a> Arguments<'a> for Lsub<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Lsub<'a>> {
        cursor.arguments()?;
        let reference = cursor.mailbox()?;
        cursor.space()?;
        Ok(Lsub { reference, pattern: cursor.list_mailbox()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        Lsub,
    };

    #[test]
    fn takes_a_pattern() {
        let lsub = Lsub { reference: mailbox(""), pattern: mailbox("*") };
        check("LSUB \"\" *", CommandBody::Lsub(lsub));
    }
}
