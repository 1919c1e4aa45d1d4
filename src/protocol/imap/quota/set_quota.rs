//! SETQUOTA (RFC 9208 4.1.3).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed, Text},
};

/// `setquota = "SETQUOTA" SP quota-root-name SP setquota-list`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetQuota<'a> {
    pub root: Text<'a>,
    /// In units of 1,024 octets (RFC 9208 5.1).
    pub storage: Option<u64>,
    /// RFC 9208 5.2.
    pub messages: Option<u64>,
    /// A resource was named that this server does not limit.
    pub unknown: bool,
}

impl<'a> Arguments<'a> for SetQuota<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<SetQuota<'a>> {
        cursor.arguments()?;
        let root = cursor.astring()?;
        cursor.space()?;
        let mut set = SetQuota { root, storage: None, messages: None, unknown: false };
        cursor.list(true, "a list of limits is missing", |cursor| {
            let resource = cursor.atom()?;
            cursor.space()?;
            let limit = Some(cursor.number()?);
            let known = if resource.eq_ignore_ascii_case("STORAGE") {
                &mut set.storage
            } else if resource.eq_ignore_ascii_case("MESSAGE") {
                &mut set.messages
            } else {
                set.unknown = true;
                return Ok(());
            };
            match known.is_some() {
                true => Err("a resource has one limit"),
                false => {
                    *known = limit;
                    Ok(())
                }
            }
        })?;
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody, parse,
            tests::{check, text},
        },
        SetQuota,
    };

    #[test]
    fn limits() {
        let none =
            SetQuota { root: text("#user/alice"), storage: None, messages: None, unknown: false };
        let cases = [
            ("()", none.clone()),
            ("(STORAGE 510)", SetQuota { storage: Some(510), ..none.clone() }),
            ("(message 1 Storage 0)", {
                SetQuota { storage: Some(0), messages: Some(1), ..none.clone() }
            }),
            ("(MAILBOX 3)", SetQuota { unknown: true, ..none }),
        ];
        for (written, expected) in cases {
            check(&format!("SETQUOTA \"#user/alice\" {written}"), CommandBody::SetQuota(expected));
        }
    }

    #[test]
    fn nothing_else_is_a_list_of_limits() {
        for written in [
            "",
            "STORAGE 1",
            "(STORAGE)",
            "(STORAGE x)",
            "(STORAGE -1)",
            "(STORAGE 9223372036854775808)",
            "(STORAGE 1 STORAGE 2)",
            "(STORAGE 1",
            "(STORAGE 1) x",
        ] {
            assert!(parse(format!("a SETQUOTA x {written}\r\n").as_bytes()).is_err(), "{written}");
        }
    }
}
