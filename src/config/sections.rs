//! The sections of the file, as they are written there. Defaults come from each module's Options.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use serde::Deserialize;

use crate::{
    control::DnsOptions,
    directory::{GuardOptions, PeerLimits, ScramOffer},
    events::{EventOptions, Kind},
    model::Network,
    protocol::{
        smtp,
        tls_report::{Endpoint, HttpsUrl},
    },
    resolver::ResolverOptions,
    runtime::{client_certificate::CertificateName, clients::ClientLimits, shard::ShardOptions},
    service::{
        ServiceOptions, imap::ImapOptions, intake::IntakeOptions, pop3::Pop3Options,
        quota::QuotaOptions,
    },
    store::{Compression, StoreOptions},
};

/// What the process as a whole may do.
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessSection {
    /// Whether a crash may leave a core file, with keys and mail in it.
    pub core_dumps: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeSection {
    /// Shards (one pinned executor each); 0 means one per core.
    pub shards: u16,
    /// Connections that a shard serves at once; further ones are refused with a reply of the
    /// protocol.
    pub connections_per_shard: usize,
    /// Bytes of connection buffers per shard; a quarter is reserved for authenticated connections.
    pub buffers_per_shard: ByteSize,
    /// How far behind a shard may be before it puts mail off; 0 = no limit.
    #[serde(with = "humantime_serde")]
    pub lag_max: Duration,
    /// Length of the kernel's queue of connections not yet accepted.
    pub backlog: u32,
    /// How long SIGTERM waits for sessions.
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
    /// How long an idle shard spins before it sleeps; trades CPU for latency.
    #[serde(with = "humantime_serde")]
    pub spin_before_park: Duration,
    /// How long a busy shard lets entries gather before it writes and syncs them; an idle one never
    /// waits. 0 = never.
    #[serde(with = "humantime_serde")]
    pub commit_gather: Duration,
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub tls_handshake_timeout: Duration,
}

impl Default for RuntimeSection {
    fn default() -> RuntimeSection {
        let (shard, service) = (ShardOptions::default(), ServiceOptions::default());
        RuntimeSection {
            shards: 0,
            lag_max: service.lag_max,
            connections_per_shard: shard.limits.connections_max,
            buffers_per_shard: size(shard.limits.buffer_bytes_max),
            backlog: 4096,
            shutdown_timeout: Duration::from_secs(10),
            spin_before_park: shard.spin_before_park.unwrap_or_default(),
            commit_gather: shard.commit_gather,
            write_timeout: service.write_timeout,
            tls_handshake_timeout: service.tls_handshake_timeout,
        }
    }
}

/// Limits of one client address (an IPv4 address, an IPv6 /64) and of one network (an IPv4 /24, an
/// IPv6 /48), on all shards together. 0 = no limit.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Addresses and networks that are never limited: our own, and proxies that connect for many
    /// clients.
    pub allow: Vec<String>,
    pub connections_per_address: u32,
    pub connections_per_network: u32,
    /// Connections that are not logged in; on port 25 all connections.
    pub strangers_per_address: u32,
    pub strangers_per_network: u32,
    /// New connections a second.
    pub new_per_address: u32,
    pub new_per_network: u32,
}

impl Default for LimitsSection {
    fn default() -> LimitsSection {
        let ClientLimits { address, network, allow } = ClientLimits::default();
        LimitsSection {
            allow: allow.iter().map(Network::to_string).collect(),
            connections_per_address: address.connections,
            connections_per_network: network.connections,
            strangers_per_address: address.strangers,
            strangers_per_network: network.strangers,
            new_per_address: address.new_per_second,
            new_per_network: network.new_per_second,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// Fixed when the data directory is created; read from there afterwards. 0 = one for
    /// each shard, chosen by measurement: docs/performance.md, "Partitions".
    pub partitions: u16,
    pub segment_size: ByteSize,
    /// Log bytes after which a checkpoint is written; limits what a start replays.
    pub checkpoint_interval: ByteSize,
    /// Account state kept in memory, per partition.
    pub account_budget: ByteSize,
    /// Opened blocks of message cards kept in memory, per partition.
    pub card_budget: ByteSize,
    /// Log bytes waiting to be written before senders wait, per partition.
    pub write_buffer: ByteSize,
    /// Percent of a partition's log that may be garbage before compaction begins; 0 = never.
    pub garbage_share: u8,
    /// Most bytes a second that a partition's compaction reads and writes; 0 = no limit.
    pub compaction_rate: ByteSize,
    pub reserve: ByteSize,
    pub free_space_min: ByteSize,
    #[serde(with = "humantime_serde")]
    pub disk_timeout: Duration,
    pub compression: BodyCompression,
    /// zstd's level: 1 is the fastest, 19 the smallest.
    pub compression_level: i32,
    /// Shorter messages are not compressed.
    pub compression_min: ByteSize,
    pub mailboxes_per_account: usize,
    /// Messages of an account, copies included, and their octets. Each message takes memory.
    pub messages_per_account: u64,
    pub octets_per_account: ByteSize,
}

/// How the store compresses messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyCompression {
    Off,
    Zstd,
}

impl Default for StoreSection {
    fn default() -> StoreSection {
        let (store, zstd) = (StoreOptions::default(), Compression::default());
        StoreSection {
            partitions: 0,
            segment_size: ByteSize(store.segment_size),
            checkpoint_interval: ByteSize(store.checkpoint_interval),
            account_budget: size(store.account_budget),
            card_budget: size(store.card_budget),
            write_buffer: size(store.write_buffer),
            garbage_share: store.garbage_share,
            compaction_rate: ByteSize(store.compaction_rate),
            reserve: ByteSize(store.reserve),
            free_space_min: ByteSize(store.free_space_min),
            disk_timeout: store.disk_timeout,
            // Off in the store's own options, because its tests check the bytes on disk.
            compression: BodyCompression::Zstd,
            compression_level: zstd.level,
            compression_min: size(zstd.body_min),
            mailboxes_per_account: store.mailboxes_per_account,
            messages_per_account: store.holding.messages,
            octets_per_account: ByteSize(store.holding.octets),
        }
    }
}

/// Messages being received, in any protocol: DATA, BDAT, APPEND.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IntakeSection {
    /// Bytes of memory for all of them, per shard; a quarter is reserved for authenticated clients.
    pub memory_per_shard: ByteSize,
    /// How long a client may pause while it sends a message.
    #[serde(with = "humantime_serde")]
    pub silence: Duration,
    /// Minimum octets a second of an incoming message; 0 = any.
    pub rate_min: ByteSize,
    /// How long receiving one message may take in total.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
}

impl Default for IntakeSection {
    fn default() -> IntakeSection {
        let IntakeOptions { memory, silence, rate_min, deadline } = IntakeOptions::default();
        let (memory, rate_min) = (size(memory), ByteSize(rate_min));
        IntakeSection { memory_per_shard: memory, silence, rate_min, deadline }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SmtpSection {
    /// Largest message, announced by SIZE (RFC 1870).
    pub message_size_max: ByteSize,
    pub recipients_max: usize,
    /// Messages that passed through more servers than this are taken for a mail loop.
    pub received_headers_max: usize,
    /// What to do with a bare CR or LF in a message.
    pub bare_newline: BareNewline,
    /// Clients that may send to other domains without a log-in.
    pub relay_networks: Vec<String>,
    /// How VRFY is answered.
    pub vrfy: Vrfy,
    /// Who may use EXPN.
    pub expn: Offer,
    /// Who may use ETRN.
    pub etrn: Offer,
    /// Networks of peers that may use XCLIENT.
    pub xclient_networks: Vec<String>,
    /// Networks of peers that may use XFORWARD.
    pub xforward_networks: Vec<String>,
}

/// `protocol::smtp::Vrfy` as the file spells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vrfy {
    /// 252: nothing is disclosed.
    Unsure,
    /// 502.
    Off,
    /// By the directory.
    Known,
}

impl From<Vrfy> for smtp::Vrfy {
    fn from(setting: Vrfy) -> smtp::Vrfy {
        match setting {
            Vrfy::Unsure => smtp::Vrfy::Unsure,
            Vrfy::Off => smtp::Vrfy::Off,
            Vrfy::Known => smtp::Vrfy::Known,
        }
    }
}

/// `protocol::smtp::Offer` as the file spells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offer {
    /// 502.
    Off,
    /// Users who logged in, and `smtp.relay_networks`.
    Trusted,
    All,
}

impl From<Offer> for smtp::Offer {
    fn from(setting: Offer) -> smtp::Offer {
        match setting {
            Offer::Off => smtp::Offer::Nobody,
            Offer::Trusted => smtp::Offer::Trusted,
            Offer::All => smtp::Offer::Everybody,
        }
    }
}

/// `protocol::smtp::BareNewline` as the file spells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BareNewline {
    /// The message is refused, so that no other server can read a different end of message than
    /// ours.
    Refuse,
    /// It becomes CRLF, for old clients of our own.
    Normalise,
}

impl From<smtp::BareNewline> for BareNewline {
    fn from(option: smtp::BareNewline) -> BareNewline {
        match option {
            smtp::BareNewline::Refuse => BareNewline::Refuse,
            smtp::BareNewline::Normalise => BareNewline::Normalise,
        }
    }
}

impl From<BareNewline> for smtp::BareNewline {
    fn from(setting: BareNewline) -> smtp::BareNewline {
        match setting {
            BareNewline::Refuse => smtp::BareNewline::Refuse,
            BareNewline::Normalise => smtp::BareNewline::Normalise,
        }
    }
}

impl Default for SmtpSection {
    fn default() -> SmtpSection {
        let limits = smtp::Limits::default();
        SmtpSection {
            message_size_max: ByteSize(limits.message_size_max),
            recipients_max: limits.recipients_max,
            received_headers_max: limits.hops_max,
            bare_newline: limits.bare_newline.into(),
            relay_networks: Vec::new(),
            vrfy: Vrfy::Unsure,
            expn: Offer::Off,
            etrn: Offer::Off,
            xclient_networks: Vec::new(),
            xforward_networks: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pop3Section {
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
}

impl Default for Pop3Section {
    fn default() -> Pop3Section {
        Pop3Section { idle_timeout: Pop3Options::default().idle_timeout }
    }
}

/// How much mail an account may have for which nothing else was set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaSection {
    /// 0 is no limit, here and below.
    pub storage: ByteSize,
    pub messages: u64,
    /// In percent.
    pub warn_at: u8,
    pub over: OverQuota,
}

/// How a message for a full account is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverQuota {
    Reject,
    Defer,
}

impl Default for QuotaSection {
    fn default() -> QuotaSection {
        let QuotaOptions { warn_at, .. } = QuotaOptions::default();
        QuotaSection { storage: ByteSize(0), messages: 0, warn_at, over: OverQuota::Reject }
    }
}

/// A table of the list `[[domain_quota]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainQuota {
    pub domains: Vec<String>,
    /// As in `[quota]` unless set.
    #[serde(default)]
    pub storage: Option<ByteSize>,
    #[serde(default)]
    pub messages: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImapSection {
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Largest message that APPEND takes.
    pub append_size_max: ByteSize,
    /// Messages that one APPEND may have.
    pub append_messages_max: u32,
    /// Octets of all of them together.
    pub append_octets_max: ByteSize,
    /// Literals that clients send unasked: LITERAL+ or LITERAL-.
    pub literals: LiteralsSection,
    /// Whether clients may, or must, enable UTF-8.
    pub utf8: Utf8Section,
    /// Messages that one command is carried out on; 0 for any number.
    pub message_limit: u32,
    /// Messages that one COPY or APPEND adds; 0 for any number.
    pub save_limit: u32,
    /// Whether clients may log in to several accounts, one after the other.
    pub unauthenticate: bool,
    /// Sessions of one account at once.
    pub sessions_per_account: u32,
    /// Addresses of the accounts that own the public mailboxes.
    pub administrators: Vec<String>,
    /// Addresses of the accounts by which messages are submitted for others.
    pub submitters: Vec<String>,
    /// Names of the server in URLs, beside `hostname`.
    pub url_hosts: Vec<String>,
}

impl Default for ImapSection {
    fn default() -> ImapSection {
        let defaults = ImapOptions::default();
        ImapSection {
            idle_timeout: defaults.idle_timeout,
            append_size_max: ByteSize(defaults.limits.message),
            append_messages_max: defaults.append_messages_max,
            append_octets_max: ByteSize(defaults.append_octets_max),
            literals: LiteralsSection::Plus,
            utf8: Utf8Section::Accept,
            message_limit: defaults.message_limit,
            save_limit: defaults.save_limit,
            unauthenticate: true,
            sessions_per_account: defaults.sessions_per_account,
            administrators: Vec::new(),
            submitters: Vec::new(),
            url_hosts: Vec::new(),
        }
    }
}

/// Literals that clients may send without being asked (RFC 7888).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LiteralsSection {
    /// Of any size.
    Plus,
    /// Of 4,096 octets.
    Minus,
}

/// Whether clients have to enable UTF-8 (RFC 6855).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Utf8Section {
    /// They may.
    Accept,
    /// They must, before anything that has to do with mailboxes.
    Only,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthenticationSection {
    /// Worker threads that hash passwords; each needs about 19 MiB while hashing.
    pub workers: usize,
    /// Log-ins that may wait for a worker; further ones get a temporary refusal.
    pub queue: usize,
    /// Wrong passwords for an account from a network before its next attempts must wait.
    pub free_failures: u32,
    /// Longest wait between two attempts at an account from a network.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// Wrong passwords a minute from a network, over all accounts.
    pub network_failures: u32,
    /// Delay before a wrong password is answered.
    #[serde(with = "humantime_serde")]
    pub failure_delay: Duration,
    /// Networks that are held to no limit by network, e.g. a webmail server.
    pub trusted_networks: Vec<String>,
    /// What names an account in the certificate of a client.
    pub certificate_name: CertificateWord,
    /// When SCRAM is offered.
    pub scram: ScramWord,
    /// LMTP clients must log in.
    pub lmtp: bool,
    /// Who may act for whom.
    pub masters: Vec<String>,
}

/// Bearer tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OauthSection {
    pub issuer: String,
    pub audience: String,
    /// The claim that names the account.
    pub claim: String,
    /// The issuer's keys: a file or a URL.
    pub keys: Option<String>,
    /// The URL of the issuer that answers questions about tokens.
    pub introspection: Option<String>,
    pub client_id: String,
    pub client_secret_file: Option<PathBuf>,
    /// How long an answer about a token holds at most.
    #[serde(with = "humantime_serde")]
    pub cache: Duration,
    pub ca_file: Option<PathBuf>,
}

impl Default for OauthSection {
    fn default() -> OauthSection {
        OauthSection {
            issuer: String::new(),
            audience: String::new(),
            claim: "email".to_owned(),
            keys: None,
            introspection: None,
            client_id: String::new(),
            client_secret_file: None,
            cache: Duration::from_secs(300),
            ca_file: None,
        }
    }
}

/// `https://host[:port]/...`
pub(super) fn https_url(text: &str) -> Option<HttpsUrl> {
    match Endpoint::parse(text) {
        Some(Endpoint::Https(url)) => Some(url),
        _ => None,
    }
}

#[derive(Clone, Copy, Default, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateWord {
    #[default]
    Email,
    CommonName,
}

#[derive(Clone, Copy, Default, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScramWord {
    #[default]
    WhenAll,
    Always,
    Never,
}

impl From<ScramWord> for ScramOffer {
    fn from(word: ScramWord) -> ScramOffer {
        match word {
            ScramWord::WhenAll => ScramOffer::WhenAll,
            ScramWord::Always => ScramOffer::Always,
            ScramWord::Never => ScramOffer::Never,
        }
    }
}

impl From<CertificateWord> for CertificateName {
    fn from(word: CertificateWord) -> CertificateName {
        match word {
            CertificateWord::Email => CertificateName::Email,
            CertificateWord::CommonName => CertificateName::CommonName,
        }
    }
}

impl Default for AuthenticationSection {
    fn default() -> AuthenticationSection {
        let guard = GuardOptions::default();
        AuthenticationSection {
            workers: 2,
            queue: PeerLimits::default().waiting_max,
            free_failures: guard.free_failures,
            backoff_max: guard.delay_max,
            network_failures: guard.network_failures,
            failure_delay: guard.failure_delay,
            trusted_networks: Vec::new(),
            masters: Vec::new(),
            certificate_name: CertificateWord::default(),
            lmtp: false,
            scram: ScramWord::default(),
        }
    }
}

/// Where and how names of other mail servers are looked up.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsSection {
    /// Addresses, with a port or not; empty: those of /etc/resolv.conf.
    pub servers: Vec<String>,
    /// A demo asks nobody, unless servers are set.
    #[serde(skip)]
    pub(super) demo: bool,
    /// Whether a server's word is enough that an answer is authentic (the AD bit).
    pub trust_ad: bool,
    /// Whether answers are validated here (DNSSEC).
    pub validate: bool,
    /// DNSKEY records; the root's built-in keys unless set.
    pub trust_anchor: Option<PathBuf>,
    /// How long a server has for one try.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How often all servers are tried.
    pub attempts: usize,
    /// How long a query may take in total.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Queries of a shard that may wait.
    pub queue: usize,
    /// Whether hosts are reached by IPv6, too.
    pub ipv6: bool,
    /// Answers that a shard caches; as many again that say that there is no such record.
    pub cache_entries: usize,
    /// Longest time for which an answer is cached.
    #[serde(with = "humantime_serde")]
    pub cache_age_max: Duration,
    /// The same if there is no such record.
    #[serde(with = "humantime_serde")]
    pub cache_age_unknown_max: Duration,
    /// How much longer an answer is used while no server answers.
    #[serde(with = "humantime_serde")]
    pub stale_age: Duration,
}

impl Default for DnsSection {
    fn default() -> DnsSection {
        let (client, resolver) = (DnsOptions::default(), ResolverOptions::default());
        DnsSection {
            servers: Vec::new(),
            demo: false,
            trust_ad: client.trust_ad,
            validate: client.validate,
            trust_anchor: client.trust_anchor,
            timeout: client.timeout,
            attempts: client.attempts,
            deadline: resolver.deadline,
            queue: resolver.queue,
            ipv6: resolver.ipv6,
            cache_entries: resolver.entries,
            cache_age_max: resolver.age_max,
            cache_age_unknown_max: resolver.age_unknown_max,
            stale_age: resolver.stale,
        }
    }
}

/// HTTPS to servers of other domains: for their policies and for reports to them.
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpsSection {
    /// Networks that are reached although they are not of the Internet.
    pub local_networks: Vec<String>,
}

/// Policies of other domains on TLS (RFC 8461).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MtaStsSection {
    /// Whether they are looked for.
    pub check: bool,
    /// PEM; the host's authorities unless set.
    pub ca_file: Option<PathBuf>,
    /// Where all policies are fetched; for tests.
    pub server: Option<SocketAddr>,
}

impl Default for MtaStsSection {
    fn default() -> MtaStsSection {
        MtaStsSection { check: ResolverOptions::default().sts, ca_file: None, server: None }
    }
}

/// Reports to other domains on TLS (RFC 8460).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsReportSection {
    /// Whether sessions are counted and reports sent.
    pub enabled: bool,
    /// Who reports, in words; the host name unless set.
    pub organization: Option<String>,
    /// The sender of reports; postmaster of the first domain unless set.
    pub from: Option<String>,
    /// For questions about them; the sender unless set.
    pub contact: Option<String>,
    /// Reports of a day are sent at random times within this after its end.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// PEM; the host's authorities unless set.
    pub ca_file: Option<PathBuf>,
}

impl Default for TlsReportSection {
    fn default() -> TlsReportSection {
        TlsReportSection {
            enabled: false,
            organization: None,
            from: None,
            contact: None,
            delay: Duration::from_secs(4 * 3600),
            ca_file: None,
        }
    }
}

/// The event log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventsSection {
    /// "stderr", "stdout", "journal", or a file.
    pub to: String,
    pub connections: bool,
    pub logins: bool,
    pub messages: bool,
    pub deliveries: bool,
    pub administration: bool,
    pub storage: bool,
    pub limits: bool,
}

impl Default for EventsSection {
    fn default() -> EventsSection {
        let EventOptions { target, kinds } = EventOptions::default();
        EventsSection {
            to: target.name(),
            connections: kinds.has(Kind::Connections),
            logins: kinds.has(Kind::Logins),
            messages: kinds.has(Kind::Messages),
            deliveries: kinds.has(Kind::Deliveries),
            administration: kinds.has(Kind::Administration),
            storage: kinds.has(Kind::Storage),
            limits: kinds.has(Kind::Limits),
        }
    }
}

fn size(bytes: usize) -> ByteSize {
    ByteSize(bytes as u64)
}
