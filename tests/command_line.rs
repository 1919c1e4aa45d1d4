//! The `ringmail` program as its operator runs it: output that cannot be written, and starts that
//! fail. Nothing here listens for long: every program ends by itself.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use ringmail::runtime::tls::SelfSigned;

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

/// What names the address of a removed account goes to whoever gets the address, who is told, too.
#[test]
fn what_names_a_removed_account_is_noted() {
    let place = place();
    let path = |name: &str| place.path().join(name);
    fs::write(path("groups"), "board: b@example.org\nstaff: b@example.org,\n a, $board\n").unwrap();
    fs::write(path("aliases"), "sales: b,\n a+s\nA: b\n@example.org: a\nx: b\n").unwrap();
    fs::write(
        path("ringmail.toml"),
        "hostname = \"mx.example.org\"\ndomains = [\"example.org\"]\ndata_dir = \".\"\n\
         listen = { submissions = [], pop3s = [], imaps = [] }\n[imap]\nadministrators = [\n\
         \"b@example.org\",\n\"A@example.org\"]\nsubmitters = [\"a@example.org\"]\n\
         [authentication]\nmasters = [\"a@example.org=*\",\n\"b@example.org=a@example.org\",\n\
         \"a@example.org=@example.net\"]\n",
    )
    .unwrap();
    let config = path("ringmail.toml");
    let places = [
        ("groups:3", "is a member of $staff"),
        ("aliases:2", "gets the mail of sales@example.org"),
        ("aliases:3", "has its mail go where this line says"),
        ("aliases:4", "gets the mail of @example.org"),
        ("ringmail.toml:8: imap.administrators", "owns the public folders"),
        ("ringmail.toml:9: imap.submitters", "may read what users let submission servers read"),
        ("ringmail.toml:11: authentication.masters", "may log in as every account"),
        ("ringmail.toml:12: authentication.masters", "lets b@example.org log in to it"),
        ("ringmail.toml:13: authentication.masters", "may log in as every account of example.net"),
    ];
    let check = |command: &mut Command, names: &str, then: &str| {
        let output = command.output().unwrap();
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), places.len(), "{said}");
        for (line, (place, what)) in lines.iter().zip(places) {
            let expected = format!("{place}: {names} a@example.org{then} {what}");
            assert!(line.ends_with(&expected), "{line}\nexpected: {expected}");
        }
    };
    for dry in [true, false] {
        let mut command = ringmail(&["user", "remove", "a@example.org", "--config"]);
        command.arg(&config).args(dry.then_some("--dry-run"));
        check(&mut command, "still names", ": whoever gets the address");
    }
    let mut command = ringmail(&["user", "add", "a@example.org", "--password-stdin", "--config"]);
    command.arg(&config).stdin(File::open(path("password")).unwrap());
    check(&mut command, "names", ", which therefore");
}

#[test]
fn a_demo_on_ports_in_use_says_what_to_try() {
    let place = tempfile::tempdir().unwrap();
    // Somebody has a port of each base that is tried here.
    let base = (10..50).map(|thousands| thousands * 1000).find_map(|base: u16| {
        Some((base, std::net::TcpListener::bind(("127.0.0.1", base + 143)).ok()?))
    });
    let (base, _taken) = base.expect("a port");
    let demo = ["demo", "--shards", "1", "--port-base", &base.to_string(), "--dir"];
    let mut command = ringmail(&demo);
    let output = command.arg(place.path().join("demo")).output().unwrap();
    let said = said(&output);
    assert!(!output.status.success());
    let expected = format!("try another --port-base than {base}");
    assert!(said.contains(&expected) && !said.contains("data in"), "{said}");
}

#[test]
fn a_word_is_taken_for_a_domain() {
    let place = place();
    for (subject, is_noted) in [("alice", true), ("example.org", false)] {
        let mut command = ringmail(&["explain", subject, "--dir"]);
        let said = said(&command.arg(place.path()).output().unwrap());
        assert_eq!(said.contains("taken for a domain"), is_noted, "{said}");
    }
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
        vec!["queue", "shape", "--dir", place],
        vec!["queue", "shape", "--json", "--dir", place],
        vec!["verify", "--dir", place],
    ]
}

/// What `ringmail queue` says beside its output.
fn without_notes(said: &str) -> String {
    said.replace("ringmail: no server runs here: this is what is on disk\n", "")
}

#[test]
fn a_full_disk_is_told_in_one_line() {
    let place = place();
    for verb in verbs(place.path()) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = ringmail(&verb).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let expected = "ringmail: standard output: No space left on device (os error 28)\n";
        let told = without_notes(&said(&output));
        assert_eq!((output.status.code(), &*told), (Some(1), expected), "{verb:?}");
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
        let told = without_notes(&said(&output));
        assert_eq!((output.status.code(), &*told), (Some(141), ""), "{verb:?}");
    }
}

/// Settings with no ports, in `place`.
fn configure(place: &Path, more: &str) -> PathBuf {
    let services =
        ["smtp", "submission", "submissions", "lmtp", "pop3", "pop3s", "imap", "imaps", "admin"];
    let listen: String = services.map(|service| format!("listen.{service} = []\n")).concat();
    let config = place.join("config.toml");
    let settings = format!(
        "hostname = \"a.test\"\ndomains = [\"a.test\"]\ndata_dir = \"mail\"\n{listen}\
         runtime.shards = 1\nruntime.connections_per_shard = 16\n{more}\n"
    );
    fs::write(&config, settings).unwrap();
    config
}

/// It would have fixed the number of partitions.
#[test]
fn a_start_that_fails_makes_no_data_directory() {
    let place = tempfile::tempdir().unwrap();
    let broken = place.path().join("users");
    fs::write(broken, "not a users file\n").unwrap();
    for (more, expected) in [
        ("tls.certificate = \"c.pem\"\ntls.key = \"k.pem\"", "c.pem: cannot read"),
        ("users_file = \"users\"", "users:1"),
        ("events.to = \"./nowhere/events\"", "nowhere/events: cannot open: No such file"),
    ] {
        let config = configure(place.path(), more);
        let output = ringmail(&["serve", "--config"]).arg(config).output().unwrap();
        let told = said(&output);
        assert!(output.status.code() == Some(1) && told.contains(expected), "{told}");
        assert!(!place.path().join("mail").join("store.toml").exists(), "{more}");
        // Nobody else's start comes before its own folder is handed over.
        if !more.starts_with("events") {
            assert!(!place.path().join("mail").exists(), "{more}");
        }
    }
}

/// Only root can run as another user.
#[test]
fn a_directory_of_another_user_is_named_with_the_remedy() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let place = place();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mail = place.path().join("mail");
    fs::create_dir(&mail).unwrap();
    for name in ["store.toml", "partition-0000"] {
        fs::rename(place.path().join(name), mail.join(name)).unwrap();
    }
    fs::write(mail.join("lock"), "").unwrap();
    fs::set_permissions(&mail, fs::Permissions::from_mode(0o700)).unwrap();
    let config = configure(place.path(), "user = \"nobody\"");
    for verb in ["check", "serve"] {
        let output = ringmail(&[verb, "--config"]).arg(&config).output().unwrap();
        let told = said(&output);
        assert_eq!(output.status.code(), Some(1), "{verb}: {told}");
        let remedy = format!("chown -R 65534:65534 {}", mail.display());
        assert!(
            told.contains("mail/lock: user nobody, as whom") && told.contains(&remedy),
            "{told}"
        );
        assert_eq!(fs::metadata(&mail).unwrap().uid(), 0, "given away although it is of no use");
    }
}

#[test]
fn all_wrong_settings_are_told_at_once() {
    let place = place();
    let text = "store.reserve = \"x\"\nqueue.port = 0\nnonsense = 1";
    let config = configure(place.path(), text);
    for verb in ["check", "serve"] {
        let output = ringmail(&[verb, "--config"]).arg(&config).output().unwrap();
        let told = said(&output);
        assert_eq!(output.status.code(), Some(2), "{verb}: {told}");
        for name in ["store.reserve: found \"x\"; ", "queue.port: found 0; ", "nonsense: no such"] {
            assert!(told.contains(&format!(": {name}")), "{name}: {told}");
        }
    }
    let sources = "queue.sources = [\"192.0.2.7\", \"127.0.0.1\"]";
    let output =
        ringmail(&["check", "--config"]).arg(configure(place.path(), sources)).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.matches("warning: queue.sources: 192.0.2.7: ").count(), 1, "{text}");
    assert!(!text.contains("127.0.0.1: no interface"), "{text}");
}

#[test]
fn a_number_of_partitions_without_effect_is_told() {
    let place = place();
    let mail = place.path().join("mail");
    fs::create_dir(&mail).unwrap();
    for name in ["store.toml", "partition-0000"] {
        fs::rename(place.path().join(name), mail.join(name)).unwrap();
    }
    for (partitions, told) in [(3, 1), (1, 0), (0, 0)] {
        let config = configure(place.path(), &format!("store.partitions = {partitions}"));
        let output = ringmail(&["check", "--config"]).arg(config).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", said(&output));
        let warning = "has 1 partition(s), fixed when it was created: store.partitions = 3 has";
        assert_eq!(text.matches(warning).count(), told, "{text}");
    }
}

#[test]
fn a_key_of_another_certificate_is_found_by_check() {
    let place = tempfile::tempdir().unwrap();
    let [one, other] = ["a.test", "b.test"].map(|name| SelfSigned::generate(&[name]).unwrap());
    fs::write(place.path().join("c.pem"), one.chain_pem).unwrap();
    for (key, found) in [(one.key_pem, 0), (other.key_pem, 1)] {
        fs::write(place.path().join("k.pem"), key).unwrap();
        let config = configure(place.path(), "tls.certificate = \"c.pem\"\ntls.key = \"k.pem\"");
        let output = ringmail(&["check", "--config"]).arg(config).output().unwrap();
        let told = said(&output);
        assert_eq!(told.matches("the key does not belong to the certificate").count(), found);
        assert_eq!(output.status.success(), found == 0, "{told}");
    }
}

/// The domains of accounts are ours: what a slip of the hand does is told.
/// Each file of TLS that cannot be used is told of by its own setting.
#[test]
fn check_names_the_setting_of_a_file_of_tls() {
    let place = tempfile::tempdir().unwrap();
    let made = SelfSigned::generate(&["a.test"]).unwrap();
    fs::write(place.path().join("chain.pem"), &made.chain_pem).unwrap();
    fs::write(place.path().join("key.pem"), &made.key_pem).unwrap();
    let files =
        ["certificate = \"chain.pem\"", "key = \"key.pem\"", "client_authorities = \"chain.pem\""];
    for absent in 0..files.len() {
        let lines = files.iter().enumerate().map(|(index, line)| match index == absent {
            true => format!("{}\n", line.replace(".pem", ".absent")),
            false => format!("{line}\n"),
        });
        let config = configure(place.path(), &format!("[tls]\n{}", lines.collect::<String>()));
        let output = ringmail(&["check", "--config"]).arg(&config).output().unwrap();
        let (name, _) = files[absent].split_once(' ').unwrap();
        let text = fs::read_to_string(&config).unwrap();
        let line = 1 + text.lines().position(|line| line.contains(".absent")).unwrap();
        let place = format!("config.toml:{line}: tls.{name}: ");
        let said = said(&output);
        assert!(!output.status.success() && said.contains(&place), "{place} {said}");
        assert_eq!(said.matches(": tls.").count(), 1, "{said}");
    }
}

#[test]
fn an_account_in_a_domain_that_is_not_ours_is_noted() {
    let place = tempfile::tempdir().unwrap();
    let config = configure(place.path(), "route = [{ domains = [\"c.test\"], to = \"local\" }]");
    let password = place.path().join("password");
    fs::write(&password, "secret\n").unwrap();
    for (address, noted) in [
        ("x@A.test", false),
        ("x@c.test", false),
        ("x@deep.c.test", true),
        ("x@a.tset", true),
        ("x@deep.a.test", true),
    ] {
        let password = File::open(&password).unwrap();
        let mut add = ringmail(&["user", "add", address, "--config"]);
        let output = add.arg(&config).stdin(password).output().unwrap();
        let told = said(&output);
        assert!(output.status.success(), "{told}");
        assert_eq!(told.contains("is not in `domains`"), noted, "{address}: {told}");
    }
}

/// A mistake in what the directory reads is named with its line, also where a start would go on.
#[test]
fn check_reads_aliases_and_what_routes_name() {
    let place = tempfile::tempdir().unwrap();
    let route = "route = [{ domains = [\"b.test\"], to = \"mx\", recipients_file = \"list\" }]";
    let config = configure(place.path(), &format!("aliases_file = \"aliases\"\n{route}"));
    for (aliases, list, expected) in [
        ("a: x@else.test\n", "# none\n", ""),
        ("a: x@else.test\nb: c\nc: b\n", "", "aliases:2: b@a.test leads back to itself"),
        ("a: nobody\n", "", "aliases:1: nobody@a.test: no account and no alias has this address"),
        ("a: x@else.test\n", "x@b.test\n\nwhat?\n", "list:3: \"what?\": expected an address"),
    ] {
        fs::write(place.path().join("aliases"), aliases).unwrap();
        fs::write(place.path().join("list"), list).unwrap();
        let output = ringmail(&["check", "--config"]).arg(&config).output().unwrap();
        let told = said(&output);
        assert_eq!(output.status.success(), expected.is_empty(), "{told}");
        assert!(told.contains(expected), "{told}");
        assert!(!place.path().join("mail").exists());
    }
    fs::write(place.path().join("list"), "").unwrap();
    fs::remove_file(place.path().join("aliases")).unwrap();
    let told = said(&ringmail(&["check", "--config"]).arg(&config).output().unwrap());
    assert!(told.contains("aliases_file: ") && told.contains("not there: create it"), "{told}");
}

#[test]
fn check_reads_groups() {
    let place = tempfile::tempdir().unwrap();
    let config = configure(place.path(), "groups_file = \"groups\"");
    for (groups, expected) in [
        ("staff: x@else.test, @a.test\n\nboard: $staff\n", "groups: 2 groups\n"),
        ("one: @a.test,\n  $two\ntwo: $one\n", "groups:3: $one is a member of itself: $one > $two"),
        ("one: nobody\n", "groups:1: nobody@a.test: no account has this address (aliases do not"),
        ("one: @else.test\n", "groups:1: @else.test is not a domain of ours, so nobody there"),
    ] {
        fs::write(place.path().join("groups"), groups).unwrap();
        let output = ringmail(&["check", "--config"]).arg(&config).output().unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), said(&output));
        assert_eq!(output.status.success(), groups.contains("staff"), "{told}");
        assert!(told.contains(expected), "{told}");
        assert!(!place.path().join("mail").exists());
    }
    fs::remove_file(place.path().join("groups")).unwrap();
    let told = said(&ringmail(&["check", "--config"]).arg(&config).output().unwrap());
    let expected = "not there: create it, empty if there are no groups, or remove the setting";
    assert!(told.contains("groups_file: ") && told.contains(expected), "{told}");
}

/// Without a server: the disk can be read, and nothing be changed.
#[test]
fn the_queue_is_shown_without_a_server_and_not_changed() {
    let place = place();
    let place = place.path().to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = ringmail(&[&["queue"], arguments, &["--dir", place]].concat());
        let output = { output }.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), printed, without_notes(&said(&output)))
    };
    let nothing = "ringmail: no message matches\n".to_owned();
    for list in [&["list"][..], &["list", "--json"], &["list", "--sender", "<>", "--held"]] {
        assert_eq!(run(list), (Some(0), String::new(), nothing.clone()), "{list:?}");
    }
    let unknown = "ringmail: 0-9-1: no such message in the queue\n".to_owned();
    assert_eq!(run(&["show", "0-9-1"]), (Some(1), String::new(), unknown));
    let (code, table, told) = run(&["shape"]);
    assert_eq!((code, table.lines().count(), told.as_str()), (Some(0), 2, ""));
    let (code, _, told) = run(&["hold", "--all"]);
    assert!(code == Some(1) && told.contains("no server runs here"), "{told}");
    for wrong in [
        &["hold"][..],
        &["cancel", "--yes"],
        &["hold", "--all", "--sender", "a"],
        &["show", "x"],
        &["list", "--larger", "much"],
        &["list", "--older", "5"],
        &["list", "--held", "--not-held"],
    ] {
        let (code, printed, told) = run(wrong);
        assert_eq!((code, printed.as_str()), (Some(2), ""), "{wrong:?}: {told}");
    }
}

/// Every verb that works on a data directory says the same of one that is not there.
#[test]
fn a_data_directory_that_is_not_there_is_told() {
    let place = tempfile::tempdir().unwrap();
    let nowhere = place.path().join("nowhere");
    for verb in [&["queue", "list"][..], &["block", "list"], &["user", "list"], &["verify"]] {
        let output = ringmail(&[verb, &["--dir", nowhere.to_str().unwrap()]].concat());
        let output = { output }.output().unwrap();
        let told = said(&output);
        assert!(output.status.code() == Some(1), "{verb:?}: {told}");
        assert!(told.contains("nowhere: no such directory; name the data directory"), "{told}");
    }
}
