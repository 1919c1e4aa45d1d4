//! CREATE (RFC 3501 6.3.3) with the `USE` parameter (RFC 6154 3).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
};
use crate::model::SpecialUse;

/// `create = "CREATE" SP mailbox [SP "(" "USE" SP "(" [use-attr *(SP use-attr)] ")" ")"]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Create<'a> {
    pub mailbox: MailboxName<'a>,
    pub special_use: Vec<SpecialUse>,
    /// Whether it had an unknown attribute, which is a `NO [USEATTR]`.
    pub unknown_use: bool,
}

impl<'a> Arguments<'a> for Create<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Create<'a>> {
        cursor.arguments()?;
        let mailbox = cursor.mailbox()?;
        let mut special_use = Vec::new();
        let mut unknown_use = false;
        if cursor.another() {
            cursor.list(false, "a parameter list is missing", |cursor| {
                if !cursor.eat_all(b"USE ") {
                    return Err("unknown CREATE parameter");
                }
                cursor.spaces();
                cursor.list(true, "USE takes a list", |cursor| {
                    cursor.expect(b'\\', "a use attribute starts with a backslash")?;
                    let name = cursor.atom()?;
                    let named =
                        |known: &SpecialUse| known.attribute()[1..].eq_ignore_ascii_case(name);
                    match SpecialUse::EVERY.into_iter().find(named) {
                        None => unknown_use = true,
                        Some(known) if special_use.contains(&known) => {}
                        Some(known) => special_use.push(known),
                    }
                    Ok(())
                })
            })?;
        }
        Ok(Create { mailbox, special_use, unknown_use })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        Create,
    };
    use crate::model::SpecialUse;

    #[test]
    fn special_use() {
        let create = |special_use, unknown_use| {
            CommandBody::Create(Create { mailbox: mailbox("x"), special_use, unknown_use })
        };
        check("CREATE x", create(vec![], false));
        check(
            "CREATE x (USE (\\Drafts \\sent \\Sent))",
            create(vec![SpecialUse::Drafts, SpecialUse::Sent], false),
        );
        check("CREATE x (USE (\\Weird))", create(vec![], true));
    }
}
