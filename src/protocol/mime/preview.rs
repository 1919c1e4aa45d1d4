//! The first words of a message (RFC 8970), for lists of messages.
//!
//! They come from the beginning of one part: the first text/plain that is not an attachment, else
//! the first text/html. Pure: the caller reads the octets that [`Preview`] names.

use std::ops::Range;

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

/// Where a preview comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preview {
    /// Octets of the message.
    pub range: Range<u64>,
    encoding: Vec<u8>,
    charset: Vec<u8>,
    is_html: bool,
}

impl Preview {
    /// `None` if the message has no text to show.
    pub fn of(summary: &Summary) -> Option<Preview> {
        let part = text_part(summary.root(), b"plain").or(text_part(summary.root(), b"html"))?;
        let Range { start, end } = part.body();
        let charset = part.parameters().find(|(name, _)| name.eq_ignore_ascii_case(b"charset"));
        // RFC 2045 6.4: a multipart is not encoded.
        let is_multipart = part.kind() == PartKind::Multipart;
        let encoding = if is_multipart { b"7bit" } else { part.encoding() };
        Some(Preview {
            range: start..end.min(start.saturating_add(OCTETS)),
            encoding: encoding.to_vec(),
            charset: charset.map_or(b"us-ascii".as_slice(), |(_, value)| value).to_vec(),
            is_html: part.media_subtype().eq_ignore_ascii_case(b"html"),
        })
    }

    /// The preview, from the octets of [`Preview::range`].
    pub fn text(&self, octets: &[u8]) -> String {
        let mut transfer = TransferDecoder::new(&self.encoding);
        let mut bytes = Vec::with_capacity(octets.len());
        transfer.push(octets, &mut bytes);
        let mut text = String::new();
        // Where the octets were cut is no error of the message's.
        TextDecoder::new(Charset::new(&self.charset)).push(&bytes, false, &mut text);
        if !self.is_html {
            let own = text.lines().filter(|line| !line.starts_with('>'));
            return squeeze(own.flat_map(|line| line.chars().chain([' '])));
        }
        let (mut stripper, mut stripped) = (Stripper::new(), String::new());
        stripper.push(&text, &mut stripped);
        stripper.finish(&mut stripped);
        squeeze(stripped.chars())
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
fn squeeze(characters: impl Iterator<Item = char>) -> String {
    // Mailers pad the hidden beginning of HTML with these.
    let is_invisible = |it: char| {
        matches!(it, '\u{ad}' | '\u{34f}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
    };
    let (mut text, mut count, mut space) = (String::new(), 0, false);
    for character in characters.filter(|it| !is_invisible(*it)) {
        if character.is_whitespace() || character.is_control() {
            space = count > 0;
            continue;
        }
        if count + usize::from(space) >= CHARACTERS {
            break;
        }
        if space {
            text.push(' ');
            count += 1;
            space = false;
        }
        text.push(character);
        count += 1;
    }
    text
}

#[cfg(test)]
mod tests {
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
}
