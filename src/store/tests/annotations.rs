//! Annotations are set with a message or later, survive through replay and pages, are removed with
//! their message, and are restored from the log after damage as far as possible.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::store::log::{EntryKind, dissect, epoch_of_name};

const INBOX: MailboxId = MailboxId::INBOX;

type Model = BTreeMap<u32, BTreeMap<u32, Vec<u8>>>;

async fn deliver_with(partition: &Partition, values: &[(u32, &str)]) -> Uid {
    let annotations =
        values.iter().map(|(number, text)| (*number, Bytes::copy_from_slice(text.as_bytes())));
    let target = DeliveryTarget { annotations: annotations.collect(), ..target(ALICE) };
    let body = staged(partition, b"x").await;
    partition.deliver(body, vec![target, super::target(BOB)], None).await.unwrap()[0].uid
}

fn set(number: u32, text: &str) -> (u32, Option<Bytes>) {
    (number, Some(Bytes::copy_from_slice(text.as_bytes())))
}

/// All values of a mailbox, read in pieces.
async fn values(account: &Account, mailbox: MailboxId) -> Model {
    let mut found = Model::new();
    let last = account.status(mailbox).await.unwrap().uid_next.0;
    for first in (0..=last).step_by(50) {
        let piece = account.annotations(mailbox, Uid(first)..=Uid(first + 49)).await.unwrap();
        for (uid, values) in piece {
            let values = values.into_iter().map(|(number, value)| (number, value.to_vec()));
            found.insert(uid.0, values.collect());
        }
    }
    found
}

fn runs_of(account: &Account) -> Vec<u32> {
    let state = account.cell.state.borrow();
    let annotations = state.mailboxes[&INBOX].annotations.as_ref();
    annotations.map_or(Vec::new(), |it| it.runs().iter().map(|run| run.rows).collect())
}

#[test]
fn they_come_with_a_message_change_and_go_with_it() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let first = deliver_with(&partition, &[(0, "envelope"), (1, "to do"), (2, "to do")]).await;
        let second = deliver_with(&partition, &[(0, "another")]).await;
        let bare = deliver(&partition, ALICE, b"none").await.uid;
        let account = partition.account(ALICE).await.unwrap();
        assert!(account.annotate(INBOX, first, vec![set(1, "done"), (2, None)]).await.unwrap());
        assert!(account.annotate(INBOX, bare, vec![set(7, "late")]).await.unwrap());
        assert!(!account.annotate(INBOX, Uid(99), vec![set(7, "nobody")]).await.unwrap());
        let long = Bytes::from(vec![0; ANNOTATION_OCTETS_MAX + 1]);
        for refused in [(0, Some(long)), set(ANNOTATIONS_MAX, "x")] {
            let refused = account.annotate(INBOX, first, vec![refused]).await;
            assert!(matches!(refused, Err(StoreError::Limit(_))), "{refused:?}");
        }
        let folder = account.create_mailbox("folder", None).await.unwrap();
        let all: Vec<Message> = snapshot(&account, INBOX).await.iter_from(0).copied().collect();
        account.copy(INBOX, &all, folder).await.unwrap();

        let value = |number, text: &str| (number, text.as_bytes().to_vec());
        let mut expected: Model = [
            (first.0, [value(0, "envelope"), value(1, "done")].into()),
            (second.0, [value(0, "another")].into()),
            (bare.0, [value(7, "late")].into()),
        ]
        .into();
        let check = async |partition: &Partition, expected: &Model| {
            let account = partition.account(ALICE).await.unwrap();
            assert_eq!(values(&account, INBOX).await, *expected);
            assert_eq!(values(&account, folder).await, Model::new(), "a copy has none");
            let bob = partition.account(BOB).await.unwrap();
            assert_eq!(values(&bob, INBOX).await, Model::new(), "the other recipient has none");
        };
        check(&partition, &expected).await;
        check(&world.open().await, &expected).await;
        partition.checkpoint().await.unwrap();
        check(&partition, &expected).await;
        check(&world.open().await, &expected).await;
        // One is removed with its message, one by itself; the other is changed over a run.
        account.remove(INBOX, &[second]).await.unwrap();
        account.annotate(INBOX, bare, vec![(7, None)]).await.unwrap();
        account.annotate(INBOX, first, vec![set(2, "again")]).await.unwrap();
        expected.remove(&second.0);
        expected.remove(&bare.0);
        expected.get_mut(&first.0).unwrap().extend([value(2, "again")]);
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        check(&partition, &expected).await;
        partition.checkpoint().await.unwrap();
        check(&partition, &expected).await;
        assert_eq!(partition.verify(&|_| {}).await.unwrap().findings_total, 0);
        account.remove(INBOX, &[first, bare]).await.unwrap();
        drop(account);
        partition.close().await.unwrap();
        check(&world.open().await, &Model::new()).await;
    });
}

/// Many changes of the same values, and messages that are added and expunged: the runs stay few and
/// short.
#[test]
fn what_says_nothing_any_more_is_written_out() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        for round in 0..40u32 {
            for n in 0..120 {
                deliver_with(&partition, &[(0, "envelope of some length"), (1, "to do")]).await;
                let uid = Uid(round * 120 + n + 1);
                account.annotate(INBOX, uid, vec![set(1, "tried once")]).await.unwrap();
            }
            partition.checkpoint().await.unwrap();
            let kept = if round % 2 == 0 { 120 } else { 20 };
            let gone: Vec<Uid> = (kept..120).map(|n| Uid(round * 120 + n + 1)).collect();
            account.remove(INBOX, &gone).await.unwrap();
            for n in 0..20 {
                let uid = Uid(round * 120 + n + 1);
                let tried = format!("tried {round} times");
                account.annotate(INBOX, uid, vec![set(1, &tried)]).await.unwrap();
            }
        }
        partition.checkpoint().await.unwrap();
        let runs = runs_of(&account);
        let messages = 20 * 140;
        assert_eq!(values(&account, INBOX).await.len(), messages);
        assert!(runs.len() < 10, "{runs:?}");
        assert!(runs.iter().sum::<u32>() as usize <= 2 * messages * 3 / 2 + 1200, "{runs:?}");
        // All of them are expunged, and so are their rows.
        let all: Vec<Uid> = snapshot(&account, INBOX).await.iter_from(0).map(|it| it.uid).collect();
        account.remove(INBOX, &all).await.unwrap();
        partition.checkpoint().await.unwrap();
        assert_eq!(runs_of(&account).iter().sum::<u32>(), 0);
        let segments = partition.compact().await.unwrap().segments_deleted;
        assert!(segments > 0);
    });
}

/// A run rots. Entries since the last compaction are restored; the rest of the run is lost, and the
/// damage is reported.
#[test]
fn of_a_damaged_run_comes_back_what_the_log_has() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        for n in 0..30u32 {
            deliver_with(&partition, &[(0, &format!("envelope {n}")), (1, "to do")]).await;
        }
        partition.checkpoint().await.unwrap();
        for n in 5..20u32 {
            account.annotate(INBOX, Uid(n), vec![set(1, "done"), (0, None)]).await.unwrap();
        }
        account.remove(INBOX, &[Uid(7)]).await.unwrap();
        partition.checkpoint().await.unwrap();
        account.annotate(INBOX, Uid(9), vec![set(1, "newest")]).await.unwrap();
        let expected = values(&account, INBOX).await;
        assert_eq!(expected.len(), 29);
        drop(account);
        partition.close().await.unwrap();
        drop(partition);
        let mut broken = 0;
        for name in world.device.names() {
            let Some(epoch) = epoch_of_name(&name) else { continue };
            let content = world.device.content(&name).unwrap();
            let found = dissect(&content, world.options.partition, epoch, Lsn(0));
            for entry in found.map_or(Vec::new(), |found| found.entries) {
                if entry.header.is_some_and(|it| it.kind == EntryKind::AnnotationRun) {
                    let at = entry.offset as usize + 60;
                    world.device.corrupt(&name, |bytes| bytes[at] ^= 4);
                    broken += 1;
                }
            }
        }
        assert!(broken > 0);
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        assert_eq!(values(&account, INBOX).await, expected);
        assert!(partition.damage_news().iter().any(|it| it.place.account == Some(ALICE)));
        partition.checkpoint().await.unwrap();
        assert_eq!(values(&account, INBOX).await, expected);
        drop(account);
        partition.close().await.unwrap();
        let account = world.open().await.account(ALICE).await.unwrap();
        assert_eq!(values(&account, INBOX).await, expected);
    });
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(Vec<(u32, u8)>),
    Annotate { which: u32, changes: Vec<(u32, Option<u8>)> },
    Remove(u32),
    Checkpoint,
    Compact,
    Restart { clean: bool },
}

fn any_step() -> impl Strategy<Value = Step> {
    let number = 0u32..4;
    prop_oneof![
        6 => prop::collection::vec((number.clone(), any::<u8>()), 0..3).prop_map(Step::Deliver),
        8 => (any::<u32>(), prop::collection::vec((number, any::<Option<u8>>()), 1..4))
            .prop_map(|(which, changes)| Step::Annotate { which, changes }),
        4 => any::<u32>().prop_map(Step::Remove),
        3 => Just(Step::Checkpoint),
        1 => Just(Step::Compact),
        1 => any::<bool>().prop_map(|clean| Step::Restart { clean }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn they_are_as_a_map_says(steps in prop::collection::vec(any_step(), 1..80)) {
        run(async move |world: Rc<World>| {
            let mut partition = world.open().await;
            let (mut model, mut uids) = (Model::new(), Vec::new());
            let text = |value: u8| vec![value; usize::from(value) * 3];
            for step in steps {
                let account = partition.account(ALICE).await.unwrap();
                let chosen = |uids: &[u32], which: u32| match uids {
                    [] => None,
                    uids => Some(uids[which as usize % uids.len()]),
                };
                match step {
                    Step::Deliver(values) => {
                        let annotations = values.iter()
                            .map(|(number, value)| (*number, Bytes::from(text(*value)))).collect();
                        let target = DeliveryTarget { annotations, ..target(ALICE) };
                        let body = staged(&partition, b"x").await;
                        let placed = partition.deliver(body, vec![target], None).await.unwrap();
                        let uid = placed[0].uid.0;
                        uids.push(uid);
                        for (number, value) in values {
                            model.entry(uid).or_default().insert(number, text(value));
                        }
                    }
                    Step::Annotate { which, changes } => {
                        let Some(uid) = chosen(&uids, which) else { continue };
                        let values = changes.iter()
                            .map(|(number, value)| (*number, value.map(|it| Bytes::from(text(it)))))
                            .collect();
                        assert!(account.annotate(INBOX, Uid(uid), values).await.unwrap());
                        for (number, value) in changes {
                            let values = model.entry(uid).or_default();
                            match value {
                                Some(value) => drop(values.insert(number, text(value))),
                                None => drop(values.remove(&number)),
                            }
                        }
                    }
                    Step::Remove(which) => {
                        let Some(uid) = chosen(&uids, which) else { continue };
                        account.remove(INBOX, &[Uid(uid)]).await.unwrap();
                        uids.retain(|other| *other != uid);
                        model.remove(&uid);
                    }
                    Step::Checkpoint => partition.checkpoint().await.unwrap(),
                    Step::Compact => drop(partition.compact().await.unwrap()),
                    Step::Restart { clean } => {
                        drop(account);
                        if clean {
                            partition.close().await.unwrap();
                        }
                        drop(partition);
                        world.simulation.kill_tasks();
                        partition = world.open().await;
                    }
                }
                model.retain(|_, values| !values.is_empty());
                let account = partition.account(ALICE).await.unwrap();
                assert_eq!(values(&account, INBOX).await, model);
            }
        });
    }
}

/// Corrupts an octet of the first annotation run in the log.
fn damage_first_run(world: &World) {
    let mut runs = Vec::new();
    for name in world.device.names() {
        let Some(epoch) = epoch_of_name(&name) else { continue };
        let content = world.device.content(&name).unwrap();
        let found = dissect(&content, world.options.partition, epoch, Lsn(0));
        for entry in found.map_or(Vec::new(), |found| found.entries) {
            if entry.header.is_some_and(|it| it.kind == EntryKind::AnnotationRun) {
                runs.push((entry.lsn, name.clone(), entry.offset as usize + 60));
            }
        }
    }
    let (_, name, at) = runs.into_iter().min().unwrap();
    world.device.corrupt(&name, |bytes| bytes[at] ^= 4);
}

/// Annotated messages, in a run; their one segment takes a while to read.
async fn partition_with_a_run(world: &World) -> Partition {
    let options = StoreOptions { segment_size: 64 << 20, ..world.options.clone() };
    let partition = world.open_with(options).await;
    for n in 0..30u32 {
        deliver_with(&partition, &[(0, &format!("envelope {n}")), (1, "to do")]).await;
        deliver(&partition, BOB, &bytes(n.into(), 100_000)).await;
    }
    partition.checkpoint().await.unwrap();
    partition
}

/// While a damaged run is salvaged from the log, a value changes and is written to a newer run:
/// older values in the log do not override it.
#[test]
fn what_changes_while_a_run_is_salvaged_stays() {
    for pause in 0..30 {
        run(async |world: Rc<World>| {
            let partition = partition_with_a_run(&world).await;
            damage_first_run(&world);
            let account = partition.account(ALICE).await.unwrap();
            let changed = async {
                for _ in 0..pause {
                    world.simulation.yield_now().await;
                }
                account.annotate(INBOX, Uid(9), vec![set(1, "newest")]).await.unwrap();
                partition.checkpoint().await.unwrap();
            };
            futures_lite::future::zip(values(&account, INBOX), changed).await;
            let found = values(&account, INBOX).await;
            assert_eq!(found[&9][&1], b"newest", "after {pause}");
        });
    }
}

/// A newer run is unreadable for a moment while a damaged one is salvaged: it is not given up.
#[test]
fn what_cannot_be_read_for_a_moment_is_not_given_up() {
    let mut met = 0;
    for pause in 0..30 {
        run(async |world: Rc<World>| {
            let partition = partition_with_a_run(&world).await;
            let account = partition.account(ALICE).await.unwrap();
            account.annotate(INBOX, Uid(9), vec![set(1, "done")]).await.unwrap();
            partition.checkpoint().await.unwrap();
            assert_eq!(runs_of(&account).len(), 2);
            damage_first_run(&world);
            let fails = async {
                for _ in 0..pause {
                    world.simulation.yield_now().await;
                }
                world.device.inject(Faults { unreadable: true, ..Faults::default() });
            };
            let read = account.annotations(INBOX, Uid(9)..=Uid(9));
            met += u32::from(futures_lite::future::zip(read, fails).await.0.is_err());
            world.device.inject(Faults::default());
            assert_eq!(values(&account, INBOX).await[&9][&1], b"done", "after {pause}");
            // One run, with its own row and those of the damaged run.
            let state = account.cell.state.borrow();
            let runs = state.mailboxes[&INBOX].annotations.as_ref().unwrap().runs().len();
            assert!(runs == 1, "after {pause}: {runs}");
        });
    }
    assert!(met > 0);
}

/// Rows compress well, but a checkpoint does not join all of them: that would block the shard.
#[test]
fn what_is_joined_at_once_is_bounded() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let mut expected = Model::new();
        for round in 0..15u32 {
            for _ in 0..20 {
                let values: Vec<(u32, Bytes)> = (0..100)
                    .map(|n: u32| (n, Bytes::copy_from_slice(&[round as u8, n as u8, 0, 0, 0, 0])))
                    .collect();
                let target = DeliveryTarget { annotations: values.clone(), ..target(ALICE) };
                let body = staged(&partition, b"x").await;
                let uid = partition.deliver(body, vec![target], None).await.unwrap()[0].uid;
                let values = values.into_iter().map(|(number, value)| (number, value.to_vec()));
                expected.insert(uid.0, values.collect());
            }
            partition.checkpoint().await.unwrap();
        }
        let account = partition.account(ALICE).await.unwrap();
        let runs = runs_of(&account);
        assert_eq!(runs.iter().sum::<u32>(), 30_000);
        assert!(runs.iter().all(|rows| *rows <= 8 * 1024) && runs.len() < 10, "{runs:?}");
        assert_eq!(values(&account, INBOX).await, expected);
    });
}
