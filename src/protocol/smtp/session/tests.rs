//! Dialogues with a service that accepts nearly everything, cut at every octet.

mod extensions;
mod policy;

use proptest::prelude::*;

use super::*;

/// 2026-11-23T21:36:29Z.
const NOW: Timestamp = Timestamp(1_795_469_789_000_000);

const NO_SUCH_USER: Reply = Reply("550 5.1.1 No");

const PLAIN: Security = Security {
    tls: false,
    can_start_tls: false,
    plaintext_auth: true,
    lmtp_auth: false,
    mechanisms: sasl::Mechanisms::ALL,
    xclient: false,
    xforward: false,
    trusted: false,
};

/// Plays `input`, cut at `cut`, with a service that accepts everything except recipients named
/// "no"; returns all output and all messages.
fn play(role: Role, limits: Limits, input: &[u8], cut: usize) -> (String, Vec<String>) {
    let mut session = Session::new(role, limits, PLAIN);
    let (mut output, mut messages, mut message) = (Vec::new(), Vec::new(), Vec::new());
    let (mut start, mut end, mut recipients) = (0, cut, 0);
    loop {
        let (consumed, event) = session.next(&input[start..end], &mut output);
        start += consumed;
        match event {
            Event::Incomplete if end == input.len() => break,
            Event::Incomplete => end = input.len(),
            Event::Answered(_) => (),
            Event::Reset(_) => {
                recipients = 0;
                message.clear();
            }
            Event::MessageRefused(_) => {
                session.end_transaction(false);
                recipients = 0;
                message.clear();
            }
            Event::Greeting(greeting) => {
                session.accept_greeting(&greeting, "me.test", NOW, &mut output);
                recipients = 0;
                message.clear();
            }
            Event::MessageStart(_) => session.accept_message(&mut output),
            Event::Sender(sender) => session.accept_sender(&sender, &mut output),
            Event::Recipient(it) if it.path.as_str().starts_with("no") => {
                session.refuse_recipient(NO_SUCH_USER, &mut output);
            }
            Event::Recipient(_) => {
                recipients += 1;
                session.accept_recipient(&mut output);
            }
            Event::Content(content) => message.extend_from_slice(content),
            Event::MessageEnd => {
                let replies = if role == Role::Lmtp { recipients } else { 1 };
                (0..replies).for_each(|_| reply::DELIVERED.append_to(&mut output));
                messages.push(String::from_utf8_lossy(&message).into_owned());
                message.clear();
                recipients = 0;
                session.end_transaction(true);
            }
            Event::Authenticate(_) => {
                let next = session.answer(sasl::Answer::Accepted, &mut output);
                assert_eq!(next, Event::Judged);
                session.authenticated(&mut output);
            }
            Event::Judged => session.authenticated(&mut output),
            Event::StartTls => panic!("TLS is not offered"),
            Event::Verify(_) | Event::Expand(_) | Event::StartQueue(_) | Event::ClientClaimed => {
                panic!("not allowed here")
            }
            Event::Close(_) => break,
        }
    }
    (String::from_utf8_lossy(&output).into_owned(), messages)
}

/// The code of each reply, continuation lines left out.
fn codes(output: &str) -> Vec<&str> {
    output.lines().filter(|line| line.get(3..4) == Some(" ")).map(|line| &line[..3]).collect()
}

fn check(role: Role, limits: Limits, input: &str, expected: &str, messages: &[&str]) {
    for cut in 0..=input.len() {
        let (output, found) = play(role, limits, input.as_bytes(), cut);
        assert_eq!(codes(&output).join(" "), expected, "{input:?} cut at {cut}: {output}");
        assert_eq!(found, messages, "{input:?} cut at {cut}");
    }
}

#[test]
fn lmtp_clients_log_in_where_they_must() {
    let security = Security { lmtp_auth: true, ..PLAIN };
    let mut session = Session::new(Role::Lmtp, Limits::default(), security);
    let mut output = Vec::new();
    let greeting = Greeting { verb: Verb::Lhlo, client_name: "x" };
    assert_eq!(session.next(b"LHLO x\r\n", &mut output).1, Event::Greeting(greeting));
    session.accept_greeting(&greeting, "me.test", NOW, &mut output);
    assert!(String::from_utf8_lossy(&output).contains("250-AUTH "));
    output.clear();
    assert_eq!(session.next(b"MAIL FROM:<>\r\n", &mut output).1, Event::Answered(Verb::Mail));
    let asked = session.next(b"AUTH PLAIN AGEAYg==\r\n", &mut output).1;
    assert!(matches!(asked, Event::Authenticate(_)), "{asked:?}");
    assert_eq!(session.answer(sasl::Answer::Accepted, &mut output), Event::Judged);
    session.authenticated(&mut output);
    assert!(matches!(session.next(b"MAIL FROM:<>\r\n", &mut output).1, Event::Sender(_)));
    assert_eq!(codes(&String::from_utf8_lossy(&output)), ["530", "235"]);
}

#[test]
fn dialogues() {
    use Role::*;
    const CASES: &[(Role, &str, &str, &[&str])] = &[
        (Exchange, "NOOP\r\nRSET\r\nQUIT\r\nNOOP\r\n", "250 250 221", &[]),
        (Exchange, "MAIL FROM:<a@b>\r\n", "503", &[]),
        (Exchange, "LHLO x\r\n", "500", &[]),
        (Lmtp, "HELO x\r\nEHLO x\r\nLHLO x\r\n", "500 500 250", &[]),
        (
            Exchange,
            "HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n..x\r\n.\r\nQUIT\r\n",
            "250 250 250 354 250 221",
            &[".x\r\n"],
        ),
        (
            Exchange,
            "EHLO x\r\nRCPT TO:<a@b>\r\nDATA\r\nMAIL FROM:<c@d>\r\nMAIL FROM:<c@d>\r\nDATA\r\n",
            "250 503 503 250 503 554",
            &[],
        ),
        (
            Lmtp,
            "LHLO x\r\nMAIL FROM:<c@d>\r\nRCPT TO:<no@b>\r\nDATA\r\nRCPT TO:<a@b>\r\n\
             RCPT TO:<b@b>\r\nDATA\r\nx\r\n.\r\n",
            "250 250 550 503 250 250 354 250 250",
            &["x\r\n"],
        ),
        (
            Exchange,
            "EHLO x\r\nMAIL FROM:<c@d> BODY=BINARYMIME\r\nRCPT TO:<a@b>\r\nDATA\r\n\
             BDAT 4\r\na\n.\nBDAT 0\r\nDATA\r\nBDAT 2 LAST\r\nbcNOOP\r\n",
            "250 250 250 503 250 250 503 250 250",
            &["a\n.\nbc"],
        ),
        (Exchange, "EHLO x\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", "250 503 250", &[]),
        (Exchange, "EHLO x\r\nBDAT six\r\nQUIT\r\n", "250 501 421", &[]),
        (
            Exchange,
            "EHLO x\r\nMAIL FROM:<c@d> SIZE=101\r\nMAIL FROM:<c@d> SIZE=100\r\n",
            "250 552 250",
            &[],
        ),
        (
            Exchange,
            "EHLO x\r\nMAIL FROM:<c@d>\r\nRCPT TO:<a@b>\r\nDATA\r\nbare\nLF\r\n.\r\nNOOP\r\n",
            "250 250 250 354 550 250",
            &[],
        ),
        (
            Exchange,
            "EHLO x\r\nMAIL FROM:<c@d>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n.\nMAIL FROM:<e@f>\r\n",
            "250 250 250 354 521",
            &[],
        ),
        (
            Exchange,
            "EHLO x\r\nMAIL FROM:<c@d>\r\nRCPT TO:<\u{e9}@b>\r\nRSET\r\n\
             MAIL FROM:<c@d> SMTPUTF8\r\nRCPT TO:<\u{e9}@b>\r\n",
            "250 250 553 250 250 250",
            &[],
        ),
        (Exchange, "EHLO x\r\nAUTH PLAIN AGEAYg==\r\nSTARTTLS\r\n", "250 502 502", &[]),
        (Exchange, "EHLO x\r\nMAIL FROM:<c@d> AUTH=<>\r\n", "250 250", &[]),
        (Submission, "EHLO x\r\nMAIL FROM:<c@d>\r\n", "250 530", &[]),
        (
            Submission,
            "EHLO x\r\nAUTH PLAIN AGEAYg==\r\nAUTH PLAIN AGEAYg==\r\nMAIL FROM:<c@d> AUTH=<>\r\n",
            "250 235 503 250",
            &[],
        ),
        (Submission, "EHLO x\r\nAUTH LOGIN\r\nYQ==\r\nYg==\r\n", "250 334 334 235", &[]),
        (Submission, "EHLO x\r\nAUTH PLAIN\r\n*\r\nNOOP\r\n", "250 334 501 250", &[]),
        (Submission, "EHLO x\r\nAUTH PLAIN\r\n!\r\nAUTH X\r\n", "250 334 501 504", &[]),
        (Submission, "HELO x\r\nAUTH PLAIN AGEAYg==\r\n", "250 503", &[]),
        (Exchange, "VRFY a\r\nEXPN a\r\nHELP\r\nTURN\r\nFOO\r\n", "252 502 214 502 500", &[]),
        (Exchange, "NOOP\nNOOP\r\n", "500 250", &[]),
    ];
    let limits = Limits { message_size_max: 100, ..Limits::default() };
    for (role, input, expected, messages) in CASES {
        check(*role, limits, input, expected, messages);
    }
}

#[test]
fn tls_forgets_what_was_said_before() {
    let security = Security { can_start_tls: true, ..Security::default() };
    let mut session = Session::new(Role::Exchange, Limits::default(), security);
    let mut output = Vec::new();
    let greeting = Greeting { verb: Verb::Ehlo, client_name: "x" };
    assert_eq!(session.next(b"EHLO x\r\n", &mut output).1, Event::Greeting(greeting));
    session.accept_greeting(&greeting, "me.test", NOW, &mut output);
    assert_eq!(session.next(b"STARTTLS\r\n", &mut output).1, Event::StartTls);
    session.tls_started(sasl::Mechanisms::ALL);
    output.clear();
    session.next(b"MAIL FROM:<a@b>\r\n", &mut output);
    session.next(b"STARTTLS\r\n", &mut output);
    assert_eq!(codes(&String::from_utf8_lossy(&output)), ["503", "503"]);
}

/// Refusals by the service at each step, and the client's view of them.
#[test]
fn refusals_at_each_step() {
    const NO: Reply = Reply("450 4.7.1 Not now");
    let play = |refused: &str, input: &str| {
        let mut session = Session::new(Role::Exchange, Limits::default(), PLAIN);
        let (mut output, mut rest) = (Vec::new(), input.as_bytes());
        if refused == "connect" {
            session.reject(Reply("554 5.7.1 No"), &mut output);
        }
        loop {
            let (consumed, event) = session.next(rest, &mut output);
            let accepted = match event {
                Event::Incomplete | Event::Close(_) => break,
                Event::Greeting(_) if refused == "hello" => false,
                Event::Greeting(it) => {
                    session.accept_greeting(&it, "me.test", NOW, &mut output);
                    true
                }
                Event::Sender(sender) => {
                    session.accept_sender(&sender, &mut output);
                    true
                }
                Event::Recipient(_) => {
                    session.accept_recipient(&mut output);
                    true
                }
                Event::MessageStart(_) if refused == "message" => {
                    session.refuse_message(NO, &mut output);
                    true
                }
                Event::MessageStart(_) => {
                    session.accept_message(&mut output);
                    true
                }
                Event::MessageEnd => {
                    reply::DELIVERED.append_to(&mut output);
                    session.end_transaction(true);
                    true
                }
                _ => true,
            };
            if !accepted {
                session.refuse(NO, &mut output);
            }
            rest = &rest[consumed..];
        }
        codes(&String::from_utf8_lossy(&output)).join(" ")
    };
    const MAIL: &str = "EHLO x\r\nMAIL FROM:<c@d>\r\nRCPT TO:<a@b>\r\n";
    let to_data = format!("{MAIL}DATA\r\nRSET\r\n");
    let to_chunk = format!("{MAIL}BDAT 3\r\nabcBDAT 1 LAST\r\nxNOOP\r\n");
    // RFC 5321 3.1: after 554 the client is served until QUIT, and gets 503.
    assert_eq!(play("connect", "EHLO x\r\nNOOP\r\nQUIT\r\n"), "554 503 503 221");
    assert_eq!(play("connect", &"NOOP\r\n".repeat(30))[..7], *"554 503");
    assert!(play("connect", &"NOOP\r\n".repeat(30)).ends_with("503 421"));
    assert_eq!(play("hello", &to_data), "450 503 503 503 250");
    assert_eq!(play("message", &to_data), "250 250 250 450 250");
    // RFC 3030 2: a chunk is read to its end, whatever the reply to it.
    assert_eq!(play("message", &to_chunk), "250 250 250 450 503 250");
    assert_eq!(play("", &to_chunk), "250 250 250 250 250 250");
    let long = format!("{MAIL}BDAT {}\r\nabc", SWALLOW_MAX + 1);
    assert_eq!(play("message", &long), "250 250 250 421");
}

proptest! {
    #[test]
    fn anything_is_answered_the_same_however_cut(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<a@b>", "DATA", "BDAT 3", "BDAT 2 LAST",
            "RSET", "\r\n", "\r\n", "\r\n", "\n", "\r", ".", "x", "AUTH PLAIN", "*",
        ]), 0..40),
        cut in 0usize..100,
    ) {
        let input = words.concat().into_bytes();
        for role in [Role::Exchange, Role::Submission, Role::Lmtp] {
            let whole = play(role, Limits::default(), &input, input.len());
            let cut = play(role, Limits::default(), &input, cut.min(input.len()));
            prop_assert_eq!(whole, cut);
        }
    }
}
