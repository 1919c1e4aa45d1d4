//! Transactions one command at a time and pipelined (RFC 2920): who is accepted, and who refused by
//! which reply.

use proptest::prelude::*;

use super::*;

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
];

#[test]
fn transactions() {
    play_all(CASES);
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

proptest! {
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
