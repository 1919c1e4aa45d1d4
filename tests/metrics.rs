//! The metrics page of a running demo: connections of every protocol are counted while they are
//! open, also after a handover, and the page has the series that docs/operations.md lists.

mod demo_server;
mod transcript;

use std::{collections::BTreeSet, time::Duration};

use demo_server::{DemoServer, IMAP, LMTP, POP3, SMTP, SUBMISSION};

/// Sum over the shards of the series `name` with `label` in its labels.
fn sum(page: &str, name: &str, label: &str) -> u64 {
    let lines = page.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')) && line.contains(label)
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn connections_are_counted_while_they_are_open() {
    let server = DemoServer::start(SMTP);
    server.deliver("alice@demo.test", "Subject: x\r\n\r\nx\r\n");
    let login = "a LOGIN alice@demo.test demo\r\n";
    for (port, protocol, say, answer) in [
        (SMTP, "smtp", "NOOP\r\n", "250 "),
        (LMTP, "lmtp", "NOOP\r\n", "250 "),
        (SUBMISSION, "submission", "NOOP\r\n", "250 "),
        (POP3, "pop3", "CAPA\r\n", "\n."),
        (IMAP, "imap", login, "a OK"),
        // With two shards one of these log-ins is handed over.
        (IMAP, "imap", &login.replace("alice", "bob"), "a OK"),
    ] {
        let label = format!("protocol=\"{protocol}\"");
        let count = |name| sum(&server.metrics(), &format!("ringmail_connections_{name}"), &label);
        let before = count("total");
        let connection = server.converse(port, say, answer);
        assert_eq!(count("open"), 1, "{protocol}");
        assert!(count("total") > before, "{protocol}");
        drop(connection);
        // The server notices the end at some time: waited for, with a limit.
        let closed = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            count("open") == 0
        });
        assert!(closed, "{protocol}");
    }
}

#[test]
fn the_page_and_the_documentation_agree() {
    let server = DemoServer::start(SMTP);
    let before = server.metrics();
    server.deliver("alice@demo.test", "Subject: x\r\n\r\nx\r\n");
    let page = server.metrics();
    let docs = include_str!("../docs/operations.md");
    let (_, table) = docs.split_once("| series (`ringmail_` in front)").unwrap();
    let table = table.split("\n\n").next().unwrap();
    let documented: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    let shown = page.lines().filter_map(|line| line.strip_prefix("# TYPE ringmail_"));
    for name in shown.filter_map(|line| line.split(' ').next()) {
        assert!(documented.contains(name), "{name} is not documented");
    }
    for name in [
        "connections_total",
        "command_duration_seconds_count",
        "smtp_messages_accepted_total",
        "store_syncs_total",
        "store_batches_total",
        "store_entries_total",
        "store_written_bytes_total",
        "store_messages_total",
        "store_body_bytes_total",
        "store_body_stored_bytes_total",
    ] {
        let name = format!("ringmail_{name}");
        assert!(sum(&page, &name, "") > sum(&before, &name, ""), "{name} stands still");
    }
}
