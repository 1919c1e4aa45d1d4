//! Plays `tests/transcripts/imap` on the real service and store over in-memory connections and a
//! virtual clock: whole, octet by octet, and cut in two everywhere; on the shard that owns the
//! account and through a handover. And what a transcript cannot say: large mailboxes and messages,
//! clients that do not read, a failing disk.

mod transcript;
mod world;

use std::rc::Rc;

use ringmail::{
    runtime::{LocalFuture, connection::Connection},
    service::{
        Shard,
        imap::{self, Outcome},
    },
};
use transcript::{Split, Transcript};
use world::{Kit, SimulatedWorld};

/// What the acceptor and the mesh do.
fn serve(
    connection: Connection,
    shards: Rc<[Rc<Shard>]>,
    entry: usize,
) -> LocalFuture<'static, ()> {
    Box::pin(async move {
        let mut outcome = imap::run(connection, shards[entry].clone()).await;
        while let Outcome::HandOver(connection, handover) = outcome {
            let owner = shards[entry].owner_of(handover.identity.account);
            let connection = Connection::attach(connection.detach());
            outcome =
                imap::resume(connection, shards[usize::from(owner.0)].clone(), handover).await;
        }
    })
}

fn play(kit: &Kit, file: &Transcript, split: Split, entry: usize) {
    let plaintext = file.setting("plaintext") != Some("no");
    let mut world = SimulatedWorld::new(kit, serve, entry, plaintext);
    file.play(&mut world, split);
}

/// On the owner of alice's account, and through a handover.
const ENTRIES: [usize; 2] = [0, 1];

#[test]
fn transcripts() {
    let kit = Kit::new();
    let only = std::env::var("TRANSCRIPT").ok();
    for file in Transcript::folder("imap") {
        let name = file.path.display().to_string();
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        for entry in ENTRIES {
            play(&kit, &file, Split::Whole, entry);
            play(&kit, &file, Split::Every, entry);
        }
    }
}
