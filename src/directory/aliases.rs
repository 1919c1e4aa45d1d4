//! The aliases file: addresses that stand for others, catch-alls, and addresses that lead nowhere.
//!
//! ```text
//! # address: target, target ...; a line that begins with white space continues the one above
//! sales@example.org: alice@example.org, bob@example.org, partner@elsewhere.example
//! bob@example.org: bob, bob@elsewhere.example
//! old@example.org: :reject moved to new@example.org
//! noreply@example.org: :discard
//! @example.org: alice
//! @example.net: @example.org
//! ```
//!
//! An address without a domain is in the first of our domains. `@domain` is a catch-all: it gets
//! what is for no account and no other line. With the target `@other` it keeps the local part. A
//! line for an account's own address replaces the account, unless the account is one of its
//! targets: that is how mail is forwarded.
//!
//! This module reads the text; [`super::expansion`] checks where the lines lead. The server reads
//! the file at start and on reload and never writes it.

use std::{path::Path, sync::Arc};

use hashbrown::HashMap;

use super::{
    address::{Address, account_address, account_domain},
    files::{DirectoryError, Entry, entries, read_lines},
    mistakes::Mistakes,
};

/// Longest text of `:reject`, octets: with its codes it fits a reply line (RFC 5321 4.5.3.1.5).
const REJECT_TEXT_MAX: usize = 400;

const FORM: &str = "expected a line \"address: target, target ...\"";

/// A parsed file.
#[derive(Debug, Default)]
pub(super) struct AliasesFile {
    pub lines: Vec<AliasLine>,
}

/// One address, or one domain, and where it leads.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct AliasLine {
    pub line: usize,
    pub name: Name,
    pub leads: Leads,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Name {
    /// Canonical.
    Address(String),
    /// The rest of this domain.
    CatchAll(String),
}

impl Name {
    pub(super) fn domain(&self) -> &str {
        match self {
            Name::Address(address) => address.rsplit_once('@').map_or("", |(_, domain)| domain),
            Name::CatchAll(domain) => domain,
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Name::Address(address) => f.write_str(address),
            Name::CatchAll(domain) => write!(f, "@{domain}"),
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
pub(super) enum Leads {
    To(Vec<Written>),
    /// The same local part in this domain.
    Domain(String),
    Discard,
    /// Refused for good, with this text.
    Reject(Arc<str>),
}

/// A target as it was written, with a domain.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Written {
    pub line: usize,
    pub address: String,
}

impl AliasesFile {
    /// An absent file has no aliases, unless it `must_exist`: the configuration names it, so it was
    /// moved away or never made, and to refuse mail for all of them for good would be wrong.
    pub(super) fn load(
        path: &Path,
        must_exist: bool,
        default_domain: &str,
    ) -> Result<AliasesFile, DirectoryError> {
        let text = read_lines(path, must_exist, "aliases_file", "aliases")?;
        AliasesFile::parse(&text, path, default_domain)
    }

    /// `path` is used only in errors.
    pub(super) fn parse(
        text: &str,
        path: &Path,
        default_domain: &str,
    ) -> Result<AliasesFile, DirectoryError> {
        let mut file = AliasesFile::default();
        let (mut seen, mut mistakes) = (HashMap::new(), Mistakes::of(path));
        for entry in entries(text) {
            let line = entry.line;
            let parsed = match entry.parse(default_domain) {
                Ok(parsed) => parsed,
                Err((line, what)) => {
                    mistakes.add(line, what);
                    continue;
                }
            };
            if let Some(first) = seen.insert(parsed.name.clone(), line) {
                let what = format!(
                    "{} has a line already (line {first}): put all its targets there",
                    parsed.name
                );
                mistakes.add(line, what);
            }
            file.lines.push(parsed);
        }
        Ok(mistakes.or(file)?)
    }
}

/// A line of an aliases file that names an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AliasMention {
    /// The line on which it is named.
    pub line: usize,
    /// The address or `@domain` whose mail goes to it; `None` if the line is the address's own.
    pub alias: Option<String>,
}

/// The lines of an aliases file that name the canonical address `key`, or a sub-address of it, and
/// whether as a target. Blocks.
///
/// # Errors
/// A file that cannot be read or has a mistake.
pub fn aliases_naming(
    path: &Path,
    default_domain: &str,
    separators: &str,
    key: &str,
) -> Result<Vec<AliasMention>, DirectoryError> {
    let file = AliasesFile::load(path, false, default_domain)?;
    let leads_to = |address: &str| {
        let Some(address) = Address::parse(address) else { return false };
        let without = address.without_subaddress(separators);
        address.key() == key || without.is_some_and(|it| it.key() == key)
    };
    let mut found = Vec::new();
    for AliasLine { line, name, leads } in &file.lines {
        if matches!(name, Name::Address(address) if address == key) {
            found.push(AliasMention { line: *line, alias: None });
            continue;
        }
        let Leads::To(targets) = leads else { continue };
        let targets = targets.iter().filter(|it| leads_to(&it.address));
        let alias = || Some(name.to_string());
        found.extend(targets.map(|it| AliasMention { line: it.line, alias: alias() }));
    }
    Ok(found)
}

impl Entry<'_> {
    fn parse(&self, default_domain: &str) -> Result<AliasLine, (usize, String)> {
        let here = |what: &str| (self.line, what.to_owned());
        let (_, first) = self.parts.first().ok_or_else(|| here(FORM))?;
        let (name, rest) = first.split_once(':').ok_or_else(|| here(FORM))?;
        let name = parse_name(name.trim(), default_domain)
            .map_err(|what| (self.line, format!("{:?}: {what}", name.trim())))?;
        let rest = rest.trim();
        let leads = if let Some(word) = rest.strip_prefix(':') {
            let mut text = word.to_owned();
            for (_, part) in self.parts.iter().skip(1) {
                text.push(' ');
                text.push_str(part);
            }
            directive(&text).map_err(|what| (self.line, what))?
        } else {
            let later = self.parts.iter().skip(1).copied();
            let parts = std::iter::once((self.line, rest)).chain(later);
            self.targets(&name, parts, default_domain)?
        };
        Ok(AliasLine { line: self.line, name, leads })
    }

    fn targets<'a>(
        &self,
        name: &Name,
        parts: impl Iterator<Item = (usize, &'a str)>,
        default_domain: &str,
    ) -> Result<Leads, (usize, String)> {
        let mut targets = Vec::new();
        let mut domains = Vec::new();
        // A target that no comma follows yet. The last one may have a comma, as the lines below it
        // may be commented out.
        let mut after_target = false;
        for (line, part) in parts {
            for (index, target) in part.split(',').map(str::trim).enumerate() {
                if index > 0 && !std::mem::take(&mut after_target) {
                    return Err((line, format!("{name}: a target is missing before a comma")));
                }
                if target.is_empty() {
                    continue;
                }
                after_target = true;
                let wrong = |what: &str| (line, format!("{target:?}: {what}"));
                if target.starts_with(':') {
                    return Err(wrong(":discard and :reject stand alone, as the only target"));
                }
                if let Some(domain) = target.strip_prefix('@') {
                    if matches!(name, Name::Address(_)) {
                        return Err(wrong("only a line for a whole domain leads to a domain"));
                    }
                    domains.push(account_domain(domain).map_err(wrong)?);
                    continue;
                }
                let address = match target.contains('@') {
                    true => target.to_owned(),
                    false => format!("{target}@{default_domain}"),
                };
                account_address(&address).map_err(wrong)?;
                targets.push(Written { line, address });
            }
        }
        match (domains.pop(), targets.is_empty()) {
            (Some(domain), true) if domains.is_empty() => Ok(Leads::Domain(domain)),
            (Some(_), _) => Err((self.line, "a target @domain stands alone".to_owned())),
            (None, false) => Ok(Leads::To(targets)),
            (None, true) => Err((self.line, format!("{name} has no target; {FORM}"))),
        }
    }
}

fn parse_name(text: &str, default_domain: &str) -> Result<Name, String> {
    if let Some(domain) = text.strip_prefix('@') {
        return Ok(Name::CatchAll(account_domain(domain)?));
    }
    let address = match text.contains('@') {
        true => account_address(text),
        false => account_address(&format!("{text}@{default_domain}")),
    };
    Ok(Name::Address(address?))
}

/// The words that begin with a colon.
fn directive(text: &str) -> Result<Leads, String> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    match word {
        "discard" if rest.is_empty() => Ok(Leads::Discard),
        "discard" => Err(":discard stands alone, as the only target".to_owned()),
        "reject" if rest.is_empty() => {
            Err(":reject needs a text, e.g. \":reject moved to new@example.org\"".to_owned())
        }
        "reject" => match is_reply_text(rest) {
            true => Ok(Leads::Reject(Arc::from(rest))),
            false => Err(format!(
                "the text of :reject has at most {REJECT_TEXT_MAX} characters, all printable ASCII"
            )),
        },
        _ => Err(format!("\":{word}\": expected :discard or :reject")),
    }
}

/// Whether a reply may carry `text`.
pub fn is_reply_text(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= REJECT_TEXT_MAX
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AliasesFile, String> {
        AliasesFile::parse(text, Path::new("aliases"), "demo.test").map_err(|it| it.to_string())
    }

    #[test]
    fn lines_and_their_continuations() {
        let text = "# ours\n\nSales: Alice, bob@demo.test,\n\t# between\n\tX@Else.test\n\
                    @Demo.test: alice\n@a.test: @B.test,\nold: :reject moved\n  away\nno: :discard\n";
        let lines = parse(text).unwrap().lines;
        let to = |found: &[(usize, &str)]| {
            let written = |(line, address): &(usize, &str)| Written {
                line: *line,
                address: (*address).to_owned(),
            };
            Leads::To(found.iter().map(written).collect())
        };
        let address = |text: &str| Name::Address(text.to_owned());
        let domain = |text: &str| Name::CatchAll(text.to_owned());
        let expected = [
            (
                3,
                address("sales@demo.test"),
                to(&[(3, "Alice@demo.test"), (3, "bob@demo.test"), (5, "X@Else.test")]),
            ),
            (6, domain("demo.test"), to(&[(6, "alice@demo.test")])),
            (7, domain("a.test"), Leads::Domain("b.test".to_owned())),
            (8, address("old@demo.test"), Leads::Reject(Arc::from("moved away"))),
            (10, address("no@demo.test"), Leads::Discard),
        ];
        assert_eq!(lines.len(), expected.len());
        for (found, (line, name, leads)) in lines.into_iter().zip(expected) {
            assert_eq!(found, AliasLine { line, name, leads });
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let said = parse("a:\nb: c\nb: d\n@: x").unwrap_err();
        let lines: Vec<&str> = said.lines().map(|line| &line[..10]).collect();
        assert_eq!(lines, ["aliases:1:", "aliases:3:", "aliases:4:"], "{said}");
    }

    #[test]
    fn errors_name_file_and_line() {
        const CASES: &[(&str, &str)] = &[
            ("alice bob", "aliases:1: expected a line \"address: target, target ...\""),
            ("\n a@demo.test", "aliases:2: expected a line"),
            ("a:", "aliases:1: a@demo.test has no target; expected a line"),
            ("a: ,", "aliases:1: a@demo.test: a target is missing before a comma"),
            ("a: b,,c", "aliases:1: a@demo.test: a target is missing before a comma"),
            ("a: b,\n  c, ,d", "aliases:2: a@demo.test: a target is missing before a comma"),
            ("a: b,\n  , c", "aliases:2: a@demo.test: a target is missing before a comma"),
            ("a b: c", "aliases:1: \"a b\": an account's address has no spaces"),
            ("a: b\nA@Demo.test: c", "aliases:2: a@demo.test has a line already (line 1)"),
            ("a: b,\n  c d", "aliases:2: \"c d\": an account's address has no spaces"),
            ("a: @demo.test", "aliases:1: \"@demo.test\": only a line for a whole domain"),
            ("@demo.test: @a.test, b", "aliases:1: a target @domain stands alone"),
            ("@: b", "aliases:1: \"@\": expected a domain after the @"),
            ("a: b, :discard", "aliases:1: \":discard\": :discard and :reject stand alone"),
            ("a: :discard b", "aliases:1: :discard stands alone"),
            ("a: :reject", "aliases:1: :reject needs a text"),
            ("a: :reject größer", "aliases:1: the text of :reject has at most 400"),
            ("a: :drop", "aliases:1: \":drop\": expected :discard or :reject"),
        ];
        for (text, expected) in CASES {
            let said = parse(text).unwrap_err();
            assert!(said.starts_with(expected), "{text}\n said: {said}");
        }
    }

    #[test]
    fn an_absent_file_is_empty_unless_it_is_named_and_any_other_trouble_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aliases");
        assert!(AliasesFile::load(&path, false, "demo.test").unwrap().lines.is_empty());
        let said = AliasesFile::load(&path, true, "demo.test").unwrap_err().to_string();
        assert!(said.starts_with("aliases_file: ") && said.contains("not there"), "{said}");
        std::fs::write(&path, b"a: b\nc: \xff\n").unwrap();
        let said = AliasesFile::load(&path, false, "demo.test").unwrap_err().to_string();
        assert_eq!(said, format!("{}:2: not UTF-8", path.display()));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        AliasesFile::load(&path, false, "demo.test").unwrap_err();
    }
}
