//! The first words of a message (RFC 8970), for lists of messages.
//!
//! They come from the beginning of one part: the first text/plain that is not an attachment, else
//! the first text/html. A [`Summarizer`](super::Summarizer) takes them from the octets that pass;
//! of a message whose summary lacks them the caller reads the octets that [`Preview`] names. Pure.

use std::ops::Range;

use memchr::memchr;

use super::{
    charset::{Charset, TextDecoder},
    html::Stripper,
    summary::{Part, PartKind, Summary},
    transfer::TransferDecoder,
};

/// Characters of a preview; RFC 8970 3.2 allows 256.
const CHARACTERS: usize = 200;
/// Octets of the part that are read for it: HTML begins with styles.
const OCTETS: u64 = 16 * 1024;
/// Octets decoded before looking whether that is enough.
const PIECE: usize = 512;

/// Where a preview comes from.
pub struct Preview {
    /// Octets of the message.
    pub range: Range<u64>,
    reader: PreviewReader,
}

impl Preview {
    /// `None` if the message has no text to show.
    pub fn of(summary: &Summary) -> Option<Preview> {
        let part = part_shown(summary)?;
        let Range { start, end } = part.body();
        let range = start..end.min(start.saturating_add(OCTETS));
        Some(Preview { range, reader: PreviewReader::of(part) })
    }

    /// The preview, from the octets of [`Preview::range`].
    pub fn text(mut self, octets: &[u8]) -> String {
        self.reader.push(octets);
        self.reader.finish()
    }
}

/// The part whose text is shown.
pub(super) fn part_shown(summary: &Summary) -> Option<Part<'_>> {
    text_part(summary.root(), b"plain").or(text_part(summary.root(), b"html"))
}

/// Takes the octets of a part as they come, and keeps the preview alone.
pub(super) struct PreviewReader {
    transfer: TransferDecoder,
    decoder: TextDecoder,
    /// Of HTML.
    stripper: Option<Stripper>,
    /// Octets that may still come.
    left: u64,
    /// No octets had to be decoded until now: it is ASCII, as most mail begins.
    is_ascii: bool,
    /// Of plain text: at the beginning of a line, or in one that is left out.
    line: Line,
    shown: Squeezed,
    /// Buffers for a piece.
    bytes: Vec<u8>,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Begins,
    GoesOn,
    /// Quoted from another message.
    Quoted,
}

impl PreviewReader {
    pub(super) fn of(part: Part<'_>) -> PreviewReader {
        let charset = part.parameters().find(|(name, _)| name.eq_ignore_ascii_case(b"charset"));
        let charset = Charset::new(charset.map_or(b"us-ascii".as_slice(), |(_, value)| value));
        // RFC 2045 6.4: a multipart is not encoded.
        let is_multipart = part.kind() == PartKind::Multipart;
        let encoding = if is_multipart { b"7bit" } else { part.encoding() };
        let is_html = !is_multipart && part.media_subtype().eq_ignore_ascii_case(b"html");
        let transfer = TransferDecoder::new(encoding);
        let is_ascii = matches!(transfer, TransferDecoder::Identity)
            && charset == Charset::Known(encoding_rs::UTF_8)
            && !is_html;
        PreviewReader {
            transfer,
            decoder: TextDecoder::new(charset),
            stripper: is_html.then(Stripper::new),
            left: OCTETS,
            is_ascii,
            line: Line::Begins,
            shown: Squeezed::default(),
            bytes: Vec::new(),
            text: String::new(),
        }
    }

    pub(super) fn is_html(&self) -> bool {
        self.stripper.is_some()
    }

    /// The next octets of the part; more than it needs are ignored.
    pub(super) fn push(&mut self, octets: &[u8]) {
        let size = usize::try_from(self.left).unwrap_or(usize::MAX).min(octets.len());
        for piece in octets.get(..size).unwrap_or_default().chunks(PIECE) {
            if self.shown.is_full() {
                (self.left, self.bytes, self.text) = (0, Vec::new(), String::new());
                return;
            }
            self.left -= piece.len() as u64;
            self.is_ascii &= piece.is_ascii();
            if self.is_ascii {
                self.show_ascii(piece);
                continue;
            }
            self.bytes.clear();
            self.transfer.push(piece, &mut self.bytes);
            self.text.clear();
            // Where the octets are cut is no error of the message's.
            self.decoder.push(&self.bytes, false, &mut self.text);
            match &mut self.stripper {
                None => {
                    let text = std::mem::take(&mut self.text);
                    text.chars().for_each(|it| self.show_plain(it));
                    self.text = text;
                }
                Some(stripper) => {
                    let mut stripped = String::new();
                    stripper.push(&self.text, &mut stripped);
                    stripped.chars().for_each(|it| self.shown.push(it));
                }
            }
        }
    }

    /// Shows plain text, of which only the lines are the author's own that do not begin with `>`.
    fn show_plain(&mut self, character: char) {
        self.line = match (self.line, character) {
            (_, '\n') => Line::Begins,
            (Line::Begins, '>') | (Line::Quoted, _) => Line::Quoted,
            _ => Line::GoesOn,
        };
        if self.line != Line::Quoted {
            self.shown.push(character);
        }
    }

    /// As [`PreviewReader::show_plain`] of each octet, a word at a time.
    fn show_ascii(&mut self, mut octets: &[u8]) {
        let is_space = |octet: &u8| *octet == b' ' || octet.is_ascii_control();
        while let Some((first, rest)) = octets.split_first()
            && !self.shown.is_full()
        {
            match (self.line, *first) {
                (_, b'\n') => self.line = Line::Begins,
                (Line::Quoted, _) | (Line::Begins, b'>') => {
                    self.line = Line::Quoted;
                    let end = memchr(b'\n', octets).unwrap_or(octets.len());
                    octets = octets.get(end..).unwrap_or_default();
                    continue;
                }
                _ => self.line = Line::GoesOn,
            }
            if is_space(first) {
                self.shown.push_space();
                octets = rest;
                continue;
            }
            let end = octets.iter().position(is_space).unwrap_or(octets.len());
            let (word, rest) = octets.split_at(end);
            // It is ASCII.
            self.shown.push_ascii(std::str::from_utf8(word).unwrap_or_default());
            octets = rest;
        }
    }

    pub(super) fn finish(mut self) -> String {
        if let Some(stripper) = &mut self.stripper {
            let mut stripped = String::new();
            stripper.finish(&mut stripped);
            stripped.chars().for_each(|it| self.shown.push(it));
        }
        self.shown.text
    }

    /// Bytes of memory held beside the value itself.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity() + self.text.capacity() + self.shown.text.capacity()
    }
}

impl std::fmt::Debug for PreviewReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PreviewReader").field("left", &self.left).finish_non_exhaustive()
    }
}

/// The first part of this kind of text; recursion is limited by the depth of a summary.
fn text_part<'a>(part: Part<'a>, subtype: &[u8]) -> Option<Part<'a>> {
    let is_attached = part.disposition().is_some_and(|it| it.eq_ignore_ascii_case(b"attachment"));
    if is_attached {
        return None;
    }
    match part.kind() {
        PartKind::Multipart if part.is_undelimited() => (subtype == b"plain").then_some(part),
        PartKind::Multipart => part.children().find_map(|child| text_part(child, subtype)),
        PartKind::Leaf => {
            let is_it = part.media_type().eq_ignore_ascii_case(b"text")
                && part.media_subtype().eq_ignore_ascii_case(subtype);
            is_it.then_some(part)
        }
        PartKind::Message => None,
    }
}

/// The beginning of a text as one line, without what is not seen of it.
#[derive(Default)]
struct Squeezed {
    text: String,
    /// Of the text, with the space that may follow.
    count: usize,
    is_after_space: bool,
    is_cut: bool,
}

impl Squeezed {
    fn is_full(&self) -> bool {
        self.is_cut
    }

    fn push(&mut self, character: char) {
        // Mailers pad the hidden beginning of HTML with these.
        if matches!(
            character,
            '\u{ad}' | '\u{34f}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}'
        ) {
            return;
        }
        if character.is_whitespace() || character.is_control() {
            return self.push_space();
        }
        if self.begin() {
            self.text.push(character);
            self.count += 1;
        }
    }

    fn push_space(&mut self) {
        self.is_after_space = self.count > 0;
    }

    /// Characters of ASCII that are all seen.
    fn push_ascii(&mut self, word: &str) {
        if self.begin() {
            let room = CHARACTERS - self.count;
            let shown = word.get(..room).unwrap_or(word);
            self.text.push_str(shown);
            self.count += shown.len();
            self.is_cut = shown.len() < word.len();
        }
    }

    /// Makes room for something that is seen; false if there is none.
    fn begin(&mut self) -> bool {
        self.is_cut = self.is_cut || self.count + usize::from(self.is_after_space) >= CHARACTERS;
        if self.is_cut {
            return false;
        }
        if std::mem::take(&mut self.is_after_space) {
            self.text.push(' ');
            self.count += 1;
        }
        if self.text.capacity() == 0 {
            self.text.reserve(CHARACTERS);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{super::Summarizer, *};

    fn preview(message: &[u8]) -> Option<String> {
        let mut summarizer = Summarizer::new();
        summarizer.push(message);
        let preview = Preview::of(&summarizer.finish())?;
        let octets = &message[preview.range.start as usize..preview.range.end as usize];
        Some(preview.text(octets))
    }

    #[test]
    fn texts() {
        const CASES: &[(&str, Option<&str>)] = &[
            ("Subject: x\r\n\r\n  Hello,\r\n\r\n\tworld!\r\n", Some("Hello, world!")),
            ("Subject: x\r\n\r\n", Some("")),
            ("Subject: x\r\n\r\n> quoted\r\n> text\r\nmine\r\n", Some("mine")),
            ("Content-Type: image/png\r\n\r\nabc", None),
            (
                "Content-Type: text/html\r\n\r\n<style>p { x: y }</style><p>Hello&nbsp;<b>you</b>",
                Some("Hello you"),
            ),
            (
                "Content-Type: text/plain; charset=utf-8\r\n\
                 Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\u{200b} =\r\naus",
                Some("Gr\u{fc}\u{df}e aus"),
            ),
            (
                "Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\
                 Content-Type: text/html\r\n\r\n<p>html</p>\r\n--b\r\n\r\nplain\r\n--b--\r\n",
                Some("plain"),
            ),
            (
                "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
                 Content-Disposition: attachment\r\n\r\nfile\r\n--b\r\n\
                 Content-Type: text/html\r\n\r\n<p>html</p>\r\n--b--\r\n",
                Some("html"),
            ),
            ("Content-Type: multipart/mixed; boundary=b\r\n\r\nno parts", Some("no parts")),
        ];
        for (message, expected) in CASES {
            assert_eq!(preview(message.as_bytes()).as_deref(), *expected, "{message}");
        }
    }

    #[test]
    fn length() {
        let message = format!("Subject: x\r\n\r\n{}", "\u{e4}b ".repeat(10_000));
        let message = message.replacen("Subject: x", "Content-Type: text/plain; charset=utf-8", 1);
        let text = preview(message.as_bytes()).expect("a text");
        assert!((190..=CHARACTERS).contains(&text.chars().count()), "{text}");
        assert!(text.starts_with("\u{e4}b \u{e4}b") && !text.ends_with(' '), "{text}");
    }

    proptest! {
        #[test]
        fn ascii_is_shown_as_any_text(
            pieces in vec("[ab> \t\r\n\x00\x7f]{0,60}|a{150,250}", 0..8),
        ) {
            let mut summarizer = Summarizer::new();
            summarizer.push(b"Subject: x\r\n\r\n");
            let summary = summarizer.finish();
            let part = part_shown(&summary).unwrap();
            let (mut words, mut characters) = (PreviewReader::of(part), PreviewReader::of(part));
            assert!(std::mem::take(&mut characters.is_ascii));
            for piece in &pieces {
                words.push(piece.as_bytes());
                characters.push(piece.as_bytes());
            }
            prop_assert_eq!(words.finish(), characters.finish());
        }
    }
}
