//! XCLIENT, XFORWARD and VRFY over real sockets: who may use them, and what they change.

mod demo_server;
mod transcript;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use demo_server::{DemoServer, LMTP, POP3, SMTP, SUBMISSION, hear};

const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const FILTER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 10);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 8);

fn start() -> DemoServer {
    let settings = [
        "smtp.xclient_networks=[\"127.0.0.9\"]",
        "smtp.xforward_networks=[\"127.0.0.10\"]",
        "smtp.vrfy=\"known\"",
        "events.connections=true",
    ];
    DemoServer::start_with(SMTP, &settings)
}

/// A connection on which the greeting was heard.
fn dial(server: &DemoServer, source: Ipv4Addr, port: u16) -> TcpStream {
    let mut stream = server.dial_from(source, port);
    hear(&mut stream, " Ringmail\r\n");
    stream
}

/// Says a line.
fn say(stream: &mut TcpStream, line: &str, answer: &str) -> String {
    demo_server::say(stream, &format!("{line}\r\n"), answer)
}

fn send_message(stream: &mut TcpStream, subject: &str) {
    say(stream, "MAIL FROM:<x@y.test>", "250 ");
    say(stream, "RCPT TO:<nobody@demo.test>", "550 ");
    say(stream, "RCPT TO:<alice@demo.test>", "250 ");
    say(stream, "DATA", "354 ");
    say(stream, &format!("Subject: {subject}\r\n\r\nx\r\n."), "250 ");
}

/// What POP3 answers to these commands of alice.
fn retrieve(server: &DemoServer, commands: &str) -> String {
    let mut stream = server.dial_from(Ipv4Addr::LOCALHOST, POP3);
    let words = format!("USER alice@demo.test\r\nPASS demo\r\n{commands}QUIT\r\n");
    stream.write_all(words.as_bytes()).expect("sent");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).expect("the end");
    heard
}

/// The lines of events with `text`, once there are `count`.
fn events(server: &DemoServer, text: &str, count: usize) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let events = server.events();
        let found = events.lines().filter(|line| line.contains(text));
        let found: Vec<String> = found.map(str::to_owned).collect();
        if found.len() >= count || begin.elapsed() > Duration::from_secs(20) {
            assert_eq!(found.len(), count, "{text}: {events}");
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn xclient_takes_the_peers_place() {
    let server = start();
    let mut smtp = dial(&server, PROXY, SMTP);
    let heard = say(&mut smtp, "EHLO proxy.test", "250 ENHANCED");
    assert!(
        heard.contains("250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n"),
        "{heard}"
    );
    assert!(!heard.contains("XFORWARD"), "{heard}");
    say(&mut smtp, "XCLIENT ADDR=nonsense", "501 ");
    say(&mut smtp, "XCLIENT ADDR=192.0.2.7 NAME=[UNAVAILABLE] HELO=real.test", "220 ");
    say(&mut smtp, "MAIL FROM:<x@y.test>", "503 ");
    say(&mut smtp, "EHLO proxy.test", "250 ENHANCED");
    send_message(&mut smtp, "one");
    // LMTP too, and a second client on the same connection.
    let mut lmtp = dial(&server, PROXY, LMTP);
    for client in ["192.0.2.8", "IPV6:2001:db8::8"] {
        say(&mut lmtp, &format!("XCLIENT ADDR={client}"), "220 ");
        say(&mut lmtp, "LHLO proxy.test", "250 ENHANCED");
        send_message(&mut lmtp, "two");
    }
    let heard = retrieve(&server, "RETR 1\r\nRETR 3\r\n").to_ascii_lowercase();
    assert!(heard.contains("from real.test ([192.0.2.7])"), "{heard}");
    assert!(heard.contains("from proxy.test ([ipv6:2001:db8::8])"), "{heard}");
    let messages = events(&server, "\"event\":\"message\"", 3);
    // Lines of different shards come in any order.
    for said in ["\"peer\":\"192.0.2.7\",\"client\":\"real.test\"", "\"peer\":\"2001:db8::8\""] {
        assert!(messages.iter().any(|line| line.contains(said)), "{messages:?}");
    }

    // Wrong passwords are those of the client.
    let mut submission = dial(&server, PROXY, SUBMISSION);
    say(&mut submission, "XCLIENT ADDR=192.0.2.9", "220 ");
    say(&mut submission, "EHLO proxy.test", "250 ENHANCED");
    say(&mut submission, "AUTH PLAIN AGFsaWNlQGRlbW8udGVzdAB3cm9uZw==", "535 ");
    let refused = events(&server, "login_refused", 1);
    assert!(refused[0].contains("\"peer\":\"192.0.2.9\""), "{refused:?}");
}

#[test]
fn xclient_says_who_logged_in() {
    let server = start();
    // On port 25 a user is known only in this way.
    let mut smtp = dial(&server, PROXY, SMTP);
    say(&mut smtp, "XCLIENT HELO=real.test DESTADDR=192.0.2.1 DESTPORT=587", "220 ");
    say(&mut smtp, "XCLIENT ADDR=192.0.2.7 PORT=1025 LOGIN=alice@demo.test", "220 ");
    let told = events(&server, "\"event\":\"proxied\"", 2);
    let by = "\"by\":\"127.0.0.9\",\"peer\":\"192.0.2.7\",\"local\":\"192.0.2.1\",\"port\":587";
    assert!(told.iter().any(|line| line.contains(by)), "{told:?}");
    let logins = events(&server, "\"event\":\"login\"", 1);
    assert!(logins[0].contains("\"peer\":\"192.0.2.7\""), "{logins:?}");
    assert!(logins[0].contains("\"address\":\"alice@demo.test\""), "{logins:?}");
    say(&mut smtp, "EHLO proxy.test", "250 ENHANCED");
    say(&mut smtp, "MAIL FROM:<bob@demo.test>", "553 5.7.1 ");
    say(&mut smtp, "MAIL FROM:<alice@demo.test>", "250 ");
    // Not "relaying denied": the demo has no way out.
    say(&mut smtp, "RCPT TO:<x@elsewhere.test>", "550 5.7.1 Mail to other domains is not possible");
    say(&mut smtp, "RCPT TO:<alice@demo.test>", "250 ");
    say(&mut smtp, "DATA", "354 ");
    say(&mut smtp, "Subject: user\r\n\r\nx\r\n.", "250 ");
    let heard = retrieve(&server, "RETR 1\r\n");
    assert!(
        heard.contains("from real.test ([192.0.2.7])") && heard.contains("with ESMTPA"),
        "{heard}"
    );
    // Another client on the same connection has not logged in.
    say(&mut smtp, "XCLIENT ADDR=192.0.2.8", "220 ");
    say(&mut smtp, "EHLO proxy.test", "250 ENHANCED");
    say(&mut smtp, "MAIL FROM:<bob@demo.test>", "250 ");
    say(&mut smtp, "RCPT TO:<x@elsewhere.test>", "550 5.7.1 Relaying denied");
    say(&mut smtp, "RSET", "250 ");
    say(&mut smtp, "XCLIENT LOGIN=nobody@demo.test", "554 5.7.8 ");
    say(&mut smtp, "EHLO proxy.test", "503 ");
    // Where a log-in is required, this is one.
    let mut submission = dial(&server, PROXY, SUBMISSION);
    say(&mut submission, "XCLIENT LOGIN=alice", "220 ");
    let heard = say(&mut submission, "EHLO proxy.test", "250 ENHANCED");
    assert!(!heard.contains("AUTH"), "{heard}");
    say(&mut submission, "MAIL FROM:<alice@demo.test>", "250 ");
    say(&mut submission, "RSET", "250 ");
    say(&mut submission, "XCLIENT LOGIN=[UNAVAILABLE]", "220 ");
    say(&mut submission, "EHLO proxy.test", "250 ENHANCED");
    say(&mut submission, "MAIL FROM:<alice@demo.test>", "530 ");
    let mut stranger = dial(&server, STRANGER, SUBMISSION);
    say(&mut stranger, "XCLIENT LOGIN=alice", "550 ");
}

#[test]
fn xforward_names_the_client_of_a_message_in_the_log_only() {
    let server = start();
    let mut smtp = dial(&server, FILTER, SMTP);
    let heard = say(&mut smtp, "EHLO filter.test", "250 ENHANCED");
    assert!(heard.contains("250-XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n"), "{heard}");
    say(&mut smtp, "XCLIENT ADDR=192.0.2.7", "550 ");
    say(&mut smtp, "XFORWARD NAME=real.test ADDR=192.0.2.7 PORT=1025 PROTO=ESMTP", "250 ");
    say(&mut smtp, "XFORWARD HELO=real.test IDENT=4F2 SOURCE=REMOTE", "250 ");
    send_message(&mut smtp, "one");
    send_message(&mut smtp, "two");
    let heard = retrieve(&server, "RETR 1\r\n");
    assert!(heard.contains("from filter.test ([127.0.0.10])"), "{heard}");
    for event in ["\"event\":\"message\"", "recipient_refused"] {
        let found = events(&server, event, 2);
        let real = "\"peer\":\"192.0.2.7\",\"client\":\"real.test\"";
        let filter = "\"peer\":\"127.0.0.10\",\"client\":\"filter.test\"";
        assert!(found[0].contains(real) && found[1].contains(filter), "{found:?}");
    }
}

#[test]
fn strangers_speak_for_themselves() {
    let server = start();
    let mut smtp = dial(&server, STRANGER, SMTP);
    let heard = say(&mut smtp, "EHLO stranger.test", "250 ENHANCED");
    assert!(!heard.contains("XCLIENT") && !heard.contains("XFORWARD"), "{heard}");
    say(&mut smtp, "XCLIENT ADDR=192.0.2.7", "550 ");
    say(&mut smtp, "XFORWARD ADDR=192.0.2.7", "550 ");
    // A client that claims to be a trusted peer is none.
    let mut proxy = dial(&server, PROXY, SMTP);
    say(&mut proxy, "XCLIENT ADDR=127.0.0.10", "220 ");
    say(&mut proxy, "EHLO proxy.test", "250 ENHANCED");
    say(&mut proxy, "XFORWARD ADDR=192.0.2.7", "550 ");
}

#[test]
fn vrfy_asks_the_directory_where_it_may() {
    let server = start();
    let mut smtp = dial(&server, STRANGER, SMTP);
    say(&mut smtp, "VRFY alice@demo.test", "250 2.1.5 <alice@demo.test>\r\n");
    say(&mut smtp, "VRFY <alice+tag@demo.test>", "250 2.1.5 <alice+tag@demo.test>\r\n");
    say(&mut smtp, "VRFY nobody@demo.test", "550 5.1.1 ");
    say(&mut smtp, "VRFY someone@elsewhere.test", "252 ");
    say(&mut smtp, "VRFY alice", "252 ");
    say(&mut smtp, "EXPN alice@demo.test", "502 ");
    say(&mut smtp, "ETRN demo.test", "502 ");
}
