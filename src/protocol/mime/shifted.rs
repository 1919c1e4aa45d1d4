//! Seven-bit charsets in which two octets are one character between shifts: HZ (RFC 1843),
//! ISO-2022-KR (RFC 1557) and ISO-2022-CN (RFC 1922).
//!
//! `encoding_rs` has no decoder for them, but for their character sets: with the high bits set
//! these are GBK and EUC-KR. Called by `charset`; invalid input becomes an octet that those
//! decoders replace with U+FFFD, without affecting the following octets.

use encoding_rs::{EUC_KR, Encoding, GBK};

const ESCAPE: u8 = 0x1b;
const SHIFT_OUT: u8 = 0x0e;
const SHIFT_IN: u8 = 0x0f;
/// Neither a character of GBK or EUC-KR nor the start of one.
const BROKEN: u8 = 0xff;
/// Octets that may have to be held: all but the last of a designation, `ESC $ ) A`.
const HELD_MAX: usize = 3;

/// How a text marks two-octet characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shifts {
    /// HZ: `~{` and `~}`.
    Tilde,
    /// SO and SI; the decoded set is designated by `ESC $ )` and this.
    Designated(u8),
}

impl Shifts {
    pub(super) const ISO_2022_KR: Shifts = Shifts::Designated(b'C');
    pub(super) const ISO_2022_CN: Shifts = Shifts::Designated(b'A');

    /// The decoder for the output of [`Unshifter`].
    pub(super) fn encoding(self) -> &'static Encoding {
        if self == Shifts::ISO_2022_KR { EUC_KR } else { GBK }
    }
}

/// Converts text that comes in pieces to octets of [`Shifts::encoding`].
pub(super) struct Unshifter {
    shifts: Shifts,
    /// Two octets are a character.
    wide: bool,
    /// They belong to the decoded set. Words in headers often lack its designation.
    known: bool,
    /// The start of a sequence or of a character.
    held: [u8; HELD_MAX],
    size: usize,
}

impl Unshifter {
    pub(super) fn new(shifts: Shifts) -> Unshifter {
        Unshifter { shifts, wide: false, known: true, held: [0; HELD_MAX], size: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        bytes.iter().for_each(|&octet| self.take(octet, out));
    }

    /// Emits the held octets, which do not continue.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        match &self.held[..self.size] {
            [first, ..] if self.wide && first.is_ascii_graphic() => out.push(BROKEN),
            held => out.extend_from_slice(held),
        }
        self.size = 0;
    }

    fn take(&mut self, octet: u8, out: &mut Vec<u8>) {
        use Shifts::{Designated, Tilde};
        match (self.shifts, &self.held[..self.size], octet) {
            (_, [], _) => self.begin(octet, out),
            (Tilde, [b'~'], b'{' | b'}') => {
                self.wide = octet == b'{';
                self.size = 0;
            }
            (Tilde, [b'~'], b'~') if !self.wide => {
                out.push(b'~');
                self.size = 0;
            }
            // `~` at the end of a line: the line continues on the next one.
            (Tilde, [b'~'], b'\r') if !self.wide => self.hold(octet),
            (Tilde, [b'~', ..], b'\n') if !self.wide => self.size = 0,
            (Designated(_), [ESCAPE], b'$') | (Designated(_), [ESCAPE, b'$'], b')') => {
                self.hold(octet);
            }
            (Designated(set), [ESCAPE, _, _], b'0'..=b'~') => {
                self.known = octet == set;
                self.size = 0;
            }
            (_, &[first], _)
                if self.wide && first.is_ascii_graphic() && octet.is_ascii_graphic() =>
            {
                let character = [first | 0x80, octet | 0x80];
                out.extend_from_slice(if self.known { &character } else { &[BROKEN] });
                self.size = 0;
            }
            _ => {
                self.flush(out);
                self.begin(octet, out);
            }
        }
    }

    fn begin(&mut self, octet: u8, out: &mut Vec<u8>) {
        match (self.shifts, octet) {
            (Shifts::Tilde, b'~') | (Shifts::Designated(_), ESCAPE) => self.hold(octet),
            (Shifts::Designated(_), SHIFT_OUT) => self.wide = true,
            (Shifts::Designated(_), SHIFT_IN) => self.wide = false,
            _ if self.wide && octet.is_ascii_graphic() => self.hold(octet),
            _ => {
                // In all three, each line begins in ASCII.
                self.wide &= octet != b'\n';
                out.push(octet);
            }
        }
    }

    /// At most [`HELD_MAX`] times in a row.
    fn hold(&mut self, octet: u8) {
        self.held[self.size] = octet;
        self.size += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(shifts: Shifts, text: &[u8], size: usize) -> String {
        let mut unshifter = Unshifter::new(shifts);
        let mut out = Vec::new();
        text.chunks(size).for_each(|piece| unshifter.push(piece, &mut out));
        unshifter.flush(&mut out);
        shifts.encoding().decode_without_bom_handling(&out).0.into_owned()
    }

    const HZ: Shifts = Shifts::Tilde;
    const KR: Shifts = Shifts::ISO_2022_KR;
    const CN: Shifts = Shifts::ISO_2022_CN;

    const CASES: &[(Shifts, &[u8], &str)] = &[
        // RFC 1843's own example.
        (
            HZ,
            b"The next sentence is in GB.~{<:Ky2;#,NpJ)l6HK!#~}Bye.",
            "The next sentence is in GB.\u{5df1}\u{6240}\u{4e0d}\u{ff0c}\u{52ff}\u{65bd}\
             \u{65bc}\u{4eba}\u{3002}Bye.",
        ),
        (HZ, b"~~user/~ a~b", "~user/~ a~b"),
        (HZ, b"one~\ntwo~\r\nthree~\rfour", "onetwothree~\rfour"),
        (HZ, b"~{<:\nKy~}", "\u{5df1}\nKy"),
        (HZ, b"~{<: Ky~}", "\u{5df1} \u{6240}"),
        (HZ, b"~{<", "\u{fffd}"),
        (HZ, b"~", "~"),
        (HZ, b"caf\xe9 ", "caf\u{fffd} "),
        (KR, b"\x1b$)Cplain \x0e0!3*\x0f text\n", "plain \u{ac00}\u{b098} text\n"),
        (KR, b"\x0e0!3*\x0f", "\u{ac00}\u{b098}"),
        (KR, b"\x0e0!\r\n3*", "\u{ac00}\r\n3*"),
        (KR, b"\x0e0\x0fabc", "\u{fffd}abc"),
        (KR, b"\x0e0", "\u{fffd}"),
        (KR, b"\x0e\x1b$)C0!\x1b", "\u{ac00}\x1b"),
        (KR, b"a\x1b", "a\x1b"),
        (KR, b"\x1b$B$\x1b$)C0!", "\x1b$B$0!"),
        (KR, b"\x0e0\x1b$)C3*", "\u{fffd}\u{b098}"),
        (CN, b"\x1b$)A\x0e=;;;\x0f!", "\u{4ea4}\u{6362}!"),
        // There is no table for CNS 11643.
        (CN, b"\x1b$)G\x0eG(_P\x0f!\x1b$)A\x0e=;\x0f", "\u{fffd}\u{fffd}!\u{4ea4}"),
    ];

    #[test]
    fn texts() {
        for &(shifts, text, expected) in CASES {
            for size in [1, 2, 3, 100] {
                let got = decode(shifts, text, size);
                assert_eq!(got, expected, "{} by {size}", text.escape_ascii());
            }
        }
    }

    /// Each character of the sets equals the one with the high bits set.
    #[test]
    fn characters() {
        for (first, second) in (0x21..=0x7d_u8).flat_map(|a| (0x21..=0x7e_u8).map(move |b| (a, b)))
        {
            for (shifts, before, after) in [(HZ, "~{", "~}"), (KR, "\x0e", "\x0f")] {
                let text = [before.as_bytes(), &[first, second], after.as_bytes()].concat();
                let eight = [first | 0x80, second | 0x80];
                let expected = shifts.encoding().decode_without_bom_handling(&eight).0;
                assert_eq!(decode(shifts, &text, 100), expected, "{first:x} {second:x}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn cuts_make_no_difference(
            text in proptest::collection::vec(
                proptest::sample::select(b"\x1b\x1b\x0e\x0f~~{}$)CA<:\r\n \xe4".to_vec()), 0..40),
            size in 1_usize..5,
        ) {
            for shifts in [HZ, KR, CN] {
                let whole = decode(shifts, &text, 100);
                proptest::prop_assert_eq!(decode(shifts, &text, size), whole);
            }
        }
    }
}
