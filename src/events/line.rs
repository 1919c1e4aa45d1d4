//! One line of the event log: an object of JSON (RFC 8259), its values bounded.

use std::{
    fmt::{self, Write},
    net::IpAddr,
};

use crate::{
    metrics::Protocol,
    model::{
        AccountId, Lsn, MailboxId, Network, PartitionId, Timestamp, Trail, Uid, civil_from_days,
    },
};

/// Octets of one written value, without quotes; longer values are cut and end in "...".
pub const VALUE_MAX: usize = 384;

/// Items of a list that are written; the others are left out.
const LISTED_MAX: usize = 20;

const CUT: &str = "...";

/// Appends one object to a buffer.
pub(super) struct Line<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Line<'a> {
    /// Begins a line: time and name come first, for human readers.
    pub(super) fn begin(out: &'a mut Vec<u8>, time: Timestamp, name: &str) -> Line<'a> {
        out.extend_from_slice(b"{\"time\":\"");
        append_time(out, time);
        out.extend_from_slice(b"\",\"event\":\"");
        out.extend_from_slice(name.as_bytes());
        out.push(b'"');
        Line { out }
    }

    pub(super) fn field(&mut self, name: &str, value: &impl Value) {
        if value.is_there() {
            self.out.extend_from_slice(b",\"");
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"\":");
            value.append_to(self.out);
        }
    }

    pub(super) fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }
}

/// RFC 3339 in UTC, to the microsecond, as in all lines.
pub fn rfc3339(time: Timestamp) -> String {
    let mut out = Vec::new();
    append_time(&mut out, time);
    String::from_utf8(out).unwrap_or_default()
}

/// RFC 3339 in UTC, to the microsecond.
fn append_time(out: &mut Vec<u8>, time: Timestamp) {
    const DAY: i64 = 86_400;
    let seconds = time.unix_seconds();
    let (year, month, day) = civil_from_days(seconds.div_euclid(DAY));
    let second = seconds.rem_euclid(DAY) as u32;
    append_padded(out, u32::try_from(year).unwrap_or(0), 4);
    for (before, number) in
        [(b'-', u32::from(month)), (b'-', u32::from(day)), (b'T', second / 3600)]
    {
        out.push(before);
        append_padded(out, number, 2);
    }
    for number in [second / 60 % 60, second % 60] {
        out.push(b':');
        append_padded(out, number, 2);
    }
    out.push(b'.');
    append_padded(out, time.0.rem_euclid(1_000_000) as u32, 6);
    out.push(b'Z');
}

/// The last `width` digits of `number`, at most ten.
fn append_padded(out: &mut Vec<u8>, mut number: u32, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    for digit in out.iter_mut().skip(start).rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// A value that a field can hold.
pub(super) trait Value {
    /// A field without a value is left out.
    fn is_there(&self) -> bool {
        true
    }

    fn append_to(&self, out: &mut Vec<u8>);
}

impl<T: Value> Value for Option<T> {
    fn is_there(&self) -> bool {
        self.is_some()
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.append_to(out);
        }
    }
}

impl Value for bool {
    fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
}

impl Value for u64 {
    fn append_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let mut rest = *self;
        loop {
            out.push(b'0' + (rest % 10) as u8);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if let Some(digits) = out.get_mut(start..) {
            digits.reverse();
        }
    }
}

impl Value for &str {
    fn append_to(&self, out: &mut Vec<u8>) {
        let mut text = Text::begin(out);
        let _ = text.write_str(self);
        text.end();
    }
}

/// A value written as a string, by its `Display`.
macro_rules! shown {
    ($($type:ty),*) => { $(
        impl Value for $type {
            fn append_to(&self, out: &mut Vec<u8>) {
                let mut text = Text::begin(out);
                let _ = write!(text, "{self}");
                text.end();
            }
        }
    )* };
}

shown!(IpAddr, Network, Trail);

/// The number of a delivery: 32 hexadecimal digits, as `ringmail inspect` shows it.
impl Value for u128 {
    fn append_to(&self, out: &mut Vec<u8>) {
        let mut text = Text::begin(out);
        let _ = write!(text, "{self:032x}");
        text.end();
    }
}

/// The first [`LISTED_MAX`] of them.
impl Value for &[AccountId] {
    fn append_to(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (index, account) in self.iter().take(LISTED_MAX).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            account.append_to(out);
        }
        out.push(b']');
    }
}

macro_rules! numbers {
    ($($type:ty),*) => { $(
        impl Value for $type {
            fn append_to(&self, out: &mut Vec<u8>) {
                u64::from(self.0).append_to(out);
            }
        }
    )* };
}

numbers!(AccountId, MailboxId, Uid, PartitionId, Lsn);

impl Value for Protocol {
    fn append_to(&self, out: &mut Vec<u8>) {
        self.label().append_to(out);
    }
}

/// A string being written. It is cut at [`VALUE_MAX`].
struct Text<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    cut: bool,
}

impl Text<'_> {
    fn begin(out: &mut Vec<u8>) -> Text<'_> {
        out.push(b'"');
        let start = out.len();
        Text { out, start, cut: false }
    }

    fn room(&self) -> usize {
        (VALUE_MAX - CUT.len()).saturating_sub(self.out.len() - self.start)
    }

    /// Takes as much of `run`, which needs no escapes, as fits.
    fn push_run(&mut self, run: &str) {
        let mut end = run.len().min(self.room());
        while !run.is_char_boundary(end) {
            end -= 1;
        }
        self.out.extend_from_slice(run.get(..end).unwrap_or_default().as_bytes());
        self.cut |= end < run.len();
    }

    fn push_escape(&mut self, escape: &str) {
        match escape.len() <= self.room() {
            true => self.out.extend_from_slice(escape.as_bytes()),
            false => self.cut = true,
        }
    }

    fn end(self) {
        if self.cut {
            self.out.extend_from_slice(CUT.as_bytes());
        }
        self.out.push(b'"');
    }
}

/// RFC 8259 7 escapes quotes, backslashes and C0. DEL and C1 are escaped as well, since terminals
/// interpret them.
impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while !self.cut && !rest.is_empty() {
            let run = rest.bytes().position(is_special).unwrap_or(rest.len());
            // `special` is an ASCII octet or the first of a character, so the split is at a
            // character boundary.
            let (plain, from_special) = rest.split_at_checked(run).unwrap_or((rest, ""));
            self.push_run(plain);
            if self.cut {
                break;
            }
            let mut characters = from_special.chars();
            match characters.next() {
                None => break,
                Some('"') => self.push_escape("\\\""),
                Some('\\') => self.push_escape("\\\\"),
                Some('\n') => self.push_escape("\\n"),
                Some('\r') => self.push_escape("\\r"),
                Some('\t') => self.push_escape("\\t"),
                Some(control) if control.is_control() => {
                    self.push_escape(&format!("\\u{:04x}", u32::from(control)));
                }
                Some(other) => self.push_run(other.encode_utf8(&mut [0; 4])),
            }
            rest = characters.as_str();
        }
        Ok(())
    }
}

/// Octets that may begin a character that needs an escape. All of C1 begin with 0xC2.
fn is_special(octet: u8) -> bool {
    octet < b' ' || matches!(octet, b'"' | b'\\' | 0x7F | 0xC2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(value: &impl Value) -> String {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, Timestamp(1_796_000_000_000_042), "x");
        line.field("value", value);
        line.end();
        String::from_utf8(out).unwrap()
    }

    /// As written in a line; `tests/events.rs` checks that it is valid JSON.
    fn written(value: &impl Value) -> String {
        let line = line(value);
        let from = line.find("\"value\":").unwrap() + "\"value\":".len();
        line[from..].strip_suffix("}\n").unwrap().to_owned()
    }

    #[test]
    fn lines() {
        let begin = "{\"time\":\"2026-11-30T00:53:20.000042Z\",\"event\":\"x\"";
        assert_eq!(line(&0u64), format!("{begin},\"value\":0}}\n"));
        assert_eq!(line(&None::<u64>), format!("{begin}}}\n"));
        assert_eq!(written(&Some(true)), "true");
        assert_eq!(written(&u64::MAX), u64::MAX.to_string());
        assert_eq!(written(&1_000_000u64), "1000000");
        assert_eq!(written(&IpAddr::from([192, 0, 2, 7])), "\"192.0.2.7\"");
        assert_eq!(written(&PartitionId(3)), "3");
        assert_eq!(written(&Protocol::Lmtp), "\"lmtp\"");
        assert_eq!(written(&0xabc_u128), format!("\"{:0>32}\"", "abc"));
        assert_eq!(written(&[AccountId(7), AccountId(8)].as_slice()), "[7,8]");
        let many = [AccountId(7); 100];
        assert_eq!(written(&many.as_slice()).matches('7').count(), LISTED_MAX);
    }

    #[test]
    fn long_values_are_cut() {
        for text in ["x".repeat(5000), "é".repeat(5000), "\u{1b}".repeat(5000), "\"".repeat(5000)]
        {
            let found = written(&text.as_str());
            assert!((VALUE_MAX - 8..=VALUE_MAX + 2).contains(&found.len()), "{}", found.len());
            assert!(found.ends_with("...\""), "{found}");
        }
        let fits = "x".repeat(VALUE_MAX - CUT.len());
        assert_eq!(written(&fits.as_str()), format!("\"{fits}\""));
    }
}
