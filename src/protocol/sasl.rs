//! The server's side of SASL (RFC 4422): PLAIN (RFC 4616) and LOGIN, which old clients still use.
//!
//! SMTP AUTH (RFC 4954), POP3 AUTH (RFC 5034) and IMAP AUTHENTICATE (RFC 3501 6.2.2) each drive one
//! [`Exchange`]: the client's lines in, without their CRLF; challenges, already in base64, or
//! [`Credentials`] out. The directory checks the credentials, and the protocol frames each step
//! (`334 `, `+ `).
//!
//! Invariants: an exchange holds at most one decoded user name and copies nothing longer than
//! [`RESPONSE_MAX`]; it never panics on any input; after [`Step::Done`] or [`Step::Failed`] it is
//! over. Names and passwords are compared octet by octet: no SASLprep.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

/// Longest base64 line that an exchange decodes. Sessions accept AUTH continuation lines of at
/// least this length; RFC 4954 4 asks for 12,288 octets, enough for Kerberos tickets, which we
/// never read.
pub const RESPONSE_MAX: usize = 4096;
/// Longest authentication identity, octets (RFC 4616 2 asks for 255 at least).
pub const USER_MAX: usize = 512;
/// Longest password, octets (RFC 4616 2 asks for 255 at least).
pub const PASSWORD_MAX: usize = 1024;

/// Mechanisms the server offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    Plain,
    Login,
}

impl Mechanism {
    /// In the order of announcement.
    pub const ALL: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

    /// By its name on the wire, in any case (RFC 4954 4: the argument is not case-sensitive).
    pub fn parse(name: &[u8]) -> Option<Mechanism> {
        Mechanism::ALL.into_iter().find(|it| it.name().as_bytes().eq_ignore_ascii_case(name))
    }

    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }
}

/// The client's claim: to be checked, and never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Authentication identity, not empty.
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why an exchange ended without credentials.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SaslError {
    /// The client sent `*` (RFC 4954 4, RFC 5034 4, RFC 3501 6.2.2): 501, -ERR or BAD.
    #[error("authentication cancelled")]
    Cancelled,
    /// Not base64, or not what the mechanism requires: 501, -ERR or BAD.
    #[error("{0}")]
    Malformed(&'static str),
    /// The client asked to act as another user (RFC 4616 2): treated like a wrong password.
    #[error("not authorised to act for another user")]
    AuthorizationDenied,
}

/// What to do after one line from the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send this challenge (base64, may be empty) and feed the client's next line.
    Challenge(&'static str),
    Done(Credentials),
    Failed(SaslError),
}

/// One run of a mechanism.
#[derive(Debug)]
pub struct Exchange {
    state: State,
}

#[derive(Debug)]
enum State {
    PlainMessage,
    LoginUser,
    LoginPassword { user: String },
    Over,
}

/// "Username:" and "Password:", which LOGIN clients expect.
const LOGIN_USER_CHALLENGE: &str = "VXNlcm5hbWU6";
const LOGIN_PASSWORD_CHALLENGE: &str = "UGFzc3dvcmQ6";

impl Exchange {
    /// Begins with the initial response from the command line, if there was one: `=` means an empty
    /// one there (RFC 4954 4, RFC 5034 4, RFC 4959 3).
    pub fn start(mechanism: Mechanism, initial_response: Option<&[u8]>) -> (Exchange, Step) {
        let (state, challenge) = match mechanism {
            Mechanism::Plain => (State::PlainMessage, ""),
            Mechanism::Login => (State::LoginUser, LOGIN_USER_CHALLENGE),
        };
        let mut exchange = Exchange { state };
        let step = match initial_response {
            None => Step::Challenge(challenge),
            Some(b"=") => exchange.advance(b""),
            Some(response) => exchange.advance(response),
        };
        (exchange, step)
    }

    /// Takes the client's answer to the last challenge, without its CRLF.
    pub fn respond(&mut self, line: &[u8]) -> Step {
        if line == b"*" {
            self.state = State::Over;
            return Step::Failed(SaslError::Cancelled);
        }
        self.advance(line)
    }

    fn advance(&mut self, base64: &[u8]) -> Step {
        match self.try_advance(base64) {
            Ok(step) => step,
            Err(error) => {
                self.state = State::Over;
                Step::Failed(error)
            }
        }
    }

    fn try_advance(&mut self, base64: &[u8]) -> Result<Step, SaslError> {
        let message = decode(base64)?;
        match std::mem::replace(&mut self.state, State::Over) {
            State::PlainMessage => plain_message(message).map(Step::Done),
            State::LoginUser => {
                self.state = State::LoginPassword { user: identity(message)? };
                Ok(Step::Challenge(LOGIN_PASSWORD_CHALLENGE))
            }
            State::LoginPassword { user } => {
                Ok(Step::Done(Credentials { user, password: secret(message)? }))
            }
            State::Over => Err(SaslError::Malformed("the exchange is over")),
        }
    }
}

/// Canonical base64 with padding only (RFC 4648 4): a second spelling of the same octets would be a
/// second key for the counting of attempts.
fn decode(base64: &[u8]) -> Result<Vec<u8>, SaslError> {
    if base64.len() > RESPONSE_MAX {
        return Err(SaslError::Malformed("response too long"));
    }
    STANDARD.decode(base64).map_err(|_| SaslError::Malformed("invalid base64"))
}

/// `message = [authzid] UTF8NUL authcid UTF8NUL passwd` (RFC 4616 2).
fn plain_message(message: Vec<u8>) -> Result<Credentials, SaslError> {
    let mut fields = message.split(|&octet| octet == 0);
    let (Some(authzid), Some(authcid), Some(passwd), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(SaslError::Malformed("PLAIN wants three fields"));
    };
    let credentials =
        Credentials { user: identity(authcid.to_vec())?, password: secret(passwd.to_vec())? };
    if !authzid.is_empty() && authzid != authcid {
        return Err(SaslError::AuthorizationDenied);
    }
    Ok(credentials)
}

fn identity(octets: Vec<u8>) -> Result<String, SaslError> {
    text(octets, USER_MAX, "invalid user name")
}

fn secret(octets: Vec<u8>) -> Result<String, SaslError> {
    text(octets, PASSWORD_MAX, "invalid password")
}

/// One to `max` octets of UTF-8 without NUL: `1*SAFE` of RFC 4616 2.
fn text(octets: Vec<u8>, max: usize, complaint: &'static str) -> Result<String, SaslError> {
    if octets.is_empty() || octets.len() > max || octets.contains(&0) {
        return Err(SaslError::Malformed(complaint));
    }
    String::from_utf8(octets).map_err(|_| SaslError::Malformed(complaint))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Mechanism, initial response, the client's lines, and how it ends: `Ok("user/password")`.
    type Case = (&'static str, Option<&'static str>, &'static [&'static str], Outcome);
    type Outcome = Result<&'static str, SaslError>;

    const CASES: &[Case] = &[
        // RFC 4616 4: the examples "tim" / "tanstaaftanstaaf", here after a challenge.
        ("PLAIN", None, &["AHRpbQB0YW5zdGFhZnRhbnN0YWFm"], Ok("tim/tanstaaftanstaaf")),
        ("plain", Some("AHRpbQB0YW5zdGFhZnRhbnN0YWFm"), &[], Ok("tim/tanstaaftanstaaf")),
        // RFC 4954 4.1: "test" NUL "test" NUL "1234": the identity to act as is one's own.
        ("PLAIN", Some("dGVzdAB0ZXN0ADEyMzQ="), &[], Ok("test/1234")),
        // RFC 4616 4: Ursel for Kurt is refused: acting for other users is not supported.
        ("PLAIN", Some("VXJzZWwAS3VydAB4aXBqMzBwbHE="), &[], Err(SaslError::AuthorizationDenied)),
        ("PLAIN", Some("="), &[], Err(SaslError::Malformed("PLAIN wants three fields"))),
        ("PLAIN", None, &[""], Err(SaslError::Malformed("PLAIN wants three fields"))),
        ("PLAIN", None, &["="], Err(SaslError::Malformed("invalid base64"))),
        ("PLAIN", None, &["*"], Err(SaslError::Cancelled)),
        // An initial response cannot cancel: it is an invalid one.
        ("PLAIN", Some("*"), &[], Err(SaslError::Malformed("invalid base64"))),
        ("PLAIN", Some("AGEAYgBj"), &[], Err(SaslError::Malformed("PLAIN wants three fields"))),
        ("PLAIN", Some("AGEA"), &[], Err(SaslError::Malformed("invalid password"))),
        ("PLAIN", Some("AABi"), &[], Err(SaslError::Malformed("invalid user name"))),
        ("PLAIN", Some("AP8AYg=="), &[], Err(SaslError::Malformed("invalid user name"))),
        // RFC 4648 3.2, 3.5: padding is required, and its spare bits are zero.
        ("PLAIN", Some("AGEAYg"), &[], Err(SaslError::Malformed("invalid base64"))),
        ("PLAIN", Some("AGEAYh=="), &[], Err(SaslError::Malformed("invalid base64"))),
        ("PLAIN", Some("AGEA Yg=="), &[], Err(SaslError::Malformed("invalid base64"))),
        ("LOGIN", None, &["dGlt", "c2VjcmV0"], Ok("tim/secret")),
        ("Login", Some("dGlt"), &["c2VjcmV0"], Ok("tim/secret")),
        ("LOGIN", None, &["dGlt", "*"], Err(SaslError::Cancelled)),
        ("LOGIN", None, &[""], Err(SaslError::Malformed("invalid user name"))),
        ("LOGIN", None, &["dGlt", ""], Err(SaslError::Malformed("invalid password"))),
        ("LOGIN", None, &["dABt"], Err(SaslError::Malformed("invalid user name"))),
    ];

    #[test]
    fn cases() {
        for case in CASES {
            check(case);
        }
    }

    fn check(case: &Case) {
        let (name, initial_response, lines, expected) = *case;
        let mechanism = Mechanism::parse(name.as_bytes()).expect(name);
        let (mut exchange, mut step) =
            Exchange::start(mechanism, initial_response.map(str::as_bytes));
        for line in lines {
            assert!(matches!(step, Step::Challenge(_)), "{case:?}: early {step:?}");
            step = exchange.respond(line.as_bytes());
        }
        let expected = match expected {
            Ok(pair) => {
                let (user, password) = pair.split_once('/').expect("user/password");
                Step::Done(Credentials { user: user.into(), password: password.into() })
            }
            Err(error) => Step::Failed(error),
        };
        assert_eq!(step, expected, "{case:?}");
        assert!(matches!(exchange.respond(b"dGlt"), Step::Failed(_)), "{case:?} is not over");
    }

    #[test]
    fn login_asks_for_user_then_password() {
        let (mut exchange, step) = Exchange::start(Mechanism::Login, None);
        assert_eq!(step, Step::Challenge("VXNlcm5hbWU6"));
        assert_eq!(exchange.respond(b"dGlt"), Step::Challenge("UGFzc3dvcmQ6"));
    }

    #[test]
    fn lengths_are_limited() {
        for (user, password, fits) in [
            (USER_MAX, PASSWORD_MAX, true),
            (USER_MAX + 1, 1, false),
            (1, PASSWORD_MAX + 1, false),
            (1, RESPONSE_MAX, false),
        ] {
            let message = format!("\0{}\0{}", "u".repeat(user), "p".repeat(password));
            let response = STANDARD.encode(message);
            let (_, step) = Exchange::start(Mechanism::Plain, Some(response.as_bytes()));
            assert_eq!(matches!(step, Step::Done(_)), fits, "{user} {password}: {step:?}");
        }
    }

    #[test]
    fn debug_output_hides_the_password() {
        let credentials = Credentials { user: "tim".into(), password: "tanstaaf".into() };
        assert!(!format!("{:?}", Step::Done(credentials)).contains("tanstaaf"));
    }

    proptest! {
        #[test]
        fn plain_gives_back_what_was_encoded(user in "[^\0]{1,60}", password in "[^\0]{1,60}") {
            let response = STANDARD.encode(format!("\0{user}\0{password}"));
            let (_, step) = Exchange::start(Mechanism::Plain, Some(response.as_bytes()));
            prop_assert_eq!(step, Step::Done(Credentials { user, password }));
        }

        #[test]
        fn no_line_panics(lines in proptest::collection::vec(any::<Vec<u8>>(), 0..4)) {
            for mechanism in Mechanism::ALL {
                let (mut exchange, _) = Exchange::start(mechanism, None);
                for line in &lines {
                    exchange.respond(line);
                    exchange.respond(STANDARD.encode(line).as_bytes());
                }
            }
        }
    }
}
