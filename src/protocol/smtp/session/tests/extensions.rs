//! What is announced, and what is taken, by the role, the extensions that are on, and TLS.

use super::*;

const ALL: Extensions = Extensions {
    dsn: true,
    require_tls: true,
    deliver_by: Some(60),
    mt_priority: true,
    future_release: Some(3600),
    limits: true,
};

#[test]
fn capabilities_follow_the_state() {
    let offered = |role, security| {
        let mut output = Vec::new();
        let line: &[u8] = if role == Role::Lmtp { b"LHLO x\r\n" } else { b"EHLO x\r\n" };
        let mut session = Session::new(role, Limits::default(), security);
        let Event::Greeting(greeting) = session.next(line, &mut output).1 else {
            panic!("a greeting");
        };
        session.accept_greeting(&greeting, "me.test", NOW, &mut output);
        let text = String::from_utf8_lossy(&output).into_owned();
        assert!(text.starts_with("250-me.test\r\n") && text.contains("250-SIZE 52428800\r\n"));
        (text.contains("STARTTLS"), text.contains("250-AUTH ") && text.contains(" PLAIN LOGIN"))
    };
    let plain = Security { can_start_tls: true, ..Security::default() };
    let tls = Security { tls: true, can_start_tls: true, ..PLAIN };
    assert_eq!(offered(Role::Exchange, plain), (true, false));
    assert_eq!(offered(Role::Submission, plain), (true, false));
    assert_eq!(offered(Role::Submission, tls), (false, true));
    assert_eq!(offered(Role::Submission, PLAIN), (false, true));
    assert_eq!(offered(Role::Lmtp, tls), (false, false));
}

#[test]
fn notifications_are_asked_for_only_where_they_are_offered() {
    let input = "EHLO x\r\nMAIL FROM:<c@d> RET=HDRS\r\nMAIL FROM:<c@d>\r\n\
                 RCPT TO:<a@b> NOTIFY=NEVER\r\nRCPT TO:<a@b>\r\n";
    let offered = Limits {
        extensions: Extensions { dsn: true, ..Extensions::default() },
        ..Limits::default()
    };
    let (output, _) = play(Role::Exchange, Limits::default(), input.as_bytes(), 0);
    assert_eq!(codes(&output).join(" "), "250 555 250 555 250");
    assert!(!output.contains("DSN"));
    let (output, _) = play(Role::Exchange, offered, input.as_bytes(), 0);
    assert_eq!(codes(&output).join(" "), "250 250 503 250 250");
    assert!(output.contains("250-DSN\r\n"));
}

#[test]
fn extensions_are_announced_where_they_hold() {
    let announced = |role, tls, extensions, transactions_max| {
        let limits = Limits { extensions, transactions_max, ..Limits::default() };
        let mut session = Session::new(role, limits, Security { tls, ..PLAIN });
        let greeting = Greeting { verb: Verb::Ehlo, client_name: "x" };
        let mut output = Vec::new();
        session.accept_greeting(&greeting, "me.test", NOW, &mut output);
        let text = String::from_utf8_lossy(&output).into_owned();
        let begin = text.find("250-DSN").or(text.find("250-HELP")).expect("HELP");
        let lines = text[begin..].lines().take_while(|line| !line.ends_with("HELP"));
        lines.map(|line| line[4..].to_owned()).collect::<Vec<_>>().join(", ")
    };
    let bare = Extensions { deliver_by: Some(0), ..ALL };
    assert_eq!(
        announced(Role::Submission, true, ALL, Some(50)),
        "DSN, REQUIRETLS, DELIVERBY 60, MT-PRIORITY, FUTURERELEASE 3600 2026-11-23T22:36:29Z, \
         LIMITS RCPTMAX=1000 MAILMAX=50"
    );
    assert_eq!(
        announced(Role::Exchange, false, bare, None),
        "DSN, DELIVERBY, MT-PRIORITY, LIMITS RCPTMAX=1000"
    );
    assert_eq!(
        announced(Role::Lmtp, true, ALL, None),
        "DSN, REQUIRETLS, MT-PRIORITY, LIMITS RCPTMAX=1000"
    );
    assert_eq!(announced(Role::Submission, true, Extensions::default(), Some(1)), "");
}

/// Each parameter, and the reply where its extension is not offered and where it is.
#[test]
fn demands_are_taken_where_they_are_offered() {
    const CASES: &[(&str, &str)] = &[
        ("RET=FULL", "250"),
        ("REQUIRETLS", "250"),
        ("BY=59;N", "250"),
        ("BY=-59;N", "250"),
        ("BY=59;R", "555"),
        ("BY=60;R", "250"),
        ("MT-PRIORITY=9", "250"),
        ("HOLDFOR=3600", "250"),
        ("HOLDFOR=3601", "501"),
        ("HOLDUNTIL=2026-11-23T22:36:29Z", "250"),
        ("HOLDUNTIL=2026-11-23T22:36:30Z", "501"),
        ("HOLDUNTIL=2016-11-23T22:36:30Z", "250"),
    ];
    let reply = |role, tls, extensions, parameter: &str| {
        let limits = Limits { extensions, ..Limits::default() };
        let mut session = Session::new(role, limits, Security { tls, ..PLAIN });
        let greeting = Greeting { verb: Verb::Ehlo, client_name: "x" };
        let mut output = Vec::new();
        session.accept_greeting(&greeting, "me.test", NOW, &mut output);
        session.authenticated(&mut output);
        output.clear();
        let line = format!("MAIL FROM:<a@b> {parameter}\r\n");
        match session.next(line.as_bytes(), &mut output).1 {
            Event::Sender(_) => "250".to_owned(),
            _ => String::from_utf8_lossy(&output)[..3].to_owned(),
        }
    };
    for (parameter, expected) in CASES {
        let offered = reply(Role::Submission, true, ALL, parameter);
        assert_eq!(offered, *expected, "{parameter}");
        let not_offered = reply(Role::Submission, true, Extensions::default(), parameter);
        assert_eq!(not_offered, "555", "{parameter}");
    }
    assert_eq!(reply(Role::Submission, false, ALL, "REQUIRETLS"), "555");
    assert_eq!(reply(Role::Exchange, true, ALL, "HOLDFOR=1"), "555");
    assert_eq!(reply(Role::Lmtp, true, ALL, "BY=60;N"), "555");
}

#[test]
fn an_original_recipient_in_utf8_needs_the_extension() {
    let limits = Limits { extensions: ALL, ..Limits::default() };
    let input = "EHLO x\r\nMAIL FROM:<c@d>\r\nRCPT TO:<a@b> ORCPT=utf-8;\u{e9}@b\r\nRSET\r\n\
                 MAIL FROM:<c@d> SMTPUTF8\r\nRCPT TO:<a@b> ORCPT=utf-8;\u{e9}@b\r\n";
    check(Role::Exchange, limits, input, "250 250 501 250 250 250", &[]);
}
