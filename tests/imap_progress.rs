//! INPROGRESS (RFC 9585): a client that waits for a long command is told that it goes on, between
//! other responses.

mod transcript;
mod world;

use std::time::Duration;

use ringmail::{service::ServiceOptions, store::COPY_SLICE};
use world::{Client, Kit, SimulatedWorld, serve_imap};

const MESSAGES: usize = 30;

/// Each look at a command that is not done yet is late.
fn impatient() -> ServiceOptions {
    let mut options = world::options(true);
    options.imap.progress_interval = Duration::ZERO;
    options
}

fn fill(client: &mut Client) {
    client.done("CREATE box");
    for number in 0..MESSAGES {
        let text = format!("Subject: {number}\r\n\r\nbody of {number}\r\n");
        client.done(&format!("APPEND INBOX {{{}+}}\r\n{text}", text.len()));
    }
    client.done("SELECT INBOX");
}

/// The numbers of the responses, in their order.
fn progress(told: &str) -> Vec<(String, String)> {
    let codes = told.lines().filter_map(|line| line.strip_prefix("* OK [INPROGRESS (\"t\" "));
    let numbers = codes.map(|code| {
        let code = code.strip_suffix(")] Still working").expect(code);
        let (done, goal) = code.split_once(' ').expect(code);
        (done.to_owned(), goal.to_owned())
    });
    numbers.collect()
}

#[test]
fn a_long_search_tells_how_far_it_is() {
    let kit = Kit::new();
    let world = SimulatedWorld::with_options(&kit, serve_imap, 0, impatient(), 64 << 20);
    let mut client = world.log_in("alice");
    fill(&mut client);
    for (command, goal, answer) in [
        ("SEARCH BODY \"body of 2\"", &*MESSAGES.to_string(), "* SEARCH 3 21 22 23"),
        ("SORT (REVERSE SUBJECT) UTF-8 BODY \"body of 2\"", "NIL", "* SORT "),
        ("THREAD REFERENCES UTF-8 BODY \"body of 2\"", "NIL", "* THREAD (3)(21)"),
    ] {
        let told = client.done(command);
        let told_before = told.split(answer).next().expect("the first");
        let numbers = progress(told_before);
        assert!(numbers.len() > 2, "{command}: {told}");
        assert_eq!(progress(&told), numbers, "nothing behind the answer: {told}");
        let done: Vec<usize> = numbers.iter().map(|(it, _)| it.parse().expect("number")).collect();
        assert!(done.is_sorted() && done.iter().all(|it| *it < MESSAGES), "{command}: {told}");
        assert!(numbers.iter().all(|(_, it)| it == goal), "{command}: {told}");
        // Each is a line of its own.
        assert!(told.lines().all(|it| it.starts_with("* ") || it.starts_with("t OK ")), "{told}");
    }
    // What is decided at once tells nothing.
    assert_eq!(progress(&client.done("SEARCH UNSEEN")), []);
    assert_eq!(progress(&client.done("SEARCH UID 1:*")), []);
}

/// Nobody knows how much a change is that waits for the disk.
#[test]
fn a_change_that_waits_says_so() {
    let kit = Kit::new();
    for entry in [0, 1] {
        let world = SimulatedWorld::new(&kit, serve_imap, entry, true);
        let mut client = world.log_in("alice");
        fill(&mut client);
        for command in ["COPY 1:5 box", "MOVE 1:5 box", "EXPUNGE"] {
            if command == "EXPUNGE" {
                client.done("STORE 1:5 +FLAGS.SILENT (\\Deleted)");
            }
            world.slow_disk();
            let told = client.answer(command);
            let numbers = progress(&told);
            let unknown = ("NIL".to_owned(), "NIL".to_owned());
            assert!(numbers.len() > 1 && numbers.iter().all(|it| *it == unknown), "{told}");
            world.sleep(200);
        }
    }
}

#[test]
fn a_tag_that_would_end_the_code_is_not_told() {
    let kit = Kit::new();
    let world = SimulatedWorld::with_options(&kit, serve_imap, 0, impatient(), 64 << 20);
    let mut client = world.log_in("alice");
    fill(&mut client);
    client.say("a]b SEARCH BODY x\r\n");
    let told = client.read_to("a]b OK");
    assert!(told.starts_with("* OK [INPROGRESS (NIL "), "{told}");
}

/// What changes the mailbox is carried out as a whole, also if the client is gone when it is to be
/// told how far that is: there is nobody who would ask for the rest.
#[test]
fn a_change_is_carried_out_without_its_client() {
    let kit = Kit::new();
    for entry in [0, 1] {
        let world = SimulatedWorld::with_options(&kit, serve_imap, entry, impatient(), 64 << 20);
        let mut client = world.log_in("alice");
        fill(&mut client);
        let mut count = MESSAGES;
        while count <= 3 * COPY_SLICE {
            client.done("COPY 1:* INBOX");
            count *= 2;
        }
        let inbox = || {
            let mut client = world.log_in("alice");
            client.done("SELECT INBOX");
            client
        };
        let messages_in = |name: &str| {
            let told = world.log_in("alice").done(&format!("STATUS {name} (MESSAGES)"));
            let (_, told) = told.split_once("(MESSAGES ").expect("a count");
            told.split(')').next().and_then(|it| it.parse::<usize>().ok()).expect("a number")
        };
        let command_of_one_who_leaves = |client: &mut Client, command: &str| {
            client.say(format!("t {command}\r\n"));
            client.read_to("* OK [INPROGRESS ");
        };
        for (command, in_box, left) in
            [("COPY 1:* box", count, count), ("MOVE 1:* box", 2 * count, 0)]
        {
            let mut client = inbox();
            command_of_one_who_leaves(&mut client, command);
            drop(client);
            world.settle();
            assert_eq!((messages_in("box"), messages_in("INBOX")), (in_box, left), "{command}");
        }
        let mut client = world.log_in("alice");
        client.done("SELECT box");
        client.done("STORE 1:* +FLAGS.SILENT (\\Deleted)");
        command_of_one_who_leaves(&mut client, "EXPUNGE");
        drop(client);
        world.settle();
        assert_eq!(messages_in("box"), 0);
    }
}
