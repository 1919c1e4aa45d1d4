//! Where the lines of the aliases file lead: checked once, when it is read, and followed for each
//! recipient that is an alias.
//!
//! Every target that is written in the file is resolved when it is read, so that the lines form a
//! graph. A line that leads back to itself, that is nested deeper than [`DEPTH_MAX`] or has more
//! than [`EXPANSION_MAX`] recipients is an error. Following it later therefore ends, and costs no
//! more than that, whatever the address. The walk counts nevertheless.
//!
//! Immutable, part of a [`super::DirectorySnapshot`].

use std::{path::Path, sync::Arc};

use hashbrown::{HashMap, HashSet};

use super::{
    Destination, Reason, Target,
    address::Address,
    aliases::{AliasLine, AliasesFile, Leads, Name, Written},
    files::DirectoryError,
};
use crate::model::AccountId;

/// Lines that lead to one another, one after the other.
const DEPTH_MAX: usize = 32;
/// Recipients of one address. More are a mailing list, which needs its own program.
const EXPANSION_MAX: usize = 1000;

/// The accounts and domains that the lines refer to.
pub(super) trait Ground {
    /// The account with exactly this address.
    fn account(&self, key: &str) -> Option<AccountId>;
    /// The account that gets mail for postmaster at our domains.
    fn postmaster(&self) -> Option<AccountId>;
    fn is_ours(&self, domain: &str) -> bool;
    fn separators(&self) -> &str;
}

/// All lines, by their names.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    lines: Vec<Alias>,
    by_address: HashMap<String, usize>,
    /// Catch-alls.
    by_domain: HashMap<String, usize>,
}

#[derive(Debug)]
struct Alias {
    leads: Steps,
    reason: Reason,
    /// The targets as they were written, without those that are nobody.
    members: Box<[Box<str>]>,
}

#[derive(Debug)]
enum Steps {
    To(Box<[Step]>),
    Domain(String),
    Discard,
    Reject(Arc<str>),
}

/// A resolved target.
#[derive(Debug)]
enum Step {
    Account(AccountId, Option<Box<str>>),
    /// Another line.
    Alias(usize, Option<Box<str>>),
    Remote(Box<str>),
    /// An address of ours that no account has.
    Nobody,
}

/// What an address of ours is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Account(AccountId),
    Alias(Place),
    Nobody,
}

/// A line's position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place(usize);

impl Aliases {
    /// The lines of `file`, and a warning for each target that leads to nobody.
    pub(super) fn build(
        file: AliasesFile,
        path: &Path,
        ground: &impl Ground,
    ) -> Result<(Aliases, Vec<String>), DirectoryError> {
        let mut aliases = Aliases::default();
        for (index, AliasLine { line, name, .. }) in file.lines.iter().enumerate() {
            if !ground.is_ours(name.domain()) {
                let what = format!(
                    "{name}: {} is not a domain of ours: add it to domains, or remove the line",
                    name.domain()
                );
                return Err(DirectoryError::at(path, *line, what));
            }
            match name {
                Name::Address(address) => aliases.by_address.insert(address.clone(), index),
                Name::CatchAll(domain) => aliases.by_domain.insert(domain.clone(), index),
            };
            let reason = match name {
                Name::CatchAll(_) => Reason::CatchAll,
                Name::Address(address) if ground.account(address).is_some() => Reason::Forward,
                Name::Address(_) => Reason::Alias,
            };
            // Domains first: addresses are found through them.
            let leads = match &file.lines.get(index).map(|line| &line.leads) {
                Some(Leads::Domain(domain)) => Steps::Domain(domain.clone()),
                Some(Leads::Reject(text)) => Steps::Reject(text.clone()),
                Some(Leads::Discard) => Steps::Discard,
                _ => Steps::To(Box::default()),
            };
            aliases.lines.push(Alias { leads, reason, members: Box::default() });
        }
        aliases.check_domains(&file, path, ground)?;
        let mut warnings = Vec::new();
        for (index, AliasLine { name, leads, .. }) in file.lines.iter().enumerate() {
            let Leads::To(targets) = leads else { continue };
            let mut steps = Vec::with_capacity(targets.len());
            let mut members = Vec::with_capacity(targets.len());
            for target in targets {
                let step = aliases.step(name, target, ground);
                if matches!(step, Step::Nobody) {
                    warnings.push(format!(
                        "{}:{}: {}: no account and no alias has this address, so {name} does not \
                         reach it: correct it, or add the account",
                        path.display(),
                        target.line,
                        target.address
                    ));
                }
                if !matches!(step, Step::Nobody) {
                    members.push(target.address.as_str().into());
                }
                steps.push(step);
            }
            if let Some(alias) = aliases.lines.get_mut(index) {
                alias.leads = Steps::To(steps.into());
                alias.members = members.into();
            }
        }
        let check = Check { aliases: &aliases, file: &file, path };
        let mut sizes = vec![Size::Unknown; aliases.lines.len()];
        for index in 0..aliases.lines.len() {
            check.measure(index, &mut Vec::new(), &mut sizes)?;
        }
        Ok((aliases, warnings))
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// A domain whose mail goes to another domain must get to one that is ours, and not in a
    /// circle.
    fn check_domains(
        &self,
        file: &AliasesFile,
        path: &Path,
        ground: &impl Ground,
    ) -> Result<(), DirectoryError> {
        for AliasLine { line, leads, .. } in &file.lines {
            let Leads::Domain(domain) = leads else { continue };
            if !ground.is_ours(domain) {
                let what = format!(
                    "@{domain} is not a domain of ours: name one that is, or use [[route]] to send \
                     mail elsewhere"
                );
                return Err(DirectoryError::at(path, *line, what));
            }
            let mut here = domain;
            for _ in 0..DEPTH_MAX {
                match self.by_domain.get(here).and_then(|index| self.lines.get(*index)) {
                    Some(Alias { leads: Steps::Domain(next), .. }) => here = next,
                    _ => break,
                }
            }
            if let Some(Alias { leads: Steps::Domain(_), .. }) =
                self.by_domain.get(here).and_then(|index| self.lines.get(*index))
            {
                let what = format!(
                    "@{domain} leads back here, or through more than {DEPTH_MAX} domains: point it at \
                     the domain that has the accounts"
                );
                return Err(DirectoryError::at(path, *line, what));
            }
        }
        Ok(())
    }

    fn step(&self, name: &Name, target: &Written, ground: &impl Ground) -> Step {
        let Some(address) = Address::parse(&target.address) else { return Step::Nobody };
        if !ground.is_ours(&address.domain) {
            let (local_part, domain) = target.address.rsplit_once('@').unwrap_or_default();
            return Step::Remote(format!("{local_part}@{}", domain.to_lowercase()).into());
        }
        // An account's own line that names the account means its mailbox.
        let own = Address::parse(&name.to_string()).is_some_and(|own| own == address);
        if own && let Some(account) = ground.account(&address.key()) {
            return Step::Account(account, None);
        }
        let (found, subaddressed) = self.find(&address, ground);
        let detail = subaddressed
            .then(|| super::address::detail(&target.address, ground.separators()))
            .flatten()
            .map(Box::from);
        match found {
            Found::Account(account) => Step::Account(account, detail),
            Found::Alias(Place(index)) => Step::Alias(index, detail),
            Found::Nobody => Step::Nobody,
        }
    }

    /// The account or line of an address of ours, and whether it is a sub-address of it.
    pub(super) fn find(&self, address: &Address, ground: &impl Ground) -> (Found, bool) {
        let mut address = std::borrow::Cow::Borrowed(address);
        for _ in 0..=DEPTH_MAX {
            if let Some(found) = self.named(&address.key(), ground) {
                return (found, false);
            }
            if let Some(without) = address.without_subaddress(ground.separators()) {
                if let Some(found) = self.named(&without.key(), ground) {
                    return (found, true);
                }
                if let Some(account) = ground.postmaster().filter(|_| without.is_postmaster()) {
                    return (Found::Account(account), true);
                }
            } else if let Some(account) = ground.postmaster().filter(|_| address.is_postmaster()) {
                return (Found::Account(account), false);
            }
            let Some(&index) = self.by_domain.get(&address.domain) else { break };
            match self.lines.get(index).map(|alias| &alias.leads) {
                Some(Steps::Domain(domain)) => address.to_mut().domain.clone_from(domain),
                _ => return (Found::Alias(Place(index)), false),
            }
        }
        (Found::Nobody, false)
    }

    /// A line before an account, whose mail it may forward.
    pub(super) fn named(&self, key: &str, ground: &impl Ground) -> Option<Found> {
        match self.by_address.get(key) {
            Some(&index) => Some(Found::Alias(Place(index))),
            None => ground.account(key).map(Found::Account),
        }
    }

    /// The targets of a line as the file has them, for people: of another line only its name.
    pub(super) fn members(&self, Place(index): Place) -> &[Box<str>] {
        self.lines.get(index).map_or(&[], |alias| &alias.members)
    }

    /// Follows a line. `detail`: the detail of the sub-address that led there.
    pub(super) fn expand(&self, Place(index): Place, detail: Option<&str>) -> Destination {
        let reason = self.lines.get(index).map_or(Reason::Alias, |alias| alias.reason);
        let mut walk = Walk { reason, ..Walk::default() };
        self.follow(index, detail, 0, &mut walk);
        let subaddressed = detail.is_some();
        match (&*walk.targets, walk.reject, walk.discard) {
            ([], Some(text), _) => Destination::Reject(text),
            ([], None, true) => Destination::Discard,
            ([], None, false) => Destination::UnknownUser,
            ([Target::Account { account, detail: own }], ..) if own.as_deref() == detail => {
                match subaddressed {
                    true => Destination::Subaddress(*account),
                    false => Destination::Mailbox(*account),
                }
            }
            _ => Destination::Several(walk.targets.into()),
        }
    }

    fn follow(&self, index: usize, detail: Option<&str>, depth: usize, walk: &mut Walk) {
        let Some(alias) = self.lines.get(index).filter(|_| depth <= DEPTH_MAX) else { return };
        let steps = match &alias.leads {
            Steps::To(steps) => steps,
            Steps::Reject(text) => {
                walk.reject.get_or_insert_with(|| text.clone());
                return;
            }
            Steps::Discard => {
                walk.discard = true;
                return;
            }
            // Followed by `find`.
            Steps::Domain(_) => return,
        };
        for step in steps {
            match step {
                Step::Account(account, own) => walk.add(Target::Account {
                    account: *account,
                    detail: own.clone().or_else(|| detail.map(Box::from)),
                }),
                Step::Remote(address) => {
                    walk.add(Target::Remote { address: address.clone(), reason: walk.reason });
                }
                Step::Alias(next, own) => {
                    self.follow(*next, own.as_deref().or(detail), depth + 1, walk);
                }
                Step::Nobody => {}
            }
        }
    }
}

/// What was found so far.
#[derive(Default)]
struct Walk {
    reason: Reason,
    targets: Vec<Target>,
    seen: HashSet<Target>,
    reject: Option<Arc<str>>,
    discard: bool,
}

impl Walk {
    /// Each once.
    fn add(&mut self, target: Target) {
        if self.targets.len() < EXPANSION_MAX && self.seen.insert(target.clone()) {
            self.targets.push(target);
        }
    }
}

/// What lies behind a line.
#[derive(Clone, Copy)]
enum Size {
    Unknown,
    /// Being measured: reached again, it is a loop.
    Open,
    Known {
        recipients: usize,
        height: usize,
    },
}

struct Check<'a> {
    aliases: &'a Aliases,
    file: &'a AliasesFile,
    path: &'a Path,
}

impl Check<'_> {
    /// Returns recipients and height of a line. `way` are the lines that led here, at most
    /// `DEPTH_MAX`.
    fn measure(
        &self,
        index: usize,
        way: &mut Vec<usize>,
        sizes: &mut [Size],
    ) -> Result<(usize, usize), DirectoryError> {
        match sizes.get(index) {
            Some(Size::Known { recipients, height }) => return Ok((*recipients, *height)),
            Some(Size::Unknown) => {}
            Some(Size::Open) => {
                let from = way.iter().position(|it| *it == index).unwrap_or_default();
                let circle = way.get(from..).unwrap_or_default().iter().chain([&index]);
                let names: Vec<String> = circle.map(|it| self.name(*it)).collect();
                let what = format!(
                    "{} leads back to itself: {}; remove one of these targets",
                    self.name(index),
                    names.join(" -> ")
                );
                return Err(self.at(index, what));
            }
            None => return Ok((0, 0)),
        }
        if way.len() > DEPTH_MAX {
            return Err(self.too_deep(way.first().copied().unwrap_or(index)));
        }
        let Some(Alias { leads: Steps::To(steps), .. }) = self.aliases.lines.get(index) else {
            return Ok((0, 0));
        };
        set(sizes, index, Size::Open);
        way.push(index);
        let (mut recipients, mut height) = (0, 0);
        for step in steps {
            let (more, below) = match step {
                Step::Alias(next, _) => self.measure(*next, way, sizes)?,
                Step::Account(..) | Step::Remote(_) => (1, 0),
                Step::Nobody => (0, 0),
            };
            recipients += more;
            height = height.max(below + 1);
            if recipients > EXPANSION_MAX {
                let what = format!(
                    "{} has more than {EXPANSION_MAX} recipients: use a mailing list program for so \
                     many",
                    self.name(index)
                );
                return Err(self.at(index, what));
            }
        }
        way.pop();
        if height > DEPTH_MAX {
            return Err(self.too_deep(index));
        }
        set(sizes, index, Size::Known { recipients, height });
        Ok((recipients, height))
    }

    fn too_deep(&self, index: usize) -> DirectoryError {
        let what = format!(
            "{} leads through more than {DEPTH_MAX} lines: name its last targets directly",
            self.name(index)
        );
        self.at(index, what)
    }

    fn name(&self, index: usize) -> String {
        self.file.lines.get(index).map(|line| line.name.to_string()).unwrap_or_default()
    }

    fn at(&self, index: usize, what: String) -> DirectoryError {
        let line = self.file.lines.get(index).map_or(1, |line| line.line);
        DirectoryError::at(self.path, line, what)
    }
}

fn set(sizes: &mut [Size], index: usize, size: Size) {
    if let Some(place) = sizes.get_mut(index) {
        *place = size;
    }
}
