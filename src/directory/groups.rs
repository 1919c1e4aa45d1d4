//! The groups file: names that stand for several users in access lists of mailboxes (RFC 4314 2).
//!
//! ```text
//! # name: member, member ...; a line that begins with white space continues the one above
//! staff: alice@example.org, bob, $board
//! board: carol@example.org
//! everybody: @example.org, @example.net
//! ```
//!
//! A member is an account, by any spelling that logs in; `@domain`, for all accounts of a domain of
//! ours; or `$group`, for all members of another group. An access list names a group by `$` and its
//! name.
//!
//! The groups of an account are worked out when the file is read, nested ones and those of its
//! domain included, so that a lookup is one in a table. Accounts that are members of the same
//! groups share one list. An account that no line names has the list of its domain.
//!
//! Immutable, part of a [`super::DirectorySnapshot`]. The server reads the file at start and on
//! reload and never writes it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use hashbrown::{HashMap, HashSet};

use super::{
    address::{account_address, account_domain},
    expansion::Ground,
    files::{DirectoryError, Entry, entries, read_lines},
    mistakes::Mistakes,
};
use crate::model::{AccountId, IDENTIFIER_MAX};

/// Longest name of a group, octets: an access list has it with a `$`.
const NAME_MAX: usize = IDENTIFIER_MAX - 1;
/// Groups of one account. Each command on a mailbox with an access list looks through them.
const GROUPS_OF_ACCOUNT_MAX: usize = 1000;
/// Names of a loop that an error shows.
const LOOP_SHOWN: usize = 10;

const FORM: &str = "expected a line \"name: member, member ...\"";

/// The groups of all accounts.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// All there are.
    names: HashSet<String>,
    /// Of accounts that a line names, with the groups of their domains.
    by_account: HashMap<AccountId, Arc<[String]>>,
    /// Of the other accounts.
    by_domain: HashMap<String, Arc<[String]>>,
    /// Of accounts in no group: one allocation for all of them.
    none: Arc<[String]>,
}

/// A parsed file.
#[derive(Debug, Default)]
struct GroupsFile {
    groups: Vec<Group>,
}

#[derive(PartialEq, Eq, Debug)]
struct Group {
    line: usize,
    name: String,
    members: Vec<Member>,
}

#[derive(PartialEq, Eq, Debug)]
struct Member {
    line: usize,
    who: Who,
}

#[derive(PartialEq, Eq, Debug)]
enum Who {
    /// Canonical, as [`super::Directory::login_key`] has it.
    Account(String),
    /// Every account of the domain.
    Domain(String),
    /// Every member of the group with this name.
    Group(String),
}

impl Groups {
    /// Also returns a warning for each member that is nobody: it is no error, since an account that
    /// is removed must be gone, whoever names it, and with it a domain that only it had.
    pub(super) fn load(
        path: &Path,
        must_exist: bool,
        default_domain: &str,
        ground: &impl Ground,
    ) -> Result<(Groups, Vec<String>), DirectoryError> {
        let text = read_lines(path, must_exist, "groups_file", "groups")?;
        let file = GroupsFile::parse(&text, path, default_domain)?;
        let nesting = Nesting::of(&file, path)?;
        let (members, warnings) = Members::of(&file, path, ground);
        let groups = members
            .groups(&file, &nesting)
            .map_err(|(line, what)| DirectoryError::at(path, line, what))?;
        Ok((groups, warnings))
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is a group of this name, in lower case.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The groups of `account`, which has the canonical address `key`. Sorted, each once.
    pub(super) fn of(&self, account: AccountId, key: &str) -> &Arc<[String]> {
        let of_domain = || self.by_domain.get(domain_of(key));
        self.by_account.get(&account).or_else(of_domain).unwrap_or(&self.none)
    }

    /// The groups of whom no account is.
    pub(super) fn of_nobody(&self) -> &Arc<[String]> {
        &self.none
    }
}

fn domain_of(key: &str) -> &str {
    key.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// A mistake: the line, and what is wrong with it.
type Mistake = (usize, String);

impl GroupsFile {
    /// `path` is used only in errors.
    fn parse(text: &str, path: &Path, default_domain: &str) -> Result<GroupsFile, Mistakes> {
        let mut file = GroupsFile::default();
        let (mut seen, mut mistakes) = (HashMap::new(), Mistakes::of(path));
        for entry in entries(text) {
            let group = match Group::parse(&entry, default_domain) {
                Ok(group) => group,
                Err((line, what)) => {
                    mistakes.add(line, what);
                    continue;
                }
            };
            if let Some(first) = seen.insert(group.name.clone(), group.line) {
                let what = format!(
                    "{} has a line already (line {first}): put all its members there",
                    group.name
                );
                mistakes.add(group.line, what);
            }
            file.groups.push(group);
        }
        mistakes.or(file)
    }
}

impl Group {
    fn parse(entry: &Entry<'_>, default_domain: &str) -> Result<Group, Mistake> {
        let line = entry.line;
        let form = || (line, FORM.to_owned());
        let ((_, first), later) = entry.parts.split_first().ok_or_else(form)?;
        let (name, rest) = first.split_once(':').ok_or_else(form)?;
        let name = name.trim();
        check_name(name).map_err(|what| (line, format!("{name:?}: {what}")))?;
        let mut members = Vec::new();
        for (line, part) in std::iter::once((line, rest)).chain(later.iter().copied()) {
            for text in part.split(',').map(str::trim).filter(|text| !text.is_empty()) {
                let who = Who::parse(text, default_domain)
                    .map_err(|what| (line, format!("{text:?}: {what}")))?;
                members.push(Member { line, who });
            }
        }
        match members.is_empty() {
            true => Err((line, format!("{name} has no member: add one, or remove the line"))),
            false => Ok(Group { line, name: name.to_owned(), members }),
        }
    }
}

/// The lines of a groups file that name the account with the canonical address `key` by itself, and
/// the groups that they are of. Blocks.
///
/// # Errors
/// A file that cannot be read or has a mistake.
pub fn groups_naming(
    path: &Path,
    default_domain: &str,
    key: &str,
) -> Result<Vec<(usize, String)>, DirectoryError> {
    let text = read_lines(path, false, "groups_file", "groups")?;
    let file = GroupsFile::parse(&text, path, default_domain)?;
    let mut found = Vec::new();
    for group in &file.groups {
        let named =
            group.members.iter().filter(|it| matches!(&it.who, Who::Account(it) if it == key));
        found.extend(named.map(|member| (member.line, group.name.clone())));
    }
    Ok(found)
}

/// Whether `text` can be the name of a group.
pub fn is_group_name(text: &str) -> bool {
    check_name(text).is_ok()
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!("the name is missing; {FORM}"));
    }
    if let Some(plain) = name.strip_prefix('$') {
        return Err(format!("a line begins with the name alone, without $: {plain}"));
    }
    if name.len() > NAME_MAX {
        return Err(format!("the name of a group has at most {NAME_MAX} octets"));
    }
    if name.chars().any(|c| "$@,".contains(c) || c.is_whitespace() || c.is_control()) {
        return Err(
            "the name of a group has no spaces, no $, no @ and no control characters, e.g. \
                    sales-team"
                .to_owned(),
        );
    }
    let lower = name.to_lowercase();
    match lower == name {
        true => Ok(()),
        false => Err(format!("the name of a group is in lower case: write {lower}")),
    }
}

impl Who {
    fn parse(text: &str, default_domain: &str) -> Result<Who, &'static str> {
        if let Some(name) = text.strip_prefix('$') {
            return Ok(Who::Group(name.to_owned()));
        }
        if let Some(domain) = text.strip_prefix('@') {
            return account_domain(domain).map(Who::Domain);
        }
        let address = match text.contains('@') {
            true => account_address(text),
            false => account_address(&format!("{text}@{default_domain}")),
        };
        address.map(Who::Account)
    }
}

/// Which groups are members of which, without loops. Groups are named by their position in the
/// file.
#[derive(Debug)]
struct Nesting {
    /// The groups that have this one as a member.
    above: Vec<Vec<usize>>,
}

/// How far the search for loops is with a group.
#[derive(Clone, Copy)]
enum Visit {
    New,
    /// On the way to where the search is: reached again, it is a loop.
    Open,
    Done,
}

impl Nesting {
    /// `path` is used only in errors.
    fn of(file: &GroupsFile, path: &Path) -> Result<Nesting, Mistakes> {
        let named = |(index, group): (usize, &Group)| (group.name.clone(), index);
        let by_name: HashMap<String, usize> = file.groups.iter().enumerate().map(named).collect();
        let mut above = vec![Vec::new(); file.groups.len()];
        // The groups in each one, and the lines that name them.
        let mut below = Vec::with_capacity(file.groups.len());
        let mut mistakes = Mistakes::of(path);
        for (index, group) in file.groups.iter().enumerate() {
            let mut inner = Vec::new();
            for Member { line, who } in &group.members {
                let Who::Group(name) = who else { continue };
                let Some(&found) = by_name.get(name) else {
                    let what =
                        format!("no group {name}: add a line for it, or remove ${name} here");
                    mistakes.add(*line, what);
                    continue;
                };
                inner.push((found, *line));
                if let Some(above) = above.get_mut(found) {
                    above.push(index);
                }
            }
            below.push(inner);
        }
        if let Err((line, what)) = find_loop(file, &below) {
            mistakes.add(line, what);
        }
        mistakes.or(Nesting { above })
    }

    /// `direct` and all groups around them; `None` if they are too many.
    fn around(&self, direct: &[usize]) -> Option<Vec<usize>> {
        let mut found: Vec<usize> = Vec::new();
        let mut seen = HashSet::new();
        let mut next = 0;
        let mut add: &[usize] = direct;
        loop {
            found.extend(add.iter().copied().filter(|group| seen.insert(*group)));
            if found.len() > GROUPS_OF_ACCOUNT_MAX {
                return None;
            }
            let Some(group) = found.get(next) else { return Some(found) };
            add = self.above.get(*group).map_or(&[], Vec::as_slice);
            next += 1;
        }
    }
}

/// Groups may be nested as deeply as the file has lines, so the way is on the heap.
fn find_loop(file: &GroupsFile, below: &[Vec<(usize, usize)>]) -> Result<(), Mistake> {
    let mut visits = vec![Visit::New; below.len()];
    for start in 0..below.len() {
        if !matches!(visits.get(start), Some(Visit::New)) {
            continue;
        }
        set(&mut visits, start, Visit::Open);
        // Each with the number of its members that were looked at.
        let mut way = vec![(start, 0)];
        while let Some((group, looked_at)) = way.last_mut() {
            let Some(&(inner, line)) = below.get(*group).and_then(|inner| inner.get(*looked_at))
            else {
                set(&mut visits, *group, Visit::Done);
                way.pop();
                continue;
            };
            *looked_at += 1;
            match visits.get(inner) {
                Some(Visit::New) => {
                    set(&mut visits, inner, Visit::Open);
                    way.push((inner, 0));
                }
                Some(Visit::Open) => {
                    let from = way.iter().position(|(group, _)| *group == inner);
                    let circle = way.iter().skip(from.unwrap_or_default()).map(|(it, _)| *it);
                    return Err((line, told(file, circle.collect())));
                }
                Some(Visit::Done) | None => {}
            }
        }
    }
    Ok(())
}

/// Why a loop is a mistake.
fn told(file: &GroupsFile, circle: Vec<usize>) -> String {
    let name = |index: &usize| file.groups.get(*index).map_or("", |group| group.name.as_str());
    let first = circle.first().map_or("", name);
    let mut names: Vec<&str> = circle.iter().take(LOOP_SHOWN).map(name).collect();
    if circle.len() > LOOP_SHOWN {
        names.push("...");
    }
    names.push(first);
    let names: Vec<String> = names.iter().map(|name| format!("${name}")).collect();
    format!("${first} is a member of itself: {}; remove one of these members", names.join(" > "))
}

fn set(visits: &mut [Visit], index: usize, visit: Visit) {
    if let Some(place) = visits.get_mut(index) {
        *place = visit;
    }
}

/// The groups whose lines name an account or a domain, by position in the file.
#[derive(Debug, Default)]
struct Members {
    /// In the order of their numbers, so that of several mistakes the same is told each time.
    accounts: BTreeMap<AccountId, (String, Vec<usize>)>,
    domains: BTreeMap<String, Vec<usize>>,
}

impl Members {
    fn of(file: &GroupsFile, path: &Path, ground: &impl Ground) -> (Members, Vec<String>) {
        let mut members = Members::default();
        let mut warnings = Vec::new();
        for (index, group) in file.groups.iter().enumerate() {
            for Member { line, who } in &group.members {
                let mut warn = |what: String| {
                    warnings.push(format!("{}:{line}: {what}", path.display()));
                };
                match who {
                    Who::Group(_) => {}
                    Who::Domain(domain) if ground.is_ours(domain) => {
                        members.domains.entry(domain.clone()).or_default().push(index);
                    }
                    Who::Domain(domain) => warn(format!(
                        "@{domain} is not a domain of ours, so nobody there is a member of ${}: \
                         correct it, or remove it",
                        group.name
                    )),
                    Who::Account(key) => match ground.account(key) {
                        Some(account) => {
                            let found = members.accounts.entry(account);
                            let (_, direct) = found.or_insert_with(|| (key.clone(), Vec::new()));
                            direct.push(index);
                        }
                        None if ground.is_ours(domain_of(key)) => warn(format!(
                            "{key}: no account has this address (aliases do not count), so it is \
                             no member of ${}: correct it, or add the account",
                            group.name
                        )),
                        // Nobody logs in here by an address elsewhere.
                        None => {}
                    },
                }
            }
        }
        (members, warnings)
    }

    fn groups(self, file: &GroupsFile, nesting: &Nesting) -> Result<Groups, Mistake> {
        let mut lists = Lists { file, nesting, made: HashMap::new() };
        let names = file.groups.iter().map(|group| group.name.clone()).collect();
        let mut groups = Groups { names, ..Groups::default() };
        for (domain, direct) in &self.domains {
            let list = lists.list(direct, || format!("@{domain}"))?;
            groups.by_domain.insert(domain.clone(), list);
        }
        for (account, (key, mut direct)) in self.accounts {
            direct.extend(self.domains.get(domain_of(&key)).into_iter().flatten());
            direct.sort_unstable();
            direct.dedup();
            let list = lists.list(&direct, || key.clone())?;
            groups.by_account.insert(account, list);
        }
        Ok(groups)
    }
}

/// Makes the lists of names, each once.
struct Lists<'a> {
    file: &'a GroupsFile,
    nesting: &'a Nesting,
    /// By the groups whose lines name the member.
    made: HashMap<Vec<usize>, Arc<[String]>>,
}

impl Lists<'_> {
    fn list(
        &mut self,
        direct: &[usize],
        who: impl FnOnce() -> String,
    ) -> Result<Arc<[String]>, Mistake> {
        if let Some(list) = self.made.get(direct) {
            return Ok(list.clone());
        }
        let group = |index: &usize| self.file.groups.get(*index);
        let Some(around) = self.nesting.around(direct) else {
            let line = direct.first().and_then(group).map_or(1, |group| group.line);
            let what = format!(
                "{} is in more than {GROUPS_OF_ACCOUNT_MAX} groups, with those that have its groups \
                 as members: take it out of some",
                who()
            );
            return Err((line, what));
        };
        let mut names: Vec<String> =
            around.iter().filter_map(group).map(|group| group.name.clone()).collect();
        names.sort_unstable();
        let list: Arc<[String]> = names.into();
        self.made.insert(direct.to_vec(), list.clone());
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::address::Address, *};

    /// Alice is 1, Bob 2, Carol 3, all at demo.test; Eve is 4, at other.test.
    struct Four;

    impl Ground for Four {
        fn account(&self, key: &str) -> Option<AccountId> {
            let keys = ["alice@demo.test", "bob@demo.test", "carol@demo.test", "eve@other.test"];
            let index = keys.iter().position(|it| *it == key)?;
            Some(AccountId(index as u64 + 1))
        }

        fn postmaster(&self) -> Option<AccountId> {
            None
        }

        fn is_ours(&self, domain: &str) -> bool {
            ["demo.test", "other.test", "empty.test"].contains(&domain)
        }

        fn separators(&self) -> &str {
            "+"
        }
    }

    fn load(text: &str) -> Result<(Groups, Vec<String>), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("groups");
        std::fs::write(&path, text).unwrap();
        let place = format!("{}/", folder.path().display());
        let plain = |text: String| text.replace(&place, "");
        match Groups::load(&path, true, "demo.test", &Four) {
            Ok((groups, warnings)) => Ok((groups, warnings.into_iter().map(plain).collect())),
            Err(error) => Err(plain(error.to_string())),
        }
    }

    /// The groups of the four accounts.
    fn of_all(groups: &Groups) -> [String; 4] {
        let keys = ["alice@demo.test", "bob@demo.test", "carol@demo.test", "eve@other.test"];
        keys.map(|key| groups.of(Four.account(key).unwrap(), key).join(" "))
    }

    #[test]
    fn lines_and_their_continuations() {
        let text = "# ours\n\nstaff: Alice, \"Bob\"@Demo.TEST,\n\t# between\n\t$board,@Other.test,\n\
                    board : carol@demo.test\nl'équipe_2: x@else.test\n";
        let parsed = GroupsFile::parse(text, Path::new("groups"), "demo.test").unwrap().groups;
        let account = |line, key: &str| Member { line, who: Who::Account(key.to_owned()) };
        let expected = [
            Group {
                line: 3,
                name: "staff".to_owned(),
                members: vec![
                    account(3, "alice@demo.test"),
                    account(3, "bob@demo.test"),
                    Member { line: 5, who: Who::Group("board".to_owned()) },
                    Member { line: 5, who: Who::Domain("other.test".to_owned()) },
                ],
            },
            Group {
                line: 6,
                name: "board".to_owned(),
                members: vec![account(6, "carol@demo.test")],
            },
            Group {
                line: 7,
                name: "l'équipe_2".to_owned(),
                members: vec![account(7, "x@else.test")],
            },
        ];
        assert_eq!(parsed, expected);
    }

    #[test]
    fn members_are_in_all_groups_around_theirs() {
        const CASES: &[(&str, [&str; 4])] = &[
            ("", ["", "", "", ""]),
            ("a: alice, bob\nb: bob", ["a", "a b", "", ""]),
            ("z: alice\nm: alice\na: alice", ["a m z", "", "", ""]),
            // The same member twice.
            (
                "a: alice, ALICE@demo.test, \"alice\"@demo.test, $b, $b\nb: alice",
                ["a b", "", "", ""],
            ),
            ("a: $b\nb: $c, bob\nc: carol", ["", "a b", "a b c", ""]),
            // Two ways to the same group.
            ("top: $l, $r\nl: $low\nr: $low\nlow: carol", ["", "", "l low r top", ""]),
            ("all: @demo.test\nbob: bob", ["all", "all bob", "all", ""]),
            (
                "all: @demo.test, @OTHER.test, alice\nin: $all",
                ["all in", "all in", "all in", "all in"],
            ),
            (
                "d: @demo.test, @empty.test\no: @other.test\ne: eve@other.test",
                ["d", "d", "d", "e o"],
            ),
            // A group is no user, whatever its name.
            ("alice: bob\nbob: $alice", ["", "alice bob", "", ""]),
        ];
        for (text, expected) in CASES {
            let (groups, warnings) = load(text).expect(text);
            assert_eq!(of_all(&groups), *expected, "{text}");
            assert!(warnings.is_empty(), "{text}: {warnings:?}");
        }
    }

    #[test]
    fn members_who_are_nobody_are_left_out() {
        let text = "a: alice, nobody,\n  alice+x\nb: $a, x@else.test, @else.test\nc: postmaster";
        let (groups, warnings) = load(text).unwrap();
        assert_eq!(of_all(&groups), ["a b", "", "", ""]);
        let nobody = |key: &str, group: &str| {
            format!(
                "{key}@demo.test: no account has this address (aliases do not count), so it is no \
                 member of ${group}: correct it, or add the account"
            )
        };
        assert_eq!(
            warnings,
            [
                format!("groups:1: {}", nobody("nobody", "a")),
                format!("groups:2: {}", nobody("alice+x", "a")),
                "groups:3: @else.test is not a domain of ours, so nobody there is a member of $b: \
                 correct it, or remove it"
                    .to_owned(),
                format!("groups:4: {}", nobody("postmaster", "c")),
            ]
        );
    }

    #[test]
    fn mistakes_name_file_and_line() {
        let mut long_loop = String::new();
        for number in 0..30 {
            long_loop += &format!("g{number}: alice, $g{}\n", (number + 1) % 30);
        }
        let many: String = (0..1001).map(|number| format!("g{number}: alice\n")).collect();
        let mut chain = String::from("# deep\nc0: bob\n");
        for number in 1..=1000 {
            chain += &format!("c{number}: $c{}\n", number - 1);
        }
        let wide: String = (0..1001).map(|number| format!("w{number}: @demo.test\n")).collect();
        let long_name = format!("{}: alice", "x".repeat(NAME_MAX + 1));
        let cases: &[(&str, &str)] = &[
            ("staff alice", "groups:1: expected a line \"name: member, member ...\""),
            ("\n alice@demo.test", "groups:2: expected a line"),
            (": alice", "groups:1: \"\": the name is missing; expected a line"),
            ("a:", "groups:1: a has no member: add one, or remove the line"),
            ("a: ,\n  ,", "groups:1: a has no member"),
            ("$a: bob", "groups:1: \"$a\": a line begins with the name alone, without $: a"),
            (
                "Staff: bob",
                "groups:1: \"Staff\": the name of a group is in lower case: write staff",
            ),
            ("a b: bob", "groups:1: \"a b\": the name of a group has no spaces"),
            ("a@b: bob", "groups:1: \"a@b\": the name of a group has no spaces"),
            ("@demo.test: bob", "groups:1: \"@demo.test\": the name of a group has no spaces"),
            ("a,b: bob", "groups:1: \"a,b\": the name of a group has no spaces"),
            ("a\u{7f}b: bob", "groups:1: \"a\\u{7f}b\": the name of a group has no spaces"),
            (&long_name, "groups:1: \"xx"),
            (
                "a: bob\n\na: carol",
                "groups:3: a has a line already (line 1): put all its members there",
            ),
            ("a: bob,\n  c d", "groups:2: \"c d\": an account's address has no spaces"),
            ("a: bob carol", "groups:1: \"bob carol\": an account's address has no spaces"),
            ("a: @", "groups:1: \"@\": expected a domain after the @"),
            ("a: bob: carol", "groups:1: \"bob: carol\": an account's address has no spaces"),
            ("a: bob,\n  $b", "groups:2: no group b: add a line for it, or remove $b here"),
            ("a: $A", "groups:1: no group A: add a line"),
            ("a: $", "groups:1: no group : add a line"),
            ("a: $a", "groups:1: $a is a member of itself: $a > $a; remove one of these members"),
            (
                "x: $b\na: $x\nb: bob,\n  $c\nc: $b",
                "groups:5: $b is a member of itself: $b > $c > $b; remove one of these members",
            ),
            (&long_loop, "groups:30: $g0 is a member of itself: $g0 > $g1 > $g2 > "),
            (&many, "groups:1: alice@demo.test is in more than 1000 groups, with those that have"),
            (&chain, "groups:2: bob@demo.test is in more than 1000 groups"),
            (&wide, "groups:1: @demo.test is in more than 1000 groups"),
        ];
        for (text, expected) in cases {
            let said = load(text).expect_err(text);
            assert!(said.starts_with(expected), "{text}\n said: {said}");
            assert!(said.len() < 500, "{said}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let said = load("a b: bob\nc: @\nd: bob\nd: carol\n").unwrap_err();
        let lines: Vec<&str> = said.lines().map(|line| &line[..9]).collect();
        assert_eq!(lines, ["groups:1:", "groups:2:", "groups:4:"], "{said}");
        let said = load("a: $x\nb: $y, $a\nc: $c").unwrap_err();
        let lines: Vec<&str> = said.lines().map(|line| &line[..9]).collect();
        assert_eq!(lines, ["groups:1:", "groups:2:", "groups:3:"], "{said}");
    }

    #[test]
    fn depth_alone_is_no_mistake() {
        let mut text = String::from("top: $c0\n");
        for number in 0..100_000 {
            text += &format!("c{number}: $c{}\n", number + 1);
        }
        text += "c100000: x@else.test\nlow: bob\n";
        let (groups, _) = load(&text).unwrap();
        assert_eq!(
            (groups.len(), of_all(&groups)),
            (100_003, ["", "low", "", ""].map(str::to_owned))
        );
        let many: String = (0..1000).map(|number| format!("g{number}: alice\n")).collect();
        let (groups, _) = load(&many).unwrap();
        assert_eq!(groups.of(AccountId(1), "alice@demo.test").len(), GROUPS_OF_ACCOUNT_MAX);
    }

    #[test]
    fn accounts_in_the_same_groups_share_one_list() {
        let (groups, _) = load("a: alice, bob\nb: $a, @other.test\nc: carol").unwrap();
        let list = |number, key| groups.of(AccountId(number), key);
        let (alice, bob) = (list(1, "alice@demo.test"), list(2, "bob@demo.test"));
        assert!(Arc::ptr_eq(alice, bob));
        assert!(Arc::ptr_eq(list(8, "x@other.test"), list(9, "y@other.test")));
        assert!(Arc::ptr_eq(list(8, "x@demo.test"), groups.of_nobody()));
    }

    /// What an access list says must find the group.
    #[test]
    fn names_are_identifiers() {
        use crate::model::Identifier;
        for name in ["staff", "l'équipe_2", "-x", "a.b", &"x".repeat(NAME_MAX)] {
            check_name(name).unwrap();
            let found = Identifier::parse(&format!("${name}")).unwrap();
            assert_eq!(found, Identifier::Group(name.to_owned()));
        }
    }

    /// A member is found by the key of a log-in, so both must agree.
    #[test]
    fn members_have_the_spelling_of_log_ins() {
        for text in ["Alice", "ALICE@Demo.Test", "\"alice\"@demo.test", "GRÖSSE@demo.test", "a+b"]
        {
            let completed =
                if text.contains('@') { text.to_owned() } else { format!("{text}@demo.test") };
            let key = Address::parse(&completed).unwrap().key();
            assert_eq!(Who::parse(text, "demo.test"), Ok(Who::Account(key)), "{text}");
        }
    }
}
