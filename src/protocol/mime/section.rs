//! Section addresses (RFC 3501 6.4.5): from `BODY[1.2.MIME]` and similar to octet ranges.
//!
//! Called by IMAP FETCH, which then reads only that range of the stored message.

use std::ops::Range;

use super::{Part, PartKind, Summary};

/// The requested text of a part or message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionText {
    /// Not specified: the whole message, or a part's body.
    Full,
    /// `HEADER` (and the source of `HEADER.FIELDS`): needs no path or a message/rfc822 part.
    Header,
    /// `TEXT`: needs no path or a message/rfc822 part.
    Text,
    /// `MIME`: needs a path.
    Mime,
}

impl Summary {
    /// Octets of the message that the section means; `None` if there is no such part. An empty path
    /// is the message itself.
    pub fn section(&self, path: &[u32], what: SectionText) -> Option<Range<u64>> {
        let Some(part) = self.part(path)? else {
            return match what {
                SectionText::Full => Some(0..self.size()),
                SectionText::Header => Some(self.root().header()),
                SectionText::Text => Some(self.root().body()),
                SectionText::Mime => None,
            };
        };
        match what {
            SectionText::Full => Some(part.body()),
            SectionText::Mime => Some(part.header()),
            SectionText::Header => Some(part.message()?.header()),
            SectionText::Text => Some(part.message()?.body()),
        }
    }

    /// The part at `path`: `None` if there is none, `Some(None)` for the message itself.
    pub fn part(&self, path: &[u32]) -> Option<Option<Part<'_>>> {
        let Some((&first, rest)) = path.split_first() else { return Some(None) };
        let mut part = numbered(self.root(), first)?;
        // A multipart without parts was treated as its own text, which has no parts.
        let mut is_text = self.root().is_undelimited();
        for &number in rest {
            let inside = match part.kind() {
                PartKind::Multipart if !is_text => part,
                PartKind::Message => part.message()?,
                _ => return None,
            };
            part = numbered(inside, number)?;
            is_text = inside.is_undelimited();
        }
        Some(Some(part))
    }
}

/// Part `number` of the message whose root part is `root`. A message that is not a multipart has
/// one part: its body.
fn numbered(root: Part<'_>, number: u32) -> Option<Part<'_>> {
    match root.kind() {
        PartKind::Multipart => child(root, number),
        _ => (number == 1).then_some(root),
    }
}

fn child(part: Part<'_>, number: u32) -> Option<Part<'_>> {
    // BODYSTRUCTURE shows it as a text part (RFC 3501 has no multipart without parts), so it can be
    // fetched.
    if part.is_undelimited() {
        return (number == 1).then_some(part);
    }
    part.children().nth(usize::try_from(number).ok()?.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::{super::Summarizer, SectionText::*, *};

    /// After the example in RFC 3501 6.4.5: 1 text, 2 image, 3 message/rfc822 with 3.1 and 3.2, 4
    /// multipart with 4.1 and 4.2, where 4.2 is a message without multipart.
    const NESTED: &str = "Subject: outer\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\n\
        preamble\r\n\
        --o\r\nX: 1\r\n\r\none\r\n\
        --o\r\nContent-Type: image/gif\r\n\r\n\r\n\
        --o\r\nContent-Type: message/rfc822\r\n\r\n\
        Subject: inner\r\nContent-Type: multipart/mixed; boundary=i\r\n\r\n\
        --i\r\nX: 3.1\r\n\r\nthree one\r\n\
        --i\r\n\r\nthree two\r\n--i--\r\n\r\n\
        --o\r\nContent-Type: multipart/mixed; boundary=f\r\n\r\n\
        --f\r\n\r\nfour one\r\n\
        --f\r\nContent-Type: message/rfc822\r\n\r\nSubject: deep\r\n\r\nfour two\r\n--f--\r\n\
        --o--\r\nepilogue\r\n";
    const PLAIN: &str = "Subject: plain\r\n\r\nbody\r\n";
    const FORWARD: &str = "Content-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\nbody of in\r\n";

    const UNDELIMITED: &str = "Content-Type: multipart/mixed; boundary=b\r\n\r\nnothing\r\n";

    const CASES: &[(&str, &[u32], SectionText, Option<&str>)] = &[
        (UNDELIMITED, &[1], Full, Some("nothing\r\n")),
        (UNDELIMITED, &[1, 1], Full, None),
        (UNDELIMITED, &[2], Full, None),
        (PLAIN, &[], Full, Some(PLAIN)),
        (PLAIN, &[], Header, Some("Subject: plain\r\n\r\n")),
        (PLAIN, &[], Text, Some("body\r\n")),
        (PLAIN, &[], Mime, None),
        (PLAIN, &[1], Full, Some("body\r\n")),
        (PLAIN, &[1], Mime, Some("Subject: plain\r\n\r\n")),
        (PLAIN, &[1], Header, None),
        (PLAIN, &[1, 1], Full, None),
        (PLAIN, &[2], Full, None),
        (PLAIN, &[0], Full, None),
        (FORWARD, &[1], Full, Some("Subject: in\r\n\r\nbody of in\r\n")),
        (FORWARD, &[1], Header, Some("Subject: in\r\n\r\n")),
        (FORWARD, &[1], Text, Some("body of in\r\n")),
        (FORWARD, &[1, 1], Full, Some("body of in\r\n")),
        (FORWARD, &[1, 1], Mime, Some("Subject: in\r\n\r\n")),
        (NESTED, &[1], Full, Some("one")),
        (NESTED, &[1], Mime, Some("X: 1\r\n\r\n")),
        (NESTED, &[1], Text, None),
        (NESTED, &[2], Full, Some("")),
        (NESTED, &[2], Mime, Some("Content-Type: image/gif\r\n\r\n")),
        (NESTED, &[3], Mime, Some("Content-Type: message/rfc822\r\n\r\n")),
        (
            NESTED,
            &[3],
            Header,
            Some("Subject: inner\r\nContent-Type: multipart/mixed; boundary=i\r\n\r\n"),
        ),
        (
            NESTED,
            &[3],
            Text,
            Some("--i\r\nX: 3.1\r\n\r\nthree one\r\n--i\r\n\r\nthree two\r\n--i--\r\n"),
        ),
        (NESTED, &[3, 1], Full, Some("three one")),
        (NESTED, &[3, 1], Mime, Some("X: 3.1\r\n\r\n")),
        (NESTED, &[3, 2], Full, Some("three two")),
        (NESTED, &[3, 3], Full, None),
        (NESTED, &[4, 1], Full, Some("four one")),
        (NESTED, &[4, 2], Header, Some("Subject: deep\r\n\r\n")),
        (NESTED, &[4, 2], Text, Some("four two")),
        (NESTED, &[4, 2, 1], Full, Some("four two")),
        (NESTED, &[4, 2, 1, 1], Full, None),
        (NESTED, &[4], Header, None),
        (NESTED, &[5], Full, None),
        (NESTED, &[u32::MAX], Full, None),
    ];

    #[test]
    fn sections() {
        for &(message, path, what, expected) in CASES {
            let mut summarizer = Summarizer::new();
            summarizer.push(message.as_bytes());
            let summary = summarizer.finish();
            let range = summary.section(path, what);
            let got = range.map(|range| &message[range.start as usize..range.end as usize]);
            assert_eq!(got, expected, "{path:?} {what:?}");
        }
    }
}
