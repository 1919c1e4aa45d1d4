//! ENABLE (RFC 5161 3.1): extensions that change what the server says on its own.

use super::super::{
    cursor::{Cursor, Parsed},
    table::Arguments,
};

/// Names in one ENABLE.
const ENABLE_NAMES_MAX: usize = 50;

/// `enable = "ENABLE" 1*(SP capability)`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Enable<'a> {
    /// As sent.
    pub names: Vec<&'a str>,
}

impl<'a> Arguments<'a> for Enable<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Enable<'a>> {
        cursor.arguments()?;
        let mut names = vec![cursor.atom()?];
        while cursor.another() {
            if names.len() == ENABLE_NAMES_MAX {
                return Err("too many extensions");
            }
            names.push(cursor.atom()?);
        }
        Ok(Enable { names })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        Enable,
    };

    #[test]
    fn names() {
        let names = vec!["CONDSTORE", "X-Y"];
        check("ENABLE CONDSTORE X-Y", CommandBody::Enable(Enable { names }));
    }
}
