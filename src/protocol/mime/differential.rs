//! Compares with `mail-parser`, an independent implementation of the same RFCs, on well-formed
//! messages.
//!
//! Only values that both define in the same way are compared; malformed messages are treated
//! differently.

use mail_parser::{MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;

use super::{Part, PartKind, Summarizer, Summary, date, encoded_word};

fn summarize(message: &[u8]) -> Summary {
    let mut summarizer = Summarizer::new();
    message.chunks(7).for_each(|chunk| summarizer.push(chunk));
    summarizer.finish()
}

fn compare(ours: Part<'_>, message: &mail_parser::Message<'_>, index: u32) {
    let theirs = &message.parts[index as usize];
    let range = |start: u32, end: u32| u64::from(start)..u64::from(end);
    assert_eq!(ours.header(), range(theirs.offset_header, theirs.offset_body));
    if let Some(content_type) = theirs.content_type() {
        let subtype = content_type.c_subtype.as_deref().unwrap_or_default();
        assert_eq!(ours.media_type(), content_type.c_type.as_bytes());
        assert_eq!(ours.media_subtype(), subtype.as_bytes());
        for attribute in content_type.attributes.iter().flatten() {
            let wanted = (attribute.name.as_bytes(), attribute.value.as_bytes());
            assert!(ours.parameters().any(|ours| ours == wanted), "{attribute:?}");
        }
    }
    match &theirs.body {
        PartType::Multipart(children) => {
            assert_eq!(ours.kind(), PartKind::Multipart);
            assert_eq!(ours.children().count(), children.len());
            ours.children().zip(children).for_each(|(part, index)| compare(part, message, *index));
        }
        PartType::Message(inner) => {
            let root = ours.message().expect("a message inside");
            compare(root, inner, 0);
        }
        _ => {
            assert_eq!(ours.kind(), PartKind::Leaf);
            assert_eq!(ours.body(), range(theirs.offset_body, theirs.offset_end));
        }
    }
}

/// A part with its header, and a boundary that no other part of the message has.
fn part(depth: u32) -> BoxedStrategy<String> {
    let leaf = (
        prop::sample::select(vec![
            "Content-Type: text/plain; charset=us-ascii\r\n",
            "Content-Type: text/html;\r\n charset=\"utf-8\"\r\nContent-ID: <a@b>\r\n",
            "Content-Type: application/pdf; name=\"a b.pdf\"\r\n",
        ]),
        "([a-z-]{0,12}\r\n){0,4}[a-z]{1,4}",
    )
        .prop_map(|(header, body)| format!("{header}\r\n{body}"));
    if depth == 0 {
        return leaf.boxed();
    }
    let multipart = prop::collection::vec(part(depth - 1), 1..4).prop_map(move |parts| {
        let boundary = format!("=_{depth}_{}", parts.iter().map(String::len).sum::<usize>());
        let parts: Vec<String> =
            parts.iter().map(|part| format!("\r\n--{boundary}\r\n{part}")).collect();
        format!(
            "Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\n\
             preamble{}\r\n\
             --{boundary}--",
            parts.concat()
        )
    });
    // A message directly inside a message makes mail-parser 0.11 panic.
    let inner = part(depth - 1)
        .prop_filter("message in message", |inner| !inner.starts_with("Content-Type: message"));
    let message = inner.prop_map(|inner| {
        format!(
            "Content-Type: message/rfc822\r\n\r\nSubject: inner\r\nMIME-Version: 1.0\r\n{inner}"
        )
    });
    prop_oneof![2 => leaf, 3 => multipart, 1 => message].boxed()
}

proptest! {
    #[test]
    fn trees(part in part(4)) {
        let message = format!("From: a@b\r\nSubject: outer\r\nMIME-Version: 1.0\r\n{part}\r\n");
        let theirs = MessageParser::new().parse(message.as_bytes()).expect("a message");
        compare(summarize(message.as_bytes()).root(), &theirs, 0);
    }

    #[test]
    fn subjects(words in prop::collection::vec(
        prop::sample::select(vec![
            "=?utf-8?q?J=C3=B6rg?=", "=?utf-8?b?SsO2cmc=?=", "=?utf-8?q?a_b?=", "plain", "\r\n x",
        ]),
        1..6,
    )) {
        let words = words.join(" ");
        let message = format!("Subject: x{words}\r\n\r\n");
        let theirs = MessageParser::new().parse(message.as_bytes()).expect("a message");
        let squeeze = |text: &str| text.split_whitespace().collect::<String>();
        let ours = encoded_word::decode_value(format!("x{words}").as_bytes()).text;
        prop_assert_eq!(squeeze(&ours), squeeze(theirs.subject().unwrap_or_default()));
    }

    #[test]
    fn addresses(list in prop::collection::vec(
        prop::sample::select(vec![
            "a@b.c", "John Doe <john.doe@example.org>", "\"Doe, J.\" <j@x.y>", "<bare@x.y>",
            "\"qu\\\"oted\" <q@x.y>", "(note) c@d.e", "J. R. Bob <b@x.y>",
        ]),
        1..6,
    )) {
        let message = format!("To: {}\r\n\r\n", list.join(", "));
        let theirs = MessageParser::new().parse(message.as_bytes()).expect("a message");
        let theirs: Vec<(String, String)> = theirs
            .to()
            .into_iter()
            .flat_map(|to| to.clone().into_list())
            .map(|to| {
                let name = to.name.unwrap_or_default().into_owned();
                (name, to.address.unwrap_or_default().into_owned())
            })
            .collect();
        let summary = summarize(message.as_bytes());
        let text = |bytes: &Option<std::borrow::Cow<'_, [u8]>>| {
            String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned()
        };
        let ours: Vec<(String, String)> = summary
            .envelope()
            .to
            .iter()
            .map(|to| (text(&to.name), format!("{}@{}", text(&to.mailbox), text(&to.host))))
            .collect();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn dates(
        day in 1u32..29, month in 0usize..12, year in 1970u32..2100, hour in 0u32..24,
        minute in 0u32..60,
        zone in prop::sample::select(vec!["+0000", "-0500", "+0530", "GMT", "EST"]),
    ) {
        let month = date::MONTHS[month];
        let value = format!("{day} {month} {year} {hour:02}:{minute:02}:07 {zone}");
        let theirs = mail_parser::DateTime::parse_rfc822(&value).expect("a date");
        let ours = date::parse(value.as_bytes()).expect("a date");
        prop_assert_eq!(ours.timestamp().unix_seconds(), theirs.to_timestamp());
    }
}
