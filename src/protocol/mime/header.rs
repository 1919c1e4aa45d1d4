//! Header blocks: fields, unfolding, and the filter of `HEADER.FIELDS` (RFC 3501 6.4.5).
//!
//! Called by the summarizer, by SEARCH HEADER, and by FETCH with the header bytes it has read. A
//! block is read leniently: line ends may be CRLF or bare LF, and a line that is not a field is
//! skipped (but kept by `HEADER.FIELDS.NOT`, which must lose nothing).

use std::cmp::Ordering;

use memchr::{memchr, memchr3};

/// One field of a header block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    /// Without the white space that RFC 5322 4.5 allowed before the colon; empty for a line without
    /// a colon.
    pub name: &'a [u8],
    /// The text after the colon, still folded, without the last line end.
    pub value: &'a [u8],
    /// The whole field, line ends included.
    pub source: &'a [u8],
}

/// The fields of a header block, up to its blank line or its end.
pub fn fields(header: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = header;
    std::iter::from_fn(move || {
        let (field, after) = split_field(rest)?;
        rest = after;
        Some(field)
    })
}

fn split_field(block: &[u8]) -> Option<(Field<'_>, &[u8])> {
    if block.is_empty() || block.starts_with(b"\n") || block.starts_with(b"\r\n") {
        return None;
    }
    let first_line = memchr(b'\n', block).map_or(block.len(), |at| at + 1);
    let mut end = first_line;
    // A line that begins with white space continues the field (RFC 5322 2.2.3).
    while let Some(b' ' | b'\t') = block.get(end) {
        end = memchr(b'\n', &block[end..]).map_or(block.len(), |at| end + at + 1);
    }
    let (source, after) = block.split_at(end);
    let (name, value) = match memchr(b':', &source[..first_line]) {
        Some(colon) => (source[..colon].trim_ascii_end(), &source[colon + 1..]),
        None => (&source[..0], &source[..0]),
    };
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    Some((Field { name, value, source }, after))
}

/// Appends `value` unfolded (RFC 5322 2.2.3) and trimmed. CR, LF and NUL are removed: IMAP cannot
/// send a NUL, and the others have no meaning inside a value.
pub fn unfold(value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value.trim_ascii();
    while let Some(at) = memchr3(b'\r', b'\n', 0, rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Which fields are included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderFilter {
    /// `HEADER.FIELDS`
    Only,
    /// `HEADER.FIELDS.NOT`
    Except,
}

/// The fields of `header` (a whole header block) that `filter` includes, with original bytes and
/// order, then the block's blank line if it has one: "except in the case of a message which has no
/// body and no blank line" (RFC 3501 6.4.5). `names` compare without case.
pub fn filter_header<N: AsRef<[u8]>>(header: &[u8], filter: HeaderFilter, names: &[N]) -> Vec<u8> {
    // Sorted, so that hundreds of names are not compared with each field one by one.
    let mut names: Vec<&[u8]> = names.iter().map(AsRef::as_ref).collect();
    names.sort_unstable_by(|one, other| compare_names(one, other));
    let mut out = Vec::new();
    let mut end = 0;
    for field in fields(header) {
        end += field.source.len();
        let named = names.binary_search_by(|name| compare_names(name, field.name)).is_ok();
        if named == (filter == HeaderFilter::Only) {
            out.extend_from_slice(field.source);
        }
    }
    if end < header.len() {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// An order in which names that differ only in case are equal; the length decides most comparisons.
fn compare_names(one: &[u8], other: &[u8]) -> Ordering {
    let octets = one.iter().map(u8::to_ascii_lowercase);
    let others = other.iter().map(u8::to_ascii_lowercase);
    one.len().cmp(&other.len()).then_with(|| octets.cmp(others))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"From: a@b\r\nSubject: one\r\n two\r\n\tthree\r\nnonsense\r\n\
        TO : c@d\r\nEmpty:\r\n\r\nNot: header\r\n";

    #[test]
    fn fields_are_split_and_unfolded() {
        let got: Vec<(String, String)> = fields(HEADER)
            .map(|field| {
                let mut value = Vec::new();
                unfold(field.value, &mut value);
                (field.name.escape_ascii().to_string(), value.escape_ascii().to_string())
            })
            .collect();
        let got: Vec<(&str, &str)> = got.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(
            got,
            [
                ("From", "a@b"),
                ("Subject", r"one two\tthree"),
                ("", ""),
                ("TO", "c@d"),
                ("Empty", ""),
            ]
        );
    }

    #[test]
    fn filter() {
        const CASES: &[(&[u8], HeaderFilter, &[&str], &[u8])] = &[
            (HEADER, HeaderFilter::Only, &["subject"], b"Subject: one\r\n two\r\n\tthree\r\n\r\n"),
            (HEADER, HeaderFilter::Only, &["to", "FROM", "cc"], b"From: a@b\r\nTO : c@d\r\n\r\n"),
            (
                HEADER,
                HeaderFilter::Only,
                &["x-z", "To", "EMPTY", "a", "fro", "to", "fron"],
                b"TO : c@d\r\nEmpty:\r\n\r\n",
            ),
            (HEADER, HeaderFilter::Only, &["nonsense"], b"\r\n"),
            (
                HEADER,
                HeaderFilter::Except,
                &["subject", "to"],
                b"From: a@b\r\nnonsense\r\nEmpty:\r\n\r\n",
            ),
            (b"A: cut", HeaderFilter::Only, &["a"], b"A: cut"),
            (b"A: b\r\n", HeaderFilter::Only, &["a"], b"A: b\r\n"),
            (b"A: b\r\n", HeaderFilter::Only, &["c"], b""),
            (b"A: b\nC: d\n\nx", HeaderFilter::Only, &["c"], b"C: d\n\r\n"),
            (b"\r\nx", HeaderFilter::Except, &[], b"\r\n"),
            (b"", HeaderFilter::Except, &[], b""),
        ];
        for (header, filter, names, expected) in CASES {
            let got = filter_header(header, *filter, names);
            assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string());
        }
    }

    #[test]
    fn unfolding_drops_what_imap_cannot_send() {
        let mut out = Vec::new();
        unfold(b"  a\0b\r\n c\rd \r\n ", &mut out);
        assert_eq!(out, b"ab cd");
    }
}
