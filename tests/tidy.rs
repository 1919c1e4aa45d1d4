//! Style that a test can check: layer edges, where `unsafe` and glommio may be named, file
//! headers, unfinished code.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Layers in order; modules of one row are siblings and never import each other.
const LAYERS: &[&[&str]] = &[
    &["model", "metrics", "plant"],
    &["protocol", "runtime"],
    &["store"],
    &["search", "queue", "directory"],
    &["service"],
    &["admin", "control"],
    &["config"],
    &["server"],
];

/// What `metrics` and the like may import of their own row: nothing.
fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

fn sources() -> Vec<(PathBuf, String)> {
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
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 20, "found only {} source files", found.len());
    found
}

/// `src/store/log.rs` -> `store`; `None` for the crate's own files.
fn module_of(path: &Path) -> Option<String> {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).ok()?;
    let first = below.components().next()?.as_os_str().to_str()?;
    below.components().nth(1).map(|_| first.to_owned())
}

/// Code lines but those of items for tests, comments cut off: (line number, text). As rustfmt leaves
/// it, an item of a file ends with the first line that is not indented and ends so.
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
