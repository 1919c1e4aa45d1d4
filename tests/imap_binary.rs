//! Messages with NUL (RFC 3516): what was appended is what BINARY gives, and nothing else has NUL.

mod transcript;
mod world;

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use world::{Client, Kit, SimulatedWorld, serve_imap};

/// The literal behind `name` in an answer.
fn literal(told: &[u8], name: &str) -> Vec<u8> {
    let text = || told.escape_ascii().to_string();
    let find = |octets: &[u8], wanted: &[u8]| {
        octets.windows(wanted.len()).position(|it| it == wanted).map(|at| at + wanted.len())
    };
    let start = find(told, format!("{name} ").as_bytes());
    let rest = &told[start.unwrap_or_else(|| panic!("{name}: {}", text()))..];
    let rest = rest.strip_prefix(b"~").unwrap_or(rest);
    let end = find(rest, b"}\r\n").unwrap_or_else(|| panic!("{name}: {}", text()));
    let size = std::str::from_utf8(&rest[1..end - 3]).expect("digits");
    let size: usize = size.parse().unwrap_or_else(|_| panic!("{name}: {}", text()));
    rest[end..][..size].to_vec()
}

fn append(client: &mut Client, message: &[u8]) -> String {
    let mut command = format!("a APPEND INBOX ~{{{}+}}\r\n", message.len()).into_bytes();
    command.extend_from_slice(message);
    command.extend_from_slice(b"\r\n");
    client.say(command);
    client.read_to("a ")
}

fn fetch(client: &mut Client, items: &str) -> Vec<u8> {
    client.say(format!("f FETCH * ({items})\r\n"));
    client.read_octets_to("f OK")
}

/// A part: its fields, its body as it is sent, and the octets that it means.
type Leaf = (String, Vec<u8>, Vec<u8>);

fn leaf() -> impl Strategy<Value = Leaf> {
    let octets = proptest::collection::vec(
        prop_oneof![
            2 => Just(b"words ".to_vec()),
            2 => Just(vec![0]),
            1 => Just(b"\r\n".to_vec()),
            1 => Just(b"\r".to_vec()),
            1 => Just(b"\n".to_vec()),
            1 => Just(b"--".to_vec()),
            1 => Just(vec![b'x'; 100]),
            1 => proptest::collection::vec(any::<u8>(), 1..80),
        ],
        0..8,
    );
    let types = ["", "Content-Type: text/plain\r\n", "Content-Type: image/x; a=b\r\n"];
    let labels = ["", "7bit", "8bit", "binary", "BINARY (really)", "base64"];
    let (types, labels) =
        (prop::sample::select(types.to_vec()), prop::sample::select(labels.to_vec()));
    (types, labels, octets).prop_map(|(media_type, label, octets)| {
        let octets = octets.concat();
        let body = match label {
            "base64" => STANDARD.encode(&octets).into_bytes(),
            _ => octets.clone(),
        };
        let label = match label {
            "" => String::new(),
            _ => format!("Content-Transfer-Encoding: {label}\r\n"),
        };
        (format!("{media_type}{label}"), body, octets)
    })
}

fn multipart(boundary: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    let mut message =
        format!("Content-Type: multipart/mixed; boundary={boundary}\r\n\r\nbefore").into_bytes();
    for part in parts {
        message.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        message.extend_from_slice(part);
    }
    message.extend_from_slice(format!("\r\n--{boundary}--\r\nafter\r\n").as_bytes());
    message
}

fn part((fields, body, _): &Leaf) -> Vec<u8> {
    [fields.as_bytes(), b"\r\n", body].concat()
}

/// A message, with the numbers of its leaves and their octets.
fn message() -> impl Strategy<Value = (Vec<u8>, Vec<(&'static str, Vec<u8>)>)> {
    let flat = leaf().prop_map(|leaf| (part(&leaf), vec![("1", leaf.2)]));
    let nested = [leaf(), leaf(), leaf(), leaf()].prop_map(|leaves| {
        let [first, second, third, fourth] = leaves.each_ref().map(part);
        let inner = multipart("inner-boundary", &[second, third]);
        let attached = [b"Content-Type: message/rfc822\r\n\r\nSubject: y\r\n", &*fourth].concat();
        let message = multipart("outer-boundary", &[first, inner, attached]);
        let names = ["1", "2.1", "2.2", "3.1"];
        let octets = leaves.map(|(.., octets)| octets);
        (message, names.into_iter().zip(octets).collect())
    });
    prop_oneof![1 => flat, 2 => nested]
}

/// On the owner's shard and on another one.
#[test]
fn what_was_appended_is_what_binary_gives() {
    for entry in [0, 1] {
        let kit = Kit::new();
        let world = SimulatedWorld::new(&kit, serve_imap, entry, true);
        let mut client = world.log_in("alice");
        client.done("SELECT INBOX");
        let client = std::cell::RefCell::new(client);
        let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
        let checked = TestRunner::new(config).run(&message(), |(message, parts)| {
            let client = &mut *client.borrow_mut();
            let said = message.escape_ascii();
            let told = append(client, &message);
            prop_assert!(told.contains("a OK "), "{}: {}", said, told);
            client.done("NOOP");
            let told = fetch(client, "RFC822.SIZE BODYSTRUCTURE BODY.PEEK[] BODY.PEEK[TEXT]");
            prop_assert!(!told.contains(&0), "{}", told.escape_ascii());
            let shown = literal(&told, "BODY[]");
            let size = format!("RFC822.SIZE {} ", shown.len());
            prop_assert!(String::from_utf8_lossy(&told).contains(&size), "{}", said);
            prop_assert!(shown.ends_with(&literal(&told, "BODY[TEXT]")), "{}", said);
            if !message.contains(&0) {
                prop_assert_eq!(&shown, &message);
            }
            for (number, octets) in parts {
                let items = format!("BODY.PEEK[{number}] BODY.PEEK[{number}.MIME]");
                let told = fetch(client, &items);
                prop_assert!(!told.contains(&0), "{}: {}", said, told.escape_ascii());
                let items = format!("BINARY.SIZE[{number}] BINARY.PEEK[{number}]");
                let told = fetch(client, &items);
                let binary = literal(&told, &format!("BINARY[{number}]"));
                prop_assert_eq!(&binary, &octets, "{} of {}", number, said);
                let size = format!("BINARY.SIZE[{number}] {} ", octets.len());
                prop_assert!(String::from_utf8_lossy(&told).contains(&size), "{}", said);
            }
            Ok(())
        });
        checked.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// Larger than the memory that there is for messages, so that it is in the log twice for a while.
#[test]
fn a_large_message_is_converted_within_bounds() {
    for entry in [0, 1] {
        let kit = Kit::new();
        let world = SimulatedWorld::with_memory(&kit, serve_imap, entry, true, 3 << 20);
        let mut client = world.log_in("alice");
        client.done("SELECT INBOX");
        let octets: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
        let fields = b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\n";
        let told = append(&mut client, &[fields, &*octets].concat());
        assert!(told.contains("a OK "), "{told}");
        client.done("NOOP");
        let told = fetch(&mut client, "BINARY.PEEK[1]");
        assert!(literal(&told, "BINARY[1]") == octets);
        let told = fetch(&mut client, "BODY.PEEK[1]");
        assert!(!told.contains(&0));
        for shard in world.shards.iter() {
            assert_eq!(shard.messages.held(), 0);
        }
    }
}

/// APPENDLIMIT and the limit of a command are those of what is stored.
#[test]
fn limits_are_those_of_what_is_stored() {
    for entry in [0, 1] {
        let kit = Kit::new();
        let mut options = world::options(true);
        options.imap.append_octets_max = 0;
        options.imap.limits.message = 1_000;
        let world = SimulatedWorld::with_options(&kit, serve_imap, entry, options, 64 << 20);
        let mut client = world.log_in("alice");
        let message = |octets| [&b"MIME-Version: 1.0\r\n\r\n"[..], &vec![0; octets]].concat();
        let told = append(&mut client, &message(900));
        assert!(told.contains("a NO [TOOBIG]"), "{told}");
        let two = |first: usize, second: usize| {
            let mut command = b"a APPEND INBOX".to_vec();
            for message in [message(first), message(second)] {
                command.extend_from_slice(format!(" ~{{{}+}}\r\n", message.len()).as_bytes());
                command.extend_from_slice(&message);
            }
            [&*command, b"\r\n"].concat()
        };
        client.say(two(330, 330));
        let told = client.read_to("a ");
        assert!(told.contains("a NO [TOOBIG]"), "{told}");
        assert!(world.uids().is_empty());
        client.say(two(250, 250));
        let told = client.read_to("a ");
        assert!(told.contains("a OK "), "{told}");
        assert_eq!(world.uids(), [1, 2]);
    }
}

/// Mail may bring NUL where nothing encodes it. Its place is kept.
#[test]
fn what_is_stored_with_nul_is_shown_without() {
    for entry in [0, 1] {
        let kit = Kit::new();
        let world = SimulatedWorld::new(&kit, serve_imap, entry, true);
        world.deliver("Subject: a\0b\r\n\r\nc\0d\r\n");
        let mut client = world.log_in("alice");
        client.done("SELECT INBOX");
        let items = "RFC822.SIZE ENVELOPE BODY.PEEK[] BODY.PEEK[HEADER.FIELDS (SUBJECT)] \
                     BODY.PEEK[TEXT]<1.1> RFC822 RFC822.TEXT RFC822.HEADER PREVIEW";
        let told = fetch(&mut client, items);
        assert!(!told.contains(&0), "{}", told.escape_ascii());
        let told = String::from_utf8_lossy(&told);
        for part in [
            "RFC822.SIZE 21 ",
            " BODY[] {21}\r\nSubject: a?b\r\n\r\nc?d\r\n",
            "{16}\r\nSubject: a?b\r\n\r\n",
            "BODY[TEXT]<1> {1}\r\n?",
        ] {
            assert!(told.contains(part), "{part:?}: {told}");
        }
        let told = fetch(&mut client, "BINARY.PEEK[] BINARY.PEEK[1]");
        assert_eq!(literal(&told, "BINARY[]"), b"Subject: a\0b\r\n\r\nc\0d\r\n");
        assert_eq!(literal(&told, "BINARY[1]"), b"c\0d\r\n");
        let url = "imap://alice%40demo.test@mail.demo.test/INBOX/;uid=1;urlauth=authuser";
        client.say(format!("g GENURLAUTH \"{url}\" INTERNAL\r\n"));
        let told = client.read_to("g OK");
        let url = told.split('"').nth(1).expect("an URL").to_owned();
        client.say(format!("h URLFETCH \"{url}\"\r\n"));
        let told = client.read_to("h OK");
        assert!(told.contains("{21}\r\nSubject: a?b\r\n\r\nc?d\r\n"), "{told}");
    }
}
