//! ENVELOPE, BODY and BODYSTRUCTURE (RFC 3501 7.4.2) from the summary kept beside a message.
//!
//! Recursion follows the summary's parts, whose depth `mime` limits.

use super::{
    fetch_response::FetchResponse,
    write::{push_nstring, push_number, push_string},
};
use crate::protocol::mime::{Address, Envelope, Part, PartKind, PartTexts, Summary};

/// Parts that [`WrittenParts`] remembers.
const REMEMBERED_PARTS_MAX: usize = 32;
/// Octets of the texts of a part that is remembered.
const REMEMBERED_TEXTS_MAX: usize = 256;

/// How leaf parts were written in the answer to one FETCH. Most parts of a mailbox's messages have
/// the texts of another one (`text/plain` in the same charset and encoding), so that only the
/// numbers have to be written anew.
#[derive(Default)]
pub struct WrittenParts {
    /// Each at the upper bits of the hash of its texts; empty until one is written.
    parts: Vec<WrittenPart>,
}

/// A leaf part as it was written: what is before its size, and what follows the numbers.
#[derive(Default)]
struct WrittenPart {
    texts: PartTexts,
    extended: bool,
    has_lines: bool,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl FetchResponse {
    pub fn envelope(&mut self, out: &mut Vec<u8>, envelope: &Envelope<'_>) {
        self.label(out, "ENVELOPE ");
        write_envelope(out, envelope);
    }

    /// `BODY`: without extension data.
    pub fn body(&mut self, out: &mut Vec<u8>, summary: &Summary, written: &mut WrittenParts) {
        self.label(out, "BODY ");
        write_part(out, summary.root(), false, written);
    }

    pub fn body_structure(
        &mut self,
        out: &mut Vec<u8>,
        summary: &Summary,
        written: &mut WrittenParts,
    ) {
        self.label(out, "BODYSTRUCTURE ");
        write_part(out, summary.root(), true, written);
    }
}

fn write_envelope(out: &mut Vec<u8>, envelope: &Envelope<'_>) {
    out.push(b'(');
    push_nstring(out, envelope.date);
    out.push(b' ');
    push_nstring(out, envelope.subject);
    out.push(b' ');
    let from = out.len();
    write_addresses(out, &envelope.from);
    let from = from..out.len();
    for addresses in [&envelope.sender, &envelope.reply_to] {
        out.push(b' ');
        match addresses {
            Some(addresses) => write_addresses(out, addresses),
            None => out.extend_from_within(from.clone()),
        }
    }
    for addresses in [&envelope.to, &envelope.cc, &envelope.bcc] {
        out.push(b' ');
        write_addresses(out, addresses);
    }
    out.push(b' ');
    push_nstring(out, envelope.in_reply_to);
    out.push(b' ');
    push_nstring(out, envelope.message_id);
    out.push(b')');
}

fn write_addresses(out: &mut Vec<u8>, addresses: &[Address<'_>]) {
    if addresses.is_empty() {
        return out.extend_from_slice(b"NIL");
    }
    out.push(b'(');
    for address in addresses {
        for (index, text) in
            [&address.name, &address.route, &address.mailbox, &address.host].into_iter().enumerate()
        {
            out.push(if index == 0 { b'(' } else { b' ' });
            push_nstring(out, text.as_deref());
        }
        out.push(b')');
    }
    out.push(b')');
}

/// What a part is without its transfer encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodedPart {
    pub size: u64,
    pub lines: u64,
    pub has_nul: bool,
    pub is_ascii: bool,
}

impl DecodedPart {
    /// The identity encoding that it has now (RFC 2045 6.2).
    fn encoding(self) -> &'static [u8] {
        match self {
            DecodedPart { has_nul: true, .. } => b"binary",
            DecodedPart { is_ascii: true, .. } => b"7bit",
            DecodedPart { .. } => b"8bit",
        }
    }
}

/// One part, as BODYSTRUCTURE describes it (RFC 5524 3.2).
pub(super) fn write_body_part(out: &mut Vec<u8>, part: Part<'_>, decoded: Option<DecodedPart>) {
    let Some(decoded) = decoded.filter(|_| part.kind() == PartKind::Leaf) else {
        return write_part(out, part, true, &mut WrittenParts::default());
    };
    write_start_as(out, part, decoded.encoding());
    push_number(out, decoded.size);
    if part.media_type().eq_ignore_ascii_case(b"text") {
        out.push(b' ');
        push_number(out, decoded.lines);
    }
    write_md5(out, part, true);
    write_end(out, part, true);
}

/// RFC 3501 9 `body`; `extended` adds the extension data.
fn write_part(out: &mut Vec<u8>, part: Part<'_>, extended: bool, written: &mut WrittenParts) {
    match part.kind() {
        PartKind::Leaf => return write_leaf(out, part, extended, written),
        PartKind::Multipart => write_multipart(out, part, extended, written),
        PartKind::Message => write_message(out, part, extended, written),
    }
    write_end(out, part, extended);
}

/// The extension data that all parts have, and the closing parenthesis.
fn write_end(out: &mut Vec<u8>, part: Part<'_>, extended: bool) {
    let has_language = part.languages().next().is_some();
    if extended && part.disposition().is_none() && !has_language && part.location().is_none() {
        // As most parts.
        out.extend_from_slice(b" NIL NIL NIL");
    } else if extended {
        out.push(b' ');
        write_disposition(out, part);
        out.push(b' ');
        write_languages(out, part);
        out.push(b' ');
        push_nstring(out, part.location());
    }
    out.push(b')');
}

fn write_multipart(out: &mut Vec<u8>, part: Part<'_>, extended: bool, written: &mut WrittenParts) {
    out.push(b'(');
    let start = out.len();
    for child in part.children() {
        write_part(out, child, extended, written);
    }
    if out.len() == start {
        // The syntax has no multipart without parts: it is sent as a text part.
        out.extend_from_slice(b"(\"TEXT\" \"PLAIN\" NIL NIL NIL \"7BIT\" ");
        push_number(out, part.size());
        out.push(b' ');
        push_number(out, part.lines());
        out.extend_from_slice(if extended { b" NIL NIL NIL NIL)" } else { b")" });
    }
    out.push(b' ');
    push_string(out, part.media_subtype());
    if extended {
        out.push(b' ');
        write_parameters(out, part.parameters());
    }
}

fn write_message(out: &mut Vec<u8>, part: Part<'_>, extended: bool, written: &mut WrittenParts) {
    write_start(out, part);
    push_number(out, part.size());
    if let Some((root, envelope)) = part.message().zip(part.envelope()) {
        out.push(b' ');
        write_envelope(out, &envelope);
        out.push(b' ');
        write_part(out, root, extended, written);
    }
    out.push(b' ');
    push_number(out, part.lines());
    write_md5(out, part, extended);
}

fn write_leaf(out: &mut Vec<u8>, part: Part<'_>, extended: bool, written: &mut WrittenParts) {
    let slot = part.texts_hash() >> (u32::BITS - REMEMBERED_PARTS_MAX.ilog2());
    written.parts.resize_with(REMEMBERED_PARTS_MAX, WrittenPart::default);
    let before = &mut written.parts[slot as usize];
    let is_same =
        before.extended == extended && !before.before.is_empty() && part.has_texts(&before.texts);
    if is_same {
        out.extend_from_slice(&before.before);
    } else {
        let start = out.len();
        write_start(out, part);
        before.before.clear();
        before.has_lines = part.media_type().eq_ignore_ascii_case(b"text");
        if part.texts_size() <= REMEMBERED_TEXTS_MAX {
            part.copy_texts(&mut before.texts);
            before.extended = extended;
            before.before.extend_from_slice(&out[start..]);
        }
    }
    push_number(out, part.size());
    if before.has_lines {
        out.push(b' ');
        push_number(out, part.lines());
    }
    if is_same {
        return out.extend_from_slice(&before.after);
    }
    let start = out.len();
    write_md5(out, part, extended);
    write_end(out, part, extended);
    before.after.clear();
    if !before.before.is_empty() {
        before.after.extend_from_slice(&out[start..]);
    }
}

/// A part that is no multipart, up to its size.
fn write_start(out: &mut Vec<u8>, part: Part<'_>) {
    write_start_as(out, part, part.encoding());
}

fn write_start_as(out: &mut Vec<u8>, part: Part<'_>, encoding: &[u8]) {
    out.push(b'(');
    push_string(out, part.media_type());
    out.push(b' ');
    push_string(out, part.media_subtype());
    out.push(b' ');
    write_parameters(out, part.parameters());
    for text in [part.id(), part.description()] {
        out.push(b' ');
        push_nstring(out, text);
    }
    out.push(b' ');
    push_string(out, encoding);
    out.push(b' ');
}

fn write_md5(out: &mut Vec<u8>, part: Part<'_>, extended: bool) {
    if extended {
        out.push(b' ');
        push_nstring(out, part.md5());
    }
}

/// `(name value …)` or NIL.
fn write_parameters<'a>(out: &mut Vec<u8>, parameters: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
    let mut before = b'(';
    for (name, value) in parameters {
        for text in [name, value] {
            out.push(before);
            push_string(out, text);
            before = b' ';
        }
    }
    out.extend_from_slice(if before == b'(' { b"NIL" } else { b")" });
}

fn write_disposition(out: &mut Vec<u8>, part: Part<'_>) {
    let Some(disposition) = part.disposition() else {
        return out.extend_from_slice(b"NIL");
    };
    out.push(b'(');
    push_string(out, disposition);
    out.push(b' ');
    write_parameters(out, part.disposition_parameters());
    out.push(b')');
}

/// One tag is a string, several are a list (RFC 3501 9 `body-fld-lang`).
fn write_languages(out: &mut Vec<u8>, part: Part<'_>) {
    let languages: Vec<&[u8]> = part.languages().collect();
    match languages[..] {
        [] => out.extend_from_slice(b"NIL"),
        [language] => push_string(out, language),
        _ => {
            for (index, language) in languages.iter().enumerate() {
                out.push(if index == 0 { b'(' } else { b' ' });
                push_string(out, language);
            }
            out.push(b')');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mime::{Summarizer, card, split_card};

    fn summary(message: &str) -> Summary {
        let mut summarizer = Summarizer::new();
        summarizer.push(message.as_bytes());
        summarizer.finish()
    }

    type Write = fn(&mut FetchResponse, &mut Vec<u8>, &Summary, &mut WrittenParts);

    fn write_envelope_of(
        response: &mut FetchResponse,
        out: &mut Vec<u8>,
        summary: &Summary,
        _: &mut WrittenParts,
    ) {
        response.envelope(out, &summary.envelope());
    }

    #[track_caller]
    fn check(message: &str, expected: &str, write: Write) {
        let mut out = Vec::new();
        let mut response = FetchResponse::begin(&mut out, 1);
        write(&mut response, &mut out, &summary(message), &mut WrittenParts::default());
        response.end(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), format!("* 1 FETCH ({expected})\r\n"));
    }

    #[test]
    fn envelopes() {
        check(
            "Date: Wed, 17 Jul 1996 02:23:25 -0700\r\nSubject: say \"hi\"\r\n\
             From: Terry Gray <gray@cac.test>\r\nTo: imap@cac.test, b@c.test\r\n\
             Message-ID: <B27397@cac.test>\r\n\r\nx\r\n",
            "ENVELOPE (\"Wed, 17 Jul 1996 02:23:25 -0700\" \"say \\\"hi\\\"\" \
             ((\"Terry Gray\" NIL \"gray\" \"cac.test\")) \
             ((\"Terry Gray\" NIL \"gray\" \"cac.test\")) \
             ((\"Terry Gray\" NIL \"gray\" \"cac.test\")) \
             ((NIL NIL \"imap\" \"cac.test\")(NIL NIL \"b\" \"c.test\")) \
             NIL NIL NIL \"<B27397@cac.test>\")",
            write_envelope_of,
        );
        check("\r\nx\r\n", "ENVELOPE (NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)", write_envelope_of);
    }

    #[test]
    fn sender_and_reply_to_are_from_unless_given() {
        check(
            "From: a@b.test\r\nSender: c@d.test\r\nReply-To: ,\r\n\r\nx\r\n",
            "ENVELOPE (NIL NIL ((NIL NIL \"a\" \"b.test\")) ((NIL NIL \"c\" \"d.test\")) \
             ((NIL NIL \"a\" \"b.test\")) NIL NIL NIL NIL NIL)",
            write_envelope_of,
        );
    }

    /// A card's structure is written like the summary's.
    #[test]
    fn cards_are_told_as_summaries() {
        let headed = format!("Subject: x\r\nFrom: a@b.test\r\n{NESTED}");
        for message in [NESTED, &headed, "Content-Language: de\r\n\r\nx", ""] {
            let summary = summary(message);
            let mut parts = Default::default();
            split_card(&summary.encode(), &mut parts);
            let structure = Summary::decode(&parts[card::STRUCTURE]).unwrap();
            let forms: [Write; 2] = [FetchResponse::body, FetchResponse::body_structure];
            for write in forms {
                let tell = |summary| {
                    let mut out = Vec::new();
                    let mut response = FetchResponse::begin(&mut out, 1);
                    write(&mut response, &mut out, summary, &mut WrittenParts::default());
                    out
                };
                assert_eq!(tell(&structure), tell(&summary), "{message}");
            }
        }
    }

    /// Parts whose texts differ in little.
    const LEAVES: &[&str] = &[
        "\r\none\r\n",
        "Subject: x\r\n\r\none\r\n",
        "Content-Type: text/plain\r\n\r\none\r\n",
        "Content-Type: text/plain; charset=utf-8\r\n\r\none\r\n",
        "Content-Type: text/plain; charset=utf-7\r\n\r\none\r\n",
        "Content-Type: text/htm\r\nContent-Transfer-Encoding: l\r\n\r\none\r\n",
        "Content-Type: text/html\r\nContent-ID: l\r\n\r\none\r\n",
        "Content-Type: text/html\r\nContent-MD5: l\r\n\r\none\r\n",
        "Content-Type: text/html\r\nContent-Location: l\r\n\r\none\r\n",
        "Content-Type: text/html\r\nContent-Language: l\r\n\r\none\r\n",
        "Content-Type: texth/tml\r\nContent-ID: l\r\n\r\none\r\n",
        "Content-Type: a/bc\r\n\r\none\r\n",
        "Content-Type: ab/c\r\n\r\none\r\n",
    ];

    #[test]
    fn parts_with_the_same_texts_are_written_alike() {
        let mut found = Vec::new();
        for leaf in LEAVES {
            let summary = summary(leaf);
            let mut texts = PartTexts::default();
            summary.root().copy_texts(&mut texts);
            let mut out = Vec::new();
            write_part(&mut out, summary.root(), true, &mut WrittenParts::default());
            found.push((summary, texts, out));
        }
        for (this, (part, own, out)) in found.iter().enumerate() {
            assert!(part.root().has_texts(own));
            for (other, (_, texts, other_out)) in found.iter().enumerate() {
                let has = part.root().has_texts(texts);
                assert!(!has || out == other_out, "{:?} and {:?}", LEAVES[this], LEAVES[other]);
                // A field of the envelope is no text of the part.
                assert_eq!(has, this == other || this.max(other) == 1);
            }
        }
    }

    /// Messages whose parts differ in little: each is written the same after any other.
    #[test]
    fn remembered_parts_do_not_change_what_is_written() {
        let long = |octet: &str| format!("Content-ID: {}\r\n\r\n", octet.repeat(400));
        let others = ["\r\none\r\ntwo".to_owned(), long("x"), long("y")];
        let leaves = LEAVES.iter().map(|leaf| (*leaf).to_owned()).chain(others);
        let inner =
            |leaf: &str| format!("Content-Type: message/rfc822\r\n\r\nSubject: in\r\n{leaf}");
        let multipart = |leaf: &str| {
            let head = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n";
            format!("{head}{leaf}\r\n--b\r\n{}\r\n--b--", inner(leaf))
        };
        let messages: Vec<String> =
            leaves.flat_map(|leaf| [inner(&leaf), multipart(&leaf), leaf]).collect();
        let forms: [Write; 2] = [FetchResponse::body, FetchResponse::body_structure];
        let tell = |message: &str, write: Write, written: &mut WrittenParts| {
            let mut out = Vec::new();
            let mut response = FetchResponse::begin(&mut out, 1);
            write(&mut response, &mut out, &summary(message), written);
            out
        };
        for before in &messages {
            for message in &messages {
                for (first, second) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let mut written = WrittenParts::default();
                    tell(before, forms[first], &mut written);
                    let again = tell(message, forms[second], &mut written);
                    let alone = tell(message, forms[second], &mut WrittenParts::default());
                    assert_eq!(again, alone, "{message:?} after {before:?}");
                    let size: usize = written.parts.iter().map(|it| it.before.len()).sum();
                    assert!(size <= 4 * REMEMBERED_TEXTS_MAX, "{size} octets kept");
                }
            }
        }
    }

    #[test]
    fn bodies() {
        check(
            "Subject: x\r\n\r\none\r\ntwo\r\n",
            "BODY (\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 10 2)",
            FetchResponse::body,
        );
        check(
            "Content-Type: TEXT/HTML; charset=utf-8\r\nContent-Disposition: inline\r\n\
             Content-Language: de, en\r\nContent-Location: http://x/\r\n\r\none\r\n",
            "BODYSTRUCTURE (\"TEXT\" \"HTML\" (\"charset\" \"utf-8\") NIL NIL \"7bit\" 5 1 NIL \
             (\"inline\" NIL) (\"de\" \"en\") \"http://x/\")",
            FetchResponse::body_structure,
        );
    }

    const NESTED: &str = "Content-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\n\r\nhello\r\n\
        --b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nx\r\n\r\n\
        --b\r\nContent-Type: image/png; name=p.png\r\nContent-ID: <1@x>\r\n\
        Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=p.png\r\n\
        \r\nAAAA\r\n--b--\r\n";

    #[test]
    fn nested() {
        check(
            NESTED,
            "BODY ((\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 5 0)\
             (\"message\" \"rfc822\" NIL NIL NIL \"7bit\" 21 \
             (NIL \"inner\" NIL NIL NIL NIL NIL NIL NIL NIL) \
             (\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 3 1) 3)\
             (\"image\" \"png\" (\"name\" \"p.png\") \"<1@x>\" NIL \"base64\" 4) \"mixed\")",
            FetchResponse::body,
        );
        check(
            NESTED,
            "BODYSTRUCTURE ((\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 5 0 \
             NIL NIL NIL NIL)\
             (\"message\" \"rfc822\" NIL NIL NIL \"7bit\" 21 \
             (NIL \"inner\" NIL NIL NIL NIL NIL NIL NIL NIL) \
             (\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 3 1 NIL NIL NIL NIL) \
             3 NIL NIL NIL NIL)\
             (\"image\" \"png\" (\"name\" \"p.png\") \"<1@x>\" NIL \"base64\" 4 NIL \
             (\"attachment\" (\"filename\" \"p.png\")) NIL NIL) \
             \"mixed\" (\"boundary\" \"b\") NIL NIL NIL)",
            FetchResponse::body_structure,
        );
    }

    #[test]
    fn a_multipart_without_parts_is_told_with_its_text() {
        check(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\nnothing\r\n",
            "BODY ((\"TEXT\" \"PLAIN\" NIL NIL NIL \"7BIT\" 9 1) \"mixed\")",
            FetchResponse::body,
        );
    }
}
