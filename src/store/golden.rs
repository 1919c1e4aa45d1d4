//! Partitions written by earlier versions, kept under tests/golden with a listing of their
//! contents: every later version must read the same from the same bytes.
//!
//! `v1` holds a checkpoint with merged runs, followed by one entry of every kind to be replayed;
//! the messages in its spool move to the queue. `v1-compacted` also holds compacted segments and
//! compressed bodies. `v2` holds everything that format 2 has: compacted segments, cards,
//! annotations, tombstones, a queue. Never regenerate a folder for a new version: add a new one.

use std::{fmt::Write, fs, path::Path, rc::Rc, time::Duration};

use hashbrown::HashSet;

use super::{
    format::effect::{Effect, PropertyKind},
    log::{EntryKind, dissect, epoch_of_name, version_of_file},
    *,
};
use crate::{
    model::{AccountId, Flags, Lsn, MailboxId, ModSeq, PartitionId, Timestamp, Uid},
    plant::{Plant, plant},
    runtime::{
        device::{
            Device,
            memory::{CrashMode, MemoryDevice},
        },
        executor::Executor,
        simulation::{Simulation, split_mix},
    },
};

const FOLDERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
const LISTING: &str = "listing.txt";

const ALICE: AccountId = AccountId(1);
const BOB: AccountId = AccountId(0xFFFF_FFFF_0000_0001);

async fn open(device: &MemoryDevice, simulation: &Simulation) -> Partition {
    let options = StoreOptions {
        partition: PartitionId(7),
        compression: Some(Compression::default()),
        // The folders have only a few messages.
        cards_wanted: 4,
        ..StoreOptions::default()
    };
    let executor = Rc::new(simulation.clone());
    let opened = Partition::open(Rc::new(device.clone()), executor, options).await;
    let (partition, report) = opened.expect("the golden folder opens");
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    partition
}

/// Waits until the contents of format 1's spool are in the queue.
async fn upgraded(partition: &Partition, simulation: &Simulation) {
    for _ in 0..100 {
        if partition.rooms.commits.standing.borrow().spool.is_empty() {
            return;
        }
        simulation.sleep(Duration::from_millis(500)).await;
    }
    panic!("the spool does not empty");
}

/// The listing of a folder, with the spool's contents in their new place.
fn expected(folder: &Path) -> String {
    let listing = fs::read_to_string(folder.join(LISTING)).unwrap();
    let moved = |line: &str| {
        let spooled = line.strip_prefix("spooled ")?;
        let (_, rest) = spooled.split_once("payload: ")?;
        let (payload, rest) = rest.split_once(", body: ")?;
        let (_, body) = rest.split_once("} } ")?;
        Some(format!("queued {body} Some([(0, {payload})])"))
    };
    let lines = listing.lines().map(|line| moved(line).unwrap_or_else(|| line.to_owned()) + "\n");
    lines.collect()
}

/// A device with the files of `folder`.
async fn device_of(folder: &Path) -> MemoryDevice {
    let device = MemoryDevice::new();
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap()).collect();
    files.sort_by_key(|file| file.file_name());
    for file in files {
        let name = file.file_name().into_string().unwrap();
        if name != LISTING {
            let created = device.create(&name, 0).await.unwrap();
            created.append(0, fs::read(file.path()).unwrap()).await.0.unwrap();
            created.sync().await.unwrap();
        }
    }
    device.sync_directory().await.unwrap();
    device
}

async fn body(partition: &Partition, text: &str) -> StagedBody {
    let mut writer = partition.stage();
    writer.write(format!("Subject: {text}\r\n\r\n{text}\r\n").as_bytes()).await.unwrap();
    writer.finish(format!("summary of {text}").into_bytes()).await.unwrap()
}

/// Compressed bodies: within their entry, in chunks, and in chunks of which one is not compressed.
async fn write_long_bodies(partition: &Partition) {
    let text = |len: usize| b"0123456789 abcdef\r\n".iter().copied().cycle().take(len);
    let noise = |len: u64| (0..len).map(|at| split_mix(at) as u8);
    let long = [
        text(9000).collect::<Vec<u8>>(),
        text(BODY_CHUNK + 9000).collect(),
        text(BODY_CHUNK).chain(noise(9000)).collect(),
    ];
    for body in long {
        let mut writer = partition.stage();
        writer.write(&body).await.unwrap();
        let staged = writer.finish(b"summary".to_vec()).await.unwrap();
        partition.deliver(staged, vec![target(BOB, &[])], None).await.unwrap();
    }
}

fn target(account: AccountId, keywords: &[&str]) -> DeliveryTarget {
    DeliveryTarget {
        account,
        mailbox: None,
        flags: Flags::default(),
        keywords: keywords.iter().map(|&name| name.to_owned()).collect(),
        internal_date: Timestamp::from_unix_seconds(1_234_567_890),
        annotations: Vec::new(),
    }
}

async fn messages(account: &Account, mailbox: MailboxId, claim_recent: bool) -> Vec<Message> {
    let view = account.select(mailbox, claim_recent).await.unwrap();
    view.current().unwrap().iter_from(0).copied().collect()
}

/// One entry of everything; done before and after the checkpoint, so that both pages and replay
/// have it.
async fn write_some_of_everything(partition: &Partition, round: u64) {
    let staged = body(partition, &format!("to both {round}")).await;
    let targets = vec![target(ALICE, &["$Junk"]), target(BOB, &[])];
    partition.deliver(staged, targets, Some(u128::from(round) << 90 | 5)).await.unwrap();
    for number in 0..3 {
        let staged = body(partition, &format!("to alice {round}.{number}")).await;
        partition.deliver(staged, vec![target(ALICE, &[])], None).await.unwrap();
    }
    let account = partition.account(ALICE).await.unwrap();
    let inbox = MailboxId::INBOX;
    let folder = account.create_mailbox(&format!("Päckchen/{round}"), None).await.unwrap();
    // A body in chunks.
    let staged = body(partition, &format!("chunked {round}")).await.into_chunks().await.unwrap();
    let flags = Flags::DRAFT | Flags::SEEN;
    account.append(folder, staged, flags, &["own".to_owned()], Timestamp(-1)).await.unwrap();
    // A claim is durable only with the next page: make the claim that the checkpoint will hold.
    let all = messages(&account, inbox, round == 0).await;
    let uids: Vec<Uid> = all.iter().map(|message| message.uid).collect();
    account.copy(inbox, &all[..2], folder).await.unwrap();
    account.move_messages(inbox, &all[2..3], folder).await.unwrap();
    let change = FlagChange::add(Flags::FLAGGED, vec!["k".to_owned()]);
    account.store_flags(inbox, &uids, change, None).await.unwrap();
    account.remove(inbox, &uids[1..2]).await.unwrap();
    account.create_mailbox(&format!("gone {round}/child"), None).await.unwrap();
    account.delete_mailbox(&format!("gone {round}/child")).await.unwrap();
    account.rename_mailbox(&format!("gone {round}"), &format!("renamed {round}")).await.unwrap();
    account.set_subscribed(&format!("Päckchen/{round}"), true).await.unwrap();
    account.set_subscribed(&format!("elsewhere {round}"), true).await.unwrap();
    for (kind, key) in [
        (PropertyKind::Acl, "bob"),
        (PropertyKind::Quota, "storage"),
        (PropertyKind::Metadata, "/a"),
    ] {
        let key = (kind, inbox, format!("{key} {round}").into_bytes());
        let value = Some(b"value".to_vec());
        let effect = Effect::Property { account: ALICE, key, value };
        commit(partition, Some(&account), effect).await;
    }
    let staged = body(partition, &format!("queued {round}")).await;
    let annotations = vec![(0, "envelope".into()), (1, "to do".into())];
    let queue = DeliveryTarget { annotations, ..target(AccountId::QUEUE, &[]) };
    let place = partition.deliver(staged, vec![queue], None).await.unwrap()[0];
    let queue = partition.queue().await.unwrap();
    queue.annotate(inbox, place.uid, vec![(1, Some("done".into()))]).await.unwrap();
    let payload = format!("intent {round}").into();
    commit(partition, None, Effect::Intent { id: u128::from(round), payload }).await;
    if round > 0 {
        commit(partition, None, Effect::IntentDone { id: u128::from(round) - 1 }).await;
    }
}

async fn commit(partition: &Partition, account: Option<&Account>, effect: Effect) {
    let cell = account.map(|account| &account.cell);
    let lsn = partition.rooms.commits.commit_one(cell, effect, None).unwrap();
    partition.rooms.commits.acknowledged(lsn).await.unwrap();
}

/// Everything the partition holds, as text.
async fn list(partition: &Partition) -> String {
    let mut out = String::new();
    for id in [ALICE, BOB] {
        let account = partition.account(id).await.unwrap();
        writeln!(out, "account {id}, subscribed {:?}", account.subscriptions()).unwrap();
        for (key, value) in account.cell.state.borrow().properties.published() {
            let (name, value) = (String::from_utf8_lossy(&key.2), String::from_utf8_lossy(value));
            writeln!(out, "  property {:?} {} {name}: {value}", key.0, key.1).unwrap();
        }
        for mailbox in account.mailboxes() {
            writeln!(out, "  {mailbox:?}").unwrap();
            let view = account.select(mailbox.id, false).await.unwrap();
            let snapshot = view.current().unwrap();
            writeln!(out, "    {:?}", snapshot.status()).unwrap();
            writeln!(out, "    keywords {:?}", snapshot.keywords()).unwrap();
            for message in snapshot.iter_from(0) {
                let body = account.read_body(&message.body, 0, usize::MAX).await.unwrap();
                let summary = account.read_summary(&message.body).await.unwrap();
                let mut card = account.cards(mailbox.id, 0);
                card.seek(message).await.unwrap();
                assert_eq!(card.card(), summary, "the card of {message:?}");
                writeln!(out, "    {message:?}").unwrap();
                match body.len() {
                    0..1000 => writeln!(out, "      {summary:?} {body:?}").unwrap(),
                    len => {
                        let checksum = crc32c::crc32c(&body);
                        writeln!(out, "      {summary:?} {len} bytes, CRC-32C {checksum:08x}")
                            .unwrap();
                    }
                }
            }
            list_expunged(&mut out, &account, mailbox.id).await;
        }
    }
    let queue = partition.queue().await.unwrap();
    if let Ok(view) = queue.select(MailboxId::INBOX, false).await {
        for message in view.current().unwrap().iter_from(0) {
            let uid = message.uid;
            let body = queue.read_body(&message.body, 0, usize::MAX).await.unwrap();
            let values = queue.annotations(MailboxId::INBOX, uid..=uid).await.unwrap();
            writeln!(out, "queued {body:?} {:?}", values.get(&uid)).unwrap();
        }
    }
    let standing = partition.rooms.commits.standing.borrow();
    writeln!(out, "intents {:?}", standing.intents).unwrap();
    let delivered = |round: u128| standing.delivery(round << 90 | 5, BOB).is_some();
    writeln!(out, "deliveries {} {} {}", delivered(0), delivered(1), delivered(2)).unwrap();
    out
}

#[test]
fn the_first_format_is_still_read() {
    check("v1");
}

#[test]
fn compacted_segments_and_compressed_bodies_are_still_read() {
    check("v1-compacted");
}

#[test]
fn the_second_format_is_read() {
    check("v2");
    let device = Simulation::new(1).run_until(device_of(&Path::new(FOLDERS).join("v2")));
    let mut kinds = HashSet::new();
    for name in device.names() {
        let Some(epoch) = epoch_of_name(&name) else { continue };
        let bytes = device.content(&name).unwrap();
        assert_eq!(version_of_file(&bytes), Some(2));
        let found = dissect(&bytes, PartitionId(7), epoch, Lsn(0)).unwrap();
        kinds.extend(found.entries.iter().filter_map(|entry| Some(entry.header?.kind)));
    }
    for kind in [EntryKind::CardRun, EntryKind::Annotations, EntryKind::AnnotationRun] {
        assert!(kinds.contains(&kind), "{kind:?}");
    }
}

fn check(folder: &str) {
    let folder = Path::new(FOLDERS).join(folder);
    let simulation = Simulation::new(1);
    simulation.run_until(async {
        let device = device_of(&folder).await;
        let partition = open(&device, &simulation).await;
        upgraded(&partition, &simulation).await;
        let expected = expected(&folder);
        assert_eq!(list(&partition).await, expected);
        // Compaction moves everything, and changes nothing.
        partition.checkpoint().await.unwrap();
        assert!(partition.compact().await.unwrap().segments_deleted > 0);
        partition.close().await.unwrap();
        let partition = open(&device, &simulation).await;
        assert_eq!(list(&partition).await, expected);
        // It can be changed: the checkpoint is written by the current version, the rest is
        // unchanged.
        write_some_of_everything(&partition, 2).await;
        write_long_bodies(&partition).await;
        partition.close().await.unwrap();
        open(&device, &simulation).await;
    });
}

/// Opens a folder of format 1, upgrades it completely, and checks that a power failure at every
/// step of the upgrade leaves the same contents.
fn survive_upgrade(folder: &str) -> Result<(), String> {
    let folder = Path::new(FOLDERS).join(folder);
    let expected = expected(&folder);
    let simulation = Simulation::new(1);
    let (device, from) = simulation.run_until(async {
        let device = device_of(&folder).await;
        let from = device.trace().borrow().len();
        let partition = open(&device, &simulation).await;
        upgraded(&partition, &simulation).await;
        // Every account changes, so that each page is rewritten.
        for id in [ALICE, BOB] {
            let account = partition.account(id).await.unwrap();
            for subscribed in [true, false] {
                account.set_subscribed("on the way", subscribed).await.unwrap();
            }
        }
        partition.checkpoint().await.unwrap();
        partition.compact().await.unwrap();
        partition.close().await.unwrap();
        (device, from)
    });
    simulation.kill_tasks();
    let trace = device.trace();
    let steps = trace.borrow().len();
    assert!(steps > from + 20, "{from} to {steps}");
    for step in from..=steps {
        for mode in CrashMode::ALL {
            let device = trace.borrow().image(step, mode, step as u64);
            let simulation = Simulation::new(2);
            let found = simulation.run_until(async {
                let partition = open(&device, &simulation).await;
                upgraded(&partition, &simulation).await;
                for id in [ALICE, BOB] {
                    let account = partition.account(id).await.unwrap();
                    account.set_subscribed("on the way", false).await.unwrap();
                }
                list(&partition).await
            });
            simulation.kill_tasks();
            if found != expected {
                return Err(format!("step {step}, {mode:?}: found {found}, expected {expected}"));
            }
        }
    }
    Ok(())
}

#[test]
fn power_may_fail_at_every_step_of_an_upgrade() {
    survive_upgrade("v1").unwrap();
    survive_upgrade("v1-compacted").unwrap();
}

#[test]
fn an_upgrade_in_halves_is_noticed() {
    plant(Some(Plant::SpoolMovedInHalves));
    let outcome = std::panic::catch_unwind(|| survive_upgrade("v1"));
    plant(None);
    assert!(!matches!(outcome, Ok(Ok(()))));
}

/// What was expunged is remembered.
async fn list_expunged(out: &mut String, account: &Account, mailbox: MailboxId) {
    let expunged = account.expunged_since(mailbox, ModSeq(0)).await.unwrap();
    if expunged.floor == ModSeq(0) && !expunged.uids.is_empty() {
        writeln!(out, "    expunged {:?}", expunged.uids).unwrap();
    }
}

/// Writes target/golden; copy it to a new folder of tests/golden when the format got a version.
#[test]
#[ignore = "writes files"]
fn write_golden() {
    let simulation = Simulation::new(1);
    simulation.run_until(async {
        let device = MemoryDevice::new();
        let partition = open(&device, &simulation).await;
        write_some_of_everything(&partition, 0).await;
        write_long_bodies(&partition).await;
        partition.checkpoint().await.unwrap();
        // A separate segment for the following entries.
        partition.close().await.unwrap();
        let partition = open(&device, &simulation).await;
        assert!(partition.compact().await.unwrap().bytes_rewritten > 0);
        write_some_of_everything(&partition, 1).await;
        write_long_bodies(&partition).await;
        let listing = list(&partition).await;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/golden");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for name in device.list().await.unwrap() {
            fs::write(folder.join(&name), device.content(&name).unwrap()).unwrap();
        }
        fs::write(folder.join(LISTING), listing).unwrap();
    });
}
