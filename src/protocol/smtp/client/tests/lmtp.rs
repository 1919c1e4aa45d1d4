//! LMTP (RFC 2033): a reply to the message for each accepted recipient.

use super::*;

const CASES: &[Case] = &[
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
];

#[test]
fn lmtp() {
    play_all(CASES);
}

/// Only the reply to LHLO shows whether there were as many as there should be.
#[test]
fn lhlo_follows_a_message_for_several_recipients() {
    let sent = [
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
    ];
    for (name, said, results, usable) in [
        (
            "as many replies as recipients",
            &["S: 250 zero", "S: 552 one is full", "S: 250-mx", "S: 250 PIPELINING"][..],
            ["accepted 250 zero", "refused end 552 one is full"],
            true,
        ),
        (
            "one reply too many",
            &["S: 250 zero", "S: 250 one too many", "S: 552 one is full"],
            ["lost reset after dot"; 2],
            false,
        ),
        (
            "one reply too few",
            &["S: 552 one is full", "S: 250-mx", "S: 250 PIPELINING"],
            ["lost end after dot"; 2],
            false,
        ),
    ] {
        let transcript = [&sent, said].concat();
        play_all(&[Case {
            name,
            capabilities: "PIPELINING",
            lmtp: true,
            hello: Some("LHLO me"),
            recipients: 2,
            transcript: &transcript,
            results: &results,
            usable,
            ..PLAIN
        }]);
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
