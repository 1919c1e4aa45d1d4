//! The index of shares: it follows the access lists by the same entries, through restarts, crashes
//! and failed writes; it is bounded, and shared by partitions.

use std::sync::Arc;

use super::*;
use crate::{
    model::{AccessList, Asker, GRANTEES_OCTETS_MAX, Grantee, Identifier, Rights, Subject},
    plant::{self, Plant},
    runtime::device::memory::CrashMode,
};

const INBOX: MailboxId = MailboxId::INBOX;
/// The partition of the tests.
const HERE: PartitionId = PartitionId(3);

fn subject(text: &str) -> Subject {
    let (text, account) = match text.split_once('#') {
        Some((text, account)) => (text, Some(AccountId(account.parse().unwrap()))),
        None => (text, None),
    };
    let Subject { negative, identifier } = Subject::parse(text).unwrap();
    Subject { negative, identifier: identifier.numbered(account) }
}

async fn set(account: &Account, mailbox: MailboxId, who: &str, rights: &str) {
    try_set(account, mailbox, who, rights).await.unwrap();
}

async fn try_set(
    account: &Account,
    mailbox: MailboxId,
    who: &str,
    rights: &str,
) -> Result<(), StoreError> {
    let rights = Rights::parse(rights.as_bytes()).unwrap();
    account.change_access_list(mailbox, |list| Ok(list.set(subject(who), rights)?)).await
}

fn asker<'a>(account: u64, name: &'a str, groups: &'a [String]) -> Asker<'a> {
    let account = Some(AccountId(account)).filter(|account| account.0 > 0);
    Asker { is_owner: false, account, name, groups, is_logged_in: account.is_some() }
}

/// A process's own index, as after a restart.
fn anew(options: &StoreOptions) -> StoreOptions {
    StoreOptions { shares: Arc::new(Shares::new(4)), ..options.clone() }
}

/// The index in memory as text, e.g. `anyone 11 12, #7 11`.
fn index(options: &StoreOptions) -> String {
    let all = options.shares.all(HERE).into_iter().map(|(grantee, owners)| {
        let grantee = match grantee {
            Grantee::Anyone => "anyone".to_owned(),
            Grantee::AuthUser => "authuser".to_owned(),
            Grantee::Group(name) => format!("${name}"),
            Grantee::Name(name) => name.to_string(),
            Grantee::Account(account) => format!("#{account}"),
        };
        owners.iter().fold(grantee, |text, owner| format!("{text} {owner}"))
    });
    all.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_index_follows_the_lists() {
    run(async |world: Rc<World>| {
        let options = anew(&world.options);
        let partition = world.open_with(options.clone()).await;
        let alice = partition.account(ALICE).await.unwrap();
        let bob = partition.account(BOB).await.unwrap();
        let check = |expected| assert_eq!(index(&options), expected);
        check("");
        set(&alice, INBOX, "carol#7", "lr").await;
        check("#7 11");
        let entries = partition.probe().entries;
        set(&alice, INBOX, "dave", "l").await;
        assert_eq!(partition.probe().entries, entries + 1, "one entry for the list and the index");
        // Who is negative, the owner, or himself has nothing; who has no rights neither.
        set(&alice, INBOX, "-authuser", "l").await;
        set(&alice, INBOX, "owner", "l").await;
        set(&alice, INBOX, "alice#11", "l").await;
        set(&alice, INBOX, "eve", "").await;
        set(&bob, INBOX, "anyone", "l").await;
        set(&bob, INBOX, "$staff", "l").await;
        check("anyone 12, $staff 12, dave 11, #7 11");
        let entries = partition.probe().entries;
        set(&alice, INBOX, "dave", "lr").await;
        set(&alice, INBOX, "dave", "lr").await;
        assert_eq!(partition.probe().entries, entries + 1, "a change of rights, and none");

        // Another mailbox that names the same, and a child that inherits it.
        let folder = alice.create_mailbox("folder", None).await.unwrap();
        set(&alice, folder, "dave", "l").await;
        set(&alice, folder, "anyone", "l").await;
        alice.create_mailbox("folder/child", None).await.unwrap();
        alice.rename_mailbox("folder/child", "child").await.unwrap();
        set(&alice, INBOX, "dave", "").await;
        set(&alice, folder, "anyone", "").await;
        check("anyone 11 12, $staff 12, dave 11, #7 11");
        // A deleted mailbox is forgotten by the next change of a list.
        alice.delete_mailbox("folder").await.unwrap();
        alice.delete_mailbox("child").await.unwrap();
        check("anyone 11 12, $staff 12, dave 11, #7 11");
        set(&alice, INBOX, "frank", "l").await;
        check("anyone 12, $staff 12, frank 11, #7 11");

        // By replay, by a page, and by a page without a replay.
        let check_again = async || {
            let options = anew(&options);
            world.open_with(options.clone()).await;
            assert_eq!(index(&options), "anyone 12, $staff 12, frank 11, #7 11");
        };
        check_again().await;
        partition.checkpoint().await.unwrap();
        check_again().await;
        drop((alice, bob));
        partition.close().await.unwrap();
        check_again().await;

        let options = anew(&options);
        let partition = world.open_with(options.clone()).await;
        let bob = partition.account(BOB).await.unwrap();
        bob.change_access_lists(|_, list| *list = AccessList::default()).await.unwrap();
        assert_eq!(index(&options), "frank 11, #7 11");
        let alice = partition.account(ALICE).await.unwrap();
        let without_carol = |_: MailboxId, list: &mut AccessList| {
            let is_gone = |it: &Identifier| match it {
                Identifier::User { account, .. } => *account == Some(AccountId(7)),
                _ => false,
            };
            assert_eq!(list.renew(is_gone, |_| None).len(), 1);
        };
        alice.change_access_lists(without_carol).await.unwrap();
        set(&alice, INBOX, "frank", "").await;
        assert_eq!(index(&options), "");
        let report = partition.verify(&|_| {}).await.unwrap();
        assert_eq!(report.findings.len(), 0, "{:?}", report.findings);
    });
}

#[test]
fn askers_find_owners() {
    run(async |world: Rc<World>| {
        let shares = Arc::new(Shares::new(4));
        // Each account in its partition.
        let mut partitions = Vec::new();
        for number in 0..4 {
            let partition = PartitionId(number);
            let options = StoreOptions { partition, shares: shares.clone(), ..options() };
            let device = Rc::new(MemoryDevice::new());
            let executor = Rc::new(world.simulation.clone());
            partitions.push(Partition::open(device, executor, options).await.unwrap().0);
        }
        let lists: &[(u64, &[&str])] = &[
            (1, &["bob#2"]),
            (2, &["anyone"]),
            (3, &["authuser", "-bob#2"]),
            (4, &["bob"]),
            (5, &["$staff"]),
            (6, &["bob#9", "carol"]),
            (u64::MAX - 2, &["bob#2", "$staff"]),
        ];
        for (owner, names) in lists {
            let owner = AccountId(*owner);
            let partition = &partitions[usize::from(owner.partition(4).0)];
            let account = partition.account(owner).await.unwrap();
            for name in *names {
                set(&account, INBOX, name, "lr").await;
            }
        }
        let staff = ["staff".to_owned()];
        let public = AccountId::PUBLIC.0;
        // (number, name, groups, owners)
        let cases: &[(u64, &str, &[String], &[u64])] = &[
            (2, "bob", &[], &[1, 3, 4, public]),
            // He has another name now, or never had one in a list.
            (2, "robert", &staff, &[1, 3, 5, public]),
            // His name is another's now.
            (8, "bob", &[], &[2, 3, 4]),
            (9, "bob", &staff, &[2, 3, 4, 5, 6, public]),
            (3, "carol", &[], &[2, 6]),
            (0, "", &[], &[2]),
            (0, "bob", &staff, &[2, 5, public]),
        ];
        for (account, name, groups, expected) in cases {
            let asker = asker(*account, name, groups);
            let expected: Vec<AccountId> = expected.iter().map(|id| AccountId(*id)).collect();
            assert_eq!(shares.owners(&asker), expected, "{account} {name}");
            for (owner, _) in lists {
                let owner = AccountId(*owner);
                assert_eq!(shares.has(owner, &asker), expected.contains(&owner), "{owner} {name}");
            }
        }
        assert!(!Shares::default().has(ALICE, &asker(2, "bob", &[])));
    });
}

/// Changes of two accounts and of one account's mailboxes, decided before any is durable.
#[test]
fn changes_at_once_are_all_indexed() {
    run(async |world: Rc<World>| {
        let options = anew(&world.options);
        let partition = world.open_with(options.clone()).await;
        let alice = partition.account(ALICE).await.unwrap();
        let bob = partition.account(BOB).await.unwrap();
        let folder = alice.create_mailbox("folder", None).await.unwrap();
        let changes = [
            (&alice, INBOX, "carol", "l"),
            (&bob, INBOX, "carol", "l"),
            (&alice, folder, "carol", "l"),
            (&alice, INBOX, "carol", ""),
            (&alice, folder, "dave", "l"),
        ];
        let mut changes: Vec<_> =
            changes.map(|(of, at, who, rights)| Box::pin(set(of, at, who, rights))).into();
        for change in &mut changes {
            std::future::poll_fn(|context| {
                assert!(change.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        assert_eq!(index(&options), "", "nothing is durable yet");
        for change in changes {
            change.await;
        }
        assert_eq!(index(&options), "carol 11 12, dave 11");
    });
}

#[test]
fn the_index_is_bounded() {
    run(async |world: Rc<World>| {
        let share_limits = PropertyLimits { number: 1, octets: 1 << 20 };
        let options = StoreOptions { share_limits, ..anew(&world.options) };
        let partition = world.open_with(options.clone()).await;
        let alice = partition.account(ALICE).await.unwrap();
        let long = |number: usize| format!("{number:04}{}", "x".repeat(300));
        let mut refused = None;
        for number in 0..100 {
            let folder = alice.create_mailbox(&format!("f{number}"), None).await.unwrap();
            let entries = partition.probe().entries;
            if let Err(error) = try_set(&alice, folder, &long(number), "l").await {
                assert_eq!(partition.probe().entries, entries, "nothing was written");
                alice.with_access_list(folder, |list| assert_eq!(list, None));
                refused = Some((number, error));
                break;
            }
        }
        let what = "identifiers in the access lists of an account";
        let Some((number, StoreError::Limit(it))) = refused else { panic!("{refused:?}") };
        assert_eq!((number, it), (GRANTEES_OCTETS_MAX / 307, what));
        // The same ones take no more room, and fewer are always taken.
        set(&alice, INBOX, &long(1), "l").await;
        set(&alice, INBOX, &long(1), "").await;

        let bob = partition.account(BOB).await.unwrap();
        let entries = partition.probe().entries;
        let refused = try_set(&bob, INBOX, "carol", "l").await;
        let what = "accounts that share mailboxes";
        assert!(matches!(refused, Err(StoreError::Limit(it)) if it == what), "{refused:?}");
        assert_eq!(partition.probe().entries, entries);
        // What names nobody else takes no room.
        set(&bob, INBOX, "owner", "lr").await;
        set(&bob, INBOX, "-carol", "lr").await;
    });
}

/// A list of a later version may name anybody: what the index has of its account stays.
#[test]
fn a_list_that_cannot_be_read_keeps_its_grantees() {
    run(async |world: Rc<World>| {
        let options = anew(&world.options);
        let partition = world.open_with(options.clone()).await;
        let alice = partition.account(ALICE).await.unwrap();
        let folder = alice.create_mailbox("folder", None).await.unwrap();
        set(&alice, folder, "bob", "l").await;
        let key: PropertyKey = (PropertyKind::Acl, folder, Vec::new());
        alice.set_properties([(key, Some(vec![0xff]))]).await.unwrap();
        set(&alice, INBOX, "carol", "l").await;
        assert_eq!(index(&options), "bob 11, carol 11");
        alice.delete_mailbox("folder").await.unwrap();
        set(&alice, INBOX, "dave", "l").await;
        assert_eq!(index(&options), "carol 11, dave 11");
    });
}

/// Lists that an earlier version wrote have no place in the index until a list of the account is
/// set, even to the same.
#[test]
fn a_log_without_the_index_gets_it_with_the_next_change() {
    run(async |world: Rc<World>| {
        let options = anew(&world.options);
        let partition = world.open_with(options.clone()).await;
        let alice = partition.account(ALICE).await.unwrap();
        let mut list = AccessList::default();
        list.set(subject("bob"), Rights::ALL).unwrap();
        let key = (PropertyKind::Acl, INBOX, Vec::new());
        let effect = crate::store::format::effect::Effect::Property {
            account: ALICE,
            key,
            value: Some(list.encode()),
        };
        let lsn = alice.commits.commit_one(Some(&alice.cell), effect, None).unwrap();
        alice.commits.acknowledged(lsn).await.unwrap();
        assert_eq!(index(&options), "");
        set(&alice, INBOX, "bob", "lrswipkxtea").await;
        assert_eq!(index(&options), "bob 11");
    });
}

/// Every append and every sync fails in turn: what was refused is in neither, what was answered is
/// in both, before and after a restart.
#[test]
fn a_failed_write_parts_nothing() {
    for nth in 0..12 {
        run(async |world: Rc<World>| {
            let options = anew(&world.options);
            let partition = world.open_with(options.clone()).await;
            let alice = partition.account(ALICE).await.unwrap();
            set(&alice, INBOX, "always", "l").await;
            let (appends, syncs) = world.device.operations();
            let faults = match nth % 2 {
                0 => Faults { failed_appends: vec![appends + nth / 2], ..Faults::default() },
                _ => Faults { failed_syncs: vec![syncs + nth / 2], ..Faults::default() },
            };
            world.device.inject(faults);
            let mut failed = 0;
            for number in 0..8 {
                failed +=
                    u32::from(try_set(&alice, INBOX, &format!("u{number}"), "l").await.is_err());
                while partition.trouble().is_some() {
                    world.simulation.sleep(Duration::from_secs(1)).await;
                }
            }
            assert!(failed > 0, "{nth}");
            let listed = alice.with_access_list(INBOX, |list| {
                let list = AccessList::decode(list.unwrap()).unwrap();
                let names = list.entries().map(|(subject, _)| format!("{subject} 11"));
                let mut names: Vec<String> = names.collect();
                names.sort();
                names.join(", ")
            });
            assert_eq!(index(&options), listed, "{nth}");
            let again = anew(&options);
            world.open_with(again.clone()).await;
            assert_eq!(index(&again), listed, "{nth}, restarted");
        });
    }
}

/// Whom a list names and the index does not find, at the first crash of a little work after which
/// there is somebody.
fn forgotten_in_a_crash() -> Option<String> {
    let world = Rc::new(World::new(1));
    let trace = world.device.trace();
    let simulation = world.simulation.clone();
    let work = world.clone();
    simulation.run_until(async move {
        let partition = work.open_with(anew(&work.options)).await;
        let alice = partition.account(ALICE).await.unwrap();
        let folder = alice.create_mailbox("folder", None).await.unwrap();
        for number in 0..7 {
            let at = if number % 2 == 0 { INBOX } else { folder };
            set(&alice, at, &format!("u{number}"), "l").await;
            match number {
                3 => partition.checkpoint().await.unwrap(),
                5 => set(&alice, at, "u3", "").await,
                _ => {}
            }
        }
        alice.delete_mailbox("folder").await.unwrap();
        partition.close().await.unwrap();
    });
    let trace = trace.borrow().clone();
    for step in 0..=trace.len() {
        for mode in CrashMode::ALL {
            let image = World { device: trace.image(step, mode, step as u64), ..World::new(2) };
            let options = anew(&image.options);
            let simulation = image.simulation.clone();
            let forgotten = simulation.run_until(async {
                let partition = image.open_with(options.clone()).await;
                let alice = partition.account(ALICE).await.unwrap();
                let mut forgotten = Vec::new();
                for info in alice.mailboxes() {
                    alice.with_access_list(info.id, |list| {
                        let list = list.map(|list| AccessList::decode(list).unwrap());
                        for (subject, _) in list.unwrap_or_default().entries() {
                            let name = subject.to_string();
                            if !options.shares.has(ALICE, &asker(99, &name, &[])) {
                                forgotten.push(name);
                            }
                        }
                    });
                }
                forgotten
            });
            if !forgotten.is_empty() {
                return Some(format!("step {step} of {}, {mode:?}: {forgotten:?}", trace.len()));
            }
        }
    }
    None
}

#[test]
fn a_crash_parts_nothing() {
    assert_eq!(forgotten_in_a_crash(), None);
}

#[test]
fn planted_bugs_of_the_index_are_caught() {
    for plant in [Plant::ForgetShares, Plant::SharesApart] {
        plant::plant(Some(plant));
        let caught = forgotten_in_a_crash();
        plant::plant(None);
        assert!(caught.is_some(), "{plant:?}");
    }
}
