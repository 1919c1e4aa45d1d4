//! Limits of the peer, and of what is sent without an answer.

use super::*;

const CASES: &[Case] = &[
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

#[test]
fn limits_of_the_peer() {
    play_all(CASES);
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
