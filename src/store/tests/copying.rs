//! COPY and MOVE between two accounts of a partition: bodies are shared, and live as long as one of
//! the accounts refers to them; a MOVE is one entry. (`crash_images` ends them at each write.)

use super::*;
use crate::model::FlagMask;

const INBOX: MailboxId = MailboxId::INBOX;

/// Some in chunks.
fn body(n: u64) -> Vec<u8> {
    bytes(n, if n.is_multiple_of(4) { BODY_CHUNK + 3_000 } else { 3_000 + n as usize })
}

async fn messages(account: &Account, mailbox: MailboxId) -> Vec<Message> {
    snapshot(account, mailbox).await.iter_from(0).copied().collect()
}

/// Checks the bodies in a mailbox, whose messages are numbered from 0 on.
async fn check_bodies(account: &Account, mailbox: MailboxId, count: u64) {
    let messages = messages(account, mailbox).await;
    assert_eq!(messages.len() as u64, count);
    for (message, n) in messages.iter().zip(0..) {
        assert!(whole_body(account, message).await == body(n), "body {n}");
    }
}

#[test]
fn a_copy_lives_on_without_its_source() {
    for moved in [false, true] {
        run(async |world: Rc<World>| {
            let mut partition = world.open().await;
            for n in 0..12 {
                deliver(&partition, ALICE, &body(n)).await;
                // So that segments hold more than the bodies copied.
                deliver(&partition, AccountId(99), &bytes(n, 30_000)).await;
            }
            let alice = partition.account(ALICE).await.unwrap();
            let bob = partition.account(BOB).await.unwrap();
            let folder = bob.create_mailbox("from alice", None).await.unwrap();
            let written = partition.probe().bytes_written;
            let (all, kept) = (messages(&alice, INBOX).await, FlagMask::ALL);
            let copied = match moved {
                true => bob.move_from(folder, &alice, INBOX, &all, kept).await.unwrap(),
                false => bob.copy_from(folder, &alice, INBOX, &all, kept).await.unwrap(),
            };
            assert_eq!(copied.uids, (1..=12).map(|n| (Uid(n), Uid(n))).collect::<Vec<_>>());
            assert!(partition.probe().bytes_written - written < 64 * 1024, "no octet is copied");
            let uids: Vec<Uid> = all.iter().map(|message| message.uid).collect();
            alice.remove(INBOX, &uids).await.unwrap();
            let rest = partition.account(AccountId(99)).await.unwrap();
            let uids: Vec<Uid> = (1..=12).map(Uid).collect();
            rest.remove(INBOX, &uids).await.unwrap();
            drop((alice, bob, rest, all));
            for reopened in [false, true, true] {
                if reopened {
                    partition.close().await.unwrap();
                    partition = world.open().await;
                }
                let report = partition.compact().await.unwrap();
                assert!(reopened || report.segments_deleted > 0, "{report:?}");
                assert_eq!(partition.verify(&|_| {}).await.unwrap().messages_damaged, 0);
                let bob = partition.account(BOB).await.unwrap();
                check_bodies(&bob, folder, 12).await;
                assert!(messages(&partition.account(ALICE).await.unwrap(), INBOX).await.is_empty());
            }
            // Nobody refers to them now.
            let bob = partition.account(BOB).await.unwrap();
            let before = partition.probe().segment_bytes;
            bob.delete_mailbox("from alice").await.unwrap();
            drop(bob);
            partition.compact().await.unwrap();
            let freed = before - partition.probe().segment_bytes;
            assert!(freed > 3 * BODY_CHUNK as u64, "{freed} of {before}");
        });
    }
}

#[test]
fn flags_and_numbers_are_those_of_the_target() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        for n in 0..3 {
            deliver(&partition, ALICE, &body(n)).await;
        }
        deliver(&partition, BOB, b"his own").await;
        let alice = partition.account(ALICE).await.unwrap();
        let bob = partition.account(BOB).await.unwrap();
        let own = FlagChange::add(Flags::default(), vec!["other".to_owned()]);
        bob.store_flags(INBOX, &[Uid(1)], own, None).await.unwrap();
        let change = FlagChange::add(Flags::SEEN | Flags::DELETED, vec!["mine".to_owned()]);
        alice.store_flags(INBOX, &[Uid(1), Uid(2)], change, None).await.unwrap();
        let all = messages(&alice, INBOX).await;
        // Expunged meanwhile.
        alice.remove(INBOX, &[Uid(3)]).await.unwrap();
        let kept = FlagMask { system: Flags::SEEN, keywords: true };
        let entries = partition.probe().entries;
        let moved = bob.move_from(INBOX, &alice, INBOX, &all, kept).await.unwrap();
        assert_eq!(moved.uids, [(Uid(1), Uid(2)), (Uid(2), Uid(3))]);
        assert_eq!(partition.probe().entries, entries + 2, "a keyword, and one entry for all else");
        let now = snapshot(&bob, INBOX).await;
        for index in [1, 2] {
            let flags = now.get(index).unwrap().flags;
            let names = flags.keywords.iter().map(|bit| now.keywords()[bit].as_str());
            assert_eq!((flags.system, names.collect::<Vec<_>>()), (Flags::SEEN, vec!["mine"]));
        }
        assert!(messages(&alice, INBOX).await.is_empty());
        // Alice's mod-sequences go on as her own.
        let expunged = alice.expunged_since(INBOX, ModSeq(0)).await.unwrap();
        assert_eq!(expunged.uids, [Uid(1), Uid(2), Uid(3)]);
        let highest = alice.status(INBOX).await.unwrap().highest_mod_seq;
        let again = deliver(&partition, ALICE, b"again").await;
        assert!(snapshot(&alice, INBOX).await.get(0).unwrap().mod_seq > highest);
        assert_eq!(again.uid, Uid(4));
        // Nothing is left to move.
        let moved = bob.move_from(INBOX, &alice, INBOX, &all, kept).await.unwrap();
        assert!(moved.uids.is_empty());
    });
}

#[test]
fn what_is_refused_changes_neither() {
    run(async |world: Rc<World>| {
        let limits = HoldingLimits { messages: 4, octets: 100_000 };
        let options = StoreOptions { holding: limits, ..world.options.clone() };
        let partition = world.open_with(options.clone()).await;
        for n in 1..4 {
            deliver(&partition, ALICE, &body(n)).await;
            deliver(&partition, BOB, &body(n)).await;
        }
        let alice = partition.account(ALICE).await.unwrap();
        let bob = partition.account(BOB).await.unwrap();
        let (all, kept) = (messages(&alice, INBOX).await, FlagMask::ALL);
        let full = bob.move_from(INBOX, &alice, INBOX, &all, kept).await;
        assert!(matches!(full, Err(StoreError::OverQuota)), "{full:?}");
        let gone = bob.move_from(MailboxId(77), &alice, INBOX, &all[..1], kept).await;
        assert!(matches!(gone, Err(StoreError::NoSuchMailbox)), "{gone:?}");
        let gone = bob.copy_from(INBOX, &alice, MailboxId(77), &all[..1], kept).await;
        assert!(matches!(gone, Err(StoreError::NoSuchMailbox)), "{gone:?}");
        let mut asked = 0;
        let mut no = || {
            asked += 1;
            Err(StoreError::NotPermitted("taken away"))
        };
        let refused = bob.move_from_if(INBOX, &alice, INBOX, &all[..1], &mut no).await;
        assert!(matches!(refused, Err(StoreError::NotPermitted("taken away"))), "{refused:?}");
        assert_eq!(asked, 1);
        let elsewhere =
            World { device: MemoryDevice::new(), simulation: world.simulation.clone(), options };
        let other = elsewhere.open().await.account(BOB).await.unwrap();
        let refused = other.copy_from(INBOX, &alice, INBOX, &all[..1], kept).await;
        assert!(matches!(refused, Err(StoreError::NotPermitted(_))), "{refused:?}");
        for account in [&alice, &bob] {
            assert_eq!(messages(account, INBOX).await.len(), 3);
        }
        // A move gives room.
        bob.move_from(INBOX, &alice, INBOX, &all[..1], kept).await.unwrap();
        alice.move_from(INBOX, &bob, INBOX, &messages(&bob, INBOX).await[..2], kept).await.unwrap();
        let held = (messages(&alice, INBOX).await.len(), messages(&bob, INBOX).await.len());
        assert_eq!(held, (4, 2));
    });
}

/// A MOVE of more than a slice: each message is in one place.
#[test]
fn long_moves_and_copies_go_slice_by_slice() {
    const COUNT: usize = 2 * COPY_SLICE + 7;
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let alice = filled(&partition, COUNT).await;
        let bob = partition.account(BOB).await.unwrap();
        let all = messages(&alice, INBOX).await;
        let mut asked = 0;
        let mut twice = || {
            asked += 1;
            match asked {
                3 => Err(StoreError::NotPermitted("taken away")),
                _ => Ok(FlagMask::ALL),
            }
        };
        let refused = bob.copy_from_if(INBOX, &alice, INBOX, &all, &mut twice).await;
        assert!(matches!(refused, Err(StoreError::NotPermitted(_))), "{refused:?}");
        assert!(messages(&bob, INBOX).await.is_empty(), "the copies are taken back");
        asked = 0;
        let mut twice = || {
            asked += 1;
            match asked {
                3 => Err(StoreError::NotPermitted("taken away")),
                _ => Ok(FlagMask::ALL),
            }
        };
        let refused = bob.move_from_if(INBOX, &alice, INBOX, &all, &mut twice).await;
        assert!(matches!(refused, Err(StoreError::NotPermitted(_))), "{refused:?}");
        let held = (messages(&alice, INBOX).await.len(), messages(&bob, INBOX).await.len());
        assert_eq!(held, (7, 2 * COPY_SLICE));
        let rest = messages(&alice, INBOX).await;
        bob.move_from(INBOX, &alice, INBOX, &rest, FlagMask::ALL).await.unwrap();
        assert_eq!(messages(&bob, INBOX).await.len(), COUNT);
    });
}
