//! MESSAGELIMIT and SAVELIMIT (RFC 9738): each command that the RFC names, on one's own mailbox and
//! on others', on the session's shard and on another one. The examples are those of the RFC with
//! smaller numbers.

mod transcript;
mod world;

use world::{Client, Kit, SimulatedWorld, serve_imap};

/// Two users of one shard and two of the other.
const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// The owner of the mailbox, and its user.
const PAIRS: [(&str, &str); 4] =
    [("alice", "alice"), ("alice", "bob"), ("alice", "carol"), ("alice", "dave")];

struct Case<'k> {
    _world: SimulatedWorld<'k>,
    user: Client,
    name: String,
    /// Who plays, for messages.
    pair: (&'static str, &'static str),
}

/// `box` has seven messages, of which that with UID 2 was expunged; the user has it selected.
fn case<'k>(
    kit: &'k Kit,
    pair: (&'static str, &'static str),
    (message_limit, save_limit): (u32, u32),
) -> Case<'k> {
    let mut options = world::options(true);
    (options.imap.message_limit, options.imap.save_limit) = (message_limit, save_limit);
    let world = SimulatedWorld::with_options(kit, serve_imap, 0, options, 64 << 20);
    let [mut owner, mut user] = [pair.0, pair.1].map(|name| {
        let mut client = world.client();
        client.read_to("* OK");
        client.done(&format!("LOGIN {name}@demo.test demo"));
        client
    });
    owner.done("CREATE box");
    for number in 1..=8 {
        let text = format!("Subject: {}\r\n\r\nx\r\n", 9 - number);
        owner.done(&format!("APPEND box {{{}+}}\r\n{text}", text.len()));
    }
    owner.done("SELECT box");
    owner.done("UID STORE 2 +FLAGS (\\Deleted)");
    owner.done("EXPUNGE");
    owner.done("UNSELECT");
    let (mut name, mut target) = ("box".to_owned(), "target".to_owned());
    owner.done("CREATE target");
    if pair.0 != pair.1 {
        for mailbox in ["box", "target"] {
            owner.done(&format!("SETACL {mailbox} {}@demo.test lrswite", pair.1));
        }
        (name, target) = (
            format!("\"Other Users/{}@demo.test/box\"", pair.0),
            format!("\"Other Users/{}@demo.test/target\"", pair.0),
        );
    }
    user.done(&format!("SELECT {name}"));
    Case { _world: world, user, name: target, pair }
}

impl Case<'_> {
    /// The answer to a command, without the texts of its tagged response.
    fn answer(&mut self, command: &str) -> String {
        let told = self.user.answer(command);
        let (before, last) = told.trim_end().rsplit_once("\r\n").unwrap_or(("", told.trim_end()));
        let words = last.split(' ').skip(1);
        let code = match last.split_once('[').zip(last.split_once(']')) {
            Some(((_, code), _)) => format!(" [{}]", code.split(']').next().unwrap_or_default()),
            None => String::new(),
        };
        let untagged = before.lines().map(|line| match line.split_once("] ") {
            Some((start, _)) if line.starts_with("* NO [") => format!("{start}]"),
            _ => line.to_owned(),
        });
        let status = words.take(1).map(|word| format!("{word}{code}"));
        untagged.chain(status).collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    fn check(&mut self, command: &str, expected: &[&str]) {
        let told = self.answer(command);
        assert_eq!(told, expected.join("\n"), "{command} by {:?}", self.pair);
    }
}

fn each(limits: (u32, u32), mut play: impl FnMut(&mut Case<'_>)) {
    let kit = Kit::of(&USERS);
    for pair in PAIRS {
        play(&mut case(&kit, pair, limits));
    }
}

#[test]
fn there_is_no_limit_unless_it_is_set() {
    each((0, 0), |case| {
        let told = case.user.done("CAPABILITY");
        assert!(!told.contains("LIMIT=") || told.contains(" APPENDLIMIT="), "{told}");
        assert!(!told.contains("MESSAGELIMIT") && !told.contains("SAVELIMIT"), "{told}");
        case.check("SEARCH ALL", &["* SEARCH 1 2 3 4 5 6 7", "OK"]);
    });
}

#[test]
fn fetches_begin_with_the_highest_uid() {
    each((3, 0), |case| {
        let told = case.user.done("CAPABILITY");
        assert!(told.contains(" MESSAGELIMIT=3") && !told.contains("SAVELIMIT"), "{told}");
        let fetched = |number: u32, uid: u32| format!("* {number} FETCH (UID {uid})");
        let [five, six, seven] = [fetched(5, 6), fetched(6, 7), fetched(7, 8)];
        let limited = [&seven[..], &six, &five, "OK [MESSAGELIMIT 3 6]"];
        case.check("FETCH 1:* UID", &limited);
        case.check("UID FETCH 1:* UID", &limited);
        case.check("FETCH 5:7 UID", &[&five, &six, &seven, "OK"]);
        let lower = [fetched(4, 5), fetched(3, 4), fetched(2, 3)];
        let lower = [&lower[0][..], &lower[1], &lower[2], "OK [MESSAGELIMIT 3 3]"];
        case.check("UID FETCH 1:5 UID", &lower);
        case.check("UID FETCH 1:2 UID", &[&fetched(1, 1), "OK"]);
        // As many UIDs as one likes, if few messages have them.
        case.check("UID FETCH 8:4000000000 UID", &[&seven, "OK"]);
        let subjects = case.user.done("FETCH 2:7 (BODY.PEEK[HEADER.FIELDS (SUBJECT)] ENVELOPE)");
        let order = ["* 7 FETCH", "* 6 FETCH", "* 5 FETCH"].map(|start| subjects.find(start));
        assert!(order.is_sorted() && order.iter().all(Option::is_some), "{subjects}");
        // RFC 9738 3.1 with PARTIAL (RFC 9394 3.3).
        case.check("UID FETCH 1:* UID (PARTIAL -1:-2)", &[&six, &seven, "OK"]);
        case.check("UID FETCH 1:* UID (PARTIAL 1:4)", &["NO [MESSAGELIMIT 3]"]);
        // Only what was answered was read.
        case.user.done("FETCH 1:* BODY[]");
        case.check("SEARCH UNSEEN UIDBEFORE 5", &["* SEARCH 1 2 3", "OK"]);
    });
}

#[test]
fn searches_look_at_the_highest_uids() {
    each((3, 0), |case| {
        case.check("SEARCH ALL", &["* SEARCH 7 6 5", "OK [MESSAGELIMIT 3 6]"]);
        case.check("UID SEARCH ALL", &["* SEARCH 8 7 6", "OK [MESSAGELIMIT 3 6]"]);
        case.check("UID SEARCH UIDBEFORE 6", &["* SEARCH 5 4 3", "OK [MESSAGELIMIT 3 3]"]);
        case.check("UID SEARCH UIDBEFORE 3", &["* SEARCH 1", "OK"]);
        // Those that are looked at count, not those that are found.
        case.check("UID SEARCH SUBJECT 8", &["* SEARCH", "OK [MESSAGELIMIT 3 6]"]);
        case.check("UID SEARCH SUBJECT 8 UID 1:3", &["* SEARCH 1", "OK"]);
        case.check("UID SEARCH UIDAFTER 4 UIDBEFORE 8", &["* SEARCH 5 6 7", "OK"]);
        case.check("UID SEARCH UIDAFTER 8", &["* SEARCH", "OK"]);
        case.check("UID SEARCH UIDAFTER 4294967295", &["* SEARCH", "OK"]);
        case.check("UID SEARCH UIDBEFORE 1", &["* SEARCH", "OK"]);
        case.check("SEARCH 1:3", &["* SEARCH 1 2 3", "OK"]);
        case.check("SEARCH NOT 1:3", &["* SEARCH 7 6 5", "OK [MESSAGELIMIT 3 6]"]);
        for key in ["UIDAFTER 0", "UIDBEFORE *", "UIDAFTER 1:2", "UIDBEFORE"] {
            assert!(case.answer(&format!("UID SEARCH {key}")).starts_with("BAD"), "{key}");
        }
        // RFC 9738 3.4: what is saved is what was found.
        case.check("UID SEARCH RETURN (SAVE) ALL", &["OK [MESSAGELIMIT 3 6]"]);
        case.check("UID SEARCH UID $", &["* SEARCH 6 7 8", "OK"]);
        case.check(
            "UID SEARCH RETURN (MIN MAX COUNT) ALL",
            &["* ESEARCH (TAG \"t\") UID MIN 6 MAX 8 COUNT 3", "OK [MESSAGELIMIT 3 6]"],
        );
    });
}

/// RFC 9738 3.3: the order of some of the messages says nothing about that of all.
#[test]
fn sort_and_thread_are_refused() {
    each((3, 0), |case| {
        case.check("SORT (SUBJECT) UTF-8 ALL", &["NO [MESSAGELIMIT 3]"]);
        case.check("UID SORT (SUBJECT) UTF-8 UIDAFTER 5", &["* SORT 8 7 6", "OK"]);
        case.check("THREAD REFERENCES UTF-8 ALL", &["NO [MESSAGELIMIT 3]"]);
        case.check("UID THREAD REFS UTF-8 UID 1:3", &["* THREAD (1)(3)", "OK"]);
    });
}

#[test]
fn flags_change_from_the_highest_uid_down() {
    each((3, 0), |case| {
        let flagged = |number: u32| format!("* {number} FETCH (FLAGS (\\Flagged \\Recent))");
        let told = case.answer("STORE 1:* FLAGS (\\Flagged)").replace(" \\Recent", "");
        let expected = [7, 6, 5].map(|number| flagged(number).replace(" \\Recent", ""));
        assert_eq!(told, format!("{}\nOK [MESSAGELIMIT 3 6]", expected.join("\n")));
        case.check("UID STORE 1:* +FLAGS.SILENT (\\Answered)", &["OK [MESSAGELIMIT 3 6]"]);
        case.check("UID SEARCH ANSWERED UIDAFTER 5", &["* SEARCH 6 7 8", "OK"]);
        case.check("UID SEARCH ANSWERED UIDBEFORE 6 UIDAFTER 2", &["* SEARCH", "OK"]);
        // Another code goes with the tagged response (RFC 9738 3.1).
        let told = case.answer("UID STORE 1:* (UNCHANGEDSINCE 1) +FLAGS.SILENT (\\Draft)");
        let told: Vec<&str> = told.lines().rev().take(2).collect();
        assert_eq!(told, ["OK [MODIFIED 6:8]", "* NO [MESSAGELIMIT 3 6]"]);
    });
}

#[test]
fn copies_are_all_or_none_and_moves_some() {
    for limits in [(3, 0), (0, 3)] {
        each(limits, |case| {
            let target = case.name.clone();
            case.check(&format!("COPY 1:* {target}"), &["NO [MESSAGELIMIT 3 6]"]);
            case.check(&format!("UID COPY 1:5 {target}"), &["NO [MESSAGELIMIT 3 3]"]);
            let told = case.answer(&format!("UID COPY 6:8 {target}"));
            assert!(told.starts_with("OK [COPYUID ") && told.ends_with(" 6:8 1:3]"), "{told}");
            let append =
                |count: usize| format!("APPEND {target} {}", vec!["{1+}\r\nx"; count].join(" "));
            case.check(&append(4), &["NO [MESSAGELIMIT 3]"]);
            let told = case.answer(&append(3));
            assert!(told.starts_with("OK [APPENDUID ") && told.ends_with(" 4:6]"), "{told}");
            let told = case.answer(&format!("UID MOVE 1:* {target}"));
            let lines: Vec<&str> = told.lines().collect();
            if limits.0 == 0 {
                assert!(lines[0].contains(" 1,3:8 7:13]"), "{told}");
                return;
            }
            assert!(
                lines[0].starts_with("* OK [COPYUID ") && lines[0].contains(" 6:8 7:9]"),
                "{told}"
            );
            let expunges = lines.iter().filter(|line| line.ends_with(" EXPUNGE")).count();
            assert_eq!((expunges, *lines.last().expect("a line")), (3, "OK [MESSAGELIMIT 3 6]"));
            case.check("UID SEARCH UIDAFTER 1 UIDBEFORE 9", &["* SEARCH 3 4 5", "OK"]);
        });
    }
}

#[test]
fn only_uid_expunge_has_a_limit() {
    each((3, 0), |case| {
        for set in ["1:4", "5:7", "8"] {
            case.user.done(&format!("UID STORE {set} +FLAGS.SILENT (\\Deleted)"));
        }
        case.user.done("UID STORE 7 -FLAGS.SILENT (\\Deleted)");
        // Those that it would expunge count.
        let told = case.answer("UID EXPUNGE 1:*");
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.last(), Some(&"OK [MESSAGELIMIT 3 5]"), "{told}");
        assert_eq!(lines.iter().filter(|line| line.ends_with(" EXPUNGE")).count(), 3, "{told}");
        let told = case.answer("EXPUNGE");
        assert!(told.ends_with("\nOK") && told.matches(" EXPUNGE").count() == 3, "{told}");
        case.check("UID SEARCH ALL", &["* SEARCH 7", "OK"]);
    });
}

/// RFC 7162 3.2.7: the code of an expunge goes with the tagged response.
#[test]
fn mod_sequences_keep_their_place() {
    each((3, 0), |case| {
        case.user.done("ENABLE CONDSTORE");
        case.user.done("UID STORE 6:8 +FLAGS.SILENT (\\Deleted)");
        case.user.done("UID STORE 4:5 +FLAGS.SILENT (\\Deleted)");
        let told = case.answer("UID EXPUNGE 1:*");
        let lines: Vec<&str> = told.lines().rev().take(2).collect();
        assert!(lines[0].starts_with("OK [HIGHESTMODSEQ "), "{told}");
        assert_eq!(lines[1], "* NO [MESSAGELIMIT 3 6]", "{told}");
    });
}
