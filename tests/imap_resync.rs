//! QRESYNC (RFC 7162 3.2) where a transcript does not reach: mailboxes of other users, on the
//! session's shard and on another one, and expunges that the server has forgotten.

mod transcript;
mod world;

use world::{Client, Kit, SimulatedWorld, serve_imap};

/// Alice owns the mailbox; the others are on both shards.
const USERS: [&str; 3] = ["alice", "bob", "carol"];

fn fill(client: &mut Client, count: usize) {
    client.done("CREATE box");
    let message = "Subject: many\r\n\r\nx\r\n";
    let append = format!("a APPEND box {{{}+}}\r\n{message}\r\n", message.len());
    for _ in 0..count {
        client.say(&append);
    }
    client.say("b NOOP\r\n");
    client.read_to("b OK");
    for user in &USERS[1..] {
        client.done(&format!("SETACL box {user}@demo.test lrswite"));
    }
}

/// The mailbox as `user` names it.
fn name(user: &str) -> &'static str {
    if user == "alice" { "box" } else { "\"Other Users/alice@demo.test/box\"" }
}

/// The number after `label`.
fn number(told: &str, label: &str) -> u64 {
    let (_, after) = told.split_once(label).unwrap_or_else(|| panic!("{label} in {told}"));
    let digits = after.split(|it: char| !it.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().expect("a number")
}

/// Plays a case for each user as the one who comes back; the owner changes the mailbox.
fn each(count: usize, play: impl Fn(&mut Client, &mut Client, &str)) {
    for user in USERS {
        let kit = Kit::of(&USERS);
        let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
        let mut owner = world.log_in("alice");
        fill(&mut owner, count);
        owner.done("SELECT box");
        let mut client = world.log_in(user);
        client.done("ENABLE QRESYNC");
        play(&mut owner, &mut client, name(user));
    }
}

#[test]
fn mailboxes_of_all_shards_are_resynchronized() {
    each(9, |owner, client, name| {
        let told = client.done(&format!("SELECT {name}"));
        let (validity, known) = (number(&told, "[UIDVALIDITY "), number(&told, "[HIGHESTMODSEQ "));
        client.done("UNSELECT");
        owner.done("STORE 2:4,8 +FLAGS.SILENT (\\Deleted)");
        owner.done("EXPUNGE");
        owner.done("STORE 2 FLAGS.SILENT (\\Answered)");
        let told = client.done(&format!("SELECT {name} (QRESYNC ({validity} {known}))"));
        let flagged = "* 2 FETCH (UID 5 FLAGS (\\Answered";
        assert!(told.contains("\r\n* VANISHED (EARLIER) 2:4,8\r\n* 2 FETCH"), "{told}");
        assert!(told.contains(flagged) && told.matches("FETCH").count() == 1, "{told}");
        // What comes later is told of the selected mailbox.
        let known = number(&told, "[HIGHESTMODSEQ ");
        owner.done("STORE 5 +FLAGS.SILENT (\\Deleted)");
        owner.done("EXPUNGE");
        // From another shard it arrives some turns later.
        let tells = |client: &mut Client| client.done("CHECK").contains("* VANISHED 9\r\n");
        assert!((0..50).any(|_| tells(client)), "{name}");
        let told = client.done(&format!("UID FETCH 1:* (FLAGS) (CHANGEDSINCE {known} VANISHED)"));
        assert_eq!(told.matches("VANISHED").count(), 1, "{told}");
        assert!(told.starts_with("* VANISHED (EARLIER) 9\r\nt OK"), "{told}");
        // The client's own expunge.
        client.done("UID STORE 6 +FLAGS.SILENT (\\Deleted)");
        let told = client.done("EXPUNGE");
        assert!(told.starts_with("* VANISHED 6\r\nt OK [HIGHESTMODSEQ "), "{told}");
        let told = client.done(&format!("UID MOVE 7 {name}"));
        let [copied, vanished, exists, ..] = told.lines().collect::<Vec<_>>()[..] else {
            panic!("{told}")
        };
        assert!(copied.starts_with("* OK [COPYUID "), "{told}");
        assert_eq!((vanished, exists), ("* VANISHED 7", "* 3 EXISTS"), "{told}");
        assert!(told.contains("t OK [HIGHESTMODSEQ "), "{told}");
    });
}

/// RFC 7162 3.2.5.2, 3.2.10.2: then every UID without a message is told, unless the client proves
/// by numbers that it knows.
#[test]
fn what_the_server_has_forgotten_is_found_from_absent_uids() {
    let count = 1_200;
    each(count, |owner, client, name| {
        owner.done("STORE 2 +FLAGS.SILENT (\\Deleted)");
        owner.done("EXPUNGE");
        let told = client.done(&format!("SELECT {name}"));
        let (validity, known) = (number(&told, "[UIDVALIDITY "), number(&told, "[HIGHESTMODSEQ "));
        client.done("UNSELECT");
        // More than a mailbox of this size remembers.
        owner.done("UID STORE 10:1190 +FLAGS.SILENT (\\Deleted)");
        owner.done("EXPUNGE");
        owner.done("UID STORE 1195 +FLAGS.SILENT (\\Deleted)");
        owner.done("EXPUNGE");
        let mut select = |more: &str| {
            let command = format!("SELECT {name} (QRESYNC ({validity} {known}{more}))");
            let told = client.done(&command);
            let lines = told.lines().filter(|line| line.contains("VANISHED"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(select(""), ["* VANISHED (EARLIER) 2,10:1190,1195"]);
        assert_eq!(select(" 1,5:20,1190:1200"), ["* VANISHED (EARLIER) 10:20,1190,1195"]);
        assert_eq!(select(" 1,3:9"), [""; 0]);
        // Message 8 has still UID 9: the client knows that there is no 2.
        let matches = " 1:1200 (1,8,500,1000 1,9,501,1001)";
        assert_eq!(select(matches), ["* VANISHED (EARLIER) 10:1190,1195"]);
        // Where the first pair does not match, nothing is proved.
        let matches = " (2,8 2,9)";
        assert_eq!(select(matches), ["* VANISHED (EARLIER) 2,10:1190,1195"]);
        let told = client.done(&format!("UID FETCH 1:* (UID) (CHANGEDSINCE {known} VANISHED)"));
        assert!(told.starts_with("* VANISHED (EARLIER) 2,10:1190,1195\r\nt OK"), "{told}");
    });
}

/// RFC 7162 3.1.2.2, 3.2.10: the parameter is ignored, and expunges are told by numbers.
#[test]
fn mailboxes_without_mod_sequences_are_not_resynchronized() {
    let kit = Kit::of(&USERS);
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut owner = world.log_in("alice");
    fill(&mut owner, 3);
    owner.done("SELECT box");
    world.with_account(async |alice| {
        let mailbox = alice.mailbox_by_name("box").expect("the mailbox").id;
        alice.set_seen_is_personal(mailbox, true).await.expect("set");
    });
    for user in ["bob", "carol"] {
        let mut client = world.log_in(user);
        client.done("ENABLE QRESYNC");
        let validity = number(&client.done(&format!("SELECT {}", name(user))), "[UIDVALIDITY ");
        let told = client.done(&format!("SELECT {} (QRESYNC ({validity} 1))", name(user)));
        assert!(told.contains("[NOMODSEQ]") && !told.contains("VANISHED"), "{told}");
        assert!(!told.contains("FETCH") && told.contains("t OK [READ-WRITE]"), "{told}");
        let told = client.answer("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 1 VANISHED)");
        assert!(told.starts_with("t BAD "), "{told}");
        let told = client.done("STORE 1 +FLAGS (\\Deleted)");
        assert!(told.starts_with("* 1 FETCH (UID ") && !told.contains("MODSEQ"), "{told}");
        let told = client.done("EXPUNGE");
        assert!(told.starts_with("* 1 EXPUNGE") && told.contains("t OK EXPUNGE"), "{told}");
    }
}
