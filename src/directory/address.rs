//! Addresses as keys: one spelling for all addresses of the same mailbox.
//!
//! Domains compare without case (RFC 5321 2.4). Local parts belong to the receiving system, which
//! is us, and we compare them without case too, as nearly every server does.

/// Longest local part and domain, octets (RFC 5321 4.5.3.1.1, 4.5.3.1.2).
const LOCAL_PART_MAX: usize = 64;
const DOMAIN_MAX: usize = 255;
/// Longest name that an account can log in with, octets.
pub(super) const ADDRESS_MAX: usize = LOCAL_PART_MAX + 1 + DOMAIN_MAX;

/// The local part whose mail must reach a person (RFC 5321 4.5.1).
pub(super) const POSTMASTER: &str = "postmaster";

/// A mailbox split at its last `@`, unquoted and in lower case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Address {
    pub local_part: String,
    pub domain: String,
}

impl Address {
    /// `None` if there is no domain; nothing else is refused here: an invalid address simply is not
    /// found.
    pub(super) fn parse(text: &str) -> Option<Address> {
        let (local_part, domain) = text.rsplit_once('@')?;
        Some(Address {
            local_part: unquote(local_part).to_lowercase(),
            domain: domain.to_lowercase(),
        })
    }

    /// The address without its sub-address, if it has one: "alice" of "alice+lists". Each character
    /// of `separators` ends the account's name.
    pub(super) fn without_subaddress(&self, separators: &str) -> Option<Address> {
        let (user, _) = self.local_part.split_once(|c| separators.contains(c))?;
        (!user.is_empty())
            .then(|| Address { local_part: user.to_owned(), domain: self.domain.clone() })
    }

    pub(super) fn is_postmaster(&self) -> bool {
        self.local_part == POSTMASTER
    }

    pub(super) fn key(&self) -> String {
        format!("{}@{}", self.local_part, self.domain)
    }
}

/// The detail in a sub-address: "lists" in "alice+lists@demo.test" (RFC 5233), as it was written.
pub(super) fn detail<'a>(mailbox: &'a str, separators: &str) -> Option<&'a str> {
    let (local_part, _) = mailbox.rsplit_once('@')?;
    let local_part =
        local_part.strip_prefix('"').and_then(|it| it.strip_suffix('"')).unwrap_or(local_part);
    local_part.split_once(|c| separators.contains(c)).map(|(_, detail)| detail)
}

/// The spelling under which an account is kept, or why it cannot be an account's address.
pub(super) fn account_address(text: &str) -> Result<String, &'static str> {
    let address = Address::parse(text).ok_or("an address is written local-part@domain")?;
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && !"\"\\<>()[],:;@".contains(c);
    let Address { local_part, domain } = &address;
    if local_part.is_empty() || local_part.len() > LOCAL_PART_MAX {
        return Err("the part before @ has 1 to 64 octets");
    }
    if domain.is_empty() || domain.len() > DOMAIN_MAX {
        return Err("the part after @ has 1 to 255 octets");
    }
    if !local_part.chars().all(allowed) || !domain.chars().all(allowed) {
        return Err(
            "an account's address has no spaces, quotes, brackets, commas, colons or control \
                    characters, and one @",
        );
    }
    Ok(address.key())
}

/// The spelling of a domain that accounts may be in: what follows the `@` of `@domain` in a file.
pub(super) fn account_domain(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "expected a domain after the @";
    let address = account_address(&format!("x@{text}")).map_err(|_| WRONG)?;
    Address::parse(&address).map(|address| address.domain).ok_or(WRONG)
}

/// Whether `text` can be an account's address.
pub fn is_address(text: &str) -> bool {
    account_address(text).is_ok()
}

/// `"alice"@demo.test` is the same mailbox as `alice@demo.test` (RFC 5321 4.1.2).
fn unquote(local_part: &str) -> String {
    let Some(quoted) = local_part.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return local_part.to_owned();
    };
    let mut text = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_mailbox_share_a_key() {
        const CASES: &[(&str, Option<&str>)] = &[
            ("Alice@Demo.TEST", Some("alice@demo.test")),
            ("\"Alice\"@demo.test", Some("alice@demo.test")),
            ("\"a\\\"b\"@demo.test", Some("a\"b@demo.test")),
            ("\"a@b\"@demo.test", Some("a@b@demo.test")),
            ("\"\\", None),
            ("\"@demo.test", Some("\"@demo.test")),
            ("GRÖSSE@demo.test", Some("grösse@demo.test")),
            ("@", Some("@")),
            ("alice", None),
        ];
        for (text, expected) in CASES {
            let key = Address::parse(text).map(|address| address.key());
            assert_eq!(key.as_deref(), *expected, "{text}");
        }
    }

    #[test]
    fn details() {
        const CASES: &[(&str, Option<&str>)] = &[
            ("alice+Lists@demo.test", Some("Lists")),
            ("alice+a+b@demo.test", Some("a+b")),
            ("alice+@demo.test", Some("")),
            ("\"alice+x y\"@demo.test", Some("x y")),
            ("alice-a+b@demo.test", Some("a+b")),
            ("alice@demo+x.test", None),
            ("alice+x", None),
        ];
        for (mailbox, expected) in CASES {
            assert_eq!(detail(mailbox, "+-"), *expected, "{mailbox}");
        }
        assert_eq!(detail("alice+x@demo.test", ""), None);
    }

    #[test]
    fn account_addresses() {
        for good in ["alice@demo.test", "a.b+c@x", "grösse@demo.test"] {
            assert_eq!(account_address(good).as_deref(), Ok(good));
        }
        for bad in ["alice", "@demo.test", "alice@", "a b@demo.test", "a@b@c", "a@[127.0.0.1]"] {
            assert!(account_address(bad).is_err(), "{bad}");
        }
        assert!(account_address(&format!("{}@x", "a".repeat(65))).is_err());
    }
}
