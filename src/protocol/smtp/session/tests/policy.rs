//! Commands that are for some clients only, and limits.

use super::{super::super::command::NodeKind, *};

#[test]
fn limits_have_replies() {
    const MAIL: &str = "EHLO x\r\nMAIL FROM:<c@d>\r\n";
    let limits = Limits {
        message_size_max: 10,
        recipients_max: 2,
        refused_recipients_max: 2,
        errors_max: 2,
        commands_max: 8,
        hops_max: 1,
        text_line_max: Some(5),
        ..Limits::default()
    };
    let check = |input: &str, expected: &str| {
        check(Role::Exchange, limits, &format!("{MAIL}{input}"), expected, &[]);
    };
    check(&"RCPT TO:<a@b>\r\n".repeat(6), "250 250 250 250 452 452 452 452");
    check(&"RCPT TO:<no@b>\r\n".repeat(4), "250 250 550 550 550 421");
    check(&"FOO\r\n".repeat(4), "250 250 500 500 500 421");
    check(&"NOOP\r\n".repeat(9), "250 250 250 250 250 250 250 250 250 421");
    let rcpt = "RCPT TO:<a@b>\r\nDATA\r\n";
    check(&format!("{rcpt}a\r\nb\r\nc\r\nd\r\n.\r\n"), "250 250 250 354 552");
    check(&format!("{rcpt}abcdef\r\n.\r\n"), "250 250 250 354 550");
    check("RCPT TO:<a@b>\r\nBDAT 11 LAST\r\n12345678901", "250 250 250 552");
    check("RCPT TO:<a@b>\r\nBDAT 99999999999 LAST\r\n", "250 250 250 421");
    let long = format!("NOOP {}\r\n", "x".repeat(COMMAND_LINE_MAX));
    assert_eq!(codes(&play(Role::Exchange, limits, long.as_bytes(), 0).0), ["500"]);
    let hops = Limits { message_size_max: 1000, text_line_max: None, ..limits };
    let looping = format!("{MAIL}{rcpt}Received: a\r\nReceived: b\r\n\r\n.\r\n");
    let (output, _) = play(Role::Exchange, hops, looping.as_bytes(), 0);
    assert!(output.ends_with("554 5.4.6 Too many Received header fields: a mail loop\r\n"));
}

#[test]
fn transactions_of_a_session_are_limited() {
    let limits = Limits { transactions_max: Some(2), ..Limits::default() };
    let input = format!("EHLO x\r\n{}", "MAIL FROM:<a@b>\r\nRSET\r\n".repeat(3));
    check(Role::Exchange, limits, &input, "250 250 250 250 250 452 250", &[]);
    let input = "EHLO x\r\nMAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\nRSET\r\nMAIL FROM:<a@b>\r\n";
    check(Role::Exchange, limits, input, "250 250 503 250 452", &[]);
}

#[test]
fn trusted_peers_speak_for_others() {
    let security = Security { xclient: true, xforward: true, ..PLAIN };
    let mut session = Session::new(Role::Exchange, Limits::default(), security);
    let say = |session: &mut Session, line: &str| {
        let (mut output, line) = (Vec::new(), format!("{line}\r\n"));
        match session.next(line.as_bytes(), &mut output).1 {
            Event::Greeting(greeting) => {
                session.accept_greeting(&greeting, "me.test", NOW, &mut output);
            }
            Event::Sender(sender) => session.accept_sender(&sender, &mut output),
            Event::ClientClaimed => session.greet("me.test", &mut output),
            _ => {}
        }
        String::from_utf8_lossy(&output).into_owned()
    };
    let heard = say(&mut session, "EHLO filter.test");
    assert!(heard.contains("\r\n250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DEST"), "{heard}");
    assert!(heard.contains("\r\n250-XFORWARD NAME ADDR"), "{heard}");
    assert!(say(&mut session, "XFORWARD ADDR=192.0.2.7 HELO=one").starts_with("250 "));
    assert!(say(&mut session, "XFORWARD HELO=two").starts_with("250 "));
    assert!(say(&mut session, "XFORWARD HELO=three ADDR=x").starts_with("501 "));
    assert!(say(&mut session, "MAIL FROM:<a@b>").starts_with("250 "));
    assert!(say(&mut session, "XFORWARD HELO=two").starts_with("503 "));
    assert!(say(&mut session, "XCLIENT HELO=two").starts_with("503 "));
    let client = session.forwarded().expect("a client");
    assert_eq!((client.hello.as_deref(), client.address.is_some()), (Some("two"), true));
    assert_eq!(session.client_name(), "filter.test");
    say(&mut session, "RSET");
    assert_eq!(session.forwarded(), None);
    let claim = "XCLIENT ADDR=192.0.2.8 PROTO=SMTP HELO=real.test";
    assert!(say(&mut session, claim).starts_with("220 me.test "));
    assert!(say(&mut session, "MAIL FROM:<a@b>").starts_with("503 "));
    say(&mut session, "EHLO filter.test");
    assert_eq!((session.client_name(), session.transport().keyword()), ("real.test", "SMTP"));
    say(&mut session, "XCLIENT LOGIN=alice HELO=real.test");
    let login = |session: &Session| session.claimed().and_then(|client| client.login.clone());
    assert_eq!(login(&session).as_deref(), Some("alice"));
    session.assume_login();
    let heard = say(&mut session, "EHLO filter.test");
    assert!(session.transport().authenticated && !heard.contains("250-AUTH"), "{heard}");
    say(&mut session, "XCLIENT ADDR=192.0.2.9");
    assert!(!session.transport().authenticated && login(&session).is_none());
    let mut stranger = Session::new(Role::Exchange, Limits::default(), PLAIN);
    let heard = say(&mut stranger, "EHLO x");
    assert!(!heard.contains("XCLIENT") && !heard.contains("XFORWARD"));
    assert!(say(&mut stranger, claim).starts_with("550 "));
    assert!(say(&mut stranger, "XFORWARD ADDR=192.0.2.8").starts_with("550 "));
}

#[test]
fn expn_and_etrn_by_policy() {
    let node = Node { text: "x.test", kind: NodeKind::Domain };
    let may = |role, offer, trusted, logged_in| {
        let limits = Limits { expn: offer, etrn: offer, ..Limits::default() };
        let mut session = Session::new(role, limits, Security { trusted, ..PLAIN });
        let mut output = Vec::new();
        if logged_in {
            session.authenticated(&mut output);
        }
        output.clear();
        let early = session.next(b"ETRN x.test\r\n", &mut output).1;
        let refused = matches!(early, Event::Answered(Verb::Etrn));
        assert!(refused && matches!(&*output, [b'5', b'0', b'2' | b'3', ..]));
        output.clear();
        let verb = if role == Role::Lmtp { Verb::Lhlo } else { Verb::Ehlo };
        let greeting = Greeting { verb, client_name: "x" };
        session.accept_greeting(&greeting, "me.test", NOW, &mut output);
        let offered = String::from_utf8(std::mem::take(&mut output)).unwrap();
        let expn = session.next(b"EXPN list\r\n", &mut output).1 == Event::Expand("list");
        let etrn = session.next(b"ETRN x.test\r\n", &mut output).1 == Event::StartQueue(node);
        assert_eq!(offered.contains("250-EXPN\r\n"), expn);
        assert_eq!(offered.contains("250-ETRN\r\n"), etrn);
        assert_eq!(
            codes(std::str::from_utf8(&output).unwrap()).len(),
            2 - usize::from(expn) - usize::from(etrn)
        );
        (expn, etrn)
    };
    for (role, offer, trusted, logged_in, expected) in [
        (Role::Exchange, Offer::Nobody, true, true, (false, false)),
        (Role::Exchange, Offer::Trusted, false, false, (false, false)),
        (Role::Exchange, Offer::Trusted, true, false, (true, true)),
        (Role::Submission, Offer::Trusted, false, true, (true, true)),
        (Role::Exchange, Offer::Everybody, false, false, (true, true)),
        (Role::Lmtp, Offer::Everybody, true, false, (true, false)),
    ] {
        let case = (role, offer, trusted, logged_in);
        assert_eq!(may(role, offer, trusted, logged_in), expected, "{case:?}");
    }
    let limits = Limits { etrn: Offer::Everybody, ..Limits::default() };
    let mut session = Session::new(Role::Exchange, limits, PLAIN);
    let mut output = Vec::new();
    let greeting = Greeting { verb: Verb::Ehlo, client_name: "x" };
    session.accept_greeting(&greeting, "me.test", NOW, &mut output);
    session.transaction.open = true;
    output.clear();
    session.next(b"ETRN x.test\r\n", &mut output);
    assert!(output.starts_with(b"503 "));
}

#[test]
fn vrfy_by_policy() {
    let reply = |vrfy| {
        let limits = Limits { vrfy, ..Limits::default() };
        let mut session = Session::new(Role::Exchange, limits, PLAIN);
        let mut output = Vec::new();
        let verified = session.next(b"VRFY alice\r\n", &mut output).1 == Event::Verify("alice");
        (verified, String::from_utf8_lossy(&output).chars().take(3).collect::<String>())
    };
    assert_eq!(reply(Vrfy::Unsure), (false, "252".into()));
    assert_eq!(reply(Vrfy::Off), (false, "502".into()));
    assert_eq!(reply(Vrfy::Known), (true, String::new()));
}

#[test]
fn replies_with_many_lines_end_with_a_space() {
    let mut output = Vec::new();
    reply::append_members(&mut output, &["a@x.test".to_owned(), "b@x.test".to_owned()]);
    reply::append_members(&mut output, &["c@x.test".to_owned()]);
    let lines = "250-2.1.5 <a@x.test>\r\n250 2.1.5 <b@x.test>\r\n250 2.1.5 <c@x.test>\r\n";
    assert_eq!(std::str::from_utf8(&output).unwrap(), lines);
}
