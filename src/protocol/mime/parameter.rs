//! Structured MIME field values: media type, disposition, parameters, language tags (RFC 2045 5.1,
//! RFC 2183, RFC 2231, RFC 3282).
//!
//! Called by the summarizer on raw (folded) values; results are appended to its text buffer in the
//! NUL-terminated form defined by [`super::summary::Field`]. Parsing is lenient: common mistakes
//! (unquoted `=` in a boundary, missing semicolons, unclosed quotes) still yield the intended
//! value.

/// Parameters kept of one field; RFC 2231 continuations count each.
const PARAMETERS_MAX: usize = 64;

/// RFC 2045 5.1: neither control, space nor tspecial.
const TOKEN: [bool; 256] = {
    let mut token = [true; 256];
    let mut control = 0;
    while control <= b' ' as usize {
        token[control] = false;
        control += 1;
    }
    token[0x7f] = false;
    let specials = b"()<>@,;:\\\"/[]?=";
    let mut index = 0;
    while index < specials.len() {
        token[specials[index] as usize] = false;
        index += 1;
    }
    token
};

/// A position in a field value.
pub(super) struct Cursor<'a> {
    value: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(value: &'a [u8]) -> Cursor<'a> {
        Cursor { value, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.value.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Skips white space, line ends and comments (nested, counted, not recursed into).
    fn skip_space(&mut self) {
        let mut depth = 0;
        while let Some(byte) = self.peek() {
            match byte {
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\\' if depth > 0 => self.at += 1,
                _ if depth > 0 || byte.is_ascii_whitespace() || byte == 0 => {}
                _ => break,
            }
            self.at += 1;
        }
    }

    /// RFC 2045 5.1 token; empty if there is none. Octets above 127 are accepted.
    pub(super) fn token(&mut self) -> &'a [u8] {
        self.skip_space();
        self.run(|byte| TOKEN[usize::from(byte)])
    }

    fn run(&mut self, accept: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = &self.value[self.at.min(self.value.len())..];
        let length = rest.iter().position(|&byte| !accept(byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// Appends a parameter's value: a quoted string, or anything up to white space or `;`.
    fn parameter_value(&mut self, out: &mut Vec<u8>) {
        self.skip_space();
        if !self.eat(b'"') {
            out.extend_from_slice(self.run(|byte| byte > b' ' && byte != b';'));
            return;
        }
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => return,
                b'\r' | b'\n' | 0 => {}
                b'\\' => {
                    let quoted = self.peek();
                    self.at += 1;
                    out.extend(quoted.filter(|quoted| !b"\r\n\0".contains(quoted)));
                }
                _ => out.push(byte),
            }
        }
    }

    /// Appends the parameters that follow as `name NUL value NUL`.
    pub(super) fn parameters(&mut self, out: &mut Vec<u8>) {
        let start = out.len();
        let mut continued = false;
        for _ in 0..PARAMETERS_MAX {
            self.skip_space();
            while self.eat(b';') {
                self.skip_space();
            }
            if self.peek().is_none() {
                break;
            }
            let name = self.token();
            self.skip_space();
            if name.is_empty() || !self.eat(b'=') {
                self.run(|byte| byte != b';');
                continue;
            }
            continued |= name.contains(&b'*');
            out.extend_from_slice(name);
            out.push(0);
            self.parameter_value(out);
            out.push(0);
        }
        if continued {
            let split = out.split_off(start);
            join_continuations(&split, out);
        }
    }
}

/// `type "/" subtype`; `None` if the value does not begin that way (RFC 2045 5.2: then the default
/// applies). The cursor is left before the parameters.
pub(super) fn media_type<'a>(cursor: &mut Cursor<'a>) -> Option<(&'a [u8], &'a [u8])> {
    let media_type = cursor.token();
    cursor.skip_space();
    if media_type.is_empty() || !cursor.eat(b'/') {
        return None;
    }
    let subtype = cursor.token();
    (!subtype.is_empty()).then_some((media_type, subtype))
}

/// Appends each language tag and a NUL (RFC 3282).
pub(super) fn languages(value: &[u8], out: &mut Vec<u8>) {
    let mut cursor = Cursor::new(value);
    for _ in 0..PARAMETERS_MAX {
        let tag = cursor.token();
        if !tag.is_empty() {
            out.extend_from_slice(tag);
            out.push(0);
        } else if cursor.peek().is_none() {
            break;
        } else {
            cursor.at += 1;
        }
    }
}

/// One parameter whose name may carry RFC 2231 marks.
struct Segment<'a> {
    base: &'a [u8],
    /// `name*1`: a piece of a longer value (RFC 2231 3).
    index: Option<u32>,
    /// `name*` or `name*1*`: percent-encoded (RFC 2231 4).
    extended: bool,
    value: &'a [u8],
}

impl<'a> Segment<'a> {
    fn new(name: &'a [u8], value: &'a [u8]) -> Segment<'a> {
        let (marked, extended) = match name.strip_suffix(b"*") {
            Some(marked) => (marked, true),
            None => (name, false),
        };
        let index = marked.iter().rposition(|&byte| byte == b'*').and_then(|star| {
            let digits = str::from_utf8(&marked[star + 1..]).ok()?;
            Some((star, digits.parse().ok()?))
        });
        match index {
            Some((star, index)) => {
                Segment { base: &marked[..star], index: Some(index), extended, value }
            }
            None => Segment { base: marked, index: None, extended, value },
        }
    }
}

/// Joins the pieces of RFC 2231 continuations, at the place of the first. A value with any
/// percent-encoded piece becomes one extended parameter `name*`, as BODYSTRUCTURE returns it.
fn join_continuations(split: &[u8], out: &mut Vec<u8>) {
    let segments: Vec<Segment<'_>> =
        super::summary::pairs(split).map(|(name, value)| Segment::new(name, value)).collect();
    for segment in &segments {
        match segment.index {
            None => {
                out.extend_from_slice(segment.base);
                out.extend_from_slice(if segment.extended { b"*\0" } else { b"\0" });
                out.extend_from_slice(segment.value);
                out.push(0);
            }
            Some(index) => {
                let first = piece(&segments, segment.base, 0);
                if index == 0 && first.is_some_and(|first| std::ptr::eq(first, segment)) {
                    join(&segments, segment.base, out);
                }
            }
        }
    }
}

fn piece<'a>(segments: &'a [Segment<'a>], base: &[u8], index: u32) -> Option<&'a Segment<'a>> {
    segments
        .iter()
        .find(|segment| segment.index == Some(index) && segment.base.eq_ignore_ascii_case(base))
}

fn join(segments: &[Segment<'_>], base: &[u8], out: &mut Vec<u8>) {
    let pieces = || (0..).map_while(|index| piece(segments, base, index));
    let extended = pieces().any(|piece| piece.extended);
    out.extend_from_slice(base);
    out.extend_from_slice(if extended { b"*\0" } else { b"\0" });
    for (index, piece) in pieces().enumerate() {
        if extended && !piece.extended {
            if index == 0 {
                out.extend_from_slice(b"''"); // the charset and language that are missing
            }
            percent_encode(piece.value, out);
        } else {
            out.extend_from_slice(piece.value);
        }
    }
    out.push(0);
}

/// The octets of an extended value (RFC 2231 4), without charset and language.
pub(super) fn percent_decode(value: &[u8]) -> Vec<u8> {
    let mut rest = value.splitn(3, |&byte| byte == b'\'').last().unwrap_or_default();
    let mut out = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                out.push(decoded);
                rest = &after[2..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// RFC 2231 7: all but attribute-char.
fn percent_encode(value: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in value {
        if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`{|}~".contains(&byte) {
            out.push(byte);
        } else {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out.push(b'%');
            out.extend_from_slice(&digits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, expected: &str) {
        let mut cursor = Cursor::new(value.as_bytes());
        let mut out = Vec::new();
        match media_type(&mut cursor) {
            Some((media_type, subtype)) => {
                out.extend_from_slice(media_type);
                out.push(b'/');
                out.extend_from_slice(subtype);
                out.push(b' ');
                cursor.parameters(&mut out);
            }
            None => out.extend_from_slice(b"none"),
        }
        let got = String::from_utf8_lossy(&out).replace('\0', "|");
        assert_eq!(got, expected, "{value:?}");
    }

    const CASES: &[(&str, &str)] = &[
        ("text/plain", "text/plain "),
        (" text / html ; charset = utf-8", "text/html charset|utf-8|"),
        ("text/plain; charset=us-ascii (Plain text)", "text/plain charset|us-ascii|"),
        ("(a (nested\\)) one) text/plain;\r\n\tcharset=\"x\\\"y\"", "text/plain charset|x\"y|"),
        ("multipart/mixed; boundary=----=_Part_1", "multipart/mixed boundary|----=_Part_1|"),
        ("a/b; x=1 y=2;;; z=\"open", "a/b x|1|y|2|z|open|"),
        ("a/b; broken; =x; y=2", "a/b y|2|"),
        ("text", "none"),
        ("", "none"),
        ("/plain", "none"),
        ("text/", "none"),
        // RFC 2231 3 and 4.1, the RFC's own examples.
        (
            "message/external-body; access-type=URL;\r\n URL*0=\"ftp://\";\r\n \
             URL*1=\"cs.utk.edu/pub\"",
            "message/external-body access-type|URL|URL|ftp://cs.utk.edu/pub|",
        ),
        (
            "application/x-stuff;\r\n title*0*=us-ascii'en'This%20is%20even%20more%20;\r\n \
             title*1*=%2A%2A%2Afun%2A%2A%2A%20;\r\n title*2=\"isn't it!\"",
            "application/x-stuff \
             title*|us-ascii'en'This%20is%20even%20more%20%2A%2A%2Afun%2A%2A%2A%20isn%27t%20it!|",
        ),
        ("a/b; n*1=b; n*0=a; n*3=d", "a/b n|ab|"),
        ("a/b; n*=utf-8''%e2", "a/b n*|utf-8''%e2|"),
        ("a/b; n*x=1", "a/b n*x|1|"),
    ];

    #[test]
    fn media_types_and_parameters() {
        for (value, expected) in CASES {
            check(value, expected);
        }
    }

    #[test]
    fn language_tags() {
        let mut out = Vec::new();
        languages(b"en, de-CH (Swiss)\r\n , ,fr", &mut out);
        assert_eq!(out, b"en\0de-CH\0fr\0");
    }

    #[test]
    fn parameters_are_bounded() {
        let mut out = Vec::new();
        let value = "; a*0=b".repeat(20_000);
        Cursor::new(value.as_bytes()).parameters(&mut out);
        assert!(out.len() <= PARAMETERS_MAX * 4);
    }
}
