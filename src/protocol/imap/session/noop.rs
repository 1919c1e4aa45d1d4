//! NOOP (RFC 3501 6.1.2): the client asks for updates.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `"NOOP"`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Noop;

impl Arguments<'_> for Noop {
    fn parse(_: &mut Cursor<'_>, _: bool) -> Parsed<Noop> {
        Ok(Noop)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        Noop,
    };

    #[test]
    fn has_no_arguments() {
        check("noop", CommandBody::Noop(Noop));
    }
}
