//! The only place that collects a shard's series: those recorded by services, and current counts of
//! the store, connections, directory and queue.

use std::collections::BTreeMap;

use crate::{
    metrics::{Labelled, MetricsSnapshot},
    model::{MailClass, ShardId},
    queue::SiteFacts,
    runtime::resources::ShardResources,
    service::{Shard, authentication},
    store::{Partition, StoreProbe},
};

/// All series of this shard, for monitors.
pub(super) fn snapshot(shard: &Shard) -> MetricsSnapshot {
    let gauges =
        [store(shard), connections(), directory(shard), relay(shard), load(shard)].concat();
    gauges.into_iter().for_each(|(name, value)| shard.metrics.gauge(name, value));
    let mut snapshot = shard.metrics.snapshot();
    snapshot.labelled = sites(shard);
    snapshot.labelled.extend(classes(shard));
    snapshot
}

/// Sites of a shard with series of their own.
const SITES_SHOWN: usize = 20;

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

/// How busy the shard is.
fn load(shard: &Shard) -> Series {
    let lag = u64::try_from(shard.load.lag().as_micros()).unwrap_or(u64::MAX);
    vec![("lag_microseconds", lag), ("lag_level", shard.load.level().number())]
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

/// The queue for other servers.
fn relay(shard: &Shard) -> Series {
    let queue = shard.relay();
    let now = shard.executor.now();
    let age = queue.oldest().map_or(0, |arrived| now.0.saturating_sub(arrived.0) / 1_000_000);
    vec![
        ("relay_queue_messages", queue.len() as u64),
        ("relay_queue_reading", u64::from(!queue.is_read())),
        ("relay_queue_bytes", queue.octets()),
        ("relay_queue_oldest_seconds", u64::try_from(age).unwrap_or(0)),
        ("relay_connections", queue.connections() as u64),
    ]
}

/// The busiest sites of this shard.
fn sites(shard: &Shard) -> BTreeMap<&'static str, Labelled> {
    let sites = shard.relay().sites(SITES_SHOWN);
    if sites.is_empty() {
        return BTreeMap::new();
    }
    let family = |is_counter: bool, value: fn(&SiteFacts) -> u64| Labelled {
        is_counter,
        label: "site",
        samples: sites.iter().map(|site| (site.name.clone(), value(site))).collect(),
    };
    BTreeMap::from([
        ("relay_site_ready", family(false, |site| site.ready as u64)),
        ("relay_site_connections", family(false, |site| site.connections as u64)),
        ("relay_site_delivered_total", family(true, |site| site.delivered)),
        ("relay_site_deferred_total", family(true, |site| site.deferred)),
    ])
}

/// What each class of mail has of the shard's limits.
fn classes(shard: &Shard) -> BTreeMap<&'static str, Labelled> {
    let resources = ShardResources::current();
    let family = |is_counter, value: &dyn Fn(MailClass) -> usize| {
        let sample = |class: MailClass| (class.name().to_owned(), value(class) as u64);
        let samples = MailClass::ALL.into_iter().map(sample).collect();
        Labelled { is_counter, label: "class", samples }
    };
    BTreeMap::from([
        ("class_connections", family(false, &|class| resources.connections().of(class))),
        ("class_message_bytes", family(false, &|class| shard.messages.held_by_class().of(class))),
        ("class_queue_messages", family(false, &|class| shard.relay().len_of(class))),
        ("class_accepted_total", family(true, &|class| shard.load.accepted().of(class))),
        ("class_put_off_total", family(true, &|class| shard.load.put_off().of(class))),
    ])
}
