//! A copy of the metrics of one shard, or of several merged. Plain data that may be sent to other
//! threads.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::Protocol;

/// Metrics as they were when the copy was made.
#[derive(Clone, Default, Debug)]
pub struct MetricsSnapshot {
    /// By `Protocol as usize`.
    pub connections: [ConnectionSummary; Protocol::ALL.len()],
    pub commands: BTreeMap<(Protocol, &'static str), CommandSummary>,
    pub counters: BTreeMap<&'static str, u64>,
    pub gauges: BTreeMap<&'static str, u64>,
    /// Series with a label of their own, by name.
    pub labelled: BTreeMap<&'static str, Labelled>,
}

/// A series with one label.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Labelled {
    pub is_counter: bool,
    pub label: &'static str,
    pub samples: Vec<(String, u64)>,
}

const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<MetricsSnapshot>();
};

/// Connections of one protocol.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ConnectionSummary {
    pub open: u64,
    /// Since the start.
    pub total: u64,
}

/// How long one command took, from its parsing to its reply in the output buffer.
#[derive(Clone, Debug)]
pub struct CommandSummary {
    /// Microseconds.
    pub latency_us: Histogram<u64>,
    /// Of all recorded values, exactly.
    pub sum_us: u64,
}

impl MetricsSnapshot {
    /// Adds another shard's numbers; gauges are summed too.
    pub fn merge(&mut self, other: &MetricsSnapshot) {
        for (ours, theirs) in self.connections.iter_mut().zip(&other.connections) {
            ours.open += theirs.open;
            ours.total += theirs.total;
        }
        for (key, theirs) in &other.commands {
            let ours = self.commands.entry(*key).or_default();
            // Fails only if the target cannot grow; ours always can.
            let _ = ours.latency_us.add(&theirs.latency_us);
            ours.sum_us += theirs.sum_us;
        }
        for (name, value) in &other.counters {
            *self.counters.entry(name).or_default() += value;
        }
        for (name, value) in &other.gauges {
            *self.gauges.entry(name).or_default() += value;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::ShardMetrics, *};

    #[test]
    fn merging_adds() {
        let shards = [ShardMetrics::new(), ShardMetrics::new()];
        for (shard, millis) in shards.iter().zip([1, 100]) {
            shard.command(Protocol::Imap, "FETCH", Duration::from_millis(millis));
            shard.count("fetched_total", millis);
            shard.gauge("accounts", 1);
            shard.connection_opened(Protocol::Imap);
        }
        shards[1].command(Protocol::Imap, "IDLE", Duration::from_millis(1));
        let mut sum = shards[0].snapshot();
        sum.merge(&shards[1].snapshot());
        let fetch = &sum.commands[&(Protocol::Imap, "FETCH")];
        assert_eq!((fetch.latency_us.len(), fetch.sum_us), (2, 101_000));
        assert!(fetch.latency_us.max() >= 100_000);
        assert_eq!(sum.commands[&(Protocol::Imap, "IDLE")].latency_us.len(), 1);
        assert_eq!(sum.counters["fetched_total"], 101);
        assert_eq!(sum.gauges["accounts"], 2);
        assert_eq!(sum.connections[Protocol::Imap as usize].open, 2);
    }
}
