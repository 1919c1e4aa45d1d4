//! `ringmail acl` with a running server and without one, its events, and what becomes of entries
//! when an account is removed.

mod demo_server;
mod transcript;

use std::time::Duration;

use demo_server::{DemoServer, SMTP};

const SETTINGS: [&str; 1] = ["events.administration=true"];

#[test]
fn operators_change_lists() {
    let server = DemoServer::start_with(SMTP, &SETTINGS);
    // (arguments, what is printed; nothing: it is refused)
    const STEPS: &[(&[&str], &str)] = &[
        (&["list"], ""),
        (&["set", "Shared", "News", "anyone", "lrp"], ""),
        (&["set", "alice@demo.test", "New", "anyone", "l", "--create"], ""),
        (&["set", "Shared", "inbox", "anyone", "l", "--create"], ""),
        (&["set", "Shared", "a//b", "anyone", "l", "--create"], ""),
        (
            &["set", "Shared", "News", "anyone", "lrp", "--create", "--dry-run"],
            "would create Shared/News\nwould change Shared/News: anyone no rights -> lrp\n",
        ),
        (&["list", "Shared", "News"], ""),
        (&["set", "Shared", "News", "--dryrun", "lr", "--create"], ""),
        (&["set", "Shared", "News", "", "lr", "--create"], ""),
        (&["set", "Shared", "News", "anyone", "read", "--create"], ""),
        (&["set", "Shared", "News", "-e", "--create"], ""),
        (
            &["set", "Shared", "News", "anyone", "lrp", "--create"],
            "created Shared/News\nShared/News: anyone no rights -> lrp\n",
        ),
        (
            &["set", "Shared", "News", "anyone", "prl", "--create"],
            "Shared/News: anyone has lrp already\n",
        ),
        (
            &["set", "alice@demo.test", "INBOX", "-bob@demo.test", "+r"],
            "alice@demo.test/INBOX: -bob@demo.test no rights -> r\n",
        ),
        (
            &["set", "alice@demo.test", "INBOX", "--dry-run", "-bob@demo.test", "+s"],
            "would change alice@demo.test/INBOX: -bob@demo.test r -> rs\n",
        ),
        (
            &["set", "ALICE@demo.test", "inbox", "bob", "lrs"],
            "alice@demo.test/INBOX: bob@demo.test no rights -> lrs\n",
        ),
        (
            &["set", "alice@demo.test", "INBOX", "bob@demo.test", "-s", "--json"],
            "{\"verb\":\"set\",\"account\":1,\"owner\":\"alice@demo.test\",\"mailbox\":\"INBOX\",\
             \"identifier\":\"bob@demo.test\",\"before\":\"lrs\",\"after\":\"lr\",\
             \"created\":false,\"created_above\":[],\"dry_run\":false}\n",
        ),
        (
            &["set", "alice@demo.test", "INBOX", "alice@demo.test", "r"],
            "alice@demo.test/INBOX: owner lrswipkxtea -> lra\n",
        ),
        (
            &["set", "alice@demo.test", "INBOX", "$staff", "l"],
            "alice@demo.test/INBOX: $staff no rights -> l\n",
        ),
        (&["set", "alice@demo.test", "INBOX", "bob@demo.test", "7"], ""),
        (&["set", "nobody@demo.test", "INBOX", "bob@demo.test", "l"], ""),
        (
            &["remove", "alice@demo.test", "INBOX", "owner", "--dry-run"],
            "would change alice@demo.test/INBOX: owner lra -> lrswipkxtea\n",
        ),
        (
            &["remove", "alice@demo.test", "INBOX", "owner"],
            "alice@demo.test/INBOX: owner lra -> lrswipkxtea\n",
        ),
        // Without an entry.
        (&["remove", "alice@demo.test", "INBOX", "zork"], ""),
        (&["remove", "alice@demo.test", "INBOX", "zork", "--dry-run"], ""),
        (&["set", "alice@demo.test", "INBOX", "anonymous", "l"], ""),
        // Nobody can have these names.
        (&["set", "alice@demo.test", "INBOX", "@demo.test", "lr"], ""),
        (&["set", "alice@demo.test", "INBOX", "bob+x@demo.test", "lr"], ""),
        (&["set", "alice@demo.test", "INBOX", " bob", "lr"], ""),
        (&["set", "alice@demo.test", "INBOX", "$a,b", "lr"], ""),
        (&["set", "alice@demo.test", "INBOX", "account:7", "lr"], ""),
        (&["list", "Shared/News"], ""),
        (&["list", "bob@demo.test"], ""),
        (
            &["set", "Shared", "New/Deep", "zork", "l", "--create"],
            "created Shared/New\ncreated Shared/New/Deep\nShared/New/Deep: zork@demo.test no rights -> l\n",
        ),
        (
            &["list", "Shared"],
            "Shared/New\n  no entries: administrators have every right, others have none\n\
             Shared/New/Deep\n  zork@demo.test l  (no such account)\nShared/News\n  anyone lrp\n",
        ),
        (
            &["remove", "Shared", "New/Deep", "zork"],
            "Shared/New/Deep: zork@demo.test l -> no rights\n",
        ),
        (&["list", "alice@demo.test", "Nowhere"], ""),
        (
            &["list", "alice@demo.test", "Drafts"],
            "alice@demo.test/Drafts\n  no entries: its owner has every right, others have none\n",
        ),
        (
            &["list", "Shared", "News", "--json"],
            "{\"account\":null,\"owner\":\"Shared\",\"mailbox\":\"News\",\"seen\":\"personal\",\
             \"entries\":[{\"identifier\":\"anyone\",\"account\":null,\"exists\":true,\"rights\":\"lrp\"}]}\n",
        ),
        (
            &["list", "alice@demo.test"],
            "alice@demo.test/INBOX\n  -bob@demo.test r\n  bob@demo.test lr\n  $staff l  (no such \
             group)\n",
        ),
        (&["seen", "alice@demo.test", "Nowhere", "personal"], ""),
        (&["seen", "nobody@demo.test", "INBOX", "personal"], ""),
        (&["seen", "alice@demo.test", "Drafts", "mine"], ""),
        (
            &["seen", "ALICE@demo.test", "Drafts", "shared"],
            "alice@demo.test/Drafts: \\Seen is shared by all already\n",
        ),
        (
            &["seen", "alice@demo.test", "Drafts", "personal"],
            "alice@demo.test/Drafts: \\Seen is each user's own\n",
        ),
        (
            &["list", "alice@demo.test", "Drafts"],
            "alice@demo.test/Drafts  (\\Seen: each user's own)\n  no entries: its owner has every \
             right, others have none\n",
        ),
        (
            &["seen", "Shared", "News", "shared", "--json"],
            "{\"verb\":\"seen\",\"account\":null,\"owner\":\"Shared\",\"mailbox\":\"News\",\
             \"before\":\"personal\",\"after\":\"shared\"}\n",
        ),
        (&["list", "Shared", "News"], "Shared/News  (\\Seen: shared by all)\n  anyone lrp\n"),
    ];
    for (arguments, expected) in STEPS {
        let arguments: Vec<&str> = ["acl"].iter().chain(*arguments).copied().collect();
        assert_eq!(server.ask(&arguments), *expected, "{arguments:?}");
    }
    // Every owner, on any shard.
    let all = server.ask(&["acl", "list"]);
    assert!(all.contains("Shared/News") && all.contains("alice@demo.test/INBOX\n"), "{all}");

    // The account is removed, and its name is given to somebody else.
    server.ask(&["user", "remove", "bob@demo.test"]);
    let without_bob = "alice@demo.test/INBOX\n  $staff l  (no such group)\n";
    wait_for(|| server.ask(&["acl", "list", "alice@demo.test"]) == without_bob);
    let folder = tempfile::tempdir().expect("a folder");
    let accounts = folder.path().join("accounts");
    std::fs::write(&accounts, "bob@demo.test demo\n").expect("written");
    server.ask(&["user", "import", accounts.to_str().expect("UTF-8")]);
    assert_eq!(server.ask(&["acl", "list", "alice@demo.test"]), without_bob);

    let told = |part: &str| server.events().lines().filter(|line| line.contains(part)).count();
    wait_for(|| told("\"cause\":\"account_removed\"") == 2);
    assert_eq!(told("\"event\":\"public_mailbox_created\""), 3);
    assert_eq!(told("\"event\":\"seen_changed\""), 2);
    // A change that changes nothing is none.
    assert_eq!(told("\"event\":\"access_changed\""), 7 + 2 + 2);
    let line = "\"mailbox\":1,\"name\":\"INBOX\",\"identifier\":\"bob@demo.test\",\"before\":\"lrs\",\
                \"after\":\"lr\"";
    assert_eq!(told(line), 1);
}

/// What is said beside the output, and the exit code.
#[test]
fn operators_are_told_what_they_may_not_expect() {
    let server = DemoServer::start_with(SMTP, &SETTINGS);
    std::fs::write(server.directory().join("groups"), "staff: alice\n").expect("written");
    // The server reads the groups.
    server.ask(&["user", "app-password", "add", "alice@demo.test", "x"]);
    const STEPS: &[(&[&str], i32, &str)] = &[
        (
            &["acl", "set", "Shared", "A/B/C", "staff", "lr", "--create"],
            0,
            "staff@demo.test: there is no such account: meant is whoever gets the name; a group has \
             this name: '$staff'",
        ),
        (&["acl", "set", "Shared", "A/B/C", "zork", "lr"], 0, "meant is whoever gets the name\n"),
        (
            &["acl", "set", "Shared", "A", "anonymous", "l"],
            1,
            "nobody is anonymous here; \"anyone\"",
        ),
        (&["acl", "set", "Shared", "A", "account:2", "l"], 1, "name an account by its address"),
        (&["acl", "remove", "Shared", "A", "anyone"], 1, "Shared/A: anyone has no entry"),
        (&["acl", "remove", "Shared", "A", "anyone", "--json"], 1, "anyone has no entry"),
        (&["acl", "set", "Shared", "A", "anyone", "z"], 2, "c is k and x, d is t and e"),
        (&["quota", "list"], 0, "no account has a quota of its own"),
        (
            &["quota", "set", "bob@demo.test", "--storage", "0"],
            0,
            "0 is a limit here, as in SETQUOTA",
        ),
        (&["quota", "set", "bob@demo.test", "--storage", "1MiB"], 0, ""),
        (&["quota", "list"], 0, ""),
    ];
    for (arguments, code, expected) in STEPS {
        let output = server.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert_eq!(said.is_empty(), expected.is_empty(), "{arguments:?}: {said}");
    }
    let told = |name: &str| {
        let line = "\"event\":\"public_mailbox_created\",";
        let name = format!("\"name\":\"{name}\"");
        server.events().lines().filter(|it| it.contains(line) && it.contains(&name)).count()
    };
    wait_for(|| told("A/B/C") == 1);
    assert_eq!([told("A"), told("A/B")], [1, 1]);
}

/// Where mail to a sub-address goes follows from the rights on the folder.
#[test]
fn sub_addresses_are_explained() {
    let server = DemoServer::start(SMTP);
    let explain = |address| server.ask(&["explain", address]);
    // The account is made, with its folders, when it is used for the first time.
    server.ask(&["acl", "set", "alice@demo.test", "INBOX", "bob@demo.test", "l"]);
    let no_folder = explain("alice+Drafts/x@demo.test");
    assert!(no_folder.contains("has no folder \"Drafts/x\": mail goes to INBOX"), "{no_folder}");
    let closed = explain("alice+Drafts@demo.test");
    assert!(closed.contains("mail from outside goes to INBOX: anyone has no p"), "{closed}");
    server.ask(&["acl", "set", "alice@demo.test", "Drafts", "anyone", "p"]);
    let open = explain("alice+Drafts@demo.test");
    assert!(
        open.contains("mail goes to the folder \"Drafts\" of account 1: anyone has p"),
        "{open}"
    );
    let json = server.ask(&["explain", "alice+Drafts@demo.test", "--json"]);
    let expected = "\"folder\":{\"account\":1,\"detail\":\"Drafts\",\"folder\":\"Drafts\",\
                    \"anyone_may_post\":true}";
    assert!(json.contains(expected), "{json}");
    assert!(!explain("alice@demo.test").contains("folder"));
}

/// It happens in the background, within seconds.
fn wait_for(mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("it did not happen");
}
