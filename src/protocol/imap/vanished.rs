//! VANISHED (RFC 7162 3.2.10): which messages are gone, by their UIDs.
//!
//! [`Vanished`] takes ranges in ascending order and holds only the last one, so that an answer of
//! any size is written without a list of it. Like [`super::FetchResponse`] it does not hold the
//! output, which may be sent in between.

use super::{response::push_pair, write::push_number};

/// A response longer than this is followed by another one: clients and proxies have limits for
/// lines (RFC 7162 4).
const LINE_MAX: usize = 8_000;

/// VANISHED responses being written.
#[derive(Debug)]
#[must_use = "the last range is written by end()"]
pub struct Vanished {
    /// Before the client selected the mailbox, or the mod-sequence that it named.
    earlier: bool,
    /// Not yet written, since the next range may touch it.
    last: Option<(u32, u32)>,
    /// Octets of the current line; 0 between lines.
    line: usize,
}

impl Vanished {
    /// `* VANISHED (EARLIER)` (RFC 7162 3.2.10.1) or `* VANISHED`.
    pub fn begin(earlier: bool) -> Vanished {
        Vanished { earlier, last: None, line: 0 }
    }

    /// UIDs from `first` to `last`, which are above all before.
    pub fn push(&mut self, out: &mut Vec<u8>, first: u32, last: u32) {
        match &mut self.last {
            Some(before) if before.1.checked_add(1) == Some(first) => before.1 = last,
            _ => {
                self.write(out);
                self.last = Some((first, last));
            }
        }
    }

    pub fn end(mut self, out: &mut Vec<u8>) {
        self.write(out);
        if self.line > 0 {
            out.extend_from_slice(b"\r\n");
        }
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        let Some((first, last)) = self.last.take() else { return };
        if self.line > LINE_MAX {
            out.extend_from_slice(b"\r\n");
            self.line = 0;
        }
        let start = out.len();
        match (self.line, self.earlier) {
            (0, true) => push_pair(out, "* VANISHED (EARLIER) ", first.into()),
            (0, false) => push_pair(out, "* VANISHED ", first.into()),
            _ => push_pair(out, ",", first.into()),
        }
        if last != first {
            out.push(b':');
            push_number(out, last.into());
        }
        self.line += out.len() - start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(earlier: bool, ranges: impl IntoIterator<Item = (u32, u32)>) -> String {
        let (mut out, mut vanished) = (Vec::new(), Vanished::begin(earlier));
        for (first, last) in ranges {
            vanished.push(&mut out, first, last);
        }
        vanished.end(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn lines() {
        type Case = (bool, &'static [(u32, u32)], &'static str);
        const CASES: &[Case] = &[
            (true, &[], ""),
            (false, &[(505, 505), (507, 507), (510, 510)], "* VANISHED 505,507,510\r\n"),
            (true, &[(41, 41), (43, 116)], "* VANISHED (EARLIER) 41,43:116\r\n"),
            (true, &[(1, 2), (3, 3), (5, 5)], "* VANISHED (EARLIER) 1:3,5\r\n"),
            (false, &[(u32::MAX - 1, u32::MAX)], "* VANISHED 4294967294:4294967295\r\n"),
        ];
        for (earlier, ranges, expected) in CASES {
            assert_eq!(written(*earlier, ranges.iter().copied()), *expected);
        }
    }

    #[test]
    fn long_answers_have_several_lines() {
        let ranges = || (1..=50_000_u32).map(|number| (number * 2, number * 2));
        let text = written(true, ranges());
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        assert!(lines.len() > 30 && lines.iter().all(|line| line.len() <= LINE_MAX + 20));
        let numbers = lines.iter().flat_map(|line| {
            let set = line.strip_prefix("* VANISHED (EARLIER) ").expect("the name");
            set.split(',').map(|number| number.parse::<u32>().expect("a number"))
        });
        assert!(numbers.eq(ranges().map(|(number, _)| number)));
    }
}
