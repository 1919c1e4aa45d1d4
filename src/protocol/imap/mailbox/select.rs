//! SELECT and EXAMINE (RFC 3501 6.3.1, 6.3.2) with the parameters of RFC 4466 2.1.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
};

/// `select = "SELECT" SP mailbox [select-params]`,
/// `select-params = SP "(" select-param *(SP select-param) ")"`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Select<'a> {
    pub mailbox: MailboxName<'a>,
    /// The parameter of RFC 7162 3.1.8.
    pub condstore: bool,
}

/// `examine = "EXAMINE" SP mailbox [select-params]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Examine<'a>(pub Select<'a>);

impl<'a> Arguments<'a> for Select<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Select<'a>> {
        cursor.arguments()?;
        let mailbox = cursor.mailbox()?;
        Ok(Select { mailbox, condstore: select_parameters(cursor)? })
    }
}

impl<'a> Arguments<'a> for Examine<'a> {
    fn parse(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Examine<'a>> {
        Select::parse(cursor, uid).map(Examine)
    }
}

/// `CONDSTORE` is the only one supported; others must be refused (RFC 4466 2.1).
fn select_parameters(cursor: &mut Cursor<'_>) -> Parsed<bool> {
    let mut condstore = false;
    if cursor.another() {
        cursor.list(false, "a parameter list is missing", |cursor| {
            match cursor.word()?.as_bytes() {
                b"CONDSTORE" => {
                    condstore = true;
                    Ok(())
                }
                _ => Err("unknown select parameter"),
            }
        })?;
    }
    Ok(condstore)
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        Examine, Select,
    };

    #[test]
    fn parameters() {
        let select = |name, condstore| Select { mailbox: mailbox(name), condstore };
        check("SELECT INBOX", CommandBody::Select(select("INBOX", false)));
        check("SELECT \"a b\" (CONDSTORE)", CommandBody::Select(select("a b", true)));
        check("SELECT {5}\r\nINBOX", CommandBody::Select(select("INBOX", false)));
        check("EXAMINE x", CommandBody::Examine(Examine(select("x", false))));
    }
}
