//! Limits password guessing: failures are counted by (account, network) and by network, and a
//! client with too many is refused before anything is hashed.
//!
//! There is one guard per process, asked by every shard and every protocol, so parallel
//! connections, other ports or other shards allow no more guesses. A guess counts from its
//! admission: an attempt in progress counts as wrong until it turns out right.
//!
//! - **Account and network**: [`GuardOptions::free_failures`] at once, then one at a time, 1, 2, 4
//!   ... seconds apart, at most [`GuardOptions::delay_max`]. Failures are forgiven one by one
//!   ([`FORGIVEN_EACH`]), but not by a success, which may come from another client behind the same
//!   address.
//! - **Network**: [`GuardOptions::network_failures`] a minute, whatever the account; and
//!   [`WIDE_FACTOR`] times that for the /24 or /48 around it. This does not apply to clients that
//!   logged in to this account from there before, nor to trusted networks.
//!
//! A password that was right from this network for this hash passes in any case, so guesses of
//! others lock out no user. But passing it tells a guesser behind the same address that the guess
//! was right: after [`LOOKS_BURST`] refused guesses such a password is not compared any more.
//! Repeating a known wrong password uses up no further attempt. Names without an account are
//! counted in the same way.
//!
//! Tables are bounded; a full one forgets the eighth with the fewest failures. Time is an argument;
//! workers, which have no clock, use the latest time that any caller passed.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;

use super::authenticate::Key;
use crate::model::{AccountId, Network};

/// After this time without a failure, one is forgiven.
const FORGIVEN_EACH: Duration = Duration::from_secs(600);
/// Wait between the last free failure and the next attempt; doubled after each further one.
const DELAY_FIRST: Duration = Duration::from_secs(1);
/// The /24 or /48 around a network may fail this many times as often.
const WIDE_FACTOR: u32 = 10;
/// Further failures past the free ones change nothing.
const DOUBLINGS_MAX: u32 = 12;
/// Wrong guesses, during a back-off, at an account with log-ins from the same network, before a
/// right password must also wait for its attempt; and the time in which one is forgiven.
const LOOKS_BURST: u32 = 2000;
const LOOK_EACH: Duration = Duration::from_secs(10);
/// How long to wait for attempts in progress before asking again.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// (account, network) pairs with failures: at most some 4 MiB.
const PAIRS_MAX: usize = 16 * 1024;
/// Networks with failures, both widths.
const BUCKETS_MAX: usize = 16 * 1024;
/// (account, network) pairs that logged in: about 5 MiB.
const KNOWN_MAX: usize = 64 * 1024;
/// Octets of a name that are kept: no valid address is longer.
const NAME_MAX: usize = 320;
/// Wrong passwords of a pair that are recognized when repeated.
const WRONG_KEPT: usize = 4;
/// Delayed refusals at once, of one network and of all.
const HELD_PER_NETWORK_MAX: usize = 256;
const HELD_MAX: usize = 4096;
/// Events of beginning blocks that are kept for the operator.
const HELD_BACK_KEPT: usize = 64;
/// Lines in a list of blocks.
const LISTED_MAX: usize = 4096;

/// Limits of password guessing; `config` fills it.
#[derive(Clone, Debug)]
pub struct GuardOptions {
    /// Failures of an account from a network before its attempts must wait.
    pub free_failures: u32,
    /// Longest wait between attempts at an account from a network.
    pub delay_max: Duration,
    /// Failures a minute of a network, over all accounts.
    pub network_failures: u32,
    /// Delay of the answer to a wrong password, and longest delay of a refusal.
    pub failure_delay: Duration,
    /// Networks that many people share (a webmail server): no limits by network.
    pub trusted: Vec<Network>,
}

impl Default for GuardOptions {
    fn default() -> GuardOptions {
        GuardOptions {
            free_failures: 5,
            delay_max: Duration::from_secs(60),
            network_failures: 20,
            failure_delay: Duration::from_secs(2),
            trusted: Vec::new(),
        }
    }
}

/// The client of an attempt.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    /// Canonical, whether or not it has an account.
    pub name: &'a str,
    pub account: Option<AccountId>,
    pub peer: IpAddr,
    pub key: Option<Key>,
}

#[derive(Debug)]
pub(super) struct Guard {
    options: GuardOptions,
    state: Mutex<State>,
    /// Whether some pair may have used up its looks.
    wary: AtomicBool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct PairKey {
    name: Arc<str>,
    network: Network,
}

#[derive(Debug, Default)]
struct State {
    /// The latest time that any caller passed.
    latest: Duration,
    pairs: HashMap<PairKey, Pair>,
    buckets: HashMap<Network, Bucket>,
    known: HashMap<(AccountId, Network), Known>,
    held: HashMap<Network, usize>,
    held_total: usize,
    held_back: VecDeque<HeldBack>,
    /// Further ones that were not kept.
    held_back_more: u64,
}

/// An account together with one network.
#[derive(Debug, Default)]
struct Pair {
    failures: u32,
    /// Attempts admitted and not settled.
    under_way: u32,
    last: Duration,
    /// No attempt is admitted before this time.
    until: Duration,
    /// Starts of the keys of wrong passwords, the oldest replaced first.
    wrong: VecDeque<u64>,
    /// Refused guesses that were compared with a right password.
    looks: Bucket,
}

/// Failures of a network as a leaky bucket: a level that is full `burst` intervals from now.
#[derive(Debug, Default)]
struct Bucket {
    empty_at: Duration,
}

/// A successful log-in.
#[derive(Debug)]
struct Known {
    key: Option<Key>,
    last: Duration,
}

/// A block, for `ringmail block list`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// `None`: the network as a whole.
    pub account: Option<String>,
    pub network: Network,
    /// Failures that are not forgiven yet.
    pub failures: u32,
    /// Until the next attempt is admitted.
    pub left: Duration,
}

/// What to forgive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lift {
    All,
    /// The log-in name, in canonical spelling.
    Account(String),
    /// All networks inside it or around it.
    Network(Network),
}

/// A block that begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldBack {
    /// The name that was tried, in canonical spelling; `None`: all names.
    pub name: Option<Arc<str>>,
    pub network: Network,
    /// Wrong passwords so far; for all names, within a minute.
    pub failures: u32,
    /// Until the next attempt at this name.
    pub wait: Option<Duration>,
}

/// The guard's reports since the last call.
#[derive(Debug)]
pub struct GuardNews {
    pub held_back: Vec<HeldBack>,
    /// Further ones that did not fit.
    pub more: u64,
}

impl Guard {
    pub(super) fn new(options: GuardOptions) -> Guard {
        Guard { options, state: Mutex::default(), wary: AtomicBool::new(false) }
    }

    pub(super) fn options(&self) -> &GuardOptions {
        &self.options
    }

    pub(super) fn trusts(&self, peer: IpAddr) -> bool {
        let address = Network::exact(peer);
        self.options.trusted.iter().any(|trusted| trusted.contains(&address))
    }

    /// Admits an attempt, or says how long it would have to wait.
    pub(super) fn admit(
        self: &Arc<Guard>,
        ask: &Ask<'_>,
        now: Duration,
    ) -> Result<Charge, Duration> {
        let network = Network::narrow(ask.peer);
        let trusted = self.trusts(ask.peer);
        let mut state = self.state(now);
        let known = ask.account.and_then(|account| state.known.get_mut(&(account, network)));
        let mut charge = Charge {
            guard: self.clone(),
            pair: None,
            network,
            wide: Network::wide(ask.peer),
            trusted,
            known: known.is_some(),
            account: ask.account,
            key: ask.key,
        };
        let proven = match known {
            Some(known) => {
                known.last = known.last.max(now);
                known.key.is_some() && known.key == ask.key
            }
            None => false,
        };
        let pair = PairKey { name: shortened(ask.name).into(), network };
        let time = state.latest;
        let guilt = state.pairs.get_mut(&pair);
        let wary = guilt.as_ref().is_some_and(|guilt| guilt.has_no_looks(time, &self.options));
        if proven && !wary {
            return Ok(charge);
        }
        if let Some(guilt) = guilt
            && let Err(refusal) = guilt.admits(time, &self.options, ask.key.as_ref())
        {
            if charge.known && refusal.is_guess {
                guilt.looks.add(time, LOOK_EACH);
                if guilt.has_no_looks(time, &self.options) {
                    self.wary.store(true, Ordering::Relaxed);
                }
            }
            return Err(refusal.wait);
        }
        if charge.by_network() {
            state.network_admits(&charge, &self.options)?;
        }
        state.make_room_for_pair(&pair);
        state.pairs.entry(pair.clone()).or_default().under_way += 1;
        charge.pair = Some(pair);
        Ok(charge)
    }

    /// Whether passwords that were right before must be asked about, too.
    pub(super) fn is_wary(&self) -> bool {
        self.wary.load(Ordering::Relaxed)
    }

    /// Records a log-in that succeeded without the guard: from the cache, or with an identical
    /// check.
    pub(super) fn note(&self, account: AccountId, peer: IpAddr, key: Option<Key>, now: Duration) {
        self.state(now).remember(account, Network::narrow(peer), key);
    }

    /// A place among the delayed refusals; without one, the refusal is answered at once.
    pub(super) fn hold(self: &Arc<Guard>, peer: IpAddr) -> Option<Held> {
        let network = Network::narrow(peer);
        let mut state = self.state(Duration::ZERO);
        let of_network = state.held.get(&network).copied().unwrap_or(0);
        if state.held_total >= HELD_MAX || of_network >= HELD_PER_NETWORK_MAX {
            return None;
        }
        state.held_total += 1;
        state.held.insert(network, of_network + 1);
        Some(Held { guard: self.clone(), network })
    }

    /// The blocks, longest wait first.
    pub(super) fn blocks(&self, now: Duration) -> Vec<Block> {
        let options = &self.options;
        let state = self.state(now);
        let time = state.latest;
        let pairs = state.pairs.iter().map(|(key, pair)| Block {
            account: Some(key.name.to_string()),
            network: key.network,
            failures: pair.standing(time),
            left: pair.until.saturating_sub(time),
        });
        let mut blocks: Vec<Block> =
            pairs.filter(|block| block.failures >= options.free_failures).collect();
        blocks.extend(state.buckets.iter().filter_map(|(network, bucket)| {
            let left = bucket.wait(time, options.interval(*network), options.burst(*network))?;
            let failures = bucket.failures(time, options.interval(*network));
            Some(Block { account: None, network: *network, failures, left })
        }));
        drop(state);
        blocks.sort_by(|a, b| b.left.cmp(&a.left).then(a.network.cmp(&b.network)));
        blocks.truncate(LISTED_MAX);
        blocks
    }

    /// Forgives; returns how many pairs and networks had failures.
    pub(super) fn lift(&self, what: &Lift) -> usize {
        let mut state = self.state(Duration::ZERO);
        let near =
            |mine: &Network, theirs: &Network| mine.contains(theirs) || theirs.contains(mine);
        let before = state.pairs.len() + state.buckets.len();
        let mut under_way = 0;
        state.pairs.retain(|key, pair| {
            let stays = match what {
                Lift::All => false,
                Lift::Account(name) => *key.name != **name,
                Lift::Network(network) => !near(network, &key.network),
            };
            // Admitted attempts will still be settled in it.
            let awaited = pair.under_way > 0;
            if !stays && awaited {
                *pair = Pair { under_way: pair.under_way, last: pair.last, ..Pair::default() };
                under_way += 1;
            }
            stays || awaited
        });
        state.buckets.retain(|key, _| match what {
            Lift::All => false,
            Lift::Account(_) => true,
            Lift::Network(network) => !near(network, key),
        });
        before + under_way - state.pairs.len() - state.buckets.len()
    }

    /// Reports for the operator since the last call.
    pub(super) fn news(&self) -> GuardNews {
        let mut state = self.state(Duration::ZERO);
        let held_back = std::mem::take(&mut state.held_back).into();
        if self.is_wary() {
            let time = state.latest;
            let mut pairs = state.pairs.values();
            let wary = pairs.any(|pair| pair.has_no_looks(time, &self.options));
            self.wary.store(wary, Ordering::Relaxed);
        }
        GuardNews { held_back, more: std::mem::take(&mut state.held_back_more) }
    }

    /// Locks the state and updates its time.
    fn state(&self, now: Duration) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.latest = state.latest.max(now);
        state
    }
}

impl GuardOptions {
    /// The time in which one failure of a network drains.
    fn interval(&self, network: Network) -> Duration {
        Duration::from_secs(60) / self.burst(network)
    }

    fn burst(&self, network: Network) -> u32 {
        let factor = if network.is_wide() { WIDE_FACTOR } else { 1 };
        self.network_failures.saturating_mul(factor).max(1)
    }

    /// Wait after failure number `failures`.
    fn delay(&self, failures: u32) -> Duration {
        match failures.checked_sub(self.free_failures) {
            None => Duration::ZERO,
            Some(doublings) => {
                (DELAY_FIRST * (1 << doublings.min(DOUBLINGS_MAX))).min(self.delay_max)
            }
        }
    }
}

impl State {
    fn network_admits(&self, charge: &Charge, options: &GuardOptions) -> Result<(), Duration> {
        for network in [charge.network, charge.wide] {
            let Some(bucket) = self.buckets.get(&network) else { continue };
            let (interval, burst) = (options.interval(network), options.burst(network));
            if let Some(wait) = bucket.wait(self.latest, interval, burst) {
                return Err(wait);
            }
        }
        Ok(())
    }

    fn network_failed(&mut self, network: Network, options: &GuardOptions) {
        let time = self.latest;
        if self.buckets.len() >= BUCKETS_MAX && !self.buckets.contains_key(&network) {
            forget_eighth(&mut self.buckets, |bucket| {
                (bucket.empty_at > time).then_some(bucket.empty_at)
            });
        }
        let (interval, burst) = (options.interval(network), options.burst(network));
        let bucket = self.buckets.entry(network).or_default();
        let before = bucket.wait(time, interval, burst);
        bucket.add(time, interval);
        if before.is_none() && bucket.wait(time, interval, burst).is_some() {
            self.tell(HeldBack { name: None, network, failures: burst, wait: None });
        }
    }

    fn pair_failed(&mut self, key: &PairKey, wrong: Option<&Key>, options: &GuardOptions) {
        let time = self.latest;
        let pair = self.pairs.entry(key.clone()).or_default();
        let before = pair.standing(time);
        pair.failures = (before + 1).min(options.free_failures.saturating_add(DOUBLINGS_MAX));
        pair.last = time;
        let delay = options.delay(pair.failures);
        pair.until = time + delay;
        if let Some(wrong) = wrong.map(beginning)
            && !pair.wrong.contains(&wrong)
        {
            pair.wrong.truncate(WRONG_KEPT - 1);
            pair.wrong.push_front(wrong);
        }
        let failures = pair.failures;
        let longest = delay == options.delay_max && options.delay(before) < delay;
        if failures == options.free_failures || longest {
            let PairKey { name, network } = key.clone();
            self.tell(HeldBack { name: Some(name), network, failures, wait: Some(delay) });
        }
    }

    fn remember(&mut self, account: AccountId, network: Network, key: Option<Key>) {
        let last = self.latest;
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&(account, network)) {
            forget_eighth(&mut self.known, |known| Some(known.last));
        }
        self.known.insert((account, network), Known { key, last });
    }

    fn make_room_for_pair(&mut self, key: &PairKey) {
        if self.pairs.len() >= PAIRS_MAX && !self.pairs.contains_key(key) {
            let time = self.latest;
            forget_eighth(&mut self.pairs, |pair| {
                let guilt = (pair.under_way > 0, pair.standing(time), pair.last);
                (guilt.0 || guilt.1 > 0).then_some(guilt)
            });
        }
    }

    fn tell(&mut self, held: HeldBack) {
        if self.held_back.len() >= HELD_BACK_KEPT {
            self.held_back_more += 1;
        } else {
            self.held_back.push_back(held);
        }
    }
}

impl Pair {
    /// Failures that are not forgiven yet.
    fn standing(&self, time: Duration) -> u32 {
        let forgiven = time.saturating_sub(self.last).as_secs() / FORGIVEN_EACH.as_secs();
        self.failures.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }

    fn admits(
        &self,
        time: Duration,
        options: &GuardOptions,
        key: Option<&Key>,
    ) -> Result<(), Refusal> {
        let standing = self.standing(time);
        if standing < options.free_failures {
            let attempts = standing.saturating_add(self.under_way);
            let refusal = Refusal { wait: UNDER_WAY, is_guess: true };
            return if attempts < options.free_failures { Ok(()) } else { Err(refusal) };
        }
        let wait = self.until.saturating_sub(time);
        // A device with an old password retries for ever; its repetitions must not use up the
        // attempt that another device in the same house needs.
        if key.is_some_and(|key| self.wrong.contains(&beginning(key))) {
            return Err(Refusal { wait: wait.max(options.delay_max), is_guess: false });
        }
        if wait.is_zero() && self.under_way == 0 {
            return Ok(());
        }
        Err(Refusal { wait: if wait.is_zero() { UNDER_WAY } else { wait }, is_guess: true })
    }

    /// Too many were refused: even a right password is not compared any more.
    fn has_no_looks(&self, time: Duration, options: &GuardOptions) -> bool {
        self.standing(time) >= options.free_failures
            && self.looks.wait(time, LOOK_EACH, LOOKS_BURST).is_some()
    }
}

/// Why a pair's attempt is not admitted.
struct Refusal {
    wait: Duration,
    /// A new guess, not a known wrong password.
    is_guess: bool,
}

impl Bucket {
    /// How long until another failure fits; `None` if one does.
    fn wait(&self, time: Duration, interval: Duration, burst: u32) -> Option<Duration> {
        let level = self.empty_at.saturating_sub(time);
        let wait = (level + interval).saturating_sub(interval * burst);
        (!wait.is_zero()).then_some(wait)
    }

    fn add(&mut self, time: Duration, interval: Duration) {
        self.empty_at = self.empty_at.max(time) + interval;
    }

    fn failures(&self, time: Duration, interval: Duration) -> u32 {
        let level = self.empty_at.saturating_sub(time);
        u32::try_from(level.as_nanos().div_ceil(interval.as_nanos().max(1))).unwrap_or(u32::MAX)
    }
}

/// An admitted attempt. Dropped without being settled, it does not count.
#[derive(Debug)]
pub(super) struct Charge {
    guard: Arc<Guard>,
    /// `None` if the password was right before.
    pair: Option<PairKey>,
    network: Network,
    wide: Network,
    trusted: bool,
    /// Whether there was a log-in to this account from this network before.
    known: bool,
    account: Option<AccountId>,
    key: Option<Key>,
}

impl Charge {
    /// Whether the network's failures apply to it.
    fn by_network(&self) -> bool {
        !self.trusted && !self.known
    }

    /// Checked again when its turn comes: other clients of the network may have failed meanwhile.
    pub(super) fn may_hash(&self) -> Result<(), Duration> {
        if self.pair.is_none() || !self.by_network() {
            return Ok(());
        }
        self.guard.state(Duration::ZERO).network_admits(self, &self.guard.options)
    }

    pub(super) fn settle(self, right: bool) {
        let mut state = self.guard.state(Duration::ZERO);
        if right {
            if let Some(account) = self.account {
                state.remember(account, self.network, self.key);
            }
        } else if let Some(pair) = &self.pair {
            let options = &self.guard.options;
            state.pair_failed(pair, self.key.as_ref(), options);
            if !self.trusted {
                state.network_failed(self.network, options);
                state.network_failed(self.wide, options);
            }
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let Some(key) = &self.pair else { return };
        let mut state = self.guard.state(Duration::ZERO);
        let Some(pair) = state.pairs.get_mut(key) else { return };
        pair.under_way = pair.under_way.saturating_sub(1);
        if pair.under_way == 0 && pair.failures == 0 {
            state.pairs.remove(key);
        }
    }
}

/// A delayed refusal.
#[derive(Debug)]
pub struct Held {
    guard: Arc<Guard>,
    network: Network,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.guard.state(Duration::ZERO);
        state.held_total = state.held_total.saturating_sub(1);
        match state.held.get_mut(&self.network) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                state.held.remove(&self.network);
            }
        }
    }
}

/// The longest prefix of `name` that is kept.
fn shortened(name: &str) -> &str {
    let ends = (0..=NAME_MAX.min(name.len())).rev();
    ends.filter_map(|end| name.get(..end)).next().unwrap_or_default()
}

fn beginning(key: &Key) -> u64 {
    key.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte))
}

/// Drops entries without failures and, if that was not enough, those with the fewest: afterwards an
/// eighth of the table is free.
fn forget_eighth<K: Eq + std::hash::Hash, V, G: Ord>(
    table: &mut HashMap<K, V>,
    guilt: impl Fn(&V) -> Option<G>,
) {
    let room = table.len() / 8;
    let keep = table.len() - room;
    table.retain(|_, value| guilt(value).is_some());
    if table.len() <= keep {
        return;
    }
    let mut surplus = table.len() - keep;
    let mut guilts: Vec<Option<G>> = table.values().map(&guilt).collect();
    let (_, limit, _) = guilts.select_nth_unstable(surplus - 1);
    let limit = limit.take();
    table.retain(|_, value| {
        let goes = surplus > 0 && guilt(value) <= limit;
        surplus -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests;
