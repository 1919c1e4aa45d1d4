//! Reports are read back by another implementation, and hostile values stay inside their fields.

use mail_parser::{Message, MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;

use super::*;

const ARRIVAL: Timestamp = Timestamp(1_795_469_789_000_000);
const NOW: Timestamp = Timestamp(1_795_469_989_000_000);

fn failed<'a>(to: &'a str, status: &'a str, reply: &'a str) -> RecipientReport<'a> {
    RecipientReport {
        final_recipient: to,
        original_recipient: None,
        action: Action::Failed,
        status,
        diagnostic: Some(Diagnostic::Reply(reply)),
        remote_mta: Some("mx.there.test"),
        last_attempt: Some(NOW),
        retry_until: None,
    }
}

fn report<'a>(recipients: &'a [RecipientReport<'a>]) -> Report<'a> {
    Report {
        hostname: "mail.here.test",
        to: "alice@here.test",
        id: "4f.1-x",
        now: NOW,
        arrival: ARRIVAL,
        envelope_id: None,
        original_message_id: None,
        recipients,
        returned: Returned::Message,
        returned_body: BodyKind::SevenBit,
        returned_utf8: false,
        utf8: false,
    }
}

fn written(report: &Report<'_>, original: &str) -> String {
    let mut out = Vec::new();
    report.append_head(&mut out);
    out.extend_from_slice(original.as_bytes());
    report.append_tail(&mut out);
    String::from_utf8(out).expect("UTF-8")
}

/// The lines of the machine-readable part, unfolded.
fn status_fields(text: &str) -> Vec<String> {
    let begin = text.find("delivery-status\r\n").expect("a status part");
    let text = &text[begin..];
    let body = &text[text.find("\r\n\r\n").expect("its body") + 4..];
    let end = body.find("\r\n--=_").expect("its end");
    body[..end].trim_end().replace("\r\n ", " ").split("\r\n").map(str::to_owned).collect()
}

/// The text for people, its lines joined.
fn prose(message: &Message<'_>) -> String {
    message.body_text(0).expect("text").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_advice_blames_nobody_else() {
    let found = Some(Diagnostic::Finding("the reason"));
    for (status, diagnostic, expected) in [
        ("5.7.1", found, "That was decided on this side"),
        ("5.7.1", Some(Diagnostic::Reply("550 5.7.1 No")), "The other side refused"),
        ("5.4.4", found, "The DNS names no server"),
        ("5.4.7", found, "All attempts have failed"),
    ] {
        let recipients = [RecipientReport { diagnostic, ..failed("b@there.test", status, "") }];
        let text = written(&report(&recipients), "Subject: hello\r\n\r\nHi.\r\n");
        let human = prose(&MessageParser::default().parse(text.as_bytes()).expect("a message"));
        assert!(human.contains(expected), "{status}: {human}");
    }
}

#[test]
fn a_failure_as_it_is_read_elsewhere() {
    let recipients = [
        RecipientReport {
            original_recipient: Some("rfc822;bob+2Blist@there.test"),
            ..failed("bob@there.test", "5.1.1", "550 5.1.1 No such user here\n550 Really")
        },
        RecipientReport {
            action: Action::Delayed,
            diagnostic: Some(Diagnostic::Finding("connection timed out")),
            remote_mta: None,
            retry_until: Some(NOW),
            ..failed("carol@there.test", "4.4.1", "")
        },
    ];
    let report = Report {
        envelope_id: Some("QQ314159+3D1"),
        original_message_id: Some("<1@here.test>"),
        ..report(&recipients)
    };
    let text = written(&report, "Subject: hello\r\n\r\nHi.\r\n");
    assert_eq!(
        status_fields(&text),
        [
            "Original-Envelope-Id: QQ314159=1",
            "Reporting-MTA: dns; mail.here.test",
            "Arrival-Date: Mon, 23 Nov 2026 21:36:29 +0000",
            "",
            "Original-Recipient: rfc822; bob+list@there.test",
            "Final-Recipient: rfc822; bob@there.test",
            "Action: failed",
            "Status: 5.1.1",
            "Remote-MTA: dns; mx.there.test",
            "Diagnostic-Code: smtp; 550 5.1.1 No such user here 550 Really",
            "Last-Attempt-Date: Mon, 23 Nov 2026 21:39:49 +0000",
            "",
            "Final-Recipient: rfc822; carol@there.test",
            "Action: delayed",
            "Status: 4.4.1",
            "Diagnostic-Code: X-Ringmail; connection timed out",
            "Last-Attempt-Date: Mon, 23 Nov 2026 21:39:49 +0000",
            "Will-Retry-Until: Mon, 23 Nov 2026 21:39:49 +0000",
        ]
    );
    let message = MessageParser::default().parse(text.as_bytes()).expect("a message");
    assert_eq!(message.subject(), Some("Your message could not be delivered"));
    let from = message.from().and_then(|from| from.first()).and_then(|from| from.address());
    assert_eq!(from, Some("MAILER-DAEMON@mail.here.test"));
    let to = message.to().and_then(|to| to.first()).and_then(|to| to.address());
    assert_eq!(to, Some("alice@here.test"));
    assert_eq!(message.header_raw("Auto-Submitted").map(str::trim), Some("auto-replied"));
    assert_eq!(message.in_reply_to().as_text(), Some("1@here.test"));
    let content_type = message.content_type().expect("a type");
    assert_eq!(content_type.attribute("report-type"), Some("delivery-status"));
    assert_eq!((content_type.ctype(), content_type.subtype()), ("multipart", Some("report")));
    // The multipart, the text, the status, the original.
    assert_eq!(message.parts.len(), 4);
    let human = prose(&message);
    for expected in [
        "Below is what became of each.",
        "<bob@there.test>: not delivered. The mail server mx.there.test answered: \"550 5.1.1 No \
         such user here 550 Really\". The mailbox does not exist there.",
        "<carol@there.test>: not delivered yet. The reason: connection timed out.",
        "Attempts go on until Mon, 23 Nov 2026 21:39:49 +0000;",
    ] {
        assert!(human.contains(expected), "{human}");
    }
    let status = message.parts[2].content_type().expect("a type");
    assert_eq!((status.ctype(), status.subtype()), ("message", Some("delivery-status")));
    let PartType::Message(original) = &message.parts[3].body else { panic!("no original") };
    assert_eq!(original.subject(), Some("hello"));
    assert_eq!(original.body_text(0).as_deref(), Some("Hi.\r\n"));
}

#[test]
fn utf8_where_addresses_need_it() {
    let recipients = [RecipientReport {
        original_recipient: Some(r"utf-8;j\x{F6}rg@there.test"),
        ..failed("jörg@there.test", "5.1.1", "550 Gibt es nicht, jörg")
    }];
    let mut report = Report { utf8: true, returned_utf8: true, ..report(&recipients) };
    assert!(report.has_utf8_addresses());
    assert_eq!(report.body(), BodyKind::EightBitMime);
    let text = written(&report, "Subject: ö\r\n\r\n");
    let fields = status_fields(&text);
    assert!(text.contains("Content-Type: message/global-delivery-status\r\n"), "{text}");
    assert!(text.contains("Content-Type: message/global\r\n"), "{text}");
    assert!(fields.contains(&"Original-Recipient: utf-8; jörg@there.test".into()), "{fields:?}");
    assert!(fields.contains(&"Final-Recipient: utf-8; jörg@there.test".into()));
    assert!(fields.contains(&"Diagnostic-Code: smtp; 550 Gibt es nicht, jörg".into()));
    let message = MessageParser::default().parse(text.as_bytes()).expect("a message");
    assert!(prose(&message).contains("<jörg@there.test>: not delivered."));

    // Without UTF-8 on the way everything is ASCII, and what people read stays readable.
    (report.utf8, report.returned_utf8) = (false, false);
    let text = written(&report, "");
    assert!(text.is_ascii());
    let fields = status_fields(&text);
    assert!(fields.contains(&r"Original-Recipient: utf-8; j\x{F6}rg@there.test".into()));
    assert!(fields.contains(&r"Final-Recipient: utf-8; j\x{F6}rg@there.test".into()));
    let message = MessageParser::default().parse(text.as_bytes()).expect("a message");
    assert!(prose(&message).contains("Gibt es nicht, jörg"));
}

#[test]
fn what_is_returned() {
    let recipients = [failed("b@there.test", "5.2.2", "552 Full")];
    let cases = [
        (Returned::Message, BodyKind::SevenBit, "Content-Type: message/rfc822\r\n\r\n", 4),
        (
            Returned::Header,
            BodyKind::EightBitMime,
            "Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
            4,
        ),
        (
            Returned::Message,
            BodyKind::BinaryMime,
            "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: binary\r\n\r\n",
            4,
        ),
        (Returned::Nothing, BodyKind::BinaryMime, "Content-Type: message/delivery-status\r\n", 3),
    ];
    for (returned, returned_body, expected, parts) in cases {
        let report = Report { returned, returned_body, ..report(&recipients) };
        let text = written(&report, "");
        assert!(text.contains(expected), "{text}");
        let message = MessageParser::default().parse(text.as_bytes()).expect("a message");
        assert_eq!(message.parts.len(), parts, "{text}");
        let body = if returned == Returned::Nothing { BodyKind::SevenBit } else { returned_body };
        assert_eq!(report.body(), body);
    }
}

#[test]
fn subjects_and_status() {
    let of = |action, status| RecipientReport { action, ..failed("b@c.test", status, "x") };
    use Action::*;
    let cases = [
        (Failed, "5.1.1", "5.1.1", "Your message could not be delivered"),
        (Failed, "4.4.7", "4.4.7", "Your message could not be delivered"),
        (Failed, "", "5.0.0", "Your message could not be delivered"),
        (Failed, "5.1", "5.0.0", "Your message could not be delivered"),
        (Failed, "5.1.1.1", "5.0.0", "Your message could not be delivered"),
        (Failed, "5.1.1111", "5.0.0", "Your message could not be delivered"),
        (Delayed, "3.1.1", "4.0.0", "Your message is delayed"),
        (Delivered, "2.1.x", "2.0.0", "Your message was delivered"),
        (Relayed, "2.1.5", "2.1.5", "Your message was passed on"),
        (Expanded, "2.1.5", "2.1.5", "Your message was delivered"),
    ];
    for (action, given, expected, subject) in cases {
        let recipients = [of(action, given)];
        let text = written(&report(&recipients), "");
        assert!(text.contains(&format!("\r\nStatus: {expected}\r\n")), "{text}");
        assert!(text.contains(&format!("\r\nSubject: {subject}\r\n")), "{text}");
    }
}

#[test]
fn hostile_values_stay_in_their_fields() {
    const EVIL: &str = "x\r\nBcc: v@w\r\n\r\n--=_4f.1-x--\r\n\0\u{85}\u{202e}y";
    let recipients = [RecipientReport {
        final_recipient: EVIL,
        original_recipient: Some("rfc822;a+0D+0ABcc:+20v@w"),
        remote_mta: Some(EVIL),
        ..failed("", "5.0.0", EVIL)
    }];
    let report = Report {
        to: EVIL,
        id: EVIL,
        hostname: EVIL,
        envelope_id: Some("+0D+0A+0D+0AStatus:+202.0.0"),
        original_message_id: Some(EVIL),
        ..report(&recipients)
    };
    for utf8 in [false, true] {
        let text = written(&Report { utf8, ..report }, "Subject: z\r\n\r\n");
        for line in text.split("\r\n") {
            assert!(!line.contains(['\r', '\n', '\0', '\u{85}', '\u{202e}']), "{line:?}");
            assert!(!line.to_ascii_lowercase().starts_with("bcc"), "{text}");
            assert!(line != "Status: 2.0.0" && line.len() <= 998, "{text}");
        }
        let message = MessageParser::default().parse(text.as_bytes()).expect("a message");
        assert_eq!(message.parts.len(), 4, "{text}");
    }
}

#[test]
fn the_end_of_a_header() {
    const CASES: &[(&str, Option<usize>)] = &[
        ("", None),
        ("\r\n", Some(2)),
        ("\nx", Some(1)),
        ("A: b\r\n\r\nbody", Some(8)),
        ("A: b\n\nbody", Some(6)),
        ("A: b\r\n c\r\n\r\n\r\n", Some(12)),
        ("A: b\r\n\rc\r\n\r\n", Some(12)),
        ("A: b\r\n", None),
        ("A: b\r\n\r", None),
    ];
    for (text, expected) in CASES {
        for size in 1..=text.len().max(1) {
            let mut end = HeaderEnd::default();
            let mut before = 0;
            let mut found = None;
            for piece in text.as_bytes().chunks(size) {
                found = end.push(piece).map(|at| before + at);
                if found.is_some() {
                    break;
                }
                before += piece.len();
            }
            assert_eq!(found, *expected, "{text:?} by {size}");
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_a_report(
        text in "\\PC{0,40}|[ \\r\\n:a-z;<>@=+x{}\\\\]{0,200}|[a-z]{900,1100}",
        utf8: bool,
    ) {
        let recipients = [RecipientReport {
            original_recipient: Some(&text),
            remote_mta: Some(&text),
            ..failed(&text, &text, &text)
        }];
        let report = Report {
            to: if utf8 { &text } else { "a@b.test" },
            envelope_id: Some(&text),
            original_message_id: Some(&text),
            utf8,
            ..report(&recipients)
        };
        report.has_utf8_addresses();
        let text = written(&report, "Subject: z\r\n\r\n");
        prop_assert!(utf8 || text.is_ascii());
        for line in text.split("\r\n") {
            prop_assert!(line.len() <= 998 && !line.contains(['\r', '\n']), "{:?}", line);
        }
        let message = MessageParser::default().parse(text.as_bytes()).expect("a message");
        prop_assert_eq!(message.parts.len(), 4, "{}", text);
    }
}
