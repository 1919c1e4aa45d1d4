//! Queued mail, in the reserved account; and how format 1's spool gets there.

use bytes::Bytes;

use super::*;
use crate::{
    runtime::device::memory::CrashMode,
    store::{
        HoldingLimits,
        format::effect::{BODY_HERE, Effect},
    },
};

const INBOX: MailboxId = MailboxId::INBOX;

#[test]
fn the_queue_is_made_by_its_first_message_and_has_no_quota() {
    run(async |world: Rc<World>| {
        let holding = HoldingLimits { messages: 1, ..HoldingLimits::default() };
        let options = StoreOptions { holding, ..world.options.clone() };
        let mut partition = world.open_with(options.clone()).await;
        let queue = partition.queue().await.unwrap();
        let none = queue.select(INBOX, false).await;
        assert!(matches!(none, Err(StoreError::NoSuchMailbox)));
        let watch = queue.watch();
        for n in 0..3u32 {
            let annotations = vec![(0, Bytes::from(format!("envelope {n}")))];
            let target = DeliveryTarget { annotations, ..target(AccountId::QUEUE) };
            let body = staged(&partition, &bytes(n.into(), 2000)).await;
            partition.deliver(body, vec![target], None).await.unwrap();
        }
        watch.changed().await;
        assert_eq!(queue.mailboxes().len(), 1);
        drop((queue, watch));
        for restart in 0..3 {
            assert_eq!(partition.queued().await.unwrap(), 3);
            let queue = partition.queue().await.unwrap();
            let found = queue.annotations(INBOX, Uid(1)..=Uid(9)).await.unwrap();
            let last = found[&Uid(3)].clone();
            assert_eq!((found.len(), last), (3, vec![(0, Bytes::from("envelope 2"))]));
            let message = *snapshot(&queue, INBOX).await.get(1).unwrap();
            assert_eq!(whole_body(&queue, &message).await, bytes(1, 2000));
            drop(queue);
            if restart > 0 {
                partition.close().await.unwrap();
            }
            partition = world.open_with(options.clone()).await;
        }
    });
}

/// Puts a message into the spool as format 1 did: in chunks whatever its length.
async fn spool(partition: &Partition, payload: Bytes, body: &[u8]) -> Lsn {
    let body = staged(partition, body).await.into_chunks().await.unwrap();
    let place = MessageBody { lsn: BODY_HERE, size: body.size(), entry_len: 0 };
    let effect = Effect::Spool { payload, body: place };
    let lsn = partition.rooms.commits.commit_one(None, effect, Some(&body)).unwrap();
    partition.rooms.commits.acknowledged(lsn).await.unwrap();
    lsn
}

/// The spooled payload and body.
fn spooled(n: u64) -> (Vec<u8>, Vec<u8>) {
    let payload = format!("payload {n} ").into_bytes();
    let len = if n == 1 { 40_000 } else { 30 };
    let payload = payload.into_iter().cycle().take(len).collect();
    (payload, bytes(n, if n == 2 { 2 * BODY_CHUNK + 77 } else { 3_000 }))
}

const SPOOLED: u64 = 4;

/// All waiting messages, wherever they are: payloads and bodies, in order; and how many are in the
/// spool.
async fn waiting(partition: &Partition) -> (Vec<(Vec<u8>, Vec<u8>)>, usize) {
    let queue = partition.queue().await.unwrap();
    // In one moment: a message that moves meanwhile would be seen twice or never.
    let view = queue.select(INBOX, false).await.ok();
    let snapshot = view.and_then(|view| view.current());
    let standing: Vec<_> =
        partition.rooms.commits.standing.borrow().spool.values().cloned().collect();
    let mut found = Vec::new();
    for message in snapshot.iter().flat_map(|snapshot| snapshot.iter_from(0)) {
        let values = queue.annotations(INBOX, message.uid..=message.uid).await.unwrap();
        let pieces: Vec<&[u8]> = values[&message.uid].iter().map(|(_, value)| &value[..]).collect();
        found.push((pieces.concat(), whole_body(&queue, message).await));
    }
    for spooled in &standing {
        let body = partition.read_body(&spooled.body, 0, usize::MAX).await.unwrap();
        found.push((spooled.payload.to_vec(), body.to_vec()));
    }
    found.sort();
    (found, standing.len())
}

#[test]
fn the_spool_of_format_1_moves_to_the_queue_whatever_happens() {
    let mut expected: Vec<_> = (0..SPOOLED).map(spooled).collect();
    expected.sort();
    let before = Rc::new(World::new(1));
    let simulation = before.simulation.clone();
    // As a server with the first format left it: one in the checkpoint's root, the others logged.
    simulation.run_until(async {
        let partition = before.open().await;
        partition.keep_still();
        for n in 0..SPOOLED {
            let (payload, body) = spooled(n);
            spool(&partition, payload.into(), &body).await;
            if n == 0 {
                deliver(&partition, ALICE, b"not queued").await;
                partition.checkpoint().await.unwrap();
            }
        }
    });
    simulation.kill_tasks();
    let left = before.device.trace().borrow().image(usize::MAX, CrashMode::Lost, 0);

    let move_all = async |partition: &Partition, simulation: &Simulation| {
        for _ in 0..100 {
            if waiting(partition).await.1 == 0 {
                return;
            }
            simulation.sleep(Duration::from_millis(500)).await;
        }
        panic!("the spool does not empty");
    };
    let world = World { device: left, ..World::new(2) };
    let from = world.device.trace().borrow().len();
    world.simulation.run_until(async {
        let partition = world.open().await;
        assert_eq!(waiting(&partition).await.0, expected);
        move_all(&partition, &world.simulation).await;
        assert_eq!(waiting(&partition).await, (expected.clone(), 0));
        partition.checkpoint().await.unwrap();
        partition.compact().await.unwrap();
        assert_eq!(waiting(&partition).await, (expected.clone(), 0));
        partition.close().await.unwrap();
        let again = world.open().await;
        assert_eq!(waiting(&again).await, (expected.clone(), 0));
        assert_eq!(again.verify(&|_| {}).await.unwrap().findings_total, 0);
    });
    world.simulation.kill_tasks();
    // Power fails at every step of the upgrade.
    let trace = world.device.trace();
    let steps = trace.borrow().len();
    assert!(steps > from + 10, "{from} to {steps}");
    for step in from..steps {
        for mode in [CrashMode::Lost, CrashMode::Reordered] {
            let device = trace.borrow().image(step, mode, step as u64);
            let world = World { device, ..World::new(3) };
            world.simulation.run_until(async {
                let partition = world.open().await;
                assert_eq!(waiting(&partition).await.0, expected, "step {step}");
                move_all(&partition, &world.simulation).await;
                assert_eq!(waiting(&partition).await, (expected.clone(), 0), "step {step}");
            });
            world.simulation.kill_tasks();
        }
    }
}

/// Four spooled messages, as a server with format 1 left them.
fn spool_of_format_1() -> MemoryDevice {
    let before = Rc::new(World::new(1));
    let simulation = before.simulation.clone();
    simulation.run_until(async {
        let partition = before.open().await;
        partition.keep_still();
        for n in 0..SPOOLED {
            let (payload, body) = spooled(n);
            spool(&partition, payload.into(), &body).await;
        }
    });
    simulation.kill_tasks();
    let trace = before.device.trace();
    trace.borrow().image(usize::MAX, CrashMode::Lost, 0)
}

/// A damaged message stays in the spool, also after checkpoints, restarts and compaction; the
/// others move.
#[test]
fn a_damaged_message_stays_in_the_spool() {
    let world = World { device: spool_of_format_1(), ..World::new(2) };
    // Damages the first chunk of the long body.
    let (_, long) = spooled(2);
    let mut broken = 0;
    for name in world.device.names() {
        let content = world.device.content(&name).unwrap();
        let found = content.windows(64).position(|it| it == &long[1000..1064]);
        if let Some(at) = found {
            world.device.corrupt(&name, |bytes| bytes[at] ^= 1);
            broken += 1;
        }
    }
    assert!(broken > 0);
    world.simulation.run_until(async {
        for _ in 0..3 {
            let partition = world.open().await;
            world.simulation.sleep(Duration::from_secs(5)).await;
            assert_eq!(partition.queued().await.unwrap(), SPOOLED);
            let standing = partition.rooms.commits.standing.borrow().spool.len();
            assert_eq!(standing, 1);
            partition.checkpoint().await.unwrap();
            partition.compact().await.unwrap();
            partition.close().await.unwrap();
        }
    });
}

/// Nothing is moved while the disk accepts no new mail: the remaining room is for expunges.
#[test]
fn the_spool_does_not_move_to_a_full_disk() {
    let world = World { device: spool_of_format_1(), ..World::new(2) };
    world.device.inject(Faults { free: Some(1 << 20), ..Faults::default() });
    world.simulation.run_until(async {
        let options = StoreOptions { free_space_min: 1 << 30, ..world.options.clone() };
        let partition = world.open_with(options).await;
        world.simulation.sleep(Duration::from_secs(5)).await;
        assert!(partition.refusing().is_some());
        // Some may have moved before the free space was first checked.
        let (before, left) = (partition.rooms.log.next_lsn(), waiting(&partition).await.1);
        assert!(left > 0);
        world.simulation.sleep(Duration::from_secs(60)).await;
        assert_eq!((partition.rooms.log.next_lsn(), waiting(&partition).await.1), (before, left));
        world.device.inject(Faults { free: Some(1 << 40), ..Faults::default() });
        world.simulation.sleep(Duration::from_secs(60)).await;
        assert_eq!(waiting(&partition).await.1, 0);
        assert_eq!(partition.queued().await.unwrap(), SPOOLED);
    });
}
