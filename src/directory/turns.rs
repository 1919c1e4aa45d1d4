//! The queue of password checks: networks take turns, so that a guessing network delays only
//! itself.
//!
//! A worker's job is not a particular check but a turn: it takes the next network's oldest check.
//! So the order of the pool's own queue, first come first served, does not matter. Shared by all
//! shards; the lock is held for a few moves of values, twice for each hash of 15 ms.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hashbrown::HashMap;

use super::{guard::Charge, password};
use crate::{model::Network, runtime::worker::Answer};

/// Limits of waiting password checks; beyond them a log-in is refused temporarily.
#[derive(Clone, Copy, Debug)]
pub struct PeerLimits {
    /// On all shards together. At 15 ms each this bounds how long a log-in can take.
    pub waiting_max: usize,
    /// Of one IPv4 address or one IPv6 /64 network, unless it is trusted.
    pub waiting_per_peer_max: usize,
}

impl PeerLimits {
    /// A queue of `waiting_max`, of which one network may have a quarter.
    pub fn of_queue(waiting_max: usize) -> PeerLimits {
        PeerLimits { waiting_max, waiting_per_peer_max: waiting_max.div_ceil(4).max(1) }
    }
}

impl Default for PeerLimits {
    fn default() -> PeerLimits {
        PeerLimits::of_queue(256)
    }
}

/// The result of a turn. A caller that gets none was displaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Right,
    Wrong,
    /// The network used up its failures while this check waited.
    Limited(std::time::Duration),
}

/// One password to check.
pub(super) struct Ticket {
    pub network: Network,
    pub password: String,
    pub hash: Arc<str>,
    /// False if the hash is only a stand-in.
    pub exists: bool,
    pub charge: Charge,
    pub answer: Answer<Verdict>,
}

/// Too many checks wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Full;

#[derive(Debug)]
pub(super) struct Turns {
    limits: PeerLimits,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    total: usize,
    /// Networks with waiting checks, the next one first.
    ring: VecDeque<Network>,
    by_network: HashMap<Network, VecDeque<Ticket>>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("total", &self.total).finish_non_exhaustive()
    }
}

impl Turns {
    pub(super) fn new(limits: PeerLimits) -> Turns {
        Turns { limits, waiting: Mutex::default() }
    }

    /// Queues `ticket`; true if it needs a turn of its own, false if it took another one's place. A
    /// full queue makes room for a network that has fewer waiting than the one with the most.
    pub(super) fn push(&self, ticket: Ticket, trusted: bool) -> Result<bool, Full> {
        let mut waiting = self.waiting();
        let network = ticket.network;
        let of_network = waiting.by_network.get(&network).map_or(0, VecDeque::len);
        if !trusted && of_network >= self.limits.waiting_per_peer_max {
            return Err(Full);
        }
        let mut displaced = None;
        if waiting.total >= self.limits.waiting_max {
            let most = waiting.by_network.iter().max_by_key(|(_, tickets)| tickets.len());
            let (loser, most) =
                most.map(|(network, tickets)| (*network, tickets.len())).ok_or(Full)?;
            if most <= of_network + 1 {
                return Err(Full);
            }
            displaced = waiting.take(loser, VecDeque::pop_back);
        }
        waiting.put(ticket);
        drop(waiting);
        // Not under the lock: dropping it wakes its caller and returns its charge.
        let needs_turn = displaced.is_none();
        drop(displaced);
        Ok(needs_turn)
    }

    /// No worker is available for the ticket that `network` queued last.
    pub(super) fn withdraw(&self, network: Network) {
        let mut waiting = self.waiting();
        let ticket = waiting.take(network, VecDeque::pop_back);
        let ticket = ticket.or_else(|| {
            let other = waiting.ring.back().copied()?;
            waiting.take(other, VecDeque::pop_back)
        });
        drop(waiting);
        drop(ticket);
    }

    /// The work of one worker job.
    pub(super) fn take_turn(&self) {
        let ticket = self.waiting().next();
        if let Some(ticket) = ticket {
            ticket.check();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn put(&mut self, ticket: Ticket) {
        let network = ticket.network;
        let tickets = self.by_network.entry(network).or_default();
        if tickets.is_empty() {
            self.ring.push_back(network);
        }
        tickets.push_back(ticket);
        self.total += 1;
    }

    /// The oldest ticket of the network whose turn it is.
    fn next(&mut self) -> Option<Ticket> {
        let network = self.ring.pop_front()?;
        self.ring.push_back(network);
        self.take(network, VecDeque::pop_front)
    }

    fn take(
        &mut self,
        network: Network,
        which: fn(&mut VecDeque<Ticket>) -> Option<Ticket>,
    ) -> Option<Ticket> {
        let tickets = self.by_network.get_mut(&network)?;
        let ticket = which(tickets)?;
        self.total = self.total.saturating_sub(1);
        if tickets.is_empty() {
            self.by_network.remove(&network);
            self.ring.retain(|other| *other != network);
        }
        Some(ticket)
    }
}

impl Ticket {
    fn check(self) {
        // A client that hung up learns nothing, so nothing is counted or hashed.
        if !self.answer.is_awaited() {
            return;
        }
        let verdict = match self.charge.may_hash() {
            Err(wait) => Verdict::Limited(wait),
            Ok(()) => {
                let right = password::verify(&self.password, &self.hash) && self.exists;
                self.charge.settle(right);
                if right { Verdict::Right } else { Verdict::Wrong }
            }
        };
        self.answer.give(verdict);
    }
}
