//! OAUTHBEARER (RFC 7628) and XOAUTH2, its forerunner: the client shows a token (RFC 6750) that
//! somebody else has issued.

use super::{Answer, Machine, Move, Question, SaslError, identity};

/// Separates the fields of a message, and is the client's answer to a refusal (RFC 7628 3.2.3).
const SEPARATOR: u8 = 1;

/// Why the token was refused, for programs (RFC 7628 3.2.2).
const REFUSED: &str = r#"{"status":"invalid_token"}"#;
/// The same, as clients of XOAUTH2 know it.
const REFUSED_XOAUTH2: &str = r#"{"status":"401","schemes":"bearer"}"#;
/// Nothing is known of the token now (RFC 6749 4.1.2.1): a client must not throw it away.
const UNAVAILABLE: &str = r#"{"status":"temporarily_unavailable"}"#;
const UNAVAILABLE_XOAUTH2: &str = r#"{"status":"503","schemes":"bearer"}"#;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flavour {
    OAuthBearer,
    XOAuth2,
}

#[derive(Debug)]
pub(super) struct Bearer {
    flavour: Flavour,
    state: State,
}

#[derive(Debug)]
enum State {
    Message,
    AwaitsVerdict,
    /// The client has been told why, and has to acknowledge it.
    Refused,
}

impl Bearer {
    pub(super) fn new(flavour: Flavour) -> Bearer {
        Bearer { flavour, state: State::Message }
    }
}

impl Machine for Bearer {
    fn respond(&mut self, message: Vec<u8>) -> Result<Move, SaslError> {
        match self.state {
            State::Message => {
                let (token, authorization) = match self.flavour {
                    Flavour::OAuthBearer => oauth_bearer(&message)?,
                    Flavour::XOAuth2 => xoauth2(&message)?,
                };
                self.state = State::AwaitsVerdict;
                Ok(Move::Ask(Question::Token { token: super::Token(token), authorization }))
            }
            // Whatever the client says, it is refused.
            State::Refused => Ok(Move::Over),
            State::AwaitsVerdict => Err(SaslError::Refused("nothing was asked")),
        }
    }

    fn answer(&mut self, answer: Answer) -> Result<Move, SaslError> {
        let why = match (answer, self.flavour) {
            (Answer::Accepted, _) => return Ok(Move::Over),
            (Answer::Unavailable, Flavour::OAuthBearer) => UNAVAILABLE,
            (Answer::Unavailable, Flavour::XOAuth2) => UNAVAILABLE_XOAUTH2,
            (_, Flavour::OAuthBearer) => REFUSED,
            (_, Flavour::XOAuth2) => REFUSED_XOAUTH2,
        };
        self.state = State::Refused;
        Ok(Move::Challenge(why.into()))
    }
}

/// `client-resp = (gs2-header kvsep *kvpair kvsep) / kvsep` (RFC 7628 3.1).
fn oauth_bearer(message: &[u8]) -> Result<(String, Option<String>), SaslError> {
    let refused = SaslError::Refused("OAUTHBEARER wants a header and a token");
    let mut fields = message.split(|&octet| octet == SEPARATOR);
    let header = fields.next().and_then(|it| it.strip_suffix(b",")).ok_or(refused)?;
    let (flag, authzid) = split_once(header, b',').ok_or(refused)?;
    // RFC 7628 3.1: without channel binding, "y" and "n" are the same.
    if !matches!(flag, b"n" | b"y") {
        return Err(SaslError::Refused("OAUTHBEARER has no channel binding"));
    }
    let authorization = match authzid.strip_prefix(b"a=") {
        Some(name) => Some(super::scram::sasl_name(&identity(name)?)?),
        None if authzid.is_empty() => None,
        None => return Err(refused),
    };
    let fields: Vec<&[u8]> = fields.collect();
    // Two separators at the end.
    let [pairs @ .., b"", b""] = &fields[..] else { return Err(refused) };
    Ok((bearer(pairs).ok_or(refused)?, authorization))
}

/// `user=` name SEPARATOR `auth=Bearer ` token SEPARATOR SEPARATOR.
fn xoauth2(message: &[u8]) -> Result<(String, Option<String>), SaslError> {
    let refused = SaslError::Refused("XOAUTH2 wants a user and a token");
    let fields: Vec<&[u8]> = message.split(|&octet| octet == SEPARATOR).collect();
    let [user, pairs @ .., b"", b""] = &fields[..] else { return Err(refused) };
    let user = identity(user.strip_prefix(b"user=").ok_or(refused)?)?;
    Ok((bearer(pairs).ok_or(refused)?, Some(user)))
}

/// The token of the only `auth=Bearer` pair: `b64token` of RFC 6750 2.1.
fn bearer(pairs: &[&[u8]]) -> Option<String> {
    let mut values = pairs.iter().filter_map(|pair| pair.strip_prefix(b"auth="));
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = split_once(value, b' ')?;
    let fits = |octet: &u8| octet.is_ascii_alphanumeric() || b"-._~+/=".contains(octet);
    if !scheme.eq_ignore_ascii_case(b"bearer") || token.is_empty() || !token.iter().all(fits) {
        return None;
    }
    String::from_utf8(token.to_vec()).ok()
}

fn split_once(octets: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = octets.iter().position(|octet| *octet == at)?;
    Some((octets.get(..place)?, octets.get(place + 1..)?))
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::{
        super::{Exchange, Mechanism, Mechanisms, Step, Token},
        *,
    };

    fn start(mechanism: Mechanism, message: &str) -> (Exchange, Step) {
        let message = STANDARD.encode(message.replace("^A", "\u{1}"));
        Exchange::start(mechanism, Mechanisms::ALL, Some(message.as_bytes()))
    }

    fn asked(token: &str, authorization: Option<&str>) -> Step {
        let authorization = authorization.map(str::to_owned);
        Step::Ask(Question::Token { token: Token(token.to_owned()), authorization })
    }

    /// RFC 7628 4.1, 4.2, 4.3.
    #[test]
    fn the_examples_of_the_rfc() {
        let token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==";
        let message = "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQz\
                       AWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9\
                       PQEB";
        let mechanism = Mechanism::OAuthBearer;
        let start = || Exchange::start(mechanism, Mechanisms::ALL, Some(message.as_bytes()));
        let (mut exchange, step) = start();
        assert_eq!(step, asked(token, Some("user@example.com")));
        assert_eq!(exchange.answer(Answer::Accepted), Step::Over);
        let (mut exchange, _) = start();
        let refused = exchange.answer(Answer::Refused);
        assert_eq!(refused, Step::Challenge(STANDARD.encode(REFUSED)));
        assert_eq!(exchange.respond(b"AQ=="), Step::Over);
    }

    /// RFC 7628 3.2.2: a token of which nothing is known is not an invalid one.
    #[test]
    fn a_token_that_nobody_can_judge_now_is_not_invalid() {
        for (mechanism, message, expected) in [
            (Mechanism::OAuthBearer, "n,,^Aauth=Bearer x^A^A", UNAVAILABLE),
            (Mechanism::XOAuth2, "user=a^Aauth=Bearer x^A^A", UNAVAILABLE_XOAUTH2),
        ] {
            let (mut exchange, _) = start(mechanism, message);
            let answer = exchange.answer(Answer::Unavailable);
            assert_eq!(answer, Step::Challenge(STANDARD.encode(expected)));
            assert_eq!(exchange.respond(b"AQ=="), Step::Over);
        }
    }

    #[test]
    fn messages() {
        let bearer = Mechanism::OAuthBearer;
        let google = Mechanism::XOAuth2;
        let malformed = "OAUTHBEARER wants a header and a token";
        let cases: &[(Mechanism, &str, Result<(&str, Option<&str>), &str>)] = &[
            (bearer, "n,,^Aauth=Bearer x^A^A", Ok(("x", None))),
            (bearer, "y,,^Aauth=bearer x^A^A", Ok(("x", None))),
            (bearer, "n,a=b=2Cc,^Aauth=Bearer x^A^A", Ok(("x", Some("b,c")))),
            (
                bearer,
                "p=tls-exporter,,^Aauth=Bearer x^A^A",
                Err("OAUTHBEARER has no channel binding"),
            ),
            (bearer, "n,,^Aauth=Bearer x^A", Err(malformed)),
            (bearer, "n,,^A^A", Err(malformed)),
            (bearer, "^A", Err(malformed)),
            (bearer, "", Err(malformed)),
            (bearer, "n,b,^Aauth=Bearer x^A^A", Err(malformed)),
            (bearer, "n,,^Aauth=Bearer ^A^A", Err(malformed)),
            (bearer, "n,,^Aauth=Bearer x y^A^A", Err(malformed)),
            (bearer, "n,,^Aauth=Basic x^A^A", Err(malformed)),
            (bearer, "n,,^Aauth=Bearer x^Aauth=Bearer y^A^A", Err(malformed)),
            (google, "user=a@b.test^Aauth=Bearer x^A^A", Ok(("x", Some("a@b.test")))),
            (google, "user=^Aauth=Bearer x^A^A", Err("invalid user name")),
            (google, "auth=Bearer x^A^A", Err("XOAUTH2 wants a user and a token")),
            (google, "user=a^Aauth=Bearer x^A", Err("XOAUTH2 wants a user and a token")),
            (google, "", Err("XOAUTH2 wants a user and a token")),
        ];
        for (mechanism, message, expected) in cases {
            let (_, step) = start(*mechanism, message);
            match expected {
                Ok((token, authorization)) => assert_eq!(step, asked(token, *authorization)),
                Err(why) => assert_eq!(step, Step::Failed(SaslError::Refused(why)), "{message}"),
            }
        }
        let (mut exchange, _) = start(google, "user=a^Aauth=Bearer x^A^A");
        let refused = exchange.answer(Answer::Refused);
        assert_eq!(refused, Step::Challenge(STANDARD.encode(REFUSED_XOAUTH2)));
        assert_eq!(exchange.respond(b""), Step::Over);
    }
}
