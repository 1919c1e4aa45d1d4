//! How many password checks wait, in all and by client address, so that one guessing client
//! cannot fill the queue that all logins share.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hashbrown::HashMap;

/// Password checks that may wait or run at once; beyond, a login is refused for now.
#[derive(Clone, Copy, Debug)]
pub struct PeerLimits {
    /// On all shards together. At 15 ms each this bounds how long a login can take.
    pub waiting_max: usize,
    /// Of one IPv4 address or one IPv6 /64 network.
    pub waiting_per_peer_max: usize,
}

impl Default for PeerLimits {
    fn default() -> PeerLimits {
        PeerLimits { waiting_max: 512, waiting_per_peer_max: 128 }
    }
}

/// Shared by all shards. The lock is taken twice for each hash of 15 ms, for nanoseconds.
#[derive(Debug)]
pub(super) struct Peers {
    limits: PeerLimits,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    total: usize,
    by_peer: HashMap<IpAddr, usize>,
}

/// Room in the queue. It goes with the job to the worker thread: a client that hangs up does not
/// get its room back before its hash is done.
#[derive(Debug)]
pub(super) struct Permit {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Peers {
    pub fn new(limits: PeerLimits) -> Peers {
        Peers { limits, waiting: Mutex::default() }
    }

    pub fn admit(self: &Arc<Peers>, peer: IpAddr) -> Option<Permit> {
        let peer = network(peer);
        let mut waiting = self.waiting();
        let of_peer = waiting.by_peer.get(&peer).copied().unwrap_or(0);
        if waiting.total >= self.limits.waiting_max || of_peer >= self.limits.waiting_per_peer_max {
            return None;
        }
        waiting.total += 1;
        waiting.by_peer.insert(peer, of_peer + 1);
        Some(Permit { peers: self.clone(), peer })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut waiting = self.peers.waiting();
        waiting.total = waiting.total.saturating_sub(1);
        match waiting.by_peer.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                waiting.by_peer.remove(&self.peer);
            }
        }
    }
}

/// One household or host has a whole IPv6 /64, so addresses inside it are one peer.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn limits_hold_and_room_comes_back() {
        let limits = PeerLimits { waiting_max: 3, waiting_per_peer_max: 2 };
        let peers = Arc::new(Peers::new(limits));
        let first = peers.admit(ip("192.0.2.1")).expect("first");
        let _second = peers.admit(ip("::ffff:192.0.2.1")).expect("second");
        assert!(peers.admit(ip("192.0.2.1")).is_none(), "over the peer's limit");
        let _other = peers.admit(ip("192.0.2.2")).expect("other");
        assert!(peers.admit(ip("192.0.2.3")).is_none(), "over the limit of all");
        drop(first);
        assert!(peers.admit(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn a_network_is_one_peer_and_nothing_is_kept() {
        let limits = PeerLimits { waiting_max: 9, waiting_per_peer_max: 1 };
        let peers = Arc::new(Peers::new(limits));
        let permit = peers.admit(ip("2001:db8::1")).expect("first");
        assert!(peers.admit(ip("2001:db8::ffff:1")).is_none());
        assert!(peers.admit(ip("2001:db8:0:1::1")).is_some());
        drop(permit);
        assert!(peers.waiting().by_peer.is_empty());
        assert_eq!(peers.waiting().total, 0);
    }
}
