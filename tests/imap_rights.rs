//! Every IMAP command against every right (RFC 4314 4), both ways: with all rights but one a
//! command is refused if the table names that right, and executed if not; and it is executed with
//! the rights that the table names and no others.
//!
//! The user is the owner of the mailboxes, who restricts himself. He always keeps `l` and `a`, so
//! these two are checked by the tests of `model/rights.rs` and of `service/imap/folder.rs`.

mod transcript;
mod world;

use std::rc::Rc;

use ringmail::{
    runtime::{LocalFuture, connection::Connection},
    service::{Shard, imap},
};
use world::{Client, Kit, SimulatedWorld};

fn serve(connection: Connection, shards: Rc<[Rc<Shard>]>, _: usize) -> LocalFuture<'static, ()> {
    Box::pin(async move { drop(imap::run(connection, shards[0].clone()).await) })
}

/// The rights that the owner can take from himself.
const RIGHTS: &str = "rswipkxte";

/// A command on the mailbox `box`, and the rights on it that the command needs.
type Row = (&'static str, &'static str);

/// Commands of the authenticated state. Beside `box` there is `other`, with all rights.
const AUTHENTICATED: &[Row] = &[
    ("LIST \"\" box", ""),
    ("LSUB \"\" box", ""),
    ("SUBSCRIBE box", ""),
    ("UNSUBSCRIBE box", ""),
    ("CREATE box/new", "k"),
    ("CREATE box/new/deep", "k"),
    ("DELETE box", "x"),
    ("RENAME box renamed", "x"),
    ("RENAME box box-renamed/below", "x"),
    ("RENAME other box/other", "k"),
    ("SELECT box", "r"),
    ("EXAMINE box", "r"),
    ("STATUS box (MESSAGES)", "r"),
    ("SETACL box bob lr", ""),
    ("DELETEACL box bob", ""),
    ("GETACL box", ""),
    ("LISTRIGHTS box bob", ""),
    ("MYRIGHTS box", ""),
    ("APPEND box {3+}\r\nx\r\n", "i"),
    ("APPEND box (\\Seen \\Deleted \\Flagged k) {3+}\r\nx\r\n", "i"),
    ("GETQUOTAROOT box", ""),
    ("GETMETADATA \"\" /private/comment", ""),
    ("SETMETADATA box (/shared/comment \"x\")", "w"),
    ("NAMESPACE", ""),
    ("NOOP", ""),
];

/// Commands of the selected state; `box` was selected with all rights. A session that may no longer
/// read its mailbox ends with the next command that does not leave the mailbox.
const SELECTED: &[Row] = &[
    ("NOOP", "r"),
    ("CHECK", "r"),
    ("STATUS other (MESSAGES)", "r"),
    ("LIST \"\" other", "r"),
    ("CLOSE", ""),
    ("UNSELECT", ""),
    ("SELECT other", ""),
    ("EXPUNGE", "re"),
    ("UID EXPUNGE 1", "re"),
    ("SEARCH ALL", "r"),
    ("UID SEARCH RETURN (ALL) TEXT x", "r"),
    ("FETCH 1 FLAGS", "r"),
    ("FETCH 1 BODY.PEEK[]", "r"),
    ("FETCH 1 BODY[]", "r"),
    ("UID FETCH 1 RFC822", "r"),
    ("STORE 1 +FLAGS (\\Seen)", "rs"),
    ("STORE 1 -FLAGS.SILENT (\\Seen)", "rs"),
    ("STORE 1 +FLAGS (\\Deleted)", "rt"),
    ("UID STORE 1 -FLAGS (\\Deleted)", "rt"),
    ("STORE 1 +FLAGS (\\Answered)", "rw"),
    ("STORE 1 +FLAGS (\\Flagged)", "rw"),
    ("STORE 1 -FLAGS (\\Draft)", "rw"),
    ("STORE 1 +FLAGS (k)", "rw"),
    ("STORE 1 +FLAGS ()", "r"),
    ("COPY 1 other", "r"),
    ("UID COPY 1 other", "r"),
    ("MOVE 1 other", "rte"),
    ("UID MOVE 1 other", "rte"),
];

/// Commands that put messages of `other`, which is selected, into `box`.
const INTO: &[Row] = &[("COPY 1 box", "i"), ("MOVE 1 box", "i"), ("UID MOVE 1 box", "i")];

/// What became of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Done,
    /// NO with NOPERM.
    Refused,
    /// The session ended: its user may not read the selected mailbox.
    Ended,
}

/// The answer to one command, up to its tagged response or BYE.
fn answer(client: &mut Client, command: &str) -> String {
    client.say(format!("t {command}\r\n"));
    let mut found = String::new();
    loop {
        let more = transcript::Peer::receive(client);
        assert!(!more.is_empty(), "closed after {found}");
        found.push_str(&String::from_utf8(more).expect("UTF-8"));
        let last = found.lines().next_back().unwrap_or_default();
        if found.ends_with("\r\n") && (last.starts_with("t ") || last.starts_with("* BYE")) {
            return found;
        }
    }
}

fn done(client: &mut Client, command: &str) -> String {
    let answer = answer(client, command);
    assert_eq!(outcome(&answer), Outcome::Done, "{command}: {answer}");
    answer
}

fn outcome(answer: &str) -> Outcome {
    let last = answer.lines().next_back().unwrap_or_default();
    match last.split_at_checked(5) {
        Some(("t OK ", _)) => Outcome::Done,
        Some(("t NO ", text)) if text.starts_with("[NOPERM] ") => Outcome::Refused,
        Some(("* BYE", text)) if text.contains("no longer be read") => Outcome::Ended,
        _ => panic!("{answer}"),
    }
}

/// Two clients of one user, and the mailboxes `box` and `other` with two messages each, the first
/// of which is `\Deleted`.
struct Case<'k> {
    world: SimulatedWorld<'k>,
    admin: Client,
    user: Client,
}

impl<'k> Case<'k> {
    fn new(kit: &'k Kit) -> Case<'k> {
        let world = SimulatedWorld::new(kit, serve, 0, true);
        let mut admin = world.log_in("alice");
        for name in ["box", "other"] {
            done(&mut admin, &format!("CREATE {name}"));
            done(&mut admin, &format!("APPEND {name} (\\Deleted) {{3+}}\r\nx\r\n"));
            done(&mut admin, &format!("APPEND {name} {{3+}}\r\nx\r\n"));
        }
        let user = world.log_in("alice");
        Case { world, admin, user }
    }

    /// Leaves the user these rights on `box`, with `l` and `a`.
    fn restrict(&mut self, rights: &str) {
        done(&mut self.admin, &format!("SETACL box owner \"{rights}\""));
        let told = done(&mut self.admin, "MYRIGHTS box");
        let letters = told.split_ascii_whitespace().nth(3).expect("rights");
        for right in RIGHTS.chars() {
            assert_eq!(letters.contains(right), rights.contains(right), "{right} in {told}");
        }
        assert!(letters.contains('l') && letters.contains('a'), "{told}");
    }
}

/// The rights that remain without `right`.
fn without(right: char) -> String {
    RIGHTS.chars().filter(|it| *it != right).collect()
}

fn check_rows(rows: &[Row], selected: Option<&str>) {
    let kit = Kit::new();
    let run = |command: &str, rights: &str| {
        let mut case = Case::new(&kit);
        if let Some(name) = selected {
            done(&mut case.user, &format!("SELECT {name}"));
        }
        case.restrict(rights);
        outcome(&answer(&mut case.user, command))
    };
    for (command, needs) in rows {
        assert_eq!(run(command, needs), Outcome::Done, "{command:?} with {needs:?}");
        for right in RIGHTS.chars() {
            let expected = match needs.contains(right) {
                true if right == 'r' && selected.is_some() => Outcome::Ended,
                true => Outcome::Refused,
                false => Outcome::Done,
            };
            assert_eq!(run(command, &without(right)), expected, "{command:?} without {right}");
        }
    }
}

#[test]
fn commands_of_the_authenticated_state() {
    check_rows(AUTHENTICATED, None);
}

#[test]
fn commands_of_the_selected_state() {
    check_rows(SELECTED, Some("box"));
}

#[test]
fn commands_that_put_messages_in() {
    check_rows(INTO, Some("other"));
}

/// The right that each flag needs.
const FLAGS: &[(&str, char)] = &[
    ("\\Answered", 'w'),
    ("\\Flagged", 'w'),
    ("\\Deleted", 't'),
    ("\\Seen", 's'),
    ("\\Draft", 'w'),
    ("k", 'w'),
];

const ALL_FLAGS: &str = "\\Answered \\Flagged \\Deleted \\Seen \\Draft k";

/// Every choice of `s`, `w` and `t`.
fn choices() -> impl Iterator<Item = String> {
    (0..8).map(|choice| {
        let chosen = "swt".char_indices().filter(|(bit, _)| choice >> bit & 1 == 1);
        chosen.map(|(_, right)| right).collect()
    })
}

/// The flags that these rights allow.
fn allowed(rights: &str) -> Vec<&'static str> {
    FLAGS.iter().filter(|(_, right)| rights.contains(*right)).map(|(flag, _)| *flag).collect()
}

/// The flags of the last message of `name`, but `\Recent`.
fn flags_of_last(client: &mut Client, name: &str) -> Vec<String> {
    done(client, &format!("EXAMINE {name}"));
    let answer = done(client, "FETCH * FLAGS");
    let list = answer.split("FLAGS (").nth(1).and_then(|it| it.split(')').next()).expect("flags");
    let flags = list.split_ascii_whitespace().filter(|flag| *flag != "\\Recent");
    flags.map(str::to_owned).collect()
}

/// RFC 4314 4: APPEND, COPY and MOVE do not fail for flags that the user may not set.
#[test]
fn new_messages_have_the_flags_that_the_user_may_set() {
    let kit = Kit::new();
    for rights in choices() {
        let mut case = Case::new(&kit);
        case.restrict(&format!("{rights}ri"));
        done(&mut case.user, &format!("APPEND box ({ALL_FLAGS}) {{3+}}\r\nx\r\n"));
        assert_eq!(flags_of_last(&mut case.admin, "box"), allowed(&rights), "APPEND {rights}");
        for command in ["COPY 1 box", "MOVE 1 box"] {
            done(&mut case.user, "SELECT other");
            done(&mut case.user, &format!("STORE 1 FLAGS ({ALL_FLAGS})"));
            done(&mut case.user, command);
            let flags = flags_of_last(&mut case.admin, "box");
            assert_eq!(flags, allowed(&rights), "{command} {rights}");
        }
    }
}

/// RFC 4314 4: STORE changes the flags that the user may change, and is refused if there are none.
#[test]
fn store_changes_the_flags_that_the_user_may_change() {
    let kit = Kit::new();
    for rights in choices() {
        for (before, command, after) in [
            ("", "STORE 2 +FLAGS", allowed(&rights)),
            ("", "STORE 2 FLAGS.SILENT", allowed(&rights)),
            (ALL_FLAGS, "STORE 2 -FLAGS", without_flags(&rights)),
        ] {
            let mut case = Case::new(&kit);
            done(&mut case.user, "SELECT box");
            done(&mut case.user, &format!("STORE 2 FLAGS ({before})"));
            case.restrict(&format!("{rights}r"));
            let told = answer(&mut case.user, &format!("{command} ({ALL_FLAGS})"));
            let expected = if rights.is_empty() { Outcome::Refused } else { Outcome::Done };
            assert_eq!(outcome(&told), expected, "{command} with {rights:?}: {told}");
            let flags = flags_of_last(&mut case.admin, "box");
            assert_eq!(flags, after, "{command} with {rights:?}");
            // The client learns what was not done, even if it asked for silence.
            let list = format!("FLAGS ({})", [&after[..], &["\\Recent"]].concat().join(" "));
            let list =
                list.replace(" k \\Recent", " \\Recent k").replace("(k \\Recent", "(\\Recent k");
            let is_told = rights == "swt" || rights.is_empty() || told.contains(&list);
            assert!(is_told, "{command} with {rights:?}: {told}, not {list}");
        }
        // Replacing takes away only what the user may.
        let mut case = Case::new(&kit);
        done(&mut case.user, "SELECT box");
        done(&mut case.user, &format!("STORE 2 FLAGS ({ALL_FLAGS})"));
        case.restrict(&format!("{rights}r"));
        answer(&mut case.user, "STORE 2 FLAGS ()");
        assert_eq!(flags_of_last(&mut case.admin, "box"), without_flags(&rights), "{rights}");
    }
}

/// The flags that these rights do not allow.
fn without_flags(rights: &str) -> Vec<&'static str> {
    FLAGS.iter().filter(|(_, right)| !rights.contains(*right)).map(|(flag, _)| *flag).collect()
}

/// RFC 4314 4, 5.2: PERMANENTFLAGS and READ-ONLY follow the rights.
#[test]
fn select_tells_what_can_be_changed() {
    let kit = Kit::new();
    let mut case = Case::new(&kit);
    for rights in choices() {
        for more in ["", "i", "e", "kxp"] {
            case.restrict(&format!("{rights}{more}r"));
            let told = done(&mut case.user, "SELECT box");
            let flags: Vec<&str> =
                allowed(&rights).into_iter().filter(|flag| *flag != "k").collect();
            let more_keywords = if rights.contains('w') { vec!["\\*"] } else { Vec::new() };
            let list = [flags, more_keywords].concat().join(" ");
            let expected = format!("* OK [PERMANENTFLAGS ({list})]");
            assert!(told.contains(&expected), "{rights}{more}: {told}, not {expected}");
            let can_change = !rights.is_empty() || matches!(more, "i" | "e");
            let code = if can_change { "t OK [READ-WRITE]" } else { "t OK [READ-ONLY]" };
            assert!(told.contains(code), "{rights}{more}: {told}");
            let told = done(&mut case.user, "EXAMINE box");
            assert!(told.contains("[PERMANENTFLAGS ()]") && told.contains("[READ-ONLY]"), "{told}");
        }
    }
}

/// A client whose rights become others while it has the mailbox selected is told what it can change
/// now, and nothing while they stay.
#[test]
fn a_change_of_rights_is_told() {
    let kit = Kit::new();
    let mut case = Case::new(&kit);
    case.restrict("lrswte");
    done(&mut case.user, "SELECT box");
    for (rights, list) in [("lr", "()"), ("lrs", "(\\Seen)"), ("lrsi", "(\\Seen)")] {
        case.restrict(rights);
        let told = done(&mut case.user, "NOOP");
        let expected = format!("* OK [PERMANENTFLAGS {list}]");
        assert_eq!(told.contains(&expected), rights != "lrsi", "{rights}: {told}");
        let told = done(&mut case.user, "NOOP");
        assert!(!told.contains("PERMANENTFLAGS"), "{rights}: {told}");
    }
    done(&mut case.user, "EXAMINE box");
    case.restrict("lr");
    let told = done(&mut case.user, "NOOP");
    assert!(!told.contains("PERMANENTFLAGS"), "EXAMINE: {told}");
}

/// FETCH sets `\Seen`, and CLOSE expunges, only with the right to.
#[test]
fn implied_changes_need_their_right() {
    let kit = Kit::new();
    for (rights, seen) in [("rs", true), ("rwteipkx", false)] {
        let mut case = Case::new(&kit);
        done(&mut case.user, "SELECT box");
        case.restrict(rights);
        let told = done(&mut case.user, "FETCH 2 BODY[TEXT]");
        assert!(told.contains("BODY[TEXT] ") && told.contains("\\Seen") == seen, "{told}");
        let flags = flags_of_last(&mut case.admin, "box");
        assert_eq!(flags.contains(&"\\Seen".to_owned()), seen, "{rights}");
    }
    for (rights, left) in [("re", 1), ("e", 2), ("rswtipkx", 2), ("", 2)] {
        let mut case = Case::new(&kit);
        done(&mut case.user, "SELECT box");
        case.restrict(rights);
        done(&mut case.user, "CLOSE");
        case.restrict("r");
        let told = done(&mut case.admin, "STATUS box (MESSAGES)");
        assert!(told.contains(&format!("(MESSAGES {left})")), "{rights}: {told}");
    }
}

/// Without the right to change anything, a session takes no `\Recent` from others.
#[test]
fn readers_claim_nothing() {
    let kit = Kit::new();
    let mut case = Case::new(&kit);
    case.restrict("r");
    assert!(done(&mut case.user, "SELECT box").contains("* 2 RECENT\r\n"));
    done(&mut case.admin, "APPEND other {3+}\r\nx\r\n");
    case.restrict("rs");
    assert!(done(&mut case.user, "SELECT box").contains("* 2 RECENT\r\n"));
    assert!(done(&mut case.admin, "SELECT box").contains("* 0 RECENT\r\n"));
}

/// A session that may no longer read its mailbox learns nothing of it, also while it idles, and
/// gets the mailbox again once it may.
#[test]
fn rights_are_those_of_the_moment() {
    let kit = Kit::new();
    let mut case = Case::new(&kit);
    done(&mut case.user, "SELECT box");
    for (rights, expected) in
        [("rw", Outcome::Done), ("r", Outcome::Refused), ("rsw", Outcome::Done)]
    {
        case.restrict(rights);
        assert_eq!(outcome(&answer(&mut case.user, "STORE 2 +FLAGS (\\Flagged)")), expected);
    }
    case.restrict("ri");
    case.user.say("a APPEND box (\\Seen) {3}\r\n");
    case.user.read_to("+ ");
    case.restrict("r");
    case.user.say("x\r\n\r\n");
    let told = case.user.read_to("a ");
    assert!(told.contains("\r\na NO [NOPERM] Not allowed on this mailbox"), "{told}");
    case.user.say("i IDLE\r\n");
    case.user.read_to("+ idling");
    case.restrict("rwi");
    case.user.read_to("* OK [PERMANENTFLAGS (");
    done(&mut case.admin, "APPEND box {3+}\r\nx\r\n");
    assert_eq!(case.user.read_to("* 3 RECENT"), "* 3 EXISTS\r\n* 3 RECENT\r\n");
    case.restrict("i");
    let told = case.user.read_to("* BYE");
    assert_eq!(told, "* BYE The selected mailbox may no longer be read\r\n");
    case.user = case.world.log_in("alice");
    assert_eq!(outcome(&answer(&mut case.user, "SELECT box")), Outcome::Refused);
    case.restrict("r");
    done(&mut case.user, "SELECT box");
}
