//! The only place that collects a shard's series: those recorded by services, and current counts of
//! the store, connections and directory.

use crate::{
    metrics::MetricsSnapshot,
    model::ShardId,
    runtime::resources::ShardResources,
    service::{Shard, authentication},
    store::{Partition, StoreProbe},
};

/// All series of this shard, for monitors.
pub(super) fn snapshot(shard: &Shard) -> MetricsSnapshot {
    let gauges = [store(shard), connections(), directory(shard)].concat();
    gauges.into_iter().for_each(|(name, value)| shard.metrics.gauge(name, value));
    shard.metrics.snapshot()
}

type Series = Vec<(&'static str, u64)>;

/// All its partitions together.
fn store(shard: &Shard) -> Series {
    let partitions = || shard.partitions.iter().flatten();
    let mut sums = StoreProbe::default().series();
    for partition in partitions() {
        for (sum, (_, value)) in sums.iter_mut().zip(partition.probe().series()) {
            sum.1 += value;
        }
    }
    let troubled = partitions().filter(|partition| partition.trouble().is_some()).count();
    let refusing = partitions().filter(|partition| partition.admits().is_err()).count();
    let mut series = sums.to_vec();
    series.push(("store_partitions_in_trouble", troubled as u64));
    series.push(("store_partitions_refusing_mail", refusing as u64));
    // All partitions are on one file system: each reports the same.
    let free = partitions().filter_map(Partition::free_space).min();
    series.extend(free.map(|free| ("store_free_bytes", free)));
    series
}

fn connections() -> Series {
    let resources = ShardResources::current();
    let refusals = resources.refusals();
    vec![
        ("connections_refused_shard_full_total", refusals.full.get()),
        ("connections_refused_client_connections_total", refusals.connections.get()),
        ("connections_refused_client_strangers_total", refusals.strangers.get()),
        ("connections_refused_client_rate_total", refusals.new_connections.get()),
        ("connection_buffer_bytes", resources.buffer_bytes() as u64),
        ("connections_gave_way_total", resources.buffers().gave_way()),
    ]
}

/// The log-ins held back: process-wide, reported by the first shard.
fn directory(shard: &Shard) -> Series {
    if shard.id != ShardId(0) {
        return Vec::new();
    }
    let blocks = shard.directory.blocks(authentication::now(shard));
    let pairs = blocks.iter().filter(|block| block.account.is_some()).count();
    let networks = blocks.len().saturating_sub(pairs);
    vec![
        ("authentication_blocked_accounts", pairs as u64),
        ("authentication_blocked_networks", networks as u64),
    ]
}
