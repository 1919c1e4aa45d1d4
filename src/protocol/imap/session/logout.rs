//! LOGOUT (RFC 3501 6.1.3): the client leaves.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `"LOGOUT"`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Logout;

impl Arguments<'_> for Logout {
    fn parse(_: &mut Cursor<'_>, _: bool) -> Parsed<Logout> {
        Ok(Logout)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        Logout,
    };

    #[test]
    fn has_no_arguments() {
        check("LogOut", CommandBody::Logout(Logout));
    }
}
