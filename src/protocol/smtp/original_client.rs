//! XCLIENT and XFORWARD, as Postfix documents them (XCLIENT_README, XFORWARD_README): a trusted
//! peer, such as a content filter or a proxy for SMTP, tells for which client it acts.
//!
//! The session keeps what was claimed. XCLIENT's client takes the peer's place in everything that
//! follows, XFORWARD's only in the log of one message. Who is trusted is not decided here.
//!
//! Attributes are `name=value`, the value as xtext (RFC 3461 4). `[UNAVAILABLE]` and
//! `[TEMPUNAVAIL]` stand for what the peer does not know.

use std::net::IpAddr;

use super::{address::DOMAIN_MAX, parameter::decode_xtext};

/// For EHLO.
pub(super) const XCLIENT_ATTRIBUTES: &str = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
pub(super) const XFORWARD_ATTRIBUTES: &str = "NAME ADDR PORT PROTO HELO IDENT SOURCE";

/// What was claimed of a client; `None` is not known. Host name, identifier and source are checked
/// and not kept, since nothing asks for them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct OriginalClient {
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    /// Its name for itself.
    pub hello: Option<String>,
    /// It said EHLO.
    pub extended: Option<bool>,
    /// The name that it logged in with, elsewhere.
    pub login: Option<String>,
    /// The address and port that it connected to.
    pub destination: Option<IpAddr>,
    pub destination_port: Option<u16>,
}

impl OriginalClient {
    /// For the next command line: what was said before holds, but a client that is not said to have
    /// logged in has not, since it may be another one.
    pub(super) fn for_next(mut self) -> OriginalClient {
        self.login = None;
        self
    }

    /// Adds the attributes of a command line, of which there is at least one. After `None` the line
    /// is malformed, and `self` may have taken part of it.
    pub(super) fn take(&mut self, text: &str, known: &str) -> Option<()> {
        let mut words = text.split(' ').filter(|word| !word.is_empty()).peekable();
        words.peek()?;
        words.try_for_each(|word| {
            let (name, value) = word.split_once('=')?;
            let name = name.to_ascii_uppercase();
            known.split(' ').any(|it| it == name).then_some(())?;
            self.set(&name, value)
        })
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let unknown = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"];
        let value = decode_xtext(value);
        let value = (!unknown.iter().any(|it| value.eq_ignore_ascii_case(it))).then_some(value);
        if value.as_deref().is_some_and(|value| !is_word(value)) {
            return None;
        }
        match name {
            "ADDR" => self.address = value.as_deref().map(parse_address).transpose().ok()?,
            "PORT" => self.port = value.map(|value| value.parse()).transpose().ok()?,
            "HELO" => self.hello = value,
            "LOGIN" => self.login = value,
            "DESTADDR" => {
                self.destination = value.as_deref().map(parse_address).transpose().ok()?;
            }
            "DESTPORT" => {
                self.destination_port = value.map(|value| value.parse()).transpose().ok()?;
            }
            "PROTO" => {
                self.extended = match value.as_deref().map(str::to_ascii_uppercase).as_deref() {
                    None => None,
                    Some("SMTP") => Some(false),
                    Some("ESMTP" | "LMTP") => Some(true),
                    Some(_) => return None,
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// One printable word, as names, addresses and identifiers are.
fn is_word(value: &str) -> bool {
    let plain = |character: char| !character.is_control() && !character.is_whitespace();
    !value.is_empty() && value.len() <= DOMAIN_MAX && value.chars().all(plain)
}

/// `192.0.2.7` or `IPV6:2001:db8::7`.
fn parse_address(value: &str) -> Result<IpAddr, std::net::AddrParseError> {
    let text = match value.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPV6:") => &value[5..],
        _ => value,
    };
    text.parse::<IpAddr>().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes() {
        let of = |address: &str, port, hello: &str, extended| {
            Some(OriginalClient {
                address: address.parse().ok(),
                port,
                hello: (!hello.is_empty()).then(|| hello.to_owned()),
                extended,
                ..OriginalClient::default()
            })
        };
        let cases = [
            (
                "NAME=spike.test ADDR=192.0.2.7 PORT=1025 PROTO=ESMTP HELO=a+2Bb",
                of("192.0.2.7", Some(1025), "a+b", Some(true)),
            ),
            ("addr=IPV6:2001:db8::7  helo=x", of("2001:db8::7", None, "x", None)),
            ("ADDR=ipv6:::ffff:192.0.2.7", of("192.0.2.7", None, "", None)),
            ("PROTO=SMTP NAME=[UNAVAILABLE]", of("", None, "", Some(false))),
            ("ADDR=192.0.2.7 ADDR=[TEMPUNAVAIL]", of("", None, "", None)),
            ("ADDR=[unavailable] PORT=[UNAVAILABLE] HELO=[UNAVAILABLE]", of("", None, "", None)),
            ("", None),
            ("  ", None),
            ("ADDR", None),
            ("ADDR=", None),
            ("ADDR=nowhere", None),
            ("ADDR=192.0.2", None),
            ("PORT=65536", None),
            ("PORT=-1", None),
            ("PROTO=HTTP", None),
            ("HELO=a+20b", None),
            ("HELO=a+0D+0Ab", None),
            ("LOGIN=", None),
            ("LOGIN=a+20b", None),
            ("DESTADDR=nowhere", None),
            ("DESTPORT=x", None),
            ("IDENT=x", None),
            ("NAME=+00", None),
        ];
        for (text, expected) in cases {
            let mut client = OriginalClient::default();
            let found = client.take(text, XCLIENT_ATTRIBUTES).map(|()| client);
            assert_eq!(found, expected, "{text}");
        }
        let mut client = OriginalClient::default();
        let text = "LOGIN=alice+40x.test DESTADDR=IPV6:2001:db8::1 DESTPORT=587";
        assert_eq!(client.take(text, XCLIENT_ATTRIBUTES), Some(()));
        assert_eq!(client.login.as_deref(), Some("alice@x.test"));
        assert_eq!(client.destination, "2001:db8::1".parse().ok());
        assert_eq!(client.destination_port, Some(587));
        let mut next = client.clone().for_next();
        assert_eq!(next, OriginalClient { login: None, ..client.clone() });
        let unknown = "LOGIN=[UNAVAILABLE] DESTADDR=[UNAVAILABLE] DESTPORT=[UNAVAILABLE]";
        assert_eq!(next.take(unknown, XCLIENT_ATTRIBUTES), Some(()));
        assert_eq!(next, OriginalClient::default());
        assert!(client.take("LOGIN=alice", XFORWARD_ATTRIBUTES).is_none());
        let mut client = OriginalClient::default();
        let text = "IDENT=4F2 SOURCE=LOCAL ADDR=192.0.2.7";
        assert_eq!(client.take(text, XFORWARD_ATTRIBUTES), Some(()));
        assert!(client.take(&format!("HELO={}", "x".repeat(256)), XCLIENT_ATTRIBUTES).is_none());
    }
}
