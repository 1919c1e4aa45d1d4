//! Plays `tests/transcripts/imap` on the real service and store over in-memory connections and a
//! virtual clock: whole, octet by octet, and cut in two everywhere; on the shard that owns the
//! account and through a handover. Also cases that a transcript cannot express: large mailboxes and
//! messages, clients that do not read, a failing disk.

mod demo_server;
mod transcript;
mod world;

use std::time::Duration;

use demo_server::DemoServer;
use ringmail::{
    model::MailboxId,
    protocol::imap::{Capabilities, Capability},
    runtime::{
        connection::Connection,
        device::memory::Faults,
        executor::Executor,
        resources::{ResourceLimits, ShardResources},
    },
    service::imap,
};
use transcript::{Split, Transcript};
use world::{ALICE, Client, Kit, SimulatedWorld, serve_imap};

fn play(kit: &Kit, file: &Transcript, split: Split, entry: usize) {
    let plaintext = file.setting("plaintext") != Some("no");
    let options = world::options(plaintext);
    let mut world = SimulatedWorld::with_options(kit, serve_imap, entry, options, 64 << 20);
    file.play(&mut world, split);
}

/// On the owner of alice's account, and through a handover.
const ENTRIES: [usize; 2] = [0, 1];

/// All files, or those selected by `TRANSCRIPT=part-of-the-name`.
fn files() -> Vec<Transcript> {
    let files = Transcript::folder("imap");
    assert!(files.len() > 20, "found only {} transcripts", files.len());
    let only = std::env::var("TRANSCRIPT").unwrap_or_default();
    files.into_iter().filter(|file| file.path.display().to_string().contains(&only)).collect()
}

#[test]
fn transcripts_whole_and_octet_by_octet() {
    let kit = Kit::new();
    for file in files() {
        for entry in ENTRIES {
            play(&kit, &file, Split::Whole, entry);
            play(&kit, &file, Split::Every, entry);
        }
    }
}

/// Cuts of one file, for the time that they take: a play takes as long as the file.
const CUTS: usize = 300;

/// Cut at every fourth octet, in long files at fewer; every octet alone is played above. The two
/// tests run in parallel.
fn cut_in_two(entry: usize) {
    let kit = Kit::new();
    for file in files() {
        let octets = file.client_octets();
        // Odd, so that cuts are not all at the same places of lines.
        let step = if octets > 4 * CUTS { (octets / CUTS) | 1 } else { 4 };
        for position in (1 + entry..octets).step_by(step) {
            play(&kit, &file, Split::At(position), entry);
        }
    }
}

#[test]
fn transcripts_cut_in_two_at_odd_octets_on_the_owner() {
    cut_in_two(0);
}

#[test]
fn transcripts_cut_in_two_at_even_octets_through_a_handover() {
    cut_in_two(1);
}

/// The real binary, real ports, a fresh data directory for each.
#[test]
fn transcripts_over_sockets() {
    for file in files() {
        if file.setting("sockets") == Some("no") || file.setting("plaintext") == Some("no") {
            continue;
        }
        let mut server = DemoServer::start(demo_server::IMAP);
        file.play(&mut server, Split::Whole);
    }
}

fn append(client: &mut Client, message: &str) {
    client.say(format!("a APPEND INBOX {{{}+}}\r\n{message}\r\n", message.len()));
    client.read_to("a OK");
}

#[test]
fn what_is_not_configured_is_neither_told_nor_known() {
    let kit = Kit::new();
    let mut options = world::options(true);
    options.imap.capabilities =
        Capabilities::ALL.without(Capability::Idle).without(Capability::CondStore);
    let world = SimulatedWorld::with_options(&kit, serve_imap, 0, options, 64 << 20);
    let mut client = world.client();
    client.say("a LOGIN alice@demo.test demo\r\nb CAPABILITY\r\n");
    let told = client.read_to("b OK");
    assert!(!told.contains("IDLE") && !told.contains("CONDSTORE"), "{told}");
    assert!(told.contains(" ENABLE ID NAMESPACE "), "{told}");
    client.say("c IDLE\r\nd ENABLE CONDSTORE\r\n");
    let told = client.read_to("d OK");
    assert!(told.starts_with("c BAD unknown command\r\n* ENABLED\r\nd OK "), "{told}");
}

/// RFC 6855 6.
#[test]
fn where_utf8_is_the_only_one_it_must_be_enabled_first() {
    let kit = Kit::new();
    for enable in ["UTF8=ACCEPT", "IMAP4rev2"] {
        let mut options = world::options(true);
        options.imap.capabilities = Capabilities::ALL.without(Capability::Utf8Accept);
        let world = SimulatedWorld::with_options(&kit, serve_imap, 0, options, 64 << 20);
        let mut client = world.client();
        let told = client.read_to("* OK");
        assert!(told.contains(" UTF8=ONLY") && !told.contains("UTF8=ACCEPT"), "{told}");
        client.done("LOGIN alice@demo.test demo");
        for command in [
            "SELECT INBOX",
            "LIST \"\" *",
            "NAMESPACE",
            "GETQUOTAROOT INBOX",
            "APPEND INBOX {10000000}",
            "APPEND INBOX {3+}\r\nx\r\n",
        ] {
            let told = client.answer(command);
            assert!(told.contains(" NO [CANNOT] "), "{command}: {told}");
        }
        for command in
            ["NOOP", "CAPABILITY", "ID NIL", "ENABLE CONDSTORE UTF8=ONLY", "COMPARATOR i;octet"]
        {
            client.done(command);
        }
        let told = client.done(&format!("ENABLE {enable}"));
        assert!(told.contains(&format!("* ENABLED {enable}\r\n")), "{told}");
        client.done("SELECT INBOX");
    }
}

/// RFC 10022 3.1: every message is in one batch, in the order of the batches.
#[test]
fn a_mailbox_in_batches() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut client = world.log_in("alice");
    let message = " {8+}\r\na: b\r\n\r\n";
    client.done(&format!("APPEND INBOX{}", message.repeat(4)));
    client.done("SELECT INBOX");
    for _ in 0..8 {
        client.done("COPY 1:* INBOX");
    }
    client.done("UID STORE 1:2,4,1024 +FLAGS.SILENT \\Deleted");
    client.done("EXPUNGE");
    let cases = [
        ("500", " 1023:524,523:24,23:1"),
        ("500 1:2", " 1023:524,523:24"),
        ("500 2:9", " 523:24,23:1"),
        ("500 3:3", " 23:1"),
        ("500 4:9", ""),
        ("1019", " 1023:5,3:1"),
        ("1020", " 1023:1"),
    ];
    for (arguments, batches) in cases {
        let told = client.done(&format!("UIDBATCHES {arguments}"));
        assert!(told.contains(&format!("\"){batches}\r\n")), "{arguments}: {told}");
    }
}

/// Apple TN3189: a mail program's background work is refused while others wait.
#[test]
fn background_events_are_put_off() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut client = world.log_in("alice");
    let mut answer = |event: &str| {
        client.say(format!("a ID (\"name\" \"com.apple.email.maild\" \"event\" \"{event}\")\r\n"));
        client.read_to("a ")
    };
    let done = "* ID (\"name\" \"Ringmail\")\r\na OK ID completed\r\n";
    assert_eq!(answer("back-fill"), done);
    let load = &world.shards[0].load;
    load.note(Duration::from_secs(30), Duration::from_secs(30));
    for event in ["back-fill", "indexer"] {
        assert!(answer(event).starts_with("a NO [UNAVAILABLE] "), "{event}");
    }
    assert_eq!(answer("user"), done);
    load.note(Duration::ZERO, Duration::from_secs(3_000));
    assert_eq!(answer("indexer"), done);
}

/// RFC 2971 3.3: as long as an ID may be, before the log-in, in either form of strings.
#[test]
fn the_longest_id_is_answered_before_the_log_in() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut client = world.client();
    client.read_to("* OK");
    let (name, value) = ("n".repeat(30), "v".repeat(1_024));
    let literal = |text: &str| format!("{{{}+}}\r\n{text}", text.len());
    let forms: [(String, String); 3] = [
        (format!("\"{name}\""), format!("\"{value}\"")),
        (literal(&name), literal(&value)),
        // As many octets as there can be.
        (format!("\"{name}\""), format!("\"{}\"", "\\\\".repeat(1_024))),
    ];
    for (name, value) in &forms {
        let fields = |count| vec![format!("{name} {value}"); count].join(" ");
        let told = client.done(&format!("ID ({})", fields(30)));
        assert!(told.starts_with("* ID (\"name\" \"Ringmail\")\r\n"), "{told}");
        let more = client.answer(&format!("ID ({} \"x\" NIL)", fields(30)));
        assert!(more.contains(" BAD too many ID fields"), "{more}");
        let longer = client.answer(&format!("ID (\"x\" {})", literal(&"v".repeat(1_025))));
        assert!(longer.contains(" BAD ID field too long"), "{longer}");
    }
    for command in
        ["ID NIL", "ID ()", "ID (\"os\" NIL)", "id (\"name\" \"sodr\" \"version\" \"19.34\")"]
    {
        client.done(command);
    }
    for command in ["ID", "ID (\"os\")", "ID (NIL \"x\")", "ID (os x)", "ID \"os\" \"x\""] {
        assert!(client.answer(command).contains(" BAD "), "{command}");
    }
    client.done("LOGIN alice@demo.test demo");
    client.done("ID NIL");
}

/// RFC 7888 5.
#[test]
fn under_literal_minus_only_short_literals_come_unasked() {
    let kit = Kit::new();
    let mut options = world::options(true);
    options.imap.capabilities = Capabilities::ALL.without(Capability::LiteralPlus);
    let world = SimulatedWorld::with_options(&kit, serve_imap, 0, options, 64 << 20);
    let mut client = world.client();
    let told = client.read_to("* OK");
    assert!(told.contains(" LITERAL- ") && !told.contains("LITERAL+"), "{told}");
    client.say(format!("a LOGIN {{4097+}}\r\n{} demo\r\n", "x".repeat(4_097)));
    assert!(client.read_to("a BAD").contains("[TOOBIG]"));
    client.say("b LOGIN {15+}\r\nalice@demo.test demo\r\n");
    client.read_to("b OK");
    for (size, answer) in [(4_096, "c OK"), (4_097, "c BAD [TOOBIG]")] {
        let message = "x".repeat(size);
        client.say(format!("c APPEND INBOX {{{size}+}}\r\n{message}\r\n"));
        client.read_to(answer);
    }
    client.say(format!("d CREATE {{4097+}}\r\n{}\r\n", "x".repeat(4_097)));
    client.read_to("d BAD [TOOBIG]");
    // One that waits is asked for, whatever its size.
    client.say("e APPEND INBOX {4097}\r\n");
    client.read_to("+ ");
    client.say(format!("{}\r\nf STATUS INBOX (MESSAGES)\r\n", "x".repeat(4_097)));
    let told = client.read_to("f OK");
    assert!(told.contains("MESSAGES 2"), "{told}");
}

#[test]
fn a_large_message_comes_whole_and_in_parts() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 1, true);
    let mut client = world.log_in("alice");
    let body: String = (0..120_000).map(|line| format!("line {line:06}\r\n")).collect();
    let message = format!("Subject: large\r\n\r\n{body}");
    append(&mut client, &message);
    client.say("b SELECT INBOX\r\nc FETCH 1 BODY.PEEK[]\r\n");
    let answer = client.read_to("c OK");
    let literal = format!("BODY[] {{{}}}\r\n{message})\r\n", message.len());
    assert!(answer.contains(&literal), "{answer:.300}");
    // Across the edge of the store's chunks.
    client.say("d FETCH 1 BODY.PEEK[TEXT]<262000.500>\r\n");
    let answer = client.read_to("d OK");
    let part = &body[262_000..262_500];
    assert!(answer.contains(&format!("BODY[TEXT]<262000> {{500}}\r\n{part})\r\n")), "{answer}");
    client.say("e SEARCH BODY \"LINE 119999\" NOT BODY \"line 120000\"\r\n");
    assert_eq!(client.read_to("e OK"), "* SEARCH 1\r\ne OK SEARCH completed\r\n");
    // A part after an attachment of many chunks, which is not read.
    let message = format!(
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nbefore\r\n--b\r\n\
         Content-Type: application/pdf\r\n\r\n{body}\r\n--b\r\n\r\nbehind it\r\n--b--\r\n"
    );
    append(&mut client, &message);
    client.say("f SEARCH BODY before BODY \"BEHIND it\"\r\ng SEARCH 2 TEXT \"line 000001\"\r\n");
    let answer = client.read_to("g OK");
    assert!(answer.contains("* SEARCH 2\r\nf OK "), "{answer}");
    assert!(answer.contains("* SEARCH\r\ng OK "), "{answer}");
}

/// RFC 3516 4.2: whatever its size, and in parts that begin within a piece of the store.
#[test]
fn a_large_part_is_decoded_in_pieces() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 1, true);
    let mut client = world.log_in("alice");
    // 57 octets a line: 0 to 56, of which the first is NUL.
    let line = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4\r\n";
    let lines = 10_000;
    let body = line.repeat(lines);
    append(&mut client, &format!("Content-Transfer-Encoding: BASE64\r\n\r\n{body}"));
    client.say("b SELECT INBOX\r\nc FETCH 1 (BINARY.SIZE[1] BINARY.PEEK[1]<262100.600>)\r\n");
    let octets = client.read_octets_to("c OK");
    let told = String::from_utf8_lossy(&octets);
    assert!(told.contains(&format!("BINARY.SIZE[1] {} ", 57 * lines)), "{told}");
    let decoded: Vec<u8> = (0..57u8).cycle().skip(262_100 % 57).take(600).collect();
    let expected = [&b"BINARY[1]<262100> ~{600}\r\n"[..], &decoded, b")\r\n"].concat();
    assert!(octets.windows(expected.len()).any(|it| it == expected), "{told}");
}

/// The tags of the tagged responses, with what they say.
fn answers(told: &str) -> Vec<(&str, &str)> {
    let lines = told.lines().filter(|line| !line.starts_with(['*', '+']));
    lines.map(|line| line.split_once(' ').expect(line)).collect()
}

/// Changes that follow each other share syncs, and each is answered in its turn.
#[test]
fn pipelined_changes_share_syncs() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut client = world.log_in("alice");
    append(&mut client, "first");
    client.say("b SELECT INBOX\r\n");
    client.read_to("b OK");
    let before = world.device.operations().1;
    let mut commands = String::new();
    for number in 0..20 {
        commands += &format!("a{number} APPEND INBOX {{4+}}\r\nm{number:03}\r\n");
        commands += &format!("s{number} STORE 1 +FLAGS (k{number})\r\n");
        if number == 10 {
            commands += "n APPEND nowhere {9+}\r\nx LOGOUT\n\r\n";
            commands += "o STORE x\r\n";
        }
    }
    client.say(commands + "z UID SEARCH ALL\r\n");
    let told = client.read_to("z OK");
    let mut expected: Vec<(String, &str)> = Vec::new();
    for number in 0..20 {
        expected.push((format!("a{number}"), "OK [APPENDUID"));
        expected.push((format!("s{number}"), "OK "));
        if number == 10 {
            expected.push(("n".to_owned(), "NO [TRYCREATE]"));
            expected.push(("o".to_owned(), "BAD "));
        }
    }
    expected.push(("z".to_owned(), "OK "));
    let found = answers(&told);
    assert_eq!(found.len(), expected.len(), "{told}");
    for ((tag, text), (expected_tag, start)) in found.iter().zip(&expected) {
        assert_eq!(tag, expected_tag, "{told}");
        assert!(text.starts_with(start), "{tag} {text}");
    }
    // Each in its place, and the search sees all of them.
    let uids: Vec<String> = (1..=21).map(|uid| uid.to_string()).collect();
    assert!(told.contains(&format!("* SEARCH {}\r\n", uids.join(" "))), "{told}");
    let syncs = world.device.operations().1 - before;
    assert!(syncs < 15, "{syncs} syncs for 40 changes");
}

/// What comes slowly does not hold back the answers to what came before.
#[test]
fn open_changes_are_answered_while_a_message_arrives() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut client = world.log_in("alice");
    for (size, sent) in [(5, "ab"), (100_000, "ab"), (5, "abcde")] {
        client.say(format!("a APPEND INBOX {{3+}}\r\none\r\nb APPEND INBOX {{{size}+}}\r\n{sent}"));
        client.read_to("a OK");
        client.say(format!("{}\r\n", "x".repeat(size - sent.len())));
        client.read_to("b OK");
    }
    assert_eq!(world.uids(), [1, 2, 3, 4, 5, 6]);
}

/// Of changes that a failed sync took along, none is said to be done, and none is there.
#[test]
fn pipelined_changes_that_are_not_durable_are_refused() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut client = world.log_in("alice");
    append(&mut client, "kept");
    let (_, syncs) = world.device.operations();
    world.device.inject(Faults { failed_syncs: vec![syncs], ..Faults::default() });
    let appends = (0..5).map(|number| format!("a{number} APPEND INBOX {{1+}}\r\nx\r\n"));
    client.say(appends.collect::<String>());
    let told = client.read_to("a4 ");
    let found = answers(&told);
    let tags: Vec<&str> = found.iter().map(|(tag, _)| *tag).collect();
    assert_eq!(tags, ["a0", "a1", "a2", "a3", "a4"], "{told}");
    assert!(found.iter().all(|(_, text)| text.starts_with("NO [UNAVAILABLE]")), "{told}");
    world.sleep(60);
    assert_eq!(world.uids(), [1], "{told}");
}

/// RFC 4469 4.3: what is named a hundred times is refused before it is read as often.
#[test]
fn a_bomb_of_urls_is_refused_by_its_size() {
    let kit = Kit::new();
    let mut options = world::options(true);
    options.imap.limits.message = 1_000_000;
    let world = SimulatedWorld::with_options(&kit, serve_imap, 0, options, 64 << 20);
    let mut client = world.log_in("alice");
    append(&mut client, &"x".repeat(600_000));
    let urls = |count| vec!["URL \"/INBOX/;UID=1\""; count].join(" ");
    client.say(format!("b APPEND INBOX CATENATE ({})\r\n", urls(100)));
    let told = client.read_to("b ");
    assert!(told.contains("b NO [TOOBIG]"), "{told}");
    client.say(format!("c APPEND INBOX CATENATE ({})\r\n", urls(1)));
    client.read_to("c OK");
    assert_eq!(world.uids(), [1, 2]);
}

/// RFC 3502 6.3.11: as many and as much as is configured, and never some of them.
#[test]
fn one_append_has_limits() {
    let kit = Kit::new();
    let mut options = world::options(true);
    options.imap.append_messages_max = 3;
    options.imap.append_octets_max = 0;
    options.imap.limits.message = 1_000;
    let world = SimulatedWorld::with_options(&kit, serve_imap, 0, options, 64 << 20);
    let mut client = world.log_in("alice");
    let mut check = |sizes: &[usize], expected: &str| {
        let messages = sizes.iter().map(|&size| format!(" {{{size}+}}\r\n{}", "x".repeat(size)));
        let messages: String = messages.collect();
        client.say(format!("a APPEND INBOX{messages}\r\n"));
        let told = client.read_to("a ");
        assert!(told.contains(expected), "{sizes:?}: {told}");
    };
    check(&[1, 1, 1], "a OK");
    check(&[1, 1, 1, 1], "a NO [LIMIT]");
    check(&[500, 501], "a NO [TOOBIG]");
    check(&[500, 500], "a OK");
    check(&[1_000], "a OK");
    assert_eq!(world.uids(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn many_messages_are_answered_and_changed_at_once() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut client = world.log_in("alice");
    let count = 3_000;
    let message = "Subject: many\r\n\r\nx\r\n";
    let append = format!("a APPEND INBOX {{{}+}}\r\n{message}\r\n", message.len());
    for _ in 0..count {
        client.say(&append);
    }
    client.say("b SELECT INBOX\r\n");
    client.read_to("b OK");
    client.say("c UID STORE 1:* +FLAGS.SILENT (\\Deleted)\r\nd FETCH 1:* (UID BODY[TEXT])\r\n");
    let answer = client.read_to("d OK");
    for number in [1, 2, count - 1, count] {
        let line = format!(
            "* {number} FETCH (FLAGS (\\Deleted \\Seen \\Recent) UID {number} BODY[TEXT] {{3}}\r\nx\r\n)\r\n"
        );
        assert!(answer.contains(&line), "{number}: {answer:.500}");
    }
    client.say(format!("e UID EXPUNGE 1:{}\r\n", count - 1));
    let answer = client.read_to("e OK");
    assert_eq!(answer.matches(" EXPUNGE\r\n").count(), count - 1);
    client.say("f FETCH 1:* UID\r\n");
    assert!(client.read_to("f OK").starts_with(&format!("* 1 FETCH (UID {count})\r\n")));
}

/// RFC 5267 4.3: as many results as a session may have, of all messages, all of which come and go.
#[test]
fn many_messages_come_into_results_and_leave_them() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let (mut client, mut other) = (world.log_in("alice"), world.log_in("alice"));
    let count = 5_000;
    for number in 0..count {
        let message = format!("Subject: {:04}\r\n\r\nx\r\n", number * 7 % 5_000);
        other.say(format!("a APPEND INBOX {{{}+}}\r\n{message}\r\n", message.len()));
    }
    other.say("b SELECT INBOX\r\n");
    other.read_to("b OK");
    client.done("SELECT INBOX");
    for number in 0..8 {
        let told = client.answer("UID SORT RETURN (UPDATE COUNT) (REVERSE SUBJECT) UTF-8 FLAGGED");
        let is_first = told.contains("t OK");
        assert!(is_first == (number == 0), "the same tag: {told}");
        client.say(format!("s{number} UID SORT RETURN (UPDATE) (SUBJECT) UTF-8 FLAGGED\r\n"));
        client.read_to(&format!("s{number} OK"));
        if number < 7 {
            client.say(format!("u{number} SEARCH RETURN (UPDATE) FLAGGED UNDELETED\r\n"));
            client.read_to(&format!("u{number} OK"));
        }
    }
    assert!(client.answer("UID SEARCH RETURN (UPDATE) ALL").contains("t BAD"));
    client.say("more UID SEARCH RETURN (UPDATE COUNT) ALL\r\n");
    let told = client.read_to("more OK");
    assert!(told.contains("COUNT 5000\r\n* NO [NOUPDATE \"more\"] "), "{told}");
    // In no response more than 4,096, and of sorted results each where it belongs.
    other.done("STORE 1:* +FLAGS.SILENT (\\Flagged)");
    let told = client.done("NOOP");
    let of = |tag: &str| -> Vec<String> {
        let start = format!("* ESEARCH (TAG \"{tag}\") ");
        told.lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect()
    };
    assert_eq!(of("u3"), ["ADDTO (0 1:4096)", "ADDTO (0 4097:5000)"]);
    let sorted = of("s5");
    assert_eq!(sorted.len(), 2);
    assert!(sorted[0].starts_with("UID ADDTO (1 1,2144,4287,1430,3573,"), "{:.100}", sorted[0]);
    assert!(sorted[1].starts_with("UID ADDTO (4097 "), "{:.100}", sorted[1]);
    other.done("STORE 1:2500 -FLAGS.SILENT (\\Flagged)");
    let told = client.done("NOOP");
    assert!(told.contains("(TAG \"u0\") REMOVEFROM (0 1:2500)\r\n"), "{told:.300}");
    other.done("STORE 1:* +FLAGS.SILENT (\\Deleted)");
    other.say("e EXPUNGE\r\n");
    other.read_to("e OK");
    let told = client.done("NOOP");
    assert!(told.contains("(TAG \"s7\") UID REMOVEFROM (1 "), "{told:.300}");
    assert!(client.done("UID SORT (SUBJECT) UTF-8 ALL").contains("* SORT\r\n"));
}

/// All that a session keeps of its results is bounded, but for one of SEARCH.
#[test]
fn results_with_too_many_keys_are_not_followed() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut client = world.log_in("alice");
    for number in 0..1_000 {
        let flag = if number % 2 == 0 { "\\Flagged" } else { "\\Draft" };
        client.say(format!("a APPEND INBOX ({flag}) {{1+}}\r\nx\r\n"));
    }
    client.say("b SELECT INBOX\r\n");
    client.read_to("b OK");
    client.done("SEARCH RETURN (SAVE) FLAGGED");
    let keys = "$ ".repeat(999);
    for (tag, command, is_followed) in [
        ("c1", "SORT RETURN (UPDATE COUNT) (SIZE) UTF-8", false),
        ("c2", "SEARCH RETURN (UPDATE COUNT)", true),
        ("c3", "SEARCH RETURN (UPDATE COUNT)", false),
    ] {
        client.say(format!("{tag} UID {command} {keys}DRAFT\r\n"));
        let told = client.read_to(&format!("{tag} OK"));
        assert_eq!(told.contains("[NOUPDATE "), !is_followed, "{told}");
        assert!(told.contains("UID COUNT 0\r\n"), "{told}");
    }
    let told = client.done("UID STORE 1 +FLAGS.SILENT (\\Draft)");
    assert_eq!(told, "* ESEARCH (TAG \"c2\") UID ADDTO (0 1)\r\nt OK STORE completed\r\n");
}

#[test]
fn a_failing_disk_gives_no_ok_and_reads_go_on() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut client = world.log_in("alice");
    append(&mut client, "Subject: kept\r\n\r\nx\r\n");
    client.say("b SELECT INBOX\r\n");
    client.read_to("b OK");
    world.device.inject(Faults { failed_syncs: (0..1000).collect(), ..Faults::default() });
    client.say("c STORE 1 +FLAGS (\\Flagged)\r\n");
    let answer = client.read_to("c NO");
    assert!(answer.starts_with("c NO [UNAVAILABLE]"), "{answer}");
    client.say("d APPEND INBOX {3+}\r\nx\r\n\r\n");
    assert!(client.read_to("d NO").starts_with("d NO [UNAVAILABLE]"));
    client.say("e CREATE x\r\n");
    assert!(client.read_to("e NO").starts_with("e NO [UNAVAILABLE]"));
    // \Seen cannot be set, but the message is there.
    client.say("f FETCH 1 (FLAGS BODY[TEXT])\r\n");
    let answer = client.read_to("f OK");
    assert!(answer.starts_with("* 1 FETCH (FLAGS (\\Recent) BODY[TEXT] {3}\r\nx\r\n)"), "{answer}");
}

/// Its octets arrive fast enough, but for longer than a client may be idle.
#[test]
fn a_refused_message_takes_no_time_from_the_next_command() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut client = world.log_in("alice");
    client.say("b APPEND Nowhere {1000000+}\r\n");
    for _ in 0..10 {
        client.say("x".repeat(100_000));
        world.sleep(200);
    }
    client.say("\r\n");
    client.read_to("b NO");
    world.settle();
    client.say("c NOOP\r\n");
    client.read_to("c OK");
}

/// RFC 5032: by the shard's clock, which advances between two searches.
#[test]
fn a_message_grows_older() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut client = world.log_in("alice");
    append(&mut client, "Subject: x\r\n\r\nx\r\n");
    client.say("b SELECT INBOX\r\nc SEARCH OLDER 50\r\nd SEARCH YOUNGER 50\r\n");
    let answer = client.read_to("d OK");
    assert!(answer.contains("* SEARCH\r\nc OK ") && answer.contains("* SEARCH 1\r\nd OK "));
    world.sleep(100);
    client.say("e SEARCH OLDER 50\r\nf SEARCH YOUNGER 50\r\n");
    let answer = client.read_to("f OK");
    assert!(answer.starts_with("* SEARCH 1\r\ne OK "), "{answer}");
    assert!(answer.contains("* SEARCH\r\nf OK "), "{answer}");
}

/// The account is created at the first log-in, which needs the disk.
#[test]
fn a_log_in_does_not_wait_for_ever() {
    let kit = Kit::new();
    for entry in [0, 1] {
        let world = SimulatedWorld::new(&kit, serve_imap, entry, true);
        world.slow_disk();
        let mut client = world.client();
        client.say("a LOGIN alice@demo.test demo\r\n");
        world.sleep(11);
        let answer = client.read_to("a NO");
        assert!(answer.contains("\r\na NO [UNAVAILABLE]"), "{answer}");
        world.sleep(100);
        world.log_in("alice");
    }
}

#[test]
fn hostile_commands_are_refused_or_answered() {
    const CASES: &[(&str, usize, &str, &str)] = &[
        ("a SEARCH ", 15_000, "NOT ", "ALL\r\n"),
        ("a SEARCH ", 60_000, "(", "ALL\r\n"),
        ("a SEARCH ", 5_000, "BODY x ", "ALL\r\n"),
        ("a FETCH 1 ", 60_000, "(", "FLAGS\r\n"),
        ("a LIST \"\" ", 500, "*%", "\r\n"),
        ("a LIST \"\" (", 20_000, "* ", "x)\r\n"),
        ("a FETCH 1", 20_000, ",1", " FLAGS\r\n"),
        ("a LOGIN ", 1_000_000, "x", " y\r\n"),
        ("", 1_000_000, "\0", "\r\n"),
        ("a STORE 1 FLAGS (", 10_000, "$k ", ")\r\n"),
        ("a CANCELUPDATE", 20_000, " x", "\r\n"),
        ("a COMPARATOR", 20_000, " *", "\r\n"),
        ("a COMPARATOR \"", 60_000, "*a", "\"\r\n"),
        ("a COMPARATOR \"", 127, "*;", "\"\r\n"),
        ("a UID SEARCH RETURN (UPDATE) ", 15_000, "NOT ", "ALL\r\n"),
        ("a UID SORT RETURN (UPDATE) (", 10_000, "REVERSE SUBJECT ", "SIZE) UTF-8 ALL\r\n"),
    ];
    let kit = Kit::new();
    for (start, count, middle, end) in CASES {
        let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
        let mut client = world.log_in("alice");
        append(&mut client, "Subject: x\r\n\r\nx\r\n");
        client.say("b SELECT INBOX\r\n");
        client.read_to("b OK");
        client.say(format!("{start}{}{end}", middle.repeat(*count)));
        let answer = transcript::Peer::receive(&mut client);
        assert!(!answer.is_empty(), "closed without a word after {start}{middle}…");
        // Another client is served.
        let mut bystander = world.log_in("alice");
        bystander.say("n NOOP\r\n");
        bystander.read_to("n OK");
    }
}

#[test]
fn an_idle_session_is_small() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let (connection, _peer) = Connection::memory();
    let session = imap::run(connection, world.shards[0].clone());
    let size = std::mem::size_of_val(&session);
    assert!(size <= 2_048, "a session between commands is {size} octets");
}

#[test]
fn a_shutdown_lets_a_message_come_in_and_says_goodbye() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut idler = world.log_in("alice");
    idler.say("i SELECT INBOX\r\ni IDLE\r\n");
    idler.read_to("+ idling");
    let mut writer = world.log_in("alice");
    writer.say("b APPEND INBOX {6+}\r\nx\r\n");
    transcript::Peer::settle(&mut writer);
    ShardResources::current().shut_down();
    idler.read_to("* BYE [UNAVAILABLE]");
    writer.say("y\r\n\r\n");
    writer.read_to("* BYE [UNAVAILABLE]");
    let partition = world.alices_partition();
    let messages = kit.simulation.run_until(async {
        let account = partition.account(ALICE).await.expect("account");
        account.status(MailboxId::INBOX).await.expect("status").messages
    });
    assert_eq!(messages, 1);
}

/// A shard whose buffers are used up by endless lines serves newcomers and authenticated clients;
/// the client with the most gets BYE.
#[test]
fn unfinished_lines_do_not_shut_others_out() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 1, true);
    let limits = ResourceLimits { buffer_bytes_max: 256 << 10, ..ResourceLimits::default() };
    ShardResources::install(limits, &world.shards[0].executor);
    let mut alice = world.client();
    alice.read_to("* OK");
    alice.say("a1 LOGIN alice@demo.test demo\r\n");
    alice.read_to("a1 OK");
    alice.say(format!("a2 NOOP{}", " ".repeat(30_000)));
    world.settle();
    let mut strangers: Vec<Client> = (0..100)
        .map(|_| {
            let mut stranger = world.client();
            stranger.read_to("* OK");
            stranger.say(format!("b1 LOGIN {}", "x".repeat(4_097)));
            world.settle();
            stranger
        })
        .collect();
    assert!(ShardResources::current().buffers().gave_way() > 30);
    let sent_away = strangers.iter().filter(|stranger| stranger.peer.is_closed()).count();
    assert!(sent_away > 30, "{sent_away}");
    for stranger in strangers.iter_mut().filter(|stranger| stranger.peer.is_closed()) {
        stranger.read_to("* BYE [UNAVAILABLE]");
    }
    let mut bob = world.client();
    bob.read_to("* OK");
    bob.say("c1 LOGIN bob@demo.test demo\r\n");
    bob.read_to("c1 OK");
    alice.say("\r\n");
    alice.read_to("a2 ");
    assert!(ShardResources::current().buffer_bytes() <= 256 << 10);
}

/// Commands that trickle in faster than the timers tick do not extend a stranger's time, and
/// setting the wall clock does not shorten it.
#[test]
fn the_login_deadline_is_absolute() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
    let mut client = world.client();
    client.read_to("* OK");
    let start = kit.simulation.moment();
    kit.simulation.set_wall_clock(24 * 3600);
    loop {
        client.say("a NOOP\r\n");
        let answer = transcript::Peer::receive(&mut client);
        if answer.is_empty() || answer.starts_with(b"* BYE") {
            break;
        }
        let elapsed = kit.simulation.moment().since(start);
        assert!(elapsed < Duration::from_secs(62), "still served after {elapsed:?}");
        kit.simulation.run_until(kit.simulation.sleep(Duration::from_millis(40)));
    }
    assert!(kit.simulation.moment().since(start) >= Duration::from_secs(59));
}

/// Without memory for incoming messages, APPEND is refused before its literal is requested.
#[test]
fn messages_under_way_have_a_budget() {
    let kit = Kit::new();
    let world = SimulatedWorld::with_memory(&kit, serve_imap, 0, true, 8 * 1024);
    let mut client = world.log_in("alice");
    client.say("b APPEND INBOX {3}\r\n");
    let answer = client.read_to("b NO");
    assert!(answer.starts_with("b NO [LIMIT] "), "{answer}");
    client.say("c APPEND INBOX {3+}\r\nx\r\n\r\nd NOOP\r\n");
    let answer = client.read_to("d OK");
    assert!(answer.starts_with("c NO [LIMIT] "), "{answer}");
    client.say("c APPEND INBOX {11+}\r\nx NOOP\r\nabc\r\nd NOOP\r\n");
    let answer = client.read_to("d OK");
    assert!(answer.starts_with("c NO [LIMIT] "), "{answer}");
    assert!(!answer.contains("x "), "a message's octets are no commands: {answer}");

    let world = SimulatedWorld::with_memory(&kit, serve_imap, 0, true, 48 * 1024);
    let mut client = world.log_in("alice");
    let body = "0123456789012345678901234567890\r\n".repeat(10_000);
    let message = format!("Subject: spilled\r\n\r\n{body}");
    for piece in [900, 70_000] {
        client.say(format!("e APPEND INBOX {{{}+}}\r\n", message.len()));
        for piece in message.as_bytes().chunks(piece) {
            client.say(piece);
            world.settle();
            assert!(world.shards[0].messages.held() <= 48 * 1024);
        }
        client.say("\r\n");
        client.read_to("e OK");
    }
    // A header cannot be spilled: it is read to its end, and refused.
    let header = "X-Long: 0123456789012345678901234567890\r\n".repeat(5_000);
    client.say(format!("f APPEND INBOX {{{}+}}\r\n{header}", header.len()));
    world.settle();
    assert_eq!(world.shards[0].messages.held(), 0);
    client.say("\r\n");
    let answer = client.read_to("f NO");
    assert!(answer.starts_with("f NO [LIMIT] "), "{answer}");
    client.say("g SELECT INBOX\r\nh FETCH 1:2 BODY.PEEK[]\r\n");
    let answer = client.read_to("h OK");
    assert_eq!(answer.matches(&body).count(), 2);
    assert_eq!(world.shards[0].messages.held(), 0);
}

/// A message that trickles in is cut off with BYE, whether it is stored or discarded, and holds
/// nothing afterwards.
#[test]
fn a_message_that_trickles_in_is_cut_off() {
    let kit = Kit::new();
    for mailbox in ["INBOX", "missing"] {
        let world = SimulatedWorld::new(&kit, serve_imap, 0, true);
        let mut client = world.log_in("alice");
        client.say(format!("b APPEND {mailbox} {{100000+}}\r\n"));
        let mut seconds = 0;
        let farewell = loop {
            client.say("x");
            world.settle();
            if client.peer.is_closed() {
                break String::from_utf8(transcript::Peer::receive(&mut client)).unwrap();
            }
            assert!(seconds < 400, "still served");
            kit.simulation.run_until(kit.simulation.sleep(Duration::from_secs(1)));
            seconds += 1;
        };
        assert!((300..310).contains(&seconds), "{mailbox}: {seconds} s, {farewell}");
        assert!(farewell.contains("* BYE Timed out"), "{farewell}");
        assert_eq!(world.shards[0].messages.held(), 0);
    }
}

/// One account cannot use all connections; closing one makes room.
#[test]
fn sessions_of_an_account_are_counted() {
    let kit = Kit::new();
    for entry in ENTRIES {
        let world = SimulatedWorld::new(&kit, serve_imap, entry, true);
        let most = imap::ImapOptions::default().sessions_per_account;
        let mut sessions: Vec<Client> = (0..most).map(|_| world.log_in("alice")).collect();
        let mut late = world.client();
        late.say("a LOGIN alice@demo.test demo\r\n");
        late.read_to("a NO [LIMIT]");
        late.say("b LOGIN bob@demo.test demo\r\n");
        late.read_to("b OK");
        let mut first = sessions.swap_remove(0);
        first.say("a LOGOUT\r\n");
        first.read_to("a OK");
        let _in_its_place = world.log_in("alice");
    }
}
