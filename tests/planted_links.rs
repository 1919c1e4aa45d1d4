//! Commands run as root in a data directory that the service user owns and has prepared: links,
//! pipes and folders are where root will look. Nothing outside is changed, and the server can open
//! everything that root creates. Needs two users, so only root can run it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown, lchown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const NOBODY: u32 = 65_534;

/// The service user's target, and its data directory.
struct Scene {
    place: tempfile::TempDir,
}

impl Scene {
    /// `None` if we are not root.
    fn new() -> Option<Scene> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("needs root: nothing is tested");
            return None;
        }
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(place.path().join("precious")).unwrap();
        fs::write(place.path().join("precious/file"), "precious").unwrap();
        fs::create_dir(place.path().join("mail")).unwrap();
        let scene = Scene { place };
        scene.give_all();
        Some(scene)
    }

    fn mail(&self) -> PathBuf {
        self.place.path().join("mail")
    }

    fn precious(&self) -> PathBuf {
        self.place.path().join("precious")
    }

    fn give_all(&self) {
        for path in walk(&self.mail()) {
            lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    /// A data directory with mail in its last partition, created by the service user's server.
    fn fill(&self) {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
        let partition = self.mail().join("partition-0007");
        fs::create_dir(&partition).unwrap();
        for name in ["segment-0000000000000001", "checkpoint-0000000000000001"] {
            fs::copy(golden.join(name), partition.join(name)).unwrap();
        }
        fs::write(self.mail().join("store.toml"), "format = 1\npartitions = 8\n").unwrap();
        self.give_all();
    }

    /// Links at `names` in the data directory: to the file, and to a missing name.
    fn plant(&self, names: &[&str]) {
        for (index, name) in names.iter().enumerate() {
            let target = if index % 2 == 0 { "file" } else { "absent" };
            let link = self.mail().join(name);
            symlink(self.precious().join(target), &link).unwrap();
            lchown(link, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    fn ringmail(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringmail"))
            .args(arguments)
            .current_dir(self.place.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that refuses at once reads nothing.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// The target is not changed, given away or added to; everything in the data directory belongs
    /// to its owner.
    fn check(&self, doing: &str) {
        let file = self.precious().join("file");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious", "{doing}");
        assert_eq!(fs::read_dir(self.precious()).unwrap().count(), 1, "{doing}");
        for path in walk(&self.precious()) {
            let about = fs::symlink_metadata(&path).unwrap();
            assert_eq!(about.uid(), 0, "{doing}: {}", path.display());
        }
        for path in walk(&self.mail()) {
            let about = fs::symlink_metadata(&path).unwrap();
            assert_eq!(about.uid(), NOBODY, "{doing}: {}", path.display());
        }
    }
}

/// `path` and everything below it, without following links.
fn walk(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    if fs::symlink_metadata(path).unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            found.extend(walk(&entry.unwrap().path()));
        }
    }
    found
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn user_follows_no_link() {
    let names: &[&[&str]] = &[&["users.new"], &["users.lock"], &["users"], &["x", "users.new"]];
    for names in names {
        let Some(scene) = Scene::new() else { return };
        scene.plant(names);
        let add = ["user", "add", "a@demo.test", "--dir", "mail", "--password-stdin"];
        let output = scene.ringmail(&add, "secret\n");
        scene.check(names[0]);
        let refused = matches!(names[0], "users.lock" | "users");
        assert_eq!(output.status.success(), !refused, "{}", text(&output));
    }
}

/// A lock that an earlier version created as root does not lock out the owner.
#[test]
fn roots_old_lock_is_given_to_the_owner() {
    let Some(scene) = Scene::new() else { return };
    let lock = scene.mail().join("users.lock");
    fs::write(&lock, "").unwrap();
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o600)).unwrap();
    let add = ["user", "add", "a@demo.test", "--dir", "mail", "--password-stdin"];
    let output = scene.ringmail(&add, "secret\n");
    assert!(output.status.success(), "{}", text(&output));
    scene.check("users.lock");
    // No other file is given away because it is there.
    let file = scene.mail().join("lock");
    fs::hard_link(scene.precious().join("file"), &file).unwrap();
    scene.ringmail(&["verify", "--dir", "mail"], "");
    assert_eq!(fs::metadata(&file).unwrap().uid(), 0);
}

#[test]
fn a_linked_folder_is_not_entered() {
    for way in ["mail/data", "mail/data/deep"] {
        let Some(scene) = Scene::new() else { return };
        scene.plant(&[]);
        symlink(scene.precious(), scene.mail().join("data")).unwrap();
        scene.give_all();
        for arguments in [
            ["user", "list", "--dir", way].as_slice(),
            &["user", "add", "a@demo.test", "--password-stdin", "--dir", way],
            &["demo", "--port-base", "16000", "--dir", way],
            &["verify", "--repair", "--dir", way],
            &["inspect", "segments", "--dir", way],
            &["check", "--dir", way],
        ] {
            let output = scene.ringmail(arguments, "secret\n");
            assert!(!output.status.success(), "{arguments:?}: {}", text(&output));
            scene.check(arguments[0]);
        }
        let config = scene.place.path().join("config.toml");
        let listen =
            ["smtp", "submission", "submissions", "lmtp", "pop3", "pop3s", "imap", "imaps"];
        let listen: String = listen.map(|service| format!("{service} = []\n")).concat();
        let settings = format!(
            "hostname = \"a.test\"\ndomains = [\"a.test\"]\ndata_dir = \"{way}\"\nuser = \"nobody\"\n\
             [listen]\n{listen}admin = []\n[runtime]\nshards = 1\n"
        );
        fs::write(&config, settings).unwrap();
        let output = scene.ringmail(&["serve", "--config", "config.toml"], "");
        assert!(!output.status.success(), "{}", text(&output));
        scene.check("serve");
    }
}

#[test]
fn verify_repair_leaves_the_servers_files() {
    for names in [&["segment-new"][..], &["lock"], &["partition-0007/checkpoint.new"]] {
        let Some(scene) = Scene::new() else { return };
        scene.fill();
        scene.plant(names);
        let verify = ["verify", "--dir", "mail", "--repair", "--json", "report.json"];
        let output = scene.ringmail(&verify, "");
        scene.check(names[0]);
        let made = fs::read_dir(scene.mail().join("partition-0007")).unwrap().count();
        match names[0] {
            "lock" => assert!(!output.status.success()),
            _ => assert!(made > 2 && output.status.success(), "{}", text(&output)),
        }
        let report = scene.place.path().join("report.json");
        if let Ok(about) = fs::metadata(report) {
            assert_eq!(about.uid(), 0);
        }
    }
}

/// Whatever the umask: folders 0700, locks and keys 0600, no core files.
#[test]
fn a_demo_is_private_and_leaves_no_core() {
    use std::os::unix::process::CommandExt;
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("mail")).unwrap();
    fs::set_permissions(place.path().join("mail"), fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new("sh");
    // `exec`: the server is our child.
    let script =
        "umask 0; ulimit -c unlimited; exec \"$0\" demo --port-base 16000 --shards 1 --dir mail";
    command.args(["-c", script, env!("CARGO_BIN_EXE_ringmail")]).current_dir(place.path());
    let mut child = command.arg0("sh").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.map_while(Result::ok).any(|line| line == "ringmail: ready");
    let about = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap();
    let (limits, filter) = (about("limits"), about("coredump_filter"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ready);
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    assert_eq!(u32::from_str_radix(filter.trim(), 16), Ok(0));
    for path in walk(&place.path().join("mail")) {
        let about = fs::symlink_metadata(&path).unwrap();
        let wanted = if about.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(about.mode() & 0o777, wanted, "{}", path.display());
    }
}

#[test]
fn demo_follows_no_link() {
    let Some(scene) = Scene::new() else { return };
    scene.plant(&["certificate.new", "key.new", "store.new", "users.new", "key.pem"]);
    let output = scene.ringmail(&["demo", "--port-base", "16000", "--dir", "mail"], "");
    scene.check("demo");
    assert!(text(&output).contains("key.pem"), "{}", text(&output));
}

/// A partition that is a link, and a root that is sent there by its own directory.
#[test]
fn partitions_are_no_links() {
    let Some(scene) = Scene::new() else { return };
    scene.fill();
    let partition = scene.mail().join("partition-0007");
    fs::remove_dir_all(&partition).unwrap();
    symlink(scene.precious(), &partition).unwrap();
    scene.give_all();
    let verify = ["verify", "--dir", "mail", "--repair"];
    assert!(!scene.ringmail(&verify, "").status.success());
    scene.check("link");
    // Root's directory around a partition of another user.
    fs::remove_file(&partition).unwrap();
    fs::create_dir(&partition).unwrap();
    scene.give_all();
    chown(scene.mail(), Some(0), Some(0)).unwrap();
    let output = scene.ringmail(&verify, "");
    assert!(text(&output).contains("belongs to user"), "{}", text(&output));
    assert_eq!(fs::read_dir(&partition).unwrap().count(), 0);
}

/// Root's directory that others could have filled is neither closed to them nor used; an empty one
/// is.
#[test]
fn a_demo_takes_no_shared_directory() {
    let Some(scene) = Scene::new() else { return };
    let shared = scene.place.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("users"), "theirs").unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let output = scene.ringmail(&["demo", "--port-base", "16000", "--dir", "shared"], "");
    assert!(text(&output).contains("others can write to it"), "{}", text(&output));
    assert_eq!(fs::metadata(&shared).unwrap().mode() & 0o7777, 0o1777);
}

/// A file of another user at the report's path is not written to, and root's does not become
/// theirs.
#[test]
fn a_report_is_nobody_elses() {
    let Some(scene) = Scene::new() else { return };
    scene.fill();
    let reports = scene.place.path().join("reports");
    fs::create_dir(&reports).unwrap();
    fs::set_permissions(&reports, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(reports.join("theirs"), "x").unwrap();
    chown(reports.join("theirs"), Some(NOBODY), Some(NOBODY)).unwrap();
    let output = scene.ringmail(&["verify", "--dir", "mail", "--json", "reports/theirs"], "");
    assert!(text(&output).contains("another user"), "{}", text(&output));
    assert_eq!(fs::read_to_string(reports.join("theirs")).unwrap(), "x");
}

/// What a server sends, or its silent end, does not count as success and moves no terminal's
/// cursor.
#[test]
fn an_unfinished_verification_is_none() {
    let Some(scene) = Scene::new() else { return };
    scene.fill();
    let listener = UnixListener::bind(scene.mail().join("control.sock")).unwrap();
    scene.give_all();
    let answers = std::thread::spawn(move || {
        for answer in ["", "failed\t0\t\u{1b}[31m\n"] {
            let (stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
    });
    for expected in ["before it had verified anything", "not verified"] {
        let output = scene.ringmail(&["verify", "--dir", "mail"], "");
        assert!(!output.status.success());
        assert!(text(&output).contains(expected), "{}", text(&output));
        assert!(!text(&output).contains('\u{1b}'));
    }
    answers.join().unwrap();
}

/// The report belongs to root; a link at its path is replaced, wherever it is.
#[test]
fn a_report_follows_no_link() {
    for (owner, mode) in [(NOBODY, 0o755), (0, 0o1777), (0, 0o777), (0, 0o755)] {
        let Some(scene) = Scene::new() else { return };
        scene.fill();
        let reports = scene.place.path().join("reports");
        fs::create_dir(&reports).unwrap();
        symlink(scene.precious().join("file"), reports.join("linked")).unwrap();
        symlink(scene.precious().join("absent"), reports.join("dangling")).unwrap();
        fs::set_permissions(&reports, fs::Permissions::from_mode(mode)).unwrap();
        walk(&reports).iter().for_each(|it| lchown(it, Some(owner), Some(owner)).unwrap());
        for (name, refused) in [("linked", true), ("dangling", true), ("fresh", false)] {
            let report = format!("reports/{name}");
            let output =
                scene.ringmail(&["verify", "--dir", "mail", "--json", report.as_str()], "");
            scene.check(name);
            assert_eq!(output.status.success(), !refused, "{name}: {}", text(&output));
        }
        assert_eq!(fs::metadata(reports.join("fresh")).unwrap().uid(), owner);
    }
}

/// Commands run as root connect to no server that the service user could not connect to.
#[test]
fn another_servers_socket_is_not_asked() {
    let Some(scene) = Scene::new() else { return };
    scene.fill();
    let socket = scene.precious().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&socket, scene.mail().join("control.sock")).unwrap();
    scene.give_all();
    let verbs: &[&[&str]] = &[
        &["block", "list", "--dir", "mail"],
        &["block", "lift", "--all", "--dir", "mail"],
        &["verify", "--dir", "mail"],
        &["user", "add", "a@demo.test", "--password-stdin", "--dir", "mail"],
    ];
    for verb in verbs {
        let output = scene.ringmail(verb, "secret\n");
        assert!(text(&output).contains("Permission denied"), "{}", text(&output));
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

/// A server with an endless answer, and output that must not move a terminal's cursor.
#[test]
fn an_answer_without_end_is_cut_off() {
    let Some(scene) = Scene::new() else { return };
    scene.fill();
    let listener = UnixListener::bind(scene.mail().join("control.sock")).unwrap();
    scene.give_all();
    let flood = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let line = format!("block\ta\u{1b}[2J\t192.0.2.7\t6\t{}\n", "9".repeat(60_000));
            while stream.write_all(line.as_bytes()).is_ok() {}
        }
    });
    for verb in ["block", "verify"] {
        let arguments: &[&str] = if verb == "block" {
            &["block", "list", "--dir", "mail"]
        } else {
            &["verify", "--dir", "mail"]
        };
        let output = scene.ringmail(arguments, "");
        assert!(!output.status.success());
        assert!(text(&output).contains("too long"), "{verb}: {}", text(&output));
        assert!(!text(&output).contains('\u{1b}'));
    }
    flood.join().unwrap();
}

/// Links in root's own directory are followed only if only root can have made them.
#[test]
fn root_reads_nothing_where_others_write() {
    let Some(scene) = Scene::new() else { return };
    let shared = scene.place.path().join("shared");
    fs::create_dir(&shared).unwrap();
    symlink(scene.precious().join("file"), shared.join("store.toml")).unwrap();
    symlink(scene.precious().join("file"), shared.join("users")).unwrap();
    for mode in [0o775, 0o757, 0o1777] {
        fs::set_permissions(&shared, fs::Permissions::from_mode(mode)).unwrap();
        for verb in [
            &["check", "--dir", "shared"][..],
            &["verify", "--dir", "shared"],
            &["inspect", "segments", "--dir", "shared"],
            &["user", "list", "--dir", "shared"],
        ] {
            let output = scene.ringmail(verb, "");
            assert!(text(&output).contains("others can write to it"), "{}", text(&output));
            assert!(!text(&output).contains("precious\n"), "{}", text(&output));
        }
    }
}
