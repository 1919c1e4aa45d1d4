//! Header values as text: encoded-words (RFC 2047) and raw UTF-8 (RFC 6532).
//!
//! Called by SEARCH. FETCH never is: IMAP tells header values as they were sent.

use encoding_rs::{ISO_2022_JP, WINDOWS_1252};
use memchr::memmem;

use super::{
    charset::{self, Charset, TextDecoder},
    transfer::TransferDecoder,
};

/// Octets from `=?` to `?=`; RFC 2047 2 allows 75, and nobody keeps to it.
const ENCODED_WORD_SIZE_MAX: usize = 4_096;

/// A raw header value, folded or not, as text. White space between adjacent encoded-words is
/// dropped, and a character cut by them is put together (RFC 2047 6.2).
pub fn decode_value(value: &[u8]) -> String {
    let mut unfolded = Vec::with_capacity(value.len());
    super::header::unfold(value, &mut unfolded);
    let mut out = String::with_capacity(unfolded.len());
    // Decoded octets of adjacent words of one charset.
    let mut word: Option<(Charset, Vec<u8>)> = None;
    let mut rest = unfolded.as_slice();
    let mut from = 0;
    while let Some(at) = memmem::find(&rest[from..], b"=?").map(|at| at + from) {
        let Some((next, size)) = EncodedWord::read(&rest[at..]) else {
            from = at + 2;
            continue;
        };
        let between = &rest[..at];
        if word.is_none() || !between.trim_ascii().is_empty() {
            flush(&mut word, &mut out);
            push_raw(between, &mut out);
        }
        let charset = Charset::new(next.charset);
        if word.as_ref().is_some_and(|(current, _)| *current != charset) {
            flush(&mut word, &mut out);
        }
        let (_, bytes) = word.get_or_insert((charset, Vec::new()));
        // RFC 2047 3: each word begins in ASCII, however the one before ended.
        if charset == Charset::Known(ISO_2022_JP) {
            bytes.extend_from_slice(charset::TO_ASCII);
        }
        next.decode(bytes);
        rest = &rest[at + size..];
        from = 0;
    }
    flush(&mut word, &mut out);
    push_raw(rest, &mut out);
    out
}

fn flush(word: &mut Option<(Charset, Vec<u8>)>, out: &mut String) {
    if let Some((charset, bytes)) = word.take() {
        TextDecoder::new(charset).push(&bytes, true, out);
    }
}

/// Octets as sent: UTF-8 if they are, else what most mailers of old meant.
fn push_raw(bytes: &[u8], out: &mut String) {
    match str::from_utf8(bytes) {
        Ok(text) => out.push_str(text),
        Err(_) => out.push_str(&WINDOWS_1252.decode(bytes).0),
    }
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
        (b"=?ISO-2022-JP?B?GyRCRnw=?= =?ISO-2022-JP?Q?abc?=", "\u{65e5}abc"),
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
            assert_eq!(decode_value(value), *expected, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn unfinished_words_cost_no_more_than_their_limit() {
        let value = b"=?a?q?".repeat(40_000);
        assert_eq!(decode_value(&value).len(), value.len());
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(
            value in "(=\\?|\\?=|utf-8|\\?q\\?|\\?b\\?|=C3|_|=| |a|\u{f6}){0,20}",
        ) {
            decode_value(value.as_bytes());
        }
    }
}
