//! The `ringmail` program as its operator runs it: output that cannot be written, and starts that
//! fail. Nothing here listens for long: every program ends by itself.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

fn ringmail(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmail"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with an account.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("store.toml"), "format = 1\npartitions = 1\n").unwrap();
    fs::create_dir(place.path().join("partition-0000")).unwrap();
    for folder in ["", "partition-0000"] {
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(place.path().join(folder), private).unwrap();
    }
    let user = ["user", "add", "a@example.org", "--password-stdin", "--dir"];
    let password = place.path().join("password");
    fs::write(&password, "secret\n").unwrap();
    let mut command = ringmail(&user);
    command.arg(place.path()).stdin(File::open(password).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    place
}

/// Verbs that print something about the folder.
fn verbs(place: &Path) -> Vec<Vec<&str>> {
    let place = place.to_str().unwrap();
    vec![
        vec!["user", "list", "--dir", place],
        vec!["user", "remove", "a@example.org", "--dry-run", "--dir", place],
        vec!["inspect", "segments", "--dir", place],
        vec!["inspect", "segments", "--json", "--dir", place],
        vec!["check", "--dir", place],
        vec!["verify", "--dir", place],
    ]
}

#[test]
fn a_full_disk_is_told_in_one_line() {
    let place = place();
    for verb in verbs(place.path()) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = ringmail(&verb).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let expected = "ringmail: standard output: No space left on device (os error 28)\n";
        assert_eq!((output.status.code(), &*said(&output)), (Some(1), expected), "{verb:?}");
    }
}

/// As a program that SIGPIPE has ended: without a word, 128 + 13.
#[test]
fn a_reader_that_ends_first_is_no_error() {
    let place = place();
    for verb in verbs(place.path()) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = ringmail(&verb).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), &*said(&output)), (Some(141), ""), "{verb:?}");
    }
}
