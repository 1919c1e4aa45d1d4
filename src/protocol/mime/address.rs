//! Address lists (RFC 5322 3.4 and 4.4).
//!
//! Called when FETCH returns an ENVELOPE, on values that the summary has unfolded. Lenient: real
//! mail breaks every rule here, and each recognizable address is returned. One pass, no recursion:
//! comments nest by a counter, groups do not nest.

use std::{borrow::Cow, mem};

/// Most addresses returned for one field.
pub const ADDRESSES_MAX: usize = 4_096;

/// One address as in ENVELOPE (RFC 3501 7.4.2); `None` is NIL. A group begins with an address that
/// has only `mailbox` (the group's name) and ends with one that has nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Address<'a> {
    /// Display name, unquoted, encoded-words as sent.
    pub name: Option<Cow<'a, [u8]>>,
    /// At-domain-list (source route).
    pub route: Option<Cow<'a, [u8]>>,
    pub mailbox: Option<Cow<'a, [u8]>>,
    /// Empty, not `None`, when an address has no domain: `None` would mark a group.
    pub host: Option<Cow<'a, [u8]>>,
}

/// Parses as many addresses as possible, up to [`ADDRESSES_MAX`]; never fails.
pub fn parse_list(value: &[u8]) -> Vec<Address<'_>> {
    parse_up_to(value, ADDRESSES_MAX)
}

/// The first address of the list, which may be the name of a group.
pub fn parse_first(value: &[u8]) -> Option<Address<'_>> {
    parse_up_to(value, 1).into_iter().next()
}

fn parse_up_to(value: &[u8], count_max: usize) -> Vec<Address<'_>> {
    let mut parser = Parser { value, at: 0, comment: None };
    let mut list = Vec::new();
    let mut in_group = false;
    while list.len() < count_max {
        let start = parser.at;
        let phrase = parser.words(Join::Phrase);
        match parser.next() {
            None | Some(b',') => list.extend(bare(phrase)),
            Some(b';') => {
                list.extend(bare(phrase));
                if mem::take(&mut in_group) {
                    list.push(Address::default());
                }
            }
            Some(b':') if !in_group => {
                in_group = true;
                let mailbox = Some(phrase.unwrap_or_default());
                list.push(Address { mailbox, ..Address::default() });
            }
            Some(b'<') => list.push(parser.angle(phrase)),
            Some(b'@') => list.push(parser.address_specification(start)),
            Some(_) => {} // a stray special: passed over
        }
        if parser.at >= value.len() {
            break;
        }
    }
    if in_group {
        list.push(Address::default());
    }
    list
}

/// A word without a domain, e.g. a local user's name.
fn bare(phrase: Option<Cow<'_, [u8]>>) -> Option<Address<'_>> {
    let mailbox = Some(phrase?);
    Some(Address { mailbox, host: Some(Cow::Borrowed(b"")), ..Address::default() })
}

/// How consecutive words are joined.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Join {
    /// With one space.
    Phrase,
    /// With nothing beside a dot (obs-local-part, RFC 5322 4.4), otherwise with a space.
    LocalPart,
    /// Without a space, and only beside a dot (obs-domain, RFC 5322 4.4): other words are not part
    /// of the name.
    Domain,
}

struct Parser<'a> {
    value: &'a [u8],
    at: usize,
    /// The latest comment since the address began: the name in `a@b (Name)`.
    comment: Option<&'a [u8]>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.value.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// White space and comments.
    fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b'(' => self.skip_comment(),
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                _ => break,
            }
        }
    }

    fn skip_comment(&mut self) {
        let start = self.at + 1;
        let mut depth = 0;
        while let Some(byte) = self.next() {
            match byte {
                b'(' => depth += 1,
                b')' => depth -= 1,
                b'\\' => self.at += 1,
                _ => {}
            }
            if depth == 0 {
                self.comment = Some(self.value[start..self.at - 1].trim_ascii());
                return;
            }
        }
        self.at = self.value.len();
    }

    /// Words up to a special or the end; `None` when there are none.
    fn words(&mut self, join: Join) -> Option<Cow<'a, [u8]>> {
        let mut words = Words { value: self.value, join, range: 0..0, owned: None };
        let mut found = false;
        loop {
            self.skip_space();
            if found && join == Join::Domain && !words.ends_at_dot(self.peek()) {
                return Some(words.finish());
            }
            match self.peek() {
                Some(b'"') => self.quoted(&mut words),
                Some(b'[') if join == Join::Domain => self.domain_literal(&mut words),
                Some(byte) if is_word(byte) => {
                    let start = self.at;
                    let rest = &self.value[start..];
                    let size = rest.iter().position(|&byte| !is_word(byte));
                    self.at += size.unwrap_or(rest.len());
                    words.add(start, self.at);
                }
                _ => return found.then(|| words.finish()),
            }
            found = true;
        }
    }

    fn quoted(&mut self, words: &mut Words<'a>) {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        while let Some(byte) = self.next() {
            match byte {
                b'"' => {
                    return if escaped {
                        words.add_escaped(start, self.at - 1);
                    } else {
                        words.add(start, self.at - 1);
                    };
                }
                b'\\' => {
                    escaped = true;
                    self.at += 1;
                }
                _ => {}
            }
        }
        self.at = self.value.len();
        words.add_escaped(start.min(self.at), self.at);
    }

    /// `[` to `]`, brackets kept: part of the host's name.
    fn domain_literal(&mut self, words: &mut Words<'a>) {
        let start = self.at;
        while let Some(byte) = self.next() {
            if byte == b']' {
                break;
            }
        }
        words.add(start, self.at);
    }

    /// After `<`: `[route ":"] local-part "@" domain ">"`.
    fn angle(&mut self, name: Option<Cow<'a, [u8]>>) -> Address<'a> {
        self.skip_space();
        let mut route = None;
        if self.peek() == Some(b'@') {
            let rest = &self.value[self.at..];
            let length = rest.iter().position(|byte| b":>".contains(byte)).unwrap_or(rest.len());
            route = Some(Cow::Borrowed(rest[..length].trim_ascii()));
            self.at += length;
            if self.peek() == Some(b':') {
                self.at += 1;
            }
        }
        let mailbox = self.words(Join::LocalPart).unwrap_or_default();
        let mut host = Cow::default();
        if self.peek() == Some(b'@') {
            self.at += 1;
            host = self.words(Join::Domain).unwrap_or_default();
        }
        // Up to the '>', or to the start of the next address.
        while let Some(byte) = self.peek() {
            if byte == b',' || byte == b';' {
                break;
            }
            self.at += 1;
            if byte == b'>' {
                break;
            }
        }
        self.end_address();
        let name = self.name_or_comment(name);
        Address { name, route, mailbox: Some(mailbox), host: Some(host) }
    }

    /// After `local-part "@"`; the local part began at `start`.
    fn address_specification(&mut self, start: usize) -> Address<'a> {
        let comment = self.comment;
        self.at = start;
        let mailbox = self.words(Join::LocalPart).unwrap_or_default();
        self.comment = comment;
        self.at += 1; // the '@' at which the caller stopped
        let host = self.words(Join::Domain).unwrap_or_default();
        if self.peek() == Some(b'<') {
            // `a@b <a@b>`: an unquoted address for a name.
            let name = self.value[start..self.at].trim_ascii();
            self.at += 1;
            return self.angle(Some(Cow::Borrowed(name)));
        }
        self.end_address();
        Address {
            name: self.name_or_comment(None),
            route: None,
            mailbox: Some(mailbox),
            host: Some(host),
        }
    }

    /// Skips the rest of an address, with the comma; a `;` is left for the caller.
    fn end_address(&mut self) {
        loop {
            self.skip_space();
            match self.peek() {
                None | Some(b';') => return,
                Some(b',') => {
                    self.at += 1;
                    return;
                }
                // Missing comma before a new address in angle brackets or quotes.
                Some(b'"' | b'<') => return,
                Some(_) => self.at += 1,
            }
        }
    }

    fn name_or_comment(&mut self, name: Option<Cow<'a, [u8]>>) -> Option<Cow<'a, [u8]>> {
        let comment = self.comment.take();
        name.or(comment.filter(|comment| !comment.is_empty()).map(Cow::Borrowed))
    }
}

fn is_word(byte: u8) -> bool {
    IS_WORD[byte as usize]
}

/// A table by octet: comparing with each of the specials would take most of the time.
static IS_WORD: [bool; 256] = {
    let mut is_word = [true; 256];
    let specials = b" \t\r\n()<>@,;:\"";
    let mut at = 0;
    while at < specials.len() {
        is_word[specials[at] as usize] = false;
        at += 1;
    }
    is_word
};

/// Joins words; borrows while they lie together in the value as they are to be told.
struct Words<'a> {
    value: &'a [u8],
    join: Join,
    /// The words so far, while `owned` is `None`; empty before the first.
    range: std::ops::Range<usize>,
    owned: Option<Vec<u8>>,
}

impl<'a> Words<'a> {
    fn add(&mut self, start: usize, end: usize) {
        if self.owned.is_some() || !(self.range.is_empty() || self.is_next(start)) {
            self.push(&self.value[start..end]);
        } else if self.range.is_empty() {
            self.range = start..end;
        } else {
            self.range.end = end;
        }
    }

    /// Whether the word at `start` directly follows in its final form.
    fn is_next(&self, start: usize) -> bool {
        match self.value.get(self.range.end..start) {
            Some(b" ") => self.join == Join::Phrase,
            Some(b"") => self.ends_at_dot(self.value.get(start).copied()),
            _ => false,
        }
    }

    /// Whether there is a dot between the words so far and text that begins with `next`.
    fn ends_at_dot(&self, next: Option<u8>) -> bool {
        let last = match &self.owned {
            Some(owned) => owned.last(),
            None => self.value[self.range.clone()].last(),
        };
        self.join != Join::Phrase && (last == Some(&b'.') || next == Some(b'.'))
    }

    /// The inside of a quoted string, with its quoted-pairs.
    fn add_escaped(&mut self, start: usize, end: usize) {
        let mut word = Vec::with_capacity(end - start);
        let mut bytes = self.value[start..end].iter();
        while let Some(&byte) = bytes.next() {
            word.extend(if byte == b'\\' { bytes.next().copied() } else { Some(byte) });
        }
        self.push(&word);
    }

    fn push(&mut self, word: &[u8]) {
        let at_dot = self.ends_at_dot(word.first().copied());
        let owned = self.owned.get_or_insert_with(|| self.value[self.range.clone()].to_vec());
        if !owned.is_empty() && !at_dot {
            owned.push(b' ');
        }
        owned.extend_from_slice(word);
    }

    fn finish(self) -> Cow<'a, [u8]> {
        match self.owned {
            Some(owned) => Cow::Owned(owned),
            None => Cow::Borrowed(&self.value[self.range]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each address as `name|route|mailbox|host`, NIL as `-`.
    fn tell(value: &[u8]) -> String {
        let text = |text: &Option<Cow<'_, [u8]>>| match text {
            Some(text) => String::from_utf8_lossy(text).into_owned(),
            None => "-".to_owned(),
        };
        let tell = |address: &Address<'_>| {
            [&address.name, &address.route, &address.mailbox, &address.host].map(text).join("|")
        };
        parse_list(value).iter().map(tell).collect::<Vec<_>>().join(" & ")
    }

    const CASES: &[(&str, &str)] = &[
        ("", ""),
        ("a@b.c", "-|-|a|b.c"),
        ("<a@b.c>", "-|-|a|b.c"),
        ("John Doe <jdoe@machine.example>", "John Doe|-|jdoe|machine.example"),
        ("John  Q. \tPublic <jqp@x>", "John Q. Public|-|jqp|x"),
        ("\"Joe Q. Public\" <john.q.public@x.com>", "Joe Q. Public|-|john.q.public|x.com"),
        ("\"Giant; \\\"Big\\\" Box\" <b@x>", "Giant; \"Big\" Box|-|b|x"),
        ("=?utf-8?q?J=C3=B6rg?= <j@x>", "=?utf-8?q?J=C3=B6rg?=|-|j|x"),
        (
            "Mary Smith <mary@x.test>, jdoe@y.org, Who? <one@z.test>",
            "Mary Smith|-|mary|x.test & -|-|jdoe|y.org & Who?|-|one|z.test",
        ),
        (
            "A Group:Ed Jones <c@a.test>,joe@where.test,John <jdoe@one.test>;",
            "-|-|A Group|- & Ed Jones|-|c|a.test & -|-|joe|where.test & John|-|jdoe|one.test & \
          -|-|-|-",
        ),
        ("Undisclosed recipients:;", "-|-|Undisclosed recipients|- & -|-|-|-"),
        ("g: a@b; c@d", "-|-|g|- & -|-|a|b & -|-|-|- & -|-|c|d"),
        ("g: a@b, c@d", "-|-|g|- & -|-|a|b & -|-|c|d & -|-|-|-"),
        // RFC 5322 A.5 and A.6: comments everywhere, obsolete routing.
        (
            "Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>",
            "Pete|-|pete|silly.test",
        ),
        (
            "A Group(Some people)\r\n :Chris Jones <c@(Chris's host.)public.example>,\r\n \
             joe@example.org",
            "-|-|A Group|- & Chris Jones|-|c|public.example & -|-|joe|example.org & -|-|-|-",
        ),
        (
            "Mary Smith <@node.test,@b.test:mary@example.net>, , jdoe@test  . example",
            "Mary Smith|@node.test,@b.test|mary|example.net & -|-|jdoe|test.example",
        ),
        ("john . q@x", "-|-|john.q|x"),
        ("\"john doe\"@x", "-|-|john doe|x"),
        ("\"a\".\"b\"@x", "-|-|a.b|x"),
        ("a@[192.0.2.1]", "-|-|a|[192.0.2.1]"),
        ("a@b (Old Style)", "Old Style|-|a|b"),
        ("a@b (One), c@d", "One|-|a|b & -|-|c|d"),
        // Broken forms from real mail.
        ("root", "-|-|root|"),
        ("<>", "-|-||"),
        ("a@b <a@b>", "a@b|-|a|b"),
        ("a@b.c <d@e", "a@b.c|-|d|e"),
        ("<a@b, c@d", "-|-|a|b & -|-|c|d"),
        ("\"open <a@b>", "-|-|open <a@b>|"),
        ("A <a@b> B <c@d>", "A|-|a|b & -|-|c|d"),
        (",,;;,a@b;", "-|-|a|b"),
        ("(", ""),
        ("\\", "-|-|\\|"),
        ("@", "-|-||"),
        ("@b", "-|-||b"),
        ("a@", "-|-|a|"),
        ("\"\\", "-|-||"),
    ];

    #[test]
    fn lists() {
        for (value, expected) in CASES {
            assert_eq!(tell(value.as_bytes()), *expected, "{value:?}");
        }
    }

    #[test]
    fn nesting_and_count_are_bounded() {
        assert_eq!(tell(&b"(".repeat(60_000)), "");
        let nested = [b"(".repeat(60_000), b")".repeat(60_000), b"a@b".to_vec()].concat();
        assert!(tell(&nested).ends_with("|-|a|b"));
        assert_eq!(tell(&b")".repeat(60_000)), "");
        assert_eq!(parse_list(&b"a,".repeat(60_000)).len(), ADDRESSES_MAX);
        assert!(parse_list(&b"<".repeat(60_000)).len() <= ADDRESSES_MAX);
        assert!(parse_list(&b"a:".repeat(60_000)).len() <= ADDRESSES_MAX + 1);
    }

    #[test]
    fn plain_names_are_borrowed() {
        let list = parse_list(b"\"John Doe\" <john.doe@x.com>, Jane Q. Doe <j@x>");
        for address in list {
            assert!(matches!(address.name, Some(Cow::Borrowed(_))));
            assert!(matches!(address.mailbox, Some(Cow::Borrowed(_))));
        }
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(value in "[ab ()<>@,;:\\\\\"\\[\\].]{0,40}") {
            parse_list(value.as_bytes());
        }
    }
}
