//! Lines of the event log are valid JSON for a reader, whatever clients put into them.

use std::net::IpAddr;

use proptest::prelude::*;
use ringmail::{
    events::{Chunk, Event, VALUE_MAX},
    metrics::Protocol,
    model::{Timestamp, Trail},
};
use serde_json::Value;

fn line(name: &str) -> String {
    let event = Event::LogInRefused {
        trail: Trail { run: 7, shard: 1, connection: 31, message: 0 },
        protocol: Protocol::Imap,
        peer: IpAddr::from([192, 0, 2, 7]),
        tls: true,
        name,
        reason: "wrong",
        means: "password",
        detail: None,
    };
    let chunk = Chunk::of(&event, Timestamp(0));
    assert_eq!(chunk.count, 1);
    String::from_utf8(chunk.lines).unwrap()
}

/// `name` must come out unchanged, or cut.
fn check(name: &str) {
    let line = line(name);
    let text = line.strip_suffix('\n').unwrap();
    assert!(text.chars().all(|c| !c.is_control()), "{line}");
    assert!(text.len() < VALUE_MAX + 200, "{}", text.len());
    let object: Value = serde_json::from_str(text).unwrap();
    let found = object["name"].as_str().unwrap();
    let cut = found.strip_suffix("...").is_some_and(|begin| name.starts_with(begin));
    assert!(found == name || cut && found.len() > 50, "{found}");
    assert_eq!(object["trail"], "7-1-1f");
    assert_eq!(object["tls"], true);
}

#[test]
fn control_characters_and_long_names() {
    check("a\u{7f}b\u{9b}c\0\r\n\t\"\\é\u{a0}\u{1b}[2J\u{2028}");
    // Cut before a character that no longer fits, also with an escape behind it.
    for lead in 370..384 {
        check(&format!("{}😀\"\"\"", "x".repeat(lead)));
    }
    for text in ["x", "é", "\u{1b}", "\"", "\u{85}", "😀"] {
        check(&text.repeat(5000));
    }
}

proptest! {
    #[test]
    fn whatever_the_name(name in ".{0,200}") {
        check(&name);
    }

    #[test]
    fn controls_and_all(name in proptest::collection::vec(any::<char>(), 0..200)) {
        check(&name.into_iter().collect::<String>());
    }
}
