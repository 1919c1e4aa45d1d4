//! Names of annotations (RFC 5464 3.2).

use super::super::cursor::{Cursor, Parsed};

/// Octets of a name.
const ENTRY_NAME_MAX: usize = 256;

/// Entries in one command.
pub(super) const ENTRIES_MAX: usize = 100;

/// Whose an annotation is (RFC 5464 3.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Each user's own.
    Private,
    /// One for all users.
    Shared,
}

/// The name of an entry: a path below `/private` or `/shared`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryName {
    told: String,
    pub scope: Scope,
}

impl EntryName {
    /// As the client wrote it.
    pub fn told(&self) -> &str {
        &self.told
    }

    /// In the one spelling in which it is kept: case does not matter (RFC 5464 3.2).
    pub fn key(&self) -> String {
        self.told.to_ascii_lowercase()
    }

    /// Whether it is a mere scope, which has no value itself.
    pub fn is_scope(&self) -> bool {
        self.told.matches('/').count() == 1
    }

    /// # Errors
    /// What a client did wrong.
    pub(in crate::protocol::imap) fn parse(name: &[u8]) -> Parsed<EntryName> {
        let is_plain = |octet: &u8| matches!(octet, 0x20..=0x7e) && !b"*%".contains(octet);
        if name.len() > ENTRY_NAME_MAX || !name.iter().all(is_plain) {
            return Err("not a name of an annotation");
        }
        let told = std::str::from_utf8(name).map_err(|_| "not a name of an annotation")?;
        if told.contains("//") || told.ends_with('/') {
            return Err("a level of an annotation's name is empty");
        }
        let scope = told.strip_prefix('/').map(|rest| rest.split('/').next().unwrap_or_default());
        let scope = match scope {
            Some(scope) if scope.eq_ignore_ascii_case("private") => Scope::Private,
            Some(scope) if scope.eq_ignore_ascii_case("shared") => Scope::Shared,
            _ => return Err("annotations are below /private or /shared"),
        };
        Ok(EntryName { told: told.to_owned(), scope })
    }
}

/// `entries = entry / "(" entry *(SP entry) ")"`. One that comes again is left out: a response has
/// each once.
pub(in crate::protocol::imap) fn entries(cursor: &mut Cursor<'_>) -> Parsed<Vec<EntryName>> {
    let mut entries = Vec::new();
    match cursor.peek() {
        Some(b'(') => {
            cursor.list(false, "names of annotations are missing", |it| add(&mut entries, it))?;
        }
        _ => add(&mut entries, cursor)?,
    }
    Ok(entries)
}

/// Names without parentheses, as in the examples of RFC 5464 4.4.1.
pub(super) fn bare_entries(cursor: &mut Cursor<'_>) -> Parsed<Vec<EntryName>> {
    let mut entries = Vec::new();
    add(&mut entries, cursor)?;
    while cursor.another() {
        add(&mut entries, cursor)?;
    }
    Ok(entries)
}

fn add(entries: &mut Vec<EntryName>, cursor: &mut Cursor<'_>) -> Parsed<()> {
    let name = EntryName::parse(&cursor.astring()?)?;
    if !entries.iter().any(|it| it.told.eq_ignore_ascii_case(&name.told)) {
        entries.push(name);
    }
    match entries.len() <= ENTRIES_MAX {
        true => Ok(()),
        false => Err("too many annotations"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        const CASES: &[(&str, Option<Scope>)] = &[
            ("/shared/comment", Some(Scope::Shared)),
            ("/PRIVATE/Comment", Some(Scope::Private)),
            ("/private", Some(Scope::Private)),
            ("/shared/vendor/cmu/cyrus-imapd/color", Some(Scope::Shared)),
            ("/private/a b", Some(Scope::Private)),
            ("/sharedx/comment", None),
            ("shared/comment", None),
            ("/comment", None),
            ("/", None),
            ("", None),
            ("/shared/", None),
            ("/shared//comment", None),
            ("/shared/a*b", None),
            ("/shared/a%", None),
            ("/shared/a\u{1}b", None),
            ("/shared/ü", None),
        ];
        for (name, scope) in CASES {
            let parsed = EntryName::parse(name.as_bytes());
            assert_eq!(parsed.ok().map(|name| name.scope), *scope, "{name}");
        }
        let long = format!("/shared/{}", "x".repeat(ENTRY_NAME_MAX));
        assert!(EntryName::parse(long.as_bytes()).is_err());
        let name = EntryName::parse(b"/Private/Comment").unwrap();
        assert_eq!((name.told(), &*name.key()), ("/Private/Comment", "/private/comment"));
        assert!(!name.is_scope() && EntryName::parse(b"/private").unwrap().is_scope());
    }
}
