//! Header values as text: encoded-words (RFC 2047) and raw UTF-8 (RFC 6532).
//!
//! Called by SEARCH, not by FETCH: IMAP returns header values as they were sent.

use encoding_rs::WINDOWS_1252;
use memchr::memmem;

use super::{
    charset::{Charset, TextDecoder},
    transfer::TransferDecoder,
};

/// Octets from `=?` to `?=`; RFC 2047 2 allows 75, which mailers exceed.
const ENCODED_WORD_SIZE_MAX: usize = 4_096;

/// Encoded-words of one value that are decoded, about as many as ENVELOPE returns addresses; the
/// rest is taken undecoded.
const WORDS_MAX: usize = 4_096;

/// Whether a header value is already plain text, except for its line ends.
pub(super) fn is_plain(value: &[u8]) -> bool {
    value.is_ascii() && (memchr::memchr(b'?', value).is_none() || !value.contains(&b'='))
}

/// A header value as text.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Decoded {
    /// Adjacent words of one charset are decoded as one text.
    pub text: String,
    /// Each word decoded separately, if the result differs: then it is unknown whether a word broke
    /// off, or the next one continues where it ended.
    pub apart: Option<String>,
}

impl Decoded {
    /// All possible readings of the value.
    pub fn readings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.text.as_str()).chain(self.apart.as_deref())
    }

    /// Octets as sent: as UTF-8 if valid, otherwise in the usual charset of old mailers.
    fn push_raw(&mut self, bytes: &[u8]) {
        let start = self.text.len();
        match str::from_utf8(bytes) {
            Ok(text) => self.text.push_str(text),
            Err(_) => self.text.push_str(&WINDOWS_1252.decode_without_bom_handling(bytes).0),
        }
        self.end_same(start);
    }

    fn push_run(&mut self, run: Option<Run>) {
        let Some(run) = run else { return };
        let start = self.text.len();
        run.decode(&mut self.text);
        if run.seams.is_empty() {
            return self.end_same(start);
        }
        let mut apart = String::new();
        run.decode_apart(&mut apart);
        match self.text.split_at(start) {
            (_, text) if text == apart => self.end_same(start),
            (before, _) => self.apart.get_or_insert_with(|| before.to_owned()).push_str(&apart),
        }
    }

    /// The text from `start` on is in both readings.
    fn end_same(&mut self, start: usize) {
        if let Some(apart) = &mut self.apart {
            apart.push_str(&self.text[start..]);
        }
    }
}

/// Adjacent words of one charset.
struct Run {
    charset: Charset,
    octets: Vec<u8>,
    /// Where words after the first begin, if that matters in the charset.
    seams: Vec<usize>,
}

impl Run {
    fn new(charset: Charset) -> Run {
        Run { charset, octets: Vec::new(), seams: Vec::new() }
    }

    fn push(&mut self, word: &EncodedWord<'_>) {
        if !self.octets.is_empty() && self.charset.may_go_on() {
            self.seams.push(self.octets.len());
        }
        word.decode(&mut self.octets);
    }

    fn decode(&self, out: &mut String) {
        TextDecoder::new(self.charset).push(&self.octets, true, out);
    }

    fn decode_apart(&self, out: &mut String) {
        let mut start = 0;
        for end in self.seams.iter().copied().chain([self.octets.len()]) {
            TextDecoder::new(self.charset).push(&self.octets[start..end], true, out);
            start = end;
        }
    }
}

/// A raw header value, folded or not, as text. White space between adjacent encoded-words is
/// dropped, and a character split between them is joined (RFC 2047 6.2).
pub fn decode_value(value: &[u8]) -> Decoded {
    let mut unfolded = Vec::with_capacity(value.len());
    super::header::unfold(value, &mut unfolded);
    decode_unfolded(&unfolded)
}

/// As [`decode_value`], for an unfolded value.
pub(super) fn decode_unfolded(unfolded: &[u8]) -> Decoded {
    let mut out = Decoded { text: String::with_capacity(unfolded.len()), apart: None };
    let mut run: Option<Run> = None;
    let mut rest = unfolded;
    let mut from = 0;
    let mut words = 0;
    while words < WORDS_MAX
        && let Some(at) = memmem::find(&rest[from..], b"=?").map(|at| at + from)
    {
        let Some((word, size)) = EncodedWord::read(&rest[at..]) else {
            from = at + 2;
            continue;
        };
        let between = &rest[..at];
        if run.is_none() || !between.trim_ascii().is_empty() {
            out.push_run(run.take());
            out.push_raw(between);
        }
        words += 1;
        let charset = Charset::new(word.charset);
        if run.as_ref().is_some_and(|run| run.charset != charset) {
            out.push_run(run.take());
        }
        run.get_or_insert_with(|| Run::new(charset)).push(&word);
        rest = &rest[at + size..];
        from = 0;
    }
    out.push_run(run);
    out.push_raw(rest);
    out
}

/// `"=?" charset ["*" language] "?" encoding "?" text "?="`.
struct EncodedWord<'a> {
    charset: &'a [u8],
    quoted: bool,
    text: &'a [u8],
}

impl<'a> EncodedWord<'a> {
    /// The word at the beginning of `source`, and its size.
    fn read(source: &'a [u8]) -> Option<(EncodedWord<'a>, usize)> {
        let source = &source[..source.len().min(ENCODED_WORD_SIZE_MAX)];
        let rest = source.strip_prefix(b"=?")?;
        let charset_size = memchr::memchr(b'?', rest)?;
        let (charset, rest) = rest.split_at(charset_size);
        let (quoted, text) = match rest {
            [b'?', b'q' | b'Q', b'?', text @ ..] => (true, text),
            [b'?', b'b' | b'B', b'?', text @ ..] => (false, text),
            _ => return None,
        };
        let charset = charset.split(|&byte| byte == b'*').next()?; // RFC 2231 5
        let text_size = memchr::memchr(b'?', text)?;
        if text.get(text_size + 1) != Some(&b'=') {
            return None;
        }
        let size = source.len() - text.len() + text_size + 2;
        Some((EncodedWord { charset, quoted, text: &text[..text_size] }, size))
    }

    fn decode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let encoding: &[u8] = if self.quoted { b"quoted-printable" } else { b"base64" };
        let mut decoder = TransferDecoder::new(encoding);
        if self.quoted {
            // RFC 2047 4.2: `_` is a space; `=5F` is the underscore.
            for (index, piece) in self.text.split(|&byte| byte == b'_').enumerate() {
                if index > 0 {
                    decoder.finish(out);
                    out.push(b' ');
                }
                decoder.push(piece, out);
            }
        } else {
            decoder.push(self.text, out);
        }
        decoder.finish(out);
        debug_assert!(out.len() - start <= self.text.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: &[(&[u8], &str)] = &[
        (b"", ""),
        (b"plain  text", "plain  text"),
        (b" folded\r\n text ", "folded text"),
        ("raw \u{f6}".as_bytes(), "raw \u{f6}"),
        (b"raw \xf6", "raw \u{f6}"),
        (b"\xff\xferaw", "\u{ff}\u{fe}raw"),
        (b"=?iso-8859-1?Q?=FF=FEword?=", "\u{ff}\u{fe}word"),
        (b"=?utf-8?q?J=C3=B6rg?=", "J\u{f6}rg"),
        (b"=?ISO-8859-1?Q?Andr=E9?= Pirard", "Andr\u{e9} Pirard"),
        (b"=?US-ASCII*EN?Q?Keith_Moore?= <k@x>", "Keith Moore <k@x>"),
        // RFC 2047 8, the RFC's own examples.
        (b"=?ISO-8859-1?Q?a?=", "a"),
        (b"=?ISO-8859-1?Q?a?= b", "a b"),
        (b"=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),
        (b"=?ISO-8859-1?Q?a?=\r\n     =?ISO-8859-1?Q?b?=", "ab"),
        (b"=?ISO-8859-1?Q?a_b?=", "a b"),
        (b"=?ISO-8859-1?Q?a?= =?ISO-8859-2?Q?_b?=", "a b"),
        (
            b"=?ISO-8859-1?B?SWYgeW91IGNhbiByZWFkIHRoaXMgeW8=?=\r\n \
              =?ISO-8859-2?B?dSB1bmRlcnN0YW5kIHRoZSBleGFtcGxlLg==?=",
            "If you can read this you understand the example.",
        ),
        // A character cut in two.
        (b"=?utf-8?q?=C3?= =?utf-8?q?=B6?=", "\u{f6}"),
        (b"=?utf-8?b?w7Y?= x =?utf-8?b?w7Y=?=", "\u{f6} x \u{f6}"),
        (b"=?shift_jis?b?k/qWew==?=", "\u{65e5}\u{672c}"),
        (b"=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=", "\u{65e5}\u{672c}"),
        // Adjacent words of a charset with a state: no trace of the seam, B or Q, ended or not.
        (b"=?ISO-2022-JP?B?GyRCRnwbKEI=?= =?ISO-2022-JP?B?GyRCS1wbKEI=?=", "\u{65e5}\u{672c}"),
        (
            b"=?ISO-2022-JP?B?GyRCRnwbKEI=?=\r\n =?iso-2022-jp?Q?=1B$BK=5C=1B(B?=",
            "\u{65e5}\u{672c}",
        ),
        (b"=?ISO-2022-JP?B?GyRCRnw=?= =?ISO-2022-JP?B?GyRCS1wbKEI=?=", "\u{65e5}\u{672c}"),
        (b"=?ISO-2022-JP?B?GyRCRnwbKEIbJEJLXBsoQg==?=", "\u{65e5}\u{672c}"),
        (b"=?hz-gb-2312?q?plain_text?=", "plain text"),
        (b"=?HZ-GB-2312?Q?~=7B<:Ky~=7D?= =?hz-gb-2312?B?fns8On59?=", "\u{5df1}\u{6240}\u{5df1}"),
        (
            b"=?iso-2022-kr?B?GyQpQw4wITMqDw==?= =?ISO-2022-KR?B?DjAhDw==?=",
            "\u{ac00}\u{b098}\u{ac00}",
        ),
        (b"=?utf-8?b?5pc=?= =?utf-8?q?=A5?=", "\u{65e5}"),
        // No encoded-words.
        (b"=? =?x =?x?q =?x?q? =?x?z?y?= =?", "=? =?x =?x?q =?x?q? =?x?z?y?= =?"),
        (b"=?unknown?q?a=20b?=", "a b"),
        (b"=?utf-8?q??=", ""),
        (b"=?utf-8?q?a b?=", "a b"),
    ];

    #[test]
    fn values() {
        for (value, expected) in CASES {
            let readings = Vec::from_iter(decode(value));
            assert_eq!(readings, [*expected], "{}", value.escape_ascii());
        }
    }

    fn decode(value: &[u8]) -> impl Iterator<Item = String> {
        let decoded = decode_value(value);
        std::iter::once(decoded.text).chain(decoded.apart)
    }

    /// Adjacent words, some meant as one text, others separately.
    #[test]
    fn words_that_may_go_on() {
        const CASES: &[(&[u8], &str)] = &[
            // The second word continues in the state of the first, to its end or not.
            (b"=?ISO-2022-JP?B?GyRCRnw=?= =?ISO-2022-JP?B?S1wbKEI=?=", "\u{65e5}\u{672c}"),
            (b"=?ISO-2022-JP?B?GyRCRnw=?=\r\n =?iso-2022-jp?Q?K=5C?=", "\u{65e5}\u{672c}"),
            (
                b"=?ISO-2022-JP?B?GyRCRnw=?= =?ISO-2022-JP?B?S1w=?= =?ISO-2022-JP?B?S1wbKEI=?=",
                "\u{65e5}\u{672c}\u{672c}",
            ),
            // Or it does not: it is ASCII, as RFC 2047 3 requires.
            (b"=?ISO-2022-JP?B?GyRCRnw=?= =?ISO-2022-JP?Q?abc?=", "\u{65e5}abc"),
            (b"=?ISO-2022-JP?B?GyRCRnxL?= =?ISO-2022-JP?Q?abc?=", "\u{65e5}\u{fffd}abc"),
            // A character is split.
            (b"=?ISO-2022-JP?B?GyRCRnxL?= =?ISO-2022-JP?B?XBsoQg==?=", "\u{65e5}\u{672c}"),
            (b"=?shift_jis?b?k/qW?= =?cp932?q?=7B?=", "\u{65e5}\u{672c}"),
            (b"=?gb2312?q?=C8=D5=B1?= =?gb2312?q?=BE?=", "\u{65e5}\u{672c}"),
            // Or it is broken off, and its possible second half is valid by itself.
            (b"=?shift_jis?b?k/qW?= =?shift_jis?q?Kappa?=", "\u{65e5}\u{fffd}Kappa"),
            (b"=?big5?q?=A4?= =?big5?q?Big?=", "\u{fffd}Big"),
            (b"=?HZ-GB-2312?Q?~=7B<:?= =?HZ-GB-2312?Q?Ky~=7D?=", "\u{5df1}\u{6240}"),
            (b"=?HZ-GB-2312?Q?~=7B<:?= =?HZ-GB-2312?Q?Ky?=", "\u{5df1}Ky"),
            (b"=?iso-2022-kr?Q?=0E0!?= =?iso-2022-kr?Q?3*=0F?=", "\u{ac00}\u{b098}"),
            // The surrounding text is in both readings.
            (
                b"\xf6 =?utf-8?q?=C3?= =?utf-8?q?=B6?= =?ISO-2022-JP?B?GyRCRnw=?= =?ISO-2022-JP?Q?a?= b \
                  =?utf-8?q?c?= =?utf-8?q?d?=",
                "\u{f6} \u{f6}\u{65e5}a b cd",
            ),
        ];
        for (value, expected) in CASES {
            let readings = Vec::from_iter(decode(value));
            assert!(readings.iter().any(|text| text == expected), "{readings:?} {expected}");
        }
        // A word that begins with its own sequence has one reading, however the first ended.
        let readings = decode(b"=?ISO-2022-JP?B?GyRCRnxL?= =?ISO-2022-JP?B?GyRCS1wbKEI=?=");
        assert_eq!(Vec::from_iter(readings), ["\u{65e5}\u{fffd}\u{672c}"]);
    }

    #[test]
    fn unfinished_words_cost_no_more_than_their_limit() {
        let value = b"=?a?q?".repeat(40_000);
        assert_eq!(decode_value(&value).text.len(), value.len());
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(
            value in "(=\\?|\\?=|utf-8|\\?q\\?|\\?b\\?|=C3|_|=| |a|\u{f6}){0,20}",
        ) {
            decode_value(value.as_bytes());
        }
    }

    #[test]
    fn words_of_a_value_are_bounded() {
        let decoded = decode_value(&b"=?utf-8?q?a?= ".repeat(WORDS_MAX + 10)).text;
        assert!(decoded.starts_with(&"a".repeat(WORDS_MAX)));
        assert!(decoded.ends_with(&"=?utf-8?q?a?= ".repeat(10).trim_end().to_owned()));
    }

    #[test]
    fn plain_values_are_told_apart() {
        for (value, plain) in [
            (b"a=b c?d".as_slice(), false),
            (b"what?", true),
            (b"a=b", true),
            (b"=\r?utf-8?q?a?=", false),
            ("\u{e4}".as_bytes(), false),
        ] {
            assert_eq!(is_plain(value), plain);
        }
    }
}
