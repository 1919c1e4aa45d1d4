//! UNAUTHENTICATE (RFC 8437 3): back to the state before log-in.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `"UNAUTHENTICATE"`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unauthenticate;

impl Arguments<'_> for Unauthenticate {
    fn parse(_: &mut Cursor<'_>, _: bool) -> Parsed<Unauthenticate> {
        Ok(Unauthenticate)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        Unauthenticate,
    };

    #[test]
    fn has_no_arguments() {
        check("UNAUTHENTICATE", CommandBody::Unauthenticate(Unauthenticate));
    }
}
