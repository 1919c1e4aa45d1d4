//! Several users and sessions on two shards work on the mailboxes of three accounts, against a
//! model: what each may do, what each sees (also where `\Seen` is each user's own), what COPY and
//! MOVE take along from one account to the other, and what each is told (counts, flags, EXPUNGE
//! numbers).
//!
//! Commands come one after the other, so the model is exact; what sessions are told between them is
//! applied to the view that a client would have, which must then be the model's. A unit test,
//! because only there mistakes can be planted.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
};

use crate::{
    model::AccountId,
    plant::{Plant, plant},
    transcript,
    world::{Client, Kit, SimulatedWorld, serve_imap},
};

/// All but the last own mailboxes. The accounts of the first two are on different shards.
const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
/// Whose session each is.
const SESSIONS: [usize; 6] = [0, 0, 1, 1, 2, 3];
/// The mailboxes, with their owners.
const BOXES: [(usize, &str); 4] = [(0, "one"), (0, "two"), (1, "three"), (2, "four")];
const FLAGS: [(&str, char); 4] =
    [("\\Seen", 's'), ("\\Deleted", 't'), ("\\Flagged", 'w'), ("word", 'w')];
const RIGHTS: [&str; 11] = [
    "",
    "l",
    "lr",
    "lrs",
    "lrswite",
    "rswite",
    "lri",
    "lrite",
    "lrswipkxtea",
    "lrswipkxtea",
    "lrwt",
];

type Flags = BTreeSet<String>;

#[derive(Clone)]
struct Mailbox {
    owner: usize,
    messages: Vec<(u32, Flags)>,
    last_uid: u32,
    /// Of users other than the owner.
    rights: BTreeMap<usize, &'static str>,
    /// `\Seen` is each user's own, but for the owner.
    seen_is_personal: bool,
    /// What each user has seen where `\Seen` is his own, also while it is not.
    seen: BTreeMap<usize, BTreeSet<u32>>,
}

impl Mailbox {
    fn of(owner: usize) -> Mailbox {
        Mailbox {
            owner,
            messages: Vec::new(),
            last_uid: 0,
            rights: BTreeMap::new(),
            seen_is_personal: false,
            seen: BTreeMap::new(),
        }
    }

    fn rights(&self, user: usize) -> &'static str {
        match user == self.owner {
            true => "lrswipkxtea",
            false => self.rights.get(&user).copied().unwrap_or_default(),
        }
    }

    fn seen_is_own(&self, user: usize) -> bool {
        self.seen_is_personal && user != self.owner
    }

    /// A new message by a user, with those of `flags` that he may set.
    fn add(&mut self, flags: impl IntoIterator<Item = String>, user: usize) {
        self.last_uid += 1;
        self.messages.push((self.last_uid, Flags::new()));
        let rights = self.rights(user);
        for flag in flags.into_iter().filter(|flag| may_set(flag, rights)) {
            self.change(self.messages.len() - 1, &flag, true, user);
        }
    }

    /// A user sets a flag or removes it.
    fn change(&mut self, place: usize, flag: &str, is_set: bool, user: usize) {
        let is_own = flag == "\\Seen" && self.seen_is_own(user);
        let (uid, flags) = &mut self.messages[place];
        let seen = self.seen.entry(user).or_default();
        match (is_own, is_set) {
            (true, true) => seen.insert(*uid),
            (true, false) => seen.remove(uid),
            (false, true) => flags.insert(flag.to_owned()),
            (false, false) => flags.remove(flag),
        };
    }

    /// The messages with their flags, as a user sees them.
    fn seen_by(&self, user: usize) -> Vec<(u32, Flags)> {
        let mut messages = self.messages.clone();
        if self.seen_is_own(user) {
            for (uid, flags) in &mut messages {
                flags.remove("\\Seen");
                if self.seen.get(&user).is_some_and(|seen| seen.contains(uid)) {
                    flags.insert("\\Seen".to_owned());
                }
            }
        }
        messages
    }
}

fn may_set(flag: &str, rights: &str) -> bool {
    FLAGS.iter().any(|(name, right)| *name == flag && rights.contains(*right))
}

/// A client that believes what it is told.
struct Session<'k> {
    world: &'k SimulatedWorld<'k>,
    user: usize,
    client: Client,
    selected: Option<usize>,
    /// As the client knows it; without a UID as long as it was not told.
    view: Vec<Option<Flags>>,
}

enum Told {
    Ok,
    /// With its text.
    No(String),
    Bye,
}

impl<'k> Session<'k> {
    fn new(world: &'k SimulatedWorld<'k>, user: usize) -> Session<'k> {
        let mut client = world.client();
        client.read_to("* OK");
        client.say(format!("l LOGIN {}@demo.test demo\r\n", USERS[user]));
        client.read_to("l OK");
        Session { world, user, client, selected: None, view: Vec::new() }
    }

    fn name(&self, mailbox: usize) -> String {
        match BOXES[mailbox] {
            (owner, name) if owner == self.user => name.to_owned(),
            (owner, name) => format!("\"Other Users/{}@demo.test/{name}\"", USERS[owner]),
        }
    }

    fn run(&mut self, command: &str) -> (Told, String) {
        self.client.say(format!("t {command}\r\n"));
        let mut found = String::new();
        loop {
            let more = transcript::Peer::receive(&mut self.client);
            assert!(!more.is_empty(), "closed after {command}: {found}");
            found.push_str(&String::from_utf8(more).expect("UTF-8"));
            let last = found.lines().next_back().unwrap_or_default();
            if found.ends_with("\r\n") && (last.starts_with("t ") || last.starts_with("* BYE")) {
                break;
            }
        }
        if std::env::var_os("SEED").is_some() {
            eprintln!("{} {command}\n    {}", self.user, found.replace("\r\n", "\n    "));
        }
        found.lines().for_each(|line| self.hear(line));
        let last = found.lines().next_back().unwrap_or_default();
        let told = match last.strip_prefix("t ") {
            Some(line) if line.starts_with("OK ") => Told::Ok,
            Some(line) => Told::No(line.to_owned()),
            None => Told::Bye,
        };
        if let Told::Bye = told {
            *self = Session::new(self.world, self.user);
        }
        (told, found)
    }

    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let ["*", number, what, ..] = words[..] else { return };
        let Ok(number) = number.parse::<usize>() else { return };
        match what {
            "EXISTS" => {
                assert!(number >= self.view.len(), "{line} with {}", self.view.len());
                self.view.resize(number, None);
            }
            "EXPUNGE" => drop(self.view.remove(number - 1)),
            "FETCH" => {
                let flags = line.split("FLAGS (").nth(1).and_then(|it| it.split(')').next());
                if let Some(flags) = flags {
                    let flags = flags.split_ascii_whitespace().filter(|it| *it != "\\Recent");
                    self.view[number - 1] = Some(flags.map(str::to_owned).collect());
                }
            }
            _ => {}
        }
    }
}

/// Repeatable numbers.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// The refusal for a user with these rights: whether he sees the mailbox.
fn refusal(rights: &str, missing: &str) -> String {
    match rights.contains('l') {
        true => "NO [NOPERM] Not allowed on this mailbox".to_owned(),
        false => format!("NO [{missing}] No such mailbox"),
    }
}

fn check(told: &Told, allowed: bool, rights: &str, missing: &str, what: &str) {
    match told {
        Told::Ok => assert!(allowed, "{what} with {rights:?}"),
        Told::No(text) => {
            assert!(!allowed, "{what} with {rights:?}: {text}");
            // Which right it needs may follow.
            assert!(text.starts_with(&refusal(rights, missing)), "{what}: {text}");
        }
        Told::Bye => panic!("{what} with {rights:?}: BYE"),
    }
}

/// Returns how many messages were copied or moved.
fn play(kit: &Kit, seed: u64) -> usize {
    let mut copied = 0;
    let world = SimulatedWorld::new(kit, serve_imap, 0, true);
    let mut chance = Chance(seed);
    let mut model: Vec<Mailbox> = BOXES.iter().map(|(owner, _)| Mailbox::of(*owner)).collect();
    let mut sessions: Vec<Session<'_>> =
        SESSIONS.iter().map(|user| Session::new(&world, *user)).collect();
    let session_of = |user| SESSIONS.iter().position(|it| *it == user).expect("each has one");
    for (owner, name) in BOXES {
        sessions[session_of(owner)].run(&format!("CREATE {name}"));
    }
    for mailbox in 0..BOXES.len() {
        let (owner, name) = BOXES[mailbox];
        let it = &mut sessions[session_of(owner)];
        for user in (0..USERS.len()).filter(|user| *user != owner) {
            let rights = RIGHTS[chance.below(RIGHTS.len())];
            it.run(&format!("SETACL {name} {}@demo.test \"{rights}\"", USERS[user]));
            model[mailbox].rights.insert(user, rights);
        }
        for (flag, _) in FLAGS {
            it.run(&format!("APPEND {name} ({flag}) {{3+}}\r\nabc"));
            model[mailbox].add([flag.to_owned()], owner);
        }
    }
    for step in 0..100 {
        let session = chance.below(sessions.len());
        let mailbox = chance.below(BOXES.len());
        let user = SESSIONS[session];
        let what = format!("seed {seed}, step {step}, session {session}");
        let (flag, right) = FLAGS[chance.below(FLAGS.len())];
        let number = chance.below(5);
        match chance.below(18) {
            0 => {
                let (owner, name) = BOXES[mailbox];
                let (whom, rights) =
                    (chance.below(USERS.len()), RIGHTS[chance.below(RIGHTS.len())]);
                if whom == owner {
                    continue;
                }
                let command = format!("SETACL {name} {}@demo.test \"{rights}\"", USERS[whom]);
                let it = &mut sessions[session_of(owner)];
                let (told, text) = it.run(&command);
                if text.contains("* OK [CLOSED] ") {
                    // It knows why.
                    let selected = it.selected.take().expect("selected");
                    assert!(!model[selected].rights(owner).contains('r'), "{what}: {text}");
                }
                // Where it ends because it may not read what it has selected, it has done it.
                assert!(!matches!(told, Told::No(_)), "{what}: {command}");
                model[mailbox].rights.insert(whom, rights);
            }
            1..=3 => {
                let rights = model[mailbox].rights(user);
                let it = &mut sessions[session];
                it.view.clear();
                it.selected = None;
                let (told, _) = it.run(&format!("SELECT {}", it.name(mailbox)));
                check(
                    &told,
                    rights.contains('r'),
                    rights,
                    "NONEXISTENT",
                    &format!("{what}: SELECT"),
                );
                it.selected = rights.contains('r').then_some(mailbox);
            }
            4 | 5 => {
                let rights = model[mailbox].rights(user);
                let it = &mut sessions[session];
                let command = format!("APPEND {} ({flag}) {{3+}}\r\nabc", it.name(mailbox));
                let before = it.selected;
                let (told, _) = it.run(&command);
                if let Told::Bye = told {
                    // It may not read what it has selected; the message is stored all the same.
                    let selected = before.expect("selected");
                    assert!(!model[selected].rights(user).contains('r'), "{what}: BYE");
                } else {
                    check(
                        &told,
                        rights.contains('i'),
                        rights,
                        "NONEXISTENT",
                        &format!("{what}: APPEND"),
                    );
                }
                if rights.contains('i') {
                    model[mailbox].add([flag.to_owned()], user);
                }
            }
            6 | 7 => {
                let it = &mut sessions[session];
                let Some(selected) = it.selected else { continue };
                let rights = model[selected].rights(user);
                let Some(expected) = it.view.get(number).is_some().then_some(number) else {
                    continue;
                };
                // The messages that the client has numbers for; some may be gone.
                if !rights.contains('r') {
                    let (told, text) = it.run("NOOP");
                    assert!(matches!(told, Told::Bye), "{what}: may not read {selected}: {text}");
                    continue;
                }
                settle_view(it, &model[selected], &what);
                if expected >= model[selected].messages.len() {
                    continue;
                }
                let sign = if chance.below(3) == 0 { '-' } else { '+' };
                let (told, _) = it.run(&format!("STORE {} {sign}FLAGS ({flag})", expected + 1));
                let writable = ["s", "w", "i", "t", "e"].iter().any(|it| rights.contains(it));
                let allowed = writable && rights.contains(right);
                check(&told, allowed, rights, "NONEXISTENT", &format!("{what}: STORE"));
                if allowed {
                    model[selected].change(expected, flag, sign == '+', user);
                }
            }
            8 => {
                let it = &mut sessions[session];
                let Some(selected) = it.selected else { continue };
                let rights = model[selected].rights(user);
                let (told, _) = it.run("EXPUNGE");
                if !rights.contains('r') {
                    assert!(matches!(told, Told::Bye), "{what}: may not read");
                    continue;
                }
                check(
                    &told,
                    rights.contains('e'),
                    rights,
                    "NONEXISTENT",
                    &format!("{what}: EXPUNGE"),
                );
                if rights.contains('e') {
                    model[selected].messages.retain(|(_, flags)| !flags.contains("\\Deleted"));
                }
            }
            9..=13 => {
                let it = &mut sessions[session];
                let Some(selected) = it.selected else { continue };
                if !model[selected].rights(user).contains('r') {
                    continue;
                }
                settle_view(it, &model[selected], &what);
                let Some((uid, flags)) = model[selected].seen_by(user).get(number).cloned() else {
                    continue;
                };
                let moves = chance.below(2) == 0;
                let from = model[selected].rights(user);
                let to = model[mailbox].rights(user);
                let command = if moves { "MOVE" } else { "COPY" };
                let (told, text) =
                    it.run(&format!("{command} {} {}", number + 1, it.name(mailbox)));
                let what = format!("{what}: {command} from {selected} to {mailbox}: {text}");
                let may_take = !moves || (from.contains('t') && from.contains('e'));
                match may_take {
                    true => check(&told, to.contains('i'), to, "NONEXISTENT", &what),
                    false => check(&told, false, from, "NONEXISTENT", &what),
                }
                if may_take && to.contains('i') {
                    let place = model[selected].messages.iter().position(|(it, _)| *it == uid);
                    let (_, shared) = model[selected].messages[place.expect("found above")].clone();
                    if moves {
                        model[selected].messages.retain(|(it, _)| *it != uid);
                    }
                    model[mailbox].add(flags, user);
                    copied += 1;
                    // The owner's `\Seen` goes along in his account.
                    if model[mailbox].seen_is_own(user)
                        && model[mailbox].owner == model[selected].owner
                        && shared.contains("\\Seen")
                        && to.contains('s')
                        && let Some((_, flags)) = model[mailbox].messages.last_mut()
                    {
                        flags.insert("\\Seen".to_owned());
                    }
                }
            }
            14 => {
                let (owner, name) = BOXES[mailbox];
                let is_personal = chance.below(2) == 0;
                let account = AccountId(owner as u64 + 1);
                world.set_seen_is_personal(account, name, is_personal);
                model[mailbox].seen_is_personal = is_personal;
            }
            15 => {
                let it = &mut sessions[session];
                let rights = model[mailbox].rights(user);
                let (told, text) =
                    it.run(&format!("STATUS {} (MESSAGES UNSEEN)", it.name(mailbox)));
                let what = format!("{what}: STATUS: {text}");
                if !matches!(told, Told::Bye) {
                    check(&told, rights.contains('r'), rights, "NONEXISTENT", &what);
                }
                if let Told::Ok = told {
                    let messages = model[mailbox].seen_by(user);
                    let unseen = messages.iter().filter(|(_, flags)| !flags.contains("\\Seen"));
                    let counts = format!("(MESSAGES {} UNSEEN {})", messages.len(), unseen.count());
                    assert!(text.contains(&counts), "{what}: {counts}");
                }
            }
            16 => {
                let it = &mut sessions[session];
                let rights = model[mailbox].rights(user);
                let before = it.selected;
                let (told, text) = it.run(&format!("LIST \"\" {}", it.name(mailbox)));
                match told {
                    Told::Bye => {
                        let selected = before.expect("selected");
                        assert!(!model[selected].rights(user).contains('r'), "{what}: BYE");
                    }
                    _ => {
                        assert_eq!(text.contains("* LIST "), rights.contains('l'), "{what}: {text}")
                    }
                }
            }
            _ => {
                let it = &mut sessions[session];
                let Some(selected) = it.selected else { continue };
                match model[selected].rights(user).contains('r') {
                    true => settle_view(it, &model[selected], &what),
                    false => assert!(matches!(it.run("NOOP").0, Told::Bye), "{what}: may not read"),
                }
            }
        }
        world.settle();
    }
    for it in &mut sessions {
        if let Some(selected) = it.selected
            && model[selected].rights(it.user).contains('r')
        {
            settle_view(it, &model[selected], &format!("seed {seed}, end"));
        }
    }
    copied
}

/// What the client was told is what the mailbox is.
fn settle_view(session: &mut Session<'_>, model: &Mailbox, what: &str) {
    let (told, _) = session.run("NOOP");
    assert!(matches!(told, Told::Ok), "{what}: NOOP");
    let messages = model.seen_by(session.user);
    assert_eq!(session.view.len(), messages.len(), "{what}: count of {}", session.user);
    for (number, (known, (_, flags))) in session.view.iter().zip(&messages).enumerate() {
        if let Some(known) = known {
            assert_eq!(known, flags, "{what}: told about message {}", number + 1);
        }
    }
    let (_, text) = session.run("FETCH 1:* (UID FLAGS)");
    for (known, (uid, flags)) in session.view.iter().zip(&messages) {
        assert_eq!(known.as_ref(), Some(flags), "{what}: flags of {uid}");
        assert!(text.contains(&format!("UID {uid} ")), "{what}: {uid} in {text}");
    }
}

#[test]
fn sessions_see_what_the_model_says() {
    let kit = Kit::of(&USERS);
    let first = std::env::var("SEED").ok().and_then(|it| it.parse().ok());
    match first {
        Some(seed) => drop(play(&kit, seed)),
        None => {
            let copied: usize = (1..=60).map(|seed| play(&kit, seed)).sum();
            assert!(copied > 300, "most commands were refused: {copied} copies");
        }
    }
}

/// What the model would miss it could not vouch for.
#[test]
fn each_planted_mistake_is_found() {
    const PLANTS: [Plant; 7] = [
        Plant::RightsAtSelect,
        Plant::LeaseOutlivesRights,
        Plant::TellHidden,
        Plant::SeenLeaks,
        Plant::CarryAnothersSeen,
        Plant::ForgetSeenOfCopies,
        Plant::CopyEveryFlag,
    ];
    for mistake in PLANTS {
        // A new one: the executor of the one before stopped in the middle of a step.
        let kit = Kit::of(&USERS);
        plant(Some(mistake));
        let found = (1..=200)
            .find(|seed| std::panic::catch_unwind(AssertUnwindSafe(|| play(&kit, *seed))).is_err());
        plant(None);
        assert!(found.is_some(), "{mistake:?}");
    }
}
