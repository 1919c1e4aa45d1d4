//! Replies and what they announce: each is given whole, and cut at every octet.

use proptest::prelude::*;

use super::*;

/// All replies in `input`, given in pieces of `piece` octets; `Err` ends them.
fn parse(input: &[u8], piece: usize) -> Vec<Result<String, Fault>> {
    let mut parser = ReplyParser::default();
    let mut replies = Vec::new();
    for piece in input.chunks(piece) {
        let mut rest = piece;
        loop {
            let (done, parsed) = parser.next(rest);
            rest = &rest[done..];
            match parsed {
                Ok(None) => break,
                Ok(Some(reply)) => replies.push(Ok(told(&reply))),
                Err(fault) => {
                    replies.push(Err(fault));
                    return replies;
                }
            }
        }
        assert!(rest.is_empty(), "octets left over");
    }
    replies
}

/// `250[2.1.5] text`
fn told(reply: &Reply) -> String {
    let enhanced = reply.enhanced.map(|code| format!("[{code}]")).unwrap_or_default();
    format!("{}{enhanced} {}", reply.code, reply.text)
}

#[test]
fn replies() {
    let long = format!("250 {}\r\n", "x".repeat(2000));
    let long_told = format!("250 {}", "x".repeat(2000));
    let cases: &[(&[u8], &[Result<&str, Fault>])] = &[
        (b"220 mx.test ESMTP\r\n", &[Ok("220 mx.test ESMTP")]),
        // RFC 5321 4.2.1: the text may be missing.
        (b"250\r\n250 \r\n", &[Ok("250 "), Ok("250 ")]),
        (b"250-a\r\n250-b c\r\n250 d\r\n", &[Ok("250 a\nb c\nd")]),
        (b"250-a\r\n250\r\n", &[Ok("250 a\n")]),
        // A bare LF ends a line as well.
        (b"250-a\n250 b\n421 bye\n", &[Ok("250 a\nb"), Ok("421 bye")]),
        (long.as_bytes(), &[Ok(long_told.as_str())]),
        (b"250 half", &[]),
        // RFC 2034 4.
        (b"550 5.1.1 no such user\r\n", &[Ok("550[5.1.1] 5.1.1 no such user")]),
        (b"250-2.1.5 a\r\n250 2.1.5 b\r\n", &[Ok("250[2.1.5] 2.1.5 a\n2.1.5 b")]),
        (b"550 5.7.509\r\n", &[Ok("550[5.7.509] 5.7.509")]),
        // A class that contradicts the code, or no enhanced code.
        (b"550 4.1.1 x\r\n", &[Ok("550 4.1.1 x")]),
        (b"550 5.1 x\r\n", &[Ok("550 5.1 x")]),
        (b"550 5.1.1.1 x\r\n", &[Ok("550 5.1.1.1 x")]),
        (b"550 5.1.1234 x\r\n", &[Ok("550 5.1.1234 x")]),
        (b"550 5.1.1: x\r\n", &[Ok("550 5.1.1: x")]),
        // Text that could hurt.
        (b"550 a\0b\x1b[2Jc\x7f\r\n", &[Ok("550 a?b?[2Jc?")]),
        (b"550 a\rb\tc\r\n", &[Ok("550 a?b?c")]),
        (b"550 a\r\r\n", &[Ok("550 a?")]),
        (b"550 caf\xc3\xa9 \xff\xfe\r\n", &[Ok("550 caf\u{e9} \u{fffd}\u{fffd}")]),
        ("550 a\u{202e}b\u{2028}c\u{85}d\r\n".as_bytes(), &[Ok("550 a?b?c?d")]),
        // No replies.
        (b"\r\n", &[Err(Fault::Malformed)]),
        (b"25\r\n", &[Err(Fault::Malformed)]),
        (b"2500 x\r\n", &[Err(Fault::Malformed)]),
        (b"25x x\r\n", &[Err(Fault::Malformed)]),
        (b"250_x\r\n", &[Err(Fault::Malformed)]),
        (b"150 x\r\n", &[Err(Fault::Malformed)]),
        (b"600 x\r\n", &[Err(Fault::Malformed)]),
        (b"000 x\r\n", &[Err(Fault::Malformed)]),
        (b" 250 x\r\n", &[Err(Fault::Malformed)]),
        (b"+250\r\n", &[Err(Fault::Malformed)]),
        ("\u{662}\u{665}0 x\r\n".as_bytes(), &[Err(Fault::Malformed)]),
        (b"HTTP/1.1 400 Bad Request\r\n", &[Err(Fault::Malformed)]),
        (b"\x16\x03\x01\x02\n", &[Err(Fault::Malformed)]),
        (b"250 ok\r\njunk\r\n", &[Ok("250 ok"), Err(Fault::Malformed)]),
        (b"250-a\r\n550 b\r\n", &[Err(Fault::MixedCodes)]),
        (b"250-a\r\njunk\r\n", &[Err(Fault::Malformed)]),
    ];
    for (input, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|it| it.map(str::to_owned)).collect();
        for piece in 1..=input.len().min(60) {
            assert_eq!(parse(input, piece), expected, "{:?}", String::from_utf8_lossy(input));
        }
        assert_eq!(parse(input, input.len()), expected);
    }
}

#[test]
fn a_reply_without_end_is_refused_early() {
    let lines = "250-x\r\n".repeat(REPLY_LINES_MAX);
    assert_eq!(parse(format!("{}250 y\r\n", &lines[7..]).as_bytes(), 100).len(), 1);
    let endless = [Err(Fault::Endless)];
    assert_eq!(parse(format!("{lines}250 y\r\n").as_bytes(), 100), endless);
    // One line; and the parser takes no more than the limit.
    let mut parser = ReplyParser::default();
    let mut taken = 0;
    let fault = loop {
        let (done, parsed) = parser.next(&[b'2'; 1000]);
        taken += done;
        if let Err(fault) = parsed {
            break fault;
        }
    };
    assert_eq!(fault, Fault::Endless);
    assert!(taken <= REPLY_OCTETS_MAX + 1000, "{taken}");
    // The limit is that of one reply.
    let many = "250 ok\r\n".repeat(REPLY_OCTETS_MAX / 4);
    assert!(parse(many.as_bytes(), 1 << 16).iter().all(Result::is_ok));
}

#[test]
fn a_long_text_is_clipped_between_characters() {
    let reply = Reply::local(550, &"\u{e9}".repeat(REPLY_TEXT_MAX));
    assert_eq!(reply.clone().clipped().text.len(), REPLY_TEXT_MAX);
    let odd = Reply::local(550, &format!("x{}", reply.text)).clipped();
    assert_eq!(odd.text.len(), REPLY_TEXT_MAX - 1);
}

#[test]
fn capabilities_are_read_leniently() {
    let text = "250-mx.test greets you\r\n250-size 1000\r\n250-8BITMIME\r\n250-PIPELINING\r\n\
                250-AUTH LOGIN CRAM-MD5 plain\r\n250-DELIVERBY 240\r\n\
                250-MT-PRIORITY STANAG4406\r\n250-FUTURERELEASE 86400 2030-01-01T00:00:00Z\r\n\
                250-LIMITS RCPTMAX=10 mailmax=3 RCPTDOMAINMAX=0 X MAILMAX2=1\r\n250-\r\n\
                250-SIZE2 5\r\n250 smtputf8\r\n";
    let mut parser = ReplyParser::default();
    let reply = parser.next(text.as_bytes()).1.unwrap().unwrap();
    let expected = Capabilities {
        name: "mx.test".into(),
        extended: true,
        eight_bit_mime: true,
        smtp_utf8: true,
        pipelining: true,
        size: Some(1000),
        deliver_by: Some(240),
        mt_priority: Some("STANAG4406".into()),
        future_release: Some(FutureRelease {
            interval: 86400,
            date_time: "2030-01-01T00:00:00Z".into(),
        }),
        limits: PeerLimits { mail_max: Some(3), rcpt_max: Some(10), rcpt_domain_max: None },
        auth_plain: true,
        auth_login: true,
        ..Capabilities::default()
    };
    assert_eq!(Capabilities::parse(&reply), expected);
    let old = Capabilities::parse(&Reply::local(250, "a\nAUTH=LOGIN\nSIZE\nSIZE x"));
    assert!(old.auth_login && !old.auth_plain && old.size == Some(0) && old.size_max().is_none());
    let nothing = Capabilities::none(&Reply::local(250, "mx.test PIPELINING\nPIPELINING"));
    assert!(!nothing.extended && !nothing.pipelining && nothing.name == "mx.test");
}

proptest! {
    /// Any octets, cut anywhere: no panic, bounded memory, and the cut makes no difference.
    #[test]
    fn replies_do_not_depend_on_the_cut(
        input in proptest::collection::vec(
            prop_oneof![
                Just(b"250 ok\r\n".to_vec()), Just(b"250-".to_vec()), Just(b"\r\n".to_vec()),
                Just(b"354 ".to_vec()), Just(b"\n".to_vec()),
                proptest::collection::vec(any::<u8>(), 0..9),
            ],
            0..40,
        ),
        piece in 1usize..50,
    ) {
        let input = input.concat();
        prop_assert_eq!(parse(&input, piece), parse(&input, input.len().max(1)));
    }
}
