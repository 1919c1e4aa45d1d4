//! Message IDs of a header as THREAD compares them (RFC 5256 3, RFC 5322 3.6.4).
//!
//! Summaries and cards keep a hash of each, which is all that a comparison needs: eight octets
//! instead of some sixty. Two different IDs have the same hash in a mailbox of a million messages
//! once in a hundred million times; who makes them so on purpose gains what he has by writing
//! another message's ID into his References.

use super::header;

/// Hashes kept of a References field: of the first ID and of the last ones. A longer field counts
/// as truncated, which threading provides for (RFC 5256 3, step 1A).
pub(super) const REFERENCES_MAX: usize = 128;

/// The hash of the first ID in a value.
pub(super) fn first_id(value: &[u8]) -> Option<u64> {
    ids(value).next()
}

/// The hashes of all IDs of a References value, at most [`REFERENCES_MAX`].
pub(super) fn references(value: &[u8]) -> Vec<u64> {
    let mut found: Vec<u64> = Vec::new();
    for id in ids(value) {
        if found.len() == 2 * REFERENCES_MAX {
            found.drain(1..=REFERENCES_MAX);
        }
        found.push(id);
    }
    if found.len() > REFERENCES_MAX {
        found.drain(1..=found.len() - REFERENCES_MAX);
    }
    found
}

/// The hashes of the Message-ID and of the references that a header has.
pub(super) fn of_header(header: &[u8]) -> (Option<u64>, Vec<u64>) {
    let named = |name: &[u8]| {
        header::fields(header).find(|it| it.name.eq_ignore_ascii_case(name)).map(|it| it.value)
    };
    let found = references(named(b"references").unwrap_or_default());
    let replied = || named(b"in-reply-to").and_then(first_id);
    let found = if found.is_empty() { replied().into_iter().collect() } else { found };
    (named(b"message-id").and_then(first_id), found)
}

fn ids(value: &[u8]) -> impl Iterator<Item = u64> {
    let mut rest = value;
    // Quotes count until one of them is never closed: so no octet is read more than twice.
    let mut quotes = true;
    std::iter::from_fn(move || {
        loop {
            let start = memchr::memchr(b'<', rest)?;
            let text = rest.get(start + 1..)?;
            let mut read = read_id(text, quotes);
            if read.is_none() && quotes {
                quotes = false;
                read = read_id(text, quotes);
            }
            let (id, size) = read?;
            rest = text.get(size..)?;
            if id.is_some() {
                return id;
            }
        }
    })
}

/// The hash of the ID whose text begins here, behind `<`, and the octets read; `None` if it never
/// ends. Quotes are removed and white space is skipped: `<"a"@b>` is `<a@b>`.
fn read_id(text: &[u8], quotes: bool) -> Option<(Option<u64>, usize)> {
    let mut hash = Hash::new();
    let mut quoted = false;
    let (mut left, mut right, mut has_at) = (0, 0, false);
    let mut octets = text.iter().enumerate();
    while let Some((at, &octet)) = octets.next() {
        let octet = match octet {
            b'"' if quotes => {
                quoted = !quoted;
                continue;
            }
            b'\\' if quoted => match octets.next() {
                Some((_, &escaped)) => escaped,
                None => return None,
            },
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'>' if !quoted => {
                let is_valid = has_at && left > 0 && right > 0;
                return Some((is_valid.then(|| hash.finish()), at + 1));
            }
            // The one before was never closed.
            b'<' if !quoted => return Some((None, at)),
            octet => octet,
        };
        match octet {
            b'@' if !quoted && !has_at => has_at = true,
            _ if has_at => right += 1,
            _ => left += 1,
        }
        hash.push(octet);
    }
    None
}

/// FNV-1a of 64 bits. Kept on disk: it must stay.
struct Hash(u64);

impl Hash {
    fn new() -> Hash {
        Hash(0xcbf2_9ce4_8422_2325)
    }

    fn push(&mut self, octet: u8) {
        self.0 = (self.0 ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
    }

    fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(id: &str) -> u64 {
        let mut hash = Hash::new();
        id.bytes().for_each(|octet| hash.push(octet));
        hash.finish()
    }

    #[test]
    fn ids_are_read() {
        const CASES: &[(&str, &[&str])] = &[
            ("<a@b>", &["a@b"]),
            ("  (c) <a@b> x <c@d>\r\n <e@f>", &["a@b", "c@d", "e@f"]),
            // RFC 5256 3: these two are the same.
            ("<\"01KF8JCEOCBS0045PS\"@xxx.yyy.com>", &["01KF8JCEOCBS0045PS@xxx.yyy.com"]),
            ("<\"a\\\"b >\"@c>", &["a\"b>@c"]),
            ("<a @\r\n b>", &["a@b"]),
            ("<A@b> <a@B>", &["A@b", "a@B"]),
            ("<a@[1.2.3.4]>", &["a@[1.2.3.4]"]),
            ("<a@b", &[]),
            ("<a@b <c@d>", &["c@d"]),
            ("<\"a@b <c@d>", &["c@d"]),
            ("<abc>", &[]),
            ("<@b> <a@>", &[]),
            ("a@b", &[]),
            ("", &[]),
        ];
        for &(value, expected) in CASES {
            let expected: Vec<u64> = expected.iter().map(|id| hash(id)).collect();
            assert_eq!(references(value.as_bytes()), expected, "{value:?}");
            assert_eq!(first_id(value.as_bytes()), expected.first().copied());
        }
        // Known answers of the function itself: it is on disk.
        assert_eq!((hash(""), hash("a")), (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c));
    }

    #[test]
    fn of_many_references_the_first_and_the_last_count() {
        for count in [1_usize, 127, 128, 129, 255, 256, 257, 1_000] {
            let value: String = (0..count).map(|number| format!("<{number}@x> ")).collect();
            let found = references(value.as_bytes());
            let first = [hash("0@x")];
            let skipped = count.saturating_sub(REFERENCES_MAX);
            let rest = (1 + skipped..count).map(|number| hash(&format!("{number}@x")));
            assert_eq!(found, first.into_iter().chain(rest).collect::<Vec<_>>(), "{count}");
        }
        let unclosed = "<\"\\\"".repeat(50_000);
        assert!(references(unclosed.as_bytes()).is_empty());
    }

    #[test]
    fn of_headers() {
        let ids = |names: &[&str]| names.iter().map(|id| hash(id)).collect::<Vec<_>>();
        type Case<'a> = (&'a [u8], Option<&'a str>, &'a [&'a str]);
        const CASES: &[Case<'_>] = &[
            (b"Message-ID: <a@b>\r\nReferences: <c@d>\r\n <e@f>\r\n", Some("a@b"), &["c@d", "e@f"]),
            (b"References: <c@d>\r\nIn-Reply-To: <e@f> <g@h>\r\n\r\n", None, &["c@d"]),
            (b"References: none\r\nIn-Reply-To: x <e@f> <g@h>\r\n\r\n", None, &["e@f"]),
            (b"Subject: x\r\n\r\nReferences: <c@d>\r\n", None, &[]),
        ];
        for &(header, id, references) in CASES {
            let expected = (id.map(hash), ids(references));
            assert_eq!(of_header(header), expected, "{}", header.escape_ascii());
        }
    }
}
