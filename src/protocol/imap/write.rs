//! Primitive values on the wire: numbers, strings, atoms (RFC 3501 4). Used by every writer here.

/// Strings up to this many octets may be sent quoted; longer ones are literals, which cost a
/// client's reader nothing.
const QUOTED_MAX: usize = 1_000;

/// Appends `number` in decimal.
pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
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
pub fn push_literal_header(out: &mut Vec<u8>, size: u64) {
    out.push(b'{');
    push_number(out, size);
    out.extend_from_slice(b"}\r\n");
}

/// Appends `string`: quoted where RFC 3501 allows and it is short, else a literal.
pub fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    // A quoted string holds TEXT-CHAR: no NUL, CR, LF, nothing above 127 (RFC 3501 9).
    let quotable = text.len() <= QUOTED_MAX
        && text.iter().all(|&octet| octet.is_ascii() && !matches!(octet, 0 | b'\r' | b'\n'));
    if !quotable {
        push_literal_header(out, text.len() as u64);
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    if text.iter().any(|octet| matches!(octet, b'"' | b'\\')) {
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

/// Appends `nstring`: `NIL` if absent.
pub fn push_nstring(out: &mut Vec<u8>, text: Option<&[u8]>) {
    match text {
        Some(text) => push_string(out, text),
        None => out.extend_from_slice(b"NIL"),
    }
}

/// Appends `astring`: bare where every octet may stand in an atom, else as a string. `NIL` is
/// quoted, for readers that cannot tell an atom from nil.
pub fn push_astring(out: &mut Vec<u8>, text: &[u8]) {
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
pub fn is_atom_char(octet: u8) -> bool {
    matches!(octet, 0x21..=0x7e)
        && !matches!(octet, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b']')
}

/// ASTRING-CHAR: an atom's, and `]`.
pub fn is_astring_char(octet: u8) -> bool {
    is_atom_char(octet) || octet == b']'
}
