//! What senders and operators are told about mail for other servers, by the running program.

mod demo_server;
mod transcript;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use demo_server::{DemoServer, IMAP, LMTP, POP3, SMTP, SUBMISSION, hear};

/// Nobody listens at this port.
const ROUTES: &str = "route=[{domains=[\"far.test\"],to=\"relay\",host=\"127.0.0.1:1\",accept_all=true},\
                      {domains=[\"shut.test\"],to=\"reject\",text=\"not to them\",accept_all=true}]";

fn dial(server: &DemoServer, port: u16, hello: &str) -> TcpStream {
    let mut stream = server.dial_from(Ipv4Addr::LOCALHOST, port);
    hear(&mut stream, " Ringmail\r\n");
    say(&mut stream, hello, "250 ");
    stream
}

/// Says a line.
fn say(stream: &mut TcpStream, line: &str, answer: &str) -> String {
    demo_server::say(stream, &format!("{line}\r\n"), answer)
}

/// Sends a message; the answers to its content.
fn send(stream: &mut TcpStream, recipients: &[&str], last: &str) -> String {
    say(stream, "MAIL FROM:<x@y.test>", "250 ");
    recipients.iter().for_each(|path| drop(say(stream, &format!("RCPT TO:{path}"), "250 ")));
    say(stream, "DATA", "354 ");
    say(stream, "Subject: x\r\n\r\nx\r\n.", last)
}

/// Mail that only waits is not said to be delivered; its id finds it in the event log.
#[test]
fn what_waits_is_queued() {
    let server = DemoServer::start_with(SMTP, &[ROUTES]);
    let mut smtp = dial(&server, SMTP, "EHLO client.test");
    for (recipients, what) in [
        (&["<a@far.test>"][..], "Queued"),
        (&["<alice@demo.test>"], "Delivered"),
        (&["<a@far.test>", "<alice@demo.test>"], "Delivered"),
        // For the report on its delivery it goes through the queue.
        (&["<alice@demo.test> NOTIFY=SUCCESS"], "Queued"),
    ] {
        let reply = send(&mut smtp, recipients, "\r\n");
        let (said, id) = reply.trim_end().split_once(" as ").unwrap_or_default();
        assert_eq!(said, format!("250 2.0.0 {what}"), "{recipients:?}");
        let told = "\"event\":\"message\",";
        let event = (0..200).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let events = server.events();
            let mut lines = events.lines().map(str::to_owned);
            lines.find(|line| line.contains(told) && line.contains(&format!("\"id\":\"{id}\"")))
        });
        assert!(event.is_some(), "no event of {id}");
    }
    let mut lmtp = dial(&server, LMTP, "LHLO client.test");
    let replies = send(&mut lmtp, &["<alice@demo.test>", "<a@far.test>"], "Queued as ");
    assert!(replies.starts_with("250 2.0.0 Delivered as "), "{replies}");
}

/// At RCPT, and where operators ask.
#[test]
fn a_route_that_refuses_has_one_status() {
    let server = DemoServer::start_with(SMTP, &[ROUTES]);
    let mut smtp = dial(&server, SMTP, "EHLO client.test");
    say(&mut smtp, "MAIL FROM:<x@y.test>", "250 ");
    let reply = say(&mut smtp, "RCPT TO:<a@shut.test>", "\r\n");
    assert_eq!(reply, "550 5.7.1 not to them\r\n");
    let explained = server.ask(&["explain", "a@shut.test"]);
    for said in
        ["a route: refused, 550 5.7.1 not to them\n", "new mail is refused", "5.7.1 not to them\n"]
    {
        assert!(explained.contains(said), "{said}: {explained}");
    }
}

/// A demo asks no DNS server: what RCPT answers, and what to set.
#[test]
fn without_dns_it_is_said_what_to_set() {
    let server = DemoServer::start_with(SMTP, &[]);
    let explained = server.ask(&["explain", "x@far.test"]);
    for said in
        ["refused from everybody\n", "new mail is refused", "4.4.3", "dns.servers", "--smarthost"]
    {
        assert!(explained.contains(said), "{said}: {explained}");
    }
    assert!(!explained.contains("its mail waits"), "{explained}");
    let as_json = server.ask(&["explain", "far.test", "--json"]);
    assert!(as_json.contains("\"refused\":true"), "{as_json}");
    let mut smtp = dial(&server, SUBMISSION, "EHLO client.test");
    say(&mut smtp, "AUTH PLAIN AGFsaWNlQGRlbW8udGVzdABkZW1v", "235 ");
    say(&mut smtp, "MAIL FROM:<alice@demo.test>", "250 ");
    say(&mut smtp, "RCPT TO:<x@far.test>", "550 5.7.1 ");
}

/// The domain is replaced in the header of what users send, and nowhere else.
#[test]
fn headers_of_users_are_rewritten() {
    let settings =
        ["addresses.rewrite_senders=[\"lan.test=demo.test\"]", "addresses.rewrite_headers=true"];
    let server = DemoServer::start_with(SMTP, &settings);
    // Cut in the middle of the header, and of a word.
    let message = [
        "From: \"alice@lan.test\"\r\n <alice@la",
        "n.test>\r\nReply-To: a@lan.test\r\nTo: b@lan.test\r\n\r\nFrom: a@lan.test",
        "\r\n.",
    ];
    let mut user = dial(&server, SUBMISSION, "EHLO client.test");
    say(&mut user, "AUTH PLAIN AGFsaWNlQGRlbW8udGVzdABkZW1v", "235 ");
    let mut stranger = dial(&server, SMTP, "EHLO client.test");
    for (stream, from) in [(&mut user, "alice@demo.test"), (&mut stranger, "x@y.test")] {
        say(stream, &format!("MAIL FROM:<{from}>"), "250 ");
        say(stream, "RCPT TO:<bob@demo.test>", "250 ");
        say(stream, "DATA", "354 ");
        for piece in message {
            stream.write_all(piece.as_bytes()).expect("sent");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        say(stream, "", "250 2.0.0 Delivered as ");
    }
    let mut pop = server.dial_from(Ipv4Addr::LOCALHOST, POP3);
    let words = "USER bob@demo.test\r\nPASS demo\r\nRETR 1\r\nRETR 2\r\nQUIT\r\n";
    pop.write_all(words.as_bytes()).expect("sent");
    let mut heard = String::new();
    pop.read_to_string(&mut heard).expect("the end");
    let sent = |domain: &str| {
        format!(
            "From: \"alice@lan.test\"\r\n <alice@{domain}>\r\nReply-To: a@{domain}\r\n\
             To: b@lan.test\r\n\r\nFrom: a@lan.test\r\n.\r\n"
        )
    };
    assert_eq!(heard.matches(&sent("demo.test")).count(), 1, "{heard}");
    assert_eq!(heard.matches(&sent("lan.test")).count(), 1, "{heard}");
}

/// A user who forwards mail, and keeps a copy, gets reports like other mail.
#[test]
fn reports_follow_aliases() {
    let place = tempfile::tempdir().expect("temporary directory");
    let aliases = place.path().join("aliases");
    let lines = "alice@demo.test: alice, bob, a@far.test\n";
    std::fs::write(&aliases, lines).expect("written");
    let named = format!("aliases_file=\"{}\"", aliases.display());
    let server = DemoServer::start_with(SMTP, &[ROUTES, &named]);
    let mut user = dial(&server, SUBMISSION, "EHLO client.test");
    say(&mut user, "AUTH PLAIN AGFsaWNlQGRlbW8udGVzdABkZW1v", "235 ");
    say(&mut user, "MAIL FROM:<alice@demo.test>", "250 ");
    say(&mut user, "RCPT TO:<x@far.test>", "250 ");
    say(&mut user, "DATA", "354 ");
    say(&mut user, "Subject: x\r\n\r\nx\r\n.", "250 2.0.0 Queued as ");
    let bounced = server.ask(&["queue", "bounce", "--sender", "alice@demo.test", "--yes"]);
    let received = |name: &str| {
        let mut pop = server.dial_from(Ipv4Addr::LOCALHOST, POP3);
        let words = format!("USER {name}@demo.test\r\nPASS demo\r\nRETR 1\r\nQUIT\r\n");
        pop.write_all(words.as_bytes()).expect("sent");
        let mut heard = String::new();
        pop.read_to_string(&mut heard).expect("the end");
        heard.contains("Final-Recipient: rfc822; x@far.test")
    };
    let arrives = || {
        let queued = server.ask(&["queue", "list"]);
        received("alice") && received("bob") && queued.contains("a@far.test")
    };
    let arrived = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        arrives()
    });
    let queued = server.ask(&["queue", "list"]);
    assert!(arrived, "{bounced}\n{queued}\n{}", server.events());
}

/// Mail for a sub-address that comes through the queue goes where mail from outside goes: to the
/// folder, if anyone may post there.
#[test]
fn queued_mail_for_a_sub_address_goes_to_the_folder() {
    let server = DemoServer::start_with(SMTP, &[]);
    server.ask(&["acl", "set", "alice@demo.test", "Drafts", "anyone", "p"]);
    let mut smtp = dial(&server, SMTP, "EHLO client.test");
    for folder in ["Drafts", "Sent"] {
        let recipient = format!("<alice+{folder}@demo.test> NOTIFY=SUCCESS");
        let reply = send(&mut smtp, &[&recipient], "\r\n");
        assert!(reply.starts_with("250 2.0.0 Queued"), "{reply}");
    }
    let mut imap = server.dial_from(Ipv4Addr::LOCALHOST, IMAP);
    hear(&mut imap, "* OK");
    say(&mut imap, "a LOGIN alice@demo.test demo", "a OK");
    let mut told = String::new();
    let arrived = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        told = ["INBOX", "Drafts", "Sent"]
            .map(|name| say(&mut imap, &format!("b STATUS {name} (MESSAGES)"), "b OK"))
            .concat();
        told.matches("(MESSAGES 1)").count() == 2
    });
    assert!(arrived && told.contains("Drafts (MESSAGES 1)"), "{told}");
    assert!(told.contains("Sent (MESSAGES 0)"), "{told}");
}

/// Mail with NUL that comes through the queue is stored as mail that came at once is.
#[test]
fn queued_mail_with_nul_is_encoded() {
    let server = DemoServer::start_with(SMTP, &[]);
    let mut smtp = dial(&server, SMTP, "EHLO client.test");
    for recipient in ["<alice@demo.test>", "<alice@demo.test> NOTIFY=SUCCESS"] {
        say(&mut smtp, "MAIL FROM:<x@y.test> BODY=BINARYMIME", "250 ");
        say(&mut smtp, &format!("RCPT TO:{recipient}"), "250 ");
        let message = "MIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\na\0";
        say(&mut smtp, &format!("BDAT {} LAST\r\n{message}NOOP", message.len()), "250 2.0.0 Ok");
    }
    let mut imap = server.dial_from(Ipv4Addr::LOCALHOST, IMAP);
    hear(&mut imap, "* OK");
    say(&mut imap, "a LOGIN alice@demo.test demo", "a OK");
    let mut told = String::new();
    let arrived = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        say(&mut imap, "b EXAMINE INBOX", "b OK");
        told = say(&mut imap, "c FETCH 1:* (BODY.PEEK[TEXT] BINARY.SIZE[1])", "c OK");
        told.matches("BODY[TEXT] {6}\r\nYQA=\r\n BINARY.SIZE[1] 2)").count() == 2
    });
    assert!(arrived, "{told}");
}
