//! docs/operations.md lists every setting as in the code, and every limit that a client can meet.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use ringmail::{
    config::SETTINGS,
    events::{EVENTS, Kind},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn operations() -> String {
    fs::read_to_string(root().join("docs/operations.md")).unwrap()
}

/// Files in and below `folder` with this ending.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, ending, found);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), ending, &mut found);
    assert!(!found.is_empty(), "{folder}");
    found.sort();
    found
}

/// The texts between backticks in one line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn every_setting_is_in_the_table_as_the_code_has_it() {
    let text = operations();
    for setting in SETTINGS {
        let default = match setting.default() {
            Some(default) => format!("`{default}`"),
            None => "–".to_owned(),
        };
        let by = if setting.reloads { "reload" } else { "restart" };
        let begins = format!("| `{}` | {by} | {default} | {} | ", setting.name, setting.wants());
        assert!(text.lines().any(|line| line.starts_with(&begins)), "no line begins: {begins}");
    }
}

/// Every event with its setting and fields, in the order of the code, and no other.
#[test]
fn the_list_of_events_is_that_of_the_code() {
    let text = operations();
    let section = text.split("## The event log").nth(1).and_then(|it| it.split("\n## ").next());
    let rows: Vec<&str> =
        section.expect("section").lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(rows.len(), EVENTS.len());
    for (row, event) in rows.iter().zip(EVENTS) {
        let setting = match event.kind {
            Kind::Server => "always".to_owned(),
            kind => format!("`events.{}`", kind.name()),
        };
        let fields: Vec<String> = event.fields.iter().map(|name| format!("`{name}`")).collect();
        let fields = if fields.is_empty() { "–".to_owned() } else { fields.join(", ") };
        let begins = format!("| `{}` | {setting} | {fields} | ", event.name);
        assert!(row.starts_with(&begins), "expected: {begins}\nfound: {row}");
        assert!(row.len() > begins.len() + 10, "says nothing: {row}");
    }
}

#[test]
fn every_kind_of_event_has_its_setting() {
    let settings = SETTINGS.iter().filter_map(|setting| setting.name.strip_prefix("events."));
    let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Server).map(Kind::name);
    assert_eq!(
        settings.filter(|name| *name != "to").collect::<BTreeSet<_>>(),
        kinds.collect::<BTreeSet<_>>()
    );
}

/// Files may have the same names as settings: `store.txt`.
const ENDINGS: &[&str] = &["log", "md", "rs", "toml", "txt"];

/// `section.key` and `section.key = value` in all texts for operators.
#[test]
fn no_setting_is_named_that_is_none() {
    let sections: BTreeSet<&str> =
        SETTINGS.iter().filter_map(|setting| Some(setting.name.split_once('.')?.0)).collect();
    let mut pages = files("docs", ".md");
    pages.extend(files("tuning", ".md"));
    pages.push(root().join("README.md"));
    let mut named = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for (number, line) in text.lines().enumerate() {
            for code in quoted(line) {
                let name = code.split([' ', '=']).next().unwrap_or_default();
                let Some((section, key)) = name.split_once('.') else { continue };
                let is_key =
                    key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                if !sections.contains(section) || !is_key || ENDINGS.contains(&key) {
                    continue;
                }
                named += 1;
                let known = SETTINGS.iter().any(|setting| setting.name == name);
                assert!(known, "{}:{}: {name} is no setting", page.display(), number + 1);
            }
        }
    }
    assert!(named > SETTINGS.len());
}

/// Internal limits that neither clients nor operators can meet: of buffers, turns and output.
const INTERNAL: &[&str] = &[
    "CANDIDATE_SIZE_MAX",
    "CHUNKS_PIPELINED_MAX",
    "DIGITS_MAX",
    "HEADER_KEPT_MAX",
    "HELD_MAX",
    "IDLE_REPLIES_MAX",
    "LABEL_SIZE_MAX",
    "NAME_SIZE_MAX",
    "NUMBER_SIZE_MAX",
    "OUTPUT_MAX",
    "PIPELINED_MAX",
    "QUOTED_MAX",
    "REFERENCE_SIZE_MAX",
    "REPLY_TEXT_MAX",
    "REMEMBERED_PARTS_MAX",
    "REMEMBERED_TEXTS_MAX",
    "BEFORE_MAX",
    "SHORT_MAX",
    "RETRY_PAUSE_MAX",
    "UNDECIDED_MAX",
    "WORD_MAX",
];

/// Names of constants that end in `_MAX`.
fn bounds(text: &str) -> impl Iterator<Item = &str> {
    let names =
        text.lines().filter_map(|line| Some(line.split_once("const ")?.1.split_once(':')?.0));
    names.filter(|name| name.ends_with("_MAX"))
}

#[test]
fn every_bound_that_a_client_can_meet_is_in_the_table() {
    let text = operations();
    let told: BTreeSet<&str> = text.lines().flat_map(quoted).collect();
    let mut sources = files("src/protocol", ".rs");
    sources.extend(files("src/service", ".rs"));
    sources.extend(files("src/model", ".rs"));
    sources.extend(files("src/store/handle", ".rs"));
    for file in ["account/namespace", "account/state", "partition"] {
        sources.push(root().join(format!("src/store/{file}.rs")));
    }
    sources.push(root().join("src/directory/address.rs"));
    let mut internal: BTreeSet<&str> = INTERNAL.iter().copied().collect();
    for path in &sources {
        let source = fs::read_to_string(path).unwrap();
        for name in bounds(&source) {
            let known = told.contains(name) || INTERNAL.contains(&name);
            assert!(known, "{}: {name} is in no table", path.display());
            internal.remove(name);
        }
    }
    assert!(internal.is_empty(), "no more: {internal:?}");
}

#[test]
fn no_bound_is_told_that_is_none() {
    let sources: String =
        files("src", ".rs").iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let known: BTreeSet<&str> = bounds(&sources).collect();
    let text = operations();
    for name in text.lines().flat_map(quoted) {
        let is_bound = name.ends_with("_MAX") && !name.contains([' ', '.']);
        assert!(!is_bound || known.contains(name), "{name} is no constant");
    }
}

/// A heading's anchor on GitHub.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut pages = files("docs", ".md");
    pages.extend(files("tuning", ".md"));
    pages.push(root().join("README.md"));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            if link.contains("://") {
                continue;
            }
            let (path, place) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link}", page.display());
            if !place.is_empty() {
                let target = fs::read_to_string(&target).unwrap();
                let mut headings = target.lines().filter_map(|line| line.strip_prefix('#'));
                let found = headings.any(|line| anchor(line.trim_start_matches('#')) == place);
                assert!(found, "{}: {link}", page.display());
            }
        }
    }
}
