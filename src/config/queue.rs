//! The way out in the configuration: `[queue]` and the `[[site]]` tables.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use serde::Deserialize;

use crate::{
    queue::{QueueOptions, Shape, SiteLimits},
    service::relay::RelayOptions,
};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSection {
    /// Pauses between attempts; the last one repeats.
    #[serde(deserialize_with = "times")]
    pub retry: Vec<Duration>,
    #[serde(with = "humantime_serde")]
    pub delay_warning: Duration,
    #[serde(with = "humantime_serde")]
    pub expire: Duration,
    pub return_max: ByteSize,
    pub messages_per_partition: u32,
    pub connections_per_shard: usize,
    pub connections_per_site: usize,
    pub messages_per_connection: u32,
    pub recipients_per_transaction: usize,
    /// Messages a minute; 0 = no limit.
    pub rate_per_site: u32,
    /// How long a connection without work is kept.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Our name in EHLO; the host name unless set.
    pub hello: Option<String>,
    pub sources: Vec<IpAddr>,
    pub port: u16,
    /// Authorities for verified TLS; the host's unless set.
    pub ca_file: Option<PathBuf>,
}

impl Default for QueueSection {
    fn default() -> QueueSection {
        let RelayOptions { port, sources, client, queue, .. } = RelayOptions::default();
        QueueSection {
            retry: queue.retry,
            delay_warning: queue.delay_warning,
            expire: queue.expire,
            return_max: ByteSize(queue.return_max),
            messages_per_partition: queue.messages_max,
            connections_per_shard: queue.connections,
            connections_per_site: queue.site.connections,
            messages_per_connection: queue.site.messages_per_connection,
            recipients_per_transaction: queue.site.recipients,
            rate_per_site: queue.site.rate,
            idle: queue.idle,
            connect_timeout: client.connect_timeout,
            hello: None,
            sources,
            port,
            ca_file: None,
        }
    }
}

/// One `[[site]]`: limits of the sites that it names.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteTable {
    /// Destinations or hosts.
    pub names: Vec<String>,
    pub connections: Option<usize>,
    pub messages_per_connection: Option<u32>,
    pub recipients_per_transaction: Option<usize>,
    /// Messages a minute; 0 = no limit.
    pub rate: Option<u32>,
}

fn times<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parse = |text: &String| {
        humantime_serde::re::humantime::parse_duration(text).map_err(serde::de::Error::custom)
    };
    texts.iter().map(parse).collect()
}

impl QueueSection {
    /// Seconds for which FUTURERELEASE may hold a message: it must not expire meanwhile.
    pub(super) fn hold_max(&self) -> u32 {
        u32::try_from(self.expire.as_secs()).unwrap_or(u32::MAX)
    }

    /// `has_dns`: whether domains without a route can be reached.
    pub(super) fn options(&self, sites: &[SiteTable], has_dns: bool) -> RelayOptions {
        let site = SiteLimits {
            connections: self.connections_per_site,
            messages_per_connection: self.messages_per_connection,
            recipients: self.recipients_per_transaction,
            rate: self.rate_per_site,
        };
        let shape = |table: &SiteTable| {
            let limits = SiteLimits {
                connections: table.connections.unwrap_or(site.connections),
                messages_per_connection: table
                    .messages_per_connection
                    .unwrap_or(site.messages_per_connection),
                recipients: table.recipients_per_transaction.unwrap_or(site.recipients),
                rate: table.rate.unwrap_or(site.rate),
            };
            let shape = move |name: &String| Shape { pattern: name.clone(), limits };
            table.names.iter().map(shape).collect::<Vec<_>>()
        };
        let mut options = RelayOptions {
            has_dns,
            hello: self.hello.clone().unwrap_or_default(),
            port: self.port,
            sources: self.sources.clone(),
            queue: QueueOptions {
                retry: self.retry.clone(),
                delay_warning: self.delay_warning,
                expire: self.expire,
                return_max: self.return_max.0,
                messages_max: self.messages_per_partition,
                connections: self.connections_per_shard,
                idle: self.idle,
                site,
                shapes: sites.iter().flat_map(shape).collect(),
                ..QueueOptions::default()
            },
            ..RelayOptions::default()
        };
        options.client.connect_timeout = self.connect_timeout;
        // A host that hangs keeps a message that long: there must be time left for other attempts.
        options.client.limit(self.expire / 4);
        options
    }
}
