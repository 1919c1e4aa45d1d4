//! Primitive values on the wire: numbers, strings, atoms (RFC 3501 4). Used by every writer here.

/// Longest string that may be sent quoted; longer ones are literals, which are cheap to read.
const QUOTED_MAX: usize = 1_000;

/// Appends `number` in decimal.
pub(super) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends the header of a literal of `size` octets, which the caller appends next.
pub(super) fn push_literal_header(out: &mut Vec<u8>, size: u64) {
    out.push(b'{');
    push_number(out, size);
    out.extend_from_slice(b"}\r\n");
}

/// Appends `string`: quoted if RFC 3501 allows it and it is short, otherwise a literal.
pub(super) fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    let found = match text.len() {
        0..=QUOTED_MAX => text.iter().fold(0, |found, &octet| found | IN_QUOTES[octet as usize]),
        _ => UNQUOTABLE,
    };
    if found & UNQUOTABLE != 0 {
        push_literal_header(out, text.len() as u64);
        out.extend_from_slice(text);
        return;
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    if found & ESCAPED != 0 {
        for &octet in text {
            if matches!(octet, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(octet);
        }
    } else {
        out.extend_from_slice(text);
    }
    out.push(b'"');
}

/// A quoted string holds TEXT-CHAR: no NUL, CR, LF, nothing above 127 (RFC 3501 9).
const UNQUOTABLE: u8 = 1;
const ESCAPED: u8 = 2;

/// The effect of an octet on a quoted string.
static IN_QUOTES: [u8; 256] = {
    let mut found = [0; 256];
    let mut octet = 0;
    while octet < found.len() {
        found[octet] = match octet as u8 {
            0 | b'\r' | b'\n' | 0x80.. => UNQUOTABLE,
            b'"' | b'\\' => ESCAPED,
            _ => 0,
        };
        octet += 1;
    }
    found
};

/// Appends `nstring`: `NIL` if absent.
pub(super) fn push_nstring(out: &mut Vec<u8>, text: Option<&[u8]>) {
    match text {
        Some(text) => push_string(out, text),
        None => out.extend_from_slice(b"NIL"),
    }
}

/// Appends `astring`: bare if every octet is allowed in an atom, otherwise as a string. `NIL` is
/// quoted, for readers that cannot distinguish an atom from nil.
pub(super) fn push_astring(out: &mut Vec<u8>, text: &[u8]) {
    let bare = !text.is_empty()
        && text.len() <= QUOTED_MAX
        && text.iter().all(|&octet| is_astring_char(octet))
        && !text.eq_ignore_ascii_case(b"NIL");
    if bare {
        out.extend_from_slice(text);
    } else {
        push_string(out, text);
    }
}

/// ATOM-CHAR (RFC 3501 9).
pub(super) fn is_atom_char(octet: u8) -> bool {
    matches!(octet, 0x21..=0x7e)
        && !matches!(octet, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b']')
}

/// ASTRING-CHAR: an atom's, and `]`.
pub(super) fn is_astring_char(octet: u8) -> bool {
    is_atom_char(octet) || octet == b']'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn strings() {
        // (text, as string, as astring)
        const CASES: &[(&[u8], &[u8], &[u8])] = &[
            (b"", b"\"\"", b"\"\""),
            (b"INBOX", b"\"INBOX\"", b"INBOX"),
            (b"a b", b"\"a b\"", b"\"a b\""),
            (b"a]b", b"\"a]b\"", b"a]b"),
            (b"a(b", b"\"a(b\"", b"\"a(b\""),
            (b"NIL", b"\"NIL\"", b"\"NIL\""),
            (b"say \"\\\"", b"\"say \\\"\\\\\\\"\"", b"\"say \\\"\\\\\\\"\""),
            (b"a\r\nb", b"{4}\r\na\r\nb", b"{4}\r\na\r\nb"),
            (b"\xc3\xa4", b"{2}\r\n\xc3\xa4", b"{2}\r\n\xc3\xa4"),
            (b"a\0b", b"{3}\r\na\0b", b"{3}\r\na\0b"),
        ];
        for &(text, string, astring) in CASES {
            assert_eq!(written(|out| push_string(out, text)), string, "{}", text.escape_ascii());
            assert_eq!(written(|out| push_astring(out, text)), astring, "{}", text.escape_ascii());
        }
        assert_eq!(written(|out| push_nstring(out, None)), b"NIL");
        let long = vec![b'x'; QUOTED_MAX + 1];
        assert!(written(|out| push_astring(out, &long)).starts_with(b"{1001}\r\nxxx"));
    }

    proptest! {
        #[test]
        fn numbers(number in any::<u64>(), shift in 0_u32..64) {
            let number = number >> shift;
            let out = written(|out| push_number(out, number));
            prop_assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
