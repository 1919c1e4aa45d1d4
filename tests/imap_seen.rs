//! `\Seen` that is each user's own (RFC 4314): in public mailboxes, and in those whose owner says
//! so; with the mailbox on the sessions' shard and on another one.

mod transcript;
mod world;

use ringmail::{
    model::{AccountId, Flags, MailboxId, SeenSet, Uid},
    store::{PropertyKind, SeenIn},
};
use world::{Client, Kit, SimulatedWorld, serve_imap};

/// Their numbers begin at 1. Some are on each shard.
const USERS: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];

fn number(name: &str) -> AccountId {
    let index = USERS.iter().position(|user| *user == name).expect("a user");
    AccountId(index as u64 + 1)
}

fn answer(client: &mut Client, command: &str) -> String {
    client.answer(command)
}

fn done(client: &mut Client, command: &str) -> String {
    client.done(command)
}

/// Whose mailbox it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    /// Alice: then it has the switch on.
    Alice,
    Public,
}

/// A mailbox with three messages, of which the shared flag of the first is `\Seen`, and two users
/// who may do everything with it.
struct Case<'k> {
    world: SimulatedWorld<'k>,
    owner: Owner,
    user_name: &'static str,
    user: Client,
    other: Client,
    /// As the users name it.
    name: &'static str,
}

impl<'k> Case<'k> {
    fn new(kit: &'k Kit, owner: Owner, names: [&'static str; 2]) -> Case<'k> {
        let mut options = world::options(true);
        options.imap.administrators = USERS.iter().map(|it| format!("{it}@demo.test")).collect();
        let world = SimulatedWorld::with_options(kit, serve_imap, 0, options, 64 << 20);
        let name = match owner {
            Owner::Alice => "\"Other Users/alice@demo.test/box\"",
            Owner::Public => "Shared/box",
        };
        let [user, other] = names.map(|name| world.log_in(name));
        let case = Case { world, owner, user_name: names[0], user, other, name };
        // One who may create it.
        let (user, made) = match owner {
            Owner::Alice => ("alice", "box"),
            Owner::Public => ("bob", name),
        };
        let mut maker = case.world.log_in(user);
        done(&mut maker, &format!("CREATE {made}"));
        done(&mut maker, &format!("SETACL {made} authuser lrswitekx"));
        if owner == Owner::Alice {
            case.switch("box", true);
        }
        for number in 1..=3 {
            case.deliver("box", number == 1);
        }
        case
    }

    fn account(&self) -> AccountId {
        match self.owner {
            Owner::Alice => number("alice"),
            Owner::Public => AccountId::PUBLIC,
        }
    }

    fn switch(&self, name: &str, is_personal: bool) {
        self.world.set_seen_is_personal(self.account(), name, is_personal);
    }

    fn deliver(&self, name: &str, seen: bool) {
        let account = self.account();
        let shards = self.world.shards.iter();
        let partition = shards.filter_map(|shard| shard.local_partition(account)).next();
        let partition = partition.expect("owned by a shard").clone();
        let now = self.world.shards[0].executor.now();
        self.world.with_account_of(account, async |account| {
            let mut writer = partition.stage();
            writer.write(b"Subject: x\r\n\r\nbody\r\n").await.expect("written");
            let body = writer.finish(Vec::new()).await.expect("staged");
            let mailbox = account.mailbox_by_name(name).expect("mailbox").id;
            let flags = if seen { Flags::SEEN } else { Flags::default() };
            account.append(mailbox, body, flags, &[], now).await.expect("appended");
        });
        self.world.settle();
    }

    /// What a user's account says that he has seen of the mailbox.
    fn set_of(&self, user: &str, name: &str) -> SeenSet {
        let owner = self.account();
        let info = self
            .world
            .with_account_of(owner, async |account| account.mailbox_by_name(name).expect("there"));
        let of = SeenIn { owner, mailbox: info.id, uid_validity: info.uid_validity };
        self.world.with_account_of(number(user), async |account| {
            account.with_seen(&of, |stored| of.decode(stored))
        })
    }
}

/// Plays a case with a mailbox on the user's shard and on another one.
fn each(play: impl Fn(&mut Case<'_>)) {
    let kit = Kit::of(&USERS);
    for owner in [Owner::Alice, Owner::Public] {
        for names in [["bob", "carol"], ["carol", "bob"], ["dave", "erin"], ["erin", "frank"]] {
            play(&mut Case::new(&kit, owner, names));
        }
    }
}

#[test]
fn the_cases_are_of_one_shard_and_of_two() {
    let shard = |account: AccountId| account.partition(2);
    for owner in [number("alice"), AccountId::PUBLIC] {
        let users = ["bob", "carol", "dave", "erin"].map(|name| shard(number(name)));
        assert!(users.contains(&shard(owner)), "{owner}");
        assert!(users.iter().any(|user| *user != shard(owner)), "{owner}");
    }
}

/// The sequence numbers that a search finds.
fn found(client: &mut Client, key: &str) -> String {
    let told = done(client, &format!("SEARCH {key}"));
    let line = told.lines().find_map(|line| line.strip_prefix("* SEARCH")).expect("SEARCH");
    line.trim().to_owned()
}

fn unseen(client: &mut Client, name: &str) -> String {
    let told = done(client, &format!("STATUS {name} (UNSEEN)"));
    let (_, rest) = told.split_once("(UNSEEN ").expect("UNSEEN");
    rest.split(')').next().expect("number").to_owned()
}

#[test]
fn seen_is_each_users_own_everywhere() {
    each(|case| {
        let Case { user, other, name, .. } = case;
        assert_eq!(unseen(user, name), "3");
        let told = done(user, &format!("SELECT {name}"));
        assert!(told.contains("* OK [UNSEEN 1]") && told.contains("[READ-WRITE]"), "{told}");
        done(other, &format!("SELECT {name}"));
        let told = done(user, "FETCH 1:3 FLAGS");
        assert!(!told.contains("\\Seen"), "{told}");
        assert_eq!((found(user, "SEEN"), found(user, "UNSEEN")), ("".into(), "1 2 3".into()));

        // By reading, and by STORE in each of its forms.
        let told = done(user, "FETCH 1:2 BODY[]");
        assert_eq!(told.matches("FLAGS (\\Seen").count(), 2, "{told}");
        assert_eq!((found(user, "SEEN"), found(user, "UNSEEN")), ("1 2".into(), "3".into()));
        assert_eq!(unseen(user, name), "1");
        let told = done(user, "STORE 2 -FLAGS (\\Seen)");
        assert!(told.contains("* 2 FETCH (FLAGS (") && !told.contains("\\Seen"), "{told}");
        let told = done(user, "STORE 3 +FLAGS (\\Seen \\Flagged)");
        assert!(told.contains("* 3 FETCH (FLAGS (\\Flagged \\Seen"), "{told}");
        let told = done(user, "STORE 1 FLAGS (\\Answered)");
        assert!(told.contains("* 1 FETCH (FLAGS (\\Answered"), "{told}");
        assert_eq!((found(user, "SEEN"), unseen(user, name)), ("3".into(), "2".into()));
        let told = done(user, "UID STORE 1 FLAGS.SILENT (\\Seen)");
        assert!(!told.contains("FETCH"), "{told}");
        assert_eq!(found(user, "SEEN"), "1 3");
        let told = done(user, "FETCH 1:3 (FLAGS UID)");
        let flags: Vec<bool> = told
            .lines()
            .filter(|line| line.starts_with("* "))
            .map(|line| line.contains("\\Seen"))
            .collect();
        assert_eq!(flags, [true, false, true], "{told}");

        // The other user learns of the flags that are shared, and of nothing else.
        case.world.settle();
        let told = done(other, "NOOP");
        assert!(
            told.starts_with("* 3 FETCH (FLAGS (\\Flagged") && told.lines().count() == 2,
            "{told}"
        );
        assert!(!told.contains("\\Seen"), "{told}");
        assert_eq!((found(other, "SEEN"), unseen(other, name)), ("".into(), "3".into()));
        done(other, "STORE 2 +FLAGS (\\Seen)");
        assert!(!done(other, "FETCH 1,3 FLAGS").contains("\\Seen"));
        let told = done(user, "NOOP");
        assert!(!told.contains("FETCH"), "{told}");
        assert_eq!(found(user, "SEEN"), "1 3");
        // SELECT tells each his own first unseen message.
        assert!(done(user, &format!("EXAMINE {name}")).contains("[UNSEEN 2]"));
        assert!(done(other, &format!("EXAMINE {name}")).contains("[UNSEEN 1]"));
        // Read-only, nothing is set.
        done(user, "FETCH 2 BODY[]");
        assert_eq!(found(user, "SEEN"), "1 3");
    });
}

/// In his own mailbox an owner has the shared flag.
#[test]
fn owners_have_the_flag() {
    let kit = Kit::of(&USERS);
    for names in [["bob", "carol"], ["carol", "dave"], ["dave", "erin"]] {
        let mut case = Case::new(&kit, Owner::Alice, names);
        let mut owner = case.world.log_in("alice");
        done(&mut owner, "SELECT box");
        assert_eq!(
            (found(&mut owner, "SEEN"), unseen(&mut owner, "box")),
            ("1".into(), "2".into())
        );
        done(&mut case.user, &format!("SELECT {}", case.name));
        done(&mut case.user, "STORE 2 +FLAGS (\\Seen)");
        case.world.settle();
        assert!(!done(&mut owner, "NOOP").contains("FETCH"));
        done(&mut owner, "STORE 3 +FLAGS (\\Seen)");
        done(&mut owner, "STORE 1 -FLAGS (\\Seen)");
        case.world.settle();
        let told = done(&mut case.user, "NOOP");
        assert!(!told.contains("FETCH"), "{told}");
        assert_eq!(
            (found(&mut owner, "SEEN"), found(&mut case.user, "SEEN")),
            ("3".into(), "2".into())
        );
        let told = done(&mut owner, "SELECT box (CONDSTORE)");
        assert!(told.contains("[HIGHESTMODSEQ "), "{told}");
    }
}

#[test]
fn other_sessions_of_the_same_user_hear_of_it() {
    each(|case| {
        let mut second = case.world.log_in(case.user_name);
        done(&mut second, &format!("SELECT {}", case.name));
        done(&mut case.other, &format!("SELECT {}", case.name));
        second.say("i IDLE\r\n");
        second.read_to("+ ");
        case.other.say("i IDLE\r\n");
        case.other.read_to("+ ");
        done(&mut case.user, &format!("SELECT {}", case.name));
        done(&mut case.user, "FETCH 2 BODY[]");
        second.read_to("* 2 FETCH (FLAGS (\\Seen");
        done(&mut case.user, "STORE 1:2 FLAGS.SILENT (\\Seen)");
        second.read_to("* 1 FETCH (FLAGS (\\Seen");
        second.say("DONE\r\n");
        second.read_to("i OK");
        case.world.settle();
        case.other.say("DONE\r\n");
        let told = case.other.read_to("i OK");
        assert!(!told.contains("FETCH"), "{told}");
        done(&mut second, "STORE 1 -FLAGS (\\Seen)");
        let told = done(&mut case.user, "NOOP");
        assert!(told.contains("* 1 FETCH (FLAGS (") && !told.contains("\\Seen"), "{told}");
    });
}

#[test]
fn the_right_to_change_it_is_needed() {
    each(|case| {
        let mut maker = case.world.log_in(if case.owner == Owner::Alice { "alice" } else { "bob" });
        let name = if case.owner == Owner::Alice { "box" } else { case.name };
        done(&mut maker, &format!("SETACL {name} -{}@demo.test s", case.user_name));
        if (case.owner, case.user_name) == (Owner::Public, "bob") {
            return;
        }
        done(&mut case.user, &format!("SELECT {}", case.name));
        let told = answer(&mut case.user, "STORE 1 +FLAGS (\\Seen)");
        assert!(told.starts_with("t NO [NOPERM]"), "{told}");
        done(&mut case.user, "FETCH 1 BODY[]");
        done(&mut case.user, "STORE 1 +FLAGS (\\Seen \\Flagged)");
        assert_eq!(
            (found(&mut case.user, "SEEN"), found(&mut case.user, "FLAGGED")),
            ("".into(), "1".into())
        );
        assert!(case.set_of(case.user_name, "box").is_empty());
    });
}

/// RFC 7162 3.1.2.2: the mod-sequences of the mailbox do not tell when a user's `\Seen` changed.
#[test]
fn there_are_no_mod_sequences() {
    each(|case| {
        let Case { user, name, .. } = case;
        done(user, "ENABLE CONDSTORE");
        let told = done(user, &format!("SELECT {name} (CONDSTORE)"));
        assert!(told.contains("* OK [NOMODSEQ]") && !told.contains("HIGHESTMODSEQ"), "{told}");
        let told = done(user, &format!("STATUS {name} (HIGHESTMODSEQ)"));
        assert!(told.contains("(HIGHESTMODSEQ 0)"), "{told}");
        for command in [
            "FETCH 1 (MODSEQ)",
            "FETCH 1 (FLAGS) (CHANGEDSINCE 1)",
            "SEARCH MODSEQ 1",
            "STORE 1 (UNCHANGEDSINCE 9) +FLAGS (\\Seen)",
        ] {
            let told = answer(user, command);
            assert!(told.starts_with("t BAD This mailbox has no mod-seq"), "{command}: {told}");
        }
        let told = done(user, "STORE 1 +FLAGS (\\Seen \\Flagged)");
        assert!(told.contains("FETCH") && !told.contains("MODSEQ"), "{told}");
        assert!(!done(user, "FETCH 2 BODY[]").contains("MODSEQ"));
        let told = done(user, "SELECT INBOX");
        assert!(told.contains("[HIGHESTMODSEQ "), "{told}");
    });
}

#[test]
fn copies_are_as_seen_as_the_originals() {
    each(|case| {
        let name = case.name;
        let twin = name.replace("box", "box/twin");
        let flat = name.replace("box", "box/flat");
        done(&mut case.user, &format!("CREATE {twin}"));
        done(&mut case.user, &format!("CREATE {flat}"));
        case.switch("box/flat", false);
        let Case { user, other, .. } = case;
        done(user, &format!("SELECT {name}"));
        done(user, "STORE 2:3 +FLAGS (\\Seen)");
        done(user, &format!("COPY 1:3 {twin}"));
        done(user, &format!("COPY 1:3 {flat}"));
        assert_eq!((unseen(user, &twin), unseen(other, &twin)), ("1".into(), "3".into()));
        // There `\Seen` is the user's, for all.
        assert_eq!((unseen(user, &flat), unseen(other, &flat)), ("1".into(), "1".into()));
        done(other, &format!("SELECT {flat}"));
        assert_eq!(found(other, "SEEN"), "2 3");
        done(user, &format!("MOVE 3 {twin}"));
        done(user, &format!("SELECT {twin}"));
        assert_eq!(found(user, "SEEN"), "2 3 4");
        assert_eq!(unseen(other, &twin), "4");
    });
}

/// To the user's own mailbox, where `\Seen` is a flag, and back.
#[test]
fn copies_to_other_accounts_are_as_seen_as_the_originals() {
    each(|case| {
        let Case { user, other, name, .. } = case;
        done(user, "CREATE mine");
        done(user, &format!("SELECT {name}"));
        done(user, "STORE 3 +FLAGS (\\Seen)");
        done(user, "COPY 1:3 mine");
        assert_eq!(unseen(user, "mine"), "2");
        done(user, "SELECT mine");
        assert_eq!(found(user, "SEEN"), "3");
        done(user, &format!("COPY 2:3 {name}"));
        assert_eq!((unseen(user, name), unseen(other, name)), ("3".into(), "5".into()));
        done(user, &format!("MOVE 1,3 {name}"));
        assert_eq!((unseen(user, name), unseen(other, name)), ("4".into(), "7".into()));
        // Nothing of it is the shared flag.
        case.switch("box", false);
        assert_eq!(unseen(&mut case.other, case.name), "6");
    });
}

#[test]
fn appended_messages_are_seen_by_who_says_so() {
    each(|case| {
        let Case { user, other, name, .. } = case;
        done(user, &format!("APPEND {name} (\\Seen \\Flagged) {{1+}}\r\nx"));
        assert_eq!((unseen(user, name), unseen(other, name)), ("3".into(), "4".into()));
        for (client, seen) in [(user, "4"), (other, "")] {
            done(client, &format!("EXAMINE {name}"));
            assert_eq!(
                (found(client, "SEEN"), found(client, "FLAGGED")),
                (seen.into(), "4".into())
            );
        }
        // Nor is it the shared flag.
        case.switch("box", false);
        assert_eq!(unseen(&mut case.user, case.name), "3");
    });
}

#[test]
fn what_is_expunged_is_forgotten() {
    each(|case| {
        done(&mut case.other, &format!("SELECT {}", case.name));
        done(&mut case.user, &format!("SELECT {}", case.name));
        done(&mut case.user, "STORE 1,3 +FLAGS (\\Seen)");
        done(&mut case.other, "STORE 1,2 +FLAGS (\\Deleted)");
        done(&mut case.other, "EXPUNGE");
        case.world.settle();
        // The client of the user has the numbers still, and the messages their flags.
        let told = done(&mut case.user, "FETCH 1:3 FLAGS");
        assert_eq!(told.matches("\\Seen").count(), 2, "{told}");
        done(&mut case.user, "NOOP");
        assert_eq!(found(&mut case.user, "SEEN"), "1");
        case.deliver("box", false);
        done(&mut case.user, "NOOP");
        assert_eq!(found(&mut case.user, "UNSEEN"), "2");
        done(&mut case.user, "FETCH 2 BODY[]");
        let set = case.set_of(case.user_name, "box");
        assert_eq!(set.ranges().collect::<Vec<_>>(), [(Uid(3), Uid(4))]);
        done(&mut case.user, "STORE 1:2 -FLAGS (\\Seen)");
        assert!(case.set_of(case.user_name, "box").is_empty());
        assert_eq!(unseen(&mut case.user, case.name), "2");
    });
}

/// The owner's word counts at once, also for sessions that have the mailbox selected.
#[test]
fn the_switch_is_turned_while_the_mailbox_is_selected() {
    each(|case| {
        done(&mut case.user, "ENABLE CONDSTORE");
        done(&mut case.user, &format!("SELECT {}", case.name));
        done(&mut case.user, "STORE 2 +FLAGS (\\Seen)");
        case.user.say("i IDLE\r\n");
        case.user.read_to("+ ");
        case.switch("box", false);
        let told = case.user.read_to("* 3 FETCH");
        assert!(told.contains("* OK [HIGHESTMODSEQ "), "{told}");
        assert!(told.contains("* 1 FETCH (UID 1 FLAGS (\\Seen"), "{told}");
        case.user.say("DONE\r\n");
        case.user.read_to("i OK");
        assert_eq!(found(&mut case.user, "SEEN"), "1");
        done(&mut case.user, "STORE 3 +FLAGS (\\Seen)");
        assert_eq!(unseen(&mut case.other, case.name), "1");
        case.switch("box", true);
        let told = done(&mut case.user, "NOOP");
        assert!(told.contains("* OK [NOMODSEQ]") && !told.contains("MODSEQ ("), "{told}");
        assert_eq!(found(&mut case.user, "SEEN"), "2", "as it was");
        assert_eq!(unseen(&mut case.other, case.name), "3");
    });
}

/// RFC 5267 4.3: what each user has seen decides on his results, also when that changes because the
/// owner says so.
#[test]
fn results_follow_the_users_own_seen() {
    each(|case| {
        let follow = "UID SEARCH RETURN (UPDATE ALL) UNSEEN";
        for client in [&mut case.user, &mut case.other] {
            done(client, &format!("SELECT {}", case.name));
            let told = done(client, follow);
            assert!(told.contains(" UID ALL 1:3\r\n"), "{told}");
        }
        let told = done(&mut case.user, "STORE 2 +FLAGS.SILENT (\\Seen)");
        assert!(told.contains(" UID REMOVEFROM (0 2)\r\n"), "{told}");
        assert!(!done(&mut case.other, "NOOP").contains("ESEARCH"));
        case.switch("box", false);
        let told = done(&mut case.user, "NOOP");
        assert!(told.contains(" UID REMOVEFROM (0 1)\r\n"), "{told}");
        assert!(told.contains(" UID ADDTO (0 2)\r\n"), "{told}");
        let told = done(&mut case.other, "NOOP");
        assert!(told.contains(" UID REMOVEFROM (0 1)\r\n"), "{told}");
        assert!(!told.contains("ADDTO"), "{told}");
        done(&mut case.user, "STORE 3 +FLAGS.SILENT (\\Seen)");
        case.world.settle();
        let told = done(&mut case.other, "NOOP");
        assert!(told.contains(" UID REMOVEFROM (0 3)\r\n"), "{told}");
        assert_eq!(found(&mut case.other, "UNSEEN"), "2");
    });
}

#[test]
fn a_mailbox_made_anew_inherits_nothing() {
    each(|case| {
        let name = case.name.replace("box", "box/sub");
        done(&mut case.user, &format!("CREATE {name}"));
        case.deliver("box/sub", false);
        done(&mut case.user, &format!("SELECT {name}"));
        done(&mut case.user, "STORE 1 +FLAGS (\\Seen)");
        assert_eq!(unseen(&mut case.user, &name), "0");
        done(&mut case.user, "UNSELECT");
        done(&mut case.user, &format!("DELETE {name}"));
        done(&mut case.user, &format!("CREATE {name}"));
        case.deliver("box/sub", false);
        assert_eq!(unseen(&mut case.user, &name), "1");
    });
}

/// New messages whose `\Seen` cannot be kept are there all the same, and the client is warned.
#[test]
fn a_seen_that_cannot_be_kept_is_told() {
    each(|case| {
        done(&mut case.user, "CREATE mine");
        done(&mut case.user, "APPEND mine (\\Seen) {1+}\r\nx");
        // Nothing more may be noted in the user's account.
        case.world.with_account_of(number(case.user_name), async |account| {
            let key = (PropertyKind::Metadata, MailboxId(0), vec![1]);
            let value = vec![0; (1 << 20) - 8];
            account.set_properties([(key, Some(value))]).await.expect("set");
        });
        let Case { user, name, .. } = case;
        let warned = "* NO [LIMIT] \\Seen was not set: Limit reached";
        let told = done(user, &format!("APPEND {name} (\\Seen) {{1+}}\r\nx"));
        assert!(told.contains(warned) && told.contains("[APPENDUID "), "{told}");
        done(user, "SELECT mine");
        let told = done(user, &format!("COPY 1 {name}"));
        assert!(told.contains(warned) && told.contains("[COPYUID "), "{told}");
        let told = done(user, &format!("MOVE 1 {name}"));
        assert!(told.contains(warned) && told.contains("* 1 EXPUNGE"), "{told}");
        assert_eq!(unseen(user, name), "6");
    });
}
