//! Hosts that have sent more or fewer replies than they were sent commands. For a while they get
//! one command at a time, so that each reply has its command without counting.
//!
//! Ownership: one per shard, held by the carrier and shared with its sessions. Called by `remote`.

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::model::Moment;

/// Hosts remembered.
const MISCOUNTS_MAX: usize = 1000;
/// How long.
const MISCOUNTS_AGE: Duration = Duration::from_secs(3600);

/// By name and address: until when.
#[derive(Default)]
pub(super) struct Miscounts {
    hosts: RefCell<BTreeMap<(String, SocketAddr), Moment>>,
}

impl Miscounts {
    pub(super) fn note(&self, host: &str, peer: SocketAddr, now: Moment) {
        let mut hosts = self.hosts.borrow_mut();
        let key = (host.to_owned(), peer);
        if hosts.len() >= MISCOUNTS_MAX && !hosts.contains_key(&key) {
            hosts.retain(|_, until| now < *until);
            if hosts.len() >= MISCOUNTS_MAX {
                let first = hosts.iter().min_by_key(|(_, until)| **until);
                let first = first.map(|(key, _)| key.clone());
                first.and_then(|first| hosts.remove(&first));
            }
        }
        hosts.insert(key, now.after(MISCOUNTS_AGE));
    }

    pub(super) fn has(&self, host: &str, peer: SocketAddr, now: Moment) -> bool {
        let hosts = self.hosts.borrow();
        // Mostly there is none.
        !hosts.is_empty() && hosts.get(&(host.to_owned(), peer)).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn hosts_are_remembered_for_a_while_and_not_without_end() {
        let miscounts = Miscounts::default();
        let peer = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let start = Moment(0);
        assert!(!miscounts.has("mx", peer(25), start));
        miscounts.note("mx", peer(25), start);
        assert!(miscounts.has("mx", peer(25), start));
        assert!(!miscounts.has("mx", peer(26), start) && !miscounts.has("my", peer(25), start));
        assert!(!miscounts.has("mx", peer(25), start.after(MISCOUNTS_AGE)));
        let later = start.after(Duration::from_secs(1));
        for port in 0..2 * MISCOUNTS_MAX as u16 {
            miscounts.note("mz", peer(port), later);
        }
        assert_eq!(miscounts.hosts.borrow().len(), MISCOUNTS_MAX);
        assert!(!miscounts.has("mx", peer(25), later), "the first one had to go");
    }
}
