//! Whether a message begins with a header at all.
//!
//! Our trace fields go in front of every message. If its first line is not a field (RFC 5322 3.5),
//! that line and everything up to the next blank one would become part of the header, and clients
//! would show a message without its text. `service::smtp` asks an [`Opening`] and inserts a blank
//! line.
//!
//! It takes octets in any pieces and decides at the first colon or at the first octet that cannot
//! be in a field name, usually within a dozen octets.

/// Octets without a decision after which there is no header: a line has at most 998 (RFC 5322
/// 2.1.1), and there may be an mbox line and a field.
const UNDECIDED_MAX: usize = 2 * 998;

/// Examines the start of one message.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    place: Place,
    /// An mbox line ("From alice Mon …") was skipped: the next line decides.
    mbox_line: bool,
    seen: usize,
}

/// The result for the octets so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Undecided,
    /// A field, or the blank line that ends an empty header.
    Header,
    /// Text: a blank line must go before it.
    Headless,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Place {
    #[default]
    Start,
    StartCr,
    /// In a possible name; this many octets match "From".
    Name(Option<usize>),
    /// In white space after a name (RFC 5322 4.5 allows it); `true` after "From".
    Space(bool),
    MboxLine,
    Decided(bool),
}

impl Opening {
    /// Takes the next octets of the message.
    pub fn push(&mut self, octets: &[u8]) -> Verdict {
        for &octet in octets {
            if let Place::Decided(_) = self.place {
                break;
            }
            self.seen += 1;
            self.place =
                if self.seen > UNDECIDED_MAX { Place::Decided(false) } else { self.after(octet) };
        }
        match self.place {
            Place::Decided(true) => Verdict::Header,
            Place::Decided(false) => Verdict::Headless,
            _ => Verdict::Undecided,
        }
    }

    fn after(&mut self, octet: u8) -> Place {
        const MBOX: &[u8] = b"From";
        // RFC 5322 3.6.8: printable US-ASCII but the colon.
        let in_name = matches!(octet, 33..=57 | 59..=126);
        match self.place {
            Place::Start if octet == b'\n' => Place::Decided(true),
            Place::Start if octet == b'\r' => Place::StartCr,
            Place::Start if in_name => Place::Name((octet == MBOX[0]).then_some(1)),
            Place::StartCr if octet == b'\n' => Place::Decided(true),
            Place::Name(_) if octet == b':' => Place::Decided(true),
            Place::Name(matched) if in_name => {
                let agrees = |&matched: &usize| MBOX.get(matched) == Some(&octet);
                Place::Name(matched.filter(agrees).map(|matched| matched + 1))
            }
            Place::Name(matched) if matches!(octet, b' ' | b'\t') => {
                Place::Space(matched == Some(MBOX.len()) && !self.mbox_line)
            }
            Place::Space(_) if octet == b':' => Place::Decided(true),
            Place::Space(after_from) if matches!(octet, b' ' | b'\t') => Place::Space(after_from),
            Place::Space(true) if octet != b'\n' => Place::MboxLine,
            Place::MboxLine if octet != b'\n' => Place::MboxLine,
            Place::MboxLine => {
                self.mbox_line = true;
                Place::Start
            }
            Place::Decided(header) => Place::Decided(header),
            _ => Place::Decided(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines() {
        use Verdict::{Header, Headless, Undecided};
        let long_name = format!("{}: x\r\n", "n".repeat(3_000));
        let cases: &[(&str, Verdict)] = &[
            ("", Undecided),
            ("Subject: x\r\n", Header),
            ("Subject : x\r\n", Header),
            ("Subject\t \t: x\r\n", Header),
            ("X:\r\n", Header),
            ("\r\nHello\r\n", Header),
            ("\nHello\r\n", Header),
            ("\rHello\r\n", Headless),
            (": x\r\n", Headless),
            ("Hello\r\n", Headless),
            ("Hello world: it is\r\n", Headless),
            (" folded: from nothing\r\n", Headless),
            ("\tx\r\n", Headless),
            ("Gr\u{fc}\u{df}e: x\r\n", Headless),
            ("Hello", Undecided),
            ("\r", Undecided),
            // An mbox line, which some programs leave in, changes nothing.
            ("From alice@b.test  Mon Nov 23 21:36:29 2026\r\nSubject: x\r\n", Header),
            ("From alice Mon\r\n\r\nHello\r\n", Header),
            ("From my point of view\r\nthis is a letter\r\n", Headless),
            ("From a\r\nFrom b\r\nSubject: x\r\n", Headless),
            ("From : x\r\n", Header),
            ("From: x\r\n", Header),
            ("From \r\n", Undecided),
            ("Fromage et vin\r\n", Headless),
            (&long_name, Headless),
        ];
        for (message, expected) in cases {
            for size in [1, 2, 3, 7, 10_000] {
                let mut opening = Opening::default();
                let mut verdict = Undecided;
                for piece in message.as_bytes().chunks(size) {
                    verdict = opening.push(piece);
                }
                assert_eq!(verdict, *expected, "{message:?} by {size}");
            }
        }
    }
}
