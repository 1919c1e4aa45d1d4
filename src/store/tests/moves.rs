//! Messages that come from another partition: a shipment is in the mailbox whole or not at all, and
//! a MOVE leaves each message in one place, whatever ends when.

use std::cell::RefCell;

use super::*;
use crate::{
    model::FlagMask,
    runtime::device::memory::{CrashMode, Trace},
};

const INBOX: MailboxId = MailboxId::INBOX;
const TICKET: Ticket = Ticket(u128::MAX - 7);

/// Alice's partition and Bob's.
struct Two {
    worlds: [World; 2],
}

impl Two {
    fn new(simulation: &Simulation) -> Two {
        Two::on(simulation, [MemoryDevice::new(), MemoryDevice::new()])
    }

    fn on(simulation: &Simulation, devices: [MemoryDevice; 2]) -> Two {
        let world = |device| World { device, simulation: simulation.clone(), options: options() };
        Two { worlds: devices.map(world) }
    }

    async fn open(&self) -> [Partition; 2] {
        [self.worlds[0].open().await, self.worlds[1].open().await]
    }
}

fn run_two<F: Future<Output = ()>>(test: impl FnOnce(Two) -> F) {
    let simulation = Simulation::new(1);
    simulation.run_until(test(Two::new(&simulation)));
}

/// Some in chunks, some compressible, one empty.
fn body(n: u64) -> Vec<u8> {
    match n {
        0 => Vec::new(),
        n if n.is_multiple_of(3) => bytes(n, BODY_CHUNK + 3_000),
        n => bytes(n, 2_000 + n as usize),
    }
}

async fn messages(account: &Account) -> Vec<Message> {
    snapshot(account, INBOX).await.iter_from(0).copied().collect()
}

async fn bodies(account: &Account) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    for message in messages(account).await {
        bodies.push(whole_body(account, &message).await);
    }
    bodies
}

/// Sends all of the source's INBOX.
async fn ship(
    source: &Account,
    shipment: &mut Shipment,
    target: &Partition,
) -> Result<(), StoreError> {
    for message in messages(source).await {
        let body = source.read_body(&message.body, 0, usize::MAX).await?;
        let mut writer = target.stage();
        writer.write(&body).await?;
        let summary = source.read_summary(&message.body).await?;
        let body = writer.finish(summary.to_vec()).await?;
        shipment.add(message.uid, message.internal_date, body).await?;
    }
    Ok(())
}

fn all(_: &Account, _: MailboxId) -> Result<FlagMask, StoreError> {
    Ok(FlagMask::ALL)
}

async fn uids_of(account: &Account) -> Vec<Uid> {
    messages(account).await.iter().map(|message| message.uid).collect()
}

#[test]
fn a_shipment_comes_as_a_whole() {
    run_two(async |two: Two| {
        let [ours, theirs] = two.open().await;
        for n in 0..7 {
            deliver(&ours, ALICE, &body(n)).await;
        }
        deliver(&theirs, BOB, b"his own").await;
        let alice = ours.account(ALICE).await.unwrap();
        let bob = theirs.account(BOB).await.unwrap();
        let change = FlagChange::add(Flags::SEEN | Flags::DELETED, vec!["mine".to_owned()]);
        alice.store_flags(INBOX, &[Uid(2)], change, None).await.unwrap();
        let mut shipment = theirs.receive(None);
        ship(&alice, &mut shipment, &theirs).await.unwrap();
        assert_eq!(messages(&bob).await.len(), 1, "nothing is visible");
        // One is expunged meanwhile.
        let sent = uids_of(&alice).await;
        alice.remove(INBOX, &[Uid(3)]).await.unwrap();
        let manifest = alice.manifest(INBOX, &sent).await.unwrap();
        // Compaction keeps what nothing refers to yet.
        for _ in 0..20 {
            deliver(&theirs, AccountId(99), &bytes(9, 30_000)).await;
        }
        theirs.checkpoint().await.unwrap();
        theirs.compact().await.unwrap();
        shipment.check(&bob, INBOX).unwrap();
        let entries = theirs.probe().entries;
        let mut may = |account: &Account, mailbox| {
            assert_eq!((account.id(), mailbox), (BOB, INBOX));
            Ok(FlagMask { system: Flags::SEEN, keywords: true })
        };
        let copied = shipment.commit(&bob, INBOX, &manifest, &mut may).await.unwrap();
        assert_eq!(theirs.probe().entries, entries + 2, "a keyword, and one entry for all else");
        let expected = [1, 2, 4, 5, 6, 7].map(Uid).into_iter().zip((2..8).map(Uid));
        assert_eq!(copied.uids, expected.collect::<Vec<_>>());
        let now = snapshot(&bob, INBOX).await;
        let second = now.get(2).unwrap();
        let names = second.flags.keywords.iter().map(|bit| now.keywords()[bit].as_str());
        assert_eq!((second.flags.system, names.collect::<Vec<_>>()), (Flags::SEEN, vec!["mine"]));
        assert_eq!(second.internal_date, target(ALICE).internal_date);
        let summary = bob.read_summary(&second.body).await.unwrap();
        assert_eq!(summary, format!("summary of {}", body(1).len()).as_bytes());
        drop((bob, now));

        let expected: Vec<Vec<u8>> =
            [b"his own".to_vec()].into_iter().chain([0, 1, 3, 4, 5, 6].map(body)).collect();
        let mut theirs = theirs;
        for reopened in [false, true, true] {
            if reopened {
                theirs.close().await.unwrap();
                theirs = two.worlds[1].open().await;
            }
            theirs.compact().await.unwrap();
            assert_eq!(theirs.verify(&|_| {}).await.unwrap().messages_damaged, 0);
            let bob = theirs.account(BOB).await.unwrap();
            assert!(bodies(&bob).await == expected);
        }
    });
}

#[test]
fn what_is_refused_leaves_garbage_only() {
    run_two(async |two: Two| {
        let limits = HoldingLimits { messages: 5, octets: 10 << 20 };
        let [ours, _] = two.open().await;
        let options = StoreOptions { holding: limits, ..options() };
        let theirs = two.worlds[1].open_with(options).await;
        for n in 0..7 {
            deliver(&ours, ALICE, &body(n)).await;
        }
        let alice = ours.account(ALICE).await.unwrap();
        let bob = theirs.account(BOB).await.unwrap();
        let sent = uids_of(&alice).await;
        let manifest = alice.manifest(INBOX, &sent).await.unwrap();
        let no = |_: &Account, _| Err(StoreError::NotPermitted("taken away"));
        for (mailbox, count, may) in [
            (INBOX, 7, all as fn(&Account, MailboxId) -> Result<FlagMask, StoreError>),
            (MailboxId(77), 2, all),
            (INBOX, 2, no),
        ] {
            let mut shipment = theirs.receive(None);
            ship(&alice, &mut shipment, &theirs).await.unwrap();
            let mut manifest = manifest.clone();
            manifest.messages.truncate(count);
            let refused =
                shipment.commit(&bob, mailbox, &manifest, &mut { may }).await.unwrap_err();
            let expected = match (mailbox, count) {
                (INBOX, 7) => "the account is full",
                (INBOX, _) => "taken away",
                _ => "no such mailbox",
            };
            assert_eq!(refused.to_string(), expected);
            assert!(messages(&bob).await.is_empty());
        }
        let mut shipment = theirs.receive(None);
        ship(&alice, &mut shipment, &theirs).await.unwrap();
        assert!(matches!(shipment.check(&bob, INBOX), Err(StoreError::OverQuota)));
        let elsewhere = shipment.commit(&alice, INBOX, &manifest, &mut { all }).await;
        assert!(matches!(elsewhere, Err(StoreError::NotPermitted(_))), "{elsewhere:?}");
        // Nothing of it stays.
        let before = theirs.probe().segment_bytes;
        for n in 0..10 {
            deliver(&theirs, AccountId(90 + n), &bytes(9, 30_000)).await;
        }
        theirs.compact().await.unwrap();
        let after = theirs.probe().segment_bytes;
        assert!(after < before / 2, "{before} bytes, then {after}");
    });
}

#[test]
fn more_than_a_slice_is_taken_back_when_refused() {
    const COUNT: usize = 2 * COPY_SLICE + 5;
    run_two(async |two: Two| {
        let [_, theirs] = two.open().await;
        let bob = theirs.account(BOB).await.unwrap();
        for refused in [true, false] {
            let mut shipment = theirs.receive(None);
            let mut manifest = Manifest::default();
            for uid in (1..=COUNT as u32).map(Uid) {
                let body = staged(&theirs, b"x").await;
                shipment.add(uid, Timestamp(0), body).await.unwrap();
                manifest.messages.push((uid, FlagSet::default()));
            }
            let mut asked = 0;
            let mut may = |_: &Account, _| {
                asked += 1;
                match asked {
                    3 if refused => Err(StoreError::NotPermitted("taken away")),
                    _ => Ok(FlagMask::ALL),
                }
            };
            let copied = shipment.commit(&bob, INBOX, &manifest, &mut may).await;
            assert_eq!(copied.is_err(), refused);
            assert_eq!(messages(&bob).await.len(), if refused { 0 } else { COUNT });
        }
    });
}

/// The steps of a MOVE, one after the other; what is there after each of them, and what recovery
/// makes of it.
#[test]
fn the_steps_of_a_move() {
    run_two(async |two: Two| {
        let [ours, theirs] = two.open().await;
        for n in 0..4 {
            deliver(&ours, ALICE, &body(n)).await;
        }
        let alice = ours.account(ALICE).await.unwrap();
        let bob = theirs.account(BOB).await.unwrap();
        let sent = uids_of(&alice).await;
        assert_eq!(theirs.moves().arrived(TICKET).await.unwrap(), None);
        let mut shipment = theirs.receive(Some((TICKET, ALICE)));
        ship(&alice, &mut shipment, &theirs).await.unwrap();
        let mut no = |_: &Account, _| Err(StoreError::NotPermitted("taken away"));
        let refused = alice.begin_move(INBOX, &sent, TICKET, (BOB, INBOX), &mut no).await;
        assert!(matches!(refused, Err(StoreError::NotPermitted("taken away"))), "{refused:?}");
        assert!(!ours.moves().is_begun(TICKET));
        let begin = async |uids: &[Uid], ticket| {
            alice.begin_move(INBOX, uids, ticket, (BOB, INBOX), &mut { all }).await.unwrap()
        };
        let manifest = begin(&sent[..3], TICKET).await;
        assert_eq!(manifest.messages.len(), 3);
        // Another move gets the rest, a third one nothing.
        let other = Ticket(1);
        assert_eq!(begin(&sent, other).await.messages.len(), 1);
        assert_eq!(begin(&sent, Ticket(2)).await, Manifest::default());
        let begun = ours.moves().begun();
        assert_eq!(begun.iter().map(|it| it.ticket).collect::<Vec<_>>(), [other, TICKET]);
        assert_eq!((begun[0].source, begun[0].target), ((ALICE, INBOX), (BOB, INBOX)));
        ours.moves().cancel(other).await.unwrap();
        ours.moves().cancel(other).await.unwrap();
        assert_eq!(messages(&alice).await.len(), 4);

        let copied = shipment.commit(&bob, INBOX, &manifest, &mut { all }).await.unwrap();
        assert_eq!(theirs.moves().arrived(TICKET).await.unwrap(), Some(copied.clone()));
        let arrivals = theirs.moves().arrivals();
        assert_eq!(arrivals, [Arrived { ticket: TICKET, source: ALICE }]);
        drop((alice, bob));
        let (mut ours, mut theirs) = (ours, theirs);
        for checkpointed in [false, true] {
            if checkpointed {
                ours.close().await.unwrap();
                theirs.close().await.unwrap();
            }
            [ours, theirs] = two.open().await;
            assert!(ours.moves().is_begun(TICKET));
            assert_eq!(theirs.moves().arrived(TICKET).await.unwrap(), Some(copied.clone()));
        }
        // One was expunged, one came.
        let alice = ours.account(ALICE).await.unwrap();
        alice.remove(INBOX, &[Uid(2)]).await.unwrap();
        let entries = ours.probe().entries;
        ours.moves().finish(TICKET).await.unwrap();
        assert_eq!(ours.probe().entries, entries + 1);
        assert!(!ours.moves().is_begun(TICKET));
        ours.moves().finish(TICKET).await.unwrap();
        assert_eq!(uids_of(&alice).await, [Uid(4)]);
        theirs.moves().forget(TICKET).await.unwrap();
        assert_eq!(theirs.moves().arrived(TICKET).await.unwrap(), None);
        drop(alice);
        ours.close().await.unwrap();
        theirs.close().await.unwrap();
        let [ours, theirs] = two.open().await;
        assert!(ours.moves().begun().is_empty() && theirs.moves().arrivals().is_empty());
        let bob = theirs.account(BOB).await.unwrap();
        assert!(bodies(&bob).await == [0, 1, 2].map(body));
    });
}

/// Once its source was told that nothing has arrived, nothing will.
#[test]
fn who_was_told_no_is_told_the_truth() {
    run_two(async |two: Two| {
        let [_, theirs] = two.open().await;
        let bob = theirs.account(BOB).await.unwrap();
        let mut shipment = theirs.receive(Some((TICKET, ALICE)));
        shipment.add(Uid(1), Timestamp(0), staged(&theirs, b"x").await).await.unwrap();
        assert_eq!(theirs.moves().arrived(TICKET).await.unwrap(), None);
        let manifest = Manifest { messages: vec![(Uid(1), FlagSet::default())], keywords: vec![] };
        let refused = shipment.commit(&bob, INBOX, &manifest, &mut { all }).await;
        assert!(matches!(refused, Err(StoreError::NotPermitted(_))), "{refused:?}");
        assert!(messages(&bob).await.is_empty());
        // Asked while it is being written, it waits for the answer.
        let mut shipment = theirs.receive(Some((TICKET, ALICE)));
        shipment.add(Uid(1), Timestamp(0), staged(&theirs, b"x").await).await.unwrap();
        let asker = theirs.clone();
        let answer: Rc<RefCell<Option<bool>>> = Rc::default();
        let told = answer.clone();
        let mut may = move |_: &Account, _: MailboxId| {
            let (asker, told) = (asker.clone(), told.clone());
            two.worlds[1].simulation.spawn(
                Priority::Foreground,
                Box::pin(async move {
                    let arrived = asker.moves().arrived(TICKET).await.unwrap();
                    *told.borrow_mut() = Some(arrived.is_some());
                }),
            );
            Ok(FlagMask::ALL)
        };
        shipment.commit(&bob, INBOX, &manifest, &mut may).await.unwrap();
        theirs.checkpoint().await.unwrap();
        assert_eq!(*answer.borrow(), Some(true));
    });
}

/// What recovery does (`service::transfer`): asks the target, finishes or cancels, forgets.
async fn recover(ours: &Partition, theirs: &Partition) {
    for begun in ours.moves().begun() {
        match theirs.moves().arrived(begun.ticket).await.unwrap() {
            Some(_) => ours.moves().finish(begun.ticket).await.unwrap(),
            None => ours.moves().cancel(begun.ticket).await.unwrap(),
        }
    }
    for arrived in theirs.moves().arrivals() {
        assert!(!ours.moves().is_begun(arrived.ticket));
        theirs.moves().forget(arrived.ticket).await.unwrap();
    }
}

/// Power is lost at each operation of each of the two disks.
#[test]
fn a_crash_at_any_moment_leaves_each_message_once() {
    let simulation = Simulation::new(1);
    let two = Two::new(&simulation);
    let traces: [Rc<RefCell<Trace>>; 2] = [0, 1].map(|n| two.worlds[n].device.trace());
    // How far both were at each step of either.
    let steps: RefCell<Vec<[usize; 2]>> = RefCell::default();
    let note = || {
        let now = [0, 1].map(|n: usize| traces[n].borrow().len());
        let mut steps = steps.borrow_mut();
        let last = steps.last().copied().unwrap_or(now);
        // All that may have happened in between.
        for ours in last[0]..=now[0] {
            for theirs in last[1]..=now[1] {
                if !steps.contains(&[ours, theirs]) {
                    steps.push([ours, theirs]);
                }
            }
        }
    };
    simulation.run_until(async {
        let [ours, theirs] = two.open().await;
        for n in 0..4 {
            deliver(&ours, ALICE, &body(n)).await;
        }
        let alice = ours.account(ALICE).await.unwrap();
        let bob = theirs.account(BOB).await.unwrap();
        let sent = uids_of(&alice).await;
        note();
        let mut shipment = theirs.receive(Some((TICKET, ALICE)));
        ship(&alice, &mut shipment, &theirs).await.unwrap();
        note();
        let begun = alice.begin_move(INBOX, &sent, TICKET, (BOB, INBOX), &mut { all }).await;
        let manifest = begun.unwrap();
        note();
        shipment.commit(&bob, INBOX, &manifest, &mut { all }).await.unwrap();
        note();
        ours.moves().finish(TICKET).await.unwrap();
        note();
        theirs.moves().forget(TICKET).await.unwrap();
        note();
    });
    let (mut before, mut after) = (0, 0);
    for (number, [at_ours, at_theirs]) in steps.borrow().iter().enumerate() {
        let seed = number as u64;
        let device = |n: usize, at: usize| {
            let mode = CrashMode::ALL[number % CrashMode::ALL.len()];
            traces[n].borrow().image(at, mode, seed)
        };
        let devices = [device(0, *at_ours), device(1, *at_theirs)];
        let simulation = Simulation::new(seed);
        let two = Two::on(&simulation, devices);
        simulation.run_until(async {
            let [ours, theirs] = two.open().await;
            recover(&ours, &theirs).await;
            let alice = ours.account(ALICE).await.unwrap();
            let bob = theirs.account(BOB).await.unwrap();
            let (here, there) = (bodies(&alice).await, bodies(&bob).await);
            assert_eq!(here.len() + there.len(), 4, "step {number}");
            assert!(here.is_empty() || there.is_empty(), "step {number}");
            assert!([here, there].concat() == [0, 1, 2, 3].map(body), "step {number}");
            *(if there_is_nothing(&bob).await { &mut before } else { &mut after }) += 1;
            assert!(ours.moves().begun().is_empty() && theirs.moves().arrivals().is_empty());
        });
    }
    assert!(before > 0 && after > 0, "{before}, {after}");
}

async fn there_is_nothing(account: &Account) -> bool {
    messages(account).await.is_empty()
}

/// What is about to leave by a move is not taken elsewhere by a second one: it would be in both
/// places. It can still be copied, as before the move.
#[test]
fn what_is_about_to_leave_is_moved_once() {
    for renames in [false, true] {
        for arrives in [false, true] {
            run_two(async |two: Two| {
                let [ours, _theirs] = two.open().await;
                for n in 0..3 {
                    deliver(&ours, ALICE, &body(n)).await;
                }
                let alice = ours.account(ALICE).await.unwrap();
                let other = alice.create_mailbox("other", None).await.unwrap();
                let all_of_them = messages(&alice).await;
                let (sent, to) = ([Uid(1), Uid(3)], (BOB, INBOX));
                alice.begin_move(INBOX, &sent, TICKET, to, &mut { all }).await.unwrap();
                let copied = alice.copy(INBOX, &all_of_them, other).await.unwrap();
                assert_eq!(copied.uids.len(), 3);
                let taken = match renames {
                    true => {
                        alice.rename_mailbox("INBOX", "old").await.unwrap();
                        alice.mailbox_by_name("old").unwrap().id
                    }
                    false => {
                        let moved = alice.move_messages(INBOX, &all_of_them, other).await.unwrap();
                        assert_eq!(moved.uids, [(Uid(2), Uid(4))]);
                        other
                    }
                };
                assert_eq!(uids_of(&alice).await, sent);
                let expected = if renames { 1 } else { 4 };
                assert_eq!(snapshot(&alice, taken).await.len(), expected);
                match arrives {
                    true => ours.moves().finish(TICKET).await.unwrap(),
                    false => ours.moves().cancel(TICKET).await.unwrap(),
                }
                let left = uids_of(&alice).await;
                assert_eq!(left, if arrives { vec![] } else { sent.to_vec() });
            });
        }
    }
}
