//! ENVELOPE, BODY and BODYSTRUCTURE (RFC 3501 7.4.2) from the summary kept beside a message.
//!
//! Recursion follows the summary's parts, whose depth `mime` limits.

use super::{
    fetch_response::FetchResponse,
    write::{push_nstring, push_number, push_string},
};
use crate::protocol::mime::{Address, Envelope, Part, PartKind, Summary};

impl FetchResponse {
    pub fn envelope(&mut self, out: &mut Vec<u8>, envelope: &Envelope<'_>) {
        self.label(out, "ENVELOPE ");
        write_envelope(out, envelope);
    }

    /// `BODY`: without extension data.
    pub fn body(&mut self, out: &mut Vec<u8>, summary: &Summary) {
        self.label(out, "BODY ");
        write_part(out, summary.root(), false);
    }

    pub fn body_structure(&mut self, out: &mut Vec<u8>, summary: &Summary) {
        self.label(out, "BODYSTRUCTURE ");
        write_part(out, summary.root(), true);
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

/// RFC 3501 9 `body`; `extended` adds the extension data.
fn write_part(out: &mut Vec<u8>, part: Part<'_>, extended: bool) {
    out.push(b'(');
    if part.kind() == PartKind::Multipart {
        write_multipart(out, part, extended);
    } else {
        write_single(out, part, extended);
    }
    if extended {
        out.push(b' ');
        write_disposition(out, part);
        out.push(b' ');
        write_languages(out, part);
        out.push(b' ');
        push_nstring(out, part.location());
    }
    out.push(b')');
}

fn write_multipart(out: &mut Vec<u8>, part: Part<'_>, extended: bool) {
    let start = out.len();
    for child in part.children() {
        write_part(out, child, extended);
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

fn write_single(out: &mut Vec<u8>, part: Part<'_>, extended: bool) {
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
    push_string(out, part.encoding());
    out.push(b' ');
    push_number(out, part.size());
    let message = part.message().zip(part.envelope());
    if let Some((root, envelope)) = &message {
        out.push(b' ');
        write_envelope(out, envelope);
        out.push(b' ');
        write_part(out, *root, extended);
    }
    if message.is_some() || part.media_type().eq_ignore_ascii_case(b"text") {
        out.push(b' ');
        push_number(out, part.lines());
    }
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

    fn write_envelope_of(response: &mut FetchResponse, out: &mut Vec<u8>, summary: &Summary) {
        response.envelope(out, &summary.envelope());
    }

    #[track_caller]
    fn check(message: &str, expected: &str, write: fn(&mut FetchResponse, &mut Vec<u8>, &Summary)) {
        let mut out = Vec::new();
        let mut response = FetchResponse::begin(&mut out, 1);
        write(&mut response, &mut out, &summary(message));
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
            for write in [FetchResponse::body, FetchResponse::body_structure] {
                let tell = |summary| {
                    let mut out = Vec::new();
                    let mut response = FetchResponse::begin(&mut out, 1);
                    write(&mut response, &mut out, summary);
                    out
                };
                assert_eq!(tell(&structure), tell(&summary), "{message}");
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
