//! Mailboxes of other users (RFC 2342, RFC 4314), on the session's shard and on another one: the
//! same commands and the same answers.
//!
//! Alice's account is on shard 0, bob's on shard 1, carol's beside one of them. Each case is played
//! with owner and user on one shard and on two.

mod transcript;
mod world;

use std::{path::Path, rc::Rc};

use ringmail::{
    directory::{
        Directory, DirectoryFiles, DirectoryOptions, DirectorySnapshot, PeerLimits,
        SharedDirectory, UsersFile,
    },
    service::access,
};
use world::{AtOnce, Client, Kit, SimulatedWorld, accounts_of, serve_imap};

/// Two users of one shard and two of the other.
const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

fn answer(client: &mut Client, command: &str) -> String {
    client.answer(command)
}

fn done(client: &mut Client, command: &str) -> String {
    client.done(command)
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
    /// The owner has the mailboxes `box`, `box/sub` and `secret`, with two messages each.
    fn new(kit: &'k Kit, (owner_name, user_name): (&'static str, &'static str)) -> Case<'k> {
        let world = SimulatedWorld::new(kit, serve_imap, 0, true);
        let mut owner = world.log_in(owner_name);
        for name in ["box", "box/sub", "secret"] {
            done(&mut owner, &format!("CREATE {name}"));
            for number in 1..=2 {
                let text = format!("Subject: {name} {number}\r\n\r\nbody of {name}\r\n");
                let size = text.len();
                done(&mut owner, &format!("APPEND {name} {{{size}+}}\r\n{text}"));
            }
        }
        let user = world.log_in(user_name);
        Case { world, owner, user, owner_name, user_name }
    }

    fn grant(&mut self, name: &str, rights: &str) {
        let user = self.user_name;
        done(&mut self.owner, &format!("SETACL {name} {user}@demo.test {rights}"));
    }

    /// As the user names a mailbox of the owner.
    fn name(&self, name: &str) -> String {
        format!("\"Other Users/{}@demo.test/{name}\"", self.owner_name)
    }
}

/// The users, with this groups file.
fn with_groups(groups: &str) -> DirectorySnapshot {
    let folder = tempfile::tempdir().expect("folder");
    let [users, aliases, in_groups] =
        ["users", "aliases", "groups"].map(|name| folder.path().join(name));
    let accounts = accounts_of(&USERS);
    let lines = accounts.users().iter().map(|it| format!("{} {} {}\n", it.id, it.address, it.hash));
    let lines: String = lines.collect();
    std::fs::write(&users, lines).expect("written");
    std::fs::write(&in_groups, groups).expect("written");
    let groups = in_groups;
    let files = DirectoryFiles { users, aliases, aliases_named: false, groups, groups_named: true };
    let options =
        DirectoryOptions { domains: vec!["demo.test".to_owned()], ..DirectoryOptions::default() };
    DirectorySnapshot::load(&files, &options).expect("loads").0
}

/// RFC 5258 3, RFC 5819, RFC 8440, RFC 9590: selection and return options on mailboxes of others,
/// with the rights of that moment.
#[test]
fn extended_lists_of_others_follow_rights() {
    each(|case| {
        case.grant("box", "lr");
        case.grant("secret", "l");
        done(&mut case.owner, "SETMETADATA box (/shared/comment \"theirs\")");
        done(&mut case.owner, "SETMETADATA secret (/shared/comment \"theirs\")");
        let names = ["box", "secret", "gone"].map(|name| case.name(name));
        let [name, secret, gone] = &names;
        for name in &names {
            done(&mut case.user, &format!("SUBSCRIBE {name}"));
        }
        let level = format!("\"Other Users/{}@demo.test\"", case.owner_name);
        let child = "(\"CHILDINFO\" (\"SUBSCRIBED\"))";
        let chosen = |case: &mut Case<'_>, pattern: &str, returns: &str| {
            let list =
                format!("LIST (SUBSCRIBED RECURSIVEMATCH) \"\" {pattern} RETURN ({returns})");
            let told = done(&mut case.user, &list);
            let told: Vec<String> =
                lines(&told, "* ").into_iter().filter(|it| it.contains("Other Users")).collect();
            told
        };
        let above = [format!("LIST (\\HasChildren \\NonExistent) \"/\" \"Other Users\" {child}")];
        assert_eq!(chosen(case, "%", "STATUS (MESSAGES) MYRIGHTS"), above);
        let owner = [format!("LIST (\\HasChildren \\NonExistent) \"/\" {level} {child}")];
        assert_eq!(chosen(case, "\"Other Users/%\"", "STATUS (MESSAGES)"), owner);
        // With what is chosen below them, the levels are not told.
        let returns = "STATUS (MESSAGES) MYRIGHTS METADATA (\"/shared/comment\")";
        let all = [
            format!("LIST (\\HasNoChildren \\Subscribed) \"/\" {name}"),
            format!("STATUS {name} (MESSAGES 2)"),
            format!("METADATA {name} (/shared/comment \"theirs\")"),
            format!("MYRIGHTS {name} lr"),
            format!("LIST (\\HasNoChildren \\NonExistent \\Subscribed) \"/\" {gone}"),
            // To look it up is not to read it.
            format!("LIST (\\HasNoChildren \\Subscribed) \"/\" {secret}"),
            format!("MYRIGHTS {secret} l"),
        ];
        let unquoted = |it: &String| it.replace('"', "");
        let told = chosen(case, "*", returns);
        assert_eq!(told.iter().map(unquoted).collect::<Vec<_>>(), all.each_ref().map(unquoted));
        // What may no longer be seen does not exist.
        for mailbox in ["box", "secret"] {
            let user = case.user_name;
            done(&mut case.owner, &format!("DELETEACL {mailbox} {user}@demo.test"));
        }
        let told = chosen(case, "*", returns);
        let expected = [name, gone, secret]
            .map(|it| format!("LIST (\\HasNoChildren \\NonExistent \\Subscribed) \"/\" {it}"));
        let told: Vec<String> = told.iter().map(unquoted).collect();
        assert_eq!(told, expected.each_ref().map(unquoted));
    });
}

/// RFC 6855 5: user names in UTF-8, in AUTHENTICATE and, beyond the RFC, in LOGIN.
#[test]
fn names_of_users_are_in_utf8() {
    let kit = Kit::of(&["alice", "jürgen"]);
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    for command in [
        "AUTHENTICATE PLAIN AGrDvHJnZW5AZGVtby50ZXN0AGRlbW8=",
        "LOGIN {17+}\r\njürgen@demo.test demo",
        "LOGIN \"jürgen@demo.test\" \"demo\"",
    ] {
        let mut client = world.client();
        client.read_to("* OK");
        client.done(command);
        client.done("ENABLE UTF8=ACCEPT");
        let told = client.done("GETACL INBOX");
        assert!(told.contains("jürgen@demo.test"), "{told}");
    }
}

/// RFC 6855 3: names of others' mailboxes in UTF-8, on any shard.
#[test]
fn names_of_others_are_told_in_utf8_to_those_who_enabled_it() {
    let kit = Kit::of(&USERS);
    for pair in PAIRS {
        let mut case = Case::new(&kit, pair);
        done(&mut case.owner, "CREATE \"Entw&APw-rfe\"");
        case.grant("\"Entw&APw-rfe\"", "lri");
        let plain = format!("Other Users/{}@demo.test/Entw&APw-rfe\r\n", case.owner_name);
        let wide = format!("\"Other Users/{}@demo.test/Entwürfe\"", case.owner_name);
        let told = done(&mut case.user, "LIST \"\" \"Other Users/%/Entw%\"");
        assert!(told.contains(&plain.trim_end().to_owned()), "{told}");
        done(&mut case.user, "ENABLE UTF8=ACCEPT");
        let told = done(&mut case.user, "LIST \"\" \"Other Users/%/Entw%\"");
        assert!(told.contains(&format!(" {wide}\r\n")), "{told}");
        done(&mut case.user, &format!("APPEND {wide} UTF8 (~{{10+}}\r\nTo: ü\r\n\r\n)"));
        let told = done(&mut case.user, &format!("STATUS {wide} (MESSAGES)"));
        assert!(told.contains(&format!("* STATUS {wide} (MESSAGES 1)\r\n")), "{told}");
        done(&mut case.user, &format!("EXAMINE {wide}"));
        let told = done(&mut case.user, "FETCH 1 BODY.PEEK[]");
        assert!(told.contains("To: ü\r\n"), "{told}");
    }
}

/// An entry for an account is shown by the address that it has now, and found by it.
#[test]
fn entries_have_the_present_names_of_their_accounts() {
    for pair in PAIRS {
        let mut names: Vec<(u64, &str)> = (1..).zip(USERS).collect();
        let shared = SharedDirectory::new(directory_of(&names), PeerLimits::default());
        let kit = Kit::with_directory(|_| Directory::new(shared.clone(), Rc::new(AtOnce)));
        let mut case = Case::new(&kit, pair);
        let (owner, user) = pair;
        let acl = |case: &mut Case<'_>| {
            let told = done(&mut case.owner, "GETACL box");
            let line = lines(&told, "* ACL box ").remove(0);
            let own = format!("{owner}@demo.test lrswipkxteacd");
            line.strip_prefix(&own).expect("the owner").trim_start().to_owned()
        };
        case.grant("box", "lr");
        // The user gets another name, and his goes to somebody else.
        let number = names.iter().find(|(_, name)| *name == user).expect("there").0;
        names.retain(|(_, name)| *name != user);
        names.extend([(number, "robert"), (99, user)]);
        shared.replace(directory_of(&names));
        assert_eq!(acl(&mut case), "robert@demo.test lr", "{pair:?}");
        done(&mut case.owner, &format!("DELETEACL box {user}@demo.test"));
        assert_eq!(acl(&mut case), "robert@demo.test lr", "{pair:?}");
        done(&mut case.owner, &format!("SETACL box {user}@demo.test s"));
        assert_eq!(acl(&mut case), format!("robert@demo.test lr {user}@demo.test s"), "{pair:?}");
        done(&mut case.owner, "SETACL box robert@demo.test +s");
        done(&mut case.owner, &format!("DELETEACL box {user}@demo.test"));
        assert_eq!(acl(&mut case), "robert@demo.test lrs", "{pair:?}");
        // The account is gone, and its old name is nobody's: an entry for that is another one.
        names.retain(|(_, name)| *name != "robert" && *name != user);
        shared.replace(directory_of(&names));
        let gone = format!("account:{number} lrs");
        assert_eq!(acl(&mut case), gone, "{pair:?}");
        done(&mut case.owner, "DELETEACL box robert@demo.test");
        assert_eq!(acl(&mut case), gone, "{pair:?}");
        done(&mut case.owner, "SETACL box robert@demo.test l");
        assert_eq!(acl(&mut case), format!("{gone} robert@demo.test l"), "{pair:?}");
        done(&mut case.owner, &format!("SETACL box account:{number} -s"));
        done(&mut case.owner, "DELETEACL box robert@demo.test");
        assert_eq!(acl(&mut case), format!("account:{number} lr"), "{pair:?}");
        done(&mut case.owner, &format!("DELETEACL box account:{number}"));
        assert_eq!(acl(&mut case), "", "{pair:?}");
        // By its number nobody is named anew, whether there is such an account or not.
        let told = [number, 1, 77]
            .map(|number| answer(&mut case.owner, &format!("SETACL box account:{number} lr")));
        assert!(told.iter().all(|it| it.starts_with("t NO ") && *it == told[0]), "{told:?}");
        assert_eq!(acl(&mut case), "", "{pair:?}");
    }
}

/// Rights that come from a group come and go with it, also in a mailbox that is selected.
#[test]
fn groups_give_and_take_rights_at_once() {
    for pair in PAIRS {
        let user = pair.1;
        let group = format!("staff: {user}@demo.test\n");
        let shared = SharedDirectory::new(with_groups(&group), PeerLimits::default());
        let kit = Kit::with_directory(|_| Directory::new(shared.clone(), Rc::new(AtOnce)));
        let mut case = Case::new(&kit, pair);
        case.grant("box", "lrs");
        done(&mut case.owner, "SETACL box $staff lrsw");
        let name = case.name("box");
        done(&mut case.user, &format!("SELECT {name}"));
        let told = done(&mut case.user, "STORE 1 +FLAGS (\\Flagged)");
        assert!(told.contains("\\Flagged"), "{pair:?}: {told}");
        shared.replace(with_groups("staff: alice@demo.test\n"));
        let told = done(&mut case.user, "STORE 2 +FLAGS (\\Seen \\Flagged)");
        assert!(told.contains("\\Seen") && !told.contains("\\Flagged"), "{pair:?}: {told}");
        done(&mut case.user, &format!("SELECT {name}"));
        shared.replace(with_groups(&group));
        let told = done(&mut case.user, "STORE 2 +FLAGS (\\Flagged)");
        assert!(told.contains("\\Flagged"), "{pair:?}: {told}");
    }
}

/// RFC 5465 5.8: what another group gives or takes is not known of each mailbox, so who watches
/// mailboxes of others begins anew; who watches none does not, nor one whose groups are the same.
#[test]
fn who_watches_begins_anew_in_other_groups() {
    for pair in PAIRS {
        let user = pair.1;
        let group = format!("staff: {user}@demo.test\n");
        let shared = SharedDirectory::new(with_groups(&group), PeerLimits::default());
        let kit = Kit::with_directory(|_| Directory::new(shared.clone(), Rc::new(AtOnce)));
        let mut case = Case::new(&kit, pair);
        case.grant("box", "lr");
        done(&mut case.owner, "SETACL secret $staff lr");
        let mut personal = case.world.log_in(user);
        done(&mut personal, "NOTIFY SET (personal (MailboxName))");
        done(&mut case.user, "NOTIFY SET (subtree \"Other Users\" (MailboxName))");
        for (groups, is_other) in [
            (format!("{group}others: alice@demo.test\n"), false),
            (String::new(), true),
            (String::new(), false),
            (group.clone(), true),
        ] {
            shared.replace(with_groups(&groups));
            case.world.shards.iter().for_each(|it| it.reloads.tell(1));
            case.world.settle();
            let told = done(&mut case.user, "NOOP");
            assert_eq!(told.contains("NOTIFICATIONOVERFLOW"), is_other, "{groups}: {told}");
            if is_other {
                done(&mut case.user, "NOTIFY SET (subtree \"Other Users\" (MailboxName))");
            }
            assert_eq!(done(&mut personal, "NOOP"), "t OK NOOP completed\r\n");
        }
    }
}

/// An entry for a name is the account's that gets the name, also if it is removed before the entry
/// has its number.
#[test]
fn an_entry_for_a_name_goes_with_its_account() {
    for pair in PAIRS {
        let names: Vec<(u64, &str)> = (1..).zip(USERS).collect();
        let with_eve: Vec<(u64, &str)> = names.iter().copied().chain([(9, "eve")]).collect();
        let again: Vec<(u64, &str)> = names.iter().copied().chain([(10, "eve")]).collect();
        let shared = SharedDirectory::new(directory_of(&names), PeerLimits::default());
        let kit = Kit::with_directory(|_| Directory::new(shared.clone(), Rc::new(AtOnce)));
        let mut case = Case::new(&kit, pair);
        case.world.shards.iter().for_each(access::follow_accounts);
        case.world.sleep(5);
        done(&mut case.owner, "SETACL box eve@demo.test lr");
        for users in [&with_eve, &names, &again] {
            shared.replace(directory_of(users));
        }
        case.world.sleep(5);
        let told = done(&mut case.owner, "GETACL box");
        assert!(!told.contains("eve"), "{pair:?}: {told}");
        let told = done(&mut case.world.log_in("eve"), "LIST \"\" *");
        assert!(!told.contains("Other Users"), "{pair:?}: {told}");
    }
}

/// Whoever has a mailbox of a removed account selected, and whoever used the account, is sent away,
/// in IDLE too.
#[test]
fn sessions_on_a_removed_account_end() {
    const READ: &str = "The selected mailbox may no longer be read";
    const REMOVED: &str = "The account was removed";
    for pair in PAIRS {
        let names: Vec<(u64, &str)> = (1..).zip(USERS).collect();
        let shared = SharedDirectory::new(directory_of(&names), PeerLimits::default());
        let kit = Kit::with_directory(|_| Directory::new(shared.clone(), Rc::new(AtOnce)));
        let mut case = Case::new(&kit, pair);
        case.world.shards.iter().for_each(access::follow_accounts);
        case.grant("box", "lrswite");
        let name = case.name("box");
        let commands = ["FETCH 1 BODY.PEEK[TEXT]", "EXPUNGE", "COPY 1 INBOX", "NOOP", "IDLE"];
        let mut readers: Vec<Client> = commands
            .iter()
            .map(|_| {
                let mut user = case.world.log_in(pair.1);
                done(&mut user, &format!("SELECT {name}"));
                user
            })
            .collect();
        let mut own = case.world.log_in(pair.0);
        done(&mut own, "SELECT box");
        let mut idle = case.world.log_in(pair.0);
        for waiting in [&mut readers[4], &mut idle] {
            waiting.say("t IDLE\r\n");
            waiting.read_to("+ ");
        }
        let mut watching = case.world.log_in(pair.0);
        done(&mut watching, "NOTIFY SET (personal (MessageNew MessageExpunge))");
        let left: Vec<(u64, &str)> = names.into_iter().filter(|it| it.1 != pair.0).collect();
        shared.replace(directory_of(&left));
        for (reader, command) in readers.iter_mut().zip(&commands[..4]) {
            let told = answer(reader, command);
            assert_eq!(told, format!("* BYE {READ}\r\n"), "{pair:?} {command}");
        }
        assert_eq!(answer(&mut case.owner, "SELECT box"), format!("* BYE {REMOVED}\r\n"));
        assert_eq!(answer(&mut own, "FETCH 1 FLAGS"), format!("* BYE {REMOVED}\r\n"));
        // These say nothing, and hear it from the shard.
        readers[4].read_to(&format!("* BYE {READ}"));
        idle.read_to(&format!("* BYE {REMOVED}"));
        watching.read_to(&format!("* BYE {REMOVED}"));
        // The others go on.
        let told = answer(&mut case.user, &format!("SELECT {name}"));
        assert!(told.starts_with("t NO [NONEXISTENT]"), "{told}");
    }
}

/// RFC 5267: results of a mailbox of another account, also of another shard, are told like one's
/// own, as long as it may be read.
#[test]
fn results_of_a_mailbox_end_with_the_right_to_read_it() {
    for pair in PAIRS {
        let kit = Kit::of(&USERS);
        let mut case = Case::new(&kit, pair);
        let user = format!("{}@demo.test", pair.1);
        done(&mut case.owner, &format!("SETACL box {user} lr"));
        let append = |subject: &str| {
            let message = format!("Subject: {subject}\r\n\r\nsome text");
            format!("APPEND box {{{}+}}\r\n{message}", message.len())
        };
        done(&mut case.owner, &append("m"));
        let name = case.name("box");
        done(&mut case.user, &format!("SELECT {name}"));
        done(&mut case.user, "UID SEARCH RETURN (UPDATE) TEXT \"SOME TEXT\" UNDELETED");
        case.user.say("o SORT RETURN (UPDATE COUNT) (REVERSE SUBJECT) UTF-8 SUBJECT n\r\n");
        case.user.read_to("o OK");
        case.user.say("t IDLE\r\n");
        case.user.read_to("+ ");
        done(&mut case.owner, &append("n"));
        let told = case.user.read_to("* ESEARCH (TAG \"o\") ADDTO (1 ");
        assert!(told.contains("* ESEARCH (TAG \"t\") UID ADDTO (0 "), "{pair:?}: {told}");
        done(&mut case.owner, "SELECT box");
        done(&mut case.owner, "STORE 1:* +FLAGS (\\Deleted)");
        case.user.read_to("* ESEARCH (TAG \"t\") UID REMOVEFROM (0 ");
        done(&mut case.owner, &format!("SETACL box {user} l"));
        done(&mut case.owner, &append("n"));
        let told = case.user.read_to("* BYE The selected mailbox may no longer be read");
        assert!(!told.contains("ESEARCH"), "{pair:?}: {told}");
    }
}

/// Who waits in IDLE hears at once that he has left a group.
#[test]
fn idle_ends_with_a_right_from_a_group() {
    for pair in PAIRS {
        let group = format!("staff: {}@demo.test\n", pair.1);
        let shared = SharedDirectory::new(with_groups(&group), PeerLimits::default());
        let kit = Kit::with_directory(|_| Directory::new(shared.clone(), Rc::new(AtOnce)));
        let mut case = Case::new(&kit, pair);
        case.world.shards.iter().for_each(access::follow_accounts);
        done(&mut case.owner, "SETACL box $staff lr");
        let name = case.name("box");
        done(&mut case.user, &format!("SELECT {name}"));
        case.user.say("t IDLE\r\n");
        case.user.read_to("+ ");
        shared.replace(with_groups(""));
        case.user.read_to("* BYE The selected mailbox may no longer be read");
    }
}

/// Plays a case with every pair.
fn each(play: impl Fn(&mut Case<'_>)) {
    let kit = Kit::of(&USERS);
    for pair in PAIRS {
        play(&mut Case::new(&kit, pair));
    }
}

fn lines(told: &str, start: &str) -> Vec<String> {
    let found = told.lines().filter_map(|line| line.strip_prefix(start));
    found.map(str::to_owned).collect()
}

#[test]
fn what_is_shared_is_listed_and_nothing_else() {
    each(|case| {
        let told = done(&mut case.user, "LIST \"\" *");
        assert!(!told.contains("Other Users"), "{told}");
        case.grant("box", "lr");
        case.grant("secret", "rs");
        let owner = format!("Other Users/{}@demo.test", case.owner_name);
        let told = done(&mut case.user, "LIST \"\" *");
        let others: Vec<String> = lines(&told, "* LIST ")
            .into_iter()
            .filter(|line| line.contains("Other Users"))
            .collect();
        let expected = [
            "(\\Noselect \\HasChildren) \"/\" \"Other Users\"".to_owned(),
            format!("(\\Noselect \\HasChildren) \"/\" \"{owner}\""),
            // Created with its parent's list before that was shared: `sub` is not.
            format!("(\\HasNoChildren) \"/\" \"{owner}/box\""),
        ];
        assert_eq!(others, expected, "{told}");
        let told = done(&mut case.user, "LIST \"\" %");
        assert!(told.contains("* LIST (\\Noselect \\HasChildren) \"/\" \"Other Users\""), "{told}");
        let told = done(&mut case.user, &format!("LIST \"\" \"{owner}/%\""));
        assert_eq!(lines(&told, "* LIST ").len(), 1, "{told}");
        let told = done(&mut case.user, "LIST \"\" \"\" RETURN (MYRIGHTS)");
        assert!(!told.contains("MYRIGHTS"), "{told}");
        let told =
            done(&mut case.user, "LIST \"\" \"Other Users/*\" RETURN (MYRIGHTS STATUS (MESSAGES))");
        assert_eq!(lines(&told, "* MYRIGHTS "), [format!("\"{owner}/box\" lr")], "{told}");
        assert_eq!(lines(&told, "* STATUS "), [format!("\"{owner}/box\" (MESSAGES 2)")], "{told}");
    });
}

#[test]
fn shared_mailboxes_are_subscribed() {
    each(|case| {
        case.grant("box", "lr");
        let (name, secret) = (case.name("box"), case.name("secret"));
        done(&mut case.user, &format!("SUBSCRIBE {name}"));
        done(&mut case.user, &format!("SUBSCRIBE {secret}"));
        let told = done(&mut case.user, "LSUB \"\" \"Other Users/*\"");
        assert_eq!(lines(&told, "* LSUB ").len(), 2, "{told}");
        let told = done(&mut case.user, "LIST (SUBSCRIBED) \"\" \"Other Users/*\"");
        let expected = [
            format!("(\\HasNoChildren \\Subscribed) \"/\" {name}"),
            format!("(\\HasNoChildren \\NonExistent \\Subscribed) \"/\" {secret}"),
        ];
        assert_eq!(lines(&told, "* LIST "), expected, "{told}");
        let told = done(&mut case.user, "LIST \"\" \"Other Users/*box\" RETURN (SUBSCRIBED)");
        assert_eq!(
            lines(&told, "* LIST "),
            [format!("(\\HasNoChildren \\Subscribed) \"/\" {name}")],
            "{told}"
        );
        done(&mut case.user, &format!("UNSUBSCRIBE {name}"));
        let told = done(&mut case.user, "LSUB \"\" \"Other Users/*\"");
        assert_eq!(lines(&told, "* LSUB ").len(), 1, "{told}");
    });
}

#[test]
fn messages_of_others_are_read_searched_and_changed() {
    each(|case| {
        case.grant("box", "lrswite");
        let name = case.name("box");
        let told = done(&mut case.user, &format!("SELECT {name}"));
        assert!(told.contains("* 2 EXISTS") && told.contains("t OK [READ-WRITE]"), "{told}");
        let told = done(&mut case.user, "FETCH 1:2 (FLAGS ENVELOPE BODY[])");
        for number in 1..=2 {
            assert!(told.contains(&format!("Subject: box {number}")), "{told}");
        }
        assert_eq!(told.matches("\\Seen").count(), 2, "{told}");
        let told = done(&mut case.user, "SEARCH SUBJECT \"box 2\"");
        assert!(told.contains("* SEARCH 2\r\n"), "{told}");
        let told = done(&mut case.user, "SEARCH BODY \"body of box\"");
        assert!(told.contains("* SEARCH 1 2\r\n"), "{told}");
        // The owner sees the flags that the user set, and the user those of the owner, at once.
        let told = done(&mut case.user, "STORE 1 +FLAGS (\\Flagged word)");
        assert!(told.contains("* 1 FETCH (FLAGS (\\Flagged \\Seen"), "{told}");
        let told = done(&mut case.owner, "SELECT box");
        assert!(told.contains("word"), "{told}");
        let told = done(&mut case.owner, "FETCH 1 FLAGS");
        assert!(told.contains("\\Flagged") && told.contains("word"), "{told}");
        done(&mut case.owner, "STORE 2 +FLAGS (\\Deleted)");
        case.world.settle();
        let told = done(&mut case.user, "NOOP");
        assert!(told.contains("* 2 FETCH (FLAGS (\\Deleted"), "{told}");
        let told = done(&mut case.user, "EXPUNGE");
        assert!(told.contains("* 2 EXPUNGE"), "{told}");
        let told = done(&mut case.owner, "NOOP");
        assert!(told.contains("* 2 EXPUNGE"), "{told}");
    });
}

/// RFC 3502: into a mailbox of another user, too, all or none; with the flags that he may set.
/// What is found, sorted and threaded from the cards of another shard is what the owner gets.
#[test]
fn messages_of_others_are_sorted_and_threaded() {
    each(|case| {
        for (number, subject, day, reference) in
            [(1, "b topic", 3, ""), (2, "Re: b topic", 1, "<1@t>"), (3, "a other", 2, "<2@t>")]
        {
            let text = format!(
                "Subject: {subject}\r\nDate: Mon, {day:02} Nov 2026 10:00:00 +0000\r\n\
                 Message-ID: <{number}@t>\r\nReferences: {reference}\r\n\r\nbody {number}\r\n"
            );
            done(&mut case.owner, &format!("APPEND box {{{}+}}\r\n{text}", text.len()));
        }
        case.grant("box", "lr");
        done(&mut case.owner, "SELECT box");
        let select = format!("SELECT {}", case.name("box"));
        done(&mut case.user, &select);
        // The two messages before them have neither date nor ID.
        for (command, expected) in [
            ("SORT (SUBJECT) UTF-8 3:5", "* SORT 5 3 4\r\n"),
            ("UID SORT (REVERSE DATE) UTF-8 3:5", "* SORT 3 5 4\r\n"),
            ("SORT RETURN (COUNT MIN) (DATE) UTF-8 3:5", " MIN 4 COUNT 3\r\n"),
            ("THREAD REFERENCES UTF-8 3:5", "* THREAD (3 4 5)\r\n"),
            ("UID THREAD REFS UTF-8 3:5", "* THREAD (3 4 5)\r\n"),
            ("THREAD ORDEREDSUBJECT UTF-8 3:5", "* THREAD (4 3)(5)\r\n"),
            ("SEARCH RETURN (PARTIAL 2:3) ALL", " PARTIAL (2:3 2:3)\r\n"),
            ("FETCH 3 (PREVIEW)", "* 3 FETCH (PREVIEW \"body 1\")\r\n"),
        ] {
            let own = done(&mut case.owner, command);
            assert!(own.contains(expected), "{command}: {own}");
            assert_eq!(done(&mut case.user, command), own, "{command}");
        }
    });
}

#[test]
fn several_messages_are_appended_at_once() {
    each(|case| {
        case.grant("box", "lri");
        let name = case.name("box");
        let first = "x".repeat(300_000);
        let command = format!(
            "APPEND {name} (\\Flagged word) {{300000+}}\r\n{first} (\\Seen) {{3+}}\r\ntwo {{5+}}\r\nthree"
        );
        let told = done(&mut case.user, &command);
        assert!(told.contains("[APPENDUID ") && told.contains(" 3:5] "), "{told}");
        done(&mut case.owner, "SELECT box");
        let told = done(&mut case.owner, "FETCH 3:5 (FLAGS RFC822.SIZE)");
        let found = lines(&told, "* ");
        assert_eq!(
            found,
            [
                "3 FETCH (FLAGS (\\Recent) RFC822.SIZE 300000)",
                "4 FETCH (FLAGS (\\Recent) RFC822.SIZE 3)",
                "5 FETCH (FLAGS (\\Recent) RFC822.SIZE 5)",
            ]
        );
        done(&mut case.owner, "CLOSE");
        for bad in ["{3+}\r\none {3+}\r\nt\0o", "{3+}\r\none {0+}\r\n"] {
            let told = answer(&mut case.user, &format!("APPEND {name} {bad}"));
            assert!(told.contains("t NO "), "{told}");
        }
        let told = done(&mut case.owner, "STATUS box (MESSAGES UIDNEXT)");
        assert!(told.contains("MESSAGES 5 UIDNEXT 6"), "{told}");
        // The right is taken while the messages come.
        case.user.say(format!("u APPEND {name} {{3+}}\r\none {{3}}\r\n"));
        case.user.read_to("+ ");
        let user = case.user_name;
        done(&mut case.owner, &format!("SETACL box {user}@demo.test lr"));
        case.user.say("two\r\n");
        let told = case.user.read_to("u ");
        assert!(told.contains("u NO [NOPERM]"), "{told}");
        let told = done(&mut case.owner, "STATUS box (MESSAGES UIDNEXT)");
        assert!(told.contains("MESSAGES 5 UIDNEXT 6"), "{told}");
    });
}

/// RFC 8508 5: within a mailbox of another user, from it, and into it, with the rights on both.
#[test]
fn messages_of_others_are_replaced() {
    each(|case| {
        case.grant("box", "lrite");
        let name = case.name("box");
        done(&mut case.user, &format!("SELECT {name}"));
        let told = done(&mut case.user, &format!("REPLACE 2 {name} {{3+}}\r\nnew"));
        let at = |what: &str| told.find(what).unwrap_or_else(|| panic!("{what}: {told}"));
        assert!(at("[APPENDUID ") < at("* 2 EXPUNGE"), "{told}");
        let told = done(&mut case.user, "FETCH 2 BODY.PEEK[]");
        assert!(told.contains("{3}\r\nnew"), "{told}");
        // From there into his own, and back.
        done(&mut case.user, "REPLACE 1 INBOX {3+}\r\nown");
        let told = done(&mut case.user, "UID SEARCH ALL");
        assert_eq!(lines(&told, "* SEARCH"), [" 3"], "{told}");
        done(&mut case.user, "SELECT INBOX");
        done(&mut case.user, &format!("REPLACE 1 {name} {{4+}}\r\nback"));
        let told = done(&mut case.user, "STATUS INBOX (MESSAGES)");
        assert!(told.contains("MESSAGES 0"), "{told}");
        let told = done(&mut case.owner, "STATUS box (MESSAGES UIDNEXT)");
        assert!(told.contains("MESSAGES 2 UIDNEXT 5"), "{told}");
        // Without a right that it takes, and when one is taken while the message comes.
        done(&mut case.user, &format!("SELECT {name}"));
        let user = case.user_name;
        for rights in ["lrit", "lrie", "lrte"] {
            done(&mut case.owner, &format!("SETACL box {user}@demo.test lrite"));
            case.world.settle();
            case.user.say(format!("u REPLACE 1 {name} {{3}}\r\n"));
            case.user.read_to("+ ");
            done(&mut case.owner, &format!("SETACL box {user}@demo.test {rights}"));
            case.world.settle();
            case.user.say("two\r\n");
            let told = case.user.read_to("u ");
            assert!(told.contains("u NO [NOPERM]"), "{rights}: {told}");
            let told = answer(&mut case.user, &format!("REPLACE 1 {name} {{3+}}\r\ntwo"));
            assert!(told.contains("t NO [NOPERM]"), "{rights}: {told}");
        }
        // Taken for a mailbox of his own in place of one there.
        done(&mut case.owner, &format!("SETACL box {user}@demo.test lrit"));
        case.world.settle();
        let told = answer(&mut case.user, "REPLACE 1 INBOX {3+}\r\ntwo");
        assert!(told.contains("t NO [NOPERM]"), "{told}");
        let told = done(&mut case.user, "STATUS INBOX (MESSAGES)");
        assert!(told.contains("MESSAGES 0"), "{told}");
        let told = done(&mut case.owner, "STATUS box (MESSAGES)");
        assert!(told.contains("MESSAGES 2"), "{told}");
    });
}

/// RFC 4469: parts of messages of another user are taken as far as they may be read, and nothing
/// tells what else is there.
#[test]
fn messages_of_others_are_catenated() {
    each(|case| {
        case.grant("box", "lr");
        let owner = case.owner_name;
        let url = |name: &str, uid: u32, rest: &str| {
            format!("URL \"/Other%20Users/{owner}%40demo.test/{name}/;UID={uid}{rest}\"")
        };
        let (header, text) = (url("box", 1, "/;SECTION=HEADER"), url("box", 2, "/;SECTION=TEXT"));
        done(&mut case.user, &format!("APPEND INBOX CATENATE ({header} {text})"));
        done(&mut case.user, "SELECT INBOX");
        let told = done(&mut case.user, "FETCH 1 BODY[]");
        assert!(told.contains("Subject: box 1\r\n\r\nbody of box\r\n"), "{told}");
        let mut refused = |url: &str| {
            let told = answer(&mut case.user, &format!("APPEND INBOX CATENATE ({url})"));
            let (_, text) = told.split_once("\"] ").unwrap_or_else(|| panic!("{told}"));
            assert!(told.contains("t NO [BADURL "), "{told}");
            text.to_owned()
        };
        let texts = [
            refused(&url("box", 3, "")),
            refused(&url("secret", 1, "")),
            refused(&url("secret", 9, "")),
            refused(&url("nothing", 1, "")),
        ];
        assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
        done(&mut case.owner, &format!("DELETEACL box {}@demo.test", case.user_name));
        case.world.settle();
        refused(&header);
        let told = done(&mut case.user, "STATUS INBOX (MESSAGES)");
        assert!(told.contains("MESSAGES 1"), "{told}");
    });
}

#[test]
fn a_session_that_idles_hears_of_changes_and_of_lost_rights() {
    each(|case| {
        case.grant("box", "lr");
        let name = case.name("box");
        done(&mut case.user, &format!("EXAMINE {name}"));
        case.user.say("i IDLE\r\n");
        case.user.read_to("+ ");
        done(&mut case.owner, "APPEND box {3+}\r\nnew");
        case.user.read_to("* 3 RECENT");
        done(&mut case.owner, "SELECT box");
        done(&mut case.owner, "STORE 1 +FLAGS (\\Answered)");
        case.user.read_to("* 1 FETCH (FLAGS (\\Answered");
        let user = case.user_name;
        done(&mut case.owner, &format!("DELETEACL box {user}"));
        case.user.read_to("* BYE");
    });
}

#[test]
fn the_selected_mailbox_is_deleted() {
    each(|case| {
        case.grant("box/sub", "lr");
        let name = case.name("box/sub");
        done(&mut case.user, &format!("SELECT {name}"));
        done(&mut case.owner, "DELETE box/sub");
        case.world.settle();
        let told = answer(&mut case.user, "NOOP");
        assert!(told.contains("* BYE The selected mailbox was deleted"), "{told}");
    });
}

/// What does not exist for the user, whatever he tries, is refused in the words for a name that
/// nobody has.
#[test]
fn what_may_not_be_seen_does_not_exist() {
    each(|case| {
        case.grant("box", "lr");
        done(&mut case.user, "CREATE mine");
        done(&mut case.user, "APPEND mine {1+}\r\nx");
        done(&mut case.user, "SELECT mine");
        let own = "\"Other Users/ghost@demo.test/secret\"".to_owned();
        let hidden = case.name("secret");
        let missing = case.name("missing");
        for command in [
            "STATUS {} (MESSAGES)",
            "GETACL {}",
            "SETACL {} alice lr",
            "DELETEACL {} alice",
            "LISTRIGHTS {} alice",
            "MYRIGHTS {}",
            "DELETE {}",
            "RENAME {} stolen",
            "RENAME mine {}",
            "CREATE {}",
            "APPEND {} {1+}\r\nx",
            "COPY 1 {}",
            "MOVE 1 {}",
            "LIST \"\" {}",
            "LIST \"\" {} RETURN (STATUS (MESSAGES))",
            "SUBSCRIBE {}",
            "LSUB \"\" {}",
            "UNSUBSCRIBE {}",
        ] {
            let mut told = |name: &str| {
                let told = answer(&mut case.user, &command.replacen("{}", name, 1));
                told.replace(name, "NAME")
            };
            let (hidden, missing, nobody) = (told(&hidden), told(&missing), told(&own));
            assert_eq!(hidden, missing, "{command}");
            assert_eq!(missing, nobody, "{command}");
        }
        for command in ["SELECT {}", "EXAMINE {}"] {
            let mut told = |name: &str| {
                done(&mut case.user, "SELECT mine");
                answer(&mut case.user, &command.replacen("{}", name, 1))
            };
            let (hidden, missing, nobody) = (told(&hidden), told(&missing), told(&own));
            assert_eq!((&hidden, &missing), (&missing, &nobody), "{command}");
        }
    });
}

/// Names that try to leave the namespace, or to reach it otherwise.
#[test]
fn tricks_with_names_reach_nothing() {
    each(|case| {
        case.grant("box", "lr");
        let owner = case.owner_name;
        for name in [
            format!("Other Users/{owner}@demo.test"),
            format!("Other Users/{owner}@demo.test/"),
            format!("Other Users/{owner}@demo.test//secret"),
            format!("Other Users/{owner}@demo.test/box/../secret"),
            format!("other users/{owner}@demo.test/box"),
            format!("Other Users//{owner}@demo.test/box"),
            format!("/Other Users/{owner}@demo.test/box"),
            format!("Other Users/{owner}/secret"),
            format!("Other Users/{}@demo.test/INBOX", case.user_name),
            format!("~{owner}@demo.test/secret"),
            "Other Users/secret".to_owned(),
            "Other Users".to_owned(),
            "Shared".to_owned(),
            "Shared/".to_owned(),
            "Shared/INBOX".to_owned(),
            "&AE8-ther Users/x".to_owned(),
        ] {
            let told = answer(&mut case.user, &format!("SELECT \"{name}\""));
            assert!(told.starts_with("t NO [NONEXISTENT]"), "{name}: {told}");
            let told = answer(&mut case.user, &format!("STATUS \"{name}\" (MESSAGES)"));
            assert!(told.starts_with("t NO [NONEXISTENT]"), "{name}: {told}");
        }
        // The address in another spelling is the same user.
        let shouted = owner.to_uppercase();
        done(&mut case.user, &format!("SELECT \"Other Users/{shouted}@DEMO.test/box\""));
    });
}

/// What the rights allow is done in the owner's account, with inheritance.
#[test]
fn mailboxes_are_made_moved_and_deleted_in_others_accounts() {
    each(|case| {
        case.grant("box", "lrkxa");
        let new = case.name("box/new");
        done(&mut case.user, &format!("CREATE {new}"));
        let told = done(&mut case.user, &format!("MYRIGHTS {new}"));
        assert!(told.contains(" lrkxacd\r\n") || told.contains(" lrkxac\r\n"), "{told}");
        let told = done(&mut case.user, &format!("GETACL {new}"));
        assert!(told.contains(&format!("{}@demo.test lrkxac", case.user_name)), "{told}");
        assert!(done(&mut case.owner, "LIST \"\" box/*").contains("box/new"));
        let renamed = case.name("box/renamed");
        done(&mut case.user, &format!("RENAME {new} {renamed}"));
        let told = answer(&mut case.user, &format!("RENAME {renamed} mine"));
        assert!(told.starts_with("t NO [CANNOT]"), "{told}");
        let elsewhere = case.name("elsewhere");
        let told = answer(&mut case.user, &format!("CREATE {elsewhere}"));
        assert!(told.starts_with("t NO [NOPERM]"), "{told}");
        done(&mut case.user, &format!("SETACL {renamed} anyone l"));
        done(&mut case.user, &format!("DELETE {renamed}"));
        assert!(!done(&mut case.owner, "LIST \"\" box/*").contains("renamed"));
    });
}

#[test]
fn many_messages_are_read_from_another_shard() {
    each(|case| {
        case.grant("box", "lr");
        for number in 3..=200 {
            let text = format!("Subject: box {number}\r\n\r\n{}\r\n", "x".repeat(number * 13));
            done(&mut case.owner, &format!("APPEND box {{{}+}}\r\n{text}", text.len()));
        }
        let name = case.name("box");
        done(&mut case.user, &format!("EXAMINE {name}"));
        done(&mut case.owner, "EXAMINE box");
        for items in
            ["BODY[]", "(ENVELOPE BODY)", "BODY[HEADER.FIELDS (SUBJECT)]", "BODY[TEXT]<5.7>"]
        {
            for set in ["1:*", "200,5,17:40", "1", "7:9"] {
                let command = format!("FETCH {set} {items}");
                assert_eq!(
                    done(&mut case.user, &command),
                    done(&mut case.owner, &command),
                    "{command}"
                );
            }
        }
        let command =
            "SEARCH OR SUBJECT \"box 7\" TEXT xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
        assert_eq!(done(&mut case.user, command), done(&mut case.owner, command));
    });
}

/// Public mailboxes are made by administrators and seen by those whom they are shared with.
#[test]
fn public_mailboxes_are_the_administrators() {
    let kit = Kit::of(&USERS);
    for (admin_name, user_name) in [("alice", "bob"), ("bob", "alice"), ("carol", "dave")] {
        let mut options = world::options(true);
        options.imap.administrators = vec![format!("{admin_name}@demo.test")];
        let world = SimulatedWorld::with_options(&kit, serve_imap, 0, options, 64 << 20);
        let (mut admin, mut user) = (world.log_in(admin_name), world.log_in(user_name));
        let told = answer(&mut user, "CREATE Shared/News");
        assert!(told.starts_with("t NO [NOPERM]"), "{told}");
        done(&mut admin, "CREATE Shared/News/Local");
        let told = done(&mut admin, "LIST \"\" Shared*");
        let expected = [
            "(\\Noselect \\HasChildren) \"/\" Shared",
            "(\\HasChildren) \"/\" Shared/News",
            "(\\HasNoChildren) \"/\" Shared/News/Local",
        ];
        assert_eq!(lines(&told, "* LIST "), expected, "{told}");
        assert!(!done(&mut user, "LIST \"\" *").contains("Shared"));
        done(&mut admin, "SETACL Shared/News anyone lrp");
        let told = done(&mut admin, "GETACL Shared/News");
        assert_eq!(lines(&told, "* ACL "), ["Shared/News owner lrswipkxteacd anyone lrp"]);
        let told = done(&mut user, "LIST \"\" *");
        assert!(told.contains("* LIST (\\HasNoChildren) \"/\" Shared/News\r\n"), "{told}");
        assert!(!told.contains("Local") && !told.contains("Shared/INBOX"), "{told}");
        done(&mut user, "SELECT Shared/News");
        let told = answer(&mut user, "SETACL Shared/News anyone lrswipkxtea");
        assert!(told.starts_with("t NO [NOPERM]"), "{told}");
        let told = answer(&mut user, "DELETE Shared/News");
        assert!(told.starts_with("t NO [NOPERM]"), "{told}");
        done(&mut admin, "DELETE Shared/News/Local");
    }
}

#[test]
fn messages_are_appended_to_mailboxes_of_others() {
    each(|case| {
        case.grant("box", "lris");
        let name = case.name("box");
        done(&mut case.user, &format!("SELECT {name}"));
        let told =
            done(&mut case.user, &format!("APPEND {name} (\\Seen \\Flagged word) {{3+}}\r\nnew"));
        assert!(told.contains("* 3 EXISTS") && told.contains("[APPENDUID "), "{told}");
        done(&mut case.owner, "SELECT box");
        let told = done(&mut case.owner, "FETCH 3 (FLAGS BODY.PEEK[])");
        assert!(told.contains("FLAGS (\\Seen") && told.contains("{3}\r\nnew"), "{told}");
        assert!(!told.contains("\\Flagged") && !told.contains("word"), "{told}");
        // Several pieces.
        let long = format!("Subject: long\r\n\r\n{}", "0123456789abcdef".repeat(100_000));
        done(&mut case.user, &format!("APPEND {name} {{{}+}}\r\n{long}", long.len()));
        done(&mut case.owner, "NOOP");
        let told = done(&mut case.owner, "FETCH 4 BODY.PEEK[]");
        assert!(told.contains(&long), "{} octets", told.len());
        assert_eq!(done(&mut case.user, "FETCH 4 BODY.PEEK[]"), told);
        // A message that is refused leaves nothing behind, and the session goes on.
        let told = answer(&mut case.user, &format!("APPEND {name} {{3+}}\r\na\0b"));
        assert!(told.starts_with("t NO [CANNOT]"), "{told}");
        // The right goes while the message comes.
        case.user.say(format!("t APPEND {name} {{6}}\r\n"));
        case.user.read_to("+ ");
        case.user.say("abc");
        case.world.settle();
        case.grant("box", "lr");
        case.user.say("def\r\n");
        let told = case.user.read_to("t ");
        assert!(told.contains("t NO [NOPERM]"), "{told}");
        assert!(done(&mut case.owner, "STATUS box (MESSAGES)").contains("(MESSAGES 4)"));
    });
}

/// RFC 4315 3: who may put messages into a mailbox and not read it learns nothing of its UIDs.
#[test]
fn uids_are_told_to_readers_only() {
    each(|case| {
        let name = case.name("box");
        case.grant("box", "li");
        for (rights, told) in [("li", false), ("lri", true)] {
            case.grant("box", rights);
            done(&mut case.user, "SELECT INBOX");
            for _ in 0..3 {
                done(&mut case.user, "APPEND INBOX {3+}\r\nown");
            }
            let commands = [
                (format!("APPEND {name} {{3+}}\r\nnew"), "APPENDUID"),
                (format!("APPEND {name} {{3+}}\r\nnew {{3+}}\r\nnew"), "APPENDUID"),
                (format!("COPY 1:2 {name}"), "COPYUID"),
                (format!("UID COPY 1:* {name}"), "COPYUID"),
                (format!("REPLACE 1 {name} {{3+}}\r\nnew"), "APPENDUID"),
                (format!("MOVE 1 {name}"), "COPYUID"),
                (format!("UID MOVE 1:* {name}"), "COPYUID"),
            ];
            for (command, code) in commands {
                let answer = done(&mut case.user, &command);
                assert_eq!(answer.contains(code), told, "{command} with {rights}: {answer}");
                assert_eq!(answer.contains("UID "), told, "{command} with {rights}: {answer}");
            }
            let left = done(&mut case.user, "STATUS INBOX (MESSAGES)");
            assert!(left.contains("MESSAGES 0"), "{left}");
        }
    });
}

/// A command on the mailbox `{}`, and the rights on it that the command needs of a user who is not
/// its owner. Beside it there is `{other}`, with all rights.
type Row = (&'static str, &'static str);

const AUTHENTICATED: &[Row] = &[
    ("CREATE \"{}/new\"", "k"),
    ("CREATE \"{}/new/deep\"", "k"),
    ("DELETE \"{}\"", "x"),
    ("RENAME \"{}\" \"{other}/moved\"", "x"),
    ("RENAME \"{other}/sub\" \"{}/moved\"", "k"),
    ("SELECT \"{}\"", "r"),
    ("EXAMINE \"{}\"", "r"),
    ("STATUS \"{}\" (MESSAGES)", "r"),
    ("SETACL \"{}\" eve lr", "a"),
    ("SETACL \"{}\" eve +lr", "a"),
    ("DELETEACL \"{}\" eve", "a"),
    ("GETACL \"{}\"", "a"),
    ("LISTRIGHTS \"{}\" eve", "a"),
    ("APPEND \"{}\" {3+}\r\nx\r\n", "i"),
    ("SUBSCRIBE \"{}\"", ""),
    ("LIST \"\" \"{}\"", ""),
];

const SELECTED: &[Row] = &[
    ("NOOP", "r"),
    ("CHECK", "r"),
    ("CLOSE", ""),
    ("UNSELECT", ""),
    ("EXPUNGE", "re"),
    ("UID EXPUNGE 1", "re"),
    ("SEARCH ALL", "r"),
    ("SEARCH TEXT x", "r"),
    ("FETCH 1 FLAGS", "r"),
    ("FETCH 1 BODY[]", "r"),
    ("STORE 1 +FLAGS (\\Seen)", "rs"),
    ("STORE 1 +FLAGS (\\Deleted)", "rt"),
    ("UID STORE 1 -FLAGS.SILENT (\\Deleted)", "rt"),
    ("STORE 1 +FLAGS (\\Flagged)", "rw"),
    ("STORE 1 +FLAGS (word)", "rw"),
    ("COPY 1 \"{other}\"", "r"),
    ("MOVE 1 \"{other}\"", "rte"),
    ("COPY 1 mine", "r"),
    ("MOVE 1 mine", "rte"),
];

const INTO: &[Row] = &[("COPY 1 \"{}\"", "i"), ("MOVE 1 \"{}\"", "i"), ("COPY 1 \"{}\"", "i")];

const RIGHTS: &str = "lrswipkxtea";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Done,
    /// The mailbox is seen, and the command is not allowed.
    Refused,
    /// In the words for a mailbox that does not exist.
    Missing,
    /// Nothing can be created there, whether there is something or not.
    NothingThere,
    Ended,
}

fn verdict(told: &str) -> Verdict {
    let last = told.lines().next_back().unwrap_or_default();
    match last {
        _ if last.starts_with("t OK ") => Verdict::Done,
        _ if last.starts_with("t NO [NOPERM] Not allowed on this mailbox") => Verdict::Refused,
        "t NO [NOPERM] Mailboxes cannot be created there" => Verdict::NothingThere,
        "t NO [NONEXISTENT] No such mailbox" | "t NO [TRYCREATE] No such mailbox" => {
            Verdict::Missing
        }
        _ if last.starts_with("* BYE") && last.contains("no longer be read") => Verdict::Ended,
        _ => panic!("{told}"),
    }
}

/// Runs a command with these rights on the mailbox.
fn run(
    kit: &Kit,
    pair: (&'static str, &'static str),
    row: &Row,
    select: &str,
    rights: &str,
) -> Verdict {
    let mut case = Case::new(kit, pair);
    done(&mut case.user, "CREATE mine");
    done(&mut case.user, "APPEND mine {3+}\r\nx\r\n");
    done(&mut case.owner, "CREATE other");
    case.grant("other", RIGHTS);
    done(&mut case.owner, "CREATE other/sub");
    done(&mut case.owner, "APPEND other {3+}\r\nx\r\n");
    case.grant("box", RIGHTS);
    let prefix = format!("Other Users/{}@demo.test", case.owner_name);
    let named = |text: &str| {
        let text = text.replace("{other}", &format!("{prefix}/other"));
        text.replace("{}", &format!("{prefix}/box"))
    };
    if !select.is_empty() {
        done(&mut case.user, &named(&format!("SELECT \"{select}\"")));
    }
    case.grant("box", &format!("\"{rights}\""));
    case.world.settle();
    verdict(&answer(&mut case.user, &named(row.0)))
}

/// Every command against every right, both ways: with all rights but one, and with those alone that
/// it needs.
fn check_table(rows: &[Row], select: &str) {
    let kit = Kit::of(&USERS);
    for pair in [("alice", "bob"), ("alice", "carol")] {
        for row in rows {
            let (command, needs) = row;
            let refused = |missing: char, has_l: bool| match (missing, select) {
                ('r', "{}") => Verdict::Ended,
                ('k', _) => Verdict::NothingThere,
                _ if select == "{}" || has_l => Verdict::Refused,
                _ => Verdict::Missing,
            };
            assert_eq!(run(&kit, pair, row, select, needs), Verdict::Done, "{command} by {needs}");
            for right in RIGHTS.chars() {
                let others: String = RIGHTS.chars().filter(|it| *it != right).collect();
                let expected = match needs.contains(right) {
                    true => refused(right, true),
                    false => Verdict::Done,
                };
                let found = run(&kit, pair, row, select, &others);
                assert_eq!(found, expected, "{command} by {others} {pair:?}");
                // Who may not look it up is told that there is nothing.
                if needs.contains(right) {
                    let hidden: String = others.chars().filter(|it| *it != 'l').collect();
                    let found = run(&kit, pair, row, select, &hidden);
                    let expected = match select {
                        "{}" if right != 'r' && found == Verdict::Missing => Verdict::Missing,
                        _ => refused(right, false),
                    };
                    assert_eq!(found, expected, "{command} by {hidden} {pair:?}");
                }
            }
        }
    }
}

#[test]
fn commands_of_the_authenticated_state_need_their_rights() {
    check_table(AUTHENTICATED, "");
}

#[test]
fn commands_of_the_selected_state_need_their_rights() {
    check_table(SELECTED, "{}");
}

#[test]
fn commands_that_put_messages_in_need_their_rights() {
    check_table(INTO, "{other}");
    check_table(INTO, "mine");
}

/// COPY and MOVE between accounts of one partition and of two, both ways.
#[test]
fn messages_are_copied_and_moved_between_accounts() {
    each(|case| {
        case.grant("box", "lrswite");
        let name = case.name("box");
        let owner = case.owner_name;
        done(&mut case.owner, "SELECT box");
        done(&mut case.owner, "STORE 1 FLAGS (\\Seen \\Flagged word)");
        done(&mut case.user, "CREATE mine");
        done(&mut case.user, &format!("SELECT {name}"));
        let told = done(&mut case.user, "COPY 1:2 mine");
        assert!(told.contains("[COPYUID ") && told.contains(" 1:2 1:2]"), "{told}");
        let told = done(&mut case.user, "MOVE 1 mine");
        assert!(told.contains("[COPYUID ") && told.contains("* 1 EXPUNGE"), "{told}");
        assert!(done(&mut case.owner, "NOOP").contains("* 1 EXPUNGE"));
        done(&mut case.user, "SELECT mine");
        let told = done(&mut case.user, "FETCH 1:3 (FLAGS BODY.PEEK[])");
        assert_eq!(told.matches("Subject: box 1").count(), 2, "{told}");
        assert_eq!(told.matches("Subject: box 2").count(), 1, "{told}");
        assert_eq!(told.matches("word").count(), 2, "{told}");
        // The other way, without the right to set flags other than \Seen.
        case.grant("box", "lrsi");
        let told = done(&mut case.user, &format!("MOVE 1:3 {name}"));
        assert_eq!(told.matches(" EXPUNGE\r\n").count(), 3, "{told}");
        let told = done(&mut case.owner, "NOOP");
        assert!(told.contains("* 4 EXISTS"), "{owner}: {told}");
        let told = done(&mut case.owner, "FETCH 2:4 FLAGS");
        assert!(!told.contains("\\Flagged") && told.contains("\\Seen"), "{told}");
        assert!(done(&mut case.user, "STATUS mine (MESSAGES)").contains("(MESSAGES 0)"));
        // Missing targets may be created first; those that are not seen are missing.
        done(&mut case.user, "APPEND mine {3+}\r\nabc");
        done(&mut case.user, "NOOP");
        let secret = case.name("secret");
        let told = answer(&mut case.user, &format!("COPY 1 {secret}"));
        assert!(told.contains("t NO [NONEXISTENT]"), "{told}");
    });
}

/// Who cannot create a missing target is not told to (RFC 3501 6.3.11), whether it is missing or
/// only not seen.
#[test]
fn only_who_can_create_a_target_is_told_to() {
    each(|case| {
        done(&mut case.owner, "CREATE box/hidden");
        done(&mut case.owner, "CREATE secret/hidden");
        case.grant("box", "lrk");
        done(&mut case.user, "APPEND INBOX {3+}\r\nabc");
        done(&mut case.user, "SELECT INBOX");
        for (name, code) in [
            ("mine".to_owned(), "TRYCREATE"),
            (case.name("box/hidden"), "TRYCREATE"),
            (case.name("box/none"), "TRYCREATE"),
            (case.name("secret"), "NONEXISTENT"),
            (case.name("secret/hidden"), "NONEXISTENT"),
            (case.name("none"), "NONEXISTENT"),
            ("\"Other Users/ghost@demo.test/x\"".to_owned(), "NONEXISTENT"),
            ("Shared/none".to_owned(), "NONEXISTENT"),
        ] {
            for command in [format!("APPEND {name} {{3+}}\r\nabc"), format!("COPY 1 {name}")] {
                let told = answer(&mut case.user, &command);
                assert!(told.contains(&format!("t NO [{code}] No such mailbox")), "{told}");
            }
        }
    });
}

#[test]
fn an_owner_that_does_not_answer_holds_up_only_who_asks() {
    let kit = Kit::of(&USERS);
    let mut case = Case::new(&kit, ("alice", "bob"));
    case.grant("box", "lrs");
    let name = case.name("box");
    done(&mut case.user, &format!("SELECT {name}"));
    case.world.slow_disk();
    case.user.say("s STORE 1 +FLAGS (\\Seen)\r\n");
    case.world.settle();
    let mut other = case.world.log_in("bob");
    done(&mut other, "STATUS INBOX (MESSAGES)");
    let told = done(&mut other, &format!("STATUS {name} (MESSAGES)"));
    assert!(told.contains("(MESSAGES 2)"), "{told}");
    done(&mut other, &format!("EXAMINE {name}"));
    done(&mut other, "FETCH 1:* FLAGS");
    let told = case.user.read_to("s ");
    assert!(told.contains("s NO [UNAVAILABLE]"), "{told}");
    // The disk has answered meanwhile, or will.
    case.world.sleep(100);
    let told = done(&mut other, "NOOP");
    assert!(told.contains("\\Seen"), "{told}");
    done(&mut case.user, "NOOP");
}

#[test]
fn an_owner_that_has_gone_is_told() {
    let kit = Kit::of(&USERS);
    let mut case = Case::new(&kit, ("alice", "bob"));
    case.grant("box", "lrs");
    let name = case.name("box");
    done(&mut case.user, &format!("SELECT {name}"));
    case.world.shards[0].mesh.close();
    for command in
        ["STORE 1 +FLAGS (\\Seen)", "FETCH 1 BODY[]", &format!("STATUS {name} (MESSAGES)")]
    {
        let told = answer(&mut case.user, command);
        assert!(told.contains("t NO [UNAVAILABLE]"), "{command}: {told}");
    }
    // What is known here still is, and one's own mailboxes are there.
    done(&mut case.user, "FETCH 1:2 FLAGS");
    done(&mut case.user, "SELECT INBOX");
}

/// The accounts of a users file whose lines are these numbers and names.
fn directory_of(users: &[(u64, &str)]) -> DirectorySnapshot {
    // A password of each: accounts_of has it.
    let hash = accounts_of(&["x"]).users()[0].hash.to_string();
    let mut text = String::from("# next-id 100\n");
    for (number, name) in users {
        text.push_str(&format!("{number} {name}@demo.test {hash}\n"));
    }
    let file = UsersFile::parse(&text, Path::new("users")).expect("parsed");
    let options =
        DirectoryOptions { domains: vec!["demo.test".to_owned()], ..DirectoryOptions::default() };
    DirectorySnapshot::new(&file, &options).expect("snapshot")
}

/// What was given to a removed account is gone, and nobody who gets its name has it; a renamed one
/// keeps what it has and what it shares.
#[test]
fn rights_go_with_accounts_and_not_with_names() {
    const BEFORE: &[(u64, &str)] = &[(1, "alice"), (2, "bob"), (3, "carol"), (4, "dave")];
    for (owner_name, user_name) in [("alice", "bob"), ("alice", "carol"), ("bob", "dave")] {
        let shared = SharedDirectory::new(directory_of(BEFORE), PeerLimits::default());
        let replaced = shared.clone();
        let kit = Kit::with_directory(|_| Directory::new(shared, Rc::new(AtOnce)));
        let mut case = Case::new(&kit, (owner_name, user_name));
        case.world.shards.iter().for_each(access::follow_accounts);
        case.grant("box", "lrs");
        // Somebody who has no account yet; then he has one.
        done(&mut case.owner, "SETACL box eve@demo.test lr");
        let list = |case: &mut Case<'_>| {
            let told = done(&mut case.owner, "GETACL box");
            lines(&told, "* ACL box ").join("")
        };
        let with = |world: &SimulatedWorld<'_>, change: &dyn Fn(&mut Vec<(u64, String)>)| {
            let mut users: Vec<(u64, String)> =
                BEFORE.iter().map(|(number, name)| (*number, (*name).to_owned())).collect();
            change(&mut users);
            let users: Vec<(u64, &str)> = users.iter().map(|(it, name)| (*it, &**name)).collect();
            replaced.replace(directory_of(&users));
            world.sleep(5);
        };
        with(&case.world, &|users| users.push((9, "eve".to_owned())));
        // The user gets another name.
        with(&case.world, &|users| {
            users.push((9, "eve".to_owned()));
            let renamed = users.iter_mut().find(|(_, name)| name == user_name);
            renamed.expect("there").1 = "zoe".to_owned();
        });
        let mut zoe = case.world.log_in("zoe");
        done(&mut zoe, &format!("SELECT {}", case.name("box")));
        // So does the owner: his mailboxes are below the new one.
        with(&case.world, &|users| {
            let renamed = users.iter_mut().find(|(_, name)| name == owner_name);
            renamed.expect("there").1 = "olga".to_owned();
        });
        let mut user = case.world.log_in(user_name);
        let told = done(&mut user, "LIST \"\" *");
        assert!(told.contains("Other Users/olga@demo.test/box\""), "{told}");
        assert!(!told.contains(&format!("Other Users/{owner_name}")), "{told}");
        // Eve was removed with the last change: the entry, at first without a number, is gone.
        let told = list(&mut case);
        assert!(told.contains(&format!("{user_name}@demo.test lrs")), "{told}");
        assert!(!told.contains("eve"), "{told}");
        // The user is removed, and somebody else gets the name.
        with(&case.world, &|users| users.retain(|(_, name)| name != user_name));
        let told = list(&mut case);
        assert!(!told.contains(user_name), "{told}");
        with(&case.world, &|users| {
            users.retain(|(_, name)| name != user_name);
            // On the same shard as before: only the number differs.
            users.extend([(11, user_name.to_owned()), (12, "eve".to_owned())]);
        });
        for name in [user_name, "eve"] {
            let mut other = case.world.log_in(name);
            let told = done(&mut other, "LIST \"\" *");
            assert!(!told.contains("Other Users"), "{name}: {told}");
        }
    }
}

/// A mailbox that is not seen, and a level that is no mailbox, with the same seen below them.
#[test]
fn a_hidden_mailbox_above_a_seen_one_is_like_none() {
    each(|case| {
        for name in ["hidden/seen", "gone/seen"] {
            done(&mut case.owner, &format!("CREATE {name}"));
            case.grant(name, "lrx");
        }
        done(&mut case.owner, "DELETE gone");
        case.grant("box", "lrk");
        for command in [
            "DELETE {}",
            "RENAME {} \"Other Users/{owner}@demo.test/box/moved\"",
            "RENAME {} mine",
            "SELECT {}",
            "STATUS {} (MESSAGES)",
            "LIST \"\" {}",
            "CREATE {}",
            "MYRIGHTS {}",
        ] {
            let mut told = |name: &str| {
                let (name, owner) = (case.name(name), case.owner_name);
                let command = command.replace("{owner}", owner).replacen("{}", &name, 1);
                answer(&mut case.user, &command).replace(&name, "NAME")
            };
            assert_eq!(told("hidden"), told("gone"), "{command}");
        }
        let told = done(&mut case.owner, "LIST \"\" *");
        assert!(told.contains(" hidden/seen\r\n") && told.contains(" gone/seen\r\n"), "{told}");
    });
}

/// Whether somebody shares something with others, but not with the user, is not told.
#[test]
fn an_owner_with_nothing_for_the_user_is_like_none() {
    each(|case| {
        done(&mut case.owner, "SETACL box anyone lrswipkxtea");
        let user = case.user_name;
        done(&mut case.owner, &format!("SETACL box -{user}@demo.test lrswipkxtea"));
        for command in ["DELETE {}", "RENAME {} mine", "SELECT {}", "LIST \"\" {}", "CREATE {}"] {
            for below in ["", "/", "/box", "/box/sub"] {
                let mut told = |owner: &str| {
                    let name = format!("\"Other Users/{owner}@demo.test{below}\"");
                    let told = answer(&mut case.user, &command.replacen("{}", &name, 1));
                    told.replace(&name, "NAME")
                };
                let owner = case.owner_name;
                assert_eq!(told(owner), told("ghost"), "{command} {below}");
            }
        }
        let told = answer(&mut case.user, "DELETE \"Other Users\"");
        assert!(told.starts_with("t NO [NONEXISTENT]"), "{told}");
    });
}

/// Special uses are the owner's (RFC 6154 1): his clients put mail there.
#[test]
fn others_give_and_see_no_special_uses() {
    each(|case| {
        case.grant("box", "lrswipkxtea");
        let sent = case.name("box/sent");
        let told = answer(&mut case.user, &format!("CREATE {sent} (USE (\\Sent))"));
        assert!(told.starts_with("t NO [USEATTR]"), "{told}");
        assert!(!done(&mut case.owner, "LIST \"\" *").contains("box/sent"));
        done(&mut case.owner, "CREATE box/archive (USE (\\Archive))");
        for command in
            ["LIST \"\" \"Other Users/*\" RETURN (SPECIAL-USE)", "LIST \"\" \"Other Users/*\""]
        {
            let told = done(&mut case.user, command);
            assert!(told.contains("box/archive") && !told.contains("\\Archive"), "{told}");
        }
        let told = done(&mut case.user, "LIST (SPECIAL-USE) \"\" \"Other Users/*\"");
        assert!(!told.contains("Other Users"), "{told}");
    });
}

/// RENAME of INBOX moves messages (RFC 3501 6.3.5) to a mailbox with another list.
#[test]
fn who_may_not_read_an_inbox_does_not_move_its_messages() {
    each(|case| {
        done(&mut case.owner, "APPEND INBOX {6+}\r\nsecret");
        case.grant("box", "lrk");
        let (inbox, new) = (case.name("INBOX"), case.name("box/new"));
        for rights in ["lx", "lrx", "lrxt", "lrxe", "lxte"] {
            case.grant("INBOX", rights);
            let told = answer(&mut case.user, &format!("RENAME {inbox} {new}"));
            assert!(told.starts_with("t NO [NOPERM]"), "{rights}: {told}");
            assert!(done(&mut case.owner, "STATUS INBOX (MESSAGES)").contains("(MESSAGES 1)"));
        }
        case.grant("INBOX", "lrxte");
        done(&mut case.user, &format!("RENAME {inbox} {new}"));
        assert!(done(&mut case.owner, "STATUS box/new (MESSAGES)").contains("(MESSAGES 1)"));
    });
}

/// The account of public mailboxes has an INBOX, which is nobody's.
#[test]
fn the_inbox_of_public_mailboxes_does_not_exist() {
    let kit = Kit::of(&USERS);
    for admin_name in ["alice", "bob"] {
        let mut options = world::options(true);
        options.imap.administrators = vec![format!("{admin_name}@demo.test")];
        let world = SimulatedWorld::with_options(&kit, serve_imap, 0, options, 64 << 20);
        let mut admin = world.log_in(admin_name);
        done(&mut admin, "CREATE Shared/News");
        for name in ["Shared/INBOX", "Shared/inbox", "Shared/INBOX/"] {
            for command in [
                "SELECT {}",
                "STATUS {} (MESSAGES)",
                "DELETE {}",
                "RENAME {} Shared/x",
                "GETACL {}",
                "SETACL {} anyone lr",
                "APPEND {} {1+}\r\nx",
            ] {
                let told = answer(&mut admin, &command.replacen("{}", name, 1));
                assert!(told.starts_with("t NO ["), "{command} {name}: {told}");
                assert!(told.contains("No such mailbox"), "{command} {name}: {told}");
            }
            for command in ["CREATE {}", "RENAME Shared/News {}"] {
                let told = answer(&mut admin, &command.replacen("{}", name, 1));
                assert!(told.starts_with("t NO ["), "{command} {name}: {told}");
            }
            let told = done(&mut admin, &format!("LIST \"\" {name} RETURN (MYRIGHTS)"));
            assert!(!told.contains("LIST ("), "{told}");
        }
    }
}

/// What a name means may be changing when somebody else uses it: his rights are those on the
/// mailbox that he would change.
#[test]
fn names_that_are_changing_give_nobody_rights() {
    for pair in PAIRS {
        for command in [
            "DELETE \"{}/box\"",
            "RENAME \"{}/box\" \"{}/other/mine\"",
            "CREATE \"{}/box/mine\"",
            "RENAME \"{}/other/sub\" \"{}/box/mine\"",
        ] {
            let kit = Kit::of(&USERS);
            let mut case = Case::new(&kit, pair);
            done(&mut case.owner, "CREATE other");
            case.grant("box", "lrkx");
            case.grant("other", "lrkx");
            done(&mut case.owner, "CREATE other/sub");
            let mut second = case.world.log_in(case.owner_name);
            done(&mut case.user, "NOOP");
            case.world.slow_disk();
            case.owner.say("r RENAME box kept\r\n");
            case.world.settle();
            second.say("c CREATE box\r\n");
            case.world.settle();
            let owner = format!("Other Users/{}@demo.test", case.owner_name);
            case.user.say(format!("u {}\r\n", command.replace("{}", &owner)));
            let told = case.user.read_to("u ");
            assert!(!told.contains("u OK"), "{command} {pair:?}: {told}");
            case.world.sleep(200);
            case.owner.read_to("r OK");
            second.read_to("c OK");
            let told = done(&mut second, "LIST \"\" *");
            assert!(told.contains(" box\r\n") && !told.contains("mine"), "{command}: {told}");
        }
    }
}

/// Sessions of one shard that select a mailbox of another one at the same time: each sees its own
/// changes at once.
#[test]
fn sessions_that_select_at_once_see_their_own_changes() {
    each(|case| {
        case.grant("box", "lrswite");
        let mut second = case.world.log_in(case.user_name);
        let select = format!("s SELECT {}\r\n", case.name("box"));
        case.user.say(&select);
        second.say(&select);
        case.user.read_to("s OK");
        second.read_to("s OK");
        for (number, client) in [(1, &mut case.user), (2, &mut second)] {
            let told = done(client, &format!("STORE {number} +FLAGS (\\Flagged)"));
            assert!(told.contains(&format!("* {number} FETCH (FLAGS (\\Flagged")), "{told}");
            let told = done(client, &format!("FETCH {number} FLAGS"));
            assert!(told.contains("\\Flagged"), "{told}");
        }
    });
}

/// CLOSE of who has just lost the right to expunge closes the mailbox (RFC 4314 4).
#[test]
fn a_right_that_goes_does_not_keep_a_mailbox_open() {
    each(|case| {
        case.grant("box", "lrte");
        let name = case.name("box");
        done(&mut case.user, &format!("SELECT {name}"));
        done(&mut case.user, "STORE 1 +FLAGS (\\Deleted)");
        let user = case.user_name;
        // Both are under way at the same time.
        case.owner.say(format!("a SETACL box {user}@demo.test lrt\r\n"));
        case.user.say("c CLOSE\r\n");
        case.owner.read_to("a OK");
        case.user.read_to("c OK");
        let told = answer(&mut case.user, "CHECK");
        assert!(told.contains("t BAD"), "{told}");
    });
}

/// The removal of an account ends what its mailboxes, or other mailboxes for it, are to sessions
/// that have them selected. Somebody else who gets the name gives the old session nothing.
#[test]
fn removed_accounts_share_nothing_and_have_nothing() {
    const BEFORE: &[(u64, &str)] = &[(1, "alice"), (2, "bob"), (3, "carol"), (4, "dave")];
    for pair in PAIRS {
        for gone in [pair.0, pair.1] {
            for again in [false, true] {
                let shared = SharedDirectory::new(directory_of(BEFORE), PeerLimits::default());
                let replaced = shared.clone();
                let kit = Kit::with_directory(|_| Directory::new(shared, Rc::new(AtOnce)));
                let mut case = Case::new(&kit, pair);
                done(&mut case.owner, "SETACL box authuser lr");
                let name = case.name("box");
                done(&mut case.user, &format!("SELECT {name}"));
                let mut users = BEFORE.to_vec();
                users.retain(|(_, name)| *name != gone);
                if again {
                    users.push((11, gone));
                }
                replaced.replace(directory_of(&users));
                let told = answer(&mut case.user, "FETCH 1 FLAGS");
                assert!(told.contains("* BYE"), "{pair:?} without {gone}: {told}");
            }
        }
    }
}

/// Groups are those of the account, also after its name was given to another one.
#[test]
fn a_name_used_again_gives_no_groups() {
    let users = |numbered: &[(u64, &str)], groups: &str| {
        let folder = tempfile::tempdir().expect("folder");
        let [users, aliases, groups_file] =
            ["users", "aliases", "groups"].map(|name| folder.path().join(name));
        let hash = accounts_of(&["x"]).users()[0].hash.to_string();
        let lines = numbered.iter().map(|(id, name)| format!("{id} {name}@demo.test {hash}\n"));
        let lines: String = lines.collect();
        std::fs::write(&users, format!("# next-id 100\n{lines}")).expect("written");
        std::fs::write(&groups_file, groups).expect("written");
        let groups = groups_file;
        let files =
            DirectoryFiles { users, aliases, aliases_named: false, groups, groups_named: true };
        let domains = vec!["demo.test".to_owned()];
        let options = DirectoryOptions { domains, ..DirectoryOptions::default() };
        DirectorySnapshot::load(&files, &options).expect("loads").0
    };
    for pair in PAIRS {
        let before = [(1, "alice"), (2, "bob"), (3, "carol"), (4, "dave")];
        let shared =
            SharedDirectory::new(users(&before, "staff: alice@demo.test\n"), PeerLimits::default());
        let kit = Kit::with_directory(|_| Directory::new(shared.clone(), Rc::new(AtOnce)));
        let mut case = Case::new(&kit, pair);
        done(&mut case.owner, "SETACL box $staff lr");
        let name = case.name("box");
        // The user gets another name, and somebody new his old one, in the group.
        let user = pair.1;
        let renamed = before.map(|(id, name)| (id, if name == user { "zoe" } else { name }));
        let after: Vec<(u64, &str)> = renamed.into_iter().chain([(11, user)]).collect();
        shared.replace(users(&after, &format!("staff: {user}@demo.test\n")));
        let told = answer(&mut case.user, &format!("SELECT {name}"));
        assert!(told.contains("t NO [NONEXISTENT]"), "{pair:?}: {told}");
        shared.replace(users(&after, "staff: zoe@demo.test\n"));
        done(&mut case.user, &format!("SELECT {name}"));
    }
}

/// A subscription has one spelling, whether there is such a user or not.
#[test]
fn a_subscription_has_one_spelling() {
    each(|case| {
        case.grant("INBOX", "lr");
        for owner in [case.owner_name, "ghost"] {
            let shouted = format!("\"Other Users/{}@DEMO.test/inbox\"", owner.to_uppercase());
            let name = format!("\"Other Users/{owner}@demo.test/INBOX\"");
            done(&mut case.user, &format!("SUBSCRIBE {shouted}"));
            let told = done(&mut case.user, "LSUB \"\" \"Other Users/*\"");
            assert_eq!(lines(&told, "* LSUB "), [format!("() \"/\" {name}")]);
            if owner != "ghost" {
                let told = done(&mut case.user, "LIST (SUBSCRIBED) \"\" \"Other Users/*\"");
                let expected = format!("(\\HasNoChildren \\Subscribed) \"/\" {name}");
                assert_eq!(lines(&told, "* LIST "), [expected], "{told}");
            }
            done(&mut case.user, &format!("UNSUBSCRIBE {shouted}"));
            assert!(!done(&mut case.user, "LSUB \"\" *").contains("Other Users"));
        }
    });
}
