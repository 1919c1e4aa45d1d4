//! SETACL (RFC 4314 3.1).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed, Text},
    name::MailboxName,
};
use crate::model::{Change, RightsError};

/// `setacl = "SETACL" SP mailbox SP identifier SP mod-rights`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetAcl<'a> {
    pub mailbox: MailboxName<'a>,
    pub identifier: Text<'a>,
    pub change: Change,
}

impl<'a> Arguments<'a> for SetAcl<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<SetAcl<'a>> {
        cursor.arguments()?;
        let mailbox = cursor.mailbox()?;
        cursor.space()?;
        let identifier = cursor.astring()?;
        cursor.space()?;
        // RFC 4314 3.1: an unknown right makes the command BAD; it is never ignored.
        let change = Change::parse(&cursor.astring()?).map_err(|error| match error {
            RightsError::Unknown => "unknown right",
            RightsError::Digit => "this server has no rights named by digits",
        })?;
        Ok(SetAcl { mailbox, identifier, change })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox, text},
        },
        *,
    };
    use crate::model::{Right, Rights};

    #[test]
    fn changes() {
        let rights = Rights::of(&[Right::Lookup, Right::Read]);
        let cases = [
            ("lr", Change::Replace(rights)),
            ("\"rl\"", Change::Replace(rights)),
            ("\"\"", Change::Replace(Rights::NONE)),
            ("+lr", Change::Add(rights)),
            ("{3}\r\n-lr", Change::Remove(rights)),
        ];
        for (written, change) in cases {
            let (mailbox, identifier) = (mailbox("x"), text("fred"));
            let expected = CommandBody::SetAcl(SetAcl { mailbox, identifier, change });
            check(&format!("SETACL x fred {written}"), expected);
        }
    }
}
