//! What an URL says of who may use it, and how that is signed (RFC 4467 3, RFC 5092 6.1.1).
//!
//! The mechanism INTERNAL is HMAC-SHA-256 over the octets of the URL up to the mechanism, as the
//! client wrote them, with the key that its user has for the mailbox.

use ring::hmac;

use super::date::parse_rfc3339;
use crate::model::Timestamp;

/// The name of the one mechanism.
const INTERNAL: &str = "INTERNAL";
/// Hexadecimal digits of a token.
const TOKEN_DIGITS: usize = 64;

/// `[";EXPIRE=" date-time] ";URLAUTH=" access [":" uauth-mechanism ":" enc-urlauth]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UrlAuth {
    /// From then on the URL is worth nothing.
    pub expire: Option<Timestamp>,
    pub access: Access,
    /// Octets of the URL that are signed: up to the mechanism.
    pub rump: usize,
    /// `None`: nothing is proved yet.
    pub proof: Option<Proof>,
}

/// Who may use an URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Access {
    /// Who submits messages, for this user.
    Submit(String),
    User(String),
    /// Who has logged in.
    AuthUser,
    Anonymous,
}

/// The mechanism and its token, as they were written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proof {
    mechanism: String,
    token: String,
}

impl UrlAuth {
    /// The value of `URLAUTH=`, which ends an URL of `url` octets. Names of users are decoded by
    /// `decode`.
    pub(super) fn parse(
        expire: Option<&str>,
        value: &str,
        url: usize,
        decode: impl Fn(&str) -> Option<String>,
    ) -> Option<UrlAuth> {
        let expire = match expire {
            Some(time) => Some(parse_rfc3339(time.as_bytes())?),
            None => None,
        };
        let (access, proof) = match value.split_once(':') {
            Some((access, proof)) => (access, Some(proof)),
            None => (value, None),
        };
        let rump = url - proof.map_or(0, |proof| proof.len() + 1);
        let proof = match proof {
            Some(proof) => {
                let (mechanism, token) = proof.split_once(':')?;
                Some(Proof { mechanism: mechanism.to_owned(), token: token.to_owned() })
            }
            None => None,
        };
        let is = |name: &str| access.eq_ignore_ascii_case(name);
        let user = |prefix: &str| {
            let (start, user) = access.split_at_checked(prefix.len())?;
            let user = start.eq_ignore_ascii_case(prefix).then(|| decode(user))??;
            (!user.is_empty()).then_some(user)
        };
        let access = if is("authuser") {
            Access::AuthUser
        } else if is("anonymous") {
            Access::Anonymous
        } else if let Some(user) = user("submit+") {
            Access::Submit(user)
        } else {
            Access::User(user("user+")?)
        };
        Some(UrlAuth { expire, access, rump, proof })
    }
}

impl Proof {
    /// Whether it is the token of INTERNAL for `rump` with this key. Takes as long for a wrong
    /// token as for the right one.
    pub fn verifies(&self, key: &[u8], rump: &[u8]) -> bool {
        let token = self.token();
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        token.is_some_and(|token| hmac::verify(&key, rump, &token).is_ok())
    }

    /// Whether it can be one at all.
    pub fn is_internal(&self) -> bool {
        self.token().is_some()
    }

    fn token(&self) -> Option<Vec<u8>> {
        let digits = self.token.as_bytes();
        if !is_internal(&self.mechanism) || digits.len() != TOKEN_DIGITS {
            return None;
        }
        let digit = |octet: u8| char::from(octet).to_digit(16);
        let octets = digits.chunks_exact(2).map(|pair| match *pair {
            [high, low] => Some((digit(high)? << 4 | digit(low)?) as u8),
            _ => None,
        });
        octets.collect()
    }
}

/// Whether a mechanism is the one that this server has.
pub fn is_internal(mechanism: &str) -> bool {
    mechanism.eq_ignore_ascii_case(INTERNAL)
}

/// `rump`, an URL up to its mechanism, with the mechanism and its token.
pub fn sign(key: &[u8], rump: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut url = rump.to_vec();
    url.extend_from_slice(b":internal:");
    for octet in hmac::sign(&key, rump).as_ref() {
        for digit in [octet >> 4, octet & 15] {
            url.extend(char::from_digit(digit.into(), 16).map(|digit| digit as u8));
        }
    }
    url
}
