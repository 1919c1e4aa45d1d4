//! Annotations (RFC 5464) of mailboxes that several users have, on the session's shard and on
//! another one: what is each user's own, and what rights allow. And how many there may be.

mod transcript;
mod world;

use ringmail::service::imap::ImapOptions;
use world::{Kit, SimulatedWorld, serve_imap};

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// Dave is the administrator.
fn world(kit: &Kit) -> SimulatedWorld<'_> {
    let mut options = world::options(true);
    options.imap =
        ImapOptions { administrators: vec!["dave@demo.test".to_owned()], ..options.imap };
    SimulatedWorld::with_options(kit, serve_imap, 0, options, 64 << 20)
}

#[track_caller]
fn check(told: &str, expected: &[&str]) {
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told, expected);
}

const BOX: &str = "\"Other Users/alice@demo.test/box\"";
const NO_MAILBOX: &str = "t NO [NONEXISTENT] No such mailbox";
const NOT_ALLOWED: &str = "t NO [NOPERM] Not allowed on this mailbox";
const DONE: &str = "t OK GETMETADATA completed";

/// What is private is each user's own, also in somebody else's mailbox; what is shared is one for
/// all.
#[test]
fn private_values_are_each_users_own() {
    let kit = Kit::of(&USERS);
    for user in ["bob", "carol"] {
        let world = world(&kit);
        let (mut alice, mut guest) = (world.log_in("alice"), world.log_in(user));
        alice.done("CREATE box");
        alice.done(&format!("SETACL box {user}@demo.test lrw"));
        alice.done("SETMETADATA box (/private/comment \"alice's\" /shared/comment \"ours\")");
        let both = "(/private/comment /shared/comment)";
        check(
            &guest.answer(&format!("GETMETADATA {BOX} {both}")),
            &[&format!("* METADATA {BOX} (/private/comment NIL /shared/comment \"ours\")"), DONE],
        );
        guest.done(&format!("SETMETADATA {BOX} (/private/comment \"his\" /shared/x \"new\")"));
        check(
            &guest.answer(&format!("GETMETADATA {BOX} (DEPTH infinity) (/private /shared)")),
            &[
                &format!(
                    "* METADATA {BOX} (/private/comment \"his\" /shared/comment \"ours\" \
                     /shared/x \"new\")"
                ),
                DONE,
            ],
        );
        check(
            &alice.answer("GETMETADATA box (DEPTH infinity) (/private /shared)"),
            &[
                "* METADATA box (/private/comment \"alice's\" /shared/comment \"ours\" \
                 /shared/x \"new\")",
                DONE,
            ],
        );
        // A mailbox of the user's own with the same number, and the server, have nothing of it.
        check(&guest.answer("GETMETADATA \"\" (DEPTH infinity) (/private /shared)"), &[DONE]);
        for name in ["INBOX", "Sent", "Drafts"] {
            check(&guest.answer(&format!("GETMETADATA {name} (DEPTH infinity) /shared")), &[DONE]);
        }
        check(
            &guest.answer(&format!("LIST \"\" {BOX} RETURN (METADATA {both})")),
            &[
                &format!("* LIST (\\HasNoChildren) \"/\" {BOX}"),
                &format!("* METADATA {BOX} (/private/comment \"his\" /shared/comment \"ours\")"),
                "t OK LIST completed",
            ],
        );
        let refused =
            guest.answer(&format!("SETMETADATA {BOX} (/private/specialuse \"\\\\Sent\")"));
        check(&refused, &["t NO [USEATTR] Special uses are for one's own mailboxes"]);
        // Another mailbox under the name is another mailbox.
        alice.done("DELETE box");
        alice.done("CREATE box");
        alice.done(&format!("SETACL box {user}@demo.test lrw"));
        check(
            &guest.answer(&format!("GETMETADATA {BOX} {both}")),
            &[&format!("* METADATA {BOX} (/private/comment NIL /shared/comment NIL)"), DONE],
        );
    }
}

/// RFC 5464 3.3: `l` and one more right; and `w` for what others see.
#[test]
fn rights_are_asked_for_each_time() {
    // (rights, whether annotations may be read, whether shared ones may be changed)
    const CASES: &[(&str, Option<bool>, bool)] = &[
        ("l", Some(false), false),
        ("lr", Some(true), false),
        ("ls", Some(true), false),
        ("lw", Some(true), true),
        ("li", Some(true), false),
        ("lp", Some(true), false),
        ("lkxtea", Some(false), false),
        ("rswip", None, false),
        ("", None, false),
    ];
    let kit = Kit::of(&USERS);
    for user in ["bob", "carol"] {
        let world = world(&kit);
        let (mut alice, mut guest) = (world.log_in("alice"), world.log_in(user));
        alice.done("CREATE box");
        alice.done("SETMETADATA box (/shared/comment \"x\")");
        // Something else is shared with the user, so that the account is asked.
        alice.done("CREATE seen");
        alice.done(&format!("SETACL seen {user}@demo.test lr"));
        for (rights, reads, changes) in CASES {
            alice.done(&format!("SETACL box {user}@demo.test \"{rights}\""));
            let got = guest.answer(&format!("GETMETADATA {BOX} /shared/comment"));
            let set = guest.answer(&format!("SETMETADATA {BOX} (/shared/comment \"x\")"));
            let own = guest.answer(&format!("SETMETADATA {BOX} (/private/comment \"x\")"));
            match reads {
                None => {
                    for told in [got, set, own] {
                        check(&told, &[NO_MAILBOX]);
                    }
                }
                Some(reads) => {
                    assert_eq!(got.contains("/shared/comment \"x\""), *reads, "{rights}: {got}");
                    assert_eq!(own.starts_with("t OK"), *reads, "{rights}: {own}");
                    assert_eq!(set.starts_with("t OK"), *changes, "{rights}: {set}");
                    for told in [got, set, own] {
                        assert!(told.contains("t OK") || told.starts_with(NOT_ALLOWED));
                    }
                }
            }
            // LIST tells no more than GETMETADATA.
            let listed =
                guest.answer(&format!("LIST \"\" {BOX} RETURN (METADATA (/shared/comment))"));
            assert_eq!(listed.contains("METADATA \""), *reads == Some(true), "{rights}: {listed}");
        }
    }
}

/// What the server says to all is for administrators to change, and for all to read.
#[test]
fn the_server_has_annotations() {
    let kit = Kit::of(&USERS);
    let world = world(&kit);
    let mut admin = world.log_in("dave");
    admin.done("SETMETADATA \"\" (/shared/admin \"mailto:dave@demo.test\")");
    for user in ["alice", "bob", "carol"] {
        let mut client = world.log_in(user);
        check(
            &client.answer("GETMETADATA \"\" (/shared/admin)"),
            &["* METADATA \"\" (/shared/admin \"mailto:dave@demo.test\")", DONE],
        );
        check(
            &client.answer("SETMETADATA \"\" (/private/x \"1\" /shared/admin NIL)"),
            &["t NO [NOPERM] Only administrators annotate the server for all"],
        );
        // Nothing of a command that is refused is done.
        check(
            &client.answer("GETMETADATA \"\" (/private/x)"),
            &["* METADATA \"\" (/private/x NIL)", DONE],
        );
    }
}

/// A flood ends at a limit, and what was there before stays; so do access lists.
#[test]
fn floods_end_at_limits() {
    let kit = Kit::of(&USERS);
    let world = world(&kit);
    let (mut alice, mut guest) = (world.log_in("alice"), world.log_in("bob"));
    alice.done("CREATE box");
    alice.done("SETACL box bob@demo.test lrw");
    const TOO_MANY: &str = "t NO [METADATA TOOMANY] Limit reached: annotations of a mailbox";
    for (client, name) in [(&mut alice, "box"), (&mut guest, BOX)] {
        for scope in ["private", "shared"] {
            // What is left of the room: the owner's own annotations are beside the shared ones.
            let mut made = 0;
            let refused = loop {
                let told = client.answer(&format!("SETMETADATA {name} (/{scope}/{made} \"x\")"));
                if !told.starts_with("t OK") {
                    break told;
                }
                made += 1;
                assert!(made <= 100);
            };
            check(&refused, &[TOO_MANY]);
            if made > 0 {
                client.done(&format!("SETMETADATA {name} (/{scope}/0 \"changed\")"));
            }
            check(
                &client.answer(&format!(
                    "SETMETADATA {name} (/{scope}/0 NIL /{scope}/a \"1\" /{scope}/b \"2\")"
                )),
                &[TOO_MANY],
            );
        }
    }
    let long = "x".repeat(16 * 1024 + 1);
    let size = long.len();
    check(
        &alice.answer(&format!("SETMETADATA INBOX (/private/long {{{size}+}}\r\n{long})")),
        &["t NO [METADATA MAXSIZE 16384] The value is too long"],
    );
    let value = &long[1..];
    for number in 0..3 {
        alice.done(&format!("SETMETADATA INBOX (/private/long{number} {{16384+}}\r\n{value})"));
    }
    let told = alice.answer(&format!("SETMETADATA INBOX (/private/long3 {{16384+}}\r\n{value})"));
    check(&told, &[TOO_MANY]);
    // Of a value that is asked for again and again there is one.
    let asked = "(/private/long0 /PRIVATE/long0 /private/Long0)";
    for depth in ["0", "1", "infinity"] {
        let told = alice.answer(&format!("GETMETADATA INBOX (DEPTH {depth}) {asked}"));
        assert_eq!(told.matches("{16384}").count(), 1, "{depth}");
    }
    alice.done("SETACL box carol@demo.test lr");
    // Octets of all kinds come back as they were.
    alice.done("SETMETADATA Sent (/private/octets ~{5+}\r\na\0\r\nb)");
    let told = alice.answer("GETMETADATA Sent /private/octets");
    assert_eq!(
        told,
        "* METADATA Sent (/private/octets ~{5}\r\na\0\r\nb)\r\nt OK GETMETADATA completed\r\n"
    );
}
