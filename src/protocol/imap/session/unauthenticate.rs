//! UNAUTHENTICATE (RFC 8437 3): back to the state before log-in.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `"UNAUTHENTICATE"`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unauthenticate;

impl Unauthenticate {
    /// Whether the last line of `received` may be this command, behind which a client may send
    /// octets that are not compressed (RFC 8437 4.1).
    pub fn may_end(received: &[u8]) -> bool {
        const NAME: &[u8] = b"UNAUTHENTICATE";
        let line = received.strip_suffix(b"\n").map(<[u8]>::trim_ascii_end).unwrap_or_default();
        line.split_at_checked(line.len().saturating_sub(NAME.len()))
            .is_some_and(|(_, end)| end.eq_ignore_ascii_case(NAME))
    }
}

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

    #[test]
    fn lines_that_may_be_it() {
        const CASES: &[(&[u8], bool)] = &[
            (b"a UNAUTHENTICATE\r\n", true),
            (b"a NOOP\r\nb unauthenticate \r\n", true),
            (b"a UNAUTHENTICATE\n", true),
            (b"a UNAUTHENTICATE\r", false),
            (b"a UNAUTHENTICATE\r\nb NOOP\r\n", false),
            (b"a UNAUTHENTICATED\r\n", false),
            (b"\n", false),
            (b"", false),
        ];
        for (received, expected) in CASES {
            assert_eq!(Unauthenticate::may_end(received), *expected, "{}", received.escape_ascii());
        }
    }
}
