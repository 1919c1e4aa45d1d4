//! Plays `tests/transcripts/smtp` on the real service and store over in-memory connections and a
//! virtual clock: whole, octet by octet, and cut in two everywhere. Also cases that a transcript
//! cannot express: the resulting mailboxes, failing disks, the queue.

mod demo_server;
mod smtp_world;
mod transcript;

use std::time::Duration;

use demo_server::DemoServer;
use ringmail::{
    model::{AccountId, MailboxId, ShardId, Uid},
    runtime::{device::memory::Faults, mesh::Class},
    service::smtp::ListenerKind,
    store::HoldingLimits,
};
use smtp_world::{ALICE, BOB, Choices, Ground, World};
use transcript::{Split, Transcript};

#[test]
fn transcripts() {
    let ground = Ground::new();
    let files = Transcript::folder("smtp");
    assert!(files.len() > 10, "found only {} transcripts", files.len());
    for file in &files {
        // Mail of earlier runs does not affect what a transcript can see.
        let mut world = World::new(&ground, Choices::of(file));
        let mut play = |split| file.play(&mut world, split);
        play(Split::Whole);
        if file.setting("split") == Some("no") {
            continue;
        }
        play(Split::Every);
        (1..file.client_octets()).for_each(|position| play(Split::At(position)));
    }
}

/// The real binary and real ports. Files with settings or a SIZE that the demo lacks stay in
/// memory.
#[test]
fn transcripts_over_sockets() {
    let mut played = 0;
    for file in &Transcript::folder("smtp") {
        let own_settings = ["sockets", "plaintext", "recipients_max", "bare_newline"];
        if own_settings.iter().any(|name| file.setting(name).is_some()) {
            continue;
        }
        let port = match file.setting("listener") {
            Some("lmtp") => demo_server::LMTP,
            Some("submission") => demo_server::SUBMISSION,
            _ => demo_server::SMTP,
        };
        let mut server = DemoServer::start(port);
        file.play(&mut server, Split::Whole);
        played += 1;
    }
    assert!(played > 10, "played only {played} transcripts");
}

/// Greeting, sender and recipients; returns after the last reply.
fn begin(client: &mut smtp_world::Client, hello: &str, recipients: &[&str]) {
    client.say(&format!("{hello} client.test\r\nMAIL FROM:<carol@far.test>\r\n"));
    client.expect("250");
    for recipient in recipients {
        client.say(&format!("RCPT TO:<{recipient}>\r\n"));
    }
    client.say("NOOP\r\n");
    client.expect("250");
    client.say("DATA\r\n");
    client.expect("354");
}

#[test]
fn one_message_to_accounts_of_two_shards() {
    let world = World::new(&Ground::new(), Choices::default());
    let mut client = world.client();
    let recipients = ["alice@demo.test", "bob@demo.test", "alice+twice@demo.test"];
    begin(&mut client, "EHLO", &recipients);
    client.say("Subject: x\r\n\r\n..dot\r\n.\r\n");
    client.expect("250");
    for account in [ALICE, BOB] {
        let messages = world.inbox(account);
        let [message] = messages.as_slice() else { panic!("{messages:?}") };
        assert!(
            message.starts_with("Return-Path: <carol@far.test>\r\nReceived: from client.test (")
        );
        assert!(message.contains("\tby mail.demo.test with ESMTP id "), "{message}");
        assert!(!message.contains("\tfor <"), "recipients learn of each other: {message}");
        assert!(message.ends_with("\r\nSubject: x\r\n\r\n.dot\r\n"), "{message}");
    }
}

#[test]
fn the_only_recipient_is_named() {
    let world = World::new(&Ground::new(), Choices::default());
    let mut client = world.client();
    begin(&mut client, "HELO", &["Alice+News@Demo.Test"]);
    client.say(".\r\n");
    client.expect("250");
    let messages = world.inbox(ALICE);
    assert!(messages[0].contains(" with SMTP id "), "{}", messages[0]);
    assert!(messages[0].contains("\tfor <Alice+News@Demo.Test>;\r\n"), "{}", messages[0]);
}

/// RFC 5322 3.5: text must not become part of the header that our trace fields begin, however the
/// octets arrive, with DATA and with BDAT.
#[test]
fn a_message_without_a_header_gets_a_blank_line() {
    const CASES: &[(&str, &str)] = &[
        ("Hello, world\r\nagain: x\r\n", "\r\nHello, world\r\nagain: x\r\n"),
        (" folded\r\n", "\r\n folded\r\n"),
        ("Subject : x\r\n\r\ny\r\n", "Subject : x\r\n\r\ny\r\n"),
        ("From a Mon\r\nSubject: x\r\n", "From a Mon\r\nSubject: x\r\n"),
        ("From me to you\r\nall is well\r\n", "\r\nFrom me to you\r\nall is well\r\n"),
        ("\r\nHello\r\n", "\r\nHello\r\n"),
        ("Hello\r\n", "\r\nHello\r\n"),
        ("", ""),
    ];
    for listener in [ListenerKind::Smtp, ListenerKind::Lmtp] {
        let choices = Choices { listener, ..Choices::default() };
        let hello = if listener == ListenerKind::Lmtp { "LHLO" } else { "EHLO" };
        let world = World::new(&Ground::new(), choices);
        for size in [1, 3, 1_000] {
            for (sent, kept) in CASES {
                let mut client = world.client();
                begin(&mut client, hello, &["alice@demo.test"]);
                for piece in format!("{sent}.\r\n").as_bytes().chunks(size) {
                    transcript::Peer::send(&mut client, piece);
                    transcript::Peer::settle(&mut client);
                }
                client.expect("250");
                let chunk = format!("BDAT {} LAST\r\n{sent}", sent.len());
                let commands =
                    ["MAIL FROM:<carol@far.test>\r\n", "RCPT TO:<alice@demo.test>\r\n", &chunk];
                for command in commands {
                    client.say(command);
                    client.expect("250");
                }
                let messages = world.inbox(ALICE);
                for message in &messages[messages.len() - 2..] {
                    let (_, after_trace) = message.split_once(" +0000\r\n").expect("trace");
                    assert_eq!(after_trace, *kept, "{sent:?} by {size}");
                }
            }
        }
    }
}

#[test]
fn large_messages_stream_to_both_shards() {
    let world = World::new(&Ground::new(), Choices::default());
    let mut client = world.client();
    begin(&mut client, "EHLO", &["alice@demo.test", "bob@demo.test"]);
    let line = "0123456789012345678901234567890123456789012345678901234567890123456789\r\n";
    let body = line.repeat(14_000);
    for piece in body.as_bytes().chunks(50_000) {
        transcript::Peer::send(&mut client, piece);
        transcript::Peer::settle(&mut client);
    }
    client.say(".\r\n");
    client.expect("250");
    for account in [ALICE, BOB] {
        let messages = world.inbox(account);
        assert!(messages.len() == 1 && messages[0].ends_with(&body));
    }
}

/// More deliveries than requests that shards may have in progress: they must not use up those
/// credits.
#[test]
fn slow_senders_of_large_messages_keep_nobody_from_the_other_shard() {
    let world = World::new(&Ground::new(), Choices::default());
    let piece = "0123456789\r\n".repeat(23_000);
    let slow: Vec<_> = (0..ringmail::runtime::mesh::CREDITS + 1)
        .map(|_| {
            let mut client = world.client();
            begin(&mut client, "EHLO", &["bob@demo.test"]);
            transcript::Peer::send(&mut client, piece.as_bytes());
            transcript::Peer::settle(&mut client);
            client
        })
        .collect();
    let mut client = world.client();
    begin(&mut client, "EHLO", &["bob@demo.test"]);
    client.say("x\r\n.\r\n");
    client.expect("250");
    assert_eq!(world.inbox(BOB).len(), 1);
    drop(slow);
}

fn break_disk(world: &World, shard: usize) {
    let faults = Faults { failed_syncs: (0..1_000_000).collect(), ..Faults::default() };
    world.devices[shard].inject(faults);
}

#[test]
fn a_failed_disk_is_a_temporary_failure() {
    let world = World::new(&Ground::new(), Choices::default());
    let mut client = world.client();
    begin(&mut client, "EHLO", &["alice@demo.test"]);
    break_disk(&world, 0);
    client.say("x\r\n.\r\n");
    client.expect("451");
    assert!(world.inbox(ALICE).is_empty());
}

#[test]
fn lmtp_tells_each_recipient() {
    let choices = Choices { listener: ListenerKind::Lmtp, ..Choices::default() };
    let world = World::new(&Ground::new(), choices);
    let mut client = world.client();
    begin(&mut client, "LHLO", &["alice@demo.test", "bob@demo.test"]);
    break_disk(&world, 1);
    client.say("x\r\n.\r\n");
    let replies = client.expect("451");
    assert!(replies.starts_with("250 ") && replies.contains("\r\n451 "), "{replies}");
    assert_eq!((world.inbox(ALICE).len(), world.inbox(BOB).len()), (1, 0));
}

#[test]
fn what_one_shard_refused_is_queued_and_delivered_after_a_restart() {
    let ground = Ground::new();
    let world = World::new(&ground, Choices::default());
    let mut client = world.client();
    begin(&mut client, "EHLO", &["alice@demo.test", "bob@demo.test"]);
    break_disk(&world, 1);
    client.say("Subject: queued\r\n\r\nx\r\n.\r\n");
    client.expect("250");
    assert_eq!((world.inbox(ALICE).len(), world.inbox(BOB).len()), (1, 0));
    world.sleep(1000);
    assert_eq!(world.inbox(BOB).len(), 0, "the partition stays poisoned");
    let devices = world.devices.clone();
    world.simulation.kill_tasks();
    drop((client, world));

    devices[1].inject(Faults::default());
    let world = World::on(&ground, Choices::default(), devices);
    world.sleep(10);
    let bobs = world.inbox(BOB);
    assert!(bobs.len() == 1 && bobs[0].ends_with("Subject: queued\r\n\r\nx\r\n"), "{bobs:?}");
    assert_eq!(world.inbox(ALICE).len(), 1, "nobody gets it twice");
    for partition in world.shards.iter().flat_map(|shard| shard.partitions.iter().flatten()) {
        assert_eq!(world.simulation.run_until(partition.queued()).unwrap(), 0);
    }
}

/// More of them than are tried at a time.
#[test]
fn many_queued_messages_are_delivered() {
    let ground = Ground::new();
    let world = World::new(&ground, Choices::default());
    break_disk(&world, 1);
    for number in 0..80 {
        let mut client = world.client();
        begin(&mut client, "EHLO", &["alice@demo.test", "bob@demo.test"]);
        client.say(&format!("Subject: {number}\r\n\r\nx\r\n.\r\n"));
        client.expect("250");
    }
    assert_eq!(queued(&world).len(), 80);
    let devices = world.devices.clone();
    world.simulation.kill_tasks();
    drop(world);
    devices[1].inject(Faults::default());
    let world = World::on(&ground, Choices::default(), devices);
    world.sleep(30);
    assert_eq!((world.inbox(BOB).len(), world.inbox(ALICE).len()), (80, 80));
    assert!(queued(&world).is_empty());
}

/// One reply for all recipients (RFC 5321 4.1.1.4): a message refused for one is delivered to none.
#[test]
fn a_message_that_one_account_is_too_full_for_reaches_nobody() {
    let (neighbour, neighbours_address) = neighbour(ALICE);
    let holding = HoldingLimits { messages: 2, ..HoldingLimits::default() };
    for (full, other) in [
        ("alice@demo.test", "bob@demo.test"),
        ("bob@demo.test", "alice@demo.test"),
        (&neighbours_address, "alice@demo.test"),
    ] {
        for size in [1, 300_000] {
            let world = World::new(&Ground::new(), Choices { holding, ..Choices::default() });
            let mut client = world.client();
            let body = format!("{}.\r\n", "0123456789\r\n".repeat(size / 12 + 1));
            let mut send = |recipients: &[&str], reply| {
                begin(&mut client, "EHLO", recipients);
                client.say(&body);
                client.expect(reply);
            };
            send(&[full], "250");
            send(&[full], "250");
            send(&[full], "552 5.2.2");
            for recipients in [[full, other], [other, full]] {
                send(&recipients, "552 5.2.2");
            }
            let held = [ALICE, BOB, neighbour].map(|account| world.inbox(account).len());
            assert_eq!(held.iter().sum::<usize>(), 2, "{full} {other} {held:?}");
            assert!(queued(&world).is_empty());
            send(&[other], "250");
        }
    }
}

/// Two messages find room at the same time, but there is room for only one: the other's copy waits
/// in the queue, and no sender gets a failure for a message that was delivered to somebody.
#[test]
fn an_account_that_fills_up_meanwhile_gets_its_copy_later() {
    let holding = HoldingLimits { messages: 2, ..HoldingLimits::default() };
    let both = ["bob@demo.test", "alice@demo.test"];
    let mut races = 0;
    for pause in 0..200 {
        let world = World::new(&Ground::new(), Choices { holding, ..Choices::default() });
        for _ in 0..pause {
            world.simulation.random();
        }
        let mut first = world.client();
        begin(&mut first, "EHLO", &both[..1]);
        first.say("x\r\n.\r\n");
        first.expect("250");
        let mut clients = [world.client(), world.client()];
        clients.iter_mut().for_each(|client| begin(client, "EHLO", &both));
        clients.iter_mut().for_each(|client| client.say("x\r\n.\r\n"));
        let accepted = clients.iter_mut().filter_map(|client| {
            let reply = String::from_utf8(transcript::Peer::receive(client)).unwrap();
            assert!(reply.starts_with("250 ") || reply.starts_with("552 5.2.2"), "{reply}");
            reply.starts_with("250 ").then_some(())
        });
        let accepted = accepted.count();
        assert_eq!(world.inbox(ALICE).len(), accepted, "nobody has what was refused");
        let waiting = queued(&world).len();
        assert_eq!(world.inbox(BOB).len() - 1 + waiting, accepted);
        races += waiting;
    }
    assert!(races > 0, "nobody filled up meanwhile");
}

/// Another user, whose account is in the same partition.
fn neighbour(of: AccountId) -> (AccountId, String) {
    let id = (3..=8).map(AccountId).find(|id| id.partition(2) == of.partition(2));
    let id = id.expect("six users are spread over two partitions");
    (id, format!("user{}@demo.test", id.0 - 2))
}

/// `of` is in memory, and from here on its neighbour cannot be read.
fn hide_neighbour(world: &World, of: AccountId, shard: usize) {
    let before = world.inbox(of).len();
    world.devices[shard].inject(Faults { unreadable: true, ..Faults::default() });
    // An account that was not loaded must be read: nothing of the neighbour is in memory after a
    // start.
    assert!(before < 2);
}

fn queued(world: &World) -> Vec<usize> {
    let left = async {
        let mut left = Vec::new();
        for partition in world.shards.iter().flat_map(|shard| shard.partitions.iter().flatten()) {
            let queue = partition.queue().await.unwrap();
            if partition.queued().await.unwrap() > 0 {
                let all = Uid(1)..=Uid(u32::MAX);
                let values = queue.annotations(MailboxId::INBOX, all).await.unwrap();
                // One annotation per recipient, and one for the delivery.
                left.extend(values.values().map(|values| values.len() - 1));
            }
        }
        left
    };
    world.simulation.run_until(left)
}

/// Alice and her neighbour have mailboxes; the server restarts, and the neighbour's cannot be read.
fn world_with_unreadable_neighbour(ground: &Ground, choices: Choices) -> (World, String) {
    let (neighbour, address) = neighbour(ALICE);
    let world = World::new(ground, Choices::default());
    let partition = world.shards[0].local_partition(ALICE).expect("owned").clone();
    world.simulation.run_until(async {
        for account in [ALICE, neighbour] {
            drop(partition.account(account).await.expect("made"));
        }
        partition.close().await.expect("closed");
    });
    let devices = world.devices.clone();
    world.simulation.kill_tasks();
    drop(world);
    let world = World::on(ground, choices, devices);
    hide_neighbour(&world, ALICE, 0);
    (world, address)
}

#[test]
fn lmtp_tells_an_account_that_cannot_be_read_from_the_others_of_its_partition() {
    let choices = Choices { listener: ListenerKind::Lmtp, ..Choices::default() };
    let (world, neighbour) = world_with_unreadable_neighbour(&Ground::new(), choices);
    let mut client = world.client();
    begin(&mut client, "LHLO", &["alice@demo.test", &neighbour]);
    client.say("x\r\n.\r\n");
    let replies = client.expect("451");
    assert!(replies.starts_with("250 ") && replies.contains("\r\n451 "), "{replies}");
    world.devices[0].inject(Faults::default());
    assert_eq!(world.inbox(ALICE).len(), 1);
    assert!(queued(&world).is_empty());
}

/// The unreadable account is retried, and no other account gets the message again.
#[test]
fn an_account_that_cannot_be_read_fails_alone() {
    let (world, neighbour_address) =
        world_with_unreadable_neighbour(&Ground::new(), Choices::default());
    let mut client = world.client();
    begin(&mut client, "EHLO", &["alice@demo.test", "bob@demo.test", &neighbour_address]);
    client.say("Subject: x\r\n\r\n.\r\n");
    client.expect("250");
    assert_eq!(queued(&world), [1], "only the neighbour is left");
    world.sleep(1000);
    assert_eq!(queued(&world).len(), 1);
    world.devices[0].inject(Faults::default());
    world.sleep(1000);
    let (neighbour, _) = neighbour(ALICE);
    for account in [ALICE, BOB, neighbour] {
        assert_eq!(world.inbox(account).len(), 1, "{account}");
    }
    assert!(queued(&world).is_empty());
    assert!(world.told_of("given_up").is_empty());
}

/// Bob gets his copy when his disk works again, his neighbour does not: from then on, and after a
/// restart, only the neighbour is retried. After five days that ends, and the operator is told.
#[test]
fn the_rest_of_a_delivery_is_narrowed_and_given_up_visibly() {
    let ground = Ground::new();
    let (neighbour, address) = neighbour(BOB);
    let world = World::new(&ground, Choices::default());
    let partition = world.shards[1].local_partition(BOB).expect("owned").clone();
    world.simulation.run_until(async {
        for account in [BOB, neighbour] {
            drop(partition.account(account).await.expect("made"));
        }
        partition.checkpoint().await.expect("written");
    });
    drop(partition);
    let mut client = world.client();
    begin(&mut client, "EHLO", &["alice@demo.test", "bob@demo.test", &address]);
    break_disk(&world, 1);
    client.say("Subject: narrowed\r\n\r\nx\r\n.\r\n");
    client.expect("250");
    assert_eq!(queued(&world), [2]);
    let devices = world.devices.clone();
    world.simulation.kill_tasks();
    drop((client, world));

    devices[1].inject(Faults::default());
    let world = World::on(&ground, Choices::default(), devices);
    hide_neighbour(&world, BOB, 1);
    world.sleep(60);
    assert_eq!(queued(&world), [1], "what succeeded is not tried again");
    let devices = world.devices.clone();
    world.simulation.kill_tasks();
    drop(world);

    devices[1].inject(Faults::default());
    let world = World::on(&ground, Choices::default(), devices);
    assert_eq!(queued(&world), [1], "after a restart too");
    hide_neighbour(&world, BOB, 1);
    world.sleep(6 * 24 * 3600);
    let told = world.told_of("given_up");
    let [line] = told.as_slice() else { panic!("{told:?}") };
    let named = format!("\"accounts\":[{neighbour}],\"count\":1,\"reason\":\"too_late\"");
    assert!(line.contains(&named), "{line}");
    world.devices[1].inject(Faults::default());
    world.sleep(24 * 3600);
    assert_eq!(world.inbox(neighbour).len(), 0, "given up until the next start");
    assert_eq!(queued(&world).len(), 1);
    let devices = world.devices.clone();
    world.simulation.kill_tasks();
    drop(world);

    let world = World::on(&ground, Choices::default(), devices);
    world.sleep(10);
    for account in [ALICE, BOB, neighbour] {
        assert_eq!(world.inbox(account).len(), 1, "{account}");
    }
    assert!(queued(&world).is_empty());
}

/// From the connection to both mailboxes, on any shard.
#[test]
fn a_message_has_one_trail_to_all_its_mailboxes() {
    let world = World::new(&Ground::new(), Choices::default());
    let mut client = world.client();
    client.say("EHLO client.test\r\nMAIL FROM:<carol@far.test>\r\nRCPT TO:<no@demo.test>\r\n");
    client.expect("550");
    let told = world.told();
    let [line] = told.as_slice() else { panic!("{told:?}") };
    for part in [
        r#""event":"recipient_refused","shard":0,"trail":"0-0-1","protocol":"smtp","peer":"127.0.0.1","#,
        r#""client":"client.test","from":"carol@far.test","to":"no@demo.test","reply":"550 5.1.1 "#,
    ] {
        assert!(line.contains(part), "{line}");
    }

    client.say("RSET\r\n");
    client.expect("250");
    for number in 1..=2 {
        begin(&mut client, "EHLO", &["alice@demo.test", "bob@demo.test"]);
        client.say("Subject: secret\r\n\r\nhidden\r\n.\r\n");
        let reply = client.expect("250");
        let id = reply.trim_end().rsplit(' ').next().expect("id");
        let told = world.told();
        let trail = format!(r#""trail":"0-0-1-{number}""#);
        assert!(told.iter().all(|line| line.contains(&trail)), "{told:?}");
        let message = format!(r#""event":"message","shard":0,{trail},"id":"{id}""#);
        assert_eq!(told.iter().filter(|line| line.contains(&message)).count(), 1, "{told:?}");
        for (shard, account) in [(0, ALICE), (1, BOB)] {
            let begin = format!(r#""event":"delivered","shard":{shard},{trail},"delivery":""#);
            let end = format!(r#""account":{account},"mailbox":1,"uid":{number},"octets":"#);
            let is_it = |line: &&String| line.contains(&begin) && line.contains(&end);
            assert_eq!(told.iter().filter(is_it).count(), 1, "{told:?}");
        }
        assert!(!told.concat().contains("secret") && !told.concat().contains("hidden"));
    }

    // Refused for its content, by the session; and because of the disk, when it is complete.
    begin(&mut client, "EHLO", &["alice@demo.test"]);
    client.say("Subject: x\r\n\r\nbare\nnewline\r\n.\r\n");
    client.expect("550");
    let told = world.told();
    let [line] = told.as_slice() else { panic!("{told:?}") };
    assert!(line.contains(r#""event":"message_refused","shard":0,"trail":"0-0-1-3""#), "{line}");
    assert!(line.contains(r#""reply":"550 5.6."#), "{line}");
    assert!(line.contains(r#""from":"carol@far.test","to":"alice@demo.test""#), "{line}");
    assert!(line.contains(r#""recipients":1,"octets":29"#), "{line}");
    assert_eq!(messages_failed(&world), 1);
    // One whose announced size is so large that the connection is closed.
    let mut other = world.client();
    other.say("EHLO client.test\r\nMAIL FROM:<carol@far.test>\r\nRCPT TO:<alice@demo.test>\r\n");
    other.say("BDAT 99999999999 LAST\r\n");
    other.expect("421");
    let told = world.told().concat();
    assert!(told.contains(r#""from":"carol@far.test","to":"alice@demo.test""#), "{told}");
    assert!(told.contains(r#""recipients":1,"octets":0,"reply":"421 4.3.4 "#), "{told}");
    assert_eq!(messages_failed(&world), 2);
    begin(&mut client, "EHLO", &["alice@demo.test"]);
    break_disk(&world, 0);
    client.say("Subject: x\r\n\r\nx\r\n.\r\n");
    client.expect("451");
    let told = world.told();
    let [failed, refused] = told.as_slice() else { panic!("{told:?}") };
    assert!(failed.contains(r#""event":"delivery_failed""#), "{failed}");
    assert!(failed.contains(r#""account":1,"reason":"storage"}"#), "{failed}");
    assert!(refused.contains(r#""event":"message_refused""#), "{refused}");
    assert_eq!(messages_failed(&world), 3);
    assert!(refused.contains(r#""from":"carol@far.test","to":"alice@demo.test""#), "{refused}");
    for line in [failed, refused] {
        assert!(line.contains(r#""trail":"0-0-1-4""#), "{line}");
    }
}

/// Messages counted as refused after their content or because of it.
fn messages_failed(world: &World) -> u64 {
    let counters = world.shards[0].metrics.snapshot().counters;
    counters.get("smtp_messages_failed_total").copied().unwrap_or(0)
}

fn deliveries_known(world: &World) -> usize {
    let partitions = world.shards.iter().flat_map(|shard| shard.partitions.iter().flatten());
    partitions.map(|partition| partition.delivery_families().len()).max().unwrap_or(0)
}

/// Damage has taken who gets a queued message: it is not removed as if all had it.
#[test]
fn a_queued_message_whose_recipients_are_lost_stays() {
    let ground = Ground::new();
    let world = World::new(&ground, Choices::default());
    let mut client = world.client();
    begin(&mut client, "EHLO", &["alice@demo.test", "bob@demo.test"]);
    break_disk(&world, 1);
    client.say("x\r\n.\r\n");
    client.expect("250");
    let partition = world.shards[0].local_partition(ALICE).expect("owned").clone();
    world.simulation.run_until(async {
        let queue = partition.queue().await.expect("there");
        let lost = queue.annotate(MailboxId::INBOX, Uid(1), vec![(1, None)]).await;
        assert!(lost.expect("written"));
    });
    drop(partition);
    let devices = world.devices.clone();
    world.simulation.kill_tasks();
    drop((client, world));

    devices[1].inject(Faults::default());
    let world = World::on(&ground, Choices::default(), devices);
    world.sleep(1000);
    assert_eq!(queued(&world), [0]);
}

/// A queue that cannot be read keeps ids from being forgotten, and nothing else: requests for its
/// contents do not wait for it, each with a credit of the mesh.
#[test]
fn a_queue_that_cannot_be_read_holds_up_no_questions() {
    let ground = Ground::new();
    let world = World::new(&ground, Choices::default());
    let both = ["alice@demo.test", "bob@demo.test"];
    let mut client = world.client();
    let mut send = || {
        begin(&mut client, "EHLO", &both);
        client.say("x\r\n.\r\n");
        client.expect("250");
    };
    send();
    break_disk(&world, 1);
    send();
    let partition = world.shards[0].local_partition(ALICE).expect("owned").clone();
    world.simulation.run_until(async { partition.checkpoint().await.expect("written") });
    drop(partition);
    let devices = world.devices.clone();
    world.simulation.kill_tasks();
    drop((client, world));

    devices[1].inject(Faults::default());
    let world = World::on(&ground, Choices::default(), devices.clone());
    devices[0].inject(Faults { unreadable: true, ..Faults::default() });
    world.sleep(3600);
    let second = Duration::from_secs(1);
    let asked = world.shards[1]
        .mesh
        .call(ShardId(0), Class::Upkeep, second, |_| Box::pin(std::future::ready(())));
    assert_eq!(world.simulation.run_until(asked), Ok(()));
    devices[0].inject(Faults::default());
    world.sleep(100);
    // The id of the queued one is known until the next round.
    assert_eq!((queued(&world).len(), deliveries_known(&world)), (0, 1));
    assert_eq!((world.inbox(ALICE).len(), world.inbox(BOB).len()), (2, 2));
}

/// Ids of completed deliveries make room; those in a queue stay, and if all are of that kind
/// further messages to several partitions are refused for a while.
#[test]
fn deliveries_that_may_be_repeated_are_never_forgotten() {
    let ground = Ground::new();
    let choices = || Choices { deliveries_known: 4, ..Choices::default() };
    let both = ["alice@demo.test", "bob@demo.test"];
    let world = World::new(&ground, choices());
    let send = |world: &World, reply: &str| {
        let mut client = world.client();
        begin(&mut client, "EHLO", &both);
        client.say("x\r\n.\r\n");
        client.expect(reply);
        world.sleep(3);
    };
    for _ in 0..20 {
        send(&world, "250");
        assert!(deliveries_known(&world) <= 3);
    }
    // Bob's disk fails: four messages wait in the queue of alice's partition, which knows their
    // ids.
    break_disk(&world, 1);
    for _ in 0..4 {
        send(&world, "250");
    }
    assert_eq!((queued(&world).len(), deliveries_known(&world)), (4, 4));
    send(&world, "451");
    assert_eq!(world.inbox(ALICE).len(), 24);
    // After a start too, as long as they are there.
    let devices = world.devices.clone();
    world.simulation.kill_tasks();
    drop(world);
    devices[1].inject(Faults::default());
    let world = World::on(&ground, choices(), devices.clone());
    devices[1].inject(Faults { failed_appends: (0..1000).collect(), ..Faults::default() });
    world.simulation.run_idle();
    assert_eq!(queued(&world).len(), 4);
    devices[1].inject(Faults::default());
    world.sleep(400);
    assert!(queued(&world).is_empty());
    assert_eq!((world.inbox(ALICE).len(), world.inbox(BOB).len()), (24, 24));
    // A delivery that finds the table full starts the search for ids to forget.
    let mut client = world.client();
    begin(&mut client, "EHLO", &both);
    client.say("x\r\n.\r\n");
    world.sleep(400);
    let before = world.inbox(ALICE).len();
    for _ in 0..8 {
        send(&world, "250");
    }
    assert_eq!(world.inbox(ALICE).len(), before + 8);
    assert_eq!(world.inbox(BOB).len(), before + 8);
}

#[test]
fn the_clients_death_leaves_no_message() {
    let world = World::new(&Ground::new(), Choices::default());
    let mut client = world.client();
    begin(&mut client, "EHLO", &["alice@demo.test", "bob@demo.test"]);
    client.say(&"x\r\n".repeat(200_000));
    drop(client);
    world.simulation.run_idle();
    assert!(world.inbox(ALICE).is_empty() && world.inbox(BOB).is_empty());
}

/// RFC 5321 4.5.3.2.7: five minutes for a command, however its octets trickle in and whatever
/// happens to the wall clock.
#[test]
fn octets_of_a_command_earn_no_time() {
    let world = World::new(&Ground::new(), Choices::default());
    let mut client = world.client();
    client.expect("220");
    client.say("NO");
    world.simulation.set_wall_clock(24 * 3600);
    for _ in 0..4 {
        world.sleep(70);
        client.say("O");
    }
    client.say("\r\n");
    client.expect("500");
    client.say("NO");
    for _ in 0..4 {
        world.sleep(70);
        client.say("O");
    }
    world.sleep(30);
    client.expect("421");
}
