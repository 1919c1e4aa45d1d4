//! CLOSE (RFC 3501 6.4.2) and UNSELECT (RFC 3691 2): leaving the mailbox, with or without an
//! expunge.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `"CLOSE"`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Close;

/// `"UNSELECT"`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unselect;

impl Arguments<'_> for Close {
    fn parse(_: &mut Cursor<'_>, _: bool) -> Parsed<Close> {
        Ok(Close)
    }
}

impl Arguments<'_> for Unselect {
    fn parse(_: &mut Cursor<'_>, _: bool) -> Parsed<Unselect> {
        Ok(Unselect)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        Close, Unselect,
    };

    #[test]
    fn have_no_arguments() {
        check("CLOSE", CommandBody::Close(Close));
        check("UNSELECT", CommandBody::Unselect(Unselect));
    }
}
