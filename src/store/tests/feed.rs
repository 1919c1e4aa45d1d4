//! The change feed: a subscriber has the exact state, across crashes, missed changes and a failing
//! log; and planted mistakes are found.

use std::collections::BTreeMap;

use super::*;
use crate::{
    model::{AccessList, Rights, Subject},
    plant::{Plant, plant},
    runtime::{device::memory::Faults, simulation::split_mix},
    store::{AccessListThen, AccountChange, FeedEvent, MessageChange, Subscription},
};

/// Known messages: their mod-sequences by UID, for each mailbox.
type Mirror = BTreeMap<(AccountId, u32), BTreeMap<u32, u64>>;

const ACCOUNTS: [AccountId; 4] = [ALICE, BOB, AccountId(30), AccountId(31)];

/// Follows a partition as an index would: it reads only accounts that it is told of.
struct Follower {
    subscription: Subscription,
    mirror: Mirror,
    /// The last reported entry, and the number of its changes.
    last: (Lsn, usize),
    told: usize,
    missed: usize,
}

impl Follower {
    async fn begin(
        partition: &Partition,
        capacity: usize,
        resume: Option<(Mirror, Lsn)>,
    ) -> Follower {
        let subscription = partition.subscribe(capacity);
        let (mirror, from) = resume.unwrap_or_default();
        let mut follower = Follower { subscription, mirror, last: (Lsn(0), 0), told: 0, missed: 0 };
        for account in partition.changed_since(from) {
            follower.look(partition, account).await;
        }
        follower
    }

    /// Reads the account's present state.
    async fn look(&mut self, partition: &Partition, id: AccountId) {
        let account = partition.account(id).await.unwrap();
        self.mirror.retain(|(of, _), _| *of != id);
        for info in account.mailboxes() {
            let messages = snapshot(&account, info.id).await;
            let messages = messages.iter_from(0).map(|it| (it.uid.0, it.mod_seq.0)).collect();
            self.mirror.insert((id, info.id.0), messages);
        }
    }

    /// Follows until the queue is empty. Returns an error for changes reported twice, early or out
    /// of order.
    async fn follow(&mut self, partition: &Partition) -> Result<(), String> {
        while let Some(event) = self.subscription.try_next() {
            match event {
                FeedEvent::Change(change) => {
                    if change.lsn < self.last.0 {
                        return Err(format!("{:?} after {:?}", change.lsn, self.last.0));
                    }
                    if change.lsn >= partition.rooms.log.durable_lsn() {
                        return Err(format!("{:?} is not durable", change.lsn));
                    }
                    let again = change.lsn == self.last.0;
                    self.last = (change.lsn, if again { self.last.1 + 1 } else { 1 });
                    self.told += 1;
                    self.look(partition, change.account).await;
                }
                FeedEvent::Missed { from } => {
                    self.missed += 1;
                    for account in partition.changed_since(from) {
                        self.look(partition, account).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks that its state is exactly the partition's.
    async fn check(&self, partition: &Partition) -> Result<(), String> {
        for id in ACCOUNTS {
            let account = partition.account(id).await.unwrap();
            for info in account.mailboxes() {
                let messages = snapshot(&account, info.id).await;
                let there: BTreeMap<u32, u64> =
                    messages.iter_from(0).map(|it| (it.uid.0, it.mod_seq.0)).collect();
                let known = self.mirror.get(&(id, info.id.0));
                if known.is_none_or(|known| *known != there) && !there.is_empty() {
                    return Err(format!("{id:?} {}: {known:?}, not {there:?}", info.name));
                }
            }
        }
        Ok(())
    }
}

/// Makes some random changes; failed ones have no effect. Returns how many effects were published.
async fn change(partition: &Partition, seed: &mut u64) -> usize {
    let mut pick = |below: u64| {
        *seed = split_mix(*seed);
        *seed % below
    };
    let id = ACCOUNTS[pick(4) as usize];
    let Ok(account) = partition.account(id).await else { return 0 };
    let uids: Vec<Uid> = {
        let Ok(view) = account.select(MailboxId::INBOX, false).await else { return 0 };
        view.current().unwrap().iter_from(0).map(|it| it.uid).collect()
    };
    let some = |pick: &mut dyn FnMut(u64) -> u64| -> Vec<Uid> {
        uids.iter().copied().filter(|_| pick(3) == 0).collect()
    };
    let done = match pick(8) {
        0..=3 => {
            let mut writer = partition.stage();
            let _ = writer.write(b"a message").await;
            let Ok(body) = writer.finish(Vec::new()).await else { return 0 };
            let targets = [id, ACCOUNTS[pick(4) as usize]].map(target);
            let count = if targets[0].account == targets[1].account { 1 } else { 2 };
            let targets = targets.into_iter().take(count).collect();
            partition.deliver(body, targets, None).await.map(|_| count)
        }
        4 | 5 => {
            let flags = FlagChange::replace(Flags(pick(32) as u8), Vec::new());
            let some = some(&mut pick);
            account.store_flags(MailboxId::INBOX, &some, flags, None).await.map(|_| 1)
        }
        6 => {
            let some = some(&mut pick);
            account.remove(MailboxId::INBOX, &some).await.map(|_| 1)
        }
        _ => partition.checkpoint().await.map(|_| 0),
    };
    done.unwrap_or(0)
}

/// Lives with crashes; `Err` if the follower's state becomes wrong, or it finds an error.
fn lives(seed: u64, capacity: usize) -> Result<(usize, usize), String> {
    let world = Rc::new(World::new(seed));
    let simulation = world.simulation.clone();
    simulation.run_until(async {
        let mut seed = seed;
        let mut resume = None;
        let (mut told, mut missed) = (0, 0);
        for life in 0..4 {
            let partition = world.open().await;
            for id in ACCOUNTS {
                partition.account(id).await.unwrap();
            }
            let mut follower = Follower::begin(&partition, capacity, resume.take()).await;
            let resumed = follower.check(&partition).await;
            resumed.map_err(|error| format!("life {life}, resumed: {error}"))?;
            for step in 0..30 {
                // A change in progress while the follower reads.
                let (other, mut theirs) = (partition.clone(), seed ^ step);
                let task = async move {
                    change(&other, &mut theirs).await;
                };
                world.simulation.spawn(Priority::Foreground, Box::pin(task));
                world.simulation.yield_now().await;
                if step % 3 == 0 {
                    follower.follow(&partition).await?;
                }
                if step == 20 && life == 1 {
                    let (appends, _) = world.device.operations();
                    let failed_appends = vec![appends + 1];
                    world.device.inject(Faults { failed_appends, ..Faults::default() });
                }
                change(&partition, &mut seed).await;
            }
            world.simulation.sleep(std::time::Duration::from_secs(120)).await;
            follower.follow(&partition).await?;
            follower.check(&partition).await.map_err(|error| format!("life {life}: {error}"))?;
            (told, missed) = (told + follower.told, missed + follower.missed);
            // An earlier state, from which it resumes.
            resume = Some((follower.mirror.clone(), follower.subscription.seen()));
            for _ in 0..10 {
                change(&partition, &mut seed).await;
            }
            if life % 2 == 0 {
                let _ = partition.close().await;
            }
            drop((follower, partition));
            world.simulation.kill_tasks();
        }
        Ok((told, missed))
    })
}

#[test]
fn who_follows_knows_what_there_is() {
    let (mut told, mut missed) = (0, 0);
    for seed in 0..12 {
        for capacity in [1_000, 3] {
            let (more, lost) =
                lives(seed, capacity).unwrap_or_else(|error| panic!("{seed}: {error}"));
            (told, missed) = (told + more, missed + lost);
            assert!(capacity == 3 || lost == 0);
        }
    }
    assert!(told > 500 && missed > 20, "{told} told, {missed} times missed");
}

/// Each change once: counted against the changes made, by a subscriber that only counts.
#[test]
fn each_change_is_told_once() {
    let count = || {
        let mut outcome = (0, 0);
        run(async |world: Rc<World>| {
            let partition = world.open().await;
            for id in ACCOUNTS {
                partition.account(id).await.unwrap();
            }
            let subscription = partition.subscribe(100_000);
            for n in 0..40 {
                deliver(&partition, ACCOUNTS[n % 4], b"x").await;
            }
            let told = std::iter::from_fn(|| subscription.try_next()).count();
            let durable = partition.rooms.log.durable_lsn();
            assert!(durable.0 - 4096 <= subscription.seen().0 && subscription.seen() <= durable);
            outcome = (40, told);
        });
        outcome
    };
    let (done, told) = count();
    assert_eq!(told, done);
    for mistake in [Plant::FeedDrops, Plant::FeedTellsTwice] {
        plant(Some(mistake));
        let (done, told) = count();
        plant(None);
        assert_ne!(told, done, "{mistake:?}");
    }
}

#[test]
fn planted_mistakes_show() {
    for mistake in [Plant::FeedDrops, Plant::FeedTellsEarly, Plant::FeedForgetsPages] {
        plant(Some(mistake));
        let found = (0..40).any(|seed| lives(seed, 1_000).is_err());
        plant(None);
        assert!(found, "{mistake:?}");
    }
}

/// A watch on an account is woken by changes in any of its mailboxes, and of their names.
#[test]
fn an_account_is_watched_whole() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        let watch = account.watch();
        let is_quiet = || {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            Box::pin(watch.changed()).as_mut().poll(&mut context).is_pending()
        };
        assert!(is_quiet());
        let folder = account.create_mailbox("folder", None).await.unwrap();
        watch.changed().await;
        assert!(is_quiet());
        account.set_subscribed("folder", true).await.unwrap();
        watch.changed().await;
        let delivery = DeliveryTarget { mailbox: Some("folder".to_owned()), ..target(ALICE) };
        let body = staged(&partition, b"x").await;
        partition.deliver(body, vec![delivery], None).await.unwrap();
        watch.changed().await;
        deliver(&partition, BOB, b"x").await;
        assert!(is_quiet());
        account.remove(folder, &[Uid(1)]).await.unwrap();
        watch.changed().await;
        assert!(account.cell.state.borrow().live_mailbox(folder).is_some());
    });
}

/// Changes are noted only while somebody follows, who need not be there when they happen.
#[test]
fn changes_are_noted_while_somebody_follows() {
    run(async |world: Rc<World>| {
        let partition = world.open().await;
        let account = partition.account(ALICE).await.unwrap();
        deliver(&partition, ALICE, b"x").await;
        assert!(account.changed_after(u64::MAX).is_none(), "nobody follows");
        let (first, second) = (account.follow(), account.follow());
        let known = first.latest();
        let inbox = |change| AccountChange::Messages(MailboxId::INBOX, change);
        deliver(&partition, ALICE, b"x").await;
        deliver(&partition, ALICE, b"x").await;
        deliver(&partition, BOB, b"x").await;
        first.changed(known).await;
        drop(first);
        let (changes, latest) = account.changed_after(known).expect("followed");
        assert_eq!(changes, [inbox(MessageChange::Added), inbox(MessageChange::Unseen)]);
        account.create_mailbox("a/b", None).await.unwrap();
        let id = |name: &str| account.mailbox_by_name(name).unwrap().id;
        let (a, b) = (id("a"), id("a/b"));
        account.rename_mailbox("a", "c").await.unwrap();
        account.delete_mailbox("c/b").await.unwrap();
        let (changes, latest) = account.changed_after(latest).expect("followed");
        let name = |name: &str| name.to_owned();
        let created = |mailbox, name| AccountChange::Created { mailbox, name };
        let renamed = |from: &str, to: &str, access: &AccessListThen, change: &AccountChange| {
            let AccountChange::Renamed { entry, .. } = *change else { panic!("{change:?}") };
            let (from, to, access) = (name(from), name(to), access.clone());
            AccountChange::Renamed { mailbox: a, from, to, access, entry }
        };
        let expected = [
            created(a, name("a")),
            created(b, name("a/b")),
            renamed("a", "c", &None, &changes[2]),
            AccountChange::Deleted { mailbox: b, name: name("c/b"), access: None },
        ];
        assert_eq!(changes, expected);
        // An access list is noted with the name of that moment.
        let mut lists = vec![None];
        for user in ["bob", "carol"] {
            let subject = Subject::parse(user).unwrap();
            let set = |list: &mut AccessList| Ok(list.set(subject, Rights::ALL)?);
            account.change_access_list(a, set).await.unwrap();
            lists.push(account.with_access_list(a, |list| list.map(Into::into)));
        }
        account.rename_mailbox("c", "d").await.unwrap();
        let (changes, latest) = account.changed_after(latest).expect("followed");
        let changed = |before: &AccessListThen, after: &AccessListThen| {
            let (before, after) = (before.clone(), after.clone());
            AccountChange::Access { mailbox: a, name: name("c"), before, after }
        };
        let expected = [
            changed(&lists[0], &lists[1]),
            changed(&lists[1], &lists[2]),
            renamed("c", "d", &lists[2], &changes[2]),
        ];
        assert_eq!(changes, expected);
        assert_eq!(account.changed_after(latest), Some((Vec::new(), latest)));
        drop(second);
        assert!(account.changed_after(latest).is_none());
        // Who follows again knows that it missed something.
        deliver(&partition, ALICE, b"x").await;
        let _again = account.follow();
        assert!(account.changed_after(latest).is_none());
    });
}
