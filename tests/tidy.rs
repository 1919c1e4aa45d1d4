//! Style rules that a test can check: layer edges, where `unsafe` and glommio may be named, file
//! headers, the length of lines, unfinished code.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Layers in order; modules of one row are siblings and never import each other.
const LAYERS: &[&[&str]] = &[
    &["model", "metrics", "plant"],
    &["events"],
    &["protocol", "runtime"],
    &["store"],
    &["search", "queue", "directory", "resolver", "dkim"],
    &["service"],
    &["admin", "control"],
    &["config"],
    &["server"],
];

/// `metrics` and its siblings may import nothing from their own row.
fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

fn sources() -> Vec<(PathBuf, String)> {
    let found = rust_files("src");
    assert!(found.len() > 20, "found only {} source files", found.len());
    found
}

fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        let mut entries: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
    found
}

/// `src/store/log.rs` -> `store`; `None` for the crate's own files.
fn module_of(path: &Path) -> Option<String> {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).ok()?;
    let first = below.components().next()?.as_os_str().to_str()?;
    below.components().nth(1).map(|_| first.to_owned())
}

/// Whether a file below `src` has tests only: a `tests.rs`, or a file in a folder `tests`.
fn is_tests_only(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.components().any(|it| it.as_os_str() == "tests")
}

/// Code lines except items for tests, without comments: (line number, text). As formatted by
/// rustfmt, an item ends with the first unindented line that ends like this.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_tests = false;
    text.lines()
        .enumerate()
        .filter(move |(_, line)| {
            in_tests |= line.starts_with("#[cfg(test)]");
            let skipped = in_tests;
            let whole = !line.starts_with([' ', '#']) && line.ends_with([';', '}']);
            in_tests &= !whole;
            !skipped
        })
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or("")))
}

/// Modules that a line names by `crate::x` or, inside `use crate::{`, at the first level.
fn crate_imports(text: &str) -> Vec<(usize, String)> {
    let mut imports = Vec::new();
    let mut in_group = false;
    let mut depth = 0i32;
    for (number, line) in code_lines(text) {
        let mut rest = line;
        while let Some(at) = rest.find("crate::") {
            rest = &rest[at + "crate::".len()..];
            if rest.starts_with('{') {
                in_group = true;
                depth = 0;
                break;
            }
            let name: String =
                rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            imports.push((number, name));
        }
        if !in_group {
            continue;
        }
        let mut word = String::new();
        for character in if depth == 0 { rest } else { line }.chars() {
            match character {
                '{' => {
                    if depth == 1 && !word.is_empty() {
                        imports.push((number, word.clone()));
                    }
                    word.clear();
                    depth += 1;
                }
                '}' => depth -= 1,
                c if depth == 1 && (c.is_ascii_alphanumeric() || c == '_') => word.push(c),
                ':' | ',' if depth == 1 => {
                    if !word.is_empty() && layer_of(&word).is_some() {
                        imports.push((number, word.clone()));
                    }
                    word.clear();
                }
                _ => {}
            }
            if depth == 0 && character == '}' {
                in_group = false;
                break;
            }
        }
    }
    imports
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(module) = module_of(&path) else { continue };
        let Some(layer) = layer_of(&module) else { continue };
        for (line, import) in crate_imports(&text) {
            let Some(target) = layer_of(&import) else { continue };
            if import != module && target >= layer {
                wrong.push(format!("{}:{line}: {module} imports {import}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point up or sideways:\n{}", wrong.join("\n"));
}

/// A part of the crate that is divided into rooms itself.
struct Wing {
    /// Its folder below `src`, and its path in the crate.
    folder: &'static str,
    path: &'static str,
    /// The rooms, the lowest first, and what each may import of the wing: only rooms above it in
    /// the list.
    rooms: &'static [(&'static str, &'static [&'static str])],
    /// Modules that are tests only.
    tests: &'static [&'static str],
    /// The import reader found at least this many: otherwise it is broken.
    imports_min: usize,
}

const WINGS: &[Wing] = &[
    Wing {
        folder: "store",
        path: "crate::store::",
        rooms: ROOMS_OF_THE_STORE,
        tests: &["tests", "crash_images", "golden"],
        imports_min: 100,
    },
    Wing {
        folder: "service/imap",
        path: "crate::service::imap::",
        rooms: ROOMS_OF_IMAP,
        tests: &[],
        imports_min: 100,
    },
];

/// The loop knows the families of commands only through the table, and no handler knows another
/// family.
const ROOMS_OF_IMAP: &[(&str, &[&str])] = &[
    ("options", &[]),
    ("seats", &[]),
    ("handover", &[]),
    ("reply", &["handover"]),
    ("accounts", &["reply"]),
    ("query", &[]),
    ("context", &["query"]),
    ("selected", &["reply", "accounts", "context"]),
    ("watched", &["accounts"]),
    ("state", &["options", "seats", "handover", "reply", "accounts", "selected", "watched"]),
    ("literal", &["reply", "state"]),
    ("namespace", &["reply", "accounts", "state"]),
    ("folder", &["reply", "accounts", "selected", "state", "namespace"]),
    ("reader", &["reply", "accounts"]),
    ("binary", &["reply", "state", "reader"]),
    ("searching", &["reply", "accounts", "query", "selected", "state", "folder", "reader"]),
    ("updates", &["reply", "query", "context", "selected", "state", "folder", "searching"]),
    ("sync", &["reply", "accounts", "selected", "state", "folder", "updates"]),
    (
        "notify",
        &[
            "reply",
            "accounts",
            "selected",
            "watched",
            "state",
            "namespace",
            "folder",
            "updates",
            "sync",
        ],
    ),
    ("progress", &["reply", "selected", "state"]),
    ("resync", &["reply", "selected", "state", "folder"]),
    ("quoted", &["reply", "accounts", "state", "folder", "reader"]),
    ("upload", &["reply", "accounts", "state", "folder", "quoted"]),
    ("pipeline", &["state"]),
    ("handler", &["reply", "state"]),
    ("session", &["reply", "state", "namespace", "notify", "handler"]),
    ("authentication", &["reply", "accounts", "state", "handler"]),
    (
        "mailbox",
        &[
            "reply",
            "accounts",
            "selected",
            "watched",
            "state",
            "sync",
            "resync",
            "namespace",
            "folder",
            "upload",
            "handler",
        ],
    ),
    ("access", &["reply", "state", "folder", "handler"]),
    ("quota", &["reply", "state", "folder", "handler"]),
    ("metadata", &["reply", "watched", "state", "folder", "handler"]),
    ("urls", &["reply", "state", "folder", "reader", "binary", "quoted", "handler"]),
    (
        "message",
        &[
            "reply",
            "accounts",
            "query",
            "selected",
            "state",
            "sync",
            "resync",
            "searching",
            "folder",
            "reader",
            "binary",
            "progress",
            "upload",
            "handler",
        ],
    ),
    ("conversation", &["handover", "reply", "state", "notify", "pipeline", "handler"]),
];

/// `partition` knows all of them.
const ROOMS_OF_THE_STORE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("signal", &[]),
    ("message", &[]),
    ("probe", &[]),
    ("log", &["error"]),
    ("format", &["error", "message", "log"]),
    ("account", &["error", "message", "log", "format"]),
    ("damage", &["error", "signal", "log"]),
    ("admission", &["error", "log"]),
    ("bodies", &["error", "signal", "message", "log", "format", "damage", "admission"]),
    ("shares", &[]),
    ("quotas", &[]),
    ("options", &["format", "account", "bodies", "shares", "quotas"]),
    ("cards", &["error", "message", "log", "format", "bodies"]),
    ("annotations", &["error", "log", "format", "bodies"]),
    (
        "accounts",
        &[
            "error",
            "signal",
            "message",
            "log",
            "format",
            "account",
            "damage",
            "options",
            "annotations",
        ],
    ),
    (
        "commits",
        &[
            "error",
            "message",
            "log",
            "format",
            "account",
            "admission",
            "bodies",
            "options",
            "accounts",
        ],
    ),
    (
        "handle",
        &[
            "error",
            "message",
            "format",
            "account",
            "damage",
            "bodies",
            "cards",
            "annotations",
            "accounts",
            "commits",
        ],
    ),
    (
        "checkpoint",
        &[
            "error",
            "message",
            "signal",
            "log",
            "format",
            "account",
            "damage",
            "options",
            "cards",
            "annotations",
            "accounts",
            "commits",
        ],
    ),
    (
        "space",
        &[
            "error",
            "signal",
            "message",
            "log",
            "format",
            "account",
            "damage",
            "bodies",
            "options",
            "accounts",
            "commits",
            "checkpoint",
        ],
    ),
    (
        "repair",
        &[
            "error",
            "signal",
            "message",
            "log",
            "format",
            "account",
            "damage",
            "admission",
            "bodies",
            "cards",
            "annotations",
            "accounts",
            "commits",
            "handle",
            "checkpoint",
            "space",
        ],
    ),
    (
        "partition",
        &[
            "error",
            "signal",
            "message",
            "probe",
            "log",
            "format",
            "account",
            "damage",
            "admission",
            "bodies",
            "options",
            "cards",
            "accounts",
            "commits",
            "handle",
            "checkpoint",
            "space",
            "repair",
        ],
    ),
];

/// All paths of the `use` statements in `text`, groups expanded: (line number, path).
fn use_paths(text: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut statement: Option<(usize, String)> = None;
    for (number, line) in code_lines(text) {
        let line = line.trim();
        match &mut statement {
            Some((_, tree)) => tree.push_str(line),
            None => {
                let Some(at) =
                    line.strip_prefix("use ").or(line.split_once(") use ").map(|it| it.1))
                else {
                    continue;
                };
                statement = Some((number, at.to_owned()));
            }
        }
        if line.ends_with(';')
            && let Some((number, tree)) = statement.take()
        {
            resolve_groups(tree.trim_end_matches(';'), "", &mut |path| paths.push((number, path)));
        }
    }
    paths
}

fn resolve_groups(tree: &str, before: &str, found: &mut dyn FnMut(String)) {
    let Some((prefix, group)) = tree.split_once('{') else {
        return found(format!("{before}{}", tree.trim()));
    };
    let group = group.strip_suffix('}').expect("a group at the end of a path");
    let (mut depth, mut start) = (0, 0);
    let before = format!("{before}{prefix}");
    for (at, character) in group.char_indices().chain([(group.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let item = group[start..at].trim();
                if !item.is_empty() {
                    resolve_groups(item, &before, found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The module below `wing` that `path` refers to, in a file `depth` modules below it.
fn room_of<'p>(path: &'p str, wing: &str, depth: usize) -> Option<&'p str> {
    let within = match path.strip_prefix(wing) {
        Some(rest) => rest,
        None => (0..depth).try_fold(path, |path, _| path.strip_prefix("super::"))?,
    };
    within.split("::").next()
}

#[test]
fn rooms_know_those_below() {
    for wing in WINGS {
        let wrong = wrong_imports(wing);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

fn wrong_imports(wing: &Wing) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(wing.folder);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (at, (room, allowed)) in wing.rooms.iter().enumerate() {
        let is_below = |name: &&str| wing.rooms[..at].iter().any(|(lower, _)| lower == name);
        assert!(allowed.iter().all(is_below), "{room} may import what is not below it");
    }
    for (path, text) in sources() {
        let Ok(below) = path.strip_prefix(&folder) else { continue };
        let names: Vec<&str> =
            below.iter().map(|name| name.to_str().unwrap().trim_end_matches(".rs")).collect();
        if names == ["mod"] || wing.tests.contains(&names[0]) || is_tests_only(below) {
            continue;
        }
        let Some((room, allowed)) = wing.rooms.iter().find(|(room, _)| *room == names[0]) else {
            wrong.push(format!("{}: {} is no room of {}", path.display(), names[0], wing.folder));
            continue;
        };
        let depth = names.iter().filter(|name| **name != "mod").count();
        for (line, import) in use_paths(&text) {
            let Some(target) = room_of(&import, wing.path, depth) else { continue };
            seen += 1;
            if target != *room && !allowed.contains(&target) {
                wrong.push(format!("{}:{line}: {room} imports {target}", path.display()));
            }
        }
    }
    assert!(seen > wing.imports_min, "only {seen} imports within {}", wing.folder);
    wrong
}

/// The module that `path` refers to, below a wing, in a file that is module `here` (segments below
/// the wing; those of `mod.rs` name its folder).
fn module_named<'p>(path: &'p str, wing: &str, here: &[&'p str]) -> Option<Vec<&'p str>> {
    let (mut base, mut rest) = match path.strip_prefix(wing) {
        Some(rest) => (Vec::new(), rest),
        None => (here.to_vec(), path),
    };
    if base.is_empty() && rest == path {
        return None;
    }
    while let Some(above) = rest.strip_prefix("super::") {
        base.pop()?;
        rest = above;
    }
    rest = rest.strip_prefix("self::").unwrap_or(rest);
    base.extend(rest.split("::"));
    Some(base)
}

/// Files of a wing form no circles, within a room neither. A folder's `mod.rs` and the files below
/// it count as one: the methods of its type may be spread over them.
#[test]
fn files_of_a_wing_form_no_circle() {
    for wing in WINGS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(wing.folder);
        let all = sources();
        let modules: Vec<(Vec<&str>, &str)> = all
            .iter()
            .filter_map(|(path, text)| {
                let below = path.strip_prefix(&folder).ok()?;
                let mut names: Vec<&str> =
                    below.iter().map(|it| it.to_str().unwrap().trim_end_matches(".rs")).collect();
                names.pop_if(|name| *name == "mod");
                let is_test = wing.tests.contains(names.first()?) || names.contains(&"tests");
                (!is_test).then_some((names, text.as_str()))
            })
            .collect();
        let mut imports: Vec<Vec<usize>> = Vec::new();
        for (here, text) in &modules {
            let mut targets = Vec::new();
            for (_, path) in use_paths(text) {
                let Some(named) = module_named(&path, wing.path, here) else { continue };
                // The longest prefix that is a file.
                let target = (1..=named.len())
                    .rev()
                    .find_map(|len| modules.iter().position(|(names, _)| *names == named[..len]));
                let Some(target) = target else { continue };
                let (other, _) = &modules[target];
                if !here.starts_with(other) && !other.starts_with(here) {
                    targets.push(target);
                }
            }
            imports.push(targets);
        }
        let edges: usize = imports.iter().map(Vec::len).sum();
        assert!(edges > wing.imports_min, "only {edges} imports within {}", wing.folder);
        for start in 0..modules.len() {
            let mut reached = vec![false; modules.len()];
            let mut open = imports[start].clone();
            while let Some(next) = open.pop() {
                if !std::mem::replace(&mut reached[next], true) {
                    open.extend(&imports[next]);
                }
            }
            let name = modules[start].0.join("::");
            assert!(!reached[start], "{}: {name} is part of a circle of imports", wing.folder);
        }
    }
}

/// Only these ask an account for a mailbox by its name, or for its access list.
#[test]
fn mailbox_names_of_imap_are_resolved_in_one_place() {
    const BY_NAME: &[&str] = &[
        ".mailbox_by_name(",
        ".mailboxes(",
        ".create_mailbox(",
        ".delete_mailbox(",
        ".rename_mailbox(",
        ".set_subscribed(&",
        "account.names_after(",
        ".nearest_above(",
        ".with_access_list(",
        ".change_access_list(",
    ];
    const ALLOWED: &[&str] = &[
        "folder.rs",
        "namespace.rs",
        "accounts/holding.rs",
        "accounts/lease.rs",
        "accounts/moving.rs",
    ];
    let imap = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/service/imap");
    let mut resolved = 0;
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with(&imap)) {
        for (line, code) in code_lines(text) {
            let Some(call) = BY_NAME.iter().find(|call| code.contains(**call)) else { continue };
            let allowed = ALLOWED.iter().any(|file| path.ends_with(file));
            assert!(allowed, "{}:{line}: {call}", path.display());
            resolved += 1;
        }
    }
    assert!(resolved >= 5, "only {resolved} calls by name");
}

#[test]
fn use_statements_are_read_whole() {
    let text = "use super::{\n    super::{\n        error::E,\n        a::{B, c::D},\n    },\n    x,\n};\n\
                pub(crate) use crate::store::y::Z;\n";
    let paths: Vec<String> = use_paths(text).into_iter().map(|(_, path)| path).collect();
    let expected = [
        "super::super::error::E",
        "super::super::a::B",
        "super::super::a::c::D",
        "super::x",
        "crate::store::y::Z",
    ];
    assert_eq!(paths, expected);
    let rooms: Vec<Option<&str>> =
        paths.iter().map(|path| room_of(path, "crate::store::", 2)).collect();
    assert_eq!(rooms, [Some("error"), Some("a"), Some("a"), None, Some("y")]);
}

#[test]
fn the_import_reader_sees_both_forms() {
    let text = "use crate::{\n    model::Uid,\n    store::{Account, Partition},\n};\n\
                use crate::service::Shard;\n";
    let names: Vec<String> = crate_imports(text).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["model", "store", "service"]);
}

#[test]
fn only_the_test_item_is_skipped() {
    let text = "a();\n#[cfg(test)]\n#[path = \"x\"]\nmod x;\nb();\n#[cfg(test)]\nmod tests {\n    \
                fn c() {}\n}\nd();\n";
    let lines: Vec<&str> = code_lines(text).map(|(_, line)| line).collect();
    assert_eq!(lines, ["a();", "b();", "d();"]);
}

#[test]
fn glommio_is_named_only_in_runtime() {
    for (path, text) in sources() {
        if module_of(&path).as_deref() == Some("runtime") {
            continue;
        }
        for (line, code) in code_lines(&text) {
            assert!(!code.contains("glommio::"), "{}:{line}: names glommio", path.display());
        }
    }
}

/// Shards have their own channels (`runtime`); tokio's event loop belongs to the control thread.
#[test]
fn tokio_is_named_only_where_it_runs_and_below() {
    for (path, text) in sources() {
        let module = module_of(&path);
        let allowed = matches!(module.as_deref(), Some("runtime" | "admin" | "control"));
        let control_thread = [
            "server/monitor.rs",
            "server/operate/acl.rs",
            "server/operate/quota.rs",
            "server/operate/live.rs",
            "server/operate/explain.rs",
            "server/operate/trace.rs",
        ];
        if allowed || control_thread.iter().any(|file| path.ends_with(file)) {
            continue;
        }
        for (line, code) in code_lines(&text) {
            assert!(!code.contains("tokio::"), "{}:{line}: names tokio", path.display());
        }
    }
}

#[test]
fn unsafe_is_explained_and_kept_low() {
    for (path, text) in sources() {
        let allowed = matches!(module_of(&path).as_deref(), Some("runtime" | "store"));
        let lines: Vec<&str> = text.lines().collect();
        for (line, code) in code_lines(&text) {
            let names_it = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            if !names_it.into_iter().any(|word| word == "unsafe") {
                continue;
            }
            assert!(allowed, "{}:{line}: unsafe outside runtime and store", path.display());
            let explained = lines[line.saturating_sub(8)..line]
                .iter()
                .any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            assert!(explained, "{}:{line}: unsafe without // SAFETY:", path.display());
        }
    }
}

#[test]
fn every_file_says_why_it_exists() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{}: no //! header", path.display());
    }
}

/// Columns of a line; rustfmt breaks code there, and leaves comments, literals and macros alone.
const COLUMNS_MAX: usize = 100;

/// Whether a line has too many columns. A literal that begins on the line may end it, with up to
/// three characters behind it.
fn is_too_long(line: &str) -> bool {
    if line.chars().count() <= COLUMNS_MAX {
        return false;
    }
    let visible = line.replace(r"\\", "__").replace("\\\"", "__");
    let quotes: Vec<usize> = visible.match_indices('"').map(|(at, _)| at).collect();
    let [.., last] = quotes[..] else { return true };
    let is_open = quotes.len() % 2 == 1;
    let is_comment = line.trim_start().starts_with("//");
    is_comment || !is_open && visible.len() - last > 4
}

#[test]
fn lines_have_a_hundred_columns() {
    let mut wrong = Vec::new();
    for (path, text) in ["src", "tests", "benches"].into_iter().flat_map(rust_files) {
        for (number, line) in (1..).zip(text.lines()) {
            if is_too_long(line) {
                wrong.push(format!("{}:{number}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "more than {COLUMNS_MAX} columns:\n{}", wrong.join("\n"));
}

#[test]
fn long_lines_are_seen() {
    let (short, long) = ("x".repeat(80), "x".repeat(100));
    for (line, expected) in [
        (long.clone(), false),
        (format!("{}\u{fc}", &long[1..]), false),
        (format!("{long};"), true),
        (format!("// {short} \"{short}\""), true),
        (format!("    say(\"{long}\");"), false),
        (format!("    say(\"{long} \\"), false),
        (format!("     {long} \\"), true),
        (format!("    say(\"{short} \\\"{short}\\\"\", but, why);"), true),
        (format!("    say(\"{short}\", {short});"), true),
    ] {
        assert_eq!(is_too_long(&line), expected, "{line}");
    }
}

#[test]
fn nothing_is_left_unfinished() {
    for (path, text) in sources() {
        for (line, code) in code_lines(&text) {
            for mark in ["todo!(", "unimplemented!(", "dbg!("] {
                assert!(!code.contains(mark), "{}:{line}: {mark}", path.display());
            }
        }
    }
}

/// A `hashbrown` map is iterated in a different order in each process. If that is visible, a seed
/// of the simulator is not repeatable: such code sorts the result, or says in a comment beside it
/// ("in any order") why the order does not matter. The check looks for names, not types: fields and
/// variables declared as such maps, and values borrowed from them, in their file.
#[test]
fn maps_without_an_order_are_walked_knowingly() {
    let mut wrong = Vec::new();
    let mut walked = 0;
    for (path, text) in sources() {
        let module = module_of(&path);
        if !matches!(module.as_deref(), Some("store" | "service" | "queue" | "resolver"))
            || is_tests_only(&path)
        {
            continue;
        }
        for line in unordered_walks(&text) {
            walked += 1;
            let mut beside = text.lines().skip(line.saturating_sub(4)).take(9);
            if !beside.any(|line| line.contains("in any order") || line.contains(".sort")) {
                wrong.push(format!("{}:{line}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "maps without an order are walked:\n{}", wrong.join("\n"));
    assert!(walked > 5, "only {walked} walks seen");
}

/// Lines that iterate over an unordered map or set.
fn unordered_walks(text: &str) -> Vec<usize> {
    const WALKS: [&str; 9] = [
        "iter()",
        "iter_mut()",
        "keys()",
        "values()",
        "values_mut()",
        "into_iter()",
        "into_keys()",
        "into_values()",
        "drain()",
    ];
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let last_word = |text: &str| -> String {
        let reversed = text.trim_end().chars().rev().take_while(|c| is_word(*c));
        reversed.collect::<Vec<_>>().into_iter().rev().collect()
    };
    let mut names: Vec<String> = Vec::new();
    let mut found = Vec::new();
    // Chains that rustfmt has broken are joined to one line.
    let mut statements: Vec<(usize, String)> = Vec::new();
    for (number, line) in code_lines(text) {
        let line = line.trim();
        match statements.last_mut() {
            Some((_, last)) if line.starts_with('.') => last.push_str(line),
            _ => statements.push((number, line.to_owned())),
        }
    }
    for (_, line) in &statements {
        let declared = ["HashMap<", "HashSet<", "HashMap::", "HashSet::"].iter();
        let Some(at) = declared.filter_map(|kind| line.find(kind)).min() else { continue };
        let before = line[..at].rsplit_once([':', '=']).map_or("", |it| it.0);
        let before = before.split([':', '=']).next().unwrap_or("");
        if !line.starts_with("use ") && !line.contains("type ") && !line.contains("fn ") {
            names.push(last_word(before));
        }
    }
    names.retain(|name| !name.is_empty());
    for (number, line) in &statements {
        let walks = |name: &String| {
            line.match_indices(name.as_str()).any(|(at, _)| {
                let rest = &line[at + name.len()..];
                let starts = !line[..at].ends_with(is_word);
                let borrowed = [".borrow_mut()", ".borrow()"].iter();
                let rest = borrowed.fold(rest, |rest, it| rest.strip_prefix(it).unwrap_or(rest));
                let walk = rest.strip_prefix('.');
                let by_method = walk.is_some_and(|it| WALKS.iter().any(|w| it.starts_with(w)));
                let own = !line[..at].ends_with('.') || line[..at].ends_with("self.");
                let by_loop = own && line.starts_with("for ") && rest.trim() == "{";
                starts && (by_method || by_loop)
            })
        };
        if names.iter().any(walks) {
            found.push(*number);
        }
        // `let cells = self.cells.borrow();` is the map, too.
        if let Some((variable, value)) = line.split_once(" = ")
            && variable.starts_with("let ")
            && let Some(value) =
                value.strip_suffix(".borrow();").or(value.strip_suffix(".borrow_mut();"))
            && names.contains(&last_word(value))
        {
            names.push(last_word(variable));
        }
    }
    found
}

#[test]
fn walks_over_maps_are_seen() {
    let text = "struct A {\n    cells: RefCell<HashMap<u64, u32>>,\n    rows: BTreeMap<u64, u32>,\n}\n\
                fn f(&self) {\n    let own = self.cells.borrow();\n    self.cells\n\
                \x20       .borrow()\n\
                \x20       .keys()\n        .sum();\n    own.get(&1);\n    own.values().max();\n\
                \x20   self.rows.iter();\n    let mut set = HashSet::new();\n\
                \x20   for it in &set {\n    }\n}\n";
    assert_eq!(unordered_walks(text), [7, 12, 15]);
}

/// Messages to the operator are events: standard error may be a pipe without a reader, and the
/// shard would wait for it.
#[test]
fn nothing_that_runs_on_a_shard_prints() {
    const ON_SHARDS: [&str; 11] = [
        "model",
        "metrics",
        "events",
        "protocol",
        "runtime",
        "store",
        "queue",
        "directory",
        "resolver",
        "dkim",
        "service",
    ];
    for (path, text) in sources() {
        let module = module_of(&path);
        let on_shards = module.is_some_and(|it| ON_SHARDS.contains(&&*it));
        let file = path.file_name().and_then(|name| name.to_str());
        let is_test = is_tests_only(&path) || file == Some("crash_images.rs");
        if !on_shards && !path.ends_with("server/life.rs") || is_test {
            continue;
        }
        for (line, code) in code_lines(&text) {
            for name in ["print!(", "println!(", "stderr()", "stdout()"] {
                assert!(!code.contains(name), "{}:{line}: {name}", path.display());
            }
        }
    }
}

#[test]
fn protocol_is_pure() {
    for (path, text) in sources() {
        if module_of(&path).as_deref() != Some("protocol") {
            continue;
        }
        for (line, code) in code_lines(&text) {
            for name in ["std::net::Tcp", "std::fs", "tokio", "async fn", "Instant::now"] {
                assert!(!code.contains(name), "{}:{line}: {name} in protocol", path.display());
            }
        }
    }
}

/// A seed of the simulator is repeatable: simulated code uses the executor for time and randomness.
#[test]
fn chance_and_time_come_from_the_executor() {
    const PLAYED: [&str; 6] = ["store", "service", "queue", "protocol", "model", "resolver"];
    for (path, text) in sources() {
        let played = module_of(&path).is_some_and(|module| PLAYED.contains(&module.as_str()));
        if !played || is_tests_only(&path) {
            continue;
        }
        for (line, code) in code_lines(&text) {
            for name in ["rand::", "Instant::now", "SystemTime::now"] {
                assert!(!code.contains(name), "{}:{line}: {name}", path.display());
            }
        }
    }
}
