//! Domain names as the DNS knows them, and address literals.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// Octets of a name in text, without the final dot (RFC 1035 2.3.4).
const NAME_MAX: usize = 253;

/// Octets of a label (RFC 1035 2.3.4).
const LABEL_MAX: usize = 63;

/// A domain name: A-labels (RFC 5890 2.3.2.1) in lower case without the final dot; never the root.
/// Labels hold letters, digits, hyphens and underscores only.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// The text is no domain name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a domain name")]
pub struct NotADomain;

impl Name {
    /// `text` is a name of ASCII or of U-labels (RFC 5890), with or without a final dot.
    ///
    /// # Errors
    /// A name that the DNS cannot hold, or that no host has.
    pub fn parse(text: &str) -> Result<Name, NotADomain> {
        // Longer ones are not worth the conversion.
        if text.len() > 4 * NAME_MAX {
            return Err(NotADomain);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            let deny = idna::AsciiDenyList::EMPTY;
            idna::domain_to_ascii_cow(text.as_bytes(), deny).map_err(|_| NotADomain)?.into_owned()
        };
        let is_label = |label: &str| {
            let is_allowed = |octet: u8| octet.is_ascii_alphanumeric() || b"-_".contains(&octet);
            (1..=LABEL_MAX).contains(&label.len()) && label.bytes().all(is_allowed)
        };
        if ascii.len() > NAME_MAX || !ascii.split('.').all(is_label) {
            return Err(NotADomain);
        }
        Ok(Name(ascii.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of `prefix` below this one, such as `_25._tcp`.
    ///
    /// # Errors
    /// It would be too long.
    pub fn below(&self, prefix: &str) -> Result<Name, NotADomain> {
        Name::parse(&format!("{prefix}.{self}"))
    }

    /// The address that the name spells: some MX records hold one, where a host name should be.
    pub(super) fn as_address(&self) -> Option<IpAddr> {
        self.0.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    }

    /// Whether it never exists in the DNS and must not be asked for (RFC 6761 6.4, RFC 7686 2).
    pub(super) fn is_never_public(&self) -> bool {
        matches!(self.0.rsplit('.').next(), Some("invalid" | "onion"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The address of an address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3).
pub fn address_literal(text: &str) -> Option<IpAddr> {
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    match inside.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => {
            inside.get(5..)?.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => inside.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (text, the name; empty if it is none)
    const NAMES: &[(&str, &str)] = &[
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("localhost", "localhost"),
        ("_25._tcp.mx.example.org", "_25._tcp.mx.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("example。org", "example.org"),
        ("192.0.2.1", "192.0.2.1"),
        ("", ""),
        (".", ""),
        ("..", ""),
        (".example.org", ""),
        ("example..org", ""),
        ("example.org..", ""),
        ("exa mple.org", ""),
        ("exa\0mple.org", ""),
        ("[192.0.2.1]", ""),
        ("a/b.example", ""),
        ("ü b.example", ""),
    ];

    #[test]
    fn names_are_a_labels() {
        for (text, expected) in NAMES {
            let name = Name::parse(text).map(|name| name.to_string()).unwrap_or_default();
            assert_eq!(name, *expected, "{text}");
        }
        let label = "a".repeat(LABEL_MAX);
        assert!(Name::parse(&format!("{label}.example")).is_ok());
        assert!(Name::parse(&format!("a{label}.example")).is_err());
        let longest = format!("{}a", "a.".repeat(NAME_MAX / 2));
        assert_eq!(longest.len(), NAME_MAX);
        assert!(Name::parse(&longest).is_ok());
        assert!(Name::parse(&format!("{longest}.")).is_ok());
        assert!(Name::parse(&format!("a.{longest}")).is_err());
        assert!(Name::parse(&"ü".repeat(100_000)).is_err());
        assert!(Name::parse(&longest).unwrap().below("_25._tcp").is_err());
    }

    #[test]
    fn address_literals() {
        for (text, expected) in [
            ("[192.0.2.1]", Some("192.0.2.1")),
            ("[IPv6:2001:db8::1]", Some("2001:db8::1")),
            ("[ipv6:::1]", Some("::1")),
            ("[2001:db8::1]", None),
            ("[IPv6:192.0.2.1]", None),
            ("192.0.2.1", None),
            ("[example.org]", None),
            ("[]", None),
            ("[üüü]", None),
        ] {
            assert_eq!(address_literal(text), expected.map(|it| it.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn names_that_are_not_asked_for() {
        for (text, expected) in
            [("a.invalid", true), ("invalid", true), ("x.onion", true), ("onion.example", false)]
        {
            assert_eq!(Name::parse(text).unwrap().is_never_public(), expected, "{text}");
        }
    }
}
