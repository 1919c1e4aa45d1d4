//! The PROXY protocol over real sockets, on every service: whom the server takes for its client.

mod demo_server;
mod transcript;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use demo_server::{DemoServer, IMAP, LMTP, POP3, SMTP, SUBMISSION, begin_tls, hear, say};

const SUBMISSIONS: u16 = 465;
const POP3S: u16 = 995;
const IMAPS: u16 = 993;

/// The load balancer.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

fn start() -> DemoServer {
    let settings = [
        "listen.proxy_networks=[\"127.0.0.9\"]",
        "limits.connections_per_address=2",
        "events.connections=true",
    ];
    DemoServer::start_with(SMTP, &settings)
}

/// A header of version 1 for a client.
fn version_1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.1 40000 25\r\n").into_bytes()
}

/// One of version 2, with an empty TLV.
fn version_2(client: Ipv4Addr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f".to_vec();
    header.extend_from_slice(&client.octets());
    header.extend_from_slice(&[192, 0, 2, 1, 0x9c, 0x40, 0, 25, 0x04, 0, 0]);
    header
}

/// What is heard until the server closes.
fn hear_all(mut stream: TcpStream) -> String {
    let mut heard = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut heard);
    String::from_utf8_lossy(&heard).into_owned()
}

#[test]
fn the_client_is_the_one_that_the_header_names() {
    let server = start();
    let dial = |port| server.dial_from(PROXY, port);

    let mut smtp = dial(SMTP);
    smtp.write_all(&version_1("192.0.2.7")).expect("sent");
    hear(&mut smtp, "220 ");
    say(&mut smtp, "EHLO client.test\r\n", "250 ENHANCED");
    say(&mut smtp, "MAIL FROM:<x@y.test>\r\n", "250 ");
    say(&mut smtp, "RCPT TO:<alice@demo.test>\r\n", "250 ");
    say(&mut smtp, "DATA\r\n", "354 ");
    say(&mut smtp, "Subject: hello\r\n\r\nx\r\n.\r\n", "250 ");
    // The header octet by octet, and a v2 header in front of the words of the client.
    let mut lmtp = dial(LMTP);
    for octet in version_2(Ipv4Addr::new(192, 0, 2, 8)) {
        lmtp.set_nodelay(true).expect("no delay");
        lmtp.write_all(&[octet]).expect("sent");
    }
    hear(&mut lmtp, "220 ");
    let mut pop3 = dial(POP3);
    pop3.write_all(&[version_2(Ipv4Addr::new(192, 0, 2, 10)), b"CAPA\r\n".to_vec()].concat())
        .expect("sent");
    hear(&mut pop3, "\r\n.\r\n");

    // STARTTLS after the header; the header with the handshake in one write; TLS later.
    for port in [POP3S, IMAPS, SUBMISSIONS] {
        let header = version_2(Ipv4Addr::new(192, 0, 2, 11));
        let mut stream = begin_tls(dial(port), &header);
        match port {
            POP3S => {
                hear(&mut stream, "+OK");
                say(&mut stream, "USER alice@demo.test\r\nPASS demo\r\nRETR 1\r\n", "\r\n.\r\n")
            }
            IMAPS => say(&mut stream, "a LOGIN alice@demo.test demo\r\n", "a OK"),
            _ => say(&mut stream, "EHLO x\r\n", "250 ENHANCED"),
        };
    }
    let mut imap = dial(IMAP);
    imap.write_all(&version_1("192.0.2.12")).expect("sent");
    let heard = hear(&mut imap, "* OK");
    assert!(heard.starts_with("* OK"), "{heard}");
    say(&mut imap, "a LOGIN alice@demo.test demo\r\n", "a OK");
    let heard = say(&mut imap, "b SELECT INBOX\r\nc FETCH 1 BODY[HEADER]\r\n", "c OK");
    assert!(heard.contains("from client.test ([192.0.2.7])"), "{heard}");
    let told = "\"by\":\"127.0.0.9\",\"peer\":\"192.0.2.7\",\"local\":\"192.0.2.1\",\"port\":25}";
    wait_for(&server, told);

    // A proxy that looks whether we live is served as itself.
    let mut health = dial(SUBMISSION);
    health.write_all(b"PROXY UNKNOWN\r\n").expect("sent");
    hear(&mut health, "220 ");

    // The lines of shards come in any order.
    for expected in [
        "\"event\":\"message\"",
        "\"peer\":\"192.0.2.7\"",
        "\"protocol\":\"pop3\",\"peer\":\"192.0.2.11\",\"tls\":true,\"account\"",
        "\"protocol\":\"imap\",\"peer\":\"192.0.2.11\",\"tls\":true,\"account\"",
        "\"protocol\":\"imap\",\"peer\":\"192.0.2.12\",\"tls\":false,\"account\"",
    ] {
        wait_for(&server, expected);
    }
    let events = server.events();
    // Only who named a client is told under its own address, and who named none.
    let others = |line: &&str| !line.contains("\"proxied\"") && !line.contains("\"submission\"");
    assert!(!events.lines().filter(others).any(|line| line.contains("127.0.0.9")), "{events}");
}

/// The event log once it contains `text`: lines of log-ins come late.
fn wait_for(server: &DemoServer, text: &str) -> String {
    let begin = Instant::now();
    loop {
        let events = server.events();
        if events.contains(text) || begin.elapsed() > Duration::from_secs(20) {
            assert!(events.contains(text), "{text}: {events}");
            return events;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_proxy_without_a_header_is_refused_and_a_header_from_elsewhere_is_an_error() {
    let server = start();
    for port in [SMTP, SUBMISSION, LMTP, POP3, IMAP, POP3S, IMAPS, SUBMISSIONS] {
        let mut stream = server.dial_from(PROXY, port);
        stream.write_all(b"EHLO client.test\r\n").expect("sent");
        assert_eq!(hear_all(stream), "", "port {port}");
    }
    let mut stream = server.dial_from(PROXY, SMTP);
    stream.write_all(b"PROXY TCP4 nonsense\r\n").expect("sent");
    assert_eq!(hear_all(stream), "");
    let events = wait_for(&server, "malformed PROXY header");
    assert_eq!(events.matches("proxy_refused").count(), 9, "{events}");
    assert_eq!(events.matches("\"reason\":\"no PROXY header\"").count(), 8);
    // A look whether the port is open is not worth a line.
    drop(server.dial_from(PROXY, SMTP));

    let mut stranger = server.dial_from(Ipv4Addr::new(127, 0, 0, 8), SMTP);
    hear(&mut stranger, "220 ");
    stranger.write_all(&version_1("192.0.2.7")).expect("sent");
    hear(&mut stranger, "500 ");
    let mut stranger = server.dial_from(Ipv4Addr::new(127, 0, 0, 8), IMAP);
    hear(&mut stranger, "* OK");
    stranger.write_all(&version_1("192.0.2.7")).expect("sent");
    hear(&mut stranger, "BAD");
    assert_eq!(server.events().matches("proxy_refused").count(), 9);
}

#[test]
fn the_named_client_counts_in_the_limits() {
    let server = start();
    let dial = |client: &str| {
        let mut stream = server.dial_from(PROXY, SMTP);
        stream.write_all(&version_1(client)).expect("sent");
        stream
    };
    let mut held = [dial("192.0.2.7"), dial("192.0.2.7"), dial("192.0.2.8")];
    held.iter_mut().for_each(|stream| drop(hear(stream, "220 ")));
    let refused = hear_all(dial("192.0.2.7"));
    assert!(refused.starts_with("421 4.7.0 Too many connections"), "{refused}");
    // TLS first, so that the words are understood.
    let header = version_2(Ipv4Addr::new(192, 0, 2, 7));
    let mut refused = begin_tls(server.dial_from(PROXY, IMAPS), &header);
    hear(&mut refused, "* BYE [UNAVAILABLE] Too many connections from your network");
    let [first, ..] = held;
    drop(first);
    let begin = Instant::now();
    loop {
        let mut stream = dial("192.0.2.7");
        if hear(&mut stream, " ").starts_with("220") {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "the place is not freed");
    }
    let events = wait_for(&server, "connections_of_client");
    assert!(events.contains("\"peer\":\"192.0.2.7\""), "{events}");
}
