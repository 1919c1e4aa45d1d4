//! Mail for full accounts, over SMTP and LMTP: refused at RCPT, on the session's shard and on
//! another one.

#[allow(dead_code)] // what transcripts need
mod smtp_world;
mod transcript;

use ringmail::{
    model::QuotaLimits,
    service::{quota::QuotaOptions, smtp::ListenerKind},
};
use smtp_world::{Choices, Client, Ground, World};

fn answer(client: &mut Client, text: &str) -> String {
    client.say(text);
    transcript::Peer::settle(client);
    String::from_utf8(transcript::Peer::receive(client)).unwrap()
}

fn begin(world: &World, listener: ListenerKind) -> Client {
    let mut client = world.client_at(listener);
    client.say(match listener {
        ListenerKind::Lmtp => "LHLO client.test\r\n",
        _ => "EHLO client.test\r\n",
    });
    client.expect("250");
    client
}

fn send(client: &mut Client, to: &str) -> String {
    let told = answer(client, &format!("MAIL FROM:<a@far.test>\r\nRCPT TO:<{to}>\r\n"));
    if !told.contains("250 2.1.5") {
        answer(client, "RSET\r\n");
        return told;
    }
    answer(client, "DATA\r\n");
    answer(client, "Subject: x\r\n\r\nx\r\n.\r\n")
}

const REFUSED: &str = "552 5.2.2 The mailbox is full\r\n";

#[test]
fn full_accounts_are_refused_at_rcpt() {
    for listener in [ListenerKind::Smtp, ListenerKind::Lmtp] {
        let quota = QuotaLimits { messages: Some(2), octets: Some(1 << 20) };
        let world = World::new(&Ground::new(), Choices { quota, ..Choices::default() });
        let mut client = begin(&world, listener);
        for to in ["alice@demo.test", "bob@demo.test"] {
            for _ in 0..2 {
                assert!(send(&mut client, to).starts_with("250 2.0.0"), "{to}");
            }
            assert!(send(&mut client, to).ends_with(REFUSED), "{to}");
            assert!(world.told().iter().any(|it| it.contains("quota_nearly_full")));
        }
        // One that is not full gets his all the same.
        client.say("MAIL FROM:<a@far.test>\r\nRCPT TO:<bob@demo.test>\r\n");
        client.expect("552");
        let told = answer(&mut client, "RCPT TO:<user3@demo.test>\r\n");
        assert!(told.starts_with("250") || told.starts_with("550"), "{told}");
    }
}

/// A message that is announced as too large is refused before it is sent; one that is not, at its
/// end.
#[test]
fn the_size_counts() {
    let quota = QuotaLimits { messages: None, octets: Some(2000) };
    let world = World::new(&Ground::new(), Choices { quota, ..Choices::default() });
    let mut client = begin(&world, ListenerKind::Smtp);
    for to in ["alice@demo.test", "bob@demo.test"] {
        let announced = format!("MAIL FROM:<a@far.test> SIZE=3000\r\nRCPT TO:<{to}>\r\n");
        assert!(answer(&mut client, &announced).ends_with(REFUSED), "{to}");
        answer(&mut client, "RSET\r\n");
        let silent = format!("MAIL FROM:<a@far.test>\r\nRCPT TO:<{to}>\r\nDATA\r\n");
        assert!(answer(&mut client, &silent).contains("354 "), "{to}");
        let text = format!("Subject: x\r\n\r\n{}.\r\n", "0123456789\r\n".repeat(200));
        assert_eq!(answer(&mut client, &text), REFUSED, "{to}");
        assert!(send(&mut client, to).starts_with("250 2.0.0"), "{to}");
    }
}

#[test]
fn mail_may_be_put_off() {
    let quota = QuotaLimits { messages: Some(0), octets: None };
    let quota_options = QuotaOptions { defers: true, ..QuotaOptions::default() };
    let choices = Choices { quota, quota_options, ..Choices::default() };
    let world = World::new(&Ground::new(), choices);
    let mut client = begin(&world, ListenerKind::Smtp);
    for to in ["alice@demo.test", "bob@demo.test"] {
        let told = send(&mut client, to);
        assert!(told.ends_with("452 4.2.2 The mailbox is full, try again later\r\n"), "{told}");
    }
}
