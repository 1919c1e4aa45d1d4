//! Charsets of text: the decoder for a label, and stateful two-octet charsets as mailers write
//! them.
//!
//! Called by `encoded_word` and `search`, and by the service for the charset of a command: only for
//! SEARCH.

use encoding_rs::{
    BIG5, Decoder, EUC_JP, EUC_KR, Encoding, GBK, ISO_2022_JP, KOI8_U, REPLACEMENT, SHIFT_JIS,
    UTF_8, UTF_16BE, UTF_16LE, WINDOWS_874,
};

use super::shifted::{Shifts, Unshifter};

const ESCAPE: u8 = 0x1b;
/// Octets of every escape sequence that ISO-2022-JP has (RFC 1468).
const SEQUENCE_SIZE: usize = 3;

/// The decoder of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Charset {
    Known(&'static Encoding),
    /// `encoding_rs` has no decoder for these.
    Shifted(Shifts),
}

impl Charset {
    /// By its label. ASCII, no label, and unknown labels are treated as UTF-8, which unlabelled
    /// text usually is.
    pub(super) fn new(label: &[u8]) -> Charset {
        let label = label.trim_ascii();
        if label.eq_ignore_ascii_case(b"us-ascii") || label.eq_ignore_ascii_case(b"ascii") {
            return Charset::Known(UTF_8);
        }
        match encoding_of(label) {
            Some(encoding) => Charset::Known(encoding),
            None => shifts(label).map_or(Charset::Known(UTF_8), Charset::Shifted),
        }
    }

    /// Whether the meaning of octets may depend on those before them, also where these are broken.
    pub(super) fn may_go_on(self) -> bool {
        match self {
            // A broken UTF-8 character does not affect the following ones.
            Charset::Known(encoding) => encoding != UTF_8 && !encoding.is_single_byte(),
            Charset::Shifted(_) => true,
        }
    }
}

/// Octets of the longest label that is looked up besides those of the WHATWG.
const LABEL_SIZE_MAX: usize = 40;

/// The encoding of a label in mail: the WHATWG's labels, and further ones that mailers send. `None`
/// for those that `encoding_rs` does not decode.
pub fn encoding_of(label: &[u8]) -> Option<&'static Encoding> {
    let found = Encoding::for_label(label).or_else(|| {
        let mut room = [0; BEFORE_MAX + LABEL_SIZE_MAX];
        let size = squeeze(label, room.get_mut(BEFORE_MAX..)?)?;
        // The IANA labels that begin with "cs" are squeezed too.
        for before in [b"".as_slice(), b"cs", b"iso", b"csiso"] {
            let start = BEFORE_MAX - before.len();
            room[start..BEFORE_MAX].copy_from_slice(before);
            if let Some(found) = Encoding::for_label(&room[start..BEFORE_MAX + size]) {
                return Some(found);
            }
        }
        let name = &room[BEFORE_MAX..BEFORE_MAX + size];
        code_page(name).or_else(|| alias(name))
    });
    found.filter(|found| *found != REPLACEMENT)
}

/// Octets of the longest prefix that is tried before a label.
const BEFORE_MAX: usize = b"csiso".len();

/// A label without variable parts: the prefix `x-`, case, and punctuation. Written to `out`;
/// returns its size.
fn squeeze(label: &[u8], out: &mut [u8]) -> Option<usize> {
    if label.len() > LABEL_SIZE_MAX {
        return None;
    }
    let label = label.strip_prefix(b"x-").or_else(|| label.strip_prefix(b"X-")).unwrap_or(label);
    let counts = |octet: &&u8| octet.is_ascii_alphanumeric();
    let mut size = 0;
    for (place, octet) in std::iter::zip(out, label.iter().filter(counts)) {
        *place = octet.to_ascii_lowercase();
        size += 1;
    }
    Some(size)
}

/// Microsoft's numbers: `cp932`, `ms932`, `windows-932`, `win-1251`.
fn code_page(name: &[u8]) -> Option<&'static Encoding> {
    const BEFORE: [&[u8]; 5] = [b"cp", b"ms", b"windows", b"win", b"ibm"];
    let number = BEFORE.iter().find_map(|before| name.strip_prefix(*before))?;
    Some(match number {
        b"874" => WINDOWS_874,
        b"932" => SHIFT_JIS,
        b"936" => GBK,
        b"949" => EUC_KR,
        b"950" => BIG5,
        b"50220" | b"50221" | b"50222" => ISO_2022_JP,
        b"51932" => EUC_JP,
        _ => return Encoding::for_label(&[b"cp", number].concat()),
    })
}

fn alias(name: &[u8]) -> Option<&'static Encoding> {
    Some(match name {
        b"sjiswin" => SHIFT_JIS,
        b"eucjp" | b"eucjpms" | b"eucjpwin" | b"ujis" => EUC_JP,
        b"euccn" => GBK,
        b"uhc" => EUC_KR,
        b"big5hkscs" | b"big5eten" => BIG5,
        b"koi8u" => KOI8_U,
        b"tis620" => WINDOWS_874,
        // The additional characters of -1, -2, -3, -MS and -2004 are hardly used.
        _ if name.starts_with(b"iso2022jp") => ISO_2022_JP,
        _ => return None,
    })
}

fn shifts(label: &[u8]) -> Option<Shifts> {
    let mut room = [0; LABEL_SIZE_MAX];
    let size = squeeze(label, &mut room)?;
    Some(match &room[..size] {
        b"hz" | b"hzgb2312" => Shifts::Tilde,
        b"iso2022kr" | b"csiso2022kr" => Shifts::ISO_2022_KR,
        b"iso2022cn" | b"iso2022cnext" => Shifts::ISO_2022_CN,
        _ => return None,
    })
}

/// A decoder of text in pieces that tolerates real mail.
pub(super) struct TextDecoder {
    decoder: Decoder,
    filter: Filter,
    filtered: Vec<u8>,
}

/// The filter that octets pass before they are decoded.
enum Filter {
    None,
    Escapes(Escapes),
    Unshifter(Unshifter),
}

impl TextDecoder {
    pub(super) fn new(charset: Charset) -> TextDecoder {
        let (encoding, filter) = match charset {
            Charset::Known(encoding) if encoding == ISO_2022_JP => {
                (encoding, Filter::Escapes(Escapes::default()))
            }
            Charset::Known(encoding) => (encoding, Filter::None),
            Charset::Shifted(shifts) => {
                (shifts.encoding(), Filter::Unshifter(Unshifter::new(shifts)))
            }
        };
        // A byte order mark is the text's own in UTF-16 (RFC 2781 4.1). Elsewhere the first octets
        // of a text do not change the charset that its label names.
        let decoder = match encoding == UTF_16LE || encoding == UTF_16BE {
            true => encoding.new_decoder(),
            false => encoding.new_decoder_with_bom_removal(),
        };
        TextDecoder { decoder, filter, filtered: Vec::new() }
    }

    /// Appends the text of `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8], last: bool, out: &mut String) {
        self.filtered.clear();
        let filtered = &mut self.filtered;
        let bytes = match &mut self.filter {
            Filter::None => bytes,
            Filter::Escapes(escapes) => {
                escapes.push(bytes, filtered);
                if last {
                    escapes.flush(filtered);
                }
                filtered
            }
            Filter::Unshifter(unshifter) => {
                unshifter.push(bytes, filtered);
                if last {
                    unshifter.flush(filtered);
                }
                filtered
            }
        };
        let room = self.decoder.max_utf8_buffer_length(bytes.len());
        out.reserve(room.unwrap_or(bytes.len() * 3));
        // The room suffices for all input, so nothing is left over.
        let _ = self.decoder.decode_to_string(bytes, out, last);
    }
}

/// Removes escape sequences directly before others. They switch to a charset and use none of it, as
/// at the seam of two encoded-words (each ends in ASCII, RFC 2047 3); the WHATWG's decoder treats
/// that as an attack and emits U+FFFD.
#[derive(Default)]
struct Escapes {
    /// A sequence, or the start of one, that is not emitted yet.
    held: [u8; SEQUENCE_SIZE],
    size: usize,
}

impl Escapes {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &byte in bytes {
            if byte == ESCAPE && self.size == SEQUENCE_SIZE {
                self.size = 0;
            } else if byte == ESCAPE || self.size == SEQUENCE_SIZE {
                self.flush(out);
            }
            if byte == ESCAPE || self.size > 0 {
                self.held[self.size] = byte;
                self.size += 1;
            } else {
                out.push(byte);
            }
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.held[..self.size]);
        self.size = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(label: &str, bytes: &[u8], size: usize) -> String {
        let mut decoder = TextDecoder::new(Charset::new(label.as_bytes()));
        let mut text = String::new();
        bytes.chunks(size).for_each(|piece| decoder.push(piece, false, &mut text));
        decoder.push(b"", true, &mut text);
        text
    }

    #[test]
    fn texts() {
        const CASES: &[(&str, &[u8], &str)] = &[
            ("iso-2022-jp", b"a\x1b$BF|K\\\x1b(Bb", "a\u{65e5}\u{672c}b"),
            // Switches to ASCII and back at once, and more of the same.
            ("iso-2022-jp", b"\x1b$BF|\x1b(B\x1b$BK\\\x1b(B", "\u{65e5}\u{672c}"),
            (
                "iso-2022-jp",
                b"\x1b(B\x1b(J\x1b$BF|\x1b(B\x1b(B\x1b$BK\\\x1b(B!",
                "\u{65e5}\u{672c}!",
            ),
            ("iso-2022-jp", b"a\x1b", "a\u{fffd}"),
            ("iso-2022-jp", b"\x1b$BF|\x1b(B\x1b$B", "\u{65e5}"),
            ("iso-2022-kr", b"\x1b$)C plain \x0e0!3*\x0f text", " plain \u{ac00}\u{b098} text"),
            ("csISO2022KR", b"\x0e0!3*\x0f text", "\u{ac00}\u{b098} text"),
            ("hz-gb-2312", b"plain ~{<:Ky~} text", "plain \u{5df1}\u{6240} text"),
            ("HZ", b"~{<:Ky", "\u{5df1}\u{6240}"),
            ("iso-2022-cn", b"plain \x1b$)A\x0e=;\x0f", "plain \u{4ea4}"),
            ("iso-2022-cn-ext", b"plain", "plain"),
            ("replacement", b"plain", "plain"),
            ("nonsense", "\u{fc}".as_bytes(), "\u{fc}"),
            ("", b"a", "a"),
            ("utf-16be", b"\0a\0b", "ab"),
            // A byte order mark says how UTF-16 is to be read, and nothing of other charsets.
            ("utf-16", b"\xfe\xff\0a\0b", "ab"),
            ("utf-16", b"\xff\xfea\0b\0", "ab"),
            ("utf-8", b"\xef\xbb\xbfab", "ab"),
            ("utf-8", b"\xff\xfeab", "\u{fffd}\u{fffd}ab"),
            ("us-ascii", b"\xfe\xffab", "\u{fffd}\u{fffd}ab"),
            ("iso-8859-1", b"\xff\xfeab", "\u{ff}\u{fe}ab"),
            ("iso-8859-1", b"\xef\xbb\xbfab", "\u{ef}\u{bb}\u{bf}ab"),
        ];
        for (label, bytes, expected) in CASES {
            for size in [1, 2, 3, 5, 100] {
                assert_eq!(decode(label, bytes, size), *expected, "{label} by {size}");
            }
        }
    }

    /// Labels that mailers send and the WHATWG does not list.
    #[test]
    fn aliases() {
        use encoding_rs::*;
        let cases: &[(&Encoding, &[&str])] = &[
            (
                SHIFT_JIS,
                &[
                    "cp932",
                    "CP-932",
                    "ms932",
                    "windows-932",
                    "windows-31j",
                    "x-sjis",
                    "SJIS-win",
                    "Shift-JIS",
                    "x-shift_jis",
                ],
            ),
            (
                GBK,
                &[
                    "cp936",
                    "MS936",
                    "windows-936",
                    "x-gbk",
                    "EUC-CN",
                    "x-euc-cn",
                    "GB_2312-80",
                    "gb2312",
                ],
            ),
            (GB18030, &["gb18030"]),
            (
                EUC_KR,
                &["cp949", "ms949", "x-windows-949", "UHC", "euckr", "ks_c_5601", "KSC5601-1987"],
            ),
            (
                BIG5,
                &[
                    "cp950",
                    "windows-950",
                    "ms950",
                    "x-big5",
                    "Big5-HKSCS",
                    "big5hkscs",
                    "Big5-ETEN",
                ],
            ),
            (EUC_JP, &["eucJP", "x-eucjp", "euc_jp", "eucJP-ms", "cp51932", "ujis"]),
            (
                ISO_2022_JP,
                &[
                    "cp50220",
                    "cp50221",
                    "ISO-2022-JP-MS",
                    "iso2022jp",
                    "ISO-2022-JP-2",
                    "iso-2022-jp-1",
                    "iso-2022-jp-2004",
                ],
            ),
            (WINDOWS_1250, &["cp1250", "cp-1250", "win-1250", "x-windows-1250", "windows1250"]),
            (WINDOWS_1251, &["cp1251", "win1251", "WIN-1251"]),
            (
                WINDOWS_1252,
                &[
                    "cp1252",
                    "latin-1",
                    "ISO-Latin-1",
                    "8859-1",
                    "x-iso-8859-1",
                    "ISO 8859-1",
                    "ISO_8859_1",
                ],
            ),
            (WINDOWS_874, &["cp874", "tis620", "ms874"]),
            (ISO_8859_2, &["latin-2", "iso8859_2"]),
            (ISO_8859_15, &["latin9", "latin-9", "ISO_8859_15"]),
            (KOI8_R, &["koi8r"]),
            (KOI8_U, &["koi8u"]),
            (IBM866, &["cp866", "cp-866", "ibm-866"]),
            (
                UTF_8,
                &[
                    "utf8",
                    "x-utf-8",
                    "UTF_8",
                    "cp65001",
                    "us-ascii",
                    "ascii",
                    "x-unknown",
                    "unknown-8bit",
                    "cp",
                    "windows-",
                    "cp99999999",
                    "x-",
                    "-",
                    "\u{fc}",
                ],
            ),
        ];
        for (expected, labels) in cases {
            for label in *labels {
                assert_eq!(Charset::new(label.as_bytes()), Charset::Known(expected), "{label}");
                assert_eq!(Charset::new(format!(" {label} ").as_bytes()), Charset::Known(expected));
            }
        }
        assert_eq!(Charset::new(b"x-hz"), Charset::Shifted(Shifts::Tilde));
        assert_eq!(Charset::new(b"ISO2022KR"), Charset::Shifted(Shifts::ISO_2022_KR));
        assert_eq!(Charset::new(&[b'-'; 100_000]), Charset::Known(UTF_8));
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(
            bytes in proptest::collection::vec(
                proptest::sample::select(b"\x1b\x1b\x1b(B$@JIaF|".to_vec()), 0..40),
            size in 1_usize..5,
        ) {
            let whole = decode("iso-2022-jp", &bytes, 100);
            proptest::prop_assert_eq!(decode("iso-2022-jp", &bytes, size), whole);
        }
    }
}
