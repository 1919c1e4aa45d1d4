//! Plays `tests/transcripts/pop3` on the real service and store over in-memory connections and a
//! virtual clock: whole, octet by octet, and cut in two everywhere; each on the shard that owns the
//! account and through a handover. And what a transcript cannot say: expunges by IMAP meanwhile,
//! a failing disk, a client that hangs up.

mod pop3_world;
mod transcript;

use pop3_world::{ShardNumber, SimulatedWorld, World};
use ringmail::{
    model::{MailboxId, Uid},
    runtime::device::memory::Faults,
};
use transcript::{Split, Transcript};

/// Both: the owner of alice's account, and the other one.
const ENTRIES: [ShardNumber; 2] = [0, 1];

fn play(file: &Transcript, world: &World, split: Split, entry: ShardNumber) {
    let plaintext = file.setting("plaintext") != Some("no");
    let count = file.setting("inbox").map_or(0, |count| count.parse().expect("@set inbox count"));
    let mut world = SimulatedWorld::new(world, entry, plaintext);
    world.deliver(count);
    file.play(&mut world, split);
}

#[test]
fn transcripts() {
    let world = World::new();
    let files = Transcript::folder("pop3");
    assert!(files.len() > 10, "found only {} transcripts", files.len());
    for file in &files {
        for entry in ENTRIES {
            play(file, &world, Split::Whole, entry);
            if file.setting("split") == Some("no") {
                continue;
            }
            play(file, &world, Split::Every, entry);
            for position in 1..file.client_octets() {
                play(file, &world, Split::At(position), entry);
            }
        }
    }
}

#[test]
fn what_imap_expunges_meanwhile_is_still_read() {
    let world = World::new();
    let mut world = SimulatedWorld::new(&world, 0, true);
    world.deliver(3);
    let mut client = world.client();
    client.log_in();
    world.with_account(async |account| {
        account.remove(MailboxId::INBOX, &[Uid(1), Uid(3)]).await.expect("expunged");
    });
    client.say("RETR 1\r\nSTAT\r\nDELE 1\r\nDELE 2\r\n");
    client.expect("+OK 32 octets\r\nSubject: one\r\n\r\nThe first one.\r\n.\r\n+OK 3 106\r\n");
    client.expect("+OK message deleted\r\n+OK message deleted\r\n");
    client.say("QUIT\r\n");
    client.expect("+OK bye, 2 messages deleted\r\n");
    assert_eq!(world.uids(), []);
}

#[test]
fn quit_tells_when_the_disk_fails() {
    let world = World::new();
    let mut world = SimulatedWorld::new(&world, 0, true);
    world.deliver(2);
    let mut client = world.client();
    client.log_in();
    client.say("DELE 1\r\n");
    client.expect("+OK message deleted\r\n");
    world.device().inject(Faults { failed_syncs: (0..1000).collect(), ..Faults::default() });
    client.say("QUIT\r\n");
    client.expect("-ERR [SYS/TEMP] the messages could not be deleted, try again later\r\n");
    assert_eq!(world.uids(), [1, 2], "nothing unsynced is seen");
}

#[test]
fn a_lost_connection_unlocks_and_deletes_nothing() {
    let world = World::new();
    let mut world = SimulatedWorld::new(&world, 0, true);
    world.deliver(2);
    let mut client = world.client();
    client.log_in();
    client.say("DELE 1\r\n");
    client.expect("+OK message deleted\r\n");
    drop(client);
    world.settle();
    let mut client = world.client();
    client.log_in();
    client.say("STAT\r\n");
    client.expect("+OK 2 77\r\n");
}

#[test]
fn a_large_message_comes_whole() {
    let world = World::new();
    let mut world = SimulatedWorld::new(&world, 0, true);
    let line = format!(".{}\r\n", "x".repeat(76));
    let message = format!("Subject: large\r\n\r\n{}", line.repeat(30_000));
    world.deliver_text(&message);
    let mut client = world.client();
    client.log_in();
    client.say("RETR 1\r\n");
    let expected = format!(
        "+OK {} octets\r\nSubject: large\r\n\r\n{}.\r\n",
        message.len(),
        format!(".{line}").repeat(30_000)
    );
    client.expect(&expected);
    client.say("TOP 1 1\r\n");
    client.expect(&format!("+OK {} octets\r\nSubject: large\r\n\r\n.{line}.\r\n", message.len()));
}
