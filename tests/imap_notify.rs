//! NOTIFY (RFC 5465) on mailboxes of others, on the session's shard and on another one: what is
//! told, and what rights forbid. Also clients that ask for too much, or do not take it.
//!
//! Alice's account is on shard 0, bob's on shard 1, carol's beside one of them.

mod demo_server;
mod transcript;
mod world;

use demo_server::DemoServer;
use transcript::{Peer, World};
use world::{Client, Kit, SimulatedWorld, serve_imap};

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

fn append(client: &mut Client, name: &str) {
    let text = "Subject: x\r\n\r\nbody\r\n";
    client.done(&format!("APPEND {name} {{{}+}}\r\n{text}", text.len()));
}

/// The owner, and a user of the same shard or another one.
const PAIRS: [(&str, &str); 3] = [("alice", "bob"), ("alice", "carol"), ("alice", "dave")];

struct Case<'k> {
    world: SimulatedWorld<'k>,
    owner: Client,
    user: Client,
    owner_name: &'static str,
    user_name: &'static str,
}

impl<'k> Case<'k> {
    /// The owner has the mailboxes `box` and `secret`.
    fn new(kit: &'k Kit, (owner_name, user_name): (&'static str, &'static str)) -> Case<'k> {
        let world = SimulatedWorld::new(kit, serve_imap, 0, true);
        let mut owner = world.log_in(owner_name);
        owner.done("CREATE box");
        owner.done("CREATE secret");
        let user = world.log_in(user_name);
        Case { world, owner, user, owner_name, user_name }
    }

    fn grant(&mut self, name: &str, rights: &str) {
        let user = self.user_name;
        self.owner.done(&format!("SETACL {name} {user}@demo.test {rights}"));
    }

    /// As the user names a mailbox of the owner.
    fn name(&self, name: &str) -> String {
        format!("\"Other Users/{}@demo.test/{name}\"", self.owner_name)
    }

    fn told(&mut self) -> String {
        told(&self.world, &mut self.user)
    }
}

/// What a client is told without asking, after the server has done all that it can.
fn told(world: &SimulatedWorld<'_>, client: &mut Client) -> String {
    world.settle();
    // An untagged answer to a command, so that there is something to read.
    let told = client.done("NAMESPACE");
    let end = told.find("* NAMESPACE").expect("an answer");
    told[..end].to_owned()
}

fn each(play: impl Fn(&mut Case<'_>)) {
    let kit = Kit::of(&USERS);
    for pair in PAIRS {
        play(&mut Case::new(&kit, pair));
    }
}

const EVERYTHING: &str = "(MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange \
                          MailboxMetadataChange ServerMetadataChange)";

#[test]
fn mailboxes_of_others_are_watched_from_any_shard() {
    each(|case| {
        case.grant("box", "lr");
        let name = case.name("box");
        let told = case.user.done(&format!(
            "NOTIFY SET STATUS (mailboxes {name} (MessageNew MessageExpunge FlagChange))"
        ));
        let status = format!("* STATUS {name} (MESSAGES 0 UIDNEXT 1 UIDVALIDITY ");
        assert!(told.starts_with(&status), "{told}");
        assert_eq!(case.told(), "");
        append(&mut case.owner, "box");
        append(&mut case.owner, "box");
        append(&mut case.owner, "INBOX");
        append(&mut case.owner, "secret");
        // Without being asked: nothing is sent in between.
        let told = case.user.read_to(&format!("* STATUS {name} (MESSAGES 2 UIDNEXT 3"));
        assert!(told.lines().all(|line| line.contains(&name)), "{told}");
        // As many as there were, and once.
        for _ in 0..50 {
            append(&mut case.owner, "box");
        }
        let told = case.told();
        let last = format!("* STATUS {name} (MESSAGES 52 UIDNEXT 53");
        assert!(told.contains(&last), "{told}");
        // \Seen changes the number of unseen messages; other flags do not, and are told with
        // mod-sequences only.
        case.owner.done("SELECT box");
        case.owner.done("STORE 1:2 +FLAGS.SILENT (\\Seen)");
        let told = case.told();
        assert!(told.starts_with(&format!("* STATUS {name} (UIDVALIDITY ")), "{told}");
        assert!(told.ends_with(" UNSEEN 50)\r\n"), "{told}");
        case.owner.done("STORE 1:2 +FLAGS.SILENT (\\Answered)");
        assert_eq!(case.told(), "");
        case.user.done("ENABLE CONDSTORE");
        case.owner.done("STORE 1:2 +FLAGS.SILENT (\\Flagged)");
        let told = case.told();
        assert!(told.contains("(UIDVALIDITY ") && told.contains(" HIGHESTMODSEQ "), "{told}");
        case.owner.done("STORE 1:2 +FLAGS.SILENT (\\Deleted)");
        case.owner.done("EXPUNGE");
        let told = case.told();
        assert!(told.contains("(MESSAGES 50 UIDNEXT 53"), "{told}");
        // The selected mailbox is another matter.
        case.user.done(&format!("SELECT {name}"));
        append(&mut case.owner, "box");
        assert_eq!(case.told(), "");
        case.user.done("UNSELECT");
        case.user.done("NOTIFY NONE");
        append(&mut case.owner, "box");
        assert_eq!(case.told(), "");
    });
}

/// The mailbox of another shard is selected: new messages are fetched from there.
#[test]
fn messages_of_others_are_fetched() {
    each(|case| {
        case.grant("box", "lr");
        let name = case.name("box");
        case.user.done(&format!("SELECT {name}"));
        case.user.done(
            "NOTIFY SET (selected (MessageNew (UID BODY.PEEK[TEXT]) MessageExpunge FlagChange))",
        );
        append(&mut case.owner, "box");
        let told = case.user.read_to(")");
        assert!(told.starts_with("* 1 EXISTS\r\n"), "{told}");
        assert!(told.ends_with("* 1 FETCH (UID 1 BODY[TEXT] {6}\r\nbody\r\n)\r\n"), "{told}");
        case.owner.done("SELECT box");
        case.owner.done("STORE 1 +FLAGS.SILENT (\\Deleted)");
        case.owner.done("EXPUNGE");
        case.user.read_to("* 1 EXPUNGE");
    });
}

/// RFC 5465 5, 5.4, 5.9: nothing of what the user may not look up, and nothing of messages that he
/// may not read; whatever he asks for.
#[test]
fn rights_are_those_of_each_event() {
    each(|case| {
        let of_owner = format!("\"Other Users/{}@demo.test\"", case.owner_name);
        case.grant("box", "l");
        let name = case.name("box");
        let told = case.user.done(&format!(
            "NOTIFY SET STATUS (subtree (\"Other Users\" {of_owner}) {EVERYTHING}) \
             (mailboxes ({name} {}) {EVERYTHING}) (subscribed {EVERYTHING})",
            case.name("secret"),
        ));
        let expected = format!("* LIST (\\HasNoChildren \\NoAccess) \"/\" {name}\r\nt OK ");
        assert!(told.contains(&expected) && told.matches("Other").count() == 1, "{told}");
        let hidden = |case: &mut Case<'_>| {
            append(&mut case.owner, "secret");
            case.owner.done("CREATE secret/below");
            case.owner.done("RENAME secret/below secret/other");
            case.owner.done("SETMETADATA secret (/shared/comment \"x\")");
            case.owner.done("SETACL secret postmaster@demo.test l");
            // It keeps its access list.
            case.owner.done("RENAME secret/other box/hidden");
            let told = case.told();
            case.owner.done("DELETE box/hidden");
            case.owner.done("SUBSCRIBE secret");
            case.owner.done("UNSUBSCRIBE secret");
            case.owner.done("SETMETADATA \"\" (/private/comment \"x\")");
            case.owner.done("SETMETADATA box (/private/comment \"x\")");
            told + &case.told()
        };
        assert_eq!(hidden(case), "");
        append(&mut case.owner, "box");
        case.owner.done("SETMETADATA box (/shared/comment \"x\")");
        assert_eq!(case.told(), "");
        // With `r`, from the next event on.
        case.grant("box", "lr");
        append(&mut case.owner, "box");
        case.owner.done("SETMETADATA box (/shared/comment \"y\")");
        let told = hidden(case);
        let expected = format!("* STATUS {name} (MESSAGES 2 UIDNEXT 3 ");
        assert!(told.contains(&expected), "{told}");
        assert!(told.contains(&format!("* METADATA {name} /shared/comment\r\n")), "{told}");
        assert!(!told.contains("secret") && !told.contains("private"), "{told}");
        // Another mailbox is granted, and taken.
        case.grant("secret", "lr");
        let secret = case.name("secret");
        let told = case.told();
        assert_eq!(told, format!("* LIST (\\HasNoChildren) \"/\" {secret}\r\n"));
        append(&mut case.owner, "secret");
        assert!(case.told().contains(&format!("* STATUS {secret} (")));
        case.owner.done("RENAME secret moved");
        let moved = case.name("moved");
        let old_name = format!("* LIST (\\HasNoChildren) \"/\" {moved} (\"OLDNAME\" ({secret}))");
        assert_eq!(case.told().lines().next(), Some(&*old_name));
        case.owner.done("RENAME moved secret");
        case.told();
        case.owner.done(&format!("DELETEACL secret {}@demo.test", case.user_name));
        append(&mut case.owner, "secret");
        let told = case.told();
        assert_eq!(told, format!("* LIST (\\HasNoChildren \\NonExistent) \"/\" {secret}\r\n"));
        assert_eq!(hidden(case), "");
        // What is watched for its messages only.
        case.user.done(&format!(
            "NOTIFY SET (subtree {of_owner} (MessageNew MessageExpunge FlagChange))"
        ));
        case.owner.done(&format!("DELETEACL box {}@demo.test", case.user_name));
        append(&mut case.owner, "box");
        assert_eq!(case.told(), format!("* LIST (\\NoAccess) \"/\" {name}\r\n"));
        append(&mut case.owner, "box");
        assert_eq!(case.told(), "");
        case.grant("box", "lr");
        append(&mut case.owner, "box");
        let told = case.told();
        assert!(told.starts_with(&format!("* LIST (\\HasNoChildren) \"/\" {name}\r\n")), "{told}");
        append(&mut case.owner, "box");
        assert!(case.told().contains("* STATUS "));
    });
}

/// What one who reads late is told: of names that he could look up, and of no others. `+` begins
/// what is there, `-` what is not, `>` a new name with its old one.
const LATE: [(&[&str], &[&str]); 15] = [
    (&["DELETEACL box @", "RENAME box hid"], &["-box"]),
    (&["DELETEACL box @", "RENAME box hid", "RENAME hid hid2"], &["-box"]),
    (&["DELETEACL box @", "DELETE box"], &["-box"]),
    (&["DELETEACL box @", "RENAME box hid", "DELETE hid"], &["-box"]),
    (&["DELETEACL box @", "RENAME box hid", "CREATE box"], &["-box"]),
    (
        &["DELETEACL box @", "RENAME box hid", "RENAME hid shown", "SETACL shown @ lr"],
        &[">box shown"],
    ),
    (&["DELETEACL box @", "SETACL box @ lr"], &[]),
    (&["RENAME box shown", "DELETEACL shown @"], &["-box"]),
    (&["RENAME box shown", "RENAME shown shown2"], &[">box shown2"]),
    (&["RENAME secret shown", "SETACL shown @ l"], &["+shown"]),
    (&["SETACL secret @ l", "DELETEACL secret @", "RENAME secret hid"], &[]),
    // Of what is below a mailbox that is hidden.
    (&["RENAME above hid"], &[">above/shown hid/shown"]),
    (
        &["DELETEACL above/shown @", "RENAME above hid"],
        &["-above/shown", ">above/shown/too hid/shown/too"],
    ),
    (
        &["DELETEACL above/shown/too @", "RENAME above hid"],
        &[">above/shown hid/shown", "-hid/shown/too"],
    ),
    (&["RENAME above hid", "RENAME hid other"], &[">above/shown other/shown"]),
];

#[test]
fn who_reads_late_is_told_of_names_that_he_could_look_up() {
    for pair in PAIRS {
        for (commands, expected) in LATE {
            let kit = Kit::of(&USERS);
            let mut case = Case::new(&kit, pair);
            case.owner.done("CREATE above/shown/too");
            for name in ["box", "above/shown", "above/shown/too"] {
                case.grant(name, "lr");
            }
            case.user.done(
                "NOTIFY SET (subtree \"Other Users\" (MailboxName MessageNew MessageExpunge))",
            );
            // In the middle of a command nothing is told.
            case.user.say("a APPEND INBOX {1}\r\n");
            case.user.read_to("+ ");
            for command in commands {
                let user = format!("{}@demo.test", case.user_name);
                case.owner.done(&command.replace('@', &user));
            }
            case.world.settle();
            case.user.say("x\r\n");
            let told = case.user.read_to("a OK");
            let mut told: Vec<&str> = told.lines().collect();
            told.pop();
            let found: Vec<String> = told.iter().map(|line| in_short(&case, line)).collect();
            // Of those above the ones that are told of.
            let is_told = |it: &&String| expected.contains(&it.as_str()) || !is_above(it, expected);
            let found: Vec<&String> = found.iter().filter(is_told).collect();
            assert_eq!(found, expected, "{pair:?} {commands:?} {told:#?}");
        }
    }
}

/// The same of one's own mailboxes, where only the highest of those that are renamed is told of.
#[test]
fn who_reads_late_is_told_of_his_own_names() {
    const ROWS: [(&[&str], &[&str]); 7] = [
        (&["RENAME D Db", "RENAME Db Dc"], &[">D Dc"]),
        (&["RENAME D Db", "RENAME Db/x y"], &[">D Db", ">Db/x y"]),
        (&["CREATE D/z", "RENAME D Db"], &["+Db/z", ">D Db"]),
        (&["DELETE E", "RENAME D E"], &["+E", ">D E"]),
        (&["DELETE E", "CREATE E"], &["+E"]),
        (&["RENAME D T", "RENAME E D", "RENAME T E"], &["overflow"]),
        // What is below has another name now, and its level none.
        (&["RENAME D Db", "DELETE Db"], &["overflow"]),
    ];
    for (commands, expected) in ROWS {
        let kit = Kit::of(&USERS);
        let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
        let (mut user, mut other) = (world.log_in("alice"), world.log_in("alice"));
        for name in ["D/x", "E"] {
            other.done(&format!("CREATE {name}"));
        }
        user.done("NOTIFY SET (personal (MailboxName))");
        user.say("a APPEND INBOX {1}\r\n");
        user.read_to("+ ");
        commands.iter().for_each(|command| drop(other.done(command)));
        world.settle();
        user.say("x\r\n");
        let told = user.read_to("a OK");
        let (told, _) = told.split_once("a OK").unwrap();
        let mut found = Vec::new();
        for line in told.lines() {
            let (_, name) = line.rsplit_once(" \"/\" ").unwrap_or(("", "overflow"));
            let (name, old_name) = name.split_once(" (\"OLDNAME\" (").unwrap_or((name, ""));
            found.push(match old_name.strip_suffix("))") {
                Some(old_name) => format!(">{old_name} {name}"),
                None if name == "overflow" => name.to_owned(),
                None if line.contains("\\NonExistent") => format!("-{name}"),
                None => format!("+{name}"),
            });
        }
        // Of those above the ones that are told of.
        found.retain(|it| it != "+Db");
        assert_eq!(found, expected, "{commands:?} {told}");
    }
}

fn is_above(found: &str, told: &[&str]) -> bool {
    told.iter().any(|name| name[1..].starts_with(&format!("{}/", &found[1..])))
}

/// A LIST in the form of the table.
fn in_short(case: &Case<'_>, line: &str) -> String {
    let own = format!("Other Users/{}@demo.test/", case.owner_name);
    let mut names = line.split('"').filter_map(|it| it.strip_prefix(&*own));
    let name = names.next().unwrap_or(line);
    match names.next() {
        Some(old_name) => format!(">{old_name} {name}"),
        None if line.contains("\\NonExistent") => format!("-{name}"),
        None => format!("+{name}"),
    }
}

/// What is shared, or subscribed, only after the client has said what it wants.
#[test]
fn accounts_are_followed_once_they_share_something() {
    each(|case| {
        let name = case.name("box");
        case.user.done(&format!("NOTIFY SET (subtree \"Other Users\" {EVERYTHING})"));
        append(&mut case.owner, "box");
        assert_eq!(case.told(), "");
        case.grant("box", "lr");
        assert_eq!(case.told(), format!("* LIST (\\HasNoChildren) \"/\" {name}\r\n"));
        append(&mut case.owner, "box");
        assert!(case.told().contains(&format!("* STATUS {name} (MESSAGES 2 ")));
        case.owner.done(&format!("DELETEACL box {}@demo.test", case.user_name));
        let told = case.told();
        assert_eq!(told, format!("* LIST (\\HasNoChildren \\NonExistent) \"/\" {name}\r\n"));
        // Subscribed ones, by this session and by another.
        case.grant("box", "lr");
        case.user.done("NOTIFY SET (subscribed (MessageNew MessageExpunge))");
        append(&mut case.owner, "box");
        assert_eq!(case.told(), "");
        let mut other = case.world.log_in(case.user_name);
        for subscribe in [true, false] {
            if subscribe {
                case.user.done(&format!("SUBSCRIBE {name}"));
            } else {
                other.done(&format!("UNSUBSCRIBE {name}"));
            }
            case.told();
            append(&mut case.owner, "box");
            assert_eq!(case.told().contains("* STATUS "), subscribe);
        }
    });
}

#[test]
fn public_mailboxes_and_the_server_are_watched() {
    let kit = Kit::of(&USERS);
    for (admin, user) in [("alice", "bob"), ("bob", "alice"), ("carol", "dave")] {
        let mut options = world::options(true);
        options.imap.administrators = vec![format!("{admin}@demo.test")];
        let world = SimulatedWorld::with_options(&kit, serve_imap, 0, options, 64 << 20);
        let (mut admin, mut user) = (world.log_in(admin), world.log_in(user));
        user.done(&format!(
            "NOTIFY SET (subtree Shared {EVERYTHING}) (mailboxes none (ServerMetadataChange))"
        ));
        admin.done("SETMETADATA \"\" (/shared/comment \"x\")");
        assert_eq!(told(&world, &mut user), "* METADATA \"\" /shared/comment\r\n");
        admin.done("CREATE Shared/News");
        append(&mut admin, "Shared/News");
        assert_eq!(told(&world, &mut user), "");
        admin.done("SETACL Shared/News anyone lr");
        told(&world, &mut user);
        append(&mut admin, "Shared/News");
        let news = told(&world, &mut user);
        assert!(news.starts_with("* STATUS Shared/News (MESSAGES 2 "), "{news}");
        // A user's own `\Seen` there is nobody's news.
        user.done("ENABLE CONDSTORE");
        admin.done("SELECT Shared/News");
        admin.done("STORE 1 +FLAGS.SILENT (\\Seen)");
        assert_eq!(told(&world, &mut user), "");
        admin.done("STORE 1 +FLAGS.SILENT (\\Deleted)");
        assert!(told(&world, &mut user).contains(" HIGHESTMODSEQ 0)"));
    }
}

/// A client that asks for everything and then takes nothing costs what the account remembers; when
/// it comes back, it is told that it missed something, and nothing more. Any number of changes in a
/// mailbox is one.
#[test]
fn who_takes_nothing_gets_an_overflow() {
    let kit = Kit::of(&USERS);
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let (mut lazy, mut busy) = (world.log_in("alice"), world.log_in("alice"));
    busy.done("CREATE box");
    let watch = format!("NOTIFY SET (selected NONE) (personal {EVERYTHING})");
    for (renames, overflows) in [(1_000, false), (1_030, true)] {
        lazy.done(&watch);
        // In the middle of a command nothing is told.
        lazy.say("a APPEND INBOX {1}\r\n");
        lazy.read_to("+ ");
        busy.done("SELECT box");
        for number in 0..200 {
            append(&mut busy, "box");
            busy.done(&format!("STORE {} +FLAGS.SILENT (\\Deleted)", number % 10 + 1));
        }
        busy.done("EXPUNGE");
        busy.done("UNSELECT");
        for number in 0..renames {
            let (from, to) = if number % 2 == 0 { ("box", "xob") } else { ("xob", "box") };
            busy.done(&format!("RENAME {from} {to}"));
        }
        lazy.say("x\r\n");
        let told = lazy.read_to("a OK");
        let overflow = "* OK [NOTIFICATIONOVERFLOW] ";
        assert_eq!(told.contains(overflow), overflows, "{told}");
        if overflows {
            assert_eq!(told.lines().count(), 2, "{told}");
            append(&mut busy, "box");
            assert!(!lazy.done("NOOP").contains("* "));
        } else {
            // It has its old name again; no step in between is told.
            assert_eq!(told.lines().count(), 3, "{told}");
            assert!(told.contains("* STATUS box (MESSAGES 190 UIDNEXT 201"), "{told}");
        }
    }
    lazy.done(&watch);
    append(&mut busy, "box");
    lazy.read_to("* STATUS box (");
    // A mailbox above a thousand others is one change.
    for number in 0..1_100 {
        busy.done(&format!("CREATE many/{number}"));
    }
    lazy.done("NOTIFY NONE");
    lazy.done(&watch);
    busy.done("RENAME many more");
    let told = told(&world, &mut lazy);
    let listed = "* LIST (\\HasChildren) \"/\" more (\"OLDNAME\" (many))\r\n* STATUS more ";
    assert!(told.starts_with(listed) && told.lines().count() == 2, "{told}");
}

#[test]
fn names_and_groups_have_limits() {
    let kit = Kit::of(&USERS);
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let (mut client, mut other) = (world.log_in("alice"), world.log_in("alice"));
    other.done("CREATE box");
    let set = |names: usize| {
        let names: Vec<String> = (1..names).map(|number| format!("none/{number}")).collect();
        format!("NOTIFY SET STATUS (mailboxes (box {}) {EVERYTHING})", names.join(" "))
    };
    let told = client.done(&set(1_000));
    assert_eq!(told.matches("* ").count(), 1, "{told}");
    let told = client.answer(&set(1_001));
    assert!(told.starts_with("t NO [NOTIFICATIONOVERFLOW] "), "{told}");
    // What was asked for before goes on.
    append(&mut other, "box");
    client.read_to("* STATUS box (MESSAGES 1 UIDNEXT 2");
    // Names that are none, and one that cannot be decoded.
    for name in ["\"\"", "/", "a//b", "\"&bogus\"", "\"*\"", "Shared", "\"Other Users/x@y/z\""] {
        let told = client.done(&format!("NOTIFY SET STATUS (mailboxes {name} {EVERYTHING})"));
        assert!(!told.contains("* "), "{name}: {told}");
        let told = client.done(&format!("NOTIFY SET STATUS (subtree {name} {EVERYTHING})"));
        assert!(!told.contains("* "), "{name}: {told}");
    }
    append(&mut other, "box");
    assert_eq!(self::told(&world, &mut client), "");
    let groups = format!(" (personal {EVERYTHING})").repeat(101);
    assert!(client.answer(&format!("NOTIFY SET{groups}")).starts_with("t BAD "));
}

/// A session tells that it cannot know, and others go on.
#[test]
fn an_owner_that_has_gone_ends_it() {
    let kit = Kit::of(&USERS);
    let mut case = Case::new(&kit, ("alice", "bob"));
    case.grant("box", "lr");
    let watch = format!("NOTIFY SET (mailboxes {} {EVERYTHING})", case.name("box"));
    case.user.done(&watch);
    append(&mut case.owner, "box");
    // The number of the change is known, and what it was cannot be asked for any more.
    case.world.shards[0].mesh.close();
    let told = case.user.done("NOOP");
    assert!(told.starts_with("* OK [NOTIFICATIONOVERFLOW] "), "{told}");
    assert!(!case.user.done("NOOP").contains("* "));
    let told = case.user.answer(&watch);
    assert!(told.starts_with("t NO [UNAVAILABLE] "), "{told}");
}

/// With ENABLE METADATA the others are watched all the same.
#[test]
fn annotations_are_told_without_an_owner_that_has_gone() {
    let kit = Kit::of(&USERS);
    let mut case = Case::new(&kit, ("bob", "alice"));
    case.grant("box", "lr");
    case.world.shards[1].mesh.close();
    // Of her the session hears behind bob, whose shard has gone.
    let mut next = case.world.log_in("carol");
    next.done("CREATE box");
    next.done("SETACL box alice@demo.test lr");
    case.world.settle();
    case.user.done("ENABLE METADATA METADATA-SERVER");
    next.done("SETMETADATA box (/shared/comment \"x\")");
    case.world.settle();
    let told = case.user.done("NOOP");
    let expected = "* METADATA \"Other Users/carol@demo.test/box\" /shared/comment\r\n";
    assert!(told.starts_with(expected), "{told}");
}

/// What came before another NOTIFY is fetched as the one before wanted it, and what comes behind it
/// as that one does.
#[test]
fn messages_are_fetched_as_the_client_wanted_when_they_came() {
    let kit = Kit::of(&USERS);
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let (mut client, mut other) = (world.log_in("alice"), world.log_in("alice"));
    client.done("SELECT INBOX");
    let watch = |items| format!("NOTIFY SET (selected (MessageNew ({items}) MessageExpunge))");
    client.done(&watch("UID FLAGS"));
    // In the middle of a command nothing is told.
    client.say(
        "a NOTIFY SET (selected (MessageNew (UID RFC822.SIZE) MessageExpunge)) (subtree {5}\r\n",
    );
    client.read_to("+ ");
    append(&mut other, "INBOX");
    client.say("Other (MessageNew MessageExpunge))\r\n");
    let told = client.read_to("a OK");
    assert!(told.contains("* 1 FETCH (UID 1 FLAGS (\\Recent))\r\n"), "{told}");
    append(&mut other, "INBOX");
    let told = self::told(&world, &mut client);
    assert!(told.contains("* 2 FETCH (UID 2 RFC822.SIZE "), "{told}");
    assert!(!told.contains("* 1 FETCH"), "{told}");
}

/// Messages that come while others are fetched, which takes a change of `\Seen` that waits for the
/// disk, are fetched once, and without a further event.
#[test]
fn messages_that_come_during_a_fetch_are_fetched() {
    let kit = Kit::of(&USERS);
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let (mut client, mut other) = (world.log_in("alice"), world.log_in("alice"));
    client.done("SELECT INBOX");
    client.done("NOTIFY SET (selected (MessageNew (BODY[TEXT]) MessageExpunge FlagChange))");
    for round in 0..20 {
        let first = 2 * round + 1;
        // The first one is being fetched when the second one is stored.
        append(&mut other, "INBOX");
        other.say("a APPEND INBOX {4+}\r\n\r\nyy\r\n");
        let told = self::told(&world, &mut client);
        for number in [first, first + 1] {
            let begin = format!("* {number} FETCH ");
            let mut lines = told.lines().filter(|line| line.starts_with(&begin));
            assert!(lines.any(|line| line.contains("BODY[TEXT]")), "{number}: {told}");
        }
    }
}

/// A rename of its own a client knows of, and is told of another one that happened meanwhile.
#[test]
fn own_renames_are_left_out() {
    let kit = Kit::of(&USERS);
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let (mut client, mut other) = (world.log_in("alice"), world.log_in("alice"));
    for name in ["D/x", "E"] {
        client.done(&format!("CREATE {name}"));
    }
    client.done("NOTIFY SET (personal (MailboxName))");
    client.say("a RENAME D {1}\r\n");
    client.read_to("+ ");
    other.done("RENAME E F");
    client.say("T\r\n");
    let told = client.read_to("a OK");
    let expected = "* LIST (\\HasNoChildren) \"/\" F (\"OLDNAME\" (E))\r\na OK";
    assert!(told.starts_with(expected), "{told}");
    // The client did not know by which name it is renamed.
    client.say("a RENAME G {1}\r\n");
    client.read_to("+ ");
    other.done("RENAME F G");
    client.say("H\r\n");
    let told = client.read_to("a OK");
    let expected = "* LIST (\\HasNoChildren) \"/\" H (\"OLDNAME\" (F))\r\na OK";
    assert!(told.starts_with(expected), "{told}");
}

/// After RFC 8437 the next user hears nothing of what the one before watched.
#[test]
fn it_ends_with_the_log_in() {
    let kit = Kit::of(&USERS);
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let (mut client, mut other) = (world.log_in("alice"), world.log_in("alice"));
    client.done(&format!("NOTIFY SET (personal {EVERYTHING})"));
    client.done("UNAUTHENTICATE");
    client.done("LOGIN carol@demo.test demo");
    other.done("CREATE box");
    assert_eq!(told(&world, &mut client), "");
    append(&mut other, "INBOX");
    assert_eq!(told(&world, &mut client), "");
}

/// RFC 5464 4.4: with ENABLE METADATA, of all mailboxes that the user may know of, with his next
/// command.
#[test]
fn annotations_of_others_are_told_to_who_enabled_that() {
    each(|case| {
        case.user.done("ENABLE METADATA");
        case.grant("box", "lr");
        let name = case.name("box");
        case.owner.done("SETMETADATA box (/shared/comment \"x\" /private/comment \"y\")");
        case.owner.done("SETMETADATA secret (/shared/comment \"x\")");
        append(&mut case.owner, "box");
        case.world.settle();
        let told = case.user.done("NOOP");
        assert!(!told.contains("* "), "not shared before it is followed: {told}");
        case.owner.done("SETMETADATA box (/shared/comment \"y\" /private/comment \"z\")");
        case.world.settle();
        let told = case.user.done("NOOP");
        assert!(told.starts_with(&format!("* METADATA {name} /shared/comment\r\nt OK ")), "{told}");
        // The user's own notes, of this mailbox, by another of his sessions.
        let mut other = case.world.log_in(case.user_name);
        other.done(&format!("SETMETADATA {name} (/private/comment \"mine\")"));
        let told = case.user.done("NOOP");
        assert!(told.starts_with(&format!("* METADATA {name} /private/comment\r\n")), "{told}");
        case.grant("box", "l");
        case.owner.done("SETMETADATA box (/shared/comment \"z\")");
        case.world.settle();
        assert!(!case.user.done("NOOP").contains("* "));
    });
}

/// Over sockets: a client that has every new message sent to it and reads nothing fills its
/// connection and waits there; others of the same account go on.
#[test]
fn who_never_reads_holds_up_nobody() {
    let mut server = DemoServer::start(demo_server::IMAP);
    let mut lazy = server.connect("lazy");
    let mut busy = server.connect("busy");
    let run = |client: &mut Box<dyn Peer>, command: &str, end: &str| {
        client.send(command.as_bytes());
        let mut told = Vec::new();
        while !String::from_utf8_lossy(&told).lines().any(|line| line.starts_with(end)) {
            let more = client.receive();
            assert!(!more.is_empty(), "closed");
            told.extend(more);
        }
    };
    for client in [&mut lazy, &mut busy] {
        run(client, "a LOGIN alice@demo.test demo\r\n", "a OK ");
        run(client, "b SELECT INBOX\r\n", "b OK ");
    }
    let selected = "(selected (MessageNew (UID BODY.PEEK[]) MessageExpunge FlagChange))";
    let watch = format!("c NOTIFY SET {selected} (personal {EVERYTHING})\r\n");
    run(&mut lazy, &watch, "c OK ");
    // More than the kernel keeps for a connection.
    let text = format!("Subject: x\r\n\r\n{}", "body of a message\r\n".repeat(40_000));
    let append = format!("d APPEND INBOX {{{}+}}\r\n{text}\r\n", text.len());
    for number in 0..40 {
        run(&mut busy, &append, "d OK ");
        run(&mut busy, &format!("e CREATE box{number}\r\n"), "e OK ");
        run(&mut busy, "f STORE 1 +FLAGS (\\Seen)\r\n", "f OK ");
        run(&mut busy, "g STORE 1 -FLAGS (\\Seen)\r\n", "g OK ");
    }
    run(&mut busy, "h LOGOUT\r\n", "h OK ");
}
