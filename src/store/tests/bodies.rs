//! How bodies are stored in the log: compressed where it pays, once for all accounts that have
//! them.

use proptest::prelude::*;

use super::*;
use crate::runtime::{
    executor::{Executor, Priority},
    simulation::split_mix,
};

const COMPRESSED: Option<Compression> = Some(Compression { level: 1, body_min: 200 });

/// Text that compresses well, noise that does not, or both in turn, 100,000 octets of each.
fn content(kind: u8, len: usize) -> Vec<u8> {
    let text = |at: usize| b"The quick brown fox jumps over it.\r\n"[at % 36];
    let noise = |at: usize| split_mix(at as u64) as u8;
    let noisy = |at: usize| kind == 1 || (kind == 2 && at / 100_000 % 2 == 1);
    (0..len).map(|at| if noisy(at) { noise(at) } else { text(at) }).collect()
}

fn world(compression: Option<Compression>) -> World {
    let mut world = World::new(1);
    world.options.compression = compression;
    world
}

fn run_with<F: Future<Output = ()>>(
    compression: Option<Compression>,
    test: impl FnOnce(Rc<World>) -> F,
) {
    let world = Rc::new(world(compression));
    let simulation = world.simulation.clone();
    simulation.run_until(test(world));
}

fn written(partition: &Partition) -> u64 {
    partition.probe().bytes_written
}

/// All bodies of INBOX, in order.
async fn bodies(partition: &Partition) -> Vec<Vec<u8>> {
    let account = partition.account(ALICE).await.unwrap();
    let mut bodies = Vec::new();
    for message in snapshot(&account, MailboxId::INBOX).await.iter_from(0) {
        assert!(account.read_summary(&message.body).await.unwrap().starts_with(b"summary of"));
        bodies.push(whole_body(&account, message).await);
    }
    bodies
}

#[test]
fn compressed_bodies_take_less_and_survive_everything_that_moves_them() {
    run_with(COMPRESSED, async |world: Rc<World>| {
        let partition = world.open().await;
        let sizes = [0, 1, 199, 4096, 150_000, BODY_CHUNK, BODY_CHUNK + 1, 3 * BODY_CHUNK + 77];
        let expected: Vec<Vec<u8>> =
            [0, 1, 2].into_iter().flat_map(|kind| sizes.map(|size| content(kind, size))).collect();
        for body in &expected {
            deliver(&partition, ALICE, body).await;
        }
        let probe = partition.probe();
        let raw: usize = expected.iter().map(Vec::len).sum();
        assert_eq!(probe.body_bytes, raw as u64);
        // All of the text and half of the mixture is saved.
        assert!(probe.body_bytes_stored < probe.body_bytes * 60 / 100, "{probe:?}");
        assert!(probe.bytes_written < probe.body_bytes * 65 / 100, "{probe:?}");
        assert!(bodies(&partition).await == expected);
        partition.close().await.unwrap();

        // Switched off: existing bodies are readable, new ones are stored uncompressed.
        let plain = World { options: options(), device: world.device.clone(), ..World::new(2) };
        let plain = World { simulation: world.simulation.clone(), ..plain };
        let partition = plain.open().await;
        assert!(bodies(&partition).await == expected);
        deliver(&partition, BOB, &expected[4]).await;
        assert_eq!(partition.probe().body_bytes_stored, expected[4].len() as u64);
        partition.close().await.unwrap();

        let partition = world.open().await;
        let alice = partition.account(ALICE).await.unwrap();
        // A third of them is expunged, compaction moves the rest unchanged.
        let gone: Vec<Uid> =
            (1..=expected.len() as u32).filter(|uid| uid % 3 == 0).map(Uid).collect();
        alice.remove(MailboxId::INBOX, &gone).await.unwrap();
        assert!(partition.compact().await.unwrap().segments_deleted > 0);
        let left: Vec<Vec<u8>> = (1..)
            .zip(&expected)
            .filter(|(uid, _)| uid % 3 != 0)
            .map(|(_, body)| body.clone())
            .collect();
        assert!(bodies(&partition).await == left);
        let report = partition.verify(&|_| {}).await.unwrap();
        assert_eq!((report.findings, report.messages_damaged), (vec![], 0));
        partition.close().await.unwrap();
        assert!(bodies(&world.open().await).await == left);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn every_range_of_a_body_is_that_of_the_message(
        kind in 0..3u8,
        len in prop_oneof![0..3000usize, 0..4 * BODY_CHUNK],
        ranges in prop::collection::vec((any::<prop::sample::Index>(), 0..600_000usize), 1..12),
        cold: bool,
    ) {
        run_with(COMPRESSED, async |world: Rc<World>| {
            let mut partition = world.open().await;
            let body = content(kind, len);
            deliver(&partition, ALICE, &body).await;
            if cold {
                partition.close().await.unwrap();
                partition = world.open().await;
            }
            let account = partition.account(ALICE).await.unwrap();
            let message = *snapshot(&account, MailboxId::INBOX).await.get(0).unwrap();
            for (start, count) in ranges {
                let start = start.index(len + 1);
                let end = (start + count).min(len);
                let found = account.read_body(&message.body, start as u64, count).await.unwrap();
                assert!(found == body[start..end], "{start}..{end} of {len}");
            }
        });
    }
}

#[test]
fn a_message_for_a_thousand_accounts_is_written_once() {
    for compression in [None, COMPRESSED] {
        run_with(compression, async |world: Rc<World>| {
            let partition = world.open().await;
            let ids = (1..=1000).map(AccountId);
            // Accounts are created before, so that only the mail's size is measured.
            for id in ids.clone() {
                partition.account(id).await.unwrap();
                deliver(&partition, id, b"first").await;
            }
            let body = content(1, 200_000);
            let before = written(&partition);
            let staged = staged(&partition, &body).await;
            partition.deliver(staged, ids.clone().map(target).collect(), None).await.unwrap();
            let taken = written(&partition) - before;
            // One effect per recipient: some tens of bytes.
            assert!(taken < 200_000 + 1000 * 100, "{taken} bytes for one body of 200,000");
            for id in [1, 500, 1000].map(AccountId) {
                let account = partition.account(id).await.unwrap();
                let message = *snapshot(&account, MailboxId::INBOX).await.get(1).unwrap();
                assert!(whole_body(&account, &message).await == body);
            }
            let report = partition.verify(&|_| {}).await.unwrap();
            assert_eq!((report.references, report.bodies), (2000, 1001));
            assert_eq!((report.shared_bytes, report.findings), (999 * 200_000, vec![]));

            // It stays until the last of them has deleted it.
            for id in ids.clone().skip(1) {
                partition
                    .account(id)
                    .await
                    .unwrap()
                    .remove(MailboxId::INBOX, &[Uid(2)])
                    .await
                    .unwrap();
            }
            let kept = partition.compact().await.unwrap().bytes_after;
            let account = partition.account(AccountId(1)).await.unwrap();
            let message = *snapshot(&account, MailboxId::INBOX).await.get(1).unwrap();
            assert!(whole_body(&account, &message).await == body);
            account.remove(MailboxId::INBOX, &[Uid(2)]).await.unwrap();
            let left = partition.compact().await.unwrap().bytes_after;
            assert!(left < kept - 200_000, "{left} bytes are left of {kept}");
        });
    }
}

#[test]
fn copies_write_no_bodies() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let mut writing = Vec::new();
        for n in 0..10_000 {
            let body = staged(&partition, &bytes(n, 1000)).await;
            writing.push(partition.deliver(body, vec![target(ALICE)], None).await.unwrap());
        }
        let alice = partition.account(ALICE).await.unwrap();
        let folder = alice.create_mailbox("copies", None).await.unwrap();
        let all: Vec<Message> =
            snapshot(&alice, MailboxId::INBOX).await.iter_from(0).copied().collect();
        let before = written(&partition);
        alice.copy(MailboxId::INBOX, &all, folder).await.unwrap();
        let taken = written(&partition) - before;
        assert!(taken < 10_000 * 60, "{taken} bytes for copies of 10,000 messages of 1,000 octets");
        // A move does not write them again either.
        let target = alice.create_mailbox("moved", None).await.unwrap();
        let copies: Vec<Message> = snapshot(&alice, folder).await.iter_from(0).copied().collect();
        let before = written(&partition);
        alice.move_messages(folder, &copies, target).await.unwrap();
        let taken = written(&partition) - before;
        assert!(taken < 10_000 * 60, "{taken} bytes for moving 10,000 messages");
        let moved: Vec<Message> = snapshot(&alice, target).await.iter_from(0).copied().collect();
        assert_eq!(moved.len(), 10_000);
        assert_eq!(whole_body(&alice, &moved[77]).await, bytes(77, 1000));
    });
}

/// Reading a few octets of each of many pieces counts what is read and decompressed for them: other
/// sessions run in between, also if no read waits for the disk.
#[test]
fn many_small_readings_let_others_in() {
    run_with(COMPRESSED, async |world: Rc<World>| {
        let partition = world.open().await;
        deliver(&partition, ALICE, &content(0, 1_000)).await;
        let account = partition.account(ALICE).await.unwrap();
        let body = snapshot(&account, MailboxId::INBOX).await.get(0).unwrap().body;
        account.read_body(&body, 0, 1).await.unwrap();

        let turns = Rc::new(std::cell::Cell::new(0));
        let (clock, counted) = (world.simulation.clone(), turns.clone());
        let other = Box::pin(async move {
            loop {
                counted.set(counted.get() + 1);
                clock.yield_now().await;
            }
        });
        world.simulation.spawn(Priority::Foreground, other);
        // Everything is in the cache.
        for _ in 0..5_000 {
            account.read_body(&body, 0, 1).await.unwrap();
        }
        assert!(turns.get() >= 10, "{} turns", turns.get());
    });
}

/// Stages `body` in pieces of `piece` octets, spilling after each.
async fn spilled(partition: &Partition, body: &[u8], piece: usize) -> StagedBody {
    let mut writer = partition.stage();
    for piece in body.chunks(piece) {
        writer.write(piece).await.unwrap();
        assert!(writer.memory() >= writer.staged());
        writer.spill().await.unwrap();
        assert_eq!(writer.staged(), 0);
        // Only the list of chunks is left.
        assert!(writer.memory() < 64 * 1024, "{}", writer.memory());
    }
    writer.finish(format!("summary of {}", body.len()).into_bytes()).await.unwrap()
}

/// Compaction does not look for chunks of short bodies: a short one that was spilled is
/// reassembled, or its bytes would be lost with the next compaction.
#[test]
fn spilled_bodies_survive_compaction_whatever_their_size() {
    run_with(COMPRESSED, async |world: Rc<World>| {
        let partition = world.open().await;
        let sizes = [0, 65, 4096, 150_000, BODY_CHUNK, BODY_CHUNK + 1, 3 * BODY_CHUNK + 77];
        let expected: Vec<Vec<u8>> =
            [0, 1, 2].into_iter().flat_map(|kind| sizes.map(|size| content(kind, size))).collect();
        for (body, piece) in expected.iter().zip([4096, 100_000].into_iter().cycle()) {
            let staged = spilled(&partition, body, piece).await;
            partition.deliver(staged, vec![target(ALICE)], None).await.unwrap();
        }
        assert!(bodies(&partition).await == expected);
        for uid in 100..140 {
            deliver(&partition, BOB, &content(1, 100_000 + uid)).await;
        }
        let bob = partition.account(BOB).await.unwrap();
        let gone: Vec<Uid> = (1..=40).map(Uid).collect();
        bob.remove(MailboxId::INBOX, &gone).await.unwrap();
        for _ in 0..3 {
            partition.compact().await.unwrap();
        }
        assert!(bodies(&partition).await == expected);
        let report = partition.verify(&|_| {}).await.unwrap();
        assert_eq!((report.findings, report.messages_damaged), (vec![], 0));
        partition.close().await.unwrap();
        assert!(bodies(&world.open().await).await == expected);
    });
}

/// However many end at once, only a few are reassembled in memory, and none waits for ever.
#[test]
fn many_spilled_bodies_end_at_once() {
    run_with(None, async |world: Rc<World>| {
        let partition = world.open().await;
        let body = content(2, 100_000);
        let ending = (0..40).map(|_| {
            let (partition, body) = (partition.clone(), body.clone());
            async move {
                let staged = spilled(&partition, &body, 30_000).await;
                partition.deliver(staged, vec![target(ALICE)], None).await.unwrap();
            }
        });
        for ending in ending {
            world.simulation.spawn(Priority::Foreground, Box::pin(ending));
        }
        while bodies(&partition).await.len() < 40 {
            world.simulation.sleep(std::time::Duration::from_millis(1)).await;
        }
        assert!(bodies(&partition).await.iter().all(|it| *it == body));
    });
}

/// The head of an entry has its own checksum: the summary of a long message is read without its
/// body, also if the body is damaged; a damaged head is reported.
#[test]
fn a_summary_is_read_and_checked_without_its_body() {
    run_with(None, async |world: Rc<World>| {
        let partition = world.open().await;
        deliver(&partition, ALICE, &content(1, 100_000)).await;
        partition.checkpoint().await.unwrap();
        let account = partition.account(ALICE).await.unwrap();
        let message = *snapshot(&account, MailboxId::INBOX).await.get(0).unwrap();
        let name = world.device.names().into_iter().find(|name| name.starts_with("segment"));
        let name = name.unwrap();
        let flip = |at: u64| world.device.corrupt(&name, |bytes| bytes[at as usize] ^= 4);

        // Its segment is the first: LSNs are offsets.
        let summary_at = message.body.lsn.0 + 40 + 12 + 40;
        flip(message.body.lsn.0 + 50_000);
        assert_eq!(&account.read_summary(&message.body).await.unwrap()[..], b"summary of 100000");
        assert!(account.read_body(&message.body, 0, 10).await.is_err());
        flip(message.body.lsn.0 + 50_000);
        account.read_body(&message.body, 0, 10).await.unwrap();

        partition.rooms.bodies.reset();
        flip(summary_at);
        let read = account.read_summary(&message.body).await;
        assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
    });
}

/// A prologue comes first wherever the body is by then, and staged octets read back.
#[test]
fn a_prologue_comes_first_and_a_staged_body_can_be_read() {
    for compression in [None, COMPRESSED] {
        run_with(compression, async |world: Rc<World>| {
            let partition = world.open().await;
            let sizes = [0, 1, 4096, BODY_CHUNK - 300, BODY_CHUNK, BODY_CHUNK + 1, 3 * BODY_CHUNK];
            let mut expected = Vec::new();
            for (size, spilled) in sizes.into_iter().flat_map(|size| [(size, false), (size, true)])
            {
                for prologue in [0, 1, 300, 5000, BODY_CHUNK] {
                    let (prologue, body) = (content(0, prologue), content(2, size));
                    let mut writer = partition.stage();
                    for piece in body.chunks(100_000) {
                        writer.write(piece).await.unwrap();
                        if spilled {
                            writer.spill().await.unwrap();
                        }
                    }
                    let mut read = Vec::new();
                    loop {
                        let piece = writer.read(read.len() as u64).await.unwrap();
                        if piece.is_empty() {
                            break;
                        }
                        read.extend_from_slice(&piece);
                    }
                    assert!(read == body, "{size} {spilled}");
                    for offset in [1, size / 2, size.saturating_sub(1)].map(|at| at.min(size)) {
                        let piece = writer.read(offset as u64).await.unwrap();
                        assert!(body[offset..].starts_with(&piece), "{size} {spilled} {offset}");
                        assert_eq!(piece.is_empty(), offset == size);
                    }
                    assert!(writer.read(size as u64 + 1).await.unwrap().is_empty());
                    writer.prepend(&prologue).await.unwrap();
                    let whole = [prologue, body].concat();
                    assert_eq!(writer.size(), whole.len() as u64);
                    let staged = writer.finish(b"summary of it".to_vec()).await.unwrap();
                    let target = target(ALICE);
                    partition.deliver(staged, vec![target], None).await.unwrap();
                    expected.push(whole);
                }
            }
            assert!(bodies(&partition).await == expected);
            assert_eq!(partition.verify(&|_| {}).await.unwrap().messages_damaged, 0);
            partition.close().await.unwrap();
            let partition = world.open().await;
            assert!(bodies(&partition).await == expected, "and after a start");
        });
    }
}

/// A message that says another size than its body has is damaged, and no reader ends early by it.
#[test]
fn a_body_of_another_size_is_not_served() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        for len in [100, 2 * BODY_CHUNK + 5] {
            let uid = deliver(&partition, ALICE, &bytes(3, len)).await.uid;
            let account = partition.account(ALICE).await.unwrap();
            let found = snapshot(&account, MailboxId::INBOX).await;
            let body = found.get(found.index_of(uid).unwrap()).unwrap().body;
            assert_eq!(account.read_body(&body, 0, 10).await.unwrap().len(), 10);
            for size in [body.size - 1, body.size + 1] {
                let other = MessageBody { size, ..body };
                let read = account.read_body(&other, 0, 10).await;
                assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{len} {read:?}");
            }
        }
    });
}
