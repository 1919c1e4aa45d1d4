//! Paths and mailboxes of the SMTP envelope (RFC 5321 4.1.2), with the UTF-8 forms of RFC 6531 3.3.
//!
//! The command parser calls [`parse_path`] on the text after `FROM:` and `TO:`. Everything borrows
//! the command line. Addresses of header fields, which have comments and folding, are in
//! `protocol::mime`.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
};

/// Octets of a local part. RFC 5321 4.5.3.1.1 requires at least 64; VERP and SRS addresses are
/// longer.
pub const LOCAL_PART_MAX: usize = 255;
/// Octets of a domain (RFC 5321 4.5.3.1.2).
pub const DOMAIN_MAX: usize = 255;
/// Octets of a path without its brackets, source route included. RFC 5321 4.5.3.1.3 asks for 256.
pub const PATH_MAX: usize = 1024;
/// Octets between two dots of a domain (RFC 1035 2.3.4).
const LABEL_MAX: usize = 63;

/// `local-part@domain`, as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mailbox<'a> {
    text: &'a str,
    /// Index of the `@` that separates them.
    at: usize,
}

/// The text between the angle brackets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path<'a> {
    /// `<>`: the reverse-path of notifications (RFC 5321 4.5.5).
    Null,
    /// `<Postmaster>` without a domain (RFC 5321 4.5.1).
    Postmaster,
    /// With `source_routed`, a route came before it; the route is ignored (RFC 5321 3.6.1 and
    /// appendix C), only the mailbox counts.
    Mailbox { mailbox: Mailbox<'a>, source_routed: bool },
}

/// The text is not a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadPath;

impl<'a> Mailbox<'a> {
    /// Parses a mailbox and nothing else.
    pub fn parse(text: &'a str) -> Option<Mailbox<'a>> {
        let mut cursor = Cursor { text, at: 0 };
        let mailbox = cursor.mailbox().ok()?;
        (cursor.at == text.len()).then_some(mailbox)
    }

    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// As written, with its quotes if it has any.
    pub fn local_part(&self) -> &'a str {
        &self.text[..self.at]
    }

    /// A name, or an address literal with its brackets.
    pub fn domain(&self) -> &'a str {
        &self.text[self.at + 1..]
    }

    /// The simplest way to write the same mailbox: a quoted local part means the same as the text
    /// it quotes (RFC 5321 4.1.2), so needless quotes go. Borrows unless there were some.
    pub fn canonical(&self) -> Cow<'a, str> {
        let Some(quoted) =
            self.local_part().strip_prefix('"').and_then(|text| text.strip_suffix('"'))
        else {
            return Cow::Borrowed(self.text);
        };
        let mut plain = String::with_capacity(self.text.len());
        let mut escaped = false;
        for character in quoted.chars() {
            if character == '\\' && !escaped {
                escaped = true;
            } else {
                escaped = false;
                plain.push(character);
            }
        }
        let mut cursor = Cursor { text: &plain, at: 0 };
        if cursor.dot_string().is_err() || cursor.at != plain.len() {
            return Cow::Borrowed(self.text);
        }
        plain.push('@');
        plain.push_str(self.domain());
        Cow::Owned(plain)
    }

    /// Whether the local part contains what other mail systems once took for a route, `user%host`
    /// or `host!user`, or a second `@`.
    pub fn looks_routed(&self) -> bool {
        self.local_part().bytes().any(|octet| matches!(octet, b'%' | b'!' | b'@'))
    }
}

impl<'a> Path<'a> {
    /// The mailbox, if the path has one.
    pub fn mailbox(&self) -> Option<Mailbox<'a>> {
        match self {
            Path::Mailbox { mailbox, .. } => Some(*mailbox),
            Path::Null | Path::Postmaster => None,
        }
    }

    /// Whether it can be written without the SMTPUTF8 extension.
    pub fn is_ascii(&self) -> bool {
        self.mailbox().is_none_or(|mailbox| mailbox.text.is_ascii())
    }

    /// Without the brackets: "" for the null path.
    pub fn as_str(&self) -> &'a str {
        match self {
            Path::Null => "",
            Path::Postmaster => "postmaster",
            Path::Mailbox { mailbox, .. } => mailbox.text,
        }
    }
}

/// Takes `<path>` from the start of `text`; returns it and the rest.
pub fn parse_path(text: &str) -> Result<(Path<'_>, &str), BadPath> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.expect(b'<')?;
    let path = match cursor.peek() {
        Some(b'>') => Path::Null,
        Some(b'@') => {
            cursor.source_route()?;
            Path::Mailbox { mailbox: cursor.mailbox()?, source_routed: true }
        }
        _ if cursor.postmaster() => Path::Postmaster,
        _ => Path::Mailbox { mailbox: cursor.mailbox()?, source_routed: false },
    };
    if cursor.at > PATH_MAX + 1 {
        return Err(BadPath);
    }
    cursor.expect(b'>')?;
    Ok((path, &text[cursor.at..]))
}

/// A position in `text`. It stops only next to ASCII, so slices at `at` are at character
/// boundaries.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn expect(&mut self, octet: u8) -> Result<(), BadPath> {
        if self.peek() != Some(octet) {
            return Err(BadPath);
        }
        self.at += 1;
        Ok(())
    }

    /// Moves past all octets for which `accepted` holds; returns how many.
    fn skip_while(&mut self, accepted: impl Fn(u8) -> bool) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().position(|&octet| !accepted(octet)).unwrap_or(rest.len());
        self.at += count;
        count
    }

    fn postmaster(&mut self) -> bool {
        const NAME: &[u8] = b"postmaster>";
        let rest = &self.text.as_bytes()[self.at..];
        let found = rest.get(..NAME.len()).is_some_and(|word| word.eq_ignore_ascii_case(NAME));
        if found {
            self.at += NAME.len() - 1;
        }
        found
    }

    /// `A-d-l ":"`, as in `@a.example,@b.example:`.
    fn source_route(&mut self) -> Result<(), BadPath> {
        loop {
            self.expect(b'@')?;
            self.domain()?;
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => return self.expect(b':'),
            }
        }
    }

    fn mailbox(&mut self) -> Result<Mailbox<'a>, BadPath> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.quoted_string()?,
            _ => self.dot_string()?,
        }
        let at = self.at - start;
        if at > LOCAL_PART_MAX {
            return Err(BadPath);
        }
        self.expect(b'@')?;
        match self.peek() {
            Some(b'[') => self.address_literal()?,
            _ => self.domain()?,
        }
        let mailbox = Mailbox { text: &self.text[start..self.at], at };
        // The trailing dot of DNS. The grammar has none, but senders use it; it names the same
        // domain.
        if self.peek() == Some(b'.') && !mailbox.text.ends_with(']') {
            self.at += 1;
        }
        Ok(mailbox)
    }

    fn dot_string(&mut self) -> Result<(), BadPath> {
        loop {
            if self.skip_while(is_atext) == 0 {
                return Err(BadPath);
            }
            match self.peek() {
                Some(b'.') => self.at += 1,
                _ => return Ok(()),
            }
        }
    }

    fn quoted_string(&mut self) -> Result<(), BadPath> {
        self.expect(b'"')?;
        loop {
            self.skip_while(|octet| !matches!(octet, b'"' | b'\\' | 0..=31 | 127));
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    // quoted-pairSMTP takes printable ASCII only.
                    if !matches!(self.peek(), Some(32..=126)) {
                        return Err(BadPath);
                    }
                    self.at += 1;
                }
                _ => return Err(BadPath),
            }
        }
        self.expect(b'"')
    }

    fn domain(&mut self) -> Result<(), BadPath> {
        let start = self.at;
        loop {
            let label = self.at;
            let len = self.skip_while(is_domain_octet);
            let text = &self.text.as_bytes()[label..self.at];
            if len == 0 || len > LABEL_MAX || text.starts_with(b"-") || text.ends_with(b"-") {
                return Err(BadPath);
            }
            let next = self.text.as_bytes().get(self.at + 1);
            match self.peek() {
                Some(b'.') if next.is_some_and(|&octet| is_domain_octet(octet)) => self.at += 1,
                _ => break,
            }
        }
        if self.at - start > DOMAIN_MAX { Err(BadPath) } else { Ok(()) }
    }

    fn address_literal(&mut self) -> Result<(), BadPath> {
        self.expect(b'[')?;
        let start = self.at;
        self.skip_while(|octet| octet != b']' && octet.is_ascii_graphic());
        if !is_address(&self.text[start..self.at]) {
            return Err(BadPath);
        }
        self.expect(b']')
    }
}

/// The inside of an address literal (RFC 5321 4.1.3). `IPv6` is the only tag ever registered.
fn is_address(literal: &str) -> bool {
    match literal.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => literal[5..].parse::<Ipv6Addr>().is_ok(),
        _ => literal.parse::<Ipv4Addr>().is_ok(),
    }
}

/// `atext` (RFC 5322 3.2.3), with UTF-8 (RFC 6531 3.3).
fn is_atext(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet >= 0x80 || b"!#$%&'*+-/=?^_`{|}~".contains(&octet)
}

/// Letters, digits, hyphens and U-labels; and the underscore, which real host names have.
fn is_domain_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_') || octet >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Input, then the mailbox and the rest; `None` if it must be refused.
    #[test]
    fn paths() {
        const CASES: &[(&str, Option<(&str, &str)>)] = &[
            ("<>", Some(("", ""))),
            ("<> SIZE=1", Some(("", " SIZE=1"))),
            ("<a@b>", Some(("a@b", ""))),
            ("<alice+tag@demo.test> X", Some(("alice+tag@demo.test", " X"))),
            ("<Postmaster>", Some(("postmaster", ""))),
            ("<postmaster@demo.test>", Some(("postmaster@demo.test", ""))),
            ("<postmasters>", None),
            ("<alice>", None),
            ("<a@b", None),
            ("a@b", None),
            ("<a@>", None),
            ("<@b>", None),
            ("<a@b>>", Some(("a@b", ">"))),
            ("<a b@c>", None),
            ("<.a@c>", None),
            ("<a.@c>", None),
            ("<a..b@c>", None),
            ("<a.b@c.d>", Some(("a.b@c.d", ""))),
            ("<a@c..d>", None),
            ("<a@c.>", Some(("a@c", ""))),
            ("<a@c.> X", Some(("a@c", " X"))),
            ("<a@c..>", None),
            ("<a@.>", None),
            ("<a@[127.0.0.1].>", None),
            ("<a@-c>", None),
            ("<a@c.>", Some(("a@c", ""))),
            ("<a@c.> X", Some(("a@c", " X"))),
            ("<a@c..>", None),
            ("<a@.>", None),
            ("<a@[127.0.0.1].>", None),
            ("<a@b_c.d>", Some(("a@b_c.d", ""))),
            ("<\"a b\"@c>", Some(("\"a b\"@c", ""))),
            ("<\"a\\\"b>@x\"@c>", Some(("\"a\\\"b>@x\"@c", ""))),
            ("<\"a\"b@c>", None),
            ("<\"a@c>", None),
            ("<\"\"@c>", Some(("\"\"@c", ""))),
            ("<@a,@b.c:d@e>", Some(("d@e", ""))),
            ("<@a:d@e>", Some(("d@e", ""))),
            ("<@a,b:d@e>", None),
            ("<@a:>", None),
            ("<a@[127.0.0.1]>", Some(("a@[127.0.0.1]", ""))),
            ("<a@[IPv6:::1]>", Some(("a@[IPv6:::1]", ""))),
            ("<a@[ipv6:2001:db8::2]>", Some(("a@[ipv6:2001:db8::2]", ""))),
            ("<a@[1.2.3]>", None),
            ("<a@[::1]>", None),
            ("<a@[127.0.0.1>", None),
            ("<用户@例子.广告>", Some(("用户@例子.广告", ""))),
            ("<a%b.c@d>", Some(("a%b.c@d", ""))),
            ("<a!b@d>", Some(("a!b@d", ""))),
            ("", None),
        ];
        for (input, expected) in CASES {
            let found = parse_path(input).ok().map(|(path, rest)| (path.as_str(), rest));
            assert_eq!(found, *expected, "{input}");
        }
    }

    #[test]
    fn limits() {
        let check = |local: usize, domain: &str, ok: bool| {
            let path = format!("<{}@{domain}>", "a".repeat(local));
            assert_eq!(parse_path(&path).is_ok(), ok, "{path}");
        };
        let long_domain = "abcdefg.".repeat(32);
        check(LOCAL_PART_MAX, "b", true);
        check(LOCAL_PART_MAX + 1, "b", false);
        check(1, &long_domain[..DOMAIN_MAX], true);
        check(1, &format!("{long_domain}a"), false);
        check(1, &"a".repeat(LABEL_MAX), true);
        check(1, &"a".repeat(LABEL_MAX + 1), false);
        assert!(parse_path(&format!("<{}:a@b>", ["@r.test"; 100].join(","))).is_ok());
        assert!(parse_path(&format!("<{}:a@b>", ["@r.test"; 200].join(","))).is_err());
    }

    #[test]
    fn canonical_forms() {
        const CASES: &[(&str, &str)] = &[
            ("alice@demo.test", "alice@demo.test"),
            ("\"alice\"@demo.test", "alice@demo.test"),
            ("\"al\\ice\"@demo.test", "alice@demo.test"),
            ("\"al ice\"@demo.test", "\"al ice\"@demo.test"),
            ("\"a.b\"@x", "a.b@x"),
            ("\"a..b\"@x", "\"a..b\"@x"),
            ("\"\"@x", "\"\"@x"),
            ("\"a\\\\b\"@x", "\"a\\\\b\"@x"),
        ];
        for (input, expected) in CASES {
            assert_eq!(Mailbox::parse(input).expect(input).canonical(), *expected, "{input}");
        }
        assert!(Mailbox::parse("a@b>").is_none());
        assert!(Mailbox::parse("\"x@y\"@z").expect("quoted").looks_routed());
    }
}
