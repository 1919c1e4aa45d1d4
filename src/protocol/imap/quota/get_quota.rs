//! GETQUOTA (RFC 9208 4.1.1).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed, Text},
};

/// `getquota = "GETQUOTA" SP quota-root-name`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GetQuota<'a> {
    pub root: Text<'a>,
}

impl<'a> Arguments<'a> for GetQuota<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<GetQuota<'a>> {
        cursor.arguments()?;
        Ok(GetQuota { root: cursor.astring()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, text},
        },
        GetQuota,
    };

    #[test]
    fn names_a_root() {
        for (written, root) in [("\"\"", ""), ("\"!partition/sda4\"", "!partition/sda4")] {
            let root = text(root);
            check(&format!("GETQUOTA {written}"), CommandBody::GetQuota(GetQuota { root }));
        }
    }
}
