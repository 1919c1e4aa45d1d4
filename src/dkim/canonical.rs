//! The relaxed canonicalizations of RFC 6376 3.4.2 and 3.4.4. Pure.

/// Canonical octets collected before they are hashed.
const PIECE: usize = 4096;

/// Canonicalizes a body as it passes, in constant memory.
#[derive(Debug, Default)]
pub(super) struct RelaxedBody {
    /// A CR whose next octet is not known yet.
    carriage_return: bool,
    /// White space that is dropped if the line ends after it.
    space: bool,
    /// Ends of lines that are dropped if nothing follows.
    line_ends: u64,
    /// Whether anything was written.
    begun: bool,
    /// Whether the current line has octets already.
    in_line: bool,
    piece: Vec<u8>,
}

impl RelaxedBody {
    /// Takes octets of the body; `take` gets canonical ones.
    pub(super) fn push(&mut self, octets: &[u8], take: &mut impl FnMut(&[u8])) {
        for &octet in octets {
            match octet {
                b'\n' if self.carriage_return => {
                    self.carriage_return = false;
                    // White space at the end of a line does not count.
                    self.space = false;
                    self.in_line = false;
                    self.line_ends += 1;
                }
                b'\r' => {
                    self.bare_carriage_return(take);
                    self.carriage_return = true;
                }
                b' ' | b'\t' => {
                    self.bare_carriage_return(take);
                    self.space = true;
                }
                other => {
                    self.bare_carriage_return(take);
                    self.content(other, take);
                }
            }
        }
    }

    /// A CR before anything else than LF is content.
    fn bare_carriage_return(&mut self, take: &mut impl FnMut(&[u8])) {
        if std::mem::take(&mut self.carriage_return) {
            self.content(b'\r', take);
        }
    }

    fn content(&mut self, octet: u8, take: &mut impl FnMut(&[u8])) {
        while self.line_ends > 0 {
            self.line_ends -= 1;
            self.write(b"\r\n", take);
        }
        if std::mem::take(&mut self.space) {
            self.write(b" ", take);
        }
        self.write(&[octet], take);
        (self.begun, self.in_line) = (true, true);
    }

    fn write(&mut self, octets: &[u8], take: &mut impl FnMut(&[u8])) {
        if self.piece.len() + octets.len() > PIECE {
            take(&self.piece);
            self.piece.clear();
        }
        if self.piece.capacity() == 0 {
            self.piece.reserve_exact(PIECE);
        }
        self.piece.extend_from_slice(octets);
    }

    /// The body is complete: its last line gets an end if it has none, and empty lines after it are
    /// left out. An empty body stays empty.
    pub(super) fn finish(mut self, take: &mut impl FnMut(&[u8])) {
        self.bare_carriage_return(take);
        if self.begun {
            self.write(b"\r\n", take);
        }
        take(&self.piece);
    }
}

/// One field of a header block, as it is written: with its folds, and its CRLF if it has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Field<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
}

impl Field<'_> {
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// Appends the canonical form (RFC 6376 3.4.2), without CRLF.
    pub(super) fn append_relaxed_to(&self, output: &mut Vec<u8>) {
        output.extend(self.name.iter().map(u8::to_ascii_lowercase));
        output.push(b':');
        let mut space = false;
        let begin = output.len();
        for &octet in self.value {
            match octet {
                // Folds are undone: the white space behind them stays.
                b'\r' | b'\n' => {}
                b' ' | b'\t' => space = true,
                other => {
                    if std::mem::take(&mut space) && output.len() > begin {
                        output.push(b' ');
                    }
                    output.push(other);
                }
            }
        }
    }
}

/// The fields of a header block, in order. A line that is no field is skipped, with its
/// continuations.
pub(super) fn fields(header: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = header;
    std::iter::from_fn(move || {
        loop {
            let end = end_of_field(rest)?;
            let (field, after) = rest.split_at(end);
            rest = after;
            let colon = field.iter().position(|&octet| octet == b':');
            let Some((name, value)) = colon.and_then(|at| field.split_at_checked(at)) else {
                continue;
            };
            // RFC 5322 4.5: white space before the colon is obsolete, and no part of the name.
            let name = name.trim_ascii_end();
            let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
            if let (true, Some(value)) = (is_name, value.get(1..)) {
                return Some(Field { name, value });
            }
        }
    })
}

/// Where the first field ends: before a line that does not begin with white space.
fn end_of_field(header: &[u8]) -> Option<usize> {
    if header.is_empty() {
        return None;
    }
    let mut at = 0;
    loop {
        let rest = header.get(at..)?;
        let Some(line_end) = memchr::memchr(b'\n', rest) else { return Some(header.len()) };
        at += line_end + 1;
        if !matches!(header.get(at), Some(b' ' | b'\t')) {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(pieces: &[&[u8]]) -> Vec<u8> {
        let mut output = Vec::new();
        let mut relaxed = RelaxedBody::default();
        let mut take = |octets: &[u8]| output.extend_from_slice(octets);
        for piece in pieces {
            relaxed.push(piece, &mut take);
        }
        relaxed.finish(&mut take);
        output
    }

    #[test]
    fn bodies() {
        const CASES: &[(&[u8], &[u8])] = &[
            // RFC 6376 3.4.5.
            (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
            // RFC 6376 3.4.4: an empty body is hashed as nothing.
            (b"", b""),
            (b"\r\n", b""),
            (b"\r\n\r\n\r\n", b""),
            (b" \t\r\n  \r\n", b""),
            (b"  ", b""),
            (b"x", b"x\r\n"),
            (b"x\r\n", b"x\r\n"),
            (b"x \t", b"x\r\n"),
            (b"x\r\n \r\n", b"x\r\n"),
            (b"\r\n\r\nx", b"\r\n\r\nx\r\n"),
            (b"x\r\n\r\n y", b"x\r\n\r\n y\r\n"),
            (b"x\r\n \r\ny\r\n", b"x\r\n\r\ny\r\n"),
            (b"a\tb\t \tc\r\n", b"a b c\r\n"),
            (b"\xe4\x00\xff\r\n", b"\xe4\x00\xff\r\n"),
            // Neither is the end of a line.
            (b"a\rb\nc\r\n", b"a\rb\nc\r\n"),
            (b"a\r\r\nb", b"a\r\r\nb\r\n"),
            (b"a \r b", b"a \r b\r\n"),
            (b"a\r", b"a\r\r\n"),
        ];
        for (written, expected) in CASES {
            assert_eq!(body(&[written]), *expected, "{written:?}");
            for at in 0..=written.len() {
                let (one, two) = written.split_at(at);
                assert_eq!(body(&[one, two]), *expected, "{written:?} at {at}");
            }
            let octets: Vec<&[u8]> = written.chunks(1).collect();
            assert_eq!(body(&octets), *expected, "{written:?} octet by octet");
        }
    }

    #[test]
    fn long_lines_and_many_line_ends() {
        let line = vec![b'x'; 3 * PIECE + 5];
        let mut expected = line.clone();
        expected.extend_from_slice(b"\r\n");
        assert_eq!(body(&[&line]), expected);
        let ends = b"\r\n".repeat(10_000);
        assert_eq!(body(&[&ends]), b"");
        let mut expected = ends.clone();
        expected.extend_from_slice(b"x\r\n");
        assert_eq!(body(&[&ends, b"x", &ends]), expected);
    }

    #[test]
    fn header_fields() {
        const HEADER: &[u8] =
            b"A: X\r\nB : Y\t\r\n\tZ  \r\n no: field?\r\njunk\r\n more\r\n: none\r\n\
                                Empty:\r\nsp ace: x\r\nLast:  a\r\n \r\n";
        let relaxed = |field: Field<'_>| {
            let mut output = Vec::new();
            field.append_relaxed_to(&mut output);
            String::from_utf8(output).unwrap()
        };
        let found: Vec<String> = fields(HEADER).map(relaxed).collect();
        // RFC 6376 3.4.5, and what is odd.
        assert_eq!(found, ["a:X", "b:Y Z no: field?", "empty:", "last:a"]);
        assert_eq!(fields(b"").count(), 0);
        assert_eq!(fields(b"x: y").count(), 1);
    }
}
