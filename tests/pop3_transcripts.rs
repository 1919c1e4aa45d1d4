//! Plays `tests/transcripts/pop3` on the real service and store over in-memory connections and a
//! virtual clock: whole, octet by octet, and cut in two everywhere; each on the shard that owns the
//! account and through a handover. Also cases that a transcript cannot express: simultaneous
//! expunges by IMAP, a failing disk, a client that hangs up.

mod demo_server;
mod transcript;
mod world;

use std::{rc::Rc, time::Duration};

use demo_server::DemoServer;
use ringmail::{
    directory::{Directory, PeerLimits, SharedDirectory},
    model::{MailboxId, Uid},
    runtime::{LocalFuture, connection::Connection, device::memory::Faults, executor::Executor},
    service::{
        Shard,
        pop3::{self, Outcome},
    },
};
use transcript::{Split, Transcript};
use world::{Client, Kit, SimulatedWorld};

/// The first of them are in alice's INBOX after `@set inbox count`.
const MESSAGES: [&str; 3] = [
    "Subject: one\r\n\r\nThe first one.\r\n",
    "Subject: two\r\n\r\n.dot\r\n..\r\n.\r\nthe second end\r\n",
    "Subject: three\r\n\r\nno line end",
];

/// The owner of alice's account, and the other shard.
const ENTRIES: [usize; 2] = [0, 1];

/// Does the work of the acceptor and the mesh.
fn serve(
    connection: Connection,
    shards: Rc<[Rc<Shard>]>,
    entry: usize,
) -> LocalFuture<'static, ()> {
    Box::pin(async move {
        let mut outcome = pop3::run(connection, shards[entry].clone()).await;
        while let Outcome::HandOver(connection, handover) = outcome {
            let owner = usize::from(shards[entry].owner_of(handover.identity.account).0);
            let connection = Connection::attach(connection.detach());
            outcome = pop3::resume(connection, shards[owner].clone(), handover).await;
        }
    })
}

/// The contents of alice's INBOX at the start of the file.
fn inbox(file: &Transcript) -> &'static [&'static str] {
    let count = file.setting("inbox").map_or(0, |count| count.parse().expect("@set inbox count"));
    &MESSAGES[..count]
}

fn play(file: &Transcript, kit: &Kit, split: Split, entry: usize) {
    let plaintext = file.setting("plaintext") != Some("no");
    let mut world = SimulatedWorld::new(kit, serve, entry, plaintext);
    for message in inbox(file) {
        world.deliver(message);
    }
    file.play(&mut world, split);
}

#[test]
fn transcripts() {
    let kit = Kit::new();
    let files = Transcript::folder("pop3");
    assert!(files.len() > 10, "found only {} transcripts", files.len());
    for file in &files {
        for entry in ENTRIES {
            play(file, &kit, Split::Whole, entry);
            if file.setting("split") == Some("no") {
                continue;
            }
            play(file, &kit, Split::Every, entry);
            for position in 1..file.client_octets() {
                play(file, &kit, Split::At(position), entry);
            }
        }
    }
}

#[test]
fn transcripts_over_sockets() {
    for file in &Transcript::folder("pop3") {
        if file.setting("sockets") == Some("no") || file.setting("plaintext") == Some("no") {
            continue;
        }
        let mut server = DemoServer::start(demo_server::POP3);
        for message in inbox(file) {
            server.deliver("alice@demo.test", message);
        }
        file.play(&mut server, Split::Whole);
    }
}

fn world_with(kit: &Kit, count: usize) -> SimulatedWorld<'_> {
    let world = SimulatedWorld::new(kit, serve, 0, true);
    for message in &MESSAGES[..count] {
        world.deliver(message);
    }
    world
}

fn logged_in(world: &SimulatedWorld<'_>) -> Client {
    let mut client = world.client();
    client.say("USER alice@demo.test\r\nPASS demo\r\n");
    client.read_to("+OK maildrop has ");
    client
}

#[test]
fn what_imap_expunges_meanwhile_is_still_read() {
    let kit = Kit::new();
    let world = world_with(&kit, 3);
    let mut client = logged_in(&world);
    world.with_account(async |account| {
        account.remove(MailboxId::INBOX, &[Uid(1), Uid(3)]).await.expect("expunged");
    });
    client.say("RETR 1\r\nSTAT\r\nDELE 1\r\nDELE 2\r\n");
    client.expect("+OK 32 octets\r\nSubject: one\r\n\r\nThe first one.\r\n.\r\n+OK 3 106\r\n");
    client.expect("+OK message deleted\r\n+OK message deleted\r\n");
    client.say("QUIT\r\n");
    client.expect("+OK bye, 2 messages deleted\r\n");
    assert!(world.uids().is_empty());
}

#[test]
fn the_session_of_a_removed_account_ends() {
    let shared = SharedDirectory::new(world::accounts_of(&["bob", "alice"]), PeerLimits::default());
    let kit = Kit::with_directory(|_| Directory::new(shared.clone(), Rc::new(world::AtOnce)));
    let world = SimulatedWorld::new(&kit, serve, 0, true);
    let mut client = logged_in(&world);
    shared.replace(world::accounts_of(&["bob"]));
    client.say("STAT\r\n");
    client.expect("-ERR [AUTH] the account was removed\r\n");
    assert!(transcript::Peer::receive(&mut client).is_empty());
}

#[test]
fn quit_tells_when_the_disk_fails() {
    let kit = Kit::new();
    let world = world_with(&kit, 2);
    let mut client = logged_in(&world);
    client.say("DELE 1\r\n");
    client.expect("+OK message deleted\r\n");
    world.device.inject(Faults { failed_syncs: (0..1000).collect(), ..Faults::default() });
    client.say("QUIT\r\n");
    client.expect("-ERR [SYS/TEMP] the messages could not be deleted, try again later\r\n");
    assert_eq!(world.uids(), [1, 2], "nothing unsynced is seen");
}

#[test]
fn a_log_in_does_not_wait_for_ever() {
    let kit = Kit::new();
    let world = world_with(&kit, 0);
    world.slow_disk();
    let mut client = world.client();
    client.say("USER alice@demo.test\r\nPASS demo\r\n");
    world.sleep(11);
    client.read_to("-ERR [SYS/TEMP] the maildrop is not available now");
    world.sleep(100);
    logged_in(&world);
}

#[test]
fn a_lost_connection_unlocks_and_deletes_nothing() {
    let kit = Kit::new();
    let world = world_with(&kit, 2);
    let mut client = logged_in(&world);
    client.say("DELE 1\r\n");
    client.expect("+OK message deleted\r\n");
    drop(client);
    world.settle();
    let mut client = logged_in(&world);
    client.say("STAT\r\n");
    client.expect("+OK 2 77\r\n");
}

#[test]
fn a_large_message_comes_whole() {
    let kit = Kit::new();
    let world = world_with(&kit, 0);
    let line = format!(".{}\r\n", "x".repeat(76));
    let message = format!("Subject: large\r\n\r\n{}", line.repeat(30_000));
    world.deliver(&message);
    let mut client = logged_in(&world);
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

/// Commands that trickle in faster than the timers tick do not extend a stranger's time, and
/// setting the wall clock does not shorten it.
#[test]
fn the_login_deadline_is_absolute() {
    let kit = Kit::new();
    let world = SimulatedWorld::new(&kit, serve, 0, true);
    let mut client = world.client();
    client.read_to("+OK");
    let start = kit.simulation.moment();
    kit.simulation.set_wall_clock(24 * 3600);
    loop {
        client.say("CAPA\r\n");
        if transcript::Peer::receive(&mut client).is_empty() {
            break;
        }
        let elapsed = kit.simulation.moment().since(start);
        assert!(elapsed < Duration::from_secs(182), "still served after {elapsed:?}");
        kit.simulation.run_until(kit.simulation.sleep(Duration::from_millis(40)));
    }
    assert!(kit.simulation.moment().since(start) >= Duration::from_secs(179));
}
