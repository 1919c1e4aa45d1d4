//! Limits of one client address and of one network: connections, connections that are not logged
//! in, new connections a second.
//!
//! The acceptor asks with the peer's address, or, for a trusted proxy, with the address from its
//! header. Networks on the allow-list are not counted at all: loopback by
//! default, and a proxy's own.
//!
//! There is one table for the process instead of a share for each shard, because the kernel
//! distributes connections over the shards by a hash: a client with five connections may have four
//! of them on one shard, and a share would refuse it at a fifth of its limit. The table is divided
//! into stripes, each under a mutex that is held for nanoseconds, four times per connection.
//!
//! Invariants: at most [`ENTRIES_MAX`] addresses and networks are counted, further ones are
//! admitted uncounted (the shard's own limits still apply). An entry is removed when it has no
//! connection and its second of new connections is over.

use std::{
    hash::BuildHasher,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hashbrown::{DefaultHashBuilder, HashMap, hash_map::Entry};

use crate::model::Network;

/// Addresses and networks counted at once, 16 MiB of them.
pub const ENTRIES_MAX: usize = 256 * 1024;

/// Mutexes, one per stripe of the table.
const STRIPES: usize = 64;

/// A stripe is first searched for unused entries at this size.
const SWEEP_MIN: usize = 64;

/// The limits of one address or network. 0 = no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientShare {
    /// Connections at once.
    pub connections: u32,
    /// Those of them that are not logged in.
    pub strangers: u32,
    /// New connections a second, and the burst.
    pub new_per_second: u32,
}

/// Limits by client address, and the networks exempt from them; `config` fills it.
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// For an IPv4 address or an IPv6 /64: one host or household.
    pub address: ClientShare,
    /// For an IPv4 /24 or an IPv6 /48: one site.
    pub network: ClientShare,
    /// Never limited.
    pub allow: Vec<Network>,
}

impl Default for ClientLimits {
    /// An office behind one address has some hundred clients with five connections each. 100
    /// strangers are twice what Postfix accepts from one sender (50), and more than a provider
    /// opens at once. Postfix has no limit of new connections; ours is for clients that only
    /// connect.
    fn default() -> ClientLimits {
        ClientLimits {
            address: ClientShare { connections: 1000, strangers: 100, new_per_second: 50 },
            network: ClientShare { connections: 4000, strangers: 400, new_per_second: 200 },
            allow: ["127.0.0.0/8", "::1"].iter().filter_map(|text| text.parse().ok()).collect(),
        }
    }
}

/// The limit that an address or its network exceeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excess {
    Connections,
    Strangers,
    NewConnections,
}

/// The counts of all clients. Shared by all shards.
pub struct Clients {
    limits: ClientLimits,
    started: Instant,
    hash: DefaultHashBuilder,
    stripes: Vec<Mutex<Stripe>>,
    stripe_max: usize,
}

#[derive(Default)]
struct Stripe {
    counts: HashMap<Network, Count>,
    /// Size at which unused entries are removed.
    sweep_at: usize,
}

/// The counts of one address or network.
#[derive(Default)]
struct Count {
    connections: u32,
    strangers: u32,
    /// New connections allowed now, in thousandths, as of `refilled`.
    credit: u64,
    /// Milliseconds since the table was made.
    refilled: u64,
}

/// A counted connection of a client. It moves to other shards with the connection.
pub struct Visit {
    clients: Arc<Clients>,
    /// Address and network, where counted.
    counted: [Option<Network>; 2],
    stranger: bool,
}

impl Clients {
    /// An empty table.
    pub fn new(limits: ClientLimits) -> Arc<Clients> {
        Self::with_room_for(limits, ENTRIES_MAX)
    }

    fn with_room_for(limits: ClientLimits, entries_max: usize) -> Arc<Clients> {
        Arc::new(Clients {
            limits,
            started: Instant::now(),
            hash: DefaultHashBuilder::default(),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            stripe_max: entries_max / STRIPES,
        })
    }

    /// Registers a new connection of `client`: `None` if it is on the allow-list. It is a stranger
    /// until [`Visit::set_logged_in`].
    pub fn admit(self: &Arc<Clients>, client: IpAddr) -> Result<Option<Visit>, Excess> {
        self.admit_at(client, self.started.elapsed())
    }

    fn admit_at(
        self: &Arc<Clients>,
        client: IpAddr,
        now: Duration,
    ) -> Result<Option<Visit>, Excess> {
        let client = client.to_canonical();
        let exact = Network::exact(client);
        if self.limits.allow.iter().any(|network| network.contains(&exact)) {
            return Ok(None);
        }
        let mut visit = Visit { clients: self.clone(), counted: [None, None], stranger: true };
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let shares = [
            (Network::narrow(client), self.limits.address),
            (Network::wide(client), self.limits.network),
        ];
        for ((network, share), counted) in shares.into_iter().zip(0..) {
            // On an error the visit is dropped, and its counts with it.
            if share != ClientShare::default() && self.enter(network, share, now)? {
                visit.counted[counted] = Some(network);
            }
        }
        Ok(Some(visit))
    }

    /// Counts a connection; false if the table is full.
    fn enter(&self, network: Network, share: ClientShare, now: u64) -> Result<bool, Excess> {
        let mut stripe = self.stripe(network);
        stripe.sweep(now, self.stripe_max);
        let full = stripe.counts.len() >= self.stripe_max;
        let count = match stripe.counts.entry(network) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if full => return Ok(false),
            Entry::Vacant(entry) => {
                let credit = u64::from(share.new_per_second) * 1000;
                entry.insert(Count { credit, refilled: now, ..Count::default() })
            }
        };
        count.enter(share, now).map(|()| true)
    }

    fn stripe(&self, network: Network) -> MutexGuard<'_, Stripe> {
        let hash = self.hash.hash_one(network) as usize;
        self.stripes[hash % STRIPES].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, network: Network, change: impl FnOnce(&mut Count)) {
        if let Some(count) = self.stripe(network).counts.get_mut(&network) {
            change(count);
        }
    }
}

impl Stripe {
    /// Removes entries without connections, now and then: at twice the size left last time.
    fn sweep(&mut self, now: u64, stripe_max: usize) {
        if self.counts.len() >= self.sweep_at.clamp(SWEEP_MIN.min(stripe_max), stripe_max) {
            self.counts.retain(|_, count| !count.is_unused(now));
            self.sweep_at = 2 * self.counts.len();
        }
    }
}

impl Count {
    fn enter(&mut self, share: ClientShare, now: u64) -> Result<(), Excess> {
        let above = |count: u32, limit: u32| limit != 0 && count >= limit;
        if above(self.connections, share.connections) {
            return Err(Excess::Connections);
        }
        if above(self.strangers, share.strangers) {
            return Err(Excess::Strangers);
        }
        if share.new_per_second != 0 {
            let (rate, full) =
                (u64::from(share.new_per_second), u64::from(share.new_per_second) * 1000);
            let earned = now.saturating_sub(self.refilled).min(1000) * rate;
            self.credit = (self.credit + earned).min(full);
            self.refilled = now;
            self.credit = self.credit.checked_sub(1000).ok_or(Excess::NewConnections)?;
        }
        self.connections = self.connections.saturating_add(1);
        self.strangers = self.strangers.saturating_add(1);
        Ok(())
    }

    /// Whether a new entry would have the same credit.
    fn is_unused(&self, now: u64) -> bool {
        self.connections == 0 && now.saturating_sub(self.refilled) >= 1000
    }
}

impl Visit {
    /// Sets whether the client is logged in; there is a lower limit for strangers.
    pub fn set_logged_in(&mut self, logged_in: bool) {
        if self.stranger != logged_in {
            return;
        }
        self.stranger = !logged_in;
        for network in self.counted.into_iter().flatten() {
            self.clients.change(network, |count| {
                count.strangers = match logged_in {
                    true => count.strangers.saturating_sub(1),
                    false => count.strangers.saturating_add(1),
                };
            });
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let strangers = u32::from(self.stranger);
        for network in self.counted.into_iter().flatten() {
            self.clients.change(network, |count| {
                count.connections = count.connections.saturating_sub(1);
                count.strangers = count.strangers.saturating_sub(strangers);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn limits(address: [u32; 3], network: [u32; 3]) -> ClientLimits {
        let share = |[connections, strangers, new_per_second]: [u32; 3]| ClientShare {
            connections,
            strangers,
            new_per_second,
        };
        ClientLimits { address: share(address), network: share(network), allow: Vec::new() }
    }

    /// Visits of these addresses, at once; the result of the last one.
    fn visits(limits: ClientLimits, addresses: &[&str]) -> Result<(), Excess> {
        let clients = Clients::new(limits);
        let mut kept = Vec::new();
        let mut last = Ok(());
        for address in addresses {
            last = clients.admit_at(ip(address), SECOND).map(|visit| kept.push(visit));
        }
        last
    }

    #[test]
    fn addresses_and_networks_are_limited() {
        let address = |limit| limits(limit, [0; 3]);
        let network = |limit| limits([0; 3], limit);
        let (a, b, c) = ("192.0.2.1", "192.0.2.200", "192.0.3.1");
        let cases: &[(ClientLimits, &[&str], Result<(), Excess>)] = &[
            (address([2, 0, 0]), &[a, a], Ok(())),
            (address([2, 0, 0]), &[a, a, a], Err(Excess::Connections)),
            (address([2, 0, 0]), &[a, a, b], Ok(())),
            (address([2, 0, 0]), &[a, a, "::ffff:192.0.2.1"], Err(Excess::Connections)),
            (address([0, 2, 0]), &[a, a, a], Err(Excess::Strangers)),
            (address([0, 0, 2]), &[a, a, a], Err(Excess::NewConnections)),
            (network([2, 0, 0]), &[a, b, a], Err(Excess::Connections)),
            (network([2, 0, 0]), &[a, b, c], Ok(())),
            // One host has a /64, one site a /48.
            (address([1, 0, 0]), &["2001:db8::1", "2001:db8::2"], Err(Excess::Connections)),
            (address([1, 0, 0]), &["2001:db8::1", "2001:db8:0:1::1"], Ok(())),
            (network([1, 0, 0]), &["2001:db8::1", "2001:db8:0:1::1"], Err(Excess::Connections)),
            (network([1, 0, 0]), &["2001:db8::1", "2001:db8:1::1"], Ok(())),
            (address([0; 3]), &[a, a, a], Ok(())),
        ];
        for (limits, addresses, expected) in cases {
            assert_eq!(visits(limits.clone(), addresses), *expected, "{limits:?} {addresses:?}");
        }
    }

    #[test]
    fn a_log_in_and_an_end_make_room() {
        let clients = Clients::new(limits([3, 1, 0], [3, 1, 0]));
        let admit = |address| clients.admit_at(ip(address), SECOND).map(|visit| visit.unwrap());
        let mut first = admit("192.0.2.1").unwrap();
        assert_eq!(admit("192.0.2.2").err(), Some(Excess::Strangers));
        first.set_logged_in(true);
        let second = admit("192.0.2.1").unwrap();
        first.set_logged_in(false);
        assert_eq!(admit("192.0.2.1").err(), Some(Excess::Strangers));
        drop((first, second));
        drop(admit("192.0.2.1").unwrap());
        let all = clients.stripes.iter().flat_map(|stripe| {
            let counts = &stripe.lock().unwrap().counts;
            counts.values().map(|c| (c.connections, c.strangers)).collect::<Vec<_>>()
        });
        assert!(all.into_iter().all(|counts| counts == (0, 0)));
    }

    #[test]
    fn new_connections_come_at_a_rate() {
        let clients = Clients::new(limits([0, 0, 10], [0; 3]));
        let mut admitted = 0;
        for millis in 0..5_000 {
            let now = Duration::from_millis(millis);
            admitted += u32::from(clients.admit_at(ip("192.0.2.1"), now).is_ok());
        }
        assert_eq!(admitted, 59, "ten at once, then ten a second");
    }

    #[test]
    fn whom_the_list_allows_is_not_counted() {
        let allow = ["127.0.0.0/8", "::1", "2001:db8::/32"].map(|text| text.parse().unwrap());
        let limits = ClientLimits { allow: allow.to_vec(), ..limits([1, 1, 1], [1, 1, 1]) };
        let clients = Clients::new(limits);
        for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "2001:db8:ff::"] {
            for _ in 0..3 {
                assert!(clients.admit_at(ip(address), SECOND).unwrap().is_none(), "{address}");
            }
        }
        assert!(clients.admit_at(ip("128.0.0.1"), SECOND).unwrap().is_some());
        assert!(clients.stripes.iter().all(|s| s.lock().unwrap().counts.len() <= 2));
    }

    #[test]
    fn the_table_is_bounded_and_forgets() {
        let clients = Clients::with_room_for(limits([1, 0, 0], [0; 3]), 64 * STRIPES);
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(n));
        let size = || clients.stripes.iter().map(|s| s.lock().unwrap().counts.len()).sum::<usize>();
        let kept: Vec<_> =
            (0..20_000).map(|n| clients.admit_at(address(n), SECOND).unwrap()).collect();
        assert_eq!(size(), 64 * STRIPES, "and the rest was let in");
        drop(kept);
        for n in 0..20_000 {
            let now = Duration::from_millis(u64::from(n) * 100);
            drop(clients.admit_at(address(1 << 30 | n), now).unwrap());
        }
        assert!(size() <= (SWEEP_MIN + 1) * STRIPES);
    }
}
