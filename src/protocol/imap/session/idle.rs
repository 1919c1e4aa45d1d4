//! IDLE (RFC 2177 3): changes are reported at once. [`super::super::Framer::line`] reads the `DONE`
//! line.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `idle = "IDLE" CRLF "DONE"`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Idle;

impl Arguments<'_> for Idle {
    fn parse(_: &mut Cursor<'_>, _: bool) -> Parsed<Idle> {
        Ok(Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        Idle,
    };

    #[test]
    fn has_no_arguments() {
        check("IDLE", CommandBody::Idle(Idle));
    }
}
