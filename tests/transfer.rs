//! COPY and MOVE between accounts on any shards (`service::transfer`): what gets there, what stays,
//! who is asked, and what becomes of a move whose target does not answer.

mod transcript;
mod world;

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use ringmail::{
    model::{AccountId, FlagMask, Flags, MailboxId, Timestamp, Uid},
    runtime::{LocalFuture, connection::Connection, executor::Priority},
    service::{
        Shard,
        transfer::{self, Consents, Outcome, Place, TransferFailure, Way},
    },
    store::{Account, BODY_CHUNK, COPY_SLICE, FlagChange, Message, StoreError, Ticket},
};
use world::{ALICE, Kit, SimulatedWorld};

const INBOX: MailboxId = MailboxId::INBOX;

fn nobody(_: Connection, _: Rc<[Rc<Shard>]>, _: usize) -> LocalFuture<'static, ()> {
    Box::pin(std::future::ready(()))
}

/// An account of alice's partition, and two of the other one.
fn others() -> [AccountId; 3] {
    let of = |alices: bool| {
        let is = move |id: &AccountId| (id.partition(2) == ALICE.partition(2)) == alices;
        (2..).map(AccountId).filter(is)
    };
    let mut elsewhere = of(false);
    [of(true).next().unwrap(), elsewhere.next().unwrap(), elsewhere.next().unwrap()]
}

fn body(n: usize) -> Vec<u8> {
    let len = if n.is_multiple_of(3) { BODY_CHUNK + 4_000 } else { 900 + n };
    let mut body = format!("Subject: {n}\r\n\r\n").into_bytes();
    body.extend((0..len).map(|at| ((at * (n + 1)) >> 3) as u8));
    body
}

struct Case<'k> {
    kit: &'k Kit,
    world: SimulatedWorld<'k>,
}

impl<'k> Case<'k> {
    fn new(kit: &'k Kit) -> Case<'k> {
        let world = SimulatedWorld::new(kit, nobody, 0, true);
        let case = Case::opened(kit, world);
        case.world.shards.iter().for_each(transfer::follow);
        case
    }

    fn opened(kit: &'k Kit, world: SimulatedWorld<'k>) -> Case<'k> {
        world.shards.iter().for_each(|shard| shard.mesh.open(shard.clone()));
        Case { kit, world }
    }

    fn owner(&self, account: AccountId) -> &Rc<Shard> {
        let owner = self.world.shards[0].owner_of(account);
        &self.world.shards[usize::from(owner.0)]
    }

    fn run<T>(&self, account: AccountId, work: impl AsyncFnOnce(&Account) -> T) -> T {
        let partition = self.owner(account).local_partition(account).unwrap().clone();
        self.kit.simulation.run_until(async {
            let account = partition.account(account).await.unwrap();
            work(&account).await
        })
    }

    fn fill(&self, account: AccountId, count: usize) {
        let partition = self.owner(account).local_partition(account).unwrap().clone();
        self.run(account, async |account| {
            for n in 0..count {
                let mut writer = partition.stage();
                writer.write(&body(n)).await.unwrap();
                let body = writer.finish(b"summary".to_vec()).await.unwrap();
                let date = Timestamp(n as i64);
                account.append(INBOX, body, Flags::default(), &[], date).await.unwrap();
            }
        });
    }

    fn messages(&self, account: AccountId) -> Vec<Message> {
        self.run(account, async |account| {
            let snapshot = account.select(INBOX, false).await.unwrap().current().unwrap();
            snapshot.iter_from(0).copied().collect()
        })
    }

    /// The bodies in INBOX must be these, with their dates.
    fn check(&self, account: AccountId, expected: impl Iterator<Item = usize>) {
        let messages = self.messages(account);
        let expected: Vec<usize> = expected.collect();
        assert_eq!(messages.len(), expected.len());
        self.run(account, async |account| {
            for (message, n) in messages.iter().zip(expected) {
                let read = account.read_body(&message.body, 0, usize::MAX).await.unwrap();
                assert!(read == body(n), "body {n}");
                assert_eq!(message.internal_date, Timestamp(n as i64));
                assert_eq!(&account.read_summary(&message.body).await.unwrap()[..], b"summary");
            }
        });
    }

    /// Called on the shard of this number.
    fn transfer(
        &self,
        shard: usize,
        source: AccountId,
        target: Place,
        way: Way,
        consents: Consents,
    ) -> Outcome {
        let (messages, shard) = (self.messages(source), self.world.shards[shard].clone());
        let source = (source, INBOX);
        self.kit.simulation.run_until(async {
            transfer::transfer(&shard, source, messages, target, way, consents).await
        })
    }

    fn unfinished(&self) -> usize {
        let partitions =
            self.world.shards.iter().flat_map(|shard| shard.partitions.iter().flatten());
        partitions.map(|it| it.moves().begun().len() + it.moves().arrivals().len()).sum()
    }
}

#[test]
fn messages_get_there_from_any_shard() {
    let kit = Kit::new();
    let [near, far, _] = others();
    for shard in [0, 1] {
        for (source, target) in [(ALICE, near), (ALICE, far), (far, ALICE)] {
            for way in [Way::Copy, Way::Move] {
                let case = Case::new(&kit);
                case.fill(source, 5);
                case.run(source, async |account| {
                    let change = FlagChange::add(Flags::SEEN | Flags::DRAFT, vec!["k".to_owned()]);
                    account.store_flags(INBOX, &[Uid(2)], change, None).await.unwrap();
                });
                let kept = FlagMask { system: Flags::SEEN, keywords: true };
                let consents =
                    Consents { target: Arc::new(move |_, _| Ok(kept)), ..Consents::all() };
                let done = case.transfer(shard, source, (target, INBOX), way, consents).unwrap();
                let uids = (1..=5).map(|n| (Uid(n), Uid(n)));
                assert_eq!(done.uids, uids.collect::<Vec<_>>(), "{way:?}");
                case.check(target, 0..5);
                case.check(source, 0..if way == Way::Copy { 5 } else { 0 });
                case.run(target, async |account| {
                    let now = account.select(INBOX, false).await.unwrap().current().unwrap();
                    assert_eq!(now.status().uid_validity, done.uid_validity);
                    let flags = now.get(1).unwrap().flags;
                    assert_eq!(
                        (flags.system, now.keywords()),
                        (Flags::SEEN, &["k".to_owned()][..])
                    );
                });
                case.world.sleep(5);
                assert_eq!(case.unfinished(), 0, "the ticket is forgotten");
            }
        }
    }
}

#[test]
fn many_messages_are_moved_in_batches() {
    let kit = Kit::new();
    let [_, far, _] = others();
    let case = Case::new(&kit);
    case.fill(ALICE, 4);
    let count = COPY_SLICE + 30;
    case.run(ALICE, async |account| {
        for _ in 0..count.div_ceil(4) {
            let snapshot = account.select(INBOX, false).await.unwrap().current().unwrap();
            let small: Vec<Message> = [1, 2, 1, 2].map(|n| *snapshot.get(n).unwrap()).to_vec();
            account.copy(INBOX, &small[..2], INBOX).await.unwrap();
            account.copy(INBOX, &small[2..], INBOX).await.unwrap();
        }
    });
    let total = case.messages(ALICE).len();
    assert!(total > COPY_SLICE);
    let moved = case.transfer(1, ALICE, (far, INBOX), Way::Move, Consents::all()).unwrap();
    assert_eq!((moved.uids.len(), case.messages(far).len()), (total, total));
    assert!(case.messages(ALICE).is_empty());
}

#[test]
fn a_refusal_changes_nothing() {
    let kit = Kit::new();
    let [near, far, _] = others();
    let no: transfer::Consent = Arc::new(|_, _| Err(StoreError::NotPermitted("taken away")));
    let refused = TransferFailure::NotPermitted("taken away");
    let gone = MailboxId(77);
    for target in [near, far] {
        for way in [Way::Copy, Way::Move] {
            let all = Consents::all();
            let no_source = Consents { source: no.clone(), ..all.clone() };
            let no_target = Consents { target: no.clone(), ..all.clone() };
            let mut cases = vec![
                (gone, all.clone(), TransferFailure::NoTarget),
                (INBOX, no_source, refused),
                (INBOX, no_target, refused),
            ];
            // Taken away in the last moment.
            if target == far {
                let asked = Arc::new(AtomicU32::new(0));
                let last: transfer::Consent =
                    Arc::new(move |_, _| match (way, asked.fetch_add(1, Ordering::Relaxed)) {
                        (Way::Move, 0) => Ok(FlagMask::ALL),
                        _ => Err(StoreError::NotPermitted("taken away")),
                    });
                cases.push((INBOX, Consents { target: last, ..all }, refused));
            }
            for (mailbox, consents, expected) in cases {
                let case = Case::new(&kit);
                case.fill(ALICE, 3);
                let failed = case.transfer(1, ALICE, (target, mailbox), way, consents);
                assert_eq!(failed, Err(expected), "{way:?} to {target:?}");
                case.check(ALICE, 0..3);
                assert!(case.messages(target).is_empty());
                assert_eq!(case.unfinished(), 0);
            }
        }
    }
}

/// What is refused anyway is not written to the target's log first: one who may do nothing there
/// would fill another's disk.
#[test]
fn nothing_is_sent_where_it_is_refused() {
    let kit = Kit::new();
    let [_, far, _] = others();
    let no: transfer::Consent = Arc::new(|_, _| Err(StoreError::NotPermitted("taken away")));
    for way in [Way::Copy, Way::Move] {
        let case = Case::new(&kit);
        case.fill(ALICE, 7);
        // The account exists.
        case.fill(far, 1);
        let partition = case.owner(far).local_partition(far).unwrap();
        let appended = partition.probe().entries;
        let consents = Consents { target: no.clone(), ..Consents::all() };
        let failed = case.transfer(0, ALICE, (far, INBOX), way, consents);
        assert_eq!(failed, Err(TransferFailure::NotPermitted("taken away")), "{way:?}");
        assert_eq!(partition.probe().entries, appended, "{way:?}");
        case.check(ALICE, 0..7);
    }
}

/// The client gets an error, the messages are for a while in both places, then in one.
#[test]
fn a_target_that_does_not_answer_is_asked_later() {
    let kit = Kit::new();
    let [_, far, _] = others();
    let case = Case::new(&kit);
    case.fill(far, 3);
    let world = Arc::new(AtomicBool::new(false));
    // From the moment that its consent is asked for the commit on, alice's disk is slow.
    let asked = world.clone();
    let consents = Consents {
        target: Arc::new(move |_, _| {
            asked.store(true, Ordering::Relaxed);
            Ok(FlagMask::ALL)
        }),
        ..Consents::all()
    };
    let (shard, messages) = (case.world.shards[1].clone(), case.messages(far));
    let outcome: Rc<std::cell::RefCell<Option<Outcome>>> = Rc::default();
    let told = outcome.clone();
    let (source, target) = ((far, INBOX), (ALICE, INBOX));
    let executor = shard.executor.clone();
    let work = async move {
        let done = transfer::transfer(&shard, source, messages, target, Way::Move, consents).await;
        *told.borrow_mut() = Some(done);
    };
    executor.spawn(Priority::Foreground, Box::pin(work));
    let partition = case.world.alices_partition();
    case.kit.simulation.run_until(async {
        while !world.load(Ordering::Relaxed) {
            executor.yield_now().await;
        }
    });
    // All bodies are there, and the intent comes next.
    case.kit.simulation.run_until(partition.checkpoint()).unwrap();
    let asked = case.owner(far).local_partition(far).unwrap().clone();
    case.world.slow_disk();
    case.kit.simulation.run_until(async {
        while outcome.borrow().is_none() {
            executor.sleep(std::time::Duration::from_millis(500)).await;
        }
    });
    let failed = outcome.borrow().clone();
    if asked.moves().begun().is_empty() {
        // The commit was faster than the disk became slow.
        assert!(matches!(failed, Some(Ok(_))), "{failed:?}");
    } else {
        assert_eq!(failed, Some(Err(TransferFailure::Unavailable)));
    }
    case.world.sleep(300);
    case.check(ALICE, 0..3);
    assert!(case.messages(far).is_empty());
    assert_eq!(case.unfinished(), 0);
}

/// What an earlier life of the server left.
#[test]
fn intents_and_arrivals_are_found_at_a_start() {
    let kit = Kit::new();
    let [_, far, gone] = others();
    for arrives in [false, true] {
        let world = SimulatedWorld::new(&kit, nobody, 0, true);
        let case = Case::opened(&kit, world);
        case.fill(ALICE, 3);
        let ticket = Ticket(42);
        let theirs = case.owner(far).local_partition(far).unwrap().clone();
        let all = |_: &Account, _: MailboxId| Ok(FlagMask::ALL);
        let sent: Vec<Uid> = [1, 2].map(Uid).to_vec();
        let manifest = case.run(ALICE, async |account| {
            // One for a mailbox that was deleted meanwhile, too.
            let (lost, nowhere) = (Ticket(43), (gone, MailboxId(99)));
            account.begin_move(INBOX, &[Uid(3)], lost, nowhere, &mut { all }).await.unwrap();
            account.begin_move(INBOX, &sent, ticket, (far, INBOX), &mut { all }).await.unwrap()
        });
        if arrives {
            case.run(far, async |account| {
                let mut shipment = theirs.receive(Some((ticket, ALICE)));
                for (uid, n) in sent.iter().zip(0..) {
                    let mut writer = theirs.stage();
                    writer.write(&body(n)).await.unwrap();
                    let body = writer.finish(b"summary".to_vec()).await.unwrap();
                    shipment.add(*uid, Timestamp(n as i64), body).await.unwrap();
                }
                shipment.commit(account, INBOX, &manifest, &mut { all }).await.unwrap();
            });
        }
        assert_eq!(case.unfinished(), if arrives { 3 } else { 2 });
        case.world.shards.iter().for_each(transfer::follow);
        case.world.sleep(30);
        assert_eq!(case.unfinished(), 0);
        match arrives {
            true => {
                case.check(ALICE, 2..3);
                case.check(far, 0..2);
            }
            false => {
                case.check(ALICE, 0..3);
                assert!(case.messages(far).is_empty());
            }
        }
    }
}
