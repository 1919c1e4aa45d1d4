//! NAMESPACE (RFC 2342 5): the prefixes of personal and other mailboxes.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `"NAMESPACE"`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Namespace;

impl Arguments<'_> for Namespace {
    fn parse(_: &mut Cursor<'_>, _: bool) -> Parsed<Namespace> {
        Ok(Namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        Namespace,
    };

    #[test]
    fn has_no_arguments() {
        check("NAMESPACE", CommandBody::Namespace(Namespace));
    }
}
