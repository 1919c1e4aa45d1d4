//! Messages in chunks (RFC 3030), and the EHLO that proves the count of replies behind them.

use super::*;

const CASES: &[Case] = &[
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
        name: "EHLO follows a message in chunks that is refused",
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
        ..CHUNKED
    },
    Case {
        name: "EHLO in place of RSET",
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
        ..CHUNKED
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
];

#[test]
fn messages_in_chunks() {
    play_all(CASES);
}

/// What the peer says to EHLO does not change what became of the message.
#[test]
fn ehlo_follows_a_message_in_chunks() {
    let sent = [
        "C: MAIL FROM:<a@x>",
        "C: RCPT TO:<r0@y> NOTIFY=NEVER",
        "S: 250 ok",
        "S: 250 ok",
        "C: BDAT 7 LAST",
        "C: Hi",
        "C: .",
        "C: EHLO me",
        "S: 250 taken",
    ];
    for (name, said, usable) in [
        ("a peer that answers EHLO", &["S: 250-mx", "S: 250 CHUNKING"][..], true),
        ("a peer that does not like EHLO twice", &["S: 503 duplicate EHLO"], false),
        ("a peer that closes after a message", &["S: 421 bye"], false),
    ] {
        let transcript = [&sent, said].concat();
        let results = &["accepted 250 taken"];
        play_all(&[Case { name, transcript: &transcript, results, usable, ..CHUNKED }]);
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
