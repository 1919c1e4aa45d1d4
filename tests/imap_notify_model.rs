//! NOTIFY (RFC 5465) with the real store: whatever the owner, a user with some rights and the
//! sessions themselves do to names, rights, subscriptions and messages, a client that believes all
//! it is told, and knows nothing else, has the same picture as one that asks with LIST and STATUS.
//! Also, that it is told of no name that its user could not look up.
//!
//! A client that cannot be told everything begins anew, as it has to after an overflow. It is told
//! at once, or late: of several changes together. Alice's account is on shard 0, bob's on shard 1,
//! carol's beside alice's.

mod transcript;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use world::{Client, Kit, SimulatedWorld, serve_imap};

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const OWNER: &str = "alice";
/// With names, and without.
const EVENTS: [&str; 2] = [
    "(MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange)",
    "(MessageNew MessageExpunge FlagChange)",
];

const NAMES: [&str; 12] =
    ["a", "b", "c", "a/a", "a/b", "b/a", "a/a/a", "a/b/a", "b/a/a", "INBOX/a", "INBOX", "a b"];
const RIGHTS: [&str; 5] = ["\"\"", "l", "lr", "lrkxi", "rkx"];

/// Names of mailboxes that a client asks for, beside those that all clients watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scope {
    All,
    Subtree(&'static str),
    Mailbox(&'static str),
}

#[derive(Clone, Debug)]
enum Act {
    Create(&'static str),
    Delete(&'static str),
    Rename(&'static str, &'static str),
    Grant(&'static str, &'static str),
    Subscribe(&'static str),
    Unsubscribe(&'static str),
    Append(&'static str),
    Empty(&'static str),
}

/// Who acts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Owner,
    User,
    /// A client that watches, of the owner or of the user; if it is to be told late, another
    /// session of the same.
    Watching(usize),
}

fn name() -> impl Strategy<Value = &'static str> {
    (0..NAMES.len()).prop_map(|index| NAMES[index])
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => name().prop_map(Act::Create),
        2 => name().prop_map(Act::Delete),
        5 => (name(), name()).prop_map(|(from, to)| Act::Rename(from, to)),
        4 => (name(), 0..RIGHTS.len()).prop_map(|(name, index)| Act::Grant(name, RIGHTS[index])),
        1 => name().prop_map(Act::Subscribe),
        1 => name().prop_map(Act::Unsubscribe),
        2 => name().prop_map(Act::Append),
        1 => name().prop_map(Act::Empty),
    ]
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        4 => Just(Who::Owner),
        2 => Just(Who::User),
        1 => Just(Who::Watching(0)),
        1 => Just(Who::Watching(1)),
    ]
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        2 => Just(Scope::All),
        1 => name().prop_map(Scope::Subtree),
        1 => name().prop_map(Scope::Mailbox),
    ]
}

/// What happens between two looks at the clients.
#[derive(Clone, Debug)]
struct Batch {
    acts: Vec<(Who, Act)>,
    late: bool,
}

fn batch() -> impl Strategy<Value = Batch> {
    (vec((who(), act()), 1..6), any::<bool>()).prop_map(|(acts, late)| Batch { acts, late })
}

/// What a client knows.
#[derive(Clone, Default, Debug)]
struct Picture {
    names: BTreeSet<String>,
    subscribed: BTreeSet<String>,
    /// How many messages are in a mailbox; not of all.
    messages: BTreeMap<String, u32>,
}

fn unquoted(name: &str) -> String {
    name.trim_matches('"').to_owned()
}

/// The parts of a line that are separated by spaces outside of quotes and parentheses.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut depth, mut quoted) = (vec![String::new()], 0, false);
    for char in line.chars() {
        match char {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        match char {
            ' ' if depth == 0 && !quoted => words.push(String::new()),
            _ => words.last_mut().expect("a word").push(char),
        }
    }
    words
}

fn below(name: &str, from: &str) -> Option<String> {
    let rest = name.strip_prefix(from)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
}

impl Picture {
    fn rename(&mut self, from: &str, to: &str) {
        let new = |name: String| match below(&name, from) {
            Some(rest) => format!("{to}{rest}"),
            None => name,
        };
        self.names = std::mem::take(&mut self.names).into_iter().map(new).collect();
        let messages = std::mem::take(&mut self.messages).into_iter();
        self.messages = messages.map(|(name, count)| (new(name), count)).collect();
    }

    fn remove(&mut self, name: &str) {
        self.names.remove(name);
        self.messages.remove(name);
    }

    /// Returns the names of which the line tells; `None` if the client has to begin anew.
    fn hear(&mut self, line: &str) -> Option<Vec<String>> {
        if line.contains("NOTIFICATIONOVERFLOW") {
            return None;
        }
        let words = words(line);
        match words.get(1).map(String::as_str) {
            Some("LIST") => {
                let (attributes, name) = (&words[2], unquoted(&words[4]));
                let old = words.get(5).map(|extended| {
                    let old = extended.strip_prefix("(\"OLDNAME\" (").expect("OLDNAME");
                    unquoted(old.strip_suffix("))").expect("its end"))
                });
                match attributes.contains("\\Subscribed") {
                    true => self.subscribed.insert(name.clone()),
                    false => self.subscribed.remove(&name),
                };
                if let Some(old) = &old {
                    self.rename(old, &name);
                }
                if attributes.contains("\\NonExistent") {
                    self.remove(&name);
                } else if self.names.insert(name.clone()) || attributes.contains("\\NoAccess") {
                    self.messages.remove(&name);
                }
                Some([name].into_iter().chain(old).collect())
            }
            Some("STATUS") => {
                let name = unquoted(&words[2]);
                let items: Vec<&str> = words[3].trim_matches(['(', ')']).split(' ').collect();
                for item in items.chunks(2) {
                    if item[0] == "MESSAGES" {
                        self.messages.insert(name.clone(), item[1].parse().expect("a number"));
                    }
                }
                Some(vec![name])
            }
            _ => Some(Vec::new()),
        }
    }
}

struct Watching<'k> {
    world: &'k SimulatedWorld<'k>,
    client: Client,
    /// Of the same user; watches nothing.
    other: Client,
    /// What the names of the owner begin with.
    prefix: String,
    scope: Scope,
    events: &'static str,
    picture: Picture,
    /// Names that the user could look up, or had subscribed, since the client was last told
    /// everything.
    visible: BTreeSet<String>,
    is_late: bool,
    log: Vec<String>,
}

impl<'k> Watching<'k> {
    fn new(
        world: &'k SimulatedWorld<'k>,
        user: &str,
        scope: Scope,
        events: &'static str,
    ) -> Watching<'k> {
        let prefix = match user {
            OWNER => String::new(),
            _ => format!("Other Users/{OWNER}@demo.test/"),
        };
        let (client, other) = (world.log_in(user), world.log_in(user));
        let (picture, visible) = (Picture::default(), BTreeSet::new());
        let (is_late, log) = (false, Vec::new());
        Watching { world, client, other, prefix, scope, events, picture, visible, is_late, log }
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn is_watched(&self, name: &str) -> bool {
        match self.scope {
            Scope::All => true,
            Scope::Subtree(root) => below(name, &self.full(root)).is_some(),
            Scope::Mailbox(one) => name == self.full(one),
        }
    }

    fn begin(&mut self) {
        let events = self.events;
        let set = match self.scope {
            Scope::All => format!("(personal {events}) (subtree (\"Other Users\") {events})"),
            Scope::Subtree(root) => format!("(subtree (\"{}\") {events})", self.full(root)),
            Scope::Mailbox(name) => format!("(mailboxes (\"{}\") {events})", self.full(name)),
        };
        self.world.settle();
        self.picture = asked(&mut self.other);
        self.picture.messages.clear();
        let told = self.client.done(&format!("NOTIFY SET STATUS {set}"));
        self.log.push(told.clone());
        told.lines().for_each(|line| drop(self.picture.hear(line)));
        self.look();
    }

    /// Notes what the user can look up now.
    fn look(&mut self) {
        let Picture { names, subscribed, .. } = asked(&mut self.other);
        self.visible.extend(names.into_iter().chain(subscribed));
    }

    fn be_late(&mut self) {
        self.client.say("a APPEND INBOX {1}\r\n");
        self.client.read_to("+ ");
        self.is_late = true;
    }

    fn hear(&mut self, told: &str) {
        for line in told.lines() {
            self.log.push(line.to_owned());
            let known = self.picture.names.clone();
            let Some(names) = self.picture.hear(line) else {
                self.visible.clear();
                return self.begin();
            };
            for name in names {
                let is_above = |it: &String| below(it, &name).is_some();
                let is_known = known.contains(&name) || self.visible.iter().any(is_above);
                assert!(is_known || self.prefix.is_empty(), "told of {name}: {:#?}", self.log);
            }
        }
    }

    /// Its picture is that of one who asks.
    fn check(&mut self) {
        if std::mem::take(&mut self.is_late) {
            self.client.say("x)\r\n");
            let told = self.client.read_to("a BAD");
            self.hear(&told);
        }
        self.world.settle();
        // It need not ask.
        let told = self.client.peer.take_output();
        self.hear(&String::from_utf8(told).expect("UTF-8"));
        let told = self.client.done("NOOP");
        assert_eq!(told, "t OK NOOP completed\r\n", "{:#?}", self.log);
        let found = asked(&mut self.other);
        let of_watched = |names: &BTreeSet<String>| -> BTreeSet<String> {
            names.iter().filter(|name| self.is_watched(name)).cloned().collect()
        };
        if self.events == EVENTS[0] {
            let (known, there) = (&self.picture.names, &found.names);
            let (known, there) = (of_watched(known), of_watched(there));
            assert_eq!(known, there, "names of {}: {:#?}", self.prefix, self.log);
            let (known, there) = (&self.picture.subscribed, &found.subscribed);
            let (known, there) = (of_watched(known), of_watched(there));
            assert_eq!(known, there, "subscriptions of {}: {:#?}", self.prefix, self.log);
        }
        for (name, count) in &self.picture.messages {
            if let Some(there) = found.messages.get(name).filter(|_| self.is_watched(name)) {
                assert_eq!(count, there, "messages of {name}: {:#?}", self.log);
            }
        }
        self.visible = found.names.into_iter().chain(found.subscribed).collect();
    }
}

/// What one knows who asks.
fn asked(client: &mut Client) -> Picture {
    let mut picture = Picture::default();
    for line in client.done("LIST \"\" \"*\" RETURN (STATUS (MESSAGES))").lines() {
        if !line.contains("\\Noselect") {
            picture.hear(line);
        }
    }
    let mut subscribed = Picture::default();
    for line in client.done("LIST (SUBSCRIBED) \"\" \"*\"").lines() {
        subscribed.hear(line);
    }
    picture.subscribed = subscribed.subscribed;
    picture
}

fn command(act: &Act, user: &str, full: &dyn Fn(&str) -> String) -> Vec<String> {
    let quoted = |name: &str| format!("\"{}\"", full(name));
    match act {
        Act::Create(name) => vec![format!("CREATE {}", quoted(name))],
        Act::Delete(name) => vec![format!("DELETE {}", quoted(name))],
        Act::Rename(from, to) => vec![format!("RENAME {} {}", quoted(from), quoted(to))],
        Act::Grant(name, rights) => {
            vec![format!("SETACL {} {user}@demo.test {rights}", quoted(name))]
        }
        Act::Subscribe(name) => vec![format!("SUBSCRIBE {}", quoted(name))],
        Act::Unsubscribe(name) => vec![format!("UNSUBSCRIBE {}", quoted(name))],
        Act::Append(name) => vec![format!("APPEND {} {{1+}}\r\nx", quoted(name))],
        Act::Empty(name) => vec![
            format!("SELECT {}", quoted(name)),
            "UID STORE 1:* +FLAGS.SILENT (\\Deleted)".to_owned(),
            "CLOSE".to_owned(),
        ],
    }
}

/// What a client knows after its own command.
fn believe(picture: &mut Picture, act: &Act, full: &dyn Fn(&str) -> String) {
    match act {
        Act::Create(name) => {
            picture.names.insert(full(name));
        }
        Act::Delete(name) => picture.remove(&full(name)),
        Act::Rename("INBOX", to) => {
            picture.names.insert(full(to));
        }
        Act::Rename(from, to) => picture.rename(&full(from), &full(to)),
        Act::Subscribe(name) => {
            picture.subscribed.insert(full(name));
        }
        Act::Unsubscribe(name) => {
            picture.subscribed.remove(&full(name));
        }
        _ => {}
    }
}

struct Play<'k> {
    watching: Vec<Watching<'k>>,
    user: &'static str,
}

impl Play<'_> {
    fn act(&mut self, who: Who, act: &Act) {
        let number = match who {
            Who::Owner => 0,
            Who::User => 1,
            Who::Watching(number) => number,
        };
        let one = &mut self.watching[number];
        let prefix = one.prefix.clone();
        let full = |name: &str| format!("{prefix}{name}");
        let does_itself = matches!(who, Who::Watching(_)) && !one.is_late;
        // Emptying needs a selected mailbox, of which the client would be told in another way.
        let does_itself = does_itself && !matches!(act, Act::Empty(_));
        for command in command(act, self.user, &full) {
            let client = if does_itself { &mut one.client } else { &mut one.other };
            one.log.push(format!("{who:?}: {command}"));
            let answer = client.answer(&command);
            let is_done = answer.contains("t OK ");
            one.look();
            if does_itself && is_done {
                let (told, rest) = answer.split_at(answer.find("t OK ").expect("done"));
                one.hear(told);
                believe(&mut one.picture, act, &full);
                // It knows what it has renamed, though it was not told of it before.
                if let (Act::Rename(_, to), true) = (act, one.scope != Scope::All) {
                    let to = full(to);
                    if asked(&mut one.other).names.contains(&to) {
                        one.picture.names.insert(to);
                    }
                }
                one.hear(rest);
            } else if does_itself {
                one.hear(&answer);
            }
            if !is_done {
                break;
            }
        }
        if let Act::Empty(_) = act {
            one.other.answer("UNSELECT");
        }
        for one in &mut self.watching {
            one.log.push(format!("({who:?}: {act:?})"));
            one.look();
        }
    }
}

type Wishes = (Scope, &'static str);

fn play(kit: &Kit, user: &'static str, wishes: Wishes, before: &[Act], batches: &[Batch]) {
    let world = SimulatedWorld::new(kit, serve_imap, 0, true);
    let (scope, events) = wishes;
    let of = |name| Watching::new(&world, name, scope, events);
    let mut play = Play { watching: vec![of(OWNER), of(user)], user };
    for act in before {
        play.act(Who::Owner, act);
    }
    for one in &mut play.watching {
        one.log.push("---".to_owned());
        one.begin();
        one.check();
    }
    for batch in batches {
        if batch.late {
            play.watching.iter_mut().for_each(Watching::be_late);
        }
        for (who, act) in &batch.acts {
            play.act(*who, act);
        }
        for one in &mut play.watching {
            one.check();
        }
    }
}

fn cases() -> u32 {
    std::env::var("NOTIFY_MODEL_CASES").ok().and_then(|it| it.parse().ok()).unwrap_or(60)
}

fn try_out(scopes: impl Strategy<Value = Scope>, events: &'static str) {
    let kit = Kit::of(&USERS);
    let config = Config { cases: cases(), failure_persistence: None, ..Config::default() };
    let user = prop_oneof![Just("bob"), Just("carol")];
    let plays = (user, scopes, vec(act(), 0..8), vec(batch(), 1..4));
    let mut runner = TestRunner::new(config);
    let result = runner.run(&plays, |(user, scope, before, batches)| {
        play(&kit, user, (scope, events), &before, &batches);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn who_is_told_everything_knows_what_is_there() {
    try_out(Just(Scope::All), EVENTS[0]);
}

#[test]
fn who_watches_some_names_knows_what_is_there() {
    try_out(scope(), EVENTS[0]);
}

#[test]
fn who_wants_no_names_knows_how_many_messages_there_are() {
    try_out(scope(), EVENTS[1]);
}

fn by_owner(acts: &[Act]) -> Vec<(Who, Act)> {
    acts.iter().map(|act| (Who::Owner, act.clone())).collect()
}

/// What chance would find seldom: whoever watches, and whenever it is told.
fn check_all(scopes: &[Scope], before: &[Act], cases: &[Vec<Act>]) {
    let kit = Kit::of(&USERS);
    for (events, &scope) in EVENTS.into_iter().flat_map(|it| scopes.iter().map(move |at| (it, at)))
    {
        for (user, late) in [("bob", true), ("carol", false)] {
            for acts in cases {
                // At once, and one after the other.
                let at_once = vec![Batch { acts: by_owner(acts), late }];
                let each = acts.iter().map(|act| by_owner(std::slice::from_ref(act)));
                let each = each.map(|acts| Batch { acts, late }).collect::<Vec<_>>();
                for batches in [at_once, each] {
                    play(&kit, user, (scope, events), before, &batches);
                }
            }
        }
    }
}

#[test]
fn rights_that_go_and_come_back() {
    use Act::{Append, Create, Delete, Grant, Rename};
    let cases = [
        vec![Grant("a", "l"), Append("a"), Grant("a", "lr")],
        vec![Grant("a", "\"\""), Append("a"), Grant("a", "lr")],
        vec![Grant("a", "rkx"), Append("a"), Grant("a", "lr")],
        vec![Grant("a", "l"), Append("a"), Rename("a", "b"), Grant("b", "lr")],
        vec![Grant("a", "l"), Append("a"), Delete("a"), Create("a"), Grant("a", "lr")],
    ];
    check_all(&[Scope::All, Scope::Mailbox("a")], &[Create("a"), Grant("a", "lr")], &cases);
}

/// RFC 5465 5.4: of a rename, those below are told of where it is not enough to be told of it.
#[test]
fn mailboxes_above_are_renamed() {
    use Act::{Append, Create, Delete, Grant, Rename};
    let cases = [
        vec![Rename("a", "c")],
        vec![Rename("a", "c"), Rename("c", "a")],
        vec![Rename("a", "c"), Delete("c/a")],
        vec![Rename("a", "c"), Create("a/a")],
        vec![Rename("a", "c"), Rename("b", "a"), Append("a/a")],
        vec![Rename("a", "c"), Rename("b", "a"), Rename("c/a", "a/b")],
        vec![Delete("a"), Rename("a", "c"), Rename("b/a", "a")],
        vec![Grant("a", "l"), Rename("a", "c"), Grant("c/a", "lrkxi")],
    ];
    let scopes = [
        Scope::All,
        Scope::Mailbox("a/a"),
        Scope::Mailbox("c/a"),
        Scope::Subtree("a/a"),
        Scope::Subtree("c"),
        Scope::Subtree("b"),
    ];
    let names = ["a/a/a", "b/a"];
    let create = names.map(Create).into_iter();
    let append = ["a/a", "a/a/a", "b/a", "b/a"].map(Append);
    let grant = ["a", "a/a", "a/a/a", "b/a"].map(|name| Grant(name, "lr"));
    let before = create.chain(append).chain(grant).collect::<Vec<_>>();
    check_all(&scopes, &before, &cases);
}
