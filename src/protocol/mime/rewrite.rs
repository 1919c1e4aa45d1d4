//! Rewrites the domains of addresses in the fields that name a message's author and sender, while
//! the message passes.
//!
//! `service::smtp` asks a [`HeaderRewriter`] about mail of users if `addresses.rewrite_headers`
//! says so, before the message is signed. All else passes as it is, octet by octet: a field without
//! such a domain, comments, quoted strings, names, white space and folds.

use memchr::memchr;

/// Fields whose addresses are rewritten (RFC 5322 3.6.2, 3.6.6).
const FIELDS: &[&str] =
    &["from", "sender", "reply-to", "resent-from", "resent-sender", "resent-reply-to"];

/// Octets of a field that is rewritten; a longer one passes as it is.
const REWRITTEN_MAX: usize = 64 * 1024;

/// Octets before the colon that may be the name of such a field, with white space behind it.
const NAME_KEPT: usize = 32;

/// Takes a message in any pieces. Its memory is that of one field.
#[derive(Clone, Default, Debug)]
pub struct HeaderRewriter {
    place: Place,
    /// Octets that are not passed on yet: they may be, or are, one of the fields.
    held: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Place {
    /// At the beginning of a line, and not in one of the fields.
    #[default]
    Line,
    /// After CR at the beginning of a line.
    LineCr,
    /// In what may be the name of a field.
    Name,
    /// In a line that passes.
    Other,
    /// In one of the fields.
    Field,
    /// At the beginning of a line after one of the fields, which may go on.
    FieldLine,
    Body,
}

impl HeaderRewriter {
    /// Whether the header has ended: all else passes as it is.
    pub fn is_over(&self) -> bool {
        self.place == Place::Body
    }

    /// Takes the next octets; returns those that can be passed on. `rewritten` is asked for what
    /// becomes of a domain; `None`: it stays.
    pub fn push(&mut self, octets: &[u8], rewritten: impl Fn(&str) -> Option<String>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.held.len() + octets.len());
        let mut rest = octets;
        while let Some((&octet, after)) = rest.split_first() {
            match self.place {
                Place::Body => {
                    out.extend_from_slice(rest);
                    break;
                }
                Place::Other => {
                    let line = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
                    let (line, next) = rest.split_at(line);
                    out.extend_from_slice(line);
                    rest = next;
                    if line.ends_with(b"\n") {
                        self.place = Place::Line;
                    }
                    continue;
                }
                Place::Field => {
                    let line = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
                    let (line, next) = rest.split_at(line);
                    self.held.extend_from_slice(line);
                    rest = next;
                    let ends = line.ends_with(b"\n");
                    self.place = match (self.held.len() > REWRITTEN_MAX, ends) {
                        (true, _) => {
                            out.append(&mut self.held);
                            if ends { Place::Line } else { Place::Other }
                        }
                        (false, true) => Place::FieldLine,
                        (false, false) => Place::Field,
                    };
                    continue;
                }
                Place::FieldLine if matches!(octet, b' ' | b'\t') => self.place = Place::Field,
                Place::FieldLine => {
                    append_rewritten(&self.held, &rewritten, &mut out);
                    self.held.clear();
                    self.place = Place::Line;
                    continue;
                }
                Place::Line if octet == b'\r' => self.place = Place::LineCr,
                // BDAT brings bare LF, and for our readers an empty line of it ends the header.
                Place::Line if octet == b'\n' => self.place = Place::Body,
                // A field that passes goes on.
                Place::Line if matches!(octet, b' ' | b'\t') => self.place = Place::Other,
                Place::Line => self.place = Place::Name,
                Place::LineCr if octet == b'\n' => self.place = Place::Body,
                Place::LineCr => self.place = Place::Other,
                Place::Name => {}
            }
            rest = after;
            self.held.push(octet);
            match self.place {
                Place::Name if octet == b':' => {
                    let name = self.held.strip_suffix(b":").unwrap_or_default().trim_ascii_end();
                    let is_one =
                        FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field.as_bytes()));
                    self.place = if is_one { Place::Field } else { Place::Other };
                }
                Place::Name if octet == b'\n' => self.place = Place::Line,
                Place::Name if self.held.len() > NAME_KEPT => self.place = Place::Other,
                _ => {}
            }
            if matches!(self.place, Place::Other | Place::Line | Place::Body) {
                out.append(&mut self.held);
            }
        }
        out
    }

    /// The message is complete: what is left of it.
    pub fn finish(&mut self, rewritten: impl Fn(&str) -> Option<String>) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(held.len());
        match self.place {
            Place::Field | Place::FieldLine => append_rewritten(&held, &rewritten, &mut out),
            _ => out.extend_from_slice(&held),
        }
        self.place = Place::Body;
        out
    }
}

/// Appends a field with the domains of its addresses rewritten.
fn append_rewritten(field: &[u8], rewritten: impl Fn(&str) -> Option<String>, out: &mut Vec<u8>) {
    let mut passed = 0;
    for (begin, end) in domains(field) {
        let domain = field.get(begin..end).and_then(|domain| std::str::from_utf8(domain).ok());
        if let Some(new) = domain.and_then(&rewritten) {
            out.extend_from_slice(field.get(passed..begin).unwrap_or_default());
            out.extend_from_slice(new.as_bytes());
            passed = end;
        }
    }
    out.extend_from_slice(field.get(passed..).unwrap_or_default());
}

/// Where the domains of the addresses in a field are (RFC 5322 3.4): behind the `@` of an address,
/// not in comments, quoted strings, names before `<`, or source routes (RFC 5322 4.4). Domain
/// literals and domains with white space in them are left out.
fn domains(field: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut scanner = Scanner { field, at: 0 };
    // The last one since the address began.
    let mut candidate = None;
    let mut in_angle = false;
    // The name of the field has no special but its colon.
    while let Some(octet) = scanner.peek() {
        match octet {
            b'"' | b'(' | b'[' => {
                if !scanner.skip_enclosed() {
                    return found;
                }
                continue;
            }
            b'@' => {
                scanner.at += 1;
                candidate = scanner.domain();
                continue;
            }
            // What came before was its name.
            b'<' => (candidate, in_angle) = (None, true),
            b'>' if in_angle => {
                found.extend(candidate.take());
                in_angle = false;
            }
            b',' | b';' if !in_angle => found.extend(candidate.take()),
            // The end of a group's name, or of a source route.
            b':' => candidate = None,
            _ => {}
        }
        scanner.at += 1;
    }
    if !in_angle {
        found.extend(candidate);
    }
    found
}

struct Scanner<'a> {
    field: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.field.get(self.at).copied()
    }

    /// Skips a quoted string, a comment (they nest) or a domain literal; false if it has no end.
    fn skip_enclosed(&mut self) -> bool {
        let mut depth = 0_usize;
        let close = match self.peek() {
            Some(b'"') => b'"',
            Some(b'[') => b']',
            _ => b')',
        };
        let open = self.peek();
        while let Some(octet) = self.peek() {
            self.at += 1;
            match octet {
                b'\\' => self.at += 1,
                _ if octet == close && depth > 0 => depth -= 1,
                _ if Some(octet) == open => depth += 1,
                _ => {}
            }
            if depth == 0 {
                return true;
            }
        }
        false
    }

    fn skip_space(&mut self) -> bool {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(b'(') => {
                    if !self.skip_enclosed() {
                        return false;
                    }
                }
                _ => return true,
            }
        }
    }

    /// The domain behind an `@`.
    fn domain(&mut self) -> Option<(usize, usize)> {
        if !self.skip_space() {
            return None;
        }
        let begin = self.at;
        let is_part = |octet: u8| {
            octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_') || octet >= 0x80
        };
        while self.peek().is_some_and(is_part) {
            self.at += 1;
        }
        let end = self.at;
        // Another octet belongs to the word, a dot to the domain (RFC 5322 4.4, obs-domain).
        let goes_on =
            |octet| !matches!(octet, b' ' | b'\t' | b'\r' | b'\n' | b'(' | b',' | b';' | b'>');
        if end == begin || self.peek().is_some_and(goes_on) {
            return None;
        }
        let ends = self.skip_space() && self.peek() != Some(b'.');
        ends.then_some((begin, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(domain: &str) -> Option<String> {
        domain.eq_ignore_ascii_case("lan.test").then(|| "out.example".to_owned())
    }

    /// In pieces of `size`.
    fn rewrite(message: &str, size: usize) -> String {
        let mut rewriter = HeaderRewriter::default();
        let mut out = Vec::new();
        for piece in message.as_bytes().chunks(size) {
            out.extend(rewriter.push(piece, lookup));
        }
        out.extend(rewriter.finish(lookup));
        String::from_utf8(out).unwrap()
    }

    /// (field without its end, what becomes of it; empty if it stays)
    #[rustfmt::skip]
    const CASES: &[(&str, &str)] = &[
        ("From: a@lan.test", "From: a@out.example"),
        ("from:a@LAN.test", "from:a@out.example"),
        ("SENDER \t: <a@lan.test>", "SENDER \t: <a@out.example>"),
        ("Reply-To: A <a@lan.test>", "Reply-To: A <a@out.example>"),
        ("Resent-From: a@lan.test", "Resent-From: a@out.example"),
        // Other fields, and other domains.
        ("To: a@lan.test", ""),
        ("X-From: a@lan.test", ""),
        ("Fromm: a@lan.test", ""),
        ("From a: a@lan.test", ""),
        ("From: a@b.lan.test", ""),
        ("From: a@lan.test.example", ""),
        ("From: a@xlan.test", ""),
        ("From: a@other.test", ""),
        ("From: lan.test", ""),
        ("From:", ""),
        ("From: a@", ""),
        ("From: a@[lan.test]", ""),
        ("From: a@[127.0.0.1], b@lan.test", "From: a@[127.0.0.1], b@out.example"),
        // Several.
        ("From: a@lan.test, B <b@lan.test>,c@other.test , d@lan.test",
         "From: a@out.example, B <b@out.example>,c@other.test , d@out.example"),
        // Folded.
        ("From:\r\n A\r\n\t<a@lan.test>,\r\n b@\r\n lan.test", "From:\r\n A\r\n\t<a@out.example>,\r\n b@\r\n out.example"),
        ("From: a@other.test,\r\n a@lan.test", "From: a@other.test,\r\n a@out.example"),
        ("Subject: x\r\n From: a@lan.test", ""),
        ("Subject: x\r\n\tfrom a@lan.test:", ""),
        // Groups.
        ("Reply-To: g: a@lan.test, B <b@lan.test>;, c@lan.test",
         "Reply-To: g: a@out.example, B <b@out.example>;, c@out.example"),
        ("From: Nobody:;", ""),
        // Encoded words, and names with addresses in them.
        ("From: =?utf-8?q?J=C3=B6rg?= <j@lan.test>", "From: =?utf-8?q?J=C3=B6rg?= <j@out.example>"),
        ("From: =?utf-8?q?j@lan.test?= <j@lan.test>", "From: =?utf-8?q?j@lan.test?= <j@out.example>"),
        ("From: =?utf-8?q?_@lan.test_?=", ""),
        ("From: \"a@lan.test\" <a@lan.test>", "From: \"a@lan.test\" <a@out.example>"),
        ("From: \"a\\\" <x@lan.test>\" <a@lan.test>", "From: \"a\\\" <x@lan.test>\" <a@out.example>"),
        ("From: a@lan.test <a@lan.test>", "From: a@lan.test <a@out.example>"),
        ("From: \"b, c@lan.test\" <a@other.test>", ""),
        ("From: ü@lan.test", "From: ü@out.example"),
        // Comments.
        ("From: a@lan.test (a@lan.test)", "From: a@out.example (a@lan.test)"),
        ("From: a(x@lan.test, (y@lan.test) \\)z@lan.test) @ (h) lan.test (i), b@lan.test",
         "From: a(x@lan.test, (y@lan.test) \\)z@lan.test) @ (h) out.example (i), b@out.example"),
        // Quoted local parts.
        ("From: \"a@lan.test b\"@lan.test", "From: \"a@lan.test b\"@out.example"),
        // A source route is not the address; a domain with white space in it is not read.
        ("From: <@lan.test,@b.test:a@lan.test>", "From: <@lan.test,@b.test:a@out.example>"),
        ("From: a@lan.test . example", ""),
        ("From: a@lan . test", ""),
        // Broken ones stay, as far as it is not clear what they mean.
        ("From: \"a@lan.test", ""),
        ("From: (a@lan.test", ""),
        ("From: <a@lan.test", ""),
        ("From: a@lan.test (", ""),
        ("From: a@lan.test\\", ""),
        ("From: a@lan.test, \"b@lan.test", "From: a@out.example, \"b@lan.test"),
        ("From: a@b@lan.test", "From: a@b@out.example"),
        ("From: <a@lan.test> b <c@lan.test>", "From: <a@out.example> b <c@out.example>"),
    ];

    #[test]
    fn fields_in_any_pieces() {
        for (field, expected) in CASES {
            let expected = if expected.is_empty() { field } else { expected };
            for (before, after) in [
                ("", "\r\n\r\nFrom: a@lan.test\r\n"),
                ("Subject: x\r\n", "\r\nX: a@lan.test\r\n\r\na@lan.test"),
                ("From: o@other.test\r\n", "\r\nTo: b@lan.test"),
                ("", ""),
            ] {
                let message = format!("{before}{field}{after}");
                let expected = format!("{before}{expected}{after}");
                for size in 1..=message.len() {
                    assert_eq!(rewrite(&message, size), expected, "{field:?} by {size}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_header_passes() {
        for message in [
            "",
            "\r\nFrom: a@lan.test\r\n",
            "\r",
            "\rFrom: a@lan.test\r\n",
            "From alice@lan.test Mon Nov 23 21:36:29 2026\r\nSubject: x\r\n\r\n",
            "no field at all a@lan.test\r\n\r\nFrom: a@lan.test\r\n",
            "From\r\n: a@lan.test\r\n",
            // Bare LF, which BDAT brings.
            "\nFrom: a@lan.test\n",
            "Subject: x\n\nFrom: a@lan.test\n",
            "Subject: x\n\r\nFrom: a@lan.test\r\n",
            "From: o@other.test\n\nFrom: a@lan.test\n",
        ] {
            for size in 1..=message.len().max(1) {
                assert_eq!(rewrite(message, size), message);
            }
        }
    }

    #[test]
    fn a_field_that_is_too_long_passes_as_it_is() {
        let long = |count: usize| format!("From: {}z@lan.test", "a@lan.test,\r\n ".repeat(count));
        let fits = rewrite(&format!("{}\r\n\r\n", long(1000)), 999);
        assert!(!fits.contains("lan.test"), "{fits}");
        for size in [1, 100, 1 << 20] {
            let message = format!("{}\r\nSender: a@lan.test\r\n\r\nx", long(6000));
            let expected = format!("{}\r\nSender: a@out.example\r\n\r\nx", long(6000));
            assert_eq!(rewrite(&message, size), expected);
        }
        let mut rewriter = HeaderRewriter::default();
        for _ in 0..100 {
            rewriter.push("From: ".as_bytes(), lookup);
            rewriter.push(&[b'x'; 10_000], lookup);
            assert!(rewriter.held.capacity() <= 4 * REWRITTEN_MAX);
        }
    }

    /// What follows the first empty line.
    fn body(message: &str) -> Option<String> {
        let message = format!("\n{message}");
        let ends = ["\n\n", "\n\r\n"].map(|end| Some((message.find(end)?, end.len())));
        let (at, len) = ends.into_iter().flatten().min()?;
        message.get(at + len..).map(str::to_owned)
    }

    proptest::proptest! {
        /// Without a domain to rewrite, every octet passes.
        #[test]
        fn nothing_else_changes(
            message in "(From: a@lan.test|From|To|[a \t:@.<>(),;\"\\\\\\[\\]\r\n]|lan|test|\r\n){0,40}",
            size in 1_usize..20,
        ) {
            let mut rewriter = HeaderRewriter::default();
            let mut out = Vec::new();
            for piece in message.as_bytes().chunks(size) {
                out.extend(rewriter.push(piece, |_| None));
            }
            out.extend(rewriter.finish(|_| None));
            assert_eq!(out, message.as_bytes());
            let whole = rewrite(&message, message.len().max(1));
            assert_eq!(rewrite(&message, size), whole);
            assert_eq!(whole.replace("out.example", "lan.test"), message);
            assert_eq!(body(&whole), body(&message));
        }
    }
}
