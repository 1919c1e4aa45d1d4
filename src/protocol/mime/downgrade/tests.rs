//! Messages before and after: what is written, and that decoded bodies stay the same octets.

use mail_parser::{MessageParser, MimeHeaders};
use proptest::prelude::*;

use super::{
    super::{Part, PartKind, Summarizer, Summary, transfer::decode_transfer},
    *,
};

fn summarize(message: &[u8]) -> Summary {
    let mut summarizer = Summarizer::new();
    summarizer.push(message);
    summarizer.finish()
}

fn plan(message: &[u8], size: usize) -> Result<Plan, Unconvertible> {
    let mut survey = Survey::new(&summarize(message));
    message.chunks(size).for_each(|piece| survey.push(piece));
    survey.finish()
}

/// The message as written, which must not depend on the pieces.
fn converted(message: &[u8]) -> Result<(Vec<u8>, Plan), Unconvertible> {
    let mut results = Vec::new();
    for size in [usize::MAX, 1, 3, 64] {
        let plan = plan(message, size)?;
        let mut rewriter = Rewriter::new(&plan);
        let mut out = Vec::new();
        message.chunks(size).for_each(|piece| rewriter.push(piece, &mut out));
        rewriter.finish(&mut out);
        results.push((out, plan));
    }
    let (first, plan) = results.swap_remove(0);
    for (other, _) in &results {
        assert_eq!(text(other), text(&first));
    }
    Ok((first, plan))
}

fn text(octets: &[u8]) -> String {
    octets.escape_ascii().to_string()
}

/// Media types and decoded bodies of all leaves.
fn leaves(message: &[u8]) -> Vec<(String, Vec<u8>)> {
    fn walk(part: Part<'_>, message: &[u8], found: &mut Vec<(String, Vec<u8>)>) {
        if part.kind() == PartKind::Leaf {
            let range = part.body();
            let body = &message[range.start as usize..range.end as usize];
            let kind = [part.media_type(), b"/", part.media_subtype()].concat();
            found.push((text(&kind), decode_transfer(part.encoding(), body)));
        }
        part.children().chain(part.message()).for_each(|part| walk(part, message, found));
    }
    let mut found = Vec::new();
    walk(summarize(message).root(), message, &mut found);
    found
}

#[test]
fn headers_beyond_ascii_are_seen_wherever_they_are() {
    let wide = "\u{fc}";
    let multipart = |part: &str| {
        format!(
            "Content-Type: multipart/mixed; boundary=x\r\n\r\n{wide}\r\n--x\r\n{part}\r\n--x--\r\n{wide}"
        )
    };
    for (message, expected) in [
        (format!("Subject: x\r\n\r\n{wide}\r\n"), false),
        (format!("Subject: {wide}\r\n\r\nx\r\n"), true),
        (multipart(&format!("Content-Type: text/plain\r\n\r\n{wide}")), false),
        (multipart(&format!("Content-Description: {wide}\r\n\r\nx")), true),
        (multipart(&format!("Content-Type: message/rfc822\r\n\r\nA: {wide}\r\n\r\nx")), true),
        (multipart(&format!("Content-Type: message/rfc822\r\n\r\nA: x\r\n\r\n{wide}")), false),
        // Nobody looked inside.
        (multipart(&format!("Content-Type: message/delivery-status\r\n\r\nA: {wide}")), true),
        (multipart(&format!("Content-Type: message/global\r\n\r\nA: {wide}\r\n\r\nx")), true),
    ] {
        for size in [usize::MAX, 1, 7] {
            let mut survey = Survey::new(&summarize(message.as_bytes()));
            message.as_bytes().chunks(size).for_each(|piece| survey.push(piece));
            assert_eq!(survey.needs_utf8(), expected, "{message}");
        }
    }
}

fn is_seven_bit(octets: &[u8]) -> bool {
    let plain = octets.iter().all(|&octet| octet != 0 && octet < 0x80);
    let text = String::from_utf8_lossy(octets);
    plain && text.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n']))
}

/// Checks what is written for `message`; an empty `expected` means that it stays.
fn check(message: &[u8], expected: &[u8]) {
    let (found, plan) = converted(message).expect("convertible");
    assert_eq!(plan.changes(), !expected.is_empty(), "{}", text(message));
    if expected.is_empty() {
        return assert!(is_seven_bit(message));
    }
    assert_eq!(text(&found), text(expected));
    assert!(is_seven_bit(&found));
    if !plan.rewrites_around() {
        assert_eq!(leaves(&found), leaves(message), "{}", text(&found));
    }
}

#[test]
fn what_is_written() {
    // Nothing to do.
    check(b"Subject: x\r\n\r\nplain\r\n", b"");
    check(b"Content-Transfer-Encoding: 8bit\r\n\r\nplain\r\n", b"");
    check(b"Content-Transfer-Encoding: base64\r\n\r\nAAAA\r\n", b"");
    check(b"", b"");
    // Text without any label.
    check(
        "Subject: x\r\n\r\nGrüße, lieber Mensch, aus der alten Stadt\r\n".as_bytes(),
        b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n\
          Content-Transfer-Encoding: quoted-printable\r\n\r\n\
          Gr=C3=BC=C3=9Fe, lieber Mensch, aus der alten Stadt\r\n",
    );
    // With a label over two lines, and what quoted-printable must protect.
    check(
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding :\r\n 8BIT (of course)\r\nSubject: y\r\n\r\n\
         ü = 1 \r\n--not a delimiter\r\n.\r\nthe end\t"
            .as_bytes(),
        b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nSubject: y\r\n\
          Content-Transfer-Encoding: quoted-printable\r\n\r\n\
          =C3=BC =3D 1=20\r\n=2D-not a delimiter\r\n=2E\r\nthe end=09=\r\n",
    );
    // Text that is mostly not ASCII, and binary with bare line ends.
    check(
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n你好你好\r\n"
            .as_bytes(),
        b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
          Content-Transfer-Encoding: base64\r\n\r\n5L2g5aW95L2g5aW9DQo=\r\n",
    );
    check(
        b"MIME-Version: 1.0\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\
          \r\n\x89PNG\r\n\x1a\n\0\r",
        b"MIME-Version: 1.0\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\
          \r\niVBORw0KGgoADQ==\r\n",
    );
    // Bare line ends in text are octets of it.
    check(
        b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\none\ntwo\rthree, and a long rest\r\n",
        b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\
          Content-Transfer-Encoding: quoted-printable\r\n\r\n\
          one=0Atwo=0Dthree, and a long rest\r\n",
    );
    // What claims to be encoded is read as a tolerant reader does.
    check(
        b"Content-Transfer-Encoding: base64\r\n\r\nAA\xffAA\n=\r\n",
        b"Content-Transfer-Encoding: base64\r\n\r\nAAAA\r\n",
    );
    check(
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\na=\nb=c\xc3=C3 =\r\n\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\nab=3Dc=C3=C3=20\r\n",
    );
}

#[test]
fn nested_parts() {
    let message = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\nbefore\r\n--b\r\n\r\nplain\r\n--b\r\n\
         Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
         Subject: inner\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
         for twenty letters ü\r\n--b\r\n\
         Content-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\nascii\r\n--b--\r\n\
         after\r\n";
    let expected = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\
         \r\nbefore\r\n--b\r\n\r\nplain\r\n--b\r\n\
         Content-Type: message/rfc822\r\n\r\n\
         Subject: inner\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: quoted-printable\r\n\r\n\
         for twenty letters =C3=BC\r\n--b\r\n\
         Content-Type: application/x\r\n\r\nascii\r\n--b--\r\n\
         after\r\n";
    check(message.as_bytes(), expected);
    let (out, plan) = converted(message.as_bytes()).expect("convertible");
    assert!(!plan.breaks_signature() && !plan.rewrites_around());
    // Another reader finds the same text.
    let parsed = MessageParser::default().parse(&out).expect("a message");
    let inner = parsed.attachment(0).and_then(|part| part.message()).expect("a message inside");
    assert_eq!(inner.body_text(0).as_deref(), Some("for twenty letters ü"));
    assert_eq!(inner.content_type().and_then(|it| it.attribute("charset")), Some("utf-8"));

    let signed = message.replace("multipart/mixed", "multipart/signed");
    let (out, plan) = converted(signed.as_bytes()).expect("convertible");
    assert!(plan.breaks_signature());
    // Parts that are 7-bit anyway keep their label there.
    assert!(text(&out).contains("Encoding: binary"));
}

#[test]
fn what_has_no_encoding() {
    check(
        "Subject: Grüße\r\nX: a\rb\nTo: c\r\n\r\nbody\r\n".as_bytes(),
        b"Subject: Gr????e\r\nX: a b\r\nTo: c\r\n\r\nbody\r\n",
    );
    let long = format!("X: {} {}\r\n\r\n", "a".repeat(950), "b".repeat(2000));
    let (out, plan) = converted(long.as_bytes()).expect("convertible");
    assert!(plan.rewrites_around() && is_seven_bit(&out));
    assert_eq!(text(&out).replace(r"\r\n ", "").len(), text(long.as_bytes()).len() - 1);
    check(
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n\xe9\r\n--b\r\n\r\nx\r\n--b--\r\n\0\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n?\r\n--b\r\n\r\nx\r\n--b--\r\n?\r\n",
    );
}

#[test]
fn what_cannot_be_converted() {
    let cases: [&[u8]; 5] = [
        b"Content-Transfer-Encoding: x-uuencode\r\n\r\n\xe9\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n\xe9\r\n",
        b"Content-Type: message/delivery-status\r\n\r\n\xe9\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: x\r\n\r\n\
          --b\r\n\r\n\xe9\r\n--b--\r\n",
        b"Content-Transfer-Encoding                    : 8bit\r\n\r\n\xe9\r\n",
    ];
    for message in cases {
        assert_eq!(plan(message, 1000).err(), Some(Unconvertible), "{}", text(message));
    }
    // Too deep to be known.
    let nested =
        "Content-Type: message/rfc822\r\n\r\n".repeat(super::super::summary::DEPTH_MAX + 1);
    assert!(plan(format!("{nested}\r\n\u{e9}\r\n").as_bytes(), 1000).is_err());
    assert!(plan(format!("{nested}\r\nx\r\n").as_bytes(), 1000).is_ok_and(|it| !it.changes()));
}

/// A message of random parts, with boundaries that it keeps.
fn message(depth: u32) -> BoxedStrategy<Vec<u8>> {
    let body = proptest::collection::vec(
        prop_oneof![
            4 => Just(b"some words ".to_vec()),
            2 => Just(b"\r\n".to_vec()),
            1 => Just(b"\n".to_vec()),
            1 => Just(b"\r".to_vec()),
            1 => Just("ü".as_bytes().to_vec()),
            1 => Just(vec![0]),
            1 => Just(b" ".to_vec()),
            1 => Just(b"=".to_vec()),
            1 => Just(b"--b".to_vec()),
            1 => Just(b"--".to_vec()),
            1 => Just(vec![b'y'; 400]),
            1 => proptest::collection::vec(any::<u8>(), 1..40),
        ],
        0..12,
    );
    let fields = proptest::sample::subsequence(
        vec![
            "MIME-Version: 1.0\r\n",
            "Content-Type: text/plain; charset=utf-8\r\n",
            "Content-Type: image/png\r\n",
            "Content-Transfer-Encoding: 8bit\r\n",
            "Content-Transfer-Encoding:\r\n binary\r\n",
            "content-transfer-encoding: Quoted-Printable\r\n",
            "Content-Transfer-Encoding: base64\r\n",
            "Subject: x\r\n y\r\n",
        ],
        0..4,
    );
    let leaf = (fields, body)
        .prop_map(|(fields, body)| [fields.concat().as_bytes(), b"\r\n", &body.concat()].concat());
    if depth == 0 {
        return leaf.boxed();
    }
    let inner = message(depth - 1);
    let multipart = proptest::collection::vec(inner.clone(), 0..4).prop_map(move |parts| {
        let boundary = format!("b{depth}");
        let mut out = format!(
            "Content-Type: multipart/mixed; boundary={boundary}\r\n\
             Content-Transfer-Encoding: 8bit\r\n\r\nbefore"
        )
        .into_bytes();
        for part in parts {
            out.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
            out.extend_from_slice(&part);
        }
        out.extend_from_slice(format!("\r\n--{boundary}--\r\nafter\r\n").as_bytes());
        out
    });
    let attached = inner
        .prop_map(|inner| [b"Content-Type: message/rfc822\r\n\r\n", inner.as_slice()].concat());
    prop_oneof![2 => leaf, 3 => multipart, 1 => attached].boxed()
}

proptest! {
    #[test]
    fn bodies_stay_the_same(message in message(3)) {
        if let Ok((out, plan)) = converted(&message) {
            if plan.changes() {
                prop_assert!(is_seven_bit(&out), "{}", text(&out));
                if !plan.rewrites_around() {
                    let (whole, sent) = (text(&message), text(&out));
                    prop_assert_eq!(leaves(&out), leaves(&message), "{}\n{}", whole, sent);
                }
                let again = plan_of(&out);
                prop_assert!(again.is_ok_and(|plan| !plan.changes()));
            } else {
                prop_assert!(is_seven_bit(&message));
            }
        }
    }

    #[test]
    fn anything_becomes_seven_bit(message in proptest::collection::vec(
        prop_oneof![any::<u8>(), proptest::sample::select(b"\r\n\r\n:-b= \t".to_vec())],
        0..300,
    )) {
        if let Ok((out, plan)) = converted(&message) {
            prop_assert!(!plan.changes() || is_seven_bit(&out), "{}", text(&out));
        }
    }
}

/// The message as written for readers who take anything but NUL.
fn without_nul(message: &[u8]) -> Result<(Vec<u8>, Plan), Unconvertible> {
    let mut results = Vec::new();
    for size in [usize::MAX, 1, 7] {
        let mut survey = Survey::for_nul(&summarize(message));
        message.chunks(size).for_each(|piece| survey.push(piece));
        let plan = survey.finish()?;
        let (mut rewriter, mut out) = (Rewriter::new(&plan), Vec::new());
        message.chunks(size).for_each(|piece| rewriter.push(piece, &mut out));
        rewriter.finish(&mut out);
        results.push((out, plan));
    }
    let (first, plan) = results.swap_remove(0);
    assert!(results.iter().all(|(other, _)| text(other) == text(&first)));
    Ok((first, plan))
}

#[test]
fn only_parts_with_nul_change() {
    #[rustfmt::skip]
    let cases: [(&[u8], &[u8]); 8] = [
        // Nothing to do, whatever else would not go over a 7-bit path.
        (b"Subject: \xe9\r\nContent-Transfer-Encoding: binary\r\n\r\n\xe9\ra\nb", b""),
        // With and without a label; a charset is not made up.
        (b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\
           Content-Transfer-Encoding: binary\r\n\r\na\0\n",
         b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\
           Content-Transfer-Encoding: base64\r\n\r\nYQAK\r\n"),
        (b"Subject: x\r\n\r\na\0\n",
         b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\nYQAK\r\n"),
        (b"content-transfer-encoding : 8bit\r\nMIME-Version: 1.0\r\n\r\n\0\xff\0",
         b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\nAP8A\r\n"),
        // Parts beside it stay, also what is bare or beyond ASCII around them, and the outer label.
        (b"Content-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: binary\r\n\
           \r\n\xe9\n--b\r\nContent-Transfer-Encoding: binary\r\n\r\n\xe9\n\r\n--b\r\n\r\n\0\r\n\
           --b--\r\n\r",
         b"Content-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: binary\r\n\
           \r\n\xe9\n--b\r\nContent-Transfer-Encoding: binary\r\n\r\n\xe9\n\r\n--b\r\n\
           Content-Transfer-Encoding: base64\r\n\r\nAA==\r\n--b--\r\n\r"),
        // Lines stay as they end.
        (b"Subject: x\nContent-Transfer-Encoding: binary\nMIME-Version: 1.0\n\n\0",
         b"Subject: x\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\r\n\nAA==\r\n"),
        // Inside a message.
        (b"Content-Type: message/rfc822\r\n\r\nSubject: y\r\n\r\n\0",
         b"Content-Type: message/rfc822\r\n\r\nSubject: y\r\nMIME-Version: 1.0\r\n\
           Content-Transfer-Encoding: base64\r\n\r\nAA==\r\n"),
        // Where no reader looks at it.
        (b"Content-Transfer-Encoding: base64\r\n\r\nYW\0Jj\r\n",
         b"Content-Transfer-Encoding: base64\r\n\r\nYWJj\r\n"),
    ];
    for (message, expected) in cases {
        let (found, plan) = without_nul(message).expect("convertible");
        assert_eq!(plan.changes(), !expected.is_empty(), "{}", text(message));
        let expected = if expected.is_empty() { message } else { expected };
        assert_eq!(text(&found), text(expected));
        assert_eq!(leaves(&found), leaves(message));
        assert!(!plan.rewrites_around() && !plan.breaks_signature());
    }
}

#[test]
fn nul_where_no_part_can_be_encoded() {
    for message in [
        &b"Content-Transfer-Encoding: x-uuencode\r\n\r\n\0"[..],
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n\0",
        b"Content-Type: message/delivery-status\r\n\r\n\0",
    ] {
        assert!(without_nul(message).is_err(), "{}", text(message));
    }
    for message in [
        &b"Subject: \0\r\n\r\n"[..],
        b"Content-Type: message/rfc822\r\n\r\nSubject: \0\r\n\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n\0\r\n--b\r\n\r\n--b--",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n\r\n--b--\r\n\0",
    ] {
        let (_, plan) = without_nul(message).expect("known parts");
        assert!(plan.rewrites_around(), "{}", text(message));
    }
    let signed = |protocol: &str| {
        let message =
            format!("Content-Type: multipart/{protocol}; boundary=b\r\n\r\n--b\r\n\r\n\0\r\n--b--");
        without_nul(message.as_bytes()).expect("known parts").1.breaks_signature()
    };
    assert!(signed("signed") && !signed("mixed"));
}

proptest! {
    /// What is written without NUL says the same.
    #[test]
    fn parts_without_nul_stay_the_same(message in message(3)) {
        if let Ok((out, plan)) = without_nul(&message) && !plan.rewrites_around() {
            let (whole, written) = (text(&message), text(&out));
            prop_assert!(!out.contains(&0), "{}", written);
            prop_assert_eq!(plan.changes(), message.contains(&0), "{}", whole);
            if !plan.changes() {
                prop_assert_eq!(&out, &message);
            }
            prop_assert_eq!(leaves(&out), leaves(&message), "{}\n{}", whole, written);
        }
    }

    #[test]
    fn anything_without_nul(message in proptest::collection::vec(
        prop_oneof![any::<u8>(), proptest::sample::select(b"\0\r\n\r\n:-b= \t".to_vec())],
        0..300,
    )) {
        if let Ok((out, plan)) = without_nul(&message) {
            prop_assert!(plan.rewrites_around() || !out.contains(&0), "{}", text(&out));
            prop_assert!(message.contains(&0) || out == message, "{}", text(&out));
        }
    }
}

fn plan_of(message: &[u8]) -> Result<Plan, Unconvertible> {
    plan(message, 1 << 20)
}
