//! Messages being received: their limits of memory and time, on two simulated shards.

#[allow(dead_code)] // what transcripts need
mod smtp_world;
mod transcript;

use std::time::Duration;

use ringmail::{
    model::MailClass,
    service::{intake::IntakeOptions, smtp::ListenerKind},
};
use smtp_world::{ALICE, BOB, Choices, Client, Ground, World};

const KIB: usize = 1024;

fn with_memory(memory: usize) -> Choices {
    Choices { intake: IntakeOptions { memory, ..IntakeOptions::default() }, ..Choices::default() }
}

fn settle(client: &mut Client) {
    transcript::Peer::settle(client);
}

/// Greeting, sender and recipients, but no message command.
fn envelope(client: &mut Client, recipients: &[&str]) {
    let hello = "EHLO client.test\r\nMAIL FROM:<carol@far.test>\r\n";
    client.say(hello);
    for recipient in recipients {
        client.say(&format!("RCPT TO:<{recipient}>\r\n"));
    }
    // No other command has this reply.
    client.say("VRFY x\r\n");
    client.expect("252");
}

/// The server's reply to `text`.
fn answer(client: &mut Client, text: &str) -> String {
    client.say(text);
    settle(client);
    String::from_utf8(transcript::Peer::receive(client)).unwrap()
}

fn held(world: &World) -> [usize; 2] {
    [0, 1].map(|shard| world.shards[shard].messages.held())
}

const RECIPIENTS: [&[&str]; 3] =
    [&["alice@demo.test"], &["bob@demo.test"], &["alice@demo.test", "bob@demo.test"]];

/// Each message is either accepted completely or refused with a reply, and the budget is never
/// exceeded.
#[test]
fn messages_under_way_stay_within_the_budget() {
    let limit = 1024 * KIB;
    let world = World::new(&Ground::new(), with_memory(limit));
    let body = format!("Subject: x\r\n\r\n{}", "0123456789012345678901234567890\r\n".repeat(3_000));
    let mut under_way = Vec::new();
    let mut refused = 0;
    for (number, recipients) in (0..90).zip(RECIPIENTS.into_iter().cycle()) {
        let mut client = world.client();
        envelope(&mut client, recipients);
        let first = answer(&mut client, "DATA\r\n");
        if first.starts_with("354") {
            for piece in body.as_bytes().chunks(3_000 + number) {
                transcript::Peer::send(&mut client, piece);
                settle(&mut client);
                let held = held(&world);
                assert!(held[0] <= limit * 3 / 4 && held[1] <= limit * 3 / 4, "{held:?}");
            }
            under_way.push((client, recipients));
        } else {
            assert_eq!(first, "452 4.3.1 Too many messages under way, try again later\r\n");
            refused += 1;
        }
    }
    assert!(under_way.len() >= 40, "refused more than it had to: {refused}");
    let mut expected = [0, 0];
    for (mut client, recipients) in under_way {
        client.say(".\r\n");
        let reply = String::from_utf8(transcript::Peer::receive(&mut client)).unwrap();
        match &reply[..9] {
            "250 2.0.0" => {
                expected[0] += usize::from(recipients.contains(&"alice@demo.test"));
                expected[1] += usize::from(recipients.contains(&"bob@demo.test"));
            }
            "452 4.3.1" => {}
            other => panic!("{other}"),
        }
    }
    for (account, expected) in [(ALICE, expected[0]), (BOB, expected[1])] {
        let messages = world.inbox(account);
        assert_eq!(messages.len(), expected);
        assert!(messages.len() > 20 && messages.iter().all(|message| message.ends_with(&body)));
    }
    world.simulation.run_idle();
    assert_eq!(held(&world), [0, 0]);
}

#[test]
fn a_stalled_sender_costs_next_to_nothing() {
    let world = World::new(&Ground::new(), Choices { deadlines: true, ..with_memory(512 * KIB) });
    let body = "0123456789012345678901234567890\r\n".repeat(3_000);
    let mut under_way = Vec::new();
    for _ in 0..20 {
        let mut client = world.client();
        envelope(&mut client, RECIPIENTS[0]);
        assert!(answer(&mut client, "DATA\r\n").starts_with("354"));
        client.say(&format!("\r\n{body}"));
        settle(&mut client);
        under_way.push(client);
    }
    let busy = held(&world)[0];
    world.sleep(2);
    let idle = held(&world)[0];
    assert!(idle < 512 * KIB / 4 && idle < busy, "{busy}, {idle}");
    for client in &mut under_way {
        client.say(".\r\n");
        client.expect("250");
    }
    assert_eq!(held(&world), [0, 0]);
    assert!(world.inbox(ALICE).iter().all(|message| message.ends_with(&body)));
}

/// A header cannot be spilled: the message is read to its end, then refused.
#[test]
fn what_does_not_fit_is_refused_at_its_end() {
    for recipients in RECIPIENTS {
        let world = World::new(&Ground::new(), with_memory(128 * KIB));
        let mut client = world.client();
        envelope(&mut client, recipients);
        assert!(answer(&mut client, "DATA\r\n").starts_with("354"));
        client.say(&"X-Long: 0123456789012345678901234567890\r\n".repeat(6_000));
        settle(&mut client);
        assert_eq!(held(&world), [0, 0], "what will be refused holds nothing");
        client.say("\r\nbody\r\n.\r\n");
        client.expect("452");
        // The session goes on.
        client.say("MAIL FROM:<>\r\nRCPT TO:<alice@demo.test>\r\nDATA\r\n");
        client.expect("354");
        client.say("x\r\n.\r\n");
        client.expect("250");
        assert_eq!(world.inbox(ALICE).len(), 1);
        assert_eq!(world.inbox(BOB).len(), 0);
    }
}

#[test]
fn without_room_a_message_is_refused_before_it_is_sent() {
    let world = World::new(&Ground::new(), with_memory(8 * KIB));
    let mut client = world.client();
    envelope(&mut client, RECIPIENTS[0]);
    assert!(answer(&mut client, "DATA\r\n").starts_with("452 4.3.1 "));
    assert!(answer(&mut client, "BDAT 5 LAST\r\nabcde").starts_with("452 4.3.1 "));
    assert!(answer(&mut client, "NOOP\r\n").starts_with("250 "));
    assert!(world.inbox(ALICE).is_empty());
}

/// Strangers cannot use the part that is reserved for known peers.
#[test]
fn strangers_are_refused_first() {
    let world = World::new(&Ground::new(), with_memory(100 * KIB));
    let mut strangers = Vec::new();
    loop {
        let mut client = world.client();
        envelope(&mut client, RECIPIENTS[0]);
        if answer(&mut client, "DATA\r\n").starts_with("452") {
            break;
        }
        client.say(&"X-Long: 0123456789012345678901234567890\r\n".repeat(200));
        settle(&mut client);
        strangers.push(client);
        assert!(strangers.len() < 100);
    }
    let mut known = world.client_at(ListenerKind::Lmtp);
    known.say("LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice@demo.test>\r\nDATA\r\n");
    known.expect("354");
    known.say("x\r\n.\r\n");
    known.expect("250");
    // A client that disconnects returns everything at once.
    drop(strangers);
    world.simulation.run_idle();
    assert_eq!(held(&world), [0, 0]);
}

#[test]
fn many_recipients_are_counted() {
    let world = World::new(&Ground::new(), with_memory(64 * KIB));
    let mut client = world.client();
    envelope(&mut client, &["alice@demo.test"; 900]);
    // Each with its path and 24 octets.
    let least = 900 * (24 + "alice@demo.test".len());
    let [here, there] = held(&world);
    assert!((least..2 * least).contains(&here) && there == 0, "{here} {there}");
    client.say("RSET\r\n");
    settle(&mut client);
    assert_eq!(held(&world), [0, 0]);
    let world = World::new(&Ground::new(), with_memory(4 * KIB));
    let mut client = world.client();
    envelope(&mut client, &["alice@demo.test"; 100]);
    assert!(answer(&mut client, "RSET\r\n").starts_with("250 "));
    client.say("MAIL FROM:<>\r\n");
    settle(&mut client);
    for _ in 0..600 {
        client.say("RCPT TO:<alice@demo.test>\r\n");
    }
    client.expect("452");
}

/// Seconds until the server closes on a client that sends `text` every `every` seconds after
/// `begin`; and its last reply.
fn lasts(begin: &str, text: &str, every: u64) -> (u64, String) {
    let world = World::new(&Ground::new(), Choices { deadlines: true, ..Choices::default() });
    let mut client = world.client();
    envelope(&mut client, RECIPIENTS[2]);
    client.say(begin);
    settle(&mut client);
    let mut passed = 0;
    while world.shards[0].messages.held() > 0 || passed == 0 {
        client.say(text);
        world.sleep(every);
        passed += every;
        assert!(passed < 10_000);
    }
    (passed, String::from_utf8(transcript::Peer::receive(&mut client)).unwrap())
}

#[test]
fn a_message_that_trickles_in_is_cut_off() {
    let farewell = "421 4.4.2 Timed out, closing\r\n";
    let (passed, said) = lasts("DATA\r\nx", "x", 1);
    assert!((301..310).contains(&passed) && said.ends_with(farewell), "{passed} {said}");
    let (passed, said) = lasts("BDAT 100000\r\nx", "x", 1);
    assert!((301..310).contains(&passed) && said.ends_with(farewell), "{passed} {said}");
    // Between chunks, whatever other commands are sent.
    let (passed, said) = lasts("BDAT 1\r\nx", "NOOP\r\n", 10);
    assert!((300..320).contains(&passed) && said.ends_with(farewell), "{passed} {said}");
    // Fast enough, but not for ever.
    let line = format!("{}\r\n", "x".repeat(298));
    let (passed, said) = lasts("DATA\r\nx", &line, 1);
    assert!((3600..3610).contains(&passed) && said.ends_with(farewell), "{passed} {said}");
}

#[test]
fn the_next_message_has_its_own_time() {
    let intake = IntakeOptions { deadline: Duration::from_secs(100), ..IntakeOptions::default() };
    let world =
        World::new(&Ground::new(), Choices { deadlines: true, intake, ..Choices::default() });
    let mut client = world.client();
    for _ in 0..3 {
        envelope(&mut client, RECIPIENTS[1]);
        client.say("DATA\r\nx\r\n");
        client.expect("354");
        world.sleep(80);
        client.say(".\r\n");
        client.expect("250");
        world.sleep(80);
    }
    assert_eq!(world.inbox(BOB).len(), 3);
}

/// A shard that is behind puts off mail of strangers, and only then that of others.
#[test]
fn a_busy_shard_refuses_strangers_at_mail() {
    let world = World::new(&Ground::new(), Choices::default());
    let busy = "452 4.3.2 The server is too busy, try again later\r\n";
    let lag = |seconds: u64| {
        let late = Duration::from_secs(seconds);
        (0..200).for_each(|_| world.shards[0].load.note(late, Duration::from_secs(1)));
    };
    let mail = |client: &mut Client| answer(client, "MAIL FROM:<carol@far.test>\r\n");
    let mut stranger = world.client();
    let mut ours = world.client_at(ListenerKind::Lmtp);
    assert!(answer(&mut stranger, "EHLO client.test\r\n").contains("250 "));
    assert!(answer(&mut ours, "LHLO client.test\r\n").contains("250 "));
    lag(2);
    assert_eq!(mail(&mut stranger), busy);
    assert_eq!(answer(&mut stranger, "MAIL FROM:<>\r\n"), busy);
    assert!(mail(&mut ours).starts_with("250 "));
    assert!(answer(&mut ours, "RSET\r\n").starts_with("250 "));
    lag(5);
    assert_eq!(mail(&mut ours), busy);
    assert_eq!(MailClass::ALL.map(|class| world.shards[0].load.put_off().of(class)), [1, 0, 1, 1]);
    lag(0);
    for client in [&mut stranger, &mut ours] {
        assert!(mail(client).starts_with("250 "));
        assert!(answer(client, "RCPT TO:<alice@demo.test>\r\n").starts_with("250 "));
        assert!(answer(client, "DATA\r\n").starts_with("354 "));
        assert!(answer(client, "x\r\n.\r\n").starts_with("250 "));
    }
    assert_eq!(MailClass::ALL.map(|class| world.shards[0].load.accepted().of(class)), [1, 0, 1, 0]);
}

/// RFC 3030 brings NUL into mailboxes, whose readers do not get it: parts are encoded as those of
/// APPEND are (RFC 3516 6), wherever the mailbox is. What has no encoding stays.
#[test]
fn parts_with_nul_are_encoded_for_mailboxes() {
    let fields = "MIME-Version: 1.0\r\nContent-Type: image/x\r\n";
    let label = |encoding| format!("{fields}Content-Transfer-Encoding: {encoding}\r\n\r\n");
    // (octets, what is stored of them)
    let large = "0123456789\0\n".repeat(60_000);
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &large);
    let lines = encoded.as_bytes().chunks(76);
    let lines = lines.map(|line| format!("{}\r\n", std::str::from_utf8(line).unwrap()));
    let cases = [
        (label("binary") + "\0\n\r", label("base64") + "AAoN\r\n"),
        (label("binary") + &large, label("base64") + &lines.collect::<String>()),
        (label("binary") + "a\nb", label("binary") + "a\nb"),
        ("Subject: \0\r\n\r\n\0".to_owned(), "Subject: \0\r\n\r\n\0".to_owned()),
        (label("x-uue") + "\0", label("x-uue") + "\0"),
    ];
    for recipients in RECIPIENTS {
        for listener in [ListenerKind::Smtp, ListenerKind::Lmtp] {
            let choices = Choices { listener, ..with_memory(1024 * KIB) };
            let world = World::new(&Ground::new(), choices);
            let mut client = world.client();
            let hello = if listener == ListenerKind::Lmtp { "LHLO" } else { "EHLO" };
            client.say(&format!("{hello} client.test\r\n"));
            for (message, _) in &cases {
                client.say("MAIL FROM:<carol@far.test> BODY=BINARYMIME\r\n");
                for recipient in recipients {
                    client.say(&format!("RCPT TO:<{recipient}>\r\n"));
                }
                client.say(&format!("BDAT {} LAST\r\n{message}VRFY x\r\n", message.len()));
                let told = client.expect("252");
                assert!(!told.contains("\r\n4") && !told.contains("\r\n5"), "{told}");
            }
            for (name, account) in [("alice", ALICE), ("bob", BOB)] {
                let found = world.inbox(account);
                let is_one = recipients.iter().any(|it| it.starts_with(name));
                assert_eq!(found.len(), if is_one { cases.len() } else { 0 });
                for (found, (_, expected)) in found.iter().zip(&cases) {
                    assert!(found.ends_with(&format!("\r\n{expected}")), "{found:.900}");
                }
            }
            assert_eq!(held(&world), [0, 0]);
        }
    }
}
