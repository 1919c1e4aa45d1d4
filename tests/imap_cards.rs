//! SEARCH answered from message cards, against SEARCH that reads every header: without cards, after
//! a checkpoint has made them, while more messages arrive, and after some have been expunged.

mod transcript;
mod world;

use std::rc::Rc;

use ringmail::{
    runtime::{LocalFuture, connection::Connection},
    service::{
        Shard,
        imap::{self, Outcome},
    },
};
use world::{Client, Kit, SimulatedWorld};

fn serve(
    connection: Connection,
    shards: Rc<[Rc<Shard>]>,
    entry: usize,
) -> LocalFuture<'static, ()> {
    Box::pin(async move {
        let outcome = imap::run(connection, shards[entry].clone()).await;
        assert!(!matches!(outcome, Outcome::HandOver(..)), "shard 0 owns the account");
    })
}

fn append(client: &mut Client, message: &str) {
    client.say(format!("a APPEND INBOX {{{}+}}\r\n{message}\r\n", message.len()));
    client.read_to("a OK");
}

/// Headers of every kind, including some that cards cannot represent.
fn message(number: usize) -> String {
    let header = match number % 10 {
        0 => "From: \"J. Doe\" <joe@a.test>\r\nTo: x@b.test,\r\n y (z) @ c.test\r\n".to_owned(),
        1 => {
            "Subject: =?utf-8?q?Gr=C3=BC?=\r\n =?utf-8?q?=C3=9Fe?= all\r\nCC: joe@a.test\r\n".into()
        }
        2 => "To: one@b.test\r\nTo: two@c.test\r\nSubject: first\r\nSubject: second\r\n".into(),
        3 => "Date: Mon, 1 Jan 2024 10:00:00 +0000\r\nBcc: hidden@b.test\r\n".into(),
        4 => format!("Subject: {}far\r\nFrom: joe@a.test\r\n", "long ".repeat(5_000)),
        5 => "from : JOE@A.TEST\r\nno field\r\nMessage-ID: <5@a.test>\r\n".into(),
        6 => "From: a\rb@c.test\r\nIn-Reply-To: <5@a.test>\r\nReply-To: r@a.test\r\n".into(),
        7 => "Subject: raw \u{f6}\r\nDate: Sat, 1 Jun 2024 10:00:00 +0000\r\n".into(),
        8 => String::new(),
        _ => "Sender: s@b.test\r\nX-Other: joe\r\nSubject:\r\n".into(),
    };
    format!("{header}X-Number: {number}\r\n\r\njoe in the body of {number}\r\n")
}

const KEYS: &[&str] = &[
    "FROM joe",
    "FROM ab@c",
    "FROM \"J. Doe <joe@\"",
    "TO y@c.test",
    "TO two",
    "NOT TO one",
    "CC joe",
    "BCC hidden",
    "SUBJECT first",
    "SUBJECT second",
    "SUBJECT {7+}\r\ngr\u{fc}\u{df}e",
    "SUBJECT {2+}\r\n\u{d6}",
    "SUBJECT far",
    "HEADER Subject \"\"",
    "HEADER Message-ID 5@A",
    "HEADER In-Reply-To 5@a",
    "HEADER Reply-To r@",
    "HEADER Sender s@",
    "OR FROM joe SUBJECT second",
    "FROM joe TO y@c",
];

/// The message numbers that `keys` finds.
fn search(client: &mut Client, keys: &str) -> String {
    client.say(format!("s SEARCH {keys}\r\n"));
    let found = client.read_to("s OK");
    found.lines().find(|line| line.starts_with("* SEARCH")).expect("an answer").to_owned()
}

/// Cards and headers give the same result. A key that cards cannot answer forces reading all
/// headers.
fn check(client: &mut Client, when: &str) {
    let mut found = 0;
    for keys in KEYS {
        let by_cards = search(client, keys);
        assert_eq!(
            by_cards,
            search(client, &format!("OR HEADER X-None x ({keys})")),
            "{keys} {when}"
        );
        found += usize::from(by_cards.len() > "* SEARCH".len());
    }
    assert_eq!(found, KEYS.len(), "each finds something {when}");
    let since = search(client, "SENTSINCE 1-May-2024");
    let before = search(client, "SENTBEFORE 1-May-2024");
    let has = search(client, "HEADER Date 2024 HEADER X-Number \"\"");
    assert_eq!(
        since.matches(' ').count() + before.matches(' ').count() - 2,
        has.matches(' ').count() - 1
    );
}

/// Damages a message's entry in the log; its card stays intact.
fn damage_headers(world: &SimulatedWorld<'_>, text: &[u8]) -> usize {
    let mut damaged = 0;
    for name in world.device.names() {
        world.device.corrupt(&name, |bytes| {
            let at = bytes.windows(text.len()).position(|window| window == text);
            if let Some(octet) = at.and_then(|at| bytes.get_mut(at)) {
                *octet ^= 1;
                damaged += 1;
            }
        });
    }
    damaged
}

#[test]
fn cards_and_headers_agree() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve, 0, true);
    let partition = world.alices_partition();
    let mut client = world.client();
    client.read_to("* OK");
    client.say("l LOGIN alice@demo.test demo\r\n");
    client.read_to("l OK");
    (0..150).for_each(|number| append(&mut client, &message(number)));
    client.say("o SELECT INBOX\r\n");
    client.read_to("o OK");
    check(&mut client, "without cards");
    world.with_account(async |_| partition.checkpoint().await.expect("written"));
    check(&mut client, "from cards");
    (150..160).for_each(|number| append(&mut client, &message(number)));
    check(&mut client, "with a few messages after the cards");
    for command in ["STORE 10:30,155 +FLAGS.SILENT (\\Deleted)", "EXPUNGE"] {
        client.say(format!("x {command}\r\n"));
        client.read_to("x OK");
    }
    check(&mut client, "after messages have gone");
    world.with_account(async |_| partition.checkpoint().await.expect("written"));
    (160..300).for_each(|number| append(&mut client, &message(number)));
    world.with_account(async |_| partition.checkpoint().await.expect("written"));
    check(&mut client, "from more cards");
    world.with_account(async |_| partition.compact().await.expect("compacted"));
    check(&mut client, "after compaction");
    // The answer comes from the cards: the headers can no longer be read from the log.
    let all = search(&mut client, "HEADER Message-ID 5@a");
    assert!(damage_headers(&world, b"<5@a.test>\r\nX-Number: 45\r\n") > 0);
    assert_eq!(search(&mut client, "HEADER Message-ID 5@a"), all);
}
