//! Peers that send one reply too many or too few: nobody is refused for good by a reply that may
//! belong to another command.

use super::*;

const CASES: &[Case] = &[
    Case {
        name: "one reply too many: the recipient's is not that to the message",
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
        ..CHUNKED
    },
    Case {
        name: "one reply too many: the message was taken, and nobody is refused for good",
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
        ..CHUNKED
    },
    Case {
        name: "one reply too many, and all seem refused",
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
        ..CHUNKED
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
];

#[test]
fn miscounted_replies() {
    play_all(CASES);
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
