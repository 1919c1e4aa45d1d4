//! STARTTLS (RFC 3501 6.2.1): TLS begins after the response.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `"STARTTLS"`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartTls;

impl Arguments<'_> for StartTls {
    fn parse(_: &mut Cursor<'_>, _: bool) -> Parsed<StartTls> {
        Ok(StartTls)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        StartTls,
    };

    #[test]
    fn has_no_arguments() {
        check("STARTTLS", CommandBody::StartTls(StartTls));
    }
}
