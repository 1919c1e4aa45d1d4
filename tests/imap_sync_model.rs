//! Sessions that follow two mailboxes in different ways (by numbers, with mod-sequences, by UIDs
//! only, by resynchronizing; when they ask, or by NOTIFY at any time), on the owner's shard and on
//! another one, against a model: whatever they do, and whenever their connections break, what each
//! was told is what the mailbox is, and what it was told of its search results (RFC 5267) is what
//! it would find.
//!
//! Commands come one after the other, so the model is exact. A client keeps what it knows of a
//! mailbox when its connection breaks, and goes on from there if it has QRESYNC.

mod transcript;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use world::{Client, Kit, SimulatedWorld, serve_imap};

const USERS: [&str; 2] = ["alice", "bob"];
const BOXES: [&str; 2] = ["one", "two"];
const FLAGS: [&str; 4] = ["\\Seen", "\\Deleted", "\\Flagged", "word"];

/// How a client follows a mailbox: what it enables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Numbers,
    ModSeqs,
    Resync,
    Uids,
    UidsAndResync,
}

/// When a client is told of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    Asked,
    /// NOTIFY with SELECTED: at any time, so it uses no numbers in commands.
    AtOnce,
    /// NOTIFY with SELECTED-DELAYED: at any time, but of expunges.
    Delayed,
}

const SESSIONS: [(usize, Way, When); 12] = [
    (0, Way::Numbers, When::Asked),
    (0, Way::ModSeqs, When::Asked),
    (0, Way::Resync, When::Asked),
    (0, Way::UidsAndResync, When::Asked),
    (1, Way::Resync, When::Asked),
    (1, Way::Uids, When::Asked),
    (1, Way::Numbers, When::Asked),
    (0, Way::Resync, When::AtOnce),
    (0, Way::Numbers, When::Delayed),
    (1, Way::UidsAndResync, When::AtOnce),
    (1, Way::Resync, When::Delayed),
    (1, Way::ModSeqs, When::AtOnce),
];

impl Way {
    fn enables(self) -> &'static [&'static str] {
        match self {
            Way::Numbers => &[],
            Way::ModSeqs => &["CONDSTORE"],
            Way::Resync => &["QRESYNC"],
            Way::Uids => &["UIDONLY"],
            Way::UidsAndResync => &["UIDONLY QRESYNC"],
        }
    }

    fn has_numbers(self) -> bool {
        matches!(self, Way::Numbers | Way::ModSeqs | Way::Resync)
    }

    fn has_mod_seqs(self) -> bool {
        matches!(self, Way::ModSeqs | Way::Resync | Way::UidsAndResync)
    }

    fn resyncs(self) -> bool {
        matches!(self, Way::Resync | Way::UidsAndResync)
    }

    fn is_told_uids(self) -> bool {
        self.resyncs() || self == Way::Uids
    }
}

type Flags = BTreeSet<String>;

#[derive(Clone, Default)]
struct Mailbox {
    messages: BTreeMap<u32, Flags>,
    last_uid: u32,
}

impl Mailbox {
    fn add(&mut self, flags: Flags) {
        self.last_uid += 1;
        self.messages.insert(self.last_uid, flags);
    }

    fn expunge(&mut self, chosen: impl Fn(u32) -> bool) {
        self.messages.retain(|uid, flags| !(flags.contains("\\Deleted") && chosen(*uid)));
    }
}

/// What a client knows of a message.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Known {
    flags: Option<Flags>,
    mod_seq: u64,
}

/// What searches look for whose changes are told.
const KEYS: [&str; 9] = [
    "ALL",
    "UNSEEN",
    "FLAGGED UNDELETED",
    "KEYWORD word",
    "UNKEYWORD word TEXT abc",
    "OR DELETED SEEN",
    "UID 3:*",
    "UID 1000:*",
    "UID 2,* UNDELETED",
];
const ORDERS: [&str; 4] =
    ["SUBJECT", "REVERSE SUBJECT SIZE", "SIZE REVERSE ARRIVAL", "REVERSE DATE"];
const SUBJECTS: [&str; 5] = ["b", "Re: a", "C", "aa", ""];
/// Results that a client follows at once.
const RESULTS_MAX: usize = 4;

/// A search result, as a client keeps it.
struct Followed {
    tag: String,
    uid: bool,
    /// `SEARCH` or `SORT`, and what else comes behind its options.
    command: (&'static str, String),
    found: Vec<u32>,
}

impl Followed {
    /// `ADDTO (0 1:3,7)`
    fn change(&mut self, item: &str, line: &str) {
        let (what, places) = item.split_once(" (").expect(line);
        let places = places.split(')').next().expect(line);
        let words: Vec<&str> = places.split(' ').collect();
        for place in words.chunks(2) {
            let [position, numbers] = place else { panic!("{line}") };
            let position: usize = position.parse().expect(line);
            assert_eq!(position > 0, self.command.0 == "SORT", "{line}");
            for (count, number) in numbers_of(numbers).enumerate() {
                let at = match position.checked_sub(1) {
                    Some(at) if what == "ADDTO" => Err(at + count),
                    Some(at) if self.found.get(at) == Some(&number) => Ok(at),
                    Some(_) => panic!("{line}: {:?} has {:?}", self.command, self.found),
                    None => self.found.binary_search(&number),
                };
                match (what, at) {
                    ("ADDTO", Err(at)) => self.found.insert(at, number),
                    ("REMOVEFROM", Ok(at)) => drop(self.found.remove(at)),
                    _ => panic!("{line}: {:?} has {:?}", self.command, self.found),
                }
            }
        }
    }

    /// Message `number` is expunged.
    fn expunge(&mut self, number: u32, line: &str) {
        if !self.uid {
            let Followed { command, found, .. } = self;
            assert!(!found.contains(&number), "{line}: {command:?} has {found:?}");
            self.found.iter_mut().filter(|it| **it > number).for_each(|it| *it -= 1);
        }
    }
}

/// What a client keeps of a mailbox.
#[derive(Clone, Default)]
struct Cache {
    uid_validity: u64,
    /// From where it would resynchronize.
    highest: u64,
    messages: BTreeMap<u32, Known>,
}

struct Session<'k> {
    world: &'k SimulatedWorld<'k>,
    user: usize,
    way: Way,
    when: When,
    client: Client,
    selected: Option<usize>,
    caches: [Cache; BOXES.len()],
    /// The UID of each number, `None` as long as the client does not know it.
    numbers: Vec<Option<u32>>,
    followed: Vec<Followed>,
    tags: usize,
    /// Messages and next UID of mailboxes that are not selected, as NOTIFY told last.
    counts: [Option<(usize, u32)>; BOXES.len()],
}

impl<'k> Session<'k> {
    fn new(world: &'k SimulatedWorld<'k>, (user, way, when): (usize, Way, When)) -> Session<'k> {
        let client = connect(world, user, way, when);
        let (caches, numbers, followed) = (Default::default(), Vec::new(), Vec::new());
        let (selected, tags, counts) = (None, 0, Default::default());
        Session {
            world,
            user,
            way,
            when,
            client,
            selected,
            caches,
            numbers,
            followed,
            tags,
            counts,
        }
    }

    /// The connection breaks; what the client knows stays.
    fn lose_connection(&mut self) {
        self.client = connect(self.world, self.user, self.way, self.when);
        self.selected = None;
        self.numbers.clear();
        self.followed.clear();
        self.counts = Default::default();
    }

    fn name(&self, mailbox: usize) -> String {
        match self.user {
            0 => BOXES[mailbox].to_owned(),
            _ => format!("\"Other Users/alice@demo.test/{}\"", BOXES[mailbox]),
        }
    }

    fn cache(&mut self) -> &mut Cache {
        &mut self.caches[self.selected.expect("selected")]
    }

    /// Runs a command and takes in what is told.
    fn run(&mut self, command: &str) -> String {
        let told = self.client.answer(command);
        told.lines().for_each(|line| self.hear_of_others(line, command == "CLOSE"));
        let Some(selected) = self.selected else { return told };
        let mut mod_seqs = 0;
        let mut code = None;
        for line in told.lines() {
            mod_seqs = mod_seqs.max(self.hear(line));
            if let Some((_, after)) = line.split_once("[HIGHESTMODSEQ ") {
                code = after.split(']').next().and_then(|it| it.parse().ok());
            }
        }
        // RFC 7162 3.2: the code counts, also if it is lower than what FETCH responses had. As long
        // as a client has not looked at what EXISTS told of, it does not know the mailbox.
        if self.numbers.iter().all(Option::is_some) {
            let cache = &mut self.caches[selected];
            cache.highest = code.unwrap_or(cache.highest.max(mod_seqs));
        }
        assert!(!told.contains("\r\n* BYE"), "{command}: {told}");
        told
    }

    fn done(&mut self, command: &str) -> String {
        let told = self.run(command);
        assert!(told.contains("t OK "), "{command}: {told}");
        told
    }

    fn hear_of_others(&mut self, line: &str, closes: bool) {
        let Some(status) = line.strip_prefix("* STATUS ") else { return };
        assert!(self.when != When::Asked, "{line}");
        let mailbox = (0..BOXES.len()).find(|it| status.starts_with(&self.name(*it)));
        let mailbox = mailbox.unwrap_or_else(|| panic!("{line}"));
        assert!(closes || self.selected != Some(mailbox), "{line}");
        if let (Some(count), Some(next)) = (after(line, "MESSAGES "), after(line, "UIDNEXT ")) {
            let count = count.parse().expect("a number");
            self.counts[mailbox] = Some((count, next.parse().expect("a number")));
        }
    }

    /// Returns the mod-sequence of a FETCH response.
    fn hear(&mut self, line: &str) -> u64 {
        if let Some((tag, change)) = line
            .strip_prefix("* ESEARCH (TAG \"")
            .and_then(|it| it.split_once("\") "))
            .filter(|(_, change)| change.contains("ADDTO") || change.contains("REMOVEFROM"))
        {
            let is_it = |followed: &&mut Followed| followed.tag == tag;
            let followed = self.followed.iter_mut().find(is_it).unwrap_or_else(|| panic!("{line}"));
            followed.change(change.strip_prefix("UID ").unwrap_or(change), line);
            assert_eq!(followed.uid, change.starts_with("UID "), "{line}");
            let exist =
                followed.uid || followed.found.iter().all(|it| *it as usize <= self.numbers.len());
            assert!(exist, "{line}: {:?}", self.numbers);
            return 0;
        }
        if let Some(set) = line.strip_prefix("* VANISHED ") {
            assert!(self.way.is_told_uids(), "{line}");
            let (is_earlier, set) = match set.strip_prefix("(EARLIER) ") {
                Some(set) => (true, set),
                None => (false, set),
            };
            for uid in numbers_of(set) {
                let was_known = self.cache().messages.remove(&uid).is_some();
                if !is_earlier {
                    let place = self.place_of(uid);
                    assert!(was_known || place.is_some(), "{line}: never told of {uid}");
                    let place = place.unwrap_or_else(|| panic!("{line}: {uid}"));
                    self.numbers.remove(place);
                    self.followed.iter_mut().for_each(|it| it.expunge(place as u32 + 1, line));
                }
            }
            return 0;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let ["*", number, what, ..] = words[..] else { return 0 };
        let Ok(number) = number.parse::<u32>() else { return 0 };
        match what {
            "EXISTS" => {
                assert!(number as usize >= self.numbers.len(), "{line}: {:?}", self.numbers);
                self.numbers.resize(number as usize, None);
            }
            "EXPUNGE" => {
                assert!(!self.way.is_told_uids(), "{line}");
                self.followed.iter_mut().for_each(|it| it.expunge(number, line));
                if let Some(uid) = self.numbers.remove(number as usize - 1) {
                    self.cache().messages.remove(&uid);
                }
            }
            "FETCH" => {
                assert!(self.way.has_numbers(), "{line}");
                let place = number as usize - 1;
                let named = after(line, "UID ").map(|uid| uid.parse().expect("a UID"));
                assert!(named.is_some() || !self.way.resyncs(), "{line}: no UID");
                if let (Some(named), Some(known)) = (named, self.numbers[place]) {
                    assert_eq!(named, known, "{line}: {:?}", self.numbers);
                }
                self.numbers[place] = self.numbers[place].or(named);
                if let Some(uid) = self.numbers[place] {
                    return self.learn(uid, line);
                }
            }
            "UIDFETCH" => {
                assert!(!self.way.has_numbers(), "{line}");
                if !self.numbers.contains(&Some(number)) {
                    let place = self.numbers.iter().position(Option::is_none);
                    let place = place.unwrap_or_else(|| panic!("{line}: {:?}", self.numbers));
                    self.numbers[place] = Some(number);
                }
                return self.learn(number, line);
            }
            _ => {}
        }
        0
    }

    /// Where a message is, or can be, as far as the client knows.
    fn place_of(&self, uid: u32) -> Option<usize> {
        let known = self.numbers.iter().position(|known| *known == Some(uid));
        if known.is_some() || !self.way.has_numbers() {
            return known.or(self.numbers.iter().position(Option::is_none));
        }
        let before = self.numbers.iter().rposition(|known| known.is_some_and(|it| it < uid));
        let place = before.map_or(0, |it| it + 1);
        self.numbers.get(place).is_some_and(Option::is_none).then_some(place)
    }

    fn learn(&mut self, uid: u32, line: &str) -> u64 {
        let flags = line.split_once("FLAGS (").map(|(_, it)| it.split(')').next().expect("first"));
        let mod_seq = line.split_once("MODSEQ (").map(|(_, it)| it.split(')').next());
        let mod_seq = mod_seq.flatten().map_or(0, |it| it.parse().expect("a mod-sequence"));
        let known = self.cache().messages.entry(uid).or_default();
        if let Some(flags) = flags {
            let names = flags.split_ascii_whitespace().filter(|it| *it != "\\Recent");
            known.flags = Some(names.map(str::to_owned).collect());
        }
        known.mod_seq = known.mod_seq.max(mod_seq);
        mod_seq
    }

    /// Selects a mailbox and brings what is known of it up to date.
    fn select(&mut self, mailbox: usize) {
        let name = self.name(mailbox);
        if self.when != When::Asked {
            // What was told without a command is about the one before.
            self.world.settle();
            self.done("NOOP");
        }
        for gone in self.selected.into_iter().chain([mailbox]) {
            self.counts[gone] = None;
        }
        let known = self.caches[mailbox].clone();
        self.numbers.clear();
        self.followed.clear();
        self.selected = Some(mailbox);
        let resyncs = self.way.resyncs() && known.uid_validity > 0 && known.highest > 0;
        let told = if resyncs {
            // Numbers of messages that the client knows; others come as they are told.
            let Cache { uid_validity, highest, .. } = known;
            let command = format!("SELECT {name} (QRESYNC ({uid_validity} {highest}))");
            self.resynchronize(&command)
        } else {
            self.caches[mailbox] = Cache::default();
            self.done(&format!("SELECT {name}"))
        };
        let validity = after(&told, "[UIDVALIDITY ").expect("UIDVALIDITY");
        self.caches[mailbox].uid_validity = validity.parse().expect("a number");
        if !resyncs {
            self.done("UID FETCH 1:* (FLAGS)");
        }
    }

    /// With what VANISHED (EARLIER) leaves, and the new messages, the client knows the numbers.
    fn resynchronize(&mut self, command: &str) -> String {
        let told = self.client.done(command);
        let mailbox = self.selected.expect("selected");
        let cache = &mut self.caches[mailbox];
        for line in told.lines() {
            if let Some(set) = line.strip_prefix("* VANISHED (EARLIER) ") {
                cache.messages.retain(|uid, _| !numbers_of(set).any(|gone| gone == *uid));
            }
            let uid = match self.way.has_numbers() {
                true => line.contains(" FETCH (").then(|| after(line, "UID ")).flatten(),
                false => {
                    let split = line.strip_prefix("* ").and_then(|it| it.split_once(" UIDFETCH"));
                    split.map(|(uid, _)| uid)
                }
            };
            if let Some(uid) = uid {
                cache.messages.entry(uid.parse().expect("a UID")).or_default();
            }
        }
        self.numbers = cache.messages.keys().map(|uid| Some(*uid)).collect();
        let exists = told.lines().find_map(|line| line.strip_suffix(" EXISTS")).expect("EXISTS");
        assert_eq!(exists, format!("* {}", self.numbers.len()), "{command}: {told}");
        for line in told.lines().filter(|line| !line.contains("EXISTS")) {
            self.hear(line);
        }
        let highest = after(&told, "[HIGHESTMODSEQ ").expect("HIGHESTMODSEQ");
        self.caches[mailbox].highest = highest.parse().expect("a number");
        told
    }

    /// Looks for something, and is told from now on what changes of it.
    fn follow(&mut self, key: &str, order: Option<&str>, uid: bool) {
        self.tags += 1;
        if self.when != When::Asked {
            self.world.settle();
            self.done("NOOP");
        }
        // VANISHED does not tell which number a message had that the client has not looked at.
        let (tag, uid) = (format!("s{}", self.tags), uid || self.way.is_told_uids());
        let command = match order {
            None => ("SEARCH", key.to_owned()),
            Some(order) => ("SORT", format!("({order}) UTF-8 {key}")),
        };
        let (name, what) = (command.0, &command.1);
        let form = if uid { "UID " } else { "" };
        self.client.say(format!("{tag} {form}{name} RETURN (UPDATE ALL) {what}\r\n"));
        let told = self.client.read_to(&format!("{tag} "));
        assert!(told.contains(&format!("{tag} OK ")), "{key}: {told}");
        let set = told.split_once(" ALL ").and_then(|(_, it)| it.split("\r\n").next());
        let found = set.map_or(Vec::new(), |set| numbers_of(set).collect());
        self.followed.push(Followed { tag, uid, command, found });
        for line in told.lines() {
            self.hear(line);
        }
    }

    /// What the client was told of its results is what it would find.
    fn compare_results(&mut self, what: &str) {
        for at in 0..self.followed.len() {
            let Followed { command: (name, criteria), uid, .. } = &self.followed[at];
            let (name, form) = (*name, if *uid { "UID " } else { "" });
            let command = format!("{form}{name} {criteria}");
            let told = self.done(&command);
            let label = format!("* {name}");
            let found = told.lines().find_map(|line| line.strip_prefix(&label)).expect(name);
            let numbers = found.split_ascii_whitespace().map(|it| it.parse().expect("a number"));
            assert_eq!(self.followed[at].found, numbers.collect::<Vec<u32>>(), "{what}: {command}");
        }
    }

    /// What the client was told is what the mailbox is.
    fn settle(&mut self, models: &[Mailbox], what: &str) {
        self.world.settle();
        self.done("NOOP");
        let what = format!("{what}, {:?} {:?} of {}", self.way, self.when, USERS[self.user]);
        for (mailbox, model) in models.iter().enumerate() {
            let counts = (model.messages.len(), model.last_uid + 1);
            assert_eq!(self.counts[mailbox].unwrap_or(counts), counts, "{what}: {mailbox}");
        }
        let model = &models[self.selected.expect("selected")];
        assert_eq!(self.numbers.len(), model.messages.len(), "{what}: count");
        self.compare_results(&what);
        // Flags that were told are right, before any are asked for.
        for (place, (uid, flags)) in model.messages.iter().enumerate() {
            if self.way.has_numbers()
                && let Some(known) = self.numbers[place]
            {
                assert_eq!(known, *uid, "{what}: UID of {}", place + 1);
            }
            let known = self.cache().messages.get(uid).and_then(|known| known.flags.clone());
            assert_eq!(known.as_ref().unwrap_or(flags), flags, "{what}: flags of {uid}");
        }
        let strays = self.cache().messages.keys().find(|uid| !model.messages.contains_key(uid));
        assert_eq!(strays, None, "{what}: is gone");
        if self.numbers.iter().any(Option::is_none) {
            self.done("UID FETCH 1:* (FLAGS)");
        }
        let known = self.cache().messages.keys().copied();
        assert!(known.eq(model.messages.keys().copied()), "{what}: UIDs");
    }
}

fn connect(world: &SimulatedWorld<'_>, user: usize, way: Way, when: When) -> Client {
    let mut client = world.client();
    client.read_to("* OK");
    client.done(&format!("LOGIN {}@demo.test demo", USERS[user]));
    for extension in way.enables() {
        client.done(&format!("ENABLE {extension}"));
    }
    let selector = match when {
        When::Asked => return client,
        When::AtOnce => "selected",
        When::Delayed => "selected-delayed",
    };
    client.done(&format!(
        "NOTIFY SET ({selector} (MessageNew (UID FLAGS) MessageExpunge FlagChange)) \
         (personal (MessageNew MessageExpunge)) \
         (subtree \"Other Users\" (MessageNew MessageExpunge))"
    ));
    client
}

/// The word after `label`.
fn after<'t>(text: &'t str, label: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(label)?;
    rest.split(|it: char| !it.is_ascii_digit()).next().filter(|it| !it.is_empty())
}

fn numbers_of(set: &str) -> impl Iterator<Item = u32> {
    set.split(',').flat_map(|range| {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        let number = |text: &str| text.parse::<u32>().expect("a number");
        number(first)..=number(last)
    })
}

/// Repeatable numbers.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    /// Some UID that the client knows.
    fn uid(&mut self, session: &mut Session<'_>) -> Option<u32> {
        let known: Vec<u32> = session.cache().messages.keys().copied().collect();
        if known.is_empty() { None } else { Some(known[self.below(known.len())]) }
    }
}

fn play(kit: &Kit, seed: u64) {
    let world = SimulatedWorld::new(kit, serve_imap, 0, true);
    let mut chance = Chance(seed);
    let mut model: Vec<Mailbox> = vec![Mailbox::default(); BOXES.len()];
    let mut sessions: Vec<Session<'_>> =
        SESSIONS.iter().map(|session| Session::new(&world, *session)).collect();
    for name in BOXES {
        sessions[0].done(&format!("CREATE {name}"));
        sessions[0].done(&format!("SETACL {name} bob@demo.test lrswite"));
    }
    for step in 0..120 {
        let it = &mut sessions[chance.below(SESSIONS.len())];
        let mailbox = chance.below(BOXES.len());
        let flag = FLAGS[chance.below(FLAGS.len())];
        let what = format!("seed {seed}, step {step}");
        let choice = chance.below(19);
        let Some(selected) = it.selected.filter(|_| choice > 1) else {
            it.select(mailbox);
            continue;
        };
        match choice {
            2..=4 => {
                let name = it.name(mailbox);
                let subject = SUBJECTS[chance.below(SUBJECTS.len())];
                let message =
                    format!("Subject: {subject}\r\n\r\nabc{}", "d".repeat(chance.below(3)));
                it.done(&format!("APPEND {name} ({flag}) {{{}+}}\r\n{message}", message.len()));
                model[mailbox].add(BTreeSet::from([flag.to_owned()]));
            }
            5..=7 => {
                let Some(uid) = chance.uid(it) else { continue };
                let known = it.cache().messages[&uid].clone();
                let sign = ["+", "-", ""][chance.below(3)];
                let silent = [".SILENT", ""][chance.below(2)];
                let conditional = it.way.has_mod_seqs() && known.mod_seq > 0 && chance.below(2) > 0;
                let condition = match conditional {
                    true => format!(" (UNCHANGEDSINCE {})", known.mod_seq),
                    false => String::new(),
                };
                let told =
                    it.done(&format!("UID STORE {uid}{condition} {sign}FLAGS{silent} ({flag})"));
                let Some(flags) = model[selected].messages.get_mut(&uid) else { continue };
                if told.contains("[MODIFIED ") {
                    assert!(conditional, "{what}: {told}");
                    continue;
                }
                // RFC 7162 3.1.12: other flags may have changed, but then the client is told.
                let is_known = known.flags.as_ref().is_none_or(|it| it == flags);
                if conditional && let Some(expected) = &known.flags {
                    let same = flags.contains(flag) == expected.contains(flag);
                    assert!(is_known || same && !sign.is_empty(), "{what}: stored over a change");
                }
                let store = |flags: &mut BTreeSet<String>| match sign {
                    "+" => drop(flags.insert(flag.to_owned())),
                    "-" => drop(flags.remove(flag)),
                    _ => *flags = BTreeSet::from([flag.to_owned()]),
                };
                store(flags);
                // RFC 7162 3.1.3, RFC 3501 6.4.6: what a silent client takes for granted, of the
                // flags that it knows by then: with NOTIFY it may be told of older changes
                // meanwhile.
                let flags = flags.clone();
                if let Some(known) = it.cache().messages.get_mut(&uid) {
                    let is_told = known.flags == Some(flags.clone());
                    let granted = known.flags.take().map(|mut flags| {
                        store(&mut flags);
                        flags
                    });
                    let is_granted = granted.is_none_or(|granted| granted == flags);
                    assert!(is_told || silent == ".SILENT" && is_granted, "{what}: {told}");
                    known.flags = Some(flags);
                }
            }
            8 => {
                it.done("EXPUNGE");
                model[selected].expunge(|_| true);
            }
            9 => {
                let Some(uid) = chance.uid(it) else { continue };
                it.done(&format!("UID EXPUNGE {uid}"));
                model[selected].expunge(|expunged| expunged == uid);
            }
            10 => {
                let Some(uid) = chance.uid(it) else { continue };
                it.done(&format!("UID MOVE {uid} {}", it.name(1 - selected)));
                if let Some(flags) = model[selected].messages.remove(&uid) {
                    model[1 - selected].add(flags);
                }
            }
            // By numbers: these stay as they are, whatever was expunged.
            11 if it.way.has_numbers() && it.when != When::AtOnce => {
                let Some(last) = it.numbers.len().checked_sub(1) else { continue };
                let number = chance.below(last + 1);
                let is_lost = it.way.resyncs() && chance.below(2) > 0;
                let mod_seq = if it.way.has_mod_seqs() { "MODSEQ" } else { "RFC822.SIZE" };
                let told = it.done(&format!("FETCH {} (UID {mod_seq})", number + 1));
                assert!(!told.contains("VANISHED") && !told.contains("EXPUNGE"), "{what}: {told}");
                // What waited for the next command must not be forgotten.
                if is_lost {
                    it.lose_connection();
                    it.select(selected);
                    it.settle(&model, &what);
                }
            }
            12 => {
                it.done("CLOSE");
                model[selected].expunge(|_| true);
                let deleted: Vec<u32> = {
                    let is_deleted =
                        |it: &Known| it.flags.as_ref().is_some_and(|it| it.contains("\\Deleted"));
                    let messages = it.cache().messages.iter();
                    messages.filter(|(_, known)| is_deleted(known)).map(|(uid, _)| *uid).collect()
                };
                // It knows that those are gone, unless another session saved them.
                for uid in deleted {
                    if !model[selected].messages.contains_key(&uid) {
                        it.cache().messages.remove(&uid);
                    }
                }
                it.selected = None;
                it.followed.clear();
            }
            16 | 17 if it.followed.len() < RESULTS_MAX => {
                let key = KEYS[chance.below(KEYS.len())];
                let order = ORDERS.get(chance.below(2 * ORDERS.len()));
                it.follow(key, order.copied(), chance.below(2) > 0);
            }
            16 if !it.followed.is_empty() => {
                let at = chance.below(it.followed.len());
                let Followed { tag, .. } = it.followed.remove(at);
                it.done(&format!("CANCELUPDATE \"{tag}\""));
            }
            13 => it.lose_connection(),
            14 if it.way.resyncs() => {
                let highest = it.cache().highest;
                it.done(&format!("UID FETCH 1:* (FLAGS) (CHANGEDSINCE {highest} VANISHED)"));
            }
            _ => it.settle(&model, &what),
        }
        world.settle();
    }
    for it in &mut sessions {
        let selected = it.selected.unwrap_or(0);
        if it.selected.is_none() {
            it.select(selected);
        }
        it.settle(&model, &format!("seed {seed}, end"));
    }
}

#[test]
fn every_session_has_the_same_mailbox() {
    let kit = Kit::of(&USERS);
    let first = std::env::var("SEED").ok().and_then(|it| it.parse().ok());
    match first {
        Some(seed) => play(&kit, seed),
        None => (1..=80).for_each(|seed| play(&kit, seed)),
    }
}
