//! AUTHENTICATE (RFC 3501 6.2.2, RFC 4959). `protocol::sasl` handles the exchange, and
//! [`super::super::Framer::line`] reads its lines.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `authenticate = "AUTHENTICATE" SP auth-type [SP (base64 / "=")]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authenticate<'a> {
    pub mechanism: &'a str,
    /// Still base64; empty for `=` (RFC 4959 3).
    pub initial_response: Option<&'a [u8]>,
}

impl<'a> Arguments<'a> for Authenticate<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Authenticate<'a>> {
        cursor.arguments()?;
        let mechanism = cursor.atom()?;
        if !cursor.another() {
            return Ok(Authenticate { mechanism, initial_response: None });
        }
        let is_base64 =
            |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/' | b'=');
        let response = match cursor.take_while(is_base64) {
            [] => return Err("the initial response is not base64"),
            b"=" => b"",
            response => response,
        };
        Ok(Authenticate { mechanism, initial_response: Some(response) })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        Authenticate,
    };

    #[test]
    fn initial_responses() {
        let authenticate = |mechanism, initial_response: Option<&'static str>| {
            let initial_response = initial_response.map(str::as_bytes);
            CommandBody::Authenticate(Authenticate { mechanism, initial_response })
        };
        check("AUTHENTICATE PLAIN", authenticate("PLAIN", None));
        check("AUTHENTICATE PLAIN =", authenticate("PLAIN", Some("")));
        check("authenticate plain AGEAYg==", authenticate("plain", Some("AGEAYg==")));
    }
}
