//! One wrong bit, or one lost block, anywhere in a partition's files: it starts, loses at most the
//! data there, serves nothing false and reuses no UID.

use std::collections::BTreeMap;

use futures_lite::future::poll_once;

use super::*;
use crate::{
    plant::{Plant, plant},
    runtime::{device::Device, simulation::split_mix},
};

/// Number of flips; `RINGMAIL_FLIPS` raises it.
const FLIPS: u64 = 150;
const BLOCKS: u64 = 60;

/// Flags and body of each message.
type Mail = BTreeMap<(AccountId, String, u32), (Flags, Vec<u8>)>;

/// Accounts beside Alice and Bob.
const OTHERS: std::ops::Range<u64> = 20..30;

fn small(world: &World) -> StoreOptions {
    StoreOptions {
        segment_size: 48 * 1024,
        checkpoint_interval: 24 * 1024,
        compression: Some(Compression { level: 1, body_min: 400 }),
        ..world.options.clone()
    }
}

async fn open(device: &MemoryDevice, world: &World) -> (Partition, RecoveryReport) {
    let device = Rc::new(device.clone());
    let executor = Rc::new(world.simulation.clone());
    Partition::open(device, executor, small(world)).await.expect("starts under any damage")
}

async fn copy_of(files: &BTreeMap<String, Vec<u8>>) -> MemoryDevice {
    let device = MemoryDevice::new();
    for (name, bytes) in files {
        let file = device.create(name, 0).await.unwrap();
        file.append(0, bytes.clone()).await.0.unwrap();
        file.sync().await.unwrap();
    }
    device.sync_directory().await.unwrap();
    device
}

async fn changes(partition: &Partition, round: u64) {
    for n in 0..12 {
        let account = [ALICE, BOB][(n % 2) as usize];
        deliver(partition, account, &bytes(round * 100 + n, 300 + 137 * n as usize)).await;
    }
    for id in OTHERS {
        deliver(partition, AccountId(id), &bytes(round * 100 + id, 500)).await;
    }
    let body = staged(partition, &bytes(round * 100 + 50, 900)).await;
    let targets = vec![target(ALICE), target(BOB), target(AccountId(20))];
    partition.deliver(body, targets, Some(u128::from(round))).await.unwrap();
    let alice = partition.account(ALICE).await.unwrap();
    let folder = alice.create_mailbox(&format!("folder {round}"), None).await.unwrap();
    let inbox = snapshot(&alice, MailboxId::INBOX).await;
    let all: Vec<Message> = inbox.iter_from(0).copied().collect();
    alice.copy(MailboxId::INBOX, &all[all.len() - 3..], folder).await.unwrap();
    let uids: Vec<Uid> = all.iter().map(|message| message.uid).collect();
    let change = FlagChange::add(Flags::SEEN, vec![]);
    alice.store_flags(MailboxId::INBOX, &uids[uids.len() / 2..], change, None).await.unwrap();
    alice.remove(MailboxId::INBOX, &uids[..2]).await.unwrap();
}

async fn all_mail(
    partition: &Partition,
    mut each: impl FnMut((AccountId, String, u32), Flags, Result<Vec<u8>, StoreError>),
) {
    for id in [ALICE, BOB].into_iter().chain(OTHERS.map(AccountId)) {
        let account = partition.account(id).await.expect("account can be read");
        for info in account.mailboxes() {
            let view = account.select(info.id, false).await.expect("folder can be read");
            let found = view.current().unwrap();
            assert_eq!(found.status().messages as usize, found.len(), "counted {}", info.name);
            for message in found.iter_from(0) {
                let body = account.read_body(&message.body, 0, usize::MAX).await;
                let key = (id, info.name.clone(), message.uid.0);
                each(key, message.flags.system, body.map(|body| body.to_vec()));
            }
        }
    }
}

/// The files of a partition with everything in them, and its contents.
async fn workload(world: &World, crash: bool) -> (BTreeMap<String, Vec<u8>>, Mail) {
    let (partition, _) = open(&world.device, world).await;
    for round in 1..7 {
        changes(&partition, round).await;
        if round == 3 {
            partition.compact().await.unwrap();
        }
    }
    let mut mail = Mail::new();
    all_mail(&partition, |key, flags, body| drop(mail.insert(key, (flags, body.unwrap())))).await;
    if !crash {
        partition.close().await.unwrap();
    }
    let names = world.device.list().await.unwrap();
    let content = |name: String| (name.clone(), world.device.content(&name).unwrap());
    (names.into_iter().map(content).collect(), mail)
}

/// Opens a copy with `damage` done to it and compares. Returns messages lost or unreadable.
async fn check(world: &World, files: &BTreeMap<String, Vec<u8>>, mail: &Mail, what: &str) -> usize {
    let device = copy_of(files).await;
    let (partition, report) = open(&device, world).await;
    let mut left = mail.clone();
    let mut unreadable = 0;
    all_mail(&partition, |key, flags, body| {
        let Some((expected, bytes)) = left.remove(&key) else {
            panic!("{what}: {key:?} was not there; {:?}", report.damage);
        };
        match body {
            Ok(body) => assert!(body == bytes, "{what}: false body of {key:?}"),
            Err(StoreError::Corrupt { .. }) => unreadable += 1,
            Err(error) => panic!("{what}: {key:?}: {error}"),
        }
        // A lost effect may have been its flags.
        assert!(flags == expected || !report.damage.is_empty() || partition.rooms.damages.any());
    })
    .await;
    // No UID is reused.
    for (id, name) in [(ALICE, "INBOX"), (BOB, "INBOX")] {
        let highest = mail.keys().filter(|key| key.0 == id && key.1 == name).map(|key| key.2).max();
        let delivered = deliver(&partition, id, b"new").await;
        assert!(Some(delivered.uid.0) > highest, "{what}: UID {} again", delivered.uid.0);
    }
    unreadable + left.len()
}

fn flips() -> u64 {
    std::env::var("RINGMAIL_FLIPS").ok().and_then(|n| n.parse().ok()).unwrap_or(FLIPS)
}

fn names_and_sizes(files: &BTreeMap<String, Vec<u8>>) -> (Vec<(String, usize)>, usize) {
    let sizes: Vec<(String, usize)> =
        files.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect();
    let total = sizes.iter().map(|(_, size)| size).sum();
    (sizes, total)
}

/// The file and offset of the `at`-th byte of all.
fn place(sizes: &[(String, usize)], mut at: usize) -> (String, usize) {
    for (name, size) in sizes {
        if at < *size {
            return (name.clone(), at);
        }
        at -= size;
    }
    unreachable!("beyond the last byte")
}

/// Messages that one entry may hold: the delivery to three, and copies of its body.
const ENTRY_MESSAGES: usize = 6;

fn bits_flip(crash: bool) {
    run(async |world: Rc<World>| {
        let (files, mail) = workload(&world, crash).await;
        assert_eq!(check(&world, &files, &mail, "whole").await, 0);
        let (sizes, total) = names_and_sizes(&files);
        for n in 0..flips() {
            let random = split_mix(n);
            let (name, offset) = place(&sizes, (random >> 8) as usize % total);
            let what = format!("flip {n}: bit {} of {offset} in {name}", random % 8);
            let mut damaged = files.clone();
            damaged.get_mut(&name).unwrap()[offset] ^= 1 << (random % 8);
            let lost = check(&world, &damaged, &mail, &what).await;
            assert!(lost <= ENTRY_MESSAGES, "{what}: {lost} messages lost");
        }
    });
}

#[test]
fn a_wrong_bit_costs_what_lay_there() {
    bits_flip(false);
}

#[test]
fn a_wrong_bit_after_a_crash_costs_what_lay_there() {
    bits_flip(true);
}

#[test]
fn a_lost_block_costs_what_lay_there() {
    run(async |world: Rc<World>| {
        let (files, mail) = workload(&world, false).await;
        let (sizes, total) = names_and_sizes(&files);
        for n in 0..BLOCKS {
            let (name, offset) = place(&sizes, (split_mix(n) >> 8) as usize % total);
            let start = offset / 4096 * 4096;
            let mut damaged = files.clone();
            let bytes = damaged.get_mut(&name).unwrap();
            let end = bytes.len().min(start + 4096);
            bytes[start..end].fill(0);
            let what = format!("block {n}: at {start} of {name}");
            let lost = check(&world, &damaged, &mail, &what).await;
            assert!(lost <= 60, "{what}: {lost} messages lost");
        }
    });
}

#[test]
fn a_header_written_over_another_is_damage_and_traded_names_are_refused() {
    run(async |world: Rc<World>| {
        let (files, mail) = workload(&world, false).await;
        let segments: Vec<&String> =
            files.keys().filter(|name| name.starts_with("segment-")).collect();
        let mut refused = 0;
        for (n, pair) in segments.windows(2).enumerate() {
            let (one, other) = if n % 2 == 0 { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
            let mut damaged = files.clone();
            let header = files[one][..4096].to_vec();
            damaged.get_mut(other).unwrap()[..4096].copy_from_slice(&header);
            check(&world, &damaged, &mail, &format!("header of {one} written over {other}")).await;

            let mut traded = files.clone();
            traded.insert(one.clone(), files[other].clone());
            traded.insert(other.clone(), files[one].clone());
            let (device, executor) = (copy_of(&traded).await, Rc::new(world.simulation.clone()));
            let opened = Partition::open(Rc::new(device), executor, small(&world)).await;
            let error = opened.err().expect("files under each other's names").to_string();
            assert!(error.contains("was written under another name"), "{error}");
            refused += 1;
        }
        assert!(refused > 3);
    });
}

#[test]
fn without_checkpoint_files_every_account_is_found() {
    run(async |world: Rc<World>| {
        let (mut files, mail) = workload(&world, false).await;
        files.retain(|name, _| name.starts_with("segment-"));
        assert_eq!(check(&world, &files, &mail, "no checkpoint").await, 0);
    });
}

#[test]
fn every_wrong_bit_is_found() {
    run(async |world: Rc<World>| {
        let (files, _) = workload(&world, false).await;
        let (sizes, total) = names_and_sizes(&files);
        let whole = copy_of(&files).await;
        let (partition, _) = open(&whole, &world).await;
        let report = partition.verify(&|_| {}).await.unwrap();
        assert_eq!(report.findings, []);
        assert!(report.shared_bytes > 0 && report.recounted && report.messages > 100);
        for n in 0..flips() {
            let random = split_mix(n + 1000);
            let (name, offset) = place(&sizes, (random >> 8) as usize % total);
            let mut damaged = files.clone();
            damaged.get_mut(&name).unwrap()[offset] ^= 1 << (random % 8);
            let (partition, _) = open(&copy_of(&damaged).await, &world).await;
            partition.keep_still();
            let report = partition.verify(&|_| {}).await.unwrap();
            let what = format!("flip {n}: bit {} of {offset} in {name}", random % 8);
            assert!(report.findings_total > 0, "{what} is not found");
        }
    });
}

/// Breaks the payload of every entry chosen by `which`, in all files.
fn break_entries(
    files: &mut BTreeMap<String, Vec<u8>>,
    which: impl Fn(&log::EntryHeader) -> bool,
) -> usize {
    let mut broken = 0;
    for (name, bytes) in files {
        let Some(epoch) = log::epoch_of_name(name) else { continue };
        let found = log::dissect(bytes, PartitionId(3), epoch, Lsn(0)).unwrap();
        for entry in found.entries.iter().filter(|entry| entry.header.is_some_and(|it| which(&it)))
        {
            bytes[entry.offset as usize + 40] ^= 1;
            broken += 1;
        }
    }
    broken
}

#[test]
fn messages_of_a_folder_that_nothing_names_come_back_in_recovered() {
    run(async |world: Rc<World>| {
        let (partition, _) = open(&world.device, &world).await;
        let alice = partition.account(ALICE).await.unwrap();
        deliver(&partition, ALICE, b"in INBOX").await;
        let folder = alice.create_mailbox("Projects", None).await.unwrap();
        let bodies: Vec<Vec<u8>> = (0..5).map(|n| bytes(n, 700 + n as usize)).collect();
        for body in &bodies {
            let mut target = target(ALICE);
            target.mailbox = Some("Projects".to_owned());
            partition.deliver(staged(&partition, body).await, vec![target], None).await.unwrap();
        }
        alice.remove(folder, &[Uid(2)]).await.unwrap();
        partition.close().await.unwrap();
        let names = world.device.list().await.unwrap();
        let content = |name: String| (name.clone(), world.device.content(&name).unwrap());
        let mut files = names.into_iter().map(content).collect();
        let own = |kind| move |it: &log::EntryHeader| it.account == ALICE && it.kind == kind;
        assert!(break_entries(&mut files, own(log::EntryKind::AccountPage)) > 0);
        assert_eq!(break_entries(&mut files, own(log::EntryKind::Mailbox)), 1);

        let device = copy_of(&files).await;
        for round in 0..3 {
            let (partition, _) = open(&device, &world).await;
            let alice = partition.account(ALICE).await.unwrap();
            assert_eq!(uids(&alice, MailboxId::INBOX).await, [1], "round {round}");
            let found = alice.mailboxes().into_iter().find(|info| info.name == "Recovered");
            let found = found.unwrap_or_else(|| panic!("round {round}: {:?}", alice.mailboxes()));
            assert!(found.id > folder, "the lost folder's number is given out again");
            let mut back = Vec::new();
            for message in snapshot(&alice, found.id).await.iter_from(0) {
                back.push(whole_body(&alice, message).await);
            }
            let expected: Vec<_> = [0, 2, 3, 4].map(|n: usize| bodies[n].clone()).into();
            assert!(back == expected, "round {round}: {} came back", back.len());
            // The first start made it durable; compaction keeps it.
            if round > 0 {
                partition.compact().await.unwrap();
            }
            partition.close().await.unwrap();
        }
    });
}

/// Expunges two messages, loses every entry of `kind`, and checks what is then reported as
/// expunged: no more than can be known, and every later expunge.
async fn claims_after_loss(world: &World, kind: log::EntryKind) -> bool {
    let inbox = MailboxId::INBOX;
    let (partition, _) = open(&world.device, world).await;
    for n in 0..6 {
        deliver(&partition, ALICE, &bytes(n, 300)).await;
    }
    let account = partition.account(ALICE).await.unwrap();
    partition.checkpoint().await.unwrap();
    account.remove(inbox, &[Uid(2), Uid(5)]).await.unwrap();
    let highest = account.status(inbox).await.unwrap().highest_mod_seq;
    assert_eq!(account.expunged_since(inbox, ModSeq(0)).await.unwrap().floor, ModSeq(0));
    drop(account);
    partition.close().await.unwrap();
    let names = world.device.list().await.unwrap();
    let content = |name: String| (name.clone(), world.device.content(&name).unwrap());
    let mut files = names.into_iter().map(content).collect();
    assert!(break_entries(&mut files, |it| it.account == ALICE && it.kind == kind) > 0);

    let device = copy_of(&files).await;
    let (partition, _) = open(&device, world).await;
    let account = partition.account(ALICE).await.unwrap();
    assert_eq!(uids(&account, inbox).await, [1, 3, 4, 6], "{kind:?}");
    let told = account.expunged_since(inbox, ModSeq(0)).await.unwrap();
    account.remove(inbox, &[Uid(4)]).await.unwrap();
    let now = account.expunged_since(inbox, told.floor).await.unwrap();
    assert_eq!((now.floor, &now.uids[..]), (told.floor, &[Uid(4)][..]), "{kind:?}");
    drop(account);
    partition.close().await.unwrap();
    let (partition, _) = open(&device, world).await;
    let account = partition.account(ALICE).await.unwrap();
    assert_eq!(account.expunged_since(inbox, told.floor).await.unwrap(), now, "{kind:?}");
    told.floor >= highest && told.uids.is_empty()
}

/// If a page or a run is lost, no earlier expunges are reported; and a floor that does not rise
/// would be noticed.
#[test]
fn the_floor_rises_where_damage_may_have_taken_expunges() {
    let check = |kind, planted| {
        let world = World::new(1);
        plant(planted);
        let holds = world.simulation.clone().run_until(claims_after_loss(&world, kind));
        plant(None);
        holds
    };
    assert!(check(log::EntryKind::AccountPage, None));
    assert!(check(log::EntryKind::MailboxRun, None));
    assert!(!check(log::EntryKind::AccountPage, Some(Plant::KeepFloorAfterLoss)));
}

/// Between the reading of runs that a checkpoint will merge and the merging, other tasks run. One
/// of them may salvage the table, after which none of those runs belongs to the mailbox any more.
#[test]
fn a_table_salvaged_under_a_checkpoint() {
    run(async |world: Rc<World>| {
        let (partition, _) = open(&world.device, &world).await;
        for n in 0..3 {
            deliver(&partition, ALICE, &bytes(n, 400)).await;
        }
        partition.checkpoint().await.unwrap();
        for n in 3..6 {
            deliver(&partition, ALICE, &bytes(n, 400)).await;
        }
        let account = partition.account(ALICE).await.unwrap();
        let all: Vec<Message> =
            snapshot(&account, MailboxId::INBOX).await.iter_from(0).copied().collect();
        let cell = account.cell.clone();
        let mut checkpoint = Box::pin(partition.checkpoint());
        let captured = || {
            let state = cell.state.borrow();
            state.mailboxes[&MailboxId::INBOX].changes().count() > 1
        };
        while !captured() {
            assert!(poll_once(&mut checkpoint).await.is_none(), "the run is read to be joined");
        }
        {
            let mut state = cell.state.borrow_mut();
            let inbox = state.mailboxes.get_mut(&MailboxId::INBOX).unwrap();
            inbox.replace_table(all.iter().copied(), Uid(0));
            state.dirty = true;
        }
        checkpoint.await.unwrap();
        partition.checkpoint().await.unwrap();
        drop((account, cell));
        partition.close().await.unwrap();
        let (partition, report) = open(&world.device, &world).await;
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        let account = partition.account(ALICE).await.unwrap();
        assert_eq!(uids(&account, MailboxId::INBOX).await, [1, 2, 3, 4, 5, 6]);
    });
}

/// What is written while `verify` reads it is not damaged, nor is a segment whose first write is
/// under way.
#[test]
fn what_is_written_under_verify_is_not_damaged() {
    for slow in 0..6 {
        run(async |world: Rc<World>| {
            world.device.set_clock(Rc::new(world.simulation.clone()));
            let partition = world.open().await;
            deliver(&partition, ALICE, b"first").await;
            partition.close().await.unwrap();
            // The next entry opens a new segment.
            let partition = world.open().await;
            let (appends, syncs) = world.device.operations();
            let nth = appends + syncs + slow;
            let faults = Faults { slow: vec![(nth, Duration::from_secs(9))], ..Faults::default() };
            world.device.inject(faults);
            let writing = {
                let partition = partition.clone();
                async move {
                    let _ = deliver(&partition, ALICE, &[b'x'; 3000]).await;
                }
            };
            world.simulation.spawn(Priority::Foreground, Box::pin(writing));
            world.simulation.sleep(Duration::from_secs(1)).await;
            let report = partition.verify(&|_| {}).await.unwrap();
            assert_eq!(report.findings, [], "{slow}");
        });
    }
}

/// Runs that cannot be read now are not joined with what changed; the checkpoint is written all the
/// same.
#[test]
fn a_disk_that_does_not_read_does_not_keep_back_checkpoints() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let values = || vec![(0, bytes::Bytes::from(vec![b'v'; 200]))];
        let mut delivered = 0;
        for _ in 0..3 {
            for _ in 0..5 {
                let target = DeliveryTarget { annotations: values(), ..target(ALICE) };
                let body = staged(&partition, b"x").await;
                partition.deliver(body, vec![target], None).await.unwrap();
                delivered += 1;
            }
            world.device.inject(Faults { unreadable: true, ..Faults::default() });
            partition.checkpoint().await.unwrap();
            world.device.inject(Faults::default());
        }
        partition.close().await.unwrap();
        let account = world.open().await.account(ALICE).await.unwrap();
        let inbox = MailboxId::INBOX;
        assert_eq!(snapshot(&account, inbox).await.len(), delivered);
        let found = account.annotations(inbox, Uid(1)..=Uid(100)).await.unwrap();
        assert_eq!(found.len(), delivered);
    });
}
