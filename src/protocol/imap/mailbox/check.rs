//! CHECK (RFC 3501 6.4.1): housekeeping, if the server has any to do.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `"CHECK"`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Check;

impl Arguments<'_> for Check {
    fn parse(_: &mut Cursor<'_>, _: bool) -> Parsed<Check> {
        Ok(Check)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        Check,
    };

    #[test]
    fn has_no_arguments() {
        check("CHECK", CommandBody::Check(Check));
    }
}
