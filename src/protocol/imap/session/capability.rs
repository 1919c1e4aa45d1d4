//! CAPABILITY (RFC 3501 6.1.1): the server's capabilities.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `"CAPABILITY"`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability;

impl Arguments<'_> for Capability {
    fn parse(_: &mut Cursor<'_>, _: bool) -> Parsed<Capability> {
        Ok(Capability)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        Capability,
    };

    #[test]
    fn has_no_arguments() {
        check("CAPABILITY", CommandBody::Capability(Capability));
    }
}
