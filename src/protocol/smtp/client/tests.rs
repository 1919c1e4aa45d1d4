//! Tables: what comes from a peer, what is made of it. Every reply is given whole, and cut at every
//! octet.

use std::collections::VecDeque;

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

/// `content` encoded in pieces of `piece` octets.
fn encode(mut encoder: BodyEncoder, content: &[u8], piece: usize) -> Vec<u8> {
    let mut output = Vec::new();
    content.chunks(piece).for_each(|piece| encoder.push(piece, &mut output));
    encoder.finish(&mut output);
    output
}

/// RFC 5321 4.5.2 and 2.3.8: nothing in a message can look like its end, for any peer.
#[test]
fn bodies() {
    let cases: &[(&[u8], &[u8])] = &[
        (b"", b""),
        (b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a", b"a\r\n"),
        (b".", b"..\r\n"),
        (b".\r\n", b"..\r\n"),
        (b"..\r\n", b"...\r\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n"),
        (b"a.\r\n.b", b"a.\r\n..b\r\n"),
        (b"a\r\n", b"a\r\n"),
        (b"\r\n.\r\n", b"\r\n..\r\n"),
        // Smuggling.
        (b"a\n.\nb\n", b"a\r\n..\r\nb\r\n"),
        (b"a\n.\r\nb", b"a\r\n..\r\nb\r\n"),
        (b"a\r\n.\nb", b"a\r\n..\r\nb\r\n"),
        (b"a\r.\rb", b"a\r\n..\r\nb\r\n"),
        (b"a\r\n.\rb", b"a\r\n..\r\nb\r\n"),
        (b"a\r.\r\nb", b"a\r\n..\r\nb\r\n"),
        (b"a\r\r\n.\r\nb", b"a\r\n\r\n..\r\nb\r\n"),
        (b"a\n\r.\n\rb", b"a\r\n\r\n..\r\n\r\nb\r\n"),
        (b"a\r\0\n.\r\n", b"a\r\n\0\r\n..\r\n"),
        (b"\r", b"\r\n"),
        (b"\n", b"\r\n"),
        (b"\r\n", b"\r\n"),
        (b"\r\r\r", b"\r\n\r\n\r\n"),
        (b"caf\xe9\n.\xff\r\n", b"caf\xe9\r\n..\xff\r\n"),
    ];
    for (content, expected) in cases {
        for piece in 1..=content.len().max(1) {
            let data = encode(BodyEncoder::data(), content, piece);
            assert_eq!(data, *expected, "{content:?} in pieces of {piece}");
            let chunks = encode(BodyEncoder::chunks(false), content, piece);
            let unstuffed = expected.split(|it| *it == b'\n').map(|line| match line {
                [b'.', line @ ..] => line,
                line => line,
            });
            assert_eq!(chunks, unstuffed.collect::<Vec<_>>().join(&b'\n'));
            assert_eq!(encode(BodyEncoder::chunks(true), content, piece), *content);
        }
    }
    let long = [vec![b'x'; 5000], b"\r\n".to_vec()].concat();
    assert_eq!(encode(BodyEncoder::data(), &long, 999), long);
}

/// A peer, and what is sent to it.
struct Case {
    name: &'static str,
    /// Lines of the reply to EHLO behind the name.
    capabilities: &'static str,
    lmtp: bool,
    /// See [`Transaction::with_hello`].
    hello: Option<&'static str>,
    recipients: usize,
    content: &'static [u8],
    /// `C: ` what is sent, without CRLF; `S: ` what the peer says then. A turn of the client is
    /// sent at once.
    transcript: &'static [&'static str],
    /// One for each recipient.
    results: &'static [&'static str],
    usable: bool,
}

const PLAIN: Case = Case {
    name: "",
    capabilities: "",
    lmtp: false,
    hello: None,
    recipients: 1,
    content: b"Hi\r\n.\r\n",
    transcript: &[],
    results: &[],
    usable: true,
};

const CASES: &[Case] = &[
    Case {
        name: "one after the other",
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "S: 250 ok",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "C: RCPT TO:<r1@y>",
            "S: 251 will forward",
            "C: DATA",
            "S: 354 go",
            "C: Hi",
            "C: ..",
            "C: .",
            "S: 250 2.0.0 queued",
        ],
        results: &["accepted 250 2.0.0 queued", "accepted 250 2.0.0 queued"],
        ..PLAIN
    },
    Case {
        name: "pipelined",
        capabilities: "PIPELINING\nSIZE",
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x> SIZE=7",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: RCPT TO:<r1@y>",
            "C: DATA",
            "S: 250 ok",
            "S: 550 5.1.1 no",
            "S: 250 ok",
            "S: 354 go",
            "C: Hi",
            "C: ..",
            "C: .",
            "S: 250 queued",
        ],
        results: &["refused rcpt 550 5.1.1 no", "accepted 250 queued"],
        ..PLAIN
    },
    Case {
        name: "in chunks",
        capabilities: "PIPELINING\nCHUNKING",
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "S: 250 ok",
            "C: BDAT 7 LAST",
            "C: Hi",
            "C: .",
            "S: 250 queued",
        ],
        results: &["accepted 250 queued"],
        ..PLAIN
    },
    Case {
        name: "RFC 3030 2: a refused chunk is followed by RSET",
        capabilities: "PIPELINING\nCHUNKING",
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "S: 250 ok",
            "C: BDAT 7 LAST",
            "C: Hi",
            "C: .",
            "S: 452 full",
            "C: RSET",
            "S: 250 ok",
        ],
        results: &["refused end 452 full"],
        ..PLAIN
    },
    Case {
        name: "EHLO follows a message in chunks",
        capabilities: "PIPELINING\nCHUNKING",
        hello: Some("EHLO me"),
        recipients: 1,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "S: 250 ok",
            "C: BDAT 7 LAST",
            "C: Hi",
            "C: .",
            "C: EHLO me",
            "S: 250 taken",
            "S: 250-mx",
            "S: 250 CHUNKING",
        ],
        results: &["accepted 250 taken"],
        ..PLAIN
    },
    Case {
        name: "EHLO follows a message in chunks that is refused",
        capabilities: "PIPELINING\nCHUNKING",
        hello: Some("EHLO me"),
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: RCPT TO:<r1@y>",
            "S: 250 ok",
            "S: 550 no",
            "S: 250 ok",
            "C: BDAT 7 LAST",
            "C: Hi",
            "C: .",
            "C: EHLO me",
            "S: 452 full",
            "S: 250-mx",
            "S: 250 CHUNKING",
        ],
        results: &["refused rcpt 550 no", "refused end 452 full"],
        ..PLAIN
    },
    Case {
        name: "EHLO in place of RSET",
        capabilities: "PIPELINING\nCHUNKING",
        hello: Some("EHLO me"),
        recipients: 1,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "S: 550 no",
            "C: EHLO me",
            "S: 250-mx",
            "S: 250 CHUNKING",
        ],
        results: &["refused rcpt 550 no"],
        ..PLAIN
    },
    Case {
        name: "one reply too many: the recipient's is not that to the message",
        capabilities: "PIPELINING\nCHUNKING",
        hello: Some("EHLO me"),
        recipients: 1,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "S: 250 one too many",
            "C: BDAT 7 LAST",
            "C: Hi",
            "C: .",
            "C: EHLO me",
            "S: 250 the recipient",
            "S: 552 the message",
        ],
        results: &["lost reset after dot"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "one reply too many: the message was taken, and nobody is refused for good",
        capabilities: "PIPELINING\nCHUNKING",
        hello: Some("EHLO me"),
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: RCPT TO:<r1@y>",
            "S: 250 ok",
            "S: 250 ok",
            "S: 550 one too many",
            "C: BDAT 7 LAST",
            "C: Hi",
            "C: .",
            "C: EHLO me",
            "S: 451 the second recipient",
            "S: 250 taken",
        ],
        results: &["lost reset after dot", "lost reset after dot"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "one reply too many, and all seem refused",
        capabilities: "PIPELINING\nCHUNKING",
        hello: Some("EHLO me"),
        recipients: 1,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "S: 550 one too many",
            "C: EHLO me",
            "S: 250 the recipient is all right",
        ],
        results: &["lost reset"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "a peer that does not like EHLO twice",
        capabilities: "PIPELINING\nCHUNKING",
        hello: Some("EHLO me"),
        recipients: 1,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "S: 250 ok",
            "C: BDAT 7 LAST",
            "C: Hi",
            "C: .",
            "C: EHLO me",
            "S: 250 taken",
            "S: 503 duplicate EHLO",
        ],
        results: &["accepted 250 taken"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "a peer that closes after a message",
        capabilities: "PIPELINING\nCHUNKING",
        hello: Some("EHLO me"),
        recipients: 1,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "S: 250 ok",
            "C: BDAT 7 LAST",
            "C: Hi",
            "C: .",
            "C: EHLO me",
            "S: 250 taken",
            "S: 421 bye",
        ],
        results: &["accepted 250 taken"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "EHLO in place of RSET only where replies could be confused",
        capabilities: "PIPELINING",
        hello: Some("EHLO me"),
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: DATA",
            "S: 250 ok",
            "S: 550 no",
            "S: 503 no recipients",
            "C: RSET",
            "S: 250 ok",
        ],
        results: &["refused rcpt 550 no"],
        ..PLAIN
    },
    Case {
        name: "RFC 2920 3.1: a lone dot if no recipient was accepted",
        capabilities: "PIPELINING",
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: DATA",
            "S: 250 ok",
            "S: 550 no",
            "S: 354 go",
            "C: .",
            "S: 554 no recipients",
            "C: RSET",
            "S: 250 ok",
        ],
        results: &["refused rcpt 550 no"],
        ..PLAIN
    },
    Case {
        name: "even if the dot is accepted, nobody got the message",
        capabilities: "PIPELINING",
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: DATA",
            "S: 250 ok",
            "S: 450 later",
            "S: 354 go",
            "C: .",
            "S: 250 queued",
            "C: RSET",
            "S: 250 ok",
        ],
        results: &["refused rcpt 450 later"],
        ..PLAIN
    },
    Case {
        name: "all refused",
        capabilities: "PIPELINING",
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: RCPT TO:<r1@y>",
            "C: DATA",
            "S: 250 ok",
            "S: 550 no",
            "S: 450-not",
            "S: 450 now",
            "S: 503 no recipients",
            "C: RSET",
            "S: 250 ok",
        ],
        results: &["refused rcpt 550 no", "refused rcpt 450 not now"],
        ..PLAIN
    },
    Case {
        name: "sender refused, not pipelined",
        recipients: 2,
        transcript: &["C: MAIL FROM:<a@x>", "S: 550 no", "C: RSET", "S: 250 ok"],
        results: &["refused mail 550 no", "refused mail 550 no"],
        ..PLAIN
    },
    Case {
        name: "sender refused, pipelined: the reply to MAIL counts",
        capabilities: "PIPELINING",
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: DATA",
            "S: 450 slowly",
            "S: 503 MAIL first",
            "S: 503 MAIL first",
            "C: RSET",
            "S: 250 ok",
        ],
        results: &["refused mail 450 slowly"],
        ..PLAIN
    },
    Case {
        name: "sender refused, recipient accepted, DATA too: no dot, which might be an empty message",
        capabilities: "PIPELINING",
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: DATA",
            "S: 450 slowly",
            "S: 250 ok",
            "S: 354 go",
        ],
        results: &["refused mail 450 slowly"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "DATA refused",
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "S: 250 ok",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "C: DATA",
            "S: 451 disk",
            "C: RSET",
            "S: 500 what",
        ],
        results: &["refused data 451 disk"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "message refused",
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "S: 250 ok",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "C: DATA",
            "S: 354 go",
            "C: Hi",
            "C: ..",
            "C: .",
            "S: 554 5.7.1 spam",
        ],
        results: &["refused end 554 5.7.1 spam"],
        ..PLAIN
    },
    Case {
        name: "LMTP: an answer for each accepted recipient",
        capabilities: "PIPELINING",
        lmtp: true,
        recipients: 3,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: RCPT TO:<r1@y>",
            "C: RCPT TO:<r2@y>",
            "C: DATA",
            "S: 250 ok",
            "S: 250 ok",
            "S: 550 no",
            "S: 250 ok",
            "S: 354 go",
            "C: Hi",
            "C: ..",
            "C: .",
            "S: 250 zero",
            "S: 452 4.2.2 two is full",
        ],
        results: &["accepted 250 zero", "refused rcpt 550 no", "refused end 452 4.2.2 two is full"],
        ..PLAIN
    },
    Case {
        name: "LMTP: 421 in the middle of the answers",
        lmtp: true,
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "S: 250 ok",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "C: RCPT TO:<r1@y>",
            "S: 250 ok",
            "C: DATA",
            "S: 354 go",
            "C: Hi",
            "C: ..",
            "C: .",
            "S: 421 bye",
        ],
        results: &["refused end 421 bye", "lost end after dot"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "LMTP: LHLO follows a message for several recipients",
        capabilities: "PIPELINING",
        lmtp: true,
        hello: Some("LHLO me"),
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: RCPT TO:<r1@y>",
            "C: DATA",
            "S: 250 ok",
            "S: 250 ok",
            "S: 250 ok",
            "S: 354 go",
            "C: Hi",
            "C: ..",
            "C: .",
            "C: LHLO me",
            "S: 250 zero",
            "S: 552 one is full",
            "S: 250-mx",
            "S: 250 PIPELINING",
        ],
        results: &["accepted 250 zero", "refused end 552 one is full"],
        ..PLAIN
    },
    Case {
        name: "LMTP: one reply too many, which only that to LHLO shows",
        capabilities: "PIPELINING",
        lmtp: true,
        hello: Some("LHLO me"),
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: RCPT TO:<r1@y>",
            "C: DATA",
            "S: 250 ok",
            "S: 250 ok",
            "S: 250 ok",
            "S: 354 go",
            "C: Hi",
            "C: ..",
            "C: .",
            "C: LHLO me",
            "S: 250 zero",
            "S: 250 one too many",
            "S: 552 one is full",
        ],
        results: &["lost reset after dot", "lost reset after dot"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "LMTP: one reply too few",
        capabilities: "PIPELINING",
        lmtp: true,
        hello: Some("LHLO me"),
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: RCPT TO:<r1@y>",
            "C: DATA",
            "S: 250 ok",
            "S: 250 ok",
            "S: 250 ok",
            "S: 354 go",
            "C: Hi",
            "C: ..",
            "C: .",
            "C: LHLO me",
            "S: 552 one is full",
            "S: 250-mx",
            "S: 250 PIPELINING",
        ],
        results: &["lost end after dot", "lost end after dot"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "LMTP wants a message for nobody: no answer is defined",
        capabilities: "PIPELINING",
        lmtp: true,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: DATA",
            "S: 250 ok",
            "S: 550 no",
            "S: 354 go",
        ],
        results: &["refused rcpt 550 no"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "421 to MAIL",
        capabilities: "PIPELINING",
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: DATA",
            "S: 421 4.3.2 shutting down",
        ],
        results: &["refused mail 421 4.3.2 shutting down"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "421 to a recipient, after another was refused",
        capabilities: "PIPELINING",
        recipients: 3,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: RCPT TO:<r1@y>",
            "C: RCPT TO:<r2@y>",
            "C: DATA",
            "S: 250 ok",
            "S: 550 no",
            "S: 421 bye",
        ],
        results: &["refused rcpt 421 bye", "refused rcpt 421 bye", "refused rcpt 421 bye"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "the same, but one at a time: whose refusal it is needs no counting",
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "S: 250 ok",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 550 no",
            "C: RCPT TO:<r1@y>",
            "S: 421 bye",
        ],
        results: &["refused rcpt 550 no", "refused rcpt 421 bye"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "one answer too many: the refusal of DATA answers RSET",
        capabilities: "PIPELINING",
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: RCPT TO:<r1@y>",
            "C: DATA",
            "S: 250 ok",
            "S: 450 one too many",
            "S: 550 the first recipient",
            "S: 450 the second recipient",
            "C: RSET",
            "S: 503 no recipients",
        ],
        results: &["refused rcpt 450 one too many", "lost reset"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "one answer too many: DATA is answered by 250",
        capabilities: "PIPELINING",
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: RCPT TO:<r1@y>",
            "C: DATA",
            "S: 250 ok",
            "S: 550 no",
            "S: 250 ok",
            "S: 250 ok",
        ],
        results: &["lost data", "lost data"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "one answer too few: a recipient is answered by 354",
        capabilities: "PIPELINING",
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: RCPT TO:<r1@y>",
            "C: DATA",
            "S: 250 ok",
            "S: 550 no",
            "S: 354 go",
        ],
        results: &["lost rcpt", "lost rcpt"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "a shift that only the reply to RSET shows",
        capabilities: "PIPELINING",
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "C: DATA",
            "S: 250 ok",
            "S: 550 who",
            "S: 550 no",
            "C: RSET",
            "S: 354 go",
        ],
        results: &["lost reset"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "accepted before the final dot",
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "S: 250 ok",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "C: DATA",
            "S: 354 go",
            "S: 250 queued",
        ],
        results: &["lost content"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "refused before the final dot",
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "S: 250 ok",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "C: DATA",
            "S: 354 go",
            "S: 552 5.3.4 too large",
        ],
        results: &["refused content 552 5.3.4 too large"],
        usable: false,
        ..PLAIN
    },
    Case {
        name: "RFC 9422: no more recipients than the peer takes",
        capabilities: "LIMITS RCPTMAX=1",
        recipients: 2,
        transcript: &[
            "C: MAIL FROM:<a@x>",
            "S: 250 ok",
            "C: RCPT TO:<r0@y> NOTIFY=NEVER",
            "S: 250 ok",
            "C: DATA",
            "S: 354 go",
            "C: Hi",
            "C: ..",
            "C: .",
            "S: 250 queued",
        ],
        results: &["accepted 250 queued", "unsent"],
        ..PLAIN
    },
    Case {
        name: "RFC 1870 6.1: too large is known before",
        capabilities: "SIZE 6",
        transcript: &[],
        results: &["refused mail 552 5.3.4 The message is larger than the host accepts"],
        ..PLAIN
    },
];

fn shown(result: &RcptResult) -> String {
    match result {
        RcptResult::Accepted { reply } => format!("accepted {reply}"),
        RcptResult::Refused { stage, reply } => format!("refused {} {reply}", stage.name()),
        RcptResult::Unsent => "unsent".into(),
        RcptResult::Lost { stage, after_final_dot, .. } => {
            format!("lost {}{}", stage.name(), if *after_final_dot { " after dot" } else { "" })
        }
    }
}

fn capabilities(lines: &str) -> Capabilities {
    Capabilities::parse(&Reply::local(250, &format!("mx.test\n{lines}")))
}

fn recipients(count: usize) -> Vec<(String, &'static str)> {
    let parameters = |at| if at == 0 { " NOTIFY=NEVER" } else { "" };
    (0..count).map(|at| (format!("<r{at}@y>"), parameters(at))).collect()
}

fn lines<'a>(recipients: &'a [(String, &'static str)]) -> Vec<RcptLine<'a>> {
    recipients.iter().map(|(path, parameters)| RcptLine { path, parameters }).collect()
}

/// Turns of a transcript: who, and what.
fn turns(transcript: &[&str]) -> Vec<(char, String)> {
    let mut turns: Vec<(char, String)> = Vec::new();
    for line in transcript {
        let (who, text) = line.split_once(": ").unwrap();
        let who = who.chars().next().unwrap();
        match turns.last_mut() {
            Some((last, said)) if *last == who => said.push_str(&format!("{text}\r\n")),
            _ => turns.push((who, format!("{text}\r\n"))),
        }
    }
    turns
}

fn play(case: &Case, piece: usize) {
    let name = case.name;
    let recipients = recipients(case.recipients);
    let lines = lines(&recipients);
    let size = case.content.len() as u64;
    let envelope = Envelope { mail_from: "<a@x>", recipients: &lines, size, binary: false };
    let mut transaction = Transaction::new(envelope, &capabilities(case.capabilities), case.lmtp);
    if let Some(hello) = case.hello {
        transaction = transaction.with_hello(hello);
    }
    let mut parser = ReplyParser::default();
    let mut turns = turns(case.transcript).into_iter().peekable();
    let mut content = case.content.chunks(piece);
    let mut sent = Vec::new();
    let mut inbox: Vec<u8> = Vec::new();
    let usable = loop {
        let step = transaction.advance(&mut sent);
        if let Step::Done { usable } = step {
            break usable;
        }
        let mut finished = false;
        if step == Step::Content && inbox.is_empty() {
            match content.next() {
                Some(piece) => transaction.push(piece, &mut sent),
                None => {
                    transaction.finish(&mut sent);
                    finished = true;
                }
            }
            if !finished {
                continue;
            }
        }
        if !sent.is_empty() {
            let (who, expected) = turns.next().unwrap_or_else(|| panic!("{name}: no turn left"));
            assert_eq!((who, String::from_utf8_lossy(&sent)), ('C', expected.into()), "{name}");
            sent.clear();
        }
        if finished {
            continue;
        }
        if inbox.is_empty() {
            let (who, said) = turns.next().unwrap_or_else(|| panic!("{name}: the peer is silent"));
            assert_eq!(who, 'S', "{name}: {said}");
            inbox = said.into_bytes();
        }
        // To the end of one reply, in pieces.
        let reply = loop {
            let (done, reply) = parser.next(&inbox[..piece.min(inbox.len())]);
            inbox.drain(..done);
            if let Some(reply) = reply.unwrap() {
                break reply;
            }
        };
        if transaction.reply(reply).is_err() {
            break false;
        }
    };
    assert!(inbox.is_empty() && turns.peek().is_none(), "{name}: not all was said");
    let results: Vec<String> = transaction.into_results().iter().map(shown).collect();
    assert_eq!(
        (results, usable),
        (case.results.iter().map(|it| it.to_string()).collect(), case.usable),
        "{name}"
    );
}

/// A reply of a peer.
fn said(code: u16, text: &str) -> Reply {
    Reply { local: false, ..Reply::local(code, text) }
}

/// What becomes of recipients if the peer says this, and then closes; and whether its count is in
/// doubt. A code of 0: the message is sent here.
fn cut_off(count: usize, offer: &str, lmtp: bool, replies: &[(u16, &str)]) -> (Vec<String>, bool) {
    let recipients = recipients(count);
    let lines = lines(&recipients);
    let envelope = Envelope { mail_from: "<a@x>", recipients: &lines, size: 7, binary: false };
    let hello = if lmtp { "LHLO me" } else { "EHLO me" };
    let mut transaction = Transaction::new(envelope, &capabilities(offer), lmtp).with_hello(hello);
    let mut sent = Vec::new();
    for (code, text) in replies {
        let step = transaction.advance(&mut sent);
        if *code == 0 {
            assert_eq!(step, Step::Content);
            transaction.finish(&mut sent);
            continue;
        }
        assert!(matches!(step, Step::Await(_)), "{step:?} before {text}");
        if transaction.reply(said(*code, text)).is_err() {
            break;
        }
    }
    transaction.advance(&mut sent);
    transaction.lose(transaction.stage(), "closed");
    let in_doubt = transaction.is_in_doubt();
    (transaction.into_results().iter().map(shown).collect(), in_doubt)
}

/// A peer that forgets the reply to the message answers EHLO, which offers extensions.
#[test]
fn the_reply_to_ehlo_is_not_that_to_the_message() {
    let offer = "PIPELINING\nCHUNKING";
    for (text, expected) in [
        ("taken", "accepted 250 taken"),
        ("taken\nreally", "accepted 250 taken really"),
        ("mx\nPIPELINING\nCHUNKING", "lost end after dot"),
    ] {
        let replies = [(250, "ok"), (250, "ok"), (0, ""), (250, text)];
        assert_eq!(cut_off(1, offer, false, &replies).0, [expected]);
    }
}

/// Where a reply is missing, those behind it may be those to other commands: who is refused for
/// good is not known until the count is proven.
#[test]
fn refusals_count_when_the_group_is_complete() {
    let lost = ("lost rcpt", true);
    let cases: &[(&str, bool, &[(u16, &str)], [(&str, bool); 2])] = &[
        // The reply to the first recipient is missing.
        ("PIPELINING", false, &[(250, "ok"), (550, "second")], [lost, lost]),
        ("PIPELINING\nCHUNKING", false, &[(250, "ok"), (550, "second")], [lost, lost]),
        ("PIPELINING", true, &[(250, "ok"), (550, "second")], [lost, lost]),
        // That to MAIL is.
        ("PIPELINING", false, &[(550, "first"), (451, "second")], [lost, lost]),
        // And to DATA there are none.
        (
            "PIPELINING",
            false,
            &[(250, "ok"), (550, "second"), (554, "no recipients")],
            [("lost data", true); 2],
        ),
        // What the peer refuses for now may be tried again anyway.
        (
            "PIPELINING",
            false,
            &[(250, "ok"), (451, "second")],
            [("refused rcpt 451 second", false), ("lost rcpt", false)],
        ),
        // One at a time each reply has its command.
        (
            "",
            false,
            &[(250, "ok"), (550, "first")],
            [("refused rcpt 550 first", false), ("lost rcpt", false)],
        ),
        // Only DATA has 354.
        (
            "PIPELINING",
            false,
            &[(250, "ok"), (550, "first"), (250, "ok"), (354, "go"), (0, "")],
            [("refused rcpt 550 first", false), ("lost end after dot", false)],
        ),
        // The reply to EHLO has not come.
        (
            "PIPELINING\nCHUNKING",
            false,
            &[(250, "ok"), (550, "first"), (250, "ok"), (0, ""), (250, "taken")],
            [("lost reset after dot", true), ("accepted 250 taken", true)],
        ),
        // Nor that to RSET.
        (
            "PIPELINING",
            false,
            &[(250, "ok"), (550, "first"), (550, "second"), (554, "none")],
            [("lost reset", true); 2],
        ),
    ];
    for (offer, lmtp, replies, expected) in cases {
        let (results, in_doubt) = cut_off(2, offer, *lmtp, replies);
        let expected_results = expected.map(|(result, _)| result);
        let expected_doubt = expected.iter().any(|(_, in_doubt)| *in_doubt);
        assert_eq!(
            (results, in_doubt),
            (expected_results.map(str::to_owned).into(), expected_doubt),
            "{offer} {replies:?}"
        );
    }
}

/// RFC 2033 4.2: a server that stops in the middle keeps what it has accepted. Behind a refusal
/// that is not certain.
#[test]
fn lmtp_results_that_came_before_the_end() {
    let begin = [(250, "ok"), (250, "ok"), (250, "ok"), (250, "ok"), (354, "go"), (0, "")];
    let lost = "lost end after dot";
    let cases: &[(&[(u16, &str)], [&str; 3])] = &[
        (&[(250, "a"), (250, "b")], ["accepted 250 a", "accepted 250 b", lost]),
        (&[(250, "a"), (552, "b")], ["accepted 250 a", lost, lost]),
        (&[(552, "a"), (250, "b")], [lost, lost, lost]),
        (&[(250, "a"), (452, "b")], ["accepted 250 a", "refused end 452 b", lost]),
        (&[(452, "a"), (250, "b")], ["refused end 452 a", lost, lost]),
    ];
    for (replies, expected) in cases {
        let replies = [&begin[..], replies].concat();
        assert_eq!(cut_off(3, "PIPELINING", true, &replies).0, expected, "{replies:?}");
    }
}

/// Each chunk has a reply of its own: one that comes before is a late one to another command.
#[test]
fn chunks_are_not_refused_early() {
    let recipients = recipients(2);
    let lines = lines(&recipients);
    let no = "refused rcpt 550 no";
    for (offer, code, octets, expected) in [
        ("PIPELINING", 451, 0, [no, "refused content 451 full"]),
        // It may be one too many to DATA.
        ("PIPELINING", 552, 0, [no, "lost content"]),
        ("PIPELINING", 552, 100_000, [no, "refused content 552 full"]),
        ("PIPELINING\nCHUNKING", 451, 0, ["lost content", "lost content"]),
    ] {
        let envelope = Envelope { mail_from: "<a@x>", recipients: &lines, size: 7, binary: false };
        let mut transaction = Transaction::new(envelope, &capabilities(offer), false);
        let mut sent = Vec::new();
        let data = (offer == "PIPELINING").then_some((354, "go"));
        for (code, text) in [(250, "ok"), (550, "no"), (250, "ok")].into_iter().chain(data) {
            assert!(matches!(transaction.advance(&mut sent), Step::Await(_)));
            transaction.reply(said(code, text)).unwrap();
        }
        assert_eq!(transaction.advance(&mut sent), Step::Content);
        transaction.push(&vec![b'x'; octets], &mut sent);
        let _ = transaction.reply(said(code, "full"));
        assert_eq!(transaction.advance(&mut sent), Step::Done { usable: false });
        let results: Vec<String> = transaction.into_results().iter().map(shown).collect();
        assert_eq!(results, expected, "{offer}");
    }
}

#[test]
fn transactions() {
    for case in CASES {
        (1..20).chain([1000]).for_each(|piece| play(case, piece));
    }
}

/// A peer that takes everything, with any number of commands without an answer.
fn play_accepting(
    mut transaction: Transaction<'_>,
    content: &[u8],
) -> (Vec<RcptResult>, Vec<u8>, usize) {
    let (mut sent, mut answered, mut most) = (Vec::new(), 0, 0);
    let mut content = content.chunks(1000);
    loop {
        match transaction.advance(&mut sent) {
            Step::Done { .. } => return (transaction.into_results(), sent, most),
            Step::Content => match content.next() {
                Some(piece) => transaction.push(piece, &mut sent),
                None => transaction.finish(&mut sent),
            },
            Step::Await(stage) => {
                most = most.max(sent.iter().filter(|octet| **octet == b'\n').count() - answered);
                answered += 1;
                let code = if stage == Stage::Data { 354 } else { 250 };
                transaction.reply(Reply::local(code, "ok")).unwrap();
            }
        }
    }
}

#[test]
fn many_recipients_are_sent_in_windows() {
    let recipients = recipients(1000);
    let lines = lines(&recipients);
    let envelope = Envelope { mail_from: "<a@x>", recipients: &lines, size: 1, binary: false };
    let transaction = Transaction::new(envelope, &capabilities("PIPELINING"), false);
    let (results, _, most) = play_accepting(transaction, b"");
    assert!(results.iter().all(|it| matches!(it, RcptResult::Accepted { .. })));
    assert_eq!((results.len(), most), (1000, 100));
}

#[test]
fn long_messages_go_out_in_chunks() {
    let recipients = recipients(1);
    let lines = lines(&recipients);
    let content: Vec<u8> = (0..300_000).map(|at| (at % 251) as u8).collect();
    let envelope = Envelope { mail_from: "<a@x>", recipients: &lines, size: 300_000, binary: true };
    for offer in ["CHUNKING\nBINARYMIME", "CHUNKING\nBINARYMIME\nPIPELINING"] {
        let transaction = Transaction::new(envelope, &capabilities(offer), false);
        let (results, sent, _) = play_accepting(transaction, &content);
        assert!(matches!(results[..], [RcptResult::Accepted { .. }]));
        let mut rest = &sent[..];
        let (mut received, mut ended) = (Vec::new(), false);
        while !rest.is_empty() {
            let end = rest.iter().position(|octet| *octet == b'\n').unwrap();
            let line = std::str::from_utf8(&rest[..end - 1]).unwrap();
            rest = &rest[end + 1..];
            let Some(chunk) = line.strip_prefix("BDAT ") else { continue };
            let size: usize = chunk.split(' ').next().unwrap().parse().unwrap();
            ended |= chunk.ends_with(" LAST");
            received.extend_from_slice(&rest[..size]);
            rest = &rest[size..];
        }
        assert!(received == content && ended);
    }
    // A peer that says BINARYMIME without CHUNKING cannot take it.
    let refused = Transaction::new(envelope, &capabilities("BINARYMIME"), false).into_results();
    assert_eq!(
        shown(&refused[0]),
        "refused mail 554 5.6.1 The host does not accept binary messages"
    );
}

/// The first refusal of a chunk says what is wrong with the message; those of the chunks behind it
/// only follow from it, and an acceptance would be of a message with a hole.
#[test]
fn the_first_refused_chunk_counts() {
    for (last, expected) in [
        ("503 5.5.1 no transaction", "refused content 451 4.3.0 not now"),
        ("250 2.6.0 taken", "lost end after dot"),
    ] {
        let recipients = recipients(1);
        let lines = lines(&recipients);
        let envelope =
            Envelope { mail_from: "<a@x>", recipients: &lines, size: 200_000, binary: false };
        let capabilities = capabilities("PIPELINING\nCHUNKING");
        let mut transaction = Transaction::new(envelope, &capabilities, false);
        let mut content = [b'x'; 200_000].chunks(70_000);
        let mut said = ["250 ok", "250 ok", "451 4.3.0 not now", "503 5.5.1 no", last, "250 ok"]
            .map(|line| format!("{line}\r\n"))
            .into_iter();
        let (mut sent, mut parser) = (Vec::new(), ReplyParser::default());
        loop {
            match transaction.advance(&mut sent) {
                Step::Done { .. } => break,
                Step::Content => match content.next() {
                    Some(piece) => transaction.push(piece, &mut sent),
                    None => transaction.finish(&mut sent),
                },
                Step::Await(_) => {
                    let (_, reply) = parser.next(said.next().unwrap().as_bytes());
                    if transaction.reply(reply.unwrap().unwrap()).is_err() {
                        break;
                    }
                }
            }
        }
        let chunks = sent.windows(5).filter(|it| it == b"BDAT ").count();
        assert_eq!(chunks, 3, "all are under way");
        assert_eq!(shown(&transaction.into_results()[0]), expected, "{last}");
    }
}

/// Nothing that is given as an address can become a command.
#[test]
fn addresses_cannot_inject_commands() {
    let bad = ["<a@x>\r\nRCPT TO:<evil@x>", "<a\n@x>", "<a\r@x>", "<a\0@x>", "<a\u{85}@x>"];
    let long = format!("<{}@x>", "a".repeat(5000));
    for bad in bad.into_iter().chain([&*long]) {
        let good = [RcptLine { path: "<b@y>", parameters: "" }];
        let envelope = Envelope { mail_from: bad, recipients: &good, size: 1, binary: false };
        let mut output = Vec::new();
        let mut transaction = Transaction::new(envelope, &capabilities("SMTPUTF8"), false);
        assert_eq!(transaction.advance(&mut output), Step::Done { usable: true });
        assert!(output.is_empty() && transaction.into_results()[0].is_permanent());

        let lines = [
            RcptLine { path: bad, parameters: "" },
            good[0],
            RcptLine { path: "<c@y>", parameters: bad },
        ];
        let envelope = Envelope { mail_from: "<>", recipients: &lines, size: 1, binary: false };
        let transaction = Transaction::new(envelope, &capabilities("PIPELINING\nSMTPUTF8"), false);
        let (results, sent, _) = play_accepting(transaction, b"");
        assert_eq!(sent, b"MAIL FROM:<>\r\nRCPT TO:<b@y>\r\nDATA\r\n.\r\n");
        assert!(
            results[0].is_permanent() && !results[1].is_permanent() && results[2].is_permanent()
        );
    }
    // RFC 6531 3.2: nor is a peer asked that cannot know such addresses.
    let lines = [RcptLine { path: "<\u{e9}@y>", parameters: "" }];
    let envelope = Envelope { mail_from: "<>", recipients: &lines, size: 1, binary: false };
    let results = Transaction::new(envelope, &capabilities(""), false).into_results();
    assert!(shown(&results[0]).starts_with("refused rcpt 553 5.6.7"));
}

#[test]
fn too_many_recipients_is_no_permanent_refusal() {
    let refused = |stage, code, text| {
        RcptResult::Refused { stage, reply: Reply::local(code, text) }.is_permanent()
    };
    assert!(!refused(Stage::Rcpt, 552, "too many"));
    assert!(!refused(Stage::Rcpt, 552, "5.5.3 too many"));
    assert!(refused(Stage::Rcpt, 552, "5.2.2 full"));
    assert!(refused(Stage::End, 552, "too large"));
    assert!(refused(Stage::Rcpt, 550, "no") && !refused(Stage::Rcpt, 450, "later"));
}

/// A peer that does as its plan says, but for one reply.
#[derive(Clone, Debug)]
struct Plan {
    offer: &'static str,
    lmtp: bool,
    /// 250, or a refusal.
    mail: u16,
    rcpt: Vec<u16>,
    data: u16,
    /// To the message; with LMTP one for each recipient.
    end: Vec<u16>,
    miscount: Miscount,
}

#[derive(Clone, Copy, Debug)]
enum Miscount {
    None,
    /// The reply of this number is never sent.
    TooFew(usize),
    /// Another one of this code follows it. `late`: it is not there yet when the client looks.
    TooMany(usize, u16, bool),
    /// One of this code is left from the transaction before.
    Left(u16),
}

/// The peer's side of a transaction: what it is sent, what it says, and what it means.
struct ModelPeer {
    plan: Plan,
    input: Vec<u8>,
    /// Replies that the client has not read.
    said: VecDeque<Reply>,
    replies: usize,
    in_data: bool,
    sender: bool,
    recipients: Vec<usize>,
    taken: Vec<bool>,
    /// Whose reply to the message was not sent.
    unsaid: Option<usize>,
    /// 354 was sent: one too many would be that to the message.
    late: bool,
}

impl ModelPeer {
    fn new(plan: Plan) -> ModelPeer {
        let left = match plan.miscount {
            Miscount::Left(code) => Some(said(code, "one left")),
            _ => None,
        };
        let late = matches!(plan.miscount, Miscount::TooMany(_, _, true) | Miscount::Left(_));
        ModelPeer {
            taken: vec![false; plan.rcpt.len()],
            plan,
            input: Vec::new(),
            said: left.into_iter().collect(),
            replies: 0,
            in_data: false,
            sender: false,
            recipients: Vec::new(),
            unsaid: None,
            late,
        }
    }

    /// False if the reply is not sent.
    fn say(&mut self, code: u16, text: &str) -> bool {
        let number = self.replies;
        self.replies += 1;
        match self.plan.miscount {
            Miscount::TooFew(missing) if missing == number => return false,
            Miscount::TooMany(place, extra, _) if place == number => {
                self.said.push_back(said(code, text));
                self.said.push_back(said(extra, "one too many"));
                // Nothing that is sent behind 354 has a number: it must be there at once.
                self.late &= code != 354;
            }
            _ => self.said.push_back(said(code, text)),
        }
        true
    }

    /// Takes what the client has sent, and answers it.
    fn hear(&mut self, sent: &mut Vec<u8>) {
        self.input.append(sent);
        loop {
            if self.in_data {
                let end = self.input.windows(3).position(|it| it == b".\r\n");
                let Some(end) = end else { return };
                self.input.drain(..end + 3);
                self.in_data = false;
                self.end();
                continue;
            }
            let Some(end) = self.input.iter().position(|it| *it == b'\n') else { return };
            let line = String::from_utf8(self.input[..end - 1].to_vec()).unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let chunk: usize = match words[..] {
                ["BDAT", size, ..] => size.parse().unwrap(),
                _ => 0,
            };
            if self.input.len() < end + 1 + chunk {
                return;
            }
            self.input.drain(..end + 1 + chunk);
            match words[..] {
                ["MAIL", ..] => {
                    self.sender = self.plan.mail == 250;
                    self.say(self.plan.mail, "mail");
                }
                ["RCPT", path, ..] => {
                    let digits = path.trim_matches(|it: char| !it.is_ascii_digit());
                    let at: usize = digits.parse().unwrap();
                    let code = if self.sender { self.plan.rcpt[at] } else { 503 };
                    if code == 250 {
                        self.recipients.push(at);
                    }
                    self.say(code, &format!("rcpt {at}"));
                }
                ["DATA"] if self.recipients.is_empty() => drop(self.say(554, "data")),
                ["DATA"] => {
                    self.in_data = self.plan.data == 250;
                    self.say(if self.in_data { 354 } else { self.plan.data }, "data");
                }
                ["BDAT", ..] if self.recipients.is_empty() => drop(self.say(503, "chunk")),
                ["BDAT", _] => drop(self.say(250, "chunk")),
                ["BDAT", ..] => self.end(),
                ["RSET"] => {
                    self.recipients.clear();
                    self.say(250, "rset");
                }
                ["EHLO" | "LHLO", ..] => {
                    self.recipients.clear();
                    self.say(250, &format!("mx\n{}", self.plan.offer));
                }
                _ => panic!("{line}"),
            }
        }
    }

    fn end(&mut self) {
        let recipients = std::mem::take(&mut self.recipients);
        for at in &recipients {
            self.taken[*at] = self.plan.end[if self.plan.lmtp { *at } else { 0 }] == 250;
        }
        if !self.plan.lmtp {
            self.say(self.plan.end[0], "end");
            return;
        }
        for at in recipients {
            if !self.say(self.plan.end[at], &format!("end {at}")) {
                self.unsaid = Some(at);
            }
        }
    }

    /// The text of the refusal that a recipient has for good, if it has one.
    fn refusal(&self, at: usize) -> Option<String> {
        let Plan { mail, rcpt, data, end, lmtp, .. } = &self.plan;
        let (end, end_text) = match lmtp {
            true => (end[at], format!("end {at}")),
            false => (end[0], "end".to_owned()),
        };
        let all = [
            (*mail, "mail".to_owned()),
            (rcpt[at], format!("rcpt {at}")),
            (*data, "data".to_owned()),
            (end, end_text),
        ];
        let (code, text) = all.into_iter().find(|(code, _)| *code != 250)?;
        (code >= 500).then_some(text)
    }
}

/// Sends a message to the peer, as `service::relay::client` does.
fn send_to(plan: Plan, octets: usize) -> (Vec<RcptResult>, bool, ModelPeer) {
    let recipients = recipients(plan.rcpt.len());
    let lines = lines(&recipients);
    let binary = plan.offer.contains("BINARYMIME");
    let envelope = Envelope { mail_from: "<a@x>", recipients: &lines, size: 1, binary };
    let hello = if plan.lmtp { "LHLO me" } else { "EHLO me" };
    let mut transaction =
        Transaction::new(envelope, &capabilities(plan.offer), plan.lmtp).with_hello(hello);
    let mut peer = ModelPeer::new(plan);
    let content = vec![b'x'; octets];
    let mut content = content.chunks(70_000);
    let mut sent = Vec::new();
    loop {
        let step = transaction.advance(&mut sent);
        match step {
            Step::Done { .. } => break,
            Step::Content => match content.next() {
                Some(piece) => transaction.push(piece, &mut sent),
                None => transaction.finish(&mut sent),
            },
            Step::Await(stage) => {
                peer.hear(&mut sent);
                let Some(reply) = peer.said.pop_front() else {
                    transaction.lose(stage, "closed");
                    break;
                };
                if transaction.reply(reply).is_err() {
                    break;
                }
                if transaction.expects_nothing()
                    && !peer.late
                    && let Some(reply) = peer.said.pop_front()
                    && transaction.reply(reply).is_err()
                {
                    break;
                }
            }
        }
    }
    let in_doubt = transaction.is_in_doubt();
    (transaction.into_results(), in_doubt, peer)
}

fn plans() -> impl Strategy<Value = Plan> {
    let code = || prop_oneof![4 => Just(250u16), 1 => Just(550), 1 => Just(451)];
    let offer = prop_oneof![
        Just(""),
        Just("PIPELINING"),
        Just("PIPELINING\nCHUNKING"),
        Just("PIPELINING\nCHUNKING\nBINARYMIME"),
        Just("CHUNKING\nBINARYMIME"),
    ];
    let extra = || prop_oneof![Just(250u16), Just(550), Just(450)];
    let miscount = prop_oneof![
        1 => Just(Miscount::None),
        4 => (0usize..9).prop_map(Miscount::TooFew),
        4 => (0usize..9, extra(), any::<bool>())
            .prop_map(|(at, code, late)| Miscount::TooMany(at, code, late)),
        1 => extra().prop_map(Miscount::Left),
    ];
    let recipients = (1usize..5).prop_flat_map(move |count| {
        (proptest::collection::vec(code(), count), proptest::collection::vec(code(), count))
    });
    (offer, any::<bool>(), code(), recipients, code(), miscount).prop_map(
        |(offer, lmtp, mail, (rcpt, end), data, miscount)| {
            // With one command at a time a reply too many has come before the next command; or no
            // client can tell.
            let pipelined = offer.contains("PIPELINING") && !(lmtp && offer.contains("BINARYMIME"));
            let miscount = match miscount {
                Miscount::TooMany(at, code, _) if !pipelined => Miscount::TooMany(at, code, false),
                Miscount::Left(_) if !pipelined => Miscount::None,
                miscount => miscount,
            };
            // BDAT has no command before the message to refuse.
            let data = if offer.contains("CHUNKING") { 250 } else { data };
            Plan { offer, lmtp, mail, rcpt, data, end, miscount }
        },
    )
}

/// A refusal too late for its recipient is that of a chunk, and 503 to the last chunk that of EHLO.
#[test]
fn a_refused_chunk_counts_when_ehlo_is_answered() {
    let plan = Plan {
        offer: "PIPELINING\nCHUNKING",
        lmtp: false,
        mail: 250,
        rcpt: vec![550, 550],
        data: 250,
        end: vec![250, 250],
        miscount: Miscount::TooMany(0, 250, true),
    };
    let (results, in_doubt, _) = send_to(plan, 200_000);
    let results: Vec<String> = results.iter().map(shown).collect();
    assert_eq!((results, in_doubt), (vec!["lost reset after dot".to_owned(); 2], true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// A peer that leaves one reply out, or sends one too many: what is said to be accepted was,
    /// and what is said to be refused for good was, by this very reply.
    #[test]
    fn results_are_those_that_the_peer_meant(
        plan in plans(),
        octets in prop_oneof![3 => Just(10usize), 1 => Just(200_000)],
    ) {
        let (results, in_doubt, peer) = send_to(plan, octets);
        let honest = matches!(peer.plan.miscount, Miscount::None);
        prop_assert!(!(honest && in_doubt));
        for (at, result) in results.iter().enumerate() {
            match result {
                // See `Transaction::lose`.
                RcptResult::Accepted { .. } if peer.unsaid == Some(at) => {}
                RcptResult::Accepted { .. } => prop_assert!(peer.taken[at], "{results:?}"),
                RcptResult::Refused { reply, .. } if result.is_permanent() => {
                    let meant = peer.refusal(at);
                    prop_assert_eq!(Some(&*reply.text), meant.as_deref(), "{:?}", results);
                }
                _ => prop_assert!(!honest || !peer.taken[at] && peer.refusal(at).is_none()),
            }
        }
    }
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

    /// Any replies: every recipient gets one result, and the transaction ends.
    #[test]
    fn any_peer_gives_one_result_for_each_recipient(
        codes in proptest::collection::vec(
            prop_oneof![Just(250u16), Just(354), Just(421), Just(450), Just(550), Just(220)], 1..40,
        ),
        count in 1usize..12,
        lmtp: bool,
        offer in prop_oneof![Just(""), Just("PIPELINING"), Just("PIPELINING\nCHUNKING"), Just("LIMITS RCPTMAX=3")],
    ) {
        let recipients = recipients(count);
        let lines = lines(&recipients);
        let envelope = Envelope { mail_from: "<a@x>", recipients: &lines, size: 1, binary: false };
        let mut transaction = Transaction::new(envelope, &capabilities(offer), lmtp);
        let mut output = Vec::new();
        let mut codes = codes.into_iter();
        let mut pieces = 0;
        loop {
            match transaction.advance(&mut output) {
                Step::Done { .. } => break,
                Step::Content if pieces < 3 => {
                    pieces += 1;
                    transaction.push(b".x\n", &mut output);
                }
                Step::Content => transaction.finish(&mut output),
                Step::Await(stage) => {
                    let Some(code) = codes.next() else {
                        transaction.lose(stage, "closed");
                        continue;
                    };
                    if transaction.reply(Reply::local(code, "x")).is_err() {
                        break;
                    }
                }
            }
        }
        prop_assert_eq!(transaction.into_results().len(), count);
        prop_assert!(!output.windows(2).any(|two| two[1] == b'\n' && two[0] != b'\r'));
    }
}
