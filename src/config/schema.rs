//! Every setting: its name, its allowed values, and the errors for anything else.
//!
//! [`Settings::parse`](super::Settings::parse) calls this first, so the values that serde reads
//! afterwards are valid. serde's own errors name Rust types, and not always the setting.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::Path,
    time::Duration,
};

use bytesize::ByteSize;
use humantime_serde::re::humantime;
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{ConfigProblem, ConfigProblems, problem::line_of, sections::https_url};
use crate::{
    directory::{Master, is_address, is_reply_text},
    events::EventTarget,
    model::Network,
};

/// One setting of the configuration file.
pub struct Setting {
    /// `section.key`, or `key` alone for settings above the first section.
    pub name: &'static str,
    /// As docs/ringmail.example.toml shows it.
    pub example: &'static str,
    /// Whether a change takes effect with a reload; without it, only after a restart.
    pub reloads: bool,
    kind: Kind,
    need: Need,
}

/// What the absence of a setting means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// An error; in a section, only if the section is there.
    Required,
    /// The example is the default.
    Default,
    /// The setting has no value.
    Optional,
}

/// The type and range of a setting.
#[derive(Clone, Copy)]
enum Kind {
    HostName,
    HostNames,
    Path,
    /// The target of events: a path, or the name of another target.
    Target,
    /// A user or group.
    Name,
    Flag,
    /// Addresses to listen on.
    Addresses,
    /// DNS servers: addresses, with a port or not.
    Servers,
    /// An address with a port.
    Server,
    Networks,
    /// The domains of a route.
    RouteDomains,
    /// A host, with or without a port.
    Host,
    /// Of a reply.
    Text,
    Mailboxes,
    /// One mail address.
    Mailbox,
    /// Characters between a name and the detail of a sub-address.
    Separators,
    /// Pairs "old=new" of domains.
    Rewrites,
    /// Who may act for whom.
    Masters,
    /// Of HTTPS.
    Url,
    OneOf(&'static [&'static str]),
    Count(Bounds),
    /// In octets.
    Size(Bounds),
    /// In microseconds.
    Time(Bounds),
    /// A list of times, at least one.
    Times(Bounds),
    /// Addresses without ports.
    Hosts,
    /// Of sites: domains and hosts, `*.` for those below.
    SiteNames,
}

use Kind::{
    Addresses, Flag, Host, HostName, HostNames, Mailboxes, Masters, Name, Networks, OneOf,
    Rewrites, RouteDomains, Separators, Server, Servers, Text,
};

#[derive(Clone, Copy)]
struct Bounds {
    least: u64,
    most: u64,
    /// The meaning of 0, where it is not an ordinary amount.
    zero: Option<&'static str>,
}

impl Bounds {
    fn allow(self, amount: u64) -> bool {
        (self.zero.is_some() && amount == 0) || (self.least..=self.most).contains(&amount)
    }
}

impl Kind {
    const fn or_zero(self, meaning: &'static str) -> Kind {
        match self {
            Kind::Count(bounds) => Kind::Count(Bounds { zero: Some(meaning), ..bounds }),
            Kind::Size(bounds) => Kind::Size(Bounds { zero: Some(meaning), ..bounds }),
            Kind::Time(bounds) => Kind::Time(Bounds { zero: Some(meaning), ..bounds }),
            other => other,
        }
    }
}

const fn count(least: u64, most: u64) -> Kind {
    Kind::Count(Bounds { least, most, zero: None })
}

const fn size(least: u64, most: u64) -> Kind {
    Kind::Size(Bounds { least, most, zero: None })
}

const fn time(least: u64, most: u64) -> Kind {
    Kind::Time(Bounds { least, most, zero: None })
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// More than any disk has, and far from where sums of sizes would overflow.
const PIB: u64 = 1 << 50;

const MILLISECOND: u64 = 1_000;
const SECOND: u64 = 1_000_000;
/// No useful wait is longer, and it can be added to any clock reading without overflow.
const WEEK: u64 = 7 * 24 * 3600 * SECOND;

/// Larger messages, with the header fields that we prepend, would exceed the sizes that IMAP can
/// express (RFC 3501 9, `number`).
const MESSAGE_MOST: u64 = 2 * GIB;

/// Times of the queue: up to four weeks.
const LONG: Bounds = Bounds { least: 100 * MILLISECOND, most: 4 * WEEK, zero: None };

const fn setting(name: &'static str, kind: Kind, example: &'static str) -> Setting {
    Setting { name, example, reloads: false, kind, need: Need::Default }
}

const fn optional(name: &'static str, kind: Kind, example: &'static str) -> Setting {
    Setting { name, example, reloads: false, kind, need: Need::Optional }
}

const fn required(name: &'static str, kind: Kind, example: &'static str) -> Setting {
    Setting { name, example, reloads: false, kind, need: Need::Required }
}

const MASTERS_EXAMPLE: &str = "[\"admin@example.org=*\", \"desk@example.org=@example.net\"]";

/// In the order of docs/ringmail.example.toml. Minimums prevent values that would stop the server;
/// maximums prevent overflow and excessive allocation.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    required("hostname", HostName, "\"mail.example.org\""),
    required("domains", HostNames, "[\"example.org\", \"example.net\"]").reloaded(),
    required("data_dir", Kind::Path, "\"/var/lib/ringmail\""),
    optional("users_file", Kind::Path, "\"/etc/ringmail/users\"").reloaded(),
    optional("aliases_file", Kind::Path, "\"/etc/ringmail/aliases\"").reloaded(),
    optional("groups_file", Kind::Path, "\"/etc/ringmail/groups\"").reloaded(),
    optional("user", Name, "\"ringmail\""),
    optional("group", Name, "\"ringmail\""),
    setting("listen.smtp", Addresses, "[\"0.0.0.0:25\"]"),
    setting("listen.submission", Addresses, "[\"0.0.0.0:587\"]"),
    setting("listen.submissions", Addresses, "[\"0.0.0.0:465\"]"),
    setting("listen.lmtp", Addresses, "[\"127.0.0.1:24\"]"),
    setting("listen.pop3", Addresses, "[\"0.0.0.0:110\"]"),
    setting("listen.pop3s", Addresses, "[\"0.0.0.0:995\"]"),
    setting("listen.imap", Addresses, "[\"0.0.0.0:143\"]"),
    setting("listen.imaps", Addresses, "[\"0.0.0.0:993\"]"),
    setting("listen.admin", Addresses, "[\"127.0.0.1:8080\"]"),
    optional("listen.proxy_networks", Networks, "[\"192.0.2.7\", \"2001:db8::/64\"]"),
    required("tls.certificate", Kind::Path, "\"/etc/ringmail/fullchain.pem\""),
    required("tls.key", Kind::Path, "\"/etc/ringmail/privkey.pem\""),
    optional("tls.client_authorities", Kind::Path, "\"/etc/ringmail/users-ca.pem\""),
    setting("process.core_dumps", Flag, "false"),
    setting("runtime.shards", count(1, SHARDS_MAX as u64).or_zero("one for each core"), "0"),
    setting("runtime.connections_per_shard", count(1, 10_000_000), "100000"),
    setting("runtime.buffers_per_shard", size(256 * KIB, PIB), "\"64MiB\""),
    setting("runtime.lag_max", time(10 * MILLISECOND, WEEK).or_zero("no limit"), "\"1s\""),
    setting("runtime.backlog", count(1, 1_000_000), "4096"),
    setting("runtime.shutdown_timeout", time(0, WEEK), "\"10s\""),
    setting("runtime.spin_before_park", time(0, SECOND), "\"0s\""),
    // A shard polls its ring only in between.
    setting("runtime.commit_gather", time(0, 100 * MILLISECOND), "\"1500us\""),
    setting("runtime.write_timeout", time(SECOND, WEEK), "\"5m\""),
    setting("runtime.tls_handshake_timeout", time(SECOND, WEEK), "\"30s\""),
    setting("limits.allow", Networks, "[\"127.0.0.0/8\", \"::1\"]"),
    setting("limits.connections_per_address", count(1, 10_000_000).or_zero("no limit"), "1000"),
    setting("limits.connections_per_network", count(1, 10_000_000).or_zero("no limit"), "4000"),
    setting("limits.strangers_per_address", count(1, 10_000_000).or_zero("no limit"), "100"),
    setting("limits.strangers_per_network", count(1, 10_000_000).or_zero("no limit"), "400"),
    setting("limits.new_per_address", count(1, 10_000_000).or_zero("no limit"), "50"),
    setting("limits.new_per_network", count(1, 10_000_000).or_zero("no limit"), "200"),
    setting("store.partitions", count(1, PARTITIONS_MAX as u64).or_zero("one for each shard"), "0"),
    setting("store.segment_size", size(MIB, 4 * GIB), "\"64MiB\""),
    setting("store.checkpoint_interval", size(256 * KIB, PIB), "\"64MiB\""),
    setting("store.account_budget", size(256 * KIB, PIB), "\"64MiB\""),
    setting("store.card_budget", size(256 * KIB, PIB), "\"32MiB\""),
    setting("store.write_buffer", size(256 * KIB, PIB), "\"16MiB\""),
    setting("store.garbage_share", count(10, 90).or_zero("never"), "30"),
    setting("store.compaction_rate", size(64 * KIB, PIB).or_zero("no limit"), "\"64MiB\""),
    setting("store.reserve", size(0, PIB), "\"8MiB\""),
    setting("store.free_space_min", size(0, PIB), "\"64MiB\""),
    setting("store.disk_timeout", time(100 * MILLISECOND, WEEK), "\"10s\""),
    setting("store.compression", OneOf(&["zstd", "off"]), "\"zstd\""),
    setting("store.compression_level", count(1, 19), "1"),
    setting("store.compression_min", size(0, PIB), "\"8KiB\""),
    // INBOX and the other folders of a new account.
    setting("store.mailboxes_per_account", count(5, 1_000_000), "10000"),
    // The number of UIDs is limited.
    setting("store.messages_per_account", count(1, u32::MAX as u64), "2000000"),
    setting("store.octets_per_account", size(KIB, PIB), "\"1TiB\""),
    setting("intake.memory_per_shard", size(256 * KIB, PIB), "\"32MiB\""),
    setting("intake.silence", time(SECOND, WEEK), "\"5m\""),
    setting("intake.rate_min", size(1, GIB).or_zero("any rate"), "\"256B\""),
    setting("intake.deadline", time(SECOND, WEEK), "\"1h\""),
    setting("smtp.message_size_max", size(KIB, MESSAGE_MOST), "\"50MiB\""),
    // A partition takes at most this many in one delivery.
    setting("smtp.recipients_max", count(1, 100_000), "1000"),
    setting("smtp.received_headers_max", count(1, 10_000), "100"),
    setting("smtp.bare_newline", OneOf(&["refuse", "normalise"]), "\"refuse\""),
    optional("smtp.relay_networks", Networks, "[\"192.0.2.0/24\"]").reloaded(),
    setting("smtp.vrfy", OneOf(&["unsure", "off", "known"]), "\"unsure\""),
    setting("smtp.expn", OneOf(&["off", "trusted", "all"]), "\"off\""),
    setting("smtp.etrn", OneOf(&["off", "trusted", "all"]), "\"off\""),
    optional("smtp.xclient_networks", Networks, "[\"192.0.2.7\"]"),
    optional("smtp.xforward_networks", Networks, "[\"192.0.2.7\"]"),
    setting("pop3.idle_timeout", time(SECOND, WEEK), "\"10m\""),
    setting("imap.idle_timeout", time(SECOND, WEEK), "\"30m\""),
    setting("imap.append_size_max", size(KIB, MESSAGE_MOST), "\"50MiB\""),
    setting("imap.append_messages_max", count(1, 1024), "1024"),
    setting("imap.append_octets_max", size(KIB, 16 * MESSAGE_MOST), "\"500MiB\""),
    setting("imap.literals", OneOf(&["plus", "minus"]), "\"plus\""),
    setting("imap.utf8", OneOf(&["accept", "only"]), "\"accept\""),
    setting("imap.message_limit", count(1_000, u32::MAX as u64).or_zero("no limit"), "0"),
    setting("imap.save_limit", count(1_000, u32::MAX as u64).or_zero("no limit"), "0"),
    setting("imap.unauthenticate", Flag, "true"),
    setting("imap.sessions_per_account", count(1, 10_000_000), "1000"),
    optional("imap.administrators", Mailboxes, "[\"admin@example.org\"]"),
    optional("imap.submitters", Mailboxes, "[\"submit@example.org\"]"),
    optional("imap.url_hosts", HostNames, "[\"imap.example.org\"]"),
    setting("quota.storage", size(KIB, PIB).or_zero("no limit"), "\"0B\""),
    setting("quota.messages", count(1, u32::MAX as u64).or_zero("no limit"), "0"),
    setting("quota.warn_at", count(1, 100).or_zero("never"), "90"),
    setting("quota.over", OneOf(&["reject", "defer"]), "\"reject\""),
    required("domain_quota.domains", HostNames, "[\"example.net\"]"),
    optional("domain_quota.storage", size(KIB, PIB).or_zero("no limit"), "\"5GiB\""),
    optional("domain_quota.messages", count(1, u32::MAX as u64).or_zero("no limit"), "100000"),
    setting("authentication.workers", count(1, 1024), "2"),
    setting("authentication.queue", count(1, 1_000_000), "256"),
    setting("authentication.free_failures", count(1, 100), "5"),
    setting("authentication.backoff_max", time(SECOND, WEEK), "\"1m\""),
    setting("authentication.network_failures", count(1, 100_000), "20"),
    // A session must log in within one minute.
    setting("authentication.failure_delay", time(0, 10 * SECOND), "\"2s\""),
    optional("authentication.trusted_networks", Networks, "[\"192.0.2.7\"]"),
    setting("authentication.certificate_name", OneOf(&["email", "common_name"]), "\"email\""),
    setting("authentication.scram", OneOf(&["when_all", "always", "never"]), "\"when_all\"")
        .reloaded(),
    setting("authentication.lmtp", Flag, "false"),
    optional("authentication.masters", Masters, MASTERS_EXAMPLE).reloaded(),
    optional("oauth.issuer", Name, "\"https://id.example.org\""),
    optional("oauth.audience", Name, "\"mail\""),
    setting("oauth.claim", Name, "\"email\""),
    optional("oauth.keys", Name, "\"https://id.example.org/keys.json\""),
    optional("oauth.introspection", Kind::Url, "\"https://id.example.org/introspect\""),
    optional("oauth.client_id", Name, "\"ringmail\""),
    optional("oauth.client_secret_file", Kind::Path, "\"/etc/ringmail/oauth-secret\""),
    setting("oauth.cache", time(0, 24 * 3600 * SECOND), "\"5m\""),
    optional("oauth.ca_file", Kind::Path, "\"/etc/ssl/certs/ca-certificates.crt\""),
    setting("dns.servers", Servers, "[]"),
    setting("dns.trust_ad", Flag, "false"),
    setting("dns.validate", Flag, "false"),
    optional("dns.trust_anchor", Kind::Path, "\"/etc/ringmail/root.key\""),
    setting("dns.timeout", time(100 * MILLISECOND, 60 * SECOND), "\"3s\""),
    setting("dns.attempts", count(1, 10), "2"),
    setting("dns.deadline", time(SECOND, 600 * SECOND), "\"30s\""),
    setting("dns.queue", count(1, 1_000_000), "1024"),
    setting("dns.ipv6", Flag, "true"),
    setting("dns.cache_entries", count(0, 10_000_000), "10000"),
    setting("dns.cache_age_max", time(0, WEEK), "\"1d\""),
    setting("dns.cache_age_unknown_max", time(0, WEEK), "\"1h\""),
    setting("dns.stale_age", time(0, WEEK), "\"1d\""),
    setting("addresses.separators", Separators, "\"+\"").reloaded(),
    optional("addresses.rewrite_senders", Rewrites, "[\"lan.example.org=example.org\"]").reloaded(),
    setting("addresses.rewrite_headers", Flag, "false").reloaded(),
    optional("addresses.verp_senders", Mailboxes, "[\"news@example.org\"]").reloaded(),
    optional("addresses.srs_domain", HostName, "\"example.org\"").reloaded(),
    optional("addresses.srs_key_file", Kind::Path, "\"/etc/ringmail/srs.key\"").reloaded(),
    required("route.domains", RouteDomains, "[\"partner.example\", \".partner.example\"]")
        .reloaded(),
    required("route.to", OneOf(&["local", "mx", "relay", "lmtp", "discard", "reject"]), "\"relay\"")
        .reloaded(),
    optional("route.host", Host, "\"smtp.partner.example:25\"").reloaded(),
    optional("route.mx", Flag, "false").reloaded(),
    optional("route.tls", OneOf(&["never", "opportunistic", "required", "verified"]), "\"verified\"")
        .reloaded(),
    optional("route.implicit_tls", Flag, "false").reloaded(),
    optional("route.user", Name, "\"relay@example.org\"").reloaded(),
    optional("route.password", Name, "\"secret\"").reloaded(),
    optional("route.password_file", Kind::Path, "\"/etc/ringmail/relay.password\"").reloaded(),
    optional("route.text", Text, "\"no mail for this domain\"").reloaded(),
    optional("route.accept_all", Flag, "false").reloaded(),
    optional("route.recipients_file", Kind::Path, "\"/etc/ringmail/partner.recipients\"")
        .reloaded(),
    setting("queue.retry", Kind::Times(LONG), "[\"5m\", \"15m\", \"30m\", \"1h\", \"2h\", \"4h\"]")
        .reloaded(),
    setting("queue.delay_warning", Kind::Time(LONG).or_zero("never"), "\"4h\"").reloaded(),
    setting("queue.expire", Kind::Time(LONG), "\"5d\"").reloaded(),
    setting("queue.return_max", size(0, GIB), "\"50KiB\"").reloaded(),
    setting("queue.messages_per_partition", count(1, 100_000_000), "1000000").reloaded(),
    setting("queue.connections_per_shard", count(1, 1_000_000), "1000").reloaded(),
    setting("queue.connections_per_site", count(1, 10_000), "20").reloaded(),
    setting("queue.messages_per_connection", count(1, 1_000_000), "100").reloaded(),
    setting("queue.recipients_per_transaction", count(1, 100_000), "100").reloaded(),
    setting("queue.rate_per_site", count(1, 60_000_000).or_zero("no limit"), "0").reloaded(),
    setting("queue.idle", time(0, 600 * SECOND), "\"2s\"").reloaded(),
    setting("queue.connect_timeout", time(SECOND, 600 * SECOND), "\"30s\""),
    optional("queue.hello", HostName, "\"out.example.org\""),
    optional("queue.sources", Kind::Hosts, "[\"192.0.2.7\", \"2001:db8::7\"]"),
    setting("queue.port", count(1, 65_535), "25"),
    optional("queue.ca_file", Kind::Path, "\"/etc/ssl/certs/ca-certificates.crt\""),
    required("site.names", Kind::SiteNames, "[\"big.example\", \"*.mx.big.example\"]").reloaded(),
    optional("site.connections", count(1, 10_000), "5").reloaded(),
    optional("site.messages_per_connection", count(1, 1_000_000), "20").reloaded(),
    optional("site.recipients_per_transaction", count(1, 100_000), "50").reloaded(),
    optional("site.rate", count(1, 60_000_000).or_zero("no limit"), "600").reloaded(),
    optional("https.local_networks", Networks, "[\"10.0.0.0/8\"]"),
    setting("mta_sts.check", Flag, "true"),
    optional("mta_sts.ca_file", Kind::Path, "\"/etc/ssl/certs/ca-certificates.crt\""),
    optional("mta_sts.server", Server, "\"127.0.0.1:8443\""),
    setting("tlsrpt.enabled", Flag, "false"),
    optional("tlsrpt.organization", Text, "\"Example Organization\""),
    optional("tlsrpt.from", Kind::Mailbox, "\"tls-reports@example.org\""),
    optional("tlsrpt.contact", Kind::Mailbox, "\"postmaster@example.org\""),
    setting("tlsrpt.delay", time(0, 12 * 3600 * SECOND), "\"4h\""),
    optional("tlsrpt.ca_file", Kind::Path, "\"/etc/ssl/certs/ca-certificates.crt\""),
    setting("events.to", Kind::Target, "\"stderr\""),
    setting("events.connections", Flag, "false"),
    setting("events.logins", Flag, "true"),
    setting("events.messages", Flag, "true"),
    setting("events.deliveries", Flag, "true"),
    setting("events.administration", Flag, "true"),
    setting("events.storage", Flag, "true"),
    setting("events.limits", Flag, "true"),
];

/// Sections that may be there several times: lists of tables, `[[route]]`.
const LISTS: &[&str] = &["domain_quota", "route", "site"];

pub const SHARDS_MAX: u16 = 1024;
pub const PARTITIONS_MAX: u16 = 4096;

/// Checks what `text` sets. `path` is only for messages.
///
/// # Errors
/// All that is wrong; of a file that is not valid TOML, the first place.
pub(super) fn check(path: &Path, text: &str) -> Result<(), ConfigProblems> {
    let document = DeTable::parse(text).map_err(|error| not_toml(path, text, &error))?;
    let mut wrongs = Vec::new();
    for (key, value) in document.get_ref() {
        look_at(text, key, value, &mut wrongs);
    }
    let at = |span, name: &str, what| ConfigProblem::at(path, text, span, Some(name), what);
    let wrongs = wrongs.into_iter().map(|Wrong { span, name, what }| at(Some(span), &name, what));
    let mut problems: Vec<ConfigProblem> = wrongs.collect();
    for setting in SETTINGS.iter().filter(|setting| setting.need == Need::Required) {
        let (section, key) = setting.parts();
        let what = || format!("missing; {}", setting.expected());
        match section {
            None if document.get_ref().contains_key(key) => {}
            None => problems.push(at(None, setting.name, what())),
            Some(section) => {
                let found = document.get_ref().get(section).map(tables).unwrap_or_default();
                let without = found.into_iter().filter(|table| {
                    table.get_ref().as_table().is_some_and(|table| !table.contains_key(key))
                });
                problems.extend(without.map(|it| at(Some(it.span()), setting.name, what())));
            }
        }
    }
    if let Some(group) = document.get_ref().get("group")
        && !document.get_ref().contains_key("user")
    {
        let what = "has no effect without user: set that too, e.g. user = \"ringmail\"";
        problems.push(at(Some(group.span()), "group", what.to_owned()));
    }
    ConfigProblems::of(problems)
}

/// The span of an item of the list `section.key`; `None` if `text` does not set it.
pub(super) fn item_span(text: &str, name: &str, index: usize) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let (section, key) = name.split_once('.')?;
    let list = document.get_ref().get(section)?.get_ref().as_table()?.get(key)?;
    Some(list.get_ref().as_array()?.get(index)?.span())
}

/// The span of the value of `section.key`; `None` if `text` does not set it.
pub(super) fn value_span(text: &str, name: &str) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let (section, key) = name.split_once('.')?;
    Some(document.get_ref().get(section)?.get_ref().as_table()?.get(key)?.span())
}

/// The line of the value of each `section.key` that `text` sets.
pub(super) fn value_lines(text: &str) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    let Ok(document) = DeTable::parse(text) else { return lines };
    for (section, value) in document.get_ref() {
        let Some(table) = value.get_ref().as_table() else { continue };
        for (key, value) in table {
            let name = format!("{}.{}", section.get_ref(), key.get_ref());
            lines.insert(name, line_of(text, value.span().start));
        }
    }
    lines
}

/// The line of each item of the list `section.key`; none if `text` does not set it.
pub(super) fn item_lines(text: &str, name: &str) -> Vec<usize> {
    let lines = || {
        let document = DeTable::parse(text).ok()?;
        let (section, key) = name.split_once('.')?;
        let value = document.get_ref().get(section)?.get_ref().as_table()?.get(key)?;
        let items = value.get_ref().as_array()?.iter();
        Some(items.map(|item| line_of(text, item.span().start)).collect())
    };
    lines().unwrap_or_default()
}

/// The span of `key` in a table of the list `name`, or of the table itself.
pub(super) fn table_span(
    text: &str,
    name: &str,
    index: usize,
    key: Option<&str>,
) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let table = document.get_ref().get(name)?.get_ref().as_array()?.get(index)?;
    let value = key.and_then(|key| table.get_ref().as_table()?.get(key));
    Some(value.map_or(table.span(), Spanned::span))
}

/// The tables of a section: one, or those of a list.
fn tables<'a, 'b>(value: &'b Value<'a>) -> Vec<&'b Value<'a>> {
    match value.get_ref().as_array() {
        Some(list) => list.iter().collect(),
        None => vec![value],
    }
}

struct Wrong {
    span: Range<usize>,
    /// The name of the setting, as in the file.
    name: String,
    what: String,
}

type Key<'a> = Spanned<DeString<'a>>;
type Value<'a> = Spanned<DeValue<'a>>;

/// A key of the document's top level.
fn look_at(text: &str, key: &Key<'_>, value: &Value<'_>, wrongs: &mut Vec<Wrong>) {
    let name = key.get_ref();
    let is_section = sections().any(|section| section == name);
    if LISTS.contains(&name.as_ref()) {
        let list = value.get_ref().as_array();
        let all = list.is_some_and(|list| list.iter().all(|item| item.get_ref().is_table()));
        if !all {
            let what =
                format!("{}; expected a list of tables: [[{name}]]", found(text, value.span()));
            return wrongs.push(Wrong { span: value.span(), name: name.to_string(), what });
        }
        for table in tables(value) {
            for (key, value) in table.get_ref().as_table().into_iter().flatten() {
                look_at_setting(text, &format!("{name}.{}", key.get_ref()), key, value, wrongs);
            }
        }
        return;
    }
    match value.get_ref().as_table() {
        Some(table) if is_section => {
            for (key, value) in table {
                look_at_setting(text, &format!("{name}.{}", key.get_ref()), key, value, wrongs);
            }
        }
        None if is_section => {
            let what = format!("{}; expected a section: [{name}]", found(text, value.span()));
            wrongs.push(Wrong { span: value.span(), name: name.to_string(), what });
        }
        _ => look_at_setting(text, name, key, value, wrongs),
    }
}

fn look_at_setting(
    text: &str,
    name: &str,
    key: &Key<'_>,
    value: &Value<'_>,
    wrongs: &mut Vec<Wrong>,
) {
    let wrong = |span, what| Wrong { span, name: name.to_owned(), what };
    match SETTINGS.iter().find(|setting| setting.name == name) {
        None => wrongs.push(wrong(key.span(), unknown(name, value.get_ref().is_table()))),
        Some(setting) => {
            if let Err(span) = setting.kind.take(value) {
                let what = format!("{}; {}", found(text, span.clone()), setting.expected());
                wrongs.push(wrong(span, what));
            }
        }
    }
}

/// What a file says of some settings, with the defaults of those that it does not name. `None`: no
/// value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Said(Vec<(&'static str, Option<String>)>);

/// Passwords are among the values.
impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there = self.0.iter().filter(|(_, value)| value.is_some());
        f.debug_list().entries(there.map(|(name, _)| name)).finish()
    }
}

impl Said {
    /// Of the settings that a reload leaves as they are, or of those that it changes, in a text
    /// that [`check`] found to be right.
    pub(super) fn of(text: &str, reloads: bool) -> Said {
        let Ok(document) = DeTable::parse(text) else { return Said::default() };
        let said = |setting: &Setting| {
            let (section, key) = setting.parts();
            let Some(section) = section else {
                return Some(setting.kind.said(document.get_ref().get(key)?));
            };
            let all = tables(document.get_ref().get(section)?).into_iter().enumerate();
            let values = all.filter_map(|(index, table)| {
                let value = setting.kind.said(table.get_ref().as_table()?.get(key)?);
                // Of the tables of a list, which one says it.
                Some(if index == 0 { value } else { format!("\n{index} {value}") })
            });
            let values: Vec<String> = values.collect();
            (!values.is_empty()).then(|| values.concat())
        };
        let default = |setting: &Setting| {
            let line = format!("value = {}", setting.default()?);
            Some(setting.kind.said(DeTable::parse(&line).ok()?.get_ref().get("value")?))
        };
        let meant = SETTINGS.iter().filter(|setting| setting.reloads == reloads);
        let value = |setting: &Setting| {
            // Of an optional list, none and an empty one are the same.
            said(setting).or_else(|| default(setting)).filter(|value| !value.is_empty())
        };
        Said(meant.map(|setting| (setting.name, value(setting))).collect())
    }

    /// The settings that are not as in `other`.
    pub fn changed(&self, other: &Said) -> Vec<&'static str> {
        let pairs = self.0.iter().zip(&other.0);
        pairs.filter(|(one, two)| one != two).map(|((name, _), _)| *name).collect()
    }
}

impl Setting {
    const fn reloaded(self) -> Setting {
        Setting { reloads: true, ..self }
    }

    /// The section, if there is one, and the key.
    fn parts(&self) -> (Option<&'static str>, &'static str) {
        match self.name.split_once('.') {
            Some((section, key)) => (Some(section), key),
            None => (None, self.name),
        }
    }

    /// Its value if the file does not set it.
    pub fn default(&self) -> Option<&'static str> {
        (self.need == Need::Default).then_some(self.example)
    }

    /// The allowed values, in words.
    pub fn wants(&self) -> String {
        self.kind.wants()
    }

    fn expected(&self) -> String {
        let (_, key) = self.parts();
        format!("expected {}, e.g. {key} = {}", self.wants(), self.example)
    }
}

impl Kind {
    /// The part of `value` that is not allowed, if there is one.
    fn take(self, value: &Value<'_>) -> Result<(), Range<usize>> {
        let amount =
            |amount: Option<u64>, bounds: Bounds| amount.is_some_and(|amount| bounds.allow(amount));
        let text = value.get_ref().as_str();
        let fits = match self {
            HostName => text.is_some_and(is_domain),
            HostNames => return each(value, true, is_domain),
            Addresses => return each(value, false, |text| text.parse::<SocketAddr>().is_ok()),
            Servers => return each(value, false, |text| server_address(text).is_some()),
            Networks => return each(value, false, |text| text.parse::<Network>().is_ok()),
            RouteDomains => return each(value, true, is_route_domain),
            Mailboxes => return each(value, false, is_address),
            Kind::Mailbox => text.is_some_and(|text| text.is_ascii() && is_address(text)),
            Rewrites => {
                return each(value, false, |text| {
                    text.split_once('=').is_some_and(|(old, new)| is_domain(old) && is_domain(new))
                });
            }
            Kind::Url => text.is_some_and(|text| https_url(text).is_some()),
            Masters => return each(value, false, |text| Master::parse(text).is_some()),
            Host => text.is_some_and(|text| host_and_port(text).is_some() || is_socket(text)),
            Text => text.is_some_and(is_reply_text),
            Separators => text.is_some_and(is_separators),
            Kind::Path | Name => text.is_some_and(|text| !text.is_empty()),
            // A misspelled name must not become a file in some folder.
            Kind::Target => text.is_some_and(|text| {
                text.contains('/') || !matches!(EventTarget::named(text), EventTarget::File(_))
            }),
            Server => text.is_some_and(|text| text.parse::<SocketAddr>().is_ok()),
            Flag => value.get_ref().is_bool(),
            OneOf(words) => text.is_some_and(|text| words.contains(&text)),
            Kind::Count(bounds) => amount(whole(value), bounds),
            Kind::Size(bounds) => amount(octets(value), bounds),
            Kind::Time(bounds) => amount(microseconds(value), bounds),
            Kind::Times(bounds) => {
                return each(value, true, |text| amount(time_of(text), bounds));
            }
            Kind::Hosts => return each(value, false, |text| text.parse::<IpAddr>().is_ok()),
            Kind::SiteNames => {
                return each(value, true, |text| {
                    is_domain(text.strip_prefix("*.").unwrap_or(text))
                });
            }
        };
        if fits { Ok(()) } else { Err(value.span()) }
    }

    /// A value that is allowed, so that equal values give equal texts: 1024 is "1KiB".
    fn said(self, value: &Value<'_>) -> String {
        let amount = match self {
            Kind::Count(_) => whole(value),
            Kind::Size(_) => octets(value),
            Kind::Time(_) => microseconds(value),
            _ => None,
        };
        match (amount, value.get_ref()) {
            (Some(amount), _) => amount.to_string(),
            (None, DeValue::String(text)) => text.to_string(),
            (None, DeValue::Boolean(flag)) => flag.to_string(),
            (None, DeValue::Array(items)) => {
                items.iter().map(|item| self.said(item) + "\n").collect()
            }
            (None, _) => String::new(),
        }
    }

    fn wants(self) -> String {
        let between = |what: &str, bounds: Bounds, spell: fn(u64) -> String| {
            let mut text = format!("{what} from {} to {}", spell(bounds.least), spell(bounds.most));
            if let Some(zero) = bounds.zero {
                text.push_str(&format!(", or 0 ({zero})"));
            }
            text
        };
        match self {
            HostName => "a host name".to_owned(),
            HostNames => "a list of domain names, at least one".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::Target => {
                "\"stderr\", \"stdout\", \"journal\" or a path with a / in it".to_owned()
            }
            Name => "a name".to_owned(),
            Flag => "true or false".to_owned(),
            Addresses => "a list of addresses with ports, or [] for none".to_owned(),
            Server => "an address with a port".to_owned(),
            Servers => {
                "a list of addresses, with or without a port, as in [\"127.0.0.1:53\"]".to_owned()
            }
            Networks => "a list of addresses and networks (address/bits)".to_owned(),
            RouteDomains => {
                "a list of domains, at least one; .domain for those below it, * for all others"
                    .to_owned()
            }
            Host => "a host name or address, with or without :port, or unix:/path".to_owned(),
            Text => "a text of printable ASCII".to_owned(),
            Mailboxes => "a list of mail addresses".to_owned(),
            Kind::Mailbox => "a mail address".to_owned(),
            Separators => "a text of characters from + - _ = # ~, or \"\" for none".to_owned(),
            Rewrites => "a list of pairs \"old=new\" of domains".to_owned(),
            Kind::Url => "an https URL that names a host".to_owned(),
            Masters => {
                "a list of \"master=whom\", whom: an address, @domain, or * for all".to_owned()
            }
            OneOf(words) => {
                words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
            }
            Kind::Count(bounds) => between("a whole number", bounds, |count| count.to_string()),
            Kind::Size(bounds) => between("a size", bounds, spell_size),
            Kind::Time(bounds) => between("a time", bounds, |time| {
                humantime::format_duration(Duration::from_micros(time)).to_string()
            }),
            Kind::Times(bounds) => {
                let one = Kind::Time(bounds).wants();
                format!("a list of times, each {one}, at least one")
            }
            Kind::Hosts => "a list of addresses without ports".to_owned(),
            Kind::SiteNames => {
                "a list of domains and hosts, at least one; *.domain for those below".to_owned()
            }
        }
    }
}

/// The address of a DNS server; port 53 unless `text` has one.
pub(super) fn server_address(text: &str) -> Option<SocketAddr> {
    let with_port = || Some(SocketAddr::new(text.parse().ok()?, 53));
    text.parse().ok().or_else(with_port)
}

/// A list whose every item `fits`; otherwise the span of the error: an item, or the value.
fn each(
    value: &Value<'_>,
    at_least_one: bool,
    fits: impl Fn(&str) -> bool,
) -> Result<(), Range<usize>> {
    let list = value.get_ref().as_array().ok_or(value.span())?;
    if at_least_one && list.is_empty() {
        return Err(value.span());
    }
    match list.iter().find(|item| !item.get_ref().as_str().is_some_and(&fits)) {
        Some(item) => Err(item.span()),
        None => Ok(()),
    }
}

fn whole(value: &Value<'_>) -> Option<u64> {
    let integer = value.get_ref().as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// "64MiB", or a number of octets.
fn octets(value: &Value<'_>) -> Option<u64> {
    match value.get_ref().as_str() {
        Some(text) => text.parse().ok().map(|ByteSize(octets)| octets),
        None => whole(value),
    }
}

/// "1m 30s".
fn microseconds(value: &Value<'_>) -> Option<u64> {
    time_of(value.get_ref().as_str()?)
}

fn time_of(text: &str) -> Option<u64> {
    let time = humantime::parse_duration(text).ok()?;
    Some(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// As a file would spell it: 65536 is 64KiB.
fn spell_size(octets: u64) -> String {
    let units = [(50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    units
        .into_iter()
        .find(|(bits, _)| octets != 0 && octets.trailing_zeros() >= *bits)
        .map_or(format!("{octets}B"), |(bits, unit)| format!("{}{unit}", octets >> bits))
}

/// Longest excerpt of the file in a message.
const FOUND_MAX: usize = 60;

fn found(text: &str, span: Range<usize>) -> String {
    let piece = text.get(span).unwrap_or_default();
    let short: String = piece.lines().next().unwrap_or_default().chars().take(FOUND_MAX).collect();
    let more = if short.len() < piece.len() { " ..." } else { "" };
    format!("found {short}{more}")
}

/// All sections, each once.
fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = None;
    SETTINGS.iter().filter_map(|setting| setting.parts().0).filter(move |section| {
        let is_new = last != Some(*section);
        last = Some(*section);
        is_new
    })
}

/// How a section begins.
fn header(section: &str) -> String {
    match LISTS.contains(&section) {
        true => format!("[[{section}]]"),
        false => format!("[{section}]"),
    }
}

/// Names of settings that differ in a letter or two, or of which one is a part of the other.
fn is_similar(one: &str, other: &str) -> bool {
    let has_all_words = |long: &str, short: &str| {
        short.split('_').all(|word| long.split('_').any(|other| other == word))
    };
    let begins = |long: &str, short: &str| short.len() > 2 && long.starts_with(short);
    has_all_words(one, other)
        || has_all_words(other, one)
        || begins(one, other)
        || begins(other, one)
        || edits(one, other) <= (one.len().max(other.len()) / 4).max(1)
}

/// How many letters must be changed, added or removed to make one name of the other (Levenshtein).
fn edits(from: &str, to: &str) -> usize {
    // To make the first letters of `to`, none, one and so on, of what was seen of `from`.
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (seen, letter) in from.chars().enumerate() {
        let mut last = seen + 1;
        let mut next = vec![last];
        for (above, wanted) in row.windows(2).zip(to.chars()) {
            let &[replaced, removed] = above else { continue };
            last = (replaced + usize::from(letter != wanted)).min(removed + 1).min(last + 1);
            next.push(last);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// The error for a name that is not a setting. It names the settings of its section, the similar
/// ones first. Another section is named instead if the setting was probably meant for it: the
/// section has no similar setting, one or two others have one of this name, and that is hardly
/// chance, as the name has several words or a section's header is missing or too early.
fn unknown(name: &str, is_table: bool) -> String {
    let (section, key) = match name.split_once('.') {
        Some((section, key)) => (Some(section), key),
        None => (None, name),
    };
    if section.is_none() && is_table {
        let sections: Vec<String> = sections().map(header).collect();
        return format!("no such section; the sections are {}", sections.join(", "));
    }
    let own = SETTINGS.iter().map(Setting::parts).filter(|(of, _)| *of == section);
    let (mut similar, others): (Vec<&str>, Vec<&str>) =
        own.map(|(_, own)| own).partition(|own| is_similar(key, own));
    let places = SETTINGS.iter().map(Setting::parts).filter(|(_, other)| *other == key);
    let places: Vec<Option<&str>> = places.map(|(place, _)| place).collect();
    let elsewhere: Vec<String> = places
        .iter()
        .filter(|place| key.contains('_') || section.is_none() || place.is_none())
        .map(|place| match place {
            Some(place) => format!("in {}", header(place)),
            None => "above the first section".to_owned(),
        })
        .collect();
    if similar.is_empty() && !elsewhere.is_empty() && places.len() <= 2 {
        return format!("no such setting here; it belongs {}", elsewhere.join(" or "));
    }
    let whose = match section {
        Some(section) => format!("{} has", header(section)),
        None => "the settings outside sections are".to_owned(),
    };
    similar.sort_by_key(|own| edits(key, own));
    similar.extend(others);
    format!("no such setting; {whose} {}", similar.join(", "))
}

/// The error for a file that is not valid TOML: the line, and an example if it belongs to a
/// setting.
fn not_toml(path: &Path, text: &str, error: &toml::de::Error) -> ConfigProblem {
    let message = error.message().trim_end();
    let name = error.span().and_then(|span| name_at(text, span.start));
    let setting = SETTINGS.iter().find(|setting| Some(setting.name) == name.as_deref());
    let what = match setting {
        Some(_) if message == "duplicate key" => "set a second time".to_owned(),
        // With the example at hand, what the parser expected adds nothing.
        Some(setting) => {
            let message = message.split(", expected").next().unwrap_or(message);
            format!("{message}; {}", setting.expected())
        }
        None => message.to_owned(),
    };
    ConfigProblem::at(path, text, error.span(), name.as_deref(), what)
}

/// `section.key` of the line at `start`.
fn name_at(text: &str, start: usize) -> Option<String> {
    let before = text.get(..start.min(text.len()))?;
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let (above, line) = (text.get(..line_start)?, text.get(line_start..)?.lines().next()?);
    let (key, _) = line.split_once('=')?;
    let header = |line: &str| {
        Some(line.trim().strip_prefix('[')?.split_once(']')?.0.trim_matches([' ', '[']).to_owned())
    };
    Some(match above.lines().rev().find_map(header) {
        Some(section) => format!("{section}.{}", key.trim()),
        None => key.trim().to_owned(),
    })
}

/// `example.org`, `.example.org` or `*`.
fn is_route_domain(text: &str) -> bool {
    text == "*" || is_domain(text.strip_prefix('.').unwrap_or(text))
}

/// Characters that a name does not need, so that no address becomes ambiguous.
fn is_separators(text: &str) -> bool {
    text.len() <= 8 && text.chars().all(|c| "+-_=#~".contains(c))
}

/// `name`, `name:25`, `192.0.2.1:25` or `[2001:db8::1]:25`: the host without brackets, and the
/// port.
pub(super) fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            match after {
                "" => (host, None),
                _ => (host, Some(after.strip_prefix(':')?)),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    (is_domain(host) || host.parse::<std::net::IpAddr>().is_ok()).then_some((host, port))
}

/// The absolute path of a socket, which the kernel limits (unix(7)), behind `unix:`.
fn is_socket(text: &str) -> bool {
    const PATH_OCTETS_MAX: usize = 107;
    crate::directory::socket_path(text).is_some_and(|path| {
        path.is_absolute()
            && path.as_os_str().len() <= PATH_OCTETS_MAX
            && !text.contains(char::is_control)
    })
}

/// RFC 1123 host name: labels of letters, digits and hyphens, at most 255 octets.
fn is_domain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::{super::Settings, *};

    const REQUIRED: &[&str] = &[
        "hostname = \"mx.example.org\"",
        "domains = [\"example.org\"]",
        "data_dir = \"mail\"",
        "listen = { submissions = [], pop3s = [], imaps = [] }",
    ];

    fn problem(text: &str) -> String {
        match Settings::parse(Path::new("t.toml"), text) {
            Ok(_) => String::new(),
            Err(problem) => problem.to_string(),
        }
    }

    /// (text after four lines with the required settings, expected error; empty if it is valid)
    #[rustfmt::skip]
    const CASES: &[(&str, &str)] = &[
        ("", ""),
        ("smtp.message_size_max = \"10MiB\"", ""),
        ("smtp.message_size_max = 1_000_000", ""),
        ("[imap]\nidle_timeout = \"1h 30m\"", ""),
        ("[runtime]\ncommit_gather = \"0s\"\nbacklog = 0x1000", ""),
        ("[limits]\nallow = []\nstrangers_per_address = 0", ""),
        ("[authentication]\ntrusted_networks = [\"192.0.2.0/24\", \"2001:db8::7\"]", ""),

        // Wrong type.
        ("user = 3", "5: user: found 3; expected a name, e.g. user = \"ringmail\""),
        ("users_file = false",
         "5: users_file: found false; expected a path, e.g. users_file = \"/etc/ringmail/users\""),
        ("[process]\ncore_dumps = \"no\"",
         "6: process.core_dumps: found \"no\"; expected true or false, e.g. core_dumps = false"),
        ("[runtime]\nshards = \"x\"",
         "6: runtime.shards: found \"x\"; expected a whole number from 1 to 1024, or 0 (one for each \
          core), e.g. shards = 0"),
        ("[pop3]\nidle_timeout = 600",
         "6: pop3.idle_timeout: found 600; expected a time from 1s to 7days, e.g. idle_timeout = \
          \"10m\""),
        ("[store]\nsegment_size = 1.5",
         "6: store.segment_size: found 1.5; expected a size from 1MiB to 4GiB, e.g. segment_size = \
          \"64MiB\""),
        ("[limits]\nallow = \"10.0.0.0/8\"",
         "6: limits.allow: found \"10.0.0.0/8\"; expected a list of addresses and networks \
          (address/bits), e.g. allow = [\"127.0.0.0/8\", \"::1\"]"),
        ("[[store]]\npartitions = 3", "5: store: found [[store]]; expected a section: [store]"),
        ("store = 3", "5: store: found 3; expected a section: [store]"),
        ("[store.partitions]\nx = 1",
         "5: store.partitions: found [store.partitions]; expected a whole number from 1 to 4096, or 0 \
          (one for each shard), e.g. partitions = 0"),

        // Right type, invalid value.
        ("[imap]\nidle_timeout = \"soon\"",
         "6: imap.idle_timeout: found \"soon\"; expected a time from 1s to 7days, e.g. idle_timeout = \
          \"30m\""),
        ("[imap]\nappend_size_max = \"5 parsecs\"",
         "6: imap.append_size_max: found \"5 parsecs\"; expected a size from 1KiB to 2GiB, e.g. \
          append_size_max = \"50MiB\""),
        ("[store]\ncompression = \"gzip\"",
         "6: store.compression: found \"gzip\"; expected \"zstd\" or \"off\", e.g. compression = \
          \"zstd\""),
        ("users_file = \"\"",
         "5: users_file: found \"\"; expected a path, e.g. users_file = \"/etc/ringmail/users\""),
        ("[limits]\nallow = [\n  \"::/0\",\n  \"10.0.0.0/99\",\n]",
         "8: limits.allow: found \"10.0.0.0/99\"; expected a list of addresses and networks"),

        // Too small and too large.
        ("[authentication]\nfree_failures = -1",
         "6: authentication.free_failures: found -1; expected a whole number from 1 to 100, e.g. \
          free_failures = 5"),
        ("[store]\nreserve = \"8MiB\"\nwrite_buffer = \"0B\"",
         "7: store.write_buffer: found \"0B\"; expected a size from 256KiB to 1PiB, e.g. write_buffer = \
          \"16MiB\""),
        ("[store]\ngarbage_share = 95",
         "6: store.garbage_share: found 95; expected a whole number from 10 to 90, or 0 (never), e.g. \
          garbage_share = 30"),
        ("[runtime]\ncommit_gather = \"1h\"",
         "6: runtime.commit_gather: found \"1h\"; expected a time from 0s to 100ms, e.g. commit_gather \
          = \"1500us\""),
        ("[runtime]\nshutdown_timeout = \"500000000000y\"", "6: runtime.shutdown_timeout: found"),

        // Not a setting.
        ("[smtp]\nmessage_size = 3",
         "6: smtp.message_size: no such setting; [smtp] has message_size_max, recipients_max, \
          received_headers_max, bare_newline"),
        ("[smtp]\nidle_timeout = \"1m\"",
         "6: smtp.idle_timeout: no such setting here; it belongs in [pop3] or in [imap]"),
        ("[smtp]\nuser = \"x\"",
         "6: smtp.user: no such setting here; it belongs above the first section"),
        ("shards = 3",
         "5: shards: no such setting here; it belongs in [runtime]"),
        ("colour = 3",
         "5: colour: no such setting; the settings outside sections are hostname, domains, \
          data_dir, users_file, aliases_file, groups_file, user, group"),
        ("[nonsense]\n",
         "5: nonsense: no such section; the sections are [listen], [tls], [process], [runtime], \
          [limits], [store], [intake], [smtp], [pop3], [imap], [quota], [[domain_quota]]"),
        ("[directory]\ntimeout = \"5s\"", "5: directory: no such section; the sections are [listen],"),
        ("group = \"mail\"",
         "5: group: has no effect without user: set that too, e.g. user = \"ringmail\""),

        // Lists of tables.
        ("[[route]]\ndomains = [\"a.test\", \".a.test\", \"*\"]\nto = \"mx\"", ""),
        ("route = [{ domains = [\"a.test\"], to = \"relay\", host = \"[::1]:2525\" }]", ""),
        ("[route]\nto = \"mx\"", "5: route: found [route]; expected a list of tables: [[route]]"),
        ("route = [3]", "5: route: found [3]; expected a list of tables: [[route]]"),
        ("[[route]]\nto = \"mx\"\ndomains = [\"a.test\"]\n[[route]]\nto = \"mx\"",
         "8: route.domains: missing; expected a list of domains, at least one; .domain for those below \
          it, * for all others, e.g. domains = [\"partner.example\", \".partner.example\"]"),
        ("[[route]]\nto = \"nowhere\"",
         "6: route.to: found \"nowhere\"; expected \"local\" or \"mx\" or \"relay\""),
        ("[[route]]\nport = 3", "6: route.port: no such setting; [[route]] has domains, to, host,"),
        ("[[route]]\nhost = \"a:b\"", "6: route.host: found \"a:b\"; expected a host name or address"),
        ("[[route]]\ntls = verified", "6: route.tls: string values must be quoted; expected \"never\""),
        ("host = \"x\"", "5: host: no such setting; the settings outside sections are hostname,"),
        ("[addresses]\nseparators = \"+.\"",
         "6: addresses.separators: found \"+.\"; expected a text of characters from + - _"),
        ("[authentication]\nmasters = [\"a@b.test=*\", \"a@b.test\"]",
         "6: authentication.masters: found \"a@b.test\"; expected a list of \"master=whom\""),
        ("[addresses]\nrewrite_senders = [\"a.test=b.test\", \"c.test\"]",
         "6: addresses.rewrite_senders: found \"c.test\"; expected a list of pairs \"old=new\""),

        // Not TOML. A comment behind the section's name once hid the setting.
        ("[store]  # disk\ncompression = zstd",
         "6: store.compression: string values must be quoted; expected \"zstd\" or \"off\", e.g. \
          compression = \"zstd\""),
        ("[pop3]\nidle_timeout = \"1m\"\nidle_timeout = \"2m\"",
         "7: pop3.idle_timeout: set a second time"),
        ("[store", "5: unclosed table, expected `]`"),
        ("store", "5: key with no value, expected `=`"),

        // Several errors.
        ("[store]\npartitions = 0\nreserve = \"x\"\n[imap]\nx = 3\n[limits]\nallow = 3",
         "7: store.reserve: found \"x\"; expected a size from 0B to 1PiB, e.g. reserve = \"8MiB\""),
    ];

    #[test]
    fn what_is_said() {
        for (text, expected) in CASES {
            let said = problem(&format!("{}\n{text}\n", REQUIRED.join("\n")));
            match expected.is_empty() {
                true => assert_eq!(said, "", "{text}"),
                false => assert!(
                    said.lines().any(|line| line.starts_with(&format!("t.toml:{expected}"))),
                    "{text}\n said: {said}\n not:  t.toml:{expected}"
                ),
            }
        }
    }

    #[test]
    fn unknown_settings_are_explained() {
        const CASES: &[(&str, &str)] = &[
            // Similar ones of the section come first, the nearest before the others.
            ("events.server", "; [events] has to, connections, logins, messages,"),
            ("events.message", "; [events] has messages, to, connections, logins,"),
            ("queue.rate", "; [queue] has rate_per_site, retry, delay_warning,"),
            (
                "queue.connections",
                "; [queue] has connections_per_site, connections_per_shard, retry,",
            ),
            ("store.compresion", "; [store] has compression, partitions, segment_size,"),
            (
                "imap.idle_timout",
                "; [imap] has idle_timeout, append_size_max, append_messages_max, append_octets_max, literals, utf8, message_limit, save_limit, unauthenticate, sessions_per_account, administrators, submitters, url_hosts",
            ),
            ("smtp.size_max", "; [smtp] has message_size_max, recipients_max,"),
            ("domain", "; the settings outside sections are domains, hostname,"),
            // Names of one word are in other sections by chance.
            ("smtp.port", "; [smtp] has message_size_max, recipients_max,"),
            ("imap.timeout", "; [imap] has idle_timeout, append_size_max,"),
            ("pop3.text", "; [pop3] has idle_timeout"),
            // Too many sections have one.
            ("smtp.ca_file", "; [smtp] has message_size_max, recipients_max,"),
            // Those of several words are not, and neither is what a header would mend.
            ("smtp.idle_timeout", " here; it belongs in [pop3] or in [imap]"),
            ("events.trust_ad", " here; it belongs in [dns]"),
            ("smtp.user", " here; it belongs above the first section"),
            ("events.hostname", " here; it belongs above the first section"),
            ("shards", " here; it belongs in [runtime]"),
            ("\u{fc}", "; the settings outside sections are hostname, domains,"),
        ];
        for (name, expected) in CASES {
            let said = unknown(name, false);
            let rest = said.strip_prefix("no such setting").unwrap();
            assert!(rest.starts_with(expected), "{name}: {said}");
        }
    }

    #[test]
    fn edits_are_counted() {
        for (from, to, count) in [
            ("", "", 0),
            ("", "ab", 2),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!((edits(from, to), edits(to, from)), (count, count), "{from} {to}");
        }
    }

    /// In the order of the file; what is missing in it as a whole comes last.
    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let text = "hostname = 3\nuser_file = \"x\"\n[store]\npartitions = 0\nreserve = \"x\"\n\
                    compression = \"gzip\"\n[nonsense]\n[[route]]\nto = \"nowhere\"\n\
                    [tls]\nkey = \"k\"\n[[route]]\ndomains = [\"a.test\", 3]\n";
        let said = problem(text);
        let lines: Vec<&str> =
            said.lines().map(|line| line.split("; ").next().unwrap_or_default()).collect();
        let expected = [
            "t.toml:1: hostname: found 3",
            "t.toml:2: user_file: no such setting",
            "t.toml:5: store.reserve: found \"x\"",
            "t.toml:6: store.compression: found \"gzip\"",
            "t.toml:7: nonsense: no such section",
            "t.toml:8: route.domains: missing",
            "t.toml:9: route.to: found \"nowhere\"",
            "t.toml:10: tls.certificate: missing",
            "t.toml:12: route.to: missing",
            "t.toml:13: route.domains: found 3",
            "t.toml: domains: missing",
            "t.toml: data_dir: missing",
        ];
        assert_eq!(lines, expected, "{said}");
    }

    /// (text after six lines, expected error; empty if it is valid)
    #[rustfmt::skip]
    const ADDRESSES: &[(&str, &str)] = &[
        ("listen.smtp = [\"127.0.0.1:33025\"]\nlisten.pop3 = [\"[::1]:1\", \"127.0.0.1:33025\"]",
         "8: listen.pop3: 127.0.0.1:33025 is also taken by listen.smtp = 127.0.0.1:33025 (line 7); \
          give each service an address or port of its own"),
        ("listen.lmtp = [\"127.0.0.1:33025\"]\nlisten.smtp = [\"0.0.0.0:33025\"]",
         "7: listen.lmtp: 127.0.0.1:33025 is also taken by listen.smtp = 0.0.0.0:33025 (line 8)"),
        ("listen.imap = [\"[::]:1143\"]\nlisten.admin = [\"[::1]:1143\"]",
         "8: listen.admin: [::1]:1143 is also taken by listen.imap = [::]:1143 (line 7)"),
        ("listen.smtp = [\"192.0.2.1:587\"]",
         "7: listen.smtp: 192.0.2.1:587 is also taken by listen.submission = 0.0.0.0:587 (the default)"),
        ("listen.smtp = [\"127.0.0.1:0\", \"0.0.0.0:2525\", \"127.0.0.1:2525\"]\n\
          listen.pop3 = [\"127.0.0.1:0\", \"[::]:2525\"]\n\
          listen.imap = [\"127.0.0.1:1143\"]\nlisten.admin = [\"127.0.0.2:1143\"]", ""),
    ];

    /// Services that would get each other's connections, also those of a default.
    #[test]
    fn an_address_of_two_services() {
        let none = ["listen.submissions = []", "listen.pop3s = []", "listen.imaps = []"];
        let above = [&REQUIRED[..3], &none].concat().join("\n");
        for (text, expected) in ADDRESSES {
            let said = problem(&format!("{above}\n{text}\n"));
            match expected.is_empty() {
                true => assert_eq!(said, "", "{text}"),
                false => assert!(said.starts_with(&format!("t.toml:{expected}")), "{text}: {said}"),
            }
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (left_out, expected) in [
            (0, "hostname: missing; expected a host name, e.g. hostname = \"mail.example.org\""),
            (
                1,
                "domains: missing; expected a list of domain names, at least one, e.g. domains = \
                 [\"example.org\", \"example.net\"]",
            ),
            (2, "data_dir: missing; expected a path, e.g. data_dir = \"/var/lib/ringmail\""),
        ] {
            let mut lines = REQUIRED.to_vec();
            lines.remove(left_out);
            assert_eq!(problem(&lines.join("\n")), format!("t.toml: {expected}"));
        }
        let text = format!("{}\n\n[tls]\ncertificate = \"c.pem\"\n", REQUIRED.join("\n"));
        let expected = "t.toml:6: tls.key: missing; expected a path, e.g. key = \
                        \"/etc/ringmail/privkey.pem\"";
        assert_eq!(problem(&text), expected);
    }

    /// Each setting with each of these values: an error names its line, the value found, and the
    /// example.
    #[test]
    fn every_setting_says_what_it_wants() {
        const VALUES: &[&str] = &[
            "3",
            "-1",
            "0",
            "true",
            "1e3",
            "99999999999999999999",
            "\"\"",
            "\"x y\"",
            "\"-5s\"",
            "\"-5MiB\"",
            "\"99999999999999999999s\"",
            "\"99999999999 GiB\"",
            "\"500000000000y\"",
            "[]",
            "[3]",
            "[\"x y\"]",
            "{}",
            "1979-05-27",
        ];
        for setting in SETTINGS {
            let top: Vec<&str> = REQUIRED
                .iter()
                .filter(|line| !line.starts_with(setting.name) && !line.starts_with("listen"))
                .copied()
                .collect();
            let mut refused = 0;
            for value in VALUES {
                let listen = "listen.submissions = []\nlisten.pop3s = []\nlisten.imaps = []";
                let listen: Vec<&str> =
                    listen.lines().filter(|line| !line.starts_with(setting.name)).collect();
                let lines = [top.join("\n"), listen.join("\n")].join("\n");
                let (section, key) = setting.parts();
                let list = section.filter(|section| LISTS.contains(section));
                let (above, name) = match list {
                    Some(section) => (format!("[[{section}]]\n"), key),
                    None => (String::new(), setting.name),
                };
                let line = 1 + lines.lines().count() + above.lines().count();
                let said = problem(&format!("{lines}\n{above}{name} = {value}\n"));
                let begins = format!("t.toml:{line}: {}: found ", setting.name);
                if let Some(said) = said.lines().find(|said| said.starts_with(&begins)) {
                    refused += 1;
                    let ends = format!(", e.g. {key} = {}", setting.example);
                    assert!(said.ends_with(&ends), "{said}");
                    let item = value.trim_matches(['[', ']']);
                    assert!(said.contains(value) || said.contains(item), "{said}");
                } else {
                    // Accepted, but another setting is missing or depends on it.
                    let other = said.is_empty()
                        || said.contains("missing")
                        || said.contains("without user")
                        || said.contains("without addresses.srs_domain")
                        || said.contains("without addresses.rewrite_senders")
                        || said.contains("needs oauth.issuer")
                        || said.contains("is neither a path nor")
                        || said.contains("need a certificate");
                    assert!(other, "{} = {value}: {said}", setting.name);
                }
            }
            assert!(refused >= 8, "{}: {refused}", setting.name);
        }
    }

    /// A struct's fields, as serde lists them in its error for an unknown field.
    fn fields(section: Option<&str>) -> Vec<String> {
        let mut text = REQUIRED.join("\n");
        match section {
            Some("listen") => text = text.replace("imaps = []", "imaps = [], nonsense = 1"),
            Some(section) => text.push_str(&format!("\n{}\nnonsense = 1\n", header(section))),
            None => text.push_str("\nnonsense = 1\n"),
        }
        let error = toml::from_str::<Settings>(&text).unwrap_err();
        let (_, expected) = error.message().split_once("expected ").unwrap();
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_settings_are_those_that_are_read() {
        let mut read: Vec<String> = fields(None);
        read.retain(|field| !sections().any(|section| section == field));
        for section in sections() {
            read.extend(fields(Some(section)).iter().map(|field| format!("{section}.{field}")));
        }
        let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(read, names);
    }

    #[test]
    fn the_example_file_shows_the_examples_in_this_order() {
        let text = include_str!("../../docs/ringmail.example.toml");
        let mut lines = text.lines();
        for setting in SETTINGS {
            let (_, key) = setting.parts();
            let begins = format!("{key} = ");
            let line = lines.find(|line| line.trim_start_matches('#').starts_with(&begins));
            let line = line.unwrap_or_else(|| panic!("{} is not in the example", setting.name));
            assert!(line.contains(setting.example), "{}: {line}", setting.name);
        }
    }

    /// (text after the required settings, the settings that a reload would not change)
    #[rustfmt::skip]
    const CHANGES: &[(&str, &[&str])] = &[
        ("", &[]),
        ("[queue]\nretry = [\"1m\"]\nidle = \"1s\"\n[[site]]\nnames = [\"a.test\"]\nrate = 3", &[]),
        ("smtp.relay_networks = [\"10.0.0.0/8\"]\naddresses.separators = \"\"\nusers_file = \"u\"",
         &[]),
        ("[[route]]\ndomains = [\"a.test\"]\nto = \"mx\"", &[]),
        ("store.write_buffer = \"32MiB\"", &["store.write_buffer"]),
        // Only spelled in another way.
        ("store.write_buffer = 16777216\npop3.idle_timeout = \"600s\"\nqueue.port = 0x19", &[]),
        ("limits.allow = [ \"127.0.0.0/8\", # here\n \"::1\" ]\nevents.to = 'stderr'", &[]),
        ("smtp.xclient_networks = []", &[]),
        ("limits.allow = [\"127.0.0.0/8\"]", &["limits.allow"]),
        ("limits.allow = []", &["limits.allow"]),
        ("queue = { port = 26, hello = \"out.test\", retry = [\"1m\"] }\ndns.ipv6 = false\nuser = \"u\"",
         &["user", "dns.ipv6", "queue.hello", "queue.port"]),
        ("tls = { certificate = \"c\", key = \"k\" }", &["tls.certificate", "tls.key"]),
    ];

    #[test]
    fn what_needs_a_restart_is_named() {
        let fixed = |text: &str| {
            let text = format!("{}\n{text}\n", REQUIRED.join("\n"));
            Settings::parse(Path::new("t.toml"), &text).unwrap_or_else(|it| panic!("{it}")).fixed
        };
        for (text, expected) in CHANGES {
            assert_eq!(fixed("").changed(&fixed(text)), *expected, "{text}");
            assert_eq!(fixed(text).changed(&fixed("")), *expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_spelled_as_in_the_file() {
        for (octets, spelled) in [(0, "0B"), (1000, "1000B"), (256 * KIB, "256KiB"), (PIB, "1PiB")]
        {
            assert_eq!(spell_size(octets), spelled);
        }
    }
}
