//! The server's side of SASL (RFC 4422).
//!
//! SMTP AUTH (RFC 4954), POP3 AUTH (RFC 5034) and IMAP AUTHENTICATE (RFC 3501 6.2.2) each drive one
//! [`Exchange`]: the client's lines in, without their CRLF; challenges, already in base64, or a
//! [`Question`] out, which the service answers. The protocol frames each step (`334 `, `+ `). None
//! of them knows a mechanism: what one is called and what it needs is here, what it says in its own
//! file.
//!
//! Invariants: an exchange copies nothing longer than [`RESPONSE_MAX`]; it never panics on any
//! input; after [`Step::Over`] or [`Step::Failed`] it is over.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod bearer;
mod external;
mod login;
mod plain;
pub mod scram;

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

use self::{
    bearer::{Bearer, Flavour},
    scram::Scram,
};

/// Longest base64 line that an exchange decodes: RFC 4954 4 asks for as much, and tokens are long.
/// Sessions accept AUTH continuation lines of at least this length.
pub const RESPONSE_MAX: usize = 12_288;
/// Longest authentication identity, octets (RFC 4616 2 asks for 255 at least).
pub const USER_MAX: usize = 512;
/// Longest password, octets (RFC 4616 2 asks for 255 at least).
pub const PASSWORD_MAX: usize = 1024;

/// Mechanisms that the server knows, in the order of announcement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    External,
    ScramSha256Plus,
    ScramSha1Plus,
    ScramSha256,
    ScramSha1,
    Plain,
    /// Never standardized; old clients use it.
    Login,
    OAuthBearer,
    /// Never standardized either; the forerunner of OAUTHBEARER.
    XOAuth2,
}

impl Mechanism {
    /// In the order of announcement.
    pub const ALL: [Mechanism; 9] = [
        Mechanism::External,
        Mechanism::ScramSha256Plus,
        Mechanism::ScramSha1Plus,
        Mechanism::ScramSha256,
        Mechanism::ScramSha1,
        Mechanism::Plain,
        Mechanism::Login,
        Mechanism::OAuthBearer,
        Mechanism::XOAuth2,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Mechanism::External => "EXTERNAL",
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::ScramSha1Plus => "SCRAM-SHA-1-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
            Mechanism::OAuthBearer => "OAUTHBEARER",
            Mechanism::XOAuth2 => "XOAUTH2",
        }
    }

    /// Whether whoever reads along can log in afterwards: not over cleartext.
    pub fn needs_privacy(self) -> bool {
        match self {
            Mechanism::Plain | Mechanism::Login => true,
            _ => self.needs_tokens(),
        }
    }

    /// Whether tokens must be accepted here.
    pub fn needs_tokens(self) -> bool {
        matches!(self, Mechanism::OAuthBearer | Mechanism::XOAuth2)
    }

    /// Whether the client must prove which connection it has ([`Binding`]).
    pub fn binds(self) -> bool {
        matches!(self, Mechanism::ScramSha256Plus | Mechanism::ScramSha1Plus)
    }

    /// Whether the client must have shown a certificate that names an account.
    pub fn needs_certificate(self) -> bool {
        self == Mechanism::External
    }

    /// Whether accounts need stored keys for it.
    pub fn needs_keys(self) -> bool {
        self.binds() || matches!(self, Mechanism::ScramSha256 | Mechanism::ScramSha1)
    }

    fn machine(self, offered: Mechanisms) -> Box<dyn Machine> {
        let scram = |hash| {
            let plus_is_offered = offered.iter().any(Mechanism::binds);
            Box::new(Scram::new(hash, self.binds(), plus_is_offered))
        };
        match self {
            Mechanism::External => Box::new(external::External),
            Mechanism::OAuthBearer => Box::new(Bearer::new(Flavour::OAuthBearer)),
            Mechanism::XOAuth2 => Box::new(Bearer::new(Flavour::XOAuth2)),
            Mechanism::ScramSha256Plus | Mechanism::ScramSha256 => scram(scram::Hash::Sha256),
            Mechanism::ScramSha1Plus | Mechanism::ScramSha1 => scram(scram::Hash::Sha1),
            Mechanism::Plain => Box::new(plain::Plain),
            Mechanism::Login => Box::new(login::Login::User),
        }
    }
}

/// A set of mechanisms: what is offered on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Mechanisms(u16);

/// What a TLS connection is bound to (RFC 5056).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Binding {
    /// RFC 9266: keying material of the connection.
    Exporter,
    /// RFC 5929 4: the hash of the server's certificate.
    EndPoint,
}

impl Binding {
    fn parse(name: &str) -> Option<Binding> {
        match name {
            "tls-exporter" => Some(Binding::Exporter),
            "tls-server-end-point" => Some(Binding::EndPoint),
            _ => None,
        }
    }
}

/// Why a mechanism cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotOffered {
    Unknown,
    /// It can be used under TLS.
    NeedsPrivacy,
}

impl Mechanisms {
    pub const NONE: Mechanisms = Mechanisms(0);
    pub const ALL: Mechanisms = Mechanisms((1 << Mechanism::ALL.len()) - 1);

    pub fn insert(&mut self, mechanism: Mechanism) {
        self.0 |= 1 << mechanism as u16;
    }

    pub fn contains(self, mechanism: Mechanism) -> bool {
        self.0 & (1 << mechanism as u16) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In the order of announcement.
    pub fn iter(self) -> impl Iterator<Item = Mechanism> {
        Mechanism::ALL.into_iter().filter(move |it| self.contains(*it))
    }

    /// The offered mechanism of this name, in any case (RFC 4954 4: the argument is not
    /// case-sensitive). `is_private`: nobody reads along.
    ///
    /// # Errors
    /// It is not among those that are offered.
    pub fn choose(self, name: &[u8], is_private: bool) -> Result<Mechanism, NotOffered> {
        let mut all = Mechanism::ALL.into_iter();
        let named = all.find(|it| it.name().as_bytes().eq_ignore_ascii_case(name));
        match named {
            Some(mechanism) if self.contains(mechanism) => Ok(mechanism),
            Some(mechanism) if mechanism.needs_privacy() && !is_private => {
                Err(NotOffered::NeedsPrivacy)
            }
            _ => Err(NotOffered::Unknown),
        }
    }
}

impl FromIterator<Mechanism> for Mechanisms {
    fn from_iter<T: IntoIterator<Item = Mechanism>>(mechanisms: T) -> Mechanisms {
        let mut set = Mechanisms::NONE;
        mechanisms.into_iter().for_each(|mechanism| set.insert(mechanism));
        set
    }
}

/// A name and its password: to be checked, and never logged.
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

/// A bearer token: to be checked, and never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

/// What only the service knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// Whether the password is right, and whether the user may act for another one.
    Password {
        credentials: Credentials,
        /// Whom to act for, if the client named somebody (RFC 4422 3.4.1).
        authorization: Option<String>,
    },
    /// Whether the token is a user's, and whether he may act for another one.
    Token { token: Token, authorization: Option<String> },
    /// Whether the client's certificate is a user's, and whether he may act for another one.
    Certificate { authorization: Option<String> },
    /// What `user` must prove: [`Answer::Ground`].
    Keys { user: String, hash: scram::Hash, binding: Option<Binding> },
    /// Whether the client may have tried, and whether the user may act for another one.
    Proof {
        user: String,
        authorization: Option<String>,
        hash: scram::Hash,
        /// The stored key of the password that the client knows; `None`: it knows none.
        proved: Option<Vec<u8>>,
    },
}

/// The answer to a [`Question`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The client is who it says.
    Accepted,
    /// It is not.
    Refused,
    /// Nobody can tell now.
    Unavailable,
    /// To [`Question::Keys`].
    Ground(Box<scram::Ground>),
}

/// Why an exchange ended before anybody was asked about the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SaslError {
    /// The client sent `*` (RFC 4954 4, RFC 5034 4, RFC 3501 6.2.2): 501, -ERR or BAD.
    #[error("authentication cancelled")]
    Cancelled,
    /// Not base64 (the same): 501, -ERR or BAD.
    #[error("{0}")]
    Undecodable(&'static str),
    /// Not what the mechanism requires, so that it fails as with a wrong password (RFC 4954 6, RFC
    /// 3206 4, RFC 3501 6.2.2): 535, -ERR [AUTH] or NO [AUTHENTICATIONFAILED].
    #[error("{0}")]
    Refused(&'static str),
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send this challenge (base64, may be empty) and feed the client's next line.
    Challenge(String),
    /// Find out, and call [`Exchange::answer`].
    Ask(Question),
    /// The last answer holds: the client is logged in, or refused.
    Over,
    Failed(SaslError),
}

/// What a mechanism says next: a [`Step`] before its encoding.
#[derive(Debug)]
enum Move {
    Challenge(Vec<u8>),
    Ask(Question),
    Over,
}

/// A mechanism at work.
trait Machine: fmt::Debug + Send {
    /// What the server says if the client does not speak first.
    fn opening(&self) -> &'static str {
        ""
    }

    /// Takes the client's next message.
    fn respond(&mut self, message: Vec<u8>) -> Result<Move, SaslError>;

    /// Takes the answer to the question.
    fn answer(&mut self, answer: Answer) -> Result<Move, SaslError> {
        let _ = answer;
        Ok(Move::Over)
    }
}

/// One run of a mechanism.
#[derive(Debug)]
pub struct Exchange {
    /// `None` once it is over.
    machine: Option<Box<dyn Machine>>,
}

impl Exchange {
    /// Begins with the initial response from the command line, if there was one: `=` means an empty
    /// one there (RFC 4954 4, RFC 5034 4, RFC 4959 3).
    /// `offered`: what the client could have chosen.
    pub fn start(
        mechanism: Mechanism,
        offered: Mechanisms,
        initial_response: Option<&[u8]>,
    ) -> (Exchange, Step) {
        let machine = mechanism.machine(offered);
        let opening = machine.opening();
        let mut exchange = Exchange { machine: Some(machine) };
        let step = match initial_response {
            None => Step::Challenge(STANDARD.encode(opening)),
            Some(b"=") => exchange.take(b""),
            Some(response) => exchange.take(response),
        };
        (exchange, step)
    }

    /// Takes the client's answer to the last challenge, without its CRLF.
    pub fn respond(&mut self, line: &[u8]) -> Step {
        if line == b"*" {
            self.machine = None;
            return Step::Failed(SaslError::Cancelled);
        }
        self.take(line)
    }

    /// Takes the service's answer to the last question.
    pub fn answer(&mut self, answer: Answer) -> Step {
        self.advance(|machine| machine.answer(answer))
    }

    fn take(&mut self, base64: &[u8]) -> Step {
        self.advance(|machine| machine.respond(decode(base64)?))
    }

    fn advance(
        &mut self,
        advance: impl FnOnce(&mut dyn Machine) -> Result<Move, SaslError>,
    ) -> Step {
        let step = match &mut self.machine {
            Some(machine) => advance(&mut **machine),
            None => Err(SaslError::Refused("the exchange is over")),
        };
        match step {
            Ok(Move::Challenge(challenge)) => return Step::Challenge(STANDARD.encode(challenge)),
            Ok(Move::Ask(question)) => return Step::Ask(question),
            Ok(Move::Over) | Err(_) => self.machine = None,
        }
        step.map_or_else(Step::Failed, |_| Step::Over)
    }
}

/// Canonical base64 with padding only (RFC 4648 4): a second spelling of the same octets would be a
/// second key for the counting of attempts.
fn decode(base64: &[u8]) -> Result<Vec<u8>, SaslError> {
    if base64.len() > RESPONSE_MAX {
        return Err(SaslError::Undecodable("response too long"));
    }
    STANDARD.decode(base64).map_err(|_| SaslError::Undecodable("invalid base64"))
}

fn identity(octets: &[u8]) -> Result<String, SaslError> {
    text(octets, USER_MAX, "invalid user name")
}

fn secret(octets: &[u8]) -> Result<String, SaslError> {
    text(octets, PASSWORD_MAX, "invalid password")
}

/// One to `max` octets of UTF-8 without NUL: `1*SAFE` of RFC 4616 2.
fn text(octets: &[u8], max: usize, complaint: &'static str) -> Result<String, SaslError> {
    if octets.is_empty() || octets.len() > max || octets.contains(&0) {
        return Err(SaslError::Refused(complaint));
    }
    let text = std::str::from_utf8(octets).map_err(|_| SaslError::Refused(complaint))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Mechanism, initial response, the client's lines, and how it ends: `Ok("user/password")`,
    /// with `user/password/other` for acting for another one.
    type Case = (&'static str, Option<&'static str>, &'static [&'static str], Outcome);
    type Outcome = Result<&'static str, SaslError>;

    const CASES: &[Case] = &[
        // RFC 4616 4: the examples "tim" / "tanstaaftanstaaf", here after a challenge.
        ("PLAIN", None, &["AHRpbQB0YW5zdGFhZnRhbnN0YWFm"], Ok("tim/tanstaaftanstaaf")),
        ("plain", Some("AHRpbQB0YW5zdGFhZnRhbnN0YWFm"), &[], Ok("tim/tanstaaftanstaaf")),
        // RFC 4954 4.1: "test" NUL "test" NUL "1234": the identity to act as is one's own.
        ("PLAIN", Some("dGVzdAB0ZXN0ADEyMzQ="), &[], Ok("test/1234/test")),
        // RFC 4616 4: Kurt acts for Ursel.
        ("PLAIN", Some("VXJzZWwAS3VydAB4aXBqMzBwbHE="), &[], Ok("Kurt/xipj30plq/Ursel")),
        ("PLAIN", Some("="), &[], Err(SaslError::Refused("PLAIN wants three fields"))),
        ("PLAIN", None, &[""], Err(SaslError::Refused("PLAIN wants three fields"))),
        ("PLAIN", None, &["="], Err(SaslError::Undecodable("invalid base64"))),
        ("PLAIN", None, &["*"], Err(SaslError::Cancelled)),
        // An initial response cannot cancel: it is an invalid one.
        ("PLAIN", Some("*"), &[], Err(SaslError::Undecodable("invalid base64"))),
        ("PLAIN", Some("AGEAYgBj"), &[], Err(SaslError::Refused("PLAIN wants three fields"))),
        ("PLAIN", Some("AGEA"), &[], Err(SaslError::Refused("invalid password"))),
        ("PLAIN", Some("AABi"), &[], Err(SaslError::Refused("invalid user name"))),
        ("PLAIN", Some("AP8AYg=="), &[], Err(SaslError::Refused("invalid user name"))),
        ("PLAIN", Some("/wBhAGI="), &[], Err(SaslError::Refused("invalid user name"))),
        // RFC 4648 3.2, 3.5: padding is required, and its spare bits are zero.
        ("PLAIN", Some("AGEAYg"), &[], Err(SaslError::Undecodable("invalid base64"))),
        ("PLAIN", Some("AGEAYh=="), &[], Err(SaslError::Undecodable("invalid base64"))),
        ("PLAIN", Some("AGEA Yg=="), &[], Err(SaslError::Undecodable("invalid base64"))),
        ("LOGIN", None, &["dGlt", "c2VjcmV0"], Ok("tim/secret")),
        ("Login", Some("dGlt"), &["c2VjcmV0"], Ok("tim/secret")),
        ("LOGIN", None, &["dGlt", "*"], Err(SaslError::Cancelled)),
        ("LOGIN", None, &[""], Err(SaslError::Refused("invalid user name"))),
        ("LOGIN", None, &["dGlt", ""], Err(SaslError::Refused("invalid password"))),
        ("LOGIN", None, &["dABt"], Err(SaslError::Refused("invalid user name"))),
    ];

    #[test]
    fn cases() {
        for case in CASES {
            check(case);
        }
    }

    fn check(case: &Case) {
        let (name, initial_response, lines, expected) = *case;
        let mechanism = Mechanisms::ALL.choose(name.as_bytes(), true).expect(name);
        let (mut exchange, mut step) =
            Exchange::start(mechanism, Mechanisms::ALL, initial_response.map(str::as_bytes));
        for line in lines {
            assert!(matches!(step, Step::Challenge(_)), "{case:?}: early {step:?}");
            step = exchange.respond(line.as_bytes());
        }
        match expected {
            Ok(fields) => {
                let mut fields = fields.splitn(3, '/').map(str::to_owned);
                let mut next = || fields.next().expect("user/password");
                let credentials = Credentials { user: next(), password: next() };
                let authorization = fields.next();
                let question = Question::Password { credentials, authorization };
                assert_eq!(step, Step::Ask(question), "{case:?}");
                assert_eq!(exchange.answer(Answer::Accepted), Step::Over, "{case:?}");
            }
            Err(error) => assert_eq!(step, Step::Failed(error), "{case:?}"),
        }
        assert!(matches!(exchange.respond(b"dGlt"), Step::Failed(_)), "{case:?} is not over");
        assert!(matches!(exchange.answer(Answer::Accepted), Step::Failed(_)), "{case:?}");
    }

    /// RFC 4422 A.4: its examples.
    #[test]
    fn external_sends_only_whom_to_act_for() {
        let ask = |authorization: Option<&str>| {
            let authorization = authorization.map(str::to_owned);
            Step::Ask(Question::Certificate { authorization })
        };
        let start = |response: Option<&[u8]>| {
            Exchange::start(Mechanism::External, Mechanisms::ALL, response)
        };
        let fred = STANDARD.encode("fred@example.com");
        assert_eq!(start(Some(b"=")).1, ask(None));
        assert_eq!(start(Some(fred.as_bytes())).1, ask(Some("fred@example.com")));
        let (mut exchange, step) = start(None);
        assert_eq!(step, Step::Challenge(String::new()));
        assert_eq!(exchange.respond(b""), ask(None));
        assert_eq!(exchange.answer(Answer::Accepted), Step::Over);
        let invalid = SaslError::Refused("invalid user name");
        assert_eq!(start(Some(b"YQBi")).1, Step::Failed(invalid));
    }

    #[test]
    fn login_asks_for_user_then_password() {
        let (mut exchange, step) = Exchange::start(Mechanism::Login, Mechanisms::ALL, None);
        assert_eq!(step, Step::Challenge("VXNlcm5hbWU6".to_owned()));
        assert_eq!(exchange.respond(b"dGlt"), Step::Challenge("UGFzc3dvcmQ6".to_owned()));
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
            let (_, step) =
                Exchange::start(Mechanism::Plain, Mechanisms::ALL, Some(response.as_bytes()));
            assert_eq!(matches!(step, Step::Ask(_)), fits, "{user} {password}: {step:?}");
        }
    }

    #[test]
    fn only_what_is_offered_can_be_chosen() {
        let offered: Mechanisms = [Mechanism::Login].into_iter().collect();
        assert_eq!(offered.choose(b"login", true), Ok(Mechanism::Login));
        assert_eq!(offered.choose(b"PLAIN", true), Err(NotOffered::Unknown));
        assert_eq!(offered.choose(b"PLAIN", false), Err(NotOffered::NeedsPrivacy));
        assert_eq!(offered.choose(b"CRAM-MD5", false), Err(NotOffered::Unknown));
        assert_eq!(Mechanisms::ALL.iter().collect::<Vec<_>>(), Mechanism::ALL);
    }

    #[test]
    fn debug_output_hides_the_password() {
        let credentials = Credentials { user: "tim".into(), password: "tanstaaf".into() };
        let question = Question::Password { credentials, authorization: None };
        assert!(!format!("{:?}", Step::Ask(question)).contains("tanstaaf"));
    }

    proptest! {
        #[test]
        fn plain_gives_back_what_was_encoded(user in "[^\0]{1,60}", password in "[^\0]{1,60}") {
            let response = STANDARD.encode(format!("\0{user}\0{password}"));
            let initial = Some(response.as_bytes());
            let (_, step) = Exchange::start(Mechanism::Plain, Mechanisms::ALL, initial);
            let credentials = Credentials { user, password };
            let question = Question::Password { credentials, authorization: None };
            prop_assert_eq!(step, Step::Ask(question));
        }

        #[test]
        fn no_line_panics(lines in proptest::collection::vec(any::<Vec<u8>>(), 0..4)) {
            for mechanism in Mechanism::ALL {
                let (mut exchange, _) = Exchange::start(mechanism, Mechanisms::ALL, None);
                for line in &lines {
                    exchange.respond(line);
                    exchange.respond(STANDARD.encode(line).as_bytes());
                }
            }
        }
    }
}
