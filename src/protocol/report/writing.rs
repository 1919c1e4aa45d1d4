//! Text and fields of reports: what makes a foreign value safe, folding, wrapping.
//!
//! `protocol::report` calls it. Invariant: no function here writes CR or LF but as CRLF at the end
//! of a line or in front of the white space of a folded field.

/// Columns after which text is wrapped and fields are folded.
const COLUMNS: usize = 72;
/// Octets without white space that are written on one line: a line has at most 998 octets
/// (RFC 5322 2.1.1).
const WORD_MAX: usize = 400;

/// At most `most` octets of `text`, cut between characters.
pub(in crate::protocol) fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or_default()]
}

/// Line ends and tabs become spaces, other control characters "?". Marks that change the direction
/// of the text behind them are control characters here.
pub(in crate::protocol) fn safe(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\r' | '\n' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '?',
            _ if character.is_control() => '?',
            _ => character,
        })
        .collect()
}

/// Each character beyond ASCII becomes "?".
pub(in crate::protocol) fn to_ascii(text: &str) -> String {
    text.chars().map(|character| if character.is_ascii() { character } else { '?' }).collect()
}

/// Appends `name: value`, folded at white space (RFC 5322 2.2.3). `value` has passed `safe`.
pub(in crate::protocol) fn append_field(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    let mut column = name.len() + 1;
    // Spaces before the next word: a line must not end in white space, nor consist of it.
    let mut spaces = 0;
    for word in value.trim().split(' ') {
        spaces += 1;
        if word.is_empty() {
            continue;
        }
        for (index, piece) in pieces(word).enumerate() {
            if index > 0
                || column + spaces + piece.chars().count() > COLUMNS && column > name.len() + 1
            {
                out.extend_from_slice(b"\r\n");
                column = 0;
                spaces = spaces.max(1);
            }
            out.extend(std::iter::repeat_n(b' ', spaces));
            out.extend_from_slice(piece.as_bytes());
            column += spaces + piece.chars().count();
            spaces = 0;
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a paragraph, wrapped. White space of any length separates words.
pub(in crate::protocol) fn append_prose(text: &str, out: &mut Vec<u8>) {
    let mut column = 0;
    for piece in text.split_whitespace().flat_map(pieces) {
        let width = piece.chars().count();
        if column > 0 && column + 1 + width > COLUMNS {
            out.extend_from_slice(b"\r\n");
            column = 0;
        } else if column > 0 {
            out.push(b' ');
            column += 1;
        }
        out.extend_from_slice(piece.as_bytes());
        column += width;
    }
    out.extend_from_slice(b"\r\n");
}

/// A word in pieces that fit on a line.
fn pieces(mut word: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let piece = cut(word, WORD_MAX);
        word = &word[piece.len()..];
        (!piece.is_empty()).then_some(piece)
    })
}

/// Appends text with CRLF line ends, none of which ends in white space (RFC 2045 6.7).
pub(in crate::protocol) fn append_quoted_printable(text: &[u8], out: &mut Vec<u8>) {
    const LINE_MAX: usize = 75;
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut column = 0;
    for &octet in text {
        let plain = matches!(octet, b' '..=b'~') && octet != b'=';
        match octet {
            b'\r' => {}
            b'\n' => {
                out.extend_from_slice(b"\r\n");
                column = 0;
            }
            _ => {
                let width = if plain { 1 } else { 3 };
                if column + width > LINE_MAX {
                    out.extend_from_slice(b"=\r\n");
                    column = 0;
                }
                match plain {
                    true => out.push(octet),
                    false => {
                        let digits = [octet >> 4, octet & 15].map(|it| DIGITS[usize::from(it)]);
                        out.extend_from_slice(&[b'=', digits[0], digits[1]]);
                    }
                }
                column += width;
            }
        }
    }
}
