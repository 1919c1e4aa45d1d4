//! Shard-local counters and latency histograms: plain memory that only its shard writes. A reader
//! asks each shard for a copy ([`ShardMetrics::snapshot`]) and merges or renders it.
//!
//! Services record commands and counts; the server copies store probes into gauges before it
//! takes a snapshot; `admin` and `ringmail top` read.
//!
//! Invariants: recording takes no lock and compares no strings: a name is looked up by the address
//! of its text in the program. Series exist from their first use and are never dropped; since names
//! are `'static`, the program's text bounds their number.

mod prometheus;
mod snapshot;

use std::{cell::RefCell, rc::Rc, time::Duration};

use hashbrown::HashMap;
use hdrhistogram::Histogram;

pub use self::{
    prometheus::render_prometheus,
    snapshot::{CommandSummary, ConnectionSummary, Labelled, MetricsSnapshot},
};

/// The protocol: the first label of most series.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    Smtp,
    Submission,
    Lmtp,
    Pop3,
    Imap,
    /// SMTP and LMTP as a client.
    Relay,
}

impl Protocol {
    pub const ALL: [Protocol; 6] = [
        Protocol::Smtp,
        Protocol::Submission,
        Protocol::Lmtp,
        Protocol::Pop3,
        Protocol::Imap,
        Protocol::Relay,
    ];

    /// The value of the label.
    pub fn label(self) -> &'static str {
        match self {
            Protocol::Smtp => "smtp",
            Protocol::Submission => "submission",
            Protocol::Lmtp => "lmtp",
            Protocol::Pop3 => "pop3",
            Protocol::Imap => "imap",
            Protocol::Relay => "relay",
        }
    }
}

/// Longer latencies are recorded as this: ten minutes, in microseconds.
const LATENCY_MAX_US: u64 = 600_000_000;

/// Significant decimal digits that a histogram keeps: under one per cent of error.
const LATENCY_DIGITS: u8 = 2;

/// One shard's metrics. Interior mutability: never shared with another thread.
#[derive(Default)]
pub struct ShardMetrics {
    series: RefCell<Series>,
}

#[derive(Default)]
struct Series {
    connections: [ConnectionSummary; Protocol::ALL.len()],
    commands: Named<Protocol, CommandSummary>,
    counters: Named<(), u64>,
    gauges: Named<(), u64>,
}

/// An open connection of this shard.
pub struct Seat {
    metrics: Rc<ShardMetrics>,
    protocol: Protocol,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.metrics.connection_closed(self.protocol);
    }
}

impl ShardMetrics {
    pub fn new() -> ShardMetrics {
        ShardMetrics::default()
    }

    /// One command answered: `command` is a fixed upper-case word ("RCPT", "FETCH", "other").
    pub fn command(&self, protocol: Protocol, command: &'static str, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.series.borrow_mut().commands.entry(protocol, command).record(micros);
    }

    /// Counts a connection as open until the seat is dropped. This is the only way to count it: the
    /// task that runs the session on this shard holds the seat.
    pub fn seat(self: &Rc<Self>, protocol: Protocol) -> Seat {
        self.connection_opened(protocol);
        Seat { metrics: self.clone(), protocol }
    }

    fn connection_opened(&self, protocol: Protocol) {
        let mut series = self.series.borrow_mut();
        let connections = &mut series.connections[protocol as usize];
        connections.open += 1;
        connections.total += 1;
    }

    fn connection_closed(&self, protocol: Protocol) {
        let mut series = self.series.borrow_mut();
        let connections = &mut series.connections[protocol as usize];
        connections.open = connections.open.saturating_sub(1);
    }

    /// Adds to a named counter, e.g. "smtp_messages_accepted_total".
    pub fn count(&self, name: &'static str, by: u64) {
        let mut series = self.series.borrow_mut();
        let counter = series.counters.entry((), name);
        *counter = counter.wrapping_add(by);
    }

    /// Sets a named gauge, e.g. "store_accounts_in_memory".
    pub fn gauge(&self, name: &'static str, value: u64) {
        *self.series.borrow_mut().gauges.entry((), name) = value;
    }

    /// A copy for another thread.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let series = self.series.borrow();
        MetricsSnapshot {
            connections: series.connections,
            commands: series
                .commands
                .iter()
                .map(|(protocol, name, summary)| ((protocol, name), summary.clone()))
                .collect(),
            counters: series.counters.iter().map(|(_, name, value)| (name, *value)).collect(),
            gauges: series.gauges.iter().map(|(_, name, value)| (name, *value)).collect(),
            labelled: Default::default(),
        }
    }
}

impl CommandSummary {
    fn record(&mut self, micros: u64) {
        let micros = micros.clamp(1, LATENCY_MAX_US);
        self.sum_us += micros;
        // Fails only if a histogram cannot grow; ours can.
        let _ = self.latency_us.record(micros);
    }
}

impl Default for CommandSummary {
    #[allow(clippy::unreachable, reason = "constants of ours")]
    fn default() -> CommandSummary {
        // Grows with the largest value seen, so that a fast command's histogram stays under 1 KiB.
        let mut latency_us = Histogram::new_with_max(LATENCY_MIN_TOP_US, LATENCY_DIGITS)
            .unwrap_or_else(|_| unreachable!("constants that hdrhistogram takes"));
        latency_us.auto(true);
        CommandSummary { latency_us, sum_us: 0 }
    }
}

/// What a new histogram can hold before it grows, microseconds.
const LATENCY_MIN_TOP_US: u64 = 2;

/// Values by a small key and a static name.
struct Named<K, V> {
    values: Vec<(K, &'static str, V)>,
    /// Index in `values` by key and by address and length of the name's text. The compiler may emit
    /// one text twice: then two entries lead to one value.
    by_address: HashMap<(K, usize, usize), usize>,
}

impl<K, V> Default for Named<K, V> {
    fn default() -> Named<K, V> {
        Named { values: Vec::new(), by_address: HashMap::new() }
    }
}

impl<K: Copy + Eq + std::hash::Hash, V: Default> Named<K, V> {
    fn entry(&mut self, key: K, name: &'static str) -> &mut V {
        let address = (key, name.as_ptr() as usize, name.len());
        let index = match self.by_address.get(&address) {
            Some(&index) => index,
            None => {
                let known = self.values.iter().position(|(k, n, _)| *k == key && *n == name);
                let index = known.unwrap_or_else(|| {
                    self.values.push((key, name, V::default()));
                    self.values.len() - 1
                });
                self.by_address.insert(address, index);
                index
            }
        };
        &mut self.values[index].2
    }

    fn iter(&self) -> impl Iterator<Item = (K, &'static str, &V)> {
        self.values.iter().map(|(key, name, value)| (*key, *name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_at_two_addresses_is_one_series() {
        let copy: &'static str = Box::leak("RETR".to_owned().into_boxed_str());
        let metrics = ShardMetrics::new();
        metrics.command(Protocol::Pop3, "RETR", Duration::from_micros(100));
        metrics.command(Protocol::Pop3, copy, Duration::from_micros(300));
        metrics.command(Protocol::Imap, copy, Duration::ZERO);
        metrics.command(Protocol::Imap, "FETCH", Duration::MAX);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.commands.len(), 3);
        let retr = &snapshot.commands[&(Protocol::Pop3, "RETR")];
        assert_eq!((retr.latency_us.len(), retr.sum_us), (2, 400));
        assert_eq!(snapshot.commands[&(Protocol::Imap, "RETR")].sum_us, 1);
        assert_eq!(snapshot.commands[&(Protocol::Imap, "FETCH")].sum_us, LATENCY_MAX_US);
    }

    #[test]
    fn counters_and_gauges() {
        let metrics = ShardMetrics::new();
        metrics.count("messages_total", 2);
        metrics.count("messages_total", 3);
        metrics.gauge("accounts", 7);
        metrics.gauge("accounts", 4);
        metrics.connection_opened(Protocol::Lmtp);
        metrics.connection_opened(Protocol::Lmtp);
        metrics.connection_closed(Protocol::Lmtp);
        metrics.connection_closed(Protocol::Smtp);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.counters["messages_total"], 5);
        assert_eq!(snapshot.gauges["accounts"], 4);
        let connections = |protocol| snapshot.connections[protocol as usize];
        assert_eq!(connections(Protocol::Lmtp), ConnectionSummary { open: 1, total: 2 });
        assert_eq!(connections(Protocol::Smtp), ConnectionSummary { open: 0, total: 0 });
    }
}
