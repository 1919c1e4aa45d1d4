//! Mail to sub-addresses (RFC 5233): into the folder of that name if who sends it may post there
//! (RFC 4314 4, the right `p`), else into INBOX, and the client is told the same.

#[allow(dead_code)] // what transcripts need
mod smtp_world;
mod transcript;

use ringmail::{
    model::{AccountId, Rights, Subject},
    service::smtp::ListenerKind,
};
use smtp_world::{ALICE, BOB, Choices, Ground, World};

const FOLDERS: [&str; 3] = ["INBOX", "Work", "Work/Old"];

/// Creates the folders and sets the list of one of them.
fn prepare(world: &World, owner: AccountId, folder: &str, entries: &[(&str, &str)]) {
    let shard = &world.shards[usize::from(world.shards[0].owner_of(owner).0)];
    let partition = shard.local_partition(owner).expect("owned").clone();
    world.simulation.run_until(async {
        let account = partition.account(owner).await.expect("opens");
        account.create_mailbox("Work/Old", None).await.expect("created");
        let mailbox = account.mailbox_by_name(folder).expect("there").id;
        for (who, rights) in entries {
            let subject = Subject::parse(who).expect("identifier");
            let rights = Rights::parse(rights.as_bytes()).expect("rights");
            let set = account.change_access_list(mailbox, |list| Ok(list.set(subject, rights)?));
            set.await.expect("set");
        }
    });
}

struct Case {
    listener: ListenerKind,
    /// Who logs in.
    user: Option<&'static str>,
    /// The folder with a list, and its entries.
    folder: &'static str,
    entries: &'static [(&'static str, &'static str)],
    /// Parts of the recipients' addresses after `alice`, or `bob`.
    details: &'static [&'static str],
    expected: &'static str,
}

const OUTSIDE: Case = Case {
    listener: ListenerKind::Smtp,
    user: None,
    folder: "Work",
    entries: &[("anyone", "p")],
    details: &["+Work"],
    expected: "Work",
};

const CASES: &[Case] = &[
    // Mail from outside needs the right of anyone.
    OUTSIDE,
    Case { listener: ListenerKind::Lmtp, ..OUTSIDE },
    Case { entries: &[], expected: "INBOX", ..OUTSIDE },
    Case { entries: &[("anyone", "lrswi")], expected: "INBOX", ..OUTSIDE },
    Case { entries: &[("authuser", "p")], expected: "INBOX", ..OUTSIDE },
    Case { entries: &[("anyone", "p"), ("-anyone", "p")], expected: "INBOX", ..OUTSIDE },
    // Of this folder, not of another one.
    Case { details: &["+Work/Old"], expected: "INBOX", ..OUTSIDE },
    Case { folder: "Work/Old", details: &["+Work/Old"], expected: "Work/Old", ..OUTSIDE },
    Case { details: &["+Nowhere"], expected: "INBOX", ..OUTSIDE },
    Case { details: &["+work"], expected: "INBOX", ..OUTSIDE },
    // One copy; INBOX if the address itself is named, too.
    Case { details: &["+Work", ""], expected: "INBOX", ..OUTSIDE },
    Case { details: &["+Work", "+Nowhere"], expected: "Work", ..OUTSIDE },
    Case { listener: ListenerKind::Lmtp, details: &["", "+Work"], expected: "INBOX", ..OUTSIDE },
    // A user who logged in has his rights.
    Case { user: Some("user1"), entries: &[("user1@demo.test", "p")], ..OUTSIDE },
    Case { user: Some("user1"), entries: &[("authuser", "p")], ..OUTSIDE },
    Case {
        user: Some("user2"),
        entries: &[("user1@demo.test", "p")],
        expected: "INBOX",
        ..OUTSIDE
    },
    Case {
        user: Some("user1"),
        entries: &[("anyone", "p"), ("-user1@demo.test", "p")],
        expected: "INBOX",
        ..OUTSIDE
    },
];

fn check(ground: &Ground, name: &str, owner: AccountId, case: &Case) {
    let listener = if case.user.is_some() { ListenerKind::Submission } else { case.listener };
    let world = World::new(ground, Choices { listener, ..Choices::default() });
    prepare(&world, owner, case.folder, case.entries);
    let mut client = world.client();
    client.expect("220");
    client.say(if case.listener == ListenerKind::Lmtp { "LHLO c\r\n" } else { "EHLO c\r\n" });
    client.expect("250");
    let mut sender = "x@far.test".to_owned();
    if let Some(user) = case.user {
        sender = format!("{user}@demo.test");
        let encoded = base64(format!("\0{sender}\0demo").as_bytes());
        client.say(&format!("AUTH PLAIN {encoded}\r\n"));
        client.expect("235");
    }
    client.say(&format!("MAIL FROM:<{sender}>\r\n"));
    client.expect("250");
    for detail in case.details {
        client.say(&format!("RCPT TO:<{name}{detail}@demo.test>\r\n"));
        client.expect("250");
    }
    client.say("DATA\r\n");
    client.expect("354");
    client.say("Subject: x\r\n\r\nx\r\n.\r\n");
    client.expect("250");
    let found: Vec<&str> =
        FOLDERS.into_iter().filter(|folder| world.mailbox(owner, folder).len() == 1).collect();
    let Case { user, entries, details, .. } = case;
    assert_eq!(found, [case.expected], "{name}{details:?} by {user:?}: {entries:?}");
}

/// As little as AUTH PLAIN needs.
fn base64(octets: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in octets.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, octet| bits << 8 | u32::from(*octet));
        let bits = bits << (8 * (3 - group.len()));
        for at in 0..4 {
            match at <= group.len() {
                true => out.push(char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize])),
                false => out.push('='),
            }
        }
    }
    out
}

/// Alice's account is on the client's shard, bob's on the other one.
#[test]
fn mail_goes_where_its_sender_may_post() {
    let ground = Ground::new();
    for case in CASES {
        check(&ground, "alice", ALICE, case);
        check(&ground, "bob", BOB, case);
    }
}

/// The owner needs no entry.
#[test]
fn owners_file_their_own_mail() {
    let ground = Ground::new();
    for (name, owner) in [("alice", ALICE), ("bob", BOB)] {
        let own = Case { user: Some(name), entries: &[], ..OUTSIDE };
        check(&ground, name, owner, &own);
        let other = if name == "alice" { "bob" } else { "alice" };
        let case = Case { user: Some(other), entries: &[], expected: "INBOX", ..OUTSIDE };
        check(&ground, name, owner, &case);
    }
}
